"""The lake in an object store: a real S3 server, which both libraries reach over HTTP as they would reach Amazon's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import deltalake
import duckdb
import pyarrow.parquet as pq
import pytest
from botocore.config import Config as Patience
from helpers.lake_samples import DAY, SETTINGS, ids, store, visit
from helpers.store_samples import GOALS, START, event, exposure, running
from helpers.store_samples import stored as with_experiment

from cro_core import frames
from cro_core.analytics import event_scan, unit_cache
from cro_core.analytics.reader import reading
from cro_core.config import validate
from cro_core.domain import Event, Ratio, to_json
from cro_core.errors import ConfigError, InvalidInput, StoreError
from cro_core.home import Home, create_home, open_home
from cro_core.ingest.pseudonym import pseudonym
from cro_core.storage import duckdb_connection, schema, sealing, seals
from cro_core.storage import lake as lake_module
from cro_core.storage.lake import Lake, arrow_table, raw_columns
from cro_core.workflows.evaluate import evaluate
from cro_core.workflows.explain import explain
from cro_core.workflows.forget import forget
from cro_core.workflows.orchestrate import orchestrate
from cro_core.workflows.seal import seal

BUCKET = "bucket"
SITE = f"s3://{BUCKET}/site"
KEY, SECRET, REGION = "KEYOFTHETESTS", "secret-of-the-tests", "eu-west-1"
NOBODY = "http://127.0.0.1:9"
"""A port on which nothing listens."""

PLAN: dict[str, Any] = {"goals": GOALS, "ratios": (Ratio("worth", "value:call", "count:lead"),)}
EXPERIMENT = running(window=timedelta(hours=6), **PLAN)
LAST = START + 12 * DAY
DEVICES, CITIES = ("phone", "desktop", "tablet"), ("Zürich", "Bern", None)


@dataclass(frozen=True)
class Server:
    """A running S3 server."""

    url: str
    process: subprocess.Popen[bytes]

    def client(self, service: str = "s3", key: str = KEY, secret: str = SECRET) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=Patience(retries={"max_attempts": 0}),
        )

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Every object of the bucket."""
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        names = [one["Key"] for page in pages for one in page.get("Contents", ())]
        return {name: client.get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in names}


SERVER = """
import os, sys, threading
from moto.server import main
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()  # ends with who started it
main()
"""


@contextmanager
def serving(**environ: str) -> Iterator[Server]:
    """A server in a process of its own: deltalake may hold the lock of ours while it waits for an answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, "-H", "127.0.0.1", "-p", str(port)],
        env=os.environ | environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            _wait_for(port, process)
            yield Server(f"http://127.0.0.1:{port}", process)
        finally:
            process.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < limit:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the S3 server of the tests did not start")


@pytest.fixture(scope="session")
def running_server() -> Iterator[Server]:
    with serving() as found:
        yield found


@pytest.fixture
def server(running_server: Server, environment: Callable[..., None]) -> Server:
    """The server with one empty bucket; the environment names it."""
    environment(running_server.url)
    _reset(running_server)
    return running_server


def _reset(server: Server) -> None:
    client = server.client()
    if BUCKET in {one["Name"] for one in client.list_buckets()["Buckets"]}:
        for name in server.objects():
            client.delete_object(Bucket=BUCKET, Key=name)
    else:
        client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Sets the environment to what names an object store, and nothing else of it."""

    def choose(url: str, **more: str | None) -> None:
        for name in [n for n in os.environ if n.startswith("AWS_")]:
            monkeypatch.delenv(name)
        given = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
            "AWS_CONFIG_FILE": "/nowhere",
        }
        # Of two variables that mean the same, deltalake by itself takes the one that was set first.
        for name, value in (more | given | more).items():
            if value is not None:
                monkeypatch.setenv(name, value)
        event_scan.shared_engine.cache_clear()  # it has been told where the store is

    yield choose
    event_scan.shared_engine.cache_clear()


