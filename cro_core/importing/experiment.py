"""The experiment that imported events belong to: finished, or as it would have run under the site's settings."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta

from cro_core.assignment.buckets import equal_shares
from cro_core.clock import MICROSECOND
from cro_core.config import Config
from cro_core.domain import (
    Covariate,
    Epoch,
    Experiment,
    Goal,
    Plan,
    Quantity,
    Status,
    Variant,
    check_experiment,
)
from cro_core.importing.mapping import ImportMapping
from cro_core.importing.rows import FileEvents
from cro_core.planning import plans

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def experiment_of(
    config: Config, file_events: FileEvents, mapping: ImportMapping, now: datetime, as_live: bool
) -> Experiment:
    """Makes the experiment of imported events: completed, so that no cycle ever changes what the site shows."""
    part = mapping.experiment
    variants = tuple(
        Variant(variant.key, variant.name or variant.key, is_control=variant.control).costing(
            variant.cost_per_exposure
        )
        for variant in mapping.variants
    )
    plan = (
        _live_plan(config, mapping, file_events) if as_live else _finished_plan(config, mapping, file_events)
    )
    draft = Experiment(
        part.id,
        part.name or part.id,
        variants,
        plan,
        status=Status.COMPLETED,
        slot=part.id,
        seed=part.id,
        kind="import",
        hypothesis=part.hypothesis,
        occasion=part.occasion,
        source="import",
        created_at=now,
        started_at=file_events.started_at,
        ended_at=None if as_live else file_events.ended_at,
    )
    # Only exposures have to lie in the epoch; it is open at its end.
    ends_at = draft.enrolment_ends_at if as_live else file_events.last_exposure_at + MICROSECOND
    return replace(
        check_experiment(draft),
        epochs=(_epoch(mapping, file_events.started_at, ends_at or file_events.started_at),),
    )


def _epoch(mapping: ImportMapping, starts_at: datetime, ends_at: datetime) -> Epoch:
    keys = [variant.key for variant in mapping.variants]
    shares = mapping.plan.shares
    planned_shares = (
        shares if isinstance(shares, dict) else dict(zip(keys, equal_shares(len(keys)), strict=True))
    )
    return Epoch(0, starts_at, ends_at, planned_shares, 1.0)


def _finished_plan(config: Config, mapping: ImportMapping, file_events: FileEvents) -> Plan:
    """Plans one look at everything, with the whole file as the time to convert: nothing is left to wait for."""
    span = timedelta(
        hours=max(1, math.ceil((file_events.ended_at - file_events.started_at + MICROSECOND) / HOUR))
    )
    hours = mapping.plan.window_hours
    window = span if hours is None else timedelta(hours=hours)
    was_planned = mapping.plan.planned_units is not None or mapping.plan.base_rate is not None
    plan = replace(_plan(config, mapping), finished=True, horizon=span, window=window)
    return plan if was_planned else replace(plan, units=None, base_rate=None)


def _live_plan(config: Config, mapping: ImportMapping, file_events: FileEvents) -> Plan:
    """Plans as a running experiment would have; but how many convert is known, and may be far from the settings."""
    plan = replace(_plan(config, mapping), conversions=float(file_events.goals))
    hours, window = mapping.plan.window_hours, plan.window
    if hours is not None:
        window = timedelta(hours=hours)
    elif not mapping.goals_have_times:
        window = timedelta(0)  # a table with a single time holds each outcome at once
    weeks, _ = plans.pace(plan.units, _traffic_per_day(file_events), plans.enrolment_weeks(plan))
    return replace(plan, window=window, horizon=weeks * plans.WEEK + window)


def _traffic_per_day(file_events: FileEvents) -> float:
    """Visitors a day over all variants, from the first exposure of a file to its last, a day at least."""
    return file_events.units / max((file_events.last_exposure_at - file_events.started_at) / DAY, 1.0)


def _plan(config: Config, mapping: ImportMapping) -> Plan:
    """Plans as the settings say, but for what the mapping says instead; the shares of a file never moved."""
    part, count = mapping.plan, len(mapping.variants)
    plan = plans.new_plan(config, part.base_rate, count)
    base_rate, mde = part.base_rate or config.statistics.base_rate, part.mde or plan.mde
    fixed = replace(plan, base_rate=base_rate, mde=mde, adaptive=False)
    units = part.planned_units or plans.with_alpha(fixed, plan.alpha, variants=count).units
    return replace(
        fixed,
        goals=tuple(Goal(goal.name, goal.weight, goal.primary) for goal in mapping.goals),
        units=units,
        zone=mapping.time.zone or plan.zone,
        shares_known=part.shares != "unknown",
        goal_at_exposure=part.goal_at_exposure,
        guardrails=tuple(goal for goal in plan.guardrails if _measured(mapping, goal.measure)),
        ratios=tuple(
            r for r in plan.ratios if all(_measured(mapping, side) for side in (r.numerator, r.denominator))
        ),
        covariate=_covariate(mapping, plan.covariate),
    )


def _measured(mapping: ImportMapping, quantity: str) -> bool:
    """Whether a metric of the site's settings means anything in this file."""
    goal = Quantity.parse(quantity).of
    return goal is None or goal in {each.name for each in mapping.goals}


def _covariate(mapping: ImportMapping, configured: Covariate) -> Covariate:
    """Names the covariate: a column of its own; else only a log can hold what happened before an exposure."""
    if mapping.columns.covariate is not None:
        return "exposure_value"
    return configured if mapping.table.layout == "events" and configured == "engagement" else "none"
