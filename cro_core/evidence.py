"""A decision and everything it rests on, as plain immutable values.

They are words, not results of a package: storage reads them back, pages show them without a statistics library, and
whoever computes them (:mod:`cro_core.decision`, :mod:`cro_core.statistics`) takes them from here. Rates, shares and
uplifts are fractions, times are UTC, and ``None`` means "cannot be computed" or "was not asked".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from cro_core.domain import Cell, DayCell, Epoch, Json, Measured, Plan, Reason, Verdict, added

GuardrailStatus = Literal["ok", "broken", "no_data"]
SplitStatus = Literal["ok", "alarm", "unknown_shares", "no_data"]


@dataclass(frozen=True, slots=True)
class Step:
    """How many posted events ended up in one place."""

    step: str
    """``received``, then the keys of ``analytics.definitions.STEPS``."""
    count: int
    text: str
    """The step in words."""


@dataclass(frozen=True, slots=True)
class Totals:
    """One variant over all epochs."""

    variant: str
    name: str
    is_control: bool
    units: int
    conversions: int
    score_sum: float
    score_sumsq: float
    value_sum: float
    value_sumsq: float


RATE_CONFIDENCE = 0.95
"""Confidence level of the interval of one variant's rate, however many variants there are."""


@dataclass(frozen=True, slots=True)
class TotalsWithRate(Totals):
    """One variant over all epochs, with its conversion rate."""

    rate: float | None = None
    """Conversions per counted unit, in [0, 1]; ``None`` without units."""
    rate_low: float | None = None
    """Lower end of Wilson's 95 % interval of ``rate``."""
    rate_high: float | None = None
    """Upper end of Wilson's 95 % interval of ``rate``."""
    score_mean: float | None = None
    """Engagement score per counted unit; ``None`` without units."""


@dataclass(frozen=True, slots=True)
class Look:
    """How far the experiment is, and how extreme the statistic must be at this moment."""

    due: bool
    """Whether this is the last look."""
    status: str
    """``look`` where one was taken, else why not: ``too_early``, ``no_information``, ``nothing_new``."""
    why: str
    """What makes this look due, or how far the sample is, in words."""
    number: int
    """Looks taken so far, this one included."""
    counted_units: int
    planned_units: int | None
    """Sample the plan asks for, over all variants; ``None`` where only the horizon ends the experiment."""
    days: float
    """Days since the start."""
    horizon_ends_at: datetime | None
    """When the last look is due, whatever the sample."""
    spending_time: float
    """Share of the experiment that is over, in [0, 1]."""
    alpha_spent: float
    """Two-sided alpha allowed for so far."""
    critical_z: float | None = None
    """What |z| must reach at this hour; ``None`` where no look was taken."""
    critical_chi_square: float | None = None
    """What the chi-square must reach at this hour, ``critical_z`` squared; ``None`` where no look was taken."""
    exposed_units: int | None = added(None)
    """Visitors on whom this look decides, mature or not; ``None`` where those are the counted ones."""
    futility_power: float | None = added(None)
    """Conditional power below which an experiment stops; ``None`` where the plan does not stop for want of it."""
    next_at: datetime | None = added(None)
    """When the next look is due, where it is not every hour."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A winner that was held back because its effect fades or turns with the day."""

    challenger: int
    """Index of the winner among the variants, the control being 0."""
    hours: float
    """Hours of data at the look that held it back."""
    days: int
    """Calendar days of the site that had begun by then; the seven after them decide."""

    @property
    def ends_with(self) -> int:
        """How many days must be over, and mature, before it is decided."""
        return self.days + 7


Bound = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class ExactLooks:
    """The looks of the exact test at one challenger so far."""

    share: float
    """The challenger's planned share of the pair."""
    conversions: tuple[int, ...]
    """Conversions of the pair at each look."""
    low: tuple[int, ...]
    """Conversions of the challenger at or below which each look was crossed."""
    high: tuple[int, ...]
    """Conversions of the challenger at or above which each look was crossed."""


