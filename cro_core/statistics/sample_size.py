"""How many visitors a question takes, and what a site's traffic can answer.

Sizes are for the two-sided chi-square test of two proportions: variance pooled under "no effect" and
unpooled under the effect planned for (Fleiss, Levin and Paik 2003, *Statistical Methods for Rates and
Proportions*, formula 4.14). Looking every hour, stopping where nothing can be gained any more and moving
shares cost more visitors: :func:`inflation`. Rates are fractions, uplifts are relative (0.1 is +10 %), time is in days.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from cro_core.errors import InvalidInput
from cro_core.statistics.checks import check_between
from cro_core.statistics.sequential import Spending, State, crossing, step

WEEKS = (2, 4, 8, 14)
"""Horizons shown in the table of choices."""


LOOKS = 336
"""Looks that plans are made for: one an hour over two weeks. Fewer or more change the sample by next to nothing."""

SWING = 1.05
"""Price of a conversion rate that swings over the week, in visitors."""

FUTILITY = 1.08
"""Price of stopping where the planned uplift can hardly be proven any more, in visitors."""

FLOORS: Mapping[float, tuple[float, float]] = {0.1: (1.28, 1.37), 0.2: (1.24, 1.33), 0.3: (1.18, 1.235)}
"""Floor -> inflation with two variants and moving shares, without and with futility; simulated for
Hwang-Shih-DeCani spending with gamma = -4 (errors of .02). Between and below by interpolation, in the logarithm of
the floor; at half the visitors shares are fixed."""

FIRST_FLOORS: Mapping[float, float] = {0.05: 3.6, 0.1: 2.4, 0.2: 1.6, 0.3: 1.3, 0.5: 1.1}
"""Floor -> inflation under the first rule of decision, whose shares moved without being tempered."""


@dataclass(frozen=True, slots=True)
class SizePlan:
    """What an experiment needs and what the site's traffic gives it."""

    units_per_variant: int
    """Visitors per variant for the planned power, the price of looks, futility and moving shares included."""
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


def inflation(
    *,
    variants: int = 2,
    adaptive: bool = False,
    floor: float = 0.1,
    alpha: float = 0.05,
    power: float = 0.8,
    spending: Spending | None = None,
    futility: bool = True,
    rule: int = 2,
) -> float:
    """How much larger than :func:`sample_size` an experiment with hourly looks is planned.

    The price of the looks is exact for the spending family (:func:`inflation_of_looks`); those of rates that swing
    and of futility were simulated (``cro lab measure power``), as was that of moving shares.

    Args:
        variants: their number, the control included; three or more are control-matched, which costs nothing more.
        adaptive: whether shares move.
        floor: least share of one of two variants, in (0, 0.5].
        alpha: two-sided, of one comparison with the control.
        power: probability of finding the effect.
        spending: how alpha is used up; ``None`` is Hwang-Shih-DeCani with gamma = -4.
        futility: whether it stops where the effect can hardly be proven any more.
        rule: 1 for the factors of experiments that were started under the first rule of decision, whatever
            ``alpha``, ``power``, ``spending`` and ``futility``.

    Raises:
        InvalidInput: fewer than 2 variants, or a floor, ``alpha`` or ``power`` out of range.
    """
    if variants < 2:
        raise InvalidInput(f"variants is {variants}: give at least 2", field="variants")
    moving = adaptive and variants == 2
    if moving:
        check_between(floor, "floor", 0, 0.5 + 1e-12)
    if rule == 1:
        return _first_inflation(floor) if moving else 1.10
    looks = inflation_of_looks(spending or Spending(), alpha=alpha, power=power)
    if not moving:
        return looks * SWING * (FUTILITY if futility else 1.0)
    default = inflation_of_looks(Spending(), alpha=alpha, power=power)
    return _moving_inflation(floor, default, futility=futility) * looks / default


_FURTHEST_DRIFT = 8.0
"""How far above the drift of one look that of many looks is sought."""


