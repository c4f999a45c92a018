"""Turns the rows of an imported table into events, as its mapping says, and tells which rows could not become one.

Every row ends in exactly one of three places: it is left out (it belongs to something else), rejected (it
breaks a rule, or lacks what an event needs), or it becomes events: an exposure, goals, or both.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pandas as pd

from cro_core.domain import EXPOSURE
from cro_core.importing.conditions import equals, holds
from cro_core.importing.files import Source
from cro_core.importing.mapping import GoalPart, ImportMapping
from cro_core.importing.refusal import did_you_mean, listing, refuse
from cro_core.importing.times import fixed_time, texts, to_utc, unreadable
from cro_core.ingest.cleaning import FUTURE, MAX_PAYLOAD, PERSONAL, Rejection
from cro_core.ingest.cleaning_by_column import Columns

CONTEXT: Mapping[str, str] = {
    "session": "session_id",
    "device": "device_type",
    "city": "city",
    "country": "country",
    "asset": "asset_id",
    "occasion": "occasion",
    "url": "url",
}
"""Key in a mapping's ``[columns]`` -> the field of an event that it fills."""

OLDEST = pd.Timestamp("2000-01-01")
"""Earliest time that is believed: what is older has a wrong unit or is a default of somebody's software."""

KEPT = 100_000_000
"""Most bytes of placed rows that are kept for the storing; what is larger is read a second time instead."""

Hash = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Placed:
    """A chunk of a file's rows, with the events that they become and the rejections."""

    table: pd.DataFrame
    """The rows as text; its index numbers them from 0 through the whole file."""
    variants: pd.Series[str]
    """Variant key by row; missing where the row names none."""
    events: pd.DataFrame
    """Table of the events: ``row`` (ascending), ``kind``, ``moment`` (UTC, naive) and ``value``."""
    rejected: pd.DataFrame
    """Table of ``row`` and ``reason``; a row may stand twice where two of its goals are rejected."""
    mapping: ImportMapping

    @property
    def start(self) -> int:
        """Number of the first row of the chunk."""
        return int(self.table.index[0])

    @property
    def stop(self) -> int:
        """Number of the row after the chunk's last."""
        return self.start + len(self.table)

    def batch(self, start: int, stop: int, hash_id: Hash) -> tuple[Columns, list[Rejection]]:
        """Makes events, a column for each field, and rejections of the rows from ``start`` up to ``stop``.

        The ids are the experiment, the row and the type, so that the same file makes the same events.
        """
        return self._columns(_between(self.events, start, stop)), self._rejections(
            _between(self.rejected, start, stop), hash_id
        )

    def _columns(self, events: pd.DataFrame) -> Columns:
        rows, kinds = events["row"].to_numpy(), events["kind"].tolist()
        places, experiment_id = rows - self.start, self.mapping.experiment.id
        columns = {
            "id": [
                f"{experiment_id}:{row + 1:08d}:{kind}"
                for row, kind in zip(rows.tolist(), kinds, strict=True)
            ],
            "event_type": kinds,
            "user_id": self._users(rows),
            "experiment_id": [experiment_id] * len(rows),
            "variant": _objects(self.variants.iloc[places]),
            "timestamp": texts(events["moment"]),
            "value": _objects(events["value"]),
        }
        for name, field_name in CONTEXT.items():
            column = getattr(self.mapping.columns, name)
            if column is not None:
                columns[field_name] = _objects(self.table[column].iloc[places])
        return columns

    def _users(self, rows: Any) -> list[Any]:
        unit = self.mapping.columns.unit
        if unit is not None:
            return _objects(self.table[unit].iloc[rows - self.start])
        # A row number says nothing about a person: the same number elsewhere must be another visitor.
        return [f"{self.mapping.experiment.id}:row:{row + 1}" for row in rows.tolist()]

    def _rejections(self, rejected: pd.DataFrame, hash_id: Hash) -> list[Rejection]:
        rows, reasons = rejected["row"].to_numpy(), rejected["reason"].tolist()
        cells = {str(name): _objects(self.table[name].iloc[rows - self.start]) for name in self.table.columns}
        private = {
            name
            for name in cells
            if name in self._personal() or any(word in name.lower() for word in PERSONAL)
        }
        rejections = []
        for place, (row, reason) in enumerate(zip(rows.tolist(), reasons, strict=True)):
            payload_cells = {
                name: _veiled(values[place], name in private, hash_id) for name, values in cells.items()
            }
            if self.mapping.columns.url in payload_cells:
                payload_cells[self.mapping.columns.url] = (
                    payload_cells[self.mapping.columns.url] or ""
                ).partition("?")[0]
            payload = json.dumps({"row": row + 1} | payload_cells, ensure_ascii=False)[:MAX_PAYLOAD]
            rejections.append(Rejection(row + 1, reason, payload, self.mapping.experiment.id))
        return rejections

    def _personal(self) -> set[str | None]:
        return {self.mapping.columns.unit, self.mapping.columns.session}


