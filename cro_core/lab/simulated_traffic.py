"""Simulates visitors and conversions of thousands of experiments, hour by hour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cro_core.assignment.allocation import next_shares, tempering
from cro_core.assignment.buckets import equal_shares
from cro_core.lab.scenario import Flaw, Scenario
from cro_core.lab.site import converted_within, counted
from cro_core.statistics.arrays import Bools, Floats, Ints

Whole = NDArray[np.integer[Any]]
"""Counts, in integers of any size."""

Parts = tuple[tuple[int, Whole], ...]
"""Whole hours from exposure to conversion -> conversions by hour of exposure, ``(programmes, hours, variants)``."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Visitors and conversions of simulated experiments, hour by hour."""

    n: Whole
    """Visitors of each hour, shape ``(programmes, hours, variants)``."""
    x: Whole
    """Visitors who convert, in the hour of their visit, shape ``(programmes, hours, variants)``."""
    shares: Floats
    """Planned shares, shape ``(programmes, periods, variants)``: one period a day."""
    parts: Parts = ()
    """Conversions by how late they come; empty where all looks wait for the late ones."""


def simulate(scenario: Scenario, programmes: int, rng: np.random.Generator) -> Traffic:
    """Simulates the traffic of experiments; with the flaw ``event_time`` conversions stand where they happen."""
    hours, variants = scenario.hours, scenario.variants
    lengths = (1,) * hours if scenario.flaw is Flaw.MOVING_SHARES else scenario.lengths
    rates, arrivals = scenario.rates() * _counted(scenario), scenario.arrivals()
    n, x = np.zeros((2, programmes, hours, variants), np.int32)
    shares = np.tile(np.array(equal_shares(variants)), (programmes, len(lengths), 1))
    units, conversions = np.zeros((2, *shares.shape))
    start, before = 0, slice(0)
    for period, length in enumerate(lengths):
        now = slice(start, start + length)
        if scenario.adaptive and period:
            past = units[:, :period], conversions[:, :period]
            shares[:, period] = moved(scenario, *past, len(lengths))
        recent = shares[:, max(period - 1, 0) : period + 1]
        n[:, now], converted = _visits(scenario, recent, arrivals[now], rates[now], rng)
        if scenario.flaw is Flaw.EVENT_TIME:
            _spread(scenario, converted, start, x, rng)
            converted = np.asarray(x[:, now], np.int64)
        x[:, now] = converted
        if scenario.adaptive:
            units[:, period] = n[:, now].sum(1)
            conversions[:, period] = _converted_by_the_end(scenario, converted, rng)
            conversions[:, max(period - 1, 0)] = x[:, before].sum(1) if period else conversions[:, 0]
        start, before = start + length, now
    late = scenario.rule == 2 and not scenario.adaptive and scenario.flaw is not Flaw.EVENT_TIME
    return Traffic(n, x, shares, _by_delay(scenario, x, rng) if late else ())


def moved(scenario: Scenario, units: Floats, conversions: Floats, epochs: int) -> Floats:
    """Computes the shares of the epoch after those that are given, as the scenario's rule moves them.

    Args:
        scenario: with its floor and rule.
        units: visitors of all epochs so far, shape ``(programmes, epochs so far, variants)``.
        conversions: of them, as far as they are known, same shape.
        epochs: of the whole plan.
    """
    tempered = scenario.rule == 2 and scenario.variants == 2 and not scenario.control_matched
    return next_shares(
        units,
        conversions,
        floor=scenario.floor,
        control_matched=scenario.control_matched,
        exponent=tempering(units.shape[1], epochs) if tempered else 1.0,
    )


def simulate_more(
    scenario: Scenario, shares: Floats, first: int, last: int, rng: np.random.Generator
) -> tuple[Whole, Whole]:
    """Simulates visitors and conversions of more hours, shape ``(programmes, hours, variants)``.

    Shares that move stay as they were on the last day before.

    Args:
        scenario: of the programmes.
        shares: of their days so far, shape ``(programmes, days, variants)``.
        first: hours from the first visitor to these.
        last: hours from the first visitor to the end of these.
        rng: source of randomness.
    """
    day = min(int(np.searchsorted(scenario.ends, first)), shares.shape[1] - 1)
    present = np.repeat(shares[:, [day]], 2, axis=1)
    rates = scenario.rates(first, last) * _counted(scenario)
    return _visits(scenario, present, scenario.arrivals(first, last), rates, rng)


