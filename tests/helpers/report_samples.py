"""Experiments, decisions and a report made by hand, for the tests of reporting and rendering."""

from __future__ import annotations

import ast
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import numpy as np

from cro_core.decision.offline_outcomes import outcomes
from cro_core.domain import Cell, Experiment, Goal, Plan, Reason, Status, Variant, Verdict
from cro_core.evidence import Comparison, Decision, Evidence, Look, Srm, Step, TotalsWithRate
from cro_core.home import Home, open_home
from cro_core.jupyter.export import page
from cro_core.jupyter.runner import notebook_path
from cro_core.learning.asset_ranking import Appearance, rank
from cro_core.rendering import sections
from cro_core.reporting import headline, next_steps, refusals, sheets
from cro_core.reporting.changes import changes
from cro_core.reporting.values import Differences, LeadOutcomes, Report, Shown
from cro_core.segments.findings import Claim
from cro_core.workflows.sample_home import sample_home

NOW = datetime(2026, 3, 16, 8, tzinfo=UTC)
WEEK = timedelta(days=7)
BOOKED = [
    {
        "variant": key, "units": 5000, "leads": leads, "outcomes": booked, "lead_outcomes": booked,
        "units_reached": booked, "leads_reached": booked, "value": 900.0 * booked, "value_sumsq": 900.0**2 * booked,
        "lead_value": 900.0 * booked, "lead_value_sumsq": 900.0**2 * booked, "before": 1,
    }
    for key, leads, booked in (("a", 400, 40), ("b", 500, 60))
]  # fmt: skip
CLAIM = Claim("stands_out", ("device",), ("mobile",), None, "Device mobile converts 12% better: 5% against 4%.",
              0.003, 0.12, 0.04, 0.2)  # fmt: skip
PLAN = Plan((Goal("contact_form_submit", 100, True),), units=10_000)


def experiment(key: str, name: str, status: Status = Status.RUNNING, **more: Any) -> Experiment:
    variants = more.pop(
        "variants",
        (
            Variant("a", "Photo of the hall", asset_id="hall.jpg", is_control=True),
            Variant("b", "Film of the dance", asset_id="dance.mp4"),
        ),
    )
    started = NOW - timedelta(days=12)
    ended = NOW - timedelta(days=2) if status is Status.ARCHIVED else None
    return Experiment(
        key,
        name,
        variants,
        PLAN,
        status,
        seed=key,
        created_at=started,
        started_at=started,
        ended_at=ended,
        **more,
    )


