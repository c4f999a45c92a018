"""What an hourly cycle and the dashboard's numbers cost as the site's history grows: they should not.

Five experiments have run for ten days; the two newest days are still in the database. Before them lie months of
events of experiments that ended, more of them in each line of the table. Processor seconds, warm (median of some
runs): a cycle without its notebook, and the two endpoints that the dashboard asks for, counted anew and as they
are remembered.

    python benchmarks/cycle.py [--day 330000] [--history 0 10 30] [--runs 3]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import sqlalchemy as sa
from analytics import DAY, EVENTS, GOALS, HOT_DAYS, START, _insert, _seal

from cro_core.clock import to_micros
from cro_core.domain import Experiment, Plan, Status, Variant
from cro_core.home import Home, Memory, create_home
from cro_core.planning import plans
from cro_core.storage import experiments
from cro_core.storage.lake import arrow_schema
from cro_core.workflows.orchestrate import orchestrate
from cro_core.workflows.overview import overview, running_experiments

RUNNING, PAST, TERM = 5, 15, 10
"""Experiments that run, those that ended before, and days since the former started."""


def make(folder: Path, per_day: int, history: int) -> Home:
    """A home with so many days of history before the experiments that run."""
    home = create_home(folder, {"storage": {"hot_days": HOT_DAYS}}, environ={})
    with home.db.write() as connection:
        for number in range(PAST + RUNNING):
            experiments.add(connection, _experiment(number, history))
    with duckdb.connect() as made:
        made.execute("SELECT setseed(0.4)")
        for day in range(history + TERM):
            past = day < history
            given = {
                "day": day,
                "midnight": to_micros(START + day * DAY),
                "experiments": PAST if past else RUNNING,
                "visitors": per_day * 2,
                "events": per_day,
            }
            text = EVENTS if past else EVENTS.replace("'exp%02d', e", f"'exp%02d', e + {PAST}")
            rows = made.execute(text, given).to_arrow_table().cast(arrow_schema())
            (_insert if day >= history + TERM - HOT_DAYS else _seal)(home, rows)
    with home.db.write() as connection:
        connection.execute(sa.text("ANALYZE"))
    return home


def _experiment(number: int, history: int) -> Experiment:
    variants = (Variant("a", "A", {}, is_control=True), Variant("b", "B", {}))
    name = f"exp{number:02d}"
    started = START if number < PAST else START + history * DAY
    plan = Plan(GOALS, horizon=6 * TERM * DAY)
    begun = plans.begin(Experiment(name, name, variants, plan, slot=name, created_at=START), started)
    if number >= PAST:
        return begun
    return replace(begun, status=Status.ARCHIVED, ended_at=START + history * DAY)


def timed(work: Callable[[], Any], runs: int) -> tuple[float, float]:
    """Processor seconds and seconds, warm."""
    work()
    spent, taken = [], []
    for _ in range(runs):
        begun, wall = time.process_time(), time.perf_counter()
        work()
        spent.append(time.process_time() - begun)
        taken.append(time.perf_counter() - wall)
    return statistics.median(spent), statistics.median(taken)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--day", type=int, default=330_000, help="events a day")
    parser.add_argument("--history", type=int, nargs="+", default=[0, 10, 30], help="days before")
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    print(f"{RUNNING} experiments of {TERM} days, {asked.day:,} events a day; processor s (s)")
    print(
        f"{'events':>16}{'first cycle':>16}{'cycle':>16}{'active tests':>16}{'remembered':>16}{'overview':>16}"
    )
    for history in asked.history:
        folder = Path(tempfile.mkdtemp(prefix="cro-cycle-"))
        home = make(folder / "home", asked.day, history)
        now = START + (history + TERM) * DAY - timedelta(minutes=30)

        def cycle(home: Home = home, now: Any = now) -> None:
            report = orchestrate(home, now=now, conclude=False)
            assert (report.evaluated, report.failures) == (RUNNING, ()), report

        def anew(home: Home = home, now: Any = now) -> None:
            object.__setattr__(home, "memory", Memory())
            running_experiments(home, now=now)

        begun, wall = time.process_time(), time.perf_counter()
        cycle()
        found = [(time.process_time() - begun, time.perf_counter() - wall)]
        found.append(timed(cycle, asked.runs))
        found.append(timed(anew, asked.runs))
        found.append(timed(lambda h=home, n=now: running_experiments(h, now=n), asked.runs))  # type: ignore[misc]
        found.append(timed(lambda h=home, n=now: overview(h, now=n), asked.runs))  # type: ignore[misc]
        cells = "".join(f"{f'{cpu:.3f} ({taken:.3f})':>16}" for cpu, taken in found)
        print(f"{(history + TERM) * asked.day:>16,}{cells}", flush=True)
        home.db.close()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
