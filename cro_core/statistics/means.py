"""Comparing means: engagement score, revenue, ratios of sums, and means adjusted for a covariate.

Nothing here sees a row. The arguments are sums that can be added over days, shards and stores, and the
computation is in floats. Where a number cannot be computed its field is ``None`` and ``reason`` says why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scipy.special import stdtr, stdtrit

from cro_core.errors import InvalidInput
from cro_core.statistics.checks import check_count, check_fraction, check_number

ROUNDING = 1e-13
"""A sum of squares about the mean below this part of the raw sum of squares is rounding: it counts as 0."""


@dataclass(frozen=True, slots=True)
class Sums:
    """One metric of one variant, added up over its units."""

    n: int
    """How many units there are."""
    total: float
    """Sum of the metric."""
    squares: float
    """Sum of its squares."""

    def __add__(self, other: Sums) -> Sums:
        """The sums of both groups together."""
        return Sums(self.n + other.n, self.total + other.total, self.squares + other.squares)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Two metrics of one variant, added up over its units.

    For a ratio ``y`` is the numerator and ``x`` the denominator; for an adjusted mean ``y`` is the metric and
    ``x`` the covariate, known before the exposure.
    """

    n: int
    """How many units there are."""
    y: float
    """Sum of y."""
    x: float
    """Sum of x."""
    yy: float
    """Sum of y squared."""
    xx: float
    """Sum of x squared."""
    xy: float
    """Sum of x times y."""

    def __add__(self, other: Pairs) -> Pairs:
        """The sums of both groups together."""
        return Pairs(
            self.n + other.n,
            self.y + other.y,
            self.x + other.x,
            self.yy + other.yy,
            self.xx + other.xx,
            self.xy + other.xy,
        )


@dataclass(frozen=True, slots=True)
class MeanDifference:
    """How the mean of a variant differs from the control's."""

    control: float | None = None
    """Mean of the control (the ratio, the adjusted mean), in the metric's unit."""
    variant: float | None = None
    """Mean of the variant."""
    absolute: float | None = None
    """Variant minus control."""
    low: float | None = None
    """Lower end of the interval of ``absolute``."""
    high: float | None = None
    """Upper end of the interval of ``absolute``."""
    relative: float | None = None
    """Uplift: variant / control - 1; ``None`` where the control's mean is not positive."""
    relative_low: float | None = None
    """Lower end of Fieller's interval of ``relative``; ``None`` where the data set no bounds."""
    relative_high: float | None = None
    """Upper end of Fieller's interval of ``relative``; ``None`` where the data set no bounds."""
    statistic: float | None = None
    """Welch's t of the difference."""
    df: float | None = None
    """Welch's degrees of freedom."""
    p_value: float | None = None
    """Two-sided p-value of Welch's t, looked at once."""
    reduction: float | None = None
    """Part of the metric's variance that the covariate explains, in [0, 1]; ``None`` without covariate."""
    reason: str | None = None
    """Why a field above is ``None``; ``None`` where all are there."""


@dataclass(frozen=True, slots=True)
class _Estimate:
    """An estimated mean, the variance of one unit about it, and the units behind it."""

    mean: float
    variance: float
    n: float

    @property
    def error(self) -> float:
        """Squared standard error of the mean."""
        return self.variance / self.n


@dataclass(frozen=True, slots=True)
class _Moments:
    """Means, variances and covariance of two metrics over the units of a variant."""

    n: float
    y: float
    x: float
    yy: float
    xx: float
    xy: float


def welch(control: Sums, variant: Sums, level: float = 0.95) -> MeanDifference:
    """Welch's t-test of two means, with intervals of the absolute and the relative difference.

    Args:
        control: sums of the control.
        variant: sums of the variant.
        level: confidence level, in (0, 1).

    Returns:
        The comparison; without test and intervals where a variant has fewer than 2 units or neither varies.

    Raises:
        InvalidInput: sums that no data can have, or ``level`` outside (0, 1).

    Source: Welch (1947), Biometrika 34; Fieller (1954), J. R. Statist. Soc. B 16, for the relative interval.
    """
    check_fraction(level, "level")
    a, b = _moments(_single(control), "control"), _moments(_single(variant), "variant")
    short = _too_short(a, b)
    if short:
        return short
    return _compare(_Estimate(a.y, a.yy, a.n), _Estimate(b.y, b.yy, b.n), level)


def ratio(control: Pairs, variant: Pairs, level: float = 0.95) -> MeanDifference:
    """Two ratios of sums (orders per session, revenue per order), compared by the delta method.

    The unit of randomisation stays the unit: each unit carries its own numerator and denominator.

    Args:
        control: sums of the control; ``y`` numerator, ``x`` denominator.
        variant: sums of the variant.
        level: confidence level, in (0, 1).

    Returns:
        The comparison of ``sum y / sum x``; without test where a variant has fewer than 2 units or neither
        varies, and without numbers where a denominator is not positive.

    Raises:
        InvalidInput: sums that no data can have, or ``level`` outside (0, 1).

    Source: Deng, Knoblich and Lu (2018), "Applying the delta method in metric analytics", KDD.
    """
    check_fraction(level, "level")
    a, b = _moments(control, "control"), _moments(variant, "variant")
    short = _too_short(a, b)
    if short:
        return short
    if a.x <= 0 or b.x <= 0:
        return _nothing("the denominator is not positive")
    return _compare(_linearised(a), _linearised(b), level)


