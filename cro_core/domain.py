"""The words of the field, as plain immutable values.

Nothing here reads a file, a clock or a database. Times are aware UTC datetimes, rates and shares are
fractions, and ``None`` means "not known", never zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from cro_core.clock import iso
from cro_core.errors import InvalidInput

KEY = re.compile(r"[A-Za-z0-9._:-]{1,100}")
"""What experiment, variant and goal keys may look like (OpenFeature clients put them raw into URLs)."""

EXPOSURE = "exposure"
"""The event type that says a unit really met its variant: the denominator of every rate."""

OLDER_EXPOSURE = "impression"
"""What websites called an exposure before; still taken where events come in, and stored nowhere."""

RESERVED_GOALS = frozenset({EXPOSURE, OLDER_EXPOSURE})
"""Event types that cannot be goals, because they mean an exposure."""

Json = Mapping[str, Any]

Gate = Literal["not_excluded", "point", "proven"]
"""Which end of the uplift's interval must reach what is worth shipping: the upper, the estimate, or the lower."""

AtHorizon = Literal["keep_control", "pick_leader"]
"""What is shown after an undecided last look: the control, or the leader, unproven."""

Adjustment = Literal["holm", "benjamini_hochberg"]
"""How p-values of the secondary metrics are adjusted: for any false claim, or for their part of all claims."""

Covariate = Literal["engagement", "exposure_value", "none"]
"""What adjusts a mean: the engagement before the exposure, the number that came with it, or nothing."""

Rule = Literal[1, 2]
"""Generation of the decision rule: 1 looks every hour at mature units, 2 as ``docs/statistics.md`` says."""

Harm = Literal["less", "more"]
"""Whether less of a measure is bad (conversions) or more of it (errors, unsubscriptions)."""


def added(default: Any, absent: Any = None) -> Any:
    """A field that stored values of earlier versions have not got: JSON leaves it out where it is ``absent``."""
    return field(default=default, metadata={"absent": absent})


COST = "cost_per_exposure"
"""Feature of a variant that says what it costs to show it to one visitor."""


class Status(StrEnum):
    """Where an experiment is in its life."""

    DRAFT = "draft"
    RUNNING = "running"
    COMPLETED = "completed"
    ARCHIVED = "archived"


class Verdict(StrEnum):
    """What a decision says."""

    SHIP = "ship"
    KEEP_CONTROL = "keep_control"
    """The control is proven better, or a guardrail is broken."""
    NO_PRACTICAL_GAIN = "no_practical_gain"
    """Stopped early, nothing proven: the planned uplift could hardly be proven any more. The control stays."""
    GAIN_BELOW_MINIMUM = "gain_below_minimum"
    """Better than the control at the end, but by less than is worth shipping. The control stays."""
    CONTINUE = "continue"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the versions that an experiment compares.

    ``config`` is what the website applies (hero asset, CTA text ...); ``features`` describe the variant to
    the prediction model and never reach the website.
    """

    key: str
    name: str
    config: Json = field(default_factory=dict)
    asset_id: str | None = None
    is_control: bool = False
    features: Json = field(default_factory=dict)

    @property
    def cost_per_exposure(self) -> float | None:
        """What it costs to show it to one visitor, kept among the features; ``None`` where nobody said."""
        cost = self.features.get(COST)
        return None if cost is None else float(cost)

    def costing(self, cost: float | None) -> Variant:
        """The variant with what it costs to show it to one visitor.

        Raises:
            InvalidInput: not a number from 0.
        """
        if cost is None:
            return self
        if not (math.isfinite(cost) and cost >= 0):
            raise InvalidInput(
                f"cost_per_exposure of {self.key} is {cost}: give a number from 0", field="cost_per_exposure"
            )
        return replace(self, features={**self.features, COST: cost})


@dataclass(frozen=True, slots=True)
class Goal:
    """A thing a visitor may do.

    ``weight`` enters the engagement score; any *primary* goal makes the unit converted.
    """

    name: str
    weight: float = 1.0
    primary: bool = False


MEASURES = ("conversions", "engagement", "revenue")
"""What is measured of every unit: whether it converted (0 or 1), its engagement score, its amounts added up."""

GOAL_MEASURES = ("goal", "count", "value")
"""What is measured of every unit and a goal: whether it was reached (0 or 1), how often, its amounts added up."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number that every unit has; settings and stored plans write it as text."""

    kind: str
    """One of :data:`MEASURES` or :data:`GOAL_MEASURES`, or ``before`` for a covariate of a plan."""
    of: str | None = None
    """Name of the goal or of the covariate; ``None`` where the kind says it all."""

    def __str__(self) -> str:
        return self.kind if self.of is None else f"{self.kind}:{self.of}"

    @classmethod
    def parse(
        cls,
        text: str,
        kinds: Iterable[str] = (*MEASURES, *GOAL_MEASURES),
        *,
        what: str = "quantity",
        field: str | None = None,
    ) -> Quantity:
        """The quantity that a text names.

        Args:
            text: one of :data:`MEASURES`, or ``KIND:NAME`` with a kind of :data:`GOAL_MEASURES`.
            kinds: which of these it may be, in the order in which a complaint lists them.
            what: what a complaint calls the text.
            field: what a complaint says is wrong.

        Raises:
            InvalidInput: none of these kinds, or a name too few or too many.
        """
        kind, colon, name = text.partition(":")
        if kind in (kinds := tuple(kinds)) and bool(colon) == (kind in GOAL_MEASURES):
            return cls(kind, name if colon else None)
        written = ", ".join(f"{k}:NAME" if k in GOAL_MEASURES else k for k in kinds)
        raise InvalidInput(f"{what} is {text!r}: give {written}", field=field)


