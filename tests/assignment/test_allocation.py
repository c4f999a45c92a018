import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cro_core.assignment.allocation import (
    BUCKETS,
    best_probabilities,
    expected_conversions,
    next_shares,
    scores,
    tempered,
    tempering,
    whole_buckets,
    with_floor,
)
from cro_core.errors import InvalidInput

tables = st.integers(2, 5).flatmap(
    lambda k: st.lists(
        st.lists(
            st.tuples(st.integers(0, 5000), st.floats(0, 1)).map(lambda t: (t[0], round(t[0] * t[1]))),
            min_size=k,
            max_size=k,
        ),
        min_size=1,
        max_size=6,
    )
)


def split(table):
    n, x = np.moveaxis(np.array(table, float), -1, 0)
    return n, x


# -- scores -------------------------------------------------------------------------------------------------


def test_expected_conversions_are_indirectly_standardised():
    n, x = [[1000, 1000], [200, 1800]], [[200, 250], [8, 90]]
    expected = expected_conversions(n, x)
    assert expected == pytest.approx([1000 * 0.225 + 200 * 0.049, 1000 * 0.225 + 1800 * 0.049])
    found = scores(np.sum(x, 0), expected)
    assert found.ratio == pytest.approx([208 / expected[0], 340 / expected[1]])
    assert found.sd == pytest.approx([math.sqrt(208) / expected[0], math.sqrt(340) / expected[1]])


def test_a_common_drift_does_not_read_as_a_difference():
    """Both convert alike, but the second had most of its visitors on the poor day: pooled 7 % against 20 %."""
    n, x = [[9000, 1000], [1000, 9000]], [[1980, 220], [50, 450]]
    found = scores(np.sum(x, 0), expected_conversions(n, x))
    assert found.ratio == pytest.approx([1, 1])
    assert next_shares(n, x).sum() == 1
    assert next_shares(n, x)[1] == pytest.approx(0.5, abs=0.05)


def test_nothing_expected_is_no_score():
    found = scores([0, 0], [0, 0])
    assert np.isnan(found.ratio).all()
    assert np.isnan(found.sd).all()


# -- the chance to be best ----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.floats(-3, 3), st.floats(0.5, 2), st.floats(0.5, 2))
def test_two_normals_in_closed_form(gap, sd0, sd1):
    chance = best_probabilities([0.0, gap], [sd0, sd1])
    assert chance[1] == pytest.approx(stats.norm.cdf(gap / math.hypot(sd0, sd1)), abs=1e-3)
    assert chance.sum() == pytest.approx(1)


def test_four_normals_by_drawing():
    """400,000 draws: Monte-Carlo error 0.08 points."""
    mean, sd = np.array([0, 0.3, 0.5, -0.4]), np.array([1, 0.5, 0.2, 2])
    drawn = np.random.default_rng(1).normal(mean, sd, (400_000, 4)).argmax(1)
    judge = np.bincount(drawn, minlength=4) / len(drawn)
    assert best_probabilities(mean, sd) == pytest.approx(judge, abs=0.004)


def test_one_that_cannot_be_the_best():
    assert best_probabilities([-math.inf, 0.0, 0.0], [1, 1, 1]) == pytest.approx([0, 0.5, 0.5])


# -- floors and buckets -------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(0.01, 0.16))
def test_floor(shares, floor):
    total = sum(shares)
    shares = np.array(shares) / total if total else np.full(len(shares), 1 / len(shares))
    found = with_floor(shares, floor)
    assert found.sum() == pytest.approx(1)
    assert (found >= floor - 1e-12).all()
    assert (np.diff(found[np.argsort(shares)]) >= -1e-12).all()


def test_dropped_variants_get_nothing():
    found = with_floor([0.5, 0.0, 0.5], 0.2, [True, False, True])
    assert found.tolist() == [0.5, 0, 0.5]


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=8))
def test_whole_buckets(parts):
    shares = np.array(parts) / sum(parts)
    found = whole_buckets(shares)
    assert found.sum() == BUCKETS
    assert abs(found - shares * BUCKETS).max() <= 1


# -- shares -------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(tables)
def test_shares_are_whole_buckets_above_the_floor(table):
    n, x = split(table)
    k = n.shape[-1]
    floor = 0.6 / k
    found = next_shares(n, x, floor=floor)
    assert found.sum() == pytest.approx(1, abs=1e-12)
    assert (found >= floor - 1 / BUCKETS).all()
    assert found * BUCKETS == pytest.approx(np.round(found * BUCKETS), abs=1e-9)
    assert next_shares(n, x, floor=floor).tolist() == found.tolist()
    if k > 2:
        assert found[0] == pytest.approx(found[1:].max(), abs=1.01 / BUCKETS)


def test_a_clear_leader_goes_to_the_ceiling():
    n, x = [[5000, 5000]], [[100, 200]]
    assert next_shares(n, x).tolist() == [0.3, 0.7]
    assert next_shares(n, x, floor=0.1).tolist() == [0.1, 0.9]
    assert next_shares(n, x[::1], floor=0.5).tolist() == [0.5, 0.5]


def test_three_variants_match_the_control_to_the_best_challenger():
    n, x = [[3000] * 3], [[100, 100, 200]]
    assert next_shares(n, x, floor=0.1) == pytest.approx([0.45, 0.1, 0.45])
    free = next_shares(n, x, floor=0.1, control_matched=False)
    assert free == pytest.approx([0.1, 0.1, 0.8])
    pair = next_shares([[3000] * 2], [[100, 200]], floor=0.1, control_matched=True)
    assert pair.tolist() == [0.5, 0.5]


