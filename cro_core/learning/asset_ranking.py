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
from numpy.typing import NDArray
from scipy.special import expit, logit

from cro_core.domain import Cell
from cro_core.statistics.shrinkage import shrink

Floats = NDArray[np.float64]
_Told = Callable[[Sequence[Cell]], tuple[Floats, float]]
"""What a block tells of its arms: their scores, and the information of one unit."""

Tier = Literal["above", "not told apart", "below"]

PERFORMANCE, ENGAGEMENT, RECENCY = 0.6, 0.3, 0.1
"""Weights of the score; they sum to 1."""

HALF_LIFE = timedelta(days=90)
"""An asset that was last shown so long ago has half the recency of one that is shown now."""

LOG_ODDS_SCALE = 0.5
"""How different assets may be: scale of the half-normal prior on the standard deviation of their log odds. It is
wide (at 0.5 one asset of three converts a half better or worse than the average) and gives way to the data."""

SCORE_SCALE = 0.3
"""The same for engagement, in standard deviations of a visitor's score."""


@dataclass(frozen=True, slots=True)
class Appearance:
    """An experiment that showed assets."""

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
    """From 1, by the score."""
    score: float
    """From 0 to 100."""
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
    """Lower end of its 95 % interval."""
    high: float
    """Upper end of the same."""
    probability_above: float
    """That it converts better than the average asset."""
    probability_best: float
    """That it converts best of all."""
    engagement: float
    """Its engagement score against the average, in standard deviations of a visitor's score, after shrinkage."""
    engagement_above: float
    """Probability that it engages more than the average asset."""
    recency: float
    """1 for an asset that is shown now, half of that after each :data:`HALF_LIFE`."""
    last_shown: datetime


@dataclass(frozen=True, slots=True)
class Ranking:
    """All assets, the best first."""

    assets: tuple[AssetRank, ...]
    untried: tuple[str, ...]
    """Assets of the site that no visitor of an experiment has met: nothing is known of them."""
    spread: float | None
    """How different assets are: standard deviation of their log odds; ``None`` where nothing was compared."""
    said: str
    """What may be concluded, in a sentence."""


@dataclass(frozen=True)
class _Arm:
    """One variant on one day of one experiment."""

    asset: tuple[str, str]
    """The asset, or the experiment and its variant where that shows none."""
    cell: Cell


def rank(
    appearances: Iterable[Appearance],
    known: Iterable[str],
    *,
    now: datetime,
    rng: np.random.Generator,
    on_site: Collection[str] = (),
) -> Ranking:
    """Ranks the assets.

    Args:
        appearances: every experiment that showed assets and can be trusted.
        known: the assets of the site; those that no visitor met are listed as untried.
        now: what recency is measured from.
        rng: for the probability of being best, which is rounded to what its draws can tell.
        on_site: assets that won and that the site shows now, to everybody.
    """
    shown = [a for a in appearances if any(a.assets.get(c.variant) and c.units for c in a.cells)]
    blocks = [block for a in shown for block in _blocks(a)]
    names = sorted({arm.asset for block in blocks for arm in block})
    tried = [name for kind, name in names if kind == ""]
    untried = tuple(sorted(set(known) - set(tried)))
    if not tried:
        return Ranking((), untried, None, "No picture or clip has been shown in a test yet.")
    place = {name: i for i, name in enumerate(names)}
    ranked = [kind == "" for kind, _ in names]
    converting = shrink(*_summed(blocks, place, _converting), ranked, LOG_ODDS_SCALE, rng)
    engaging = shrink(*_summed(blocks, place, _engaging), ranked, SCORE_SCALE, rng)
    facts = [_facts(name, shown) for name in tried]
    base = sum(f.conversions for f in facts) / sum(f.units for f in facts)
    found = []
    for i, (name, f) in enumerate(zip(tried, facts, strict=True)):
        last = now if name in on_site else f.last_shown
        recency = 0.5 ** (max(now - last, timedelta(0)) / HALF_LIFE)
        above, engages = float(converting.above[i]), float(engaging.above[i])
        low, high = float(converting.low[i]), float(converting.high[i])
        score = 100 * (PERFORMANCE * above + ENGAGEMENT * engages + RECENCY * recency)
        tier: Tier = "above" if low > 0 else "below" if high < 0 else "not told apart"
        uplift, least, most = (_uplift(base, float(v)) for v in (converting.mean[i], low, high))
        found.append(
            AssetRank(
                name, 0, score, tier, f.experiments, f.units, f.conversions, f.conversions / f.units, uplift, least,
                most, above, round(float(converting.best[i]), 2), float(engaging.mean[i]), engages, recency, last,
            )
        )  # fmt: skip
    return Ranking(_ordered(found), untried, converting.tau, _said(found))


