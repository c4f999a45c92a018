"""Alarms of the split check stay: a fault that is diluted by later visitors is still a fault in what was counted.

The e-value of a fault falls again as sound visitors come in, so what counts is its largest value so far: by Ville's
inequality at most one sound experiment in a hundred ever raises an alarm in total (Ville 1939, *Etude critique de la
notion de collectif*). An alarm ends when a person explains it, or cuts its slice out of every variant alike. An
explanation covers what was seen: evidence that grows by another :data:`cro_core.statistics.srm.THRESHOLD` raises a new one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from cro_core.decision.split_wording import standing_reason
from cro_core.domain import Reason
from cro_core.evidence import SplitAlarm, SplitReport
from cro_core.statistics import srm

TOTAL, ALL = "total", "all"
"""Dimension and name of an alarm of all visitors together."""

VETOING = (TOTAL, "day")
"""Dimensions whose alarms veto a winner."""


def remembered(report: SplitReport, known: Sequence[SplitAlarm], as_of: datetime) -> SplitReport:
    """The report with the alarms of all looks so far, those of this one included.

    Args:
        report: what the counts of now say.
        known: alarms raised before; those of later looks, and what was settled later, are taken back.
        as_of: the moment of the look.
    """
    past = [_as_of(alarm, as_of) for alarm in known if alarm.first_at <= as_of]
    alarms = (*past, *(alarm for alarm in _seen(report, as_of) if _is_new(alarm, past)))
    standing = [alarm for alarm in alarms if alarm.stands and alarm.dimension in VETOING]
    quiet = [reason for reason in report.reasons if reason.code not in ("srm", "srm_ok")]
    if standing:
        now = next((reason for reason in report.reasons if reason.code == "srm"), None)
        told = [] if now is None else [now]
        if now is None or any(alarm.first_at < as_of for alarm in standing):
            told.append(standing_reason(standing))
        return replace(report, status="alarm", veto=True, alarms=alarms, reasons=(*told, *quiet))
    explained = [alarm for alarm in alarms if alarm.how == "explained"]
    if report.veto:  # what alarms now has been explained
        said = Reason("srm_explained", _explained(explained))
        return replace(report, status="ok", veto=False, alarms=alarms, reasons=(said, *quiet))
    return replace(report, alarms=alarms)


def _explained(alarms: Sequence[SplitAlarm]) -> str:
    last = alarms[-1]
    return f"The visitors did not split as planned, which {last.settled_by or 'somebody'} has explained: {last.reason}"


def _as_of(alarm: SplitAlarm, as_of: datetime) -> SplitAlarm:
    if alarm.settled_at is None or alarm.settled_at <= as_of:
        return alarm
    return SplitAlarm(alarm.dimension, alarm.name, alarm.first_at, alarm.log_e)


def _seen(report: SplitReport, as_of: datetime) -> Iterator[SplitAlarm]:
    """What alarms by the counts of now."""
    if report.total.alarm:
        yield SplitAlarm(TOTAL, ALL, as_of, report.total.log_e or 0.0)
    for check in report.dimensions:
        for alarm in check.alarms:
            yield SplitAlarm(check.dimension, alarm.name, as_of, alarm.srm.log_e or 0.0)


def _is_new(alarm: SplitAlarm, past: Sequence[SplitAlarm]) -> bool:
    """Whether no earlier alarm of that slice stands, or has been explained as it is."""
    same = [p for p in past if (p.dimension, p.name) == (alarm.dimension, alarm.name)]
    covered = (p.settled_log_e for p in same if p.how == "explained" and p.settled_log_e is not None)
    return not any(p.stands for p in same) and alarm.log_e > max(covered, default=-math.inf) + (
        math.log(srm.THRESHOLD) if any(p.how == "explained" for p in same) else 0.0
    )


def evidence_now(report: SplitReport, alarm: SplitAlarm) -> float | None:
    """Logarithm of the e-value of an alarm's slice by the counts of now; ``None`` where it does not alarm."""
    seen = _seen(report, alarm.first_at)
    return next((a.log_e for a in seen if (a.dimension, a.name) == (alarm.dimension, alarm.name)), None)
