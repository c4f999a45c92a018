"""What a job did or would do as text for the terminal, and what of it can be undone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cro_core.evidence import SplitAlarm
from cro_core.reporting import words


def cycle_text(outcome: Mapping[str, Any]) -> str:
    """Says how many experiments a cycle looked at, what it changed and what failed."""
    looked = f"Cycle of {outcome['at']}: {outcome['evaluated']} running experiment(s) looked at."
    lines = [outcome.get("skipped") or looked]
    lines += [f"  {change}" for change in outcome["changes"]] or ["  Nothing had to be changed."]
    lines += [f"  FAILED {f['experiment']}: {f['error']}" for f in outcome["failures"]]
    return "\n".join(lines)


def foreseen_text(decisions: Sequence[Mapping[str, Any]]) -> str:
    """Lists the decisions that would end an experiment now."""
    return "\n".join(d["text"] for d in decisions) or "No experiment would end now."


def outcome_text(outcome: Mapping[str, Any]) -> str:
    """Lists the plain values that a notebook recorded, one a line."""
    return "\n".join(
        f"{key}: {value}" for key, value in outcome.items() if not isinstance(value, (dict, list))
    )


def changes_text(changes: Sequence[Mapping[str, Any]]) -> str:
    """Lists the changes that can be undone, one a line with its number."""
    lines = (f"{c['id']:>5}  {c['at']}  {c['action']}  {c['subject']}" for c in changes)
    return "\n".join(lines) or "Nothing to undo."


def alarms_text(alarms: Sequence[SplitAlarm]) -> str:
    """Lists the alarms of a split, one a line, with how each was settled."""
    lines = [f"{_alarm(alarm)}: {_settled(alarm)}" for alarm in alarms]
    return "\n".join(lines) or "No alarm was raised."


def _alarm(alarm: SplitAlarm) -> str:
    place = words.clean(f"{alarm.dimension} {alarm.name}")
    return f"{place}, since {alarm.first_at:%Y-%m-%d %H:%M} UTC (e-value {math.exp(min(alarm.log_e, 700.0)):,.0f})"


def _settled(alarm: SplitAlarm) -> str:
    if alarm.settled_at is None:
        return "stands"
    how = (alarm.how or "settled").replace("_", " ")
    return words.clean(
        f"{how} by {alarm.settled_by} on {alarm.settled_at:%Y-%m-%d %H:%M} UTC: {alarm.reason}"
    )
