"""How the site's pictures and clips did, over all experiments that showed them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

import numpy as np
import sqlalchemy as sa

from cro_core.analytics import reader
from cro_core.domain import Cell, Experiment, Verdict
from cro_core.errors import InvalidInput
from cro_core.home import Home
from cro_core.hypotheses.media_manifest import read_manifest
from cro_core.learning.asset_ranking import Appearance, Ranking, rank
from cro_core.storage import decisions, experiments

SEED = 20240229
"""Seed of the draws behind the probability of being best: the same data give the same page."""


def asset_ranking(home: Home, *, now: datetime) -> Ranking:
    """Every asset that an experiment has shown, the best first, and those that none has; changes nothing.

    Ended experiments count as they were decided, running ones as of now. Left out is what a decision called
    invalid. A manifest that cannot be read hides the untried assets, not the ranking.
    """
    with home.db.read() as connection:
        by_id = {experiment.id: experiment for experiment in experiments.with_status(connection)}
        appearances = list(_appearances(connection, by_id.values(), now))
        on_site = {
            variant.asset_id
            for entry in decisions.production(connection).values()
            if (experiment := by_id.get(entry["experiment_id"]))
            and (variant := experiment.variant(entry["variant"]))
            and variant.asset_id
        }
    try:
        media = [asset.id for asset in read_manifest(home.media)]
    except InvalidInput:  # the cycle reports it
        media = []
    return rank(appearances, media, now=now, rng=np.random.default_rng(SEED), on_site=on_site)


def _appearances(
    connection: sa.Connection, experiments: Iterable[Experiment], now: datetime
) -> Iterator[Appearance]:
    for experiment in experiments:
        assets = {v.key: v.asset_id for v in experiment.variants}
        if experiment.started_at is None or not any(assets.values()):
            continue
        cells = _cells(connection, experiment, now)
        if cells is not None:
            yield Appearance(experiment.id, experiment.judged_at(now), assets, cells)


def _cells(connection: sa.Connection, experiment: Experiment, now: datetime) -> tuple[Cell, ...] | None:
    """What was counted; ``None`` where it cannot be trusted."""
    last = next(iter(decisions.latest(connection, experiment.id, limit=1)), None)
    if last is not None and last.verdict is Verdict.INVALID:
        return None
    if last is not None and last.final and experiment.ended_at is not None:
        return last.cells
    with reader.reading(connection, experiment, experiment.judged_at(now)) as reading:
        return reading.cells()
