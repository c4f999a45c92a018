"""Sealing, on SQLite and on PostgreSQL: whatever happens, each event is stored once and every reader sees it once."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa
from helpers.lake_samples import (
    DAY,
    MONDAY,
    SETTINGS,
    Victims,
    ids,
    store,
    stored,
    victims,
    visit,
    visits,
)
from helpers.store_samples import TICK, event, rows, running
from helpers.store_samples import stored as with_experiment

from cro_core.domain import Status
from cro_core.errors import Busy, StoreError
from cro_core.home import Home, open_home
from cro_core.importing import ledger
from cro_core.ingest.cleaning import Rejection
from cro_core.storage import events as event_store
from cro_core.storage import id_filters, journal, schema, sealing, seals
from cro_core.workflows.orchestrate import orchestrate
from cro_core.workflows.seal import SEAL, SUBJECT, leaving_out, only_sealer, seal

FRIDAY = MONDAY + 4 * DAY
LATE = FRIDAY + timedelta(hours=9)


@pytest.fixture
def home(make_site: Callable[..., Home], monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home that seals whatever is closed, in small pieces."""
    monkeypatch.setattr(sealing, "FEWEST", 5)
    monkeypatch.setattr(sealing, "MOST", 50)
    monkeypatch.setattr(sealing, "PIECE", 60)
    return make_site(SETTINGS)


@pytest.fixture(scope="module")
def victim() -> Iterator[Victims]:
    with victims() as found:
        yield found


@pytest.fixture(scope="module")
def other_victim() -> Iterator[Victims]:
    with victims() as found:
        yield found


def expect(home: Home, posted: Counter[str] | set[str]) -> None:
    assert stored(home) == Counter(posted)


def names(found: list[Any]) -> set[str]:
    return {one.id for one in found}


def test_closed_days_move_and_the_others_stay(home: Home) -> None:
    posted = visits(300, days=5)
    store(home, posted)

    done = seal(home, now=LATE)

    closed = {e.id for e in posted if e.occurred_at < FRIDAY - DAY}
    hot, cold = ids(home)
    assert (set(hot), set(cold)) == (names(posted) - closed, closed)
    assert (done.events, done.days, done.waiting) == (len(closed), 3, 0)
    expect(home, names(posted))


@pytest.mark.parametrize(
    ("hot_days", "first"), [(0, FRIDAY), (1, FRIDAY - DAY), (3, MONDAY + DAY), (30, MONDAY)]
)
def test_days_are_those_of_utc(make_site: Callable[..., Home], hot_days: int, first: datetime) -> None:
    home = make_site(
        {"site": {"time_zone": "America/New_York"}, "storage": {"hot_days": hot_days, "seal_at_events": 0}}
    )
    tick = timedelta(microseconds=1)
    store(home, [visit(0, first - tick), visit(1, first), visit(2, FRIDAY + tick)])

    seal(home, now=LATE)

    assert ids(home)[0].keys() == (
        {"event-000001", "event-000002"} if hot_days < 30 else {f"event-00000{n}" for n in range(3)}
    )


@pytest.mark.parametrize("place", ["cold days", "{path}/../elsewhere"])
def test_the_lake_is_where_the_settings_say(
    make_site: Callable[..., Home], tmp_path: Path, place: str
) -> None:
    home = make_site({"storage": {"lake": place.format(path=tmp_path / "home"), "seal_at_events": 0}})
    store(home, visits(20))

    seal(home, now=LATE)

    folder = home.path / "cold days" if place == "cold days" else tmp_path / "elsewhere"
    assert (folder / "_delta_log").is_dir()
    assert not (home.data / "lake").exists()
    expect(home, names(visits(20)))


def test_few_events_are_not_worth_it(make_site: Callable[..., Home]) -> None:
    home = make_site({"storage": {"seal_at_events": 11}})
    store(home, visits(10, days=1))

    assert (seal(home, now=LATE).events, seal(home, now=LATE).waiting) == (0, 10)
    assert seals_noted(home) == 0
    store(home, [visit(11, MONDAY)])
    assert seal(home, now=LATE).events == 11


