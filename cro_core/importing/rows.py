"""From a table of text and a mapping to a stream of event payloads, and to what could not become one.

Every row ends in exactly one of three places: it is left out (it belongs to something else), rejected (it
breaks a rule, or lacks what an event needs), or it becomes events: an exposure, goals, or both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from cro_core.domain import EXPOSURE
from cro_core.importing.conditions import equals, holds
from cro_core.importing.mapping import GoalPart, ImportMapping
from cro_core.importing.reading import Source
from cro_core.importing.refusal import did_you_mean, listing, refuse
from cro_core.importing.times import fixed_time, texts, to_utc
from cro_core.ingestion import FUTURE, MAX_PAYLOAD, PERSONAL, Rejection

CONTEXT: Mapping[str, str] = {
    "session": "session_id",
    "device": "device_type",
    "city": "city",
    "country": "country",
    "asset": "asset_id",
    "occasion": "occasion",
    "url": "url",
}
"""Key in ``[columns]`` -> field of an event."""

OLDEST = pd.Timestamp("2000-01-01")
"""Times before it are a wrong unit or a default of somebody's software, as for posted events."""

Hash = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Stream:
    """The events of a table in the order of its rows, ready to be posted."""

    experiment_id: str
    table: pd.DataFrame
    variants: pd.Series[str]
    """Variant key by row; missing where the row names none."""
    events: pd.DataFrame
    """``row`` (from 0, ascending), ``kind``, ``moment`` (UTC, naive) and ``value``."""
    rejected: pd.DataFrame
    """``row`` and ``reason``; a row may stand twice where two of its goals are rejected."""
    left_out: Mapping[str, int]
    """Rows that belong to something else, by reason."""
    mapping: ImportMapping
    units: int
    """Distinct units among the exposures."""
    repeated_exposures: int
    units_in_several_variants: int
    """Among the rows as they came, before any rule."""
    units_crossing: int
    """The same among the exposures that are left."""
    goals: int
    """Goal events."""
    unexposed_goals: int
    """Goal events of units that have no exposure: they can never count."""
    started_at: datetime
    """First exposure, UTC."""
    last_exposure_at: datetime
    ended_at: datetime
    """Last event, UTC."""

    @property
    def rejected_by_reason(self) -> dict[str, int]:
        """What was rejected, most frequent first."""
        return {str(reason): int(n) for reason, n in self.rejected["reason"].value_counts().items()}

    @property
    def first_rejected(self) -> dict[str, int]:
        """The first row of each reason, counted from 1 below the header: where to look."""
        return {
            str(reason): int(row) + 1 for reason, row in self.rejected.groupby("reason")["row"].min().items()
        }

    def batch(self, start: int, stop: int, hash_id: Hash) -> tuple[list[dict[str, Any]], list[Rejection]]:
        """The payloads and the rejections of the rows from ``start`` up to ``stop``.

        The ids are the experiment, the row and the type, so that the same file makes the same events.
        """
        return self._payloads(_between(self.events, start, stop)), self._rejections(
            _between(self.rejected, start, stop), hash_id
        )

    def _payloads(self, events: pd.DataFrame) -> list[dict[str, Any]]:
        rows = events["row"].to_numpy()
        kinds = events["kind"].tolist()
        columns = {
            "id": [
                f"{self.experiment_id}:{row + 1:08d}:{kind}"
                for row, kind in zip(rows.tolist(), kinds, strict=True)
            ],
            "event_type": kinds,
            "user_id": self._users(rows),
            "variant_id": _objects(self.variants.iloc[rows]),
            "timestamp": texts(events["moment"]),
            "value": _objects(events["value"]),
        }
        for name, field in CONTEXT.items():
            column = getattr(self.mapping.columns, name)
            if column is not None:
                columns[field] = _objects(self.table[column].iloc[rows])
        names, fixed = tuple(columns), {"test_id": self.experiment_id}
        return [dict(zip(names, cells, strict=True)) | fixed for cells in zip(*columns.values(), strict=True)]

    def _users(self, rows: Any) -> list[Any]:
        unit = self.mapping.columns.unit
        if unit is not None:
            return _objects(self.table[unit].iloc[rows])
        # A row number says nothing about a person: the same number elsewhere must be another visitor.
        return [f"{self.experiment_id}:row:{row + 1}" for row in rows.tolist()]

    def _rejections(self, rejected: pd.DataFrame, hash_id: Hash) -> list[Rejection]:
        rows, reasons = rejected["row"].tolist(), rejected["reason"].tolist()
        cells = {str(name): _objects(self.table[name].iloc[rows]) for name in self.table.columns}
        private = {
            name
            for name in cells
            if name in self._personal() or any(word in name.lower() for word in PERSONAL)
        }
        found = []
        for place, (row, reason) in enumerate(zip(rows, reasons, strict=True)):
            kept = {name: _veiled(values[place], name in private, hash_id) for name, values in cells.items()}
            if self.mapping.columns.url in kept:
                kept[self.mapping.columns.url] = (kept[self.mapping.columns.url] or "").partition("?")[0]
            payload = json.dumps({"row": row + 1} | kept, ensure_ascii=False)[:MAX_PAYLOAD]
            found.append(Rejection(row + 1, reason, payload, self.experiment_id))
        return found

    def _personal(self) -> set[str | None]:
        return {self.mapping.columns.unit, self.mapping.columns.session}


