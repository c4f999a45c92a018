"""How long an experiment will take and what it can tell, from the site's own traffic and conversion rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from cro_core.analytics import reader
from cro_core.clock import zone
from cro_core.config import Config
from cro_core.domain import Experiment, Goal, Plan, Status
from cro_core.errors import Conflict, InvalidInput
from cro_core.home import Home
from cro_core.planning import plans
from cro_core.planning.outlook import DAY, Outlook, Question, SourcedNumber, WiderGoal, forecast, outlook
from cro_core.planning.week_profile import DAYS, FLAT, WeekProfile
from cro_core.reporting import words
from cro_core.statistics.proportions import wilson
from cro_core.statistics.sequential import Spending
from cro_core.storage import experiments as store
from cro_core.workflows import error_budget
from cro_core.workflows.site_traffic import SiteTraffic, experiment_traffic, site_traffic

MEASURED_EXPERIMENTS = 10
"""Most experiments, newest first, whose control the base rate is taken from."""

LEAST_UNITS, LEAST_CONVERSIONS = 100, 10
"""Below these a measured rate is no better than an assumption."""

LEADS = ("contact_form_submit", "phone_click", "whatsapp_click")
"""Ways of getting in touch: any of them is the wider goal "leads"."""


@dataclass(frozen=True, slots=True)
class Overrides:
    """Numbers to plan with instead of the site's own; ``None`` is taken from the home or the settings."""

    base_rate: float | None = None
    visitors_per_day: float | None = None
    uplift: float | None = None
    variants: int | None = None
    days: float | None = None
    """Most days in which new visitors count; rounded up to whole weeks."""
    fixed: bool = False
    """Equal shares throughout, whatever the settings say."""
    leads_rate: float | None = None
    """Rate of the wider goal."""


def plan(
    home: Home, overrides: Overrides = Overrides(), *, now: datetime, experiment_id: str | None = None
) -> Outlook:
    """What an experiment needs here, how long that takes, and what else could be done; changes nothing.

    Args:
        home: the site.
        overrides: numbers to use instead of the site's.
        now: the moment.
        experiment_id: a draft or a running experiment; its plan is fixed, so only the traffic and the rate of
            the wider goal can be asked for with it. ``None``: the experiment that the settings would make.

    Raises:
        NotFound: no such experiment.
        Conflict: it has ended.
        InvalidInput: a number out of range, or one that the experiment has fixed already.
    """
    _check(overrides)
    with home.db.read() as connection:
        experiment = store.get(connection, experiment_id) if experiment_id else None
        measured = site_traffic(connection, home.config, now)
        inputs = _Inputs(home, connection, now, overrides, measured)
        return outlook(_question(inputs)) if experiment is None else _of_experiment(inputs, experiment)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What the numbers of an answer are taken from."""

    home: Home
    connection: sa.Connection
    now: datetime
    overrides: Overrides
    measured: SiteTraffic | None

    @property
    def config(self) -> Config:
        return self.home.config

    @property
    def profile(self) -> WeekProfile:
        return self.measured.profile if self.measured else FLAT

    def setting(self, key: str) -> str:
        """Where a setting's value comes from, in words."""
        return f"settings: {key} ({self.home.loaded.sources.get(key, 'default')})"


def _check(overrides: Overrides) -> None:
    limits = {"base_rate": 1.0, "leads_rate": 1.0, "visitors_per_day": None, "days": None}
    for name, most in limits.items():
        value = getattr(overrides, name)
        if value is not None and not (0 < value < (most or float("inf"))):
            wanted = "a fraction between 0 and 1, e.g. 0.03 for 3 %" if most else "a number above 0"
            raise InvalidInput(f"{name} is {value:g}: give {wanted}", field=name)
    if overrides.uplift is not None and not 0 < overrides.uplift <= 10:
        raise InvalidInput(
            f"uplift is {overrides.uplift:g}: give a fraction above 0 and at most 10, e.g. 0.1 for +10 %",
            field="uplift",
        )
    if overrides.variants is not None and overrides.variants < 2:
        raise InvalidInput(f"variants is {overrides.variants}: give at least 2", field="variants")


def _question(inputs: _Inputs) -> Question:
    overrides, rate = inputs.overrides, _base_rate(inputs)
    variants = 2 if overrides.variants is None else overrides.variants
    configured = plans.new_plan(inputs.config, variants=variants)
    return _at_granted_level(
        inputs,
        _asking(
            inputs,
            replace(configured, adaptive=configured.adaptive and not overrides.fixed),
            rate=rate,
            traffic=_traffic(inputs),
            days=_days(inputs),
            uplift=_uplift(inputs),
            variants=variants,
        ),
    )


