"""Opens engines, which run the texts of :mod:`cro_core.analytics.definitions`: in this process, or on a cluster.

Both engines get the same texts and read the same lake and database, so both give the same counts. Sums of
fractions are the same to the last bit on DuckDB wherever the events lie; Spark adds them up in the order in
which its workers finish, so there they agree to 9 digits at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from cro_core.analytics import event_scan
from cro_core.analytics.engine import Engine, Parameters, Row
from cro_core.errors import InvalidInput

if TYPE_CHECKING:
    import pyarrow as pa

DUCKDB = "duckdb"
SPARK = "spark:"


def opened(connection: sa.Connection, name: str = DUCKDB) -> Engine:
    """Opens the engine of that name, over what this connection sees.

    Args:
        connection: the store; it must stay open as long as the engine is used.
        name: ``duckdb``; or the address of a Spark master: ``spark://host:7077``, or ``spark:`` before any
            other that Spark knows, such as ``spark:local[2]``.

    Raises:
        InvalidInput: no such engine.
        StoreError: Spark cannot be started or reached.
    """
    if name == DUCKDB:
        return DuckDB(connection)
    if name.startswith(SPARK) and name != SPARK:
        from cro_core.analytics.spark import Spark

        return Spark(connection, name if name.startswith("spark://") else name.removeprefix(SPARK))
    raise InvalidInput(
        f"engine is {name!r}: give {DUCKDB}, spark://HOST:PORT, or spark: and another address of a Spark "
        "master, such as spark:local[2]",
        field="engine",
    )


class DuckDB:
    """DuckDB as the engine: the definitions run in this process."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self.session = event_scan.opened(connection)

    def give(self, name: str, **columns: Sequence[Any]) -> None:
        """Makes a small table."""
        event_scan.give(self.session, name, **columns)

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
        event_scan.view(self.session, name, self._connection, columns, where, since=since, before=before)

    def keep(self, name: str, sql: str, parameters: Parameters) -> None:
        """Makes a table of the rows of a selection."""
        event_scan.run(self.session, f"CREATE TEMP TABLE {name} AS {sql}", parameters)

    def rows(self, sql: str, parameters: Parameters) -> list[Row]:
        """Runs a selection; returns its rows."""
        result = event_scan.run(self.session, sql, parameters)
        names = [column[0] for column in result.description or ()]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def table(self, sql: str, parameters: Parameters) -> pa.Table:
        """Runs a selection; returns its rows in columns."""
        return event_scan.run(self.session, sql, parameters).to_arrow_table()

    def close(self) -> None:
        """Frees the tables that were made."""
        self.session.close()