def test_once_a_day_unless_forced(home: Home) -> None:
    store(home, visits(10, days=1))
    assert seal(home, now=LATE).events == 10
    store(home, visits(10, days=1, start=10))

    again = seal(home, now=FRIDAY + timedelta(hours=23))
    assert (again.events, again.skipped is None) == (0, False)
    assert seal(home, now=FRIDAY + timedelta(hours=23), force=True).events == 10
    store(home, visits(10, days=1, start=20))
    assert seal(home, now=FRIDAY + DAY).events == 10
    expect(home, {f"event-{n:06d}" for n in range(30)})


def test_sealing_twice_changes_nothing(home: Home) -> None:
    posted = visits(200)
    store(home, posted)
    seal(home, now=LATE)
    before = ids(home), seals_noted(home)

    done = seal(home, now=LATE, force=True)

    assert (done.events, done.changes) == (0, ())
    assert (ids(home), seals_noted(home)) == before


@pytest.mark.parametrize("moved_by", [timedelta(0), timedelta(hours=5), 2 * DAY])
def test_a_duplicate_of_a_sealed_event_is_refused(home: Home, moved_by: timedelta) -> None:
    store(home, visits(100))
    seal(home, now=LATE)

    again = [visit(n, MONDAY + n * 3 * DAY / 100 + moved_by) for n in range(100)]
    assert store(home, [*again[:3], visit(100, MONDAY)]) == 1
    assert store(home, again) == 0
    seal(home, now=LATE, force=True)
    assert store(home, [*again, visit(100, MONDAY)]) == 0

    expect(home, names(visits(100)) | {"event-000100"})
    assert receipts(home) == {"accepted": 101, "duplicate": 3 + 100 + 101}


def test_another_process_knows_what_was_sealed(home: Home) -> None:
    other = open_home(home.path, home.environ)
    try:
        for day in range(4):
            posted = visits(80, days=1, start=day * 80)
            assert store(other, posted) == 80
            seal(home, now=LATE, force=True)
            assert store(other, visits(80 * (day + 1), days=1)) == 0
    finally:
        other.db.close()


def test_late_events_join_their_day(home: Home) -> None:
    posted = visits(90)
    store(home, posted)
    seal(home, now=LATE)
    late = visits(30, start=1000)
    assert store(home, late) == 30

    assert seal(home, now=LATE, force=True).events == 30

    hot, cold = ids(home)
    assert (hot, set(cold)) == (Counter(), names(posted) | names(late))


@pytest.mark.parametrize(("together", "files"), [(1, 4), (3, 10)])
def test_many_small_files_of_a_day_are_joined(
    home: Home, monkeypatch: pytest.MonkeyPatch, together: int, files: int
) -> None:
    """When so many days have too many; one day alone when it has that many times too many."""
    monkeypatch.setattr(sealing, "MOST_FILES", 3)
    monkeypatch.setattr(sealing, "DAYS_TOGETHER", together)
    joined = []
    for n in range(files):
        store(home, visits(10, days=1, start=10 * n))
        joined.append(seal(home, now=LATE, force=True).joined)

    assert joined == [0] * (files - 1) + [1]
    with home.db.read() as connection:
        assert len(home.lake.files(seals.current(connection) or 0)) == 1
    expect(home, names(visits(10 * files)))


def test_a_large_day_moves_in_pieces(home: Home) -> None:
    posted = visits(700, days=1)
    store(home, posted)

    assert seal(home, now=LATE).events == 700

    assert seals_noted(home) >= 700 / sealing.MOST
    assert ids(home)[0] == Counter()
    expect(home, names(posted))


def test_values_come_back_as_they_were(home: Home) -> None:
    given = [
        visit(
            1,
            MONDAY,
            value=1.25,
            properties={"seats": [20, None], "é": "x"},
            url="https://a.example/b",
            epoch=3,
        ),
        visit(2, MONDAY, bot=True, session="s" * 32, city="Zürich", propensity=0.5),
        event("lead", "u", MONDAY, to=None, id="e3", internal=True),
    ]
    store(home, given)
    before = {row["id"]: row for row in rows(home.db, schema.events)}
    seal(home, now=LATE)

    with home.db.read() as connection, duckdb.connect() as reader:
        query = "SELECT * FROM read_parquet(?, hive_partitioning = false)"
        found = reader.execute(query, [home.lake.files(seals.current(connection) or 0)])
        columns = [d[0] for d in found.description]
        sealed = [tuple(row) for row in found.fetchall()]
    store(home, [])
    home.db.close()
    with home.db.write() as connection:  # what came from the table goes into it again as it was
        marks = ", ".join(f":{c}" for c in columns)
        cast = (
            marks.replace(":properties", "CAST(:properties AS JSON)")
            if connection.dialect.name != "sqlite"
            else marks
        )
        statement = sa.text(f"INSERT INTO events ({', '.join(columns)}) VALUES ({cast})")
        connection.execute(statement, [dict(zip(columns, one, strict=True)) for one in sealed])
    assert {row["id"]: row for row in rows(home.db, schema.events)} == before


