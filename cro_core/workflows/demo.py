"""The demo: a made-up site lives two weeks in a few minutes, with every part real.

The service runs as its own process and is spoken to over HTTP only. The clock of the demo home is moved hour
by hour; service and cycle read the same clock. Hidden preferences decide how visitors behave; the autopilot
has to find them out.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cro_core.clock import iso
from cro_core.config import FILE_NAME
from cro_core.errors import Conflict, CroError
from cro_core.home import Home, create_home, open_home, set_clock
from cro_core.ingest.website_words import as_posted, from_website
from cro_core.samples import synthetic_visitors
from cro_core.samples.sample_media import draw_sample_media
from cro_core.workflows.orchestrate import orchestrate
from cro_core.workflows.overview import recent_winners
from cro_core.workflows.run_job import run_job

START = datetime(2026, 3, 1, 23, tzinfo=UTC)
"""A Monday's midnight in the demo site's zone."""

SETTINGS: Mapping[str, Any] = {
    "site": {"name": "Fjord Events (demo)", "time_zone": "Europe/Copenhagen"},
    "automation": {"max_concurrent_tests": 2},
    "statistics": {"base_rate": 0.08, "minimum_detectable_uplift": 0.3},
}

TRUTH = synthetic_visitors.Truth(base_rate=0.08, visitors_per_day=650)
LIKED = {"video": 0.4, "image": 0.0}
"""What the visitors secretly prefer in the hero: the relative uplift of a kind of medium. CTA texts leave them cold."""

HOUR = timedelta(hours=1)
AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36"
CRAWLER = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
CLIENTS = 4


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Where everything is, and how to open it."""

    home: Path
    posted: int
    notebooks: tuple[Path, ...]
    reports: tuple[Path, ...]
    winners: tuple[str, ...]
    seconds: float
    text: str = field(repr=False, default="")


def run_demo(path: Path, *, days: int, seed: int, quiet: bool = False) -> DemoResult:
    """Runs the whole demo in a fresh home at ``path``.

    Raises:
        Conflict: ``path`` holds something that is not a former demo.
    """
    began = time.monotonic()
    home = _fresh_home(path, quiet)
    rng = np.random.default_rng(seed)
    draw_sample_media(home.media, rng)
    notebooks: list[Path] = [_cycle_notebook(home)]
    with _service(home) as address:
        visitors = _Visitors(home, address, rng)
        hours = range(days * 24)
        for hour in tqdm(hours, desc="simulated hours", unit="h", disable=quiet):
            visitors.live_through(START + hour * HOUR)
            notebooks += _cycle(home, midnight=(hour + 1) % 24 == 0)
    set_clock(home, home.clock() + timedelta(hours=3))
    notebooks.append(_notebook(run_job(home, "train", {}, now=home.clock())))
    set_clock(home, home.clock() + timedelta(hours=7))
    report = run_job(home, "weekly_report", {}, now=home.clock())
    notebooks.append(_notebook(report))
    reports = tuple(Path(report["files"][kind]) for kind in ("html", "text", "json"))
    winners = tuple(f"{w.variant} of {w.experiment_id}" for w in recent_winners(home))
    result = DemoResult(
        home.path, visitors.posted, tuple(notebooks), reports, winners, time.monotonic() - began
    )
    return replace(result, text=_text(result, days))


