"""What the tests of faults share: a service that can be killed, clients that never give up, and the reckoning."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa
from helpers.service_samples import BROWSER, EXPERIMENT, LATER, START, Server, cro, exposure, free_port

from cro_core.home import Home, create_home, open_home, set_clock
from cro_core.workflows.create_experiment import create_experiment
from cro_core.workflows.evaluate import evaluate
from service.schemas import ExperimentBody

EVENTS = "/api/cro/events"
CONNECTION_LOST = (OSError, http.client.HTTPException)
VISITORS = 5_000


def make_shop(path: Path, url: str) -> Home:
    """A simulated home upon the given store whose experiment began an hour ago."""
    environ = {"CRO_DATABASE_URL": url}
    made = create_home(path, {}, environ)
    set_clock(made, LATER)
    made.db.close()
    home = open_home(path, environ)
    create_experiment(home, ExperimentBody.model_validate(EXPERIMENT).wanted(), now=START, actor="test")
    return home


class Service(Server):
    """``cro serve`` in a process group of its own, always on the same port."""

    def __init__(self, home: Home, log: Path, **settings: Any) -> None:
        self.home = home
        self.port = free_port()
        self.log = log
        root = str(Path(__file__).parents[2])
        self.environment = {
            **os.environ,
            "CRO_DATABASE_URL": home.database_url,
            "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
            **{f"CRO_SERVICE__{name.upper()}": str(value) for name, value in settings.items()},
        }

    def start(self) -> None:
        """Returns as soon as it answers."""
        command = cro("serve", "--home", str(self.home.path), "--port", str(self.port))
        with self.log.open("a") as stream:
            self.process = subprocess.Popen(
                command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
                env=self.environment,
                start_new_session=True,
            )
        self.until(self.answers, "answers")

    def answers(self) -> bool:
        """Whether it answers now, be it to tell that its store is away."""
        try:
            with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)) as connection:
                connection.request("GET", "/healthz")
                return connection.getresponse().status in {200, 503}
        except CONNECTION_LOST:
            return False

    def healthy(self) -> bool:
        """Whether it says that it works."""
        try:
            return self.call("GET", "/healthz")[0] == 200
        except CONNECTION_LOST:
            return False

    def until(self, true: Callable[[], bool], what: str, seconds: float = 60) -> None:
        """Waits for something to become true.

        Raises:
            AssertionError: the service ended, or it did not become true in time.
        """
        deadline = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, f"the service ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, (
                f"the service never came to where it {what}:\n{self.log.read_text()}"
            )
            time.sleep(0.02)

    @property
    def worker(self) -> int | None:
        """The process that answers."""
        main = self.process.pid
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        return int(children[-1]) if children else None

    def kill(self) -> None:
        """``kill -9`` of the whole process group: parent and worker at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)

    def kill_worker(self) -> None:
        """``kill -9`` of the worker alone; returns when its successor answers."""
        former = self.worker
        assert former is not None
        os.kill(former, signal.SIGKILL)
        self.until(lambda: self.worker not in {former, None}, "has another worker")
        self.until(self.answers, "answers again")

    def stop(self) -> None:
        """Ends it as an administrator does; nothing of it stays behind whatever happened before."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.kill()
                raise

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@dataclass
class Ledger:
    """What clients know: what they posted, and what they were answered."""

    posted: set[str] = field(default_factory=set)
    """Ids of good events that were ever sent."""
    acknowledged: set[str] = field(default_factory=set)
    """Those of them that a 202 covered."""
    answered: Counter[str] = field(default_factory=Counter)
    """Items by what the 202 answers said of them."""
    unknown: int = 0
    """Items of posts whose answer was lost, or told of a store that may have died within its commit."""
    statuses: Counter[int | None] = field(default_factory=Counter)
    """Answers by status; ``None`` for those that never came."""
    refusals: dict[int, dict[str, str]] = field(default_factory=dict)
    """Headers of the last answer of each status but 202."""
    in_doubt: bool = False
    """Whether a 503 may tell of a store that died between its commit and its answer."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def acknowledgements(self) -> int:
        return len(self.acknowledged)

    def refused(self) -> int:
        return self.statuses[503]

    def sent(self, items: Sequence[Any]) -> None:
        with self._lock:
            self.posted.update(ids_of(items))

    def lost(self, items: Sequence[Any]) -> None:
        """No answer came."""
        with self._lock:
            self.unknown += len(items)
            self.statuses[None] += 1

    def told(self, items: Sequence[Any], status: int, headers: dict[str, str], answer: Any) -> None:
        """An answer came.

        Raises:
            AssertionError: it does not tell of every item.
        """
        with self._lock:
            self.statuses[status] += 1
            if status != 202:
                self.refusals[status] = headers
                self.unknown += len(items) * self.in_doubt
                return
            rejected = {entry["index"] for entry in answer["rejected"]}
            self.acknowledged.update(ids_of([i for n, i in enumerate(items) if n not in rejected]))
            told = {
                "accepted": answer["accepted"],
                "duplicate": answer["duplicates"],
                "rejected": len(rejected),
            }
            assert sum(told.values()) == len(items), (
                f"{len(items)} items were posted, the answer tells {told}"
            )
            self.answered.update(told)


