import gc
import math

import numpy as np
import pytest
from helpers.saffron import Level, in_turn, rejected, saffron
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from cro_core.errors import InvalidInput
from cro_core.statistics.multiplicity import (
    Trial,
    benjamini_hochberg,
    holm,
    next_level,
)
from cro_core.statistics.proportions import chi_square

families = st.lists(st.floats(0, 1), min_size=1, max_size=12)

# The example of the onlineFDR package (Robertson et al.), SAFFRON(d, random = FALSE) and
# SAFFRONstar(d, version = "async") with decision.times = seq_len(15) + 1, both at alpha = 0.05
STREAM = [
    2.90e-08,
    0.06743,
    0.01514,
    0.08174,
    0.00171,
    3.60e-05,
    0.79149,
    0.27201,
    0.28295,
    7.59e-08,
    0.69274,
]
STREAM += [0.30443, 0.00136, 0.72342, 0.54757]
SAFFRON = [0.005468627, 0.010937254, 0.010937254, 0.010937254, 0.010937254, 0.021874508, 0.032811762]
SAFFRON += [0.010823845, 0.010823845, 0.010823845, 0.021761099, 0.009265591, 0.009265591, 0.020202846]
SAFFRON += [0.009064367]
ASYNCHRONOUS = [0.005468627, 0.001803974, 0.007272601, 0.003607948, 0.003607948, 0.003607948, 0.014545202]
ASYNCHRONOUS += [0.018153151, 0.007379710, 0.007379710, 0.007379710, 0.018316965, 0.007874188, 0.007874188]
ASYNCHRONOUS += [0.018811442]


def levels(stream):
    return [level.level for level in stream]


def one_by_one(trials, *settings):
    """The whole stream as it comes about: each level is asked for when its experiment starts."""
    rows = []
    for t, trial in enumerate(trials):
        level = next_level(trials[:t], levels(rows), trial.starts, *settings)
        rows.append(Level(level, rejected(trial, level)))
    return rows


both = pytest.mark.parametrize("stream_of", [one_by_one, saffron])


# -- families -----------------------------------------------------------------------------------------------


