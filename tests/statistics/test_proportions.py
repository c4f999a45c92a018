import math
from decimal import Decimal, localcontext

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import StratifiedTable
from statsmodels.stats.proportion import (
    confint_proportions_2indep,
    proportion_confint,
    score_test_proportions_2indep,
)

from cro_core.errors import InvalidInput
from cro_core.statistics.proportions import ChiSquare, chi_square, difference, mantel_haenszel, wilson

# Published A/B data sets, recomputed with scipy 1.17 (chi2_contingency with and without correction):
# control n, x, variant n, x, difference and Wald 95 % interval in points, uplift in percent, chi2, p, p Yates
TABLE = {
    "ab_data": (145274, 17489, 145310, 17264, -0.158, -0.394, 0.078, -1.31, 1.71852, 0.18988, 0.19182),
    "ab_data raw": (147202, 17723, 147276, 17514, -0.148, -0.382, 0.086, -1.23, 1.52998, 0.21612, 0.21823),
    "ab_data US": (101716, 12270, 101903, 12072, -0.216, -0.498, 0.065, -1.79, 2.26561, 0.13227, 0.13404),
    "ab_data UK": (36360, 4364, 36106, 4375, 0.115, -0.359, 0.589, 0.96, 0.22552, 0.63486, 0.64302),
    "ab_data CA": (7198, 855, 7301, 817, -0.688, -1.728, 0.352, -5.79, 1.68195, 0.19467, 0.20376),
    "homepage": (3332, 932, 2996, 928, 3.003, 0.753, 5.254, 10.74, 6.85688, 0.00883, 0.00957),
    "course page": (1586, 375, 1645, 439, 3.043, 0.052, 6.033, 12.87, 3.96623, 0.04642, 0.05106),
    "AdSmart": (4071, 264, 4006, 308, 1.204, 0.084, 2.323, 18.56, 4.44489, 0.03501, 0.03893),
    "AdSmart less a day": (2526, 160, 3536, 265, 1.160, -0.126, 2.447, 18.32, 3.04232, 0.08112, 0.09042),
    "AdSmart answered": (586, 264, 657, 308, 1.829, -3.720, 7.377, 4.06, 0.41690, 0.51849, 0.55608),
    "Mens visit": (21306, 2262, 21307, 3894, 7.659, 6.995, 8.323, 72.14, 505.622, 5.7e-112, 7.8e-112),
    "Womens visit": (21306, 2262, 21387, 3238, 4.523, 3.889, 5.157, 42.61, 194.580, 3.2e-44, 3.9e-44),
    "Mens conversion": (21306, 122, 21307, 267, 0.681, 0.500, 0.861, 118.84, 54.5399, 1.5e-13, 2.2e-13),
    "MSU": (10283, 42, 2742, 53, 1.524, 0.995, 2.054, 373, 69.4819, 7.7e-17, 2.2e-16),
    "OBD men": (10000, 46, 10000, 69, 0.230, 0.020, 0.440, 50, 4.62660, 0.03148, 0.03964),
    "OBD women": (10000, 46, 10000, 46, 0, -0.188, 0.188, 0, 0, 1, 1),
}

counts = st.tuples(st.integers(2, 10**7), st.integers(0, 10**7)).map(lambda t: (t[0], t[1] % (t[0] + 1)))
middling = st.tuples(st.integers(50, 5000), st.floats(0.05, 0.95)).map(lambda t: (t[0], round(t[0] * t[1])))
few = st.tuples(st.integers(2, 3000), st.integers(0, 10**7)).map(lambda t: (t[0], t[1] % (t[0] + 1)))


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_published_experiments(row):
    n0, x0, n1, x1, gap, low, high, uplift, statistic, p, p_yates = row
    test, found = chi_square([n0, n1], [x0, x1]), difference(n0, x0, n1, x1)
    assert test.statistic == pytest.approx(
        statistic, abs=5.1e-6 * max(1, 10 ** (len(str(int(statistic))) - 1))
    )
    assert (test.p_value, test.p_value_yates) == pytest.approx((p, p_yates), rel=0.02, abs=5.1e-6)
    shown = [100 * v for v in (found.absolute, found.low, found.high)]
    assert shown == pytest.approx([gap, low, high], abs=5.1e-4)
    assert 100 * found.relative == pytest.approx(uplift, abs=0.0051 if abs(uplift) < 200 else 0.6)
    assert found.score_low <= found.absolute <= found.score_high
    assert test.reason is found.reason is None


