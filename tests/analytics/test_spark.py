"""The same events counted by DuckDB and by a real Spark cluster on this machine: a master and two workers."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import numpy as np
import pytest
from helpers.lake_samples import store
from helpers.store_samples import DAY, HOUR, START, TICK, event, exposure, running, stored, with_shares
from typer.testing import CliRunner

from cro_core.analytics import definitions, engines, reader, segment_definitions
from cro_core.analytics.cuts import LEFT_OUT, cut
from cro_core.analytics.spark import in_spark
from cro_core.cli import app
from cro_core.domain import EXPOSURE, Event, Experiment, Ratio
from cro_core.errors import InvalidInput, StoreError
from cro_core.home import Home, create_home
from cro_core.storage import experiments
from cro_core.workflows.evaluate import evaluate
from cro_core.workflows.seal import seal

NOW = START + 6 * DAY
LATE = START + 15 * DAY
WORKERS = 2
START_SECONDS = 60
QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""These processes end before Java would have optimised them."""

SETTINGS = {
    "spark.driver.memory": "512m",
    "spark.executor.memory": "512m",
    "spark.driver.extraJavaOptions": QUICK,
    "spark.executor.extraJavaOptions": QUICK,
    "spark.sql.shuffle.partitions": "3",
}
"""As an operator would write them; more than one piece, so that tables do go from worker to worker."""

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning:pyspark")


@pytest.fixture(scope="module")
def spark_home() -> Path:
    """Where Spark is installed; without it or Java, nothing here is tested, and the reason is said."""
    if sys.platform != "linux":
        pytest.skip("SPARK NOT TESTED: written for Linux")
    if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        pytest.skip("SPARK NOT TESTED: no Java; install Java 17 or newer, or set JAVA_HOME")
    pyspark = pytest.importorskip("pyspark", reason="SPARK NOT TESTED: pip install -e '.[spark]'")
    return Path(pyspark.__file__).parent


