"""Comparing conversion rates: counts in, named results out.

Every function takes plain counts (units and how many of them converted) and computes in floats, because
products of real counts overflow 64-bit integers. Rates are fractions. Where a number cannot be computed its
field is ``None`` and ``reason`` says why; there is no NaN and no stand-in such as p = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy.special import chdtrc, ndtri

from cro_core.statistics.checks import check_fraction, check_lengths, check_rate, check_table

Table = tuple[float, float, float, float]
"""Units and conversions of the control, then of the variant."""


@dataclass(frozen=True, slots=True)
class ChiSquare:
    """Pearson's chi-square test of equal rates."""

    statistic: float | None
    """Pearson's chi-square, without Yates' correction."""
    df: int
    """Degrees of freedom: variants - 1."""
    p_value: float | None
    """Chance of so large a statistic under equal rates, looked at once."""
    p_value_yates: float | None
    """P-value with Yates' correction, for information; ``None`` with more than two variants."""
    reason: str | None = None
    """Why there is no number; ``None`` where there is one."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimated rate with its interval."""

    estimate: float | None
    """The observed rate, a fraction."""
    low: float | None
    """Lower end of the interval."""
    high: float | None
    """Upper end of the interval."""
    reason: str | None = None
    """Why there is no number; ``None`` where there is one."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How the rate of a variant differs from the control's."""

    absolute: float | None = None
    """Variant rate minus control rate."""
    low: float | None = None
    """Lower end of the Wald interval of ``absolute``; ``None`` where the observed variance is 0."""
    high: float | None = None
    """Upper end of the Wald interval of ``absolute``; ``None`` where the observed variance is 0."""
    score_low: float | None = None
    """Lower end of the score interval of ``absolute``, good for few conversions too."""
    score_high: float | None = None
    """Upper end of the score interval of ``absolute``, good for few conversions too."""
    relative: float | None = None
    """Uplift: variant rate / control rate - 1; ``None`` where the control has no conversions."""
    relative_low: float | None = None
    """Lower end of the score interval of ``relative``."""
    relative_high: float | None = None
    """Upper end of the score interval of ``relative``; ``None`` where the control has no conversions: no upper bound."""
    reason: str | None = None
    """Why a field above is ``None``; ``None`` where all are there."""


@dataclass(frozen=True, slots=True)
class Stratified:
    """Two variants compared inside strata (days, segments) and put together."""

    risk_ratio: float | None = None
    """Mantel-Haenszel ratio of the rates, variant : control."""
    low: float | None = None
    """Lower end of the interval of ``risk_ratio``."""
    high: float | None = None
    """Upper end of the interval of ``risk_ratio``."""
    odds_ratio: float | None = None
    """Mantel-Haenszel odds ratio, variant : control."""
    statistic: float | None = None
    """Cochran-Mantel-Haenszel chi-square on one degree of freedom, without continuity correction."""
    p_value: float | None = None
    """P-value of the stratified test."""
    strata: int = 0
    """Strata that entered: both variants seen, and some but not all units converted."""
    reason: str | None = None
    """Why a field above is ``None``; ``None`` where all are there."""


def chi_square(units: Sequence[int], conversions: Sequence[int]) -> ChiSquare:
    """Pearson's chi-square test that all variants convert alike, on the 2 x K table.

    Args:
        units: units per variant, K >= 2 whole numbers.
        conversions: how many of them converted, in the same order.

    Returns:
        The test; without a number where a variant is empty, or nobody or everybody converted.

    Raises:
        InvalidInput: not counts, more conversions than units, unequal lengths or fewer than 2 variants.

    Source: Pearson (1900); Yates (1934) for ``p_value_yates``.
    """
    n, x = check_table(units, conversions)
    df = len(n) - 1
    reason = _untestable(n, x)
    if reason:
        return ChiSquare(None, df, None, None, reason)
    rate = sum(x) / sum(n)
    deviations = [abs(xi - ni * rate) for ni, xi in zip(n, x, strict=True)]
    statistic = _pearson(deviations, n, rate)
    yates = None
    if df == 1:
        yates = float(chdtrc(1, _pearson([max(d - 0.5, 0.0) for d in deviations], n, rate)))
    return ChiSquare(statistic, df, float(chdtrc(df, statistic)), yates)


