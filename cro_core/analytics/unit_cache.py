"""Keeps what the sealed events say of each unit, from one look to the next.

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

OF_EVENTS = ("met", "achieved", "crossed", "done")
"""Names of the tables that are made of the source ``events``."""

OF_SHOWN = ("contexts", "profiles")
"""Names of the tables that are made of the source ``shown``."""

SOURCES = ("events", "shown")

ACHIEVED, CROSSED, PROFILES = "achieved", "crossed", "profiles"
"""Names of the files of a making: the other tables are columns of the profiles."""

COLUMNS: Mapping[str, str] = {
    "met": "unit, event_id, variant, said, exposed_at",
    "done": "unit, variant, said, exposed_at, converted, converted_at, score, value",
    "contexts": f"unit, event_id, {', '.join(definitions.CONTEXT)}, exposure_value",
}
"""Columns of the tables that profiles hold, in their order."""

GOALS = "goals"
"""Folder of the sealed goals, whoever reached them: a unit may turn out to have met the experiment before."""

FILES = "files.json"
"""Name of the file that lists which files of the lake a making was made of."""

LATEST = 2
"""How many makings of an experiment stay: a look that has begun may still read the one before."""

UNUSED_SECONDS = 8 * 86_400
"""How much older than the newest a making may get: its experiment has ended, or each sealed day would make it anew."""

WANTED = {
    definitions.OWN: f"(type = '{EXPOSURE}' OR type IN (SELECT type FROM goals))",
    definitions.OF_SITE: "type IN (SELECT type FROM goals)",
}
"""Conditions on the sealed events that the tables read, by whose they are: files are sorted by experiment."""

GOAL: Mapping[str, str] = {
    "id": "NULL",
    "variant": "NULL",
    "epoch": "NULL",
    "bot": "false",
    "internal": "false",
}
"""Columns of a goal that are not kept, because no table depends on them, with what stands there instead."""

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
"""Columns of the event that a unit met the experiment with, as its profile has them."""

OTHER_EXPOSURE: Mapping[str, str] = {**FIRST_EXPOSURE, "epoch": "NULL", "occurred_at": "crossed_at"}
"""Columns of the event that a unit met its second variant with: no later one is its first, or tells more."""


@dataclass(frozen=True, slots=True)
class Making:
    """The tables as they were made of some files of the lake."""

    folder: Path
    files: frozenset[str]

    def table(self, name: str) -> str:
        """Writes the query of one of the tables."""
        file = name if name in (ACHIEVED, CROSSED) else PROFILES
        return f"SELECT {COLUMNS.get(name, '*')} FROM {event_scan.parquet([str(self.folder / f'{file}.parquet')])}"

    def events(self, columns: Sequence[str]) -> str:
        """Writes the query of what a table still needs of the events that were read."""
        parts = {f"{GOALS}/*": GOAL, PROFILES: FIRST_EXPOSURE, CROSSED: OTHER_EXPOSURE}
        return " UNION ALL ".join(
            f"SELECT {_as(columns, instead)} FROM {event_scan.parquet([str(self.folder / f'{name}.parquet')])}"
            for name, instead in parts.items()
        )


class Keeper:
    """The cache of one experiment's tables, completed by what has happened since; for one reading.

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
        parameters: Mapping[str, Any],
        goals: Mapping[str, Sequence[Any]],
        columns: Mapping[str, Sequence[str]],
    ) -> None:
        self._session, self._connection = session, connection
        self._goals, self._columns = goals, columns
        texts = [*WANTED, *WANTED.values(), *(definitions.TABLES[name] for name in (*OF_EVENTS, *OF_SHOWN))]
        self._named = definitions.arguments(parameters, *texts)
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
            earlier = f"SELECT * FROM ({making.events(self._columns['events'])}) WHERE unit IN (SELECT unit FROM touched)"
            self._run(session, f"CREATE TEMP TABLE theirs AS {earlier}")
            text += " UNION ALL SELECT * FROM theirs"
        self._make_fresh(session, "met", {"events": text})
        for table in (ACHIEVED, CROSSED):
            self._make_fresh(session, table, {"events": text, "met": "SELECT * FROM fresh_met"})
        sources = {name: f"SELECT * FROM fresh_{name}" for name in ("met", "achieved")}
        self._make_fresh(session, "done", sources)
        for table in OF_EVENTS:
            self._add_others(session, table, making)

    def _complete_shown(self, session: duckdb.DuckDBPyConnection, making: Making | None) -> None:
        """Makes the tables of the exposures in ``shown``: a unit's first is one of them, or was kept as its first."""
        self._make_fresh(session, "contexts", {"met": "SELECT * FROM fresh_met"})
        contexts = "SELECT * FROM fresh_contexts"
        if making is not None:
            first = "event_id IN (SELECT event_id FROM fresh_met)"
            contexts += f" UNION ALL {making.table('contexts')} WHERE {first}"
        self._make_fresh(session, "profiles", {"done": "SELECT * FROM fresh_done", "contexts": contexts})
        self._add_others(session, "profiles", making)
        event_scan.run(session, f"CREATE TEMP VIEW contexts AS SELECT {COLUMNS['contexts']} FROM profiles")

    def _make_fresh(self, session: duckdb.DuckDBPyConnection, table: str, sources: Mapping[str, str]) -> None:
        """Makes a table of the units that something has happened to, by its definition, from other sources than its own."""
        parts = ", ".join(f"{name} AS ({text})" for name, text in sources.items())
        self._run(session, f"CREATE TEMP TABLE fresh_{table} AS WITH {parts} {definitions.TABLES[table]}")

    def _add_others(self, session: duckdb.DuckDBPyConnection, table: str, making: Making | None) -> None:
        """Completes a table with the units to which nothing has happened."""
        text = f"SELECT * FROM fresh_{table}"
        if making is not None:
            text += f" UNION ALL {making.table(table)} WHERE unit NOT IN (SELECT unit FROM touched)"
        kind = "TABLE" if table == "done" else "VIEW"  # that one is read for nearly every number
        event_scan.run(session, f"CREATE TEMP {kind} {table} AS {text}")

    def _current(self, lake: Lake, folder: Path, seal: seals.Seal) -> Making | None:
        """Finds what is kept of a version of the lake, or makes it."""
        generation = folder / str(seals.rewritten(self._connection, seal))
        if not is_newest(generation):
            return None
        files = frozenset(lake.files(seal.version))
        makings = _makings(generation, self._name)
        for making in makings:
            if making.files == files:
                return making
        older = (making for making in makings if making.files < files)
        return self._keep(generation, max(older, key=lambda making: len(making.files), default=None), files)

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
        source = event_scan.parquet(added)
        goals = place / GOALS
        goals.mkdir()
        if before is not None:
            for number, part in enumerate(sorted((before.folder / GOALS).iterdir())):
                _link(part, goals / f"{number}.parquet")
        columns = self._columns["events"]
        fresh_events = " UNION ALL ".join(
            f"SELECT {_as(columns, GOAL if owner == definitions.OF_SITE else {})} FROM {source}"
            f" WHERE {owner} AND {definitions.HUMAN} AND {condition}"
            for owner, condition in WANTED.items()
        )
        with event_scan.opened(self._connection) as session:
            event_scan.give(session, "goals", **self._goals)
            self._run(session, f"CREATE TEMP TABLE fresh AS {fresh_events}")
            self._complete_events(session, before)
            stored_columns = [name for name in columns if name not in GOAL]
            goal_events = f"SELECT {', '.join(stored_columns)} FROM fresh WHERE type <> '{EXPOSURE}'"
            self._run(session, _copy(goal_events, goals / f"{len(list(goals.iterdir()))}.parquet"))
            for table in (ACHIEVED, CROSSED):
                self._run(session, _copy(f"SELECT * FROM {table}", place / f"{table}.parquet"))
            self._run(session, "DROP TABLE fresh")  # much, and done with
            exposures = f"SELECT {', '.join(self._columns['shown'])} FROM {source}"
            self._run(session, f"CREATE TEMP VIEW shown AS {exposures}")
            self._complete_shown(session, before)
            self._run(session, _copy(f"SELECT * FROM {PROFILES}", place / f"{PROFILES}.parquet"))

    def _run(self, session: duckdb.DuckDBPyConnection, sql: str) -> None:
        event_scan.run(session, sql, definitions.arguments(self._named, sql))


