"""What a visitor sees: every running experiment's variant, and production where nothing runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cro_core.assignment.buckets import assign
from cro_core.clock import iso
from cro_core.domain import Experiment, Variant
from cro_core.errors import InvalidInput
from cro_core.home import Home
from cro_core.ingest.pseudonym import pseudonym
from cro_core.ingest.user_agents import classify
from cro_core.storage import events
from cro_core.workflows.catalog import catalog


def assignments(
    home: Home, visitor: str, *, now: datetime, user_agent: str | None = None, opted_out: bool = False
) -> dict[str, Any]:
    """The variants of one visitor, as the website wants them.

    A unit that was exposed keeps its variant, whatever the shares do later. An unexposed assignment
    holds until its epoch ends (``expires_at``). A bot or an opted-out visitor gets the control and
    ``counted: false``: the website must post nothing for it.

    Raises:
        InvalidInput: no visitor id, or one longer than 200 characters.
    """
    visitor = visitor.strip()  # as events do, so that both mean the same unit
    if not 1 <= len(visitor) <= 200:
        raise InvalidInput(f"visitor has {len(visitor)} characters: give an id of 1 to 200", field="visitor")
    uncounted = "opted_out" if opted_out else "bot" if classify(user_agent).bot else None
    with home.db.read() as connection:
        known = catalog(home, connection)
        sticky: Mapping[str, Any] = {}
        if known.running and uncounted is None:
            unit = pseudonym(home.salt, visitor)
            sticky = events.sticky_variants(connection, unit, [e.id for e in known.running])
    running = [_assignment(e, visitor, sticky.get(e.id), uncounted, now) for e in known.running]
    busy = {e.slot for e in known.running}
    return {
        "as_of": iso(now),
        "experiments": running,
        "production": [
            _production(slot, entry) for slot, entry in known.production.items() if slot not in busy
        ],
    }


def _assignment(
    experiment: Experiment,
    visitor: str,
    sticky: Mapping[str, Any] | None,
    uncounted: str | None,
    now: datetime,
) -> dict[str, Any]:
    if uncounted is not None:
        return _answer(experiment, experiment.control, uncounted)
    if sticky is not None:
        variant = experiment.variant(sticky["variant"]) or experiment.control
        return _answer(experiment, variant, "exposed", sticky["epoch"], sticky["propensity"], counted=True)
    epoch = experiment.epoch_at(now)
    enrolment_ends_at = experiment.enrolment_ends_at
    if epoch is None or enrolment_ends_at is None or now >= enrolment_ends_at:
        return _answer(experiment, experiment.control, "enrolment_closed")
    shares = [epoch.shares[v.key] for v in experiment.variants]
    chosen = experiment.variants[assign(visitor, experiment.seed, shares)]
    expires = iso(min(epoch.ends_at, enrolment_ends_at))
    return _answer(
        experiment, chosen, "assigned", epoch.number, epoch.shares[chosen.key], expires, counted=True
    )


def _answer(
    experiment: Experiment,
    variant: Variant,
    reason: str,
    epoch: int | None = None,
    propensity: float | None = None,
    expires_at: str | None = None,
    *,
    counted: bool = False,
) -> dict[str, Any]:
    return {
        "test_id": experiment.id,
        "variant_id": variant.key,
        "slot": experiment.slot,
        "config": dict(variant.config),
        "asset_id": variant.asset_id,
        "reason": reason,
        "counted": counted,
        "epoch": epoch,
        "propensity": propensity,
        "expires_at": expires_at,
    }


def _production(slot: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "slot": slot,
        "test_id": entry["experiment_id"],
        "variant_id": entry["variant"],
        "config": entry["config"],
        "asset_id": entry["asset_id"],
    }
