"""What analysts and the dashboard read: tables, overview, running tests, winners."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pandas as pd
import pytest
from store_samples import DAY, HOUR, START, event, exposure, running, stored

from cro_core import frames
from cro_core.domain import Decision, Status, Verdict, to_json
from cro_core.errors import Conflict, NotFound
from cro_core.home import Home
from cro_core.storage import decisions, events, experiments, journal
from cro_core.workflows import overview
from cro_core.workflows.evaluate import evaluate

LATE = START + 15 * DAY


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


class TestFrames:
    def test_events_are_those_of_the_experiment_in_order(self, busy: Home) -> None:
        frame = frames.events(busy, "hero")
        assert list(frame["type"]) == ["exposure", "exposure", "play", "lead", "exposure"] or list(frame["type"]) == [
            "exposure", "exposure", "lead", "play", "exposure",
        ]  # fmt: skip
        assert frame["occurred_at"].is_monotonic_increasing
        assert str(frame["occurred_at"].dt.tz) == "UTC"
        assert set(frame["experiment_id"]) == {"hero"}
        assert frames.events(busy, "nope").empty

    def test_units_are_the_counted_visitors(self, busy: Home) -> None:
        frame = frames.units(busy, "hero", LATE)
        assert list(frame["unit"]) == ["u1", "u2"]
        assert list(frame["converted"]) == [False, True]
        assert frame["converted"].dtype == bool
        assert list(frame["score"]) == [20.0, 100.0]
        assert frame["exposed_at"].iloc[1] == pd.Timestamp(START + HOUR)
        assert frame["converted_at"].iloc[1] == pd.Timestamp(START + 2 * HOUR)
        assert pd.isna(frame["converted_at"].iloc[0])
        assert "standing" not in frame
        assert frame.groupby("variant")["converted"].mean().to_dict() == {"a": 0.0, "b": 1.0}

    def test_units_agree_with_the_decision(self, busy: Home) -> None:
        decision = evaluate(busy, "hero", as_of=LATE)
        frame = frames.units(busy, "hero", LATE)
        counted = {t["variant"]: (t["units"], t["conversions"]) for t in decision.evidence["totals"]}
        assert counted == {v: (len(g), g["converted"].sum()) for v, g in frame.groupby("variant")}

    def test_nobody_yet_is_an_empty_table_with_its_columns(self, busy: Home) -> None:
        empty = frames.units(busy, "hero", START)
        full = frames.units(busy, "hero", LATE)
        assert len(empty) == 0
        assert list(empty.columns) == [c for c in frames.COLUMNS if c != "standing"]
        assert set(empty.columns) == set(full.columns)
        assert empty["converted"].dtype == bool

    def test_what_cannot_be_shown_says_so(self, busy: Home) -> None:
        with pytest.raises(NotFound, match="choose from"):
            frames.units(busy, "nope", LATE)
        with pytest.raises(Conflict, match="has not started"):
            frames.units(busy, "draft", LATE)

    def test_the_busiest_is_the_one_met_most(self, busy: Home) -> None:
        assert frames.busiest(busy) == "hero"

    def test_without_events_there_is_no_busiest(self, site: Home) -> None:
        with pytest.raises(NotFound, match="cro generate"):
            frames.busiest(site)


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
            steps = {s["step"]: s["count"] for s in decision.evidence["waterfall"]}
            assert steps["received"] == sum(steps.values()) - steps["received"] > 0
        assert {s["step"]: s["count"] for s in final.evidence["waterfall"]}["received"] == 6

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
        cta, hero = overview.active_tests(busy, now=START + 25 * HOUR)
        assert (cta["test_id"], hero["test_id"]) == ("cta", "hero")
        assert (hero["exposed_units"], hero["counted_units"]) == (3, 1)  # u2's window ends just now
        assert [(v["variant_id"], v["share"], v["units"], v["rate"]) for v in hero["variants"]] == [
            ("a", 0.5, 1, 0.0),
            ("b", 0.5, 0, None),
        ]
        json.dumps([cta, hero], allow_nan=False)
        after = overview.active_tests(busy, now=LATE)[1]
        assert [v["share"] for v in after["variants"]] == [None, None]
        assert after["counted_units"] == 2

    def _ship(
        self, home: Home, name: str, minute: int, verdict: Verdict = Verdict.SHIP, winner: str = "b"
    ) -> None:
        as_of = START + timedelta(minutes=minute)
        evidence = {"comparisons": [{"variant": "b", "relative": 0.2}]}
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
        assert [w["test_id"] for w in found] == ["two", "one"]
        assert found[0]["comparison"] == {"variant": "b", "relative": 0.2}
        assert found[0]["decided_at"] == "2026-03-02T09:02:00Z"
        assert [w["test_id"] for w in overview.recent_winners(site, limit=1)] == ["two"]

    def test_decisions_are_listed_with_what_waits(self, busy: Home) -> None:
        self._ship(busy, "hero", 1)
        asked = {
            "id": "ship:hero", "kind": "ship", "subject": "hero", "status": decisions.PENDING, "created_at": START,
            "text": "Ship?", "payload": {},
        }  # fmt: skip
        with busy.db.write() as connection:
            decisions.recommend(connection, asked)
        found = overview.decision_list(busy)
        assert [d["id"] for d in found["decisions"]] == ["hero:1"]
        assert [p["id"] for p in found["pending"]] == ["ship:hero"]
        assert overview.overview(busy, now=START)["pending"] == 1
        json.dumps(found, allow_nan=False)
