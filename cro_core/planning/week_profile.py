"""The week of a site: how its visitors spread over weekdays and hours, and when a number of them is reached.

Hours are those of the site's clocks, weekdays count from Monday = 0, time is in days. A forecast steps through
ordinary weeks: the hour that a clock change adds or takes is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cro_core.errors import InvalidInput

HOURS, DAYS = 24, 7
WEEK = DAYS * HOURS


@dataclass(frozen=True, slots=True)
class WeekProfile:
    """Visitors of each hour of the week relative to the average hour."""

    relative: tuple[float, ...]
    """Relative visitors of 168 hours, Monday 0:00 first; their mean is 1."""
    measured: bool
    """Whether the profile was counted; else every hour is taken to be alike."""

    @property
    def weekdays(self) -> tuple[float, ...]:
        """Visitors of each weekday relative to the average day, Monday first."""
        return tuple(sum(self.relative[day * HOURS : (day + 1) * HOURS]) / HOURS for day in range(DAYS))


FLAT = WeekProfile((1.0,) * WEEK, False)
"""The profile of a site whose week is not known: every hour alike."""


def week_profile(visits: Iterable[tuple[int, int, float]], days: Sequence[int]) -> WeekProfile:
    """Makes the profile of counted visits.

    Args:
        visits: weekday, hour and count; the same hour may come several times.
        days: how many days of each weekday were counted, Monday first.

    Returns:
        The profile; :data:`FLAT` where a weekday was not counted at all, or nobody came.

    Raises:
        InvalidInput: not seven weekdays, a weekday or hour that does not exist, or a negative count.
    """
    if len(days) != DAYS:
        raise InvalidInput(f"days has {len(days)} entries: give 7, Monday first", field="days")
    sums = [0.0] * WEEK
    for weekday, hour, count in visits:
        if not (0 <= weekday < DAYS and 0 <= hour < HOURS and count >= 0):
            raise InvalidInput(
                f"visits hold weekday {weekday}, hour {hour}, count {count}: give 0 to 6, 0 to 23, and a count >= 0",
                field="visits",
            )
        sums[weekday * HOURS + hour] += count
    if min(days) <= 0 or sum(sums) == 0:
        return FLAT
    means = [total / days[index // HOURS] for index, total in enumerate(sums)]
    average = sum(means) / WEEK
    return WeekProfile(tuple(mean / average for mean in means), True)


def days_until(
    units: float, traffic_per_day: float, profile: WeekProfile = FLAT, *, weekday: int = 0, hour: float = 0.0
) -> float:
    """Forecasts the days until so many visitors have come.

    Args:
        units: visitors to wait for; 0 or fewer are there at once.
        traffic_per_day: visitors of the average day, above 0.
        profile: how they spread over the week.
        weekday: of the start, Monday = 0.
        hour: of the start, in [0, 24).

    Raises:
        InvalidInput: an argument out of range.
    """
    if not 0 < traffic_per_day < math.inf:
        raise InvalidInput(
            f"traffic_per_day is {traffic_per_day!r}: give a number above 0", field="traffic_per_day"
        )
    weeks = math.floor(max(units, 0.0) / (DAYS * traffic_per_day))
    remaining = max(units, 0.0) - weeks * DAYS * traffic_per_day
    days = float(weeks * DAYS)
    for length, relative in _hours(profile, weekday, hour):
        arriving = traffic_per_day * relative * length
        if remaining <= 0:
            break
        if arriving >= remaining:
            return days + length * remaining / arriving
        remaining, days = remaining - arriving, days + length
    return days


def visitors_within(
    days: float, traffic_per_day: float, profile: WeekProfile = FLAT, *, weekday: int = 0, hour: float = 0.0
) -> float:
    """Forecasts the visitors within so many days of the start; the inverse of :func:`days_until`.

    Raises:
        InvalidInput: an argument out of range.
    """
    if not (0 <= traffic_per_day < math.inf and 0 <= days < math.inf):
        raise InvalidInput(
            f"days is {days!r} and traffic_per_day {traffic_per_day!r}: give numbers of at least 0",
            field="days" if not 0 <= days < math.inf else "traffic_per_day",
        )
    weeks = math.floor(days / DAYS)
    days_left, visitors = days - weeks * DAYS, weeks * DAYS * traffic_per_day
    for length, relative in _hours(profile, weekday, hour):
        if days_left <= 0:
            break
        visitors += traffic_per_day * relative * min(length, days_left)
        days_left -= length
    return visitors


def _hours(profile: WeekProfile, weekday: int, hour: float) -> Iterator[tuple[float, float]]:
    """Yields length in days and relative traffic of a week's hours from a moment on; the first may be partial."""
    if weekday not in range(DAYS) or not 0 <= hour < HOURS:
        raise InvalidInput(
            f"the start is weekday {weekday!r}, hour {hour!r}: give 0 (Monday) to 6, and 0 to below 24",
            field="weekday" if weekday not in range(DAYS) else "hour",
        )
    first = weekday * HOURS + math.floor(hour)
    passed = hour - math.floor(hour)
    yield (1 - passed) / HOURS, profile.relative[first]
    for step in range(1, WEEK):
        yield 1 / HOURS, profile.relative[(first + step) % WEEK]
    yield passed / HOURS, profile.relative[first]
