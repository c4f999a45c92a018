"""What the autopilot asks a person to agree to."""

from __future__ import annotations

from typing import Any

from cro_core.clock import iso
from cro_core.domain import Experiment
from cro_core.evidence import Decision
from cro_core.hypotheses.backlog import Hypothesis
from cro_core.storage import decisions
from cro_core.workflows.feasibility import Patience
from cro_core.workflows.transaction import Transaction


def propose_ship(transaction: Transaction, experiment: Experiment, decision: Decision) -> None:
    """Asks a person whether the decision's winner is to be shipped."""
    decisions.recommend(
        transaction.connection,
        {
            "id": f"ship:{experiment.id}",
            "kind": "ship",
            "subject": experiment.id,
            "status": decisions.PENDING,
            "created_at": transaction.now,
            "text": decision.text,
            "payload": {"decision": decision.id, "variant": decision.winner},
        },
    )


def propose_start(transaction: Transaction, hypothesis: Hypothesis, patience: Patience | None = None) -> bool:
    """Asks a person to start an experiment; False where that is asked already."""
    text = f"Start {hypothesis.id}: {hypothesis.statement}"
    payload: dict[str, Any] = {"hypothesis": hypothesis.id}
    if patience is not None:
        text = f"Start {hypothesis.id} for {patience.weeks} weeks: {hypothesis.statement} {patience.why}"
        payload["weeks"] = patience.weeks
    return decisions.recommend(
        transaction.connection,
        {
            "id": f"start:{hypothesis.id}:{iso(transaction.now)}",
            "kind": "start",
            "subject": hypothesis.id,
            "status": decisions.PENDING,
            "created_at": transaction.now,
            "text": text,
            "payload": payload,
        },
    )


def withdraw(transaction: Transaction, subject: str) -> None:
    """Takes back what waits for an answer on an experiment or a hypothesis."""
    for proposal in decisions.recommendations(transaction.connection):
        if proposal["subject"] == subject:
            decisions.settle(transaction.connection, proposal["id"], decisions.WITHDRAWN, transaction.now)
