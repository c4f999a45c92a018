"""How many rows a second `cro import` stores, beside a plain copy of the same file with pandas.

The same table of visitors is read in turn, round by round, by the import into a new home, and by
``pandas.read_csv`` with ``to_sql`` into an SQLite file: no checks, no hashes, no index, nothing to resume. What
else the machine does hits both; the ratio is what to compare. A table read in a new process also tells the memory.

    python benchmarks/imports.py [--rows 300000] [--rounds 5] [FILE --mapping NAME]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa

from cro_core.home import create_home
from cro_core.workflows.import_file import import_file

NOW = datetime(2026, 3, 31, tzinfo=UTC)
MAPPING: dict[str, Any] = {
    "experiment": {"id": "made"},
    "table": {"layout": "visitors"},
    "columns": {"unit": "user", "time": "at", "variant": "arm", "country": "country"},
    "variants": [{"key": "old", "values": "A", "control": True}, {"key": "new", "values": "B"}],
    "goals": [{"name": "order", "when": {"done": 1}, "value": "paid", "primary": True}],
    "plan": {"shares": "equal"},
}


def made(file: Path, rows: int) -> Path:
    """A table of visitors, every eighth of which converts."""
    start = datetime(2026, 3, 1, tzinfo=UTC)
    with file.open("w", encoding="utf-8") as out:
        out.write("user,at,arm,country,done,paid\n")
        for n in range(rows):
            at = start + timedelta(seconds=n % 2_000_000)
            paid = f"{n % 90}.50" if n % 8 == 0 else ""
            out.write(
                f"visitor-{n * 7919 % rows:09d},{at:%Y-%m-%dT%H:%M:%SZ},{'AB'[n % 2]},CH,{int(n % 8 == 0)},{paid}\n"
            )
    return file


def imported(file: Path, mapping: Any, folder: Path) -> int:
    """Rows that an import into a new home read."""
    return import_file(create_home(folder / "home", environ={}), file, mapping, now=NOW, progress=False).rows


def copied(file: Path, _mapping: Any, folder: Path) -> int:
    """Rows that pandas copied into a table."""
    engine = sa.create_engine(f"sqlite:///{folder / 'plain.sqlite3'}")
    table = pd.read_csv(file, dtype="str")
    table.to_sql("rows", engine, index=False, chunksize=10_000)
    engine.dispose()
    return len(table)


def timed(work: Callable[[Path, Any, Path], int], file: Path, mapping: Any) -> tuple[float, float]:
    """Rows a second of the wall clock, and of processor time."""
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        rows = work(file, mapping, Path(folder))
        return rows / (time.perf_counter() - wall), rows / (time.process_time() - cpu)


def memory(work: str, file: Path, mapping: Any) -> float:
    """Peak MB of a new process that does the work once."""
    code = f"import benchmarks.imports as b; print(b.peak(b.{work}))"
    given = json.dumps([str(file), mapping])
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], input=given, cwd=root, capture_output=True, text=True, check=True
    )
    return float(done.stdout.splitlines()[-1])


def peak(work: Callable[[Path, Any, Path], int]) -> float:
    """Does the work that standard input names, and returns this process's peak MB."""
    file, mapping = json.load(sys.stdin)
    timed(work, Path(file), mapping)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--mapping", default="ab_data")
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = asked.file or made(Path(folder) / "visitors.csv", asked.rows)
        mapping = asked.mapping if asked.file else MAPPING
        # First, while this process is small: a child begins with its parent's peak.
        peaks = [memory(work, file, mapping) for work in ("imported", "copied")]
        rounds = [[timed(work, file, mapping) for work in (imported, copied)] for _ in range(asked.rounds)]
        ratios = [(ours[0] / plain[0], ours[1] / plain[1]) for ours, plain in rounds]
        print(f"{file.name}, medians of {asked.rounds} rounds\n")
        print(f"{'':<26}{'rows/s':>10}{'rows/s of processor':>22}{'peak MB':>10}")
        for place, name in enumerate(("imported", "copied")):
            wall, cpu = (statistics.median(r[place][part] for r in rounds) for part in (0, 1))
            shown = {"imported": "cro import", "copied": "read_csv and to_sql"}[name]
            print(f"{shown:<26}{wall:>10,.0f}{cpu:>22,.0f}{peaks[place]:>10,.0f}")
        wall, cpu = (statistics.median(r[part] for r in ratios) for part in (0, 1))
        print(f"{'ratio':<26}{wall:>10.2f}{cpu:>22.2f}")


if __name__ == "__main__":
    main()
