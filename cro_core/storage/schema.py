"""The one schema, for SQLite and PostgreSQL alike; migrations bring a store to it, and a test holds them together.

Times are BIGINT microseconds since 1970 UTC (see :mod:`cro_core.clock`), so that plain SQL compares and
subtracts them the same way everywhere.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from cro_core.clock import from_micros, to_micros


class Moment(sa.types.TypeDecorator[datetime]):
    """A column of times: aware datetimes in Python, microseconds since 1970 UTC in the database."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Turns a datetime into microseconds; refuses a naive one."""
        return None if value is None else to_micros(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Turns microseconds into a datetime."""
        return None if value is None else from_micros(int(value))


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

home = sa.Table(
    "home",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    comment="Small facts about this home, e.g. the revision that caches compare.",
)

experiments = sa.Table(
    "experiments",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False, index=True),
    sa.Column("slot", sa.Text, nullable=False),
    sa.Column("seed", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("hypothesis", sa.Text, nullable=False),
    sa.Column("reasoning", sa.Text, nullable=False),
    sa.Column("priority", sa.Float, nullable=False),
    sa.Column("occasion", sa.Text),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("parent_id", sa.Text),
    sa.Column("plan", sa.JSON, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("started_at", Moment),
    sa.Column("ended_at", Moment),
    sa.Column("winner", sa.Text),
)

variants = sa.Table(
    "variants",
    metadata,
    sa.Column("experiment_id", sa.Text, sa.ForeignKey("experiments.id"), primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("is_control", sa.Boolean, nullable=False),
    sa.Column("asset_id", sa.Text),
    sa.Column("config", sa.JSON, nullable=False),
    sa.Column("features", sa.JSON, nullable=False),
)

epochs = sa.Table(
    "epochs",
    metadata,
    sa.Column("experiment_id", sa.Text, sa.ForeignKey("experiments.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("starts_at", Moment, nullable=False),
    sa.Column("ends_at", Moment, nullable=False),
    sa.Column("shares", sa.JSON, nullable=False),
    sa.Column("weight", sa.Float, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("experiment_id", sa.Text),
    sa.Column("variant", sa.Text),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("session", sa.Text),
    sa.Column("device", sa.Text),
    sa.Column("city", sa.Text),
    sa.Column("country", sa.Text),
    sa.Column("occurred_at", Moment, nullable=False),
    sa.Column("received_at", Moment, nullable=False),
    sa.Column("value", sa.Float),
    sa.Column("asset_id", sa.Text),
    sa.Column("occasion", sa.Text),
    sa.Column("url", sa.Text),
    sa.Column("properties", sa.JSON(none_as_null=True)),
    sa.Column("epoch", sa.Integer),
    sa.Column("propensity", sa.Float),
    sa.Column("bot", sa.Boolean, nullable=False),
    sa.Column("internal", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("ix_events_experiment_id_occurred_at", "experiment_id", "occurred_at"),
)

exposures = sa.Table(
    "exposures",
    metadata,
    # The experiment first: a new exposure then touches only the pages of experiments that run.
    sa.Column("experiment_id", sa.Text, primary_key=True),
    sa.Column("unit", sa.Text, primary_key=True),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("variant", sa.Text, nullable=False),
    sa.Column("epoch", sa.Integer),
    sa.Column("propensity", sa.Float),
    sa.Column("exposed_at", Moment, nullable=False),
    sa.Column("device", sa.Text),
    sa.Column("city", sa.Text),
    sa.Column("country", sa.Text),
    sa.Column("occasion", sa.Text),
    sa.Column("asset_id", sa.Text),
    sa.Column("url", sa.Text),
    sa.Index("ix_exposures_experiment_id_exposed_at", "experiment_id", "exposed_at"),
    comment="The earliest exposure of each unit: what is counted, and what makes assignment sticky.",
)

quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("received_at", Moment, nullable=False),
    sa.Column("experiment_id", sa.Text, index=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    comment="What could not be accepted, with visitor and session ids already hashed.",
)

receipts = sa.Table(
    "receipts",
    metadata,
    sa.Column("experiment_id", sa.Text, primary_key=True),
    sa.Column("outcome", sa.Text, primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False),
    comment="How many posted events were accepted, duplicate, rejected: what the event table cannot tell. '' is none.",
)

lake_versions = sa.Table(
    "lake_versions",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("at", Moment, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("events", sa.BigInteger, nullable=False),
    comment="Versions of the lake that count; the newest holds what the event table no longer does.",
)

id_filters = sa.Table(
    "id_filters",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("ids", sa.BigInteger, nullable=False),
    sa.Column("bits", sa.LargeBinary, nullable=False),
    comment="Bloom filters of the ids of sealed events: what is in none of them was never sealed.",
)

looks = sa.Table(
    "looks",
    metadata,
    sa.Column("experiment_id", sa.Text, sa.ForeignKey("experiments.id"), primary_key=True),
    sa.Column("as_of", Moment, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("spending_time", sa.Float, nullable=False),
    sa.Column("alpha_spent", sa.Float, nullable=False),
    sa.Column("critical_z", sa.Float),
    sa.Column("z", sa.JSON, nullable=False),
    sa.Column("units", sa.BigInteger, nullable=False),
    sa.Column("e_values", sa.JSON(none_as_null=True)),
    comment="Each look of the cycle: the statistic by challenger against its critical value.",
)

engine_states = sa.Table(
    "engine_states",
    metadata,
    sa.Column("experiment_id", sa.Text, sa.ForeignKey("experiments.id"), primary_key=True),
    sa.Column("as_of", Moment, nullable=False),
    sa.Column("state", sa.JSON, nullable=False),
    comment="What the newest look left for the next one, so that an hourly look is one step.",
)

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("experiment_id", sa.Text, sa.ForeignKey("experiments.id"), nullable=False, index=True),
    sa.Column("as_of", Moment, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("record", sa.JSON, nullable=False),
)

production = sa.Table(
    "production",
    metadata,
    sa.Column("slot", sa.Text, primary_key=True),
    sa.Column("since", Moment, nullable=False),
    sa.Column("experiment_id", sa.Text, nullable=False),
    sa.Column("variant", sa.Text, nullable=False),
    sa.Column("config", sa.JSON, nullable=False),
    sa.Column("asset_id", sa.Text),
    sa.Column("unproven", sa.Boolean, nullable=False),
    sa.Column("decision_id", sa.Text),
    comment="What the site shows now in each slot; history is in the audit trail.",
)

split_alarms = sa.Table(
    "split_alarms",
    metadata,
    sa.Column("experiment_id", sa.Text, sa.ForeignKey("experiments.id"), primary_key=True),
    sa.Column("dimension", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("first_at", Moment, primary_key=True),
    sa.Column("log_e", sa.Float, nullable=False),
    sa.Column("settled_at", Moment),
    sa.Column("settled_by", sa.Text),
    sa.Column("how", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("settled_log_e", sa.Float),
    sa.Column("largest_log_e", sa.Float),
    comment="Alarms of the split check, as they were first raised, and how a person settled them.",
)

recommendations = sa.Table(
    "recommendations",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False, index=True),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("settled_at", Moment),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("payload", sa.JSON, nullable=False),
    comment="What waits for a person: ship a winner, start an experiment.",
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("trained_at", Moment, nullable=False, index=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("record", sa.JSON, nullable=False),
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("job", sa.Text, nullable=False, index=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("started_at", Moment, nullable=False),
    sa.Column("finished_at", Moment),
    sa.Column("notebook", sa.Text),
    sa.Column("outcome", sa.JSON(none_as_null=True)),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False, index=True),
    sa.Column("before", sa.JSON(none_as_null=True)),
    sa.Column("after", sa.JSON(none_as_null=True)),
    sa.Column("undone_by", sa.Integer),
    comment="Every change: who, when, what, before and after.",
)
