"""Time: UTC inside, and always an argument.

A :data:`Clock` is any function without arguments that returns an aware UTC datetime. Stores keep
whole microseconds since 1970 (:func:`to_micros`), which every database compares and subtracts alike.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cro_core.errors import InvalidInput

Clock = Callable[[], datetime]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def system_clock() -> datetime:
    """The machine's time, in UTC."""
    return datetime.now(UTC)


def to_micros(moment: datetime) -> int:
    """Microseconds since 1970-01-01 UTC; refuses a naive datetime."""
    if moment.tzinfo is None:
        raise InvalidInput(f"time {moment.isoformat()} has no zone: give one, e.g. {moment.isoformat()}Z")
    return (moment - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """The inverse of :func:`to_micros`."""
    return EPOCH + timedelta(microseconds=micros)


def parse_time(text: str) -> datetime:
    """Reads an ISO 8601 time with a zone, as UTC.

    Raises:
        InvalidInput: not ISO 8601, or without a zone.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"time {text!r} is not ISO 8601: write it like 2026-03-01T09:30:00Z") from None
    if moment.tzinfo is None:
        raise InvalidInput(f"time {text!r} has no zone: write it like 2026-03-01T09:30:00Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # the first and the last day of the calendar, in another zone
        raise InvalidInput(f"time {text!r} is out of range: years 1 to 9999 UTC are possible") from None


def iso(moment: datetime) -> str:
    """ISO 8601 in UTC with a Z, to the second unless there is a fraction."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def zone(name: str) -> ZoneInfo:
    """The IANA time zone of that name.

    Raises:
        InvalidInput: no such zone.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput(f"time zone {name!r} is unknown: use an IANA name such as Europe/Paris") from None


def next_midnight(moment: datetime, site: ZoneInfo) -> datetime:
    """The first local midnight strictly after ``moment``, in UTC."""
    return midnight_after(moment.astimezone(site).date(), site)


def midnight_after(day: date, site: ZoneInfo) -> datetime:
    """The local midnight at which a calendar day ends, in UTC.

    Days of 23 and 25 hours come out as such, because the date is advanced, not 24 hours added.
    """
    return datetime.combine(day + timedelta(days=1), time(), site).astimezone(UTC)
