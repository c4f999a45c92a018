"""Does something matter beside what is known to matter? Tests on tables of units and conversions.

A table has a row for each combination of what was told apart, with its units and conversions. One test serves
every question: the score test of logistic regression. With a constant as the null it is Pearson's chi-square;
with a constant for each stratum it is the stratified (Cochran-Mantel-Haenszel-Birch) test; with main effects it
tests their interaction, which for a treatment and strata is Breslow and Day's test of equal odds ratios. Where few
converted and one group is in question, two tests stay right: the exact one against all others, and the score test
with a saddlepoint p-value beside whatever else matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, expit, gammaln, logit, ndtr

from cro_core.errors import InvalidInput
from cro_core.statistics.arrays import Floats
from cro_core.statistics.checks import check_count, check_lengths, check_rate

STEPS = 50
"""Most steps of the fit."""

RANK = 1e-7
"""A direction whose information is below this part of the largest is none."""

EXACT_UP_TO = 4e4
"""Variance of a count up to which its exact distribution is used; beyond it the normal one is as good."""

STEEPEST = 40.0
"""Largest tilt of the log odds that a tail is looked for at: there every row is all or nothing."""

HALVINGS = 50
"""Halvings of the tilt: they leave 4e-14 of it."""

REACH = 13.0
"""Standard deviations about the mean that are computed: the rest has probability below 1e-37."""


@dataclass(frozen=True, slots=True)
class ScoreTest:
    """Whether columns explain conversion beyond the null."""

    statistic: float | None
    """Chi-square of the score test."""
    df: int
    """Directions in which the data could tell."""
    p_value: float | None
    reason: str | None = None
    """Why there is no number; ``None`` where there is one."""


@dataclass(frozen=True, slots=True)
class LogOdds:
    """What one column adds to the log odds."""

    estimate: float | None
    error: float | None
    """Standard error of the log odds."""
    without: float | None
    """Conversion rate of the column's rows if it added nothing."""


@dataclass(frozen=True, slots=True)
class _NullModel:
    """The fitted null, in the rows that vary under it."""

    kept: NDArray[np.bool_]
    """Which rows of the table vary."""
    root: Floats
    """Standard deviation of the conversions, per row."""
    residual: Floats
    """Conversions beyond those expected, per row."""
    rates: Floats
    """Expected conversion rate, per row."""
    basis: Floats
    """Orthonormal columns that span the null where each row is multiplied by its ``root``."""

    def beyond(self, whitened: Floats) -> Floats:
        """What the null leaves of columns whose rows are multiplied by ``root``."""
        left: Floats = whitened - self.basis @ (self.basis.T @ whitened)
        return left


@dataclass(frozen=True, slots=True)
class _Fit:
    """A logistic regression on a table."""

    coefficients: Floats
    """Per column of the design; unique only for a column that the others do not make up."""
    expected: Floats
    """Conversions that the model expects, per row."""
    weight: Floats
    """Variance of the conversions, per row."""


def score_test(units: ArrayLike, conversions: ArrayLike, null: ArrayLike, extra: ArrayLike) -> ScoreTest:
    """The score test that ``extra`` explains nothing beyond ``null``.

    Args:
        units: units per row of the table.
        conversions: how many of them converted.
        null: design of the null, rows x columns; give it a constant.
        extra: columns in question, rows x columns.

    Returns:
        The test; without a number where nothing varies, or the null leaves nothing of the extra columns.

    Raises:
        InvalidInput: not counts, more conversions than units, or unequal lengths.

    Source: Rao (1948); Day and Byar (1979), Biometrics 35, for its identity with the tests of stratified tables.
    """
    n, x, known = _checked(units, conversions, null)
    asked = _columns(extra, len(n))
    null_model = _null_model(n, x, known)
    return null_model if isinstance(null_model, ScoreTest) else _scored(null_model, asked)


def indicator_tests(
    units: ArrayLike, conversions: ArrayLike, null: ArrayLike, indicators: ArrayLike
) -> list[ScoreTest]:
    """The score test of each indicator by itself beside the null, with a p-value that holds where few converted.

    Args:
        units: units per row of the table.
        conversions: how many of them converted.
        null: design of the null, rows x columns; give it a constant.
        indicators: rows x columns, each 1 for the rows in question and 0 elsewhere.

    Returns:
        For each indicator the chi-square of the score test (1 degree of freedom), and twice the mid-p of the
        conversions in its rows, given all that the null fixes: by saddlepoint, within a few per cent of what the
        hypergeometric distribution gives where it can be had. The normal tail of small counts is often ten times
        too short.

    Raises:
        InvalidInput: not counts, more conversions than units, or unequal lengths.

    Source: Lugannani and Rice (1980), Adv. Appl. Prob. 12, in the form of Barndorff-Nielsen (1991), Biometrika 78;
    Pierce and Peters (1992), J. R. Statist. Soc. B 54, for its giving the mid-p of counts.
    """
    n, x, known = _checked(units, conversions, null)
    asked = _columns(indicators, len(n))
    null_model = _null_model(n, x, known)
    if isinstance(null_model, ScoreTest):
        return [null_model for _ in asked.T]
    tests = [_scored(null_model, column[:, None]) for column in asked.T]
    tails = _saddlepoint_tails(n, null_model, asked)
    return [
        test if test.statistic is None else replace(test, p_value=min(1.0, 2 * tail))
        for test, tail in zip(tests, tails.tolist(), strict=True)
    ]