def decision(of: Experiment, verdict: Verdict, counts: list[tuple[int, int]], **more: Any) -> Decision:
    """Counts are (units, conversions) of each variant; the intervals are only plausible."""
    totals = tuple(_total(v, *c) for v, c in zip(of.variants, counts, strict=True))
    compared = tuple(_comparison(t, totals[0].rate) for t in totals[1:])
    counted = sum(units for units, _ in counts)
    critical = 3.3 if verdict is Verdict.CONTINUE else 2.0
    evidence = Evidence(
        look=Look(
            due=verdict is not Verdict.CONTINUE, status="look", why="the planned sample is reached", number=1,
            counted_units=counted, planned_units=of.plan.units, days=10.0,
            horizon_ends_at=datetime(2026, 3, 18, 8, tzinfo=UTC), spending_time=1.0, alpha_spent=0.05,
            critical_z=critical, critical_chi_square=critical**2,
        ),
        totals=totals,
        comparisons=compared,
        srm=Srm("alarm" if verdict is Verdict.INVALID else "ok", (), threshold=100.0),
        waterfall=(
            Step("received", counted * 3, ""),
            Step("duplicate", counted // 30, ""),
            Step("bot", counted // 90, ""),
            Step("repeat_exposure", counted - counted // 30 - counted // 90, ""),
            Step("counted_exposure", counted, ""),
            Step("counted_goal", counted, ""),
        ),
    )  # fmt: skip
    given: dict[str, Any] = {
        "text": f"The verdict is {verdict.value}.",
        "winner": None,
        "unproven": False,
    } | more
    cells = tuple(Cell(0, v.key, *c) for v, c in zip(of.variants, counts, strict=True))
    return Decision(
        of.id,
        NOW - timedelta(days=2),
        verdict,
        (Reason("sample", "The planned sample is counted."),),
        cells,
        evidence=evidence,
        id=f"{of.id}:20260314T0800Z",
        **given,
    )


def compared(decision: Decision, **numbers: float) -> Decision:
    """The decision with other numbers in its first comparison."""
    first, *others = decision.evidence.comparisons
    comparisons = (replace(first, **numbers), *others)
    return replace(decision, evidence=replace(decision.evidence, comparisons=comparisons))


def _total(variant: Variant, units: int, conversions: int) -> TotalsWithRate:
    rate = conversions / units if units else None
    spread = 2 * (rate * (1 - rate) / units) ** 0.5 if rate is not None else 0
    return TotalsWithRate(
        variant.key, variant.name, variant.is_control, units, conversions, 0.0, 0.0, 0.0, 0.0, rate,
        None if rate is None else max(rate - spread, 0), None if rate is None else rate + spread, 3.2,
    )  # fmt: skip


def _comparison(total: TotalsWithRate, base: float | None) -> Comparison:
    if not base or total.rate is None:
        return Comparison(total.variant, total.name, True, reason="nobody has met the control yet")
    relative = total.rate / base - 1
    return Comparison(
        total.variant, total.name, True, chi_square=9.4, p_value=0.0022, p_value_yates=0.0031, p_adjusted=0.0029,
        absolute=total.rate - base, low=(relative - 0.15) * base, high=(relative + 0.15) * base,
        relative=relative, relative_low=relative - 0.15, relative_high=relative + 0.15,
    )  # fmt: skip


def report(
    *, site: str = "Fjord Events", name: str = "Hero: photo or film", simulated: bool = True
) -> Report:
    """A week with a winner, an invalid test, an unproven pick and one running test that looks tempting."""
    won = experiment(
        "hero", name, Status.ARCHIVED, winner="b", reasoning="Films keep visitors longer on the page."
    )
    broken = experiment("cta", "Words on the button", Status.ARCHIVED)
    picked = experiment("gallery", "Order of the gallery", Status.ARCHIVED, winner="b")
    going = experiment("wedding-hero", "Wedding page: first picture", occasion="wedding")
    known = {e.id: e for e in (won, broken, picked, going)}
    taken = {
        won.id: decision(
            won, Verdict.SHIP, [(5000, 400), (5000, 500)], winner="b",
            text="“Film of the dance” is better than “Photo of the hall”: +25.0 % more visitors sent the contact form.",
        ),
        broken.id: decision(
            broken, Verdict.INVALID, [(4400, 350), (5600, 452)],
            text="4,400 and 5,600 visitors instead of 5,000 each: chance does that once in a million times.",
        ),
        picked.id: decision(
            picked, Verdict.INCONCLUSIVE, [(5000, 400), (5000, 410)], winner="b", unproven=True,
            text="No difference was proven within 14 days.",
        ),
        going.id: decision(going, Verdict.CONTINUE, [(2100, 160), (2080, 190)], text="Still collecting."),
    }  # fmt: skip
    pages = [sheets.sheet(known[key], taken[key]) for key in taken]
    start = NOW - WEEK
    made = Report(
        site=site,
        zone="Europe/Copenhagen",
        simulated=simulated,
        period_start=start,
        generated_at=NOW,
        headline=headline.headline(
            pages, headline.overview(list(known.values()), pages, 60_000, start, NOW), start, NOW
        ),
        overview=headline.overview(list(known.values()), pages, 60_000, start, NOW),
        sheets=tuple(pages),
        changes=changes(_trail(known, taken), known, {d.id: d for d in taken.values()}),
        refusals=refusals.refusals(pages, start, NOW, enabled=True, approval=False),
        production=(Shown("hero", name, "Film of the dance", NOW - timedelta(days=2), unproven=False),),
        assets=sheets.assets((known[p.id], p) for p in pages),
        differences=(Differences(won.id, name, "Of 12 comparisons by device, 1 survives.", (CLAIM,)),),
        ranking=rank(
            (
                Appearance(
                    e.id, NOW - timedelta(days=2), {v.key: v.asset_id for v in e.variants}, taken[e.id].cells
                )
                for e in known.values()
            ),
            ["dance.mp4", "hall.jpg", "<unseen>.jpg"],
            now=NOW,
            rng=np.random.default_rng(1),
        ),
        model=headline.model_track(None),
        pending=next_steps.pending(
            [
                {
                    "id": "start:cta-2",
                    "kind": "start",
                    "text": "Start cta-2: a shorter button text",
                    "created_at": NOW,
                }
            ]
        ),
        actions=(),
        outcomes=(LeadOutcomes(won.id, name, outcomes(won, "booked", BOOKED)),),
    )
    return next_steps.with_actions(made)


@cache
def _sample() -> Home:
    return sample_home()


def sample(folder: Path) -> Home:
    """A copy of the package's sample home, which is made once."""
    shutil.copytree(_sample().path, folder, dirs_exist_ok=True)
    return open_home(folder, environ={})


def empty() -> Report:
    """A home that has never heard of a visitor."""
    start = NOW - WEEK
    nothing = headline.overview([], [], 0, start, NOW)
    made = Report(
        "New site", "UTC", False, start, NOW, headline.headline([], nothing, start, NOW), nothing,
        (), (), (), (), (), headline.model_track(None), (), (),
    )  # fmt: skip
    return next_steps.with_actions(made)


def _trail(known: dict[str, Experiment], taken: dict[str, Decision]) -> list[dict[str, Any]]:
    won, going = known["hero"], known["wedding-hero"]
    at = NOW - timedelta(days=2)
    entries = [
        {"action": "experiment.start", "subject": won.id, "after": {"status": "running"}},
        {"action": "allocation.set", "subject": going.id, "after": {"shares": {"a": 0.42, "b": 0.58}}},
        {"action": "allocation.set", "subject": going.id, "after": {"shares": {"a": 0.38, "b": 0.62}}},
        {
            "action": "experiment.conclude",
            "subject": won.id,
            "after": {"verdict": "ship", "decision": taken[won.id].id, "winner": "b"},
        },
        {
            "action": "production.set",
            "subject": "hero",
            "after": {"experiment_id": won.id, "variant": "b", "unproven": False},
        },
        {"action": "recommendation.approve", "subject": "x", "after": None},
    ]
    common = {"actor": "autopilot", "at": at, "before": None, "undone_by": None}
    return [{"id": number, **common, **entry} for number, entry in enumerate(entries, 1)][::-1]


def as_page(made: Report) -> str:
    """The page that the weekly report's notebook gives for a report: its own cells, run here without a kernel."""
    node = nbformat.read(notebook_path("weekly_report"), as_version=4)
    for cell in node.cells:
        if cell.cell_type == "code" and not cell.metadata.get("tags"):
            shown = ast.unparse(ast.parse(cell.source).body[-1])
            if shown.startswith("sections."):
                bundle = eval(shown, {"sections": sections, "report": made})._repr_mimebundle_()
                cell.outputs = [nbformat.v4.new_output("execute_result", bundle)]
    return page(node)
