"""Visitors who met more than one variant: a health check beside the split.

A visitor stays with the first variant met, whatever else was shown later. Those who cross blur the difference between
the variants, and where they cross more often from one variant than from another they can forge one.
"""

from __future__ import annotations

from scipy.special import chdtrc

from cro_core.domain import Reason
from cro_core.evidence import Crossing, CrossingFrom

CAUTION = 0.01
"""Part of the visitors who crossed from which on it is said."""

UNEQUAL = 0.001
"""P-value below which visitors are said to cross more often from one variant than from another."""

CHECK = (
    "A lost cookie, a page cached for several visitors, or two devices of one login do that: check that a visitor keeps "
    "the same id, and that no cache holds pages with a variant in them."
)


def crossing_reasons(crossing: Crossing | None) -> tuple[Reason, ...]:
    """What is to be said of visitors who crossed; nothing below :data:`CAUTION`."""
    reason = crossing_reason(crossing)
    return () if reason is None else (reason,)


def crossing_reason(crossing: Crossing | None) -> Reason | None:
    """What is to be said of visitors who crossed: ``crossing``, or ``crossing_veto`` where they are too many.

    ``None`` where they were not counted, or are fewer than :data:`CAUTION` and than the plan allows.
    """
    if crossing is None or (crossing.share < CAUTION and crossing_veto(crossing) is None):
        return None
    numbers = f"{crossing.units:,} of {crossing.exposed:,}"
    said = f"{crossing.share:.1%} of the visitors met more than one variant ({numbers}), which blurs the difference. "
    said += _unequal(crossing.arms)
    if crossing_veto(crossing) is None:
        return Reason("crossing", said + CHECK)
    limit = (
        f"That is more than the {100 * crossing.limit:.3g}% that the plan allows, so nothing wins by itself. "
    )
    return Reason("crossing_veto", said + limit + CHECK)


def crossing_veto(crossing: Crossing | None) -> str | None:
    """Why nothing may win, where more visitors crossed than the plan allows."""
    if crossing is None or crossing.share <= crossing.limit:
        return None
    return f"{crossing.share:.1%} of the visitors met more than one variant."


def _unequal(arms: tuple[CrossingFrom, ...]) -> str:
    """Says from which variant visitors cross most, where that is no chance."""
    seen = [arm for arm in arms if arm.exposed]
    units, exposed = sum(arm.units for arm in seen), sum(arm.exposed for arm in seen)
    if len(seen) < 2 or not 0 < units < exposed:
        return ""
    part = units / exposed
    spread = part * (1 - part)
    statistic = sum((arm.units - arm.exposed * part) ** 2 / (arm.exposed * spread) for arm in seen)
    if chdtrc(len(seen) - 1, statistic) >= UNEQUAL:
        return ""
    most, least = (choose(seen, key=lambda arm: arm.share) for choose in (max, min))
    return (
        f"It is not the same for all, which can forge a difference too: {most.share:.1%} of the visitors who met "
        f"{most.name} first, {least.share:.1%} of those who met {least.name} first. "
    )
