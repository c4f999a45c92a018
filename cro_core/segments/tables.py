"""The counts of a dimension, or of two together, and the tests that are made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cro_core.analytics.counts import Facet
from cro_core.analytics.definitions import OTHER, TIMES_OF_DAY, UNKNOWN, WEEKDAYS
from cro_core.domain import Experiment
from cro_core.segments.findings import Question, Slice, Test, rate_of
from cro_core.statistics.logistic import exact_test, score_test, score_tests
from cro_core.statistics.multiplicity import holm

Floats = NDArray[np.float64]

LEAST_UNITS = 100
LEAST_EXPECTED = 5
"""A value with fewer visitors, or of whom fewer conversions or non-conversions are expected at the overall rate, is
too small to tell. What is expected does not depend on what was found: else those that did badly would be left out
more often than those that did well."""

WITH_VARIANT = ("asset", "page", "occasion")
"""Dimensions whose values may come with a variant: they are compared inside each variant."""

NOT_DIVIDED = "visitors were not divided between the variants as planned"


@dataclass(frozen=True, eq=False)
class Group:
    """What is compared as one: the visitors of a value, or of several small ones."""

    name: tuple[str, ...]
    units: Floats
    """Shape (epochs, variants)."""
    conversions: Floats

    @property
    def n(self) -> float:
        """Its visitors."""
        return float(self.units.sum())

    @property
    def x(self) -> float:
        """How many of them converted."""
        return float(self.conversions.sum())

    @property
    def named(self) -> bool:
        """Whether a sentence can name it."""
        return OTHER not in self.name


def merged(groups: Sequence[Group], name: tuple[str, ...]) -> Group:
    """Several groups as one."""
    return Group(
        name, np.sum([g.units for g in groups], axis=0), np.sum([g.conversions for g in groups], axis=0)
    )


@dataclass(frozen=True)
class Design:
    """A table for a logistic model: rows of units and conversions, and columns that explain them."""

    units: Floats
    conversions: Floats
    known: Floats
    """What is known to matter, rows x columns."""
    asked: dict[tuple[str, ...], Floats]
    """Group -> the column that lets it differ."""

    @property
    def extra(self) -> Floats:
        """The columns in question, together."""
        return np.column_stack(list(self.asked.values()))


class Table:
    """The counts of one dimension or of a pair."""

    def __init__(
        self, experiment: Experiment, by: tuple[str, ...], facets: Sequence[Facet], *, effects: bool = True
    ) -> None:
        self.experiment, self.by, self.effects = experiment, by, effects
        self.variants = [v.key for v in experiment.ordered]
        self.moved = len({tuple(sorted(e.shares.items())) for e in experiment.epochs}) > 1
        epochs = sorted({f.epoch for f in facets}) or [0]
        shape = (len(epochs), len(self.variants))
        found: dict[tuple[str, ...], Group] = {}
        for f in sorted(facets, key=lambda f: tuple(map(_order, f.values))):
            group = found.setdefault(f.values, Group(f.values, np.zeros(shape), np.zeros(shape)))
            if f.variant in self.variants:
                place = epochs.index(f.epoch), self.variants.index(f.variant)
                group.units[place] += f.units
                group.conversions[place] += f.conversions
        self.counted = list(found.values())
        self.values = [g for g in self.counted if UNKNOWN not in g.name]
        n = sum(g.n for g in self.values)
        self.rate = sum(g.x for g in self.values) / n if n else 0.0

    @property
    def known(self) -> bool:
        """Whether any visitor's value is known."""
        return bool(self.values)

    @property
    def by_variant(self) -> bool:
        """Whether values are compared inside each variant."""
        return self.moved or any(name in WITH_VARIANT for name in self.by)

    @cached_property
    def groups(self) -> list[Group]:
        """What is compared: each value that has enough visitors, the small ones together."""
        return self._pooled(lambda g: self._tells(g.n))

    def slices(self) -> Iterator[Slice]:
        """The values as they were counted."""
        level = 1 - self.experiment.plan.alpha
        for g in self.counted:
            n, x = g.units.sum(axis=0), g.conversions.sum(axis=0)
            arms = {v: rate_of(n[j], x[j], level) for j, v in enumerate(self.variants)}
            enough = UNKNOWN not in g.name and self._tells(g.n)
            yield Slice(self.by[0], g.name[0], rate_of(g.n, g.x, level), arms, enough)

    def tests(self) -> Iterator[Test]:
        """Every test that is made of the table; none where there are not two groups to compare."""
        if len(self.by) > 1:
            design = self.combinations
            if design is not None:
                yield from self._scored("together", design)
        elif len(self.groups) > 1:
            yield self._matters()
            if len(self.groups) > 2:  # of two each differs from the other
                yield from (self._stands_out(g) for g in self.groups if g.named)
            for challenger in self.variants[1:]:
                yield from self._effects(challenger)

    def strata(self, group: Group) -> tuple[Floats, Floats]:
        """Units and conversions of a group, in one or by variant."""
        n, x = group.units.sum(axis=0), group.conversions.sum(axis=0)
        return (n, x) if self.by_variant else (n.sum(keepdims=True), x.sum(keepdims=True))

    def others(self, group: Group) -> Group:
        """All groups but one."""
        return merged([g for g in self.groups if g is not group], ("others",))

    # -- tests

    def _matters(self) -> Test:
        parts = [self.strata(g) for g in self.groups]
        strata, groups = len(parts[0][0]), len(parts)
        n, x = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
        known = np.tile(np.eye(strata), (groups, 1))
        test = score_test(n, x, known, np.repeat(np.eye(groups), strata, axis=0))
        return Test("matters", self.by, (), None, test.statistic, test.df, test.p_value, test.reason)

    def _stands_out(self, group: Group) -> Test:
        one, rest = self.strata(group), self.strata(self.others(group))
        p = exact_test(list(zip(*one, *rest, strict=True)))
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

    def _scored(self, question: Question, design: Design, challenger: str | None = None) -> Iterator[Test]:
        """Whether anything differs, and whether each group does by itself."""
        named = [(name, column) for name, column in design.asked.items() if OTHER not in name]
        singles = [(name, column) for name, column in named if not self._mirrored(name, design)]
        asked: list[tuple[tuple[str, ...], Floats]] = [((), design.extra), *singles]
        columns = [column for _, column in asked]
        found = score_tests(design.units, design.conversions, design.known, columns)
        for (name, _), test in zip(asked, found, strict=True):
            yield Test(
                question, self.by, name, challenger, test.statistic, test.df, test.p_value, test.reason
            )

    def _mirrored(self, name: tuple[str, ...], design: Design) -> bool:
        """Whether another group says the same: of two values, one differs as much as the other."""
        for i, value in enumerate(name):
            side = list(dict.fromkeys(group[i] for group in design.asked))
            named = [v for v in side if v != OTHER]
            if len(side) == 2 and (len(name) == 1 or value != max(named, key=lambda v: self._units(i, v))):
                return True
        return False

    def _units(self, side: int, value: str) -> float:
        return sum(g.n for g in self.values if g.name[side] == value)

    # -- designs

    def compared(self, challenger: str) -> list[Group]:
        """Groups with enough visitors of both the control and a challenger; the small ones together."""
        arms = [0, self.variants.index(challenger)]
        return self._pooled(
            lambda g: self._tells(g.n) and all(self._tells(n, 1) for n in g.units.sum(axis=0)[arms])
        )

    def treatment(self, challenger: str) -> Design | None:
        """A challenger with one odds ratio for all groups, which is allowed to differ; ``None``: fewer than two.

        Each group has its level, and so has each day where shares moved.
        """
        groups = self.compared(challenger)
        if len(groups) < 2:
            return None
        arms = [0, self.variants.index(challenger)]
        n, x = (np.stack([part[:, arms] for part in parts]) for parts in
                ([g.units for g in groups], [g.conversions for g in groups]))  # fmt: skip
        if not self.moved:
            n, x = n.sum(axis=1, keepdims=True), x.sum(axis=1, keepdims=True)
        place, day, treated = (axis.ravel() for axis in np.indices(n.shape))
        known = np.column_stack([np.eye(len(groups))[place], np.eye(n.shape[1])[day], treated])
        filled = n.ravel() > 0
        asked = {g.name: ((place == i) * treated)[filled].astype(float) for i, g in enumerate(groups)}
        return Design(n.ravel()[filled], x.ravel()[filled], known[filled], asked)

    @cached_property
    def combinations(self) -> Design | None:
        """Two dimensions that each have their level, and combinations that are allowed to differ."""
        sides = [self._side(0), self._side(1)]
        cells: dict[tuple[str, ...], list[Group]] = {}
        for g in self.values:
            name = tuple(v if v in side else OTHER for v, side in zip(g.name, sides, strict=True))
            cells.setdefault(name, []).append(g)
        found = [merged(parts, name) for name, parts in cells.items()]
        found = [
            g
            for g in found
            if self._tells(g.n, 1) and all(v in s for v, s in zip(g.name, sides, strict=True))
        ]
        if any(len({g.name[i] for g in found}) < 2 for i in (0, 1)):
            return None
        parts = [self.strata(g) for g in found]
        strata = len(parts[0][0])
        n, x = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
        row = np.repeat(np.arange(len(found)), strata)
        columns = [np.tile(np.eye(strata), (len(found), 1))]
        for i, side in enumerate(sides):
            columns.append(np.array([[g.name[i] == v for v in side] for g in found], float)[row])
        known, filled = np.column_stack(columns), n > 0
        asked = {g.name: (row == i)[filled].astype(float) for i, g in enumerate(found)}
        return Design(n[filled], x[filled], known[filled], asked)

    # -- what is large enough

    def _tells(self, units: float, least: int = LEAST_UNITS) -> bool:
        """Whether so many visitors are enough to tell."""
        return units >= least and min(units * self.rate, units * (1 - self.rate)) >= LEAST_EXPECTED

    def _pooled(self, tells: Callable[[Group], bool]) -> list[Group]:
        single = [g for g in self.values if g.named and tells(g)]
        rest = [g for g in self.values if g not in single]
        if rest:
            together = merged(rest, (OTHER,) * len(self.by))
            single += [together] * tells(together)
        return single

    def _side(self, side: int) -> list[str]:
        """Values of one dimension of a pair that have enough visitors; the others are one more."""
        totals = Counter[str]()
        for g in self.values:
            totals[g.name[side]] += int(g.n)
        found = [name for name, n in totals.items() if name != OTHER and self._tells(n)]
        rest = totals.total() - sum(totals[name] for name in found)
        return found + [OTHER] * self._tells(rest)


def adjusted(tests: Sequence[tuple[Test, Table]]) -> list[tuple[Test, Table]]:
    """The tests with p-values over everything that was asked.

    Each question that was asked has an equal part of the error; inside it, Holm.
    """
    questions = list(dict.fromkeys(test.question for test, _ in tests))
    found: dict[int, float | None] = {}
    for question in questions:
        places = [i for i, (test, _) in enumerate(tests) if test.question == question]
        p_values = holm([tests[i][0].p_value for i in places])
        found.update(
            (i, None if p is None else min(1.0, p * len(questions)))
            for i, p in zip(places, p_values, strict=True)
        )
    return [(replace(test, p_adjusted=found[i]), table) for i, (test, table) in enumerate(tests)]


def _order(value: str) -> tuple[int, int, str]:
    """Days and times in their order, others by name; what is no value last."""
    known = {name: i for i, name in enumerate((*WEEKDAYS, *TIMES_OF_DAY))}
    return (value in (OTHER, UNKNOWN), known.get(value, 0), value)
