"""What the sealed events say of each unit, kept from one look to the next.

Some tables of :mod:`cro_core.analytics.definitions` have in common that what they say of a unit depends on that unit's events
only. So they are made of the sealed events once, and written down beside the rows that they were made of. A later
look makes them anew for the units that something has happened to since, and takes the others as they are: it
costs what is new and what the experiment itself holds, however long the history of the site has grown.

What is kept is a copy, never the truth: deleting it costs time and nothing else. It lies under the folder of its
generation, the number of the newest version of the lake that did more than add events. Rewriting the lake, as for
somebody who is to be forgotten, begins a generation, and the folders of those before go.
"""

# ruff: noqa: S608  these texts are put together from words of this package and from paths of our own

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from cro_core.analytics import definitions, event_scan
from cro_core.domain import EXPOSURE
from cro_core.errors import StoreError
from cro_core.storage import duckdb_connection, seals
from cro_core.storage.database import lake_of
from cro_core.storage.generations import drop, is_newest

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from cro_core.storage.lake import Lake

OF_EVENTS = ("met", "achieved", "done")
OF_SHOWN = ("contexts", "profiles")
"""The tables that there are once a source is read."""

SOURCES = ("events", "shown")

ACHIEVED, PROFILES = "achieved", "profiles"
"""The files of a making: the other tables are columns of the profiles."""

COLUMNS: Mapping[str, str] = {
    "met": "unit, event_id, variant, said, exposed_at",
    "done": "unit, variant, said, exposed_at, converted, converted_at, score, value",
    "contexts": f"unit, event_id, {', '.join(definitions.CONTEXT)}, exposure_value",
}
"""The columns of these tables, in their order."""

GOALS = "goals"
"""Folder of the sealed goals, whoever reached them: a unit may turn out to have met the experiment before."""

FILES = "files.json"
"""Which files of the lake it was made of."""

LATEST = 2
"""Makings of one experiment that stay: a look that has begun may still read the one before."""

UNUSED_SECONDS = 8 * 86_400
"""A making so much older than the newest is of an experiment that has ended: its day is sealed with each new one."""

WANTED = {
    definitions.OWN: f"(type = '{EXPOSURE}' OR type IN (SELECT type FROM goals))",
    definitions.OF_SITE: "type IN (SELECT type FROM goals)",
}
"""Those sealed events that the tables read. The files are sorted by experiment: each part is found by itself."""

GOAL: Mapping[str, str] = {
    "id": "NULL",
    "variant": "NULL",
    "epoch": "NULL",
    "bot": "false",
    "internal": "false",
}
"""What of a goal is not kept, because no table depends on it."""

FIRST_EXPOSURE: Mapping[str, str] = {
    "id": "event_id",
    "experiment_id": "$experiment",
    "type": f"'{EXPOSURE}'",
    "epoch": "said",
    "occurred_at": "exposed_at",
    "value": "NULL",
    "bot": "false",
    "internal": "false",
}
"""The event that a unit met the experiment with, from its profile."""


@dataclass(frozen=True, slots=True)
class Making:
    """The tables as they were made of some files of the lake."""

    folder: Path
    files: frozenset[str]

    def table(self, name: str) -> str:
        """One of the tables, as a query."""
        file = ACHIEVED if name == ACHIEVED else PROFILES
        return f"SELECT {COLUMNS.get(name, '*')} FROM {event_scan.parquet([str(self.folder / f'{file}.parquet')])}"

    def events(self, columns: Sequence[str]) -> str:
        """What a table still needs of the events that were read, as a query."""
        goals, profiles = (str(self.folder / name) for name in (f"{GOALS}/*.parquet", f"{PROFILES}.parquet"))
        return (
            f"SELECT {_as(columns, GOAL)} FROM {event_scan.parquet([goals])}"
            f" UNION ALL SELECT {_as(columns, FIRST_EXPOSURE)} FROM {event_scan.parquet([profiles])}"
        )


