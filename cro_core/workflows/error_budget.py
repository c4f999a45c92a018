"""The stream of a site's experiments: the error rate that the next one may be run at.

Of the winners of a year some are false, up to a fifth where few ideas are good. SAFFRON keeps that part small by
giving each experiment, when it starts, the level that the results known by then can pay for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from cro_core.domain import Experiment, Verdict
from cro_core.storage import decisions, experiments

if TYPE_CHECKING:
    from cro_core.statistics.multiplicity import Trial

NO_QUESTIONS = ("import", "generate")
"""Sources of experiments that nobody ran to learn something about this site."""

PROVEN = (Verdict.SHIP, Verdict.KEEP_CONTROL, Verdict.GAIN_BELOW_MINIMUM)
"""Verdicts that a difference was found; every other is no discovery."""


def granted(connection: sa.Connection, rate: float, now: datetime) -> float:
    """The level of an experiment that starts now.

    Each experiment so far counts at the level it was granted, or at its own error rate where that is smaller.
    One that ran while there was no stream counts at the level the stream would have granted it: a result
    that only its looser rate let pass pays for nothing.

    Args:
        connection: the store.
        rate: part of all discoveries that may be false, in (0, 1).
        now: the moment.

    Returns:
        The largest p-value that may count as a discovery, in (0, 0.5].
    """
    from cro_core.statistics.multiplicity import next_level  # scipy: not before an experiment starts

    stream = history(connection)
    trials = [trial for _, trial in stream]
    levels: list[float] = []
    for number, (experiment, trial) in enumerate(stream):
        level = next_level(trials[:number], levels, trial.starts, rate)
        levels.append(min(level, experiment.plan.alpha))
    return next_level(trials, levels, _not_before(trials, now), rate)


def history(connection: sa.Connection) -> list[tuple[Experiment, Trial]]:
    """Every experiment that was ever started here, in that order, with its times and result.

    The result is the smallest stagewise p-value of its final decision. There is none while it runs, nor where
    a person ended it or its data could not be trusted; it then counts as if nothing had been found. Where the
    decision proves nothing, it is no discovery either, however small the p-value: one that stops early may have
    crossed no boundary and yet a p-value below its error rate.
    """
    started = experiments.ever_started(connection, without_sources=NO_QUESTIONS)
    begun = [(e.started_at, e) for e in started if e.started_at is not None]
    begun.sort(key=lambda pair: pair[0])
    return [(experiment, _trial(connection, experiment, start)) for start, experiment in begun]


def _trial(connection: sa.Connection, experiment: Experiment, started_at: datetime) -> Trial:
    from cro_core.statistics.multiplicity import Trial

    starts, ended_at = started_at.timestamp(), experiment.ended_at
    if ended_at is None:
        return Trial(starts)
    # a simulated clock may be set back, but nothing ends before it starts
    return Trial(starts, max(starts, ended_at.timestamp()), _p_value(connection, experiment))


def _p_value(connection: sa.Connection, experiment: Experiment) -> float | None:
    decision = next(iter(decisions.latest(connection, experiment.id, limit=1)), None)
    if decision is None or not decision.final or decision.verdict is Verdict.INVALID:
        return None
    p_values = (comparison.p_adjusted for comparison in decision.evidence.comparisons)
    smallest = min((p for p in p_values if p is not None), default=None)
    if smallest is None or (decision.verdict in PROVEN and not decision.stopped_without_proof):
        return smallest
    return max(smallest, math.nextafter(experiment.plan.alpha, 1.0))


def _not_before(trials: Sequence[Trial], now: datetime) -> float:
    """``now`` on the stream's clock, which never goes back."""
    return max(now.timestamp(), trials[-1].starts if trials else 0.0)
