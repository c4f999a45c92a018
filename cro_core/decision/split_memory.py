"""Alarms of the split check stay: a fault that is diluted by later visitors is still a fault in what was counted.

The e-value of a fault falls again as sound visitors come in, so what counts is its largest value so far: by Ville's
inequality at most one sound experiment in a hundred ever raises an alarm in total (Ville 1939, *Etude critique de la
notion de collectif*). An alarm ends when a person explains it, or cuts its slice out of every variant alike.

An explanation covers what was seen by then. From there on the ratio to the e-value of that moment is an e-process of its
own, so a slice that was explained alarms anew where it alarms by its counts and they hold
:data:`cro_core.statistics.srm.THRESHOLD` times the evidence they held when it was explained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from cro_core.decision.split_wording import VETOING, cut_reason, explained_reason, standing_reason
from cro_core.domain import Experiment
from cro_core.evidence import SplitAlarm, SplitReport
from cro_core.statistics import srm

TOTAL, ALL = "total", "all"
"""Dimension and name of an alarm of all visitors together."""


def remembered(
    experiment: Experiment, report: SplitReport, known: Sequence[SplitAlarm], as_of: datetime
) -> SplitReport:
    """The report with the alarms of all looks so far, those of this one included.

    Args:
        experiment: a started experiment.
        report: what the counts of now say.
        known: alarms raised before; those of later looks, and what was settled later, are taken back.
        as_of: the moment of the look.
    """
    now = tuple(_alarming(report, as_of))
    past = [_grown(_as_of(alarm, as_of), now) for alarm in known if alarm.first_at <= as_of]
    alarms = (*past, *(alarm for alarm in now if _is_new(alarm, past)))
    standing = [alarm for alarm in alarms if alarm.stands and alarm.dimension in VETOING]
    told = [reason for reason in report.reasons if reason.code not in ("srm", "srm_ok")]
    told += [cut_reason(alarm) for alarm in alarms if alarm.how == "cut_out"]
    broken = [reason for reason in report.reasons if reason.code == "srm"]
    if standing:
        if not broken or any(alarm.first_at < as_of for alarm in standing):
            broken.append(standing_reason(experiment, standing, report.total, as_of))
        return replace(report, status="alarm", veto=True, alarms=alarms, reasons=(*broken, *told))
    if report.veto:  # what alarms now has been explained
        explained = [alarm for alarm in alarms if alarm.how == "explained" and alarm.dimension in VETOING]
        said = explained_reason(explained)
        return replace(report, status="ok", veto=False, alarms=alarms, reasons=(said, *told))
    sound = [reason for reason in report.reasons if reason.code == "srm_ok"]
    return replace(report, alarms=alarms, reasons=(*sound, *told))


def _as_of(alarm: SplitAlarm, as_of: datetime) -> SplitAlarm:
    return alarm if alarm.settled_at is None or alarm.settled_at <= as_of else alarm.unsettled


def _grown(alarm: SplitAlarm, now: Sequence[SplitAlarm]) -> SplitAlarm:
    """A standing alarm with the largest e-value so far."""
    log_e = max((other.log_e for other in now if _same(other, alarm)), default=alarm.log_e)
    return replace(alarm, largest_log_e=log_e) if alarm.stands and log_e > alarm.largest else alarm


def _same(one: SplitAlarm, other: SplitAlarm) -> bool:
    return (one.dimension, one.name) == (other.dimension, other.name)


def _alarming(report: SplitReport, as_of: datetime) -> Iterator[SplitAlarm]:
    """What alarms by the counts of now."""
    if report.total.alarm:
        yield SplitAlarm(TOTAL, ALL, as_of, report.total.log_e or 0.0)
    for check in report.dimensions:
        for alarm in check.alarms:
            yield SplitAlarm(check.dimension, alarm.name, as_of, alarm.srm.log_e or 0.0)


def _is_new(alarm: SplitAlarm, past: Sequence[SplitAlarm]) -> bool:
    """Whether no earlier alarm of that slice stands, or covers it by its explanation."""
    same = [other for other in past if _same(other, alarm)]
    if any(other.stands for other in same):
        return False
    explained = [other for other in same if other.how == "explained" and other.settled_log_e is not None]
    if not explained:
        return True
    last = max(explained, key=lambda other: (other.settled_at or other.first_at, other.first_at))
    return alarm.log_e >= (last.settled_log_e or 0.0) + math.log(srm.THRESHOLD)
