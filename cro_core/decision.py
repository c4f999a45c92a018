"""From the cells of an experiment to a verdict with its reasons: pure, and the same for cycle, API and replay.

The test is taken once, at the planned sample or at the horizon, whichever comes first. Its statistic is
Pearson's chi-square as a signed root; where shares moved from day to day, the days are combined with the
weights that were fixed before the start (Lehmacher and Wassmer 1999), because a pooled table would read a
drift of the common rate as an effect.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from scipy.special import ndtri

from cro_core import __version__
from cro_core.analysis import Step, Totals, totals
from cro_core.domain import Cell, Decision, Experiment, Reason, Variant, Verdict, to_json
from cro_core.statistics import proportions, srm

GATES = {
    "not_excluded": "the upper end of its interval",
    "point": "its estimate",
    "proven": "the lower end of its interval",
}


@dataclass(frozen=True, slots=True)
class Look:
    """Whether it is time to decide, and how far the experiment is."""

    due: bool
    why: str
    counted_units: int
    planned_units: int | None
    days: float
    horizon_ends_at: datetime | None
    critical_z: float
    critical_chi_square: float
    number: int = 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """One challenger against the control."""

    variant: str
    name: str
    z: float | None
    """Signed root of the test statistic; positive favours the challenger."""
    chi_square: float | None
    """Pearson's, pooled, without Yates."""
    p_value: float | None
    p_value_yates: float | None
    absolute: float | None
    low: float | None
    high: float | None
    relative: float | None
    """Uplift; standardised over days where shares moved."""
    relative_low: float | None
    relative_high: float | None
    reason: str | None
    """Why a number is missing."""


def decide(
    experiment: Experiment, cells: Sequence[Cell], *, as_of: datetime, waterfall: Sequence[Step] = ()
) -> Decision:
    """The decision that these counts allow at this moment.

    Args:
        experiment: a started experiment.
        cells: its counted units per epoch and variant.
        as_of: the moment of the look, UTC.
        waterfall: from received to counted, kept with the decision for the reader.
    """
    sums = totals(experiment, cells)
    look = _look(experiment, sums, as_of)
    comparisons = [_compare(experiment, cells, v) for v in experiment.challengers]
    balance = _balance(experiment, cells)
    verdict, winner, unproven, reasons = _judge(experiment, sums, look, comparisons, balance)
    evidence = {
        "plan": experiment.plan,
        "epochs": experiment.epochs,
        "look": look,
        "totals": [_with_rate(t) for t in sums],
        "comparisons": comparisons,
        "srm": balance,
        "waterfall": list(waterfall),
    }
    decision = Decision(
        experiment_id=experiment.id,
        as_of=as_of,
        verdict=verdict,
        reasons=tuple(reasons),
        cells=tuple(cells),
        winner=winner,
        unproven=unproven,
        evidence=to_json(evidence),
        fingerprint=fingerprint(cells),
        versions={"cro": __version__},
        id=f"{experiment.id}:{as_of:%Y%m%dT%H%MZ}",
    )
    return replace(decision, text=paragraph(experiment, decision))


def fingerprint(cells: Sequence[Cell]) -> str:
    """SHA-256 over the cells in order: equal data, equal fingerprint."""
    return hashlib.sha256(json.dumps(to_json(list(cells)), sort_keys=True).encode()).hexdigest()


def _look(experiment: Experiment, sums: Sequence[Totals], as_of: datetime) -> Look:
    plan, counted = experiment.plan, sum(t.units for t in sums)
    started_at, ends_at = experiment.started_at, experiment.horizon_ends_at
    days = (as_of - started_at).total_seconds() / 86400 if started_at else 0.0
    critical = -float(ndtri(plan.alpha / 2 / len(experiment.challengers)))
    if plan.finished:
        due, why = True, "the data set is finished and evaluated as a whole"
    elif plan.units is not None and counted >= plan.units:
        due, why = True, f"the planned {plan.units:,} visitors are counted"
    elif ends_at is not None and as_of >= ends_at:
        due, why = True, f"day {plan.horizon.days} is reached"
    else:
        due, why = False, _ahead(counted, plan.units, ends_at)
    return Look(due, why, counted, plan.units, days, ends_at, critical, critical**2)


