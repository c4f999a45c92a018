"""The project's own rules: which way imports go, what the files beside the code promise."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
from helpers.places import ROOT

import cro_core

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

LAYERS = {
    "words": {
        "cro_core.clock",
        "cro_core.config",
        "cro_core.domain",
        "cro_core.errors",
        "cro_core.evidence",
    },
    "pure": {
        "cro_core.analytics",
        "cro_core.assignment",
        "cro_core.decision",
        "cro_core.hypotheses",
        "cro_core.ingest",
        "cro_core.lab",
        "cro_core.learning",
        "cro_core.metrics",
        "cro_core.planning",
        "cro_core.reporting",
        "cro_core.samples",
        "cro_core.segments",
        "cro_core.statistics",
    },
    "adapters": {
        "cro_core.analytics.arrivals",
        "cro_core.analytics.completeness",
        "cro_core.analytics.engine",
        "cro_core.analytics.engines",
        "cro_core.analytics.event_scan",
        "cro_core.analytics.explanation",
        "cro_core.analytics.free_sql",
        "cro_core.analytics.reader",
        "cro_core.analytics.sources",
        "cro_core.analytics.spark",
        "cro_core.analytics.unit_cache",
        "cro_core.frames",
        "cro_core.home",
        "cro_core.hypotheses.media_manifest",
        "cro_core.importing",
        "cro_core.ingest.geolocation",
        "cro_core.jupyter",
        "cro_core.rendering",
        "cro_core.samples.sample_media",
        "cro_core.storage",
    },
    "use cases": {"cro_core.workflows"},
    "entry": {"cro_core.cli", "service"},
}
ORDER = list(LAYERS)


def _layer(module: str) -> int | None:
    """Index of the layer a module belongs to, by the longest name that fits; the package itself belongs to none."""
    places = {name: index for index, names in enumerate(LAYERS.values()) for name in names}
    return next((places[part] for part in _with_parents(module) if part in places), None)


def _modules() -> Iterator[tuple[str, Path]]:
    for package in ("cro_core", "service"):
        for file in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if "migrations" not in file.parts:
                yield name, file


@cache
def _imports(file: Path) -> tuple[str, ...]:
    found: list[str] = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide where an arrow goes"
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(found)


def test_every_module_has_a_place() -> None:
    homeless = [name for name, _ in _modules() if _layer(name) is None and name != "cro_core"]
    assert homeless == []


def test_imports_go_one_way() -> None:
    upward = []
    for name, file in _modules():
        own = _layer(name)
        for imported in _imports(file):
            found = _layer(imported)
            if own is not None and found is not None and found > own:
                upward.append(f"{name} ({ORDER[own]}) imports {imported} ({ORDER[found]})")
    assert upward == []


def _package(module: str) -> str:
    """The room of a module: its package inside ``cro_core``, or the module itself where it stands loose."""
    first, *rest = module.split(".")
    return ".".join((first, *rest[:1])) if first == "cro_core" else first


def _arrows() -> Iterator[tuple[str, str]]:
    """Which module imports which, of our own."""
    files = dict(_modules())
    for name, file in files.items():
        for imported in _imports(file):
            nearest = next((part for part in _with_parents(imported) if part in files), "cro_core")
            if nearest not in ("cro_core", name):
                yield name, nearest


def _with_parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    yield from (".".join(parts[:length]) for length in range(len(parts), 0, -1))


@pytest.mark.parametrize("room", [str, _package], ids=["files", "packages"])
def test_no_imports_in_circles(room: Callable[[str], str]) -> None:
    graph: dict[str, set[str]] = {}
    for name, imported in _arrows():
        if room(name) != room(imported):
            graph.setdefault(room(name), set()).add(room(imported))
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_reporting_is_pure_and_so_is_all_that_it_reaches() -> None:
    reached, waiting = set[str](), [name for name, _ in _modules() if name.startswith("cro_core.reporting")]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += [imported for importer, imported in _arrows() if importer == name]
    assert {name for name in reached if _layer(name) not in (0, 1)} == set()


def test_few_words_stay_loose() -> None:
    loose = [name for name, file in _modules() if name.count(".") == 1 and file.stem != "__init__"]
    assert len([name for name in loose if name.startswith("cro_core.")]) <= 7


def test_nobody_imports_an_entry_but_the_command_line_the_service() -> None:
    importers = {"cro_core.cli": ("cro_core.cli",), "service": ("service", "cro_core.cli")}
    guilty = [
        f"{name} imports {imported}"
        for name, file in _modules()
        for imported in _imports(file)
        for entry, allowed in importers.items()
        if imported.startswith(entry) and not name.startswith(allowed)
    ]
    assert guilty == []


def test_pure_code_knows_no_files_clock_or_web() -> None:
    forbidden = {"os", "pathlib", "subprocess", "socket", "flask", "sqlalchemy", "requests", "time"}
    guilty = [
        f"{name} imports {imported}"
        for name, file in _modules()
        for imported in _imports(file)
        if _layer(name) == ORDER.index("pure") and imported.split(".")[0] in forbidden
    ]
    assert guilty == []


WEBSITE_WORDS = re.compile(r"\b(test_ids?|variant_ids?|impressions?|champions?)\b", re.IGNORECASE)
"""What a website calls an experiment, a variant, an exposure and an incumbent."""

WHERE_WEBSITES_ARE_HEARD = {
    "cro_core/domain.py": {"impression"},
    "cro_core/ingest/website_words.py": {"impression", "test_id", "variant_id"},
}
"""File -> the words it may hold: there they become ours, and nobody else knows them."""


def test_a_websites_words_stay_at_the_edge() -> None:
    found: dict[str, set[str]] = {}
    for file in sorted(f for folder in ("cro_core", "notebooks") for f in (ROOT / folder).rglob("*")):
        if file.suffix in {".py", ".ipynb", ".toml", ".css", ".tpl", ".j2", ".html", ".json", ".ini"}:
            words = {word.lower() for word in WEBSITE_WORDS.findall(file.read_text(encoding="utf-8"))}
            found |= {file.relative_to(ROOT).as_posix(): words} if words else {}
    assert found == WHERE_WEBSITES_ARE_HEARD


def _bare(requirement: str) -> str:
    """``name`` and bounds without extras, blanks and comments."""
    return re.sub(r"\[.*?\]|\s|#.*", "", requirement)


def test_conda_environment_is_in_step() -> None:
    lines = [line.strip() for line in (ROOT / "environment.yml").read_text().splitlines()]
    conda = {_bare(line[2:]) for line in lines if line.startswith("- ") and "://" not in line}
    wanted = {_bare(r) for r in PROJECT["project"]["dependencies"]}
    wanted |= {_bare(r) for r in PROJECT["project"]["optional-dependencies"]["dev"]}
    own = {
        f"python{PROJECT['project']['requires-python']}",
        "pip",
        "pip:",
        "-e.",
        "conda-forge",
        "nodefaults",
    }
    assert conda - wanted - own == set()
    assert "- -e .[dev,postgres]" in lines  # pip brings what conda does not name
    prescribed = {
        "jupyterlab",
        "papermill",
        "nbconvert",
        "pandas",
        "scipy",
        "pingouin",
        "scikit-learn",
        "voila",
        "flask",
    }
    assert prescribed | {"pytest"} <= {re.split("[<>=]", r)[0] for r in conda}


def test_lock_has_hashes_and_no_addresses() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"^(?=[a-z])", lock, flags=re.MULTILINE)[1:]
    assert len(entries) > 100
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in lock
    assert "--index-url" not in lock
    locked = {re.split(r"[\[=]", entry)[0] for entry in entries}
    asked = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    assert {re.split(r"[\[<>=]", r)[0] for r in asked} <= locked


def test_runtime_lock_is_the_part_that_running_needs() -> None:
    tool = ROOT / "tools" / "runtime_lock.py"
    printed = subprocess.run(
        [shutil.which("python3") or "python3", tool], capture_output=True, text=True, check=True
    )
    names = set(re.findall(r"^([a-z0-9.-]+)(?:\[.*?\])?==", printed.stdout, flags=re.MULTILINE))
    assert {"flask", "voila", "papermill", "scikit-learn", "hatchling", "ua-parser-rs"} <= names
    assert not {"pytest", "mypy", "playwright", "schemathesis"} & names


@pytest.mark.parametrize("page", ["settings", "commands", "architecture"])
def test_pages_made_of_declarations_are_current(page: str) -> None:
    tool = ROOT / "tools" / f"{page}_page.py"
    printed = subprocess.run([sys.executable, tool], capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs" / f"{page}.md").read_text() == printed, "run `make docs`"


def test_the_readme_names_every_room() -> None:
    text = (ROOT / "README.md").read_text()
    rooms = text[text.index("## Where things are") : text.index("Arrows go down only")]
    inside = {f"{file.parent.name}/" for file in (ROOT / "cro_core").glob("*/__init__.py")}
    loose = {file.name for file in (ROOT / "cro_core").glob("*.py")} - {"__init__.py"}
    assert inside | loose <= set(rooms.split())


def test_what_the_architecture_page_names_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    written = text[: text.index("<!-- index")] + text[text.index("<!-- end of the index") :]
    named = set(re.findall(r"\b((?:[a-z_]+/)+[a-z_]+)\b", written))
    places = [place / name for place in (ROOT, ROOT / "cro_core", ROOT / "service") for name in named]
    there = {place for place in places if place.is_dir() or any(place.parent.glob(f"{place.name}.*"))}
    assert {name for name in named if not any(str(place).endswith(f"/{name}") for place in there)} == set()


def _tracked() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout: what is tracked cannot be listed")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_tracked_files_name_no_machine_and_no_registry() -> None:
    hosts = ("pypi" + ".org", "python" + "hosted.org", "registry.npm" + "js.org", "deb.debian" + ".org")
    places = ("/ro" + "ot/", "/wo" + "rk/", "/ho" + "me/runner", str(Path.home()) + "/")
    found = []
    for file in _tracked():
        text = file.read_bytes().decode("utf-8", "ignore")
        found += [f"{file.relative_to(ROOT)}: {word}" for word in (*hosts, *places) if word in text]
    assert found == []


def test_nothing_that_running_makes_is_tracked() -> None:
    inside = [f for f in _tracked() if f.parent.name in {"data", "reports"} and f.parent.parent == ROOT]
    assert {f.name for f in inside} == {"README.md"}


def test_ci_runs_lint_and_every_test() -> None:
    """The tests last, so that the last line printed is pytest's; what one target leaves out the other runs."""
    run = (ROOT / ".ci" / "run").read_text().splitlines()
    assert run[-3:] == ["make lint", "make test", "make test-slow"]
    recipes = re.findall(
        r"^(test|test-slow):.*\n\t(.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE
    )
    assert [(name, "-m pytest" in recipe, "--full" in recipe) for name, recipe in recipes] == [
        ("test", True, False),
        ("test-slow", True, True),
    ]


def test_the_commands_of_the_readme_are_targets() -> None:
    readme = (ROOT / "README.md").read_text()
    commands = re.findall(r"^make [\w-]+", readme, flags=re.MULTILINE)
    assert commands[:2] == ["make demo", "make test"]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {command.split()[1] for command in commands} <= targets


def test_licence_and_changelog_stand() -> None:
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
    assert re.fullmatch(r"\d+\.\d+\.\d+", cro_core.__version__)
