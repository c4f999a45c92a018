"""Training the prediction model on what finished experiments have shown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from cro_core.domain import Experiment, Status, Verdict, to_json
from cro_core.home import Home
from cro_core.hypotheses.backlog import MediaAsset
from cro_core.hypotheses.media_manifest import read_manifest
from cro_core.learning import prediction
from cro_core.learning.prediction import Example, Training
from cro_core.storage import decisions, experiments, journal

INVALID, UNDECIDED, UNINFORMATIVE = "invalid", "without_verdict", "uninformative"
"""Why an archived experiment is not learned from: its verdict was invalid; it was ended by hand before one; it is
too small, its variants differ in nothing that the model knows, or it stopped before anything was proven."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A stored training."""

    id: str
    at: datetime
    training: Training
    left_out: dict[str, int]
    """Reason -> number of archived experiments that were not learned from."""

    def as_dict(self) -> dict[str, Any]:
        """What is stored, without the tree itself, as JSON."""
        data: dict[str, Any] = to_json(self.training)
        del data["model"]
        return {"id": self.id, "trained_at": to_json(self.at), **data, "left_out": dict(self.left_out)}


def train(home: Home, *, now: datetime, rng: np.random.Generator) -> TrainingResult:
    """Trains a model on the archived experiments and stores it with its grade.

    Args:
        home: the site.
        now: the moment of training.
        rng: settles which experiments are tried together and what luck can do.

    Raises:
        InvalidInput: the media manifest is refused.
    """
    assets = {asset.id: asset for asset in read_manifest(home.media)}
    with home.db.read() as connection:
        examples, left_out = _history(connection, assets)
    training = prediction.fit(examples, rng)
    with home.db.write() as connection:
        result = TrainingResult(_new_id(connection, now), now, training, left_out)
        record = {**result.as_dict(), "model": training.model}
        journal.add_model(connection, result.id, now, training.status, record)
    return result


def _history(
    connection: sa.Connection, assets: dict[str, MediaAsset]
) -> tuple[list[Example], dict[str, int]]:
    """The examples of every archived experiment, and how many experiments gave none, by reason."""
    examples: list[Example] = []
    left_out = Counter({INVALID: 0, UNDECIDED: 0, UNINFORMATIVE: 0})
    for experiment in experiments.with_status(connection, Status.ARCHIVED):
        lessons = _examples(connection, experiment, assets)
        if isinstance(lessons, str):
            left_out[lessons] += 1
        else:
            examples += lessons
    return examples, dict(left_out)


def _examples(
    connection: sa.Connection, experiment: Experiment, assets: dict[str, MediaAsset]
) -> tuple[Example, ...] | str:
    """What the experiment teaches, or why it teaches nothing."""
    last = decisions.latest(connection, experiment.id, limit=1)
    if not last or not last[0].final:
        return UNDECIDED
    if last[0].verdict is Verdict.INVALID:
        return INVALID
    if last[0].stopped_without_proof:  # what is behind is what stops early, so its place teaches nothing
        return UNINFORMATIVE
    return prediction.examples_of(experiment, last[0].cells, assets) or UNINFORMATIVE


def _new_id(connection: sa.Connection, now: datetime) -> str:
    """Tells the moment; numbered, for a simulated clock may stand still."""
    return f"model:{now:%Y%m%dT%H%M%SZ}:{journal.models_trained_at(connection, now) + 1:03d}"
