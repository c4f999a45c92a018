"""The check of the split in words: what it found, and where it went wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime

from cro_core.clock import zone
from cro_core.domain import Experiment, Reason
from cro_core.evidence import Cause, DimensionCheck, SplitAlarm, SplitReport, Srm


def split_reasons(experiment: Experiment, report: SplitReport, day: DimensionCheck | None) -> list[Reason]:
    """What the check of a split found, the total first.

    Args:
        experiment: names its variants.
        report: the check; a cause is told where it names one.
        day: its check by day; ``None`` where days were not checked.
    """
    reasons = [total_reason(experiment, report.total, day)]
    tilted = [d for d in report.dimensions if d.status == "alarm" and d.dimension != "day"]
    if tilted and not report.veto:
        text = "Some visitors did not split as planned, which is no veto: " + _strongest(tilted) + "."
        reasons.append(Reason("srm_segment", text))
    if report.cause:
        elsewhere = [
            d for d in report.dimensions if d.status == "alarm" and d.dimension != report.cause.dimension
        ]
        reasons.append(Reason("srm_cause", _cause_text(experiment, report.cause, elsewhere)))
    return reasons


def total_reason(experiment: Experiment, total: Srm, day: DimensionCheck | None) -> Reason:
    """What the total and its days say: not to be checked, nobody yet, broken, or as planned."""
    if total.status == "unknown_shares":
        return Reason(
            "srm_unknown", "The planned shares are not known, so the split of the visitors cannot be checked."
        )
    if total.status == "no_data":
        return Reason("srm_no_data", "No visitor is counted yet.")
    end = "by far more than chance explains: something is broken, and no number can be trusted."
    if total.alarm:
        return Reason(
            "srm",
            f"The visitors did not split as planned ({_counts(experiment, total)}; {_evidence(total)}), {end}",
        )
    if day is not None and day.status == "alarm":
        return Reason(
            "srm",
            f"In total the visitors split as planned, but on {day.alarming} of {day.slices} days they did not, {end}",
        )
    return Reason("srm_ok", "The visitors split as planned.")


def standing_reason(
    experiment: Experiment, alarms: Sequence[SplitAlarm], total: Srm, as_of: datetime
) -> Reason:
    """Which alarm stands, since when, and what ends it while the experiment runs.

    Args:
        experiment: names its clocks.
        alarms: those that stand, at least one.
        total: the check of all visitors by the counts of now.
        as_of: the moment of the look.
    """
    first = min(alarms, key=lambda alarm: alarm.first_at)
    in_total = first.dimension == "total"
    where = "in total" if in_total else _where(first.dimension, first.name)
    since = f"{first.first_at.astimezone(zone(experiment.plan.zone)):%Y-%m-%d %H:%M} {experiment.plan.zone}"
    evidence = f"e-value then {_power(first.log_e)}"
    diluted = in_total and not total.alarm and total.e_value is not None
    evidence += f", now {_grown(total.e_value or 0.0)}" if diluted else ""
    more = f"; {len(alarms) - 1} more, see `cro split list {experiment.id}`" if len(alarms) > 1 else ""
    text = (
        f"Since {since} the visitors have not been split as planned {where} ({evidence}{more}). Visitors who come later "
        "dilute that and do not mend it"
    )
    ends_at = experiment.horizon_ends_at
    if ends_at is not None and as_of >= ends_at:
        return Reason("srm", f"{text}, and nobody has explained it.")
    command = f"cro split explain {experiment.id} {first.dimension} {first.name} --reason ..."
    cut = "cuts the slice that was hit out of every version: `cro split cut`"
    return Reason("srm", f"{text}, so it stays until somebody explains it: `{command}`, or {cut}.")


def explained_reason(alarms: Sequence[SplitAlarm]) -> Reason:
    """Who has explained what alarms, and how; ``alarms`` are those that were explained, at least one."""
    said = dict.fromkeys(f"{alarm.settled_by}: {alarm.reason}" for alarm in alarms)
    text = f"The visitors did not split as planned, which was explained ({'; '.join(said)})."
    return Reason("srm_explained", text)


def cut_reason(alarm: SplitAlarm) -> Reason:
    """Which visitors are left out, and why."""
    why = f"{alarm.settled_by}: {alarm.reason}"
    text = f"Left out of every version alike: visitors {_where(alarm.dimension, alarm.name)} ({why})."
    return Reason("srm_cut", text)


def alarm_line(alarm: SplitAlarm, zone_name: str) -> str:
    """One alarm of a split with its state, as a sentence; times are told in the time zone."""
    where = "in total" if alarm.dimension == "total" else _where(alarm.dimension, alarm.name)
    return f"{where[0].upper()}{where[1:]} {alarm_state(alarm, zone_name)}."


def alarm_state(alarm: SplitAlarm, zone_name: str) -> str:
    """Since when an alarm stands, or how it was settled; times are told in the time zone."""
    first, settled = (
        None if at is None else f"{at.astimezone(zone(zone_name)):%Y-%m-%d %H:%M} {zone_name}"
        for at in (alarm.first_at, alarm.settled_at)
    )
    peak = f", at most {_power(alarm.largest)}" if alarm.largest > alarm.log_e else ""
    raised = (
        f"since {first} (e-value then {_power(alarm.log_e)}{peak})" if alarm.log_e else "without an alarm"
    )
    if settled is None:
        return f"{raised}: stands{'' if alarm.dimension in VETOING else ', which is no veto'}"
    how = SETTLED[alarm.how or "explained"]
    return f"{raised}: {how} by {alarm.settled_by} on {settled} ({alarm.reason})"


VETOING = ("total", "day")
"""Dimensions whose alarms veto a winner."""

SETTLED: Mapping[str, str] = {
    "explained": "explained",
    "cut_out": "cut out",
    "judged_anew": "judged anew without what was cut out",
}
"""How an alarm was settled, in words."""


def _cause_text(experiment: Experiment, cause: Cause, elsewhere: Sequence[DimensionCheck]) -> str:
    where = _where(cause.dimension, cause.name)
    numbers = f"{_counts(experiment, cause.own)}; {_evidence(cause.own)}"
    if cause.localised:
        text = f"The clearest mismatch is {where} ({numbers}). "
    else:
        text = f"The mismatch is spread and no slice explains it by itself; it is strongest {where} ({numbers}). "
    text += _without_text(experiment, cause.without)
    return text + (f" It also shows {_strongest(elsewhere)}." if elsewhere else "")


def _without_text(experiment: Experiment, rest: Srm) -> str:
    if rest.status == "no_data":
        return "Without it no visitor is left."
    said = "did not split as planned either" if rest.alarm else "split as planned"
    return f"Without it the other visitors {said} ({_counts(experiment, rest)}; {_evidence(rest)})."


def _strongest(dimensions: Sequence[DimensionCheck]) -> str:
    return ", ".join(
        _where(d.dimension, d.alarms[0].name)
        + (f" and {d.alarming - 1} more" if d.alarming > 1 else "")
        + f" ({_evidence(d.alarms[0].srm)})"
        for d in dimensions
    )


PLACES: Mapping[str, str] = {
    "day": "on {}",
    "hour": "in the hour from {}",
    "device": "on the device {}",
    "country": "in the country {}",
    "city": "in the city {}",
    "page": "on the page {}",
    "asset": "with the asset {}",
}


def _where(dimension: str, name: str) -> str:
    return PLACES.get(dimension, dimension + " {}").replace("{}", name)


def _counts(experiment: Experiment, check: Srm) -> str:
    return ", ".join(
        f"{variant.name} {seen:,} of {expected:,.0f} expected"
        for variant, seen, expected in zip(
            experiment.ordered, check.units, check.expected or check.units, strict=True
        )
    )


def _evidence(check: Srm) -> str:
    """An e-value as a bet: how many times a stake on the planned shares being wrong would have grown."""
    return f"e-value {_grown(check.e_value or 0.0)}, alarm from {check.threshold:,.0f}"


def _power(log_e: float) -> str:
    return _grown(math.exp(min(log_e, 700.0)))


def _grown(e_value: float) -> str:
    return (
        "more than a million" if e_value > 1e6 else f"{e_value:,.0f}" if e_value >= 10 else f"{e_value:.2g}"
    )
