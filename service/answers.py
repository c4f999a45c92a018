"""How an answer is written, and what every one carries: the same for Flask and for the short way of :mod:`service.fast_path`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Response

from cro_core.domain import to_json

JSON = "application/json"

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}

CROSS_ORIGIN_HEADERS = {
    # No credentials are ever read from these requests, so any origin may ask.
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Retry-After, X-Request-Id",
    "Cross-Origin-Resource-Policy": "cross-origin",
}

PREFLIGHT_HEADERS = {"Access-Control-Allow-Headers": "Content-Type", "Access-Control-Max-Age": "86400"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a view returns; ``data`` is anything ``to_json`` takes."""

    data: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def body(answer: Answer) -> bytes:
    """The data as JSON, its keys in the order the code gives them."""
    return f"{_JSON.encode(to_json(answer.data))}\n".encode()


def respond(answer: Answer) -> Response:
    """The answer as Flask sends it."""
    return Response(body(answer), answer.status, answer.headers, mimetype=JSON)