def _ahead(counted: int, planned: int | None, ends_at: datetime | None) -> str:
    sample = (
        f"{counted:,} of {planned:,} planned visitors are counted"
        if planned
        else f"{counted:,} visitors are counted"
    )
    return sample + (f"; the last look is on {ends_at:%Y-%m-%d %H:%M} UTC" if ends_at else "")


def _compare(experiment: Experiment, cells: Sequence[Cell], challenger: Variant) -> Comparison:
    control = experiment.control.key
    by_epoch = _pairs(cells, control, challenger.key)
    n0, x0, n1, x1 = (sum(pair[i] for pair in by_epoch.values()) for i in range(4))
    test = proportions.chi_square([n0, n1], [x0, x1])
    gap = proportions.difference(n0, x0, n1, x1, 1 - experiment.plan.alpha / len(experiment.challengers))
    uplift = (gap.relative, gap.relative_low, gap.relative_high)
    if len(experiment.epochs) > 1:
        uplift = _standardised(by_epoch, 1 - experiment.plan.alpha / len(experiment.challengers))
    return Comparison(
        challenger.key,
        challenger.name,
        _z(experiment, by_epoch),
        test.statistic,
        test.p_value,
        test.p_value_yates,
        gap.absolute,
        gap.low,
        gap.high,
        *uplift,
        reason=test.reason or gap.reason,
    )


def _pairs(cells: Sequence[Cell], control: str, challenger: str) -> dict[int, tuple[int, int, int, int]]:
    """Epoch -> units and conversions of the control, then of the challenger."""
    found = {(c.epoch, c.variant): (c.units, c.conversions) for c in cells}
    epochs = sorted({c.epoch for c in cells})
    return {e: (*found.get((e, control), (0, 0)), *found.get((e, challenger), (0, 0))) for e in epochs}


def _standardised(
    by_epoch: dict[int, tuple[int, int, int, int]], level: float
) -> tuple[float | None, float | None, float | None]:
    """Uplift by Mantel-Haenszel over days: each challenger's day is compared with the control's same day."""
    n0, x0, n1, x1 = ([pair[i] for pair in by_epoch.values()] for i in range(4))
    common = proportions.mantel_haenszel(n0, x0, n1, x1, level)
    return _uplift(common.risk_ratio), _uplift(common.low), _uplift(common.high)


def _uplift(ratio: float | None) -> float | None:
    return None if ratio is None else ratio - 1


def _z(experiment: Experiment, by_epoch: dict[int, tuple[int, int, int, int]]) -> float | None:
    """Inverse-normal combination of the epochs' signed roots; with one epoch the root of Pearson's chi-square."""
    weights = {e.number: e.weight for e in experiment.epochs}
    if len(experiment.epochs) == 1:
        n0, x0, n1, x1 = by_epoch.get(experiment.epochs[0].number, (0, 0, 0, 0))
        chi = proportions.chi_square([n0, n1], [x0, x1]).statistic
        return None if chi is None else math.copysign(math.sqrt(chi), x1 * n0 - x0 * n1)
    seen = [(weights[epoch], _epoch_z(*pair)) for epoch, pair in by_epoch.items()]
    total = sum(w for w, _ in seen)
    return sum(math.sqrt(w) * z for w, z in seen) / math.sqrt(total) if total else None


def _epoch_z(n0: int, x0: int, n1: int, x1: int) -> float:
    """Standardised excess of the challenger's conversions given the epoch's margins (hypergeometric); 0 without information."""
    n, x = float(n0 + n1), float(x0 + x1)
    if n < 2:
        return 0.0
    variance = n1 * n0 * x * (n - x) / (n**2 * (n - 1))
    return (x1 - x * n1 / n) / math.sqrt(variance) if variance else 0.0