def test_it_is_in_the_audit_trail(home: Home) -> None:
    store(home, visits(40))
    seal(home, now=LATE, actor="somebody")

    with home.db.read() as connection:
        (entry,) = journal.trail(connection, subject=SUBJECT)
        version = seals.current(connection)
    assert (entry["actor"], entry["action"], entry["at"]) == ("somebody", SEAL, LATE)
    assert (entry["after"]["events"], entry["after"]["version"]) == (40, version)


def test_two_at_once(home: Home) -> None:
    store(home, visits(50))
    with home.lock("seal"), pytest.raises(Busy):
        seal(home, now=LATE)
    with only_sealer(home, LATE), pytest.raises(Busy):
        seal(open_home(home.path, home.environ), now=LATE)
    assert seal(home, now=LATE).events == 50


def test_another_machine_on_the_same_postgresql_waits(home: Home) -> None:
    other = open_home(home.path, home.environ)
    try:
        with seals.alone(home.db):
            if home.db.engine.dialect.name == "postgresql":
                with pytest.raises(Busy, match="another machine"), seals.alone(other.db):
                    pass
        with seals.alone(other.db), home.db.write() as connection:
            seals.note(connection, None, 1, at=LATE, reason="seal", events=0)
    finally:
        other.db.close()


def test_a_version_noted_by_somebody_else_is_not_overwritten(home: Home) -> None:
    store(home, visits(20))
    before = None
    seal(home, now=LATE)

    with pytest.raises(Busy, match="nothing was noted"), home.db.write() as connection:
        seals.note(connection, before, 7, at=LATE, reason="seal", events=1)
    expect(home, names(visits(20)))


