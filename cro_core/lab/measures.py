"""The figures that the lab measures: false positives, power, sample, coverage and bias."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from cro_core.errors import InvalidInput
from cro_core.lab.scenario import WEEK, Flaw, Scenario
from cro_core.lab.simulated_looks import SimulatedOutcomes, acting_bounds, decide
from cro_core.lab.simulated_traffic import simulate
from cro_core.statistics import stagewise
from cro_core.statistics.arrays import Floats
from cro_core.statistics.checks import check_between
from cro_core.statistics.combination import effect_at
from cro_core.statistics.rules import HOURLY, Aggregates
from cro_core.statistics.sample_size import sample_size

BATCH = 2_500
"""Most programmes simulated at once: some 70 MB for two variants over two weeks."""

BOUNDED = 200
"""Programmes over which the bounds that could act are averaged, for estimates."""

LONG = 4 * HOURLY
"""Looks from which on fewer are simulated at once, so that memory does not grow with the horizon."""

Progress = Callable[[Sequence[int]], Iterable[int]]
"""Goes through the sizes of the batches one by one; what shows progress may stand in for ``iter``."""


@dataclass(frozen=True, slots=True)
class Share:
    """A simulated probability or mean."""

    value: float
    """The estimated probability or mean."""
    error: float
    """Monte-Carlo standard error of the estimate."""

    def __str__(self) -> str:
        """Writes the share in percent, for tables."""
        return f"{self.value:.2%} +- {self.error:.2%}"


@dataclass(frozen=True, slots=True)
class FalsePositives:
    """How often a true null is rejected."""

    any: Share
    """Programmes with any decision: a challenger wins or the control beats them all."""
    challenger: Share
    """Programmes in which a challenger wins."""
    control: Share
    """Programmes in which the control beats every challenger."""
    naive: Share
    """Programmes with any winner by the naive rule on the same data."""
    sample: Share
    """Mean share of the visitors that are enrolled when the decision falls."""


@dataclass(frozen=True, slots=True)
class Power:
    """How often a real effect is found, and with how many visitors."""

    power: Share
    """Programmes in which the best challenger wins."""
    wrong: Share
    """Programmes in which another variant wins, or the control beats all."""
    futile: Share
    """Programmes that are stopped for no practical gain."""
    sample: Share
    """Mean visitors enrolled when the decision falls, over those of a fixed-horizon test of the same power."""
    cautions: Share
    """Winners whose effect is found to fade or to turn with the days, of all that cross."""
    faded: Share
    """Programmes whose winner did not prove itself in the week it was given."""
    early: Share
    """Programmes in which a challenger wins before a whole week."""
    lost: Share
    """Power less than that of one look at the end of the same programmes, with fixed shares."""
    gained: Share
    """Conversions that the experiment itself brings by its horizon, over those of the control alone."""
    naive: Share
    """Programmes in which the best challenger wins by the naive rule."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How honest the estimates of the first challenger's uplift are."""

    stagewise: Share
    """Share of stagewise intervals that hold the truth at stopping."""
    repeated: Share
    """Share of repeated intervals that hold the truth at stopping."""
    median: float
    """Median of the median-unbiased uplifts over the true uplift (NaN where that is 0)."""
    below: Share
    """Share of median-unbiased uplifts below the truth: one half when unbiased."""
    exaggeration: float
    """Mean median-unbiased uplift of proven winners over the true one."""
    naive_exaggeration: float
    """Mean raw uplift of proven winners over the true one."""
    bias: Share
    """Mean day-standardised uplift at the horizon less the true one, in uplift points."""
    pooled_bias: Share
    """Mean pooled uplift at the horizon less the true one, in uplift points."""


