"""Creating, ending and deciding over HTTP, and what is read afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from helpers.service_samples import EXPERIMENT, check_shape, conclude

from cro_core.home import Home
from cro_core.storage import journal
from service import schemas
from service.app import create_app

OTHER: dict[str, Any] = {**EXPERIMENT, "test_id": "gallery", "slot": "gallery"}


def test_creating_starts_it(client: FlaskClient, key: dict[str, str], home: Home) -> None:
    answer = client.post("/api/cro/tests", json=OTHER, headers=key)
    assert answer.status_code == 201
    check_shape(schemas.ExperimentAnswer, answer.json)
    assert answer.json["status"] == "running"
    assert [(v["variant_id"], v["is_control"], v["share"]) for v in answer.json["variants"]] == [
        ("control", True, 0.5),
        ("call", False, 0.5),
    ]
    active = client.get("/api/cro/active-tests").json
    check_shape(schemas.ActiveTestsAnswer, active)
    assert [t["test_id"] for t in active["tests"]] == ["hero-cta", "gallery"]
    with home.db.read() as connection:
        assert journal.trail(connection, subject="gallery")[0]["actor"] == "api"


def test_a_draft_waits(client: FlaskClient, key: dict[str, str]) -> None:
    answer = client.post("/api/cro/tests", json={**OTHER, "start": False}, headers=key)
    check_shape(schemas.ExperimentAnswer, answer.json)
    assert (answer.json["status"], answer.json["started_at"], answer.json["variants"][0]["share"]) == (
        "draft",
        None,
        None,
    )
    assert client.get("/api/cro/overview").json["experiments"] == {
        "draft": 1,
        "running": 1,
        "completed": 0,
        "archived": 0,
    }


def test_what_is_given_reaches_the_plan(client: FlaskClient, key: dict[str, str]) -> None:
    small = client.post("/api/cro/tests", json={**OTHER, "base_rate": 0.2}, headers=key).json
    body = {**OTHER, "test_id": "g2", "slot": "g2", "base_rate": 0.2, "minimum_detectable_uplift": 0.05}
    large = client.post(
        "/api/cro/tests", json={**body, "primary_goals": ["phone_click", "new_goal"]}, headers=key
    ).json
    assert large["planned_units"] > 3 * small["planned_units"]
    assert small["primary_goals"] == ["contact_form_submit"]
    assert set(large["primary_goals"]) == {"phone_click", "new_goal"}


def _variants(*keys: str, **first: Any) -> list[dict[str, Any]]:
    return [{"variant_id": key, **(first if index == 0 else {})} for index, key in enumerate(keys)]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"test_id": "a b"}, "test_id"),
        ({"test_id": ""}, "test_id"),
        ({"test_id": None}, "test_id"),
        ({"variants": []}, "variants"),
        ({"variants": _variants("one")}, "variants"),
        ({"variants": _variants("same", "same")}, "variants"),
        ({"variants": _variants("a", "b", is_control=False)}, "variants"),
        ({"variants": _variants("a/b", "c")}, "variants.0.variant_id"),
        ({"variants": [{"variant_id": "a", "weight": 3}, {"variant_id": "b"}]}, "variants.0.weight"),
        ({"traffic": 1}, "traffic"),
        ({"colour": "red"}, "colour"),
        ({"base_rate": 2}, "base_rate"),
        ({"primary_goals": ["no key!"]}, "primary_goals.0"),
        ({"base_rate": 3}, "base_rate"),
        ({"base_rate": 5e-324}, "base_rate"),
        ({"minimum_detectable_uplift": 0}, "minimum_detectable_uplift"),
        ({"minimum_detectable_uplift": 5e-324}, "minimum_detectable_uplift"),
        ({"primary_goals": []}, "primary_goals"),
        ({"primary_goals": ["a b"]}, "primary_goals.0"),
        ({"start": "perhaps"}, "start"),
        ({"start": 1}, "start"),
        ({"minimum_detectable_uplift": True}, "minimum_detectable_uplift"),
        ({"minimum_detectable_uplift": "0.2"}, "minimum_detectable_uplift"),
        ({"variants": _variants("a", "b", is_control="yes")}, "variants.0.is_control"),
        ({"base_rate": 0.9, "minimum_detectable_uplift": 5}, None),
    ],
    ids=str,
)
def test_a_wrong_description_names_the_field(
    client: FlaskClient, key: dict[str, str], change: Any, field: str | None
) -> None:
    answer = client.post("/api/cro/tests", json={**OTHER, **change}, headers=key)
    assert (answer.status_code, answer.json["error"]["code"]) == (422, "invalid_input")
    if field:
        assert answer.json["error"]["field"] == field
    assert len(client.get("/api/cro/active-tests").json["tests"]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": ["a", "b"]}, 'variants.0 is "a": give an object; variants.1 is "b": give an object'),
        ({"variants": {}}, "variants is an object: give a list"),
        ({"slot": 3}, "slot is 3: give text"),
        ({"name": None}, "name is null: give text"),
        ({"start": "perhaps"}, 'start is "perhaps": give true or false'),
        ({"base_rate": "high"}, 'base_rate is "high": give a number'),
        ({"test_id": "a b"}, 'test_id is "a b": use 1 to 100 of the characters A-Z a-z 0-9 . _ : -'),
    ],
    ids=str,
)
def test_a_refusal_speaks_the_words_of_json(
    client: FlaskClient, key: dict[str, str], change: Any, message: str
) -> None:
    answer = client.post("/api/cro/tests", json={**OTHER, **change}, headers=key)
    assert (answer.status_code, answer.json["error"]["message"]) == (422, message)


def test_a_message_lists_no_more_than_a_person_reads(client: FlaskClient, key: dict[str, str]) -> None:
    answer = client.post("/api/cro/tests", json={f"x{n}": n for n in range(50)}, headers=key)
    assert len(answer.json["error"]["message"]) < 600
    assert "and 47 more" in answer.json["error"]["message"]


@pytest.mark.parametrize("change", [{"slot": "other"}, {"test_id": "other"}])
def test_a_taken_name_or_slot_is_a_conflict(
    client: FlaskClient, key: dict[str, str], change: dict[str, str]
) -> None:
    answer = client.post("/api/cro/tests", json={**EXPERIMENT, **change}, headers=key)
    assert (answer.status_code, answer.json["error"]["code"]) == (409, "conflict")


def test_ending_by_hand(client: FlaskClient, key: dict[str, str]) -> None:
    path = "/api/cro/tests/hero-cta/end"
    wrong = client.post(path, json={"winner": "nobody"}, headers=key)
    assert (wrong.status_code, wrong.json["error"]["field"]) == (422, "winner")
    ended = client.post(path, json={"winner": "call", "reason": "rebuilt"}, headers=key)
    check_shape(schemas.ExperimentAnswer, ended.json)
    assert (ended.status_code, ended.json["status"], ended.json["winner"]) == (200, "archived", "call")
    shown = client.get("/api/cro/assignments?visitor=v").json
    assert (shown["experiments"], shown["production"][0]["variant_id"]) == ([], "call")
    overview = client.get("/api/cro/overview").json
    check_shape(schemas.OverviewAnswer, overview)
    assert overview["production"][0]["unproven"] is True
    again = client.post(path, headers=key)
    assert (again.status_code, again.json["error"]["code"]) == (409, "conflict")


@pytest.mark.parametrize("body", [None, {}])
def test_ending_needs_no_body(client: FlaskClient, key: dict[str, str], body: Any) -> None:
    answer = (
        client.post("/api/cro/tests/hero-cta/end", json=body, headers=key)
        if body is not None
        else client.post("/api/cro/tests/hero-cta/end", headers=key)
    )
    assert (answer.status_code, answer.json["winner"]) == (200, None)


def test_a_winner_that_was_shipped_is_read_everywhere(client: FlaskClient, home: Home) -> None:
    conclude(home)
    winners = client.get("/api/cro/recent-winners").json
    check_shape(schemas.RecentWinnersAnswer, winners)
    assert winners["winners"][0]["winner"] == "call"
    assert winners["winners"][0]["comparison"]["variant"] == winners["winners"][0]["winner"]
    assert winners["winners"][0]["comparison"]["relative"] > 1
    decisions = client.get("/api/cro/decisions?limit=5").json
    check_shape(schemas.DecisionsAnswer, decisions)
    assert (decisions["decisions"][0]["verdict"], decisions["pending"]) == ("ship", [])
    shown = client.get("/api/cro/assignments?visitor=v").json
    check_shape(schemas.AssignmentsAnswer, shown)
    assert shown["production"][0]["config"] == {"text": "Call now"}


@pytest.mark.parametrize(("action", "shown"), [("approve", ["call"]), ("reject", [])])
def test_a_person_decides(careful_home: Home, action: str, shown: list[str]) -> None:
    conclude(careful_home)
    client = create_app(careful_home).test_client()
    key = {"X-API-Key": careful_home.admin_key}
    pending = client.get("/api/cro/recommendations").json
    check_shape(schemas.RecommendationsAnswer, pending)
    check_shape(schemas.DecisionsAnswer, client.get("/api/cro/decisions").json)
    assert [r["id"] for r in pending["recommendations"]] == ["ship:hero-cta"]
    assert client.get("/api/cro/overview").json["pending"] == 1
    body = {"recommendation": "ship:hero-cta", "action": action}
    answer = client.post("/api/cro/decisions", json=body, headers=key)
    assert answer.status_code == 200
    check_shape(schemas.DecideAnswer, answer.json)
    assert [p["variant_id"] for p in client.get("/api/cro/assignments?visitor=v").json["production"]] == shown
    assert client.get("/api/cro/recommendations").json == {"recommendations": []}
    again = client.post("/api/cro/decisions", json=body, headers=key)
    assert (again.status_code, again.json["error"]["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"recommendation": "ship:nothing", "action": "approve"}, 404, None),
        ({"recommendation": "ship:nothing", "action": "snooze"}, 422, "action"),
        ({"action": "approve"}, 422, "recommendation"),
        ({"recommendation": 3, "action": "approve"}, 422, "recommendation"),
    ],
)
def test_a_wrong_decision_is_refused(
    client: FlaskClient, key: dict[str, str], body: Any, status: int, field: str | None
) -> None:
    answer = client.post("/api/cro/decisions", json=body, headers=key)
    assert (answer.status_code, answer.json["error"]["field"]) == (status, field)


def test_money_is_given_and_told(client: FlaskClient, key: dict[str, str]) -> None:
    dear = {**OTHER, "variants": [{"variant_id": "a"}, {"variant_id": "b", "cost_per_exposure": 0.25}]}
    answer = client.post("/api/cro/tests", json=dear, headers=key).json
    check_shape(schemas.ExperimentAnswer, answer)
    assert [v["cost_per_exposure"] for v in answer["variants"]] == [None, 0.25]
    assert (answer["value_per_conversion"], answer["currency"]) == (None, None)
    assert [v["config"] for v in answer["variants"]] == [{}, {}]  # a website never sees a cost


@pytest.mark.parametrize("cost", [-0.1, "1", True, 1e10])
def test_a_cost_that_is_none_is_refused(client: FlaskClient, key: dict[str, str], cost: Any) -> None:
    bad = {**OTHER, "variants": [{"variant_id": "a"}, {"variant_id": "b", "cost_per_exposure": cost}]}
    answer = client.post("/api/cro/tests", json=bad, headers=key)
    assert (answer.status_code, "variants.1.cost_per_exposure" in answer.text) == (422, True)
