"""Days compared each in itself and combined: what metrics use where shares may move from day to day.

A pooled table would read a drift of the common level as an effect. Days are therefore combined as the primary
metric's are (:mod:`cro_core.statistics.combination`), with the weights fixed before the start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from cro_core.metrics.sums import PairSums, UnitSums
from cro_core.statistics.arrays import Bools, Floats
from cro_core.statistics.combination import (
    Moments,
    Pair,
    Scale,
    ScoreStatistic,
    combined_z,
    divided,
    effect_at,
)

FLAT = 1e-12
"""A sum of squares about the mean below this part of the raw sum of squares is rounding."""

Values = tuple[float, float]
"""The metric's values for the control and for the challenger."""

Numbers = dict[str, float | str | None]
"""Fields of :class:`cro_core.evidence.MetricResult`."""


@dataclass(frozen=True, slots=True)
class Days:
    """How days are combined."""

    weights: Floats
    """Planned share of all traffic that each day has used so far, shape ``(epochs,)``."""
    level: float
    """Confidence level of the intervals, in (0, 1)."""

    def p_value(self, pair: Pair) -> float:
        """Two-sided; 1 where no day says anything."""
        return _p_value(float(combined_z(pair, self.weights)))

    def compare(self, pair: Pair, values: Values) -> Numbers:
        """Test, differences and their intervals.

        Args:
            pair: the challenger and the control, by day.
            values: of both in the metric's unit, standardised over days; NaN where no day has units in both.

        Returns:
            The numbers, not all of them finite; without test where no day says anything.
        """
        zero, one = values
        if not ((pair.score().variance > 0) & (self.weights > 0)).any():
            silent = "no day has units in both variants and any variation"
            return {"control": zero, "value": one, "reason": silent}
        z = float(combined_z(pair, self.weights))
        low, high = self._ends(pair, "absolute")
        numbers: Numbers = {
            "control": zero,
            "value": one,
            "absolute": one - zero,
            "low": low,
            "high": high,
            "statistic": z,
            "p_value": _p_value(z),
        }
        return numbers | self._relative(pair, zero, one)

    def _relative(self, pair: Pair, zero: float, one: float) -> Numbers:
        if not zero > 0:
            return {"reason": "the control's level is not positive: no relative difference"}
        low, high = self._ends(pair, "relative")
        bounded = math.isfinite(low) and math.isfinite(high)
        why = "the control's level is not clearly above 0" if one >= 0 else "the variant's level is negative"
        return {
            "relative": one / zero - 1,
            "relative_low": low,
            "relative_high": high,
            "reason": None if bounded else f"{why}: no bound of the relative difference",
        }

    def _ends(self, pair: Pair, scale: Scale) -> tuple[float, float]:
        q = -float(ndtri((1 - self.level) / 2))
        low, high = effect_at(pair, self.weights, np.array([q, -q]), scale)
        return float(low), float(high)


