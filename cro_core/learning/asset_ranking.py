"""Which pictures and clips do best, over every experiment that showed them.

An experiment compares its variants with each other only. So an asset's effect on the log odds of a conversion is
estimated from all comparisons at once, each day of each experiment being compared in itself: an asset that met
strong rivals is not held back by them, and a good week flatters nobody. Effects that rest on few visitors are
drawn towards the average (:mod:`cro_core.statistics.shrinkage`), and every number is against the average of the
assets that were tried.

The score orders them: mostly how sure it is that an asset converts better than the average, a little how sure it
is that it engages more, and how lately it was shown. The weights are judgements, written down here so that anyone
can argue with them; no decision rests on them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
from scipy.special import expit, logit

from cro_core.domain import Cell
from cro_core.statistics.arrays import Floats
from cro_core.statistics.shrinkage import shrink

_Scoring = Callable[[Sequence[Cell]], tuple[Floats, float]]
"""Computes what a block tells of its cells: their scores, and the information of one unit."""

Tier = Literal["above", "not told apart", "below"]

CONVERSION, ENGAGEMENT, RECENCY = 0.6, 0.3, 0.1
"""Weights of the three parts of an asset's score; they sum to 1."""

HALF_LIFE = timedelta(days=90)
"""An asset that was last shown so long ago has half the recency of one that is shown now."""

LOG_ODDS_SCALE = 0.5
"""How different assets may be: scale of the half-normal prior on the standard deviation of their log odds. It is
wide (at 0.5 one asset of three converts a half better or worse than the average) and gives way to the data."""

SCORE_SCALE = 0.3
"""How differently assets may engage: scale of the half-normal prior on the standard deviation of their effects, in
standard deviations of a visitor's score."""


@dataclass(frozen=True, slots=True)
class Appearance:
    """An experiment that showed assets, with what was counted in it."""

    experiment_id: str
    last_shown: datetime
    assets: dict[str, str | None]
    """Variant key -> its asset; ``None`` where it shows none: it only serves the comparison."""
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class AssetRank:
    """An asset that was shown, against the average of all that were."""

    asset_id: str
    rank: int
    """Place in the order by score; the best is 1."""
    score: float
    """Weighted sum of conversion, engagement and recency, from 0 to 100."""
    tier: Tier
    """``above`` or ``below`` the average where the whole interval is; else the data do not tell."""
    experiments: int
    units: int
    conversions: int
    rate: float
    """Conversions per visitor as they were counted, whatever else those experiments had in common."""
    uplift: float
    """Relative difference of its conversion rate to the average asset's, all else being equal, after shrinkage."""
    low: float
    """Lower end of the uplift's 95 % interval."""
    high: float
    """Upper end of the uplift's 95 % interval."""
    probability_above: float
    """Probability that the asset converts better than the average asset."""
    probability_best: float
    """Probability that the asset converts best of all."""
    engagement: float
    """Engagement score against the average asset's, in standard deviations of a visitor's score, after shrinkage."""
    engagement_above: float
    """Probability that the asset engages more than the average asset."""
    recency: float
    """How lately the asset was shown: 1 for one that is shown now, half of that after each :data:`HALF_LIFE`."""
    last_shown: datetime


@dataclass(frozen=True, slots=True)
class Ranking:
    """All assets of a site, the best first, and what may be said of them."""

    assets: tuple[AssetRank, ...]
    untried: tuple[str, ...]
    """Assets of the site that no visitor of an experiment has met: nothing is known of them."""
    spread: float | None
    """How different assets are: standard deviation of their log odds; ``None`` where nothing was compared."""
    said: str
    """What may be concluded, in a sentence."""


@dataclass(frozen=True)
class _AssetCell:
    """One variant on one day of one experiment."""

    asset: tuple[str, str]
    """``("", asset)``, or the experiment and its variant where that shows none."""
    cell: Cell


def rank(
    appearances: Iterable[Appearance],
    site_assets: Iterable[str],
    *,
    now: datetime,
    rng: np.random.Generator,
    on_site: Collection[str] = (),
) -> Ranking:
    """Ranks assets by how well they convert and engage, and by how lately they were shown.

    Args:
        appearances: every experiment that showed assets and can be trusted.
        site_assets: every asset of the site; those that no visitor met are listed as untried.
        now: what recency is measured from.
        rng: for the probability of being best, which is rounded to what its draws can tell.
        on_site: assets that won and that the site shows now, to everybody.
    """
    tested = [appearance for appearance in appearances if _has_visitors(appearance)]
    blocks = [block for appearance in tested for block in _blocks(appearance)]
    names = sorted({entry.asset for block in blocks for entry in block})
    tried = [name for kind, name in names if kind == ""]
    untried = tuple(sorted(set(site_assets) - set(tried)))
    if not tried:
        return Ranking((), untried, None, "No picture or clip has been shown in a test yet.")
    index = {name: place for place, name in enumerate(names)}
    ranked = [kind == "" for kind, _ in names]
    converting = shrink(*_summed(blocks, index, _converting), ranked, LOG_ODDS_SCALE, rng)
    engaging = shrink(*_summed(blocks, index, _engaging), ranked, SCORE_SCALE, rng)
    counts = [_counts(name, tested) for name in tried]
    base = sum(count.conversions for count in counts) / sum(count.units for count in counts)
    assets = []
    for place, (name, count) in enumerate(zip(tried, counts, strict=True)):
        last_shown = now if name in on_site else count.last_shown
        recency = 0.5 ** (max(now - last_shown, timedelta(0)) / HALF_LIFE)
        above, engages = float(converting.above[place]), float(engaging.above[place])
        low, high = float(converting.low[place]), float(converting.high[place])
        score = 100 * (CONVERSION * above + ENGAGEMENT * engages + RECENCY * recency)
        tier: Tier = "above" if low > 0 else "below" if high < 0 else "not told apart"
        uplift, least, most = (_uplift(base, float(effect)) for effect in (converting.mean[place], low, high))
        assets.append(
            AssetRank(
                name, 0, score, tier, count.experiments, count.units, count.conversions, count.conversions / count.units,
                uplift, least, most, above, round(float(converting.best[place]), 2), float(engaging.mean[place]),
                engages, recency, last_shown,
            )
        )  # fmt: skip
    return Ranking(_ordered(assets), untried, converting.tau, _summary(assets))