def test_events_that_vanish_in_between_stop_it(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    store(home, visits(40))
    real = home.lake.append

    def append(rows: Any) -> int:
        with home.db.write() as connection:
            connection.execute(sa.delete(schema.events).where(schema.events.c.id == "event-000003"))
        return real(rows)

    with monkeypatch.context() as patch:
        patch.setattr(home.lake, "append", append)
        with pytest.raises(StoreError, match="something else deletes"):
            seal(home, now=LATE)
    assert ids(home)[1] == Counter()

    seal(home, now=LATE)
    expect(home, names(visits(40)) - {"event-000003"})


def test_readers_see_every_event_once_while_days_move(home: Home) -> None:
    posted = visits(600)
    store(home, posted)
    wrong: list[int] = []
    looks: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            found = stored(home)
            looks.append(len(ids(home)[1]))
            if found != Counter(names(posted)):
                wrong.append(found.total())

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    moved = seal(home, now=LATE)
    time.sleep(0.2)
    done.set()
    for reader in readers:
        reader.join()

    assert moved.events == 600
    assert wrong == []
    assert len(set(looks)) > 2  # they did look while it happened


def test_writers_and_duplicates_while_days_move(home: Home) -> None:
    """Four clients post all the events, in different orders, while they are being sealed."""
    posted = visits(400)
    accepted: list[int] = []
    failures: list[Exception] = []

    def post(seed: int) -> None:
        order = random.Random(seed).sample(posted, len(posted))
        try:
            accepted.append(sum(store(home, order[n : n + 20]) for n in range(0, len(order), 20)))
        except Exception as error:  # noqa: BLE001  looked at below
            failures.append(error)

    clients = [threading.Thread(target=post, args=(seed,)) for seed in range(4)]
    for client in clients:
        client.start()
    while any(client.is_alive() for client in clients):
        seal(home, now=LATE, force=True)
    for client in clients:
        client.join()
    seal(home, now=LATE, force=True)

    assert failures == []
    assert sum(accepted) == len(posted)
    assert ids(home) == (Counter(), Counter(names(posted)))
    assert receipts(home) == {"accepted": 400, "duplicate": 1200}


@pytest.mark.sizes(20, 40)
@pytest.mark.parametrize("seed", range(4))
def test_any_interleaving_keeps_each_event_once(
    home: Home, seed: int, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A model of the store: a set of ids. Recording, repeating, late events, sealing and crashes at any step."""
    rng = random.Random(seed)
    model: dict[str, Any] = {}
    crashes = ["remember", "note", "remove"]
    for step in range(size):
        act = rng.choice(["record", "record", "repeat", "late", "seal", "crash"])
        if act in {"record", "late"}:
            day = rng.randrange(5) if act == "record" else 0
            fresh = [
                visit(step * 100 + n, MONDAY + day * DAY + n * timedelta(minutes=7))
                for n in range(rng.randrange(1, 60))
            ]
            assert store(home, fresh) == len(fresh)
            model |= {e.id: e for e in fresh}
        elif act == "repeat" and model:
            some = rng.sample(sorted(model), min(len(model), 30))
            assert store(home, [visit(int(name[6:]), MONDAY + rng.randrange(5) * DAY) for name in some]) == 0
        elif act == "seal":
            seal(home, now=LATE, force=True)
        elif act == "crash":
            with monkeypatch.context() as patch:
                name, calls = rng.choice(crashes), rng.randrange(1, 4)
                patch.setattr(seals, name, failing(getattr(seals, name), calls))
                with suppress(ZeroDivisionError):
                    seal(home, now=LATE, force=True)
        expect(home, set(model))
    seal(home, now=LATE, force=True)
    expect(home, set(model))
    assert store(home, [visit(int(name[6:]), FRIDAY) for name in model]) == 0


def failing(real: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """The function, which works and then fails at one of its calls."""
    left = calls

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        result = real(*args, **kwargs)
        if left == 0:
            raise ZeroDivisionError
        return result

    return call


PLACES = [
    (step, when, nth)
    for step, when, nth in (
        *(("undo", when, 1) for when in ("before", "after")),
        *(("remember", when, nth) for when in ("before", "after") for nth in (1, 2)),
        *(("append", when, nth) for when in ("before", "after") for nth in (1, 3)),
        *(("note", when, nth) for when in ("before", "after") for nth in (1, 3)),
        *(("remove", when, nth) for when in ("before", "after") for nth in (1, 3)),
        *(("move", when, nth) for when in ("before", "after") for nth in (2,)),
        *(("rewrite", when, 1) for when in ("before", "after")),
        *(("vacuum", when, 1) for when in ("before", "after")),
        ("tidy", "after", 1),
    )
]


@pytest.mark.sizes(4, 1)
def test_killed_at_every_step(home: Home, victim: Victims, size: int) -> None:
    """``kill -9`` wherever it can hurt; then everything is there, once, and known, and the next one starts there."""
    model: set[str] = set()
    for number, (step, when, nth) in enumerate(PLACES[::size]):
        fresh = visits(50, days=2, start=1000 * number)
        store(home, fresh)
        model |= names(fresh)
        most_files = 0 if step == "rewrite" else 1000

        status = victim.work(home, "seal", LATE, step=step, when=when, nth=nth, most_files=most_files)

        assert status == -9, (step, when, nth)
        assert stored(home) == Counter(model), (step, when, nth)
        assert store(home, fresh) == 0, (step, when, nth)
    assert victim.work(home, "seal", LATE) == 0
    assert ids(home) == (Counter(), Counter(model))


@pytest.mark.sizes(3, 10)
def test_killed_at_any_moment(home: Home, victim: Victims, size: int) -> None:
    """The same without knowing where: also within a commit, a file or a transaction."""
    rng = random.Random(7)
    model: set[str] = set()
    longest, kills = 1.0, 0
    for number in range(size):
        fresh = visits(100, start=1000 * number)
        store(home, fresh)
        model |= names(fresh)
        killer = threading.Timer(rng.uniform(0.05, longest), victim.kill_worker)
        killer.start()
        begun = time.monotonic()
        status = victim.work(home, "seal", LATE)
        killer.cancel()
        killer.join()
        longest = min(longest, time.monotonic() - begun)
        kills += status == -9
        assert status in {-9, 0}
        expect(home, model)
    assert kills > size // 5
    assert victim.work(home, "seal", LATE) == 0
    assert ids(home) == (Counter(), Counter(model))


def test_two_processes_seal_at_once(home: Home, victim: Victims, other_victim: Victims) -> None:
    posted = visits(500)
    store(home, posted)
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda v=v: statuses.append(v.work(home, "seal", LATE)))
        for v in (victim, other_victim)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 0 in statuses
    assert -9 not in statuses
    assert ids(home) == (Counter(), Counter(names(posted)))


def test_what_is_too_old_is_erased(make_site: Callable[..., Home]) -> None:
    home = make_site({"storage": {"hot_days": 1, "seal_at_events": 0, "retention_days": 10}})
    ended, runs = running("old"), running("new")
    with_experiment(home.db, runs)
    with_experiment(home.db, replace(ended, status=Status.ARCHIVED, ended_at=MONDAY + 2 * DAY - TICK))
    posted = [visit(n, MONDAY + n * DAY / 10, to=("old", "new")[n % 2]) for n in range(40)]
    store(home, posted)
    with home.db.write() as connection:
        event_store.record(connection, (), [Rejection(0, "no", "{}", "old")], MONDAY)
        event_store.record(connection, (), [Rejection(0, "no", "{}", "new")], MONDAY + 3 * DAY)
    seal(home, now=MONDAY + 4 * DAY)
    assert ids(home)[1].total() == 30
    store(home, [visit(100, MONDAY, to="old")])

    done = seal(home, now=MONDAY + 12 * DAY + timedelta(hours=1))

    kept = {e.id for e in posted if e.occurred_at >= MONDAY + 2 * DAY}
    expect(home, kept)
    assert done.erased == 21
    assert receipts(home) == {"accepted": 41, "erased": 21, "rejected": 2}
    assert {row["experiment_id"] for row in rows(home.db, schema.exposures)} == {"new"}
    assert [row["experiment_id"] for row in rows(home.db, schema.quarantine)] == ["new"]
    assert seal(home, now=MONDAY + 12 * DAY + timedelta(hours=2), force=True).erased == 0


def test_an_experiment_goes_with_its_sealed_events(home: Home) -> None:
    store(home, [visit(n, MONDAY + n * timedelta(hours=3), to=("old", "new")[n % 2]) for n in range(60)])
    seal(home, now=LATE)
    store(home, [visit(n, LATE, to="old") for n in range(100, 105)])
    mine = {f"event-{n:06d}" for n in range(1, 60, 2)}

    with pytest.raises(ZeroDivisionError), leaving_out(home, "old", now=LATE):
        raise ZeroDivisionError
    assert stored(home).total() == 65
    with leaving_out(home, "old", now=LATE) as connection:
        ledger.remove(connection, "old")

    expect(home, mine)
    assert store(home, [visit(n, MONDAY, to="old") for n in range(0, 60, 2)]) == 30
    with leaving_out(home, "none", now=LATE):
        pass


def test_the_hourly_cycle_seals(home: Home) -> None:
    store(home, visits(50))

    report = orchestrate(home, now=LATE)

    assert "sealed 50 events of 3 day(s)" in report.changes
    assert ids(home)[0] == Counter()


def test_the_cycle_seals_where_automation_is_off(make_site: Callable[..., Home]) -> None:
    home = make_site({**SETTINGS, "automation": {"enabled": False}})
    store(home, visits(50))

    report = orchestrate(home, now=LATE)

    assert (report.evaluated, report.changes) == (0, ("sealed 50 events of 3 day(s)",))
    assert "automation.enabled" in (report.skipped or "")


def test_a_cycle_goes_on_where_another_process_seals(home: Home) -> None:
    store(home, visits(50))
    with home.lock("seal"):
        report = orchestrate(home, now=LATE)
    assert (report.failures, report.changes) == ((), ())


def test_filters_grow_with_what_is_sealed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_filters, "FIRST", 64)
    monkeypatch.setattr(id_filters, "GROWTH", 2)
    for n in range(3):
        store(home, visits(200, days=1, start=200 * n))
        seal(home, now=LATE, force=True)

    found = rows(home.db, schema.id_filters)
    assert [row["ids"] for row in found] == [64, 128, 256, 152]
    assert store(home, visits(600, days=1)) == 0
    assert store(home, visits(600, days=1, start=5000)) == 600


def seals_noted(home: Home) -> int:
    with home.db.read() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(schema.lake_versions)) or 0


def receipts(home: Home) -> dict[str, int]:
    with home.db.read() as connection:
        return event_store.totals(connection)
