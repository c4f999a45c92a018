"""Changing experiments and production: what the autopilot does by itself and what a person may do instead.

Every change is made in one transaction together with its entry in the audit trail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cro_core.clock import iso
from cro_core.domain import KEY, Decision, Experiment, Goal, Status, Variant, Verdict, check_experiment
from cro_core.errors import Conflict, InvalidInput, NotFound
from cro_core.home import Home
from cro_core.hypotheses.backlog import Hypothesis
from cro_core.planning import plans
from cro_core.reporting import words
from cro_core.storage import decisions, experiments, journal
from cro_core.workflows import error_budget
from cro_core.workflows.site_traffic import expected_per_day

AUTOPILOT = "autopilot"

START, CONCLUDE, ALLOCATE, PRODUCE = (
    "experiment.start",
    "experiment.conclude",
    "allocation.set",
    "production.set",
)


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
    with home.db.write() as connection:
        experiments.add(connection, draft)
        journal.log(
            connection,
            at=now,
            actor=actor,
            action="experiment.create",
            subject=draft.id,
            after={"name": draft.name},
        )
        if not wanted.start:
            return draft
        return start(connection, draft, home=home, now=now, actor=actor).experiment


@dataclass(frozen=True, slots=True)
class Started:
    """An experiment that has just begun."""

    experiment: Experiment
    warning: str | None
    """What its visitors will hardly be able to show; ``None`` where they are enough, or not known."""

    def text(self, why: str = "") -> str:
        """What was done, in words."""
        done = f"{self.experiment.id}: started" + (f" ({why})" if why else "")
        return f"{done}. {self.warning}" if self.warning else done


def start(connection: sa.Connection, draft: Experiment, *, home: Home, now: datetime, actor: str) -> Started:
    """Starts a stored draft, at the error rate that the stream of experiments grants where there is one.

    What the site's traffic cannot show is said before the first visitor: in the experiment's reasoning, and in
    the audit trail as ``attainable_uplift``, which is null where no gain of any size could be shown.

    Raises:
        Conflict: it is no draft, or its slot is taken.
    """
    if draft.status is not Status.DRAFT:
        raise Conflict(f"experiment {draft.id} is {draft.status}: only a draft can be started")
    for other in experiments.with_status(connection, Status.RUNNING):
        if other.slot == draft.slot:
            raise Conflict(
                f"experiment {other.id} runs in slot {draft.slot}: end it first, or create this one with start=false"
            )
    leveled, level = _leveled(connection, home, draft, now)
    uplift = _attainable(leveled, expected_per_day(connection, home.config, now))
    warning = None if uplift is None else _too_little(leveled, uplift)
    reasoning = f"{draft.reasoning} {warning}".strip() if warning else draft.reasoning
    running = plans.begin(replace(leveled, reasoning=reasoning), now)
    experiments.start(connection, running)
    after = {"status": running.status, "slot": running.slot, "planned_units": running.plan.units}
    journal.log(
        connection,
        at=now,
        actor=actor,
        action=START,
        subject=running.id,
        before={"status": draft.status},
        after=after | level | ({} if uplift is None else {"attainable_uplift": uplift}),
    )
    return Started(running, warning)


def _leveled(
    connection: sa.Connection, home: Home, draft: Experiment, now: datetime
) -> tuple[Experiment, dict[str, float]]:
    """The draft planned for what the stream grants, and that for the audit trail."""
    rate = home.config.statistics.stream_false_discovery_rate
    if rate is None:
        return draft, {}
    level = error_budget.granted(connection, rate, now)
    alpha = min(draft.plan.alpha, level)
    plan = plans.at_level(draft.plan, alpha, variants=len(draft.variants))
    return replace(draft, plan=plan), {"stream_level": level, "alpha": alpha}


def _attainable(draft: Experiment, per_day: float | None) -> float | None:
    """The smallest uplift that so many visitors a day can show, where that is more than planned."""
    if per_day is None:
        return None
    return plans.under_powered(draft.plan, per_day, variants=len(draft.variants))


def _too_little(draft: Experiment, uplift: float) -> str:
    planned = words.percent(draft.plan.mde).replace(words.NBSP, " ")
    return f"At this traffic {_least(uplift)} can be shown; planned was {planned}. `cro plan` shows choices."


def _least(uplift: float) -> str:
    if not math.isfinite(uplift):
        return "no gain of any size"
    return f"only a gain of {words.percent(uplift)} or more".replace(words.NBSP, " ")


def adopt(
    connection: sa.Connection,
    hypothesis: Hypothesis,
    home: Home,
    *,
    now: datetime,
    actor: str,
    weeks: int | None = None,
) -> Started:
    """Makes an experiment of a hypothesis and starts it; over ``weeks`` with fixed shares where that is given."""
    draft = hypothesis.to_experiment(home.config, now=now)
    if weeks is not None:
        draft = replace(draft, plan=plans.patient(draft.plan, weeks, variants=len(draft.variants)))
    experiments.add(connection, draft)
    return start(connection, draft, home=home, now=now, actor=actor)


def conclude(
    connection: sa.Connection,
    home: Home,
    experiment: Experiment,
    decision: Decision,
    *,
    now: datetime,
    actor: str,
) -> list[str]:
    """Ends an experiment with its final decision; returns what was done, in words.

    A winner is shipped where the settings allow it; else shipping is proposed and the experiment waits,
    completed but not archived.
    """
    decisions.add(connection, decision)
    proposes = decision.verdict is Verdict.SHIP and not home.config.automation.auto_declare_winners
    status = Status.COMPLETED if proposes else Status.ARCHIVED
    ended = replace(experiment, status=status, ended_at=now, winner=decision.winner)
    experiments.update(connection, ended)
    journal.log(
        connection,
        at=now,
        actor=actor,
        action=CONCLUDE,
        subject=experiment.id,
        before={"status": experiment.status},
        after={
            "status": status,
            "verdict": decision.verdict,
            "winner": decision.winner,
            "decision": decision.id,
        },
    )
    done = [f"{experiment.id}: {decision.verdict}"]
    if proposes:
        _propose_ship(connection, ended, decision, now)
        return [*done, f"{experiment.id}: proposed to ship {decision.winner}, waiting for approval"]
    if decision.winner is not None and (decision.verdict is Verdict.SHIP or decision.unproven):
        ship(connection, ended, decision, now=now, actor=actor)
        return [*done, f"{experiment.slot}: shows {decision.winner} of {experiment.id}"]
    return done


def ship(
    connection: sa.Connection, experiment: Experiment, decision: Decision, *, now: datetime, actor: str
) -> None:
    """Shows the decision's winner to everyone from now on."""
    variant = experiment.variant(decision.winner or "")
    if variant is None:
        raise InvalidInput(
            f"decision {decision.id} names no variant of {experiment.id} to ship: got {decision.winner!r}"
        )
    before = decisions.production(connection).get(experiment.slot)
    entry = {
        "since": now,
        "experiment_id": experiment.id,
        "variant": variant.key,
        "config": dict(variant.config),
        "asset_id": variant.asset_id,
        "unproven": decision.unproven,
        "decision_id": decision.id,
    }
    decisions.set_production(connection, experiment.slot, entry)
    journal.log(
        connection, at=now, actor=actor, action=PRODUCE, subject=experiment.slot, before=before, after=entry
    )


