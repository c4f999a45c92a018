"""The notebooks: the house's rules for each one in the folder, and what they record on the sample home.

That each runs in a real kernel on its defaults is what nbmake proves (``pytest --nbmake``).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from helpers import report_samples
from helpers.places import ROOT
from helpers.store_samples import DAY, HOUR, START, event, exposure, running, stored, with_shares

from cro_core.clock import iso
from cro_core.domain import Event, Status
from cro_core.home import create_home, open_home
from cro_core.jupyter import runner
from cro_core.storage import events, experiments
from cro_core.workflows.evaluate import evaluate
from cro_core.workflows.sample_home import NOW

FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PARAMETER = re.compile(r"\w+: (str|int|float|bool) = \S+  # \S.*")
LOGIC = (
    ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.AsyncFor, ast.While, ast.Try,
    ast.If, ast.With, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Delete, ast.Global,
)  # fmt: skip
SQL = re.compile(
    r"\b(select|insert|update|delete|create)\b.+\b(from|into|set|table)\b", re.IGNORECASE | re.DOTALL
)
FILE = re.compile(r"[\\/~]|\.\w{2,5}$")

every_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda f: f.stem)


def code(file: Path) -> list[Any]:
    return [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]


def broken_rules(node: Any) -> Iterator[str]:
    """What in a notebook breaks the house's rules."""
    cells = node.cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    lines = [line for source in sources for line in source.splitlines() if line.strip()]
    if len(sources) > 12 or len(lines) > 72:
        yield f"{len(sources)} code cells with {len(lines)} lines"
    if cells[0].cell_type != "markdown" or not re.match(r"# .+\n\n\S", cells[0].source):
        yield "does not begin with a title and a paragraph"
    if "## What to do next" not in "\n".join(c.source for c in cells if c.cell_type == "markdown"):
        yield "does not say what to do next"
    yield from broken_tags([cell for cell in cells if cell.cell_type == "code"])
    yield from (
        f"logic in {ast.unparse(found)!r}"
        for s in sources
        for found in ast.walk(ast.parse(s))
        if isinstance(found, LOGIC)
    )
    yield from (
        f"SQL or a path: {text!r}"
        for s in sources
        for text in literals(s)
        if SQL.search(text) or FILE.search(text)
    )
    for cell in cells:
        if cell.get("outputs") or cell.get("execution_count"):
            yield "has stored outputs"
        if "execution" in cell.metadata or "papermill" in cell.metadata:
            yield "remembers a run"


def broken_tags(cells: list[Any]) -> Iterator[str]:
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        yield f"{len(tagged)} cells are tagged parameters"
    for line in (line for cell in tagged for line in cell.source.splitlines()):
        if not PARAMETER.fullmatch(line):
            yield f"not a typed parameter with a comment: {line!r}"
    outcomes = [cell for cell in cells if "outcome" in cell.metadata.get("tags", [])]
    if outcomes != cells[-1:] or not cells[-1].source.startswith("record("):
        yield "the last cell does not record the outcome"


def literals(source: str) -> Iterator[str]:
    """Texts in a cell, but for SQL that an analyst hands to the door."""
    tree = ast.parse(source)
    asked = {id(part) for call in ast.walk(tree) if is_door(call) for part in ast.walk(call)}
    found = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in asked)
    return (node.value for node in found if isinstance(node.value, str))


