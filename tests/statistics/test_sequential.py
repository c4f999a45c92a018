import json
import math
from decimal import MAX_EMAX, MIN_EMIN, Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq

from cro_core.errors import InvalidInput
from cro_core.statistics.checks import check_between
from cro_core.statistics.sequential import (
    FAMILIES,
    FURTHEST,
    Spending,
    State,
    advance,
    boundaries,
    conditional_power,
    crossing,
    design,
    drift_for_power,
    exits,
    expected_information,
    power,
    step,
)


def even(looks):
    return np.arange(1, looks + 1) / looks


def digits(count):
    """Half a unit of the last of so many digits behind the point, and a little for how tables were rounded."""
    return 0.51 * 10.0**-count


def wang_tsiatis(looks, shape):
    """Classic critical |Z|, ``C * (k / looks) ** (shape - 1/2)`` at equal looks, two-sided alpha .05.

    Shape 0 is O'Brien and Fleming (1979), 1/2 Pocock (1977), between them Wang and Tsiatis (1987).
    """
    times = even(looks)

    def excess(constant):
        return exits(times, constant * times ** (shape - 0.5)).upper.sum() - 0.025

    return brentq(excess, 1e-3, FURTHEST, xtol=1e-10) * times ** (shape - 0.5)


schedules = st.lists(st.floats(0.02, 1), min_size=2, max_size=4).map(np.cumsum)

# -- published tables ---------------------------------------------------------------------------------------

# Jennison and Turnbull (2000), tables 2.1 and 2.3, two-sided alpha .05
POCOCK = {2: 2.178, 3: 2.289, 4: 2.361, 5: 2.413, 10: 2.555}
OBRIEN_FLEMING = {2: 1.977, 3: 2.004, 4: 2.024, 5: 2.040, 10: 2.087}

# Lan and DeMets (1983), Kim and DeMets (1987), five equal looks; gsDesign for Hwang-Shih-DeCani
SPENDING = {
    Spending("hwang_shih_decani", -4): [3.2527, 2.9860, 2.6917, 2.3737, 2.0253],
    Spending("kim_demets", 1): [2.5758, 2.4920, 2.4108, 2.3391, 2.2755],
}
FOURTEEN = [3.6080, 3.5066, 3.3942, 3.2806, 3.1671, 3.0535, 2.9392]
FOURTEEN += [2.8238, 2.7067, 2.5875, 2.4656, 2.3405, 2.2117, 2.0783]

# Armitage, McPherson and Rowe (1969): 1.96 at each of so many equal looks
NAIVE = {2: 0.083, 3: 0.107, 4: 0.126, 5: 0.142, 10: 0.193, 20: 0.248, 50: 0.320}


@pytest.mark.parametrize("looks", POCOCK)
def test_classic_constants(looks):
    assert wang_tsiatis(looks, shape=0.5) == pytest.approx([POCOCK[looks]] * looks, abs=digits(3))
    obrien_fleming = wang_tsiatis(looks, shape=0)
    assert obrien_fleming[-1] == pytest.approx(OBRIEN_FLEMING[looks], abs=digits(3))
    assert obrien_fleming * np.sqrt(even(looks)) == pytest.approx([obrien_fleming[-1]] * looks)


@pytest.mark.parametrize("spending", SPENDING, ids=lambda s: s.family)
def test_spending_boundaries_at_five_looks(spending):
    assert boundaries(even(5), spending=spending) == pytest.approx(SPENDING[spending], abs=digits(4))


# Lan and DeMets (1983), as their program printed them
LAN_DEMETS = {
    "obrien_fleming": [4.8769, 3.3569, 2.6803, 2.2898, 2.0310],
    "pocock": [2.4380, 2.4268, 2.4101, 2.3966, 2.3859],
}


