"""Makes plans of experiments from settings, and the schedule of epochs from a plan and a start."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from cro_core.assignment.buckets import equal_shares
from cro_core.clock import next_midnight, zone
from cro_core.config import Config, Loaded
from cro_core.domain import Epoch, Experiment, Plan, Status, check_experiment
from cro_core.planning.week_profile import DAYS, FLAT, HOURS, WeekProfile

if TYPE_CHECKING:
    from cro_core.statistics.sample_size import SizePlan
    from cro_core.statistics.sequential import Spending

HOUR, WEEK = timedelta(hours=1), timedelta(weeks=1)


def new_plan(config: Config, base_rate: float | None = None, variants: int = 2) -> Plan:
    """Makes the plan that the settings ask for.

    Args:
        config: the effective settings.
        base_rate: the site's own conversion rate, a fraction; ``None`` takes the configured one.
        variants: how many variants, the control included.
    """
    rate = base_rate or config.statistics.base_rate
    plan = Plan(
        goals=config.goals(),
        alpha=config.alpha,
        power=config.statistics.power,
        base_rate=rate,
        mde=config.mde,
        horizon=enrolment_at_most(config) + config.window,
        window=config.window,
        min_units=config.automation.min_sample_size,
        min_uplift=config.automation.min_conversion_difference,
        gate=config.statistics.min_uplift_gate,
        at_horizon=config.statistics.at_horizon,
        spending=config.statistics.spending_function,
        spending_parameter=config.statistics.spending_parameter,
        futility=config.statistics.futility,
        zone=config.site.time_zone,
        adaptive=config.smart_traffic_allocation.enabled,
        floor=config.floor(variants),
        guardrails=config.guardrails(),
        ratios=config.ratios(),
        adjustment=config.statistics.secondary_adjustment,
        covariate=config.statistics.covariate,
        companion=config.statistics.always_valid_companion,
        max_crossover=config.statistics.max_crossover,
        value_per_conversion=config.money.value_per_conversion,
        currency=config.money.currency,
    )
    return with_alpha(plan, plan.alpha, variants=variants)


def enrolment_at_most(config: Config) -> timedelta:
    """Longest time in which new visitors count: the whole weeks within the configured days, at least one."""
    return max(timedelta(days=config.automation.test_duration_max_days) // WEEK, 1) * WEEK


def with_alpha(plan: Plan, alpha: float, *, variants: int = 2) -> Plan:
    """Changes a plan to this two-sided error rate, in (0, 1), and to the sample it needs for it.

    Raises:
        InvalidInput: an argument or a value of the plan out of range.
    """
    changed = replace(plan, alpha=alpha)
    sized = size(changed, variants=variants)
    return replace(changed, units=None if sized is None else sized.units)


LONGEST_WEEKS = 14
"""Most weeks of enrolment that are proposed where the configured ones are too few for a site's traffic."""


def enrolment(plan: Plan) -> timedelta:
    """How long new visitors are planned to count; the last look comes one window later."""
    return plan.horizon - (timedelta(0) if plan.finished else plan.window)


