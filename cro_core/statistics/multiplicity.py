"""Many questions at once: a family of metrics, and a stream of experiments.

``holm`` and ``benjamini_hochberg`` correct a family whose p-values are all there. ``next_level`` sets the level of
each experiment of an endless stream from what is known when it starts, so that the false discoveries stay a small
part of all discoveries.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from cro_core.errors import InvalidInput
from cro_core.statistics.checks import check_fraction, check_number, check_p_value


@dataclass(frozen=True, slots=True)
class Trial:
    """One experiment of a stream."""

    starts: float
    """When its level had to be fixed, on any clock that all trials share (hours, timestamps)."""
    ends: float | None = None
    """When its result was known, not before ``starts``; ``None`` while it runs."""
    p_value: float | None = None
    """P-value of the experiment; ``None`` while it runs, or for good if it ended without one (it then counts as 1)."""


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
    from scipy.stats import false_discovery_control  # slow to import, and few sites choose this correction

    family = [1.0 if p is None else check_p_value(p) for p in p_values]
    return _restore(p_values, dict(enumerate(false_discovery_control(family).tolist())))


def next_level(
    trials: Sequence[Trial],
    levels: Sequence[float],
    now: float,
    alpha: float = 0.1,
    candidate: float = 0.5,
    wealth: float | None = None,
) -> float:
    """SAFFRON's level for an experiment that starts now, beside others that may still run (its asynchronous version).

    It uses only what had ended by now. Experiments whose p-values came out at most ``candidate`` give back what
    they were charged. An experiment is to be planned for this level and run at it: its sample then has the power it
    is meant to have, and its stagewise p-value is at most the level exactly where a boundary was crossed.

    Args:
        trials: the experiments so far, in the order of their starts; p-values must be valid at the moment they were
            read (stagewise, or always valid).
        levels: the level each was run at.
        now: on the trials' clock, not before the last start.
        alpha: false discovery rate to keep, in (0, 1).
        candidate: p-values up to here may be discoveries, in (0, 1); no level exceeds it.
        wealth: part of ``alpha`` to start with, above 0 and at most ``(1 - candidate) alpha``; half of that by
            default.

    Returns:
        The level to reject at, in [0, ``candidate``].

    Raises:
        InvalidInput: a p-value outside [0, 1], one of a trial that has not ended, an end before its start,
            ``alpha`` or ``candidate`` outside (0, 1), ``wealth`` out of its range, trials out of order, or not one
            level for each.

    Source: Zrnic, Ramdas and Jordan (2021), "Asynchronous online testing of multiple hypotheses", JMLR 22,
    section 3; Ramdas, Zrnic, Wainwright and Jordan (2018), "SAFFRON", ICML, for gamma.
    """
    share, start = _purse(alpha, candidate, wealth)
    starts = [_check(trial).starts for trial in trials]
    if len(levels) != len(trials) or any(a > b for a, b in pairwise([*starts, check_number(now, "now")])):
        raise InvalidInput(
            f"trials are {len(trials)} with {len(levels)} levels: give each its own, in order of their starts",
            field="trials",
        )
    p_values = [_p_value_at(trial, now) for trial in trials]
    refunds = list(accumulate((p <= candidate for p in p_values), initial=0))
    discovered = sorted(
        trial.ends
        for trial, p, level in zip(trials, p_values, levels, strict=True)
        if trial.ends is not None and p <= level
    )
    # a discovery pays from the first trial on that could know of it; refunded trials do not count
    number, origins = len(trials) + 1, [bisect_left(starts, end) for end in discovered]
    ages = [number - origin - (refunds[-1] - refunds[origin]) for origin in origins]
    return min(candidate, _payout(number - refunds[-1], ages, start, share))


def _restore(given: Sequence[float | None], adjusted: dict[int, float]) -> tuple[float | None, ...]:
    return tuple(None if p is None else min(1.0, adjusted[i]) for i, p in enumerate(given))


def _purse(alpha: float, candidate: float, wealth: float | None) -> tuple[float, float]:
    """What a discovery pays back, and what the stream starts with."""
    share = (1 - check_fraction(candidate, "candidate")) * check_fraction(alpha, "alpha")
    if wealth is None:
        return share, share / 2
    if not 0 < check_number(wealth, "wealth") <= share:
        raise InvalidInput(f"wealth is {wealth:g}: give more than 0 and at most {share:g}", field="wealth")
    return share, wealth


def _check(trial: Trial) -> Trial:
    starts = check_number(trial.starts, "starts")
    if trial.p_value is not None:
        check_p_value(trial.p_value)
        if trial.ends is None:
            raise InvalidInput("a trial has a p_value but no end: give both, or neither", field="ends")
    if trial.ends is not None and check_number(trial.ends, "ends") < starts:
        raise InvalidInput(f"a trial ends at {trial.ends:g}, before its start {starts:g}", field="ends")
    return trial


def _p_value_at(trial: Trial, now: float) -> float:
    """What was known of a trial by then; infinite where it had no p-value yet."""
    ended = trial.ends is not None and trial.ends <= now
    return trial.p_value if ended and trial.p_value is not None else math.inf


def _payout(age: int, ages: Sequence[int], start: float, total: float) -> float:
    """What the starting wealth and each discovery pay at their ages; the first discovery pays ``start`` less."""
    level = start * _gamma(age)
    if ages:
        level += (total - start) * _gamma(ages[0]) + total * sum(map(_gamma, ages[1:]))
    return level


def _gamma(j: int) -> float:
    # the factor makes the sequence sum to 1
    return 0.4374901658 * math.pow(j, -1.6)
