"""From the cells of an experiment to a verdict with its reasons: pure, and the same for cycle, API and replay.

The statistics are those of :mod:`cro_core.statistics.engine`; this module lays an experiment's plan and counts
before them, adds what the site's policy says about an undecided end, and puts the answer into words.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast

import numpy as np
import scipy

from cro_core import __version__, metrics, planning
from cro_core.analysis import Totals, totals
from cro_core.domain import (
    Cell,
    Decision,
    Experiment,
    GoalCell,
    Plan,
    Reason,
    Variant,
    Verdict,
    to_json,
)
from cro_core.splits import SplitReport, check_splits
from cro_core.statistics import engine, proportions
from cro_core.statistics.companion import companion
from cro_core.statistics.rules import Floats
from cro_core.statistics.sequential import Spending, State

GATES = {
    "not_excluded": "the upper end of its interval",
    "point": "its estimate",
    "proven": "the lower end of its interval",
}

HOUR = timedelta(hours=1)

LEAST_POWER = 0.5
"""Planned power below which futility is not asked."""

MOST_SHOWN = 1e6
"""E-values beyond it are not spelt out for people."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A decision, and what the next look starts from."""

    decision: Decision
    state: engine.EngineState
    """To be stored with the experiment where the look was taken for good."""
    looked: bool
    """Whether a look was taken: False where there was nothing new, or too little yet."""


@dataclass(frozen=True, slots=True)
class Look:
    """How far the experiment is, and how extreme the statistic must be at this moment."""

    due: bool
    """Whether this is the last look."""
    status: str
    """``look`` where one was taken, else why not: ``too_early``, ``no_information``, ``nothing_new``."""
    why: str
    number: int
    """Looks taken so far, this one included."""
    counted_units: int
    planned_units: int | None
    days: float
    horizon_ends_at: datetime | None
    spending_time: float
    """Share of the experiment that is over, in [0, 1]."""
    alpha_spent: float
    """Two-sided alpha allowed for so far."""
    critical_z: float | None
    critical_chi_square: float | None
    """Its square: what the chi-square must reach at this hour; ``None`` where no look was taken."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One challenger against the control. Fractions; ``None`` where it cannot be computed."""

    variant: str
    name: str
    active: bool
    """Still in; False once the control has beaten it."""
    crossed: str | None
    """``up`` or ``down`` where this look crossed a boundary."""
    z: float | None
    """The statistic, days combined; positive favours the challenger."""
    critical_z: float | None
    p_adjusted: float | None
    """Stagewise p-value, valid although it was looked at often; ``None`` until the experiment has ended."""
    relative: float | None
    """Uplift, standardised over days, with the interval that holds at every look."""
    relative_low: float | None
    relative_high: float | None
    difference: float | None
    """The same as a difference of rates."""
    difference_low: float | None
    difference_high: float | None
    stopped: float | None
    """Median-unbiased uplift once the experiment has ended, with its interval."""
    stopped_low: float | None
    stopped_high: float | None
    chi_square: float | None
    """Pearson's, pooled, without Yates; for information, as everything below."""
    p_value: float | None
    """Valid for one look only."""
    p_value_yates: float | None
    absolute: float | None
    """Pooled difference of rates with its Wald interval at the plan's level."""
    low: float | None
    high: float | None
    reason: str | None
    """Why a number is missing."""


@dataclass(frozen=True, slots=True)
class AlwaysValid:
    """What may be said of one challenger whenever one looks, inside the schedule or not; it decides nothing."""

    variant: str
    name: str
    e_value: float | None
    """Evidence that both convert differently; ``None`` where there is none."""
    log_e: float | None
    p_value: float | None
    """``min(1, 1 / e)``."""
    needed: float
    """The e-value that shows a difference at the plan's error rate over all challengers."""
    shown: bool
    """Whether it is reached."""
    leader: str | None
    """Whose rate is ahead, ``control`` or ``variant``."""
    says: str
    """The same for people."""
    reason: str | None
    """Why a number is missing."""


