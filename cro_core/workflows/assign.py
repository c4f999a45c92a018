"""What a visitor sees: every running experiment's variant, and production where nothing runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from cro_core.assignment.buckets import admitted, assign
from cro_core.domain import Experiment, Variant
from cro_core.errors import InvalidInput
from cro_core.home import Home
from cro_core.ingest.pseudonym import pseudonym
from cro_core.ingest.user_agents import classify
from cro_core.storage import events
from cro_core.workflows.catalog import catalog

Reason = Literal["assigned", "exposed", "bot", "opted_out", "not_admitted", "enrolment_closed"]


@dataclass(frozen=True, slots=True)
class AssignedVariant:
    """The variant that a visitor gets in a running experiment."""

    experiment_id: str
    variant: str
    slot: str
    config: Mapping[str, Any]
    """What the page applies."""
    asset_id: str | None
    reason: Reason
    """``exposed``: the visitor met it before and keeps it; the last four show the control and are not counted."""
    counted: bool = False
    """Whether an exposure of it may be posted."""
    epoch: int | None = None
    propensity: float | None = None
    """Planned share of the variant in that epoch; ``None`` where nothing is counted."""
    expires_at: datetime | None = None
    """When to ask again; ``None`` where the variant is kept, or the visitor will not be counted whenever it asks."""


@dataclass(frozen=True, slots=True)
class SlotContent:
    """What everyone sees in a slot where an experiment has put it and none runs now."""

    slot: str
    experiment_id: str
    variant: str
    config: Mapping[str, Any]
    asset_id: str | None


@dataclass(frozen=True, slots=True)
class VisitorVariants:
    """All that a page needs to show one visitor."""

    as_of: datetime
    experiments: tuple[AssignedVariant, ...]
    """A running experiment each, the oldest first."""
    production: tuple[SlotContent, ...]


def assignments(
    home: Home, visitor: str, *, now: datetime, user_agent: str | None = None, opted_out: bool = False
) -> VisitorVariants:
    """What one visitor sees.

    A unit that was exposed keeps its variant, whatever the shares do later. An unexposed assignment
    holds until its epoch ends (``expires_at``). A bot or an opted-out visitor gets the control, and it is not
    ``counted``: the website must post nothing for it. So does a visitor whom an experiment with more visitors than
    it needs does not let in.

    Raises:
        InvalidInput: no visitor id, or one longer than 200 characters.
    """
    visitor = visitor.strip()  # as events do, so that both mean the same unit
    if not 1 <= len(visitor) <= 200:
        raise InvalidInput(f"visitor has {len(visitor)} characters: give an id of 1 to 200", field="visitor")
    uncounted: Reason | None = "opted_out" if opted_out else "bot" if classify(user_agent).bot else None
    with home.db.read() as connection:
        known = catalog(home, connection)
        sticky: Mapping[str, Any] = {}
        if known.running and uncounted is None:
            unit = pseudonym(home.salt, visitor)
            sticky = events.sticky_variants(connection, unit, [e.id for e in known.running])
    busy = {e.slot for e in known.running}
    return VisitorVariants(
        now,
        tuple(_assigned(e, visitor, sticky.get(e.id), uncounted, now) for e in known.running),
        tuple(_content(slot, entry) for slot, entry in known.production.items() if slot not in busy),
    )


def _assigned(
    experiment: Experiment,
    visitor: str,
    sticky: Mapping[str, Any] | None,
    uncounted: Reason | None,
    now: datetime,
) -> AssignedVariant:
    if uncounted is not None:
        return _variant(experiment, experiment.control, uncounted)
    if sticky is not None:
        variant = experiment.variant(sticky["variant"]) or experiment.control
        return _variant(experiment, variant, "exposed", sticky["epoch"], sticky["propensity"], counted=True)
    epoch = experiment.epoch_at(now)
    enrolment_ends_at = experiment.enrolment_ends_at
    if epoch is None or enrolment_ends_at is None or now >= enrolment_ends_at:
        return _variant(experiment, experiment.control, "enrolment_closed")
    expires_at = min(epoch.ends_at, enrolment_ends_at)
    if not admitted(visitor, experiment.seed, experiment.plan.admitted):
        return _variant(experiment, experiment.control, "not_admitted", expires_at=expires_at)
    shares = [epoch.shares[v.key] for v in experiment.variants]
    chosen = experiment.variants[assign(visitor, experiment.seed, shares)]
    return _variant(
        experiment, chosen, "assigned", epoch.number, epoch.shares[chosen.key], expires_at, counted=True
    )


def _variant(
    experiment: Experiment,
    variant: Variant,
    reason: Reason,
    epoch: int | None = None,
    propensity: float | None = None,
    expires_at: datetime | None = None,
    *,
    counted: bool = False,
) -> AssignedVariant:
    return AssignedVariant(
        experiment.id,
        variant.key,
        experiment.slot,
        variant.config,
        variant.asset_id,
        reason,
        counted,
        epoch,
        propensity,
        expires_at,
    )


def _content(slot: str, entry: Mapping[str, Any]) -> SlotContent:
    return SlotContent(slot, entry["experiment_id"], entry["variant"], entry["config"], entry["asset_id"])
