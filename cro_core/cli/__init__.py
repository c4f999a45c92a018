"""The command line: a thin caller of the workflows. ``cro --help`` lists the commands, a file here holds each group.

Heavy libraries are imported by the commands that need them, so that help and short answers come at once.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from cro_core.cli import approvals, data, experiments, jobs, lab, site, split
from cro_core.cli.old_spellings import Commands
from cro_core.cli.output import fail
from cro_core.errors import CroError

app = typer.Typer(
    name="cro",
    cls=Commands,
    help="CRO Intelligence: an experimentation autopilot. Every command takes --home (or CRO_HOME) and --json.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (site, data, experiments, jobs, approvals):
    app.add_typer(group.app)
app.add_typer(split.app, name="split")
app.add_typer(lab.app, name="lab")


def main() -> NoReturn:
    """Runs the command line; named errors become one line and an exit code (75: the job is running already)."""
    try:
        app(standalone_mode=True)
    except CroError as error:
        fail(error, as_json="--json" in sys.argv)
    sys.exit(0)
