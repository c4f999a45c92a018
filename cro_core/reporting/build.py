"""From sheets and settings to what a report says about them: the headline, what was refused, what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from cro_core.domain import Experiment, Status, Verdict
from cro_core.reporting import words
from cro_core.reporting.sheets import ended_between
from cro_core.reporting.values import Action, ModelTrack, Overview, Pending, Refusal, Report, Sheet

CAUSES = "Look for redirects, caching or robots that treat one version differently."
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
    found = (
        []
        if enabled
        else [Refusal("the autopilot", "Changed nothing at all", "The setting automation.enabled is off.")]
    )
    for page in pages:
        if ended_between(page, start, end):
            found += _refused_at_end(page, approval)
        elif page.status is Status.RUNNING:
            found += _refused_early(page)
    return tuple(found)


def actions(report: Report, warnings: Sequence[str] = ()) -> tuple[Action, ...]:
    """What the reader should do next, most urgent first; empty where nothing is needed."""
    broken = [p for p in report.running if p.split == "alarm"]
    invalid = [p for p in report.decided if p.verdict is Verdict.INVALID]
    picked = [p for p in report.unproven if ended_between(p, report.period_start, report.generated_at)]
    steps = [Action(f"Look at “{p.name}” now: its visitors are not divided as planned.") for p in broken]
    steps += [Action(f"Approve or reject: {p.text}", f"cro approve {p.id}") for p in report.pending]
    steps += [
        Action(f"Find out why “{p.name}” could not be measured before you repeat it. {CAUSES}")
        for p in invalid
    ]
    steps += [Action(f"Test “{p.winner}” of “{p.name}” again: it is shown without proof.") for p in picked]
    if report.overview.received == 0:
        steps.append(Action("Connect your website: no visitor has been reported yet.", "cro serve"))
    if not report.running:
        steps.append(
            Action("Start a test: none is running. Add pictures or clips, or create one.", "cro orchestrate")
        )
    steps += [Action(f"Check a setting: {warning}.", "cro config") for warning in warnings]
    return tuple(steps)


def with_actions(report: Report, warnings: Sequence[str] = ()) -> Report:
    """The report with the next steps that follow from the rest of it."""
    return replace(report, actions=actions(report, warnings))


def headline(pages: Sequence[Sheet], overview: Overview, start: datetime, end: datetime) -> str:
    """The week in one sentence."""
    ended = [p for p in pages if ended_between(p, start, end)]
    won = [p for p in ended if p.verdict is Verdict.SHIP]
    if won:
        best = won[0].best
        gain = (
            f", {words.signed(best.uplift.value)} conversions"
            if best and best.uplift.value is not None
            else ""
        )
        others = f" and {words.some(len(won) - 1, 'other winner')}" if len(won) > 1 else ""
        return f"“{won[0].winner}” won “{won[0].name}”{gain}{others}."
    if ended:
        return f"{words.some(len(ended), 'test')} ended, none with a proven winner; the site stays as it was."
    if overview.running:
        return f"Nothing was decided: {words.some(overview.running, 'test')} still collecting visitors."
    if overview.received == 0:
        return "No visitors have been reported yet, so there is nothing to decide."
    return "Nothing was decided, and no test is running."


def overview(
    experiments: Sequence[Experiment], pages: Sequence[Sheet], received: int, start: datetime, end: datetime
) -> Overview:
    """The home in numbers."""
    states = [e.status for e in experiments]
    return Overview(
        running=states.count(Status.RUNNING),
        drafts=states.count(Status.DRAFT),
        finished=states.count(Status.COMPLETED) + states.count(Status.ARCHIVED),
        decided=sum(ended_between(p, start, end) for p in pages),
        received=received,
        counted=sum(p.units for p in pages),
        conversions=sum(arm.conversions for p in pages for arm in p.arms),
    )


def model_track(row: Mapping[str, Any] | None) -> ModelTrack:
    """The newest model, in words."""
    if row is None:
        return ModelTrack(
            "untrained",
            None,
            None,
            None,
            None,
            "No model has been trained yet: it learns once tests have ended.",
        )
    record = row["record"]
    return ModelTrack(
        row["status"],
        row["trained_at"],
        record["examples"],
        record["accuracy"],
        record["baseline"],
        record["text"],
    )


def pending(rows: Sequence[Mapping[str, Any]]) -> tuple[Pending, ...]:
    """Proposals that wait for a person, oldest first."""
    return tuple(Pending(r["id"], r["kind"], r["text"], r["created_at"]) for r in rows)


def _refused_at_end(page: Sheet, approval: bool) -> list[Refusal]:
    if page.verdict is Verdict.INVALID:
        return [Refusal(page.name, f"Did not pick a winner in “{page.name}”", page.summary)]
    if page.unproven:
        return [Refusal(page.name, f"Did not call “{page.winner}” in “{page.name}” a winner", page.summary)]
    if page.verdict in (Verdict.INCONCLUSIVE, Verdict.KEEP_CONTROL):
        challengers = " or ".join(f"“{c.name}”" for c in page.contrasts) or "a challenger"
        return [Refusal(page.name, f"Did not ship {challengers} in “{page.name}”", page.summary)]
    if page.verdict is Verdict.SHIP and approval and page.status is Status.COMPLETED:
        return [
            Refusal(
                page.name,
                f"Did not ship “{page.winner}” by itself",
                "Your settings ask for a person's approval first.",
            )
        ]
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
        f"is looked at every hour{needed}. Stopping at the first good moment declares winners that are none."
    )
    return [Refusal(page.name, f"Did not stop “{page.name}” early", why)]
