"""The report as plain text: 80 columns, for a terminal and an e-mail."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from cro_core.evidence import RATE_CONFIDENCE
from cro_core.reporting import outcome_rows, summaries, words
from cro_core.reporting.values import Report, Sheet

COLUMNS = 80
BAR = 30


def as_text(report: Report) -> str:
    """The whole report in lines of at most 80 columns."""
    return "\n".join(line.rstrip().replace(words.NBSP, " ") for line in _lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield from _top(report)
    yield from _section("Decided since the last report", _decided(report), "Nothing was decided.")
    yield from _section("What the autopilot changed, and why", _changes(report), "Nothing was changed.")
    yield from _section("What it refused to do, and why", _refusals(report), "It refused nothing.")
    yield from _section("Running tests", _running(report), "No test is running.")
    yield from _section("Winners", _winners(report.winners), "No test has had a proven winner yet.")
    if report.unproven:
        yield from _section("Unproven picks (shown without proof)", _winners(report.unproven), "")
    if report.outcomes:
        yield from _section("What became of the leads", _outcomes(report), "")
    yield from _section("On the site now", _production(report), "The site's own versions.")
    yield from _section("Where the numbers come from", _waterfalls(report), "No events have been received.")
    yield from _section("Who converts, when and where", _differences(report), "No test has ended.")
    yield from _section("Pictures and clips", _assets(report), "None has been shown in a test yet.")
    yield from _section("Prediction model", _wrap(report.model.text), "")
    yield from _section("Waiting for you", _pending(report), "Nothing waits for your approval.")
    yield from _section("What to do next", _actions(report), "Nothing is needed from you.")
    yield from _section("Words used here", _glossary(), "")


def _top(report: Report) -> Iterator[str]:
    yield from _wrap(f"{words.clean(report.site)}: weekly test report")
    yield "=" * COLUMNS
    yield from _wrap(f"{words.period(report.period_start, report.generated_at, report.zone)} ({report.zone})")
    if report.simulated:
        yield from _wrap(f"DEMO. {words.DEMO}")
    yield ""
    yield from _wrap(words.clean(report.headline))
    first = report.actions[0].text if report.actions else "Nothing is needed from you."
    yield from _wrap(f"To do: {words.clean(first)}")
    yield ""
    o = report.overview
    converted = (
        f", {words.count(o.conversions)} of them converted ({words.percent(o.rate)})" if o.counted else ""
    )
    yield from _wrap(
        words.sentence(f"{words.some(o.running, 'test')} running, {words.some(o.decided, 'test')} decided, ")
        + f"{words.some(o.counted, 'visitor')} counted{converted}."
    )


def _section(title: str, body: Iterable[str], empty: str) -> Iterator[str]:
    lines = list(body) or [empty]
    yield ""
    yield title
    yield "-" * words.width(title)
    yield from lines


def _decided(report: Report) -> Iterator[str]:
    for page in report.decided:
        yield from _item(f"{words.VERDICTS[page.verdict]}: {page.name}")
        yield from _wrap(page.summary, "    ")
        yield from _evidence(page)


def _evidence(page: Sheet) -> Iterator[str]:
    yield from _wrap(f"Evidence: {summaries.evidence(page)}", "    ")
    if page.worth is not None:
        yield from _wrap(f"Worth: {summaries.worth(page)}", "    ")
    if page.net is not None:
        yield from _wrap(f"Money: {summaries.money(page)}", "    ")


def _changes(report: Report) -> Iterator[str]:
    for change in report.changes:
        by = "" if change.actor == "autopilot" else f" (by {change.actor})"
        yield from _item(f"{words.minute(change.at, report.zone)}: {change.text}{by}")
        if change.why:
            yield from _wrap(f"Why: {change.why}", "    ")
        if change.undo:
            yield from _wrap(f"Undo: {change.undo}", "    ")


def _refusals(report: Report) -> Iterator[str]:
    for refusal in report.refusals:
        yield from _item(f"{refusal.text}.")
        yield from _wrap(f"Why: {refusal.why}", "    ")


def _running(report: Report) -> Iterator[str]:
    for page in report.running:
        event_type = f" (event type: {page.event_type})" if page.event_type else ""
        yield from _item(f"{page.name}{event_type}")
        yield from _wrap(page.summary, "    ")
        yield from _arms(page)
        yield from _progress(page, report.zone)
        if page.split == "alarm":
            yield from _wrap(f"WARNING: {page.split_text}", "    ")
        for alarm in page.alarms:
            yield from _wrap(f"Split: {alarm}", "    ")
        if page.crossing:
            yield from _wrap(f"WARNING: {page.crossing}", "    ")


def _arms(page: Sheet) -> Iterator[str]:
    if not page.arms:
        return
    yield "    " + _columns(
        ("version", "visitors", "converted", "rate", f"{words.level(RATE_CONFIDENCE)} interval"), ARM_WIDTHS
    )
    for arm in page.arms:
        name = f"{arm.name} (control)" if arm.is_control else arm.name
        span = (
            f"{words.percent(arm.rate_low)} - {words.percent(arm.rate_high)}"
            if arm.rate_low is not None
            else words.UNKNOWN
        )
        yield "    " + _columns(
            (name, words.count(arm.units), words.count(arm.conversions), words.percent(arm.rate), span),
            ARM_WIDTHS,
        )


def _progress(page: Sheet, zone: str) -> Iterator[str]:
    progress = page.progress
    if progress is None:
        return
    if progress.fraction is not None:
        filled = round(progress.fraction * BAR)
        bar = "#" * filled + "." * (BAR - filled)
        yield f"    [{bar}] {words.count(progress.counted)} of {words.count(progress.planned)} visitors"
    if progress.chi_square is not None and progress.critical_chi_square is not None:
        yield from _wrap(
            f"Chi-square {progress.chi_square:.2f}; at this hour {progress.critical_chi_square:.2f} decides.",
            "    ",
        )
    if progress.ends_at is not None:
        yield from _wrap(summaries.when(progress, zone), "    ")


def _winners(pages: Sequence[Sheet]) -> Iterator[str]:
    for page in pages:
        best = page.best
        gain = ""
        if best is not None and best.uplift.value is not None:
            uplift = best.uplift
            gain = f": {words.signed(uplift.value)} ({words.interval(uplift.low, uplift.high)})"
        yield from _item(f"{page.winner} in {page.name}{gain}")


def _outcomes(report: Report) -> Iterator[str]:
    yield from _wrap(outcome_rows.NOTE, "  ")
    for page in report.outcomes:
        yield from _item(outcome_rows.title(page.outcomes, page.name))
        for row in (outcome_rows.HEADER, *outcome_rows.rows(page.outcomes)):
            yield "    " + _columns(row, OUTCOME_WIDTHS)
        for line in outcome_rows.ranges(page.outcomes):
            yield from _wrap(line, "    ")


def _production(report: Report) -> Iterator[str]:
    for shown in report.production:
        label = ", unproven pick" if shown.unproven else ""
        since = words.day(shown.since, report.zone)
        yield from _item(f"{shown.slot}: {shown.variant} since {since}{label} (from {shown.experiment})")


def _waterfalls(report: Report) -> Iterator[str]:
    for page in report.sheets:
        if page.waterfall:
            yield from _item(page.name)
            for step in page.waterfall:
                if step.count or step.step == "received":
                    yield from _counted(step.count, step.step, step.text)


def _counted(number: int, step: str, text: str) -> Iterator[str]:
    sign = words.sign(step).replace("−", "-")
    yield from _wrap(words.step(step, text), f"    {sign}{words.count(number):>11} ", " " * 17)


def _assets(report: Report) -> Iterator[str]:
    ranking = report.ranking
    if ranking is None:
        return
    yield from _wrap(ranking.said)
    if ranking.assets:
        header = ("asset, against the average", "score", "visitors", "rate", "uplift", "interval")
        yield "  " + _columns(header, ASSET_WIDTHS)
    for a in ranking.assets:
        numbers = (f"{a.score:.0f}", words.count(a.units), words.percent(a.rate), words.signed(a.uplift))
        yield "  " + _columns((a.asset_id, *numbers, words.interval(a.low, a.high)), ASSET_WIDTHS)
    if ranking.untried:
        yield from _wrap(f"Never tried: {', '.join(ranking.untried)}")


def _differences(report: Report) -> Iterator[str]:
    for page in report.differences:
        yield from _item(f"{page.name}: {page.said}")
        for claim in page.claims:
            yield from _wrap(f"{claim.text} ({words.p_value(claim.p_adjusted)})", "    ")


def _pending(report: Report) -> Iterator[str]:
    for proposal in report.pending:
        yield from _item(proposal.text)
        yield from _wrap(f"cro approve {proposal.id}, or cro reject {proposal.id}", "    ")


def _actions(report: Report) -> Iterator[str]:
    for number, action in enumerate(report.actions, 1):
        yield from _wrap(action.text, f"{number}. ", "   ")
        if action.command:
            yield from _wrap(action.command, "   $ ", "     ")


def _glossary() -> Iterator[str]:
    for word, meaning in words.GLOSSARY.items():
        yield from _wrap(f"{word}: {meaning}", "  ", "    ")


ARM_WIDTHS = (26, 10, 10, 9, 17)
OUTCOME_WIDTHS = (20, 9, 10, 10, 12, 14)
ASSET_WIDTHS = (26, 6, 10, 8, 9, 19)


def _columns(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Cells in columns; the first is left-aligned and shortened, the others are numbers on the right."""
    first = _fit(words.clean(cells[0]), widths[0])
    return (
        first
        + " " * (widths[0] - words.width(first))
        + "".join(f"{cell:>{w}}" for cell, w in zip(cells[1:], widths[1:], strict=True))
    )


def _fit(text: str, columns: int) -> str:
    if words.width(text) <= columns:
        return text
    while words.width(text) > columns - 1:
        text = text[:-1]
    return text + "…"


def _item(text: str) -> Iterator[str]:
    yield from _wrap(text, "  * ", "    ")


def _wrap(text: str, first: str = "", rest: str | None = None) -> Iterator[str]:
    """Lines of at most 80 columns; a word that is longer is cut, wide characters count as two."""
    rest = first if rest is None else rest
    line, empty = first, True
    for word in _words(text):
        for piece in _pieces(word, COLUMNS - len(rest)):
            if not empty and words.width(line) + 1 + words.width(piece) > COLUMNS:
                yield line
                line, empty = rest, True
            line, empty = line + piece if empty else f"{line} {piece}", False
    yield line


def _words(text: str) -> list[str]:
    """The words of a text; what a no-break space joins is one word."""
    return re.split(r"[ \t\n]+", words.clean(text).strip(" \t\n"))


def _pieces(word: str, columns: int) -> list[str]:
    if words.width(word) <= columns:
        return [word]
    return textwrap.wrap(word, max(columns // 2, 1))