@dataclass(frozen=True, slots=True)
class Guardrail:
    """What a variant must not worsen by more than a margin, whatever it gains elsewhere."""

    measure: str
    """One of :data:`MEASURES`, or ``goal:NAME`` for the part of the units that reached a goal."""
    margin: float
    """Tolerated relative change, in [0, 1)."""
    harm: Harm = "less"
    """Whether ``less`` or ``more`` of it is bad."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A metric that divides two sums over the units of a variant, such as revenue per conversion.

    Each is a :class:`Quantity`, as text.
    """

    name: str
    numerator: str
    denominator: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What was fixed before the first visitor came; a running experiment never changes it."""

    goals: tuple[Goal, ...]
    alpha: float = 0.05
    """Two-sided false-positive rate of the whole experiment."""
    power: float = 0.8
    base_rate: float | None = None
    """Conversion rate expected of the control."""
    mde: float = 0.1
    """Relative uplift the plan can detect."""
    units: int | None = None
    """Planned sample over all variants; ``None`` where only the horizon ends the experiment."""
    horizon: timedelta = timedelta(days=14)
    window: timedelta = timedelta(hours=24)
    """How long after its first exposure a unit may convert."""
    min_units: int = 100
    """Per variant, before anything is decided."""
    min_uplift: float = 0.1
    """What is worth shipping, relative."""
    gate: Gate = "not_excluded"
    """How ``min_uplift`` is asked: ``not_excluded``, ``point`` or ``proven``."""
    at_horizon: AtHorizon = "keep_control"
    """What is shown after an undecided last look: the control, or (``pick_leader``) the leader, unproven."""
    spending: str = "hwang_shih_decani"
    """How alpha is used up over the looks: a family of :mod:`cro_core.statistics.sequential`."""
    spending_parameter: float | None = None
    """Parameter of the spending family; ``None`` is its default."""
    min_hours: float = 24.0
    """Hours of data before the first look."""
    futility: bool = True
    """Whether to stop early where the MDE can hardly be proven any more."""
    zone: str = "UTC"
    """The site's time zone: epochs end at its midnights."""
    adaptive: bool = False
    """Whether shares may move from day to day."""
    floor: float = 0.3
    """Least share of any variant under smart allocation."""
    shares_known: bool = True
    """False for imported data whose planned shares nobody recorded: no SRM check is possible."""
    goal_at_exposure: bool = True
    """Whether a goal at the very time of the exposure counts (tables with a single time)."""
    finished: bool = False
    """True for an imported file that is evaluated once, as a whole."""
    guardrails: tuple[Guardrail, ...] = ()
    """A variant that breaks one ends the experiment, and everybody gets the control."""
    ratios: tuple[Ratio, ...] = ()
    """Ratio metrics among the secondary metrics."""
    adjustment: Adjustment = "holm"
    """How p-values of the secondary metrics are adjusted: ``holm`` or ``benjamini_hochberg``."""
    covariate: Covariate = "engagement"
    """What adjusts a mean: ``engagement`` before the exposure, the ``exposure_value``, or ``none``."""
    companion: bool = False
    """Whether decisions carry always-valid evidence too; it never changes a verdict."""
    rule: Rule = added(2, absent=1)
    """Generation of the decision rule it was started under; a stored plan that does not say is of the first."""
    admitted: float = added(1.0, absent=1.0)
    """Part of the site's visitors that takes part; the others see the control and are not counted."""
    max_crossover: float = added(0.05, absent=0.05)
    """Part of the visitors who met more than one variant above which nothing wins by itself."""
    conversions: float | None = added(None)
    """Conversions expected over all variants; ``None``: ``base_rate`` of ``units``, as far as they are known."""
    value_per_conversion: float | None = added(None)
    """What one conversion is worth to the site; ``None`` where nobody said: nothing is told in money."""
    currency: str | None = added(None)
    """What amounts are in, such as ``EUR``."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """A period of frozen shares: one calendar day of the site, or the whole experiment."""

    number: int
    starts_at: datetime
    ends_at: datetime
    shares: Mapping[str, float]
    """Planned share by variant key; sums to 1."""
    weight: float
    """Planned fraction of the experiment's traffic, fixed before the start."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """A question put to the visitors of one page region."""

    id: str
    name: str
    variants: tuple[Variant, ...]
    plan: Plan
    status: Status = Status.DRAFT
    slot: str = "page"
    """The page region it changes; one running experiment per slot."""
    seed: str = ""
    """Enters the assignment hash; distinct seeds make experiments independent."""
    kind: str = "custom"
    hypothesis: str = ""
    reasoning: str = ""
    priority: float = 0.0
    occasion: str | None = None
    """Wedding, party, corporate ...: shown to people as "event type"."""
    source: str = "api"
    """Who made it: ``autopilot``, ``api``, ``import`` or ``generate``."""
    parent_id: str | None = None
    """The experiment whose winner this one challenges."""
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    winner: str | None = None
    epochs: tuple[Epoch, ...] = ()

    @property
    def control(self) -> Variant:
        """The variant the others are compared with."""
        return next(v for v in self.variants if v.is_control)

    @property
    def challengers(self) -> tuple[Variant, ...]:
        """Every variant but the control, in order."""
        return tuple(v for v in self.variants if not v.is_control)

    @property
    def ordered(self) -> tuple[Variant, ...]:
        """The control, then the challengers: the order of every array of counts."""
        return (self.control, *self.challengers)

    @property
    def horizon_ends_at(self) -> datetime | None:
        """When the last look is due, as far as is known now; ``None`` before the start."""
        planned = self.started_at + self.plan.horizon if self.started_at else None
        if planned is None or self.plan.rule == 1 or self.plan.finished or not self.epochs:
            return planned
        return self.epochs[-1].ends_at + self.plan.window  # a hold makes it later than was planned

    def judged_at(self, as_of: datetime) -> datetime:
        """The moment that its numbers are of: an ended experiment stays as it was at its end."""
        return as_of if self.ended_at is None else min(as_of, self.ended_at)

    @property
    def enrolment_ends_at(self) -> datetime | None:
        """After this nobody new is counted, so that the last look has only mature units."""
        end = self.horizon_ends_at
        return None if end is None else end - (timedelta(0) if self.plan.finished else self.plan.window)

    def variant(self, key: str) -> Variant | None:
        """The variant of that key, or ``None``."""
        return next((v for v in self.variants if v.key == key), None)

    def epoch_at(self, moment: datetime) -> Epoch | None:
        """The epoch that contains ``moment``, or ``None`` outside the schedule."""
        return next((e for e in self.epochs if e.starts_at <= moment < e.ends_at), None)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, cleaned and pseudonymous."""

    id: str
    type: str
    unit: str
    """Keyed hash of the visitor id; the id itself is never stored."""
    occurred_at: datetime
    received_at: datetime
    experiment_id: str | None = None
    """``None`` for a goal that counts for every experiment its unit was exposed to."""
    variant: str | None = None
    session: str | None = None
    device: str | None = None
    city: str | None = None
    country: str | None = None
    value: float | None = None
    asset_id: str | None = None
    occasion: str | None = None
    url: str | None = None
    properties: Json | None = None
    epoch: int | None = None
    propensity: float | None = None
    bot: bool = False
    """Posted by a known robot: kept, never counted."""
    internal: bool = False
    """Posted by the site's own people: kept, never counted."""

    @property
    def human(self) -> bool:
        """Whether it counts: neither a known robot posted it nor the site's own people."""
        return not self.bot and not self.internal


