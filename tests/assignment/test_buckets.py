"""The hash and the shares: GrowthBook's, value for value."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from growthbook import core as growthbook
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from cro_core.assignment.buckets import (
    BUCKETS,
    admitted,
    assign,
    bucket,
    check_shares,
    choose,
    equal_shares,
    fnv1a32,
)
from cro_core.errors import InvalidInput
from cro_core.ingest.pseudonym import pseudonym

texts = st.text(st.characters(exclude_categories=()), max_size=40)  # surrogates, emoji and all
places = st.integers(0, BUCKETS - 1).map(lambda k: k / BUCKETS)


@st.composite
def share_vectors(draw: st.DrawFn) -> list[float]:
    """Shares as a person or the allocator makes them: not in whole buckets, some of them zero."""
    parts = draw(st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1)), min_size=1, max_size=8).filter(any))
    return [part / math.fsum(parts) for part in parts]


@pytest.mark.parametrize(
    ("text", "value"),  # Noll's published test vectors
    [("", 0x811C9DC5), ("a", 0xE40C292C), ("b", 0xE70C2DE5), ("foobar", 0xBF9CF968)],
)
def test_fnv1a_has_its_published_values(text: str, value: int) -> None:
    assert fnv1a32(text) == value


@pytest.mark.parametrize(
    ("seed", "visitor", "place"),  # GrowthBook's own cases of hash version 2
    [
        ("seed", "a", 0.0505),
        ("seed", "b", 0.2696),
        ("foo", "ab", 0.2575),
        ("foo", "def", 0.2019),
        ("89123klj", "8952klfjas09ujkasdf", 0.124),
        ("90850943850283058242805", "123", 0.7516),
        ("()**(%$##$%#$#", '___)((*":&', 0.0128),
    ],
)
def test_the_bucket_has_its_published_values(seed: str, visitor: str, place: float) -> None:
    assert bucket(seed, visitor) == place


@given(texts, texts)
@example("hero", "Zoë-Åse")
@example("hero", "訪問者-42")
@example("сид", "🙂🏳️‍🌈")
@example("", "\ud83d")
def test_the_bucket_is_growthbooks(seed: str, visitor: str) -> None:
    assert bucket(seed, visitor) == growthbook.gbhash(seed, visitor, 2)


@given(places, share_vectors())
@example(0.7, [0.1] * 10)
@example(0.3, [0.1, 0.2, 0.7])
def test_the_choice_is_growthbooks(place: float, shares: list[float]) -> None:
    ranges = growthbook.getBucketRanges(len(shares), 1, shares)
    assert choose(place, shares) == growthbook.chooseVariation(place, ranges)


def test_many_visitors_get_what_growthbook_gives_them() -> None:
    rng = np.random.default_rng(7)
    for number in range(40):
        shares = rng.dirichlet(np.ones(2 + number % 4)).tolist()
        ranges = growthbook.getBucketRanges(len(shares), 1, shares)
        for visitor in range(250):
            name = f"visitør-{visitor}"
            theirs = growthbook.chooseVariation(growthbook.gbhash(f"seed{number}", name, 2) or 0.0, ranges)
            assert assign(name, f"seed{number}", shares) == theirs


def test_there_are_ten_thousand_places_equally_likely() -> None:
    found = [round(bucket("hero", str(n)) * BUCKETS) for n in range(100_000)]
    assert min(found) >= 0
    assert max(found) < BUCKETS
    assert len(set(found)) > 9_990  # 100,000 draws leave 0.45 of 10,000 places empty
    counts = np.bincount(np.array(found) // 100, minlength=100)
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.9, 0.1], [0.3, 0.3, 0.4], [0.05] * 20])
def test_variants_get_their_shares(shares: list[float]) -> None:
    counts = Counter(assign(f"v{n}", "seed", shares) for n in range(20_000))
    observed = [counts[index] for index in range(len(shares))]
    assert stats.chisquare(observed, np.array(shares) * 20_000).pvalue > 0.001


def test_seeds_are_independent() -> None:
    table = np.zeros((2, 2))
    for n in range(20_000):
        table[assign(f"v{n}", "one", [0.5, 0.5]), assign(f"v{n}", "two", [0.5, 0.5])] += 1
    assert stats.chi2_contingency(table, correction=False).pvalue > 0.001


@pytest.mark.parametrize("share", [0.013, 0.3, 0.75])
def test_a_share_of_the_visitors_is_let_in_whatever_variant_they_get(share: float) -> None:
    visitors = [f"v{n}" for n in range(40_000)]
    inside = [v for v in visitors if admitted(v, "hero", share)]
    assert stats.binomtest(len(inside), len(visitors), share).pvalue > 1e-4
    chosen = Counter(assign(v, "hero", [0.2, 0.5, 0.3]) for v in inside)
    expected = [len(inside) * part for part in (0.2, 0.5, 0.3)]
    assert stats.chisquare([chosen[k] for k in range(3)], expected).pvalue > 1e-4
    assert [v for v in visitors if admitted(v, "cta", share)] != inside


def test_who_is_let_in_stays_so_when_the_share_grows() -> None:
    visitors = [f"v{n}" for n in range(2000)]
    few, more = ({v for v in visitors if admitted(v, "hero", share)} for share in (0.2, 0.5))
    assert few < more
    assert not any(admitted(v, "hero", 0.0) for v in visitors)
    assert all(admitted(v, "hero", 1.0) for v in visitors)


def test_moving_a_border_moves_only_those_between() -> None:
    for n in range(5_000):
        before, after = assign(f"v{n}", "seed", [0.5, 0.5]), assign(f"v{n}", "seed", [0.3, 0.7])
        between = 0.3 <= bucket("seed", f"v{n}") < 0.5
        assert (before != after) == between


def test_a_place_beyond_the_rounded_sum_is_the_last_variants() -> None:
    shares = [0.1] * 10
    assert sum(shares) < 1
    assert choose(math.nextafter(1.0, 0.0), shares) == 9


def test_ranges_hold_their_start_and_not_their_end() -> None:
    assert choose(0.0, [0.5, 0.5]) == 0
    assert choose(0.4999, [0.5, 0.5]) == 0
    assert choose(0.5, [0.5, 0.5]) == 1
    assert choose(0.0, [0.0, 1.0]) == 1
    assert choose(0.9999, [1.0, 0.0]) == 0


@pytest.mark.parametrize(
    "shares",
    [[], [1.1, -0.1], [0.5, 0.4], [0.5, 0.500001], [math.nan, 1.0], [1.0, math.nan], [math.inf, 0.0]],
)
def test_shares_that_are_none_are_refused(shares: list[float]) -> None:
    with pytest.raises(InvalidInput, match="non-negative fractions that sum to 1") as refused:
        check_shares(shares)
    assert refused.value.field == "shares"
    with pytest.raises(InvalidInput):
        choose(0.5, shares)


@given(st.integers(1, 200))
def test_equal_shares_are_whole_buckets(count: int) -> None:
    shares = equal_shares(count)
    buckets = [round(share * BUCKETS) for share in shares]
    assert sum(buckets) == BUCKETS
    assert max(buckets) - min(buckets) <= 1
    assert shares == sorted(shares, reverse=True)
    check_shares(shares)


@pytest.mark.parametrize("count", [0, -1, BUCKETS + 1])
def test_equal_shares_of_nobody_are_refused(count: int) -> None:
    with pytest.raises(InvalidInput, match="give 1 to 10000 variants"):
        equal_shares(count)


def test_pseudonyms_need_the_salt_and_hide_the_name() -> None:
    one, other = pseudonym(b"one" * 8, "alice"), pseudonym(b"two" * 8, "alice")
    assert one == pseudonym(b"one" * 8, "alice")
    assert one != other
    assert len({pseudonym(b"one" * 8, f"v{n}") for n in range(10_000)}) == 10_000
    assert len(one) == 32
    assert int(one, 16) >= 0
    # HMAC-SHA-256 of RFC 4231, test case 2, cut to 128 bits
    assert pseudonym(b"Jefe", "what do ya want for nothing?") == "5bdcc146bf60754e6a042426089575c7"
