"""Reads all stored events as one table in DuckDB: the sealed days from the lake, the others from the database.

Both belong to the same snapshot: the lake is read at the version that the caller's connection sees noted. The
database's rows are read with the library that writes them and handed over in memory; DuckDB never opens an
SQLite file, because two copies of that library in one process lose each other's locks.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from cro_core.clock import to_micros
from cro_core.errors import StoreError
from cro_core.storage import duckdb_connection, schema, seals
from cro_core.storage.database import lake_of
from cro_core.storage.lake import arrow_schema, raw_columns

if TYPE_CHECKING:  # slow to import, and the service can do without until somebody asks for numbers
    import duckdb
    import pyarrow as pa

MEMORY = "400MB"
"""Most memory that a query uses; beyond that it uses temporary files."""

ROWS = 5_000
"""How many rows are taken from the database at a time."""

FEW = 20_000
"""Below so many rows a process does without Arrow, whose import takes as long as handing over 50,000 rows as text."""

MAPPED = 2**29
"""Bytes of an SQLite file that are read where the system has them, not copied: a third less for many rows."""

Where = sa.ColumnElement[bool]

KINDS: Mapping[type, str] = {
    int: "BIGINT",
    float: "DOUBLE",
    str: "VARCHAR",
    schema.Moment: "BIGINT",
    sa.Integer: "INTEGER",
    sa.Float: "DOUBLE",
    sa.Boolean: "BOOLEAN",
}
"""What DuckDB calls the kinds of values and of the event table's columns; all others are text."""


@dataclass(frozen=True, slots=True)
class Few:
    """Rows of the event table, few enough to be handed over as text: importing Arrow would take longer."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @property
    def num_rows(self) -> int:
        """How many there are."""
        return len(self.rows)

    @property
    def query(self) -> str:
        """SQL for DuckDB that selects them."""
        kinds = {name: KINDS.get(type(schema.events.c[name].type), "VARCHAR") for name in self.columns}
        return _query(kinds, list(zip(*self.rows, strict=True)) or [()] * len(kinds))


def opened(connection: sa.Connection) -> duckdb.DuckDBPyConnection:
    """Opens a place for temporary tables, private to its user until it is closed; it can read the store's lake."""
    lake = lake_of(connection)
    return shared_engine(os.getpid(), lake is not None and lake.remote).cursor()


@cache
def shared_engine(_process: int, remote: bool) -> duckdb.DuckDBPyConnection:
    """Starts one DuckDB for the process: starting it takes longer than many a query."""
    spill = f"{tempfile.gettempdir()}/cro-duckdb-{os.getpid()}"
    return duckdb_connection.started(memory=MEMORY, spill=spill, remote=remote)


def run(
    session: duckdb.DuckDBPyConnection, sql: str, parameters: Mapping[str, Any] | None = None
) -> duckdb.DuckDBPyConnection:
    """Runs a statement.

    Raises:
        StoreError: the lake's files cannot be read.
    """
    import duckdb

    try:
        return session.execute(duckdb_connection.with_values(sql, parameters) if parameters else sql)
    except duckdb.IOException as error:
        raise StoreError(
            f"the sealed days cannot be read ({duckdb_connection.one_line(error)}): bring the lake back, then try again"
        ) from None


def give(session: duckdb.DuckDBPyConnection, name: str, **columns: Sequence[Any]) -> None:
    """Makes a small table of whole numbers, fractions or text; there must be a row."""
    kinds = {key: KINDS[type(values[0])] for key, values in columns.items()}
    _create(session, name, _query(kinds, list(columns.values())))


def keep(session: duckdb.DuckDBPyConnection, name: str, rows: Few | pa.Table) -> None:
    """Copies rows into a temporary table: filters that DuckDB makes for its joins cannot be asked of Arrow."""
    if isinstance(rows, Few):
        _create(session, name, rows.query)
        return
    session.register(f"{name}_rows", rows)
    _create(session, name, f"SELECT * FROM {name}_rows")  # noqa: S608  our own name
    session.unregister(f"{name}_rows")


def _create(session: duckdb.DuckDBPyConnection, name: str, query: str) -> None:
    run(session, f"CREATE OR REPLACE TEMP TABLE {name} AS {query}")


def _query(kinds: Mapping[str, str], columns: Sequence[Sequence[Any]]) -> str:
    """Writes columns as a query: values as JSON, which both sides read fast and to the last bit."""
    text = json.dumps(dict(zip(kinds, map(list, columns), strict=True)))
    shape = json.dumps({name: [kind] for name, kind in kinds.items()})
    chosen = ", ".join(f"unnest(given.{name}) AS {name}" for name in kinds)
    given = f"from_json({duckdb_connection.quoted(text)}, {duckdb_connection.quoted(shape)})"
    return f"SELECT {chosen} FROM (SELECT {given} AS given)"  # noqa: S608  our own names


