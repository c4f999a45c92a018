"""Opens the store: SQLite in WAL mode, or PostgreSQL, brought to the current schema by migrations."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.resources import files
from operator import itemgetter
from time import monotonic, sleep
from typing import Any

import sqlalchemy as sa

from cro_core.errors import StoreError
from cro_core.storage import schema
from cro_core.storage.lake import Lake

HEAD = "0004"
"""Revision of the newest migration; a test compares it with the migrations folder."""

BUSY_SECONDS = 30

UPGRADE_LOCK = 0x63726F
"""Number of the PostgreSQL advisory lock that one upgrade at a time holds."""

SEAL_LOCK = UPGRADE_LOCK + 1
"""Number of the PostgreSQL advisory lock that keeps sealed days from moving while events are written."""


Row = tuple[Any, ...]
"""Values in the order of a table's columns."""


class Database:
    """A store and its two ways in: :meth:`read` for a consistent snapshot, :meth:`write` for one transaction."""

    def __init__(self, url: str, lake: Lake | None = None) -> None:
        """Opens the store at an SQLAlchemy URL, and brings it to the current schema.

        Args:
            url: of SQLite or PostgreSQL.
            lake: where its sealed days are; a store without one never seals.

        Raises:
            StoreError: it cannot be opened, or its schema is of another version.
        """
        safe_url = _without_password(url)
        try:
            self.engine = _engine(url).execution_options(lake=lake)
            with self._closed_on_failure():
                self._upgrade()
        except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
            raise StoreError(f"the store {safe_url} cannot be opened: {error.__cause__ or error}") from None
        except ImportError as error:
            raise StoreError(
                f"the store {safe_url} cannot be opened ({error}): install the extra `cro-intelligence[postgres]`"
            ) from None

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Opens a connection on one snapshot; never writes."""
        with self.engine.connect() as connection:
            if (
                connection.dialect.name == "postgresql"
            ):  # whose default sees a new snapshot in every statement
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection

    @contextmanager
    def write(self, patience: float = BUSY_SECONDS) -> Iterator[sa.Connection]:
        """Opens one transaction, committed durably when the block ends and undone if it raises.

        Args:
            patience: seconds that it may wait for another writer.
        """
        options = {"immediate": True, "patience": patience}
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{patience * 1000:.0f}ms'")
            yield connection

    def tidy(self) -> None:
        """Lets the store use again the room of rows that were removed, and look at what there is now."""
        if self.engine.dialect.name == "postgresql":
            self._alone("VACUUM (ANALYZE) events, exposures")

    def scrub(self) -> None:
        """Takes what deleted rows have left out of the store's files; nobody else can write meanwhile.

        PostgreSQL's own log and anybody's backups are out of reach.

        Raises:
            StoreError: somebody reads all the time, or there is no room on the disk; it may be called again.
        """
        try:
            if self.engine.dialect.name == "postgresql":
                self._alone("VACUUM (FULL, ANALYZE) events, exposures, quarantine")
                return
            self._alone("VACUUM")
            end = monotonic() + BUSY_SECONDS
            while self._alone("PRAGMA wal_checkpoint(TRUNCATE)")[0]:
                if monotonic() > end:
                    raise StoreError(
                        "another process reads the store without a pause: close it and try again"
                    )
                sleep(0.1)
        except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
            raise StoreError(f"the store's files could not be cleaned: {error}") from None

    def _alone(self, statement: str) -> Sequence[Any]:
        """Runs a statement that must not be in a transaction; returns its first row."""
        options = {"isolation_level": "AUTOCOMMIT"} if self.engine.dialect.name == "postgresql" else {}
        with self.engine.connect().execution_options(**options) as connection:
            driver: Any = connection.connection.driver_connection
            if connection.dialect.name == "sqlite":
                driver.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
            cursor = driver.execute(statement)
            return tuple(cursor.fetchone() or ()) if cursor.description else ()

    def close(self) -> None:
        """Closes every pooled connection."""
        self.engine.dispose()

    @contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _upgrade(self) -> None:
        revision = self._revision()
        if revision == HEAD:
            return
        if revision is not None and revision > HEAD:
            raise StoreError(
                f"the store has schema {revision}, newer than {HEAD}: use the version of this package that wrote it"
            )
        from alembic import command  # slow to import, and needed once in a store's life
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(files("cro_core.storage") / "migrations"))
        try:
            with self.write() as connection:
                if connection.dialect.name == "postgresql":  # several processes may open a new store at once
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(UPGRADE_LOCK)))
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except CommandError as error:
            raise StoreError(
                f"the store has schema {revision}, which leads to no newer one here ({error}): "
                "restore a backup, or use the version of this package that wrote it"
            ) from None

    def _revision(self) -> str | None:
        with self.read() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            revision: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
            return revision


def lake_of(connection: sa.Connection) -> Lake | None:
    """Returns the lake that belongs to this connection's store."""
    lake: Lake | None = connection.get_execution_options().get("lake")
    return lake


def hold_sealed_days(connection: sa.Connection, *, exclusive: bool) -> None:
    """Keeps days from moving from the database to the lake, but by ourselves (``exclusive``), until the transaction ends.

    Else a writer could look for an id in the lake before, and in the database after it moved, and find it in
    neither. SQLite has one writer at a time anyway.
    """
    if connection.dialect.name == "postgresql":
        lock = sa.func.pg_advisory_xact_lock if exclusive else sa.func.pg_advisory_xact_lock_shared
        connection.execute(sa.select(lock(SEAL_LOCK)))


