"""What an experiment and its counts look like to the statistics, and what earlier looks left."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import timedelta

from cro_core.domain import Cell, Experiment, to_json
from cro_core.evidence import LooksTaken
from cro_core.planning import plans
from cro_core.statistics import looks
from cro_core.statistics.sequential import Spending, State

LEAST_POWER = 0.5
"""Planned power below which futility is not asked."""


def traffic(experiment: Experiment, units: int, elapsed: float) -> float:
    """Visitors a day that an experiment gets, from those counted over ``elapsed`` of its planned traffic."""
    days = (experiment.plan.horizon - experiment.plan.window) / timedelta(days=1)
    return units / (elapsed * days) if elapsed and days else 0.0


def look_plan(experiment: Experiment, traffic_per_day: float) -> looks.LookPlan:
    """What was fixed before the start, as a look takes it.

    Futility is not asked at a traffic that gives the plan less than even odds: there, most experiments with a
    real effect would be stopped for want of visitors, which is no sign that there is no effect.
    """
    plan = experiment.plan
    sized = plans.size(plan, traffic_per_day, variants=len(experiment.variants)) if traffic_per_day else None
    return looks.LookPlan(
        weights=tuple(e.weight for e in experiment.epochs) or (1.0,),
        planned_units=plan.units,
        alpha=plan.alpha,
        spending=Spending(plan.spending, plan.spending_parameter),
        mde=plan.mde,
        min_uplift=plan.min_uplift,
        gate=plan.gate,
        min_units=plan.min_units,
        min_hours=0.0 if plan.finished else plan.min_hours,
        futility=plan.futility and sized is not None and sized.power >= LEAST_POWER,
    )


def aggregates(experiment: Experiment, cells: Sequence[Cell]) -> looks.Aggregates:
    """The cells as arrays (epochs, variants), the control first; epochs to come are zero."""
    counted = {(c.epoch, c.variant): c for c in cells}
    nothing = Cell(0, "", 0, 0)
    grid = [[counted.get((e.number, v.key), nothing) for v in experiment.ordered] for e in experiment.epochs]
    return looks.Aggregates.of(
        [[c.units for c in row] for row in grid], [[c.conversions for c in row] for row in grid]
    )


def state_before(state: looks.LookState | None, hours: float) -> looks.LookState | None:
    """What the looks before ``hours`` of data left; later ones are undone."""
    if state is None or (state.hours and state.hours[-1] < hours and not state.ended):
        return state
    return state.rewind(hours)


def looks_taken(state: looks.LookState) -> LooksTaken:
    """The looks so far: all that :func:`state_of` needs to go on from there."""
    return LooksTaken(
        hours=state.hours,
        information=state.paths[0].information,
        critical=tuple(path.critical for path in state.paths),
        dropped=state.dropped,
    )


def state_of(taken: LooksTaken) -> looks.LookState:
    """The inverse of :func:`looks_taken`, by taking every look again."""
    paths = (State(taken.information, critical) for critical in taken.critical)
    rewound = tuple(path.rewind(len(taken.information)) for path in paths)
    return looks.LookState(rewound, taken.dropped, taken.hours)


def fingerprint(cells: Sequence[Cell]) -> str:
    """SHA-256 over the cells in order: equal data, equal fingerprint."""
    return hashlib.sha256(json.dumps(to_json(list(cells)), sort_keys=True).encode()).hexdigest()
