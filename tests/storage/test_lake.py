"""The lake by itself: what its versions hold, how its files are made, and what vanishes from them."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from helpers.lake_samples import sealed_ids

from cro_core.errors import StoreError
from cro_core.storage.lake import DAY_MICROS, FEW_IDS, ORDER, Held, Lake, arrow_schema, arrow_table, day_of
from cro_core.storage.schema import events

FIRST_DAY = 20_513
DAYS = [day_of((FIRST_DAY + n) * DAY_MICROS) for n in range(3)]


def row(number: int, day: int = 0, **fields: Any) -> tuple[Any, ...]:
    """An event of that number, on the nth day."""
    at = (FIRST_DAY + day) * DAY_MICROS + number
    given = {
        "id": f"{DAYS[day]}/{number}",
        "experiment_id": f"x{number % 3}",
        "variant": "a",
        "type": "exposure",
        "unit": f"unit{number % 7}",
        "session": f"session{number % 14}",
        "occurred_at": at,
        "received_at": at,
        "value": number / 2,
        "properties": '{"seats": 20}',
        "epoch": number % 5,
        "bot": False,
        "internal": number % 2 == 0,
    }
    return tuple((given | fields).get(column.name) for column in events.columns)


def names(day: int, numbers: range) -> set[str]:
    return {f"{DAYS[day]}/{n}" for n in numbers}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "deep" / "lake"))


@pytest.fixture
def parquet(lake: Lake) -> Callable[[], list[Path]]:
    """A function to the Parquet files that are in the folder, whatever the table says."""
    return lambda: sorted(Path(lake.location).rglob("*.parquet"))


def test_each_version_keeps_what_it_holds(lake: Lake) -> None:
    first = lake.append(arrow_table([row(n) for n in range(10)]))
    second = lake.append(arrow_table([row(n, 1) for n in range(5)]))

    assert set(sealed_ids(lake, first)) == names(0, range(10))
    assert set(sealed_ids(lake, second)) == names(0, range(10)) | names(1, range(5))
    assert (lake.count(first), lake.count(second)) == (10, 15)
    assert lake.files(second, DAYS[1], DAYS[1]) == [f for f in lake.files(second) if f"day={DAYS[1]}" in f]
    assert lake.files(second, first=DAYS[2]) == lake.files(second, last="2026-01-01") == []


def test_values_come_back_as_they_were(lake: Lake) -> None:
    given = [
        row(3, properties=None, value=None, epoch=None, experiment_id=None, url="https://é.example/?"),
        row(4),
    ]

    version = lake.append(arrow_table(given))

    with duckdb.connect() as reader:
        query = "SELECT * FROM read_parquet(?, hive_partitioning = false) ORDER BY occurred_at"
        found = reader.execute(query, [lake.files(version)])
        assert [d[0] for d in found.description] == [c.name for c in events.columns]
        assert found.fetchall() == given


def test_one_file_a_day_in_reading_order(lake: Lake) -> None:
    version = lake.append(arrow_table([row(n * 7919 % 1000, n % 3) for n in range(1000)]))

    files = lake.files(version)
    assert len(files) == 3
    for file in files:
        found = pq.read_table(file, columns=list(ORDER)).to_pylist()
        keys = [tuple(one[name] for name in ORDER) for one in found]
        assert keys == sorted(keys)
        assert len(keys) in {333, 334}


def test_events_before_1970_and_on_the_last_microsecond_have_their_day(lake: Lake) -> None:
    last = (FIRST_DAY + 1) * DAY_MICROS - 1

    version = lake.append(arrow_table([row(0, occurred_at=last), row(1, occurred_at=last + 1)]))

    assert [f.split("day=")[1][:10] for f in lake.files(version)] == DAYS[:2]


@pytest.mark.parametrize("strangers", [0, FEW_IDS, 500])
def test_present_finds_ids_of_that_version(lake: Lake, strangers: int) -> None:
    first = lake.append(arrow_table([row(n) for n in range(100)]))
    second = lake.append(arrow_table([row(n, 1) for n in range(100)]))
    asked = [*names(0, range(3)), *names(1, range(2)), "it's", *(f"no{n}" for n in range(strangers))]

    assert lake.present(first, asked) == names(0, range(3))
    assert lake.present(second, asked) == names(0, range(3)) | names(1, range(2))
    assert lake.present(second, []) == set()


def test_ids_have_bloom_filters(lake: Lake) -> None:
    (file,) = lake.files(lake.append(arrow_table([row(n) for n in range(100)])))

    with duckdb.connect() as reader:
        query = "SELECT path_in_schema FROM parquet_metadata(?) WHERE bloom_filter_offset IS NOT NULL"
        assert reader.execute(query, [file]).fetchall() == [("id",)]


def test_present_may_be_asked_by_many_threads(lake: Lake) -> None:
    version = lake.append(arrow_table([row(n) for n in range(1000)]))
    found: list[set[str]] = []
    asked = [sorted(names(0, range(n, n + 5))) for n in range(0, 80, 10)]

    threads = [threading.Thread(target=lambda a=a: found.append(lake.present(version, a))) for a in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(map(sorted, found)) == sorted(asked)


def test_what_was_not_noted_is_undone(lake: Lake) -> None:
    lake.undo(None)  # nothing there yet
    lost = lake.append(arrow_table([row(n) for n in range(10)]))
    lake.undo(None)
    assert lake.count(lost) == 10  # the version stays, and nobody notes it

    noted = lake.append(arrow_table([row(n) for n in range(20, 30)]))
    lake.append(arrow_table([row(n) for n in range(30, 40)]))
    lake.rewrite(DAYS[0], without=["unit1"])
    lake.undo(noted)
    lake.undo(noted)
    after = lake.append(arrow_table([row(n, 1) for n in range(5)]))

    assert sorted(sealed_ids(lake, noted)) == sorted(names(0, range(20, 30)))
    assert sorted(sealed_ids(lake, after)) == sorted(names(0, range(20, 30)) | names(1, range(5)))


def test_a_day_is_rewritten_as_one_sorted_file(lake: Lake) -> None:
    for start in range(0, 60, 10):
        lake.append(arrow_table([row(n, n % 2) for n in range(start, start + 10)]))
    assert lake.scattered(5) == DAYS[:2]
    assert lake.scattered(6) == []

    version = lake.rewrite(DAYS[0])

    (file,) = lake.files(version, DAYS[0], DAYS[0])
    keys = [
        tuple(one[name] for name in ORDER) for one in pq.read_table(file, columns=list(ORDER)).to_pylist()
    ]
    assert keys == sorted(keys)
    assert pq.read_schema(file).names == arrow_schema().names
    assert lake.count(version) == 60
    assert len(lake.files(version, DAYS[1], DAYS[1])) == 6


def test_a_visitor_is_left_out_and_nobody_else(lake: Lake) -> None:
    before = lake.append(arrow_table([row(n, n % 2, experiment_id=None) for n in range(70)]))
    alone = lake.append(arrow_table([row(1, 2)]))
    assert lake.holding(before, "unit", ["unit1"]) == [
        Held(DAYS[0], None, "session8", 5),
        Held(DAYS[1], None, "session1", 5),
    ]

    for day in DAYS:
        version = lake.rewrite(day, without=["unit1", "unit-of-nobody"])

    gone = {f"{DAYS[n % 2]}/{n}" for n in range(1, 70, 7)} | {f"{DAYS[2]}/1"}
    assert set(sealed_ids(lake, alone)) - set(sealed_ids(lake, version)) == gone
    assert lake.count(version) == 71 - 11
    assert lake.holding(version, "unit", ["unit1"]) == []


def test_an_experiment_can_be_left_out(lake: Lake) -> None:
    lake.append(arrow_table([row(n, experiment_id=(None, "old", "new")[n % 3]) for n in range(9)]))

    version = lake.rewrite(DAYS[0], "experiment_id", ["old"])

    assert set(sealed_ids(lake, version)) == {f"{DAYS[0]}/{n}" for n in range(9) if n % 3 != 1}


def test_old_days_are_dropped(lake: Lake) -> None:
    version = lake.append(arrow_table([row(n, n % 3) for n in range(9)]))
    assert sum(one.events for one in lake.before(version, DAYS[2])) == 6

    dropped = lake.drop(DAYS[2])

    assert set(sealed_ids(lake, dropped)) == {f"{DAYS[2]}/{n}" for n in (2, 5, 8)}


def test_files_stay_for_those_who_read_until_nobody_may(
    lake: Lake, parquet: Callable[[], list[Path]]
) -> None:
    before = lake.append(arrow_table([row(n) for n in range(10)]))
    after = lake.rewrite(DAYS[0], without=["unit1"])
    orphan = Path(lake.files(before)[0]).with_name("part-of-a-killed-process.parquet")
    orphan.write_bytes(b"unit1")

    lake.vacuum(24)
    assert lake.count(before) == len(list(sealed_ids(lake, before)))

    lake.vacuum(0)
    assert [str(file) for file in parquet()] == lake.files(after)
    with pytest.raises(StoreError, match="cannot be read"):
        lake.present(before, names(0, range(1)))


def test_what_a_killed_process_left_goes_in_time(lake: Lake, parquet: Callable[[], list[Path]]) -> None:
    version = lake.append(arrow_table([row(n) for n in range(10)]))
    orphan = Path(lake.files(version)[0]).with_name("part-of-a-killed-process.parquet")
    orphan.write_bytes(b"x")
    long_ago = time.time() - 48 * 3600
    os.utime(orphan, (long_ago, long_ago))

    lake.vacuum(24)

    assert [str(file) for file in parquet()] == lake.files(version)


def test_the_log_names_nobody(lake: Lake) -> None:
    """Smallest and largest values in the log would be ids, which no vacuum takes away."""
    for n in range(12):
        lake.append(arrow_table([row(n), row(n, 1, unit="unit-of-a-person", session="session-of-a-person")]))
    lake.rewrite(DAYS[1], without=["unit-of-a-person"])
    DeltaTable(lake.location).create_checkpoint()

    log = sorted((Path(lake.location) / "_delta_log").iterdir())
    assert any(file.suffix == ".parquet" for file in log)
    text = "".join(
        str(pq.read_table(file).to_pylist()) if file.suffix == ".parquet" else file.read_text()
        for file in log
    )
    assert "part-0000" in text
    assert "of-a-person" not in text
    assert re.search(DAYS[0] + r"/\d", text) is None  # the ids of this test
    stats = [
        json.loads(line)["add"]["stats"]
        for file in log
        if file.suffix == ".json"
        for line in file.read_text().splitlines()
        if "add" in json.loads(line)
    ]
    assert all(not json.loads(one).get("minValues") for one in stats)


def test_a_lake_that_is_not_there_is_named(lake: Lake) -> None:
    with pytest.raises(StoreError, match="correct storage"):
        lake.files(3)
    version = lake.append(arrow_table([row(1)]))
    with pytest.raises(StoreError, match=f"version {version + 5}"):
        lake.files(version + 5)


@pytest.mark.parametrize("name", ["my site", "it's", "é日", "a#b?c*d&e"])
def test_folders_have_any_name(tmp_path: Path, name: str) -> None:
    lake = Lake(str(tmp_path / name / "lake"))
    lake.append(arrow_table([row(n) for n in range(10)]))
    lake.rewrite(DAYS[0], without=["unit1"])
    lake.undo(1)
    version = lake.append(arrow_table([row(n, 1) for n in range(3)]))
    lake.vacuum(0)

    assert set(sealed_ids(lake, version)) == names(0, range(10)) | names(1, range(3))
    assert lake.present(version, ["no", f"{DAYS[1]}/2"]) == {f"{DAYS[1]}/2"}


@pytest.mark.parametrize("name", ["100%20", "x[1]", "a|b"])
def test_a_folder_that_the_library_cannot_take_is_refused(tmp_path: Path, name: str) -> None:
    lake = Lake(str(tmp_path / name))

    lake.undo(None)
    with pytest.raises(StoreError, match="Set storage"):
        lake.append(arrow_table([row(1)]))
    lake.vacuum(0)


def test_a_moved_lake_reads_the_same(lake: Lake, tmp_path: Path) -> None:
    lake.append(arrow_table([row(n) for n in range(10)]))
    lake.append(arrow_table([row(n) for n in range(10, 20)]))
    lake.undo(1)
    version = lake.append(arrow_table([row(n, 1) for n in range(3)]))

    moved = Lake(str(Path(lake.location).rename(tmp_path / "elsewhere")))

    assert set(sealed_ids(moved, version)) == names(0, range(10)) | names(1, range(3))
