"""From settings to a plan, and from a plan and a start to the schedule of epochs."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

from cro_core.assignment import equal_shares
from cro_core.clock import next_midnight, zone
from cro_core.config import Config
from cro_core.domain import Epoch, Experiment, Plan, Status, check_experiment


def new_plan(config: Config, base_rate: float | None = None, variants: int = 2) -> Plan:
    """The plan these settings ask for.

    Args:
        config: the effective settings.
        base_rate: the site's own conversion rate, a fraction; ``None`` takes the configured one.
        variants: how many arms, the control included.
    """
    from cro_core.statistics.planner import sample_size

    rate = base_rate or config.statistics.base_rate
    plan = Plan(
        goals=config.goals(),
        alpha=config.alpha,
        power=config.statistics.power,
        base_rate=rate,
        mde=config.mde,
        horizon=timedelta(days=config.automation.test_duration_max_days),
        window=config.window,
        min_units=config.automation.min_sample_size,
        min_uplift=config.automation.min_conversion_difference,
        gate=config.statistics.min_uplift_gate,
        at_horizon=config.statistics.at_horizon,
        zone=config.site.time_zone,
        adaptive=config.smart_traffic_allocation.enabled,
        floor=config.floor(variants),
    )
    return replace(
        plan,
        units=variants * sample_size(rate, plan.mde, alpha=plan.alpha / (variants - 1), power=plan.power),
    )


def begin(experiment: Experiment, now: datetime) -> Experiment:
    """The experiment as it runs from ``now`` on: with a seed and its whole schedule of epochs.

    Raises:
        InvalidInput: the experiment cannot run (keys, control, goals).
    """
    check_experiment(experiment)
    seeded = replace(experiment, status=Status.RUNNING, started_at=now, seed=experiment.seed or experiment.id)
    return replace(seeded, epochs=schedule(seeded))


def schedule(experiment: Experiment) -> tuple[Epoch, ...]:
    """Equal shares throughout, as one epoch, or one a calendar day where shares may move.

    The boundaries and weights are fixed here, before the first visitor; the cycle may only give epochs that
    have not begun other shares. Planned traffic is flat, so an epoch weighs its length: the first and the
    last day are partial, and a day of a clock change has 23 or 25 hours.
    """
    starts_at, ends_at = experiment.started_at, experiment.enrolment_ends_at
    if starts_at is None or ends_at is None:
        return ()
    borders = [starts_at]
    while (
        experiment.plan.adaptive
        and (midnight := next_midnight(borders[-1], zone(experiment.plan.zone))) < ends_at
    ):
        borders.append(midnight)
    borders.append(ends_at)
    keys = [v.key for v in experiment.variants]
    shares = dict(zip(keys, equal_shares(len(keys)), strict=True))
    whole = ends_at - starts_at
    return tuple(
        Epoch(number, start, end, shares, (end - start) / whole)
        for number, (start, end) in enumerate(pairwise(borders))
    )
