"""Checks of arguments: each takes the value, then its name, and returns what may be computed with.

What is refused raises :class:`~cro_core.errors.InvalidInput`, whose message says what it got and what it wanted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import SupportsFloat

import numpy as np
from numpy.typing import ArrayLike

from cro_core.errors import InvalidInput
from cro_core.statistics.arrays import Floats

WEIGHT_SLACK = 1e-9
"""How far the sum of weights may be from 1."""

SHARE_TOLERANCE = 1e-6
"""How far shares may be from summing to 1 (shares written with six decimals); they are then rescaled."""


def check_number(value: SupportsFloat, name: str) -> float:
    """Returns ``value`` as a float if it is finite.

    Raises:
        InvalidInput: not a number, NaN or infinite.
    """
    number = _number(value)
    if not math.isfinite(number):
        raise InvalidInput(f"{name} is {value!r}: give a finite number", field=name)
    return number


def check_between(value: SupportsFloat, name: str, low: float, high: float) -> float:
    """Returns ``value`` as a float if it lies strictly between ``low`` and ``high``.

    Raises:
        InvalidInput: it does not, or is not a number.
    """
    number = _number(value)
    if not low < number < high:
        raise InvalidInput(f"{name} is {value!r}: give a number between {low:g} and {high:g}", field=name)
    return number


def check_fraction(value: SupportsFloat, name: str) -> float:
    """Returns ``value`` as a float if it lies strictly between 0 and 1.

    Raises:
        InvalidInput: it does not.
    """
    number = check_number(value, name)
    if not 0 < number < 1:
        raise InvalidInput(f"{name} is {number:g}: give a number between 0 and 1", field=name)
    return number


def check_p_value(value: SupportsFloat, name: str = "p_value") -> float:
    """Returns ``value`` as a float if it is a p-value.

    Raises:
        InvalidInput: it is not in [0, 1].
    """
    number = check_number(value, name)
    if not 0 <= number <= 1:
        raise InvalidInput(f"{name} is {number:g}: give a number from 0 to 1", field=name)
    return number


def check_choice(value: str, name: str, choices: Iterable[str]) -> None:
    """Checks that ``value`` is one of the words there are.

    Raises:
        InvalidInput: it is none of them.
    """
    words = tuple(choices)
    if value not in words:
        raise InvalidInput(f"{name} is {value!r}: choose from {', '.join(words)}", field=name)


def check_count(value: SupportsFloat, name: str) -> float:
    """Returns ``value`` as a float if it is a count.

    Raises:
        InvalidInput: negative, fractional or not a number.
    """
    number = check_number(value, name)
    if number < 0 or number != math.floor(number):
        raise InvalidInput(f"{name} is {number:g}: give a whole number of at least 0", field=name)
    return number


def check_rate(units: SupportsFloat, conversions: SupportsFloat) -> tuple[float, float]:
    """Returns units and conversions as floats if they are counts that fit together.

    Raises:
        InvalidInput: not counts, or more conversions than units.
    """
    n, x = check_count(units, "units"), check_count(conversions, "conversions")
    if x > n:
        raise InvalidInput(
            f"conversions are {x:.0f} of {n:.0f} units: count each unit at most once", field="conversions"
        )
    return n, x


def check_table(
    units: Sequence[SupportsFloat], conversions: Sequence[SupportsFloat]
) -> tuple[list[float], list[float]]:
    """Returns units and conversions per variant as floats.

    Raises:
        InvalidInput: not counts, more conversions than units, unequal lengths or fewer than 2 variants.
    """
    check_lengths(units=units, conversions=conversions)
    if len(units) < 2:
        raise InvalidInput(f"units has {len(units)} variant(s): give at least 2", field="units")
    pairs = [check_rate(n, x) for n, x in zip(units, conversions, strict=True)]
    return [n for n, _ in pairs], [x for _, x in pairs]


def check_lengths(**columns: Sequence[object]) -> None:
    """Checks that the named columns are equally long.

    Raises:
        InvalidInput: they are not.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidInput(f"lengths differ ({lengths}): give one number for each in all of them")


