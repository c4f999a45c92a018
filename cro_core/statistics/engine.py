"""One look at an experiment: plan, counts and what earlier looks left behind in; verdict and numbers out.

Pairwise comparisons with the control start at ``alpha / challengers``. The first upward crossing ends the
experiment; a downward crossing drops that challenger and raises the others' level for this look and later
ones (Holm 1979; Ye et al. 2013, *Statistics in Medicine* 32:1112); when all are dropped the control wins.
The parts that decide (:func:`take_look`, :func:`compare`, :func:`holm`, :func:`gate`, :func:`futility`) take
leading axes and are what the lab simulates. No clock, no files, no randomness: elapsed share and hours are
arguments, the state is a value.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cro_core.domain import Reason, Verdict, to_json
from cro_core.errors import Conflict, InvalidInput
from cro_core.statistics import stagewise
from cro_core.statistics.combination import (
    Counts,
    Moments,
    Pair,
    Scale,
    check_weights,
    combined_z,
    effect_at,
    reached,
)
from cro_core.statistics.sequential import (
    LEAST_STEP,
    Spending,
    State,
    boundaries,
    check_between,
    conditional_power,
    step,
)

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Gate = Literal["not_excluded", "point", "proven"]

GATES: Mapping[str, float] = {"not_excluded": -1.0, "point": 0.0, "proven": 1.0}
"""Gate -> how many critical values above "the uplift is exactly the minimum" the data must be."""

HOURLY = 336
"""Looks of two weeks."""

CONTROL = 0
"""Index of the control on the variant axis."""


@dataclass(frozen=True, slots=True)
class LookPlan:
    """What was fixed before the first visitor.

    Raises:
        InvalidInput: a value out of range, or weights that do not sum to 1.
    """

    weights: tuple[float, ...] = (1.0,)
    """Planned share of traffic of each epoch; one epoch means fixed shares."""
    planned_units: int | None = None
    """Visitors over all variants at which the experiment ends; ``None``: only the horizon ends it."""
    alpha: float = 0.05
    """Two-sided false-positive rate of the whole experiment."""
    spending: Spending = field(default_factory=Spending)
    """How alpha is used up."""
    mde: float = 0.1
    """Relative uplift planned for; futility asks for it."""
    min_uplift: float = 0.1
    """Relative uplift worth shipping; the gate asks for it."""
    gate: Gate = "not_excluded"
    """Which end of the repeated interval must reach ``min_uplift``: upper, the estimate, or lower."""
    min_units: int = 100
    """Per variant, before anything is decided."""
    min_hours: float = 24.0
    """Hours of data before the first look."""
    futility: bool = False
    """Whether to stop for no practical gain."""
    futility_power: float = 0.1
    """Conditional power at the MDE below which it does."""
    futility_from_day: int = 3
    """First day on which it may; it asks once a day."""

    def __post_init__(self) -> None:
        check_weights(self.weights)
        check_between("alpha", self.alpha, 0, 1)
        check_between("mde", self.mde, 0, math.inf)
        check_between("min_uplift", self.min_uplift, -1, math.inf)
        check_between("futility_power", self.futility_power, 0, 1)
        check_between("min_units", self.min_units, -1, math.inf)
        check_between("min_hours", self.min_hours, -1e-12, math.inf)
        check_between("futility_from_day", self.futility_from_day, -1, math.inf)
        if self.gate not in GATES:
            raise InvalidInput(f"gate is {self.gate!r}: choose from {', '.join(GATES)}", field="gate")
        if self.planned_units is not None:
            check_between("planned_units", self.planned_units, 0, math.inf)


@dataclass(frozen=True, slots=True)
class Aggregates:
    """All that a decision sees; arrays ``(..., epochs, variants)``, the control first.

    Raises:
        InvalidInput: shapes that differ, fewer than two variants, negative numbers or NaN, or more
            conversions than units.
    """

    units: Floats
    """Counted visitors."""
    total: Floats
    """Conversions; or the sum of the visitors' values where ``squares`` is given."""
    squares: Floats | None = None
    """Sum of squared values of a mean metric; ``None``: conversions."""

    @classmethod
    def of(cls, units: ArrayLike, total: ArrayLike, squares: ArrayLike | None = None) -> Aggregates:
        """Checked aggregates of any array-likes."""
        found = cls(_floats(units), _floats(total), None if squares is None else _floats(squares))
        found.check()
        return found

    def check(self) -> None:
        """Raises as the class says."""
        counts = self.squares is None
        columns = {"units": self.units, "total": self.total}
        columns |= {} if self.squares is None else {"squares": self.squares}
        if len({v.shape for v in columns.values()}) > 1 or self.units.ndim < 2 or self.variants < 2:
            shapes = ", ".join(f"{name} {values.shape}" for name, values in columns.items())
            raise InvalidInput(f"shapes are {shapes}: give all as (epochs, variants), at least 2 variants")
        for name, values in columns.items():
            least = 0.0 if counts or name != "total" else -np.inf
            if not (np.isfinite(values) & (values >= least)).all():
                raise InvalidInput(f"{name} has a negative number or NaN: give counts", field=name)
        if counts and (self.total > self.units).any():
            raise InvalidInput("more conversions than units: count each unit at most once", field="total")
        if self.squares is not None and (self.total**2 > self.units * self.squares * (1 + 1e-9)).any():
            raise InvalidInput("squares are too small for the sum: give sums of squares", field="squares")

    @property
    def variants(self) -> int:
        """How many, the control included."""
        return int(self.units.shape[-1])

    def pair(self, challenger: int) -> Pair:
        """One challenger (1, 2, ...) and the control."""
        n, total = self.units, self.total
        mine, control = (..., challenger), (..., CONTROL)
        if self.squares is None:
            return Counts(n[mine], total[mine], n[control], total[control])
        squares = self.squares
        return Moments(n[mine], total[mine], squares[mine], n[control], total[control], squares[control])

    def pairs(self) -> list[Pair]:
        """Every challenger with the control, in order."""
        return [self.pair(k) for k in range(1, self.variants)]


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Every challenger's statistic at one look."""

    z: Floats
    """Z against the control, shape ``(..., challengers)``."""
    information: Floats
    """The clock of the looks' correlations: the statistic's variance with one epoch (summed over
    challengers), the sum of weights with several. Shape ``(...)``."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the boundaries say at one look; arrays ``(..., challengers)`` unless said otherwise."""

    winner: NDArray[np.intp]
    """Index of the challenger that won, -1 for none; shape ``(...)``."""
    active: Bools
    """Challengers still in after this look."""
    level: NDArray[np.intp]
    """By how many alpha was divided when each was last tested at this look; 0 where it was not."""
    blocked: Bools
    """Crossed upwards, but the gate held it back."""


