"""The counts of a dimension, or of two together, and the tests that are made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from cro_core.analytics.counts import Facet
from cro_core.analytics.definitions import OTHER, UNKNOWN
from cro_core.analytics.segment_definitions import TIMES_OF_DAY, WEEKDAYS
from cro_core.domain import Experiment
from cro_core.segments.findings import Question, SegmentSlice, Test, rate_of
from cro_core.statistics.arrays import Floats
from cro_core.statistics.logistic import exact_test, indicator_tests, score_test
from cro_core.statistics.multiplicity import holm

LEAST_UNITS = 100
"""Fewest visitors of a value that is compared with others."""
LEAST_EXPECTED = 5
"""Fewest conversions and fewest non-conversions that a value's visitors must be expected to make at the overall rate.
With fewer, or with fewer visitors than :data:`LEAST_UNITS`, it is too small to tell. What is expected does not depend
on what was found: else those that did badly would be left out more often than those that did well."""

WITH_VARIANT = ("asset", "page", "occasion")
"""Dimensions whose values may come with a variant: they are compared inside each variant."""

NOT_DIVIDED = "visitors were not divided between the variants as planned"


@dataclass(frozen=True, eq=False)
class Group:
    """The visitors who are compared as one: those of a value, or of several small ones."""

    name: tuple[str, ...]
    units: Floats
    """Shape (epochs, variants)."""
    conversions: Floats

    @property
    def total_units(self) -> float:
        """Visitors of the group."""
        return float(self.units.sum())

    @property
    def total_conversions(self) -> float:
        """Visitors of the group who converted."""
        return float(self.conversions.sum())

    @property
    def named(self) -> bool:
        """Whether a sentence can name the group: one of several small values it cannot."""
        return OTHER not in self.name


def merged(groups: Sequence[Group], name: tuple[str, ...]) -> Group:
    """Adds several groups up to one."""
    return Group(
        name,
        np.sum([group.units for group in groups], axis=0),
        np.sum([group.conversions for group in groups], axis=0),
    )


@dataclass(frozen=True)
class LogisticDesign:
    """A table for a logistic model: rows of units and conversions, and columns that explain them."""

    units: Floats
    conversions: Floats
    null: Floats
    """What the null hypothesis lets matter, rows x columns."""
    columns: dict[tuple[str, ...], Floats]
    """Group -> the column that lets it differ; the tests are of these."""

    @property
    def extra(self) -> Floats:
        """All columns in question as one matrix, for a test of all groups at once."""
        return np.column_stack(list(self.columns.values()))


class SegmentTable:
    """The counts of one dimension or of a pair of them, and the tests that they allow."""

    def __init__(
        self, experiment: Experiment, by: tuple[str, ...], facets: Sequence[Facet], *, effects: bool = True
    ) -> None:
        self.experiment, self.by, self.effects = experiment, by, effects
        self.variants = [variant.key for variant in experiment.ordered]
        self.moved = len({tuple(sorted(epoch.shares.items())) for epoch in experiment.epochs}) > 1
        epochs = sorted({facet.epoch for facet in facets}) or [0]
        shape = (len(epochs), len(self.variants))
        groups: dict[tuple[str, ...], Group] = {}
        for facet in sorted(facets, key=lambda facet: tuple(map(_order, facet.values))):
            group = groups.setdefault(facet.values, Group(facet.values, np.zeros(shape), np.zeros(shape)))
            if facet.variant in self.variants:
                place = epochs.index(facet.epoch), self.variants.index(facet.variant)
                group.units[place] += facet.units
                group.conversions[place] += facet.conversions
        self.all_groups = list(groups.values())
        self.values = [group for group in self.all_groups if UNKNOWN not in group.name]
        n = sum(group.total_units for group in self.values)
        self.rate = sum(group.total_conversions for group in self.values) / n if n else 0.0

    @property
    def has_values(self) -> bool:
        """Whether any visitor's value of the dimension is known."""
        return bool(self.values)

    @property
    def by_variant(self) -> bool:
        """Whether values are compared inside each variant."""
        return self.moved or any(name in WITH_VARIANT for name in self.by)

    @cached_property
    def groups(self) -> list[Group]:
        """The groups that are compared: each value that has enough visitors, the small ones together."""
        return self._pooled(lambda group: self._tells(group.total_units))

    def slices(self) -> Iterator[SegmentSlice]:
        """Yields the values as they were counted, each with its rates."""
        level = 1 - self.experiment.plan.alpha
        for group in self.all_groups:
            n, x = group.units.sum(axis=0), group.conversions.sum(axis=0)
            rates = {variant: rate_of(n[j], x[j], level) for j, variant in enumerate(self.variants)}
            enough = UNKNOWN not in group.name and self._tells(group.total_units)
            yield SegmentSlice(
                self.by[0],
                group.name[0],
                rate_of(group.total_units, group.total_conversions, level),
                rates,
                enough,
            )

    def tests(self) -> Iterator[Test]:
        """Yields every test that the table allows; none where there are not two groups to compare."""
        if len(self.by) > 1:
            design = self.combinations
            if design is not None:
                yield from self._scored("together", design)
        elif len(self.groups) > 1:
            yield self._matters()
            if len(self.groups) > 2:  # of two each differs from the other
                yield from (self._stands_out(group) for group in self.groups if group.named)
            for challenger in self.variants[1:]:
                yield from self._effects(challenger)

    def strata(self, group: Group) -> tuple[Floats, Floats]:
        """Units and conversions of a group: one number each, or one by variant where :attr:`by_variant` says so."""
        n, x = group.units.sum(axis=0), group.conversions.sum(axis=0)
        return (n, x) if self.by_variant else (n.sum(keepdims=True), x.sum(keepdims=True))

    def others(self, group: Group) -> Group:
        """Adds up all groups but ``group``."""
        return merged([other for other in self.groups if other is not group], ("others",))

    def _matters(self) -> Test:
        parts = [self.strata(group) for group in self.groups]
        strata, groups = len(parts[0][0]), len(parts)
        n, x = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        null = np.tile(np.eye(strata), (groups, 1))
        test = score_test(n, x, null, np.repeat(np.eye(groups), strata, axis=0))
        return Test("matters", self.by, (), None, test.statistic, test.df, test.p_value, test.reason)

    def _stands_out(self, group: Group) -> Test:
        inside, outside = self.strata(group), self.strata(self.others(group))
        p = exact_test(list(zip(*inside, *outside, strict=True)))
        reason = "it comes with a variant, or nobody or everybody converted" if p is None else None
        return Test("stands_out", self.by, group.name, None, None, None, p, reason)

    def _effects(self, challenger: str) -> Iterator[Test]:
        design = self.treatment(challenger)
        if design is None:
            return
        if self.effects:
            yield from self._scored("effect", design, challenger)
        else:
            yield Test("effect", self.by, (), challenger, None, None, None, NOT_DIVIDED)

    def _scored(
        self, question: Question, design: LogisticDesign, challenger: str | None = None
    ) -> Iterator[Test]:
        """Whether anything differs, and whether each group does by itself."""
        nameable = [(name, column) for name, column in design.columns.items() if OTHER not in name]
        single_effects = [(name, column) for name, column in nameable if not self._mirrored(name, design)]
        names = [(), *(name for name, _ in single_effects)]
        table = design.units, design.conversions, design.null
        results = [score_test(*table, design.extra)]
        if single_effects:
            results += indicator_tests(*table, np.column_stack([column for _, column in single_effects]))
        for name, test in zip(names, results, strict=True):
            yield Test(
                question, self.by, name, challenger, test.statistic, test.df, test.p_value, test.reason
            )

    def _mirrored(self, name: tuple[str, ...], design: LogisticDesign) -> bool:
        """Whether another group says the same: of two values, one differs as much as the other."""
        for side, value in enumerate(name):
            values = list(dict.fromkeys(group[side] for group in design.columns))
            if len(values) == 2 and (len(name) == 1 or value != self._most_frequent(side, values)):
                return True
        return False

    def _most_frequent(self, side: int, values: Sequence[str]) -> str:
        return max((value for value in values if value != OTHER), key=lambda value: self._units(side, value))

    def _units(self, side: int, value: str) -> float:
        return sum(group.total_units for group in self.values if group.name[side] == value)

    def compared(self, challenger: str) -> list[Group]:
        """Groups with enough visitors of both the control and a challenger; the small ones together."""
        pair = [0, self.variants.index(challenger)]
        return self._pooled(
            lambda group: (
                self._tells(group.total_units)
                and all(self._tells(n, 1) for n in group.units.sum(axis=0)[pair])
            )
        )

    def treatment(self, challenger: str) -> LogisticDesign | None:
        """The model in which a challenger has one odds ratio for all groups, which is allowed to differ.

        Each group has a rate of its own, and so has each day where shares moved. ``None`` with fewer than two groups.
        """
        groups = self.compared(challenger)
        if len(groups) < 2:
            return None
        pair = [0, self.variants.index(challenger)]
        n, x = (np.stack([part[:, pair] for part in parts]) for parts in
                ([group.units for group in groups], [group.conversions for group in groups]))  # fmt: skip
        if not self.moved:
            n, x = n.sum(axis=1, keepdims=True), x.sum(axis=1, keepdims=True)
        place, day, treated = (axis.ravel() for axis in np.indices(n.shape))
        null = np.column_stack([np.eye(len(groups))[place], np.eye(n.shape[1])[day], treated])
        filled = n.ravel() > 0
        columns = {
            group.name: ((place == i) * treated)[filled].astype(float) for i, group in enumerate(groups)
        }
        return LogisticDesign(n.ravel()[filled], x.ravel()[filled], null[filled], columns)

    @cached_property
    def combinations(self) -> LogisticDesign | None:
        """The model in which each value of a pair's two dimensions has its effect, and combinations may differ.

        ``None`` where a dimension has fewer than two values with enough visitors.
        """
        sides = [self._side(0), self._side(1)]
        cells: dict[tuple[str, ...], list[Group]] = {}
        for group in self.values:
            name = tuple(
                value if value in side else OTHER for value, side in zip(group.name, sides, strict=True)
            )
            cells.setdefault(name, []).append(group)
        combined = [merged(parts, name) for name, parts in cells.items()]
        combined = [
            group
            for group in combined
            if self._tells(group.total_units, 1)
            and all(value in side for value, side in zip(group.name, sides, strict=True))
        ]
        if any(len({group.name[i] for group in combined}) < 2 for i in (0, 1)):
            return None
        parts = [self.strata(group) for group in combined]
        strata = len(parts[0][0])
        n, x = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        row = np.repeat(np.arange(len(combined)), strata)
        columns = [np.tile(np.eye(strata), (len(combined), 1))]
        for i, side in enumerate(sides):
            columns.append(
                np.array([[group.name[i] == value for value in side] for group in combined], float)[row]
            )
        null, filled = np.column_stack(columns), n > 0
        allowed = {group.name: (row == i)[filled].astype(float) for i, group in enumerate(combined)}
        return LogisticDesign(n[filled], x[filled], null[filled], allowed)

    def _tells(self, units: float, least: int = LEAST_UNITS) -> bool:
        """Whether so many visitors are enough to tell."""
        return units >= least and min(units * self.rate, units * (1 - self.rate)) >= LEAST_EXPECTED

    def _pooled(self, tells: Callable[[Group], bool]) -> list[Group]:
        large = [group for group in self.values if group.named and tells(group)]
        rest = [group for group in self.values if group not in large]
        if rest:
            small = merged(rest, (OTHER,) * len(self.by))
            large += [small] * tells(small)
        return large

    def _side(self, side: int) -> list[str]:
        """Values of one dimension of a pair that have enough visitors; the others are one more."""
        totals = Counter[str]()
        for group in self.values:
            totals[group.name[side]] += int(group.total_units)
        large = [name for name, n in totals.items() if name != OTHER and self._tells(n)]
        rest = totals.total() - sum(totals[name] for name in large)
        return large + [OTHER] * self._tells(rest)


def adjusted(tests: Sequence[tuple[Test, SegmentTable]]) -> list[tuple[Test, SegmentTable]]:
    """Gives the tests p-values that are adjusted for everything that was asked.

    Each question that was asked has an equal part of the error; inside it, Holm.
    """
    questions = list(dict.fromkeys(test.question for test, _ in tests))
    p_adjusted: dict[int, float | None] = {}
    for question in questions:
        places = [i for i, (test, _) in enumerate(tests) if test.question == question]
        p_values = holm([tests[i][0].p_value for i in places])
        p_adjusted.update(
            (i, None if p is None else min(1.0, p * len(questions)))
            for i, p in zip(places, p_values, strict=True)
        )
    return [(replace(test, p_adjusted=p_adjusted[i]), table) for i, (test, table) in enumerate(tests)]


def _order(value: str) -> tuple[int, int, str]:
    """Days and times in their order, others by name; what is no value last."""
    position = {name: i for i, name in enumerate((*WEEKDAYS, *TIMES_OF_DAY))}
    return (value in (OTHER, UNKNOWN), position.get(value, 0), value)