@dataclass(frozen=True, slots=True)
class FileEvents:
    """The events of a whole file in the order of its rows, and what there is to tell of them."""

    source: Source
    mapping: ImportMapping
    now: datetime
    rows: int
    left_out: Mapping[str, int]
    """Rows that belong to something else, by reason."""
    rejected_by_reason: Mapping[str, int]
    """Rejected rows by reason, most frequent first."""
    first_rejected: Mapping[str, int]
    """The first rejected row by reason, counted from 1 below the header: where to look."""
    units: int
    """Distinct units among the exposures."""
    repeated_exposures: int
    units_in_several_variants: int
    """Units with rows of more than one variant, among the rows as they came, before any rule."""
    units_crossing: int
    """Units exposed to more than one variant, among the exposures that the rules left."""
    goals: int
    """How many goal events there are."""
    unexposed_goals: int
    """Goal events of units that have no exposure: they can never count."""
    started_at: datetime
    """Time of the first exposure, UTC."""
    last_exposure_at: datetime
    """Time of the last exposure, UTC."""
    ended_at: datetime
    """Time of the last event, UTC."""
    kept: tuple[Placed, ...] | None
    """Every row of the file; ``None`` where they are too many, and :meth:`placed` reads them again."""

    @property
    def experiment_id(self) -> str:
        """Id of the experiment that the mapping makes."""
        return self.mapping.experiment.id

    def placed(self) -> Iterator[Placed]:
        """Yields every row, in order, chunk by chunk."""
        if self.kept is not None:
            yield from self.kept
        else:
            for table in self.source.chunks():
                yield _place(table, self.mapping, self.now, _Survey())


def prepare(
    source: Source, mapping: ImportMapping, now: datetime, progress: Callable[[int], object] | None = None
) -> FileEvents:
    """Decides what becomes of every row of a file.

    Args:
        source: the file.
        mapping: what its columns mean.
        now: events later than this are rejected.
        progress: called with the number of rows of each chunk, for a progress bar.

    Raises:
        MappingError: the file cannot be read, the variant column holds values the mapping does not know (or
            the other way round), times need a zone, or no row becomes an exposure.
    """
    survey, chunks = _Survey(), list[Placed]()
    for table in source.chunks():
        placed = _place(table, mapping, now, survey)
        if survey.size <= KEPT:
            chunks.append(placed)
        else:
            chunks.clear()
        if progress is not None:
            progress(len(table))
    survey.refuse_what_fits_no_row(mapping, source.name)
    moments = survey.moments
    return FileEvents(
        source=source,
        mapping=mapping,
        now=now,
        rows=survey.rows,
        left_out=dict(survey.left_out.most_common()),
        rejected_by_reason=dict(survey.rejected.most_common()),
        first_rejected=survey.first_rejected,
        **survey.unit_counts(),
        started_at=_aware(min(moments["exposure"])),
        last_exposure_at=_aware(max(moments["exposure"])),
        ended_at=_aware(max(moment for span in moments.values() for moment in span)),
        kept=tuple(chunks) if survey.size <= KEPT else None,
    )


