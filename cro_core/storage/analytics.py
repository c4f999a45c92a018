"""Running the definitions of :mod:`cro_core.analysis` on the store."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cro_core import analysis
from cro_core.domain import Cell, Experiment
from cro_core.errors import InvalidInput
from cro_core.storage import schema


def cells(connection: sa.Connection, experiment: Experiment, as_of: datetime) -> tuple[Cell, ...]:
    """The counted units per epoch and variant, as of a moment."""
    rows = _run(connection, experiment, as_of, analysis.CELLS)
    return tuple(
        Cell(
            int(r["epoch"]),
            r["variant"],
            int(r["units"]),
            int(r["conversions"]),
            *(float(r[name]) for name in ("score_sum", "score_sumsq", "value_sum", "value_sumsq")),
        )
        for r in rows
    )


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


def _run(
    connection: sa.Connection, experiment: Experiment, as_of: datetime, select: str
) -> list[sa.RowMapping]:
    sql, parameters = analysis.query(experiment, as_of, select)
    return list(connection.execute(sa.text(sql), parameters).mappings())
