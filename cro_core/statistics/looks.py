"""One look at an experiment: plan, counts and what earlier looks left behind in; verdict and numbers out.

Pairwise comparisons with the control start at ``alpha / challengers``. The first upward crossing ends the
experiment; a downward crossing drops that challenger and raises the others' level for this look and later
ones (Holm 1979; Ye et al. 2013, *Statistics in Medicine* 32:1112); when all are dropped the control wins.
No clock, no files, no randomness: elapsed share and hours are arguments, the state is a value.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from cro_core.domain import Reason, Verdict, to_json
from cro_core.errors import Conflict, InvalidInput
from cro_core.statistics import stagewise
from cro_core.statistics.arrays import Bools, Floats
from cro_core.statistics.checks import check_between
from cro_core.statistics.combination import Pair, Scale, effect_at
from cro_core.statistics.rules import (
    CONTROL,
    GATES,
    Aggregates,
    Comparisons,
    LookPlan,
    Ruling,
    chance_left,
    compare,
    control_is_positive,
    gate_margin,
    last_critical,
    next_boundaries,
    spending_time,
    step_down,
    used_weights,
)
from cro_core.statistics.sequential import LEAST_STEP, State

__all__ = [
    "Aggregates",
    "ChallengerLook",
    "Effect",
    "LookPlan",
    "LookResult",
    "LookState",
    "take_look",
]

NOT_POSITIVE = "the control's mean is not clearly above 0"
"""Why a mean metric has no gain in per cent."""


@dataclass(frozen=True, slots=True)
class LookState:
    """What one look leaves for the next; JSON through :meth:`as_json`."""

    paths: tuple[State, ...]
    """The recursion at ``alpha / 1``, ``alpha / 2``, ... up to the number of challengers."""
    dropped: tuple[float | None, ...]
    """Hours of data at which each challenger was beaten by the control; ``None`` while it is in."""
    hours: tuple[float, ...] = ()
    """Hours of data at each look that was taken, increasing."""
    ended: bool = False
    """Whether a look has ended the experiment."""
    elapsed: float = 0.0
    """Elapsed share at the last look; 0 where it is not known."""

    @classmethod
    def start(cls, challengers: int) -> LookState:
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

    def rewind(self, hours: float) -> LookState:
        """The state that a look at ``hours`` of data started from: later looks, and the end, undone."""
        looks = bisect_left(self.hours, hours)
        return LookState(
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
            "elapsed": self.elapsed,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LookState:
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
                float(data.get("elapsed", 0.0)),
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
    """Point estimate of the effect."""
    low: float | None = None
    """Lower end of the effect's interval."""
    high: float | None = None
    """Upper end of the effect's interval."""


@dataclass(frozen=True, slots=True)
class ChallengerLook:
    """One challenger at one look."""

    challenger: int
    """Index of the challenger on the variant axis."""
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
    """Verdict of the look: ``ship``, ``keep_control``, ``continue``, ``inconclusive`` or ``invalid``."""
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
    """Square of ``critical_z``, to be held against Pearson's chi-square (two variants, fixed shares)."""
    alpha_spent: float
    """Two-sided alpha allowed for up to here, of the whole experiment's."""
    challengers: tuple[ChallengerLook, ...]
    """Each challenger, in order."""
    state: LookState
    """State to be stored and passed to the next look."""

    def as_json(self) -> dict[str, Any]:
        """Everything but the state, for a decision record; no NaN and no infinity in it."""
        shown: dict[str, Any] = to_json(
            {f.name: getattr(self, f.name) for f in fields(self) if f.name != "state"}
        )
        return shown


