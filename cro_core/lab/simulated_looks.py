"""Takes the looks at thousands of simulated experiments, through the functions that decide live ones.

Both rules are here. The first looks every hour at mature units. The second looks every hour at all exposed visitors,
under two guards, where shares are fixed, and at whole, mature days where they move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cro_core.errors import InvalidInput
from cro_core.lab.scenario import WEEK, Flaw, Scenario
from cro_core.lab.simulated_traffic import Parts, Traffic, Whole, simulate_more
from cro_core.statistics.arrays import Bools, Floats, Ints
from cro_core.statistics.combination import Counts, divided
from cro_core.statistics.guards import (
    ALL_DATA,
    WATCHED,
    WEEK_ALONE,
    acting_bound,
    delay_z,
    effect_over_days,
    guarded_z,
)
from cro_core.statistics.rules import (
    GATES,
    Aggregates,
    Comparisons,
    LookPlan,
    chance_left,
    compare,
    gate_margin,
    last_critical,
    next_boundaries,
    spending_time,
    step_down,
    used_weights,
)
from cro_core.statistics.sequential import LEAST_STEP, State

NAIVE_CHI_SQUARE = 3.841458820694124
"""Pearson's chi-square at p = .05, above which the naive rule calls a winner in any hour."""


@dataclass(frozen=True, slots=True)
class Clock:
    """What all programmes of a scenario have in common at each look; arrays ``(looks,)`` unless said otherwise."""

    hours: Floats
    """Hours of data."""
    enrolled: Ints
    """Hours of enrolment behind the experiment when the look is taken."""
    times: Floats
    """Spending time at each look."""
    information: Floats
    """Information, the mean over programmes; with several epochs the planned share of traffic."""
    critical: Floats
    """Critical |Z| by Holm's level, shape ``(looks, levels)``; inf where no look is taken."""
    last: int
    """Index of the look that ends what nothing has ended before."""

    @property
    def taken(self) -> NDArray[np.intp]:
        """Indices of the looks that are taken."""
        return np.flatnonzero(np.isfinite(self.critical[:, 0]))


@dataclass(frozen=True, slots=True)
class SimulatedOutcomes:
    """What became of each programme; arrays of shape ``(programmes,)`` unless said otherwise."""

    winner: NDArray[np.intp]
    """Challenger that won (0, 1, ...); -1: none."""
    control_won: Bools
    """Whether every challenger was beaten by the control."""
    futile: Bools
    """Whether the programme stopped for no practical gain."""
    caution: Bools
    """Whether a challenger crossed whose effect does not hold over the days."""
    faded: Bools
    """Whether such a challenger did not prove itself in the week it was given."""
    look: NDArray[np.intp]
    """Index of the look that the programme stopped at; the last one where nothing stopped it."""
    units: Floats
    """Visitors enrolled when the programme stopped."""
    z: Floats
    """Z of each challenger where its programme stopped, shape ``(programmes, challengers)``."""
    watched: NDArray[np.intp]
    """Index of the look from which on mature units alone decide, by their own clock."""
    naive_winner: NDArray[np.intp]
    """Variant the naive rule would have declared first; -1: none."""
    clock: Clock
    """Clock of the data that decide."""
    mature_clock: Clock
    """Clock of the mature units alone."""
    stopped: Aggregates
    """Counts where each programme stopped."""
    weights: Floats
    """Weights of the epochs where each programme stopped, shape ``(programmes, epochs)``."""
    complete: Aggregates
    """Counts at the horizon, had nothing stopped it, by day."""
    gained: Floats
    """Conversions that the challengers' effects bring by the horizon, over those of the control alone."""

    @property
    def matured(self) -> Bools:
        """Whether mature units alone decided."""
        return self.watched <= self.look

    def clock_of(self, matured: bool) -> Clock:
        """Returns the clock of the mature units, or of the data that decide otherwise."""
        return self.mature_clock if matured else self.clock


