"""What the model expects, over HTTP: before there is a model, with one, and asked wrongly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from helpers.service_samples import LATER, check_shape

from cro_core.domain import to_json
from cro_core.home import Home
from cro_core.learning import prediction
from cro_core.storage import journal
from service import schemas

PATH = "/api/cro/ml/predict"


def _train(home: Home, experiments: int) -> str:
    """Stores a model fitted to experiments in which the clip beat the picture; returns its status."""
    examples = [
        prediction.Example(f"e{n}", kind, {"kind": kind, "aspect_ratio": 1.5}, 500, better=kind == "video")
        for n in range(experiments)
        for kind in ("image", "video")
    ]
    training = prediction.fit(examples, np.random.default_rng(7))
    with home.db.write() as connection:
        journal.add_model(connection, f"m{experiments}", LATER, training.status, to_json(training))
    return training.status


def _ask(client: FlaskClient, key: dict[str, str], **variant: Any) -> dict[str, Any]:
    answer = client.post(PATH, json=variant, headers=key)
    assert answer.status_code == 200
    check_shape(schemas.PredictionAnswer, answer.json)
    found: dict[str, Any] = answer.json
    return found


def test_without_a_model_it_says_so(client: FlaskClient, key: dict[str, str]) -> None:
    answer = _ask(client, key, kind="video")
    assert (answer["status"], answer["better"], answer["trained_at"]) == ("untrained", None, None)
    assert "trained" in answer["text"]


def test_with_too_little_history_it_says_so(client: FlaskClient, key: dict[str, str], home: Home) -> None:
    assert _train(home, 3) == "not_enough_history"
    answer = _ask(client, key, kind="video")
    assert (answer["status"], answer["probability"]) == ("not_enough_history", None)
    assert answer["trained_at"] == "2026-03-02T10:00:00Z"


def test_a_trained_model_answers_with_its_rule_and_its_worth(
    client: FlaskClient, key: dict[str, str], home: Home
) -> None:
    assert _train(home, 15) == "trained"
    clip, picture = _ask(client, key, kind=" Video "), _ask(client, key, kind="image", occasion="wedding")
    assert (clip["better"], picture["better"]) == (True, False)
    assert clip["low"] < clip["probability"] == 1 <= clip["high"]
    assert clip["accuracy"] > clip["baseline"]
    assert "15 of 15" in clip["rule"]
    assert clip["rule"] in clip["text"]
    assert (clip["examples"], clip["experiments"]) == (15, 15)
    for unknown in ({}, {"kind": None}):
        nothing = _ask(client, key, **unknown)
        assert (nothing["status"], nothing["better"], nothing["rule"]) == ("trained", None, None)
        assert nothing["text"] != clip["text"]


@pytest.mark.parametrize(
    ("variant", "field"),
    [
        ({"colour": "red"}, "colour"),
        ({"kind": 3}, "kind"),
        ({"aspect_ratio": 0}, "aspect_ratio"),
        ({"aspect_ratio": 1e308}, "aspect_ratio"),
        ({"duration_s": "long"}, "duration_s"),
        ({"words": False}, "words"),
        ({"words": "2"}, "words"),
        ({"text": "x" * 501}, "text"),
    ],
    ids=str,
)
def test_what_no_model_looks_at_is_refused(
    client: FlaskClient, key: dict[str, str], variant: dict[str, Any], field: str
) -> None:
    answer = client.post(PATH, json=variant, headers=key)
    assert (answer.status_code, answer.json["error"]["code"]) == (422, "invalid_input")
    assert answer.json["error"]["field"] == field