def _null_model(n: Floats, x: Floats, known: Floats) -> _NullModel | ScoreTest:
    """The fitted null; a test without a number where nothing varies."""
    if not 0 < x.sum() < n.sum():
        return ScoreTest(None, 0, None, "everybody converted" if x.sum() else "nobody converted")
    fit = _fit(n, x, known)
    kept = fit.weight > 1e-9  # rows that are all or nothing tell nothing
    root = np.sqrt(fit.weight[kept])
    return _NullModel(
        kept,
        root,
        (x - fit.expected)[kept],
        fit.expected[kept] / n[kept],
        _basis(known[kept] * root[:, None]),
    )


def _scored(null: _NullModel, columns: Floats) -> ScoreTest:
    """The test in whitened rows: what the columns explain beyond the null."""
    whitened = columns[null.kept] * null.root[:, None]
    size = float(np.linalg.norm(whitened, axis=0).max(initial=0.0))
    directions = _basis(null.beyond(whitened), size)
    df = directions.shape[1]
    if not df:
        return ScoreTest(None, 0, None, "it cannot be told apart from what is known to matter")
    statistic = float(((directions.T @ (null.residual / null.root)) ** 2).sum())
    return ScoreTest(statistic, df, float(chdtrc(df, statistic)))


def _saddlepoint_tails(n: Floats, null: _NullModel, indicators: Floats) -> Floats:
    """The chance of a count farther out than each indicator's on its side, and half that of its own; shape (indicators,).

    What an indicator's conversions exceed their expectation by is a weighted sum of independent binomials, whose
    weights leave out all that the null fixes.
    """
    rows, root, p = n[null.kept, None], null.root[:, None], null.rates[:, None]
    loads = null.beyond(indicators[null.kept] * root) / root
    excess = loads.T @ null.residual
    loads = loads * np.where(excess < 0, -1.0, 1.0)
    seen = np.abs(excess)
    low, high = np.zeros(len(seen)), np.full(len(seen), STEEPEST)
    for _ in range(HALVINGS):
        tilt = (low + high) / 2
        tilted = expit(logit(p) + tilt * loads)
        short = (rows * loads * (tilted - p)).sum(axis=0) < seen
        low, high = np.where(short, tilt, low), np.where(short, high, tilt)
    cumulant = (rows * (np.log1p(p * np.expm1(tilt * loads)) - tilt * loads * p)).sum(axis=0)
    spread = np.sqrt((rows * loads**2 * tilted * (1 - tilted)).sum(axis=0))
    root_of_deviance = np.sqrt(np.maximum(2 * (tilt * seen - cumulant), 0))
    central = root_of_deviance < 1e-3
    r = np.where(central, 1.0, root_of_deviance)
    u = np.where(central, 1.0, tilt * spread)
    tails: Floats = np.where(central, 0.5, ndtr(-(r + np.log(np.maximum(u, 1e-300) / r) / r)))
    return tails


def log_odds(units: ArrayLike, conversions: ArrayLike, null: ArrayLike, column: ArrayLike) -> LogOdds:
    """What ``column`` adds to the log odds beside ``null``, by maximum likelihood; ``None`` where that is not finite.

    Args:
        units: units per row of the table.
        conversions: how many of them converted.
        null: design of what is known to matter, rows x columns.
        column: the column in question: 1 for its rows, 0 elsewhere.

    Raises:
        InvalidInput: not counts, more conversions than units, or unequal lengths.
    """
    n, x, known = _checked(units, conversions, null)
    asked = _columns(column, len(n))
    fit = _fit(n, x, np.column_stack([known, asked]))
    root = np.sqrt(fit.weight)
    base, left = _basis(known * root[:, None]), asked[:, 0] * root
    information = float(((left - base @ (base.T @ left)) ** 2).sum())
    mine = asked[:, 0] > 0
    if information < 1e-6 or not 0 < x[mine].sum() < n[mine].sum():
        return LogOdds(None, None, None)
    rate = expit(known[mine] @ fit.coefficients[:-1])
    without = float((n[mine] * rate).sum() / n[mine].sum())
    return LogOdds(float(fit.coefficients[-1]), 1 / math.sqrt(information), without)