@dataclass(frozen=True)
class _Facts:
    """What was counted of an asset."""

    experiments: int
    units: int
    conversions: int
    last_shown: datetime


def _facts(asset: str, shown: Sequence[Appearance]) -> _Facts:
    met = [(a, c) for a in shown for c in a.cells if a.assets.get(c.variant) == asset and c.units]
    return _Facts(
        len({a.experiment_id for a, _ in met}),
        sum(c.units for _, c in met),
        sum(c.conversions for _, c in met),
        max(a.last_shown for a, _ in met),
    )


def _blocks(appearance: Appearance) -> Iterator[list[_Arm]]:
    """The days of an experiment: only what happened on one day of one experiment is compared."""
    days: dict[int, list[_Arm]] = defaultdict(list)
    for c in appearance.cells:
        if c.units:
            asset = appearance.assets.get(c.variant)
            name = ("", asset) if asset else (appearance.experiment_id, c.variant)
            days[c.epoch].append(_Arm(name, c))
    yield from days.values()


def _summed(
    blocks: Sequence[Sequence[_Arm]], place: dict[tuple[str, str], int], told: _Told
) -> tuple[Floats, Floats]:
    """Scores and information of the effects, added up over the blocks."""
    scores, information = np.zeros(len(place)), np.zeros((len(place), len(place)))
    for block in blocks:
        places = [place[arm.asset] for arm in block]
        score, unit = told([arm.cell for arm in block])
        n = np.array([float(arm.cell.units) for arm in block])
        np.add.at(scores, places, score)
        np.add.at(information, np.ix_(places, places), unit * (np.diag(n) - np.outer(n, n) / n.sum()))
    return scores, information


def _converting(cells: Sequence[Cell]) -> tuple[Floats, float]:
    """Of the log odds of a conversion, at equal odds: observed minus expected (Peto's one step; good for odds
    ratios up to about 2, without trouble where nobody converted).

    Source: Yusuf, Peto, Lewis, Collins and Sleight (1985), Prog. Cardiovasc. Dis. 27.
    """
    n, x = _columns(cells, "units", "conversions")
    rate = x.sum() / n.sum()
    return x - n * rate, float(rate * (1 - rate))


def _engaging(cells: Sequence[Cell]) -> tuple[Floats, float]:
    """Of the mean engagement score, in standard deviations inside the block."""
    n, total, squares = _columns(cells, "units", "score_sum", "score_sumsq")
    inside = float((squares - total**2 / n).sum()) / max(n.sum() - len(n), 1.0)
    if inside <= 0:
        return np.zeros(len(n)), 0.0
    return (total - n * total.sum() / n.sum()) / math.sqrt(inside), 1.0


def _columns(cells: Sequence[Cell], *names: str) -> tuple[Floats, ...]:
    return tuple(np.array([float(getattr(c, name)) for c in cells]) for name in names)


def _uplift(base: float, log_odds: float) -> float:
    """A shift of the log odds as a relative change of the rate."""
    if not 0 < base < 1:
        return 0.0
    return float(expit(logit(base) + log_odds)) / base - 1


def _ordered(found: Sequence[AssetRank]) -> tuple[AssetRank, ...]:
    ordered = sorted(found, key=lambda a: (-a.score, a.asset_id))
    return tuple(replace(a, rank=i) for i, a in enumerate(ordered, 1))


def _said(found: Sequence[AssetRank]) -> str:
    good, bad = (sum(a.tier == tier for a in found) for tier in ("above", "below"))
    if len(found) < 2:
        return "Only one has been shown in a test: there is nothing to compare it with."
    if not good and not bad:
        return "None can be told apart from the average: the order is a guess."
    rest = "" if good + bad == len(found) else "; the others cannot be told apart from it"
    return f"Of {len(found)}, {good} {'is' if good == 1 else 'are'} better than the average and {bad} worse{rest}."
