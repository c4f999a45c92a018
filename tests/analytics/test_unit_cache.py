"""What is kept of the sealed events from one look to the next: never another number, and nothing for ever."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from helpers.lake_samples import DAY, MONDAY, SETTINGS, store, visit
from helpers.store_samples import START, event, exposure, running
from helpers.store_samples import stored as with_experiment

from cro_core.analytics import unit_cache
from cro_core.analytics.reader import Reading, reading
from cro_core.domain import Cell, Event, Experiment, Goal
from cro_core.home import Home
from cro_core.storage import generations, sealing, seals
from cro_core.workflows.seal import seal

EXPERIMENT = running(window=timedelta(hours=6))
LAST = MONDAY + 12 * DAY


@pytest.fixture
def home(make_site: Callable[..., Home]) -> Home:
    made = make_site(SETTINGS)
    with_experiment(made.db, EXPERIMENT)
    return made


def day(number: int, units: int = 20) -> list[Event]:
    """What happened on a day after the start: exposures again and again, and the leads of every third unit."""
    at = START + number * DAY
    first = number * 100
    found = [visit(first + n, at + n * timedelta(minutes=5), f"unit{n}") for n in range(units)]
    return found + [
        event("lead", f"unit{n}", at + n * timedelta(minutes=5) + timedelta(hours=1), id=f"lead-{first + n}")
        for n in range(number % 3, units, 3)
    ]


def look(home: Home, experiment: Experiment = EXPERIMENT) -> tuple[Cell, ...]:
    """The cells of a look, which keeps what it has read."""
    with home.db.read() as connection, reading(connection, experiment, LAST) as found:
        return found.cells()


def anew(home: Home) -> tuple[Cell, ...]:
    """The same from all events."""
    keep_in, home.lake.keep_in = home.lake.keep_in, None
    try:
        return look(home)
    finally:
        home.lake.keep_in = keep_in


def folder(home: Home) -> Path:
    assert home.lake.keep_in is not None
    return home.lake.keep_in


def makings(home: Home) -> list[Path]:
    return sorted(folder(home).glob("*/*-*"), key=lambda found: found.stat().st_mtime)


def files_of(making: Path) -> set[str]:
    return set(json.loads((making / unit_cache.FILES).read_text()))


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The files of the lake that each making has read."""
    read: list[list[str]] = []
    write = unit_cache.Keeper.write

    def watched(self: unit_cache.Keeper, place: Path, before: Any, files: Sequence[str]) -> None:
        read.append(list(files))
        write(self, place, before, files)

    monkeypatch.setattr(unit_cache.Keeper, "write", watched)
    return read


def test_each_sealed_file_is_read_once(home: Home, added: list[list[str]]) -> None:
    for number in range(4):
        store(home, day(number))
        seal(home, now=START + (number + 2) * DAY, force=True)
        assert look(home) == look(home) == anew(home)

    with home.db.read() as connection:
        files = home.lake.files(seals.current(connection) or 0)
    assert sorted(file for part in added for file in part) == files
    assert len(added) == len(files) == 4
    newest = makings(home)[-1]
    assert files_of(newest) == set(files)
    assert len(makings(home)) == unit_cache.LATEST


def test_a_late_exposure_moves_a_unit_that_was_kept(home: Home) -> None:
    """It was met earlier than anybody knew: its goals count from then on."""
    at = START + 2 * DAY
    store(home, [visit(1, at, "late"), event("lead", "late", at - timedelta(hours=1)), *day(1)])
    seal(home, now=LAST, force=True)
    before = look(home)
    store(home, [visit(2, at - timedelta(hours=2), "late")])

    hot = look(home)
    seal(home, now=LAST, force=True)

    assert hot == look(home) == anew(home) != before
    assert sum(c.conversions for c in hot) == sum(c.conversions for c in before) + 1


def test_who_met_a_second_variant_is_kept(home: Home) -> None:
    """Whatever is sealed, and also where a late event shows that the second variant was the first."""

    def crossing(home: Home) -> tuple[int, int]:
        with home.db.read() as connection, reading(connection, EXPERIMENT, LAST) as found:
            early = found.at(START + 2 * DAY)
            return early.crossing().units, found.crossing().units

    at = START + 2 * DAY
    store(
        home,
        [visit(1, at, "late"), exposure("crossed", "a", at), exposure("crossed", "b", at + DAY), *day(1)],
    )
    assert crossing(home) == (0, 1)
    seal(home, now=LAST, force=True)
    assert crossing(home) == crossing(home) == (0, 1)
    first = look(home)
    store(home, [exposure("crossed", "b", at - DAY)])
    assert crossing(home) == (0, 1)
    assert look(home) == anew(home) != first
    seal(home, now=LAST, force=True)
    assert crossing(home) == (0, 1)
    store(home, [exposure("crossed", "a", at - DAY / 2), event("lead", "crossed", at)])
    assert crossing(home) == (1, 1)
    assert look(home) == anew(home)


