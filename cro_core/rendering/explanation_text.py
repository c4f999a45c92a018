"""Where an experiment's numbers come from, as text for the terminal or as a script of SQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from cro_core.analytics import definitions
from cro_core.analytics.explanation import Explanation
from cro_core.clock import from_micros, iso
from cro_core.reporting import words


def explanation_text(explanation: Explanation, *, sql: bool = False) -> str:
    """Writes an explanation for the terminal; with ``sql`` as a script, in which everything but SQL is a comment."""
    return "\n".join(_script(explanation) if sql else _lines(explanation)).replace(words.NBSP, " ")


def _lines(explanation: Explanation) -> Iterator[str]:
    yield from _head(explanation)
    yield ""
    for step in explanation.steps:
        if step.count or step.name == "received":
            sign = words.sign(step.name).replace("−", "-")
            yield f"{sign}{words.count(step.count):>12}  {words.clean(step.name):<18}{words.clean(step.text)}"
    yield ""
    for number in explanation.variants:
        yield f" {words.count(number.count):>12}  {words.clean(number.text)}"


def _head(explanation: Explanation) -> Iterator[str]:
    stored = explanation.stored
    yield f"{words.clean(explanation.experiment_id)} as of {iso(explanation.as_of)}"
    yield f"visitors  first seen before {iso(explanation.complete_until)} are all counted; later ones may still convert"
    if stored.newest_event and stored.newest_arrival:
        yield f"events    up to {iso(stored.newest_event)}, of which the last arrived {iso(stored.newest_arrival)}"
    lake = "nothing was sealed yet" if stored.lake_version is None else f"lake version {stored.lake_version}"
    yield f"stored    {stored.hot:,} events hot (database), {stored.sealed:,} sealed ({lake})"


def _script(explanation: Explanation) -> Iterator[str]:
    yield from (f"-- {line}" for line in _head(explanation))
    yield "-- To run it: door = cro_core.frames.connect(home); door.execute(all that follows, or one piece)."
    yield from (f"-- {name} = {value}{_said(name, value)}" for name, value in explanation.parameters.items())
    yield ""
    yield explanation.definitions
    for number in (*explanation.steps, *explanation.variants):
        yield ""
        yield f"-- {number.name}: {number.count}  ({words.clean(number.text)})"
        yield f"{number.sql};" if number.sql else "-- what is left of received: a fault of ours"


def _said(name: str, value: int | str) -> str:
    """A number in words, where it is a moment or a duration."""
    if isinstance(value, str) or name == "goal_from":
        return ""
    if name == "window":
        return f"  ({timedelta(microseconds=value)})"
    return "  (never)" if value >= definitions.FOREVER else f"  ({iso(from_micros(value))})"