def decide(
    experiment: Experiment,
    cells: Sequence[Cell],
    *,
    as_of: datetime,
    state: engine.EngineState | None = None,
    split: SplitReport | None = None,
    goals: Sequence[GoalCell] = (),
) -> Judgement:
    """The decision that these counts allow at this moment.

    Args:
        experiment: a started experiment.
        cells: its counted units per epoch and variant.
        as_of: the moment of the look, UTC.
        state: what the looks so far left; those at or after ``as_of`` are undone. ``None`` before the first.
        split: whether visitors split as planned, by day and segment too; ``None`` checks only the total.
        goals: the same units by goal, where a guardrail of the plan watches one.
    """
    sums = totals(experiment, cells)
    elapsed, hours = progress(experiment, as_of)
    before = _before(state, hours)
    split = split or check_splits(experiment, cells)
    per_day = traffic(experiment, sum(t.units for t in sums), elapsed)
    plan = look_plan(experiment, per_day)

    def take(veto: str | None) -> engine.LookResult:
        return engine.evaluate(
            plan,
            aggregates(experiment, cells),
            elapsed=elapsed,
            hours=hours,
            state=before,
            veto=veto,
            names=[v.name for v in _in_order(experiment)],
        )

    found = take(split.reasons[0].text if split.veto else None)
    look = _look(experiment, sums, found, as_of)
    comparisons = [_compare(experiment, cells, row) for row in found.challengers]
    verdict, winner, unproven, argument = _conclude(experiment, found, comparisons, per_day)
    reasons = [*split.reasons, _look_reason(look), *argument]
    if verdict is Verdict.INVALID:
        reasons += _vetoed(experiment, cells, take(None), per_day)
    guards = metrics.guardrails(experiment, cells, goals)
    broken = metrics.breach(guards)
    if broken is not None:
        reasons = [broken, *reasons]
        if verdict is not Verdict.INVALID:
            verdict, winner, unproven = Verdict.KEEP_CONTROL, experiment.control.key, False
    evidence = {
        "plan": experiment.plan,
        "epochs": experiment.epochs,
        "look": look,
        "looks": looks_taken(found.state),
        "totals": [_with_rate(t) for t in sums],
        "comparisons": comparisons,
        "srm": split.total,
        "splits": split,
        "guardrails": guards,
    }
    if experiment.plan.companion:
        evidence["companion"] = always_valid(experiment, cells)
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
        versions={"cro": __version__, "numpy": np.__version__, "scipy": scipy.__version__},
        id=f"{experiment.id}:{as_of:%Y%m%dT%H%MZ}",
    )
    return Judgement(
        replace(decision, text=paragraph(experiment, decision)), found.state, found.status == "look"
    )


def progress(experiment: Experiment, as_of: datetime) -> tuple[float, float]:
    """How much of the planned traffic the mature units came over, in [0, 1], and over how many hours.

    Units mature one window after their exposure, so both run one window behind the clock.
    """
    plan, started_at, closes_at = experiment.plan, experiment.started_at, experiment.enrolment_ends_at
    if plan.finished:
        return 1.0, plan.horizon / HOUR
    if started_at is None or closes_at is None:
        return 0.0, 0.0
    reached = min(max(as_of - plan.window, started_at), closes_at)
    done = sum(e.weight * _part(reached, e.starts_at, e.ends_at) for e in experiment.epochs)
    return (1.0 if reached == closes_at else min(done, 1.0)), (reached - started_at) / HOUR


def traffic(experiment: Experiment, units: int, elapsed: float) -> float:
    """Visitors a day that an experiment gets, from those counted over ``elapsed`` of its planned traffic."""
    days = (experiment.plan.horizon - experiment.plan.window) / timedelta(days=1)
    return units / (elapsed * days) if elapsed and days else 0.0


