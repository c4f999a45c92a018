"""The command line: a thin caller of the workflows. ``cro --help`` lists the commands."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer

from cro_core.clock import parse_time, system_clock
from cro_core.domain import to_json
from cro_core.errors import Busy, CroError, InvalidInput, RunFailed
from cro_core.home import Home, create_home, default_path, open_home

if TYPE_CHECKING:
    from cro_core.config import Config
    from cro_core.workflows.simulate import Asked, Measure, Setup

EXIT_ERROR, EXIT_USAGE, EXIT_BUSY = 1, 2, 75
LAB_SEED = 20261124

app = typer.Typer(
    name="cro",
    help="CRO Intelligence: an experimentation autopilot. Every command takes --home (or CRO_HOME) and --json.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home", help="The site's folder of settings, data and reports.  [default: CRO_HOME, else here]"
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of text.")]
RunIdOption = Annotated[str | None, typer.Option("--run-id", hidden=True)]


def main() -> NoReturn:
    """Runs the command line; named errors become one line and an exit code (75: the job is running already)."""
    try:
        app(standalone_mode=True)
    except CroError as error:
        _fail(error, as_json="--json" in sys.argv)
    sys.exit(0)


def _fail(error: CroError, *, as_json: bool) -> NoReturn:
    if as_json:
        field = error.field if isinstance(error, InvalidInput) else None
        print(json.dumps({"error": {"code": error.code, "message": str(error), "field": field}}))
    else:
        print(f"error: {error}", file=sys.stderr)
    if isinstance(error, RunFailed):
        sys.exit(EXIT_ERROR)
    sys.exit(EXIT_BUSY if isinstance(error, Busy) else EXIT_USAGE)


def _say(value: Any, as_json: bool, text: Callable[[Any], str]) -> None:
    data = to_json(value)
    print(json.dumps(data, indent=2, ensure_ascii=False) if as_json else text(data))


@app.command(epilog="Example: cro init --home ~/my-site")
def init(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Make a home: settings that ship, an empty store, new secrets."""
    made = create_home(home)
    answer = {
        "home": str(made.path),
        "config": str(made.path / "cro-config.json"),
        "admin_key": made.admin_key,
    }
    _say(
        answer,
        as_json,
        lambda a: (
            f"Home made in {a['home']}\nSettings: {a['config']}\nAdmin key (also in data/secrets.json): {a['admin_key']}\n"
            "Next: `cro serve`, then post events; or `cro generate 3 500` for synthetic traffic."
        ),
    )


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
    _say(result, as_json, lambda _: result.text)


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
    from importlib import import_module

    # The service is an entry of its own: nothing imports it, this command only starts it.
    server = import_module("service.server")
    opened = open_home(home)
    server.serve(opened, host or opened.config.service.host, port or opened.config.service.port)


