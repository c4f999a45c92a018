"""What survived its correction, in words, with its size and an interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from cro_core.segments.findings import Claim, Test
from cro_core.segments.tables import Design, Group, Table, merged
from cro_core.statistics.logistic import log_odds
from cro_core.statistics.proportions import difference, mantel_haenszel, quantile

Size = tuple[float | None, float | None, float | None]
"""An effect and the ends of its interval."""

NO_SIZE: Size = (None, None, None)
MOST_NAMED = 4
"""Values that the sentence of a whole dimension names."""


def claims_of(tests: Sequence[tuple[Test, Table]], alpha: float) -> tuple[Claim, ...]:
    """A claim for each test that survived, the surest first.

    A combination of two dimensions is claimed only where the two as a whole survived: single combinations may be
    small, and their normal approximation poor.
    """
    asked = Counter(test.question for test, _ in tests)
    whole = {test.by for test, _ in tests if not test.values and _survived(test, alpha)}
    found = []
    for test, table in tests:
        if not _survived(test, alpha) or (test.question == "together" and test.by not in whole):
            continue
        # intervals hold for all tests of a question at once, as the claims do
        level = 1 - alpha / len(asked) / asked[test.question]
        text, size = SAYERS[test.question](test, table, level)
        found.append(
            Claim(test.question, test.by, test.values, test.variant, text, test.p_adjusted or 0.0, *size)
        )
    return tuple(sorted(found, key=lambda claim: claim.p_adjusted))


def said(tests: Sequence[Test], claims: Sequence[Claim], alpha: float) -> str:
    """How much was asked and how much survived."""
    if not tests:
        return "Nothing could be compared: no two values have enough visitors."
    asked = ", ".join(dict.fromkeys(test.by[0] for test in tests if len(test.by) == 1))
    made = f"{len(tests)} comparison{'s' if len(tests) > 1 else ''} by {asked}"
    if not claims:
        return f"No difference is proven: of {made}, none survives the correction for asking so much."
    kept = "1 survives" if len(claims) == 1 else f"{len(claims)} survive"
    return f"Of {made}, {kept}: the chance that any of this is false is at most {alpha:.0%}."


def _survived(test: Test, alpha: float) -> bool:
    return test.p_adjusted is not None and test.p_adjusted <= alpha


def _matters(test: Test, table: Table, level: float) -> tuple[str, Size]:
    ordered = sorted(table.groups, key=_rate)
    low, high = ordered[0], ordered[-1]
    size = _relative(table, low, high, _any_pair(level, len(ordered)))
    told = ", ".join(f"{_name(g.name)} {_percent(_rate(g))}" for g in _largest(table.groups))
    return f"Conversion differs by {test.by[0]}: {told}.", size


def _stands_out(test: Test, table: Table, level: float) -> tuple[str, Size]:
    one = next(g for g in table.groups if g.name == test.values)
    rest = table.others(one)
    size = _relative(table, rest, one, level)
    rates = f"{_percent(_rate(one))} against {_percent(_rate(rest))} of all others"
    return f"{_sentence(test)} converts {_more(size[0])}: {rates}.", size


def _effect(test: Test, table: Table, level: float) -> tuple[str, Size]:
    challenger = test.variant or ""
    variant = table.experiment.variant(challenger)
    name = (variant.name if variant else "") or challenger
    groups = table.compared(challenger)
    uplifts = {g.name: _uplift(table, g, challenger) for g in groups}
    design = table.treatment(challenger)
    if test.values and design is not None:
        one = next(g for g in groups if g.name == test.values)
        found = log_odds(design.units, design.conversions, design.known, design.asked[test.values])
        rest = merged([g for g in groups if g is not one], ("others",))
        told = f"{_signed(uplifts[one.name])} against {_signed(_uplift(table, rest, challenger))} elsewhere"
        text = f"“{name}” does something else for {test.by[0]} {_name(test.values)}: {told}."
        return text, _odds(found.estimate, found.error, level)
    ordered = sorted(groups, key=lambda g: uplifts[g.name] or 0.0)
    low, high = ordered[0], ordered[-1]
    told = ", ".join(f"{_name(g.name)} {_signed(uplifts[g.name])}" for g in _largest(groups))
    size = _between(table, challenger, low, high, _any_pair(level, len(groups)))
    return f"What “{name}” does differs by {test.by[0]}: {told}.", size


def _together(test: Test, table: Table, level: float) -> tuple[str, Size]:
    design, (first, second) = table.combinations, test.by
    if design is None or not test.values:
        return f"{first.capitalize()} and {second} work together: one changes what the other does.", NO_SIZE
    one, other = test.values
    found = log_odds(design.units, design.conversions, design.known, design.asked[test.values])
    here = _among(design, lambda a, b: a == one and b == other)
    otherwise = _among(design, lambda a, b: a == one and b != other)
    others_here = _among(design, lambda a, b: a != one and b == other)
    others_otherwise = _among(design, lambda a, b: a != one and b != other)
    text = (
        f"{first.capitalize()} {one} with {second} {other}: {_percent(here)} convert, otherwise {_percent(otherwise)}; "
        f"of all others {_percent(others_here)} and {_percent(others_otherwise)}."
    )
    return text, _odds(found.estimate, found.error, level)


SAYERS = {"matters": _matters, "stands_out": _stands_out, "effect": _effect, "together": _together}


# -------------------------------------------------------------------------------- sizes


def _relative(table: Table, base: Group, one: Group, level: float) -> Size:
    """The rate of a group relative to another's, minus 1."""
    n0, x0, n1, x1 = (c.astype(int).tolist() for g in (base, one) for c in table.strata(g))
    if len(n0) == 1:
        gap = difference(n0[0], x0[0], n1[0], x1[0], level)
        return gap.relative, gap.relative_low, gap.relative_high
    found = mantel_haenszel(n0, x0, n1, x1, level)
    ratio, low, high = (None if r is None else r - 1 for r in (found.risk_ratio, found.low, found.high))
    return ratio, low, high


