"""The outlook of a planned or running experiment: what it will be able to tell, and what else a site could do.

The sizes are those of :mod:`cro_core.statistics.sample_size`, the calendar is that of
:mod:`cro_core.planning.week_profile`. Days are days in which new visitors
count, in whole weeks; the last of them then have the conversion window before the last look.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from cro_core.errors import InvalidInput
from cro_core.planning.plans import pace, spending_warning
from cro_core.planning.week_profile import DAYS, FLAT, WeekProfile, days_until, visitors_within
from cro_core.statistics.sample_size import (
    WEEKS,
    Choice,
    SizePlan,
    attainable_uplift,
    choices,
    inflation,
    plan_size,
    power_of,
    sample_size,
)
from cro_core.statistics.sequential import Spending

ENOUGH, CANNOT_TELL, UNKNOWN = "enough", "cannot_tell", "unknown_traffic"
"""The verdicts on a plan: the sample is reached in time; it is not; nobody knows how many visitors come."""

CONTRASTS = (0.1, 0.2, 0.3, 0.5, 1.0)
"""Relative uplifts shown in the table of bolder contrasts."""

FEW_CONVERSIONS = 10
"""Fewest conversions per variant with which the planner's normal approximation is good."""

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class SourcedNumber:
    """A number and where it comes from."""

    value: float | None
    source: str
    """Key of the source: ``option``, ``home`` (measured in the store), ``settings``, ``experiment``, ``assumed`` or
    ``unknown``."""
    text: str
    """The source in words."""

    @property
    def number(self) -> float:
        """Returns the value where there has to be one.

        Raises:
            InvalidInput: there is none.
        """
        if self.value is None:
            raise InvalidInput(f"a plan needs a number here ({self.text}): give one")
        return self.value


@dataclass(frozen=True, slots=True)
class WiderGoal:
    """A binary goal that more visitors reach: any of several things they may do."""

    goals: tuple[str, ...]
    rate: SourcedNumber


