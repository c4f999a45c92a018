"""From the cells of an experiment to a decision with its reasons: split, look, policy and guardrails, in that order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import numpy as np
import scipy

from cro_core import __version__
from cro_core.analytics.counts import totals
from cro_core.decision.crossing import crossing_reasons, crossing_veto
from cro_core.decision.e_values import e_values
from cro_core.decision.exact_look import exact_decides, exact_look, exact_reasons
from cro_core.decision.figures import always_valid, compare, describe_look, with_rate
from cro_core.decision.inputs import (
    fingerprint,
    look_data,
    look_plan,
    looks_taken,
    moment,
    next_look,
    state_before,
    traffic,
)
from cro_core.decision.money import money_reasons, net_values
from cro_core.decision.policy import Conclusion, conclude, vetoed
from cro_core.decision.split_check import check_split
from cro_core.decision.wording import look_reason, paragraph
from cro_core.domain import Cell, DayCell, Experiment, GoalCell, Reason, Verdict
from cro_core.evidence import Comparison, Crossing, Decision, Evidence, ExactTest, SplitReport
from cro_core.metrics.guardrails import breach, guardrails, unwatched
from cro_core.planning import plans
from cro_core.statistics import looks


@dataclass(frozen=True, slots=True)
class Judgement:
    """A decision, and what the next look starts from."""

    decision: Decision
    state: looks.LookState
    """State to be stored with the experiment where the look was taken for good."""
    look_taken: bool
    """False where there was nothing new, or too little yet."""


def decide(
    experiment: Experiment,
    cells: Sequence[Cell],
    *,
    as_of: datetime,
    state: looks.LookState | None = None,
    split: SplitReport | None = None,
    goals: Sequence[GoalCell] = (),
    days: Sequence[DayCell] = (),
    crossing: Crossing | None = None,
) -> Judgement:
    """The decision that these counts allow at this moment.

    Args:
        experiment: a started experiment.
        cells: its counted units per epoch and variant.
        as_of: the moment of the look, UTC.
        state: what the looks so far left; those at or after ``as_of`` are undone. ``None`` before the first.
        split: whether visitors split as planned, by day and segment too; ``None`` checks only the total.
        goals: the same units by goal, where a guardrail of the plan watches one.
        days: the same units by day, with those that are not mature yet; without them only mature units decide.
        crossing: how many visitors met more than one variant; ``None`` where it was not counted.
    """
    sums = totals(experiment, cells)
    split = split or check_split(experiment, cells)
    per_day = traffic(experiment, sum(t.units for t in sums), plans.progress(experiment, as_of)[0])
    told_apart = () if exact_decides(experiment, cells) else days
    take_look = partial(_take_look, experiment, cells, told_apart, as_of, state, per_day)
    veto = split.reasons[0].text if split.veto else crossing_veto(crossing)
    result, comparisons, exact = take_look(veto)
    exposed = sum(day.exposed for day in told_apart) if told_apart and not experiment.plan.adaptive else None
    look = describe_look(
        experiment, sums, result, as_of, exposed=exposed, next_at=next_look(experiment, as_of)
    )
    conclusion = conclude(experiment, result, comparisons, per_day)
    told = exact_reasons(exact, final=conclusion.verdict is not Verdict.CONTINUE)
    reasons = [
        *split.reasons,
        *crossing_reasons(crossing),
        look_reason(look),
        *told,
        *conclusion.argument,
    ]
    if veto is not None and (conclusion.verdict is Verdict.INVALID or experiment.plan.rule >= 2):
        but_for = "the broken split" if split.veto else "the visitors who crossed"
        kept = vetoed(experiment, *take_look(None)[:2], per_day, but_for=but_for)
        reasons += kept if conclusion.verdict is Verdict.INVALID else kept[-1:]
    guards = guardrails(experiment, cells, goals)
    broken = breach(guards)
    if broken is not None:
        reasons, conclusion = [broken, *reasons], _keeping_control(experiment, conclusion)
    if experiment.plan.rule >= 2:
        reasons += unwatched(guards, final=conclusion.verdict is not Verdict.CONTINUE)
    totals_with_rates = tuple(with_rate(t) for t in sums)
    telling = conclusion.verdict not in (Verdict.CONTINUE, Verdict.INVALID)
    evidence = Evidence(
        plan=experiment.plan,
        epochs=experiment.epochs,
        look=look,
        looks=looks_taken(result.state),
        totals=totals_with_rates,
        comparisons=comparisons,
        srm=split.total,
        splits=split,
        days=tuple(days),
        crossing=crossing,
        guardrails=guards,
        companion=always_valid(experiment, cells) if experiment.plan.companion else None,
        exact=exact,
        e_values=e_values(experiment, cells),
        money=net_values(experiment, totals_with_rates, comparisons) if telling else (),
    )
    reasons += money_reasons(evidence, conclusion, experiment.plan.alpha)
    decision = _decision(experiment, cells, as_of, conclusion, reasons, evidence)
    return Judgement(decision, result.state, result.status == "look")


def _take_look(
    experiment: Experiment,
    cells: Sequence[Cell],
    days: Sequence[DayCell],
    as_of: datetime,
    state: looks.LookState | None,
    per_day: float,
    veto: str | None,
) -> tuple[looks.LookResult, tuple[Comparison, ...], ExactTest | None]:
    """One look with its comparisons and the exact test; ``veto`` says why nothing may win."""
    at = moment(experiment, as_of)
    data = look_data(experiment, cells, days, at, as_of)
    plan, before = look_plan(experiment, per_day), state_before(state, at)
    by_chi_square = looks.take_look(
        plan,
        data.deciding,
        elapsed=at.elapsed if data.maturity is not None or experiment.plan.adaptive else at.mature,
        hours=at.hours,
        state=before,
        veto=veto,
        names=[v.name for v in experiment.ordered],
        maturity=data.maturity,
        days=data.by_day,
        clock=None if experiment.plan.rule == 1 else at.clock,
    )
    result, exact = exact_look(experiment, cells, plan, before, by_chi_square)
    return result, tuple(compare(experiment, cells, row) for row in result.challengers), exact


def _keeping_control(experiment: Experiment, conclusion: Conclusion) -> Conclusion:
    """What is to be done where a guardrail is broken: a broken split stays one, else everybody gets the control."""
    if conclusion.verdict is Verdict.INVALID:
        return conclusion
    return replace(conclusion, verdict=Verdict.KEEP_CONTROL, winner=experiment.control.key, unproven=False)


def _decision(
    experiment: Experiment,
    cells: Sequence[Cell],
    as_of: datetime,
    conclusion: Conclusion,
    reasons: Sequence[Reason],
    evidence: Evidence,
) -> Decision:
    decision = Decision(
        experiment_id=experiment.id,
        as_of=as_of,
        verdict=conclusion.verdict,
        reasons=tuple(reasons),
        cells=tuple(cells),
        winner=conclusion.winner,
        unproven=conclusion.unproven,
        evidence=evidence,
        fingerprint=fingerprint(cells, evidence.days),
        versions={"cro": __version__, "numpy": np.__version__, "scipy": scipy.__version__},
        id=f"{experiment.id}:{as_of:%Y%m%dT%H%MZ}",
    )
    return replace(decision, text=paragraph(experiment, decision))
