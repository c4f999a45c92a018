"""Every error leaves the service in one shape: ``{"error": {"code", "message", "field"}}``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from flask import Flask, Response, current_app, request
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from cro_core.errors import (
    KEY_RULE,
    Busy,
    Conflict,
    CroError,
    Fault,
    InvalidInput,
    NotFound,
    Overloaded,
    Sentence,
    StoreError,
    faults,
    phrase,
)
from service.answers import Answer, respond
from service.logs import request_id
from service.monitoring import Monitor

log = logging.getLogger(__name__)

STATUSES: Mapping[type[CroError], int] = {
    InvalidInput: 422,
    NotFound: 404,
    Conflict: 409,
    Busy: 409,
    StoreError: 503,
}
"""HTTP status by kind of error; a subclass answers like its parent, anything else is ours to mend: 500."""

HTTP_CODES: Mapping[int, str] = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_media_type",
}

MESSAGES: Mapping[int, str] = {
    404: "there is nothing at this address: see /api/openapi.json for what there is",
    413: "the body is larger than {limit} bytes: send less at once",
}

STORE_MESSAGE = (
    "the store did not answer: send the same request again in a few seconds; events with an id count once"
)
OVERLOADED_MESSAGE = "more waits for the store than it may: nothing was stored, send the same request again"
SHOWN_COMPLAINTS = 5

WANTED: Mapping[str, str] = {
    "dict_type": "give an object",
    "model_type": "give an object",
    "model_attributes_type": "give an object",
    "list_type": "give a list",
    "string_type": "give text",
    "bool_type": "give true or false",
    "bool_parsing": "give true or false",
    "float_type": "give a number",
    "float_parsing": "give a number",
    "int_type": "give a whole number",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
}
"""What was wanted in the words of JSON, where pydantic speaks of Python."""


class HttpRefusal(Exception):
    """A request that HTTP itself gives a reason to refuse; raised by the service only."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field
        self.headers = headers or {}


def envelope(refusal: HttpRefusal) -> Answer:
    """The one shape of an error."""
    error = {"code": refusal.code, "message": str(refusal), "field": refusal.field}
    return Answer({"error": error}, refusal.status, refusal.headers)


def complaints(error: ValidationError, whole: str) -> tuple[str, str | None]:
    """What pydantic found, in words, and the first field it found it in.

    Args:
        error: from validating what a client sent.
        whole: what to call the value itself where no field is at fault, e.g. ``body``.
    """
    refused = faults(error, whole)
    lines = [phrase(fault, SENTENCES, _complaint) for fault in refused[:SHOWN_COMPLAINTS]]
    if len(refused) > SHOWN_COMPLAINTS:
        lines.append(f"and {len(refused) - SHOWN_COMPLAINTS} more")
    return "; ".join(lines), refused[0].field


def answer_for(error: Exception, *, method: str, rule: str, most: int | None, monitor: Monitor) -> Answer:
    """The answer to a client whose request ended in an error, whatever it is. What is for us only goes to the log.

    Args:
        error: why a request was not served.
        method: the request's.
        rule: the route as it is declared, for the log: the path and the query may name a visitor.
        most: bytes that a body may have.
        monitor: counts what the store did not serve.
    """
    refusal = None
    if isinstance(error, HttpRefusal):
        refusal = error
    elif isinstance(error, CroError):
        refusal = _of_the_core(error, monitor)
    elif isinstance(error, HTTPException):
        refusal = _of_http(error, method, most)
    elif isinstance(error, sa.exc.SQLAlchemyError):
        refusal = _of_the_store(error, monitor)
    return envelope(refusal or _surprise(error, method, rule))


def install(app: Flask) -> None:
    """Makes every error of the app an envelope."""
    app.register_error_handler(Exception, _on_error)


def _on_error(error: Exception) -> Response:
    rule = request.url_rule.rule if request.url_rule else "(no rule)"
    monitor = current_app.extensions["cro_monitor"]
    most = request.max_content_length
    return respond(answer_for(error, method=request.method, rule=rule, most=most, monitor=monitor))


def _of_the_core(error: CroError, monitor: Monitor) -> HttpRefusal | None:
    status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), None)
    if status is None:
        return None
    if isinstance(error, Overloaded):  # counted, not logged: there are many, and they end by themselves
        monitor.store_failed("overloaded")
        return HttpRefusal(503, error.code, OVERLOADED_MESSAGE, headers={"Retry-After": "1"})
    if status == 503:  # its message may name a database address: for the log, not for a client
        log.error("request %s: %s", request_id.get(), error)
        return _unavailable(error.code, monitor)
    return HttpRefusal(status, error.code, str(error), field=getattr(error, "field", None))


def _of_http(error: HTTPException, method: str, most: int | None) -> HttpRefusal | None:
    status = error.code or 500
    if status >= 500:
        return None
    message = MESSAGES.get(status, error.description or error.name).format(limit=most)
    allow = {}
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        allow = {"Allow": ", ".join(sorted(error.valid_methods))}
        message = f"{method} is not possible here: use {allow['Allow']}"
    return HttpRefusal(status, HTTP_CODES.get(status, "bad_request"), message, headers=allow)


def _of_the_store(error: sa.exc.SQLAlchemyError, monitor: Monitor) -> HttpRefusal | None:
    if isinstance(error, sa.exc.StatementError):
        error.hide_parameters = True  # they may hold what a visitor typed
    if isinstance(error, (sa.exc.OperationalError, sa.exc.TimeoutError)):
        log.error("request %s: the store failed: %s", request_id.get(), error)
        return _unavailable(StoreError.code, monitor)
    if isinstance(error, sa.exc.DataError):
        return HttpRefusal(
            422, "invalid_input", "a value is of a size or kind that cannot be stored: nothing was changed"
        )
    return None


def _unavailable(code: str, monitor: Monitor) -> HttpRefusal:
    monitor.store_failed("failed")
    return HttpRefusal(503, code, STORE_MESSAGE, headers={"Retry-After": "5"})


def _surprise(error: Exception, method: str, rule: str) -> HttpRefusal:
    log.error("request %s: %s %s failed", request_id.get(), method, rule, exc_info=error)
    return HttpRefusal(
        500,
        "internal_error",
        f"something failed in the service: its log tells what, under {request_id.get()}",
    )


SENTENCES: Mapping[str, Sentence] = {
    "missing": lambda fault: f"{fault.name} is missing",
    "extra_forbidden": lambda fault: f"{fault.name} is not known here: leave it out or correct its name",
    "string_pattern_mismatch": lambda fault: f"{fault.name} is {_shown(fault.got)}: use {KEY_RULE}",
}
"""How a field of a request is refused, by kind of fault."""


def _complaint(fault: Fault) -> str:
    return f"{fault.name} is {_shown(fault.got)}: {WANTED.get(fault.kind, fault.clause)}"


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else text[:59] + "…"
