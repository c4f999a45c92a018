import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from cro_core.errors import InvalidInput
from cro_core.statistics import companion as c
from cro_core.statistics.means import Sums

bins = st.lists(
    st.tuples(*[st.tuples(st.integers(0, 400), st.floats(0, 1)) for _ in range(2)]), min_size=1, max_size=5
).map(lambda rows: ([[n for n, _ in row] for row in rows], [[round(n * p) for n, p in row] for row in rows]))

WORSE = [[1000, 1000]] * 5, [[60, 30]] * 5
BETTER = [[1000, 1000]] * 5, [[30, 60]] * 5
ALIKE = [[1000, 1000]] * 5, [[45, 45]] * 5


def by_quadrature(units, conversions, mde):
    """The formula of the companion, mixed over a fine grid."""
    psi = np.linspace(-12, 12, 400_001)
    log = (
        sum(x1 for _, x1 in conversions) * psi
        - psi**2 / (2 * mde**2)
        - math.log(mde * math.sqrt(2 * math.pi))
    )
    for (n0, n1), (x0, x1) in zip(units, conversions, strict=True):
        if n0 + n1:
            w = n1 / (n0 + n1)
            log -= (x0 + x1) * np.log(1 - w + w * np.exp(psi))
    return float(np.logaddexp.reduce(log) + math.log(psi[1] - psi[0]))


def by_hand(units, conversions, worst, sign):
    """A guardrail as the plain average of binomial likelihood ratios."""
    total = 0.0
    for size in c.HARMS:
        log = 0.0
        for (n0, n1), (x0, x1) in zip(units, conversions, strict=True):
            edge = n1 * worst / (n0 + n1 * worst)
            beyond = n1 * worst * math.exp(sign * size) / (n0 + n1 * worst * math.exp(sign * size))
            log += stats.binom.logpmf(x1, x0 + x1, beyond) - stats.binom.logpmf(x1, x0 + x1, edge)
        total += math.exp(log) / len(c.HARMS)
    return total


def sums(y):
    return Sums(len(y), float(y.sum()), float((y**2).sum()))


# -- the companion ------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(bins, st.floats(0.05, 0.6))
def test_companion_is_the_formula(data, mde):
    units, conversions = data
    found = c.companion(units, conversions, mde)
    if not sum(map(sum, conversions)):
        assert (found.e_value, found.p_value, found.leader, found.reason) == (
            None,
            None,
            None,
            "nobody converted",
        )
        return
    assert found.log_e == pytest.approx(by_quadrature(units, conversions, mde), abs=1e-5)
    assert found.e_value == pytest.approx(math.exp(found.log_e))
    assert found.p_value == pytest.approx(min(1, 1 / found.e_value))
    assert found.reason is None


def test_companion_sees_a_difference_and_whose():
    better, worse, alike = (c.companion(*data, 0.1) for data in (BETTER, WORSE, ALIKE))
    assert better.p_value < 1e-3
    assert (better.leader, worse.leader, alike.leader) == ("variant", "control", None)
    assert alike.e_value < 1
    assert alike.p_value == 1


def test_drift_with_moving_shares_is_no_evidence():
    """Planted wrong: pooled, the variant seems better because it got its traffic on the good day."""
    units, conversions = [[9000, 1000], [1000, 9000]], [[90, 10], [100, 900]]
    assert c.companion(units, conversions, 0.1).e_value < 1
    pooled = c.companion(
        np.sum(units, axis=0, keepdims=True), np.sum(conversions, axis=0, keepdims=True), 0.1
    )
    assert pooled.p_value < 1e-6


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 8), st.integers(1, 8), st.floats(0.02, 0.9), st.floats(0.05, 1))
def test_expectation_with_equal_rates_is_at_most_one(n0, n1, rate, mde):
    """By summing over every outcome of one bin: a bound in finite samples, not a limit."""
    x0, x1 = np.meshgrid(np.arange(n0 + 1), np.arange(n1 + 1), indexing="ij")
    chance = stats.binom.pmf(x0, n0, rate) * stats.binom.pmf(x1, n1, rate)
    conversions = np.stack([x0, x1], axis=-1)[:, :, None, :]
    e = np.exp(c.companion_log_e(np.broadcast_to([[n0, n1]], conversions.shape), conversions, mde))
    assert (chance * e).sum() <= 1 + 1e-6


