"""The exact test at tiny counts: of T conversions, how many would fall to the challenger by luck alone?

Without an effect each conversion of a pair belongs to the challenger with chance ``w``, its frozen planned share
of the pair's visitors, so that of ``T`` conversions the challenger's are Binomial(T, w), whatever the rate is and
however it moves. Exact in finite samples, where the chi-square is not: with unequal shares and few conversions it
finds false winners in 3.2 to 3.8 % instead of 2.5. The price is power, because whole conversions rarely add up to
all of alpha, and because the units, which this needs not, are left out (cautious by one less the rate).

A :class:`State` holds, for either side by itself, the law of the challenger's conversions among the paths that have
not crossed. A look convolves it with the new conversions, cuts the tail that fits into what may be spent so far,
and carries over what did not fit (Jennison and Turnbull 2000, chapter 12, conditional on the totals).

The shares must be frozen: conversions of days with different shares, pooled, are not binomial.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import bdtr, bdtrc, expit, gammaln, logit

from cro_core.errors import InvalidInput
from cro_core.statistics.arrays import Floats
from cro_core.statistics.checks import check_between

APART = 0.05
"""Difference between a pair's planned shares above which the chi-square is not to be trusted at small counts."""

FEW = 60
"""Conversions expected in the smaller arm below which, with such shares, the exact test decides."""

TOLD_BELOW = 30
"""Conversions in an arm below which the exact p-value stands beside the chi-square."""

_FURTHEST = 30.0
"""Log odds beyond which no conversion comes from the other arm."""

_ROUNDING = 1e-12
"""Excess of a tail over what is left to spend that is none: sums are no more exact than that."""


@dataclass(frozen=True, slots=True)
class State:
    """Where the exact test of one challenger stands after some looks; start with ``State(share)``."""

    share: float
    """The challenger's planned share of the pair, in (0, 1)."""
    conversions: tuple[int, ...] = ()
    """Conversions of the pair at each look so far; they never fall."""
    low: tuple[int, ...] = ()
    """Conversions of the challenger at or below which each look crossed downwards; -1 where none could."""
    high: tuple[int, ...] = ()
    """Conversions of the challenger at or above which each look crossed upwards."""
    lower: Floats = field(default_factory=lambda: np.ones(1), compare=False)
    """Law of the challenger's conversions, 0 to all of them, among paths that have not crossed downwards."""
    upper: Floats = field(default_factory=lambda: np.ones(1), compare=False)
    """Law of the challenger's conversions among paths that have not crossed upwards."""
    spent_low: float = 0.0
    """Probability cut off below so far."""
    spent_high: float = 0.0
    """Probability cut off above so far."""

    @property
    def now(self) -> int:
        """Conversions of the pair at the last look; 0 before the first."""
        return self.conversions[-1] if self.conversions else 0

    def crossed(self, conversions: int) -> Literal["up", "down"] | None:
        """Which bound of the last look this many conversions of the challenger have reached."""
        if not self.conversions:
            return None
        return "up" if conversions >= self.high[-1] else "down" if conversions <= self.low[-1] else None

    def rewind(self, looks: int) -> State:
        """The state after the first so many looks, recomputed."""
        return State.after(self.share, list(zip(self.conversions, self.low, self.high, strict=True))[:looks])

    @classmethod
    def after(cls, share: float, looks: Sequence[tuple[int, int, int]]) -> State:
        """The state after looks with these conversions of the pair and bounds, low and high.

        Raises:
            InvalidInput: a share out of range, or looks out of order.
        """
        check_between(share, "share", 0, 1)
        state = cls(share)
        for conversions, low, high in looks:
            state = _cut(_grown(state, conversions), low, high)
        return state

    def as_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads back; the laws are recomputed, which takes a few milliseconds."""
        return {
            "share": self.share,
            "conversions": list(self.conversions),
            "low": list(self.low),
            "high": list(self.high),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> State:
        """The state that :meth:`as_json` wrote.

        Raises:
            InvalidInput: ``data`` is not such a state.
        """
        try:
            share = float(data["share"])
            rows = [tuple(int(v) for v in data[name]) for name in ("conversions", "low", "high")]
            return cls.after(share, list(zip(*rows, strict=True)))
        except (KeyError, TypeError, ValueError, InvalidInput) as error:
            raise InvalidInput(
                f"stored state of the exact test cannot be read ({error!r}): recompute it from the looks"
            ) from None


def step(state: State, conversions: int, allowed: float) -> State:
    """One further look: the bounds that cut from each side what may be spent by now.

    Args:
        state: after the look before.
        conversions: of the pair, control and challenger together, at least as many as at the look before.
        allowed: probability that may have been spent so far on each side, in [0, 1).

    Raises:
        InvalidInput: fewer conversions than before, or ``allowed`` out of range.
    """
    if not 0 <= allowed < 1:
        raise InvalidInput(f"allowed is {allowed!r}: give a probability from 0 to below 1", field="allowed")
    grown = _grown(state, conversions)
    low = _fitting(grown.lower, allowed - grown.spent_low) - 1
    high = conversions + 1 - _fitting(grown.upper[::-1], allowed - grown.spent_high)
    return _cut(grown, low, high)


def adjusted_p(before: State, conversions: int, total: int) -> float:
    """Two-sided p-value that knows of the looks before: where this look crosses, at most what both sides may spend.

    Twice the smaller chance of having crossed that side before or of standing now at least so far out
    (the stagewise ordering).

    Args:
        before: the state before this look.
        conversions: of the challenger.
        total: of the pair, at least as many as at the look before.
    """
    return min(1.0, 2 * min(_tails(before, conversions, total)))


@dataclass(frozen=True, slots=True)
class Uplift:
    """An uplift with its interval, as fractions: rate ratio less 1."""

    estimate: float | None
    """Where either tail is as large as the other; ``None`` without conversions of the control."""
    low: float
    """Lower end, at least -1."""
    high: float | None
    """Upper end; ``None`` where the data set no bound."""


def uplift(before: State, conversions: int, total: int, alpha: float) -> Uplift:
    """The uplift after the looks that were taken, by inverting the exact test (Clopper and Pearson 1934).

    Were the challenger's rate ``r`` times the control's, its chance of a conversion would be
    ``w r / (1 - w + w r)``: the interval holds every ``r`` at which neither tail is below half of ``alpha``, counting
    earlier looks that would have ended the experiment. It excludes 0 where :func:`adjusted_p` is below ``alpha``.

    Args:
        before: the state before this look.
        conversions: of the challenger.
        total: of the pair, at least as many as at the look before.
        alpha: one less the confidence level, in (0, 1).

    Raises:
        InvalidInput: ``alpha`` out of range.
    """
    check_between(alpha, "alpha", 0, 1)
    looks = list(zip(before.conversions, before.low, before.high, strict=True))

    def tails(odds: float) -> tuple[float, float]:
        return _tails(State.after(float(expit(odds)), looks), conversions, total)

    def solved(gap: Callable[[float], float]) -> float:
        """The uplift at the root of a gap that grows with the chance of a conversion to be the challenger's."""
        return math.expm1(brentq(gap, -_FURTHEST, _FURTHEST, xtol=1e-9) - float(logit(before.share)))

    def middle(odds: float) -> float:
        up, down = tails(odds)
        return up - down

    return Uplift(
        None if conversions == total else solved(middle) if conversions else -1.0,
        solved(lambda odds: tails(odds)[0] - alpha / 2) if conversions else -1.0,
        solved(lambda odds: alpha / 2 - tails(odds)[1]) if conversions < total else None,
    )


