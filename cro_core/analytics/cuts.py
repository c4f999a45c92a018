"""Slices that a person cut out of every variant alike: whom they leave out, as SQL.

A slice is named as the split check names it: a day or an hour of the site, or a value of a dimension of
:data:`cro_core.analytics.definitions.SEGMENTS`. Its units are found by their first exposure, once for all moments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

from cro_core.analytics.definitions import CUT_OUT, EPOCH_OF_UNIT, OPEN, OTHER, SEGMENTS, TABLES, UNKNOWN
from cro_core.analytics.segment_definitions import clocks
from cro_core.clock import midnight_after, to_micros, zone
from cro_core.domain import Experiment
from cro_core.errors import InvalidInput

CutSlice = tuple[str, str]
"""Dimension and name of a slice, such as ``("day", "2026-03-02")``, ``("hour", "14:00")`` or ``("device", "mobile")``."""

TIMED = ("day", "hour")
"""Dimensions of a slice that the time of the exposure decides."""

LEFT_OUT = "cut_units"
"""Name of the table of the units that are left out."""

LEAVES_OUT: Mapping[str, str] = {
    EPOCH_OF_UNIT: f"{EPOCH_OF_UNIT}\n    LEFT JOIN {LEFT_OUT} x ON x.unit = u.unit",
    f"WHEN {OPEN} ": f"WHEN x.unit IS NOT NULL THEN '{CUT_OUT}'\n                WHEN {OPEN} ",
}
"""What a selection says instead of its words where units are left out: they stand as cut out, mature or not."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The definitions of :mod:`cro_core.analytics.definitions` where some slices are left out, or none."""

    tables: Mapping[str, str] = field(default_factory=lambda: TABLES)
    """Texts of the tables by name, in order."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """What they are run with beside :func:`definitions.parameters`."""

    def selection(self, sql: str) -> str:
        """Writes a selection as it reads here: the text itself where nothing is left out."""
        if LEFT_OUT in self.tables:
            for words, instead in LEAVES_OUT.items():
                sql = sql.replace(words, instead)
        return sql


def cut(experiment: Experiment, without: Sequence[CutSlice]) -> Cut:
    """Writes the definitions of an experiment without some slices.

    Args:
        experiment: a started experiment.
        without: slices; one that nobody is in leaves nobody out.

    Raises:
        InvalidInput: no such dimension, no such day or hour, or :data:`definitions.OTHER`, which is no slice
            but what remains beside the most frequent ones.
    """
    if not without:
        return Cut()
    conditions, parameters = [], {}
    for number, (dimension, name) in enumerate(dict.fromkeys(without)):
        if dimension in TIMED:
            conditions.append(_day(experiment, name) if dimension == "day" else _hour(experiment, name))
        else:
            column = f"COALESCE(NULLIF(c.{_column(dimension, name)}, ''), '{UNKNOWN}')"
            conditions.append(f"{column} = $cut_{number}")
            parameters[f"cut_{number}"] = name
    join = "\nJOIN contexts c ON c.unit = u.unit" if parameters else ""
    condition = "\n   OR ".join(conditions)
    text = f"SELECT u.unit\nFROM met u{join}\nWHERE {condition}"
    return Cut({**TABLES, LEFT_OUT: text}, parameters)


def _column(dimension: str, name: str) -> str:
    if dimension not in SEGMENTS:
        raise InvalidInput(
            f"dimension is {dimension!r}: a slice can be cut out of {', '.join((*TIMED, *SEGMENTS))}",
            field="dimension",
        )
    if name == OTHER:
        raise InvalidInput(
            f"{dimension}={name} is all that is not told apart, at each moment something else: name a value",
            field="name",
        )
    return SEGMENTS[dimension]


def _day(experiment: Experiment, name: str) -> str:
    """The condition that a unit was first exposed on a day of the site."""
    try:
        day = date.fromisoformat(name)
        start, end = (midnight_after(day - timedelta(days=n), zone(experiment.plan.zone)) for n in (1, 0))
    except (ValueError, OverflowError):
        raise InvalidInput(f"day {name!r} is no day: write it like 2026-03-02", field="name") from None
    return _between(to_micros(start), to_micros(end))


def _hour(experiment: Experiment, name: str) -> str:
    """The condition that a unit was first exposed in an hour of the site's day, on any day."""
    if not re.fullmatch(r"([01]\d|2[0-3]):00", name):
        raise InvalidInput(f"hour {name!r} is no hour of a day: write it like 14:00", field="name")
    shifts = clocks(experiment)
    hours = (
        f"({_between(start, end)} AND (u.exposed_at + {shift}) // 3600000000 % 24 = {int(name[:2])})"
        for start, end, shift in zip(shifts["starts_at"], shifts["ends_at"], shifts["shift"], strict=True)
    )
    return f"({' OR '.join(hours)})"


def _between(start: int, end: int) -> str:
    return f"u.exposed_at >= {start} AND u.exposed_at < {end}"