def look_plan(experiment: Experiment, traffic_per_day: float) -> engine.LookPlan:
    """What was fixed before the start, as the engine takes it.

    Futility is not asked at a traffic that gives the plan less than even odds: there, most experiments with a
    real effect would be stopped for want of visitors, which is no sign that there is no effect.
    """
    plan = experiment.plan
    sized = (
        planning.size(plan, traffic_per_day, variants=len(experiment.variants)) if traffic_per_day else None
    )
    return engine.LookPlan(
        weights=tuple(e.weight for e in experiment.epochs) or (1.0,),
        planned_units=plan.units,
        alpha=plan.alpha,
        spending=Spending(plan.spending, plan.spending_parameter),
        mde=plan.mde,
        min_uplift=plan.min_uplift,
        gate=cast("engine.Gate", plan.gate),
        min_units=plan.min_units,
        min_hours=0.0 if plan.finished else plan.min_hours,
        futility=plan.futility and sized is not None and sized.power >= LEAST_POWER,
    )


def aggregates(experiment: Experiment, cells: Sequence[Cell]) -> engine.Aggregates:
    """The cells as arrays (epochs, variants), the control first; epochs to come are zero."""
    found = {(c.epoch, c.variant): c for c in cells}
    nothing = Cell(0, "", 0, 0)
    grid = [[found.get((e.number, v.key), nothing) for v in _in_order(experiment)] for e in experiment.epochs]
    return engine.Aggregates.of(
        [[c.units for c in row] for row in grid], [[c.conversions for c in row] for row in grid]
    )


def always_valid(experiment: Experiment, cells: Sequence[Cell]) -> list[AlwaysValid]:
    """Always-valid evidence on each challenger, over the epochs."""
    counts = aggregates(experiment, cells)
    pairs = ((v, [0, k]) for k, v in enumerate(experiment.challengers, start=1))
    return [_at_any_time(experiment, v, counts.units[:, pair], counts.total[:, pair]) for v, pair in pairs]


def _at_any_time(
    experiment: Experiment, challenger: Variant, units: Floats, conversions: Floats
) -> AlwaysValid:
    found = companion(units, conversions, experiment.plan.mde)
    needed = len(experiment.challengers) / experiment.plan.alpha
    shown = found.log_e is not None and found.log_e >= math.log(needed)
    return AlwaysValid(
        variant=challenger.key,
        name=challenger.name,
        e_value=found.e_value,
        log_e=found.log_e,
        p_value=found.p_value,
        needed=needed,
        shown=shown,
        leader=found.leader,
        says=_at_any_time_text(challenger.name, found.e_value, needed, shown, found.leader),
        reason=found.reason,
    )


def _at_any_time_text(
    name: str, e_value: float | None, needed: float, shown: bool, leader: str | None
) -> str:
    if e_value is None:
        return "nobody converted: nothing can be said yet"
    size = f"{e_value:,.1f}" if e_value < MOST_SHOWN else f"above {MOST_SHOWN:,.0f}"
    told = f"{name} converts {'better' if leader == 'variant' else 'worse'} than the control"
    return f"{told if shown else 'no difference is shown'} (e-value {size}, {needed:,.0f} is needed)"


def fingerprint(cells: Sequence[Cell]) -> str:
    """SHA-256 over the cells in order: equal data, equal fingerprint."""
    return hashlib.sha256(json.dumps(to_json(list(cells)), sort_keys=True).encode()).hexdigest()


def _in_order(experiment: Experiment) -> list[Variant]:
    """The control, then the challengers."""
    return [experiment.control, *experiment.challengers]


def _part(reached: datetime, start: datetime, end: datetime) -> float:
    return min(max((reached - start) / (end - start), 0.0), 1.0)


def _look(experiment: Experiment, sums: Sequence[Totals], found: engine.LookResult, as_of: datetime) -> Look:
    plan, counted = experiment.plan, sum(t.units for t in sums)
    days = (as_of - experiment.started_at).total_seconds() / 86400 if experiment.started_at else 0.0
    return Look(
        due=found.spending_time >= 1 and found.status != "too_early",
        status=found.status,
        why=_when(experiment, counted, as_of),
        number=len(found.state.hours),
        counted_units=counted,
        planned_units=plan.units,
        days=days,
        horizon_ends_at=experiment.horizon_ends_at,
        spending_time=found.spending_time,
        alpha_spent=found.alpha_spent,
        critical_z=found.critical,
        critical_chi_square=found.critical_chi_square,
    )


