"""What every change needs side by side: the home, a transaction on its store, the moment, and who makes the change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cro_core.home import Home
from cro_core.storage import journal

AUTOPILOT = "autopilot"
"""The actor of what is done without a person."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction on a home's store: what is changed in it becomes durable together, or not at all."""

    home: Home
    connection: sa.Connection
    now: datetime
    """The moment that the change is dated at."""
    actor: str
    """Who is named in the audit trail."""

    def log(self, action: str, subject: str, *, before: Any = None, after: Any = None) -> int:
        """Adds a change to the audit trail; returns its number there."""
        return journal.log(
            self.connection,
            at=self.now,
            actor=self.actor,
            action=action,
            subject=subject,
            before=before,
            after=after,
        )


@contextmanager
def begin(home: Home, *, now: datetime, actor: str) -> Iterator[Transaction]:
    """A transaction that is committed when the block ends, and undone if it raises."""
    with home.db.write() as connection:
        yield Transaction(home, connection, now, actor)
