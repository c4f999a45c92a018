"""The sealed days: a Delta table of Parquet files, one partition a day (UTC), each file sorted for reading.

Columns are those of the event table: times as whole microseconds since 1970 UTC, properties as JSON text. The
partition's ``day`` is in the file's address, not in the file. Which version counts is noted in the database
(:mod:`cro_core.storage.seals`): the newest of the table itself may hold what was never noted.

Files never change. Those who write (one process at a time) add and replace whole files in commits of their own.
The table's log keeps no statistics, so that nothing about a person outlives the person's files.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from cro_core.clock import from_micros
from cro_core.errors import StoreError
from cro_core.storage import duckdb_connection, schema
from cro_core.storage.id_filters import Filter

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    from deltalake import DeltaTable, WriterProperties

DAY_MICROS = 86_400_000_000

ORDER = ("experiment_id", "unit", "occurred_at")
"""How each file is sorted: one experiment's events, and one visitor's in it, are next to each other."""

ROWS_PER_GROUP = 131_072
"""Rows of a file that are read or left out together. With 49,152 one of 20 experiments is read in half the time, but a
repeated id is looked for in twice the time, and somebody waits for that.
"""

FEW_IDS = 16
"""Up to so many ids are looked up one by one, which Parquet's own Bloom filters make fast; more by reading all."""

SMALL_FILE = 32 * 2**20
"""Bytes below which a file is worth joining with others of its day."""

SORT_MEMORY = "512MB"
"""What the rewriting of a day may take; a larger day is sorted on disk."""

SILENCE = 10.0
"""Seconds for which a store that did not answer is not asked for ids: those who post would wait for each other."""

UNFIT = frozenset("%[]\\^|")
"""Characters of a folder that the library for Delta tables takes for something else."""

STORE_ADVICE = (
    "Its bucket must be there, AWS_ENDPOINT_URL and AWS_REGION must name its store, and the credentials must be "
    "allowed to read, write, list and delete"
)
"""What may be wrong with an object store."""

File = tuple[str, str]
"""Day and address."""


class Held(NamedTuple):
    """How many events of one day, experiment and session the lake holds."""

    day: str
    experiment_id: str | None
    session: str | None
    events: int


class Lake:
    """A lake at a folder or an object-store address; it exists once something was sealed.

    Safe to share between threads that read; only one process at a time may call what writes.

    Args:
        location: the folder or address.
        keep_in: a folder of this machine for what is kept of it (:mod:`cro_core.storage.generations`); nothing is without.
    """

    def __init__(self, location: str, keep_in: Path | None = None) -> None:
        self.location = location.rstrip("/")
        self.keep_in = keep_in
        self.filters: tuple[int, Sequence[Filter]] = (0, ())
        """The filters of the sealed ids that this process has read, after the number of the seal that they belong to."""
        self._files: dict[int, Sequence[File]] = {}
        self._reader: duckdb.DuckDBPyConnection | None = None
        self._opening = threading.Lock()
        self._silent_until = 0.0

    @property
    def remote(self) -> bool:
        """Whether it is in an object store."""
        return "://" in self.location

    def files(self, version: int, first: str | None = None, last: str | None = None) -> list[str]:
        """The Parquet files of a version, as DuckDB's ``read_parquet`` takes them.

        Args:
            version: one that :func:`cro_core.storage.seals.current` names.
            first: only days from this one, like ``2026-03-01``.
            last: only days up to and with this one.

        Raises:
            StoreError: the lake has no such version here.
        """
        return [
            address
            for day, address in self._listed(version)
            if (first is None or first <= day) and (last is None or day <= last)
        ]

    def present(self, version: int, ids: Collection[str]) -> set[str]:
        """Finds those of the event ids that a version holds.

        Raises:
            StoreError: the lake has no such version here, or cannot be read; an object store was not asked, because it
                has just failed to answer.
        """
        if monotonic() < self._silent_until:
            raise StoreError(
                f"the lake in {self.location} did not answer, and cannot say which events it holds: send them again "
                f"in {SILENCE:.0f} seconds"
            )
        try:
            return self._present(version, ids)
        except StoreError:
            if self.remote:
                self._silent_until = monotonic() + SILENCE
            raise

    def _present(self, version: int, ids: Collection[str]) -> set[str]:
        files = self.files(version)
        if not files or not ids:
            return set()
        one = "SELECT id FROM read_parquet($files, hive_partitioning = false) WHERE id = $id LIMIT 1"
        many = (
            "SELECT id FROM read_parquet($files, hive_partitioning = false) WHERE id IN (SELECT unnest($ids))"
        )
        with self.reading() as cursor:
            if len(ids) > FEW_IDS:
                rows = cursor.execute(many, {"files": files, "ids": list(ids)}).fetchall()
                return {name for (name,) in rows}
            # Parquet's Bloom filters serve a comparison with one value only.
            return {name for name in ids if cursor.execute(one, {"files": files, "id": name}).fetchone()}

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A DuckDB connection that reads the files, of an object store too; failures become a StoreError."""
        import duckdb

        cursor = None
        try:
            with self._opening:
                if self._reader is None:
                    self._reader = duckdb_connection.started(
                        memory=SORT_MEMORY, spill=tempfile.gettempdir(), remote=self.remote
                    )
                cursor = self._reader.cursor()
            yield cursor
        except (duckdb.IOException, duckdb.HTTPException) as error:
            reason = duckdb_connection.one_line(error)
            raise StoreError(f"the sealed days in {self.location} cannot be read: {reason}") from None
        finally:
            if cursor is not None:
                cursor.close()

    def count(self, version: int) -> int:
        """How many events a version holds."""
        return int(self._open(version).count())

    def holding(self, version: int, column: str, values: Collection[str]) -> list[Held]:
        """The events of which a column has one of the values, counted."""
        return self._counted(self.files(version), f"list_contains($values, {column})", values=list(values))

    def before(self, version: int, day: str) -> list[Held]:
        """The events of the days before one, counted; sessions are left out."""
        files = [address for file_day, address in self._listed(version) if file_day < day]
        return self._counted(files, "true", session="NULL")

    def _counted(
        self, files: list[str], condition: str, session: str = "session", **given: Any
    ) -> list[Held]:
        if not files:
            return []
        query = f"""
