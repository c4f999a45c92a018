"""Did the visitors split as planned: in total, on every day and in every segment, and if not, where it went wrong.

Every count is compared with the planned shares of its own epoch by the e-process of
:mod:`cro_core.statistics.srm`, which may be read at every look. A total can be balanced while opposite faults
hide in its days, so days are checked as well, and both can veto. Segments (hour of the day, device, country,
city, page, asset) are reported: they tell what is broken, but a segment may be tilted for reasons that harm no
decision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

import numpy as np

from cro_core.analytics.counts import Slice
from cro_core.analytics.definitions import SEGMENTS
from cro_core.clock import zone
from cro_core.domain import Cell, Experiment, Reason
from cro_core.errors import InvalidInput
from cro_core.evidence import Cause, DimensionCheck, SliceCheck, SplitReport, SplitStatus, Srm
from cro_core.statistics import srm
from cro_core.statistics.arrays import Floats

SLICE_TILTS = (srm.TILT, 0.5)
"""Half the mixture of a slice looks for faults as fine as the total's, half for gross ones: a page can lose half a variant."""

SEGMENT_DIMENSIONS = ("hour", *SEGMENTS)
"""The dimensions that share one chance in a hundred of a false alarm."""

MOST_ALARMS = 20
"""Alarms of a dimension that a report holds, the strongest; it counts them all."""

LACKING, AT_LEAST, NEARLY_ALL = 0.05, 10, 0.9
"""A variant lacks where less than the first part of at least so many expected units came; see ``_follows``."""


@dataclass(frozen=True, slots=True)
class _Table:
    """The slices of one dimension as arrays."""

    dimension: str
    names: tuple[str, ...]
    units: Floats
    """Shape (slices, epochs, variants); every slice has units."""
    log_e: Floats
    """Logarithm of each slice's own e-value."""
    threshold: float

    @property
    def alarming(self) -> list[int]:
        """Slices that alarm, the strongest first."""
        return [
            int(i)
            for i in np.argsort(-self.log_e, kind="stable")
            if self.log_e[i] >= math.log(self.threshold)
        ]


def check_split(experiment: Experiment, cells: Sequence[Cell], slices: Sequence[Slice] = ()) -> SplitReport:
    """The check of the total, and of every dimension that was counted.

    Days alarm at 100 times the number of planned days (of a finished file: of its days); a segment at 100 times
    the slices of its dimension times the number of dimensions. So of experiments without a fault at most one in
    a hundred has a false alarm in total, one by day and one in any segment, at any of its looks.

    A dimension that the variant itself decides (an asset, or the page of a redirect test, that only one variant
    shows) says nothing about the split and stays unchecked.

    Args:
        experiment: a started experiment.
        cells: its counted units per epoch and variant.
        slices: the same units by day, hour, device ...; dimensions may be left out.

    Returns:
        The report; ``domain.to_json`` makes it JSON.

    Raises:
        InvalidInput: a cell or slice of an epoch or variant that the experiment does not have, or the slices of
            a dimension do not add up to the cells.
    """
    whole = _grid(experiment, ((c.epoch, c.variant, c.units) for c in cells))
    shares = _shares(experiment)
    total = srm.over_epochs(whole, shares)
    by_dimension = _by_dimension(experiment, slices, whole)
    if shares is None or total.status == "no_data":
        return SplitReport(total.status, False, total, reasons=(_total_reason(experiment, total, None),))
    found = [_check(experiment, d, names, units, shares) for d, (names, units) in by_dimension.items()]
    tables = [table for _, table in found if table is not None]
    dimensions = tuple(check for check, _ in found)
    day = next((d for d in dimensions if d.dimension == "day"), None)
    veto = total.alarm or (day is not None and day.status == "alarm")
    broken = veto or any(d.status == "alarm" for d in dimensions)
    cause = _cause(tables, whole, shares) if broken else None
    report = SplitReport("alarm" if veto else total.status, veto, total, dimensions, cause)
    return replace(report, reasons=tuple(_reasons(experiment, report, day)))


