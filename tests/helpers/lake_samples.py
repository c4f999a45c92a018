"""What the tests of sealing and forgetting share: events of several days, and everything that is stored of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from helpers.store_samples import exposure

from cro_core.domain import Event
from cro_core.home import Home
from cro_core.storage import schema, seals
from cro_core.storage.events import record
from cro_core.storage.lake import Lake

DAY = timedelta(days=1)
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
SETTINGS: dict[str, Any] = {"storage": {"hot_days": 1, "seal_at_events": 0}}


def visit(number: int, at: datetime, unit: str = "", **fields: Any) -> Event:
    """The event of that number, an exposure."""
    return exposure(unit or f"unit{number % 37}", "ab"[number % 2], at, id=f"event-{number:06d}", **fields)


def visits(count: int, days: int = 3, start: int = 0) -> list[Event]:
    """Events spread over days from Monday on."""
    return [visit(start + n, MONDAY + n * days * DAY / count) for n in range(count)]


def store(home: Home, events: Sequence[Event], at: datetime | None = None) -> int:
    """Records events; how many were new."""
    with home.db.write() as connection:
        return record(connection, events, (), at or MONDAY)


def ids(home: Home) -> tuple[Counter[str], Counter[str]]:
    """The ids in the database and those in the lake, from one snapshot."""
    with home.db.read() as connection:
        hot = Counter(connection.scalars(sa.select(schema.events.c.id)))
        version = seals.current(connection)
        return hot, Counter(() if version is None else sealed_ids(home.lake, version))


def sealed_ids(lake: Lake, version: int) -> list[str]:
    """The ids in a version of the lake."""
    files = lake.files(version)
    if not files:
        return []
    with lake.reading() as reader:
        rows = reader.execute("SELECT id FROM read_parquet(?, hive_partitioning = false)", [files])
        return [name for (name,) in rows.fetchall()]


def stored(home: Home) -> Counter[str]:
    """The ids of everything stored, wherever it is."""
    hot, cold = ids(home)
    return hot + cold


class Victims:
    """Processes that work on a home and may die at it; see ``victim.py``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.worker: int | None = None

    def work(self, home: Home, work: str, now: datetime, **job: Any) -> int:
        """Status of a process that sealed or forgot: 0, or -9 if it was killed."""
        given = {"home": str(home.path), "url": home.environ["CRO_DATABASE_URL"], "work": work}
        line = json.dumps(given | {"now": now.isoformat()} | job)
        assert self.process.stdin
        assert self.process.stdout
        print(line, file=self.process.stdin, flush=True)
        self.worker = int(self.process.stdout.readline())
        status = int(self.process.stdout.readline())
        self.worker = None
        return status

    def kill_worker(self) -> None:
        """Kills whatever process works just now."""
        if self.worker is not None:
            with suppress(ProcessLookupError):
                os.kill(self.worker, signal.SIGKILL)


@contextmanager
def victims() -> Iterator[Victims]:
    """The parent of such processes."""
    command = [sys.executable, str(Path(__file__).with_name("victim.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Victims(process)
        assert process.stdin
        process.stdin.close()
