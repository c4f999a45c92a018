"""Writing events: each at most once, with a receipt for everything that was posted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cro_core.domain import EXPOSURE, Event
from cro_core.ingestion import Rejection
from cro_core.storage import schema
from cro_core.storage.database import add_counts, insert_new, keep_earliest

EVENT_FIELDS = tuple(f.name for f in fields(Event))


def record(
    connection: sa.Connection, events: Sequence[Event], rejected: Sequence[Rejection], received_at: datetime
) -> int:
    """Stores new events, their first exposures, the rejected items and the receipts, in the caller's transaction.

    Returns:
        How many events were new; the others had been stored before (or stand twice in ``events``).
    """
    new_ids = insert_new(connection, schema.events, [_row(event) for event in events])
    fresh = _first_of_each(events, new_ids)
    keep_earliest(connection, schema.exposures, _earliest_exposures(fresh), "exposed_at")
    _quarantine(connection, rejected, received_at)
    fresh_of = Counter(e.experiment_id or "" for e in fresh)
    posted_of = Counter(e.experiment_id or "" for e in events)
    outcomes = {
        "accepted": fresh_of,
        "duplicate": posted_of - fresh_of,
        "rejected": Counter(r.experiment_id or "" for r in rejected),
    }
    add_counts(connection, {(e, outcome): n for outcome, by in outcomes.items() for e, n in by.items()})
    return len(new_ids)


def count_unstored(connection: sa.Connection, outcome: str, number: int) -> None:
    """Counts posted events that are deliberately not stored (opted-out visitors)."""
    add_counts(connection, {("", outcome): number})


def sticky_variants(connection: sa.Connection, unit: str) -> dict[str, sa.RowMapping]:
    """Experiment id -> the unit's first stored exposure."""
    table = schema.exposures
    rows = connection.execute(sa.select(table).where(table.c.unit == unit)).mappings()
    return {row["experiment_id"]: row for row in rows}


def exposed_units(connection: sa.Connection, experiment_id: str) -> int:
    """How many units have met the experiment, mature or not."""
    table = schema.exposures
    return connection.scalar(sa.select(sa.func.count()).where(table.c.experiment_id == experiment_id)) or 0


def totals(connection: sa.Connection) -> dict[str, int]:
    """Posted events of the whole home by outcome, stored rows and quarantine."""
    receipts = schema.receipts
    rows = connection.execute(
        sa.select(receipts.c.outcome, sa.func.sum(receipts.c.count)).group_by(receipts.c.outcome)
    )
    return {outcome: int(count) for outcome, count in rows}


def _row(event: Event) -> dict[str, Any]:
    return {name: getattr(event, name) for name in EVENT_FIELDS}


CONTEXT = ("variant", "epoch", "propensity", "device", "city", "country", "occasion", "asset_id", "url")


def _earliest_exposures(events: Sequence[Event]) -> list[dict[str, Any]]:
    """A row for each unit and experiment that these events expose: bots' exposures are none."""
    found: dict[tuple[str, str | None], Event] = {}
    for event in events:
        if event.type == EXPOSURE and not event.bot:
            key = (event.unit, event.experiment_id)
            if key not in found or event.occurred_at < found[key].occurred_at:
                found[key] = event
    return [
        {
            "unit": e.unit,
            "experiment_id": e.experiment_id,
            "event_id": e.id,
            "exposed_at": e.occurred_at,
            **{name: getattr(e, name) for name in CONTEXT},
        }
        for e in found.values()
    ]


def _first_of_each(events: Sequence[Event], ids: set[str]) -> list[Event]:
    """The events whose id was new, each once although a batch may repeat it."""
    first: dict[str, Event] = {}
    for event in events:
        if event.id in ids:
            first.setdefault(event.id, event)
    return list(first.values())


def _quarantine(connection: sa.Connection, rejected: Sequence[Rejection], received_at: datetime) -> None:
    if rejected:
        rows = [
            {
                "received_at": received_at,
                "experiment_id": r.experiment_id,
                "reason": r.error,
                "payload": r.payload,
            }
            for r in rejected
        ]
        connection.execute(sa.insert(schema.quarantine), rows)
