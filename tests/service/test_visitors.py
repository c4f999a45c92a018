"""What the website calls: assignments and events."""

from __future__ import annotations

import http.client
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, request
from flask.testing import FlaskClient
from helpers.mmdb import place, write_mmdb
from helpers.service_samples import (
    BROWSER,
    CRAWLER,
    both_ways,
    check_shape,
    exposure,
    make_home,
    start_server,
    stored_events,
)
from sqlalchemy import select

from cro_core.errors import ConfigError
from cro_core.home import Home
from cro_core.storage import schema
from service import schemas
from service.app import create_app
from service.client_address import client_address

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


@both_ways
def test_global_privacy_control_can_be_relaxed(tmp_path: Any, make_app: Callable[[Home], Flask]) -> None:
    home = make_home(tmp_path / "relaxed", {"privacy": {"honour_global_privacy_control": False}})
    client = make_app(home).test_client()
    assert _assign(client, **{"Sec-GPC": "1"})["reason"] == "assigned"
    client.post(EVENTS, json=exposure(), headers={"Sec-GPC": "1"})
    assert stored_events(home) == 1
    home.db.close()


def test_a_bot_gets_the_control_uncounted(client: FlaskClient) -> None:
    assert _assign(client, **{"User-Agent": CRAWLER})["reason"] == "bot"


@both_ways
def test_nothing_is_stored_for_who_opted_out(client: FlaskClient, home: Home) -> None:
    for query, headers in (("?opted_out=1", {}), ("", {"Sec-GPC": "1"})):
        answer = client.post(EVENTS + query, json=[exposure()], headers=headers)
        assert answer.status_code == 202
        check_shape(schemas.EventsAnswer, answer.json)
        assert answer.json == {"accepted": 0, "duplicates": 0, "rejected": [], "not_stored": 1}
    assert stored_events(home) == 0
    assert client.get("/api/cro/overview").json["events"]["opted_out"] == 2


@both_ways
def test_the_user_agent_reaches_the_store_as_device_and_bot_only(client: FlaskClient, home: Home) -> None:
    client.post(EVENTS, json=exposure("v1", id="1"), headers={"User-Agent": BROWSER})
    client.post(EVENTS, json=exposure("v2", id="2"), headers={"User-Agent": CRAWLER})
    with home.db.read() as connection:
        rows = connection.execute(select(schema.events).order_by(schema.events.c.id)).mappings().all()
    assert [(row["device"], row["bot"]) for row in rows] == [("desktop", False), (None, True)]
    assert "Mozilla" not in str(rows)
    assert "127.0.0.1" not in str(rows)


@both_ways
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


@both_ways
def test_a_form_content_type_loses_nothing(client: FlaskClient) -> None:
    """curl says this of every body unless told otherwise."""
    answer = client.post(
        EVENTS, data=json.dumps(exposure()), content_type="application/x-www-form-urlencoded"
    )
    assert answer.json["accepted"] == 1


@both_ways
def test_an_event_counts_once(client: FlaskClient, home: Home) -> None:
    event = exposure(id="same")
    assert client.post(EVENTS, json=event).json == {"accepted": 1, "duplicates": 0, "rejected": []}
    assert client.post(EVENTS, json=[event, event]).json == {"accepted": 0, "duplicates": 2, "rejected": []}
    assert stored_events(home) == 1


@both_ways
def test_the_good_are_stored_and_the_bad_named(client: FlaskClient, home: Home) -> None:
    answer = client.post(
        EVENTS, json=[exposure("a"), {"event_type": "phone_click"}, exposure("b"), 7, exposure("c", "nope")]
    )
    assert answer.status_code == 202
    assert answer.json["accepted"] == 2
    assert [r["index"] for r in answer.json["rejected"]] == [1, 3, 4]
    assert answer.json["rejected"][0]["error"] == "user_id is missing"
    assert stored_events(home) == 2


@both_ways
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


@both_ways
@pytest.mark.parametrize("body", ODD.values(), ids=ODD.keys())
def test_odd_but_legal_bodies_are_stored(client: FlaskClient, body: str) -> None:
    answer = client.post(EVENTS, data=body.encode())
    assert answer.json == {"accepted": 1, "duplicates": 0, "rejected": []}


@both_ways
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


@both_ways
@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_is_not_json_is_refused_whole(client: FlaskClient, home: Home, body: bytes) -> None:
    answer = client.post(EVENTS, data=body)
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "bad_json")
    assert stored_events(home) == 0


@both_ways
@pytest.mark.parametrize("body", OTHER_SHAPES.values(), ids=OTHER_SHAPES.keys())
def test_other_shapes_are_refused_whole(client: FlaskClient, body: Any) -> None:
    answer = client.post(EVENTS, data=json.dumps(body))
    assert (answer.status_code, answer.json["error"]["code"]) == (400, "bad_events")


