"""Simulates visitors and conversions of thousands of experiments, hour by hour."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cro_core.assignment.allocation import next_shares
from cro_core.assignment.buckets import equal_shares
from cro_core.lab.scenario import Flaw, Scenario
from cro_core.statistics.arrays import Bools, Floats, Ints


@dataclass(frozen=True, slots=True)
class Traffic:
    """Visitors and conversions of simulated experiments, hour by hour."""

    n: Ints
    """Visitors of each hour, shape ``(programmes, hours, variants)``."""
    x: Ints
    """Visitors who convert, in the hour of their visit, shape ``(programmes, hours, variants)``."""
    shares: Floats
    """Planned shares, shape ``(programmes, periods, variants)``: one period a day."""


def simulate(scenario: Scenario, programmes: int, rng: np.random.Generator) -> Traffic:
    """Simulates the traffic of experiments; with the flaw ``event_time`` conversions stand where they happen."""
    hours, variants = scenario.hours, scenario.variants
    stretch = 1 if scenario.flaw is Flaw.MOVING_SHARES else 24
    rates = scenario.rates() * _in_window(scenario)
    n, x = np.zeros((2, programmes, hours, variants), np.int64)
    shares = np.tile(np.array(equal_shares(variants)), (programmes, hours // stretch, 1))
    units, conversions = np.zeros((2, *shares.shape))
    for period in range(shares.shape[1]):
        now = slice(period * stretch, (period + 1) * stretch)
        if scenario.adaptive and period:
            past = units[:, :period], conversions[:, :period]
            shares[:, period] = next_shares(
                *past, floor=scenario.floor, control_matched=scenario.control_matched
            )
        n[:, now], converted = _visits(scenario, shares[:, max(period - 1, 0) : period + 1], now, rates, rng)
        if scenario.flaw is Flaw.EVENT_TIME:
            _spread(scenario, converted, now.start, x, rng)
            converted = x[:, now]
        x[:, now] = converted
        units[:, period] = n[:, now].sum(1)
        conversions[:, period] = _converted_by_midnight(scenario, converted, rng)
        if period:
            conversions[:, period - 1] = x[:, now.start - stretch : now.start].sum(1)
    return Traffic(n, x, shares)


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
    x = rng.binomial(n, scenario.rates()[:, :1] * factor[:, None])
    shares = np.full((programmes, scenario.days, 2), 0.5)
    sides = [np.stack([~mine, mine], axis=-1).astype(np.int64) for mine in treated.T]
    return [Traffic(n @ side, x @ side, shares) for side in sides]


def _visits(
    scenario: Scenario, shares: Floats, now: slice, rates: Floats, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Draws visitors and conversions of a period that are counted; ``shares`` end with the period's own."""
    arrivals = scenario.arrivals()[now]
    cached = np.round(scenario.cached * arrivals).astype(np.int64)
    n = _split(arrivals - cached, shares[:, -1], rng)
    x = rng.binomial(n, rates[now])
    if scenario.flaw is not Flaw.CACHED:
        return n, x
    stale = _split(cached, shares[:, 0], rng)
    return n + stale, x + rng.binomial(stale, rates[now] / 2)


def _split(arrivals: Ints, shares: Floats, rng: np.random.Generator) -> Ints:
    """Splits arrivals into visitors per hour and variant, each visitor by an independent hash."""
    if shares.shape[-1] == 2:
        first = rng.binomial(arrivals, shares[:, :1])
        return np.stack([first, arrivals - first], axis=-1)
    return np.asarray(rng.multinomial(arrivals, shares[:, None, :]))


def _in_window(scenario: Scenario) -> float:
    """Computes the share of conversions that come within the window."""
    return -math.expm1(-scenario.window_hours / scenario.delay_hours) if scenario.delay_hours else 1.0


def _converted_by_midnight(scenario: Scenario, converted: Ints, rng: np.random.Generator) -> Ints:
    """Draws the conversions of a day's visitors that have happened by its end; the others have a day later."""
    if not scenario.delay_hours or scenario.flaw is Flaw.EVENT_TIME:
        return np.asarray(converted.sum(1))
    hours_left = np.minimum(len(converted[0]) - np.arange(len(converted[0])) - 0.5, scenario.window_hours)
    happened = -np.expm1(-hours_left / scenario.delay_hours) / _in_window(scenario)
    return np.asarray(rng.binomial(converted, happened[:, None]).sum(1))


def _spread(scenario: Scenario, converted: Ints, start: int, x: Ints, rng: np.random.Generator) -> None:
    """Adds conversions to the hours in which they happen; those after the horizon are lost."""
    edges = np.arange(math.ceil(scenario.window_hours) + 1)
    chance = np.diff(-np.expm1(-edges / scenario.delay_hours))
    for hour in range(converted.shape[1]):
        lags = rng.multinomial(converted[:, hour], chance / chance.sum())
        room = min(lags.shape[-1], x.shape[1] - start - hour)
        x[:, start + hour : start + hour + room] += np.moveaxis(lags, -1, 1)[:, :room]
