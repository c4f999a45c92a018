"""Bloom filters of ids: what is in is always found, and strangers hardly ever."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cro_core.storage import id_filters


@given(st.sets(st.text(min_size=1), max_size=200), st.sets(st.text(min_size=1), max_size=50))
def test_nothing_that_was_added_is_missed(first: set[str], second: set[str]) -> None:
    bits = id_filters.with_ids(id_filters.with_ids(id_filters.empty(0), first), second)

    assert set(id_filters.maybe([bits], first | second)) == first | second
    assert set(id_filters.maybe([id_filters.empty(0), bits], first)) == first


def test_an_empty_filter_and_no_filter_know_nobody() -> None:
    names = [f"id{n}" for n in range(1000)]

    assert id_filters.maybe([], names) == []
    assert id_filters.maybe([id_filters.empty(0), id_filters.empty(1)], names) == []


def test_a_full_filter_says_maybe_to_few_strangers() -> None:
    full = id_filters.with_ids(id_filters.empty(0), (f"id{n}" for n in range(id_filters.capacity(0))))

    strangers = 300_000
    found = len(id_filters.maybe([full], (f"stranger{n}" for n in range(strangers))))

    assert found / strangers < 1e-4


def test_filters_grow_up_to_a_limit() -> None:
    sizes = [id_filters.capacity(place) for place in range(6)]

    assert sizes[0] == id_filters.FIRST
    assert sizes == sorted(sizes)
    assert sizes[-2:] == [id_filters.LARGEST] * 2
    assert [len(id_filters.empty(place)) for place in (0, 1)] == [
        n * id_filters.BYTES_PER_ID for n in sizes[:2]
    ]


def test_bits_mean_the_same_in_every_version() -> None:
    """Stored filters are read by later versions of this program."""
    bits = id_filters.with_ids(id_filters.empty(0), ["event-1"])

    assert {place: byte for place, byte in enumerate(bits) if byte} == {
        70456: 32,
        70457: 32,
        70458: 160,
        70459: 66,
        70460: 130,
        234536: 34,
        234537: 8,
        234538: 30,
        234539: 146,
        234540: 4,
        234541: 16,
        234542: 16,
        304992: 128,
        304993: 20,
        304994: 33,
        304995: 1,
        304996: 2,
        304997: 129,
        304998: 16,
    }


@pytest.mark.parametrize("library", ["numpy", "duckdb", "pyarrow", "deltalake"])
def test_looking_ids_up_loads_no_library(library: str) -> None:
    program = f"""
import sys
from cro_core.storage import id_filters, seals
id_filters.maybe([id_filters.empty(0)], ["a"])
sys.exit({library!r} in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
