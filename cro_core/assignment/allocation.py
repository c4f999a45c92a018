"""Smart allocation: which share of tomorrow's visitors each variant gets.

A variant's score is observed over expected conversions by indirect standardisation (each past epoch's
pooled rate times the variant's visitors of that epoch), so that a common rate that moves while traffic
moves does not read as a difference between variants. Shares follow the probability that a variant is the
best (Thompson 1933), computed by quadrature rather than by drawing, so that the same counts always give
the same shares; nobody goes below the floor. With three or more variants the control is matched to the
best challenger (Trippa et al. 2012; Villar, Bowden and Wason 2015), which is what keeps comparisons with
it strong. With two, the probability is tempered: raised to a power that grows as the experiment does (Thall
and Wathen 2007), so that a lead of the first days moves little.

Every function takes leading axes, so that the lab runs thousands of programmes through the code that a
live experiment calls. Shares are whole buckets of 1/10,000 and are to stay frozen for a whole epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from cro_core.errors import InvalidInput
from cro_core.statistics.arrays import Bools, Floats, Ints

BUCKETS = 10_000
CONTROL = 0
"""Index of the control on the variant axis."""


_NEVER = -1e300
_NODES = np.linspace(-6, 6, 61)
_WEIGHTS = np.exp(-(_NODES**2) / 2) / np.exp(-(_NODES**2) / 2).sum()


@dataclass(frozen=True, slots=True)
class Scores:
    """How the variants did so far; arrays of shape ``(..., variants)``."""

    ratio: Floats
    """Observed over expected conversions: 1 is average; NaN where nothing was expected yet."""
    sd: Floats
    """Standard deviation of the score; NaN where nothing was expected yet."""


def expected_conversions(n: ArrayLike, x: ArrayLike) -> Floats:
    """Conversions each variant would have had at each epoch's pooled rate.

    Args:
        n: units, shape ``(..., epochs, variants)``.
        x: conversions, same shape.

    Returns:
        Shape ``(..., variants)``, summed over epochs.
    """
    n, x = np.asarray(n, float), np.asarray(x, float)
    total = n.sum(-1, keepdims=True)
    expected: Floats = (x.sum(-1, keepdims=True) * n / np.maximum(total, 1)).sum(-2)
    return expected


def scores(observed: ArrayLike, expected: ArrayLike) -> Scores:
    """Indirectly standardised scores, ``observed / expected`` with Poisson standard deviation.

    Args:
        observed: conversions, shape ``(..., variants)``.
        expected: of :func:`expected_conversions`, same shape.
    """
    observed, expected = np.asarray(observed, float), np.asarray(expected, float)
    safe = np.where(expected > 0, expected, np.nan)
    # one conversion's worth of doubt for a variant without any: sqrt(0) would call it certain
    return Scores(observed / safe, np.sqrt(np.maximum(observed, 1)) / safe)


def best_probabilities(mean: ArrayLike, sd: ArrayLike) -> Floats:
    """Probability of each of several independent normals to be the largest.

    Args:
        mean: finite means, shape ``(..., variants)``; ``-inf`` marks one that cannot be the best.
        sd: standard deviations, same shape, above 0.

    Returns:
        Same shape, summing to 1.
    """
    centre, width = np.maximum(mean, _NEVER), np.asarray(sd, float)
    value = centre[..., None] + width[..., None] * _NODES
    chance = np.broadcast_to(_WEIGHTS, value.shape).copy()
    for other in range(centre.shape[-1]):
        below = ndtr((value - centre[..., other, None, None]) / width[..., other, None, None])
        below[..., other, :] = 1
        chance *= below
    chances = chance.sum(-1)
    return np.asarray(chances / chances.sum(-1, keepdims=True))


def tempered(chances: ArrayLike, exponent: float) -> Floats:
    """Probabilities raised to a power and made to sum to 1 again; a power of 1 leaves them to the letter.

    Args:
        chances: shape ``(..., variants)``, summing to 1; what is 0 stays 0.
        exponent: in [0, 1].
    """
    chances = np.asarray(chances, float)
    if exponent == 1:
        return chances
    powers = chances**exponent * (chances > 0)  # a power of 0 would bring dropped variants back
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def with_floor(shares: ArrayLike, floor: float, active: ArrayLike | None = None) -> Floats:
    """Raises every active variant to the floor and takes the difference from what others have above it.

    Args:
        shares: non-negative, shape ``(..., variants)``; zero for variants that are not active.
        floor: least share of an active variant, at most one over their number.
        active: boolean, same shape or broadcastable; ``None`` is all.
    """
    shares = np.asarray(shares, float)
    mask = np.broadcast_to(True if active is None else np.asarray(active, bool), shares.shape)
    count = mask.sum(-1, keepdims=True)
    least = np.minimum(floor, 1 / count)
    above = np.where(mask, np.maximum(shares - least, 0), 0)
    room = above.sum(-1, keepdims=True)
    spread = np.where(room > 0, above / np.where(room > 0, room, 1), mask / count)
    return np.asarray(np.where(mask, least + spread * (1 - count * least), 0.0))


def whole_buckets(shares: ArrayLike) -> Ints:
    """Shares in buckets of 1/10,000 that sum to exactly 10,000, by largest remainder.

    Args:
        shares: fractions summing to 1, shape ``(..., variants)``.
    """
    exact = np.asarray(shares, float) * BUCKETS
    whole = np.floor(exact + 1e-9)
    rank = np.argsort(np.argsort(whole - exact, axis=-1, kind="stable"), axis=-1, kind="stable")
    missing = BUCKETS - whole.sum(-1, keepdims=True)
    buckets: Ints = (whole + (rank < missing)).astype(np.int64)
    return buckets


def next_shares(
    n: ArrayLike,
    x: ArrayLike,
    *,
    floor: float = 0.3,
    control_matched: bool | None = None,
    active: ArrayLike | None = None,
    exponent: float = 1.0,
) -> Floats:
    """Shares of the next epoch from the counts of all past ones; the control is the first variant.

    Args:
        n: units so far (immature ones may be included), shape ``(..., epochs, variants)``; no epochs, no
            units or no conversions give equal shares.
        x: conversions so far, same shape.
        floor: least share of any active variant, in (0, 1 / variants].
        control_matched: give the control the best challenger's share; ``None`` does so for three or more.
        active: False for challengers that were dropped: they get nothing. Shape ``(..., variants)``.
        exponent: power of the probability to be the best, in [0, 1]; 1 leaves it and 0 gives equal shares.
            A matched control takes no power but 1.

    Returns:
        Shape ``(..., variants)``: multiples of 1/10,000 that sum to 1.

    Raises:
        InvalidInput: counts that cannot be, a floor or a power out of range, or a dropped control.
    """
    units, conversions = check_counts(n, x)
    count = units.shape[-1]
    mask = np.ones(count, bool) if active is None else np.asarray(active, bool)
    matched = count > 2 if control_matched is None else control_matched
    _check_floor(floor, count)
    _check_exponent(exponent, matched)
    if not mask[..., CONTROL].all():
        raise InvalidInput("active drops the control: keep the first variant active", field="active")
    if (mask.sum(-1) < 2).any():
        raise InvalidInput("active leaves no challenger: end the experiment instead", field="active")
    return shares_from_totals(
        conversions.sum(-2), expected_conversions(units, conversions), floor, matched, mask, exponent
    )


def tempering(epoch: int, epochs: int) -> float:
    """The power with which two variants share an epoch: ``epoch / (2 epochs)``, from 0 to just under a half.

    Args:
        epoch: number of the epoch that gets the shares, from 0.
        epochs: how many the schedule has.

    Raises:
        InvalidInput: an epoch that the schedule does not have.
    """
    if not 0 <= epoch < epochs:
        raise InvalidInput(
            f"epoch is {epoch} of {epochs}: give a number from 0 to {epochs - 1}", field="epoch"
        )
    return epoch / (2 * epochs)


def shares_from_totals(
    observed: Floats,
    expected: Floats,
    floor: float,
    control_matched: bool | None,
    active: Bools,
    exponent: float = 1.0,
) -> Floats:
    """:func:`next_shares` from running totals, unchecked: what the lab's inner loop calls."""
    count = observed.shape[-1]
    matched = count > 2 if control_matched is None else control_matched
    score = scores(observed, expected)
    known = (np.isfinite(score.ratio) | ~active).all(-1, keepdims=True)
    competing = active & (np.arange(count) != CONTROL) if matched else active
    chances = best_probabilities(
        np.where(competing, np.where(known, score.ratio, 1.0), -np.inf),
        np.where(known & active, score.sd, 1.0),
    )
    if matched:
        chances[..., CONTROL] = chances.max(-1)
        chances /= chances.sum(-1, keepdims=True)
    else:
        chances = tempered(chances, exponent)
    return whole_buckets(with_floor(chances, floor, active)) / BUCKETS


