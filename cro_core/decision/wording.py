"""A decision in words: its reasons, and the paragraph for a person without statistics."""

from __future__ import annotations

import math

from cro_core.domain import Experiment, Plan, Reason, Verdict
from cro_core.evidence import Comparison, Decision, Look
from cro_core.planning import plans

GATES = {
    "not_excluded": "the upper end of its interval",
    "point": "its estimate",
    "proven": "the lower end of its interval",
}


STARTS = {
    "look": "An early look: ",
    "between_looks": "Between two looks: ",
    "holding": "A winner is held back: ",
}
"""Status of a look -> how it is told; where none was taken yet, that is said."""


HEADLINES = {
    Verdict.SHIP: "{winner} wins.",
    Verdict.KEEP_CONTROL: "Keep the control, {control}.",
    Verdict.NO_PRACTICAL_GAIN: "Stopped, nothing proven: a worthwhile gain can hardly be shown any more.",
    Verdict.GAIN_BELOW_MINIMUM: "Better, but by less than is worth shipping: the control stays.",
    Verdict.CONTINUE: "Keep running.",
    Verdict.INCONCLUSIVE: "Undecided: nothing was proven.",
    Verdict.INVALID: "No decision: the data cannot be trusted.",
}


def look_reason(look: Look) -> Reason:
    """Which look this is."""
    start = "The last look: " if look.due else STARTS.get(look.status, "No look yet: ")
    then = f" The next look is due on {look.next_at:%Y-%m-%d %H:%M} UTC." if look.next_at else ""
    return Reason("look", f"{start}{look.why}.{then}")


def significant(plan: Plan, won: Comparison, *, only: bool) -> Reason:
    """How far the winner is beyond the line; ``only`` where one look was taken and none was to come.

    Without a line for z the exact test has decided, and says itself how far.
    """
    text = f"{won.name} beats the control"
    if won.critical_z is None:
        text += f": p = {won.p_adjusted:.2g} by the exact test"
    else:
        text += f": z = {won.z:.2f}, needed {won.critical_z:.2f}"
    where, over = ("at its one look", "") if only else ("at this look", " over all looks")
    return Reason("significant", f"{text} {where} for a {100 * plan.alpha:.2g}% error rate{over}.")


def worth_it(plan: Plan, won: Comparison) -> Reason:
    """Says that the gain may be as large as the site asks for."""
    gated = {"not_excluded": won.relative_high, "point": won.relative, "proven": won.relative_low}[plan.gate]
    shown = "without bound" if gated is None else f"{gated:+.1%}"
    return Reason("worth_it", f"A gain of {plan.min_uplift:.0%} is asked for; {GATES[plan.gate]} is {shown}.")


def too_little_traffic(experiment: Experiment, per_day: float) -> list[Reason]:
    """Says that the visitors who came could not show the planned gain; nothing where they could."""
    plan = experiment.plan
    shown = plans.under_powered(plan, per_day, variants=len(experiment.variants))
    if shown is None:
        return []
    least = f"only a gain of {shown:.0%} or more" if math.isfinite(shown) else "no gain of any size"
    text = f"Cannot tell at this traffic: {per_day:,.0f} visitors a day show {least}, and the plan was {plan.mde:.0%}."
    return [Reason("under_powered", text)]


def paragraph(experiment: Experiment, decision: Decision) -> str:
    """The decision for a person without statistics."""
    names = {v.key: v.name for v in experiment.variants}
    headline = HEADLINES[decision.verdict].format(
        winner=names.get(decision.winner or "", ""), control=experiment.control.name
    )
    counted = "; ".join(
        f"{t.name}: {t.conversions:,} of {t.units:,} visitors converted ({t.rate:.2%})"
        for t in decision.evidence.totals
        if t.units
    )
    # An uplift before the last look, or from a broken split, is a number that only misleads.
    telling = decision.final and decision.verdict is not Verdict.INVALID
    evidence = decision.evidence
    uplifts = " ".join(
        _uplift_sentence(c, evidence.confidence(c, experiment.plan.alpha))
        for c in evidence.comparisons
        if telling
    )
    reasons = " ".join(r.text for r in decision.reasons)
    parts = (f"{experiment.name}: {headline}", counted and counted + ".", uplifts, reasons)
    return " ".join(part for part in parts if part)


def _uplift_sentence(comparison: Comparison, level: float) -> str:
    uplift = comparison.uplift
    if uplift.value is None:
        return ""
    sentence = f"{comparison.name} against the control: {uplift.value:+.1%}"
    if uplift.low is None or uplift.high is None:
        return f"{sentence}."
    return f"{sentence} ({100 * level:.4g} % interval {uplift.low:+.1%} to {uplift.high:+.1%})."
