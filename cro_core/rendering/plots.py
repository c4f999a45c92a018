"""Small plots as inline SVG: a few hundred bytes each, printable, readable without colour, without a script.

Every plot is 340 units wide, so that its text stays readable on a phone, and says in a title what it shows.
Colours are classes of the style sheet; the attributes are for places that have none, such as an e-mail.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cro_core.rendering.html import Html, safe, tag
from cro_core.reporting import words

WIDTH = 340
LEFT, RIGHT = 8, WIDTH - 8
ROW = 40
COLOURS = ("#6b7280", "#0072b2", "#d55e00", "#009e73", "#aa4499")
"""The control's grey, then colours that stay distinct for colour-blind readers."""


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
    """A line across a plot, with what it means."""

    at: float
    kind: str
    label: str


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places on the page."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return LEFT + share * (RIGHT - LEFT)

    def ticks(self) -> list[float]:
        """Three to six round values."""
        rough = (self.high - self.low) / 4
        power = 10 ** math.floor(math.log10(rough))
        step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def rates(ranges: Sequence[Range], title: str) -> Html:
    """Conversion rates with their intervals, one line for each variant."""
    values = [v for r in ranges for v in (r.estimate, r.low, r.high) if v is not None]
    if not values:
        return Html("")
    scale = _scale(values, floor=0.0)
    return _ranges(ranges, scale, title, words.percent)


def uplifts(ranges: Sequence[Range], title: str, target: float | None = None) -> Html:
    """Uplifts over the control with their intervals; a line at no difference, a dashed one at the target."""
    values = [v for r in ranges for v in (r.estimate, r.low, r.high) if v is not None]
    if not values:
        return Html("")
    marks = [Mark(0.0, "cro-zero", "no difference")]
    if target:
        marks.append(Mark(target, "cro-target", f"worth it: {words.signed(target)}"))
    scale = _scale([*values, *(mark.at for mark in marks)])
    return _ranges(ranges, scale, title, words.signed, marks)


def progress(share: float, title: str) -> Html:
    """A bar that is filled to ``share``."""
    filled = max(0.0, min(1.0, share)) * (RIGHT - LEFT)
    body = _rect(LEFT, 4, RIGHT - LEFT, 12, "cro-track", "#e7e5e4") + _rect(
        LEFT, 4, filled, 12, "cro-c1", COLOURS[1]
    )
    return _svg(body, 20, title)


def threshold(value: float, critical: float, title: str) -> Html:
    """A value on its way to the line that decides."""
    scale = Scale(0.0, max(value, critical) * 1.15)
    x = scale(critical)
    body = _rect(LEFT, 20, RIGHT - LEFT, 12, "cro-track", "#e7e5e4")
    body += _rect(LEFT, 20, scale(value) - LEFT, 12, "cro-c1", COLOURS[1])
    body += _line(x, 16, x, 36, "cro-target")
    body += _text(x, 12, f"decides at {critical:.2f}", "end" if x > WIDTH / 2 else "start")
    body += _text(LEFT, 50, f"now {value:.2f}", "start")
    return _svg(body, 56, title)


def bars(rows: Sequence[tuple[str, float, str]], title: str) -> Html:
    """Horizontal bars: label, size, class (``kept`` or ``left``)."""
    largest = max((size for _, size, _ in rows), default=0) or 1
    body = ""
    for index, (label, size, kind) in enumerate(rows):
        top = index * 34
        body += _text(LEFT, top + 12, f"{label}: {words.count(size)}", "start")
        width = max(size / largest * (RIGHT - LEFT), 1.0)
        body += _rect(LEFT, top + 18, width, 10, f"cro-{kind}", COLOURS[1] if kind == "kept" else COLOURS[0])
    return _svg(body, len(rows) * 34, title)


def _ranges(
    ranges: Sequence[Range],
    scale: Scale,
    title: str,
    say: Callable[[float | None], str],
    marks: Sequence[Mark] = (),
) -> Html:
    top = 18 * bool(marks)
    height = top + len(ranges) * ROW + 22
    body = "".join(_mark(mark, scale(mark.at), height - 20) for mark in _apart(marks, scale))
    body += "".join(_range(r, scale, top + index * ROW, say(r.estimate)) for index, r in enumerate(ranges))
    for tick in scale.ticks():
        x = scale(tick)
        body += _line(x, height - 22, x, height - 18, "cro-axis")
        body += _text(x, height - 6, _tick(tick, signed=say is words.signed), _anchor(x), "cro-tick")
    return _svg(body, height, title)


def _mark(mark: Mark, x: float, bottom: float) -> str:
    return _line(x, 16, x, bottom, mark.kind) + _text(x, 11, mark.label, _anchor(x))


def _range(r: Range, scale: Scale, top: float, said: str) -> str:
    y = top + 26
    colour = COLOURS[r.colour % len(COLOURS)]
    body = _text(LEFT, top + 14, f"{_short(r.label)}  {said}", "start", "cro-label")
    if r.low is not None and r.high is not None:
        body += _line(scale(r.low), y, scale(r.high), y, f"cro-s{r.colour % len(COLOURS)}", colour, 5)
    if r.estimate is not None:
        kind = f"cro-c{r.colour % len(COLOURS)}"
        body += f'<circle class="{kind}" cx="{scale(r.estimate):.1f}" cy="{y}" r="6" fill="{colour}"/>'
    return body


def _scale(values: Sequence[float], floor: float | None = None) -> Scale:
    low, high = min(values), max(values)
    room = (high - low) * 0.12 or abs(high) * 0.12 or 0.01
    low = low - room
    return Scale(max(low, floor) if floor is not None else low, high + room)


def _apart(marks: Sequence[Mark], scale: Scale) -> list[Mark]:
    """The marks; where two labels would collide, the first one keeps only its line."""
    if len(marks) == 2 and abs(scale(marks[0].at) - scale(marks[1].at)) < 130:
        return [replace(marks[0], label=""), marks[1]]
    return list(marks)


def _anchor(x: float) -> str:
    return "start" if x < WIDTH * 0.2 else "end" if x > WIDTH * 0.8 else "middle"


def _tick(value: float, *, signed: bool) -> str:
    text = f"{value * 100:{'+' if signed and abs(value) > 1e-12 else ''}.4g} %"
    return text.replace("-", "−")


def _short(label: str) -> str:
    label = words.clean(label)
    return label if len(label) <= 34 else label[:33] + "…"


def _svg(body: str, height: float, title: str) -> Html:
    inner = tag("title", title) + body
    return Html(
        f'<svg class="cro-plot" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{safe(title)}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="currentColor">{inner}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str, cls: str = "cro-note") -> str:
    return (
        f'<text class="{cls}" x="{x:.1f}" y="{y:g}" text-anchor="{anchor}">{safe(text)}</text>'
        if text
        else ""
    )


def _line(
    x1: float, y1: float, x2: float, y2: float, cls: str, colour: str = "#78716c", size: float = 1
) -> str:
    place = f'x1="{x1:.1f}" y1="{y1:g}" x2="{x2:.1f}" y2="{y2:g}"'
    return f'<line class="{cls}" {place} stroke="{colour}" stroke-width="{size:g}" stroke-linecap="round"/>'


def _rect(x: float, y: float, width: float, height: float, cls: str, colour: str) -> str:
    return f'<rect class="{cls}" x="{x:.1f}" y="{y:g}" width="{width:.1f}" height="{height:g}" rx="3" fill="{colour}"/>'
