"""Secondary metrics: what else each challenger changes, beside conversion.

A secondary metric is the engagement score, the amounts per visitor, the rate of each goal, or a ratio of two
sums. It informs; only the primary conversion decides. Its p-value is that of one look: an experiment that
ended early was ended by its primary metric, and whatever goes with that looks a little better than it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from cro_core.domain import Cell, Experiment, Measured
from cro_core.errors import InvalidInput
from cro_core.evidence import Family, MetricResult
from cro_core.metrics.by_day import Days
from cro_core.metrics.kinds import metrics_of
from cro_core.metrics.metric import Metric
from cro_core.metrics.sums import Counted, counted, epochs_of
from cro_core.planning.plans import progress
from cro_core.statistics.combination import reached
from cro_core.statistics.multiplicity import benjamini_hochberg, holm

ADJUSTMENTS = {"holm": holm, "benjamini_hochberg": benjamini_hochberg}

Strategy = Callable[[Metric, Counted, Counted], MetricResult]
"""How a metric compares the control with a challenger."""


def secondary(
    experiment: Experiment, cells: Sequence[Cell], measured: Measured, *, as_of: datetime
) -> Family:
    """The secondary metrics of every challenger, as of a moment.

    Args:
        experiment: a started experiment.
        cells: its counted units per epoch and variant.
        measured: what was counted beside them at the same moment (``analytics.reader.Reading.measured``).
        as_of: the moment of the look, UTC; says how much of the planned traffic is in.

    Returns:
        Every metric of every challenger, whether it could be computed or not; p-values are adjusted over all
        of them. The only primary goal of an experiment is not among them: it is the primary metric.

    Raises:
        InvalidInput: sums that no data can have, or an unknown adjustment.
    """
    plan = experiment.plan
    if plan.adjustment not in ADJUSTMENTS:
        raise InvalidInput(
            f"adjustment is {plan.adjustment!r}: choose from {', '.join(ADJUSTMENTS)}", field="adjustment"
        )
    compare = strategy(experiment, epochs_of(experiment, cells), as_of)
    counts, metrics = counted(experiment, cells, measured), metrics_of(experiment, cells)
    control = counts[experiment.control.key]
    results = [
        compare(metric, control, counts[challenger.key])
        for challenger in experiment.challengers
        for metric in metrics
    ]
    adjusted = ADJUSTMENTS[plan.adjustment]([r.p_value for r in results])
    family = tuple(replace(r, p_adjusted=p) for r, p in zip(results, adjusted, strict=True))
    return Family(plan.adjustment, 1 - plan.alpha, family)


def strategy(experiment: Experiment, epochs: Sequence[int], as_of: datetime) -> Strategy:
    """All units at once where shares are fixed; each day in itself where they may move.

    Args:
        experiment: a started experiment.
        epochs: its epochs, at least one; more than one are the days between which shares may move.
        as_of: the moment of the look, UTC.
    """
    level = 1 - experiment.plan.alpha
    if len(epochs) == 1:
        return lambda metric, control, challenger: metric.pooled(control, challenger, level)
    planned = [epoch.weight for epoch in experiment.epochs] or [1.0]
    days = Days(reached(planned, progress(experiment, as_of)[0]), level)
    return lambda metric, control, challenger: metric.by_day(control, challenger, days)
