"""A home: made once, its secrets for the owner only, its locks freed by death, its clock by hand."""

from __future__ import annotations

import base64
import os
import signal
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cro_core.clock import system_clock
from cro_core.domain import Status
from cro_core.errors import Busy, ConfigError, Conflict, NotFound, StoreError
from cro_core.home import Home, create_home, default_path, open_home, set_clock
from cro_core.storage import experiments


@pytest.fixture
def made(tmp_path: Path) -> Home:
    home = create_home(tmp_path / "home", environ={})
    home.db.close()
    return home


class TestMaking:
    def test_a_new_home_has_its_places_and_its_settings(self, made: Home) -> None:
        assert all(p.is_dir() for p in (made.data, made.media, made.reports, made.runs))
        assert (made.data / "cro.sqlite").is_file()
        assert open_home(made.path, {}).config == made.config
        assert not made.simulated
        assert made.clock is system_clock

    def test_an_existing_home_is_left_alone(self, made: Home) -> None:
        before = {p: p.read_bytes() for p in made.path.rglob("*.json")}
        with pytest.raises(Conflict, match="is a home already: nothing was changed"):
            create_home(made.path, {"site": {"name": "Other"}}, {})
        assert {p: p.read_bytes() for p in made.path.rglob("*.json")} == before

    def test_refused_settings_leave_nothing_behind(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"service\.port"):
            create_home(tmp_path / "home", {"service": {"port": 0}}, {})
        with pytest.raises(ConfigError, match="CRO_SERVICE__PORT"):
            create_home(tmp_path / "home", {}, {"CRO_SERVICE__PORT": "0"})
        assert not (tmp_path / "home").exists()

    def test_a_folder_that_is_no_home_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="run `cro init --home"):
            open_home(tmp_path, {})

    def test_the_environment_says_where(self, made: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        assert open_home(environ={"CRO_HOME": str(made.path)}).path == made.path
        monkeypatch.chdir(made.path)
        assert default_path({}) == made.path

    def test_the_environment_overrides_settings(self, made: Home) -> None:
        opened = open_home(made.path, {"CRO_AUTOMATION__ENABLED": "false"})
        assert opened.config.automation.enabled is False
        assert opened.loaded.sources["automation.enabled"] == "CRO_AUTOMATION__ENABLED"


class TestSecrets:
    def test_only_the_owner_may_read_them(self, made: Home) -> None:
        mode = stat.S_IMODE((made.data / "secrets.json").stat().st_mode)
        assert oct(mode) == "0o600"

    def test_a_wide_umask_does_not_widen_them(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            home = create_home(tmp_path / "home", environ={})
        finally:
            os.umask(before)
        home.db.close()
        assert stat.S_IMODE((home.data / "secrets.json").stat().st_mode) == 0o600

    def test_every_home_has_its_own_and_keeps_it(self, made: Home, tmp_path: Path) -> None:
        other = create_home(tmp_path / "other", environ={})
        other.db.close()
        assert (made.salt, made.admin_key) != (other.salt, other.admin_key)
        assert len(made.salt) == 32
        reopened = open_home(made.path, {})
        assert (reopened.salt, reopened.admin_key) == (made.salt, made.admin_key)

    def test_the_environment_comes_first(self, made: Home) -> None:
        salt = base64.b64encode(b"s" * 32).decode()
        opened = open_home(made.path, {"CRO_SALT": salt, "CRO_ADMIN_KEY": "k"})
        assert (opened.salt, opened.admin_key) == (b"s" * 32, "k")
        (made.data / "secrets.json").unlink()
        assert opened.salt == b"s" * 32
        with pytest.raises(NotFound, match="set CRO_SALT and CRO_ADMIN_KEY"):
            _ = open_home(made.path, {}).salt

    @pytest.mark.parametrize("salt", ["short", "not base64!", base64.b64encode(b"x" * 15).decode()])
    def test_a_weak_salt_is_refused(self, made: Home, salt: str) -> None:
        with pytest.raises(ConfigError, match="at least 16 bytes") as refused:
            _ = open_home(made.path, {"CRO_SALT": salt}).salt
        assert salt not in str(refused.value)

    @pytest.mark.parametrize(("content", "said"), [("{", "is not JSON"), ("{}", "has no admin_key")])
    def test_a_damaged_file_says_so(self, made: Home, content: str, said: str) -> None:
        (made.data / "secrets.json").write_text(content)
        with pytest.raises(ConfigError, match=said):
            _ = open_home(made.path, {}).admin_key

    def test_nothing_secret_is_printed(self, made: Home) -> None:
        opened = open_home(made.path, {"CRO_DATABASE_URL": "postgresql://u:hunter2@h/db"})
        shown = repr(opened) + str(opened)
        assert "hunter2" not in shown
        assert opened.admin_key not in shown


class TestDatabaseUrl:
    @pytest.mark.parametrize(
        ("given", "used"),
        [
            ("postgresql://u@h/db", "postgresql+psycopg://u@h/db"),
            ("postgres://u@h/db", "postgresql+psycopg://u@h/db"),
            ("postgresql+psycopg://u@h/db", "postgresql+psycopg://u@h/db"),
            ("sqlite:////tmp/x.sqlite", "sqlite:////tmp/x.sqlite"),
        ],
    )
    def test_the_usual_addresses_are_taken(self, made: Home, given: str, used: str) -> None:
        assert open_home(made.path, {"CRO_DATABASE_URL": given}).database_url == used

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://cro:hunter2@127.0.0.1:1/cro",
            "postgresql://cro:hunter2@127.0.0.1:1/cro?connect_timeout=1&sslpassword=hunter2",
            "postgresql://cro:hunter2@127.0.0.1:port/cro",
            "postgresql://cro:hunter2@[::1/cro",
            "mysql://cro:hunter2@127.0.0.1/cro",
            "nosuch+driver://cro:hunter2@127.0.0.1/cro",
            "postgresql+nosuch://cro:hunter2@127.0.0.1/cro",
            "cro:hunter2@127.0.0.1",
            "hunter2",
        ],
    )
    def test_a_store_that_cannot_be_opened_never_shows_its_password(self, made: Home, url: str) -> None:
        home = open_home(made.path, {"CRO_DATABASE_URL": url})
        with pytest.raises(StoreError) as refused:
            _ = home.db
        assert "hunter2" not in str(refused.value)
        assert refused.value.__suppress_context__ or refused.value.__context__ is None


