"""A guardrail that nobody can watch: refused at the start where that is known, told there where it is likely, and once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cro_core.clock import iso
from cro_core.decision.decide import decide
from cro_core.domain import Cell, Experiment, Goal, Guardrail, Plan, Variant, Verdict
from cro_core.errors import InvalidInput
from cro_core.home import Home, create_home, open_home, set_clock
from cro_core.metrics.guardrails import guardrails
from cro_core.planning import plans
from cro_core.storage import experiments
from cro_core.workflows.create_experiment import NewExperiment, create_experiment
from cro_core.workflows.guardrail_check import check_guardrails
from cro_core.workflows.ingest import ingest
from cro_core.workflows.orchestrate import orchestrate

START = datetime(2026, 3, 2, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
GOALS = (Goal("order", 100, True), Goal("call", 10))
TWO = (Variant("a", "A", is_control=True), Variant("b", "B"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return home_with(tmp_path / "home")


def home_with(path: Path, *rules: dict[str, Any], weights: dict[str, float] | None = None) -> Home:
    settings = {
        "optimization_goals": weights or {"order": 100, "call": 10},
        "primary_goals": ["order"],
        "statistics": {"guardrails": list(rules)},
        "smart_traffic_allocation": {"enabled": False},
    }
    create_home(path, settings, environ={})
    home = open_home(path, environ={})
    set_clock(home, START)
    return open_home(path, environ={})


def post(
    home: Home, amounts: list[float | None], exposures: int = 0, goal: str = "order", **more: Any
) -> None:
    """Goals with these amounts, and exposures without any, an hour ago."""
    at = iso(home.clock() - HOUR)
    events: list[dict[str, Any]] = [
        {"user_id": f"u{n}", "timestamp": at, "event_type": goal} | ({} if v is None else {"value": v}) | more
        for n, v in enumerate(amounts)
    ]
    shown = {"event_type": "exposure", "test_id": "earlier", "variant_id": "a", "timestamp": at}
    events += [{"user_id": f"u{n}"} | shown for n in range(exposures)]
    receipt = ingest(home, events, now=home.clock())
    assert receipt.accepted == len(events), receipt.rejected[:2]


def add(home: Home, experiment: Experiment) -> None:
    """Stores a running experiment, so that events of it are taken."""
    with home.db.write() as connection:
        experiments.add(connection, plans.begin(experiment, START - DAY))


def asked(home: Home, rule: Guardrail, goals: tuple[Goal, ...] = GOALS) -> list[str]:
    with home.db.read() as connection:
        return check_guardrails(connection, Plan(goals, guardrails=(rule,)), home.clock())


REVENUE = Guardrail("revenue", 0.05)


@pytest.mark.parametrize(
    ("rule", "goals", "why"),
    [
        (Guardrail("goal:wish", 0.1), GOALS, "goal:wish cannot be watched: the experiment has no such goal, only order, call"),
        (Guardrail("engagement", 0.1), (Goal("order", 0, True), Goal("call", -3)), "no goal has a weight above 0"),
        (Guardrail("speed", 0.1), GOALS, "guardrail is 'speed': give conversions, engagement, revenue"),
    ],
)  # fmt: skip
def test_what_the_plan_alone_makes_blind_is_refused(
    home: Home, rule: Guardrail, goals: tuple[Goal, ...], why: str
) -> None:
    with pytest.raises(InvalidInput, match=why):
        asked(home, rule, goals)


@pytest.mark.parametrize(
    ("amounts", "refused", "warned"),
    [
        ([], False, ""),  # nobody knows yet
        ([None] * 99, False, ""),
        ([None] * 100, True, ""),
        ([0.0] * 100, True, ""),
        ([None] * 100 + [12.0], False, ""),
        ([5.0, -9.0], False, "the amounts in the last 28 days add up to -4.00, which is not above 0"),
    ],
)
def test_revenue_is_refused_where_goals_come_without_amounts(
    home: Home, amounts: list[float | None], refused: bool, warned: str
) -> None:
    post(home, amounts)
    if refused:
        with pytest.raises(
            InvalidInput, match=r"none of 100 goals in the last 28 days came with an amount; guard a"
        ):
            asked(home, REVENUE)
        return
    said = asked(home, REVENUE)
    assert said == ([f"Guardrail revenue may never be watched: {warned}."] if warned else [])


def test_other_goals_other_times_and_other_visitors_say_nothing(home: Home) -> None:
    post(home, [None] * 60)
    post(home, [3.0] * 60, goal="download")
    made_up = Experiment("made-up", "", TWO, Plan(GOALS), source="generate", created_at=START)
    add(home, made_up)
    post(home, [None] * 60, goal="call", test_id="made-up")
    assert asked(home, REVENUE) == []
    set_clock(home, START + 29 * DAY)
    post(home, [None] * 60)
    assert asked(home, REVENUE) == []
    post(home, [None] * 40, goal="call")
    with pytest.raises(InvalidInput, match="none of 100 goals"):
        asked(home, REVENUE)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (Guardrail("goal:call", 0.1), True),
        (Guardrail("goal:call", 0.1, "more"), False),  # no complaint at all is as it should be
        (Guardrail("goal:order", 0.1), False),
        (Guardrail("conversions", 0.1), False),
        (Guardrail("engagement", 0.1), False),
    ],
)
def test_a_goal_that_nobody_reaches_is_told(home: Home, rule: Guardrail, told: bool) -> None:
    add(home, Experiment("earlier", "", TWO, Plan(GOALS), created_at=START - DAY))
    post(home, [1.0], exposures=999)
    assert asked(home, rule) == []
    set_clock(home, START + HOUR)
    post(home, [1.0], exposures=1000)
    said = asked(home, rule)
    assert bool(said) == told
    if told:
        assert said == [
            "Guardrail goal:call may never be watched: nobody reached it in the last 28 days, at 1,999 exposures."
        ]


def test_weights_below_0_are_told(home: Home) -> None:
    (said,) = asked(home, Guardrail("engagement", 0.1), (Goal("order", 100, True), Goal("return", -50)))
    assert said.startswith("Guardrail engagement may never be watched: some goals have weights below 0")


def test_a_start_is_refused_or_warned_by_settings(tmp_path: Path) -> None:
    blind = home_with(tmp_path / "blind", {"metric": "engagement", "max_drop": 0.1}, weights={"order": 0})
    with pytest.raises(InvalidInput, match="guardrail engagement cannot be watched") as refused:
        create_experiment(blind, NewExperiment("hero", TWO), now=START, actor="test")
    assert refused.value.field == "statistics.guardrails"
    with blind.db.read() as connection:
        assert experiments.with_status(connection) == []
    create_experiment(blind, NewExperiment("hero", TWO, start=False), now=START, actor="test")
    report = orchestrate(blind, now=START)
    assert [f["experiment"] for f in report.failures] == ["(drafts)"]
    assert "guard a goal or conversions" in report.failures[0]["error"]

    warned = home_with(tmp_path / "warned", {"metric": "revenue", "max_drop": 0.1})
    post(warned, [5.0, -9.0])
    made = create_experiment(warned, NewExperiment("hero", TWO), now=START, actor="test")
    assert "Guardrail revenue may never be watched" in made.reasoning


def looked_at(
    means: tuple[float, float], *rules: Guardrail, rule: int = 2, converted: int = 100, final: bool = False
) -> list[tuple[str, str]]:
    """What one look at 1,000 visitors each says of guardrails, revenue having these means."""
    plan = Plan(GOALS, guardrails=rules, rule=rule, finished=final, base_rate=0.1, units=100_000)  # type: ignore[arg-type]
    experiment = plans.begin(Experiment("hero", "Hero", TWO, plan), START)
    cells = [
        Cell(0, key, 1000, converted, value_sum=1000 * mean, value_sumsq=1000 * (mean**2 + 1))
        for key, mean in zip("ab", means, strict=True)
    ]
    found = decide(experiment, cells, as_of=START + 3 * DAY).decision
    assert (found.verdict is Verdict.CONTINUE) != final
    return [(r.code, r.text) for r in found.reasons if r.code == "guardrail_unwatched"]


def test_a_mean_that_is_not_above_0_is_told_at_every_look_and_once() -> None:
    three = replace_variants(3)
    said = looked_at((-2.0, -2.0), REVENUE)
    assert said == [
        (
            "guardrail_unwatched",
            "The guardrail of revenue per visitor cannot be watched: its mean is not above 0, so that no change in per "
            "cent can be told.",
        )
    ]
    assert looked_at((-2.0, -2.0), REVENUE, rule=1) == []
    assert looked_at((-0.1, 3.0), REVENUE) == said  # the control's counts, whatever the challenger's is
    assert looked_at((3.0, 3.0), REVENUE) == []
    cells = [Cell(0, key, 1000, 100, value_sum=-5.0, value_sumsq=9.0) for key in "abc"]
    found = decide(three, cells, as_of=START + 3 * DAY).decision
    assert [r.code for r in found.reasons].count("guardrail_unwatched") == 1
    assert [state.status for state in found.evidence.guardrails or ()] == ["no_data", "no_data"]
    assert all(state.relative is None for state in found.evidence.guardrails or ())


def replace_variants(number: int) -> Experiment:
    variants = tuple(Variant(key, key.upper(), is_control=key == "a") for key in "abcd"[:number])
    return plans.begin(
        Experiment("hero", "Hero", variants, replace(Plan(GOALS), guardrails=(REVENUE,))), START
    )


def test_a_goal_that_nobody_reached_is_told_at_the_end() -> None:
    calls = Guardrail("goal:call", 0.1)
    assert looked_at((1.0, 1.0), calls) == []
    ((_, text),) = looked_at((1.0, 1.0), calls, final=True)
    assert text.endswith("cannot be watched: nobody had the guarded outcome.")


def test_the_first_rule_tells_it_as_it_did() -> None:
    plan = Plan(GOALS, guardrails=(REVENUE,), rule=1)
    experiment = plans.begin(Experiment("hero", "Hero", TWO, plan), START)
    cells = [Cell(0, key, 500, 20, value_sum=-9.0, value_sumsq=9.0) for key in "ab"]
    (state,) = guardrails(experiment, cells)
    assert state.reason == "no bin with 30 units in each variant and a positive mean"
    assert state.text.startswith("Guardrail not yet watched: revenue")
