"""Commands that run the recurring jobs: the cycle, the training, the report."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cro_core.cli.options import HomeOption, JsonOption, open_home
from cro_core.cli.output import EXIT_ERROR, say

if TYPE_CHECKING:
    from cro_core.home import Home

app = typer.Typer()

RunIdOption = Annotated[str | None, typer.Option("--run-id", hidden=True)]


@app.command(epilog="Example: cro orchestrate --dry-run")
def orchestrate(
    home: HomeOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which experiments would end now.")
    ] = False,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Without the notebook: faster, leaves no page.")
    ] = False,
    run_id: RunIdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run one cycle: evaluate, decide, ship, plan shares, start experiments."""
    from cro_core.rendering import job_text

    opened = open_home(home)
    if dry_run:
        from cro_core.workflows.orchestrate import foresee

        say(foresee(opened, now=opened.clock()), as_json, job_text.foreseen_text)
        return
    outcome = _cycle(opened) if in_process else _run(opened, "orchestrate", run_id)
    say(outcome, as_json, job_text.cycle_text)
    if outcome.get("failures"):
        sys.exit(EXIT_ERROR)


@app.command(epilog="Example: cro train --json")
def train(home: HomeOption = None, run_id: RunIdOption = None, as_json: JsonOption = False) -> None:
    """Train the prediction model on archived experiments, through its notebook."""
    from cro_core.rendering.job_text import outcome_text

    say(_run(open_home(home), "train", run_id), as_json, outcome_text)


@app.command(epilog="Example: cro report")
def report(home: HomeOption = None, run_id: RunIdOption = None, as_json: JsonOption = False) -> None:
    """Write the weekly report (HTML, text, JSON), through its notebook."""
    from cro_core.rendering.job_text import outcome_text

    say(_run(open_home(home), "weekly_report", run_id), as_json, outcome_text)


def _cycle(home: Home) -> Mapping[str, Any]:
    from cro_core.workflows.orchestrate import orchestrate

    return orchestrate(home, now=home.clock()).as_dict()


def _run(home: Home, job: str, run_id: str | None) -> Mapping[str, Any]:
    from cro_core.workflows.run_job import run_job

    return run_job(home, job, {}, now=home.clock(), run_id=run_id)
