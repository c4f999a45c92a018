"""Which version of the lake counts: noted in the database, in the transaction that removes what it holds there."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from cro_core.storage import schema


def current(connection: sa.Connection) -> int | None:
    """The version of the lake that belongs to this connection's snapshot; ``None`` before anything was sealed."""
    table = schema.lake_versions.c
    return connection.scalar(sa.select(table.version).order_by(table.number.desc()).limit(1))


def already_sealed(connection: sa.Connection, ids: Collection[str]) -> set[str]:
    """Those of the event ids that are in the lake."""
    return set()
