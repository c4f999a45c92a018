"""What the dashboard and the API show: counts straight from the store, without statistics libraries."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import perf_counter
from typing import Any

import sqlalchemy as sa

from cro_core.analytics import counts, reader
from cro_core.clock import iso
from cro_core.domain import Experiment, Status, Verdict, to_json
from cro_core.home import Home
from cro_core.storage import decisions, events, journal
from cro_core.workflows.catalog import catalog

FRESH = timedelta(minutes=5)
"""For so long at most a test is shown as it was counted last ..."""

SHARE = 100
"""... and for so many times as long as the counting took; not once a thousandth of the site's events is new."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """A test as it was counted last."""

    at: datetime
    until: datetime
    events: int
    """How many events of the site there were."""
    experiment: Experiment
    data: dict[str, Any]

    def holds(self, experiment: Experiment, events: int, now: datetime) -> bool:
        """Whether it may still be shown."""
        new = abs(events - self.events)
        return self.experiment == experiment and self.at <= now < self.until and 1000 * new <= self.events


class _AllShown(dict[str, _Shown]):
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


def active_tests(home: Home, *, now: datetime) -> list[dict[str, Any]]:
    """Running experiments with their counted units as of ``as_of``, which is at most :data:`FRESH` ago."""
    before = home.memory.recall(_AllShown) or _AllShown()
    shown = _AllShown()
    with home.db.read() as connection:
        posted = events.totals(connection).get("accepted", 0)
        for experiment in catalog(home, connection).running:
            known = before.get(experiment.id)
            if known is None or not known.holds(experiment, posted, now):
                begun = perf_counter()
                data = _active(connection, experiment, now)
                until = now + min(FRESH, SHARE * timedelta(seconds=perf_counter() - begun))
                known = _Shown(now, until, posted, experiment, data)
            shown[experiment.id] = known
    home.memory.keep(shown)
    return [known.data for known in shown.values()]


def recent_winners(home: Home, limit: int = 20) -> list[dict[str, Any]]:
    """Decisions that shipped a proven winner, newest first, without those taken back."""
    with home.db.read() as connection:
        known = catalog(home, connection).experiments
        shipped = [
            d
            for d in decisions.latest(connection, limit=None, verdict=Verdict.SHIP)
            if not d.unproven and known[d.experiment_id].winner == d.winner
        ]
    return [
        {
            "test_id": d.experiment_id,
            "name": known[d.experiment_id].name,
            "slot": known[d.experiment_id].slot,
            "winner": d.winner,
            "decided_at": iso(d.as_of),
            "decision": d.id,
            "comparison": next((c for c in d.evidence["comparisons"] if c["variant"] == d.winner), None),
            "text": d.text,
        }
        for d in shipped[:limit]
    ]


def decision_list(home: Home, limit: int = 50) -> dict[str, Any]:
    """The newest decisions, and what waits for a person."""
    with home.db.read() as connection:
        taken = decisions.latest(connection, limit=limit)
        pending = decisions.recommendations(connection)
    brief = [
        {
            "id": d.id,
            "test_id": d.experiment_id,
            "as_of": iso(d.as_of),
            "verdict": d.verdict,
            "winner": d.winner,
            "unproven": d.unproven,
            "text": d.text,
        }
        for d in taken
    ]
    return {"decisions": brief, "pending": [to_json(p) for p in pending]}


def _by_status(known: Any) -> dict[Status, int]:
    found = Counter(e.status for e in known)
    return {status: found.get(status, 0) for status in Status}


def _active(connection: sa.Connection, experiment: Experiment, now: datetime) -> dict[str, Any]:
    with reader.reading(connection, experiment, now) as reading:
        totals, exposed = counts.totals(experiment, reading.cells()), reading.exposed_units()
    epoch = experiment.epoch_at(now)
    return {
        "test_id": experiment.id,
        "as_of": iso(now),
        "name": experiment.name,
        "slot": experiment.slot,
        "hypothesis": experiment.hypothesis,
        "occasion": experiment.occasion,
        "started_at": to_json(experiment.started_at),
        "ends_at": to_json(experiment.horizon_ends_at),
        "planned_units": experiment.plan.units,
        "exposed_units": exposed,
        "counted_units": sum(t.units for t in totals),
        "variants": [
            {
                "variant_id": t.variant,
                "name": t.name,
                "is_control": t.is_control,
                "share": epoch.shares[t.variant] if epoch else None,
                "units": t.units,
                "conversions": t.conversions,
                "rate": t.conversions / t.units if t.units else None,
                "engagement_score": t.score_sum / t.units if t.units else None,
            }
            for t in totals
        ],
    }
