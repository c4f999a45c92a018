"""What became of leads offline: imported from a table, and told beside the experiments of their visitors.

An outcome is stored as an event of its own goal, for the whole site: it belongs to the visitor, so it is told of
every experiment that the visitor met, and it decides nothing. One whose lead or visitor is not known here is kept
in quarantine; importing the same table again takes up those that have become known since, and changes nothing else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from tqdm import tqdm

from cro_core.analytics import engines, event_scan, reader
from cro_core.decision.offline_outcomes import Outcomes, outcomes
from cro_core.domain import EXPOSURE, Experiment, Status, to_json
from cro_core.errors import Conflict
from cro_core.home import Home
from cro_core.ingest.pseudonym import pseudonym
from cro_core.storage import events as event_store
from cro_core.storage import experiments, journal, schema
from cro_core.storage.database import add_counts

PREFIX = "outcomes:"
"""In the home table: the goals that are outcomes."""

BATCH = 10_000
"""Rows in one transaction."""


@dataclass(frozen=True, slots=True)
class OutcomeReport:
    """What became of every row of a table of outcomes: they add up to ``rows``."""

    goal: str
    file: str
    rows: int
    stored: int
    """Outcomes stored by this run."""
    known: int
    """Outcomes that were stored before, or stand twice in the file."""
    unplaced: Mapping[str, int]
    """Rows in quarantine, by reason: a lead or visitor that is not known here, no time, no number ..."""
    first_unplaced: Mapping[str, int] = field(default_factory=dict)
    """The first row of each of these reasons, counted from 1 below the header."""

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON."""
        data: dict[str, Any] = to_json(self)
        return data | {"text": self.text}

    @property
    def text(self) -> str:
        """The report for people."""
        lines = [f"{self.file}: {self.rows:,} rows read as outcomes, goal {self.goal}."]
        lines += [
            f"  quarantine{n:>9,}  {reason} (first in row {self.first_unplaced[reason]:,})"
            for reason, n in self.unplaced.items()
        ]
        lines.append(f"{self.stored:,} outcomes stored, {self.known:,} stored before.")
        return "\n".join([*lines, "Next: `cro evaluate EXPERIMENT` shows them by variant"])


def import_outcomes(
    home: Home,
    file: Path | str,
    mapping: str | Path | Mapping[str, Any],
    *,
    now: datetime,
    progress: bool | None = None,
) -> OutcomeReport:
    """Imports a table of outcomes by lead or by visitor.

    Args:
        home: where the leads are.
        file: CSV, Parquet or NDJSON, gzipped or not.
        mapping: path of a ``.toml``, or its content: the goal's name and the columns.
        now: time of arrival; no outcome may be later.
        progress: show a progress bar; ``None`` only where a person sees it.

    Raises:
        NotFound: the file does not exist.
        MappingError: the mapping is refused, or does not fit the file.
        Conflict: the goal is one that experiments count already.
        Busy: another import is running.
    """
    from cro_core.importing.files import read
    from cro_core.importing.loading import load_outcomes

    chosen = load_outcomes(mapping)
    source = read(Path(file), chosen)
    quiet = None if progress is None else not progress
    hash_id = partial(pseudonym, home.salt)
    done = Counter[str]()
    first: dict[str, int] = {}
    with home.lock("import"), tqdm(desc=f"importing {source.name}", unit=" rows", disable=quiet) as bar:
        _open_goal(home, chosen.goal, source.name, now)
        for table in source.chunks():
            for start in range(0, len(table), BATCH):
                batch = _Batch(table.iloc[start : start + BATCH], chosen, hash_id)
                with home.db.read() as connection:
                    sorted_ = _sort(batch, *_lookup(connection, batch))
                with home.db.write() as connection:
                    result = _store(connection, batch, sorted_, now)
                done += result.counts
                first = result.first | first
                bar.update(len(batch.rows))
    reasons = {name: n for name, n in done.most_common() if name not in ("rows", "stored", "known")}
    return OutcomeReport(
        chosen.goal, source.name, done["rows"], done["stored"], done["known"], reasons, first
    )


def of_experiment(
    connection: sa.Connection, experiment: Experiment, as_of: datetime, *, engine: str = engines.DUCKDB
) -> tuple[Outcomes, ...]:
    """The outcomes of an experiment up to a moment, one entry for each goal that was ever imported.

    Which visitors count, and which of them are leads, is as the decision sees it: as of the experiment's end
    where it has ended. Empty where no outcome was ever imported.
    """
    names = goals(connection)
    if not names or experiment.started_at is None or experiment.status is Status.DRAFT:
        return ()
    moment = experiment.judged_at(as_of)
    with reader.reading(connection, experiment, moment, engine=engine) as reading:
        return tuple(outcomes(experiment, name, reading.outcomes(name, as_of)) for name in names)


