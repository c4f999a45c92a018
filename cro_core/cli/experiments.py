"""Commands that look at experiments, planned, running or ended; none changes anything."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cro_core.cli.options import AsOfOption, HomeOption, JsonOption, moment, open_home
from cro_core.cli.output import EXIT_ERROR, say

app = typer.Typer()

Experiment = Annotated[str, typer.Argument(help="Id of the experiment.")]


@app.command(epilog="Example: cro plan --base-rate 0.03 --visitors-per-day 300")
def plan(
    experiment: Annotated[
        str | None, typer.Argument(help="A draft or running experiment.  [default: the next one]")
    ] = None,
    home: HomeOption = None,
    base_rate: Annotated[
        float | None,
        typer.Option(help="Conversion rate, a fraction.  [default: measured, else the settings]"),
    ] = None,
    visitors_per_day: Annotated[
        float | None, typer.Option(help="Of all variants.  [default: the settings, else measured]")
    ] = None,
    uplift: Annotated[
        float | None, typer.Option(help="Relative, 0.1 is +10 %.  [default: from the settings]")
    ] = None,
    variants: Annotated[int | None, typer.Option(help="The control included.  [default: 2]")] = None,
    days: Annotated[
        float | None, typer.Option(help="Days of new visitors.  [default: from the settings]")
    ] = None,
    fixed: Annotated[bool, typer.Option("--fixed", help="Equal shares throughout.")] = False,
    leads_rate: Annotated[
        float | None,
        typer.Option(help="Rate of form, phone or WhatsApp together.  [default: measured, else assumed]"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how many visitors and days an experiment takes, and what this traffic can tell; changes nothing."""
    from cro_core.domain import to_json
    from cro_core.rendering.outlook_text import outlook_text, verdict_text
    from cro_core.workflows import plan_experiment

    opened = open_home(home)
    overrides = plan_experiment.Overrides(
        base_rate, visitors_per_day, uplift, variants, days, fixed, leads_rate
    )
    answer = plan_experiment.plan(opened, overrides, now=opened.clock(), experiment_id=experiment)
    say(
        {**to_json(answer), "text": verdict_text(answer)},
        as_json,
        lambda _: outlook_text(answer, opened.config.site.time_zone),
    )


@app.command(epilog="Example: cro evaluate ab_data --json")
def evaluate(
    experiment: Experiment,
    home: HomeOption = None,
    as_of: AsOfOption = None,
    engine: Annotated[
        str, typer.Option(help="What counts the events: duckdb, or a Spark master as spark://host:7077.")
    ] = "duckdb",
    as_json: JsonOption = False,
) -> None:
    """Print what would be decided, with every input; changes nothing."""
    from cro_core.rendering.decision_text import decision_text
    from cro_core.storage.decisions import to_record
    from cro_core.workflows import evaluate as evaluation

    opened = open_home(home)
    decision = evaluation.evaluate(opened, experiment, as_of=moment(opened, as_of), engine=engine)
    say(to_record(decision), as_json, lambda _: decision_text(decision))


@app.command(epilog="Example: cro explain hero-cta --sql")
def explain(
    experiment: Experiment,
    home: HomeOption = None,
    as_of: AsOfOption = None,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL behind each number, for an analyst's DuckDB.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say where an experiment's numbers come from: every event from received to counted; changes nothing."""
    from cro_core.rendering.explanation_text import explanation_text
    from cro_core.workflows import explain as explaining

    opened = open_home(home)
    now = opened.clock()
    explanation = explaining.explain(opened, experiment, as_of=moment(opened, as_of), now=now)
    say(explanation, as_json, lambda _: explanation_text(explanation, sql=sql))


@app.command(epilog="Example: cro analyse ab_data --by country,hour")
def analyse(
    experiment: Experiment,
    home: HomeOption = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Dimensions, by comma: device, city, country, occasion, hour, weekday, asset, referrer, page.  [default: all]"
        ),
    ] = None,
    as_of: AsOfOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say who converts, when and where, and which differences the data prove; changes nothing."""
    from cro_core.rendering.segments_text import segments_text
    from cro_core.segments.findings import DIMENSIONS
    from cro_core.workflows import analyse_segments

    opened = open_home(home)
    dimensions = DIMENSIONS if by is None else tuple(name.strip() for name in by.split(","))
    analysis = analyse_segments.analyse(opened, experiment, as_of=moment(opened, as_of), by=dimensions)
    say(analysis, as_json, lambda _: segments_text(analysis))


@app.command(epilog="Example: cro assets --json")
def assets(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Rank the pictures and clips over all experiments that showed them; changes nothing."""
    from cro_core.rendering.segments_text import ranking_text
    from cro_core.workflows.rank_assets import asset_ranking

    opened = open_home(home)
    ranking = asset_ranking(opened, now=opened.clock())
    say(ranking, as_json, lambda _: ranking_text(ranking))


@app.command(epilog="Example: cro replay hero-cta:20260316T0800Z")
def replay(
    decision: Annotated[str, typer.Argument(help="Id of a decision, as `cro status --json` shows it.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a stored decision again from its counts and from the rows; say whether it is identical."""
    from cro_core.workflows import replay as replaying

    replayed = replaying.replay(open_home(home), decision)
    say(replayed, as_json, lambda _: replayed.text)
    if not replayed.identical:
        sys.exit(EXIT_ERROR)
