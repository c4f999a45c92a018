"""The conditions a database is asked with select what the texts of the definitions select."""

from __future__ import annotations

from itertools import product
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa
from helpers.store_samples import DAY, START, TICK, event, running, stored

from cro_core.analytics import definitions, sources
from cro_core.domain import EXPOSURE, Event, Experiment
from cro_core.storage import events, schema
from cro_core.storage.database import Database

HERO = running(horizon=3 * DAY, window=DAY)
LAST_GOAL = START + 4 * DAY
MOMENTS = (START - TICK, START, START + DAY, LAST_GOAL, LAST_GOAL + TICK)


def all_kinds() -> list[Event]:
    """An event for each owner, moment, poster and type; an exposure always names its experiment."""
    combinations = product(
        ("hero", "cta", None), MOMENTS, (False, True), (False, True), (EXPOSURE, "lead", "scroll")
    )
    return [
        event(kind, f"u{number}", at, to=owner, id=f"e{number}", variant="a", bot=bot, internal=internal)
        for number, (owner, at, bot, internal, kind) in enumerate(combinations)
        if owner or kind != EXPOSURE
    ]


@pytest.fixture
def posted(database: Database) -> list[Event]:
    stored(database, HERO, running("cta"))
    kinds = all_kinds()
    with database.write() as connection:
        events.record(connection, kinds, (), START)
    return kinds


def parameters(of: Experiment = HERO) -> dict[str, Any]:
    return definitions.parameters(of, START + 10 * DAY)


def by_condition(database: Database, condition: sources.Condition) -> set[str]:
    with database.read() as connection:
        return set(connection.scalars(sa.select(schema.events.c.id).where(condition)))


def by_text(database: Database, text: str, **more: Any) -> set[str]:
    """The ids of the stored events that a text of the definitions selects."""
    named = ("id", "experiment_id", "type", "occurred_at", "bot", "internal")
    columns = [schema.events.c[name] for name in named]
    columns[3] = sa.type_coerce(columns[3], sa.BigInteger)
    with database.read() as connection, duckdb.connect() as session:
        session.execute(
            "CREATE TABLE events (id VARCHAR, experiment_id VARCHAR, type VARCHAR, occurred_at BIGINT,"
            " bot BOOLEAN, internal BOOLEAN)"
        )
        rows = [tuple(row) for row in connection.execute(sa.select(*columns))]
        session.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", rows)
        sql = f"SELECT id FROM events WHERE {text}"
        found = session.execute(sql, definitions.arguments(parameters() | more, sql)).fetchall()
    return {row[0] for row in found}


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (sources.HUMAN, definitions.HUMAN),
        (sources.own(parameters()), definitions.OWN),
        (sources.of_site(parameters()), definitions.OF_SITE),
        (sources.relevant(parameters()), definitions.RELEVANT),
    ],
    ids=["human", "own", "of the site", "relevant"],
)
def test_a_condition_selects_what_its_text_selects(
    database: Database, posted: list[Event], condition: sources.Condition, text: str
) -> None:
    selected = by_condition(database, condition)
    assert selected == by_text(database, text)
    assert 0 < len(selected) < len(posted)


GOAL = "type IN (SELECT UNNEST($goals))"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            "events",
            f"{definitions.RELEVANT} AND {definitions.HUMAN}"
            f" AND ({GOAL} OR ({definitions.OWN} AND type = '{EXPOSURE}'))",
        ),
        ("shown", f"{definitions.OWN} AND type = '{EXPOSURE}' AND {definitions.HUMAN}"),
        ("posted", definitions.RELEVANT),
        ("past", f"{GOAL} AND {definitions.HUMAN}"),
    ],
    ids=["events", "shown", "posted", "past"],
)
def test_a_source_holds_what_its_tables_read(
    database: Database, posted: list[Event], source: str, text: str
) -> None:
    goals = [goal.name for goal in HERO.plan.goals]
    selected = by_condition(database, sources.conditions(parameters(), goals)[source])
    assert selected == by_text(database, text, goals=goals)
    assert 0 < len(selected) < len(posted)


def test_every_source_is_described() -> None:
    described = sources.conditions(parameters(), ["lead"])
    assert set(described) == set(sources.COLUMNS) == set(definitions.SOURCES)


def test_an_event_is_human_where_its_row_is(database: Database, posted: list[Event]) -> None:
    assert {e.id for e in posted if e.human} == by_condition(database, sources.HUMAN)


def test_only_human_exposures_are_kept_as_the_first_of_their_unit(
    database: Database, posted: list[Event]
) -> None:
    with database.read() as connection:
        first = set(connection.scalars(sa.select(schema.exposures.c.event_id)))
    assert first == by_condition(database, sa.and_(schema.events.c.type == EXPOSURE, sources.HUMAN))
