"""Did the visitors split as planned: in total, on every day and in every segment, and if not, where it went wrong.

Every count is compared with the planned shares of its own epoch by the e-process of
:mod:`cro_core.statistics.srm`, which may be read at every look. A total can be balanced while opposite faults
hide in its days, so days are checked as well, and both can veto. Segments (hour of the day, device, country,
city, page, asset) are reported: they tell what is broken, but a segment may be tilted for reasons that harm no
decision.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

import numpy as np

from cro_core.analytics.counts import Slice
from cro_core.analytics.definitions import SEGMENTS
from cro_core.clock import zone
from cro_core.decision.split_wording import split_reasons, total_reason
from cro_core.domain import Cell, Experiment
from cro_core.errors import InvalidInput
from cro_core.evidence import Cause, DimensionCheck, SliceCheck, SplitReport, SplitStatus, Srm
from cro_core.statistics import srm
from cro_core.statistics.arrays import Floats

SLICE_TILTS = (srm.TILT, 0.5)
"""Half the mixture of a slice looks for faults as fine as the total's, half for gross ones: a page can lose half a variant."""

SEGMENT_DIMENSIONS = ("hour", *SEGMENTS)
"""The dimensions that share one chance in a hundred of a false alarm."""

MOST_ALARMS = 20
"""Alarms of a dimension that a report holds, the strongest; it counts them all. Of the days of a running experiment,
each of which vetoes until a person settles it, it holds all (but under the first rule, whose alarms end by themselves)."""

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
        return SplitReport(total.status, False, total, reasons=(total_reason(experiment, total, None),))
    checked = [_check(experiment, d, names, units, shares) for d, (names, units) in by_dimension.items()]
    tables = [table for _, table in checked if table is not None]
    dimensions = tuple(check for check, _ in checked)
    day = next((d for d in dimensions if d.dimension == "day"), None)
    veto = total.alarm or (day is not None and day.status == "alarm")
    broken = veto or any(d.status == "alarm" for d in dimensions)
    cause = _cause(tables, whole, shares) if broken else None
    report = SplitReport("alarm" if veto else total.status, veto, total, dimensions, cause)
    return replace(report, reasons=tuple(split_reasons(experiment, report, day)))


def evidence_on(
    experiment: Experiment, cells: Sequence[Cell], slices: Sequence[Slice], dimension: str, name: str
) -> float:
    """Logarithm of the e-value of one slice by the counts of now, whether it alarms or not.

    Args:
        experiment: a started experiment.
        cells: its counted units per epoch and variant.
        slices: the same units, divided by ``dimension`` at least.
        dimension: ``total`` for all units together; else that of the slice.
        name: of the slice.

    Returns:
        0, the evidence of nobody, where no unit is in that slice or nobody recorded the planned shares.

    Raises:
        InvalidInput: as :func:`check_split`.
    """
    shares = _shares(experiment)
    if shares is None:
        return 0.0
    whole = _grid(experiment, ((c.epoch, c.variant, c.units) for c in cells))
    if dimension == "total":
        return srm.over_epochs(whole, shares).log_e or 0.0
    names, units = _by_dimension(experiment, slices, whole).get(dimension, ((), whole[:0]))
    return float(slice_log_e(units[names.index(name)], shares)) if name in names else 0.0


def ever_alarming(experiment: Experiment, pieces: Sequence[Slice]) -> frozenset[tuple[str, str]]:
    """Which of the total and the days had alarmed at some hour, had these been the only units.

    It is how the rest of an experiment is judged after a slice was cut out of it: by all its past looks, not only by
    how it stands now, for a cut must not make forgotten what has nothing to do with it.

    Args:
        experiment: a started experiment.
        pieces: its counted units by the piece of time of their exposure; each is named by its start as ISO text. As
            all units take equally long to mature, they were counted in that order.

    Returns:
        Dimension and name of each: ``("total", "all")``, ``("day", "2026-03-02")``.
    """
    shares = _shares(experiment)
    if shares is None or not pieces:
        return frozenset()
    starts = sorted({datetime.fromisoformat(piece.name) for piece in pieces})
    number, site = {start: i for i, start in enumerate(starts)}, zone(experiment.plan.zone)
    counts: list[list[tuple[int, str, int]]] = [[] for _ in starts]
    for piece in pieces:
        counts[number[datetime.fromisoformat(piece.name)]].append((piece.epoch, piece.variant, piece.units))
    units = np.array([_grid(experiment, rows) for rows in counts])
    found = {("total", "all")} if srm.alarms(units.cumsum(axis=0), shares).any() else set()
    days = [start.astimezone(site).date().isoformat() for start in starts]
    line = math.log(_threshold(experiment, "day", len(set(days))))
    for day in dict.fromkeys(days):
        part = units[[name == day for name in days]]
        here = part.any(axis=(0, 2))
        if (slice_log_e(part.cumsum(axis=0)[:, here], shares[here]) >= line).any():
            found.add(("day", day))
    return frozenset(found)


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
    divided = {}
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
        divided[dimension] = (tuple(n for n, kept in zip(parts, filled, strict=True) if kept), units[filled])
    return divided


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
    plan = experiment.plan
    settled_singly = dimension == "day" and plan.rule >= 2 and not plan.finished
    most = len(alarming) if settled_singly else MOST_ALARMS
    alarms = tuple(SliceCheck(names[i], _own(table, i, shares)) for i in alarming[:most])
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
