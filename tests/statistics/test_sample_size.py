import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import normal_power_het, normal_sample_size_one_tail

from cro_core.errors import InvalidInput
from cro_core.statistics.sample_size import (
    LOOKS,
    SWING,
    attainable_uplift,
    choices,
    inflation,
    inflation_of_looks,
    plan_size,
    power_of,
    power_of_mean,
    sample_size,
    sample_size_mean,
)
from cro_core.statistics.sequential import Spending, boundaries, design
from cro_core.statistics.sequential import power as sequential_power

SIZES = {  # base rate -> visitors per variant at 80 % power for +10, +20, +30 %
    0.01: (163_095, 42_693, 19_827),
    0.03: (53_211, 13_914, 6_455),
    0.10: (14_751, 3_841, 1_774),
}

rates = st.floats(0.005, 0.4)
uplifts = st.floats(0.03, 0.8)


def deviations(base, other):
    middle = (base + other) / 2
    return math.sqrt(2 * middle * (1 - middle)), math.sqrt(base * (1 - base) + other * (1 - other))


@pytest.mark.parametrize("rate", SIZES)
def test_reference_sizes(rate):
    assert tuple(sample_size(rate, uplift) for uplift in (0.1, 0.2, 0.3)) == SIZES[rate]


def test_the_size_of_ab_data_at_its_own_rate():
    """Base rate 12 %, MDE 10 %: 14,319 per variant with the price of hourly looks and futility."""
    assert plan_size(0.12, 0.1).units_per_variant == 14_319
    assert plan_size(0.12, 0.1, rule=1).units_per_variant == 13_204  # as planned before


@settings(deadline=None)
@given(rates, uplifts, st.floats(0.001, 0.2), st.floats(0.5, 0.99))
def test_sizes_against_statsmodels(rate, uplift, alpha, power):
    other = rate * (1 + uplift)
    null_sd, effect_sd = deviations(rate, other)
    judge = normal_sample_size_one_tail(other - rate, power, alpha / 2, null_sd, effect_sd)
    found = sample_size(rate, uplift, alpha=alpha, power=power)
    assert found == math.ceil(judge) or found == pytest.approx(judge, rel=1e-9)


@settings(deadline=None)
@given(rates, uplifts, st.integers(10, 10**6), st.floats(0.001, 0.2))
def test_power_against_statsmodels(rate, uplift, units, alpha):
    other = rate * (1 + uplift)
    null_sd, effect_sd = deviations(rate, other)
    judge = normal_power_het(
        other - rate, units, alpha / 2, std_null=null_sd, std_alternative=effect_sd, alternative="larger"
    )
    judge = judge[0] if np.ndim(judge) else judge
    assert power_of(rate, uplift, units, alpha=alpha) == pytest.approx(judge, abs=1e-9)


@settings(deadline=None)
@given(rates, st.integers(200, 10**6), st.floats(0.5, 0.95))
def test_the_attainable_uplift_has_the_power_asked_for(rate, units, power):
    found = attainable_uplift(rate, units, power=power)
    if math.isnan(found):
        assert power_of(rate, (1 - rate) / rate * (1 - 1e-9), units) <= power
    else:
        assert power_of(rate, found, units) == pytest.approx(power, abs=1e-9)


def test_power_by_simulation():
    """40,000 tests at the planned size: Monte-Carlo error 0.2 points."""
    n, rng = sample_size(0.05, 0.3), np.random.default_rng(5)
    x0, x1 = rng.binomial(n, 0.05, 40_000), rng.binomial(n, 0.065, 40_000)
    rate = (x0 + x1) / (2 * n)
    z = (x1 - x0) / n / np.sqrt(2 * rate * (1 - rate) / n)
    assert np.mean(z > stats.norm.isf(0.025)) == pytest.approx(0.8, abs=0.007)


def test_means():
    n = sample_size_mean(10, 1)
    assert n == math.ceil(2 * ((stats.norm.isf(0.025) + stats.norm.isf(0.2)) * 10) ** 2) == 1570
    assert power_of_mean(10, 1, n) == pytest.approx(0.8, abs=2e-4)
    assert power_of_mean(10, -1, n) == power_of_mean(10, 1, n)
    assert sample_size_mean(10, 1, alpha=0.01) > n < sample_size_mean(10, 1, power=0.9)
    assert power_of_mean(10, 1, n, alpha=0.01) < 0.8


def test_no_effect_leaves_half_of_alpha_to_find_it():
    assert power_of(0.03, 0.0, 1000, alpha=0.04) == pytest.approx(0.02)


PRICES = {  # family and parameter -> inflation at 336 looks with 80 and 90 % power
    ("pocock", None): (1.286, 1.260),
    ("obrien_fleming", None): (1.057, 1.054),
    ("kim_demets", 3): (1.064, 1.060),
    ("hwang_shih_decani", -4): (1.052, 1.049),
    ("hwang_shih_decani", -6): (1.028, 1.027),
    ("hwang_shih_decani", -8): (1.017, 1.016),
}


