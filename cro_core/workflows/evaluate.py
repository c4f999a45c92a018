"""What would be decided now, and on what evidence: reads, computes, changes nothing."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from cro_core.decision import decide
from cro_core.domain import Decision, Experiment
from cro_core.home import Home
from cro_core.storage import analytics, experiments


def evaluate(home: Home, experiment_id: str, *, as_of: datetime) -> Decision:
    """The decision on one experiment as of a moment, with every input, and no side effect.

    Raises:
        NotFound: no such experiment.
        Conflict: it has not started.
    """
    with home.db.read() as connection:
        return judge(connection, experiments.get(connection, experiment_id), as_of)


def judge(connection: sa.Connection, experiment: Experiment, as_of: datetime) -> Decision:
    """:func:`evaluate` inside the caller's transaction."""
    cells = analytics.cells(connection, experiment, as_of)
    decision = decide(experiment, cells, as_of=as_of)
    if not decision.final:
        return decision
    return decide(
        experiment, cells, as_of=as_of, waterfall=analytics.waterfall(connection, experiment, as_of)
    )