@dataclass(frozen=True, slots=True)
class EngineState:
    """What one look leaves for the next; JSON through :meth:`as_json`."""

    paths: tuple[State, ...]
    """The recursion at ``alpha / 1``, ``alpha / 2``, ... up to the number of challengers."""
    dropped: tuple[float | None, ...]
    """Hours of data at which each challenger was beaten by the control; ``None`` while it is in."""
    hours: tuple[float, ...] = ()
    """Hours of data at each look that was taken, increasing."""
    ended: bool = False
    """Whether a look has ended the experiment."""

    @classmethod
    def start(cls, challengers: int) -> EngineState:
        """Before the first look."""
        return cls((State(),) * challengers, (None,) * challengers)

    @property
    def active(self) -> tuple[bool, ...]:
        """Which challengers are still in."""
        return tuple(hours is None for hours in self.dropped)

    @property
    def day(self) -> int:
        """Day of the last look; -1 before the first."""
        return math.floor(self.hours[-1] / 24) if self.hours else -1

    def rewind(self, hours: float) -> EngineState:
        """The state that a look at ``hours`` of data started from: later looks, and the end, undone."""
        looks = bisect_left(self.hours, hours)
        return EngineState(
            tuple(path.rewind(looks) for path in self.paths),
            tuple(at if at is not None and at < hours else None for at in self.dropped),
            self.hours[:looks],
        )

    def as_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads back without loss."""
        return {
            "paths": [path.as_json() for path in self.paths],
            "dropped": list(self.dropped),
            "hours": list(self.hours),
            "ended": self.ended,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EngineState:
        """The state that :meth:`as_json` wrote.

        Raises:
            InvalidInput: ``data`` is not such a state.
        """
        try:
            state = cls(
                tuple(State.from_json(path) for path in data["paths"]),
                tuple(None if at is None else float(at) for at in data["dropped"]),
                tuple(float(h) for h in data["hours"]),
                bool(data["ended"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(
                f"stored state cannot be read ({error!r}): recompute it from the looks"
            ) from None
        if {len(state.hours)} != {len(path.information) for path in state.paths}:
            raise InvalidInput("stored state is inconsistent: recompute it from the looks", field="state")
        return state


@dataclass(frozen=True, slots=True)
class Effect:
    """An effect with an interval, as fractions; ``None`` where it cannot be computed or has no bound."""

    estimate: float | None = None
    """Point estimate."""
    low: float | None = None
    """Lower end."""
    high: float | None = None
    """Upper end."""


@dataclass(frozen=True, slots=True)
class ChallengerLook:
    """One challenger at one look."""

    challenger: int
    """Its index on the variant axis."""
    active: bool
    """Still in after this look."""
    crossed: Literal["up", "down"] | None
    """Which boundary it crossed at this look."""
    z: float | None
    """Z against the control, epochs combined; ``None`` with ``reason``."""
    critical: float | None
    """Critical |Z| of its level at this look; ``None`` where no look was taken or it is out."""
    p_value: float | None
    """Stagewise-adjusted, two-sided, times the challengers its alpha was shared with."""
    relative: Effect
    """Day-standardised uplift with the repeated interval."""
    absolute: Effect
    """Day-standardised difference with the repeated interval."""
    stopped: Effect | None
    """Median-unbiased uplift and stagewise interval, once the experiment has ended."""
    conditional_power: float | None
    """Chance to win by the end if the MDE were true; ``None`` where futility was not asked."""
    reason: str | None
    """Why a number is missing; ``None`` where none is."""


@dataclass(frozen=True, slots=True)
class LookResult:
    """One look, and the state the next one starts from."""

    verdict: Verdict
    """``ship``, ``keep_control``, ``continue``, ``inconclusive`` or ``invalid``."""
    status: str
    """``look`` where one was taken, else why not: ``too_early``, ``no_information``, ``nothing_new``."""
    reasons: tuple[Reason, ...]
    """The argument, in order."""
    winner: int | None
    """Variant index of a proven winner; 0 where every challenger was beaten; ``None`` otherwise."""
    leader: int | None
    """Variant index with the best standardised estimate, proven or not; ``None`` without estimates."""
    final: bool
    """Whether the experiment ends here."""
    spending_time: float
    """Elapsed share of the experiment: of planned traffic or of the planned sample, whichever is more."""
    information: float | None
    """The clock of the correlations at this look."""
    critical: float | None
    """Critical |Z| at the level in force before this look; ``None`` where no look was taken."""
    critical_chi_square: float | None
    """Its square, to be held against Pearson's chi-square (two variants, fixed shares)."""
    alpha_spent: float
    """Two-sided alpha allowed for up to here, of the whole experiment's."""
    challengers: tuple[ChallengerLook, ...]
    """Each challenger, in order."""
    state: EngineState
    """To be stored and passed to the next look."""

    def as_json(self) -> dict[str, Any]:
        """Everything but the state, for a decision record; no NaN and no infinity in it."""
        shown: dict[str, Any] = to_json(
            {f.name: getattr(self, f.name) for f in fields(self) if f.name != "state"}
        )
        return shown