class _Data(Protocol):
    """Counts of all programmes as the looks see them."""

    def z(self) -> Floats:
        """Z of every challenger at every look, shape ``(programmes, looks, challengers)``."""

    def units(self) -> Floats:
        """Units so far at every look, shape ``(programmes, looks, variants)``."""

    def at(self, rows: NDArray[np.intp], look: int) -> Aggregates:
        """What a live look at these programmes would have been given."""

    def by_day(self, rows: NDArray[np.intp], look: int) -> Aggregates:
        """Counts by day of exposure."""


@dataclass(frozen=True, slots=True)
class _Hourly:
    """One epoch, looked at every hour: units and conversions so far, ``(programmes, looks, variants)``."""

    n: Floats
    x: Floats
    hours: Ints
    """Hours of exposure behind each look."""
    traffic: Traffic
    parts: Parts
    """Conversions by how late they come, and by hour of exposure."""
    lengths: tuple[int, ...]

    def units(self) -> Floats:
        return self.n

    def z(self) -> Floats:
        return np.stack([self._pair(k).score().z for k in range(1, self.n.shape[-1])], axis=-1)

    def information(self) -> Floats:
        """Mean information of all challengers at each look."""
        return np.asarray(sum(self._pair(k).score().variance.mean(0) for k in range(1, self.n.shape[-1])))

    def at(self, rows: NDArray[np.intp], look: int) -> Aggregates:
        return Aggregates(self.n[rows, look][:, None], self.x[rows, look][:, None])

    def by_day(self, rows: NDArray[np.intp], look: int) -> Aggregates:
        hours = int(self.hours[look])
        n, x = np.zeros((2, len(rows), self.traffic.n.shape[1], self.n.shape[-1]))
        n[:, :hours] = self.traffic.n[rows, :hours]
        for late, converted in self.parts:
            seen = max(hours - late, 0)
            x[:, :seen] += converted[rows, :seen]
        return Aggregates(_per_day(n, self.lengths), _per_day(x, self.lengths))

    def _pair(self, challenger: int) -> Counts:
        return Counts(*(counts[..., variant] for variant in (challenger, 0) for counts in (self.n, self.x)))


@dataclass(frozen=True, slots=True)
class _Days:
    """One epoch a day, looked at when it is whole: ``(programmes, epochs, variants)``."""

    n: Floats
    x: Floats
    weights: Floats

    def units(self) -> Floats:
        return self.n.cumsum(1)

    def z(self) -> Floats:
        pairs = Aggregates(self.n, self.x).pairs()
        running = [(np.sqrt(self.weights) * pair.score().z).cumsum(-1) for pair in pairs]
        return np.asarray(np.stack(running, axis=-1) / np.sqrt(self.weights.cumsum())[:, None])

    def at(self, rows: NDArray[np.intp], look: int) -> Aggregates:
        n, x = self.n[rows], self.x[rows]
        n[:, look + 1 :], x[:, look + 1 :] = 0, 0
        return Aggregates(n, x)

    by_day = at


@dataclass(frozen=True, slots=True)
class _HoursOfDays:
    """One epoch a day, looked at every hour, with a clock of hours inside it: ``(programmes, hours, variants)``."""

    n: Whole
    x: Whole
    weights: Floats
    lengths: tuple[int, ...]

    def units(self) -> Floats:
        return self.n.cumsum(1, dtype=float)

    def z(self) -> Floats:
        start, past, pieces = 0, np.zeros((len(self.n), 1, self.n.shape[-1] - 1)), []
        before = self.weights.cumsum() - self.weights
        for length, weight, behind in zip(self.lengths, self.weights, before, strict=True):
            n, x = (v[:, start : start + length].cumsum(1).astype(float) for v in (self.n, self.x))
            used = weight * np.arange(1, length + 1)[:, None] / length
            z = np.stack([p.score().z for p in Aggregates(n, x).pairs()], axis=-1)
            sums = past + np.sqrt(used) * z
            pieces.append(sums / np.sqrt(behind + used))
            start, past = start + length, sums[:, -1:]
        return np.concatenate(pieces, axis=1)

    def at(self, rows: NDArray[np.intp], look: int) -> Aggregates:
        n, x = self.n[rows].astype(float), self.x[rows].astype(float)
        n[:, look + 1 :], x[:, look + 1 :] = 0, 0
        return Aggregates(_per_day(n, self.lengths), _per_day(x, self.lengths))

    by_day = at