def _without_password(url: str) -> str:
    """Writes the URL without its password.

    Raises:
        StoreError: it is no URL of SQLite or PostgreSQL.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        kind = url.partition("://")[0][:40] if "://" in url else "no scheme"
        raise StoreError(
            f"the store's URL ({kind}) is not one of SQLite or PostgreSQL: "
            "write it like postgresql://user:password@host:5432/name, with special characters percent-encoded"
        )
    secret = {"password", "sslpassword", "passfile"}
    hidden = {key: "***" if key in secret else value for key, value in parsed.query.items()}
    return parsed.set(query=hidden).render_as_string(hide_password=True)


def _engine(url: str) -> sa.Engine:
    engine = sa.create_engine(url, pool_size=32, max_overflow=32)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we issue BEGIN ourselves; the driver's own timing breaks snapshots
    for pragma in (
        f"busy_timeout={BUSY_SECONDS * 1000}",  # first, so that the others wait too
        "journal_mode=WAL",
        "synchronous=FULL",  # an acknowledged event must survive a power cut
        "foreign_keys=ON",
        "cache_size=-65536",  # up to 64 MB: the default of 2 MB reads an index again for every batch of a large import
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    immediate = options.get("immediate", False)
    if immediate:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={options['patience'] * 1000:.0f}")
    # A writer that begins as a reader can fail half-way; taking the lock at once only ever waits.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def insert_new(connection: sa.Connection, table: sa.Table, rows: Sequence[Row]) -> set[Any]:
    """Inserts rows, whose keys are all different, where their key is not there yet.

    Args:
        connection: inside a write transaction.
        table: with a key of one column.
        rows: values in the order of the table's columns, as the driver takes them.

    Returns:
        The keys that were inserted.
    """
    (key,) = table.primary_key.columns
    place = list(table.columns).index(key)
    stored = stored_values(connection, key, [row[place] for row in rows])
    new = [row for row in rows if row[place] not in stored]
    if connection.dialect.name == "sqlite":  # whose only writer we are
        _insert_many(connection, table, new)
        return {row[place] for row in new}
    inserted = _insert_many(connection, table, new, f"ON CONFLICT DO NOTHING RETURNING {key.name}")
    return set(inserted.scalars()) if inserted else set()


def stored_values(connection: sa.Connection, column: sa.Column[Any], values: Sequence[str]) -> set[str]:
    """Finds those of the values that a text column holds."""
    if not values:
        return set()
    if connection.dialect.name == "sqlite":
        sql = f"SELECT value FROM json_each(?) WHERE value IN (SELECT {column.name} FROM {column.table.name})"  # noqa: S608  names of the schema
        result = connection.exec_driver_sql(sql, (json.dumps(values),))
    else:
        sql = f"SELECT {column.name} FROM {column.table.name} WHERE {column.name} = ANY(%s)"  # noqa: S608  names of the schema
        result = connection.exec_driver_sql(sql, (list(values),))
    return set(result.scalars())


def keep_earliest(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Row], order: Sequence[str]
) -> None:
    """Inserts rows, or replaces those already there that come later; no key may stand twice in ``rows``.

    Args:
        connection: inside a write transaction.
        table: with a key of any columns.
        rows: values in the order of the table's columns, as the driver takes them.
        order: columns that say what is earlier, the first that differs deciding.
    """
    keys = [column.name for column in table.primary_key.columns]
    changed = ", ".join(
        f"{column.name} = excluded.{column.name}" for column in table.columns if not column.primary_key
    )
    new, old = (", ".join(f"{owner}.{name}" for name in order) for owner in ("excluded", table.name))
    conflict = f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changed} WHERE ({new}) < ({old})"
    _insert_many(connection, table, rows, conflict)


def _insert_many(
    connection: sa.Connection, table: sa.Table, rows: Sequence[Row], ending: str = ""
) -> sa.CursorResult[Any] | None:
    """Inserts many rows in the driver's own way: several times as fast as the statements that SQLAlchemy builds."""
    if not rows:
        return None
    columns = list(table.columns)
    keys = [columns.index(column) for column in table.primary_key.columns]
    # Writers that take rows in one order wait for each other, but never in a circle.
    ordered = sorted(rows, key=itemgetter(*keys))
    head = f"INSERT INTO {table.name} ({', '.join(column.name for column in columns)})"
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(columns))
        return connection.exec_driver_sql(f"{head} VALUES ({marks}) {ending}", ordered)
    arrays = ", ".join(f"%s::{column.type.compile(connection.dialect)}[]" for column in columns)
    values = tuple(map(list, zip(*ordered, strict=True)))
    sql = f"{head} SELECT * FROM unnest({arrays}) {ending}"  # noqa: S608  names of the schema
    return connection.exec_driver_sql(sql, values)


def add_counts(connection: sa.Connection, counts: dict[tuple[str, str], int]) -> None:
    """Adds to the receipts ``(experiment id or '', outcome) -> count``."""
    if not counts:
        return
    adding = "ON CONFLICT (experiment_id, outcome) DO UPDATE SET count = receipts.count + excluded.count"
    _insert_many(connection, schema.receipts, [(*key, count) for key, count in counts.items()], adding)


def count_up(connection: sa.Connection, key: str) -> None:
    """Adds 1 to a number in the home table; the first time it becomes 1."""
    number = sa.cast(sa.cast(schema.home.c.value, sa.BigInteger) + 1, sa.Text)
    statement = _insert(connection, schema.home).values(key=key, value="1")
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": number}))


def _insert(connection: sa.Connection, table: sa.Table) -> Any:
    """Makes the dialect's own INSERT, which knows ON CONFLICT."""
    dialect = import_module(f"sqlalchemy.dialects.{connection.dialect.name}")
    return dialect.insert(table)