class Keeper:
    """The kept tables of one experiment, completed by what has happened since; for one reading.

    Args:
        session: where the reading makes its tables.
        connection: the store.
        named: what the definitions are run with.
        goals: the columns of the table ``goals``.
        columns: what is read of each source.
    """

    def __init__(
        self,
        session: duckdb.DuckDBPyConnection,
        connection: sa.Connection,
        named: Mapping[str, Any],
        goals: Mapping[str, Sequence[Any]],
        columns: Mapping[str, Sequence[str]],
    ) -> None:
        self._session, self._connection = session, connection
        self._goals, self._columns = goals, columns
        texts = [*WANTED, *WANTED.values(), *(definitions.TABLES[name] for name in (*OF_EVENTS, *OF_SHOWN))]
        self._named = definitions.arguments(named, *texts)
        self._name = _digest(texts, columns, self._named, goals)
        self._making: Making | None = None

    def make(self, source: str, where: event_scan.Where) -> Sequence[str]:
        """Makes the tables of a source from what is kept and what is in the database.

        Args:
            source: ``events``, or ``shown`` once the tables of the former were made.
            where: which rows of the database are wanted.

        Returns:
            What there is now; nothing where nothing is kept: nothing was sealed, or it cannot be written down here.
        """
        lake = lake_of(self._connection)
        if lake is None or lake.keep_in is None or seals.newest(self._connection) is None:
            return ()
        seal, rows = event_scan.snapshot(self._connection, self._columns[source], where)
        making = None if seal is None else self._current(lake, lake.keep_in, seal)
        if making is None:
            return ()
        if source == "events":
            self._making = making
            return self._make_events(making, rows)
        if making != self._making:  # sealed in between: it may know of earlier exposures than ``met``
            return ()
        event_scan.keep(self._session, "shown", rows)
        self._complete_shown(self._session, making)
        return OF_SHOWN

    def _make_events(self, making: Making, rows: pa.Table) -> Sequence[str]:
        if rows.num_rows:
            event_scan.keep(self._session, "fresh", rows)
            self._complete_events(self._session, making)
            return OF_EVENTS
        for table in (*OF_EVENTS, *OF_SHOWN):
            event_scan.run(self._session, f"CREATE TEMP VIEW {table} AS {making.table(table)}")
        return ("shown", *OF_EVENTS, *OF_SHOWN)

    def _complete_events(self, session: duckdb.DuckDBPyConnection, making: Making | None) -> None:
        """Makes the tables of the events in ``fresh``, and of the kept rows of the same units, and adds the others."""
        text = "SELECT * FROM fresh"
        if making is not None:
            event_scan.run(session, "CREATE TEMP TABLE touched AS SELECT DISTINCT unit FROM fresh")
            theirs = f"SELECT * FROM ({making.events(self._columns['events'])}) WHERE unit IN (SELECT unit FROM touched)"
            self._run(session, f"CREATE TEMP TABLE theirs AS {theirs}")
            text += " UNION ALL SELECT * FROM theirs"
        self._make_fresh(session, "met", {"events": text})
        self._make_fresh(session, "achieved", {"events": text, "met": "SELECT * FROM fresh_met"})
        given = {name: f"SELECT * FROM fresh_{name}" for name in ("met", "achieved")}
        self._make_fresh(session, "done", given)
        for table in OF_EVENTS:
            self._add_others(session, table, making)

    def _complete_shown(self, session: duckdb.DuckDBPyConnection, making: Making | None) -> None:
        """The same of the exposures in ``shown``: a unit's first is one of them, or was kept as its first."""
        self._make_fresh(session, "contexts", {"met": "SELECT * FROM fresh_met"})
        contexts = "SELECT * FROM fresh_contexts"
        if making is not None:
            first = "event_id IN (SELECT event_id FROM fresh_met)"
            contexts += f" UNION ALL {making.table('contexts')} WHERE {first}"
        self._make_fresh(session, "profiles", {"done": "SELECT * FROM fresh_done", "contexts": contexts})
        self._add_others(session, "profiles", making)
        event_scan.run(session, f"CREATE TEMP VIEW contexts AS SELECT {COLUMNS['contexts']} FROM profiles")

    def _make_fresh(self, session: duckdb.DuckDBPyConnection, table: str, given: Mapping[str, str]) -> None:
        """A table of the units that something has happened to, by its definition, from what it is to read instead."""
        parts = ", ".join(f"{name} AS ({text})" for name, text in given.items())
        self._run(session, f"CREATE TEMP TABLE fresh_{table} AS WITH {parts} {definitions.TABLES[table]}")

    def _add_others(self, session: duckdb.DuckDBPyConnection, table: str, making: Making | None) -> None:
        """The whole table: with the units to which nothing has happened."""
        text = f"SELECT * FROM fresh_{table}"
        if making is not None:
            text += f" UNION ALL {making.table(table)} WHERE unit NOT IN (SELECT unit FROM touched)"
        kind = "TABLE" if table == "done" else "VIEW"  # that one is read for nearly every number
        event_scan.run(session, f"CREATE TEMP {kind} {table} AS {text}")

    def _current(self, lake: Lake, folder: Path, seal: seals.Seal) -> Making | None:
        """What is kept of a version of the lake, made now where it is not."""
        generation = folder / str(seals.rewritten(self._connection, seal))
        if not is_newest(generation):
            return None
        files = frozenset(lake.files(seal.version))
        found = _makings(generation, self._name)
        for making in found:
            if making.files == files:
                return making
        last = max((m for m in found if m.files < files), key=lambda m: len(m.files), default=None)
        return self._keep(generation, last, files)

    def _keep(self, generation: Path, before: Making | None, files: frozenset[str]) -> Making | None:
        """Makes the tables of these files, of which ``before`` holds some, and writes them down."""
        place = generation / f".{uuid.uuid4().hex}"
        final = generation / f"{self._name}-{_digest(sorted(files))}"
        try:
            # Made before anything is read: if the generation ends meanwhile, nothing of it can be written any more.
            place.mkdir(parents=True)
            drop(generation.parent, before=int(generation.name))
            self.write(place, before, sorted(files.difference(before.files if before else ())))
            (place / FILES).write_text(json.dumps(sorted(files)), encoding="utf-8")
            place.rename(final)
            _tidy(generation, self._name)
        except (OSError, StoreError):
            # Another process was faster, the generation has ended, or the disk is full.
            shutil.rmtree(place, ignore_errors=True)
        return Making(final, files) if (final / FILES).exists() else None

    def write(self, place: Path, before: Making | None, added: Sequence[str]) -> None:
        """Writes the files of a making: what ``before`` says, completed by files of the lake.

        Args:
            place: an empty folder.
            before: an earlier making; None starts from nothing.
            added: the files of the lake that it lacks.

        Raises:
            OSError: they cannot be written.
            StoreError: the lake cannot be read.
        """
        sealed = event_scan.parquet(added)
        goals = place / GOALS
        goals.mkdir()
        if before is not None:
            for number, part in enumerate(sorted((before.folder / GOALS).iterdir())):
                _link(part, goals / f"{number}.parquet")
        columns = self._columns["events"]
        fresh = " UNION ALL ".join(
            f"SELECT {_as(columns, GOAL if whose == definitions.OF_SITE else {})} FROM {sealed}"
            f" WHERE {whose} AND {definitions.HUMAN} AND {what}"
            for whose, what in WANTED.items()
        )
        with event_scan.opened(self._connection) as session:
            event_scan.give(session, "goals", **self._goals)
            self._run(session, f"CREATE TEMP TABLE fresh AS {fresh}")
            self._complete_events(session, before)
            stay = [name for name in columns if name not in GOAL]
            new = f"SELECT {', '.join(stay)} FROM fresh WHERE type <> '{EXPOSURE}'"
            self._run(session, _copy(new, goals / f"{len(list(goals.iterdir()))}.parquet"))
            self._run(session, _copy(f"SELECT * FROM {ACHIEVED}", place / f"{ACHIEVED}.parquet"))
            self._run(session, "DROP TABLE fresh")  # much, and done with
            shown = f"SELECT {', '.join(self._columns['shown'])} FROM {sealed}"
            self._run(session, f"CREATE TEMP VIEW shown AS {shown}")
            self._complete_shown(session, before)
            self._run(session, _copy(f"SELECT * FROM {PROFILES}", place / f"{PROFILES}.parquet"))

    def _run(self, session: duckdb.DuckDBPyConnection, sql: str) -> None:
        event_scan.run(session, sql, definitions.arguments(self._named, sql))