def segments_due(experiment: Experiment, as_of: datetime, report: SplitReport) -> bool:
    """Whether this look should count the segments too, which cost as much as all the rest of it.

    That is once a day, in the first hour of the site's day; at the last look; and where something alarms, to
    find the cause.

    Args:
        experiment: a started experiment.
        as_of: the moment of the look, UTC.
        report: the check of its total and days at that moment.
    """
    ends_at = experiment.horizon_ends_at
    last = experiment.plan.finished or (ends_at is not None and as_of >= ends_at)
    return last or report.veto or as_of.astimezone(zone(experiment.plan.zone)).hour == 0


# ---------------------------------------------------------------- counts as arrays


def _shares(experiment: Experiment) -> Floats | None:
    if not experiment.plan.shares_known:
        return None
    keys = [v.key for v in experiment.ordered]
    return np.array([[e.shares[key] for key in keys] for e in experiment.epochs], dtype=float)


def _grid(experiment: Experiment, counts: Iterable[tuple[int, str, int]]) -> Floats:
    rows = {e.number: i for i, e in enumerate(experiment.epochs)}
    columns = {v.key: i for i, v in enumerate(experiment.ordered)}
    grid = np.zeros((len(rows), len(columns)))
    for epoch, variant, units in counts:
        if epoch not in rows or variant not in columns:
            raise InvalidInput(
                f"units are counted in epoch {epoch} for variant {variant!r}: experiment {experiment.id} has the epochs "
                f"0 to {len(rows) - 1} and the variants {', '.join(columns)}"
            )
        grid[rows[epoch], columns[variant]] += units
    return grid


def _by_dimension(
    experiment: Experiment, slices: Sequence[Slice], whole: Floats
) -> dict[str, tuple[tuple[str, ...], Floats]]:
    """Dimension -> names and units (slices, epochs, variants); days first, slices without units left out."""
    grouped: dict[str, dict[str, list[tuple[int, str, int]]]] = {}
    for s in slices:
        grouped.setdefault(s.dimension, {}).setdefault(s.name, []).append((s.epoch, s.variant, s.units))
    found = {}
    for dimension in sorted(grouped, key=lambda name: name != "day"):
        parts = {name: _grid(experiment, counts) for name, counts in grouped[dimension].items()}
        units = np.array(list(parts.values()))
        if not np.array_equal(units.sum(axis=0), whole):
            raise InvalidInput(
                f"the slices of {dimension} add up to {units.sum():.0f} units, the cells to {whole.sum():.0f}, or they "
                "differ by epoch or variant: count both as of the same moment",
                field="slices",
            )
        filled = units.sum(axis=(1, 2)) > 0
        found[dimension] = (tuple(n for n, kept in zip(parts, filled, strict=True) if kept), units[filled])
    return found


# ---------------------------------------------------------------- checks


def _check(
    experiment: Experiment, dimension: str, names: tuple[str, ...], units: Floats, shares: Floats
) -> tuple[DimensionCheck, _Table | None]:
    number = len(names)
    if number < 2 and dimension != "day":
        return _unchecked(dimension, number, "all units are in one slice: it is the total"), None
    if dimension in SEGMENTS and _follows(units, shares):
        why = "the variant decides it, so that it says nothing about the split"
        return _unchecked(dimension, number, why), None
    table = _Table(
        dimension, names, units, slice_log_e(units, shares), _threshold(experiment, dimension, number)
    )
    alarming = table.alarming
    alarms = tuple(SliceCheck(names[i], _own(table, i, shares)) for i in alarming[:MOST_ALARMS])
    status: Literal["ok", "alarm"] = "alarm" if alarming else "ok"
    return DimensionCheck(dimension, status, number, table.threshold, len(alarming), alarms), table


def _unchecked(dimension: str, number: int, reason: str) -> DimensionCheck:
    return DimensionCheck(dimension, "unchecked", number, None, reason=reason)


def _threshold(experiment: Experiment, dimension: str, number: int) -> float:
    if dimension == "day":
        return srm.THRESHOLD * max(number, _planned_days(experiment))
    planned = 24 if dimension == "hour" else number
    return srm.THRESHOLD * planned * len(SEGMENT_DIMENSIONS)


def _planned_days(experiment: Experiment) -> int:
    """Calendar days of the site that enrolment touches; 0 where the data set is complete and says so itself."""
    started_at, ends_at = experiment.started_at, experiment.enrolment_ends_at
    if experiment.plan.finished or started_at is None or ends_at is None:
        return 0
    site = zone(experiment.plan.zone)
    last = (ends_at - timedelta(microseconds=1)).astimezone(site).date()
    return (last - started_at.astimezone(site).date()).days + 1


