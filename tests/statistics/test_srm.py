import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from cro_core.errors import InvalidInput
from cro_core.statistics import srm

HALVES = [0.5, 0.5]

# AdSmart, control and exposed by day, 3 to 10 July 2020
ADSMART = np.array(
    [[1545, 470], [426, 477], [362, 528], [196, 294], [223, 257], [484, 714], [480, 728], [355, 538]]
)
EVEN = np.full((8, 2), 0.5)


def whole_sample(units, shares):
    """The check of one set of counts against one set of planned shares."""
    return srm.over_epochs([units], None if shares is None else [shares])


def by_quadrature(n, w, tilt=srm.TILT):
    """The mixture for two variants as a plain sum over a fine grid, nothing clever."""
    n, w = np.asarray(n, dtype=float), np.asarray(w, dtype=float)
    psi = np.linspace(-14, 14, 1_400_001)
    log = n[:, 1].sum() * psi - psi**2 / (2 * tilt**2) - math.log(tilt * math.sqrt(2 * math.pi))
    for (n0, n1), (w0, w1) in zip(n, w, strict=True):
        log -= (n0 + n1) * np.log(w0 + w1 * np.exp(psi))
    return float(np.logaddexp.reduce(log) + math.log(psi[1] - psi[0]))


# -- published experiments ----------------------------------------------------------------------------------


def test_udacity_homepage_is_vetoed():
    found = whole_sample([3332, 2996], HALVES)
    assert found.status == "alarm"
    assert found.alarm
    assert found.p_value == pytest.approx(2.40e-05, abs=5e-8)
    assert found.e_value == pytest.approx(1078, abs=1)
    assert found.log_e == pytest.approx(by_quadrature([[3332, 2996]], [HALVES]), abs=1e-8)
    assert (found.units, found.expected, found.df) == ((3332, 2996), (3164, 3164), 1)
    assert found.reason is None


def test_adsmart_is_balanced_in_total_and_broken_on_six_of_eight_days():
    total = srm.over_epochs(ADSMART, EVEN)
    assert total.status == "ok"
    assert total.p_value == pytest.approx(0.47, abs=5e-3)
    days = [srm.over_epochs([units], [HALVES], 8 * srm.THRESHOLD) for units in ADSMART]
    assert [day.p_value < 1e-5 for day in days].count(True) == 6
    assert [i for i, day in enumerate(days) if day.alarm] == [0, 2, 5, 6, 7]
    assert {day.threshold for day in days} == {800.0}


# -- against other computations -----------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 50)), min_size=2, max_size=6))
def test_p_value_against_scipy(table):
    units, weights = [n for n, _ in table], np.array([w for _, w in table], dtype=float)
    assume(sum(units))
    found = whole_sample(units, weights / weights.sum())
    judge = stats.chisquare(units, sum(units) * weights / weights.sum())
    assert found.statistic == pytest.approx(judge.statistic, rel=1e-9, abs=1e-9)
    assert found.p_value == pytest.approx(judge.pvalue, rel=1e-7, abs=1e-12)
    assert found.df == len(units) - 1


@settings(max_examples=12, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3000), st.integers(0, 3000), st.floats(0.02, 0.98)), min_size=1, max_size=3
    )
)
def test_e_value_against_quadrature(epochs):
    n, w = [e[:2] for e in epochs], [(1 - e[2], e[2]) for e in epochs]
    assert float(srm.log_e_values(n, w)) == pytest.approx(by_quadrature(n, w), rel=1e-9, abs=1e-8)
    assert float(srm.log_e_values(n, w, 0.3)) == pytest.approx(by_quadrature(n, w, 0.3), rel=1e-6, abs=1e-4)


@pytest.mark.parametrize("n", [[300, 380, 290], [30, 12, 19], [9000, 9300, 8800]])
def test_e_value_of_three_variants_against_a_plane_of_tilts(n):
    w = np.array([0.4, 0.3, 0.3])
    psi = np.linspace(-0.8, 0.8, 1601)
    a, b = np.meshgrid(psi, psi, indexing="ij")
    log = n[1] * a + n[2] * b - sum(n) * np.log(w[0] + w[1] * np.exp(a) + w[2] * np.exp(b))
    log -= (a**2 + b**2) / (2 * srm.TILT**2) + math.log(2 * math.pi * srm.TILT**2)
    exact = np.logaddexp.reduce(log, axis=None) + 2 * math.log(psi[1] - psi[0])
    assert float(srm.log_e_values([n], [w])) == pytest.approx(exact, abs=1e-4)