def test_a_dropped_challenger_gets_nothing():
    found = next_shares([[3000] * 3], [[100, 60, 130]], floor=0.1, active=[True, False, True])
    assert found[1] == 0
    assert found.sum() == pytest.approx(1)
    assert found[0] == found[2] == 0.5


class TestTempering:
    """Reference 14: two variants share by the chance to be the best, to the power ``e / (2 E)``."""

    UNITS, CONVERSIONS = ((4000, 4000), (3500, 4500)), ((120, 150), (95, 140))

    def test_a_power_of_probabilities(self):
        assert tempered([0.2, 0.8], 0.25) == pytest.approx([0.41421, 0.58579], abs=5e-6)
        assert tempered([0.2, 0.0, 0.8], 0).tolist() == [0.5, 0, 0.5]
        assert tempered([0.3, 0.7], 1).tolist() == [0.3, 0.7]

    def test_the_chance_to_be_the_best(self):
        observed = np.sum(self.CONVERSIONS, axis=0)
        score = scores(observed, expected_conversions(self.UNITS, self.CONVERSIONS))
        assert best_probabilities(score.ratio, score.sd)[0] == pytest.approx(0.020450, abs=5e-7)

    @pytest.mark.parametrize("floor", [0.1, 0.3])
    def test_the_buckets(self, floor):
        shares = next_shares(self.UNITS, self.CONVERSIONS, floor=floor, exponent=tempering(4, 13))
        assert (shares * BUCKETS).round().tolist() == [3554, 6446]
        assert (next_shares(self.UNITS, self.CONVERSIONS, floor=floor) * BUCKETS).round().tolist() == (
            [1000, 9000] if floor == 0.1 else [3000, 7000]
        )

    def test_it_grows_with_the_experiment(self):
        assert [tempering(e, 13) for e in (0, 4, 12)] == [0, 2 / 13, 6 / 13]
        shares = [
            next_shares(self.UNITS, self.CONVERSIONS, floor=0.1, exponent=tempering(e, 13))[1]
            for e in range(13)
        ]
        assert shares[0] == 0.5
        assert (np.diff(shares) > 0).all()

    def test_programmes_on_leading_axes(self):
        n = np.array([[[3000, 3100]], [[2000, 2500]]])
        x = np.array([[[90, 130]], [[70, 60]]])
        found = next_shares(n, x, floor=0.1, exponent=0.3)
        assert found.tolist() == [next_shares(n[k], x[k], floor=0.1, exponent=0.3).tolist() for k in range(2)]

    def test_a_dropped_variant_stays_out_at_any_power(self):
        n, x = [[3000] * 3], [[100, 60, 130]]
        active = [True, False, True]
        found = next_shares(n, x, floor=0.1, active=active, control_matched=False, exponent=0.0)
        assert found.tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize(
    ("n", "x"),
    [
        (np.zeros((0, 2)), np.zeros((0, 2))),
        ([[0, 0]], [[0, 0]]),
        ([[50, 60]], [[0, 0]]),
        ([[50, 0]], [[0, 0]]),
    ],
)
def test_nothing_known_is_an_even_split(n, x):
    assert next_shares(n, x).tolist() == [0.5, 0.5]


def test_no_conversion_yet_is_no_certainty():
    """0 of 50 against 3 of 50 is little to go by: sqrt(0) must not read as a score known for sure."""
    assert 0.05 < next_shares([[50, 50]], [[0, 3]], floor=0.01)[0] < 0.5


def test_programmes_on_leading_axes():
    rng = np.random.default_rng(2)
    n = rng.integers(100, 900, (5, 3, 4))
    x = rng.binomial(n, 0.1)
    found = next_shares(n, x, floor=0.1)
    assert found.tolist() == [next_shares(n[k], x[k], floor=0.1).tolist() for k in range(5)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: next_shares([[10, 10]], [[11, 1]]), r"conversions exceed units at \(0, 0\) \(11 of 10\)"),
        (lambda: next_shares([[10, -1]], [[1, 0]]), "units contain a negative number or NaN"),
        (lambda: next_shares([[10, 10]], [[math.nan, 0]]), "conversions contain a negative number or NaN"),
        (lambda: next_shares([[10]], [[1]]), "at least 2 variants"),
        (lambda: next_shares([[10, 10]], [[1]]), "at least 2 variants"),
        (
            lambda: next_shares([[10, 10]], [[1, 1]], floor=0.6),
            "floor is 0.6: give a number above 0 and at most 1/2",
        ),
        (lambda: next_shares([[10, 10]], [[1, 1]], floor=0), "floor is 0"),
        (lambda: next_shares([[10, 10]], [[1, 1]], active=[False, True]), "active drops the control"),
        (lambda: next_shares([[10, 10]], [[1, 1]], active=[True, False]), "active leaves no challenger"),
        (
            lambda: next_shares([[10, 10]], [[1, 1]], exponent=1.5),
            "exponent is 1.5: give a number from 0 to 1",
        ),
        (lambda: next_shares([[10, 10]], [[1, 1]], exponent=math.nan), "exponent is nan"),
        (lambda: next_shares([[10] * 3], [[1] * 3], floor=0.1, exponent=0.5), "with a matched control"),
        (lambda: tempering(13, 13), "epoch is 13 of 13: give a number from 0 to 12"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidInput, match=message) as refused:
        call()
    assert refused.value.field in {"units", "conversions", "floor", "active", "exponent", "epoch"}
