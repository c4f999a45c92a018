"""Who sees what: a pure function of the visitor, the experiment's seed and the epoch's shares.

The hash is GrowthBook's published algorithm, hash version 2 (docs.growthbook.io, "Build your own SDK"):
32-bit FNV-1a applied twice, reduced to 10,000 buckets. The browser, OpenFeature clients and GrowthBook's
SDKs therefore agree with this module by construction.
"""

from __future__ import annotations

from collections.abc import Sequence

from cro_core.errors import InvalidInput

BUCKETS = 10_000


def fnv1a32(text: str) -> int:
    """32-bit FNV-1a over the UTF-16 code units of ``text``, which is what JavaScript's charCodeAt sees."""
    units = text.encode("utf-16-le", "surrogatepass")
    value = 0x811C9DC5
    for low, high in zip(units[::2], units[1::2], strict=True):
        value = ((value ^ (low | high << 8)) * 0x01000193) & 0xFFFFFFFF
    return value


def bucket(seed: str, visitor: str) -> float:
    """The visitor's place in [0, 1), one of 10,000 equally likely ones."""
    return (fnv1a32(str(fnv1a32(seed + visitor))) % BUCKETS) / BUCKETS


def choose(place: float, shares: Sequence[float]) -> int:
    """Index of the variant whose range holds ``place``.

    Ranges are laid end to end in order. The running float sum is GrowthBook's own, so that even its
    rounding at a border agrees with theirs.

    Raises:
        InvalidInput: shares that are negative or do not sum to 1.
    """
    check_shares(shares)
    end = 0.0
    for index, share in enumerate(shares):
        start, end = end, end + share
        if start <= place < end:
            return index
    return len(shares) - 1  # reached only by rounding: the sum may be 1 - 1e-16


def assign(visitor: str, seed: str, shares: Sequence[float]) -> int:
    """Index of the variant this visitor gets under these shares."""
    return choose(bucket(seed, visitor), shares)


def admitted(visitor: str, seed: str, share: float) -> bool:
    """Whether this visitor takes part in an experiment that lets in this share of the visitors, in [0, 1].

    The hash is another one than that of the variant, so that who is let in says nothing about who gets which; a
    visitor who is let in stays so when the share grows.
    """
    return bucket(f"{seed}:admitted", visitor) < share


def check_shares(shares: Sequence[float]) -> None:
    """Refuses shares that cannot be assigned by.

    Raises:
        InvalidInput: shares that are negative or do not sum to 1 within 1e-9.
    """
    if not shares or min(shares) < 0 or not abs(sum(shares) - 1) <= 1e-9:  # NaN compares as false
        raise InvalidInput(
            f"shares are {list(shares)}: give non-negative fractions that sum to 1", field="shares"
        )


def equal_shares(count: int) -> list[float]:
    """``count`` shares in whole buckets that sum to 1; the first ones take what does not divide.

    Raises:
        InvalidInput: a count below 1, or above the number of buckets.
    """
    if not 1 <= count <= BUCKETS:
        raise InvalidInput(f"count is {count}: give 1 to {BUCKETS} variants", field="count")
    base, extra = divmod(BUCKETS, count)
    return [(base + (index < extra)) / BUCKETS for index in range(count)]
