"""The words of a website: read where events come in, written where answers go out, and nothing else is renamed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import ValidationError

from cro_core.ingest.cleaning import EventIn
from cro_core.ingest.website_words import WORDS, as_posted, from_website, in_website_words


@dataclass(frozen=True)
class Part:
    variant: str
    units: int


@dataclass(frozen=True)
class Whole:
    name: str
    experiment_id: str
    parts: tuple[Part, ...]
    config: Mapping[str, Any]


WHOLE = Whole("n", "hero", (Part("a", 1),), {"variant": "kept", "experiment_id": "kept"})


def test_fields_are_renamed_in_their_order_and_keys_of_mappings_are_not() -> None:
    shown = in_website_words({"active": [WHOLE]})
    assert shown == {
        "active": [
            {
                "name": "n",
                "test_id": "hero",
                "parts": [{"variant_id": "a", "units": 1}],
                "config": {"variant": "kept", "experiment_id": "kept"},
            }
        ]
    }
    assert list(shown["active"][0]) == ["name", "test_id", "parts", "config"]


def test_other_words_may_be_asked_for() -> None:
    assert in_website_words(Part("a", 1), {**WORDS, "variant": "winner"}) == {"winner": "a", "units": 1}


def test_what_is_posted_comes_back() -> None:
    ours = {"experiment_id": "hero", "variant": "a", "epoch": 0}
    assert as_posted(ours) == {"test_id": "hero", "variant_id": "a", "epoch": 0}
    assert from_website(as_posted(ours)) == ours


@pytest.mark.parametrize(("ours", "theirs"), WORDS.items())
def test_an_event_is_read_by_the_same_table_and_by_no_other_name(ours: str, theirs: str) -> None:
    item = {"event_type": "exposure", "user_id": "v"}
    assert getattr(EventIn.model_validate({**item, theirs: "x"}), ours) == "x"
    with pytest.raises(ValidationError, match=ours):
        EventIn.model_validate({**item, ours: "x"})
