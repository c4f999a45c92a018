"""What stands between a crossed boundary and a decision: conversions that are late, effects that fade, small gains.

*Late conversions.* A test of every visitor who was exposed, whether or not the conversion window is over, is sound as
long as the variants convert equally late. Two guards hold where they do not: the mature units alone must stand well on
the same side (:func:`guarded_z`), and the hours from exposure to conversion are watched (:func:`delay_z`).

*Effects over time.* The test across days assumes one effect for all of them. :func:`effect_over_days` tests whether it
fades, or turns at the weekend, by the efficient score of a day-by-variant interaction (Rao 1948, *Proceedings of the
Cambridge Philosophical Society* 44:50).

*Bounds that could act.* Where a rule beside the boundary can keep a winner back, the bound that really acted is another;
:func:`acting_bound` tells it, for p-values, estimates and intervals.

Every function takes leading axes, and is what the lab simulates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cro_core.statistics.arrays import Bools, Floats
from cro_core.statistics.combination import divided

MATURE_PART = 0.8
"""Part of the critical |Z| that mature units alone must reach, on the side of the crossing."""

WATCHED = 2.5
"""|Z| of the difference in hours to conversion from which on only mature units decide."""

LEAST_CONVERTERS = 30
"""Mature converters that each of two variants needs for that: with fewer, a handful of late ones tells nothing."""

FADES, TURNS = -1.96, 2.58
"""Z at or below which an effect is said to fade, and |Z| from which on it is said to turn at the weekend."""

WEEK_ALONE, ALL_DATA = 1.28, 1.96
"""Z that the week of a hold alone and all data together must have, for a winner that was held back to ship."""


def guarded_z(z: ArrayLike, z_mature: ArrayLike) -> Floats:
    """Z of all exposed units as far as the mature units alone bear it out, to be held against the boundary.

    It reaches a critical |Z| exactly where Z does and the mature units stand at :data:`MATURE_PART` of it at least, on
    the same side.

    Args:
        z: of all exposed units, any shape.
        z_mature: of the mature units alone; broadcasts.
    """
    side = np.sign(np.asarray(z, float))
    borne_out = np.maximum(side * np.asarray(z_mature), 0) / MATURE_PART
    return np.asarray(side * np.minimum(np.abs(z), borne_out))


def delay_z(converters: ArrayLike, hours: ArrayLike, squares: ArrayLike) -> Floats:
    """Z of the difference in mean hours from exposure to conversion, each challenger less the control.

    Args:
        converters: mature units that converted, shape ``(..., variants)``, the control first.
        hours: sum of their hours from exposure to conversion, same shape.
        squares: sum of the squares of those hours, same shape.

    Returns:
        Shape ``(..., challengers)``; 0 where fewer than :data:`LEAST_CONVERTERS` converted, infinite where means
        differ though nothing varies. Large-sample variances.
    """
    n, total, square = (np.asarray(values, float) for values in (converters, hours, squares))
    mean = divided(total, n)
    spread = divided(divided(np.maximum(square - total * mean, 0), n), n)
    gap, error = mean[..., 1:] - mean[..., :1], np.sqrt(spread[..., 1:] + spread[..., :1])
    certain = np.where(np.abs(gap) > 1e-9, np.copysign(np.inf, gap), 0.0)
    enough = np.minimum(n[..., 1:], n[..., :1]) >= LEAST_CONVERTERS
    return np.asarray(np.where(enough, np.where(error > 0, divided(gap, error), certain), 0.0))


@dataclass(frozen=True, slots=True)
class OverDays:
    """How a challenger's effect moves over the days; arrays ``(...)``, 0 where it cannot be told."""

    fade: Floats
    """Z of a fast fade, halving in 1.4 days: below 0 where the effect was larger at first."""
    drift: Floats
    """Z of a steady change from day to day: below 0 where the effect falls."""
    weekend: Floats
    """Z of the difference between weekend and weekdays: above 0 where the effect is larger at weekends."""

    @property
    def fades(self) -> Bools:
        """Whether either form of fading is found."""
        return np.minimum(self.fade, self.drift) <= FADES

    @property
    def turns(self) -> Bools:
        """Whether the effect differs between weekend and weekdays."""
        return np.abs(self.weekend) >= TURNS

    @property
    def changes(self) -> Bools:
        """Whether it does either."""
        return self.fades | self.turns


def effect_over_days(surplus: ArrayLike, variance: ArrayLike, weekend: ArrayLike) -> OverDays:
    """Score tests of an effect that is not the same on all days.

    Args:
        surplus: S of each day, of :meth:`cro_core.statistics.combination.Pair.score`, shape ``(..., days)``.
        variance: V of each day, same shape; days without information have 0.
        weekend: whether each day is at a weekend, shape ``(days,)``.
    """
    s, v = np.asarray(surplus, float), np.asarray(variance, float)
    day = np.arange(s.shape[-1], dtype=float)
    residual = s - divided(s.sum(-1), v.sum(-1))[..., None] * v

    def score(shape: Floats) -> Floats:
        centre = divided((v * shape).sum(-1), v.sum(-1))[..., None]
        return divided(((shape - centre) * residual).sum(-1), np.sqrt((v * (shape - centre) ** 2).sum(-1)))

    return OverDays(score(-np.exp(-day / 2)), score(day), score(np.asarray(weekend, float)))


def acting_bound(z: ArrayLike, margin: ArrayLike, critical: ArrayLike, sign: float) -> Floats:
    """The Z from which on a challenger really wins, the gate of the least gain included.

    Args:
        z: Z for "no effect".
        margin: Z for the least gain, of :func:`cro_core.statistics.rules.gate_margin`.
        critical: critical |Z| of the look.
        sign: how many critical values the margin must be at least, of :data:`cro_core.statistics.rules.GATES`.

    Returns:
        The larger of the boundary and the gate's own bound; infinite where no gain can be told.
    """
    z, margin, line = (np.asarray(values, float) for values in (z, margin, critical))
    with np.errstate(invalid="ignore"):
        gate = np.where(np.isfinite(margin), z - margin + sign * line, np.inf)
    return np.asarray(np.maximum(line, gate))
