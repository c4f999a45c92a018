"""Sealing: closed days move from the database into the lake, and what is too old goes.

When that is worth it, and how long events stay, is settled here; :mod:`cro_core.storage.sealing` does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from cro_core.clock import EPOCH
from cro_core.config import Storage
from cro_core.domain import to_json
from cro_core.home import Home
from cro_core.storage import journal, seals
from cro_core.storage.sealing import Sealer
from cro_core.workflows.transaction import AUTOPILOT, begin

SEAL = "lake.seal"
SUBJECT = "lake"


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
        """What was done, as JSON."""
        data: dict[str, Any] = to_json(self)
        return data

    @property
    def changes(self) -> tuple[str, ...]:
        """What was changed, in words."""
        done = []
        if self.events:
            done.append(f"sealed {self.events:,} events of {self.days} day(s)")
        if self.joined:
            done.append(f"joined the files of {self.joined} day(s)")
        if self.erased:
            done.append(f"erased {self.erased:,} events older than the retention")
        return tuple(done)

    @property
    def text(self) -> str:
        """What was done, or why nothing was."""
        if self.changes or self.skipped:
            return self.skipped or "; ".join(self.changes)
        return f"Nothing to seal: {self.waiting:,} events of closed days wait in the database."


def seal(home: Home, *, now: datetime, force: bool = False, actor: str = AUTOPILOT) -> Sealed:
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
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    with only_sealer(home, now) as sealer:
        if not force and _last_sealed(home) >= midnight:
            return Sealed(now, skipped="sealed today already: `cro seal --force` seals at once")
        sealed = _seal(sealer, home.config.storage, midnight, force=force)
        if sealed.changes:
            sealer.finish()
            with begin(home, now=now, actor=actor) as transaction:
                transaction.log(SEAL, SUBJECT, after={"version": sealer.version, **sealed.as_dict()})
        return sealed


def _seal(sealer: Sealer, settings: Storage, midnight: datetime, *, force: bool) -> Sealed:
    erased = 0
    if settings.retention_days is not None:
        erased = sealer.erase_before(midnight - timedelta(days=settings.retention_days))
    days = sealer.closed_days(midnight - timedelta(days=settings.hot_days))
    waiting = sum(days.values())
    if waiting and (force or waiting >= settings.seal_at_events):
        return Sealed(sealer.now, sealer.move_days(days), len(days), sealer.join(), erased)
    return Sealed(sealer.now, erased=erased, waiting=waiting)


def _last_sealed(home: Home) -> datetime:
    """When a sealing last changed something."""
    with home.db.read() as connection:
        entries = journal.trail(connection, subject=SUBJECT, limit=1)
    return entries[0]["at"] if entries else EPOCH


@contextmanager
def only_sealer(home: Home, now: datetime) -> Iterator[Sealer]:
    """The right to change the lake, which is brought to the version that counts.

    Raises:
        Busy: another process has it.
    """
    with home.lock("seal"), seals.alone(home.db):
        sealer = Sealer(home.lake, home.db, now)
        sealer.recover()
        yield sealer


@contextmanager
def leaving_out(home: Home, experiment_id: str, *, now: datetime) -> Iterator[sa.Connection]:
    """A transaction with which the sealed events of an experiment go, for whoever removes the others in it.

    Raises:
        Busy: another process seals or erases.
    """
    with only_sealer(home, now) as sealer:
        column, values = "experiment_id", [experiment_id]
        held = sealer.holding(column, values)
        with sealer.rewriting({one.day for one in held}, "replace", column, values) as connection:
            yield connection
