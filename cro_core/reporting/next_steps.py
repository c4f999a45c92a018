"""What the reader of a report should do next, and the proposals that wait for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cro_core.domain import Verdict
from cro_core.reporting.sheets import ended_between
from cro_core.reporting.values import Action, Pending, Report

CAUSES = "Look for redirects, caching or robots that treat one version differently."


def actions(report: Report, warnings: Sequence[str] = ()) -> tuple[Action, ...]:
    """What the reader should do next, most urgent first; empty where nothing is needed."""
    broken = [p for p in report.running if p.split == "alarm"]
    invalid = [p for p in report.decided if p.verdict is Verdict.INVALID]
    picked = [p for p in report.unproven if ended_between(p, report.period_start, report.generated_at)]
    crossed = [p for p in report.running if p.crossing]
    steps = [
        Action(
            f"Look at “{p.name}” now: its visitors are not divided as planned.",
            f"cro split list {p.id}" if p.alarms else "",
        )
        for p in broken
    ]
    steps += [Action(f"Look at “{p.name}”: visitors met more than one of its versions.") for p in crossed]
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


def pending(rows: Sequence[Mapping[str, Any]]) -> tuple[Pending, ...]:
    """Proposals that wait for a person, oldest first."""
    return tuple(Pending(r["id"], r["kind"], r["text"], r["created_at"]) for r in rows)
