"""What a metric is: its name, the sums it needs, and how a challenger is compared with the control."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from cro_core.domain import Cell, Experiment, QuantityPair
from cro_core.evidence import MetricResult
from cro_core.metrics.by_day import Days
from cro_core.metrics.sums import Counted


@dataclass(frozen=True, slots=True)
class Needs:
    """What has to be counted for a metric beside the cells, which are counted always."""

    goals: bool = False
    """How many units reached each goal."""
    pairs: tuple[QuantityPair, ...] = ()
    """Pairs of quantities, added up together; :meth:`Counted.pair` finds them by the key they carry."""


class Metric(Protocol):
    """A number of each variant, and how a challenger's is compared with the control's."""

    @property
    def key(self) -> str:
        """Key of the metric for programs, as in :attr:`MetricResult.metric`."""

    @property
    def name(self) -> str:
        """Name of the metric for people."""

    @property
    def kind(self) -> str:
        """Kind of the metric, as in :attr:`MetricResult.kind`."""

    @property
    def needs(self) -> Needs:
        """What has to be counted for the metric beside the cells."""

    @classmethod
    def of(cls, experiment: Experiment, cells: Sequence[Cell], /) -> Iterator[Self]:
        """Which metrics of this kind an experiment has.

        Args:
            experiment: a started experiment.
            cells: its counted units; amounts are a metric only where some were posted.
        """

    def pooled(self, control: Counted, challenger: Counted, level: float) -> MetricResult:
        """Compares all units at once, as is right while shares are fixed.

        Args:
            control: counts of the control.
            challenger: counts of the challenger.
            level: confidence level of the intervals, in (0, 1).

        Raises:
            InvalidInput: sums that no data can have.
        """

    def by_day(self, control: Counted, challenger: Counted, days: Days) -> MetricResult:
        """Compares each day in itself and combines the days, as is right where shares may move.

        Args:
            control: counts of the control.
            challenger: counts of the challenger.
            days: the weights of the days, and the confidence level.
        """


def result(metric: Metric, challenger: Counted, method: str, **numbers: Any) -> MetricResult:
    """What a metric says of a challenger; numbers that are not finite become ``None``.

    Args:
        metric: whose key, name and kind it bears.
        challenger: counts of the challenger.
        method: as in :attr:`MetricResult.method`.
        numbers: further fields of :class:`MetricResult`.
    """
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in numbers.items()
    }
    return MetricResult(metric.key, metric.name, metric.kind, challenger.variant, method, **finite)
