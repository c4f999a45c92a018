"""A person's answer to a broken split: explained, or the slice cut out of every variant alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa

from cro_core.analytics import cuts
from cro_core.clock import iso
from cro_core.decision.split_memory import ALL, TOTAL, evidence_now
from cro_core.domain import Experiment, Status
from cro_core.errors import Conflict, InvalidInput, NotFound
from cro_core.evidence import SplitAlarm
from cro_core.home import Home
from cro_core.storage import experiments, split_alarms
from cro_core.workflows.evaluate import evaluate_within
from cro_core.workflows.transaction import begin

EXPLAIN, CUT = "split.explain", "split.cut"

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
    """Takes the standing alarm of a slice for explained: it vetoes no longer, unless its evidence grows a hundredfold.

    Args:
        home: the site.
        experiment_id: a running experiment.
        dimension: ``total``, or that of the slice.
        name: of the slice; ``all`` for the total.
        reason: why the numbers can be trusted all the same.
        now: the moment.
        actor: who says so.

    Raises:
        NotFound: no such experiment, or no alarm of that slice stands.
        Conflict: the experiment has ended.
        InvalidInput: no reason, or one that is too long.
    """
    said = _checked(reason)
    with begin(home, now=now, actor=actor) as transaction:
        connection = transaction.connection
        experiment = _running(connection, experiment_id)
        report = evaluate_within(connection, experiment, now, whole=True).decision.evidence.splits
        known = split_alarms.of(connection, experiment_id)
        alarm = _standing(known, dimension, name)
        grown = None if report is None else evidence_now(report, alarm)
        settled = replace(
            alarm,
            settled_at=now,
            settled_by=actor,
            how="explained",
            reason=said,
            settled_log_e=max(alarm.log_e, alarm.log_e if grown is None else grown),
        )
        split_alarms.settle(connection, experiment_id, settled)
        transaction.log(EXPLAIN, experiment_id, after=_told(settled))
        return f"{experiment_id}: the alarm {_named(settled)} is explained and vetoes no longer"


def cut_out(
    home: Home, experiment_id: str, dimension: str, name: str, *, reason: str, now: datetime, actor: str
) -> str:
    """Leaves a slice out of every variant alike, from now on and for all that was counted; what remains is judged anew.

    Arguments are those of :func:`explain`; the slice need not be one that alarms, for the cause may lie beside.

    Raises:
        NotFound: no such experiment.
        Conflict: the experiment has ended, or the slice is cut out already.
        InvalidInput: a slice that cannot be cut out, no reason, or one that is too long.
    """
    said = _checked(reason)
    with begin(home, now=now, actor=actor) as transaction:
        connection = transaction.connection
        experiment = _running(connection, experiment_id)
        cuts.cut(experiment, [(dimension, name)])  # every look would fail at what is no slice
        known = split_alarms.of(connection, experiment_id)
        same = [a for a in known if (a.dimension, a.name) == (dimension, name)]
        if any(a.how == "cut_out" for a in same):
            raise Conflict(f"the slice {name} of {dimension} is cut out of {experiment.id} already")
        alarm = next((a for a in same if a.stands), SplitAlarm(dimension, name, now, 0.0))
        cut = replace(alarm, settled_at=now, settled_by=actor, how="cut_out", reason=said)
        split_alarms.add(connection, experiment_id, [alarm])
        split_alarms.settle(connection, experiment_id, cut)
        for other in known:
            if other.stands and other is not alarm:
                anew = replace(other, settled_at=now, settled_by=actor, how="judged_anew", reason=said)
                split_alarms.settle(connection, experiment_id, anew)
        transaction.log(CUT, experiment_id, after=_told(cut))
        return (
            f"{experiment_id}: the slice {_named(cut)} counts in no variant any more; the rest is judged anew"
        )


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


def _standing(known: Sequence[SplitAlarm], dimension: str, name: str) -> SplitAlarm:
    standing = [a for a in known if a.stands]
    for alarm in standing:
        if (alarm.dimension, alarm.name) == (dimension, name):
            return alarm
    there_are = ", ".join(_named(a) for a in standing) or "none"
    raise NotFound(f"no alarm of {dimension} {name} stands: there are {there_are}")


def _checked(reason: str) -> str:
    said = " ".join(reason.split())
    if not 1 <= len(said) <= LONGEST_REASON:
        raise InvalidInput(
            f"reason has {len(said)} characters: say in 1 to {LONGEST_REASON} why", field="reason"
        )
    return said


def _named(alarm: SplitAlarm) -> str:
    return f"{TOTAL} {ALL}" if alarm.dimension == TOTAL else f"{alarm.dimension} {alarm.name}"


def _told(alarm: SplitAlarm) -> dict[str, str | None]:
    return {
        "dimension": alarm.dimension,
        "name": alarm.name,
        "first_at": iso(alarm.first_at),
        "reason": alarm.reason,
    }
