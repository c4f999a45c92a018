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
from cro_core.statistics.means import Sums, welch
from cro_core.statistics.proportions import difference, wilson

LEVEL = 0.95
"""Of every interval here."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A rate or a mean with its interval; ``None`` where the data tell nothing."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class OutcomeArm:
    """The outcomes of one variant."""

    variant: str
    name: str
    is_control: bool
    units: int
    """Counted visitors."""
    leads: int
    """Those of them who converted."""
    outcomes: int
    """Outcomes of counted visitors, at or after their exposure; a visitor may have several."""
    of_leads: int
    """Those of leads."""
    value: float
    """Amounts of all these outcomes, added up."""
    per_lead: Estimate
    """Part of the leads that had an outcome (Wilson's interval)."""
    value_per_lead: Estimate
    """Amount per lead, those without an outcome included (Student's interval)."""
    per_unit: Estimate
    """Part of the counted visitors that had an outcome, leads or not."""
    value_per_unit: Estimate
    """Amount per counted visitor."""


@dataclass(frozen=True, slots=True)
class OutcomeContrast:
    """A challenger's outcomes relative to the control's: variant / control - 1, 0.1 is +10 %."""

    variant: str
    per_lead: Estimate
    value_per_lead: Estimate
    per_unit: Estimate
    value_per_unit: Estimate


@dataclass(frozen=True, slots=True)
class Outcomes:
    """One kind of outcome in one experiment."""

    goal: str
    arms: tuple[OutcomeArm, ...]
    """In the experiment's order."""
    contrasts: tuple[OutcomeContrast, ...]
    """A challenger each."""
    before: int
    """Outcomes of counted visitors from before they met the experiment: left out."""


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
    found = {row["variant"]: row for row in rows}
    nothing = dict.fromkeys(COLUMNS, 0)
    groups = {
        v.key: (_leads(found.get(v.key, nothing)), _units(found.get(v.key, nothing)))
        for v in experiment.variants
    }
    arms = []
    for v in experiment.variants:
        row, (leads, units) = found.get(v.key, nothing), groups[v.key]
        arms.append(
            OutcomeArm(
                v.key, v.name or v.key, v.is_control, units.n, leads.n, int(row["outcomes"]), int(row["lead_outcomes"]),
                float(row["value"]), _rate(leads), _mean(leads), _rate(units), _mean(units),
            )
        )  # fmt: skip
    base = groups[experiment.control.key]
    contrasts = [
        OutcomeContrast(
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
"""Of the selection, beside the variant."""


def _leads(row: Mapping[str, Any]) -> _Group:
    n = int(row["leads"])
    return _Group(
        n, int(row["leads_reached"]), Sums(n, float(row["lead_value"]), float(row["lead_value_sumsq"]))
    )


def _units(row: Mapping[str, Any]) -> _Group:
    n = int(row["units"])
    return _Group(n, int(row["units_reached"]), Sums(n, float(row["value"]), float(row["value_sumsq"])))


def _rate(group: _Group) -> Estimate:
    found = wilson(group.n, group.reached, LEVEL)
    return Estimate(found.estimate, found.low, found.high)


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
