"""The store is away for a while: locked by another process, on a full disk, or behind a full queue."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from helpers.fault_means import (
    Client,
    Ledger,
    Service,
    Traffic,
    accounted,
    load,
    make_shop,
    until,
    until_more,
)

from cro_core.home import Home
from cro_core.storage.database import SEAL_LOCK

HOLD = """
import sys, sqlalchemy
engine = sqlalchemy.create_engine(sys.argv[1], isolation_level="AUTOCOMMIT")
with engine.connect() as connection:
    for statement in sys.argv[2:]:
        connection.exec_driver_sql(statement)
    print("held", flush=True)
    sys.stdin.read()
    connection.exec_driver_sql("ROLLBACK")
"""

TABLE = ("BEGIN", "LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
SEALING = ("BEGIN", f"SELECT pg_advisory_xact_lock({SEAL_LOCK})")


@contextmanager
def held(home: Home, *statements: str) -> Iterator[None]:
    """Another process holds the store's lock while the block runs."""
    command = [sys.executable, "-c", HOLD, home.database_url, *statements]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin is not None
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "held\n"
        yield
    finally:
        other.communicate("", timeout=30)
    assert other.returncode == 0


def _locks(home: Home, sqlite: str, postgres: tuple[str, ...]) -> tuple[str, ...]:
    return (sqlite,) if home.database_url.startswith("sqlite") else postgres


def _events(home: Home) -> int:
    store = sa.create_engine(home.database_url, poolclass=sa.NullPool)
    with store.connect() as connection:
        return int(connection.scalar(sa.text("SELECT COUNT(*) FROM events")) or 0)


class Answer(NamedTuple):
    """What a post came to."""

    status: int | None
    seconds: float
    error: str | None


def _post_each(service: Service, ledger: Ledger, posts: list[list[dict[str, Any]]]) -> list[Answer]:
    """All at once, each on a connection of its own."""

    def post(items: list[dict[str, Any]]) -> Answer:
        began = time.monotonic()
        with closing(Client(ledger, [service.port])) as client:
            status, answer = client.post(items)
        return Answer(status, time.monotonic() - began, answer["error"]["code"] if status == 503 else None)

    with ThreadPoolExecutor(len(posts)) as pool:
        return list(pool.map(post, posts))


def test_a_short_lock_only_makes_requests_wait(shop: Home, serve: Callable[..., Service]) -> None:
    service, ledger, traffic = serve(shop), Ledger(), Traffic("short", 1)
    answers: list[Answer] = []
    with held(shop, *_locks(shop, "BEGIN EXCLUSIVE", SEALING)):
        posts = [traffic.items(count) for count in (1, 1, 50, 50)]
        thread = threading.Thread(target=lambda: answers.extend(_post_each(service, ledger, posts)))
        thread.start()
        time.sleep(2)
        assert answers == []
    thread.join(timeout=30)
    assert [answer.status for answer in answers] == [202] * 4
    accounted(shop, ledger)


@pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)], indirect=True
)
def test_a_long_lock_is_503_after_the_intakes_patience(shop: Home, serve: Callable[..., Service]) -> None:
    service, ledger, traffic = serve(shop), Ledger(), Traffic("long", 2)
    posts = [traffic.items(count) for count in (1, 1, 50, 50)]
    with held(shop, *_locks(shop, "BEGIN IMMEDIATE", TABLE)), ThreadPoolExecutor(1) as pool:
        answers = pool.submit(_post_each, service, ledger, posts)
        asked = []
        while not answers.done():
            began = time.monotonic()
            assert service.call("GET", "/healthz")[0] == 200
            asked.append(time.monotonic() - began)
            time.sleep(0.2)
        assert len(asked) > 10
        assert max(asked) < 2, "those who only read must not wait"
    for answer in answers.result():
        assert (answer.status, answer.error) == (503, "store_error")
        # Its own patience, or that of the transaction it had to wait for before.
        assert 4.5 < answer.seconds < 15
    assert int(ledger.refusals[503]["retry-after"]) >= 1
    assert _events(shop) == 0
    assert {answer.status for answer in _post_each(service, ledger, posts)} == {202}
    assert ledger.acknowledged == ledger.posted
    accounted(shop, ledger)


