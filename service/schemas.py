"""What goes over the wire, as pydantic models: queries, bodies and answers, each with an example.

Rates and shares are fractions. Times are ISO 8601 in UTC. ``null`` means "not known", never zero.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from cro_core.domain import KEY, Status, Variant, Verdict
from cro_core.workflows.create_experiment import NewExperiment

SWITCHES = {"1": True, "true": True, "0": False, "false": False}


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value not in SWITCHES:
        raise ValueError(f"give one of {', '.join(SWITCHES)}")
    return SWITCHES[value]


Switch = Annotated[bool, BeforeValidator(_switch), WithJsonSchema({"type": "string", "enum": list(SWITCHES)})]
"""A parameter that is on or off in a query string."""

Key = Annotated[str, Field(pattern=f"^{KEY.pattern}$")]
Limit = Annotated[int, Field(ge=1, le=200, description="How many at most.")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Object = dict[str, Any]


def _example(**example: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [example]})


class Query(BaseModel):
    """A query string: a name that is not known is refused, for a misspelt ``opted_out`` must not go unnoticed."""

    model_config = ConfigDict(extra="forbid")


class VisitorQuery(Query):
    """Whether the visitor may be measured."""

    model_config = ConfigDict(str_strip_whitespace=True)  # as events do, so that an id is one visitor in both

    opted_out: Switch = Field(False, description="`1`: the visitor must not be measured; nothing is stored.")


class AssignmentQuery(VisitorQuery):
    """Whose variants are asked for."""

    visitor: str = Field(
        min_length=1,
        max_length=200,
        description="The first-party id the website gave this visitor.",
        examples=["v-7f3a9c"],
    )


class LimitQuery(Query):
    """How much of a list is wanted."""

    limit: Limit = 20


class WaitQuery(Query):
    """Whether to wait for a job."""

    wait: Switch = Field(False, description="`1` waits for the run to end and answers 200 with its outcome.")


class Error(BaseModel):
    """What went wrong: a stable code for programs, a sentence for people, and the field at fault."""

    code: str = Field(description="Stable; programs may rely on it.")
    message: str = Field(description="What was got, what was wanted, what to do.")
    field: str | None = Field(description="The field, parameter or header at fault; null where none is.")


class ErrorAnswer(BaseModel):
    """The one shape of every error."""

    model_config = _example(
        error={"code": "invalid_input", "message": "visitor is missing", "field": "visitor"}
    )

    error: Error


class Rejected(BaseModel):
    """An item that is not an event."""

    index: int = Field(ge=0, description="Its place in what was posted, from 0.")
    error: str = Field(description="Why, in words.")


class EventsAnswer(BaseModel):
    """What became of the posted items. What was accepted is durable."""

    model_config = _example(accepted=2, duplicates=1, rejected=[{"index": 3, "error": "user_id is missing"}])

    accepted: int = Field(ge=0, description="New events, stored.")
    duplicates: int = Field(
        ge=0, description="Events whose id was stored before, or stands twice in this request."
    )
    rejected: list[Rejected]
    not_stored: int = Field(
        0, ge=0, description="Events of a visitor who opted out; left out where there are none."
    )


class Assignment(BaseModel):
    """One experiment's variant for this visitor."""

    test_id: str
    variant_id: str
    slot: str = Field(description="The page region it changes.")
    config: Object = Field(description="What the page applies.")
    asset_id: str | None
    reason: Literal["assigned", "exposed", "bot", "opted_out", "not_admitted", "enrolment_closed"] = Field(
        description="`exposed`: met it before and keeps it; the last four show the control and are not counted. "
        "`not_admitted`: the experiment gets more visitors than it needs and lets in others."
    )
    counted: bool = Field(description="False: post no exposure for it.")
    epoch: int | None = Field(description="Send it back with the exposure.")
    propensity: Fraction | None = Field(
        description="Planned share at this moment; send it back with the exposure."
    )
    expires_at: datetime | None = Field(
        description="Ask again after it; null where the variant is kept, or will not be counted whenever you ask."
    )


class Shown(BaseModel):
    """What everyone sees in a slot where no experiment runs."""

    slot: str
    test_id: str = Field(description="The experiment whose winner it is.")
    variant_id: str
    config: Object
    asset_id: str | None


