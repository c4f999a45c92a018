"""Who converts, when and where, read from the store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from cro_core.analytics import reader
from cro_core.decision.split_check import check_split
from cro_core.decision.split_memory import remembered
from cro_core.domain import Experiment
from cro_core.home import Home
from cro_core.segments import analysis
from cro_core.segments.findings import DIMENSIONS, SegmentAnalysis
from cro_core.storage import experiments, split_alarms


def analyse(
    home: Home, experiment_id: str, *, as_of: datetime, by: Sequence[str] = DIMENSIONS
) -> SegmentAnalysis:
    """An experiment by device, place, time and page; one that has ended, as of its end. Changes nothing.

    Args:
        home: where it is.
        experiment_id: a started experiment.
        as_of: the moment of the look.
        by: what to look at it by; everything asked for is one family of tests.

    Raises:
        NotFound: no such experiment.
        Conflict: it has not started.
        InvalidInput: a dimension is unknown.
    """
    with home.db.read() as connection:
        return of_experiment(connection, experiments.get(connection, experiment_id), as_of, by)


def of_experiment(
    connection: sa.Connection, experiment: Experiment, as_of: datetime, by: Sequence[str] = DIMENSIONS
) -> SegmentAnalysis:
    """Analyses an experiment at hand by device, place, time and page, on an open connection."""
    chosen = analysis.check_dimensions(by)
    moment = experiment.judged_at(as_of)
    alarms = split_alarms.of(connection, experiment.id)  # none under the first rule
    with reader.reading(connection, experiment, moment) as reading:
        cells = reading.cells()
        pairs = analysis.pairs_of(chosen)
        facets = [
            facet for asked in [*((name,) for name in chosen), *pairs] for facet in reading.facets(*asked)
        ]
        return analysis.analyse(
            experiment,
            facets,
            as_of=moment,
            dimensions=chosen,
            cells=cells,
            goals=reading.goal_times(),
            durations=reading.durations(),
            split_alarms=remembered(
                experiment, check_split(experiment, cells, reading.times()), alarms, moment
            ).veto,
        )
