"""Forgetting a visitor: removed from the database, from the lake with its older versions, and from the quarantine.

Nothing of a single visitor is anywhere else: decisions, looks and the models that are trained on them hold counts
and sums of whole groups, the audit trail names nobody, and the filters of sealed ids know event ids only, as bits
that nobody can read back. What a person has exported, or put into a backup, is out of reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cro_core.errors import InvalidInput
from cro_core.home import Home
from cro_core.ingest.pseudonym import pseudonym
from cro_core.storage import erasure, journal
from cro_core.storage.sealing import Sealer, events_of
from cro_core.workflows.seal import only_sealer

FORGET = "visitor.forget"
SUBJECT = "visitor"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was removed."""

    visitors: int
    """How many were asked for, known or not."""
    events: int
    sealed_events: int
    """How many of the events were in the lake."""
    exposures: int
    quarantined: int

    @property
    def text(self) -> str:
        """What was removed, in a sentence."""
        return (
            f"Removed {self.events:,} events ({self.sealed_events:,} of them sealed), {self.exposures:,} exposures "
            f"and {self.quarantined:,} quarantined items of {self.visitors} visitor(s)."
        )


def forget(home: Home, visitors: Sequence[str], *, now: datetime, actor: str) -> Forgotten:
    """Removes visitors for good. Whatever stops it, it can be called again, and then ends what was begun.

    What a visitor does afterwards is stored again: the website has to stop sending it.

    Args:
        home: the site.
        visitors: ids as the website posts them.
        now: the moment.
        actor: who is named in the audit trail, which does not name the visitors.

    Raises:
        InvalidInput: an id is empty.
        Busy: another process seals or erases.
        StoreError: the lake or the store's files cannot be cleaned now.
    """
    names = [visitor.strip() for visitor in visitors]
    if not names or not all(names):
        raise InvalidInput("visitor is empty: give the id that the website posts as user_id", field="visitor")
    units = sorted({pseudonym(home.salt, name) for name in names})
    with only_sealer(home, now) as sealer:
        forgotten = _remove(sealer, units, actor)
        sealer.clean()
    return forgotten


def _remove(sealer: Sealer, units: Sequence[str], actor: str) -> Forgotten:
    held = sealer.holding("unit", units)
    with sealer.database.read() as connection:
        sessions = erasure.sessions(connection, units) | {one.session for one in held if one.session}
        items, last = erasure.suspects(connection, sessions.union(units))
    with sealer.rewriting({one.day for one in held}, "forget", without=units) as connection:
        # Whoever is forgotten may have come again in the meantime.
        sessions |= erasure.sessions(connection, units)
        newer, _ = erasure.suspects(connection, sessions.union(units), last)
        events, exposures = erasure.delete_visitors(connection, units)
        erasure.delete_quarantined(connection, [*items, *newer])
        sealed = events_of(held)
        erasure.add_to_receipts(connection, events + sealed)
        erasure.mark(connection)
        forgotten = Forgotten(
            len(units), (events + sealed).total(), sealed.total(), exposures, len(items) + len(newer)
        )
        journal.log(connection, at=sealer.now, actor=actor, action=FORGET, subject=SUBJECT, after=forgotten)
    return forgotten
