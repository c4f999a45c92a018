import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cro_core.errors import InvalidInput
from cro_core.statistics.means import MeanDifference, Pairs, Sums, cuped, ratio, welch

with warnings.catch_warnings():  # our warnings are errors, theirs are theirs
    warnings.simplefilter("ignore")
    from tea_tasting.aggr import Aggregates
    from tea_tasting.metrics import Mean, RatioOfMeans

# Hillstrom e-mail test: spend (y) and earlier spend "history" (x), summed per arm
NONE = Pairs(21306, 13908.33, 5132245.81, 2870050.3621, 2597172414.556, 4267933.8399)
MENS = Pairs(21307, 30311.69, 5174105.18, 6759024.4973, 2700687619.275, 9857526.2586)
WOMENS = Pairs(21387, 23038.11, 5187130.98, 4911446.5763, 2652326978.521, 7513096.1923)


def sums(y):
    return Sums(len(y), float(np.sum(y)), float(np.sum(y**2)))


def pairs(y, x):
    return Pairs(len(y), *(float(np.sum(v)) for v in (y, x, y**2, x**2, x * y)))


def spend(p):
    return Sums(p.n, p.y, p.yy)


def aggregates(y, x):
    return Aggregates(
        count_=len(y),
        mean_={"y": y.mean(), "x": x.mean()},
        var_={"y": y.var(ddof=1), "x": x.var(ddof=1)},
        cov_={("x", "y"): float(np.cov(x, y)[0, 1])},
    )


