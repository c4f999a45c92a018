"""Where the definitions of :mod:`cro_core.analytics.definitions` run: in this process, or on a cluster.

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
from cro_core.analytics.engine import Engine, Named, Row
from cro_core.errors import InvalidInput

if TYPE_CHECKING:
    import pyarrow as pa

DUCKDB = "duckdb"
SPARK = "spark:"


def opened(connection: sa.Connection, name: str = DUCKDB) -> Engine:
    """The engine of that name, over what this connection sees.

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
    """In this process."""

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

    def keep(self, name: str, sql: str, named: Named) -> None:
        """Makes a table of what a selection finds."""
        event_scan.run(self.session, f"CREATE TEMP TABLE {name} AS {sql}", named)

    def rows(self, sql: str, named: Named) -> list[Row]:
        """What a selection finds."""
        found = event_scan.run(self.session, sql, named)
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def table(self, sql: str, named: Named) -> pa.Table:
        """The same in columns."""
        return event_scan.run(self.session, sql, named).to_arrow_table()

    def close(self) -> None:
        """Frees what was made."""
        self.session.close()
