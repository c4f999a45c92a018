"""Group commit: requests that arrive together share one transaction, and each is answered after its commit.

A commit that survives a power cut waits for the disk. One thread writes; while it waits, the next requests
gather, and go into the next transaction together. So the disk is asked as often as it can answer, however
many ask.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from cro_core.errors import Overloaded, StoreError
from cro_core.storage.database import Database
from cro_core.storage.events import Posted, record_all

log = logging.getLogger(__name__)

GROUP_EVENTS = 10_000
"""Most events of one transaction, so that none keeps other writers of the store waiting for long."""

PATIENCE = 5.0
"""Seconds that a transaction waits for another process's; then its requests are told that nothing was stored."""


@dataclass(slots=True)
class _Job:
    """One post on its way; ``done`` is held until its fate is known."""

    post: Posted
    done: threading.Lock = field(default_factory=threading.Lock)
    accepted: int = 0
    error: Exception | None = None

    @property
    def weight(self) -> int:
        return 1 + len(self.post.events) + len(self.post.rejected)


class Intake:
    """What stores the posts of many threads; made once in a process.

    Args:
        database: the store.
        most_waiting: events that may wait at once; more are refused.
        on_commit: told after each transaction how many events it held and how many seconds it took.
    """

    def __init__(
        self,
        database: Database,
        *,
        most_waiting: int = 20_000,
        on_commit: Callable[[int, float], None] | None = None,
    ) -> None:
        self._database = database
        self._most_waiting = most_waiting
        self._on_commit = on_commit
        self._waiting: deque[_Job] = deque()
        self._weight = 0
        self._changed = threading.Condition(threading.Lock())
        self._process: int | None = None

    @property
    def waiting(self) -> int:
        """How many events wait, those of the transaction that runs not counted."""
        return self._weight

    def store(self, post: Posted) -> int:
        """Stores a post; when this returns, it is durable.

        Returns:
            How many of its events were new.

        Raises:
            Overloaded: too many events wait; nothing was stored.
            StoreError, sqlalchemy.exc.SQLAlchemyError: the store failed; nothing was stored, unless the connection
                to it broke while it committed. The same may be sent again: an event with an id counts once.
        """
        job = _Job(post)
        job.done.acquire()
        with self._changed:
            self._start()
            # A post that alone is larger than the queue may still go when nothing else waits.
            if self._weight and self._weight + job.weight > self._most_waiting:
                raise Overloaded(
                    f"{self._weight:,} events wait for the store: nothing was stored, send it again in a second"
                )
            self._waiting.append(job)
            self._weight += job.weight
            self._changed.notify()
        job.done.acquire()
        if job.error is not None:
            raise job.error
        return job.accepted

    def _start(self) -> None:
        """The thread is started by the first post: a thread of before a fork is not in the child."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._waiting.clear()  # what waited in the parent before a fork, which stores it itself
            self._weight = 0
            threading.Thread(target=self._run, name="intake", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                group = self._take()
            self._commit(group)
            for job in group:
                job.done.release()

    def _take(self) -> list[_Job]:
        """The longest waiting posts, at least one."""
        group = [self._waiting.popleft()]
        size = group[0].weight
        while self._waiting and size + self._waiting[0].weight <= GROUP_EVENTS:
            group.append(self._waiting.popleft())
            size += group[-1].weight
        self._weight -= size
        return group

    def _commit(self, group: Sequence[_Job]) -> None:
        """One transaction; where a post is at fault, each gets its own, so that it fails alone."""
        try:
            self._write(group)
        except (sa.exc.OperationalError, sa.exc.TimeoutError, StoreError) as error:
            _fail(group, error)  # the store itself: one after the other would fail alike
        except Exception as error:  # noqa: BLE001  told to those who posted
            if len(group) == 1:
                _fail(group, error)
            else:
                log.warning("%d posts could not be stored together: each is tried alone", len(group))
                for job in group:
                    self._commit([job])

    def _write(self, group: Sequence[_Job]) -> None:
        began = time.perf_counter()
        with self._database.write(patience=PATIENCE) as connection:
            accepted = record_all(connection, [job.post for job in group])
        for job, count in zip(group, accepted, strict=True):
            job.accepted = count
        self._tell(sum(len(job.post.events) for job in group), time.perf_counter() - began)

    def _tell(self, events: int, seconds: float) -> None:
        if self._on_commit is not None:
            try:
                self._on_commit(events, seconds)
            except Exception:  # it is stored, whatever becomes of the telling
                log.exception("a commit could not be reported")


def _fail(group: Sequence[_Job], error: Exception) -> None:
    for job in group:
        job.error = error
