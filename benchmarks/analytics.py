"""What the numbers of one experiment of 20 cost, beside DuckDB SQL written by hand, pandas and polars, on the same events.

The events are made straight into two homes: one whose 30 days are all sealed, and one whose newest days are still
in the database (6.7 % of the events). Each way runs in a process of its own, warm (median of some runs), and
gives the same numbers: units and conversions by variant are compared. Processor seconds, and the peak of memory.

    python benchmarks/analytics.py [--events 1000000] [--runs 5] [--folder KEPT] [--spark MASTER]

With --spark (``spark:local[2]`` or ``spark://host:7077``) the cells of a look are counted there too: wall time only,
for its processes are not ours, and that of the first look, which starts Java.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import sqlalchemy as sa

from cro_core.analytics import definitions, reader
from cro_core.clock import to_micros
from cro_core.domain import Experiment, Goal, Plan, Variant
from cro_core.home import Home, create_home, open_home
from cro_core.planning import plans
from cro_core.storage import experiments, schema, seals
from cro_core.storage.lake import arrow_schema
from cro_core.workflows import overview

EXPERIMENTS, DAYS, HOT_DAYS = 20, 30, 2
START = datetime(2026, 3, 2, tzinfo=UTC)
NOW = START + timedelta(days=DAYS)
DAY = timedelta(days=1)
GOALS = (Goal("lead", 100.0, True), Goal("call", 80.0, True), Goal("play", 20.0))
ASKED = "exp07"

EVENTS = """
SELECT printf('%010x-%s', $day::BIGINT * 100000000 + n, left(md5(n::VARCHAR || $day::VARCHAR), 25)) AS id,
       CASE WHEN kind < 5 THEN NULL ELSE printf('exp%02d', e) END AS experiment_id,
       CASE WHEN kind BETWEEN 5 AND 54 THEN CASE WHEN hash(u, e) % 2 = 0 THEN 'a' ELSE 'b' END END AS variant,
       CASE WHEN kind < 1 THEN 'lead' WHEN kind < 3 THEN 'call' WHEN kind < 5 THEN 'play' WHEN kind < 55 THEN 'exposure'
            WHEN kind < 57 THEN 'lead' WHEN kind < 60 THEN 'play' ELSE 'scroll' END AS type,
       md5(u::VARCHAR) AS unit, NULL AS session, CASE WHEN hash(u) % 10 < 6 THEN 'mobile' ELSE 'desktop' END AS device,
       'city ' || (hash(u) % 200) AS city, 'DK' AS country, $midnight + moment AS occurred_at, $midnight + moment AS received_at,
       CASE WHEN kind IN (0, 55, 56) THEN round(1000 * r, 2) END AS value, NULL AS asset_id, NULL AS occasion,
       'https://site.example/' || (hash(u) % 7) AS url, NULL AS properties, NULL AS epoch, NULL AS propensity,
       hash(u) % 50 = 0 AS bot, hash(u) % 211 = 0 AS internal
FROM (SELECT range AS n, floor(random() * 100)::INTEGER AS kind, floor(random() * $experiments)::INTEGER AS e, random() AS r,
             floor(pow(random(), 1.5) * $visitors)::BIGINT AS u, floor(random() * 86400000000)::BIGINT AS moment
      FROM range($events))
"""
"""One day of a site: visitors who come again, half of the events exposures, some goals posted for the whole site."""

BY_HAND = """
WITH first AS (
    SELECT unit, MIN(occurred_at) AS first_at, ARG_MIN(variant, occurred_at) AS variant
    FROM read_parquet($files, hive_partitioning = false)
    WHERE experiment_id = 'exp07' AND type = 'exposure' AND NOT bot AND NOT internal
    GROUP BY unit
),
goal AS (
    SELECT f.unit, g.type, SUM(g.value) AS value
    FROM read_parquet($files, hive_partitioning = false) g JOIN first f ON f.unit = g.unit
    WHERE (g.experiment_id = 'exp07' OR g.experiment_id IS NULL) AND g.type IN ('lead', 'call', 'play')
      AND NOT g.bot AND NOT g.internal AND g.occurred_at >= f.first_at AND g.occurred_at <= f.first_at + $window
    GROUP BY f.unit, g.type
),
done AS (
    SELECT unit, MAX(CASE WHEN type <> 'play' THEN 1 ELSE 0 END) AS converted,
           SUM(CASE type WHEN 'lead' THEN 100 WHEN 'call' THEN 80 ELSE 20 END) AS score, SUM(value) AS value
    FROM goal GROUP BY unit
)
SELECT variant, COUNT(*) AS units, CAST(SUM(COALESCE(converted, 0)) AS BIGINT) AS conversions,
       SUM(score), SUM(score * score), SUM(value), SUM(value * value)