def ids_of(items: Sequence[Any]) -> list[str]:
    return [item["id"] for item in items if isinstance(item, dict) and "id" in item]


class Client:
    """One keep-alive connection that is opened again wherever it breaks; may change between several services."""

    def __init__(self, ledger: Ledger, ports: Sequence[int], first: int = 0, *, timeout: float = 60) -> None:
        self._ledger = ledger
        self._ports = deque(ports)
        self._ports.rotate(-first)
        self._timeout = timeout
        self._connection: http.client.HTTPConnection | None = None

    def post(self, items: Sequence[Any]) -> tuple[int | None, Any]:
        """Posts once, a single item as an object of its own.

        Returns:
            Status and JSON of the answer; ``None`` where none came.
        """
        body = json.dumps(items[0] if len(items) == 1 else items)
        self._ledger.sent(items)
        try:
            status, headers, answer = self.request(body)
        except CONNECTION_LOST:
            self._ledger.lost(items)
            return None, None
        self._ledger.told(items, status, headers, answer)
        return status, answer

    def request(self, body: str | bytes) -> tuple[int, dict[str, str], Any]:
        """Posts any body; see :meth:`Server.call`."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._ports[0], timeout=self._timeout)
        try:
            self._connection.request("POST", EVENTS, body, {"User-Agent": BROWSER})
            answer = self._connection.getresponse()
            content = answer.read()
        except CONNECTION_LOST:
            self.close()
            self._ports.rotate(-1)
            raise
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, found, json.loads(content)

    def post_until_acknowledged(self, items: Sequence[Any], patience: float = 60) -> None:
        """As a good client does: the same post again until a 202 comes."""
        deadline = time.monotonic() + patience
        while True:
            status, answer = self.post(items)
            if status == 202:
                return
            assert status in {None, 503}, answer
            assert time.monotonic() < deadline, f"no acknowledgement in {patience} s, at last {status}"
            time.sleep(0.05)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Traffic:
    """Items as a website posts them: visitors come back, convert, and one item in a hundred is no event."""

    def __init__(self, name: str, seed: int) -> None:
        self._name = name
        self._number = 0
        self._random = random.Random(seed)
        self._former: deque[dict[str, Any]] = deque(maxlen=2_000)

    def items(self, count: int) -> list[dict[str, Any]]:
        """New items, and 5 % that were made before."""
        return [self._again() if self._random.random() < 0.05 else self._new() for _ in range(count)]

    def _again(self) -> dict[str, Any]:
        return self._random.choice(self._former) if self._former else self._new()

    def _new(self) -> dict[str, Any]:
        visitor = self._random.randrange(VISITORS)
        variant = ("control", "call")[visitor % 2]
        kind = self._random.random()
        if kind < 0.01:
            return exposure(f"v{visitor}", "no-such-variant")
        self._number += 1
        item = exposure(f"v{visitor}", variant, id=f"{self._name}-{self._number}")
        if kind < 0.2:
            item["event_type"] = "contact_form_submit"
        self._former.append(item)
        return item


@contextmanager
def load(ports: Sequence[int], *, clients: int = 6, seed: int = 1) -> Iterator[Ledger]:
    """Clients that post singles and batches of 50 while the block runs, and until the last is acknowledged."""
    ledger = Ledger()
    stop = threading.Event()
    faults: list[BaseException] = []

    def work(number: int) -> None:
        draw = random.Random(f"{seed}.{number}")
        traffic = Traffic(f"c{number}", seed * 1_000 + number)
        client = Client(ledger, ports, number)
        try:
            while not stop.is_set():
                client.post_until_acknowledged(traffic.items(50 if draw.random() < 0.3 else 1))
        except BaseException as error:  # noqa: BLE001  told to the test below
            faults.append(error)
        finally:
            client.close()

    threads = [threading.Thread(target=work, args=(n,), name=f"client-{n}") for n in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield ledger
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=90)
    assert not faults, faults[0]
    assert not any(thread.is_alive() for thread in threads)
    assert ledger.acknowledged == ledger.posted


def until_more(count: Callable[[], int], more: int, seconds: float = 60) -> None:
    """Waits until a count has grown from what it is now.

    Raises:
        AssertionError: it did not in time.
    """
    until(count, count() + more, seconds)


def until(count: Callable[[], int], wanted: int, seconds: float = 60) -> None:
    """Waits until a count is so high.

    Raises:
        AssertionError: it was not in time.
    """
    deadline = time.monotonic() + seconds
    while count() < wanted:
        assert time.monotonic() < deadline, f"{count()} of {wanted} after {seconds} s"
        time.sleep(0.005)


def accounted(home: Home, ledger: Ledger, *, named: bool = True) -> None:
    """The reckoning after a fault, in plain SQL: acknowledged is stored, once, and every number adds up.

    Args:
        home: whose store is read.
        ledger: what the clients know.
        named: False where the service named the events itself, so that ids cannot be compared.
    """
    store = sa.create_engine(home.database_url, poolclass=sa.NullPool)
    with store.connect() as connection:

        def rows(sql: str) -> list[Any]:
            return list(connection.execute(sa.text(sql)))

        if store.dialect.name == "sqlite":
            assert rows("PRAGMA integrity_check") == [("ok",)]
        stored = Counter(row[0] for row in rows("SELECT id FROM events"))
        counted = rows("SELECT outcome, SUM(count) FROM receipts GROUP BY outcome")
        receipts = Counter({outcome: int(count) for outcome, count in counted})
        quarantined = rows("SELECT COUNT(*) FROM quarantine")[0][0]
        exposed = rows(
            "SELECT COUNT(*) FROM (SELECT DISTINCT experiment_id, unit FROM events"
            " WHERE type = 'exposure' AND NOT bot AND NOT internal) AS units"
        )[0][0]
        exposures = rows("SELECT COUNT(*) FROM exposures")[0][0]
        late = rows(
            "SELECT COUNT(*) FROM exposures x JOIN events e ON e.experiment_id = x.experiment_id AND e.unit = x.unit"
            " WHERE e.type = 'exposure' AND NOT e.bot AND NOT e.internal"
            " AND (e.occurred_at, e.id) < (x.exposed_at, x.event_id)"
        )[0][0]
        own = rows("SELECT COUNT(*) FROM events WHERE experiment_id = 'hero-cta'")[0][0]
        counted = rows("SELECT outcome, count FROM receipts WHERE experiment_id = 'hero-cta'")
        own_receipts = Counter({outcome: int(count) for outcome, count in counted})
    store.dispose()

    assert not [name for name, times in stored.items() if times > 1], "an event is stored twice"
    if named:
        lost = ledger.acknowledged - stored.keys()
        assert not lost, f"{len(lost)} acknowledged events are lost, such as {sorted(lost)[:3]}"
        foreign = stored.keys() - ledger.posted
        assert not foreign, (
            f"{len(foreign)} events are stored that nobody posted, such as {sorted(foreign)[:3]}"
        )
    assert receipts["accepted"] == len(stored)
    assert receipts["rejected"] == quarantined
    assert (exposures, late) == (exposed, 0), "each visitor's first exposure, and no other"
    for outcome in ("accepted", "duplicate", "rejected"):
        surplus = receipts[outcome] - ledger.answered[outcome]
        assert 0 <= surplus <= ledger.unknown, (
            f"{receipts[outcome]} {outcome}, answered {ledger.answered[outcome]}"
        )
    surplus = sum(receipts.values()) - sum(ledger.answered.values())
    assert 0 <= surplus <= ledger.unknown, f"receipts {receipts}, answered {ledger.answered}"

    evidence = evaluate(home, "hero-cta", as_of=home.clock() + timedelta(days=1)).evidence
    waterfall = {line.step: line.count for line in evidence.waterfall}
    assert "unexplained" not in waterfall, waterfall
    received = waterfall.pop("received")
    assert received == sum(waterfall.values())
    assert received >= own + own_receipts["duplicate"] + own_receipts["rejected"]
    for outcome in ("duplicate", "rejected"):
        assert waterfall[outcome] == own_receipts[outcome]
