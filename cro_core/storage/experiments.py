"""Stores and reads experiments with their variants and epochs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from cro_core.assignment.buckets import check_shares
from cro_core.domain import Epoch, Experiment, Goal, Guardrail, Plan, Ratio, Status, Variant, to_json
from cro_core.errors import Conflict, NotFound
from cro_core.ingest.website_words import EXPERIMENT
from cro_core.storage import schema
from cro_core.storage.database import count_up

REVISION = "revision"


def add(connection: sa.Connection, experiment: Experiment) -> None:
    """Stores a new experiment.

    Raises:
        Conflict: the id is taken.
    """
    if stored_ids(connection, [experiment.id]):
        raise Conflict(f"experiment {experiment.id} exists already: choose another {EXPERIMENT}")
    connection.execute(sa.insert(schema.experiments).values(**_row(experiment)))
    connection.execute(
        sa.insert(schema.variants),
        [
            {
                "experiment_id": experiment.id,
                "key": variant.key,
                "position": position,
                "name": variant.name,
                "is_control": variant.is_control,
                "asset_id": variant.asset_id,
                "config": to_json(variant.config),
                "features": to_json(variant.features),
            }
            for position, variant in enumerate(experiment.variants)
        ],
    )
    _add_epochs(connection, experiment)
    bump_revision(connection)


def start(connection: sa.Connection, experiment: Experiment) -> None:
    """Stores a draft's start: status, times and its schedule of epochs."""
    update(connection, experiment)
    _add_epochs(connection, experiment)


def update(connection: sa.Connection, experiment: Experiment) -> None:
    """Stores what may change in an experiment's life: status, times, winner, plan."""
    values = _row(experiment)
    connection.execute(
        sa.update(schema.experiments).where(schema.experiments.c.id == experiment.id).values(**values)
    )
    bump_revision(connection)


def stored_ids(connection: sa.Connection, ids: Collection[str]) -> set[str]:
    """Finds those of the ids that an experiment has."""
    table = schema.experiments.c
    return set(connection.scalars(sa.select(table.id).where(table.id.in_(ids))))


def get(connection: sa.Connection, experiment_id: str) -> Experiment:
    """Reads the experiment of that id.

    Raises:
        NotFound: there is none; the message names those there are.
    """
    matches = _select(connection, schema.experiments.c.id == experiment_id)
    if not matches:
        some_ids = connection.scalars(
            sa.select(schema.experiments.c.id).order_by(schema.experiments.c.created_at.desc()).limit(10)
        )
        raise NotFound(
            f"experiment {experiment_id!r} does not exist here: choose from {', '.join(some_ids) or '(there are none yet)'}"
        )
    return matches[0]


def with_status(connection: sa.Connection, *statuses: Status) -> list[Experiment]:
    """Reads every experiment in one of the states (all without any), oldest first."""
    condition = (
        schema.experiments.c.status.in_([status.value for status in statuses]) if statuses else sa.true()
    )
    return _select(connection, condition)


def in_slot(connection: sa.Connection, slot: str) -> list[Experiment]:
    """Reads every experiment of a slot, whatever its state, oldest first."""
    return _select(connection, schema.experiments.c.slot == slot)


def ever_started(connection: sa.Connection, *, without_sources: Collection[str]) -> list[Experiment]:
    """Reads every experiment that was ever started and comes from none of the sources, in the order of creation."""
    table = schema.experiments.c
    return _select(connection, table.started_at.is_not(None) & table.source.not_in(without_sources))


