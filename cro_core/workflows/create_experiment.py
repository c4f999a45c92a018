"""An experiment as a person or a program describes it, checked, planned by the settings, and stored."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cro_core.domain import KEY, Experiment, Goal, Variant, check_experiment
from cro_core.errors import InvalidInput
from cro_core.home import Home
from cro_core.planning import plans
from cro_core.storage import experiments
from cro_core.workflows.lifecycle import start
from cro_core.workflows.transaction import begin


class VariantIn(BaseModel):
    """A variant as a person or program describes it."""

    model_config = ConfigDict(extra="forbid")

    variant_id: str = Field(pattern=f"^{KEY.pattern}$")
    name: str = Field(default="", max_length=200)
    config: dict[str, Any] = Field(default_factory=dict, description="What the website applies.")
    asset_id: str | None = Field(default=None, max_length=100)
    is_control: bool | None = Field(default=None, description="Default: the first variant is the control.")


class ExperimentIn(BaseModel):
    """An experiment as a person or program describes it; what is left out comes from the settings."""

    model_config = ConfigDict(extra="forbid")

    test_id: str = Field(pattern=f"^{KEY.pattern}$")
    name: str = Field(default="", max_length=200)
    slot: str | None = Field(
        default=None, pattern=f"^{KEY.pattern}$", description="Page region; default: the test_id itself."
    )
    hypothesis: str = Field(default="", max_length=2000)
    occasion: str | None = Field(default=None, max_length=60)
    variants: list[VariantIn] = Field(min_length=2, max_length=20)
    primary_goals: list[str] | None = Field(
        default=None, min_length=1, description="Any of these makes a visitor converted."
    )
    base_rate: float | None = Field(default=None, gt=0, lt=1)
    minimum_detectable_uplift: float | None = Field(default=None, gt=0, le=10)
    start: bool = Field(default=True, description="False leaves a draft that the next cycle may start.")


def create_experiment(home: Home, payload: Any, *, now: datetime, actor: str) -> Experiment:
    """Creates an experiment, and starts it unless told not to.

    Raises:
        InvalidInput: the description is refused; ``field`` names the first offender.
        Conflict: the test_id is taken, or another experiment runs in the same slot.
    """
    wanted = _parse(payload)
    draft = _draft(home, wanted, now)
    with begin(home, now=now, actor=actor) as transaction:
        experiments.add(transaction.connection, draft)
        transaction.log("experiment.create", draft.id, after={"name": draft.name})
        if not wanted.start:
            return draft
        return start(transaction, draft).experiment


def _parse(payload: Any) -> ExperimentIn:
    try:
        return ExperimentIn.model_validate(payload)
    except ValidationError as error:
        first = error.errors()[0]
        lines = [
            f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg'][0].lower()}{e['msg'][1:]}"
            for e in error.errors()
        ]
        raise InvalidInput("; ".join(lines), field=".".join(map(str, first["loc"])) or None) from None


def _draft(home: Home, wanted: ExperimentIn, now: datetime) -> Experiment:
    marked = any(v.is_control is not None for v in wanted.variants)
    variants = tuple(
        Variant(
            v.variant_id,
            v.name or v.variant_id,
            v.config,
            v.asset_id,
            bool(v.is_control) if marked else index == 0,
        )
        for index, v in enumerate(wanted.variants)
    )
    config = home.config
    if wanted.minimum_detectable_uplift is not None:
        statistics = config.statistics.model_copy(
            update={"minimum_detectable_uplift": wanted.minimum_detectable_uplift}
        )
        config = config.model_copy(update={"statistics": statistics})
    plan = plans.new_plan(config, wanted.base_rate, len(variants))
    if wanted.primary_goals is not None:
        plan = replace(plan, goals=_goals(plan.goals, wanted.primary_goals))
    return check_experiment(
        Experiment(
            wanted.test_id,
            wanted.name or wanted.test_id,
            variants,
            plan,
            slot=wanted.slot or wanted.test_id,
            hypothesis=wanted.hypothesis,
            occasion=wanted.occasion,
            created_at=now,
        )
    )


def _goals(goals: tuple[Goal, ...], primary: list[str]) -> tuple[Goal, ...]:
    known = {goal.name for goal in goals}
    for name in primary:
        if not KEY.fullmatch(name):
            raise InvalidInput(f"primary goal {name!r} is not a key", field="primary_goals")
    added = tuple(Goal(name, 1.0, True) for name in primary if name not in known)
    return tuple(replace(goal, primary=goal.name in primary) for goal in goals) + added
