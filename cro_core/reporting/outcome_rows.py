"""What became of leads later, as people read it: rows of a table, and a sentence for each challenger."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cro_core.domain import Json
from cro_core.reporting import words

HEADER = ("version", "leads", "outcomes", "per lead", "per visitor", "value a lead")
NOTE = (
    "These came later and decide nothing. What a version does to them shows per visitor; "
    "per lead shows how good its leads are."
)


def title(outcome: Json, experiment: str = "") -> str:
    """``booked: 12 outcomes``, of one experiment where it is named."""
    total = sum(arm["outcomes"] for arm in outcome["arms"])
    before = outcome["before"]
    left = f"; {words.some(before, 'more', 'more')} from before the visit" if before else ""
    of = f" of “{experiment}”" if experiment else ""
    return f"{outcome['goal']}{of}: {words.some(total, 'outcome')}{left}"


def rows(outcome: Json) -> Iterator[tuple[str, ...]]:
    """A row for each variant, in the columns of :data:`HEADER`."""
    for arm in outcome["arms"]:
        yield (
            f"{arm['name']} (control)" if arm["is_control"] else arm["name"],
            words.count(arm["leads"]),
            words.count(arm["outcomes"]),
            words.percent(arm["per_lead"]["value"]),
            words.percent(arm["per_unit"]["value"]),
            amount(arm["value_per_lead"]["value"]),
        )


def ranges(outcome: Json) -> Iterator[str]:
    """A sentence for each variant with its intervals, then one for each challenger against the control."""
    names = {arm["variant"]: arm["name"] for arm in outcome["arms"]}
    for arm in outcome["arms"]:
        lead, unit, value = arm["per_lead"], arm["per_unit"], arm["value_per_lead"]
        yield (
            f"{arm['name']}: {words.percent(lead['low'])} to {words.percent(lead['high'])} per lead, "
            f"{words.percent(unit['low'])} to {words.percent(unit['high'])} per visitor, "
            f"value a lead {amount(value['low'])} to {amount(value['high'])}, "
            f"a visitor {amount(arm['value_per_unit']['value'])} "
            f"({amount(arm['value_per_unit']['low'])} to {amount(arm['value_per_unit']['high'])})."
        )
    for contrast in outcome["contrasts"]:
        parts = (("per visitor", "per_unit"), ("value a visitor", "value_per_unit"), ("per lead", "per_lead"),
                 ("value a lead", "value_per_lead"))  # fmt: skip
        told = ", ".join(f"{what} {_relative(contrast[key])}" for what, key in parts)
        yield f"{names[contrast['variant']]} against the control: {told}."


def amount(value: float | None) -> str:
    """``19.90``."""
    return words.UNKNOWN if value is None else f"{value:,.2f}".replace("-", "−")


def _relative(estimate: Any) -> str:
    if estimate["value"] is None:
        return words.UNKNOWN
    return f"{words.signed(estimate['value'])} ({words.interval(estimate['low'], estimate['high'])})"
