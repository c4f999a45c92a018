"""Spark as the engine: the definitions on a cluster, over the lake's files and the database's rows.

The texts are those that DuckDB runs, written in Spark's words by sqlglot. Spark reads the Parquet files of the
version of the lake that counts, by their addresses, so it needs no Delta library; the events of the days that are
not sealed are sent to it. Workers run no Python. What else Spark is to know (memory, access to an object store)
is in its own ``spark-defaults.conf``, in the folder that SPARK_CONF_DIR names.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from cro_core.analytics import event_scan
from cro_core.analytics.engine import Parameters, Row
from cro_core.clock import to_micros
from cro_core.errors import StoreError
from cro_core.storage.lake import arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

ANSWER_SECONDS = 5
"""Most seconds that a master may take to answer."""

WORKER_SECONDS = 60
"""Most seconds that a master may take to find the first worker for us."""

PIECES = "spark.sql.shuffle.partitions"
"""Name of Spark's setting of how many pieces tables are cut into; its 200 make small questions slow."""

FEWEST_PIECES, PIECES_PER_CORE = 8, 3
"""Fewest pieces that tables are cut into, and pieces for each core, where nobody set them."""

INSTALL = "install the extra: pip install 'cro-intelligence[spark]'"


class Spark:
    """A session of its own at a master, with tables that nobody else sees: a :class:`cro_core.analytics.engine.Engine`.

    Args:
        connection: the store.
        master: its address as Spark writes it, such as ``spark://host:7077`` or ``local[2]``.

    Raises:
        StoreError: pyspark or Java is missing, or no master answers, or it has no workers for us.
    """

    def __init__(self, connection: sa.Connection, master: str) -> None:
        self._connection = connection
        self._session = _started(master).newSession()
        cluster = self._session.sparkContext
        if not cluster.getConf().contains(PIECES):
            pieces = max(FEWEST_PIECES, PIECES_PER_CORE * cluster.defaultParallelism)
            self._session.conf.set(PIECES, pieces)
        self._kept: list[DataFrame] = []

    def give(self, name: str, **columns: Sequence[Any]) -> None:
        """Makes a small table."""
        import pyarrow as pa

        self._name(name, self._frame(pa.table({key: list(values) for key, values in columns.items()})))

    def view(
        self,
        name: str,
        columns: Sequence[str],
        where: event_scan.Where,
        *,
        since: datetime | None = None,
        before: datetime | None = None,
    ) -> None:
        """Makes a view of the stored events."""
        rows, files = event_scan.pieces(self._connection, columns, where, since=since, before=before)
        frame = self._frame(event_scan.in_columns(rows))
        if files:
            with _failures():
                reader = self._session.read.schema(self._kinds(arrow_schema()))
                lake_rows = reader.parquet(*(_address(file) for file in files))
            frame = frame.unionAll(lake_rows.select(*columns))
        if since:
            frame = frame.where(frame["occurred_at"] >= to_micros(since))
        if before:
            frame = frame.where(frame["occurred_at"] < to_micros(before))
        self._name(name, frame)

    def keep(self, name: str, sql: str, parameters: Parameters) -> None:
        """Makes a table of the rows of a selection."""
        frame = self._selected(sql, parameters).persist()
        self._kept.append(frame)
        self._name(name, frame)

    def rows(self, sql: str, parameters: Parameters) -> list[Row]:
        """Runs a selection; returns its rows."""
        with _failures():
            return [row.asDict() for row in self._selected(sql, parameters).collect()]

    def table(self, sql: str, parameters: Parameters) -> pa.Table:
        """Runs a selection; returns its rows in columns."""
        with _failures():
            return self._selected(sql, parameters).toArrow()

    def close(self) -> None:
        """Frees the tables that were made."""
        for frame in self._kept:
            frame.unpersist()

    def _selected(self, sql: str, parameters: Parameters) -> DataFrame:
        return self._session.sql(in_spark(sql), args=dict(parameters))

    def _name(self, name: str, frame: DataFrame) -> None:
        frame.createOrReplaceTempView(name)

    def _frame(self, rows: pa.Table) -> DataFrame:
        return self._session.createDataFrame(rows, self._kinds(rows.schema))

    def _kinds(self, columns: pa.Schema) -> StructType:
        from pyspark.sql.pandas.types import from_arrow_schema

        return from_arrow_schema(columns)


