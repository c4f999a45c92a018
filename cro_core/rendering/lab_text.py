"""The texts of the lab's measures and of its table of promises, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from cro_core.lab import Coverage, FalsePositives, Power, Share
from cro_core.lab.scenario import Setup
from cro_core.lab.targets import Line

Row = tuple[str, str, str]

ERRORS = "± is one Monte-Carlo standard error."
NAIVE = (
    f"{ERRORS} The naive rule declares a winner in any hour with chi-square p < .05,\n"
    "the least visitors in each variant and the minimum uplift observed."
)
PLAIN = (
    f"{ERRORS} Raw is the uplift as it stands at the end; for the bias it is the one\n"
    "table of all days instead of each day with itself."
)


def setup_text(setup: Setup, programmes: int) -> str:
    """Writes what is simulated: how many experiments, the truth behind them, their traffic and their rules."""
    shares = "equal shares" if setup.floor is None else f"shares that move daily, floor {setup.floor:.0%}"
    shape = "" if setup.spending_parameter is None else f"({setup.spending_parameter:g})"
    effects = ", ".join(f"{u:+.1%}" for u in setup.uplifts)
    return (
        f"{programmes:,} experiments, at most {setup.looks} looks, {setup.days} days of new visitors"
        f"{', whole weeks' * setup.whole_weeks}\n"
        f"  truth   rate {setup.base_rate:.3g} ({setup.profile}), uplift {effects}\n"
        f"  traffic {setup.visitors:,} visitors ({setup.traffic}), "
        f"{setup.planned_visitors:,} planned for {setup.mde:+.0%}; {shares}\n"
        f"  rules   alpha {setup.alpha:g}, {setup.spending}{shape}, gate {setup.gate} {setup.min_uplift:.0%}, "
        f"futility {'on' if setup.futility else 'off'}, at least {setup.min_units} per variant"
    )


def measure_text(measure: FalsePositives | Power | Coverage) -> str:
    """Writes a measure as a table: the figure with its Monte-Carlo error beside that of the naive rule.

    Args:
        measure: what was measured; NaN (no winner to take a mean of, no effect to divide by) is shown as a dash.
    """
    head, note = "naive rule", NAIVE
    if isinstance(measure, FalsePositives):
        rows = list(_false_positives(measure))
    elif isinstance(measure, Power):
        rows = list(_power(measure))
    else:
        head, note, rows = "raw, pooled", PLAIN, list(_coverage(measure))
    rows = [("", "engine", head), *rows]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    table = [f"{label:<{first}}   {figure:<{second}}   {beside}".rstrip() for label, figure, beside in rows]
    return "\n".join([*table, "", note])


def lines_text(lines: Sequence[Line]) -> str:
    """Writes the table of promises, one line for each figure, and how many are kept."""
    rows = [("", "", "found", "bound", "naive rule", ""), *map(_line, lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    table = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    kept = sum(line.kept for line in lines)
    note = (
        "For T11 the naive column is the pooled uplift's bias, for T14 the false discovery rate uncorrected."
    )
    return "\n".join([*table, "", f"{kept} of {len(lines)} figures are within their bounds. {ERRORS}", note])


def _false_positives(measure: FalsePositives) -> Iterator[Row]:
    yield "any winner declared", _share(measure.any), _share(measure.naive)
    yield "a challenger wins", _share(measure.challenger), ""
    yield "the control beats every challenger", _share(measure.control), ""
    yield "visitors enrolled by the decision, of all", _share(measure.sample), ""


def _power(measure: Power) -> Iterator[Row]:
    yield "the better variant wins", _share(measure.power), _share(measure.naive)
    yield "another one wins", _share(measure.wrong), ""
    yield "stopped for no practical gain", _share(measure.futile), ""
    yield "visitors by the decision, of a single look's", _share(measure.sample), ""
    yield "winners whose effect changed with the days", _share(measure.cautions), ""
    yield "of these not borne out by one more week", _share(measure.faded), ""
    yield "conversions gained in the experiment itself", _share(measure.gained), ""


def _coverage(measure: Coverage) -> Iterator[Row]:
    yield "intervals that hold the truth", _share(measure.stagewise), ""
    yield "repeated intervals that hold it", _share(measure.repeated), ""
    yield "estimates below the truth", _share(measure.below), ""
    yield "median estimate / truth", _ratio(measure.median), ""
    yield "winners' mean estimate / truth", _ratio(measure.exaggeration), _ratio(measure.naive_exaggeration)
    yield "bias of the uplift at the horizon", _share(measure.bias), _share(measure.pooled_bias)


def _share(share: Share) -> str:
    return f"{share.value:.2%} ± {share.error:.2%}"


def _ratio(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _line(line: Line) -> tuple[str, ...]:
    bounds = [f"at least {line.low:.4g}"] * math.isfinite(line.low)
    bounds += [f"at most {line.high:.4g}"] * math.isfinite(line.high)
    naive = "" if line.naive is None else f"{line.naive.value:.4f} ± {line.naive.error:.4f}"
    figure = f"{line.found.value:.4f} ± {line.found.error:.4f}"
    figure_name = f"{line.what}: {line.scenario}"
    return line.target, figure_name, figure, ", ".join(bounds), naive, "kept" if line.kept else "NOT KEPT"