@dataclass(frozen=True, slots=True)
class _Deciding:
    """One statistic of all programmes, with the clock that it is held against."""

    data: _Data
    z: Floats
    clock: Clock
    ready: NDArray[np.intp]
    """Look from which on every variant has enough units, shape ``(programmes,)``."""

    @classmethod
    def of(cls, plan: LookPlan, data: _Data, clock: Clock) -> _Deciding:
        enough = np.asarray((data.units() >= plan.min_units).all(-1))
        return cls(data, data.z(), clock, np.where(enough.any(1), enough.argmax(1), enough.shape[1]))


def decide(
    scenario: Scenario,
    traffic: Traffic,
    rng: np.random.Generator | None = None,
    clocks: tuple[Clock, Clock] | None = None,
) -> SimulatedOutcomes:
    """Decides every programme by its looks, as a live experiment is decided.

    Args:
        scenario: its plan, schedule and flaw.
        traffic: of :func:`cro_core.lab.simulated_traffic.simulate`.
        rng: of the weeks that winners are given who are held back; ``None`` starts one.
        clocks: of programmes of the same scenario that were decided before; ``None``: their own.
    """
    plan = scenario.look_plan()
    main, mature = _deciding(scenario, plan, traffic, clocks)
    fixed = main is not mature
    watched = _watched_from(scenario, traffic) if fixed else np.full(len(traffic.n), scenario.hours)
    count, challengers, last = len(traffic.n), scenario.variants - 1, main.clock.last
    alive, active = np.ones(count, bool), np.ones((count, challengers), bool)
    winner, look = np.full(count, -1), np.full(count, last)
    control_won, futile = np.zeros((2, count), bool)
    for now in range(last + 1):
        for deciding, mine in ((main, watched > now), (mature, watched <= now)):
            if not np.isfinite(deciding.clock.critical[now, 0]) or not mine.any():
                continue
            rows = np.flatnonzero(alive & mine & (deciding.ready <= now))
            z = deciding.z[rows, now]
            if fixed and deciding is main and scenario.flaw is not Flaw.NO_GUARDS:
                z = guarded_z(z, mature.z[rows, now])
            critical = deciding.clock.critical[now]
            margin = _margins(plan, deciding, rows, now, z)
            ruling = step_down(z, active[rows], critical, margin, GATES[plan.gate])
            active[rows], winner[rows] = ruling.active, ruling.winner
            control_won[rows] = ~ruling.active.any(-1)
            if now < last and _asks_for_futility(plan, deciding.clock, now):
                final = _final_information(deciding, mature, now)
                futile[rows] = _futile(plan, deciding, rows, now, active[rows], final)
                futile[rows] &= (winner[rows] < 0) & ~control_won[rows]
        stopped = alive & ((winner >= 0) | control_won | futile)
        look[stopped], alive = now, alive & ~stopped
    matured = watched <= look
    caution = _cautions(scenario, main, mature, winner, look, matured)
    units = scenario.arrivals().cumsum()[main.clock.enrolled[look] - 1].astype(float)
    faded = np.zeros(count, bool)
    if scenario.held:
        crossed = caution, winner, look
        rows, passed, enrolled = _held(scenario, traffic, main, crossed, rng or np.random.default_rng(0))
        faded[rows[~passed]], units[rows] = True, enrolled
        winner[faded] = -1
    outcome = np.arange(count)
    stopped_data, weights = _stopped(plan, main, mature, look, matured)
    return SimulatedOutcomes(
        winner=winner,
        control_won=control_won,
        futile=futile,
        caution=caution,
        faded=faded,
        look=look,
        units=units,
        z=np.where(matured[:, None], mature.z[outcome, look], main.z[outcome, look]),
        watched=watched,
        naive_winner=naive_rule(traffic, plan.min_units, plan.min_uplift),
        clock=main.clock,
        mature_clock=mature.clock,
        stopped=stopped_data,
        weights=weights,
        complete=Aggregates(*(_per_day(v.astype(float), scenario.lengths) for v in (traffic.n, traffic.x))),
        gained=_gained(scenario, traffic),
    )


