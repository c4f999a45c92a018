"""Reads times as people write them, a column at a time, as UTC."""

from __future__ import annotations

from datetime import UTC

import numpy as np
import pandas as pd

from cro_core.clock import zone
from cro_core.errors import MappingError
from cro_core.importing.mapping import UNITS_SINCE_1970, AnyMapping, ImportMapping
from cro_core.importing.refusal import refuse

ZONED = r"\d[Tt ]\d{2}.*(?:[Zz]|[+-]\d{2}(?::?\d{2})?)$"
"""Pattern of an ISO time that ends in a zone: the date's own hyphens are no zone."""

LIMIT = 2.5e17
"""Most microseconds since 1970 that are a time: about the year 9900, where datetimes end."""


def to_utc(text: pd.Series[str], mapping: AnyMapping, key: str) -> pd.Series[pd.Timestamp]:
    """Reads times as UTC, naive ``datetime64[us]``; NaT where a cell is empty or cannot be read.

    A time that happens twice when clocks go back is its first occurrence; one that is skipped when they go
    forward is the moment of the change.

    Args:
        text: the cells.
        mapping: its ``[time]`` says how they are written.
        key: of the mapping, for messages.

    Raises:
        MappingError: times have no zone and the mapping names none.
    """
    layout = mapping.time.format
    if layout in UNITS_SINCE_1970:
        moments, naive = (
            _since_1970(text, UNITS_SINCE_1970.index(layout)),
            pd.Series(data=False, index=text.index),
        )
    else:
        moments = pd.to_datetime(text, format=layout or "ISO8601", errors="coerce", utc=True).dt.tz_localize(
            None
        )
        naive = (
            ~text.str.contains(ZONED, na=False)
            if layout is None
            else pd.Series("%z" not in layout, index=text.index)
        )
    naive &= moments.notna()
    if naive.any():
        moments = moments.mask(naive, _localised(moments[naive], text[naive], mapping, key))
    return moments.astype("datetime64[us]")


def fixed_time(mapping: ImportMapping) -> pd.Timestamp:
    """Reads the one time of a table without a column of times, in UTC, naive.

    Raises:
        MappingError: it cannot be read, or has no zone.
    """
    plain = mapping.model_copy(update={"time": mapping.time.model_copy(update={"format": None})})
    moment: pd.Timestamp = to_utc(pd.Series([mapping.time.fixed], dtype="str"), plain, "time.fixed").iloc[0]
    if pd.isna(moment):
        raise unreadable(str(mapping.time.fixed), plain, "time.fixed")
    return moment


def unreadable(cell: str, mapping: AnyMapping, key: str) -> MappingError:
    """Makes the error for a column of times of which none can be read, ``cell`` being one."""
    layout = mapping.time.format
    wanted = layout or "ISO 8601 times such as 2026-03-01 09:30:00"
    fix = 'set time.format, e.g. "%d/%m/%Y %H:%M" or "seconds"' if layout is None else "correct time.format"
    return refuse(mapping.source, key, repr(cell), wanted, fix)


def texts(moments: pd.Series[pd.Timestamp]) -> list[str]:
    """Writes times as ISO 8601 with a Z, as the ingestion reads them."""
    return [f"{moment}Z" for moment in np.datetime_as_string(moments.to_numpy(), unit="us")]


def _since_1970(text: pd.Series[str], power: int) -> pd.Series[pd.Timestamp]:
    micros = (pd.to_numeric(text, errors="coerce") * 1000 ** (2 - power)).round()
    usable = micros.abs() < LIMIT
    return pd.Series(micros.where(usable, 0).astype("int64").astype("datetime64[us]")).where(usable)


def _localised(
    moments: pd.Series[pd.Timestamp], text: pd.Series[str], mapping: AnyMapping, key: str
) -> pd.Series[pd.Timestamp]:
    if mapping.time.zone is None:
        fix = 'set zone in [time], e.g. "Europe/Berlin", or "UTC" where they are UTC'
        raise refuse(
            mapping.source,
            "time.zone",
            f"nothing, and {key} holds {text.iloc[0]!r} without a zone",
            "the zone of these times",
            fix,
        )
    first = np.ones(len(moments), dtype=bool)
    local = moments.dt.tz_localize(zone(mapping.time.zone), ambiguous=first, nonexistent="shift_forward")
    return local.dt.tz_convert(UTC).dt.tz_localize(None)
