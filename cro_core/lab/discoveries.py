"""Simulates a year of experiments, one after another or side by side, and counts how many discoveries are false."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cro_core.errors import InvalidInput
from cro_core.lab.measures import Share, share
from cro_core.lab.scenario import Scenario, planned
from cro_core.lab.simulated_looks import decide
from cro_core.lab.simulated_traffic import simulate_together
from cro_core.statistics import stagewise
from cro_core.statistics.arrays import Bools, Floats
from cro_core.statistics.multiplicity import Trial, next_level

GRID = 0.05 * 0.5 ** np.arange(11)
"""Error rates (alpha) that experiments are simulated at; one granted in between is rounded down."""


@dataclass(frozen=True, slots=True)
class Discoveries:
    """How many discoveries of a series of experiments are false; one is a boundary crossed in either direction."""

    rate: Share
    """False discovery rate: mean part of the discoveries that is false."""
    power: Share
    """Part of the real effects that is discovered."""
    uncorrected: Share
    """False discovery rate if every experiment ran at the first error rate of ``GRID``."""
    level: float
    """Mean error rate (alpha) that an experiment is granted."""


@dataclass(frozen=True, slots=True)
class _Pool:
    """Experiments run at one alpha: stagewise p-values and hours until the end, shape ``(experiments,)``."""

    p_value: Floats
    hours: Floats
    real: Bools

    def draw(self, real: bool, rng: np.random.Generator) -> tuple[float, float]:
        """Draws an experiment: its p-value and its hours."""
        row = int(rng.choice(np.flatnonzero(self.real == real)))
        return float(self.p_value[row]), float(self.hours[row])


def false_discoveries(
    scenario: Scenario,
    programmes: int,
    rng: np.random.Generator,
    *,
    real: float = 0.2,
    tests: int = 120,
    together: int = 1,
    alpha: float = 0.1,
    pool: int = 2_000,
) -> Discoveries:
    """Simulates series of experiments, each planned for and run at the alpha that SAFFRON grants it at its start.

    Args:
        scenario: of each experiment; its uplift is that of the real effects, its sample is planned anew.
        programmes: series simulated.
        rng: source of randomness.
        real: part of the experiments that have an effect.
        tests: experiments in a series.
        together: experiments that share their visitors at any time.
        alpha: false discovery rate to keep.
        pool: experiments simulated per level, half of them with an effect, from which the series are drawn.

    Raises:
        InvalidInput: more than two variants or moving shares.
    """
    if scenario.variants > 2 or scenario.adaptive:
        raise InvalidInput("a stream is simulated with two variants and fixed shares: leave out the rest")
    pools = {level: _run_at(level, scenario, together, pool, rng) for level in GRID.tolist()}
    truth = rng.random((programmes, tests)) < real
    levels, p_values = np.array(
        [_series(pools, row, scenario.hours, together, alpha, rng) for row in truth]
    ).transpose(1, 0, 2)
    first = pools[GRID[0]]
    alone = np.array([[first.draw(bool(has_effect), rng)[0] for has_effect in row] for row in truth])
    discovered = p_values <= levels
    return Discoveries(
        rate=share(_false_part(discovered, truth)),
        power=share(discovered[truth]),
        uncorrected=share(_false_part(alone <= GRID[0], truth)),
        level=float(levels.mean()),
    )


def _series(
    pools: Mapping[float, _Pool],
    truth: Bools,
    hours: int,
    together: int,
    alpha: float,
    rng: np.random.Generator,
) -> tuple[list[float], list[float]]:
    """Decides the experiments of a series in turn; returns their alphas and p-values."""
    trials: list[Trial] = []
    levels: list[float] = []
    for number, real in enumerate(truth):
        starts = number // together * hours
        granted = next_level(trials, levels, starts, alpha)
        # below the grid nobody runs an experiment: it is charged, and finds nothing
        level = float(GRID[granted >= GRID].max(initial=0.0))
        p_value, duration = pools[level].draw(bool(real), rng) if level else (1.0, hours)
        trials.append(Trial(starts, starts + duration, p_value))
        levels.append(level)
    return levels, [trial.p_value or 0.0 for trial in trials]


def _run_at(level: float, scenario: Scenario, together: int, size: int, rng: np.random.Generator) -> _Pool:
    """Simulates experiments planned for one alpha; those that run together share their visitors."""
    at = planned(replace(scenario, plan=replace(scenario.plan, alpha=level)))
    real = rng.random((-(-size // together), together)) < 0.5
    p_values, hours = np.ones((2, *real.shape))
    for column, traffic in enumerate(simulate_together(at, real, rng)):
        outcomes = decide(at, traffic, rng)
        for clock, rows in ((outcomes.clock, ~outcomes.matured), (outcomes.mature_clock, outcomes.matured)):
            information, critical = clock.information[clock.taken], clock.critical[clock.taken, 0]
            look = np.searchsorted(clock.taken, outcomes.look[rows])
            values = outcomes.z[rows, 0] * np.sqrt(information[look])
            p_values[rows, column] = stagewise.p_values(information, critical, look, values)
        hours[:, column] = outcomes.look + 1
    return _Pool(p_values.ravel(), hours.ravel(), real.ravel())


def _false_part(discovered: Bools, real: Bools) -> Floats:
    """Computes the part of each series' discoveries that is false; 0 without discoveries."""
    return np.asarray((discovered & ~real).sum(1) / np.maximum(discovered.sum(1), 1))
