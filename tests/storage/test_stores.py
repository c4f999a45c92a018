"""The store, on SQLite and on PostgreSQL: each event once, first exposures, receipts, and who changed what."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from helpers.store_samples import DAY, HOUR, START, event, exposure, rows, running, stored, with_shares

from cro_core.domain import Cell, Event, Reason, Status, Verdict
from cro_core.errors import Conflict, InvalidInput, NotFound
from cro_core.evidence import Comparison, Decision, Evidence
from cro_core.ingest.cleaning import Rejection
from cro_core.storage import decisions, events, experiments, journal, schema
from cro_core.storage.database import Database

LATER = START + HOUR


def record(database: Database, *posted: Event, rejected: tuple[Rejection, ...] = ()) -> int:
    with database.write() as connection:
        return events.record(connection, posted, rejected, LATER)


def receipts(database: Database) -> dict[tuple[str, str], int]:
    return {(r["experiment_id"], r["outcome"]): r["count"] for r in rows(database, schema.receipts)}


class TestEvents:
    def test_an_event_comes_back_as_it_went_in(self, database: Database) -> None:
        stored(database, running())
        full = exposure(
            "u", "b", START, received_at=LATER, session="s", device="mobile", city="Århus 🙂", country="DK", value=-0.1,
            asset_id="img", occasion="wedding", url="/p", properties={"a": [1, None, {"b": "\u0000é"}]}, epoch=0,
            propensity=0.5,
        )  # fmt: skip
        bare = event("lead", "v", START + timedelta(microseconds=1), to=None, id="bare")
        assert record(database, full, bare) == 2
        assert [Event(**row) for row in rows(database, schema.events)] == sorted(
            [bare, full], key=lambda e: e.id
        )

    def test_an_id_is_stored_once_in_a_batch_and_across_batches(self, database: Database) -> None:
        stored(database, running())
        first = exposure("u", "a", START, id="x")
        again = replace(first, variant="b", occurred_at=START - HOUR)
        assert record(database, first, again, first) == 1
        assert record(database, again, event("lead", "u", LATER, id="y")) == 1
        assert [(r["id"], r["variant"]) for r in rows(database, schema.events)] == [("x", "a"), ("y", None)]
        assert [(r["variant"], r["exposed_at"]) for r in rows(database, schema.exposures)] == [("a", START)]
        assert receipts(database) == {("hero", "accepted"): 2, ("hero", "duplicate"): 3}

    def test_receipts_know_experiment_and_outcome(self, database: Database) -> None:
        stored(database, running(), running("cta"))
        rejected = (Rejection(0, "bad", "{}", "cta"), Rejection(1, "worse", "{}"))
        record(
            database, event("lead", "u", START, to=None, id="g"), exposure("u", "a", START), rejected=rejected
        )
        record(database, event("lead", "u", START, to=None, id="g"))
        assert receipts(database) == {
            ("", "accepted"): 1,
            ("", "duplicate"): 1,
            ("", "rejected"): 1,
            ("cta", "rejected"): 1,
            ("hero", "accepted"): 1,
        }
        with database.read() as connection:
            assert events.totals(connection) == {"accepted": 2, "duplicate": 1, "rejected": 2}
        kept = [
            (r["received_at"], r["experiment_id"], r["reason"], r["payload"])
            for r in rows(database, schema.quarantine)
        ]
        assert kept == [(LATER, "cta", "bad", "{}"), (LATER, None, "worse", "{}")]

    def test_nothing_is_nothing(self, database: Database) -> None:
        assert record(database) == 0
        assert receipts(database) == {}

    def test_opted_out_visitors_are_only_counted(self, database: Database) -> None:
        with database.write() as connection:
            events.record_all(connection, [events.Posted([], [], START, 3)])
        with database.write() as connection:
            events.record_all(connection, [events.Posted([], [], START, 2)])
        assert receipts(database) == {("", "opted_out"): 5}
        assert rows(database, schema.events) == []

    def test_a_batch_is_all_or_nothing(self, database: Database) -> None:
        stored(database, running())
        with pytest.raises(sa.exc.SQLAlchemyError):
            record(database, exposure("u", "a", START), replace(exposure("v", "a", START), type=None))  # type: ignore[arg-type]
        assert rows(database, schema.events) == []
        assert rows(database, schema.exposures) == []
        assert receipts(database) == {}

    def test_thousands_go_in_one_batch(self, database: Database) -> None:
        stored(database, running())
        batch = [exposure(f"u{n}", "a", START, id=f"x{n}") for n in range(5_000)]
        assert record(database, *batch) == 5_000
        assert record(database, *batch, exposure("v", "a", START)) == 1
        assert len(rows(database, schema.exposures)) == 5_001


class TestFirstExposure:
    def test_the_earliest_wins_in_whatever_order_they_come(self, database: Database) -> None:
        stored(database, running(), running("cta"))
        early, middle, late = (
            exposure("u", v, START + n * HOUR, epoch=n, propensity=0.5, city=f"c{n}")
            for n, v in enumerate("aba")
        )
        record(database, middle)
        record(database, late)
        (kept,) = rows(database, schema.exposures)
        assert (kept["variant"], kept["exposed_at"], kept["event_id"]) == ("b", middle.occurred_at, middle.id)
        record(database, exposure("u", "b", START, to="cta"), early, late)
        with database.read() as connection:
            sticky = events.sticky_variants(connection, "u", ["hero", "cta", "x"])
            assert events.sticky_variants(connection, "other", ["hero", "cta"]) == {}
        assert {key: (row["variant"], row["epoch"], row["city"]) for key, row in sticky.items()} == {
            "hero": ("a", 0, "c0"),
            "cta": ("b", None, None),
        }

    @pytest.mark.parametrize("order", ["xyz", "zyx", "yxz"])
    def test_of_several_at_the_same_time_the_order_of_arrival_makes_no_difference(
        self, database: Database, order: str
    ) -> None:
        stored(database, running())
        for name in order:
            record(database, exposure("u", "b" if name == "x" else "a", START, id=name))
        assert [r["variant"] for r in rows(database, schema.exposures)] == ["b"]

    def test_bots_and_goals_expose_nobody(self, database: Database) -> None:
        stored(database, running())
        record(database, exposure("u", "b", START, bot=True), event("lead", "v", START, variant="a"))
        assert rows(database, schema.exposures) == []
        record(database, exposure("u", "a", LATER))
        assert [(r["unit"], r["variant"]) for r in rows(database, schema.exposures)] == [("u", "a")]


class TestConcurrency:
    def test_the_same_ids_from_many_threads_are_stored_once(self, database: Database) -> None:
        stored(database, running())
        batches = [
            [exposure(f"u{n}", "a", START, id=f"x{n}") for n in range(k, k + 40)] for k in range(0, 200, 20)
        ]
        barrier = threading.Barrier(8)

        def post(shift: int) -> int:
            barrier.wait()
            return sum(record(database, *batches[(k + shift) % len(batches)]) for k in range(len(batches)))

        with ThreadPoolExecutor(8) as pool:
            accepted = sum(pool.map(post, range(8)))
        posted = 8 * sum(map(len, batches))
        assert accepted == len(rows(database, schema.events)) == len(rows(database, schema.exposures)) == 220
        assert receipts(database) == {("hero", "accepted"): 220, ("hero", "duplicate"): posted - 220}

    def test_batches_in_opposite_orders_do_not_block_each_other(self, database: Database) -> None:
        stored(database, running())
        batch = [exposure(f"u{n}", "a", START, id=f"x{n:04}") for n in range(2000)]
        barrier = threading.Barrier(2)

        def post(step: int) -> int:
            barrier.wait()
            return record(database, *batch[::step])

        with ThreadPoolExecutor(2) as pool:
            assert sum(pool.map(post, (1, -1))) == 2000

    def test_a_first_exposure_is_the_earliest_whoever_comes_first(self, database: Database) -> None:
        stored(database, running())
        barrier = threading.Barrier(6)

        def post(number: int) -> None:
            barrier.wait()
            for unit in range(10):
                record(database, exposure(f"u{unit}", "ab"[number % 2], START + number * HOUR))

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(post, range(6)))
        assert {(r["variant"], r["exposed_at"]) for r in rows(database, schema.exposures)} == {("a", START)}

    def test_a_reader_sees_one_moment(self, database: Database) -> None:
        exposed = sa.select(sa.func.count()).select_from(schema.exposures)
        stored(database, running())
        record(database, exposure("u", "a", START))
        with database.read() as connection:
            before = connection.scalar(exposed)
            record(database, exposure("v", "a", START))
            assert connection.scalar(exposed) == before == 1
        with database.read() as connection:
            assert connection.scalar(exposed) == 2

    def test_changes_are_counted_without_losing_one(self, database: Database) -> None:
        def change(_: int) -> None:
            with database.write() as connection:
                experiments.bump_revision(connection)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(change, range(20)))
        with database.read() as connection:
            assert experiments.revision(connection) == 20


class TestExperiments:
    def test_they_come_back_as_they_went_in(self, database: Database) -> None:
        three = replace(
            running("cta", ("x", "y", "z"), adaptive=True, zone="Europe/Paris", base_rate=0.031, units=1234),
            hypothesis="é", reasoning="because", priority=0.7, occasion="party", source="autopilot", parent_id="hero",
            winner="y", ended_at=START + 3 * DAY,
        )  # fmt: skip
        stored(database, running(), three)
        with database.read() as connection:
            assert experiments.get(connection, "cta") == three
            assert experiments.with_status(connection) == [three, running()]  # of one time: by id
            assert experiments.with_status(connection, Status.DRAFT, Status.ARCHIVED) == []

    def test_a_taken_id_is_a_conflict(self, database: Database) -> None:
        stored(database, running())
        with pytest.raises(Conflict, match="experiment hero exists already"):
            stored(database, running())

    def test_an_unknown_one_names_those_there_are(self, database: Database) -> None:
        with database.read() as connection, pytest.raises(NotFound, match="there are none yet"):
            experiments.get(connection, "x")
        stored(database, running())
        with database.read() as connection, pytest.raises(NotFound, match="choose from hero"):
            experiments.get(connection, "x")

    def test_shares_move_only_ahead(self, database: Database) -> None:
        experiment = stored(database, running(adaptive=True))
        border, moved = experiment.epochs[1].starts_at, {"a": 0.3, "b": 0.7}
        with database.write() as connection:
            assert experiments.set_future_shares(connection, experiment, moved, border)
        with database.read() as connection:
            after = experiments.get(connection, "hero")
        assert [dict(e.shares)["a"] for e in after.epochs] == [0.5, 0.5] + [0.3] * (len(after.epochs) - 2)
        assert after == with_shares(experiment, {e.number: moved for e in experiment.epochs[2:]})
        with database.write() as connection:
            assert not experiments.set_future_shares(connection, after, moved, border)
            with pytest.raises(InvalidInput, match="sum to 1"):
                experiments.set_future_shares(connection, after, {"a": 0.3, "b": 0.6}, border)
            with pytest.raises(Conflict, match="frozen inside an epoch"):
                experiments.set_future_shares(connection, after, moved, after.epochs[-1].starts_at)

    @pytest.mark.parametrize("change", ["add", "update", "start", "shares", "production"])
    def test_every_change_that_assignment_depends_on_is_noticed(
        self, database: Database, change: str
    ) -> None:
        experiment = stored(database, running(adaptive=True))
        draft = replace(running("cta"), status=Status.DRAFT, epochs=())
        stored(database, draft)
        changes: dict[str, Callable[[sa.Connection], Any]] = {
            "add": lambda c: experiments.add(c, running("new")),
            "update": lambda c: experiments.update(c, replace(experiment, winner="b")),
            "start": lambda c: experiments.start(c, running("cta")),
            "shares": lambda c: experiments.set_future_shares(c, experiment, {"a": 0.4, "b": 0.6}, LATER),
            "production": lambda c: decisions.set_production(c, "hero", None),
        }
        with database.write() as connection:
            before = experiments.revision(connection)
            changes[change](connection)
            assert experiments.revision(connection) > before

    def test_an_error_undoes_the_whole_change(self, database: Database) -> None:
        def fails() -> None:
            with database.write() as connection:
                experiments.add(connection, running())
                _ = 1 / 0

        with pytest.raises(ZeroDivisionError):
            fails()
        assert (
            rows(database, schema.experiments)
            == rows(database, schema.variants)
            == rows(database, schema.home)
            == []
        )


def decision(minute: int = 0, verdict: Verdict = Verdict.SHIP, **fields: Any) -> Decision:
    as_of = START + timedelta(minutes=minute)
    cells = (Cell(0, "a", 10, 1, 0.1, 0.2), Cell(0, "b", 11, 2, 0.3, 0.4, 5.0, 6.25))
    known = {
        "winner": "b",
        "evidence": Evidence(comparisons=(Comparison("b", "B", True, p_value=0.04),), guardrails=()),
        "fingerprint": "f",
        "text": "é",
        **fields,
    }
    return Decision("hero", as_of, verdict, (Reason("c", "t"),), cells, id=f"hero:{minute}", **known)


class TestDecisions:
    def test_they_come_back_with_everything_they_rest_on(self, database: Database) -> None:
        stored(database, running())
        with database.write() as connection:
            for minute, verdict in enumerate((Verdict.SHIP, Verdict.KEEP_CONTROL, Verdict.SHIP)):
                decisions.add(connection, decision(minute, verdict))
        with database.read() as connection:
            assert decisions.get(connection, "hero:1") == decision(1, Verdict.KEEP_CONTROL)
            assert [d.id for d in decisions.latest(connection)] == ["hero:2", "hero:1", "hero:0"]
            assert [d.id for d in decisions.latest(connection, limit=1)] == ["hero:2"]
            assert [d.id for d in decisions.latest(connection, verdict=Verdict.SHIP)] == ["hero:2", "hero:0"]
            assert decisions.latest(connection, "other") == []
            with pytest.raises(NotFound, match="`cro status` lists"):
                decisions.get(connection, "nope")

    def test_a_second_one_at_the_same_minute_is_a_conflict_and_changes_nothing(
        self, database: Database
    ) -> None:
        stored(database, running())
        with database.write() as connection:
            decisions.add(connection, decision())
            with pytest.raises(Conflict, match="stored already"):
                decisions.add(connection, decision(text="another"))
        with database.read() as connection:
            assert decisions.get(connection, "hero:0").text == "é"

    def test_production_holds_what_each_slot_shows(self, database: Database) -> None:
        entry = {
            "since": START, "experiment_id": "hero", "variant": "b", "config": {"x": [1]}, "asset_id": None,
            "unproven": True, "decision_id": None,
        }  # fmt: skip
        with database.write() as connection:
            decisions.set_production(connection, "hero", entry)
            decisions.set_production(connection, "cta", entry | {"variant": "c"})
            decisions.set_production(connection, "hero", entry | {"variant": "a"})
            assert {s: e["variant"] for s, e in decisions.production(connection).items()} == {
                "cta": "c",
                "hero": "a",
            }
            assert decisions.production(connection)["cta"] == entry | {"variant": "c", "slot": "cta"}
            decisions.set_production(connection, "cta", None)
            assert list(decisions.production(connection)) == ["hero"]

    def test_a_recommendation_is_asked_once_and_settled_once(self, database: Database) -> None:
        asked = {
            "id": "ship:hero", "kind": "ship", "subject": "hero", "status": decisions.PENDING, "created_at": START,
            "text": "Ship b?", "payload": {"variant": "b"},
        }  # fmt: skip
        with database.write() as connection:
            assert decisions.recommend(connection, asked)
            assert not decisions.recommend(connection, asked | {"id": "ship:hero:2"})
            assert decisions.recommend(
                connection, asked | {"id": "start:cta", "kind": "start", "subject": "cta"}
            )
            assert decisions.settle(connection, "ship:hero", decisions.APPROVED, LATER)["payload"] == {
                "variant": "b"
            }
            with pytest.raises(Conflict, match="ship:hero is approved already"):
                decisions.settle(connection, "ship:hero", decisions.REJECTED, LATER)
            with pytest.raises(NotFound, match="pending are start:cta"):
                decisions.settle(connection, "nope", decisions.REJECTED, LATER)
            assert decisions.recommend(connection, asked | {"id": "ship:hero:3"})
            assert [r["id"] for r in decisions.recommendations(connection)] == ["ship:hero:3", "start:cta"]
            settled = {
                r["id"]: (r["status"], r["settled_at"]) for r in decisions.recommendations(connection, None)
            }
            assert settled["ship:hero"] == ("approved", LATER)


class TestJournal:
    def test_the_trail_says_who_when_what_before_and_after(self, database: Database) -> None:
        with database.write() as connection:
            one = journal.log(
                connection, at=START, actor="me", action="x", subject="hero",
                before={"status": Status.RUNNING, "at": START}, after=None,
            )  # fmt: skip
            two = journal.log(
                connection, at=LATER, actor="autopilot", action="y", subject="cta", after={"n": float("nan")}
            )
            journal.mark_undone(connection, one, two)
        with database.read() as connection:
            assert [c["id"] for c in journal.trail(connection)] == [two, one]
            assert [c["id"] for c in journal.trail(connection, limit=1)] == [two]
            assert [c["id"] for c in journal.trail(connection, subject="hero")] == [one]
            assert [c["id"] for c in journal.trail(connection, since=LATER)] == [two]
            assert journal.change(connection, two)["after"] == {"n": None}
            assert journal.change(connection, one) == {
                "id": one, "at": START, "actor": "me", "action": "x", "subject": "hero", "undone_by": two,
                "before": {"status": "running", "at": "2026-03-02T09:00:00Z"}, "after": None,
            }  # fmt: skip
            with pytest.raises(NotFound, match="`cro rollback --list`"):
                journal.change(connection, 99)

    def test_a_change_that_fails_leaves_no_trace(self, database: Database) -> None:
        def fails() -> None:
            with database.write() as connection:
                journal.log(connection, at=START, actor="me", action="x", subject="hero")
                _ = 1 / 0

        with pytest.raises(ZeroDivisionError):
            fails()
        assert rows(database, schema.audit) == []

    def test_runs_are_noted_from_begin_to_end(self, database: Database) -> None:
        with database.write() as connection:
            journal.start_run(connection, "r1", "orchestrate", START)
            journal.start_run(connection, "r2", "train", LATER)
            journal.finish_run(
                connection, "r1", status="done", now=LATER, notebook="n.ipynb", outcome={"x": 1}
            )
        with database.read() as connection:
            done = journal.run(connection, "r1")
            assert (done["status"], done["finished_at"], done["outcome"]) == ("done", LATER, {"x": 1})
            assert journal.run(connection, "r2")["status"] == "running"
            assert [r["id"] for r in journal.runs(connection)] == ["r2", "r1"]
            assert [r["id"] for r in journal.runs(connection, "orchestrate")] == ["r1"]
            with pytest.raises(NotFound, match="run 'r3'"):
                journal.run(connection, "r3")

    def test_the_newest_model_is_found(self, database: Database) -> None:
        with database.write() as connection:
            assert journal.latest_model(connection) is None
            journal.add_model(connection, "m1", START, "trained", {"accuracy": 0.7})
            journal.add_model(connection, "m2", LATER, "too_little", {"why": "not enough history"})
            newest = journal.latest_model(connection)
        assert newest is not None
        assert (newest["id"], newest["record"]) == ("m2", {"why": "not enough history"})


def test_counters_of_posted_events_add_up(database: Database) -> None:
    """Accepted and duplicate add up to what was posted, for every experiment, over many overlapping batches."""
    stored(database, running(), running("cta"))
    posted: Counter[str] = Counter()
    for start in range(0, 60, 7):
        batch = [
            exposure("u", "a", START, to=("hero", "cta")[n % 2], id=f"x{n % 40}")
            for n in range(start, start + 15)
        ]
        posted.update(str(e.experiment_id) for e in batch)
        record(database, *batch)
    found = receipts(database)
    by_experiment = {e: found[e, "accepted"] + found[e, "duplicate"] for e in ("hero", "cta")}
    assert by_experiment == dict(posted)
    assert found["hero", "accepted"] + found["cta", "accepted"] == len(rows(database, schema.events)) == 40


def test_the_rows_are_written_in_the_order_of_the_columns(database: Database) -> None:
    """Each field in its own column: the writer lists them by hand."""
    stored(database, running())
    full = exposure(
        "unit", "b", START, id="id", received_at=LATER, session="session", device="device", city="city", country="country",
        value=1.5, asset_id="asset", occasion="occasion", url="url", properties={"a": 1}, epoch=3, propensity=0.25,
    )  # fmt: skip
    record(database, full)
    (kept,) = rows(database, schema.exposures)
    assert kept == {
        name: getattr(full, {"event_id": "id", "exposed_at": "occurred_at"}.get(name, name)) for name in kept
    }
    record(database, replace(full, id="b", bot=True), replace(full, id="i", internal=True))
    marks = {r["id"]: (r["bot"], r["internal"]) for r in rows(database, schema.events)}
    assert marks == {"id": (False, False), "b": (True, False), "i": (False, True)}
