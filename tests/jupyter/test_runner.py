"""The strict runner, with the real papermill and a real kernel where that is the point."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import pytest

from cro_core.errors import Busy, InvalidInput, NotFound, ParameterError, RunFailed
from cro_core.home import Home, create_home, open_home, set_clock
from cro_core.jupyter import runner
from cro_core.storage import journal
from cro_core.workflows import run_job

NOW = datetime(2026, 3, 16, 8, 0, 5, tzinfo=UTC)
PARAMETERS = """
home: str = ""
as_of: str = ""
rate: float = 0.1
rounds: int = 3
dry: bool = False
plain = "text"
anything = None
"""


def notebook(folder: Path, name: str, *cells: str, parameters: str = PARAMETERS) -> Path:
    node = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "x"}}
    )
    node.cells = [
        nbformat.v4.new_markdown_cell("# A notebook"),
        nbformat.v4.new_code_cell(parameters.strip(), metadata={"tags": ["parameters"]}),
        *(nbformat.v4.new_code_cell(source) for source in cells),
    ]
    file = folder / f"{name}.ipynb"
    nbformat.write(node, file)
    return file


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return create_home(tmp_path / "home", environ={})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "notebooks"
    made.mkdir()
    monkeypatch.setattr(runner, "notebook_folder", lambda: made)
    return made


def left_in(home: Home) -> list[str]:
    return sorted(str(f.relative_to(home.runs)) for f in home.runs.rglob("*") if f.is_file())


def test_a_run_under_cron_uses_this_python_and_leaves_notebook_and_page(
    home: Home,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """No HOME, a broken kernel of the user's under the very name, and still the right one runs."""
    broken = tmp_path / "share" / "kernels" / "python3"
    broken.mkdir(parents=True)
    (broken / "kernel.json").write_text(
        json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    monkeypatch.delenv("HOME", raising=False)
    notebook(
        folder,
        "look",
        "import os, sys",
        "from cro_core.jupyter.runner import record\n"
        "record({'python': sys.executable, 'cwd': os.getcwd(), 'rounds': rounds, 'rate': rate,"
        " 'profile': os.environ['IPYTHONDIR']})",
    )
    result = runner.run_notebook(home, "look", {"rounds": 7, "rate": 1}, run_id="r1", now=NOW)

    assert result.outcome["python"] == sys.executable
    assert Path(result.outcome["cwd"]) == home.path
    assert (result.outcome["rounds"], result.outcome["rate"]) == (7, 1)
    assert not Path(result.outcome["profile"]).exists(), "the private folder is gone after the run"
    assert left_in(home) == ["look/20260316T080005Z-r1.html", "look/20260316T080005Z-r1.ipynb"]
    assert "https://" not in result.html.read_text()
    assert str(tmp_path) not in json.dumps(nbformat.read(result.notebook, 4).metadata.papermill.output_path)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


@pytest.mark.parametrize(
    ("cells", "number", "said"),
    [
        (
            ["x = 1", "# why\nraise ValueError('no visitors')"],
            4,
            "raise ValueError('no visitors')): ValueError: no visitors",
        ),
        (["x = 1", "import os; os.kill(os.getpid(), 9)"], 3, "os.kill(os.getpid(), 9)): DeadKernelError"),
        (["done = True"], 2, "recorded no outcome"),
    ],
    ids=["a cell raises", "the kernel dies", "nothing is recorded"],
)
def test_a_failure_keeps_the_notebook_and_names_the_cell(
    home: Home, folder: Path, cells: list[str], number: int, said: str
) -> None:
    notebook(folder, "broken", *cells)
    parameters = {"rounds": 1} if "raise" in cells[-1] else {}
    with pytest.raises(RunFailed) as failure:
        runner.run_notebook(home, "broken", parameters, run_id="r1", now=NOW)
    assert said in str(failure.value)
    assert failure.value.cell == number
    assert f"cell {number} " in str(failure.value)
    assert left_in(home) == ["broken/20260316T080005Z-r1.failed.ipynb"]
    assert failure.value.notebook.is_file()
    with home.lock("job-broken"):
        pass


@pytest.mark.parametrize(
    ("parameters", "field", "said"),
    [
        ({"ruonds": 3}, "ruonds", "has no parameter 'ruonds': it takes home, as_of, rate"),
        ({"rounds": "3"}, "rounds", "'3' (str): give int"),
        ({"rounds": 2.5}, "rounds", "give int"),
        ({"rounds": True}, "rounds", "True (bool): give int"),
        ({"dry": 1}, "dry", "give bool"),
        ({"home": None}, "home", "None (NoneType): give str"),
        ({"plain": 3}, "plain", "give str"),
    ],
)
def test_wrong_parameters_are_refused_by_name_before_anything_runs(
    home: Home, folder: Path, parameters: dict[str, Any], field: str, said: str
) -> None:
    notebook(folder, "job", "raise SystemExit")
    with pytest.raises(ParameterError) as refusal:
        runner.run_notebook(home, "job", parameters, run_id="r1", now=NOW)
    assert refusal.value.field == field
    assert said in str(refusal.value)
    assert left_in(home) == []


def test_right_parameters_pass(home: Home, folder: Path) -> None:
    file = notebook(folder, "job")
    runner.check_parameters(
        file, {"rate": 1, "rounds": 0, "dry": True, "plain": "", "anything": object(), "home": "x"}
    )
    runner.check_parameters(file, {})


def test_a_second_run_of_a_job_leaves_at_once(home: Home, folder: Path) -> None:
    notebook(folder, "job", "raise SystemExit")
    with home.lock("job-job"), pytest.raises(Busy, match="job-job is running"):
        runner.run_notebook(home, "job", {}, run_id="r1", now=NOW)
    assert left_in(home) == []


@pytest.mark.parametrize("run_id", ["", "a/b", "../up", ".hidden", "x" * 81, "a b"])
def test_a_run_id_cannot_leave_the_folder(home: Home, folder: Path, run_id: str) -> None:
    notebook(folder, "job", "raise SystemExit")
    with pytest.raises(InvalidInput, match="run id"):
        runner.run_notebook(home, "job", {}, run_id=run_id, now=NOW)


def test_an_unknown_notebook_is_refused_with_those_there_are(home: Home, folder: Path) -> None:
    notebook(folder, "job")
    for name in ("jbo", "../job", ""):
        with pytest.raises(NotFound, match="choose from job"):
            runner.run_notebook(home, name, {}, run_id="r1", now=NOW)


def test_a_kernel_that_never_started_leaves_the_unexecuted_notebook(folder: Path, tmp_path: Path) -> None:
    source = notebook(folder, "job", "x = 1")

    def no_kernel(source: Path, output: Path) -> Any:
        raise RuntimeError("Kernel didn't respond in 120 seconds")

    with pytest.raises(RunFailed, match=r"job\.ipynb failed: RuntimeError: Kernel didn't respond") as failure:
        runner.run_whole(source, tmp_path / "out.ipynb", no_kernel)
    assert failure.value.cell is None
    assert failure.value.notebook.read_text() == source.read_text()


def test_an_interrupted_run_is_kept_too(folder: Path, tmp_path: Path) -> None:
    def interrupted(source: Path, output: Path) -> Any:
        output.write_text("{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run_whole(notebook(folder, "job"), tmp_path / "out.ipynb", interrupted)
    assert [f.name for f in tmp_path.glob("*.ipynb")] == ["out.failed.ipynb"]


def test_the_shipped_notebooks_are_found() -> None:
    assert runner.notebook_path("weekly_report").is_file()
    assert {"orchestrate", "train", "weekly_report", "dashboard", "explore"} <= {
        f.stem for f in runner.notebook_folder().glob("*.ipynb")
    }


def test_an_outcome_is_plain_json() -> None:
    bundle = runner.record({"at": NOW, "rate": float("nan"), "path": ("a", 1)})._repr_mimebundle_()
    assert bundle[runner.OUTCOME] == {"at": "2026-03-16T08:00:05Z", "rate": None, "path": ["a", 1]}


SLEEPER = """
import sys
from pathlib import Path
from cro_core.clock import parse_time
from cro_core.jupyter import runner
from cro_core.home import open_home
runner.notebook_folder = lambda: Path(sys.argv[2])
runner.run_notebook(open_home(sys.argv[1]), "sleeper", {}, run_id="r1", now=parse_time("2026-03-16T08:00:05Z"))
"""


def test_sigterm_leaves_neither_kernel_nor_lock(home: Home, folder: Path, tmp_path: Path) -> None:
    told = tmp_path / "kernel.pid"
    notebook(
        folder,
        "sleeper",
        f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(300)",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(home.path), str(folder)], stderr=subprocess.DEVNULL
    )
    wait_until(lambda: told.exists() and told.read_text() != "", 60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) != 0
    wait_until(lambda: not alive(int(told.read_text())), 30)
    with home.lock("job-sleeper"):
        pass


class TestCommandLine:
    """What cron sees: nothing in the environment, an exit code, one line on stderr."""

    def cro(self, home: Home, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cro_core.cli", *arguments, "--home", str(home.path)]
        return subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, timeout=120, check=False
        )

    @pytest.mark.parametrize(
        "environment",
        [{}, pytest.param({"HOME": "/dev/null/no"}, marks=pytest.mark.slow)],
        ids=["env -i", "HOME not writable"],
    )
    def test_it_needs_neither_an_environment_nor_a_home_folder(
        self, home: Home, environment: dict[str, str]
    ) -> None:
        done = self.cro(home, "report", "--json", **environment)
        assert (done.returncode, done.stderr) == (0, "")
        outcome = json.loads(done.stdout)
        assert Path(outcome["files"]["html"]).is_file()
        assert Path(outcome["notebook"]).parent == home.runs / "weekly_report"

    def test_a_failure_exits_with_1_and_a_busy_job_with_75(self, home: Home) -> None:
        set_clock(home, NOW)
        (home.reports / "cro-report-2026-03-16.txt").mkdir()  # in the way of the report's text
        failed = self.cro(home, "report")
        assert failed.returncode == 1
        assert failed.stderr.startswith("error: weekly_report.ipynb failed in cell ")
        assert "(record(" in failed.stderr
        assert "IsADirectoryError" in failed.stderr
        assert "Traceback" not in failed.stderr
        (kept,) = home.runs.rglob("*.failed.ipynb")
        assert str(kept) in failed.stderr
        with home.lock("job-weekly_report"):
            assert self.cro(home, "report").returncode == 75


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return (
        "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
        if Path(f"/proc/{pid}/status").exists()
        else True
    )


def wait_until(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


class TestJobs:
    """Runs with their rows in the journal."""

    def rows(self, home: Home) -> list[dict[str, Any]]:
        with home.db.read() as connection:
            return journal.runs(connection)

    def test_the_weekly_report_is_run_published_and_noted(self, home: Home) -> None:
        outcome = run_job.run_job(home, "weekly_report", {}, now=NOW)
        files = {kind: Path(path) for kind, path in outcome["files"].items()}
        assert {kind: path.name for kind, path in files.items()} == {
            "html": "cro-report-2026-03-16.html",
            "text": "cro-report-2026-03-16.txt",
            "json": "cro-report-2026-03-16.json",
        }
        assert all(path.parent == home.reports and path.stat().st_size for path in files.values())
        assert files["html"].read_text() == Path(outcome["html"]).read_text()
        (row,) = self.rows(home)
        assert (row["id"], row["job"], row["status"]) == (outcome["run"], "weekly_report", "done")
        assert home.path / row["notebook"] == Path(outcome["notebook"])
        assert row["outcome"]["headline"].startswith("No visitors")

    def test_a_failed_and_a_busy_run_are_noted(self, home: Home, folder: Path) -> None:
        notebook(folder, "job", "raise ValueError('no')")
        with pytest.raises(RunFailed):
            run_job.run_job(home, "job", {}, now=NOW)
        with home.lock("job-job"), pytest.raises(Busy):
            run_job.run_job(home, "job", {}, now=NOW)
        by_status = {row["status"]: row for row in self.rows(home)}
        assert set(by_status) == {"failed", "busy"}
        assert "ValueError: no" in by_status["failed"]["outcome"]["error"]
        assert by_status["failed"]["notebook"].endswith(".failed.ipynb")

    def test_a_refused_parameter_is_noted_as_failed(self, home: Home, folder: Path) -> None:
        notebook(folder, "job")
        with pytest.raises(ParameterError):
            run_job.run_job(home, "job", {"speed": 1}, now=NOW)
        assert self.rows(home)[0]["outcome"]["error"].startswith(
            "ParameterError: notebook job has no parameter 'speed'"
        )

    def test_a_job_is_started_in_a_process_of_its_own(self, tmp_path: Path) -> None:
        home = create_home(tmp_path / "home", environ={})
        set_clock(home, NOW)
        home = open_home(home.path, environ={})
        run_id = run_job.start_job(home, "weekly_report", home.clock())
        assert [row["id"] for row in self.rows(home)] == [run_id]
        wait_until(lambda: self.rows(home)[0]["status"] != "running", 120)
        (row,) = self.rows(home)
        assert row["status"] == "done", (home.data / "logs" / "weekly_report.log").read_text()
        assert (home.reports / "cro-report-2026-03-16.html").is_file()

    def test_a_process_that_dies_without_a_word_is_noted(
        self, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        run_job.start_job(home, "train", NOW)
        wait_until(lambda: self.rows(home)[0]["status"] == "failed", 30)
        assert "exit code 1" in self.rows(home)[0]["outcome"]["error"]

    def test_only_known_jobs_can_be_started(self, home: Home) -> None:
        with pytest.raises(NotFound, match="choose from orchestrate, train, weekly_report"):
            run_job.start_job(home, "rm", NOW)
        assert self.rows(home) == []
