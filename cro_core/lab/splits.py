"""Simulates the check of the split: how often it alarms without a fault, and whether a wave of bots ends in a veto."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cro_core.lab.measures import Share, share
from cro_core.lab.scenario import Flaw, Scenario
from cro_core.lab.simulated_traffic import Whole, simulate
from cro_core.statistics import srm
from cro_core.statistics.arrays import Bools, Floats

SEGMENTS = ((0.6, 0.3, 0.1), (0.4, 0.3, 0.2, 0.1))
"""Parts of the visitors in the segments of each dimension that is checked, such as device and source."""


@dataclass(frozen=True, slots=True)
class Wave:
    """What becomes of a wave of bots that one variant gets."""

    alarmed: Share
    """Programmes in which the total or a day alarms at any hour."""
    standing: Share
    """Programmes with an alarm in which the alarm still is a veto at the end."""


def srm_alarms(
    scenario: Scenario, programmes: int, rng: np.random.Generator, *, segments: bool = True
) -> Share:
    """Measures in how many programmes the split is called broken at any look, though nothing is wrong with it.

    Total and days are checked every hour, segments once a day.

    Args:
        scenario: whose traffic is checked.
        programmes: how many.
        rng: source of randomness.
        segments: whether segments count too.
    """

    def alarmed(size: int) -> Bools:
        traffic = simulate(scenario, size, rng)
        found = _by_hour(scenario, traffic.n, traffic.shares).any(1)
        return np.asarray(
            found | _by_segment(scenario, traffic.n, traffic.shares, rng) if segments else found
        )

    return share(np.concatenate([alarmed(size) for size in _sizes(programmes)]))


def bot_wave(
    scenario: Scenario,
    programmes: int,
    rng: np.random.Generator,
    *,
    bots: int = 240,
    hours: int = 6,
    at: int = 6,
) -> Wave:
    """Measures whether a wave of visitors that only the first challenger gets is found, and not forgotten.

    Args:
        scenario: whose traffic the bots add to.
        programmes: how many; the wave comes on any day from the second to the last but one.
        rng: source of randomness.
        bots: how many come.
        hours: over which they come evenly.
        at: hours since the start of that day at which they begin to come.
    """
    alarmed, standing = [], []
    for size in _sizes(programmes):
        traffic = simulate(scenario, size, rng)
        start = 24 * rng.integers(1, scenario.days - 2, size) + at
        wave = np.diff(np.round(np.linspace(0, bots, hours + 1))).astype(int)
        units = traffic.n.copy()
        for hour, more in enumerate(wave):
            units[np.arange(size), start + hour, 1] += more
        now = _by_hour(scenario, units, traffic.shares)
        ever = np.asarray(now.any(1))
        alarmed.append(ever)
        standing.append((now[:, -1] if scenario.flaw is Flaw.FORGOTTEN_ALARM else ever)[ever])
    return Wave(share(np.concatenate(alarmed)), share(np.concatenate(standing)))


def _sizes(programmes: int) -> list[int]:
    return [min(1_000, programmes - start) for start in range(0, programmes, 1_000)]


def _by_hour(scenario: Scenario, units: Whole, shares: Floats) -> Bools:
    """Finds the hours at which the total or a day alarms as its counts stand, shape ``(programmes, hours)``."""
    days = np.repeat(np.arange(len(scenario.lengths)), scenario.lengths)
    epochs = len(scenario.lengths) if scenario.adaptive else 1
    so_far = np.zeros((len(units), epochs, scenario.variants))
    today = np.zeros((len(units), 1, scenario.variants))
    broken, now = np.zeros((len(units), len(scenario.lengths)), bool), np.zeros(units.shape[:2], bool)
    for hour, day in enumerate(days):
        epoch = day if scenario.adaptive else 0
        so_far[:, epoch] += units[:, hour]
        today = today + units[:, [hour]] if hour and days[hour - 1] == day else units[:, [hour]].astype(float)
        broken[:, day] = srm.alarms(today, shares[:, [day]], srm.THRESHOLD * len(scenario.lengths))
        total = srm.alarms(so_far[:, : epoch + 1], shares[:, : epoch + 1])
        now[:, hour] = total | broken.any(1)
    return now


def _by_segment(scenario: Scenario, units: Whole, shares: Floats, rng: np.random.Generator) -> Bools:
    """Finds the programmes in which a segment alarms at the end of any day."""
    starts = np.cumsum((0, *scenario.lengths[:-1]))
    by_day = np.add.reduceat(units, starts, axis=1)
    found = np.zeros(len(units), bool)
    for parts in SEGMENTS:
        counts = rng.multinomial(by_day, parts)
        threshold = srm.THRESHOLD * len(parts) * len(SEGMENTS)
        for day in range(1, by_day.shape[1] + 1):
            for segment in range(len(parts)):
                found |= srm.alarms(counts[:, :day, :, segment], shares[:, :day], threshold)
    return found
