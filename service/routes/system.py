"""What machines ask: is it alive, is it ready, how does it do, and what can it do."""

from __future__ import annotations

from flask import Response, current_app, request

import cro_core
from cro_core.home import Home
from cro_core.storage.database import HEAD
from service import auth, readiness
from service.answers import Answer, respond
from service.auth import Access
from service.endpoints import ApiSection, Reply, current_home
from service.schemas import HealthAnswer, ReadyAnswer

section = ApiSection("system", "For machines: is it alive, is it ready, and what can it do.", prefix="")

METRICS = "/metrics"


@section.get(
    "/healthz",
    access=Access.PUBLIC,
    limited=False,
    replies={200: Reply(HealthAnswer, "The process answers.")},
)
def get_health(home: Home) -> Answer:
    """Whether the process answers.

    Looks at nothing else: a supervisor that restarts what does not answer would not mend a store that is down.
    """
    return Answer(
        {"status": "ok", "version": cro_core.__version__, "schema_version": HEAD, "now": home.clock()}
    )


@section.get(
    "/readyz",
    access=Access.PUBLIC,
    limited=False,
    replies={
        200: Reply(ReadyAnswer, "Send it requests."),
        503: Reply(ReadyAnswer, "Send it none; `problems` says why."),
    },
)
def get_readiness(home: Home) -> Answer:
    """Whether the service can do its work.

    The store takes a write, its schema is the one of this version, its disk has room, and the queue of events is
    not full.
    """
    problems = readiness.problems(
        home,
        waiting=current_app.extensions["cro_intake"].waiting,
        since_commit=current_app.extensions["cro_monitor"].seconds_since_commit(),
    )
    if problems:
        return Answer({"status": "not_ready", "problems": problems}, 503, {"Retry-After": "5"})
    return Answer({"status": "ready", "problems": {}})


@section.blueprint.get(METRICS)
def get_metrics() -> Response:
    """The figures of this process and its home, in the text format of Prometheus."""
    auth.check(Access.READ, request, current_home())
    return Response(
        current_app.extensions["cro_monitor"].text(), content_type="text/plain; version=0.0.4; charset=utf-8"
    )


@section.blueprint.get("/api/openapi.json")
def get_document() -> Response:
    """Serves this OpenAPI document."""
    built: dict[str, object] = current_app.extensions.setdefault("cro_built", {})
    if not built:
        built.update(current_app.extensions["cro_document"]())
    return respond(Answer(built))
