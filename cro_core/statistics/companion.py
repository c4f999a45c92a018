"""Evidence that may be read at any time: the always-valid companion, and guardrails.

Both are e-processes on two variants, control first, built from bins in time (hours or days). Under the null
hypothesis their expectation never exceeds 1, so the chance that one *ever* reaches 1 / a is at most a,
whatever the looks, the allocation and the drift of the common rate. They need no plan and no horizon; the
price is power. The companion never decides inside the horizon.

Only conversions carry evidence: among the ``x`` conversions of a bin each belongs to the variant with chance
``w``, its part of the bin's units, if both rates are equal, and with chance ``w r / (1 - w + w r)`` if the
variant's rate is ``r`` times the control's. For units that convert independently the likelihood ratio of two
such chances has expectation at most 1 whatever the rates are, because ``log(1 + p y) <= p y``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from cro_core.domain import Harm
from cro_core.errors import InvalidInput
from cro_core.statistics.arrays import Bools, Floats
from cro_core.statistics.checks import check_bins, check_number
from cro_core.statistics.means import Sums, check_sums
from cro_core.statistics.srm import LARGEST, log_e_values

STOP = 100.0
"""A guardrail stops at this e-value: at most one false stop in a hundred experiments."""

HARMS: Floats = np.geomspace(0.03, 1.5, 16)
"""Log rate ratios a guardrail listens for, beyond its margin: from 3 % to a loss of three quarters."""

LEAST = 30
"""Units per variant from which on a bin of means counts: sums of fewer are not normal enough."""


@dataclass(frozen=True, slots=True)
class Companion:
    """Always-valid evidence that variant and control convert differently."""

    e_value: float | None
    """Evidence against equal rates; capped at exp(700)."""
    log_e: float | None
    """Natural logarithm of the e-value, without the cap."""
    p_value: float | None
    """``min(1, 1 / e)``: a p-value that may be read at any time."""
    leader: Literal["control", "variant"] | None
    """Whose rate is ahead, bin by bin; ``None`` in a tie."""
    reason: str | None = None
    """Why there is no number; ``None`` where there is one."""


@dataclass(frozen=True, slots=True)
class GuardrailCheck:
    """Whether a variant does more harm than was agreed to be tolerable."""

    status: Literal["ok", "stop", "no_data"]
    """``stop`` ends the experiment and routes everybody to the control."""
    e_value: float | None
    """Evidence that the harm exceeds the margin; capped at exp(700)."""
    log_e: float | None
    """Natural logarithm of the e-value, without the cap."""
    threshold: float
    """The e-value from which on it stops."""
    reason: str | None = None
    """Why there is no number; ``None`` where there is one."""


def companion(units: ArrayLike, conversions: ArrayLike, mde: float) -> Companion:
    """Always-valid evidence on the conversion rates of two variants.

    Args:
        units: units, shape (bins, 2), control first; mature units of any bins in time.
        conversions: how many of them converted, the same shape.
        mde: minimum detectable effect, relative (0.1 is 10 %); the mixture is ``N(0, mde)`` on the log rate
            ratio.

    Returns:
        The evidence; without numbers where nobody converted.

    Raises:
        InvalidInput: not counts, more conversions than units, unequal shapes, or ``mde`` not above 0.

    Source: a likelihood ratio of conditional binomials, mixed as in Robbins (1970), Annals of Mathematical
    Statistics 41; see the module's text for why it holds in finite samples.
    """
    n, x = check_bins(units, conversions)
    if not check_number(mde, "mde") > 0:
        raise InvalidInput(f"mde is {mde:g}: give a relative effect above 0", field="mde")
    if not x.any():
        return Companion(None, None, None, None, "nobody converted")
    log_e = float(companion_log_e(n, x, mde))
    lead = float((x[:, 1] - x.sum(axis=1) * _part(n)).sum())
    leader: Literal["control", "variant"] | None = None
    if abs(lead) > 1e-9 * x.sum():
        leader = "variant" if lead > 0 else "control"
    return Companion(math.exp(min(log_e, LARGEST)), log_e, math.exp(min(-log_e, 0.0)), leader)


def companion_log_e(units: ArrayLike, conversions: ArrayLike, mde: float) -> Floats:
    """Logarithm of the companion, for one experiment or many at once.

    ``log e(psi) = psi X_1 - sum_h x_h log(1 - w_h + w_h exp(psi))`` with ``w_h = n_1h / n_h``, mixed over
    ``psi ~ N(0, mde)``.

    Args:
        units: units, shape (..., bins, 2). Not checked: simulations call this.
        conversions: conversions, the same shape.
        mde: standard deviation of the mixture, above 0.

    Returns:
        Natural logarithms of the e-values, shape (...).
    """
    w = _part(np.asarray(units, dtype=float))
    return log_e_values(conversions, np.stack([1 - w, w], axis=-1), mde)


def guardrail(
    units: ArrayLike, conversions: ArrayLike, margin: float, harm: Harm = "less", number: int = 1
) -> GuardrailCheck:
    """Watches a rate: does the variant do worse than the control by more than the margin?

    Args:
        units: units, shape (bins, 2), control first.
        conversions: how many of them had the guarded outcome, the same shape.
        margin: tolerated relative change, in [0, 1): 0.05 tolerates a rate 5 % worse.
        harm: whether ``less`` (conversions) or ``more`` (errors, unsubscriptions) of it is bad.
        number: how many guardrails are watched, over all metrics and variants together.

    Returns:
        The watch. While no variant is worse than its margin, at most one experiment in a hundred is ever
        stopped by any of its guardrails.

    Raises:
        InvalidInput: not counts, more conversions than units, unequal shapes, ``margin`` outside [0, 1), an
            unknown ``harm``, or ``number`` below 1.

    Source: as ``companion``, one-sided: an even mixture over ``HARMS``. Exact in finite samples; cautious where
    most units convert.
    """
    n, x = check_bins(units, conversions)
    threshold = _threshold(margin, harm, number)
    if not x.any():
        return GuardrailCheck("no_data", None, None, threshold, "nobody had the guarded outcome")
    return _watch(float(guardrail_log_e(n, x, margin, harm)), threshold)


def guardrail_mean(
    control: Sequence[Sums], variant: Sequence[Sums], margin: float, harm: Harm = "less", number: int = 1
) -> GuardrailCheck:
    """Watches a mean (revenue, engagement, load time) in the same way.

    Inside a bin the variant's sum is compared with what re-labelling the units would give, taken as normal, so
    the bound is approximate. Simulated over 336 looks: 0.1 to 0.9 % false stops with revenue of 3 % buyers and
    with scores; 1.7 % in the worst case tried, lognormal amounts (sigma 2) in a tenth of the traffic.

    Args:
        control: sums of the control, one per bin (days rather than hours).
        variant: sums of the variant, one per bin.
        margin: tolerated relative change, in [0, 1).
        harm: whether a mean that is ``less`` or ``more`` is bad.
        number: how many guardrails are watched, over all metrics and variants together.

    Returns:
        The watch; bins with fewer than ``LEAST`` units in a variant or no positive mean do not count.

    Raises:
        InvalidInput: sums that no data can have, unequal numbers of bins, ``margin`` outside [0, 1), an
            unknown ``harm``, or ``number`` below 1.

    Source: Pitman (1937), Supplement to J. R. Statist. Soc. 4, for the variance under re-labelling.
    """
    threshold = _threshold(margin, harm, number)
    if len(control) != len(variant):
        raise InvalidInput(f"bins are {len(control)} and {len(variant)}: give one of each", field="variant")
    rows = [
        (check_sums(a, "control"), check_sums(b, "variant")) for a, b in zip(control, variant, strict=True)
    ]
    n, total, squares = np.moveaxis(np.array(rows, dtype=float).reshape(-1, 2, 3), -1, 0)
    if not _counting(n, total).any():
        enough = (n.min(axis=-1) >= LEAST).any()
        reason = NOT_POSITIVE if enough else NO_BIN
        return GuardrailCheck("no_data", None, None, threshold, reason)
    return _watch(float(guardrail_mean_log_e(n, total, squares, margin, harm)), threshold)


NOT_POSITIVE = "its mean is not above 0, so that no change in per cent can be told"
"""Why a mean that has units enough cannot be watched."""

NO_BIN = f"no bin with {LEAST} units in each variant and a positive mean"
"""Why a mean cannot be watched before there are units enough."""


def guardrail_log_e(units: ArrayLike, conversions: ArrayLike, margin: float, harm: Harm = "less") -> Floats:
    """Logarithm of ``guardrail``'s e-process, for one experiment or many at once.

    Args:
        units: units, shape (..., bins, 2). Not checked: simulations call this.
        conversions: conversions, the same shape.
        margin: as for ``guardrail``.
        harm: as for ``guardrail``.

    Returns:
        Natural logarithms of the e-values, shape (...).
    """
    x, w = np.asarray(conversions, dtype=float), _part(np.asarray(units, dtype=float))
    worst, psi = _worst(margin, harm)
    odds = w * worst / (1 - w + w * worst)
    expected = np.log1p(odds[..., None] * np.expm1(psi)) * x.sum(axis=-1)[..., None]
    return _average(x[..., 1].sum(axis=-1)[..., None] * psi - expected.sum(axis=-2))


def guardrail_mean_log_e(
    units: ArrayLike, totals: ArrayLike, squares: ArrayLike, margin: float, harm: Harm = "less"
) -> Floats:
    """Logarithm of ``guardrail_mean``'s e-process, for one experiment or many at once.

    Args:
        units: units, shape (..., bins, 2). Not checked: simulations call this.
        totals: sums of the metric, the same shape.
        squares: sums of its squares, the same shape.
        margin: as for ``guardrail``.
        harm: as for ``guardrail``.

    Returns:
        Natural logarithms of the e-values, shape (...).
    """
    worst, psi = _worst(margin, harm)
    scale = np.array([worst, 1.0])  # a control at the margin's edge is what the variant must not fall behind
    n = np.asarray(units, dtype=float)
    y, yy = np.asarray(totals, dtype=float) * scale, np.asarray(squares, dtype=float) * scale**2
    size, total = np.maximum(n.sum(axis=-1), 2), y.sum(axis=-1)
    about = np.maximum(yy.sum(axis=-1) - total**2 / size, 0)
    score = y[..., 1] - total * _part(n)
    variance = n[..., 0] * n[..., 1] * about / (size * (size - 1))
    # a relative change of psi is worth psi times mean / variance per unit of the metric
    usable = _counting(n, y) & (about > 0)
    rate = np.where(usable, total / size * (size - 1) / np.where(about > 0, about, 1), 0.0)
    gain = (rate * score).sum(axis=-1)[..., None] * psi
    return _average(gain - (rate**2 * variance).sum(axis=-1)[..., None] * psi**2 / 2)


def _threshold(margin: float, harm: str, number: int) -> float:
    if not 0 <= check_number(margin, "margin") < 1:
        raise InvalidInput(f"margin is {margin:g}: give a number from 0 to below 1", field="margin")
    if harm not in {"less", "more"}:
        raise InvalidInput(f"harm is {harm!r}: give 'less' or 'more'", field="harm")
    if not check_number(number, "number") >= 1:
        raise InvalidInput(
            f"number is {number}: give how many guardrails there are, at least 1", field="number"
        )
    return STOP * number


def _worst(margin: float, harm: Harm) -> tuple[float, Floats]:
    """The worst tolerated rate ratio, and the log ratios beyond it to listen for."""
    return (1 - margin, -HARMS) if harm == "less" else (1 + margin, HARMS)


def _watch(log_e: float, threshold: float) -> GuardrailCheck:
    status: Literal["ok", "stop"] = "stop" if log_e >= math.log(threshold) else "ok"
    return GuardrailCheck(status, math.exp(min(log_e, LARGEST)), log_e, threshold)


def _part(n: Floats) -> Floats:
    """The variant's part of the units of each bin; one half in an empty bin, where it does not matter."""
    size = n.sum(axis=-1)
    return np.where(size > 0, n[..., 1] / np.where(size > 0, size, 1), 0.5)


def _counting(n: Floats, totals: Floats) -> Bools:
    result: Bools = (n.min(axis=-1) >= LEAST) & (totals.sum(axis=-1) > 0)
    return result


def _average(log_e: Floats) -> Floats:
    """Logarithm of the mean over the last axis."""
    top = log_e.max(axis=-1, keepdims=True)
    result: Floats = np.log(np.exp(log_e - top).mean(axis=-1)) + top[..., 0]
    return result
