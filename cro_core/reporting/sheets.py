"""From an experiment and its decision to what the report shows of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from cro_core.decision.split_wording import alarm_line
from cro_core.domain import Experiment, Status, Verdict
from cro_core.evidence import Decision, Evidence, Look, Step, TotalsWithRate
from cro_core.reporting import summaries
from cro_core.reporting.values import Asset, Contrast, Progress, Sheet, Worth

SPLIT: Mapping[str, str] = {
    "ok": "Visitors were divided between the versions as planned.",
    "alarm": "Visitors were NOT divided as planned, so something breaks the measurement and no result can be trusted.",
    "unknown_shares": "Nobody recorded how visitors were meant to be divided, so this cannot be checked.",
    "no_data": "Too few visitors yet to check how they were divided.",
}


def sheet(experiment: Experiment, decision: Decision | None, waterfall: Sequence[Step] = ()) -> Sheet:
    """One experiment for the report.

    Args:
        experiment: what was asked.
        decision: the stored one where the experiment has ended, else what would be decided now; ``None``
            before the start or where it was ended by hand.
        waterfall: the reconciliation; taken from the decision where that holds it.
    """
    evidence = decision.evidence if decision else Evidence()
    names = {v.key: v.name or v.key for v in experiment.variants}
    contrasts = tuple(Contrast(c, names.get(c.variant, c.variant)) for c in evidence.comparisons)
    arms = tuple(replace(t, name=t.name or names.get(t.variant, t.variant)) for t in evidence.totals)
    checked = evidence.splits or evidence.srm
    split = checked.status if checked else "no_data"
    said = {r.code: r.text for r in decision.reasons} if decision else {}
    alarms = evidence.splits.alarms if evidence.splits else ()
    winner = decision.winner if decision else experiment.winner
    verdict = decision.verdict if decision else None
    progress = _progress(experiment, evidence.look, contrasts) if decision else None
    page = Sheet(
        id=experiment.id,
        name=experiment.name or experiment.id,
        status=experiment.status,
        kind=experiment.kind,
        event_type=experiment.occasion,
        hypothesis=experiment.hypothesis,
        started_at=experiment.started_at,
        ended_at=experiment.ended_at,
        as_of=decision.as_of if decision else None,
        decision_id=decision.id if decision else "",
        verdict=verdict,
        summary=summaries.summary(experiment, decision) if decision else _no_decision(experiment),
        reasons=tuple(r.text for r in decision.reasons) if decision else (),
        winner=names.get(winner, winner) if winner else None,
        winner_key=winner,
        unproven=bool(decision and decision.unproven),
        taken_back=bool(
            decision and decision.winner and experiment.ended_at and experiment.winner != decision.winner
        ),
        confidence=1 - experiment.plan.alpha / max(len(experiment.challengers), 1),
        min_uplift=experiment.plan.min_uplift,
        mde=experiment.plan.mde,
        futility_power=evidence.look.futility_power if evidence.look else None,
        arms=arms,
        contrasts=contrasts,
        progress=progress,
        split=split,
        split_text=said.get("srm_explained") or SPLIT.get(split, split),
        alarms=tuple(alarm_line(alarm, experiment.plan.zone) for alarm in alarms),
        crossing=said.get("crossing") or said.get("crossing_veto") or "",
        waterfall=evidence.waterfall or tuple(waterfall),
        worth=_worth(contrasts, arms, winner, progress) if verdict is Verdict.SHIP else None,
        money=evidence.money,
    )
    if page.best is None:
        return page
    return replace(page, confidence=evidence.confidence(page.best.comparison, experiment.plan.alpha))


def assets(pairs: Iterable[tuple[Experiment, Sheet]]) -> tuple[Asset, ...]:
    """Every asset that was shown, best uplift first; those without one, by visitors, last."""
    shown: dict[str, list[tuple[TotalsWithRate, Contrast | None]]] = {}
    for experiment, page in pairs:
        contrasts = {c.variant: c for c in page.contrasts}
        for arm in page.arms:
            variant = experiment.variant(arm.variant)
            if variant is not None and variant.asset_id and arm.units:
                shown.setdefault(variant.asset_id, []).append((arm, contrasts.get(arm.variant)))
    ranked = [_asset(asset_id, met) for asset_id, met in shown.items()]
    return tuple(sorted(ranked, key=lambda a: (a.uplift is None, -(a.uplift or 0.0), -a.units, a.asset_id)))


def _asset(asset_id: str, met: Sequence[tuple[TotalsWithRate, Contrast | None]]) -> Asset:
    units = sum(arm.units for arm, _ in met)
    conversions = sum(arm.conversions for arm, _ in met)
    known = [(arm.units, c.uplift.value) for arm, c in met if c is not None and c.uplift.value is not None]
    weight = sum(n for n, _ in known)
    uplift = sum(n * r for n, r in known) / weight if weight else None
    return Asset(asset_id, len(met), units, conversions, conversions / units, uplift)


def _progress(experiment: Experiment, look: Look | None, contrasts: Sequence[Contrast]) -> Progress:
    return Progress(
        counted=look.counted_units if look else 0,
        planned=look.planned_units if look else experiment.plan.units,
        days=look.days if look else None,
        horizon_days=experiment.plan.horizon / timedelta(days=1),
        ends_at=experiment.horizon_ends_at,
        due=look.due if look else False,
        why=look.why if look else "",
        chi_square=max((c.chi_square for c in contrasts if c.chi_square is not None), default=None),
        critical_chi_square=look.critical_chi_square if look else None,
        next_at=look.next_at if look else None,
    )


def _worth(
    contrasts: Sequence[Contrast],
    arms: Sequence[TotalsWithRate],
    winner: str | None,
    progress: Progress | None,
) -> Worth | None:
    """What the winner adds to 1,000 visitors, and to a week at the traffic that was counted.

    From the relative uplift, because that is standardised where shares moved; the difference of the pooled
    rates is not.
    """
    won = next((c for c in contrasts if c.variant == winner), None)
    base = next((a.rate for a in arms if a.is_control), None)
    if won is None or won.uplift.value is None or base is None:
        return None
    weekly = progress.counted / progress.days * 7 if progress and progress.days else None
    uplift = won.uplift
    gains = [None if r is None else r * base for r in (uplift.value, uplift.low, uplift.high)]
    thousand = [None if g is None else g * 1000 for g in gains]
    week = [None if g is None or weekly is None else g * weekly for g in gains]
    return Worth(won.uplift.value * base * 1000, thousand[1], thousand[2], *week)


def _no_decision(experiment: Experiment) -> str:
    if experiment.status is Status.DRAFT:
        return "Not started."
    return (
        f"Ended by hand{f'; shows {experiment.winner}' if experiment.winner else ''}. No verdict was reached."
    )


def ended_between(page: Sheet, start: datetime, end: datetime) -> bool:
    """Whether the experiment ended after ``start`` and not after ``end``."""
    return page.ended_at is not None and start < page.ended_at <= end
