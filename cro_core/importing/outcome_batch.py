"""Whose the outcomes of a batch are, and storing them: each once, as an event of its visitor, or in quarantine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cro_core.analytics import event_scan
from cro_core.domain import EXPOSURE
from cro_core.importing.outcome_table import OutcomeBatch, OutcomeRow
from cro_core.ingest.cleaning import Rejection, Rules
from cro_core.ingest.cleaning_by_column import clean_columns
from cro_core.storage import events, outcome_store, schema

SEVERAL = ""
"""Stands in the place of a unit where the lead's events name more than one."""

POSTED = ("id", "unit", "type", "properties")

LEADS = """
SELECT lead, CASE WHEN MIN(unit) = MAX(unit) THEN MIN(unit) ELSE '' END AS unit
FROM (
    SELECT a.wanted AS lead, p.unit
    FROM posted p JOIN asked a ON a.wanted = p.id
    WHERE p.type <> $exposure
    UNION ALL
    SELECT a.wanted, p.unit
    FROM (
        SELECT unit, json_extract_string(properties, '$.lead_id') AS lead
        FROM posted
        WHERE type <> $exposure AND contains(properties, '"lead_id"')
    ) AS p JOIN asked a ON a.wanted = p.lead
) AS found
GROUP BY lead
"""
"""A lead is told by the id of an event, or by ``properties.lead_id``; :data:`SEVERAL` where they disagree."""


@dataclass(frozen=True, slots=True)
class PlacedOutcomes:
    """The rows of a batch, each outcome once."""

    stored_before: int
    """Rows whose outcome is stored already, or stands in another row too."""
    good: list[tuple[OutcomeRow, str]]
    """Outcomes that can be stored, with the unit that each belongs to."""
    bad: list[tuple[OutcomeRow, str]]
    """Outcomes for the quarantine, with the reason."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a batch."""

    counts: Counter[str]
    """``rows``, ``stored``, ``known`` (stored before), and each reason for the quarantine; all but ``rows`` add up to it."""
    first: dict[str, int]
    """The first row of each reason, counted from 1 below the header."""


def place(connection: sa.Connection, batch: OutcomeBatch) -> PlacedOutcomes:
    """Whose the outcomes of a batch are, as far as that is known; changes nothing."""
    stored, units = _known(connection, batch)
    distinct = {row.id: row for row in reversed(batch.rows)}
    good: list[tuple[OutcomeRow, str]] = []
    bad: list[tuple[OutcomeRow, str]] = []
    for row in batch.rows:
        if row is not distinct[row.id] or row.id in stored:
            continue
        unit = units.get(row.who or "")
        if row.problem is None and unit:
            good.append((row, unit))
        elif row.problem is None and unit == SEVERAL:
            bad.append((row, "the lead belongs to several visitors"))
        else:
            bad.append(
                (row, row.problem or f"the {'lead' if batch.by_lead else 'visitor'} is not known here")
            )
    return PlacedOutcomes(len(batch.rows) - len(good) - len(bad), good, bad)


def store(connection: sa.Connection, batch: OutcomeBatch, placed: PlacedOutcomes, now: datetime) -> Stored:
    """Stores the outcomes that are new and known, and keeps the others in quarantine, once."""
    units = {unit for _, unit in placed.good}
    # Units are hashes already; whatever else a rejection quotes is hashed.
    rules = Rules({}, now, lambda text: text if text in units else batch.hash_id(text))
    accepted, refused = clean_columns(_columns(batch, placed), rules)
    bad = [*placed.bad, *((placed.good[r.index][0], r.error) for r in refused)]
    waiting = outcome_store.quarantined(connection, {row.id for row in batch.rows})
    rejections = [Rejection(row.number, reason, row.payload) for row, reason in bad if row.id not in waiting]
    new = events.record(connection, accepted, rejections, now)
    outcome_store.release(connection, [waiting[event.id] for event in accepted if event.id in waiting])
    counts = Counter(reason for _, reason in bad)
    counts += Counter(rows=len(batch.rows), stored=new, known=placed.stored_before + len(accepted) - new)
    return Stored(counts, {reason: row.number for row, reason in reversed(bad)})


def _columns(batch: OutcomeBatch, placed: PlacedOutcomes) -> dict[str, list[Any]]:
    """The outcomes with a unit as columns of events."""
    return {
        "id": [row.id for row, _ in placed.good],
        "event_type": [batch.goal] * len(placed.good),
        "user_id": [unit for _, unit in placed.good],
        "timestamp": [row.time for row, _ in placed.good],
        "value": [row.value for row, _ in placed.good],
    }


def _known(connection: sa.Connection, batch: OutcomeBatch) -> tuple[set[str], Mapping[str, str]]:
    """Which of the outcomes are stored already, and the unit of each lead or visitor that is known."""
    named = sorted({row.who for row in batch.rows if row.who})
    with event_scan.opened(connection) as session:
        wanted = schema.events.c.type == batch.goal
        if batch.by_lead:
            wanted = schema.events.c.type != EXPOSURE
        event_scan.view(session, "posted", connection, POSTED, wanted)
        event_scan.give(session, "asked", wanted=named or [""])
        event_scan.give(session, "own", wanted=[row.id for row in batch.rows])
        stored = session.execute(
            "SELECT DISTINCT p.id FROM posted p JOIN own ON own.wanted = p.id"
        ).fetchall()
        units = dict(session.execute(LEADS, {"exposure": EXPOSURE}).fetchall()) if batch.by_lead else {}
    if not batch.by_lead:
        units = {unit: unit for unit in outcome_store.exposed(connection, named)}
    return {name for (name,) in stored}, units