def test_the_textbook_two_by_two():
    test = chi_square([10000, 10000], [300, 360])
    assert (test.statistic, test.p_value) == pytest.approx((5.64069, 0.017548), abs=5.1e-6)
    assert test.p_value_yates == pytest.approx(0.019521, abs=5.1e-7)
    assert stats.chi2.isf(test.p_value_yates, 1) == pytest.approx(5.45423, abs=5.1e-6)
    assert difference(10000, 300, 10000, 360).relative == pytest.approx(0.2)


def test_yates_flips_what_pearson_finds():
    test = chi_square([1000, 1000], [100, 130])
    assert test.p_value == pytest.approx(0.0355, abs=5e-5)
    assert test.p_value_yates == pytest.approx(0.0421, abs=5e-5)


def test_more_than_two_variants():
    three = chi_square([21306, 21307, 21387], [2262, 3894, 3238])
    assert (three.statistic, three.df) == (pytest.approx(504.46067, abs=5.1e-6), 2)
    assert three.p_value_yates is None
    five = chi_square([10283, 2742, 2747, 3180, 2064], [42, 53, 21, 38, 45])
    assert (five.statistic, five.df) == (pytest.approx(96.7432, abs=5.1e-5), 4)
    assert five.p_value == pytest.approx(4.852e-20, rel=1e-3)


@settings(deadline=None)
@given(st.lists(counts, min_size=2, max_size=5))
def test_chi_square_against_scipy(table):
    n, x = [n for n, _ in table], [x for _, x in table]
    test = chi_square(n, x)
    if not 0 < sum(x) < sum(n):
        assert test.statistic is test.p_value is None
        assert test.reason in {"nobody converted", "everybody converted"}
        return
    cells = [x, [a - b for a, b in zip(n, x, strict=True)]]
    judge = stats.chi2_contingency(cells, correction=False)
    assert test.statistic == pytest.approx(judge.statistic, rel=1e-9, abs=1e-9)
    assert test.p_value == pytest.approx(judge.pvalue, rel=1e-9, abs=1e-12)
    if len(n) == 2:
        assert test.p_value_yates == pytest.approx(stats.chi2_contingency(cells).pvalue, rel=1e-9, abs=1e-12)


@settings(deadline=None)
@given(counts, st.floats(0.5, 0.999))
def test_wilson_against_statsmodels(rate, level):
    found = wilson(*rate, level)
    judge = proportion_confint(rate[1], rate[0], 1 - level, method="wilson")
    assert (found.low, found.high) == pytest.approx(judge, abs=1e-9)
    assert found.estimate == rate[1] / rate[0]
    assert 0 <= found.low <= found.estimate <= found.high <= 1