def _deciding(
    scenario: Scenario, plan: LookPlan, traffic: Traffic, clocks: tuple[Clock, Clock] | None
) -> tuple[_Deciding, _Deciding]:
    """Computes the statistic that decides, and that of the mature units where they only stand behind it."""
    data: _Data
    known, weights, window = clocks or (None, None), np.array(plan.weights), scenario.window
    if scenario.epochs > 1:
        by_hour = scenario.rule == 1 or scenario.flaw is Flaw.FLAT_CLOCK
        if by_hour:
            hours = np.arange(1, scenario.hours + 1)
            elapsed = np.repeat(weights / scenario.lengths, scenario.lengths).cumsum()
            data = _HoursOfDays(traffic.n, traffic.x, weights, scenario.lengths)
        else:
            hours, elapsed = scenario.ends, weights.cumsum()
            units, conversions = (_per_day(v.astype(float), scenario.lengths) for v in (traffic.n, traffic.x))
            data = _Days(units, conversions, weights)
        clock = known[0] or _clock(scenario, plan, hours, _sampled(scenario, plan, hours, elapsed), elapsed)
        main = _Deciding.of(plan, data, clock)
        return main, main
    late = window if scenario.rule == 2 and not scenario.adaptive else 0
    mature = _mature(scenario, plan, traffic, late, known[1])
    return (_exposed(scenario, plan, traffic, known[0], mature.ready), mature) if late else (mature, mature)


def _mature(
    scenario: Scenario, plan: LookPlan, traffic: Traffic, late: int, clock: Clock | None
) -> _Deciding:
    """Computes the statistic of mature units; ``late`` is by how many looks they come after the first visitor."""
    hours = np.arange(1 - late, scenario.hours + 1)
    n, x = (_behind(v.cumsum(1, dtype=float), hours) for v in (traffic.n, traffic.x))
    data = _Hourly(n, x, np.maximum(hours, 0), traffic, ((0, traffic.x),), scenario.lengths)
    elapsed = _elapsed(scenario, hours)
    times = elapsed if late else _sampled(scenario, plan, hours, elapsed)
    clock = clock or _clock(scenario, plan, hours + late, times, _information(scenario, data))
    return _Deciding.of(plan, data, clock)


def _exposed(
    scenario: Scenario, plan: LookPlan, traffic: Traffic, clock: Clock | None, ready: NDArray[np.intp]
) -> _Deciding:
    """Computes the statistic of all exposed visitors and their conversions so far."""
    hours = np.arange(1, scenario.hours + scenario.window + 1)
    parts = traffic.parts or ((0, traffic.x),)
    n = _behind(traffic.n.cumsum(1, dtype=float), hours)
    x = np.zeros(n.shape)
    for late, converted in parts:
        x[:, late : late + scenario.hours] += converted
    data = _Hourly(n, x.cumsum(1), np.minimum(hours, scenario.hours), traffic, parts, scenario.lengths)
    times = (_elapsed(scenario, hours) + _elapsed(scenario, hours - scenario.window)) / 2
    if scenario.flaw is Flaw.NO_WEEKS:
        times = _sampled(scenario, plan, hours, times)
    clock = clock or _clock(scenario, plan, hours, times, _information(scenario, data))
    return _Deciding(data, data.z(), clock, ready)


