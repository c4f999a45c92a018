"""An analysis of performance and the ranking of assets, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from cro_core.learning.asset_ranking import AssetRank, Ranking
from cro_core.reporting import words
from cro_core.segments.findings import Performance, Rate, TimeToConvert

MOST_VALUES = 12
"""Values of a dimension that are printed, those with the most visitors; ``--json`` has all."""


def performance_text(found: Performance) -> str:
    """What may be said, then every number it rests on."""
    return "\n".join(_performance(found)).replace(words.NBSP, " ")


def ranking_text(found: Ranking) -> str:
    """The assets, the best first, then those that were never tried."""
    return "\n".join(_ranking(found)).replace(words.NBSP, " ")


def _performance(found: Performance) -> Iterator[str]:
    yield words.clean(found.said)
    for claim in found.claims:
        size = f"; {words.interval(claim.low, claim.high)}" if claim.low is not None else ""
        yield f"  {words.clean(claim.text)} (adjusted {words.p_value(claim.p_adjusted)}{size})"
    for note in found.notes:
        yield words.clean(note)
    yield ""
    yield _columns("variant")
    for variant, rate in found.variants.items():
        yield _row(variant, rate)
    for dimension, group in groupby(found.slices, key=lambda s: s.dimension):
        slices = list(group)
        shown = {s.value for s in sorted(slices, key=lambda s: -s.total.units)[:MOST_VALUES]}
        if dimension in {"hour", "weekday"}:
            shown = {s.value for s in slices}
        yield ""
        yield _columns(dimension)
        for s in slices:
            if s.value in shown:
                yield _row(s.value, s.total) + (
                    "" if s.enough else "   too few to tell" * (s.value[0] != "(")
                )
        if len(slices) > len(shown):
            yield f"  and {len(slices) - len(shown)} more: --json has them"
    yield from _behaviour(found)


def _behaviour(found: Performance) -> Iterator[str]:
    yield ""
    yield f"{'goal':<24}{'variant':<16}{'visitors':>12}{'reached':>10}{'per visitor':>14}   interval"
    for g in found.goals:
        yield (
            f"{words.clean(g.goal):<24.24}{words.clean(g.variant):<16.16}{words.count(g.reached.units):>12}"
            f"{words.percent(g.reached.rate):>10}{_number(g.per_visitor):>14}   {_span(g.low, g.high)}"
        )
    for s in found.scores:
        yield (
            f"{'engagement score':<24}{words.clean(s.variant):<16.16}{words.count(s.units):>12}{'':>10}"
            f"{_number(s.mean):>14}   {_span(s.low, s.high)}"
        )
    yield ""
    yield from map(_time, found.times)


def _time(time: TimeToConvert) -> str:
    name = words.clean(time.variant)
    if time.reason:
        return f"time to convert, {name}: {time.reason}"
    quarters = ", ".join(
        f"{q.share:.0%} after {_duration(q.value)} ({_duration(q.low)} to {_duration(q.high)})"
        for q in time.quartiles
    )
    return f"time to convert, {name}: of those who convert, {quarters}"


def _ranking(found: Ranking) -> Iterator[str]:
    yield found.said
    if found.assets:
        yield ""
        yield (
            f"{'asset':<28}{'score':>6}{'visitors':>10}{'rate':>9}{'uplift':>10}   {'interval':<20}"
            f"{'best':>6}   against the average"
        )
    for a in found.assets:
        yield (
            f"{words.clean(a.asset_id):<28.28}{a.score:>6.0f}{words.count(a.units):>10}{words.percent(a.rate):>9}"
            f"{words.signed(a.uplift):>10}   {words.interval(a.low, a.high):<20}{a.probability_best:>6.0%}   {tier(a)}"
        )
    if found.untried:
        yield ""
        yield f"Never tried: {', '.join(map(words.clean, found.untried))}"


def tier(asset: AssetRank) -> str:
    """Where an asset stands, in words."""
    return {"above": "better", "below": "worse"}.get(asset.tier, asset.tier)


def _columns(name: str) -> str:
    return f"{name:<32}{'visitors':>12}{'converted':>12}{'rate':>10}   interval"


def _row(name: str, rate: Rate) -> str:
    span = f"{words.percent(rate.low)} to {words.percent(rate.high)}"
    numbers = (
        f"{words.count(rate.units):>12}{words.count(rate.conversions):>12}{words.percent(rate.rate):>10}"
    )
    return f"{words.clean(name):<32.32}{numbers}   {span}"


def _span(low: float | None, high: float | None) -> str:
    return words.UNKNOWN if low is None or high is None else f"{low:.4g} to {high:.4g}"


def _number(value: float | None) -> str:
    return words.UNKNOWN if value is None else f"{value:.4g}"


def _duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.4 h``, ``2.5 days``."""
    for unit, size in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= (2 * size if unit == "days" else size):
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"
