"""A home with one running experiment, the app over it, and the real server over another such home."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from flask import Flask
from flask.testing import FlaskClient
from helpers.service_samples import Server, make_home, start_server

from cro_core.home import Home, open_home
from service.app import create_app
from service.fast_path import with_fast_path


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once and copied for each test: a new store costs more than most tests."""
    made = make_home(tmp_path_factory.mktemp("template") / "home")
    made.db.close()
    return made.path


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Iterator[Home]:
    shutil.copytree(template, tmp_path / "home")
    opened = open_home(tmp_path / "home")
    yield opened
    opened.db.close()


@pytest.fixture
def careful_home(tmp_path: Path) -> Iterator[Home]:
    """A home that asks before it ships, and small enough limits to reach them."""
    settings = {
        "automation": {"auto_declare_winners": False},
        "service": {"max_body_bytes": 2000, "max_events_per_request": 3},
    }
    made = make_home(tmp_path / "careful", settings)
    yield made
    made.db.close()


@pytest.fixture
def way() -> str:
    """How events are answered, by ``flask`` or by the ``fast_path``; a test that is about events asks for both."""
    return "flask"


@pytest.fixture
def make_app(way: str) -> Callable[[Home], Flask]:
    return lambda home: with_fast_path(create_app(home)) if way == "fast_path" else create_app(home)


@pytest.fixture
def app(home: Home, make_app: Callable[[Home], Flask]) -> Flask:
    return make_app(home)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the limits no time passes: a request counts for the same however slow this machine is."""
    for module in ("limits.storage.memory", "limits.strategies"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(time=lambda: 1_800_000_000.0))


@pytest.fixture
def key(home: Home) -> dict[str, str]:
    return {"X-API-Key": home.admin_key}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    home = make_home(folder / "home")
    running = start_server(home, folder / "server.log")
    yield running
    running.process.terminate()
    running.process.wait(timeout=30)
    home.db.close()
