"""Takes hourly looks at thousands of simulated experiments, through the functions that decide live ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cro_core.lab.scenario import Flaw, Scenario
from cro_core.lab.simulated_traffic import Traffic
from cro_core.statistics.arrays import Bools, Floats, Ints
from cro_core.statistics.combination import Counts, combine_running
from cro_core.statistics.rules import (
    GATES,
    Aggregates,
    Comparisons,
    LookPlan,
    chance_left,
    gate_margin,
    last_critical,
    next_boundaries,
    spending_time,
    step_down,
    used_weights,
)
from cro_core.statistics.sequential import State

NAIVE_CHI_SQUARE = 3.841458820694124
"""Pearson's chi-square at p = .05, above which the naive rule calls a winner in any hour."""


@dataclass(frozen=True, slots=True)
class SimulatedOutcomes:
    """What became of each programme; arrays of shape ``(programmes,)`` unless said otherwise."""

    winner: NDArray[np.intp]
    """Challenger that won (0, 1, ...); -1: none."""
    control_won: Bools
    """Whether every challenger was beaten by the control."""
    futile: Bools
    """Whether the programme stopped for no practical gain."""
    look: NDArray[np.intp]
    """Index of the look that the programme stopped at; the last one where nothing stopped it."""
    units: Floats
    """Visitors used until the programme stopped."""
    z: Floats
    """Z of each challenger where its programme stopped, shape ``(programmes, challengers)``."""
    naive_winner: NDArray[np.intp]
    """Variant the naive rule would have declared first; -1: none."""
    looks: NDArray[np.intp]
    """Indices of the looks that were taken."""
    information: Floats
    """The common clock at every hour, shape ``(hours,)``."""
    critical: Floats
    """Critical |Z| by hour and Holm's level, shape ``(hours, levels)``; inf where no look was taken."""
    stopped: Aggregates
    """Counts where each programme stopped."""
    weights: Floats
    """Weights of the epochs where each programme stopped, shape ``(programmes, epochs)``."""
    complete: Aggregates
    """Counts at the horizon, had nothing stopped it, by day."""


def decide(scenario: Scenario, traffic: Traffic) -> SimulatedOutcomes:
    """Decides every programme by hourly looks, as a live experiment is decided.

    Args:
        scenario: its plan, schedule and flaw.
        traffic: of :func:`cro_core.lab.simulated_traffic.simulate`.
    """
    plan, record = scenario.look_plan(), _Record.of(scenario, traffic.n, traffic.x)
    count = len(traffic.n)
    z, information = _all_looks(scenario, record)
    elapsed = np.arange(1, scenario.hours + 1) / scenario.hours
    times = spending_time(plan, scenario.arrivals().cumsum(), elapsed)
    last = int(np.argmax(times >= 1))
    state, critical = (
        (State(),) * (scenario.variants - 1),
        np.full((last + 1, scenario.variants - 1), np.inf),
    )
    alive, active = np.ones(count, bool), np.ones((count, scenario.variants - 1), bool)
    winner, look = np.full(count, -1), np.full(count, last)
    control_won, futile = np.zeros((2, count), bool)
    looks: list[int] = []
    for hour in range(last + 1):
        if hour + 1 < plan.min_hours or not state[0].is_new(information[hour]):
            continue
        looks.append(hour)
        state, critical[hour] = next_boundaries(plan, state, float(information[hour]), float(times[hour]))
        rows = np.flatnonzero(alive & record.ready(hour, plan.min_units))
        margin = _margins(plan, record, rows, hour, z[rows, hour], critical[hour])
        ruling = step_down(z[rows, hour], active[rows], critical[hour], margin, GATES[plan.gate])
        active[rows], winner[rows] = ruling.active, ruling.winner
        control_won[rows] = ~ruling.active.any(-1)
        if plan.futility and hour < last and (hour + 1) % 24 == 0 and hour + 1 >= 24 * plan.futility_from_day:
            futile[rows] = _futile(
                plan, record, rows, hour, z[rows, hour], information[hour], times[hour], active[rows]
            )
            futile &= (winner < 0) & ~control_won
        stopped = alive & ((winner >= 0) | control_won | futile)
        look[stopped], alive = hour, alive & ~stopped
    return SimulatedOutcomes(
        winner=winner,
        control_won=control_won,
        futile=futile,
        look=look,
        units=scenario.arrivals().cumsum()[look].astype(float),
        z=z[np.arange(count), look],
        naive_winner=naive_rule(traffic, plan.min_units, plan.min_uplift),
        looks=np.array(looks),
        information=information,
        critical=critical,
        stopped=record.stopped(look),
        weights=used_weights(plan, elapsed[look]) * np.ones((count, 1)),
        complete=_by_day(traffic),
    )


