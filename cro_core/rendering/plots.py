"""Small plots as inline SVG: a few hundred bytes each, printable, readable without colour, without a script.

Every plot is 300 units wide, so that its text stays readable on a phone, and says in a title what it shows.
Colours are classes of the style sheet; the attributes are for places that have none, such as an e-mail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from cro_core.rendering.html import safe, tag
from cro_core.reporting import words

WIDTH = 300
LEFT, RIGHT = 8, WIDTH - 8
ROW = 40
TICK = 44
"""Width of the longest label of an axis, such as ``+100 %``."""
LABEL, LINE = 115, 15
"""Width of a mark's label, and height of a line of text."""
COLOURS = ("#6b7280", "#0072b2", "#d55e00", "#009e73", "#aa4499")
"""Colours of the lines where there is no style sheet: the control's grey, then some that stay distinct for
colour-blind readers (Okabe and Ito 2008; Tol). ``theme.css`` overrides them by ``--cro-c0`` to ``--cro-c4``: the same
hues in two shades, dark enough for its light cards and light enough for its dark ones."""


@dataclass(frozen=True, slots=True)
class Range:
    """An estimate with its interval."""

    label: str
    estimate: float | None
    low: float | None
    high: float | None
    colour: int = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """A line across a plot, with its label."""

    at: float
    kind: str
    label: str