@pytest.mark.parametrize("family", LAN_DEMETS)
def test_lan_demets_boundaries(family):
    """To one unit of the last digit, which the coarser grid of 1983 left open; plain quadrature settles it."""
    found = boundaries(even(5), spending=Spending(family))
    assert found == pytest.approx(LAN_DEMETS[family], abs=1.2e-4)
    b = np.linspace(-1, 1, 200_001) * found[0] * math.sqrt(0.2)
    density = stats.norm.pdf(b, scale=math.sqrt(0.2))
    spent = np.trapezoid(density * stats.norm.sf((found[1] * math.sqrt(0.4) - b) / math.sqrt(0.2)), b)
    assert spent == pytest.approx(np.diff(Spending(family).spent([0.2, 0.4], 0.025))[0], abs=1e-10)


def test_fourteen_looks():
    assert boundaries(even(14)) == pytest.approx(FOURTEEN, abs=digits(4))


def test_the_hourly_boundary_as_chi_square():
    critical = boundaries(even(336))
    assert critical[23] ** 2 == pytest.approx(16.1, abs=digits(1))
    assert critical[[167, 335]] ** 2 == pytest.approx([9.54, 4.72], abs=digits(2))


@pytest.mark.parametrize("looks", NAIVE)
def test_naive_looking(looks):
    found = exits(even(looks), np.full(looks, stats.norm.isf(0.025)))
    assert (found.upper + found.lower).sum() == pytest.approx(NAIVE[looks], abs=digits(3))


def test_what_looking_costs():
    five = design(even(5), target=0.9)
    assert five.inflation == pytest.approx(1.023, abs=digits(3))
    assert five.expected == pytest.approx(0.7366, abs=digits(4))
    assert five.expected < five.expected_null < five.inflation
    stops = exits(even(5), five.critical)
    stopped = (stops.upper + stops.lower)[:, 0]
    null = (stopped * even(5)).sum() + 1 - stopped.sum()
    assert five.expected_null == pytest.approx(null * five.inflation)
    drift = stats.norm.isf(0.025) + stats.norm.isf(0.2)
    for looks, at_fixed, inflation in ((14, 0.785, 1.039), (336, 0.780, 1.052)):
        found = design(even(looks))
        assert power(even(looks), found.critical, drift) == pytest.approx(at_fixed, abs=digits(3))
        assert found.inflation == pytest.approx(inflation, abs=digits(3))


# -- against other ways to compute the same -----------------------------------------------------------------


def by_plain_quadrature(times, bounds, drift):
    """Crossings up and down by look: the density of B, drift and all, carried over one fixed fine rule."""
    nodes, weights = np.polynomial.legendre.leggauss(300)
    b, mass, up, down, before = np.zeros(1), np.ones(1), [], [], 0.0
    for t, z in zip(times, bounds, strict=True):
        mean, sd, edge = b + drift * (t - before), math.sqrt(t - before), z * math.sqrt(t)
        up.append(mass @ stats.norm.sf(edge, mean, sd))
        down.append(mass @ stats.norm.cdf(-edge, mean, sd))
        b, before = edge * nodes, t
        density = np.exp(-(((b[:, None] - mean) / sd) ** 2) / 2) / (sd * math.sqrt(2 * math.pi))
        mass = edge * weights * (density @ mass)
    return np.array([up, down])


@settings(max_examples=12, deadline=None)
@given(schedules, st.floats(1.2, 3), st.floats(-2, 2))
def test_exits_against_plain_quadrature(times, bound, drift):
    bounds = bound + 0.1 * np.arange(len(times))
    found = exits(times, bounds, drift)
    judge = by_plain_quadrature(times, bounds, drift)
    assert np.array([found.upper, found.lower])[..., 0] == pytest.approx(judge, abs=1e-9)


def test_exits_by_simulation():
    """200,000 paths with drift: Monte-Carlo error 0.1 points."""
    times, rng = np.array([0.1, 0.15, 0.4, 0.7, 1.0]), np.random.default_rng(2)
    bounds = boundaries(times)
    steps = np.diff(times, prepend=0)
    b = (rng.normal(size=(200_000, 5)) * np.sqrt(steps) + 2.0 * steps).cumsum(1)
    z = b / np.sqrt(times)
    first = np.where((abs(z) >= bounds).any(1), (abs(z) >= bounds).argmax(1), -1)
    found = exits(times, bounds, 2.0)
    for k in range(5):
        up = ((first == k) & (z[:, k] > 0)).mean()
        assert found.upper[k, 0] == pytest.approx(up, abs=0.005)
    assert power(times, bounds, 2.0) == pytest.approx(
        (z[np.arange(len(z)), first] > 0)[first >= 0].sum() / 2e5, abs=5e-3
    )


