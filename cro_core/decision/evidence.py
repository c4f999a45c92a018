"""The numbers of one look, as a decision keeps them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cro_core.analytics.counts import Totals
from cro_core.decision.inputs import aggregates
from cro_core.domain import Cell, Experiment, Variant, to_json
from cro_core.statistics import looks, proportions
from cro_core.statistics.arrays import Floats
from cro_core.statistics.companion import companion

MOST_SHOWN = 1e6
"""E-values beyond it are not spelt out for people."""


@dataclass(frozen=True, slots=True)
class Look:
    """How far the experiment is, and how extreme the statistic must be at this moment."""

    due: bool
    """Whether this is the last look."""
    status: str
    """``look`` where one was taken, else why not: ``too_early``, ``no_information``, ``nothing_new``."""
    why: str
    number: int
    """Looks taken so far, this one included."""
    counted_units: int
    planned_units: int | None
    days: float
    horizon_ends_at: datetime | None
    spending_time: float
    """Share of the experiment that is over, in [0, 1]."""
    alpha_spent: float
    """Two-sided alpha allowed for so far."""
    critical_z: float | None
    critical_chi_square: float | None
    """Its square: what the chi-square must reach at this hour; ``None`` where no look was taken."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One challenger against the control. Fractions; ``None`` where it cannot be computed."""

    variant: str
    name: str
    active: bool
    """Still in; False once the control has beaten it."""
    crossed: str | None
    """``up`` or ``down`` where this look crossed a boundary."""
    z: float | None
    """The statistic, days combined; positive favours the challenger."""
    critical_z: float | None
    p_adjusted: float | None
    """Stagewise p-value, valid although it was looked at often; ``None`` until the experiment has ended."""
    relative: float | None
    """Uplift, standardised over days, with the interval that holds at every look."""
    relative_low: float | None
    relative_high: float | None
    difference: float | None
    """The same as a difference of rates."""
    difference_low: float | None
    difference_high: float | None
    stopped: float | None
    """Median-unbiased uplift once the experiment has ended, with its interval."""
    stopped_low: float | None
    stopped_high: float | None
    chi_square: float | None
    """Pearson's, pooled, without Yates; for information, as everything below."""
    p_value: float | None
    """Valid for one look only."""
    p_value_yates: float | None
    absolute: float | None
    """Pooled difference of rates with its Wald interval at the plan's level."""
    low: float | None
    high: float | None
    reason: str | None
    """Why a number is missing."""


@dataclass(frozen=True, slots=True)
class AlwaysValid:
    """What may be said of one challenger whenever one looks, inside the schedule or not; it decides nothing."""

    variant: str
    name: str
    e_value: float | None
    """Evidence that both convert differently; ``None`` where there is none."""
    log_e: float | None
    p_value: float | None
    """``min(1, 1 / e)``."""
    needed: float
    """The e-value that shows a difference at the plan's error rate over all challengers."""
    shown: bool
    """Whether it is reached."""
    leader: str | None
    """Whose rate is ahead, ``control`` or ``variant``."""
    says: str
    """The same for people."""
    reason: str | None
    """Why a number is missing."""


def look_at(experiment: Experiment, sums: Sequence[Totals], found: looks.LookResult, as_of: datetime) -> Look:
    """How far the experiment is at this look."""
    plan, counted = experiment.plan, sum(t.units for t in sums)
    days = (as_of - experiment.started_at).total_seconds() / 86400 if experiment.started_at else 0.0
    return Look(
        due=found.spending_time >= 1 and found.status != "too_early",
        status=found.status,
        why=_when(experiment, counted, as_of),
        number=len(found.state.hours),
        counted_units=counted,
        planned_units=plan.units,
        days=days,
        horizon_ends_at=experiment.horizon_ends_at,
        spending_time=found.spending_time,
        alpha_spent=found.alpha_spent,
        critical_z=found.critical,
        critical_chi_square=found.critical_chi_square,
    )