def check_counts(n: ArrayLike, x: ArrayLike) -> tuple[Floats, Floats]:
    """Counts as float arrays of one shape.

    Raises:
        InvalidInput: shapes that differ, NaN, negative counts, or more conversions than units.
    """
    units, conversions = np.asarray(n, float), np.asarray(x, float)
    if units.shape != conversions.shape or units.ndim < 2 or units.shape[-1] < 2:
        raise InvalidInput(
            f"units have shape {units.shape} and conversions {conversions.shape}: give both as "
            "(..., epochs, variants) with at least 2 variants",
            field="units",
        )
    for name, values in (("units", units), ("conversions", conversions)):
        if not (np.isfinite(values) & (values >= 0)).all():
            raise InvalidInput(f"{name} contain a negative number or NaN: give counts", field=name)
    if (conversions > units).any():
        where = tuple(int(i) for i in np.argwhere(conversions > units)[0])
        raise InvalidInput(
            f"conversions exceed units at {where} ({conversions[where]:g} of {units[where]:g}): "
            "count each unit once",
            field="conversions",
        )
    return units, conversions


def _check_floor(floor: float, count: int) -> None:
    if not 0 < floor <= 1 / count + 1e-12:
        raise InvalidInput(
            f"floor is {floor!r}: give a number above 0 and at most 1/{count} with {count} variants",
            field="floor",
        )


def _check_exponent(exponent: float, matched: bool) -> None:
    if not 0 <= exponent <= 1:
        raise InvalidInput(f"exponent is {exponent!r}: give a number from 0 to 1", field="exponent")
    if matched and exponent != 1:
        raise InvalidInput(
            f"exponent is {exponent!r} with a matched control: leave it at 1, or set control_matched=False",
            field="exponent",
        )