@settings(deadline=None)
@given(counts, counts, st.floats(0.5, 0.999))
def test_wald_interval_against_statsmodels(a, b, level):
    found = difference(*a, *b, level)
    assert found.absolute == pytest.approx(b[1] / b[0] - a[1] / a[0])
    if found.low is not None:
        judge = confint_proportions_2indep(
            b[1], b[0], a[1], a[0], method="wald", compare="diff", alpha=1 - level
        )
        assert (found.low, found.high) == pytest.approx(judge, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(middling, middling, st.floats(0.5, 0.999))
def test_relative_interval_against_statsmodels(a, b, level):
    """Away from the edges, where its closed form keeps its digits; its score test agrees to 1e-9.

    For differences statsmodels 0.14 is no judge: its restricted rates have ``count0`` where Miettinen and
    Nurminen's cubic has ``nobs0``. The exact test below is the judge there, and here at the edges.
    """
    found = difference(*a, *b, level)
    for end in (found.relative_low, found.relative_high):
        judge = score_test_proportions_2indep(b[1], b[0], a[1], a[0], value=1 + end, compare="ratio")
        assert judge.pvalue == pytest.approx(1 - level, abs=1e-9)


def exact_score(a, b, p0, p1, gap, ratio=1):
    """Miettinen and Nurminen's statistic in 60 digits, at restricted rates ``p0`` and ``p1``."""
    (n0, x0), (n1, x1) = [[Decimal(v) for v in pair] for pair in (a, b)]
    variance = (ratio**2 * p0 * (1 - p0) / n0 + p1 * (1 - p1) / n1) * (n0 + n1) / (n0 + n1 - 1)
    return (x1 / n1 - ratio * x0 / n0 - gap) ** 2 / variance if variance else Decimal("inf")


def exact_for_gap(a, b, gap):
    """The same for a difference ``gap``, its restricted maximum found by bisection instead of the cubic."""
    (n0, x0), (n1, x1) = [[Decimal(v) for v in pair] for pair in (a, b)]
    low, high = max(Decimal(0), -gap), min(Decimal(1), 1 - gap)
    for _ in range(150):
        p = (low + high) / 2
        slope = (x0 - n0 * p) * (p + gap) * (1 - p - gap) + (x1 - n1 * (p + gap)) * p * (1 - p)
        low, high = (p, high) if slope > 0 else (low, p)
    return exact_score(a, b, low, low + gap, gap)


def exact_for_ratio(a, b, ratio):
    (n0, x0), (n1, x1) = [[Decimal(v) for v in pair] for pair in (a, b)]
    half = (n0 + x1 + ratio * (n1 + x0)) / 2
    p0 = (half - (half**2 - ratio * (n0 + n1) * (x0 + x1)).sqrt()) / (ratio * (n0 + n1))
    return exact_score(a, b, p0, ratio * p0, Decimal(0), ratio)


@settings(max_examples=40, deadline=None)
@given(counts, counts)
def test_score_intervals_are_exact_to_nine_digits(a, b):
    """Just inside each end the exact statistic is below the critical value, just outside it is above."""
    found = difference(*a, *b)
    critical, step = Decimal(float(stats.norm.isf(0.025))) ** 2, Decimal("1e-9")
    with localcontext(prec=60):
        for end, sign in ((found.score_low, -1), (found.score_high, 1)):
            if abs(end) < 1 - 2e-9:
                assert exact_for_gap(a, b, Decimal(end) + sign * step) >= critical
                assert exact_for_gap(a, b, Decimal(end) - sign * step) <= critical
        for end, sign in ((found.relative_low, -1), (found.relative_high, 1)):
            if end is not None and end > -1:
                ratio = 1 + Decimal(end)
                assert exact_for_ratio(a, b, ratio * (1 + sign * step)) >= critical
                assert exact_for_ratio(a, b, ratio * (1 - sign * step)) <= critical


def test_simpson():
    """A: Monday 1000/250, later 1800/90; B: Monday 1000/200, later 200/8. Pooled, B seems to win."""
    pooled = difference(1200, 208, 2800, 340)
    assert pooled.relative < 0
    found = mantel_haenszel([1000, 200], [200, 8], [1000, 1800], [250, 90])
    assert found.risk_ratio == pytest.approx(1.25, abs=1e-12)
    assert found.statistic == pytest.approx(7.511, abs=5e-4)
    assert found.low < 1.25 < found.high
    assert found.strata == 2


ADSMART = {  # control n, x, exposed n, x by day, 3 to 10 July
    "n0": [1545, 426, 362, 196, 223, 484, 480, 355],
    "x0": [104, 30, 17, 12, 16, 27, 30, 28],
    "n1": [470, 477, 528, 294, 257, 714, 728, 538],
    "x1": [43, 46, 35, 23, 22, 58, 55, 26],
}


def test_adsmart_by_day():
    found = mantel_haenszel(**ADSMART)
    assert found.p_value == pytest.approx(0.0140, abs=5e-5)
    assert found.odds_ratio == pytest.approx(1.250, abs=5e-4)


@settings(deadline=None)
@given(st.lists(st.tuples(few, few), min_size=1, max_size=6))
def test_mantel_haenszel_against_statsmodels(strata):
    strata = [(a, b) for a, b in strata if 0 < a[1] + b[1] < a[0] + b[0]]
    assume(strata)
    tables = [[[b[1], b[0] - b[1]], [a[1], a[0] - a[1]]] for a, b in strata]
    columns = list(zip(*[(*a, *b) for a, b in strata], strict=True))
    found = mantel_haenszel(*columns)
    judge = StratifiedTable([[list(map(float, row)) for row in table] for table in tables])
    assert found.statistic == pytest.approx(
        judge.test_null_odds(correction=False).statistic, rel=1e-9, abs=1e-9
    )
    assert found.p_value == pytest.approx(judge.test_null_odds(correction=False).pvalue, rel=1e-9, abs=1e-12)
    if found.reason is None:
        assert found.odds_ratio == pytest.approx(judge.oddsratio_pooled, rel=1e-9)
        assert found.risk_ratio == pytest.approx(judge.riskratio_pooled, rel=1e-9)


def test_one_stratum_gives_the_plain_risk_ratio_and_its_log_interval():
    found = mantel_haenszel([10000], [300], [10000], [360], 0.9)
    error = math.sqrt(1 / 300 - 1e-4 + 1 / 360 - 1e-4)
    assert found.risk_ratio == pytest.approx(1.2)
    assert math.log(found.high / found.risk_ratio) == pytest.approx(stats.norm.ppf(0.95) * error, rel=1e-9)
    assert found.low * found.high == pytest.approx(1.44)


@pytest.mark.parametrize("position", range(4))
def test_every_count_changes_the_answer(position):
    counts = [1000, 100, 1100, 130]
    other = [c + 7 * (i == position) for i, c in enumerate(counts)]
    assert difference(*counts) != difference(*other)
    assert chi_square(counts[::2], counts[1::2]) != chi_square(other[::2], other[1::2])
    assert mantel_haenszel(*[[c, 2 * c] for c in counts]) != mantel_haenszel(*[[c, 2 * c] for c in other])
    if position < 2:
        assert wilson(*counts[:2]) != wilson(*other[:2])


def test_the_level_changes_every_interval_and_nothing_else():
    narrow, wide = (difference(1000, 100, 1100, 130, level) for level in (0.9, 0.99))
    for low, high in (("low", "high"), ("score_low", "score_high"), ("relative_low", "relative_high")):
        assert getattr(wide, low) < getattr(narrow, low) < getattr(narrow, high) < getattr(wide, high)
    assert (narrow.absolute, narrow.relative) == (wide.absolute, wide.relative)
    assert wilson(100, 10, 0.9).low > wilson(100, 10, 0.99).low
    strata = [[1000], [100], [1100], [130]]
    assert mantel_haenszel(*strata, 0.9).low > mantel_haenszel(*strata, 0.99).low


def test_swapping_the_variants_mirrors_the_difference():
    one, other = difference(1000, 100, 1100, 130), difference(1100, 130, 1000, 100)
    assert one.score_low == pytest.approx(-other.score_high, abs=1e-12)
    assert one.relative_low == pytest.approx(1 / (1 + other.relative_high) - 1, abs=1e-12)


def test_the_score_test_and_the_interval_agree_about_zero():
    """At level 1 - p of the chi-square (with N - 1 for N) the score interval just touches no difference."""
    n0, x0, n1, x1 = 500, 40, 520, 60
    z2 = chi_square([n0, n1], [x0, x1]).statistic * (n0 + n1 - 1) / (n0 + n1)
    found = difference(n0, x0, n1, x1, 1 - float(stats.chi2.sf(z2, 1)))
    assert found.score_low == pytest.approx(0, abs=1e-12)
    assert found.relative_low == pytest.approx(0, abs=1e-12)


def test_huge_counts_do_not_overflow():
    big = chi_square([4 * 10**12, 4 * 10**12], [10**12, 10**12 + 10**6])
    assert big.statistic == pytest.approx((10**6) ** 2 / (2 * 10**12 * 0.75), rel=1e-4)


# -- nothing silently ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "conversions", "reason"),
    [
        ([0, 10], [0, 3], "variant 1 has no units"),
        ([10, 0], [3, 0], "variant 2 has no units"),
        ([10, 10], [0, 0], "nobody converted"),
        ([10, 10], [10, 10], "everybody converted"),
    ],
)
def test_a_table_without_a_test(units, conversions, reason):
    assert chi_square(units, conversions) == ChiSquare(None, 1, None, None, reason)


