"""A decision for the terminal: the paragraph, then every number it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cro_core.domain import Decision, Json
from cro_core.reporting import words


def decision_text(decision: Decision) -> str:
    """The decision with its counts, comparisons, split check and reconciliation."""
    return "\n".join(_lines(decision)).replace(words.NBSP, " ")


def _lines(decision: Decision) -> Iterator[str]:
    evidence = decision.evidence
    yield words.clean(decision.text)
    yield ""
    yield f"verdict  {decision.verdict}{f', show {decision.winner}' if decision.winner else ''}"
    yield from _look(evidence.get("look", {}))
    yield from _split(evidence.get("srm", {}), evidence.get("splits", {}))
    yield from _totals(evidence.get("totals", ()))
    for comparison in evidence.get("comparisons", ()):
        yield from _comparison(comparison)
    yield from _waterfall(evidence.get("waterfall", ()))


def _look(look: Json) -> Iterator[str]:
    if look:
        yield f"look     {'due' if look['due'] else 'not due'}: {look['why']}"


def _split(srm: Json, splits: Json) -> Iterator[str]:
    if srm:
        p = f" ({words.p_value(srm['p_value'])})" if srm.get("p_value") is not None else ""
        status = str(splits.get("status", srm["status"])).replace("_", " ")
        yield f"split    {status}{p}"


def _totals(totals: Any) -> Iterator[str]:
    if not totals:
        return
    yield ""
    yield f"{'variant':<24}{'visitors':>12}{'converted':>12}{'rate':>10}   interval"
    for t in totals:
        name = words.clean(t["variant"]) + (" (control)" if t["is_control"] else "")
        span = f"{words.percent(t.get('rate_low'))} to {words.percent(t.get('rate_high'))}"
        numbers = f"{words.count(t['units']):>12}{words.count(t['conversions']):>12}{words.percent(t.get('rate')):>10}"
        yield f"{name:<24}{numbers}   {span}"


def _comparison(c: Json) -> Iterator[str]:
    yield ""
    yield f"{words.clean(c['variant'])} against the control"
    if c.get("relative") is not None:
        yield f"  uplift      {words.signed(c['relative'])} ({words.interval(c['relative_low'], c['relative_high'])})"
    if c.get("absolute") is not None:
        yield f"  difference  {c['absolute']:+.5f}" + (
            f" ({c['low']:+.5f} to {c['high']:+.5f})" if c.get("low") is not None else ""
        )
    if c.get("chi_square") is not None:
        yates = (
            f"; with Yates' correction {words.p_value(c['p_value_yates'])}"
            if c.get("p_value_yates") is not None
            else ""
        )
        yield f"  chi-square  {c['chi_square']:.4f}, {words.p_value(c['p_value'])}{yates}"
    if c.get("reason"):
        yield f"  {words.clean(c['reason'])}"


def _waterfall(steps: Any) -> Iterator[str]:
    shown: list[Mapping[str, Any]] = [s for s in steps if s["count"] or s["step"] == "received"]
    if shown:
        yield ""
    for s in shown:
        sign = words.sign(s["step"]).replace("−", "-")
        yield f"{sign}{words.count(s['count']):>12}  {words.step(s['step'], s.get('text', ''))}"