@st.composite
def arms(draw, least=10):
    """Two arms of a few dozen units with a metric, and a positive second one correlated with it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    result = []
    for _ in range(2):
        n, scale = draw(st.integers(least, 60)), draw(st.floats(0.1, 1000))
        x = rng.gamma(draw(st.floats(0.5, 5)), scale, n) + 0.5
        result.append((draw(st.floats(-2, 2)) * x + scale * rng.exponential(2, n) + scale, x))
    return result


def same(found, judge):
    assert found.control == pytest.approx(judge.control, rel=1e-9)
    assert found.variant == pytest.approx(judge.treatment, rel=1e-9)
    scale = abs(found.high - found.low) + abs(found.control)
    assert found.absolute == pytest.approx(judge.effect_size, abs=1e-9 * scale)
    ends = (judge.effect_size_ci_lower, judge.effect_size_ci_upper)
    assert (found.low, found.high) == pytest.approx(ends, abs=1e-9 * scale)
    assert found.p_value == pytest.approx(judge.pvalue, abs=1e-9)
    assert found.statistic == pytest.approx(judge.statistic, rel=1e-8, abs=1e-8)
    if found.relative is not None:
        assert found.relative == pytest.approx(judge.rel_effect_size, rel=1e-9, abs=1e-9)


def test_hillstrom_spend():
    mens, womens = welch(spend(NONE), spend(MENS)), welch(spend(NONE), spend(WOMENS))
    assert (mens.control, mens.variant, womens.variant) == pytest.approx(
        (0.65279, 1.42262, 1.07720), abs=5.1e-6
    )
    assert mens.p_value == pytest.approx(1.164e-07, rel=5e-4)
    assert womens.p_value == pytest.approx(0.0011294, rel=5e-5)


def test_hillstrom_spend_adjusted_for_history():
    """History explains almost nothing of spend here: the adjustment must not pretend otherwise."""
    plain, adjusted = welch(spend(NONE), spend(MENS)), cuped(NONE, MENS)
    assert adjusted.reduction == pytest.approx(0.000438, abs=5e-7)
    assert adjusted.p_value == pytest.approx(plain.p_value, rel=0.1)


@settings(deadline=None)
@given(arms(least=2), st.floats(0.5, 0.999))
def test_welch_against_scipy(data, level):
    (y0, _), (y1, _) = data
    found = welch(sums(y0), sums(y1), level)
    judge = stats.ttest_ind(y1, y0, equal_var=False)
    assert found.p_value == pytest.approx(judge.pvalue, abs=1e-9)
    assert found.df == pytest.approx(judge.df, rel=1e-9)
    ends = judge.confidence_interval(level)
    assert (found.low, found.high) == pytest.approx(ends, abs=1e-9 * (ends.high - ends.low))


@settings(deadline=None)
@given(arms(), st.floats(0.5, 0.999))
def test_welch_against_tea_tasting(data, level):
    (y0, x0), (y1, x1) = data
    found = welch(sums(y0), sums(y1), level)
    metric = Mean("y", confidence_level=level)
    same(found, metric.analyze_aggregates(aggregates(y0, x0), aggregates(y1, x1)))


@settings(deadline=None)
@given(arms(), st.floats(0.5, 0.999))
def test_ratio_against_tea_tasting(data, level):
    (y0, x0), (y1, x1) = data
    metric = RatioOfMeans("y", "x", confidence_level=level)
    judge = metric.analyze_aggregates(aggregates(y0, x0), aggregates(y1, x1))
    found = ratio(pairs(y0, x0), pairs(y1, x1), level)
    assert found.reduction is None
    same(found, judge)


@settings(deadline=None)
@given(arms(), st.floats(0.5, 0.999))
def test_cuped_against_tea_tasting(data, level):
    (y0, x0), (y1, x1) = data
    metric = Mean("y", "x", confidence_level=level)
    judge = metric.analyze_aggregates(aggregates(y0, x0), aggregates(y1, x1))
    found = cuped(pairs(y0, x0), pairs(y1, x1), level)
    same(found, judge)
    both = np.concatenate([y0, y1]), np.concatenate([x0, x1])
    assert found.reduction == pytest.approx(np.corrcoef(*both)[0, 1] ** 2, abs=1e-8)


def test_welch_against_pingouin():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pingouin import ttest

        rng = np.random.default_rng(3)
        y0, y1 = rng.exponential(2, 80), rng.exponential(3, 50)
        judge = ttest(y1, y0, correction=True, confidence=0.9)
    found = welch(sums(y0), sums(y1), 0.9)
    column = next(name for name in judge.columns if name.lower().startswith("p") and "val" in name.lower())
    assert found.p_value == pytest.approx(float(judge[column].iloc[0]), abs=1e-9)
    assert found.df == pytest.approx(float(judge["dof"].iloc[0]), rel=1e-9)


@settings(deadline=None)
@given(arms())
def test_fieller_ends_are_where_the_uplift_is_just_refused(data):
    (y0, _), (y1, _) = data
    found = welch(sums(y0), sums(y1))
    if found.relative_low is None:
        assert found.reason
        return
    q = stats.t.isf(0.025, found.df)
    for end in (found.relative_low, found.relative_high):
        k = 1 + end
        error = math.sqrt(y1.var(ddof=1) / len(y1) + k**2 * y0.var(ddof=1) / len(y0))
        assert abs(y1.mean() - k * y0.mean()) == pytest.approx(q * error, rel=1e-6)
    assert found.relative_low <= found.relative <= found.relative_high


def test_sums_add_up():
    rng = np.random.default_rng(1)
    y, x = rng.normal(size=30), rng.normal(size=30)
    halves, whole = sums(y[:10]) + sums(y[10:]), sums(y)
    assert halves.n == whole.n
    assert (halves.total, halves.squares) == pytest.approx((whole.total, whole.squares))
    both, all_ = pairs(y[:10], x[:10]) + pairs(y[10:], x[10:]), pairs(y, x)
    assert [getattr(both, f) for f in ("n", "y", "x", "yy", "xx", "xy")] == pytest.approx(
        [getattr(all_, f) for f in ("n", "y", "x", "yy", "xx", "xy")]
    )


def test_a_good_covariate_shortens_the_interval():
    rng = np.random.default_rng(2)
    x0, x1 = rng.normal(10, 3, 4000), rng.normal(10, 3, 4000)
    y0, y1 = x0 + rng.normal(0, 1, 4000), x1 + 0.1 + rng.normal(0, 1, 4000)
    plain, adjusted = welch(sums(y0), sums(y1)), cuped(pairs(y0, x0), pairs(y1, x1))
    assert adjusted.reduction == pytest.approx(0.9, abs=0.02)
    assert (adjusted.high - adjusted.low) / (plain.high - plain.low) == pytest.approx(
        math.sqrt(0.1), rel=0.05
    )
    assert adjusted.p_value < plain.p_value


def test_a_constant_covariate_or_denominator_changes_nothing():
    rng = np.random.default_rng(2)
    y0, y1 = rng.exponential(2, 50), rng.exponential(2, 60)
    plain = welch(sums(y0), sums(y1))
    adjusted = cuped(pairs(y0, np.full(50, 7.0)), pairs(y1, np.full(60, 7.0)))
    assert adjusted.reduction == 0
    assert replace(adjusted, reduction=None) == plain
    assert ratio(pairs(y0, np.ones(50)), pairs(y1, np.ones(60))).p_value == pytest.approx(plain.p_value)


def test_a_binary_metric_is_a_difference_of_rates():
    found = welch(Sums(10000, 300, 300), Sums(10000, 360, 360))
    assert found.statistic**2 == pytest.approx(5.64, abs=0.02)
    assert found.relative == pytest.approx(0.2)


@pytest.mark.parametrize("field", ["n", "total", "squares"])
@pytest.mark.parametrize("arm", [0, 1])
def test_every_sum_changes_the_answer(field, arm):
    base = [Sums(100, 50.0, 90.0), Sums(110, 60.0, 100.0)]
    other = list(base)
    other[arm] = replace(base[arm], **{field: getattr(base[arm], field) + 3})
    for key in ("absolute", "p_value", "low", "relative_high"):
        if key != "absolute" or field != "squares":
            assert getattr(welch(*base), key) != getattr(welch(*other), key)


@pytest.mark.parametrize("field", ["n", "y", "x", "yy", "xx", "xy"])
@pytest.mark.parametrize("arm", [0, 1])
@pytest.mark.parametrize("test", [ratio, cuped])
def test_every_cross_sum_changes_the_answer(test, field, arm):
    base = [Pairs(100, 50.0, 80.0, 90.0, 120.0, 70.0), Pairs(110, 60.0, 85.0, 100.0, 130.0, 75.0)]
    other = list(base)
    other[arm] = replace(base[arm], **{field: getattr(base[arm], field) + 3})
    assert test(*base).p_value != test(*other).p_value


@pytest.mark.parametrize("test", [ratio, cuped, lambda a, b, level: welch(spend(a), spend(b), level)])
def test_the_level_changes_both_intervals_and_nothing_else(test):
    narrow, wide = test(NONE, MENS, 0.8), test(NONE, MENS, 0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert wide.relative_low < narrow.relative_low < narrow.relative_high < wide.relative_high
    assert (wide.p_value, wide.absolute, wide.relative) == (narrow.p_value, narrow.absolute, narrow.relative)


# -- nothing silently ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "name"), [((0, 5), "control has 0"), ((1, 5), "control has 1"), ((5, 1), "variant has 1")]
)
def test_too_few_units(n, name):
    a, b = (Sums(k, k * 2.0, k * 5.0) if k > 1 else Sums(k, 2.0 * k, 4.0 * k) for k in n)
    found = welch(a, b)
    assert found == MeanDifference(reason=found.reason)
    assert name in found.reason
    full = Pairs(5, 5.0, 5.0, 9.0, 9.0, 6.0)
    empty = Pairs(0, 0, 0, 0, 0, 0)
    assert (
        ratio(empty, full).reason
        == cuped(empty, full).reason
        == "the control has 0 units: a mean with an error needs 2"
    )


def test_no_variance():
    found = welch(Sums(10, 10, 10), Sums(10, 20, 40))
    assert (found.absolute, found.relative) == (1, 1)
    assert found.p_value is found.low is found.relative_low is found.statistic is None
    assert found.reason == "the metric does not vary: no test"
    # a constant 0.1 summed ten times is not exactly constant in floats
    assert welch(Sums(10, 0.9999999999999999, 0.09999999999999998), Sums(10, 1.0, 0.1)).p_value is None


def test_no_relative_difference():
    negative = welch(Sums(10, -10, 100), Sums(10, 20, 400))
    assert negative.relative is negative.relative_low is None
    assert negative.p_value is not None
    assert negative.reason == "the control's mean is not positive: no relative difference"
    unclear = welch(Sums(10, 1, 100), Sums(10, 20, 400))
    assert unclear.relative == pytest.approx(19)
    assert unclear.relative_low is unclear.relative_high is None
    assert "not clearly above 0" in unclear.reason


def test_a_ratio_without_denominator():
    nobody = Pairs(10, 0.0, 0.0, 0.0, 0.0, 0.0)
    found = ratio(Pairs(10, 5.0, 8.0, 9.0, 12.0, 7.0), nobody)
    assert found == MeanDifference(reason="the denominator is not positive")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: welch(Sums(10, 5, 9), Sums(10, 5, 9), 1.5), "level is 1.5: give a number between 0 and 1"),
        (lambda: ratio(NONE, MENS, math.nan), "level is nan: give a finite number"),
        (lambda: cuped(NONE, MENS, 0), "level is 0"),
        (lambda: welch(Sums(-1, 5, 9), Sums(10, 5, 9)), "control n is -1: give a whole number"),
        (lambda: welch(Sums(2.5, 5, 90), Sums(10, 5, 9)), "control n is 2.5: give a whole number"),
        (lambda: welch(Sums(10, math.nan, 9), Sums(10, 5, 9)), "control y is nan: give a finite number"),
        (lambda: welch(Sums(10, 5, 9), Sums(10, 50, 9)), "variant y has a sum of squares of 9: at least 250"),
        (lambda: welch(Sums(0, 5, 9), Sums(10, 5, 9)), "control has sums without units"),
        (lambda: cuped(replace(NONE, xy=1e12), MENS), "control xy is 1e+12: no data have this sum"),
        (lambda: ratio(NONE, replace(MENS, xx=1.0)), "variant x has a sum of squares of 1: at least"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidInput) as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.sizes(500, 2000)
def test_coverage_with_skewed_revenue(size):
    """500 (2,000) experiments, 3 % buyers with lognormal amounts: Monte-Carlo error 1 (0.5) points."""
    rng = np.random.default_rng(11)
    hits = relative = 0
    for _ in range(size):
        y0, y1 = (rng.binomial(1, 0.03, 4000) * rng.lognormal(3, 1, 4000) for _ in range(2))
        found = welch(sums(y0), sums(1.1 * y1))
        truth = 0.1 * 0.03 * math.exp(3.5)
        hits += found.low <= truth <= found.high
        relative += found.relative_low is None or found.relative_low <= 0.1 <= found.relative_high
    most = 3 * math.sqrt(0.95 * 0.05 / size)
    assert abs(hits / size - 0.95) < most
    assert abs(relative / size - 0.95) < most