def wilson(units: int, conversions: int, level: float = 0.95) -> Interval:
    """One conversion rate with Wilson's score interval.

    Args:
        units: units, a whole number.
        conversions: how many of them converted.
        level: confidence level, in (0, 1).

    Returns:
        The rate and its interval, inside [0, 1]; without numbers where there are no units.

    Raises:
        InvalidInput: not counts, more conversions than units, or ``level`` outside (0, 1).

    Source: Wilson (1927), Journal of the American Statistical Association 22.
    """
    n, x = check_rate(units, conversions)
    z = quantile(level)
    if n == 0:
        return Interval(None, None, None, "no units")
    centre = (x + z * z / 2) / (n + z * z)
    half = z * math.sqrt(x * (n - x) / n + z * z / 4) / (n + z * z)
    low = 0.0 if x == 0 else centre - half
    high = 1.0 if x == n else centre + half
    return Interval(x / n, low, high)


def difference(n0: int, x0: int, n1: int, x1: int, level: float = 0.95) -> Difference:
    """The variant's rate minus the control's, and relative to it.

    The Wald interval is what tables usually show. The score intervals hold their level with few conversions
    too; the relative one is never a Wald interval of a ratio.

    Args:
        n0: units of the control.
        x0: how many of them converted.
        n1: units of the variant.
        x1: how many of them converted.
        level: confidence level, in (0, 1).

    Returns:
        Differences and intervals, as fractions.

    Raises:
        InvalidInput: not counts, more conversions than units, or ``level`` outside (0, 1).

    Source: Miettinen and Nurminen (1985), Statistics in Medicine 4, for both score intervals.
    """
    a, b = check_rate(n0, x0), check_rate(n1, x1)
    z = quantile(level)
    if not a[0] or not b[0]:
        name = "control" if not a[0] else "variant"
        return Difference(reason=f"the {name} has no units")
    p0, p1 = a[1] / a[0], b[1] / b[0]
    gap, reasons = p1 - p0, []
    half = z * math.sqrt(p0 * (1 - p0) / a[0] + p1 * (1 - p1) / b[0])
    if not half:
        reasons.append("no variance observed: no Wald interval")
    if not a[1]:
        reasons.append("the control has no conversions: no relative difference")
    least, most = _least_ratio(a, b, z), _least_ratio(b, a, z)
    return Difference(
        absolute=gap,
        low=gap - half if half else None,
        high=gap + half if half else None,
        score_low=_edge(lambda d: _difference_score(a, b, d) <= z * z, gap, -1.0),
        score_high=_edge(lambda d: _difference_score(a, b, d) <= z * z, gap, 1.0),
        relative=p1 / p0 - 1 if a[1] else None,
        relative_low=None if least is None else least - 1,
        relative_high=1 / most - 1 if most else None,
        reason="; ".join(reasons) or None,
    )


def mantel_haenszel(
    n0: Sequence[int], x0: Sequence[int], n1: Sequence[int], x1: Sequence[int], level: float = 0.95
) -> Stratified:
    """Variant against control inside each stratum, so that a drift common to both cannot mislead.

    Args:
        n0: units of the control, one number per stratum.
        x0: how many of them converted, per stratum.
        n1: units of the variant, per stratum.
        x1: how many of them converted, per stratum.
        level: confidence level of the risk ratio's interval, in (0, 1).

    Returns:
        The common ratio and the test of no difference in any stratum.

    Raises:
        InvalidInput: not counts, more conversions than units, unequal lengths, or ``level`` outside (0, 1).

    Source: Mantel and Haenszel (1959); interval: Greenland and Robins (1985), Biometrics 41.
    """
    z = quantile(level)
    check_lengths(n0=n0, x0=x0, n1=n1, x1=x1)
    tables = [(*check_rate(n0[i], x0[i]), *check_rate(n1[i], x1[i])) for i in range(len(n0))]
    tables = [(n, x, m, y) for n, x, m, y in tables if n and m and 0 < x + y < n + m]
    if not tables:
        return Stratified(reason="no stratum has both variants and both outcomes")
    ratio, low, high = _risk_ratio(tables, z)
    odds, statistic = sum((m - y) * x / (n + m) for n, x, m, y in tables), _cmh(tables)
    complete = low is not None and odds > 0
    return Stratified(
        risk_ratio=ratio,
        low=low,
        high=high,
        odds_ratio=sum(y * (n - x) / (n + m) for n, x, m, y in tables) / odds if odds else None,
        statistic=statistic,
        p_value=float(chdtrc(1, statistic)),
        strata=len(tables),
        reason=None if complete else "in every stratum a variant converted nobody or everybody",
    )


def quantile(level: float) -> float:
    """The normal quantile that leaves (1 - ``level``) / 2 in each tail.

    Raises:
        InvalidInput: ``level`` is not strictly between 0 and 1.
    """
    return -float(ndtri((1 - check_fraction(level, "level")) / 2))


