"""``cro lab measure`` and ``targets``: looks simulated under the settings; every option counts, every refusal is named."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cro_core import cli, lab
from cro_core.cli.lab import LAB_SEED
from cro_core.config import resolve
from cro_core.errors import CroError, InvalidInput
from cro_core.lab.site import USUAL
from cro_core.lab.targets import Target, table
from cro_core.planning.plans import new_plan
from cro_core.statistics.sample_size import sample_size
from cro_core.workflows import simulate as workflow
from cro_core.workflows.simulate import Asked, simulate

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FAST = ("--programmes", "60", "--base-rate", "0.1")


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No home, and no settings from outside."""
    for name in [name for name in os.environ if name.startswith("CRO_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four days: a quarter of the looks."""
    monkeypatch.setenv("CRO_AUTOMATION__TEST_DURATION_MAX_DAYS", "4")


def call(*arguments: str, code: int = 0) -> str:
    found = CliRunner().invoke(cli.app, ["lab", *arguments], catch_exceptions=False)
    assert found.exit_code == code, found.output
    return found.stdout


def call_json(*arguments: str, code: int = 0) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(call(*arguments, "--json", code=code), parse_constant=refuse)


def under(
    settings: dict[str, Any], what: Any = "fpr", asked: Asked | None = None, programmes: int = 40
) -> Any:
    config = resolve({key: dict(part) for key, part in settings.items()}, {}).config
    return simulate(config, what, asked or Asked(), programmes, np.random.default_rng(5))


# -- the settings -------------------------------------------------------------------------------------------


def test_without_a_home_the_shipped_settings_are_simulated() -> None:
    setup = call_json("measure", "fpr", "--programmes", "20")["setup"]
    assert (setup["alpha"], setup["mde"], setup["min_uplift"], setup["base_rate"]) == (0.05, 0.1, 0.1, 0.03)
    assert (setup["days"], setup["looks"], setup["whole_weeks"]) == (14, 14, True)  # shares move by the day
    assert setup["visitors"] == setup["planned_visitors"] == 2 * round(1.37 * sample_size(0.03, 0.1))
    assert (setup["adaptive"], setup["floor"], setup["futility"]) == (True, 0.1, True)
    assert (setup["spending"], setup["spending_parameter"]) == ("hwang_shih_decani", -4)


def test_a_home_gives_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "cro-config.json").write_text('{"automation": {"confidence_level": 0.9}}')
    assert call_json("measure", "fpr", *FAST)["setup"]["alpha"] == 0.05
    for arguments in (("--home", str(site)), ()):
        assert call_json("measure", "fpr", *FAST, *arguments)["setup"]["alpha"] == 0.1
        monkeypatch.chdir(site)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRO_HOME", str(site))
    assert call_json("measure", "fpr", *FAST)["setup"]["alpha"] == 0.1
    monkeypatch.setenv("CRO_HOME", str(tmp_path / "gone"))
    with pytest.raises(CroError, match="is not a home"):
        call("measure", "fpr", *FAST)


def test_the_environment_counts_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRO_STATISTICS__FUTILITY", "false")
    assert call_json("measure", "fpr", *FAST)["setup"]["futility"] is False


CALM: dict[str, Any] = {
    "automation": {"min_sample_size": 100, "min_conversion_difference": 0.1},
    "statistics": {"base_rate": 0.1, "futility": False, "minimum_detectable_uplift": 0.2},
    "smart_traffic_allocation": {"enabled": False},
}


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("automation", "confidence_level", 0.8),
        ("automation", "min_sample_size", 3500),
        ("automation", "test_duration_max_days", 6),
        ("automation", "min_conversion_difference", 0.4),
        ("statistics", "base_rate", 0.2),
        ("statistics", "power", 0.6),
        ("statistics", "minimum_detectable_uplift", 0.3),
        ("statistics", "spending_function", "pocock"),
        ("statistics", "spending_parameter", 1.0),
        ("statistics", "min_uplift_gate", "proven"),
        ("statistics", "futility", True),
        ("statistics", "conversion_window_hours", 120),
        ("smart_traffic_allocation", "enabled", True),
    ],
)
def test_every_setting_of_the_decision_changes_the_answer(section: str, key: str, value: Any) -> None:
    """The figures, not only what is said to have been simulated."""
    changed = {**CALM, section: {**CALM[section], key: value}}
    assert under(changed, "power", ASKED).found != when_calm().found


ASKED = Asked(uplift=0.25, visitors=8_000)


@cache
def when_calm() -> Any:
    return under(CALM, "power", ASKED)


