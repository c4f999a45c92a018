"""The texts of a segment analysis and of the ranking of assets, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from cro_core.learning.asset_ranking import AssetRank, Ranking
from cro_core.reporting import words
from cro_core.segments.findings import ConversionRate, SegmentAnalysis, TimeToConvert

MOST_VALUES = 12
"""Most values of a dimension that are printed, those with the most visitors; ``--json`` has all."""


def segments_text(analysis: SegmentAnalysis) -> str:
    """Writes what may be claimed of an experiment's segments, then every number it rests on."""
    return "\n".join(_segments(analysis)).replace(words.NBSP, " ")


def ranking_text(ranking: Ranking) -> str:
    """Writes the assets as a table, the best first, then those that were never tried."""
    return "\n".join(_ranking(ranking)).replace(words.NBSP, " ")


def _segments(analysis: SegmentAnalysis) -> Iterator[str]:
    yield words.clean(analysis.said)
    for claim in analysis.claims:
        size = f"; {words.interval(claim.low, claim.high)}" if claim.low is not None else ""
        yield f"  {words.clean(claim.text)} (adjusted {words.p_value(claim.p_adjusted)}{size})"
    for note in analysis.notes:
        yield words.clean(note)
    yield ""
    yield _columns("variant")
    for variant, rate in analysis.variants.items():
        yield _row(variant, rate)
    for dimension, group in groupby(analysis.slices, key=lambda piece: piece.dimension):
        slices = list(group)
        printed = {
            piece.value for piece in sorted(slices, key=lambda piece: -piece.total.units)[:MOST_VALUES]
        }
        if dimension in {"hour", "weekday"}:
            printed = {piece.value for piece in slices}
        yield ""
        yield _columns(dimension)
        for piece in slices:
            if piece.value in printed:
                yield _row(piece.value, piece.total) + (
                    "" if piece.enough else "   too few to tell" * (piece.value[0] != "(")
                )
        if len(slices) > len(printed):
            yield f"  and {len(slices) - len(printed)} more: --json has them"
    yield from _behaviour(analysis)


def _behaviour(analysis: SegmentAnalysis) -> Iterator[str]:
    yield ""
    yield f"{'goal':<24}{'variant':<16}{'visitors':>12}{'reached':>10}{'per visitor':>14}   interval"
    for goal in analysis.goals:
        yield (
            f"{words.clean(goal.goal):<24.24}{words.clean(goal.variant):<16.16}{words.count(goal.reached.units):>12}"
            f"{words.percent(goal.reached.rate):>10}{_number(goal.per_visitor):>14}   {_span(goal.low, goal.high)}"
        )
    for score in analysis.scores:
        yield (
            f"{'engagement score':<24}{words.clean(score.variant):<16.16}{words.count(score.units):>12}{'':>10}"
            f"{_number(score.mean):>14}   {_span(score.low, score.high)}"
        )
    yield ""
    yield from map(_time, analysis.times)


def _time(time: TimeToConvert) -> str:
    name = words.clean(time.variant)
    if time.reason:
        return f"time to convert, {name}: {time.reason}"
    quarters = ", ".join(
        f"{quartile.share:.0%} after {_duration(quartile.value)} ({_duration(quartile.low)} to {_duration(quartile.high)})"
        for quartile in time.quartiles
    )
    return f"time to convert, {name}: of those who convert, {quarters}"


def _ranking(ranking: Ranking) -> Iterator[str]:
    yield ranking.said
    if ranking.assets:
        yield ""
        yield (
            f"{'asset':<28}{'score':>6}{'visitors':>10}{'rate':>9}{'uplift':>10}   {'interval':<20}"
            f"{'best':>6}   against the average"
        )
    for asset in ranking.assets:
        yield (
            f"{words.clean(asset.asset_id):<28.28}{asset.score:>6.0f}{words.count(asset.units):>10}"
            f"{words.percent(asset.rate):>9}{words.signed(asset.uplift):>10}   "
            f"{words.interval(asset.low, asset.high):<20}{asset.probability_best:>6.0%}   {tier(asset)}"
        )
    if ranking.untried:
        yield ""
        yield f"Never tried: {', '.join(map(words.clean, ranking.untried))}"


def tier(asset: AssetRank) -> str:
    """Says in a word how an asset compares with the average."""
    return {"above": "better", "below": "worse"}.get(asset.tier, asset.tier)


def _columns(name: str) -> str:
    return f"{name:<32}{'visitors':>12}{'converted':>12}{'rate':>10}   interval"


def _row(name: str, rate: ConversionRate) -> str:
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
    """Writes a duration in the largest unit that suits it, such as ``45 s``, ``12 min``, ``3.4 h`` or ``2.5 days``."""
    for unit, size in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= (2 * size if unit == "days" else size):
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"