def test_empty_bins_and_one_sided_bins_say_nothing():
    units, conversions = [[100, 120], [80, 90]], [[10, 20], [9, 12]]
    base = c.companion(units, conversions, 0.1).log_e
    assert c.companion([*units, [0, 0]], [*conversions, [0, 0]], 0.1).log_e == pytest.approx(base)
    assert c.companion([*units, [50, 0]], [*conversions, [7, 0]], 0.1).log_e == pytest.approx(base)
    assert c.companion([*units, [0, 50]], [*conversions, [0, 7]], 0.1).log_e == pytest.approx(base)


def test_companion_arguments():
    base = c.companion([[100, 120]], [[10, 20]], 0.1).log_e
    assert c.companion([[100, 121]], [[10, 20]], 0.1).log_e != base
    assert c.companion([[101, 120]], [[10, 20]], 0.1).log_e != base
    assert c.companion([[100, 120]], [[11, 20]], 0.1).log_e != base
    assert c.companion([[100, 120]], [[10, 21]], 0.1).log_e != base
    assert c.companion([[100, 120]], [[10, 20]], 0.2).log_e != base


# -- guardrails ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(bins, st.floats(0, 0.5))
def test_guardrail_is_the_average_of_likelihood_ratios(data, margin):
    units, conversions = data
    assume(sum(map(sum, conversions)) and all(n0 and n1 for n0, n1 in units))
    less, more = (c.guardrail(units, conversions, margin, harm) for harm in ("less", "more"))
    assert less.log_e == pytest.approx(math.log(by_hand(units, conversions, 1 - margin, -1)), abs=1e-8)
    assert more.log_e == pytest.approx(math.log(by_hand(units, conversions, 1 + margin, 1)), abs=1e-8)
    assert less.e_value == pytest.approx(math.exp(min(less.log_e, 700)))


@pytest.mark.parametrize(("rate", "share", "margin"), [(0.03, 0.5, 0), (0.4, 0.3, 0.1), (0.8, 0.6, 0.05)])
@pytest.mark.parametrize("harm", ["less", "more"])
@pytest.mark.parametrize("relief", [0, 0.02])
def test_expectation_without_undue_harm_is_at_most_one(rate, share, margin, harm, relief):
    """By summing over every outcome of a bin, at the margin's edge and inside it."""
    n0, n1 = round(30 * (1 - share)), round(30 * share)
    factor = 1 - margin + relief if harm == "less" else 1 + margin - relief
    x0, x1 = np.meshgrid(np.arange(n0 + 1), np.arange(n1 + 1), indexing="ij")
    chance = stats.binom.pmf(x0, n0, rate) * stats.binom.pmf(x1, n1, rate * factor)
    conversions = np.stack([x0, x1], axis=-1)[:, :, None, :]
    e = np.exp(c.guardrail_log_e(np.broadcast_to([[n0, n1]], conversions.shape), conversions, margin, harm))
    assert (chance * e).sum() <= 1 + 1e-9


def test_guardrail_stops_what_harms():
    assert c.guardrail(*WORSE, margin=0).status == "stop"
    assert c.guardrail(*WORSE, margin=0, harm="more").status == "ok"
    assert c.guardrail(*BETTER, margin=0).status == "ok"
    assert c.guardrail(*BETTER, margin=0, harm="more").status == "stop"
    assert c.guardrail(*ALIKE, margin=0).status == "ok"


def test_a_broken_page_is_stopped_within_hours():
    """A variant nobody can order from: 40 conversions of the control are enough."""
    assert c.guardrail([[1300, 1300]], [[20, 0]], 0.0).status == "stop"


def test_guardrail_arguments():
    base = c.guardrail(*WORSE, margin=0.1)
    assert base.log_e < c.guardrail(*WORSE, margin=0.05).log_e
    assert base.log_e != c.guardrail(*WORSE, margin=0.1, harm="more").log_e
    assert (base.threshold, c.guardrail(*WORSE, margin=0.1, number=6).threshold) == (100, 600)
    assert (
        c.guardrail([[1000, 1001]], [[60, 30]], 0.1).log_e
        != c.guardrail([[1000, 1000]], [[60, 30]], 0.1).log_e
    )
    assert (
        c.guardrail([[1000, 1000]], [[60, 31]], 0.1).log_e
        != c.guardrail([[1000, 1000]], [[60, 30]], 0.1).log_e
    )
    assert c.guardrail([[1300, 1300]], [[30, 6]], 0.0).status == "stop"
    assert c.guardrail([[1300, 1300]], [[30, 6]], 0.0, number=100).status == "ok"
    assert c.guardrail([[5, 5]], [[0, 0]], 0.1).reason == "nobody had the guarded outcome"
    assert c.guardrail([[5, 5]], [[0, 0]], 0.1).status == "no_data"