@dataclass(frozen=True, slots=True)
class Question:
    """The question to the planner: what is planned, and what is known of the site."""

    base_rate: SourcedNumber
    traffic: SourcedNumber
    """Visitors a day over all variants; its value may be ``None``."""
    days: SourcedNumber
    """Days in which new visitors count: those of a running experiment, else the most there may be, in whole weeks."""
    uplift: SourcedNumber
    """Relative uplift to find."""
    variants: int = 2
    """How many variants there are, the control included."""
    adaptive: bool = False
    floor: float = 0.1
    spending: Spending = field(default_factory=Spending)
    """How alpha is used up over the looks."""
    futility: bool = True
    rule: int = 2
    """Generation of the decision rule; an experiment of the first ends with its sample."""
    running: bool = False
    """Whether the days are settled and the traffic is of those who take part; else both follow from the site's."""
    alpha: float = 0.05
    """Two-sided error rate that the experiment gets."""
    asked_alpha: float | None = None
    """Error rate that was asked for, where a stream of experiments grants another; ``None`` without a stream."""
    power: float = 0.8
    window_days: float = 1.0
    """Days that a visitor may take to convert."""
    min_units: int = 100
    """Fewest counted visitors per variant with which anything is decided."""
    profile: WeekProfile = FLAT
    wider: WiderGoal | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A way to run an experiment at this traffic: what it would detect and what it costs."""

    name: str
    days: float
    """Days in which new visitors count."""
    variants: int
    adaptive: bool
    base_rate: float
    visitors: float
    """Visitors expected over all variants within ``days``."""
    attainable_uplift: float | None
    """Relative uplift found with the planned power; ``None``: not even a rate of 1 would be found."""
    power: float
    """Probability of finding the uplift asked for."""
    days_needed: float
    """Days until the uplift asked for is found with the planned power."""
    tests_per_year: int
    """How many such experiments fit into a year one after another."""
    needs_approval: bool
    """Whether the choice runs longer than the settings allow."""
    settings: Mapping[str, Any]
    """Dotted key -> value: what to change in the settings to run it."""


@dataclass(frozen=True, slots=True)
class SampleForUplift:
    """What a change of some size takes to be found, with two variants and fixed shares."""

    uplift: float
    units_per_variant: int
    units: int
    days_needed: float


@dataclass(frozen=True, slots=True)
class Running:
    """How far an experiment is, and when it will be decided at the latest."""

    started_at: datetime
    enrolment_ends_at: datetime
    horizon_ends_at: datetime
    planned_units: int | None
    """Sample fixed at the start, over all variants; ``None``: only the horizon ends it."""
    enrolled: int
    """Visitors who met the experiment."""
    counted: int
    """Visitors whose time to convert has passed."""
    expected_units: float
    """Visitors by the end of enrolment at this traffic."""
    decided_at: datetime
    """Time of the last look: the horizon; under the first rule earlier, where the planned sample has converted."""
    days_left: float
    """Days until the last look, at least 0."""
    decided_by: str
    """What ends the experiment first: ``sample`` or ``horizon``."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """The planner's answer: what the plan needs, what the traffic gives, and the choices."""

    question: Question
    verdict: str
    """Whether the traffic suffices: :data:`ENOUGH`, :data:`CANNOT_TELL` or :data:`UNKNOWN`."""
    one_look_units_per_variant: int
    """Visitors per variant for a single look at the end."""
    inflation: float
    """Factor by which hourly looks, futility and moving shares need more visitors than a single look."""
    units_per_variant: int
    units: int
    days_needed: float | None
    """Days until the sample is reached; ``None`` where the traffic is not known."""
    enrolment_days: float
    """Days in which new visitors will count: as many whole weeks as the sample takes, at most those there are."""
    admitted: float
    """Part of the visitors who take part; less than 1 where one week brings more than the sample."""
    attainable_uplift: float | None
    """Relative uplift found with the planned power in the days there are; ``None`` where none can be, or the traffic is
    not known."""
    found: float | None
    """Probability of finding the uplift asked for in the days there are; ``None`` where the traffic is not known."""
    choices: tuple[Row, ...] = ()
    contrasts: tuple[SampleForUplift, ...] = ()
    experiment: str | None = None
    running: Running | None = None
    notes: tuple[str, ...] = ()
    """Sentences on what the numbers cannot say."""

    @property
    def within_reach(self) -> tuple[Row, ...]:
        """The choices that find the uplift asked for with the planned power."""
        return tuple(row for row in self.choices if row.days >= row.days_needed)


def outlook(question: Question, *, weeks_shown: Sequence[int] = WEEKS) -> Outlook:
    """Works out what the plan needs and will be able to tell, with the choices beside it.

    Args:
        question: what is asked.
        weeks_shown: lengths of the choices.

    Raises:
        InvalidInput: a number out of range.
    """
    rate, uplift, most_days = _given(question)
    traffic, days, admitted = question.traffic.value, most_days, 1.0
    if question.rule == 2 and not question.running:
        units = _sized(question, rate, uplift, most_days, None).units
        weeks, admitted = pace(units, traffic, max(math.floor(most_days / DAYS), 1))
        days = float(weeks * DAYS)
    sized = _sized(question, rate, uplift, days, None if traffic is None else traffic * admitted)
    answer = Outlook(
        question=question,
        verdict=UNKNOWN if traffic is None else CANNOT_TELL if sized.underpowered else ENOUGH,
        one_look_units_per_variant=sample_size(
            rate, uplift, alpha=_alpha_each(question), power=question.power
        ),
        inflation=_inflation(question),
        units_per_variant=sized.units_per_variant,
        units=sized.units,
        days_needed=_number(sized.days_needed),
        enrolment_days=days,
        admitted=admitted,
        attainable_uplift=_number(sized.attainable_uplift),
        found=_number(sized.power),
        contrasts=tuple(_contrasts(question, rate, traffic)) if traffic is not None else (),
        notes=tuple(_costs(question)),
    )
    if traffic is None:
        return answer
    return replace(
        answer,
        choices=tuple(_rows(answer, rate, uplift, traffic, weeks_shown)),
        notes=(*answer.notes, *_notes(question, rate, days, traffic * admitted)),
    )


