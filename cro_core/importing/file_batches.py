"""The events of a file in batches, checked by the ingestion's own rules while the batch before is stored."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cro_core.domain import Event
from cro_core.importing.rows import FileEvents
from cro_core.ingest.cleaning import Rejection, Rules
from cro_core.ingest.cleaning_by_column import clean_columns

BATCH = 20_000
"""Rows in one transaction: few enough that a service on the same store waits a second at most, and enough
that the pages of its indexes are not written again and again."""


@dataclass(frozen=True, slots=True)
class FileBatch:
    """What becomes of some rows."""

    stop: int
    """The row after the last."""
    events: list[Event]
    rejections: list[Rejection]
    """What is kept in quarantine, rows and events alike."""
    refused: list[str]
    """Why the ingestion did not accept an event, for each of those."""


def batches(file_events: FileEvents, start: int, rules: Rules) -> Iterator[FileBatch]:
    """The rest of the file's events, checked; one batch ahead of the store, which mostly waits for the disk."""
    checked = _checked(file_events, start, rules)
    with ThreadPoolExecutor(max_workers=1) as worker:
        upcoming = worker.submit(next, checked, None)
        while (ready := upcoming.result()) is not None:
            upcoming = worker.submit(next, checked, None)
            yield ready


def _checked(file_events: FileEvents, start: int, rules: Rules) -> Iterator[FileBatch]:
    for placed in file_events.placed():
        for first in range(max(start, placed.start), placed.stop, BATCH):
            stop = min(first + BATCH, placed.stop)
            columns, rejections = placed.batch(first, stop, rules.hash)
            events, refused = clean_columns(columns, rules)
            yield FileBatch(stop, events, [*rejections, *refused], [rejection.error for rejection in refused])
