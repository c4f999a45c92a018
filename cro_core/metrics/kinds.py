"""The kinds of metrics, one class each, and the table of them.

With fixed shares the tests are the usual ones: Pearson's chi-square, Welch, the delta method, CUPED. By day
every kind is re-labelled inside each day (:mod:`cro_core.metrics.by_day`). The two differ by design.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np

from cro_core.domain import Cell, Experiment, Harm, Quantity, QuantityPair, Ratio
from cro_core.evidence import MetricResult
from cro_core.metrics.by_day import FLAT, Days, RatioPair, moments, standardised_means, without_covariate
from cro_core.metrics.metric import Metric, Needs, result
from cro_core.metrics.sums import Counted, PairSums
from cro_core.statistics import companion, means, proportions
from cro_core.statistics.combination import Counts, Moments

IMBALANCE = 1e-3
"""A covariate that differs between variants at this p-value is no covariate: the variant has touched it."""

NAMES: Mapping[str, str] = {
    "conversions": "conversion rate",
    "engagement": "engagement score",
    "revenue": "revenue per visitor",
}

COVARIATE_NAMES: Mapping[str, str] = {
    "engagement": "engagement before the exposure",
    "exposure_value": "value sent with the exposure",
}


@dataclass(frozen=True, slots=True)
class Mean:
    """The engagement score, or the amounts of a unit, on average; one of a plan without covariate."""

    quantity: Quantity
    kind: ClassVar[str] = "mean"
    needs: ClassVar[Needs] = Needs()

    @classmethod
    def of(cls, experiment: Experiment, cells: Sequence[Cell]) -> Iterator[Mean]:
        """Yields the quantities of :func:`averaged` as means, where the plan names no covariate."""
        if experiment.plan.covariate not in COVARIATE_NAMES:
            yield from map(cls, averaged(experiment, cells))

    @property
    def key(self) -> str:
        """Key of the mean: ``engagement`` or ``revenue``."""
        return str(self.quantity)

    @property
    def name(self) -> str:
        """The mean for people."""
        return NAMES[self.key]

    def pooled(self, control: Counted, challenger: Counted, level: float) -> MetricResult:
        """Compares all units by Welch's t-test."""
        zero, one = (side.sums(self.quantity).pooled() for side in (control, challenger))
        welch = _numbers(means.welch(zero, one, level))
        return result(self, challenger, "welch", **welch, covariate="no covariate")

    def by_day(self, control: Counted, challenger: Counted, days: Days) -> MetricResult:
        """The values of each day re-labelled."""
        values = standardised_means(control.sums(self.quantity), challenger.sums(self.quantity))
        combined = days.compare(self.pair(control, challenger), values)
        return result(self, challenger, "welch_by_day", **combined, covariate="no covariate")

    def pair(self, control: Counted, challenger: Counted) -> Moments:
        """Challenger and control, by day."""
        return moments(control.sums(self.quantity), challenger.sums(self.quantity))

    def watch(
        self, control: Counted, challenger: Counted, margin: float, harm: Harm, number: int
    ) -> companion.GuardrailCheck:
        """Whether the mean is worse by more than a margin; see :func:`companion.guardrail_mean`."""
        zero, one = (side.sums(self.quantity).epochs() for side in (control, challenger))
        return companion.guardrail_mean(zero, one, margin, harm, number)


