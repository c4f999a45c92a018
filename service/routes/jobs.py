"""Jobs that run as notebooks: the cycle and the training of the model. Also the model's predictions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from cro_core.errors import Busy
from cro_core.home import Home
from cro_core.storage import journal
from cro_core.workflows.run_job import start_job
from service.answers import Answer
from service.auth import Access
from service.endpoints import PREFIX, ApiSection, Reply
from service.error_answers import HttpRefusal
from service.routes.reads import present_run
from service.schemas import PredictBody, PredictionAnswer, Run, WaitQuery

section = ApiSection("jobs", "Runs of the autopilot's notebooks, and the prediction model.")

WAIT_SECONDS = 600
"""How long ``?wait=1`` waits at most; the run goes on, and 202 says so."""

POLL_SECONDS = 0.2

RUN_LINKS = {"run": {"operationId": "get_run", "parameters": {"run_id": "$response.body#/id"}}}
STARTED = Reply(
    Run,
    "The run has begun, or is still going on after the longest wait: ask for it at `Location`.",
    links=RUN_LINKS,
    headers={"Location": "Where to ask how the run is going."},
)
ENDED = Reply(Run, "With `wait=1`: the run is done, and `outcome` says what it did.", links=RUN_LINKS)


@section.post(
    "/orchestrate", access=Access.ADMIN, query=WaitQuery, errors=(409,), replies={200: ENDED, 202: STARTED}
)
def orchestrate(home: Home, query: WaitQuery) -> Answer:
    """Run a cycle now.

    Evaluates, decides, ships, plans shares and starts what comes next, as the hourly cycle does. 409 where,
    with `wait=1`, another run of it was going on.
    """
    return _start(home, "orchestrate", query.wait)


@section.post(
    "/ml/train", access=Access.ADMIN, query=WaitQuery, errors=(409,), replies={200: ENDED, 202: STARTED}
)
def train_model(home: Home, query: WaitQuery) -> Answer:
    """Train the prediction model now."""
    return _start(home, "train", query.wait)


@section.post(
    "/ml/predict",
    access=Access.ADMIN,
    body=PredictBody,
    replies={200: Reply(PredictionAnswer, "What the model expects, or why it will not say.")},
)
def predict(home: Home, body: PredictBody) -> Answer:
    """What the model expects of a variant.

    Describe the variant by what you know of it. A model that does no better than guessing gives no advice, and
    says so in `status` and `text`.
    """
    # Loads NumPy and SciPy, which the service otherwise does without.
    module = import_module("cro_core.workflows.predict")
    return Answer(module.predict(home, body.model_dump(exclude_unset=True)))


@section.get(
    "/runs/<run_id>",
    access=Access.READ,
    path_examples={"run_id": "orchestrate-0198c7"},
    replies={200: Reply(Run, "How it is going, or went.")},
)
def get_run(home: Home, run_id: str) -> Answer:
    """How a run is going, or went."""
    return Answer(_run(home, run_id))


def _start(home: Home, job: str, wait: bool) -> Answer:
    run_id = start_job(home, job, home.clock())
    run = _wait_for(home, run_id) if wait else _run(home, run_id)
    if not wait or run["status"] == "running":
        return Answer(run, 202, {"Location": f"{PREFIX}/runs/{run_id}"})
    _check_outcome(run)
    return Answer(run)


def _wait_for(home: Home, run_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT_SECONDS
    while (run := _run(home, run_id))["status"] == "running" and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return run


def _check_outcome(run: Mapping[str, Any]) -> None:
    """Refuses to answer for a run that gave no outcome.

    Raises:
        Busy: another run of the job was going on.
        HttpRefusal: 500, the notebook failed.
    """
    if run["status"] == "busy":
        raise Busy(
            f"run {run['id']}: another run of {run['job']} is going on, so nothing was done: try again later"
        )
    if run["status"] == "failed":
        reason = (run["outcome"] or {}).get("error", "its notebook tells why")
        raise HttpRefusal(500, "run_failed", f"run {run['id']} failed: {reason}")


def _run(home: Home, run_id: str) -> dict[str, Any]:
    with home.db.read() as connection:
        run: dict[str, Any] = present_run(home, journal.run(connection, run_id))
    return run
