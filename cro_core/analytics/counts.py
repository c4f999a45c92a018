"""What was counted, as values: steps of the waterfall, totals of a variant, slices of time, values of a facet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cro_core.analytics.definitions import OTHER, STEPS, TIMED, TIMES_OF_DAY, UNKNOWN, WEEKDAYS
from cro_core.clock import zone
from cro_core.domain import Cell, Experiment
from cro_core.evidence import Step, Totals


@dataclass(frozen=True, slots=True)
class Slice:
    """The counted units of one variant in one epoch that share a day, a device, a page ..."""

    dimension: str
    """``day``, ``hour`` or a key of :data:`SEGMENTS`."""
    name: str
    """``2026-03-02``, ``14:00``, ``mobile`` ...; :data:`OTHER` or :data:`UNKNOWN`."""
    epoch: int
    variant: str
    units: int


def time_slices(
    experiment: Experiment, counts: Iterable[tuple[int, str, datetime, int]]
) -> tuple[Slice, ...]:
    """Counted units by day and by hour of the day, both on the clocks of the site.

    Args:
        experiment: says which clocks.
        counts: epoch, variant, start of the quarter of an hour (UTC) and units.

    Returns:
        Days in order, then hours in order. The hour that a clock change repeats is one slice.
    """
    site = zone(experiment.plan.zone)
    found: Counter[tuple[str, str, int, str]] = Counter()
    for epoch, variant, quarter, units in counts:
        local = quarter.astimezone(site)
        found["day", local.date().isoformat(), epoch, variant] += units
        found["hour", f"{local.hour:02}:00", epoch, variant] += units
    return tuple(Slice(*key, units) for key, units in sorted(found.items()))


def totals(experiment: Experiment, cells: Sequence[Cell]) -> list[Totals]:
    """The cells added up per variant, in the experiment's order; variants nobody saw have zeros."""
    return [
        Totals(
            v.key,
            v.name,
            v.is_control,
            *(
                sum(getattr(c, field) for c in cells if c.variant == v.key)
                for field in ("units", "conversions", "score_sum", "score_sumsq", "value_sum", "value_sumsq")
            ),
        )
        for v in experiment.variants
    ]


def waterfall(stored: int, steps: Mapping[str, int], receipts: Mapping[str, int]) -> list[Step]:
    """From received to counted, every posted event in exactly one step.

    Args:
        stored: events in the store, counted without classifying them.
        steps: the same events by step.
        receipts: posted items by outcome; ``rejected`` and ``duplicate`` never reached the event table.

    Returns:
        ``received`` first, then every step; a last step ``unexplained`` appears only if the
        classification lost or doubled an event, which would be a fault of ours.
    """
    found = {**steps, "rejected": receipts.get("rejected", 0), "duplicate": receipts.get("duplicate", 0)}
    received = stored + found["rejected"] + found["duplicate"]
    lines = [Step("received", received, "posted for this experiment, or goals of the site while it ran")]
    lines += [Step(name, found.get(name, 0), text) for name, text in STEPS.items()]
    unexplained = received - sum(line.count for line in lines[1:])
    return lines + [Step("unexplained", unexplained, "not reconciled: please report this")] * bool(
        unexplained
    )


@dataclass(frozen=True, slots=True)
class Facet:
    """The counted units of one variant in one epoch that share the values of one or two dimensions."""

    by: tuple[str, ...]
    """One or two of :data:`FACETS`."""
    values: tuple[str, ...]
    """A value of each; :data:`OTHER` or :data:`UNKNOWN`."""
    epoch: int
    variant: str
    units: int
    conversions: int


def facet_value(dimension: str, value: str) -> str:
    """A value of a dimension as people read it: ``09:00``, ``Monday``, ``evening (18-24)``."""
    if value in (OTHER, UNKNOWN) or dimension not in TIMED:
        return value
    number = int(value)
    return {"hour": f"{number:02}:00", "weekday": WEEKDAYS[number % 7]}.get(
        dimension, TIMES_OF_DAY[number % 4]
    )