def is_door(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "door.execute"


@every_notebook
def test_it_keeps_the_rules(file: Path) -> None:
    assert list(broken_rules(nbformat.read(file, as_version=4))) == []


@pytest.mark.parametrize(
    ("index", "source", "said"),
    [
        (0, "# Only a title", "title and a paragraph"),
        (1, "def f():\n    return 1", "logic in"),
        (1, "[x for x in (1, 2)]", "logic in"),
        (1, "q = 'select a from b'", "SQL or a path"),
        (1, "home.db.execute('select a from b')", "SQL or a path"),
        (1, "open('/tmp/table')", "SQL or a path"),
        (1, "open('units.csv')", "SQL or a path"),
        (1, "\n".join(["x = 1"] * 80), "code cells with"),
        (2, 'home = ""  # folder', "not a typed parameter"),
        (2, 'home: str = ""', "not a typed parameter"),
        (-1, "{}", "does not record the outcome"),
    ],
)
def test_the_rules_catch_what_they_are_for(index: int, source: str, said: str) -> None:
    node = nbformat.read(FOLDER / "orchestrate.ipynb", as_version=4)
    node.cells[index].source = source
    assert any(said in rule for rule in broken_rules(node))
    node.cells[1].outputs = [nbformat.v4.new_output("stream", text="x")]
    assert "has stored outputs" in list(broken_rules(node))


def test_the_shipped_notebooks_are_these() -> None:
    assert {f.stem for f in NOTEBOOKS} >= {"orchestrate", "train", "weekly_report", "dashboard", "explore"}
    assert runner.notebook_folder() == FOLDER


@every_notebook
def test_it_takes_home_and_time_and_runs_without_them(file: Path) -> None:
    (parameters,) = (cell.source for cell in code(file) if "parameters" in cell.metadata.get("tags", []))
    given: dict[str, Any] = {}
    exec(parameters, given)
    assert (given["home"], given["as_of"]) == ("", "")


@pytest.fixture
def outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a notebook's cells one after the other, in this process, on a copy of the sample home."""
    home = report_samples.sample(tmp_path / "home").path
    monkeypatch.delenv("CRO_HOME", raising=False)

    def run(name: str, **parameters: Any) -> Any:
        space: dict[str, Any] = {}
        *cells, last = code(FOLDER / f"{name}.ipynb")
        for cell in cells:
            exec(cell.source, space)
            if "parameters" in cell.metadata.get("tags", []):
                space |= {"home": str(home), **parameters}
        return eval(last.source, space)._repr_mimebundle_()[runner.OUTCOME]

    return run


def test_orchestrate_records_the_cycle(outcome: Any) -> None:
    cycle = outcome("orchestrate")
    assert (cycle["at"], cycle["failures"], cycle["skipped"]) == ("2026-03-16T08:00:00Z", [], None)
    assert [d["experiment"] for d in cycle["decisions"]] == ["wedding-gallery"]
    assert cycle["decisions"][0]["verdict"] == "continue"


def test_weekly_report_records_headline_and_files(outcome: Any, tmp_path: Path) -> None:
    recorded = outcome("weekly_report")
    assert recorded["headline"].startswith("“Film of the dance” won “Front page: photo or film”, +")
    files = {kind: Path(path).relative_to(tmp_path / "home") for kind, path in recorded["files"].items()}
    assert {k: str(f) for k, f in files.items()} == {
        "text": "reports/cro-report-2026-03-16.txt",
        "json": "reports/cro-report-2026-03-16.json",
    }


def test_a_report_as_of_the_past_does_not_tell_what_came_later(outcome: Any) -> None:
    assert outcome("weekly_report", as_of="2026-03-10T08:00:00Z")["headline"].startswith(
        "Nothing was decided"
    )


def test_dashboard_records_what_it_shows(outcome: Any) -> None:
    recorded = outcome("dashboard")
    assert recorded["tests"] == 3
    assert recorded["headline"].startswith("“Film of the dance” won")


def test_explore_finds_two_tools_of_one_opinion(outcome: Any) -> None:
    recorded = outcome("explore", experiment="hero-film")
    assert (recorded["experiment"], recorded["verdict"]) == ("hero-film", "ship")
    assert 900 < recorded["visitors"] < 1800
    ours, theirs = recorded["chi_square"]["cro_core"], recorded["chi_square"]["pingouin"]
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert ours > 3.84
    assert recorded["z"]["cro_core"] == pytest.approx(recorded["z"]["pandas"], rel=1e-9)
    # Those who may still convert decide too, and are not in the pooled table.
    assert recorded["z"]["pandas"] ** 2 != pytest.approx(theirs * (1 - 1 / recorded["visitors"]), rel=1e-3)


@pytest.mark.parametrize("keys", [("a", "b"), ("a", "b", "c")])
@pytest.mark.parametrize("hours", [50, 400])
def test_explore_checks_the_statistic_that_decides(
    outcome: Any, tmp_path: Path, keys: tuple[str, ...], hours: int
) -> None:
    """Moved shares: every day b is better, and the pooled table says it is worse. Asked on the second day and at last."""
    home = open_home(create_home(tmp_path / "moved", environ={}).path, environ={})
    shares = {0: {"a": 0.75, "b": 0.25}, 1: {"a": 0.1, "b": 0.9}}
    nobody = dict.fromkeys(keys[2:], 0.0)
    moved = with_shares(running(keys=keys, adaptive=True), {k: s | nobody for k, s in shares.items()})
    stored(home.db, moved)
    cells = {
        ("a", 0): (120, 3),
        ("b", 0): (40, 4),
        ("a", 1): (40, 1),
        ("b", 1): (400, 2),
    }  # of ten, so many convert
    log = [
        event
        for (variant, day), (units, of_ten) in cells.items()
        for n in range(units)
        for event in visit(f"{variant}{day}{n}", variant, day, n % 10 < of_ten)
    ]
    log += [exposure(f"c{n}", "c", START + HOUR, epoch=0) for n in range(30) if "c" in keys]
    with home.db.write() as connection:
        events.record(connection, log, [], START)
    as_of = START + hours * HOUR
    recorded = outcome("explore", home=str(home.path), experiment="hero", as_of=iso(as_of))
    (compared, *_) = evaluate(home, "hero", as_of=as_of).evidence.comparisons
    assert recorded["z"]["cro_core"] == compared.z
    assert recorded["z"]["pandas"] == pytest.approx(compared.z, rel=1e-9)
    assert compared.z > 0
    if hours == 400:
        assert compared.absolute < 0  # pooled
        assert recorded["z"]["pandas"] ** 2 != pytest.approx(recorded["chi_square"]["pingouin"], rel=0.1)


def visit(unit: str, variant: str, day: int, converts: bool) -> Iterator[Event]:
    at = START + day * DAY + HOUR
    yield exposure(unit, variant, at, epoch=day)
    if converts:
        yield event("lead", unit, at + HOUR)


def test_train_says_that_two_finished_tests_are_too_few(outcome: Any) -> None:
    assert outcome("train")["status"] == "not_enough_history"


def test_the_sample_home_has_a_winner_a_test_that_proved_nothing_and_a_running_one(tmp_path: Path) -> None:
    home = report_samples.sample(tmp_path)
    assert home.clock() == NOW
    assert home.simulated
    with home.db.read() as connection:
        known = {e.id: (e.status, e.winner) for e in experiments.with_status(connection)}
    assert known == {
        "hero-film": (Status.ARCHIVED, "film"),
        "button-words": (Status.ARCHIVED, None),
        "wedding-gallery": (Status.RUNNING, None),
    }
