"""The short way of events answers as Flask does, to the byte, counts and logs the same, and leaves the rest to it."""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from helpers.service_samples import CRAWLER, exposure
from sqlalchemy import select

from cro_core.errors import CroError, Overloaded, StoreError
from cro_core.home import Home, open_home
from cro_core.storage import schema
from service import logs
from service.app import create_app
from service.fast_path import with_fast_path

EVENTS = "/api/cro/events"
EVENT = json.dumps(exposure(id="one", city="Zürich"), ensure_ascii=False).encode()
LIMITS = {"CRO_SERVICE__MAX_BODY_BYTES": "2000", "CRO_SERVICE__MAX_EVENTS_PER_REQUEST": "3"}
ELSEWHERE = {"REMOTE_ADDR": "192.0.2.7"}
NAMED = {"X-Request-Id": "asked-by-a-test"}

Request = dict[str, Any]


class Way:
    """An app on a copy of the home, and what it told of itself."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.by_flask = 0
        app.before_request(self._count)

    def _count(self) -> None:
        self.by_flask += 1

    def ask(self, asked: Request) -> tuple[str, list[tuple[str, str]], bytes]:
        """Status line, headers and body of the answer to a post of events, unless the request says otherwise."""
        answer = self.app.test_client().open(**{"path": EVENTS, "method": "POST", **asked})
        return answer.status, list(answer.headers), answer.data

    def counted(self) -> set[tuple[str, tuple[str, ...], float]]:
        """The figures, but for durations."""
        return {
            (sample.name, tuple(sample.labels.values()), sample.value)
            for family in self.app.extensions["cro_monitor"].registry.collect()
            for sample in family.samples
            if not sample.name.startswith(("process_", "cro_request_seconds_", "cro_commit_seconds_"))
        }

    def stored(self) -> dict[str, list[Any]]:
        """The events, the quarantine and the receipts."""
        tables = (schema.events, schema.quarantine, schema.receipts)
        with self.app.extensions["cro_home"].db.read() as connection:
            return {t.name: sorted(map(str, connection.execute(select(t)).all())) for t in tables}


Ways = Callable[..., tuple[Way, Way]]


@pytest.fixture
def ways(template: Path, tmp_path: Path) -> Iterator[Ways]:
    """Makes two apps on equal homes: the plain one, and the one with the short way."""
    homes: list[Home] = []

    def make(**environ: str) -> tuple[Way, Way]:
        for name in ("plain", "fast_path"):
            shutil.copytree(template, tmp_path / name)
            homes.append(open_home(tmp_path / name, environ))
        return Way(create_app(homes[0])), Way(with_fast_path(create_app(homes[1])))

    yield make
    for home in homes:
        home.db.close()


@contextmanager
def _lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[dict[str, Any]]]:
    """What is logged meanwhile, without what differs from one time to the next."""
    caplog.clear()
    lines: list[dict[str, Any]] = []
    yield lines
    told = (
        "levelname",
        "name",
        "method",
        "rule",
        "status",
        "accepted",
        "duplicates",
        "rejected",
        "not_stored",
    )
    lines += [
        {"message": record.getMessage()} | {name: vars(record).get(name) for name in told}
        for record in caplog.records
        if record.name.startswith("service")
    ]


def _ask_both(pair: tuple[Way, Way], asked: Request, caplog: pytest.LogCaptureFixture) -> tuple[str, Any]:
    """Status line and JSON of the answer, which is the same on both ways, log included."""
    caplog.set_level(logging.INFO)
    answers, logged = [], []
    for way in pair:
        stream = asked.get("input_stream")
        fresh = {**asked, "input_stream": io.BytesIO(stream.getvalue())} if stream else asked
        with _lines(caplog) as lines:
            answers.append(way.ask({**fresh, "headers": {**NAMED, **fresh.get("headers", {})}}))
        logged.append(lines)
    assert answers[0] == answers[1]
    assert logged[0] == logged[1]
    status, _, body = answers[0]
    return status, json.loads(body) if body else None


SHORT: dict[str, Request] = {
    "an event": {"data": EVENT},
    "an event by a beacon": {"data": EVENT, "content_type": "text/plain;charset=UTF-8"},
    "an event as a form": {"data": EVENT, "content_type": "application/x-www-form-urlencoded"},
    "an event by a bot": {"data": EVENT, "headers": {"User-Agent": CRAWLER}},
    "an event in pieces": {
        "input_stream": io.BytesIO(EVENT),
        "headers": {"Transfer-Encoding": "chunked"},
        "environ_overrides": {"wsgi.input_terminated": True},
    },
    "several": {"json": {"events": [exposure(id="a"), exposure(id="a"), {"event_type": 1}]}},
    "an experiment there is not": {"json": exposure(test_id="nope")},
    "a variant there is not": {"json": exposure(variant="nope")},
    "no events": {"json": []},
    "whoever opted out": {"data": EVENT, "headers": {"Sec-GPC": "1"}},
    "a request id that is none": {"data": b"{", "headers": {"X-Request-Id": "asked-by-a-test"}},
    "no body": {},
    "no JSON": {"data": b"not json"},
    "half a JSON": {"data": EVENT[:-1]},
    "two values": {"data": EVENT + EVENT},
    "not UTF-8": {"data": b'{"event_type":"\xff"}'},
    "NaN": {"data": b'{"value":NaN}'},
    "too large a number": {"data": b'{"value":1e999}'},
    "a lone surrogate": {"data": b'{"event_type":"phone_click","user_id":"\\ud800"}'},
    "too deep": {"data": b"[" * 40 + b"]" * 40},
    "absurdly deep": {"data": b"[" * 1900},
    "another shape": {"json": {"events": {}}},
    "too many events": {"json": [{}] * 4},
    "oversized": {"data": b" " * 2001},
    "oversized in pieces": {
        "input_stream": io.BytesIO(b" " * 2001),
        "headers": {"Transfer-Encoding": "chunked"},
        "environ_overrides": {"wsgi.input_terminated": True},
    },
    "compressed": {"data": b"\x1f\x8b", "headers": {"Content-Encoding": "gzip"}},
    "less than it says": {"input_stream": io.BytesIO(EVENT), "headers": {"Content-Length": "500"}},
    "no length": {"input_stream": io.BytesIO(EVENT)},
    "from elsewhere": {"data": EVENT, "headers": {"Origin": "https://shop.example"}},
    "a name with a port": {"data": EVENT, "base_url": "http://shop.example:3000"},
}
BY_FLASK: dict[str, Request] = {
    "who opts out in the query": {"data": EVENT, "query_string": "opted_out=1"},
    "a misspelt opt-out": {"data": EVENT, "query_string": "opt_out=1"},
    "a preflight": {"method": "OPTIONS", "headers": {"Access-Control-Request-Method": "POST"}},
    "GET": {"method": "GET"},
    "HEAD": {"method": "HEAD"},
    "DELETE": {"method": "DELETE", "data": EVENT},
    "a slash more": {"path": EVENTS + "/", "data": EVENT},
    "another endpoint": {"path": "/api/cro/orchestrate"},
    "a name that is none": {"data": EVENT, "headers": {"Host": "shop..example"}},
    "too long a name": {"data": EVENT, "headers": {"Host": "x" * 64 + ".example"}},
    "a number for a name": {"data": EVENT, "headers": {"Host": "[::1]:3000"}},
}


@pytest.mark.parametrize("asked", [*SHORT.values(), *BY_FLASK.values()], ids=[*SHORT, *BY_FLASK])
def test_both_ways_answer_count_log_and_store_the_same(
    ways: Ways, asked: Request, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each twice: the second event is one that was stored before."""
    monkeypatch.setattr(
        "cro_core.ingest.cleaning.secrets.randbits", lambda _: 1
    )  # of the ids that are made here
    plain, fast = pair = ways(**LIMITS)
    for _ in range(2):
        _ask_both(pair, asked, caplog)
    assert plain.by_flask == 2
    assert fast.by_flask == (2 if asked in BY_FLASK.values() else 0)
    assert plain.counted() == fast.counted()
    assert plain.stored() == fast.stored()


