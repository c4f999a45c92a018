"""Commands that bring data in, hand them out, store them away and remove them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cro_core.cli.options import AsOfOption, HomeOption, JsonOption, open_home
from cro_core.cli.output import say
from cro_core.errors import InvalidInput

app = typer.Typer()

MappingOption = Annotated[
    str | None, typer.Option(help="Name of a mapping that ships, or the path of your own .toml.")
]


@app.command(name="import", epilog="Example: cro import visitors.csv.gz --mapping ab_data")
def import_(
    file: Annotated[
        Path, typer.Argument(help="CSV, Parquet or NDJSON, gzipped or not; or a folder of several files.")
    ],
    mapping: MappingOption = None,
    home: HomeOption = None,
    as_live: Annotated[
        bool, typer.Option("--as-live", help="Replay hour by hour under the configured horizon.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of what was imported under the same id.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a table of visitors or an event log into an experiment with events."""
    from cro_core.workflows.import_file import import_file

    opened = open_home(home)
    if mapping is None:
        raise InvalidInput(
            "an import needs --mapping: the name of one that ships, or a .toml; "
            "what became of leads goes through `cro outcomes`",
            field="mapping",
        )
    report = import_file(
        opened,
        file,
        mapping,
        now=opened.clock(),
        as_live=as_live,
        replace_former=replace,
        progress=False if as_json else None,
    )
    say(report.as_dict(), as_json, lambda _: report.text)


@app.command(epilog="Example: cro outcomes bookings.csv --mapping bookings.toml")
def outcomes(
    file: Annotated[
        Path, typer.Argument(help="CSV, Parquet or NDJSON, gzipped or not; or a folder of several files.")
    ],
    mapping: MappingOption = None,
    home: HomeOption = None,
    goal: Annotated[str | None, typer.Option(help="Name of the outcomes, e.g. booked.")] = None,
    lead_column: Annotated[str | None, typer.Option(help="Column with the id of the lead.")] = None,
    visitor_column: Annotated[str | None, typer.Option(help="Column with the id of the visitor.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column with the time.")] = None,
    value_column: Annotated[str | None, typer.Option(help="Column with the amount.")] = None,
    id_column: Annotated[
        str | None, typer.Option(help="Column with an id that makes each count once.")
    ] = None,
    zone: Annotated[str | None, typer.Option(help="IANA zone of times that name none.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Add what became of leads, such as bookings: a table of them, by lead or by visitor."""
    from cro_core.workflows.import_outcomes import import_outcomes

    opened = open_home(home)
    columns = {
        "lead": lead_column,
        "visitor": visitor_column,
        "time": time_column,
        "value": value_column,
        "id": id_column,
    }
    given = {name: column for name, column in columns.items() if column is not None}
    if mapping and (goal or given or zone):
        raise InvalidInput("give either --mapping, or --goal and columns, not both", field="mapping")
    simple = {"goal": goal, "columns": given, "time": {"zone": zone} if zone else {}}
    report = import_outcomes(
        opened,
        file,
        mapping or {key: value for key, value in simple.items() if value is not None},
        now=opened.clock(),
        progress=False if as_json else None,
    )
    say(report.as_dict(), as_json, lambda _: report.text)


@app.command(epilog="Example: cro generate 3 500")
def generate(
    experiments: Annotated[int, typer.Argument(min=1, max=100, help="How many experiments.")] = 3,
    visitors: Annotated[int, typer.Argument(min=1, max=1_000_000, help="Visitors of each.")] = 500,
    home: HomeOption = None,
    uplift: Annotated[float, typer.Option(help="True relative uplift planted in each variant b.")] = 0.3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the synthetic visitors.")] = 7,
    as_json: JsonOption = False,
) -> None:
    """Make synthetic experiments with a planted uplift."""
    import numpy as np

    from cro_core.rendering.site_text import generated_text
    from cro_core.workflows.generate import generate as make

    opened = open_home(home)
    rng = np.random.default_rng(seed)
    made = make(opened, experiments, visitors, now=opened.clock(), rng=rng, uplift=uplift)
    say(made.as_dict(), as_json, generated_text)


class Table(StrEnum):
    """The tables that can be exported."""

    UNITS = "units"
    DAILY = "daily"
    SEGMENTS = "segments"
    DECISIONS = "decisions"


@app.command(epilog="Example: cro export hero-cta --to visitors.parquet")
def export(
    experiment: Annotated[str, typer.Argument(help="Id of the experiment.")],
    to: Annotated[Path, typer.Option("--to", help="The Parquet file to write.")],
    home: HomeOption = None,
    table: Annotated[Table, typer.Option(help="Which table.")] = Table.UNITS,
    as_of: AsOfOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a table of an experiment as a Parquet file: its visitors, days, segments or decisions."""
    from cro_core import frames
    from cro_core.clock import parse_time

    opened = open_home(home)
    at = parse_time(as_of) if as_of else None
    if table is Table.DECISIONS:
        if as_of is not None:
            raise InvalidInput(
                f"--as-of is {as_of}: decisions are exported as they were stored, leave it out", field="as_of"
            )
        frame = frames.decisions(opened, experiment)
    else:
        made = {Table.UNITS: frames.units, Table.DAILY: frames.daily, Table.SEGMENTS: frames.segments}
        frame = made[table](opened, experiment, at)
    file = frames.to_parquet(frame, to)
    answer = {"file": str(file), "rows": len(frame), **frame.attrs}
    say(answer, as_json, lambda a: f"{a['rows']:,} rows written to {a['file']}")


@app.command(epilog="Example: cro seal --force")
def seal(
    home: HomeOption = None,
    force: Annotated[bool, typer.Option("--force", help="At once, and however few events wait.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Move closed days from the database into the lake, and erase what is too old; the hourly cycle does it too."""
    from cro_core.workflows import seal as sealing

    opened = open_home(home)
    done = sealing.seal(opened, now=opened.clock(), force=force, actor="cli")
    say(done, as_json, lambda _: done.text)


@app.command(epilog="Example: cro forget visitor-4711")
def forget(
    visitors: Annotated[
        list[str], typer.Argument(help="Ids as the website posts them in user_id.", metavar="VISITOR...")
    ],
    home: HomeOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove everything that is stored of visitors, for good: events, exposures, quarantine, sealed days."""
    from cro_core.workflows import forget as forgetting

    opened = open_home(home)
    if not yes:
        question = f"Remove everything of {len(visitors)} visitor(s) from {opened.path}? It cannot be undone."
        typer.confirm(question, abort=True, err=True)
    done = forgetting.forget(opened, visitors, now=opened.clock(), actor="cli")
    say(done, as_json, lambda _: done.text)