def test_a_difference_without_conversions():
    found = difference(1000, 0, 1000, 20)
    assert found.relative is found.relative_high is None
    assert found.relative_low > 3
    assert found.reason == "the control has no conversions: no relative difference"
    nothing = difference(1000, 0, 1000, 0)
    assert nothing.low is nothing.high is nothing.relative is nothing.relative_low is None
    assert -0.005 < nothing.score_low < 0 < nothing.score_high < 0.005
    assert "no Wald interval" in nothing.reason
    lost = difference(1000, 20, 1000, 0)
    assert (lost.relative, lost.relative_low) == (-1, -1)
    assert -1 < lost.relative_high < -0.7


def test_a_difference_where_everybody_converted():
    found = difference(100, 100, 100, 100)
    assert (found.absolute, found.relative, found.low) == (0, 0, None)
    assert found.score_low == pytest.approx(-found.score_high, abs=1e-12)
    assert found.relative_low < 0 < found.relative_high
    assert difference(10, 10, 10, 0).score_low == -1


@pytest.mark.parametrize(("counts", "name"), [((0, 0, 9, 1), "control"), ((9, 1, 0, 0), "variant")])
def test_a_difference_with_an_empty_variant(counts, name):
    found = difference(*counts)
    assert found.absolute is found.score_low is found.relative is None
    assert found.reason == f"the {name} has no units"


