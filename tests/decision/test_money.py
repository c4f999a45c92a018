"""What a verdict is worth in money, told and acted on: conversions that a challenger brings, less what it costs."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cro_core.clock import iso
from cro_core.decision.decide import decide
from cro_core.domain import Cell, Experiment, Goal, Guardrail, Plan, Status, Variant, Verdict
from cro_core.errors import InvalidInput
from cro_core.evidence import Decision, Estimate, NetValue
from cro_core.home import Home, create_home, open_home, set_clock
from cro_core.hypotheses.backlog import MediaAsset, asset_variant
from cro_core.learning.prediction import variant_features
from cro_core.planning import plans
from cro_core.rendering.decision_text import decision_text
from cro_core.storage import decisions, experiments
from cro_core.storage.decisions import from_record, to_record
from cro_core.workflows import approval
from cro_core.workflows.create_experiment import NewExperiment, create_experiment
from cro_core.workflows.ingest import ingest
from cro_core.workflows.orchestrate import orchestrate
from cro_core.workflows.replay import replay
from cro_core.workflows.write_report import weekly_report

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)
PLAN = Plan(
    (Goal("lead", 100, True),), base_rate=0.1, mde=0.2, horizon=14 * DAY, min_uplift=0.0, finished=True,
    value_per_conversion=40.0, currency="EUR",
)  # fmt: skip
LEVEL, BETTER, MUCH_WORSE = 1_000, 1_250, 800
"""Converted of 10,000."""


def judged(
    *converted: int, costs: dict[str, float] | None = None, plan: Plan = PLAN, units: int = 10_000
) -> Decision:
    """One look at a finished file; the first variant is the control."""
    keys = "abcd"[: len(converted)]
    variants = tuple(
        Variant(key, key.upper(), is_control=key == "a").costing((costs or {}).get(key)) for key in keys
    )
    experiment = plans.begin(Experiment("hero", "Hero", variants, plan, created_at=START), START)
    cells = [Cell(0, key, units, x) for key, x in zip(keys, converted, strict=True)]
    return decide(experiment, cells, as_of=START + 20 * DAY).decision


def told(decision: Decision) -> dict[str, str]:
    return {reason.code: reason.text for reason in decision.reasons if reason.code in ("money", "costs_more")}


def test_a_winner_is_told_with_what_it_brings_and_costs() -> None:
    """+25 % of 100 conversions at 40 EUR are 1,000 EUR per 1,000 visitors; half a euro a visitor is 500."""
    found = judged(LEVEL, BETTER, costs={"b": 0.75, "a": 0.25})
    assert (found.verdict, found.winner, found.costs_more) == (Verdict.SHIP, "b", False)
    (row,) = found.evidence.money
    (compared,) = found.evidence.comparisons
    uplift = compared.uplift
    assert (row.variant, row.name, row.currency, row.cost) == ("b", "B", "EUR", 500.0)
    for gain, net, end in zip(
        (row.gain.value, row.gain.low, row.gain.high),
        (row.net.value, row.net.low, row.net.high),
        (uplift.value, uplift.low, uplift.high),
        strict=True,
    ):
        assert end is not None
        assert gain == pytest.approx(end * 0.1 * 40 * 1000)
        assert net == pytest.approx(end * 4000 - 500)
    assert row.net.value == pytest.approx(500, abs=1)
    said = told(found)
    assert set(said) == {"money"}
    assert said["money"] == (
        f"Per 1,000 visitors B brings {row.amount(row.net.value)} (95 % interval {row.amount(row.net.low)} to "
        f"{row.amount(row.net.high)}) more than the control: conversions {row.amount(row.gain.value)}, what showing it "
        "costs -500.00 EUR."
    )
    assert said["money"] in found.text
    assert "per 1,000 visitors" in decision_text(found).split("b against the control")[1]


def test_a_winner_that_costs_more_than_it_brings_stays_the_winner_and_is_told_so() -> None:
    found = judged(LEVEL, BETTER, costs={"b": 1.5})
    assert (found.verdict, found.winner, found.costs_more) == (Verdict.SHIP, "b", True)
    assert told(found)["costs_more"] == (
        "B converts better, but costs more than it brings: a person decides whether it is shown."
    )
    assert "-500" in told(found)["money"]


@pytest.mark.parametrize(
    ("plan", "converted", "verdict", "rows", "said"),
    [
        (PLAN, (LEVEL, LEVEL + 10), Verdict.INCONCLUSIVE, 1, True),
        (PLAN, (LEVEL, MUCH_WORSE), Verdict.KEEP_CONTROL, 1, False),  # out: beaten by the control
        (replace(PLAN, min_uplift=0.5), (LEVEL, BETTER), Verdict.GAIN_BELOW_MINIMUM, 1, True),
        (PLAN, (LEVEL, LEVEL, LEVEL + 10), Verdict.INCONCLUSIVE, 2, True),
        (PLAN, (LEVEL, LEVEL, BETTER), Verdict.SHIP, 2, True),
        (PLAN, (0, 0), Verdict.INCONCLUSIVE, 1, False),  # nothing to compare
    ],
)
def test_every_end_is_told_in_money(
    plan: Plan, converted: tuple[int, ...], verdict: Verdict, rows: int, said: bool
) -> None:
    found = judged(*converted, plan=plan)
    assert (found.verdict, len(found.evidence.money)) == (verdict, rows)
    texts = [r.text for r in found.reasons if r.code == "money"]
    assert len(texts) == (0 if not said else 1 if found.winner else rows)
    assert not found.costs_more
    assert from_record(json.loads(json.dumps(to_record(found), allow_nan=False))) == found


def test_nothing_is_told_where_nobody_said_what_a_conversion_is_worth() -> None:
    bare = replace(PLAN, value_per_conversion=None, currency=None)
    found = judged(LEVEL, BETTER, costs={"b": 100.0}, plan=bare)
    assert (found.evidence.money, told(found), found.costs_more) == ((), {}, False)
    assert "money" not in to_record(found)["evidence"]
    assert "value_per_conversion" not in to_record(found)["evidence"]["plan"]
    empty = judged(0, 0, units=0)
    assert (empty.evidence.money, told(empty)) == ((), {})


def test_nothing_is_told_while_it_runs_or_of_a_broken_split() -> None:
    live = replace(PLAN, finished=False, units=100_000)
    experiment = plans.begin(
        Experiment("hero", "Hero", (Variant("a", "A", is_control=True), Variant("b", "B")), live), START
    )
    cells = [Cell(0, "a", 900, 90), Cell(0, "b", 900, 99)]
    running = decide(experiment, cells, as_of=START + 3 * DAY).decision
    assert (running.verdict, running.evidence.money) == (Verdict.CONTINUE, ())
    cells = [Cell(0, "a", 9_000, 900), Cell(0, "b", 11_000, 1500)]
    broken = decide(experiment, cells, as_of=START + 20 * DAY).decision
    assert (broken.verdict, broken.evidence.money) == (Verdict.INVALID, ())


def test_a_leader_without_proof_that_costs_more_is_told_too() -> None:
    picky = replace(PLAN, at_horizon="pick_leader")
    found = judged(LEVEL, LEVEL + 20, costs={"b": 1.0}, plan=picky)
    assert (found.verdict, found.winner, found.unproven, found.costs_more) == (
        Verdict.INCONCLUSIVE, "b", True, True,
    )  # fmt: skip
    assert told(found)["costs_more"].startswith("B costs more than it brings")


def test_a_broken_guardrail_is_told_by_the_numbers_of_the_look() -> None:
    guarded = replace(PLAN, guardrails=(Guardrail("conversions", 0.0),))
    found = judged(LEVEL, MUCH_WORSE, plan=guarded)
    assert (found.verdict, found.costs_more) == (Verdict.KEEP_CONTROL, False)


@pytest.mark.parametrize(
    ("value", "currency", "said"),
    [
        (1234.5, "EUR", "+1,234.50 EUR"), (-0.004, "EUR", "-0.00 EUR"), (-3.0, None, "-3.00"),
        (None, "EUR", "not known"), (0.0, "£", "+0.00 £"),
    ],
)  # fmt: skip
def test_amounts(value: float | None, currency: str | None, said: str) -> None:
    row = NetValue("b", "B", currency, Estimate(), 0.0, Estimate(value))
    assert row.amount(value) == said
    assert row.loses == (value is not None and value < 0)


@pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf")])
def test_a_cost_is_a_number_from_0(cost: float) -> None:
    with pytest.raises(InvalidInput, match="cost_per_exposure of b is"):
        Variant("b", "B").costing(cost)


def test_an_asset_brings_its_cost_and_the_model_does_not_look_at_it() -> None:
    asset = MediaAsset("dance", "video", "hero", ("dance.mp4",), cost_per_exposure=0.02)
    dear, free = asset_variant(asset), asset_variant(replace(asset, cost_per_exposure=None))
    assert (dear.cost_per_exposure, free.cost_per_exposure) == (0.02, None)
    assert "cost_per_exposure" not in free.features
    assert variant_features(dear.config, dear.features) == variant_features(free.config, free.features)
    assert "cost_per_exposure" not in dear.config


def home_with(path: Path, **more: Any) -> Home:
    settings = {
        "statistics": {"base_rate": 0.2, "minimum_detectable_uplift": 0.8} | more.pop("statistics", {}),
        "smart_traffic_allocation": {"enabled": False},
        "money": {"value_per_conversion": 40, "currency": "EUR"},
    }
    create_home(path, settings | more, environ={})
    home = open_home(path, environ={})
    set_clock(home, START)
    return open_home(path, environ={})


def run(home: Home, cost: float, converting: tuple[int, int] = (40, 120)) -> tuple[str, ...]:
    """A test of 400 visitors each, decided; the film costs so much for each visitor who gets it."""
    variants = (Variant("photo", "", is_control=True), Variant("film", "").costing(cost))
    create_experiment(home, NewExperiment("hero", variants), now=START, actor="test")
    events: list[dict[str, Any]] = []
    for variant, buyers in zip(("photo", "film"), converting, strict=True):
        for n in range(400):
            who = {"user_id": f"{variant}{n}", "timestamp": iso(START + DAY / 2), "test_id": "hero"}
            shown = {"event_type": "exposure", "variant_id": variant, "epoch": 0, "propensity": 0.5}
            events += [who | shown] + [who | {"event_type": "contact_form_submit"}] * (n < buyers)
    ingest(home, events, now=START + DAY / 2)
    set_clock(home, START + 16 * DAY)
    report = orchestrate(home, now=home.clock())
    assert report.failures == ()
    return report.changes


def test_a_gain_is_shipped_and_a_loss_is_proposed(tmp_path: Path) -> None:
    """+20 points of conversion at 40 EUR bring 8 EUR a visitor."""
    gain, loss = home_with(tmp_path / "gain"), home_with(tmp_path / "loss")
    assert run(gain, 2.0) == ("hero: ship", "hero: shows film of hero")
    assert run(loss, 20.0) == ("hero: ship", "hero: proposed to ship film, waiting for approval")
    with loss.db.read() as connection:
        stored = experiments.get(connection, "hero")
        (proposal,) = decisions.recommendations(connection)
        (decision,) = decisions.latest(connection)
        assert decisions.production(connection) == {}
    assert stored.status is Status.COMPLETED
    assert stored.variants[1].cost_per_exposure == 20.0
    assert "costs more than it brings" in proposal["text"]
    assert replay(loss, decision.id).text.endswith("from its counts and from the rows.")
    report = weekly_report(loss, now=loss.clock())
    assert report.headline.endswith("conversions, but costs more than it brings.")
    assert [r.why for r in report.refusals] == ["It converts better, but costs more than it brings."]
    approval.approve(loss, proposal["id"], now=loss.clock(), actor="ann")
    with loss.db.read() as connection:
        assert decisions.production(connection)["hero"]["variant"] == "film"


def test_an_unproven_leader_at_a_loss_is_not_shown_without_a_person(tmp_path: Path) -> None:
    home = home_with(tmp_path / "home", statistics={"at_horizon": "pick_leader"})
    assert run(home, 20.0, (80, 82)) == (
        "hero: inconclusive",
        "hero: proposed to ship film, waiting for approval",
    )
    report = weekly_report(home, now=home.clock())
    assert report.unproven == ()  # it is not shown
    (page,) = report.decided
    assert page.summary.endswith("It costs more than it brings, so a person decides whether it is shown.")
    with home.db.read() as connection:
        (proposal,) = decisions.recommendations(connection)
    approval.reject(home, proposal["id"], now=home.clock(), actor="ann")
    with home.db.read() as connection:
        assert decisions.production(connection) == {}
        assert experiments.get(connection, "hero").status is Status.ARCHIVED
