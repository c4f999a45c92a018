"""The rules of one look: what was planned, what was counted, and what the boundaries say to it.

Everything here takes leading axes and is what the lab simulates; :mod:`cro_core.statistics.looks` puts it
together for one live experiment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cro_core.domain import Gate
from cro_core.errors import InvalidInput
from cro_core.statistics.arrays import Bools, Floats
from cro_core.statistics.checks import check_between, check_choice, check_weights
from cro_core.statistics.combination import Counts, Moments, Pair, combined_z, reached
from cro_core.statistics.sequential import Spending, State, boundaries, conditional_power, step

GATES: Mapping[str, float] = {"not_excluded": -1.0, "point": 0.0, "proven": 1.0}
"""Gate -> how many critical values above "the uplift is exactly the minimum" the data must be."""

HOURLY = 336
"""Looks of two weeks."""

BOUNDLESS = 1e9
"""An uplift larger than any."""

CONTROL = 0
"""Index of the control on the variant axis."""


@dataclass(frozen=True, slots=True)
class LookPlan:
    """What was fixed before the first visitor.

    Raises:
        InvalidInput: a value out of range, or weights that do not sum to 1.
    """

    weights: tuple[float, ...] = (1.0,)
    """Planned share of traffic of each epoch; one epoch means fixed shares."""
    added_epochs: int = 0
    """How many of the epochs, the last ones, a hold has added: the weights of the others sum to 1."""
    planned_units: int | None = None
    """Visitors over all variants at which the experiment ends; ``None``: only the horizon ends it."""
    alpha: float = 0.05
    """Two-sided false-positive rate of the whole experiment."""
    spending: Spending = field(default_factory=Spending)
    """How alpha is used up."""
    mde: float = 0.1
    """Relative uplift planned for; futility asks for it."""
    min_uplift: float = 0.1
    """Relative uplift worth shipping; the gate asks for it."""
    gate: Gate = "not_excluded"
    """Which end of the repeated interval must reach ``min_uplift``: upper, the estimate, or lower."""
    min_units: int = 100
    """Per variant, before anything is decided."""
    min_hours: float = 24.0
    """Hours of data before the first look."""
    ship_after_hours: float = 0.0
    """Hours of data before a challenger may win; until then the upper side of the boundary is open."""
    futility: bool = False
    """Whether to stop for no practical gain."""
    futility_power: float = 0.1
    """Conditional power at the MDE below which it does."""
    hold: bool = False
    """Whether a winner whose effect fades or turns with the day is held back, once, for one more week."""
    acting_bounds: bool = False
    """Whether estimates at stopping take the bounds as they could act: gate, first week, holds and vetoes included."""
    veto_ends: bool = True
    """Whether a challenger that would win under a veto ends the experiment at once; else it waits to the last look."""
    futility_from_day: int = 3
    """First day on which it may; it asks once a day."""

    def __post_init__(self) -> None:
        check_weights(self.weights[: len(self.weights) - self.added_epochs])
        check_between(self.alpha, "alpha", 0, 1)
        check_between(self.mde, "mde", 0, math.inf)
        check_between(self.min_uplift, "min_uplift", -1, math.inf)
        check_between(self.futility_power, "futility_power", 0, 1)
        check_between(self.min_units, "min_units", -1, math.inf)
        check_between(self.min_hours, "min_hours", -1e-12, math.inf)
        check_between(self.ship_after_hours, "ship_after_hours", -1e-12, math.inf)
        check_between(self.futility_from_day, "futility_from_day", -1, math.inf)
        check_choice(self.gate, "gate", GATES)
        if self.planned_units is not None:
            check_between(self.planned_units, "planned_units", 0, math.inf)


@dataclass(frozen=True, slots=True)
class Aggregates:
    """All that a decision sees; arrays ``(..., epochs, variants)``, the control first.

    Raises:
        InvalidInput: shapes that differ, fewer than two variants, negative numbers or NaN, or more
            conversions than units.
    """

    units: Floats
    """Counted visitors of each epoch and variant."""
    total: Floats
    """Conversions; or the sum of the visitors' values where ``squares`` is given."""
    squares: Floats | None = None
    """Sum of squared values of a mean metric; ``None``: conversions."""

    @classmethod
    def of(cls, units: ArrayLike, total: ArrayLike, squares: ArrayLike | None = None) -> Aggregates:
        """Checked aggregates of any array-likes."""
        aggregates = cls(_floats(units), _floats(total), None if squares is None else _floats(squares))
        aggregates.check()
        return aggregates

    def check(self) -> None:
        """Raises as the class says."""
        counts = self.squares is None
        columns = {"units": self.units, "total": self.total}
        columns |= {} if self.squares is None else {"squares": self.squares}
        if len({v.shape for v in columns.values()}) > 1 or self.units.ndim < 2 or self.variants < 2:
            shapes = ", ".join(f"{name} {values.shape}" for name, values in columns.items())
            raise InvalidInput(f"shapes are {shapes}: give all as (epochs, variants), at least 2 variants")
        for name, values in columns.items():
            least = 0.0 if counts or name != "total" else -np.inf
            if not (np.isfinite(values) & (values >= least)).all():
                raise InvalidInput(f"{name} has a negative number or NaN: give counts", field=name)
        if counts and (self.total > self.units).any():
            raise InvalidInput("more conversions than units: count each unit at most once", field="total")
        if self.squares is not None and (self.total**2 > self.units * self.squares * (1 + 1e-9)).any():
            raise InvalidInput("squares are too small for the sum: give sums of squares", field="squares")

    @property
    def variants(self) -> int:
        """How many, the control included."""
        return int(self.units.shape[-1])

    def pair(self, challenger: int) -> Pair:
        """One challenger (1, 2, ...) and the control."""
        n, total = self.units, self.total
        mine, control = (..., challenger), (..., CONTROL)
        if self.squares is None:
            return Counts(n[mine], total[mine], n[control], total[control])
        squares = self.squares
        return Moments(n[mine], total[mine], squares[mine], n[control], total[control], squares[control])

    def pairs(self) -> list[Pair]:
        """Every challenger with the control, in order."""
        return [self.pair(k) for k in range(1, self.variants)]


