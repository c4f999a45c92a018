"""How an endpoint is declared: once, for Flask and for the OpenAPI document alike.

Plain Flask and pydantic instead of flask-openapi3: that library parses a body by its Content-Type only
(a browser's beacon is ``text/plain``), answers every fault of a body as one 422, puts its own error model
into each operation, rebuilds the JSON schema of a query model on each request, and doubles the processor
time of the import. What it would save is this module and :mod:`service.openapi`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Blueprint, Response, current_app, request
from pydantic import BaseModel, ConfigDict

from cro_core.domain import KEY
from cro_core.errors import NotFound
from cro_core.home import Home
from service import auth
from service.answers import Answer, respond
from service.auth import Access
from service.error_answers import HttpRefusal
from service.request_bodies import parse_body, parse_query

PREFIX = "/api/cro"


class NoQuery(BaseModel):
    """The query of an endpoint that takes none: anything is refused by name."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Reply:
    """One kind of successful answer, for the document."""

    model: type[BaseModel]
    description: str
    links: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Name -> description of headers beyond the usual."""


@dataclass(frozen=True, slots=True)
class RawBody:
    """A body that the view reads itself: only its description is here."""

    schema: Mapping[str, Any]
    examples: Mapping[str, Any]
    media_types: tuple[str, ...] = ("application/json",)
    models: tuple[type[BaseModel], ...] = ()
    """Models that the schema refers to."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path."""

    method: str
    path: str
    """Path with the prefix, as Flask writes it: ``/api/cro/tests/<test_id>/end``."""
    view: Callable[..., Answer]
    tag: str
    operation_id: str
    access: Access
    replies: Mapping[int, Reply]
    errors: tuple[int, ...] = ()
    """Statuses it answers beyond those that follow from the rest of the declaration."""
    query: type[BaseModel] = NoQuery
    body: type[BaseModel] | RawBody | None = None
    body_optional: bool = False
    path_examples: Mapping[str, str] = field(default_factory=dict)
    limited: bool = True
    """Whether its requests count against the limits of a client."""
    cross_origin: bool = False
    """Whether pages of any other origin may call it and read the answer."""


class ApiSection:
    """The endpoints of one tag, as a blueprint that remembers what was declared."""

    def __init__(self, name: str, description: str, prefix: str = PREFIX) -> None:
        self.name = name
        self.description = description
        self.prefix = prefix
        self.blueprint = Blueprint(name, __name__)
        self.endpoints: list[Endpoint] = []

    def get(self, path: str, **declared: Any) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
        """Declares a GET; see :class:`Endpoint` for the keywords."""
        return self._declare("GET", path, declared)

    def post(self, path: str, **declared: Any) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
        """Declares a POST; see :class:`Endpoint` for the keywords."""
        return self._declare("POST", path, declared)

    def _declare(
        self, method: str, path: str, declared: Mapping[str, Any]
    ) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
        def declare(view: Callable[..., Answer]) -> Callable[..., Answer]:
            name = view.__name__
            endpoint = Endpoint(method, self.prefix + path, view, self.name, name, **declared)
            self.endpoints.append(endpoint)
            self.blueprint.add_url_rule(endpoint.path, name, _handler(endpoint), methods=[method])
            return view

        return declare


def current_home() -> Home:
    """The home of the app that answers the current request."""
    home: Home = current_app.extensions["cro_home"]
    return home


def _handler(endpoint: Endpoint) -> Callable[..., Response]:
    """What Flask calls: permission, then the parts of the request, then the view."""

    def handle(**path: str) -> Response:
        home = current_home()
        auth.check(endpoint.access, request, home)
        _check_path(path)
        arguments: dict[str, Any] = dict(path)
        query = parse_query(request, endpoint.query)
        if endpoint.query is not NoQuery:
            arguments["query"] = query
        if isinstance(endpoint.body, type):
            arguments["body"] = parse_body(request, endpoint.body, optional=endpoint.body_optional)
        elif endpoint.body is None and endpoint.method == "POST":
            _check_no_body()
        return respond(endpoint.view(home, **arguments))

    return handle


def _check_path(path: Mapping[str, str]) -> None:
    for name, value in path.items():
        if not KEY.fullmatch(value):
            raise NotFound(f"{name} {value[:100]!r} does not exist here: ids are made of A-Z a-z 0-9 . _ : -")


def _check_no_body() -> None:
    if request.get_data(cache=False).strip() not in (b"", b"{}"):
        raise HttpRefusal(422, "invalid_input", "this takes no body: leave it out", field="body")
