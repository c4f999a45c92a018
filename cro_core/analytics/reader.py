"""Answers questions about the stored events of an experiment, by the texts of :mod:`cro_core.analytics.definitions`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy as sa

from cro_core.analytics import (
    counts,
    cuts,
    definitions,
    engine,
    engines,
    segment_definitions,
    sources,
    unit_cache,
)
from cro_core.clock import from_micros, to_micros, zone
from cro_core.domain import Cell, DayCell, Experiment, GoalCell, Measured, PairCell, QuantityPair
from cro_core.errors import InvalidInput
from cro_core.evidence import Crossing, CrossingFrom, Step
from cro_core.storage import schema, split_alarms

if TYPE_CHECKING:
    import pyarrow as pa

    from cro_core.metrics.metric import Metric

Row = dict[str, Any]


def reading(
    connection: sa.Connection,
    experiment: Experiment,
    as_of: datetime,
    *,
    engine: str = engines.DUCKDB,
    without: Sequence[cuts.CutSlice] | None = None,
) -> Reading:
    """Reads the events of an experiment as this connection sees them, once for any number of questions.

    Args:
        connection: the store; it must stay open as long as questions are asked.
        experiment: a started experiment.
        as_of: the moment of the look, or of the first of several (:meth:`Reading.at`).
        engine: what runs the definitions, as :func:`cro_core.analytics.engines.opened` names it.
        without: slices that were cut out of every variant alike, each a dimension and a name: whoever first met the
            experiment in one of them counts nowhere. ``None``: those that a person had cut out by ``as_of``.

    Raises:
        Conflict: the experiment has not started.
        InvalidInput: no such engine, or no such slice.
        StoreError: the engine cannot be reached.
    """
    parameters = definitions.parameters(experiment, as_of)
    if without is None:
        without = split_alarms.cut_out(connection, experiment.id, as_of)
    cut = cuts.cut(experiment, without)
    opened = engines.opened(connection, engine)
    epochs = experiment.epochs
    goals: dict[str, list[Any]] = {
        "type": [goal.name for goal in experiment.plan.goals],
        "weight": [float(goal.weight) for goal in experiment.plan.goals],
        "is_primary": [int(goal.primary) for goal in experiment.plan.goals],
    }
    opened.give("goals", **goals)
    opened.give(
        "epochs",
        number=[epoch.number for epoch in epochs],
        starts_at=[to_micros(epoch.starts_at) for epoch in epochs],
        ends_at=[to_micros(epoch.ends_at) for epoch in epochs],
    )
    keeper = None
    if isinstance(opened, engines.DuckDB):
        keeper = unit_cache.Keeper(opened.session, connection, parameters, goals, sources.COLUMNS)
    return Reading(connection, experiment, as_of, opened, keeper, cut)


@dataclass(frozen=True)
class Reading:
    """The events of an experiment, of which questions are asked; made by :func:`reading`. Leaving its block frees it."""

    connection: sa.Connection
    experiment: Experiment
    as_of: datetime
    engine: engine.Engine
    _keeper: unit_cache.Keeper | None = None
    cut: cuts.Cut = field(default_factory=cuts.Cut)
    """The definitions that it runs, by the slices that are left out."""
    _made: set[str] = field(default_factory=set)
    """Names of the sources and tables that have been made."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.engine.close()

    def at(self, moment: datetime) -> Reading:
        """Returns the reading as of another moment, without the same slices; costs little: nothing is read again."""
        return replace(self, as_of=moment)

    def cells(self) -> tuple[Cell, ...]:
        """Counts units per epoch and variant."""
        return tuple(Cell(**row) for row in self._run(definitions.CELLS))

    def times(self) -> tuple[counts.Slice, ...]:
        """Counts units by day and by hour of the day."""
        mature = (row for row in self._by_time if row["units"])
        rows = ((row["epoch"], row["variant"], row["starts_at"], row["units"]) for row in mature)
        return counts.time_slices(self.experiment, rows)

    def pieces(self) -> tuple[counts.Slice, ...]:
        """Counts units by the piece of time of their exposure, an hour at most; each is named by its start, as ISO text."""
        return tuple(
            counts.Slice("piece", row["starts_at"].isoformat(), row["epoch"], row["variant"], row["units"])
            for row in self._by_time
            if row["units"]
        )

    def days(self) -> tuple[DayCell, ...]:
        """Counts units by day, with those that may still convert and what they have done so far."""
        return counts.day_cells(self.experiment, self._by_time)

    @cached_property
    def _by_time(self) -> list[Row]:
        """The rows of :data:`definitions.TIMES` with their start on the clocks of the site; one pass for all that ask."""
        piece = segment_definitions.piece(self.experiment)
        rows = self._run(definitions.TIMES, {"piece": piece})
        site = zone(self.experiment.plan.zone)
        starts = {n: from_micros(n * piece).astimezone(site) for n in {row["piece"] for row in rows}}
        return [{**row, "starts_at": starts[row["piece"]]} for row in rows]

    def quarter_sums(self) -> list[Row]:
        """Sums up what the counted units of each quarter of an hour did, per variant: :data:`definitions.QUARTER_SUMS`."""
        return self._run(definitions.QUARTER_SUMS)

    def segments(self, dimensions: Sequence[str] = tuple(definitions.SEGMENTS)) -> tuple[counts.Slice, ...]:
        """Counts units by device, country, city, page and asset of the exposure.

        Each dimension has at most :data:`definitions.MOST_SLICES` slices beside those of other and of unknown values.

        Raises:
            InvalidInput: no such dimension.
        """
        slices: list[counts.Slice] = []
        for dimension in dimensions:
            column = definitions.SEGMENTS[_check_dimension(dimension, tuple(definitions.SEGMENTS))]
            rows = self._run(definitions.SEGMENT.format(column=column))
            slices += [
                counts.Slice(dimension, _slice_name(row), row["epoch"], row["variant"], int(row["units"]))
                for row in rows
            ]
        return tuple(slices)

    def goal_cells(self) -> tuple[GoalCell, ...]:
        """Counts units that reached each goal, per epoch and variant; combinations that nobody reached are absent."""
        return tuple(GoalCell(**row) for row in self._run(definitions.GOAL_CELLS))

    def pair_cells(self, pair: QuantityPair) -> tuple[PairCell, ...]:
        """Sums two quantities over the counted units, per epoch and variant."""
        sql, parameters = definitions.pair_query(pair)
        return tuple(PairCell(pair.metric, **row) for row in self._run(sql, parameters))

    def measured(self, cells: Sequence[Cell], *, whole: bool = True) -> Measured:
        """Counts what secondary metrics and guardrails need beside the cells.

        Args:
            cells: those of the same moment; they say which metrics there are.
            whole: False counts only what the guardrails watch, which is usually nothing more: for every hour.
        """
        from cro_core.metrics import guardrails, kinds

        metrics: list[Metric] = [guardrails.guarded(rule) for rule in self.experiment.plan.guardrails]
        if whole:
            metrics += kinds.metrics_of(self.experiment, cells)
        # each pair once, those with a covariate last: the order in which decisions are stored
        pairs = dict.fromkeys(pair for metric in metrics for pair in metric.needs.pairs)
        ordered = sorted(pairs, key=lambda pair: pair.x.kind == "before")
        return Measured(
            self.goal_cells() if whole or any(metric.needs.goals for metric in metrics) else (),
            tuple(cell for pair in ordered for cell in self.pair_cells(pair)),
        )

    def slices(self, dimension: str) -> list[Row]:
        """Counts units and conversions per value of a dimension and variant.

        Raises:
            InvalidInput: no such dimension.
        """
        return self._run(
            definitions.SLICES.format(dimension=_check_dimension(dimension, definitions.DIMENSIONS))
        )

    def unit_table(self) -> pa.Table:
        """Lists units, counted or not (``standing`` says), in order of first exposure; times in microseconds."""
        return self.engine.table(*self._prepared(definitions.UNITS))

    def waterfall(self) -> list[Step]:
        """Counts events by what became of them, from received to counted."""
        steps = {row["taken"]: int(row["events"] or 0) for row in self._run(definitions.STEPS_TAKEN)}
        stored = steps.pop(definitions.STORED)
        table = schema.receipts
        rows = self.connection.execute(
            sa.select(table.c.outcome, table.c.count).where(table.c.experiment_id == self.experiment.id)
        )
        return counts.waterfall(stored, steps, {outcome: int(count) for outcome, count in rows})

    def crossover_units(self) -> int:
        """Counts units that take part, mature or not, and have met more than one variant before the moment."""
        return sum(self._crossed_from().values())

    def _crossed_from(self) -> dict[str, int]:
        return {row["variant"]: int(row["units"]) for row in self._run(definitions.CROSSOVER_UNITS)}

    def crossing(self) -> Crossing:
        """How many of the units that take part, mature or not, met more than one variant.

        Units that never count (first seen after enrolment, under another day's shares, in a slice that was cut out)
        are in neither number: they cannot blur the difference.
        """
        crossed, exposed = self._crossed_from(), Counter[str]()
        for row in self._by_time:
            exposed[row["variant"]] += row["exposed"]
        arms = tuple(
            CrossingFrom(v.key, v.name or v.key, crossed.get(v.key, 0), exposed[v.key])
            for v in self.experiment.ordered
        )
        limit = self.experiment.plan.max_crossover
        return Crossing(sum(crossed.values()), exposed.total(), limit, arms)

    def exposed_units(self, *, before: datetime | None = None) -> int:
        """Counts units that met the experiment, mature or not: before a moment, or ever."""
        moment = definitions.FOREVER if before is None else to_micros(before)
        return int(self._run(definitions.EXPOSED, {"before": moment})[0]["units"])

    def outcomes(self, goal: str, until: datetime) -> list[Row]:
        """Counts what became of the counted units before ``until``, per variant: :data:`definitions.OUTCOMES`."""
        of_goal = schema.events.c.type == goal
        self.engine.view("outcome", OUTCOME, of_goal, before=until)
        return self._run(definitions.OUTCOMES, {"goal": goal})

    def facets(self, *by: str) -> tuple[counts.Facet, ...]:
        """Counts units and conversions by one or two dimensions of :data:`segment_definitions.FACETS`.

        Each has at most :data:`definitions.MOST_SLICES` values beside those of other and of unknown ones.

        Raises:
            InvalidInput: no such dimension.
        """
        for dimension in by:
            _check_dimension(dimension, tuple(segment_definitions.FACETS))
        if any(dimension in segment_definitions.TIMED for dimension in by):
            self.engine.give("clocks", **segment_definitions.clocks(self.experiment))
        if "referrer" in by:
            ours = schema.events.c.experiment_id == self.experiment.id
            self.engine.view("tagged", TAGGED, ours)
        rows = self._run(segment_definitions.facet_query(by))
        return tuple(
            counts.Facet(
                by, _facet_values(by, row), row["epoch"], row["variant"], row["units"], row["conversions"]
            )
            for row in rows
        )

    def goal_times(self) -> list[Row]:
        """Counts units that reached each goal, and how often, per variant: :data:`segment_definitions.GOAL_TIMES`."""
        return self._run(segment_definitions.GOAL_TIMES)

    def durations(self) -> list[Row]:
        """Counts units by the seconds until they converted, or while they were seen: :data:`segment_definitions.DURATIONS`."""
        return self._run(segment_definitions.DURATIONS)

    def _run(self, sql: str, parameters: Mapping[str, str | int] | None = None) -> list[Row]:
        return self.engine.rows(*self._prepared(sql, parameters))

    def _prepared(self, sql: str, parameters: Mapping[str, str | int] | None = None) -> tuple[str, Row]:
        """Makes the tables that a selection reads; returns it as it is run here, and what with."""
        sql = self.cut.selection(sql)
        arguments = {
            **definitions.parameters(self.experiment, self.as_of),
            **self.cut.parameters,
            **(parameters or {}),
        }
        for name in definitions.needed(sql, self.cut.tables):
            if name not in self._made:
                if name in definitions.SOURCES:
                    self._look_at(name)
                else:
                    text = self.cut.tables[name]
                    self.engine.keep(name, text, definitions.arguments(arguments, text))
                self._made.add(name)
        return sql, definitions.arguments(arguments, sql)

    def _look_at(self, source: str) -> None:
        """Makes one of the sources, with as little from the database as it needs."""
        parameters = definitions.parameters(self.experiment, self.as_of)
        goals, epochs = [goal.name for goal in self.experiment.plan.goals], self.experiment.epochs
        condition = sources.conditions(parameters, goals)[source]
        period: dict[str, datetime] = {}
        if source == "past":  # of units that count: they met the experiment in one of its epochs
            period = {"since": epochs[0].starts_at - definitions.LOOKBACK, "before": epochs[-1].ends_at}
        keeper = self._keeper if source in unit_cache.SOURCES else None
        tables = keeper.make(source, condition) if keeper else ()
        self._made.update(tables)
        if not tables:
            self.engine.view(source, sources.COLUMNS[source], condition, **period)


TAGGED = ("id", "properties")
"""Columns that the referrer is read from."""

OUTCOME = ("unit", "type", "occurred_at", "value", "bot", "internal")
"""Columns that outcomes are counted from."""


def _check_dimension(dimension: str, dimensions: Sequence[str]) -> str:
    if dimension not in dimensions:
        raise InvalidInput(
            f"dimension {dimension!r} is unknown: choose from {', '.join(dimensions)}", field="dimension"
        )
    return dimension


def _facet_values(by: Sequence[str], row: Row) -> tuple[str, ...]:
    return tuple(counts.facet_value(name, str(row[key])) for name, key in zip(by, "ab", strict=False))


def _slice_name(row: Row) -> str:
    if row["unknown"]:
        return definitions.UNKNOWN
    return definitions.OTHER if row["slice"] is None else str(row["slice"])
