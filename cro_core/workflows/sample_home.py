"""A small home of made-up visitors, so that every notebook runs on its defaults in seconds."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from cro_core.assignment.buckets import assign
from cro_core.clock import iso, parse_time
from cro_core.domain import Experiment, Variant
from cro_core.home import Home, create_home, open_home, set_clock
from cro_core.ingest.cleaning import Sender
from cro_core.samples import synthetic_visitors
from cro_core.workflows.create_experiment import NewExperiment, create_experiment
from cro_core.workflows.ingest import ingest

NOW = datetime(2026, 3, 16, 8, tzinfo=UTC)
DAYS = 8
SEED = 20260316

SETTINGS: Mapping[str, Any] = {
    "site": {"name": "Sample site", "time_zone": "Europe/Copenhagen"},
    "statistics": {"base_rate": 0.08, "minimum_detectable_uplift": 0.6},
    "smart_traffic_allocation": {"enabled": False},
    "automation": {"test_duration_max_days": 7},
}

EXPERIMENTS = (
    NewExperiment(
        "hero-film",
        (
            Variant("photo", "Photo of the hall", asset_id="hall.jpg", is_control=True),
            Variant("film", "Film of the dance", asset_id="dance.mp4"),
        ),
        name="Front page: photo or film",
        slot="hero",
        hypothesis="A film of a party shows the mood better than a photo of an empty hall.",
    ),
    NewExperiment(
        "button-words",
        (Variant("contact", "Contact us", is_control=True), Variant("date", "Check your date")),
        name="Words on the button",
        slot="cta",
        hypothesis="A concrete offer is pressed more often than a request.",
    ),
    NewExperiment(
        "wedding-gallery",
        (
            Variant("couple", "Couple", asset_id="couple.jpg", is_control=True),
            Variant("table", "Laid table", asset_id="table.jpg"),
        ),
        name="Wedding gallery: first picture",
        slot="gallery",
        occasion="wedding",
        minimum_detectable_uplift=0.3,
    ),
)

LATER: Mapping[str, int] = {"wedding-gallery": 4}
"""Experiments that start after the others, and how many days."""

CRAWLER = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
TRUTH = synthetic_visitors.Truth(base_rate=0.08, visitors_per_day=240, uplifts={("hero-film", "film"): 0.75})


def open_or_sample(path: str) -> Home:
    """The home at ``path``; where that is empty, the one of ``CRO_HOME``, else a fresh :func:`sample_home`."""
    return open_home(path or None) if path or os.environ.get("CRO_HOME") else sample_home()


def moment(as_of: str, home: Home) -> datetime:
    """The time in ``as_of``; where that is empty, the home's own time."""
    return parse_time(as_of) if as_of else home.clock()


def sample_home(folder: Path | None = None) -> Home:
    """A home with a proven winner, an experiment that proved nothing and a running one, always the same.

    Args:
        folder: where to make it; default: a temporary folder that is removed when this process ends.
    """
    root = folder or Path(tempfile.mkdtemp(prefix="cro-sample-"))
    if folder is None:
        atexit.register(shutil.rmtree, root, ignore_errors=True)
    home = create_home(root, SETTINGS, environ={})
    began = NOW - timedelta(days=DAYS)
    set_clock(home, began)
    home = open_home(root, environ={})
    rng, started, events = np.random.default_rng(SEED), list[Experiment](), list[dict[str, Any]]()
    for day in range(DAYS):
        morning = began + timedelta(days=day)
        due = [wanted for wanted in EXPERIMENTS if LATER.get(wanted.id, 0) == day]
        started += [create_experiment(home, wanted, now=morning, actor="sample") for wanted in due]
        events += _day(started, morning, rng)
        _live_through(home, events, morning + timedelta(days=1))
    return home


def _live_through(home: Home, events: list[dict[str, Any]], until: datetime) -> None:
    """Posts what has happened by then, and runs one cycle."""
    from cro_core.workflows.orchestrate import orchestrate

    set_clock(home, until)
    since = iso(until - timedelta(days=1))
    happened = [e for e in events if since < e["timestamp"] <= iso(until)]
    again = happened[::40]  # beacons that were sent twice
    crawled = [{**e, "id": f"{e['id']}:bot", "user_id": f"bot:{e['user_id']}"} for e in happened[::60]]
    ingest(home, [*happened, *again], now=until)
    ingest(home, crawled, now=until, sender=Sender(CRAWLER))
    orchestrate(home, now=until)


def _day(
    experiments: list[Experiment], morning: datetime, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Everything that the visitors of a day do, then and later, in no order."""
    for hour in range(24):
        for visit in synthetic_visitors.visits(TRUTH, morning + timedelta(hours=hour), rng):
            shown = {e.id: _assigned(e, visit.visitor) for e in experiments}
            yield from (synthetic_visitors.exposure(visit, met) for met in shown.values())
            keys = {key: met.variant for key, met in shown.items()}
            yield from synthetic_visitors.goals(TRUTH, visit, keys, rng)


def _assigned(experiment: Experiment, visitor: str) -> synthetic_visitors.MetVariant:
    epoch = experiment.epochs[0]
    shares = [epoch.shares[v.key] for v in experiment.variants]
    variant = experiment.variants[assign(visitor, experiment.seed, shares)]
    return synthetic_visitors.MetVariant(
        experiment.id, variant.key, variant.asset_id, epoch.number, epoch.shares[variant.key]
    )
