"""Counts the visitors who met the site's experiments, when they came and what they did: what a plan is made of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from cro_core.analytics import definitions, event_scan, reader
from cro_core.clock import from_micros, to_micros
from cro_core.domain import EXPOSURE, Experiment
from cro_core.storage import schema

Period = tuple[datetime, datetime]


def visitors(
    connection: sa.Connection, experiment_ids: Sequence[str], days: Sequence[Period]
) -> tuple[int, list[tuple[datetime, int]]]:
    """Counts visitors who met any of the experiments within the days.

    Args:
        connection: the store.
        experiment_ids: whose exposures are read.
        days: disjoint periods in order of time, each from its start to before its end.

    Returns:
        How many different visitors came over all the days; and when they came, each once a day: start of the
        quarter of an hour, and count. Known robots and the site's own people are left out.
    """
    if not days or not experiment_ids:
        return 0, []
    events = schema.events.c
    exposures = sa.and_(events.experiment_id.in_(experiment_ids), events.type == EXPOSURE)
    with event_scan.opened(connection) as session:
        event_scan.view(
            session, "events", connection, COLUMNS, exposures, since=days[0][0], before=days[-1][1]
        )
        starts, ends = ([to_micros(moment) for moment in bounds] for bounds in zip(*days, strict=True))
        event_scan.give(session, "days", day=range(len(days)), starts_at=starts, ends_at=ends)
        event_scan.run(
            session, f"CREATE TEMP TABLE seen AS {definitions.SEEN}", {"experiments": list(experiment_ids)}
        )
        visitor_count = event_scan.run(session, "SELECT COUNT(DISTINCT unit) FROM seen").fetchall()[0][0]
        quarter = definitions.QUARTER // timedelta(microseconds=1)
        rows = event_scan.run(session, definitions.ARRIVALS, {"quarter": quarter}).fetchall()
    return int(visitor_count), [(from_micros(bucket * quarter), number) for bucket, number in rows]


COLUMNS = ("unit", "experiment_id", "type", "occurred_at", "bot", "internal")
"""Columns of the event table that the definitions of arrivals read."""


def exposed_until(connection: sa.Connection, experiment: Experiment, moment: datetime) -> int:
    """Counts units that had met a started experiment before a moment, mature or not."""
    with reader.reading(connection, experiment, moment) as reading:
        return reading.exposed_units(before=moment)


@dataclass(frozen=True, slots=True)
class GoalHistory:
    """The events of the site's people-visitors within a time."""

    exposures: int = 0
    """Times that a visitor met an experiment."""
    times: int = 0
    """Times that one of the goals was reached."""
    with_amount: int = 0
    """Times that it came with an amount other than 0."""
    amount: float = 0.0
    """These amounts, added up."""
    reached: frozenset[str] = frozenset()
    """Goals that somebody reached."""


def goal_history(
    connection: sa.Connection,
    goals: Sequence[str],
    *,
    since: datetime,
    before: datetime,
    without: Collection[str] = (),
) -> GoalHistory:
    """Adds up what was posted within a time. Known robots and the site's own people are left out.

    Args:
        connection: the store.
        goals: event types that are goals.
        since: the first moment.
        before: the moment after the last.
        without: experiments whose own events are left out, such as imported and made-up ones.
    """
    events, wanted = schema.events.c, (EXPOSURE, *goals)
    with event_scan.opened(connection) as session:
        event_scan.view(
            session, "events", connection, GOAL_COLUMNS, events.type.in_(wanted), since=since, before=before
        )
        event_scan.give(session, "wanted", type=wanted)
        event_scan.give(session, "without", experiment_id=list(without) or [""])
        rows = event_scan.run(session, BY_TYPE).fetchall()
    of_goals = [row for row in rows if row[0] != EXPOSURE]
    return GoalHistory(
        exposures=sum(row[1] for row in rows if row[0] == EXPOSURE),
        times=sum(row[1] for row in of_goals),
        with_amount=sum(row[2] for row in of_goals),
        amount=float(sum(row[3] for row in of_goals)),
        reached=frozenset(row[0] for row in of_goals),
    )


GOAL_COLUMNS = ("type", "experiment_id", "value", "occurred_at", "bot", "internal")
"""Columns of the event table that are read."""

BY_TYPE = f"""
SELECT type, COUNT(*) AS times, COUNT(*) FILTER (WHERE value <> 0) AS with_amount,
       COALESCE(SUM(value ORDER BY value), 0) AS amount
FROM events
WHERE type IN (SELECT type FROM wanted) AND {definitions.HUMAN}
  AND COALESCE(experiment_id, ' ') NOT IN (SELECT experiment_id FROM without)
GROUP BY type
"""  # noqa: S608  words of this package
