"""The weekly report: read the home, say what happened, write it down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from cro_core import reporting
from cro_core.analytics import reader
from cro_core.domain import Experiment, Status, Verdict
from cro_core.evidence import Decision
from cro_core.home import Home
from cro_core.jupyter.export import write_whole
from cro_core.planning.plans import settings_warnings
from cro_core.reporting import headline, next_steps, refusals, sheets
from cro_core.reporting.changes import changes
from cro_core.reporting.values import Differences, LeadOutcomes, Report, Sheet, Shown
from cro_core.storage import decisions, events, experiments, journal
from cro_core.storage.outcome_store import goals
from cro_core.workflows.analyse_segments import of_experiment as of_whom
from cro_core.workflows.evaluate import evaluate_within
from cro_core.workflows.measure_outcomes import measure_outcomes
from cro_core.workflows.rank_assets import asset_ranking
from cro_core.workflows.rollback import undoable

JOB = "weekly_report"
WEEK = timedelta(days=7)
AFRESH = timedelta(days=6)
"""A report younger than this is taken for a draft of the coming one: it does not begin a new period."""

WINNERS = 20
"""Most winners of earlier periods that are shown again."""

ACCEPTED = ("accepted", "duplicate", "rejected")


def weekly_report(home: Home, *, now: datetime) -> Report:
    """What happened since the last report, complete; changes nothing.

    The period begins at the last weekly report, where there is none with the home's first experiment, else a
    week ago.
    """
    ranking = asset_ranking(home, now=now)
    with home.db.read() as connection:
        by_id = {e.id: e for e in experiments.with_status(connection)}
        start = _period_start(connection, by_id.values(), now)
        pages = list(_sheets(connection, by_id, start, now))
        received = sum(n for outcome, n in events.totals(connection).items() if outcome in ACCEPTED)
        taken = {d.id: d for d in decisions.latest(connection, limit=500)}
        trail = [entry for entry in journal.trail(connection, since=start) if entry["at"] <= now]
        overview = headline.overview(list(by_id.values()), pages, received, start, now)
        automation = home.config.automation
        report = Report(
            site=home.config.site.name,
            zone=home.config.site.time_zone,
            simulated=home.simulated,
            period_start=start,
            generated_at=now,
            headline=headline.headline(pages, overview, start, now),
            overview=overview,
            sheets=tuple(pages),
            changes=changes(trail, by_id, taken, {change["id"] for change in undoable(connection)}),
            refusals=refusals.refusals(
                pages, start, now, enabled=automation.enabled, approval=not automation.auto_declare_winners
            ),
            production=tuple(_shown(connection, by_id)),
            assets=sheets.assets((by_id[page.id], page) for page in pages),
            model=headline.model_track(journal.latest_model(connection)),
            pending=next_steps.pending(decisions.recommendations(connection)),
            actions=(),
            outcomes=tuple(_outcomes(connection, by_id.values(), now)),
            differences=tuple(_differences(connection, by_id, pages, start, now)),
            ranking=ranking,
        )
    return next_steps.with_actions(report, settings_warnings(home.loaded))


@dataclass(frozen=True, slots=True)
class Written:
    """Where the forms of a report are."""

    text: Path
    json: Path

    def as_dict(self) -> dict[str, str]:
        """The paths as text."""
        return {"text": str(self.text), "json": str(self.json)}


def write_report(home: Home, report: Report) -> Written:
    """Writes the text and JSON forms as ``reports/cro-report-YYYY-MM-DD.*``, the day being the site's.

    The HTML form is the page of the executed notebook, so the job that runs it puts it beside these.
    """
    stem = report_stem(home, report.generated_at)
    return Written(
        write_whole(stem.with_suffix(".txt"), reporting.as_text(report)),
        write_whole(stem.with_suffix(".json"), reporting.as_json(report)),
    )


def report_stem(home: Home, now: datetime) -> Path:
    """The report's path without ending."""
    day = now.astimezone(ZoneInfo(home.config.site.time_zone)).date()
    return home.reports / f"cro-report-{day.isoformat()}"


def _period_start(connection: sa.Connection, known: Iterable[Experiment], now: datetime) -> datetime:
    done = [r for r in journal.runs(connection, JOB, limit=100) if r["status"] == "done"]
    earlier: list[datetime] = [r["started_at"] for r in done if r["started_at"] <= now - AFRESH]
    if earlier:
        return max(earlier)
    born = [e.created_at for e in known if e.created_at is not None]
    return min([*born, now - WEEK])


def _sheets(
    connection: sa.Connection, known: Mapping[str, Experiment], start: datetime, now: datetime
) -> Iterator[Sheet]:
    """Running experiments, those that ended in the period, then earlier winners; newest first."""
    newest = sorted(known.values(), key=lambda e: e.ended_at or e.started_at or now, reverse=True)
    for experiment in newest:
        if experiment.status is Status.RUNNING:
            yield _running(connection, experiment, now)
    earlier = 0
    for experiment in newest:
        if experiment.ended_at is None or experiment.ended_at > now:
            continue
        last = next(iter(decisions.latest(connection, experiment.id, limit=1)), None)
        recent = experiment.ended_at > start
        earlier += not recent and _told_again(last)
        if recent or (_told_again(last) and earlier <= WINNERS):
            yield sheets.sheet(experiment, last)


def _outcomes(
    connection: sa.Connection, known: Iterable[Experiment], now: datetime
) -> Iterator[LeadOutcomes]:
    """What became of leads later, of the newest experiments that have any."""
    if not goals(connection):
        return
    newest = sorted((e for e in known if e.started_at), key=lambda e: e.started_at or now, reverse=True)
    for experiment in newest[:WINNERS]:
        for outcome in measure_outcomes(connection, experiment, now):
            if any(arm.outcomes for arm in outcome.arms):
                yield LeadOutcomes(experiment.id, experiment.name or experiment.id, outcome)


def _differences(
    connection: sa.Connection,
    known: Mapping[str, Experiment],
    pages: Iterable[Sheet],
    start: datetime,
    now: datetime,
) -> Iterator[Differences]:
    """Who converted, in the experiments that ended: they are looked at once, at their end."""
    for page in pages:
        if sheets.ended_between(page, start, now) and known[page.id].started_at is not None:
            segments = of_whom(connection, known[page.id], now)
            yield Differences(page.id, page.name, segments.said, segments.claims)


def _told_again(decision: Decision | None) -> bool:
    return decision is not None and (decision.verdict is Verdict.SHIP or decision.unproven)


def _running(connection: sa.Connection, experiment: Experiment, now: datetime) -> Sheet:
    with reader.reading(connection, experiment, now) as reading:
        waterfall = reading.waterfall()
    return sheets.sheet(experiment, evaluate_within(connection, experiment, now).decision, waterfall)


def _shown(connection: sa.Connection, known: Mapping[str, Experiment]) -> Iterator[Shown]:
    for slot, entry in decisions.production(connection).items():
        experiment = known.get(entry["experiment_id"])
        variant = experiment.variant(entry["variant"]) if experiment else None
        yield Shown(
            slot,
            (experiment.name if experiment else "") or entry["experiment_id"],
            (variant.name if variant else "") or entry["variant"],
            entry["since"],
            bool(entry["unproven"]),
        )