def check_weights(weights: ArrayLike) -> Floats:
    """Returns the epochs' weights as floats.

    Raises:
        InvalidInput: none, negative ones, or a sum other than 1.
    """
    values = np.asarray(weights, float)
    if values.ndim != 1 or not values.size or not (values >= 0).all() or abs(values.sum() - 1) > WEIGHT_SLACK:
        raise InvalidInput(
            f"weights are {values.tolist()}: give each epoch's planned share of traffic, summing to 1",
            field="weights",
        )
    return values


def check_units(units: ArrayLike) -> Floats:
    """Returns units per epoch and variant as floats, shape (epochs, variants).

    Raises:
        InvalidInput: not counts, no epoch or fewer than 2 variants.
    """
    n = _epochs(units, "units")
    wrong = (n < 0) | (n != np.floor(n))
    if wrong.any():
        raise InvalidInput(f"units are {n[wrong][0]:g}: give whole numbers of at least 0", field="units")
    return n


def check_shares(shares: ArrayLike, shape: tuple[int, ...]) -> Floats:
    """Returns planned shares per epoch and variant as floats, rescaled so that each row sums to 1 exactly.

    Args:
        shares: fractions, shape (epochs, variants).
        shape: that of the units they were planned for.

    Raises:
        InvalidInput: another shape, negative shares, or a row that does not sum to 1.
    """
    w = _epochs(shares, "shares")
    if w.shape != shape:
        raise InvalidInput(f"shares have shape {w.shape}, units {shape}: give them alike", field="shares")
    sums = w.sum(axis=1, keepdims=True)
    wrong = (w < 0).any(axis=1) | (abs(sums[:, 0] - 1) > SHARE_TOLERANCE)
    if wrong.any():
        raise InvalidInput(
            f"shares are {w[wrong][0].tolist()}: give fractions of at least 0 that sum to 1", field="shares"
        )
    rescaled: Floats = w / sums
    return rescaled


def check_bins(units: ArrayLike, conversions: ArrayLike) -> tuple[Floats, Floats]:
    """Returns units and conversions of control and variant per bin in time as floats, each of shape (bins, 2).

    Raises:
        InvalidInput: not counts, unequal shapes, or more conversions than units.
    """
    n, x = _bins(units, "units"), _bins(conversions, "conversions")
    if n.shape != x.shape:
        raise InvalidInput(
            f"units have shape {n.shape}, conversions {x.shape}: give them alike", field="units"
        )
    if (x > n).any():
        got = f"{x[x > n][0]:.0f} of {n[x > n][0]:.0f} units"
        raise InvalidInput(f"conversions are {got}: count each unit at most once", field="conversions")
    return n, x


def _epochs(values: ArrayLike, name: str) -> Floats:
    table = _floats(values)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2 or not np.isfinite(table).all():
        raise InvalidInput(
            f"{name} are {repr(values)[:200]}: give finite numbers for at least 1 epoch and 2 variants",
            field=name,
        )
    return table


def _bins(values: ArrayLike, name: str) -> Floats:
    table = _floats(values)
    counts = np.isfinite(table) & (table >= 0) & (table == np.floor(table))
    if table.ndim != 2 or table.shape[1] != 2 or not counts.all():
        raise InvalidInput(
            f"{name} are {repr(values)[:200]}: give whole numbers of at least 0, control and variant per bin",
            field=name,
        )
    return table


def _floats(values: ArrayLike) -> Floats:
    """``values`` as an array of floats, NaN where they are no numbers."""
    try:
        return np.array(values, dtype=float)
    except (TypeError, ValueError):
        return np.full((1, 2), np.nan)


def _number(value: SupportsFloat) -> float:
    """``value`` as a float, NaN where it is no number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