def forecast(
    answer: Outlook,
    *,
    now: datetime,
    zone: ZoneInfo,
    started_at: datetime,
    enrolment_ends_at: datetime,
    planned_units: int | None,
    enrolled: int,
    counted: int,
) -> Outlook:
    """Works out how far a running experiment is, and what it can still tell.

    Args:
        answer: the outlook of its plan at its traffic.
        now: the moment.
        zone: the site's.
        started_at: of the experiment.
        enrolment_ends_at: after this nobody new counts; the last look is one window later.
        planned_units: the sample fixed at the start, over all variants.
        enrolled: visitors who met it so far.
        counted: those whose time to convert has passed.
    """
    question = answer.question
    window, traffic = question.window_days * DAY, question.traffic.value
    days_left = max((enrolment_ends_at - now) / DAY, 0.0)
    local = now.astimezone(zone)
    start: dict[str, Any] = {
        "profile": question.profile,
        "weekday": local.weekday(),
        "hour": local.hour + local.minute / 60,
    }
    to_come = visitors_within(days_left, traffic, **start) if traffic else 0.0
    horizon_ends_at, decided_by = enrolment_ends_at + window, "horizon"
    decided_at = max(horizon_ends_at, now)
    ends_early = planned_units is not None and question.rule == 1
    still_needed = planned_units - enrolled if planned_units is not None and ends_early else math.inf
    if still_needed <= 0:
        decided_at, decided_by = min(now + window, decided_at), "sample"
    elif still_needed <= to_come and traffic:
        decided_at, decided_by = (
            min(now + days_until(still_needed, traffic, **start) * DAY + window, decided_at),
            "sample",
        )
    expected = enrolled + to_come
    running = Running(
        started_at,
        enrolment_ends_at,
        horizon_ends_at,
        planned_units,
        enrolled,
        counted,
        expected,
        decided_at,
        (decided_at - now) / DAY,
        decided_by,
    )
    return _with_sample(replace(answer, running=running), expected)


def _with_sample(answer: Outlook, expected: float) -> Outlook:
    """Changes the outlook to what that many visitors over all variants can tell."""
    question = answer.question
    rate, uplift, _ = _given(question)
    alpha = _alpha_each(question)
    judged = min(expected, answer.units) if question.rule == 1 else expected
    reached = judged / question.variants / answer.inflation
    if reached <= 0:
        return replace(answer, verdict=UNKNOWN, attainable_uplift=None, found=None)
    return replace(
        answer,
        verdict=ENOUGH if expected >= answer.units else CANNOT_TELL,
        attainable_uplift=_number(attainable_uplift(rate, reached, alpha=alpha, power=question.power)),
        found=power_of(rate, uplift, reached, alpha=alpha),
    )


def _given(question: Question) -> tuple[float, float, float]:
    """Returns base rate, uplift and days."""
    return question.base_rate.number, question.uplift.number, question.days.number


def _alpha_each(question: Question) -> float:
    """Error rate of one comparison with the control."""
    return question.alpha / (question.variants - 1)


def _inflation(question: Question) -> float:
    return inflation(
        variants=question.variants,
        adaptive=question.adaptive,
        floor=question.floor,
        alpha=_alpha_each(question),
        power=question.power,
        spending=question.spending,
        futility=question.futility,
        rule=question.rule,
    )


