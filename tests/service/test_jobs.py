"""Jobs over HTTP: started, waited for, failed."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from flask.testing import FlaskClient
from helpers.service_samples import check_shape, start_server

from cro_core.home import Home
from cro_core.storage import journal
from service import schemas
from service.routes import jobs

RUNS = [("/api/cro/orchestrate", "orchestrate"), ("/api/cro/ml/train", "train")]


class FakeJobs:
    """Notes runs in the journal; ends them after ``seconds`` with ``status``."""

    def __init__(
        self, status: str = "done", outcome: dict[str, Any] | None = None, seconds: float = 0
    ) -> None:
        self.status, self.outcome, self.seconds = status, outcome, seconds
        self.started: list[str] = []

    def __call__(self, home: Home, job: str, now: datetime) -> str:
        self.started.append(job)
        run_id = f"{job}-{len(self.started)}"
        with home.db.write() as connection:
            journal.start_run(connection, run_id, job, now)
        Timer(self.seconds, self._end, (home, run_id, now)).start()
        return run_id

    def _end(self, home: Home, run_id: str, now: datetime) -> None:
        with home.db.write() as connection:
            journal.finish_run(
                connection,
                run_id,
                status=self.status,
                now=now,
                notebook="reports/runs/n.ipynb",
                outcome=self.outcome,
            )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeJobs:
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.01)
    return _use(monkeypatch, FakeJobs(outcome={"evaluated": 2}, seconds=0.2))


def _use(monkeypatch: pytest.MonkeyPatch, fake: FakeJobs) -> FakeJobs:
    monkeypatch.setattr(jobs, "start_job", fake)
    return fake


@pytest.mark.parametrize(("path", "job"), RUNS)
def test_a_run_is_started_and_can_be_asked_for(
    client: FlaskClient, key: dict[str, str], fake: FakeJobs, path: str, job: str
) -> None:
    answer = client.post(path, headers=key)
    assert (answer.status_code, answer.json["status"], fake.started) == (202, "running", [job])
    check_shape(schemas.Run, answer.json)
    asked = client.get(answer.headers["Location"])
    assert (asked.status_code, asked.json["id"]) == (200, answer.json["id"])
    waited = client.post(path + "?wait=1", headers=key)
    assert (waited.status_code, waited.json["status"], waited.json["outcome"]) == (
        200,
        "done",
        {"evaluated": 2},
    )
    check_shape(schemas.Run, waited.json)


def test_an_empty_object_is_no_body(client: FlaskClient, key: dict[str, str], fake: FakeJobs) -> None:
    assert client.post("/api/cro/orchestrate", data="{}", headers=key).status_code == 202


def test_waiting_has_an_end(
    client: FlaskClient, key: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(monkeypatch, FakeJobs(seconds=0.5))
    monkeypatch.setattr(jobs, "WAIT_SECONDS", 0.05)
    answer = client.post("/api/cro/orchestrate?wait=1", headers=key)
    assert (answer.status_code, answer.json["status"]) == (202, "running")
    assert answer.headers["Location"] == f"/api/cro/runs/{answer.json['id']}"


@pytest.mark.parametrize(
    ("status", "outcome", "http", "code"),
    [
        ("failed", {"error": "cell 3 failed"}, 500, "run_failed"),
        ("failed", None, 500, "run_failed"),
        ("busy", {"error": "busy"}, 409, "busy"),
    ],
)
def test_waiting_tells_how_it_went_wrong(
    client: FlaskClient,
    key: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    outcome: Any,
    http: int,
    code: str,
) -> None:
    _use(monkeypatch, FakeJobs(status, outcome))
    answer = client.post("/api/cro/orchestrate?wait=1", headers=key)
    assert (answer.status_code, answer.json["error"]["code"]) == (http, code)
    assert "orchestrate-1" in answer.json["error"]["message"]
    if outcome and status == "failed":
        assert "cell 3 failed" in answer.json["error"]["message"]


def test_a_run_does_not_tell_where_the_home_is(
    client: FlaskClient, key: dict[str, str], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(
        monkeypatch,
        FakeJobs(
            outcome={"files": [f"{home.path}/reports/a.html"], "error": f"kept as {home.path}/reports/b"}
        ),
    )
    run = client.post("/api/cro/ml/train?wait=1", headers=key)
    assert str(home.path) not in run.text
    assert run.json["outcome"]["files"] == ["reports/a.html"]
    overview = client.get("/api/cro/overview")
    assert str(home.path) not in overview.text
    check_shape(schemas.OverviewAnswer, overview.json)


@pytest.mark.slow
def test_real_jobs_run_their_notebooks(home: Home, tmp_path: Path) -> None:
    server = start_server(home, tmp_path / "log", jobs=True)
    key = {"X-API-Key": home.admin_key}
    status, _, cycle = server.call("POST", "/api/cro/orchestrate?wait=1", headers=key)
    check_shape(schemas.Run, cycle)
    assert (status, cycle["status"], cycle["outcome"]["evaluated"]) == (200, "done", 1)
    assert (home.path / cycle["notebook"]).is_file()
    assert server.call("GET", "/api/cro/overview")[2]["last_run"] == cycle
    with home.lock("job-orchestrate"):
        status, _, refused = server.call("POST", "/api/cro/orchestrate?wait=1", headers=key)
        assert (status, refused["error"]["code"]) == (409, "busy")
    server.process.terminate()
    assert server.process.wait(timeout=30) == 0


def test_a_job_outlives_the_service(home: Home, tmp_path: Path) -> None:
    server = start_server(home, tmp_path / "log", jobs=True)
    key = {"X-API-Key": home.admin_key}
    status, headers, begun = server.call("POST", "/api/cro/orchestrate", headers=key)
    assert (status, begun["status"]) == (202, "running")
    assert server.call("GET", headers["location"])[2]["status"] == "running"
    server.process.terminate()
    assert server.process.wait(timeout=30) == 0
    deadline = time.monotonic() + 60
    while (run := _journal(home, begun["id"]))["status"] == "running" and time.monotonic() < deadline:
        time.sleep(0.2)
    assert (run["status"], run["outcome"]["evaluated"]) == ("done", 1)


def _journal(home: Home, run_id: str) -> dict[str, Any]:
    with home.db.read() as connection:
        return journal.run(connection, run_id)


def test_an_unknown_run_is_404(client: FlaskClient) -> None:
    assert client.get("/api/cro/runs/nothing").status_code == 404
