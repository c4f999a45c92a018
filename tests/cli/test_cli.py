"""The command line: every command documented, every answer also as JSON, every failure one clear line."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from helpers.places import ROOT
from typer.main import get_command
from typer.testing import CliRunner

from cro_core import cli
from cro_core.errors import InvalidInput
from cro_core.home import open_home, set_clock


def commands(group: Any, before: str = "") -> dict[str, Any]:
    """Every command by its full name, such as ``lab measure``."""
    found = {}
    for name, command in group.commands.items():
        inner = hasattr(command, "commands")
        found |= commands(command, f"{before}{name} ") if inner else {before + name: command}
    return found


COMMANDS = commands(get_command(cli.app))
SERVERS = {"serve", "dashboard"}
WITHOUT_HOME = {"lab targets"}


def run(*arguments: str, code: int = 0) -> str:
    found = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
    assert found.exit_code == code, found.output
    return found.stdout


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "site"
    monkeypatch.setenv("CRO_HOME", str(path))
    run("init")
    return path


def test_the_commands_people_need_are_there() -> None:
    wanted = {
        "init",
        "demo",
        "serve",
        "import",
        "outcomes",
        "evaluate",
        "orchestrate",
        "train",
        "report",
        "status",
        "config",
    }
    assert wanted | {"generate", "approve", "reject", "rollback", "dashboard"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_an_example(name: str) -> None:
    command = COMMANDS[name]
    assert len(command.help or "") > 20
    assert re.search(rf"Example: .*cro {name}\b", command.epilog or "")
    options = {option for parameter in command.params for option in parameter.opts}
    assert ("--home" in options) == (name not in WITHOUT_HOME)
    assert ("--json" in options) == (name not in SERVERS)
    shown = " ".join(run(*name.split(), "--help").split())
    assert command.epilog.removeprefix("Example: ") in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_stands_in_a_document(name: str) -> None:
    texts = [file.read_text() for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    assert any(re.search(rf"`cro {name}`", text) for text in texts), "run `make docs`"


def test_init_makes_a_home_once(tmp_path: Path) -> None:
    made = run_json("init", "--home", str(tmp_path / "site"))
    assert (tmp_path / "site" / "cro-config.json").is_file()
    assert made["admin_key"].startswith("cro_admin_")
    again = subprocess.run(
        [sys.executable, "-m", "cro_core.cli", "init", "--home", tmp_path / "site"],
        capture_output=True,
        text=True,
    )
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("error: ")
    assert "is a home already" in again.stderr


def test_config_shows_values_and_sources(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRO_AUTOMATION__MAX_CONCURRENT_TESTS", "3")
    shown = run_json("config")["settings"]
    assert shown["automation.max_concurrent_tests"] == {
        "value": 3,
        "source": "CRO_AUTOMATION__MAX_CONCURRENT_TESTS",
    }
    (home / "cro-config.json").write_text('{"smart_traffic_allocation": {"min_traffic_to_loser": 9}}')
    answer = run_json("config")
    assert answer["settings"]["smart_traffic_allocation.min_traffic_to_loser"]["source"] == "file"
    assert answer["settings"]["automation.enabled"]["source"] == "default"
    assert any("17 % more" in warning for warning in answer["warnings"])
    assert "warning: " in run("config")
    monkeypatch.setenv("CRO_STATISTICS__SPENDING_FUNCTION", "pocock")
    said = "pocock needs 22 % more visitors than hwang_shih_decani"
    assert sum(said in warning for warning in run_json("config")["warnings"]) == 1
    assert sum(said in warning for warning in run_json("status")["warnings"]) == 1


def test_generate_evaluate_orchestrate_status(home: Path) -> None:
    set_clock(
        open_home(home, environ={}), datetime(2026, 3, 16, 8, tzinfo=UTC)
    )  # what is found depends on the hour
    made = run_json("generate", "2", "600", "--seed", "3")
    assert len(made["experiments"]) == 2
    first = made["experiments"][0]
    decision = run_json("evaluate", first)
    assert decision["experiment_id"] == first
    assert {"plan", "look", "totals", "comparisons", "srm", "splits", "looks"} <= set(decision["evidence"])
    assert sum(t["units"] for t in decision["evidence"]["totals"]) > 300
    assert "visitors" in run("evaluate", first)
    before = run_json("evaluate", first, "--as-of", "2020-01-01T00:00:00Z")
    assert sum(t["units"] for t in before["evidence"]["totals"]) == 0
    assert run_json("orchestrate", "--dry-run") == []
    cycle = run_json("orchestrate", "--in-process")
    assert cycle["evaluated"] == 2
    state = run_json("status")
    assert {t["test_id"] for t in state["active_tests"]} >= set(made["experiments"])
    assert first in run("status")


def test_generate_follows_its_seed_and_uplift(home: Path) -> None:
    def counts(*options: str) -> list[int]:
        made = run_json("generate", "1", "2000", *options)
        totals = run_json("evaluate", made["experiments"][0])["evidence"]["totals"]
        return [t["conversions"] for t in totals]

    calm = counts("--seed", "3", "--uplift", "0")
    strong = counts("--seed", "4", "--uplift", "2")
    assert strong[1] > 2 * strong[0]
    assert calm[1] < 1.5 * calm[0]


@pytest.mark.parametrize("uplift", ["nan", "inf", "-inf", "-1", "-3", "9.1", "1e300"])
def test_an_uplift_that_cannot_be_planted_is_refused_before_anything_is_made(home: Path, uplift: str) -> None:
    with pytest.raises(InvalidInput, match=r"uplift is .*: give more than -1 and at most 9"):
        run("generate", "1", "20", "--uplift", uplift)
    assert run_json("status")["active_tests"] == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["0", "20"], "experiments"),
        (["101", "20"], "experiments"),
        (["nan", "20"], "experiments"),
        (["1", "0"], "visitors"),
        (["1", "1000001"], "visitors"),
        (["1", "20", "--seed", "-1"], "--seed"),
        (["1", "20", "--seed", "inf"], "--seed"),
        (["1", "20", "--uplift", "much"], "--uplift"),
    ],
)
def test_numbers_of_generate_out_of_range_are_named(home: Path, arguments: list[str], named: str) -> None:
    refused = CliRunner().invoke(cli.app, ["generate", *arguments])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"Invalid value for '{named}'" in refused.stderr
    assert run_json("status")["active_tests"] == []


def test_the_largest_uplift_is_planted(home: Path) -> None:
    made = run_json("generate", "1", "400", "--uplift", "9")
    control, variant = run_json("evaluate", made["experiments"][0])["evidence"]["totals"]
    assert variant["conversions"] > 0.6 * variant["units"] > 5 * control["conversions"]


def test_rollback_lists_what_can_be_undone(home: Path) -> None:
    assert run("rollback", "--list").strip() == "Nothing to undo."
    assert run_json("rollback", "--list") == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["evaluate", "nothing"], "experiment 'nothing' does not exist here"),
        (["evaluate", "nothing", "--as-of", "yesterday"], "write it like 2026-03-01T09:30:00Z"),
        (["approve", "ship:nothing"], "does not exist"),
        (["rollback"], "no automatic change to undo"),
        (["status", "--home", "nowhere"], "run `cro init"),
        (["import", "nothing.csv", "--mapping", "ab_data"], "nothing.csv"),
    ],
)
def test_failures_are_one_clear_line(
    home: Path,
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [sys.executable, "-m", "cro_core.cli", *arguments]
    plain = subprocess.run(command, capture_output=True, text=True, cwd=home)
    assert plain.returncode == 2
    assert plain.stderr.startswith("error: ")
    assert says in plain.stderr
    assert "Traceback" not in plain.stderr
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["cro", *arguments, "--json"])
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert says in json.loads(capsys.readouterr().out)["error"]["message"]


def test_busy_has_an_exit_code_of_its_own(home: Path) -> None:
    from cro_core.home import open_home

    with open_home(home).lock("cycle"):
        command = [sys.executable, "-m", "cro_core.cli", "orchestrate", "--in-process"]
        found = subprocess.run(command, capture_output=True, text=True)
    assert (found.returncode, "nothing was done" in found.stderr) == (75, True)


def test_starting_is_light() -> None:
    """Help must not wait for the libraries of statistics and notebooks."""
    program = "import sys, cro_core.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"scipy", "pandas", "sklearn", "papermill", "flask", "PIL"} & set(loaded)
