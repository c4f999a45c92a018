"""A short way for posted events: the functions of their endpoint, without Flask around them.

Flask spends two thirds of a small post on its contexts, its routing and its objects. This answers plain posts by the
same functions, with the same bytes; whatever else there is goes on to Flask, untouched.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask, Request
from werkzeug.http import HTTP_STATUS_CODES

from cro_core.workflows.ingest import Receipt
from service import answers, error_answers, logs
from service.answers import Answer
from service.routes import visitors
from service.schemas import VisitorQuery

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

METHOD, PATH = next((e.method, e.path) for e in visitors.section.endpoints if e.view is visitors.post_events)

PLAIN_HOST = re.compile(r"[\w-]{1,63}(\.[\w-]{1,63})*(:\d+)?", re.ASCII)
"""Pattern of host names that are certainly valid; of others Flask says whether they are."""

STATUS_LINES = {status: f"{status} {name.upper()}" for status, name in HTTP_STATUS_CODES.items()}

NO_QUERY = VisitorQuery()

HEADERS = [*answers.SECURITY_HEADERS.items(), *answers.CROSS_ORIGIN_HEADERS.items()]
"""Headers of every answer."""


def with_fast_path(app: Flask) -> Flask:
    """The app of ``create_app``, with the short way before it."""
    app.wsgi_app = FastPath(app)  # type: ignore[method-assign]  # as Flask's documentation has it
    return app


class FastPath:
    """The application that a WSGI server calls: plain posts of events by the short way, the rest by Flask.

    Args:
        app: as ``create_app`` made it.
    """

    def __init__(self, app: Flask) -> None:
        self._flask = app.wsgi_app
        self._home = app.extensions["cro_home"]
        self._monitor = app.extensions["cro_monitor"]
        self._limits = app.extensions["cro_limits"]
        self._save = app.extensions["cro_intake"].store
        self._most = app.config["MAX_CONTENT_LENGTH"]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answers a request."""
        if not _is_plain(environ):
            return self._flask(environ, start_response)
        began = time.perf_counter()
        request_id = logs.begin(environ.get("HTTP_X_REQUEST_ID"))
        try:
            answer, receipt = self._answer(environ)
            seconds = time.perf_counter() - began
            self._monitor.answered(METHOD, PATH, answer.status, seconds, receipt)
        finally:
            logs.end()
        body = answers.body(answer)
        length = ("Content-Length", str(len(body)))
        written = [
            *answer.headers.items(),
            ("Content-Type", answers.JSON),
            length,
            ("X-Request-Id", request_id),
        ]
        start_response(STATUS_LINES[answer.status], written + HEADERS)
        return [body]

    def _answer(self, environ: WSGIEnvironment) -> tuple[Answer, Receipt | None]:
        """What the endpoint answers, and what became of the events where it took them."""
        request = Request(environ)
        request.max_content_length = self._most
        try:
            self._limits.check(request, self._home)
            receipt = visitors.receive(request, self._home, NO_QUERY, self._save)
        except Exception as error:  # noqa: BLE001  told to whoever posted
            answer = error_answers.answer_for(
                error, method=METHOD, rule=PATH, most=self._most, monitor=self._monitor
            )
            return answer, None
        return visitors.acknowledged(receipt), receipt


def _is_plain(environ: WSGIEnvironment) -> bool:
    return (
        environ["PATH_INFO"] == PATH
        and environ["REQUEST_METHOD"] == METHOD
        and not environ.get("QUERY_STRING")
        and PLAIN_HOST.fullmatch(environ.get("HTTP_HOST", "")) is not None
    )
