"""Group-sequential theory (under construction: boundaries follow)."""

from __future__ import annotations

import math

from cro_core.errors import InvalidInput


def check_between(name: str, value: float, low: float, high: float) -> float:
    """Returns ``value`` if it lies strictly between ``low`` and ``high``.

    Raises:
        InvalidInput: it does not, or is not a number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low < value < high:
        raise InvalidInput(f"{name} is {value!r}: give a number between {low:g} and {high:g}", field=name)
    return float(value)