def test_the_floor_changes_the_answer() -> None:
    moving = {**CALM, "smart_traffic_allocation": {"enabled": True, "min_traffic_to_loser": 10}}
    other = {**CALM, "smart_traffic_allocation": {"enabled": True, "min_traffic_to_loser": 40}}
    asked = Asked(uplift=0.2, visitors=8_000)
    assert under(moving, "power", asked).found != under(other, "power", asked).found


def test_it_is_the_lab_at_the_plan_of_the_settings() -> None:
    """Written out by hand for one setup, down to the same random numbers."""
    config = resolve({key: dict(part) for key, part in CALM.items()}, {}).config
    plan = new_plan(config)
    found = simulate(config, "power", Asked("const"), 300, np.random.default_rng(3))
    assert found.setup.visitors == plan.units
    by_hand = lab.Scenario(
        base_rate=0.1,
        uplifts=(0.2,),
        units=found.setup.visitors,
        days=14,
        traffic="day",
        delays=(USUAL,),
        whole_weeks=True,
        plan=replace(lab.Scenario().plan, mde=0.2),
    )
    once = 2 * sample_size(0.1, 0.2)
    assert found.found == lab.power(by_hand, 300, np.random.default_rng(3), fixed=once)
    assert isinstance(found.found, lab.Power)
    assert found.found.power.value == pytest.approx(0.81, abs=0.08)


@pytest.mark.parametrize("profile", lab.PROFILES)
def test_the_base_rate_is_the_mean_over_the_visitors(profile: str) -> None:
    """Visitors and rates swing together: the rate of the hours is not that of the visitors."""
    plan = new_plan(resolve({}, {}).config, 0.05)
    scenario = workflow.scenario_of(plan, "fpr", Asked(profile, base_rate=0.05))
    assert (scenario.days, scenario.whole_weeks) == (14, True)
    assert np.average(scenario.rates()[:, 0], weights=scenario.arrivals()) == pytest.approx(0.05, rel=1e-3)


def test_futility_is_not_used_where_the_traffic_gives_less_than_even_odds() -> None:
    settings = {**CALM, "statistics": {**CALM["statistics"], "futility": True}}
    enough, little = (under(settings, "power", Asked(visitors=v)).setup for v in (8_000, 2_000))
    assert (enough.futility, little.futility) == (True, False)


@pytest.mark.parametrize("variants", [2, 3])
def test_the_sample_is_held_against_one_look_at_the_same_error_rate(variants: int) -> None:
    """Without an effect nearly every programme runs to its end."""
    rare = {**CALM, "automation": {**CALM["automation"], "confidence_level": 0.99}}
    measured = under(rare, "power", Asked("const", uplift=1e-6, variants=variants))
    once = variants * sample_size(0.1, 0.2, alpha=0.01 / (variants - 1))
    assert measured.found.sample.value == pytest.approx(measured.setup.visitors / once, rel=0.03)


def test_the_planned_sample_ends_nothing_before_its_weeks_are_over() -> None:
    planned = under(CALM).setup.planned_visitors
    found = under(CALM, "fpr", Asked(visitors=2 * planned)).found
    assert found.sample.value > 0.95


def test_long_horizons_are_simulated_in_smaller_batches() -> None:
    class Seen(Exception): ...

    def seen(sizes: Sequence[int]) -> Any:
        raise Seen(*sizes)

    for days, sizes in ((14, (2500, 500)), (56, (2500, 500)), (112, (1250, 1250, 500))):
        with pytest.raises(Seen) as found:
            lab.fpr(lab.Scenario(days=days), 3000, np.random.default_rng(1), progress=seen)
        assert found.value.args == sizes


# -- the options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ("--programmes", "61"),
        ("--seed", "8"),
        ("--profile", "decay"),
        ("--traffic", "evening"),
        ("--uplift", "0.2"),
        ("--base-rate", "0.2"),
        ("--variants", "3"),
        ("--visitors", "9000"),
    ],
)
@pytest.mark.parametrize("what", ["power", "coverage"])
def test_every_option_changes_the_answer(short: None, what: str, options: tuple[str, str]) -> None:
    assert call_json("measure", what, *FAST, *options)["found"] != without_options(what)["found"]


@cache
def without_options(what: str) -> Any:
    return call_json("measure", what, *FAST)


def test_the_same_options_give_the_same_answer(short: None) -> None:
    assert call_json("measure", "fpr", *FAST) == call_json("measure", "fpr", *FAST)