def test_e_value_of_ten_variants_against_sampling():
    """Importance sampling from the posterior's normal approximation; error about 0.2 %."""
    rng, w = np.random.default_rng(1), np.full(10, 0.1)
    n = np.array([520, 480, 500, 530, 470, 510, 500, 560, 440, 490])
    s, v = (n - n.sum() * w)[1:], n.sum() * (np.diag(w) - np.outer(w, w))[1:, 1:]
    precision = v + np.eye(9) / srm.TILT**2
    mean, spread = np.linalg.solve(precision, s), np.linalg.inv(np.linalg.cholesky(precision)).T
    z = rng.normal(size=(200_000, 9))
    psi = mean + z @ spread.T
    log = (
        psi @ n[1:] - n.sum() * np.log(w[0] + np.exp(psi) @ w[1:]) - (psi**2).sum(axis=1) / (2 * srm.TILT**2)
    )
    log += (z**2).sum(axis=1) / 2 - np.linalg.slogdet(precision * srm.TILT**2)[1] / 2
    exact = np.logaddexp.reduce(log) - math.log(len(log))
    assert float(srm.log_e_values([n], [w])) == pytest.approx(exact, abs=0.01)


def test_expectation_under_the_plan_is_one():
    """Exactly, by summing over every outcome of two small epochs with different shares."""
    total = 0.0
    for i in range(13):
        for j in range(9):
            chance = stats.binom.pmf(i, 12, 0.3) * stats.binom.pmf(j, 8, 0.8)
            total += chance * math.exp(srm.log_e_values([[12 - i, i], [8 - j, j]], [[0.7, 0.3], [0.2, 0.8]]))
    assert total == pytest.approx(1, abs=1e-9)


def test_batch_and_single_forms_agree():
    rng = np.random.default_rng(2)
    w = rng.dirichlet([5, 5, 5], (300, 4))
    n = rng.multinomial(
        400, w * np.exp([0, 0.25, 0]) / (w * np.exp([0, 0.25, 0])).sum(axis=-1, keepdims=True)
    )
    single = [srm.over_epochs(a, b) for a, b in zip(n, w, strict=True)]
    assert srm.log_e_values(n, w) == pytest.approx([s.log_e for s in single], abs=1e-9)
    flags = srm.alarms(n, w)
    assert flags.tolist() == [s.alarm for s in single]
    assert 20 < flags.sum() < 280
    assert srm.alarms(n, w, 1e6).sum() < flags.sum()
    assert srm.log_e_values(n[:, None], w[:, None]).shape == (300, 1)


def test_huge_counts():
    found = whole_sample([10**12, 10**12], HALVES)
    assert (found.status, found.statistic) == ("ok", 0)
    broken = whole_sample([10**12, 2 * 10**12], HALVES)
    assert broken.e_value == math.exp(srm.LARGEST)
    assert broken.log_e > 1e10
    assert broken.p_value == 0


# -- shares -------------------------------------------------------------------------------------------------


def test_the_plan_decides_not_equal_shares():
    """Planted wrong: a check against equal shares alarms on every planned 90/10, the real one does not."""
    units = [9031, 969]
    assert whole_sample(units, [0.9, 0.1]).status == "ok"
    assert whole_sample(units, HALVES).alarm


def test_each_epoch_has_its_own_shares():
    """Planted wrong: the same counts against the current shares alarm, against their own they do not."""
    units = [[2500, 2500], [1500, 3500], [900, 4100]]
    own = [[0.5, 0.5], [0.3, 0.7], [0.18, 0.82]]
    found = srm.over_epochs(units, own)
    assert (found.status, found.expected) == ("ok", (4900, 10100))
    assert found.p_value == pytest.approx(1)
    assert srm.over_epochs(units, [own[-1]] * 3).alarm


def test_unknown_shares_are_a_state():
    found = whole_sample([10283, 2742, 2747, 3180, 2064], None)
    assert found.status == "unknown_shares"
    assert not found.alarm
    assert found.p_value is found.e_value is found.log_e is found.expected is None
    assert found.units == (10283, 2742, 2747, 3180, 2064)
    assert found.reason == "nobody recorded the planned shares"
    assert whole_sample(found.units, [0.2] * 5).statistic == pytest.approx(11144.5, abs=0.05)


def test_no_data_is_a_state():
    found = whole_sample([0, 0], HALVES)
    assert (found.status, found.p_value, found.e_value, found.reason) == (
        "no_data",
        None,
        None,
        "no units yet",
    )
    assert found.expected == (0, 0)


def test_a_dropped_challenger():
    shares = [[0.4, 0.3, 0.3], [0.5, 0.5, 0.0]]
    fine = srm.over_epochs([[400, 300, 300], [500, 500, 0]], shares)
    assert (fine.status, fine.df) == ("ok", 2)
    ghost = srm.over_epochs([[400, 300, 300], [500, 500, 1]], shares)
    assert (ghost.status, ghost.p_value, ghost.statistic) == ("alarm", 0, None)
    assert ghost.reason == "units in a variant whose planned share was 0"
    assert srm.alarms([[[400, 300, 300], [500, 500, 1]]], shares).tolist() == [True]
    only = whole_sample([100, 0], [1, 0])
    assert (only.status, only.p_value, only.df) == ("ok", None, 0)
    assert only.reason == "all units were planned for one variant: nothing to compare"


