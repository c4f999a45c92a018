"""Many questions at once: a family of metrics, and a stream of experiments.

``holm`` and ``benjamini_hochberg`` correct a family whose p-values are all there. ``lord`` and ``saffron`` set
the level of each experiment of an endless stream from what is known when it starts, so that the false
discoveries stay a small part of all discoveries.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from cro_core.errors import InvalidInput
from cro_core.statistics.proportions import check_fraction, check_number


@dataclass(frozen=True, slots=True)
class Trial:
    """One experiment of a stream."""

    starts: float
    """When its level had to be fixed, on any clock that all trials share (hours, timestamps)."""
    ends: float | None = None
    """When its result was known, not before ``starts``; ``None`` while it runs."""
    p_value: float | None = None
    """Its p-value; ``None`` while it runs, or for good if it ended without one (it then counts as 1)."""


@dataclass(frozen=True, slots=True)
class Level:
    """What a stream grants one experiment."""

    level: float
    """Reject at p-values up to here; in [0, 1)."""
    rejected: bool | None
    """Whether it was rejected; ``None`` while it runs."""


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Adjusted p-values that keep the chance of any false rejection in the family.

    Args:
        p_values: p-values in [0, 1]; ``None`` for a metric that could not be computed. It stays in the family,
            which was fixed before the data came.

    Returns:
        Adjusted p-values in the same order, ``None`` where there was none.

    Raises:
        InvalidInput: a p-value is not in [0, 1].

    Source: Holm (1979), Scandinavian Journal of Statistics 6.
    """
    family = [1.0 if p is None else check_p_value(p) for p in p_values]
    order = sorted(range(len(family)), key=family.__getitem__)
    steps = accumulate(((len(family) - rank) * family[i] for rank, i in enumerate(order)), max)
    return _restore(p_values, dict(zip(order, steps, strict=True)))


