"""Which version of the lake counts: noted in the database, in the transaction that removes what it holds there.

Beside it, filters of the sealed ids: so that an event that was sealed long ago is known again without a look into
the lake.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cro_core.clock import to_micros
from cro_core.errors import Busy, StoreError
from cro_core.storage import id_filters, schema
from cro_core.storage.database import SEAL_LOCK, Database, hold_sealed_days, lake_of
from cro_core.storage.lake import DAY_MICROS, Lake, raw_columns

SEALER_LOCK = SEAL_LOCK + 1
"""Number of the PostgreSQL advisory lock that the one process holds which seals."""


ADDED = "seal"
"""The reason of a version that holds all of the one before, and more."""


@dataclass(frozen=True, slots=True)
class Seal:
    """A version of the lake that counts."""

    number: int
    version: int
    events: int
    """How many events it holds."""


NEWEST = (  # built once: each group of posts asks
    sa.select(schema.lake_versions.c.number, schema.lake_versions.c.version, schema.lake_versions.c.events)
    .order_by(schema.lake_versions.c.number.desc())
    .limit(1)
)


def newest(connection: sa.Connection) -> Seal | None:
    """What the lake holds for this connection's snapshot; ``None`` before anything was sealed."""
    row = connection.execute(NEWEST).one_or_none()
    return None if row is None else Seal(*row)


def current(connection: sa.Connection) -> int | None:
    """The version of the lake that belongs to this connection's snapshot; ``None`` before anything was sealed."""
    seal = newest(connection)
    return None if seal is None else seal.version


def rewritten(connection: sa.Connection, seal: Seal) -> int:
    """Number of the newest seal, up to this one, that did more than add events; 0 where none did."""
    table = schema.lake_versions.c
    query = sa.select(sa.func.max(table.number)).where(table.reason != ADDED, table.number <= seal.number)
    return connection.scalar(query) or 0


def already_sealed(connection: sa.Connection, ids: Collection[str]) -> set[str]:
    """Finds those of the event ids that are in the lake.

    Raises:
        StoreError: there are sealed days, and they cannot be read.
    """
    seal = newest(connection)
    if seal is None:
        return set()
    lake = _lake(connection)
    suspects = id_filters.maybe([f.bits for f in _filters(connection, lake, seal.number)], ids)
    return lake.present(seal.version, suspects) if suspects else set()


def _lake(connection: sa.Connection) -> Lake:
    lake = lake_of(connection)
    if lake is None:
        raise StoreError(
            "this store has sealed days and was opened without its lake: open it through its home"
        )
    return lake


def _filters(connection: sa.Connection, lake: Lake, number: int) -> Sequence[id_filters.Filter]:
    """The filters at a snapshot, read again only where they have grown."""
    known_number, known = lake.filters
    if known_number == number:
        return known
    filters = stored_filters(connection, known)
    lake.filters = number, filters
    return filters


def stored_filters(
    connection: sa.Connection, known: Sequence[id_filters.Filter] = ()
) -> list[id_filters.Filter]:
    """The filters as stored, oldest first; the bits of those that are known already are not read again."""
    table = schema.id_filters.c
    same = {(f.number, f.ids): f for f in known}
    query = sa.select(table.number, table.ids).order_by(table.number)
    return [
        same.get((number, ids)) or id_filters.Filter(number, ids, _bits(connection, number))
        for number, ids in connection.execute(query).all()
    ]


def _bits(connection: sa.Connection, number: int) -> bytes:
    table = schema.id_filters.c
    return bytes(connection.execute(sa.select(table.bits).where(table.number == number)).scalar_one())


def remember(database: Database, ids: Collection[str]) -> None:
    """Adds ids to the stored filters, durably; for the one process that seals.

    Called before they leave the database: a filter that knows too much only costs a look into the lake.
    """
    with database.read() as connection:
        changed = _grown(stored_filters(connection), ids)
    table = schema.id_filters
    for one in changed:  # one by one, for a large filter takes a while to write
        with database.write() as connection:
            connection.execute(sa.delete(table).where(table.c.number == one.number))
            connection.execute(sa.insert(table).values(number=one.number, ids=one.ids, bits=one.bits))


