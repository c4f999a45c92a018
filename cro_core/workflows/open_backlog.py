"""The backlog of a home: what its media and its present winners suggest to test, less what has been tried."""

from __future__ import annotations

import sqlalchemy as sa

from cro_core.errors import NotFound
from cro_core.home import Home
from cro_core.hypotheses.backlog import CTA, HERO, Hypothesis, Incumbent, generate
from cro_core.hypotheses.media_manifest import read_manifest
from cro_core.storage import decisions, experiments


def open_backlog(connection: sa.Connection, home: Home) -> list[Hypothesis]:
    """What could be started, the most promising first: not tried, not declined by a person.

    Raises:
        InvalidInput: the media manifest is refused; the message names the item.
    """
    declined = {
        proposal["subject"]
        for status in (decisions.REJECTED, decisions.WITHDRAWN)
        for proposal in decisions.recommendations(connection, status)
        if proposal["kind"] == "start"
    }
    return [h for h in _untried(connection, home) if h.id not in declined]


def find(connection: sa.Connection, home: Home, hypothesis_id: str) -> Hypothesis:
    """The hypothesis of that id, with what its slot shows now as the control.

    Raises:
        NotFound: there is none, or it has been tried since; the message names those there are.
        InvalidInput: the media manifest is refused.
    """
    backlog = _untried(connection, home)
    for hypothesis in backlog:
        if hypothesis.id == hypothesis_id:
            return hypothesis
    choices = ", ".join(h.id for h in backlog) or "(the backlog is empty: add pictures or clips)"
    raise NotFound(f"hypothesis {hypothesis_id!r} is not in the backlog: choose from {choices}")


def _untried(connection: sa.Connection, home: Home) -> list[Hypothesis]:
    assets = read_manifest(home.media)
    tried = {slot: _tried(connection, slot) for slot in (HERO, CTA)}
    suggested = generate(assets, _incumbents(connection), tried)
    taken = experiments.stored_ids(connection, [h.id for h in suggested])
    return [h for h in suggested if h.id not in taken]


def _incumbents(connection: sa.Connection) -> dict[str, Incumbent]:
    """What experiments have put into the slots, as the variants they were."""
    incumbents = {}
    for slot, entry in decisions.production(connection).items():
        variant = experiments.get(connection, entry["experiment_id"]).variant(entry["variant"])
        if variant is not None:
            incumbents[slot] = Incumbent(entry["experiment_id"], variant)
    return incumbents


def _tried(connection: sa.Connection, slot: str) -> set[str]:
    """Assets and texts that any experiment of the slot has, drafts included."""
    tried = set()
    for experiment in experiments.in_slot(connection, slot):
        for variant in experiment.variants:
            tried |= {str(x) for x in (variant.asset_id, variant.config.get("text")) if x}
    return tried