def slice_log_e(units: Floats, shares: Floats) -> Floats:
    """Logarithm of the e-value of each of many slices: the mean of the e-values over ``SLICE_TILTS``.

    Args:
        units: units, shape (..., epochs, variants), control first. Not checked: simulations call this.
        shares: planned shares, shape (epochs, variants).

    Returns:
        Natural logarithms, shape (...); ``srm.LARGEST`` where units came whose planned share was 0.
    """
    planned = shares / shares.sum(axis=1, keepdims=True)
    by_tilt = [srm.log_e_values(units, planned, tilt) for tilt in SLICE_TILTS]
    result: Floats = np.logaddexp.reduce(by_tilt) - math.log(len(SLICE_TILTS))
    impossible = ((planned == 0) & (units > 0)).any(axis=(-2, -1))
    return np.where(impossible, srm.LARGEST, result)


def _own(table: _Table, index: int, shares: Floats) -> Srm:
    plain, log_e = srm.over_epochs(table.units[index], shares, table.threshold), float(table.log_e[index])
    status: SplitStatus = "alarm" if log_e >= math.log(table.threshold) else "ok"
    return replace(plain, status=status, log_e=log_e, e_value=math.exp(min(log_e, srm.LARGEST)))


def _follows(units: Floats, shares: Floats) -> bool:
    """Whether the variant decides the slice, by design and not by a fault.

    Then nearly all units of *every* variant are in slices where another variant is all but missing. A fault
    that loses a variant on some page leaves the others' units of that page behind, but its own are elsewhere.
    """
    seen = units.sum(axis=1)
    expected = np.einsum("se,ek->sk", units.sum(axis=2), shares)
    lacking = ((expected >= AT_LEAST) & (seen < LACKING * expected)).any(axis=1)
    return bool((seen[lacking].sum(axis=0) >= NEARLY_ALL * seen.sum(axis=0)).all() and seen.sum(axis=0).all())


def _cause(tables: Sequence[_Table], whole: Floats, shares: Floats) -> Cause | None:
    """The slice with the most evidence, less the logarithm of how many were searched in its dimension."""
    ranked = [(float(t.log_e.max()) - math.log(len(t.names)), t) for t in tables if len(t.names) > 1]
    if not ranked:
        return None
    evidence, table = max(ranked, key=lambda pair: pair[0])
    index = int(table.log_e.argmax())
    seen, expected = table.units.sum(axis=1), np.einsum("se,ek->sk", table.units.sum(axis=2), shares)
    # units without any expected are the whole mismatch
    gaps = np.divide((seen - expected) ** 2, np.maximum(expected, 1e-9)).sum(axis=1)
    return Cause(
        dimension=table.dimension,
        name=table.names[index],
        own=_own(table, index, shares),
        part=float(gaps[index] / gaps.sum()) if gaps.sum() else 0.0,
        without=srm.over_epochs(whole - table.units[index], shares),
        localised=evidence > float(slice_log_e(whole, shares)),
    )


# ---------------------------------------------------------------- words


def _reasons(experiment: Experiment, report: SplitReport, day: DimensionCheck | None) -> list[Reason]:
    found = [_total_reason(experiment, report.total, day)]
    tilted = [d for d in report.dimensions if d.status == "alarm" and d.dimension != "day"]
    if tilted and not report.veto:
        text = "Some visitors did not split as planned, which is no veto: " + _strongest(tilted) + "."
        found.append(Reason("srm_segment", text))
    if report.cause:
        elsewhere = [
            d for d in report.dimensions if d.status == "alarm" and d.dimension != report.cause.dimension
        ]
        found.append(Reason("srm_cause", _cause_text(experiment, report.cause, elsewhere)))
    return found


def _total_reason(experiment: Experiment, total: Srm, day: DimensionCheck | None) -> Reason:
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
    grown = check.e_value or 0.0
    shown = "more than a million" if grown > 1e6 else f"{grown:,.0f}" if grown >= 10 else f"{grown:.2g}"
    return f"e-value {shown}, alarm from {check.threshold:,.0f}"