def end_experiment(
    home: Home, experiment_id: str, *, now: datetime, actor: str, winner: str | None = None, reason: str = ""
) -> Experiment:
    """Ends a running or completed experiment by hand; ``winner`` is shipped as an unproven pick.

    Raises:
        NotFound: no such experiment.
        Conflict: it is not running.
        InvalidInput: ``winner`` is none of its variants.
    """
    with home.db.write() as connection:
        experiment = experiments.get(connection, experiment_id)
        if experiment.status not in (Status.RUNNING, Status.COMPLETED):
            raise Conflict(
                f"experiment {experiment_id} is {experiment.status}: only a running one can be ended"
            )
        if winner is not None and experiment.variant(winner) is None:
            raise InvalidInput(
                f"winner {winner!r} is not one of {', '.join(v.key for v in experiment.variants)}",
                field="winner",
            )
        ended = replace(
            experiment, status=Status.ARCHIVED, ended_at=experiment.ended_at or now, winner=winner
        )
        experiments.update(connection, ended)
        _withdraw(connection, experiment_id, now)
        journal.log(
            connection,
            at=now,
            actor=actor,
            action="experiment.end",
            subject=experiment_id,
            before={"status": experiment.status},
            after={"status": ended.status, "winner": winner, "reason": reason},
        )
        if winner is not None:
            by_hand = Decision(experiment_id, now, Verdict.INCONCLUSIVE, (), (), winner=winner, unproven=True)
            ship(connection, ended, by_hand, now=now, actor=actor)
        return ended


