"""Plots of pandas tables, for analysts' notebooks."""

from __future__ import annotations

import pandas as pd

from cro_core.rendering import plots
from cro_core.rendering.html import Block, paragraph
from cro_core.reporting import words
from cro_core.statistics.proportions import wilson

SLICES = 12
"""Most lines in one plot; the largest slices come first."""


def rates(units: pd.DataFrame, by: str, title: str) -> Block:
    """Plots the share of converted units in each slice with its 95 % Wilson interval, largest slices first.

    Args:
        units: one row per unit with ``converted`` (bool) and the column ``by``.
        by: the column to slice by; units without a value are left out.
        title: what the plot shows.
    """
    counts = (
        units.groupby(by, observed=True)["converted"]
        .agg(["size", "sum"])
        .sort_values("size", ascending=False)
    )
    lines = [
        _line(str(name), int(row["size"]), int(row["sum"])) for name, row in counts.head(SLICES).iterrows()
    ]
    values = "\n".join(f"{line.label} {words.percent(line.estimate)}" for line in lines)
    if not lines:
        return Block(paragraph("Nobody is counted yet.", cls="cro-quiet"), "Nobody is counted yet.")
    return Block(
        paragraph(title, cls="cro-plot-title") + plots.rates(lines, f"{title}: {values}"),
        f"{title}\n{values}",
    )


def _line(label: str, size: int, converted: int) -> plots.Range:
    interval = wilson(size, converted)
    return plots.Range(f"{label} ({words.count(size)})", interval.estimate, interval.low, interval.high, 1)