def _when(experiment: Experiment, counted: int, as_of: datetime) -> str:
    plan, ends_at = experiment.plan, experiment.horizon_ends_at
    if plan.finished:
        return "the data set is finished and evaluated as a whole"
    if plan.units is not None and counted >= plan.units:
        return f"the planned {plan.units:,} visitors are counted"
    if ends_at is not None and as_of >= ends_at:
        return f"day {plan.horizon.days} is reached"
    sample = f"{counted:,} of {plan.units:,} planned visitors" if plan.units else f"{counted:,} visitors"
    return f"{sample} are counted" + (
        f"; the last look is on {ends_at:%Y-%m-%d %H:%M} UTC" if ends_at else ""
    )


def _before(state: engine.EngineState | None, hours: float) -> engine.EngineState | None:
    """What the looks before ``hours`` of data left; later ones are undone."""
    if state is None or (state.hours and state.hours[-1] < hours and not state.ended):
        return state
    return state.rewind(hours)


def looks_taken(state: engine.EngineState) -> dict[str, Any]:
    """The looks so far as JSON: all that :func:`state_of` needs to go on from there."""
    return {
        "hours": list(state.hours),
        "information": list(state.paths[0].information),
        "critical": [list(path.critical) for path in state.paths],
        "dropped": list(state.dropped),
    }


def state_of(looks: Mapping[str, Any]) -> engine.EngineState:
    """The inverse of :func:`looks_taken`, by taking every look again."""
    information, hours = tuple(looks["information"]), tuple(looks["hours"])
    paths = (State(information, tuple(critical)) for critical in looks["critical"])
    return engine.EngineState(
        tuple(path.rewind(len(information)) for path in paths), tuple(looks["dropped"]), hours
    )


def _compare(experiment: Experiment, cells: Sequence[Cell], row: engine.ChallengerLook) -> Comparison:
    control, challenger = experiment.control.key, experiment.challengers[row.challenger - 1]
    units = {v: sum(c.units for c in cells if c.variant == v) for v in (control, challenger.key)}
    converted = {v: sum(c.conversions for c in cells if c.variant == v) for v in (control, challenger.key)}
    counts = (units[control], converted[control], units[challenger.key], converted[challenger.key])
    test = proportions.chi_square([counts[0], counts[2]], [counts[1], counts[3]])
    raw = proportions.difference(*counts, 1 - experiment.plan.alpha / len(experiment.challengers))
    stopped = row.stopped or engine.Effect()
    return Comparison(
        variant=challenger.key,
        name=challenger.name,
        active=row.active,
        crossed=row.crossed,
        z=row.z,
        critical_z=row.critical,
        p_adjusted=row.p_value if row.stopped else None,
        relative=row.relative.estimate,
        relative_low=row.relative.low,
        relative_high=row.relative.high,
        difference=row.absolute.estimate,
        difference_low=row.absolute.low,
        difference_high=row.absolute.high,
        stopped=stopped.estimate,
        stopped_low=stopped.low,
        stopped_high=stopped.high,
        chi_square=test.statistic,
        p_value=test.p_value,
        p_value_yates=test.p_value_yates,
        absolute=raw.absolute,
        low=raw.low,
        high=raw.high,
        reason=row.reason or test.reason or raw.reason,
    )


def _conclude(
    experiment: Experiment, found: engine.LookResult, comparisons: Sequence[Comparison], per_day: float
) -> tuple[Verdict, str | None, bool, list[Reason]]:
    """Verdict, variant to show, whether it is unproven, and the argument; the site's policy comes in here."""
    plan, order = experiment.plan, _in_order(experiment)
    argument = [reason for reason in found.reasons if reason.code != "veto"]
    if found.verdict is Verdict.SHIP and found.winner is not None:
        won = comparisons[found.winner - 1]
        argument += [_significant(plan, won), _worth_it(plan, won)]
        return Verdict.SHIP, won.variant, False, argument
    if found.verdict is Verdict.KEEP_CONTROL:
        return Verdict.KEEP_CONTROL, experiment.control.key, False, argument
    if found.verdict is Verdict.INCONCLUSIVE and {r.code for r in argument} == {"horizon"}:
        argument += _too_little_traffic(experiment, per_day)
        return _undecided(experiment, found, order, comparisons, argument)
    return found.verdict, None, False, argument