def take_look(
    plan: LookPlan,
    data: Aggregates,
    *,
    elapsed: float,
    hours: float,
    state: LookState | None = None,
    veto: str | None = None,
    names: Sequence[str] | None = None,
) -> LookResult:
    """Takes one look at an experiment.

    Looks before ``min_hours`` are not taken and spend nothing. Later ones are, whether or not enough units
    or a sound split let them decide.

    Args:
        plan: what was fixed before the start.
        data: counts so far, shape ``(epochs, variants)``, mature units only; epochs to come are zero.
        elapsed: planned share of traffic over which these units came, in [0, 1]; 1 is the horizon. It never
            goes back from one look to the next.
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
    before = state or LookState.start(data.variants - 1)
    _check_look(plan, data, elapsed, hours, before)
    time = float(spending_time(plan, data.units.sum(), elapsed))
    weights = used_weights(plan, elapsed)
    comparisons = compare(data, weights)
    final = elapsed >= 1 or (time >= 1 and hours >= plan.min_hours)
    called = tuple(names or ["the control", *(f"challenger {k}" for k in range(1, data.variants))])
    moment = _Moment(plan, data, weights, comparisons, before, time, elapsed, hours, final, veto, called)
    obstacle = _obstacle(moment)
    return _with_look(moment) if obstacle is None else _without_look(moment, *obstacle)


@dataclass(frozen=True, slots=True)
class _Moment:
    """All that one look is made of."""

    plan: LookPlan
    data: Aggregates
    weights: Floats
    comparisons: Comparisons
    before: LookState
    time: float
    elapsed: float
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
        """Information at this look; a last look always counts as one, if need be with a little more than there is."""
        now = float(self.comparisons.information)
        return max(now, self.before.paths[0].now * (1 + 2 * LEAST_STEP)) if self.final else now


def _obstacle(m: _Moment) -> tuple[str, str] | None:
    """Status and text where no look can be taken."""
    if not m.final and m.hours < m.plan.min_hours:
        return "too_early", f"{m.hours:.0f} of {m.plan.min_hours:.0f} hours of data are in."
    empty = [name for name, units in zip(m.names, m.data.units.sum(0), strict=True) if not units]
    if empty:
        return "no_information", f"No counted visitor yet of: {', '.join(empty)}."
    if not m.comparisons.information > 0:
        return "no_information", "All visitors so far did the same: nothing can be compared."
    if not m.final and not m.before.paths[0].is_new(m.information):
        return "nothing_new", "Nothing new since the last look."
    return None


def _without_look(m: _Moment, status: str, text: str) -> LookResult:
    """The result where no look was taken."""
    verdict = (Verdict.INVALID if m.veto else Verdict.INCONCLUSIVE) if m.final else Verdict.CONTINUE
    reasons = (
        _veto_reason(m) + [Reason(status, text)] + ([Reason("horizon", "The horizon is reached.")] * m.final)
    )
    informative = float(m.comparisons.information) > 0
    rows = tuple(
        ChallengerLook(
            challenger=k + 1,
            active=m.before.active[k],
            crossed=None,
            z=_number(m.comparisons.z[k]) if informative else None,
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


def _with_look(m: _Moment) -> LookResult:
    """The result of a look that was taken."""
    paths, critical = next_boundaries(m.plan, m.before.paths, m.information, m.time)
    active = np.array(m.before.active)
    told = control_is_positive(m.data, m.weights, float(critical[m.count - 1]))
    margin = np.where(told, gate_margin(m.plan, m.data, m.weights), -np.inf)
    ruling = step_down(m.comparisons.z, active, critical, margin, GATES[m.plan.gate])
    few = [k for k in range(m.data.variants) if m.data.units[:, k].sum() < m.plan.min_units]
    crossed = bool(ruling.winner >= 0)
    if m.veto or few:
        nothing = np.zeros(active.shape, bool)
        ruling = Ruling(np.asarray(-1), active, np.where(active, m.count, 0), nothing)
    power = _futility(m)
    verdict, winner, reasons = _verdict(m, ruling, few, crossed, power, told)
    ended = verdict is not Verdict.CONTINUE
    rows = tuple(_row(m, k, ruling, critical, paths, ended, power, told) for k in range(len(active)))
    dropped = [
        at if at is not None or still else m.hours
        for at, still in zip(m.before.dropped, ruling.active, strict=True)
    ]
    state = LookState(paths, tuple(dropped), (*m.before.hours, m.hours), ended, m.elapsed)
    return _result(m, verdict, "look", reasons, winner, float(critical[m.count - 1]), rows, state)


def _futility(m: _Moment) -> Floats | None:
    """Conditional powers, at the first look of a day on which they are asked for."""
    day = math.floor(m.hours / 24)
    due = m.plan.futility and not m.final and day >= m.plan.futility_from_day and day > m.before.day
    if not due:
        return None
    critical = last_critical(m.plan.spending, m.plan.alpha / m.count)
    return chance_left(m.plan, m.data, m.weights, m.comparisons, critical, m.time)


def _verdict(
    m: _Moment, ruling: Ruling, few: Sequence[int], crossed: bool, power: Floats | None, told: Bools
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
    return _undecided(m, ruling, power, told, reasons)


def _undecided(
    m: _Moment, ruling: Ruling, power: Floats | None, told: Bools, reasons: list[Reason]
) -> tuple[Verdict, int | None, list[Reason]]:
    small, untold = (ruling.blocked & told).any(), (ruling.blocked & ~told).any()
    if small:
        text = f"Better than the control, but the gain is below {m.plan.min_uplift:.0%}."
        reasons.append(Reason("gain_too_small", text))
    if untold:
        text = (
            f"Better than the control, but a gain of {m.plan.min_uplift:.0%} means nothing: {NOT_POSITIVE}."
        )
        reasons.append(Reason("gain_untold", text))
    if m.final:
        verdict = Verdict.KEEP_CONTROL if small else Verdict.INCONCLUSIVE
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
    told: Bools,
) -> ChallengerLook:
    """One challenger's numbers at a look that was taken."""
    pair, z, divisor = m.data.pair(k + 1), float(m.comparisons.z[k]), int(ruling.divisor[k])
    if not divisor:
        rows = {scale: Effect(_number(pair.estimate(scale))) for scale in ("relative", "absolute")}
        out = "dropped at an earlier look"
        return ChallengerLook(
            k + 1, False, None, z, None, None, rows["relative"], rows["absolute"], None, None, out
        )
    bound = float(critical[divisor - 1])
    p = stagewise.p_value(m.before.paths[divisor - 1], m.information, z * math.sqrt(m.information))
    dropped = m.before.active[k] and not ruling.active[k]
    won = int(ruling.winner) == k
    return ChallengerLook(
        challenger=k + 1,
        active=bool(ruling.active[k]),
        crossed="up" if won or ruling.blocked[k] else "down" if dropped else None,
        z=z,
        critical=bound,
        p_value=min(1.0, divisor * p),
        relative=_repeated(pair, m.weights, bound, "relative"),
        absolute=_repeated(pair, m.weights, bound, "absolute"),
        stopped=_stopped(m, pair, z, paths[divisor - 1], 1 - m.plan.alpha / divisor) if ended else None,
        conditional_power=None if power is None else _number(power[k]),
        reason=None if told[k] else f"no gain in per cent: {NOT_POSITIVE}",
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
    state: LookState,
) -> LookResult:
    information = float(m.comparisons.information)
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
    estimates = [(row.relative.estimate, row.challenger) for row in rows if row.active]
    uplifts = [(uplift, k) for uplift, k in estimates if uplift is not None]
    return max([(0.0, CONTROL), *uplifts])[1] if uplifts else None


def _veto_reason(m: _Moment) -> list[Reason]:
    return [Reason("veto", m.veto)] if m.veto else []


def _check_look(plan: LookPlan, data: Aggregates, elapsed: float, hours: float, state: LookState) -> None:
    data.check()
    if data.units.shape[:-1] != (len(plan.weights),):
        raise InvalidInput(
            f"data have shape {data.units.shape}: give one row for each of the plan's {len(plan.weights)} epoch(s)",
            field="units",
        )
    check_between(elapsed, "elapsed", -1e-12, 1 + 1e-9)
    check_between(hours, "hours", -1e-12, math.inf)
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
    if elapsed < state.elapsed - 1e-9:
        raise InvalidInput(
            f"elapsed is {elapsed:g} after {state.elapsed:g}: give looks in order, or rewind the state",
            field="elapsed",
        )


def _number(value: Any) -> float | None:
    """JSON has no NaN and no infinity."""
    number = float(value)
    return number if math.isfinite(number) else None
