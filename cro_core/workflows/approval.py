"""A person's answer to what was proposed: carried out, or declined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from cro_core.domain import Status
from cro_core.home import Home
from cro_core.storage import decisions, experiments
from cro_core.workflows.lifecycle import adopt, ship
from cro_core.workflows.transaction import Transaction, begin


def approve(home: Home, recommendation_id: str, *, now: datetime, actor: str) -> str:
    """Carries out what was proposed; returns what was done, in words.

    Raises:
        NotFound: no such recommendation.
        Conflict: it is settled already, or can no longer be done.
    """
    with begin(home, now=now, actor=actor) as transaction:
        proposal = decisions.settle(transaction.connection, recommendation_id, decisions.APPROVED, now)
        transaction.log("recommendation.approve", recommendation_id)
        return _CARRY_OUT[proposal["kind"]](transaction, proposal)


def reject(home: Home, recommendation_id: str, *, now: datetime, actor: str) -> str:
    """Declines what was proposed; an experiment that waited for it is archived.

    Raises:
        NotFound: no such recommendation.
        Conflict: it is settled already.
    """
    with begin(home, now=now, actor=actor) as transaction:
        proposal = decisions.settle(transaction.connection, recommendation_id, decisions.REJECTED, now)
        transaction.log("recommendation.reject", recommendation_id)
        if proposal["kind"] == "ship":
            experiment = experiments.get(transaction.connection, proposal["subject"])
            experiments.update(
                transaction.connection, replace(experiment, status=Status.ARCHIVED, winner=None)
            )
        return f"{recommendation_id} rejected"


def _carry_out_ship(transaction: Transaction, proposal: Mapping[str, Any]) -> str:
    connection = transaction.connection
    experiment = experiments.get(connection, proposal["subject"])
    decision = decisions.get(connection, proposal["payload"]["decision"])
    ship(transaction, experiment, decision)
    experiments.update(connection, replace(experiment, status=Status.ARCHIVED))
    return f"{experiment.slot}: shows {decision.winner} of {experiment.id}"


def _carry_out_start(transaction: Transaction, proposal: Mapping[str, Any]) -> str:
    from cro_core.workflows.open_backlog import find

    hypothesis = find(transaction.connection, transaction.home, proposal["subject"])
    return adopt(transaction, hypothesis, weeks=proposal["payload"].get("weeks")).text()


_CARRY_OUT: Mapping[str, Callable[[Transaction, Mapping[str, Any]], str]] = {
    "ship": _carry_out_ship,
    "start": _carry_out_start,
}