HOLD = """
import sys
from cro_core.home import open_home
with open_home(sys.argv[1]).lock("cycle"):
    print("held", flush=True)
    sys.stdin.read()
"""


class TestLock:
    def test_only_one_holds_it(self, made: Home) -> None:
        with made.lock("cycle"):
            with (
                pytest.raises(Busy, match="cycle is running in another process: nothing was done"),
                made.lock("cycle"),
            ):
                pytest.fail("two hold the lock")
            with made.lock("train"):
                pass
        with made.lock("cycle"):
            pass

    def test_an_error_inside_frees_it(self, made: Home) -> None:
        with pytest.raises(ZeroDivisionError), made.lock("cycle"):
            _ = 1 / 0
        with made.lock("cycle"):
            pass

    def test_threads_exclude_each_other_too(self, made: Home) -> None:
        refused: list[BaseException] = []

        def other() -> None:
            try:
                with made.lock("cycle"):
                    pass
            except Busy as error:
                refused.append(error)

        with made.lock("cycle"):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        assert len(refused) == 1

    def test_death_frees_it(self, made: Home) -> None:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(made.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(Busy), made.lock("cycle"):
                pass
            holder.send_signal(signal.SIGKILL)
            assert holder.wait(timeout=30) == -signal.SIGKILL
            with made.lock("cycle"):
                pass


class TestSimulatedClock:
    def test_all_who_opened_the_home_see_it_move(self, made: Home) -> None:
        now = datetime(2026, 3, 2, 9, 0, 0, 250_000, tzinfo=UTC)
        set_clock(made, now)
        service, cycle = open_home(made.path, {}), open_home(made.path, {})
        assert service.simulated
        assert service.clock() == cycle.clock() == now
        set_clock(service, now + timedelta(hours=1))
        assert cycle.clock() == now + timedelta(hours=1)


def test_two_processes_and_threads_may_open_a_new_home_at_once(made: Home) -> None:
    """Whoever comes first makes the schema; the others wait for it."""
    for file in made.data.glob("cro.sqlite*"):
        file.unlink()
    failures: list[BaseException] = []

    def use() -> None:
        try:
            home = open_home(made.path, {})
            with home.db.read() as connection:
                assert experiments.with_status(connection, Status.RUNNING) == []
            home.db.close()
        except BaseException as error:  # noqa: BLE001  the main thread reports it
            failures.append(error)

    script = "import sys; from cro_core.home import open_home; open_home(sys.argv[1]).db.close()"
    other = subprocess.Popen([sys.executable, "-c", script, str(made.path)])
    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert other.wait(timeout=60) == 0
    assert failures == []
