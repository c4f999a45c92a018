"""From one look to its part of the evidence: how far it is, each challenger against the control, each variant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime

from cro_core.decision.inputs import FUTILITY_POWER, aggregates
from cro_core.domain import Cell, Experiment, Variant
from cro_core.evidence import RATE_CONFIDENCE, AlwaysValid, Comparison, Look, Totals, TotalsWithRate
from cro_core.statistics import looks, proportions
from cro_core.statistics.arrays import Floats
from cro_core.statistics.companion import companion

MOST_SHOWN = 1e6
"""E-values beyond it are not spelt out for people."""


def describe_look(
    experiment: Experiment,
    sums: Sequence[Totals],
    result: looks.LookResult,
    as_of: datetime,
    *,
    exposed: int | None = None,
    next_at: datetime | None = None,
) -> Look:
    """How far the experiment is at this look.

    Args:
        experiment: a started experiment.
        sums: mature units of each variant.
        result: what the look found.
        as_of: the moment of the look.
        exposed: all units that decide, mature or not; ``None`` where the mature ones decide.
        next_at: when the next look is due, where it is not every hour.
    """
    plan, counted = experiment.plan, sum(t.units for t in sums)
    days = (as_of - experiment.started_at).total_seconds() / 86400 if experiment.started_at else 0.0
    return Look(
        due=result.spending_time >= 1 and result.status not in ("too_early", "between_looks", "holding"),
        status=result.status,
        why=_when(experiment, counted, as_of),
        number=len(result.state.hours),
        counted_units=counted,
        planned_units=plan.units,
        days=days,
        horizon_ends_at=experiment.horizon_ends_at,
        spending_time=result.spending_time,
        alpha_spent=result.alpha_spent,
        critical_z=result.critical,
        critical_chi_square=result.critical_chi_square,
        exposed_units=None if result.state.late is not None else exposed,
        futility_power=FUTILITY_POWER if experiment.plan.rule == 2 and experiment.plan.futility else None,
        next_at=next_at,
    )


def _when(experiment: Experiment, counted: int, as_of: datetime) -> str:
    plan, ends_at = experiment.plan, experiment.horizon_ends_at
    if plan.finished:
        return "the data set is finished and evaluated as a whole"
    if plan.rule == 1 and plan.units is not None and counted >= plan.units:
        return f"the planned {plan.units:,} visitors are counted"
    if ends_at is not None and as_of >= ends_at:
        return f"day {plan.horizon.days} is reached"
    sample = f"{counted:,} of {plan.units:,} planned visitors" if plan.units else f"{counted:,} visitors"
    return f"{sample} are counted" + (
        f"; the last look is on {ends_at:%Y-%m-%d %H:%M} UTC" if ends_at else ""
    )


def compare(experiment: Experiment, cells: Sequence[Cell], row: looks.ChallengerLook) -> Comparison:
    """One challenger against the control, as the look sees it and, for information, pooled."""
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
        conditional_power=None if experiment.plan.rule == 1 else row.conditional_power,
        fade=row.fade,
        weekend=row.weekend,
        reason=row.reason or test.reason or raw.reason,
    )


def always_valid(experiment: Experiment, cells: Sequence[Cell]) -> tuple[AlwaysValid, ...]:
    """Always-valid evidence on each challenger, over the epochs."""
    counts = aggregates(experiment, cells)
    pairs = ((v, [0, k]) for k, v in enumerate(experiment.challengers, start=1))
    return tuple(
        _at_any_time(experiment, v, counts.units[:, pair], counts.total[:, pair]) for v, pair in pairs
    )


def _at_any_time(
    experiment: Experiment, challenger: Variant, units: Floats, conversions: Floats
) -> AlwaysValid:
    evidence = companion(units, conversions, experiment.plan.mde)
    needed = len(experiment.challengers) / experiment.plan.alpha
    shown = evidence.log_e is not None and evidence.log_e >= math.log(needed)
    return AlwaysValid(
        variant=challenger.key,
        name=challenger.name,
        e_value=evidence.e_value,
        log_e=evidence.log_e,
        p_value=evidence.p_value,
        needed=needed,
        shown=shown,
        leader=evidence.leader,
        says=_at_any_time_text(challenger.name, evidence.e_value, needed, shown, evidence.leader),
        reason=evidence.reason,
    )


def _at_any_time_text(
    name: str, e_value: float | None, needed: float, shown: bool, leader: str | None
) -> str:
    if e_value is None:
        return "nobody converted: nothing can be said yet"
    size = f"{e_value:,.1f}" if e_value < MOST_SHOWN else f"above {MOST_SHOWN:,.0f}"
    difference = f"{name} converts {'better' if leader == 'variant' else 'worse'} than the control"
    return f"{difference if shown else 'no difference is shown'} (e-value {size}, {needed:,.0f} is needed)"


def with_rate(total: Totals) -> TotalsWithRate:
    """A variant over all epochs, with Wilson's interval of its rate."""
    rate = proportions.wilson(total.units, total.conversions, RATE_CONFIDENCE)
    return TotalsWithRate(
        **{field.name: getattr(total, field.name) for field in fields(total)},
        rate=rate.estimate,
        rate_low=rate.low,
        rate_high=rate.high,
        score_mean=total.score_sum / total.units if total.units else None,
    )