def take_look(
    plan: LookPlan, paths: Sequence[State], information: float, time: float
) -> tuple[tuple[State, ...], Floats]:
    """One step of the recursion at every level.

    Args:
        plan: alpha and its spending.
        paths: the recursion at ``alpha / 1``, ``alpha / 2``, ...
        information: at this look.
        time: spending time at this look, in [0, 1].

    Returns:
        The recursions after it, and the critical |Z| by level, shape ``(levels,)``.
    """
    spent = [float(plan.spending.spent(time, plan.alpha / 2 / m)) for m in range(1, len(paths) + 1)]
    taken = [step(path, information, to) for path, to in zip(paths, spent, strict=True)]
    return tuple(path for path, _ in taken), np.array([critical for _, critical in taken])


def compare(data: Aggregates, weights: Floats) -> Comparisons:
    """Every challenger's Z and the information behind it.

    Args:
        data: one experiment, or many on leading axes.
        weights: of :func:`cro_core.statistics.combination.reached`.
    """
    pairs = data.pairs()
    z = np.stack([combined_z(pair, weights) for pair in pairs], axis=-1)
    if data.units.shape[-2] == 1:
        return Comparisons(z, np.asarray(sum(pair.score().variance.sum(-1) for pair in pairs)))
    return Comparisons(z, np.broadcast_to(weights.sum(-1), z.shape[:-1]))