def benjamini_hochberg(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Adjusted p-values that keep the expected part of false rejections among all rejections.

    Args:
        p_values: as for ``holm``.

    Returns:
        Adjusted p-values in the same order, ``None`` where there was none.

    Raises:
        InvalidInput: a p-value is not in [0, 1].

    Source: Benjamini and Hochberg (1995), J. R. Statist. Soc. B 57.
    """
    family = [1.0 if p is None else check_p_value(p) for p in p_values]
    order = sorted(range(len(family)), key=family.__getitem__, reverse=True)
    size = len(family)
    steps = accumulate((size / (size - rank) * family[i] for rank, i in enumerate(order)), min)
    return _restore(p_values, dict(zip(order, steps, strict=True)))


def lord(p_values: Sequence[float], alpha: float = 0.05, wealth: float | None = None) -> tuple[Level, ...]:
    """LORD++: levels for experiments that run one after another.

    Args:
        p_values: p-values in [0, 1], in the order of the experiments.
        alpha: false discovery rate to keep, in (0, 1).
        wealth: part of ``alpha`` to start with, above 0 and at most ``alpha``; a tenth of it by default.

    Returns:
        One level per experiment; each depends on earlier p-values only.

    Raises:
        InvalidInput: a p-value outside [0, 1], ``alpha`` outside (0, 1) or ``wealth`` outside (0, alpha].

    Source: Ramdas, Yang, Wainwright and Jordan (2017), "Online control of the false discovery rate with
    decaying memory", NeurIPS; the sequence gamma is Javanmard and Montanari's (2018).
    """
    start = _wealth(alpha, wealth, alpha / 10, alpha)
    found: list[int] = []
    levels = []
    for t, p in enumerate(map(check_p_value, p_values), start=1):
        level = _payout(t, [t - earlier for earlier in found], start, alpha, _gamma_lord)
        levels.append(Level(level, p <= level))
        if p <= level:
            found.append(t)
    return tuple(levels)


def saffron(
    trials: Sequence[Trial], alpha: float = 0.1, candidate: float = 0.5, wealth: float | None = None
) -> tuple[Level, ...]:
    """SAFFRON for experiments that may run side by side (its asynchronous version).

    A level is fixed when the experiment starts and uses only what had ended by then. Experiments whose
    p-values come out at most ``candidate`` give back what they were charged.

    Args:
        trials: the stream; p-values must be valid at the moment they were read (stagewise, or always valid).
        alpha: false discovery rate to keep, in (0, 1).
        candidate: p-values up to here may be discoveries, in (0, 1); no level exceeds it.
        wealth: part of ``alpha`` to start with, above 0 and at most ``(1 - candidate) alpha``; half of that by
            default.

    Returns:
        One level per trial, in the order given. Levels go by ``starts``, ties by the order given.

    Raises:
        InvalidInput: a p-value outside [0, 1], one of a trial that has not ended, an end before its start,
            ``alpha`` or ``candidate`` outside (0, 1), or ``wealth`` out of its range.

    Source: Zrnic, Ramdas and Jordan (2021), "Asynchronous online testing of multiple hypotheses", JMLR 22,
    section 3; Ramdas, Zrnic, Wainwright and Jordan (2018), "SAFFRON", ICML, for gamma.
    """
    share, start = _purse(alpha, candidate, wealth)
    order = sorted(range(len(trials)), key=lambda i: _check(trials[i]).starts)
    stream = [trials[i] for i in order]
    levels: list[Level] = []
    for t, trial in enumerate(stream):
        level = min(candidate, _asynchronous(stream[:t], levels, trial.starts, candidate, start, share))
        p = 1.0 if trial.p_value is None else trial.p_value
        levels.append(Level(level, None if trial.ends is None else p <= level))
    place = {i: t for t, i in enumerate(order)}
    return tuple(levels[place[i]] for i in range(len(trials)))


def next_level(
    trials: Sequence[Trial],
    levels: Sequence[float],
    now: float,
    alpha: float = 0.1,
    candidate: float = 0.5,
    wealth: float | None = None,
) -> float:
    """The level that :func:`saffron` grants an experiment that starts now, from what is on record.

    An experiment is to be planned for this level and run at it: its sample then has the power it is meant to
    have, and its stagewise p-value is at most the level exactly where a boundary was crossed.

    Args:
        trials: the experiments so far, in the order of their starts.
        levels: the level each was run at.
        now: on the trials' clock, not before the last start.
        alpha: as for :func:`saffron`.
        candidate: as for :func:`saffron`.
        wealth: as for :func:`saffron`.

    Raises:
        InvalidInput: as :func:`saffron`; or trials out of order, or not one level for each.
    """
    share, start = _purse(alpha, candidate, wealth)
    starts = [_check(trial).starts for trial in trials]
    if len(levels) != len(trials) or any(a > b for a, b in pairwise([*starts, check_number(now, "now")])):
        raise InvalidInput(
            f"trials are {len(trials)} with {len(levels)} levels: give each its own, in order of their starts",
            field="trials",
        )
    known = [
        Level(level, trial.ends is not None and trial.p_value is not None and trial.p_value <= level)
        for trial, level in zip(trials, levels, strict=True)
    ]
    return min(candidate, _asynchronous(trials, known, now, candidate, start, share))


def in_turn(p_values: Sequence[float]) -> tuple[Trial, ...]:
    """Trials that ran one after another, for ``saffron``.

    Args:
        p_values: p-values in [0, 1], in the order of the experiments.
    """
    return tuple(Trial(t, t + 1, p) for t, p in enumerate(p_values))


def check_p_value(value: float) -> float:
    """Returns ``value`` as a float if it is a p-value.

    Raises:
        InvalidInput: it is not in [0, 1].
    """
    p = check_number(value, "p_value")
    if not 0 <= p <= 1:
        raise InvalidInput(f"p_value is {p:g}: give a number from 0 to 1", field="p_value")
    return p


def _restore(given: Sequence[float | None], adjusted: dict[int, float]) -> tuple[float | None, ...]:
    return tuple(None if p is None else min(1.0, adjusted[i]) for i, p in enumerate(given))


def _wealth(alpha: float, wealth: float | None, default: float, most: float) -> float:
    check_fraction(alpha, "alpha")
    if wealth is None:
        return default
    if not 0 < check_number(wealth, "wealth") <= most:
        raise InvalidInput(f"wealth is {wealth:g}: give more than 0 and at most {most:g}", field="wealth")
    return wealth


def _purse(alpha: float, candidate: float, wealth: float | None) -> tuple[float, float]:
    """What a discovery pays back, and what the stream starts with."""
    share = (1 - check_fraction(candidate, "candidate")) * check_fraction(alpha, "alpha")
    return share, _wealth(alpha, wealth, share / 2, share)


def _check(trial: Trial) -> Trial:
    starts = check_number(trial.starts, "starts")
    if trial.p_value is not None:
        check_p_value(trial.p_value)
        if trial.ends is None:
            raise InvalidInput("a trial has a p_value but no end: give both, or neither", field="ends")
    if trial.ends is not None and check_number(trial.ends, "ends") < starts:
        raise InvalidInput(f"a trial ends at {trial.ends:g}, before its start {starts:g}", field="ends")
    return trial


def _asynchronous(
    before: Sequence[Trial], levels: Sequence[Level], now: float, candidate: float, start: float, share: float
) -> float:
    """The level of the trial that starts ``now``, given those that started before it."""
    number, starts = len(before) + 1, [trial.starts for trial in before]
    refunds = list(accumulate((_refunded(trial, now, candidate) for trial in before), initial=0))
    found = sorted(
        trial.ends
        for trial, level in zip(before, levels, strict=True)
        if level.rejected and trial.ends is not None and trial.ends <= now
    )
    # a discovery pays from the first trial on that could know of it; refunded trials do not count
    origins = [bisect_left(starts, end) for end in found]
    ages = [number - origin - (refunds[-1] - refunds[origin]) for origin in origins]
    return _payout(number - refunds[-1], ages, start, share, _gamma_saffron)


def _refunded(trial: Trial, now: float, candidate: float) -> bool:
    ended = trial.ends is not None and trial.ends <= now
    return ended and trial.p_value is not None and trial.p_value <= candidate


def _payout(
    age: int, ages: Sequence[int], start: float, total: float, gamma: Callable[[int], float]
) -> float:
    """What the starting wealth and each discovery pay at their ages; the first discovery pays ``start`` less."""
    level = start * gamma(age)
    if ages:
        level += (total - start) * gamma(ages[0]) + total * sum(map(gamma, ages[1:]))
    return level


def _gamma_lord(j: int) -> float:
    return 0.07720838 * math.log(max(j, 2)) / (j * math.exp(math.sqrt(math.log(j))))


def _gamma_saffron(j: int) -> float:
    # the factor makes the sequence sum to 1
    return 0.4374901658 * math.pow(j, -1.6)
