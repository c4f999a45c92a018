"""Opening the store: SQLite in WAL mode, or PostgreSQL, brought to the current schema by migrations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from cro_core.errors import StoreError
from cro_core.storage import schema

HEAD = "0001"
"""Revision of the newest migration; a test compares it with the migrations folder."""

BUSY_SECONDS = 30


class Database:
    """A store and its two ways in: :meth:`read` for a consistent snapshot, :meth:`write` for one transaction."""

    def __init__(self, url: str) -> None:
        try:
            self.engine = _engine(url)
            self._upgrade()
        except sa.exc.SQLAlchemyError as error:
            # The URL may hold a password; SQLAlchemy's rendering hides it.
            shown = sa.make_url(url).render_as_string(hide_password=True) if "://" in url else url
            raise StoreError(f"the store {shown} cannot be opened: {error.__cause__ or error}") from None

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection on one snapshot; never writes."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction, committed durably when the block ends and undone if it raises."""
        with self.engine.connect().execution_options(immediate=True) as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Closes every pooled connection."""
        self.engine.dispose()

    def _upgrade(self) -> None:
        found = self._revision()
        if found == HEAD:
            return
        if found is not None and found > HEAD:
            raise StoreError(f"the store has schema {found}, newer than {HEAD}: use the version of this package that wrote it")
        from alembic import command  # slow to import, and needed once in a store's life
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(files("cro_core.storage") / "migrations"))
        with self.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def _revision(self) -> str | None:
        with self.read() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            return connection.scalar(sa.text("SELECT version_num FROM alembic_version"))


def _engine(url: str) -> sa.Engine:
    engine = sa.create_engine(url, pool_size=32, max_overflow=32)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we issue BEGIN ourselves; the driver's own timing breaks snapshots
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # an acknowledged event must survive a power cut
        f"busy_timeout={BUSY_SECONDS * 1000}",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    # A writer that begins as a reader can fail half-way; taking the lock at once only ever waits.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def insert_new(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> set[Any]:
    """Inserts the rows whose primary key is not there yet; returns the first key column of those inserted."""
    if not rows:
        return set()
    key = list(table.primary_key.columns)[0]
    statement = _insert(connection, table).on_conflict_do_nothing().returning(key)
    return set(connection.execute(statement, list(rows)).scalars())


def keep_earliest(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]], time: str) -> None:
    """Inserts the rows, or replaces those already there that are later; no key may stand twice in ``rows``."""
    if not rows:
        return
    insert = _insert(connection, table)
    statement = insert.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={c.name: insert.excluded[c.name] for c in table.columns if not c.primary_key},
        where=insert.excluded[time] < table.c[time],
    )
    connection.execute(statement, list(rows))


def add_counts(connection: sa.Connection, counts: dict[tuple[str, str], int]) -> None:
    """Adds to the receipts ``(experiment id or '', outcome) -> count``."""
    if not counts:
        return
    insert = _insert(connection, schema.receipts)
    statement = insert.on_conflict_do_update(
        index_elements=["experiment_id", "outcome"], set_={"count": schema.receipts.c.count + insert.excluded.count}
    )
    rows = [{"experiment_id": e, "outcome": o, "count": n} for (e, o), n in sorted(counts.items())]
    connection.execute(statement, rows)


def _insert(connection: sa.Connection, table: sa.Table) -> Any:
    """The dialect's own INSERT, which knows ON CONFLICT."""
    dialect: Any = sqlite if connection.dialect.name == "sqlite" else postgresql
    return dialect.insert(table)