@dataclass(slots=True)
class _Survey:
    """What the report tells of a whole file, gathered chunk by chunk."""

    rows: int = 0
    size: int = 0
    """Bytes of the rows in memory."""
    left_out: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    first_rejected: dict[str, int] = field(default_factory=dict)
    spellings: Counter[str] = field(default_factory=Counter)
    """Values of the variant column in rows that are not left out, with how often."""
    variants: set[str] = field(default_factory=set)
    """Variants that some row has."""
    times: dict[str, str | None] = field(default_factory=dict)
    """Key of the mapping -> a cell that is no time, ``None`` once one was."""
    moments: dict[Literal["exposure", "goal"], list[pd.Timestamp]] = field(
        default_factory=lambda: {"exposure": [], "goal": []}
    )
    """Earliest and latest time of each chunk, by kind of event."""
    raw: list[Any] = field(default_factory=list)
    """Exposures before any rule, as units beside the numbers of their variants."""
    exposed: list[Any] = field(default_factory=list)
    """Exposures that the rules left, as units beside the numbers of their variants."""
    achieved: list[Any] = field(default_factory=list)
    """Goal events that the rules left, as units beside the numbers of their variants."""

    def add_time(self, key: str, text: pd.Series[str], moments: pd.Series[pd.Timestamp]) -> None:
        """Remembers whether any cell of a time column can be read."""
        filled = text.notna()
        if (moments.notna() & filled).any():
            self.times[key] = None
        elif filled.any():
            self.times.setdefault(key, str(text[filled].iloc[0]))

    def add(self, placed: Placed, left_out: pd.Series[Any], exposed: pd.Series[bool]) -> None:
        """Counts a chunk; rows with a reason in ``left_out`` are; ``exposed`` are its exposures before any rule."""
        self.rows += len(placed.table)
        self.size += int(
            placed.table.memory_usage(deep=True).sum() + placed.events.memory_usage(deep=True).sum()
        )
        self.left_out.update(_counts(left_out))
        self.rejected.update(_counts(placed.rejected["reason"]))
        first = placed.rejected.groupby("reason")["row"].min()
        self.first_rejected = {
            str(reason): int(row) + 1 for reason, row in first.items()
        } | self.first_rejected
        self.spellings.update(_counts(placed.table[placed.mapping.columns.variant][left_out.isna()]))
        self.variants |= set(placed.variants[left_out.isna()].dropna().unique())
        exposure = (placed.events["kind"] == EXPOSURE).to_numpy()
        rows = placed.events["row"].to_numpy() - placed.start
        for kind, of_kind in (("exposure", exposure), ("goal", ~exposure)):
            if of_kind.any():
                times = placed.events["moment"][of_kind]
                self.moments[kind] += [times.min(), times.max()]  # type: ignore[index]
        # Numbers are compared faster than texts, and take less room.
        column = placed.mapping.columns.unit
        units = (
            placed.table.index.to_numpy(dtype="uint64")
            if column is None
            else pd.util.hash_array(placed.table[column].to_numpy(dtype="object"), categorize=False)
        )
        has_unit = np.ones(len(units), bool) if column is None else placed.table[column].notna().to_numpy()
        keys = {variant.key: number for number, variant in enumerate(placed.mapping.variants)}
        variant_numbers = placed.variants.map(keys).fillna(-1).to_numpy(dtype="int8")
        usable = exposed.to_numpy() & has_unit & (variant_numbers >= 0)
        self.raw.append((units[usable], variant_numbers[usable]))
        self.exposed.append((units[rows[exposure]], variant_numbers[rows[exposure]]))
        self.achieved.append((units[rows[~exposure]], variant_numbers[rows[~exposure]]))

    def unit_counts(self) -> dict[str, int]:
        """Counts units and repeated exposures for the report."""
        raw, exposed, achieved = (
            [np.concatenate(column) for column in zip(*pairs, strict=True)]
            for pairs in (self.raw, self.exposed, self.achieved)
        )
        met = np.unique(exposed[0])
        return {
            "units": len(met),
            "repeated_exposures": len(exposed[0]) - len(met),
            "units_in_several_variants": _in_several(*raw),
            "units_crossing": _in_several(*exposed),
            "goals": len(achieved[0]),
            "unexposed_goals": int((~np.isin(achieved[0], met)).sum()),
        }

    def refuse_what_fits_no_row(self, mapping: ImportMapping, file: str) -> None:
        """Raises where the whole file does not fit the mapping.

        Raises:
            MappingError: a value that no variant takes, a variant that no row has, a column of times of which
                none can be read, or no exposure at all.
        """
        spellings = sorted(self.spellings)
        for number, variant in enumerate(mapping.variants, 1):
            if variant.key not in self.variants:
                got, wanted = (
                    listing(map(repr, variant.spellings)),
                    f"a value of column {mapping.columns.variant!r} of {file} ({listing(spellings)})",
                )
                fix = (
                    did_you_mean(str(variant.spellings[0]), spellings) or "correct it, or remove the variant"
                )
                raise refuse(mapping.source, f"variants[{number}].values", got, wanted, fix)
        cells = pd.Series(spellings, dtype="str")
        unknown = cells[_variant_keys(cells, mapping).isna()].tolist()
        if unknown:
            got = f"{sum(self.spellings[value] for value in unknown):,} rows of {file} with {listing(map(repr, unknown))}"
            raise refuse(
                mapping.source,
                "variants.values",
                got,
                "every value to belong to a variant",
                "add it to one, or to experiment.ignored_variants",
            )
        for key, cell in self.times.items():
            if cell is not None:
                raise unreadable(cell, mapping, key)
        if not self.moments["exposure"]:
            common = self.rejected.most_common(1)
            got = (
                f"none; most rows are rejected because {common[0][0]}"
                if common
                else f"none; left out are {dict(self.left_out)}"
            )
            raise refuse(
                mapping.source,
                "exposures",
                got,
                f"at least one in {file}",
                "correct the conditions or the columns",
            )