def _asking(
    inputs: _Inputs,
    asked: Plan,
    *,
    rate: SourcedNumber,
    traffic: SourcedNumber,
    days: SourcedNumber,
    uplift: SourcedNumber,
    variants: int,
    running: bool = False,
) -> Question:
    """The question that a plan asks, with these numbers instead of its own."""
    return Question(
        base_rate=rate,
        traffic=traffic,
        days=days,
        uplift=uplift,
        variants=variants,
        adaptive=asked.adaptive,
        floor=asked.floor,
        spending=Spending(asked.spending, asked.spending_parameter),
        futility=asked.futility,
        rule=asked.rule,
        running=running,
        alpha=asked.alpha,
        power=asked.power,
        window_days=asked.window / DAY,
        min_units=asked.min_units,
        profile=inputs.profile,
        wider=_wider(inputs, rate),
    )


def _at_granted_level(inputs: _Inputs, question: Question) -> Question:
    """The question at the error rate that an experiment gets which starts now."""
    rate = inputs.config.statistics.stream_false_discovery_rate
    if rate is None:
        return question
    alpha = min(question.alpha, error_budget.granted(inputs.connection, rate, inputs.now))
    return replace(question, alpha=alpha, asked_alpha=question.alpha)


def _of_experiment(inputs: _Inputs, experiment: Experiment) -> Outlook:
    if experiment.status not in (Status.DRAFT, Status.RUNNING):
        raise Conflict(
            f"experiment {experiment.id} has ended: there is nothing left to plan; "
            f"`cro evaluate {experiment.id}` says what it told"
        )
    overrides, now = inputs.overrides, inputs.now
    fixed = [n for n in ("base_rate", "uplift", "variants", "days") if getattr(overrides, n) is not None]
    if fixed or overrides.fixed:
        name = fixed[0] if fixed else "fixed"
        raise InvalidInput(
            f"{name} is part of the plan of {experiment.id}, which is settled: leave it out, "
            "or leave out the experiment to ask what another plan would do",
            field=name,
        )
    question = _settled(inputs, experiment)
    if experiment.status is Status.DRAFT:
        question = _at_granted_level(inputs, question)
    answer = replace(outlook(question), experiment=experiment.id)
    started_at, enrolment_ends_at = experiment.started_at, experiment.enrolment_ends_at
    if started_at is None or enrolment_ends_at is None:
        return answer
    with reader.reading(inputs.connection, experiment, now) as reading:
        enrolled, counted = reading.exposed_units(before=now), sum(cell.units for cell in reading.cells())
    return forecast(
        answer,
        now=now,
        zone=zone(experiment.plan.zone),
        started_at=started_at,
        enrolment_ends_at=enrolment_ends_at,
        planned_units=experiment.plan.units,
        enrolled=enrolled,
        counted=counted,
    )


def _settled(inputs: _Inputs, experiment: Experiment) -> Question:
    """The question that the experiment's plan asks, at its own traffic where that is known already.

    A draft is asked for as it will be when it starts.
    """
    running, variants = experiment.status is Status.RUNNING, len(experiment.variants)
    settled = experiment.plan if running else plans.settled(experiment.plan, None, variants=variants)
    own = experiment_traffic(inputs.connection, experiment, inputs.now, inputs.profile)
    traffic = _traffic(inputs)
    if inputs.overrides.visitors_per_day is None and own:
        traffic = SourcedNumber(own, "experiment", "visitors of this experiment so far")
    elif traffic.value is not None and settled.admitted < 1:
        let_in = f"{traffic.text}; {100 * settled.admitted:.2g} % of them take part"
        traffic = replace(traffic, value=traffic.value * settled.admitted, text=let_in)
    rate = _base_rate(inputs)
    if settled.base_rate is not None:
        rate = SourcedNumber(settled.base_rate, "experiment", "planned for this experiment")
    return _asking(
        inputs,
        settled,
        rate=rate,
        traffic=traffic,
        days=SourcedNumber(
            plans.enrolment(settled) / DAY,
            "experiment",
            "planned for this experiment" + _last(settled.window),
        ),
        uplift=SourcedNumber(settled.mde, "experiment", "planned for this experiment"),
        variants=variants,
        running=running,
    )


def _last(window: timedelta) -> str:
    return f"; the last visitors then get {window / timedelta(hours=1):g} hours to convert"


def _traffic(inputs: _Inputs) -> SourcedNumber:
    """An explicit setting comes before the measurement: leaving it empty is what asks for one."""
    overrides, measured = inputs.overrides, inputs.measured
    if overrides.visitors_per_day is not None:
        return SourcedNumber(overrides.visitors_per_day, "option", "--visitors-per-day")
    key, value = "statistics.traffic_per_day", inputs.config.statistics.traffic_per_day
    if value is not None:
        return SourcedNumber(value, "settings", inputs.setting(key))
    if measured is None:
        return SourcedNumber(
            None, "unknown", f"no whole day of visitors in the store yet: give --visitors-per-day or {key}"
        )
    made = "synthetic visitors" if measured.synthetic else "measured"
    return SourcedNumber(measured.per_day, "home", f"{made}, {measured.period}, each visitor counted once")


