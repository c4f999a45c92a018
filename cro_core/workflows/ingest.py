"""Taking in events: clean, store at most once, acknowledge after the commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache, partial
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from cro_core.home import Home
from cro_core.ingest.cleaning import UNKNOWN, Place, Rejection, Rules, Sender, clean
from cro_core.ingest.pseudonym import pseudonym
from cro_core.ingest.user_agents import classify
from cro_core.storage.events import Posted, record_all
from cro_core.workflows import geolocate
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
    sender: Sender = UNKNOWN,
    opted_out: bool = False,
    save: Save | None = None,
) -> Receipt:
    """Stores what was posted; when this returns, it is durable.

    Args:
        items: parsed JSON values, each meant as one event.
        now: time of arrival.
        sender: who posts; the events of bots and of the site's own people are stored, marked, and never counted.
        opted_out: the visitor must not be measured; nothing is stored, only counted.
        save: what stores it; default a transaction of its own.
    """
    save = save or partial(save_alone, home)
    if opted_out:
        save(Posted((), (), now, len(items)))
        return Receipt(0, 0, (), len(items))
    rules = _rules(home, sender, now)
    events, rejections = clean(items, rules)
    if rejections:  # of an experiment that is too new to be remembered, perhaps
        with home.db.read() as connection:
            known = catalog(home, connection).experiments
        events, rejections = clean(items, replace(rules, experiments=known))
    accepted = save(Posted(events, rejections, now))
    return Receipt(accepted, len(events) - accepted, tuple(rejections))


def save_alone(home: Home, post: Posted) -> int:
    """Stores a post in a transaction of its own."""
    with home.db.write() as connection:
        return record_all(connection, [post])[0]


def _rules(home: Home, sender: Sender, now: datetime) -> Rules:
    """The rules for what this client posts; its address is looked at here, and goes no further."""
    privacy = home.config.privacy
    return Rules(
        remembered(home),
        now,
        partial(pseudonym, home.salt),
        classify(sender.user_agent),
        _place(home, sender),
        _is_internal(sender.address, privacy.internal_networks),
        privacy.internal_hosts,
    )


def _place(home: Home, sender: Sender) -> Place:
    locate = geolocate.locator(home)
    if locate is None or sender.address is None or (sender.place.city and sender.place.country):
        return sender.place
    return sender.place.or_else(locate(sender.address))


def _is_internal(address: str | None, networks: tuple[str, ...]) -> bool:
    if not networks or address is None:
        return False
    client = ip_address(address)
    return any(client in network for network in _networks(networks))


@lru_cache(maxsize=8)
def _networks(texts: tuple[str, ...]) -> list[IPv4Network | IPv6Network]:
    return [ip_network(text) for text in texts]
