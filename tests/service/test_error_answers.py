"""Every route x wrong method x missing and wrong key x bad body: one envelope, the right status."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from helpers.service_samples import both_ways, check_shape, stored_events
from werkzeug.test import TestResponse

from cro_core import errors as core
from cro_core.home import Home, open_home
from service import schemas
from service.app import create_app
from service.auth import Access
from service.endpoints import Endpoint
from service.error_answers import STATUSES
from service.routes import SECTIONS

ENDPOINTS = [endpoint for section in SECTIONS for endpoint in section.endpoints]
PATHS = sorted({endpoint.path for endpoint in ENDPOINTS})
METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"}
ADMIN = [e for e in ENDPOINTS if e.access is Access.ADMIN]
READ = [e for e in ENDPOINTS if e.access is Access.READ]
WITH_BODY = [e for e in ADMIN if isinstance(e.body, type)]


def _name(endpoint: Endpoint) -> str:
    return endpoint.operation_id


def _url(path: str) -> str:
    return path.replace("<test_id>", "hero-cta").replace("<run_id>", "some-run")


def check_error(answer: TestResponse, status: int, code: str | None = None, field: str | None = None) -> None:
    assert answer.status_code == status, answer.text
    check_shape(schemas.ErrorAnswer, answer.json)
    assert answer.json["error"]["message"]
    if code is not None:
        assert answer.json["error"]["code"] == code
    if field is not None:
        assert answer.json["error"]["field"] == field


@pytest.mark.parametrize("path", PATHS)
def test_a_wrong_method_names_the_right_ones(client: FlaskClient, path: str) -> None:
    allowed = {e.method for e in ENDPOINTS if e.path == path}
    for method in METHODS - allowed:
        answer = client.open(_url(path), method=method)
        check_error(answer, 405, "method_not_allowed")
        assert allowed <= {name.strip() for name in answer.headers["Allow"].split(",")}
        assert answer.headers["Allow"] in answer.json["error"]["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/api/cro",
        "/api/cro/",
        "/api/cro/overview/",
        "/api//cro/overview",
        "/api/cro/../healthz",
        "/%00",
        "/favicon.ico",
    ],
)
def test_an_unknown_address_is_404(client: FlaskClient, path: str) -> None:
    check_error(client.get(path), 404, "not_found")


@pytest.mark.parametrize("endpoint", ADMIN, ids=_name)
@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "key_missing"),
        ({"Authorization": ""}, 401, "key_missing"),
        ({"Authorization": "Bearer"}, 401, "key_missing"),
        ({"Authorization": "Bearer  "}, 401, "key_missing"),
        ({"Authorization": "Basic YTpi"}, 401, "key_missing"),
        ({"X-API-Key": " "}, 401, "key_missing"),
        ({"Authorization": "Bearer wrong"}, 403, "key_wrong"),
        ({"X-API-Key": "wrong"}, 403, "key_wrong"),
        ({"X-API-Key": "clé"}, 403, "key_wrong"),
    ],
)
def test_changing_anything_needs_the_key(
    client: FlaskClient, endpoint: Endpoint, headers: dict[str, str], status: int, code: str
) -> None:
    answer = client.open(_url(endpoint.path), method=endpoint.method, headers=headers, json={})
    check_error(answer, status, code)
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)


def test_only_reading_and_the_website_need_no_key() -> None:
    public = {e.operation_id for e in ENDPOINTS if e.access is Access.PUBLIC}
    assert public == {"get_assignments", "post_events", "get_health", "get_readiness"}
    assert all(
        e.access is Access.ADMIN for e in ENDPOINTS if e.method == "POST" and e.operation_id != "post_events"
    )
    assert all(
        e.access is Access.READ for e in ENDPOINTS if e.method == "GET" and e.operation_id not in public
    )


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_key_is_taken_as_bearer_too(client: FlaskClient, home: Home, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {home.admin_key}"}
    assert client.post("/api/cro/tests/hero-cta/end", headers=headers).status_code == 200


@pytest.mark.parametrize("endpoint", READ, ids=_name)
@pytest.mark.parametrize(
    ("base_url", "environ", "headers"),
    [
        ("http://localhost", {"REMOTE_ADDR": "192.0.2.7"}, {}),
        ("http://localhost", {"REMOTE_ADDR": ""}, {}),
        ("http://localhost", {}, {"X-Forwarded-For": "192.0.2.7"}),
        ("http://localhost", {}, {"Forwarded": "for=192.0.2.7"}),
        ("http://localhost", {}, {"X-Forwarded-Proto": "https"}),
        ("http://localhost", {}, {"CF-Connecting-IP": "192.0.2.7"}),
        ("http://rebound.example:3000", {}, {}),
        ("http://localhost.example", {}, {}),
    ],
)
def test_reading_from_elsewhere_needs_the_key(
    client: FlaskClient,
    key: dict[str, str],
    endpoint: Endpoint,
    base_url: str,
    environ: dict[str, str],
    headers: dict[str, str],
) -> None:
    asked: dict[str, Any] = {"base_url": base_url, "environ_overrides": environ}
    check_error(client.get(_url(endpoint.path), headers=headers, **asked), 401, "key_missing")
    assert client.get(_url(endpoint.path), headers={**headers, **key}, **asked).status_code in {200, 404}


@pytest.mark.parametrize(
    "base_url",
    [
        "http://localhost",
        "http://localhost:3000",
        "http://127.0.0.1:3000",
        "http://[::1]:3000",
        "http://[::1]",
    ],
)
def test_reading_on_this_machine_is_open(client: FlaskClient, base_url: str) -> None:
    address = "::1" if "[" in base_url else "127.0.0.1"
    answer = client.get("/api/cro/overview", base_url=base_url, environ_overrides={"REMOTE_ADDR": address})
    assert answer.status_code == 200


@pytest.mark.parametrize("endpoint", WITH_BODY, ids=_name)
@pytest.mark.parametrize(
    ("data", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "bad_json"),
        (b'{"a":NaN}', "application/json", 400, "bad_json"),
        (b"\xff", "application/json", 400, "bad_json"),
        (b"[" * 5000, "application/json", 400, "bad_json"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"a=1", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b"{}", None, 415, "unsupported_media_type"),
        (b"[]", "application/json", 422, "invalid_input"),
        (b"null", "application/json", 422, "invalid_input"),
        (b'"text"', "application/json", 422, "invalid_input"),
        (b'{"x": "' + b"y" * 2_000_000 + b'"}', "application/json", 413, "too_large"),
    ],
    ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else str(value),
)
def test_a_bad_body_is_refused(
    client: FlaskClient,
    key: dict[str, str],
    endpoint: Endpoint,
    data: bytes,
    content_type: str | None,
    status: int,
    code: str,
) -> None:
    check_error(
        client.post(_url(endpoint.path), data=data, content_type=content_type, headers=key), status, code
    )


@pytest.mark.parametrize("path", ["/api/cro/orchestrate", "/api/cro/ml/train"])
def test_a_body_where_none_belongs_is_refused(client: FlaskClient, key: dict[str, str], path: str) -> None:
    check_error(client.post(path, json={"wait": 1}, headers=key), 422, "invalid_input", "body")
    check_error(client.post(path + "?wait=yes", headers=key), 422, "invalid_input", "wait")


@pytest.mark.parametrize("endpoint", [e for e in ENDPOINTS if e.operation_id != "post_events"], ids=_name)
def test_an_unknown_parameter_is_refused_by_name(
    client: FlaskClient, key: dict[str, str], endpoint: Endpoint
) -> None:
    answer = client.open(_url(endpoint.path) + "?nonsense=1", method=endpoint.method, headers=key)
    check_error(answer, 422, "invalid_input")
    assert "nonsense" in answer.json["error"]["message"]


@pytest.mark.parametrize("limit", ["0", "-1", "201", "ten", "1.5", "", "1e2"])
@pytest.mark.parametrize("path", ["/api/cro/decisions", "/api/cro/recent-winners"])
def test_a_limit_has_bounds(client: FlaskClient, path: str, limit: str) -> None:
    check_error(client.get(f"{path}?limit={limit}"), 422, "invalid_input", "limit")


@pytest.mark.parametrize(
    "path",
    [
        "/api/cro/tests/no-such/end",
        "/api/cro/tests/a%20b/end",
        "/api/cro/tests/%00/end",
        "/api/cro/tests/" + "x" * 500 + "/end",
    ],
)
def test_what_does_not_exist_is_404(client: FlaskClient, key: dict[str, str], path: str) -> None:
    check_error(client.post(path, headers=key), 404, "not_found")


def _kinds(kind: type[core.CroError]) -> list[type[core.CroError]]:
    return [kind, *(k for child in kind.__subclasses__() for k in _kinds(child))]


@pytest.mark.parametrize("kind", _kinds(core.CroError), ids=lambda kind: kind.__name__)
def test_every_error_of_the_core_has_a_status(
    app: Flask, client: FlaskClient, kind: type[core.CroError], monkeypatch: pytest.MonkeyPatch
) -> None:
    error: core.CroError = kind("the reason", notebook="/n") if kind is core.RunFailed else kind("the reason")  # type: ignore[call-arg]

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("service.routes.reads.views.overview", fail)
    expected = next((status for known, status in STATUSES.items() if issubclass(kind, known)), 500)
    answer = client.get("/api/cro/overview")
    check_error(answer, expected, kind.code if expected != 500 else "internal_error")
    assert ("the reason" in answer.text) == (expected < 500)


def test_a_surprise_is_logged_under_its_request_and_shown_to_nobody(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("service.routes.visitors.assign_visitor", fail)
    answer = client.get("/api/cro/assignments?visitor=visitor-4711")
    check_error(answer, 500, "internal_error")
    assert "secret detail" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["X-Request-Id"] in answer.json["error"]["message"]
    logged = caplog.text
    assert answer.headers["X-Request-Id"] in logged
    assert "secret detail" in logged
    assert "visitor-4711" not in logged
    assert "127.0.0.1" not in logged


@both_ways
def test_a_store_that_does_not_answer_is_503_and_keeps_its_parameters_to_itself(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise sa.exc.OperationalError("INSERT ...", {"city": "Lyon-4711"}, Exception("database is locked"))

    monkeypatch.setattr("service.routes.visitors.ingest", fail)
    answer = client.post("/api/cro/events", json={"event_type": "phone_click", "user_id": "v"})
    check_error(answer, 503, "store_error")
    assert answer.headers["Retry-After"] == "5"
    assert "locked" not in answer.text
    assert "locked" in caplog.text
    assert "Lyon-4711" not in caplog.text


@both_ways
def test_a_store_that_another_process_holds_is_503_and_then_works(
    template: Path, tmp_path: Path, make_app: Callable[[Home], Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cro_core.storage.group_commit.PATIENCE", 0.1)
    shutil.copytree(template, tmp_path / "held")
    home = open_home(tmp_path / "held")
    client = make_app(home).test_client()
    event = {"event_type": "phone_click", "user_id": "v"}
    with closing(sqlite3.connect(home.data / "cro.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        check_error(client.post("/api/cro/events", json=event), 503, "store_error")
        assert client.get("/api/cro/assignments?visitor=v").status_code == 200
        other.execute("ROLLBACK")
    assert client.post("/api/cro/events", json=event).json["accepted"] == 1
    assert stored_events(home) == 1
    home.db.close()


@both_ways
def test_a_value_the_store_refuses_is_422(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise sa.exc.DataError("INSERT ...", {}, Exception("integer out of range"))

    monkeypatch.setattr("service.routes.visitors.ingest", fail)
    check_error(client.post("/api/cro/events", json={}), 422, "invalid_input")


def test_the_key_is_never_logged(client: FlaskClient, home: Home, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {"Authorization": f"Bearer {home.admin_key}"}
    client.post("/api/cro/tests", json={}, headers=headers)
    client.post("/api/cro/tests", json={}, headers={"X-API-Key": home.admin_key + "x"})
    assert home.admin_key not in caplog.text


def test_the_key_of_the_environment_wins(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRO_ADMIN_KEY", "from-the-environment")
    client = create_app(home).test_client()
    path = "/api/cro/tests/hero-cta/end"
    check_error(client.post(path, headers={"X-API-Key": home.path.name}), 403)
    assert client.post(path, headers={"X-API-Key": "from-the-environment"}).status_code == 200