def _days(inputs: _Inputs) -> SourcedNumber:
    wanted, last = inputs.overrides.days, _last(inputs.config.window)
    if wanted is not None:
        weeks = math.ceil(wanted / DAYS)
        rounded = "" if wanted == weeks * DAYS else f" {wanted:g}, rounded up to whole weeks"
        return SourcedNumber(weeks * DAYS, "option", f"--days{rounded}{last}")
    return SourcedNumber(
        plans.enrolment_at_most(inputs.config) / DAY,
        "settings",
        f"{inputs.setting('automation.test_duration_max_days')}, in whole weeks{last}",
    )


def _uplift(inputs: _Inputs) -> SourcedNumber:
    if inputs.overrides.uplift is not None:
        return SourcedNumber(inputs.overrides.uplift, "option", "--uplift")
    own = inputs.config.statistics.minimum_detectable_uplift is not None
    key = "statistics.minimum_detectable_uplift" if own else "automation.min_conversion_difference"
    return SourcedNumber(inputs.config.mde, "settings", inputs.setting(key))


def _base_rate(inputs: _Inputs) -> SourcedNumber:
    if inputs.overrides.base_rate is not None:
        return SourcedNumber(inputs.overrides.base_rate, "option", "--base-rate")
    if inputs.measured is not None:
        own = _measured_rate(inputs, inputs.measured, inputs.config.primary_goals)
        own = own or _rate_of_the_newest(inputs, inputs.measured)
        if own is not None:
            return own
    return SourcedNumber(
        inputs.config.statistics.base_rate,
        "settings",
        inputs.setting("statistics.base_rate")
        + f"; the store has no {LEAST_CONVERSIONS} conversions of its own yet",
    )


def _rate_of_the_newest(inputs: _Inputs, measured: SiteTraffic) -> SourcedNumber | None:
    """The rate on the goals of the newest experiment: imported tables have goals of their own."""
    goals = tuple(goal.name for goal in measured.experiments[0].plan.goals if goal.primary)
    return _measured_rate(inputs, measured, goals)


def _measured_rate(inputs: _Inputs, measured: SiteTraffic, goals: tuple[str, ...]) -> SourcedNumber | None:
    """How many who saw a control reached any of the goals; ``None`` where they are too few to say."""
    units = conversions = 0
    for experiment in measured.experiments[:MEASURED_EXPERIMENTS]:
        plan = experiment.plan
        if not _records(experiment, goals):
            continue
        window = plan.window if plan.finished else inputs.config.window
        asking = replace(plan, goals=tuple(Goal(name, 1.0, True) for name in goals), window=window)
        with reader.reading(inputs.connection, replace(experiment, plan=asking), inputs.now) as reading:
            control = [cell for cell in reading.cells() if cell.variant == experiment.control.key]
        units += sum(cell.units for cell in control)
        conversions += sum(cell.conversions for cell in control)
    if units < LEAST_UNITS or not LEAST_CONVERSIONS <= conversions < units:
        return None
    span = wilson(units, conversions)
    within = f"{words.percent(span.low)} to {words.percent(span.high)}".replace(words.NBSP, " ")
    return SourcedNumber(
        conversions / units,
        "home",
        f"measured: {conversions:,} of {units:,} who saw a control did {' or '.join(goals)} (95 % interval {within})",
    )


def _records(experiment: Experiment, goals: tuple[str, ...]) -> bool:
    return set(goals) <= {goal.name for goal in experiment.plan.goals}


def _wider(inputs: _Inputs, rate: SourcedNumber) -> WiderGoal | None:
    """Any way of getting in touch, where that is more than the primary goals."""
    config, measured, leads_rate = inputs.config, inputs.measured, inputs.overrides.leads_rate
    added = tuple(g for g in LEADS if g in config.optimization_goals and g not in config.primary_goals)
    if not added:
        return None
    goals = (*config.primary_goals, *added)
    if leads_rate is not None:
        return WiderGoal(goals, SourcedNumber(leads_rate, "option", "--leads-rate"))
    if rate.source == "home" and measured is not None:
        if not any(_records(e, config.primary_goals) for e in measured.experiments):
            return None  # imported tables, whose goals are others
        own = _measured_rate(inputs, measured, goals)
        if own is not None:  # where nobody calls or writes, it is no wider
            return WiderGoal(goals, own) if own.number > rate.number else None
    doubled = 1 - (1 - rate.number) ** 2
    text = "assumed: a second way of getting in touch is used as often as the first; give --leads-rate"
    return WiderGoal(goals, SourcedNumber(doubled, "assumed", text))