@dataclass(frozen=True, slots=True)
class LooksTaken:
    """The looks so far: all that the next one needs to go on from there, once each is taken again."""

    hours: tuple[float, ...]
    """Hours of data at each look, increasing."""
    information: tuple[float, ...]
    """The clock of the looks' correlations at each look."""
    critical: tuple[tuple[float, ...], ...]
    """Critical |z| at each look, for alpha divided by 1, 2, ... up to the number of challengers."""
    dropped: tuple[float | None, ...]
    """Hours of data at which each challenger was beaten by the control; ``None`` while it is in."""
    lower: tuple[Bound, ...] = added((), absent=())
    """The z at or below which each look could drop a challenger, by challenger; ``None`` where nothing could."""
    upper: tuple[Bound, ...] = added((), absent=())
    """The z from which on each look could ship a challenger, by challenger; ``None`` where nothing could."""
    mature: LooksTaken | None = added(None)
    """The looks at the mature units alone, where they are kept beside those at all exposed units."""
    late: float | None = added(None)
    """Hours of data at which conversions were found to be unequally late; from then on mature units decide."""
    hold: Hold | None = added(None)
    """The winner that is held back; ``None`` where none is."""
    clock: float | None = added(None)
    """Hours since the start at which the last look was taken."""
    exact: tuple[ExactLooks, ...] = added((), absent=())
    """Looks of the exact test, by challenger; empty where it does not decide."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval; ``None`` where the data tell nothing or set no bound."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One challenger against the control. Fractions; ``None`` where it cannot be computed."""

    variant: str
    """Key of the challenger."""
    name: str
    """Name of the challenger for people."""
    active: bool
    """Whether it is still in; False once the control has beaten it."""
    crossed: str | None = None
    """``up`` or ``down`` where this look crossed a boundary."""
    z: float | None = None
    """The statistic, days combined; positive favours the challenger."""
    critical_z: float | None = None
    """What |z| must reach for this challenger at this look; ``None`` where no look was taken or it is out."""
    p_adjusted: float | None = None
    """Stagewise p-value, valid although it was looked at often; ``None`` until the experiment has ended."""
    relative: float | None = None
    """Uplift at this look, standardised over days."""
    relative_low: float | None = None
    """Lower end of the interval of ``relative`` that holds at every look."""
    relative_high: float | None = None
    """Upper end of the interval of ``relative`` that holds at every look."""
    difference: float | None = None
    """Difference of rates at this look, standardised over days."""
    difference_low: float | None = None
    """Lower end of the interval of ``difference`` that holds at every look."""
    difference_high: float | None = None
    """Upper end of the interval of ``difference`` that holds at every look."""
    stopped: float | None = None
    """Median-unbiased uplift, which early stopping does not flatter; ``None`` until the experiment has ended."""
    stopped_low: float | None = None
    """Lower end of the stagewise interval of ``stopped``."""
    stopped_high: float | None = None
    """Upper end of the stagewise interval of ``stopped``."""
    chi_square: float | None = None
    """Pearson's, pooled, without Yates; for information, as all below."""
    p_value: float | None = None
    """P-value of ``chi_square``: valid for one look only."""
    p_value_yates: float | None = None
    """P-value of the pooled table with Yates' correction."""
    absolute: float | None = None
    """Pooled difference of rates."""
    low: float | None = None
    """Lower end of the Wald interval of ``absolute`` at the plan's level."""
    high: float | None = None
    """Upper end of the Wald interval of ``absolute`` at the plan's level."""
    conditional_power: float | None = added(None)
    """Chance to win by the end if the planned uplift were true; ``None`` where this look did not ask."""
    fade: float | None = added(None)
    """The z of an effect that was larger at first: below -1.96 it fades; ``None`` where days are not told apart."""
    weekend: float | None = added(None)
    """The z of the effect at weekends less that of weekdays; ``None`` where days are not told apart."""
    reason: str | None = None
    """Why a number is missing."""

    @property
    def uplift(self) -> Estimate:
        """The uplift to tell people: the one that knows about the looks where there is one, else this look's."""
        if self.stopped is None:
            return Estimate(self.relative, self.relative_low, self.relative_high)
        return Estimate(self.stopped, self.stopped_low, self.stopped_high)


