"""What became of an experiment's leads offline, as far as it was imported: shown beside the decision."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from cro_core.analytics import engines, reader
from cro_core.decision.offline_outcomes import outcomes
from cro_core.domain import Experiment, Status
from cro_core.evidence import Outcomes
from cro_core.storage.outcome_store import goals


def measure_outcomes(
    connection: sa.Connection, experiment: Experiment, as_of: datetime, *, engine: str = engines.DUCKDB
) -> tuple[Outcomes, ...]:
    """The outcomes of an experiment up to a moment, one entry for each goal that was ever imported.

    Which visitors count, and which of them are leads, is as the decision sees it: as of the experiment's end
    where it has ended. Empty where no outcome was ever imported.
    """
    names = goals(connection)
    if not names or experiment.started_at is None or experiment.status is Status.DRAFT:
        return ()
    moment = experiment.judged_at(as_of)
    with reader.reading(connection, experiment, moment, engine=engine) as reading:
        return tuple(outcomes(experiment, name, reading.outcomes(name, as_of)) for name in names)