def _place(table: pd.DataFrame, mapping: ImportMapping, now: datetime, survey: _Survey) -> Placed:
    """Decides what becomes of some rows, and adds them to the survey."""
    exposed = (
        holds(table, mapping.exposure.when) if mapping.exposure else pd.Series(data=True, index=table.index)
    )
    goals = [holds(table, goal.when) for goal in mapping.goals]
    left_out = pd.Series(None, index=table.index, dtype="object")
    if mapping.only is not None:
        _mark(left_out, ~holds(table, mapping.only), "not asked for by [only]")
    _mark(left_out, ~_any([exposed, *goals]), "neither an exposure nor a goal")
    cells = table[mapping.columns.variant]
    for value in mapping.experiment.ignored_variants:
        _mark(left_out, equals(cells, value), "of an ignored variant")
    variants = _variant_keys(cells, mapping)
    belongs = left_out.isna()
    moments = _moments(table, mapping, survey)
    reasons = _reject(table, mapping, variants, moments, exposed, now).where(belongs)
    good = belongs & reasons.isna()
    exposing = good & exposed
    covariate = mapping.columns.covariate  # of the visitor, before the exposure
    values = None if covariate is None else pd.to_numeric(table[covariate][exposing], errors="coerce")
    parts = [_events(EXPOSURE, moments[exposing], values)]
    rejected = [pd.DataFrame({"row": reasons.dropna().index, "reason": reasons.dropna().to_numpy()})]
    for number, (goal, reaching) in enumerate(zip(mapping.goals, goals, strict=True), 1):
        events, unusable = _goal_events(
            table[good & reaching], goal, f"goals[{number}]", moments, mapping, now, survey
        )
        parts.append(events)
        rejected.append(unusable)
    placed = Placed(table, variants, _in_row_order(parts), _in_row_order(rejected), mapping)
    survey.add(placed, left_out, belongs & exposed)
    return placed


