"""A person's answer to a broken split: explained, or the slice cut out of every variant alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Literal

import sqlalchemy as sa

from cro_core.analytics import cuts, reader
from cro_core.analytics.definitions import SEGMENTS
from cro_core.clock import iso
from cro_core.decision.split_check import ever_alarming, evidence_on
from cro_core.domain import Experiment, Status
from cro_core.errors import Conflict, InvalidInput, NotFound
from cro_core.evidence import SplitAlarm
from cro_core.home import Home
from cro_core.storage import experiments, split_alarms
from cro_core.workflows.lifecycle import CUT, EXPLAIN
from cro_core.workflows.transaction import Transaction, begin

LONGEST_REASON = 500


def alarms(home: Home, experiment_id: str) -> tuple[SplitAlarm, ...]:
    """The alarms of an experiment's split so far, oldest first.

    Raises:
        NotFound: no such experiment.
    """
    with home.db.read() as connection:
        return split_alarms.of(connection, experiments.get(connection, experiment_id).id)


def explain(
    home: Home, experiment_id: str, dimension: str, name: str, *, reason: str, now: datetime, actor: str
) -> str:
    """Takes the standing alarm of a slice for explained: it stands no longer, unless its evidence grows a hundredfold.

    Args:
        home: the site.
        experiment_id: a running experiment.
        dimension: ``total``, or that of the slice.
        name: of the slice; ``all`` for the total.
        reason: why the numbers can be trusted all the same, in 1 to :data:`LONGEST_REASON` characters.
        now: the moment.
        actor: who says so.

    Raises:
        NotFound: no such experiment, or no alarm of that slice stands.
        Conflict: the experiment is not running, or its alarms end by themselves.
        InvalidInput: no reason, or one that is too long.
    """
    said = _checked(reason)
    with home.db.read() as connection:  # counting takes a while, and events must come in meanwhile
        experiment = _running(connection, experiment_id)
        _standing(split_alarms.of(connection, experiment_id), dimension, name)
        with reader.reading(connection, experiment, now) as reading:
            slices = reading.segments([dimension]) if dimension in SEGMENTS else reading.times()
            log_e = evidence_on(experiment, reading.cells(), slices, dimension, name)
    with begin(home, now=now, actor=actor) as transaction:
        _running(transaction.connection, experiment_id)
        known = split_alarms.of(transaction.connection, experiment_id)
        standing = _standing(known, dimension, name)
        settle = partial(_settled, transaction, said)
        settled = [replace(settle("explained", alarm), settled_log_e=log_e) for alarm in standing]
        _store(transaction, EXPLAIN, experiment_id, (dimension, name), settled)
        left = sum(alarm.stands for alarm in known) - len(standing)
        done = f"{experiment_id}: the alarm of {_named(dimension, name)} is explained and stands no longer"
        return f"{done}; {left} more: `cro split list {experiment_id}`" if left else done


def cut_out(
    home: Home, experiment_id: str, dimension: str, name: str, *, reason: str, now: datetime, actor: str
) -> str:
    """Leaves a slice out of every variant alike, from now on and in all that was counted; what remains is judged anew.

    The remaining visitors are judged by all past looks as they would have been without the slice: an alarm that they
    would have raised too stands on, for it has nothing to do with the cut.

    Arguments are those of :func:`explain`; the slice need not be one that alarms, for the cause may lie beside.

    Raises:
        NotFound: no such experiment.
        Conflict: the experiment is not running, its alarms end by themselves, or the slice is cut out already.
        InvalidInput: a slice that cannot be cut out or holds all of a variant, no reason, or one that is too long.
    """
    said, slice_ = _checked(reason), (dimension, name)
    with home.db.read() as connection:
        experiment = _running(connection, experiment_id)
        before = split_alarms.cut_out(connection, experiment_id, now)
        with reader.reading(connection, experiment, now, without=before) as reading:
            met = _met(reading)
        with reader.reading(connection, experiment, now, without=[*before, slice_]) as reading:
            still, emptied = ever_alarming(experiment, reading.pieces()), met - _met(reading)
    if emptied:
        raise InvalidInput(
            f"without {_named(*slice_)} nobody is left of {', '.join(sorted(emptied))}: "
            "cut out a slice that every variant has, or end the experiment",
            field="name",
        )
    with begin(home, now=now, actor=actor) as transaction:
        connection = transaction.connection
        _running(connection, experiment_id)
        known = split_alarms.of(connection, experiment_id)
        if any(alarm.how == "cut_out" and _slice(alarm) == slice_ for alarm in known):
            raise Conflict(f"the slice {_named(*slice_)} is cut out of {experiment_id} already")
        own = [alarm for alarm in known if alarm.stands and _slice(alarm) == slice_]
        if not own:
            own = [SplitAlarm(*slice_, now, 0.0)]
            split_alarms.add(connection, experiment_id, own)
        others = [alarm for alarm in known if alarm.stands and _slice(alarm) != slice_]
        settle = partial(_settled, transaction, said)
        settled = [settle("cut_out", alarm) for alarm in own]
        settled += [settle("judged_anew", alarm) for alarm in others if _slice(alarm) not in still]
        _store(transaction, CUT, experiment_id, slice_, settled)
        done = f"{experiment_id}: the slice {_named(*slice_)} counts in no variant any more"
        stay = ", ".join(_named(*_slice(alarm)) for alarm in others if _slice(alarm) in still)
        if stay:
            return f"{done}; without it the split was broken all the same, so the alarm of {stay} stands on"
        return f"{done}; the rest is judged anew"


def _met(reading: reader.Reading) -> set[str]:
    """The variants that somebody met, mature or not."""
    return {day.variant for day in reading.days() if day.exposed}


def _settled(
    transaction: Transaction,
    reason: str,
    how: Literal["explained", "cut_out", "judged_anew"],
    alarm: SplitAlarm,
) -> SplitAlarm:
    return replace(alarm, settled_at=transaction.now, settled_by=transaction.actor, how=how, reason=reason)


def _store(
    transaction: Transaction,
    action: str,
    experiment_id: str,
    slice_: cuts.CutSlice,
    settled: Sequence[SplitAlarm],
) -> None:
    """Stores how alarms are settled, with one entry in the audit trail by which it can be undone."""
    for alarm in settled:
        split_alarms.settle(transaction.connection, experiment_id, alarm)
    after: dict[str, Any] = {
        "dimension": slice_[0],
        "name": slice_[1],
        "reason": settled[0].reason,
        "settled": [[alarm.dimension, alarm.name, iso(alarm.first_at)] for alarm in settled],
    }
    transaction.log(action, experiment_id, after=after)


def _running(connection: sa.Connection, experiment_id: str) -> Experiment:
    experiment = experiments.get(connection, experiment_id)
    if experiment.status is not Status.RUNNING:
        raise Conflict(
            f"experiment {experiment_id} is {experiment.status}: only a running one is judged anew"
        )
    if experiment.plan.rule == 1:
        raise Conflict(
            f"experiment {experiment_id} runs under the first rule, whose alarms end by themselves: nothing to settle"
        )
    return experiment


def _standing(known: Sequence[SplitAlarm], dimension: str, name: str) -> list[SplitAlarm]:
    """The alarms of a slice that stand: one, or two after an explanation was taken back."""
    standing = [alarm for alarm in known if alarm.stands]
    same = [alarm for alarm in standing if _slice(alarm) == (dimension, name)]
    if not same:
        there_are = ", ".join(dict.fromkeys(_named(*_slice(alarm)) for alarm in standing)) or "none"
        raise NotFound(f"no alarm of {_named(dimension, name)} stands: there are {there_are}")
    return same


def _checked(reason: str) -> str:
    said = " ".join(reason.split())
    if not 1 <= len(said) <= LONGEST_REASON:
        raise InvalidInput(
            f"reason has {len(said)} characters: say in 1 to {LONGEST_REASON} why", field="reason"
        )
    return said


def _slice(alarm: SplitAlarm) -> cuts.CutSlice:
    return alarm.dimension, alarm.name


def _named(dimension: str, name: str) -> str:
    return f"{dimension} {name}"