def test_what_is_asked_for_is_measured() -> None:
    fpr, power, coverage = (call_json("measure", what, *FAST) for what in ("fpr", "power", "coverage"))
    assert set(fpr["found"]) == {"any", "challenger", "control", "naive", "sample"}
    more = {"cautions", "faded", "early", "lost", "gained"}
    assert {"power", "wrong", "futile", "sample", "naive"} | more == set(power["found"])
    assert {"stagewise", "repeated", "median", "bias", "pooled_bias"} <= set(coverage["found"])
    assert (fpr["setup"]["uplifts"], power["setup"]["uplifts"]) == ([0.0], [0.1])
    assert fpr["programmes"] == 60
    assert fpr["seed"] == LAB_SEED
    assert fpr["found"]["naive"]["value"] > 0.4 > fpr["found"]["any"]["value"]
    assert power["found"]["power"]["value"] > 0.6
    assert power["found"]["power"]["error"] > 0
    three = call_json("measure", "power", *FAST, "--variants", "3", "--uplift", "0.2")
    assert three["setup"]["uplifts"] == [0.2, 0.0]
    assert three["setup"]["floor"] == pytest.approx(0.1)


def test_no_effect_has_no_ratio_to_it(short: None) -> None:
    found = call_json("measure", "coverage", *FAST, "--uplift", "0")["found"]
    assert (found["median"], found["exaggeration"]) == (None, None)
    assert "median estimate / truth             -\n" in call("measure", "coverage", *FAST, "--uplift", "0")


def test_the_text_has_errors_and_the_naive_rule_beside() -> None:
    answer, text = call_json("measure", "fpr", *FAST), call("measure", "fpr", *FAST)
    for name in ("any", "naive"):
        share = answer["found"][name]
        assert f"{share['value']:.2%} ± {share['error']:.2%}" in text
    assert "naive rule" in text
    assert "60 experiments, at most 14 looks, 14 days of new visitors, whole weeks" in text
    assert "raw, pooled" in call("measure", "coverage", *FAST)


def test_a_bar_is_shown_to_people_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert CliRunner().invoke(cli.app, ["lab", "measure", "fpr", *FAST, "--json"]).stderr == ""
    config = resolve(CALM, {}).config
    for quiet in (True, False):
        simulate(config, "fpr", Asked(), 20, np.random.default_rng(1), quiet=quiet)
        assert ("20/20" in capsys.readouterr().err) is not quiet


# -- the table of promises ----------------------------------------------------------------------------------


def test_targets_are_the_table(tmp_path: Path) -> None:
    file = tmp_path / "lab.md"
    answer = call_json("targets", "--programmes", "60", "--seed", "4", "--only", "T9", "--output", str(file))
    lines = list(table(60, 4, ["T9"]))
    assert [line["found"]["value"] for line in answer["lines"]] == [line.found.value for line in lines]
    assert [(line["low"], line["high"]) for line in answer["lines"]] == [(0.73, None)] * 2 + [(0.8, None)] * 2
    assert answer["kept"] == all(line["kept"] for line in answer["lines"])
    page = file.read_text(encoding="utf-8")
    assert page.startswith(
        "# What the lab finds\n\n60 programmes per scenario of T1 to T3, 24 of the others, seed 4, on "
    )
    assert f"{lines[0].found.value:.4f} ± {lines[0].found.error:.4f}" in page
    text = call("targets", "--programmes", "60", "--seed", "4", "--only", "T9")
    assert f"{lines[1].found.value:.4f} ± {lines[1].found.error:.4f}" in text
    assert "4 of 4 figures are within their bounds" in text


def test_a_target_that_is_asked_for_twice_is_simulated_once() -> None:
    assert list(table(20, 4, ["T9", "T9"])) == list(table(20, 4, ["T9"]))


def test_the_document_bears_the_day_it_is_given() -> None:
    found = workflow.targets(20, 1, ["T9"], now=NOW)
    assert "on 01 March 2026" in found.document
    assert [line.target for line in found.lines] == ["T9"] * 4


def test_a_promise_not_kept_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    line = replace(next(table(20, 1, ["T9"])), low=1.5)

    def strict(*_: Any) -> Any:
        return [line]

    monkeypatch.setattr("cro_core.lab.targets.TARGETS", {"T9": lambda: Target([strict])})
    assert call_json("targets", "--only", "T9", code=1)["kept"] is False


