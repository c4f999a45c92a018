"""The dashboard as people meet it: started by ``cro dashboard``, opened in a real browser."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest
from helpers import browser, report_samples
from playwright.sync_api import Browser, Page, expect

from cro_core.home import Home, create_home, open_home, set_clock
from cro_core.jupyter.dashboard import dashboard_command
from cro_core.workflows.sample_home import NOW

pytestmark = pytest.mark.browser


@contextmanager
def dashboard(home: Home) -> Iterator[str]:
    """Started as from a service manager: no environment to speak of, and no HOME that could be written."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "cro_core.cli",
        "dashboard",
        "--home",
        str(home.path),
        "--port",
        str(port),
    ]
    log = home.data / "dashboard.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={"PATH": "/usr/bin:/bin", "HOME": "/dev/null/no"},
            cwd="/",
            stdout=output,
            stderr=output,
        )
    try:
        wait_for(port, process, log)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urlopen(f"http://127.0.0.1:{port}/voila/static/favicon.ico", timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(log.read_text(errors="replace"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.launch() as launched:
        yield launched


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, str]]:
    home = report_samples.sample(tmp_path_factory.mktemp("sample"))
    with dashboard(home) as address:
        yield home, address


@contextmanager
def visit(
    chromium: Browser, address: str, width: int, scheme: str = "light"
) -> Iterator[tuple[Page, list[str], list[str]]]:
    """An opened page with the requests it made and the errors it had."""
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda opened: asked.append(opened.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.locator("h1").wait_for(timeout=60_000)
    page.locator("select").wait_for(timeout=60_000)
    yield page, asked, errors
    context.close()


def test_the_choice_of_a_test_changes_the_page_and_nothing_leaves(
    chromium: Browser, served: tuple[Home, str]
) -> None:
    _, address = served
    with visit(chromium, address, 1440) as (page, asked, errors):
        expect(page.locator("h1")).to_have_text("Sample site: dashboard")
        expect(page.locator(".cro-headline")).to_contain_text("won “Front page: photo or film”")
        titles = page.locator(".cro-card h3")
        expect(titles).to_have_text(
            ["Wedding gallery: first picture", "Front page: photo or film", "Words on the button"]
        )
        page.locator("select").select_option("Words on the button")
        expect(titles).to_have_text(
            ["Words on the button", "Words on the button"]
        )  # the sheet and its waterfall
        expect(page.get_by_role("table").last).to_be_visible()
        expect(page.locator("caption", has_text="What became of the")).to_contain_text("events received")
        page.locator("select").select_option("All tests")
        expect(titles).to_have_count(3)
        assert len(asked) > 10
        assert [
            url
            for url in asked
            if not url.startswith((address, address.replace("http", "ws"), "data:", "blob:"))
        ] == []
        assert errors == []
        assert "Traceback" not in page.content()


def test_it_shows_the_site_as_it_is_now_on_a_phone_in_the_dark(
    chromium: Browser, served: tuple[Home, str]
) -> None:
    """A kernel that was started ahead would show the site as it was then."""
    home, address = served
    set_clock(home, NOW.replace(hour=9, minute=41))
    with visit(chromium, address, 375, "dark") as (page, _, errors):
        expect(page.locator("header")).to_contain_text("Mon 16 Mar 2026, 10:41 · times are Europe/Copenhagen")
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 29)"
        assert errors == []


def test_each_visit_has_a_kernel_of_its_own_that_ends(tmp_path: Path) -> None:
    home = create_home(tmp_path, environ={})
    command, environment = dashboard_command(open_home(home.path, environ={}), 8866)
    assert "--MappingKernelManager.cull_idle_timeout=120" in command
    assert not any("preheat" in part for part in command)
    assert "--Voila.ip=127.0.0.1" in command
    assert environment["CRO_HOME"] == str(tmp_path)
