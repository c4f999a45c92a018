"""An experiment's numbers with the SQL that an analyst can run to get each of them.

The SQL is the text of :mod:`cro_core.analytics.definitions`, with the tables it reads and its parameters written in.
"""

# ruff: noqa: S608  these texts are for people to run: words of this module, and values as literals

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cro_core.analytics import definitions
from cro_core.analytics.completeness import Extent
from cro_core.analytics.cuts import Cut
from cro_core.clock import to_micros
from cro_core.domain import Experiment
from cro_core.evidence import Step, Totals
from cro_core.storage.duckdb_connection import literal, with_values


@dataclass(frozen=True, slots=True)
class Number:
    """One number, with what it says and where it comes from."""

    name: str
    count: int
    text: str
    sql: str
    """Gives the number in an analyst's door (``cro_core.frames.connect``), after :attr:`Explanation.definitions`."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """An experiment's numbers at a moment, from received to counted."""

    experiment_id: str
    as_of: datetime
    """The moment that the numbers are of; of an experiment that has ended, its end."""
    complete_until: datetime
    """Visitors first seen before it are all counted; those who came later may still convert."""
    stored: Extent
    steps: tuple[Number, ...]
    """The waterfall: ``received`` is the sum of all others."""
    variants: tuple[Number, ...]
    """Counted visitors and conversions of each variant, as every rate is made of them."""
    parameters: Mapping[str, int | str]
    """What the SQL is written for; times in microseconds since 1970 UTC, durations in microseconds."""
    definitions: str
    """SQL that makes the tables ``explained`` (an event a row, with its step) and ``explained_units``."""


def explanation(
    experiment: Experiment,
    moment: datetime,
    steps: Iterable[Step],
    totals: Iterable[Totals],
    stored: Extent,
    until: datetime,
    cut: Cut = Cut(),  # noqa: B008  it is frozen
) -> Explanation:
    """Puts to each number the SQL that gives it.

    Args:
        experiment: a started experiment.
        moment: the moment that the numbers are of.
        steps: its waterfall.
        totals: its counted visitors by variant.
        stored: the events that the numbers were taken from.
        until: visitors first seen before it are all counted.
        cut: the definitions, by the slices that are left out of every variant.

    Raises:
        Conflict: the experiment has not started.
    """
    sql = {"received": _received(experiment.id), **dict(_steps(experiment.id))}
    return Explanation(
        experiment_id=experiment.id,
        as_of=moment,
        complete_until=until,
        stored=stored,
        steps=tuple(Number(s.step, s.count, s.text, sql.get(s.step, "")) for s in steps),
        variants=tuple(number for total in totals for number in _of_variant(total)),
        parameters=_used(experiment, moment, cut),
        definitions=_definitions(experiment, moment, cut),
    )


def _definitions(experiment: Experiment, moment: datetime, cut: Cut) -> str:
    """SQL that sorts every event of an experiment into its step."""
    units = f"{definitions.UNIT_TABLE}\nSELECT * FROM unit_table"
    return "\n".join(
        f"CREATE OR REPLACE TEMP TABLE {name} AS\n{_whole(text, experiment, moment, cut)};"
        for name, text in (
            ("explained", f"{definitions.STEP}\nSELECT * FROM step"),
            ("explained_units", units),
        )
    )


def _whole(text: str, experiment: Experiment, moment: datetime, cut: Cut) -> str:
    """A selection with everything before it that it reads, as one statement."""
    before, text = dict(_given(experiment)), cut.selection(text)
    for name in definitions.needed(text, cut.tables):
        source = name in definitions.SOURCES
        before[f"{name} AS NOT MATERIALIZED" if source else f"{name} AS"] = (
            STORED if source else cut.tables[name].strip()
        )
    parts = "".join(f"{head} (\n{made}\n),\n" for head, made in before.items())
    whole = f"WITH {parts}{text.strip().removeprefix('WITH ')}"
    return with_values(whole, {**definitions.parameters(experiment, moment), **cut.parameters})


STORED = "SELECT * REPLACE (occurred_at_us AS occurred_at, received_at_us AS received_at) FROM main.events"
"""The events as the definitions take them: times in microseconds."""


def _given(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """The experiment's goals and epochs as tables."""
    goals = ((g.name, float(g.weight), int(g.primary)) for g in experiment.plan.goals)
    epochs = ((e.number, to_micros(e.starts_at), to_micros(e.ends_at)) for e in experiment.epochs)
    yield "goals(type, weight, is_primary) AS", _values(list(goals))
    yield "epochs(number, starts_at, ends_at) AS", _values(list(epochs))


def _values(rows: Sequence[Sequence[int | float | str]]) -> str:
    return "VALUES " + ",\n       ".join(f"({', '.join(map(literal, row))})" for row in rows)


def _used(experiment: Experiment, moment: datetime, cut: Cut) -> dict[str, int | str]:
    """The parameters that the definitions are written for."""
    step = cut.selection(definitions.STEP)
    names = definitions.needed(step, cut.tables)
    texts = [step, *(cut.tables[name] for name in names if name in cut.tables)]
    given = {**definitions.parameters(experiment, moment), **cut.parameters}
    used = definitions.arguments(given, *texts)
    return {name: value for name, value in given.items() if name in used}


def _receipts(experiment_id: str, *outcomes: str) -> str:
    names = ", ".join(map(literal, outcomes))
    return (
        f'SELECT CAST(COALESCE(SUM("count"), 0) AS BIGINT) FROM receipts '
        f"WHERE experiment_id = {literal(experiment_id)} AND outcome IN ({names})"
    )


def _received(experiment_id: str) -> str:
    return f"SELECT (SELECT COUNT(*) FROM explained) + ({_receipts(experiment_id, *NEVER_STORED)})"


NEVER_STORED = ("rejected", "duplicate")
"""Steps that only the receipts know."""


def _steps(experiment_id: str) -> Iterator[tuple[str, str]]:
    goals = "FROM explained WHERE step = 'counted_goal'"
    first = f"SELECT COUNT(*) FROM (SELECT DISTINCT unit, type {goals})"
    for step in definitions.STEPS:
        if step in NEVER_STORED:
            yield step, _receipts(experiment_id, step)
        elif step == "counted_goal":
            yield step, first
        elif step == "repeat_goal":
            yield step, f"SELECT (SELECT COUNT(*) {goals}) - ({first})"
        else:
            yield step, f"SELECT COUNT(*) FROM explained WHERE step = {literal(step)}"


def _of_variant(total: Totals) -> Iterator[Number]:
    counted = f"FROM explained_units WHERE standing = {literal(definitions.COUNTED)} AND variant = {literal(total.variant)}"
    key = total.variant
    yield Number(f"units:{key}", total.units, f"visitors counted for {key}", f"SELECT COUNT(*) {counted}")
    yield Number(
        f"conversions:{key}",
        total.conversions,
        f"of them converted, {key}",
        f"SELECT CAST(COALESCE(SUM(converted), 0) AS BIGINT) {counted}",
    )
