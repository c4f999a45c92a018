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
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.chebyshev import chebpts1, chebval, chebvander
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from cro_core.statistics.arrays import Floats
from cro_core.statistics.checks import check_between
from cro_core.statistics.sequential import State, advance, crossing

_REACH = 8.0
"""Standard errors around the naive estimate in which the answers are looked for."""
_TINY = 1e-15


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
    states: tuple[State, ...]
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
            result[here] += crossing(
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


def estimate(
    information: ArrayLike,
    critical: ArrayLike,
    look: ArrayLike,
    value: ArrayLike,
    *,
    level: float = 0.95,
) -> StagewiseEstimate:
    """Median-unbiased estimate and interval of the drift for outcomes of one schedule.

    Args:
        information: information at each look, increasing, shape ``(looks,)``.
        critical: critical |Z| at each look, same shape.
        look: index of the look each outcome stopped at (the last one where nothing was crossed).
        value: ``B`` at that look, same shape.
        level: of the interval, in (0, 1).

    Raises:
        InvalidInput: a level out of range or looks out of order.
    """
    check_between(level, "level", 0, 1)
    times, shape = np.asarray(information, float), np.shape(value)
    at = np.atleast_1d(np.asarray(look, np.intp))
    given = np.atleast_1d(np.asarray(value, float))
    size = np.abs(given)  # the mirror image of a negative outcome has the same place
    naive, unit = size / times[at], 1 / np.sqrt(times[at])
    ladder = climb(
        times, critical, float((naive - _REACH * unit).min()), float((naive + _REACH * unit).max())
    )
    tail = (1 - level) / 2
    median, lower, upper = _solve(ladder, at, size, naive, unit, np.array([0.5, tail, 1 - tail])).T
    p = np.minimum(1, 2 * ladder.above(at, size, np.zeros((len(at), 1)))[:, 0])
    flipped = given < 0
    return StagewiseEstimate(
        np.where(flipped, -median, median).reshape(shape),
        np.where(flipped, -upper, lower).reshape(shape),
        np.where(flipped, -lower, upper).reshape(shape),
        p.reshape(shape),
    )


def climb(information: ArrayLike, critical: ArrayLike, low: float, high: float) -> Ladder:
    """Goes through all looks once, keeping what :meth:`Ladder.above` needs for drifts in [low, high].

    Raises:
        InvalidInput: looks out of order or boundaries that are not above 0.
    """
    times, bounds = np.asarray(information, float), np.asarray(critical, float)
    low, high = min(low, 0.0), max(high, 0.0)
    # the chances change on the scale of one standard error at the last look
    degree = 32 + math.ceil(2.5 * (high - low) * math.sqrt(times[-1]))
    points = chebpts1(degree)
    drifts = low + (high - low) * (points + 1) / 2
    state, states, chances = State(), [], [np.zeros(degree)]
    for t, z in zip(times, bounds, strict=True):
        states.append(state)
        chances.append(chances[-1] + crossing(state, t, z * math.sqrt(t), drifts))
        state = advance(state, t, z)
    basis = chebvander(points, degree - 1)
    weights = np.full(degree, 2 / degree)
    weights[0] = 1 / degree
    return Ladder(times, tuple(states), weights[:, None] * (basis.T @ np.array(chances[:-1]).T), low, high)


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