def test_strata_that_say_nothing_are_left_out():
    base = mantel_haenszel([1000], [100], [1100], [130])
    more = mantel_haenszel([1000, 50, 0, 9], [100, 0, 0, 9], [1100, 60, 70, 9], [130, 0, 7, 9])
    assert more == base
    empty = mantel_haenszel([0], [0], [10], [1])
    assert (empty.risk_ratio, empty.p_value, empty.strata) == (None, None, 0)
    assert empty.reason == "no stratum has both variants and both outcomes"
    one_sided = mantel_haenszel([10], [0], [10], [5])
    assert one_sided.risk_ratio is one_sided.low is None
    assert one_sided.p_value == pytest.approx(stats.chi2.sf(2.5**2 / (100 * 5 * 15 / (400 * 19)), 1))
    assert "nobody or everybody" in one_sided.reason
    assert wilson(0, 0).estimate is None
    assert wilson(0, 0).reason == "no units"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: chi_square([10, 10], [11, 1]),
            "conversions are 11 of 10 units: count each unit at most once",
        ),
        (lambda: chi_square([10, -1], [1, 0]), "units is -1: give a whole number of at least 0"),
        (lambda: chi_square([10, 10.5], [1, 0]), "units is 10.5: give a whole number"),
        (lambda: chi_square([10, math.nan], [1, 0]), "units is nan: give a finite number"),
        (lambda: chi_square([10, "many"], [1, 0]), "units is 'many': give a finite number"),
        (lambda: chi_square([10], [1]), "units has 1 variant"),
        (lambda: chi_square([10, 10], [1]), "lengths differ"),
        (lambda: difference(10, 1, 10, 12), "conversions are 12 of 10"),
        (lambda: difference(10, 1, 10, math.inf), "conversions is inf: give a finite number"),
        (lambda: difference(10, 1, 10, 2, 1.5), "level is 1.5: give a number between 0 and 1"),
        (lambda: difference(10, 1, 10, 2, 0), "level is 0"),
        (lambda: wilson(10, 1, 1), "level is 1"),
        (lambda: wilson(-1, 0), "units is -1"),
        (lambda: mantel_haenszel([10], [1], [10, 5], [1]), "lengths differ"),
        (lambda: mantel_haenszel([10], [1], [10], [1], math.nan), "level is nan"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidInput, match=message.replace("(", r"\(")) as caught:
        call()
    assert caught.value.field is None or caught.value.field in str(caught.value)


@pytest.mark.sizes(400, 2000)
@pytest.mark.parametrize(("n", "p0", "uplift"), [(2000, 0.03, 0.1), (500, 0.02, 0.5), (300, 0.01, 0.0)])
def test_coverage_of_the_relative_interval(n, p0, uplift, size):
    """400 (2,000) experiments each: Monte-Carlo error 1.1 (0.5) points. Few conversions, where a Wald ratio fails."""
    import numpy as np

    rng = np.random.default_rng(7)
    x0, x1 = rng.binomial(n, p0, size), rng.binomial(n, p0 * (1 + uplift), size)
    found = [difference(n, int(a), n, int(b)) for a, b in zip(x0, x1, strict=True)]
    covered = [
        f.relative_low is None
        or (f.relative_low <= uplift and (f.relative_high is None or uplift <= f.relative_high))
        for f in found
    ]
    error = math.sqrt(0.95 * 0.05 / size)
    assert 0.95 - 2 * error < sum(covered) / len(covered) < 0.975 + 2 * error
