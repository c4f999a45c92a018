"""Everything that docs/api.md tells a reader to run, run."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.places import ROOT
from helpers.service_samples import BROWSER, Server, check_shape, conclude, make_home, start_server
from sqlalchemy import select

from cro_core.config import Config
from cro_core.home import Home, create_home
from cro_core.storage import schema
from service import schemas
from service.request_bodies import MAX_DEPTH

GUIDE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
ADDRESS = "http://localhost:3000"
APPROVAL = "Approve or reject"
"""The section whose commands need something that waits for a person."""


def _blocks(language: str, *, section: str = "", without: str = "\0") -> list[str]:
    """The fenced blocks of a language, in order, of the sections whose title has these words."""
    chapters = re.split(r"^## ", GUIDE, flags=re.MULTILINE)
    chosen = [c for c in chapters if section in c.partition("\n")[0] and without not in c.partition("\n")[0]]
    return [
        block
        for chapter in chosen
        for block in re.findall(rf"^```{language}\n(.*?)^```$", chapter, flags=re.MULTILINE | re.DOTALL)
    ]


@pytest.fixture
def guided(tmp_path: Path) -> Iterator[Server]:
    """A server over a new home with the machine's clock, which a browser shares."""
    with _serving(create_home(tmp_path / "home"), tmp_path / "log") as server:
        yield server


@contextmanager
def _serving(home: Home, log: Path) -> Iterator[Server]:
    server = start_server(home, log, jobs=True)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(timeout=30)
        home.db.close()


def _run(server: Server, script: str) -> str:
    here = script.replace(ADDRESS, f"http://127.0.0.1:{server.port}").replace(
        "curl ", "curl --silent --show-error "
    )
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", here],
        cwd=server.home.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _events(home: Home) -> list[dict[str, Any]]:
    with home.db.read() as connection:
        return [dict(row) for row in connection.execute(select(schema.events)).mappings()]


def test_nothing_in_the_guide_escapes_these_tests() -> None:
    fences = re.findall(r"^```(\w*)$", GUIDE, flags=re.MULTILINE)
    assert set(fences) == {"sh", "json", "js", "html", ""}
    # A block without a language would put its empty word at an even place.
    assert set(fences[1::2]) == {""}
    assert "" not in fences[::2]
    assert len(fences) // 2 == sum(len(_blocks(language)) for language in ("sh", "json", "js", "html"))


@pytest.mark.slow
def test_the_commands_work_in_order(guided: Server) -> None:
    said = [
        json.loads(line) for line in _run(guided, "\n".join(_blocks("sh", without=APPROVAL))).splitlines()
    ]
    receipts = [answer for answer in said if "accepted" in answer]
    assert [r["accepted"] for r in receipts] == [1, 2, 0]
    assert not any(r["rejected"] for r in receipts)
    assert [answer["error"]["code"] for answer in said if "error" in answer] == [
        "invalid_input",
        "bad_json",
        "key_missing",
    ]
    asked, trained = (answer for answer in said if "job" in answer)
    assert (asked["job"], trained["status"], trained["outcome"]["status"]) == (
        "orchestrate",
        "done",
        "not_enough_history",
    )
    assert [answer["status"] for answer in said if "probability" in answer] == ["not_enough_history"]
    assert [answer["reason"] for answer in _experiments(said)] == ["assigned", "opted_out", "opted_out"]
    assert sorted(e["type"] for e in _events(guided.home)) == [
        "contact_form_submit",
        "exposure",
        "video_play",
    ]


def _experiments(said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        e for answer in said if isinstance(answer.get("experiments"), list) for e in answer["experiments"]
    ]


def test_the_commands_that_approve_work(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {"automation": {"auto_declare_winners": False}})
    conclude(home)
    with _serving(home, tmp_path / "log") as server:
        commands = [_blocks("sh")[0].partition("\n\n")[0], *_blocks("sh", section=APPROVAL)]
        waiting, done = (json.loads(line) for line in _run(server, "\n".join(commands)).splitlines())
        assert [r["id"] for r in waiting["recommendations"]] == ["ship:hero-cta"]
        assert done["action"] == "approve"
        shown = server.call("GET", "/api/cro/assignments?visitor=v")[2]["production"]
    assert [s["variant_id"] for s in shown] == ["call"]


def test_the_answers_shown_are_those_of_the_service() -> None:
    models = {
        "experiments": schemas.AssignmentsAnswer,
        "accepted": schemas.EventsAnswer,
        "error": schemas.ErrorAnswer,
    }
    shown = [json.loads(block) for block in _blocks("json")]
    assert shown
    for answer in shown:
        (model,) = (model for name, model in models.items() if name in answer)
        check_shape(model, answer)


def test_the_limits_told_are_those_that_ship() -> None:
    service = Config().service
    assert f"over {service.max_body_bytes:,} bytes or {service.max_events_per_request:,} events" in GUIDE
    assert f"at most {MAX_DEPTH} levels deep" in GUIDE
    assert (service.host, service.port) == ("127.0.0.1", 3000)
    assert ADDRESS.endswith(f":{service.port}")


def test_the_error_table_lists_every_code() -> None:
    source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "service").rglob("*.py"))
    codes = {code for _, code in re.findall(r'HttpRefusal\(\s*(\d{3}),\s*"(\w+)"', source)}
    codes |= {"not_found", "method_not_allowed", "conflict", "busy", "store_error", "internal_error"}
    assert codes <= set(re.findall(r"`(\w+)`", GUIDE))


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_the_fetch_example_works(guided: Server) -> None:
    (script,) = _blocks("js")
    code = script.replace(ADDRESS, f"http://127.0.0.1:{guided.port}")
    done = subprocess.run(
        ["node", "--input-type=module", "-e", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [e["type"] for e in _events(guided.home)] == ["scroll_depth_75"]


@pytest.mark.browser
def test_the_page_works_from_another_origin(guided: Server, tmp_path: Path) -> None:
    from helpers.browser import launch

    _run(guided, _blocks("sh")[0])
    (page_source,) = _blocks("html")
    patience = "AbortSignal.timeout(800)"
    assert patience in page_source
    page_source = page_source.replace(patience, "AbortSignal.timeout(15000)")  # this machine may be busy
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text(
        page_source.replace(ADDRESS, f"http://127.0.0.1:{guided.port}"), encoding="utf-8"
    )
    with _Site(site) as origin, launch() as browser:
        context = browser.new_context(user_agent=BROWSER)  # a headless one is taken for the bot it is
        page = context.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(origin)
        _wait_for(lambda: len(_events(guided.home)) == 1)
        shown = page.text_content("#cta")
        page.click("#cta")
        page.goto("about:blank")
        _wait_for(lambda: len(_events(guided.home)) == 2)
    stored = {e["type"]: e for e in _events(guided.home)}
    assert set(stored) == {"exposure", "phone_click"}
    assert shown == {"control": "Request a quote", "call-now": "Call now"}[stored["exposure"]["variant"]]
    assert stored["exposure"]["unit"] == stored["phone_click"]["unit"]
    assert not [p for p in problems if "favicon" not in p and "404" not in p]


def _wait_for(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


class _Site:
    """A static site on an origin of its own."""

    def __init__(self, folder: Path) -> None:
        handler = partial(_Quiet, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/index.html"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
