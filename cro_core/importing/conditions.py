"""Conditions on the columns of a row, as a mapping writes them: values, lists, ``min``, ``max``, ``not``, ``present``.

Written ``{ group = "control", landing_page = ["old_page", "home"], age = { min = 18 } }``: every column named
must agree. A list of such tables holds where any of them does. There is nothing to evaluate but these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, time
from typing import TYPE_CHECKING, Any

from cro_core.importing.refusal import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

Scalar = bool | int | float | str

TESTS = ("min", "max", "not", "present")


@dataclass(frozen=True, slots=True)
class Check:
    """A condition on one column; every part that is given must hold."""

    column: str
    equals: tuple[Scalar, ...] = ()
    """Values of which the cell must be one."""
    differs: tuple[Scalar, ...] = ()
    """Values of which the cell must be none; an empty cell is none of them."""
    least: Scalar | None = None
    """Inclusive lower bound: numbers compare as numbers, texts (ISO dates) as texts."""
    most: Scalar | None = None
    """Inclusive upper bound: numbers compare as numbers, texts (ISO dates) as texts."""
    present: bool | None = None
    """Whether the cell must be filled, or must be empty."""


Condition = tuple[Check, ...]
"""Checks of which all must hold."""

Cases = tuple[Condition, ...]
"""Conditions of which any must hold."""


def parse_cases(raw: Any) -> Cases:
    """Reads conditions as a mapping writes them: a table of columns, or a list of such tables.

    Raises:
        ValueError: it is neither, or a test in it is unknown or of the wrong type.
    """
    tables = raw if isinstance(raw, list) else [raw]
    if not tables or not all(isinstance(table, dict) and table for table in tables):
        raise ValueError(
            f'got {raw!r}; wanted column names with values, such as {{ action = "view" }}, or a list of such tables'
        )
    return tuple(tuple(_check(column, condition) for column, condition in table.items()) for table in tables)


def parse_scalar(raw: Any) -> Scalar:
    """Reads a value as a mapping writes it: a text, number or true/false; dates and times become ISO text.

    Raises:
        ValueError: it is a list or a table.
    """
    if isinstance(raw, (date, time)):  # a datetime is a date
        return raw.isoformat()
    if isinstance(raw, (bool, int, float, str)):
        return raw
    raise ValueError(f"got {raw!r}; wanted a text, a number, a date, or true or false")


def columns_of(cases: Cases) -> Iterator[str]:
    """Yields every column that the conditions look at."""
    return (check.column for condition in cases for check in condition)


def holds(table: pd.DataFrame, cases: Cases) -> pd.Series[bool]:
    """Finds the rows that meet any of the conditions; ``table`` holds text, with missing values for empty cells."""
    import pandas as pd

    result = pd.Series(data=False, index=table.index)
    for condition in cases:
        met = pd.Series(data=True, index=table.index)
        for check in condition:
            met &= _meets(table[check.column], check)
        result |= met
    return result


def equals(cells: pd.Series[str], value: Scalar) -> pd.Series[bool]:
    """Finds the cells that are this value; a number also where it is written otherwise (1, 1.0, 01)."""
    import pandas as pd

    if isinstance(value, bool):
        return cells.str.lower().isin(["true", "1"] if value else ["false", "0"])
    if isinstance(value, (int, float)):
        return pd.to_numeric(cells, errors="coerce") == value
    return cells.isin([value])


def _check(column: str, condition: Any) -> Check:
    if not isinstance(condition, dict):
        return Check(column, equals=_scalars(column, condition))
    for name in condition:
        if name not in TESTS:
            fix = did_you_mean(name, TESTS)
            raise ValueError(
                f"got {column} = {{ {name} = ... }}; wanted one of {', '.join(TESTS)}"
                + (f"; {fix}" if fix else "")
            )
    present = condition.get("present")
    if present is not None and not isinstance(present, bool):
        raise ValueError(f"got {column} = {{ present = {present!r} }}; wanted true or false")
    return Check(
        column,
        differs=_scalars(column, condition["not"]) if "not" in condition else (),
        least=_bound(column, "min", condition),
        most=_bound(column, "max", condition),
        present=present,
    )


def _scalars(column: str, raw: Any) -> tuple[Scalar, ...]:
    if raw == []:
        raise ValueError(f"got {column} = []; wanted at least one value")
    return tuple(parse_scalar(value) for value in (raw if isinstance(raw, list) else [raw]))


def _bound(column: str, name: str, condition: dict[str, Any]) -> Scalar | None:
    if name not in condition:
        return None
    bound = parse_scalar(condition[name])
    if isinstance(bound, bool):
        raise ValueError(f"got {column} = {{ {name} = {condition[name]!r} }}; wanted a number or a date")
    return bound


def _meets(cells: pd.Series[str], check: Check) -> pd.Series[bool]:
    import pandas as pd

    met = pd.Series(data=True, index=cells.index)
    if check.equals:
        met &= _any_of(cells, check.equals)
    if check.differs:
        met &= ~_any_of(cells, check.differs)
    if check.least is not None:
        met &= _comparable(cells, check.least) >= check.least
    if check.most is not None:
        met &= _comparable(cells, check.most) <= check.most
    if check.present is not None:
        met &= cells.notna() == check.present
    return met


def _any_of(cells: pd.Series[str], values: tuple[Scalar, ...]) -> pd.Series[bool]:
    hits = equals(cells, values[0])
    for value in values[1:]:
        hits |= equals(cells, value)
    return hits


def _comparable(cells: pd.Series[str], bound: Scalar) -> Any:
    """Turns cells into numbers beside a number, else leaves them text; missing cells compare as false."""
    import pandas as pd

    return cells if isinstance(bound, str) else pd.to_numeric(cells, errors="coerce")
