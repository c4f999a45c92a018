"""Commands as they were spelt once: they work as ever, and say on stderr how they are spelt now."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cro_core import cli
from cro_core.cli.old_spellings import respelt
from cro_core.home import create_home

FAST = ["--programmes", "20"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site whose experiments are short."""
    path = create_home(tmp_path / "site", {"automation": {"test_duration_max_days": 4}}, environ={}).path
    monkeypatch.setenv("CRO_HOME", str(path))
    return path


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("import x.csv --outcomes --goal booked", "outcomes x.csv --goal booked"),
        ("import --outcomes --mapping m.toml x.csv --as-live --replace", "outcomes --mapping m.toml x.csv"),
        ("lab fpr", "lab measure fpr"),
        ("lab power --uplift 0.2 --json", "lab measure power --uplift 0.2 --json"),
        ("lab --programmes 9 coverage", "lab measure --programmes 9 coverage"),
        ("lab --seed 4 targets --only T1", "lab targets --seed 4 --only T1"),
        ("lab --output fpr targets", "lab targets --output fpr"),
        ("lab --output=fpr targets", "lab targets --output=fpr"),
        ("lab --output targets targets", "lab targets --output targets"),
        ("lab --json targets --output power", "lab targets --json --output power"),
        ("lab --profile targets --json coverage", "lab measure --profile targets --json coverage"),
    ],
)
def test_old_spellings_become_new_ones(before: str, now: str) -> None:
    arguments, old, new = respelt(before.split())
    assert arguments == now.split()
    assert old.startswith(f"cro {before.split(maxsplit=1)[0]}")
    assert new.startswith(f"cro {now.split(maxsplit=1)[0]}")


@pytest.mark.parametrize(
    "arguments",
    ["", "--help", "status", "import x.csv --mapping m", "outcomes x.csv", "lab", "lab --help", "lab measure fpr",
     "lab targets --only T1", "lab nothing", "lab --output fpr", "evaluate lab fpr"],
)  # fmt: skip
def test_todays_spellings_stay_as_they_are(arguments: str) -> None:
    assert respelt(arguments.split()) == (arguments.split(), "", "")


@pytest.mark.parametrize("order", [["fpr", *FAST], [*FAST, "fpr"]], ids=["word first", "options first"])
@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
def test_a_measure_as_before(order: list[str], as_json: list[str]) -> None:
    old, new = run("lab", *order, *as_json), run("lab", "measure", "fpr", *FAST, *as_json)
    assert (old.exit_code, old.stdout) == (new.exit_code, new.stdout) == (0, new.stdout)
    assert old.stderr == "hint: `cro lab fpr` is now `cro lab measure fpr`\n"
    assert new.stderr == ""


def test_targets_as_before() -> None:
    old, new = (
        run("lab", *order)
        for order in ([*FAST, "targets", "--only", "T9"], ["targets", *FAST, "--only", "T9"])
    )
    assert (old.exit_code, old.stdout) == (new.exit_code, new.stdout)
    assert "of 4 figures are within their bounds" in new.stdout
    assert (old.stderr, new.stderr) == ("hint: `cro lab ... targets` is now `cro lab targets ...`\n", "")


def test_outcomes_as_before(tmp_path: Path) -> None:
    file = tmp_path / "bookings.csv"
    file.write_text("who,day\nu1,2026-05-01 12:00\n", encoding="utf-8")
    options = [
        "--goal",
        "booked",
        "--visitor-column",
        "who",
        "--time-column",
        "day",
        "--zone",
        "Europe/Paris",
        "--json",
    ]
    old, new = run("import", str(file), "--outcomes", *options), run("outcomes", str(file), *options)
    assert old.exit_code == new.exit_code == 0
    assert json.loads(old.stdout)["unplaced"] == json.loads(new.stdout)["unplaced"]
    assert json.loads(new.stdout)["unplaced"] == {"the visitor is not known here": 1}
    assert (old.stderr, new.stderr) == ("hint: `cro import --outcomes` is now `cro outcomes`\n", "")
