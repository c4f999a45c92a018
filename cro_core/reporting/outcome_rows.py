"""What became of leads later, as people read it: rows of a table, and a sentence for each challenger."""

from __future__ import annotations

from collections.abc import Iterator

from cro_core.evidence import Estimate, Outcomes
from cro_core.reporting import words

HEADER = ("version", "leads", "outcomes", "per lead", "per visitor", "value a lead")
NOTE = (
    "These came later and decide nothing. What a version does to them shows per visitor; "
    "per lead shows how good its leads are."
)


def title(outcome: Outcomes, experiment: str = "") -> str:
    """``booked: 12 outcomes``, of one experiment where it is named."""
    total = sum(arm.outcomes for arm in outcome.arms)
    before = outcome.before
    left = f"; {words.some(before, 'more', 'more')} from before the visit" if before else ""
    of = f" of “{experiment}”" if experiment else ""
    return f"{outcome.goal}{of}: {words.some(total, 'outcome')}{left}"


def rows(outcome: Outcomes) -> Iterator[tuple[str, ...]]:
    """A row for each variant, in the columns of :data:`HEADER`."""
    for arm in outcome.arms:
        yield (
            f"{arm.name} (control)" if arm.is_control else arm.name,
            words.count(arm.leads),
            words.count(arm.outcomes),
            words.percent(arm.per_lead.value),
            words.percent(arm.per_unit.value),
            amount(arm.value_per_lead.value),
        )


def ranges(outcome: Outcomes) -> Iterator[str]:
    """A sentence for each variant with its intervals, then one for each challenger against the control."""
    names = {arm.variant: arm.name for arm in outcome.arms}
    for arm in outcome.arms:
        lead, unit, value = arm.per_lead, arm.per_unit, arm.value_per_lead
        yield (
            f"{arm.name}: {words.percent(lead.low)} to {words.percent(lead.high)} per lead, "
            f"{words.percent(unit.low)} to {words.percent(unit.high)} per visitor, "
            f"value a lead {amount(value.low)} to {amount(value.high)}, "
            f"a visitor {amount(arm.value_per_unit.value)} "
            f"({amount(arm.value_per_unit.low)} to {amount(arm.value_per_unit.high)})."
        )
    for contrast in outcome.contrasts:
        parts = (
            f"per visitor {_relative(contrast.per_unit)}",
            f"value a visitor {_relative(contrast.value_per_unit)}",
            f"per lead {_relative(contrast.per_lead)}",
            f"value a lead {_relative(contrast.value_per_lead)}",
        )
        yield f"{names[contrast.variant]} against the control: {', '.join(parts)}."


def amount(value: float | None) -> str:
    """An amount of money to two digits, such as ``19.90``."""
    return words.UNKNOWN if value is None else f"{value:,.2f}".replace("-", "−")


def _relative(estimate: Estimate) -> str:
    if estimate.value is None:
        return words.UNKNOWN
    return f"{words.signed(estimate.value)} ({words.interval(estimate.low, estimate.high)})"
