"""The real server in its own process: the essential path, limits, many clients, signals, and its log."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from helpers.service_samples import (
    BROWSER,
    EXPERIMENT,
    Server,
    cro,
    exposure,
    free_port,
    start_server,
    stored_events,
)
from sqlalchemy import select

from cro_core.errors import Conflict, InvalidInput, NotFound
from cro_core.home import Home
from cro_core.storage import schema
from service.server import serve

EVENTS = "/api/cro/events"


def test_the_essential_path(server: Server) -> None:
    key = {"Authorization": f"Bearer {server.home.admin_key}", "Content-Type": "application/json"}
    page = {"User-Agent": BROWSER, "Origin": "https://shop.example"}
    created = server.call("POST", "/api/cro/tests", {**EXPERIMENT, "test_id": "path", "slot": "path"}, key)
    assert created[0] == 201
    status, headers, shown = server.call("GET", "/api/cro/assignments?visitor=visitor-4711", headers=page)
    assert (status, headers["access-control-allow-origin"]) == (200, "*")
    seen = next(e for e in shown["experiments"] if e["test_id"] == "path")
    event = {k: seen[k] for k in ("test_id", "variant_id", "epoch", "propensity")}
    event |= {"id": "path-1", "event_type": "impression", "user_id": "visitor-4711"}
    posted = server.call("POST", EVENTS, json.dumps(event), {**page, "Content-Type": "text/plain"})
    assert posted[0] == 202
    assert posted[2] == {"accepted": 1, "duplicates": 0, "rejected": []}
    active = server.call("GET", "/api/cro/active-tests")[2]["tests"]
    assert {t["test_id"]: t["exposed_units"] for t in active}["path"] == 1
    assert server.call("POST", "/api/cro/orchestrate?wait=1", None, key)[0] == 200
    status, headers, run = server.call("POST", "/api/cro/orchestrate", None, key)
    assert status == 202
    assert server.call("GET", headers["location"])[2]["id"] == run["id"]
    assert server.call("POST", "/api/cro/tests/path/end", None, key)[2]["status"] == "archived"
    assert server.call("POST", "/api/cro/tests/path/end", None)[0] == 401


def test_an_acknowledged_event_is_readable_at_once_by_another_process(server: Server) -> None:
    server.call("POST", EVENTS, exposure("durable", id="durable-1"))
    with server.home.db.read() as connection:
        assert (
            connection.scalar(select(schema.events.c.id).where(schema.events.c.id == "durable-1"))
            == "durable-1"
        )


def test_clients_that_post_the_same_ids_store_each_once(server: Server) -> None:
    before = stored_events(server.home)
    batches = [
        [exposure(f"c{n}", id=f"c{n}") for n in range(start, start + 25)] for start in range(0, 100, 25)
    ]

    def post_all(client: int) -> Counter[str]:
        receipts: Counter[str] = Counter()
        for batch in batches[client % 4 :] + batches[: client % 4]:
            status, _, receipt = server.call("POST", EVENTS, batch)
            assert status == 202
            receipts.update(accepted=receipt["accepted"], duplicates=receipt["duplicates"])
        return receipts

    with ThreadPoolExecutor(8) as pool:
        total = sum(pool.map(post_all, range(8)), Counter())
    assert total == {"accepted": 100, "duplicates": 700}
    assert stored_events(server.home) - before == 100


def _pieces(size: int) -> Iterator[bytes]:
    for _ in range(size // 10_000):
        yield b" " * 10_000


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_413_with_and_without_a_length(server: Server, chunked: bool) -> None:
    event = json.dumps(exposure("large", id=f"large-{chunked}")).encode()
    before = stored_events(server.home)

    def body(size: int) -> Any:
        return iter([event, *_pieces(size)]) if chunked else event + b"".join(_pieces(size))

    status, headers, answer = server.call("POST", EVENTS, body(1_010_000))
    assert (status, answer["error"]["code"]) == (413, "too_large")
    assert headers["access-control-allow-origin"] == "*"
    assert stored_events(server.home) == before
    assert server.call("POST", EVENTS, body(900_000))[0] == 202
    assert stored_events(server.home) == before + 1


def test_one_connection_answers_many_requests_errors_included(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for method, path, body, expected in (
        ("GET", "/healthz", None, 200),
        ("POST", EVENTS, b"not json", 400),
        ("POST", "/api/cro/tests", b'{"unread": true}', 401),
        ("PUT", EVENTS, b"unread", 405),
        ("GET", "/nowhere", None, 404),
        ("HEAD", "/healthz", None, 200),
        ("GET", "/healthz", None, 200),
    ):
        connection.request(method, path, body=body)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == expected
        assert method == "HEAD" or json.loads(content)
    connection.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"\x16\x03\x01\x02",
    ],
)
def test_what_is_no_http_does_no_harm(server: Server, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1000)
    assert server.call("GET", "/healthz")[0] == 200


def test_the_log_holds_no_address_no_visitor_and_no_key(server: Server) -> None:
    key = {"X-API-Key": server.home.admin_key}
    server.call("GET", "/api/cro/assignments?visitor=visitor-0815")
    server.call("GET", "/api/cro/assignments?visitor=visitor-0815&wrong=1")
    server.call("POST", EVENTS, {"event_type": "phone_click", "user_id": "visitor-0815", "id": "event-0815"})
    server.call("POST", EVENTS, {"event_type": "of visitor-0815", "user_id": "visitor-0815"})
    server.call("POST", EVENTS, '{"user_id": "visitor-0815"')
    server.call("GET", "/visitor-0815?visitor-0815=1")
    server.call("POST", "/api/cro/tests/visitor-0815/end", None, key)
    server.call("POST", "/api/cro/tests", "{}", {"Authorization": f"Bearer {server.home.admin_key}x"})
    _, headers, _ = server.call("GET", "/api/cro/overview", None, {"X-Forwarded-For": "203.0.113.9"})
    logged = server.log.read_text().replace(f"http://127.0.0.1:{server.port}", "(its own address)")
    assert "Listening at: (its own address)" in logged
    assert headers["x-request-id"] in logged
    for secret in ("-0815", "127.0.0.1", "203.0.113.9", "Mozilla", server.home.admin_key):
        assert secret not in logged


def test_each_request_is_one_line_of_json(server: Server) -> None:
    named = {"X-Request-Id": "asked-by-a-test"}
    server.call("POST", EVENTS, [exposure("logged", id="logged"), {}], named)
    server.call("GET", "/nowhere", None, named)
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    posted, lost = (line for line in lines if line["request_id"] == "asked-by-a-test")
    assert posted["time"].endswith("Z")
    assert datetime.fromisoformat(posted["time"]).tzinfo is not None
    assert (posted["level"], posted["logger"]) == ("INFO", "service.requests")
    assert (posted["method"], posted["rule"], posted["status"]) == ("POST", EVENTS, 202)
    assert posted["ms"] > 0
    assert (posted["accepted"], posted["duplicates"], posted["rejected"], posted["not_stored"]) == (
        1,
        0,
        1,
        0,
    )
    assert (lost["rule"], lost["status"]) == ("(none)", 404)
    assert "accepted" not in lost
    assert {line["logger"] for line in lines if line["level"] == "WARNING"} <= {"service.rate_limits"}


@pytest.mark.parametrize("name", ["CRO_LOG_FORMAT", "CRO_LOG_LEVEL"])
def test_a_log_that_there_is_not_is_told_in_one_line(home: Home, name: str) -> None:
    done = subprocess.run(
        cro("serve", "--home", str(home.path), "--port", str(free_port())),
        env={**os.environ, name: "xml"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"error: {name} is 'xml': use ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_finish_first(home: Home, tmp_path: Path, number: signal.Signals) -> None:
    server = start_server(home, tmp_path / "log")
    body = json.dumps(exposure()).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest("POST", EVENTS)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:10])
    time.sleep(0.3)  # until a thread of the worker is reading
    server.process.send_signal(number)
    time.sleep(0.3)
    connection.send(body[10:])
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["accepted"]) == (202, 1)
    connection.close()
    assert server.process.wait(timeout=20) == 0
    with pytest.raises(ConnectionRefusedError):
        server.call("GET", "/healthz")
    assert stored_events(home) == 1


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux to find the worker")
def test_a_worker_that_dies_is_replaced(home: Home, tmp_path: Path) -> None:
    server = start_server(home, tmp_path / "log")
    main = server.process.pid
    (worker,) = map(int, Path(f"/proc/{main}/task/{main}/children").read_text().split())
    os.kill(worker, signal.SIGKILL)
    assert _answers(
        server, lambda: Path(f"/proc/{main}/task/{main}/children").read_text().split() != [str(worker)]
    )
    server.process.terminate()
    assert server.process.wait(timeout=20) == 0


def _answers(server: Server, also: Callable[[], bool] = lambda: True, seconds: float = 20) -> bool:
    """Whether the server comes to answer in time, and the other condition to hold."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if also() and server.call("GET", "/healthz")[0] == 200:
                return True
        except OSError:
            pass
        time.sleep(0.1)
    return False


