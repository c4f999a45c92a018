"""What one cycle of the autopilot saw and did, as blocks for its notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from markupsafe import Markup

from cro_core.config import Site
from cro_core.evidence import Decision
from cro_core.rendering import plots
from cro_core.rendering.html import (
    Block,
    badge,
    bullets,
    card,
    grid,
    join,
    named,
    paragraph,
    table,
    tag,
)
from cro_core.rendering.sections import TONES
from cro_core.reporting import words


def summary(
    at: datetime,
    site: Site,
    changes: Sequence[str],
    failures: Sequence[Mapping[str, str]],
    skipped: str | None,
) -> Block:
    """When it ran, what it changed and what went wrong."""
    done = (
        bullets(changes) if changes else paragraph(f"Nothing was changed. {skipped or ''}", cls="cro-quiet")
    )
    wrong = [f"{f['experiment']}: {f['error']}" for f in failures]
    trouble = join([badge("Needs a person", "bad"), bullets(wrong)]) if wrong else Markup("")
    when = f"{words.minute(at, site.time_zone)} ({site.time_zone})"
    return Block(
        join([tag("h3", named(site.name), f", {when}"), done, trouble]),
        "\n".join([*changes, *wrong]) or "no change",
    )


def looked_at(decisions: Sequence[Decision]) -> Block:
    """One row for each running experiment."""
    rows = [
        (
            named(d.experiment_id),
            badge(words.VERDICTS[d.verdict], TONES[d.verdict]),
            *_sample(d),
        )
        for d in decisions
    ]
    if not rows:
        return _nothing("No test was running.")
    text = "\n".join(f"{d.experiment_id}: {d.verdict}" for d in decisions)
    return Block(
        table("Running tests", ("Test", "Verdict", "Visitors", "Planned"), rows, text_columns=2), text
    )


def progress(decisions: Sequence[Decision]) -> Block:
    """A bar for each running experiment: counted of planned visitors."""
    bars = [bar for d in decisions if (bar := _bar(d)) is not None]
    return Block(grid(bars)) if bars else _nothing("No test has a planned number of visitors.")


def verdicts(decisions: Sequence[Decision]) -> Block:
    """The final decisions, each with its argument."""
    cards = [
        card(
            tag("h3", named(d.experiment_id)),
            paragraph(badge(words.VERDICTS[d.verdict], TONES[d.verdict])),
            bullets((r.text for r in d.reasons), ordered=True),
            tone=TONES[d.verdict],
        )
        for d in decisions
        if d.final
    ]
    return (
        Block(grid(cards), "\n".join(d.text for d in decisions if d.final))
        if cards
        else _nothing("No test was due.")
    )


def _sample(decision: Decision) -> tuple[str, str]:
    """Visitors counted and planned."""
    look = decision.evidence.look
    counted, planned = (None, None) if look is None else (look.counted_units, look.planned_units)
    return words.count(counted), words.count(planned)


def _bar(decision: Decision) -> Markup | None:
    look = decision.evidence.look
    if look is None or not look.planned_units:
        return None
    share = min(look.counted_units / look.planned_units, 1.0)
    text = f"{words.count(look.counted_units)} of {words.count(look.planned_units)} visitors ({words.share(share)})"
    return card(
        paragraph(tag("strong", named(decision.experiment_id)), ": ", text), plots.progress(share, text)
    )


def _nothing(text: str) -> Block:
    return Block(paragraph(text, cls="cro-quiet"), text)