def gate_margin(plan: LookPlan, data: Aggregates, weights: Floats) -> Floats:
    """How far each challenger is above the minimum uplift, shape ``(..., challengers)``.

    In standard errors, to be held against ``GATES[plan.gate]`` critical values; for the gate ``point`` the
    estimate less the minimum.
    """
    pairs = data.pairs()
    if plan.gate == "point":
        margins = [np.nan_to_num(pair.estimate("relative") - plan.min_uplift, nan=-np.inf) for pair in pairs]
    else:
        margins = [combined_z(pair, weights, plan.min_uplift) for pair in pairs]
    return np.stack(margins, axis=-1)


def holm(
    z: Floats, active: Bools, critical: Floats, margin: Floats | None = None, sign: float = 0.0
) -> Ruling:
    """Bonferroni-Holm at one look, any number of experiments at once.

    Args:
        z: shape ``(..., challengers)``.
        active: which are still in, same shape.
        critical: critical |Z| by level, shape ``(levels,)``: ``alpha``, ``alpha / 2``, ...
        margin: of :func:`gate_margin`; ``None``: every crossing wins.
        sign: how many critical values the margin must be at least, of ``GATES``.
    """
    bound = np.concatenate([[np.inf], critical])
    level = np.zeros(z.shape, np.intp)
    up = blocked = np.zeros(z.shape, bool)
    for _ in range(z.shape[-1]):
        count = active.sum(-1, keepdims=True)
        limit = bound[count]
        tested = active & ~up.any(-1, keepdims=True)
        level = np.where(tested, count, level)
        above = tested & (z >= limit)
        passes = above if margin is None else above & (margin >= sign * limit)
        up, blocked = up | passes, blocked | (above & ~passes)
        active = active & ~(tested & (z <= -limit) & ~up.any(-1, keepdims=True))
    best = np.where(up, z, -np.inf).argmax(-1)
    return Ruling(np.where(up.any(-1), best, -1), active, level, blocked & active)


@lru_cache(maxsize=64)
def last_critical(spending: Spending, alpha: float) -> float:
    """Critical |Z| of the last of two weeks' hourly looks; other numbers of looks differ in the second digit.

    Args:
        spending: how alpha is used up.
        alpha: two-sided, of this comparison.
    """
    return float(boundaries(np.arange(1, HOURLY + 1), alpha=alpha, spending=spending)[-1])


def chance_left(
    plan: LookPlan, data: Aggregates, weights: Floats, found: Comparisons, critical: ArrayLike, time: float
) -> Floats:
    """Conditional power of each challenger if the MDE were true, shape ``(..., challengers)``.

    The last look is the only one left in this reckoning. Stopping on it is non-binding: the boundaries do
    not count on it (Jennison and Turnbull 2000, chapter 10).

    Args:
        plan: the MDE.
        data: as in :func:`compare`.
        weights: as in :func:`compare`.
        found: of :func:`compare` at this look.
        critical: of :func:`last_critical`; broadcasts with the result.
        time: spending time at this look, in (0, 1].
    """
    now = found.information[..., None]
    z_mde = np.stack([combined_z(pair, weights, plan.mde) for pair in data.pairs()], axis=-1)
    drift = np.where(now > 0, (found.z - z_mde) / np.sqrt(np.where(now > 0, now, 1)), 0)
    return conditional_power(found.z * np.sqrt(now), now, now / time, critical, drift)


def spending_time(plan: LookPlan, units: ArrayLike, elapsed: ArrayLike) -> Floats:
    """Share of the experiment that is over: of planned traffic or of the planned sample, whichever is more."""
    sample = 0.0 if plan.planned_units is None else np.asarray(units, float) / plan.planned_units
    return np.minimum(1.0, np.maximum(elapsed, sample))


def used_weights(plan: LookPlan, elapsed: ArrayLike) -> Floats:
    """Weights of the epochs so far; with one epoch its statistic is taken whole."""
    return np.ones(1) if len(plan.weights) == 1 else reached(plan.weights, elapsed)


