"""Whether the service can do its work now: each check finds nothing, or says in a sentence what is wrong.

The sentences name no path and no address: anybody may ask.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from cro_core.errors import StoreError
from cro_core.home import Home
from cro_core.storage import schema
from cro_core.storage.database import HEAD

LEAST_FREE_BYTES = 20_000_000
"""Below this a write may fail half-way through a day."""

PATIENCE = 2.0
"""Seconds that the trial transaction waits for another writer."""

FRESH_SECONDS = 5.0
"""A commit as young as this proves that the store can be written. Asking anew would queue behind those that write."""


def problems(home: Home, *, waiting: int, since_commit: float | None) -> dict[str, str]:
    """What is wrong, by check: ``store``, ``schema``, ``disk``, ``queue``; empty where nothing is.

    Args:
        home: whose store is tried.
        waiting: events that wait for the store.
        since_commit: seconds since the last commit of this process; ``None`` before the first.
    """
    checks: dict[str, Callable[[], str | None]] = {
        "store": lambda: _store(home, since_commit),
        "schema": lambda: _schema(home),
        "disk": lambda: _disk(home),
        "queue": lambda: _queue(waiting, home.config.service.max_waiting_events),
    }
    answers = {name: check() for name, check in checks.items()}
    return {name: problem for name, problem in answers.items() if problem}


def _store(home: Home, since_commit: float | None) -> str | None:
    file = _file(home)
    if file is not None and not os.access(file, os.R_OK | os.W_OK):
        return "its file is gone or cannot be written: open connections would write into nothing"
    if since_commit is not None and since_commit < FRESH_SECONDS:
        return None
    try:
        with home.db.write(patience=PATIENCE) as connection:
            connection.execute(sa.delete(schema.home).where(schema.home.c.key == ""))  # there is none
    except (sa.exc.SQLAlchemyError, StoreError):
        return f"no transaction could be written within {PATIENCE:.0f} seconds: see the log of the database"
    return None


def _schema(home: Home) -> str | None:
    try:
        with home.db.read() as connection:
            version = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    except (sa.exc.SQLAlchemyError, StoreError):
        return "its version cannot be read"
    return (
        None if version == HEAD else f"the store has version {version}, this service needs {HEAD}: restart it"
    )


def _disk(home: Home) -> str | None:
    folder = (_file(home) or home.data / "cro").parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return "the folder of the data is gone"
    return None if free >= LEAST_FREE_BYTES else f"{free:,} bytes are left: make room"


def _queue(waiting: int, most: int) -> str | None:
    return None if waiting < most else f"{waiting:,} events wait for the store, at most {most:,} may"


def _file(home: Home) -> Path | None:
    """The file of the store; ``None`` where a server keeps it."""
    url = home.db.engine.url
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None
