"""What the dashboard and the API show: counts straight from the store, without statistics libraries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import perf_counter
from typing import Any

import sqlalchemy as sa

from cro_core.analytics import counts, reader
from cro_core.clock import iso
from cro_core.decision.split_wording import VETOING
from cro_core.domain import Epoch, Experiment, Status, Verdict, to_json
from cro_core.evidence import Comparison, Decision, NetValue, Totals
from cro_core.home import Home
from cro_core.storage import decisions, events, journal, split_alarms
from cro_core.workflows.catalog import catalog

FRESH = timedelta(minutes=5)
"""For so long at most a test is shown as it was counted last ..."""

SHARE = 100
"""... and for so many times as long as the counting took; not once a thousandth of the site's events is new."""


@dataclass(frozen=True, slots=True)
class VariantSoFar:
    """A variant of a running experiment; not to be read as a result before the experiment is decided."""

    variant: str
    name: str
    is_control: bool
    share: float | None
    """Planned share now, a fraction."""
    units: int
    """Visitors whose conversion window has passed."""
    conversions: int
    rate: float | None
    """Conversions per unit; ``None`` where nobody is counted."""
    engagement_score: float | None
    """Weighted goals per unit; ``None`` where nobody is counted."""


@dataclass(frozen=True, slots=True)
class RunningExperiment:
    """A running experiment with what was counted by ``as_of``."""

    experiment_id: str
    as_of: datetime
    name: str
    slot: str
    hypothesis: str
    occasion: str | None
    started_at: datetime | None
    ends_at: datetime | None
    """When its last look is due."""
    planned_units: int | None
    exposed_units: int
    """Visitors who met it."""
    counted_units: int
    """Exposed units whose conversion window has passed."""
    variants: tuple[VariantSoFar, ...]


@dataclass(frozen=True, slots=True)
class ProvenWinner:
    """A variant that was proven and shipped, and still stands."""

    experiment_id: str
    name: str
    slot: str
    variant: str
    decided_at: datetime
    decision: str
    """Id of the decision."""
    comparison: Comparison | None
    """The variant against the control, as the decision holds it; ``None`` where it holds none."""
    money: NetValue | None
    """What it is worth; ``None`` where nobody said what a conversion is worth."""
    text: str
    """The decision in one paragraph."""


@dataclass(frozen=True, slots=True)
class DecisionSummary:
    """A verdict and its paragraph."""

    id: str
    experiment_id: str
    as_of: datetime
    verdict: Verdict
    winner: str | None
    unproven: bool
    money: tuple[NetValue, ...]
    """What each challenger is worth; empty where nobody said what a conversion is worth."""
    text: str


@dataclass(frozen=True, slots=True)
class DecisionList:
    """The newest decisions, newest first, and the recommendations that wait for a person, oldest first."""

    decisions: tuple[DecisionSummary, ...]
    pending: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Counted:
    """A running experiment as it was counted last."""

    at: datetime
    until: datetime
    events: int
    """How many events of the site there were."""
    experiment: Experiment
    shown: RunningExperiment

    def holds(self, experiment: Experiment, events: int, now: datetime) -> bool:
        """Whether it may still be shown."""
        new = abs(events - self.events)
        return self.experiment == experiment and self.at <= now < self.until and 1000 * new <= self.events


class _AllCounted(dict[str, _Counted]):
    """Every running experiment as it was counted last."""


def overview(home: Home, *, now: datetime) -> dict[str, Any]:
    """The site in a few numbers."""
    with home.db.read() as connection:
        known = catalog(home, connection)
        runs = journal.runs(connection, limit=1)
        return {
            "site": home.config.site.name,
            "as_of": iso(now),
            "automation_enabled": home.config.automation.enabled,
            "experiments": {s.value: n for s, n in _by_status(known.experiments.values()).items()},
            "events": events.totals(connection),
            "production": [to_json(entry) for entry in known.production.values()],
            "pending": len(decisions.recommendations(connection)),
            "last_run": to_json(runs[0]) if runs else None,
        }


