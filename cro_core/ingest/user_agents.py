"""What a User-Agent header tells: the kind of device, and whether it is a machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

MOST = 500
"""Characters of a header that are read; browsers send fewer, and a longer one must cost no more."""

# A library runs no script of a page: it posts because somebody's server speaks for its visitors.
# crawler-user-agents tags most of them; these the lists take for spiders.
LIBRARY_TAG = "http-library"
LIBRARIES = frozenset({"Java", "Python-urllib", "WordPress"})

# ua-parser knows televisions by name only in part, and Android's and the consoles' browsers look like a tablet's or a PC's.
TELEVISION = re.compile(
    r"smart-?tv|web0s|hbbtv|netcast|vidaa|googletv|apple ?tv|android tv|bravia|crkey|roku/|\bmi(?:tv|box)|; aft[a-z0-9]{1,6}\b"
    r"|\btv safari|playstation|xbox|nintendo"
)


@dataclass(frozen=True, slots=True)
class Agent:
    """``device`` is ``mobile``, ``tablet``, ``desktop``, ``tv`` (consoles too) or ``None``: the header does not say."""

    device: str | None = None
    bot: bool = False


def classify(user_agent: str | None) -> Agent:
    """Reads a User-Agent with the maintained patterns of ua-parser and crawler-user-agents.

    No header means no knowledge, not a bot. Nor is a bare HTTP library (curl, python-requests): what such a client
    posts, a server posts for its visitors.
    """
    return _read(user_agent[:MOST]) if user_agent else Agent()


@lru_cache(maxsize=4096)
def _read(header: str) -> Agent:
    from ua_parser import parse

    agent = parse(header)
    lowered = header.lower()
    browser = agent.user_agent.family if agent.user_agent else ""
    spider = agent.device is not None and agent.device.family == "Spider"
    if browser not in LIBRARIES and (spider or any(part.search(header) for part in _robots())):
        return Agent(bot=True)
    return Agent(_device(lowered, agent.os.family if agent.os else ""))


@lru_cache(maxsize=1)
def _robots() -> tuple[re.Pattern[str], ...]:
    """The list of crawler-user-agents but for its libraries, in parts: one pattern of all of it is three times as slow."""
    from crawleruseragents import CRAWLER_USER_AGENTS_DATA

    patterns = [
        robot["pattern"] for robot in CRAWLER_USER_AGENTS_DATA if LIBRARY_TAG not in robot.get("tags", ())
    ]
    return tuple(re.compile("|".join(patterns[i : i + 25])) for i in range(0, len(patterns), 25))


def _device(lowered: str, system: str) -> str | None:
    if TELEVISION.search(lowered):
        return "tv"
    if system == "Windows" or "x11;" in lowered:  # "Tablet PC" in a Windows header names a component of it
        return "desktop"
    # An Android phone says Mobile, a tablet does not; Opera Mini says neither, and is for phones.
    phone = "mobile" in lowered or "opera mini" in lowered
    if "ipad" in lowered or "tablet" in lowered or (system == "Android" and not phone):
        return "tablet"
    if phone or system in {"iOS", "Windows Phone"}:
        return "mobile"
    return "desktop" if system in {"Mac OS X", "Linux", "Ubuntu", "Fedora", "Chrome OS"} else None