@dataclass(frozen=True, slots=True)
class NetValue:
    """What one challenger brings more than the control, per 1,000 visitors, in the money of the site."""

    variant: str
    """Key of the challenger."""
    name: str
    """Name of the challenger for people."""
    currency: str | None
    """What amounts are in, such as ``EUR``; ``None`` where nobody said."""
    gain: Estimate
    """Value of the conversions that it brings more: uplift x the control's rate x the value of one."""
    cost: float
    """What showing it costs more; below 0 where it costs less."""
    net: Estimate
    """The gain less the cost, with the interval of the uplift."""

    @property
    def loses(self) -> bool:
        """Whether it costs more than it brings, as far as the estimate tells."""
        return self.net.value is not None and self.net.value < 0

    def amount(self, value: float | None) -> str:
        """Writes an amount with its sign: ``+12.30 EUR``."""
        if value is None:
            return "not known"
        return f"{value:+,.2f} {self.currency or ''}".rstrip()


@dataclass(frozen=True, slots=True)
class AlwaysValid:
    """What may be said of one challenger whenever one looks, inside the schedule or not; it decides nothing."""

    variant: str
    """Key of the challenger."""
    name: str
    """Name of the challenger for people."""
    e_value: float | None
    """Evidence that both convert differently; ``None`` where there is none."""
    log_e: float | None
    """Natural logarithm of the e-value, without its cap."""
    p_value: float | None
    """The always-valid p-value: ``min(1, 1 / e)``."""
    needed: float
    """The e-value that shows a difference at the plan's error rate over all challengers."""
    shown: bool
    """Whether ``needed`` is reached."""
    leader: str | None
    """Whose rate is ahead, ``control`` or ``variant``."""
    says: str
    """The finding in words."""
    reason: str | None
    """Why a number is missing."""


@dataclass(frozen=True, slots=True)
class ExactComparison:
    """One challenger's conversions against chance alone: Binomial(``of``, ``share``)."""

    variant: str
    """Key of the challenger."""
    name: str
    """Name of the challenger for people."""
    conversions: int
    """Conversions of the challenger."""
    of: int
    """Conversions of the challenger and the control together."""
    share: float
    """The challenger's planned share of the pair's visitors."""
    p_value: float
    """Two-sided exact p-value, as if looked at once."""
    p_adjusted: float | None = None
    """Two-sided p-value that knows of the looks, times the challengers; ``None`` where it does not decide."""
    crossed: str | None = None
    """``up`` or ``down`` where this look reached one of its bounds."""
    low: int | None = None
    """Conversions of the challenger at or below which this look is crossed; ``None`` where it does not decide."""
    high: int | None = None
    """Conversions of the challenger at or above which this look is crossed; ``None`` where it does not decide."""


@dataclass(frozen=True, slots=True)
class ExactTest:
    """The exact test at tiny counts, of fixed shares."""

    decides: bool
    """Whether its bounds decide instead of the chi-square's; fixed before the first visitor."""
    why: str
    """Why it decides, or stands beside, in words."""
    expected: float | None
    """Conversions expected in the smallest arm; ``None`` where nobody planned any."""
    comparisons: tuple[ExactComparison, ...]
    """Every challenger, in the experiment's order."""


@dataclass(frozen=True, slots=True)
class EValue:
    """Evidence that one challenger is better, to be multiplied with that of other visitors; it decides nothing."""

    variant: str
    """Key of the challenger."""
    name: str
    """Name of the challenger for people."""
    control: int
    """Conversions of the control."""
    conversions: int
    """Conversions of the challenger."""
    share: float | None
    """The challenger's planned share of the pair; ``None`` where it moves: then each epoch's own was taken."""
    e_value: float
    """Mean of likelihood ratios, whose expectation is at most 1 if the challenger is not better; capped at exp(700)."""