def view(
    session: duckdb.DuckDBPyConnection,
    name: str,
    connection: sa.Connection,
    columns: Sequence[str],
    where: Where,
    *,
    since: datetime | None = None,
    before: datetime | None = None,
) -> None:
    """Makes a view of the stored events.

    Args:
        session: where it is made.
        name: of the view.
        connection: the store, as the caller sees it.
        columns: those of ``schema.events`` that are wanted; times are microseconds, properties JSON text.
        where: which rows of the database are wanted. The view may hold others too, from the lake.
        since: leaves out what happened earlier.
        before: leaves out what happened then or later.
    """
    rows, files = pieces(connection, columns, where, since=since, before=before)
    keep(session, f"{name}_unsealed", rows)
    names = ", ".join(columns)
    text = f"SELECT {names} FROM {name}_unsealed"  # noqa: S608  names of the schema
    if files:
        text += f" UNION ALL SELECT {names} FROM {parquet(files)}"  # noqa: S608
    limits = [f"occurred_at >= {to_micros(since)}"] if since else []
    limits += [f"occurred_at < {to_micros(before)}"] if before else []
    condition = f" WHERE {' AND '.join(limits)}" if limits else ""
    run(session, f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT * FROM ({text}) AS stored{condition}")  # noqa: S608


def parquet(files: Sequence[str]) -> str:
    """Names Parquet files as a query does."""
    return f"read_parquet([{', '.join(map(duckdb_connection.quoted, files))}], hive_partitioning = false)"


def pieces(
    connection: sa.Connection,
    columns: Sequence[str],
    where: Where,
    *,
    since: datetime | None = None,
    before: datetime | None = None,
) -> tuple[Few | pa.Table, list[str]]:
    """Collects what a view is made of: the wanted rows of the database, and the lake's files that may hold others.

    Both are of one snapshot. Arguments are those of :func:`view`.
    """
    at = sa.type_coerce(schema.events.c.occurred_at, sa.BigInteger)
    bounds = [at >= to_micros(since)] if since else []
    bounds += [at < to_micros(before)] if before else []
    seal, rows = snapshot(connection, columns, sa.and_(where, *bounds))
    return rows, _files(connection, seal, since, before)


def snapshot(
    connection: sa.Connection, columns: Sequence[str], where: Where
) -> tuple[seals.Seal | None, Few | pa.Table]:
    """Reads the version of the lake that counts, and the database's rows beside it.

    A write transaction of PostgreSQL sees what others commit between two statements: where that was a sealing,
    rows may have moved, and we look again.
    """
    while True:
        seal = seals.newest(connection)
        rows = unsealed(connection, columns, where)
        if seals.newest(connection) == seal:
            return seal, rows


def unsealed(connection: sa.Connection, columns: Sequence[str], where: Where) -> Few | pa.Table:
    """Reads rows of the event table: as they are where they are few, else in columns."""
    stored = {column.name: column for column in raw_columns()}
    query = sa.select(*(_plain(stored[name]) for name in columns)).where(where)
    with closing(_cursor(connection, query)) as cursor:
        few = _few()
        first = cursor.fetchmany(few)
        if len(first) < few:
            return Few(columns, first)
        return _arrow(columns, chain([first], iter(lambda: cursor.fetchmany(ROWS), [])))


def _few() -> int:
    """Below how many rows text is faster than Arrow, where that must be imported first, and pandas that it looks for."""
    return ROWS if "pyarrow" in sys.modules else FEW


def in_columns(rows: Few | pa.Table) -> pa.Table:
    """Rows of the event table in columns, few or not."""
    return _arrow(rows.columns, [rows.rows] if rows.rows else []) if isinstance(rows, Few) else rows


def _arrow(columns: Sequence[str], batches: Iterable[Sequence[Sequence[Any]]]) -> pa.Table:
    import pyarrow as pa

    types = pa.schema([arrow_schema().field(name) for name in columns])
    # SQLite's driver has no truth values but numbers.
    raw_types = pa.schema([f.with_type(pa.int64()) if pa.types.is_boolean(f.type) else f for f in types])
    parts: list[pa.RecordBatch] = []
    for rows in batches:
        arrays = [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), raw_types, strict=True)]
        parts.append(pa.record_batch(arrays, schema=raw_types))
    return pa.Table.from_batches(parts, raw_types).cast(types)


def _cursor(connection: sa.Connection, query: sa.Select[Any]) -> Any:
    """Opens the driver's own cursor on a query: a Row for each event would take most of the time."""
    connection.scalar(sa.select(sa.literal(1)))  # begins the transaction, where nothing else has
    text = query.compile(dialect=connection.dialect, compile_kwargs={"render_postcompile": True})
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        driver.execute(f"PRAGMA mmap_size={MAPPED}")
        return driver.execute(str(text), [text.params[name] for name in text.positiontup or ()])
    cursor = driver.cursor(name="cro_unsealed")  # on the server: the rows come as they are fetched
    return cursor.execute(str(text), text.params)


def _plain(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.cast(column, sa.Integer) if isinstance(column.type, sa.Boolean) else column


def _files(
    connection: sa.Connection, seal: seals.Seal | None, since: datetime | None, before: datetime | None
) -> list[str]:
    """Finds the lake's files of the days that may hold such events."""
    lake = lake_of(connection)
    if seal is None or lake is None:
        return []
    first, last = (
        moment.astimezone(UTC).date().isoformat() if moment else None for moment in (since, before)
    )
    return lake.files(seal.version, first, last)
