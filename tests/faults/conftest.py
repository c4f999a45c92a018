"""A shop upon each of the two databases, and services of it that end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from helpers.fault_means import Service, make_shop

from cro_core.home import Home


@pytest.fixture
def shop(database_url: str, tmp_path: Path) -> Iterator[Home]:
    """Upon SQLite and PostgreSQL in turn."""
    home = make_shop(tmp_path / "home", database_url)
    yield home
    home.db.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts a service of a home, with settings of the section ``service``; stops it after the test."""
    with ExitStack() as running:

        def start(home: Home, **settings: Any) -> Service:
            return running.enter_context(Service(home, tmp_path / "service.log", **settings))

        yield start
