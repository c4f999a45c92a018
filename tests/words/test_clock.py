"""Times: UTC inside, whole microseconds in the store, days of the site's zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cro_core.clock import from_micros, iso, next_midnight, parse_time, system_clock, to_micros, zone
from cro_core.errors import InvalidInput

moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001


@given(moments)
def test_micros_and_iso_lose_nothing(moment: datetime) -> None:
    assert from_micros(to_micros(moment)) == moment
    assert parse_time(iso(moment)) == moment
    assert iso(moment).endswith("Z")


@given(moments, moments)
def test_micros_keep_order_and_distance(one: datetime, other: datetime) -> None:
    assert (to_micros(one) < to_micros(other)) == (one < other)
    assert timedelta(microseconds=to_micros(other) - to_micros(one)) == other - one


def test_micros_of_any_zone_are_those_of_the_moment() -> None:
    moment = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
    assert to_micros(moment.astimezone(timezone(timedelta(hours=5, minutes=45)))) == to_micros(moment)


def test_micros_refuse_a_naive_time() -> None:
    with pytest.raises(InvalidInput, match="2026-03-01T09:30:00 has no zone"):
        to_micros(datetime(2026, 3, 1, 9, 30))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-03-01T09:30:00Z", "2026-03-01T09:30:00Z"),
        ("2026-03-01T09:30:00+01:00", "2026-03-01T08:30:00Z"),
        ("2026-03-01T00:30:00.250-05:00", "2026-03-01T05:30:00.250000Z"),
        ("2026-03-01 09:30+00:00", "2026-03-01T09:30:00Z"),
    ],
)
def test_iso_with_a_zone_is_read_as_utc(text: str, utc: str) -> None:
    parsed = parse_time(text)
    assert iso(parsed) == utc
    assert parsed.tzinfo is UTC


@pytest.mark.parametrize("text", ["2026-03-01T09:30:00", "2026-03-01", "20260301"])
def test_naive_texts_are_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(InvalidInput, match="has no zone: write it like 2026-03-01T09:30:00Z"):
        parse_time(text)


@pytest.mark.parametrize("text", ["", "yesterday", "1772442000000", "2026-13-01T00:00:00Z", "\ud800"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not ISO 8601"):
        parse_time(text)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-01:00"])
def test_the_ends_of_the_calendar_are_refused_and_do_not_overflow(text: str) -> None:
    with pytest.raises(InvalidInput, match="out of range"):
        parse_time(text)


def test_unknown_zones_are_refused() -> None:
    for name in ("Mars/Olympus", "", "../etc/passwd", "/etc/localtime"):
        with pytest.raises(InvalidInput, match="use an IANA name"):
            zone(name)


@pytest.mark.parametrize(
    ("before", "hours"),
    [
        ("2026-03-29", 23),
        ("2026-10-25", 25),
        ("2026-06-01", 24),
    ],  # clocks of Paris change in March and October
)
def test_a_local_day_has_the_hours_it_has(before: str, hours: int) -> None:
    site = zone("Europe/Paris")
    midnight = next_midnight(parse_time(f"{before}T00:30:00+00:00") - timedelta(days=1), site)
    assert next_midnight(midnight, site) - midnight == timedelta(hours=hours)
    assert midnight.astimezone(site).strftime("%Y-%m-%d %H:%M") == f"{before} 00:00"


def test_next_midnight_lies_strictly_ahead() -> None:
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    assert next_midnight(midnight, zone("UTC")) == midnight + timedelta(days=1)
    assert next_midnight(midnight - timedelta(microseconds=1), zone("UTC")) == midnight


def test_the_system_clock_is_utc() -> None:
    assert system_clock().utcoffset() == timedelta(0)