def _select(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> list[Experiment]:
    """Reads the experiments that meet a condition on the experiments table, oldest first."""
    table = schema.experiments
    rows = (
        connection.execute(sa.select(table).where(condition).order_by(table.c.created_at, table.c.id))
        .mappings()
        .all()
    )
    ids = [row["id"] for row in rows]
    variants = _children(connection, schema.variants, ids, schema.variants.c.position)
    epochs = _children(connection, schema.epochs, ids, schema.epochs.c.number)
    return [_experiment(row, variants.get(row["id"], []), epochs.get(row["id"], [])) for row in rows]


def lengthen(connection: sa.Connection, experiment: Experiment) -> None:
    """Stores a schedule that ends later than the stored one: its last epoch longer, or with more after it."""
    table = schema.epochs
    stored = set(connection.scalars(sa.select(table.c.number).where(table.c.experiment_id == experiment.id)))
    for epoch in experiment.epochs:
        if epoch.number in stored:
            same = (table.c.experiment_id == experiment.id) & (table.c.number == epoch.number)
            connection.execute(sa.update(table).where(same).values(ends_at=epoch.ends_at))
    added = tuple(epoch for epoch in experiment.epochs if epoch.number not in stored)
    _add_epochs(connection, replace(experiment, epochs=added))
    bump_revision(connection)


def set_future_shares(
    connection: sa.Connection, experiment: Experiment, shares: Mapping[str, float], now: datetime
) -> bool:
    """Gives every epoch that has not begun these shares; returns whether that changed anything.

    Raises:
        Conflict: no epoch lies ahead. The shares of an epoch that has begun are frozen: moving them inside
            a day would cost the test its validity.
    """
    check_shares([shares[variant.key] for variant in experiment.variants])
    ahead = [epoch for epoch in experiment.epochs if epoch.starts_at > now]
    if not ahead:
        raise Conflict(
            f"experiment {experiment.id} has no epoch after {now.isoformat()}: shares are frozen inside an epoch"
        )
    if all(dict(epoch.shares) == dict(shares) for epoch in ahead):
        return False
    table = schema.epochs
    connection.execute(
        sa.update(table)
        .where(table.c.experiment_id == experiment.id, table.c.number >= ahead[0].number)
        .values(shares=dict(shares))
    )
    bump_revision(connection)
    return True


def bump_revision(connection: sa.Connection) -> None:
    """Marks that what assignment depends on has changed."""
    count_up(connection, REVISION)


def revision(connection: sa.Connection) -> int:
    """Counts the changes to experiments, epochs and production; caches compare it."""
    return int(connection.scalar(sa.select(schema.home.c.value).where(schema.home.c.key == REVISION)) or 0)


def _add_epochs(connection: sa.Connection, experiment: Experiment) -> None:
    rows = [
        {
            "experiment_id": experiment.id,
            "number": epoch.number,
            "starts_at": epoch.starts_at,
            "ends_at": epoch.ends_at,
            "shares": dict(epoch.shares),
            "weight": epoch.weight,
        }
        for epoch in experiment.epochs
    ]
    if rows:
        connection.execute(sa.insert(schema.epochs), rows)


def _children(
    connection: sa.Connection, table: sa.Table, ids: list[str], order: sa.Column[Any]
) -> dict[str, list[sa.RowMapping]]:
    grouped: dict[str, list[sa.RowMapping]] = {}
    statement = sa.select(table).where(table.c.experiment_id.in_(ids)).order_by(table.c.experiment_id, order)
    for row in connection.execute(statement).mappings():
        grouped.setdefault(row["experiment_id"], []).append(row)
    return grouped


COLUMNS = (
    "id", "name", "slot", "seed", "kind", "hypothesis", "reasoning", "priority", "occasion",
    "source", "parent_id", "created_at", "started_at", "ended_at", "winner",
)  # fmt: skip


def _row(experiment: Experiment) -> dict[str, Any]:
    row = {name: getattr(experiment, name) for name in COLUMNS}
    return row | {"status": experiment.status.value, "plan": plan_to_json(experiment.plan)}


def _experiment(row: sa.RowMapping, variants: list[sa.RowMapping], epochs: list[sa.RowMapping]) -> Experiment:
    return Experiment(
        status=Status(row["status"]),
        plan=plan_from_json(row["plan"]),
        variants=tuple(
            Variant(
                variant["key"],
                variant["name"],
                variant["config"],
                variant["asset_id"],
                variant["is_control"],
                variant["features"],
            )
            for variant in variants
        ),
        epochs=tuple(
            Epoch(epoch["number"], epoch["starts_at"], epoch["ends_at"], epoch["shares"], epoch["weight"])
            for epoch in epochs
        ),
        **{name: row[name] for name in COLUMNS},
    )


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Turns a plan into JSON; durations in hours."""
    data: dict[str, Any] = to_json(plan)
    return data


def plan_from_json(data: Mapping[str, Any]) -> Plan:
    """Makes a plan of JSON; the inverse of :func:`plan_to_json`."""
    return replace(
        Plan(goals=()),
        **{
            "rule": 1,  # what was stored before plans said under which rule they run
            **data,
            "goals": tuple(Goal(**goal) for goal in data["goals"]),
            "guardrails": tuple(Guardrail(**guardrail) for guardrail in data.get("guardrails", ())),
            "ratios": tuple(Ratio(**ratio) for ratio in data.get("ratios", ())),
            "horizon": timedelta(hours=data["horizon"]),
            "window": timedelta(hours=data["window"]),
        },
    )
