"""Where a number comes from: from what was received to what is counted, with the SQL behind each step."""

# ruff: noqa: S608  these texts are for people to run: words of this module, and values as literals

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cro_core.analytics import counts, definitions, reader
from cro_core.analytics.completeness import Extent, complete_until, extent
from cro_core.clock import from_micros, iso, to_micros
from cro_core.domain import Experiment
from cro_core.evidence import Totals
from cro_core.home import Home
from cro_core.reporting import words
from cro_core.storage import experiments
from cro_core.storage.duckdb_connection import literal, with_values


@dataclass(frozen=True, slots=True)
class Number:
    """One number, with what it says and where it comes from."""

    name: str
    count: int
    text: str
    sql: str
    """Gives the number in an analyst's door (``cro_core.frames.connect``), after :attr:`Explained.definitions`."""


@dataclass(frozen=True, slots=True)
class Explained:
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


def explain(home: Home, experiment_id: str, *, as_of: datetime, now: datetime) -> Explained:
    """The waterfall of an experiment, with its SQL; changes nothing.

    Args:
        home: where it is.
        experiment_id: a started experiment.
        as_of: the moment of the look.
        now: the moment of asking.

    Raises:
        NotFound: no such experiment.
        Conflict: it has not started.
    """
    with home.db.read() as connection:
        experiment = experiments.get(connection, experiment_id)
        moment = experiment.judged_at(as_of)
        with reader.reading(connection, experiment, moment) as reading:
            steps = reading.waterfall()
            totals = counts.totals(experiment, reading.cells())
        stored = extent(connection, experiment, moment)
    said = {"received": _received(experiment.id), **dict(_steps(experiment.id))}
    return Explained(
        experiment_id=experiment.id,
        as_of=moment,
        complete_until=complete_until(experiment, as_of, now),
        stored=stored,
        steps=tuple(Number(s.step, s.count, s.text, said.get(s.step, "")) for s in steps),
        variants=tuple(number for t in totals for number in _of_variant(t)),
        parameters=_used(experiment, moment),
        definitions=definitions_text(experiment, moment),
    )


def explained_text(found: Explained, *, sql: bool = False) -> str:
    """Writes an explanation for the terminal; with ``sql`` as a script, in which everything but SQL is a comment."""
    return "\n".join(_script(found) if sql else _lines(found)).replace(words.NBSP, " ")


# ------------------------------------------------------------------------------------- the text


def _lines(found: Explained) -> Iterator[str]:
    yield from _head(found)
    yield ""
    for step in found.steps:
        if step.count or step.name == "received":
            sign = words.sign(step.name).replace("−", "-")
            yield f"{sign}{words.count(step.count):>12}  {words.clean(step.name):<18}{words.clean(step.text)}"
    yield ""
    for number in found.variants:
        yield f" {words.count(number.count):>12}  {words.clean(number.text)}"


def _head(found: Explained) -> Iterator[str]:
    stored = found.stored
    yield f"{words.clean(found.experiment_id)} as of {iso(found.as_of)}"
    yield f"visitors  first seen before {iso(found.complete_until)} are all counted; later ones may still convert"
    if stored.newest_event and stored.newest_arrival:
        yield f"events    up to {iso(stored.newest_event)}, of which the last arrived {iso(stored.newest_arrival)}"
    lake = "nothing was sealed yet" if stored.lake_version is None else f"lake version {stored.lake_version}"
    yield f"stored    {stored.hot:,} events hot (database), {stored.sealed:,} sealed ({lake})"


def _script(found: Explained) -> Iterator[str]:
    yield from (f"-- {line}" for line in _head(found))
    yield "-- To run it: door = cro_core.frames.connect(home); door.execute(all that follows, or one piece)."
    yield from (f"-- {name} = {value}{_said(name, value)}" for name, value in found.parameters.items())
    yield ""
    yield found.definitions
    for number in (*found.steps, *found.variants):
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


# -------------------------------------------------------------------------------------- the SQL


def definitions_text(experiment: Experiment, moment: datetime) -> str:
    """SQL for an analyst's door that sorts every event of an experiment into its step.

    It is the text of :mod:`cro_core.analytics.definitions` with its parameters written in.

    Raises:
        Conflict: the experiment has not started.
    """
    units = f"{definitions.UNIT_TABLE}\nSELECT * FROM unit_table"
    return "\n".join(
        f"CREATE OR REPLACE TEMP TABLE {name} AS\n{_whole(text, experiment, moment)};"
        for name, text in (
            ("explained", f"{definitions.STEP}\nSELECT * FROM step"),
            ("explained_units", units),
        )
    )


def _whole(text: str, experiment: Experiment, moment: datetime) -> str:
    """A selection with everything before it that it reads, as one statement."""
    before = dict(_given(experiment))
    for name in definitions.needed(text):
        source = name in definitions.SOURCES
        before[f"{name} AS NOT MATERIALIZED" if source else f"{name} AS"] = (
            STORED if source else definitions.TABLES[name].strip()
        )
    parts = "".join(f"{head} (\n{made}\n),\n" for head, made in before.items())
    whole = f"WITH {parts}{text.strip().removeprefix('WITH ')}"
    given = definitions.parameters(experiment, moment)
    return with_values(whole, given)


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


def _used(experiment: Experiment, moment: datetime) -> dict[str, int | str]:
    """The parameters that the definitions are written for."""
    texts = " ".join(
        (
            definitions.STEP,
            *(definitions.TABLES[n] for n in definitions.needed(definitions.STEP) if n in definitions.TABLES),
        )
    )
    given = definitions.parameters(experiment, moment)
    return {name: value for name, value in given.items() if f"${name}" in re.findall(r"\$\w+", texts)}


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
