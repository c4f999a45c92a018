"""What the newest model expects of a variant that has not been tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cro_core.clock import iso
from cro_core.errors import InvalidInput
from cro_core.home import Home
from cro_core.learning import prediction
from cro_core.storage import journal

KNOWN = (*prediction.NUMBERS, *prediction.CATEGORIES, "text")

NOTHING_KNOWN = "The model cannot say anything about a variant that it knows nothing of"


def predict(home: Home, variant: Mapping[str, Any]) -> dict[str, Any]:
    """The model's view, as :class:`service.schemas.PredictionAnswer`; where it has none, ``status`` and ``text`` say why.

    Args:
        home: the site.
        variant: its features: ``kind``, ``aspect_ratio``, ``duration_s`` (seconds), ``occasion``, ``text`` or
            ``words``; what is left out is not known.

    Raises:
        InvalidInput: something is given that no model looks at.
    """
    unknown = [name for name in variant if name not in KNOWN]
    if unknown:
        raise InvalidInput(
            f"{unknown[0]!r} is nothing the model looks at: describe a variant by {', '.join(KNOWN)}",
            field=unknown[0],
        )
    with home.db.read() as connection:
        row = journal.latest_model(connection)
    if row is None:
        text = "No model has been trained yet: `cro train` trains one once tests have ended."
        return _answer(prediction.UNTRAINED, text)
    record = row["record"]
    model = {
        "trained_at": iso(row["trained_at"]),
        "accuracy": record["accuracy"],
        "baseline": record["baseline"],
    }
    if record["model"] is None:
        return _answer(row["status"], record["text"], **model)
    features = prediction.variant_features(variant, variant)
    if not features:
        return _answer(row["status"], f"{NOTHING_KNOWN}: give {', '.join(KNOWN)}.", **model)
    expectation = prediction.predict(record["model"], features)
    expected = "better than" if expectation.better else "no better than"
    return _answer(
        row["status"],
        f"Expected to do {expected} what it is tested against. {expectation.rule.text}",
        **model,
        better=expectation.better,
        probability=expectation.probability,
        low=expectation.low,
        high=expectation.high,
        rule=expectation.rule.text,
        examples=expectation.rule.examples,
        experiments=expectation.rule.experiments,
    )


def _answer(status: str, text: str, **values: Any) -> dict[str, Any]:
    empty = dict.fromkeys(
        (
            "trained_at",
            "accuracy",
            "baseline",
            "better",
            "probability",
            "low",
            "high",
            "rule",
            "examples",
            "experiments",
        )
    )
    return {"status": status, "text": text, **empty, **values}