@dataclass(frozen=True, slots=True)
class Cell:
    """The counted units of one variant in one epoch: all that a decision ever sees."""

    epoch: int
    variant: str
    units: int
    conversions: int
    score_sum: float = 0.0
    score_sumsq: float = 0.0
    value_sum: float = 0.0
    value_sumsq: float = 0.0


@dataclass(frozen=True, slots=True)
class DayCell:
    """The units of one variant that first met the experiment on one day of the site, within one epoch."""

    day: str
    """Calendar day on the clocks of the site, such as ``2026-03-02``."""
    epoch: int
    variant: str
    units: int
    """Mature units: they add up to the cell of their epoch and variant."""
    conversions: int
    """Mature units that converted."""
    exposed: int
    """All units that met the experiment, mature or not."""
    converted: int
    """How many of all exposed units have converted so far."""
    delay_hours: float = 0.0
    """Hours from exposure to conversion, summed over the mature units that converted."""
    delay_squares: float = 0.0
    """Squares of those hours, summed."""


@dataclass(frozen=True, slots=True)
class GoalCell:
    """How many counted units of one variant in one epoch reached one goal, each unit once."""

    goal: str
    epoch: int
    variant: str
    units: int


@dataclass(frozen=True, slots=True)
class QuantityPair:
    """Two quantities whose sums, squares and product a metric needs."""

    metric: str
    """Key of the metric."""
    y: Quantity
    x: Quantity


