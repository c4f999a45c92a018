"""A site as text for the terminal: what was made, how it stands, what is set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def made_text(answer: Mapping[str, str]) -> str:
    """Says what ``cro init`` has made, and what to do next."""
    return (
        f"Home made in {answer['home']}\nSettings: {answer['config']}\n"
        f"Admin key (also in data/secrets.json): {answer['admin_key']}\n"
        "Next: `cro serve`, then post events; or `cro generate 3 500` for synthetic traffic."
    )


def generated_text(made: Mapping[str, Any]) -> str:
    """Says what ``cro generate`` has made, and what to try on it."""
    return (
        f"Made {', '.join(made['experiments'])}: {made['visitors']} visitors each, {made['events']} events, "
        f"true uplift of b {made['uplift']:+.0%}. Try `cro evaluate {made['experiments'][0]}`."
    )


def status_text(state: Mapping[str, Any]) -> str:
    """Writes what runs, was decided and waits, and how the last jobs went: a line each."""
    view = state["overview"]
    counts = ", ".join(f"{n} {name}" for name, n in view["experiments"].items() if n) or "no experiments yet"
    lines = [f"{view['site']} at {view['as_of']}: {counts}"]
    for test in state["active_tests"]:
        variants = "; ".join(f"{v['variant']} {v['conversions']}/{v['units']}" for v in test["variants"])
        lines.append(
            f"  running {test['experiment_id']}: {test['counted_units']} of {test['planned_units']} planned visitors ({variants})"
        )
    lines += [
        f"  alarm   {a['experiment_id']}: not split as planned ({a['dimension']} {a['name']}) since {a['first_at']}, "
        f"see `cro split list {a['experiment_id']}`"
        for a in state["alarms"]
        if a["vetoes"]
    ]
    lines += [f"  decided {d['as_of']} {d['experiment_id']}: {d['verdict']}" for d in state["decisions"]]
    lines += [f"  waiting {p['id']}: {p['text']}" for p in state["pending"]]
    lines += [f"  run     {r['job']} {r['started_at']}: {r['status']}" for r in state["runs"]]
    return "\n".join(lines + [f"  warning {w}" for w in state["warnings"]])


def settings_text(answer: Mapping[str, Any]) -> str:
    """Lists every setting with its value and where that came from, then the warnings."""
    lines = [f"{key} = {json.dumps(s['value'])}  ({s['source']})" for key, s in answer["settings"].items()]
    return "\n".join(lines + [f"warning: {w}" for w in answer["warnings"]])