def _uplift(table: Table, group: Group, challenger: str) -> float | None:
    """What a challenger does in a group: over all days, each compared in itself."""
    arms = [0, table.variants.index(challenger)]
    n, x = group.units[:, arms], group.conversions[:, arms]
    if not table.moved:
        n, x = n.sum(axis=0, keepdims=True), x.sum(axis=0, keepdims=True)
    columns = [c.astype(int).tolist() for c in (n[:, 0], x[:, 0], n[:, 1], x[:, 1])]
    ratio = mantel_haenszel(*columns).risk_ratio
    return None if ratio is None else ratio - 1


def _between(table: Table, challenger: str, low: Group, high: Group, level: float) -> Size:
    """The challenger's odds ratio in one group relative to that in another."""
    design = table.treatment(challenger)
    if design is None:
        return NO_SIZE
    free = [column for name, column in design.asked.items() if name not in (low.name, high.name)]
    known = np.column_stack([design.known, *free])
    found = log_odds(design.units, design.conversions, known, design.asked[high.name])
    return _odds(found.estimate, found.error, level)


def _odds(estimate: float | None, error: float | None, level: float) -> Size:
    if estimate is None or error is None:
        return NO_SIZE
    z = quantile(level)
    value, low, high = (math.expm1(estimate + step * error) for step in (0, -z, z))
    return value, low, high


def _any_pair(level: float, groups: int) -> float:
    """The level at which an interval still holds for whichever two groups turned out to be the extremes."""
    return 1 - (1 - level) / len(list(combinations(range(groups), 2)))


def _among(design: Design, chosen: Callable[[str, str], bool]) -> float:
    """The conversion rate of the combinations that are chosen."""
    rows = sum(
        (column for (a, b), column in design.asked.items() if chosen(a, b)), np.zeros(len(design.units))
    )
    n = float((design.units * rows).sum())
    return float((design.conversions * rows).sum()) / n if n else 0.0


def _largest(groups: Sequence[Group]) -> list[Group]:
    """The groups that a sentence has room for: the smaller ones are the noisier."""
    named = [g for g in groups if g.named]
    return sorted(named, key=lambda g: -g.n)[:MOST_NAMED]


def _rate(group: Group) -> float:
    return group.x / group.n if group.n else 0.0


# -------------------------------------------------------------------------------- words


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
