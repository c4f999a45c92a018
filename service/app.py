"""The application factory."""

from __future__ import annotations

import time
from pathlib import Path

from flask import Flask, Response, current_app, g, request

from cro_core.home import Home, open_home
from cro_core.storage.group_commit import Intake
from cro_core.workflows import geolocate
from service import error_answers, logs
from service.answers import CROSS_ORIGIN_HEADERS, PREFLIGHT_HEADERS, SECURITY_HEADERS
from service.monitoring import Monitor
from service.openapi import document
from service.rate_limits import Limits
from service.routes import SECTIONS
from service.routes.system import METRICS


def create_app(home: Home | Path | str | None = None) -> Flask:
    """The service of one home.

    Args:
        home: an opened home, or the path of one; default ``CRO_HOME``, else the current folder.

    Raises:
        NotFound: there is no home, or its secrets are missing.
        ConfigError: its settings are refused.
        StoreError: its store cannot be opened.
    """
    opened = home if isinstance(home, Home) else open_home(home)
    # Read now: a service that cannot work must not start.
    _ = opened.db, opened.salt, opened.admin_key, geolocate.locator(opened)
    app = Flask("service", static_folder=None)
    app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = opened.config.service.max_body_bytes
    app.extensions["cro_home"] = opened
    monitor = app.extensions["cro_monitor"] = Monitor(opened)
    intake = app.extensions["cro_intake"] = Intake(
        opened.db, most_waiting=opened.config.service.max_waiting_events, on_commit=monitor.commit
    )
    monitor.waiting(lambda: intake.waiting)
    app.extensions["cro_limits"] = Limits(opened.config.service, monitor.limited)
    app.before_request(_begin)
    app.before_request(_limit)
    app.after_request(_note_answer)
    app.after_request(_add_headers)
    app.teardown_request(_end)
    error_answers.install(app)
    for section in SECTIONS:
        app.register_blueprint(section.blueprint)
    endpoints = [e for section in SECTIONS for e in section.endpoints]
    app.extensions["cro_cross_origin"] = {e.path: e.method for e in endpoints if e.cross_origin}
    app.extensions["cro_unlimited"] = {METRICS, *(e.path for e in endpoints if not e.limited)}
    app.extensions["cro_document"] = lambda: document(SECTIONS, opened.config.service)
    return app


def _begin() -> None:
    g.began = time.perf_counter()
    logs.begin(request.headers.get("X-Request-Id"))


def _end(_: BaseException | None) -> None:
    logs.end()


def _limit() -> None:
    if request.path not in current_app.extensions["cro_unlimited"]:
        current_app.extensions["cro_limits"].check(request, current_app.extensions["cro_home"])


def _note_answer(response: Response) -> Response:
    monitor: Monitor = current_app.extensions["cro_monitor"]
    rule = request.url_rule.rule if request.url_rule else "(none)"
    seconds = time.perf_counter() - g.began
    monitor.answered(request.method, rule, response.status_code, seconds, g.get("receipt"))
    return response


def _add_headers(response: Response) -> Response:
    response.headers["X-Request-Id"] = logs.request_id.get()
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    _add_cross_origin_headers(response)
    return response


def _add_cross_origin_headers(response: Response) -> None:
    """Adds headers by path, because a refused method or an oversized body has no matched rule."""
    method = current_app.extensions["cro_cross_origin"].get(request.path)
    if method is None:
        return
    response.headers.update(CROSS_ORIGIN_HEADERS)
    if request.method == "OPTIONS":
        response.headers.update({**PREFLIGHT_HEADERS, "Access-Control-Allow-Methods": f"{method}, OPTIONS"})