class AssignmentsAnswer(BaseModel):
    """All that a page needs to show one visitor."""

    model_config = _example(
        as_of="2026-03-02T09:30:00Z",
        experiments=[
            {
                "test_id": "hero-cta",
                "variant_id": "call-now",
                "slot": "hero",
                "config": {"text": "Call now"},
                "asset_id": None,
                "reason": "assigned",
                "counted": True,
                "epoch": 0,
                "propensity": 0.5,
                "expires_at": "2026-03-03T00:00:00Z",
            }
        ],
        production=[
            {
                "slot": "gallery",
                "test_id": "gallery-order",
                "variant_id": "newest",
                "config": {"order": "newest"},
                "asset_id": None,
            }
        ],
    )

    as_of: datetime
    experiments: list[Assignment]
    production: list[Shown]


class Run(BaseModel):
    """One run of a job, each an executed notebook."""

    model_config = _example(
        id="orchestrate-0198c7",
        job="orchestrate",
        status="done",
        started_at="2026-03-02T10:00:00Z",
        finished_at="2026-03-02T10:00:06Z",
        notebook="reports/runs/orchestrate/20260302T100000Z-orchestrate-0198c7.ipynb",
        outcome={"evaluated": 3, "changes": ["hero-cta: ship"]},
    )

    id: str
    job: str
    status: str = Field(
        description="`running`, `done`, `failed` or `busy` (another run of the job was going on)."
    )
    started_at: datetime
    finished_at: datetime | None
    notebook: str | None = Field(description="The executed notebook, from the home's folder.")
    outcome: Object | None = Field(description="What the notebook's last cell recorded, or the error.")


class Production(BaseModel):
    """What a slot shows, since when and why."""

    slot: str
    since: datetime
    experiment_id: str
    variant: str
    config: Object
    asset_id: str | None
    unproven: bool = Field(description="True when policy or a person, not evidence, picked it.")
    decision_id: str | None


class OverviewAnswer(BaseModel):
    """The site in a few numbers."""

    model_config = _example(
        site="My site",
        as_of="2026-03-02T10:00:00Z",
        automation_enabled=True,
        experiments={"draft": 0, "running": 2, "completed": 0, "archived": 5},
        events={"accepted": 48211, "duplicate": 1320, "rejected": 17, "opted_out": 204},
        production=[],
        pending=1,
        last_run=None,
    )

    site: str
    as_of: datetime
    automation_enabled: bool
    experiments: dict[str, int] = Field(description="How many are in each state.")
    events: dict[str, int] = Field(
        description="Posted events by what became of them: `accepted`, `duplicate`, `rejected`, `opted_out`."
    )
    production: list[Production]
    pending: int = Field(ge=0, description="Recommendations that wait for a person.")
    last_run: Run | None


class VariantState(BaseModel):
    """A variant so far; not to be read as a result before the experiment is decided."""

    variant_id: str
    name: str
    is_control: bool
    share: Fraction | None = Field(description="Planned share now.")
    units: int = Field(ge=0, description="Visitors whose conversion window has passed.")
    conversions: int = Field(ge=0)
    rate: Fraction | None
    engagement_score: float | None = Field(description="Weighted goals per visitor.")


class ActiveTest(BaseModel):
    """A running experiment."""

    test_id: str
    as_of: datetime = Field(description="When it was counted: at most five minutes ago.")
    name: str
    slot: str
    hypothesis: str
    occasion: str | None = Field(description="What it is about: wedding, party, corporate ...")
    started_at: datetime
    ends_at: datetime = Field(description="When its last look is due.")
    planned_units: int | None
    exposed_units: int = Field(ge=0, description="Visitors who met it.")
    counted_units: int = Field(ge=0, description="Those of them whose conversion window has passed.")
    variants: list[VariantState]


class ActiveTestsAnswer(BaseModel):
    """Every running experiment."""

    model_config = _example(
        tests=[
            {
                "test_id": "hero-cta",
                "as_of": "2026-03-04T12:00:00Z",
                "name": "Call to action of the hero",
                "slot": "hero",
                "hypothesis": "A direct call brings more requests",
                "occasion": None,
                "started_at": "2026-03-01T00:00:00Z",
                "ends_at": "2026-03-16T00:00:00Z",
                "planned_units": 122828,
                "exposed_units": 2140,
                "counted_units": 1012,
                "variants": [
                    {
                        "variant_id": "control",
                        "name": "Request a quote",
                        "is_control": True,
                        "share": 0.5,
                        "units": 508,
                        "conversions": 15,
                        "rate": 0.0295,
                        "engagement_score": 6.4,
                    }
                ],
            }
        ]
    )

    tests: list[ActiveTest]


