"""The document: valid, complete, true to the code, and to the running service by schemathesis."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from helpers.service_samples import Server
from jsonschema import Draft202012Validator

from cro_core.home import Home
from service.app import create_app
from service.auth import Access
from service.routes import SECTIONS

ENDPOINTS = [endpoint for section in SECTIONS for endpoint in section.endpoints]


@pytest.fixture
def document(client: FlaskClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/api/openapi.json").json
    return found


def _operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {op["operationId"]: op for item in document["paths"].values() for op in item.values()}


def _errors(document: dict[str, Any], schema: dict[str, Any], value: Any) -> list[str]:
    # References are resolved from the root, which is the schema itself: so it gets the components.
    rooted = {**schema, "components": document["components"]}
    return [error.message for error in Draft202012Validator(rooted).iter_errors(value)]


def test_every_route_is_described_and_nothing_else(app: Flask, document: dict[str, Any]) -> None:
    served = {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    assert served - described == {("/api/openapi.json", "GET"), ("/metrics", "GET")}
    assert described <= served


def test_it_is_openapi_3_1_with_valid_schemas(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    references = re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document))
    assert references
    for reference in references:
        node: Any = document
        for part in reference.split("/"):
            node = node[part]


def test_every_operation_tells_its_purpose_answers_errors_and_key(document: dict[str, Any]) -> None:
    operations = _operations(document)
    assert len(operations) == len(ENDPOINTS)
    for endpoint in ENDPOINTS:
        operation = operations[endpoint.operation_id]
        assert operation["summary"].endswith((".", "?"))
        assert {"500", "503"} < set(operation["responses"])
        assert any(status.startswith("2") for status in operation["responses"])
        protected = {"401", "403"} <= set(operation["responses"])
        assert protected == (endpoint.access is not Access.PUBLIC)
        assert ("429" in operation["responses"]) == endpoint.limited
        assert (operation["security"] == []) == (endpoint.access is Access.PUBLIC)


def _examples(operation: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Pairs of schema and example, of what it takes and gives."""
    contents = [r["content"] for r in operation["responses"].values() if "content" in r]
    contents += [operation["requestBody"]["content"]] if "requestBody" in operation else []
    found = []
    for media in (media for content in contents for media in content.values()):
        examples = [example["value"] for example in media.get("examples", {}).values()]
        examples += [media["example"]] if "example" in media else []
        assert examples, operation["operationId"]
        found += [(media["schema"], example) for example in examples]
    return found


def test_every_example_fits_its_schema(document: dict[str, Any]) -> None:
    for operation in _operations(document).values():
        for schema, example in _examples(operation):
            errors = _errors(document, schema, example)
            assert not errors, (operation["operationId"], errors)


def test_the_example_of_an_experiment_and_its_events_work(
    client: FlaskClient, document: dict[str, Any], key: dict[str, str]
) -> None:
    client.post("/api/cro/tests/hero-cta/end", headers=key)
    experiment = document["paths"]["/api/cro/tests"]["post"]["requestBody"]["content"]["application/json"][
        "example"
    ]
    assert (
        client.post("/api/cro/tests", json={**experiment, "test_id": "example"}, headers=key).status_code
        == 201
    )
    examples = document["paths"]["/api/cro/events"]["post"]["requestBody"]["content"]["text/plain"][
        "examples"
    ]
    for example in examples.values():
        text = (
            json.dumps(example["value"])
            .replace("hero-cta", "example")
            .replace("2026-03-02T09:30:05Z", "2026-03-02T10:00:05Z")
        )
        assert client.post("/api/cro/events", data=text).json["rejected"] == []


def test_the_limits_of_the_home_are_told(careful_home: Home) -> None:
    description = create_app(careful_home).test_client().get("/api/openapi.json").json["info"]["description"]
    assert "2,000 bytes" in description
    assert "3 events" in description


def test_it_is_the_same_each_time(client: FlaskClient) -> None:
    assert client.get("/api/openapi.json").data == client.get("/api/openapi.json").data


@pytest.mark.sizes((2, "examples,fuzzing,stateful"), (15, "examples,coverage,fuzzing,stateful"))
def test_schemathesis_finds_no_violation(server: Server, tmp_path: Path, size: tuple[int, str]) -> None:
    """All checks against the real server, at full size in all phases."""
    examples, phases = size
    command = [
        *(
            str(Path(sys.executable).with_name("schemathesis")),
            "--config-file",
            str(Path(__file__).with_name("schemathesis.toml")),
        ),
        *(
            "run",
            f"http://127.0.0.1:{server.port}/api/openapi.json",
            "--checks",
            "all",
            "--max-examples",
            str(examples),
            "--phases",
            phases,
        ),
        *("--seed", "20260302", "--generation-database", "none", "--no-color", "--continue-on-failure"),
    ]
    environment = {**os.environ, "CRO_ADMIN_KEY": server.home.admin_key}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "Stateful" in done.stdout
    assert server.call("GET", "/healthz")[0] == 200
