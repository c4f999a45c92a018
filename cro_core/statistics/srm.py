"""Sample ratio mismatch: did the variants get the traffic they were planned to get?

The check may be read at every look. It is an e-process: under the planned shares its expectation never
exceeds 1, so the chance that it *ever* reaches 100 is at most 1 % (Ville's inequality), however often it is
looked at and however the shares were moved, as long as each epoch is compared with its own planned shares.
Mismatches are searched among tilts of the log-odds of each challenger, drawn from N(0, ``TILT``^2).

Arrays have the shape (epochs, variants), control first. A share of 0 is fine (a dropped challenger); units
where none were planned are an alarm whatever their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc

from cro_core.errors import InvalidInput
from cro_core.statistics.arrays import Bools, Floats
from cro_core.statistics.checks import check_shares, check_units

Status = Literal["ok", "alarm", "unknown_shares", "no_data"]

TILT = 0.1
"""Standard deviation of a challenger's log-odds tilt under the mixture: mismatches of about 10 %."""

THRESHOLD = 100.0
"""Alarm at this e-value: at most one false alarm in a hundred experiments."""

LARGEST = 700.0
"""e-values are shown up to exp(700); beyond that floats end."""


@dataclass(frozen=True, slots=True)
class Srm:
    """What the counts say about the planned shares."""

    status: Status
    """``alarm`` vetoes any winner; ``unknown_shares`` and ``no_data`` mean that there is nothing to check."""
    units: tuple[int, ...]
    """Units seen per variant."""
    expected: tuple[float, ...] | None = None
    """Units expected per variant from each epoch's own planned shares."""
    statistic: float | None = None
    """Chi-square of seen against expected units, over all epochs together."""
    df: int | None = None
    """Degrees of freedom of the chi-square."""
    p_value: float | None = None
    """P-value of the chi-square, valid for one look only: information, the e-value decides."""
    e_value: float | None = None
    """Evidence against the planned shares, valid at every look; capped at exp(``LARGEST``)."""
    log_e: float | None = None
    """Natural logarithm of the e-value, without the cap (``LARGEST`` where an impossible unit was seen)."""
    threshold: float = THRESHOLD
    """The e-value from which on it is an alarm."""
    reason: str | None = None
    """Why there is no check, or no test statistic."""

    @property
    def alarm(self) -> bool:
        """Whether the status is ``alarm``."""
        return self.status == "alarm"


def over_epochs(units: ArrayLike, shares: ArrayLike | None, threshold: float = THRESHOLD) -> Srm:
    """The check of all epochs so far, each against its own planned shares.

    Args:
        units: units, shape (epochs, variants), control first.
        shares: planned shares, the same shape, each row summing to 1; ``None`` where nobody recorded them.
        threshold: e-value from which on it is an alarm, above 1.

    Returns:
        The check.

    Raises:
        InvalidInput: not counts, fewer than 2 variants, unequal shapes, shares that do not sum to 1, or a
            threshold of at most 1.

    Source: Lindon and Malek (2022), "Anytime-valid inference for multinomial count data", NeurIPS, with a
    normal mixture of tilts (Robbins 1970) in the place of a Dirichlet, so that shares may change.
    """
    n = check_units(units)
    if not threshold > 1:
        raise InvalidInput(f"threshold is {threshold}: give a number above 1", field="threshold")
    seen = tuple(int(total) for total in n.sum(axis=0))
    if shares is None:
        return Srm("unknown_shares", seen, threshold=threshold, reason="nobody recorded the planned shares")
    w = check_shares(shares, n.shape)
    expected = tuple((n.sum(axis=1) @ w).tolist())
    if not n.any():
        return Srm("no_data", seen, expected, threshold=threshold, reason="no units yet")
    if (n[w == 0] > 0).any():
        reason = "units in a variant whose planned share was 0"
        return Srm("alarm", seen, expected, None, None, 0.0, math.exp(LARGEST), LARGEST, threshold, reason)
    statistic, df = _goodness_of_fit(n, w)
    log_e = float(log_e_values(n, w))
    return Srm(
        status="alarm" if log_e >= math.log(threshold) else "ok",
        units=seen,
        expected=expected,
        statistic=statistic,
        df=df,
        p_value=float(chdtrc(df, statistic)) if df else None,
        e_value=math.exp(min(log_e, LARGEST)),
        log_e=log_e,
        threshold=threshold,
        reason=None if df else "all units were planned for one variant: nothing to compare",
    )


