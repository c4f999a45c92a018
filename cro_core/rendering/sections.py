"""The parts of the weekly report and the dashboard, each as a block for one notebook cell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from markupsafe import Markup

from cro_core.domain import Status, Verdict
from cro_core.evidence import RATE_CONFIDENCE, Step
from cro_core.learning.asset_ranking import Ranking
from cro_core.rendering import plots
from cro_core.rendering.html import (
    Block,
    badge,
    bullets,
    card,
    fold,
    grid,
    join,
    named,
    paragraph,
    table,
    tag,
    tiles,
)
from cro_core.reporting import outcome_rows, summaries, words
from cro_core.reporting.values import Change, LeadOutcomes, Report, Sheet

TONES: dict[Verdict | None, str] = {
    Verdict.SHIP: "good",
    Verdict.KEEP_CONTROL: "calm",
    Verdict.NO_PRACTICAL_GAIN: "calm",
    Verdict.GAIN_BELOW_MINIMUM: "calm",
    Verdict.CONTINUE: "busy",
    Verdict.INCONCLUSIVE: "warn",
    Verdict.INVALID: "bad",
    None: "calm",
}


def top(report: Report, what: str = "weekly test report") -> Block:
    """The ten seconds: what was decided, on what evidence, what it is worth, what to do."""
    period = words.period(report.period_start, report.generated_at, report.zone)
    header = tag(
        "header",
        tag("h1", named(report.site), f": {what}"),
        paragraph(period, f" · times are {report.zone}", cls="cro-quiet"),
        paragraph(badge("Demo", "warn"), " ", words.DEMO) if report.simulated else Markup(""),
    )
    lines = tag("dl", *(_line(*line) for line in _ten_seconds(report)), cls="cro-brief")
    lead = tag(
        "section", tag("p", report.headline, cls="cro-headline"), lines, cls="cro-lead", aria_label="In short"
    )
    return Block(join([header, lead, _numbers(report)]), report.headline)


def decided(report: Report) -> Block:
    """One card for each experiment that ended in the period."""
    return _cards(map(_verdict, report.decided), "Nothing was decided in this period.")


def changes(report: Report) -> Block:
    """What was changed and why, what was not and why not."""
    items = [_change(c, report.zone) for c in report.changes]
    refused = [join([tag("strong", r.text + "."), _why(r.why)]) for r in report.refusals]
    return Block(
        join(
            [
                tag("h3", "Changed"),
                bullets(items) if items else _nothing("Nothing was changed."),
                tag("h3", "Not done, on purpose"),
                bullets(refused) if refused else _nothing("It refused nothing."),
            ]
        ),
        "\n".join([*(c.text for c in report.changes), *(r.text for r in report.refusals)]),
    )


def running(report: Report) -> Block:
    """One card for each running experiment: how far it is and what it shows so far."""
    return _cards((_running(page, report.zone) for page in report.running), "No test is running.")


def winners(report: Report) -> Block:
    """Proven winners; below them, apart, what is shown without proof."""
    proven = _winners_table("Proven winners", report.winners, report.zone)
    picks = _winners_table("Unproven picks", report.unproven, report.zone)
    parts = [proven or _nothing("No test has had a proven winner yet.")]
    if picks:
        parts += [
            tag("h3", "Unproven picks"),
            _nothing(words.sentence(words.GLOSSARY["Unproven pick"])),
            picks,
        ]
    if report.outcomes:
        parts += [
            tag("h3", "What became of the leads"),
            _nothing(outcome_rows.NOTE),
            *map(_outcomes, report.outcomes),
        ]
    return Block(join(parts), "\n".join(f"{p.winner} in {p.name}" for p in report.winners))


def winners_and_production(report: Report) -> Block:
    """Both, one below the other."""
    both = winners(report), production(report)
    return Block(join(block.html for block in both), "\n".join(block.text for block in both))


def numbers(report: Report) -> Block:
    """For each experiment, how every received event was counted or why it was not."""
    pages = [page for page in report.sheets if page.waterfall]
    return _cards(map(_reconciliation, pages), "No events have been received yet.")


def _outcomes(page: LeadOutcomes) -> Markup:
    """The outcomes of one experiment's leads."""
    rows = [(named(row[0]), *row[1:]) for row in outcome_rows.rows(page.outcomes)]
    header = tuple(words.sentence(name) for name in outcome_rows.HEADER)
    intervals = fold("Intervals (95 %)", bullets(outcome_rows.ranges(page.outcomes)))
    return card(
        tag("h3", named(page.name)), table(outcome_rows.title(page.outcomes), header, rows), intervals
    )


