"""Bloom filters of ids: sets that answer "surely not" or "maybe" in about a microsecond, however many ids they hold.

A filter is nothing but its bits, as bytes: plain Python reads it, so that the service needs no library for it.
An id sets about eight bits in each of three words of 64, and the first word ends nearly every search.
Filters of growing size share the ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct

BYTES_PER_ID = 5
"""Bytes for each id that let a full filter say "maybe" to one stranger of 100,000: each costs a look into the lake."""

FIRST, LARGEST, GROWTH = 2**16, 2**23, 16
"""Ids of the first filter and of the largest; each holds GROWTH times as many as the one before."""

WORD = 8
"""Bytes of a word of a filter."""

_DIGEST = Struct("<6Q2I")
"""Six numbers that make the masks (three random words have an eighth of their bits in common), and two that make
the places, scaled to the filter's size."""

_PLACES = 2**32


@dataclass(frozen=True, slots=True)
class Filter:
    """A stored Bloom filter; of the same number and the same ids it never changes."""

    number: int
    ids: int
    bits: bytes


def capacity(place: int) -> int:
    """Tells how many ids the filter at a place (0 is the oldest) may hold."""
    return int(min(FIRST * GROWTH**place, LARGEST))


def empty(place: int) -> bytes:
    """Makes the filter at a place, without ids."""
    return bytes(capacity(place) * BYTES_PER_ID)


def maybe(filters: Sequence[bytes], ids: Iterable[str]) -> list[str]:
    """Finds those of the ids that may be in one of the filters; the others are surely in none."""
    words = [(memoryview(bits).cast("Q"), len(bits) // WORD) for bits in filters]
    return [name for name in ids if _maybe_in(words, _digest(name))]


def with_ids(bits: bytes, ids: Iterable[str]) -> bytes:
    """Adds ids to a filter."""
    import numpy as np

    kind = np.dtype([("masks", "<u8", 6), ("places", "<u4", 2)])
    digests = np.frombuffer(b"".join(map(_digest, ids)), kind)
    a, b, c, d, e, f = digests["masks"].T
    first, second = digests["places"].astype(np.uint64).T
    words = np.frombuffer(bits, "<u8").copy()
    for mask, place in (
        (a & b & c, first),
        (d & e & f, second),
        ((a ^ d) & (b ^ e) & (c ^ f), (first + second) % np.uint64(_PLACES)),
    ):
        np.bitwise_or.at(words, place * np.uint64(words.size) // np.uint64(_PLACES), mask)
    return words.tobytes()


def _digest(name: str) -> bytes:
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=_DIGEST.size).digest()


def _maybe_in(filters: Sequence[tuple[memoryview, int]], digest: bytes) -> bool:
    a, b, c, d, e, f, first, second = _DIGEST.unpack(digest)
    mask = a & b & c
    for words, size in filters:
        if words[first * size // _PLACES] & mask == mask:
            more = d & e & f
            last = (a ^ d) & (b ^ e) & (c ^ f)
            third = (first + second) % _PLACES
            if (
                words[second * size // _PLACES] & more == more
                and words[third * size // _PLACES] & last == last
            ):
                return True
    return False
