"""Group commit: who shares a transaction, and that each post is answered as if it had been alone."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from helpers.store_samples import START, exposure, rows, running, stored

from cro_core.domain import Event
from cro_core.errors import Overloaded, StoreError
from cro_core.ingest.cleaning import Rejection
from cro_core.storage import events, group_commit, schema
from cro_core.storage.database import BUSY_SECONDS, Database
from cro_core.storage.events import Posted
from cro_core.storage.group_commit import Intake


@pytest.fixture(autouse=True)
def _experiment(database: Database) -> None:
    stored(database, running("hero"))


def made(*ids: str, unit: str | None = None) -> list[Event]:
    return [exposure(unit or f"u-{name}", "a", START, id=name) for name in ids]


def post(found: Sequence[Event] = (), rejected: Sequence[Rejection] = (), unstored: int = 0) -> Posted:
    return Posted(found, rejected, START, unstored)


def bad(name: str, **fields: object) -> Event:
    """An event that no validation let through, for it is there that it fails: in the driver or the database."""
    return replace(made(name)[0], **fields)  # type: ignore[arg-type]


def stored_ids(database: Database) -> set[str]:
    return {row["id"] for row in rows(database, schema.events)}


def totals(database: Database) -> dict[str, int]:
    with database.read() as connection:
        return events.totals(connection)


class Counting(Database):
    """A store that tells how many transactions have begun, be it only to wait."""

    begun = 0

    def write(self, patience: float = BUSY_SECONDS) -> AbstractContextManager[sa.Connection]:
        self.begun += 1
        return super().write(patience)


class Desk:
    """An intake whose transactions are noted, and posts that gather while another writer holds the store."""

    def __init__(self, database: Database, **settings: Any) -> None:
        self.database = Counting(database.engine.url.render_as_string(hide_password=False))
        self.commits: list[int] = []
        self.intake = Intake(self.database, **{"on_commit": self._note, **settings})
        self._pool = ThreadPoolExecutor(32)

    def _note(self, number: int, seconds: float) -> None:
        assert seconds > 0
        self.commits.append(number)

    def store(self, found: Posted) -> Future[int]:
        return self._pool.submit(self.intake.store, found)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """The writer waits for its first transaction; what is posted meanwhile goes into the next together."""
        with self.database.write() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text("LOCK TABLE events IN ACCESS EXCLUSIVE MODE"))
            begun = self.database.begun
            self.first = self.store(post(made("first")))
            self.until(lambda: self.database.begun > begun)
            yield

    def waiting(self, *posts: Posted) -> list[Future[int]]:
        """Posts them one after the other, so that their order is known."""
        answers = []
        for found in posts:
            before = self.intake.waiting
            answers.append(self.store(found))
            self.until(lambda before=before: self.intake.waiting > before)  # type: ignore[misc]
        return answers

    def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 4
        while not true():
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def close(self) -> None:
        self._pool.shutdown()
        self.database.close()


@pytest.fixture
def desk(database: Database) -> Iterator[Desk]:
    opened = Desk(database)
    yield opened
    opened.close()


def test_what_returns_is_durable(desk: Desk) -> None:
    assert desk.intake.store(post(made("one", "two"))) == 2
    assert stored_ids(desk.database) == {"one", "two"}
    assert desk.intake.store(post(made("two", "three"))) == 1
    assert desk.intake.waiting == 0


def test_posts_that_wait_share_a_transaction(desk: Desk) -> None:
    with desk.busy():
        answers = desk.waiting(*(post(made(f"e{n}")) for n in range(20)))
    assert [answer.result() for answer in answers] == [1] * 20
    assert desk.commits == [1, 20]


def test_what_is_stored_is_acknowledged_whatever_becomes_of_its_report(database: Database) -> None:
    def fail(_events: int, _seconds: float) -> None:
        raise RuntimeError("nobody listens")

    intake = Intake(database, on_commit=fail)
    assert [intake.store(post(made(name))) for name in ("one", "two")] == [1, 1]


def test_many_threads_need_fewer_transactions_than_posts(desk: Desk) -> None:
    answers = [desk.store(post(made(f"e{n}"))) for n in range(400)]
    assert [answer.result() for answer in answers] == [1] * 400
    assert sum(desk.commits) == 400
    assert len(desk.commits) < 200
    assert len(stored_ids(desk.database)) == 400


def test_each_caller_gets_its_own_result(desk: Desk) -> None:
    desk.intake.store(post(made("old")))
    with desk.busy():
        answers = desk.waiting(
            post(made("a", "b", "c")),
            post(made("old")),
            post(),
            post(made("c", "d", "old")),  # c is the first post's
            post(made("e", "e")),
            post(made("a")),
        )
    assert [answer.result() for answer in answers] == [3, 0, 0, 1, 1, 0]
    assert stored_ids(desk.database) == {"old", "first", "a", "b", "c", "d", "e"}
    assert totals(desk.database) == {"accepted": 7, "duplicate": 5}


def test_rejected_and_unstored_items_are_counted(desk: Desk) -> None:
    rejection = Rejection(0, "no event", "{}", "hero")
    with desk.busy():
        answers = desk.waiting(
            post(made("a"), [rejection]), post((), [rejection, rejection]), post(unstored=3)
        )
    assert [answer.result() for answer in answers] == [1, 0, 0]
    assert totals(desk.database) == {"accepted": 2, "rejected": 3, "opted_out": 3}
    assert len(rows(desk.database, schema.quarantine)) == 3


@pytest.mark.parametrize(
    "spoilt",
    [
        {"city": object()},  # no driver has a type for it
        {"bot": None},  # the table wants an answer
        {"properties": {"no": {"JSON"}}},
    ],
)
def test_a_post_at_fault_fails_alone(desk: Desk, spoilt: dict[str, object]) -> None:
    rejection = Rejection(0, "no event", "{}", "hero")
    with desk.busy():
        answers = desk.waiting(
            post(made("before")),
            post([*made("beside"), bad("culprit", **spoilt)], [rejection]),
            post(made("after")),
        )
    assert [answers[0].result(), answers[2].result()] == [1, 1]
    with pytest.raises((sa.exc.SQLAlchemyError, TypeError)):
        answers[1].result()
    assert stored_ids(desk.database) == {"first", "before", "after"}
    assert totals(desk.database) == {"accepted": 3}
    assert desk.intake.store(post(made("beside"))) == 1


def test_a_text_with_nul_harms_nobody_else(desk: Desk) -> None:
    with desk.busy():
        answers = desk.waiting(post(made("before")), post([bad("nul", city="a\x00b")]), post(made("after")))
    assert [answers[0].result(), answers[2].result()] == [1, 1]
    if desk.database.engine.dialect.name == "postgresql":  # which has no place for it
        with pytest.raises(sa.exc.SQLAlchemyError):
            answers[1].result()
    assert {"before", "after"} <= stored_ids(desk.database)


def test_a_store_that_fails_fails_the_whole_group_at_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "PATIENCE", 0.5)
    with desk.busy():
        answers = desk.waiting(*(post(made(f"e{n}")) for n in range(10)))
        began = time.monotonic()
        for answer in [desk.first, *answers]:
            with pytest.raises(sa.exc.OperationalError):
                answer.result(timeout=10)
        assert time.monotonic() - began < 4, "two transactions wait, not eleven"
    assert stored_ids(desk.database) == set()
    assert desk.commits == []
    assert desk.intake.store(post(made("e1"))) == 1


def test_a_store_that_refuses_is_an_error_and_not_a_silence(database: Database) -> None:
    desk = Desk(database)

    def refuse(*_: object, **__: object) -> None:
        raise StoreError("away")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desk.database, "write", refuse)
        with pytest.raises(StoreError, match="away"):
            desk.intake.store(post(made("lost")))
    assert desk.intake.store(post(made("found"))) == 1
    desk.close()


def test_the_queue_is_bounded(database: Database) -> None:
    desk = Desk(database, most_waiting=7)
    with desk.busy():
        answers = desk.waiting(
            post(made("a", "b")), post(made("c", "d"))
        )  # 3 each: every post weighs one more
        assert desk.intake.waiting == 6
        with pytest.raises(Overloaded, match="6 events wait"):
            desk.intake.store(post(made("e")))
        assert desk.intake.waiting == 6
    assert [answer.result() for answer in answers] == [2, 2]
    assert stored_ids(database) == {"first", "a", "b", "c", "d"}
    assert desk.intake.store(post(made("e"))) == 1
    desk.close()


def test_rejected_items_take_room_in_the_queue_too(database: Database) -> None:
    desk = Desk(database, most_waiting=7)
    rejection = Rejection(0, "no event", "{}")
    with desk.busy():
        (answer,) = desk.waiting(post((), [rejection] * 6))
        with pytest.raises(Overloaded):
            desk.intake.store(post())
    assert answer.result() == 0
    desk.close()


def test_a_post_larger_than_the_queue_goes_when_nothing_waits(database: Database) -> None:
    desk = Desk(database, most_waiting=3)
    assert desk.intake.store(post(made(*(f"e{n}" for n in range(50))))) == 50
    desk.close()


def test_a_group_has_a_size(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "GROUP_EVENTS", 10)
    with desk.busy():
        answers = desk.waiting(
            post(made(*(f"a{n}" for n in range(8)))),  # 9 with itself
            post(made("b")),
            post(made(*(f"c{n}" for n in range(30)))),  # too large for any group: goes alone
            post(made("d")),
        )
    assert [answer.result() for answer in answers] == [8, 1, 30, 1]
    assert desk.commits == [1, 8, 1, 30, 1]


def test_the_first_exposure_is_the_earliest_of_a_group(desk: Desk) -> None:
    late = exposure("u", "b", START + timedelta(hours=1), id="a-late")
    early = exposure("u", "a", START, id="z-early")
    with desk.busy():
        answers = desk.waiting(post([late]), post([early]))
    assert [answer.result() for answer in answers] == [1, 1]
    first = {row["unit"]: row for row in rows(desk.database, schema.exposures)}["u"]
    assert (first["event_id"], first["variant"]) == ("z-early", "a")


def _store_in_a_child(desk: Desk, name: str) -> tuple[int, int]:
    """In a forked process: what the post came to, and how many threads there are."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def work() -> None:
        desk.database.engine.dispose(close=False)  # connections do not survive a fork
        there.send((desk.intake.store(post(made(name))), threading.active_count()))

    child = context.Process(target=work)
    child.start()
    child.join(timeout=30)
    assert child.exitcode == 0
    assert here.poll()
    found: tuple[int, int] = here.recv()
    return found


def test_after_a_fork_the_child_has_its_own_thread(desk: Desk) -> None:
    desk.intake.store(post(made("parent")))
    assert _store_in_a_child(desk, "child") == (1, 2)
    assert desk.intake.store(post(made("again"))) == 1
    assert stored_ids(desk.database) == {"parent", "child", "again"}


def test_a_child_leaves_what_waits_in_its_parent_to_the_parent(database: Database) -> None:
    began, forked = threading.Event(), threading.Event()

    parent = os.getpid()

    def wait(number: int, seconds: float) -> None:
        began.set()
        assert os.getpid() != parent or forked.wait(timeout=30)

    desk = Desk(database, on_commit=wait)
    answers = [desk.store(post(made("first")))]
    assert began.wait(timeout=30)
    answers += desk.waiting(post(made("a"), [Rejection(0, "no event", "{}", "hero")]))
    child = _store_in_a_child(desk, "child")
    forked.set()
    assert [answer.result() for answer in answers] == [1, 1]
    assert child == (1, 2)
    assert stored_ids(database) == {"first", "a", "child"}
    assert totals(database) == {"accepted": 3, "rejected": 1}
    desk.close()