@dataclass(frozen=True, slots=True)
class PairCell:
    """Two quantities y and x over the counted units of one variant in one epoch, added up."""

    metric: str
    """Key of the metric: ``ratio:NAME`` (y numerator, x denominator), or a measure (y) with its covariate (x)."""
    epoch: int
    variant: str
    units: int
    y_sum: float
    y_sumsq: float
    x_sum: float
    x_sumsq: float
    xy_sum: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What is counted beside the cells, for secondary metrics and guardrails."""

    goals: tuple[GoalCell, ...] = ()
    pairs: tuple[PairCell, ...] = ()


@dataclass(frozen=True, slots=True)
class Reason:
    """One step of the argument: a stable ``code`` for programs, ``text`` for people."""

    code: str
    text: str


def check_key(value: str, what: str) -> str:
    """Returns ``value`` if it may be a key.

    Raises:
        InvalidInput: empty, too long, or with a character that would not survive a URL.
    """
    if not KEY.fullmatch(value):
        raise InvalidInput(
            f"{what} {value[:120]!r} is not a key: use 1 to 100 of the characters A-Z a-z 0-9 . _ : -",
            field=what,
        )
    return value


def check_experiment(experiment: Experiment) -> Experiment:
    """Returns the experiment if it can run at all.

    Raises:
        InvalidInput: bad or repeated keys, fewer than two variants, not exactly one control, no primary goal,
            or a goal that stands twice or means an exposure.
    """
    check_key(experiment.id, "experiment_id")
    keys = [check_key(v.key, "variant") for v in experiment.variants]
    if len(keys) < 2:
        raise InvalidInput(
            f"experiment {experiment.id} has {len(keys)} variant(s): give at least 2", field="variants"
        )
    if len(set(keys)) < len(keys):
        raise InvalidInput(
            f"experiment {experiment.id} repeats a variant key in {keys}: make them distinct",
            field="variants",
        )
    controls = [v.key for v in experiment.variants if v.is_control]
    if len(controls) != 1:
        raise InvalidInput(
            f"experiment {experiment.id} has {len(controls)} controls: mark exactly 1 variant as the control",
            field="variants",
        )
    goals = [goal.name for goal in experiment.plan.goals]
    if len(set(goals)) < len(goals) or RESERVED_GOALS.intersection(goals):
        raise InvalidInput(
            f"experiment {experiment.id} has the goals {goals}: name each once, and none of "
            f"{', '.join(sorted(RESERVED_GOALS))}, which say that a visitor met a variant",
            field="goals",
        )
    if not any(goal.primary for goal in experiment.plan.goals):
        raise InvalidInput(f"experiment {experiment.id} has no primary goal: mark at least 1", field="goals")
    return experiment


def to_json(value: Any) -> Any:
    """Any value of this module as what ``json.dumps`` takes: times as ISO text, durations as hours, NaN as null."""
    if is_dataclass(value) and not isinstance(value, type):
        pairs = ((f, getattr(value, f.name)) for f in fields(value))
        return {
            f.name: to_json(v) for f, v in pairs if "absent" not in f.metadata or v != f.metadata["absent"]
        }
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, timedelta):
        return value.total_seconds() / 3600
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
