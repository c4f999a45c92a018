"""Alembic's entry: runs on the connection that the store hands over, or on a URL for developers."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine

from cro_core.storage.schema import metadata


def run() -> None:
    """Runs the migrations on the store's connection, else on ``sqlalchemy.url``."""
    connection = context.config.attributes.get("connection")
    if connection is not None:
        migrate(connection)
        return
    url = context.config.get_main_option("sqlalchemy.url")
    if url is None:
        raise ValueError("alembic has neither a connection nor a URL: set sqlalchemy.url")
    with create_engine(url).connect() as own:
        migrate(own)


def migrate(connection: Connection) -> None:
    """Runs the migrations in one transaction."""
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


run()
