"""The weekly report as its reader meets it: run by its job on real homes, opened offline in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from helpers import browser, report_samples
from playwright.sync_api import Browser, Page, expect

from cro_core.domain import Variant
from cro_core.home import Home, create_home, open_home, set_clock
from cro_core.reporting import words
from cro_core.workflows.create_experiment import NewExperiment, create_experiment
from cro_core.workflows.run_job import run_job
from cro_core.workflows.sample_home import NOW

pytestmark = pytest.mark.browser

Make = Callable[[Path], Home]
Files = dict[str, Path]

NASTY = '🎬 فيلم <img src=x onerror=alert(1)> "و" & <script>alert(2)</script> ' + "long" * 20


def empty(folder: Path) -> Home:
    return clocked(create_home(folder, environ={}))


def draft(folder: Path) -> Home:
    """A site that has only thought of a test, and gave everything a name that could break a page."""
    settings = {"site": {"name": f"<b>{NASTY}", "time_zone": "Asia/Kathmandu"}}
    home = clocked(create_home(folder, settings, environ={}))
    variants = (Variant("a", NASTY, is_control=True), Variant("b", f"</bdi>{NASTY}", asset_id=NASTY[:100]))
    wanted = NewExperiment("hero", variants, name=NASTY, hypothesis=NASTY, start=False)
    create_experiment(home, wanted, now=NOW, actor="cli")
    return home


def sample(folder: Path) -> Home:
    return report_samples.sample(folder)


def clocked(home: Home) -> Home:
    set_clock(home, NOW)
    return open_home(home.path, environ={})


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.launch() as launched:
        yield launched


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Make], Files]:
    """The report of a home, written once."""

    @cache
    def write(make: Make) -> Files:
        home = make(tmp_path_factory.mktemp("report") / "home")
        outcome = run_job(home, "weekly_report", {}, now=home.clock())
        return {kind: Path(path) for kind, path in outcome["files"].items()}

    return write


@pytest.fixture
def files(request: pytest.FixtureRequest, written: Callable[[Make], Files]) -> Files:
    return written(request.param)


def of(*homes: Make) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("files", homes, ids=lambda make: make.__name__, indirect=True)


@contextmanager
def opened(
    chromium: Browser, file: Path, width: int, scheme: Any = "light"
) -> Iterator[tuple[Page, list[str]]]:
    """The page without a network, with everything it asked for or complained of."""
    viewport = {"width": width, "height": 900}
    context = chromium.new_context(viewport=viewport, color_scheme=scheme, offline=True)  # type: ignore[arg-type]
    page = context.new_page()
    heard: list[str] = []
    page.on("request", lambda request: heard.append(request.url))
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
    page.goto(file.as_uri())
    yield page, heard
    context.close()


@of(empty, draft, sample)
@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (375, "dark")])
def test_the_page_is_whole_offline_and_fits(chromium: Browser, files: Files, width: int, scheme: str) -> None:
    with opened(chromium, files["html"], width, scheme) as (page, heard):
        assert heard == [files["html"].as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.querySelectorAll('script, iframe, object, embed, img').length") == 0
        expect(page.locator("h1")).to_have_count(1)
        expect(page.locator("h2")).to_have_count(8)
        empty_parts = "[...document.querySelectorAll('section, article, table, p')].filter(e => !e.textContent.trim()).length"
        assert page.evaluate(empty_parts) == 0
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark is (scheme == "dark")


@of(draft)
def test_names_are_shown_as_they_were_given(chromium: Browser, files: Files) -> None:
    with opened(chromium, files["html"], 1440) as (page, heard):
        assert words.clean(NASTY).strip() in page.locator("h1").inner_text()
        assert heard == [files["html"].as_uri()]
        expect(page.locator("main")).to_contain_text("<img src=x onerror=alert(1)>")
    assert max(map(words.width, files["text"].read_text(encoding="utf-8").splitlines())) <= 80


@pytest.mark.parametrize("width", [1440, 375])
def test_hostile_names_stay_names_in_cards_tables_and_plots(
    chromium: Browser, tmp_path: Path, width: int
) -> None:
    file = tmp_path / "report.html"
    file.write_text(report_samples.as_page(report_samples.report(site=NASTY, name=NASTY)), encoding="utf-8")
    with opened(chromium, file, width) as (page, heard):
        assert heard == [file.as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        expect(page.locator(".cro-card h3").first).to_have_text(NASTY)
        expect(page.locator("h2")).to_have_count(8)


@of(empty, sample)
def test_the_json_says_what_the_page_says(chromium: Browser, files: Files) -> None:
    document = json.loads(files["json"].read_text(encoding="utf-8"))
    assert document["schema"] == "cro-report/1"
    with opened(chromium, files["html"], 1440) as (page, _):
        expect(page.locator(".cro-headline")).to_have_text(document["headline"])
        numbers = page.locator(".cro-tiles dd").all_inner_texts()
    overview = document["overview"]
    assert numbers[:3] == [f"{overview[key]:,}" for key in ("running", "decided", "counted")]


@of(empty, draft)
def test_a_site_without_visitors_says_what_to_do_first(chromium: Browser, files: Files) -> None:
    with opened(chromium, files["html"], 375) as (page, _):
        expect(page.locator(".cro-brief")).to_contain_text("Connect your website")
        expect(page.locator("main")).to_contain_text("cro serve")
        expect(page.locator("main")).not_to_contain_text(words.UNKNOWN)


@of(sample)
def test_the_reconciliation_adds_up_in_sight_of_the_reader(chromium: Browser, files: Files) -> None:
    with opened(chromium, files["html"], 375) as (page, _):
        tables = page.get_by_role("table").filter(has_text="What became of the")
        expect(tables).to_have_count(3)
        for index in range(3):
            expect(tables.nth(index)).to_be_visible()
            cells = tables.nth(index).locator("td").all_inner_texts()
            received, *rest = (int(cell.replace(",", "")) for cell in cells)
            assert received == sum(rest) > 1000


@of(sample)
def test_it_prints_with_what_was_folded(chromium: Browser, files: Files) -> None:
    with opened(chromium, files["html"], 1000) as (page, _):
        page.emulate_media(media="print")
        assert page.pdf(print_background=True).startswith(b"%PDF")
        expect(
            page.get_by_text("Visitors were divided between the versions as planned.").first
        ).to_be_visible()
