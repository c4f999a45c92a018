"""The test statistic: a challenger against the control, epoch by epoch, and epochs combined.

Inside an epoch the allocation is frozen, so given the past and the pair's totals the labels of its units
are exchangeable when the challenger has no effect: the challenger's conversions are hypergeometric and the
epoch's Z has mean 0 and variance 1 whatever rule chose the shares and however the common rate moves.
Epochs are therefore combined by the inverse normal method with weights fixed before the start (Lehmacher
and Wassmer 1999, *Biometrics* 55:1286; Zhang, Janson and Murphy 2020, *NeurIPS* 33 call it batched OLS).
With one epoch the square of Z is Pearson's chi-square times ``(N - 1) / N``.

The same statistic for other effects than none (``shift``) gives the intervals, so a test and its interval
never disagree: Koopman's score (1984, *Biometrics* 40:513) for a ratio of rates, Miettinen and Nurminen's
(1985, *Statistics in Medicine* 4:213) for a difference, Fieller's with the permutation variance for means.

Every function takes leading axes: a live look passes one experiment, the lab ten thousand. All
arithmetic is in floats, because products of counts overflow 64-bit integers on real data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from cro_core.statistics.arrays import Bools, Floats

Scale = Literal["relative", "absolute"]

BISECTIONS = 50
"""Halvings of the unit interval: to 1e-15."""


@dataclass(frozen=True, slots=True)
class ScoreStatistic:
    """What one epoch says about one challenger; arrays of one shape."""

    surplus: Floats
    """S: challenger's total minus its expectation under no effect."""
    variance: Floats
    """V: variance of S under no effect, the epoch's information; 0 where it says nothing."""
    z: Floats
    """``S / sqrt(V)``; 0 where V is 0."""


class Pair(Protocol):
    """A challenger and the control, epochs on the last axis; see :class:`Counts` and :class:`Moments`."""

    def score(self) -> ScoreStatistic:
        """The statistic for "no effect", per epoch."""

    def z(self, effect: ArrayLike, scale: Scale) -> Floats:
        """The statistic for a given effect, per epoch; ``effect`` broadcasts against the epochs."""

    def effect(self, position: Floats, scale: Scale) -> Floats:
        """The scale of effects laid over positions 0 to 1, increasing."""

    def estimate(self, scale: Scale) -> Floats:
        """Effect standardised over epochs; NaN where there is none. The epoch axis is gone."""

    def has_interval(self, scale: Scale) -> Bools:
        """Whether the scale can hold the effect: a ratio of means needs them not negative. The epoch axis is gone."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Conversions of a challenger (1) and the control (0); arrays ``(..., epochs)`` of floats."""

    n1: Floats
    """Units of the challenger."""
    x1: Floats
    """Units of the challenger that converted."""
    n0: Floats
    """Units of the control."""
    x0: Floats
    """Units of the control that converted."""

    def score(self) -> ScoreStatistic:
        """Hypergeometric mean and variance of the challenger's conversions given the epoch's totals."""
        n, x = self.n1 + self.n0, self.x1 + self.x0
        safe = np.maximum(n, 2)
        surplus = self.x1 - x * (self.n1 / safe)
        variance = (self.n1 / safe) * (self.n0 / safe) * (x / (safe - 1)) * (n - x)
        return ScoreStatistic(surplus, variance, divided(surplus, np.sqrt(variance)))

    def z(self, effect: ArrayLike, scale: Scale) -> Floats:
        """Score statistic with rates fitted under the effect.

        Args:
            effect: ``relative``: ratio of rates minus 1, above -1; ``absolute``: difference, in (-1, 1).
            scale: which of the two.
        """
        value = np.asarray(effect, float)
        n1, n0 = np.maximum(self.n1, 1), np.maximum(self.n0, 1)
        factor = 1 + value if scale == "relative" else np.ones_like(value)
        fit0 = self._fit_ratio(factor) if scale == "relative" else self._fit_difference(value)
        fit1 = factor * fit0 if scale == "relative" else fit0 + value
        gap = self.x1 / n1 - (factor * self.x0 / n0 if scale == "relative" else self.x0 / n0 + value)
        n = np.maximum(self.n1 + self.n0, 2)
        spread = (fit1 * (1 - fit1) / n1 + factor**2 * fit0 * (1 - fit0) / n0) * n / (n - 1)
        both = (self.n1 > 0) & (self.n0 > 0)
        return np.where(both, divided(gap, np.sqrt(np.maximum(spread, 0))), 0.0)

    def effect(self, position: Floats, scale: Scale) -> Floats:
        """Ratios 0 to inf less 1, or differences -1 to 1."""
        return _odds(position) - 1 if scale == "relative" else 2 * position - 1

    def estimate(self, scale: Scale) -> Floats:
        """Mantel-Haenszel: relative risk minus 1, or risk difference (Greenland and Robins 1985)."""
        n = np.maximum(self.n1 + self.n0, 1)
        mine, theirs = (self.x1 * self.n0 / n).sum(-1), (self.x0 * self.n1 / n).sum(-1)
        base = theirs if scale == "relative" else (self.n1 * self.n0 / n).sum(-1)
        return divided(mine - theirs, base, np.nan)

    def has_interval(self, scale: Scale) -> Bools:
        """Always: rates are not negative, and a control without conversions leaves only the upper end open."""
        return np.ones(self.n1.shape[:-1], bool)

    def _fit_ratio(self, ratio: Floats) -> Floats:
        """The control's rate that fits best when the challenger's is ``ratio`` times it."""
        a = np.maximum(self.n1 + self.n0, 1) * ratio
        b = self.n1 * ratio + self.x1 + self.n0 + self.x0 * ratio
        c = self.x1 + self.x0
        # the smaller root of a r^2 - b r + c, in the form that does not cancel
        return np.asarray(2 * c / np.maximum(b + np.sqrt(np.maximum(b * b - 4 * a * c, 0)), 1e-300))

    def _fit_difference(self, gap: Floats) -> Floats:
        """The control's rate that fits best when the challenger's is ``gap`` above it (cubic, 1985)."""
        n, x = np.maximum(self.n1 + self.n0, 1), self.x1 + self.x0
        l2 = ((self.n1 + 2 * self.n0) * gap - n - x) / (3 * n)
        l1 = (((self.n0 * gap - n - 2 * self.x0) * gap) + x) / n
        l0 = self.x0 * gap * (1 - gap) / n
        q = l2**3 - l1 * l2 / 2 + l0 / 2
        p = np.where(q >= 0, 1, -1) * np.sqrt(np.maximum(l2 * l2 - l1 / 3, 0))
        angle = (np.pi + np.arccos(np.minimum(divided(np.abs(q), np.abs(p) ** 3), 1))) / 3
        return np.asarray(np.clip(2 * p * np.cos(angle) - l2, np.maximum(0, -gap), np.minimum(1, 1 - gap)))


