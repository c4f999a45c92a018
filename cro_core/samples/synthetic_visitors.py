"""Synthetic visitors with a known truth: for the demo, for samples, for tests.

Every number comes from the random generator that is handed in, so that a seed tells the whole story.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from cro_core.clock import iso
from cro_core.domain import EXPOSURE
from cro_core.ingest.website_words import as_posted

DEVICES = {"mobile": (0.62, 0.9), "desktop": (0.31, 1.2), "tablet": (0.07, 1.0)}
"""Device -> its share of the traffic, and its conversion relative to the base rate."""

CITIES = {
    "Copenhagen": 0.38,
    "Aarhus": 0.2,
    "Odense": 0.13,
    "Aalborg": 0.11,
    "Roskilde": 0.08,
    "Esbjerg": 0.1,
}
OCCASIONS = {"wedding": 0.5, "party": 0.32, "corporate": 0.18}
ENGAGEMENT = {
    "scroll_depth_75": 0.42,
    "time_on_page_60s": 0.3,
    "gallery_interaction": 0.24,
    "video_play": 0.18,
    "video_complete": 0.08,
}
HOURLY = 1 + 0.4 * np.sin((np.arange(24) - 9) / 24 * 2 * np.pi)
"""Relative traffic by hour of the day: low at night, high in the afternoon."""
WEEKDAY, WEEKEND = 0.9, 1.25


@dataclass(frozen=True, slots=True)
class Truth:
    """The known truth: how often synthetic visitors come and convert."""

    base_rate: float = 0.08
    """Probability of a ``contact_form_submit`` under the control, averaged over the traffic."""
    visitors_per_day: float = 600
    uplifts: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """True relative uplift by (experiment, variant); absent means none."""
    delay: timedelta = timedelta(minutes=25)
    """Mean time from exposure to conversion."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A synthetic person who comes to the site."""

    visitor: str
    at: datetime
    device: str
    city: str
    occasion: str


@dataclass(frozen=True, slots=True)
class MetVariant:
    """The variant of an experiment that a visitor meets, as its assignment gave it."""

    experiment_id: str
    variant: str
    asset_id: str | None
    epoch: int
    propensity: float


def visits(truth: Truth, hour: datetime, rng: np.random.Generator) -> list[Visit]:
    """Draws the visitors of an hour, in order of arrival."""
    day = WEEKEND if hour.weekday() >= 5 else WEEKDAY
    count = int(rng.poisson(truth.visitors_per_day / 24 * HOURLY[hour.hour] * day))
    seconds = np.sort(rng.uniform(0, 3600, count))
    return [Visit(_name(rng), hour + timedelta(seconds=float(second)), *_context(rng)) for second in seconds]


def exposure(visit: Visit, met: MetVariant) -> dict[str, Any]:
    """Makes the event, as a website posts it, that says that a visitor met a variant."""
    return as_posted(
        {
            **_who(visit, f"x:{visit.visitor}:{met.experiment_id}", EXPOSURE, visit.at),
            "experiment_id": met.experiment_id,
            "variant": met.variant,
            "asset_id": met.asset_id,
            "epoch": met.epoch,
            "propensity": met.propensity,
        }
    )


def goals(
    truth: Truth, visit: Visit, variants: Mapping[str, str], rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Draws what a visitor does after meeting ``variants`` (experiment -> variant), as events."""
    rate = truth.base_rate * DEVICES[visit.device][1]
    for pair in variants.items():
        rate *= 1 + truth.uplifts.get(pair, 0.0)
    if rng.random() < min(rate, 1.0):
        after = timedelta(seconds=float(rng.exponential(truth.delay.total_seconds())))
        yield _who(visit, f"g:{visit.visitor}:lead", "contact_form_submit", visit.at + after)
    for name, chance in ENGAGEMENT.items():
        if rng.random() < chance:
            after = timedelta(seconds=float(rng.exponential(60)))
            yield _who(visit, f"g:{visit.visitor}:{name}", name, visit.at + after)


def _who(visit: Visit, event_id: str, event_type: str, at: datetime) -> dict[str, Any]:
    return {
        "id": event_id,
        "event_type": event_type,
        "user_id": visit.visitor,
        "timestamp": iso(at),
        "device_type": visit.device,
        "city": visit.city,
        "occasion": visit.occasion,
    }


def _name(rng: np.random.Generator) -> str:
    return "v" + rng.bytes(8).hex()


def _context(rng: np.random.Generator) -> tuple[str, str, str]:
    device = _pick(rng, {name: share for name, (share, _) in DEVICES.items()})
    return device, _pick(rng, CITIES), _pick(rng, OCCASIONS)


def _pick(rng: np.random.Generator, shares: Mapping[str, float]) -> str:
    return list(shares)[int(np.searchsorted(np.cumsum(list(shares.values())), rng.random() * 0.999999))]
