"""What the sealed events say of each unit, kept from one look to the next.

Some tables of :mod:`cro_core.analysis` have in common that what they say of a unit depends on that unit's events
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

from cro_core import analysis
from cro_core.domain import EXPOSURE
from cro_core.errors import StoreError
from cro_core.storage import scan, seals
from cro_core.storage.database import lake_of

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from cro_core.storage.lake import Lake

TABLES = ("met", "achieved", "done")
"""What is kept of the source ``events``; of the source ``shown`` it is :data:`CONTEXTS`."""

CONTEXTS = "contexts"

SOURCES = ("events", "shown")

ROWS = "rows"
"""Folder of the sealed rows that a table may still need: first exposures, and goals whoever reached them."""

FILES = "files.json"
"""Which files of the lake it was made of."""

LATEST = 2
"""Makings of one experiment that stay: a look that has begun may still read the one before."""

UNUSED_SECONDS = 8 * 86_400
"""A making so much older than the newest is of an experiment that has ended: its day is sealed with each new one."""

WANTED = f"""
{analysis.HUMAN} AND {analysis.RELEVANT}
AND (type IN (SELECT type FROM goals) OR (type = '{EXPOSURE}' AND experiment_id = $experiment))
"""
"""Those sealed events that the tables read."""

NEEDED = f"(type <> '{EXPOSURE}' OR id IN (SELECT event_id FROM met))"
"""Those of them that a later table may still depend on."""


@dataclass(frozen=True, slots=True)
class Making:
    """The tables as they were made of some files of the lake."""

    folder: Path
    files: frozenset[str]

    def table(self, name: str) -> str:
        """One of the tables, for a query to read."""
        return scan.parquet([str(self.folder / f"{name}.parquet")])

    @property
    def rows(self) -> str:
        """The kept rows, for a query to read."""
        return scan.parquet([str(self.folder / ROWS / "*.parquet")])

    @property
    def contexts(self) -> str:
        """The kept contexts of those units whose first exposure is still the same, as a query."""
        return f"SELECT * FROM {self.table(CONTEXTS)} WHERE event_id IN (SELECT event_id FROM met)"


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
        texts = [WANTED, *(analysis.TABLES[name] for name in (*TABLES, CONTEXTS))]
        self._named = analysis.arguments(named, *texts)
        self._name = _digest(texts, columns, self._named, goals)
        self._making: Making | None = None
        self._fresh = False
        """Whether the database has events beside what is kept."""

    def make(self, source: str, where: scan.Where) -> Sequence[str]:
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
        seal, rows = scan.snapshot(self._connection, self._columns[source], where)
        making = None if seal is None else self._current(lake, lake.keep_in, seal)
        if making is None:
            return ()
        if source == "shown":
            return self._make_contexts(making, rows)
        self._making = making
        return self._make_tables(making, rows)

    def _make_tables(self, making: Making, rows: pa.Table) -> Sequence[str]:
        self._fresh = rows.num_rows > 0
        if not self._fresh:
            for table in TABLES:
                scan.run(self._session, f"CREATE TEMP VIEW {table} AS SELECT * FROM {making.table(table)}")
            return TABLES
        scan.keep(self._session, "fresh", rows)
        self._complete(self._session, making)
        return TABLES

    def _make_contexts(self, making: Making, rows: pa.Table) -> Sequence[str]:
        """The first exposure of a unit is in the database, or is the first of those sealed: that is kept."""
        if making != self._making:  # sealed in between: it may know of earlier exposures than ``met``
            return ()
        if not self._fresh:
            scan.run(self._session, f"CREATE TEMP VIEW {CONTEXTS} AS SELECT * FROM {making.table(CONTEXTS)}")
            return (CONTEXTS,)
        scan.keep(self._session, "shown", rows)
        self._run(self._session, f"CREATE TEMP TABLE fresh_{CONTEXTS} AS {analysis.TABLES[CONTEXTS]}")
        both = f"SELECT * FROM fresh_{CONTEXTS} UNION ALL {making.contexts}"
        scan.run(self._session, f"CREATE TEMP VIEW {CONTEXTS} AS {both}")
        return (CONTEXTS,)

    def _complete(self, session: duckdb.DuckDBPyConnection, making: Making | None) -> None:
        """Makes the tables of the events in ``fresh``, and of the kept rows of the same units, and adds the others."""
        text = "SELECT * FROM fresh"
        if making is not None:
            scan.run(session, "CREATE TEMP TABLE touched AS SELECT DISTINCT unit FROM fresh")
            text += f" UNION ALL SELECT * FROM {making.rows} WHERE unit IN (SELECT unit FROM touched)"
        scan.run(session, f"CREATE TEMP VIEW events AS {text}")
        for table in TABLES:
            self._run(session, f"CREATE TEMP TABLE {table} AS {analysis.TABLES[table]}")
        scan.run(session, "DROP VIEW events")  # it has not all of them, and must not be taken for them
        if making is None:
            return
        for table in TABLES:
            scan.run(session, f"ALTER TABLE {table} RENAME TO fresh_{table}")
            others = f"SELECT * FROM {making.table(table)} WHERE unit NOT IN (SELECT unit FROM touched)"
            scan.run(session, f"CREATE TEMP VIEW {table} AS SELECT * FROM fresh_{table} UNION ALL {others}")

    def _current(self, lake: Lake, folder: Path, seal: seals.Seal) -> Making | None:
        """What is kept of a version of the lake, made now where it is not."""
        generation = folder / str(seals.rewritten(self._connection, seal))
        if not _is_newest(generation):
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
            self._write(place, before, sorted(files.difference(before.files if before else ())))
            (place / FILES).write_text(json.dumps(sorted(files)), encoding="utf-8")
            place.rename(final)
            _tidy(generation, self._name)
        except (OSError, StoreError):
            # Another process was faster, the generation has ended, or the disk is full.
            shutil.rmtree(place, ignore_errors=True)
        return Making(final, files) if (final / FILES).exists() else None

    def _write(self, place: Path, before: Making | None, added: Sequence[str]) -> None:
        """Writes the files of a making: what ``before`` says, completed by files of the lake."""
        events, shown = (", ".join(self._columns[source]) for source in SOURCES)
        sealed = scan.parquet(added)
        rows = place / ROWS
        rows.mkdir()
        if before is not None:
            for number, part in enumerate(sorted((before.folder / ROWS).iterdir())):
                _link(part, rows / f"{number}.parquet")
        with scan.opened(self._connection) as session:
            scan.give(session, "goals", **self._goals)
            self._run(
                session,
                f"CREATE TEMP TABLE fresh AS SELECT {events} FROM {sealed} WHERE {WANTED}",
            )
            self._complete(session, before)
            self._run(session, f"CREATE TEMP VIEW shown AS SELECT {shown} FROM {sealed}")
            contexts = analysis.TABLES[CONTEXTS]
            if before is not None:
                contexts += f" UNION ALL {before.contexts}"
            new = f"SELECT * FROM fresh WHERE {NEEDED}"
            self._run(session, _copy(new, rows / f"{len(list(rows.iterdir()))}.parquet"))
            self._run(session, _copy(contexts, place / f"{CONTEXTS}.parquet"))
            for table in TABLES:
                self._run(session, _copy(f"SELECT * FROM {table}", place / f"{table}.parquet"))

    def _run(self, session: duckdb.DuckDBPyConnection, sql: str) -> None:
        scan.run(session, sql, analysis.arguments(self._named, sql))


def _link(file: Path, to: Path) -> None:
    """The same file in another folder, where the file system can; a copy where not."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)


def _copy(rows: str, file: Path) -> str:
    return f"COPY ({rows}) TO {scan.quoted(str(file))} (FORMAT parquet)"


def drop(folder: Path, *, before: int) -> None:
    """Deletes what was kept before a generation, and keeps what is being made for one from being kept afterwards.

    Raises:
        OSError: it cannot be deleted.
    """
    for old in _generations(folder):
        if int(old.name) < before:
            with suppress(FileNotFoundError):  # another process drops it too
                old.rename(folder / f".{uuid.uuid4().hex}")  # at once: nobody adds to what is being deleted
    for gone in folder.glob(".*"):
        with suppress(FileNotFoundError):
            shutil.rmtree(gone)


def _generations(folder: Path) -> list[Path]:
    return [found for found in folder.glob("*") if found.name.isdecimal()]


def _is_newest(generation: Path) -> bool:
    """Whether nobody has begun another: this connection may see an older state of the store."""
    return all(int(found.name) <= int(generation.name) for found in _generations(generation.parent))


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
