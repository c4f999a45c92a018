"""Slow and broken clients, more of them than threads, at the real server: everybody else is answered as before."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.service_samples import Server, exposure, make_home, start_server
from sqlalchemy import select

from cro_core.home import Home
from cro_core.storage import schema
from service.server import HEADER_SECONDS
from service.slow_clients import BODY_SECONDS, RsgiAdapter

EVENTS = "/api/cro/events"
CROWD = 40
"""Clients that misbehave at once; launch.py has 8 threads."""

QUICK = 2.0
"""Seconds, on a busy machine; without buffering the answer takes as long as the slow client likes."""

HALF = (
    b"POST /api/cro/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
    b'{"event_type": "phone_click", "user_id": "half'
)


@contextmanager
def _connected(server: Server, number: int = CROWD) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
            for _ in range(number)
        ]


def _check_others_are_answered(server: Server) -> None:
    for number in range(8):
        began = time.monotonic()
        event = exposure(f"other-{number}", id=f"other-{time.monotonic_ns()}")
        assert server.call("POST", EVENTS, event)[0] == 202
        assert server.call("GET", "/api/cro/assignments?visitor=other")[0] == 200
        assert time.monotonic() - began < QUICK


def test_half_a_body_keeps_nobody_waiting(server: Server) -> None:
    with _connected(server) as crowd:
        for client in crowd:
            client.sendall(HALF)
        time.sleep(0.3)
        _check_others_are_answered(server)
    _check_others_are_answered(server)


def test_half_a_chunked_body_keeps_nobody_waiting(server: Server) -> None:
    head = HALF.partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n\r\n"
    with _connected(server) as crowd:
        for client in crowd:
            client.sendall(head + b"10\r\n{")
        time.sleep(0.3)
        _check_others_are_answered(server)


def test_headers_byte_by_byte_keep_nobody_waiting(server: Server) -> None:
    stop = threading.Event()

    def trickle(crowd: list[socket.socket]) -> None:
        for byte in HALF[:60]:
            for client in crowd:
                client.sendall(bytes([byte]))
            if stop.wait(0.02):
                return

    with _connected(server) as crowd:
        sender = threading.Thread(target=trickle, args=(crowd,))
        sender.start()
        try:
            _check_others_are_answered(server)
        finally:
            stop.set()
            sender.join()


def test_connections_that_are_reset_leave_nothing_behind(server: Server) -> None:
    """At every place of a request, also while it is being answered."""
    event = json.dumps(exposure("reset")).encode()
    whole = (
        b"POST /api/cro/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(event) + event
    )
    chance = random.Random(7)
    with _connected(server, 200) as crowd:
        for client in crowd:
            client.sendall(whole[: chance.randint(1, len(whole))])
        for client in crowd:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _check_others_are_answered(server)
    assert "Traceback" not in server.log.read_text()


def test_answers_that_nobody_reads_keep_nobody_waiting(server: Server) -> None:
    asked = b"GET /api/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
    with _connected(server) as crowd:
        for client in crowd:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            client.sendall(asked)
        time.sleep(0.5)
        _check_others_are_answered(server)


def test_a_thousand_silent_connections_keep_nobody_waiting(server: Server) -> None:
    with _connected(server, 1500):
        _check_others_are_answered(server)


def test_a_client_that_sends_no_body_is_told_so() -> None:
    """The adapter by itself, which here waits for a tenth of a second."""
    told: list[Any] = []
    slow: list[bool] = []

    class Silent:
        async def __call__(self) -> bytes:
            await asyncio.sleep(60)
            return b""

        def response_bytes(self, *answer: Any) -> None:
            told.append(answer)

    scope: Any = SimpleNamespace(method="POST", headers={"content-length": "100"})
    protocol: Any = Silent()
    adapter = RsgiAdapter(
        lambda *_: [], threads=1, most=1_000, seconds=0.1, on_slow=lambda: slow.append(True)
    )
    asyncio.run(adapter.__rsgi__(scope, protocol))
    ((status, headers, body),) = told
    assert (status, dict(headers)["Connection"], slow) == (408, "close", [True])
    assert json.loads(body)["error"]["code"] == "too_slow"


@pytest.mark.slow
def test_a_body_that_does_not_come_is_refused_in_the_end(server: Server) -> None:
    """So are headers that do not come, and a connection on which nothing more is asked."""
    with _connected(server) as crowd, _connected(server, 3) as others:
        began = time.monotonic()
        for client in crowd:
            client.sendall(HALF)
        half, silent, idle = others
        half.sendall(HALF[:40])
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(10_000).startswith(b"HTTP/1.1 200")
        for client in (half, silent, idle):
            client.settimeout(HEADER_SECONDS + 5)
            assert client.recv(10_000).partition(b"\r\n")[0] in {b"", b"HTTP/1.1 408 Request Timeout"}
        assert HEADER_SECONDS - 1 < time.monotonic() - began < HEADER_SECONDS + 4
        for client in crowd:
            with closing(http.client.HTTPResponse(client)) as answer:
                answer.begin()
                assert answer.status == 408
                assert json.loads(answer.read())["error"]["code"] == "too_slow"
        assert BODY_SECONDS - 1 < time.monotonic() - began < BODY_SECONDS + 10
        assert crowd[0].recv(1) == b""  # and its connection ends
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.request("GET", "/metrics")
        told = connection.getresponse().read().decode()
    assert f"cro_slow_clients_total {CROWD:.1f}" in told


def _ids(home: Home) -> set[str]:
    with home.db.read() as connection:
        return set(connection.scalars(select(schema.events.c.id)))


def test_a_signal_under_load_loses_nothing_acknowledged_and_fails_nothing_accepted(tmp_path: Path) -> None:
    server = start_server(make_home(tmp_path / "home"), tmp_path / "log")
    acknowledged: set[str] = set()
    statuses: set[int] = set()

    def post_for_ever(client: int) -> None:
        number = 0
        while True:
            name = f"load-{client}-{number}"
            try:
                status = server.call("POST", EVENTS, [exposure(name, id=name)])[0]
            except (OSError, http.client.HTTPException):
                return  # it was never accepted, or the server is gone
            statuses.add(status)
            if status == 202:
                acknowledged.add(name)
            number += 1

    clients = [threading.Thread(target=post_for_ever, args=(n,)) for n in range(16)]
    for client in clients:
        client.start()
    deadline = time.monotonic() + 30
    while len(acknowledged) < 300 and time.monotonic() < deadline:
        time.sleep(0.05)
    server.process.send_signal(signal.SIGTERM)
    for client in clients:
        client.join(timeout=60)
    assert server.process.wait(timeout=30) == 0
    assert len(acknowledged) >= 300
    assert statuses == {202}
    assert acknowledged <= _ids(server.home)
    server.home.db.close()
