"""The metrics and the readiness of the service, and a store that is behind or down."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from helpers.places import ROOT
from helpers.service_samples import LATER, both_ways, check_shape, exposure, make_home, stored_events
from prometheus_client.parser import text_string_to_metric_families

from cro_core.home import Home, set_clock
from cro_core.storage import journal
from cro_core.storage.database import Database
from service import readiness, schemas
from service.app import create_app
from service.rate_limits import MOST_COUNTERS, WINDOW_SECONDS
from service.server import HEADER_SECONDS, MOST_CONNECTIONS, SHUTDOWN_SECONDS
from service.slow_clients import BODY_SECONDS

EVENTS = "/api/cro/events"
SCRAPED = "/metrics"


def _figures(client: FlaskClient) -> dict[tuple[str, ...], float]:
    """Name and values of the labels, in the order of their names -> value, of everything that is told."""
    answer = client.get(SCRAPED)
    assert answer.status_code == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def _bare(name: str, figures: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    return {key[1:]: value for key, value in figures.items() if key[0] == name and value}


@both_ways
def test_requests_are_counted_by_route_method_and_status(client: FlaskClient, key: dict[str, str]) -> None:
    client.get("/api/cro/assignments?visitor=visitor-4711")
    client.get("/api/cro/assignments?visitor=visitor-4711&wrong=1")
    client.post("/api/cro/tests/experiment-4711/end", headers=key)
    client.post("/api/cro/tests/experiment-4712/end", headers=key)
    client.open("/healthz", method="METHOD-4711")
    client.get("/nowhere-4711")
    figures = _figures(client)
    assert _bare("cro_requests_total", figures) == {
        ("GET", "/api/cro/assignments", "200"): 1,
        ("GET", "/api/cro/assignments", "422"): 1,
        ("POST", "/api/cro/tests/<test_id>/end", "404"): 2,
        ("other", "(none)", "405"): 1,
        ("GET", "(none)", "404"): 1,
    }
    assert figures["cro_request_seconds_count", "/api/cro/assignments"] == 2
    assert 0 < figures["cro_request_seconds_sum", "/api/cro/assignments"] < 60
    assert "-471" not in client.get(SCRAPED).text


@both_ways
def test_events_are_counted_by_what_became_of_them(client: FlaskClient) -> None:
    event = {"event_type": "phone_click", "user_id": "v"}
    client.post(EVENTS, json=[{**event, "id": "a"}, {**event, "id": "b"}, {**event, "id": "a"}, {}])
    client.post(EVENTS, json={**event, "id": "b"})
    client.post(EVENTS + "?opted_out=1", json=[event, event])
    client.post(EVENTS, data="not json")
    figures = _figures(client)
    assert _bare("cro_events_total", figures) == {
        ("accepted",): 2,
        ("duplicate",): 2,
        ("rejected",): 1,
        ("not_stored",): 2,
    }
    assert figures["cro_commit_events_sum",] == 4
    assert figures["cro_commit_events_count",] == figures["cro_commit_seconds_count",] == 3
    assert figures["cro_waiting_events",] == 0


def test_the_state_of_the_home_is_told(client: FlaskClient, home: Home) -> None:
    figures = _figures(client)
    assert figures["cro_store_up",] == 1
    assert figures["cro_running_experiments",] == 1
    assert figures["cro_quarantined_events",] == 0
    assert ("cro_cycle_age_seconds",) not in figures
    client.post(EVENTS, json=[{}, {}])
    ended = {"done": 3, "failed": 2, "busy": 1}
    with home.db.write() as connection:
        for status, hours in ended.items():
            journal.start_run(connection, status, "orchestrate", LATER - timedelta(hours=hours, minutes=5))
            journal.finish_run(connection, status, status=status, now=LATER - timedelta(hours=hours))
        journal.start_run(connection, "other", "train", LATER)
        journal.finish_run(connection, "other", status="done", now=LATER)
    set_clock(home, LATER + timedelta(minutes=1))
    figures = _figures(client)
    assert figures["cro_quarantined_events",] == 2
    assert figures["cro_cycle_age_seconds",] == 3 * 3600 + 60


def test_two_apps_count_for_themselves(home: Home) -> None:
    first, second = create_app(home).test_client(), create_app(home).test_client()
    first.post(EVENTS, json={"event_type": "phone_click", "user_id": "v"})
    assert _figures(first)["cro_events_total", "accepted"] == 1
    assert _figures(second)["cro_events_total", "accepted"] == 0


def test_the_metrics_are_for_this_machine_and_the_key(client: FlaskClient, key: dict[str, str]) -> None:
    elsewhere: dict[str, Any] = {"environ_overrides": {"REMOTE_ADDR": "192.0.2.7"}}
    assert client.get(SCRAPED, **elsewhere).status_code == 401
    assert client.get(SCRAPED, headers={"X-API-Key": "wrong"}, **elsewhere).status_code == 403
    answer = client.get(SCRAPED, headers=key, **elsewhere)
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain; version=0.0.4")


@both_ways
def test_the_metrics_answer_while_the_store_does_not(
    client: FlaskClient, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    home.db.close()
    (home.data / "cro.sqlite").write_bytes(b"this was a store " * 1000)
    for more in ("-wal", "-shm"):
        (home.data / f"cro.sqlite{more}").unlink(missing_ok=True)
    figures = _figures(client)
    assert figures["cro_store_up",] == 0
    assert ("cro_running_experiments",) not in figures
    assert client.post(EVENTS, json={"event_type": "phone_click", "user_id": "v"}).status_code in {500, 503}
    assert "phone_click" not in caplog.text


@pytest.mark.usefixtures("stopped")
def test_a_refusal_for_the_rate_is_counted(template: Path, tmp_path: Path) -> None:
    home = make_home(tmp_path / "limited", {"service": {"requests_per_second": 0.5}})
    client = create_app(home).test_client()
    for _ in range(8):
        client.get("/api/cro/assignments?visitor=v", environ_overrides={"REMOTE_ADDR": "192.0.2.7"})
    assert _bare("cro_limited_requests_total", _figures(client)) == {("client",): 3}
    home.db.close()


# -- a store that is behind or down ---------------------------------------------------------------------------


@contextmanager
def _held(home: Home) -> Iterator[None]:
    """Another process writes, and takes its time."""
    with closing(sqlite3.connect(home.data / "cro.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def _wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@both_ways
def test_a_full_queue_is_503_at_once_and_loses_nothing(
    tmp_path: Path,
    make_app: Callable[[Home], Flask],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One post is being written, one waits: there is no room for a third."""
    monkeypatch.setattr("service.readiness.PATIENCE", 0.1)
    caplog.set_level(logging.WARNING)
    home = make_home(tmp_path / "small", {"service": {"max_waiting_events": 2}})
    app = make_app(home)
    intake = app.extensions["cro_intake"]

    def post(number: int) -> Any:
        event = {"event_type": "phone_click", "user_id": "v", "id": f"queued-{number}"}
        return app.test_client().post(EVENTS, json=event)

    writing, write = threading.Event(), Database.write

    def noticed(self: Database, **given: Any) -> Any:
        writing.set()
        return write(self, **given)

    with ThreadPoolExecutor(2) as pool:
        with _held(home):
            monkeypatch.setattr(Database, "write", noticed)
            first = pool.submit(post, 1)
            assert writing.wait(timeout=30)
            second = pool.submit(post, 2)
            _wait_for(lambda: intake.waiting == 2)
            began = time.monotonic()
            refused = post(3)
            assert time.monotonic() - began < 1
            ready = app.test_client().get("/readyz")
            figures = _figures(app.test_client())
        answers = [first.result(timeout=30), second.result(timeout=30)]
    assert refused.status_code == 503
    check_shape(schemas.ErrorAnswer, refused.json)
    assert refused.json["error"]["code"] == "overloaded"
    assert refused.headers["Retry-After"] == "1"
    assert set(ready.json["problems"]) == {"store", "queue"}
    assert figures["cro_waiting_events",] == 2
    assert _bare("cro_store_failures_total", figures) == {("overloaded",): 1}
    assert [a.status_code for a in answers] == [202, 202]
    assert stored_events(home) == 2
    assert post(3).json["accepted"] == 1
    assert app.test_client().get("/readyz").status_code == 200
    assert not caplog.records
    home.db.close()


