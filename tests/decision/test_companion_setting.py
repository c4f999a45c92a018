"""The always-valid companion: on by one setting, shown beside a decision, and never part of it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng
from typer.testing import CliRunner

from cro_core import cli
from cro_core.clock import iso
from cro_core.config import Config
from cro_core.decision.decide import decide
from cro_core.decision.figures import always_valid
from cro_core.domain import Cell, Experiment, Goal, Plan, Variant, Verdict
from cro_core.evidence import Decision
from cro_core.home import create_home, open_home, set_clock
from cro_core.planning import plans
from cro_core.rendering.decision_text import decision_text
from cro_core.statistics.companion import companion
from cro_core.storage.decisions import from_record, to_record
from cro_core.workflows.create_experiment import NewExperiment, create_experiment
from cro_core.workflows.evaluate import evaluate
from cro_core.workflows.ingest import ingest
from cro_core.workflows.orchestrate import orchestrate
from cro_core.workflows.replay import replay

START = datetime(2026, 3, 2, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
OFF = Plan((Goal("lead", 100, True),), units=10_000, base_rate=0.03, mde=0.4)
ON = replace(OFF, companion=True)


def running(plan: Plan, keys: Sequence[str] = ("a", "b")) -> Experiment:
    """Started, with ``a`` as the control wherever it stands."""
    variants = tuple(Variant(key, key.upper(), is_control=key == "a") for key in keys)
    return plans.begin(Experiment("hero", "Hero", variants, plan, created_at=START), START)


def cells(*counts: tuple[int, int], epoch: int = 0) -> list[Cell]:
    return [Cell(epoch, key, n, x) for key, (n, x) in zip("abcd", counts, strict=False)]


def judged(experiment: Experiment, found: Sequence[Cell], as_of: datetime) -> Decision:
    return decide(experiment, found, as_of=as_of).decision


def without(decision: Decision) -> dict[str, Any]:
    """All of a decision but the companion, and that the plan asked for one."""
    record = to_record(decision)
    assert (
        record["evidence"].pop("companion", None) is not None or not record["evidence"]["plan"]["companion"]
    )
    record["evidence"]["plan"].pop("companion")
    return record


def test_overwhelming_evidence_before_a_day_of_data_changes_nothing() -> None:
    counts, moment = cells((2_000, 40), (2_000, 400)), START + 47 * HOUR  # 23 hours of mature visitors
    plain, accompanied = (judged(running(plan), counts, moment) for plan in (OFF, ON))
    (said,) = accompanied.evidence.companion
    assert (said.shown, said.leader) == (True, "variant")
    assert said.log_e > 100
    assert (accompanied.verdict, accompanied.winner, accompanied.final) == (Verdict.CONTINUE, None, False)
    assert [reason.code for reason in accompanied.reasons] == [reason.code for reason in plain.reasons]
    assert without(accompanied) == without(plain)
    assert judged(running(ON), counts, START + 7 * DAY).verdict is Verdict.SHIP  # the schedule decides


def test_no_decision_depends_on_it() -> None:
    rng = default_rng(11)
    verdicts = set()
    for _ in range(40):
        arms = int(rng.integers(2, 5))
        counts = cells(
            *((3_000, int(rng.binomial(3_000, rng.choice([0.02, 0.03, 0.06])))) for _ in range(arms))
        )
        moment = START + float(rng.choice([1.5, 4, 14])) * DAY
        plain, accompanied = (judged(running(plan, "abcd"[:arms]), counts, moment) for plan in (OFF, ON))
        assert len(accompanied.evidence.companion) == arms - 1
        assert without(accompanied) == without(plain)
        verdicts.add(plain.verdict)
    assert {Verdict.SHIP, Verdict.CONTINUE, Verdict.INCONCLUSIVE} <= verdicts


def test_off_there_is_no_trace_of_it() -> None:
    found = judged(running(OFF), cells((5_000, 150), (5_000, 220)), START + 14 * DAY)
    assert found.evidence.companion is None
    assert "any time" not in decision_text(found)


def test_epochs_are_its_bins_and_the_control_comes_first() -> None:
    """Simpson's paradox: no day shows a difference, the pooled counts show a large one."""
    experiment = running(replace(ON, adaptive=True), ("b", "a"))
    found = cells((500, 250), (2_000, 1_000)) + cells((2_000, 60), (500, 15), epoch=1)
    (said,) = judged(experiment, found, START + 4 * DAY).evidence.companion
    by_day = companion([[500, 2_000], [2_000, 500]], [[250, 1_000], [60, 15]], ON.mde)
    assert said.log_e == pytest.approx(by_day.log_e, abs=1e-12)
    assert (said.variant, said.shown, said.leader) == ("b", False, None)
    pooled = companion([[2_500, 2_500]], [[310, 1_015]], ON.mde)
    assert pooled.log_e is not None
    assert pooled.log_e > 50

    worse = cells((1_000, 300), (1_000, 100))
    (said,) = judged(experiment, worse, START + 4 * DAY).evidence.companion
    assert (said.shown, said.leader) == (True, "control")
    assert "B converts worse than the control" in said.says


