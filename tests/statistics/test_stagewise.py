import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cro_core.errors import InvalidInput
from cro_core.statistics import stagewise
from cro_core.statistics.sequential import State, boundaries, exits, step
from cro_core.statistics.stagewise import climb, estimate, p_value, p_values, z_left

TIMES = np.arange(1, 6) / 5
BOUNDS = boundaries(TIMES)


def walk(rng, drift, paths=8_000, times=TIMES, bounds=BOUNDS):
    """Look and value of B at which each path stopped."""
    steps = np.diff(times, prepend=0)
    b = (rng.normal(size=(paths, len(times))) * np.sqrt(steps) + drift * steps).cumsum(1)
    out = abs(b) >= bounds * np.sqrt(times)
    look = np.where(out.any(1), out.argmax(1), len(times) - 1)
    return look, b[np.arange(paths), look]


def above(look, value, drift):
    """Chance of an outcome at least so extreme upwards, by the definition of the order."""
    earlier = exits(TIMES, BOUNDS, drift).upper[:look].sum() if look else 0.0
    bounds = np.array([*BOUNDS[:look], value / math.sqrt(TIMES[look])])
    return float(earlier + exits(TIMES[: look + 1], np.maximum(bounds, 1e-9), drift).upper[look, 0])


def test_p_value_at_the_boundary_is_the_alpha_spent():
    state, spent = State(), 0.05 * np.expm1(4 * TIMES) / math.expm1(4)
    for k, t in enumerate(TIMES):
        assert p_value(state, t, BOUNDS[k] * math.sqrt(t)) == pytest.approx(spent[k], abs=1e-9)
        state, _ = step(state, float(t), spent[k] / 2)


def test_p_value_at_the_first_look_is_the_plain_one():
    assert p_value(State(), 4.0, 5.0) == pytest.approx(2 * stats.norm.sf(2.5))
    assert p_value(State(), 4.0, -5.0) == p_value(State(), 4.0, 5.0)
    assert p_value(State(), 4.0, 0.0) == 1


def test_p_values_are_uniform_without_effect():
    """8,000 paths: Monte-Carlo error at most 0.56 points."""
    look, value = walk(np.random.default_rng(1), 0.0)
    p = estimate(TIMES, BOUNDS, look, value).p_value
    for level in (0.001, 0.01, 0.05, 0.2, 0.5, 0.9):
        assert (p <= level).mean() == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / len(p)))


def test_the_vector_and_the_single_p_value_agree():
    look, value = np.array([0, 2, 4, 4]), np.array([1.6, -2.4, 0.3, 2.1])
    found = estimate(TIMES, BOUNDS, look, value).p_value
    states = climb(TIMES, BOUNDS, -1, 1).states
    single = [p_value(states[k], TIMES[k], v) for k, v in zip(look, value, strict=True)]
    assert found == pytest.approx(single, abs=1e-9)
    assert p_values(TIMES, BOUNDS, look, value) == pytest.approx(single, abs=1e-12)


@pytest.mark.parametrize("drift", [0.0, 1.0, 2.8, 4.5])
def test_median_and_coverage(drift):
    """8,000 paths, Monte-Carlo error 0.56 and 0.24 points; the naive estimate is far off."""
    look, value = walk(np.random.default_rng(2), drift)
    found = estimate(TIMES, BOUNDS, look, value)
    assert (found.median < drift).mean() == pytest.approx(0.5, abs=0.0225)
    assert ((found.low <= drift) & (drift <= found.high)).mean() == pytest.approx(0.95, abs=0.0098)
    if drift > 2:
        assert (value / TIMES[look] < drift).mean() < 0.46


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 4), st.floats(0, 1), st.floats(0.5, 0.99))
def test_estimates_solve_their_equations(look, beyond, level):
    """By crossing probabilities from first principles; early outcomes lie beyond their boundary."""
    value = (BOUNDS[look] + beyond) * math.sqrt(TIMES[look]) if look < 4 else 3 * beyond
    found = estimate(TIMES, BOUNDS, look, value, level=level)
    assert above(look, value, float(found.median)) == pytest.approx(0.5, abs=1e-6)
    assert above(look, value, float(found.low)) == pytest.approx((1 - level) / 2, abs=1e-6)
    assert above(look, value, float(found.high)) == pytest.approx((1 + level) / 2, abs=1e-6)
    assert found.low < found.median < found.high


