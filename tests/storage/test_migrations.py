"""Opening a store: the migrations lead to the schema, and what is not ours is refused."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from conftest import BACKENDS

from cro_core.errors import StoreError
from cro_core.storage import database as module
from cro_core.storage import schema
from cro_core.storage.database import HEAD, Database

FOLDER = Path(module.__file__).parent / "migrations"


def _version(database: Database, version: str) -> None:
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = :v"), {"v": version})


def test_migrations_and_schema_are_the_same(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, schema.metadata) == []


def test_a_difference_would_be_seen(database: Database) -> None:
    """The check above is not blind."""
    with database.write() as connection:
        connection.execute(sa.text("ALTER TABLE events ADD COLUMN colour TEXT"))
        connection.execute(sa.text("DROP INDEX ix_audit_subject"))
    with database.engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), schema.metadata)
    assert {step[0] for step in found} == {"remove_column", "add_index"}


def test_the_named_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    script = ScriptDirectory.from_config(config)
    assert script.get_heads() == [HEAD]
    revisions = [r.revision for r in script.walk_revisions()]
    assert revisions == sorted(revisions, reverse=True)  # "newer" is decided by order


def test_a_newer_store_is_refused_untouched(database: Database) -> None:
    _version(database, "9999")
    with pytest.raises(
        StoreError, match=f"has schema 9999, newer than {HEAD}: use the version of this package"
    ):
        Database(str(database.engine.url.render_as_string(hide_password=False)))
    with database.read() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == "9999"


def test_an_unknown_older_store_is_refused(database: Database) -> None:
    _version(database, "0000")
    with pytest.raises(StoreError, match="has schema 0000, which leads to no newer one here"):
        Database(str(database.engine.url.render_as_string(hide_password=False)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_new_store_may_be_opened_by_many_at_once(backend: str, empty_url: Callable[[str], str]) -> None:
    url = empty_url(backend)

    def tables(_: int) -> set[str]:
        opened = Database(url)
        with opened.read() as connection:
            found = set(sa.inspect(connection).get_table_names())
        opened.close()
        return found

    with ThreadPoolExecutor(6) as pool:
        assert all(
            found == {*schema.metadata.tables, "alembic_version"} for found in pool.map(tables, range(6))
        )


def test_sqlite_is_set_up_to_lose_nothing(tmp_path: Path) -> None:
    opened = Database(f"sqlite:///{tmp_path / 'cro.sqlite'}")
    with opened.read() as connection:
        found = {
            name: connection.scalar(sa.text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous")
        }
        found |= {
            name: connection.scalar(sa.text(f"PRAGMA {name}")) for name in ("foreign_keys", "busy_timeout")
        }
    opened.close()
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cro.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        Database(f"sqlite:///{tmp_path / 'cro.sqlite'}")
    with pytest.raises(StoreError, match="unable to open database file"):
        Database(f"sqlite:///{tmp_path / 'no' / 'such' / 'folder' / 'cro.sqlite'}")


def test_postgres_readers_cannot_write(empty_url: Callable[..., str], postgres: sa.Engine) -> None:
    opened = Database(empty_url("postgres", "migrated"))
    with opened.read() as connection, pytest.raises(sa.exc.DBAPIError, match="read-only transaction"):
        connection.execute(sa.insert(schema.home).values(key="x", value="1"))
    with opened.write() as connection:  # the pooled connection is not read-only for good
        connection.execute(sa.insert(schema.home).values(key="x", value="1"))
    opened.close()
