"""What a report holds. Rates, shares and uplifts are fractions, times are UTC, ``None`` is "cannot be said"."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cro_core.domain import Status, Verdict, to_json
from cro_core.evidence import Comparison, Estimate, NetValue, Outcomes, Step, TotalsWithRate

if TYPE_CHECKING:  # they bring the statistics with them, which the service can do without
    from cro_core.learning.asset_ranking import Ranking
    from cro_core.segments.findings import Claim

ARM = (
    "variant", "name", "is_control", "units", "conversions", "rate", "rate_low", "rate_high", "score_mean", "value_sum",
)  # fmt: skip
"""What the JSON form says of a variant's counted visitors."""

SCHEMA = "cro-report/1"
"""Name and version of the JSON form; the number changes when a key is renamed, removed or changes meaning."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """A challenger against the control as a report shows it: the decision's comparison, told by one uplift."""

    comparison: Comparison
    name: str
    """Name of the challenger for people."""

    @property
    def variant(self) -> str:
        """The challenger's key."""
        return self.comparison.variant

    @property
    def uplift(self) -> Estimate:
        """Challenger's rate over the control's, minus 1, standardised over days; once the test has ended, the
        median-unbiased estimate, which early stopping does not flatter.
        """
        return self.comparison.uplift

    @property
    def chi_square(self) -> float | None:
        """The test statistic, which a decision compares with the critical value; where shares moved from day to
        day it is combined over the days and differs from a pooled table's.
        """
        z = self.comparison.z
        return self.comparison.chi_square if z is None else z * z

    @property
    def p_value(self) -> float | None:
        """Stagewise-adjusted: valid although the test was looked at often; ``None`` until it has ended."""
        return self.comparison.p_adjusted

    @property
    def reason(self) -> str:
        """Why something could not be computed; empty where all could."""
        return self.comparison.reason or ""

    def as_dict(self) -> dict[str, Any]:
        """What the JSON form says of it."""
        return {
            "variant": self.variant,
            "name": self.name,
            "relative": self.uplift.value,
            "relative_low": self.uplift.low,
            "relative_high": self.uplift.high,
            "absolute": self.comparison.absolute,
            "low": self.comparison.low,
            "high": self.comparison.high,
            "chi_square": self.chi_square,
            "p_value": self.p_value,
            "conditional_power": self.comparison.conditional_power,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an experiment is on its way to a decision."""

    counted: int
    planned: int | None
    """Sample the plan asks for, over all variants."""
    days: float | None
    horizon_days: float
    ends_at: datetime | None
    """When the last look is taken, whatever the sample."""
    due: bool
    why: str
    chi_square: float | None
    """Largest of the challengers'."""
    critical_chi_square: float | None
    """What it must reach at this look."""
    next_at: datetime | None = None
    """When it may be decided next; ``None`` where it may be at any hour."""

    @property
    def fraction(self) -> float | None:
        """Counted of planned, at most 1."""
        return min(1.0, self.counted / self.planned) if self.planned else None


@dataclass(frozen=True, slots=True)
class Worth:
    """What the winner adds, at the traffic the experiment had."""

    per_thousand: float
    """More conversions per 1,000 visitors."""
    per_thousand_low: float | None
    per_thousand_high: float | None
    per_week: float | None
    """More conversions a week."""
    per_week_low: float | None
    per_week_high: float | None


@dataclass(frozen=True, slots=True)
class Sheet:
    """One experiment as the report shows it."""

    id: str
    name: str
    status: Status
    kind: str
    event_type: str | None
    hypothesis: str
    started_at: datetime | None
    ended_at: datetime | None
    as_of: datetime | None
    decision_id: str
    verdict: Verdict | None
    """``None`` while there is nothing to judge."""
    summary: str
    reasons: tuple[str, ...]
    winner: str | None
    """Name of the variant to show."""
    winner_key: str | None
    unproven: bool
    taken_back: bool
    """Whether the decision was undone since."""
    confidence: float
    """Level of the interval of ``best``."""
    min_uplift: float
    """Uplift that is worth shipping."""
    mde: float
    """Uplift that was planned for."""
    futility_power: float | None
    """Chance to prove ``mde`` by the end below which the test stops; ``None`` where it does not stop for want of it."""
    arms: tuple[TotalsWithRate, ...]
    """Each variant's counted visitors."""
    contrasts: tuple[Contrast, ...]
    progress: Progress | None
    split: str
    """``ok``, ``alarm``, ``unknown_shares`` or ``no_data``: whether visitors were split as planned."""
    split_text: str
    waterfall: tuple[Step, ...]
    worth: Worth | None
    money: tuple[NetValue, ...]
    """What each challenger is worth; empty while the test runs, and where nobody said what a conversion is worth."""
    alarms: tuple[str, ...] = ()
    """Every alarm of that split so far with its state, and every slice that was cut out, as sentences."""
    crossing: str = ""
    """What is said of visitors who met more than one version; empty where they are hardly any."""

    @property
    def net(self) -> NetValue | None:
        """What the best challenger is worth."""
        best = self.best
        return next((row for row in self.money if best is not None and row.variant == best.variant), None)

    @property
    def costs_more(self) -> bool:
        """Whether the version to show costs more than it brings."""
        return any(row.loses and row.variant == self.winner_key for row in self.money)

    @property
    def best(self) -> Contrast | None:
        """The winning challenger's comparison, else the one with the largest uplift."""
        known = [c for c in self.contrasts if c.uplift.value is not None]
        won = [c for c in known if c.variant == self.winner_key]
        return max(won or known, key=lambda c: c.uplift.value or 0.0, default=None)

    @property
    def control(self) -> str:
        """Name of the variant that the others are compared with."""
        return next((arm.name for arm in self.arms if arm.is_control), "the control")

    @property
    def units(self) -> int:
        """Counted visitors over all variants."""
        return sum(arm.units for arm in self.arms)


@dataclass(frozen=True, slots=True)
class Change:
    """Something that was changed since the last report."""

    number: int
    at: datetime
    actor: str
    text: str
    why: str
    undo: str
    """Command that takes it back; empty where nothing is to be taken back."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something the autopilot could have done and did not."""

    subject: str
    text: str
    why: str


@dataclass(frozen=True, slots=True)
class Shown:
    """What the site shows in one place now."""

    slot: str
    experiment: str
    variant: str
    since: datetime
    unproven: bool


@dataclass(frozen=True, slots=True)
class Asset:
    """A picture or clip, over every experiment that showed it."""

    asset_id: str
    experiments: int
    units: int
    conversions: int
    rate: float | None
    uplift: float | None
    """Uplift over the control shown beside it, weighted by visitors; ``None`` for an asset that was only a control."""


@dataclass(frozen=True, slots=True)
class ModelTrack:
    """How well the prediction model does."""

    status: str
    """Outcome of the training: ``untrained``, ``not_enough_history``, ``no_better`` or ``trained``."""
    trained_at: datetime | None
    examples: int | None
    accuracy: float | None
    """Cross-validated share of right answers."""
    baseline: float | None
    """Share of right answers from always saying the commoner one."""
    text: str


@dataclass(frozen=True, slots=True)
class Pending:
    """A proposal that waits for a person."""

    id: str
    kind: str
    text: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Action:
    """A next step for the reader."""

    text: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Overview:
    """The home in numbers."""

    running: int
    drafts: int
    finished: int
    decided: int
    """Finished since the last report."""
    received: int
    """Events posted, ever."""
    counted: int
    """Visitors counted by the experiments below; one who is in two of them counts in each."""
    conversions: int

    @property
    def rate(self) -> float | None:
        """Conversions per counted visitor."""
        return self.conversions / self.counted if self.counted else None


@dataclass(frozen=True, slots=True)
class LeadOutcomes:
    """What became of the leads of one experiment later."""

    experiment_id: str
    name: str
    outcomes: Outcomes


@dataclass(frozen=True, slots=True)
class Differences:
    """Who converts, when and where, in one experiment: what the data prove."""

    experiment_id: str
    name: str
    said: str
    """How much was asked and how much survived."""
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """A week of the autopilot, complete: every form is made from this and nothing else."""

    site: str
    zone: str
    """IANA zone in which people read the times."""
    simulated: bool
    """Whether visitors and clock are made up."""
    period_start: datetime
    generated_at: datetime
    headline: str
    overview: Overview
    sheets: tuple[Sheet, ...]
    """Experiments that are running, ended since the last report, or were won; newest first."""
    changes: tuple[Change, ...]
    refusals: tuple[Refusal, ...]
    production: tuple[Shown, ...]
    assets: tuple[Asset, ...]
    model: ModelTrack
    pending: tuple[Pending, ...]
    actions: tuple[Action, ...]
    outcomes: tuple[LeadOutcomes, ...] = ()
    """Offline outcomes of experiments whose leads had any, newest first."""
    differences: tuple[Differences, ...] = ()
    """Segments of experiments that ended in the period."""
    ranking: Ranking | None = None
    """Ranking of pictures and clips, over all experiments that showed them."""

    @property
    def running(self) -> tuple[Sheet, ...]:
        """Experiments that are collecting visitors."""
        return tuple(s for s in self.sheets if s.status is Status.RUNNING)

    @property
    def decided(self) -> tuple[Sheet, ...]:
        """Experiments that ended in the period: winners first, then what cannot be trusted, then the rest."""
        rank = {Verdict.SHIP: 0, Verdict.INVALID: 1}
        ended = (s for s in self.sheets if s.ended_at and self.period_start < s.ended_at <= self.generated_at)
        return tuple(sorted(ended, key=lambda s: rank.get(s.verdict, 2) if s.verdict else 2))

    @property
    def winners(self) -> tuple[Sheet, ...]:
        """Experiments whose challenger won on evidence."""
        return tuple(s for s in self.sheets if s.verdict is Verdict.SHIP and s.ended_at and not s.taken_back)

    @property
    def unproven(self) -> tuple[Sheet, ...]:
        """Experiments whose variant was picked by policy, without proof."""
        shown = (s for s in self.sheets if s.status is not Status.COMPLETED)  # that waits for a person
        return tuple(s for s in shown if s.unproven and s.ended_at and not s.taken_back)


def as_json(report: Report) -> str:
    """The report as a JSON document; see ``docs/notebooks.md`` for its keys."""
    groups = {
        name: [s.id for s in getattr(report, name)] for name in ("running", "decided", "winners", "unproven")
    }
    data = to_json(report)
    for page, shown in zip(report.sheets, data["sheets"], strict=True):
        shown["arms"] = to_json([{key: getattr(arm, key) for key in ARM} for arm in page.arms])
        shown["contrasts"] = to_json([contrast.as_dict() for contrast in page.contrasts])
    document: Mapping[str, object] = {"schema": SCHEMA, **data, **groups}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
