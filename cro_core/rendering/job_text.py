"""What a job did or would do as text for the terminal, and what of it can be undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cro_core.decision.split_wording import alarm_state
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


def alarms_text(alarms: Sequence[SplitAlarm], zone_name: str) -> str:
    """Lists the alarms of a split, one a line, with how each was settled."""
    lines = (f"{a.dimension} {a.name}, {alarm_state(a, zone_name)}" for a in alarms)
    return "\n".join(map(words.clean, lines)) or "No alarm was raised."