def _when(experiment: Experiment, counted: int, as_of: datetime) -> str:
    plan, ends_at = experiment.plan, experiment.horizon_ends_at
    if plan.finished:
        return "the data set is finished and evaluated as a whole"
    if plan.units is not None and counted >= plan.units:
        return f"the planned {plan.units:,} visitors are counted"
    if ends_at is not None and as_of >= ends_at:
        return f"day {plan.horizon.days} is reached"
    sample = f"{counted:,} of {plan.units:,} planned visitors" if plan.units else f"{counted:,} visitors"
    return f"{sample} are counted" + (
        f"; the last look is on {ends_at:%Y-%m-%d %H:%M} UTC" if ends_at else ""
    )


def compare(experiment: Experiment, cells: Sequence[Cell], row: looks.ChallengerLook) -> Comparison:
    """One challenger against the control, as the engine sees it and, for information, pooled."""
    control, challenger = experiment.control.key, experiment.challengers[row.challenger - 1]
    units = {v: sum(c.units for c in cells if c.variant == v) for v in (control, challenger.key)}
    converted = {v: sum(c.conversions for c in cells if c.variant == v) for v in (control, challenger.key)}
    counts = (units[control], converted[control], units[challenger.key], converted[challenger.key])
    test = proportions.chi_square([counts[0], counts[2]], [counts[1], counts[3]])
    raw = proportions.difference(*counts, 1 - experiment.plan.alpha / len(experiment.challengers))
    stopped = row.stopped or looks.Effect()
    return Comparison(
        variant=challenger.key,
        name=challenger.name,
        active=row.active,
        crossed=row.crossed,
        z=row.z,
        critical_z=row.critical,
        p_adjusted=row.p_value if row.stopped else None,
        relative=row.relative.estimate,
        relative_low=row.relative.low,
        relative_high=row.relative.high,
        difference=row.absolute.estimate,
        difference_low=row.absolute.low,
        difference_high=row.absolute.high,
        stopped=stopped.estimate,
        stopped_low=stopped.low,
        stopped_high=stopped.high,
        chi_square=test.statistic,
        p_value=test.p_value,
        p_value_yates=test.p_value_yates,
        absolute=raw.absolute,
        low=raw.low,
        high=raw.high,
        reason=row.reason or test.reason or raw.reason,
    )


def always_valid(experiment: Experiment, cells: Sequence[Cell]) -> list[AlwaysValid]:
    """Always-valid evidence on each challenger, over the epochs."""
    counts = aggregates(experiment, cells)
    pairs = ((v, [0, k]) for k, v in enumerate(experiment.challengers, start=1))
    return [_at_any_time(experiment, v, counts.units[:, pair], counts.total[:, pair]) for v, pair in pairs]


def _at_any_time(
    experiment: Experiment, challenger: Variant, units: Floats, conversions: Floats
) -> AlwaysValid:
    found = companion(units, conversions, experiment.plan.mde)
    needed = len(experiment.challengers) / experiment.plan.alpha
    shown = found.log_e is not None and found.log_e >= math.log(needed)
    return AlwaysValid(
        variant=challenger.key,
        name=challenger.name,
        e_value=found.e_value,
        log_e=found.log_e,
        p_value=found.p_value,
        needed=needed,
        shown=shown,
        leader=found.leader,
        says=_at_any_time_text(challenger.name, found.e_value, needed, shown, found.leader),
        reason=found.reason,
    )


def _at_any_time_text(
    name: str, e_value: float | None, needed: float, shown: bool, leader: str | None
) -> str:
    if e_value is None:
        return "nobody converted: nothing can be said yet"
    size = f"{e_value:,.1f}" if e_value < MOST_SHOWN else f"above {MOST_SHOWN:,.0f}"
    told = f"{name} converts {'better' if leader == 'variant' else 'worse'} than the control"
    return f"{told if shown else 'no difference is shown'} (e-value {size}, {needed:,.0f} is needed)"


def with_rate(total: Totals) -> dict[str, Any]:
    """A variant over all epochs, with Wilson's interval of its rate."""
    rate = proportions.wilson(total.units, total.conversions)
    return {
        **to_json(total),
        "rate": rate.estimate,
        "rate_low": rate.low,
        "rate_high": rate.high,
        "score_mean": total.score_sum / total.units if total.units else None,
    }
