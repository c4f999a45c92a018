"""What became of leads offline, imported from a table.

An outcome is stored as an event of its own goal, for the whole site: it belongs to the visitor, so it is told of
every experiment that the visitor met, and it decides nothing. One whose lead or visitor is not known here is kept
in quarantine; importing the same table again takes up those that have become known since, and changes nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cro_core.errors import Conflict
from cro_core.home import Home
from cro_core.importing import outcome_batch
from cro_core.importing.files import read
from cro_core.importing.import_report import OutcomeReport
from cro_core.importing.loading import load_outcomes
from cro_core.importing.outcome_table import batches
from cro_core.ingest.pseudonym import pseudonym
from cro_core.storage import experiments, outcome_store
from cro_core.workflows.transaction import begin


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
    chosen = load_outcomes(mapping)
    source = read(Path(file), chosen)
    quiet = None if progress is None else not progress
    counts = Counter[str]()
    first: dict[str, int] = {}
    with home.lock("import"), tqdm(desc=f"importing {source.name}", unit=" rows", disable=quiet) as bar:
        _open_goal(home, chosen.goal, source.name, now)
        for batch in batches(source, chosen, partial(pseudonym, home.salt)):
            with home.db.read() as connection:
                placed = outcome_batch.place(connection, batch)
            with home.db.write() as connection:
                stored = outcome_batch.store(connection, batch, placed, now)
            counts += stored.counts
            first = stored.first | first
            bar.update(len(batch.rows))
    reasons = {name: n for name, n in counts.most_common() if name not in ("rows", "stored", "known")}
    return OutcomeReport(
        chosen.goal, source.name, counts["rows"], counts["stored"], counts["known"], reasons, first
    )


def _open_goal(home: Home, goal: str, file: str, now: datetime) -> None:
    """Notes that the goal is an outcome.

    Raises:
        Conflict: experiments count it already, so that it could change what they decide.
    """
    with begin(home, now=now, actor="import") as transaction:
        connection = transaction.connection
        if goal in outcome_store.goals(connection):
            return
        taken = [
            e.id for e in experiments.with_status(connection) if any(g.name == goal for g in e.plan.goals)
        ]
        if taken:
            raise Conflict(
                f"goal {goal} is counted by {', '.join(taken[:3])}: give the outcome a name of its own, "
                "so that it cannot change a decision"
            )
        outcome_store.add_goal(connection, goal, first_file=file)
        transaction.log("outcomes.import", goal, after={"file": file})
