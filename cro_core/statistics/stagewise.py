"""p-values, estimates and intervals that account for having stopped at a boundary.

Outcomes are ordered stagewise: an upward crossing is more extreme the earlier it comes, then by the
statistic; no crossing lies in the middle; a downward crossing is the mirror image (Tsiatis, Rosner and Mehta
1984, *Biometrics* 40:797; Jennison and Turnbull 2000, section 8.5). The p-value needs only the past, never
the looks that were still to come. The median-unbiased estimate is the drift at which the outcome sits at its
median, the interval's ends are those at which it sits in a tail.

Drifts are per unit of information. :func:`z_left` turns a drift into the Z that an effect of that size would
leave over, which :func:`cro_core.statistics.combination.effect_at` turns into an uplift: test, repeated
interval and stagewise interval are then read off one and the same curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.polynomial.chebyshev import chebpts1, chebval, chebvander
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from cro_core.statistics.arrays import Floats
from cro_core.statistics.checks import check_between
from cro_core.statistics.sequential import FURTHEST, Corridor, State, advance, crossing

_REACH = 8.0
"""Standard errors around the naive estimate in which the answers are looked for."""
_TINY = 1e-15

_FAR = 20.0
"""Standard errors from which an outcome is so far from no drift that the density under none does not reach it."""


@dataclass(frozen=True, slots=True)
class StagewiseEstimate:
    """What a stopped experiment says about the drift; arrays of the shape of the outcomes given."""

    median: Floats
    """Median-unbiased estimate of the drift per unit of information."""
    low: Floats
    """Lower end of the interval."""
    high: Floats
    """Upper end of the interval."""
    p_value: Floats
    """Two-sided stagewise p-value of no drift."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """All looks of a schedule, ready to say where any outcome stands under any drift."""

    information: Floats
    """Information at each look."""
    states: tuple[State | Corridor, ...]
    """The recursion before each look."""
    before: Floats
    """Chebyshev coefficients of the chance to have crossed upwards before each look, as a function of the
    drift; shape ``(degree, looks)``."""
    low: float
    """Least drift the coefficients are good for."""
    high: float
    """Largest drift they are good for."""

    def above(self, look: NDArray[np.intp], value: Floats, drift: Floats) -> Floats:
        """Chance of an outcome at least as extreme upwards.

        Args:
            look: index of the look the outcome was seen at, shape ``(outcomes,)``.
            value: ``B`` there, same shape.
            drift: shape ``(outcomes, drifts)``.
        """
        position = (2 * drift - self.low - self.high) / (self.high - self.low)
        result = np.asarray(chebval(position, self.before[:, look, None], tensor=False), np.float64)
        for k in np.unique(look):
            here = look == k
            result[here] += _beyond(
                self.states[k], float(self.information[k]), value[here, None], drift[here]
            )
        return result


def p_value(state: State, information: float, value: float) -> float:
    """Two-sided stagewise p-value if the experiment stopped at this look.

    Args:
        state: the recursion *before* this look.
        information: information at this look.
        value: ``B`` at this look.

    Returns:
        A probability; at a boundary it equals the alpha spent so far.
    """
    return min(1.0, 2 * (state.spent + float(crossing(state, information, abs(value)))))


def p_values(information: ArrayLike, critical: ArrayLike, look: ArrayLike, value: ArrayLike) -> Floats:
    """:func:`p_value` of many outcomes of one schedule; arguments and result as for :func:`estimate`."""
    at, size = np.asarray(look, np.intp), np.abs(np.asarray(value, float))
    values, state = np.ones(size.shape), State()
    for k, (t, z) in enumerate(zip(np.asarray(information, float), np.asarray(critical, float), strict=True)):
        here = at == k
        values[here] = 2 * (state.spent + crossing(state, float(t), size[here]))
        state = advance(state, float(t), float(z))
    return np.minimum(values, 1)


Bounds = tuple[Sequence[float | None], Sequence[float | None]]
"""Lower and upper bound of Z at each look; ``None`` where that side could not act."""


def estimate(
    information: ArrayLike,
    critical: ArrayLike,
    look: ArrayLike,
    value: ArrayLike,
    *,
    level: float = 0.95,
    acted: Bounds | None = None,
) -> StagewiseEstimate:
    """Median-unbiased estimate and interval of the drift for outcomes of one schedule.

    Args:
        information: information at each look, increasing, shape ``(looks,)``.
        critical: critical |Z| at each look, same shape.
        look: index of the look each outcome stopped at (the last one where nothing was crossed).
        value: ``B`` at that look, same shape.
        level: of the interval, in (0, 1).
        acted: bounds as they could act, where a rule beside the boundary kept outcomes back; ``None``: the boundary
            itself, on both sides.

    Raises:
        InvalidInput: a level out of range or looks out of order.
    """
    check_between(level, "level", 0, 1)
    times, shape = np.asarray(information, float), np.shape(value)
    at = np.atleast_1d(np.asarray(look, np.intp))
    given = np.atleast_1d(np.asarray(value, float))
    found = np.empty((4, len(given)))
    if acted is None:  # the mirror image of a negative outcome has the same place
        found = _estimates(partial(climb, times, critical), times, at, np.abs(given), level)
    else:
        far = np.abs(given) > _FAR * np.sqrt(times[at])
        for rows, bounds in ((given >= 0, acted), (given < 0, _mirrored(acted))):
            near = rows & ~far
            if near.any():
                ladder = partial(_climb_between, times, bounds)
                found[:, near] = _estimates(ladder, times, at[near], np.abs(given[near]), level)
            for row in np.flatnonzero(rows & far):
                found[:, row] = _far_estimate(times, bounds, at[row], abs(given[row]), level)
    median, lower, upper, p = found
    flipped = given < 0
    return StagewiseEstimate(
        np.where(flipped, -median, median).reshape(shape),
        np.where(flipped, -upper, lower).reshape(shape),
        np.where(flipped, -lower, upper).reshape(shape),
        p.reshape(shape),
    )


def _estimates(
    ladder_of: Callable[[float, float], Ladder],
    times: Floats,
    at: NDArray[np.intp],
    size: Floats,
    level: float,
) -> Floats:
    """Median, lower and upper end, and p-value of outcomes that are not negative; shape ``(4, outcomes)``."""
    naive, unit = size / times[at], 1 / np.sqrt(times[at])
    least, most = float((naive - _REACH * unit).min()), float((naive + _REACH * unit).max())
    ladder = ladder_of(min(least, 0.0), max(most, 0.0))
    answers = _solve(ladder, at, size, naive, unit, _targets(level)).T
    return np.vstack([answers, _p_values(ladder, at, size)])


def _far_estimate(times: Floats, acted: Bounds, look: np.intp, size: float, level: float) -> Floats:
    """Estimates of one outcome by the density under the drift that it speaks for, and the p-value by that under none."""
    at, value = np.array([look]), np.array([size])
    naive, unit = value / times[at], 1 / np.sqrt(times[at])
    drift, reach = float(naive[0]), _REACH * float(unit[0])
    ladder = _climb_between(times, acted, drift - reach, drift + reach, drift)
    answers = _solve(ladder, at, value, naive, unit, _targets(level)).T
    return np.vstack([answers, _p_values(_climb_between(times, acted, -reach, reach), at, value)])[:, 0]


def _targets(level: float) -> Floats:
    """Where the truth stands to an outcome whose median it is, and whose lower and upper end."""
    tail = (1 - level) / 2
    return np.array([0.5, tail, 1 - tail])


def _p_values(ladder: Ladder, at: NDArray[np.intp], size: Floats) -> Floats:
    return np.asarray(np.minimum(1, 2 * ladder.above(at, size, np.zeros((len(at), 1)))[:, 0]))


def _mirrored(bounds: Bounds) -> Bounds:
    lower, upper = ([None if z is None else -z for z in side] for side in bounds)
    return upper, lower


def climb(information: ArrayLike, critical: ArrayLike, low: float, high: float) -> Ladder:
    """Goes through all looks once, keeping what :meth:`Ladder.above` needs for drifts in [low, high].

    Raises:
        InvalidInput: looks out of order or boundaries that are not above 0.
    """
    times, bounds = np.asarray(information, float), np.asarray(critical, float)
    points, drifts = _drifts(times, low, high)
    state, states, chances = State(), [], [np.zeros(len(points))]
    for t, z in zip(times, bounds, strict=True):
        states.append(state)
        chances.append(chances[-1] + crossing(state, t, z * math.sqrt(t), drifts))
        state = advance(state, t, z)
    return Ladder(times, tuple(states), _coefficients(points, chances), low, high)


def _climb_between(information: Floats, acted: Bounds, low: float, high: float, drift: float = 0.0) -> Ladder:
    """:func:`climb` between bounds of which each may be open; an open one lies beyond what any drift reaches.

    The densities are those under ``drift``; the drifts asked for may be some 28 standard errors from it.
    """
    points, drifts = _drifts(information, low, high)
    state, states, chances = Corridor(drift=drift), [], [np.zeros(len(points))]
    following = [*map(float, information[1:]), None]
    for t, lower, upper, then in zip(information, *acted, following, strict=True):
        root = math.sqrt(t)
        states.append(state)
        gone = 0.0 if upper is None else state.beyond(t, upper * root, drifts)
        chances.append(chances[-1] + gone)
        floor = low * root - FURTHEST if lower is None else lower
        ceiling = high * root + FURTHEST if upper is None else upper
        floor = min(floor, ceiling - 1.0)  # such drifts have crossed long before: nobody is left between
        state = state.after(float(t), floor * root, ceiling * root, then)
    return Ladder(information, tuple(states), _coefficients(points, chances), low, high)


def _drifts(times: Floats, low: float, high: float) -> tuple[Floats, Floats]:
    """Chebyshev points and the drifts at them: the chances change on the scale of one standard error at the last look."""
    points = chebpts1(32 + math.ceil(2.5 * (high - low) * math.sqrt(times[-1])))
    return points, low + (high - low) * (points + 1) / 2


def _coefficients(points: Floats, chances: Sequence[Floats]) -> Floats:
    """Chebyshev coefficients of the chances before each look, shape ``(degree, looks)``."""
    degree = len(points)
    basis = chebvander(points, degree - 1)
    weights = np.full(degree, 2 / degree)
    weights[0] = 1 / degree
    return np.asarray(weights[:, None] * (basis.T @ np.array(chances[:-1]).T))


def _beyond(state: State | Corridor, information: float, bound: ArrayLike, drift: ArrayLike) -> Floats:
    """Probability of no exit so far and ``B >= bound`` at a next look."""
    if isinstance(state, Corridor):
        return state.beyond(information, bound, drift)
    return crossing(state, information, bound, drift)


def _solve(
    ladder: Ladder, look: NDArray[np.intp], value: Floats, naive: Floats, unit: Floats, targets: Floats
) -> Floats:
    """Drifts at which outcomes stand at the targets, by false position (Illinois) on the normal scale.

    There the chances are nearly straight lines in the drift, so a dozen steps give ten digits.
    """

    def miss(drift: Floats) -> Floats:
        return np.asarray(ndtri(np.clip(ladder.above(look, value, drift), _TINY, 1 - _TINY)) - ndtri(targets))

    low, high = ((naive + side * unit)[:, None] + np.zeros(len(targets)) for side in (-_REACH, _REACH))
    under, over = np.minimum(miss(low), -_TINY), np.maximum(miss(high), _TINY)
    middle, side = low, np.zeros(low.shape)
    for _ in range(10):
        middle = (low * over - high * under) / (over - under)
        missed = miss(middle)
        short = missed < 0
        # an end that stays twice running is given half its weight, or the other would crawl
        under = np.where(short, missed, np.where(side > 0, under / 2, under))
        over = np.where(short, np.where(side < 0, over / 2, over), missed)
        low, high = np.where(short, middle, low), np.where(short, high, middle)
        side = np.where(short, -1.0, 1.0)
    return middle


def z_left(z: ArrayLike, information: ArrayLike, drift: ArrayLike) -> Floats:
    """What remains of Z when ``drift`` is taken to be the truth."""
    return np.asarray(np.asarray(z) - np.asarray(drift) * np.sqrt(np.asarray(information)))