def _undecided(
    experiment: Experiment,
    found: engine.LookResult,
    order: Sequence[Variant],
    comparisons: Sequence[Comparison],
    argument: list[Reason],
) -> tuple[Verdict, str | None, bool, list[Reason]]:
    plan = experiment.plan
    argument.append(Reason("not_significant", "The variants differ by no more than chance explains."))
    highs = [c.relative_high for c in comparisons if c.active]
    if plan.min_uplift and all(high is not None and high < plan.min_uplift for high in highs):
        text = f"A gain of {plan.min_uplift:.0%} or more is excluded: the intervals end below it."
        argument.append(Reason("gain_excluded", text))
    if plan.at_horizon == "pick_leader" and found.leader is not None:
        leader = order[found.leader]
        text = f"By policy the leader, {leader.name}, is shown: an unproven pick, not a winner."
        argument.append(Reason("unproven_pick", text))
        return Verdict.INCONCLUSIVE, leader.key, True, argument
    argument.append(Reason("keep", "The control stays."))
    return Verdict.INCONCLUSIVE, None, False, argument


def _too_little_traffic(experiment: Experiment, per_day: float) -> list[Reason]:
    plan = experiment.plan
    shown = planning.under_powered(plan, per_day, variants=len(experiment.variants))
    if shown is None:
        return []
    least = f"only a gain of {shown:.0%} or more" if math.isfinite(shown) else "no gain of any size"
    text = f"Cannot tell at this traffic: {per_day:,.0f} visitors a day show {least}, and the plan was {plan.mde:.0%}."
    return [Reason("under_powered", text)]


def _significant(plan: Plan, won: Comparison) -> Reason:
    text = f"{won.name} beats the control: z = {won.z:.2f}, needed {won.critical_z:.2f} at this look"
    return Reason("significant", f"{text} for a {100 * plan.alpha:.2g}% error rate over all looks.")


def _worth_it(plan: Plan, won: Comparison) -> Reason:
    asked = {"not_excluded": won.relative_high, "point": won.relative, "proven": won.relative_low}[plan.gate]
    shown = "without bound" if asked is None else f"{asked:+.1%}"
    return Reason("worth_it", f"A gain of {plan.min_uplift:.0%} is asked for; {GATES[plan.gate]} is {shown}.")


def _vetoed(
    experiment: Experiment, cells: Sequence[Cell], found: engine.LookResult, per_day: float
) -> list[Reason]:
    """What the broken split has kept from happening; ``found`` is the same look without the veto."""
    comparisons = [_compare(experiment, cells, row) for row in found.challengers]
    verdict, winner, _, argument = _conclude(experiment, found, comparisons, per_day)
    if verdict is not Verdict.SHIP:
        return []
    name = next(c.name for c in comparisons if c.variant == winner)
    return [*argument, Reason("vetoed", f"But for the broken split {name} would have won: vetoed.")]


def _look_reason(look: Look) -> Reason:
    start = "The last look: " if look.due else "An early look: " if look.status == "look" else "No look yet: "
    return Reason("look", f"{start}{look.why}.")


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
    parts = (f"{experiment.name}: {headline}", counted and counted + ".", uplifts, reasons)
    return " ".join(part for part in parts if part)


def _uplift_sentence(comparison: Mapping[str, Any], level: float) -> str:
    """The estimate that knows about the looks where there is one, else the one of this look."""
    kind = "stopped" if comparison["stopped"] is not None else "relative"
    value, low, high = (comparison[kind + end] for end in ("", "_low", "_high"))
    if value is None:
        return ""
    sentence = f"{comparison['name']} against the control: {value:+.1%}"
    if low is None or high is None:
        return f"{sentence}."
    return f"{sentence} ({100 * level:.4g} % interval {low:+.1%} to {high:+.1%})."
