"""Taking a stored decision again: from the counts it holds, and from the rows that are in the store now."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cro_core.decision import fingerprint, state_of
from cro_core.decision.split_check import check_splits
from cro_core.domain import Cell, Decision, Experiment, GoalCell, Measured, PairCell, Reason, to_json
from cro_core.home import Home
from cro_core.metrics.counted import measured_from_json
from cro_core.metrics.secondary import secondary
from cro_core.storage import decisions, experiments
from cro_core.workflows.evaluate import Counted, count, judged

TOLERANCE = 1e-9
"""Relative difference up to which two numbers are the same: other processors round otherwise."""

COMPARED = ("look", "looks", "totals", "comparisons", "srm", "guardrails", "companion", "metrics")
"""Parts of the evidence that follow from the counts."""


@dataclass(frozen=True, slots=True)
class Replay:
    """Whether a decision comes out again, and what differs where it does not."""

    decision: str
    verdict: str
    identical: bool
    from_counts: tuple[str, ...]
    """What differs when the stored counts are judged again; empty where nothing does."""
    from_rows: tuple[str, ...]
    """What differs when the rows are counted and judged again; empty where nothing does."""
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
        stored = decisions.get(connection, decision_id)
        experiment = experiments.get(connection, stored.experiment_id)
        now = count(connection, experiment, stored.as_of, whole=True)
    then = _then(experiment, stored)
    again = [*_tampered(stored), *_differences(stored, _judged(experiment, stored, then))]
    moved = tuple(_moved(stored, then, now))
    fresh = _differences(stored, _judged(experiment, stored, now)) if moved else ()
    return Replay(
        decision=stored.id,
        verdict=stored.verdict.value,
        identical=not again and not moved,
        from_counts=tuple(again),
        from_rows=(*moved, *fresh),
        fingerprint=stored.fingerprint,
        fingerprint_now=fingerprint(now.cells),
    )


def _then(experiment: Experiment, stored: Decision) -> Counted:
    """What the decision saw; what days and segments said of the split is taken from the record."""
    split = check_splits(experiment, stored.cells)
    if then := stored.evidence.get("splits"):
        reasons = tuple(Reason(**reason) for reason in then["reasons"])
        split = replace(split, status=then["status"], veto=then["veto"], reasons=reasons)
    measured = stored.evidence.get("measured")
    return Counted(stored.cells, split, measured_from_json(measured) if measured else Measured())


def _judged(experiment: Experiment, stored: Decision, counted: Counted) -> Decision:
    taken = stored.evidence.get("looks")
    state = state_of(taken) if taken else None
    found = judged(experiment, counted, stored.as_of, state).decision
    if "measured" not in stored.evidence:
        return found
    family = secondary(experiment, counted.cells, counted.measured, as_of=stored.as_of)
    return replace(found, evidence={**found.evidence, "metrics": to_json(family)})


def _differences(stored: Decision, found: Decision) -> list[str]:
    """What is not the same, named by its place in the record."""
    pairs: list[tuple[str, Any, Any]] = [
        (name, getattr(stored, name), getattr(found, name)) for name in ("verdict", "winner", "unproven")
    ]
    pairs.append(("reasons", [r.code for r in stored.reasons], [r.code for r in found.reasons]))
    pairs += [(name, stored.evidence.get(name), found.evidence.get(name)) for name in COMPARED]
    lines = [line for name, old, new in pairs for line in _unequal(name, old, new)]
    versions = f"versions were {dict(stored.versions)}, now {dict(found.versions)}"
    return [*lines, versions] if lines and stored.versions != found.versions else lines


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
    """Says that the stored counts are not those that were judged."""
    if (found := fingerprint(stored.cells)) != stored.fingerprint:
        yield f"fingerprint was {stored.fingerprint}, is {found}"


def _moved(stored: Decision, then: Counted, now: Counted) -> Iterator[str]:
    """Counts that are no longer what they were: cells, what is measured beside them, and the slices of the split."""
    yield from _moved_cells(then.cells, now.cells)
    if "measured" in stored.evidence:
        yield from _unequal("measured", _by_place(then.measured), _by_place(now.measured))
    if "splits" in stored.evidence:
        yield from _unequal("splits", stored.evidence["splits"], to_json(now.split))


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


def _counts(cell: Cell | None) -> str:
    return "nobody" if cell is None else f"{cell.conversions:,} of {cell.units:,} visitors converted"