def _sampled(scenario: Scenario, plan: LookPlan, hours: Ints, elapsed: Floats) -> Floats:
    """Computes spending time where the planned sample may end an experiment before its time."""
    sums = np.concatenate([[0], scenario.arrivals().cumsum()])
    return spending_time(plan, sums[np.clip(hours, 0, scenario.hours)], elapsed)


def _information(scenario: Scenario, data: _Hourly) -> Floats:
    if scenario.flaw is Flaw.ONE_CLOCK:
        return np.concatenate([[0], scenario.arrivals().cumsum()])[data.hours].astype(float)
    return data.information()


def _behind(sums: Floats, hours: Ints) -> Floats:
    """Takes running sums at hours that may lie before the start or after the end."""
    taken = sums[:, np.clip(hours - 1, 0, sums.shape[1] - 1)]
    taken[:, hours < 1] = 0
    return np.asarray(taken)


def _elapsed(scenario: Scenario, hours: Ints) -> Floats:
    """Computes the planned share of traffic of the first so many hours."""
    sums = np.concatenate([[0.0], scenario.planned_part().cumsum()])
    sums[-1] = 1.0
    return np.asarray(sums[np.clip(hours, 0, scenario.hours)])


def _clock(scenario: Scenario, plan: LookPlan, hours: Ints, times: Floats, information: Floats) -> Clock:
    """Computes the boundaries at all looks."""
    fixed = scenario.rule == 2 and not scenario.adaptive
    times = np.where(times > 1 - 1e-12, 1.0, times)
    growing = information.astype(float)
    levels = scenario.variants - 1
    paths, critical = (State(),) * levels, np.full((len(hours), levels), np.inf)
    for look, hour in enumerate(hours):
        final = times[look] >= 1 and hour >= plan.min_hours
        if final:
            growing[look] = max(growing[look], paths[0].now * (1 + 2 * LEAST_STEP))
        if hour >= plan.min_hours and paths[0].is_new(growing[look]):
            paths, critical[look] = next_boundaries(plan, paths, float(growing[look]), float(times[look]))
        if final:
            break
    else:
        raise InvalidInput("no look is the last: plan for at least min_hours", field="days")
    enrolled = np.clip(hours if fixed else hours + scenario.window, 1, scenario.hours)
    return Clock(hours.astype(float), enrolled, times, growing, critical, look)


def _watched_from(scenario: Scenario, traffic: Traffic) -> NDArray[np.intp]:
    """Finds the look from which on mature units decide, because conversions of variants are not equally late."""
    never = scenario.hours + scenario.window
    if len(traffic.parts) < 2 or scenario.flaw is Flaw.NO_GUARDS:
        return np.full(len(traffic.n), never)
    converters, hours, squares = (
        np.asarray(sum(late**power * converted for late, converted in traffic.parts)).cumsum(1)
        for power in range(3)
    )
    unequal = np.abs(delay_z(converters, hours, squares)).max(-1) > WATCHED
    return np.where(unequal.any(1), unequal.argmax(1) + scenario.window, never)


def _margins(plan: LookPlan, deciding: _Deciding, rows: NDArray[np.intp], look: int, z: Floats) -> Floats:
    """Computes margins over the gate, only for programmes where something may have crossed and may win by now."""
    margin = np.full(z.shape, -np.inf)
    near = np.flatnonzero((z >= deciding.clock.critical[look, 0]).any(-1))
    if len(near) and deciding.clock.hours[look] >= plan.ship_after_hours:
        weights = used_weights(plan, deciding.clock.information[look])
        margin[near] = gate_margin(plan, deciding.data.at(rows[near], look), weights)
    return margin


def _asks_for_futility(plan: LookPlan, clock: Clock, look: int) -> bool:
    """Whether this is a day's first look, on a day on which futility is asked for."""
    day = clock.hours[look] // 24
    before = clock.taken[clock.taken < look]
    first = not len(before) or clock.hours[before[-1]] // 24 < day
    return plan.futility and first and bool(day >= plan.futility_from_day)