def log_e_values(units: ArrayLike, shares: ArrayLike, tilt: float = TILT) -> Floats:
    """Logarithm of the e-process, for one experiment or many at once.

    ``E exp(sum_k n_k psi_k - sum_e N_e log sum_j w_ej exp(psi_j))`` over ``psi_k ~ N(0, tilt^2)``, with
    ``psi = 0`` for the control. The integral is taken around the mode, where it is all but normal: exact to
    about 1e-8 of its value with two variants, 1e-4 with more.

    Args:
        units: units, shape (..., epochs, variants), control first. Not checked: simulations call this.
        shares: planned shares, a shape that broadcasts to that of ``units``.
        tilt: standard deviation of the mixture, above 0.

    Returns:
        Natural logarithms of the e-values, shape (...); 0 where there are no units.
    """
    n = np.asarray(units, dtype=float)
    w = np.broadcast_to(np.asarray(shares, dtype=float), n.shape)
    flat = (-1, *n.shape[-2:])
    return _tilt_mixture(n.reshape(flat), w.reshape(flat), tilt).reshape(n.shape[:-2])


def alarms(units: ArrayLike, shares: ArrayLike, threshold: float = THRESHOLD) -> Bools:
    """Which of many experiments alarm: what ``over_epochs`` decides, fast enough for simulations.

    Args:
        units: units, shape (experiments, epochs, variants). Not checked: simulations call this.
        shares: planned shares, a shape that broadcasts to that of ``units``.
        threshold: e-value from which on it is an alarm.

    Returns:
        Booleans, shape (experiments,).
    """
    n = np.asarray(units, dtype=float)
    w = np.broadcast_to(np.asarray(shares, dtype=float), n.shape)
    # below a tenth of the threshold the normal approximation is within 10 %: those cannot alarm
    near = _normal_log_e(n, w) >= math.log(threshold / 10)
    result: Bools = ((w == 0) & (n > 0)).any(axis=(1, 2))
    result[near] |= _tilt_mixture(n[near], w[near], TILT) >= math.log(threshold)
    return result


def _score(n: Floats, w: Floats) -> tuple[Floats, Floats]:
    """Units seen minus expected and their covariance, shapes (..., K) and (..., K, K)."""
    # sums as matrix products: several times faster over axes this short
    size = n @ np.ones(n.shape[-1])
    expected = (size[..., None, :] @ w)[..., 0, :]
    return np.ones(n.shape[-2]) @ n - expected, _covariance(size[..., None] * w, w)


def _covariance(expected: Floats, p: Floats) -> Floats:
    inner = np.swapaxes(expected, -1, -2) @ p
    total = np.ones(expected.shape[-2]) @ expected
    result: Floats = total[..., None] * np.eye(p.shape[-1]) - inner
    return result


def _goodness_of_fit(n: Floats, w: Floats) -> tuple[float, int]:
    score, covariance = _score(n, w)
    spread = np.sqrt(np.diag(covariance))
    varies = spread > 0
    scale = spread[varies]
    standard, correlation = score[varies] / scale, covariance[np.ix_(varies, varies)] / np.outer(scale, scale)
    # least squares, because units sum to their total: the correlations have no inverse
    solution, _, rank, _ = np.linalg.lstsq(correlation, standard, rcond=1e-9)
    return float(standard @ solution), int(rank)


def _normal_log_e(n: Floats, w: Floats) -> Floats:
    """The mixture with the counts taken as normal: two closed-form terms, shape (experiments,)."""
    score, covariance = _score(n, w)
    s, precision = score[:, 1:], covariance[:, 1:, 1:] + np.eye(n.shape[-1] - 1) / TILT**2
    fit = (s * np.linalg.solve(precision, s[:, :, None])[:, :, 0]).sum(axis=1)
    result: Floats = fit / 2 - np.linalg.slogdet(precision * TILT**2)[1] / 2
    return result


