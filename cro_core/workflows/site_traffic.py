"""How many visitors meet the site's experiments a day, and how they spread over the week."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from cro_core.analytics import arrivals as counts
from cro_core.clock import zone
from cro_core.config import Config
from cro_core.domain import Experiment
from cro_core.planning.week_profile import DAYS, FLAT, WeekProfile, visitors_within, week_profile
from cro_core.storage import experiments as store

DAY = timedelta(days=1)

MEASURED_DAYS = 28
"""Most days that traffic is measured over: four of each weekday."""

LEAST_WEEKS = 2
"""Fewest days of each weekday that the weights of days are planned by."""


@dataclass(frozen=True, slots=True)
class SiteTraffic:
    """The visitors of whole days on which an experiment enrolled."""

    visitors: int
    """Different visitors over all the days."""
    days: tuple[date, ...]
    """The days counted, oldest first, in the site's zone."""
    profile: WeekProfile
    experiments: tuple[Experiment, ...]
    """Where they were counted, newest first."""
    synthetic: bool
    """Whether these were visitors made by ``cro generate``."""
    admitted: float = 1.0
    """Part of the site's visitors whom these experiments let in."""

    @property
    def per_day(self) -> float:
        """Different visitors of the site per day, those included whom no experiment let in."""
        return self.visitors / len(self.days) / self.admitted

    @property
    def weekly(self) -> WeekProfile:
        """The week of the site for the weights of days: :data:`FLAT` before each weekday was counted twice."""
        counted = Counter(day.weekday() for day in self.days)
        return self.profile if min(counted[day] for day in range(DAYS)) >= LEAST_WEEKS else FLAT

    @property
    def period(self) -> str:
        """The counted period in words, such as ``2 Mar 2026 to 29 Mar 2026, 28 days``."""
        first, last = (f"{d.day} {d:%b %Y}" for d in (self.days[0], self.days[-1]))
        return f"{first} to {last}, {len(self.days)} day{'s' * (len(self.days) > 1)}"


def site_traffic(connection: sa.Connection, config: Config, now: datetime) -> SiteTraffic | None:
    """The newest whole days, at most :data:`MEASURED_DAYS`, on which visitors met an experiment.

    A day counts where an experiment enrolled from its first to its last minute; on other days nobody knows who
    came. Synthetic visitors count only where there are no others.

    Returns:
        ``None`` where there is no such day, or nobody came.
    """
    site = zone(config.site.time_zone)
    begun = [e for e in store.with_status(connection) if e.started_at is not None]
    real = [e for e in begun if e.source != "generate"]
    for chosen in (real, begun):
        traffic = _measure(connection, chosen, site, now)
        if traffic is not None:
            return replace(traffic, synthetic=chosen is begun and len(real) < len(begun))
    return None


def expected_per_day(connection: sa.Connection, config: Config, now: datetime) -> float | None:
    """Visitors a day that an experiment starting now may count on: the setting, else the site's own.

    Returns:
        ``None`` where nothing is set and nothing was measured yet.
    """
    if config.statistics.traffic_per_day is not None:
        return config.statistics.traffic_per_day
    measured = site_traffic(connection, config, now)
    return None if measured is None else measured.per_day


def experiment_traffic(
    connection: sa.Connection, experiment: Experiment, now: datetime, profile: WeekProfile = FLAT
) -> float | None:
    """Visitors a day that met the experiment so far, as of the average day of the week.

    Returns:
        ``None`` before it has enrolled for a whole day.
    """
    started_at, ends_at = experiment.started_at, experiment.enrolment_ends_at
    if started_at is None or ends_at is None:
        return None
    until = min(moment for moment in (ends_at, experiment.ended_at, now) if moment is not None)
    if until - started_at < DAY:
        return None
    local = started_at.astimezone(zone(experiment.plan.zone))
    share = visitors_within(
        (until - started_at) / DAY, 1.0, profile, weekday=local.weekday(), hour=local.hour + local.minute / 60
    )
    return counts.exposed_until(connection, experiment, until) / share if share > 0 else None


def _measure(
    connection: sa.Connection, experiments: Sequence[Experiment], site: ZoneInfo, now: datetime
) -> SiteTraffic | None:
    days = sorted({d for e in experiments for d in _whole_days(e, site, now)})[-MEASURED_DAYS:]
    if not days:
        return None
    enrolling = {e.id: set(days).intersection(_whole_days(e, site, now)) for e in experiments}
    used = [e for e in reversed(experiments) if enrolling[e.id]]
    visitor_count, arrivals = counts.visitors(
        connection, [e.id for e in used], [_bounds(d, site) for d in days]
    )
    if visitor_count == 0:
        return None
    local = [(moment.astimezone(site), number) for moment, number in arrivals]
    weekdays = Counter(d.weekday() for d in days)
    profile = week_profile(
        ((at.weekday(), at.hour, number) for at, number in local), [weekdays[d] for d in range(DAYS)]
    )
    admitted = sum(_let_in(e for e in used if day in enrolling[e.id]) for day in days) / len(days)
    return SiteTraffic(visitor_count, tuple(days), profile, tuple(used), False, admitted)


def _let_in(experiments: Iterable[Experiment]) -> float:
    """Part of the visitors whom at least one of the experiments lets in; each chooses for itself."""
    return 1 - math.prod(1 - experiment.plan.admitted for experiment in experiments)


def _whole_days(experiment: Experiment, site: ZoneInfo, now: datetime) -> Iterator[date]:
    """The newest local days on which the experiment enrolled throughout, newest first."""
    started_at = experiment.started_at
    ends = (experiment.enrolment_ends_at, experiment.ended_at, now)
    until = min(t for t in ends if t is not None)
    day, days = until.astimezone(site).date(), 0
    while started_at is not None and days < MEASURED_DAYS:
        start, end = _bounds(day, site)
        if start < started_at:
            return
        if end <= until:
            days += 1
            yield day
        day -= timedelta(days=1)


def _bounds(day: date, site: ZoneInfo) -> tuple[datetime, datetime]:
    """A local day as a period in UTC."""
    start, end = (datetime.combine(d, time(), site).astimezone(UTC) for d in (day, day + timedelta(days=1)))
    return start, end
