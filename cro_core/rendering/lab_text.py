"""What the lab found, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from cro_core.lab import Coverage, FalsePositives, Power, Share
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


def found_text(found: FalsePositives | Power | Coverage) -> str:
    """A measure as a table: the figure with its Monte-Carlo error beside that of the naive rule.

    Args:
        found: what was measured; NaN (no winner to take a mean of, no effect to divide by) is shown as a dash.
    """
    head, note = "naive rule", NAIVE
    if isinstance(found, FalsePositives):
        rows = list(_false_positives(found))
    elif isinstance(found, Power):
        rows = list(_power(found))
    else:
        head, note, rows = "raw, pooled", PLAIN, list(_coverage(found))
    rows = [("", "engine", head), *rows]
    first, second = (max(len(row[k]) for row in rows) for k in (0, 1))
    table = [f"{a:<{first}}   {b:<{second}}   {c}".rstrip() for a, b, c in rows]
    return "\n".join([*table, "", note])


def lines_text(lines: Sequence[Line]) -> str:
    """The table of promises, one line for each figure, and how many are kept."""
    rows = [("", "", "found", "bound", "naive rule", ""), *map(_line, lines)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    table = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    kept = sum(line.kept for line in lines)
    note = (
        "For T11 the naive column is the pooled uplift's bias, for T14 the false discovery rate uncorrected."
    )
    return "\n".join([*table, "", f"{kept} of {len(lines)} figures are within their bounds. {ERRORS}", note])


def _false_positives(found: FalsePositives) -> Iterator[Row]:
    yield "any winner declared", _share(found.any), _share(found.naive)
    yield "a challenger wins", _share(found.challenger), ""
    yield "visitors used, of all there were", _share(found.sample), ""


def _power(found: Power) -> Iterator[Row]:
    yield "the better variant wins", _share(found.power), _share(found.naive)
    yield "another one wins", _share(found.wrong), ""
    yield "stopped for no practical gain", _share(found.futile), ""
    yield "visitors used, of a single look's at the end", _share(found.sample), ""


def _coverage(found: Coverage) -> Iterator[Row]:
    yield "intervals that hold the truth", _share(found.stagewise), ""
    yield "repeated intervals that hold it", _share(found.repeated), ""
    yield "estimates below the truth", _share(found.below), ""
    yield "median estimate / truth", _ratio(found.median), ""
    yield "winners' mean estimate / truth", _ratio(found.exaggeration), _ratio(found.naive_exaggeration)
    yield "bias of the uplift at the horizon", _share(found.bias), _share(found.pooled_bias)


def _share(share: Share) -> str:
    return f"{share.value:.2%} ± {share.error:.2%}"


def _ratio(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _line(line: Line) -> tuple[str, ...]:
    bounds = [f"at least {line.low:.4g}"] * math.isfinite(line.low)
    bounds += [f"at most {line.high:.4g}"] * math.isfinite(line.high)
    naive = "" if line.naive is None else f"{line.naive.value:.4f} ± {line.naive.error:.4f}"
    found = f"{line.found.value:.4f} ± {line.found.error:.4f}"
    what = f"{line.what}: {line.scenario}"
    return line.target, what, found, ", ".join(bounds), naive, "kept" if line.kept else "NOT KEPT"