@both_ways
def test_a_store_that_is_full_is_503_and_recovers(app: Flask, home: Home) -> None:
    """SQLite's own limit of pages fails as a full disk does."""
    pages = {"most": 2**30}

    @sa.event.listens_for(home.db.engine, "checkout")
    def _limit(connection: Any, *_: Any) -> None:
        connection.execute(f"PRAGMA max_page_count={pages['most']}").fetchone()

    client = app.test_client()
    with home.db.read() as connection:
        pages["most"] = int(connection.scalar(sa.text("PRAGMA page_count")) or 0)
    posted = [
        [
            {"event_type": "phone_click", "user_id": "v", "id": f"full-{post}-{n}", "url": "/" + "x" * 900}
            for n in range(20)
        ]
        for post in range(20)
    ]
    answers = [client.post(EVENTS, json=events) for events in posted]
    refused = [answer for answer in answers if answer.status_code != 202]
    assert {answer.status_code for answer in refused} == {503}
    assert refused[0].json["error"]["code"] == "store_error"
    assert client.get("/api/cro/assignments?visitor=v").status_code == 200
    stored = sum(answer.json["accepted"] for answer in answers if answer.status_code == 202)
    assert stored_events(home) == stored < 400
    pages["most"] = 2**30
    again = [client.post(EVENTS, json=events).json for events in posted]
    assert sum(receipt["accepted"] for receipt in again) == 400 - stored
    assert sum(receipt["duplicates"] for receipt in again) == stored
    assert stored_events(home) == 400


