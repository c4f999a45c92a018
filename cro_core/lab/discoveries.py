"""A year of experiments, one after another or side by side, and how many of its discoveries are false."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cro_core.errors import InvalidInput
from cro_core.lab.measures import Share, share
from cro_core.lab.scenario import Bools, Floats, Scenario, planned
from cro_core.lab.simulated_looks import decide
from cro_core.lab.simulated_traffic import simulate_together
from cro_core.statistics import stagewise
from cro_core.statistics.multiplicity import Trial, next_level

GRID = 0.05 * 0.5 ** np.arange(11)
"""Levels that experiments are simulated at; one granted in between is rounded down."""


@dataclass(frozen=True, slots=True)
class Discoveries:
    """How a series of experiments fares; a discovery is a boundary crossed in either direction."""

    rate: Share
    """False discovery rate: mean part of the discoveries that is false."""
    power: Share
    """Real effects that are discovered."""
    uncorrected: Share
    """False discovery rate if every experiment ran at the first level of ``GRID``."""
    level: float
    """Mean level granted."""


@dataclass(frozen=True, slots=True)
class _Pool:
    """Experiments run at one level: stagewise p-values and hours until the end, shape ``(experiments,)``."""

    p_value: Floats
    hours: Floats
    real: Bools

    def draw(self, real: bool, rng: np.random.Generator) -> tuple[float, float]:
        """The p-value and the hours of one of them."""
        k = int(rng.choice(np.flatnonzero(self.real == real)))
        return float(self.p_value[k]), float(self.hours[k])


def stream(
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
    """Series of experiments, each planned for and run at the level that SAFFRON grants it at its start.

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
    levels, p = np.array(
        [_series(pools, row, scenario.hours, together, alpha, rng) for row in truth]
    ).transpose(1, 0, 2)
    first = pools[GRID[0]]
    alone = np.array([[first.draw(bool(t), rng)[0] for t in row] for row in truth])
    found = p <= levels
    return Discoveries(
        rate=share(_false_part(found, truth)),
        power=share(found[truth]),
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
    """Levels and p-values of one series, decided in turn."""
    trials: list[Trial] = []
    levels: list[float] = []
    for t, real in enumerate(truth):
        starts = t // together * hours
        granted = next_level(trials, levels, starts, alpha)
        # below the grid nobody runs an experiment: it is charged, and finds nothing
        level = float(GRID[granted >= GRID].max(initial=0.0))
        p, took = pools[level].draw(bool(real), rng) if level else (1.0, hours)
        trials.append(Trial(starts, starts + took, p))
        levels.append(level)
    return levels, [trial.p_value or 0.0 for trial in trials]


def _run_at(level: float, scenario: Scenario, together: int, size: int, rng: np.random.Generator) -> _Pool:
    """Experiments planned for a level; those that run together share their visitors."""
    at = planned(replace(scenario, plan=replace(scenario.plan, alpha=level)))
    real = rng.random((-(-size // together), together)) < 0.5
    p, hours = np.ones((2, *real.shape))
    for k, traffic in enumerate(simulate_together(at, real, rng)):
        found = decide(at, traffic)
        information, critical = found.information[found.looks], found.critical[found.looks, 0]
        look = np.searchsorted(found.looks, found.look)
        p[:, k] = stagewise.p_values(information, critical, look, found.z[:, 0] * np.sqrt(information[look]))
        hours[:, k] = found.look + 1
    return _Pool(p.ravel(), hours.ravel(), real.ravel())


def _false_part(found: Bools, real: Bools) -> Floats:
    """Part of each series' discoveries that is false; 0 without discoveries."""
    return np.asarray((found & ~real).sum(1) / np.maximum(found.sum(1), 1))
