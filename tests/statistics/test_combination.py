import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import StratifiedTable

from cro_core.assignment.allocation import next_shares
from cro_core.errors import InvalidInput
from cro_core.statistics import proportions
from cro_core.statistics.checks import check_weights
from cro_core.statistics.combination import (
    Counts,
    Moments,
    combine,
    combine_running,
    combined_z,
    effect_at,
    reached,
)

rate = st.tuples(st.integers(2, 10**6), st.integers(0, 10**6)).map(lambda t: (t[0], t[1] % (t[0] + 1)))
middling = st.tuples(st.integers(50, 5000), st.floats(0.05, 0.9)).map(lambda t: (t[0], round(t[0] * t[1])))
weight_lists = st.lists(st.floats(0.01, 1), min_size=1, max_size=8).map(lambda w: np.array(w) / sum(w))


def counts(*epochs):
    """Each epoch as challenger's units and conversions, then the control's."""
    return Counts(*np.array(epochs, float).T)


def moments(*epochs):
    """Each epoch as the challenger's values, then the control's."""
    columns = [
        [f(side) for f in (len, np.sum, lambda v: np.sum(np.square(v)))] for pair in epochs for side in pair
    ]
    return Moments(*np.array(columns, float).reshape(len(epochs), 6).T)


# -- one epoch ----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(rate, rate)
def test_one_epoch_is_pearsons_chi_square(a, b):
    n, x = a[0] + b[0], a[1] + b[1]
    z = float(counts((*b, *a)).score().z[0])
    if not 0 < x < n:
        assert z == 0
        return
    table = [[b[1], b[0] - b[1]], [a[1], a[0] - a[1]]]
    chi = stats.chi2_contingency(table, correction=False).statistic
    assert z**2 * n / (n - 1) == pytest.approx(chi, rel=1e-9, abs=1e-9)
    if chi > 1e-6:
        assert (z > 0) == (b[1] * a[0] > a[1] * b[0])


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 10**6))
def test_given_its_totals_an_epoch_is_hypergeometric(n1, n0, x):
    x %= n1 + n0 + 1
    law = stats.hypergeom(n1 + n0, x, n1)
    values = np.arange(max(0, x - n0), min(n1, x) + 1)
    pair = Counts(
        np.full((len(values), 1), n1), values[:, None], np.full((len(values), 1), n0), x - values[:, None]
    )
    score, chance = pair.score(), law.pmf(values)
    variance = chance @ values**2 - (chance @ values) ** 2
    assert score.variance[:, 0] == pytest.approx(np.full(len(values), variance), abs=1e-9)
    assert chance @ score.z[:, 0] == pytest.approx(0, abs=1e-9)
    assert chance @ score.z[:, 0] ** 2 == pytest.approx(float(len(values) > 1), abs=1e-9)


def test_means_have_the_variance_of_relabelling():
    """Every way to call 3 of 8 values the challenger's: mean 0 and variance 1, exactly."""
    values = np.array([0, 0, 1.5, 2, 2, 7, 0.25, 31])
    z = []
    for mine in itertools.combinations(range(8), 3):
        chosen = np.isin(np.arange(8), mine)
        z.append(float(moments((values[chosen], values[~chosen])).score().z[0]))
    assert np.mean(z) == pytest.approx(0, abs=1e-12)
    assert np.mean(np.square(z)) == pytest.approx(1, abs=1e-12)


@settings(deadline=None)
@given(middling, middling, st.floats(-0.5, 2))
def test_means_of_zeros_and_ones_are_counts(a, b, effect):
    as_counts = counts((*b, *a))
    as_means = Moments(*(np.array([float(v)]) for v in (b[0], b[1], b[1], a[0], a[1], a[1])))
    assert as_means.score().z == pytest.approx(as_counts.score().z, abs=1e-9)
    assert as_means.estimate("relative") == pytest.approx(as_counts.estimate("relative"))
    assert as_means.estimate("absolute") == pytest.approx(as_counts.estimate("absolute"))


