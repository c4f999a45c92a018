"""SAFFRON over a whole stream, written as the paper has it: what the product's levels are held against."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cro_core.statistics.multiplicity import Trial


@dataclass(frozen=True)
class Level:
    """What a stream grants one experiment."""

    level: float
    """Reject at p-values up to here."""
    rejected: bool | None
    """Whether it was rejected; ``None`` while it runs."""


def in_turn(p_values: Sequence[float]) -> list[Trial]:
    """Trials that ran one after another."""
    return [Trial(t, t + 1, p) for t, p in enumerate(p_values)]


def rejected(trial: Trial, level: float) -> bool | None:
    """Whether a trial that was run at that level is a discovery; ``None`` while it runs."""
    if trial.ends is None:
        return None
    return trial.p_value is not None and trial.p_value <= level


def saffron(
    trials: Sequence[Trial], alpha: float = 0.1, candidate: float = 0.5, wealth: float | None = None
) -> list[Level]:
    """One level per trial, in the order of their starts; each depends only on what had ended by its start.

    Source: Zrnic, Ramdas and Jordan (2021), JMLR 22, section 3; gamma of Ramdas et al. (2018), ICML.
    """
    share = (1 - candidate) * alpha
    start = share / 2 if wealth is None else wealth
    levels: list[Level] = []
    for t, trial in enumerate(trials):
        before = [(e, row) for e, row in zip(trials[:t], levels, strict=True)]
        ended = [(e, row) for e, row in before if e.ends is not None and e.ends <= trial.starts]
        paid_back = [e for e, _ in ended if e.p_value is not None and e.p_value <= candidate]

        def age(since: float, trials: Sequence[Trial] = trials[:t], back: Sequence[Trial] = paid_back) -> int:
            """Of this trial: those since then that were charged and not paid back, and itself."""
            return 1 + sum(e.starts >= since for e in trials) - sum(e.starts >= since for e in back)

        ages = [age(end) for end in sorted(e.ends for e, row in ended if row.rejected and e.ends is not None)]
        level = start * gamma(age(-math.inf))
        if ages:
            level += (share - start) * gamma(ages[0]) + share * sum(map(gamma, ages[1:]))
        level = min(candidate, level)
        levels.append(Level(level, rejected(trial, level)))
    return levels


def gamma(age: int) -> float:
    """The part of a wealth that is spent at that age; over all ages it sums to 1."""
    return 0.4374901658 * math.pow(age, -1.6)
