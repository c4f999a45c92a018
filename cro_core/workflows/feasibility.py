"""What the site's traffic lets an experiment show, and what to propose where that is too little."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import timedelta

from cro_core.domain import Experiment, Plan
from cro_core.hypotheses.backlog import Hypothesis
from cro_core.planning import plans
from cro_core.reporting import words
from cro_core.workflows import error_budget
from cro_core.workflows.site_traffic import expected_per_day
from cro_core.workflows.transaction import Transaction


def at_granted_level(transaction: Transaction, draft: Experiment) -> tuple[Experiment, dict[str, float]]:
    """The draft planned for what the stream grants, and that for the audit trail."""
    rate = transaction.home.config.statistics.stream_false_discovery_rate
    if rate is None:
        return draft, {}
    level = error_budget.granted(transaction.connection, rate, transaction.now)
    alpha = min(draft.plan.alpha, level)
    plan = plans.with_alpha(draft.plan, alpha, variants=len(draft.variants))
    return replace(draft, plan=plan), {"stream_level": level, "alpha": alpha}


def attainable_uplift(draft: Experiment, per_day: float | None) -> float | None:
    """The smallest uplift that so many visitors a day can show, where that is more than planned."""
    if per_day is None:
        return None
    return plans.under_powered(draft.plan, per_day, variants=len(draft.variants))


def traffic_warning(draft: Experiment, uplift: float) -> str:
    """Says in words that the traffic shows no less than ``uplift``, which is more than planned."""
    planned = words.percent(draft.plan.mde).replace(words.NBSP, " ")
    return f"At this traffic {_least(uplift)} can be shown; planned was {planned}. `cro plan` shows choices."


def spending_warning(draft: Experiment) -> str | None:
    """Says in words that the plan's way to spend alpha takes clearly more visitors than the default, where it does."""
    from cro_core.statistics.sequential import Spending

    plan = draft.plan
    spending = Spending(plan.spending, plan.spending_parameter)
    return plans.spending_warning(spending, alpha=plan.alpha / len(draft.challengers), power=plan.power)


def enrolment_text(plan: Plan) -> str:
    """Says in words how long new visitors count, when the last look comes, and who takes part."""
    weeks, window = plans.enrolment_weeks(plan), plan.window / HOUR
    count = "one week" if weeks == 1 else f"{weeks} weeks"
    text = f"New visitors count for {count}, the last look comes {window:g} hours later; an effect that fades may add a week"
    if plan.admitted == 1:
        return text
    return f"{text}. {100 * plan.admitted:.2g} % of the visitors take part: they fill the week"


def _least(uplift: float) -> str:
    if not math.isfinite(uplift):
        return "no gain of any size"
    return f"only a gain of {words.percent(uplift)} or more".replace(words.NBSP, " ")


HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Patience:
    """What a hypothesis needs at a traffic that is too little for the configured horizon."""

    weeks: int
    """Horizon to propose, with fixed shares."""
    why: str
    """What the configured horizon and the proposed one can show, in words."""


def patience(transaction: Transaction, hypothesis: Hypothesis) -> Patience | None:
    """What to propose where the traffic is too little for the planned uplift; ``None`` where it is enough or not known."""
    config, now = transaction.home.config, transaction.now
    draft, _ = at_granted_level(transaction, hypothesis.to_experiment(config, now=now))
    plan, variants = draft.plan, len(draft.variants)
    per_day = expected_per_day(transaction.connection, config, now)
    soon = attainable_uplift(draft, per_day)
    if per_day is None or soon is None:
        return None
    weeks = plans.weeks_needed(plan, per_day, variants=variants)
    late = plans.under_powered(plans.patient(plan, weeks, variants=variants), per_day, variants=variants)
    planned = plans.enrolment_weeks(plan)
    why = (
        f"At {per_day:,.0f} visitors a day {planned} week{'s' * (planned > 1)} of new visitors show {_least(soon)}; "
        f"{weeks} weeks with fixed shares show {_least(plan.mde if late is None else late)}. "
        "`cro plan` shows other choices."
    )
    return Patience(weeks, why)
