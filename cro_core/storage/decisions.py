"""Decisions, what the site shows, and what waits for a person."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cro_core.clock import parse_time
from cro_core.domain import Cell, Reason, Verdict, to_json
from cro_core.errors import Conflict, NotFound
from cro_core.evidence import Decision
from cro_core.storage import schema
from cro_core.storage.evidence_json import evidence_from_json, evidence_to_json
from cro_core.storage.experiments import bump_revision

PENDING, APPROVED, REJECTED, WITHDRAWN = "pending", "approved", "rejected", "withdrawn"


def add(connection: sa.Connection, decision: Decision) -> None:
    """Stores a decision; it is never changed afterwards.

    Raises:
        Conflict: one of that id (an experiment at a minute) is stored already.
    """
    table = schema.decisions
    if connection.scalar(sa.select(table.c.id).where(table.c.id == decision.id)) is not None:
        raise Conflict(
            f"decision {decision.id} is stored already: an experiment is decided once a minute at most"
        )
    connection.execute(
        sa.insert(table).values(
            id=decision.id,
            experiment_id=decision.experiment_id,
            as_of=decision.as_of,
            verdict=decision.verdict.value,
            record=to_record(decision),
        )
    )


def get(connection: sa.Connection, decision_id: str) -> Decision:
    """The decision of that id.

    Raises:
        NotFound: there is none.
    """
    return from_record(get_record(connection, decision_id))


def get_record(connection: sa.Connection, decision_id: str) -> dict[str, Any]:
    """The decision of that id as it was stored, with whatever another version may have put in it.

    Raises:
        NotFound: there is none.
    """
    table = schema.decisions
    record: dict[str, Any] | None = connection.scalar(
        sa.select(table.c.record).where(table.c.id == decision_id)
    )
    if record is None:
        raise NotFound(f"decision {decision_id!r} does not exist here: `cro status` lists the last ones")
    return record


def latest(
    connection: sa.Connection,
    experiment_id: str | None = None,
    limit: int | None = 50,
    verdict: Verdict | None = None,
) -> list[Decision]:
    """The newest decisions first, of one experiment or of all, of one verdict or of any."""
    table = schema.decisions
    condition = table.c.experiment_id == experiment_id if experiment_id else sa.true()
    if verdict is not None:
        condition = sa.and_(condition, table.c.verdict == verdict.value)
    query = (
        sa.select(table.c.record)
        .where(condition)
        .order_by(table.c.as_of.desc(), table.c.id.desc())
        .limit(limit)
    )
    return [from_record(record) for record in connection.scalars(query)]


def to_record(decision: Decision) -> dict[str, Any]:
    """The decision as JSON: as it is stored, and as people and programs get it."""
    return {**to_json(decision), "evidence": evidence_to_json(decision.evidence)}


def from_record(record: Mapping[str, Any]) -> Decision:
    """The inverse of :func:`to_record`."""
    return Decision(
        **{
            **record,
            "as_of": parse_time(record["as_of"]),
            "verdict": Verdict(record["verdict"]),
            "reasons": tuple(Reason(**r) for r in record["reasons"]),
            "cells": tuple(Cell(**c) for c in record["cells"]),
            "evidence": evidence_from_json(record["evidence"]),
        }
    )


def production(connection: sa.Connection) -> dict[str, dict[str, Any]]:
    """Slot -> what the site shows there now."""
    rows = connection.execute(sa.select(schema.production).order_by(schema.production.c.slot)).mappings()
    return {row["slot"]: dict(row) for row in rows}


def set_production(connection: sa.Connection, slot: str, entry: Mapping[str, Any] | None) -> None:
    """Shows ``entry`` in the slot from now on; ``None`` empties the slot."""
    connection.execute(sa.delete(schema.production).where(schema.production.c.slot == slot))
    if entry is not None:
        connection.execute(sa.insert(schema.production).values(**{**entry, "slot": slot}))
    bump_revision(connection)


def recommend(connection: sa.Connection, recommendation: Mapping[str, Any]) -> bool:
    """Stores something for a person to decide, once: False where the same one is pending already."""
    table = schema.recommendations
    same = sa.select(table.c.id).where(
        table.c.kind == recommendation["kind"],
        table.c.subject == recommendation["subject"],
        table.c.status == PENDING,
    )
    if connection.scalar(same) is not None:
        return False
    connection.execute(sa.insert(table).values(**recommendation))
    return True


def recommendations(connection: sa.Connection, status: str | None = PENDING) -> list[dict[str, Any]]:
    """Recommendations of a status (``None``: all), oldest first."""
    table = schema.recommendations
    condition = table.c.status == status if status else sa.true()
    rows = connection.execute(
        sa.select(table).where(condition).order_by(table.c.created_at, table.c.id)
    ).mappings()
    return [dict(row) for row in rows]


def settle(connection: sa.Connection, recommendation_id: str, status: str, now: datetime) -> dict[str, Any]:
    """Marks a pending recommendation as approved, rejected or withdrawn, and returns it.

    Raises:
        NotFound: no recommendation of that id.
        Conflict: it is settled already.
    """
    table = schema.recommendations
    row = connection.execute(sa.select(table).where(table.c.id == recommendation_id)).mappings().one_or_none()
    if row is None:
        pending = ", ".join(r["id"] for r in recommendations(connection)) or "(nothing is pending)"
        raise NotFound(f"recommendation {recommendation_id!r} does not exist: pending are {pending}")
    if row["status"] != PENDING:
        raise Conflict(f"recommendation {recommendation_id} is {row['status']} already")
    connection.execute(
        sa.update(table).where(table.c.id == recommendation_id).values(status=status, settled_at=now)
    )
    return dict(row)