@pytest.fixture
def make_home(tmp_path: Path, sqlite_template: Path) -> Iterator[Callable[..., Home]]:
    """Makes a home with the experiment in it; its lake is in the bucket unless said otherwise."""
    made: list[Home] = []

    def make(name: str = "site", lake: str | None = SITE, **settings: Any) -> Home:
        file = tmp_path / f"{name}.sqlite"
        shutil.copy(sqlite_template, file)
        chosen = {"storage": {**SETTINGS["storage"], "lake": lake, **settings}}
        home = create_home(tmp_path / name, chosen, {"CRO_DATABASE_URL": f"sqlite:///{file}"})
        with_experiment(home.db, EXPERIMENT)
        made.append(home)
        return home

    yield make
    for home in made:
        home.db.close()


def day(number: int, units: int = 24) -> list[Event]:
    """What happened on a day after the start: exposures again and again, leads and calls of some."""
    at, first = START + number * DAY, number * 100
    found = []
    for n in range(units):
        moment = at + n * timedelta(minutes=5)
        told = {
            "device": DEVICES[n % 3],
            "city": CITIES[n % 3],
            "session": f"s{n}",
            "url": f"https://a.example/{n % 4}",
        }
        found.append(visit(first + n, moment, f"unit{n + number}", **told))
        if n % 3 == number % 3:
            later = moment + timedelta(hours=1)
            found.append(event("lead", f"unit{n + number}", later, id=f"lead-{first + n}", session=f"s{n}"))
        if n % 5 == 0:
            later = moment + timedelta(hours=2)
            found.append(event("call", f"unit{n + number}", later, id=f"call-{first + n}", value=n + 0.25))
    return found


def everything(home: Home) -> dict[str, Any]:
    """All that is counted."""
    with home.db.read() as connection, reading(connection, EXPERIMENT, LAST) as look:
        cells = look.cells()
        return {
            "cells": cells,
            "units": look.unit_table().to_pylist(),
            "times": look.times(),
            "segments": look.segments(),
            "measured": look.measured(cells),
            "waterfall": look.waterfall(),
            "crossed": look.crossover_units(),
            "exposed": look.exposed_units(),
        }


def sealed(home: Home) -> Counter[str]:
    """The ids in the lake."""
    return ids(home)[1]


def unsealed(home: Home) -> Counter[str]:
    """The ids in the database."""
    return ids(home)[0]


def names(events: list[Event]) -> Counter[str]:
    return Counter(one.id for one in events)


# ------------------------------------------------------------------------------------------- a lake's life


@pytest.mark.sizes(2, 4)
def test_every_number_is_that_of_a_folder(server: Server, make_home: Callable[..., Home], size: int) -> None:
    """Day by day, with what each look keeps for the next, late events and repeated ones."""
    remote, local = make_home(), make_home("local", lake=None)
    for number in range(size):
        late = [exposure(f"late{number}", "b", START + timedelta(hours=number), id=f"late-{number}")]
        for home in (remote, local):
            assert store(home, day(number) + late) == len(day(number)) + 1
            assert seal(home, now=START + (number + 2) * DAY, force=True).events > 0
            assert store(home, day(number)) == 0
        assert everything(remote) == everything(local) == everything(remote)
    for home in (remote, local):
        assert store(home, day(8)) == len(day(8))  # of a day that stays in the database

    assert everything(remote) == everything(local)
    assert sum(cell.units for cell in everything(remote)["cells"]) > 30
    assert (
        sealed(remote)
        == sealed(local)
        == sum((names(day(n)) for n in range(size)), Counter()) + Counter(f"late-{n}" for n in range(size))
    )
    found, wanted = (evaluate(home, "hero", as_of=LAST) for home in (remote, local))
    assert to_json(found) == to_json(wanted)
    assert explain(remote, "hero", as_of=LAST, now=LAST) == explain(local, "hero", as_of=LAST, now=LAST)
    assert not (remote.data / "lake").exists()
    assert any(name.endswith(".parquet") for name in server.objects("site/day="))


