"""Jobs: a notebook run with a row in the journal, here or in a process of its own.

Importing this module is cheap, so that the service can: the notebook's tools are loaded when a job runs.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from cro_core.clock import iso
from cro_core.domain import Json
from cro_core.errors import Busy, NotFound, RunFailed
from cro_core.home import Home
from cro_core.storage import journal

COMMANDS: Mapping[str, str] = {"orchestrate": "orchestrate", "train": "train", "weekly_report": "report"}
"""The command of ``cro`` that runs a job."""

WEEKLY_REPORT = "weekly_report"


def run_job(
    home: Home, job: str, parameters: Json, *, now: datetime, run_id: str | None = None
) -> dict[str, Any]:
    """Runs a job's notebook, keeps it, and notes in the journal how it went.

    Args:
        job: name of a notebook; ``orchestrate``, ``train`` and ``weekly_report`` ship.
        parameters: beyond ``home`` and ``as_of``, which every job gets.
        now: the moment the job works at.
        run_id: of a run that :func:`start_job` has noted already; default: a new one.

    Returns:
        What the notebook recorded, with ``run``, ``notebook`` and ``html`` (paths), and for the weekly report
        ``files`` with the paths of its three forms.

    Raises:
        NotFound, ParameterError, Busy, RunFailed: see :func:`cro_core.jupyter.runner.run_notebook`.
    """
    from cro_core.jupyter.runner import run_notebook

    run_id = _begin(home, job, now, run_id)
    try:
        result = run_notebook(
            home, job, {"home": str(home.path), "as_of": iso(now), **parameters}, run_id=run_id, now=now
        )
    except Busy as error:
        _finish(home, run_id, "busy", None, {"error": str(error)})
        raise
    except BaseException as error:  # also an interrupted run must not stay "running" in the journal
        notebook = error.notebook if isinstance(error, RunFailed) else None
        _finish(home, run_id, "failed", notebook, {"error": f"{type(error).__name__}: {error}"})
        raise
    outcome = {**result.outcome, "run": run_id, "notebook": str(result.notebook), "html": str(result.html)}
    if job == WEEKLY_REPORT:
        outcome["files"] = {**outcome["files"], "html": str(_publish(home, result.html, now))}
    _finish(home, run_id, "done", result.notebook, outcome)
    return outcome


def start_job(home: Home, job: str, now: datetime) -> str:
    """Starts a job in a process of its own and returns the id of its run at once.

    Its output goes to ``data/logs/<job>.log``. Where the process ends without a word (killed, out of memory),
    the run is noted as failed for as long as this process lives.

    Raises:
        NotFound: no command runs such a job.
    """
    if job not in COMMANDS:
        raise NotFound(f"job {job!r} does not exist: choose from {', '.join(COMMANDS)}")
    run_id = _begin(home, job, now, None)
    command = [
        sys.executable,
        "-m",
        "cro_core.cli",
        COMMANDS[job],
        "--run-id",
        run_id,
        "--home",
        str(home.path),
        "--json",
    ]
    logs = home.data / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"{job}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_environment(home),
        )
    threading.Thread(target=_watch, args=(home, run_id, process), name=f"run-{run_id}", daemon=True).start()
    return run_id


def new_run_id() -> str:
    """A short id that no other run has."""
    return secrets.token_hex(6)


def _begin(home: Home, job: str, now: datetime, run_id: str | None) -> str:
    """Notes that the run has begun, unless whoever started this process has."""
    with home.db.write() as connection:
        if run_id is not None and _known(connection, run_id):
            return run_id
        run_id = run_id or new_run_id()
        journal.start_run(connection, run_id, job, now)
        return run_id


def _known(connection: Any, run_id: str) -> bool:
    try:
        journal.run(connection, run_id)
    except NotFound:
        return False
    return True


def _finish(home: Home, run_id: str, status: str, notebook: Path | None, outcome: Json) -> None:
    kept = None if notebook is None else os.path.relpath(notebook, home.path)
    with home.db.write() as connection:
        journal.finish_run(
            connection, run_id, status=status, now=home.clock(), notebook=kept, outcome=outcome
        )


def _publish(home: Home, page: Path, now: datetime) -> Path:
    """Puts the executed report's page beside its text and JSON forms."""
    from cro_core.jupyter.export import write_whole
    from cro_core.workflows.write_report import report_stem

    return write_whole(report_stem(home, now).with_suffix(".html"), page.read_text(encoding="utf-8"))


def _watch(home: Home, run_id: str, process: subprocess.Popen[bytes]) -> None:
    code = process.wait()
    with home.db.read() as connection:
        status = journal.run(connection, run_id)["status"]
    if status == "running":
        _finish(
            home, run_id, "failed", None, {"error": f"the process ended with exit code {code}; see data/logs"}
        )


def _environment(home: Home) -> dict[str, str]:
    return {**os.environ, "CRO_HOME": str(home.path)}