def test_a_killed_server_leaves_no_worker_behind(home: Home, tmp_path: Path) -> None:
    server = start_server(home, tmp_path / "log")
    server.process.kill()
    server.process.wait(timeout=10)
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            server.call("GET", "/healthz")
        except OSError:
            return
        time.sleep(0.1)
    pytest.fail("the worker still answers")


def test_a_taken_port_is_named(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match=f"port {port} on 127.0.0.1 is taken"):
            serve(home, port=port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_of_another_machine_is_refused(home: Home, host: str) -> None:
    with pytest.raises(InvalidInput, match=host):
        serve(home, host=host, port=free_port())


def test_no_home_is_told_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is not a home"):
        serve(tmp_path)


def _cro(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(cro(*arguments), capture_output=True, text=True, check=False, timeout=60)


def test_the_command_tells_a_taken_port_in_one_line(server: Server) -> None:
    done = _cro("serve", "--home", str(server.home.path), "--port", str(server.port))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: port {server.port} on 127.0.0.1 is taken: stop what runs there, or use another with --port\n"
    )


def test_the_command_tells_a_missing_home_in_one_line(tmp_path: Path) -> None:
    done = _cro("serve", "--home", str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ")
    assert "cro init" in done.stderr


def test_the_address_of_the_settings_is_used(home: Home) -> None:
    """By the real command, without the test's launcher."""
    port = free_port()
    environment = {**os.environ, "CRO_SERVICE__PORT": str(port), "CRO_SERVICE__HOST": "localhost"}
    process = subprocess.Popen(
        cro("serve", "--home", str(home.path)), env=environment, stdout=subprocess.DEVNULL
    )
    try:
        assert _answers(Server(process, home, port, home.path))
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0
