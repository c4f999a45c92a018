"""The hourly cycle: evaluate, decide, ship and archive, plan tomorrow's shares, start what comes next, seal days."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa

from cro_core.assignment.allocation import next_shares, tempering
from cro_core.decision.decide import Judgement
from cro_core.decision.inputs import aggregates
from cro_core.domain import Epoch, Experiment, Status, to_json
from cro_core.errors import Busy
from cro_core.evidence import Decision
from cro_core.home import Home
from cro_core.hypotheses.backlog import Hypothesis
from cro_core.storage import decisions, experiments, journal, look_states, split_alarms
from cro_core.workflows import feasibility, lifecycle, open_backlog, proposals
from cro_core.workflows.evaluate import evaluate_within
from cro_core.workflows.seal import seal
from cro_core.workflows.transaction import AUTOPILOT, Transaction, begin

log = logging.getLogger(__name__)

PLAN_AHEAD = timedelta(hours=1)
"""An hourly cycle falls exactly once into the last hour of a day."""


@dataclass(frozen=True, slots=True)
class CycleReport:
    """What one cycle saw and did."""

    at: datetime
    evaluated: int = 0
    decisions: tuple[Decision, ...] = ()
    """One for each running experiment, most of them ``continue``."""
    changes: tuple[str, ...] = ()
    """What was changed, in words."""
    failures: tuple[dict[str, str], ...] = field(default=())
    """Experiments that could not be handled, with the error; the others were."""
    skipped: str | None = None
    """Why no experiment was looked at, where that is so."""

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON; decisions by id, verdict and text."""
        brief = [
            {
                "id": d.id,
                "experiment": d.experiment_id,
                "verdict": d.verdict,
                "winner": d.winner,
                "text": d.text,
            }
            for d in self.decisions
        ]
        data: dict[str, Any] = to_json(replace(self, decisions=()))
        return data | {"decisions": brief}


def orchestrate(home: Home, *, now: datetime, actor: str = AUTOPILOT, conclude: bool = True) -> CycleReport:
    """Runs one cycle. One failing experiment never stops the others.

    Args:
        home: the site.
        now: the moment of the cycle.
        actor: who is named in the audit trail.
        conclude: False leaves experiments whose decision is final to a cycle that may end them.

    Raises:
        Busy: another cycle is running.
    """
    with home.lock("cycle"):
        cycle = _Cycle(home, now, actor, conclude)
        if not home.config.automation.enabled:  # a person decides then, but events are stored and age as ever
            cycle.attempt("(sealing)", cycle.seal)
            skipped = "automation.enabled is false: no experiment was looked at"
            return replace(cycle.report(), skipped=skipped)
        for experiment_id in cycle.running():
            cycle.attempt(experiment_id, partial(cycle.advance, experiment_id))
        cycle.attempt("(drafts)", cycle.start_drafts)
        cycle.attempt("(backlog)", cycle.start_from_backlog)
        cycle.attempt("(sealing)", cycle.seal)
        return cycle.report()


def foresee(home: Home, *, now: datetime) -> list[Decision]:
    """The final decisions that a cycle would take now; changes nothing."""
    with home.db.read() as connection:
        running = experiments.with_status(connection, Status.RUNNING)
        judgements = [evaluate_within(connection, experiment, now) for experiment in running]
    return [judgement.decision for judgement in judgements if judgement.decision.final]


