"""The result of a segment analysis: rates of each segment, tests between them, and what may be claimed.

Rates are fractions, times UTC, durations seconds; ``None`` means not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cro_core.analytics.segment_definitions import FACETS
from cro_core.statistics.proportions import wilson
from cro_core.statistics.survival import Curve, Quantile

Question = Literal["matters", "stands_out", "effect", "together"]

DIMENSIONS = tuple(name for name in FACETS if name != "time of day")
"""Every dimension that visitors can be told apart by, beside the variant."""

PAIRS = (
    ("device", "time of day"),
    ("city", "time of day"),
    ("country", "time of day"),
    ("device", "weekday"),
    ("device", "city"),
    ("device", "country"),
)
"""Pairs of dimensions that are analysed together, where both were asked for."""


@dataclass(frozen=True, slots=True)
class ConversionRate:
    """The conversion rate of some visitors, with Wilson's interval."""

    units: int
    conversions: int
    rate: float | None
    """Conversions per visitor; ``None`` without visitors."""
    low: float | None
    """Lower end of Wilson's interval at 1 - alpha, for this rate alone."""
    high: float | None
    """Upper end of Wilson's interval at 1 - alpha, for this rate alone."""


@dataclass(frozen=True, slots=True)
class SegmentSlice:
    """The visitors who share a value of a dimension."""

    dimension: str
    value: str
    total: ConversionRate
    variants: Mapping[str, ConversionRate]
    """Variant key -> the rate of those visitors of the value who met it."""
    enough: bool
    """Whether the value has enough visitors to be compared by itself; else only together with the other small ones."""


@dataclass(frozen=True, slots=True)
class Test:
    """A test between segments, one of the family that is corrected together."""

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
    """The p-value before the correction; ``None`` where it cannot be computed."""
    reason: str | None = None
    """Why there is no p-value; ``None`` where there is."""
    p_adjusted: float | None = None
    """The p-value corrected for everything that was asked: a claim is made at alpha or below."""


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
    """Lower end of the effect's interval, which holds for all tests of the question at once; ``None``: no bound."""
    high: float | None
    """Upper end of the effect's interval, which holds for all tests of the question at once; ``None``: no bound."""


@dataclass(frozen=True, slots=True)
class GoalRate:
    """How often a goal is reached in a variant."""

    goal: str
    variant: str
    reached: ConversionRate
    """The share of visitors who reached the goal."""
    per_visitor: float | None
    """How often a visitor reaches the goal on average; a visitor may do it several times."""
    low: float | None
    """Lower end of the interval of ``per_visitor``."""
    high: float | None
    """Upper end of the interval of ``per_visitor``."""


@dataclass(frozen=True, slots=True)
class EngagementScore:
    """The engagement score of a variant, per visitor."""

    variant: str
    units: int
    mean: float | None
    low: float | None
    """Lower end of the mean's interval; ``None`` with fewer than 2 visitors."""
    high: float | None
    """Upper end of the mean's interval; ``None`` with fewer than 2 visitors."""


@dataclass(frozen=True, slots=True)
class TimeToConvert:
    """How long visitors of a variant take; those count too who may still convert, for as long as they were seen."""

    variant: str
    units: int
    converted: int
    curve: Curve
    """Share that has not converted yet, at no more than a few hundred times."""
    quartiles: tuple[Quantile, ...]
    """Quartiles of the time to conversion among those who convert within the window."""
    median: float | None
    """When half of all visitors have converted; ``None`` where fewer than half ever do."""
    reason: str | None = None
    """Why there are no times; ``None`` where there are."""


@dataclass(frozen=True, slots=True)
class SegmentAnalysis:
    """What an experiment's visitors did, segment by segment, and what may be claimed of the differences."""

    experiment_id: str
    as_of: datetime
    running: bool
    alpha: float
    """Allowed chance of any false claim in the whole analysis."""
    dimensions: tuple[str, ...]
    """What visitors were told apart by; everything among it is one family of tests."""
    variants: Mapping[str, ConversionRate]
    slices: tuple[SegmentSlice, ...]
    tests: tuple[Test, ...]
    claims: tuple[Claim, ...]
    """Differences that survived the correction, the surest first."""
    goals: tuple[GoalRate, ...]
    scores: tuple[EngagementScore, ...]
    times: tuple[TimeToConvert, ...]
    notes: tuple[str, ...]
    """Sentences that a reader must know beside the numbers."""
    said: str
    """The result in a sentence: how many comparisons were made and how many survived their correction."""


def rate_of(units: float, conversions: float, level: float) -> ConversionRate:
    """Computes a conversion rate with Wilson's interval at confidence ``level``."""
    interval = wilson(int(units), int(conversions), level)
    return ConversionRate(int(units), int(conversions), interval.estimate, interval.low, interval.high)