def _untestable(n: Sequence[float], x: Sequence[float]) -> str | None:
    if not all(n):
        return f"variant {list(n).index(0) + 1} has no units"
    if not any(x):
        return "nobody converted"
    return "everybody converted" if sum(x) == sum(n) else None


def _pearson(deviations: Sequence[float], n: Sequence[float], rate: float) -> float:
    return sum(d * d / ni for d, ni in zip(deviations, n, strict=True)) / (rate * (1 - rate))


def _edge(inside: Callable[[float], bool], start: float, end: float) -> float:
    """The last point from ``start`` towards ``end`` that is inside, by bisection to full precision."""
    if inside(end):
        return end
    while True:
        middle = (start + end) / 2
        if middle in (start, end):
            return start
        start, end = (middle, end) if inside(middle) else (start, middle)


def _squared(score: float, variance: float) -> float:
    if variance > 0:
        return score * score / variance
    return math.inf if score else 0.0


def _difference_score(a: tuple[float, float], b: tuple[float, float], gap: float) -> float:
    """Miettinen-Nurminen's squared score statistic for "variant rate - control rate = ``gap``"."""
    (n0, x0), (n1, x1) = a, b
    p0 = _restricted(a, b, gap)
    p1 = p0 + gap
    variance = (p0 * (1 - p0) / n0 + p1 * (1 - p1) / n1) * (n0 + n1) / (n0 + n1 - 1)
    return _squared(x1 / n1 - x0 / n0 - gap, variance)


def _restricted(a: tuple[float, float], b: tuple[float, float], gap: float) -> float:
    """The control rate most likely under that gap.

    By bisection of the likelihood's slope: the cubic's closed form loses half its digits where roots meet.
    """
    (n0, x0), (n1, x1) = a, b
    low, high = max(0.0, -gap), min(1.0, 1 - gap)
    for _ in range(55):
        p = (low + high) / 2
        p1 = p + gap
        rising = (x0 - n0 * p) * p1 * (1 - p1) + (x1 - n1 * p1) * p * (1 - p) > 0
        low, high = (p, high) if rising else (low, p)
    return low


def _least_ratio(a: tuple[float, float], b: tuple[float, float], z: float) -> float | None:
    """The lower end of the score interval of variant rate / control rate; ``None`` if nobody converted.

    The search runs over variant rate / (control rate + variant rate), which lives in [0, 1].
    """
    rate0, rate1 = a[1] / a[0], b[1] / b[0]
    if not rate0 + rate1:
        return None
    share = _edge(lambda s: _ratio_score(a, b, s) <= z * z, rate1 / (rate0 + rate1), 0.0)
    return share / (1 - share)


def _ratio_score(a: tuple[float, float], b: tuple[float, float], share: float) -> float:
    """Miettinen-Nurminen's squared score statistic for "variant rate : control rate = share : 1 - share"."""
    (n0, x0), (n1, x1) = a, b
    x, rest = x0 + x1, 1 - share
    lost0, lost1 = rest * (n0 - x0), share * (n1 - x1)
    # the restricted rates' quadratic, its discriminant written as a sum of squares
    root = math.hypot(x * (share - rest) + lost1 - lost0, 2 * math.sqrt(lost0 * lost1))
    total = 2 * x / (x + lost0 + lost1 + root)
    p0, p1 = total * rest, total * share
    variance = share**2 * p0 * (1 - p0) / n0 + rest**2 * p1 * (1 - p1) / n1
    return _squared(rest * x1 / n1 - share * x0 / n0, variance * (n0 + n1) / (n0 + n1 - 1))


def _risk_ratio(tables: Sequence[Table], z: float) -> tuple[float | None, float | None, float | None]:
    above = sum(y * n / (n + m) for n, x, m, y in tables)
    below = sum(x * m / (n + m) for n, x, m, y in tables)
    if not above or not below:
        return (above / below if below else None), None, None
    spread = sum((n * m * (x + y) - x * y * (n + m)) / (n + m) ** 2 for n, x, m, y in tables)
    half = z * math.sqrt(spread / (above * below))
    ratio = above / below
    return ratio, ratio * math.exp(-half), ratio * math.exp(half)


def _cmh(tables: Sequence[Table]) -> float:
    score = sum(y - (x + y) * m / (n + m) for n, x, m, y in tables)
    variance = sum(n * m * (x + y) * (n + m - x - y) / ((n + m) ** 2 * (n + m - 1)) for n, x, m, y in tables)
    return score**2 / variance