def test_guardrail_of_a_mean():
    rng = np.random.default_rng(5)
    before = [sums(rng.exponential(10, 500)) for _ in range(4)]
    same, less = ([sums(f * rng.exponential(10, 500)) for _ in range(4)] for f in (1.0, 0.6))
    assert c.guardrail_mean(before, same, 0.0).status == "ok"
    stopped = c.guardrail_mean(before, less, 0.0)
    assert stopped.status == "stop"
    assert stopped.e_value == pytest.approx(math.exp(stopped.log_e))
    assert c.guardrail_mean(before, less, 0.0, "more").status == "ok"
    assert c.guardrail_mean(less, before, 0.0, "more").status == "stop"
    assert c.guardrail_mean(before, less, 0.3).log_e < stopped.log_e
    assert c.guardrail_mean(before, less, 0.0, number=3).threshold == 300
    assert c.guardrail_mean(before[:3], less[:3], 0.0).log_e != stopped.log_e


def test_a_binary_mean_agrees_with_the_rate():
    """Two roads to one guardrail; with 3 % converting they differ by little."""
    units, conversions = [[3000, 3000]] * 3, [[90, 70]] * 3
    means = [
        [Sums(n, x, x) for n, x in zip(*rows, strict=True)] for rows in zip(units, conversions, strict=True)
    ]
    by_mean = c.guardrail_mean([a for a, _ in means], [b for _, b in means], 0.0)
    assert by_mean.log_e == pytest.approx(c.guardrail(units, conversions, 0.0).log_e, rel=0.15)


