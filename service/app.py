"""The application factory."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from flask import Flask, Response, current_app, g, request
from flask.json.provider import DefaultJSONProvider

from cro_core.home import Home, open_home
from cro_core.storage.intake import Intake
from service import errors
from service.openapi import document
from service.routes import SECTIONS

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}

CROSS_ORIGIN_HEADERS = {
    # No credentials are ever read from these requests, so any origin may ask.
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}

PREFLIGHT_HEADERS = {"Access-Control-Allow-Headers": "Content-Type", "Access-Control-Max-Age": "86400"}


class StrictJson(DefaultJSONProvider):
    """JSON as the standard has it: no NaN; keys in the order the code gives them."""

    sort_keys = False
    ensure_ascii = False

    def dumps(self, obj: Any, **options: Any) -> str:
        """``obj`` as JSON.

        Raises:
            ValueError: NaN or infinity in it.
        """
        return super().dumps(obj, **{"allow_nan": False, **options})


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
    _ = opened.db, opened.salt, opened.admin_key
    app = Flask("service", static_folder=None)
    app.json = StrictJson(app)
    app.url_map.merge_slashes = False
    app.config["MAX_CONTENT_LENGTH"] = opened.config.service.max_body_bytes
    app.extensions["cro_home"] = opened
    app.extensions["cro_intake"] = Intake(opened.db, most_waiting=opened.config.service.max_waiting_events)
    app.before_request(_name_request)
    app.after_request(_add_headers)
    errors.install(app)
    for section in SECTIONS:
        app.register_blueprint(section.blueprint)
    endpoints = [e for section in SECTIONS for e in section.endpoints]
    app.extensions["cro_cross_origin"] = {e.path: e.method for e in endpoints if e.cross_origin}
    app.extensions["cro_document"] = lambda: document(SECTIONS, opened.config.service)
    return app


def _name_request() -> None:
    g.request_id = secrets.token_hex(8)


def _add_headers(response: Response) -> Response:
    response.headers["X-Request-Id"] = g.request_id
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    _add_cross_origin_headers(response)
    return response


def _add_cross_origin_headers(response: Response) -> None:
    """By path, because a refused method or an oversized body has no matched rule."""
    method = current_app.extensions["cro_cross_origin"].get(request.path)
    if method is None:
        return
    response.headers.update(CROSS_ORIGIN_HEADERS)
    if request.method == "OPTIONS":
        response.headers.update({**PREFLIGHT_HEADERS, "Access-Control-Allow-Methods": f"{method}, OPTIONS"})