@settings(max_examples=25, deadline=None)
@given(schedules, st.sampled_from(sorted(FAMILIES)), st.floats(0.001, 0.3))
def test_boundaries_spend_exactly_what_they_may(times, family, alpha):
    spending, clock = Spending(family), times / times[-1]
    found = exits(times, boundaries(times, alpha=alpha, spending=spending))
    allowed = spending.spent(clock, alpha / 2)
    # what is capped at FURTHEST spends next to nothing, and the next look makes up for it
    assert found.upper[:, 0].cumsum() == pytest.approx(allowed, abs=1e-9)
    assert found.lower == pytest.approx(found.upper, abs=1e-12)


def test_one_look_is_the_plain_test():
    assert boundaries([1.0], alpha=0.1)[0] == pytest.approx(stats.norm.isf(0.05), abs=1e-9)
    assert design([1.0]).inflation == pytest.approx(1, abs=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.floats(1e-6, 1e6))
def test_the_scale_of_information_does_not_matter(scale):
    times = np.array([0.2, 0.3, 0.9, 1.0])
    assert boundaries(scale * times, spending_time=times) == pytest.approx(boundaries(times), abs=1e-7)


def test_three_hundred_looks_lose_no_digits():
    """Hourly looks, stored and read back between them, against half the step width: the total is alpha."""
    critical = boundaries(even(336))
    found = exits(even(336), critical)
    assert found.upper.sum() == pytest.approx(0.025, abs=1e-8)
    state = State()
    for k, t in enumerate(even(336)):
        state = State.from_json(json.loads(json.dumps(state.as_json())))
        state, z = step(state, float(t), float(Spending().spent(t, 0.025)))
        assert z == critical[k]


# -- two clocks ---------------------------------------------------------------------------------------------


def test_spending_time_and_information_are_two_clocks():
    """The rate rises while traffic, by which alpha is spent, is flat: one clock for both spends too much."""
    traffic = even(14)
    information = traffic * (0.4 + 0.6 * traffic)
    right, one_clock = boundaries(information, spending_time=traffic), boundaries(traffic)
    assert exits(information, right).upper.sum() == pytest.approx(0.025, abs=1e-9)
    assert exits(information, one_clock).upper.sum() > 0.0265


def test_skipped_looks_give_alpha_to_the_next_one():
    every, some = even(10), even(10)[[0, 4, 5, 9]]
    few = boundaries(some, spending_time=some)
    assert exits(some, few).upper.sum() == pytest.approx(0.025, abs=1e-9)
    assert (few[1:] < boundaries(every)[[4, 5, 9]]).all()


def test_a_look_that_may_spend_nothing_is_never_crossed():
    state, critical = step(State(), 1.0, 0.0)
    assert critical == FURTHEST
    _, later = step(state, 2.0, 0.025)
    assert later == pytest.approx(stats.norm.isf(0.025), abs=1e-6)


def test_spending_families():
    u = np.linspace(0, 1, 11)
    for family in FAMILIES:
        spent = Spending(family).spent(u, 0.05)
        assert (spent[0], spent[-1]) == pytest.approx((0, 0.05), abs=1e-12)
        assert (np.diff(spent) >= 0).all()
        assert Spending(family).spent([-1, 2], 0.05).tolist() == spent[[0, -1]].tolist()
    assert Spending("hwang_shih_decani", 0).spent(u, 0.05) == pytest.approx(0.05 * u)
    assert Spending("hwang_shih_decani", 1e-7).spent(u, 0.05) == pytest.approx(0.05 * u, abs=1e-8)
    assert Spending("kim_demets", 2).spent(0.5, 0.05) == pytest.approx(0.0125)
    assert Spending().shape == -4
    assert Spending("hwang_shih_decani", -1).spent(0.5, 0.05) > Spending().spent(0.5, 0.05)
    half = Spending("obrien_fleming").spent(0.5, 0.05)
    assert half == pytest.approx(2 * stats.norm.sf(stats.norm.isf(0.025) / math.sqrt(0.5)))


