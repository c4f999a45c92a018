"""The OpenAPI 3.1 document, written from the declarations of the endpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

import cro_core
from cro_core.config import Service
from cro_core.domain import KEY
from service.auth import Access
from service.endpoints import ApiSection, Endpoint, NoQuery, RawBody, Reply
from service.schemas import ErrorAnswer

REF = "#/components/schemas/"

Schema = dict[str, Any]
Key = tuple[type[BaseModel], JsonSchemaMode]
Refs = Mapping[Any, Schema]
"""A reference to the component of each model and mode."""

ERRORS: Mapping[int, str] = {
    400: "The body or the request cannot be read.",
    401: "The admin key is missing.",
    403: "The key is wrong.",
    404: "What is named does not exist.",
    409: "What is named exists, but its state forbids this.",
    413: "The body is too large.",
    415: "The body is of another kind than JSON.",
    422: "A value is refused; `field` names it.",
    429: "Too many requests of this client or key: wait `Retry-After` seconds.",
    500: "The service failed; its log tells why, under the `X-Request-Id` of the answer.",
    503: "The store did not answer, or too much waits for it: send it again after `Retry-After`; events with an id count once.",
}

WAITING = (429, 503)
RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
}

SECURITY: Mapping[Access, list[dict[str, list[str]]]] = {
    Access.PUBLIC: [],
    Access.READ: [{}, {"bearer": []}, {"api_key": []}],
    Access.ADMIN: [{"bearer": []}, {"api_key": []}],
}

DESCRIPTION = """\
Assign visitors, take in what they do, and see what the autopilot decided.

* Rates and shares are fractions, times are ISO 8601 in UTC, `null` means "not known".
* Every error is `{{"error": {{"code", "message", "field"}}}}`; every answer carries an `X-Request-Id`.
* The website calls `assignments` and `events` without a key, from any origin. Everything that changes
  something else needs the admin key. Reading is open on the machine itself and needs the key from elsewhere.
