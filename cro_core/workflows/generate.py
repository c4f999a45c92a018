"""Synthetic traffic with a planted uplift, to see the system work before a website is connected."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from cro_core.assignment.buckets import assign
from cro_core.clock import iso
from cro_core.domain import Experiment, Variant
from cro_core.errors import InvalidInput
from cro_core.home import Home
from cro_core.ingest.website_words import as_posted
from cro_core.planning import plans
from cro_core.samples import synthetic_visitors
from cro_core.storage import experiments as store
from cro_core.workflows.ingest import ingest
from cro_core.workflows.transaction import begin

MOST_UPLIFT = 9.0
"""Largest uplift that leaves every visitor a chance to convert that is below 1."""

DAYS = 7
"""The generated traffic ends now and began this many days ago."""


@dataclass(frozen=True, slots=True)
class Generated:
    """What was made, and the truth that was planted."""

    experiments: tuple[str, ...]
    visitors: int
    events: int
    uplift: float

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "experiments": list(self.experiments),
            "visitors": self.visitors,
            "events": self.events,
            "uplift": self.uplift,
        }


def generate(
    home: Home,
    experiments: int,
    visitors: int,
    *,
    now: datetime,
    rng: np.random.Generator,
    uplift: float = 0.3,
) -> Generated:
    """Creates running experiments with this many visitors each over the past week.

    Args:
        experiments: how many, at least 1.
        visitors: per experiment, at least 1.
        uplift: true relative effect of each variant ``b`` on the conversion rate, above -1 and at most
            :data:`MOST_UPLIFT`.

    Raises:
        InvalidInput: a number out of range.
    """
    if experiments < 1 or visitors < 1:
        raise InvalidInput(f"got {experiments} experiments, {visitors} visitors: give at least 1 of each")
    if not -1 < uplift <= MOST_UPLIFT:
        raise InvalidInput(
            f"uplift is {uplift:g}: give more than -1 and at most {MOST_UPLIFT:g}, e.g. 0.3 for +30 %",
            field="uplift",
        )
    made = [_experiment(home, now, rng) for _ in range(experiments)]
    events = [event for experiment in made for event in _traffic(experiment, visitors, uplift, now, rng)]
    accepted = sum(ingest(home, events[i : i + 2000], now=now).accepted for i in range(0, len(events), 2000))
    return Generated(tuple(e.id for e in made), visitors, accepted, uplift)


def _experiment(home: Home, now: datetime, rng: np.random.Generator) -> Experiment:
    name = f"generated-{rng.bytes(4).hex()}"
    variants = (Variant("a", "Control", is_control=True), Variant("b", "Challenger"))
    plan = replace(plans.new_plan(home.config, synthetic_visitors.Truth().base_rate), adaptive=False)
    began = now - timedelta(days=DAYS)
    draft = Experiment(name, name, variants, plan, slot=name, source="generate", created_at=began)
    running = plans.begin(draft, began)
    with begin(home, now=now, actor="generate") as transaction:
        store.add(transaction.connection, running)
        transaction.log("experiment.create", name, after={"started_at": iso(began)})
    return running


def _traffic(
    experiment: Experiment, visitors: int, uplift: float, now: datetime, rng: np.random.Generator
) -> list[dict[str, Any]]:
    truth = synthetic_visitors.Truth(
        visitors_per_day=visitors / DAYS * 1.2, uplifts={(experiment.id, "b"): uplift}
    )
    hours = [now - timedelta(days=DAYS) + timedelta(hours=h) for h in range(DAYS * 24)]
    arrivals = [visit for hour in hours for visit in synthetic_visitors.visits(truth, hour, rng)]
    while len(arrivals) < visitors:
        arrivals += synthetic_visitors.visits(truth, hours[int(rng.integers(len(hours)))], rng)
    kept = rng.permutation(len(arrivals))[:visitors]
    events: list[dict[str, Any]] = []
    for visit in (arrivals[int(i)] for i in kept):
        variant = experiment.variants[
            assign(visit.visitor, experiment.seed, list(experiment.epochs[0].shares.values()))
        ]
        met = synthetic_visitors.MetVariant(experiment.id, variant.key, None, epoch=0, propensity=0.5)
        events.append(synthetic_visitors.exposure(visit, met))
        done = [
            as_posted(g | {"experiment_id": experiment.id})
            for g in synthetic_visitors.goals(truth, visit, {experiment.id: variant.key}, rng)
        ]
        events += [g for g in done if g["timestamp"] <= iso(now)]
    return events
