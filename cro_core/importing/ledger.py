"""How far an import has come: written in the transaction that stores its events, so that it can be taken up anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Self

import sqlalchemy as sa

from cro_core.storage import schema
from cro_core.storage.experiments import bump_revision

PREFIX = "import:"

REASONS = 50
"""Most distinct reasons that are counted one by one: they may quote what a row holds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The state of an import, finished or not."""

    fingerprint: str
    """Fingerprint of the file and the mapping."""
    next_row: int = 0
    """The first row that is not stored yet."""
    accepted: int = 0
    duplicates: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    """Events that the ingestion did not accept, by reason."""
    done: bool = False

    def plus(self, next_row: int, accepted: int, duplicates: int, refused: list[str]) -> Self:
        """Returns the entry after one more batch."""
        counts = dict(self.refused)
        for reason in refused:
            name = reason if reason in counts or len(counts) < REASONS else "other reasons"
            counts[name] = counts.get(name, 0) + 1
        return replace(
            self,
            next_row=next_row,
            accepted=self.accepted + accepted,
            duplicates=self.duplicates + duplicates,
            refused=counts,
        )


def find(connection: sa.Connection, experiment_id: str) -> Entry | None:
    """Returns the state of the import that made this experiment, or ``None`` where no import did."""
    table = schema.home
    text = connection.scalar(sa.select(table.c.value).where(table.c.key == PREFIX + experiment_id))
    return None if text is None else Entry(**json.loads(text))


def save(connection: sa.Connection, experiment_id: str, entry: Entry) -> None:
    """Stores how far the import has come, in the caller's transaction."""
    _forget(connection, experiment_id)
    connection.execute(
        sa.insert(schema.home).values(key=PREFIX + experiment_id, value=json.dumps(asdict(entry)))
    )


def remove(connection: sa.Connection, experiment_id: str) -> None:
    """Removes an imported experiment with everything that its import stored."""
    for table in (
        schema.events,
        schema.exposures,
        schema.quarantine,
        schema.receipts,
        schema.looks,
        schema.engine_states,
        schema.split_alarms,
        schema.epochs,
        schema.variants,
    ):
        connection.execute(sa.delete(table).where(table.c.experiment_id == experiment_id))
    connection.execute(sa.delete(schema.experiments).where(schema.experiments.c.id == experiment_id))
    _forget(connection, experiment_id)
    bump_revision(connection)


def _forget(connection: sa.Connection, experiment_id: str) -> None:
    connection.execute(sa.delete(schema.home).where(schema.home.c.key == PREFIX + experiment_id))