def prepare(source: Source, mapping: ImportMapping, now: datetime) -> Stream:
    """Places every row of the table.

    Args:
        source: the table as text.
        mapping: what its columns mean.
        now: events later than this are rejected.

    Raises:
        MappingError: the variant column holds values the mapping does not know (or the other way round),
            times that need a zone, or no row becomes an exposure.
    """
    table = source.table
    exposed = (
        holds(table, mapping.exposure.when) if mapping.exposure else pd.Series(data=True, index=table.index)
    )
    goals = [holds(table, goal.when) for goal in mapping.goals]
    why = pd.Series(None, index=table.index, dtype="object")
    if mapping.only is not None:
        _mark(why, ~holds(table, mapping.only), "not asked for by [only]")
    _mark(why, ~_any([exposed, *goals]), "neither an exposure nor a goal")
    variants = _variants(table, mapping, source.name, why)
    left_out = {str(reason): int(n) for reason, n in why.value_counts().items()}
    ours = why.isna()
    moments = _moments(table, mapping)
    reasons = _reject(table, mapping, variants, moments, exposed, now).where(ours)
    good = ours & reasons.isna()
    met = good & exposed
    known = mapping.columns.covariate  # of the visitor, before the exposure
    before = None if known is None else pd.to_numeric(table[known][met], errors="coerce")
    parts = [_events(EXPOSURE, moments[met], before)]
    rejected = [pd.DataFrame({"row": reasons.dropna().index, "reason": reasons.dropna().to_numpy()})]
    for n, (goal, met) in enumerate(zip(mapping.goals, goals, strict=True), 1):
        events, refused = _goal_events(table[good & met], goal, f"goals[{n}]", moments, mapping, now)
        parts.append(events)
        rejected.append(refused)
    exposures = parts[0]
    if exposures.empty:
        common = reasons.value_counts()
        got = (
            f"none; most rows are rejected because {common.index[0]}"
            if len(common)
            else f"none; left out are {left_out}"
        )
        raise refuse(
            mapping.source,
            "exposures",
            got,
            f"at least one in {source.name}",
            "correct the conditions or the columns",
        )
    return Stream(
        experiment_id=mapping.experiment.id,
        table=table,
        variants=variants,
        events=_in_row_order(parts),
        rejected=_in_row_order(rejected),
        left_out=left_out,
        mapping=mapping,
        **_unit_counts(table, mapping, variants, ours & exposed, parts),
        started_at=_aware(exposures["moment"].min()),
        last_exposure_at=_aware(exposures["moment"].max()),
        ended_at=_aware(max(part["moment"].max() for part in parts if len(part))),
    )


