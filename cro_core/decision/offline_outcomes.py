"""What became of leads long after they were counted, such as bookings: by variant, beside the decision.

An outcome belongs to the variant of its visitor's first exposure, however much later it happens. It decides
nothing: by the time it comes, the experiment has mostly ended. A *lead* is a counted visitor who converted. What
a variant does to outcomes shows per exposed visitor; per lead tells how good the leads are, where a variant may
also have changed who becomes one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit

from cro_core.domain import Experiment
from cro_core.evidence import Estimate, OutcomeComparison, Outcomes, VariantOutcomes
from cro_core.statistics.means import Sums, welch
from cro_core.statistics.proportions import difference, wilson

LEVEL = 0.95
"""Confidence level of every interval of offline outcomes."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Visitors, how many of them had an outcome, and their amounts."""

    n: int
    reached: int
    amounts: Sums


def outcomes(experiment: Experiment, goal: str, rows: Sequence[Mapping[str, Any]]) -> Outcomes:
    """The outcomes of an experiment.

    Args:
        experiment: says which variants there are.
        goal: name of the outcome.
        rows: one for each variant that counted visitors met, as :data:`cro_core.analytics.definitions.OUTCOMES` selects them.
    """
    row_of = {row["variant"]: row for row in rows}
    nothing = dict.fromkeys(COLUMNS, 0)
    groups = {
        v.key: (_leads(row_of.get(v.key, nothing)), _units(row_of.get(v.key, nothing)))
        for v in experiment.variants
    }
    arms = []
    for v in experiment.variants:
        row, (leads, units) = row_of.get(v.key, nothing), groups[v.key]
        arms.append(
            VariantOutcomes(
                v.key, v.name or v.key, v.is_control, units.n, leads.n, int(row["outcomes"]), int(row["lead_outcomes"]),
                float(row["value"]), _rate(leads), _mean(leads), _rate(units), _mean(units),
            )
        )  # fmt: skip
    base = groups[experiment.control.key]
    contrasts = [
        OutcomeComparison(
            v.key,
            *(
                part
                for control, mine in zip(base, groups[v.key], strict=True)
                for part in _relative(control, mine)
            ),
        )
        for v in experiment.challengers
    ]
    return Outcomes(goal, tuple(arms), tuple(contrasts), sum(int(row["before"]) for row in rows))


COLUMNS = (
    "units", "leads", "outcomes", "lead_outcomes", "units_reached", "leads_reached",
    "value", "value_sumsq", "lead_value", "lead_value_sumsq", "before",
)  # fmt: skip
"""Columns of the selection, beside the variant."""


def _leads(row: Mapping[str, Any]) -> _Group:
    n = int(row["leads"])
    return _Group(
        n, int(row["leads_reached"]), Sums(n, float(row["lead_value"]), float(row["lead_value_sumsq"]))
    )


def _units(row: Mapping[str, Any]) -> _Group:
    n = int(row["units"])
    return _Group(n, int(row["units_reached"]), Sums(n, float(row["value"]), float(row["value_sumsq"])))


def _rate(group: _Group) -> Estimate:
    interval = wilson(group.n, group.reached, LEVEL)
    return Estimate(interval.estimate, interval.low, interval.high)


def _mean(group: _Group) -> Estimate:
    n, total = group.n, group.amounts.total
    if not n:
        return Estimate()
    if n < 2:
        return Estimate(total / n)
    variance = max(group.amounts.squares - total * total / n, 0.0) / (n - 1)
    half = -float(stdtrit(n - 1, (1 - LEVEL) / 2)) * math.sqrt(variance / n)
    return Estimate(total / n, total / n - half, total / n + half)


def _relative(control: _Group, variant: _Group) -> tuple[Estimate, Estimate]:
    """The rate and the mean amount, relative to the control's."""
    rate = difference(control.n, control.reached, variant.n, variant.reached, LEVEL)
    mean = welch(control.amounts, variant.amounts, LEVEL)
    return (
        Estimate(rate.relative, rate.relative_low, rate.relative_high),
        Estimate(mean.relative, mean.relative_low, mean.relative_high),
    )
