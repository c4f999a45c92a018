"""Starting a DuckDB of our own: in memory, with bounds, and able to read the lake wherever it lies."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # slow to import, and the service can do without until somebody asks for numbers
    import duckdb

THREADS = 4
"""Most threads of a query: a look is short, and the machine serves visitors meanwhile."""


def started(*, memory: str, spill: str, remote: bool) -> duckdb.DuckDBPyConnection:
    """A new one.

    Args:
        memory: what it holds at most, like ``1GB``; beyond that it uses temporary files.
        spill: folder of these, made only when it is needed.
        remote: whether the lake is in an object store, read with the environment's own credentials.
    """
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": min(THREADS, os.cpu_count() or 1),
        "memory_limit": memory,
        "temp_directory": spill,
    }
    session = duckdb.connect(config=config)
    session.execute("SET parquet_metadata_cache = true")  # the lake's files never change
    if remote:  # extensions that come over the network once; the second knows the chain of credentials
        session.execute("INSTALL httpfs; INSTALL aws; LOAD httpfs; LOAD aws")
        session.execute("CREATE SECRET (TYPE s3, PROVIDER credential_chain)")
    return session