class Comparison(BaseModel):
    """A challenger against the control, as the decision rests on it: beyond these, what its method gives.

    Null where it cannot be computed, then ``reason`` says why.
    """

    model_config = ConfigDict(extra="allow")

    variant: str
    p_value: float | None = None
    absolute: float | None = Field(None, description="Difference of the rates.")
    low: float | None = Field(None, description="Of the interval of the difference.")
    high: float | None = None
    relative: float | None = Field(None, description="Uplift over the control.")
    relative_low: float | None = Field(None, description="Of the interval of the uplift.")
    relative_high: float | None = None
    reason: str | None = None


class Interval(BaseModel):
    """A number with its interval; null where it cannot be computed."""

    value: float | None
    low: float | None
    high: float | None


class NetValue(BaseModel):
    """What a challenger brings more than the control, per 1,000 visitors, in money."""

    variant: str
    name: str
    currency: str | None
    gain: Interval = Field(description="Value of the conversions that it brings more.")
    cost: float = Field(description="What showing it costs more.")
    net: Interval = Field(description="The gain less the cost, with the interval of the uplift.")


class Winner(BaseModel):
    """A proven winner."""

    test_id: str
    name: str
    slot: str
    winner: str
    decided_at: datetime
    decision: str = Field(description="Id of the decision.")
    comparison: Comparison | None
    money: NetValue | None = Field(description="Null where nobody said what a conversion is worth.")
    text: str = Field(description="The decision in one paragraph.")


class RecentWinnersAnswer(BaseModel):
    """Proven winners, newest first."""

    model_config = _example(winners=[])

    winners: list[Winner]


class DecisionBrief(BaseModel):
    """A verdict and its paragraph."""

    id: str
    test_id: str
    as_of: datetime
    verdict: Verdict
    winner: str | None
    unproven: bool
    money: list[NetValue] = Field(
        description="What each challenger is worth; empty where nobody said what a conversion is worth."
    )
    text: str


class Recommendation(BaseModel):
    """Something for a person to approve or reject."""

    id: str
    kind: str = Field(description="`ship` a winner or `start` an experiment.")
    subject: str = Field(description="The experiment or hypothesis it is about.")
    status: str
    created_at: datetime
    settled_at: datetime | None
    text: str
    payload: Object


class RecommendationsAnswer(BaseModel):
    """What waits for a person, oldest first."""

    model_config = _example(recommendations=[])

    recommendations: list[Recommendation]


class DecisionsAnswer(BaseModel):
    """The newest decisions, and what waits for a person."""

    model_config = _example(
        decisions=[
            {
                "id": "hero-cta:20260315T0000Z",
                "test_id": "hero-cta",
                "as_of": "2026-03-15T00:00:00Z",
                "verdict": "keep_control",
                "winner": "control",
                "unproven": False,
                "money": [],
                "text": "No variant of hero-cta was better than the control.",
            }
        ],
        pending=[],
    )

    decisions: list[DecisionBrief]
    pending: list[Recommendation]


class DecideBody(BaseModel):
    """A person's answer to a recommendation."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"recommendation": "ship:hero-cta", "action": "approve"}]},
    )

    recommendation: str = Field(min_length=1, max_length=300, description="Id of a pending recommendation.")
    action: Literal["approve", "reject"]


class DecideAnswer(BaseModel):
    """What was done."""

    model_config = _example(
        recommendation="ship:hero-cta", action="approve", done="hero: shows call-now of hero-cta"
    )

    recommendation: str
    action: Literal["approve", "reject"]
    done: str = Field(description="In words.")


class VariantIn(BaseModel):
    """A variant as a person or program describes it."""

    model_config = ConfigDict(extra="forbid")

    variant_id: Key
    name: str = Field(default="", max_length=200)
    config: Object = Field(default_factory=dict, description="What the website applies.")
    asset_id: str | None = Field(default=None, max_length=100)
    is_control: bool | None = Field(default=None, description="Default: the first variant is the control.")
    cost_per_exposure: float | None = Field(
        default=None,
        ge=0,
        le=1e9,
        strict=True,
        description="What it costs to show it to one visitor, in the money of `money.value_per_conversion`.",
    )


class ExperimentBody(BaseModel):
    """A new experiment; what is left out comes from the settings."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "test_id": "hero-cta",
                    "name": "Call to action of the hero",
                    "slot": "hero",
                    "hypothesis": "A direct call brings more requests",
                    "variants": [
                        {"variant_id": "control", "config": {"text": "Request a quote"}},
                        {"variant_id": "call-now", "config": {"text": "Call now"}},
                    ],
                }
            ]
        },
    )

    test_id: Key
    name: str = Field(default="", max_length=200)
    slot: Key | None = Field(default=None, description="Page region; default: the test_id itself.")
    hypothesis: str = Field(default="", max_length=2000)
    occasion: str | None = Field(default=None, max_length=60)
    variants: list[VariantIn] = Field(min_length=2, max_length=20)
    primary_goals: list[Key] | None = Field(
        default=None, min_length=1, max_length=50, description="Any of these makes a visitor converted."
    )
    # Outside these bounds the planned sample is no number of visitors that a site can have.
    base_rate: float | None = Field(
        default=None, ge=0.0001, le=0.9, description="Conversion rate expected of the control, a fraction."
    )
    minimum_detectable_uplift: float | None = Field(
        default=None, ge=0.001, le=10, description="Relative uplift the plan is to detect."
    )
    start: bool = Field(default=True, description="False leaves a draft that the next cycle may start.")

    def wanted(self) -> NewExperiment:
        """Describes the experiment in the words of the workflow that creates it."""
        marked = any(v.is_control is not None for v in self.variants)
        variants = (
            Variant(
                v.variant_id,
                v.name,
                v.config,
                v.asset_id,
                is_control=bool(v.is_control) if marked else place == 0,
            ).costing(v.cost_per_exposure)
            for place, v in enumerate(self.variants)
        )
        return NewExperiment(
            self.test_id,
            tuple(variants),
            self.name,
            self.slot,
            self.hypothesis,
            self.occasion,
            None if self.primary_goals is None else tuple(self.primary_goals),
            self.base_rate,
            self.minimum_detectable_uplift,
            self.start,
        )


