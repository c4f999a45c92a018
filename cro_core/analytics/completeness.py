"""Up to when the numbers of an experiment are complete, and where their events are."""

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
    """Version of the lake with the sealed days; ``None`` before anything was sealed."""
    hot: int
    """How many events are in the database."""
    sealed: int
    """How many events are in the lake."""
    newest_event: datetime | None
    """When the last event happened; ``None`` without events."""
    newest_arrival: datetime | None
    """When the last event arrived; ``None`` without events."""


def complete_until(experiment: Experiment, as_of: datetime, now: datetime) -> datetime:
    """Returns the moment before which everybody first exposed is counted, as far as their events have arrived.

    Those who came later may still convert, and are left out; in a file imported as a whole nobody is.
    """
    moment = min(experiment.judged_at(as_of), now)
    return moment if experiment.plan.finished else moment - experiment.plan.window


def extent(connection: sa.Connection, experiment: Experiment, as_of: datetime) -> Extent:
    """Finds out where the events of an experiment are, and how new they are.

    Raises:
        Conflict: the experiment has not started.
    """
    parameters = definitions.parameters(experiment, as_of)
    needed = {name: parameters[name] for name in ("experiment", "started_at", "last_goal_at", "as_of")}
    events = schema.events.c
    of_experiment = sa.or_(events.experiment_id == experiment.id, events.experiment_id.is_(None))
    with event_scan.opened(connection) as session:
        event_scan.view(session, "stored", connection, COLUMNS, of_experiment)
        number, event, arrival = event_scan.run(
            session, f"{EXTENT} FROM stored {OF_EXPERIMENT}", needed
        ).fetchall()[0]
        hot, _, _ = event_scan.run(
            session, f"{EXTENT} FROM stored_unsealed {OF_EXPERIMENT}", needed
        ).fetchall()[0]
    newest = (None if moment is None else from_micros(moment) for moment in (event, arrival))
    return Extent(seals.current(connection), hot, number - hot, *newest)


COLUMNS = ("experiment_id", "occurred_at", "received_at")
EXTENT = "SELECT COUNT(*), MAX(occurred_at), MAX(received_at)"
OF_EXPERIMENT = f"WHERE {definitions.RELEVANT} AND occurred_at < $as_of"
