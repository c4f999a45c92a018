"""What an analysis of performance holds. Rates are fractions, times UTC, durations seconds; ``None``: not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cro_core.analytics.definitions import FACETS
from cro_core.statistics.proportions import wilson
from cro_core.statistics.survival import Curve, Quantile

Question = Literal["matters", "stands_out", "effect", "together"]

DIMENSIONS = tuple(name for name in FACETS if name != "time of day")
"""What performance is looked at by, beside the variant."""

PAIRS = (
    ("device", "time of day"),
    ("city", "time of day"),
    ("country", "time of day"),
    ("device", "city"),
    ("device", "country"),
)
"""What is looked at together, where both were asked for."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Conversions of some visitors."""

    units: int
    conversions: int
    rate: float | None
    """``None`` without visitors."""
    low: float | None
    """Lower end of Wilson's interval at 1 - alpha, for this rate alone."""
    high: float | None


@dataclass(frozen=True, slots=True)
class Slice:
    """The visitors who share a value of a dimension."""

    dimension: str
    value: str
    total: Rate
    variants: Mapping[str, Rate]
    """Variant key -> its visitors among them."""
    enough: bool
    """False: too few to tell; the value is compared only together with the other small ones."""


@dataclass(frozen=True, slots=True)
class Test:
    """One test of a family."""

    __test__ = False  # for pytest, which collects what is called so

    question: Question
    by: tuple[str, ...]
    values: tuple[str, ...]
    """The value in question; empty where the test is of all values."""
    variant: str | None
    """The challenger whose effect is in question; ``None`` where no effect is."""
    statistic: float | None
    """Chi-square; ``None`` for an exact test."""
    df: int | None
    p_value: float | None
    """Unadjusted; ``None`` where it cannot be computed."""
    reason: str | None = None
    """Why it cannot; ``None`` where it can."""
    p_adjusted: float | None = None
    """Over everything that was asked: a claim is made at alpha or below."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that the data say, after correction for everything that was asked."""

    question: Question
    by: tuple[str, ...]
    values: tuple[str, ...]
    variant: str | None
    text: str
    p_adjusted: float
    effect: float | None
    """Relative difference: of rates (``matters``: the highest to the lowest; ``stands_out``: to all others), or of
    odds (``effect``: of the variant's odds ratios, the highest to the lowest or one to all others; ``together``: to
    what the two dimensions make by themselves)."""
    low: float | None
    """Lower end of its interval, which holds for all tests of the question at once; ``None``: no bound."""
    high: float | None


@dataclass(frozen=True, slots=True)
class GoalRate:
    """How often a goal is reached in a variant."""

    goal: str
    variant: str
    reached: Rate
    """Visitors who reached it."""
    per_visitor: float | None
    """Times per visitor; a visitor may do it several times."""
    low: float | None
    """Lower end of its interval."""
    high: float | None


@dataclass(frozen=True, slots=True)
class Score:
    """The engagement score of a variant, per visitor."""

    variant: str
    units: int
    mean: float | None
    low: float | None
    """Lower end of its interval; ``None`` with fewer than 2 visitors."""
    high: float | None


@dataclass(frozen=True, slots=True)
class TimeToConvert:
    """How long visitors of a variant take; those count too who may still convert, for as long as they were seen."""

    variant: str
    units: int
    converted: int
    curve: Curve
    """Share that has not converted yet, at no more than a few hundred times."""
    quartiles: tuple[Quantile, ...]
    """Of those who convert within the window."""
    median: float | None
    """When half of all visitors have converted; ``None`` where fewer than half ever do."""
    reason: str | None = None
    """Why there are no times; ``None`` where there are."""


@dataclass(frozen=True, slots=True)
class Performance:
    """An experiment looked at from all sides."""

    experiment_id: str
    as_of: datetime
    running: bool
    alpha: float
    """Chance of any false claim that is allowed."""
    dimensions: tuple[str, ...]
    """Those asked for."""
    variants: Mapping[str, Rate]
    slices: tuple[Slice, ...]
    tests: tuple[Test, ...]
    claims: tuple[Claim, ...]
    """What survived, the surest first."""
    goals: tuple[GoalRate, ...]
    scores: tuple[Score, ...]
    times: tuple[TimeToConvert, ...]
    notes: tuple[str, ...]
    """What a reader must know beside the numbers."""
    said: str
    """How much was asked and how much survived, in a sentence."""


def rate_of(units: float, conversions: float, level: float) -> Rate:
    """A rate with its interval."""
    found = wilson(int(units), int(conversions), level)
    return Rate(int(units), int(conversions), found.estimate, found.low, found.high)
