"""The sealed days: a Delta table of Parquet files, one partition a day (UTC), each sorted for reading."""

from __future__ import annotations

from collections.abc import Collection


class Lake:
    """A lake at a folder or an object-store address; it exists once something was sealed."""

    def __init__(self, location: str) -> None:
        self.location = location

    def files(self, version: int) -> list[str]:
        """The Parquet files of a version, as DuckDB reads them."""
        raise NotImplementedError

    def present(self, version: int, ids: Collection[str]) -> set[str]:
        """Those of the event ids that a version holds."""
        raise NotImplementedError
