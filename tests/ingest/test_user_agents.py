"""What a User-Agent header tells: headers as real browsers, robots and libraries send them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cro_core.ingest.user_agents import MOST, Agent, classify


def _headers() -> dict[str, list[str]]:
    """The headers of ``user_agents.txt`` by the name of their section."""
    found: dict[str, list[str]] = {}
    for line in Path(__file__).with_name("user_agents.txt").read_text().splitlines():
        if line.startswith("["):
            section = found[line.strip("[]")] = []
        elif line:
            section.append(line)
    return found


HEADERS = _headers()
DEVICES = ("desktop", "mobile", "tablet", "tv")
PEOPLE = [(header, device) for device in DEVICES for header in HEADERS[device]]


@pytest.mark.parametrize(("header", "device"), PEOPLE)
def test_people_are_told_by_their_device(header: str, device: str) -> None:
    assert classify(header) == Agent(device)


def test_most_robots_are_known() -> None:
    """Robots of many trades, chosen before any was tried; those who run no script of a page never post at all."""
    found = [header for header in HEADERS["bots"] if classify(header).bot]
    assert len(HEADERS["bots"]) == 96
    assert len(found) >= 94
    assert all(classify(header) == Agent(bot=True) for header in found)


@pytest.mark.parametrize(
    "name",
    [
        "Googlebot", "AdsBot-Google", "bingbot", "BingPreview", "YandexBot", "Baiduspider", "Applebot", "facebookexternalhit",
        "GPTBot", "ChatGPT-User", "ClaudeBot", "PerplexityBot", "CCBot", "Amazonbot", "AhrefsBot", "SemrushBot",
        "HeadlessChrome", "PhantomJS", "Chrome-Lighthouse", "PTST", "Pingdom", "UptimeRobot", "StatusCake",
    ],
)  # fmt: skip
def test_every_header_of_these_is_a_robot(name: str) -> None:
    sent = [header for header in HEADERS["bots"] if name in header]
    assert sent
    assert [header for header in sent if not classify(header).bot] == []


@pytest.mark.parametrize("header", HEADERS["libraries"])
def test_a_server_that_posts_for_its_visitors_is_no_bot(header: str) -> None:
    assert classify(header) == Agent()


@pytest.mark.parametrize("header", [None, ""])
def test_no_header_is_no_knowledge(header: str | None) -> None:
    assert classify(header) == Agent(None, bot=False)


def test_a_huge_header_costs_what_a_short_one_does() -> None:
    phone = HEADERS["mobile"][0]
    classify(phone.ljust(MOST))
    tracemalloc.start()
    for number in range(500):
        assert classify(phone.ljust(MOST) + f"Googlebot {number}" + "x" * 500_000) == Agent("mobile")
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1_000_000


def test_what_is_remembered_is_bounded() -> None:
    classify("warm")
    tracemalloc.start()
    for number in range(7_000):
        classify(f"{number:>{MOST}}" + "y" * 1000)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 12_000_000  # 4,096 headers here and 2,000 in ua-parser, of 500 characters each


@given(st.text(max_size=2000))
def test_any_header_is_read(header: str) -> None:
    assert classify(header).device in {None, *DEVICES}
