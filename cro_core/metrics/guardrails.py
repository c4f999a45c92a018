"""Guardrails: what no variant may worsen, whatever it gains elsewhere.

They are e-processes that may be read every hour (:mod:`cro_core.statistics.companion`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from cro_core.domain import Cell, Experiment, GoalCell, Guardrail, Harm, Measured, Quantity, Reason
from cro_core.evidence import GuardrailState
from cro_core.metrics.kinds import Mean, Rate
from cro_core.metrics.metric import Metric
from cro_core.metrics.sums import Counted, counted
from cro_core.statistics import companion
from cro_core.statistics.combination import Pair


class Guarded(Metric, Protocol):
    """A metric that a guardrail can watch."""

    def pair(self, control: Counted, challenger: Counted) -> Pair:
        """Challenger and control by epoch."""

    def watch(
        self, control: Counted, challenger: Counted, margin: float, harm: Harm, number: int
    ) -> companion.GuardrailCheck:
        """Whether the challenger is worse by more than a margin; arguments as of :func:`companion.guardrail`."""


GUARDED: Mapping[str, Callable[[Quantity], Guarded]] = {
    "goal": Rate,
    "conversions": Rate,
    "engagement": Mean,
    "revenue": Mean,
}
"""Kind of a quantity -> the metric of it that is watched."""


def guardrails(
    experiment: Experiment, cells: Sequence[Cell], goals: Sequence[GoalCell] = ()
) -> tuple[GuardrailState, ...]:
    """Every guardrail of every challenger; to be read at every look.

    While no variant is worse than its margins, at most one experiment in a hundred is ever stopped by any of
    its guardrails, also while shares move and rates drift: each epoch is compared in itself. For means that
    bound is approximate (see :func:`cro_core.statistics.companion.guardrail_mean`).

    Args:
        experiment: a started experiment.
        cells: its counted units per epoch and variant.
        goals: its units that reached each goal; needed where a guardrail names a goal.

    Returns:
        Empty where the plan has no guardrails.

    Raises:
        InvalidInput: counts that no data can have, a margin outside [0, 1), or an unknown measure.
    """
    rules = experiment.plan.guardrails
    counts = counted(experiment, cells, Measured(tuple(goals)))
    control = counts[experiment.control.key]
    number = len(rules) * len(experiment.challengers)
    return tuple(
        _watch(
            rule,
            control,
            counts[challenger.key],
            challenger.name,
            number,
            first_rule=experiment.plan.rule == 1,
        )
        for challenger in experiment.challengers
        for rule in rules
    )


def breach(states: Sequence[GuardrailState]) -> Reason | None:
    """Why the experiment has to end now and everybody to get the control; ``None`` while all guardrails hold."""
    broken = [state.text for state in states if state.broken]
    return Reason("guardrail", " ".join(broken)) if broken else None


def unwatched(states: Sequence[GuardrailState], *, final: bool) -> list[Reason]:
    """What was not guarded, each measure once: a mean that has no change in per cent at any look, the rest at the end.

    Args:
        states: every guardrail of every challenger.
        final: whether the experiment ends with this look.
    """
    why: dict[str, tuple[str, str]] = {}
    for state in states:
        if state.status == "no_data" and (final or state.reason == companion.NOT_POSITIVE):
            why.setdefault(state.measure, (state.name, state.reason or ""))
    watched = {state.measure for state in states if state.status != "no_data"}
    blind = {measure: told for measure, told in why.items() if measure not in watched}
    return [
        Reason("guardrail_unwatched", f"The guardrail of {name} cannot be watched: {reason}.")
        for name, reason in blind.values()
    ]


def guarded(rule: Guardrail) -> Guarded:
    """The metric that a guardrail watches.

    Raises:
        InvalidInput: an unknown measure: a misspelt guardrail must not be silently blind.
    """
    quantity = Quantity.parse(rule.measure, GUARDED, what="guardrail", field="guardrails")
    return GUARDED[quantity.kind](quantity)


def _watch(
    rule: Guardrail, control: Counted, challenger: Counted, variant: str, number: int, *, first_rule: bool
) -> GuardrailState:
    metric = guarded(rule)
    watch = metric.watch(control, challenger, rule.margin, rule.harm, number)
    watch = _as_told_then(watch) if first_rule else _in_per_cent(watch, metric, control)
    with np.errstate(all="ignore"):
        relative = float(metric.pair(control, challenger).estimate("relative"))
    blind = watch.reason == companion.NOT_POSITIVE
    state = GuardrailState(
        measure=rule.measure,
        name=metric.name,
        variant=challenger.variant,
        margin=rule.margin,
        harm=rule.harm,
        status="broken" if watch.status == "stop" else watch.status,
        broken=watch.status == "stop",
        relative=relative if math.isfinite(relative) and (first_rule or not blind) else None,
        e_value=watch.e_value,
        threshold=watch.threshold,
        text="",
        reason=watch.reason,
    )
    return replace(state, text=_sentence(state, variant))


def _as_told_then(watch: companion.GuardrailCheck) -> companion.GuardrailCheck:
    """The check in the words of the first rule."""
    return replace(watch, reason=companion.NO_BIN) if watch.reason == companion.NOT_POSITIVE else watch


def _in_per_cent(
    watch: companion.GuardrailCheck, metric: Guarded, control: Counted
) -> companion.GuardrailCheck:
    """The check, unless it holds only because nothing is told in per cent of a mean of the control not above 0."""
    if watch.status != "ok" or not isinstance(metric, Mean):
        return watch
    if control.sums(metric.quantity).total.sum() > 0:
        return watch
    return companion.GuardrailCheck("no_data", None, None, watch.threshold, companion.NOT_POSITIVE)


def _sentence(state: GuardrailState, variant: str) -> str:
    limit = f"{'-' if state.harm == 'less' else '+'}{state.margin:.0%}" if state.margin else "0 %"
    seen = "" if state.relative is None else f" is {state.relative:+.1%} against the control, and"
    what = f"{state.name} of {variant}"
    if state.reason == companion.NOT_POSITIVE:
        return f"Guardrail cannot be watched: {what}: {state.reason}. Guard a goal or conversions instead."
    if state.status == "no_data":
        return f"Guardrail not yet watched: {what}: {state.reason}."
    verdict = "Guardrail broken" if state.broken else "Guardrail holds"
    proof = f"evidence of a greater harm {state.e_value:.3g}, limit {state.threshold:.0f}"
    return f"{verdict}: {what}{seen} {limit} is tolerated ({proof})."
