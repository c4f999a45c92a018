"""What a site's visitors did lately, by goal: how often, and with which amounts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from cro_core.analytics import definitions, event_scan
from cro_core.domain import EXPOSURE
from cro_core.storage import schema


@dataclass(frozen=True, slots=True)
class GoalHistory:
    """The events of the site's people-visitors within a time."""

    exposures: int = 0
    """Times that a visitor met an experiment."""
    times: int = 0
    """Times that one of the goals was reached."""
    with_amount: int = 0
    """Times that it came with an amount other than 0."""
    amount: float = 0.0
    """These amounts, added up."""
    reached: frozenset[str] = frozenset()
    """Goals that somebody reached."""


def goal_history(
    connection: sa.Connection,
    goals: Sequence[str],
    *,
    since: datetime,
    before: datetime,
    without: Collection[str] = (),
) -> GoalHistory:
    """Adds up what was posted within a time. Known robots and the site's own people are left out.

    Args:
        connection: the store.
        goals: event types that are goals.
        since: the first moment.
        before: the moment after the last.
        without: experiments whose own events are left out, such as imported and made-up ones.
    """
    events, wanted = schema.events.c, (EXPOSURE, *goals)
    with event_scan.opened(connection) as session:
        event_scan.view(
            session, "events", connection, COLUMNS, events.type.in_(wanted), since=since, before=before
        )
        event_scan.give(session, "wanted", type=wanted)
        event_scan.give(session, "without", experiment_id=list(without) or [""])
        rows = event_scan.run(session, BY_TYPE).fetchall()
    of_goals = [row for row in rows if row[0] != EXPOSURE]
    return GoalHistory(
        exposures=sum(row[1] for row in rows if row[0] == EXPOSURE),
        times=sum(row[1] for row in of_goals),
        with_amount=sum(row[2] for row in of_goals),
        amount=float(sum(row[3] for row in of_goals)),
        reached=frozenset(row[0] for row in of_goals),
    )


COLUMNS = ("type", "experiment_id", "value", "occurred_at", "bot", "internal")
"""Columns of the event table that are read."""

BY_TYPE = f"""
SELECT type, COUNT(*) AS times, COUNT(*) FILTER (WHERE value <> 0) AS with_amount,
       COALESCE(SUM(value ORDER BY value), 0) AS amount
FROM events
WHERE type IN (SELECT type FROM wanted) AND {definitions.HUMAN}
  AND COALESCE(experiment_id, ' ') NOT IN (SELECT experiment_id FROM without)
GROUP BY type
"""  # noqa: S608  words of this package
