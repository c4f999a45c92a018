"""What machines ask: is it alive, and what can it do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import sqlalchemy as sa
from flask import Response, current_app, jsonify

import cro_core
from cro_core.errors import StoreError
from cro_core.home import Home
from service.auth import Access
from service.endpoints import Answer, Reply, Section
from service.schemas import HealthAnswer

section = Section("system", "For machines: is it alive, and what can it do.", prefix="")

LEAST_FREE_BYTES = 20_000_000
"""Below this a write may fail half-way through a day."""


@section.get("/healthz", access=Access.PUBLIC, replies={200: Reply(HealthAnswer, "The service works.")})
def get_health(home: Home) -> Answer:
    """Whether the service works.

    Reads the store, and for a store in a file looks whether that file is still there, can be written, and has
    room to grow. 503 where not.
    """
    with home.db.read() as connection:
        schema_version = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    if home.db.engine.dialect.name == "sqlite":
        _check_file(Path(home.db.engine.url.database or ""))
    return Answer(
        {
            "status": "ok",
            "version": cro_core.__version__,
            "schema_version": schema_version,
            "now": home.clock(),
        }
    )


def _check_file(file: Path) -> None:
    """Raises:
    StoreError: the file was removed under us, cannot be written, or its disk is full.
    """
    if not os.access(file, os.R_OK | os.W_OK):
        raise StoreError(f"{file} is gone or cannot be written: open connections would write into nothing")
    free = shutil.disk_usage(file.parent).free
    if free < LEAST_FREE_BYTES:
        raise StoreError(f"the disk of {file} has {free:,} bytes left: make room")


@section.blueprint.get("/api/openapi.json")
def get_document() -> Response:
    """This document."""
    built: dict[str, object] = current_app.extensions.setdefault("cro_built", {})
    if not built:
        built.update(current_app.extensions["cro_document"]())
    return jsonify(built)
