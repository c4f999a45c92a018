"""The protocol of engines, which run SQL on the stored events: DuckDB in this process, or Spark on a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from cro_core.analytics import event_scan

if TYPE_CHECKING:
    import pyarrow as pa


Row = dict[str, Any]
Parameters = Mapping[str, Any]


class Engine(Protocol):
    """An engine runs selections on the stored events as one connection to the database sees them."""

    def give(self, name: str, **columns: Sequence[Any]) -> None:
        """Makes a small table of whole numbers, fractions or text; there must be a row."""

    def view(
        self,
        name: str,
        columns: Sequence[str],
        where: event_scan.Where,
        *,
        since: datetime | None = None,
        before: datetime | None = None,
    ) -> None:
        """Makes a view of the stored events, as :func:`cro_core.analytics.event_scan.view` says."""

    def keep(self, name: str, sql: str, parameters: Parameters) -> None:
        """Makes a table of the rows of a selection."""

    def rows(self, sql: str, parameters: Parameters) -> list[Row]:
        """Runs a selection; returns its rows in its order."""

    def table(self, sql: str, parameters: Parameters) -> pa.Table:
        """Runs a selection; returns its rows in columns."""

    def close(self) -> None:
        """Frees the tables that were made."""
