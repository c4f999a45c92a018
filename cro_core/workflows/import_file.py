"""A table of visitors or an event log, made into an experiment: read, check, store, and perhaps replay.

The events go through the ingestion's own rules and storage, in batches. Each batch is stored together with
the note of how far the import is, so that an import that was cut off is taken up where it stopped, and one
that was completed changes nothing when it is repeated. The experiment appears when all its events are there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from tqdm import tqdm

from cro_core.analytics import reader
from cro_core.decision import Judgement, decide
from cro_core.domain import Decision, Event, Experiment
from cro_core.errors import Conflict
from cro_core.home import Home
from cro_core.importing import ledger
from cro_core.importing.experiment import HOUR, experiment_of
from cro_core.importing.files import Source, read
from cro_core.importing.import_report import ImportReport, Replay
from cro_core.importing.loading import load_mapping
from cro_core.importing.mapping import ImportMapping
from cro_core.importing.refusal import refuse
from cro_core.importing.rows import FileEvents, prepare
from cro_core.ingest.cleaning import Rejection, Rules
from cro_core.ingest.cleaning_by_column import clean_columns
from cro_core.ingest.pseudonym import pseudonym
from cro_core.storage import events as event_store
from cro_core.storage import experiments, journal, look_states
from cro_core.workflows.evaluate import evaluate
from cro_core.workflows.seal import leaving_out

BATCH = 20_000
"""Rows in one transaction: few enough that a service on the same store waits a second at most, and enough
that the pages of its indexes are not written again and again."""

LIVE = "-live"
"""Ends the id of a replayed experiment: the finished one of the same file may stand beside it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What becomes of some rows."""

    stop: int
    """The row after the last."""
    events: list[Event]
    rejections: list[Rejection]
    """Rejections of rows and of events."""
    refused: list[str]
    """Why the ingestion did not accept an event, for each of those."""


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
    replay = _replay(home, experiment, file_events, quiet) if as_live else None
    return _report(source, chosen, file_events, former, entry, replay)


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
        found = ledger.find(connection, experiment_id)
    if found is not None and found.fingerprint != source.fingerprint and replace_former:
        with leaving_out(home, experiment_id, now=now) as connection:
            ledger.remove(connection, experiment_id)
        found = None
    if found is None:
        with home.db.read() as connection:
            _check_free(connection, experiment_id)
        return ledger.Entry(source.fingerprint)
    if found.fingerprint != source.fingerprint:
        raise Conflict(
            f"experiment {experiment_id} was imported from another file or with another mapping: "
            "give a new experiment.id, or --replace it"
        )
    return found


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
        for batch in _batches(file_events, entry.next_row, rules):
            with home.db.write() as connection:
                accepted = event_store.record(connection, batch.events, batch.rejections, now)
                bar.update(batch.stop - entry.next_row)
                entry = entry.plus(batch.stop, accepted, len(batch.events) - accepted, batch.refused)
                ledger.save(connection, experiment.id, entry)
    entry = replace(entry, done=True)
    with home.db.write() as connection:
        experiments.add(connection, experiment)
        after = {
            "file": source.name,
            "mapping": file_events.mapping.source,
            "rows": file_events.rows,
            "events": entry.accepted,
            "fingerprint": source.fingerprint,
        }
        journal.log(
            connection, at=now, actor="import", action="experiment.import", subject=experiment.id, after=after
        )
        ledger.save(connection, experiment.id, entry)
    return entry


def _batches(file_events: FileEvents, start: int, rules: Rules) -> Iterator[Batch]:
    """The rest of the file's events, checked; one batch ahead of the store, which mostly waits for the disk."""
    checked = _checked(file_events, start, rules)
    with ThreadPoolExecutor(max_workers=1) as worker:
        upcoming = worker.submit(next, checked, None)
        while (ready := upcoming.result()) is not None:
            upcoming = worker.submit(next, checked, None)
            yield ready