def goals(connection: sa.Connection) -> list[str]:
    """The goals that are outcomes."""
    keys = connection.scalars(
        sa.select(schema.home.c.key).where(schema.home.c.key.startswith(PREFIX, autoescape=True))
    )
    return sorted(key.removeprefix(PREFIX) for key in keys)


def _open_goal(home: Home, goal: str, file: str, now: datetime) -> None:
    """Notes that the goal is an outcome.

    Raises:
        Conflict: experiments count it already, so that it could change what they decide.
    """
    with home.db.write() as connection:
        if goal in goals(connection):
            return
        taken = [
            e.id for e in experiments.with_status(connection) if any(g.name == goal for g in e.plan.goals)
        ]
        if taken:
            raise Conflict(
                f"goal {goal} is counted by {', '.join(taken[:3])}: give the outcome a name of its own, "
                "so that it cannot change a decision"
            )
        connection.execute(
            sa.insert(schema.home).values(key=PREFIX + goal, value=json.dumps({"first_file": file}))
        )
        journal.log(
            connection, at=now, actor="import", action="outcomes.import", subject=goal, after={"file": file}
        )


@dataclass(frozen=True, slots=True)
class _Row:
    """One outcome as the table tells it."""

    number: int
    """From 1 below the header."""
    id: str
    """Of its event: the same outcome has the same, whichever file brings it."""
    who: str | None
    """Lead as written, or hashed visitor."""
    time: str | None
    value: float | None
    problem: str | None
    """Why it cannot be an outcome whoever it belongs to."""
    payload: str
    """What the quarantine keeps."""


class _Batch:
    """Some rows of the table, read and hashed."""

    def __init__(self, table: Any, mapping: Any, hash_id: Any) -> None:
        self.goal: str = mapping.goal
        self.by_lead: bool = mapping.columns.lead is not None
        self.hash = hash_id
        self.rows = list(_rows(table, mapping, hash_id))


def _rows(table: Any, mapping: Any, hash_id: Any) -> Iterator[_Row]:
    import numpy as np
    import pandas as pd

    from cro_core.importing.rows import one_text
    from cro_core.importing.times import texts, to_utc

    columns = mapping.columns
    named = columns.lead or columns.visitor
    moments = to_utc(one_text(table, columns.time), mapping, "columns.time")
    times = [None if missing else text for missing, text in zip(moments.isna(), texts(moments), strict=True)]
    written = (
        pd.Series(None, index=table.index, dtype="str") if columns.value is None else table[columns.value]
    )
    amounts = pd.to_numeric(written, errors="coerce").astype(float)
    ids = table[columns.id] if columns.id is not None else pd.Series(None, index=table.index, dtype="str")
    cells = zip(table.index, ids, table[named], times, written, amounts, strict=True)
    for number, own, who, time, text, amount in cells:
        own, who, text = (None if pd.isna(cell) else str(cell).strip() or None for cell in (own, who, text))  # noqa: PLW2901
        problem = None
        if who is None:
            problem = f"the {'lead' if columns.lead else 'visitor'} (column {named}) is empty"
        elif columns.id is not None and own is None:
            problem = f"the id (column {columns.id}) is empty"
        elif time is None:
            problem = f"the time (column {' + '.join(columns.time)}) is empty or cannot be read"
        elif text is not None and not np.isfinite(amount):
            problem = f"the amount (column {columns.value}) is not a number"
        told = own if own is not None else f"{who}\n{time}\n{text}"
        id_ = "outcome:" + hash_id("\n".join((mapping.goal, told)))
        whose = who if columns.lead or who is None else hash_id(who)
        payload = {
            "outcome": id_,
            "goal": mapping.goal,
            "timestamp": time,
            "value": text if problem else None,
        }
        payload |= {"lead" if columns.lead else "visitor": None if who is None else hash_id(who)}
        yield _Row(
            int(number) + 1,
            id_,
            whose,
            time,
            None if text is None else float(amount),
            problem,
            json.dumps(payload),
        )


@dataclass(frozen=True, slots=True)
class _Sorted:
    """The rows of a batch, each outcome once."""

    known: int
    """Rows whose outcome is stored already, or stands in another row too."""
    good: list[tuple[_Row, str]]
    """With the unit that each belongs to."""
    bad: list[tuple[_Row, str]]
    """With the reason."""


@dataclass(frozen=True, slots=True)
class _Result:
    counts: Counter[str]
    first: dict[str, int]


def _sort(batch: _Batch, stored: set[str], units: Mapping[str, str]) -> _Sorted:
    distinct = {row.id: row for row in reversed(batch.rows)}
    found = _Sorted(0, [], [])
    what = "lead" if batch.by_lead else "visitor"
    for row in batch.rows:
        if row is not distinct[row.id] or row.id in stored:
            continue
        unit = units.get(row.who or "")
        if row.problem is None and unit:
            found.good.append((row, unit))
        elif row.problem is None and unit == SEVERAL:
            found.bad.append((row, "the lead belongs to several visitors"))
        else:
            found.bad.append((row, row.problem or f"the {what} is not known here"))
    return replace(found, known=len(batch.rows) - len(found.good) - len(found.bad))


