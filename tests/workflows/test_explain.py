"""Where numbers come from: every SQL text that is printed gives, in an analyst's door, the number beside it."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from helpers.service_samples import LATER, make_home, start_server
from helpers.service_samples import exposure as posted_exposure
from helpers.store_samples import DAY, HOUR, START, TICK, event, exposure, running, stored, with_shares
from typer.testing import CliRunner

from cro_core import frames
from cro_core.analytics import counts, definitions, reader
from cro_core.analytics.completeness import extent
from cro_core.analytics.explanation import Explanation, explanation
from cro_core.cli import app
from cro_core.clock import from_micros
from cro_core.domain import Event, Goal
from cro_core.errors import Conflict, NotFound
from cro_core.home import Home, set_clock
from cro_core.ingest.cleaning import Rejection
from cro_core.rendering.explanation_text import explanation_text
from cro_core.storage import events, experiments
from cro_core.workflows.evaluate import evaluate
from cro_core.workflows.explain import explain
from cro_core.workflows.seal import seal

LATE = START + 15 * DAY
MOMENTS = (START + 2 * DAY, START + 9 * DAY + 7 * HOUR + TICK, LATE)
SEALED: dict[str, datetime | None] = {"hot": None, "mixed": START + 6 * DAY, "sealed": LATE + 9 * DAY}
"""When the days are sealed."""


def life(rng: random.Random) -> list[Event]:
    """Two weeks with everything that can happen to an event."""
    found: list[Event] = []
    for number in range(260):
        unit, at = f"u{number}", START - DAY + rng.random() * 15 * DAY
        flags = {"bot": number % 17 == 0, "internal": number % 23 == 0}
        epoch = rng.choice([None, 0, (at - START) // DAY, (at - START) // DAY + 1])
        found.append(
            exposure(unit, rng.choice("ab"), at, epoch=epoch, device=rng.choice(["mobile", None]), **flags)
        )
        found += [
            exposure(unit, rng.choice("ab"), at + rng.random() * DAY) for _ in range(rng.choice([0, 0, 1, 2]))
        ]
        for _ in range(rng.choice([0, 1, 2, 3])):
            to, kind = rng.choice(["hero", None, "other"]), rng.choice(["lead", "call", "play", "page_view"])
            when = at + (rng.random() * 1.4 - 0.2) * DAY
            for again in range(rng.choice([1, 1, 2])):
                value = rng.choice([None, rng.random() * 100])
                found.append(event(kind, unit, when + again * HOUR, to=to, value=value))
    found += [event("lead", f"stranger{n}", START + n * DAY, to=None) for n in range(5)]
    return [e for e in found if e.occurred_at < LATE]


ALL_PLACES = pytest.mark.parametrize(
    ("database_url", "lived"),
    [
        *(("sqlite", place) for place in SEALED),
        pytest.param("postgres", "hot", marks=pytest.mark.slow),
        ("postgres", "mixed"),
        pytest.param("postgres", "sealed", marks=pytest.mark.slow),
    ],
    indirect=True,
)


@pytest.fixture
def lived(make_site: Callable[..., Home], request: pytest.FixtureRequest) -> Home:
    """A home whose events are in the database, in the lake, or in both."""
    home = make_site({"storage": {"hot_days": 1, "seal_at_events": 0}})
    moved = {number: {"a": 0.3, "b": 0.7} for number in range(5, 14)}
    stored(home.db, with_shares(running(adaptive=True, zone="Europe/Paris"), moved), running("other"))
    log = life(random.Random(20260302))
    with home.db.write() as connection:
        events.record(connection, log, (), START)
        events.record(connection, log[::9], [Rejection(0, "no type", "{}", "hero")] * 3, LATE)
    if SEALED[request.param]:
        seal(home, now=SEALED[request.param])
    return home


def look(home: Home, as_of: datetime) -> Explanation:
    return explain(home, "hero", as_of=as_of, now=LATE)


@ALL_PLACES
def test_every_sql_gives_its_number(lived: Home) -> None:
    with frames.connect(lived) as door:
        for as_of in MOMENTS:
            found = look(lived, as_of)
            door.execute(found.definitions)
            given = {n.name: door.execute(n.sql).fetchall() for n in (*found.steps, *found.variants)}
            assert given == {n.name: [(n.count,)] for n in (*found.steps, *found.variants)}


@ALL_PLACES
def test_the_sample_has_everything_that_can_happen(lived: Home) -> None:
    found = {n.name: n.count for moment in MOMENTS for n in look(lived, moment).steps if n.count}
    assert found.keys() == {"received", *definitions.STEPS} - {"cut_out"}  # nobody has cut anything out


@ALL_PLACES
def test_the_sql_leaves_out_what_was_cut_out(lived: Home) -> None:
    without = [("day", "2026-03-04"), ("hour", "10:00"), ("city", "it's")]
    with lived.db.write() as connection:
        events.record(connection, [exposure("odd", "a", START + DAY, city="it's", epoch=1)], (), START)
    with lived.db.read() as connection:
        experiment = experiments.get(connection, "hero")
        with reader.reading(connection, experiment, LATE, without=without) as less:
            steps, totals = less.waterfall(), counts.totals(experiment, less.cells())
        stored = extent(connection, experiment, LATE)
        found = explanation(experiment, LATE, steps, totals, stored, LATE, less.cut)
    assert next(step.count for step in steps if step.step == "cut_out") > 1
    assert found.parameters["cut_2"] == "it's"
    with frames.connect(lived) as door:
        door.execute(explanation_text(found, sql=True))
        given = {n.name: door.execute(n.sql).fetchall() for n in (*found.steps, *found.variants)}
    assert given == {n.name: [(n.count,)] for n in (*found.steps, *found.variants)}


@ALL_PLACES
def test_the_numbers_are_those_of_the_decision(lived: Home) -> None:
    for as_of in MOMENTS:
        found, evidence = look(lived, as_of), evaluate(lived, "hero", as_of=as_of).evidence
        waterfall = {s.step: (s.count, s.text) for s in evidence.waterfall}
        assert {n.name: (n.count, n.text) for n in found.steps} == waterfall
        steps = {n.name: n.count for n in found.steps}
        assert steps["received"] == sum(steps.values()) - steps["received"]
        totals = {t.variant: (t.units, t.conversions) for t in evidence.totals}
        numbers = {n.name: n.count for n in found.variants}
        assert {v: (numbers[f"units:{v}"], numbers[f"conversions:{v}"]) for v in totals} == totals
        assert steps["counted_exposure"] == sum(units for units, _ in totals.values()) > 0


@ALL_PLACES
def test_the_tables_agree_with_the_decision(lived: Home) -> None:
    for as_of in MOMENTS:
        evidence = evaluate(lived, "hero", as_of=as_of).evidence
        totals = {t.variant: (t.units, t.conversions) for t in evidence.totals}
        units, daily = frames.units(lived, "hero", as_of), frames.daily(lived, "hero", as_of)
        assert {v: (len(g), g["converted"].sum()) for v, g in units.groupby("variant")} == totals
        for table in (daily, *_dimensions(frames.segments(lived, "hero", as_of, by=["device", "hour"]))):
            sums = table.groupby("variant")[["units", "conversions"]].sum()
            assert {v: (row["units"], row["conversions"]) for v, row in sums.iterrows()} == totals
        for table, columns in ((units, ["score", "value"]), (daily, ["score_sum", "value_sum"])):
            sums = table.groupby("variant")[columns].sum()
            for total in evidence.totals:
                wanted = [total.score_sum, total.value_sum]
                assert sums.loc[total.variant].tolist() == pytest.approx(wanted, rel=1e-12)


def _dimensions(segments: Any) -> list[Any]:
    return [table for _, table in segments.groupby("dimension")]


@ALL_PLACES
def test_it_says_where_the_events_are(lived: Home, request: pytest.FixtureRequest) -> None:
    found = look(lived, LATE)
    steps = {n.name: n.count for n in found.steps}
    kept = found.stored
    assert kept.hot + kept.sealed == steps["received"] - steps["rejected"] - steps["duplicate"]
    stage = request.node.callspec.params["lived"]
    assert (kept.hot > 0, kept.sealed > 0) == (stage != "sealed", stage != "hot")
    assert (kept.lake_version is None) == (stage == "hot")
    assert kept.newest_event is not None
    assert LATE - DAY < kept.newest_event < LATE
    with frames.connect(lived) as door:
        assert door.snapshot.lake_version == kept.lake_version
        assert door.snapshot.sealed + door.snapshot.unsealed == len(life(random.Random(20260302)))
        newest = "SELECT MAX(occurred_at_us) FROM events JOIN explained USING (id)"
        door.execute(found.definitions)
        assert from_micros(door.execute(newest).fetchone()[0]) == kept.newest_event
    assert found.complete_until == LATE - DAY
    assert look(lived, START + 2 * DAY).complete_until == START + DAY


@ALL_PLACES
def test_the_script_runs_as_it_is_printed(lived: Home) -> None:
    found = look(lived, LATE)
    script = explanation_text(found, sql=True)
    with frames.connect(lived) as door:
        last = found.variants[-1]
        assert door.execute(script).fetchall() == [(last.count,)]
        assert door.execute(
            "SELECT COUNT(*) FROM events"
        ).fetchone()  # the door's own views stay what they were
    assert f"-- crossover: {next(n.count for n in found.steps if n.name == 'crossover')}  (" in script
    assert "-- as_of = 1773738000000000  (2026-03-17T09:00:00Z)" in script
    assert "-- window = 86400000000  (1 day, 0:00:00)" in script


def test_what_cannot_be_explained_says_so(make_site: Callable[..., Home]) -> None:
    home = make_site()
    with pytest.raises(NotFound, match="nope"):
        explain(home, "nope", as_of=LATE, now=LATE)
    stored(home.db, replace(running(), started_at=None, epochs=()))
    with pytest.raises(Conflict, match="has not started"):
        explain(home, "hero", as_of=LATE, now=LATE)


def test_names_with_quotes_do_not_leave_their_place(make_site: Callable[..., Home]) -> None:
    home, name = make_site(), "it's; -- DROP"
    stored(home.db, running(goals=(Goal(name, 1.0, True),)))
    with home.db.write() as connection:
        events.record(connection, [exposure("u", "a", START), event(name, "u", START + TICK)], (), START)
    found = look(home, START + 3 * DAY)
    with frames.connect(home) as door:
        assert door.execute(explanation_text(found, sql=True)).fetchall() == [(0,)]
        assert door.execute("SELECT step FROM explained ORDER BY 1").fetchall() == [
            ("counted_exposure",),
            ("counted_goal",),
        ]


def test_the_commands(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    with home.db.write() as connection:
        log = [exposure(f"u{n}", "control", LATER, to="hero-cta", epoch=0) for n in range(3)]
        events.record(connection, log, (), LATER)
    set_clock(home, LATER + 2 * DAY)

    def run(*arguments: str) -> str:
        found = CliRunner().invoke(app, [*arguments, "--home", str(home.path)], catch_exceptions=False)
        assert found.exit_code == 0
        return found.output

    text = run("explain", "hero-cta")
    assert "=           3  counted_exposure  units: first exposures that count" in text
    assert "stored    3 events hot (database), 0 sealed (nothing was sealed yet)" in text
    data = json.loads(run("explain", "hero-cta", "--json"))
    with frames.connect(home) as door:
        door.execute(data["definitions"])
        assert all(
            door.execute(n["sql"]).fetchall() == [(n["count"],)] for n in data["steps"] + data["variants"]
        )
        door.execute(run("explain", "hero-cta", "--sql"))
    file = tmp_path / "visitors.parquet"
    assert run("export", "hero-cta", "--to", str(file)) == f"3 rows written to {file}\n"
    told = json.loads(run("export", "hero-cta", "--to", str(file), "--table", "segments", "--json"))
    assert (told["rows"], told["complete_until"]) == (len(frames.BY), "2026-03-03T10:00:00Z")
    home.db.close()


@pytest.mark.sizes(6, 25)
def test_the_door_opens_beside_a_service_that_ingests_and_a_sealing(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setenv("CRO_DATABASE_URL", database_url)
    home = make_home(tmp_path / "home", {"storage": {"hot_days": 1, "seal_at_events": 0}})
    server = start_server(home, tmp_path / "server.log")
    sent, acknowledged, failures, stop = [0], [0], [], threading.Event()

    def post() -> None:
        while not stop.is_set():
            first = sent[0]
            batch = [
                posted_exposure(f"v{n}", ("control", "call")[n % 2], id=f"e{n}", timestamp=LATER.isoformat())
                for n in range(first, first + 40)
            ]
            sent[0] += len(batch)
            status, _, answer = server.call("POST", "/api/cro/events", batch)
            if (status, answer["accepted"]) != (202, len(batch)):
                failures.append((status, answer))
            acknowledged[0] += len(batch)
            stop.wait(0.02)

    poster = threading.Thread(target=post)
    poster.start()
    seen = []
    try:
        over = size * 2 // 5
        for number in range(size):
            if number == over:  # the days are over: what is there moves to the lake meanwhile
                set_clock(home, LATER + 3 * DAY)
                assert seal(home, now=LATER + 3 * DAY).events > 0
            least = acknowledged[0]
            with frames.connect(home) as door:
                most = sent[0]
                counts = door.execute(COUNTS).fetchone()
                receipts = door.execute(ACCEPTED).fetchone()
                assert least <= counts[0] <= most
                assert counts == (counts[0],) * 4
                assert receipts == (counts[0],)  # one snapshot
                assert door.snapshot.sealed + door.snapshot.unsealed == counts[0]
                assert (door.snapshot.sealed > 0) == (number >= over)
            seen.append(counts[0])
    finally:
        stop.set()
        poster.join()
        server.process.terminate()
        server.process.wait()
    assert failures == []
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]
    with frames.connect(home) as door:
        assert door.execute(COUNTS).fetchone() == (sent[0],) * 4
    assert "locked" not in server.log.read_text().lower()
    home.db.close()


ACCEPTED = "SELECT COALESCE(SUM(count), 0) FROM receipts WHERE outcome = 'accepted'"
COUNTS = """
SELECT COUNT(*), COUNT(DISTINCT id), COUNT(DISTINCT unit), (SELECT COUNT(*) FROM exposures) FROM events
"""
