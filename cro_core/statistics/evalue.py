"""The e-value of one experiment, which may be multiplied with those of other visitors: evidence that adds up.

One-sided: its expectation is at most 1 if the challenger is nowhere better than the control, however often one looks
and whatever made one stop. Experiments on *different* visitors multiply, and the chance that the product ever
reaches 20 is at most 5 % (Ville 1939), also where the past decides on whether there is a next one.

Only conversions carry evidence. Of a pair's conversions in a period of frozen shares each belongs to the challenger
with chance ``w``, its planned share of the pair, if both rates are equal. Against that stands a mixture of ten
rate ratios ``exp(psi)``, which is fixed here for ever: e-values that are to be multiplied by people who have not
met must not be tuned to what was found.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from cro_core.errors import InvalidInput
from cro_core.statistics.arrays import Floats

RATIOS: Floats = 0.2 * ndtri((1 + np.linspace(0.05, 0.95, 10)) / 2)
"""Log rate ratios listened for: the quantiles .05, .15 ... .95 of a half-normal with scale .2."""

CAP = 700.0
"""Natural logarithm at which an e-value is capped, so that it stays a number."""


def e_value(conversions: ArrayLike, shares: ArrayLike) -> float:
    """E-value of one challenger against the control, capped at ``exp(700)``; 1 where nobody converted.

    Args:
        conversions: of control and challenger in each epoch, shape ``(epochs, 2)``.
        shares: the challenger's planned share of the pair in each epoch, in (0, 1); shape ``(epochs,)``.

    Raises:
        InvalidInput: conversions that cannot be, or a share out of range in an epoch with conversions.
    """
    counts, w = np.asarray(conversions, float), np.asarray(shares, float)
    if counts.ndim != 2 or counts.shape[1] != 2 or w.shape != counts.shape[:1]:
        raise InvalidInput(
            f"conversions have shape {counts.shape} and shares {w.shape}: give (epochs, 2) and (epochs,)",
            field="conversions",
        )
    if not (np.isfinite(counts) & (counts >= 0)).all():
        raise InvalidInput("conversions have a negative number or NaN: give counts", field="conversions")
    used = counts.sum(-1) > 0
    if not ((w[used] > 0) & (w[used] < 1)).all():
        raise InvalidInput(f"shares are {w.tolist()}: give fractions between 0 and 1", field="shares")
    return math.exp(min(float(log_e_value(counts[used], w[used])), CAP))


def log_e_value(conversions: ArrayLike, shares: ArrayLike) -> Floats:
    """Natural logarithm of the e-value, for one experiment or many at once.

    ``e(psi) = exp(sum_h psi X1_h - (X0_h + X1_h) log(1 - w_h + w_h exp(psi)))`` over the epochs ``h``, averaged
    over :data:`RATIOS`: multiplied inside each ratio first, so that it stays a test of one effect.

    Args:
        conversions: of control and challenger, shape ``(..., epochs, 2)``. Not checked: simulations call this.
        shares: the challenger's planned share of the pair, shape ``(..., epochs)``, in (0, 1).

    Returns:
        Shape ``(...)``.
    """
    counts, w = np.asarray(conversions, float), np.asarray(shares, float)
    expected = np.log1p(w[..., None] * np.expm1(RATIOS)) * counts.sum(-1)[..., None]
    each = (counts[..., 1][..., None] * RATIOS - expected).sum(-2)
    return np.asarray(np.logaddexp.reduce(each, axis=-1) - math.log(len(RATIOS)))
