"""What happened: the audit trail, the runs of jobs, and the models they trained."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cro_core.domain import to_json
from cro_core.errors import NotFound
from cro_core.storage import schema


def log(
    connection: sa.Connection,
    *,
    at: datetime,
    actor: str,
    action: str,
    subject: str,
    before: Any = None,
    after: Any = None,
) -> int:
    """Adds a change to the audit trail, in the transaction that makes it; returns its number."""
    statement = (
        sa.insert(schema.audit)
        .values(
            at=at, actor=actor, action=action, subject=subject, before=to_json(before), after=to_json(after)
        )
        .returning(schema.audit.c.id)
    )
    return int(connection.execute(statement).scalar_one())


def trail(
    connection: sa.Connection,
    *,
    subject: str | None = None,
    since: datetime | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Changes, newest first."""
    table = schema.audit
    query = sa.select(table).order_by(table.c.id.desc()).limit(limit)
    if subject is not None:
        query = query.where(table.c.subject == subject)
    if since is not None:
        query = query.where(table.c.at >= since)
    return [dict(row) for row in connection.execute(query).mappings()]


def change(connection: sa.Connection, number: int) -> dict[str, Any]:
    """One entry of the trail.

    Raises:
        NotFound: no entry of that number.
    """
    row = (
        connection.execute(sa.select(schema.audit).where(schema.audit.c.id == number))
        .mappings()
        .one_or_none()
    )
    if row is None:
        raise NotFound(
            f"change {number} does not exist: `cro rollback --list` shows those that can be undone"
        )
    return dict(row)


def mark_undone(connection: sa.Connection, number: int, by: int) -> None:
    """Links an undone change to the entry that undid it."""
    connection.execute(sa.update(schema.audit).where(schema.audit.c.id == number).values(undone_by=by))


def start_run(connection: sa.Connection, run_id: str, job: str, now: datetime) -> None:
    """Notes that a job has begun."""
    connection.execute(sa.insert(schema.runs).values(id=run_id, job=job, status="running", started_at=now))


def finish_run(
    connection: sa.Connection,
    run_id: str,
    *,
    status: str,
    now: datetime,
    notebook: str | None = None,
    outcome: Mapping[str, Any] | None = None,
) -> None:
    """Notes how a job ended: ``done``, ``failed`` or ``busy``."""
    statement = sa.update(schema.runs).where(schema.runs.c.id == run_id)
    connection.execute(
        statement.values(status=status, finished_at=now, notebook=notebook, outcome=to_json(outcome))
    )


def run(connection: sa.Connection, run_id: str) -> dict[str, Any]:
    """Reads one run of a job.

    Raises:
        NotFound: no run of that id.
    """
    row = (
        connection.execute(sa.select(schema.runs).where(schema.runs.c.id == run_id)).mappings().one_or_none()
    )
    if row is None:
        raise NotFound(f"run {run_id!r} does not exist here")
    return dict(row)


def runs(connection: sa.Connection, job: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
    """The newest runs first, of one job or of all."""
    condition = schema.runs.c.job == job if job else sa.true()
    query = (
        sa.select(schema.runs)
        .where(condition)
        .order_by(schema.runs.c.started_at.desc(), schema.runs.c.id.desc())
        .limit(limit)
    )
    return [dict(row) for row in connection.execute(query).mappings()]


def add_model(
    connection: sa.Connection, model_id: str, trained_at: datetime, status: str, record: Mapping[str, Any]
) -> None:
    """Stores a trained model, or the note that there was too little to train on."""
    connection.execute(
        sa.insert(schema.models).values(
            id=model_id, trained_at=trained_at, status=status, record=to_json(record)
        )
    )


def models_trained_at(connection: sa.Connection, moment: datetime) -> int:
    """How many models are dated at a moment."""
    table = schema.models
    query = sa.select(sa.func.count()).select_from(table).where(table.c.trained_at == moment)
    return int(connection.scalar(query) or 0)


def latest_model(connection: sa.Connection) -> dict[str, Any] | None:
    """The newest model, or ``None`` before the first training."""
    table = schema.models
    query = sa.select(table).order_by(table.c.trained_at.desc(), table.c.id.desc()).limit(1)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else dict(row)