def test_shares_written_with_few_decimals_are_rescaled():
    rounded = whole_sample([1000, 1000, 1000], [0.3333333, 0.3333333, 0.3333333])
    assert rounded.statistic == pytest.approx(0, abs=1e-9)
    assert sum(rounded.expected) == pytest.approx(3000)


# -- every argument counts ----------------------------------------------------------------------------------


def test_every_argument_changes_the_answer():
    base = srm.over_epochs([[1000, 1100], [900, 1000]], [[0.5, 0.5], [0.4, 0.6]])
    assert srm.over_epochs([[1000, 1100], [900, 1001]], [[0.5, 0.5], [0.4, 0.6]]).log_e != base.log_e
    assert srm.over_epochs([[1000, 1100], [900, 1000]], [[0.5, 0.5], [0.41, 0.59]]).log_e != base.log_e
    lenient = srm.over_epochs([[3332, 2996]], [HALVES], 2000)
    assert (lenient.status, lenient.threshold) == ("ok", 2000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: whole_sample([1, -2], HALVES), "units are -2: give whole numbers of at least 0"),
        (lambda: whole_sample([1, 2.5], HALVES), "units are 2.5: give whole numbers"),
        (
            lambda: whole_sample([1, math.nan], HALVES),
            "give finite numbers for at least 1 epoch and 2 variants",
        ),
        (lambda: whole_sample([1], [1.0]), "give finite numbers for at least 1 epoch and 2 variants"),
        (lambda: whole_sample(["a", "b"], HALVES), "give finite numbers"),
        (lambda: whole_sample([1, 2], [0.5, 0.6]), "shares are [0.5, 0.6]: give fractions of at least 0"),
        (lambda: whole_sample([1, 2], [1.5, -0.5]), "shares are [1.5, -0.5]"),
        (lambda: whole_sample([1, 2], [0.5, math.nan]), "shares are [[0.5, nan]]: give finite numbers"),
        (lambda: whole_sample([1, 2], [0.5, 0.3, 0.2]), "shares have shape (1, 3), units (1, 2)"),
        (lambda: srm.over_epochs([[1, 2], [3, 4]], [HALVES]), "shares have shape (1, 2), units (2, 2)"),
        (lambda: srm.over_epochs([], []), "give finite numbers"),
        (lambda: srm.over_epochs([[1, 2]], [HALVES], 1), "threshold is 1: give a number above 1"),
        (lambda: srm.over_epochs([[1, 2]], [HALVES], math.nan), "threshold is nan"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidInput) as caught:
        call()
    assert message in str(caught.value)


# -- false alarms -------------------------------------------------------------------------------------------


def ever_alarmed(rng, programmes, variants, per_hour, judge):
    """Two weeks of hourly looks, new random shares every midnight: the part of programmes that ever alarm."""
    w = 0.1 + (1 - 0.1 * variants) * rng.dirichlet(np.ones(variants), (programmes, 14))
    n, alarmed = np.zeros((programmes, 14, variants)), np.zeros(programmes, dtype=bool)
    for hour in range(336):
        day = hour // 24
        n[:, day] += rng.multinomial(rng.poisson(per_hour, programmes), w[:, day])
        alarmed |= judge(n[:, : day + 1], w[:, : day + 1])
    return alarmed.mean()


def chi_square_against_equal_shares(n, w):
    total = n.sum(axis=1)
    expected = total.mean(axis=1, keepdims=True)
    return stats.chi2.sf(((total - expected) ** 2 / expected).sum(axis=1), n.shape[-1] - 1) < 0.01


def chi_square_at_every_look(n, w):
    score = (n[..., 1] - n.sum(axis=-1) * w[..., 1]).sum(axis=1)
    return stats.chi2.sf(score**2 / (n.sum(axis=-1) * w[..., 0] * w[..., 1]).sum(axis=1), 1) < 0.01


def test_false_alarms_over_336_looks():
    """1,000 programmes, Monte-Carlo error 0.3 points: the bound is 1 % however often one looks."""
    assert ever_alarmed(np.random.default_rng(5), 1000, 2, 320, srm.alarms) <= 0.01 + 3 * 0.003


def test_the_simulation_catches_wrong_checks():
    """100 programmes: equal shares alarm nearly always, a chi-square at .01 per look in 5 % or more."""
    assert ever_alarmed(np.random.default_rng(5), 100, 2, 320, chi_square_against_equal_shares) > 0.9
    assert ever_alarmed(np.random.default_rng(5), 300, 2, 320, chi_square_at_every_look) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("variants", "per_hour"), [(2, 320), (2, 12), (3, 320), (4, 100)])
def test_false_alarms_over_336_looks_in_full(variants, per_hour):
    """10,000 programmes, Monte-Carlo error 0.1 points."""
    assert ever_alarmed(np.random.default_rng(6), 10_000, variants, per_hour, srm.alarms) <= 0.01 + 3 * 0.001
