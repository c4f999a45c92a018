"""The work on the lake: moving closed days into it, joining its files, erasing from it, ending what was stopped.

Every step may be stopped by ``kill -9``. The lake is written first; one transaction then notes its version and
deletes the rows that it holds. What the lake has gained without a note does not count, and is undone by the next
sealer. So every reader sees each event once, at any time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from time import monotonic
from typing import Any

import sqlalchemy as sa

from cro_core.errors import StoreError
from cro_core.storage import erasure, generations, seals
from cro_core.storage.database import Database
from cro_core.storage.erasure import Erased
from cro_core.storage.lake import Held, Lake, arrow_table

PIECE = 100_000
"""Rows that are in memory at a time."""

PATIENCE = 0.4
"""Seconds for which a transaction may keep the service waiting: it takes as many rows as that allows."""

FEWEST = 1_000
"""Rows of the smallest such transaction."""

MOST = 100_000
"""Rows of the largest such transaction."""

MOST_FILES = 8
"""A day with more small files is worth joining them."""

DAYS_TOGETHER = 7
"""So many such days are joined at once: what looks have kept of the lake has to be made anew then."""

READERS_HOURS = 24
"""How long replaced files stay for those who read an older version."""


class Sealer:
    """Changes a lake together with its database, for the one process that may.

    Args:
        lake: what is changed.
        database: where the versions of the lake that count are noted.
        now: the moment that they are noted at.
    """

    def __init__(self, lake: Lake, database: Database, now: datetime) -> None:
        self.lake, self.database, self.now = lake, database, now
        with database.read() as connection:
            self.noted = seals.newest(connection)

    @property
    def version(self) -> int | None:
        """The version of the lake that counts."""
        return None if self.noted is None else self.noted.version

    def recover(self) -> None:
        """Undoes or ends what a stopped process has left."""
        self.lake.undo(self.version)
        with self.database.read() as connection:
            unfinished = erasure.unfinished(connection)
        if unfinished:
            self.clean()

    def clean(self) -> None:
        """Takes deleted rows out of every file, older versions of the lake included."""
        self.lake.vacuum(0)
        self._drop_kept()  # after the files that it could be made of again
        self.database.scrub()
        with self.database.write() as connection:
            erasure.unmark(connection)

    @contextmanager
    def noting(self, version: int, reason: str, events: int) -> Iterator[sa.Connection]:
        """A transaction that makes a version of the lake, with so many events, the one that counts."""
        with self.database.write() as connection:
            noted = seals.note(connection, self.noted, version, at=self.now, reason=reason, events=events)
            yield connection
        self.noted = noted
        if reason != seals.ADDED:
            self._drop_kept()

    def _drop_kept(self) -> None:
        """What was kept of the lake before it was last rewritten may tell of somebody who is forgotten."""
        folder = self.lake.keep_in
        if folder is None or self.noted is None:
            return
        with self.database.read() as connection:
            generation = seals.rewritten(connection, self.noted)
        try:
            generations.drop(folder, before=generation)
        except OSError as error:
            raise StoreError(
                f"what is kept of older versions of the lake cannot be deleted ({error}): delete {folder}, then try again"
            ) from None

    @contextmanager
    def rewriting(
        self, days: Iterable[str], reason: str, column: str = "unit", without: Collection[str] = ()
    ) -> Iterator[sa.Connection]:
        """Writes days of the lake anew; the transaction notes that, where there are any."""
        version = None
        for day in sorted(days):
            version = self.lake.rewrite(day, column, without)
        if version is None:
            with self.database.write() as connection:
                yield connection
        else:
            with self.noting(version, reason, self.lake.count(version)) as connection:
                yield connection

    def holding(self, column: str, values: Collection[str]) -> list[Held]:
        """The sealed events of which a column has one of the values, counted; empty before anything was sealed."""
        return [] if self.version is None else self.lake.holding(self.version, column, values)

    def closed_days(self, before: datetime) -> dict[int, int]:
        """The days before a moment (as days since 1970 UTC) of which the database has events, with how many."""
        with self.database.read() as connection:
            return seals.stored_days(connection, before)

    def move_days(self, days: Mapping[int, int]) -> int:
        """Moves the events of :meth:`closed_days` from the database into the lake; returns how many."""
        return sum(self._move_span(first, last) for first, last in _spans(days))

    def _move_span(self, first: int, last: int) -> int:
        """Moves piece by piece."""
        moved, pace = 0, Pace()
        while True:
            with self.database.read() as connection:
                rows = seals.take(connection, first, last, PIECE)
            seals.remember(self.database, [row.id for row in rows])
            place = 0
            while place < len(rows):
                part = rows[place : place + pace.rows]
                place += len(part)
                self.move(part, pace)
            moved += len(rows)
            if len(rows) < PIECE:
                return moved

    def move(self, rows: Sequence[sa.Row[Any]], pace: Pace) -> None:
        """Moves some events in one transaction, and tells the pace how long it took."""
        version = self.lake.append(arrow_table(rows))
        held = 0 if self.noted is None else self.noted.events
        with self.noting(version, seals.ADDED, held + len(rows)) as connection:
            begun = monotonic()
            removed = seals.remove(connection, [row.id for row in rows])
            if removed != len(rows):
                raise StoreError(
                    f"{removed} of {len(rows)} events were still in the database when their days were sealed: "
                    "something else deletes events. Nothing was moved; the next sealing tries again"
                )
        pace.heed(monotonic() - begun)

    def join(self) -> int:
        """Joins the files of days that have many small ones, when it is time; returns of how many days."""
        days = self.lake.scattered(MOST_FILES)
        if len(days) < DAYS_TOGETHER and not self.lake.scattered(DAYS_TOGETHER * MOST_FILES):
            return 0
        for day in days:
            with self.rewriting([day], "join"):
                pass
        return len(days)

    def erase_before(self, moment: datetime) -> int:
        """Erases what happened earlier, and what belongs to experiments that ended earlier; returns the events."""
        erased = self._drop_days(f"{moment:%Y-%m-%d}")
        pace = Pace()
        while True:
            with self.database.write() as connection:
                begun = monotonic()
                events = erasure.delete_old_events(connection, moment, pace.rows)
                erasure.add_to_receipts(connection, events)
                others = erasure.delete_old_exposures(connection, moment, pace.rows)
                others += erasure.delete_old_quarantine(connection, moment, pace.rows)
            pace.heed(monotonic() - begun)
            erased += events.total()
            if not events and not others:
                return erased

    def finish(self) -> None:
        """Lets go of files that nobody reads any more, and of the room of rows that were moved or erased."""
        self.lake.vacuum(READERS_HOURS)
        self.database.tidy()

    def _drop_days(self, before: str) -> int:
        if self.noted is None:
            return 0
        events = events_of(self.lake.before(self.noted.version, before))
        if events:
            version = self.lake.drop(before)
            with self.noting(version, "retention", self.noted.events - events.total()) as connection:
                erasure.add_to_receipts(connection, events)
        return events.total()


class Pace:
    """How many rows a transaction may change, so that nobody waits for it noticeably."""

    def __init__(self) -> None:
        self.rows = 10 * FEWEST

    def heed(self, seconds: float) -> None:
        """Learns from what the last transaction took, from its first change until it was durable."""
        factor = min(2.0, PATIENCE / max(seconds, 0.001))
        self.rows = int(min(MOST, max(FEWEST, self.rows * factor)))


def events_of(held: Iterable[Held]) -> Erased:
    """How many events the lake held of each experiment (``''`` is none)."""
    events = Erased()
    for one in held:
        events[one.experiment_id or ""] += one.events
    return events


def _spans(days: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """First and last day of runs of days that are small enough to be taken together; a large day is alone."""
    first, last, events = None, 0, 0
    for day, count in sorted(days.items()):
        if first is not None and events + count > PIECE:
            yield first, last
            first, events = None, 0
        first, last, events = day if first is None else first, day, events + count
    if first is not None:
        yield first, last
