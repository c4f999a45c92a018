"""From the cells of an experiment to a verdict with its reasons.

The statistics are those of :mod:`cro_core.statistics.looks`; what the site's policy says about an undecided end
comes in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import scipy

from cro_core import __version__
from cro_core.analytics.counts import totals
from cro_core.decision.evidence import Comparison, always_valid, compare, look_at, with_rate
from cro_core.decision.inputs import (
    aggregates,
    fingerprint,
    look_plan,
    looks_taken,
    state_before,
    traffic,
)
from cro_core.decision.split_check import SplitReport, check_splits
from cro_core.decision.wording import (
    look_reason,
    paragraph,
    significant,
    too_little_traffic,
    worth_it,
)
from cro_core.domain import Cell, Decision, Experiment, GoalCell, Reason, Variant, Verdict, to_json
from cro_core.metrics.guardrails import breach, guardrails
from cro_core.planning import plans
from cro_core.statistics import looks


@dataclass(frozen=True, slots=True)
class Judgement:
    """A decision, and what the next look starts from."""

    decision: Decision
    state: looks.EngineState
    """To be stored with the experiment where the look was taken for good."""
    looked: bool
    """Whether a look was taken: False where there was nothing new, or too little yet."""


def decide(
    experiment: Experiment,
    cells: Sequence[Cell],
    *,
    as_of: datetime,
    state: looks.EngineState | None = None,
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
    elapsed, hours = plans.progress(experiment, as_of)
    before = state_before(state, hours)
    split = split or check_splits(experiment, cells)
    per_day = traffic(experiment, sum(t.units for t in sums), elapsed)
    plan = look_plan(experiment, per_day)

    def take(veto: str | None) -> looks.LookResult:
        return looks.evaluate(
            plan,
            aggregates(experiment, cells),
            elapsed=elapsed,
            hours=hours,
            state=before,
            veto=veto,
            names=[v.name for v in experiment.ordered],
        )

    found = take(split.reasons[0].text if split.veto else None)
    look = look_at(experiment, sums, found, as_of)
    comparisons = [compare(experiment, cells, row) for row in found.challengers]
    verdict, winner, unproven, argument = _conclude(experiment, found, comparisons, per_day)
    reasons = [*split.reasons, look_reason(look), *argument]
    if verdict is Verdict.INVALID:
        reasons += _vetoed(experiment, cells, take(None), per_day)
    guards = guardrails(experiment, cells, goals)
    broken = breach(guards)
    if broken is not None:
        reasons = [broken, *reasons]
        if verdict is not Verdict.INVALID:
            verdict, winner, unproven = Verdict.KEEP_CONTROL, experiment.control.key, False
    evidence = {
        "plan": experiment.plan,
        "epochs": experiment.epochs,
        "look": look,
        "looks": looks_taken(found.state),
        "totals": [with_rate(t) for t in sums],
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


def _conclude(
    experiment: Experiment, found: looks.LookResult, comparisons: Sequence[Comparison], per_day: float
) -> tuple[Verdict, str | None, bool, list[Reason]]:
    """Verdict, variant to show, whether it is unproven, and the argument; the site's policy comes in here."""
    plan, order = experiment.plan, experiment.ordered
    argument = [reason for reason in found.reasons if reason.code != "veto"]
    if found.verdict is Verdict.SHIP and found.winner is not None:
        won = comparisons[found.winner - 1]
        argument += [significant(plan, won), worth_it(plan, won)]
        return Verdict.SHIP, won.variant, False, argument
    if found.verdict is Verdict.KEEP_CONTROL:
        return Verdict.KEEP_CONTROL, experiment.control.key, False, argument
    if found.verdict is Verdict.INCONCLUSIVE and {r.code for r in argument} == {"horizon"}:
        argument += too_little_traffic(experiment, per_day)
        return _undecided(experiment, found, order, comparisons, argument)
    return found.verdict, None, False, argument


def _undecided(
    experiment: Experiment,
    found: looks.LookResult,
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


def _vetoed(
    experiment: Experiment, cells: Sequence[Cell], found: looks.LookResult, per_day: float
) -> list[Reason]:
    """What the broken split has kept from happening; ``found`` is the same look without the veto."""
    comparisons = [compare(experiment, cells, row) for row in found.challengers]
    verdict, winner, _, argument = _conclude(experiment, found, comparisons, per_day)
    if verdict is not Verdict.SHIP:
        return []
    name = next(c.name for c in comparisons if c.variant == winner)
    return [*argument, Reason("vetoed", f"But for the broken split {name} would have won: vetoed.")]
