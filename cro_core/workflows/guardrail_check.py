"""Whether a guardrail can be watched at all, asked before the first visitor: one that is blind guards nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import sqlalchemy as sa

from cro_core.analytics.arrivals import GoalHistory, goal_history
from cro_core.domain import Guardrail, Plan, Quantity
from cro_core.errors import InvalidInput
from cro_core.storage import experiments

LATELY = timedelta(days=28)
"""How far back the site's events are looked at."""

ENOUGH_GOALS = 100
"""Goals reached lately from which on it is known that they come without amounts."""

ENOUGH_EXPOSURES = 1_000
"""Exposures lately from which on it is likely that nobody reaches a goal."""

NOT_THIS_SITE = ("import", "generate")
"""Sources of experiments whose events say nothing of the site's own visitors."""

INSTEAD = "guard a goal or conversions, or take the guardrail out of statistics.guardrails"


def check_guardrails(connection: sa.Connection, plan: Plan, now: datetime) -> list[str]:
    """What will probably keep the plan's guardrails from being watched, in words; empty where nothing does.

    Args:
        connection: the store, whose events of the last 28 days tell what comes.
        plan: of a draft that is to start.
        now: the moment.

    Raises:
        InvalidInput: a guardrail is known to be blind: it names no goal of the experiment, all weights of the
            engagement score are 0 or below, or the site's goals come without amounts.
    """
    if not plan.guardrails:
        return []
    for rule in plan.guardrails:
        _refuse_by_plan(rule, plan)
    history = _lately(connection, plan, now)
    return [text for rule in plan.guardrails for text in _judge(rule, plan, history)]


def _lately(connection: sa.Connection, plan: Plan, now: datetime) -> GoalHistory:
    others = [e.id for e in experiments.with_status(connection) if e.source in NOT_THIS_SITE]
    goals = [goal.name for goal in plan.goals]
    return goal_history(connection, goals, since=now - LATELY, before=now, without=others)


def _refuse_by_plan(rule: Guardrail, plan: Plan) -> None:
    """Refuses what the plan alone makes blind."""
    goal = Quantity.parse(rule.measure, what="guardrail", field="guardrails").of
    names = [g.name for g in plan.goals]
    if goal is not None and goal not in names:
        raise _refused(rule, f"the experiment has no such goal, only {', '.join(names)}")
    if rule.measure == "engagement" and all(g.weight <= 0 for g in plan.goals):
        raise _refused(rule, "no goal has a weight above 0, so the score's mean is not above 0 either")


def _judge(rule: Guardrail, plan: Plan, history: GoalHistory) -> Iterator[str]:
    """What the site's own events say against a guardrail.

    Raises:
        InvalidInput: they show that it is blind.
    """
    lately, quantity = f"in the last {LATELY.days} days", Quantity.parse(rule.measure)
    if quantity.kind == "engagement" and any(goal.weight < 0 for goal in plan.goals):
        yield _warning(
            rule, "some goals have weights below 0, and a mean that is not above 0 has no change in %"
        )
    if quantity.kind == "revenue" and history.times >= ENOUGH_GOALS and not history.with_amount:
        raise _refused(rule, f"none of {history.times:,} goals {lately} came with an amount")
    if quantity.kind == "revenue" and history.with_amount and history.amount <= 0:
        yield _warning(rule, f"the amounts {lately} add up to {history.amount:,.2f}, which is not above 0")
    watched = {g.name for g in plan.goals if (g.primary if quantity.of is None else g.name == quantity.of)}
    missed = quantity.kind in ("conversions", "goal") and not watched & history.reached
    if (
        missed and rule.harm == "less" and history.exposures >= ENOUGH_EXPOSURES
    ):  # no error at all is good news
        yield _warning(rule, f"nobody reached it {lately}, at {history.exposures:,} exposures")


def _refused(rule: Guardrail, why: str) -> InvalidInput:
    return InvalidInput(
        f"guardrail {rule.measure} cannot be watched: {why}; {INSTEAD}", field="statistics.guardrails"
    )


def _warning(rule: Guardrail, why: str) -> str:
    return f"Guardrail {rule.measure} may never be watched: {why}."