class _Cycle:
    """The work of one cycle and its growing report."""

    def __init__(self, home: Home, now: datetime, actor: str, conclude: bool) -> None:
        self.home, self.now, self.actor, self.conclude = home, now, actor, conclude
        self.decisions: list[Decision] = []
        self.changes: list[str] = []
        self.failures: list[dict[str, str]] = []

    def begin(self) -> AbstractContextManager[Transaction]:
        return begin(self.home, now=self.now, actor=self.actor)

    def report(self) -> CycleReport:
        return CycleReport(
            self.now, len(self.decisions), tuple(self.decisions), tuple(self.changes), tuple(self.failures)
        )

    def running(self) -> list[str]:
        with self.home.db.read() as connection:
            return [e.id for e in experiments.with_status(connection, Status.RUNNING)]

    def attempt(self, subject: str, step: Callable[[], list[str]]) -> None:
        """Runs a step; one that fails is reported, logged and audited, and the others go on."""
        try:
            self.changes += step()
        except Exception as error:
            log.exception("cycle: %s failed", subject)
            failure = {"experiment": subject, "error": f"{type(error).__name__}: {error}"}
            self.failures.append(failure)
            with self.begin() as transaction:
                transaction.log("cycle.failure", subject, after=failure)

    def advance(self, experiment_id: str) -> list[str]:
        """Evaluates one experiment, and ends it or plans its shares."""
        with self.home.db.read() as connection:  # counting takes a while, and events must come in meanwhile
            judgement = evaluate_within(connection, experiments.get(connection, experiment_id), self.now)
        decision = judgement.decision
        self.decisions.append(decision)
        with self.begin() as transaction:
            connection = transaction.connection
            experiment = experiments.get(connection, experiment_id)
            if experiment.status is not Status.RUNNING:
                return []  # a person ended it in between
            if judgement.look_taken and (self.conclude or not decision.final):
                look_states.add(connection, decision, judgement.state.as_json())
            self.remember_alarms(transaction, decision)
            if not decision.final:
                held = judgement.state.hold
                done = [] if held is None else lifecycle.hold(transaction, experiment, held)
                return done or self.refresh_allocation(transaction, experiment, judgement)
            if not self.conclude:
                return []
            return lifecycle.conclude(transaction, experiment, decision)

    def remember_alarms(self, transaction: Transaction, decision: Decision) -> None:
        """Stores what the check of the split has newly found, so that it stays until a person settles it."""
        splits = decision.evidence.splits
        if splits is None or not splits.alarms:
            return
        for alarm in split_alarms.add(transaction.connection, decision.experiment_id, splits.alarms):
            transaction.log("split.alarm", decision.experiment_id, after=to_json(alarm))

    def refresh_allocation(
        self, transaction: Transaction, experiment: Experiment, judgement: Judgement
    ) -> list[str]:
        """Gives the days to come, in a day's last hour, the shares that the mature units speak for.

        Today's shares are frozen, and a day's are changed once: a second cycle in that hour leaves them, and what
        a person has undone stays undone. Where this hour is missed, tomorrow keeps today's shares.
        """
        current = experiment.epoch_at(self.now)
        if not experiment.plan.adaptive or current is None or current.number + 1 >= len(experiment.epochs):
            return []
        if current.ends_at - self.now > PLAN_AHEAD or _are_planned(
            transaction.connection, experiment, current
        ):
            return []
        shares = _next_shares(experiment, judgement, current.number + 1)
        before = dict(experiment.epochs[current.number + 1].shares)
        if not experiments.set_future_shares(transaction.connection, experiment, shares, self.now):
            return []
        after = {"shares": shares, "from_epoch": current.number + 1}
        transaction.log(lifecycle.ALLOCATE, experiment.id, before={"shares": before}, after=after)
        return [
            f"{experiment.id}: shares from tomorrow are "
            + ", ".join(f"{k} {s:.0%}" for k, s in shares.items())
        ]

    def start_drafts(self) -> list[str]:
        """Starts what people have prepared, as far as there are free places."""
        if not self.home.config.automation.auto_start_new_tests:
            return []
        done: list[str] = []
        with self.begin() as transaction:
            free, taken = self._places(transaction.connection)
            for draft in experiments.with_status(transaction.connection, Status.DRAFT):
                if len(done) < free and draft.slot not in taken:
                    done.append(lifecycle.start(transaction, draft).text())
                    taken.add(draft.slot)
        return done

    def start_from_backlog(self) -> list[str]:
        """Fills the places that are left from the backlog; proposes where a person has to agree."""
        done: list[str] = []
        with self.begin() as transaction:
            connection = transaction.connection
            free, taken = self._places(connection)
            for hypothesis in open_backlog.open_backlog(connection, self.home) if free else ():
                if free and hypothesis.slot not in taken:
                    taken.add(hypothesis.slot)
                    free -= 1
                    done += self._start_or_propose(transaction, hypothesis)
        return done

    def seal(self) -> list[str]:
        """Moves closed days into the lake, and erases what is too old."""
        try:
            return list(seal(self.home, now=self.now, actor=self.actor).changes)
        except Busy:
            return []  # `cro seal` or `cro forget` does it just now

    def _places(self, connection: sa.Connection) -> tuple[int, set[str]]:
        """How many more experiments may run, and the slots that are not free."""
        taken = set(lifecycle.occupied_slots(connection))
        return max(0, self.home.config.automation.max_concurrent_tests - len(taken)), taken

    def _start_or_propose(self, transaction: Transaction, hypothesis: Hypothesis) -> list[str]:
        """Starts by itself what can tell; at low traffic it asks for one patient experiment at a time instead."""
        patience = feasibility.patience(transaction, hypothesis)
        if patience is not None:
            return self._propose_patience(transaction, hypothesis, patience)
        if self.home.config.automation.auto_start_new_tests:
            return [lifecycle.adopt(transaction, hypothesis).text(hypothesis.statement)]
        if proposals.propose_start(transaction, hypothesis):
            return [f"{hypothesis.id}: proposed to start, waiting for approval"]
        return []

    def _propose_patience(
        self, transaction: Transaction, hypothesis: Hypothesis, patience: feasibility.Patience
    ) -> list[str]:
        """One experiment at a time: nothing is proposed while one runs or waits for a person."""
        connection = transaction.connection
        waiting = [p for p in decisions.recommendations(connection) if p["kind"] == "start"]
        if waiting or experiments.with_status(connection, Status.RUNNING):
            return []
        proposals.propose_start(transaction, hypothesis, patience)
        return [f"{hypothesis.id}: proposed for {patience.weeks} weeks, waiting for approval. {patience.why}"]


def _are_planned(connection: sa.Connection, experiment: Experiment, today: Epoch) -> bool:
    """Whether a cycle of today has given the days to come their shares already."""
    changes = journal.trail(connection, subject=experiment.id, since=today.starts_at)
    return any(change["action"] == lifecycle.ALLOCATE for change in changes)


def _next_shares(experiment: Experiment, judgement: Judgement, epoch: int) -> dict[str, float]:
    """Shares for ``epoch`` from what the epochs before it have shown; nothing for dropped challengers."""
    seen = aggregates(experiment, judgement.decision.cells)
    shares = next_shares(
        seen.units[:epoch],
        seen.total[:epoch],
        floor=experiment.plan.floor,
        active=[True, *judgement.state.active],
        exponent=_exponent(experiment, epoch),
    )
    return {v.key: float(share) for v, share in zip(experiment.ordered, shares, strict=True)}


def _exponent(experiment: Experiment, epoch: int) -> float:
    """The power of the probability to be the best: tempered where two variants were planned.

    An experiment that began with three or more stays with a matched control to its end: where one challenger is
    left, the two share evenly, which is the strongest comparison, and the rule does not turn in mid-course.
    """
    tempered = experiment.plan.rule >= 2 and len(experiment.variants) == 2
    return tempering(epoch, len(experiment.epochs)) if tempered else 1.0
