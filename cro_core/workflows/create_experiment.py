"""An experiment as a person or a program describes it, checked, planned by the settings, and stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from cro_core.config import Config
from cro_core.domain import KEY, Experiment, Goal, Plan, Variant, check_experiment
from cro_core.errors import InvalidInput
from cro_core.home import Home
from cro_core.planning import plans
from cro_core.storage import experiments
from cro_core.workflows.lifecycle import start
from cro_core.workflows.transaction import begin


@dataclass(frozen=True, slots=True)
class NewExperiment:
    """What a person or a program wants to test; what is ``None`` or empty comes from the settings or the id."""

    id: str
    variants: tuple[Variant, ...]
    """Two or more, one of them the control; one without a name has its key as the name."""
    name: str = ""
    """Default: the id."""
    slot: str | None = None
    """Page region; default: the id."""
    hypothesis: str = ""
    occasion: str | None = None
    primary_goals: tuple[str, ...] | None = None
    """Any of these makes a visitor converted."""
    base_rate: float | None = None
    """Conversion rate expected of the control, between 0 and 1."""
    minimum_detectable_uplift: float | None = None
    """Relative uplift that the plan is to detect, above 0."""
    start: bool = True
    """False leaves a draft that the next cycle may start."""


def create_experiment(home: Home, wanted: NewExperiment, *, now: datetime, actor: str) -> Experiment:
    """Creates an experiment, and starts it unless told not to.

    Raises:
        InvalidInput: the description is refused; ``field`` names the first offender.
        Conflict: the id is taken, or another experiment runs in the same slot.
    """
    draft = _draft(home, wanted, now)
    with begin(home, now=now, actor=actor) as transaction:
        experiments.add(transaction.connection, draft)
        transaction.log("experiment.create", draft.id, after={"name": draft.name})
        if not wanted.start:
            return draft
        return start(transaction, draft).experiment


def _draft(home: Home, wanted: NewExperiment, now: datetime) -> Experiment:
    variants = tuple(replace(v, name=v.name or v.key) for v in wanted.variants)
    return check_experiment(
        Experiment(
            wanted.id,
            wanted.name or wanted.id,
            variants,
            _plan(home.config, wanted),
            slot=wanted.slot or wanted.id,
            hypothesis=wanted.hypothesis,
            occasion=wanted.occasion,
            created_at=now,
        )
    )


def _plan(config: Config, wanted: NewExperiment) -> Plan:
    if wanted.base_rate is not None and not 0 < wanted.base_rate < 1:
        raise InvalidInput(
            f"base_rate is {wanted.base_rate}: give a number between 0 and 1", field="base_rate"
        )
    if wanted.minimum_detectable_uplift is not None:
        statistics = config.statistics.model_copy(
            update={"minimum_detectable_uplift": wanted.minimum_detectable_uplift}
        )
        config = config.model_copy(update={"statistics": statistics})
    # Fewer than two are refused, in words, once the experiment is whole.
    plan = plans.new_plan(config, wanted.base_rate, max(2, len(wanted.variants)))
    if wanted.primary_goals is None:
        return plan
    return replace(plan, goals=_goals(plan.goals, wanted.primary_goals))


def _goals(goals: tuple[Goal, ...], primary: tuple[str, ...]) -> tuple[Goal, ...]:
    known = {goal.name for goal in goals}
    for name in primary:
        if not KEY.fullmatch(name):
            raise InvalidInput(f"primary goal {name!r} is not a key", field="primary_goals")
    added = tuple(Goal(name, 1.0, True) for name in primary if name not in known)
    return tuple(replace(goal, primary=goal.name in primary) for goal in goals) + added
