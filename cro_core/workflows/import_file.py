"""A table of visitors or an event log, made into an experiment: read, check, store, and perhaps replay.

The events go through the ingestion's own rules and storage, in batches. Each batch is stored together with
the note of how far the import is, so that an import that was cut off is taken up where it stopped, and one
that was completed changes nothing when it is repeated. The experiment appears when all its events are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from tqdm import tqdm

from cro_core.domain import Experiment
from cro_core.errors import Conflict
from cro_core.home import Home
from cro_core.importing import ledger
from cro_core.importing.experiment import experiment_of
from cro_core.importing.file_batches import batches
from cro_core.importing.files import Source, read
from cro_core.importing.import_report import ImportReport, report_of
from cro_core.importing.loading import load_mapping
from cro_core.importing.mapping import ImportMapping
from cro_core.importing.refusal import refuse
from cro_core.importing.rows import FileEvents, prepare
from cro_core.ingest.cleaning import Rules
from cro_core.ingest.pseudonym import pseudonym
from cro_core.storage import events as event_store
from cro_core.storage import experiments
from cro_core.workflows.replay_hours import replay_hours
from cro_core.workflows.seal import leaving_out
from cro_core.workflows.transaction import begin

LIVE = "-live"
"""Ends the id of a replayed experiment: the finished one of the same file may stand beside it."""


def import_file(
    home: Home,
    file: Path | str,
    mapping: str | Path | Mapping[str, Any],
    *,
    now: datetime,
    as_live: bool = False,
    replace_former: bool = False,
    progress: bool | None = None,
) -> ImportReport:
    """Imports a file as one finished experiment, or replays it hour by hour as a running one.

    Args:
        home: where the experiment is stored.
        file: CSV, Parquet or NDJSON, gzipped or not; a folder where the mapping lists its files.
        mapping: name of a mapping that ships, path of a ``.toml``, or a mapping's content.
        now: time of arrival; no event may be later.
        as_live: evaluate under the configured horizon, an hour at a time; the id then ends in ``-live``.
        replace_former: remove what was imported under this id before, where it came from other data.
        progress: show progress bars; ``None`` only where a person sees them.

    Raises:
        NotFound: a file does not exist.
        MappingError: the mapping is refused, or does not fit the file.
        Conflict: the id is taken by an experiment that was not imported from this file with this mapping.
        Busy: another import is running.
    """
    chosen = load_mapping(mapping)
    if as_live:
        chosen = _as_live(chosen)
    source = read(Path(file), chosen)
    quiet = None if progress is None else not progress
    with tqdm(desc=f"reading {source.name}", unit=" rows", disable=quiet) as bar:
        file_events = prepare(source, chosen, now, bar.update)
    experiment = experiment_of(home.config, file_events, chosen, now, as_live)
    with home.lock("import"):
        former = _former(home, experiment.id, source, replace_former, now)
        entry = (
            former if former.done else _transfer(home, experiment, source, file_events, former, now, quiet)
        )
    replay = replay_hours(home, experiment, file_events, quiet) if as_live else None
    return report_of(source, chosen, file_events, former, entry, replay)


def _as_live(mapping: ImportMapping) -> ImportMapping:
    if mapping.columns.time is None:
        raise refuse(
            mapping.source,
            "columns.time",
            "one fixed time",
            "a time for every row, to replay it",
            "import it without --as-live",
        )
    live = mapping.experiment.model_copy(update={"id": mapping.experiment.id[: 100 - len(LIVE)] + LIVE})
    return mapping.model_copy(update={"experiment": live})


def _former(
    home: Home, experiment_id: str, source: Source, replace_former: bool, now: datetime
) -> ledger.Entry:
    """The entry of an earlier run of this very import, else a new one."""
    with home.db.read() as connection:
        former = ledger.find(connection, experiment_id)
    if former is not None and former.fingerprint != source.fingerprint and replace_former:
        with leaving_out(home, experiment_id, now=now) as connection:
            ledger.remove(connection, experiment_id)
        former = None
    if former is None:
        with home.db.read() as connection:
            _check_free(connection, experiment_id)
        return ledger.Entry(source.fingerprint)
    if former.fingerprint != source.fingerprint:
        raise Conflict(
            f"experiment {experiment_id} was imported from another file or with another mapping: "
            "give a new experiment.id, or --replace it"
        )
    return former


def _check_free(connection: sa.Connection, experiment_id: str) -> None:
    if experiments.stored_ids(connection, [experiment_id]):
        raise Conflict(f"experiment {experiment_id} exists and was not imported: give another experiment.id")


def _transfer(
    home: Home,
    experiment: Experiment,
    source: Source,
    file_events: FileEvents,
    entry: ledger.Entry,
    now: datetime,
    quiet: bool | None,
) -> ledger.Entry:
    """Stores the rest of the file's events, batch by batch, and then the experiment."""
    rules = Rules({experiment.id: experiment}, now, partial(pseudonym, home.salt))
    with tqdm(
        total=file_events.rows,
        initial=entry.next_row,
        desc=f"importing {source.name}",
        unit=" rows",
        disable=quiet,
    ) as bar:
        for batch in batches(file_events, entry.next_row, rules):
            with home.db.write() as connection:
                accepted = event_store.record(connection, batch.events, batch.rejections, now)
                bar.update(batch.stop - entry.next_row)
                entry = entry.plus(batch.stop, accepted, len(batch.events) - accepted, batch.refused)
                ledger.save(connection, experiment.id, entry)
    entry = replace(entry, done=True)
    with begin(home, now=now, actor="import") as transaction:
        experiments.add(transaction.connection, experiment)
        after = {
            "file": source.name,
            "mapping": file_events.mapping.source,
            "rows": file_events.rows,
            "events": entry.accepted,
            "fingerprint": source.fingerprint,
        }
        transaction.log("experiment.import", experiment.id, after=after)
        ledger.save(transaction.connection, experiment.id, entry)
    return entry
