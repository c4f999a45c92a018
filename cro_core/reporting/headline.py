"""The top of a report: the week in one sentence, the home in numbers, and how the prediction model stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from cro_core.domain import Experiment, Status, Verdict
from cro_core.reporting import words
from cro_core.reporting.sheets import ended_between
from cro_core.reporting.values import ModelTrack, Overview, Sheet


def headline(pages: Sequence[Sheet], overview: Overview, start: datetime, end: datetime) -> str:
    """The week in one sentence."""
    ended = [p for p in pages if ended_between(p, start, end)]
    won = [p for p in ended if p.verdict is Verdict.SHIP]
    if won:
        best = won[0].best
        gain = (
            f", {words.signed(best.uplift.value)} conversions"
            if best and best.uplift.value is not None
            else ""
        )
        others = f" and {words.some(len(won) - 1, 'other winner')}" if len(won) > 1 else ""
        loss = ", but costs more than it brings" if won[0].costs_more else ""
        return f"“{won[0].winner}” won “{won[0].name}”{gain}{loss}{others}."
    if ended:
        return f"{words.some(len(ended), 'test')} ended, none with a proven winner; the site stays as it was."
    if overview.running:
        return f"Nothing was decided: {words.some(overview.running, 'test')} still collecting visitors."
    if overview.received == 0:
        return "No visitors have been reported yet, so there is nothing to decide."
    return "Nothing was decided, and no test is running."


def overview(
    experiments: Sequence[Experiment], pages: Sequence[Sheet], received: int, start: datetime, end: datetime
) -> Overview:
    """The home in numbers."""
    states = [e.status for e in experiments]
    return Overview(
        running=states.count(Status.RUNNING),
        drafts=states.count(Status.DRAFT),
        finished=states.count(Status.COMPLETED) + states.count(Status.ARCHIVED),
        decided=sum(ended_between(p, start, end) for p in pages),
        received=received,
        counted=sum(p.units for p in pages),
        conversions=sum(arm.conversions for p in pages for arm in p.arms),
    )


def model_track(row: Mapping[str, Any] | None) -> ModelTrack:
    """The newest model, in words."""
    if row is None:
        return ModelTrack(
            "untrained",
            None,
            None,
            None,
            None,
            "No model has been trained yet: it learns once tests have ended.",
        )
    record = row["record"]
    return ModelTrack(
        row["status"],
        row["trained_at"],
        record["examples"],
        record["accuracy"],
        record["baseline"],
        record["text"],
    )