@dataclass(frozen=True)
class _Counts:
    """Everything that was counted of an asset, over all experiments that showed it."""

    experiments: int
    units: int
    conversions: int
    last_shown: datetime


def _has_visitors(appearance: Appearance) -> bool:
    return any(appearance.assets.get(cell.variant) and cell.units for cell in appearance.cells)


def _counts(asset: str, appearances: Sequence[Appearance]) -> _Counts:
    cells = [
        (appearance, cell)
        for appearance in appearances
        for cell in appearance.cells
        if appearance.assets.get(cell.variant) == asset and cell.units
    ]
    return _Counts(
        len({appearance.experiment_id for appearance, _ in cells}),
        sum(cell.units for _, cell in cells),
        sum(cell.conversions for _, cell in cells),
        max(appearance.last_shown for appearance, _ in cells),
    )


def _blocks(appearance: Appearance) -> Iterator[list[_AssetCell]]:
    """The days of an experiment: only what happened on one day of one experiment is compared."""
    days: dict[int, list[_AssetCell]] = defaultdict(list)
    for cell in appearance.cells:
        if cell.units:
            asset = appearance.assets.get(cell.variant)
            name = ("", asset) if asset else (appearance.experiment_id, cell.variant)
            days[cell.epoch].append(_AssetCell(name, cell))
    yield from days.values()


def _summed(
    blocks: Sequence[Sequence[_AssetCell]], index: dict[tuple[str, str], int], scoring: _Scoring
) -> tuple[Floats, Floats]:
    """Adds scores and information of the effects up over the blocks."""
    scores, information = np.zeros(len(index)), np.zeros((len(index), len(index)))
    for block in blocks:
        places = [index[entry.asset] for entry in block]
        score, unit = scoring([entry.cell for entry in block])
        n = np.array([float(entry.cell.units) for entry in block])
        np.add.at(scores, places, score)
        np.add.at(information, np.ix_(places, places), unit * (np.diag(n) - np.outer(n, n) / n.sum()))
    return scores, information


def _converting(cells: Sequence[Cell]) -> tuple[Floats, float]:
    """Scores the log odds of a conversion, at equal odds: observed minus expected (Peto's one step; good for odds
    ratios up to about 2, without trouble where nobody converted).

    Source: Yusuf, Peto, Lewis, Collins and Sleight (1985), Prog. Cardiovasc. Dis. 27.
    """
    n, x = _columns(cells, "units", "conversions")
    rate = x.sum() / n.sum()
    return x - n * rate, float(rate * (1 - rate))


def _engaging(cells: Sequence[Cell]) -> tuple[Floats, float]:
    """Scores the mean engagement score, in standard deviations inside the block."""
    n, total, squares = _columns(cells, "units", "score_sum", "score_sumsq")
    inside = float((squares - total**2 / n).sum()) / max(n.sum() - len(n), 1.0)
    if inside <= 0:
        return np.zeros(len(n)), 0.0
    return (total - n * total.sum() / n.sum()) / math.sqrt(inside), 1.0


def _columns(cells: Sequence[Cell], *names: str) -> tuple[Floats, ...]:
    return tuple(np.array([float(getattr(cell, name)) for cell in cells]) for name in names)


def _uplift(base: float, log_odds: float) -> float:
    """Turns a shift of the log odds into a relative change of the rate."""
    if not 0 < base < 1:
        return 0.0
    return float(expit(logit(base) + log_odds)) / base - 1


def _ordered(assets: Sequence[AssetRank]) -> tuple[AssetRank, ...]:
    ordered = sorted(assets, key=lambda asset: (-asset.score, asset.asset_id))
    return tuple(replace(asset, rank=place) for place, asset in enumerate(ordered, 1))


def _summary(assets: Sequence[AssetRank]) -> str:
    good, bad = (sum(asset.tier == tier for asset in assets) for tier in ("above", "below"))
    if len(assets) < 2:
        return "Only one has been shown in a test: there is nothing to compare it with."
    if not good and not bad:
        return "None can be told apart from the average: the order is a guess."
    rest = "" if good + bad == len(assets) else "; the others cannot be told apart from it"
    return f"Of {len(assets)}, {good} {'is' if good == 1 else 'are'} better than the average and {bad} worse{rest}."
