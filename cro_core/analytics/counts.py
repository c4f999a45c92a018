"""The kinds of counts: steps of the waterfall, totals of a variant, slices of time, values of a facet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cro_core.analytics.definitions import OTHER, STEPS, UNKNOWN
from cro_core.analytics.segment_definitions import TIMED, TIMES_OF_DAY, WEEKDAYS
from cro_core.clock import zone
from cro_core.domain import Cell, DayCell, Experiment
from cro_core.evidence import Step, Totals


@dataclass(frozen=True, slots=True)
class Slice:
    """The counted units of one variant in one epoch that share a day, a device, a page ..."""

    dimension: str
    """What the units share: ``day``, ``hour`` or a key of :data:`cro_core.analytics.definitions.SEGMENTS`."""
    name: str
    """The shared value, such as ``2026-03-02``, ``14:00`` or ``mobile``; :data:`OTHER` or :data:`UNKNOWN`."""
    epoch: int
    variant: str
    units: int


def time_slices(
    experiment: Experiment, counts: Iterable[tuple[int, str, datetime, int]]
) -> tuple[Slice, ...]:
    """Divides counted units by day and by hour of the day, both on the clocks of the site.

    Args:
        experiment: says which clocks.
        counts: epoch, variant, start of a piece of time that lies within an hour of the site, and units.

    Returns:
        Days in order, then hours in order. The hour that a clock change repeats is one slice.
    """
    site = zone(experiment.plan.zone)
    units_by: Counter[tuple[str, str, int, str]] = Counter()
    for epoch, variant, start, units in counts:
        local = start.astimezone(site)
        units_by["day", local.date().isoformat(), epoch, variant] += units
        units_by["hour", f"{local.hour:02}:00", epoch, variant] += units
    return tuple(Slice(*key, units) for key, units in sorted(units_by.items()))


def day_cells(experiment: Experiment, rows: Iterable[Mapping[str, Any]]) -> tuple[DayCell, ...]:
    """Adds up what the units of each piece of time did, by day on the clocks of the site.

    Args:
        experiment: says which clocks.
        rows: those of :data:`cro_core.analytics.definitions.TIMES`, with ``starts_at``.

    Returns:
        Days in order, within them epochs and variants. All sums are of whole numbers, so no order changes them.
    """
    site = zone(experiment.plan.zone)
    sums: dict[tuple[str, int, str], list[int]] = {}
    for row in rows:
        key = row["starts_at"].astimezone(site).date().isoformat(), row["epoch"], row["variant"]
        sums[key] = [
            total + row[name] for total, name in zip(sums.get(key, [0] * len(_SUMMED)), _SUMMED, strict=True)
        ]
    return tuple(
        DayCell(*key, n, k, exposed, converted, delay / _HOUR, squares / _HOUR**2)
        for key, (n, k, exposed, converted, delay, squares) in sorted(sums.items())
    )


_HOUR = 3600
_SUMMED = ("units", "conversions", "exposed", "converted", "delay_sum", "delay_sumsq")
"""Columns of :data:`cro_core.analytics.definitions.TIMES` in the order of a day's numbers; delays in seconds."""


def totals(experiment: Experiment, cells: Sequence[Cell]) -> list[Totals]:
    """Adds the cells up per variant, in the experiment's order; variants nobody saw have zeros."""
    return [
        Totals(
            variant.key,
            variant.name,
            variant.is_control,
            *(
                sum(getattr(cell, field) for cell in cells if cell.variant == variant.key)
                for field in ("units", "conversions", "score_sum", "score_sumsq", "value_sum", "value_sumsq")
            ),
        )
        for variant in experiment.variants
    ]


def waterfall(stored: int, steps: Mapping[str, int], receipts: Mapping[str, int]) -> list[Step]:
    """Accounts for every posted event, from received to counted, in exactly one step.

    Args:
        stored: events in the store, counted without classifying them.
        steps: the same events by step.
        receipts: posted items by outcome; ``rejected`` and ``duplicate`` never reached the event table.

    Returns:
        ``received`` first, then every step; a last step ``unexplained`` appears only if the
        classification lost or doubled an event, which would be a fault of ours.
    """
    numbers = {**steps, "rejected": receipts.get("rejected", 0), "duplicate": receipts.get("duplicate", 0)}
    received = stored + numbers["rejected"] + numbers["duplicate"]
    lines = [Step("received", received, "posted for this experiment, or goals of the site while it ran")]
    lines += [Step(name, numbers.get(name, 0), text) for name, text in STEPS.items()]
    unexplained = received - sum(line.count for line in lines[1:])
    return lines + [Step("unexplained", unexplained, "not reconciled: please report this")] * bool(
        unexplained
    )


@dataclass(frozen=True, slots=True)
class Facet:
    """The counted units of one variant in one epoch that share the values of one or two dimensions."""

    by: tuple[str, ...]
    """The one or two of :data:`cro_core.analytics.segment_definitions.FACETS` that units are divided by."""
    values: tuple[str, ...]
    """A value of each dimension in ``by``; :data:`OTHER` or :data:`UNKNOWN`."""
    epoch: int
    variant: str
    units: int
    conversions: int


def facet_value(dimension: str, value: str) -> str:
    """Writes a value of a dimension as people read it, such as ``09:00``, ``Monday`` or ``evening (18-24)``."""
    if value in (OTHER, UNKNOWN) or dimension not in TIMED:
        return value
    number = int(value)
    return {"hour": f"{number:02}:00", "weekday": WEEKDAYS[number % 7]}.get(
        dimension, TIMES_OF_DAY[number % 4]
    )
