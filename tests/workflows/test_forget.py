"""Forgetting a visitor, on SQLite and on PostgreSQL: gone from every table and every file, and nobody else is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers.lake_samples import DAY, MONDAY, SETTINGS, Victims, ids, store, stored, victims, visits
from helpers.store_samples import exposure, rows, running
from helpers.store_samples import stored as with_experiment
from typer.testing import CliRunner

from cro_core.analytics.reader import reading
from cro_core.cli import app
from cro_core.domain import Event
from cro_core.errors import Busy, InvalidInput, StoreError
from cro_core.home import Home
from cro_core.ingest.cleaning import MAX_PAYLOAD, Rejection
from cro_core.ingest.pseudonym import pseudonym
from cro_core.storage import erasure, journal, schema, seals
from cro_core.storage import events as event_store
from cro_core.storage.database import Database
from cro_core.workflows.forget import SUBJECT, forget
from cro_core.workflows.ingest import ingest
from cro_core.workflows.seal import seal
from cro_core.workflows.train import train

FRIDAY = MONDAY + 4 * DAY
LATE = FRIDAY + timedelta(hours=9)
PERSON, STRANGER = "person-4711", "somebody-else"


@pytest.fixture
def home(make_site: Callable[..., Home]) -> Home:
    made = make_site(SETTINGS)
    with_experiment(made.db, running())
    return made


@pytest.fixture(scope="module")
def victim() -> Iterator[Victims]:
    with victims() as found:
        yield found


def theirs(home: Home, count: int = 10, start: int = 0, person: str = PERSON) -> list[Event]:
    """Events of a person, of each day from Monday to Friday."""
    unit, session = pseudonym(home.salt, person), pseudonym(home.salt, f"session of {person}")
    days = (MONDAY + n * 5 * DAY / count for n in range(count))
    return [exposure(unit, "a", at, id=f"{person}-{start + n}", session=session) for n, at in enumerate(days)]


def traces(home: Home, person: str = PERSON) -> list[str]:
    """Where a person or one of the person's sessions can still be found: in the tables, and in bytes of the files."""
    words = [pseudonym(home.salt, name) for name in (person, f"session of {person}")]
    found = []
    for table in schema.metadata.sorted_tables:
        text = json.dumps(rows(home.db, table), default=str)
        found += [table.name for word in words if word in text]
    for file in files(home):
        found += [file.name for word in words if word in readable(file)]
    return found


def tables(places: list[str]) -> set[str]:
    """The tables among places of traces."""
    return {place for place in places if place in schema.metadata.tables}


def files(home: Home) -> list[Path]:
    """Every file of the home, and of its store where that is SQLite."""
    found = [file for file in home.path.rglob("*") if file.is_file()]
    if home.db.engine.dialect.name == "sqlite":
        store_file = Path(str(home.db.engine.url.database))
        found += store_file.parent.glob(store_file.name + "*")
    return sorted(found)


def readable(file: Path) -> str:
    """What is in a file; a Parquet file is compressed, and read by its library."""
    if file.suffix == ".parquet":
        return str(pq.read_table(file).to_pylist()) + str(pq.read_metadata(file).to_dict())
    return file.read_bytes().decode("latin-1")


def names(events: list[Event]) -> set[str]:
    return {e.id for e in events}


def test_a_person_is_gone_from_everywhere(home: Home) -> None:
    others = [*visits(200, days=5), *theirs(home, person=STRANGER)]
    store(home, [*others, *theirs(home)])
    seal(home, now=LATE)
    with home.db.read() as connection, reading(connection, running(), LATE) as look:
        assert look.exposed_units() == 39  # and what it read is kept for the next
    store(home, theirs(home, 5, start=100))
    bad = {
        "event_type": "exposure",
        "user_id": PERSON,
        "session_id": f"session of {PERSON}",
        "test_id": "unknown",
    }
    loose = {"event_type": "lead", "session_id": f"session of {PERSON}"}
    ingest(home, [bad, loose, {**bad, "user_id": STRANGER, "session_id": "x"}], now=LATE)
    places = {"events", "exposures", "quarantine", "profiles.parquet"}
    if home.db.engine.dialect.name == "sqlite":
        places.add("cro.sqlite-wal")
    assert set(traces(home)) > places
    before = tables(traces(home, STRANGER))

    found = forget(home, [f" {PERSON} "], now=LATE, actor="somebody")

    assert traces(home) == []
    assert tables(traces(home, STRANGER)) == before != set()
    assert (found.visitors, found.events, found.sealed_events, found.quarantined) == (1, 15, 6, 2)
    assert found.exposures == 1
    assert stored(home) == Counter(names(others))
    assert len(rows(home.db, schema.quarantine)) == 1
    assert "15 events (6 of them sealed)" in found.text