def _link(file: Path, to: Path) -> None:
    """The same file in another folder, where the file system can; a copy where not."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)


def _as(columns: Sequence[str], instead: Mapping[str, str]) -> str:
    """Columns as a query selects them, some made of others."""
    return ", ".join(f"{instead.get(name, name)} AS {name}" for name in columns)


def _copy(rows: str, file: Path) -> str:
    return f"COPY ({rows}) TO {duckdb_connection.quoted(str(file))} (FORMAT parquet, COMPRESSION zstd)"


def _makings(generation: Path, name: str) -> list[Making]:
    found = []
    for folder in generation.glob(f"{name}-*"):
        with suppress(OSError, ValueError):  # it is being deleted
            files = json.loads((folder / FILES).read_text(encoding="utf-8"))
            found.append(Making(folder, frozenset(files)))
    return found


def _tidy(generation: Path, name: str) -> None:
    """Deletes older makings of an experiment, those that nobody has looked at for long, and what was never finished."""
    found = sorted(((f.stat().st_mtime, f) for f in generation.iterdir()), reverse=True)
    own = [folder for _, folder in found if folder.name.startswith(f"{name}-")]
    for made_at, folder in found:
        if folder in own[LATEST:] or made_at < found[0][0] - UNUSED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _digest(*said: Any) -> str:
    return hashlib.sha256(repr(said).encode()).hexdigest()[:32]
