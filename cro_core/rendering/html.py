"""Building blocks of a page. Whatever is not :class:`~markupsafe.Markup` is escaped, so foreign names cannot become markup."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from cro_core.reporting import words

Cell = str
"""Text of a table cell; :class:`~markupsafe.Markup` where it is markup already."""


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a page that shows itself in a notebook; ``text`` is what a plain terminal gets."""

    html: Markup
    text: str = ""

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {
            "text/html": f'<div class="cro">{self.html}</div>',
            "text/plain": self.text or "a part of the page",
        }


def safe(text: str) -> Markup:
    """``text`` as markup: itself if it is markup, else escaped and without control characters."""
    return text if isinstance(text, Markup) else _escaped(words.clean(text))


def join(parts: Iterable[str]) -> Markup:
    """Pieces in a row, escaped where they are not markup yet."""
    return Markup("").join(map(safe, parts))


def tag(name: str, *parts: str, cls: str = "", **attributes: str) -> Markup:
    """``<name class=cls ...>parts</name>``; attribute names may have ``_`` for ``-``."""
    given = {"class": cls} if cls else {}
    given |= {key.strip("_").replace("_", "-"): value for key, value in attributes.items()}
    written = Markup("").join(Markup(' {}="{}"').format(key, _escaped(value)) for key, value in given.items())
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, join(parts))


def named(text: str) -> Markup:
    """A name from outside: escaped, and kept from reordering the line it stands in."""
    return tag("bdi", text)


def table(
    caption: str, headers: Sequence[str], rows: Iterable[Sequence[Cell]], *, text_columns: int = 1
) -> Markup:
    """A table with a caption and header cells that a screen reader can follow.

    Args:
        caption: what the table shows.
        headers: one for each column.
        rows: the first cell names the row.
        text_columns: so many columns are text, set left; the others are numbers, set right.
    """
    align = ["" if i < text_columns else "cro-n" for i in range(len(headers))]
    head = join(tag("th", h, cls=a, scope="col") for h, a in zip(headers, align, strict=True))
    body = join(_row(row, align) for row in rows)
    inner = tag("table", tag("caption", caption), tag("thead", tag("tr", head)), tag("tbody", body))
    # Wide tables scroll inside themselves; a keyboard reaches what a finger can drag.
    return tag("div", inner, cls="cro-scroll", tabindex="0", role="region", aria_label=caption)


def _row(cells: Sequence[Cell], align: Sequence[str]) -> Markup:
    first = tag("th", cells[0], scope="row")
    return tag("tr", first, *(tag("td", c, cls=a) for c, a in zip(cells[1:], align[1:], strict=True)))


def paragraph(*parts: str, cls: str = "") -> Markup:
    """Writes a paragraph of text."""
    return tag("p", *parts, cls=cls)


def bullets(items: Iterable[str], *, ordered: bool = False) -> Markup:
    """Writes a list with bullets."""
    return tag("ol" if ordered else "ul", *(tag("li", item) for item in items))


def badge(text: str, tone: str) -> Markup:
    """A label; the tone (``good``, ``calm``, ``warn``, ``bad``, ``busy``) only repeats what it says."""
    return tag("span", text, cls=f"cro-badge cro-{tone}")


def card(*parts: str, tone: str = "") -> Markup:
    """A framed part."""
    return tag("article", *parts, cls=f"cro-card cro-{tone}" if tone else "cro-card")


def grid(cards: Iterable[str]) -> Markup:
    """Cards beside each other where there is room."""
    return tag("div", *cards, cls="cro-grid")


def tiles(facts: Iterable[tuple[str, str]]) -> Markup:
    """Large numbers with what they count."""
    return tag(
        "dl", *(tag("div", tag("dt", label), tag("dd", value)) for label, value in facts), cls="cro-tiles"
    )


def fold(summary: str, *parts: str) -> Markup:
    """Detail that opens on demand."""
    return tag("details", tag("summary", summary), *parts)


def css() -> str:
    """The one style sheet of reports, notebooks and dashboard."""
    return (files("cro_core.jupyter") / "share" / "theme.css").read_text(encoding="utf-8")


def theme() -> Block:
    """Brings the style sheet into a notebook; the exported page has it already."""
    return Block(tag("style", Markup(css())), "style sheet")  # noqa: S704 - our own style sheet


def _escaped(text: str) -> Markup:
    """The text as it is read, also where it is markup; quotes as the standard library writes them."""
    return Markup(html.escape(str(text)))  # noqa: S704 - it is escaped
