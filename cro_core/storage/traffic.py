"""How many visitors met the site's experiments, and when: what a plan is made of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from cro_core.clock import from_micros
from cro_core.domain import EXPOSURE
from cro_core.storage import schema

QUARTER = timedelta(minutes=15) // timedelta(microseconds=1)
"""Length of a bucket in microseconds: every time zone's hours are made of whole ones."""

Period = tuple[datetime, datetime]


def visitors(
    connection: sa.Connection, experiment_ids: Sequence[str], days: Sequence[Period]
) -> tuple[int, list[tuple[datetime, int]]]:
    """Visitors who met any of the experiments within the days.

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
    moment = sa.case(
        *((events.occurred_at < end, number) for number, (_, end) in enumerate(days)), else_=len(days)
    )
    seen = (
        sa.select(
            events.unit,
            moment.label("day"),
            sa.func.min(sa.type_coerce(events.occurred_at, sa.BigInteger)).label("at"),
        )
        .where(
            events.experiment_id.in_(experiment_ids),
            events.type == EXPOSURE,
            sa.not_(events.bot),
            sa.not_(events.internal),
            sa.or_(
                *(
                    sa.and_(events.occurred_at >= start, events.occurred_at < end)
                    for start, end in _joined(days)
                )
            ),
        )
        .group_by(events.unit, sa.text("2"))
        .subquery()
    )
    different = connection.scalar(sa.select(sa.func.count(sa.distinct(seen.c.unit)))) or 0
    bucket = (seen.c.at // sa.literal_column(str(QUARTER))).label("bucket")
    rows = connection.execute(sa.select(bucket, sa.func.count()).group_by(bucket))
    return int(different), sorted((from_micros(int(b) * QUARTER), int(n)) for b, n in rows)


def exposed_until(connection: sa.Connection, experiment_id: str, moment: datetime) -> int:
    """How many units had met the experiment before a moment, mature or not."""
    table = schema.exposures.c
    found = connection.scalar(
        sa.select(sa.func.count()).where(table.experiment_id == experiment_id, table.exposed_at < moment)
    )
    return int(found or 0)


def _joined(days: Sequence[Period]) -> list[Period]:
    """Days that touch, as one period."""
    periods: list[Period] = []
    for start, end in days:
        if periods and periods[-1][1] == start:
            periods[-1] = (periods[-1][0], end)
        else:
            periods.append((start, end))
    return periods
