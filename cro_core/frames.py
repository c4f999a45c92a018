"""The store as pandas tables, and as a DuckDB connection for free SQL: for notebooks and analysts.

Each table is made by the definitions that decide, so it agrees with ``cro evaluate`` to the last visitor. Its
columns are there with their kinds even without a row. Times are UTC, rates are fractions, NaN and NaT mean "not
known". ``frame.attrs`` (plain values, times as ISO text) says what it holds: ``experiment``, ``as_of`` (the moment
that the numbers are of), ``complete_until`` (visitors first seen before it are all in it, as far as their events
have arrived) and ``lake_version`` (of the sealed days; ``None`` before anything was sealed).

An experiment that has ended is shown as it was at its end. Nothing is ever cut off: a table is whole, or an error.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import sqlalchemy as sa

from cro_core.analytics import completeness, definitions, event_scan, free_sql, reader, segment_definitions
from cro_core.clock import from_micros, iso, zone
from cro_core.domain import EXPOSURE, Experiment
from cro_core.errors import InvalidInput, NotFound
from cro_core.evidence import Decision
from cro_core.home import Home
from cro_core.statistics.proportions import wilson
from cro_core.storage import decisions as decision_store
from cro_core.storage import experiments, schema, seals

if TYPE_CHECKING:
    import pyarrow as pa

    from cro_core.analytics.reader import Reading

TIME = "datetime64[us, UTC]"

EVENTS: Mapping[str, str] = {
    "id": "str", "experiment_id": "str", "variant": "str", "type": "str", "unit": "str", "session": "str",
    "device": "str", "city": "str", "country": "str", "occurred_at": TIME, "received_at": TIME, "value": "float64",
    "asset_id": "str", "occasion": "str", "url": "str", "properties": "object", "epoch": "Int64",
    "propensity": "float64", "bot": "bool", "internal": "bool",
}  # fmt: skip
"""Columns of the table of events, with their kinds; what they mean is in ``docs/notebooks.md``."""

UNITS: Mapping[str, str] = {
    "unit": "str", "variant": "str", "exposed_at": TIME, "epoch": "int64", "device": "str", "city": "str",
    "country": "str", "occasion": "str", "asset_id": "str", "converted": "bool", "converted_at": TIME,
    "score": "float64", "value": "float64", "mature": "bool",
}  # fmt: skip
"""Columns of the table of units, with their kinds; what they mean is in ``docs/notebooks.md``."""

DAILY: Mapping[str, str] = {
    "day": "datetime64[us]", "variant": "str", "units": "int64", "conversions": "int64", "rate": "float64",
    "score_sum": "float64", "value_sum": "float64", "complete": "bool",
}  # fmt: skip
"""Columns of the table of days, with their kinds; what they mean is in ``docs/notebooks.md``."""

SEGMENTS: Mapping[str, str] = {
    "dimension": "str", "segment": "str", "variant": "str", "units": "int64", "conversions": "int64",
    "rate": "float64", "low": "float64", "high": "float64",
}  # fmt: skip
"""Columns of the table of segments, with their kinds; what they mean is in ``docs/notebooks.md``."""

DECISIONS: Mapping[str, str] = {
    "id": "str", "experiment_id": "str", "as_of": TIME, "verdict": "str", "winner": "str", "unproven": "bool",
    "units": "int64", "conversions": "int64", "text": "str",
}  # fmt: skip
"""Columns of the table of decisions, with their kinds; what they mean is in ``docs/notebooks.md``."""


BY = tuple(segment_definitions.FACETS)
"""Dimensions that :func:`segments` tells apart."""


def connect(home: Home, memory: str = event_scan.MEMORY) -> free_sql.AnalystConnection:
    """Opens the whole store as it is now, for free SQL in DuckDB; it only reads, and it holds no lock.

    Args:
        home: whose store; the service may go on meanwhile.
        memory: what it may hold, like ``4GB``; beyond that it uses temporary files.

    Returns:
        A connection with the views ``events``, ``exposures``, those of :data:`free_sql.TABLES`, and ``snapshot``, which
        says what it shows; also as ``connection.snapshot``. Close it when done.

    Raises:
        StoreError: the sealed days cannot be read.
    """
    now = home.clock()
    with home.db.read() as connection:
        return free_sql.opened(connection, now, memory)


def events(home: Home, experiment_id: str) -> pd.DataFrame:
    """One row per stored event of an experiment, oldest first: :data:`EVENTS`.

    These are its exposures, its own goals, and the goals of its visitors that name no experiment.
    Visitors appear as ``unit``, a keyed hash: the same visitor has the same one everywhere in this home.

    Raises:
        NotFound: no such experiment.
    """
    table, now = schema.events, home.clock()
    condition = sa.or_(table.c.experiment_id == experiment_id, table.c.experiment_id.is_(None))
    with home.db.read() as connection:
        experiments.get(connection, experiment_id)
        version = seals.current(connection)
        with event_scan.opened(connection) as session:
            event_scan.view(session, "events", connection, list(EVENTS), condition)
            rows = event_scan.run(session, OF_EXPERIMENT, {"experiment": experiment_id}).to_arrow_table()
    texts = rows["properties"].to_pylist()
    frame = rows.to_pandas(integer_object_nulls=True)
    frame["properties"] = pd.Series([json.loads(text) if text else None for text in texts], dtype="object")
    attrs = {
        "experiment": experiment_id,
        "as_of": iso(now),
        "complete_until": iso(now),
        "lake_version": version,
    }
    return _typed(frame, EVENTS, attrs)


OF_EXPERIMENT = f"""
SELECT *
FROM events
WHERE experiment_id = $experiment
   OR (experiment_id IS NULL AND unit IN (
        SELECT unit FROM events WHERE experiment_id = $experiment AND type = '{EXPOSURE}' AND {definitions.HUMAN}))
