"""Commands as they were spelt once: they still work, and say on stderr how they are spelt now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from cro_core.cli.lab import LabMeasure

MEASURES = frozenset(LabMeasure)
FLAGS = frozenset({"--json", "--help"})
"""Options of ``cro lab`` that have no value."""
NO_LONGER = frozenset({"--outcomes", "--as-live", "--replace"})
"""Flags of ``cro import`` that ``cro outcomes`` does not have: the first is its name now, the others did nothing."""


class Commands(TyperGroup):
    """The group of all commands, which also knows their old spellings."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the arguments, spelt as today or as once."""
        today, before, now = respelt(args)
        if before:
            typer.echo(f"hint: `{before}` is now `{now}`", err=True)
        return super().parse_args(ctx, today)


def respelt(arguments: Sequence[str]) -> tuple[list[str], str, str]:
    """Spells arguments as today; where that is another way, also says what has changed: before and now."""
    command, *rest = arguments or ("",)
    if command == "import" and "--outcomes" in rest:
        left = [argument for argument in rest if argument not in NO_LONGER]
        return ["outcomes", *left], "cro import --outcomes", "cro outcomes"
    if command == "lab" and rest and rest[0] not in {"measure", "targets"}:
        place = _first_word(rest)
        word = rest[place] if place is not None else ""
        if word in MEASURES:
            return ["lab", "measure", *rest], f"cro lab {word}", f"cro lab measure {word}"
        if place is not None and word == "targets":
            left = [*rest[:place], *rest[place + 1 :]]
            return ["lab", "targets", *left], "cro lab ... targets", "cro lab targets ..."
    return list(arguments), "", ""


def _first_word(arguments: Sequence[str]) -> int | None:
    """The place of the first argument that is neither an option nor the value of one; ``None``: there is none."""
    value_follows = False
    for place, argument in enumerate(arguments):
        if not value_follows and not argument.startswith("-"):
            return place
        value_follows = not value_follows and "=" not in argument and argument not in FLAGS
    return None
