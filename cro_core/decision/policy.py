"""What a site makes of a look: verdict, variant to show and argument, by the policy that was fixed in the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cro_core.decision.wording import significant, too_little_traffic, worth_it
from cro_core.domain import Experiment, Reason, Verdict
from cro_core.evidence import Comparison
from cro_core.statistics import looks

NOTHING_PROVEN = (Verdict.NO_PRACTICAL_GAIN, Verdict.GAIN_BELOW_MINIMUM)
"""What the first rule did not tell from a control that is proven better."""


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What is to be done, and why."""

    verdict: Verdict
    argument: tuple[Reason, ...]
    """The reasons in order, those of the split left out."""
    winner: str | None = None
    """The variant to show from now on; the control for ``keep_control``; ``None`` where nothing changes."""
    unproven: bool = False
    """True where policy, not evidence, picked the winner."""


def conclude(
    experiment: Experiment, result: looks.LookResult, comparisons: Sequence[Comparison], per_day: float
) -> Conclusion:
    """The conclusion from one look.

    Args:
        experiment: a started experiment.
        result: what the look found.
        comparisons: the same look's comparisons, one for each challenger in order.
        per_day: visitors a day that the experiment gets.
    """
    plan = experiment.plan
    argument = tuple(reason for reason in result.reasons if reason.code != "veto")
    if result.verdict is Verdict.SHIP and result.winner is not None:
        won = comparisons[result.winner - 1]
        only = len(result.state.hours) == 1 and result.spending_time >= 1
        return Conclusion(
            Verdict.SHIP,
            (*argument, significant(plan, won, only=only), worth_it(plan, won)),
            winner=won.variant,
        )
    if result.verdict is Verdict.KEEP_CONTROL or (plan.rule == 1 and result.verdict in NOTHING_PROVEN):
        return Conclusion(Verdict.KEEP_CONTROL, argument, winner=experiment.control.key)
    if result.verdict is Verdict.INCONCLUSIVE and {reason.code for reason in argument} == {"horizon"}:
        argument += (*too_little_traffic(experiment, per_day), *_nothing_proven(experiment, comparisons))
        return _undecided(experiment, result.leader, argument)
    return Conclusion(result.verdict, argument)


def vetoed(
    experiment: Experiment,
    result: looks.LookResult,
    comparisons: Sequence[Comparison],
    per_day: float,
    *,
    but_for: str,
) -> tuple[Reason, ...]:
    """What a veto has kept from happening; nothing where no challenger would have won.

    Arguments are those of :func:`conclude`, of the same look without the veto; ``but_for`` names it.
    """
    conclusion = conclude(experiment, result, comparisons, per_day)
    if conclusion.verdict is not Verdict.SHIP:
        return ()
    name = next(c.name for c in comparisons if c.variant == conclusion.winner)
    text = f"But for {but_for} {name} would have won: vetoed."
    return (*conclusion.argument, Reason("vetoed", text))


def _nothing_proven(experiment: Experiment, comparisons: Sequence[Comparison]) -> list[Reason]:
    reasons = [Reason("not_significant", "The variants differ by no more than chance explains.")]
    least = experiment.plan.min_uplift
    highs = [c.relative_high for c in comparisons if c.active]
    if least and all(high is not None and high < least for high in highs):
        text = f"A gain of {least:.0%} or more is excluded: the intervals end below it."
        reasons.append(Reason("gain_excluded", text))
    return reasons


def _undecided(experiment: Experiment, leader: int | None, argument: tuple[Reason, ...]) -> Conclusion:
    if experiment.plan.at_horizon == "pick_leader" and leader is not None:
        shown = experiment.ordered[leader]
        text = f"By policy the leader, {shown.name}, is shown: an unproven pick, not a winner."
        reason = Reason("unproven_pick", text)
        return Conclusion(Verdict.INCONCLUSIVE, (*argument, reason), winner=shown.key, unproven=True)
    return Conclusion(Verdict.INCONCLUSIVE, (*argument, Reason("keep", "The control stays.")))
