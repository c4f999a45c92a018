"""Draws planted faults (mutants) and says which of them no test finds; `make mutants` runs it, beside mutmut.

    python tools/mutants.py --sample 150 statistics/srm assignment

Without names all rooms are drawn from that `[tool.mutmut]` in pyproject.toml mutates; without --sample all mutants
run. The first run takes some minutes longer: it makes the mutants, and times the tests. A survivor is printed as a
difference to the source: write the test that fails with it, or know why none can.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

MADE = Path("mutants")
FIRST = "cro_core.statistics.guards.x_guarded_z__mutmut_1"
"""Any mutant will do: asking for it makes all of them."""

KILLED = {1, 3, 24, 36, 152, 255, -24}
"""Exit codes of a mutant that a test found, also by its taking for ever."""


def main(arguments: Sequence[str]) -> int:
    """Runs the mutants that were asked for, and prints what became of them."""
    asked = _arguments(arguments)
    if not (MADE / "mutmut-stats.json").is_file():
        _mutmut("run", "--max-children", "1", FIRST)
    names = sorted(name for path in _metas(asked.rooms) for name in _results(path))
    drawn = random.Random(asked.seed).sample(names, min(asked.sample or len(names), len(names)))
    if not drawn:
        print(f"no mutants in {', '.join(asked.rooms)}: name files or folders of cro_core", file=sys.stderr)
        return 2
    _mutmut("run", "--max-children", str(asked.jobs), *drawn)
    found = {
        name: code
        for path in _metas(asked.rooms)
        for name, code in _results(path).items()
        if name in set(drawn)
    }
    survivors = [name for name in drawn if found[name] not in KILLED]
    for name in survivors:
        print(f"\n{name} (exit code {found[name]})", flush=True)
        _mutmut("show", name)
    print("\n".join(["", *_table(found)]))
    return 0


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Plants faults and says which no test finds.")
    parser.add_argument("rooms", nargs="*", help="files or folders of cro_core, such as statistics/srm")
    parser.add_argument("--sample", type=int, help="how many to draw at random; without it all run")
    parser.add_argument("--seed", type=int, default=1, help="of the draw")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    return parser.parse_args(arguments)


def _metas(rooms: Sequence[str]) -> Iterator[Path]:
    """What mutmut keeps of each file: its mutants and their results."""
    for path in sorted((MADE / "cro_core").rglob("*.py.meta")):
        place = path.relative_to(MADE / "cro_core").as_posix().removesuffix(".py.meta")
        if not rooms or any(place == room or place.startswith(f"{room}/") for room in rooms):
            yield path


def _results(path: Path) -> dict[str, int | None]:
    codes: dict[str, int | None] = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
    return codes


def _table(found: dict[str, int | None]) -> Iterator[str]:
    modules = {name: name.rpartition(".")[0] for name in found}
    killed = Counter(modules[name] for name, code in found.items() if code in KILLED)
    for module, number in sorted(Counter(modules.values()).items()):
        yield f"{module}: {killed[module]} of {number} found"
    yield f"in all {killed.total()} of {len(found)} found"


def _mutmut(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "mutmut", *arguments], check=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