# -- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["measure", "fpr", "--profile", "weekly"],
            "profile is 'weekly': choose from const, week, promo, decay",
        ),
        (["measure", "fpr", "--profile", ""], "profile is '': choose from"),
        (["measure", "fpr", "--uplift", "0.1"], "uplift is 0.1: a false positive needs a true uplift of 0"),
        (["measure", "power", "--uplift", "0"], "uplift is 0: power is the chance to find a true one"),
        (["measure", "power", "--uplift", "nan"], "uplift is nan"),
        (["measure", "power", "--uplift", "900"], "rates run from"),
        (["measure", "coverage", "--uplift", "nan"], "uplift is nan: give a number above -1"),
        (["measure", "coverage", "--uplift", "-1"], "uplift is -1: give a number above -1"),
        (["measure", "power", "--uplift", "inf"], "uplift is inf: give a number above -1"),
        (["measure", "power", "--uplift", "1e300"], "rates run from"),
        (["measure", "fpr", "--base-rate", "nan"], "base_rate is nan: give a fraction between 0 and 1"),
        (["measure", "fpr", "--base-rate", "inf"], "base_rate is inf: give a fraction between 0 and 1"),
        (["measure", "fpr", "--base-rate", "1e-300"], "base_rate is 1e-300: .* at least 1e-06"),
        (["measure", "fpr", "--variants", "-3"], "variants is -3: give at least 2"),
        (["measure", "fpr", "--visitors", "-3"], "visitors is -3: nothing is decided below"),
        (["measure", "fpr", "--visitors", "1000000001"], "visitors is 1000000001: simulated are at most"),
        (["measure", "fpr", "--visitors", "9" * 30], "simulated are at most 1000000000"),
        (["measure", "fpr", "--base-rate", "3"], "base_rate is 3: give a fraction between 0 and 1"),
        (["measure", "fpr", "--base-rate", "0.9"], "rates run from|relative_uplift is 0.1"),
        (["measure", "fpr", "--variants", "1"], "variants is 1: give at least 2"),
        (
            ["measure", "fpr", "--visitors", "199"],
            "visitors is 199: nothing is decided below 100 per variant",
        ),
        (["measure", "fpr", "--home", "gone"], "is not a home"),
        (["targets", "--only", "T21"], "target is 'T21': choose from T1, T2, T3, T4, T5, T6, T7, T8"),
        (["measure", "fpr", "--traffic", "calm"], "traffic is 'calm': choose from flat, day, business"),
        (["targets", "--output", "no/where.md"], "give a file in a folder that exists"),
    ],
)
def test_refusals_are_named(arguments: list[str], says: str) -> None:
    with pytest.raises(CroError, match=says):
        call(*arguments)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--programmes", "0"),
        ("--programmes", "-1"),
        ("--programmes", "9" * 30),
        ("--seed", "-1"),
        ("--seed", "nan"),
    ],
)
@pytest.mark.parametrize("command", [["measure", "fpr"], ["targets"]], ids=["measure", "targets"])
def test_numbers_that_are_none_are_refused_before_anything_runs(
    command: list[str], option: str, value: str
) -> None:
    refused = CliRunner().invoke(cli.app, ["lab", *command, option, value])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"Invalid value for '{option}'" in refused.stderr


@pytest.mark.parametrize("jobs", ["0", "-1", "257", "nan"])
def test_jobs_are_a_small_number(jobs: str) -> None:
    refused = CliRunner().invoke(cli.app, ["lab", "targets", "--jobs", jobs])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "Invalid value for '--jobs'" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["measure", "fpr", "--only", "T1"], "--only"),
        (["measure", "fpr", "--output", "x.md"], "--output"),
        (["targets", "--profile", "week"], "--profile"),
        (["targets", "--base-rate", "0.1"], "--base-rate"),
        (["targets", "--home", "."], "--home"),
    ],
)
def test_each_command_has_options_of_its_own(arguments: list[str], option: str) -> None:
    refused = CliRunner().invoke(cli.app, ["lab", *arguments])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"No such option: {option}" in refused.stderr


def test_a_refusal_is_one_line_or_json() -> None:
    command = [sys.executable, "-m", "cro_core.cli", "lab", "measure", "fpr", "--profile", "weekly"]
    plain = subprocess.run(command, capture_output=True, text=True)
    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr == "error: profile is 'weekly': choose from const, week, promo, decay\n"
    structured = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert json.loads(structured.stdout)["error"]["field"] == "profile"


def test_no_programmes_are_refused() -> None:
    refused = CliRunner().invoke(cli.app, ["lab", "measure", "fpr", "--programmes", "0"])
    assert (refused.exit_code, "--programmes" in refused.output) == (2, True)
    with pytest.raises(InvalidInput, match="programmes is 0"):
        under(CALM, programmes=0)