def approve(home: Home, recommendation_id: str, *, now: datetime, actor: str) -> str:
    """Carries out what was proposed; returns what was done, in words.

    Raises:
        NotFound: no such recommendation.
        Conflict: it is settled already, or can no longer be done.
    """
    with home.db.write() as connection:
        proposal = decisions.settle(connection, recommendation_id, decisions.APPROVED, now)
        journal.log(
            connection, at=now, actor=actor, action="recommendation.approve", subject=recommendation_id
        )
        return _CARRY_OUT[proposal["kind"]](connection, home, proposal, now, actor)


def reject(home: Home, recommendation_id: str, *, now: datetime, actor: str) -> str:
    """Declines what was proposed; an experiment that waited for it is archived.

    Raises:
        NotFound: no such recommendation.
        Conflict: it is settled already.
    """
    with home.db.write() as connection:
        proposal = decisions.settle(connection, recommendation_id, decisions.REJECTED, now)
        journal.log(
            connection, at=now, actor=actor, action="recommendation.reject", subject=recommendation_id
        )
        if proposal["kind"] == "ship":
            experiment = experiments.get(connection, proposal["subject"])
            experiments.update(connection, replace(experiment, status=Status.ARCHIVED, winner=None))
        return f"{recommendation_id} rejected"


def undoable(connection: sa.Connection) -> list[dict[str, Any]]:
    """The automatic changes that can still be undone, newest first."""
    return [
        c
        for c in journal.trail(connection)
        if c["actor"] == AUTOPILOT and c["action"] in _UNDO and c["undone_by"] is None
    ]


def rollback(home: Home, change: int | None = None, *, now: datetime, actor: str) -> str:
    """Undoes an automatic change (default: the newest one not yet undone); returns what was done, in words.

    The site shows again what it showed before. A test that was ended does not collect again: continuing a
    stopped test would cost it its validity, so it stays archived, without a winner.

    Raises:
        NotFound: nothing to undo, or no such change.
        Conflict: it cannot be undone, or something newer rests on it.
    """
    with home.db.write() as connection:
        candidates = undoable(connection)
        if change is None and not candidates:
            raise NotFound("there is no automatic change to undo")
        entry = journal.change(connection, change) if change is not None else candidates[0]
        if entry["id"] not in {c["id"] for c in candidates}:
            raise Conflict(
                f"change {entry['id']} ({entry['action']} by {entry['actor']}) cannot be undone, or is undone already"
            )
        said = _UNDO[entry["action"]](connection, entry, now)
        number = journal.log(
            connection,
            at=now,
            actor=actor,
            action="rollback",
            subject=entry["subject"],
            before=entry["after"],
            after={"change": entry["id"], "restored": entry["before"]},
        )
        journal.mark_undone(connection, entry["id"], number)
        return said


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


def _propose_ship(
    connection: sa.Connection, experiment: Experiment, decision: Decision, now: datetime
) -> None:
    decisions.recommend(
        connection,
        {
            "id": f"ship:{experiment.id}",
            "kind": "ship",
            "subject": experiment.id,
            "status": decisions.PENDING,
            "created_at": now,
            "text": decision.text,
            "payload": {"decision": decision.id, "variant": decision.winner},
        },
    )


@dataclass(frozen=True, slots=True)
class Patience:
    """What a hypothesis needs at a traffic that is too little for the configured horizon."""

    weeks: int
    """Horizon to propose, with fixed shares."""
    why: str
    """What the configured horizon and the proposed one can show, in words."""


def patience(
    connection: sa.Connection, hypothesis: Hypothesis, home: Home, *, now: datetime
) -> Patience | None:
    """What to propose in the place of an experiment that cannot tell; ``None`` where traffic is enough or not known."""
    draft, _ = _leveled(connection, home, hypothesis.to_experiment(home.config, now=now), now)
    plan, variants = draft.plan, len(draft.variants)
    per_day = expected_per_day(connection, home.config, now)
    soon = _attainable(draft, per_day)
    if per_day is None or soon is None:
        return None
    weeks = plans.weeks_needed(plan, per_day, variants=variants)
    late = plans.under_powered(plans.patient(plan, weeks, variants=variants), per_day, variants=variants)
    days = plan.horizon / timedelta(days=1)
    why = (
        f"At {per_day:,.0f} visitors a day {days:g} days show {_least(soon)}; "
        f"{weeks} weeks with fixed shares show {_least(plan.mde if late is None else late)}. "
        "`cro plan` shows other choices."
    )
    return Patience(weeks, why)