def running_experiments(home: Home, *, now: datetime) -> list[RunningExperiment]:
    """Running experiments, oldest first, with what was counted at most :data:`FRESH` ago."""
    before = home.memory.recall(_AllCounted) or _AllCounted()
    counted = _AllCounted()
    with home.db.read() as connection:
        posted = events.totals(connection).get("accepted", 0)
        for experiment in catalog(home, connection).running:
            known = before.get(experiment.id)
            if known is None or not known.holds(experiment, posted, now):
                begun = perf_counter()
                shown = _count(connection, experiment, now)
                until = now + min(FRESH, SHARE * timedelta(seconds=perf_counter() - begun))
                known = _Counted(now, until, posted, experiment, shown)
            counted[experiment.id] = known
    home.memory.keep(counted)
    return [known.shown for known in counted.values()]


@dataclass(frozen=True, slots=True)
class StandingAlarm:
    """An alarm of a running experiment's split that nobody has settled."""

    experiment_id: str
    dimension: str
    name: str
    first_at: datetime
    vetoes: bool
    """Whether nothing can win while it stands."""


def standing_alarms(home: Home) -> list[StandingAlarm]:
    """What stands of the alarms that looks have raised, by running experiment, oldest first; nothing is counted."""
    with home.db.read() as connection:
        running = [experiment.id for experiment in catalog(home, connection).running]
        stored = split_alarms.of_all(connection, running)
    return [
        StandingAlarm(experiment_id, a.dimension, a.name, a.first_at, a.dimension in VETOING)
        for experiment_id in running
        for a in stored.get(experiment_id, ())
        if a.stands
    ]


def recent_winners(home: Home, limit: int = 20) -> list[ProvenWinner]:
    """Proven winners that were shipped, newest first, without those taken back."""
    with home.db.read() as connection:
        known = catalog(home, connection).experiments
        shipped = [
            d
            for d in decisions.latest(connection, limit=None, verdict=Verdict.SHIP)
            if not d.unproven and known[d.experiment_id].winner == d.winner
        ]
    return [_winner(known[d.experiment_id], d) for d in shipped[:limit]]


def decision_list(home: Home, limit: int = 50) -> DecisionList:
    """The newest decisions, and what waits for a person."""
    with home.db.read() as connection:
        taken = decisions.latest(connection, limit=limit)
        pending = decisions.recommendations(connection)
    summaries = [
        DecisionSummary(
            d.id, d.experiment_id, d.as_of, d.verdict, d.winner, d.unproven, d.evidence.money, d.text
        )
        for d in taken
    ]
    return DecisionList(tuple(summaries), pending)


def _by_status(experiments: Iterable[Experiment]) -> dict[Status, int]:
    counts = Counter(experiment.status for experiment in experiments)
    return {status: counts.get(status, 0) for status in Status}


def _winner(experiment: Experiment, decision: Decision) -> ProvenWinner:
    return ProvenWinner(
        experiment.id,
        experiment.name,
        experiment.slot,
        str(decision.winner),
        decision.as_of,
        decision.id,
        next((c for c in decision.evidence.comparisons if c.variant == decision.winner), None),
        next((row for row in decision.evidence.money if row.variant == decision.winner), None),
        decision.text,
    )


def _count(connection: sa.Connection, experiment: Experiment, now: datetime) -> RunningExperiment:
    with reader.reading(connection, experiment, now) as reading:
        totals, exposed = counts.totals(experiment, reading.cells()), reading.exposed_units()
    epoch = experiment.epoch_at(now)
    return RunningExperiment(
        experiment.id,
        now,
        experiment.name,
        experiment.slot,
        experiment.hypothesis,
        experiment.occasion,
        experiment.started_at,
        experiment.horizon_ends_at,
        experiment.plan.units,
        exposed,
        sum(t.units for t in totals),
        tuple(_so_far(t, epoch) for t in totals),
    )


def _so_far(total: Totals, epoch: Epoch | None) -> VariantSoFar:
    return VariantSoFar(
        total.variant,
        total.name,
        total.is_control,
        epoch.shares[total.variant] if epoch else None,
        total.units,
        total.conversions,
        total.conversions / total.units if total.units else None,
        total.score_sum / total.units if total.units else None,
    )