def _variants(table: pd.DataFrame, mapping: ImportMapping, file: str, why: pd.Series[Any]) -> pd.Series[str]:
    """The variant key of every row; rows of ignored variants are marked in ``why``.

    Raises:
        MappingError: a value that no variant takes, or a variant that no row has.
    """
    cells = table[mapping.columns.variant]
    keys = pd.Series(None, index=table.index, dtype="str")
    for value in mapping.experiment.ignored_variants:
        _mark(why, equals(cells, value), "of an ignored variant")
    ours = why.isna()
    there = sorted(cells[ours].dropna().unique(), key=str)
    for n, variant in enumerate(mapping.variants, 1):
        mine = _any([equals(cells, value) for value in variant.written])
        keys = keys.mask(mine, variant.key)
        if not (mine & ours).any():
            got, wanted = (
                listing(map(repr, variant.written)),
                f"a value of column {mapping.columns.variant!r} of {file} ({listing(there)})",
            )
            fix = did_you_mean(str(variant.written[0]), there) or "correct it, or remove the variant"
            raise refuse(mapping.source, f"variants[{n}].values", got, wanted, fix)
    unknown = cells[ours & keys.isna()].dropna()
    if len(unknown):
        got = f"{len(unknown):,} rows of {file} with {listing(map(repr, unknown.unique()))}"
        raise refuse(
            mapping.source,
            "variants.values",
            got,
            "every value to belong to a variant",
            "add it to one, or to experiment.ignored_variants",
        )
    return keys


def _moments(table: pd.DataFrame, mapping: ImportMapping) -> pd.Series[pd.Timestamp]:
    if mapping.columns.time is None:
        return pd.Series(fixed_time(mapping), index=table.index, dtype="datetime64[us]")
    return to_utc(_one_text(table, mapping.columns.time), mapping, "columns.time")


def _one_text(table: pd.DataFrame, columns: list[str]) -> pd.Series[str]:
    """Date and hour in two columns, for example, as one text with a space between."""
    text: pd.Series[str] = table[columns[0]]
    for column in columns[1:]:
        text = text + " " + table[column]
    return text


def _reject(
    table: pd.DataFrame,
    mapping: ImportMapping,
    variants: pd.Series[str],
    moments: pd.Series[pd.Timestamp],
    exposed: pd.Series[bool],
    now: datetime,
) -> pd.Series[Any]:
    """Why each row cannot be used, missing where it can; the first reason that applies."""
    why = pd.Series(None, index=table.index, dtype="object")
    columns = mapping.columns
    if columns.unit is not None:
        _mark(why, table[columns.unit].isna(), f"the unit (column {columns.unit}) is empty")
    _mark(why, exposed & variants.isna(), f"the variant (column {columns.variant}) is empty")
    _mark_times(why, moments, f"the time (column {' + '.join(columns.time or ['fixed'])})", now)
    if columns.covariate is not None:
        cells = table[columns.covariate]
        usable = np.isfinite(pd.to_numeric(cells, errors="coerce")) | cells.isna()
        _mark(why, exposed & ~usable, f"the covariate (column {columns.covariate}) is not a number")
    for rule in mapping.valid:
        _mark(why, ~holds(table, rule.any), f"breaks the rule: {rule.name}")
    return why


