"""The words of a website and ours: one table, read where events come in and where answers go out.

The addresses and payloads that websites use are older than the words of the code: an experiment is a *test* there, and
an exposure was once an *impression*. :class:`~cro_core.ingest.cleaning.EventIn` takes events by this table, whoever
posts them: the site itself, an import, or made-up visitors. The service and ``cro status`` answer by it. Nothing else
speaks a website's language.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from cro_core.domain import EXPOSURE, OLDER_EXPOSURE

EXPERIMENT = "test_id"
VARIANT = "variant_id"

WORDS: Mapping[str, str] = {"experiment_id": EXPERIMENT, "variant": VARIANT}
"""Our name of a field -> its name in what a website posts and reads; other fields have one name."""

EVENT_TYPES: Mapping[str, str] = {OLDER_EXPOSURE: EXPOSURE}
"""Event type as it may be posted -> as it is stored; other types have one name."""


def website_word(name: str) -> str:
    """A field's name in what a website posts and reads."""
    return WORDS.get(name, name)


def in_website_words(value: Any, words: Mapping[str, str] = WORDS) -> Any:
    """What a website, or any program outside, gets to read of a typed value, with all that it holds.

    Args:
        value: a dataclass, or lists and mappings of such values. Keys of mappings stay as they are.
        words: name of a field -> its name outside.

    Returns:
        The value with a dictionary in the place of each dataclass, its keys in the order of the fields.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {
            words.get(field.name, field.name): in_website_words(getattr(value, field.name), words)
            for field in fields(value)
        }
    if isinstance(value, Mapping):
        return {key: in_website_words(part, words) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [in_website_words(part, words) for part in value]
    return value


def as_posted(event: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an event, named as a website posts them."""
    return {website_word(name): value for name, value in event.items()}


def from_website(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of what the service answered, under our names."""
    ours = {word: name for name, word in WORDS.items()}
    return {ours.get(word, word): value for word, value in answer.items()}
