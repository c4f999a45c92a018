"""The check of the split in words: what it found, and where it went wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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


def standing_reason(alarms: Sequence[SplitAlarm]) -> Reason:
    """Which alarm stands, since when, and what ends it."""
    first = min(alarms, key=lambda alarm: alarm.first_at)
    where = "in total" if first.dimension == "total" else _where(first.dimension, first.name)
    more = f" and {len(alarms) - 1} more" if len(alarms) > 1 else ""
    text = (
        f"Since {first.first_at:%Y-%m-%d %H:%M} UTC the split is known to be broken {where} (e-value then "
        f"{_grown(math.exp(min(first.log_e, 700.0)))}){more}: later visitors hide that and do not mend it. It stays "
        "until a person explains it or cuts it out: `cro split`."
    )
    return Reason("srm", text)


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


def _grown(e_value: float) -> str:
    return (
        "more than a million" if e_value > 1e6 else f"{e_value:,.0f}" if e_value >= 10 else f"{e_value:.2g}"
    )