@cache
def in_spark(sql: str) -> str:
    """Translates a text of :mod:`cro_core.analytics.definitions` into Spark's words.

    Sums lose their order, which Spark does not keep.
    """
    import sqlglot
    from sqlglot import exp

    tree = sqlglot.parse_one(sql, read="duckdb")
    for total in tree.find_all(exp.Sum):
        if isinstance(total.this, exp.Order):
            total.set("this", total.this.this)
    return tree.sql(dialect="spark")


def _started(master: str) -> SparkSession:
    """Returns the session of the process; it starts with the first use and ends with the process."""
    try:
        import sqlglot  # noqa: F401  not needed before the first text, but missed with a better message
        from pyspark import SparkContext
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise StoreError(f"{error.name} is missing, which the engine Spark needs: {INSTALL}") from None
    running = SparkContext._active_spark_context
    if running is not None and running.master != master:
        raise StoreError(
            f"this process uses Spark at {running.master} already, and {master} was asked for: "
            "a process can use one; start another"
        )
    builder = SparkSession.builder.master(master).appName("cro")
    for key, value in {
        "ui.showConsoleProgress": "false",
        "ui.enabled": "false",
        "log.level": "ERROR",
    }.items():
        builder = builder.config(f"spark.{key}", value)
    if running is None and master.startswith("spark://"):
        builder = builder.config("spark.driver.host", _answering(master))
    with _failures(f"Spark could not be started at {master} (it needs Java 17 or newer, see JAVA_HOME)"):
        session = builder.getOrCreate()
    if running is None and master.startswith("spark://"):
        _wait_for_workers(session, master)
    return session


def _answering(master: str) -> str:
    """Finds our own address as the first of the masters that answers sees it: there the workers will find us."""
    addresses = master.removeprefix("spark://").split(",")
    for address in addresses:
        host, _, port = address.rpartition(":")
        try:
            with socket.create_connection((host, int(port)), ANSWER_SECONDS) as answered:
                return str(answered.getsockname()[0])
        except (OSError, ValueError):
            continue
    raise StoreError(
        f"no Spark master answers at {master}: start it, or correct the address (spark://HOST:PORT), "
        "or leave --engine out"
    )


def _wait_for_workers(session: SparkSession, master: str) -> None:
    """Waits until workers are there, or raises: Spark itself would wait for ever."""
    tracker = session.sparkContext._jsc.sc().statusTracker()  # Python has no name for it
    end = time.monotonic() + WORKER_SECONDS
    while len(tracker.getExecutorInfos()) < 2:  # the first is we ourselves
        if time.monotonic() > end:
            session.stop()
            raise StoreError(
                f"the Spark master at {master} found no worker for us in {WORKER_SECONDS} s: start workers, "
                "or wait until others have freed theirs"
            )
        time.sleep(0.1)


@contextmanager
def _failures(
    failure: str = "Spark could not read the events (each worker must reach the lake)",
) -> Iterator[None]:
    """Turns Spark's own errors, which have pages of Java in them, into a line."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (Py4JError, PySparkException) as error:
        lines = [line.strip(" :.") for line in str(error).splitlines()]
        reason = next(
            (line for line in lines if line and not line.startswith("An error occurred")), "no reason"
        )
        raise StoreError(f"{failure}: {reason}") from None


def _address(file: str) -> str:
    """Writes a file of the lake as Spark wants it: no pattern, and S3 under the name of its present library."""
    literal = re.sub(r"([\\*?\[\]{}])", r"\\\1", file)
    return re.sub(r"^s3://", "s3a://", literal) if "://" in file else f"file:{literal}"
