"""Cleaning many events at once, a column at a time: what :func:`cro_core.ingest.cleaning.clean` makes of the same rows.

There is one definition of the rules, the ingestion's. Here its fields check whole columns, and what repeats (a
type, a variant, a city) is cleaned once for each combination that occurs. Whatever this cannot be sure of is
left to the ingestion, row by row, so that a rejection always has its words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from operator import attrgetter
from typing import Annotated, Any

from pydantic import AfterValidator, TypeAdapter, ValidationError

from cro_core.domain import Event
from cro_core.errors import InvalidInput
from cro_core.ingest.cleaning import EventIn, Rejection, Rules, clean, time_of
from cro_core.ingest.website_words import as_posted

OWN = ("id", "user_id", "session_id", "value")
"""Fields that differ from event to event, like the timestamp; the others repeat."""

NOT_SURE = object()

Columns = Mapping[str, Sequence[Any]]
"""Field of :class:`~cro_core.ingest.cleaning.EventIn` -> its cells; all of one length."""

_rest = attrgetter(*(field.name for field in fields(Event)[12:]))


def clean_columns(columns: Columns, rules: Rules) -> tuple[list[Event], list[Rejection]]:
    """Sorts rows into events and rejections, as :func:`~cro_core.ingest.cleaning.clean` does.

    Args:
        columns: what the rows say, a column for each field; at least one column.
        rules: what they are checked against.
    """
    certain = _sure(columns, rules)
    unsure = [row for row, event in enumerate(certain) if event is None]
    events, rejections = clean([_item(columns, row) for row in unsure], rules)
    rejections = [replace(rejection, index=unsure[rejection.index]) for rejection in rejections]
    rejected, others = {rejection.index for rejection in rejections}, iter(events)
    kept = [event or next(others) for row, event in enumerate(certain) if event or row not in rejected]
    return kept, rejections


def _item(columns: Columns, row: int) -> dict[str, Any]:
    """The row as a website would post it."""
    return as_posted({name: cells[row] for name, cells in columns.items()})


def _sure(columns: Columns, rules: Rules) -> list[Event | None]:
    """The event of every row that is one beyond doubt, else ``None``."""
    size = len(next(iter(columns.values())))
    if not {"id", "event_type", "user_id", "timestamp"} <= columns.keys() <= EventIn.model_fields.keys():
        return [None] * size
    ids, users, sessions, values = (
        _checked(name, columns[name]) if name in columns else list[Any]([None] * size) for name in OWN
    )
    moments = [_moment(stamp, rules) for stamp in columns["timestamp"]]
    shared = [cells for name, cells in columns.items() if name not in OWN and name != "timestamp"]
    odd = {
        row
        for cells in shared
        for row, cell in enumerate(cells)
        if type(cell) is not str and cell is not None
    }
    odd.update(row for row, id_ in enumerate(ids) if id_ is None)  # the ingestion invents one
    for cells in (ids, users, sessions, values, moments):
        odd.update(row for row, cell in enumerate(cells) if cell is NOT_SURE)
    hashes: dict[Any, Any] = {
        name: rules.hash(name) for name in {*users, *sessions} if isinstance(name, str) and name
    }
    hashes[""] = None
    models: dict[tuple[Any, ...], tuple[Any, ...] | None] = {}
    certain: list[Event | None] = []
    for row, like in enumerate(zip(*shared, strict=True)):
        if row in odd:
            certain.append(None)
            continue
        if like not in models:
            models[like] = _model(_item(columns, row), rules)
        model = models[like]
        if model is None:
            certain.append(None)
            continue
        kind, received_at, experiment, variant, device, city, country, rest = model
        certain.append(
            Event(
                ids[row],
                kind,
                hashes[users[row]],
                moments[row],
                received_at,
                experiment,
                variant,
                hashes[sessions[row] or ""],
                device,
                city,
                country,
                values[row],
                *rest,
            )
        )
    return certain


def _model(item: dict[str, Any], rules: Rules) -> tuple[Any, ...] | None:
    """What every event has that differs from this item in its own fields only; ``None`` where it is rejected."""
    events, _ = clean([item], rules)
    if not events:
        return None
    (e,) = events
    return e.type, e.received_at, e.experiment_id, e.variant, e.device, e.city, e.country, _rest(e)


def _checked(name: str, cells: Sequence[Any]) -> list[Any]:
    """The cells as the field keeps them, ``NOT_SURE`` where it refuses them."""
    column = _column(name)
    try:
        return column.validate_python(cells)
    except ValidationError as error:
        bad = {
            e["loc"][0] for e in error.errors(include_url=False, include_context=False, include_input=False)
        }
    good = iter(column.validate_python([cell for row, cell in enumerate(cells) if row not in bad]))
    return [NOT_SURE if row in bad else next(good) for row in range(len(cells))]


@cache
def _column(name: str) -> TypeAdapter[list[Any]]:
    """A list of one of the fields of a posted event, with the same checks."""
    field = EventIn.model_fields[name]
    # The order of checks matters to messages only; those of pydantic are fast as long as they stand first.
    checks = sorted(field.metadata, key=lambda check: isinstance(check, AfterValidator))
    cell: Any = Annotated[(field.annotation, *checks)] if checks else field.annotation
    return TypeAdapter(list[cell], config=EventIn.model_config)


def _moment(stamp: Any, rules: Rules) -> Any:
    if type(stamp) is not str:
        return NOT_SURE
    try:
        return time_of(stamp, rules.now)
    except InvalidInput:
        return NOT_SURE