def exact_test(strata: Sequence[tuple[float, float, float, float]]) -> float | None:
    """The two-sided p-value that a group converts like the others, inside each stratum, given the margins.

    Args:
        strata: units and conversions of the group, then of the others.

    Returns:
        Fisher's exact p-value (with several strata its counterpart of Mantel and Haenszel): the probability of
        all counts that are at most as probable as the one found; ``None`` where no stratum can tell.

    Raises:
        InvalidInput: not counts, or more conversions than units.

    Source: Fisher (1934); Mehta, Patel and Gray (1985), J. Am. Stat. Assoc. 80, for several strata. Where the
    count's variance is above :data:`EXACT_UP_TO`, the normal approximation.
    """
    tables = [(*check_rate(n1, x1), *check_rate(n0, x0)) for n1, x1, n0, x0 in strata]
    tables = [t for t in tables if t[0] and t[2] and 0 < t[1] + t[3] < t[0] + t[2]]
    if not tables:
        return None
    moments = [_hypergeometric_moments(*t) for t in tables]
    mean, variance = sum(m for m, _ in moments), sum(v for _, v in moments)
    seen = sum(t[1] for t in tables)
    if variance > EXACT_UP_TO:
        return 2 * float(ndtr(-abs(seen - mean) / math.sqrt(variance)))
    lowest, total = 0, np.ones(1)
    for table, (centre, spread) in zip(tables, moments, strict=True):
        low, chances = _hypergeometric(*table, centre, spread)
        lowest, total = lowest + low, np.convolve(total, chances)
    place = int(seen) - lowest
    if not 0 <= place < len(total):
        return 0.0
    # ties are told by a little slack, as elsewhere: rounding must not decide them
    return min(float(total[total <= total[place] * (1 + 1e-7)].sum()), 1.0)


def _hypergeometric_moments(n1: float, x1: float, n0: float, x0: float) -> tuple[float, float]:
    n, x = n1 + n0, x1 + x0
    return n1 * x / n, n1 * n0 * x * (n - x) / (n * n * max(n - 1, 1))


def _hypergeometric(
    n1: float, x1: float, n0: float, x0: float, mean: float, variance: float
) -> tuple[int, Floats]:
    """The least count that is computed, and the probabilities from there on."""
    n, x = n1 + n0, x1 + x0
    reach = (
        REACH * math.sqrt(variance) + 2 * REACH
    )  # the tails of small counts are longer than the normal ones
    low = max(0, int(x - n0), min(int(mean - reach), int(x1)))
    high = min(int(n1), int(x), max(math.ceil(mean + reach), int(x1)))
    k = np.arange(low, high + 1, dtype=float)
    log = _choose(n1, k) + _choose(n0, x - k) - _choose(n, np.array(x))
    return low, np.exp(log)


def _choose(n: float, k: Floats) -> Floats:
    logarithm: Floats = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return logarithm


def _fit(n: Floats, x: Floats, design: Floats) -> _Fit:
    intercept = math.log((x.sum() + 0.5) / (n.sum() - x.sum() + 0.5))
    coefficients = np.linalg.lstsq(design, np.full(len(n), intercept), rcond=None)[0]
    before = math.inf
    for _ in range(STEPS):
        linear = np.clip(design @ coefficients, -30, 30)  # a group without conversions has no finite fit
        p = expit(linear)
        weight = n * p * (1 - p)
        deviance = -2 * float((x * np.log(p) + (n - x) * np.log1p(-p)).sum())
        if abs(before - deviance) <= 1e-12 * (abs(deviance) + 1):
            break
        before = deviance
        root = np.sqrt(weight)
        working = root * linear + np.divide(x - n * p, root, out=np.zeros_like(root), where=root > 0)
        coefficients = np.linalg.lstsq(design * root[:, None], working, rcond=None)[0]
    return _Fit(coefficients, n * p, weight)


def _basis(columns: Floats, scale: float | None = None) -> Floats:
    """Orthonormal columns that span the same; what is below :data:`RANK` of ``scale`` is rounding."""
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    limit = RANK * (sizes.max(initial=0.0) if scale is None else scale)
    basis: Floats = left[:, sizes > max(limit, 1e-300)]
    return basis


def _columns(design: ArrayLike, rows: int) -> Floats:
    columns = np.asarray(design, float)
    columns = columns[:, None] if columns.ndim == 1 else columns
    if columns.shape[0] != rows:
        raise InvalidInput(
            f"the design has {columns.shape[0]} rows for {rows} of the table: give one for each"
        )
    return columns


def _checked(units: ArrayLike, conversions: ArrayLike, design: ArrayLike) -> tuple[Floats, Floats, Floats]:
    n, x = np.asarray(units, float), np.asarray(conversions, float)
    check_lengths(units=n.tolist(), conversions=x.tolist())
    for total, part in zip(n, x, strict=True):
        check_count(total, "units")
        check_rate(total, part)
    return n, x, _columns(design, len(n))
