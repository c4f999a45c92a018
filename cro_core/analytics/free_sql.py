"""Free SQL for analysts: the whole store as it was at one moment, in DuckDB, and no way to write to it.

Sealed days are read from the lake's files where they lie, at the version that the database had noted; everything
else is copied into memory from one snapshot, with the library that writes it. So no transaction stays open, and
nobody waits for an analyst.

Times stand there twice: ``occurred_at`` is a TIMESTAMP in UTC, for people; ``occurred_at_us`` is the same in whole
microseconds since 1970, which is what the files hold, and what a condition on many days is best written on.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy as sa

from cro_core.analytics import event_scan
from cro_core.analytics.definitions import HUMAN
from cro_core.clock import to_micros
from cro_core.domain import EXPOSURE
from cro_core.errors import InvalidInput, StoreError
from cro_core.storage import duckdb_connection, schema, seals
from cro_core.storage.database import lake_of

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import pyarrow as pa

TABLES: Mapping[str, sa.Table] = {
    "experiments": schema.experiments,
    "variants": schema.variants,
    "epochs": schema.epochs,
    "decisions": schema.decisions,
    "looks": schema.looks,
    "receipts": schema.receipts,
    "quarantine": schema.quarantine,
    "production": schema.production,
    "recommendations": schema.recommendations,
    "runs": schema.runs,
    "audit": schema.audit,
}
"""Views beside ``events``, ``exposures`` and ``snapshot``, with the tables that they show."""

MAY = {"SELECT", "EXPLAIN", "CREATE"}
"""Kinds of statements that only read, or make something in the connection's own memory."""