ORDER BY occurred_at, id
"""  # noqa: S608  words of this package


def units(
    home: Home, experiment_id: str, as_of: datetime | None = None, *, immature: bool = False
) -> pd.DataFrame:
    """One row per counted visitor of an experiment, in order of first exposure: :data:`UNITS`.

    ``attrs["left_out"]`` says how many exposed visitors do not count, by reason (:data:`definitions.STEPS`): mostly
    those who may still convert.

    Args:
        home: where it is.
        experiment_id: a started experiment.
        as_of: the moment of the look; default: now.
        immature: those who may still convert too, with whether they have so far, and NaN for what else they may do:
            together they decide where shares are fixed.

    Raises:
        NotFound: no such experiment.
        Conflict: it has not started.
    """
    with home.db.read() as connection:
        _, attrs, reading = _read(home, connection, experiment_id, as_of)
        with reading:
            frame: pd.DataFrame = reading.unit_table().to_pandas()
    counts = frame["standing"] == definitions.COUNTED
    frame["mature"] = counts
    if immature:
        early = frame["standing"] == definitions.IMMATURE
        frame.loc[early, ["score", "value"]] = float("nan")
        counts |= early
    left_out = {
        str(name): int(number) for name, number in frame.loc[~counts, "standing"].value_counts().items()
    }
    return _typed(frame[counts].reset_index(drop=True), UNITS, {**attrs, "left_out": left_out})


def daily(home: Home, experiment_id: str, as_of: datetime | None = None) -> pd.DataFrame:
    """One row per day and variant, with the visitors first seen on that day on the site's clocks: :data:`DAILY`.

    Every variant has a row for every day from the first counted visitor's to the last one's. Arguments and errors
    are those of :func:`units`.
    """
    with home.db.read() as connection:
        experiment, attrs, reading = _read(home, connection, experiment_id, as_of)
        with reading:
            rows = reading.quarter_sums()
    site, quarter = zone(experiment.plan.zone), definitions.QUARTER // timedelta(microseconds=1)
    sums_by: dict[tuple[date, str], list[float]] = defaultdict(lambda: [0, 0, 0.0, 0.0])
    for row in rows:
        day = from_micros(row["quarter"] * quarter).astimezone(site).date()
        sums = sums_by[day, row["variant"]]
        for place, name in enumerate(("units", "conversions", "score_sum", "value_sum")):
            sums[place] += row[name]
    last_whole = datetime.fromisoformat(attrs["complete_until"]).astimezone(site).date()
    variants = _variants(experiment, (variant for _, variant in sums_by))
    table = [
        (day, variant, sums[0], sums[1], _rate(sums[1], sums[0]), sums[2], sums[3], day < last_whole)
        for day in _days([day for day, _ in sums_by])
        for variant in variants
        for sums in [sums_by[day, variant]]
    ]
    return _typed(pd.DataFrame(table, columns=list(DAILY)), DAILY, attrs)


def segments(
    home: Home, experiment_id: str, as_of: datetime | None = None, by: Sequence[str] = BY
) -> pd.DataFrame:
    """One row per segment and variant, with its rate and Wilson's interval at 95 %: :data:`SEGMENTS`.

    Each dimension divides all counted visitors: ``(unknown)`` are those of whom it is not known, ``(other)`` those
    of values beyond the :data:`definitions.MOST_SLICES` most frequent. The intervals are for one rate each: with
    many rows some differ by chance.

    Args:
        home: where it is.
        experiment_id: a started experiment.
        as_of: the moment of the look; default: now.
        by: dimensions, some of :data:`BY`.

    Raises:
        NotFound: no such experiment.
        Conflict: it has not started.
        InvalidInput: no such dimension.
    """
    with home.db.read() as connection:
        _, attrs, reading = _read(home, connection, experiment_id, as_of)
        with reading:
            facets = [facet for dimension in by for facet in reading.facets(dimension)]
    counts_by: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for facet in facets:
        sums = counts_by[facet.by[0], facet.values[0], facet.variant]
        sums[0] += facet.units
        sums[1] += facet.conversions
    table = []
    for (dimension, segment, variant), (number, converted) in counts_by.items():
        interval = wilson(number, converted)
        rate = _rate(converted, number)
        table.append((dimension, segment, variant, number, converted, rate, interval.low, interval.high))
    return _typed(pd.DataFrame(table, columns=list(SEGMENTS)), SEGMENTS, attrs)


def decisions(home: Home, experiment_id: str | None = None) -> pd.DataFrame:
    """One row per stored decision, oldest first, of one experiment or of all: :data:`DECISIONS`.

    Raises:
        NotFound: no such experiment.
    """
    now = home.clock()
    with home.db.read() as connection:
        if experiment_id is not None:
            experiments.get(connection, experiment_id)
        stored = decision_store.latest(connection, experiment_id, limit=None)
        version = seals.current(connection)
    table = [_decision(decision) for decision in reversed(stored)]
    attrs = {
        "experiment": experiment_id,
        "as_of": iso(now),
        "complete_until": iso(now),
        "lake_version": version,
    }
    return _typed(pd.DataFrame(table, columns=list(DECISIONS)), DECISIONS, attrs)


def to_arrow(frame: pd.DataFrame) -> pa.Table:
    """Turns a table of this module into Arrow; what ``attrs`` says is in its metadata under ``cro``, as JSON."""
    import pyarrow as pa

    plain = frame
    if "properties" in frame:
        texts = [None if value is None else json.dumps(value) for value in frame["properties"]]
        plain = frame.assign(properties=pd.Series(texts, index=frame.index, dtype="str"))
    table = pa.Table.from_pandas(plain, preserve_index=False)
    return table.replace_schema_metadata(
        {**(table.schema.metadata or {}), b"cro": json.dumps(frame.attrs).encode()}
    )


def to_parquet(frame: pd.DataFrame, file: Path | str) -> Path:
    """Writes a table of this module as a Parquet file, whole or not at all, and returns the file.

    Raises:
        InvalidInput: there is no such folder.
    """
    import pyarrow.parquet as pq

    target = Path(file)
    if target.is_dir() or not target.parent.is_dir():
        raise InvalidInput(f"{target} cannot be written: give a file in a folder that exists", field="file")
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(to_arrow(frame), draft)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def busiest(home: Home) -> str:
    """Finds the id of the experiment with the most events.

    Raises:
        NotFound: no event of any experiment is stored.
    """
    table = schema.events.c
    exposures = sa.and_(table.experiment_id.is_not(None), table.type == EXPOSURE)
    with home.db.read() as connection, event_scan.opened(connection) as session:
        event_scan.view(session, "events", connection, ["experiment_id", "type"], exposures)
        row = event_scan.run(session, BUSIEST).fetchone()
    if row is None:
        raise NotFound("no event of any experiment is stored yet: try `cro generate 3 500`")
    return str(row[0])


BUSIEST = f"""
SELECT experiment_id
FROM events
WHERE experiment_id IS NOT NULL AND type = '{EXPOSURE}'
GROUP BY 1
ORDER BY COUNT(*) DESC, 1
LIMIT 1
"""  # noqa: S608  words of this package


def _read(
    home: Home, connection: sa.Connection, experiment_id: str, as_of: datetime | None
) -> tuple[Experiment, dict[str, Any], Reading]:
    """Reads the experiment, what its tables say of themselves, and its events."""
    now = home.clock()
    experiment = experiments.get(connection, experiment_id)
    moment = experiment.judged_at(now if as_of is None else as_of)
    reading = reader.reading(connection, experiment, moment)
    attrs = {
        "experiment": experiment.id,
        "as_of": iso(moment),
        "complete_until": iso(completeness.complete_until(experiment, moment, now)),
        "lake_version": seals.current(connection),
    }
    return experiment, attrs, reading


def _typed(frame: pd.DataFrame, columns: Mapping[str, str], attrs: Mapping[str, Any]) -> pd.DataFrame:
    """Gives these columns these kinds, whatever is in them; whole numbers become times."""
    typed_columns = {}
    for name, kind in columns.items():
        values = frame[name]
        if kind == TIME and not isinstance(values.dtype, pd.DatetimeTZDtype):
            values = pd.to_datetime(values.astype("Int64"), unit="us", utc=True)
        typed_columns[name] = values.astype(pd.api.types.pandas_dtype(kind))
    typed = pd.DataFrame(typed_columns, columns=list(columns))
    typed.attrs.update(attrs)
    return typed


def _variants(experiment: Experiment, posted: Iterable[str]) -> list[str]:
    """Lists the variants of the plan in its order, then others that were posted."""
    plan_keys = [variant.key for variant in experiment.variants]
    return plan_keys + sorted(set(posted) - set(plan_keys))


def _days(days: Sequence[date]) -> list[date]:
    if not days:
        return []
    first, last = min(days), max(days)
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def _rate(part: float, total: float) -> float:
    return part / total if total else float("nan")


def _decision(decision: Decision) -> tuple[Any, ...]:
    return (
        decision.id,
        decision.experiment_id,
        pd.Timestamp(decision.as_of),
        decision.verdict.value,
        decision.winner,
        decision.unproven,
        sum(cell.units for cell in decision.cells),
        sum(cell.conversions for cell in decision.cells),
        decision.text,
    )