def simulate_together(scenario: Scenario, real: Bools, rng: np.random.Generator) -> list[Traffic]:
    """Simulates several two-variant experiments on the same visitors, shares fixed, hashes independent.

    Args:
        scenario: of each; its uplift is that of the real effects, and effects multiply.
        real: which experiments have it, shape ``(programmes, experiments)``.
        rng: source of randomness.
    """
    programmes, experiments = real.shape
    treated = np.arange(2**experiments)[:, None] >> np.arange(experiments) & 1 == 1
    factor = np.prod(1 + scenario.uplifts[0] * (real[:, None] & treated), axis=-1)
    n = rng.multinomial(
        scenario.arrivals(), np.full(len(treated), 1 / len(treated)), (programmes, scenario.hours)
    )
    x = rng.binomial(n, scenario.rates()[:, :1] * _counted(scenario)[0] * factor[:, None])
    shares = np.full((programmes, len(scenario.lengths), 2), 0.5)
    sides = [np.stack([~mine, mine], axis=-1).astype(np.int64) for mine in treated.T]
    return [
        Traffic(n @ side, x @ side, shares, _by_delay(scenario, x @ side, rng) if scenario.rule == 2 else ())
        for side in sides
    ]


def _visits(
    scenario: Scenario, shares: Floats, arrivals: Ints, rates: Floats, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Draws visitors and conversions of a period that are counted; ``shares`` end with the period's own."""
    cached = np.round(scenario.cached * arrivals).astype(np.int64)
    n = _split(arrivals - cached, shares[:, -1], rng)
    x = rng.binomial(n, rates)
    if scenario.flaw is not Flaw.CACHED:
        return n, x
    stale = _split(cached, shares[:, 0], rng)
    return n + stale, x + rng.binomial(stale, rates / 2)


def _split(arrivals: Ints, shares: Floats, rng: np.random.Generator) -> Ints:
    """Splits arrivals into visitors per hour and variant, each visitor by an independent hash."""
    if shares.shape[-1] == 2:
        first = rng.binomial(arrivals, shares[:, :1])
        return np.stack([first, arrivals - first], axis=-1)
    return np.asarray(rng.multinomial(arrivals, shares[:, None, :]))


def _counted(scenario: Scenario) -> Floats:
    """Computes each variant's part of the conversions that come within the window."""
    return np.array([counted(scenario.delay(variant)) for variant in range(scenario.variants)])


def _by_delay(scenario: Scenario, x: Whole, rng: np.random.Generator) -> Parts:
    """Draws how late each conversion comes."""
    late = sorted({hour for delay in scenario.delays for hour, _ in delay})
    if len(late) == 1:
        return ((late[0], x),)
    parts: list[tuple[int, Whole]] = []
    left: Whole = x.copy()
    chances = np.array(
        [[dict(scenario.delay(v)).get(hour, 0.0) for hour in late] for v in range(x.shape[-1])]
    )
    for index, hour in enumerate(late):
        rest = chances[:, index:].sum(-1)
        now = np.where(rest > 0, chances[:, index] / np.where(rest > 0, rest, 1), 1.0)
        drawn = left if index == len(late) - 1 else rng.binomial(left, np.minimum(now, 1)).astype(np.int32)
        parts.append((hour, drawn))
        left = left - drawn
    return tuple(parts)


def _converted_by_the_end(scenario: Scenario, converted: Whole, rng: np.random.Generator) -> Ints:
    """Draws the conversions of a day's visitors that have happened by its end; the others have a day later."""
    if scenario.flaw is Flaw.EVENT_TIME or all(delay[-1][0] == 0 for delay in scenario.delays):
        return np.asarray(converted.sum(1))
    hours_left = converted.shape[1] - 1.0 - np.arange(converted.shape[1])
    happened = [converted_within(scenario.delay(v), hours_left) for v in range(scenario.variants)]
    return np.asarray(rng.binomial(converted, np.stack(happened, axis=-1)).sum(1))


def _spread(scenario: Scenario, converted: Whole, start: int, x: Whole, rng: np.random.Generator) -> None:
    """Adds conversions to the hours in which they happen; those after the horizon are lost."""
    for hour, drawn in _by_delay(scenario, converted, rng):
        first = start + hour
        room = max(min(converted.shape[1], x.shape[1] - first), 0)
        x[:, first : first + room] += drawn[:, :room].astype(x.dtype)
