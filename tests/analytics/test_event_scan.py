"""Rows of the database reach DuckDB alike, whether they are few and go as text or many and go as Arrow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import sqlalchemy as sa
from helpers.store_samples import HOUR, START, event, exposure, running, stored

from cro_core.analytics import event_scan
from cro_core.storage import events, schema
from cro_core.storage.database import Database

COLUMNS = [column.name for column in schema.events.columns]
NASTY = 'it\'s "quoted" \\ $as_of -- 🎬 فيلم'


@pytest.fixture
def session() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as made:
        yield made


@pytest.fixture
def three(database: Database) -> Database:
    """A store with three events: one that says everything, one that says nothing, one with numbers at their bounds."""
    stored(database, running())
    full = exposure(
        "u", "b", START, id=NASTY, session="s", device="mobile", city=NASTY, country="DK", value=0.1 + 0.2, asset_id="img",
        occasion="wedding", url="/p?a='b'", properties={"a": [1, None, {"b": "\u0000é"}]}, epoch=0, propensity=1 / 3,
    )  # fmt: skip
    bare = event("lead", "v", START + timedelta(microseconds=1), to=None, id="bare")
    bounds = event(
        "call", "w", START + HOUR, id="bounds", value=-1e12, epoch=1_000_000, bot=True, internal=True
    )
    with database.write() as connection:
        events.record(connection, [full, bare, bounds], (), START + HOUR)
    return database


def copied(session: duckdb.DuckDBPyConnection, rows: Any) -> tuple[list[Any], list[Any]]:
    """The rows as DuckDB has them, and the kinds of their columns."""
    event_scan.keep(session, "copied", rows)
    kinds = [(name, kind) for name, kind, *_ in session.execute("DESCRIBE copied").fetchall()]
    return kinds, session.execute("SELECT * FROM copied").fetchall()


@pytest.mark.parametrize("where", [sa.true(), sa.false()], ids=["three rows", "none"])
def test_few_and_many_rows_arrive_alike(
    three: Database, session: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch, where: Any
) -> None:
    with three.read() as connection:
        few = event_scan.unsealed(connection, COLUMNS, where)
        monkeypatch.setattr(event_scan, "ROWS", few.num_rows or 1)
        many = event_scan.unsealed(connection, COLUMNS, where)
    assert isinstance(few, event_scan.Few)
    assert isinstance(many, pa.Table) == bool(few.num_rows)
    assert copied(session, few) == copied(session, event_scan.in_columns(few)) == copied(session, many)
    assert event_scan.in_columns(few) == event_scan.in_columns(many)
    assert few.num_rows == many.num_rows


def test_many_rows_are_read_batch_by_batch(three: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_scan, "ROWS", 2)
    with three.read() as connection:
        rows = event_scan.unsealed(connection, ["id", "bot"], sa.true())
    assert sorted(event_scan.in_columns(rows).to_pylist(), key=lambda row: row["id"]) == [
        {"id": "bare", "bot": False},
        {"id": "bounds", "bot": True},
        {"id": NASTY, "bot": False},
    ]


def test_where_arrow_would_have_to_be_imported_more_rows_are_few(
    three: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_scan, "ROWS", 2)
    with three.read() as connection:
        assert isinstance(event_scan.unsealed(connection, ["id"], sa.true()), pa.Table)
        monkeypatch.delitem(sys.modules, "pyarrow")
        assert isinstance(event_scan.unsealed(connection, ["id"], sa.true()), event_scan.Few)


def test_small_tables_have_whole_numbers_fractions_and_text(session: duckdb.DuckDBPyConnection) -> None:
    event_scan.give(session, "given", n=range(2), x=[0.1, 1e-300], t=[NASTY, ""])
    assert session.execute("SELECT typeof(n), typeof(x), typeof(t) FROM given LIMIT 1").fetchall() == [
        ("BIGINT", "DOUBLE", "VARCHAR")
    ]
    assert session.execute("SELECT * FROM given").fetchall() == [(0, 0.1, NASTY), (1, 1e-300, "")]


@pytest.mark.parametrize("value", [1, -5, 2**31 - 1, 2**31, 2**62, "", NASTY, ["a", NASTY], 0.1])
def test_an_argument_written_into_the_text_is_the_same_value_of_the_same_kind(
    session: duckdb.DuckDBPyConnection, value: Any
) -> None:
    sql = "SELECT $given, typeof($given)"
    assert (
        event_scan.run(session, sql, {"given": value}).fetchall()
        == session.execute(sql, {"given": value}).fetchall()
    )


def test_only_names_of_arguments_are_replaced(session: duckdb.DuckDBPyConnection) -> None:
    sql = "SELECT '$given', 'it''s $given', $given -- $given, don't\n, $given + 1"
    assert event_scan.run(session, sql, {"given": 4}).fetchall() == [("$given", "it's $given", 4, 5)]