@pytest.fixture
def little_garbage():
    """Each call of the judge collects all garbage: what is there already is left out."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("little_garbage")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(families)
def test_families_against_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)
    assert benjamini_hochberg(p_values) == pytest.approx(
        multipletests(p_values, method="fdr_bh")[1], abs=1e-12
    )


def test_msu_library_against_its_control():
    """INTERACT is the control; the family is CONNECT, LEARN, HELP, SERVICES."""
    arms = [(2742, 53), (2747, 21), (3180, 38), (2064, 45)]
    adjusted = holm([chi_square([10283, n], [42, x]).p_value for n, x in arms])
    assert adjusted == pytest.approx([2.31e-16, 0.016859, 9.14e-07, 6.41e-18], rel=2e-3)


def test_a_metric_without_p_value_stays_in_the_family():
    assert holm([0.01, None, 0.02]) == pytest.approx((0.03, None, 0.04))
    assert benjamini_hochberg([0.01, None, 0.02]) == pytest.approx((0.03, None, 0.03))
    assert holm([]) == benjamini_hochberg([]) == ()


def test_every_p_value_matters():
    assert holm([0.01, 0.02]) == (0.02, 0.02)
    assert holm([0.01, 0.03]) == (0.02, 0.03)
    assert benjamini_hochberg([0.01, 0.04]) == (0.02, 0.04)
    assert benjamini_hochberg([0.01, 0.05]) == (0.02, 0.05)
    assert benjamini_hochberg([0.02, 0.05]) == (0.04, 0.05)


# -- streams ------------------------------------------------------------------------------------------------


@both
def test_saffron_against_its_reference(stream_of):
    found = stream_of(in_turn(STREAM), 0.05)
    assert levels(found) == pytest.approx(SAFFRON, abs=5.1e-10)
    assert [i for i, level in enumerate(found) if level.rejected] == [0, 4, 5, 9, 12]


@both
def test_asynchronous_saffron_against_its_reference(stream_of):
    overlapping = [Trial(t, t + 1.5, p) for t, p in enumerate(STREAM)]
    assert levels(stream_of(overlapping, 0.05)) == pytest.approx(ASYNCHRONOUS, abs=5.1e-10)


@settings(deadline=None)
@given(families)
def test_a_level_knows_nothing_of_what_had_not_ended(p_values):
    """Changing a p-value changes no level that was fixed before that experiment ended."""
    stream = [Trial(t, t + 2.5, p) for t, p in enumerate(p_values)]
    other = [*stream[:-1], Trial(stream[-1].starts, stream[-1].ends, 1 - p_values[-1])]
    assert levels(one_by_one(stream)) == levels(one_by_one(other))


def test_running_and_failed_trials():
    stream = [Trial(0, 1, 1e-6), Trial(2, 3), Trial(4), Trial(5, 6, 0.9)]
    found = one_by_one(stream)
    assert [level.rejected for level in found] == [True, False, None, False]
    as_one = [stream[0], Trial(2, 3, 1.0), Trial(4, 99, 0.001), stream[3]]  # 99 is after every start
    assert levels(found) == levels(one_by_one(as_one))
    never_known = one_by_one([Trial(0, 50, 1e-6), *stream[1:]])
    assert levels(never_known)[1:] < levels(found)[1:]


def test_trials_that_start_together_do_not_know_of_each_other():
    together = one_by_one([Trial(0, 1, 1e-9)] * 3)
    assert len(set(levels(together))) == 3
    assert levels(together) == levels(one_by_one([Trial(0, 1, 0.9)] * 3))


def test_many_results_at_once_pay_back_no_more_than_was_charged():
    """Five early candidates end together after a discovery: its own age must not fall below 1."""
    stream = [
        *(Trial(t, 20, 0.3) for t in range(5)),
        Trial(5, 6, 1e-9),
        *(Trial(t, 30, 0.9) for t in range(21, 25)),
    ]
    found = levels(one_by_one(stream, 0.1))
    # level 6 starts at time 21: everything before is known, five refunds and one discovery
    first, second = 0.4374901658, 0.4374901658 / 2**1.6
    assert found[6] == pytest.approx(0.025 * first + 0.025 * first)
    assert found[7] == pytest.approx(0.025 * second + 0.025 * second)


def test_the_settings_of_a_stream():
    trials = in_turn(STREAM)
    base = levels(one_by_one(trials))
    assert levels(one_by_one(trials, 0.2))[0] == pytest.approx(2 * base[0])
    assert levels(one_by_one(trials, 0.1, 0.5, 0.01))[0] == pytest.approx(base[0] * 0.01 / 0.025)
    assert levels(one_by_one(trials, 0.1, 0.25)) != base
    assert max(levels(one_by_one(in_turn([1e-9] * 60), 0.9, 0.05))) == 0.05


# -- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: holm([0.1, 1.2]), "p_value is 1.2: give a number from 0 to 1"),
        (lambda: holm([math.nan]), "p_value is nan: give a finite number"),
        (lambda: benjamini_hochberg([-0.1]), "p_value is -0.1"),
        (lambda: next_level([], [], 0, 0), "alpha is 0"),
        (lambda: next_level([], [], 0, 1.5), "alpha is 1.5: give a number between 0 and 1"),
        (lambda: next_level([], [], 0, 0.1, 1), "candidate is 1: give a number between 0 and 1"),
        (lambda: next_level([], [], 0, 0.1, 0.5, 0.06), "wealth is 0.06: give more than 0 and at most 0.05"),
        (lambda: next_level([], [], 0, 0.1, 0.5, -1), "wealth is -1"),
        (lambda: next_level([Trial(0, 1, 7)], [0.1], 2), "p_value is 7"),
        (
            lambda: next_level([Trial(0, None, 0.5)], [0.1], 2),
            "a trial has a p_value but no end: give both, or neither",
        ),
        (lambda: next_level([Trial(3, 2, 0.5)], [0.1], 4), "a trial ends at 2, before its start 3"),
        (lambda: next_level([Trial(math.nan)], [0.1], 2), "starts is nan: give a finite number"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidInput) as caught:
        call()
    assert message in str(caught.value)


def test_the_next_level_is_the_one_that_the_whole_stream_gets():
    rng = np.random.default_rng(3)
    starts = np.sort(rng.uniform(0, 20, 30))
    p = np.where(rng.random(30) < 0.4, rng.uniform(0, 0.005, 30), rng.random(30))
    trials = [Trial(float(s), float(s) + 3.5, float(q)) for s, q in zip(starts, p, strict=True)]
    judge = levels(saffron(trials))
    found = [next_level(trials[:t], judge[:t], trials[t].starts) for t in range(30)]
    assert found == pytest.approx(judge, rel=1e-12)
    assert next_level([], [], 0.0, wealth=0.01) != next_level([], [], 0.0)
    assert next_level(trials, judge, 30.0, alpha=0.05) < next_level(trials, judge, 30.0)
    for wrong in ((trials, judge[:-1], 30.0), (trials, judge, 1.0), (trials[::-1], judge, 30.0)):
        with pytest.raises(InvalidInput, match="in order of their starts"):
            next_level(*wrong)


# -- what it is for -----------------------------------------------------------------------------------------


def programme(rng, real, side_by_side):
    """A year of 120 tests planned for 80 % power; up to ``side_by_side`` of them overlap."""
    truth = rng.random(120) < real
    z = np.abs(rng.normal(np.where(truth, 2.8016, 0), 1))
    trials = [Trial(t, t + side_by_side - 0.5, p) for t, p in enumerate(2 * stats.norm.sf(z))]
    return truth, trials


def false_discoveries(rng, runs, real, side_by_side, reject):
    rates, powers = [], []
    for _ in range(runs):
        truth, trials = programme(rng, real, side_by_side)
        found = np.array(reject(trials))
        rates.append((found & ~truth).sum() / max(found.sum(), 1))
        powers.append((found & truth).sum() / max(truth.sum(), 1))
    return np.mean(rates), np.mean(powers), np.std(rates) / math.sqrt(runs)


def in_stream(trials):
    return [bool(level.rejected) for level in one_by_one(trials)]


def uncorrected(trials):
    return [trial.p_value < 0.05 for trial in trials]


@pytest.mark.sizes(60, 400)
@pytest.mark.parametrize(("real", "side_by_side"), [(0.2, 1), (0.2, 5), (0.1, 1), (0.1, 5), (0.5, 5)])
def test_false_discoveries_of_a_year(real, side_by_side, size):
    """60 (400) programmes each, Monte-Carlo error about 1.2 (0.5) points: at most 10 % false discoveries."""
    rate, _, error = false_discoveries(np.random.default_rng(4), size, real, side_by_side, in_stream)
    assert rate <= 0.10 + 3 * error


def test_a_stream_without_correction_is_caught():
    """60 programmes each, error 1 point: the same check refuses the uncorrected stream with 10 % real effects."""
    rate, _, error = false_discoveries(np.random.default_rng(4), 60, 0.1, 1, uncorrected)
    assert rate > 0.20 + 3 * error
    rate, power, error = false_discoveries(np.random.default_rng(4), 60, 0.2, 1, in_stream)
    assert rate <= 0.10 + 3 * error
    assert power > 0.3