SELECT occurred_at // {DAY_MICROS} AS day, experiment_id, {session} AS session, count(*)
FROM read_parquet($files, hive_partitioning = false) WHERE {condition} GROUP BY ALL ORDER BY ALL
"""  # noqa: S608  names and conditions of this module
        with self.reading() as cursor:
            counts = cursor.execute(query, {"files": files, **given}).fetchall()
        return [Held(day_of(day * DAY_MICROS), *rest) for day, *rest in counts]

    def undo(self, noted: int | None) -> None:
        """Takes back what was committed after the version that counts, by a process that was stopped in between."""
        if not self._exists():
            return
        table = self._open()
        if self._files_of(table) != self._files_of(self._open(noted or 0)):
            with self._writing():
                table.restore(noted or 0)

    def append(self, rows: pa.Table) -> int:
        """Adds events, with the columns of :func:`arrow_schema`; returns the new version."""
        from deltalake import write_deltalake

        if not self._exists():
            self._create()
        table = self._open()
        with self._writing():
            write_deltalake(table, _by_day(rows), mode="append", writer_properties=_properties())
        return int(table.version())

    def rewrite(self, day: str, column: str = "unit", without: Collection[str] = ()) -> int:
        """Joins a day's files into as few as possible, sorted throughout; returns the new version.

        Args:
            day: whose files are replaced.
            column: what decides whether an event is left out.
            without: values of the column that leave it out.
        """
        from deltalake import write_deltalake

        table = self._open()
        files = [address for file_day, address in self._files_of(table) if file_day == day]
        query = f"""