def enrolment_weeks(plan: Plan) -> int:
    """Whole weeks in which new visitors are planned to count, at least one."""
    return max(enrolment(plan) // WEEK, 1)


def patient(plan: Plan, weeks: int, *, variants: int = 2) -> Plan:
    """Changes a plan to so many weeks of enrolment and fixed shares, which need the fewest visitors."""
    longer = replace(plan, adaptive=False, horizon=timedelta(weeks=weeks) + plan.window)
    return with_alpha(longer, plan.alpha, variants=variants)


def settled(plan: Plan, traffic_per_day: float | None, *, variants: int = 2) -> Plan:
    """Fixes, at the start, how many weeks new visitors count and which part of them takes part.

    As many whole weeks as the planned sample takes at this traffic, never more than the plan allows; where the
    traffic is not known, as many as it allows. Where one week brings more than the sample, only the part that fills
    the week is let in: a shorter test would not see every weekday. A plan of the first rule becomes one of the
    present rule, with the sample that this takes.

    Args:
        plan: of a draft.
        traffic_per_day: visitors a day over all variants, above 0; ``None``: not known.
        variants: how many, the control included.

    Raises:
        InvalidInput: an argument or a value of the plan out of range.
    """
    most = enrolment_weeks(plan) if plan.rule == 2 else max(plan.horizon // WEEK, 1)
    present = with_alpha(replace(plan, rule=2), plan.alpha, variants=variants)
    weeks, admitted = pace(present.units, traffic_per_day, most)
    return replace(present, horizon=weeks * WEEK + plan.window, admitted=admitted)


def pace(units: int | None, traffic_per_day: float | None, most_weeks: int) -> tuple[int, float]:
    """Works out how many weeks so many visitors take, and which part of the visitors fills them.

    Args:
        units: planned sample over all variants; ``None``: nothing was planned.
        traffic_per_day: visitors a day over all variants; ``None``: not known.
        most_weeks: at least 1.

    Returns:
        Whole weeks, from 1 to ``most_weeks``; and the part, above 0 and at most 1: less than 1 only for a single week,
        rounded up to two digits and to whole buckets of assignment.
    """
    if not units or not traffic_per_day:
        return most_weeks, 1.0
    weeks = units / (traffic_per_day * DAYS)
    return min(max(math.ceil(weeks), 1), most_weeks), min(_rounded_up(weeks), 1.0)


def _rounded_up(part: float) -> float:
    """Rounds a part below 1 up to two digits, and to four places at most; at least one bucket remains."""
    if part >= 1:
        return part
    unit = 10.0 ** min(1 - math.floor(math.log10(part)), 4)
    return math.ceil(round(part * unit, 9)) / unit


CLEARLY_MORE = 0.05
"""Part more visitors than the default takes above which a way to spend alpha is warned of."""


def spending_warning(spending: Spending, *, alpha: float, power: float) -> str | None:
    """Says in words that a way to spend alpha takes clearly more visitors than the default.

    Args:
        spending: the way.
        alpha: two-sided, of one comparison with the control.
        power: probability of finding the planned effect.

    Returns:
        ``None`` where it does not.
    """
    from cro_core.statistics.sample_size import inflation_of_looks
    from cro_core.statistics.sequential import Spending

    default = Spending()
    chosen, usual = (inflation_of_looks(s, alpha=alpha, power=power) for s in (spending, default))
    if chosen / usual - 1 < CLEARLY_MORE:
        return None
    parameter = "" if spending.parameter is None else f" with parameter {spending.parameter:g}"
    return (
        f"statistics.spending_function {spending.family}{parameter} needs {100 * (chosen / usual - 1):.0f} % more "
        f"visitors than {default.family}."
    )


def settings_warnings(loaded: Loaded) -> tuple[str, ...]:
    """What explicit settings cost in validity, power or visitors."""
    config = loaded.config
    if (
        config.statistics.spending_function == Plan(()).spending
        and config.statistics.spending_parameter is None
    ):
        return loaded.warnings  # without the time it takes to load the statistics
    from cro_core.statistics.sequential import Spending

    spending = Spending(config.statistics.spending_function, config.statistics.spending_parameter)
    warning = spending_warning(spending, alpha=config.alpha, power=config.statistics.power)
    return loaded.warnings if warning is None else (*loaded.warnings, warning)


def weeks_needed(plan: Plan, traffic_per_day: float, *, variants: int = 2) -> int:
    """Finds how many weeks reach the sample of :func:`patient`, at most :data:`LONGEST_WEEKS`."""
    long = patient(plan, LONGEST_WEEKS, variants=variants)
    return pace(long.units, traffic_per_day, LONGEST_WEEKS)[0]


def size(plan: Plan, traffic_per_day: float | None = None, *, variants: int = 2) -> SizePlan | None:
    """Works out what the plan needs and what this traffic gives it by the end of enrolment.

    Args:
        plan: the plan; its horizon less its window is the time in which visitors count.
        traffic_per_day: visitors a day who take part, over all variants; ``None``: not known.
        variants: how many, the control included.

    Returns:
        ``None`` where nothing was planned: no base rate, or a finished file that is evaluated as a whole.

    Raises:
        InvalidInput: an argument or a value of the plan out of range.
    """
    from cro_core.statistics.sample_size import plan_size
    from cro_core.statistics.sequential import Spending

    if plan.base_rate is None or plan.finished:
        return None
    return plan_size(
        plan.base_rate,
        plan.mde,
        variants=variants,
        adaptive=plan.adaptive,
        floor=plan.floor,
        alpha=plan.alpha,
        power=plan.power,
        spending=Spending(plan.spending, plan.spending_parameter),
        futility=plan.futility,
        rule=plan.rule,
        traffic_per_day=traffic_per_day,
        horizon_days=(plan.horizon - plan.window) / timedelta(days=1),
    )


def under_powered(plan: Plan, traffic_per_day: float, *, variants: int = 2) -> float | None:
    """Finds out whether this traffic is too little for the plan, and what it can find instead.

    To be asked before an experiment starts, with the traffic expected, and when it has ended without a
    result, with the traffic it had: "cannot tell at this traffic" is then the verdict.

    Args:
        plan: the plan.
        traffic_per_day: visitors a day over all variants, at least 0.
        variants: how many, the control included.

    Returns:
        ``None`` where enrolment reaches the planned sample (or nothing was planned, see :func:`size`); else
        the smallest relative uplift that is found with the planned power, above ``plan.mde``; infinity where
        not even a rate of 1 would be found.

    Raises:
        InvalidInput: an argument or a value of the plan out of range.
    """
    if traffic_per_day == 0:
        return None if size(plan, variants=variants) is None else math.inf
    sized = size(plan, traffic_per_day, variants=variants)
    if sized is None or not sized.underpowered:
        return None
    return math.inf if math.isnan(sized.attainable_uplift) else sized.attainable_uplift


def begin(experiment: Experiment, now: datetime, profile: WeekProfile = FLAT) -> Experiment:
    """Starts an experiment at ``now``: gives it a seed and its whole schedule of epochs.

    Args:
        experiment: the draft.
        now: the moment.
        profile: how the site's visitors spread over the week.

    Raises:
        InvalidInput: the experiment cannot run (keys, control, goals).
    """
    check_experiment(experiment)
    seeded = replace(experiment, status=Status.RUNNING, started_at=now, seed=experiment.seed or experiment.id)
    return replace(seeded, epochs=schedule(seeded, profile))


def schedule(experiment: Experiment, profile: WeekProfile = FLAT) -> tuple[Epoch, ...]:
    """Divides an experiment's time into epochs of equal shares: one, or one a calendar day where shares may move.

    The boundaries and weights are fixed here, before the first visitor; the cycle may only give epochs that
    have not begun other shares. An epoch weighs what the profile expects of its hours on the site's clocks: the
    first and the last day are partial, and a day of a clock change has 23 or 25 hours.

    Args:
        experiment: with its start.
        profile: how the site's visitors spread over the week; :data:`FLAT` weighs by hours.
    """
    starts_at, ends_at = experiment.started_at, experiment.enrolment_ends_at
    if starts_at is None or ends_at is None:
        return ()
    site = zone(experiment.plan.zone)
    borders = [starts_at]
    while experiment.plan.adaptive and (midnight := next_midnight(borders[-1], site)) < ends_at:
        borders.append(midnight)
    borders.append(ends_at)
    keys = [variant.key for variant in experiment.variants]
    shares = dict(zip(keys, equal_shares(len(keys)), strict=True))
    expected = [_expected(start, end, profile, site) for start, end in pairwise(borders)]
    return tuple(
        Epoch(number, start, end, shares, part / sum(expected))
        for number, ((start, end), part) in enumerate(zip(pairwise(borders), expected, strict=True))
    )


LEAST_HOUR = 0.01
"""Least visitors that any hour is expected to bring, the average hour being 1: a day without weight counts for nothing."""


def _expected(start: datetime, end: datetime, profile: WeekProfile, site: ZoneInfo) -> float:
    """Visitors that come within a time, the average hour being 1."""
    if not profile.measured:
        return (end - start) / HOUR
    expected, moment = 0.0, start
    while moment < end:
        local = moment.astimezone(site)
        whole_hour = HOUR - timedelta(
            minutes=local.minute, seconds=local.second, microseconds=local.microsecond
        )
        until = min(moment + whole_hour, end)
        relative = profile.relative[local.weekday() * HOURS + local.hour]
        expected += max(relative, LEAST_HOUR) * ((until - moment) / HOUR)
        moment = until
    return expected


def progress(experiment: Experiment, as_of: datetime) -> tuple[float, float]:
    """Tells how much of the planned traffic the mature units came over, in [0, 1], and over how many hours.

    Units mature one window after their exposure, so both run one window behind the clock.
    """
    plan, started_at, closes_at = experiment.plan, experiment.started_at, experiment.enrolment_ends_at
    if plan.finished:
        return 1.0, plan.horizon / HOUR
    if started_at is None or closes_at is None:
        return 0.0, 0.0
    reached = min(max(as_of - plan.window, started_at), closes_at)
    return elapsed(experiment, reached), (reached - started_at) / HOUR


def elapsed(experiment: Experiment, moment: datetime) -> float:
    """Tells which part of the planned traffic has come by a moment, in [0, 1]; a hold adds nothing to the plan."""
    started_at, closes_at = experiment.started_at, planned_enrolment_end(experiment)
    if started_at is None or closes_at is None:
        return 0.0
    reached = min(max(moment, started_at), closes_at)
    if reached == closes_at:
        return 1.0
    if len(experiment.epochs) == 1:
        return (reached - started_at) / (closes_at - started_at)
    share = sum(epoch.weight * _part(reached, epoch.starts_at, epoch.ends_at) for epoch in experiment.epochs)
    return min(share, 1.0)


def planned_enrolment_end(experiment: Experiment) -> datetime | None:
    """Tells until when new visitors were planned to count; a hold may make it later."""
    plan, started_at = experiment.plan, experiment.started_at
    if started_at is None:
        return None
    return started_at + plan.horizon - (timedelta(0) if plan.finished else plan.window)


def extended(experiment: Experiment, until: datetime) -> Experiment:
    """Lets new visitors count until a later moment: one longer epoch, or more days with the shares of the last.

    Added days weigh what planned days of their length weigh on average.
    """
    *past, last = experiment.epochs
    if until <= last.ends_at:
        return experiment
    if not experiment.plan.adaptive:
        return replace(experiment, epochs=(*past, replace(last, ends_at=until)))
    site = zone(experiment.plan.zone)
    borders = [last.ends_at]
    while borders[-1] < until:
        borders.append(min(next_midnight(borders[-1], site), until))
    planned = planned_enrolment_end(experiment)
    span = (planned or last.ends_at) - experiment.epochs[0].starts_at
    added = (
        Epoch(number, start, end, last.shares, (end - start) / span)
        for number, (start, end) in enumerate(pairwise(borders), last.number + 1)
    )
    return replace(experiment, epochs=(*experiment.epochs, *added))


def _part(reached: datetime, start: datetime, end: datetime) -> float:
    return min(max((reached - start) / (end - start), 0.0), 1.0)