def _tilt_mixture(n: Floats, w: Floats, tilt: float) -> Floats:
    """``log_e_values`` for the shape (experiments, epochs, variants)."""
    mode = _mode(n, w, tilt)
    precision = _precision(n, w, mode, tilt)
    nodes, weights = _rule(n.shape[-1] - 1)
    spread = np.swapaxes(np.linalg.inv(np.linalg.cholesky(precision)), -1, -2)
    heights = _log_density(n, w, mode[:, None, :] + nodes @ np.swapaxes(spread, -1, -2), tilt)
    heights += (nodes**2).sum(axis=1) / 2
    top = heights.max(axis=1, keepdims=True)
    integral = np.log(np.exp(heights - top) @ weights) + top[:, 0]
    result: Floats = integral - np.linalg.slogdet(precision * tilt**2)[1] / 2
    return result


def _log_density(n: Floats, w: Floats, psi: Floats, tilt: float) -> Floats:
    """Logarithm of likelihood ratio times prior (its constant left out) at tilts (experiments, nodes, K-1)."""
    norm = np.log(np.exp(psi) @ np.swapaxes(w[..., 1:], -1, -2) + w[:, None, :, 0])
    gain = (psi * n[:, None, :, 1:].sum(axis=2)).sum(axis=-1) - (norm * n.sum(axis=-1)[:, None]).sum(axis=-1)
    result: Floats = gain - (psi**2).sum(axis=-1) / (2 * tilt**2)
    return result


def _mode(n: Floats, w: Floats, tilt: float) -> Floats:
    """The tilts of highest density, shape (experiments, K-1), by Newton steps no longer than 1."""
    psi = np.zeros((len(n), n.shape[-1] - 1))
    seen, size = n.sum(axis=1)[:, 1:], n.sum(axis=-1)[:, :, None]
    for _ in range(100):
        gradient = seen - (size * _tilted(w, psi)[..., 1:]).sum(axis=1) - psi / tilt**2
        step = np.linalg.solve(_precision(n, w, psi, tilt), gradient[:, :, None])[:, :, 0]
        # a unit of log-odds is how far the curvature can be trusted
        step /= np.maximum(abs(step).max(axis=1, initial=0.0, keepdims=True), 1.0)
        psi += step
        if abs(step).max(initial=0.0) < 1e-9:
            break
    return psi


def _tilted(w: Floats, psi: Floats) -> Floats:
    tilted = w * np.exp(np.pad(psi, ((0, 0), (1, 0))))[:, None, :]
    result: Floats = tilted / tilted.sum(axis=-1, keepdims=True)
    return result


def _precision(n: Floats, w: Floats, psi: Floats, tilt: float) -> Floats:
    p = _tilted(w, psi)
    curvature = _covariance(n.sum(axis=-1)[:, :, None] * p, p)[:, 1:, 1:]
    result: Floats = curvature + np.eye(psi.shape[1]) / tilt**2
    return result


def _rule(d: int) -> tuple[Floats, Floats]:
    """Nodes and weights for N(0, I) in d dimensions: Gauss-Hermite, or a degree-5 rule for d > 1.

    Source: Stroud and Secrest (1963), Mathematics of Computation 17.
    """
    if d == 1:
        points, masses = np.polynomial.hermite_e.hermegauss(9)
        return points[:, None], masses / masses.sum()
    axes = math.sqrt(d + 2) * np.eye(d)
    pairs = [
        math.sqrt((d + 2) / 2) * (np.eye(d)[i] + sign * np.eye(d)[j])
        for i in range(d)
        for j in range(i)
        for sign in (1, -1)
    ]
    half = np.array([*axes, *pairs])
    weights = np.array([(4 - d) / (2 * (d + 2) ** 2)] * d + [1 / (d + 2) ** 2] * len(pairs))
    nodes = np.concatenate([np.zeros((1, d)), half, -half])
    return nodes, np.concatenate([[2 / (d + 2)], weights, weights])
