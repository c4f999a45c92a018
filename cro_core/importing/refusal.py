"""Errors of imports, in three parts: what was got, what was wanted, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from cro_core.errors import MappingError

SHOWN = 12
"""Most names or values listed in a message."""


def refuse(source: str, key: str, got: str, wanted: str, fix: str = "") -> MappingError:
    """Makes the error to raise for ``key`` of the mapping (or file) named ``source``."""
    text = f"{source}: {key}: got {got}; wanted {wanted}"
    return MappingError(f"{text}; {fix}" if fix else text, field=key)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Writes ``did you mean 'x'?`` for the nearest of the choices, else an empty text."""
    names = {name.lower(): name for name in choices}
    near = get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return f"did you mean {names[near[0]]!r}?" if near else ""


def listing(words: Iterable[str]) -> str:
    """Lists the first dozen words, and how many more there are."""
    all_words = list(words)
    more = len(all_words) - SHOWN
    return ", ".join(all_words[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")