@dataclass(frozen=True, slots=True)
class Srm:
    """What the counts say about the planned shares."""

    status: SplitStatus
    """``alarm`` vetoes any winner; ``unknown_shares`` and ``no_data`` mean that there is nothing to check."""
    units: tuple[int, ...]
    """Units seen per variant."""
    expected: tuple[float, ...] | None = None
    """Units expected per variant from each epoch's own planned shares."""
    statistic: float | None = None
    """Chi-square of seen against expected units, over all epochs together."""
    df: int | None = None
    """Degrees of freedom of ``statistic``."""
    p_value: float | None = None
    """P-value of ``statistic``, valid for one look only: information, the e-value decides."""
    e_value: float | None = None
    """Evidence against the planned shares, valid at every look; capped at exp(700)."""
    log_e: float | None = None
    """Natural logarithm of the e-value, without the cap (700 where an impossible unit was seen)."""
    threshold: float = field(kw_only=True)
    """The e-value from which on it is an alarm."""
    reason: str | None = None
    """Why there is no check, or no test statistic."""

    @property
    def alarm(self) -> bool:
        """Whether the status is ``alarm``."""
        return self.status == "alarm"


@dataclass(frozen=True, slots=True)
class SliceCheck:
    """Whether one slice of the visitors split as planned, by itself."""

    name: str
    srm: Srm


@dataclass(frozen=True, slots=True)
class DimensionCheck:
    """Whether the visitors split as planned in every slice of one dimension."""

    dimension: str
    status: Literal["ok", "alarm", "unchecked"]
    slices: int
    """Slices with units."""
    threshold: float | None
    """The e-value from which on a slice alarms."""
    alarming: int = 0
    """Slices that alarm."""
    alarms: tuple[SliceCheck, ...] = ()
    """The strongest alarms, at most ``decision.split_check.MOST_ALARMS``, the strongest first."""
    reason: str | None = None
    """Why it is unchecked."""


@dataclass(frozen=True, slots=True)
class Cause:
    """The slice that explains a mismatch best, over all dimensions."""

    dimension: str
    name: str
    own: Srm
    """The check of that slice by itself."""
    part: float
    """Part of the chi-squares of all slices of the dimension that this one has, in [0, 1]."""
    without: Srm
    """The check of everything but that slice."""
    localised: bool
    """Whether "only this slice is broken" explains the counts better than "all slices are tilted alike"."""


@dataclass(frozen=True, slots=True)
class SplitAlarm:
    """An alarm of the split check, as it was first raised; it stays until a person settles it."""

    dimension: str
    """What was checked: ``total``, or the dimension of a slice, such as ``day`` or ``device``."""
    name: str
    """Name of the slice; ``all`` for the total."""
    first_at: datetime
    """The moment of the look that raised it."""
    log_e: float
    """Natural logarithm of the e-value then."""
    settled_at: datetime | None = None
    """When a person settled it; ``None`` while it stands."""
    settled_by: str | None = None
    """Who settled it."""
    how: Literal["explained", "cut_out", "judged_anew"] | None = None
    """Explained; its slice cut out of every variant alike; or what remains after a cut is judged anew."""
    reason: str | None = None
    """The person's reason."""
    settled_log_e: float | None = None
    """Logarithm of the slice's e-value when it was explained: what grows from there is a new fault."""
    largest_log_e: float | None = None
    """Logarithm of the largest e-value of all looks so far; ``None`` where the first alarm was it."""

    @property
    def largest(self) -> float:
        """Logarithm of the largest e-value of all looks so far."""
        return self.log_e if self.largest_log_e is None else self.largest_log_e

    @property
    def stands(self) -> bool:
        """Whether nobody has settled it."""
        return self.settled_at is None

    @property
    def unsettled(self) -> SplitAlarm:
        """The alarm as it stood before a person settled it."""
        return SplitAlarm(
            self.dimension, self.name, self.first_at, self.log_e, largest_log_e=self.largest_log_e
        )