class EndBody(BaseModel):
    """How to end an experiment by hand."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"reason": "the page was rebuilt"}]}
    )

    winner: Key | None = Field(default=None, description="Shown from now on, as an unproven pick.")
    reason: str = Field(default="", max_length=500, description="Kept in the audit trail.")


class SplitBody(BaseModel):
    """How an alarm of an experiment's split is settled."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "action": "explain",
                    "dimension": "total",
                    "name": "all",
                    "reason": "a load test, all of it filtered",
                },
                {"action": "cut", "dimension": "device", "name": "tablet", "reason": "the page breaks there"},
            ]
        },
    )

    action: Literal["explain", "cut"] = Field(
        description="`explain`: the alarm stands no longer, unless its evidence grows a hundredfold. `cut`: the slice "
        "counts in no variant, and the rest is judged anew."
    )
    dimension: str = Field(
        min_length=1,
        max_length=100,
        description="`total` (which can only be explained), `day`, `hour`, `device`, `country`, `city`, `page` or `asset`.",
    )
    name: str = Field(
        min_length=1, max_length=2000, description="The slice, such as `2026-03-02`; `all` for the total."
    )
    reason: str = Field(min_length=1, max_length=500, description="Kept in the audit trail.")


class AlarmAnswer(BaseModel):
    """An alarm of the split, or a slice that was cut out without one."""

    dimension: str
    name: str
    first_at: datetime = Field(description="The look that raised it.")
    e_value: float = Field(description="Evidence against the planned split at that look; 1 is none.")
    largest_e_value: float = Field(description="The largest of all looks so far.")
    vetoes: bool = Field(description="Whether nothing can win now because of it.")
    settled_at: datetime | None
    settled_by: str | None
    how: Literal["explained", "cut_out", "judged_anew"] | None = Field(
        description="Null while it stands; `judged_anew`: another slice was cut out, and the rest did not alarm."
    )
    reason: str | None


class SplitAnswer(BaseModel):
    """The alarms of an experiment's split, oldest first."""

    model_config = _example(
        test_id="hero-cta",
        alarms=[
            {
                "dimension": "total",
                "name": "all",
                "first_at": "2026-03-04T00:00:00Z",
                "e_value": 2303.2,
                "largest_e_value": 2303.2,
                "vetoes": False,
                "settled_at": "2026-03-05T08:12:00Z",
                "settled_by": "api",
                "how": "explained",
                "reason": "a load test, all of it filtered",
            }
        ],
        done=None,
    )

    test_id: str
    alarms: list[AlarmAnswer]
    done: str | None = Field(description="What was done, in words; null where it was only asked.")


class VariantAnswer(BaseModel):
    """A variant as it was stored."""

    variant_id: str
    name: str
    is_control: bool
    share: Fraction | None = Field(description="Planned share of the first day; null before the start.")
    config: Object
    asset_id: str | None
    cost_per_exposure: float | None = Field(description="What it costs to show it to one visitor.")


