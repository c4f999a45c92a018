"""City and country of an address, from a MaxMind file (.mmdb) on this machine: no other machine is asked.

MaxMind's GeoLite2 City and DB-IP's City Lite have the layout that is read. The file is opened once a process;
a newer one is read after a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cro_core.errors import ConfigError
from cro_core.ingest.cleaning import Place

Locate = Callable[[str], Place]
"""The place of an address, as far as it is known."""

SETTING = "service.geo_database"


def open_locator(path: str) -> Locate:
    """What finds places in this file.

    Raises:
        ConfigError: the file cannot be read, or the package that reads it is missing.
    """
    try:
        import maxminddb
    except ImportError:
        raise _refusal(
            "needs the package maxminddb", "install the extra: pip install 'cro-intelligence[geo]'"
        ) from None
    try:
        reader = maxminddb.open_database(path)
    except (ValueError, maxminddb.InvalidDatabaseError):
        raise _refusal(f"names {path}, which is no MaxMind file", "fetch it again, or set null") from None
    except OSError as error:
        raise _refusal(
            f"names {path}, which cannot be opened ({error.strerror})", "name a .mmdb file or null"
        ) from None

    def locate(address: str) -> Place:
        try:
            return place_of(reader.get(address))
        # An IPv6 address in a file of IPv4, or a damaged record. The message holds the address: it goes nowhere.
        except (ValueError, maxminddb.InvalidDatabaseError):
            return Place()

    return locate


def place_of(record: Any) -> Place:
    """A record's city by its English name, and its country by its ISO code."""
    return Place(_text(record, "city", "names", "en"), _text(record, "country", "iso_code"))


def _text(record: Any, *path: str) -> str | None:
    for name in path:
        record = record.get(name) if isinstance(record, Mapping) else None
    return record if isinstance(record, str) and record else None


def _refusal(problem: str, remedy: str) -> ConfigError:
    return ConfigError(f"{SETTING} {problem}: {remedy}", field=SETTING)