_EXPLAIN = re.compile(r"\s*EXPLAIN\s*(ANALYZE\b|\([^)]*\))?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an analyst's connection shows: the moment it was opened, and the events of that moment."""

    opened_at: datetime
    lake_version: int | None
    """Version of the lake with the sealed days; ``None`` before anything was sealed."""
    sealed: int
    """How many events are in the lake."""
    unsealed: int
    """How many events are in the database."""


class AnalystConnection:
    """A DuckDB connection that only reads; use it like one, and close it.

    It shows the store as it was when it was opened: open another one for what came later. Tables and views of
    one's own (``CREATE TEMP TABLE``) are in its memory and go with it. For one thread at a time.
    """

    def __init__(
        self, session: duckdb.DuckDBPyConnection, snapshot: Snapshot, files: Sequence[str] = ()
    ) -> None:
        self.snapshot = snapshot
        self._session = session
        self._files = files

    def execute(self, sql: str, parameters: Mapping[str, Any] | Sequence[Any] | None = None) -> Self:
        """Runs SQL; what the last statement found is fetched from this object.

        Args:
            sql: one statement, or several with semicolons; those of :data:`MAY`.
            parameters: values of ``$name`` or ``?``.

        Raises:
            InvalidInput: it would do more than read; nothing was run.
            StoreError: the lake's files cannot be read, or were replaced since the connection was opened.
            duckdb.Error: it is no valid SQL.
        """
        import duckdb

        for refused in _refused(sql):
            raise InvalidInput(
                f"{refused} is not possible here: the door only reads (and makes temporary tables); "
                "take results out with df() or to_arrow_table() and write those"
            )
        try:
            self._session.execute(sql, parameters)
        except (duckdb.IOException, duckdb.PermissionException) as error:
            # A file that is gone is looked for as a folder, which is not permitted.
            if isinstance(error, duckdb.PermissionException) and not any(
                file in str(error) for file in self._files
            ):
                raise
            raise StoreError(
                f"the sealed days cannot be read ({error}): open the door again, for files that were replaced "
                "are kept for a day"
            ) from None
        return self

    sql = execute

    def df(self) -> pd.DataFrame:
        """Fetches the rows found as a pandas table; its times have no zone and are UTC."""
        frame: pd.DataFrame = self._session.df()
        return frame

    def to_arrow_table(self) -> pa.Table:
        """Fetches the rows found as an Arrow table."""
        return self._session.to_arrow_table()

    def to_arrow_reader(self, rows: int = 100_000) -> pa.RecordBatchReader:
        """Fetches the rows found in pieces, for more than fits into memory."""
        return self._session.to_arrow_reader(rows)

    def fetchall(self) -> list[Any]:
        """Fetches the rows found (or left) as tuples."""
        return self._session.fetchall()

    def fetchone(self) -> Any:
        """Fetches the next row as a tuple; ``None`` after the last."""
        return self._session.fetchone()

    @property
    def description(self) -> list[Any]:
        """Name and type of each column found."""
        return list(self._session.description or ())

    def close(self) -> None:
        """Closes the connection and frees its memory."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def opened(connection: sa.Connection, at: datetime, memory: str = event_scan.MEMORY) -> AnalystConnection:
    """Opens an analyst's connection to what a snapshot shows; ``connection`` may be closed afterwards.

    Args:
        connection: the store, on one snapshot (:meth:`cro_core.storage.database.Database.read`).
        at: the moment, told in ``snapshot``.
        memory: what the new connection may hold; beyond that it uses temporary files.
    """
    seal, lake = seals.newest(connection), lake_of(connection)
    files = lake.files(seal.version) if lake is not None and seal is not None else []
    session = _session(memory, remote=lake is not None and lake.remote)
    try:
        rows = event_scan.unsealed(connection, [c.name for c in schema.events.columns], sa.true())
        unsealed = event_scan.in_columns(rows)
        snapshot = Snapshot(
            opened_at=at,
            lake_version=None if seal is None else seal.version,
            sealed=0 if seal is None else seal.events,
            unsealed=unsealed.num_rows,
        )
        _hold(session, "events", unsealed)
        for name, table in TABLES.items():
            _hold(session, name, _rows(connection, table))
        for statement in (*_views(files), *_snapshot_view(snapshot), *_locks(files)):
            event_scan.run(session, statement)
    except BaseException:
        session.close()
        raise
    return AnalystConnection(session, snapshot, files)


def _refused(sql: str) -> Iterator[str]:
    """Yields those kinds of statements in a text that are not allowed."""
    import duckdb

    for statement in duckdb.extract_statements(sql):
        kind = statement.type.name
        if kind not in MAY:
            yield kind
        elif kind == "EXPLAIN":  # of a statement that it may run
            inner, explained = _EXPLAIN.subn("", statement.query, count=1)
            yield from _refused(inner) if explained else (kind,)


def _session(memory: str, *, remote: bool) -> duckdb.DuckDBPyConnection:
    spill = f"{tempfile.gettempdir()}/cro-door-{os.getpid()}-{secrets.token_hex(4)}"
    session = duckdb_connection.started(memory=memory, spill=spill, remote=remote)
    session.execute("CREATE SCHEMA held")
    return session


def _locks(files: Sequence[str]) -> Iterator[str]:
    """Yields the settings after which no other file can be read or written, and no setting changed."""
    yield f"SET allowed_paths = [{', '.join(map(duckdb_connection.quoted, files))}]"
    yield "SET enable_external_access = false"
    yield "SET lock_configuration = true"


def _views(files: Sequence[str]) -> Iterator[str]:
    names = ", ".join(f'"{column.name}"' for column in schema.events.columns)
    rows = f"SELECT {names} FROM held.events"  # noqa: S608  names of the schema
    if files:
        lake_rows = event_scan.parquet(files)
        rows += f" UNION ALL SELECT {names} FROM {lake_rows}"  # noqa: S608  our own files
    yield f"CREATE VIEW events AS SELECT {_shown(schema.events)} FROM ({rows}) AS stored"  # noqa: S608  names of the schema
    yield EXPOSURES
    for name, table in TABLES.items():
        yield f"CREATE VIEW {name} AS SELECT {_shown(table)} FROM held.{name}"  # noqa: S608  names of the schema


EXPOSURES = f"""
CREATE VIEW exposures AS
SELECT experiment_id, unit, first.id AS event_id, first.variant AS variant, first.epoch AS epoch,
       first.propensity AS propensity, make_timestamp(exposed_at_us) AS exposed_at, exposed_at_us,
       first.device AS device, first.city AS city, first.country AS country, first.occasion AS occasion,
       first.asset_id AS asset_id, first.url AS url
FROM (
    SELECT experiment_id, unit, MIN(occurred_at_us) AS exposed_at_us,
           ARG_MIN(STRUCT_PACK(id := id, variant := variant, epoch := epoch, propensity := propensity, device := device,
                               city := city, country := country, occasion := occasion, asset_id := asset_id, url := url),
                   STRUCT_PACK(at := occurred_at_us, id := id)) AS first
    FROM events
    WHERE type = '{EXPOSURE}' AND experiment_id IS NOT NULL AND {HUMAN}
    GROUP BY experiment_id, unit
) AS met
"""  # noqa: S608  words of this package
"""View of the first exposure of each unit: from the events, so that it costs nothing until somebody asks."""


def _snapshot_view(snapshot: Snapshot) -> Iterator[str]:
    version = "NULL" if snapshot.lake_version is None else snapshot.lake_version
    at = to_micros(snapshot.opened_at)
    yield (
        f"CREATE VIEW snapshot AS SELECT make_timestamp({at}) AS opened_at, CAST({version} AS BIGINT) AS lake_version, "
        f"CAST({snapshot.sealed} AS BIGINT) AS sealed, CAST({snapshot.unsealed} AS BIGINT) AS unsealed"
    )


def _shown(table: sa.Table) -> str:
    """Writes the columns as the views have them: moments twice."""
    return ", ".join(
        f'make_timestamp("{column.name}") AS "{column.name}", "{column.name}" AS "{column.name}_us"'
        if isinstance(column.type, schema.Moment)
        else f'"{column.name}"'
        for column in table.columns
    )


def _rows(connection: sa.Connection, table: sa.Table) -> pa.Table:
    """Reads a small table whole: moments as microseconds, JSON as text."""
    import pyarrow as pa

    kinds = {
        schema.Moment: pa.int64(),
        sa.BigInteger: pa.int64(),
        sa.Integer: pa.int64(),
        sa.Float: pa.float64(),
        sa.Boolean: pa.bool_(),
    }
    query = sa.select(
        *(
            sa.type_coerce(column, sa.BigInteger).label(column.name)
            if isinstance(column.type, schema.Moment)
            else sa.cast(column, sa.Text).label(column.name)
            if isinstance(column.type, sa.JSON)
            else column
            for column in table.columns
        )
    ).order_by(*table.primary_key.columns)
    rows = connection.execute(query).all()
    columns = list(zip(*rows, strict=True)) or [()] * len(table.columns)
    arrays = {
        column.name: pa.array(values, kinds.get(type(column.type), pa.string()))
        for column, values in zip(table.columns, columns, strict=True)
    }
    return pa.table(arrays)


def _hold(session: duckdb.DuckDBPyConnection, name: str, rows: pa.Table) -> None:
    """Copies rows into the connection's own memory."""
    session.register("given", rows)
    session.execute(f"CREATE TABLE held.{name} AS SELECT * FROM given")  # noqa: S608  our own name
    session.unregister("given")
