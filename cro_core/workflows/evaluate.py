"""What would be decided now, and on what evidence: reads, computes, changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import sqlalchemy as sa

from cro_core.analytics import engines, reader
from cro_core.decision.decide import Judgement, decide
from cro_core.decision.split_check import check_split, segments_due
from cro_core.decision.split_memory import remembered
from cro_core.domain import Cell, DayCell, Experiment, Measured
from cro_core.evidence import Crossing, Decision, SplitAlarm, SplitReport, StoreState
from cro_core.home import Home
from cro_core.metrics.secondary import secondary
from cro_core.statistics.looks import LookState
from cro_core.storage import events, experiments, look_states, split_alarms
from cro_core.storage.database import HEAD
from cro_core.workflows.measure_outcomes import measure_outcomes


def evaluate(home: Home, experiment_id: str, *, as_of: datetime, engine: str = engines.DUCKDB) -> Decision:
    """The decision on one experiment as of a moment, with every input, and no side effect.

    Looks that the cycle took before that moment count; later ones do not. An experiment that has ended is
    decided as of its end; outcomes of its leads, which decide nothing, are told up to the moment itself.

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
        decision = evaluate_within(connection, experiment, as_of, whole=True, engine=engine).decision
        outcomes = measure_outcomes(connection, experiment, as_of, engine=engine)
        return replace(decision, evidence=replace(decision.evidence, outcomes=outcomes))


def evaluate_within(
    connection: sa.Connection,
    experiment: Experiment,
    as_of: datetime,
    *,
    whole: bool = False,
    engine: str = engines.DUCKDB,
) -> Judgement:
    """The decision inside the caller's transaction, and the state that the next look starts from.

    Args:
        connection: the store.
        experiment: a started experiment.
        as_of: the moment of the look.
        whole: False leaves out what costs more than the look itself and cannot change a verdict (segments,
            secondary metrics, the waterfall), unless the decision is final.
        engine: where the events are counted.
    """
    stored = look_states.state(connection, experiment.id)
    state = None if stored is None else LookState.from_json(stored)
    moment = experiment.judged_at(as_of)
    alarms = split_alarms.of(connection, experiment.id)
    with reader.reading(connection, experiment, moment, engine=engine) as reading:
        if not whole:
            judgement = decide_on(experiment, count(reading, alarms, whole=False), moment, state)
            if not judgement.decision.final:
                return judgement
        counts = count(reading, alarms, whole=True)
        judgement, waterfall = decide_on(experiment, counts, moment, state), reading.waterfall()
    evidence = replace(
        judgement.decision.evidence,
        metrics=secondary(experiment, counts.cells, counts.measured, as_of=moment),
        measured=counts.measured,
        waterfall=tuple(waterfall),
        store=StoreState(schema=HEAD, events=events.totals(connection).get("accepted", 0)),
    )
    return replace(judgement, decision=replace(judgement.decision, evidence=evidence))


@dataclass(frozen=True, slots=True)
class LookCounts:
    """What one look sees of the visitors."""

    cells: tuple[Cell, ...]
    split: SplitReport
    """Whether they split as planned."""
    measured: Measured
    """What guardrails and, where all was counted, secondary metrics need."""
    days: tuple[DayCell, ...] = ()
    """The units by day, with those that may still convert; empty under the first rule, which decides without."""
    crossing: Crossing | None = None
    """How many met more than one variant; ``None`` under the first rule."""


def count(reading: reader.Reading, alarms: Sequence[SplitAlarm] = (), *, whole: bool) -> LookCounts:
    """The counted units as of the moment of a reading, and whether they split as planned.

    Args:
        reading: the experiment's events.
        alarms: of the split, raised so far; not known to the first rule.
        whole: segments and secondary metrics too; else segments only where they are due.
    """
    experiment, cells, slices = reading.experiment, reading.cells(), reading.times()
    split = check_split(experiment, cells, slices)
    if whole or segments_due(experiment, reading.as_of, split):
        split = check_split(experiment, cells, slices + reading.segments())
    measured = reading.measured(cells, whole=whole)
    if experiment.plan.rule == 1:
        return LookCounts(cells, split, measured)
    split = remembered(experiment, split, alarms, reading.as_of)
    return LookCounts(cells, split, measured, reading.days(), reading.crossing())


def decide_on(
    experiment: Experiment, counts: LookCounts, as_of: datetime, state: LookState | None
) -> Judgement:
    """What these counts allow, after the looks that left ``state``."""
    return decide(
        experiment,
        counts.cells,
        as_of=as_of,
        state=state,
        split=counts.split,
        goals=counts.measured.goals,
        days=counts.days,
        crossing=counts.crossing,
    )