@dataclass(frozen=True, slots=True)
class Moments:
    """A mean metric of a challenger (1) and the control (0); arrays ``(..., epochs)`` of floats."""

    n1: Floats
    """Units of the challenger."""
    sum1: Floats
    """Sum of their values."""
    squares1: Floats
    """Sum of their squared values."""
    n0: Floats
    """Units of the control."""
    sum0: Floats
    """Sum of their values."""
    squares0: Floats
    """Sum of their squared values."""

    def score(self) -> ScoreStatistic:
        """Permutation mean and variance of the challenger's sum given the epoch's values."""
        return self._score(1.0, 0.0)

    def z(self, effect: ArrayLike, scale: Scale) -> Floats:
        """Z after undoing the effect: control values times ``1 + effect``, or plus ``effect``."""
        value = np.asarray(effect, float)
        return self._score(1 + value, 0.0).z if scale == "relative" else self._score(1.0, value).z

    def effect(self, position: Floats, scale: Scale) -> Floats:
        """Ratios 0 to inf less 1, or any difference in steps of the values' root mean square."""
        if scale == "relative":
            return _odds(position) - 1
        squares, n = (self.squares1 + self.squares0).sum(-1), (self.n1 + self.n0).sum(-1)
        with np.errstate(divide="ignore"):
            return np.asarray(np.sqrt(squares / np.maximum(n, 1)) * np.log(_odds(position)))

    def estimate(self, scale: Scale) -> Floats:
        """Difference of means over epochs, each weighted by ``n1 n0 / N``; relative: over the control's."""
        mine, theirs, units = self._standardised()
        return divided(mine - theirs, theirs if scale == "relative" else units, np.nan)

    def has_interval(self, scale: Scale) -> Bools:
        """A difference always; a ratio where the control's mean is positive and the challenger's not negative."""
        mine, theirs, _ = self._standardised()
        return np.asarray((scale == "absolute") | ((theirs > 0) & (mine >= 0)))

    def _standardised(self) -> tuple[Floats, Floats, Floats]:
        """Sums of the challenger and the control over epochs of weight ``n1 n0 / N``, and those weights' sum."""
        n = np.maximum(self.n1 + self.n0, 1)
        sums = self.sum1 * self.n0, self.sum0 * self.n1, self.n1 * self.n0
        mine, theirs, units = ((values / n).sum(-1) for values in sums)
        return mine, theirs, units

    def _score(self, factor: ArrayLike, added: ArrayLike) -> ScoreStatistic:
        factor, added = np.asarray(factor, float), np.asarray(added, float)
        sum0 = factor * self.sum0 + added * self.n0
        squares0 = factor**2 * self.squares0 + 2 * factor * added * self.sum0 + added**2 * self.n0
        n, total = self.n1 + self.n0, self.sum1 + sum0
        safe = np.maximum(n, 2)
        squares = self.squares1 + squares0
        about_mean = squares - total * total / safe
        about_mean = np.where(about_mean > 1e-12 * squares, about_mean, 0.0)  # rounding of a constant
        surplus = self.sum1 - total * (self.n1 / safe)
        variance = (self.n1 / safe) * (self.n0 / (safe - 1)) * about_mean
        return ScoreStatistic(surplus, variance, divided(surplus, np.sqrt(variance)))


