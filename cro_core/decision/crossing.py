"""Visitors who met more than one variant: a health check beside the split.

A visitor stays with the first variant met, whatever else was shown later. Those who cross blur the difference between
the variants, and where they cross more often from one variant than from another they forge one.
"""

from __future__ import annotations

from cro_core.domain import Reason
from cro_core.evidence import Crossing

CAUTION = 0.01
"""Part of the visitors who crossed from which on it is said."""

WHY = "A lost cookie, a page cached for several visitors, or two devices of one login do that"


def crossing_reasons(crossing: Crossing | None) -> tuple[Reason, ...]:
    """What is to be said of visitors who crossed; nothing below :data:`CAUTION`."""
    if crossing is None or crossing.share < CAUTION:
        return ()
    told = f"{crossing.share:.1%} of the visitors met more than one variant ({crossing.units:,} of {crossing.exposed:,})"
    if crossing_veto(crossing) is None:
        text = f"{told}: that blurs the difference. {WHY}."
        return (Reason("crossing", text),)
    text = f"{told}, more than {crossing.limit:.0%}: nothing wins by itself. {WHY}."
    return (Reason("crossing_veto", text),)


def crossing_veto(crossing: Crossing | None) -> str | None:
    """Why nothing may win, where too many visitors crossed."""
    if crossing is None or crossing.share <= crossing.limit:
        return None
    return f"{crossing.share:.1%} of the visitors met more than one variant."