@pytest.fixture(scope="module")
def master(spark_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster on loopback, started from Spark's own classes; its processes end with the tests."""
    folder = tmp_path_factory.mktemp("cluster")
    port, page = _free_ports(2)
    environ = {
        **os.environ,
        "SPARK_HOME": str(spark_home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_DAEMON_MEMORY": "256m",
        "SPARK_DAEMON_JAVA_OPTS": QUICK,
    }
    address = f"spark://127.0.0.1:{port}"
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> None:
        command = [str(spark_home / "bin" / "spark-class"), f"org.apache.spark.deploy.{name}", *arguments]
        with (folder / f"{len(processes)}.log").open("wb") as log:
            processes.append(
                subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
            )

    with pytest.MonkeyPatch.context() as patch:
        conf = folder / "conf"
        conf.mkdir()
        lines = [f"{name} {value}" for name, value in SETTINGS.items()]
        (conf / "spark-defaults.conf").write_text("\n".join(lines) + "\n")
        patch.setenv("SPARK_CONF_DIR", str(conf))
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        try:
            start("master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", str(page))
            _until(lambda: _answers(port), folder)
            for number in range(WORKERS):
                work = str(folder / f"work{number}")
                start(
                    "worker.Worker", "--host", "127.0.0.1", "--webui-port", "0", "--cores", "1",
                    "--memory", "600m", "--work-dir", work, address,
                )  # fmt: skip
            _until(lambda: _alive(page) == WORKERS, folder)
            yield address
        finally:
            _stop_session()
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                process.wait(20)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    try:
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _status(page: int) -> Any:
    with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{page}/json/", timeout=5) as answer:
        return json.load(answer)


def _alive(page: int) -> int:
    try:
        return int(_status(page)["aliveworkers"])
    except OSError:
        return 0


def _until(condition: Callable[[], bool], folder: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > end:
            logs = "\n".join(file.read_text()[-2000:] for file in sorted(folder.glob("*.log")))
            pytest.fail(f"the Spark cluster did not come up in {START_SECONDS} s:\n{logs}")
        time.sleep(0.2)


def _stop_session() -> None:
    """Ends this process's session and its Java."""
    from pyspark import SparkContext

    if SparkContext._active_spark_context is not None:
        SparkContext._active_spark_context.stop()
    gateway: Any = SparkContext._gateway
    if gateway is not None:
        gateway.shutdown()
        gateway.proc.stdin.close()
        gateway.proc.wait(20)
        SparkContext._gateway = SparkContext._jvm = None


# ---------------------------------------------------------------- the same events


def _experiment() -> Experiment:
    ratios = (Ratio("worth", "value:call", "count:lead"), Ratio("per unit", "engagement", "goal:play"))
    plan = {"adaptive": True, "zone": "Europe/Paris", "covariate": "engagement", "ratios": ratios}
    shares = {2: {"a": 0.2, "b": 0.3, "c": 0.5}, 3: {"a": 0.4, "b": 0.2, "c": 0.4}}
    return with_shares(running(keys=("a", "b", "c"), **plan), shares)


def _log(experiment: Experiment, rng: np.random.Generator, number: int) -> list[Event]:
    """Everything that makes counting hard: borders, ties, robots, second variants, goals before and far after."""
    borders = [e.starts_at for e in experiment.epochs[:6]]
    moments = [b + d for b in borders for d in (-TICK, timedelta(0), TICK)]
    moments += [START + HOUR * float(h) for h in rng.uniform(-40 * 24, 13 * 24, 20)]
    moments += [START + HOUR * float(h) for h in rng.uniform(0, 13 * 24, number // 3)]
    moments += [m + experiment.plan.window for m in moments[:20]]

    def pick(*options: Any) -> Any:
        return options[int(rng.integers(len(options)))]

    log = []
    for _ in range(number):
        kind = pick(*[EXPOSURE] * 4, "lead", "lead", "call", "play", "play", "scroll", "booked")
        at = pick(*moments)
        day = experiment.epoch_at(at)
        said = pick(None, 1, *[day.number if day else 0] * 8)
        sender = rng.random()
        to = pick("hero", "hero", "hero", "cta" if kind == EXPOSURE else None)
        fields: dict[str, Any] = {
            "id": f"e{rng.integers(number * 8):07d}",
            "variant": pick("a", "b", "c") if kind == EXPOSURE else None,
            "epoch": said if kind == EXPOSURE else None,
            "value": pick(None, 0.0, float(rng.normal(100, 80)), float(rng.uniform()) / 3),
            "device": pick("mobile", "desktop", "", None),
            "country": pick("DK", "FR", None),
            "city": pick(None, *(f"city {n}" for n in range(70))),
            "occasion": pick("wedding", "party", None),
            "asset_id": pick("hero-1", "Ærø", "zebra"),
            "url": pick("/", "/pris?x=1", None),
            "properties": pick(
                None, {}, {"referrer": ""}, {"referrer": "https://www.Example.org:8080/a?b#c"},
                {"referrer": "android-app://com.app/x", "n": 1}, {"referrer": None}, {"referrer": "nonsense"},
            ),
            "bot": sender < 0.04,
            "internal": 0.02 < sender < 0.07,
        }  # fmt: skip
        log.append(event(kind, f"u{rng.integers(number // 4)}", at, to=to, **fields))
    return log


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Some days sealed, some in the database, and events that came late for sealed days in the database too."""
    settings = {"storage": {"hot_days": 1, "seal_at_events": 0}}
    made = create_home(tmp_path_factory.mktemp("site") / "home", settings, environ={})
    experiment = stored(made.db, _experiment(), running("cta", ("a", "b", "c")))
    log = _log(experiment, np.random.default_rng(20261124), 3000)
    log += log[::40]
    store(made, [exposure("often", "a", START + HOUR, epoch=0), event("lead", "often", START + 2 * HOUR)])
    store(made, [event("lead", "often", START + 3 * HOUR)])
    store(made, log[:2200])
    seal(made, now=NOW)
    store(made, log[2200:])
    yield made
    made.db.close()


def _everything(home: Home, engine: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with home.db.read() as connection:
        experiment = experiments.get(connection, "hero")
        with reader.reading(connection, experiment, LATE, engine=engine) as late:
            cells = late.cells()
            found |= {
                "cells": cells,
                "units": late.unit_table().to_pylist(),
                "times": late.times(),
                "days": late.days(),
                "crossing": late.crossing(),
                "segments": late.segments(),
                "measured": late.measured(cells),
                "waterfall": late.waterfall(),
                "crossed": late.crossover_units(),
                "exposed": late.exposed_units(),
                "outcomes": late.outcomes("booked", LATE),
                "goal times": late.goal_times(),
                "durations": late.durations(),
                "hour and referrer": late.facets("hour", "referrer"),
                "weekday and city": late.facets("weekday", "city"),
            }
            early = late.at(START + 3 * DAY)
            found |= {"early cells": early.cells(), "early waterfall": early.waterfall()}
            found |= {"early days": early.days(), "early crossing": early.crossing()}
        without = [("day", "2026-03-04"), ("hour", "09:00"), ("city", "city 3"), ("device", "(unknown)")]
        with reader.reading(connection, experiment, LATE, engine=engine, without=without) as less:
            found |= {"cut cells": less.cells(), "cut days": less.days(), "cut waterfall": less.waterfall()}
    return found


def _plain(value: Any) -> Any:
    """Rows as plain lists, in which a comparison can say where it differs."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def same(got: Any, wanted: Any, where: str = "") -> None:
    """Equal, in the same order; fractions to nine digits, everything else exactly."""
    if isinstance(wanted, dict):
        assert list(got) == list(wanted), where
        for key in wanted:
            same(got[key], wanted[key], f"{where}/{key}")
    elif isinstance(wanted, list):
        assert len(got) == len(wanted), where
        for number, (one, other) in enumerate(zip(got, wanted, strict=True)):
            same(one, other, f"{where}/{number}")
    elif isinstance(wanted, float):
        assert got == pytest.approx(wanted, rel=1e-9, abs=1e-9), where
    else:
        assert got == wanted, where


@pytest.mark.slow
def test_a_cluster_counts_what_duckdb_counts(home: Home, master: str) -> None:
    with home.db.read() as connection:
        rows, files = _places(home, connection)
    assert rows > 300
    assert len(files) > 10
    wanted, got = _everything(home, engines.DUCKDB), _everything(home, master)
    assert list(got) == list(wanted)
    for part, value in wanted.items():
        assert value, part
        same(_plain(got[part]), _plain(value), str(part))
    met = {
        line.step
        for part in ("waterfall", "early waterfall", "cut waterfall")
        for line in wanted[part]
        if line.count
    }
    assert met == {"received", *definitions.STEPS} - {"rejected"}


def _places(home: Home, connection: Any) -> tuple[int, list[str]]:
    from cro_core.storage import schema, seals

    version = seals.current(connection)
    assert version is not None
    hot = connection.execute(schema.events.select()).all()
    return len(hot), home.lake.files(version)


@pytest.mark.slow
def test_the_workers_did_it(home: Home, master: str) -> None:
    """A session that fell back to this process would pass the test above."""
    from pyspark.sql import SparkSession

    engine = engines.opened(home.db.engine.connect(), master)
    found = engine.rows("SELECT COUNT(*) AS n FROM range(1000)", {})
    assert found == [{"n": 1000}]
    session = SparkSession.getActiveSession()
    assert session is not None
    assert session.sparkContext.master == master
    executors = session.sparkContext._jsc.sc().statusTracker().getExecutorInfos()
    assert len(executors) == 1 + WORKERS
    engine.close()


@pytest.mark.slow
def test_the_decision_is_the_same(home: Home, master: str) -> None:
    asked = ["evaluate", "hero", "--home", str(home.path), "--as-of", LATE.isoformat(), "--json"]
    wanted, got = (CliRunner().invoke(app, [*asked, *more]) for more in ((), ("--engine", master)))
    assert (wanted.exit_code, got.exit_code) == (0, 0), got.output
    same(json.loads(got.stdout), json.loads(wanted.stdout))


# ---------------------------------------------------------------- what can go wrong


@pytest.mark.slow
def test_a_file_that_is_gone_is_named(
    home: Home, master: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after Spark has looked whether it is there."""
    with home.db.read() as connection:
        file = Path(_places(home, connection)[1][3])
        experiment = experiments.get(connection, "hero")
        aside = shutil.copy(file, tmp_path)
        try:
            with reader.reading(connection, experiment, LATE, engine=master) as reading:
                file.unlink()
                with pytest.raises(StoreError, match=file.name):
                    reading.cells()
            shutil.copy(aside, file)
            with reader.reading(connection, experiment, LATE, engine=master) as reading:
                view = reading.engine.view

                def then_gone(*given: Any, **named: Any) -> None:
                    view(*given, **named)
                    file.unlink()

                monkeypatch.setattr(reading.engine, "view", then_gone)
                with pytest.raises(StoreError, match="each worker must reach the lake") as refused:
                    reading.cells()
                assert "\n" not in str(refused.value)
        finally:
            shutil.copy(aside, file)


@pytest.mark.parametrize("name", ["spark", "spark:", "sqlite", "polars", ""])
def test_an_unknown_engine_is_refused(home: Home, name: str) -> None:
    with pytest.raises(InvalidInput, match="spark://HOST:PORT"):
        evaluate(home, "hero", as_of=LATE, engine=name)


def _elsewhere(home: Home, engine: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from cro_core.cli import main; main()", "evaluate", "hero"]
    command += ["--home", str(home.path), "--engine", engine]
    return subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60)


def test_a_master_that_does_not_answer_is_named(spark_home: Path, home: Home) -> None:
    (port,) = _free_ports(1)
    found = _elsewhere(home, f"spark://127.0.0.1:{port}")
    assert found.returncode == 2
    assert found.stderr.startswith(f"error: no Spark master answers at spark://127.0.0.1:{port}: ")


def test_java_that_is_missing_is_named(spark_home: Path, home: Home, tmp_path: Path) -> None:
    found = _elsewhere(home, "spark:local[1]", JAVA_HOME=str(tmp_path))
    assert found.returncode == 2
    assert "Java 17" in found.stderr.splitlines()[-1]


def test_a_library_that_is_missing_is_named(home: Home, tmp_path: Path) -> None:
    (tmp_path / "pyspark.py").write_text("raise ImportError('no', name='pyspark')\n")
    found = _elsewhere(home, "spark:local[1]", PYTHONPATH=str(tmp_path))
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1].startswith("error: pyspark is missing")
    assert "cro-intelligence[spark]" in found.stderr


def test_every_definition_has_words_in_spark() -> None:
    """Without Spark itself: nothing of DuckDB's own is left, parameters are Spark's, sums have no order."""
    texts = [
        *definitions.TABLES.values(),
        definitions.UNITS,
        definitions.CELLS,
        definitions.TIMES,
        definitions.STEPS_TAKEN,
        definitions.CROSSOVER_UNITS,
    ]
    less = cut(running(), [("day", "2026-03-02"), ("hour", "09:00"), ("city", "x")])
    texts += [less.tables[LEFT_OUT], less.selection(definitions.CELLS)]
    texts += [
        segment_definitions.facet_query(("hour", "referrer")),
        segment_definitions.DURATIONS,
        definitions.OUTCOMES,
    ]
    for text in texts:
        said = in_spark(text)
        assert set(re.findall(r":(\w+)", said)) >= set(re.findall(r"\$(\w+)", text))
        assert not re.search(r"//(?!\()|ARG_MIN|STRUCT_PACK|\$\w|SUM\([^()]* ORDER BY", said)
