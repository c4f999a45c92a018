"""The demo, shortened to one day or two: a real service in its own process, real notebooks, the printed ending true."""

import json
import re
from pathlib import Path

import pytest

from cro_core.errors import Conflict
from cro_core.home import open_home
from cro_core.storage import events, experiments, journal
from cro_core.workflows.demo import DemoResult, run_demo

pytestmark = pytest.mark.sizes(1, 2)


@pytest.fixture(scope="module")
def days(pytestconfig: pytest.Config) -> int:
    return 2 if pytestconfig.getoption("full") else 1


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, days: int) -> DemoResult:
    return run_demo(tmp_path_factory.mktemp("demo") / "home", days=days, seed=7, quiet=True)


def test_every_part_left_its_trace(demo: DemoResult, days: int) -> None:
    home = open_home(demo.home)
    with home.db.read() as connection:
        posted = events.totals(connection)
        running = experiments.with_status(connection)
        jobs = [run["job"] for run in journal.runs(connection)]
    assert posted["accepted"] > 500 * days
    assert posted["duplicate"] > 0
    assert posted["accepted"] + posted["duplicate"] + posted.get("rejected", 0) == demo.posted
    assert {e.slot for e in running} == {"hero", "cta"}
    assert {e.source for e in running} == {"autopilot"}
    assert sorted(jobs) == ["orchestrate"] * (days + 1) + ["train", "weekly_report"]
    assert len(demo.notebooks) == len(jobs)
    assert all(file.with_suffix(".html").is_file() for file in demo.notebooks)


def test_service_logged_no_visitor_and_no_address(demo: DemoResult) -> None:
    log = (demo.home / "data" / "service.log").read_text()
    assert "/api/cro/assignments" in log
    assert "visitor=" not in log
    assert "127.0.0.1" not in log.replace("http://127.0.0.1", "")
    assert not re.search(r"\bv[0-9a-f]{16}\b", log)


def test_what_it_prints_is_there(demo: DemoResult) -> None:
    named = re.findall(r"(/\S+\.(?:html|txt|json))\b", demo.text)
    assert len(named) == 3
    assert all(Path(name).stat().st_size > 500 for name in named)
    report = json.loads(Path(named[2]).read_text())
    assert report["simulated"] is True
    assert "cro dashboard --home" in demo.text


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(Conflict, match="left alone"):
        run_demo(tmp_path, days=1, seed=1, quiet=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