class ExperimentAnswer(BaseModel):
    """An experiment as it was stored."""

    model_config = _example(
        test_id="hero-cta",
        name="Call to action of the hero",
        status="running",
        slot="hero",
        hypothesis="A direct call brings more requests",
        occasion=None,
        created_at="2026-03-01T00:00:00Z",
        started_at="2026-03-01T00:00:00Z",
        ends_at="2026-03-16T00:00:00Z",
        ended_at=None,
        winner=None,
        planned_units=122828,
        admitted=1.0,
        reasoning="",
        primary_goals=["contact_form_submit"],
        variants=[
            {
                "variant_id": "control",
                "name": "control",
                "is_control": True,
                "share": 0.5,
                "config": {"text": "Request a quote"},
                "asset_id": None,
                "cost_per_exposure": None,
            }
        ],
        value_per_conversion=None,
        currency=None,
    )

    test_id: str
    name: str
    status: Status
    slot: str
    hypothesis: str
    occasion: str | None
    created_at: datetime | None
    started_at: datetime | None
    ends_at: datetime | None = Field(description="When its last look is due; null before the start.")
    ended_at: datetime | None
    winner: str | None
    planned_units: int | None
    admitted: Fraction = Field(
        description="Part of the visitors who take part: below 1 where one week brings more than the plan needs."
    )
    reasoning: str = Field(description="Why it is run, and what its plan costs or its traffic cannot show.")
    primary_goals: list[str]
    variants: list[VariantAnswer]
    value_per_conversion: float | None = Field(description="What one conversion is worth; null: nobody said.")
    currency: str | None


class HealthAnswer(BaseModel):
    """The process answers; whether it can do its work, ``/readyz`` says."""

    model_config = _example(status="ok", version="0.1.0", schema_version="0003", now="2026-03-02T10:00:00Z")

    status: Literal["ok"]
    version: str
    schema_version: str = Field(description="Of the store that this version works with.")
    now: datetime = Field(description="The home's clock.")


class ReadyAnswer(BaseModel):
    """Whether the service can do its work."""

    model_config = _example(status="ready", problems={})

    status: Literal["ready", "not_ready"]
    problems: dict[Literal["store", "schema", "disk", "queue"], str] = Field(
        description="What is wrong, by check; empty where nothing is."
    )


class PredictBody(BaseModel):
    """A variant that has not been tried, by what the model knows variants by; left out and null are "not known"."""

    model_config = ConfigDict(
        extra="forbid",
        str_strip_whitespace=True,
        json_schema_extra={
            "examples": [
                {"kind": "video", "aspect_ratio": 1.7778, "duration_s": 12.0, "occasion": "wedding"}
            ],
        },
    )

    kind: str | None = Field(
        default=None, max_length=60, description="`image`, `video`, `text` or a kind of the site's own."
    )
    aspect_ratio: float | None = Field(
        default=None, gt=0, le=1000, strict=True, description="Width over height."
    )
    duration_s: float | None = Field(
        default=None, gt=0, le=86_400, strict=True, description="Seconds a clip lasts."
    )
    occasion: str | None = Field(default=None, max_length=60, description="Wedding, party, corporate ...")
    text: str | None = Field(default=None, max_length=500, description="Words of a call to action.")
    words: float | None = Field(
        default=None, ge=0, le=1000, description="Their number, where they are not yet written."
    )


class PredictionAnswer(BaseModel):
    """What the model expects; without a model that beats guessing, everything but status and text may be null."""

    model_config = _example(
        status="trained",
        text="Expected to do better than what it is tested against. Where it is a clip, 21 of 26 variants did better "
        "than the rest of their test (19 tests, 88,412 visitors).",
        trained_at="2026-03-16T02:00:00Z",
        accuracy=0.78,
        baseline=0.5,
        better=True,
        probability=0.8077,
        low=0.6213,
        high=0.9149,
        rule="Where it is a clip, 21 of 26 variants did better than the rest of their test (19 tests, 88,412 visitors).",
        examples=26,
        experiments=19,
    )

    status: Literal["untrained", "not_enough_history", "no_better", "trained"] = Field(
        description="Only a `trained` model gives advice."
    )
    text: str = Field(description="The answer, or why there is none, in words.")
    trained_at: datetime | None
    accuracy: Fraction | None = Field(description="Share of right answers on tests the model had not seen.")
    baseline: Fraction | None = Field(description="The same for always giving the commoner answer.")
    better: bool | None = Field(description="Whether it should do better than what it is tested against.")
    probability: Fraction | None = Field(
        description="Share of the finished variants like it that did better than the rest of their test."
    )
    low: Fraction | None = Field(description="Lower end of the 95 % interval of that share.")
    high: Fraction | None
    rule: str | None = Field(description="The rule that fired, in words.")
    examples: int | None = Field(description="Finished variants behind the rule.")
    experiments: int | None = Field(description="Tests behind the rule.")
