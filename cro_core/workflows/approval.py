"""A person's answer to what was proposed: carried out, or declined."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cro_core.domain import Status
from cro_core.home import Home
from cro_core.storage import decisions, experiments, journal
from cro_core.workflows.lifecycle import adopt, ship


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


_CARRY_OUT: Mapping[str, Callable[[sa.Connection, Home, Mapping[str, Any], datetime, str], str]] = {
    "ship": _carry_out_ship,
    "start": _carry_out_start,
}