def _variant_keys(cells: pd.Series[str], mapping: ImportMapping) -> pd.Series[str]:
    """The key of each cell's variant, missing where no variant takes it."""
    keys = pd.Series(None, index=cells.index, dtype="str")
    for variant in mapping.variants:
        keys = keys.mask(_any([equals(cells, value) for value in variant.spellings]), variant.key)
    return keys


def _moments(table: pd.DataFrame, mapping: ImportMapping, survey: _Survey) -> pd.Series[pd.Timestamp]:
    if mapping.columns.time is None:
        return pd.Series(fixed_time(mapping), index=table.index, dtype="datetime64[us]")
    return _times(one_text(table, mapping.columns.time), mapping, "columns.time", survey)


def _times(
    text: pd.Series[str], mapping: ImportMapping, key: str, survey: _Survey
) -> pd.Series[pd.Timestamp]:
    moments = to_utc(text, mapping, key)
    survey.add_time(key, text, moments)
    return moments


def one_text(table: pd.DataFrame, columns: list[str]) -> pd.Series[str]:
    """Joins columns, such as a date's and an hour's, to one text with a space between."""
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
    survey: _Survey,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The events of one goal, and the rows whose goal has no usable time or amount."""
    why = pd.Series(None, index=rows.index, dtype="object")
    own = moments.loc[rows.index]
    if goal.time is not None:
        own = _times(one_text(rows, goal.time), mapping, f"{key}.time", survey)
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


def _in_several(units: Any, variants: Any) -> int:
    """Counts units that stand beside more than one variant."""
    if not len(units):
        return 0
    order = np.argsort(units)
    units, variants = units[order], variants[order]
    starts = np.flatnonzero(np.r_[True, units[1:] != units[:-1]])
    return int((np.minimum.reduceat(variants, starts) != np.maximum.reduceat(variants, starts)).sum())


def _counts(cells: pd.Series[Any]) -> dict[str, int]:
    return {str(value): int(count) for value, count in cells.value_counts().items()}


def _mark(why: pd.Series[Any], where: pd.Series[bool], reason: str) -> None:
    """Gives ``reason`` to the rows that have none yet."""
    why[where & why.isna()] = reason


def _mark_times(why: pd.Series[Any], moments: pd.Series[pd.Timestamp], subject: str, now: datetime) -> None:
    _mark(why, moments.isna(), f"{subject} is empty or cannot be read")
    _mark(why, moments < OLDEST, f"{subject} is before the year 2000")
    _mark(
        why,
        moments > pd.Timestamp(now).tz_convert(UTC).tz_localize(None) + FUTURE,
        f"{subject} is in the future",
    )


def _any(masks: list[pd.Series[bool]]) -> pd.Series[bool]:
    union = masks[0]
    for mask in masks[1:]:
        union = union | mask
    return union


def _in_row_order(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Puts parts together in the order of rows, exposures before goals within a row."""
    filled = [part for part in parts if len(part)] or parts[:1]
    return pd.concat(filled, ignore_index=True).sort_values("row", kind="stable", ignore_index=True)


def _between(frame: pd.DataFrame, start: int, stop: int) -> pd.DataFrame:
    first, last = np.searchsorted(frame["row"].to_numpy(), [start, stop])
    return frame.iloc[first:last]


def _objects(cells: pd.Series[Any]) -> list[Any]:
    """Turns a column into Python values, ``None`` for missing ones."""
    return cells.astype("object").where(cells.notna(), None).tolist()


def _veiled(value: str | None, private: bool, hash_id: Hash) -> str | None:
    return hash_id(value) if private and value else value


def _aware(moment: pd.Timestamp) -> datetime:
    return moment.to_pydatetime().replace(tzinfo=UTC)