@dataclass(frozen=True, slots=True)
class Maturity:
    """The mature part of the units that decide: what a crossing is held against.

    Raises:
        InvalidInput: as :class:`Aggregates`, for the mature units.
    """

    data: Aggregates
    """Mature units and what they did; shape ``(1, variants)``."""
    elapsed: float
    """Planned share of traffic over which they came, in [0, 1]."""
    converters: Floats
    """Mature units that converted, shape ``(variants,)``."""
    hours: Floats
    """Sum of the converters' hours from exposure to conversion, same shape."""
    squares: Floats
    """Sum of the squares of those hours, same shape."""

    def __post_init__(self) -> None:
        self.data.check()
        check_between(self.elapsed, "elapsed", -1e-12, 1 + 1e-9)


@dataclass(frozen=True, slots=True)
class ByDay:
    """The units that decide, by calendar day of the site from the first on."""

    data: Aggregates
    """Units of each day and variant, shape ``(days, variants)``."""
    weekend: Bools
    """Whether each day is at a weekend, shape ``(days,)``."""
    begun: int
    """How many days, from the first on, have begun."""
    mature: int
    """How many of the days, from the first on, are over and have only mature units."""


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Every challenger's statistic at one look."""

    z: Floats
    """Z against the control, shape ``(..., challengers)``."""
    information: Floats
    """The clock of the looks' correlations: the statistic's variance with one epoch (summed over
    challengers), the sum of weights with several. Shape ``(...)``."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the boundaries say at one look; arrays ``(..., challengers)`` unless said otherwise."""

    winner: NDArray[np.intp]
    """Index of the challenger that won, -1 for none; shape ``(...)``."""
    active: Bools
    """Challengers still in after this look."""
    divisor: NDArray[np.intp]
    """Divisor of alpha with which each was last tested at this look; 0 where it was not."""
    blocked: Bools
    """Crossed upwards, but the gate held it back."""


def next_boundaries(
    plan: LookPlan, paths: Sequence[State], information: float, time: float
) -> tuple[tuple[State, ...], Floats]:
    """The boundary of one look at every level: one step of each recursion.

    Args:
        plan: alpha and its spending.
        paths: the recursion at ``alpha / 1``, ``alpha / 2``, ...
        information: at this look.
        time: spending time at this look, in [0, 1].

    Returns:
        The recursions after it, and the critical |Z| by level, shape ``(levels,)``.
    """
    spent = [float(plan.spending.spent(time, plan.alpha / 2 / m)) for m in range(1, len(paths) + 1)]
    taken = [step(path, information, to) for path, to in zip(paths, spent, strict=True)]
    return tuple(path for path, _ in taken), np.array([critical for _, critical in taken])


def compare(data: Aggregates, weights: Floats) -> Comparisons:
    """Every challenger's Z and the information behind it.

    Args:
        data: one experiment, or many on leading axes.
        weights: of :func:`cro_core.statistics.combination.reached`.
    """
    pairs = data.pairs()
    z = np.stack([combined_z(pair, weights) for pair in pairs], axis=-1)
    if data.units.shape[-2] == 1:
        return Comparisons(z, np.asarray(sum(pair.score().variance.sum(-1) for pair in pairs)))
    return Comparisons(z, np.broadcast_to(weights.sum(-1), z.shape[:-1]))


def gate_margin(plan: LookPlan, data: Aggregates, weights: Floats) -> Floats:
    """How far each challenger is above the minimum uplift, shape ``(..., challengers)``.

    In standard errors, to be held against ``GATES[plan.gate]`` critical values; for the gate ``point`` the
    estimate less the minimum.
    """
    pairs = data.pairs()
    if plan.gate == "point":
        margins = [np.nan_to_num(pair.estimate("relative") - plan.min_uplift, nan=-np.inf) for pair in pairs]
    else:
        margins = [combined_z(pair, weights, plan.min_uplift) for pair in pairs]
    return np.stack(margins, axis=-1)