def _sized(
    question: Question, rate: float, uplift: float, days: float, traffic: float | None, *, plain: bool = False
) -> SizePlan:
    """Sizes the plan of the question, or with ``plain`` one of two variants with fixed shares."""
    return plan_size(
        rate,
        uplift,
        variants=2 if plain else question.variants,
        adaptive=not plain and question.adaptive,
        floor=question.floor,
        alpha=question.alpha,
        power=question.power,
        spending=question.spending,
        futility=question.futility,
        rule=2 if plain else question.rule,
        traffic_per_day=traffic,
        horizon_days=days,
    )


def _contrasts(question: Question, rate: float, traffic: float) -> Iterator[SampleForUplift]:
    uplifts = {*CONTRASTS, _given(question)[1]}
    for uplift in sorted(size for size in uplifts if rate * (1 + size) < 1):
        sized = _sized(question, rate, uplift, 1, traffic, plain=True)
        yield SampleForUplift(uplift, sized.units_per_variant, sized.units, sized.days_needed)


def _rows(answer: Outlook, rate: float, uplift: float, traffic: float, weeks: Sequence[int]) -> Iterator[Row]:
    question = answer.question
    wider, wide_rate = question.wider, question.wider.rate.value if question.wider else None
    possible = wide_rate is not None and 0 < wide_rate * (1 + uplift) < 1
    configured, *options = choices(
        rate,
        uplift,
        traffic,
        variants=question.variants,
        adaptive=question.adaptive,
        floor=question.floor,
        alpha=question.alpha,
        power=question.power,
        spending=question.spending,
        futility=question.futility,
        rule=question.rule,
        horizon_days=answer.enrolment_days,
        wider_goals={"leads": wide_rate} if possible and wide_rate is not None else None,
        weeks=weeks,
    )
    as_planned = replace(
        configured,
        attainable_uplift=math.nan if answer.attainable_uplift is None else answer.attainable_uplift,
        power=answer.found or 0.0,
        days_needed=answer.days_needed or math.nan,
    )
    yield _row(question, as_planned, traffic * answer.admitted, {})
    for index, choice in enumerate(options):
        goals = wider.goals if wider and index >= len(weeks) else ()
        yield _row(question, choice, traffic, _settings(choice, goals))


def _costs(question: Question) -> Iterator[str]:
    """Says what the way to spend alpha costs, where that is much."""
    warning = spending_warning(question.spending, alpha=_alpha_each(question), power=question.power)
    if warning is not None and question.rule == 2:
        yield warning


def _notes(question: Question, rate: float, days: float, traffic: float) -> Iterator[str]:
    per_variant = days * traffic / question.variants
    if per_variant < question.min_units:
        yield (
            f"about {per_variant:.0f} visitors per variant come within the planned days, and nothing is decided below "
            f"{question.min_units}: the experiment would end without a look at its numbers"
        )
    elif per_variant * rate < FEW_CONVERSIONS:
        yield (
            f"about {per_variant * rate:.1f} conversions per variant come within the planned days: with so few, what can be "
            "shown is a rough figure"
        )
    if not question.profile.measured:
        yield "the week of this site is not known (each weekday has to be seen once): every day is taken to be alike"


def _settings(choice: Choice, goals: tuple[str, ...]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "smart_traffic_allocation.enabled": False,
        "automation.test_duration_max_days": math.ceil(choice.days),
    }
    return settings | ({"primary_goals": list(goals)} if goals else {})


def _row(question: Question, choice: Choice, traffic: float, settings: Mapping[str, Any]) -> Row:
    return Row(
        name=choice.name,
        days=choice.days,
        variants=choice.variants,
        adaptive=choice.adaptive,
        base_rate=choice.base_rate,
        visitors=traffic * choice.days,
        attainable_uplift=_number(choice.attainable_uplift),
        power=choice.power,
        days_needed=choice.days_needed,
        tests_per_year=math.floor(365 / (choice.days + question.window_days)),
        needs_approval=choice.days > _given(question)[2],
        settings=settings,
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
