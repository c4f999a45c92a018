"""What the website calls: assignments and events."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from flask.testing import FlaskClient
from service_samples import BROWSER, CRAWLER, check_shape, exposure, make_home, stored_events
from sqlalchemy import select

from cro_core.home import Home
from cro_core.storage import schema
from service import schemas
from service.app import create_app

EVENTS = "/api/cro/events"


def _assign(client: FlaskClient, query: str = "visitor=v1", **headers: str) -> dict[str, Any]:
    answer = client.get(f"/api/cro/assignments?{query}", headers={"User-Agent": BROWSER, **headers})
    assert answer.status_code == 200
    check_shape(schemas.AssignmentsAnswer, answer.json)
    found: dict[str, Any] = answer.json["experiments"][0]
    return found


def test_an_assignment_is_stable_and_complete(client: FlaskClient) -> None:
    first = _assign(client)
    assert first == _assign(client)
    assert first["counted"] is True
    assert first["config"]["text"] in {"Request a quote", "Call now"}
    assert (first["epoch"], first["propensity"]) == (0, 0.5)


@pytest.mark.parametrize(
    ("asked", "posted"), [("%20v1%20", "v1"), ("v1", " v1\n"), ("a%00b", "a\0b"), ("42", 42)]
)
def test_an_id_is_one_visitor_in_a_query_and_in_an_event(
    client: FlaskClient, asked: str, posted: Any
) -> None:
    other = {"control": "call", "call": "control"}[_assign(client, f"visitor={asked}")["variant_id"]]
    assert client.post(EVENTS, json=exposure(posted, other)).json["accepted"] == 1
    again = _assign(client, f"visitor={asked}")
    assert (again["variant_id"], again["reason"]) == (other, "exposed")


def test_visitors_are_split_by_the_shares(client: FlaskClient) -> None:
    split = Counter(_assign(client, f"visitor=v{n}")["variant_id"] for n in range(300))
    assert 120 < split["control"] < 180


def test_an_exposed_visitor_keeps_what_it_saw(client: FlaskClient) -> None:
    shown = _assign(client)["variant_id"]
    other = {"control": "call", "call": "control"}[shown]
    client.post(EVENTS, json=exposure("v1", other))
    again = _assign(client)
    assert (again["variant_id"], again["reason"]) == (other, "exposed")


@pytest.mark.parametrize("query", ["visitor=v1&opted_out=1", "visitor=v1&opted_out=true"])
def test_who_opts_out_gets_the_control_uncounted(client: FlaskClient, query: str) -> None:
    answer = _assign(client, query)
    assert (answer["variant_id"], answer["counted"], answer["reason"]) == ("control", False, "opted_out")


def test_global_privacy_control_is_honoured(client: FlaskClient) -> None:
    assert _assign(client, **{"Sec-GPC": "1"})["reason"] == "opted_out"
    assert _assign(client, **{"Sec-GPC": "0"})["reason"] == "assigned"
    assert _assign(client, "visitor=v1&opted_out=0")["reason"] == "assigned"


def test_global_privacy_control_can_be_relaxed(tmp_path: Any) -> None:
    home = make_home(tmp_path / "relaxed", {"privacy": {"honour_global_privacy_control": False}})
    client = create_app(home).test_client()
    assert _assign(client, **{"Sec-GPC": "1"})["reason"] == "assigned"
    client.post(EVENTS, json=exposure(), headers={"Sec-GPC": "1"})
    assert stored_events(home) == 1
    home.db.close()


def test_a_bot_gets_the_control_uncounted(client: FlaskClient) -> None:
    assert _assign(client, **{"User-Agent": CRAWLER})["reason"] == "bot"


def test_nothing_is_stored_for_who_opted_out(client: FlaskClient, home: Home) -> None:
    for query, headers in (("?opted_out=1", {}), ("", {"Sec-GPC": "1"})):
        answer = client.post(EVENTS + query, json=[exposure()], headers=headers)
        assert answer.status_code == 202
        check_shape(schemas.EventsAnswer, answer.json)
        assert answer.json == {"accepted": 0, "duplicates": 0, "rejected": [], "not_stored": 1}
    assert stored_events(home) == 0
    assert client.get("/api/cro/overview").json["events"]["opted_out"] == 2


def test_the_user_agent_reaches_the_store_as_device_and_bot_only(client: FlaskClient, home: Home) -> None:
    client.post(EVENTS, json=exposure("v1", id="1"), headers={"User-Agent": BROWSER})
    client.post(EVENTS, json=exposure("v2", id="2"), headers={"User-Agent": CRAWLER})
    with home.db.read() as connection:
        rows = connection.execute(select(schema.events).order_by(schema.events.c.id)).mappings().all()
    assert [(row["device"], row["bot"]) for row in rows] == [("desktop", False), (None, True)]
    assert "Mozilla" not in str(rows)
    assert "127.0.0.1" not in str(rows)


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "text/plain;charset=UTF-8", "image/png", None]
)
@pytest.mark.parametrize("shape", ["one", "array", "wrapped"])
def test_three_shapes_under_any_content_type(
    client: FlaskClient, shape: str, content_type: str | None
) -> None:
    event = exposure(id="e")
    body = {"one": event, "array": [event], "wrapped": {"events": [event]}}[shape]
    answer = client.post(EVENTS, data=json.dumps(body), content_type=content_type)
    assert answer.status_code == 202
    check_shape(schemas.EventsAnswer, answer.json)
    assert answer.json == {"accepted": 1, "duplicates": 0, "rejected": []}


def test_a_form_content_type_loses_nothing(client: FlaskClient) -> None:
    """curl says this of every body unless told otherwise."""
    answer = client.post(
        EVENTS, data=json.dumps(exposure()), content_type="application/x-www-form-urlencoded"
    )
    assert answer.json["accepted"] == 1


def test_an_event_counts_once(client: FlaskClient, home: Home) -> None:
    event = exposure(id="same")
    assert client.post(EVENTS, json=event).json == {"accepted": 1, "duplicates": 0, "rejected": []}
    assert client.post(EVENTS, json=[event, event]).json == {"accepted": 0, "duplicates": 2, "rejected": []}
    assert stored_events(home) == 1


def test_the_good_are_stored_and_the_bad_named(client: FlaskClient, home: Home) -> None:
    answer = client.post(
        EVENTS, json=[exposure("a"), {"event_type": "phone_click"}, exposure("b"), 7, exposure("c", "nope")]
    )
    assert answer.status_code == 202
    assert answer.json["accepted"] == 2
    assert [r["index"] for r in answer.json["rejected"]] == [1, 3, 4]
    assert answer.json["rejected"][0]["error"] == "user_id is missing"
    assert stored_events(home) == 2


@pytest.mark.parametrize("body", [[], {"events": []}])
def test_no_events_are_no_fault(client: FlaskClient, body: Any) -> None:
    assert client.post(EVENTS, json=body).json == {"accepted": 0, "duplicates": 0, "rejected": []}


ODD = {
    "a lone surrogate": '{"event_type":"phone_click","user_id":"a","city":"\\ud800"}',
    "a lone surrogate in a name": '{"event_type":"phone_click","user_id":"a","properties":{"\\udfff":1}}',
    "NUL": '{"event_type":"phone_click","user_id":"a\\u0000b","id":"\\u0000","city":"\\u0000"}',
    "an emoji as a pair": '{"event_type":"phone_click","user_id":"\\ud83c\\udf89"}',
    "a byte order mark": '\ufeff{"event_type":"phone_click","user_id":"a"}',
    "a huge whole number": '{"event_type":"phone_click","user_id":123456789012345678901234567890}',
    "white space": ' \n{"event_type":"phone_click","user_id":"a"}\n ',
}


@pytest.mark.parametrize("body", ODD.values(), ids=ODD.keys())
def test_odd_but_legal_bodies_are_stored(client: FlaskClient, body: str) -> None:
    answer = client.post(EVENTS, data=body.encode())
    assert answer.json == {"accepted": 1, "duplicates": 0, "rejected": []}


def test_a_number_no_store_can_hold_is_a_rejected_item(client: FlaskClient) -> None:
    answer = client.post(EVENTS, data='[{"event_type":"phone_click","user_id":"a","epoch":' + "9" * 30 + "}]")
    assert (answer.status_code, answer.json["rejected"][0]["index"]) == (202, 0)


UNREADABLE = {
    "nothing": b"",
    "text": b"hello",
    "half": b'{"event_type":',
    "two values": b"{}{}",
    "not UTF-8": b'{"a":"\xff"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "NaN": b'{"value":NaN}',
    "infinite": b'{"value":-Infinity}',
    "overflow": b'{"value":1e999}',
    "overflowing whole": b'{"value":' + b"9" * 400 + b"}",
    "millions of digits": b'{"value":' + b"9" * 200_000 + b"}",
    "too deep": b"[" * 40 + b"]" * 40,
    "absurdly deep": b"[" * 100_000,
    "a form": b"event_type=exposure&user_id=a",
}
OTHER_SHAPES = {
    "null": None,
    "a number": 1,
    "a text": "exposure",
    "true": True,
    "wrapped text": {"events": "x"},
    "wrapped object": {"events": {}},
    "wrapped null": {"events": None},
    "wrapped and more": {"events": [], "sent_at": 1},
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_is_not_json_is_refused_whole(client: FlaskClient, home: Home, body: bytes) -> None:
    answer = client.post(EVENTS, data=body)
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "bad_json")
    assert stored_events(home) == 0


@pytest.mark.parametrize("body", OTHER_SHAPES.values(), ids=OTHER_SHAPES.keys())
def test_other_shapes_are_refused_whole(client: FlaskClient, body: Any) -> None:
    answer = client.post(EVENTS, data=json.dumps(body))
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "bad_events")


@pytest.mark.parametrize("body", [b"", b" \n", b"\xef\xbb\xbf"])
def test_an_empty_body_is_called_empty(client: FlaskClient, body: bytes) -> None:
    assert client.post(EVENTS, data=body).json["error"] == {
        "code": "bad_json",
        "message": "the body is empty: send JSON",
        "field": None,
    }


def test_a_compressed_body_is_refused_by_name(client: FlaskClient) -> None:
    answer = client.post(EVENTS, data=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json["error"]["code"]) == (415, "unsupported_media_type")


def test_too_much_is_refused(careful_home: Home) -> None:
    client = create_app(careful_home).test_client()
    for body in ([exposure(f"v{n}") for n in range(4)], [exposure(url="x" * 2100)]):
        answer = client.post(EVENTS, json=body)
        assert (answer.status_code, answer.json["error"]["code"]) == (413, "too_large")
    assert "at most 3" in client.post(EVENTS, json=[{}] * 4).json["error"]["message"]
    assert client.post(EVENTS, json=[exposure(f"v{n}") for n in range(3)]).json["accepted"] == 3
    assert stored_events(careful_home) == 3


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "visitor"),
        ("?visitor=", "visitor"),
        ("?visitor=+%09", "visitor"),
        ("?visitor=" + "v" * 201, "visitor"),
        ("?visitor=a&visitor=b", "visitor"),
        ("?visitor=a&optedout=1", "optedout"),
        ("?visitor=a&opted_out=maybe", "opted_out"),
        ("?visitor=a&opted_out=", "opted_out"),
    ],
)
def test_a_wrong_query_names_the_parameter(client: FlaskClient, query: str, field: str) -> None:
    answer = client.get(f"/api/cro/assignments{query}")
    assert (answer.status_code, answer.json["error"]["code"], answer.json["error"]["field"]) == (
        422,
        "invalid_input",
        field,
    )


def test_a_misspelt_opt_out_is_not_ignored(client: FlaskClient, home: Home) -> None:
    assert client.post(EVENTS + "?opt_out=1", json=exposure()).status_code == 422
    assert stored_events(home) == 0


@pytest.mark.parametrize("path", [EVENTS, "/api/cro/assignments?visitor=v"])
def test_pages_of_other_origins_may_call(client: FlaskClient, path: str) -> None:
    method = "POST" if path == EVENTS else "GET"
    preflight = client.options(
        path, headers={"Origin": "https://shop.example", "Access-Control-Request-Method": method}
    )
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Methods"] == f"{method}, OPTIONS"
    assert preflight.headers["Access-Control-Allow-Headers"] == "Content-Type"
    for answer in (
        client.open(path, method=method, json=exposure()),
        client.delete(path),
        client.open(path.partition("?")[0] + "?wrong=1", method=method),
    ):
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(
    "path", ["/api/cro/overview", "/api/cro/tests", "/healthz", "/api/cro/decisions", "/nowhere"]
)
def test_nothing_else_is_open_to_other_origins(client: FlaskClient, path: str) -> None:
    for answer in (client.get(path), client.options(path)):
        assert not [name for name in dict(answer.headers) if name.startswith("Access-Control")]