def test_a_full_queue_refuses_at_once(shop: Home, serve: Callable[..., Service]) -> None:
    service, ledger, traffic = serve(shop, max_waiting_events=120), Ledger(), Traffic("queue", 3)
    batches = [traffic.items(50) for _ in range(11)]
    with ThreadPoolExecutor(11) as pool:
        with held(shop, *_locks(shop, "BEGIN IMMEDIATE", TABLE)):
            posts = [pool.submit(_post_each, service, ledger, [batches[0]])]
            time.sleep(0.5)  # until it waits in a transaction, and no longer in the queue
            posts += [pool.submit(_post_each, service, ledger, [batch]) for batch in batches[1:]]
            # One or two wait in the transaction that has begun, two more have room in the queue. The others are
            # answered while the store is still away.
            until(ledger.refused, 7, seconds=4)
            assert ledger.statuses == {503: ledger.refused()}
        answers = [answer for post in posts for answer in post.result()]
    refused = [answer for answer in answers if answer.status == 503]
    assert {answer.error for answer in refused} == {"overloaded"}
    assert len(refused) in {7, 8}
    assert int(ledger.refusals[503]["retry-after"]) >= 1
    for batch in batches:
        assert _post_each(service, ledger, [batch])[0].status == 202
    assert ledger.acknowledged == ledger.posted
    accounted(shop, ledger)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A folder on a disk of 64 MB."""
    folder = Path(tempfile.mkdtemp(prefix="cro-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=777", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        refused = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        refused = str(error)
    if refused:
        folder.rmdir()
        pytest.skip(f"FULL DISK NOT TESTED: a small one could not be mounted ({refused})")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


def _fill(disk: Path) -> Path:
    """A file that takes all the room there is."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        for size in (1_000_000, 4_096):
            try:
                while True:
                    stream.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return ballast


def _check_no_room(home: Home, service: Service, full: Callable[[], Callable[[], Any]]) -> None:
    """``full`` takes the room away, and returns what gives it back."""
    worker = service.worker
    with load([service.port]) as ledger:
        until_more(ledger.acknowledgements, 500)
        make_room = full()
        until_more(ledger.refused, 50)
        make_room()
        until_more(ledger.acknowledgements, 500)
    assert set(ledger.statuses) == {202, 503}
    assert int(ledger.refusals[503]["retry-after"]) >= 1
    assert service.worker == worker
    assert service.healthy()
    accounted(home, ledger)


def test_a_full_disk_is_503_until_there_is_room(small_disk: Path, serve: Callable[..., Service]) -> None:
    home = make_shop(small_disk / "home", f"sqlite:///{small_disk / 'cro.sqlite'}")
    with closing(home.db):
        _check_no_room(home, serve(home), lambda: _fill(small_disk).unlink)


def test_a_full_disk_of_postgresql_is_503_until_there_is_room(
    small_disk: Path, postgres: sa.Engine, tmp_path: Path, serve: Callable[..., Service]
) -> None:
    with _tablespace(postgres, small_disk) as url:
        home = make_shop(tmp_path / "home", url)
        with closing(home.db):
            _check_no_room(home, serve(home), lambda: _fill(small_disk).unlink)


@contextmanager
def _tablespace(postgres: sa.Engine, disk: Path) -> Iterator[str]:
    """The URL of a database whose tables, but not whose log, lie on this disk."""
    name = f"t{uuid.uuid4().hex[:12]}"
    place = disk / name
    place.mkdir()
    with postgres.connect() as connection:
        data = Path(str(connection.scalar(sa.text("SHOW data_directory")))).stat()
        os.chown(place, data.st_uid, data.st_gid)  # root starts PostgreSQL as another user
        connection.execute(sa.text(f"CREATE TABLESPACE {name} LOCATION '{place}'"))
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE migrated TABLESPACE {name}"))
    yield postgres.url.set(database=name).render_as_string(hide_password=False)
    with postgres.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
        connection.execute(sa.text(f"DROP TABLESPACE {name}"))


def test_a_file_that_may_not_grow_is_503_until_it_may(tmp_path: Path, serve: Callable[..., Service]) -> None:
    """As on a full disk, also where nothing can be mounted: the worker's files reach the limit of their size."""
    home = make_shop(tmp_path / "home", f"sqlite:///{tmp_path / 'cro.sqlite'}")
    service = serve(home)
    worker = service.worker
    assert worker is not None
    former = resource.prlimit(worker, resource.RLIMIT_FSIZE)

    def full() -> Callable[[], Any]:
        largest = max(file.stat().st_size for file in tmp_path.glob("cro.sqlite*"))
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (largest, former[1]))
        return lambda: resource.prlimit(worker, resource.RLIMIT_FSIZE, former)

    with closing(home.db):
        _check_no_room(home, service, full)
