"""An imported experiment watched hour by hour, as the hourly cycle would have watched it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from tqdm import tqdm

from cro_core.analytics import reader
from cro_core.decision.decide import Judgement, decide
from cro_core.decision.inputs import hold_ends_at
from cro_core.decision.split_check import check_split
from cro_core.decision.split_memory import remembered
from cro_core.domain import Experiment
from cro_core.errors import Conflict
from cro_core.evidence import Decision, SplitAlarm
from cro_core.home import Home
from cro_core.importing.experiment import HOUR
from cro_core.importing.import_report import HourlyReplay
from cro_core.importing.rows import FileEvents
from cro_core.planning import plans
from cro_core.statistics.looks import LookState
from cro_core.storage import experiments, look_states, split_alarms
from cro_core.workflows.evaluate import evaluate


def replay_hours(
    home: Home, experiment: Experiment, file_events: FileEvents, quiet: bool | None
) -> HourlyReplay:
    """Looks at the end of every hour until a decision is final, as the hourly cycle would have.

    The looks are stored together with the end, so that a replay that was cut off begins anew, and one that
    was completed is only read.
    """
    with home.db.read() as connection:
        stored = experiments.get(connection, experiment.id)
    if stored.ended_at is None:
        judgements = _looks(home, stored, quiet)
        stored = replace(_held(stored, judgements), ended_at=judgements[-1].decision.as_of)
        with home.db.write() as connection:
            experiments.lengthen(connection, stored)
            for judgement in judgements:
                if judgement.look_taken:
                    look_states.add(connection, judgement.decision, judgement.state.as_json())
            split_alarms.add(connection, stored.id, _alarms(judgements))
            experiments.update(connection, stored)
    decision = evaluate(home, stored.id, as_of=stored.ended_at or file_events.ended_at)
    return _replayed(round((decision.as_of - file_events.started_at) / HOUR) - 1, decision)


def _looks(home: Home, experiment: Experiment, quiet: bool | None) -> list[Judgement]:
    """What was found at the end of each hour, up to the look that ends the experiment; at least one."""
    judgements = list[Judgement]()
    with home.db.read() as connection, tqdm(desc="replaying hours", unit=" h", disable=quiet) as bar:
        while not judgements or not judgements[-1].decision.final:
            experiment = _held(experiment, judgements)
            moments = list(_moments(experiment, judgements))
            with reader.reading(connection, experiment, moments[-1]) as reading:
                for as_of in moments:
                    state = judgements[-1].state if judgements else None
                    judgements.append(_judged(reading.at(as_of), state, _alarms(judgements)))
                    bar.update()
                    if judgements[-1].decision.final or _held(experiment, judgements) != experiment:
                        break
    return judgements


def _held(experiment: Experiment, judgements: Sequence[Judgement]) -> Experiment:
    """The experiment with the week for which a winner is held back, where one is."""
    held = judgements[-1].state.hold if judgements else None
    return experiment if held is None else plans.extended(experiment, hold_ends_at(experiment, held))


def _moments(experiment: Experiment, judgements: Sequence[Judgement]) -> Iterator[datetime]:
    """The ends of the hours that come next, up to the last look."""
    started_at, ends_at = experiment.started_at, experiment.horizon_ends_at
    if started_at is None or ends_at is None:  # an experiment starts with its first exposure
        raise Conflict(f"experiment {experiment.id} has no start: import it anew with --replace")
    for hour in range(len(judgements) + 1, math.ceil((ends_at - started_at) / HOUR) + 1):
        yield started_at + hour * HOUR


def _alarms(judgements: Sequence[Judgement]) -> tuple[SplitAlarm, ...]:
    """The alarms of the split that the looks so far have raised."""
    splits = judgements[-1].decision.evidence.splits if judgements else None
    return () if splits is None else splits.alarms


def _judged(reading: reader.Reading, state: LookState | None, alarms: Sequence[SplitAlarm]) -> Judgement:
    """One look at the total and its days: what costs more than that is counted for the decision alone."""
    experiment, cells, as_of = reading.experiment, reading.cells(), reading.as_of
    if experiment.plan.rule == 1:
        return decide(experiment, cells, as_of=as_of, state=state)
    return decide(
        experiment,
        cells,
        as_of=as_of,
        state=state,
        split=remembered(experiment, check_split(experiment, cells, reading.times()), alarms, as_of),
        days=reading.days(),
        crossing=reading.crossing(),
    )


def _replayed(hour: int, decision: Decision) -> HourlyReplay:
    look, totals = decision.evidence.look, decision.evidence.totals
    counted = tuple({"variant": t.variant, "units": t.units, "conversions": t.conversions} for t in totals)
    planned = None if look is None else look.planned_units
    return HourlyReplay(hour, decision.as_of, decision.verdict.value, planned, counted, decision.text)
