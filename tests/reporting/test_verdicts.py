"""Every verdict wherever it is shown: what stops without proof is no win of the control, and money has its line."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from helpers import report_samples as samples

from cro_core import reporting
from cro_core.config import Service
from cro_core.decision.wording import HEADLINES
from cro_core.domain import Status, Variant, Verdict
from cro_core.evidence import Decision, Estimate, NetValue
from cro_core.rendering import cycles, sections
from cro_core.reporting import headline, refusals, sheets, summaries, words
from cro_core.reporting.values import Report, Sheet
from service.openapi import document
from service.routes import SECTIONS

DOCS = Path(__file__).parents[2] / "docs"
NET = NetValue(
    "b", "Film of the dance", "EUR", Estimate(800.0, 300.0, 1300.0), 200.0, Estimate(600.0, 100.0, 1100.0)
)


def page(verdict: Verdict, *, code: str = "sample", power: float | None = None, money: NetValue | None = None,
         status: Status = Status.ARCHIVED, **more: Any) -> Sheet:  # fmt: skip
    of = samples.experiment("hero", "Hero", status, winner=more.get("winner"))
    if status is Status.COMPLETED:
        of = replace(of, ended_at=samples.NOW - timedelta(days=2))
    made = samples.decision(of, verdict, [(5000, 400), (5000, 410)], **more)
    made = samples.compared(made, conditional_power=power)  # type: ignore[arg-type]
    look = made.evidence.look
    assert look is not None
    evidence = replace(
        made.evidence, look=replace(look, futility_power=0.1), money=(money,) if money is not None else ()
    )
    made = replace(made, evidence=evidence, reasons=tuple(replace(r, code=code) for r in made.reasons))
    return sheets.sheet(of, made)


def report(*pages: Sheet) -> Report:
    start = samples.NOW - timedelta(days=7)
    said = headline.headline(pages, samples.report().overview, start, samples.NOW)
    refused = refusals.refusals(pages, start, samples.NOW, enabled=True, approval=False)
    return replace(samples.empty(), sheets=tuple(pages), headline=said, refusals=refused)


def text(*pages: Sheet) -> str:
    return " ".join(reporting.as_text(report(*pages)).split())


def test_every_verdict_has_its_words_everywhere() -> None:
    for verdict in Verdict:
        assert words.VERDICTS[verdict]
        assert sections.TONES[verdict]
        assert HEADLINES[verdict]
        for file in ("notebooks.md", "statistics.md"):
            assert f"`{verdict.value}`" in (DOCS / file).read_text(encoding="utf-8")
    found = document(SECTIONS, Service())["components"]["schemas"]["Verdict"]["enum"]
    assert found == [verdict.value for verdict in Verdict]
    labels = [words.VERDICTS[verdict] for verdict in Verdict]
    assert len(set(labels)) == len(labels)


def test_an_early_stop_without_proof_is_told_with_the_chance_that_was_left() -> None:
    stopped = page(Verdict.NO_PRACTICAL_GAIN, code="futile", power=0.034)
    said = text(stopped)
    assert "Stopped, nothing proven: Hero" in said
    assert "That proves neither version better." in said
    assert (
        "Were the uplift +10.0 %, the chance to prove it by the end would be 3.40 %; below 10 % a test stops."
        in said
    )
    assert "1 test ended, none with a proven winner; the site stays as it was." in said
    assert "Did not ship “Film of the dance” in “Hero”." in said
    assert "Original kept" not in said
    assert "Stopped, nothing proven: the planned uplift" in said  # among the words that are explained
    html = str(sections.decided(report(stopped)).html)
    assert "Stopped, nothing proven" in html
    assert "chance to prove it by the end would be 3.40" in html
    assert reporting.as_json(report(stopped)).count('"conditional_power": 0.034') == 1


@pytest.mark.parametrize(
    ("verdict", "power", "said"),
    [
        (Verdict.NO_PRACTICAL_GAIN, 0.0, "would be under 0.1"),
        (Verdict.NO_PRACTICAL_GAIN, None, ""),
        (Verdict.CONTINUE, 0.6, ""),
        (Verdict.KEEP_CONTROL, 0.0, ""),
    ],
)
def test_the_chance_is_told_where_it_stopped_the_test(
    verdict: Verdict, power: float | None, said: str
) -> None:
    evidence = summaries.evidence(page(verdict, power=power))
    assert ("Were the uplift" in evidence) == bool(said)
    assert said in evidence


def test_of_several_challengers_the_best_chance_is_told() -> None:
    three = tuple(Variant(key, key.upper(), is_control=key == "a") for key in "abc")
    of = samples.experiment("hero", "Hero", Status.ARCHIVED, variants=three)
    made = samples.decision(of, Verdict.NO_PRACTICAL_GAIN, [(5000, 400), (5000, 390), (5000, 380)])
    rows = [
        replace(c, conditional_power=p) for c, p in zip(made.evidence.comparisons, (0.02, 0.05), strict=True)
    ]
    made = replace(made, evidence=replace(made.evidence, comparisons=tuple(rows)))
    assert "would be 5.00" in summaries.evidence(sheets.sheet(of, made))


def test_a_gain_below_the_minimum_is_no_loss_and_no_winner() -> None:
    small = page(Verdict.GAIN_BELOW_MINIMUM, code="gain_too_small")
    said = text(small)
    assert "Gain too small: Hero" in said
    assert "the gain is too small to be worth a change. “Photo of the hall” stays." in said
    assert "Less than the +10.0 % asked for." in str(sections.top(report(small)).html).replace("\u00a0", " ")
    assert "No gain was proven." in str(sections.top(report(page(Verdict.NO_PRACTICAL_GAIN))).html)
    start = samples.NOW - timedelta(days=7)
    assert [r.text for r in refusals.refusals([small], start, samples.NOW, enabled=True, approval=False)] == [
        "Did not ship “Film of the dance” in “Hero”"
    ]


def decision(verdict: Verdict) -> Decision:
    return samples.decision(samples.experiment("hero", "Hero"), verdict, [(5000, 400), (5000, 410)])


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_its_badge_in_the_cycle_and_the_dashboard(verdict: Verdict) -> None:
    label = words.VERDICTS[verdict]
    assert label in str(cycles.looked_at([decision(verdict)]).html)
    assert (label in str(cycles.verdicts([decision(verdict)]).html)) == (verdict is not Verdict.CONTINUE)
    assert label in str(sections.chosen(report(page(verdict)), "hero").html)


def test_money_has_its_line() -> None:
    won = page(Verdict.SHIP, winner="b", money=NET)
    wanted = (
        "Money: +600.00 EUR per 1,000 visitors with “Film of the dance” over “Photo of the hall” (95 % interval "
        "+100.00 EUR to +1,100.00 EUR): +800.00 EUR by conversions, −200.00 EUR by what showing it costs."
    )
    assert wanted in text(won)
    html = re.sub(r"<[^>]+>", "", str(sections.decided(report(won)).html)).replace("\u00a0", " ")
    assert wanted in html
    assert "Money" in str(sections.top(report(won)).html)
    assert "costs more" not in text(won)
    assert '"cost": 200.0' in reporting.as_json(report(won))
    bare = replace(NET, currency=None, cost=0.0, net=Estimate(800.0))
    assert "Money: +800.00 per 1,000 visitors with “Film of the dance” over “Photo of the hall”." in text(
        page(Verdict.INCONCLUSIVE, money=bare)
    )
    assert "Money" not in text(page(Verdict.SHIP, winner="b"))


def test_a_winner_at_a_loss_is_told_everywhere_and_waits() -> None:
    loss = replace(NET, net=Estimate(-50.0, -400.0, 300.0))
    won = page(Verdict.SHIP, winner="b", money=loss, status=Status.COMPLETED)
    assert won.costs_more
    said = text(won)
    assert "conversions, but costs more than it brings." in said
    assert "It costs more than it brings, so a person decides whether it is shown." in said
    start = samples.NOW - timedelta(days=7)
    (refused,) = refusals.refusals([won], start, samples.NOW, enabled=True, approval=False)
    assert refused.why == "It converts better, but costs more than it brings."
    kept = page(Verdict.KEEP_CONTROL, winner="a", money=loss)
    assert not kept.costs_more


@pytest.mark.parametrize(
    ("hours", "said"), [(None, "at any hour,"), (30, "on Tue 17 Mar, 14:00, when a day is whole")]
)
def test_a_running_test_says_when_it_may_be_decided(hours: int | None, said: str) -> None:
    going = page(Verdict.CONTINUE, status=Status.RUNNING)
    assert going.progress is not None
    next_at = None if hours is None else samples.NOW + timedelta(hours=hours)
    going = replace(going, progress=replace(going.progress, next_at=next_at))
    assert f"May be decided {said}" in text(going)
    assert f"May be decided {said}" in str(sections.running(report(going)).html)