def test_a_decision_shows_the_evidence_that_the_formula_gives() -> None:
    """By summing over the mixture, not by the function that is tested: what is shown is neither more nor less."""
    found = cells((500, 20), (2_000, 120)) + cells((2_000, 60), (500, 25), epoch=1)
    (said,) = judged(running(replace(ON, adaptive=True)), found, START + 4 * DAY).evidence.companion
    ratios = np.linspace(-8, 8, 40_001) * ON.mde
    log = (120 + 25) * ratios - (
        140 * np.log(0.2 + 0.8 * np.exp(ratios)) + 85 * np.log(0.8 + 0.2 * np.exp(ratios))
    )
    prior = np.exp(-(ratios**2) / 2 / ON.mde**2) / (ON.mde * math.sqrt(2 * math.pi))
    e_value = float(np.trapezoid(np.exp(log) * prior, ratios))
    assert 1.5 < e_value < 1e6
    assert said.e_value == pytest.approx(e_value, rel=1e-4)
    assert said.log_e == pytest.approx(math.log(e_value), abs=1e-4)
    assert said.p_value == pytest.approx(1 / e_value, rel=1e-4)
    assert (said.needed, said.shown) == (20, e_value >= 20)


@pytest.mark.sizes(100, 1_000)
def test_equal_rates_hardly_ever_show_a_difference(size: int) -> None:
    """Looked at after each of 12 days, in at most one experiment in twenty; it takes an e-value of 20."""
    rng, ever = default_rng(5), 0
    experiment = running(replace(ON, adaptive=True))
    for _ in range(size):
        days: list[Cell] = []
        shown = False
        for epoch in range(12):
            a, b = rng.binomial(1_000, 0.05, 2).tolist()
            days += cells((1_000, a), (1_000, b), epoch=epoch)
            (row,) = always_valid(experiment, days)
            shown |= row.shown
        ever += shown
    assert ever / size <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / size)


@pytest.mark.parametrize(("alpha", "arms", "needed"), [(0.05, 2, 20), (0.05, 4, 60), (0.01, 2, 100)])
def test_what_is_needed_is_the_plans_error_rate_over_all_challengers(
    alpha: float, arms: int, needed: float
) -> None:
    experiment = running(replace(ON, alpha=alpha), "abcd"[:arms])
    low, high = 0, 2_000  # the smallest success of b that shows a difference
    while high - low > 1:
        middle = (low + high) // 2
        counts = cells(*((5_000, 150 + middle * (key == "b")) for key in "abcd"[:arms]))
        row = judged(experiment, counts, START + 14 * DAY).evidence.companion[0]
        assert (row.variant, row.name) == (experiment.challengers[0].key, experiment.challengers[0].name)
        assert row.needed == pytest.approx(needed)
        assert row.shown == (row.log_e >= math.log(needed))
        low, high = (low, middle) if row.shown else (middle, high)
    assert 0 < high < 400


def test_without_conversions_it_says_why() -> None:
    found = judged(running(ON), cells((2_000, 0), (2_000, 0)), START + 4 * DAY)
    (said,) = found.evidence.companion
    assert (said.e_value, said.p_value, said.shown) == (None, None, False)
    assert said.reason == "nobody converted"
    assert "nothing can be said yet" in decision_text(found)
    (said,) = judged(running(ON), [], START + HOUR).evidence.companion
    assert said.reason == "nobody converted"


def test_the_setting_reaches_the_plan() -> None:
    assert not plans.new_plan(Config()).companion
    config = Config.model_validate({"statistics": {"always_valid_companion": True}})
    assert plans.new_plan(config).companion


@pytest.mark.parametrize("on", [True, False])
def test_evaluate_prints_one_line_of_it_on_a_real_home(tmp_path: Path, on: bool) -> None:
    statistics = {"base_rate": 0.2, "minimum_detectable_uplift": 0.8, "always_valid_companion": on}
    fixed = {"enabled": False}
    create_home(tmp_path / "site", {"statistics": statistics, "smart_traffic_allocation": fixed}, environ={})
    set_clock(open_home(tmp_path / "site", environ={}), START)
    home = open_home(tmp_path / "site", environ={})
    variants = (Variant("photo", "", is_control=True), Variant("film", "Film"))
    create_experiment(home, NewExperiment("hero", variants), now=START, actor="test")
    events: list[dict[str, Any]] = []
    for variant, converting in (("photo", 40), ("film", 120)):
        for number in range(300):
            who = {"user_id": f"{variant}{number}", "timestamp": iso(START + 6 * HOUR), "test_id": "hero"}
            shown = {"event_type": "exposure", "variant_id": variant, "epoch": 0, "propensity": 0.5}
            events += [who | shown] + [who | {"event_type": "contact_form_submit"}] * (number < converting)
    assert ingest(home, events, now=START + DAY).accepted == len(events)

    def printed(moment: datetime) -> list[str]:
        arguments = ["evaluate", "hero", "--home", str(home.path), "--as-of", iso(moment)]
        done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        return [line for line in done.output.splitlines() if "any time" in line]

    set_clock(home, START + 9 * DAY)
    early = evaluate(home, "hero", as_of=START + 40 * HOUR)
    assert (early.verdict, [r.code for r in early.reasons if r.code == "crossed"]) == (Verdict.CONTINUE, [])
    (decided,) = orchestrate(home, now=START + 9 * DAY).decisions
    assert decided.verdict is Verdict.SHIP
    assert replay(home, decided.id).identical
    lines = printed(START + 40 * HOUR)
    if not on:
        assert (lines, early.evidence.companion) == ([], None)
        return
    (said,) = early.evidence.companion
    assert said.shown  # long before the schedule lets anything be decided
    assert lines == [f"  any time    {said.says}; it decides nothing"]
    assert said.says.startswith("Film converts better than the control (e-value ")
    assert from_record(to_record(early)) == early
    home.db.close()