def _goal_events(
    rows: pd.DataFrame,
    goal: GoalPart,
    key: str,
    moments: pd.Series[pd.Timestamp],
    mapping: ImportMapping,
    now: datetime,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The events of one goal, and the rows whose goal has no usable time or amount."""
    why = pd.Series(None, index=rows.index, dtype="object")
    own = moments.loc[rows.index]
    if goal.time is not None:
        own = to_utc(_one_text(rows, goal.time), mapping, f"{key}.time")
        _mark_times(why, own, f"the time of goal {goal.name} (column {' + '.join(goal.time)})", now)
    amounts, column = None, goal.value or mapping.columns.value
    if column is not None:
        amounts = pd.to_numeric(rows[column], errors="coerce")
        usable = np.isfinite(amounts) | rows[column].isna()
        _mark(why, ~usable, f"the amount of goal {goal.name} (column {column}) is not a number")
    good = why.isna()
    events = _events(goal.name, own[good], None if amounts is None else amounts[good])
    refused = why.dropna()
    return events, pd.DataFrame({"row": refused.index, "reason": refused.to_numpy()})


def _events(kind: str, moments: pd.Series[pd.Timestamp], values: pd.Series[float] | None) -> pd.DataFrame:
    amounts = np.full(len(moments), np.nan) if values is None else values.to_numpy(dtype=float)
    return pd.DataFrame({"row": moments.index, "kind": kind, "moment": moments.to_numpy(), "value": amounts})


def _unit_counts(
    table: pd.DataFrame,
    mapping: ImportMapping,
    variants: pd.Series[str],
    raw: pd.Series[bool],
    parts: list[pd.DataFrame],
) -> dict[str, int]:
    """What the report tells of units; ``raw`` are the exposures before any rule, ``parts`` the events after."""
    exposed, goals = (
        parts[0]["row"].to_numpy(),
        np.concatenate([part["row"].to_numpy() for part in parts[1:]]),
    )
    # Without a unit column every row is a unit; numbers are compared faster than texts.
    column = mapping.columns.unit
    units = np.arange(len(table)) if column is None else pd.factorize(table[column])[0]
    arms = pd.factorize(variants)[0]
    before = raw.to_numpy() & (units >= 0) & (arms >= 0)
    met = np.unique(units[exposed])
    return {
        "units": len(met),
        "repeated_exposures": len(exposed) - len(met),
        "units_in_several_variants": _in_several(units[before], arms[before]),
        "units_crossing": _in_several(units[exposed], arms[exposed]),
        "goals": len(goals),
        "unexposed_goals": int((~np.isin(units[goals], met)).sum()),
    }


def _in_several(units: Any, arms: Any) -> int:
    pairs = pd.DataFrame({"unit": units, "arm": arms}).drop_duplicates()
    return int(pairs["unit"][pairs["unit"].duplicated()].nunique())


def _mark(why: pd.Series[Any], where: pd.Series[bool], reason: str) -> None:
    """Gives ``reason`` to the rows that have none yet."""
    why[where & why.isna()] = reason


def _mark_times(why: pd.Series[Any], moments: pd.Series[pd.Timestamp], what: str, now: datetime) -> None:
    _mark(why, moments.isna(), f"{what} is empty or cannot be read")
    _mark(why, moments < OLDEST, f"{what} is before the year 2000")
    _mark(
        why,
        moments > pd.Timestamp(now).tz_convert(UTC).tz_localize(None) + FUTURE,
        f"{what} is in the future",
    )


def _any(masks: list[pd.Series[bool]]) -> pd.Series[bool]:
    found = masks[0]
    for mask in masks[1:]:
        found = found | mask
    return found


def _in_row_order(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Exposures before goals within a row."""
    filled = [part for part in parts if len(part)] or parts[:1]
    return pd.concat(filled, ignore_index=True).sort_values("row", kind="stable", ignore_index=True)


def _between(frame: pd.DataFrame, start: int, stop: int) -> pd.DataFrame:
    first, last = np.searchsorted(frame["row"].to_numpy(), [start, stop])
    return frame.iloc[first:last]


def _objects(cells: pd.Series[Any]) -> list[Any]:
    """Python values, ``None`` for missing ones."""
    return cells.astype("object").where(cells.notna(), None).tolist()


def _veiled(value: str | None, private: bool, hash_id: Hash) -> str | None:
    return hash_id(value) if private and value else value


def _aware(moment: pd.Timestamp) -> datetime:
    return moment.to_pydatetime().replace(tzinfo=UTC)
