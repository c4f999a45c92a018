"""What would be decided now, and on what evidence: reads, computes, changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import sqlalchemy as sa

from cro_core import metrics
from cro_core.decision import Judgement, decide
from cro_core.domain import Cell, Decision, Experiment, Measured, to_json
from cro_core.home import Home
from cro_core.splits import SplitReport, check_splits, segments_due
from cro_core.statistics.engine import EngineState
from cro_core.storage import analytics, events, experiments, looks
from cro_core.storage.database import HEAD


def evaluate(home: Home, experiment_id: str, *, as_of: datetime) -> Decision:
    """The decision on one experiment as of a moment, with every input, and no side effect.

    Looks that the cycle took before that moment count; later ones do not. An experiment that has ended is
    judged as of its end.

    Raises:
        NotFound: no such experiment.
        Conflict: it has not started.
    """
    with home.db.read() as connection:
        return look(connection, experiments.get(connection, experiment_id), as_of, whole=True).decision


def judge(connection: sa.Connection, experiment: Experiment, as_of: datetime) -> Decision:
    """What a cycle would decide, inside the caller's transaction."""
    return look(connection, experiment, as_of).decision


def look(
    connection: sa.Connection, experiment: Experiment, as_of: datetime, *, whole: bool = False
) -> Judgement:
    """The decision, and the state that the next look starts from once somebody stores it.

    Args:
        connection: the store.
        experiment: a started experiment.
        as_of: the moment of the look.
        whole: False leaves out what costs more than the look itself and cannot change a verdict (segments, the
            waterfall), unless the decision is final.
    """
    moment = as_of if experiment.ended_at is None else min(as_of, experiment.ended_at)
    stored = looks.state(connection, experiment.id)
    state = None if stored is None else EngineState.from_json(stored)
    counted = count(connection, experiment, moment, whole=whole)
    found = judged(experiment, counted, moment, state)
    if not (whole or found.decision.final):
        return found
    if not whole:
        counted = count(connection, experiment, moment, whole=True)
        found = judged(experiment, counted, moment, state)
    cells, measured = counted.cells, counted.measured
    evidence = {
        **found.decision.evidence,
        "metrics": to_json(metrics.secondary(experiment, cells, measured, as_of=moment)),
        "measured": to_json(measured),
        "waterfall": to_json(analytics.waterfall(connection, experiment, moment)),
        "store": {"schema": HEAD, "events": events.totals(connection).get("accepted", 0)},
    }
    return replace(found, decision=replace(found.decision, evidence=evidence))


@dataclass(frozen=True, slots=True)
class Counted:
    """What one look sees of the visitors."""

    cells: tuple[Cell, ...]
    split: SplitReport
    """Whether they split as planned."""
    measured: Measured
    """What guardrails and, where all was counted, secondary metrics need."""


def count(connection: sa.Connection, experiment: Experiment, as_of: datetime, *, whole: bool) -> Counted:
    """The counted units as of a moment.

    Args:
        connection: the store.
        experiment: a started experiment.
        as_of: the moment.
        whole: segments and secondary metrics too; else segments only where they are due.
    """
    cells, slices = analytics.cells_and_times(connection, experiment, as_of)
    split = check_splits(experiment, cells, slices)
    if whole or segments_due(experiment, as_of, split):
        slices += analytics.segments(connection, experiment, as_of)
        split = check_splits(experiment, cells, slices)
    return Counted(cells, split, analytics.measured(connection, experiment, cells, as_of, whole=whole))


def judged(experiment: Experiment, counted: Counted, as_of: datetime, state: EngineState | None) -> Judgement:
    """What these counts allow, after the looks that left ``state``."""
    goals = counted.measured.goals
    return decide(experiment, counted.cells, as_of=as_of, state=state, split=counted.split, goals=goals)
