"""What the settings promise, simulated: false positives, power and honest estimates, by the statistics that decide."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
from tqdm import tqdm

from cro_core import lab
from cro_core.config import Config
from cro_core.decision.inputs import look_plan
from cro_core.domain import Experiment, Plan, Variant
from cro_core.errors import InvalidInput
from cro_core.lab import targets as promises
from cro_core.lab.scenario import Setup
from cro_core.lab.site import PROFILES, TRAFFIC, USUAL, within
from cro_core.planning.plans import new_plan
from cro_core.statistics.sample_size import sample_size

Measure = Literal["fpr", "power", "coverage"]

MOST_VISITORS = 1_000_000_000
"""Most visitors of a simulated experiment, over all its variants."""

LEAST_RATE = 1e-6
"""Lowest base rate that is simulated: one conversion in a million visitors."""

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the caller of :func:`simulate` gave; ``None`` is taken from the settings."""

    profile: str = "week"
    """How the common rate moves; one of :data:`cro_core.lab.PROFILES`."""
    traffic: str = "day"
    """How visitors come; one of :data:`cro_core.lab.TRAFFIC`."""
    uplift: float | None = None
    """True relative uplift of the first challenger, the others have none; ``None``: the plan's MDE, or 0 for ``fpr``."""
    base_rate: float | None = None
    """Mean conversion rate of the control, a fraction."""
    variants: int = 2
    """The control included."""
    visitors: int | None = None
    """Visitors over all variants until the horizon; ``None``: as many as the planner asks for."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """One measure of one setup."""

    what: Measure
    programmes: int
    setup: Setup
    found: lab.FalsePositives | lab.Power | lab.Coverage


@dataclass(frozen=True, slots=True)
class Promises:
    """The table of promises."""

    lines: tuple[promises.Line, ...]
    document: str
    """The table as a page of Markdown that says how it came about."""

    @property
    def kept(self) -> bool:
        """Whether all are, as far as the simulation can tell."""
        return all(line.kept for line in self.lines)


def simulate(
    config: Config,
    what: Measure,
    asked: Asked,
    programmes: int,
    rng: np.random.Generator,
    *,
    quiet: bool | None = True,
) -> Simulated:
    """Simulates experiments under these settings and measures what comes out.

    Args:
        config: the effective settings.
        what: false positives, power, or coverage and bias of the estimates.
        asked: the truth behind the experiments.
        programmes: how many experiments, at least 1; the Monte-Carlo error falls with their square root.
        rng: source of randomness.
        quiet: no progress bar; ``None``: none unless at a terminal.

    Raises:
        InvalidInput: a number out of range, an unknown profile, or an uplift that does not fit the measure.
    """
    _check(what, asked)
    plan = new_plan(config, asked.base_rate, asked.variants)
    _check_visitors(plan, asked)
    scenario = scenario_of(plan, what, asked)

    def progress(sizes: Sequence[int]) -> Iterator[int]:
        with tqdm(total=sum(sizes), desc=what, unit=" programmes", disable=quiet) as bar:
            for size in sizes:
                yield size
                bar.update(size)

    measured: lab.FalsePositives | lab.Power | lab.Coverage
    if what == "fpr":
        measured = lab.fpr(scenario, programmes, rng, progress=progress)
    elif what == "power":
        fixed = _looked_at_once(plan, scenario.variants)
        measured = lab.power(scenario, programmes, rng, fixed=fixed, progress=progress)
    else:
        measured = lab.coverage(scenario, programmes, rng, progress=progress)
    return Simulated(what, programmes, _setup(plan, scenario), measured)


def targets(
    programmes: int,
    seed: int,
    only: Sequence[str] | None = None,
    *,
    now: datetime,
    jobs: int = 1,
    quiet: bool | None = True,
) -> Promises:
    """Every promise of the looks, at the settings it is worded for, simulated.

    Args:
        programmes: simulated per scenario; 10,000 is what the promises are worded for.
        seed: of the random numbers.
        only: names as ``T1``; ``None`` is all.
        now: the day the document bears.
        jobs: processes that simulate side by side; they change no figure.
        quiet: no progress bar; ``None``: none unless at a terminal.

    Raises:
        InvalidInput: a name that is none.
    """
    lines = tqdm(promises.table(programmes, seed, only, jobs), desc="targets", unit=" figures", disable=quiet)
    figures = tuple(lines)
    return Promises(figures, promises.document(figures, programmes, seed, now.date()))


def _check(what: Measure, asked: Asked) -> None:
    if asked.base_rate is not None and not LEAST_RATE <= asked.base_rate < 1:
        raise InvalidInput(
            f"base_rate is {asked.base_rate:g}: give a fraction between 0 and 1, at least {LEAST_RATE:g}, e.g. 0.03 for 3 %",
            field="base_rate",
        )
    if asked.profile not in PROFILES:
        raise InvalidInput(
            f"profile is {asked.profile!r}: choose from {', '.join(PROFILES)}", field="profile"
        )
    if asked.traffic not in TRAFFIC:
        raise InvalidInput(f"traffic is {asked.traffic!r}: choose from {', '.join(TRAFFIC)}", field="traffic")
    if asked.variants < 2:
        raise InvalidInput(f"variants is {asked.variants}: give at least 2", field="variants")
    if asked.uplift is None:
        return
    if not -1 < asked.uplift < math.inf:
        raise InvalidInput(
            f"uplift is {asked.uplift:g}: give a number above -1, e.g. 0.1 for +10 %", field="uplift"
        )
    if what == "fpr" and asked.uplift != 0:
        raise InvalidInput(
            f"uplift is {asked.uplift:g}: a false positive needs a true uplift of 0, leave it out or ask for power",
            field="uplift",
        )
    if what == "power" and not asked.uplift > 0:
        raise InvalidInput(
            f"uplift is {asked.uplift:g}: power is the chance to find a true one, give a fraction above 0, "
            "e.g. 0.1 for +10 %, or ask for fpr",
            field="uplift",
        )


def _check_visitors(plan: Plan, asked: Asked) -> None:
    least, visitors = plan.min_units * asked.variants, asked.visitors
    if visitors is not None and visitors < least:
        raise InvalidInput(
            f"visitors is {visitors}: nothing is decided below {plan.min_units} per variant, give at least {least}",
            field="visitors",
        )
    visitors = plan.units or 0 if visitors is None else visitors
    if visitors > MOST_VISITORS:
        raise InvalidInput(
            f"visitors is {visitors}: simulated are at most {MOST_VISITORS}, give no more "
            "(the planner's number falls with a higher base rate)",
            field="visitors",
        )


def scenario_of(plan: Plan, what: Measure, asked: Asked) -> lab.Scenario:
    """The experiment that the settings would make, with its truth.

    Args:
        plan: made from the settings.
        what: to be measured; a false positive has no true uplift.
        asked: what the scenario is to be instead.

    Raises:
        InvalidInput: the plan has no base rate, or says nothing of the number of units.
    """
    days = max(round((plan.horizon - plan.window) / DAY), 1)
    rate, planned = plan.base_rate, plan.units
    if rate is None or planned is None:  # new_plan always gives both
        raise InvalidInput("the plan has no base rate: give one", field="base_rate")
    visitors = planned if asked.visitors is None else asked.visitors
    window = max(round(plan.window / HOUR), 1)
    uplift = asked.uplift if asked.uplift is not None else 0.0 if what == "fpr" else plan.mde
    return lab.Scenario(
        base_rate=rate,
        uplifts=(uplift,) + (0.0,) * (asked.variants - 2),
        profile=asked.profile,
        units=visitors,
        days=days,
        adaptive=plan.adaptive,
        floor=plan.floor,
        traffic=asked.traffic,
        delays=(within(USUAL, window),),
        window=window,
        whole_weeks=plan.rule == 2 and days % 7 == 0,
        rule=plan.rule,
        plan=look_plan(_draft(plan, asked.variants), visitors / days),
    )


def _draft(plan: Plan, variants: int) -> Experiment:
    compared = tuple(Variant(f"v{k}", f"Variant {k}", is_control=k == 0) for k in range(variants))
    return Experiment("lab", "Lab", compared, plan)


def _looked_at_once(plan: Plan, variants: int) -> int:
    """Visitors of a test of the same plan with fixed shares and one look at its end."""
    level = plan.alpha / (variants - 1)
    return variants * sample_size(plan.base_rate or 0.0, plan.mde, alpha=level, power=plan.power)


def _setup(plan: Plan, scenario: lab.Scenario) -> Setup:
    rules = scenario.plan
    shape = rules.spending.shape
    return Setup(
        profile=scenario.profile,
        traffic=scenario.traffic,
        base_rate=plan.base_rate or 0.0,
        uplifts=scenario.uplifts,
        visitors=scenario.units,
        planned_visitors=plan.units or 0,
        days=scenario.days,
        whole_weeks=scenario.whole_weeks,
        looks=scenario.looks,
        adaptive=scenario.adaptive,
        floor=scenario.floor if scenario.adaptive else None,
        alpha=rules.alpha,
        power=plan.power,
        spending=rules.spending.family,
        spending_parameter=None if np.isnan(shape) else shape,
        mde=rules.mde,
        min_uplift=rules.min_uplift,
        gate=rules.gate,
        futility=rules.futility,
        min_units=rules.min_units,
    )