def fpr(
    scenario: Scenario, programmes: int, rng: np.random.Generator, *, progress: Progress = iter
) -> FalsePositives:
    """Measures false positives of a scenario without effects.

    Raises:
        InvalidInput: a scenario with an effect.
    """
    if any(scenario.uplifts):
        raise InvalidInput(
            f"uplifts are {scenario.uplifts}: give zeros to count false positives", field="uplifts"
        )
    runs = _batches(scenario, programmes, rng, progress)
    won = np.concatenate([run.winner >= 0 for run in runs])
    control = np.concatenate([run.control_won for run in runs])
    return FalsePositives(
        any=share(won | control),
        challenger=share(won),
        control=share(control),
        naive=share(np.concatenate([run.naive_winner >= 0 for run in runs])),
        sample=share(np.concatenate([run.units for run in runs]) / scenario.units),
    )


def power(
    scenario: Scenario,
    programmes: int,
    rng: np.random.Generator,
    *,
    fixed: int | None = None,
    progress: Progress = iter,
) -> Power:
    """Measures power and sample of a scenario with an effect.

    Args:
        scenario: with at least one uplift above 0.
        programmes: how many.
        rng: source of randomness.
        fixed: visitors that a test looked at once would take; ``None``: those that give it 80 % power for
            the plan's MDE.
        progress: shows how far it is.
    """
    best = int(np.argmax(scenario.uplifts))
    alpha = scenario.plan.alpha / len(scenario.uplifts)
    fixed_size = fixed or scenario.variants * sample_size(scenario.base_rate, scenario.plan.mde, alpha=alpha)
    runs = _batches(scenario, programmes, rng, progress)
    winner = np.concatenate([run.winner for run in runs])
    control = np.concatenate([run.control_won for run in runs])
    return Power(
        power=share(winner == best),
        wrong=share(((winner >= 0) & (winner != best)) | control),
        futile=share(np.concatenate([run.futile for run in runs])),
        sample=share(np.concatenate([run.units for run in runs]) / fixed_size),
        cautions=share(np.concatenate([run.caution[(run.winner >= 0) | run.faded] for run in runs])),
        faded=share(np.concatenate([run.faded for run in runs])),
        early=share(np.concatenate([(run.winner >= 0) & (run.clock.hours[run.look] < WEEK) for run in runs])),
        lost=share(np.concatenate([_at_the_end(run, best, alpha) for run in runs]) - (winner == best)),
        gained=share(np.concatenate([run.gained for run in runs])),
        naive=share(np.concatenate([run.naive_winner == best + 1 for run in runs])),
    )


def coverage(
    scenario: Scenario, programmes: int, rng: np.random.Generator, *, progress: Progress = iter
) -> Coverage:
    """Measures intervals and estimates of the first challenger at stopping, and of the day-14 uplift."""
    truth = scenario.uplifts[0]
    runs = _batches(scenario, programmes, rng, progress)
    upper = None
    if scenario.rule == 2 and scenario.flaw is not Flaw.WRONG_BOUNDS:
        some = simulate(scenario, min(programmes, BOUNDED), rng)
        upper = acting_bounds(scenario, some, (runs[0].clock, runs[0].mature_clock))
    rows = [_estimates(scenario, run, upper) for run in runs]
    column = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    won = column["won"]

    def over_truth(values: Floats) -> float:
        return float(values.mean() / truth) if truth and len(values) else math.nan

    return Coverage(
        stagewise=share((column["low"] <= truth) & (truth <= column["high"])),
        repeated=share((column["repeated_low"] <= truth) & (truth <= column["repeated_high"])),
        median=float(np.median(column["median"]) / truth) if truth else math.nan,
        below=share(column["median"] < truth),
        exaggeration=over_truth(column["median"][won]),
        naive_exaggeration=over_truth(column["raw"][won]),
        bias=share(column["standardised"] - truth),
        pooled_bias=share(column["pooled"] - truth),
    )


def share(values: ArrayLike) -> Share:
    """Averages values over programmes; returns the mean with its standard error."""
    numbers = np.asarray(values, float)
    if not len(numbers):
        return Share(0.0, 0.0)
    return Share(float(numbers.mean()), float(numbers.std() / math.sqrt(max(len(numbers), 1))))


