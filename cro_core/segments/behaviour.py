"""What visitors of each variant do: goals, engagement score, and how long until they convert."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from scipy.special import stdtrit

from cro_core.domain import Cell, Experiment
from cro_core.segments.findings import ConversionRate, EngagementScore, GoalRate, TimeToConvert, rate_of
from cro_core.statistics.survival import Curve, kaplan_meier, quantiles

MOST_POINTS = 200
"""Most points of a survival curve that are kept."""

NO_CURVE = Curve((), (), (), (), (), (), ())


def totals(experiment: Experiment, cells: Sequence[Cell]) -> dict[str, ConversionRate]:
    """Counts visitors and conversions of each variant, the control first."""
    level = 1 - experiment.plan.alpha
    return {variant.key: rate_of(_sum(cells, variant.key, "units"), _sum(cells, variant.key, "conversions"), level)
            for variant in experiment.ordered}  # fmt: skip


def goal_rates(
    experiment: Experiment, cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]]
) -> tuple[GoalRate, ...]:
    """Computes how many visitors reached each goal, and how often per visitor, by goal and variant."""
    level = 1 - experiment.plan.alpha
    rows_by = {(row["goal"], row["variant"]): row for row in rows}
    rates = []
    for goal in experiment.plan.goals:
        for variant in experiment.ordered:
            n, row = _sum(cells, variant.key, "units"), rows_by.get((goal.name, variant.key), {})
            mean = _mean(n, row.get("times", 0), row.get("times_sumsq", 0), level)
            rates.append(GoalRate(goal.name, variant.key, rate_of(n, row.get("reached", 0), level), *mean))
    return tuple(rates)


def scores(experiment: Experiment, cells: Sequence[Cell]) -> tuple[EngagementScore, ...]:
    """Computes the mean engagement score of each variant."""
    scores = []
    for variant in experiment.ordered:
        n, total, squares = (_sum(cells, variant.key, name) for name in ("units", "score_sum", "score_sumsq"))
        scores.append(
            EngagementScore(variant.key, int(n), *_mean(n, total, squares, 1 - experiment.plan.alpha))
        )
    return tuple(scores)


def times(experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> tuple[TimeToConvert, ...]:
    """Estimates the time to conversion in each variant; a reason stands there where the data tell no times."""
    return tuple(
        _time(variant.key, [row for row in rows if row["variant"] == variant.key], experiment)
        for variant in experiment.ordered
    )


def _time(variant: str, rows: Sequence[Mapping[str, Any]], experiment: Experiment) -> TimeToConvert:
    units = sum(int(row["units"]) for row in rows)
    conversions = [row for row in rows if row["converted"]]
    converted = sum(int(row["units"]) for row in conversions)
    timeless = TimeToConvert(variant, units, converted, NO_CURVE, (), None)
    if not converted:
        return replace(timeless, reason="nobody has converted yet")
    if experiment.plan.goal_at_exposure and all(row["seconds"] == 0 for row in conversions):
        return replace(
            timeless, reason="every conversion has the very time of its exposure: the data tell no time"
        )
    level = 1 - experiment.plan.alpha
    seconds, ended, counts = (
        [float(row[name]) for row in rows] for name in ("seconds", "converted", "units")
    )
    curve = kaplan_meier(seconds, ended, counts, level)
    median = next((t for t, s in zip(curve.times, curve.survival, strict=True) if s <= 0.5 + 1e-12), None)
    return replace(
        timeless, curve=_thinned(curve), quartiles=tuple(quantiles(curve, level=level)), median=median
    )


def _thinned(curve: Curve) -> Curve:
    """The curve at few enough times: the first, the last, and times between that are evenly spaced in events."""
    if len(curve.times) <= MOST_POINTS:
        return curve
    events = np.cumsum(curve.events)
    even = np.searchsorted(events, np.linspace(events[0], events[-1], MOST_POINTS))
    places = sorted(set(even.tolist()))
    parts = {
        field.name: tuple(getattr(curve, field.name)[place] for place in places) for field in fields(Curve)
    }
    ends = [int(events[place]) for place in places]
    parts["events"] = tuple(np.diff([0, *ends]).tolist())
    return Curve(**parts)


def _sum(cells: Sequence[Cell], variant: str, name: str) -> float:
    return float(sum(getattr(cell, name) for cell in cells if cell.variant == variant))


def _mean(
    n: float, total: float, squares: float, level: float
) -> tuple[float | None, float | None, float | None]:
    """A mean over visitors with Student's interval."""
    if not n:
        return None, None, None
    mean = float(total) / n
    if n < 2:
        return mean, None, None
    variance = max(float(squares) - mean * float(total), 0.0) / (n - 1)
    half = -float(stdtrit(n - 1, (1 - level) / 2)) * math.sqrt(variance / n)
    return mean, mean - half, mean + half
