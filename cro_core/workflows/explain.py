"""Where a number comes from: from what was received to what is counted, with the SQL behind each step."""

from __future__ import annotations

from datetime import datetime

from cro_core.analytics import counts, reader
from cro_core.analytics.completeness import complete_until, extent
from cro_core.analytics.explanation import Explanation, explanation
from cro_core.home import Home
from cro_core.storage import experiments


def explain(home: Home, experiment_id: str, *, as_of: datetime, now: datetime) -> Explanation:
    """The waterfall of an experiment, with its SQL; changes nothing.

    Args:
        home: where it is.
        experiment_id: a started experiment.
        as_of: the moment of the look.
        now: the moment of asking.

    Raises:
        NotFound: no such experiment.
        Conflict: it has not started.
    """
    with home.db.read() as connection:
        experiment = experiments.get(connection, experiment_id)
        moment = experiment.judged_at(as_of)
        with reader.reading(connection, experiment, moment) as reading:
            steps = reading.waterfall()
            totals, cut = counts.totals(experiment, reading.cells()), reading.cut
        stored = extent(connection, experiment, moment)
    until = complete_until(experiment, as_of, now)
    return explanation(experiment, moment, steps, totals, stored, until, cut)
