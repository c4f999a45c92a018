"""Which stored events the definitions read, as a database is asked for them.

The conditions bear the names of the texts in :mod:`cro_core.analytics.definitions` that they repeat, and select the
same rows. A source may hold more than the definitions say of it; what they do not need is left out here because
reading it takes time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from cro_core.analytics import definitions
from cro_core.domain import EXPOSURE
from cro_core.storage import schema

Condition = sa.ColumnElement[bool]

HUMAN: Condition = sa.and_(sa.not_(schema.events.c.bot), sa.not_(schema.events.c.internal))
"""Neither robots nor the site's own people, as :data:`definitions.HUMAN` says in SQL."""

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "events": (
        "id",
        "experiment_id",
        "unit",
        "type",
        "variant",
        "epoch",
        "occurred_at",
        "value",
        "bot",
        "internal",
    ),
    "shown": ("id", "experiment_id", "type", "value", *definitions.CONTEXT),
    "posted": ("id", "experiment_id", "unit", "type", "variant", "occurred_at", "bot", "internal"),
    "past": ("unit", "type", "occurred_at", "bot", "internal"),
}
"""Columns of the event table that the definitions read, by source."""


def own(parameters: Mapping[str, Any]) -> Condition:
    """Events that name the experiment, as :data:`definitions.OWN` says in SQL."""
    condition: Condition = schema.events.c.experiment_id == parameters["experiment"]
    return condition


def of_site(parameters: Mapping[str, Any]) -> Condition:
    """Events that name no experiment and came while this one ran, as :data:`definitions.OF_SITE` says in SQL."""
    occurred_at = sa.type_coerce(schema.events.c.occurred_at, sa.BigInteger)
    while_it_ran = sa.and_(occurred_at >= parameters["started_at"], occurred_at <= parameters["last_goal_at"])
    return sa.and_(schema.events.c.experiment_id.is_(None), while_it_ran)


def relevant(parameters: Mapping[str, Any]) -> Condition:
    """All events that may concern the experiment, as :data:`definitions.RELEVANT` says in SQL."""
    return sa.or_(own(parameters), of_site(parameters))


def conditions(parameters: Mapping[str, Any], goals: Sequence[str]) -> dict[str, Condition]:
    """Says which rows each of :data:`definitions.SOURCES` holds.

    Args:
        parameters: of :func:`definitions.parameters`.
        goals: the event types that are goals of the experiment.
    """
    exposure, goal = schema.events.c.type == EXPOSURE, schema.events.c.type.in_(goals)
    ours, of_the_site = own(parameters), of_site(parameters)
    return {
        "events": sa.and_(HUMAN, sa.or_(sa.and_(ours, sa.or_(exposure, goal)), sa.and_(of_the_site, goal))),
        "shown": sa.and_(ours, exposure, HUMAN),
        "posted": relevant(parameters),
        "past": sa.and_(goal, HUMAN),
    }
