"""What the tests of store and analysis share: experiments that run, and events in a line each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import sqlalchemy as sa

from cro_core.domain import EXPOSURE, Event, Experiment, Goal, Plan, Variant
from cro_core.planning import plans
from cro_core.storage import experiments
from cro_core.storage.database import Database

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
HOUR, DAY, TICK = timedelta(hours=1), timedelta(days=1), timedelta(microseconds=1)
GOALS = (Goal("lead", 100.0, True), Goal("call", 80.0, True), Goal("play", 20.0))

_numbers = count()


def running(name: str = "hero", keys: tuple[str, ...] = ("a", "b"), **plan: Any) -> Experiment:
    """An experiment that started at ``START``; its first variant is the control."""
    variants = tuple(Variant(k, k.upper(), {"shows": k}, is_control=k == keys[0]) for k in keys)
    draft = Experiment(
        name, name.title(), variants, Plan(**{"goals": GOALS, **plan}), slot=name, created_at=START
    )
    return plans.begin(draft, START)


def with_shares(experiment: Experiment, shares: Mapping[int, Mapping[str, float]]) -> Experiment:
    """The experiment with other shares in the epochs named."""
    epochs = tuple(replace(e, shares=dict(shares.get(e.number, e.shares))) for e in experiment.epochs)
    return replace(experiment, epochs=epochs)


def stored(database: Database, *found: Experiment) -> Experiment:
    """Stores experiments; returns the first."""
    with database.write() as connection:
        for experiment in found:
            experiments.add(connection, experiment)
    return found[0]


def event(kind: str, unit: str, at: datetime, *, to: str | None = "hero", **fields: Any) -> Event:
    """A clean event; ``to`` is its experiment."""
    given = {"id": f"e{next(_numbers)}", "received_at": at, **fields}
    return Event(type=kind, unit=unit, occurred_at=at, experiment_id=to, **given)


def exposure(unit: str, variant: str, at: datetime, **fields: Any) -> Event:
    """An exposure."""
    return event(EXPOSURE, unit, at, variant=variant, **fields)


def rows(database: Database, table: sa.Table) -> list[dict[str, Any]]:
    """Every row of a table, in the order of its key."""
    with database.read() as connection:
        found = connection.execute(sa.select(table).order_by(*table.primary_key.columns)).mappings()
        return [dict(row) for row in found]
