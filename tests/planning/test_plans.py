"""From settings to a plan, and from a plan to the schedule of epochs."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_effectsize

from cro_core.config import Config, validate
from cro_core.domain import Experiment, Status, Variant
from cro_core.planning import plans
from cro_core.planning.week_profile import FLAT, WeekProfile, week_profile
from cro_core.statistics.sample_size import inflation, plan_size, sample_size
from cro_core.statistics.sequential import Spending

START = datetime(2026, 3, 2, 10, 30, tzinfo=UTC)


def draft(**plan: object) -> Experiment:
    made = replace(plans.new_plan(Config()), **plan)  # type: ignore[arg-type]
    return Experiment("x", "X", (Variant("a", "A", is_control=True), Variant("b", "B")), made)


def test_defaults_are_those_that_ship() -> None:
    plan = plans.new_plan(Config())
    assert (plan.alpha, plan.power, plan.mde, plan.floor) == (0.05, 0.8, 0.1, 0.1)
    # published for 3 % and +10 %; looks, futility, moving shares
    assert plan.units == 2 * round(inflation(adaptive=True) * 53_211)
    assert (plan.horizon, plan.window) == (timedelta(days=15), timedelta(hours=24))
    assert (plan.rule, plan.admitted, plan.max_crossover) == (2, 1.0, 0.05)
    assert (plan.gate, plan.at_horizon, plan.adaptive) == ("not_excluded", "keep_control", True)
    assert [g.name for g in plan.goals if g.primary] == ["contact_form_submit"]


def test_sample_agrees_with_statsmodels() -> None:
    plan = plans.new_plan(validate({"smart_traffic_allocation": {"enabled": False}}), base_rate=0.12)
    effect = proportion_effectsize(0.12 * 1.1, 0.12)
    theirs = NormalIndPower().solve_power(effect, alpha=0.05, power=0.8)
    assert plan.units is not None
    assert plan.units / 2 / inflation() == pytest.approx(
        theirs, rel=0.005
    )  # they use the arcsine, we the score test


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        ({"automation": {"confidence_level": 0.9}}, "alpha", 0.1),
        ({"automation": {"test_duration_max_days": 21}}, "horizon", timedelta(days=22)),
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
        ({"smart_traffic_allocation": {"min_traffic_to_loser": 30}}, "floor", 0.3),
        ({"statistics": {"conversion_window_hours": 48}}, "horizon", timedelta(days=16)),
        ({"statistics": {"max_crossover": 0.2}}, "max_crossover", 0.2),
        ({"statistics": {"futility": False}}, "futility", False),
        ({"statistics": {"spending_function": "pocock"}}, "spending", "pocock"),
        ({"statistics": {"spending_parameter": -8}}, "spending_parameter", -8),
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
        {"statistics": {"futility": False}},
        {"statistics": {"spending_function": "pocock"}},
        {"statistics": {"spending_parameter": -8}},
        {"smart_traffic_allocation": {"min_traffic_to_loser": 20}},
        {"smart_traffic_allocation": {"enabled": False}},
    ],
)
def test_planned_sample_follows_its_inputs(settings: dict[str, object]) -> None:
    assert plans.new_plan(validate(settings)).units != plans.new_plan(Config()).units


def test_more_variants_need_more_each_and_have_the_same_floor() -> None:
    two, three = plans.new_plan(Config(), variants=2), plans.new_plan(Config(), variants=3)
    assert two.units is not None
    assert three.units is not None
    # alpha is shared by two comparisons, but control-matched shares cost less than two that move freely
    assert three.units / 3 / inflation(variants=3) > two.units / 2 / inflation(adaptive=True)
    assert two.floor == three.floor == pytest.approx(0.1)


@pytest.mark.parametrize(("days", "weeks"), [(1, 1), (6, 1), (13, 1), (14, 2), (20, 2), (365, 52)])
def test_enrolment_is_in_whole_weeks(days: int, weeks: int) -> None:
    plan = plans.new_plan(validate({"automation": {"test_duration_max_days": days}}))
    assert plans.enrolment(plan) == timedelta(weeks=weeks)
    assert (plans.enrolment_weeks(plan), plan.horizon) == (weeks, timedelta(weeks=weeks, hours=24))


@pytest.mark.parametrize(
    ("units", "traffic", "most", "expected"),
    [
        (None, 100.0, 3, (3, 1.0)),  # nothing was planned
        (1000, None, 3, (3, 1.0)),  # nobody knows who comes
        (7000, 1000.0, 3, (1, 1.0)),  # just a week
        (7001, 1000.0, 3, (2, 1.0)),
        (14_000, 1000.0, 3, (2, 1.0)),
        (14_001, 1000.0, 3, (3, 1.0)),
        (90_000, 1000.0, 3, (3, 1.0)),  # the time is up before
        (6999, 1000.0, 3, (1, 1.0)),
        (3501, 1000.0, 3, (1, 0.51)),  # rounded up
        (3500, 1000.0, 3, (1, 0.5)),
        (3500, 1000.0, 1, (1, 0.5)),
        (861, 1000.0, 3, (1, 0.13)),
        (86, 1000.0, 3, (1, 0.013)),
        (1, 1e9, 3, (1, 0.0001)),  # a bucket of the assignment remains
    ],
)
def test_weeks_and_visitors_follow_the_traffic(
    units: int | None, traffic: float | None, most: int, expected: tuple[int, float]
) -> None:
    assert plans.pace(units, traffic, most) == expected


@given(st.integers(1, 10**7), st.floats(0.1, 1e7), st.integers(1, 20))
def test_the_visitors_let_in_are_enough_and_few(units: int, traffic: float, most: int) -> None:
    weeks, admitted = plans.pace(units, traffic, most)
    come = weeks * 7 * traffic * admitted
    assert 1 <= weeks <= most
    assert 0 < admitted <= 1
    assert weeks == 1 or admitted == 1
    assert come >= units * (1 - 1e-9) or (weeks == most and admitted == 1)
    assert weeks in (1, most) or come - 7 * traffic < units
    if admitted < 1:
        assert come <= units * 1.1 + 1e-4 * 7 * traffic
        assert (admitted * 10_000).is_integer() or admitted * 10_000 == pytest.approx(
            round(admitted * 10_000)
        )


def test_a_plan_is_settled_at_its_start() -> None:
    plan = replace(plans.new_plan(Config()), adaptive=False)
    plan = plans.with_alpha(plan, plan.alpha)
    assert plan.units == 126_942
    slow, two, quick, rush = (plans.settled(plan, traffic) for traffic in (3000, 9000, 18_500, 100_000))
    weeks = [plans.enrolment(p) / timedelta(weeks=1) for p in (slow, two, quick, rush)]
    assert weeks == [2, 2, 1, 1]
    assert [p.admitted for p in (slow, two, quick, rush)] == [1, 1, 0.99, 0.19]
    assert rush.horizon == timedelta(days=8)
    assert rush == replace(plan, horizon=rush.horizon, admitted=0.19)
    assert plans.settled(plan, None) == plan
    assert plans.settled(replace(plan, window=timedelta(hours=6)), 9000).horizon == timedelta(
        days=14, hours=6
    )
    patient = plans.patient(plan, 8)
    assert patient.horizon == timedelta(weeks=8, hours=24)
    assert plans.enrolment_weeks(plans.settled(patient, 3000)) == 7
    three = plans.settled(plan, 9000, variants=3)
    assert three.units is not None
    assert three.units > 1.5 * 126_942


def test_a_draft_of_the_first_rule_becomes_one_of_the_second_when_it_starts() -> None:
    own = {"spending": "pocock", "floor": 0.3, "mde": 0.2, "alpha": 0.02, "futility": False, "adaptive": True}
    old = replace(
        plans.new_plan(Config()),
        rule=1,
        horizon=timedelta(days=14),
        units=999,
        **own,  # type: ignore[arg-type]
    )
    new = plans.settled(old, None)
    assert (new.rule, new.horizon) == (2, timedelta(days=15))
    assert {name: getattr(new, name) for name in own} == own
    sized = plan_size(
        0.03, 0.2, adaptive=True, floor=0.3, alpha=0.02, spending=Spending("pocock"), futility=False
    )
    assert new.units == sized.units
    assert plans.enrolment_weeks(plans.settled(replace(old, horizon=timedelta(days=30)), 1)) == 4
    assert plans.enrolment_weeks(plans.settled(replace(old, horizon=timedelta(days=3)), None)) == 1
    first = plans.size(old)
    assert first is not None
    assert first.units_per_variant == round(
        1.3 * sample_size(0.03, 0.2, alpha=0.02)
    )  # as it was planned then


@pytest.mark.parametrize(
    ("spending", "percent"),
    [
        (Spending("pocock"), 22),
        (Spending(parameter=0), 15),
        (Spending("kim_demets", 1), 15),
        (Spending(), None),
        (Spending("obrien_fleming"), None),
        (Spending("kim_demets"), None),
        (Spending(parameter=-8), None),
    ],
)
def test_a_costly_way_to_spend_alpha_is_warned_of(spending: Spending, percent: int | None) -> None:
    warning = plans.spending_warning(spending, alpha=0.05, power=0.8)
    if percent is None:
        assert warning is None
        return
    assert warning is not None
    assert f"{spending.family}" in warning
    assert f"needs {percent} % more visitors than hwang_shih_decani." in warning


def test_the_warning_follows_level_and_power() -> None:
    said = {
        plans.spending_warning(Spending("pocock"), alpha=a, power=p)
        for a, p in ((0.05, 0.8), (0.01, 0.8), (0.05, 0.99))
    }
    assert len(said) == 3


def test_fixed_shares_are_one_epoch() -> None:
    running = plans.begin(draft(adaptive=False), START)
    (epoch,) = running.epochs
    assert running.status is Status.RUNNING
    assert (epoch.starts_at, epoch.ends_at, epoch.weight) == (START, START + timedelta(days=14), 1.0)
    assert epoch.shares == {"a": 0.5, "b": 0.5}


def test_epochs_are_the_days_of_the_site() -> None:
    """Paris leaves winter time on 29 March: that day has 23 hours, and weighs as much."""
    start = datetime(2026, 3, 25, 10, 30, tzinfo=UTC)
    running = plans.begin(draft(adaptive=True, zone="Europe/Paris"), start)
    hours = [(e.ends_at - e.starts_at) / timedelta(hours=1) for e in running.epochs]
    assert hours[:5] == [12.5, 24, 24, 24, 23]
    assert sum(hours) == 14 * 24
    assert sum(e.weight for e in running.epochs) == pytest.approx(1)
    assert running.epochs[4].weight / running.epochs[3].weight == pytest.approx(23 / 24)
    assert all(a.ends_at == b.starts_at for a, b in zip(running.epochs, running.epochs[1:], strict=False))
    assert [e.number for e in running.epochs] == list(range(len(running.epochs)))


EVENINGS = week_profile(
    [(day, hour, 60 if 17 <= hour < 23 else 2) for day in range(7) for hour in range(24)], [2] * 7
)
WEEKDAYS = week_profile(
    [(day, hour, 90 if day < 5 else 10) for day in range(7) for hour in range(24)], [2] * 7
)


def weights(start: datetime, profile: WeekProfile, days: int = 14, zone: str = "UTC") -> list[float]:
    horizon = timedelta(days=days) + timedelta(hours=24)
    running = plans.begin(draft(adaptive=True, horizon=horizon, zone=zone), start, profile)
    assert sum(epoch.weight for epoch in running.epochs) == pytest.approx(1)
    return [epoch.weight for epoch in running.epochs]


def test_days_weigh_by_hours_where_the_week_is_not_known() -> None:
    """Start at 17:00, and a clock change: 7, 4 x 24, 23, 7 x 24 and 18 hours."""
    start = datetime(2026, 3, 24, 16, tzinfo=UTC)
    found = [weight * 13 * 24 for weight in weights(start, FLAT, 13, "Europe/Paris")]
    assert found == pytest.approx([7, 24, 24, 24, 24, 23, *[24] * 7, 18])
    autumn = datetime(2026, 10, 20, 15, tzinfo=UTC)
    assert 25 in [round(w * 13 * 24) for w in weights(autumn, FLAT, 13, "Europe/Paris")]


def test_days_weigh_what_the_week_of_the_site_expects_of_them() -> None:
    monday = datetime(2026, 3, 2, tzinfo=UTC)
    full = weights(monday, WEEKDAYS)
    assert full == pytest.approx(([90 / 940] * 5 + [10 / 940] * 2) * 2)
    assert full[0] / full[5] == pytest.approx(9)
    assert full[:7] == pytest.approx(full[7:])
    wednesday = weights(monday + timedelta(days=2), WEEKDAYS)
    assert wednesday == pytest.approx(full[2:] + full[:2])
    partial = weights(monday + timedelta(hours=18), WEEKDAYS)
    assert partial[0] / partial[1] == pytest.approx(6 / 24)
    assert partial[-1] / partial[1] == pytest.approx(18 / 24)


def test_a_site_that_lives_in_the_evening_has_its_day_in_the_evening() -> None:
    """Started at 20:00, the first day has three of the six hours in which visitors come."""
    start = datetime(2026, 3, 2, 20, tzinfo=UTC)
    found = weights(start, EVENINGS)
    whole = 6 * 60 + 18 * 2
    assert found[0] / found[1] == pytest.approx((3 * 60 + 2) / whole)
    assert found[-1] / found[1] == pytest.approx((3 * 60 + 17 * 2) / whole)
    by_hours = weights(start, FLAT)
    assert by_hours[0] / by_hours[1] == pytest.approx(4 / 24)
    half_past = weights(start + timedelta(minutes=30), EVENINGS)
    assert half_past[0] / half_past[1] == pytest.approx((2.5 * 60 + 2) / whole)


def test_a_week_is_on_the_clocks_of_the_site() -> None:
    """20:00 in Paris is 19:00 UTC in winter; the night of the clock change has an hour less, the evening does not."""
    start = datetime(2026, 3, 23, 19, tzinfo=UTC)
    found = weights(start, EVENINGS, zone="Europe/Paris")
    whole = 6 * 60 + 18 * 2
    assert found[0] / found[1] == pytest.approx((3 * 60 + 2) / whole)
    assert found[6] / found[1] == pytest.approx((whole - 2) / whole)
    # in Kolkata it is half past midnight: the first day has its whole evening
    assert weights(start, EVENINGS, zone="Asia/Kolkata")[0] > 2 * found[0]


def test_a_day_on_which_nobody_was_seen_weighs_next_to_nothing() -> None:
    closed = week_profile([(day, hour, 10) for day in range(6) for hour in range(24)], [2] * 7)
    found = weights(datetime(2026, 3, 2, tzinfo=UTC), closed)
    assert 0 < found[6] < found[0] / 50


def test_seeds_differ_so_that_experiments_are_independent() -> None:
    one = plans.begin(draft(), START)
    other = plans.begin(replace(draft(), id="y"), START)
    assert one.seed != other.seed
    assert plans.begin(replace(draft(), seed="mine"), START).seed == "mine"
