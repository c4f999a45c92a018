"""What a challenger is worth in money: the conversions that it brings more, less what showing it costs more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cro_core.decision.policy import Conclusion
from cro_core.domain import Experiment, Reason, Variant
from cro_core.evidence import Comparison, Estimate, Evidence, NetValue, TotalsWithRate

THOUSAND = 1000
"""Visitors that amounts are told for."""


def net_values(
    experiment: Experiment, totals: Sequence[TotalsWithRate], comparisons: Sequence[Comparison]
) -> tuple[NetValue, ...]:
    """What every challenger is worth, at the control's rate and the uplift that is told.

    The interval is the uplift's, so it holds the control's rate, the value and the costs for known.

    Args:
        experiment: its plan says what a conversion is worth, its variants what they cost.
        totals: every variant, with its rate.
        comparisons: every challenger against the control.

    Returns:
        Empty where nobody said what a conversion is worth, or nobody is counted.
    """
    value = experiment.plan.value_per_conversion
    rate = next((t.rate for t in totals if t.is_control), None)
    if value is None or rate is None:
        return ()
    worth = THOUSAND * rate * value
    variants = {v.key: v for v in experiment.variants}
    return tuple(_net_value(experiment, variants[c.variant], c, worth) for c in comparisons)


def money_reasons(evidence: Evidence, conclusion: Conclusion, alpha: float) -> list[Reason]:
    """What the verdict means in money: of the winner, else of every challenger that is still in.

    Args:
        evidence: with its net values.
        conclusion: of a final decision.
        alpha: of the plan.
    """
    rows = {row.variant: row for row in evidence.money if row.net.value is not None}
    won = rows.get(conclusion.winner or "")
    compared = {c.variant: c for c in evidence.comparisons}
    told = [won] if won else [row for key, row in rows.items() if compared[key].active]
    return list(_reasons(told, evidence, conclusion, alpha))


def _net_value(experiment: Experiment, challenger: Variant, compared: Comparison, worth: float) -> NetValue:
    cost = THOUSAND * ((challenger.cost_per_exposure or 0.0) - (experiment.control.cost_per_exposure or 0.0))
    uplift = compared.uplift
    gain = [None if end is None else end * worth for end in (uplift.value, uplift.low, uplift.high)]
    net = [None if end is None else end - cost for end in gain]
    return NetValue(
        variant=challenger.key,
        name=challenger.name,
        currency=experiment.plan.currency,
        gain=Estimate(*gain),
        cost=cost,
        net=Estimate(*net),
    )


def _reasons(
    rows: Iterable[NetValue], evidence: Evidence, conclusion: Conclusion, alpha: float
) -> Iterable[Reason]:
    levels = {c.variant: evidence.confidence(c, alpha) for c in evidence.comparisons}
    for row in rows:
        text = f"Per 1,000 visitors {row.name} brings {_net(row, levels[row.variant])} more than the control"
        if row.cost:
            costs = f"conversions {row.amount(row.gain.value)}, what showing it costs {row.amount(-row.cost)}"
            text += f": {costs}"
        yield Reason("money", f"{text}.")
        if row.loses and row.variant == conclusion.winner:
            better = "converts better, but " if not conclusion.unproven else ""
            yield Reason(
                "costs_more",
                f"{row.name} {better}costs more than it brings: a person decides whether it is shown.",
            )


def _net(row: NetValue, level: float) -> str:
    """The net amount with its interval."""
    low, high = row.net.low, row.net.high
    if low is None or high is None:
        return row.amount(row.net.value)
    return (
        f"{row.amount(row.net.value)} ({100 * level:.4g} % interval {row.amount(low)} to {row.amount(high)})"
    )