@dataclass(frozen=True, slots=True)
class _Record:
    """Counts of all programmes, cumulative inside each epoch; ``(programmes, epochs, looks, variants)``."""

    n: Floats
    x: Floats

    @classmethod
    def of(cls, scenario: Scenario, n: Ints, x: Ints) -> _Record:
        shape = (n.shape[0], scenario.epochs, -1, n.shape[-1])
        return cls(*(np.cumsum(counts.reshape(shape), axis=2, dtype=float) for counts in (n, x)))

    @property
    def looks(self) -> int:
        """How many looks an epoch has."""
        return int(self.n.shape[2])

    def counts(self, challenger: int) -> Counts:
        """Returns counts of a challenger and the control, elementwise at every look of every epoch."""
        return Counts(*(counts[..., variant] for variant in (challenger, 0) for counts in (self.n, self.x)))

    def at(self, rows: NDArray[np.intp], look: int) -> Aggregates:
        """Sums up what a live look at these programmes would have been given."""
        epoch, within = divmod(look, self.looks)
        sums = [np.zeros((len(rows), self.n.shape[1], self.n.shape[3])) for _ in range(2)]
        for summed, source in zip(sums, (self.n, self.x), strict=True):
            summed[:, :epoch] = source[rows, :epoch, -1]
            summed[:, epoch] = source[rows, epoch, within]
        return Aggregates(*sums)

    def stopped(self, look: NDArray[np.intp]) -> Aggregates:
        """Sums up what the look at which each programme stopped was given."""
        shape = (len(look), self.n.shape[1], self.n.shape[3])
        n, x = np.zeros(shape), np.zeros(shape)
        for last_look in np.unique(look):
            rows = np.flatnonzero(look == last_look)
            sums = self.at(rows, int(last_look))
            n[rows], x[rows] = sums.units, sums.total
        return Aggregates(n, x)

    def ready(self, look: int, least: int) -> Bools:
        """Finds the programmes that have enough units in every variant."""
        epoch, within = divmod(look, self.looks)
        units = self.n[:, :epoch, -1].sum(1) + self.n[:, epoch, within]
        return np.asarray((units >= least).all(-1))


def _all_looks(scenario: Scenario, record: _Record) -> tuple[Floats, Floats]:
    """Computes Z of every challenger at every look, ``(programmes, looks, challengers)``, and the common clock."""
    scores = [record.counts(challenger).score() for challenger in range(1, scenario.variants)]
    looks = scenario.hours
    if scenario.epochs == 1:
        information = sum(score.variance.mean(0) for score in scores).ravel()
        values = [score.z[:, 0] for score in scores]
    else:
        information = np.arange(1, looks + 1) / looks
        time = np.broadcast_to(information[: record.looks], (scenario.epochs, record.looks))
        combined = [combine_running(score.z, time).reshape(-1, looks) for score in scores]
        values = [sums / np.sqrt(information) for sums in combined]
    if scenario.flaw is Flaw.ONE_CLOCK:
        information = scenario.arrivals().cumsum().astype(float)
    return np.stack(values, axis=-1), information


def _margins(
    plan: LookPlan, record: _Record, rows: NDArray[np.intp], look: int, z: Floats, critical: Floats
) -> Floats:
    """Computes margins over the gate, only for programmes where something may have crossed."""
    margin = np.full(z.shape, -np.inf)
    near = np.flatnonzero((z >= critical[0]).any(-1))
    if len(near):
        weights = used_weights(plan, (look + 1) / (record.looks * record.n.shape[1]))
        margin[near] = gate_margin(plan, record.at(rows[near], look), weights)
    return margin


def _futile(
    plan: LookPlan,
    record: _Record,
    rows: NDArray[np.intp],
    look: int,
    z: Floats,
    information: float,
    time: float,
    active: Bools,
) -> Bools:
    """Finds the programmes that have no practical gain to hope for."""
    weights = used_weights(plan, (look + 1) / (record.looks * record.n.shape[1]))
    comparisons = Comparisons(z, np.full(len(rows), information))
    divisors = range(1, active.shape[-1] + 1)
    last = np.array([np.inf, *(last_critical(plan.spending, plan.alpha / divisor) for divisor in divisors)])
    critical = last[active.sum(-1, keepdims=True)]
    power_left = chance_left(plan, record.at(rows, look), weights, comparisons, critical, time)
    return np.asarray((~active | (power_left < plan.futility_power)).all(-1))


def naive_rule(traffic: Traffic, least: int, uplift: float) -> NDArray[np.intp]:
    """Finds the first variant that p < .05 at an hourly look declares the winner; -1: none.

    Args:
        traffic: of :func:`cro_core.lab.simulated_traffic.simulate`.
        least: visitors that each variant must have.
        uplift: least observed uplift.
    """
    units, hits = traffic.n.cumsum(1).astype(float), traffic.x.cumsum(1).astype(float)
    programmes, hours, variants = units.shape
    first, winner = np.full(programmes, hours), np.full(programmes, -1)
    for challenger in range(1, variants):
        n1, x1, n0, x0 = units[..., challenger], hits[..., challenger], units[..., 0], hits[..., 0]
        total = n1 + n0
        chi = Counts(n1, x1, n0, x0).score().z ** 2 * total / np.maximum(total - 1, 1)
        challenger_hits, control_hits = x1 * n0, x0 * n1
        apart = np.maximum(challenger_hits, control_hits) >= (1 + uplift) * np.minimum(
            challenger_hits, control_hits
        )
        fires = (chi > NAIVE_CHI_SQUARE) & apart & (np.minimum(n1, n0) >= least)
        hour = np.where(fires.any(1), fires.argmax(1), hours)
        rows = np.flatnonzero(hour < first)
        challenger_leads = (challenger_hits > control_hits)[rows, hour[rows]]
        winner[rows], first[rows] = np.where(challenger_leads, challenger, 0), hour[rows]
    return winner


def _by_day(traffic: Traffic) -> Aggregates:
    shape = (len(traffic.n), -1, 24, traffic.n.shape[-1])
    return Aggregates(*(counts.reshape(shape).sum(2).astype(float) for counts in (traffic.n, traffic.x)))
