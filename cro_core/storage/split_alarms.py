"""Alarms of the split check: stored when a look raises them, settled by a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from datetime import datetime

import sqlalchemy as sa

from cro_core.evidence import SplitAlarm
from cro_core.storage import schema

TABLE = schema.split_alarms
NAMES = tuple(field.name for field in fields(SplitAlarm))
SETTLEMENT = ("settled_at", "settled_by", "how", "reason", "settled_log_e")
"""Columns that say how a person settled an alarm; all are null while it stands."""


def of(connection: sa.Connection, experiment_id: str) -> tuple[SplitAlarm, ...]:
    """Reads the alarms of an experiment, oldest first."""
    return of_all(connection, [experiment_id]).get(experiment_id, ())


def of_all(connection: sa.Connection, experiment_ids: Iterable[str]) -> dict[str, tuple[SplitAlarm, ...]]:
    """Reads the alarms of several experiments, oldest first; those without any are left out."""
    query = (
        sa.select(TABLE.c.experiment_id, *(TABLE.c[name] for name in NAMES))
        .where(TABLE.c.experiment_id.in_(list(experiment_ids)))
        .order_by(TABLE.c.first_at, TABLE.c.dimension, TABLE.c.name)
    )
    alarms: dict[str, tuple[SplitAlarm, ...]] = {}
    for experiment_id, *values in connection.execute(query):
        alarm = SplitAlarm(**dict(zip(NAMES, values, strict=True)))
        alarms[experiment_id] = (*alarms.get(experiment_id, ()), alarm)
    return alarms


def cut_out(connection: sa.Connection, experiment_id: str, as_of: datetime) -> tuple[tuple[str, str], ...]:
    """Reads the slices that a person had cut out of every variant by then, each a dimension and a name."""
    return tuple(
        (alarm.dimension, alarm.name)
        for alarm in of(connection, experiment_id)
        if alarm.how == "cut_out" and alarm.settled_at is not None and alarm.settled_at <= as_of
    )


def add(
    connection: sa.Connection, experiment_id: str, alarms: Sequence[SplitAlarm]
) -> tuple[SplitAlarm, ...]:
    """Stores the alarms that are not stored yet, and returns them; of the others, what has grown."""
    stored = {_key(alarm): alarm for alarm in of(connection, experiment_id)}
    new = tuple(alarm for alarm in alarms if _key(alarm) not in stored)
    if new:
        rows = [{**asdict(alarm), "experiment_id": experiment_id} for alarm in new]
        connection.execute(sa.insert(TABLE), rows)
    for alarm in alarms:
        if _key(alarm) in stored and alarm.largest > stored[_key(alarm)].largest:
            _update(connection, experiment_id, alarm, ("largest_log_e",))
    return new


def settle(connection: sa.Connection, experiment_id: str, alarm: SplitAlarm) -> None:
    """Stores how a person settled an alarm, or that it stands again."""
    _update(connection, experiment_id, alarm, SETTLEMENT)


def remove(connection: sa.Connection, experiment_id: str, alarm: SplitAlarm) -> None:
    """Removes what was stored of a slice that had not alarmed."""
    connection.execute(sa.delete(TABLE).where(_is(experiment_id, alarm)))


def _update(connection: sa.Connection, experiment_id: str, alarm: SplitAlarm, columns: Sequence[str]) -> None:
    values = {name: getattr(alarm, name) for name in columns}
    connection.execute(sa.update(TABLE).where(_is(experiment_id, alarm)).values(**values))


def _key(alarm: SplitAlarm) -> tuple[str, str, datetime]:
    return alarm.dimension, alarm.name, alarm.first_at


def _is(experiment_id: str, alarm: SplitAlarm) -> sa.ColumnElement[bool]:
    return (
        (TABLE.c.experiment_id == experiment_id)
        & (TABLE.c.dimension == alarm.dimension)
        & (TABLE.c.name == alarm.name)
        & (TABLE.c.first_at == alarm.first_at)
    )