def _balance(experiment: Experiment, cells: Sequence[Cell]) -> srm.Srm:
    """Did the visitors split as planned? Each epoch's own shares say what was planned."""
    keys = [experiment.control.key, *(v.key for v in experiment.challengers)]
    seen = {(c.epoch, c.variant): c.units for c in cells}
    units = [[seen.get((e.number, key), 0) for key in keys] for e in experiment.epochs]
    shares = [[e.shares[key] for key in keys] for e in experiment.epochs]
    return srm.over_epochs(units, shares if experiment.plan.shares_known else None)


def _judge(
    experiment: Experiment,
    sums: Sequence[Totals],
    look: Look,
    comparisons: Sequence[Comparison],
    balance: srm.Srm,
) -> tuple[Verdict, str | None, bool, list[Reason]]:
    """Verdict, winner, whether it is unproven, and the argument in order."""
    when = Reason(
        "look", ("It is time to decide: " if look.due else "Too early to decide: ") + look.why + "."
    )
    reasons = [_srm_reason(balance), when]
    if not balance.alarm:
        return _weigh(experiment, sums, look, comparisons, reasons)
    verdict, winner, _, argument = _weigh(experiment, sums, look, comparisons, [])
    if verdict is Verdict.SHIP:
        variant = experiment.variant(winner or "")
        name = variant.name if variant else winner
        reasons += [*argument, Reason("vetoed", f"But for the broken split {name} would have won: vetoed.")]
    return Verdict.INVALID, None, False, reasons


def _weigh(
    experiment: Experiment,
    sums: Sequence[Totals],
    look: Look,
    comparisons: Sequence[Comparison],
    reasons: list[Reason],
) -> tuple[Verdict, str | None, bool, list[Reason]]:
    """:func:`_judge` for visitors that did split as planned; continues the argument in ``reasons``."""
    plan, control = experiment.plan, experiment.control.key
    few = [t for t in sums if t.units < plan.min_units]
    if few:
        lacking = ", ".join(f"{t.name} {t.units:,}" for t in few)
        reasons.append(
            Reason(
                "too_few", f"Every variant needs {plan.min_units:,} counted visitors; there are: {lacking}."
            )
        )
        return (Verdict.INCONCLUSIVE if look.due else Verdict.CONTINUE), None, False, reasons
    reasons.append(Reason("ready", f"Every variant has at least {plan.min_units:,} counted visitors."))
    if not look.due:
        return Verdict.CONTINUE, None, False, reasons
    above = [c for c in comparisons if c.z is not None and c.z >= look.critical_z]
    if above:
        best = max(above, key=lambda c: c.z or 0.0)
        return _gate(experiment, best, look, reasons)
    if all(c.z is not None and c.z <= -look.critical_z for c in comparisons):
        reasons.append(
            Reason(
                "control_wins",
                "Every challenger converts less than the control, by more than chance explains.",
            )
        )
        return Verdict.KEEP_CONTROL, control, False, reasons
    return _undecided(experiment, sums, comparisons, reasons)


def _gate(
    experiment: Experiment, best: Comparison, look: Look, reasons: list[Reason]
) -> tuple[Verdict, str | None, bool, list[Reason]]:
    plan = experiment.plan
    reasons.append(
        Reason(
            "significant",
            f"{best.name} beats the control: z = {best.z:.2f}, needed {look.critical_z:.2f} at a {plan.alpha:.0%} error rate.",
        )
    )
    asked = {"not_excluded": best.relative_high, "point": best.relative, "proven": best.relative_low}[
        plan.gate
    ]
    # No upper end means that nothing is excluded: the control had no conversions.
    passes = asked >= plan.min_uplift if asked is not None else plan.gate == "not_excluded"
    shown = "without bound" if asked is None else f"{asked:+.1%}"
    where = GATES[plan.gate]
    if passes:
        reasons.append(
            Reason("worth_it", f"A gain of {plan.min_uplift:.0%} is asked for; {where} is {shown}.")
        )
        return Verdict.SHIP, best.variant, False, reasons
    reasons.append(
        Reason(
            "gain_too_small",
            f"Gain below {plan.min_uplift:.0%}: {where} is {shown}, so the change is not worth shipping.",
        )
    )
    return Verdict.KEEP_CONTROL, experiment.control.key, False, reasons


