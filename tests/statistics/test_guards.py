"""Guards: conversions that are late, effects that fade, and the bounds that could act."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cro_core.statistics.combination import Counts
from cro_core.statistics.guards import acting_bound, delay_z, effect_over_days, guarded_z

CONTROL = [118, 121, 119, 122, 117, 160, 158]
WEEKEND = [False] * 5 + [True] * 2


@pytest.mark.parametrize(
    ("converted", "fade", "weekend"),
    [
        ([165, 150, 138, 130, 121, 163, 160], -2.5237, -1.5631),
        ([138, 141, 137, 143, 139, 131, 127], -2.1085, -3.7004),
    ],
)
def test_score_tests_give_the_reference_values(converted: list[int], fade: float, weekend: float) -> None:
    n = np.full(7, 4_000.0)
    score = Counts(n, np.array(converted, float), n, np.array(CONTROL, float)).score()
    over_days = effect_over_days(score.surplus, score.variance, WEEKEND)
    assert (over_days.fade, over_days.weekend) == pytest.approx((fade, weekend), abs=5e-5)
    assert over_days.fades
    assert over_days.turns == (abs(weekend) >= 2.58)


def test_an_effect_that_is_the_same_on_all_days_neither_fades_nor_turns() -> None:
    """Without information nothing is said; many programmes at once say what each says alone."""
    rng = np.random.default_rng(5)
    n = np.full((4_000, 7), 4_000.0)
    control, challenger = rng.binomial(4_000, 0.03, n.shape), rng.binomial(4_000, 0.036, n.shape)
    score = Counts(n, challenger.astype(float), n, control.astype(float)).score()
    over_days = effect_over_days(score.surplus, score.variance, WEEKEND)
    for z in (over_days.fade, over_days.drift, over_days.weekend):
        assert (z.mean(), z.std()) == (pytest.approx(0, abs=0.06), pytest.approx(1, abs=0.05))
    alone = effect_over_days(score.surplus[7], score.variance[7], WEEKEND)
    assert alone.fade == over_days.fade[7]
    nothing = effect_over_days(np.zeros(7), np.zeros(7), WEEKEND)
    assert (nothing.fade, nothing.drift, nothing.weekend) == (0, 0, 0)


def test_delay_watch_gives_the_reference_value() -> None:
    assert delay_z([310, 334], [1_100, 1_560], [11_000, 17_800]) == pytest.approx([2.7373], abs=5e-5)
    assert delay_z([334, 310], [1_560, 1_100], [17_800, 11_000]) == pytest.approx([-2.7373], abs=5e-5)
    assert delay_z([1, 300], [5, 1_500], [25, 9_000]) == [0]
    assert delay_z([5, 5], [10, 10], [20, 20]) == [0]


def test_mature_units_must_stand_well_on_the_same_side() -> None:
    z, mature = np.array([3.1, 3.1, 2.9, -3.1, -3.1, 3.1]), np.array([2.41, 2.39, 5.0, -2.41, 1.0, -4.0])
    assert (np.abs(guarded_z(z, mature)) >= 3).tolist() == [True, False, False, True, False, False]
    assert np.sign(guarded_z(z, mature)).tolist() == [1, 1, 1, -1, 0, 0]


def test_the_bound_that_acts_is_the_gate_s_where_that_is_further() -> None:
    assert acting_bound(5.74, 0.4, 2.75, -1.0) == 2.75  # 5.34 - 2.75 is nearer
    assert acting_bound(5.74, -1.0, 2.75, -1.0) == pytest.approx(6.74 - 2.75)
    assert acting_bound(5.74, -1.0, 2.75, 1.0) == pytest.approx(6.74 + 2.75)
    assert acting_bound(5.74, -math.inf, 2.75, -1.0) == math.inf
