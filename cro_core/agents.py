"""What a User-Agent header tells: the kind of device, and whether it is a machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

# Automation that ua-parser files under ordinary browsers or libraries.
AUTOMATION = ("headlesschrome", "phantomjs", "lighthouse", "pingdom", "uptimerobot")


@dataclass(frozen=True, slots=True)
class Agent:
    """``device`` is ``mobile``, ``tablet``, ``desktop`` or ``None`` where the header does not say."""

    device: str | None = None
    bot: bool = False


@lru_cache(maxsize=4096)
def classify(user_agent: str | None) -> Agent:
    """Reads a User-Agent with ua-parser's maintained patterns; no header means no knowledge, not a bot."""
    if not user_agent:
        return Agent()
    from ua_parser import parse

    found = parse(user_agent[:500])
    lowered = user_agent.lower()
    if (found.device and found.device.family == "Spider") or any(name in lowered for name in AUTOMATION):
        return Agent(bot=True)
    return Agent(_device(lowered, found.os.family if found.os else ""))


def _device(lowered: str, os_family: str) -> str | None:
    if "ipad" in lowered or "tablet" in lowered or (os_family == "Android" and "mobile" not in lowered):
        return "tablet"
    if os_family in {"iOS", "Android", "Windows Phone"}:
        return "mobile"
    if os_family in {"Windows", "Mac OS X", "Linux", "Ubuntu", "Fedora", "Chrome OS"}:
        return "desktop"
    return None