@dataclass(frozen=True, slots=True)
class RatioPair:
    """A ratio of sums of a challenger (1) and the control (0); ``y`` is the numerator, ``x`` the denominator.

    Inside an epoch the units' residuals ``y - R x`` from the common ratio R are exchangeable between variants
    without effect, as a mean's values are.
    """

    one: PairSums
    """Sums of the challenger."""
    zero: PairSums
    """Sums of the control."""

    def score(self) -> ScoreStatistic:
        """Mean and variance of the challenger's residuals under re-labelling."""
        return self._score(self.zero)

    def z(self, effect: ArrayLike, scale: Scale) -> Floats:
        """The score after undoing the effect: the control's ratio times ``1 + effect``, or plus ``effect``."""
        value, c = np.asarray(effect, float), self.zero
        if scale == "relative":
            factor = 1 + value
            undone = replace(c, y=factor * c.y, yy=factor**2 * c.yy, xy=factor * c.xy)
        else:
            yy = c.yy + 2 * value * c.xy + value**2 * c.xx
            undone = replace(c, y=c.y + value * c.x, yy=yy, xy=c.xy + value * c.xx)
        return self._score(undone).z

    def effect(self, position: Floats, scale: Scale) -> Floats:
        """Ratios 0 to inf less 1, or any difference in steps of the ratio of root mean squares."""
        with np.errstate(divide="ignore"):
            odds = np.asarray(position / (1 - position))
            if scale == "relative":
                return np.asarray(odds - 1)
            squares = sum(side.yy.sum() for side in (self.one, self.zero))
            below = sum(side.xx.sum() for side in (self.one, self.zero))
            return np.asarray(math.sqrt(squares / below if below else 1.0) * np.log(odds))

    def estimate(self, scale: Scale) -> Floats:
        """Difference of ratios over epochs, each weighted by ``x1 x0 / (x1 + x0)``."""
        zero, one = self.ratios()
        return np.asarray(one - zero if scale == "absolute" else (one / zero - 1 if zero > 0 else np.nan))

    def has_interval(self, scale: Scale) -> Bools:
        """A difference always; a ratio where the control's is positive and the challenger's not negative."""
        zero, one = self.ratios()
        return np.asarray(scale == "absolute" or (zero > 0 and one >= 0))

    def ratios(self) -> Values:
        """The ratios of control and challenger, standardised over epochs; NaN where there is no denominator."""
        return standardised(self.zero.y, self.zero.x, self.one.y, self.one.x)

    def _score(self, zero: PairSums) -> ScoreStatistic:
        one, both = self.one, self.one + zero
        n = np.maximum(both.n, 2)
        common = divided(both.y, both.x)
        residual = np.maximum(both.yy - 2 * common * both.xy + common**2 * both.xx, 0)
        residual = np.where(residual > FLAT * (both.yy + common**2 * both.xx), residual, 0.0)
        surplus = one.y - common * one.x
        variance = np.where(both.x > 0, one.n * zero.n * residual / (n * (n - 1)), 0.0)
        return ScoreStatistic(surplus, variance, divided(surplus, np.sqrt(variance)))


def moments(control: UnitSums, challenger: UnitSums) -> Moments:
    """A mean of both variants, for the combination over days."""
    return Moments(
        challenger.n, challenger.total, challenger.squares, control.n, control.total, control.squares
    )


def standardised_means(control: UnitSums, challenger: UnitSums) -> Values:
    """The means of both variants, standardised over days; NaN where no day has units in both."""
    return standardised(control.total, control.n, challenger.total, challenger.n)


def standardised(y0: Floats, n0: Floats, y1: Floats, n1: Floats) -> Values:
    """Values ``y / n`` of control (0) and challenger (1), epochs weighted by ``n0 n1 / (n0 + n1)``.

    NaN where nothing overlaps.
    """
    n = n0 + n1
    weight = divided(n0 * n1, n).sum()
    if weight <= 0:
        return math.nan, math.nan
    return float(divided(y0 * n1, n).sum() / weight), float(divided(y1 * n0, n).sum() / weight)


def without_covariate(control: PairSums, challenger: PairSums) -> tuple[UnitSums, UnitSums, float]:
    """CUPED with each day's own coefficient.

    Args:
        control: sums of the control; ``y`` metric, ``x`` covariate.
        challenger: sums of the challenger.

    Returns:
        The adjusted sums of control and challenger, and the part of the variance that the covariate explains,
        in [0, 1].
    """
    both = control + challenger
    size = np.maximum(both.n, 1)
    centre = both.x / size
    spread = both.xx - both.x * centre
    spread = np.where(spread > FLAT * both.xx, spread, 0.0)
    theta = divided(both.xy - both.y * centre, spread)
    before = (both.yy - both.y**2 / size).sum()
    explained = float((theta**2 * spread).sum() / before) if before > 0 else 0.0
    zero, one = (_adjusted(side, theta, centre) for side in (control, challenger))
    return zero, one, min(max(explained, 0.0), 1.0)


def _adjusted(side: PairSums, theta: Floats, centre: Floats) -> UnitSums:
    """The sums of ``y - theta (x - centre)``."""
    n, y, x = side.n, side.y, side.x
    total = y - theta * (x - n * centre)
    about = side.xx - 2 * centre * x + n * centre**2
    squares = side.yy - 2 * theta * (side.xy - centre * y) + theta**2 * about
    return UnitSums(n, total, np.maximum(squares, 0))


def _p_value(z: float) -> float:
    return 2 * float(ndtr(-abs(z)))
