"""Where a visitor is: what finds the place of an address, as a home's settings say."""

from __future__ import annotations

from dataclasses import dataclass

from cro_core.home import Home
from cro_core.ingest.geolocation import Locate, open_locator


@dataclass(frozen=True, slots=True)
class _Opened:
    """The file of places, once this process has opened it."""

    locate: Locate


def locator(home: Home) -> Locate | None:
    """What finds places for this home, or ``None`` where its settings name no file.

    Raises:
        ConfigError: the file cannot be read, or the package that reads it is missing.
    """
    path = home.config.service.geo_database
    if path is None:
        return None
    opened = home.memory.recall(_Opened)
    if opened is None:
        # A relative path is the home's: the service may be started anywhere.
        opened = _Opened(open_locator(str(home.path / path)))
        home.memory.keep(opened)
    return opened.locate
