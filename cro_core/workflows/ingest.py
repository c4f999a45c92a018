"""Taking in events: clean, store at most once, acknowledge after the commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from cro_core.agents import Agent, classify
from cro_core.assignment import pseudonym
from cro_core.domain import Event
from cro_core.home import Home
from cro_core.ingestion import Rejection, Rules, clean
from cro_core.storage import events as store
from cro_core.workflows.catalog import catalog


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


def ingest(
    home: Home, items: Sequence[Any], *, now: datetime, user_agent: str | None = None, opted_out: bool = False
) -> Receipt:
    """Stores what was posted; when this returns, it is durable.

    Args:
        items: parsed JSON values, each meant as one event.
        now: time of arrival.
        user_agent: the client's header; a bot's events are stored, marked, and never counted.
        opted_out: the visitor must not be measured; nothing is stored, only counted.
    """
    if opted_out:
        with home.db.write() as connection:
            store.count_unstored(connection, "opted_out", len(items))
        return Receipt(0, 0, (), len(items))
    with home.db.read() as connection:
        known = catalog(home, connection).experiments
    agent = classify(user_agent) if user_agent else Agent()
    events, rejections = clean(items, Rules(known, now, partial(pseudonym, home.salt), agent))
    return store_events(home, events, rejections, now=now)


def store_events(
    home: Home, events: Sequence[Event], rejections: Sequence[Rejection], *, now: datetime
) -> Receipt:
    """Stores clean events and quarantines the rest, in one transaction."""
    with home.db.write() as connection:
        accepted = store.record(connection, events, rejections, now)
    return Receipt(accepted, len(events) - accepted, tuple(rejections))
