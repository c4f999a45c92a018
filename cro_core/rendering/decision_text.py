"""A decision for the terminal: the paragraph, then every number it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cro_core.decision.split_wording import alarm_line
from cro_core.evidence import (
    AlwaysValid,
    Comparison,
    Decision,
    EValue,
    Evidence,
    ExactComparison,
    GuardrailState,
    Look,
    MetricResult,
    Outcomes,
    Step,
    TotalsWithRate,
)
from cro_core.reporting import outcome_rows, words

MOST_SHOWN = 1e6
"""E-values beyond it are not spelt out."""


def decision_text(decision: Decision) -> str:
    """The decision with its counts, comparisons, split check and reconciliation."""
    return "\n".join(_lines(decision)).replace(words.NBSP, " ")


def _lines(decision: Decision) -> Iterator[str]:
    evidence = decision.evidence
    yield words.clean(decision.text)
    yield ""
    yield f"verdict  {decision.verdict}{f', show {decision.winner}' if decision.winner else ''}"
    yield from _look(evidence.look)
    yield from _split(evidence)
    yield from _totals(evidence.totals)
    beside = {c.variant: c for c in evidence.companion or ()}
    exact = {c.variant: c for c in evidence.exact.comparisons} if evidence.exact else {}
    adding = {c.variant: c for c in evidence.e_values or ()}
    for comparison in evidence.comparisons:
        yield from _comparison(comparison, evidence)
        yield from _exact(exact.get(comparison.variant))
        yield from _any_time(beside.get(comparison.variant))
        yield from _adds_up(adding.get(comparison.variant))
    yield from _guardrails(evidence.guardrails or ())
    whole = evidence.plan is not None and evidence.plan.finished
    yield from _metrics(evidence.metrics.results if evidence.metrics else (), whole=whole)
    yield from _outcomes(evidence.outcomes)
    yield from _waterfall(evidence.waterfall)


def _look(look: Look | None) -> Iterator[str]:
    if look is not None:
        yield f"look     {'due' if look.due else 'not due'}: {look.why}"


def _split(evidence: Evidence) -> Iterator[str]:
    srm = evidence.srm
    if srm is not None:
        p = f" ({words.p_value(srm.p_value)})" if srm.p_value is not None else ""
        status = (evidence.splits or srm).status.replace("_", " ")
        yield f"split    {status}{p}"
    zone = evidence.plan.zone if evidence.plan else "UTC"
    for alarm in evidence.splits.alarms if evidence.splits else ():
        yield f"         {words.clean(alarm_line(alarm, zone))}"
    crossing = evidence.crossing
    if crossing is not None and crossing.units:
        yield (
            f"crossing {words.percent(crossing.share)}: {words.count(crossing.units)} of "
            f"{words.count(crossing.exposed)} visitors met more than one variant"
        )


def _totals(totals: Sequence[TotalsWithRate]) -> Iterator[str]:
    if not totals:
        return
    yield ""
    yield f"{'variant':<24}{'visitors':>12}{'converted':>12}{'rate':>10}   interval"
    for t in totals:
        name = words.clean(t.variant) + (" (control)" if t.is_control else "")
        span = f"{words.percent(t.rate_low)} to {words.percent(t.rate_high)}"
        numbers = f"{words.count(t.units):>12}{words.count(t.conversions):>12}{words.percent(t.rate):>10}"
        yield f"{name:<24}{numbers}   {span}"


def _how_often(evidence: Evidence) -> str:
    """How often the experiment was looked at, in words."""
    look, plan = evidence.look, evidence.plan
    if look is not None and look.number == 1:
        return "at one look"
    by_day = plan is not None and plan.adaptive and plan.rule == 2
    return "under daily looks" if by_day else "under hourly looks"


def _comparison(c: Comparison, evidence: Evidence) -> Iterator[str]:
    yield ""
    yield f"{words.clean(c.variant)} against the control"
    if c.relative is not None:
        yield f"  uplift      {words.signed(c.relative)} ({words.interval(c.relative_low, c.relative_high)})"
    if c.stopped is not None:
        span = words.interval(c.stopped_low, c.stopped_high)
        yield f"  at its end  {words.signed(c.stopped)} ({span}), not flattered by when it stopped"
    if c.z is not None and c.critical_z is not None:
        p = f", {words.p_value(c.p_adjusted)} {_how_often(evidence)}" if c.p_adjusted is not None else ""
        yield f"  statistic   z = {c.z:.3f}, decides at {c.critical_z:.3f}{p}"
    if c.absolute is not None:
        span = f" ({c.low:+.5f} to {c.high:+.5f})" if c.low is not None else ""
        yield f"  difference  {c.absolute:+.5f}{span}"
    if c.chi_square is not None:
        yates = c.p_value_yates
        corrected = f"; with Yates' correction {words.p_value(yates)}" if yates is not None else ""
        yield f"  chi-square  {c.chi_square:.4f}, as if looked at once {words.p_value(c.p_value)}{corrected}"
    if c.conditional_power is not None and evidence.plan is not None:
        gain = words.percent(evidence.plan.mde)
        stops = evidence.look.futility_power if evidence.look else None
        below = f"; below {words.percent(stops)} it stops" if stops is not None else ""
        yield f"  chance left {words.percent(c.conditional_power)} to prove a gain of {gain} by the end{below}"
    worth = next((row for row in evidence.money if row.variant == c.variant), None)
    if worth is not None and worth.net.value is not None:
        net, low, high = (worth.amount(end) for end in (worth.net.value, worth.net.low, worth.net.high))
        yield f"  money       {net} per 1,000 visitors ({low} to {high}), costs of {worth.amount(worth.cost)} included"
    if c.fade is not None and c.weekend is not None:
        yield f"  over days   z = {c.fade:.2f} (fades below -1.96), weekend z = {c.weekend:.2f} (turns beyond 2.58)"
    if c.reason:
        yield f"  {words.clean(c.reason)}"


def _guardrails(states: Sequence[GuardrailState]) -> Iterator[str]:
    if states:
        yield ""
    for state in states:
        yield f"guardrail {state.status}: {words.clean(state.text)}"


def _metrics(results: Sequence[MetricResult], *, whole: bool) -> Iterator[str]:
    """Secondary metrics: what else moved, with p-values adjusted over all of them and valid for one look.

    ``whole`` is a finished data set, which is looked at once indeed.
    """
    if not results:
        return
    yield ""
    yield f"{'other metrics':<24}{'variant':<16}{'control':>10}{'variant':>10}{'uplift':>10}   adjusted p"
    for r in results:
        levels = "".join(f"{'-' if v is None else format(v, '.4g'):>10}" for v in (r.control, r.value))
        p = words.clean(r.reason or "") if r.p_adjusted is None else words.p_value(r.p_adjusted)
        uplift = words.signed(r.relative) if r.relative is not None else "-"
        yield f"{words.clean(r.name):<24.24}{words.clean(r.variant):<16.16}{levels}{uplift:>10}   {p}"
    early = "as if looked at once: after an early end it looks a little too good"
    yield f"  (p {'at one look' if whole else early}; these metrics never decide)"


def _outcomes(outcomes: Sequence[Outcomes]) -> Iterator[str]:
    """What became of the leads later, by variant."""
    for outcome in outcomes:
        yield ""
        yield words.clean(outcome_rows.title(outcome))
        for row in (outcome_rows.HEADER, *outcome_rows.rows(outcome)):
            yield f"{words.clean(row[0]):<24.24}" + "".join(f"{cell:>13}" for cell in row[1:])
        for line in outcome_rows.ranges(outcome):
            yield f"  {words.clean(line)}"


def _any_time(companion: AlwaysValid | None) -> Iterator[str]:
    if companion is not None:
        yield f"  any time    {words.clean(companion.says)}; it decides nothing"


def _exact(row: ExactComparison | None) -> Iterator[str]:
    """The exact test: its bounds where it decides, else its p-value."""
    if row is None:
        return
    counts = (
        f"{words.count(row.conversions)} of {words.count(row.of)} conversions at a share of {row.share:.0%}"
    )
    if row.low is None or row.high is None or row.p_adjusted is None:
        yield f"  exact test  {counts}: {words.p_value(row.p_value)} at one look; it does not decide"
    else:
        yield (
            f"  exact test  {counts}, decides at {row.low} or fewer and {row.high} or more, "
            f"{words.p_value(row.p_adjusted)}"
        )


def _adds_up(row: EValue | None) -> Iterator[str]:
    if row is not None:
        size = f"{row.e_value:,.3g}" if row.e_value < MOST_SHOWN else f"above {MOST_SHOWN:,.0f}"
        yield f"  e-value     {size}, to be multiplied with those of other visitors; it decides nothing"


def _waterfall(steps: Sequence[Step]) -> Iterator[str]:
    shown = [s for s in steps if s.count or s.step == "received"]
    if shown:
        yield ""
    for s in shown:
        sign = words.sign(s.step).replace("−", "-")
        yield f"{sign}{words.count(s.count):>12}  {words.step(s.step, s.text)}"
