"""What would be decided now, and on what evidence: reads, computes, changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import sqlalchemy as sa

from cro_core.analytics import engines, reader
from cro_core.decision import Judgement, decide
from cro_core.decision.split_check import SplitReport, check_splits, segments_due
from cro_core.domain import Cell, Decision, Experiment, Measured, to_json
from cro_core.home import Home
from cro_core.metrics.secondary import secondary
from cro_core.statistics.looks import EngineState
from cro_core.storage import events, experiments, look_states
from cro_core.storage.database import HEAD
from cro_core.workflows.measure_outcomes import measure_outcomes


def evaluate(home: Home, experiment_id: str, *, as_of: datetime, engine: str = engines.DUCKDB) -> Decision:
    """The decision on one experiment as of a moment, with every input, and no side effect.

    Looks that the cycle took before that moment count; later ones do not. An experiment that has ended is
    judged as of its end; outcomes of its leads, which decide nothing, are told up to the moment itself.

    Args:
        home: the site.
        experiment_id: which experiment.
        as_of: the moment.
        engine: where the events are counted, as :func:`cro_core.analytics.engines.opened` names it.

    Raises:
        NotFound: no such experiment.
        Conflict: it has not started.
        InvalidInput: no such engine.
        StoreError: the engine cannot be reached, or cannot read the lake.
    """
    with home.db.read() as connection:
        experiment = experiments.get(connection, experiment_id)
        decision = look(connection, experiment, as_of, whole=True, engine=engine).decision
        later = to_json(measure_outcomes(connection, experiment, as_of, engine=engine))
        return replace(decision, evidence={**decision.evidence, "outcomes": later}) if later else decision


def judge(connection: sa.Connection, experiment: Experiment, as_of: datetime) -> Decision:
    """What a cycle would decide, inside the caller's transaction."""
    return look(connection, experiment, as_of).decision


def look(
    connection: sa.Connection,
    experiment: Experiment,
    as_of: datetime,
    *,
    whole: bool = False,
    engine: str = engines.DUCKDB,
) -> Judgement:
    """The decision, and the state that the next look starts from once somebody stores it.

    Args:
        connection: the store.
        experiment: a started experiment.
        as_of: the moment of the look.
        whole: False leaves out what costs more than the look itself and cannot change a verdict (segments, the
            waterfall), unless the decision is final.
        engine: where the events are counted.
    """
    moment = experiment.judged_at(as_of)
    stored = look_states.state(connection, experiment.id)
    state = None if stored is None else EngineState.from_json(stored)
    with reader.reading(connection, experiment, moment, engine=engine) as reading:
        counted = _count(reading, whole=whole)
        found = judged(experiment, counted, moment, state)
        if not (whole or found.decision.final):
            return found
        if not whole:
            counted = _count(reading, whole=True)
            found = judged(experiment, counted, moment, state)
        waterfall = reading.waterfall()
    cells, measured = counted.cells, counted.measured
    evidence = {
        **found.decision.evidence,
        "metrics": to_json(secondary(experiment, cells, measured, as_of=moment)),
        "measured": to_json(measured),
        "waterfall": to_json(waterfall),
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
    with reader.reading(connection, experiment, as_of) as found:
        return _count(found, whole=whole)


def _count(found: reader.Reading, *, whole: bool) -> Counted:
    experiment = found.experiment
    cells, slices = found.cells(), found.times()
    split = check_splits(experiment, cells, slices)
    if whole or segments_due(experiment, found.as_of, split):
        slices += found.segments()
        split = check_splits(experiment, cells, slices)
    return Counted(cells, split, found.measured(cells, whole=whole))


def judged(experiment: Experiment, counted: Counted, as_of: datetime, state: EngineState | None) -> Judgement:
    """What these counts allow, after the looks that left ``state``."""
    goals = counted.measured.goals
    return decide(experiment, counted.cells, as_of=as_of, state=state, split=counted.split, goals=goals)
