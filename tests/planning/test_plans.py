"""From settings to a plan, and from a plan to the schedule of epochs."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_effectsize

from cro_core.config import Config, validate
from cro_core.domain import Experiment, Status, Variant
from cro_core.planning import plans
from cro_core.statistics.sample_size import inflation

START = datetime(2026, 3, 2, 10, 30, tzinfo=UTC)


def draft(**plan: object) -> Experiment:
    made = replace(plans.new_plan(Config()), **plan)  # type: ignore[arg-type]
    return Experiment("x", "X", (Variant("a", "A", is_control=True), Variant("b", "B")), made)


def test_defaults_are_those_that_ship() -> None:
    plan = plans.new_plan(Config())
    assert (plan.alpha, plan.power, plan.mde, plan.floor) == (0.05, 0.8, 0.1, 0.3)
    assert plan.units == 2 * round(
        inflation(adaptive=True) * 53_211
    )  # published for 3 % and +10 %; hourly looks, moving shares
    assert (plan.horizon, plan.window) == (timedelta(days=14), timedelta(hours=24))
    assert (plan.gate, plan.at_horizon, plan.adaptive) == ("not_excluded", "keep_control", True)
    assert [g.name for g in plan.goals if g.primary] == ["contact_form_submit"]


def test_sample_agrees_with_statsmodels() -> None:
    plan = plans.new_plan(validate({"smart_traffic_allocation": {"enabled": False}}), base_rate=0.12)
    effect = proportion_effectsize(0.12 * 1.1, 0.12)
    theirs = NormalIndPower().solve_power(effect, alpha=0.05, power=0.8)
    assert plan.units is not None
    assert plan.units / 2 / 1.10 == pytest.approx(
        theirs, rel=0.005
    )  # they use the arcsine, we the score test


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        ({"automation": {"confidence_level": 0.9}}, "alpha", 0.1),
        ({"automation": {"test_duration_max_days": 21}}, "horizon", timedelta(days=21)),
        ({"automation": {"min_sample_size": 250}}, "min_units", 250),
        ({"automation": {"min_conversion_difference": 0.2}}, "min_uplift", 0.2),
        ({"automation": {"min_conversion_difference": 0.2}}, "mde", 0.2),
        ({"statistics": {"minimum_detectable_uplift": 0.3}}, "mde", 0.3),
        ({"statistics": {"power": 0.9}}, "power", 0.9),
        ({"statistics": {"base_rate": 0.05}}, "base_rate", 0.05),
        ({"statistics": {"min_uplift_gate": "proven"}}, "gate", "proven"),
        ({"statistics": {"at_horizon": "pick_leader"}}, "at_horizon", "pick_leader"),
        ({"statistics": {"conversion_window_hours": 6}}, "window", timedelta(hours=6)),
        ({"smart_traffic_allocation": {"enabled": False}}, "adaptive", False),
        ({"smart_traffic_allocation": {"min_traffic_to_loser": 10}}, "floor", 0.1),
        ({"site": {"time_zone": "Europe/Paris"}}, "zone", "Europe/Paris"),
    ],
)
def test_every_setting_reaches_the_plan(settings: dict[str, object], field: str, value: object) -> None:
    default, changed = plans.new_plan(Config()), plans.new_plan(validate(settings))
    assert getattr(changed, field) == value
    assert getattr(default, field) != value


@pytest.mark.parametrize(
    "settings",
    [
        {"automation": {"confidence_level": 0.9}},
        {"statistics": {"power": 0.9}},
        {"statistics": {"base_rate": 0.05}},
        {"statistics": {"minimum_detectable_uplift": 0.3}},
    ],
)
def test_planned_sample_follows_its_inputs(settings: dict[str, object]) -> None:
    assert plans.new_plan(validate(settings)).units != plans.new_plan(Config()).units


def test_more_variants_need_more_each_and_have_a_lower_floor() -> None:
    two, three = plans.new_plan(Config(), variants=2), plans.new_plan(Config(), variants=3)
    assert two.units is not None
    assert three.units is not None
    # alpha is shared by two comparisons, but control-matched shares cost less than two that move freely
    assert three.units / 3 / 1.10 > two.units / 2 / inflation(adaptive=True)
    assert three.floor == pytest.approx(0.1)


def test_fixed_shares_are_one_epoch() -> None:
    running = plans.begin(draft(adaptive=False), START)
    (epoch,) = running.epochs
    assert running.status is Status.RUNNING
    assert (epoch.starts_at, epoch.ends_at, epoch.weight) == (START, START + timedelta(days=13), 1.0)
    assert epoch.shares == {"a": 0.5, "b": 0.5}


def test_epochs_are_the_days_of_the_site() -> None:
    """Paris leaves winter time on 29 March: that day has 23 hours, and weighs as much."""
    start = datetime(2026, 3, 25, 10, 30, tzinfo=UTC)
    running = plans.begin(draft(adaptive=True, zone="Europe/Paris"), start)
    hours = [(e.ends_at - e.starts_at) / timedelta(hours=1) for e in running.epochs]
    assert hours[:5] == [12.5, 24, 24, 24, 23]
    assert sum(hours) == 13 * 24
    assert sum(e.weight for e in running.epochs) == pytest.approx(1)
    assert running.epochs[4].weight / running.epochs[3].weight == pytest.approx(23 / 24)
    assert all(a.ends_at == b.starts_at for a, b in zip(running.epochs, running.epochs[1:], strict=False))
    assert [e.number for e in running.epochs] == list(range(len(running.epochs)))


def test_seeds_differ_so_that_experiments_are_independent() -> None:
    one = plans.begin(draft(), START)
    other = plans.begin(replace(draft(), id="y"), START)
    assert one.seed != other.seed
    assert plans.begin(replace(draft(), seed="mine"), START).seed == "mine"
