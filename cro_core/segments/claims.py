"""The differences between segments that survived the correction for asking often, in words, with size and interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from cro_core.segments.findings import Claim, Test
from cro_core.segments.tables import Group, LogisticDesign, SegmentTable, merged
from cro_core.statistics.logistic import indicator_tests, log_odds
from cro_core.statistics.proportions import difference, mantel_haenszel, quantile

Size = tuple[float | None, float | None, float | None]
"""An effect and the ends of its interval."""

NO_SIZE: Size = (None, None, None)
MOST_NAMED = 4
"""Most values that the sentence on a whole dimension names."""


def claims_of(tests: Sequence[tuple[Test, SegmentTable]], alpha: float) -> tuple[Claim, ...]:
    """Makes a claim of each test that survived its correction, the surest first.

    A combination of two dimensions is claimed only where it also survives beside the surer ones of the same two:
    one that is unlike all others makes its neighbours look unlike what both dimensions make alone.
    """
    tests_by_question = Counter(test.question for test, _ in tests)
    claims: list[Claim] = []
    for test, table in sorted(tests, key=_surest):
        # intervals hold for all tests of a question at once, as the claims do
        level = 1 - alpha / len(tests_by_question) / tests_by_question[test.question]
        if not _survived(test, alpha) or _explained(test, table, claims, level):
            continue
        text, size = WORDINGS[test.question](test, table, level)
        claims.append(
            Claim(test.question, test.by, test.values, test.variant, text, test.p_adjusted or 0.0, *size)
        )
    return tuple(claims)


def summary(tests: Sequence[Test], claims: Sequence[Claim], alpha: float) -> str:
    """Says in a sentence how many comparisons were made and how many survived their correction."""
    if not tests:
        return "Nothing could be compared: no two values have enough visitors."
    dimensions = ", ".join(dict.fromkeys(test.by[0] for test in tests if len(test.by) == 1))
    comparisons = f"{len(tests)} comparison{'s' if len(tests) > 1 else ''} by {dimensions}"
    if not claims:
        return f"No difference is proven: of {comparisons}, none survives the correction for asking so much."
    survivors = "1 survives" if len(claims) == 1 else f"{len(claims)} survive"
    return f"Of {comparisons}, {survivors}: the chance that any of this is false is at most {alpha:.0%}."


def _surest(tested: tuple[Test, SegmentTable]) -> tuple[float, float]:
    test, _ = tested
    return test.p_adjusted or 0.0, test.p_value or 0.0


def _survived(test: Test, alpha: float) -> bool:
    return test.p_adjusted is not None and test.p_adjusted <= alpha


def _explained(test: Test, table: SegmentTable, claims: Sequence[Claim], level: float) -> bool:
    """Whether combinations that were claimed already leave nothing to claim of this one."""
    if test.question != "together" or not test.values:
        return False
    surer = [
        claim.values
        for claim in claims
        if claim.values and claim.question == "together" and claim.by == test.by
    ]
    design = table.combinations
    if not surer or design is None:
        return False
    null = np.column_stack([design.null, *(design.columns[values] for values in surer)])
    (beside,) = indicator_tests(design.units, design.conversions, null, design.columns[test.values])
    return beside.p_value is None or beside.p_value > 1 - level


def _matters(test: Test, table: SegmentTable, level: float) -> tuple[str, Size]:
    ordered = sorted(table.groups, key=_rate)
    low, high = ordered[0], ordered[-1]
    size = _relative(table, low, high, _any_pair(level, len(ordered)))
    rates = ", ".join(f"{_name(group.name)} {_percent(_rate(group))}" for group in _largest(table.groups))
    return f"Conversion differs by {test.by[0]}: {rates}.", size


def _stands_out(test: Test, table: SegmentTable, level: float) -> tuple[str, Size]:
    tested = next(group for group in table.groups if group.name == test.values)
    rest = table.others(tested)
    size = _relative(table, rest, tested, level)
    rates = f"{_percent(_rate(tested))} against {_percent(_rate(rest))} of all others"
    return f"{_sentence(test)} converts {_more(size[0])}: {rates}.", size


def _effect(test: Test, table: SegmentTable, level: float) -> tuple[str, Size]:
    challenger = test.variant or ""
    variant = table.experiment.variant(challenger)
    name = (variant.name if variant else "") or challenger
    groups = table.compared(challenger)
    uplifts = {group.name: _uplift(table, group, challenger) for group in groups}
    design = table.treatment(challenger)
    if test.values and design is not None:
        tested = next(group for group in groups if group.name == test.values)
        interaction = log_odds(design.units, design.conversions, design.null, design.columns[test.values])
        rest = merged([group for group in groups if group is not tested], ("others",))
        by_group = (
            f"{_signed(uplifts[tested.name])} against {_signed(_uplift(table, rest, challenger))} elsewhere"
        )
        text = f"“{name}” does something else for {test.by[0]} {_name(test.values)}: {by_group}."
        return text, _odds(interaction.estimate, interaction.error, level)
    ordered = sorted(groups, key=lambda group: uplifts[group.name] or 0.0)
    low, high = ordered[0], ordered[-1]
    by_group = ", ".join(f"{_name(group.name)} {_signed(uplifts[group.name])}" for group in _largest(groups))
    size = _between(table, challenger, low, high, _any_pair(level, len(groups)))
    return f"What “{name}” does differs by {test.by[0]}: {by_group}.", size


def _together(test: Test, table: SegmentTable, level: float) -> tuple[str, Size]:
    design, (first, second) = table.combinations, test.by
    if design is None or not test.values:
        return f"{first.capitalize()} and {second} work together: one changes what the other does.", NO_SIZE
    first_value, second_value = test.values
    interaction = log_odds(design.units, design.conversions, design.null, design.columns[test.values])
    here = _among(design, lambda a, b: a == first_value and b == second_value)
    otherwise = _among(design, lambda a, b: a == first_value and b != second_value)
    others_here = _among(design, lambda a, b: a != first_value and b == second_value)
    others_otherwise = _among(design, lambda a, b: a != first_value and b != second_value)
    text = (
        f"{first.capitalize()} {first_value} with {second} {second_value}: {_percent(here)} convert, "
        f"otherwise {_percent(otherwise)}; of all others {_percent(others_here)} and {_percent(others_otherwise)}."
    )
    return text, _odds(interaction.estimate, interaction.error, level)


WORDINGS = {"matters": _matters, "stands_out": _stands_out, "effect": _effect, "together": _together}


def _relative(table: SegmentTable, base: Group, group: Group, level: float) -> Size:
    """The rate of a group relative to another's, minus 1."""
    n0, x0, n1, x1 = (column.astype(int).tolist() for side in (base, group) for column in table.strata(side))
    if len(n0) == 1:
        gap = difference(n0[0], x0[0], n1[0], x1[0], level)
        return gap.relative, gap.relative_low, gap.relative_high
    pooled = mantel_haenszel(n0, x0, n1, x1, level)
    ratio, low, high = (
        None if bound is None else bound - 1 for bound in (pooled.risk_ratio, pooled.low, pooled.high)
    )
    return ratio, low, high