@dataclass(frozen=True, slots=True)
class AdjustedMean:
    """A mean adjusted for a covariate known before the exposure (CUPED), where that covariate can be used."""

    quantity: Quantity
    covariate: str
    """A key of :data:`COVARIATE_NAMES`."""
    kind: ClassVar[str] = "mean"

    @classmethod
    def of(cls, experiment: Experiment, cells: Sequence[Cell]) -> Iterator[AdjustedMean]:
        """Yields the quantities of :func:`averaged` as adjusted means, where the plan names a covariate."""
        covariate = experiment.plan.covariate
        if covariate in COVARIATE_NAMES:
            for quantity in averaged(experiment, cells):
                yield cls(quantity, covariate)

    @property
    def plain(self) -> Mean:
        """The mean without its covariate."""
        return Mean(self.quantity)

    @property
    def key(self) -> str:
        """Key of the mean: ``engagement`` or ``revenue``."""
        return self.plain.key

    @property
    def name(self) -> str:
        """The mean for people."""
        return self.plain.name

    @property
    def needs(self) -> Needs:
        """The quantity (y) with the covariate (x)."""
        return Needs(pairs=(QuantityPair(self.key, self.quantity, Quantity("before", self.covariate)),))

    def pooled(self, control: Counted, challenger: Counted, level: float) -> MetricResult:
        """CUPED over all units, else Welch's t-test."""
        zero, one = control.pair(self.key), challenger.pair(self.key)
        useless = self._constant(zero, one) or self._touched(
            means.welch(zero.of_x().pooled(), one.of_x().pooled()).p_value
        )
        if useless:
            return replace(self.plain.pooled(control, challenger, level), covariate=useless)
        cuped = _numbers(means.cuped(zero.pooled(), one.pooled(), level))
        return result(self, challenger, "cuped", **cuped, covariate=COVARIATE_NAMES[self.covariate])

    def by_day(self, control: Counted, challenger: Counted, days: Days) -> MetricResult:
        """CUPED with a coefficient of each day, else the values of each day re-labelled as they are."""
        zero, one = control.pair(self.key), challenger.pair(self.key)
        useless = self._constant(zero, one) or self._touched(days.p_value(moments(zero.of_x(), one.of_x())))
        if useless:
            return replace(self.plain.by_day(control, challenger, days), covariate=useless)
        *adjusted, explained = without_covariate(zero, one)
        combined = days.compare(moments(*adjusted), standardised_means(*adjusted))
        cuped = result(self, challenger, "cuped_by_day", **combined)
        return replace(cuped, reduction=explained, covariate=COVARIATE_NAMES[self.covariate])

    def _constant(self, zero: PairSums, one: PairSums) -> str | None:
        """Why a covariate that does not vary is not used."""
        n, x, xx = zero.n.sum() + one.n.sum(), zero.x.sum() + one.x.sum(), zero.xx.sum() + one.xx.sum()
        if n and xx - x * x / n > FLAT * xx:
            return None
        return f"no covariate: the {COVARIATE_NAMES[self.covariate]} is the same for all"

    def _touched(self, p_value: float | None) -> str | None:
        """Why a covariate that differs between the variants is not used."""
        if p_value is None or not p_value < IMBALANCE:
            return None
        name = COVARIATE_NAMES[self.covariate]
        return f"no covariate: the {name} differs between the variants (p = {p_value:.1e}), as it must not"


@dataclass(frozen=True, slots=True)
class Rate:
    """The part of the units that reached a goal, or that converted."""

    quantity: Quantity
    kind: ClassVar[str] = "rate"

    @classmethod
    def of(cls, experiment: Experiment, _cells: Sequence[Cell]) -> Iterator[Rate]:
        """Every goal but an only primary one, which is the primary metric over again."""
        goals = experiment.plan.goals
        primary = [goal.name for goal in goals if goal.primary]
        for goal in goals:
            if primary != [goal.name]:
                yield cls(Quantity("goal", goal.name))

    @property
    def key(self) -> str:
        """Key of the rate: ``goal:NAME``, or ``conversions``."""
        return str(self.quantity)

    @property
    def name(self) -> str:
        """What people are shown: the goal, or the name of the rate."""
        return NAMES.get(self.key, self.quantity.of or "")

    @property
    def needs(self) -> Needs:
        """How many units reached each goal; nothing for conversions, which the cells hold."""
        return Needs(goals=self.quantity.kind == "goal")

    def pooled(self, control: Counted, challenger: Counted, level: float) -> MetricResult:
        """Pearson's chi-square, with score intervals."""
        sums = [side.sums(self.quantity) for side in (control, challenger)]
        (n0, n1), (x0, x1) = ([int(s.n.sum()) for s in sums], [int(s.total.sum()) for s in sums])
        test = proportions.chi_square([n0, n1], [x0, x1])
        gap = proportions.difference(n0, x0, n1, x1, level)
        return result(
            self,
            challenger,
            "pearson",
            control=x0 / n0 if n0 else None,
            value=x1 / n1 if n1 else None,
            absolute=gap.absolute,
            low=gap.score_low,
            high=gap.score_high,
            relative=gap.relative,
            relative_low=gap.relative_low,
            relative_high=gap.relative_high,
            statistic=test.statistic,
            p_value=test.p_value,
            reason=test.reason or (gap.reason if gap.relative is None else None),
        )

    def by_day(self, control: Counted, challenger: Counted, days: Days) -> MetricResult:
        """The units of each day re-labelled: those that reached the goal are hypergeometric."""
        values = standardised_means(control.sums(self.quantity), challenger.sums(self.quantity))
        combined = days.compare(self.pair(control, challenger), values)
        return result(self, challenger, "pearson_by_day", **combined)

    def pair(self, control: Counted, challenger: Counted) -> Counts:
        """Challenger and control, by day."""
        zero, one = control.sums(self.quantity), challenger.sums(self.quantity)
        return Counts(one.n, one.total, zero.n, zero.total)

    def watch(
        self, control: Counted, challenger: Counted, margin: float, harm: Harm, number: int
    ) -> companion.GuardrailCheck:
        """Whether the rate is worse by more than a margin; see :func:`companion.guardrail`."""
        sums = [side.sums(self.quantity) for side in (control, challenger)]
        units = np.stack([s.n for s in sums], axis=1)
        return companion.guardrail(units, np.stack([s.total for s in sums], axis=1), margin, harm, number)