def exact_p(conversions: int, total: int, share: float) -> float:
    """Two-sided p-value of one look: twice the smaller tail of Binomial(total, share), at most 1.

    Args:
        conversions: of the challenger, from 0 to ``total``.
        total: of the pair.
        share: the challenger's planned share of the pair, in (0, 1).

    Raises:
        InvalidInput: conversions that cannot be, or a share out of range.
    """
    check_between(share, "share", 0, 1)
    if not 0 <= conversions <= total:
        raise InvalidInput(
            f"conversions are {conversions} of {total}: give the challenger's, at most the pair's",
            field="conversions",
        )
    up = float(bdtrc(conversions - 1, total, share)) if conversions else 1.0
    return min(1.0, 2 * min(up, float(bdtr(conversions, total, share))))


def decides(share: float, expected: float | None) -> bool:
    """Whether the exact test decides, and not the chi-square; to be fixed before the first visitor.

    Args:
        share: the challenger's planned share of the pair, in (0, 1).
        expected: conversions expected in the smaller arm; ``None`` where nobody knows, which counts as few.
    """
    return abs(2 * share - 1) > APART + 1e-9 and (expected is None or expected < FEW)


def _tails(before: State, conversions: int, total: int) -> tuple[float, float]:
    """Chance to have crossed upwards before or to stand now at least so high, and the same downwards."""
    grown = _grown(before, total)
    up = grown.spent_high + float(grown.upper[conversions:].sum())
    down = grown.spent_low + float(grown.lower[: conversions + 1].sum())
    return up, down


def _grown(state: State, conversions: int) -> State:
    """A further look with the conversions since the last one, not cut yet."""
    new = conversions - state.now
    if new < 0:
        raise InvalidInput(
            f"conversions are {conversions} after {state.now}: give looks in order", field="conversions"
        )
    law = _binomial(new, state.share)
    return replace(
        state,
        conversions=(*state.conversions, conversions),
        lower=np.convolve(state.lower, law) if new else state.lower,
        upper=np.convolve(state.upper, law) if new else state.upper,
    )


def _cut(grown: State, low: int, high: int) -> State:
    """The state after a look with these bounds."""
    lower, upper = grown.lower.copy(), grown.upper.copy()
    lower[: low + 1], upper[high:] = 0, 0
    return replace(
        grown,
        low=(*grown.low, low),
        high=(*grown.high, high),
        lower=lower,
        upper=upper,
        spent_low=grown.spent_low + float(grown.lower[: low + 1].sum()),
        spent_high=grown.spent_high + float(grown.upper[high:].sum()),
    )


def _fitting(law: Floats, left: float) -> int:
    """How many values from the start of a law may be cut with what is left to spend."""
    return int((law.cumsum() <= left + _ROUNDING).sum())


def _binomial(count: int, share: float) -> Floats:
    """The law of Binomial(count, share)."""
    k = np.arange(count + 1)
    ways = gammaln(count + 1) - gammaln(k + 1) - gammaln(count - k + 1)
    law: Floats = np.exp(ways + k * math.log(share) + (count - k) * math.log1p(-share))
    return law
