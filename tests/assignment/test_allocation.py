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
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()