FROM first LEFT JOIN done USING (unit)
WHERE first_at + $window < $as_of AND first_at < $enrolment
GROUP BY variant ORDER BY variant
"""

SEGMENTS = ("device", "city", "hour")

OPENED: dict[str, Any] = {}
"""What a way has opened for its later looks, by name."""

Counts = list[list[Any]]


def make(folder: Path, events: int) -> None:
    """The two homes."""
    for name in ("sealed", "hot"):
        home = create_home(folder / name, {"storage": {"hot_days": HOT_DAYS}}, environ={})
        with home.db.write() as connection:
            for number in range(EXPERIMENTS):
                experiments.add(connection, _experiment(number))
        with duckdb.connect() as made:
            made.execute("SELECT setseed(0.4)")
            for day in range(DAYS):
                given = {
                    "day": day,
                    "midnight": to_micros(START + day * DAY),
                    "experiments": EXPERIMENTS,
                    "visitors": events // 14,
                    "events": events // DAYS,
                }
                rows = made.execute(EVENTS, given).to_arrow_table().cast(arrow_schema())
                if name == "hot" and day >= DAYS - HOT_DAYS:
                    _insert(home, rows)
                else:
                    _seal(home, rows)
        with home.db.write() as connection:
            connection.execute(sa.text("ANALYZE"))
        home.db.close()


def _experiment(number: int) -> Experiment:
    variants = (Variant("a", "A", {}, is_control=True), Variant("b", "B", {}))
    name = f"exp{number:02d}"
    draft = Experiment(name, name, variants, Plan(GOALS, horizon=DAYS * DAY), slot=name, created_at=START)
    return plans.begin(draft, START)


def _seal(home: Home, rows: Any) -> None:
    version = home.lake.append(rows)
    with home.db.write() as connection:
        before = seals.newest(connection)
        held = rows.num_rows + (before.events if before else 0)
        seals.note(connection, before, version, at=NOW, reason=seals.ADDED, events=held)


def _insert(home: Home, rows: Any) -> None:
    names = [c.name for c in schema.events.columns]
    places = ", ".join("?" * len(names))
    with home.db.write() as connection:
        for batch in rows.to_batches(max_chunksize=50_000):
            values = list(zip(*(batch.column(n).to_pylist() for n in names), strict=True))
            connection.exec_driver_sql(f"INSERT INTO events ({', '.join(names)}) VALUES ({places})", values)


def _totals(cells: Any) -> Counts:
    found: dict[str, list[int]] = {}
    for cell in cells:
        seen = found.setdefault(cell.variant, [0, 0])
        seen[0] += cell.units
        seen[1] += cell.conversions
    return [[variant, *seen] for variant, seen in sorted(found.items())]


def ours(home: Home) -> Counts:
    """The cells of a look."""
    with home.db.read() as connection:
        experiment = experiments.get(connection, ASKED)
        with reader.reading(connection, experiment, NOW) as reading:
            return _totals(reading.cells())


def on_spark(home: Home, master: str) -> Counts:
    """The cells of a look, counted by Spark."""
    with home.db.read() as connection:
        experiment = experiments.get(connection, ASKED)
        with reader.reading(connection, experiment, NOW, engine=master) as reading:
            return _totals(reading.cells())


def whole(home: Home) -> Counts:
    """All that a final look counts: segments, secondary metrics with their covariate, and the waterfall."""
    with home.db.read() as connection:
        experiment = experiments.get(connection, ASKED)
        with reader.reading(connection, experiment, NOW) as reading:
            cells = reading.cells()
            reading.segments(), reading.measured(cells), reading.waterfall()
            return _totals(cells)


def first_look(home: Home) -> Counts:
    """The cells of a look that nothing was kept for."""
    shutil.rmtree(home.data / "cache", ignore_errors=True)
    return ours(home)


def every_segment(home: Home) -> Counts:
    """All 20 experiments by device, city and hour."""
    found: Counts = []
    with home.db.read() as connection:
        for number in range(EXPERIMENTS):
            experiment = experiments.get(connection, f"exp{number:02d}")
            with reader.reading(connection, experiment, NOW) as reading:
                facets = {by: reading.facets(by) for by in SEGMENTS}
            if experiment.id == ASKED:
                assert sum(f.units for f in facets["city"]) == sum(f.units for f in facets["hour"])
                found = _totals(facets["device"])
    return found


def later_looks(home: Home) -> Counts:
    """One more look at what was read already."""
    if "reading" not in OPENED:
        connection = home.db.engine.connect()
        OPENED["reading"] = reader.reading(connection, experiments.get(connection, ASKED), NOW)
    return _totals(OPENED["reading"].at(NOW).cells())


def dashboard(home: Home) -> Counts:
    """Every running test as the dashboard shows it."""
    shown = {e.experiment_id: e for e in overview.running_experiments(home, now=NOW)}
    return [[v.variant, v.units, v.conversions] for v in shown[ASKED].variants]


def by_hand(home: Home) -> Counts:
    """The same numbers in SQL, by somebody who knows where everything is and that nothing is in the database."""
    if "duckdb" not in OPENED:
        OPENED["duckdb"] = duckdb.connect(config={"threads": 2})
        OPENED["duckdb"].execute("SET parquet_metadata_cache = true")
    experiment = _experiment(7)
    assert experiment.enrolment_ends_at is not None
    given = {
        "files": _files(home),
        "window": int(definitions.parameters(experiment, NOW)["window"]),
        "as_of": to_micros(NOW),
        "enrolment": to_micros(experiment.enrolment_ends_at),
    }
    return [list(row[:3]) for row in OPENED["duckdb"].execute(BY_HAND, given).fetchall()]


def with_pandas(home: Home) -> Counts:
    """The same numbers as an analyst computes them from the Parquet files."""
    needed = ["experiment_id", "unit", "type", "variant", "occurred_at", "value", "bot", "internal"]
    table = pd.concat([pd.read_parquet(file, columns=needed) for file in _files(home)], ignore_index=True)
    table = table[~table["bot"] & ~table["internal"]]
    own = table["experiment_id"] == ASKED
    first = table[own & (table["type"] == "exposure")].sort_values("occurred_at").groupby("unit").first()
    goals = table[(own | table["experiment_id"].isna()) & table["type"].isin([g.name for g in GOALS])]
    goals = goals.merge(first[["occurred_at"]], left_on="unit", right_index=True, suffixes=("", "_first"))
    since = goals["occurred_at"] - goals["occurred_at_first"]
    goals = goals[(since >= 0) & (since <= DAY // timedelta(microseconds=1))]
    score = goals.drop_duplicates(["unit", "type"])["type"].map({g.name: g.weight for g in GOALS})
    first["score"] = score.groupby(goals.loc[score.index, "unit"]).sum().reindex(first.index, fill_value=0)
    first["amount"] = goals.groupby("unit")["value"].sum().reindex(first.index, fill_value=0)
    first["converted"] = first.index.isin(goals.loc[goals["type"] != "play", "unit"])
    kept = first[first["occurred_at"] < _last_exposure()]
    found = kept.groupby("variant")["converted"].agg(["size", "sum"])
    return [[str(variant), int(n), int(k)] for variant, (n, k) in found.iterrows()]


def every_segment_with_pandas(home: Home) -> Counts:
    """All 20 experiments by device, city and hour, from one frame."""
    needed = ["experiment_id", "unit", "type", "variant", "occurred_at", "bot", "internal", "device", "city"]
    table = pd.concat([pd.read_parquet(file, columns=needed) for file in _files(home)], ignore_index=True)
    table = table[~table["bot"] & ~table["internal"]]
    shown = table[table["type"] == "exposure"].sort_values("occurred_at")
    first = shown.drop_duplicates(["experiment_id", "unit"]).reset_index(drop=True)
    first["number"] = first.index
    goals = table.loc[table["type"].isin(["lead", "call"]), ["experiment_id", "unit", "occurred_at"]]
    key = first[["experiment_id", "unit", "occurred_at", "number"]]
    own = goals.merge(key, on=["experiment_id", "unit"], suffixes=("", "_first"))
    of_site = goals[goals["experiment_id"].isna()].drop(columns="experiment_id")
    reached = pd.concat([own, of_site.merge(key, on="unit", suffixes=("", "_first"))])
    since = reached["occurred_at"] - reached["occurred_at_first"]
    within = (since >= 0) & (since <= DAY // timedelta(microseconds=1))
    first["converted"] = first["number"].isin(reached.loc[within, "number"])
    first["hour"] = first["occurred_at"] // 3_600_000_000 % 24
    kept = first[first["occurred_at"] < _last_exposure()]
    cells = {
        by: kept.groupby(["experiment_id", by, "variant"])["converted"].agg(["size", "sum"])
        for by in SEGMENTS
    }
    asked = cells["device"].loc[ASKED].groupby("variant").sum()
    return [[str(variant), int(n), int(k)] for variant, (n, k) in asked.iterrows()]


def _last_exposure() -> int:
    """Before which a unit must have met the experiment to count: its window is over, and enrolment was open."""
    return min(to_micros(NOW - DAY), to_micros(START + (DAYS - 1) * DAY))


def with_polars(home: Home) -> Counts:
    """The same numbers as somebody computes them who lets polars read only what it needs, in pieces."""
    import polars as pl

    table = pl.scan_parquet(_files(home), hive_partitioning=False)
    table = table.filter(~pl.col("bot") & ~pl.col("internal"))
    own, at = pl.col("experiment_id") == ASKED, pl.col("occurred_at")
    shown = table.filter(own & (pl.col("type") == "exposure"))
    first = shown.group_by("unit").agg(
        first_at=at.min(), variant=pl.col("variant").sort_by("occurred_at").first()
    )
    of_goal = pl.col("type").is_in([g.name for g in GOALS])
    goals = table.filter((own | pl.col("experiment_id").is_null()) & of_goal).join(first, on="unit")
    since = at - pl.col("first_at")
    goals = goals.filter((since >= 0) & (since <= DAY // timedelta(microseconds=1)))
    weight = pl.col("type").replace_strict({g.name: g.weight for g in GOALS})
    by_goal = goals.group_by("unit", "type").agg(pl.col("value").sum()).with_columns(weight=weight)
    done = by_goal.group_by("unit").agg(
        converted=(pl.col("type") != "play").any(), score=pl.col("weight").sum(), value=pl.col("value").sum()
    )
    kept = first.join(done, on="unit", how="left").filter(pl.col("first_at") < _last_exposure())
    sums = [
        pl.col(name).pow(power).sum().alias(f"{name}{power}")
        for name in ("score", "value")
        for power in (1, 2)
    ]
    found = kept.group_by("variant").agg(pl.len(), pl.col("converted").sum(), *sums).sort("variant")
    return [list(row[:3]) for row in found.collect(engine="streaming").rows()]


def every_segment_with_polars(home: Home) -> Counts:
    """All 20 experiments by device, city and hour, from what polars reads once."""
    import polars as pl

    table = pl.scan_parquet(_files(home), hive_partitioning=False)
    table = table.filter(~pl.col("bot") & ~pl.col("internal"))
    at, key = pl.col("occurred_at"), ["experiment_id", "unit"]
    shown = table.filter(pl.col("type") == "exposure").group_by(key)
    said = [pl.col(name).sort_by("occurred_at").first() for name in ("variant", "device", "city")]
    first = shown.agg(at.min().alias("first_at"), *said).collect(engine="streaming")
    met = first.select(*key, "first_at").lazy()
    goals = table.filter(pl.col("type").is_in(["lead", "call"])).select(*key, "occurred_at")
    of_site = goals.filter(pl.col("experiment_id").is_null()).drop("experiment_id")
    reached = pl.concat([goals.join(met, on=key), of_site.join(met, on="unit")], how="diagonal")
    since = at - pl.col("first_at")
    within = reached.filter((since >= 0) & (since <= DAY // timedelta(microseconds=1)))
    converted = within.select(key).unique().with_columns(converted=pl.lit(1))
    kept = first.lazy().join(converted, on=key, how="left").filter(pl.col("first_at") < _last_exposure())
    hour = (pl.col("first_at") // 3_600_000_000 % 24).alias("hour")
    units = kept.with_columns(hour).collect(engine="streaming")
    cells = {
        by: units.group_by("experiment_id", by, "variant").agg(pl.len(), pl.col("converted").sum())
        for by in SEGMENTS
    }
    asked = cells["device"].filter(pl.col("experiment_id") == ASKED)
    return [
        list(row)
        for row in asked.group_by("variant").agg(pl.col("len", "converted").sum()).sort("variant").rows()
    ]


def _files(home: Home) -> list[str]:
    with home.db.read() as connection:
        version = seals.current(connection)
    return [] if version is None else home.lake.files(version)


WAYS: dict[str, tuple[str, Callable[[Home], Counts]]] = {
    "by hand": ("sealed", by_hand),
    "ours, nothing kept": ("sealed", first_look),
    "ours": ("sealed", ours),
    "ours, hot tail": ("hot", ours),
    "ours, another look": ("hot", later_looks),
    "ours, all of a final look": ("hot", whole),
    "ours, 20 on the dashboard": ("hot", dashboard),
    "pandas": ("sealed", with_pandas),
    "polars": ("sealed", with_polars),
    "ours, 20 by segment": ("sealed", every_segment),
    "pandas, 20 by segment": ("sealed", every_segment_with_pandas),
    "polars, 20 by segment": ("sealed", every_segment_with_polars),
}


SPARK = "Spark"


def run(folder: Path, way: str, runs: int, master: str | None) -> None:
    """Prints what one way takes; in a process of its own."""
    place, work = ("sealed", partial(on_spark, master=master or "")) if way == SPARK else WAYS[way]
    home = open_home(folder / place, environ={})
    first = time.perf_counter()
    counts, spent, taken = work(home), [], []
    first = time.perf_counter() - first
    for _ in range(runs):
        begun, wall = time.process_time(), time.perf_counter()
        assert work(home) == counts
        spent.append(time.process_time() - begun)
        taken.append(time.perf_counter() - wall)
    (peak,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    found = {
        "cpu": statistics.median(spent),
        "wall": statistics.median(taken),
        "first": first,
        "peak": int(peak) / 1024,
        "counts": counts,
    }
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the homes are kept; made there if they are not")
    parser.add_argument("--way", choices=[*WAYS, SPARK], help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=[*WAYS], default=list(WAYS), help="these ways")
    parser.add_argument("--spark", metavar="MASTER", help="count there too, e.g. spark:local[2]")
    asked = parser.parse_args()
    if asked.way:
        run(asked.folder, asked.way, asked.runs, asked.spark)
        return
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="cro-analytics-"))
    if not (folder / "hot").exists():
        make(folder, asked.events)
    results = {}
    for way in (*asked.only, SPARK) if asked.spark else asked.only:
        command = [sys.executable, __file__, "--folder", str(folder), "--way", way, "--runs", str(asked.runs)]
        command += ["--spark", asked.spark] if way == SPARK else []
        results[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if asked.folder is None:
        shutil.rmtree(folder)
    base = next(iter(results.values()))
    assert all(np.array_equal(found["counts"], base["counts"]) for found in results.values()), results
    print(f"One experiment of {EXPERIMENTS} over {DAYS} days, {asked.events:,} events: {base['counts']}")
    print(f"{'':<28}{'processor s':>12}{'the first = 1':>15}{'wall s':>9}{'peak MB':>9}")
    for way, found in results.items():
        if way == SPARK:
            print(f"{way:<55}{found['wall']:>9.3f}   the first {found['first']:.1f} s")
            continue
        ratio = found["cpu"] / base["cpu"]
        print(f"{way:<28}{found['cpu']:>12.3f}{ratio:>15.2f}{found['wall']:>9.3f}{found['peak']:>9.0f}")


if __name__ == "__main__":
    main()