def test_a_mean_without_usable_bins():
    few = c.guardrail_mean([Sums(29, 29.0, 40.0)], [Sums(500, 400.0, 500.0)], 0.1)
    assert (few.status, few.e_value, few.log_e) == ("no_data", None, None)
    assert few.reason == "no bin with 30 units in each variant and a positive mean"
    assert c.guardrail_mean([], [], 0.1).status == "no_data"
    assert c.guardrail_mean([Sums(90, -9.0, 90.0)], [Sums(90, -9.0, 90.0)], 0.1).status == "no_data"
    constant = c.guardrail_mean([Sums(90, 90.0, 90.0)], [Sums(90, 90.0, 90.0)], 0.0)
    assert (constant.status, constant.log_e) == ("ok", pytest.approx(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: c.companion([[10, 10]], [[11, 1]], 0.1),
            "conversions are 11 of 10 units: count each unit at most once",
        ),
        (
            lambda: c.companion([[10, -1]], [[1, 0]], 0.1),
            "units are [[10, -1]]: give whole numbers of at least 0",
        ),
        (lambda: c.companion([[10, 10]], [[1.5, 0]], 0.1), "conversions are [[1.5, 0]]: give whole numbers"),
        (lambda: c.companion([[10, math.nan]], [[1, 0]], 0.1), "units are [[10, nan]]"),
        (lambda: c.companion([["x", 1]], [[1, 0]], 0.1), "units are [['x', 1]]"),
        (lambda: c.companion([[1, 2, 3]], [[1, 0, 0]], 0.1), "control and variant per bin"),
        (lambda: c.companion([10, 10], [1, 0], 0.1), "control and variant per bin"),
        (
            lambda: c.companion([[10, 10]], [[1, 0], [1, 0]], 0.1),
            "units have shape (1, 2), conversions (2, 2)",
        ),
        (lambda: c.companion([[10, 10]], [[1, 0]], 0), "mde is 0: give a relative effect above 0"),
        (lambda: c.companion([[10, 10]], [[1, 0]], math.nan), "mde is nan"),
        (lambda: c.guardrail([[10, 10]], [[1, 0]], 1), "margin is 1: give a number from 0 to below 1"),
        (lambda: c.guardrail([[10, 10]], [[1, 0]], -0.1), "margin is -0.1"),
        (lambda: c.guardrail([[10, 10]], [[1, 0]], 0.1, "worse"), "harm is 'worse': give 'less' or 'more'"),
        (lambda: c.guardrail([[10, 10]], [[1, 0]], 0.1, "less", 0), "number is 0: give how many guardrails"),
        (lambda: c.guardrail([[10, 10]], [[11, 0]], 0.1), "conversions are 11 of 10"),
        (lambda: c.guardrail_mean([Sums(40, 1.0, 1.0)], [], 0.1), "bins are 1 and 0: give one of each"),
        (
            lambda: c.guardrail_mean([Sums(40, 9.0, 1.0)], [Sums(40, 1.0, 1.0)], 0.1),
            "control y has a sum of squares",
        ),
        (lambda: c.guardrail_mean([Sums(40, 9.0, 9.0)], [Sums(40, 1.0, 1.0)], 2.0), "margin is 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidInput) as caught:
        call()
    assert message in str(caught.value)


# -- false stops --------------------------------------------------------------------------------------------


def two_weeks(rng, programmes, per_hour, rate, factor, judge, moving=False):
    """Hourly looks at daily bins, also unfinished ones: the part of programmes that ever reach e = 100."""
    w = rng.uniform(0.1, 0.9, (programmes, 14)) if moving else np.full((programmes, 14), 0.5)
    drift = np.linspace(1.5, 0.5, 14)
    n, x = np.zeros((programmes, 14, 2)), np.zeros((programmes, 14, 2))
    stopped = np.zeros(programmes, dtype=bool)
    for hour in range(336):
        day = hour // 24
        size = rng.poisson(per_hour, programmes)
        n1 = rng.binomial(size, w[:, day])
        units = np.stack([size - n1, n1], axis=1)
        n[:, day] += units
        x[:, day] += rng.binomial(units, rate * drift[day] * np.array([1, factor]))
        stopped |= judge(n[:, : day + 1], x[:, : day + 1]) >= math.log(100)
    return stopped.mean()


@pytest.mark.parametrize("moving", [False, True])
def test_false_stops_of_a_guardrail(moving):
    """500 programmes at the edge of the margin, Monte-Carlo error at most 0.4 points: at most 1 %."""
    rate = two_weeks(
        np.random.default_rng(8), 500, 60, 0.05, 0.95, lambda n, x: c.guardrail_log_e(n, x, 0.05), moving
    )
    assert rate <= 0.01 + 3 * 0.0045


def test_the_simulation_catches_a_wrong_guardrail():
    """Planted wrong: days pooled while shares move and the rate falls."""

    def pooled(n, x):
        return c.guardrail_log_e(n.sum(axis=1, keepdims=True), x.sum(axis=1, keepdims=True), 0.0)

    assert two_weeks(np.random.default_rng(8), 100, 600, 0.05, 1, pooled, moving=True) > 0.1


@pytest.mark.sizes(300, 2000)
@pytest.mark.parametrize("moving", [False, True])
def test_false_alarms_of_the_companion(moving, size):
    """300 (2,000) programmes with equal rates, Monte-Carlo error 0.6 (0.2) points: at most 1 % ever reach e = 100."""
    rng = np.random.default_rng(9)
    rate = two_weeks(rng, size, 60, 0.05, 1, lambda n, x: c.companion_log_e(n, x, 0.1), moving)
    assert rate <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / size)


def skewed(rng, programmes, per_hour, share):
    """Revenue of 3 % buyers with lognormal amounts, daily bins looked at every hour, harm "more"."""
    s = np.zeros((3, programmes, 14, 2))
    stopped = np.zeros(programmes, dtype=bool)
    for hour in range(336):
        day = hour // 24
        size = rng.poisson(per_hour, programmes)
        n1 = rng.binomial(size, share)
        for arm, n in enumerate((size - n1, n1)):
            buyers = rng.binomial(n, 0.03)
            who, y = np.repeat(np.arange(programmes), buyers), rng.lognormal(0, 1.5, buyers.sum())
            added = [n, np.bincount(who, y, programmes), np.bincount(who, y * y, programmes)]
            s[:, :, day, arm] += added
        stopped |= c.guardrail_mean_log_e(*s[:, :, : day + 1], 0.0, "more") >= math.log(100)
    return stopped.mean()


@pytest.mark.sizes(300, 2000)
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_false_stops_of_a_mean(share, size):
    """300 (2,000) programmes of very skewed revenue, Monte-Carlo error 0.6 (0.2) points: about 1 % even so."""
    bound = 0.01 + 3 * math.sqrt(0.01 * 0.99 / size)
    assert skewed(np.random.default_rng(10), size, 40, share) <= bound
