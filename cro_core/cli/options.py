"""Options that many commands have, and what they mean: the home, and the moment of a look."""

from __future__ import annotations

import gc
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cro_core.home import Home

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home", help="The site's folder of settings, data and reports.  [default: CRO_HOME, else here]"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of text.")]
AsOfOption = Annotated[str | None, typer.Option(help="ISO 8601 time with a zone.  [default: now]")]


def open_home(path: Path | None) -> Home:
    """Opens the home that ``--home`` names; ``None`` is the one of ``CRO_HOME``, else the current folder."""
    from cro_core import home

    gc.freeze()  # what was imported stays to the end: looking at it again and again took a fifth of a short command
    return home.open_home(path)


def moment(home: Home, as_of: str | None) -> datetime:
    """Reads the time that ``--as-of`` names, in UTC; ``None`` is the home's present."""
    from cro_core.clock import parse_time

    return parse_time(as_of) if as_of else home.clock()