def test_a_service_that_can_work_is_ready(client: FlaskClient) -> None:
    answer = client.get("/readyz", environ_overrides={"REMOTE_ADDR": "192.0.2.7"})
    assert (answer.status_code, answer.json) == (200, {"status": "ready", "problems": {}})


def _problem(client: FlaskClient) -> dict[str, str]:
    answer = client.get("/readyz")
    assert answer.status_code == 503
    check_shape(schemas.ReadyAnswer, answer.json)
    assert answer.json["status"] == "not_ready"
    assert answer.headers["Retry-After"]
    problems: dict[str, str] = answer.json["problems"]
    return problems


def test_a_removed_store_is_noticed(client: FlaskClient, home: Home) -> None:
    client.post(EVENTS, json=exposure())  # a fresh commit proves nothing of a file that is gone
    (home.data / "cro.sqlite").unlink()
    problems = _problem(client)
    assert "gone" in problems["store"]
    assert str(home.path) not in json.dumps(problems)


def test_a_store_that_another_process_holds_is_noticed(
    client: FlaskClient, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.readiness.PATIENCE", 0.1)
    with _held(home):
        assert set(_problem(client)) == {"store"}
    assert client.get("/readyz").status_code == 200


def test_a_full_disk_is_noticed(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.readiness.LEAST_FREE_BYTES", 10**18)
    assert set(_problem(client)) == {"disk"}


def test_a_store_of_another_version_is_noticed(client: FlaskClient, home: Home) -> None:
    with home.db.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    assert "9999" in _problem(client)["schema"]


def test_readiness_and_metrics_work_on_both_databases(site: Home) -> None:
    client = create_app(site).test_client()
    assert client.get("/readyz").json == {"status": "ready", "problems": {}}
    client.post(EVENTS, json={"event_type": "phone_click", "user_id": "v"})
    figures = _figures(client)
    assert figures["cro_store_up",] == 1
    assert figures["cro_events_total", "accepted"] == 1


def test_the_page_of_operations_names_every_series_and_limit(client: FlaskClient, home: Home) -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    with home.db.write() as connection:
        journal.start_run(connection, "run", "orchestrate", LATER)
        journal.finish_run(connection, "run", status="done", now=LATER)
    families = text_string_to_metric_families(client.get(SCRAPED).text)
    told = {f.name + ("_total" if f.type == "counter" else "") for f in families}
    ours = {name for name in told if not name.startswith("process_")}
    assert ours == {name for name in re.findall(r"\b(cro_[a-z_]+)", page) if name != "cro_key"}
    assert any(name.startswith("process_") for name in told)
    for limit in (
        f"{HEADER_SECONDS} seconds; also",
        f"{BODY_SECONDS:.0f} seconds | 408",
        f"{MOST_CONNECTIONS:,} at once",
        f"{readiness.LEAST_FREE_BYTES // 1_000_000} MB free",
        f"in the last {readiness.FRESH_SECONDS:.0f} seconds",
        f"at most {SHUTDOWN_SECONDS} seconds",
        f"for {2 * WINDOW_SECONDS} seconds",
        f"{MOST_COUNTERS // 2:,} clients",
    ):
        assert limit in page


def test_a_database_server_that_is_gone_is_noticed(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose server refuses connections."""
    home: Home = app.extensions["cro_home"]
    dead = sa.create_engine(
        "postgresql+psycopg://nobody@127.0.0.1:1/none", connect_args={"connect_timeout": 1}
    )
    monkeypatch.setattr(home.db, "engine", dead)
    assert set(_problem(app.test_client())) == {"store", "schema"}
    assert _figures(app.test_client())["cro_store_up",] == 0