@lru_cache(maxsize=256)
def inflation_of_looks(spending: Spending, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """How many more visitors :data:`LOOKS` looks take than one look at the end with the same power.

    What :func:`cro_core.statistics.sequential.design` finds, ten times as fast: one pass at many drifts, and the drift
    of this power by interpolation of its normal quantile, which is almost straight.

    Args:
        spending: how alpha is used up.
        alpha: two-sided, in (0, 1).
        power: probability of finding the effect, above ``alpha`` and below 1.

    Raises:
        InvalidInput: an argument out of range.
    """
    check_between(alpha, "alpha", 0, 1)
    check_between(power, "power", alpha, 1)
    single = _z(alpha) + float(ndtri(power))
    drifts = single + _FURTHEST_DRIFT * np.linspace(0, 1, 81) ** 2
    times = np.arange(1, LOOKS + 1) / LOOKS
    found, state = np.zeros(len(drifts)), State()
    for time, spend_to in zip(times, spending.spent(times, alpha / 2), strict=True):
        after, critical = step(state, float(time), float(spend_to))
        found += crossing(state, float(time), critical * math.sqrt(time), drifts)
        state = after
    drift = np.interp(ndtri(power), ndtri(found), drifts)
    return float((drift / single) ** 2)


def _moving_inflation(floor: float, looks: float, *, futility: bool) -> float:
    """Reads the table of floors, which ends with fixed shares at that price of ``looks``."""
    known = {at: prices[futility] for at, prices in FLOORS.items()}
    known[0.5] = looks * SWING * (FUTILITY if futility else 1.0)
    places, prices = np.log(list(known)), np.array(list(known.values()))
    if floor >= min(known):
        return float(np.interp(math.log(floor), places, prices))
    steepness = (prices[1] - prices[0]) / (places[1] - places[0])
    return float(prices[0] + steepness * (math.log(floor) - places[0]))


def _first_inflation(floor: float) -> float:
    least = min(FIRST_FLOORS)
    places, prices = np.log(list(FIRST_FLOORS)), list(FIRST_FLOORS.values())
    return float(np.interp(math.log(max(floor, least)), places, prices)) * max(least / floor, 1.0)


def plan_size(
    base_rate: float,
    relative_uplift: float,
    *,
    variants: int = 2,
    adaptive: bool = False,
    floor: float = 0.1,
    alpha: float = 0.05,
    power: float = 0.8,
    spending: Spending | None = None,
    futility: bool = True,
    rule: int = 2,
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
        spending: how alpha is used up; ``None`` is Hwang-Shih-DeCani with gamma = -4.
        futility: whether it stops where the effect can hardly be proven any more.
        rule: 1 for an experiment that was started under the first rule of decision, and ends with its sample.
        traffic_per_day: visitors a day over all variants; ``None``: not known.
        horizon_days: days of enrolment.

    Raises:
        InvalidInput: an argument out of range.
    """
    alpha_each = alpha / (variants - 1) if variants > 1 else alpha
    factor = inflation(
        variants=variants,
        adaptive=adaptive,
        floor=floor,
        alpha=alpha_each,
        power=power,
        spending=spending,
        futility=futility,
        rule=rule,
    )
    each = round(factor * sample_size(base_rate, relative_uplift, alpha=alpha_each, power=power))
    if traffic_per_day is None:
        return SizePlan(each, each * variants, math.nan, math.nan, math.nan, False)
    check_between(traffic_per_day, "traffic_per_day", 0, math.inf)
    check_between(horizon_days, "horizon_days", 0, math.inf)
    reached = traffic_per_day * horizon_days / variants
    judged = min(reached, each) if rule == 1 else reached
    return SizePlan(
        units_per_variant=each,
        units=each * variants,
        days_needed=each * variants / traffic_per_day,
        attainable_uplift=attainable_uplift(base_rate, reached / factor, alpha=alpha_each, power=power),
        power=power_of(base_rate, relative_uplift, judged / factor, alpha=alpha_each),
        underpowered=reached < each * (1 - 1e-9),
    )


def choices(
    base_rate: float,
    relative_uplift: float,
    traffic_per_day: float,
    *,
    variants: int = 2,
    adaptive: bool = False,
    floor: float = 0.1,
    alpha: float = 0.05,
    power: float = 0.8,
    spending: Spending | None = None,
    futility: bool = True,
    rule: int = 2,
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
        spending: how alpha is used up, as in :func:`plan_size`.
        futility: whether it stops where the effect can hardly be proven any more.
        rule: of decision, under which the experiment as configured runs; the others run under the present one.
        horizon_days: days of enrolment as configured.
        wider_goals: name of a wider binary goal ("form, phone or WhatsApp") -> its rate.
        weeks: horizons to show.

    Raises:
        InvalidInput: an argument out of range.
    """

    def row(
        name: str, rate: float, days: float, number: int = 2, moving: bool = False, rule: int = 2
    ) -> Choice:
        plan = plan_size(
            rate,
            relative_uplift,
            variants=number,
            adaptive=moving,
            floor=floor,
            alpha=alpha,
            power=power,
            spending=spending,
            futility=futility,
            rule=rule,
            traffic_per_day=traffic_per_day,
            horizon_days=days,
        )
        return Choice(name, days, number, moving, rate, plan.attainable_uplift, plan.power, plan.days_needed)

    rows = [row("as configured", base_rate, horizon_days, variants, adaptive, rule)]
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