def assets(report: Report) -> Block:
    """Pictures and clips, best first, and what the prediction model is worth."""
    model = card(tag("h3", "Prediction model"), paragraph(report.model.text))
    return Block(join([*_ranking(report.ranking), model]), report.model.text)


def _ranking(ranking: Ranking | None) -> Iterator[Markup]:
    if ranking is None:
        yield _nothing("No picture or clip has been shown in a test yet.")
        return
    yield _nothing(ranking.said)
    rows = [
        (
            _over(named(a.asset_id), f"{words.count(a.units)} visitors"),
            f"{a.score:.0f}",
            words.percent(a.rate),
            _over(words.signed(a.uplift), words.interval(a.low, a.high)),
        )
        for a in ranking.assets
    ]
    header = ("Asset", "Score", "Rate", "To average")
    if rows:
        yield table("Pictures and clips, best first", header, rows)
    if ranking.untried:
        yield _nothing(f"Never tried: {', '.join(ranking.untried)}.")


def differences(report: Report) -> Block:
    """Who converts, when and where, in tests that ended: what survived its correction, or that nothing did."""
    cards = [
        card(
            tag("h3", named(page.name)),
            paragraph(page.said),
            bullets(f"{c.text} ({words.p_value(c.p_adjusted)})" for c in page.claims)
            if page.claims
            else Markup(""),
        )
        for page in report.differences
    ]
    return _cards(cards, "No test has ended since the last report, so there is nothing to compare.")


def production(report: Report) -> Block:
    """What the site shows now."""
    rows = [
        (
            named(s.slot),
            join([named(s.variant), " ", badge("unproven pick", "warn")]) if s.unproven else named(s.variant),
            named(s.experiment),
            words.day(s.since, report.zone),
        )
        for s in report.production
    ]
    shown = table(
        "What every visitor sees, by place on the page",
        ("Place", "Shows", "Result of", "Since"),
        rows,
        text_columns=4,
    )
    return Block(shown if rows else _nothing("The site shows its own versions: no test has changed it."), "")


def todo(report: Report) -> Block:
    """What waits for a person, and the next steps."""
    steps = [join([a.text, " ", tag("code", a.command)] if a.command else [a.text]) for a in report.actions]
    body = bullets(steps, ordered=True) if steps else _nothing("Nothing is needed from you.")
    meanings = tag(
        "dl", *(tag("div", tag("dt", w), tag("dd", m)) for w, m in words.GLOSSARY.items()), cls="cro-words"
    )
    text = "\n".join(a.text for a in report.actions) or "Nothing is needed from you."
    return Block(join([body, fold("What the words mean", meanings)]), text)


def choices(report: Report) -> list[tuple[str, str]]:
    """Experiments for a filter: ``(label, id)``, all of them first."""
    return [("All tests", "")] + [(words.clean(p.name), p.id) for p in report.sheets]


def chosen(report: Report, test: str) -> Block:
    """The sheet of one experiment with its reconciliation; every sheet for an empty id."""
    pages = [p for p in report.sheets if test in ("", p.id)]
    cards = [_running(p, report.zone) if p.status is Status.RUNNING else _verdict(p) for p in pages]
    if test:
        cards += [_reconciliation(p) for p in pages if p.waterfall]
    return _cards(cards, "No test has started yet.")


def _ten_seconds(report: Report) -> list[tuple[str, str]]:
    """The four questions of a busy reader."""
    todo = report.actions[0].text if report.actions else "Nothing is needed from you."
    more = (
        f" (and {words.some(len(report.actions) - 1, 'more step')} below)" if len(report.actions) > 1 else ""
    )
    ended = report.decided
    first = next((p for p in ended if p.verdict is Verdict.SHIP), ended[0] if ended else None)
    if first is None:
        return [("To do", todo + more)]
    tally = ", ".join(f"{words.VERDICTS[p.verdict].lower()} in “{p.name}”" for p in ended[:3])
    others = f", and {len(ended) - 3} more" if len(ended) > 3 else ""
    lines = [("Decided", words.sentence(tally) + others), ("Evidence", summaries.evidence(first))]
    lines.append(("Worth", summaries.worth(first) or _no_worth(first)))
    if first.net is not None:
        lines.append(("Money", summaries.money(first)))
    return [*lines, ("To do", todo + more)]