def reached(weights: ArrayLike, elapsed: ArrayLike) -> Floats:
    """The part of each epoch's weight that has been used: past ones whole, the current one in part.

    Args:
        weights: planned share of traffic per epoch, shape ``(epochs,)``, summing to 1.
        elapsed: planned share of all traffic so far, in [0, 1]; any shape.

    Returns:
        Shape ``elapsed.shape + (epochs,)``; sums to ``elapsed``.
    """
    planned = np.asarray(weights, float)
    before = np.cumsum(planned) - planned
    return np.asarray(np.clip(np.asarray(elapsed, float)[..., None] - before, 0, planned))


def combine(z: ArrayLike, weights: ArrayLike) -> Floats:
    """``B``: epochs' Z combined by the inverse normal method, on the scale of Brownian motion.

    Args:
        z: shape ``(..., epochs)``.
        weights: of :func:`reached`, same shape or broadcastable; their sum is the information.

    Returns:
        Shape ``(...)``; ``B / sqrt(sum of weights)`` is standard normal without effect.
    """
    result: Floats = (np.sqrt(np.asarray(weights, float)) * np.asarray(z, float)).sum(-1)
    return result


def combine_running(z: ArrayLike, used: ArrayLike) -> Floats:
    """:func:`combine` at every look of every epoch.

    Args:
        z: each epoch's Z at each of its looks, shape ``(..., epochs, looks)``; the last look is the whole epoch.
        used: weight of that epoch used by then, shape ``(epochs, looks)``.

    Returns:
        ``B``, shape ``(..., epochs, looks)``.
    """
    part = np.sqrt(np.asarray(used, float)) * np.asarray(z, float)
    whole = part[..., -1].cumsum(-1) - part[..., -1]
    result: Floats = whole[..., None] + part
    return result


def combined_z(pair: Pair, weights: Floats, effect: ArrayLike = 0.0, scale: Scale = "relative") -> Floats:
    """Z of the whole experiment for a given effect.

    Args:
        pair: epochs on the last axis.
        weights: of :func:`reached`, shape ``(epochs,)`` or broadcastable.
        effect: as in :meth:`Pair.z`, without the epoch axis.
        scale: ``relative`` or ``absolute``.

    Returns:
        Shape of ``effect`` and the pair's leading axes; 0 where no weight was used.
    """
    z = pair.z(np.asarray(effect, float)[..., None], scale)
    return divided(combine(z, weights), np.sqrt(weights.sum(-1)))


def effect_at(pair: Pair, weights: Floats, z: ArrayLike, scale: Scale = "relative") -> Floats:
    """The effect at which :func:`combined_z` is ``z``: an interval's end, or an estimate.

    Args:
        pair: epochs on the last axis.
        weights: of :func:`reached`.
        z: value(s) wanted, broadcast against the pair's leading axes: 0 gives a point estimate, minus the
            critical value an upper limit.
        scale: ``relative`` or ``absolute``.

    Returns:
        Effects; an end that the data leave open is the end of the scale: -1 or inf (relative), -1 or 1
        (absolute, counts), -inf or inf (absolute, means). NaN where the pair says nothing, or nothing on that
        scale.
    """
    informative = ((pair.score().variance > 0) & (weights > 0)).any(-1) & pair.has_interval(scale)
    wanted = np.broadcast_arrays(np.asarray(z, float), informative)[0]
    low, high = np.zeros(wanted.shape), np.ones(wanted.shape)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        rising = combined_z(pair, weights, pair.effect(middle, scale), scale) > wanted
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    # an end that never moved is where the data leave the effect open
    position = np.where(low == 0, 0.0, np.where(high == 1, 1.0, (low + high) / 2))
    return np.where(informative, pair.effect(position, scale), np.nan)


def _odds(position: ArrayLike) -> Floats:
    with np.errstate(divide="ignore"):
        return np.asarray(np.asarray(position) / (1 - np.asarray(position)))


def divided(above: ArrayLike, below: ArrayLike, otherwise: float = 0.0) -> Floats:
    """``above / below`` where ``below`` is positive, else ``otherwise``; arrays of any shapes that fit."""
    above, below = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    quotient = np.full(above.shape, otherwise)
    np.divide(above, below, out=quotient, where=below > 0)
    return quotient
