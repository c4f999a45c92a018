"""The factory, what it costs, and what every answer carries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from helpers.service_samples import check_shape

from cro_core.errors import ConfigError, NotFound
from cro_core.home import Home
from service import schemas
from service.app import create_app

HEAVY = {
    "numpy",
    "scipy",
    "pandas",
    "sklearn",
    "pingouin",
    "papermill",
    "nbformat",
    "nbconvert",
    "tqdm",
    "PIL",
    "alembic",
    "matplotlib",
    "granian",
}


def _run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_and_creating_loads_nothing_heavy(home: Home) -> None:
    loaded = _run(
        "import sys, service.server, service.app, service.fast_path\n"
        "app = service.fast_path.with_fast_path(service.app.create_app(sys.argv[1]))\n"
        "event = {'event_type': 'phone_click', 'user_id': 'v'}\n"
        "assert app.test_client().post('/api/cro/events', json=event).json['accepted'] == 1\n"
        "app.test_client().get('/api/cro/overview')\n"
        "app.test_client().get('/api/openapi.json')\n"
        "print(*{name.partition('.')[0] for name in sys.modules})",
        str(home.path),
    )
    assert not HEAVY & set(loaded.split())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to read the memory")
def test_importing_is_light() -> None:
    """No time is asserted, since machines differ; memory and modules say the same."""
    kilobytes, modules = _run(
        # Not getrusage: its figure begins with what the parent had.
        "import re, sys, pathlib, service.app\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', status)[1], len(sys.modules))"
    ).split()
    assert int(kilobytes) < 80_000
    assert int(modules) < 700


def test_importing_needs_no_home(tmp_path: Path) -> None:
    _run(
        "import os, sys; os.chdir(sys.argv[1]); import service.app, service.server; print(os.listdir())",
        str(tmp_path),
    )
    assert list(tmp_path.iterdir()) == []


def test_the_factory_takes_a_path_and_refuses_what_is_no_home(home: Home, tmp_path: Path) -> None:
    assert create_app(str(home.path)).test_client().get("/healthz").status_code == 200
    with pytest.raises(NotFound, match="cro init"):
        create_app(tmp_path)
    (home.path / "cro-config.json").write_text('{"automation": {"enabled": 3}}')
    with pytest.raises(ConfigError, match=r"automation\.enabled"):
        create_app(home.path)


def test_a_home_without_secrets_is_refused_at_the_start(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    (home.data / "secrets.json").unlink()
    with pytest.raises(NotFound, match=r"secrets\.json"):
        create_app(home.path)


def test_the_wsgi_module_serves_the_home_of_the_environment(home: Home) -> None:
    code = (
        "import os, sys\nos.environ['CRO_HOME'] = sys.argv[1]\nfrom service.wsgi import app\n"
        "print(app.test_client().get('/api/cro/overview').json['site'], type(app.wsgi_app).__name__)"
    )
    assert _run(code, str(home.path)).strip() == "My site FastPath"


def test_two_apps_keep_to_their_homes(home: Home, careful_home: Home) -> None:
    first, second = create_app(home).test_client(), create_app(careful_home).test_client()
    first.post("/api/cro/events", json={"event_type": "phone_click", "user_id": "v"})
    nothing = {"accepted": 0, "duplicate": 0, "rejected": 0, "opted_out": 0}
    assert first.get("/api/cro/overview").json["events"] == {**nothing, "accepted": 1}
    assert second.get("/api/cro/overview").json["events"] == nothing


def test_health_tells_the_clock_of_the_home(client: FlaskClient) -> None:
    answer = client.get("/healthz")
    check_shape(schemas.HealthAnswer, answer.json)
    assert answer.json["now"] == "2026-03-02T10:00:00Z"


def test_health_tells_of_the_process_and_not_of_the_store(client: FlaskClient, home: Home) -> None:
    (home.data / "cro.sqlite").unlink()
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "path", ["/healthz", "/api/cro/overview", "/api/cro/assignments?visitor=v", "/nowhere"]
)
def test_every_answer_carries_the_security_headers(client: FlaskClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Type"] == "application/json"
    assert len(headers["X-Request-Id"]) == 16
    assert "Set-Cookie" not in headers


def test_request_ids_differ(client: FlaskClient) -> None:
    assert len({client.get("/healthz").headers["X-Request-Id"] for _ in range(20)}) == 20


@pytest.mark.parametrize("sent", ["a", "x" * 64, "0198c7d2-1.a_b"])
def test_a_request_id_is_taken_over(client: FlaskClient, sent: str) -> None:
    assert client.get("/healthz", headers={"X-Request-Id": sent}).headers["X-Request-Id"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 65, "a b", "a\tb", "é", "a/b", '"', "${jndi:x}"])
def test_what_is_no_request_id_is_replaced(client: FlaskClient, sent: str) -> None:
    made = client.get("/healthz", headers={"X-Request-Id": sent}).headers["X-Request-Id"]
    assert len(made) == 16


def test_answers_are_utf8_and_ordered_as_written(
    app: Flask, client: FlaskClient, key: dict[str, str]
) -> None:
    body = {
        "test_id": "cafe",
        "name": "Café 🎉",
        "variants": [{"variant_id": "b"}, {"variant_id": "a"}],
    }
    answer = client.post("/api/cro/tests", json=body, headers=key)
    assert "Café 🎉" in answer.text
    assert list(answer.json)[:2] == ["test_id", "name"]