def evaluate(
    plan: LookPlan,
    data: Aggregates,
    *,
    elapsed: float,
    hours: float,
    state: EngineState | None = None,
    veto: str | None = None,
    names: Sequence[str] | None = None,
) -> LookResult:
    """One look.

    Looks before ``min_hours`` are not taken and spend nothing. Later ones are, whether or not enough units
    or a sound split let them decide.

    Args:
        plan: what was fixed before the start.
        data: counts so far, shape ``(epochs, variants)``, mature units only; epochs to come are zero.
        elapsed: planned share of traffic over which these units came, in [0, 1]; 1 is the horizon.
        hours: hours over which these units came, at least 0.
        state: of the look before; ``None`` before the first.
        veto: why nothing may win now (an SRM alarm), in words.
        names: of the variants, for the reasons; the control first.

    Returns:
        Verdict, numbers and the state to store.

    Raises:
        InvalidInput: data that cannot be, epochs that differ from the plan's, or looks out of order.
        Conflict: an earlier look has ended the experiment.
    """
    before = state or EngineState.start(data.variants - 1)
    _check_look(plan, data, elapsed, hours, before)
    time = float(spending_time(plan, data.units.sum(), elapsed))
    weights = used_weights(plan, elapsed)
    found = compare(data, weights)
    final = elapsed >= 1 or (time >= 1 and hours >= plan.min_hours)
    called = tuple(names or ["the control", *(f"challenger {k}" for k in range(1, data.variants))])
    moment = _Moment(plan, data, weights, found, before, time, hours, final, veto, called)
    why = _why_no_look(moment)
    return _looked(moment) if why is None else _waited(moment, *why)


@dataclass(frozen=True, slots=True)
class _Moment:
    """All that one look is made of."""

    plan: LookPlan
    data: Aggregates
    weights: Floats
    found: Comparisons
    before: EngineState
    time: float
    hours: float
    final: bool
    veto: str | None
    names: tuple[str, ...]

    @property
    def count(self) -> int:
        """Challengers still in, which is by how many alpha is divided."""
        return sum(self.before.active)

    @property
    def information(self) -> float:
        """At this look; a last look always counts as one, if need be with a little more than there is."""
        now = float(self.found.information)
        return max(now, self.before.paths[0].now * (1 + 2 * LEAST_STEP)) if self.final else now


def _why_no_look(m: _Moment) -> tuple[str, str] | None:
    """Status and text where no look can be taken."""
    if not m.final and m.hours < m.plan.min_hours:
        return "too_early", f"{m.hours:.0f} of {m.plan.min_hours:.0f} hours of data are in."
    empty = [name for name, units in zip(m.names, m.data.units.sum(0), strict=True) if not units]
    if empty:
        return "no_information", f"No counted visitor yet of: {', '.join(empty)}."
    if not m.found.information > 0:
        return "no_information", "All visitors so far did the same: nothing can be compared."
    if not m.final and not m.before.paths[0].is_new(m.information):
        return "nothing_new", "Nothing new since the last look."
    return None


def _waited(m: _Moment, status: str, text: str) -> LookResult:
    """The result where no look was taken."""
    verdict = (Verdict.INVALID if m.veto else Verdict.INCONCLUSIVE) if m.final else Verdict.CONTINUE
    reasons = (
        _veto_reason(m) + [Reason(status, text)] + ([Reason("horizon", "The horizon is reached.")] * m.final)
    )
    informative = float(m.found.information) > 0
    rows = tuple(
        ChallengerLook(
            challenger=k + 1,
            active=m.before.active[k],
            crossed=None,
            z=_number(m.found.z[k]) if informative else None,
            critical=None,
            p_value=None,
            relative=Effect(_number(pair.estimate("relative"))),
            absolute=Effect(_number(pair.estimate("absolute"))),
            stopped=None,
            conditional_power=None,
            reason=text,
        )
        for k, pair in enumerate(m.data.pairs())
    )
    state = replace(m.before, ended=m.final)
    return _result(m, verdict, status, reasons, None, None, rows, state)


