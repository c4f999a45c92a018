"""Taking a stored decision again: from the counts it holds, and from the rows that are in the store now."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cro_core.analytics import reader
from cro_core.decision.inputs import fingerprint, state_of
from cro_core.decision.split_check import check_split
from cro_core.domain import Cell, Experiment, GoalCell, Measured, PairCell, to_json
from cro_core.evidence import Decision
from cro_core.home import Home
from cro_core.metrics.secondary import secondary
from cro_core.storage import decisions, experiments, split_alarms
from cro_core.workflows.evaluate import LookCounts, count, decide_on

TOLERANCE = 1e-9
"""Relative difference up to which two numbers are the same: other processors round otherwise."""

COMPARED = (
    "look",
    "looks",
    "totals",
    "comparisons",
    "srm",
    "guardrails",
    "companion",
    "exact",
    "e_values",
    "money",
    "metrics",
)
"""Parts of the evidence that follow from the counts."""


@dataclass(frozen=True, slots=True)
class Replay:
    """Whether a decision comes out again, and what differs where it does not."""

    decision: str
    verdict: str
    identical: bool
    from_counts: tuple[str, ...]
    """What differs when it is decided again from the stored counts; empty where nothing does."""
    from_rows: tuple[str, ...]
    """What differs when the rows are counted and it is decided again; empty where nothing does."""
    fingerprint: str
    """Fingerprint of the stored counts."""
    fingerprint_now: str
    """Fingerprint of the counts that the rows give now."""

    @property
    def text(self) -> str:
        """The answer for a person."""
        if self.identical:
            return f"{self.decision}: identical, {self.verdict} again, from its counts and from the rows."
        lines = [f"{self.decision}: NOT identical."]
        lines += [f"  judged again from its own counts: {line}" for line in self.from_counts]
        lines += [f"  counted again from the rows: {line}" for line in self.from_rows]
        return "\n".join(lines)


def replay(home: Home, decision_id: str) -> Replay:
    """Takes a stored decision again, twice; changes nothing.

    Raises:
        NotFound: no such decision.
    """
    with home.db.read() as connection:
        record = decisions.get_record(connection, decision_id)
        stored = decisions.from_record(record)
        experiment = experiments.get(connection, stored.experiment_id)
        alarms = split_alarms.of(connection, experiment.id)
        with reader.reading(connection, experiment, stored.as_of) as reading:
            now = count(reading, alarms, whole=True)
    then = _then(experiment, stored)
    unread = _unread(record["evidence"], decisions.to_record(stored)["evidence"])
    again = [*_tampered(stored), *unread, *_differences(stored, _decided_again(experiment, stored, then))]
    moved = tuple(_moved(stored, then, now))
    fresh = _differences(stored, _decided_again(experiment, stored, now)) if moved else ()
    return Replay(
        decision=stored.id,
        verdict=stored.verdict.value,
        identical=not again and not moved,
        from_counts=tuple(again),
        from_rows=(*moved, *fresh),
        fingerprint=stored.fingerprint,
        fingerprint_now=fingerprint(now.cells, now.days),
    )


def _then(experiment: Experiment, stored: Decision) -> LookCounts:
    """What the decision saw; what days and segments said of the split is taken from the record."""
    split, then = check_split(experiment, stored.cells), stored.evidence.splits
    if then is not None:
        split = replace(split, status=then.status, veto=then.veto, reasons=then.reasons, alarms=then.alarms)
    evidence = stored.evidence
    return LookCounts(stored.cells, split, evidence.measured or Measured(), evidence.days, evidence.crossing)


def _decided_again(experiment: Experiment, stored: Decision, counts: LookCounts) -> Decision:
    taken = stored.evidence.looks
    state = None if taken is None else state_of(taken)
    again = decide_on(experiment, counts, stored.as_of, state).decision
    if stored.evidence.measured is None:
        return again
    family = secondary(experiment, counts.cells, counts.measured, as_of=stored.as_of)
    return replace(again, evidence=replace(again.evidence, metrics=family))


def _differences(stored: Decision, again: Decision) -> list[str]:
    """What is not the same, named by its place in the record."""
    pairs: list[tuple[str, Any, Any]] = [
        (name, getattr(stored, name), getattr(again, name)) for name in ("verdict", "winner", "unproven")
    ]
    pairs.append(("reasons", [r.code for r in stored.reasons], [r.code for r in again.reasons]))
    parts = ((name, *(getattr(d.evidence, name) for d in (stored, again))) for name in COMPARED)
    pairs += [(name, to_json(old), to_json(new)) for name, old, new in parts]
    lines = [line for name, old, new in pairs for line in _unequal(name, old, new)]
    versions = f"versions were {dict(stored.versions)}, now {dict(again.versions)}"
    return [*lines, versions] if lines and stored.versions != again.versions else lines


def _unequal(place: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            yield from _unequal(f"{place}.{key}", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _unequal(f"{place}.{index}", one, other)
    elif not _same(old, new):
        yield f"{place} was {old}, is {new}"


def _same(old: Any, new: Any) -> bool:
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(old == new)


def _tampered(stored: Decision) -> Iterator[str]:
    """Says that the stored counts are not those that it was decided from."""
    if (now := fingerprint(stored.cells, stored.evidence.days)) != stored.fingerprint:
        yield f"fingerprint was {stored.fingerprint}, is {now}"


def _unread(record: Any, read: Any, place: str = "") -> Iterator[str]:
    """Numbers of the record that this version has no place for: nobody has decided them again."""
    if isinstance(record, Mapping) and isinstance(read, Mapping):
        for key, value in record.items():
            inside = f"{place}.{key}" if place else key
            if key in read:
                yield from _unread(value, read[key], inside)
            elif value is not None:
                yield f"{inside} was {value}, is None"
    elif isinstance(record, list) and isinstance(read, list):
        for index, (one, other) in enumerate(zip(record, read, strict=True)):
            yield from _unread(one, other, f"{place}.{index}")


def _moved(stored: Decision, then: LookCounts, now: LookCounts) -> Iterator[str]:
    """Counts that are no longer what they were: cells, days, crossing, what is measured, and the slices of the split."""
    yield from _moved_cells(then.cells, now.cells)
    yield from _unequal("days", _by_day(then), _by_day(now))
    yield from _unequal("crossing", to_json(then.crossing), to_json(now.crossing))
    if stored.evidence.measured is not None:
        yield from _unequal("measured", _by_place(then.measured), _by_place(now.measured))
    if stored.evidence.splits is not None:
        yield from _unequal("splits", to_json(stored.evidence.splits), to_json(now.split))


def _moved_cells(old: Sequence[Cell], new: Sequence[Cell]) -> Iterator[str]:
    then, now = ({(c.epoch, c.variant): c for c in cells} for cells in (old, new))
    for epoch, variant in sorted({*then, *now}):
        before, after = then.get((epoch, variant)), now.get((epoch, variant))
        place, then_said, now_said = f"{variant} in epoch {epoch}", _counts(before), _counts(after)
        if then_said != now_said:
            yield f"{place}: {then_said} then, {now_said} now"
        else:  # its sums of scores or values
            yield from _unequal(place, to_json(before), to_json(after))


def _by_place(measured: Measured) -> dict[str, Any]:
    """What was measured, by metric, epoch and variant: rows may come in any order."""

    def place(what: str, cell: GoalCell | PairCell) -> str:
        return f"{what} of {cell.variant} in epoch {cell.epoch}"

    goals = {place(f"goal:{cell.goal}", cell): cell.units for cell in measured.goals}
    return goals | {place(cell.metric, cell): to_json(cell) for cell in measured.pairs}


def _by_day(counts: LookCounts) -> dict[str, Any]:
    return {f"{day.variant} on {day.day} in epoch {day.epoch}": to_json(day) for day in counts.days}


def _counts(cell: Cell | None) -> str:
    return "nobody" if cell is None else f"{cell.conversions:,} of {cell.units:,} visitors converted"