# -- power, sample, futility --------------------------------------------------------------------------------


def test_power_and_its_inverse():
    times = even(5) * 3.0
    critical = boundaries(times)
    drift = drift_for_power(times, critical, 0.9)
    assert power(times, critical, drift) == power(times, critical, -drift) == pytest.approx(0.9, abs=1e-8)
    assert power(times, critical, 0.0) == pytest.approx(0.025, abs=1e-9)


def test_expected_information_is_a_mean():
    times = np.array([0.5, 1.0])
    found = exits(times, [1.5, 1.96], 1.0)
    first = float((found.upper + found.lower)[0, 0])
    assert expected_information(times, found)[0] == pytest.approx(0.5 * first + (1 - first))


def test_design_follows_its_arguments():
    base = design(even(5))
    assert design(even(5), alpha=0.01).critical[-1] > base.critical[-1]
    assert design(even(5), target=0.9).expected < base.expected
    assert design(even(5), spending=Spending("pocock")).inflation > base.inflation
    late = design(even(5), spending_time=even(5) ** 3)
    assert late.critical[0] > base.critical[0]


def test_conditional_power():
    assert conditional_power(0.0, 0.0, 1.0, 1.96, 1.96 + 0.8416) == pytest.approx(0.8, abs=1e-4)
    value = conditional_power([0.5, 2.0], 0.5, 1.0, 2.0, 0.0)
    assert value == pytest.approx(stats.norm.sf((2 - np.array([0.5, 2.0])) / math.sqrt(0.5)))
    assert conditional_power([1.9, 2.1], 1.0, 1.0, 2.0, 5.0).tolist() == [0, 1]


@settings(max_examples=10, deadline=None)
@given(st.floats(-2, 2), st.floats(-3, 3))
def test_crossing_is_a_likelihood_ratio_away_from_the_null(drift, bound):
    """One earlier look at 0.5 with a bound of 2: the chance to be above ``bound`` at 1, by plain quadrature."""
    state = advance(State(), 0.5, 2.0)
    edge = 2 * math.sqrt(0.5)
    b = np.linspace(-edge, edge, 20_001)
    density = stats.norm.pdf(b, 0.5 * drift, math.sqrt(0.5))
    above = stats.norm.sf((bound - b - 0.5 * drift) / math.sqrt(0.5))
    judge = np.trapezoid(density * above, b)
    assert float(crossing(state, 1.0, bound, drift)) == pytest.approx(judge, abs=1e-7)


# -- extremes -----------------------------------------------------------------------------------------------

MOMENTS = [0, 1e-300, 1e-9, 0.25, 0.5, 0.999, 1 - 1e-9, 1]
EXTREMES = [
    *(("hwang_shih_decani", sign * size) for size in (0, 1e-320, 1e-17, 1e-12, 700, 720, 1e5, 1e308) for sign in (-1, 1)),
    *(("kim_demets", rho) for rho in (1e-320, 1e-12, 50, 1e3, 1e308)),
    ("pocock", None),
    ("obrien_fleming", None),
]  # fmt: skip


@pytest.mark.parametrize(("family", "parameter"), EXTREMES)
def test_no_parameter_is_too_large_or_too_small(family, parameter):
    """From nothing to alpha and never back, and the last look has all of what is left."""
    spending = Spending(family, parameter)
    for alpha in (1e-300, 0.025, 0.05, 0.9999):
        spent = spending.spent(MOMENTS, alpha)
        assert (spent[0], spent[-1]) == (0, pytest.approx(alpha, rel=1e-12))
        assert (np.diff(spent) >= 0).all()
    assert spending.spent([-1, 2, math.inf], 0.05) == pytest.approx([0, 0.05, 0.05])
    for looks in (1, 2, 10):
        times = np.arange(1, looks + 1) / looks
        critical = boundaries(times, spending=spending)
        assert ((critical > 1.9) & (critical <= 8)).all()
        assert 2 * exits(times, critical).upper.sum() == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize("gamma", [-1e5, -720, -710, -700, -50, -4, -1e-12, 1e-12, 4, 50, 720, 1e5])
