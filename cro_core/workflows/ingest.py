"""Taking in events: clean, store at most once, acknowledge after the commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from cro_core.agents import Agent, classify
from cro_core.assignment import pseudonym
from cro_core.home import Home
from cro_core.ingestion import Rejection, Rules, clean
from cro_core.storage.events import Posted, record_all
from cro_core.workflows.catalog import catalog, remembered


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of the posted items; the three counts add up to what was posted."""

    accepted: int
    duplicates: int
    rejected: tuple[Rejection, ...] = ()
    not_stored: int = 0
    """Items of a visitor who opted out: counted, never stored."""

    def as_dict(self) -> dict[str, Any]:
        """The answer to the website."""
        return {
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "rejected": [{"index": r.index, "error": r.error} for r in self.rejected],
        }


Save = Callable[[Posted], int]
"""Stores a post durably and returns how many of its events were new."""


def ingest(
    home: Home,
    items: Sequence[Any],
    *,
    now: datetime,
    user_agent: str | None = None,
    opted_out: bool = False,
    save: Save | None = None,
) -> Receipt:
    """Stores what was posted; when this returns, it is durable.

    Args:
        items: parsed JSON values, each meant as one event.
        now: time of arrival.
        user_agent: the client's header; a bot's events are stored, marked, and never counted.
        opted_out: the visitor must not be measured; nothing is stored, only counted.
        save: what stores it; default a transaction of its own.
    """
    save = save or partial(save_alone, home)
    if opted_out:
        save(Posted((), (), now, len(items)))
        return Receipt(0, 0, (), len(items))
    hash_id = partial(pseudonym, home.salt)
    agent = classify(user_agent) if user_agent else Agent()
    events, rejections = clean(items, Rules(remembered(home), now, hash_id, agent))
    if rejections:  # of an experiment that is too new to be remembered, perhaps
        with home.db.read() as connection:
            known = catalog(home, connection).experiments
        events, rejections = clean(items, Rules(known, now, hash_id, agent))
    accepted = save(Posted(events, rejections, now))
    return Receipt(accepted, len(events) - accepted, tuple(rejections))


def save_alone(home: Home, post: Posted) -> int:
    """Stores a post in a transaction of its own."""
    with home.db.write() as connection:
        return record_all(connection, [post])[0]