@dataclass(frozen=True, slots=True)
class SplitReport:
    """Whether the visitors split as planned: in total, on every day and in every segment."""

    status: SplitStatus
    """``alarm`` where the total or a day alarms; ``unknown_shares`` and ``no_data``: there is nothing to check."""
    veto: bool
    """Whether no winner may be declared: the total or a day alarms."""
    total: Srm
    """The check of all units together."""
    dimensions: tuple[DimensionCheck, ...] = ()
    """``day`` first, then the segments that were counted."""
    cause: Cause | None = None
    """Where the mismatch comes from; ``None`` where nothing alarms or there are no slices to look into."""
    reasons: tuple[Reason, ...] = ()
    """The report in words: ``srm_ok``, ``srm``, ``srm_explained``, ``srm_unknown`` or ``srm_no_data``; ``srm_segment``;
    ``srm_cause``; ``srm_cut``."""
    alarms: tuple[SplitAlarm, ...] = added((), absent=())
    """Every alarm so far, those that this look raised included, oldest first; none under the first rule."""


@dataclass(frozen=True, slots=True)
class GuardrailState:
    """One guardrail of one challenger at this moment."""

    measure: str
    """What is guarded, as in :class:`cro_core.domain.Guardrail`."""
    name: str
    """Name of the measure for people."""
    variant: str
    """Key of the challenger."""
    margin: float
    """Tolerated relative change."""
    harm: str
    """Whether ``less`` or ``more`` is bad."""
    status: GuardrailStatus
    broken: bool
    """Whether the experiment has to end, and everybody to get the control."""
    relative: float | None
    """Observed relative difference from the control, standardised over epochs."""
    e_value: float | None
    """Evidence that the harm exceeds the margin."""
    threshold: float
    """The e-value from which on the guardrail is broken: 100 times the number of guardrails watched."""
    text: str
    """The state in a sentence."""
    reason: str | None = None
    """Why there is no number; ``None`` where there is one."""


@dataclass(frozen=True, slots=True)
class MetricResult:
    """One secondary metric of one challenger against the control; ``None`` where it cannot be computed."""

    metric: str
    """Key of the metric: ``engagement``, ``revenue``, ``goal:NAME`` or ``ratio:NAME``."""
    name: str
    """Name of the metric for people."""
    kind: str
    """Kind of the metric: ``mean``, ``rate`` or ``ratio``."""
    variant: str
    """Key of the challenger."""
    method: str
    """``pearson``, ``welch``, ``cuped`` or ``delta``; ends in ``_by_day`` where days are combined."""
    control: float | None = None
    """Level of the control in the metric's unit: a fraction for rates; weighted over days if by day."""
    value: float | None = None
    """Level of the challenger, in the control's unit."""
    absolute: float | None = None
    """Challenger minus control."""
    low: float | None = None
    """Lower end of the interval of ``absolute`` at the family's ``level``, not adjusted for the other metrics."""
    high: float | None = None
    """Upper end of the interval of ``absolute`` at the family's ``level``, not adjusted for the other metrics."""
    relative: float | None = None
    """Uplift; ``None`` where the control's level is not positive."""
    relative_low: float | None = None
    """Lower end of the interval of ``relative``; ``None`` where the data set no bound."""
    relative_high: float | None = None
    """Upper end of the interval of ``relative``; ``None`` where the data set no bound."""
    statistic: float | None = None
    """Pearson's chi-square, Welch's t, or by day the combined z."""
    p_value: float | None = None
    """Two-sided, looked at once."""
    p_adjusted: float | None = None
    """``p_value`` adjusted over the family."""
    reduction: float | None = None
    """Part of the variance that the covariate explains, in [0, 1]; ``None`` where none was used."""
    covariate: str | None = None
    """Which covariate was used, or why none; ``None`` for rates and ratios, which take none."""
    reason: str | None = None
    """Why a number is missing; ``None`` where all are there."""