def _final_information(deciding: _Deciding, mature: _Deciding, look: int) -> float:
    """Information that is expected of the last look, the mean over programmes."""
    now, elapsed = float(deciding.clock.information[look]), float(mature.clock.times[look])
    if deciding is mature or not elapsed:
        return now / float(deciding.clock.times[look])
    return max(now, float(mature.clock.information[look]) / elapsed)


def _futile(
    plan: LookPlan,
    deciding: _Deciding,
    rows: NDArray[np.intp],
    look: int,
    active: Bools,
    final: float,
) -> Bools:
    """Finds the programmes that have no practical gain to hope for."""
    clock = deciding.clock
    weights = used_weights(plan, clock.information[look])
    comparisons = Comparisons(deciding.z[rows, look], np.full(len(rows), clock.information[look]))
    divisors = range(1, active.shape[-1] + 1)
    last = np.array([np.inf, *(last_critical(plan.spending, plan.alpha / divisor) for divisor in divisors)])
    critical = last[active.sum(-1, keepdims=True)]
    power_left = chance_left(plan, deciding.data.at(rows, look), weights, comparisons, critical, final)
    return np.asarray((~active | (power_left < plan.futility_power)).all(-1))


def _cautions(
    scenario: Scenario,
    main: _Deciding,
    mature: _Deciding,
    winner: NDArray[np.intp],
    look: NDArray[np.intp],
    matured: Bools,
) -> Bools:
    """Finds the winners whose effect fades or turns with the days."""
    found = np.zeros(len(winner), bool)
    for deciding, mine in ((main, ~matured), (mature, matured)):
        for now in np.unique(look[(winner >= 0) & mine]):
            rows = np.flatnonzero((winner >= 0) & mine & (look == now))
            days = deciding.data.by_day(rows, int(now))
            for challenger in np.unique(winner[rows]):
                its = winner[rows] == challenger
                score = Aggregates(days.units[its], days.total[its]).pair(challenger + 1).score()
                over = effect_over_days(score.surplus, score.variance, scenario.weekend_days())
                found[rows[its]] = over.changes
    return found


def _held(
    scenario: Scenario,
    traffic: Traffic,
    main: _Deciding,
    outcome: tuple[Bools, NDArray[np.intp], NDArray[np.intp]],
    rng: np.random.Generator,
) -> tuple[NDArray[np.intp], Bools, Floats]:
    """Gives winners with a caution the seven days after the day they crossed on.

    Args:
        scenario: of the programmes.
        traffic: their traffic.
        main: what decides.
        outcome: whether they have a caution, their winner, the look they crossed at.
        rng: of the days to come.

    Returns:
        Which programmes they are, whether they ship after that, and the visitors enrolled by then.
    """
    caution, winner, look = outcome
    found: list[tuple[NDArray[np.intp], Bools, Floats]] = []
    late = 0 if scenario.epochs == 1 else scenario.window
    for now in np.unique(look[caution]):
        rows = np.flatnonzero(caution & (look == now))
        taken_at = int(main.clock.hours[now]) + late
        start = scenario.midnight_after(taken_at)
        lengths = scenario.lengths_until(start + WEEK)
        n, x = (_per_day(v, lengths) for v in _gone_on(scenario, traffic, rows, (taken_at, start), rng))
        everything = Aggregates(n, x)
        if scenario.epochs > 1:
            weights = _per_day(scenario.planned_part(start + WEEK)[None, :, None], lengths)[0, :, 0]
        else:
            everything, weights = Aggregates(n.sum(1, keepdims=True), x.sum(1, keepdims=True)), np.ones(1)
        chosen = (np.arange(len(rows)), winner[rows])
        all_data = compare(everything, weights).z[chosen]
        scores = [pair.score() for pair in Aggregates(n[:, -7:], x[:, -7:]).pairs()]
        alone = [divided(score.surplus.sum(-1), np.sqrt(score.variance.sum(-1))) for score in scores]
        passes = (np.stack(alone, axis=-1)[chosen] >= WEEK_ALONE) & (all_data >= ALL_DATA)
        enrolled = np.full(len(rows), float(scenario.arrivals(0, start + WEEK).sum()))
        found.append((rows, passes, enrolled))
    if not found:
        return np.zeros(0, np.intp), np.zeros(0, bool), np.zeros(0)
    rows_of, passed, units = (np.concatenate(column) for column in zip(*found, strict=True))
    return rows_of, passed, units