SELECT *, $day AS day FROM read_parquet($files, hive_partitioning = false)
WHERE NOT coalesce(list_contains($without, {column}), false) ORDER BY {", ".join(ORDER)}
"""  # noqa: S608  names of this module
        with self.reading() as cursor, self._writing():
            rows = cursor.execute(query, {"files": files, "day": day, "without": list(without)})
            # The condition names the day only: the log keeps it, and must not name a person.
            write_deltalake(
                table,
                rows.to_arrow_reader(ROWS_PER_GROUP),
                mode="overwrite",
                predicate=f"day = '{day}'",
                writer_properties=_properties(),
            )
        return int(table.version())

    def scattered(self, most: int) -> list[str]:
        """The days with more than so many small files."""
        if not self._exists():
            return []
        actions = self._open().get_add_actions(flatten=True)
        days, sizes = (actions.column(name).to_pylist() for name in ("partition.day", "size_bytes"))
        small = Counter(day for day, size in zip(days, sizes, strict=True) if size < SMALL_FILE)
        return sorted(day for day, number in small.items() if number > most)

    def drop(self, before: str) -> int:
        """Leaves out the days before one; returns the new version."""
        table = self._open()
        with self._writing():
            table.delete(f"day < '{before}'")
        return int(table.version())

    def vacuum(self, hours: int) -> None:
        """Deletes the files that the newest version does not hold and that were replaced so many hours ago.

        Also those that a stopped process left behind. With 0 hours nobody can read an older version any more.
        """
        if self._exists():
            table = self._open()
            with self._writing():
                table.vacuum(hours, dry_run=False, enforce_retention_duration=False, full=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What goes wrong with an object store becomes a StoreError; of a folder, the system's own words are clear."""
        from deltalake.exceptions import DeltaError

        try:
            yield
        except (DeltaError, OSError) as error:
            if not self.remote:
                raise
            raise StoreError(
                f"the lake in {self.location} cannot be written: {duckdb_connection.one_line(error)}. {STORE_ADVICE}"
            ) from None

    def _exists(self) -> bool:
        if not self.remote:
            return any(Path(self.location, "_delta_log").glob("*.json"))
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:  # DeltaTable.is_deltatable would stop every thread of the process until the store answers
            DeltaTable(self.location, storage_options=self._options)
        except TableNotFoundError:
            return False
        except (DeltaError, OSError) as error:
            raise StoreError(
                f"the lake in {self.location} cannot be reached: {duckdb_connection.one_line(error)}. {STORE_ADVICE}"
            ) from None
        return True

    @property
    def _options(self) -> dict[str, str] | None:
        return duckdb_connection.delta_options(os.environ) if self.remote else None

    def _create(self) -> None:
        import pyarrow as pa
        from deltalake import DeltaTable

        if not self.remote:
            if not UNFIT.isdisjoint(self.location):
                raise StoreError(
                    f"the lake cannot be in {self.location}: its path must not hold any of {' '.join(sorted(UNFIT))}. "
                    "Set storage.lake to another folder; until then all events stay in the database"
                )
            Path(self.location).mkdir(parents=True, exist_ok=True)
        with self._writing():
            DeltaTable.create(
                self.location,
                arrow_schema().append(pa.field("day", pa.string())),
                partition_by=["day"],
                configuration={
                    "delta.dataSkippingNumIndexedCols": "0",  # the log would keep a smallest and a largest visitor
                    "delta.enableExpiredLogCleanup": "false",  # by age, it could take the version that counts
                },
                storage_options=self._options,
            )

    def _listed(self, version: int) -> Sequence[File]:
        if version not in self._files:
            files = self._files_of(self._open(version))
            self._files = {version: files}  # versions only grow, and an older one is hardly asked for again
        return self._files[version]

    def _files_of(self, table: DeltaTable) -> Sequence[File]:
        actions = table.get_add_actions(flatten=True)
        days, paths = (actions.column(name).to_pylist() for name in ("partition.day", "path"))
        return sorted((day, f"{self.location}/{path}") for day, path in zip(days, paths, strict=True))

    def _open(self, version: int | None = None) -> DeltaTable:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        try:
            return DeltaTable(self.location, version=version, storage_options=self._options)
        except (DeltaError, OSError) as error:
            wanted = "" if version is None else f" version {version} of"
            advice = f" {STORE_ADVICE}" if self.remote else ""
            raise StoreError(
                f"the database has sealed days, and{wanted} the lake in {self.location} cannot be opened "
                f"({duckdb_connection.one_line(error)}): bring the folder back, or correct storage.lake.{advice}"
            ) from None


def arrow_schema() -> pa.Schema:
    """The columns of the event table as Arrow has them."""
    import pyarrow as pa

    kinds = {
        schema.Moment: pa.int64(),
        sa.Integer: pa.int32(),
        sa.Float: pa.float64(),
        sa.Boolean: pa.bool_(),
    }
    return pa.schema([(c.name, kinds.get(type(c.type), pa.string())) for c in schema.events.columns])


def raw_columns() -> list[sa.ColumnElement[Any]]:
    """The event table's columns as :func:`arrow_schema` wants their values."""
    return [
        sa.type_coerce(c, sa.BigInteger).label(c.name)
        if isinstance(c.type, schema.Moment)
        else sa.cast(c, sa.Text).label(c.name)
        if isinstance(c.type, sa.JSON)
        else c
        for c in schema.events.columns
    ]


def arrow_table(rows: Sequence[Sequence[Any]]) -> pa.Table:
    """Rows of :func:`raw_columns` as an Arrow table."""
    import pyarrow as pa

    columns = list(zip(*rows, strict=True)) or [()] * len(arrow_schema())
    fields = zip(columns, arrow_schema(), strict=True)
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in fields], schema=arrow_schema())


def day_of(micros: int) -> str:
    """The UTC day of a moment."""
    return f"{from_micros(micros):%Y-%m-%d}"


def _by_day(rows: pa.Table) -> pa.Table:
    """The rows with their day, in the order in which each file is to hold them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = pc.divide(rows["occurred_at"], DAY_MICROS)
    names = pc.cast(pc.cast(pc.cast(numbers, pa.int32()), pa.date32()), pa.string())
    ordered = [(name, "ascending") for name in ("day", *ORDER)]
    return rows.append_column("day", names).sort_by(ordered)


def _properties() -> WriterProperties:
    from deltalake import BloomFilterProperties, ColumnProperties, WriterProperties

    bloom = BloomFilterProperties(True, fpp=0.01, ndv=ROWS_PER_GROUP)
    return WriterProperties(
        compression="ZSTD",
        max_row_group_size=ROWS_PER_GROUP,
        column_properties={"id": ColumnProperties(dictionary_enabled=False, bloom_filter_properties=bloom)},
    )
