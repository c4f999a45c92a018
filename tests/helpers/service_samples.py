"""What the tests of the service share: a home with one running experiment, events, and the real server."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import func, select

from cro_core.domain import Status
from cro_core.home import Home, create_home, open_home, set_clock
from cro_core.storage import experiments, schema
from cro_core.workflows import lifecycle
from cro_core.workflows.create_experiment import create_experiment
from cro_core.workflows.evaluate import evaluate_within
from cro_core.workflows.ingest import ingest
from cro_core.workflows.transaction import begin

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
LATER = START + timedelta(hours=1)

EXPERIMENT: dict[str, Any] = {
    "test_id": "hero-cta",
    "name": "Call to action",
    "slot": "hero",
    "variants": [
        {"variant_id": "control", "name": "Quote", "config": {"text": "Request a quote"}},
        {"variant_id": "call", "name": "Call", "config": {"text": "Call now"}},
    ],
}

BROWSER = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36"
CRAWLER = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"

both_ways = pytest.mark.parametrize("way", ["flask", "fast_path"])
"""Runs a test on the plain Flask app and on the one with the short way."""


def make_home(path: Path, settings: dict[str, Any] | None = None) -> Home:
    """A simulated home at ``LATER`` whose experiment began at ``START``."""
    home = create_home(path, settings or {})
    set_clock(home, LATER)
    home.db.close()
    home = open_home(path)
    create_experiment(home, EXPERIMENT, now=START, actor="test")
    return home


def stored_events(home: Home) -> int:
    """Rows of the event table."""
    with home.db.read() as connection:
        return int(connection.scalar(select(func.count()).select_from(schema.events)) or 0)


def exposure(visitor: str = "v1", variant: str = "control", **fields: Any) -> dict[str, Any]:
    """An exposure as a website posts it."""
    return {
        "event_type": "exposure",
        "test_id": "hero-cta",
        "variant_id": variant,
        "user_id": visitor,
        **fields,
    }


def check_shape(model: type[BaseModel], data: Any) -> None:
    """Every documented field is there with its type, and nothing undocumented is."""
    assert model.model_validate(data).model_dump(mode="json", exclude_unset=True) == data


def conclude(home: Home, experiment_id: str = "hero-cta") -> None:
    """Ends the experiment at its horizon, with a challenger that converts four times as often."""
    posted = []
    for number in range(800):
        visitor, variant = f"u{number}", ("control", "call")[number % 2]
        posted.append(exposure(visitor, variant, id=f"x{number}", timestamp=LATER.isoformat()))
        if number % (20 if variant == "control" else 5) in (0, 1):
            goal = {"event_type": "contact_form_submit", "user_id": visitor, "id": f"g{number}"}
            posted.append({**goal, "timestamp": (LATER + timedelta(minutes=5)).isoformat()})
    ingest(home, posted, now=LATER + timedelta(hours=1))
    now = START + timedelta(days=14)
    with begin(home, now=now, actor="autopilot") as transaction:
        experiment = experiments.get(transaction.connection, experiment_id)
        assert experiment.status is Status.RUNNING
        decision = evaluate_within(transaction.connection, experiment, now).decision
        lifecycle.conclude(transaction, experiment, decision)
    set_clock(home, now)


@dataclass
class Server:
    """The real service in its own process."""

    process: subprocess.Popen[str]
    home: Home
    port: int
    log: Path

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers (lower case) and JSON of an answer; ``body`` is text, bytes, an iterable (sent chunked) or JSON."""
        raw = json.dumps(body) if isinstance(body, (dict, list)) else body
        chunked = raw is not None and not isinstance(raw, (str, bytes))
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            with suppress(BrokenPipeError, ConnectionResetError):  # it was answered before all was sent
                connection.request(method, path, body=raw, headers=headers or {}, encode_chunked=chunked)
            answer = connection.getresponse()
            content = answer.read()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, found, json.loads(content) if content else None


def cro(*arguments: str) -> list[str]:
    """The command line of the package, in this environment."""
    return [sys.executable, "-m", "cro_core.cli", *arguments]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server(home: Home, log: Path, *, jobs: bool = False) -> Server:
    """Starts ``cro serve`` and waits until it answers.

    Args:
        home: what it serves.
        log: where its output goes.
        jobs: whether jobs run their notebooks, which takes seconds; else ``launch.py`` notes them as done.
    """
    port = free_port()
    launcher = str(Path(__file__).with_name("launch.py"))
    command = [sys.executable, launcher, str(home.path), str(port)]
    if jobs:
        command = cro("serve", "--home", str(home.path), "--port", str(port))
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, text=True, env=environment
        )
    server = Server(process, home, port, log)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            server.call("GET", "/healthz")
        except OSError:
            time.sleep(0.05)
        else:
            return server
    process.kill()
    raise AssertionError(f"the server did not start:\n{log.read_text()}")
