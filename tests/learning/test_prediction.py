"""The model: what it finds, what it refuses to find, and that its JSON form is the tree."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from cro_core.domain import Cell, Experiment, Plan, Reason, Status, Variant, Verdict
from cro_core.errors import InvalidInput
from cro_core.evidence import Decision
from cro_core.home import Home, create_home
from cro_core.hypotheses.backlog import MediaAsset
from cro_core.learning import prediction
from cro_core.learning.prediction import (
    Example,
    examples_of,
    fit,
    folds,
    grow,
    predict,
    rules_of,
    variant_features,
)
from cro_core.rendering import training as blocks
from cro_core.reporting.headline import model_track
from cro_core.storage import decisions, experiments, journal
from cro_core.workflows import predict as predict_workflow
from cro_core.workflows.train import train
from service.schemas import PredictionAnswer

NOW = datetime(2026, 3, 16, 2, tzinfo=UTC)
Effect = Callable[[dict[str, Any]], float]


def nothing(_: dict[str, Any]) -> float:
    return 0.0


def clips_win(features: dict[str, Any]) -> float:
    return 0.5 if features["kind"] == "video" else 0.0


def medium(rng: np.random.Generator) -> dict[str, Any]:
    video = bool(rng.random() < 0.5)
    found: dict[str, Any] = {
        "kind": "video" if video else "image",
        "aspect_ratio": float(rng.choice([1.0, 1.3333, 1.7778])),
        "occasion": str(rng.choice(["wedding", "party", "corporate"])),
    }
    return found | ({"duration_s": float(rng.uniform(4, 40))} if video else {})


def archive(count: int, effect: Effect, seed: int) -> tuple[list[Example], np.random.Generator]:
    """Finished two-armed experiments of 4,000 visitors a variant, whose true rates are 8 % times 1 + effect."""
    rng = np.random.default_rng(seed)
    examples = []
    for number in range(count):
        arms = [medium(rng), medium(rng)]
        won = [int(rng.binomial(4000, 0.08 * (1 + effect(arm)))) for arm in arms]
        if won[0] != won[1]:
            examples += [
                Example(f"e{number:02}", f"v{i}", arms[i], 4000, won[i] > won[1 - i]) for i in range(2)
            ]
    return examples, rng


def test_a_planted_effect_is_found() -> None:
    examples, rng = archive(40, clips_win, 1)
    found = fit(examples, rng)
    assert found.status == "trained"
    assert found.accuracy is not None
    assert found.baseline is not None
    assert found.accuracy > found.baseline + 0.1
    # Only clips have a duration, so that either tells a clip from a picture.
    assert found.importance.get("kind", 0) + found.importance.get("duration_s", 0) > 0.7
    assert math.isclose(sum(found.importance.values()), 1)
    assert found.model is not None
    assert all(predict(found.model, e.features).rule in found.rules for e in examples)
    untried = [medium(rng) for _ in range(300)]
    told: dict[str, list[bool]] = {"video": [], "image": []}
    for features in untried:
        expected = predict(found.model, features)
        assert expected.low <= expected.probability <= expected.high
        told[features["kind"]].append(expected.better)
    assert np.mean(told["video"]) > 0.8
    assert np.mean(told["image"]) < 0.2


def test_where_nothing_is_planted_advice_is_withheld() -> None:
    outcomes = Counter(fit(*archive(20, nothing, seed)).status for seed in range(12))
    assert outcomes["no_better"] >= 11
    withheld = fit(*archive(20, nothing, 0))
    assert (withheld.model, withheld.rules, dict(withheld.importance)) == (None, (), {})
    assert withheld.accuracy is not None
    assert "withheld" in withheld.text


@pytest.mark.parametrize("count", [0, 9])
def test_too_little_history_is_a_normal_answer(count: int) -> None:
    examples, rng = archive(count, clips_win, 2)
    found = fit(examples, rng)
    assert (found.status, found.accuracy, found.model) == ("not_enough_history", None, None)
    assert "10 tests and 20 variants are needed" in found.text


def test_the_same_seed_gives_the_same_model() -> None:
    assert fit(*archive(25, clips_win, 5)) == fit(*archive(25, clips_win, 5))


def test_an_experiment_is_never_on_both_sides() -> None:
    examples, rng = archive(23, nothing, 3)
    groups = [e.experiment_id for e in examples]
    parts = list(folds(groups, 10, rng))
    assert len(parts) == 10
    assert sorted(i for part in parts for i in part) == list(range(len(examples)))
    sides = [{groups[i] for i in part} for part in parts]
    assert sum(len(side) for side in sides) == len(set(groups))
    assert len(list(folds(["a", "a", "b"], 10, rng))) == 2


def test_what_only_names_an_experiment_does_not_pass_for_knowledge() -> None:
    """Every experiment has an occasion of its own that tells the answer of both its variants, as memory would."""
    rng = np.random.default_rng(8)
    examples = []
    for number in range(30):
        better = bool(rng.random() < 0.5)
        occasion = {"occasion": f"o{number}", "kind": "image"}
        examples += [Example(f"e{number}", f"v{i}", occasion, 1000, better) for i in range(2)]
    assert fit(examples, rng).status == "no_better"


def test_the_json_form_predicts_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(4)
    examples, _ = archive(60, clips_win, 4)
    odd = [replace(e, features={k: v for k, v in e.features.items() if rng.random() < 0.8}) for e in examples]
    model = json.loads(json.dumps(grow(odd, seed=7)[0], allow_nan=False))
    columns = model["columns"]
    matrix = np.array([prediction.encode(columns, e.features) for e in odd], dtype=np.float32)
    judge = DecisionTreeClassifier(
        max_depth=prediction.MAX_DEPTH, min_samples_leaf=math.ceil(len(odd) / 10), random_state=7
    ).fit(matrix, [e.better for e in odd])
    assert judge.tree_.node_count > 5
    asked = [{k: v for k, v in medium(rng).items() if rng.random() < 0.7} for _ in range(500)]
    rows = np.array([prediction.encode(columns, f) for f in asked], dtype=np.float32)
    assert np.isnan(rows).any()
    ours = [predict(model, f).probability for f in asked]
    assert len(set(ours)) > 3
    np.testing.assert_allclose(ours, judge.predict_proba(rows)[:, 1], rtol=1e-12)


def test_rules_cover_every_example_once() -> None:
    examples, _ = archive(40, clips_win, 6)
    model, _ = grow(examples, seed=1)
    rules = rules_of(model)
    assert sum(r.examples for r in rules) == len(examples)
    assert sum(r.better for r in rules) == sum(e.better for e in examples)
    assert sum(r.units for r in rules) == sum(e.units for e in examples)
    assert all(r.examples >= prediction.MIN_LEAF for r in rules)
    assert len({r.text for r in rules}) == len(rules)


def test_a_rule_reads_as_a_sentence() -> None:
    rng = np.random.default_rng(0)
    durations = rng.permutation(np.concatenate([np.full(20, 8.0), np.full(20, 30.0)]))
    examples = [
        Example(f"e{i // 2}", f"v{i % 2}", {"kind": "video", "duration_s": float(d)}, 500, bool(d < 15))
        for i, d in enumerate(durations)
    ]
    texts = {r.text for r in rules_of(grow(examples, seed=0)[0])}
    tests = len({e.experiment_id for e in examples if e.better})
    assert (
        "Where the duration is at most 19 s, 20 of 20 variants did better than the rest of their test "
        f"({tests} tests, 10,000 visitors)."
    ) in texts
    assert any(text.startswith("Where the duration is over 19 s, 0 of 20 variants") for text in texts)


def experiment(name: str, *features: dict[str, Any]) -> Experiment:
    variants = tuple(
        Variant(f"v{i}", f"V{i}", {}, is_control=i == 0, features=f) for i, f in enumerate(features)
    )
    return Experiment(name, name, variants, Plan(goals=()), slot=name, created_at=NOW)


PAIR = experiment("pair", {"kind": "image"}, {"kind": "video"})


def test_shares_that_move_do_not_mislead() -> None:
    """v1 is better on each day; pooled it looks worse, for most of its visitors came on the bad day."""
    cells = (
        Cell(0, "v0", 900, 180), Cell(0, "v1", 100, 22),
        Cell(1, "v0", 100, 5), Cell(1, "v1", 900, 54),
    )  # fmt: skip
    assert (180 + 5) / 1000 > (22 + 54) / 1000
    assert {e.variant: e.better for e in examples_of(PAIR, cells, {})} == {"v0": False, "v1": True}


def test_what_teaches_nothing_is_left_out() -> None:
    clear = (Cell(0, "v0", 500, 40), Cell(0, "v1", 500, 60))
    assert [(e.units, e.better) for e in examples_of(PAIR, clear, {})] == [(500, False), (500, True)]
    tie = (Cell(0, "v0", 500, 40), Cell(0, "v1", 500, 40))
    small = (Cell(0, "v0", 99, 4), Cell(0, "v1", 500, 60))
    alike = experiment("alike", {"kind": "image"}, {"kind": "image"})
    assert examples_of(PAIR, tie, {}) == ()
    assert examples_of(PAIR, small, {}) == ()
    assert examples_of(PAIR, clear[:1], {}) == ()
    assert examples_of(alike, clear, {}) == ()


def test_features_come_from_the_asset_the_configuration_and_the_variant_itself() -> None:
    asset = MediaAsset("a", "video", "hero", ("a.mp4",), width=1600, height=800, duration_s=9.0)
    assert variant_features({}, {}, asset) == {"kind": "video", "aspect_ratio": 2.0, "duration_s": 9.0}
    assert variant_features({"kind": " Image "}, {"duration_s": 3}, asset) == {
        "kind": "image",
        "aspect_ratio": 2.0,
        "duration_s": 3.0,
    }
    assert variant_features({"text": "Call us now"}, {}) == {"kind": "text", "words": 3.0}
    odd = {"kind": {"a": 1}, "duration_s": math.nan, "words": 10**400, "aspect_ratio": True, "occasion": " "}
    assert variant_features({}, odd) == {}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = create_home(tmp_path / "home", {}, environ={})
    yield made
    made.db.close()


def store(
    home: Home, number: int, verdict: Verdict | None = Verdict.SHIP, *, clip: int = 70, code: str = ""
) -> None:
    """An archived experiment: a picture of 50 in 500 against a clip of ``clip``."""
    arms = ({"kind": "image"}, {"kind": "video", "duration_s": 5.0 + number})
    found = replace(experiment(f"e{number:02}", *arms), status=Status.ARCHIVED)
    with home.db.write() as connection:
        experiments.add(connection, found)
        if verdict:
            cells = (Cell(0, "v0", 500, 50), Cell(0, "v1", 500, clip))
            reasons = (Reason(code, ""),) if code else ()
            decisions.add(connection, Decision(found.id, NOW, verdict, reasons, cells, id=f"d:{found.id}"))


def stored_model(home: Home) -> dict[str, Any]:
    with home.db.read() as connection:
        row = journal.latest_model(connection)
    assert row is not None
    return row


def answer(home: Home, **variant: Any) -> dict[str, Any]:
    found = predict_workflow.predict(home, variant)
    assert PredictionAnswer.model_validate(found).model_dump(mode="json") == found
    json.dumps(found, allow_nan=False)
    return found


def test_training_without_history_is_stored_and_told(home: Home) -> None:
    assert answer(home, kind="video")["status"] == "untrained"
    result = train(home, now=NOW, rng=np.random.default_rng(1)).as_dict()
    assert (result["status"], result["examples"], result["left_out"]) == (
        "not_enough_history", 0, {"invalid": 0, "without_verdict": 0, "uninformative": 0},
    )  # fmt: skip
    row = stored_model(home)
    assert (row["id"], row["status"]) == ("model:20260316T020000Z:001", "not_enough_history")
    track = model_track(row)
    assert (track.examples, track.accuracy, track.text) == (0, None, result["text"])
    found = answer(home, kind="video")
    assert (found["status"], found["better"], found["text"]) == (
        "not_enough_history",
        None,
        result["text"],
    )
    assert "too little history" in blocks.summary(result).text
    assert "too little history" in blocks.score(result).text
    assert "No rules" in blocks.rules(result).text


def test_training_and_prediction_on_a_home(home: Home) -> None:
    for number in range(14):
        store(home, number, clip=70 + number)
    store(home, 20, Verdict.INVALID, clip=5)
    store(home, 21, None)
    store(home, 22, Verdict.KEEP_CONTROL, clip=50)
    trained = train(home, now=NOW, rng=np.random.default_rng(1))
    result = json.loads(json.dumps(trained.as_dict(), allow_nan=False))
    assert (result["status"], result["experiments"], result["examples"]) == ("trained", 14, 28)
    assert result["left_out"] == {"invalid": 1, "without_verdict": 1, "uninformative": 1}
    assert (result["accuracy"], result["baseline"]) == (1.0, 0.5)
    assert "model" not in result
    row = stored_model(home)
    assert json.loads(json.dumps(row["record"]["model"], allow_nan=False)) == row["record"]["model"]
    track = model_track(row)
    assert (track.status, track.accuracy, track.baseline, track.examples) == ("trained", 1.0, 0.5, 28)
    clip, picture = answer(home, kind="video", duration_s=9.0), answer(home, kind="image")
    assert (clip["better"], clip["probability"], clip["examples"], clip["experiments"]) == (True, 1.0, 14, 14)
    assert (picture["better"], picture["probability"]) == (False, 0.0)
    assert clip["rule"] in [r["text"] for r in result["rules"]]
    assert answer(home, text=None)["better"] is None
    with pytest.raises(InvalidInput, match="'colour' is nothing the model looks at"):
        predict_workflow.predict(home, {"colour": "red"})
    assert "Better than guessing" in blocks.summary(result).text
    assert "1 finished test could not be measured" in blocks.summary(result).html
    assert blocks.score(result).html.count("<svg") == 2
    assert result["rules"][0]["text"] in blocks.rules(result).text


@pytest.mark.parametrize(
    ("verdict", "code", "taught"),
    [
        (Verdict.NO_PRACTICAL_GAIN, "futile", False),
        (Verdict.KEEP_CONTROL, "futile", False),  # as the first rule told it
        (Verdict.GAIN_BELOW_MINIMUM, "gain_too_small", True),
        (Verdict.KEEP_CONTROL, "control_wins", True),
    ],
)
def test_an_early_stop_without_proof_is_no_loss(
    home: Home, verdict: Verdict, code: str, taught: bool
) -> None:
    """What is behind is what stops early: learnt from, every challenger without an effect would have lost."""
    store(home, 0, verdict, clip=40, code=code)
    result = train(home, now=NOW, rng=np.random.default_rng(1))
    assert result.training.examples == 2 * taught
    assert result.left_out["uninformative"] == (not taught)
    assert ("stopped before anything was proven" in blocks.summary(result.as_dict()).text) != taught


def test_the_newest_training_counts(home: Home) -> None:
    train(home, now=NOW, rng=np.random.default_rng(1))
    for number in range(14):
        store(home, number)
    assert train(home, now=NOW, rng=np.random.default_rng(1)).id == "model:20260316T020000Z:002"
    assert stored_model(home)["status"] == "trained"
    train(home, now=NOW - timedelta(days=1), rng=np.random.default_rng(1))
    assert stored_model(home)["status"] == "trained"
