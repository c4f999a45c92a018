"""What a number rests on: up to when it is complete, and where its events are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from cro_core.analytics import definitions, event_scan
from cro_core.clock import from_micros
from cro_core.domain import Experiment
from cro_core.storage import schema, seals


@dataclass(frozen=True, slots=True)
class Extent:
    """The stored events that an experiment is counted from, as of a moment: its own, and the site's while it ran."""

    lake_version: int | None
    """Of the sealed days; ``None`` before anything was sealed."""
    hot: int
    """Events that are in the database."""
    sealed: int
    """Events that are in the lake."""
    newest_event: datetime | None
    """When the last of them happened."""
    newest_arrival: datetime | None
    """When the last of them arrived; ``None`` without events."""


def complete_until(experiment: Experiment, as_of: datetime, now: datetime) -> datetime:
    """Visitors whose first exposure was before it are all counted, as far as their events have arrived.

    Those who came later may still convert, and are left out; in a file imported as a whole nobody is.
    """
    moment = min(experiment.judged_at(as_of), now)
    return moment if experiment.plan.finished else moment - experiment.plan.window


def extent(connection: sa.Connection, experiment: Experiment, as_of: datetime) -> Extent:
    """Where the events of an experiment are, and how new they are.

    Raises:
        Conflict: the experiment has not started.
    """
    given = definitions.parameters(experiment, as_of)
    named = {name: given[name] for name in ("experiment", "started_at", "last_goal_at", "as_of")}
    events = schema.events.c
    wanted = sa.or_(events.experiment_id == experiment.id, events.experiment_id.is_(None))
    with event_scan.opened(connection) as session:
        event_scan.view(session, "stored", connection, COLUMNS, wanted)
        number, event, arrival = event_scan.run(session, f"{EXTENT} FROM stored {KEPT}", named).fetchall()[0]
        hot, _, _ = event_scan.run(session, f"{EXTENT} FROM stored_unsealed {KEPT}", named).fetchall()[0]
    newest = (None if moment is None else from_micros(moment) for moment in (event, arrival))
    return Extent(seals.current(connection), hot, number - hot, *newest)


COLUMNS = ("experiment_id", "occurred_at", "received_at")
EXTENT = "SELECT COUNT(*), MAX(occurred_at), MAX(received_at)"
KEPT = f"WHERE {definitions.RELEVANT} AND occurred_at < $as_of"