@app.command(name="import", epilog="Example: cro import visitors.csv.gz --mapping ab_data")
def import_(
    file: Annotated[
        Path, typer.Argument(help="CSV, Parquet or NDJSON, gzipped or not; or a folder of several files.")
    ],
    mapping: Annotated[
        str | None, typer.Option(help="Name of a mapping that ships, or the path of your own .toml.")
    ] = None,
    home: HomeOption = None,
    as_live: Annotated[
        bool, typer.Option("--as-live", help="Replay hour by hour under the configured horizon.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of what was imported under the same id.")
    ] = False,
    outcomes: Annotated[
        bool,
        typer.Option("--outcomes", help="A table of what became of leads: bookings, by lead or visitor."),
    ] = False,
    goal: Annotated[str | None, typer.Option(help="Outcomes: their name, e.g. booked.")] = None,
    lead_column: Annotated[str | None, typer.Option(help="Outcomes: id of the lead.")] = None,
    visitor_column: Annotated[str | None, typer.Option(help="Outcomes: id of the visitor.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Outcomes: when.")] = None,
    value_column: Annotated[str | None, typer.Option(help="Outcomes: the amount.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Outcomes: makes each count once.")] = None,
    zone: Annotated[str | None, typer.Option(help="Outcomes: IANA zone of times that name none.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a table of visitors or an event log into an experiment with events; or add outcomes of its leads."""
    opened, progress = open_home(home), False if as_json else None
    named = {
        "lead": lead_column,
        "visitor": visitor_column,
        "time": time_column,
        "value": value_column,
        "id": id_column,
    }
    columns = {name: column for name, column in named.items() if column is not None}
    if outcomes:
        from cro_core.workflows.import_outcomes import import_outcomes

        if mapping and (goal or columns or zone):
            raise InvalidInput("give either --mapping, or --goal and columns, not both", field="mapping")
        told = {"goal": goal, "columns": columns, "time": {"zone": zone} if zone else {}}
        found = import_outcomes(
            opened,
            file,
            mapping or {key: value for key, value in told.items() if value is not None},
            now=opened.clock(),
            progress=progress,
        )
        _say(found.as_dict(), as_json, lambda _: found.text)
        return
    if mapping is None or goal or columns or zone:
        raise InvalidInput(
            "an import needs --mapping: the name of one that ships, or a .toml; --goal and columns go with --outcomes",
            field="mapping",
        )
    from cro_core.workflows.import_file import import_file

    report = import_file(
        opened,
        file,
        mapping,
        now=opened.clock(),
        as_live=as_live,
        replace_former=replace,
        progress=progress,
    )
    _say(report.as_dict(), as_json, lambda _: report.text)


@app.command(epilog="Example: cro evaluate ab_data --json")
def evaluate(
    experiment: Annotated[str, typer.Argument(help="Id of the experiment.")],
    home: HomeOption = None,
    as_of: Annotated[str | None, typer.Option(help="ISO 8601 time with a zone.  [default: now]")] = None,
    engine: Annotated[
        str, typer.Option(help="What counts the events: duckdb, or a Spark master as spark://host:7077.")
    ] = "duckdb",
    as_json: JsonOption = False,
) -> None:
    """Print what would be decided, with every input; changes nothing."""
    from cro_core.rendering.decision_text import decision_text
    from cro_core.workflows.evaluate import evaluate as judge

    opened = open_home(home)
    moment = parse_time(as_of) if as_of else opened.clock()
    decision = judge(opened, experiment, as_of=moment, engine=engine)
    _say(decision, as_json, lambda _: decision_text(decision))


@app.command(epilog="Example: cro explain hero-cta --sql")
def explain(
    experiment: Annotated[str, typer.Argument(help="Id of the experiment.")],
    home: HomeOption = None,
    as_of: Annotated[str | None, typer.Option(help="ISO 8601 time with a zone.  [default: now]")] = None,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL behind each number, for an analyst's DuckDB.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say where an experiment's numbers come from: every event from received to counted; changes nothing."""
    from cro_core.workflows.explain import explain as look_into
    from cro_core.workflows.explain import explained_text

    opened = open_home(home)
    now = opened.clock()
    found = look_into(opened, experiment, as_of=parse_time(as_of) if as_of else now, now=now)
    _say(found, as_json, lambda _: explained_text(found, sql=sql))


class Export(StrEnum):
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
    table: Annotated[Export, typer.Option(help="Which table.")] = Export.UNITS,
    as_of: Annotated[str | None, typer.Option(help="ISO 8601 time with a zone.  [default: now]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a table of an experiment as a Parquet file: its visitors, days, segments or decisions."""
    from cro_core import frames

    opened = open_home(home)
    moment = parse_time(as_of) if as_of else None
    if table is Export.DECISIONS:
        _refuse({"as_of": as_of}, "decisions are exported as they were stored")
        frame = frames.decisions(opened, experiment)
    else:
        frame = {
            Export.UNITS: frames.units,
            Export.DAILY: frames.daily,
            Export.SEGMENTS: frames.segments,
        }[table](opened, experiment, moment)
    file = frames.to_parquet(frame, to)
    answer = {"file": str(file), "rows": len(frame), **frame.attrs}
    _say(answer, as_json, lambda a: f"{a['rows']:,} rows written to {a['file']}")


@app.command(epilog="Example: cro analyse ab_data --by country,hour")
def analyse(
    experiment: Annotated[str, typer.Argument(help="Id of the experiment.")],
    home: HomeOption = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Dimensions, by comma: device, city, country, occasion, hour, weekday, asset, referrer, page.  [default: all]"
        ),
    ] = None,
    as_of: Annotated[str | None, typer.Option(help="ISO 8601 time with a zone.  [default: now]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say who converts, when and where, and which differences the data prove; changes nothing."""
    from cro_core.rendering.segments_text import segments_text
    from cro_core.segments.findings import DIMENSIONS
    from cro_core.workflows.analyse_segments import analyse as look_at

    opened = open_home(home)
    moment = parse_time(as_of) if as_of else opened.clock()
    asked = DIMENSIONS if by is None else tuple(name.strip() for name in by.split(","))
    found = look_at(opened, experiment, as_of=moment, by=asked)
    _say(found, as_json, lambda _: segments_text(found))


@app.command(epilog="Example: cro assets --json")
def assets(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Rank the pictures and clips over all experiments that showed them; changes nothing."""
    from cro_core.rendering.segments_text import ranking_text
    from cro_core.workflows.rank_assets import asset_ranking

    opened = open_home(home)
    found = asset_ranking(opened, now=opened.clock())
    _say(found, as_json, lambda _: ranking_text(found))


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
    from cro_core.rendering.outlook_text import outlook_text, verdict_text
    from cro_core.workflows.plan_experiment import Asked
    from cro_core.workflows.plan_experiment import plan as look_ahead

    opened = open_home(home)
    asked = Asked(base_rate, visitors_per_day, uplift, variants, days, fixed, leads_rate)
    answer = look_ahead(opened, asked, now=opened.clock(), experiment_id=experiment)
    _say(
        {**to_json(answer), "text": verdict_text(answer)},
        as_json,
        lambda _: outlook_text(answer, opened.config.site.time_zone),
    )


@app.command(epilog="Example: cro replay hero-cta:20260316T0800Z")
def replay(
    decision: Annotated[str, typer.Argument(help="Id of a decision, as `cro status --json` shows it.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a stored decision again from its counts and from the rows; say whether it is identical."""
    from cro_core.workflows.replay import replay as take_again

    found = take_again(open_home(home), decision)
    _say(found, as_json, lambda _: found.text)
    if not found.identical:
        sys.exit(EXIT_ERROR)


class LabWork(StrEnum):
    """What the lab does: measures of one setup, or the table of promises."""

    FPR = "fpr"
    POWER = "power"
    COVERAGE = "coverage"
    TARGETS = "targets"


@app.command(epilog="Example: cro lab power --programmes 2000 --uplift 0.15")
def lab(
    what: Annotated[
        LabWork,
        typer.Argument(help="False positives, power, honesty of the estimates; or the table of promises."),
    ],
    home: Annotated[
        Path | None,
        typer.Option(
            "--home",
            help="The site whose settings are simulated.  [default: CRO_HOME, else here, else shipped]",
        ),
    ] = None,
    programmes: Annotated[int, typer.Option(min=1, help="Simulated experiments (per scenario).")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random numbers.")] = LAB_SEED,
    profile: Annotated[
        str | None, typer.Option(help="How the rate moves: const, week, promo, decay.  [default: week]")
    ] = None,
    uplift: Annotated[
        float | None, typer.Option(help="True relative uplift of the first challenger.  [default: the MDE]")
    ] = None,
    base_rate: Annotated[
        float | None, typer.Option(help="Mean conversion rate, a fraction.  [default: from the settings]")
    ] = None,
    variants: Annotated[int | None, typer.Option(max=10, help="The control included.  [default: 2]")] = None,
    visitors: Annotated[
        int | None, typer.Option(help="Of all variants until the horizon.  [default: the planner's]")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="One of the targets, as T1; may be repeated.  [default: all]")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File for the targets as a page of Markdown.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate the engine that decides: whether its promises hold, beside a rule that looks every hour at 5 %."""
    from cro_core.workflows.simulate import Asked

    if what is LabWork.TARGETS:
        truth = {"profile": profile, "uplift": uplift, "base_rate": base_rate}
        size = {"variants": variants, "visitors": visitors}
        _refuse({"home": home, **truth, **size}, "the targets are worded for scenarios of their own")
        _lab_targets(programmes, seed, only, output, as_json)
        return
    _refuse({"only": only, "output": output}, "it belongs to targets")
    asked = Asked(
        profile="week" if profile is None else profile,
        uplift=uplift,
        base_rate=base_rate,
        variants=2 if variants is None else variants,
        visitors=visitors,
    )
    _lab_measure(cast("Measure", what.value), _settings(home), asked, programmes, seed, as_json)


def _refuse(options: Mapping[str, Any], why: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise InvalidInput(f"--{name.replace('_', '-')} is {value}: {why}, leave it out", field=name)


def _settings(home: Path | None) -> Config:
    """Of the home, if there is one; else those that ship, under the environment."""
    from cro_core.config import FILE_NAME, load

    if home is None and not os.environ.get("CRO_HOME") and not (default_path() / FILE_NAME).is_file():
        return load(None, os.environ).config
    return open_home(home).config


def _lab_measure(
    what: Measure, config: Config, asked: Asked, programmes: int, seed: int, as_json: bool
) -> None:
    import numpy as np

    from cro_core.rendering.lab_text import measure_text
    from cro_core.workflows.simulate import simulate

    rng = np.random.default_rng(seed)
    answer = simulate(config, what, asked, programmes, rng, quiet=True if as_json else None)
    _say(
        {**to_json(answer), "seed": seed},
        as_json,
        lambda _: f"{_setup_text(answer.setup, programmes)}\n\n{measure_text(answer.found)}",
    )


def _setup_text(setup: Setup, programmes: int) -> str:
    shares = "equal shares" if setup.floor is None else f"shares that move daily, floor {setup.floor:.0%}"
    shape = "" if setup.spending_parameter is None else f"({setup.spending_parameter:g})"
    effects = ", ".join(f"{u:+.1%}" for u in setup.uplifts)
    return (
        f"{programmes:,} experiments, {setup.looks} hourly looks in {setup.days} days of new visitors\n"
        f"  truth   rate {setup.base_rate:.3g} ({setup.profile}), uplift {effects}\n"
        f"  traffic {setup.visitors:,} visitors, {setup.planned_visitors:,} planned for {setup.mde:+.0%}; {shares}\n"
        f"  rules   alpha {setup.alpha:g}, {setup.spending}{shape}, gate {setup.gate} {setup.min_uplift:.0%}, "
        f"futility {'on' if setup.futility else 'off'}, at least {setup.min_units} per variant"
    )


def _lab_targets(
    programmes: int, seed: int, only: Sequence[str] | None, output: Path | None, as_json: bool
) -> None:
    from cro_core.rendering.lab_text import lines_text
    from cro_core.workflows.simulate import targets

    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise InvalidInput(f"--output is {output}: give a file in a folder that exists", field="output")
    found = targets(programmes, seed, only, now=system_clock(), quiet=True if as_json else None)
    if output is not None:
        output.write_text(found.document, encoding="utf-8")
    answer = {
        "programmes": programmes,
        "seed": seed,
        "kept": found.kept,
        "lines": [{**to_json(line), "kept": line.kept} for line in found.lines],
        "output": None if output is None else str(output),
    }
    written = "" if output is None else f"\nWritten to {output}"
    head = f"{programmes:,} programmes per scenario, seed {seed}\n"
    _say(answer, as_json, lambda _: head + lines_text(found.lines) + written)
    if not found.kept:
        sys.exit(EXIT_ERROR)


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
    opened = open_home(home)
    if dry_run or in_process:
        from cro_core.workflows import orchestrate as cycle

        if dry_run:
            foreseen = cycle.foresee(opened, now=opened.clock())
            _say(
                foreseen,
                as_json,
                lambda ds: "\n".join(d["text"] for d in ds) or "No experiment would end now.",
            )
            return
        outcome: Mapping[str, Any] = cycle.orchestrate(opened, now=opened.clock()).as_dict()
    else:
        outcome = _run(opened, "orchestrate", run_id)
    _say(outcome, as_json, _cycle_text)
    if outcome.get("failures"):
        sys.exit(EXIT_ERROR)


@app.command(epilog="Example: cro train --json")
def train(home: HomeOption = None, run_id: RunIdOption = None, as_json: JsonOption = False) -> None:
    """Train the prediction model on archived experiments, through its notebook."""
    _say(_run(open_home(home), "train", run_id), as_json, _outcome_text)


@app.command(epilog="Example: cro report")
def report(home: HomeOption = None, run_id: RunIdOption = None, as_json: JsonOption = False) -> None:
    """Write the weekly report (HTML, text, JSON), through its notebook."""
    _say(_run(open_home(home), "weekly_report", run_id), as_json, _outcome_text)


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
    from cro_core.storage import journal
    from cro_core.workflows import overview

    opened = open_home(home)
    now = opened.clock()
    with opened.db.read() as connection:
        runs = journal.runs(connection, limit=5)
    state = {
        "overview": overview.overview(opened, now=now),
        "active_tests": overview.active_tests(opened, now=now),
        **overview.decision_list(opened, limit=5),
        "runs": runs,
        "warnings": list(opened.loaded.warnings),
    }
    _say(state, as_json, _status_text)


@app.command(epilog="Example: CRO_AUTOMATION__ENABLED=false cro config")
def config(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Print every effective setting and where it came from."""
    from cro_core.config import leaves

    loaded = open_home(home).loaded
    settings = {
        key: {"value": value, "source": loaded.sources[key]}
        for key, value in leaves(loaded.config.model_dump(mode="json"))
    }
    answer = {"settings": settings, "warnings": list(loaded.warnings)}

    def text(data: Any) -> str:
        lines = [f"{key} = {json.dumps(s['value'])}  ({s['source']})" for key, s in data["settings"].items()]
        return "\n".join(lines + [f"warning: {w}" for w in data["warnings"]])

    _say(answer, as_json, text)


@app.command(epilog="Example: cro generate 3 500")
def generate(
    experiments: Annotated[int, typer.Argument(min=1, max=100, help="How many experiments.")] = 3,
    visitors: Annotated[int, typer.Argument(min=1, max=1_000_000, help="Visitors of each.")] = 500,
    home: HomeOption = None,
    uplift: Annotated[float, typer.Option(help="True relative uplift planted in each variant b.")] = 0.3,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic visitors.")] = 7,
    as_json: JsonOption = False,
) -> None:
    """Make synthetic experiments with a planted uplift."""
    import numpy as np

    from cro_core.workflows.generate import generate as make

    opened = open_home(home)
    made = make(
        opened, experiments, visitors, now=opened.clock(), rng=np.random.default_rng(seed), uplift=uplift
    )
    _say(
        made.as_dict(),
        as_json,
        lambda m: (
            f"Made {', '.join(m['experiments'])}: {m['visitors']} visitors each, {m['events']} events, "
            f"true uplift of b {m['uplift']:+.0%}. Try `cro evaluate {m['experiments'][0]}`."
        ),
    )


@app.command(epilog="Example: cro approve ship:hero-video-1")
def approve(
    recommendation: Annotated[str, typer.Argument(help="Id as `cro status` shows it.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Carry out what the autopilot proposed."""
    from cro_core.workflows import approval

    opened = open_home(home)
    _say(
        {"done": approval.approve(opened, recommendation, now=opened.clock(), actor="cli")},
        as_json,
        lambda d: str(d["done"]),
    )


@app.command(epilog="Example: cro reject ship:hero-video-1")
def reject(
    recommendation: Annotated[str, typer.Argument(help="Id as `cro status` shows it.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decline what the autopilot proposed."""
    from cro_core.workflows import approval

    opened = open_home(home)
    _say(
        {"done": approval.reject(opened, recommendation, now=opened.clock(), actor="cli")},
        as_json,
        lambda d: str(d["done"]),
    )


@app.command(epilog="Example: cro rollback --list; cro rollback; cro rollback 42")
def rollback(
    change: Annotated[
        int | None, typer.Argument(help="Number of the change.  [default: the newest automatic one]")
    ] = None,
    home: HomeOption = None,
    list_only: Annotated[bool, typer.Option("--list", help="Only list what can be undone.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Undo an automatic change."""
    from cro_core.workflows import rollback as undoing

    opened = open_home(home)
    if list_only:
        with opened.db.read() as connection:
            changes = undoing.undoable(connection)
        _say(
            changes,
            as_json,
            lambda cs: (
                "\n".join(f"{c['id']:>5}  {c['at']}  {c['action']}  {c['subject']}" for c in cs)
                or "Nothing to undo."
            ),
        )
        return
    done = undoing.rollback(opened, change, now=opened.clock(), actor="cli")
    _say({"done": done}, as_json, lambda d: str(d["done"]))


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
    _say(done, as_json, lambda _: done.text)


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
    _say(done, as_json, lambda _: done.text)


def _run(home: Home, job: str, run_id: str | None) -> Mapping[str, Any]:
    from cro_core.workflows.run_job import run_job

    return run_job(home, job, {}, now=home.clock(), run_id=run_id)


def _cycle_text(outcome: Mapping[str, Any]) -> str:
    looked = f"Cycle of {outcome['at']}: {outcome['evaluated']} running experiment(s) looked at."
    lines = [outcome.get("skipped") or looked]
    lines += [f"  {change}" for change in outcome["changes"]] or ["  Nothing had to be changed."]
    lines += [f"  FAILED {f['experiment']}: {f['error']}" for f in outcome["failures"]]
    return "\n".join(lines)


def _outcome_text(outcome: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{key}: {value}" for key, value in outcome.items() if not isinstance(value, (dict, list))
    )


def _status_text(state: Mapping[str, Any]) -> str:
    view = state["overview"]
    counts = ", ".join(f"{n} {name}" for name, n in view["experiments"].items() if n) or "no experiments yet"
    lines = [f"{view['site']} at {view['as_of']}: {counts}"]
    for test in state["active_tests"]:
        arms = "; ".join(f"{v['variant_id']} {v['conversions']}/{v['units']}" for v in test["variants"])
        lines.append(
            f"  running {test['test_id']}: {test['counted_units']} of {test['planned_units']} planned visitors ({arms})"
        )
    lines += [f"  decided {d['as_of']} {d['test_id']}: {d['verdict']}" for d in state["decisions"]]
    lines += [f"  waiting {p['id']}: {p['text']}" for p in state["pending"]]
    lines += [f"  run     {r['job']} {r['started_at']}: {r['status']}" for r in state["runs"]]
    return "\n".join(lines + [f"  warning {w}" for w in state["warnings"]])
