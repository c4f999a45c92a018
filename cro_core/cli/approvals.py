"""Commands by which a person has the last word: approve or reject what is proposed, undo what was done."""

from __future__ import annotations

from typing import Annotated

import typer

from cro_core.cli.options import HomeOption, JsonOption, open_home
from cro_core.cli.output import say

app = typer.Typer()

Recommendation = Annotated[str, typer.Argument(help="Id as `cro status` shows it.")]


@app.command(epilog="Example: cro approve ship:hero-video-1")
def approve(recommendation: Recommendation, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Carry out what the autopilot proposed."""
    from cro_core.workflows import approval

    opened = open_home(home)
    done = approval.approve(opened, recommendation, now=opened.clock(), actor="cli")
    say({"done": done}, as_json, lambda _: done)


@app.command(epilog="Example: cro reject ship:hero-video-1")
def reject(recommendation: Recommendation, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Decline what the autopilot proposed."""
    from cro_core.workflows import approval

    opened = open_home(home)
    done = approval.reject(opened, recommendation, now=opened.clock(), actor="cli")
    say({"done": done}, as_json, lambda _: done)


@app.command(epilog="Example: cro rollback --list; cro rollback; cro rollback 42")
def rollback(
    change: Annotated[
        int | None, typer.Argument(help="Number of the change.  [default: the newest automatic one]")
    ] = None,
    home: HomeOption = None,
    list_only: Annotated[bool, typer.Option("--list", help="Only list what can be undone.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Undo an automatic change, or how an alarm of a split was settled."""
    from cro_core.rendering.job_text import changes_text
    from cro_core.workflows import rollback as undoing

    opened = open_home(home)
    if list_only:
        with opened.db.read() as connection:
            changes = undoing.undoable(connection)
        say(changes, as_json, changes_text)
        return
    done = undoing.rollback(opened, change, now=opened.clock(), actor="cli")
    say({"done": done}, as_json, lambda _: done)