def cuped(control: Pairs, variant: Pairs, level: float = 0.95) -> MeanDifference:
    """Two means adjusted for a covariate known before the exposure; the same difference, less noise.

    Args:
        control: sums of the control; ``y`` metric, ``x`` covariate.
        variant: sums of the variant.
        level: confidence level, in (0, 1).

    Returns:
        The comparison of the adjusted means, with the part of the variance removed in ``reduction``; a
        covariate that does not vary changes nothing.

    Raises:
        InvalidInput: sums that no data can have, or ``level`` outside (0, 1).

    Source: Deng, Xu, Kohavi and Walker (2013), "Improving the sensitivity of online controlled experiments by
    utilizing pre-experiment data", WSDM.
    """
    check_fraction(level, "level")
    a, b = _moments(control, "control"), _moments(variant, "variant")
    short = _too_short(a, b)
    if short:
        return short
    both = _moments(control + variant, "both")
    theta = both.xy / both.xx if both.xx else 0.0
    reduction = theta * both.xy / both.yy if both.yy else 0.0
    return _compare(_adjusted(a, theta, both.x), _adjusted(b, theta, both.x), level, reduction)


def check_sums(sums: Sums, name: str) -> tuple[float, float, float]:
    """Returns units, total and squares as floats.

    Raises:
        InvalidInput: not numbers, a negative number of units, or sums that no data can have.
    """
    _moments(_single(sums), name)
    return float(sums.n), float(sums.total), float(sums.squares)


def _single(sums: Sums) -> Pairs:
    return Pairs(sums.n, sums.total, 0.0, sums.squares, 0.0, 0.0)


def _moments(sums: Pairs, name: str) -> _Moments:
    """Unbiased variances and covariance (0 with fewer than 2 units).

    Raises:
        InvalidInput: not numbers, a negative number of units, or sums that no data can have.
    """
    n = check_count(sums.n, f"{name} n")
    y, x, yy, xx, xy = (check_number(getattr(sums, f), f"{name} {f}") for f in ("y", "x", "yy", "xx", "xy"))
    if not n:
        if any((y, x, yy, xx, xy)):
            raise InvalidInput(f"{name} has sums without units: give the units behind them", field=name)
        return _Moments(0, 0, 0, 0, 0, 0)
    yy, xx = _about_mean(y, yy, n, f"{name} y"), _about_mean(x, xx, n, f"{name} x")
    xy -= x * y / n
    # Cauchy-Schwarz, with room for what rounding can do
    if abs(xy) > math.sqrt(yy * xx) * (1 + 1e-6) + 1e-9 * (abs(x * y) / n + abs(sums.xy)):
        raise InvalidInput(f"{name} xy is {sums.xy:g}: no data have this sum with the others", field=name)
    free = max(n - 1, 1.0)
    return _Moments(n, y / n, x / n, yy / free, xx / free, xy / free)


def _about_mean(total: float, squares: float, n: float, name: str) -> float:
    least = total * total / n
    if squares < least * (1 - 1e-9):
        raise InvalidInput(
            f"{name} has a sum of squares of {squares:g}: at least {least:g} goes with its total", field=name
        )
    about = squares - least
    return about if about > ROUNDING * squares and n > 1 else 0.0


def _too_short(a: _Moments, b: _Moments) -> MeanDifference | None:
    for name, sample in (("control", a), ("variant", b)):
        if sample.n < 2:
            return _nothing(f"the {name} has {sample.n:.0f} units: a mean with an error needs 2")
    return None


def _nothing(reason: str) -> MeanDifference:
    return MeanDifference(reason=reason)


def _linearised(m: _Moments) -> _Estimate:
    r = m.y / m.x
    return _Estimate(r, max(m.yy - 2 * r * m.xy + r * r * m.xx, 0.0) / m.x**2, m.n)


def _adjusted(m: _Moments, theta: float, centre: float) -> _Estimate:
    variance = m.yy - 2 * theta * m.xy + theta * theta * m.xx
    return _Estimate(m.y - theta * (m.x - centre), max(variance, 0.0), m.n)


def _compare(a: _Estimate, b: _Estimate, level: float, reduction: float | None = None) -> MeanDifference:
    positive, reasons = a.mean > 0, []
    if not positive:
        reasons.append("the control's mean is not positive: no relative difference")
    result = MeanDifference(
        control=a.mean,
        variant=b.mean,
        absolute=b.mean - a.mean,
        relative=b.mean / a.mean - 1 if positive else None,
        reduction=reduction,
    )
    if a.error + b.error > 0:
        result = _test(result, a, b, level)
        if positive and result.relative_low is None:
            reasons.append("the control's mean is not clearly above 0: no bounds of the relative difference")
    else:
        reasons.append("the metric does not vary: no test")
    return replace(result, reason="; ".join(reasons) or None)


def _test(result: MeanDifference, a: _Estimate, b: _Estimate, level: float) -> MeanDifference:
    gap, error = b.mean - a.mean, math.sqrt(a.error + b.error)
    part = a.error / (a.error + b.error)
    df = 1 / (part**2 / (a.n - 1) + (1 - part) ** 2 / (b.n - 1))
    q = -float(stdtrit(df, (1 - level) / 2))
    relative_low, relative_high = _fieller(a, b, q)
    return replace(
        result,
        low=gap - q * error,
        high=gap + q * error,
        relative_low=relative_low,
        relative_high=relative_high,
        statistic=gap / error,
        df=df,
        p_value=2 * float(stdtr(df, -abs(gap / error))),
    )


def _fieller(a: _Estimate, b: _Estimate, q: float) -> tuple[float | None, float | None]:
    """Every uplift u for which ``b - (1 + u) a`` is within q standard errors of 0, if that is an interval."""
    room = a.mean**2 - q * q * a.error
    if a.mean <= 0 or room <= 0:
        return None, None
    half = q * math.sqrt(max(a.mean**2 * b.error + b.mean**2 * a.error - q * q * a.error * b.error, 0.0))
    centre = a.mean * b.mean
    return (centre - half) / room - 1, (centre + half) / room - 1
