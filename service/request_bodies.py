"""Reading what a client sent: bounded, strictly JSON, and in types that every store takes."""

from __future__ import annotations

import json
import math
import re
from typing import Any, TypeVar

from flask import Request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import RequestEntityTooLarge

from service.error_answers import HttpRefusal, complaints

Model = TypeVar("Model", bound=BaseModel)

MAX_DEPTH = 32
"""Objects and lists inside each other; more is refused before anything walks them."""

UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""NUL and lone surrogates: JSON can carry them, UTF-8 and PostgreSQL cannot."""


def parse_json(request: Request) -> Any:
    """The body as JSON, whatever its Content-Type says: browsers' beacons arrive as ``text/plain``.

    Raises:
        HttpRefusal: 400 where it is not JSON (also NaN, numbers beyond a double, too deep), 415 where it is compressed.
        RequestEntityTooLarge: over the configured size, with or without a Content-Length.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise HttpRefusal(
            415,
            "unsupported_media_type",
            "a compressed body cannot be read: send it without Content-Encoding",
        )
    try:
        text = _read(request).decode("utf-8-sig")
        if not text.strip():
            raise HttpRefusal(400, "bad_json", "the body is empty: send JSON")
        value = _JSON.decode(text)
    except UnicodeDecodeError:
        raise HttpRefusal(400, "bad_json", "the body is not UTF-8 text") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise HttpRefusal(400, "bad_json", f"the body is not JSON: {error}") from None
    _check_depth(value)
    return _storable(value) if "\\u" in text else value


def parse_body(request: Request, model: type[Model], *, optional: bool) -> Model:
    """The body of a request that must be JSON and says so.

    Raises:
        HttpRefusal: 400 no JSON, 415 another Content-Type, 422 the wrong content.
    """
    if optional and not _has_body(request):
        return _validate(model, {}, "body", strict=True)
    if not request.is_json:
        raise HttpRefusal(
            415,
            "unsupported_media_type",
            f"the body is {request.mimetype or 'of no type'}: send JSON with `Content-Type: application/json`",
        )
    return _validate(model, parse_json(request), "body", strict=True)


def parse_query(request: Request, model: type[Model]) -> Model:
    """The query string; every name known and given once.

    Raises:
        HttpRefusal: 422 naming the parameter.
    """
    values = request.args.to_dict(flat=False)
    for name, given in values.items():
        if len(given) > 1:
            raise HttpRefusal(
                422, "invalid_input", f"{name} is given {len(given)} times: give it once", field=name
            )
    # As in a body, so that one visitor id is the same visitor in both.
    return _validate(model, {name: _storable(given[0]) for name, given in values.items()}, "query")


def _validate(model: type[Model], value: Any, whole: str, *, strict: bool = False) -> Model:
    """The model of the value; ``strict`` where the value has types of its own, as JSON has and a query has not."""
    try:
        return model.model_validate(value, strict=strict)
    except ValidationError as error:
        message, field = complaints(error, whole)
        raise HttpRefusal(422, "invalid_input", message, field=field) from None


def _read(request: Request) -> bytes:
    """The whole body.

    Raises:
        RequestEntityTooLarge: over the configured size.
    """
    data = request.get_data(cache=False)
    # Werkzeug refuses a length that is too large, but cuts a chunked body there without a word.
    if request.content_length is None and len(data) == request.max_content_length:
        raise RequestEntityTooLarge
    return data


def _has_body(request: Request) -> bool:
    # A chunked body has no length until it is read.
    return bool(request.content_length) or "Transfer-Encoding" in request.headers


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number: send null")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value


def _whole(text: str) -> float:
    """A whole number beyond 64 bits becomes a double, as it does in a browser: no store has an integer for it."""
    # 20 characters hold every 64-bit number, and turning millions of digits into an integer takes for ever.
    value = int(text) if len(text) <= 20 else 2**64
    return value if -(2**63) <= value < 2**63 else _finite(text)


_JSON = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, parse_int=_whole)


def _check_depth(value: Any) -> None:
    layer = [value]
    for _ in range(MAX_DEPTH + 1):
        layer = [child for parent in layer for child in _children(parent) if isinstance(child, (dict, list))]
        if not layer:
            return
    raise _too_deep()


def _children(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _too_deep() -> HttpRefusal:
    return HttpRefusal(400, "bad_json", f"the body is nested more than {MAX_DEPTH} levels deep")


def _storable(value: Any) -> Any:
    """The value with U+FFFD for what no store can hold, as browsers themselves do when they send text."""
    if isinstance(value, str):
        return UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_storable(item) for item in value]
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    return value