@pytest.mark.parametrize("scale", ["relative", "absolute"])
def test_no_effect_is_the_same_statistic_on_every_scale(scale):
    pair = counts((1000, 130, 1100, 100), (50, 0, 70, 9))
    assert pair.z(0.0, scale) == pytest.approx(pair.score().z)
    values = np.random.default_rng(1).lognormal(size=(2, 50))
    means = moments((values[0], values[1]), (values[0, :9], values[1, :7]))
    assert means.z(0.0, scale) == pytest.approx(means.score().z)


def test_products_of_large_counts_do_not_overflow():
    big = counts((4 * 10**9, 10**9 + 40_000, 4 * 10**9, 10**9)).score()
    assert big.z[0] == pytest.approx(40_000 / math.sqrt(2 * 4e9 * 0.25 * 0.75), rel=1e-4)


# -- epochs together ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(weight_lists, st.floats(0, 1))
def test_past_epochs_count_whole_and_the_current_one_in_part(weights, elapsed):
    found = reached(weights, elapsed)
    assert found.sum() == pytest.approx(elapsed)
    assert (found <= weights + 1e-12).all()
    partial = np.flatnonzero((found > 1e-12) & (found < weights - 1e-12))
    assert len(partial) <= 1
    for k in partial:
        assert (found[:k] == weights[:k]).all()
        assert not found[k + 1 :].any()


def test_a_day_of_a_clock_change_weighs_its_length():
    hours = np.array([7, 24, 25, 23, 17.0])
    found = reached(hours / hours.sum(), (7 + 24 + 25 / 5) / hours.sum())
    assert found * hours.sum() == pytest.approx([7, 24, 5, 0, 0])


def test_running_combination_is_the_combination_at_every_look():
    rng = np.random.default_rng(3)
    z, used = rng.normal(size=(4, 3, 5)), np.sort(rng.uniform(0, 0.4, (3, 5)))
    running = combine_running(z, used)
    for epoch, look in itertools.product(range(3), range(5)):
        weights = np.array([*used[:epoch, -1], used[epoch, look]])
        values = np.concatenate([z[:, :epoch, -1], z[:, epoch, look, None]], axis=-1)
        assert running[:, epoch, look] == pytest.approx(combine(values, weights))


def test_simpson():
    """A: Monday 1000/250, later 1800/90; B: Monday 1000/200, later 200/8. Pooled favours B; days do not."""
    by_day = counts((1000, 250, 1000, 200), (1800, 90, 200, 8))
    pooled = counts((2800, 340, 1200, 208))
    assert by_day.estimate("relative") == pytest.approx(0.25, abs=1e-12)
    assert pooled.estimate("relative") < -0.25
    assert combined_z(by_day, np.array([0.5, 0.5])) > 1.96
    assert combined_z(pooled, np.ones(1)) < -1.96


@settings(deadline=None)
@given(st.lists(st.tuples(middling, middling), min_size=1, max_size=5))
def test_standardised_estimates_against_statsmodels(strata):
    found = counts(*[(*b, *a) for a, b in strata])
    tables = [np.array([[b[1], b[0] - b[1]], [a[1], a[0] - a[1]]], float) for a, b in strata]
    judge = StratifiedTable(tables).riskratio_pooled
    assert found.estimate("relative") == pytest.approx(judge - 1, abs=1e-9)
    part = [a[0] * b[0] / (a[0] + b[0]) for a, b in strata]
    gaps = [b[1] / b[0] - a[1] / a[0] for a, b in strata]
    assert found.estimate("absolute") == pytest.approx(np.average(gaps, weights=part), abs=1e-12)


