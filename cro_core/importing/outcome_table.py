"""A table of offline outcomes, such as bookings, read row by row; what names a visitor is hashed at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cro_core.importing.files import Source
from cro_core.importing.mapping import OutcomeMapping
from cro_core.importing.rows import one_text
from cro_core.importing.times import texts, to_utc

BATCH = 10_000
"""Rows in one transaction."""


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """One outcome as the table tells it."""

    number: int
    """From 1 below the header."""
    id: str
    """Id of the outcome's event: the same outcome has the same, whichever file brings it."""
    who: str | None
    """Lead as written, or hashed visitor."""
    time: str | None
    value: float | None
    problem: str | None
    """Why it cannot be an outcome whoever it belongs to."""
    payload: str
    """What the quarantine keeps."""


@dataclass(frozen=True, slots=True)
class OutcomeBatch:
    """Some rows of the table, read and hashed."""

    goal: str
    by_lead: bool
    """Whether the rows name leads; else they name visitors."""
    hash_id: Callable[[str], str]
    rows: list[OutcomeRow]


def batches(source: Source, mapping: OutcomeMapping, hash_id: Callable[[str], str]) -> Iterator[OutcomeBatch]:
    """The table of an opened source in pieces of at most :data:`BATCH` rows.

    Raises:
        MappingError: see :meth:`cro_core.importing.files.Source.chunks`.
    """
    by_lead = mapping.columns.lead is not None
    for table in source.chunks():
        for start in range(0, len(table), BATCH):
            rows = list(_rows(table.iloc[start : start + BATCH], mapping, hash_id))
            yield OutcomeBatch(mapping.goal, by_lead, hash_id, rows)


def _rows(
    table: pd.DataFrame, mapping: OutcomeMapping, hash_id: Callable[[str], str]
) -> Iterator[OutcomeRow]:
    columns = mapping.columns
    kind = "lead" if columns.lead else "visitor"
    moments = to_utc(one_text(table, columns.time), mapping, "columns.time")
    times = [None if missing else text for missing, text in zip(moments.isna(), texts(moments), strict=True)]
    amounts = _column(table, columns.value)
    numbers = pd.to_numeric(amounts, errors="coerce").astype(float)
    names = table[columns.lead or columns.visitor]
    cells = zip(table.index, _column(table, columns.id), names, times, amounts, numbers, strict=True)
    for index, own_id, name, time, amount, value in cells:
        own, who, text = _text(own_id), _text(name), _text(amount)
        problem = _problem(mapping, own, who, time, text, value)
        key = own if own is not None else f"{who}\n{time}\n{text}"
        event_id = "outcome:" + hash_id("\n".join((mapping.goal, key)))
        hashed = None if who is None else hash_id(who)
        payload = {
            "outcome": event_id,
            "goal": mapping.goal,
            "timestamp": time,
            "value": text if problem else None,
            kind: hashed,
        }
        yield OutcomeRow(
            int(index) + 1,
            event_id,
            who if columns.lead else hashed,
            time,
            None if text is None else float(value),
            problem,
            json.dumps(payload),
        )


def _problem(
    mapping: OutcomeMapping,
    own: str | None,
    who: str | None,
    time: str | None,
    text: str | None,
    value: float,
) -> str | None:
    columns = mapping.columns
    if who is None:
        kind = "lead" if columns.lead else "visitor"
        return f"the {kind} (column {columns.lead or columns.visitor}) is empty"
    if columns.id is not None and own is None:
        return f"the id (column {columns.id}) is empty"
    if time is None:
        return f"the time (column {' + '.join(columns.time)}) is empty or cannot be read"
    if text is not None and not np.isfinite(value):
        return f"the amount (column {columns.value}) is not a number"
    return None


def _column(table: pd.DataFrame, name: str | None) -> pd.Series[Any]:
    """A column as written; one of missing values where the mapping names none."""
    return pd.Series(None, index=table.index, dtype="str") if name is None else table[name]


def _text(cell: Any) -> str | None:
    return None if pd.isna(cell) else str(cell).strip() or None