@pytest.mark.usefixtures("stopped")
def test_both_ways_count_a_request_once_whatever_it_holds(
    ways: Ways, caplog: pytest.LogCaptureFixture
) -> None:
    plain, fast = pair = ways(CRO_SERVICE__REQUESTS_PER_SECOND="0.3")
    bodies = [EVENT, b"not json", b" " * 2_000_000, EVENT, b"not json"]
    asked = [{"data": body, "environ_overrides": ELSEWHERE} for body in bodies]
    answers = [_ask_both(pair, one, caplog) for one in asked]
    assert [status[:3] for status, _ in answers] == ["202", "400", "413", "429", "429"]
    assert _ask_both(pair, {"data": EVENT}, caplog)[0] == "202 ACCEPTED"
    assert plain.counted() == fast.counted()
    assert fast.by_flask == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Overloaded("7 wait"), 503),
        (StoreError("postgresql://secret"), 503),
        (sa.exc.OperationalError("INSERT", {"city": "secret"}, Exception("disk full")), 503),
        (sa.exc.TimeoutError("secret"), 503),
        (sa.exc.DataError("INSERT", {"city": "secret"}, Exception("out of range")), 422),
        (sa.exc.IntegrityError("INSERT", {"city": "secret"}, Exception("twice")), 500),
        (CroError("secret"), 500),
        (RuntimeError("secret"), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_both_ways_tell_alike_of_a_store_that_fails(
    ways: Ways,
    error: Exception,
    status: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> int:
        raise error

    monkeypatch.setattr("cro_core.storage.group_commit.Intake.store", fail)
    plain, fast = pair = ways()
    told, answer = _ask_both(pair, {"data": EVENT}, caplog)
    assert int(told[:3]) == status
    assert "secret" not in str(answer)
    assert plain.counted() == fast.counted()
    assert fast.by_flask == 0


@pytest.mark.parametrize("body", [EVENT, b"not json"])
def test_lines_of_the_log_carry_the_request_they_are_about(
    ways: Ways, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(mark := logs.WithRequest())
    try:
        for way in ways():
            way.ask({"data": body, "headers": NAMED})
            logging.getLogger("service").info("between two requests")
    finally:
        caplog.handler.removeFilter(mark)
    ids = [vars(record)["request_id"] for record in caplog.records]
    assert ids == [NAMED["X-Request-Id"], "-"] * 2


def test_it_is_still_the_app(home: Home) -> None:
    app = create_app(home)
    assert with_fast_path(app) is app
    assert app.test_client().get("/healthz").status_code == 200
