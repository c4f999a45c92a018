"""What the lab counts: false positives, power, coverage, false alarms and false discoveries."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cro_core.errors import InvalidInput
from cro_core.lab.scenario import Bools, Floats, Scenario
from cro_core.lab.simulated_looks import Outcomes, decide
from cro_core.lab.simulated_traffic import simulate
from cro_core.statistics import srm, stagewise
from cro_core.statistics.combination import effect_at
from cro_core.statistics.rules import HOURLY, Aggregates
from cro_core.statistics.sample_size import sample_size
from cro_core.statistics.sequential import check_between

BATCH = 2_500
"""Programmes simulated at once: some 70 MB for two variants over two weeks."""

LONG = 4 * HOURLY
"""Looks from which on fewer are simulated at once, so that memory does not grow with the horizon."""

Progress = Callable[[Sequence[int]], Iterable[int]]
"""Goes through the sizes of the batches one by one; what shows progress may stand in for ``iter``."""


@dataclass(frozen=True, slots=True)
class Share:
    """A simulated probability or mean."""

    value: float
    """The estimate."""
    error: float
    """Its Monte-Carlo standard error."""

    def __str__(self) -> str:
        """In percent, for tables."""
        return f"{self.value:.2%} +- {self.error:.2%}"


@dataclass(frozen=True, slots=True)
class FalsePositives:
    """How often a true null is rejected."""

    any: Share
    """Any decision: a challenger wins or the control beats them all."""
    challenger: Share
    """A challenger wins."""
    naive: Share
    """Any winner by the naive rule on the same data."""
    sample: Share
    """Mean visitors used over all there were."""


@dataclass(frozen=True, slots=True)
class Power:
    """How often a real effect is found, and with how many visitors."""

    power: Share
    """The best challenger wins."""
    wrong: Share
    """Another variant wins, or the control beats all."""
    futile: Share
    """Stopped for no practical gain."""
    sample: Share
    """Mean visitors used over those of a fixed-horizon test of the same power."""
    naive: Share
    """The best challenger wins by the naive rule."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How honest the estimates are; of the first challenger."""

    stagewise: Share
    """Stagewise intervals that hold the truth at stopping."""
    repeated: Share
    """Repeated intervals that hold the truth at stopping."""
    median: float
    """Median of the median-unbiased uplifts over the true uplift (NaN where that is 0)."""
    below: Share
    """Median-unbiased uplifts below the truth: one half when unbiased."""
    exaggeration: float
    """Mean median-unbiased uplift of proven winners over the true one."""
    naive_exaggeration: float
    """The same of their raw uplift."""
    bias: Share
    """Mean day-standardised uplift at the horizon less the true one, in uplift points."""
    pooled_bias: Share
    """The same of the pooled uplift."""


def fpr(
    scenario: Scenario, programmes: int, rng: np.random.Generator, *, progress: Progress = iter
) -> FalsePositives:
    """False positives of a scenario without effects.

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
    """Power and sample of a scenario with an effect.

    Args:
        scenario: with at least one uplift above 0.
        programmes: how many.
        rng: source of randomness.
        fixed: visitors that a test looked at once would take; ``None``: those that give it 80 % power for
            the plan's MDE.
        progress: shows how far it is.
    """
    best = int(np.argmax(scenario.uplifts))
    level = scenario.plan.alpha / len(scenario.uplifts)
    whole = fixed or scenario.variants * sample_size(scenario.base_rate, scenario.plan.mde, alpha=level)
    runs = _batches(scenario, programmes, rng, progress)
    winner = np.concatenate([run.winner for run in runs])
    control = np.concatenate([run.control_won for run in runs])
    return Power(
        power=share(winner == best),
        wrong=share(((winner >= 0) & (winner != best)) | control),
        futile=share(np.concatenate([run.futile for run in runs])),
        sample=share(np.concatenate([run.units for run in runs]) / whole),
        naive=share(np.concatenate([run.naive_winner == best + 1 for run in runs])),
    )


def coverage(
    scenario: Scenario, programmes: int, rng: np.random.Generator, *, progress: Progress = iter
) -> Coverage:
    """Intervals and estimates of the first challenger at stopping, and of the day-14 uplift."""
    truth = scenario.uplifts[0]
    rows = [_estimates(scenario, run) for run in _batches(scenario, programmes, rng, progress)]
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


def srm_alarms(scenario: Scenario, programmes: int, rng: np.random.Generator) -> Share:
    """Programmes in which the split is called broken at any hourly look, though nothing is wrong with it."""

    def alarmed(size: int) -> Bools:
        traffic = simulate(scenario, size, rng)
        days = traffic.n.reshape(size, scenario.days, 24, scenario.variants).cumsum(2)
        seen, found = np.zeros_like(days[:, :, 0]), np.zeros(size, bool)
        for hour in range(scenario.hours):
            day, within = divmod(hour, 24)
            seen[:, day] = days[:, day, within]
            found |= srm.alarms(seen[:, : day + 1], traffic.shares[:, : day + 1])
        return found

    return share(np.concatenate([alarmed(size) for size in _sizes(scenario, programmes)]))


def share(values: ArrayLike) -> Share:
    """Mean with its standard error."""
    found = np.asarray(values, float)
    return Share(float(found.mean()), float(found.std() / math.sqrt(max(len(found), 1))))


def run(scenario: Scenario, programmes: int, rng: np.random.Generator) -> Outcomes:
    """Simulates programmes from the first visitor to the last look, all at once.

    Memory grows with ``programmes``; the measures work in batches of ``BATCH``.
    """
    return decide(scenario, simulate(scenario, programmes, rng))


def _estimates(scenario: Scenario, found: Outcomes) -> dict[str, Floats]:
    """Estimates and interval ends of the first challenger, by programme."""
    pair = found.stopped.pair(1)
    z, at = found.z[:, 0], np.searchsorted(found.looks, found.look)
    information, critical = found.information[found.looks], found.critical[found.looks, 0]
    level = 1 - scenario.plan.alpha
    drifts = stagewise.estimate(information, critical, at, z * np.sqrt(information[at]), level=level)
    left = stagewise.z_left(z, information[at], np.stack([drifts.median, drifts.low, drifts.high]))
    wanted = np.concatenate([left, [critical[at], -critical[at]]])
    median, low, high, repeated_low, repeated_high = effect_at(pair, found.weights, wanted)
    complete = found.complete
    pooled = Aggregates(*(v.sum(1, keepdims=True) for v in (complete.units, complete.total)))
    return {
        "median": median,
        "low": low,
        "high": high,
        "repeated_low": repeated_low,
        "repeated_high": repeated_high,
        "raw": pair.estimate("relative"),
        "standardised": complete.pair(1).estimate("relative"),
        "pooled": pooled.pair(1).estimate("relative"),
        "won": found.winner == 0,
    }


def _sizes(scenario: Scenario, programmes: int) -> list[int]:
    check_between("programmes", programmes, 0, math.inf)
    most = max(BATCH * LONG // max(scenario.hours, LONG), 1)
    return [min(most, programmes - done) for done in range(0, programmes, most)]


def _batches(
    scenario: Scenario, programmes: int, rng: np.random.Generator, progress: Progress
) -> list[Outcomes]:
    return [run(scenario, size, rng) for size in progress(_sizes(scenario, programmes))]
