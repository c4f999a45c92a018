"""Undoing what the autopilot has changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from cro_core.clock import iso, parse_time
from cro_core.domain import Status
from cro_core.errors import Conflict, NotFound
from cro_core.home import Home
from cro_core.storage import decisions, experiments, journal, split_alarms
from cro_core.workflows.lifecycle import ALLOCATE, CONCLUDE, CUT, EXPLAIN, PRODUCE, START
from cro_core.workflows.proposals import withdraw
from cro_core.workflows.transaction import AUTOPILOT, Transaction, begin


def undoable(connection: sa.Connection) -> list[dict[str, Any]]:
    """The changes that can still be undone, newest first: automatic ones, and how alarms of a split were settled."""
    standing = [c for c in journal.trail(connection) if c["action"] in _UNDO and c["undone_by"] is None]
    settled = settlements(standing, {e.id for e in experiments.with_status(connection, Status.RUNNING)})
    return [
        c for c in standing if (c["id"] in settled if c["action"] in SETTLING else c["actor"] == AUTOPILOT)
    ]


def settlements(trail: Iterable[Mapping[str, Any]], running: Collection[str]) -> set[int]:
    """Numbers of the changes that settled alarms of a split and can be undone.

    That is while the experiment runs; and of several cuts of an experiment the newest, for what was judged anew
    after it was judged without all of them.

    Args:
        trail: changes that nobody has undone, newest first.
        running: ids of the running experiments.
    """
    numbers, cut = set(), set()
    for change in trail:
        subject, action = change["subject"], change["action"]
        if action not in SETTLING or subject not in running or (action == CUT and subject in cut):
            continue
        numbers.add(change["id"])
        cut |= {subject} if action == CUT else set()
    return numbers


def rollback(home: Home, change: int | None = None, *, now: datetime, actor: str) -> str:
    """Undoes a change of :func:`undoable` (default: the newest automatic one); returns what was done, in words.

    The site shows again what it showed before, and an alarm of a split that was settled stands again. A test that was
    ended does not collect again: continuing a stopped test would cost it its validity, so it stays archived, without
    a winner.

    Raises:
        NotFound: nothing to undo, or no such change.
        Conflict: it cannot be undone, or something newer rests on it.
    """
    with begin(home, now=now, actor=actor) as transaction:
        connection = transaction.connection
        candidates = undoable(connection)
        automatic = [c for c in candidates if c["actor"] == AUTOPILOT]
        if change is None and not automatic:
            raise NotFound("there is no automatic change to undo")
        entry = journal.change(connection, change) if change is not None else automatic[0]
        if entry["id"] not in {c["id"] for c in candidates}:
            raise Conflict(
                f"change {entry['id']} ({entry['action']} by {entry['actor']}) cannot be undone, or is undone already"
            )
        done = _UNDO[entry["action"]](transaction, entry)
        restored = {"change": entry["id"], "restored": entry["before"]}
        number = transaction.log("rollback", entry["subject"], before=entry["after"], after=restored)
        journal.mark_undone(connection, entry["id"], number)
        return done


def _undo_start(transaction: Transaction, entry: Mapping[str, Any]) -> str:
    connection = transaction.connection
    experiment = experiments.get(connection, entry["subject"])
    if experiment.status is not Status.RUNNING:
        raise Conflict(
            f"experiment {experiment.id} is {experiment.status} already: undo its decision instead"
        )
    experiments.update(connection, replace(experiment, status=Status.ARCHIVED, ended_at=transaction.now))
    return f"{experiment.id}: ended; its slot shows production again"


def _undo_conclude(transaction: Transaction, entry: Mapping[str, Any]) -> str:
    connection = transaction.connection
    experiment = experiments.get(connection, entry["subject"])
    shipped = _standing(connection, experiment.slot, PRODUCE)
    own = next((c for c in shipped if c["after"]["experiment_id"] == experiment.id), None)
    if own is not None:
        _undo_production(transaction, own)
        journal.mark_undone(connection, own["id"], entry["id"])
    experiments.update(connection, replace(experiment, status=Status.ARCHIVED, winner=None))
    withdraw(transaction, experiment.id)
    return f"{experiment.id}: decision taken back; the site shows what it showed before"


def _undo_allocation(transaction: Transaction, entry: Mapping[str, Any]) -> str:
    connection = transaction.connection
    experiment = experiments.get(connection, entry["subject"])
    if experiment.status is not Status.RUNNING:
        raise Conflict(f"experiment {experiment.id} is {experiment.status} already: no share of it will move")
    newest = _standing(connection, experiment.id, ALLOCATE)[0]
    if newest["id"] != entry["id"]:
        raise Conflict(
            f"the shares of {experiment.id} moved again with change {newest['id']}: undo that first"
        )
    experiments.set_future_shares(connection, experiment, entry["before"]["shares"], transaction.now)
    return f"{experiment.id}: shares of the coming days are {entry['before']['shares']} again"


def _undo_production(transaction: Transaction, entry: Mapping[str, Any]) -> str:
    connection = transaction.connection
    slot, before = entry["subject"], entry["before"]
    shown = decisions.production(connection).get(slot)
    if shown is None or shown["decision_id"] != entry["after"]["decision_id"]:
        newer = f", {shown['variant']} of {shown['experiment_id']}" if shown else ""
        raise Conflict(f"slot {slot} shows something newer by now{newer}: undo that first")
    decisions.set_production(connection, slot, None if before is None else _revive(before))
    return f"{slot}: shows " + (
        f"{before['variant']} of {before['experiment_id']} again"
        if before
        else "the site's own default again"
    )


def _undo_settlement(transaction: Transaction, entry: Mapping[str, Any]) -> str:
    connection, experiment_id = transaction.connection, entry["subject"]
    settled = {tuple(key) for key in entry["after"]["settled"]}
    named = f"{entry['after']['dimension']} {entry['after']['name']}"
    for alarm in split_alarms.of(connection, experiment_id):
        if (alarm.dimension, alarm.name, iso(alarm.first_at)) not in settled:
            continue
        if alarm.log_e:
            split_alarms.settle(connection, experiment_id, alarm.unsettled)
        else:  # it had not alarmed: it was only cut out
            split_alarms.remove(connection, experiment_id, alarm)
    if entry["action"] == CUT:
        return f"{experiment_id}: the slice {named} counts again, and alarms from before it was cut out stand again"
    return f"{experiment_id}: the alarm of {named} stands again"


def _standing(connection: sa.Connection, subject: str, action: str) -> list[dict[str, Any]]:
    """The changes of one kind that nobody has undone, newest first."""
    changes = journal.trail(connection, subject=subject)
    return [change for change in changes if change["action"] == action and change["undone_by"] is None]


def _revive(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, "since": parse_time(entry["since"])}


SETTLING = (EXPLAIN, CUT)
"""What a person does, and may take back."""

_UNDO: Mapping[str, Callable[[Transaction, Mapping[str, Any]], str]] = {
    EXPLAIN: _undo_settlement,
    CUT: _undo_settlement,
    START: _undo_start,
    CONCLUDE: _undo_conclude,
    ALLOCATE: _undo_allocation,
    PRODUCE: _undo_production,
}
