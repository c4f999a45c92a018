"""Alarms of the split check: stored when a look raises them, settled by a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime

import sqlalchemy as sa

from cro_core.evidence import SplitAlarm
from cro_core.storage import schema

TABLE = schema.split_alarms
NAMES = tuple(field.name for field in fields(SplitAlarm))


def of(connection: sa.Connection, experiment_id: str) -> tuple[SplitAlarm, ...]:
    """Reads the alarms of an experiment, oldest first."""
    query = (
        sa.select(*(TABLE.c[name] for name in NAMES))
        .where(TABLE.c.experiment_id == experiment_id)
        .order_by(TABLE.c.first_at, TABLE.c.dimension, TABLE.c.name)
    )
    return tuple(SplitAlarm(**row) for row in connection.execute(query).mappings())


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
    """Stores those of the alarms that are not stored yet, and returns them."""
    stored = {(a.dimension, a.name, a.first_at) for a in of(connection, experiment_id)}
    new = tuple(a for a in alarms if (a.dimension, a.name, a.first_at) not in stored)
    if new:
        rows = [{**asdict(alarm), "experiment_id": experiment_id} for alarm in new]
        connection.execute(sa.insert(TABLE), rows)
    return new


def settle(connection: sa.Connection, experiment_id: str, alarm: SplitAlarm) -> None:
    """Stores how a person settled an alarm."""
    same = (
        (TABLE.c.experiment_id == experiment_id)
        & (TABLE.c.dimension == alarm.dimension)
        & (TABLE.c.name == alarm.name)
        & (TABLE.c.first_at == alarm.first_at)
    )
    values = {
        name: getattr(alarm, name) for name in ("settled_at", "settled_by", "how", "reason", "settled_log_e")
    }
    connection.execute(sa.update(TABLE).where(same).values(**values))
