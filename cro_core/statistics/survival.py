"""How long until it happens, where for some it has not happened yet.

Units that were seen for less than the whole time still count for as long as they were seen (Kaplan and Meier).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cro_core.errors import InvalidInput
from cro_core.statistics.proportions import quantile


@dataclass(frozen=True, slots=True)
class Curve:
    """The share of units to which it has not happened yet, after each time at which it happened to some."""

    times: tuple[float, ...]
    """Times of the events in the unit of those given, ascending."""
    at_risk: tuple[int, ...]
    """Units still seen, and without it, just before."""
    events: tuple[int, ...]
    """How many it happened to at each time."""
    survival: tuple[float, ...]
    """Kaplan and Meier's estimate from this time on; 1 before the first."""
    error: tuple[float, ...]
    """Greenwood's standard error."""
    low: tuple[float, ...]
    """Lower end of the interval on the scale of log(-log), inside [0, 1]."""
    high: tuple[float, ...]
    """Upper end of the interval on the scale of log(-log), inside [0, 1]."""


@dataclass(frozen=True, slots=True)
class Quantile:
    """When a part of those to whom it ever happens had it."""

    share: float
    """Part of those to whom it happens by the end of the curve."""
    value: float
    low: float
    """Lower end of the quantile's interval: every time that the data do not exclude."""
    high: float
    """Upper end of the quantile's interval."""


def kaplan_meier(times: ArrayLike, happened: ArrayLike, units: ArrayLike, level: float = 0.95) -> Curve:
    """The survival curve of units that are counted by time.

    Args:
        times: how long units were seen until it happened, or until they were seen no more; at least 0.
        happened: whether it did (1) or not (0).
        units: how many units have this time and this end.
        level: confidence level of each point's interval, in (0, 1).

    Returns:
        The curve; without points where it happened to nobody.

    Raises:
        InvalidInput: negative times or units, or ``level`` outside (0, 1).

    Source: Kaplan and Meier (1958); Greenwood (1926); interval: Kalbfleisch and Prentice (1980). Where both fall
    on one time, units to which it happened come before those that were seen no more.
    """
    z = quantile(level)
    t, ended, n = (np.asarray(column, float) for column in (times, happened, units))
    if (t < 0).any() or (n < 0).any():
        raise InvalidInput("a time or a number of units is negative: give at least 0", field="times")
    points, place = np.unique(t, return_inverse=True)
    died = np.bincount(place, n * (ended > 0), len(points))
    gone = np.bincount(place, n, len(points))
    risk = gone[::-1].cumsum()[::-1]
    kept = died > 0
    points, died, risk = points[kept], died[kept], risk[kept]
    survival = np.cumprod(1 - died / risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        summed = np.cumsum(died / (risk * (risk - died)))
        error = np.where(survival > 0, survival * np.sqrt(summed), np.nan)
        half = z * np.sqrt(summed) / np.abs(np.log(survival))
        low, high = (np.where(survival > 0, survival ** np.exp(s * half), 0.0) for s in (1, -1))
    return Curve(
        tuple(points.tolist()),
        tuple(risk.astype(int).tolist()),
        tuple(died.astype(int).tolist()),
        tuple(survival.tolist()),
        tuple(error.tolist()),
        tuple(low.tolist()),
        tuple(high.tolist()),
    )


def quantiles(
    curve: Curve, shares: tuple[float, ...] = (0.25, 0.5, 0.75), level: float = 0.95
) -> list[Quantile]:
    """When quarter, half and three quarters of those had it to whom it happened by the end of the curve.

    The interval holds every time at which the share may be the one asked: the difference to it is within the
    normal quantile of its standard error, which follows from Greenwood's (delta method).

    Returns:
        One entry for each share; none where it happened to nobody.

    Source: Brookmeyer and Crowley (1982), Biometrics 38, for intervals by inverting the test.
    """
    if not curve.times:
        return []
    z = quantile(level)
    times, s = np.array(curve.times), np.array(curve.survival)
    risk, died = np.array(curve.at_risk, float), np.array(curve.events, float)
    left = np.maximum(risk - died, 0.5)  # to all the last ones it happened: their variance is still finite
    summed = np.cumsum(died / (risk * left))
    end, total = s[-1], summed[-1]
    reached_at = []
    for share in shares:
        gap = (1 - s) - share * (1 - end)
        variance = s**2 * summed + share**2 * end**2 * total - 2 * share * s * end * summed
        inside = np.abs(gap) <= z * np.sqrt(np.maximum(variance, 0)) + 1e-12
        reached = int(np.argmax(gap >= -1e-12))
        # the share is reached at the first point that is not clearly too early, at the latest where clearly past
        early = int(np.argmax(inside | (gap > 0)))
        late = np.flatnonzero(inside | (gap < 0))
        last = min(int(late[-1]) + 1 if late.size else reached, len(times) - 1)
        reached_at.append(
            Quantile(
                share,
                float(times[reached]),
                float(times[min(early, reached)]),
                float(times[max(last, reached)]),
            )
        )
    return reached_at