@dataclass(frozen=True, slots=True)
class Family:
    """All secondary metrics of all challengers."""

    adjustment: str
    """How the p-values are adjusted: ``holm`` or ``benjamini_hochberg``."""
    level: float
    """Confidence level of each interval."""
    results: tuple[MetricResult, ...]


@dataclass(frozen=True, slots=True)
class VariantOutcomes:
    """What became of one variant's visitors long after they were counted."""

    variant: str
    name: str
    is_control: bool
    units: int
    """Counted visitors of the variant."""
    leads: int
    """Counted visitors who converted."""
    outcomes: int
    """Outcomes of counted visitors, at or after their exposure; a visitor may have several."""
    of_leads: int
    """Outcomes of leads."""
    value: float
    """Amounts of all these outcomes, added up."""
    per_lead: Estimate
    """Part of the leads that had an outcome (Wilson's interval)."""
    value_per_lead: Estimate
    """Amount per lead, those without an outcome included (Student's interval)."""
    per_unit: Estimate
    """Part of the counted visitors that had an outcome, leads or not."""
    value_per_unit: Estimate
    """Amount per counted visitor."""


@dataclass(frozen=True, slots=True)
class OutcomeComparison:
    """A challenger's outcomes relative to the control's: variant / control - 1, 0.1 is +10 %."""

    variant: str
    """Key of the challenger."""
    per_lead: Estimate
    value_per_lead: Estimate
    per_unit: Estimate
    value_per_unit: Estimate


@dataclass(frozen=True, slots=True)
class Outcomes:
    """One kind of outcome in one experiment."""

    goal: str
    arms: tuple[VariantOutcomes, ...]
    """Every variant, in the experiment's order."""
    contrasts: tuple[OutcomeComparison, ...]
    """Every challenger against the control."""
    before: int
    """Outcomes of counted visitors from before they met the experiment: left out."""


@dataclass(frozen=True, slots=True)
class CrossingFrom:
    """Visitors who met one variant first, and then another."""

    variant: str
    """Key of the variant they met first."""
    name: str
    """Name of that variant for people."""
    units: int
    """How many met another one later."""
    exposed: int
    """How many met it first."""

    @property
    def share(self) -> float:
        """Part of them that crossed; 0 without any."""
        return self.units / self.exposed if self.exposed else 0.0


@dataclass(frozen=True, slots=True)
class Crossing:
    """Visitors who met more than one variant: they stay with their first, and blur the difference."""

    units: int
    """How many met more than one variant."""
    exposed: int
    """How many met the experiment."""
    limit: float
    """Part of them above which nothing wins by itself."""
    arms: tuple[CrossingFrom, ...] = added((), absent=())
    """Visitors by the variant they met first, in the experiment's order; empty where they were not told apart."""

    @property
    def share(self) -> float:
        """Part of the exposed units that crossed; 0 without any."""
        return self.units / self.exposed if self.exposed else 0.0


