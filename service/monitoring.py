"""What the service tells Prometheus: its requests, the events, the store, and how the experiments stand.

Labels are routes, methods, statuses and kinds: never an id, an address or anything else that a client chose.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import sqlalchemy as sa
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import cro_core
from cro_core.domain import Status
from cro_core.home import Home
from cro_core.storage import schema
from cro_core.workflows.ingest import Receipt
from service import logs

log = logging.getLogger(__name__)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series of each counter, which nobody asks

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)
METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})

CYCLE = "orchestrate"
"""The job that decides; its age tells whether the autopilot flies."""


class Monitor:
    """The figures of one process; safe to call from any thread.

    Args:
        home: whose experiments the figures are about.
    """

    def __init__(self, home: Home) -> None:
        self.registry = registry = CollectorRegistry()
        self._last_commit: float | None = None
        self._requests = Counter(
            "cro_requests", "Requests answered.", ["rule", "method", "status"], registry=registry
        )
        self._seconds = Histogram(
            "cro_request_seconds",
            "From the whole request to its answer.",
            ["rule"],
            buckets=SECONDS,
            registry=registry,
        )
        self._events = Counter(
            "cro_events", "Events posted, by what became of them.", ["outcome"], registry=registry
        )
        self._limited = Counter("cro_limited_requests", "Requests answered 429.", ["by"], registry=registry)
        self._failures = Counter(
            "cro_store_failures", "Requests answered 503 for the store.", ["kind"], registry=registry
        )
        self._slow = Counter(
            "cro_slow_clients", "Requests whose body did not arrive in time (408).", registry=registry
        )
        self._waiting = Gauge("cro_waiting_events", "Events that wait for the store.", registry=registry)
        self._commits = Histogram(
            "cro_commit_events", "Events of one transaction.", buckets=SIZES, registry=registry
        )
        self._commit_seconds = Histogram(
            "cro_commit_seconds", "Duration of one transaction.", buckets=SECONDS, registry=registry
        )
        self._outcomes = [
            self._events.labels(outcome) for outcome in ("accepted", "duplicate", "rejected", "not_stored")
        ]
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        for by in ("client", "key"):
            self._limited.labels(by)
        for kind in ("overloaded", "failed"):
            self._failures.labels(kind)
        info = Gauge("cro_info", "1, with the version of the service.", ["version"], registry=registry)
        info.labels(cro_core.__version__).set(1)
        ProcessCollector(registry=registry)
        registry.register(_Home(home))

    def answered(self, method: str, rule: str, status: int, seconds: float, receipt: Receipt | None) -> None:
        """Notes an answered request, here and in the log.

        Args:
            method: the request's.
            rule: the route as it is declared; the path and the query may name a visitor.
            status: the answer's.
            seconds: from the whole request to its answer.
            receipt: what became of posted events.
        """
        requests, durations = self._children_of(method if method in METHODS else "other", rule, status)
        requests.inc()
        durations.observe(seconds)
        if receipt is not None:
            counts = (receipt.accepted, receipt.duplicates, len(receipt.rejected), receipt.not_stored)
            for counter, count in zip(self._outcomes, counts, strict=True):
                counter.inc(count)
        logs.log_request(method, rule, status, seconds, receipt)

    def _children_of(self, method: str, rule: str, status: int) -> tuple[Counter, Histogram]:
        """The series of such requests, kept: the library's own way to them costs more than counting does."""
        key = (method, rule, status)
        if key not in self._children:
            self._children[key] = (
                self._requests.labels(rule, method, str(status)),
                self._seconds.labels(rule),
            )
        return self._children[key]

    def commit(self, events: int, seconds: float) -> None:
        """Notes a transaction that is durable: how many events it held, how long it took."""
        self._last_commit = time.monotonic()
        self._commits.observe(events)
        self._commit_seconds.observe(seconds)

    def waiting(self, count: Callable[[], int]) -> None:
        """Says who knows how many events wait; asked at each scrape."""
        self._waiting.set_function(count)

    def limited(self, by: str) -> None:
        """Notes a request over the limit of its ``client`` or ``key``."""
        self._limited.labels(by).inc()

    def store_failed(self, kind: str) -> None:
        """Notes a request that the store did not serve: ``overloaded`` or ``failed``."""
        self._failures.labels(kind).inc()

    def slow(self) -> None:
        """Notes a client that did not send its body in time."""
        self._slow.inc()

    def seconds_since_commit(self) -> float | None:
        """Age of the newest commit of this process; ``None`` before the first."""
        return None if self._last_commit is None else time.monotonic() - self._last_commit

    def text(self) -> bytes:
        """Everything, in the text format of Prometheus."""
        return generate_latest(self.registry)


class _Home(Collector):
    """The state of the home, read when it is asked for."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def describe(self) -> list[Metric]:
        """None, so that registering reads no store."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The figures; where the store does not answer only that it does not."""
        up = GaugeMetricFamily("cro_store_up", "1 where the store can be read, else 0.")
        try:
            figures = list(self._read())
        except sa.exc.SQLAlchemyError as error:
            log.warning("the store cannot be read for the metrics: %s", type(error).__name__)
            figures = []
        up.add_metric([], float(bool(figures)))
        yield up
        yield from figures

    def _read(self) -> Iterator[Metric]:
        runs, experiments = schema.runs, schema.experiments
        with self._home.db.read() as connection:
            running = connection.scalar(
                sa.select(sa.func.count()).where(experiments.c.status == Status.RUNNING)
            )
            newest = connection.scalar(
                sa.select(sa.func.max(runs.c.finished_at)).where(runs.c.job == CYCLE, runs.c.status == "done")
            )
            quarantined = connection.scalar(sa.select(sa.func.count()).select_from(schema.quarantine))
        yield GaugeMetricFamily("cro_running_experiments", "Experiments that run.", value=running or 0)
        yield GaugeMetricFamily(
            "cro_quarantined_events", "Rejected items that are kept.", value=quarantined or 0
        )
        if newest is not None:
            age = (self._home.clock() - newest).total_seconds()
            yield GaugeMetricFamily(
                "cro_cycle_age_seconds",
                "Since the newest cycle that succeeded; missing before the first.",
                value=age,
            )