def _uplift(table: SegmentTable, group: Group, challenger: str) -> float | None:
    """What a challenger does in a group: over all days, each compared in itself."""
    pair = [0, table.variants.index(challenger)]
    n, x = group.units[:, pair], group.conversions[:, pair]
    if not table.moved:
        n, x = n.sum(axis=0, keepdims=True), x.sum(axis=0, keepdims=True)
    columns = [column.astype(int).tolist() for column in (n[:, 0], x[:, 0], n[:, 1], x[:, 1])]
    ratio = mantel_haenszel(*columns).risk_ratio
    return None if ratio is None else ratio - 1


def _between(table: SegmentTable, challenger: str, low: Group, high: Group, level: float) -> Size:
    """The challenger's odds ratio in one group relative to that in another."""
    design = table.treatment(challenger)
    if design is None:
        return NO_SIZE
    free = [column for name, column in design.columns.items() if name not in (low.name, high.name)]
    null = np.column_stack([design.null, *free])
    ratio = log_odds(design.units, design.conversions, null, design.columns[high.name])
    return _odds(ratio.estimate, ratio.error, level)


def _odds(estimate: float | None, error: float | None, level: float) -> Size:
    if estimate is None or error is None:
        return NO_SIZE
    z = quantile(level)
    value, low, high = (math.expm1(estimate + step * error) for step in (0, -z, z))
    return value, low, high


def _any_pair(level: float, groups: int) -> float:
    """The confidence at which an interval still holds for whichever two groups turned out to be the extremes."""
    return 1 - (1 - level) / len(list(combinations(range(groups), 2)))


def _among(design: LogisticDesign, belongs: Callable[[str, str], bool]) -> float:
    """The conversion rate of the combinations that are chosen."""
    rows = sum(
        (column for (a, b), column in design.columns.items() if belongs(a, b)), np.zeros(len(design.units))
    )
    n = float((design.units * rows).sum())
    return float((design.conversions * rows).sum()) / n if n else 0.0


def _largest(groups: Sequence[Group]) -> list[Group]:
    """The groups that a sentence has room for: the smaller ones are the noisier."""
    nameable = [group for group in groups if group.named]
    return sorted(nameable, key=lambda group: -group.total_units)[:MOST_NAMED]


def _rate(group: Group) -> float:
    return group.total_conversions / group.total_units if group.total_units else 0.0


def _name(values: tuple[str, ...]) -> str:
    return ", ".join(values)


def _sentence(test: Test) -> str:
    return f"{test.by[0].capitalize()} {_name(test.values)}"


def _percent(rate: float) -> str:
    return f"{rate:.2%}" if rate < 0.0995 else f"{rate:.1%}"


def _signed(change: float | None) -> str:
    return "not known" if change is None else f"{change:+.1%}".replace("-", "−")


def _more(change: float | None) -> str:
    if change is None:
        return "unlike all others"
    return f"{abs(change):.0%} {'better' if change > 0 else 'worse'}"
