"""An experiment's life: started, concluded by its decision or ended by a person, its winner shipped.

Every change is made in one transaction together with its entry in the audit trail.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import sqlalchemy as sa

from cro_core.clock import iso
from cro_core.domain import Experiment, Status, Verdict
from cro_core.errors import Conflict, InvalidInput
from cro_core.evidence import Decision, Hold
from cro_core.home import Home
from cro_core.hypotheses.backlog import Hypothesis
from cro_core.planning import plans
from cro_core.planning.week_profile import FLAT
from cro_core.storage import decisions, experiments
from cro_core.workflows.feasibility import (
    at_granted_level,
    attainable_uplift,
    enrolment_text,
    spending_warning,
    traffic_warning,
)
from cro_core.workflows.guardrail_check import check_guardrails
from cro_core.workflows.proposals import propose_ship, withdraw
from cro_core.workflows.site_traffic import expected_per_day, site_traffic
from cro_core.workflows.transaction import Transaction, begin

EXPLAIN, CUT = "split.explain", "split.cut"
START, HOLD, CONCLUDE, ALLOCATE, PRODUCE = (
    "experiment.start",
    "experiment.hold",
    "experiment.conclude",
    "allocation.set",
    "production.set",
)


@dataclass(frozen=True, slots=True)
class Started:
    """An experiment that has just begun."""

    experiment: Experiment
    warning: str | None
    """What its visitors will hardly be able to show, or what its settings cost; ``None`` where there is nothing to say."""

    def text(self, why: str = "") -> str:
        """What was done, in words."""
        done = f"{self.experiment.id}: started" + (f" ({why})" if why else "")
        parts = (done, enrolment_text(self.experiment.plan), self.warning)
        return ". ".join(part.removesuffix(".") for part in parts if part) + "."


def occupied_slots(connection: sa.Connection) -> dict[str, str]:
    """Slot -> the experiment that runs in it. One runs in a slot at a time: none is started in a slot named here."""
    return {e.slot: e.id for e in experiments.with_status(connection, Status.RUNNING)}


def start(transaction: Transaction, draft: Experiment) -> Started:
    """Starts a stored draft, at the error rate that the stream of experiments grants where there is one.

    What the site's traffic cannot show is said before the first visitor: in the experiment's reasoning, and in
    the audit trail as ``attainable_uplift``, which is null where no gain of any size could be shown.

    Raises:
        Conflict: it is no draft, or its slot is taken.
        InvalidInput: a guardrail of it is known to be blind.
    """
    if draft.status is not Status.DRAFT:
        raise Conflict(f"experiment {draft.id} is {draft.status}: only a draft can be started")
    connection, now = transaction.connection, transaction.now
    other = occupied_slots(connection).get(draft.slot)
    if other is not None:
        raise Conflict(
            f"experiment {other} runs in slot {draft.slot}: end it first, or create this one with start=false"
        )
    config, variants = transaction.home.config, len(draft.variants)
    per_day = expected_per_day(connection, config, now)
    granted, level = at_granted_level(transaction, draft)
    plan = plans.settled(granted.plan, per_day, variants=variants)
    leveled = replace(granted, plan=plan)
    uplift = attainable_uplift(leveled, None if per_day is None else per_day * plan.admitted)
    warnings = [
        *check_guardrails(connection, plan, now),
        spending_warning(leveled),
        None if uplift is None else traffic_warning(leveled, uplift),
    ]
    warning = " ".join(text for text in warnings if text) or None
    reasoning = f"{draft.reasoning} {warning}".strip() if warning else draft.reasoning
    site = site_traffic(connection, config, now) if plan.adaptive else None
    running = plans.begin(replace(leveled, reasoning=reasoning), now, FLAT if site is None else site.weekly)
    experiments.start(connection, running)
    after = {
        "status": running.status,
        "slot": running.slot,
        "planned_units": plan.units,
        "enrolment_weeks": plans.enrolment_weeks(plan),
        "admitted": plan.admitted,
    }
    shown = {} if uplift is None else {"attainable_uplift": uplift}
    transaction.log(START, running.id, before={"status": draft.status}, after=after | level | shown)
    return Started(running, warning)


def adopt(transaction: Transaction, hypothesis: Hypothesis, *, weeks: int | None = None) -> Started:
    """Makes an experiment of a hypothesis and starts it; over ``weeks`` with fixed shares where that is given."""
    draft = hypothesis.to_experiment(transaction.home.config, now=transaction.now)
    if weeks is not None:
        draft = replace(draft, plan=plans.patient(draft.plan, weeks, variants=len(draft.variants)))
    experiments.add(transaction.connection, draft)
    return start(transaction, draft)


def hold(transaction: Transaction, experiment: Experiment, held: Hold) -> list[str]:
    """Lets new visitors count for the week for which a winner is held back, where they would not; once."""
    from cro_core.decision.inputs import hold_ends_at  # the statistics take long to load

    until = hold_ends_at(experiment, held)
    longer = plans.extended(experiment, until)
    if longer == experiment:
        return []
    experiments.lengthen(transaction.connection, longer)
    name = experiment.ordered[held.challenger].name
    before, after = ({"enrolment_ends_at": iso(e.epochs[-1].ends_at)} for e in (experiment, longer))
    transaction.log(HOLD, experiment.id, before=before, after=after | {"held_back": name})
    return [f"{experiment.id}: {name} is held back, new visitors count until {iso(until)}"]


def conclude(transaction: Transaction, experiment: Experiment, decision: Decision) -> list[str]:
    """Ends an experiment with its final decision; returns what was done, in words.

    A winner is shipped where the settings allow it, and it does not cost more than it brings; else shipping is
    proposed and the experiment waits, completed but not archived.
    """
    automation = transaction.home.config.automation
    decisions.add(transaction.connection, decision)
    won = decision.verdict is Verdict.SHIP
    shows = decision.winner is not None and (won or decision.unproven)
    proposes = shows and (decision.costs_more or (won and not automation.auto_declare_winners))
    status = Status.COMPLETED if proposes else Status.ARCHIVED
    ended = replace(experiment, status=status, ended_at=transaction.now, winner=decision.winner)
    experiments.update(transaction.connection, ended)
    transaction.log(
        CONCLUDE,
        experiment.id,
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
        propose_ship(transaction, ended, decision)
        return [*done, f"{experiment.id}: proposed to ship {decision.winner}, waiting for approval"]
    if shows:
        ship(transaction, ended, decision)
        return [*done, f"{experiment.slot}: shows {decision.winner} of {experiment.id}"]
    return done


def ship(transaction: Transaction, experiment: Experiment, decision: Decision) -> None:
    """Shows the decision's winner to everyone from now on."""
    variant = experiment.variant(decision.winner or "")
    if variant is None:
        raise InvalidInput(
            f"decision {decision.id} names no variant of {experiment.id} to ship: got {decision.winner!r}"
        )
    before = decisions.production(transaction.connection).get(experiment.slot)
    entry = {
        "since": transaction.now,
        "experiment_id": experiment.id,
        "variant": variant.key,
        "config": dict(variant.config),
        "asset_id": variant.asset_id,
        "unproven": decision.unproven,
        "decision_id": decision.id,
    }
    decisions.set_production(transaction.connection, experiment.slot, entry)
    transaction.log(PRODUCE, experiment.slot, before=before, after=entry)


def end_experiment(
    home: Home, experiment_id: str, *, now: datetime, actor: str, winner: str | None = None, reason: str = ""
) -> Experiment:
    """Ends a running or completed experiment by hand; ``winner`` is shipped as an unproven pick.

    Raises:
        NotFound: no such experiment.
        Conflict: it is not running.
        InvalidInput: ``winner`` is none of its variants.
    """
    with begin(home, now=now, actor=actor) as transaction:
        experiment = experiments.get(transaction.connection, experiment_id)
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
        experiments.update(transaction.connection, ended)
        withdraw(transaction, experiment_id)
        transaction.log(
            "experiment.end",
            experiment_id,
            before={"status": experiment.status},
            after={"status": ended.status, "winner": winner, "reason": reason},
        )
        if winner is not None:
            by_hand = Decision(experiment_id, now, Verdict.INCONCLUSIVE, (), (), winner=winner, unproven=True)
            ship(transaction, ended, by_hand)
        return ended
