"""What the autopilot could have done and did not: rows of the report, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from cro_core.domain import Status, Verdict
from cro_core.reporting import words
from cro_core.reporting.sheets import ended_between
from cro_core.reporting.values import Refusal, Sheet

CONTINUE_ALPHA = 0.05
"""What a naive reader would call significant: where p falls below it early, the report says why nothing was done."""


def refusals(
    pages: Sequence[Sheet], start: datetime, end: datetime, *, enabled: bool, approval: bool
) -> tuple[Refusal, ...]:
    """What the autopilot could have done and did not, with the reason.

    Args:
        pages: every sheet of the report.
        start, end: the period; experiments that ended in it are considered.
        enabled: whether the autopilot may change anything at all.
        approval: whether a person has to agree before a winner is shown.
    """
    refused = (
        []
        if enabled
        else [Refusal("the autopilot", "Changed nothing at all", "The setting automation.enabled is off.")]
    )
    for page in pages:
        if ended_between(page, start, end):
            refused += _refused_at_end(page, approval)
        elif page.status is Status.RUNNING:
            refused += _refused_early(page)
    return tuple(refused)


NOT_SHIPPED = (
    Verdict.INCONCLUSIVE,
    Verdict.KEEP_CONTROL,
    Verdict.NO_PRACTICAL_GAIN,
    Verdict.GAIN_BELOW_MINIMUM,
)
"""Verdicts after which no challenger is shown."""

ASKED_FIRST = "Your settings ask for a person's approval first."


def _refused_at_end(page: Sheet, approval: bool) -> list[Refusal]:
    if page.verdict is Verdict.INVALID:
        return [Refusal(page.name, f"Did not pick a winner in “{page.name}”", page.summary)]
    if page.unproven:
        return [Refusal(page.name, f"Did not call “{page.winner}” in “{page.name}” a winner", page.summary)]
    if page.verdict in NOT_SHIPPED:
        challengers = " or ".join(f"“{c.name}”" for c in page.contrasts) or "a challenger"
        return [Refusal(page.name, f"Did not ship {challengers} in “{page.name}”", page.summary)]
    if page.verdict is Verdict.SHIP and page.status is Status.COMPLETED and (approval or page.costs_more):
        why = "It converts better, but costs more than it brings." if page.costs_more else ASKED_FIRST
        return [Refusal(page.name, f"Did not ship “{page.winner}” by itself", why)]
    return []


def _refused_early(page: Sheet) -> list[Refusal]:
    """A lead that a single look would call significant: the oldest trap of testing."""
    progress = page.progress
    if progress is None or progress.chi_square is None or page.verdict is not Verdict.CONTINUE:
        return []
    alone = math.erfc(math.sqrt(progress.chi_square / 2))
    if alone >= CONTINUE_ALPHA:
        return []
    line = progress.critical_chi_square
    needed = f": at this hour {line:.2f} is needed" if line else ""
    why = (
        f"One look would call a chi-square of {progress.chi_square:.2f} clear ({words.p_value(alone)}), but this test "
        f"is looked at again and again{needed}. Stopping at the first good moment declares winners that are none."
    )
    return [Refusal(page.name, f"Did not stop “{page.name}” early", why)]
