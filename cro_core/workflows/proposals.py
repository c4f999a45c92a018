"""What the autopilot asks a person to agree to."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cro_core.clock import iso
from cro_core.domain import Decision, Experiment
from cro_core.hypotheses.backlog import Hypothesis
from cro_core.storage import decisions
from cro_core.workflows.feasibility import Patience


def propose_ship(
    connection: sa.Connection, experiment: Experiment, decision: Decision, now: datetime
) -> None:
    """Asks a person whether the decision's winner is to be shipped."""
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


def withdraw(connection: sa.Connection, subject: str, now: datetime) -> None:
    """Takes back what waits for an answer on an experiment or a hypothesis."""
    for proposal in decisions.recommendations(connection):
        if proposal["subject"] == subject:
            decisions.settle(connection, proposal["id"], decisions.WITHDRAWN, now)