@dataclass(frozen=True, slots=True)
class Scale:
    """A scale turns values into places on the page."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        """Returns the place of a value; values beyond the ends stay at the ends."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return LEFT + share * (RIGHT - LEFT)

    def ticks(self) -> list[float]:
        """Chooses three to six round values."""
        rough = (self.high - self.low) / 4
        power = 10 ** math.floor(math.log10(rough))
        step = next(multiple * power for multiple in (1, 2, 2.5, 5, 10) if multiple * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def rates(ranges: Sequence[Range], title: str) -> Markup:
    """Draws conversion rates with their intervals, one line for each variant."""
    values = [v for line in ranges for v in (line.estimate, line.low, line.high) if v is not None]
    if not values:
        return Markup("")
    scale = _scale(values, floor=0.0)
    return _ranges(ranges, scale, title, words.percent)


def uplifts(ranges: Sequence[Range], title: str, target: float | None = None) -> Markup:
    """Draws uplifts over the control with their intervals; a line at no difference, a dashed one at the target."""
    values = [v for line in ranges for v in (line.estimate, line.low, line.high) if v is not None]
    if not values:
        return Markup("")
    marks = [Mark(0.0, "cro-zero", "no difference")]
    if target:
        marks.append(Mark(target, "cro-target", f"worth it: {words.signed(target)}"))
    scale = _scale([*values, *(mark.at for mark in marks)])
    return _ranges(ranges, scale, title, words.signed, marks)


def progress(share: float, title: str) -> Markup:
    """Draws a bar that is filled to ``share``."""
    filled = max(0.0, min(1.0, share)) * WIDTH
    track = _rect(0, 4, WIDTH, 12, "cro-track", "#e7e5e4")
    return _svg(track + _rect(0, 4, filled, 12, "cro-c1", COLOURS[1]), 20, title)


def threshold(value: float, critical: float, title: str) -> Markup:
    """Draws a value on its way to the line that decides."""
    unit = WIDTH / (max(value, critical) * 1.15)
    x = critical * unit
    body = _rect(0, 20, WIDTH, 12, "cro-track", "#e7e5e4") + _rect(
        0, 20, value * unit, 12, "cro-c1", COLOURS[1]
    )
    body += _line(x, 16, x, 36, "cro-target")
    body += _text(x, 12, f"decides at {critical:.2f}", "end" if x > WIDTH / 2 else "start")
    body += _text(0, 50, f"now {value:.2f}", "start")
    return _svg(body, 56, title)


def step(start: float, size: float, whole: float, kind: str) -> Markup:
    """Draws a step of a waterfall: a bar of ``size`` that begins at ``start``, on a line that is ``whole`` long.

    It repeats the number that stands beside it, so it is hidden from those who listen to a page.

    Args:
        start, size, whole: in the same unit; nothing is drawn where ``whole`` is 0.
        kind: ``kept`` (coloured) or ``left`` (grey).
    """
    if whole <= 0:
        return Markup("")
    unit = WIDTH / whole
    long = max(size * unit, 1.0)  # what is counted is seen, however little it is
    colour = COLOURS[1] if kind == "kept" else COLOURS[0]
    return _svg(_rect(min(start * unit, WIDTH - long), 1, long, 8, f"cro-{kind}", colour), 10)


def _ranges(
    ranges: Sequence[Range],
    scale: Scale,
    title: str,
    say: Callable[[float | None], str],
    marks: Sequence[Mark] = (),
) -> Markup:
    heights = _heights(marks, scale)
    top = max(heights, default=-7) + 7
    height = top + len(ranges) * ROW + 22
    body = "".join(
        _text(scale(mark.at), y, mark.label, _anchor(scale(mark.at)))
        for mark, y in zip(marks, heights, strict=True)
    )
    for index, line in enumerate(ranges):
        begin = top + index * ROW
        # Not through the label: a line behind a word makes neither readable.
        body += "".join(
            _line(scale(mark.at), begin + 19, scale(mark.at), begin + ROW - 3, mark.kind) for mark in marks
        )
        body += _range(line, scale, begin, say(line.estimate))
    for tick in scale.ticks():
        x = scale(tick)
        body += _line(x, height - 22, x, height - 18, "cro-axis")
        middle = min(max(x, TICK / 2), WIDTH - TICK / 2)  # the label stays inside, its line where it belongs
        body += _text(middle, height - 6, _tick(tick, signed=say is words.signed), "middle", "cro-tick")
    return _svg(body, height, title)


def _range(line: Range, scale: Scale, top: float, text: str) -> str:
    y = top + 26
    colour = COLOURS[line.colour % len(COLOURS)]
    body = _text(0, top + 14, _short(line.label), "start", "cro-label")
    body += _text(WIDTH, top + 14, text, "end", "cro-label")
    if line.low is not None and line.high is not None:
        body += _line(
            scale(line.low), y, scale(line.high), y, f"cro-s{line.colour % len(COLOURS)}", colour, 5
        )
    if line.estimate is not None:
        kind = f"cro-c{line.colour % len(COLOURS)}"
        body += f'<circle class="{kind}" cx="{scale(line.estimate):.1f}" cy="{y}" r="6" fill="{colour}"/>'
    return body


def _scale(values: Sequence[float], floor: float | None = None) -> Scale:
    low, high = min(values), max(values)
    room = (high - low) * 0.12 or abs(high) * 0.12 or 0.01
    low = low - room
    return Scale(max(low, floor) if floor is not None else low, high + room)


def _heights(marks: Sequence[Mark], scale: Scale) -> list[int]:
    """Chooses where the labels stand; one that would touch the label before it goes a line lower."""
    places = [scale(mark.at) for mark in marks]
    close = [False, *(abs(after - before) < LABEL for before, after in pairwise(places))]
    return [11 + LINE * low for low in close[: len(places)]]


def _anchor(x: float) -> str:
    return "start" if x < WIDTH * 0.2 else "end" if x > WIDTH * 0.8 else "middle"


def _tick(value: float, *, signed: bool) -> str:
    text = f"{value * 100:{'+' if signed and abs(value) > 1e-12 else ''}.4g}{words.NBSP}%"
    return text.replace("-", "−")


def _short(label: str) -> str:
    label = words.clean(label)
    return label if len(label) <= 28 else label[:27] + "…"


def _svg(body: str, height: float, title: str = "") -> Markup:
    role = f'role="img" aria-label="{safe(title)}"' if title else 'aria-hidden="true"'
    return Markup(  # noqa: S704 - texts are escaped where they are written
        f'<svg class="cro-plot" viewBox="0 0 {WIDTH} {height:g}" {role} font-family="system-ui, sans-serif" '
        f'font-size="12" fill="currentColor">{tag("title", title) if title else ""}{body}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str, cls: str = "cro-note") -> str:
    return f'<text class="{cls}" x="{x:.1f}" y="{y:g}" text-anchor="{anchor}">{safe(text)}</text>'


def _line(
    x1: float, y1: float, x2: float, y2: float, cls: str, colour: str = "#78716c", size: float = 1
) -> str:
    place = f'x1="{x1:.1f}" y1="{y1:g}" x2="{x2:.1f}" y2="{y2:g}"'
    return f'<line class="{cls}" {place} stroke="{colour}" stroke-width="{size:g}" stroke-linecap="round"/>'


def _rect(x: float, y: float, width: float, height: float, cls: str, colour: str) -> str:
    return f'<rect class="{cls}" x="{x:.1f}" y="{y:g}" width="{width:.1f}" height="{height:g}" rx="3" fill="{colour}"/>'