def _no_worth(page: Sheet) -> str:
    small = page.verdict is Verdict.GAIN_BELOW_MINIMUM
    return f"Less than the {words.signed(page.min_uplift)} asked for." if small else "No gain was proven."


def _line(label: str, text: str) -> Markup:
    return tag("div", tag("dt", label), tag("dd", text))


def _numbers(report: Report) -> Markup:
    o = report.overview
    return tiles(
        [
            ("tests running", words.count(o.running)),
            ("decided this period", words.count(o.decided)),
            ("visitors counted", words.count(o.counted)),
            ("of them converted", words.percent(o.rate) if o.rate is not None else "–"),
        ]
    )


def _verdict(page: Sheet) -> Markup:
    """The card of an experiment that has ended."""
    trusted = page.verdict is not Verdict.INVALID
    return card(
        _title(page),
        paragraph(page.summary),
        _uplift_plot(page) if trusted else Markup(""),
        paragraph(tag("strong", "Evidence: "), summaries.evidence(page)),
        paragraph(tag("strong", "Worth: "), summaries.worth(page)) if page.worth else Markup(""),
        paragraph(tag("strong", "Money: "), summaries.money(page)) if page.net else Markup(""),
        fold("Visitors, checks and reasons", _arms(page), _checks(page), bullets(page.reasons)),
        tone=TONES[page.verdict],
    )


def _running(page: Sheet, zone: str) -> Markup:
    progress = page.progress
    if progress is None:
        return card(_title(page), paragraph(page.summary))
    return card(
        _title(page),
        _warnings(page),
        paragraph(page.summary),
        _progress_plot(page),
        _threshold_plot(page),
        _rates_plot(page),
        _arms(page),
        paragraph(summaries.when(progress, zone)),
    )


def _warnings(page: Sheet) -> Markup:
    """What of a running experiment has to be looked at: its split with all alarms, and visitors who crossed."""
    check = join([badge("Check this", "bad"), " "])
    broken = paragraph(check, page.split_text) if page.split == "alarm" else Markup("")
    crossing = paragraph(check, page.crossing) if page.crossing else Markup("")
    return join([broken, bullets(page.alarms) if page.alarms else Markup(""), crossing])


def _checks(page: Sheet) -> Markup:
    """How the visitors of an experiment that has ended were divided, alarms and visitors who crossed included."""
    alarms = bullets(page.alarms) if page.alarms else Markup("")
    return join(
        [paragraph(page.split_text), alarms, paragraph(page.crossing) if page.crossing else Markup("")]
    )


def _title(page: Sheet) -> Markup:
    event_type = (
        tag("span", f" event type: {page.event_type}", cls="cro-quiet") if page.event_type else Markup("")
    )
    label = badge(words.VERDICTS[page.verdict], TONES[page.verdict])
    pick = join([" ", badge("unproven pick", "warn")]) if page.unproven else Markup("")
    if page.taken_back:
        pick = join([" ", badge("taken back since", "calm")])
    return tag("div", tag("h3", named(page.name)), paragraph(label, pick, event_type), cls="cro-title")


def _arms(page: Sheet) -> Markup:
    rows = [
        (
            join([named(a.name), " (control)"]) if a.is_control else named(a.name),
            words.count(a.units),
            words.count(a.conversions),
            words.percent(a.rate) if a.rate is not None else "–",
        )
        for a in page.arms
    ]
    return (
        table("What each version's visitors did", ("Version", "Visitors", "Converted", "Rate"), rows)
        if rows
        else Markup("")
    )


def _colours(page: Sheet) -> dict[str, int]:
    """The control is always grey; challengers take the other colours in order."""
    challengers = [a.variant for a in page.arms if not a.is_control]
    last = len(plots.COLOURS) - 1
    return {a.variant: 0 for a in page.arms if a.is_control} | {
        key: 1 + i % last for i, key in enumerate(challengers)
    }


def _rates_plot(page: Sheet) -> Markup:
    colours = _colours(page)
    ranges = [plots.Range(a.name, a.rate, a.rate_low, a.rate_high, colours[a.variant]) for a in page.arms]
    said = "; ".join(f"{r.label} {words.percent(r.estimate)}" for r in ranges)
    return plots.rates(ranges, f"Conversion rate with {words.level(RATE_CONFIDENCE)} interval: {said}")