def everything_that_can_happen(size, rates):
    """All outcomes of two days of ``size`` visitors each with equal rates: chances, by day, and pooled.

    Shares are one half on the first day; on the second, nine tenths go to whoever led.
    """
    found = []
    for first in itertools.product(range(size + 1), repeat=3):
        n1, x1, x0 = first
        if x1 > n1 or x0 > size - n1:
            continue
        law = stats.binom
        chance = law.pmf(n1, size, 0.5) * law.pmf(x1, n1, rates[0]) * law.pmf(x0, size - n1, rates[0])
        share = 0.5 + 0.4 * np.sign(x1 * (size - n1) - x0 * n1)
        for m1, y1, y0 in itertools.product(range(size + 1), repeat=3):
            if y1 <= m1 and y0 <= size - m1:
                p = law.pmf(m1, size, share) * law.pmf(y1, m1, rates[1]) * law.pmf(y0, size - m1, rates[1])
                found.append((chance * p, n1, x1, size - n1, x0, m1, y1, size - m1, y0))
    chance, *columns = np.array(found).T
    n1, x1, n0, x0, m1, y1, m0, y0 = columns
    days = Counts(*(np.stack(pair, -1) for pair in ((n1, m1), (x1, y1), (n0, m0), (x0, y0))))
    pooled = Counts(*(v[:, None] for v in (n1 + m1, x1 + y1, n0 + m0, x0 + y0)))
    return chance, days, pooled


def test_chasing_the_leader_under_drift_leaves_the_combination_centred():
    """Every outcome enumerated: days have mean 0, variance 1 and no correlation; pooled, they have not."""
    chance, days, pooled = everything_that_can_happen(5, (0.2, 0.7))
    assert chance.sum() == pytest.approx(1)
    z = days.score().z
    assert chance @ combine(z, np.array([0.5, 0.5])) == pytest.approx(0, abs=1e-12)
    assert chance @ (z[:, 0] * z[:, 1]) == pytest.approx(0, abs=1e-12)
    informative = days.score().variance > 0
    for day in range(2):
        assert chance @ z[:, day] ** 2 == pytest.approx(chance @ informative[:, day], abs=1e-9)
    assert chance @ pooled.score().z[:, 0] ** 2 > 1.1


# -- effects ------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(middling, middling)
def test_intervals_of_one_epoch_are_score_intervals(a, b):
    pair, z = counts((*b, *a)), proportions.quantile(0.95)
    judge = proportions.difference(*a, *b)
    ends = effect_at(pair, np.ones(1), [z, -z])
    assert ends == pytest.approx([judge.relative_low, judge.relative_high], rel=1e-9, abs=1e-9)
    ends = effect_at(pair, np.ones(1), [z, -z], "absolute")
    assert ends == pytest.approx([judge.score_low, judge.score_high], abs=1e-7)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(middling, middling), min_size=1, max_size=4), st.floats(-3, 3))
def test_effects_solve_their_equation(strata, wanted):
    pair = counts(*[(*b, *a) for a, b in strata])
    weights = np.full(len(strata), 1 / len(strata))
    for scale in ("relative", "absolute"):
        found = effect_at(pair, weights, wanted, scale)
        assume(np.isfinite(found) and abs(found) < 1 - 1e-6)
        assert combined_z(pair, weights, found, scale) == pytest.approx(wanted, abs=1e-6)


def test_an_end_agrees_with_the_test():
    """The repeated interval excludes no effect exactly where the statistic is beyond its critical value."""
    pair, weights = counts((1000, 130, 1100, 100), (400, 50, 300, 31)), np.array([0.7, 0.3])
    z = combined_z(pair, weights)
    for scale in ("relative", "absolute"):
        assert effect_at(pair, weights, z, scale) == pytest.approx(0, abs=1e-9)
        assert effect_at(pair, weights, z - 0.01, scale) > 0 > effect_at(pair, weights, z + 0.01, scale)


