"""Commands about a site as a whole: making it, serving it, looking at it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cro_core.cli.options import HomeOption, JsonOption, open_home
from cro_core.cli.output import say

app = typer.Typer()


@app.command(epilog="Example: cro init --home ~/my-site")
def init(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Make a home: settings that ship, an empty store, new secrets."""
    from cro_core.home import create_home
    from cro_core.rendering.site_text import made_text

    made = create_home(home)
    answer = {
        "home": str(made.path),
        "config": str(made.path / "cro-config.json"),
        "admin_key": made.admin_key,
    }
    say(answer, as_json, made_text)


@app.command(epilog="Example: cro demo --home demo-home")
def demo(
    home: Annotated[
        Path, typer.Option("--home", help="Folder of the demo; a former demo there is removed.")
    ] = Path("demo-home"),
    days: Annotated[int, typer.Option(min=1, max=60, help="Simulated days.")] = 14,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic visitors.")] = 7,
    as_json: JsonOption = False,
) -> None:
    """Watch experiments live their whole life: a real service, simulated visitors and 14 days of hourly cycles."""
    from cro_core.workflows.demo import run_demo

    result = run_demo(home, days=days, seed=seed, quiet=as_json)
    say(result, as_json, lambda _: result.text)


@app.command(epilog="Example: cro serve --port 3000")
def serve(
    home: HomeOption = None,
    host: Annotated[
        str | None, typer.Option(help="Address to bind.  [default: from the settings, loopback]")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port.  [default: from the settings, 3000]")
    ] = None,
) -> None:
    """Run the web service that takes events and answers assignments."""
    from service import server

    server.serve(open_home(home), host, port)


@app.command(epilog="Example: cro dashboard --port 8866")
def dashboard(
    home: HomeOption = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on loopback.")] = 8866,
) -> None:
    """Serve the interactive dashboard with Voila."""
    from cro_core.jupyter.dashboard import dashboard_command

    command, environment = dashboard_command(open_home(home), port)
    os.execvpe(command[0], command, environment)


@app.command(epilog="Example: cro status --json")
def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what runs, what was decided, what waits for you, and how the last jobs went."""
    from cro_core.ingest.website_words import in_website_words
    from cro_core.planning.plans import settings_warnings
    from cro_core.rendering.site_text import status_text
    from cro_core.storage import journal
    from cro_core.workflows import overview

    opened = open_home(home)
    now = opened.clock()
    with opened.db.read() as connection:
        runs = journal.runs(connection, limit=5)
    latest = overview.decision_list(opened, limit=5)
    state = {
        "overview": overview.overview(opened, now=now),
        "active_tests": overview.running_experiments(opened, now=now),
        "alarms": overview.standing_alarms(opened),
        "decisions": latest.decisions,
        "pending": latest.pending,
        "runs": runs,
        "warnings": list(settings_warnings(opened.loaded)),
    }
    say(in_website_words(state) if as_json else state, as_json, status_text)


@app.command(epilog="Example: CRO_AUTOMATION__ENABLED=false cro config")
def config(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Print every effective setting and where it came from."""
    from cro_core.config import leaves
    from cro_core.planning.plans import settings_warnings
    from cro_core.rendering.site_text import settings_text

    loaded = open_home(home).loaded
    settings = {
        key: {"value": value, "source": loaded.sources[key]}
        for key, value in leaves(loaded.config.model_dump(mode="json"))
    }
    say({"settings": settings, "warnings": list(settings_warnings(loaded))}, as_json, settings_text)
