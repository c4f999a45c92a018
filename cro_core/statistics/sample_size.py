"""How many visitors a question takes, and what a site's traffic can answer.

Sizes are for the two-sided chi-square test of two proportions: variance pooled under "no effect" and
unpooled under the effect planned for (Fleiss, Levin and Paik 2003, *Statistical Methods for Rates and
Proportions*, formula 4.14). Looking every hour costs a few per cent more visitors, moving shares a few
more: :func:`inflation`. Rates are fractions, uplifts are relative (0.1 is +10 %), time is in days.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from cro_core.errors import InvalidInput
from cro_core.statistics.checks import check_between

WEEKS = (2, 4, 8, 14)
"""Horizons shown in the table of choices."""


FLOORS: Mapping[float, float] = {0.05: 3.6, 0.1: 2.4, 0.2: 1.6, 0.3: 1.3, 0.5: 1.1}
"""Floor -> inflation with two variants and moving shares; simulated, between them by interpolation."""


@dataclass(frozen=True, slots=True)
class SizePlan:
    """What an experiment needs and what the site's traffic gives it."""

    units_per_variant: int
    """Visitors per variant for the planned power, the price of hourly looks and moving shares included."""
    units: int
    """Visitors that are needed over all variants."""
    days_needed: float
    """Days until then at the given traffic; NaN where the traffic is not known."""
    attainable_uplift: float
    """Relative uplift found with the planned power within the horizon; NaN where none can be, or where
    the traffic is not known."""
    power: float
    """Probability of finding the planned uplift within the horizon; NaN where the traffic is not known."""
    underpowered: bool
    """True when the horizon ends before the planned sample is reached."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to run an experiment at this traffic, and what it would detect."""

    name: str
    """What is done, in words."""
    days: float
    """Days until the horizon."""
    variants: int
    """Number of variants, the control included."""
    adaptive: bool
    """Whether shares move from day to day."""
    base_rate: float
    """Conversion rate of the control under this choice."""
    attainable_uplift: float
    """Relative uplift found with the planned power within the horizon; NaN: none can be."""
    power: float
    """Probability of finding the planned uplift within the horizon."""
    days_needed: float
    """Days until the planned uplift is found with the planned power."""