def test_effects_of_means():
    rng = np.random.default_rng(4)
    control, variant = rng.gamma(2, 3, 4000), rng.gamma(2, 3.3, 4000)
    pair = moments((variant, control))
    for scale, truth in (("relative", 0.1), ("absolute", 0.6)):
        high, low = effect_at(pair, np.ones(1), [-1.96, 1.96], scale)
        assert low < truth < high
        assert effect_at(pair, np.ones(1), 0, scale) == pytest.approx(pair.estimate(scale), abs=1e-9)
    welch = stats.ttest_ind(variant, control, equal_var=False).confidence_interval()
    assert (low, high) == pytest.approx((welch.low, welch.high), rel=0.02)
    losses = effect_at(moments((-variant, -control)), np.ones(1), [-1.96, 1.96], "absolute")
    assert losses == pytest.approx([-low, -high], abs=1e-9)


def test_ends_that_the_data_leave_open():
    nobody = counts((1000, 20, 1000, 0))
    low, high = effect_at(nobody, np.ones(1), [1.96, -1.96])
    assert low > 3
    assert high == math.inf
    lost = counts((1000, 0, 1000, 20))
    assert effect_at(lost, np.ones(1), 1.96) == -1
    assert math.isnan(effect_at(counts((1000, 0, 1000, 0)), np.ones(1), 0.0))
    assert math.isnan(nobody.estimate("relative"))
    assert math.isnan(counts((0, 0, 10, 1)).estimate("absolute"))


def test_an_empty_epoch_counts_for_nothing_but_its_weight():
    pair, weights = counts((1000, 130, 1100, 100), (0, 0, 0, 0)), np.array([0.5, 0.5])
    alone = combined_z(counts((1000, 130, 1100, 100)), np.ones(1))
    assert combined_z(pair, weights) == pytest.approx(alone / math.sqrt(2))
    assert combined_z(pair, np.zeros(2)) == 0


def test_leading_axes_are_independent_experiments():
    many = Counts(
        *(
            np.array(v, float)
            for v in ([[900, 50], [10, 10]], [[90, 9], [1, 2]], [[800, 60], [9, 9]], [[70, 5], [3, 0]])
        )
    )
    weights = np.array([0.6, 0.4])
    one = [Counts(*(v[k] for v in (many.n1, many.x1, many.n0, many.x0))) for k in range(2)]
    assert combined_z(many, weights) == pytest.approx([float(combined_z(p, weights)) for p in one])
    assert effect_at(many, weights, 0.3) == pytest.approx([float(effect_at(p, weights, 0.3)) for p in one])


@pytest.mark.parametrize("weights", [[], [0.5, 0.4], [1.5, -0.5], [math.nan, 1], [[0.5, 0.5]]])
def test_weights_that_do_not_sum_to_one(weights):
    with pytest.raises(InvalidInput, match="summing to 1"):
        check_weights(weights)
    assert check_weights([0.25, 0.75]).tolist() == [0.25, 0.75]


def test_shares_of_the_live_allocator_keep_the_combination_centred():
    """20,000 programmes of five small days under the real allocator and strong drift: z-score of the mean."""
    rng, programmes, day = np.random.default_rng(6), 20_000, 200
    n, x = np.zeros((2, programmes, 5, 2))
    for e, common in enumerate((0.05, 0.1, 0.2, 0.3, 0.5)):
        shares = next_shares(n[:, :e], x[:, :e]) if e else np.full((programmes, 2), 0.5)
        first = rng.binomial(day, shares[:, 0])
        n[:, e] = np.stack([first, day - first], -1)
        x[:, e] = rng.binomial(n[:, e].astype(int), common)
    b = combined_z(Counts(n[..., 1], x[..., 1], n[..., 0], x[..., 0]), np.full(5, 0.2))
    assert abs(b.mean()) * math.sqrt(programmes) < 4
    assert b.var() == pytest.approx(1, abs=0.04)
    total_n, total_x = n.sum(1), x.sum(1)
    pooled = Counts(*(v[:, None] for v in (total_n[:, 1], total_x[:, 1], total_n[:, 0], total_x[:, 0])))
    assert combined_z(pooled, np.ones(1)).var() > 1.5
