"""Deleting from the database what is stored of a person, and what is too old."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa

from cro_core.clock import to_micros
from cro_core.ingest.cleaning import MAX_PAYLOAD
from cro_core.storage import schema
from cro_core.storage.database import add_counts
from cro_core.storage.seals import remove

UNFINISHED = "erasure.unfinished"
"""Key in the home table: rows were deleted, and their bytes may still be in the files."""

HASH = re.compile(r"[0-9a-f]{32}")
CUT_HASH = re.compile(r"[0-9a-f]{8,31}$")
"""The beginning of a hash at the end of a payload that was cut off."""

Erased = Counter[str]
"""Experiment (``''`` is none) -> events."""


def mark(connection: sa.Connection) -> None:
    """Notes, in the transaction that deletes, that the files are still to be cleaned."""
    unmark(connection)
    connection.execute(sa.insert(schema.home).values(key=UNFINISHED, value="1"))


def unmark(connection: sa.Connection) -> None:
    """Notes that the files are clean."""
    connection.execute(sa.delete(schema.home).where(schema.home.c.key == UNFINISHED))


def unfinished(connection: sa.Connection) -> bool:
    """Whether an erasure was stopped before the files were clean."""
    query = sa.select(schema.home.c.value).where(schema.home.c.key == UNFINISHED)
    return connection.scalar(query) is not None


def sessions(connection: sa.Connection, units: Collection[str]) -> set[str]:
    """The sessions of visitors, as far as their events are in the database."""
    table = schema.events.c
    query = sa.select(table.session).where(table.unit.in_(units), table.session.is_not(None)).distinct()
    return set(connection.scalars(query))


def delete_visitors(connection: sa.Connection, units: Collection[str]) -> tuple[Erased, int]:
    """Deletes the events and the exposures of visitors; returns the events, and how many exposures there were."""
    table = schema.events
    theirs = table.c.unit.in_(units)
    query = sa.select(table.c.experiment_id, sa.func.count()).where(theirs).group_by(table.c.experiment_id)
    events = Erased({experiment or "": int(count) for experiment, count in connection.execute(query)})
    connection.execute(sa.delete(table).where(theirs))
    exposures = schema.exposures
    return events, connection.execute(sa.delete(exposures).where(exposures.c.unit.in_(units))).rowcount


def suspects(connection: sa.Connection, hashes: Collection[str], after: int = 0) -> tuple[list[int], int]:
    """Quarantined items in which a visitor or a session is named.

    Args:
        connection: the store.
        hashes: of visitors and sessions, as they are stored.
        after: only items of a higher number.

    Returns:
        Their numbers, and the highest number looked at.
    """
    table = schema.quarantine.c
    wanted, numbers, last = frozenset(hashes), list[int](), after
    query = sa.select(table.id, table.payload).where(table.id > after).order_by(table.id)
    with connection.execute(query.execution_options(yield_per=5000)) as rows:
        for last, payload in rows:
            cut = CUT_HASH.search(payload) if len(payload) >= MAX_PAYLOAD else None
            if not wanted.isdisjoint(HASH.findall(payload)) or (
                cut and any(name.startswith(cut[0]) for name in wanted)
            ):
                numbers.append(last)
    return numbers, last


def delete_quarantined(connection: sa.Connection, numbers: Sequence[int]) -> None:
    """Deletes quarantined items."""
    table = schema.quarantine
    for start in range(0, len(numbers), 10_000):  # a statement takes only so many values
        chosen = numbers[start : start + 10_000]
        connection.execute(sa.delete(table).where(table.c.id.in_(chosen)))


def delete_old_quarantine(connection: sa.Connection, before: datetime, most: int) -> int:
    """Deletes items quarantined before a moment, at most so many; returns how many."""
    table = schema.quarantine
    oldest = sa.select(table.c.id).where(table.c.received_at < before).order_by(table.c.id).limit(most)
    return connection.execute(sa.delete(table).where(table.c.id.in_(oldest))).rowcount


def delete_old_exposures(connection: sa.Connection, ended_before: datetime, most: int) -> int:
    """Deletes exposures of experiments that ended before a moment, at most so many; returns how many."""
    table, done = schema.exposures, schema.experiments.c
    for experiment in connection.scalars(sa.select(done.id).where(done.ended_at < ended_before)).all():
        its = table.c.experiment_id == experiment
        units = sa.select(table.c.unit).where(its).limit(most)
        count = connection.execute(sa.delete(table).where(its, table.c.unit.in_(units))).rowcount
        if count:
            return count
    return 0


def delete_old_events(connection: sa.Connection, before: datetime, most: int) -> Erased:
    """Deletes events that happened before a moment, at most so many; returns which."""
    table = schema.events.c
    at = sa.type_coerce(table.occurred_at, sa.BigInteger)
    query = sa.select(table.id, table.experiment_id).where(at < to_micros(before)).limit(most)
    rows = connection.execute(query).all()
    remove(connection, [name for name, _ in rows])
    return Erased(experiment or "" for _, experiment in rows)


def add_to_receipts(connection: sa.Connection, erased: Mapping[str, int]) -> None:
    """Adds erased events to the receipts, so that what was accepted still adds up."""
    add_counts(connection, {(experiment, "erased"): n for experiment, n in erased.items() if n})