def test_what_is_kept_and_cannot_be_deleted_is_said(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes with the next sealing."""
    store(home, [*visits(20, days=5), *theirs(home)])
    seal(home, now=LATE)
    with home.db.read() as connection, reading(connection, running(), LATE) as look:
        look.exposed_units()

    def refused(folder: Path) -> None:
        raise PermissionError(f"no right to delete {folder}")

    with monkeypatch.context() as patch:
        patch.setattr("cro_core.storage.generations.shutil.rmtree", refused)
        with pytest.raises(StoreError, match=r"cannot be deleted.*no right.*delete .*units, then try again"):
            forget(home, [PERSON], now=LATE, actor="cli")
    assert "profiles.parquet" in traces(home)

    seal(home, now=LATE, force=True)

    assert traces(home) == []


def test_older_versions_cannot_be_read(home: Home) -> None:
    store(home, [*theirs(home), *visits(20)])
    seal(home, now=LATE)
    with home.db.read() as connection:
        version = seals.current(connection) or 0

    forget(home, [PERSON], now=LATE, actor="cli")

    home.lake.filters = (0, ())
    with pytest.raises(StoreError, match="cannot be read"):
        home.lake.present(version, ["event-000001"])


def test_the_numbers_still_add_up(home: Home) -> None:
    store(home, [*theirs(home), *visits(30)])
    seal(home, now=LATE)
    forget(home, [PERSON], now=LATE, actor="cli")

    with home.db.read() as connection:
        totals = event_store.totals(connection)
        seal_now = seals.newest(connection)
    assert totals == {"accepted": 40, "erased": 10}
    assert seal_now is not None
    assert seal_now.events == ids(home)[1].total()


def test_several_at_once_and_strangers(home: Home) -> None:
    store(home, [*theirs(home), *theirs(home, person=STRANGER), *visits(20)])
    seal(home, now=LATE)

    found = forget(home, [PERSON, STRANGER, "nobody at all"], now=LATE, actor="cli")

    assert (found.visitors, found.events) == (3, 20)
    assert stored(home) == Counter(names(visits(20)))


def test_twice_is_as_once(home: Home) -> None:
    store(home, [*theirs(home), *visits(20)])
    seal(home, now=LATE)
    forget(home, [PERSON], now=LATE, actor="cli")
    before = ids(home)

    again = forget(home, [PERSON], now=LATE, actor="cli")

    assert (again.events, again.exposures, again.quarantined) == (0, 0, 0)
    assert ids(home) == before


def test_before_anything_was_sealed(home: Home) -> None:
    store(home, [*theirs(home), *visits(20)])

    assert forget(home, [PERSON], now=LATE, actor="cli").events == 10

    assert traces(home) == []
    assert not Path(home.lake.location).exists()


def test_a_day_of_nobody_else_vanishes(home: Home) -> None:
    store(home, theirs(home))
    seal(home, now=LATE)

    forget(home, [PERSON], now=LATE, actor="cli")

    assert stored(home) == Counter()
    store(home, visits(10))
    seal(home, now=LATE, force=True)
    assert ids(home) == (Counter(), Counter(names(visits(10))))


def test_who_comes_again_is_stored_again(home: Home) -> None:
    store(home, theirs(home))
    seal(home, now=LATE)
    forget(home, [PERSON], now=LATE, actor="cli")

    assert store(home, theirs(home)) == 10  # although the filters of sealed ids still say "maybe"
    seal(home, now=LATE, force=True)
    assert store(home, theirs(home)) == 0
    assert stored(home) == Counter(names(theirs(home)))


def test_a_payload_that_was_cut_off_is_found(home: Home) -> None:
    unit = pseudonym(home.salt, PERSON)
    payloads = {cut: ("x" * MAX_PAYLOAD + unit)[cut : cut + MAX_PAYLOAD] for cut in (4, 12, 31)}
    payloads["short"] = unit[:20]
    with home.db.write() as connection:
        event_store.record(connection, (), [Rejection(0, "no", text) for text in payloads.values()], MONDAY)

    found = forget(home, [PERSON], now=LATE, actor="cli")

    assert found.quarantined == 2  # four characters of a hash name nobody; and only long payloads are cut off
    assert {row["payload"] for row in rows(home.db, schema.quarantine)} == {payloads[4], payloads["short"]}


def test_the_audit_trail_names_nobody(home: Home) -> None:
    store(home, theirs(home))
    forget(home, [PERSON], now=LATE, actor="somebody")

    with home.db.read() as connection:
        (entry,) = journal.trail(connection, subject=SUBJECT)
    assert (entry["actor"], entry["after"]["events"]) == ("somebody", 10)
    assert PERSON not in json.dumps(entry, default=str)


@pytest.mark.parametrize("visitors", [[], [""], [PERSON, "  "]])
def test_an_empty_id_is_refused(home: Home, visitors: list[str]) -> None:
    with pytest.raises(InvalidInput, match="user_id"):
        forget(home, visitors, now=LATE, actor="cli")


def test_not_while_days_are_sealed(home: Home) -> None:
    store(home, theirs(home))
    with home.lock("seal"), pytest.raises(Busy):
        forget(home, [PERSON], now=LATE, actor="cli")


def test_models_are_trained_on_groups_only(home: Home) -> None:
    """What training stores names no visitor, so that there is nothing to forget in it."""
    import numpy as np

    store(home, [*theirs(home), *visits(20)])
    train(home, now=LATE, rng=np.random.default_rng(1))

    assert pseudonym(home.salt, PERSON) not in json.dumps(rows(home.db, schema.models), default=str)


def test_a_reader_holds_the_cleaning_up_and_the_next_sealing_ends_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(home, [*theirs(home), *visits(20)])
    seal(home, now=LATE)

    def full(_: Database) -> None:
        raise StoreError("no room on the disk")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "scrub", full)
        with pytest.raises(StoreError, match="no room"):
            forget(home, [PERSON], now=LATE, actor="cli")
    with home.db.read() as connection:
        assert erasure.unfinished(connection)

    seal(home, now=LATE)

    with home.db.read() as connection:
        assert not erasure.unfinished(connection)
    assert traces(home) == []


PLACES = [
    ("rewrite", "before", 1),
    ("rewrite", "after", 2),
    ("note", "after", 1),
    ("clean", "before", 1),
    ("vacuum", "after", 1),
    ("scrub", "after", 1),
    ("clean", "after", 1),
]


@pytest.mark.sizes(3, 1)
def test_killed_at_every_step(home: Home, victim: Victims, size: int) -> None:
    """``kill -9`` wherever it can hurt: nobody else is touched; and once it ran to its end, the person is gone."""
    others: set[str] = set()
    for number, (step, when, nth) in enumerate(PLACES[::size]):
        store(home, visits(40, days=5, start=1000 * number))
        store(home, theirs(home, start=100 * number))
        others |= names(visits(40, days=5, start=1000 * number))
        seal(home, now=LATE, force=True)

        status = victim.work(home, "forget", LATE, visitors=[PERSON], step=step, when=when, nth=nth)
        assert status == -9, (step, when)
        left = stored(home)
        assert left & Counter(others) == Counter(others), (step, when)
        assert max(left.values()) == 1
        store(home, [exposure("late", "a", MONDAY, id=f"late-{number}")])
        others.add(f"late-{number}")
        if number % 2:
            seal(home, now=LATE, force=True)

        assert victim.work(home, "forget", LATE, visitors=[PERSON]) == 0
        assert stored(home) == Counter(others), (step, when)
        assert traces(home) == [], (step, when)


def test_command(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cro_core.cli.data.open_home", lambda _: home)
    store(home, [*theirs(home), *visits(20)])
    runner = CliRunner()

    def call(*arguments: str, answer: str = "") -> Any:
        return runner.invoke(
            app, [*arguments, "--home", str(home.path)], input=answer, catch_exceptions=False
        )

    assert "sealed 30 events of 5 day(s)" in call("seal", "--force").stdout
    assert json.loads(call("seal", "--json").stdout)["skipped"] is not None
    assert call("forget", PERSON, answer="n\n").exit_code == 1
    assert stored(home).total() == 30
    assert "Removed 10 events" in call("forget", PERSON, answer="y\n").stdout
    answer = json.loads(call("forget", PERSON, STRANGER, "--yes", "--json").stdout)
    assert (answer["visitors"], answer["events"]) == (2, 0)
    assert PERSON not in json.dumps(answer)