@both_ways
@pytest.mark.parametrize("body", [b"", b" \n", b"\xef\xbb\xbf"])
def test_an_empty_body_is_called_empty(client: FlaskClient, body: bytes) -> None:
    assert client.post(EVENTS, data=body).json["error"] == {
        "code": "bad_json",
        "message": "the body is empty: send JSON",
        "field": None,
    }


@both_ways
def test_a_compressed_body_is_refused_by_name(client: FlaskClient) -> None:
    answer = client.post(EVENTS, data=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json["error"]["code"]) == (415, "unsupported_media_type")


@both_ways
def test_too_much_is_refused(careful_home: Home, make_app: Callable[[Home], Flask]) -> None:
    client = make_app(careful_home).test_client()
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


@both_ways
def test_a_misspelt_opt_out_is_not_ignored(client: FlaskClient, home: Home) -> None:
    assert client.post(EVENTS + "?opt_out=1", json=exposure()).status_code == 422
    assert stored_events(home) == 0


@both_ways
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


PEER = {"REMOTE_ADDR": "198.51.100.20"}


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxies", "address"),
    [
        ("198.51.100.20", None, 0, "198.51.100.20"),
        ("198.51.100.20", "203.0.113.9", 0, "198.51.100.20"),
        ("198.51.100.20", "203.0.113.9", 1, "203.0.113.9"),
        ("198.51.100.20", "6.6.6.6, 203.0.113.9", 1, "203.0.113.9"),
        ("198.51.100.20", "6.6.6.6,203.0.113.9, 192.0.2.1", 2, "203.0.113.9"),
        ("198.51.100.20", "203.0.113.9", 2, "198.51.100.20"),  # came past one of the proxies
        ("198.51.100.20", None, 1, "198.51.100.20"),
        ("198.51.100.20", "", 1, "198.51.100.20"),
        ("198.51.100.20", "6.6.6.6,", 1, "198.51.100.20"),
        ("198.51.100.20", "203.0.113.9:4711", 1, "203.0.113.9"),
        ("198.51.100.20", "[2001:DB8::0007]:4711", 1, "2001:db8::7"),
        ("198.51.100.20", "2001:db8::7", 1, "2001:db8::7"),
        ("198.51.100.20", "fe80::1%eth0", 1, "fe80::1"),
        ("198.51.100.20", "::ffff:203.0.113.9", 1, "203.0.113.9"),
        ("198.51.100.20", "unknown", 1, None),
        ("198.51.100.20", ",".join(["6.6.6.6"] * 10_000 + ["203.0.113.9"]), 1, "203.0.113.9"),
        ("::ffff:198.51.100.20", None, 0, "198.51.100.20"),
        ("", None, 0, None),
    ],
)
def test_only_what_trusted_proxies_wrote_is_believed(
    peer: str, forwarded: str | None, proxies: int, address: str | None
) -> None:
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    with Flask(__name__).test_request_context(headers=headers, environ_base={"REMOTE_ADDR": peer}):
        assert client_address(request, proxies) == address


@pytest.fixture
def placed_home(tmp_path: Path) -> Iterator[Home]:
    """A home behind one proxy, which says the place, with a file that knows places too."""
    file = write_mmdb(
        tmp_path / "places.mmdb",
        {"203.0.113.0/24": place("Bern", "CH"), "198.51.100.0/24": place("Lyon", "FR")},
    )
    settings = {
        "service": {
            "trusted_proxies": 1,
            "city_header": "X-City",
            "country_header": "X-Country",
            "geo_database": str(file),
        },
        "privacy": {"internal_networks": ["192.0.2.0/24"], "internal_hosts": ["staging.example.com"]},
    }
    made = make_home(tmp_path / "placed", settings)
    yield made
    made.db.close()


def _kept(home: Home, *columns: str) -> list[tuple[Any, ...]]:
    with home.db.read() as connection:
        rows = connection.execute(select(schema.events).order_by(schema.events.c.id)).mappings()
        return [tuple(row[name] for name in columns) for row in rows]


@both_ways
@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ({"X-City": "Paris", "X-Country": "FR"}, ("Paris", "FR")),
        ({"X-City": "S\u00e3o Paulo".encode().decode("latin-1"), "X-Country": "BR"}, ("São Paulo", "BR")),
        ({"X-City": "S\u00e3o Paulo", "X-Country": "BR"}, ("São Paulo", "BR")),
        ({"X-City": "S%C3%A3o%20Paulo", "X-Country": "BR"}, ("São Paulo", "BR")),
        ({"X-City": "?", "X-Country": "XX"}, ("Bern", "CH")),
        ({"X-City": "x" * 121, "X-Country": "T1"}, ("Bern", "CH")),
        ({"X-City": "%00%0a", "X-Country": "FR"}, ("Bern", "FR")),
        ({}, ("Bern", "CH")),
        ({"CF-IPCountry": "US"}, ("Bern", "CH")),  # not the header of the settings
    ],
)
def test_the_place_is_told_by_the_header_of_the_settings_or_by_the_file(
    placed_home: Home, headers: dict[str, str], kept: tuple[str, str], make_app: Callable[[Home], Flask]
) -> None:
    client = make_app(placed_home).test_client()
    client.post(EVENTS, json=exposure(), headers={"X-Forwarded-For": "6.6.6.6, 203.0.113.9", **headers})
    assert _kept(placed_home, "city", "country") == [kept]


