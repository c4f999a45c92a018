"""What an experiment and its counts look like to the statistics, and what earlier looks left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import takewhile

import numpy as np

from cro_core.clock import MICROSECOND, midnight_after, zone
from cro_core.domain import Cell, DayCell, Experiment, to_json
from cro_core.evidence import ExactLooks, Hold, LooksTaken
from cro_core.planning import plans
from cro_core.statistics import exact, looks
from cro_core.statistics.sequential import Spending, State

FUTILITY_POWER = 0.1
"""Conditional power at the planned uplift below which an experiment stops."""

LEAST_POWER = 0.5
"""Planned power below which futility is not asked."""

SATURDAY = 5
"""The first weekday of a weekend, Monday being 0."""


def traffic(experiment: Experiment, units: int, elapsed: float) -> float:
    """Visitors a day that an experiment gets, from those counted over ``elapsed`` of its planned traffic."""
    days = (experiment.plan.horizon - experiment.plan.window) / timedelta(days=1)
    return units / (elapsed * days) if elapsed and days else 0.0


SHIP_AFTER_HOURS = 168.0
"""No variant is shipped before it has met every weekday."""


def look_plan(experiment: Experiment, traffic_per_day: float) -> looks.LookPlan:
    """What was fixed before the start, as a look takes it.

    Futility is not asked at a traffic that gives the plan less than even odds: there, most experiments with a
    real effect would be stopped for want of visitors, which is no sign that there is no effect.
    """
    plan = experiment.plan
    sized = plans.size(plan, traffic_per_day, variants=len(experiment.variants)) if traffic_per_day else None
    live = plan.rule == 2 and not plan.finished
    return looks.LookPlan(
        weights=tuple(e.weight for e in experiment.epochs) or (1.0,),
        added_epochs=_added_epochs(experiment),
        planned_units=None if live else plan.units,
        alpha=plan.alpha,
        spending=Spending(plan.spending, plan.spending_parameter),
        mde=plan.mde,
        min_uplift=plan.min_uplift,
        gate=plan.gate,
        min_units=plan.min_units,
        min_hours=0.0 if plan.finished else plan.min_hours,
        ship_after_hours=SHIP_AFTER_HOURS if live else 0.0,
        futility=plan.futility and sized is not None and sized.power >= LEAST_POWER,
        futility_power=FUTILITY_POWER,
        hold=live,
        acting_bounds=plan.rule == 2,
        veto_ends=plan.rule == 1,
    )


def _added_epochs(experiment: Experiment) -> int:
    """How many epochs a hold has added to the schedule."""
    planned = plans.planned_enrolment_end(experiment)
    if planned is None or experiment.plan.rule == 1 or len(experiment.epochs) < 2:
        return 0
    return sum(epoch.starts_at >= planned for epoch in experiment.epochs)


@dataclass(frozen=True, slots=True)
class Moment:
    """The time over which the units of one look came."""

    elapsed: float
    """Planned share of traffic over which the units that decide came, in [0, 1]."""
    hours: float
    """Hours over which they came."""
    clock: float
    """Hours since the start, up to the last look."""
    mature: float
    """Planned share of traffic over which the mature units came, in [0, 1]."""
    epochs: int
    """How many epochs, from the first on, decide."""


def moment(experiment: Experiment, as_of: datetime) -> Moment:
    """The time over which the units of a look came.

    With fixed shares all exposed units decide; where shares move, those of the days that are over and mature. The
    first rule, and a file that is complete, look at the mature units.
    """
    mature, hours = plans.progress(experiment, as_of)
    plan, started_at, ends_at = experiment.plan, experiment.started_at, experiment.horizon_ends_at
    if plan.rule == 1 or plan.finished or started_at is None or ends_at is None:
        return Moment(mature, hours, hours, mature, len(experiment.epochs))
    clock = max((min(as_of, ends_at) - started_at) / plans.HOUR, 0.0)
    if not plan.adaptive:
        return Moment(plans.elapsed(experiment, as_of), clock, clock, mature, len(experiment.epochs))
    over = [epoch for epoch in experiment.epochs if epoch.ends_at <= as_of - plan.window]
    if not over:
        return Moment(0.0, 0.0, clock, mature, 0)
    return Moment(
        plans.elapsed(experiment, over[-1].ends_at),
        (over[-1].ends_at - started_at) / plans.HOUR,
        clock,
        mature,
        len(over),
    )


def next_look(experiment: Experiment, as_of: datetime) -> datetime | None:
    """When the next day is complete, where shares move; ``None`` where looks are hourly, or none is to come."""
    if experiment.plan.rule == 1 or not experiment.plan.adaptive or experiment.plan.finished:
        return None
    ends = (epoch.ends_at + experiment.plan.window for epoch in experiment.epochs)
    return next((end for end in ends if end > as_of), None)


def aggregates(experiment: Experiment, cells: Sequence[Cell], epochs: int | None = None) -> looks.Aggregates:
    """The cells as arrays (epochs, variants), the control first; epochs to come are zero.

    Args:
        experiment: says which epochs and variants there are.
        cells: counted units per epoch and variant.
        epochs: how many, from the first on, are taken; ``None``: all.
    """
    counted = {(c.epoch, c.variant): c for c in cells}
    nothing = Cell(0, "", 0, 0)
    known = experiment.epochs if epochs is None else experiment.epochs[:epochs]
    numbers = {e.number for e in known}
    grid = [
        [
            counted.get((e.number, v.key), nothing) if e.number in numbers else nothing
            for v in experiment.ordered
        ]
        for e in experiment.epochs
    ]
    return looks.Aggregates.of(
        [[c.units for c in row] for row in grid], [[c.conversions for c in row] for row in grid]
    )


@dataclass(frozen=True, slots=True)
class LookData:
    """All that one look sees of the visitors."""

    deciding: looks.Aggregates
    """Units that decide, shape ``(epochs, variants)``."""
    maturity: looks.Maturity | None
    """The mature part of them; ``None`` where they all are."""
    by_day: looks.ByDay | None
    """The units that decide, by day; ``None`` where days are not told apart."""


def look_data(
    experiment: Experiment, cells: Sequence[Cell], days: Sequence[DayCell], at: Moment, as_of: datetime
) -> LookData:
    """The counts as a look takes them, by the rule that the experiment was started under."""
    plan = experiment.plan
    if plan.rule == 1 or not days:
        return LookData(aggregates(experiment, cells, at.epochs), None, None)
    if plan.adaptive or plan.finished:
        decided = [day for day in days if day.epoch < at.epochs]
        return LookData(
            aggregates(experiment, cells, at.epochs), None, _by_day(experiment, decided, as_of, exposed=False)
        )
    return LookData(
        _summed(experiment, days, ("exposed", "converted")),
        _maturity(experiment, cells, days, at),
        _by_day(experiment, days, as_of, exposed=True),
    )


def _summed(experiment: Experiment, days: Sequence[DayCell], names: tuple[str, str]) -> looks.Aggregates:
    """Units and conversions over all days, as one epoch."""
    units, total = (
        [sum(getattr(day, name) for day in days if day.variant == v.key) for v in experiment.ordered]
        for name in names
    )
    return looks.Aggregates.of([units], [total])


def _maturity(
    experiment: Experiment, cells: Sequence[Cell], days: Sequence[DayCell], at: Moment
) -> looks.Maturity:
    converters, hours, squares = (
        np.array(
            [sum(getattr(d, name) for d in days if d.variant == v.key) for v in experiment.ordered], float
        )
        for name in ("conversions", "delay_hours", "delay_squares")
    )
    return looks.Maturity(aggregates(experiment, cells), at.mature, converters, hours, squares)


def _by_day(
    experiment: Experiment, days: Sequence[DayCell], as_of: datetime, *, exposed: bool
) -> looks.ByDay | None:
    """The units by calendar day of the site, from the first day of the experiment to the last that was counted."""
    if experiment.started_at is None or not days:
        return None
    site = zone(experiment.plan.zone)
    first = experiment.started_at.astimezone(site).date()
    counted = max(date.fromisoformat(day.day) for day in days)
    today = min(as_of, experiment.epochs[-1].ends_at - MICROSECOND).astimezone(site).date()
    last = max(counted, today)
    calendar = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    rows = {day.isoformat(): row for row, day in enumerate(calendar)}
    columns = {v.key: column for column, v in enumerate(experiment.ordered)}
    units, total = np.zeros((2, len(calendar), len(columns)))
    for day in days:
        place = rows[day.day], columns[day.variant]
        units[place] += day.exposed if exposed else day.units
        total[place] += day.converted if exposed else day.conversions
    over = (midnight_after(day, site) + experiment.plan.window <= as_of for day in calendar)
    mature = sum(1 for _ in takewhile(bool, over))
    weekend = np.array([day.weekday() >= SATURDAY for day in calendar])
    begun = (as_of.astimezone(site).date() - first).days + 1
    return looks.ByDay(looks.Aggregates.of(units, total), weekend, begun, mature)


def hold_ends_at(experiment: Experiment, hold: Hold) -> datetime:
    """When the week ends for which a winner is held back: a midnight of the site."""
    site = zone(experiment.plan.zone)
    first = (experiment.started_at or experiment.epochs[0].starts_at).astimezone(site).date()
    return midnight_after(first + timedelta(days=hold.ends_with - 1), site)


def state_before(state: looks.LookState | None, at: Moment) -> looks.LookState | None:
    """What the looks before this moment left; later ones are undone, and so is one at the very same moment."""
    if state is None:
        return None
    last = state.hours[-1] if state.hours else -1.0
    clock = last if state.clock is None else state.clock
    if not state.ended and (last < at.hours or (last == at.hours and clock < at.clock)):
        return state
    return state.rewind(at.hours)


def looks_taken(state: looks.LookState) -> LooksTaken:
    """The looks so far: all that :func:`state_of` needs to go on from there."""
    return LooksTaken(
        hours=state.hours,
        information=state.paths[0].information,
        critical=tuple(path.critical for path in state.paths),
        dropped=state.dropped,
        lower=state.lower,
        upper=state.upper,
        mature=None if state.mature is None else looks_taken(state.mature),
        late=state.late,
        hold=state.hold,
        clock=state.clock,
        exact=tuple(ExactLooks(t.share, t.conversions, t.low, t.high) for t in state.exact),
    )


def state_of(taken: LooksTaken) -> looks.LookState:
    """The inverse of :func:`looks_taken`, by taking every look again."""
    paths = (State(taken.information, critical) for critical in taken.critical)
    rewound = tuple(path.rewind(len(taken.information)) for path in paths)
    tests = (
        exact.State.after(t.share, list(zip(t.conversions, t.low, t.high, strict=True))) for t in taken.exact
    )
    return looks.LookState(
        rewound,
        taken.dropped,
        taken.hours,
        lower=taken.lower,
        upper=taken.upper,
        mature=None if taken.mature is None else state_of(taken.mature),
        late=taken.late,
        hold=taken.hold,
        clock=taken.clock,
        exact=tuple(tests),
    )


def fingerprint(cells: Sequence[Cell], days: Sequence[DayCell] = ()) -> str:
    """SHA-256 over the cells, and over the days where they are told apart, in order: equal data, equal fingerprint."""
    counts = [*map(to_json, cells), *map(to_json, days)]
    return hashlib.sha256(json.dumps(counts, sort_keys=True).encode()).hexdigest()
