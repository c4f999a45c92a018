"""Running the definitions of :mod:`cro_core.analysis` on the store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from cro_core import analysis
from cro_core.clock import from_micros
from cro_core.domain import Cell, Experiment, GoalCell, Measured, PairCell
from cro_core.errors import InvalidInput
from cro_core.storage import schema

SUMS = ("score_sum", "score_sumsq", "value_sum", "value_sumsq")


def cells(connection: sa.Connection, experiment: Experiment, as_of: datetime) -> tuple[Cell, ...]:
    """The counted units per epoch and variant, as of a moment."""
    return cells_and_times(connection, experiment, as_of)[0]


def cells_and_times(
    connection: sa.Connection, experiment: Experiment, as_of: datetime
) -> tuple[tuple[Cell, ...], tuple[analysis.Slice, ...]]:
    """The cells, and the same units by day and by hour of the day, from one reading of the store."""
    quarter = analysis.QUARTER // timedelta(microseconds=1)
    sql, parameters = analysis.query(experiment, as_of, analysis.QUARTERS)
    rows = list(connection.execute(sa.text(sql), {**parameters, "quarter": quarter}).mappings())
    cells = tuple(
        Cell(
            epoch,
            variant,
            *(sum(int(r[name]) for r in part) for name in ("units", "conversions")),
            *(math.fsum(float(r[name]) for r in part) for name in SUMS),
        )
        for (epoch, variant), part in _by_cell(rows)
    )
    times = analysis.time_slices(
        experiment,
        (
            (int(r["epoch"]), r["variant"], from_micros(int(r["quarter"]) * quarter), int(r["units"]))
            for r in rows
        ),
    )
    return cells, times


def segments(
    connection: sa.Connection,
    experiment: Experiment,
    as_of: datetime,
    dimensions: Sequence[str] = tuple(analysis.SEGMENTS),
) -> tuple[analysis.Slice, ...]:
    """Counted units by device, country, city, page and asset of the exposure.

    Each dimension is one more reading of the exposures, and has at most :data:`analysis.MOST_SLICES` slices
    beside those of other and of unknown values.

    Raises:
        InvalidInput: no such dimension.
    """
    found: list[analysis.Slice] = []
    for dimension in dimensions:
        column = analysis.SEGMENTS.get(dimension)
        if column is None:
            raise InvalidInput(
                f"dimension {dimension!r} is unknown: choose from {', '.join(analysis.SEGMENTS)}",
                field="dimension",
            )
        sql, parameters = analysis.query(experiment, as_of, analysis.SEGMENT.format(column=column))
        rows = connection.execute(sa.text(sql), {**parameters, "most": analysis.MOST_SLICES}).mappings()
        found += [
            analysis.Slice(dimension, _slice_name(r), int(r["epoch"]), r["variant"], int(r["units"]))
            for r in rows
        ]
    return tuple(found)


def goal_cells(connection: sa.Connection, experiment: Experiment, as_of: datetime) -> tuple[GoalCell, ...]:
    """How many counted units reached each goal, per epoch and variant; combinations that nobody reached are absent."""
    rows = _run(connection, experiment, as_of, analysis.GOAL_CELLS)
    return tuple(GoalCell(r["goal"], int(r["epoch"]), r["variant"], int(r["units"])) for r in rows)


def pair_cells(
    connection: sa.Connection, experiment: Experiment, as_of: datetime, pair: analysis.PairQuery
) -> tuple[PairCell, ...]:
    """The sums of two quantities over the counted units, per epoch and variant."""
    sql, parameters = analysis.pair_query(experiment, as_of, pair)
    rows = connection.execute(sa.text(sql), parameters).mappings()
    sums = ("y_sum", "y_sumsq", "x_sum", "x_sumsq", "xy_sum")
    return tuple(
        PairCell(
            pair.metric, int(r["epoch"]), r["variant"], int(r["units"]), *(float(r[name]) for name in sums)
        )
        for r in rows
    )


def measured(
    connection: sa.Connection,
    experiment: Experiment,
    cells: Sequence[Cell],
    as_of: datetime,
    *,
    whole: bool = True,
) -> Measured:
    """What secondary metrics and guardrails need beside the cells.

    Args:
        connection: the store.
        experiment: a started experiment.
        cells: its :func:`cells` at the same moment; they say which metrics there are.
        as_of: the moment of the look.
        whole: False counts only what the guardrails watch, which is usually nothing more: for every hour.
    """
    watched = any(g.measure.startswith("goal:") for g in experiment.plan.guardrails)
    goals = goal_cells(connection, experiment, as_of) if whole or watched else ()
    if not whole:
        return Measured(goals)
    pairs = (pair_cells(connection, experiment, as_of, pair) for pair in analysis.pairs_of(experiment, cells))
    return Measured(goals, tuple(cell for found in pairs for cell in found))


def slices(
    connection: sa.Connection, experiment: Experiment, as_of: datetime, dimension: str
) -> list[dict[str, Any]]:
    """Counted units and conversions per value of a dimension and variant.

    Raises:
        InvalidInput: no such dimension.
    """
    if dimension not in analysis.DIMENSIONS:
        raise InvalidInput(
            f"dimension {dimension!r} is unknown: choose from {', '.join(analysis.DIMENSIONS)}",
            field="dimension",
        )
    rows = _run(connection, experiment, as_of, analysis.SLICES.format(dimension=dimension))
    return [dict(row) for row in rows]


def unit_table(connection: sa.Connection, experiment: Experiment, as_of: datetime) -> list[sa.RowMapping]:
    """One row per unit, counted or not (``standing`` says), in order of first exposure; times in microseconds."""
    return _run(connection, experiment, as_of, analysis.UNIT_TABLE)


def waterfall(connection: sa.Connection, experiment: Experiment, as_of: datetime) -> list[analysis.Step]:
    """From received to counted."""
    steps = {r["taken"]: int(r["events"]) for r in _run(connection, experiment, as_of, analysis.STEPS_TAKEN)}
    stored = steps.pop(analysis.STORED)
    table = schema.receipts
    rows = connection.execute(
        sa.select(table.c.outcome, table.c.count).where(table.c.experiment_id == experiment.id)
    )
    return analysis.waterfall(stored, steps, {outcome: int(count) for outcome, count in rows})


def crossover_units(connection: sa.Connection, experiment: Experiment, as_of: datetime) -> int:
    """How many units met more than one variant."""
    sql, parameters = analysis.query(experiment, as_of, analysis.CROSSOVER_UNITS)
    return int(connection.scalar(sa.text(sql), parameters) or 0)


def _by_cell(rows: Sequence[sa.RowMapping]) -> list[tuple[tuple[int, str], list[sa.RowMapping]]]:
    """The rows of each epoch and variant, in an order that no database's collation changes."""
    found: dict[tuple[int, str], list[sa.RowMapping]] = {}
    for row in rows:
        found.setdefault((int(row["epoch"]), row["variant"]), []).append(row)
    return sorted(found.items())


def _slice_name(row: sa.RowMapping) -> str:
    if row["unknown"]:
        return analysis.UNKNOWN
    return analysis.OTHER if row["slice"] is None else str(row["slice"])


def _run(
    connection: sa.Connection, experiment: Experiment, as_of: datetime, select: str
) -> list[sa.RowMapping]:
    sql, parameters = analysis.query(experiment, as_of, select)
    return list(connection.execute(sa.text(sql), parameters).mappings())