* A body may have {max_body_bytes:,} bytes and a request {max_events_per_request:,} events."""


def document(sections: Sequence[ApiSection], limits: Service) -> dict[str, Any]:
    """The document of these sections under these limits."""
    endpoints = [endpoint for section in sections for endpoint in section.endpoints]
    refs, schemas = _schemas(endpoints)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(_template(endpoint.path), {})[endpoint.method.lower()] = _operation(
            endpoint, refs, schemas
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "CRO Intelligence",
            "version": cro_core.__version__,
            "description": DESCRIPTION.format(**limits.model_dump()),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": s.name, "description": s.description} for s in sections],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {str(status): _error(status, refs) for status in ERRORS},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "The admin key of the home."},
                "api_key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-API-Key",
                    "description": "The same key.",
                },
            },
        },
    }


def _schemas(endpoints: Sequence[Endpoint]) -> tuple[Refs, dict[str, Schema]]:
    """A reference for each model in the mode it is used in, and the components they refer to."""
    wanted = dict.fromkeys(key for endpoint in endpoints for key in _models(endpoint))
    refs, definitions = models_json_schema(
        [*wanted, (ErrorAnswer, "serialization")], ref_template=REF + "{model}"
    )
    components: dict[str, Schema] = definitions.get("$defs", {})
    return refs, dict(sorted(components.items()))


def _models(endpoint: Endpoint) -> Iterator[Key]:
    for reply in endpoint.replies.values():
        yield reply.model, "serialization"
    if isinstance(endpoint.body, RawBody):
        for model in endpoint.body.models:
            yield model, "validation"
    elif endpoint.body is not None:
        yield endpoint.body, "validation"


def _template(path: str) -> str:
    """Flask's ``<name>`` as OpenAPI's ``{name}``."""
    return re.sub(r"<(\w+)>", r"{\1}", path)


def _operation(endpoint: Endpoint, refs: Refs, schemas: Mapping[str, Schema]) -> dict[str, Any]:
    summary, _, description = (endpoint.view.__doc__ or "").strip().partition("\n")
    operation: dict[str, Any] = {
        "operationId": endpoint.operation_id,
        "tags": [endpoint.tag],
        "summary": summary,
        "description": re.sub(r"\n +", "\n", description).strip(),
        "parameters": [*_path_parameters(endpoint), *_query_parameters(endpoint)],
        "responses": {
            **{str(status): _reply(reply, refs, schemas) for status, reply in endpoint.replies.items()},
            **{
                str(status): {"$ref": f"#/components/responses/{status}"}
                for status in _error_statuses(endpoint)
            },
        },
        "security": SECURITY[endpoint.access],
    }
    if endpoint.body is not None:
        operation["requestBody"] = _request_body(endpoint, refs, schemas)
    return operation


def _error_statuses(endpoint: Endpoint) -> list[int]:
    """Lists the statuses that are declared and those that follow from the declaration."""
    statuses = {500, 503, *endpoint.errors}
    if endpoint.limited:
        statuses.add(429)
    if endpoint.access is not Access.PUBLIC:
        statuses |= {401, 403}
    if "<" in endpoint.path:
        statuses.add(404)
    if endpoint.method == "POST":
        statuses |= {400, 413, 415, 422}
    if endpoint.query is not NoQuery:
        statuses.add(422)
    return sorted(statuses - set(endpoint.replies))


def _path_parameters(endpoint: Endpoint) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"<(\w+)>", endpoint.path):
        yield {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": f"^{KEY.pattern}$"},
            **({"example": endpoint.path_examples[name]} if name in endpoint.path_examples else {}),
        }


def _query_parameters(endpoint: Endpoint) -> Iterator[dict[str, Any]]:
    schema = endpoint.query.model_json_schema()
    for name, declared in schema.get("properties", {}).items():
        described = {
            key: value for key, value in declared.items() if key not in {"title", "description", "examples"}
        }
        yield {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", []),
            "description": declared.get("description", ""),
            "schema": _with_text_default(described),
            **({"example": declared["examples"][0]} if "examples" in declared else {}),
        }


def _with_text_default(schema: Schema) -> Schema:
    """A switch is text in a query string, and so is its default."""
    if isinstance(schema.get("default"), bool):
        return {**schema, "default": "1" if schema["default"] else "0"}
    return schema


def _request_body(endpoint: Endpoint, refs: Refs, schemas: Mapping[str, Schema]) -> dict[str, Any]:
    if isinstance(endpoint.body, RawBody):
        media: dict[str, Any] = {
            "schema": dict(endpoint.body.schema),
            "examples": _examples(endpoint.body.examples),
        }
        return {"required": True, "content": dict.fromkeys(endpoint.body.media_types, media)}
    if endpoint.body is None:
        raise TypeError(f"{endpoint.operation_id} has no body")
    media = _json_media(refs[endpoint.body, "validation"], schemas)
    return {"required": not endpoint.body_optional, "content": {"application/json": media}}


def _examples(examples: Mapping[str, Any]) -> dict[str, Any]:
    return {name: {"value": value} for name, value in examples.items()}


def _reply(reply: Reply, refs: Refs, schemas: Mapping[str, Schema]) -> dict[str, Any]:
    media = _json_media(refs[reply.model, "serialization"], schemas)
    answer: dict[str, Any] = {"description": reply.description, "content": {"application/json": media}}
    if reply.headers:
        answer["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in reply.headers.items()
        }
    if reply.links:
        answer["links"] = dict(reply.links)
    return answer


def _json_media(ref: Schema, schemas: Mapping[str, Schema]) -> dict[str, Any]:
    """A media type with the example that its model carries."""
    examples = schemas[ref["$ref"].removeprefix(REF)].get("examples", [])
    return {"schema": ref, **({"example": examples[0]} if examples else {})}


def _error(status: int, refs: Refs) -> dict[str, Any]:
    schema = refs[ErrorAnswer, "serialization"]
    answer = {"description": ERRORS[status], "content": {"application/json": {"schema": schema}}}
    return {**answer, "headers": RETRY_AFTER} if status in WAITING else answer