def _looked(m: _Moment) -> LookResult:
    """The result of a look that was taken."""
    paths, critical = take_look(m.plan, m.before.paths, m.information, m.time)
    active = np.array(m.before.active)
    ruling = holm(m.found.z, active, critical, gate_margin(m.plan, m.data, m.weights), GATES[m.plan.gate])
    few = [k for k in range(m.data.variants) if m.data.units[:, k].sum() < m.plan.min_units]
    crossed = bool(ruling.winner >= 0)
    if m.veto or few:
        nothing = np.zeros(active.shape, bool)
        ruling = Ruling(np.asarray(-1), active, np.where(active, m.count, 0), nothing)
    power = _futility(m)
    verdict, winner, reasons = _judge(m, ruling, few, crossed, power)
    ended = verdict is not Verdict.CONTINUE
    rows = tuple(_row(m, k, ruling, critical, paths, ended, power) for k in range(len(active)))
    dropped = [
        at if at is not None or still else m.hours
        for at, still in zip(m.before.dropped, ruling.active, strict=True)
    ]
    state = EngineState(paths, tuple(dropped), (*m.before.hours, m.hours), ended)
    return _result(m, verdict, "look", reasons, winner, float(critical[m.count - 1]), rows, state)


def _futility(m: _Moment) -> Floats | None:
    """Conditional powers, at the first look of a day on which they are asked for."""
    day = math.floor(m.hours / 24)
    due = m.plan.futility and not m.final and day >= m.plan.futility_from_day and day > m.before.day
    if not due:
        return None
    critical = last_critical(m.plan.spending, m.plan.alpha / m.count)
    return chance_left(m.plan, m.data, m.weights, m.found, critical, m.time)


def _judge(
    m: _Moment, ruling: Ruling, few: Sequence[int], crossed: bool, power: Floats | None
) -> tuple[Verdict, int | None, list[Reason]]:
    """Verdict, winner and the argument."""
    reasons = _veto_reason(m)
    if m.veto:
        return (Verdict.INVALID if crossed or m.final else Verdict.CONTINUE), None, reasons
    if few:
        reasons.append(Reason("too_few", f"Every variant needs {m.plan.min_units} counted visitors."))
        return (Verdict.INCONCLUSIVE if m.final else Verdict.CONTINUE), None, reasons
    dropped = [m.names[k + 1] for k, was in enumerate(m.before.active) if was and not ruling.active[k]]
    reasons += [Reason("dropped", f"Out, because the control beats it: {name}.") for name in dropped]
    if ruling.winner >= 0:
        winner = int(ruling.winner) + 1
        text = f"Beyond the boundary, better than {m.names[CONTROL]}: {m.names[winner]}."
        return Verdict.SHIP, winner, [*reasons, Reason("crossed", text)]
    if not ruling.active.any():
        text = f"Every challenger is beaten by {m.names[CONTROL]}."
        return Verdict.KEEP_CONTROL, CONTROL, [*reasons, Reason("control_wins", text)]
    return _undecided(m, ruling, power, reasons)


def _undecided(
    m: _Moment, ruling: Ruling, power: Floats | None, reasons: list[Reason]
) -> tuple[Verdict, int | None, list[Reason]]:
    small = Reason(
        "gain_too_small", f"Better than the control, but the gain is below {m.plan.min_uplift:.0%}."
    )
    if ruling.blocked.any():
        reasons.append(small)
    if m.final:
        verdict = Verdict.KEEP_CONTROL if ruling.blocked.any() else Verdict.INCONCLUSIVE
        return verdict, None, [*reasons, Reason("horizon", "The last look is taken.")]
    if power is not None and (power[ruling.active] < m.plan.futility_power).all():
        text = f"No practical gain: less than {m.plan.futility_power:.0%} chance to prove {m.plan.mde:.0%} by the end."
        return Verdict.KEEP_CONTROL, None, [*reasons, Reason("futile", text)]
    return Verdict.CONTINUE, None, [*reasons, Reason("inside", "No boundary is crossed.")]