def test_hwang_shih_and_decani_to_the_last_digits(gamma):
    """Against 60 decimal digits, in which nothing overflows."""
    with localcontext(prec=60, Emax=MAX_EMAX, Emin=MIN_EMIN):
        exact = [
            float(((-Decimal(gamma) * Decimal(u)).exp() - 1) / ((-Decimal(gamma)).exp() - 1)) for u in MOMENTS
        ]
    assert Spending("hwang_shih_decani", gamma).spent(MOMENTS, 0.05) == pytest.approx(
        0.05 * np.array(exact), rel=1e-13, abs=1e-290
    )


# -- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Spending("haybittle"), "spending family is 'haybittle': choose from"),
        (lambda: Spending("pocock", 1), "pocock has none"),
        (lambda: Spending("kim_demets", 0), "parameter is 0"),
        (lambda: Spending("hwang_shih_decani", math.nan), "parameter is nan"),
        (lambda: boundaries([0.5, 0.4]), r"information is 0.4 after 0.5: give looks in order"),
        (lambda: boundaries([0.0, 0.4]), "information is 0.0 after 0.0"),
        (lambda: boundaries([0.5, math.nan]), "information is .*nan.*: give a finite number"),
        (
            lambda: boundaries([0.5, 1], spending_time=[1]),
            "lengths differ .*'information': 2, 'spending_time': 1",
        ),
        (
            lambda: boundaries([0.5, 1], spending_time=[0.5, math.nan]),
            r"time is array\(\[0.5, nan\]\): give elapsed",
        ),
        (lambda: Spending().spent(math.nan, 0.05), "time is nan: give elapsed shares of the experiment"),
        (lambda: Spending().spent([0.5, None], 0.05), r"time is \[0.5, None\]: give elapsed"),
        (lambda: Spending("pocock").spent("half", 0.05), "time is 'half': give elapsed"),
        (lambda: Spending("obrien_fleming").spent(0.5, 1), "alpha is 1: give a number between 0 and 1"),
        (lambda: Spending().spent(0.5, math.nan), "alpha is nan"),
        (lambda: Spending("kim_demets", math.inf), "parameter is inf: give a finite number"),
        (lambda: Spending("kim_demets", -3), "parameter is -3: give a number between 0 and inf"),
        (lambda: Spending("hwang_shih_decani", -math.inf), "parameter is -inf: give a finite number"),
        (lambda: Spending("hwang_shih_decani", "late"), "parameter is 'late': give a finite number"),
        (lambda: boundaries([0.5, 1], alpha=1.5), "alpha is 1.5: give a number between 0 and 1"),
        (lambda: boundaries([1], alpha=0), "alpha is 0"),
        (lambda: step(State(), 1.0, 0.6), "spend_to is 0.6"),
        (lambda: step(State(), 1.0, math.nan), "spend_to is nan"),
        (lambda: advance(State(), 1.0, 0.0), "critical is 0"),
        (lambda: exits([0.5, 1], [2, -1]), "critical is -1|critical is np.float64"),
        (lambda: drift_for_power([1], [1.96], 1.0), "target is 1"),
        (lambda: State.from_json({"information": [1]}), "stored state cannot be read"),
        (
            lambda: State.from_json({"information": [1], "critical": [], "spent": 0, "mass": [1]}),
            "stored state is inconsistent",
        ),
        (
            lambda: State.from_json({"information": [1], "critical": [2], "spent": 0, "mass": [math.nan]}),
            "stored state is inconsistent",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()


def test_check_between_takes_any_number():
    assert check_between(np.float64(0.5), "x", 0, 1) == 0.5
    for value in ("many", None, math.nan, 0, 1):
        with pytest.raises(InvalidInput, match="give a number between 0 and 1"):
            check_between(value, "x", 0, 1)