@pytest.mark.parametrize("family", PRICES)
def test_looks_cost_what_the_family_says(family):
    spending = Spending(*family)
    found = [inflation_of_looks(spending, power=power) for power in (0.8, 0.9)]
    assert found == pytest.approx(PRICES[family], abs=0.00051)
    hours = np.arange(1, LOOKS + 1) / LOOKS
    assert found[0] == pytest.approx(design(hours, spending=spending).inflation, abs=1e-5)


@pytest.mark.parametrize(
    ("spending", "alpha", "power"),
    [
        (Spending("pocock"), 0.001, 0.999),
        (Spending("pocock"), 0.4, 0.51),
        (Spending(), 0.0005, 0.8),
        (Spending(parameter=10), 0.05, 0.8),
        (Spending("kim_demets", 0.1), 0.05, 0.8),
    ],
)
def test_looks_cost_what_their_design_says(spending, alpha, power):
    hours = np.arange(1, LOOKS + 1) / LOOKS
    wanted = design(hours, alpha=alpha, target=power, spending=spending).inflation
    assert inflation_of_looks(spending, alpha=alpha, power=power) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("family", PRICES)
def test_the_planned_power_is_true_of_every_family(family):
    """One experiment at the planner's sample, flat traffic and constant rate: 80 % (no price of swings is needed)."""
    spending, hours = Spending(*family), np.arange(1, LOOKS + 1) / LOOKS
    factor = inflation(spending=spending, futility=False) / SWING
    drift = math.sqrt(factor) * (stats.norm.isf(0.025) + stats.norm.isf(0.2))
    critical = boundaries(hours, spending=spending)
    assert sequential_power(hours, critical, drift) == pytest.approx(0.8, abs=1e-4)


def test_hourly_looks_futility_and_moving_shares_have_their_price():
    looks = inflation_of_looks(Spending())
    assert inflation(futility=False) == inflation(variants=3, adaptive=True, futility=False)
    assert inflation(futility=False) == pytest.approx(1.052 * 1.05, abs=0.0005)
    assert inflation() == pytest.approx(looks * 1.05 * 1.08) == pytest.approx(1.193, abs=0.0005)
    floors = (0.3, 0.2, 0.1)
    moving = [inflation(adaptive=True, floor=f, futility=False) for f in floors]
    assert moving == pytest.approx([1.18, 1.24, 1.28])
    assert [inflation(adaptive=True, floor=f) for f in floors] == pytest.approx([1.235, 1.33, 1.37])
    steps = [inflation(adaptive=True, floor=f) for f in (0.01, 0.03, 0.05, 0.07, 0.1, 0.15, 0.25, 0.4, 0.5)]
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] == pytest.approx(inflation())  # half the visitors each: nothing moves
    between = inflation(adaptive=True, floor=math.sqrt(0.02))
    assert between == pytest.approx((1.33 + 1.37) / 2)
    assert inflation(adaptive=True, floor=0.05) == pytest.approx(1.41)  # as much again for half the floor
    assert inflation(adaptive=True) == inflation(adaptive=True, floor=0.1)


@pytest.mark.parametrize("family", PRICES)
@pytest.mark.parametrize("variants", [2, 3])
def test_moving_shares_cost_the_more_for_other_families(family, variants):
    spending, default = Spending(*family), Spending()
    moving = inflation(variants=variants, adaptive=True, spending=spending)
    ratio = inflation_of_looks(spending) / inflation_of_looks(default)
    assert moving == pytest.approx(inflation(variants=variants, adaptive=True) * ratio)


def test_experiments_of_the_first_rule_keep_its_factors():
    assert inflation(rule=1) == inflation(variants=4, adaptive=True, rule=1) == 1.10
    assert inflation(rule=1, spending=Spending("pocock"), futility=False, power=0.9, alpha=0.01) == 1.10
    first = [inflation(adaptive=True, floor=f, rule=1) for f in (0.5, 0.3, 0.1, 0.05, 0.025)]
    assert first == pytest.approx([1.1, 1.3, 2.4, 3.6, 7.2])
    often = {"traffic_per_day": 20_000, "rule": 1}
    assert plan_size(0.03, 0.1, **often).power == pytest.approx(0.8, abs=1e-4)  # it ends with its sample
    assert plan_size(0.03, 0.1, traffic_per_day=20_000).power > 0.95


def test_a_plan_has_its_price():
    fixed = sample_size(0.03, 0.1)
    plan = plan_size(0.03, 0.1)
    assert plan.units_per_variant == pytest.approx(inflation() * fixed, abs=0.51)
    assert plan.units == 2 * plan.units_per_variant == 126_942
    assert math.isnan(plan.days_needed)
    assert math.isnan(plan.power)
    assert plan_size(0.03, 0.1, adaptive=True).units_per_variant == pytest.approx(1.37 * fixed, abs=0.51)
    three = plan_size(0.03, 0.1, variants=3)
    each = inflation(variants=3, alpha=0.025) * sample_size(0.03, 0.1, alpha=0.025)
    assert three.units_per_variant == pytest.approx(each, abs=0.51)
    assert three.units == 3 * three.units_per_variant


