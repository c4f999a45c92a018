"""What analysts and the dashboard read: tables, overview, running tests, winners."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
from helpers.store_samples import DAY, HOUR, START, TICK, event, exposure, rows, running, stored

from cro_core import frames
from cro_core.analytics import free_sql as door_module
from cro_core.clock import to_micros
from cro_core.domain import Status, Verdict, to_json
from cro_core.errors import Conflict, InvalidInput, NotFound, StoreError
from cro_core.evidence import Comparison, Decision, Evidence
from cro_core.home import Home
from cro_core.storage import decisions, events, experiments, journal, schema
from cro_core.workflows import overview
from cro_core.workflows.evaluate import evaluate, evaluate_within
from cro_core.workflows.seal import seal

LATE = START + 15 * DAY

EVERY: Mapping[str, tuple[Any, Mapping[str, str]]] = {
    "events": (frames.events, frames.EVENTS),
    "units": (frames.units, frames.UNITS),
    "daily": (frames.daily, frames.DAILY),
    "segments": (frames.segments, frames.SEGMENTS),
    "decisions": (frames.decisions, frames.DECISIONS),
}

WRITES = (
    "COPY (SELECT 1) TO '{file}'",
    "COPY (SELECT 1) TO '{file}' (USE_TMP_FILE false)",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{file}' (USE_TMP_FILE false)",
    "/* a remark */ EXPLAIN (ANALYZE, FORMAT json) COPY (SELECT 1) TO '{file}' (USE_TMP_FILE false)",
    "PREPARE p AS COPY (SELECT 1) TO '{file}' (USE_TMP_FILE false)",
    "SELECT 1; COPY (SELECT 1) TO '{file}' (USE_TMP_FILE false)",
    "COPY (SELECT 1) TO '{folder}/more.parquet'",
    "EXPORT DATABASE '{folder}/all'",
    "ATTACH '{folder}/more.db'",
    "ATTACH '{folder}/../../cro.sqlite' (TYPE sqlite)",
    "SELECT * FROM read_text('/etc/hostname')",
    "SET enable_external_access = true",
    "SET memory_limit = '900GB'",
    "INSTALL sqlite",
    "DELETE FROM exposures",
    "UPDATE held.receipts SET count = 0",
    "INSERT INTO held.experiments SELECT * FROM held.experiments",
    "DROP TABLE held.events",
)


@pytest.fixture
def busy(site: Home) -> Home:
    """Two running experiments with a few visitors, and one that waits."""
    stored(
        site.db,
        running(),
        running("cta"),
        replace(running("draft"), status=Status.DRAFT, started_at=None, epochs=()),
    )
    posted = [
        exposure("u1", "a", START, device="mobile"),
        exposure("u2", "b", START + HOUR, city="Århus"),
        event("lead", "u2", START + 2 * HOUR, value=5.0),
        event("play", "u1", START + 2 * HOUR),
        exposure("u3", "a", START + 14 * DAY),
        exposure("u1", "b", START, to="cta"),
        event("lead", "stranger", START, to=None),
    ]
    with site.db.write() as connection:
        events.record(connection, posted, (), START)
    return site


@pytest.fixture
def late(busy: Home) -> Iterator[Home]:
    """The same home when the experiments are over."""
    home = replace(busy, clock=lambda: LATE)
    yield home
    home.db.close()


class TestFrames:
    def test_events_are_those_of_the_experiment_in_order(self, busy: Home) -> None:
        frame = frames.events(busy, "hero")
        assert list(frame["type"]) in (
            ["exposure", "exposure", "play", "lead", "exposure"],
            ["exposure", "exposure", "lead", "play", "exposure"],
        )
        assert frame["occurred_at"].is_monotonic_increasing
        assert set(frame["experiment_id"]) == {"hero"}

    def test_units_are_the_counted_visitors(self, busy: Home) -> None:
        frame = frames.units(busy, "hero", LATE)
        assert list(frame["unit"]) == ["u1", "u2"]
        assert list(frame["converted"]) == [False, True]
        assert list(frame["score"]) == [20.0, 100.0]
        assert list(frame["value"]) == [0.0, 5.0]
        assert frame["exposed_at"].iloc[1] == pd.Timestamp(START + HOUR)
        assert frame["converted_at"].iloc[1] == pd.Timestamp(START + 2 * HOUR)
        assert pd.isna(frame["converted_at"].iloc[0])
        assert (frame["device"].iloc[0], frame["city"].iloc[1]) == ("mobile", "Århus")
        assert frame.groupby("variant")["converted"].mean().to_dict() == {"a": 0.0, "b": 1.0}

    def test_those_who_may_still_convert_are_told_apart(self, site: Home) -> None:
        stored(site.db, running())
        soon = START + 5 * HOUR
        posted = [
            exposure("u1", "a", START),
            exposure("u2", "b", START + HOUR),
            event("lead", "u2", START + 2 * HOUR, value=5.0),
            exposure("u3", "b", START + 2 * HOUR),
            event("lead", "u3", soon),  # nobody has seen that at the moment of the look
        ]
        with site.db.write() as connection:
            events.record(connection, posted, (), START)
        assert frames.units(site, "hero", soon).empty
        frame = frames.units(site, "hero", soon, immature=True)
        assert list(frame["unit"]) == ["u1", "u2", "u3"]
        assert list(frame["converted"]) == [False, True, False]
        assert frame["converted_at"].notna().tolist() == [False, True, False]
        assert frame[["score", "value"]].isna().all(axis=None)
        assert frame.attrs["left_out"] == {}
        assert not frame["mature"].any()
        later = frames.units(site, "hero", LATE, immature=True)
        assert later["mature"].all()
        assert list(later["converted"]) == [False, True, True]

    def test_a_day_is_one_of_the_site_and_every_variant_has_it(self, make_site: Callable[..., Home]) -> None:
        site = make_site()
        stored(site.db, running(zone="Pacific/Auckland"))  # 13 hours ahead of UTC
        posted = [
            exposure("u1", "a", START),  # 22:00
            exposure("u2", "a", START + 2 * HOUR + TICK),  # the next day
            exposure("u3", "b", START + 3 * DAY, value=3.0),
            event("lead", "u3", START + 3 * DAY, value=2.5),
        ]
        with site.db.write() as connection:
            events.record(connection, posted, (), START)
        frame = frames.daily(site, "hero", START + 4 * DAY + HOUR)
        days = pd.to_datetime(["2026-03-02", "2026-03-03", "2026-03-04", "2026-03-05"])
        assert list(frame["day"]) == [day for day in days for _ in "ab"]
        assert list(frame["variant"]) == ["a", "b"] * 4
        assert list(frame["units"]) == [1, 0, 1, 0, 0, 0, 0, 1]
        assert list(frame["conversions"]) == [0, 0, 0, 0, 0, 0, 0, 1]
        assert list(frame["complete"]) == [True] * 6 + [False] * 2
        assert frame["rate"].iloc[7] == 1.0
        assert frame["rate"].isna().tolist() == [False, True, False, True, True, True, True, False]
        assert (frame["score_sum"].sum(), frame["value_sum"].sum()) == (100.0, 2.5)

    def test_segments_divide_all_counted_visitors(self, busy: Home) -> None:
        frame = frames.segments(busy, "hero", LATE)
        assert tuple(frame["dimension"].unique()) == frames.BY
        assert set(frame.groupby("dimension")["units"].sum()) == {2}
        assert set(frame.groupby("dimension")["conversions"].sum()) == {1}
        device = frame[frame["dimension"] == "device"].set_index("segment")
        assert (device.loc["mobile", "variant"], device.loc["mobile", "units"]) == ("a", 1)
        assert (device.loc["(unknown)", "variant"], device.loc["(unknown)", "rate"]) == ("b", 1.0)
        assert device.loc["mobile", ["low", "high"]].tolist() == pytest.approx([0.0, 0.79345], abs=1e-5)
        assert set(frames.segments(busy, "hero", LATE, by=["city"])["dimension"]) == {"city"}
        with pytest.raises(InvalidInput, match="choose from device"):
            frames.segments(busy, "hero", LATE, by=["shoe"])

    def test_decisions_are_those_stored_oldest_first(self, busy: Home) -> None:
        assert frames.decisions(busy).empty
        for moment in (LATE, LATE - DAY):
            with busy.db.write() as connection:
                decisions.add(
                    connection,
                    evaluate_within(connection, experiments.get(connection, "hero"), moment).decision,
                )
        frame = frames.decisions(busy)
        assert list(frame["as_of"]) == [pd.Timestamp(LATE - DAY), pd.Timestamp(LATE)]
        assert list(frame["units"]) == [2, 2]
        assert list(frame["conversions"]) == [1, 1]
        assert len(frames.decisions(busy, "hero")) == 2
        assert frames.decisions(busy, "cta").empty
        with pytest.raises(NotFound, match="choose from"):
            frames.decisions(busy, "nope")

    @pytest.mark.parametrize("name", EVERY)
    def test_nobody_yet_is_an_empty_table_of_the_same_kinds(self, late: Home, name: str) -> None:
        make, columns = EVERY[name]
        stored(late.db, running("quiet"))
        with late.db.write() as connection:
            decisions.add(
                connection, evaluate_within(connection, experiments.get(connection, "hero"), LATE).decision
            )
        empty, full = make(late, "quiet"), make(late, "hero")
        assert (len(empty), len(full) > 0) == (0, True)
        assert {n: str(kind) for n, kind in empty.dtypes.items()} == columns
        assert {n: str(kind) for n, kind in full.dtypes.items()} == columns
        assert {"experiment", "as_of", "complete_until", "lake_version"} <= full.attrs.keys()

    def test_a_table_says_up_to_when_it_is_complete(self, late: Home) -> None:
        frame = frames.units(late, "hero")
        assert frame.attrs == {
            "experiment": "hero",
            "as_of": "2026-03-17T09:00:00Z",
            "complete_until": "2026-03-16T09:00:00Z",
            "lake_version": None,
            "left_out": {"after_enrolment": 1},
        }
        early = frames.units(late, "hero", START + 25 * HOUR)
        assert (len(early), early.attrs["left_out"]) == (1, {"immature": 1})
        ahead = frames.units(late, "hero", LATE + 30 * DAY)  # nobody knows yet who will come
        assert ahead.attrs["complete_until"] == frame.attrs["complete_until"]
        with late.db.write() as connection:
            ended = replace(running(), status=Status.COMPLETED, ended_at=START + 25 * HOUR)
            experiments.update(connection, ended)
        pd.testing.assert_frame_equal(frames.units(late, "hero"), early)
        assert frames.units(late, "hero").attrs == early.attrs

    @pytest.mark.parametrize("make", [frames.units, frames.daily, frames.segments])
    def test_what_cannot_be_shown_says_so(self, busy: Home, make: Callable[..., pd.DataFrame]) -> None:
        with pytest.raises(NotFound, match="choose from"):
            make(busy, "nope", LATE)
        with pytest.raises(Conflict, match="has not started"):
            make(busy, "draft", LATE)
        with pytest.raises(NotFound, match="choose from"):
            frames.events(busy, "nope")

    @pytest.mark.parametrize("name", EVERY)
    def test_a_file_holds_the_whole_table(self, late: Home, name: str, tmp_path: Path) -> None:
        with late.db.write() as connection:
            posted = [exposure("u9", "a", START, properties={"referrer": "https://x.org/", "n": 1})]
            events.record(connection, posted, (), START)
            decisions.add(
                connection, evaluate_within(connection, experiments.get(connection, "hero"), LATE).decision
            )
        frame = EVERY[name][0](late, "hero")
        file = frames.to_parquet(frame, tmp_path / "table.parquet")
        again = pq.read_table(file)
        assert json.loads(again.schema.metadata[b"cro"]) == frame.attrs
        assert again.num_rows == len(frame) > 0
        back = again.to_pandas()
        if "properties" in back:
            texts = back["properties"]
            back["properties"] = [json.loads(text) if isinstance(text, str) else None for text in texts]
        pd.testing.assert_frame_equal(back, frame)
        assert [f.name for f in tmp_path.glob("*.parquet")] == ["table.parquet"]
        with pytest.raises(InvalidInput, match="a folder that exists"):
            frames.to_parquet(frame, tmp_path / "none" / "table.parquet")

    def test_the_busiest_is_the_one_met_most(self, busy: Home) -> None:
        assert frames.busiest(busy) == "hero"

    def test_without_events_there_is_no_busiest(self, site: Home) -> None:
        with pytest.raises(NotFound, match="cro generate"):
            frames.busiest(site)


class TestDoor:
    def test_it_shows_the_store(self, busy: Home) -> None:
        with busy.db.write() as connection:
            decisions.add(
                connection, evaluate_within(connection, experiments.get(connection, "hero"), LATE).decision
            )
        with frames.connect(busy) as door:
            assert door.execute("SELECT COUNT(*) FROM events").fetchone() == (7,)
            assert door.execute("SELECT sealed, unsealed FROM snapshot").fetchall() == [(0, 7)]
            assert (door.snapshot.lake_version, door.snapshot.unsealed) == (None, 7)
            exposures = door.execute("SELECT * FROM exposures ORDER BY experiment_id, unit").df()
            kept = rows(busy.db, schema.exposures)
            assert [
                tuple(row) for row in exposures[["experiment_id", "unit", "event_id", "variant"]].values
            ] == [(row["experiment_id"], row["unit"], row["event_id"], row["variant"]) for row in kept]
            assert list(exposures["exposed_at"]) == [row["exposed_at"].replace(tzinfo=None) for row in kept]
            known = door.execute(
                "SELECT id, status, started_at, plan->>'$.alpha' FROM experiments ORDER BY id"
            )
            assert known.fetchall() == [
                ("cta", "running", START.replace(tzinfo=None), "0.05"),
                ("draft", "draft", None, "0.05"),
                ("hero", "running", START.replace(tzinfo=None), "0.05"),
            ]
            assert door.execute(
                "SELECT verdict FROM decisions WHERE experiment_id = $e", {"e": "hero"}
            ).fetchall()
            for name in door_module.TABLES:
                wanted = len(rows(busy.db, door_module.TABLES[name]))
                assert door.execute(f"SELECT COUNT(*) FROM {name}").fetchone() == (wanted,)

    def test_a_moment_is_there_for_people_and_to_the_microsecond(self, busy: Home) -> None:
        at = START + timedelta(days=1, microseconds=7)
        with busy.db.write() as connection:
            events.record(connection, [exposure("late", "a", at)], (), at)
        with frames.connect(busy) as door:
            found = door.execute(
                "SELECT occurred_at, occurred_at_us FROM events WHERE unit = 'late'"
            ).fetchall()
        assert found == [(at.replace(tzinfo=None), to_micros(at))]

    def test_it_shows_one_moment_and_holds_nothing(self, busy: Home) -> None:
        with frames.connect(busy) as door:
            with busy.db.write(patience=0.5) as connection:
                events.record(connection, [exposure("u7", "a", START)], (), START)
            busy.db.scrub()  # waits until nobody reads
            assert door.execute("SELECT COUNT(*) FROM events").fetchone() == (7,)
        with frames.connect(busy) as door:
            assert door.execute("SELECT COUNT(*) FROM events").fetchone() == (8,)

    @pytest.mark.parametrize("sql", WRITES)
    def test_it_cannot_write_to_the_store(self, make_site: Callable[..., Home], sql: str) -> None:
        home = make_site({"storage": {"hot_days": 1, "seal_at_events": 0}})
        stored(home.db, running())
        with home.db.write() as connection:
            events.record(connection, [exposure("u1", "a", START)], (), START)
        seal(home, now=START + 3 * DAY)
        (file,) = Path(home.lake.location).rglob("*.parquet")
        before = file.read_bytes()
        with frames.connect(home) as door:
            assert door.execute("SELECT COUNT(*) FROM events").fetchone() == (1,)
            with pytest.raises((InvalidInput, duckdb.Error)):
                door.execute(sql.format(file=file, folder=file.parent))
            assert door.execute("SELECT COUNT(*) FROM events").fetchone() == (1,)
        assert file.read_bytes() == before
        assert list(file.parent.iterdir()) == [file]

    def test_tables_of_ones_own_are_possible(self, busy: Home) -> None:
        with frames.connect(busy) as door:
            door.execute("CREATE TEMP TABLE mine AS SELECT type, COUNT(*) AS n FROM events GROUP BY 1")
            assert door.execute("FROM mine ORDER BY n DESC LIMIT 1").fetchall() == [("exposure", 4)]
            assert [len(batch) for batch in door.execute("FROM mine").to_arrow_reader()] == [3]
            assert door.execute("FROM mine").to_arrow_table().num_rows == 3
            assert [name for name, *_ in door.description] == ["type", "n"]
            assert "SCAN" in str(door.execute("EXPLAIN ANALYZE SELECT COUNT(*) FROM mine").fetchall())

    def test_replaced_files_are_an_error_that_says_what_to_do(self, make_site: Callable[..., Home]) -> None:
        home = make_site({"storage": {"hot_days": 1, "seal_at_events": 0}})
        stored(home.db, running())
        with home.db.write() as connection:
            events.record(connection, [exposure("u1", "a", START)], (), START)
        seal(home, now=START + 3 * DAY)
        with frames.connect(home) as door:
            for file in Path(home.lake.location).rglob("*.parquet"):
                file.unlink()
            with pytest.raises(StoreError, match="open the door again"):
                door.execute("SELECT unit FROM events").fetchall()


class TestEvaluate:
    def test_it_changes_nothing_and_says_the_same_again(self, busy: Home) -> None:
        first = evaluate(busy, "hero", as_of=LATE)
        assert evaluate(busy, "hero", as_of=LATE) == first
        with busy.db.read() as connection:
            assert decisions.latest(connection) == []
            assert experiments.get(connection, "hero").status is Status.RUNNING
        json.dumps(to_json(first), allow_nan=False)

    def test_it_carries_the_waterfall(self, busy: Home) -> None:
        early, final = (evaluate(busy, "hero", as_of=moment) for moment in (START + 2 * DAY, LATE))
        assert (early.final, final.final) == (False, True)
        for decision in (early, final):
            steps = {s.step: s.count for s in decision.evidence.waterfall}
            assert steps["received"] == sum(steps.values()) - steps["received"] > 0
        assert {s.step: s.count for s in final.evidence.waterfall}["received"] == 6

    def test_what_cannot_be_evaluated_says_so(self, busy: Home) -> None:
        with pytest.raises(NotFound):
            evaluate(busy, "nope", as_of=LATE)
        with pytest.raises(Conflict):
            evaluate(busy, "draft", as_of=LATE)


class TestOverview:
    def test_the_site_in_a_few_numbers(self, busy: Home) -> None:
        with busy.db.write() as connection:
            journal.start_run(connection, "r1", "orchestrate", START)
        found = overview.overview(busy, now=LATE)
        assert found["experiments"] == {"draft": 1, "running": 2, "completed": 0, "archived": 0}
        assert found["events"] == {"accepted": 7}
        assert (found["site"], found["automation_enabled"], found["pending"]) == ("My site", True, 0)
        assert found["last_run"]["id"] == "r1"
        json.dumps(found, allow_nan=False)

    def test_running_tests_show_exposed_and_counted(self, busy: Home) -> None:
        cta, hero = overview.running_experiments(busy, now=START + 25 * HOUR)
        assert (cta.experiment_id, hero.experiment_id) == ("cta", "hero")
        assert (hero.exposed_units, hero.counted_units) == (3, 1)  # u2's window ends just now
        assert [(v.variant, v.share, v.units, v.rate) for v in hero.variants] == [
            ("a", 0.5, 1, 0.0),
            ("b", 0.5, 0, None),
        ]
        json.dumps(to_json([cta, hero]), allow_nan=False)
        after = overview.running_experiments(busy, now=LATE)[1]
        assert [v.share for v in after.variants] == [None, None]
        assert after.counted_units == 2

    def test_a_running_test_is_counted_again_when_something_is_new(
        self, busy: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Soon after only for a new event or another state; then always."""
        monkeypatch.setattr(overview, "SHARE", 10**9)
        now = LATE

        def hero(moment: datetime) -> overview.RunningExperiment:
            return next(
                t for t in overview.running_experiments(busy, now=moment) if t.experiment_id == "hero"
            )

        first = hero(now)
        assert hero(now + overview.FRESH - TICK) == first
        assert first.as_of == now
        assert hero(now + overview.FRESH).as_of == now + overview.FRESH
        with busy.db.write() as connection:
            events.record(connection, [exposure("new", "a", START + HOUR)], (), START)
        assert hero(now).exposed_units == first.exposed_units + 1
        with busy.db.write() as connection:
            found = experiments.get(connection, "hero")
            experiments.update(connection, replace(found, hypothesis="another one"))
        assert hero(now + timedelta(seconds=1)).hypothesis == "another one"
        monkeypatch.setattr(overview, "SHARE", 0)
        assert hero(now + 2 * HOUR).as_of == now + 2 * HOUR
        assert hero(now + 2 * HOUR + TICK).as_of == now + 2 * HOUR + TICK

    def _ship(
        self, home: Home, name: str, minute: int, verdict: Verdict = Verdict.SHIP, winner: str = "b"
    ) -> None:
        as_of = START + timedelta(minutes=minute)
        evidence = Evidence(comparisons=(Comparison("b", "B", True, relative=0.2),))
        decision = Decision(
            name, as_of, verdict, (), (), winner=winner, evidence=evidence, id=f"{name}:{minute}", text="t"
        )
        with home.db.write() as connection:
            decisions.add(connection, decision)

    def test_winners_are_proven_and_still_stand(self, site: Home) -> None:
        ended = {"status": Status.ARCHIVED, "winner": "b"}
        stored(site.db, *(replace(running(n), **ended) for n in ("one", "two", "kept")))  # type: ignore[arg-type]
        stored(site.db, replace(running("back"), status=Status.ARCHIVED, winner=None))
        for minute in range(300):  # so many other decisions must not push them out of sight
            self._ship(site, "kept", minute + 10, Verdict.INCONCLUSIVE)
        self._ship(site, "one", 1)
        self._ship(site, "two", 2)
        self._ship(site, "back", 3)
        found = overview.recent_winners(site)
        assert [(w.experiment_id, w.variant) for w in found] == [("two", "b"), ("one", "b")]
        assert found[0].comparison == Comparison("b", "B", True, relative=0.2)
        assert found[0].decided_at == START + timedelta(minutes=2)
        assert [w.experiment_id for w in overview.recent_winners(site, limit=1)] == ["two"]

    def test_decisions_are_listed_with_what_waits(self, busy: Home) -> None:
        self._ship(busy, "hero", 1)
        asked = {
            "id": "ship:hero", "kind": "ship", "subject": "hero", "status": decisions.PENDING, "created_at": START,
            "text": "Ship?", "payload": {},
        }  # fmt: skip
        with busy.db.write() as connection:
            decisions.recommend(connection, asked)
        found = overview.decision_list(busy)
        assert [d.id for d in found.decisions] == ["hero:1"]
        assert [p["id"] for p in found.pending] == ["ship:hero"]
        assert overview.overview(busy, now=START)["pending"] == 1
        json.dumps(to_json(found), allow_nan=False)
