"""A verdict in two plain sentences, for a reader who has never seen the experiment."""

from __future__ import annotations

from collections.abc import Mapping

from cro_core.domain import Experiment, Verdict
from cro_core.evidence import Decision, NetValue
from cro_core.reporting import words
from cro_core.reporting.values import Progress, Sheet

WHY: Mapping[str, str] = {
    "too_few": "Too few visitors came to compare the versions.",
    "no_information": "The versions cannot be compared: nobody converted, or everybody did.",
    "under_powered": "Too few visitors come to tell a gain of the planned size from chance.",
    "futile": "There is hardly a chance left to prove a gain worth having, so no more visitors are spent on it. "
    "That proves neither version better.",
    "faded": "The gain of the first days did not last.",
    "not_significant": "No difference was proven: the versions are no further apart than chance explains.",
    "gain_excluded": "A gain worth having can be ruled out.",
    "control_wins": "Every other version did worse, by more than chance explains.",
    "gain_too_small": "Another version did better, but the gain is too small to be worth a change.",
}
"""Sentences on why an experiment ended, by the code of the reason that settled it."""


def summary(experiment: Experiment, decision: Decision) -> str:
    """What was decided and what it rests on, without a term of statistics."""
    control = _name(experiment, experiment.control.key)
    if decision.verdict is Verdict.SHIP:
        winner = _name(experiment, decision.winner)
        counts = _counts(decision, decision.winner, experiment.control.key)
        return f"{winner} is better than {control}: {counts}.{_at_a_loss(decision)}"
    if decision.verdict is Verdict.INVALID:
        return f"The numbers cannot be trusted: {_fault(decision)}."
    if decision.verdict is Verdict.CONTINUE:
        return f"Too early to say. {words.sentence(_look(decision))}."
    why = " ".join(WHY[r.code] for r in decision.reasons if r.code in WHY) or "Nothing was proven."
    if decision.unproven:
        leader = _name(experiment, decision.winner)
        return f"{why} Your settings ask to show the leader all the same, {leader}.{_at_a_loss(decision)}"
    return f"{why} {control} stays."


def evidence(page: Sheet) -> str:
    """What the verdict rests on, in one sentence of numbers."""
    best = page.best
    if page.verdict is Verdict.INVALID:
        return f"{words.some(page.units, 'visitor')}, none of which can be used."
    if best is None or best.uplift.value is None:
        return f"{words.some(page.units, 'visitor')}; {(best.reason if best else '') or 'no comparison is possible'}."
    span = words.interval(best.uplift.low, best.uplift.high)
    return (
        f"{words.signed(best.uplift.value)} conversions with “{best.name}” over “{page.control}” "
        f"({words.level(page.confidence)} interval {span}), {words.some(page.units, 'visitor')}, "
        f"{words.p_value(best.p_value)}.{_chance_left(page)}"
    )


def _chance_left(page: Sheet) -> str:
    """What a test that stopped without proof could still have shown, with a space before it; else empty."""
    chances = [c.comparison.conditional_power for c in page.contrasts]
    largest = max((chance for chance in chances if chance is not None), default=None)
    if page.verdict is not Verdict.NO_PRACTICAL_GAIN or largest is None:
        return ""
    limit = f"; below {words.share(page.futility_power)} a test stops" if page.futility_power else ""
    chance = "under 0.1\u00a0%" if largest < 0.001 else words.percent(largest)
    return f" Were the uplift {words.signed(page.mde)}, the chance to prove it by the end would be {chance}{limit}."


def worth(page: Sheet) -> str:
    """What the winner adds, in one sentence; empty where nothing won."""
    gain = page.worth
    if gain is None:
        return ""
    text = f"{words.more(gain.per_thousand)} conversions per 1,000 visitors"
    if gain.per_week is None:
        return text + "."
    low, high = words.more(gain.per_week_low), words.more(gain.per_week_high)
    return f"{text}: about {words.more(gain.per_week)} a week at this traffic (between {low} and {high})."


def when(progress: Progress, zone: str) -> str:
    """When a running test may be decided, in one sentence."""
    first = "at any hour"
    if progress.next_at is not None:
        first = f"on {words.minute(progress.next_at, zone)}, when a day is whole, or on a later day"
    return f"May be decided {first}, at the latest on {words.day(progress.ends_at, zone)}."


def money(page: Sheet) -> str:
    """What the best version is worth in money, in one sentence; empty where nobody said what a conversion is worth."""
    row = page.net
    if row is None or row.net.value is None:
        return ""
    text = f"{_amount(row, row.net.value)} per 1,000 visitors with “{row.name}” over “{page.control}”"
    if row.net.low is not None and row.net.high is not None:
        span = f"{_amount(row, row.net.low)} to {_amount(row, row.net.high)}"
        text += f" ({words.level(page.confidence)} interval {span})"
    if row.cost:
        text += f": {_amount(row, row.gain.value)} by conversions, {_amount(row, -row.cost)} by what showing it costs"
    return text + "."


def _amount(row: NetValue, value: float | None) -> str:
    """An amount that stays on one line, with a true minus."""
    return row.amount(value).replace("-", "−").replace(" ", words.NBSP)


def _at_a_loss(decision: Decision) -> str:
    if not decision.costs_more:
        return ""
    return " It costs more than it brings, so a person decides whether it is shown."


def _name(experiment: Experiment, key: str | None) -> str:
    variant = experiment.variant(key or "")
    return f"“{(variant.name if variant else '') or key}”"


def _counts(decision: Decision, winner: str | None, control: str) -> str:
    totals = {t.variant: t for t in decision.evidence.totals}
    if winner not in totals or control not in totals:
        return "see the evidence"
    won, base = totals[winner], totals[control]
    return (
        f"{words.count(won.conversions)} of {words.count(won.units)} visitors converted, "
        f"against {words.count(base.conversions)} of {words.count(base.units)}"
    )


def _fault(decision: Decision) -> str:
    """Why the numbers cannot be trusted: what breaks the split goes before visitors who crossed."""
    crossing, splits = decision.evidence.crossing, decision.evidence.splits
    if crossing is not None and splits is not None and not splits.veto:
        return f"{words.percent(crossing.share)} of the visitors met more than one version"
    return _split(decision)


def _split(decision: Decision) -> str:
    cause = [r.text for r in decision.reasons if r.code == "srm_cause"]
    if cause:
        return f"visitors were not divided between the versions as planned. {cause[0].removesuffix('.')}"
    srm = decision.evidence.srm
    splits = decision.evidence.splits
    if splits is not None and splits.veto and srm is not None and not srm.alarm:
        return "for a time visitors were not divided between the versions as planned, and nobody has explained why"
    if srm is None or not srm.units or not srm.expected:
        return "visitors were not divided between the versions as planned"
    came, planned = (" and ".join(words.count(n) for n in numbers) for numbers in (srm.units, srm.expected))
    return f"{came} visitors came to the versions where {planned} were planned, far more than chance explains"


def _look(decision: Decision) -> str:
    look = decision.evidence.look
    if look is None:
        return "no visitor is counted yet"
    if not look.planned_units:
        return f"{words.some(look.counted_units, 'visitor is', 'visitors are')} counted so far"
    return (
        f"{words.count(look.counted_units)} of {words.count(look.planned_units)} planned visitors are counted"
    )
