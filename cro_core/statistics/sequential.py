"""Group-sequential boundaries: how extreme a statistic must be at each of many looks.

The statistic is followed on the scale of Brownian motion: ``B = Z * sqrt(information)`` has drift
``drift * information`` and independent increments. Boundaries are two-sided and symmetric, given as
critical ``|Z|``, with half of alpha spent on each side.

Two clocks (Lan and DeMets 1989, *Biometrics* 45:1017). *Spending time* in [0, 1], planned traffic or the
calendar, says how much of alpha may be used so far; *information time*, the variance of the statistic on
any scale, says how the looks are correlated. Merging the two into one clock that counts visitors is wrong
whenever the conversion rate moves.

The recursion is that of Armitage, McPherson and Rowe (1969, *JRSS A* 132:235) by Gauss-Legendre quadrature:
a :class:`State` holds the density of ``B`` at the last look among paths that have not crossed, so a further
look is one step of about a millisecond. Only the density without drift is ever integrated; any other drift
is the same density times the likelihood ratio ``exp(drift * b - drift**2 * information / 2)``, which is
why one state serves boundaries, power and estimation. General reference: Jennison and Turnbull (2000),
*Group Sequential Methods*, chapters 2, 4, 7 and 19.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.polynomial.legendre import leggauss, legvander
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from cro_core.errors import InvalidInput
from cro_core.statistics.arrays import Floats
from cro_core.statistics.checks import check_between, check_lengths, check_number

FAMILIES: Mapping[str, float] = {
    "hwang_shih_decani": -4.0,
    "obrien_fleming": math.nan,
    "pocock": math.nan,
    "kim_demets": 3.0,
}
"""Spending families and the default of their parameter; NaN where there is none."""

FURTHEST = 8.0
"""Critical |Z| of a look that may spend (almost) nothing: crossing it has probability 1e-15."""

LEAST_STEP = 1e-4
"""Smallest relative growth of information that makes a new look."""

_STRAIGHT = 1e-16
"""Size of gamma below which Hwang, Shih and DeCani's family spends evenly, to the last digit."""

_PANEL = 128
"""Nodes of a short quadrature rule."""

_FURTHEST_JUMP = 39.0
"""Standard deviations beyond which the normal density is 0 to the computer."""

_LARGEST_EXPONENT = 700.0
"""Largest exponent whose power is a number."""

_RESOLUTION = 2.0
"""Quadrature nodes per standard deviation of an increment; 2 gives ten digits."""


@dataclass(frozen=True, slots=True)
class Spending:
    """How alpha is used up over the life of an experiment.

    Families: ``hwang_shih_decani`` (1990, parameter gamma; negative spends late), ``obrien_fleming`` and
    ``pocock`` (Lan and DeMets 1983) and ``kim_demets`` (1987, parameter rho > 0).

    Raises:
        InvalidInput: an unknown family, or a parameter it cannot have.
    """

    family: str = "hwang_shih_decani"
    parameter: float | None = None
    """``None`` is the family's default: gamma = -4, rho = 3."""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise InvalidInput(
                f"spending family is {self.family!r}: choose from {', '.join(FAMILIES)}", field="family"
            )
        if self.parameter is None:
            return
        if math.isnan(FAMILIES[self.family]):
            raise InvalidInput(
                f"parameter is {self.parameter!r}: {self.family} has none, leave it out", field="parameter"
            )
        check_number(self.parameter, "parameter")
        if self.family == "kim_demets":
            check_between(self.parameter, "parameter", 0, math.inf)

    def spent(self, time: ArrayLike, alpha: float) -> Floats:
        """Probability that may have been used up to ``time``.

        Args:
            time: elapsed share of the experiment, clipped to [0, 1]; any shape.
            alpha: all there is to spend, in (0, 1).

        Raises:
            InvalidInput: a time that is no number, or ``alpha`` outside (0, 1).
        """
        check_between(alpha, "alpha", 0, 1)
        u = _shares_of_time(time)
        if self.family == "obrien_fleming":
            with np.errstate(divide="ignore"):
                return np.asarray(2 * ndtr(ndtri(alpha / 2) / np.sqrt(u)))
        return np.asarray(alpha * self._part(u))

    def _part(self, u: Floats) -> Floats:
        """Part of alpha that may have been used up to ``u``, of a family in which it does not depend on alpha."""
        size = abs(self.shape)
        if self.family == "pocock":
            return np.asarray(np.log1p((math.e - 1) * u))
        if self.family == "kim_demets":
            return np.asarray(u**size)
        if size < _STRAIGHT:
            return u
        early = np.expm1(-size * u) / math.expm1(-size)
        late = np.exp(size * (u - 1))  # by its logarithm, which no parameter overflows
        return np.asarray(early * late if self.shape < 0 else early)

    @property
    def shape(self) -> float:
        """The parameter in force; NaN for a family without one."""
        return FAMILIES[self.family] if self.parameter is None else self.parameter


