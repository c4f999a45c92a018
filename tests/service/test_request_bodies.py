"""What a client sent, as it is read: no deeper than agreed, and without characters that no store can hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, request
from flask.testing import FlaskClient
from helpers.service_samples import BROWSER, both_ways

from cro_core.home import Home
from cro_core.storage import schema
from service.error_answers import HttpRefusal
from service.request_bodies import MAX_DEPTH, parse_json

EVENTS = "/api/cro/events"


def read(body: bytes) -> Any:
    with Flask("reading").test_request_context("/", method="POST", data=body):
        return parse_json(request)


def nested(kind: str, depth: int) -> bytes:
    opening, closing = {"lists": ("[", "]"), "objects": ('{"a":', "}"), "both": ('[{"a":', "}]")}[kind]
    layers = depth // 2 if kind == "both" else depth
    return (opening * layers + "1" + closing * layers).encode()


@pytest.mark.parametrize("kind", ["lists", "objects", "both"])
def test_the_deepest_body_that_is_read(kind: str) -> None:
    """The body itself, and as many levels inside it."""
    deepest = nested(kind, MAX_DEPTH + 1)
    assert read(deepest) == json.loads(deepest)


@pytest.mark.parametrize("kind", ["lists", "objects", "both"])
@pytest.mark.parametrize("more", [2, 10, 300, 200_000])
def test_a_deeper_body_is_refused_by_name(kind: str, more: int) -> None:
    with pytest.raises(HttpRefusal, match=f"nested more than {MAX_DEPTH} levels deep") as refused:
        read(nested(kind, MAX_DEPTH + more))
    assert (refused.value.status, refused.value.code) == (400, "bad_json")


def test_depth_is_counted_on_every_branch() -> None:
    deep = json.loads(nested("lists", MAX_DEPTH))
    body = json.dumps({"first": 1, "flat": [[], {}], "deep": [deep]}).encode()
    with pytest.raises(HttpRefusal, match="levels deep"):
        read(body)
    assert read(json.dumps([1] * 10_000).encode()) == [1] * 10_000


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (r'"a\u0000b"', "a\ufffdb"),
        (r'"\ud800"', "\ufffd"),
        (r'"\udfff tail"', "\ufffd tail"),
        (r'"\udf89\ud83c"', "\ufffd\ufffd"),
        (r'"\ud83c\udf89"', "🎉"),
        (r'"\u00e9\n"', "é\n"),
        (r'{"\u0000": 1, "k": ["\ud800", {"\udc00": "\u0000"}]}', {"\ufffd": 1, "k": ["\ufffd", {"\ufffd": "\ufffd"}]}),
        (r'[1, null, true, 0.5, "\u0000"]', [1, None, True, 0.5, "\ufffd"]),
    ],
)  # fmt: skip
def test_what_no_store_can_hold_becomes_the_replacement_character(written: str, value: Any) -> None:
    assert read(written.encode()) == value


@both_ways
def test_stored_is_the_replacement_character(client: FlaskClient, home: Home) -> None:
    body = (
        r'{"event_type":"phone_click","user_id":"a\u0000b","city":"\ud800","properties":{"\u0000":"\udfff"}}'
    )
    assert client.post(EVENTS, data=body.encode()).json["accepted"] == 1
    with home.db.read() as connection:
        (row,) = connection.execute(sa.select(schema.events)).mappings()
    assert row["city"] == "\ufffd"
    assert row["properties"] == {"\ufffd": "\ufffd"}


def test_a_visitor_is_the_same_in_a_query_and_in_a_body(client: FlaskClient) -> None:
    """Ids that a store cannot hold become the same id, so they get the same variant."""
    seen = set()
    for number in range(12):
        plain, odd = (
            client.get(
                "/api/cro/assignments", query_string={"visitor": visitor}, headers={"User-Agent": BROWSER}
            ).json
            for visitor in (f"\ufffd{number}", f"\0{number}")
        )
        variants = [answer["experiments"][0]["variant_id"] for answer in (plain, odd)]
        assert variants[0] == variants[1]
        seen.add(variants[0])
    assert len(seen) > 1
