"""Alembic's entry: runs on the connection that the store hands over, or on a URL for developers."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine

from cro_core.storage.schema import metadata


def run() -> None:
    """Runs the migrations in one transaction."""
    connection = context.config.attributes.get("connection")
    if connection is None:
        connection = create_engine(context.config.get_main_option("sqlalchemy.url")).connect()
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


run()
