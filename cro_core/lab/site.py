"""What a simulated site is like: when its visitors come, how late they convert, how its rates and effects move.

Hours are counted on the site's own clock from a Monday's midnight, unless they are said to be hours since the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from cro_core.statistics.arrays import Bools, Floats

Curve = Callable[[Floats], Floats]
"""Function of hours that gives a number for each."""

Delay = tuple[tuple[int, float], ...]
"""Whole hours from exposure to conversion -> part of the conversions; what is missing to 1 comes too late to count."""


def at_weekend(hour: Floats) -> Bools:
    """Finds the hours of Saturdays and Sundays."""
    return np.asarray(hour // 24 % 7 >= 5)


@dataclass(frozen=True, slots=True)
class Shape:
    """When visitors come, relative to each other."""

    usual: Curve
    """The weekly pattern, which a site's profile knows."""
    event: Curve = np.ones_like
    """Factor by which this time differs from it, which nobody knew before."""


def _by_day(hour: Floats) -> Floats:
    """Swings by 80 % around the day's mean, highest at noon, with weekends 1.3 times a weekday."""
    return np.asarray(
        (1 + 0.8 * np.sin(2 * np.pi * (hour + 0.5 - 6) / 24)) * np.where(at_weekend(hour), 1.3, 1)
    )


def _between(first: int, last: int, outside: float, weekend: float = 1.0) -> Curve:
    """Makes a curve of 1 from one hour of the day to before another, and little outside."""

    def curve(hour: Floats) -> Floats:
        inside = (hour % 24 >= first) & (hour % 24 < last)
        return np.asarray(np.where(inside, 1, outside) * np.where(at_weekend(hour), weekend, 1))

    return curve


def _on_days(days: tuple[int, ...], factor: float) -> Curve:
    return lambda hour: np.where(np.isin(hour // 24, days), factor, 1.0)


TRAFFIC: Mapping[str, Shape] = {
    "flat": Shape(np.ones_like),
    "day": Shape(_by_day),
    "business": Shape(_between(9, 18, 0.05, 0.1)),
    "evening": Shape(_between(17, 23, 0.02)),
    "morning": Shape(_between(6, 10, 0.05)),
    "weekend": Shape(lambda hour: _by_day(hour) * np.where(at_weekend(hour), 4, 1)),
    "campaign": Shape(_by_day, _on_days((4,), 8)),
    "late campaign": Shape(_by_day, _on_days((11,), 8)),
    "holidays": Shape(_by_day, _on_days((2, 3, 4), 0.2)),
    "bursts": Shape(_by_day, lambda hour: np.where(hour % 37 < 1, 12.0, 1.0)),
    "growing": Shape(_by_day, lambda hour: 1 + hour / 100),
    "shifted": Shape(_by_day, lambda hour: _by_day(hour + 12) / _by_day(hour)),
}
"""Name -> when visitors come; ``shifted`` is a profile that is 12 hours off."""


def _week(hour: Floats) -> Floats:
    """Swings day and night by 40 %, with weekend 1.5 against weekday 0.8."""
    return np.asarray(
        (1 + 0.4 * np.sin(2 * np.pi * (hour + 0.5) / 24)) * np.where(at_weekend(hour), 1.5, 0.8)
    )


PROFILES: Mapping[str, Curve] = {
    "const": np.ones_like,
    "week": _week,
    "promo": lambda hour: _week(hour) * np.where(hour < 6 * 24, 1.6, 0.8),
    "decay": lambda hour: _week(hour) * np.maximum(1.7 - 1.4 * hour / (14 * 24), 0.3),
}
"""Name -> how the rate of every variant moves alike; its mean does not count."""

NOVELTY_HALVES = 33.0
"""Hours in which a novelty effect halves."""

EFFECTS: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "constant": lambda since, _: np.zeros_like(since),
    "novelty": lambda since, _: 0.4 * 0.5 ** (since / NOVELTY_HALVES),
    "lasting and novelty": lambda since, _: 0.1 + 0.3 * 0.5 ** (since / NOVELTY_HALVES),
    "weekend reversal": lambda _, hour: np.where(at_weekend(hour), -0.25, 0.1),
}
"""Name -> relative uplift that is added to the first challenger's, by hours since the start and the site's hours."""

AT_ONCE: Delay = ((0, 1.0),)
"""Every conversion within the hour of the exposure."""

USUAL: Delay = ((0, 0.6), (3, 0.15), (8, 0.15), (20, 0.1))
"""Most at once, some within the day."""


def later(delay: Delay, hours: int, longest: int = 24) -> Delay:
    """Moves all conversions by some hours; those beyond the longest delay come with it."""
    parts: dict[int, float] = {}
    for hour, part in delay:
        moved = min(hour + hours, longest)
        parts[moved] = parts.get(moved, 0.0) + part
    return tuple(sorted(parts.items()))


def within(delay: Delay, window: int) -> Delay:
    """Leaves out what comes after the window, of all that comes within it."""
    parts = tuple((hour, part) for hour, part in delay if hour <= window)
    whole = math.fsum(part for _, part in parts)
    return tuple((hour, part / whole) for hour, part in parts)


def exponential(mean: float, window: int) -> Delay:
    """Spreads conversions exponentially; those after the window are lost."""
    edges = -np.expm1(-np.arange(window + 1) / mean)
    return tuple((hour, float(part)) for hour, part in enumerate(np.diff(edges)))


def converted_within(delay: Delay, hours: Floats) -> Floats:
    """Computes the part of the counted conversions that have come after so many whole hours."""
    late, parts = np.array(delay).T
    result: Floats = (parts * (late <= np.asarray(hours)[..., None])).sum(-1) / parts.sum()
    return result


def counted(delay: Delay) -> float:
    """Sums the parts of the conversions that come in time."""
    return math.fsum(part for _, part in delay)
