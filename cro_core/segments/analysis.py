"""Segment analysis: who converts, when and where, by device, place, time and page, and what may be said about it.

Four questions are asked, and each has an equal part of the error that is allowed (the experiment's alpha):

* ``matters``: do the values of a dimension convert differently at all?
* ``stands_out``: does one value convert unlike all others?
* ``effect``: is what a variant does different from value to value, or in one value unlike in all others?
* ``together``: do two dimensions make something that neither makes alone ("mobile in the evening")?

Within a question all tests are one family (Holm). So the chance of any false claim is at most alpha for each
analysis: it holds for everything that was asked at once, looked at once. What the variants do over all visitors
is no question here, because the experiment's decision answers it; where the values of a dimension may come with a
variant (asset, page, occasion), or shares moved between days, values are compared inside each variant.

Only ``effect`` rests on chance assignment. The others tell what goes together, not what causes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from cro_core.analytics.counts import Facet
from cro_core.domain import Cell, Experiment
from cro_core.errors import InvalidInput
from cro_core.segments import behaviour
from cro_core.segments.claims import claims_of, summary
from cro_core.segments.findings import DIMENSIONS, PAIRS, SegmentAnalysis
from cro_core.segments.tables import SegmentTable, adjusted

SURE = "Everything here is as if looked at once; while a test runs, looking again and again finds what is not there."
TOGETHER = (
    "Device, place, time and page were not assigned by chance: they tell who converts, not what makes them."
)


def analyse(
    experiment: Experiment,
    facets: Iterable[Facet],
    *,
    as_of: datetime,
    cells: Sequence[Cell],
    dimensions: Sequence[str] = DIMENSIONS,
    goals: Sequence[Mapping[str, Any]] = (),
    durations: Sequence[Mapping[str, Any]] = (),
    split_alarms: bool = False,
) -> SegmentAnalysis:
    """Compares the segments of an experiment with each other, from counts of their visitors.

    Args:
        experiment: what the counts are of.
        facets: counted units by each of the dimensions, and by :func:`pairs_of` them.
        as_of: the moment of the counts.
        cells: the same units by variant, for the totals and the engagement score.
        dimensions: those asked for; they make the family of tests.
        goals: rows of :data:`cro_core.analytics.segment_definitions.GOAL_TIMES`.
        durations: rows of :data:`cro_core.analytics.segment_definitions.DURATIONS`.
        split_alarms: whether visitors were not divided as planned: then no effect is claimed.

    Raises:
        InvalidInput: a dimension is unknown.
    """
    names = check_dimensions(dimensions)
    facets_by: dict[tuple[str, ...], list[Facet]] = defaultdict(list)
    for facet in facets:
        facets_by[facet.by].append(facet)
    groupings = [(name,) for name in names] + list(pairs_of(names))
    tables = [SegmentTable(experiment, by, facets_by[by], effects=not split_alarms) for by in groupings]
    tested = adjusted([(test, table) for table in tables for test in table.tests()])
    alpha = experiment.plan.alpha
    claims = claims_of(tested, alpha)
    running = experiment.ended_at is None and not experiment.plan.finished
    return SegmentAnalysis(
        experiment_id=experiment.id,
        as_of=as_of,
        running=running,
        alpha=alpha,
        dimensions=names,
        variants=behaviour.totals(experiment, cells),
        slices=tuple(piece for table in tables if len(table.by) == 1 for piece in table.slices()),
        tests=tuple(test for test, _ in tested),
        claims=claims,
        goals=behaviour.goal_rates(experiment, cells, goals),
        scores=behaviour.scores(experiment, cells),
        times=behaviour.times(experiment, durations),
        notes=_notes(tables, running=running, split_alarms=split_alarms),
        said=summary([test for test, _ in tested], claims, alpha),
    )


def check_dimensions(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the dimensions to analyse by, each once.

    Raises:
        InvalidInput: one of them is unknown, or there is none.
    """
    unknown = [name for name in names if name not in DIMENSIONS]
    if unknown or not names:
        got = f"dimension {unknown[0]!r} is unknown" if unknown else "no dimension is given"
        raise InvalidInput(f"{got}: choose from {', '.join(DIMENSIONS)}", field="by")
    return tuple(dict.fromkeys(names))


def pairs_of(dimensions: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Pairs of the dimensions that are also analysed together; for them the hour becomes a time of day."""
    names = {"time of day" if name == "hour" else name for name in dimensions}
    return tuple(pair for pair in PAIRS if names.issuperset(pair))


def _notes(tables: Sequence[SegmentTable], *, running: bool, split_alarms: bool) -> tuple[str, ...]:
    unrecorded = [table.by[0] for table in tables if len(table.by) == 1 and not table.has_values]
    notes = [SURE] if running else []
    notes.append(TOGETHER)
    if split_alarms:
        notes.append(
            "Visitors were not divided between the variants as planned: no effect of a variant is told."
        )
    if unrecorded:
        notes.append(f"No exposure says its {', '.join(unrecorded)}.")
    return tuple(notes)