@dataclass(frozen=True, slots=True)
class RatioOfSums:
    """One sum over the units divided by another, such as revenue per conversion."""

    ratio: Ratio
    kind: ClassVar[str] = "ratio"

    @classmethod
    def of(cls, experiment: Experiment, _cells: Sequence[Cell]) -> Iterator[RatioOfSums]:
        """Yields the ratios that the plan names."""
        yield from map(cls, experiment.plan.ratios)

    @property
    def key(self) -> str:
        """Key of the ratio: ``ratio:NAME``."""
        return f"ratio:{self.ratio.name}"

    @property
    def name(self) -> str:
        """What the plan calls the ratio."""
        return self.ratio.name

    @property
    def needs(self) -> Needs:
        """The numerator (y) with the denominator (x)."""
        y, x = Quantity.parse(self.ratio.numerator), Quantity.parse(self.ratio.denominator)
        return Needs(pairs=(QuantityPair(self.key, y, x),))

    def pooled(self, control: Counted, challenger: Counted, level: float) -> MetricResult:
        """The delta method."""
        zero, one = (side.pair(self.key).pooled() for side in (control, challenger))
        return result(self, challenger, "delta", **_numbers(means.ratio(zero, one, level)))

    def by_day(self, control: Counted, challenger: Counted, days: Days) -> MetricResult:
        """The residuals from each day's common ratio, re-labelled."""
        pair = RatioPair(challenger.pair(self.key), control.pair(self.key))
        return result(self, challenger, "delta_by_day", **days.compare(pair, pair.ratios()))


KINDS: tuple[type[Metric], ...] = (Mean, AdjustedMean, Rate, RatioOfSums)
"""Every kind of secondary metric, in the order of a family."""


def metrics_of(experiment: Experiment, cells: Sequence[Cell]) -> list[Metric]:
    """The secondary metrics of an experiment, in the order of a family.

    Args:
        experiment: a started experiment.
        cells: its counted units per epoch and variant; amounts are a metric only where some were posted.
    """
    return [metric for kind in KINDS for metric in kind.of(experiment, cells)]


def averaged(experiment: Experiment, cells: Sequence[Cell]) -> Iterator[Quantity]:
    """What is averaged over the units of an experiment.

    The score of a single goal is its rate over again, and amounts are a metric only where some were posted.
    """
    if len(experiment.plan.goals) > 1:
        yield Quantity("engagement")
    if any(cell.value_sumsq for cell in cells):
        yield Quantity("revenue")


def _numbers(difference: means.MeanDifference) -> dict[str, Any]:
    """Returns numbers as fields of a result."""
    numbers = asdict(difference)
    numbers["value"] = numbers.pop("variant")
    del numbers["df"]
    return numbers
