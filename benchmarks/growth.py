"""What one more event costs as the history grows: the last million beside the first.

Events with random ids are recorded in batches, as the service records them, while simulated days and
experiments pass and closed days are sealed. Beside it the same without sealing: one table with one growing
index. Processor seconds of the recording alone; sealing is shown by itself.

    python benchmarks/growth.py [--millions 10] [--day 700000]
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cro_core.domain import EXPOSURE, Event, Experiment, Goal, Plan, Variant
from cro_core.home import Home, create_home
from cro_core.planning.plans import begin
from cro_core.storage import events, experiments
from cro_core.workflows.seal import seal

START = datetime(2026, 1, 1, tzinfo=UTC)
BATCH = 10_000
MILLION = 1_000_000
TERM = 14
"""Days after which the next experiment takes over."""


def experiment(number: int, at: datetime) -> Experiment:
    """One of the experiments that follow each other."""
    variants = (Variant("a", "A", is_control=True), Variant("b", "B"))
    plan = Plan((Goal("lead", 100.0, True),))
    return begin(Experiment(f"hero-{number}", "Hero", variants, plan, slot="hero", created_at=at), at)


def batches(total: int, per_day: int) -> Iterator[tuple[datetime, list[Event]]]:
    """Batches in order of time; every second event is a goal of a visitor who was exposed."""
    step = timedelta(days=1) / per_day
    for first in range(0, total, BATCH):
        now = START + (first + BATCH) * step
        found: list[Event] = []
        for number in range(first, first + BATCH):
            at = START + number * step
            name = f"hero-{(at - START).days // TERM}"
            if number % 2 == 0:
                unit = secrets.token_hex(16)
                found.append(
                    Event(secrets.token_hex(16), EXPOSURE, unit, at, now, name, "ab"[number // 2 % 2], device="mobile",
                          city="Paris", url="https://example.com/", epoch=0, propensity=0.5)
                )  # fmt: skip
            else:
                found.append(Event(secrets.token_hex(16), "lead", unit, at, now, value=10.0))
        yield now, found


def run(home: Home, total: int, per_day: int, *, sealing: bool) -> tuple[list[float], float]:
    """Processor microseconds an event for each million, and seconds of sealing in all."""
    spent, sealed, day, started = [0.0] * (total // MILLION), 0.0, START, -1
    for number, (now, found) in enumerate(batches(total, per_day)):
        while (now - START).days // TERM > started:
            started += 1
            with home.db.write() as connection:
                experiments.add(connection, experiment(started, START + started * timedelta(days=TERM)))
        began = time.process_time()
        with home.db.write() as connection:
            events.record(connection, found, (), now)
        spent[number * BATCH // MILLION] += time.process_time() - began
        if sealing and now.date() > day.date():
            day, began = now, time.process_time()
            seal(home, now=now, force=True)
            sealed += time.process_time() - began
    return spent, sealed


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--millions", type=int, default=3, help="events in all")
    parser.add_argument("--day", type=int, default=200_000, help="events a day")
    options = parser.parse_args()
    print(f"{options.millions} million events, {options.day:,} a day; processor microseconds an event")
    print(f"{'':20}{'first million':>15}{'last million':>15}{'ratio':>8}{'sealing, s':>12}")
    for name, sealing in (("days are sealed", True), ("one growing table", False)):
        folder = Path(tempfile.mkdtemp(prefix="cro-growth-"))
        home = create_home(folder / "home", {})
        spent, sealed = run(home, options.millions * MILLION, options.day, sealing=sealing)
        home.db.close()
        shutil.rmtree(folder)
        print(f"{name:20}{spent[0]:>15.1f}{spent[-1]:>15.1f}{spent[-1] / spent[0]:>8.2f}{sealed:>12.1f}")


if __name__ == "__main__":
    main()
