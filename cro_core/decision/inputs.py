"""What an experiment and its counts look like to the engine, and what earlier looks left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from cro_core import planning
from cro_core.domain import Cell, Experiment, Variant, to_json
from cro_core.statistics import engine
from cro_core.statistics.sequential import Spending, State

HOUR = timedelta(hours=1)


LEAST_POWER = 0.5
"""Planned power below which futility is not asked."""


def progress(experiment: Experiment, as_of: datetime) -> tuple[float, float]:
    """How much of the planned traffic the mature units came over, in [0, 1], and over how many hours.

    Units mature one window after their exposure, so both run one window behind the clock.
    """
    plan, started_at, closes_at = experiment.plan, experiment.started_at, experiment.enrolment_ends_at
    if plan.finished:
        return 1.0, plan.horizon / HOUR
    if started_at is None or closes_at is None:
        return 0.0, 0.0
    reached = min(max(as_of - plan.window, started_at), closes_at)
    done = sum(e.weight * _part(reached, e.starts_at, e.ends_at) for e in experiment.epochs)
    return (1.0 if reached == closes_at else min(done, 1.0)), (reached - started_at) / HOUR


def traffic(experiment: Experiment, units: int, elapsed: float) -> float:
    """Visitors a day that an experiment gets, from those counted over ``elapsed`` of its planned traffic."""
    days = (experiment.plan.horizon - experiment.plan.window) / timedelta(days=1)
    return units / (elapsed * days) if elapsed and days else 0.0


def look_plan(experiment: Experiment, traffic_per_day: float) -> engine.LookPlan:
    """What was fixed before the start, as the engine takes it.

    Futility is not asked at a traffic that gives the plan less than even odds: there, most experiments with a
    real effect would be stopped for want of visitors, which is no sign that there is no effect.
    """
    plan = experiment.plan
    sized = (
        planning.size(plan, traffic_per_day, variants=len(experiment.variants)) if traffic_per_day else None
    )
    return engine.LookPlan(
        weights=tuple(e.weight for e in experiment.epochs) or (1.0,),
        planned_units=plan.units,
        alpha=plan.alpha,
        spending=Spending(plan.spending, plan.spending_parameter),
        mde=plan.mde,
        min_uplift=plan.min_uplift,
        gate=cast("engine.Gate", plan.gate),
        min_units=plan.min_units,
        min_hours=0.0 if plan.finished else plan.min_hours,
        futility=plan.futility and sized is not None and sized.power >= LEAST_POWER,
    )


def aggregates(experiment: Experiment, cells: Sequence[Cell]) -> engine.Aggregates:
    """The cells as arrays (epochs, variants), the control first; epochs to come are zero."""
    found = {(c.epoch, c.variant): c for c in cells}
    nothing = Cell(0, "", 0, 0)
    grid = [[found.get((e.number, v.key), nothing) for v in in_order(experiment)] for e in experiment.epochs]
    return engine.Aggregates.of(
        [[c.units for c in row] for row in grid], [[c.conversions for c in row] for row in grid]
    )


def in_order(experiment: Experiment) -> list[Variant]:
    """The control, then the challengers."""
    return [experiment.control, *experiment.challengers]


def _part(reached: datetime, start: datetime, end: datetime) -> float:
    return min(max((reached - start) / (end - start), 0.0), 1.0)


def state_before(state: engine.EngineState | None, hours: float) -> engine.EngineState | None:
    """What the looks before ``hours`` of data left; later ones are undone."""
    if state is None or (state.hours and state.hours[-1] < hours and not state.ended):
        return state
    return state.rewind(hours)


def looks_taken(state: engine.EngineState) -> dict[str, Any]:
    """The looks so far as JSON: all that :func:`state_of` needs to go on from there."""
    return {
        "hours": list(state.hours),
        "information": list(state.paths[0].information),
        "critical": [list(path.critical) for path in state.paths],
        "dropped": list(state.dropped),
    }


def state_of(looks: Mapping[str, Any]) -> engine.EngineState:
    """The inverse of :func:`looks_taken`, by taking every look again."""
    information, hours = tuple(looks["information"]), tuple(looks["hours"])
    paths = (State(information, tuple(critical)) for critical in looks["critical"])
    return engine.EngineState(
        tuple(path.rewind(len(information)) for path in paths), tuple(looks["dropped"]), hours
    )


def fingerprint(cells: Sequence[Cell]) -> str:
    """SHA-256 over the cells in order: equal data, equal fingerprint."""
    return hashlib.sha256(json.dumps(to_json(list(cells)), sort_keys=True).encode()).hexdigest()