@both_ways
def test_a_header_counts_for_nothing_unless_the_settings_name_it(client: FlaskClient, home: Home) -> None:
    headers = {
        "X-City": "Paris",
        "CF-IPCity": "Paris",
        "CF-IPCountry": "FR",
        "X-Forwarded-For": "203.0.113.9",
    }
    client.post(EVENTS, json=exposure(), headers=headers)
    assert _kept(home, "city", "country", "internal") == [(None, None, False)]


def test_a_service_does_not_start_on_a_missing_file(tmp_path: Path) -> None:
    home = make_home(tmp_path / "broken", {"service": {"geo_database": "missing.mmdb"}})
    with pytest.raises(ConfigError, match=r"service\.geo_database names .*missing\.mmdb"):
        create_app(home)
    home.db.close()


@both_ways
def test_the_sites_own_people_are_told_by_network_and_by_host(
    placed_home: Home, make_app: Callable[[Home], Flask]
) -> None:
    client = make_app(placed_home).test_client()
    staging = "https://pr-7.staging.example.com/offers?x=1"
    for number, (address, url) in enumerate(
        [
            ("192.0.2.7", None),
            ("203.0.113.9", staging),
            ("203.0.113.9", None),
            ("192.0.2.7, 203.0.113.9", None),
        ]
    ):
        event = exposure(f"v{number}", id=f"e{number}", url=url)
        assert client.post(EVENTS, json=event, headers={"X-Forwarded-For": address}).json["accepted"] == 1
    assert _kept(placed_home, "internal") == [(True,), (True,), (False,), (False,)]


@both_ways
def test_no_address_is_stored_or_logged(
    placed_home: Home, make_app: Callable[[Home], Flask], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is posted from it: good events, refused ones, and what no event is."""
    caplog.set_level(logging.DEBUG)
    client = make_app(placed_home).test_client()
    addresses = ("203.0.113.9", "2001:db8:77::9", "192.0.2.7", "no-address-77")
    bodies: tuple[Any, ...] = (
        [exposure(), exposure("v2", "nope"), 7],
        exposure(id="x"),
        "text",
        {"events": 1},
    )
    for address in addresses:
        for body in bodies:
            client.post(
                EVENTS, json=body, headers={"X-Forwarded-For": f"6.6.6.6, {address}"}, environ_overrides=PEER
            )
        client.get(
            "/api/cro/assignments?visitor=v1",
            headers={"X-Forwarded-For": address, "User-Agent": BROWSER},
            environ_overrides=PEER,
        )
    places = {(city, country) for city, country in _kept(placed_home, "city", "country")}
    assert places == {("Bern", "CH"), (None, None)}  # so addresses were looked at
    assert (True,) in _kept(placed_home, "internal")
    with placed_home.db.read() as connection:
        tables = sa.inspect(connection).get_table_names()
        stored = {t: str(connection.execute(sa.text(f"SELECT * FROM {t}")).fetchall()) for t in tables}
    assert all(stored[table] != "[]" for table in ("events", "exposures", "quarantine", "receipts"))
    files = b"".join(f.read_bytes() for f in placed_home.data.rglob("*") if f.is_file())
    assert b"hero-cta" in files
    for secret in (*addresses, "6.6.6.6", PEER["REMOTE_ADDR"]):
        assert [table for table, text in stored.items() if secret in text] == []
        assert secret.encode() not in files
        assert secret not in caplog.text


def test_the_real_server_reads_all_lines_of_the_header_and_logs_none(
    placed_home: Home, tmp_path: Path
) -> None:
    """A proxy may add a line of its own under the client's."""
    server = start_server(placed_home, tmp_path / "server.log")
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
            body = json.dumps([exposure(), {"event_type": 1}])
            connection.putrequest("POST", EVENTS)
            for line in ("203.0.113.9", "192.0.2.7"):
                connection.putheader("X-Forwarded-For", line)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body.encode())
            assert json.load(connection.getresponse())["accepted"] == 1
    finally:
        server.process.terminate()
        server.process.wait(timeout=30)
    assert _kept(placed_home, "internal", "city") == [(True, None)]
    log = server.log.read_text()
    assert "203.0.113.9" not in log
    assert "192.0.2.7" not in log