def test_one_look_is_the_plain_estimate():
    found = estimate([4.0], [1.96], 0, 6.0, level=0.9)
    z = stats.norm.isf(0.05)
    assert (found.median, found.low, found.high) == pytest.approx((1.5, 1.5 - z / 2, 1.5 + z / 2), abs=1e-8)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(3))


def test_a_loss_is_the_mirror_image_of_a_gain():
    gain, loss = (estimate(TIMES, BOUNDS, 2, sign * 2.5) for sign in (1, -1))
    assert (loss.median, loss.low, loss.high) == (-gain.median, -gain.high, -gain.low)
    assert loss.p_value == gain.p_value
    assert gain.median < 2.5 / 0.6


def test_the_interval_excludes_nothing_exactly_at_the_boundary():
    """The whole alpha of .05 at the last look: a crossing there by a hair has a 95 % interval that ends at 0."""
    found = estimate(TIMES, BOUNDS, 4, BOUNDS[4])
    assert found.low == pytest.approx(0, abs=1e-6)
    assert found.p_value == pytest.approx(0.05, abs=1e-9)


def test_hundreds_of_hourly_looks():
    times = np.arange(1, 337) / 336
    bounds = boundaries(times)
    look, value = walk(np.random.default_rng(3), 2.8, 600, times, bounds)
    found = estimate(times, bounds, look, value)
    assert (found.median < 2.8).mean() == pytest.approx(0.5, abs=4 * 0.0204)
    assert ((found.low <= 2.8) & (found.high >= 2.8)).mean() == pytest.approx(0.95, abs=4 * 0.0089)


def test_what_an_effect_leaves_of_z():
    assert z_left(3.0, 4.0, 1.0) == 1
    assert z_left([3.0, 3.0], 4.0, [1.5, 2.0]).tolist() == [0, -1]


def test_bad_input_is_named():
    with pytest.raises(InvalidInput, match=r"level is 1.5: give a number between 0 and 1"):
        estimate(TIMES, BOUNDS, 0, 2.0, level=1.5)
    with pytest.raises(InvalidInput, match="give looks in order"):
        estimate(TIMES[::-1], BOUNDS, 0, 2.0)


OPEN = ([-3.0, -2.9, -2.8, -2.75, -2.7, -2.6], [None, 3.0, 2.9, None, 2.7, 2.6])
UNEVEN = np.array([10.0, 20.0, 30.0, 30.01, 31.0, 31.01])


@pytest.mark.parametrize("z", [-12.0, -4.0, 2.0, 5.0, 19.0])
def test_the_density_under_any_drift_gives_the_same(z, monkeypatch):
    def found():
        e = estimate(UNEVEN, [3.0] * 6, 5, z * np.sqrt(UNEVEN[5]), acted=OPEN)
        return [float(e.median), float(e.low), float(e.high), float(e.p_value)]

    usual = found()
    monkeypatch.setattr(stagewise, "_FAR", 0.5)
    assert found() == pytest.approx(usual, rel=1e-7)


@pytest.mark.parametrize("z", [-300.0, -45.0, 30.0, 75.0])
def test_however_far_an_outcome_is_it_has_an_estimate(z):
    """Nothing could act at any look before it, so its interval is the usual one; finding it takes no long rule."""
    times = np.array([*np.arange(1.0, 168.0), 167.0 * 1.0002])
    shut = ([None] * 168, [*[None] * 167, 2.5])
    e = estimate(times, [3.0] * 168, 167, z * np.sqrt(times[-1]), acted=shut)
    ends = np.array([float(e.median), float(e.low), float(e.high)]) * np.sqrt(times[-1])
    assert ends == pytest.approx(z + np.array([0, -1.959964, 1.959964]), rel=1e-7)
    assert float(e.p_value) <= 1e-190
