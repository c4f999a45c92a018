"""What visitors of each variant do: goals, engagement score, and how long until they convert."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from scipy.special import stdtrit

from cro_core.domain import Cell, Experiment
from cro_core.segments.findings import GoalRate, Rate, Score, TimeToConvert, rate_of
from cro_core.statistics.survival import Curve, kaplan_meier, quantiles

MOST_POINTS = 200
"""Points of a survival curve that are kept."""

NO_CURVE = Curve((), (), (), (), (), (), ())


def totals(experiment: Experiment, cells: Sequence[Cell]) -> dict[str, Rate]:
    """Variant -> its visitors, the control first."""
    level = 1 - experiment.plan.alpha
    return {v.key: rate_of(_sum(cells, v.key, "units"), _sum(cells, v.key, "conversions"), level)
            for v in experiment.ordered}  # fmt: skip


def goal_rates(
    experiment: Experiment, cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]]
) -> tuple[GoalRate, ...]:
    """How many visitors reached each goal, and how often per visitor, by goal and variant."""
    level = 1 - experiment.plan.alpha
    found = {(row["goal"], row["variant"]): row for row in rows}
    rates = []
    for goal in experiment.plan.goals:
        for v in experiment.ordered:
            n, row = _sum(cells, v.key, "units"), found.get((goal.name, v.key), {})
            mean = _mean(n, row.get("times", 0), row.get("times_sumsq", 0), level)
            rates.append(GoalRate(goal.name, v.key, rate_of(n, row.get("reached", 0), level), *mean))
    return tuple(rates)


def scores(experiment: Experiment, cells: Sequence[Cell]) -> tuple[Score, ...]:
    """The mean engagement score by variant."""
    found = []
    for v in experiment.ordered:
        n, total, squares = (_sum(cells, v.key, name) for name in ("units", "score_sum", "score_sumsq"))
        found.append(Score(v.key, int(n), *_mean(n, total, squares, 1 - experiment.plan.alpha)))
    return tuple(found)


def times(experiment: Experiment, rows: Sequence[Mapping[str, Any]]) -> tuple[TimeToConvert, ...]:
    """The time to conversion by variant; without times where none are told."""
    return tuple(
        _time(v.key, [r for r in rows if r["variant"] == v.key], experiment) for v in experiment.ordered
    )


def _time(variant: str, rows: Sequence[Mapping[str, Any]], experiment: Experiment) -> TimeToConvert:
    units = sum(int(r["units"]) for r in rows)
    done = [r for r in rows if r["converted"]]
    converted = sum(int(r["units"]) for r in done)
    nothing = TimeToConvert(variant, units, converted, NO_CURVE, (), None)
    if not converted:
        return replace(nothing, reason="nobody has converted yet")
    if experiment.plan.goal_at_exposure and all(r["seconds"] == 0 for r in done):
        return replace(
            nothing, reason="every conversion has the very time of its exposure: the data tell no time"
        )
    level = 1 - experiment.plan.alpha
    seconds, ended, seen = ([float(r[name]) for r in rows] for name in ("seconds", "converted", "units"))
    curve = kaplan_meier(seconds, ended, seen, level)
    half = next((t for t, s in zip(curve.times, curve.survival, strict=True) if s <= 0.5 + 1e-12), None)
    return replace(
        nothing, curve=_thinned(curve), quartiles=tuple(quantiles(curve, level=level)), median=half
    )


def _thinned(curve: Curve) -> Curve:
    """The curve at few enough times: the first, the last, and times between that are evenly spaced in events."""
    if len(curve.times) <= MOST_POINTS:
        return curve
    done = np.cumsum(curve.events)
    wanted = np.searchsorted(done, np.linspace(done[0], done[-1], MOST_POINTS))
    places = sorted(set(wanted.tolist()))
    parts = {f.name: tuple(getattr(curve, f.name)[i] for i in places) for f in fields(Curve)}
    ends = [int(done[i]) for i in places]
    parts["events"] = tuple(np.diff([0, *ends]).tolist())
    return Curve(**parts)


def _sum(cells: Sequence[Cell], variant: str, name: str) -> float:
    return float(sum(getattr(c, name) for c in cells if c.variant == variant))


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
