"""Commands that simulate how experiments are decided: one measure under a site's settings, or the table of promises."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cro_core.cli.options import JsonOption, open_home
from cro_core.cli.output import EXIT_ERROR, say
from cro_core.errors import InvalidInput

if TYPE_CHECKING:
    from cro_core.config import Config

app = typer.Typer(
    help="Simulate the looks that decide: whether their promises hold, beside a rule that looks every hour at 5 %.",
    no_args_is_help=True,
)

LAB_SEED = 20261124

ProgrammesOption = Annotated[
    int, typer.Option(min=1, max=10_000_000, help="Simulated experiments (per scenario).")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the random numbers.")]


class LabMeasure(StrEnum):
    """What can be measured of simulated experiments."""

    FPR = "fpr"
    POWER = "power"
    COVERAGE = "coverage"


@app.command(epilog="Example: cro lab measure power --programmes 2000 --uplift 0.15")
def measure(
    what: Annotated[LabMeasure, typer.Argument(help="False positives, power, or honesty of the estimates.")],
    home: Annotated[
        Path | None,
        typer.Option(
            "--home",
            help="The site whose settings are simulated.  [default: CRO_HOME, else here, else shipped]",
        ),
    ] = None,
    programmes: ProgrammesOption = 10_000,
    seed: SeedOption = LAB_SEED,
    profile: Annotated[str, typer.Option(help="How the rate moves: const, week, promo, decay.")] = "week",
    traffic: Annotated[
        str, typer.Option(help="How visitors come: flat, day, business, evening, campaign, bursts ...")
    ] = "day",
    uplift: Annotated[
        float | None, typer.Option(help="True relative uplift of the first challenger.  [default: the MDE]")
    ] = None,
    base_rate: Annotated[
        float | None, typer.Option(help="Mean conversion rate, a fraction.  [default: from the settings]")
    ] = None,
    variants: Annotated[int, typer.Option(max=10, help="The control included.")] = 2,
    visitors: Annotated[
        int | None, typer.Option(help="Of all variants until the horizon.  [default: the planner's]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate experiments under a site's settings and say what comes out, beside the rule that looks every hour."""
    import numpy as np

    from cro_core.domain import to_json
    from cro_core.rendering.lab_text import measure_text, setup_text
    from cro_core.workflows.simulate import Asked, simulate

    asked = Asked(profile, traffic, uplift, base_rate, variants, visitors)
    rng = np.random.default_rng(seed)
    answer = simulate(_settings(home), what.value, asked, programmes, rng, quiet=True if as_json else None)
    say(
        {**to_json(answer), "seed": seed},
        as_json,
        lambda _: f"{setup_text(answer.setup, programmes)}\n\n{measure_text(answer.found)}",
    )


@app.command(epilog="Example: cro lab targets --programmes 1000 --only T4")
def targets(
    programmes: ProgrammesOption = 10_000,
    seed: SeedOption = LAB_SEED,
    only: Annotated[
        list[str] | None, typer.Option(help="One of the targets, as T1; may be repeated.  [default: all]")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Processes that simulate side by side.")] = 1,
    output: Annotated[Path | None, typer.Option(help="File for the targets as a page of Markdown.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate every promise of the looks, at the settings it is worded for: the table of promises."""
    from cro_core.clock import system_clock
    from cro_core.domain import to_json
    from cro_core.rendering.lab_text import lines_text
    from cro_core.workflows import simulate

    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise InvalidInput(f"--output is {output}: give a file in a folder that exists", field="output")
    now, quiet = system_clock(), True if as_json else None
    table = simulate.targets(programmes, seed, only, now=now, jobs=jobs, quiet=quiet)
    if output is not None:
        output.write_text(table.document, encoding="utf-8")
    answer = {
        "programmes": programmes,
        "seed": seed,
        "kept": table.kept,
        "lines": [{**to_json(line), "kept": line.kept} for line in table.lines],
        "output": None if output is None else str(output),
    }
    head = f"{programmes:,} programmes per scenario, seed {seed}\n"
    written = "" if output is None else f"\nWritten to {output}"
    say(answer, as_json, lambda _: head + lines_text(table.lines) + written)
    if not table.kept:
        sys.exit(EXIT_ERROR)


def _settings(home: Path | None) -> Config:
    """Reads the settings of the home, if there is one; else those that ship, under the environment."""
    from cro_core.config import FILE_NAME, load
    from cro_core.home import default_path

    if home is None and not os.environ.get("CRO_HOME") and not (default_path() / FILE_NAME).is_file():
        return load(None, os.environ).config
    return open_home(home).config
