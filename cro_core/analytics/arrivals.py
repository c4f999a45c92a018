"""Counts the visitors who met the site's experiments, and when they came: what a plan is made of."""

from __future__ import annotations

from collections.abc import Sequence
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