def _store(connection: sa.Connection, batch: _Batch, found: _Sorted, now: datetime) -> _Result:
    """Stores the outcomes that are new and known, and keeps the others in quarantine, once."""
    from cro_core.ingest.cleaning import Rejection, Rules
    from cro_core.ingest.cleaning_by_column import clean_columns

    units = {unit for _, unit in found.good}
    # Units are hashes already; whatever else a rejection quotes is hashed.
    rules = Rules({}, now, lambda text: text if text in units else batch.hash(text))
    columns: dict[str, list[Any]] = {
        "id": [row.id for row, _ in found.good],
        "event_type": [batch.goal] * len(found.good),
        "user_id": [unit for _, unit in found.good],
        "timestamp": [row.time for row, _ in found.good],
        "value": [row.value for row, _ in found.good],
    }
    events, refused = clean_columns(columns, rules)
    bad = [*found.bad, *((found.good[r.index][0], r.error) for r in refused)]
    kept = _in_quarantine(connection, {row.id for row in batch.rows})
    rejections = [Rejection(row.number, reason, row.payload) for row, reason in bad if row.id not in kept]
    accepted = event_store.record(connection, events, rejections, now)
    _release(connection, [kept[event.id] for event in events if event.id in kept])
    counts = Counter(reason for _, reason in bad)
    counts += Counter(rows=len(batch.rows), stored=accepted, known=found.known + len(events) - accepted)
    return _Result(counts, {reason: row.number for row, reason in reversed(bad)})


SEVERAL = ""
"""In the place of a unit: the lead's events name more than one."""

POSTED = ("id", "unit", "type", "properties")

LEADS = """
SELECT lead, CASE WHEN MIN(unit) = MAX(unit) THEN MIN(unit) ELSE '' END AS unit
FROM (
    SELECT a.wanted AS lead, p.unit
    FROM posted p JOIN asked a ON a.wanted = p.id
    WHERE p.type <> $exposure
    UNION ALL
    SELECT a.wanted, p.unit
    FROM (
        SELECT unit, json_extract_string(properties, '$.lead_id') AS lead
        FROM posted
        WHERE type <> $exposure AND contains(properties, '"lead_id"')
    ) AS p JOIN asked a ON a.wanted = p.lead
) AS found
GROUP BY lead
"""
"""A lead is told by the id of an event, or by ``properties.lead_id``; :data:`SEVERAL` where they disagree."""


def _lookup(connection: sa.Connection, batch: _Batch) -> tuple[set[str], dict[str, str]]:
    """Which of the outcomes are stored already, and the unit of each lead or visitor that is known."""
    asked = {row.who for row in batch.rows if row.who}
    with event_scan.opened(connection) as session:
        wanted = schema.events.c.type == batch.goal
        if batch.by_lead:
            wanted = schema.events.c.type != EXPOSURE
        event_scan.view(session, "posted", connection, POSTED, wanted)
        event_scan.give(session, "asked", wanted=sorted(asked) or [""])
        event_scan.give(session, "own", wanted=[row.id for row in batch.rows])
        stored = session.execute(
            "SELECT DISTINCT p.id FROM posted p JOIN own ON own.wanted = p.id"
        ).fetchall()
        units = dict(session.execute(LEADS, {"exposure": EXPOSURE}).fetchall()) if batch.by_lead else {}
    if not batch.by_lead:
        units = {unit: unit for unit in _exposed(connection, sorted(asked))}
    return {name for (name,) in stored}, units


def _exposed(connection: sa.Connection, units: Sequence[str]) -> Iterator[str]:
    """Those of the units that met any experiment."""
    table = schema.exposures.c
    every = sa.select(schema.experiments.c.id)
    for start in range(0, len(units), 1_000):
        some = units[start : start + 1_000]
        yield from connection.scalars(
            sa.select(table.unit).where(table.experiment_id.in_(every), table.unit.in_(some))
        )


def _in_quarantine(connection: sa.Connection, wanted: set[str]) -> dict[str, int]:
    """Which of the outcomes are in quarantine, with the row there."""
    table = schema.quarantine.c
    head = json.dumps({"outcome": "outcome:"}).removesuffix('"}')
    rows = connection.execute(
        sa.select(table.id, table.payload).where(
            table.experiment_id.is_(None), table.payload.startswith(head, autoescape=True)
        )
    )
    found = ((json.loads(payload)["outcome"], number) for number, payload in rows)
    return {name: number for name, number in found if name in wanted}


def _release(connection: sa.Connection, rows: Sequence[int]) -> None:
    """Takes out of the quarantine what has become an event."""
    if rows:
        connection.execute(sa.delete(schema.quarantine).where(schema.quarantine.c.id.in_(rows)))
        add_counts(connection, {("", "rejected"): -len(rows)})