@dataclass(frozen=True, slots=True)
class State:
    """Where the recursion stands after some looks; start with ``State()``.

    The density is symmetric, so only its half ``b >= 0`` is kept, at Gauss-Legendre nodes between 0 and the
    last boundary.
    """

    information: tuple[float, ...] = ()
    """Information at each look so far, increasing, on any scale."""
    critical: tuple[float, ...] = ()
    """Critical |Z| at each look so far."""
    spent: float = 0.0
    """Probability per side allowed for so far."""
    mass: Floats = field(default_factory=lambda: np.array([0.5]), compare=False)
    """Density times quadrature weight at the nodes: what is left is twice its sum."""

    @property
    def now(self) -> float:
        """Information at the last look; 0 before the first."""
        return self.information[-1] if self.information else 0.0

    @property
    def width(self) -> float:
        """Boundary of ``B`` at the last look; 0 before the first."""
        return self.critical[-1] * math.sqrt(self.now) if self.critical else 0.0

    def is_new(self, information: float) -> bool:
        """Whether ``information`` has grown enough since the last look to make another one."""
        return information > self.now * (1 + LEAST_STEP)

    def rewind(self, looks: int) -> State:
        """The state after the first so many looks, recomputed."""
        state = State()
        for information, critical in zip(self.information[:looks], self.critical[:looks], strict=True):
            state = advance(state, information, critical)
        return state

    def as_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads back without loss."""
        return {
            "information": list(self.information),
            "critical": list(self.critical),
            "spent": self.spent,
            "mass": self.mass.tolist(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> State:
        """The state that :meth:`as_json` wrote.

        Raises:
            InvalidInput: ``data`` is not such a state.
        """
        try:
            information = tuple(float(v) for v in data["information"])
            critical = tuple(float(v) for v in data["critical"])
            state = cls(information, critical, float(data["spent"]), np.asarray(data["mass"], float))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"stored state cannot be read ({error!r}): recompute it from the looks"
            ) from None
        if len(information) != len(critical) or state.mass.ndim != 1 or not np.isfinite(state.mass).all():
            raise InvalidInput("stored state is inconsistent: recompute it from the looks", field="state")
        return state


@dataclass(frozen=True, slots=True)
class Corridor:
    """The recursion between a lower and an upper bound that need not mirror each other; start with ``Corridor()``.

    The density of ``B`` under one drift is kept at Gauss-Legendre nodes between the bounds of the last look.
    """

    now: float = 0.0
    """Information at the last look; 0 before the first."""
    low: float = 0.0
    """Lower bound of ``B`` at the last look."""
    high: float = 0.0
    """Upper bound of ``B`` at the last look."""
    mass: Floats = field(default_factory=lambda: np.array([1.0]), compare=False)
    """Density times quadrature weight at the nodes: what is left is their sum."""
    drift: float = 0.0
    """Drift that the density is of: the others follow from it, those near it without loss."""

    def after(self, information: float, low: float, high: float, following: float | None = None) -> Corridor:
        """The corridor after a look.

        Args:
            information: information at this look, above the last.
            low: lower bound of ``B`` at this look.
            high: upper bound of ``B`` at this look, above ``low``.
            following: information at the look after it, so that the nodes are fine enough for that one too; an
                interpolation later would drown the far tail, which a large drift weighs up again.

        Raises:
            InvalidInput: information that does not grow, or bounds in the wrong order.
        """
        check_between(information, "information", self.now, math.inf)
        check_between(high, "high", low, math.inf)
        sd = math.sqrt(information - self.now)
        finest = sd if following is None else min(sd, math.sqrt(following - information))
        position, weight = _panels(_node_count(high - low, finest))
        arrived = self._nodes + self.drift * (information - self.now)
        density = _jumped(low + (high - low) * position, arrived, self.mass, sd)
        return Corridor(float(information), low, high, density * weight * (high - low), self.drift)

    def beyond(self, information: float, bound: ArrayLike, drift: ArrayLike = 0.0) -> Floats:
        """Probability of no exit so far and ``B >= bound`` at a next look; arguments as for :func:`crossing`."""
        return _tail(self._nodes, self.mass, self.now, information, bound, drift, self.drift)

    @property
    def _nodes(self) -> Floats:
        return self.low + (self.high - self.low) * _panels(len(self.mass))[0]


@dataclass(frozen=True, slots=True)
class Exits:
    """Where paths cross, by look and drift; arrays of shape ``(looks, drifts)``."""

    upper: Floats
    """Probability of crossing upwards first at that look."""
    lower: Floats
    """Probability of crossing downwards first at that look."""


@dataclass(frozen=True, slots=True)
class Design:
    """Boundaries of a planned schedule and what they cost."""

    critical: Floats
    """Critical |Z| at each look."""
    inflation: float
    """Planned information over that of one look at the end with the same power."""
    expected: float
    """Mean information used under the planned effect, in the same unit."""
    expected_null: float
    """Mean information used without effect, in the same unit."""


def step(state: State, information: float, spend_to: float) -> tuple[State, float]:
    """One look: its boundary, and the state after it.

    Args:
        state: where the recursion stands.
        information: information at this look, more than ``LEAST_STEP`` above the last.
        spend_to: probability per side that may be used up to and including this look.

    Returns:
        The new state and the critical |Z|, at most ``FURTHEST``.

    Raises:
        InvalidInput: information that does not grow, or ``spend_to`` outside (0, 0.5).
    """
    check_between(spend_to, "spend_to", -1e-300, 0.5)
    _check_growth(state, information)
    allowed = spend_to - state.spent
    critical = _solve(state, information, allowed)
    return advance(state, information, critical, max(spend_to, state.spent)), critical


def advance(state: State, information: float, critical: float, spent: float | None = None) -> State:
    """The state after a look with a given boundary.

    Args:
        state: where the recursion stands.
        information: information at this look, more than ``LEAST_STEP`` above the last.
        critical: critical |Z| at this look, above 0.
        spent: probability per side allowed for so far; ``None`` takes what the boundary really uses.

    Raises:
        InvalidInput: information that does not grow, or a boundary that is not above 0.
    """
    _check_growth(state, information)
    check_between(critical, "critical", 0, math.inf)
    sd = math.sqrt(information - state.now)
    nodes, mass = _resolved(state, sd)
    width = critical * math.sqrt(information)
    position, weight = _legendre(_node_count(width, sd))
    target = width * position
    density = (_bell(target[:, None], nodes, sd) + _bell(target[:, None], -nodes, sd)) @ mass
    if spent is None:
        spent = state.spent + float(_beyond(width, nodes, sd) @ mass)
    return State(
        (*state.information, float(information)),
        (*state.critical, float(critical)),
        spent,
        density * weight * width,
    )


def crossing(state: State, information: float, bound: ArrayLike, drift: ArrayLike = 0.0) -> Floats:
    """Probability of no crossing so far and ``B >= bound`` at a next look.

    Args:
        state: where the recursion stands.
        information: information at the next look, above the last.
        bound: value(s) of ``B``; any shape that broadcasts with ``drift``.
        drift: drift(s) of ``B`` per unit of information.

    Raises:
        InvalidInput: information that does not grow.
    """
    _check_growth(state, information)
    nodes, mass = _resolved(state, math.sqrt(information - state.now))
    nodes, mass = np.concatenate([-nodes[::-1], nodes]), np.concatenate([mass[::-1], mass])
    return _tail(nodes, mass, state.now, information, bound, drift)


def _tail(
    nodes: Floats,
    mass: Floats,
    now: float,
    information: float,
    bound: ArrayLike,
    drift: ArrayLike,
    known: float = 0.0,
) -> Floats:
    """Probability of ``B >= bound`` at a next look under a drift, from the density under a known one at ``now``."""
    bound, drift = np.broadcast_arrays(np.asarray(bound, float), np.asarray(drift, float))
    sd = math.sqrt(information - now)
    slope = drift[..., None]
    exponent = (slope - known) * nodes - (slope**2 - known**2) * now / 2
    likelihood = np.exp(np.minimum(exponent, _LARGEST_EXPONENT))  # where it is larger no mass is left
    tail = ndtr((nodes + slope * sd * sd - bound[..., None]) / sd)
    result: Floats = (likelihood * tail) @ mass
    return result


def exits(information: ArrayLike, critical: ArrayLike, drift: ArrayLike = 0.0) -> Exits:
    """Probabilities of crossing at each look under any drift.

    Args:
        information: information at each look, increasing; shape ``(looks,)``.
        critical: critical |Z| at each look, same shape.
        drift: drift(s) of ``B`` per unit of information: with information 1 at the end, the mean of the last
            Z. A number or shape ``(drifts,)``.

    Raises:
        InvalidInput: information that does not grow, or boundaries that are not above 0.
    """
    drifts = np.atleast_1d(np.asarray(drift, float))
    upper, lower, state = [], [], State()
    for t, z in zip(np.asarray(information, float), np.asarray(critical, float), strict=True):
        bound = z * math.sqrt(t)
        upper.append(crossing(state, t, bound, drifts))
        lower.append(crossing(state, t, bound, -drifts))
        state = advance(state, t, z)
    return Exits(np.array(upper), np.array(lower))


def boundaries(
    information: ArrayLike,
    *,
    alpha: float = 0.05,
    spending: Spending | None = None,
    spending_time: ArrayLike | None = None,
) -> Floats:
    """Critical |Z| at each look of a schedule.

    Args:
        information: information at each look, increasing; shape ``(looks,)``.
        alpha: two-sided, in (0, 1).
        spending: the family; ``None`` is Hwang-Shih-DeCani with gamma = -4.
        spending_time: elapsed share at each look; ``None`` takes information over its last value.

    Raises:
        InvalidInput: looks out of order, or an argument out of range.
    """
    times = np.asarray(information, float)
    check_between(alpha, "alpha", 0, 1)
    for value in times:
        check_number(value, "information")
    clock = times / times[-1] if spending_time is None else np.atleast_1d(np.asarray(spending_time, float))
    check_lengths(information=times.tolist(), spending_time=clock.tolist())
    allowed = (spending or Spending()).spent(clock, alpha / 2)
    state = State()
    for t, spend_to in zip(times, allowed, strict=True):
        state, _ = step(state, float(t), float(spend_to))
    return np.array(state.critical)


def power(information: ArrayLike, critical: ArrayLike, drift: float) -> float:
    """Probability of crossing in the direction of the drift; arguments as in :func:`exits`."""
    crossings = exits(information, critical, abs(drift))
    return float(crossings.upper.sum())


def drift_for_power(information: ArrayLike, critical: ArrayLike, target: float) -> float:
    """The drift per unit of information at which :func:`power` is ``target``.

    Raises:
        InvalidInput: a target that no positive drift has.
    """
    times = np.asarray(information, float)
    check_between(target, "target", power(times, critical, 0.0), 1)
    scale = 1 / math.sqrt(times[-1])

    def lacking(size: float) -> float:
        return power(times, critical, size * scale) - target

    return float(brentq(lacking, 0, 20, xtol=1e-10)) * scale


def design(
    information: ArrayLike,
    *,
    alpha: float = 0.05,
    target: float = 0.8,
    spending: Spending | None = None,
    spending_time: ArrayLike | None = None,
) -> Design:
    """Boundaries of a schedule with the sample they take, relative to one look at the end.

    Args:
        information: as in :func:`boundaries`.
        alpha: two-sided, in (0, 1).
        target: power at the planned effect, above ``alpha`` and below 1.
        spending: as in :func:`boundaries`.
        spending_time: as in :func:`boundaries`.

    Raises:
        InvalidInput: as :func:`boundaries`.
    """
    times = np.asarray(information, float)
    critical = boundaries(times, alpha=alpha, spending=spending, spending_time=spending_time)
    drift = drift_for_power(times, critical, target)
    needed = drift**2 * times[-1] / (float(ndtri(target)) - float(ndtri(alpha / 2))) ** 2
    crossings = exits(times, critical, np.array([drift, 0.0]))
    used = expected_information(times, crossings) / times[-1] * needed
    return Design(critical, float(needed), float(used[0]), float(used[1]))


def expected_information(information: ArrayLike, crossings: Exits) -> Floats:
    """Mean information when stopping at the first crossing or the last look; shape ``(drifts,)``."""
    times = np.asarray(information, float)
    stopped = crossings.upper + crossings.lower
    result: Floats = times @ stopped + times[-1] * (1 - stopped.sum(0))
    return result


def conditional_power(
    value: ArrayLike, information: ArrayLike, final: ArrayLike, critical: ArrayLike, drift: ArrayLike
) -> Floats:
    """Probability to end above the boundary at a last look, given where ``B`` is now.

    Looks in between are ignored, which makes it a little too small (Jennison and Turnbull 2000, section
    10.2). All arguments broadcast.

    Args:
        value: ``B`` now.
        information: information now.
        final: information at the last look.
        critical: critical Z at the last look.
        drift: drift of ``B`` per unit of information assumed from now on.

    Returns:
        Fractions; 0 or 1 where nothing is left to come.
    """
    value, final = np.asarray(value, float), np.asarray(final, float)
    left = np.maximum(final - information, 0)
    ahead = value + np.asarray(drift) * left - critical * np.sqrt(final)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(left > 0, ndtr(ahead / np.sqrt(left)), ahead >= 0), float)


def _shares_of_time(values: ArrayLike) -> Floats:
    """Elapsed shares, clipped to [0, 1]."""
    try:
        shares = np.asarray(values, float)
    except (TypeError, ValueError):
        shares = np.asarray(math.nan)
    if np.isnan(shares).any():
        raise InvalidInput(
            f"time is {values!r}: give elapsed shares of the experiment, from 0 to 1", field="time"
        )
    return np.asarray(np.clip(shares, 0, 1))


def _check_growth(state: State, information: float) -> None:
    if not math.isfinite(information) or not state.is_new(information):
        raise InvalidInput(
            f"information is {float(information)!r} after {state.now!r}: give looks in order, each with more data",
            field="information",
        )


def _solve(state: State, information: float, allowed: float) -> float:
    """The critical |Z| that is crossed upwards, for the first time, with probability ``allowed``."""
    sd, scale = math.sqrt(information - state.now), math.sqrt(information)
    nodes, mass = _resolved(state, sd)

    def excess(z: float) -> float:
        return float(_beyond(z * scale, nodes, sd) @ mass) - allowed

    return float(brentq(excess, 0, FURTHEST, xtol=1e-11)) if excess(FURTHEST) < 0 else FURTHEST


def _resolved(state: State, sd: float) -> tuple[Floats, Floats]:
    """Nodes and masses of the half density, fine enough for an increment of standard deviation ``sd``."""
    have, need = len(state.mass), _node_count(state.width, sd)
    if need <= have or state.width == 0:
        return state.width * _legendre(have)[0], state.mass
    position, weight = _legendre(need)
    degree = np.arange(have)
    series = (2 * degree + 1) * (_polynomials(have, have).T @ state.mass)
    return state.width * position, weight * (_polynomials(need, have) @ series)


def _node_count(width: float, sd: float) -> int:
    return 16 * math.ceil((16 + _RESOLUTION * width / sd) / 16)


@lru_cache(maxsize=256)
def _legendre(count: int) -> tuple[Floats, Floats]:
    """Gauss-Legendre nodes and weights on [0, 1]; one node sits at 0, where every path starts."""
    if count == 1:
        return np.zeros(1), np.ones(1)
    nodes, weights = leggauss(count)
    return (nodes + 1) / 2, weights / 2


@lru_cache(maxsize=64)
def _panels(count: int) -> tuple[Floats, Floats]:
    """Nodes and weights on [0, 1], at least so many: of one rule, or of short ones side by side.

    A long rule takes seconds to find, and short ones do as well: each has as many nodes a standard deviation.
    """
    if count <= 2 * _PANEL:
        return _legendre(count)
    panels = math.ceil(count / _PANEL)
    position, weight = _legendre(_PANEL)
    nodes = (np.arange(panels)[:, None] + position) / panels
    return nodes.ravel(), np.tile(weight / panels, panels)


@lru_cache(maxsize=64)
def _polynomials(count: int, degrees: int) -> Floats:
    """Legendre polynomials (columns) at the nodes (rows) of :func:`_legendre`."""
    return np.asarray(legvander(2 * _legendre(count)[0] - 1, degrees - 1))


def _bell(value: Floats, centre: Floats, sd: float) -> Floats:
    scaled = (value - centre) / sd
    return np.asarray(np.exp(-0.5 * scaled * scaled) / (sd * math.sqrt(2 * math.pi)))


def _jumped(target: Floats, nodes: Floats, mass: Floats, sd: float) -> Floats:
    """Density at the targets after a jump from the nodes, both increasing; from further away than it reaches it is 0."""
    density = np.empty(len(target))
    for start in range(0, len(target), _PANEL):
        block = target[start : start + _PANEL]
        first, last = np.searchsorted(
            nodes, (block[0] - _FURTHEST_JUMP * sd, block[-1] + _FURTHEST_JUMP * sd)
        )
        density[start : start + _PANEL] = _bell(block[:, None], nodes[first:last], sd) @ mass[first:last]
    return density


def _beyond(bound: float, nodes: Floats, sd: float) -> Floats:
    """Chance to jump above ``bound`` from each node and from its mirror image."""
    return np.asarray(ndtr((nodes - bound) / sd) + ndtr((-nodes - bound) / sd))