def _link(file: Path, target: Path) -> None:
    """Puts a file into another folder without copying, where the file system can."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def _as(columns: Sequence[str], instead: Mapping[str, str]) -> str:
    """Writes columns as a query selects them, some made of others."""
    return ", ".join(f"{instead.get(name, name)} AS {name}" for name in columns)


def _copy(rows: str, file: Path) -> str:
    return f"COPY ({rows}) TO {duckdb_connection.quoted(str(file))} (FORMAT parquet, COMPRESSION zstd)"


def _makings(generation: Path, name: str) -> list[Making]:
    makings = []
    for folder in generation.glob(f"{name}-*"):
        with suppress(OSError, ValueError):  # it is being deleted
            files = json.loads((folder / FILES).read_text(encoding="utf-8"))
            makings.append(Making(folder, frozenset(files)))
    return makings


def _tidy(generation: Path, name: str) -> None:
    """Deletes older makings of an experiment, those that nobody has looked at for long, and what was never finished."""
    by_age = sorted(((entry.stat().st_mtime, entry) for entry in generation.iterdir()), reverse=True)
    of_experiment = [folder for _, folder in by_age if folder.name.startswith(f"{name}-")]
    for made_at, folder in by_age:
        if folder in of_experiment[LATEST:] or made_at < by_age[0][0] - UNUSED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
