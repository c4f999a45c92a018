"""Writes events: each at most once, with a receipt for everything that was posted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from cro_core.clock import to_micros
from cro_core.domain import EXPOSURE, Event
from cro_core.storage import schema
from cro_core.storage.database import Row, add_counts, hold_sealed_days, insert_new, keep_earliest
from cro_core.storage.seals import already_sealed

if TYPE_CHECKING:  # it brings pydantic's models of all that can be posted
    from cro_core.ingest.cleaning import Rejection

EXPOSURE_ORDER = ("exposed_at", "event_id")
"""Columns that say which of two exposures of a unit is the earlier, whichever arrived first."""


@dataclass(frozen=True, slots=True)
class Posted:
    """The events and rejected items that one request or one batch brings."""

    events: Sequence[Event]
    rejected: Sequence[Rejection]
    received_at: datetime
    unstored: int = 0
    """Items that are counted, and deliberately not stored: those of visitors who opted out."""


def record(
    connection: sa.Connection, events: Sequence[Event], rejected: Sequence[Rejection], received_at: datetime
) -> int:
    """Stores what one batch brings, as :func:`record_all` does for many; returns how many of its events were new."""
    return record_all(connection, [Posted(events, rejected, received_at)])[0]


def record_all(connection: sa.Connection, posts: Sequence[Posted]) -> list[int]:
    """Stores new events, their first exposures, the rejected items and the receipts, in the caller's transaction.

    Returns:
        For each post how many of its events were new; the others had been stored before, or stand twice in
        ``posts``.
    """
    hold_sealed_days(connection, exclusive=False)
    first: dict[str, int] = {}
    candidates: list[Event] = []
    for number, post in enumerate(posts):
        for event in post.events:
            if event.id not in first:
                first[event.id] = number
                candidates.append(event)
    sealed = already_sealed(connection, first.keys())
    rows = [_row(event) for event in candidates if event.id not in sealed]
    new = insert_new(connection, schema.events, rows)
    fresh = [event for event in candidates if event.id in new]
    keep_earliest(connection, schema.exposures, _earliest_exposures(fresh), EXPOSURE_ORDER)
    for post in posts:
        _quarantine(connection, post.rejected, post.received_at)
    _count(connection, posts, fresh)
    accepted = Counter(first[event.id] for event in fresh)
    return [accepted[number] for number in range(len(posts))]


def _count(connection: sa.Connection, posts: Sequence[Posted], fresh: Sequence[Event]) -> None:
    fresh_of = Counter(event.experiment_id or "" for event in fresh)
    posted_of = Counter(event.experiment_id or "" for post in posts for event in post.events)
    outcomes = {
        "accepted": fresh_of,
        "duplicate": posted_of - fresh_of,
        "rejected": Counter(rejection.experiment_id or "" for post in posts for rejection in post.rejected),
        "opted_out": Counter({"": sum(post.unstored for post in posts)}),
    }
    add_counts(
        connection,
        {
            (experiment_id, outcome): count
            for outcome, counts in outcomes.items()
            for experiment_id, count in counts.items()
            if count
        },
    )


def sticky_variants(
    connection: sa.Connection, unit: str, experiment_ids: Sequence[str]
) -> dict[str, sa.RowMapping]:
    """Finds the unit's first stored exposure, by experiment id, in those of the experiments that it met."""
    table = schema.exposures
    met = sa.select(table).where(table.c.experiment_id.in_(experiment_ids), table.c.unit == unit)
    return {row["experiment_id"]: row for row in connection.execute(met).mappings()}


def totals(connection: sa.Connection) -> dict[str, int]:
    """Counts everything that was posted to the home, by outcome."""
    receipts = schema.receipts
    rows = connection.execute(
        sa.select(receipts.c.outcome, sa.func.sum(receipts.c.count)).group_by(receipts.c.outcome)
    )
    return {outcome: int(count) for outcome, count in rows}


def _row(event: Event) -> Row:
    """Lists the values of the event table's columns, as the driver takes them; written out, for each event passes here."""
    return (
        event.id,
        event.experiment_id,
        event.variant,
        event.type,
        event.unit,
        event.session,
        event.device,
        event.city,
        event.country,
        to_micros(event.occurred_at),
        to_micros(event.received_at),
        event.value,
        event.asset_id,
        event.occasion,
        event.url,
        None if event.properties is None else json.dumps(event.properties),
        event.epoch,
        event.propensity,
        event.bot,
        event.internal,
    )


def _earliest_exposures(events: Sequence[Event]) -> list[Row]:
    """Makes a row for each unit and experiment that these events expose: exposures that never count are none."""
    earliest: dict[tuple[str | None, str], Event] = {}
    for event in events:
        if event.type == EXPOSURE and event.human:
            key = (event.experiment_id, event.unit)
            former = earliest.setdefault(key, event)
            if former is not event and (event.occurred_at, event.id) < (former.occurred_at, former.id):
                earliest[key] = event
    return [_exposure(event) for event in earliest.values()]


def _exposure(event: Event) -> Row:
    """Lists the values of the exposure table's columns."""
    return (
        event.experiment_id,
        event.unit,
        event.id,
        event.variant,
        event.epoch,
        event.propensity,
        to_micros(event.occurred_at),
        event.device,
        event.city,
        event.country,
        event.occasion,
        event.asset_id,
        event.url,
    )


def _quarantine(connection: sa.Connection, rejected: Sequence[Rejection], received_at: datetime) -> None:
    if rejected:
        rows = [
            {
                "received_at": received_at,
                "experiment_id": rejection.experiment_id,
                "reason": rejection.error,
                "payload": rejection.payload,
            }
            for rejection in rejected
        ]
        connection.execute(sa.insert(schema.quarantine), rows)