def _uplift_plot(page: Sheet) -> Markup:
    colours = _colours(page)
    ranges = [
        plots.Range(c.name, c.uplift.value, c.uplift.low, c.uplift.high, colours.get(c.variant, 1))
        for c in page.contrasts
    ]
    said = "; ".join(
        f"{r.label} {words.signed(r.estimate)} ({words.interval(r.low, r.high)})" for r in ranges
    )
    return plots.uplifts(ranges, f"Uplift over the control: {said}", page.min_uplift)


def _progress_plot(page: Sheet) -> Markup:
    progress = page.progress
    if progress is None or progress.fraction is None:
        return Markup("")
    counted = f"{words.count(progress.counted)} of {words.count(progress.planned)} planned visitors counted"
    return plots.progress(progress.fraction, f"{counted} ({words.share(progress.fraction)})")


def _threshold_plot(page: Sheet) -> Markup:
    """How far the statistic is from the line of this hour."""
    progress = page.progress
    if progress is None or progress.chi_square is None or progress.critical_chi_square is None:
        return Markup("")
    text = f"Chi-square {progress.chi_square:.2f}; at this hour {progress.critical_chi_square:.2f} decides"
    return plots.threshold(progress.chi_square, progress.critical_chi_square, text)


def _reconciliation(page: Sheet) -> Markup:
    """The waterfall: what arrived, what was set aside and why, what was counted."""
    received = sum(s.count for s in page.waterfall if s.step == "received")
    rows = [
        (_step(received, start, step), words.count(step.count)) for start, step in _falling(page, received)
    ]
    caption = f"What became of the {words.some(received, 'event')} received"
    return card(tag("h3", named(page.name)), table(caption, ("Step", "Events"), rows))


def _falling(page: Sheet, received: int) -> Iterator[tuple[int, Step]]:
    """The steps in the order of reading, each with where its bar begins; empty ones are left out."""
    steps = [s for s in page.waterfall if s.count]
    left = [s for s in steps if s.step != "received" and not _counts(s)]
    begin = received
    yield from ((0, s) for s in page.waterfall if s.step == "received")
    for step in sorted(left, key=lambda s: -s.count):
        begin -= step.count
        yield max(begin, 0), step
    begin = 0
    for step in filter(_counts, steps):
        yield begin, step
        begin += step.count


def _counts(step: Step) -> bool:
    return step.step.startswith("counted")


def _step(received: int, start: int, step: Step) -> Markup:
    label = f"{words.sign(step.step)} {words.step(step.step, step.text)}".strip()
    kind = "kept" if _counts(step) else "left"
    return join([label, plots.step(start, step.count, received, kind)])


def _change(change: Change, zone: str) -> Markup:
    by = "" if change.actor == "autopilot" else f" (by {change.actor})"
    undo = join([" Undo: ", tag("code", change.undo)]) if change.undo else Markup("")
    when = tag("span", words.minute(change.at, zone), cls="cro-quiet")
    return join([when, " ", tag("strong", change.text), by, _why(change.why), undo])


def _why(why: str) -> Markup:
    return join([" ", tag("span", why, cls="cro-why")]) if why else Markup("")


def _winners_table(caption: str, pages: Sequence[Sheet], zone: str) -> Markup:
    rows = [
        (
            _over(named(page.winner or ""), named(page.name)),
            _gain(page),
            words.day(page.ended_at, zone),
        )
        for page in pages
    ]
    return table(caption, ("Version and test", "Uplift (interval)", "Decided"), rows) if rows else Markup("")


def _gain(page: Sheet) -> Markup:
    best = page.best
    if best is None or best.uplift.value is None:
        return Markup("–")
    span = words.interval(best.uplift.low, best.uplift.high)
    return _over(words.signed(best.uplift.value), span)


def _cards(cards: Iterable[Markup], empty: str) -> Block:
    made = list(cards)
    return Block(grid(made) if made else _nothing(empty), "" if made else empty)


def _nothing(text: str) -> Markup:
    return paragraph(text, cls="cro-quiet")


def _over(above: str, below: str) -> Markup:
    """Two lines in a cell: what matters, and what it belongs to."""
    return join([tag("strong", above), tag("span", below, cls="cro-under")])