def _checked(file_events: FileEvents, start: int, rules: Rules) -> Iterator[Batch]:
    for placed in file_events.placed():
        for first in range(max(start, placed.start), placed.stop, BATCH):
            stop = min(first + BATCH, placed.stop)
            columns, rejections = placed.batch(first, stop, rules.hash)
            events, refused = clean_columns(columns, rules)
            yield Batch(stop, events, [*rejections, *refused], [rejection.error for rejection in refused])


def _replay(home: Home, experiment: Experiment, file_events: FileEvents, quiet: bool | None) -> Replay:
    """Looks at the end of every hour until a decision is final, as the hourly cycle would have.

    The looks are stored together with the end, so that a replay that was cut off begins anew, and one that
    was completed is only read.
    """
    with home.db.read() as connection:
        stored = experiments.get(connection, experiment.id)
    if stored.ended_at is None:
        judgements = _looks(home, stored, quiet)
        stored = replace(stored, ended_at=judgements[-1].decision.as_of)
        with home.db.write() as connection:
            for found in judgements:
                if found.looked:
                    look_states.add(connection, found.decision, found.state.as_json())
            experiments.update(connection, stored)
    decision = evaluate(home, stored.id, as_of=stored.ended_at or file_events.ended_at)
    return _replayed(round((decision.as_of - file_events.started_at) / HOUR) - 1, decision)


def _looks(home: Home, experiment: Experiment, quiet: bool | None) -> list[Judgement]:
    """What was found at the end of each hour, up to the look that ends the experiment; at least one."""
    started_at, found = experiment.started_at, list[Judgement]()
    if started_at is None:  # an experiment starts with its first exposure
        raise Conflict(f"experiment {experiment.id} has no start: import it anew with --replace")
    hours = range(1, math.ceil(experiment.plan.horizon / HOUR) + 1)
    with (
        home.db.read() as connection,
        reader.reading(connection, experiment, started_at + hours[-1] * HOUR) as reading,
        tqdm(hours, "replaying hours", unit=" h", disable=quiet) as bar,
    ):
        for hour in bar:
            as_of = started_at + hour * HOUR
            cells = reading.at(as_of).cells()
            state = found[-1].state if found else None
            found.append(decide(experiment, cells, as_of=as_of, state=state))
            if found[-1].decision.final:
                break
    return found


def _replayed(hour: int, decision: Decision) -> Replay:
    counted = tuple(
        {key: t[key] for key in ("variant", "units", "conversions")} for t in decision.evidence["totals"]
    )
    planned = decision.evidence["look"]["planned_units"]
    return Replay(hour, decision.as_of, decision.verdict.value, planned, counted, decision.text)


def _report(
    source: Source,
    mapping: ImportMapping,
    file_events: FileEvents,
    former: ledger.Entry,
    entry: ledger.Entry,
    replay: Replay | None,
) -> ImportReport:
    return ImportReport(
        experiment_id=file_events.experiment_id,
        file=source.name,
        mapping=mapping.source,
        rows=file_events.rows,
        left_out=file_events.left_out,
        rejected=file_events.rejected_by_reason,
        first_rejected=file_events.first_rejected,
        units=file_events.units,
        repeated_exposures=file_events.repeated_exposures,
        units_in_several_variants=file_events.units_in_several_variants,
        units_crossing=file_events.units_crossing,
        accepted=entry.accepted - former.accepted,
        duplicates=entry.duplicates - former.duplicates + former.accepted,
        started_at=file_events.started_at,
        ended_at=file_events.ended_at,
        unchanged=former.done,
        resumed_at=former.next_row if former.next_row and not former.done else None,
        notes=(*source.notes, *_notes(file_events)),
        replay=replay,
        refused=entry.refused,
    )


def _notes(file_events: FileEvents) -> Iterator[str]:
    if file_events.unexposed_goals:
        yield (
            f"{file_events.unexposed_goals:,} of {file_events.goals:,} goals are of units without an exposure, and cannot count: "
            "do exposures and goals name the same units?"
        )
