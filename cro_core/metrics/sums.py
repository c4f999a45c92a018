"""What was counted of one variant, as arrays over the epochs: all that a metric is computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cro_core.domain import Cell, Experiment, GoalCell, Measured, PairCell, Quantity
from cro_core.errors import InvalidInput
from cro_core.statistics import means
from cro_core.statistics.arrays import Floats

OF_CELL: Mapping[str, tuple[str, str]] = {
    "conversions": ("conversions", "conversions"),
    "engagement": ("score_sum", "score_sumsq"),
    "revenue": ("value_sum", "value_sumsq"),
}
"""Kind of a quantity -> fields of a cell with its sum and its sum of squares."""

OF_PAIR: Mapping[str, str] = {
    "n": "units",
    "y": "y_sum",
    "yy": "y_sumsq",
    "x": "x_sum",
    "xx": "x_sumsq",
    "xy": "xy_sum",
}
"""Field of :class:`PairSums` -> field of a pair's cell."""


@dataclass(frozen=True, slots=True)
class UnitSums:
    """One quantity added up over the units of a variant; arrays ``(epochs,)``."""

    n: Floats
    """How many units there are."""
    total: Floats
    """Sum of the quantity."""
    squares: Floats
    """Sum of its squares."""

    def pooled(self) -> means.Sums:
        """All epochs in one."""
        return means.Sums(int(self.n.sum()), float(self.total.sum()), float(self.squares.sum()))

    def epochs(self) -> list[means.Sums]:
        """Each epoch by itself."""
        columns = zip(self.n, self.total, self.squares, strict=True)
        return [means.Sums(int(n), float(total), float(squares)) for n, total, squares in columns]


@dataclass(frozen=True, slots=True)
class PairSums:
    """Two quantities y and x added up over the units of a variant; arrays ``(epochs,)``."""

    n: Floats
    """How many units there are."""
    y: Floats
    """Sum of y."""
    yy: Floats
    """Sum of y squared."""
    x: Floats
    """Sum of x."""
    xx: Floats
    """Sum of x squared."""
    xy: Floats
    """Sum of x times y."""

    def __add__(self, other: PairSums) -> PairSums:
        """The sums of both variants together."""
        return PairSums(
            self.n + other.n,
            self.y + other.y,
            self.yy + other.yy,
            self.x + other.x,
            self.xx + other.xx,
            self.xy + other.xy,
        )

    def of_x(self) -> UnitSums:
        """The sums of x alone."""
        return UnitSums(self.n, self.x, self.xx)

    def pooled(self) -> means.Pairs:
        """All epochs in one."""
        y, x, yy, xx, xy = (float(a.sum()) for a in (self.y, self.x, self.yy, self.xx, self.xy))
        return means.Pairs(int(self.n.sum()), y, x, yy, xx, xy)


@dataclass(frozen=True, slots=True)
class Counted:
    """The counts of one variant; where nothing was counted they are 0."""

    variant: str
    """Key of the variant."""
    cells: tuple[Cell, ...]
    """One an epoch, in order."""
    goals: Mapping[tuple[str, int], GoalCell]
    """Units that reached each goal, by goal and epoch."""
    pairs: Mapping[tuple[str, int], PairCell]
    """Sums of pairs of quantities, by metric and epoch."""

    def sums(self, quantity: Quantity) -> UnitSums:
        """The sums of one quantity per epoch.

        Raises:
            InvalidInput: neither a measure of every unit nor whether a goal was reached.
        """
        units = self._column("units")
        if quantity.kind == "goal":
            cells = (self.goals.get((str(quantity.of), cell.epoch)) for cell in self.cells)
            reached = np.array([0.0 if cell is None else float(cell.units) for cell in cells])
            return UnitSums(units, reached, reached)
        if quantity.kind not in OF_CELL:
            wanted = f"goal:NAME, {', '.join(OF_CELL)}"
            raise InvalidInput(
                f"quantity is {quantity}, which is counted in pairs only: give {wanted}, or need a pair"
            )
        total, squares = (self._column(field) for field in OF_CELL[quantity.kind])
        return UnitSums(units, total, squares)

    def pair(self, metric: str) -> PairSums:
        """The sums of the pair that a metric of this key needs, per epoch."""
        nothing = PairCell(metric, 0, self.variant, 0, 0, 0, 0, 0, 0)
        cells = [self.pairs.get((metric, cell.epoch), nothing) for cell in self.cells]
        return PairSums(
            **{sums: np.array([float(getattr(c, name)) for c in cells]) for sums, name in OF_PAIR.items()}
        )

    def _column(self, field: str) -> Floats:
        return np.array([float(getattr(cell, field)) for cell in self.cells])


def counted(experiment: Experiment, cells: Sequence[Cell], measured: Measured) -> dict[str, Counted]:
    """The counts of each variant of an experiment, by its key.

    Args:
        experiment: a started experiment.
        cells: its counted units per epoch and variant.
        measured: what was counted beside them at the same moment.
    """
    return {
        variant.key: Counted(
            variant.key,
            _in_order(variant.key, epochs_of(experiment, cells), cells),
            {(g.goal, g.epoch): g for g in measured.goals if g.variant == variant.key},
            {(p.metric, p.epoch): p for p in measured.pairs if p.variant == variant.key},
        )
        for variant in experiment.variants
    }


def epochs_of(experiment: Experiment, cells: Sequence[Cell]) -> list[int]:
    """Numbers of the epochs: those of the schedule, else those that units were counted in; at least one."""
    return [e.number for e in experiment.epochs] or sorted({c.epoch for c in cells}) or [0]


def _in_order(variant: str, epochs: Sequence[int], cells: Sequence[Cell]) -> tuple[Cell, ...]:
    by_epoch = {cell.epoch: cell for cell in cells if cell.variant == variant}
    return tuple(by_epoch.get(epoch, Cell(epoch, variant, 0, 0)) for epoch in epochs)
