"""Offline outcomes in the store: which goals are outcomes, whose they can be, and those that wait in quarantine.

The outcomes themselves are events like all others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from cro_core.storage import schema
from cro_core.storage.database import add_counts

PREFIX = "outcomes:"
"""Begins the keys of the home table that say which goals are outcomes."""


def goals(connection: sa.Connection) -> list[str]:
    """The goals that are outcomes."""
    keys = connection.scalars(
        sa.select(schema.home.c.key).where(schema.home.c.key.startswith(PREFIX, autoescape=True))
    )
    return sorted(key.removeprefix(PREFIX) for key in keys)


def add_goal(connection: sa.Connection, goal: str, first_file: str) -> None:
    """Notes that a goal is an outcome, and which file brought it first."""
    note = json.dumps({"first_file": first_file})
    connection.execute(sa.insert(schema.home).values(key=PREFIX + goal, value=note))


def exposed(connection: sa.Connection, units: Sequence[str]) -> Iterator[str]:
    """Finds those of the units that met any experiment."""
    table = schema.exposures.c
    every = sa.select(schema.experiments.c.id)
    for start in range(0, len(units), 1_000):
        some = units[start : start + 1_000]
        yield from connection.scalars(
            sa.select(table.unit).where(table.experiment_id.in_(every), table.unit.in_(some))
        )


def quarantined(connection: sa.Connection, ids: set[str]) -> dict[str, int]:
    """Which of the outcomes are in quarantine, with the row there."""
    table = schema.quarantine.c
    head = json.dumps({"outcome": "outcome:"}).removesuffix('"}')
    rows = connection.execute(
        sa.select(table.id, table.payload).where(
            table.experiment_id.is_(None), table.payload.startswith(head, autoescape=True)
        )
    )
    waiting = ((json.loads(payload)["outcome"], number) for number, payload in rows)
    return {name: number for name, number in waiting if name in ids}


def release(connection: sa.Connection, rows: Sequence[int]) -> None:
    """Takes out of the quarantine what has become an event."""
    if rows:
        connection.execute(sa.delete(schema.quarantine).where(schema.quarantine.c.id.in_(rows)))
        add_counts(connection, {("", "rejected"): -len(rows)})