def control_is_positive(data: Aggregates, weights: Floats, critical: float) -> Bools:
    """Whether a gain in per cent of the control can be told, shape ``(..., challengers)``; always of conversions.

    A mean must be above 0 by ``critical`` standard errors: then even a boundless uplift is rejected, and the
    interval of the uplift has two ends (Fieller 1954, *JRSS B* 16:175).

    Args:
        data: as in :func:`compare`.
        weights: as in :func:`compare`.
        critical: critical |Z| of this look.
    """
    if data.squares is None:
        return np.ones((*data.units.shape[:-2], data.variants - 1), bool)
    boundless = [combined_z(pair, weights, BOUNDLESS) for pair in data.pairs()]
    return np.asarray(np.stack(boundless, axis=-1) <= -critical)


def step_down(
    z: Floats, active: Bools, critical: Floats, margin: Floats | None = None, sign: float = 0.0
) -> Ruling:
    """Bonferroni-Holm at one look, any number of experiments at once.

    Args:
        z: shape ``(..., challengers)``.
        active: which are still in, same shape.
        critical: critical |Z| by level, shape ``(levels,)``: ``alpha``, ``alpha / 2``, ...
        margin: of :func:`gate_margin`; ``None``: every crossing wins.
        sign: how many critical values the margin must be at least, of ``GATES``.
    """
    bound = np.concatenate([[np.inf], critical])
    divisor = np.zeros(z.shape, np.intp)
    up = blocked = np.zeros(z.shape, bool)
    for _ in range(z.shape[-1]):
        count = active.sum(-1, keepdims=True)
        limit = bound[count]
        tested = active & ~up.any(-1, keepdims=True)
        divisor = np.where(tested, count, divisor)
        above = tested & (z >= limit)
        passes = above if margin is None else above & (margin >= sign * limit)
        up, blocked = up | passes, blocked | (above & ~passes)
        active = active & ~(tested & (z <= -limit) & ~up.any(-1, keepdims=True))
    best = np.where(up, z, -np.inf).argmax(-1)
    return Ruling(np.where(up.any(-1), best, -1), active, divisor, blocked & active)


@lru_cache(maxsize=64)
def last_critical(spending: Spending, alpha: float) -> float:
    """Critical |Z| of the last of two weeks' hourly looks; other numbers of looks differ in the second digit.

    Args:
        spending: how alpha is used up.
        alpha: two-sided, of this comparison.
    """
    return float(boundaries(np.arange(1, HOURLY + 1), alpha=alpha, spending=spending)[-1])


def chance_left(
    plan: LookPlan,
    data: Aggregates,
    weights: Floats,
    comparisons: Comparisons,
    critical: ArrayLike,
    final: ArrayLike,
) -> Floats:
    """Conditional power of each challenger if the MDE were true, shape ``(..., challengers)``.

    NaN where the MDE means nothing, because the control's mean is not above 0.

    The last look is the only one left in this reckoning. Stopping on it is non-binding: the boundaries do
    not count on it (Jennison and Turnbull 2000, chapter 10).

    Args:
        plan: the MDE.
        data: as in :func:`compare`.
        weights: as in :func:`compare`.
        comparisons: of :func:`compare` at this look.
        critical: of :func:`last_critical`; broadcasts with the result.
        final: information that is expected of the last look.
    """
    now = comparisons.information[..., None]
    z_mde = np.stack([combined_z(pair, weights, plan.mde) for pair in data.pairs()], axis=-1)
    drift = np.where(now > 0, (comparisons.z - z_mde) / np.sqrt(np.where(now > 0, now, 1)), 0)
    chance = conditional_power(comparisons.z * np.sqrt(now), now, final, critical, drift)
    told = np.stack([pair.has_interval("relative") for pair in data.pairs()], axis=-1)
    return np.where(told, chance, np.nan)


def spending_time(plan: LookPlan, units: ArrayLike, elapsed: ArrayLike) -> Floats:
    """Share of the experiment that is over: of planned traffic or of the planned sample, whichever is more."""
    sample = 0.0 if plan.planned_units is None else np.asarray(units, float) / plan.planned_units
    return np.minimum(1.0, np.maximum(elapsed, sample))


def used_weights(plan: LookPlan, elapsed: ArrayLike) -> Floats:
    """Weights of the epochs so far; with one epoch its statistic is taken whole."""
    return np.ones(1) if len(plan.weights) == 1 else reached(plan.weights, elapsed)


def _floats(values: ArrayLike) -> Floats:
    """Floats, whatever came.

    Raises:
        InvalidInput: something that is no number.
    """
    try:
        return np.asarray(values, float)
    except (TypeError, ValueError):
        raise InvalidInput(f"counts are {values!r}: give numbers", field="units") from None