def acting_bounds(scenario: Scenario, traffic: Traffic, clocks: tuple[Clock, Clock]) -> tuple[Floats, Floats]:
    """Computes the Z from which on each look could ship the first challenger, the mean over programmes.

    Args:
        scenario: with its gate, and the hours before which nothing ships.
        traffic: of some programmes.
        clocks: of the data that decide, and of the mature units.

    Returns:
        Of the data that decide, and of the mature units: shape ``(looks,)``, inf where no look could.
    """
    plan, rows = scenario.look_plan(), np.arange(len(traffic.n))
    bounds = []
    for deciding in _deciding(scenario, plan, traffic, clocks):
        clock, upper = deciding.clock, np.full(len(deciding.clock.hours), np.inf)
        for look in clock.taken[clock.hours[clock.taken] >= plan.ship_after_hours]:
            margin = gate_margin(
                plan, deciding.data.at(rows, look), used_weights(plan, clock.information[look])
            )
            line, z = clock.critical[look, 0], deciding.z[:, look, 0]
            upper[look] = acting_bound(z, margin[:, 0], line, GATES[plan.gate]).mean()
        bounds.append(upper)
    return bounds[0], bounds[1]


def _gone_on(
    scenario: Scenario,
    traffic: Traffic,
    rows: NDArray[np.intp],
    moments: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """Simulates how enrolment goes on: all visitors and conversions by hour, ``(rows, hours, variants)``.

    Args:
        scenario: of the programmes.
        traffic: their traffic.
        rows: which programmes.
        moments: hours since the start at which they are held back, and at which their week starts.
        rng: of the visitors to come.
    """
    taken_at, start = moments
    before = min(start, scenario.hours)
    first = max(taken_at, before) if start > scenario.hours else start
    n, x = np.zeros((2, len(rows), start + WEEK, scenario.variants))
    n[:, :before], x[:, :before] = traffic.n[rows, :before], traffic.x[rows, :before]
    n[:, first:], x[:, first:] = simulate_more(scenario, traffic.shares[rows], first, start + WEEK, rng)
    return n, x


def _stopped(
    plan: LookPlan, main: _Deciding, mature: _Deciding, look: NDArray[np.intp], matured: Bools
) -> tuple[Aggregates, Floats]:
    """Sums up what the look at which each programme stopped was given, with the weights it used."""
    like = main.data.at(np.arange(1), 0).units.shape[1:]
    n, x = np.zeros((2, len(look), *like))
    weights = np.ones((len(look), like[0]))
    for deciding, mine in ((main, ~matured), (mature, matured)):
        for last_look in np.unique(look[mine]):
            rows = np.flatnonzero((look == last_look) & mine)
            sums = deciding.data.at(rows, int(last_look))
            n[rows], x[rows] = sums.units, sums.total
            weights[rows] = used_weights(plan, deciding.clock.information[last_look])
    return Aggregates(n, x), weights


def _gained(scenario: Scenario, traffic: Traffic) -> Floats:
    rates = scenario.rates()
    control = (traffic.n * rates[:, :1]).sum((1, 2))
    return np.asarray((traffic.n * rates).sum((1, 2)) / control - 1)


def _per_day(counts: Floats, lengths: tuple[int, ...]) -> Floats:
    """Sums hours up to days, ``(programmes, days, variants)``."""
    starts = np.cumsum((0, *lengths[:-1]))
    return np.asarray(np.add.reduceat(counts, starts, axis=1))


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