def sample_size(base_rate: float, relative_uplift: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Visitors per variant for one two-sided chi-square test at the end, equal shares.

    Args:
        base_rate: conversion rate of the control, in (0, 1).
        relative_uplift: effect to find; not 0, above -1, and small enough that the rate stays below 1.
        alpha: two-sided false-positive rate, in (0, 1).
        power: probability of finding the effect, above ``alpha`` and below 1.

    Raises:
        InvalidInput: an argument out of range.
    """
    base, other = _rates(base_rate, relative_uplift)
    check_between(alpha, "alpha", 0, 1)
    check_between(power, "power", alpha, 1)
    null_sd, effect_sd = _deviations(base, other)
    root = (_z(alpha) * null_sd + float(ndtri(power)) * effect_sd) / (other - base)
    return math.ceil(root * root)


def power_of(
    base_rate: float, relative_uplift: float, units_per_variant: float, *, alpha: float = 0.05
) -> float:
    """Probability that one chi-square test at the end finds the effect (the right direction only).

    Args:
        base_rate: conversion rate of the control, in (0, 1).
        relative_uplift: true effect; 0 gives ``alpha / 2``.
        units_per_variant: visitors per variant, above 0.
        alpha: two-sided false-positive rate, in (0, 1).

    Raises:
        InvalidInput: an argument out of range.
    """
    check_between(units_per_variant, "units_per_variant", 0, math.inf)
    check_between(alpha, "alpha", 0, 1)
    base, other = _rates(base_rate, relative_uplift, zero_allowed=True)
    null_sd, effect_sd = _deviations(base, other)
    return float(ndtr((abs(other - base) * math.sqrt(units_per_variant) - _z(alpha) * null_sd) / effect_sd))


def attainable_uplift(
    base_rate: float, units_per_variant: float, *, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest relative uplift found with ``power`` by one chi-square test at the end.

    Returns:
        The uplift, a fraction; NaN where even a rate of (almost) 1 would not be found.

    Raises:
        InvalidInput: an argument out of range.
    """
    check_between(base_rate, "base_rate", 0, 1)
    check_between(power, "power", alpha, 1)
    most = (1 - base_rate) / base_rate * (1 - 1e-9)

    def lacking(uplift: float) -> float:
        return power_of(base_rate, uplift, units_per_variant, alpha=alpha) - power

    return float(brentq(lacking, 0, most, xtol=1e-12)) if lacking(most) > 0 else math.nan


def sample_size_mean(sd: float, difference: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Visitors per variant to find a difference of two means (score, revenue), equal shares, normal theory.

    Args:
        sd: standard deviation of one visitor's value, above 0.
        difference: absolute effect to find, in the units of ``sd``; not 0.
        alpha: two-sided false-positive rate, in (0, 1).
        power: probability of finding it, above ``alpha`` and below 1.

    Raises:
        InvalidInput: an argument out of range.
    """
    check_between(sd, "sd", 0, math.inf)
    check_between(alpha, "alpha", 0, 1)
    check_between(power, "power", alpha, 1)
    if not math.isfinite(difference) or difference == 0:
        raise InvalidInput(
            f"difference is {difference!r}: give a finite number other than 0", field="difference"
        )
    return math.ceil(2 * ((_z(alpha) + float(ndtri(power))) * sd / difference) ** 2)


def power_of_mean(sd: float, difference: float, units_per_variant: float, *, alpha: float = 0.05) -> float:
    """Probability that one z test of two means finds ``difference`` (the right direction only).

    Raises:
        InvalidInput: an argument out of range.
    """
    check_between(sd, "sd", 0, math.inf)
    check_between(units_per_variant, "units_per_variant", 0, math.inf)
    check_between(alpha, "alpha", 0, 1)
    return float(ndtr(abs(difference) / sd * math.sqrt(units_per_variant / 2) - _z(alpha)))


def inflation(*, variants: int = 2, adaptive: bool = False, floor: float = 0.3) -> float:
    """How much larger than :func:`sample_size` an experiment with hourly looks is planned.

    1.10 covers Hwang-Shih-DeCani spending at 336 looks (1.05 by exact theory) and the swing of rates over
    the week. Moving shares cost more the lower the floor; the figures restore 80 % power in this project's
    simulations (``cro lab measure power``).

    Args:
        variants: their number, the control included; three or more are control-matched, which costs nothing more.
        adaptive: whether shares move.
        floor: least share of one of two variants, in (0, 0.5].

    Raises:
        InvalidInput: fewer than 2 variants, or a floor out of range.
    """
    if variants < 2:
        raise InvalidInput(f"variants is {variants}: give at least 2", field="variants")
    if not adaptive or variants > 2:
        return 1.10
    check_between(floor, "floor", 0, 0.5 + 1e-12)
    least = min(FLOORS)
    between = np.interp(math.log(max(floor, least)), np.log(list(FLOORS)), list(FLOORS.values()))
    return float(between) * max(least / floor, 1.0)


def plan_size(
    base_rate: float,
    relative_uplift: float,
    *,
    variants: int = 2,
    adaptive: bool = False,
    floor: float = 0.3,
    alpha: float = 0.05,
    power: float = 0.8,
    traffic_per_day: float | None = None,
    horizon_days: float = 14,
) -> SizePlan:
    """The sample an experiment is planned for, and whether this traffic reaches it in time.

    Args:
        base_rate: conversion rate of the control, in (0, 1).
        relative_uplift: effect to find.
        variants: their number, the control included; ``alpha`` is split over the challengers (Bonferroni).
        adaptive: whether shares move.
        floor: least share of one of two variants when they do.
        alpha: two-sided false-positive rate of the whole experiment.
        power: probability of finding the effect.
        traffic_per_day: visitors a day over all variants; ``None``: not known.
        horizon_days: days of enrolment.

    Raises:
        InvalidInput: an argument out of range.
    """
    factor = inflation(variants=variants, adaptive=adaptive, floor=floor)
    alpha_each = alpha / (variants - 1)
    each = round(factor * sample_size(base_rate, relative_uplift, alpha=alpha_each, power=power))
    if traffic_per_day is None:
        return SizePlan(each, each * variants, math.nan, math.nan, math.nan, False)
    check_between(traffic_per_day, "traffic_per_day", 0, math.inf)
    check_between(horizon_days, "horizon_days", 0, math.inf)
    reached = traffic_per_day * horizon_days / variants
    return SizePlan(
        units_per_variant=each,
        units=each * variants,
        days_needed=each * variants / traffic_per_day,
        attainable_uplift=attainable_uplift(base_rate, reached / factor, alpha=alpha_each, power=power),
        power=power_of(base_rate, relative_uplift, min(reached, each) / factor, alpha=alpha_each),
        underpowered=reached < each,
    )


def choices(
    base_rate: float,
    relative_uplift: float,
    traffic_per_day: float,
    *,
    variants: int = 2,
    adaptive: bool = False,
    floor: float = 0.3,
    alpha: float = 0.05,
    power: float = 0.8,
    horizon_days: float = 14,
    wider_goals: Mapping[str, float] | None = None,
    weeks: Sequence[int] = WEEKS,
) -> tuple[Choice, ...]:
    """What a site with little traffic can do, and what each choice would detect.

    The first row is the experiment as configured; then two variants with fixed shares over longer horizons;
    then the same for each wider goal. A bolder contrast is no row of its own: the attainable uplift *is* how
    bold the contrast has to be.

    Args:
        base_rate: conversion rate of the control on the configured goal.
        relative_uplift: effect the site would like to find.
        traffic_per_day: visitors a day over all variants.
        variants: their number as configured, the control included.
        adaptive: whether shares move as configured.
        floor: least share of one of two variants when they do.
        alpha: two-sided false-positive rate.
        power: probability of finding an effect.
        horizon_days: days of enrolment as configured.
        wider_goals: name of a wider binary goal ("form, phone or WhatsApp") -> its rate.
        weeks: horizons to show.

    Raises:
        InvalidInput: an argument out of range.
    """

    def row(name: str, rate: float, days: float, number: int = 2, moving: bool = False) -> Choice:
        plan = plan_size(
            rate,
            relative_uplift,
            variants=number,
            adaptive=moving,
            floor=floor,
            alpha=alpha,
            power=power,
            traffic_per_day=traffic_per_day,
            horizon_days=days,
        )
        return Choice(name, days, number, moving, rate, plan.attainable_uplift, plan.power, plan.days_needed)

    rows = [row("as configured", base_rate, horizon_days, variants, adaptive)]
    rows += [row(f"two variants, fixed shares, {w} weeks", base_rate, 7 * w) for w in weeks]
    for goal, rate in (wider_goals or {}).items():
        rows += [row(f"wider goal {goal}, {w} weeks", rate, 7 * w) for w in weeks]
    return tuple(rows)


def _z(alpha: float) -> float:
    return -float(ndtri(alpha / 2))


def _rates(base_rate: float, relative_uplift: float, *, zero_allowed: bool = False) -> tuple[float, float]:
    base = check_between(base_rate, "base_rate", 0, 1)
    other = base * (1 + relative_uplift)
    if not 0 < other < 1 or (relative_uplift == 0 and not zero_allowed):
        raise InvalidInput(
            f"relative_uplift is {relative_uplift!r}: give an effect other than 0 that takes the rate "
            f"{base:g} to one between 0 and 1 (at most {1 / base - 1:.4g})",
            field="relative_uplift",
        )
    return base, other


def _deviations(base: float, other: float) -> tuple[float, float]:
    """Standard deviations of a difference of two single outcomes: under no effect, and under this one."""
    middle = (base + other) / 2
    return math.sqrt(2 * middle * (1 - middle)), math.sqrt(base * (1 - base) + other * (1 - other))