def _grown(filters: Sequence[id_filters.Filter], ids: Collection[str]) -> list[id_filters.Filter]:
    """Finds the filters that change, or are added, so that they hold more ids."""
    missing = sorted(set(ids).difference(id_filters.maybe([f.bits for f in filters], ids)))
    last = filters[-1] if filters else id_filters.Filter(0, 0, id_filters.empty(0))
    changed: list[id_filters.Filter] = []
    while missing:
        room = id_filters.capacity(last.number) - last.ids
        if room:
            part, missing = missing[:room], missing[room:]
            last = id_filters.Filter(last.number, last.ids + len(part), id_filters.with_ids(last.bits, part))
            changed.append(last)
        else:
            last = id_filters.Filter(last.number + 1, 0, id_filters.empty(last.number + 1))
    return changed


def note(
    connection: sa.Connection, before: Seal | None, version: int, *, at: datetime, reason: str, events: int
) -> Seal:
    """Makes a version of the lake the one that counts, in the caller's transaction.

    Args:
        connection: inside the transaction that removes from the database what the version has gained.
        before: the newest seal when the work began.
        version: of the lake.
        at: the moment.
        reason: a word for it.
        events: how many the version holds.

    Raises:
        Busy: another process has noted a version since.
    """
    hold_sealed_days(connection, exclusive=True)
    if newest(connection) != before:
        raise Busy("another process seals the same store: nothing was noted, try again when it has ended")
    seal = Seal(1 if before is None else before.number + 1, version, events)
    values = {"number": seal.number, "version": version, "at": at, "reason": reason, "events": events}
    connection.execute(sa.insert(schema.lake_versions).values(values))
    return seal


@contextmanager
def alone(database: Database) -> Iterator[None]:
    """Keeps other machines from sealing the same PostgreSQL store; SQLite has one machine anyway.

    Raises:
        Busy: another process holds it.
    """
    if database.engine.dialect.name != "postgresql":
        yield
        return
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(SEALER_LOCK))):
            raise Busy("seal is running on another machine: nothing was done, try again when it has ended")
        try:
            yield
        finally:
            connection.execute(sa.select(sa.func.pg_advisory_unlock(SEALER_LOCK)))


def stored_days(connection: sa.Connection, before: datetime) -> dict[int, int]:
    """Days before a moment (as days since 1970 UTC) -> events in the database."""
    at = sa.type_coerce(schema.events.c.occurred_at, sa.BigInteger)
    day = (at // sa.literal_column(str(DAY_MICROS))).label("day")
    query = sa.select(day, sa.func.count()).where(at < to_micros(before)).group_by(day).order_by(day)
    return {int(number): int(count) for number, count in connection.execute(query)}


def take(connection: sa.Connection, first: int, last: int, most: int) -> list[sa.Row[Any]]:
    """Reads events of some days (since 1970 UTC), at most so many, as :func:`cro_core.storage.lake.arrow_table` takes them."""
    at = sa.type_coerce(schema.events.c.occurred_at, sa.BigInteger)
    days = sa.and_(at >= first * DAY_MICROS, at < (last + 1) * DAY_MICROS)
    return list(connection.execute(sa.select(*raw_columns()).where(days).limit(most)))


def remove(connection: sa.Connection, ids: Sequence[str]) -> int:
    """Deletes events from the database; returns how many were there."""
    if connection.dialect.name == "sqlite":
        sql = "DELETE FROM events WHERE id IN (SELECT value FROM json_each(?))"
        return connection.exec_driver_sql(sql, (json.dumps(ids),)).rowcount
    return connection.exec_driver_sql("DELETE FROM events WHERE id = ANY(%s)", (list(ids),)).rowcount