def propose_start(
    connection: sa.Connection, hypothesis: Hypothesis, *, now: datetime, patience: Patience | None = None
) -> bool:
    """Asks a person to start an experiment; False where that is asked already."""
    text = f"Start {hypothesis.id}: {hypothesis.statement}"
    payload: dict[str, Any] = {"hypothesis": hypothesis.id}
    if patience is not None:
        text = f"Start {hypothesis.id} for {patience.weeks} weeks: {hypothesis.statement} {patience.why}"
        payload["weeks"] = patience.weeks
    return decisions.recommend(
        connection,
        {
            "id": f"start:{hypothesis.id}:{iso(now)}",
            "kind": "start",
            "subject": hypothesis.id,
            "status": decisions.PENDING,
            "created_at": now,
            "text": text,
            "payload": payload,
        },
    )


def _withdraw(connection: sa.Connection, subject: str, now: datetime) -> None:
    for proposal in decisions.recommendations(connection):
        if proposal["subject"] == subject:
            decisions.settle(connection, proposal["id"], decisions.WITHDRAWN, now)


def _carry_out_ship(
    connection: sa.Connection, _home: Home, proposal: Mapping[str, Any], now: datetime, actor: str
) -> str:
    experiment = experiments.get(connection, proposal["subject"])
    decision = decisions.get(connection, proposal["payload"]["decision"])
    ship(connection, experiment, decision, now=now, actor=actor)
    experiments.update(connection, replace(experiment, status=Status.ARCHIVED))
    return f"{experiment.slot}: shows {decision.winner} of {experiment.id}"


def _carry_out_start(
    connection: sa.Connection, home: Home, proposal: Mapping[str, Any], now: datetime, actor: str
) -> str:
    from cro_core.workflows.open_backlog import find

    hypothesis, weeks = find(connection, home, proposal["subject"]), proposal["payload"].get("weeks")
    started = adopt(connection, hypothesis, home, now=now, actor=actor, weeks=weeks)
    return started.text()


def _undo_start(connection: sa.Connection, entry: Mapping[str, Any], now: datetime) -> str:
    experiment = experiments.get(connection, entry["subject"])
    if experiment.status is not Status.RUNNING:
        raise Conflict(
            f"experiment {experiment.id} is {experiment.status} already: undo its decision instead"
        )
    experiments.update(connection, replace(experiment, status=Status.ARCHIVED, ended_at=now))
    return f"{experiment.id}: ended; its slot shows production again"


def _undo_conclude(connection: sa.Connection, entry: Mapping[str, Any], now: datetime) -> str:
    experiment = experiments.get(connection, entry["subject"])
    shown = decisions.production(connection).get(experiment.slot)
    if shown is not None and shown["experiment_id"] == experiment.id:
        shipped = next(
            c for c in journal.trail(connection, subject=experiment.slot)
            if c["action"] == PRODUCE and c["after"]["experiment_id"] == experiment.id
        )  # fmt: skip
        journal.mark_undone(connection, shipped["id"], entry["id"])
        _undo_production(connection, shipped, now)
    experiments.update(connection, replace(experiment, status=Status.ARCHIVED, winner=None))
    _withdraw(connection, experiment.id, now)
    return f"{experiment.id}: decision taken back; the site shows what it showed before"


def _undo_allocation(connection: sa.Connection, entry: Mapping[str, Any], now: datetime) -> str:
    experiment = experiments.get(connection, entry["subject"])
    experiments.set_future_shares(connection, experiment, entry["before"]["shares"], now)
    return f"{experiment.id}: shares of the coming days are {entry['before']['shares']} again"


def _undo_production(connection: sa.Connection, entry: Mapping[str, Any], _now: datetime) -> str:
    slot, before = entry["subject"], entry["before"]
    shown = decisions.production(connection).get(slot)
    if shown is None or shown["decision_id"] != entry["after"]["decision_id"]:
        raise Conflict(f"slot {slot} shows something newer by now: undo that first")
    decisions.set_production(connection, slot, None if before is None else _revive(before))
    return f"{slot}: shows " + (
        f"{before['variant']} of {before['experiment_id']} again"
        if before
        else "the site's own default again"
    )


def _revive(entry: Mapping[str, Any]) -> dict[str, Any]:
    from cro_core.clock import parse_time

    return {**entry, "since": parse_time(entry["since"])}


_CARRY_OUT: Mapping[str, Callable[[sa.Connection, Home, Mapping[str, Any], datetime, str], str]] = {
    "ship": _carry_out_ship,
    "start": _carry_out_start,
}
_UNDO: Mapping[str, Callable[[sa.Connection, Mapping[str, Any], datetime], str]] = {
    START: _undo_start,
    CONCLUDE: _undo_conclude,
    ALLOCATE: _undo_allocation,
    PRODUCE: _undo_production,
}