def test_of_the_events_only_goals_are_kept(home: Home) -> None:
    """Of exposures the first of each unit is in its profile; no id of a goal is needed again."""
    store(home, [e for number in range(3) for e in day(number)])
    seal(home, now=LAST, force=True)
    look(home)

    import pyarrow.parquet as pq

    goals = pq.read_table(makings(home)[-1] / unit_cache.GOALS)
    assert goals.column("type").to_pylist() == ["lead"] * 20
    assert "id" not in goals.column_names
    profiles = pq.read_table(makings(home)[-1] / f"{unit_cache.PROFILES}.parquet").to_pylist()
    assert len({p["unit"] for p in profiles}) == len(profiles) == 20
    assert {p["event_id"] for p in profiles} == {f"{e.id}" for e in day(0) if e.type == "exposure"}


def test_other_goals_are_another_making(home: Home, added: list[list[str]]) -> None:
    store(home, day(1))
    seal(home, now=LAST, force=True)
    heavy = replace(EXPERIMENT, plan=replace(EXPERIMENT.plan, goals=(Goal("lead", 7.0, True),)))

    assert look(home, heavy) != look(home)
    assert len(added) == 2
    assert {c.score_sum for c in look(home, heavy)} <= {7.0 * n for n in range(8)}


def test_rewriting_the_lake_begins_a_generation(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "MOST_FILES", 1)
    monkeypatch.setattr(sealing, "DAYS_TOGETHER", 1)
    store(home, day(1))
    seal(home, now=LAST, force=True)
    look(home)
    with home.db.read() as connection:
        before = seals.newest(connection)
    store(home, [visit(999, START + DAY, "other")])

    done = seal(home, now=LAST, force=True)  # the second file of that day is joined to the first

    assert done.joined == 1
    assert makings(home) == []
    assert look(home) == anew(home)
    (made,) = makings(home)
    with home.db.read() as connection:
        newest = seals.newest(connection)
        assert newest is not None
        assert before is not None
        assert seals.rewritten(connection, before) == 0  # for who still sees that one
        assert made.parent.name == str(seals.rewritten(connection, newest)) != "0"


def test_who_sees_an_older_state_neither_keeps_nor_drops(home: Home) -> None:
    store(home, day(1))
    seal(home, now=LAST, force=True)
    newer = folder(home) / "5"
    newer.mkdir(parents=True)

    assert look(home) == anew(home)
    assert list(folder(home).iterdir()) == [newer]


def test_what_is_being_made_when_a_generation_ends_is_not_kept(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(home, day(1))
    seal(home, now=LAST, force=True)
    write = unit_cache.Keeper.write

    def overtaken(self: unit_cache.Keeper, place: Path, before: Any, files: Sequence[str]) -> None:
        write(self, place, before, files)
        generations.drop(folder(home), before=1)

    monkeypatch.setattr(unit_cache.Keeper, "write", overtaken)

    assert look(home) == anew(home)
    assert [f for f in folder(home).rglob("*") if f.is_file()] == []


def test_two_at_once_keep_one(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    store(home, day(1))
    seal(home, now=LAST, force=True)
    write = unit_cache.Keeper.write

    def beside(self: unit_cache.Keeper, place: Path, before: Any, files: Sequence[str]) -> None:
        monkeypatch.setattr(unit_cache.Keeper, "write", write)
        look(home)
        write(self, place, before, files)

    monkeypatch.setattr(unit_cache.Keeper, "write", beside)

    assert look(home) == anew(home)
    assert len(makings(home)) == 1
    assert len(list(makings(home)[0].parent.iterdir())) == 1


@pytest.mark.parametrize("fault", ["a file is there", "deleted"])
def test_without_a_place_the_numbers_are_the_same(home: Home, fault: str) -> None:
    store(home, day(1))
    seal(home, now=LAST, force=True)
    if fault == "deleted":
        look(home)
        shutil.rmtree(folder(home))
    else:
        folder(home).parent.mkdir(parents=True, exist_ok=True)
        folder(home).write_text("in the way")

    assert look(home) == anew(home)


def test_what_a_stopped_process_has_left_goes(home: Home) -> None:
    store(home, day(1))
    seal(home, now=LAST, force=True)
    left = folder(home) / "0" / ".left"
    left.mkdir(parents=True)
    os.utime(left, (1, 1))

    look(home)

    assert not left.exists()


def test_every_number_is_that_of_all_events(home: Home) -> None:
    """Segments and the unit table too, with hot events beside the kept ones."""
    store(home, [e for number in range(3) for e in day(number)])
    seal(home, now=START + 3 * DAY, force=True)
    store(home, [e for number in range(3, 6) for e in day(number, units=30)])

    def told(found: Reading) -> list[Any]:
        return [
            found.cells(),
            found.times(),
            found.days(),
            found.crossing(),
            found.segments(),
            found.unit_table().to_pylist(),
            found.waterfall(),
        ]

    with home.db.read() as connection:
        with reading(connection, EXPERIMENT, LAST) as found:
            mine = told(found)
        home.lake.keep_in = None
        with reading(connection, EXPERIMENT, LAST) as found:
            assert mine == told(found)
    assert sum(c.units for c in mine[0]) == 30
