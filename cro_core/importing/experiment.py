"""The experiment that a stream belongs to: finished, or as it would have run under the site's settings."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta

from cro_core.assignment.buckets import equal_shares
from cro_core.clock import MICROSECOND
from cro_core.config import Config
from cro_core.domain import Epoch, Experiment, Goal, Plan, Quantity, Status, Variant, check_experiment
from cro_core.importing.mapping import ImportMapping
from cro_core.importing.refusal import refuse
from cro_core.importing.rows import Stream
from cro_core.planning import plans
from cro_core.statistics.sample_size import plan_size

HOUR = timedelta(hours=1)


def experiment_of(
    config: Config, stream: Stream, mapping: ImportMapping, now: datetime, as_live: bool
) -> Experiment:
    """Completed, so that no cycle ever acts on it: an import changes nothing that a site shows."""
    told = mapping.experiment
    variants = tuple(Variant(v.key, v.name or v.key, is_control=v.control) for v in mapping.variants)
    plan = _live_plan(config, mapping) if as_live else _finished_plan(config, mapping, stream)
    draft = Experiment(
        told.id,
        told.name or told.id,
        variants,
        plan,
        status=Status.COMPLETED,
        slot=told.id,
        seed=told.id,
        kind="import",
        hypothesis=told.hypothesis,
        occasion=told.occasion,
        source="import",
        created_at=now,
        started_at=stream.started_at,
        ended_at=None if as_live else stream.ended_at,
    )
    # Only exposures have to lie in the epoch; it is open at its end.
    ends_at = draft.enrolment_ends_at if as_live else stream.last_exposure_at + MICROSECOND
    return replace(
        check_experiment(draft), epochs=(_epoch(mapping, stream.started_at, ends_at or stream.started_at),)
    )


def _epoch(mapping: ImportMapping, starts_at: datetime, ends_at: datetime) -> Epoch:
    keys = [v.key for v in mapping.variants]
    shares = mapping.plan.shares
    planned = shares if isinstance(shares, dict) else dict(zip(keys, equal_shares(len(keys)), strict=True))
    return Epoch(0, starts_at, ends_at, planned, 1.0)


def _finished_plan(config: Config, mapping: ImportMapping, stream: Stream) -> Plan:
    """Nothing is left to wait for: one look at everything, with the whole file as the time to convert."""
    span = timedelta(hours=max(1, math.ceil((stream.ended_at - stream.started_at + MICROSECOND) / HOUR)))
    hours = mapping.plan.window_hours
    window = span if hours is None else timedelta(hours=hours)
    planned = mapping.plan.planned_units is not None or mapping.plan.base_rate is not None
    plan = replace(_plan(config, mapping), finished=True, horizon=span, window=window)
    return plan if planned else replace(plan, units=None, base_rate=None)


def _live_plan(config: Config, mapping: ImportMapping) -> Plan:
    plan = _plan(config, mapping)
    hours = mapping.plan.window_hours
    if hours is not None:
        plan = replace(plan, window=timedelta(hours=hours))
    elif not mapping.goals_have_times:
        plan = replace(plan, window=timedelta(0))  # a table with a single time holds each outcome at once
    if plan.window >= plan.horizon:
        got, wanted = (
            f"{plan.window / HOUR:g} hours",
            f"less than the horizon of {plan.horizon / HOUR:g} hours",
        )
        raise refuse(
            mapping.source,
            "plan.window_hours",
            got,
            wanted,
            "shorten it, or raise automation.test_duration_max_days",
        )
    return plan


def _plan(config: Config, mapping: ImportMapping) -> Plan:
    """The settings' plan with what the mapping says instead; the shares of a file never moved."""
    told, count = mapping.plan, len(mapping.variants)
    plan = plans.new_plan(config, told.base_rate, count)
    base_rate, mde = told.base_rate or config.statistics.base_rate, told.mde or plan.mde
    units = (
        told.planned_units
        or plan_size(base_rate, mde, variants=count, alpha=plan.alpha, power=plan.power).units
    )
    return replace(
        plan,
        goals=tuple(Goal(g.name, g.weight, g.primary) for g in mapping.goals),
        base_rate=base_rate,
        mde=mde,
        units=units,
        zone=mapping.time.zone or plan.zone,
        adaptive=False,
        shares_known=told.shares != "unknown",
        goal_at_exposure=told.goal_at_exposure,
        guardrails=tuple(g for g in plan.guardrails if _measured(mapping, g.measure)),
        ratios=tuple(
            r for r in plan.ratios if all(_measured(mapping, side) for side in (r.numerator, r.denominator))
        ),
        covariate=_covariate(mapping, plan.covariate),
    )


def _measured(mapping: ImportMapping, quantity: str) -> bool:
    """Whether a metric of the site's settings means anything in this file."""
    goal = Quantity.parse(quantity).of
    return goal is None or goal in {g.name for g in mapping.goals}


def _covariate(mapping: ImportMapping, configured: str) -> str:
    """A column of its own; else only a log can hold what happened before an exposure."""
    if mapping.columns.covariate is not None:
        return "exposure_value"
    return configured if mapping.table.layout == "events" and configured == "engagement" else "none"