def run(scenario: Scenario, programmes: int, rng: np.random.Generator) -> SimulatedOutcomes:
    """Simulates programmes from the first visitor to the last look, all at once.

    Memory grows with ``programmes``; the measures work in batches of ``BATCH``.
    """
    return decide(scenario, simulate(scenario, programmes, rng), rng)


def _at_the_end(outcomes: SimulatedOutcomes, challenger: int, alpha: float) -> Floats:
    """Finds where one look at the end, all days as one table, finds a challenger better."""
    pooled = Aggregates(
        *(v.sum(1, keepdims=True) for v in (outcomes.complete.units, outcomes.complete.total))
    )
    z = pooled.pair(challenger + 1).score().z[..., 0]
    return np.asarray(z >= -ndtri(alpha / 2), float)


def _estimates(
    scenario: Scenario, outcomes: SimulatedOutcomes, upper: tuple[Floats, Floats] | None
) -> dict[str, Floats]:
    """Estimates the first challenger's uplift with its intervals, by programme.

    Args:
        scenario: of the programmes.
        outcomes: of the programmes.
        upper: of :func:`cro_core.lab.simulated_looks.acting_bounds`; ``None``: the boundary acted on both sides.
    """
    pair, z = outcomes.stopped.pair(1), outcomes.z[:, 0]
    drifts, critical = np.zeros((3, len(z))), np.zeros(len(z))
    # mature units could act from the look on from which they decide, here from the last of every four days
    since = np.where(outcomes.matured, outcomes.watched // 96 * 96, -1)
    for first in np.unique(since):
        rows, clock = np.flatnonzero(since == first), outcomes.clock_of(first >= 0)
        taken = clock.taken[clock.taken <= outcomes.look[rows].max()]
        look = np.searchsorted(taken, outcomes.look[rows])
        information, line = clock.information[taken], clock.critical[taken, 0]
        acted = None
        if upper is not None:
            could = taken >= first
            above = np.where(could, upper[int(first >= 0)][taken], np.inf)
            acted = (_open(np.where(could, -line, np.inf)), _open(above))
        value = z[rows] * np.sqrt(information[look])
        level = 1 - scenario.plan.alpha
        found = stagewise.estimate(information, line, look, value, level=level, acted=acted)
        left = np.stack([found.median, found.low, found.high])
        drifts[:, rows] = stagewise.z_left(z[rows], information[look], left)
        critical[rows] = line[look]
    bounds = np.concatenate([drifts, [critical, -critical]])
    median, low, high, repeated_low, repeated_high = effect_at(pair, outcomes.weights, bounds)
    complete = outcomes.complete
    pooled = Aggregates(*(counts.sum(1, keepdims=True) for counts in (complete.units, complete.total)))
    return {
        "median": median,
        "low": low,
        "high": high,
        "repeated_low": repeated_low,
        "repeated_high": repeated_high,
        "raw": pair.estimate("relative"),
        "standardised": complete.pair(1).estimate("relative"),
        "pooled": pooled.pair(1).estimate("relative"),
        "won": outcomes.winner == 0,
    }


def _open(bounds: Floats) -> list[float | None]:
    """Writes bounds of infinity, which no look can reach, as ``None``."""
    return [float(bound) if np.isfinite(bound) else None for bound in bounds]


def _sizes(scenario: Scenario, programmes: int) -> list[int]:
    check_between(programmes, "programmes", 0, math.inf)
    most = max(BATCH * LONG // max(scenario.hours, LONG), 1)
    return [min(most, programmes - start) for start in range(0, programmes, most)]


def _batches(
    scenario: Scenario, programmes: int, rng: np.random.Generator, progress: Progress
) -> list[SimulatedOutcomes]:
    runs: list[SimulatedOutcomes] = []
    for size in progress(_sizes(scenario, programmes)):
        clocks = (runs[0].clock, runs[0].mature_clock) if runs else None
        runs.append(decide(scenario, simulate(scenario, size, rng), rng, clocks))
    return runs