@dataclass(frozen=True, slots=True)
class StoreState:
    """The store that the counts were taken from."""

    schema: str
    """Version of its schema."""
    events: int
    """Events it had ever accepted."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything a decision rests on.

    What follows from the counts of a look is there in every decision that :func:`cro_core.decision.decide.decide`
    takes. What costs more than the look itself (from ``metrics`` on) is there in final decisions and where somebody
    asks. A part that a decision has not got is ``None``, or empty where it is a list.
    """

    plan: Plan | None = None
    """What was fixed before the start."""
    epochs: tuple[Epoch, ...] = ()
    """Periods of frozen shares, as they were at the look."""
    look: Look | None = None
    """How far the experiment is, and the line of this hour."""
    looks: LooksTaken | None = None
    """The looks so far, this one included, so that the next can go on and a replay can begin."""
    totals: tuple[TotalsWithRate, ...] = ()
    """Every variant over all epochs, in the experiment's order."""
    comparisons: tuple[Comparison, ...] = ()
    """Every challenger against the control, in the experiment's order."""
    srm: Srm | None = None
    """Whether all visitors together split as planned."""
    splits: SplitReport | None = None
    """Whether they split as planned on every day and in the segments that were counted."""
    days: tuple[DayCell, ...] = ()
    """The units by day, mature and so far; empty where the plan decides on the cells alone."""
    crossing: Crossing | None = None
    """How many visitors met more than one variant; ``None`` where it was not counted."""
    guardrails: tuple[GuardrailState, ...] | None = None
    """Every guardrail of every challenger; empty where the plan has none."""
    companion: tuple[AlwaysValid, ...] | None = None
    """Always-valid evidence on every challenger; ``None`` where the plan does not ask for it."""
    exact: ExactTest | None = None
    """The exact test, where it decides or an arm has few conversions; ``None`` elsewhere."""
    e_values: tuple[EValue, ...] | None = None
    """Evidence on every challenger that adds up over experiments; ``None`` before the second decision rule."""
    money: tuple[NetValue, ...] = ()
    """What each challenger is worth; only in final decisions whose plan says what a conversion is worth."""
    metrics: Family | None = None
    """Results of the secondary metrics."""
    measured: Measured | None = None
    """What was counted beside the decision's cells, for guardrails and secondary metrics."""
    waterfall: tuple[Step, ...] = ()
    """From received to counted, every posted event in exactly one step."""
    store: StoreState | None = None
    """Where the counts come from."""
    outcomes: tuple[Outcomes, ...] = ()
    """What became of the leads later; never stored with a decision, for it decides nothing."""

    def confidence(self, comparison: Comparison, alpha: float) -> float:
        """Confidence level of a comparison's interval: 1 less the part of ``alpha`` that it was tested at.

        The challengers share it equally; as some are beaten by the control, the others' parts grow (Holm 1979).
        A comparison that was not tested at this look is told at the part that each had at the start.
        """
        lines = [line[-1] for line in self.looks.critical if line] if self.looks else []
        tested = [part for part, line in enumerate(lines, start=1) if line == comparison.critical_z]
        return 1 - alpha / min(tested, default=len(self.comparisons))


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict on one experiment at one moment, with everything it rests on."""

    experiment_id: str
    as_of: datetime
    verdict: Verdict
    reasons: tuple[Reason, ...]
    cells: tuple[Cell, ...]
    winner: str | None = None
    """The variant to show from now on; the control for ``keep_control``."""
    unproven: bool = False
    """True when policy, not evidence, picked the winner."""
    evidence: Evidence = Evidence()
    """The numbers: plan, totals, comparisons, split, waterfall ..."""
    fingerprint: str = ""
    """SHA-256 of the cells, so that a replay can tell whether the data are the same."""
    versions: Json = field(default_factory=dict)
    """Versions of this package and of the libraries that computed it."""
    text: str = ""
    """The decision in one paragraph, for people."""
    id: str = ""

    @property
    def final(self) -> bool:
        """Whether the experiment ends with this decision."""
        return self.verdict is not Verdict.CONTINUE

    @property
    def costs_more(self) -> bool:
        """Whether the variant to show costs more than it brings, so that a person has to decide."""
        return any(row.loses and row.variant == self.winner for row in self.evidence.money)

    @property
    def stopped_without_proof(self) -> bool:
        """Whether it ends because nothing was left to prove: no challenger has lost by it.

        The first decision rule called that ``keep_control`` and told it by its reason only.
        """
        codes = {reason.code for reason in self.reasons}
        return self.verdict is Verdict.NO_PRACTICAL_GAIN or ("futile" in codes and "guardrail" not in codes)