def _undecided(
    experiment: Experiment, sums: Sequence[Totals], comparisons: Sequence[Comparison], reasons: list[Reason]
) -> tuple[Verdict, str | None, bool, list[Reason]]:
    plan = experiment.plan
    computable = [c for c in comparisons if c.z is not None]
    if not computable:
        why = "; ".join(sorted({c.reason for c in comparisons if c.reason})) or "there is no information"
        reasons.append(Reason("not_computable", f"No test can be computed: {why}."))
        return Verdict.INCONCLUSIVE, None, False, reasons
    reasons.append(Reason("not_significant", "The variants differ by no more than chance explains."))
    highs = [c.relative_high for c in computable]
    if plan.min_uplift and all(high is not None and high < plan.min_uplift for high in highs):
        reasons.append(
            Reason(
                "gain_excluded",
                f"A gain of {plan.min_uplift:.0%} or more is excluded: the intervals end below it.",
            )
        )
    if plan.at_horizon == "pick_leader":
        leader = max(sums, key=lambda t: t.conversions / t.units)
        reasons.append(
            Reason(
                "unproven_pick",
                f"By policy the leader, {leader.name}, is shown: an unproven pick, not a winner.",
            )
        )
        return Verdict.INCONCLUSIVE, leader.variant, True, reasons
    reasons.append(Reason("keep", "The control stays."))
    return Verdict.INCONCLUSIVE, None, False, reasons


def _srm_reason(balance: srm.Srm) -> Reason:
    if balance.status == "alarm":
        return Reason(
            "srm",
            "The visitors did not split as planned, by far more than chance explains: something is broken, "
            "and no number can be trusted.",
        )
    if balance.status == "unknown_shares":
        return Reason(
            "srm_unknown", "The planned shares are not known, so the split of the visitors cannot be checked."
        )
    if balance.status == "no_data":
        return Reason("srm_no_data", "No visitor is counted yet.")
    return Reason("srm_ok", "The visitors split as planned.")


def _with_rate(total: Totals) -> dict[str, Any]:
    rate = proportions.wilson(total.units, total.conversions)
    return {
        **to_json(total),
        "rate": rate.estimate,
        "rate_low": rate.low,
        "rate_high": rate.high,
        "score_mean": total.score_sum / total.units if total.units else None,
    }


HEADLINES = {
    Verdict.SHIP: "{winner} wins.",
    Verdict.KEEP_CONTROL: "Keep the control, {control}.",
    Verdict.CONTINUE: "Keep running.",
    Verdict.INCONCLUSIVE: "Undecided: nothing was proven.",
    Verdict.INVALID: "No decision: the data cannot be trusted.",
}


def paragraph(experiment: Experiment, decision: Decision) -> str:
    """The decision for a person without statistics."""
    names = {v.key: v.name for v in experiment.variants}
    headline = HEADLINES[decision.verdict].format(
        winner=names.get(decision.winner or "", ""), control=experiment.control.name
    )
    counted = "; ".join(
        f"{t['name']}: {t['conversions']:,} of {t['units']:,} visitors converted ({t['rate']:.2%})"
        for t in decision.evidence["totals"]
        if t["units"]
    )
    level = 1 - experiment.plan.alpha / len(experiment.challengers)
    # An uplift before the last look, or from a broken split, is a number that only misleads.
    telling = decision.final and decision.verdict is not Verdict.INVALID
    uplifts = " ".join(_uplift_sentence(c, level) for c in decision.evidence["comparisons"] if telling)
    reasons = " ".join(r.text for r in decision.reasons)
    return " ".join(
        part
        for part in (f"{experiment.name}: {headline}", counted and counted + ".", uplifts, reasons)
        if part
    )


def _uplift_sentence(comparison: dict[str, Any], level: float) -> str:
    if comparison["relative"] is None:
        return ""
    low, high = comparison["relative_low"], comparison["relative_high"]
    if low is None or high is None:
        return f"{comparison['name']} against the control: {comparison['relative']:+.1%}."
    interval = f"{100 * level:.4g} % interval {low:+.1%} to {high:+.1%}"
    return f"{comparison['name']} against the control: {comparison['relative']:+.1%} ({interval})."
