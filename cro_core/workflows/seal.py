"""Sealing: closed days move from the database into the lake, and what is too old goes.

Every step may be stopped by ``kill -9``. The lake is written first; one transaction then notes its version and
deletes the rows that it holds. What the lake has gained without a note does not count, and is undone by the next
sealing. So every reader sees each event once, at any time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import sqlalchemy as sa

from cro_core.analytics import unit_cache
from cro_core.clock import EPOCH
from cro_core.domain import to_json
from cro_core.errors import StoreError
from cro_core.home import Home
from cro_core.storage import erasure, journal, seals
from cro_core.storage.erasure import Erased
from cro_core.storage.lake import Held, arrow_table

SEAL = "lake.seal"
SUBJECT = "lake"

PIECE = 100_000
"""Rows that are in memory at a time."""

PATIENCE = 0.4
"""Seconds for which a transaction may keep the service waiting: it takes as many rows as that allows."""

FEWEST, MOST = 1_000, 100_000
"""Rows of such a transaction."""

MOST_FILES = 8
"""A day with more small files is worth joining them."""

DAYS_TOGETHER = 7
"""So many such days are joined at once: what looks have kept of the lake (:mod:`kept`) has to be made anew then."""

READERS_HOURS = 24
"""How long replaced files stay for those who read an older version."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """What one sealing did."""

    at: datetime
    events: int = 0
    """Moved into the lake."""
    days: int = 0
    """Days that these are of."""
    joined: int = 0
    """Days whose small files were joined."""
    erased: int = 0
    """Events older than the retention."""
    waiting: int = 0
    """Closed events that stay in the database: fewer than are worth it."""
    skipped: str | None = None
    """Why nothing was looked at, where that is so."""

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        data: dict[str, Any] = to_json(self)
        return data

    @property
    def changes(self) -> tuple[str, ...]:
        """What was changed, in words."""
        found = []
        if self.events:
            found.append(f"sealed {self.events:,} events of {self.days} day(s)")
        if self.joined:
            found.append(f"joined the files of {self.joined} day(s)")
        if self.erased:
            found.append(f"erased {self.erased:,} events older than the retention")
        return tuple(found)

    @property
    def text(self) -> str:
        """What was done, or why nothing was."""
        if self.changes or self.skipped:
            return self.skipped or "; ".join(self.changes)
        return f"Nothing to seal: {self.waiting:,} events of closed days wait in the database."


def seal(home: Home, *, now: datetime, force: bool = False, actor: str = "autopilot") -> Sealed:
    """Seals the closed days, if enough of their events wait, and erases what is too old; at most once a UTC day.

    Args:
        home: the site.
        now: the moment; days that ended ``storage.hot_days`` before its UTC day are closed.
        force: seal at once, and however few wait.
        actor: who is named in the audit trail.

    Raises:
        Busy: another process seals or erases.
        StoreError: the lake cannot be read or written; nothing is lost.
    """
    with sealing(home, now) as work:
        return work.run(force=force, actor=actor)


@contextmanager
def sealing(home: Home, now: datetime) -> Iterator[Sealer]:
    """The right to change the lake, which is brought to the version that counts.

    Raises:
        Busy: another process has it.
    """
    with home.lock("seal"), seals.alone(home.db):
        work = Sealer(home, now)
        work.recover()
        yield work


@contextmanager
def leaving_out(home: Home, experiment_id: str, *, now: datetime) -> Iterator[sa.Connection]:
    """A transaction with which the sealed events of an experiment go, for whoever removes the others in it.

    Raises:
        Busy: another process seals or erases.
    """
    with sealing(home, now) as work:
        column, values = "experiment_id", [experiment_id]
        held = [] if work.version is None else home.lake.holding(work.version, column, values)
        with work.rewriting({one.day for one in held}, "replace", column, values) as connection:
            yield connection


class Sealer:
    """The work of the one process that may change the lake."""

    def __init__(self, home: Home, now: datetime) -> None:
        self.home, self.now = home, now
        with home.db.read() as connection:
            self.noted = seals.newest(connection)

    @property
    def version(self) -> int | None:
        """The version of the lake that counts."""
        return None if self.noted is None else self.noted.version

    def recover(self) -> None:
        """Undoes or ends what a stopped process has left."""
        self.home.lake.undo(self.version)
        with self.home.db.read() as connection:
            unfinished = erasure.unfinished(connection)
        if unfinished:
            self.clean()

    def clean(self) -> None:
        """Takes deleted rows out of every file, older versions of the lake included."""
        self.home.lake.vacuum(0)
        self._drop_kept()  # after the files that it could be made of again
        self.home.db.scrub()
        with self.home.db.write() as connection:
            erasure.unmark(connection)

    @contextmanager
    def noting(self, version: int, reason: str, events: int) -> Iterator[sa.Connection]:
        """A transaction that makes a version of the lake, with so many events, the one that counts."""
        with self.home.db.write() as connection:
            noted = seals.note(connection, self.noted, version, at=self.now, reason=reason, events=events)
            yield connection
        self.noted = noted
        if reason != seals.ADDED:
            self._drop_kept()

    def _drop_kept(self) -> None:
        """What was kept of the lake before it was last rewritten may tell of somebody who is forgotten."""
        folder = self.home.lake.keep_in
        if folder is None or self.noted is None:
            return
        with self.home.db.read() as connection:
            generation = seals.rewritten(connection, self.noted)
        try:
            unit_cache.drop(folder, before=generation)
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
            version = self.home.lake.rewrite(day, column, without)
        if version is None:
            with self.home.db.write() as connection:
                yield connection
        else:
            with self.noting(version, reason, self.home.lake.count(version)) as connection:
                yield connection

    def run(self, *, force: bool, actor: str) -> Sealed:
        """See :func:`seal`."""
        midnight = self.now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if not force and self._last() >= midnight:
            return Sealed(self.now, skipped="sealed today already: `cro seal --force` seals at once")
        settings = self.home.config.storage
        erased = 0
        if settings.retention_days is not None:
            erased = self._erase_before(midnight - timedelta(days=settings.retention_days))
        with self.home.db.read() as connection:
            days = seals.stored_days(connection, midnight - timedelta(days=settings.hot_days))
        waiting = sum(days.values())
        if waiting and (force or waiting >= settings.seal_at_events):
            moved = sum(self._move_days(first, last) for first, last in _spans(days))
            result = Sealed(self.now, moved, len(days), self._join(), erased)
        else:
            result = Sealed(self.now, erased=erased, waiting=waiting)
        if result.changes:
            self._finish(result, actor)
        return result

    def _last(self) -> datetime:
        """When a sealing last changed something."""
        with self.home.db.read() as connection:
            entries = journal.trail(connection, subject=SUBJECT, limit=1)
        return entries[0]["at"] if entries else EPOCH

    def _finish(self, result: Sealed, actor: str) -> None:
        self.home.lake.vacuum(READERS_HOURS)
        self.home.db.tidy()
        with self.home.db.write() as connection:
            journal.log(
                connection,
                at=self.now,
                actor=actor,
                action=SEAL,
                subject=SUBJECT,
                after={"version": self.version, **result.as_dict()},
            )

    def _move_days(self, first: int, last: int) -> int:
        """Moves the events of some days, piece by piece; returns how many."""
        moved, pace = 0, _Pace()
        while True:
            with self.home.db.read() as connection:
                rows = seals.take(connection, first, last, PIECE)
            seals.remember(self.home.db, [row.id for row in rows])
            place = 0
            while place < len(rows):
                part = rows[place : place + pace.rows]
                place += len(part)
                self._move(part, pace)
            moved += len(rows)
            if len(rows) < PIECE:
                return moved

    def _move(self, rows: Sequence[sa.Row[Any]], pace: _Pace) -> None:
        version = self.home.lake.append(arrow_table(rows))
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

    def _join(self) -> int:
        """Joins the files of days that have many small ones, when it is time; returns of how many days."""
        days = self.home.lake.scattered(MOST_FILES)
        if len(days) < DAYS_TOGETHER and not self.home.lake.scattered(DAYS_TOGETHER * MOST_FILES):
            return 0
        for day in days:
            with self.rewriting([day], "join"):
                pass
        return len(days)

    def _erase_before(self, moment: datetime) -> int:
        """Erases what happened earlier, and what belongs to experiments that ended earlier; returns the events."""
        erased = self._drop_days(f"{moment:%Y-%m-%d}")
        pace = _Pace()
        while True:
            with self.home.db.write() as connection:
                begun = monotonic()
                events = erasure.old_events(connection, moment, pace.rows)
                erasure.count(connection, events)
                others = erasure.old_exposures(connection, moment, pace.rows)
                others += erasure.old_quarantine(connection, moment, pace.rows)
            pace.heed(monotonic() - begun)
            erased += events.total()
            if not events and not others:
                return erased

    def _drop_days(self, before: str) -> int:
        if self.noted is None:
            return 0
        events = events_of(self.home.lake.before(self.noted.version, before))
        if events:
            version = self.home.lake.drop(before)
            with self.noting(version, "retention", self.noted.events - events.total()) as connection:
                erasure.count(connection, events)
        return events.total()


class _Pace:
    """How many rows a transaction may change, so that nobody waits for it noticeably."""

    def __init__(self) -> None:
        self.rows = 10 * FEWEST

    def heed(self, seconds: float) -> None:
        """Learns from what the last transaction took, from its first change until it was durable."""
        factor = min(2.0, PATIENCE / max(seconds, 0.001))
        self.rows = int(min(MOST, max(FEWEST, self.rows * factor)))


def events_of(held: Iterable[Held]) -> Erased:
    """Experiment (``''`` is none) -> events."""
    found = Erased()
    for one in held:
        found[one.experiment_id or ""] += one.events
    return found


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
