"""What a User-Agent header tells."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cro_core.agents import Agent, classify

WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"
BROWSERS = {
    f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/126.0.0.0 Safari/537.36": "desktop",
    f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/126.0.0.0 Safari/537.36 Edg/126.0.0.0": "desktop",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15": (
        "desktop"
    ),
    "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0": "desktop",
    "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0": "desktop",
    f"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) {WEBKIT} Chrome/126.0.0.0 Safari/537.36": "desktop",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 "
    "Mobile/15E148 Safari/604.1": "mobile",
    f"Mozilla/5.0 (Linux; Android 14; Pixel 8) {WEBKIT} Chrome/126.0.0.0 Mobile Safari/537.36": "mobile",
    "Mozilla/5.0 (iPad; CPU OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/16.6 Mobile/15E148": (
        "tablet"
    ),
    f"Mozilla/5.0 (Linux; Android 13; SM-X906C) {WEBKIT} Chrome/126.0.0.0 Safari/537.36": "tablet",
}
BOTS = (
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X Build/MMB29P) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 "
    "Mobile Safari/537.36 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
    "Mozilla/5.0 (compatible; YandexBot/3.0; +http://yandex.com/bots)",
    "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
    "Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)",
    f"Mozilla/5.0 (X11; Linux x86_64) {WEBKIT} HeadlessChrome/126.0.0.0 Safari/537.36",
    "Pingdom.com_bot_version_1.4_(http://www.pingdom.com/)",
    "Mozilla/5.0 (compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)",
    f"Mozilla/5.0 (Linux; Android 11; moto g power) {WEBKIT} Chrome/126.0.0.0 Mobile Safari/537.36 Chrome-Lighthouse",
)


@pytest.mark.parametrize(("header", "device"), BROWSERS.items())
def test_people_are_told_by_their_device(header: str, device: str) -> None:
    assert classify(header) == Agent(device)


@pytest.mark.parametrize("header", BOTS)
def test_machines_that_visit_are_bots(header: str) -> None:
    assert classify(header) == Agent(bot=True)


@pytest.mark.parametrize("header", ["python-requests/2.32.3", "curl/8.8.0", "Go-http-client/2.0", "node"])
def test_a_server_that_posts_for_its_visitors_is_no_bot(header: str) -> None:
    assert classify(header).bot is False


@pytest.mark.parametrize("header", [None, ""])
def test_no_header_is_no_knowledge(header: str | None) -> None:
    assert classify(header) == Agent(None, bot=False)


@given(st.text(max_size=2000))
def test_any_header_is_read(header: str) -> None:
    assert classify(header).device in {None, "mobile", "tablet", "desktop"}