def _row(
    m: _Moment,
    k: int,
    ruling: Ruling,
    critical: Floats,
    paths: Sequence[State],
    ended: bool,
    power: Floats | None,
) -> ChallengerLook:
    """One challenger's numbers at a look that was taken."""
    pair, z, level = m.data.pair(k + 1), float(m.found.z[k]), int(ruling.level[k])
    if not level:
        rows = {scale: Effect(_number(pair.estimate(scale))) for scale in ("relative", "absolute")}
        out = "dropped at an earlier look"
        return ChallengerLook(
            k + 1, False, None, z, None, None, rows["relative"], rows["absolute"], None, None, out
        )
    bound = float(critical[level - 1])
    p = stagewise.p_value(m.before.paths[level - 1], m.information, z * math.sqrt(m.information))
    dropped = m.before.active[k] and not ruling.active[k]
    won = int(ruling.winner) == k
    return ChallengerLook(
        challenger=k + 1,
        active=bool(ruling.active[k]),
        crossed="up" if won or ruling.blocked[k] else "down" if dropped else None,
        z=z,
        critical=bound,
        p_value=min(1.0, level * p),
        relative=_repeated(pair, m.weights, bound, "relative"),
        absolute=_repeated(pair, m.weights, bound, "absolute"),
        stopped=_stopped(m, pair, z, paths[level - 1], 1 - m.plan.alpha / level) if ended else None,
        conditional_power=None if power is None else float(power[k]),
        reason=None,
    )


def _repeated(pair: Pair, weights: Floats, critical: float, scale: Scale) -> Effect:
    """Estimate with the repeated confidence interval: the effects that this look does not reject."""
    high, low = effect_at(pair, weights, np.array([-critical, critical]), scale)
    return Effect(_number(pair.estimate(scale)), _number(low), _number(high))


def _stopped(m: _Moment, pair: Pair, z: float, path: State, level: float) -> Effect:
    """Median-unbiased uplift with the stagewise interval."""
    value = z * math.sqrt(m.information)
    found = stagewise.estimate(path.information, path.critical, len(path.critical) - 1, value, level=level)
    drifts = np.array([found.median, found.low, found.high])
    ends = effect_at(pair, m.weights, stagewise.z_left(z, m.information, drifts), "relative")
    return Effect(*map(_number, ends))


def _result(
    m: _Moment,
    verdict: Verdict,
    status: str,
    reasons: Sequence[Reason],
    winner: int | None,
    critical: float | None,
    rows: tuple[ChallengerLook, ...],
    state: EngineState,
) -> LookResult:
    information = float(m.found.information)
    return LookResult(
        verdict=verdict,
        status=status,
        reasons=tuple(reasons),
        winner=winner,
        leader=_leader(rows),
        final=state.ended,
        spending_time=m.time,
        information=information if information > 0 else None,
        critical=critical,
        critical_chi_square=None if critical is None else critical**2,
        alpha_spent=2 * state.paths[0].spent,
        challengers=rows,
        state=state,
    )


def _leader(rows: Sequence[ChallengerLook]) -> int | None:
    """Variant with the best estimate among those still in; the control's uplift is 0."""
    known = [(row.relative.estimate, row.challenger) for row in rows if row.active]
    uplifts = [(uplift, k) for uplift, k in known if uplift is not None]
    return max([(0.0, CONTROL), *uplifts])[1] if uplifts else None


def _veto_reason(m: _Moment) -> list[Reason]:
    return [Reason("veto", m.veto)] if m.veto else []


def _check_look(plan: LookPlan, data: Aggregates, elapsed: float, hours: float, state: EngineState) -> None:
    data.check()
    if data.units.shape[:-1] != (len(plan.weights),):
        raise InvalidInput(
            f"data have shape {data.units.shape}: give one row for each of the plan's {len(plan.weights)} epoch(s)",
            field="units",
        )
    check_between("elapsed", elapsed, -1e-12, 1 + 1e-9)
    check_between("hours", hours, -1e-12, math.inf)
    if state.ended:
        raise Conflict(
            "an earlier look has ended this experiment: start a new one, or evaluate without a state"
        )
    if len(state.active) != data.variants - 1 or len(state.paths) != data.variants - 1:
        raise InvalidInput(
            f"state is of {len(state.active)} challenger(s), data of {data.variants - 1}: pass this experiment's own",
            field="state",
        )
    if state.hours and hours < state.hours[-1]:
        raise InvalidInput(
            f"hours is {hours:g} after {state.hours[-1]:g}: give looks in order, or rewind the state",
            field="hours",
        )


def _floats(values: ArrayLike) -> Floats:
    """Floats, whatever came.

    Raises:
        InvalidInput: something that is no number.
    """
    try:
        return np.asarray(values, float)
    except (TypeError, ValueError):
        raise InvalidInput(f"counts are {values!r}: give numbers", field="units") from None


def _number(value: Any) -> float | None:
    """JSON has no NaN and no infinity."""
    number = float(value)
    return number if math.isfinite(number) else None