class _Visitors:
    """Simulated visitors that talk to the service, an hour at a time."""

    def __init__(self, home: Home, address: tuple[str, int], rng: np.random.Generator) -> None:
        self.home, self.address, self.rng = home, address, rng
        self.waiting: list[dict[str, Any]] = []  # events that have not happened yet
        self.posted = 0
        self.likes: dict[tuple[str, str], float] = {}

    def live_through(self, hour: datetime) -> None:
        """Visitors of this hour ask for their variants, then what they did is posted: late, twice, or by bots."""
        set_clock(self.home, hour)
        arrivals = synthetic_visitors.visits(TRUTH, hour, self.rng)
        for visit, answer in zip(arrivals, self._ask(arrivals), strict=True):
            self._behave(visit, answer)
        set_clock(self.home, hour + HOUR)
        self._post_what_happened(hour + HOUR)

    def _behave(self, visit: synthetic_visitors.Visit, answer: Mapping[str, Any]) -> None:
        shown = {}
        for assignment in map(from_website, answer["experiments"]):
            if assignment["counted"]:
                self.waiting.append(synthetic_visitors.exposure(visit, _met(assignment)))
            self._learn_truth(assignment)
            shown[assignment["experiment_id"]] = assignment["variant"]
        appeal = [LIKED.get(entry["config"].get("kind", ""), 0.0) for entry in answer["production"]]
        truth = synthetic_visitors.Truth(
            TRUTH.base_rate * float(np.prod([1 + a for a in appeal])),
            TRUTH.visitors_per_day,
            self.likes,
            TRUTH.delay,
        )
        self.waiting += synthetic_visitors.goals(truth, visit, shown, self.rng)

    def _learn_truth(self, assignment: Mapping[str, Any]) -> None:
        pair = (assignment["experiment_id"], assignment["variant"])
        self.likes[pair] = LIKED.get(assignment["config"].get("kind", ""), 0.0)

    def _post_what_happened(self, now: datetime) -> None:
        happened = [e for e in self.waiting if e["timestamp"] <= iso(now)]
        self.waiting = [e for e in self.waiting if e["timestamp"] > iso(now)]
        again = [e for e in happened if self.rng.random() < 0.03]  # a beacon that was sent twice
        broken = [
            e | as_posted({"variant": "no-such-variant", "id": f"{e['id']}:broken"})
            for e in happened
            if self.rng.random() < 0.002
        ]
        crawled = [
            {**e, "id": f"{e['id']}:bot", "user_id": f"bot-{e['user_id']}"}
            for e in happened
            if self.rng.random() < 0.01
        ]
        self._post([*happened, *again, *broken], AGENT)
        self._post(crawled, CRAWLER)

    def _post(self, events: Sequence[dict[str, Any]], agent: str) -> None:
        if events:
            with closing(http.client.HTTPConnection(*self.address, timeout=60)) as connection:
                _call(connection, "POST", "/api/cro/events", agent, json.dumps({"events": events}))
            self.posted += len(events)

    def _ask(self, arrivals: Sequence[synthetic_visitors.Visit]) -> list[dict[str, Any]]:
        chunks = [arrivals[i::CLIENTS] for i in range(CLIENTS)]
        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(pool.map(self._ask_all, chunks))
        return [answers[i % CLIENTS][i // CLIENTS] for i in range(len(arrivals))]

    def _ask_all(self, visits: Sequence[synthetic_visitors.Visit]) -> list[dict[str, Any]]:
        with closing(http.client.HTTPConnection(*self.address, timeout=60)) as connection:
            return [
                _call(connection, "GET", f"/api/cro/assignments?visitor={v.visitor}", AGENT) for v in visits
            ]


def _met(assignment: Mapping[str, Any]) -> synthetic_visitors.MetVariant:
    return synthetic_visitors.MetVariant(
        **{field.name: assignment[field.name] for field in fields(synthetic_visitors.MetVariant)}
    )


def _fresh_home(path: Path, quiet: bool) -> Home:
    root = path.expanduser().resolve()
    if root.exists() and any(root.iterdir()):
        if not (root / "data" / "clock.json").exists() or not (root / FILE_NAME).exists():
            raise Conflict(f"{root} is not a former demo, so it is left alone: give --home another folder")
        _tell(f"A former demo in {root} is removed; this one starts clean.", quiet)
        shutil.rmtree(root)
    else:
        _tell(f"Starting clean in {root}.", quiet)
    home = create_home(root, SETTINGS)
    set_clock(home, START)
    return open_home(root)


def _cycle(home: Home, *, midnight: bool) -> list[Path]:
    """A cycle: as an executed notebook each midnight and wherever a decision falls, else in this process."""
    if midnight:
        return [_cycle_notebook(home)]
    report = orchestrate(home, now=home.clock(), conclude=False)
    if report.failures:
        raise CroError(f"the cycle of {iso(report.at)} failed: {report.failures[0]}")
    return [_cycle_notebook(home)] if any(d.final for d in report.decisions) else []


def _cycle_notebook(home: Home) -> Path:
    return _notebook(run_job(home, "orchestrate", {}, now=home.clock()))


def _notebook(outcome: Mapping[str, Any]) -> Path:
    return Path(outcome["notebook"])


@contextmanager
def _service(home: Home) -> Iterator[tuple[str, int]]:
    """The real service in its own process, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = ("127.0.0.1", int(probe.getsockname()[1]))
    command = [
        sys.executable,
        "-m",
        "cro_core.cli",
        "serve",
        "--home",
        str(home.path),
        "--port",
        str(address[1]),
    ]
    with (home.data / "service.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for(address, process, home)
            yield address
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_for(address: tuple[str, int], process: subprocess.Popen[bytes], home: Home) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with closing(http.client.HTTPConnection(*address, timeout=5)) as connection:
                _call(connection, "GET", "/healthz", AGENT)
                return
        except OSError:
            time.sleep(0.1)
    raise CroError(f"the service did not start: see {home.data / 'service.log'}")


def _call(
    connection: http.client.HTTPConnection, method: str, path: str, agent: str, body: str | None = None
) -> dict[str, Any]:
    connection.request(method, path, body, {"User-Agent": agent, "Content-Type": "text/plain"})
    answer = connection.getresponse()
    data = answer.read()
    if answer.status >= 400:
        raise CroError(f"{method} {path} answered {answer.status}: {data[:300].decode(errors='replace')}")
    parsed: dict[str, Any] = json.loads(data)
    return parsed


def _tell(line: str, quiet: bool) -> None:
    if not quiet:
        print(line, flush=True)


def _text(result: DemoResult, days: int) -> str:
    html, text, data = result.reports
    winners = ", ".join(result.winners) or "none: nothing was proven, and the autopilot says so"
    return f"""
{days} simulated days in {result.seconds:.0f} s: {result.posted:,} events posted over HTTP,
{len(result.notebooks)} notebooks executed.
Proven winners: {winners}

Weekly report   {html}
                {text}
                {data}
Notebooks       {result.home / "reports" / "runs"}   (each with its HTML page)
Dashboard       .venv/bin/cro dashboard --home {result.home}   then open http://127.0.0.1:8866
Look around     .venv/bin/cro status --home {result.home}
                .venv/bin/jupyter lab notebooks/explore.ipynb
"""