@pytest.mark.slow
def test_what_looks_keep_is_made_of_new_objects_only(
    server: Server, make_home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, read = make_home(), []
    write = unit_cache.Keeper.write

    def watched(self: unit_cache.Keeper, place: Path, before: Any, files: Any) -> None:
        read.append(list(files))
        write(self, place, before, files)

    monkeypatch.setattr(unit_cache.Keeper, "write", watched)
    for number in range(3):
        store(home, day(number))
        seal(home, now=START + (number + 2) * DAY, force=True)
        everything(home)
        everything(home)

    assert [len(files) for files in read] == [1, 1, 1]
    assert all(one.startswith(f"{SITE}/day=") for files in read for one in files)


@pytest.mark.slow
def test_the_frames_and_the_door_read_it(server: Server, make_home: Callable[..., Home]) -> None:
    remote, local = make_home(), make_home("local", lake=None)
    for home in (remote, local):
        store(home, day(0) + day(1))
        seal(home, now=START + 3 * DAY)
        store(home, day(8))
    for read in (frames.events, frames.units, frames.daily, frames.segments):
        mine, theirs = read(remote, "hero"), read(local, "hero")
        assert len(mine) > 0
        assert mine.equals(theirs)

    question = "SELECT type, count(*), sum(value) FROM events GROUP BY ALL ORDER BY ALL"
    with frames.connect(remote) as mine, frames.connect(local) as theirs:
        assert mine.execute(question).fetchall() == theirs.execute(question).fetchall()
        assert mine.snapshot.sealed == len(day(0) + day(1))


def test_the_door_gives_neither_credentials_nor_other_objects(
    server: Server, make_home: Callable[..., Home]
) -> None:
    home = make_home()
    store(home, day(0))
    seal(home, now=START + 2 * DAY)
    server.client().put_object(Bucket=BUCKET, Key="other/secret.csv", Body=b"a\n1\n")
    asked = ("FROM duckdb_settings()", "FROM duckdb_secrets()", "FROM which_secret('s3://bucket/site', 's3')")
    with frames.connect(home) as door:
        told = str([door.execute(sql).fetchall() for sql in asked])
        for sql in (f"FROM 's3://{BUCKET}/other/secret.csv'", f"FROM glob('s3://{BUCKET}/**')"):
            with pytest.raises((InvalidInput, StoreError, duckdb.Error)):
                door.execute(sql).fetchall()
        with pytest.raises((InvalidInput, duckdb.Error)):
            door.execute("SELECT * FROM duckdb_secrets(redact = false)").fetchall()
    assert "s3" in told
    assert SECRET not in told


@pytest.mark.slow
def test_a_forgotten_person_is_in_no_object(server: Server, make_home: Callable[..., Home]) -> None:
    home, other = make_home(), make_home("other", lake=f"s3://{BUCKET}/other-site")
    person, stranger = "person-4711", "somebody-else"
    told = {who: pseudonym(home.salt, who) for who in (person, stranger)}
    for n in range(3):
        at = START + n * DAY
        theirs = [
            exposure(unit, "a", at, id=f"{who}-{n}", session=f"session-{who}") for who, unit in told.items()
        ]
        store(home, day(n) + theirs)
        seal(home, now=START + (n + 2) * DAY, force=True)
    everything(home)
    store(other, day(0))
    seal(other, now=START + 2 * DAY)
    assert {traces(server, told[who]) > 0 for who in told} == {True}

    found = forget(home, [person], now=LAST, actor="somebody")

    assert (found.events, found.sealed_events) == (3, 3)
    assert [traces(server, word) for word in (told[person], f"session-{person}", f"{person}-")] == [0, 0, 0]
    assert traces(server, told[stranger]) == 3
    wanted = sum((names(day(n)) for n in range(3)), Counter()) + Counter(f"{stranger}-{n}" for n in range(3))
    assert sealed(home) == wanted
    assert sealed(other) == names(day(0))


def traces(server: Server, word: str) -> int:
    """In how many objects a word is; the values of a Parquet file are compressed, and read by its library."""
    found = 0
    for name, body in server.objects().items():
        text = body.decode("latin-1")
        if name.endswith(".parquet"):
            text += str(pq.read_table(BytesIO(body), partitioning=None).to_pylist())
        found += word in text
    return found


@pytest.mark.slow
def test_old_days_go(server: Server, make_home: Callable[..., Home]) -> None:
    home = make_home(retention_days=30)
    store(home, day(0) + day(5))
    seal(home, now=START + 7 * DAY)

    done = seal(home, now=START + 33 * DAY)

    assert done.erased == len(day(0))
    assert sealed(home) == names(day(5))
    home.lake.vacuum(0)
    assert {name.split("/")[1] for name in server.objects("site/day=")} == {f"day={START + 5 * DAY:%Y-%m-%d}"}


@pytest.mark.slow
def test_small_objects_are_joined(
    server: Server, make_home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "MOST_FILES", 2)
    monkeypatch.setattr(sealing, "DAYS_TOGETHER", 1)
    home, joined = make_home(), []
    for n in range(3):
        store(home, [exposure(f"u{n}", "a", START, id=f"e{n}")])
        joined.append(seal(home, now=START + 3 * DAY, force=True).joined)

    assert joined == [0, 0, 1]
    assert sealed(home) == Counter(["e0", "e1", "e2"])
    with home.db.read() as connection:
        assert len(home.lake.files(seals.current(connection) or 0)) == 1


def test_what_was_committed_and_not_noted_is_undone(server: Server, make_home: Callable[..., Home]) -> None:
    """As a process leaves it that was stopped between the lake and the database."""
    home = make_home()
    store(home, day(0))
    with home.db.read() as connection:
        table = arrow_table(
            connection.execute(schema.events.select().with_only_columns(*raw_columns())).all()
        )
    home.lake.append(table)
    assert sealed(home) == Counter()

    seal(home, now=START + 2 * DAY)
    assert sealed(home) == names(day(0))
    home.lake.append(table)
    store(home, day(1))
    seal(home, now=START + 3 * DAY, force=True)

    assert sealed(home) == names(day(0) + day(1))
    assert unsealed(home) == Counter()


def test_a_commit_never_overwrites_another(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that were begun at the same version, the second is the next version."""
    lake = Lake(SITE)
    lake.append(table_of("a"))
    write = deltalake.write_deltalake

    def delayed(*given: Any, **named: Any) -> None:
        monkeypatch.setattr(deltalake, "write_deltalake", write)
        Lake(SITE).append(table_of("b"))
        write(*given, **named)

    monkeypatch.setattr(deltalake, "write_deltalake", delayed)
    lake.append(table_of("c"))

    last = 3  # the table itself is version 0
    assert Lake(SITE).present(last, ["a", "b", "c"]) == {"a", "b", "c"}


def test_duplicates_are_found_in_it(server: Server, make_home: Callable[..., Home]) -> None:
    """One by one and many at once, by a process that has not sealed them."""
    home = make_home()
    store(home, day(0))
    seal(home, now=START + 2 * DAY)
    other = open_home(home.path, home.environ)
    try:
        assert store(other, [*day(0)[:2], visit(99_999, START)]) == 1
        assert store(other, day(0)) == 0
    finally:
        other.db.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "location", ["s3a://bucket/with/a/deep.path_x=1", "s3://bucket", "s3://bucket/site/"]
)
def test_other_addresses(server: Server, location: str) -> None:
    validate({"storage": {"lake": location}})
    lake = Lake(location)
    first = lake.append(table_of("a"))
    version = Lake(location).append(table_of("b"))

    assert lake.present(version, ["a", "b", "c"]) == {"a", "b"}
    assert lake.present(first, ["b"]) == set()


def table_of(*ids: str) -> Any:
    """Events of these ids."""
    at = {"occurred_at": 20_513 * 86_400_000_000, "received_at": 0, "bot": False, "internal": False}
    columns = [column.name for column in schema.events.columns]
    return arrow_table(
        [tuple(({"id": one, "type": "lead", "unit": "u"} | at).get(c) for c in columns) for one in ids]
    )


@pytest.mark.parametrize(
    "location",
    [
        "gs://bucket/site",
        "az://box/site",
        "file:///srv/lake",
        "S3://bucket/x",
        "s3://",
        "s3://bucket/a b",
        "s3://B/x",
    ],
)
def test_an_address_that_cannot_work_is_refused_at_once(location: str) -> None:
    with pytest.raises(
        ConfigError, match=r"storage\.lake: .*give a folder, or an address like s3://bucket/site"
    ):
        validate({"storage": {"lake": location}})


# ------------------------------------------------------------------------------------------- which store it is

HTTP = {"AWS_ALLOW_HTTP": "true"}


@pytest.mark.parametrize(
    ("environ", "options"),
    [
        ({}, {}),
        ({"AWS_DEFAULT_REGION": "b"}, {"REGION": "'b'"}),
        ({"AWS_REGION": "a'", "AWS_DEFAULT_REGION": "b"}, {"REGION": "'a'''"}),
        (
            {"AWS_ENDPOINT_URL": "https://s3.example.com/"},
            {"ENDPOINT": "'s3.example.com'", "URL_STYLE": "'path'", "USE_SSL": "true"},
        ),
        (
            {
                "AWS_ENDPOINT_URL_S3": "http://[::1]:9000",
                "AWS_ENDPOINT_URL": "https://b",
                "AWS_ALLOW_HTTP": "YES",
            },
            {"ENDPOINT": "'[::1]:9000'", "URL_STYLE": "'path'", "USE_SSL": "false"},
        ),
        (
            {"aws_endpoint": "http://a:1", "ENDPOINT": "http://b:1", "allow_http": "1"},
            {"ENDPOINT": "'a:1'", "URL_STYLE": "'path'", "USE_SSL": "false"},
        ),
        (
            {"AWS_ENDPOINT_URL": "https://bucket.s3.example.com", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true"},
            {"ENDPOINT": "'s3.example.com'", "URL_STYLE": "'vhost'", "USE_SSL": "true"},
        ),
    ],
)
def test_what_the_secret_says_of_the_store(environ: Mapping[str, str], options: Mapping[str, str]) -> None:
    assert duckdb_connection.secret_options(environ) == options


@pytest.mark.parametrize(
    ("url", "allowed", "told"),
    [
        ("s3.example.com:9000", "true", "is no address: write it like https"),
        ("ftp://s3.example.com", "true", "is no address"),
        ("https://", "true", "is no address"),
        (
            "http://s3.example.com",
            "false",
            "without encryption: set it to an https:// address, or set AWS_ALLOW_HTTP",
        ),
    ],
)
def test_an_endpoint_that_cannot_work_is_named(
    environment: Callable[..., None], url: str, allowed: str, told: str
) -> None:
    environment(url, AWS_ALLOW_HTTP=allowed)
    for use in (Lake(SITE).undo, lambda _: Lake(SITE).append(table_of("a")), lambda _: duck_started()):
        with pytest.raises(StoreError, match=f"AWS_ENDPOINT_URL is .*{told}"):
            use(None)


def duck_started() -> duckdb.DuckDBPyConnection:
    return duckdb_connection.started(memory="100MB", spill="/nowhere", remote=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "chosen",
    [
        {"AWS_ENDPOINT_URL_S3": "{url}", "AWS_ENDPOINT_URL": NOBODY, "AWS_ENDPOINT": NOBODY},
        {"AWS_ENDPOINT": NOBODY, "AWS_ENDPOINT_URL": "{url}"},
        {"AWS_ENDPOINT_URL": None, "AWS_ENDPOINT": "{url}/"},
        {"AWS_ENDPOINT_URL": None, "ENDPOINT": "{url}"},
        {"AWS_ENDPOINT_URL": "{url}", "AWS_REGION": None},
        {"AWS_ENDPOINT_URL": "{url}", "AWS_REGION": None, "AWS_DEFAULT_REGION": "us-west-2"},
    ],
)
def test_both_libraries_go_to_the_same_store(
    server: Server, environment: Callable[..., None], chosen: Mapping[str, str | None]
) -> None:
    environment(
        server.url, **{name: value and value.format(url=server.url) for name, value in chosen.items()}
    )
    lake = Lake(SITE)

    assert lake.present(lake.append(table_of("a")), ["a", "b"]) == {"a"}


def test_the_extensions_are_those_of_pip() -> None:
    """Nothing is fetched: each is there, for the DuckDB that the lock names."""
    for name in duckdb_connection.EXTENSIONS:
        assert duckdb_connection.packaged(name, f"v{duckdb.__version__}") is not None
        assert duckdb_connection.packaged(name, "v0.0.1") is None


def test_an_extension_that_cannot_be_had_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(SITE)
    version = lake.append(table_of("a"))
    monkeypatch.setattr(duckdb_connection, "EXTENSIONS", ("no_such_extension",))

    with pytest.raises(
        StoreError, match=r"no_such_extension.*pip install 'cro-intelligence\[object-store\]'"
    ):
        lake.present(version, ["a"])


# ------------------------------------------------------------------------------------------- what goes wrong


def test_a_bucket_that_is_not_there_is_named(server: Server, make_home: Callable[..., Home]) -> None:
    home = make_home(lake="s3://no-such-bucket/site")
    store(home, day(0))

    with pytest.raises(StoreError, match=r"no-such-bucket/site.*404.*AWS_ENDPOINT_URL") as failure:
        seal(home, now=START + 2 * DAY)

    assert "\n" not in str(failure.value)
    assert "\x1b" not in str(failure.value)
    assert unsealed(home) == names(day(0))


@pytest.mark.slow
def test_events_are_taken_while_nobody_answers(
    server: Server, environment: Callable[..., None], make_home: Callable[..., Home]
) -> None:
    home = make_home()
    store(home, day(0))
    seal(home, now=START + 2 * DAY)
    before = everything(home)
    down, knowing = (open_home(home.path, home.environ) for _ in range(2))
    with home.db.read() as connection:
        assert knowing.lake.files(seals.current(connection) or 0)
    environment(NOBODY)
    try:
        began = time.monotonic()
        assert store(down, day(1)) == len(day(1))
        report = orchestrate(down, now=START + 3 * DAY)
        (failure,) = (one["error"] for one in report.failures if one["experiment"] == "(sealing)")
        assert f"lake in {SITE} cannot be reached" in failure
        with pytest.raises(StoreError, match=f"the lake in {SITE} cannot be opened"):
            everything(down)
        with pytest.raises(StoreError, match=f"sealed days in {SITE} cannot be read"):
            store(
                knowing, day(0)[:1]
            )  # it is sealed; this process knows in which files, and cannot read them
        assert time.monotonic() - began < 60
    finally:
        down.db.close()
        knowing.db.close()
    environment(server.url)

    assert store(home, day(0)) == 0
    assert seal(home, now=START + 3 * DAY, force=True).events == len(day(1))
    assert sealed(home) == names(day(0) + day(1))
    assert everything(home)["exposed"] > before["exposed"]


def test_a_store_that_is_down_does_not_keep_new_events_waiting(
    server: Server, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeated events ask it once; then they are refused at once for a while, and then it is asked again."""
    version = Lake(SITE).append(table_of("a"))
    asked: list[int] = []
    real = Lake.files

    def counted(self: Lake, *which: Any) -> list[str]:
        asked.append(1)
        return real(self, *which)

    monkeypatch.setattr(Lake, "files", counted)
    environment(NOBODY)
    lake = Lake(SITE)
    with pytest.raises(StoreError, match="cannot be opened"):
        lake.present(version, ["a"])
    for _ in range(3):
        with pytest.raises(StoreError, match=r"did not answer.*send them again in 10 seconds"):
            lake.present(version, ["a"])
    assert len(asked) == 1

    environment(server.url)
    monkeypatch.setattr(lake_module, "monotonic", lambda: time.monotonic() + lake_module.SILENCE)
    assert lake.present(version, ["a", "b"]) == {"a"}


@dataclass(frozen=True)
class Guarded:
    """A server that asks for credentials, those that may do everything, and those that may only read."""

    server: Server
    owner: dict[str, str]
    reader: dict[str, str]


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    with serving(INITIAL_NO_AUTH_ACTION_COUNT="7") as found:  # as many requests as follow here
        owner, reader = (
            _user(found, name, may) for name, may in (("owner", "s3:*"), ("reader", ["s3:Get*", "s3:List*"]))
        )
        found.client().create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        yield Guarded(found, owner, reader)


def _user(server: Server, name: str, may: Any) -> dict[str, str]:
    """Makes a user of the server; returns the user's credentials."""
    iam = server.client("iam")
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    rule = {"Effect": "Allow", "Action": may, "Resource": "*"}
    document = json.dumps({"Statement": [rule], "Version": "2012-10-17"})
    iam.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=document)
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


@pytest.mark.slow
def test_wrong_credentials_are_told_and_right_ones_work(
    guarded: Guarded, environment: Callable[..., None]
) -> None:
    server, right = guarded.server, guarded.owner
    environment(server.url, **right)
    lake = Lake(SITE)
    version = lake.append(table_of("a"))
    assert lake.present(version, ["a", "b"]) == {"a"}

    for wrong in ({"AWS_ACCESS_KEY_ID": "NOBODYSKEY"}, {"AWS_SECRET_ACCESS_KEY": "guessed"}):
        environment(server.url, **right)
        other = Lake(SITE)
        assert len(other.files(version)) == 1
        environment(server.url, **right | wrong)
        for use in (lambda lake=other: lake.undo(version), lambda lake=other: lake.append(table_of("b"))):
            with pytest.raises(StoreError, match=r"403.*the credentials must be allowed"):
                use()
        with pytest.raises(StoreError, match=r"cannot be read.*403"):
            other.present(version, ["a"])


@pytest.mark.slow
def test_whoever_may_only_read_can_read(guarded: Guarded, environment: Callable[..., None]) -> None:
    environment(guarded.server.url, **guarded.owner)
    lake = Lake("s3://bucket/read-only")
    version = lake.append(table_of("a"))

    environment(guarded.server.url, **guarded.reader)
    reader, elsewhere = Lake(lake.location), Lake("s3://bucket/new")
    assert reader.present(version, ["a", "b"]) == {"a"}
    day_of = reader.files(version)[0].split("day=")[1][:10]
    for write in (
        lambda: reader.append(table_of("b")),
        lambda: reader.rewrite(day_of),
        lambda: reader.drop("2100-01-01"),
        lambda: reader.undo(version - 1),
        lambda: elsewhere.append(table_of("b")),
    ):
        with pytest.raises(StoreError, match=r"cannot be written: .*403.*the credentials must be allowed"):
            write()
    assert reader.present(version, ["a", "b"]) == {"a"}


@pytest.mark.slow
def test_a_secret_that_this_machine_keeps_is_not_taken(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of DuckDB's secrets the one with the longest scope counts, also if it is of another program."""
    monkeypatch.setenv("HOME", str(tmp_path))
    file = duckdb_connection.packaged("httpfs", f"v{duckdb.__version__}")
    with duckdb.connect() as other:
        other.execute(f"LOAD '{file}'")
        other.execute(
            f"CREATE PERSISTENT SECRET (TYPE s3, SCOPE '{SITE}/', ENDPOINT '127.0.0.1:9', USE_SSL false)"
        )
    assert list(tmp_path.rglob("*.duckdb_secret"))
    lake = Lake(SITE)

    assert lake.present(lake.append(table_of("a")), ["a"]) == {"a"}


def test_no_credentials_at_all_are_told(server: Server, environment: Callable[..., None]) -> None:
    environment(server.url, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)

    with pytest.raises(StoreError, match="credentials"):
        Lake(SITE).append(table_of("a"))
    with pytest.raises(StoreError, match=r"no credentials for the object store .* AWS_ACCESS_KEY_ID"):
        duck_started()


@pytest.mark.slow
def test_a_server_that_accepts_and_never_answers_is_given_up(
    guarded: Guarded, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After seconds that are set: here a tenth of those that ship."""
    server = guarded.server
    environment(server.url, **guarded.owner)
    lake, knowing = (Lake("s3://bucket/silent") for _ in range(2))
    version = lake.append(table_of("a"))
    assert len(knowing.files(version)) == 1
    monkeypatch.setattr(
        duckdb_connection, "PATIENCE", duckdb_connection.PATIENCE | {"timeout": "1s", "retry_timeout": "2s"}
    )
    monkeypatch.setattr(duckdb_connection, "HTTP", {"http_timeout": 1, "http_retries": 0})
    monkeypatch.setattr(lake_module, "SILENCE", 0.0)
    began = time.monotonic()
    server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(StoreError, match="cannot be reached"):
            Lake(lake.location).append(table_of("b"))
        with pytest.raises(StoreError, match="cannot be opened"):
            lake.present(version, ["a"])
        with pytest.raises(StoreError, match="cannot be read"):
            knowing.present(version, ["a"])
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert time.monotonic() - began < 20

    assert lake.present(version, ["a"]) == {"a"}
