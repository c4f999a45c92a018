"""Many effects estimated at once, each from little: drawn towards their mean by what they tell of each other.

Effects are normal about their mean with an unknown standard deviation tau, and what the data say of them is a
score and its information. A plug-in estimate of tau makes intervals too short, and often is 0; so tau is not
estimated but averaged over its restricted likelihood.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from cro_core.errors import InvalidInput
from cro_core.statistics.arrays import Floats
from cro_core.statistics.proportions import quantile

GRID = 120
"""Values of tau that are averaged."""

FAR = 4.0
"""The largest of them, in units of the prior's scale."""


@dataclass(frozen=True, slots=True)
class Shrunk:
    """Effects against their average, after shrinkage."""

    tau: float
    """Standard deviation of the effects: its mean over the posterior."""
    tau_reml: float
    """Tau by restricted maximum likelihood alone; 0 where the data show no difference at all."""
    mean: Floats
    low: Floats
    """Lower end of the interval."""
    high: Floats
    """Upper end of the interval."""
    above: Floats
    """Probability that the effect is above the average of those ranked."""
    best: Floats
    """Probability that it is the largest of those ranked, from draws."""


def shrink(
    scores: ArrayLike,
    information: ArrayLike,
    ranked: ArrayLike,
    scale: float,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    draws: int = 4000,
) -> Shrunk:
    """Effects, each as a deviation from the average effect of those that are ranked.

    Args:
        scores: per effect, the slope of the log-likelihood at equal effects.
        information: its symmetric matrix of second derivatives; its rows sum to 0, for only differences tell.
        ranked: which effects are ranked and averaged (bool); the others only serve the comparison.
        scale: of the half-normal prior on tau: how different effects may be expected to be.
        rng: for ``best``.
        level: of the intervals, in (0, 1).
        draws: for ``best``.

    Returns:
        One number per effect that is ranked, in order.

    Raises:
        InvalidInput: shapes that do not fit, nothing ranked, or a scale that is not positive.

    Source: Morris (1983), J. Am. Stat. Assoc. 78 (empirical Bayes, and why intervals must allow for tau);
    Patterson and Thompson (1971), Biometrika 58 (restricted likelihood).
    """
    b, m, kept = np.asarray(scores, float), np.asarray(information, float), np.asarray(ranked, bool)
    if m.shape != (len(b), len(b)) or kept.shape != b.shape or not kept.any() or not scale > 0:
        raise InvalidInput(
            f"scores {b.shape}, information {m.shape}, ranked {kept.shape}, scale {scale:g}: give one score and one row "
            "for each effect, at least one that is ranked, and a positive scale"
        )
    values, vectors = np.linalg.eigh((m + m.T) / 2)
    values = np.maximum(values, 0.0)
    turned = vectors.T @ b
    contrast = np.eye(len(b))[kept] - kept / kept.sum()  # deviation from the average of the ranked
    seen = contrast @ vectors
    grid = (np.arange(GRID) + 0.5) * FAR * scale / GRID
    log = restricted(grid**2, values, turned) - (grid / scale) ** 2 / 2
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    means, sizes = [], []
    for tau2 in grid**2:
        gain = tau2 / (1 + tau2 * values)
        means.append(seen @ (gain * turned))
        sizes.append(np.sqrt(np.maximum((seen**2 * gain).sum(axis=1), 0)))
    mean, size = np.array(means), np.maximum(np.array(sizes), 1e-300)
    tail = (1 - level) / 2
    return Shrunk(
        tau=float(weight @ grid),
        tau_reml=math.sqrt(reml(values, turned)),
        mean=weight @ mean,
        low=_quantile(weight, mean, size, tail),
        high=_quantile(weight, mean, size, 1 - tail),
        above=weight @ ndtr(mean / size),
        best=_best(weight, grid, values, turned, seen, rng, draws),
    )


def restricted(tau2: ArrayLike, values: Floats, turned: Floats) -> Floats:
    """The restricted log-likelihood of tau squared, in the directions of the information's eigenvectors."""
    t = np.atleast_1d(np.asarray(tau2, float))[:, None]
    likelihood: Floats = ((t * turned**2 / (1 + t * values) - np.log1p(t * values)) / 2).sum(axis=1)
    return likelihood


def reml(values: Floats, turned: Floats) -> float:
    """Tau squared by restricted maximum likelihood: where the likelihood's slope is 0, or 0."""
    told = values > 1e-12 * values.max(initial=0.0)
    v, u = values[told], turned[told] ** 2

    def slope(tau2: float) -> float:
        return float((u / (1 + tau2 * v) ** 2 - v / (1 + tau2 * v)).sum())

    if not told.any() or slope(0.0) <= 0:
        return 0.0
    low, high = 0.0, 1.0
    while slope(high) > 0:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return low


def _quantile(weight: Floats, mean: Floats, size: Floats, share: float) -> Floats:
    """Finds a quantile of the mixture, by bisection."""
    reach = quantile(0.999999) * 2 * size.max(axis=0) + 1e-12
    low, high = mean.min(axis=0) - reach, mean.max(axis=0) + reach
    for _ in range(80):
        middle = (low + high) / 2
        below = weight @ ndtr((middle - mean) / size) < share
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    end: Floats = (low + high) / 2
    return end


def _best(
    weight: Floats,
    grid: Floats,
    values: Floats,
    turned: Floats,
    seen: Floats,
    rng: np.random.Generator,
    draws: int,
) -> Floats:
    won = np.zeros(len(seen))
    for tau, number in zip(grid, rng.multinomial(draws, weight), strict=True):
        if number:
            gain = tau**2 / (1 + tau**2 * values)
            noise = rng.standard_normal((number, len(values)))
            drawn = (gain * turned + np.sqrt(gain) * noise) @ seen.T
            won += np.bincount(drawn.argmax(axis=1), minlength=len(won))
    return won / draws
