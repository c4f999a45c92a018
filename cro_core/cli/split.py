"""Commands that settle a broken split: list its alarms, explain one, cut a slice out."""

from __future__ import annotations

from typing import Annotated

import typer

from cro_core.cli.options import HomeOption, JsonOption, open_home
from cro_core.cli.output import say

app = typer.Typer(
    help="Settle a broken split: an alarm stays until a person explains it or cuts its slice out.",
    no_args_is_help=True,
)

ExperimentArgument = Annotated[str, typer.Argument(help="Id of a running experiment.")]
DimensionArgument = Annotated[
    str, typer.Argument(help="total, day, hour, device, country, city, page or asset.")
]
NameArgument = Annotated[
    str, typer.Argument(help="The slice, such as 2026-03-02 or mobile; all for the total.")
]
ReasonOption = Annotated[str, typer.Option(help="Why, for the audit trail: up to 500 characters.")]


@app.command("list", epilog="Example: cro split list hero-video-1")
def list_alarms(experiment: ExperimentArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the alarms of an experiment's split, and how they were settled."""
    from cro_core.rendering.job_text import alarms_text
    from cro_core.workflows import settle_split

    opened = open_home(home)
    alarms = settle_split.alarms(opened, experiment)
    say(list(alarms), as_json, lambda _: alarms_text(alarms, opened.config.site.time_zone))


@app.command(
    epilog='Example: cro split explain hero-video-1 day 2026-03-02 --reason "a load test, all of it filtered"'
)
def explain(
    experiment: ExperimentArgument,
    dimension: DimensionArgument,
    name: NameArgument,
    reason: ReasonOption,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take an alarm for explained, so that it vetoes no longer."""
    from cro_core.workflows import settle_split

    opened = open_home(home)
    now = opened.clock()
    done = settle_split.explain(opened, experiment, dimension, name, reason=reason, now=now, actor="cli")
    say({"done": done}, as_json, lambda _: done)


@app.command(epilog='Example: cro split cut hero-video-1 device tablet --reason "the page breaks there"')
def cut(
    experiment: ExperimentArgument,
    dimension: DimensionArgument,
    name: NameArgument,
    reason: ReasonOption,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Leave a slice out of every variant alike; what remains is judged anew."""
    from cro_core.workflows import settle_split

    opened = open_home(home)
    now = opened.clock()
    done = settle_split.cut_out(opened, experiment, dimension, name, reason=reason, now=now, actor="cli")
    say({"done": done}, as_json, lambda _: done)