def test_low_traffic_is_told_before_the_start():
    """300 visitors a day at 3 %: 14 days find about +61 %, a true +10 % takes 423 days."""
    plan = plan_size(0.03, 0.1, traffic_per_day=300)
    assert plan.underpowered
    assert plan.attainable_uplift == pytest.approx(0.61, abs=0.005)
    assert plan.days_needed == pytest.approx(423, abs=1)
    assert plan.power < 0.15
    enough = plan_size(0.03, 0.1, traffic_per_day=10_000)
    assert not enough.underpowered
    assert 0.83 < enough.power < 0.86  # two weeks bring more than the sample, and all of it counts
    assert enough.attainable_uplift < 0.1
    just = plan_size(0.03, 0.1, traffic_per_day=enough.units / 14)
    assert not just.underpowered
    assert just.power == pytest.approx(0.8, abs=1e-4)


def test_choices_are_a_table():
    rows = choices(0.03, 0.1, 300, variants=3, adaptive=True, wider_goals={"leads": 0.09}, weeks=(4, 8))
    assert [row.name for row in rows] == [
        "as configured",
        "two variants, fixed shares, 4 weeks",
        "two variants, fixed shares, 8 weeks",
        "wider goal leads, 4 weeks",
        "wider goal leads, 8 weeks",
    ]
    configured, four, eight, lead_four, lead_eight = rows
    assert (configured.variants, configured.adaptive, configured.days) == (3, True, 14)
    assert configured.attainable_uplift > four.attainable_uplift > eight.attainable_uplift
    assert four.attainable_uplift > lead_four.attainable_uplift > lead_eight.attainable_uplift
    assert configured.power < four.power < eight.power < lead_eight.power
    assert four.days_needed == eight.days_needed > lead_four.days_needed
    assert lead_four.base_rate == 0.09


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"base_rate": 0.05}, "units"),
        ({"relative_uplift": 0.2}, "units"),
        ({"variants": 3}, "units"),
        ({"adaptive": True}, "units"),
        ({"alpha": 0.01}, "units"),
        ({"power": 0.9}, "units"),
        ({"spending": Spending("pocock")}, "units"),
        ({"futility": False}, "units"),
        ({"rule": 1}, "units"),
        ({"traffic_per_day": 2000}, "days_needed"),
        ({"horizon_days": 28}, "attainable_uplift"),
    ],
)
def test_every_argument_changes_the_answer(change, field):
    base = {"base_rate": 0.03, "relative_uplift": 0.1, "traffic_per_day": 1000}
    assert getattr(plan_size(**base), field) != getattr(plan_size(**{**base, **change}), field)


@pytest.mark.parametrize(
    "change",
    [
        {"variants": 3}, {"adaptive": False}, {"floor": 0.2}, {"alpha": 0.01}, {"power": 0.9},
        {"spending": Spending(parameter=-8)}, {"futility": False}, {"rule": 1},
    ],
)  # fmt: skip
def test_every_argument_changes_the_factor_and_the_choices(change):
    base = {"adaptive": True, "spending": Spending("pocock")}
    assert inflation(**base) != inflation(**{**base, **change})
    shown, other = (choices(0.03, 0.1, 300, **arguments) for arguments in (base, {**base, **change}))
    assert shown[0] != other[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_size(0, 0.1), "base_rate is 0: give a number between 0 and 1"),
        (lambda: sample_size(1.2, 0.1), "base_rate is 1.2"),
        (lambda: sample_size(0.03, 0), "relative_uplift is 0: give an effect other than 0"),
        (lambda: sample_size(0.5, 1.2), "relative_uplift is 1.2"),
        (lambda: sample_size(0.03, math.nan), "relative_uplift is nan"),
        (lambda: sample_size(0.03, 0.1, alpha=1.5), "alpha is 1.5: give a number between 0 and 1"),
        (lambda: sample_size(0.03, 0.1, power=0.01), "power is 0.01"),
        (lambda: power_of(0.03, 0.1, 0), "units_per_variant is 0"),
        (lambda: sample_size_mean(0, 1), "sd is 0"),
        (lambda: sample_size_mean(1, 0), "difference is 0"),
        (lambda: inflation(variants=1), "variants is 1: give at least 2"),
        (lambda: inflation(adaptive=True, floor=0.7), "floor is 0.7"),
        (lambda: inflation_of_looks(Spending(), alpha=0), "alpha is 0"),
        (lambda: inflation_of_looks(Spending(), power=1), "power is 1"),
        (lambda: plan_size(0.03, 0.1, traffic_per_day=0), "traffic_per_day is 0"),
        (lambda: plan_size(0.03, 0.1, traffic_per_day=10, horizon_days=-1), "horizon_days is -1"),
        (lambda: attainable_uplift(0.03, 100, power=2), "power is 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()
