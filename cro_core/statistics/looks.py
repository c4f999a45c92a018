"""One look at an experiment: plan, counts and what earlier looks left behind in; verdict and numbers out.

Pairwise comparisons with the control start at ``alpha / challengers``. The first upward crossing ends the
experiment; a downward crossing drops that challenger and raises the others' level for this look and later
ones (Holm 1979; Ye et al. 2013, *Statistics in Medicine* 32:1112); when all are dropped the control wins.
No clock, no files, no randomness: elapsed share and hours are arguments, the state is a value.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from cro_core.domain import Reason, Verdict, to_json
from cro_core.errors import Conflict, InvalidInput
from cro_core.evidence import Bound, Hold
from cro_core.statistics import exact, guards, stagewise
from cro_core.statistics.arrays import Bools, Floats
from cro_core.statistics.checks import check_between
from cro_core.statistics.combination import Pair, Scale, combined_z, divided, effect_at
from cro_core.statistics.rules import (
    CONTROL,
    GATES,
    Aggregates,
    ByDay,
    Comparisons,
    LookPlan,
    Maturity,
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
from cro_core.statistics.sequential import FURTHEST, LEAST_STEP, State, advance

__all__ = [
    "Aggregates",
    "ByDay",
    "ChallengerLook",
    "Effect",
    "LookPlan",
    "LookResult",
    "LookState",
    "Maturity",
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
    lower: tuple[Bound, ...] = ()
    """The Z at or below which each look could drop a challenger, by challenger; ``None`` where nothing could."""
    upper: tuple[Bound, ...] = ()
    """The Z from which on each look could ship a challenger, by challenger; ``None`` where nothing could."""
    mature: LookState | None = None
    """The looks at the mature units alone, kept beside those at all exposed units; ``None`` where they are all."""
    late: float | None = None
    """Hours of data at which conversions were found to be unequally late: from then on mature units decide."""
    hold: Hold | None = None
    """The winner that is held back; ``None`` where none is."""
    clock: float | None = None
    """Hours since the start at which the last look was taken; ``None`` where that is the hours of its data."""
    exact: tuple[exact.State, ...] = ()
    """The exact test of each challenger at the same looks; empty where it does not decide."""

    @classmethod
    def start(cls, challengers: int, *, bounds: bool = True) -> LookState:
        """Before the first look; ``bounds``: whether those that could act are kept."""
        nothing = ((),) * challengers if bounds else ()
        return cls((State(),) * challengers, (None,) * challengers, lower=nothing, upper=nothing)

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
            lower=tuple(bound[:looks] for bound in self.lower),
            upper=tuple(bound[:looks] for bound in self.upper),
            mature=None if self.mature is None else self.mature.rewind(hours),
            late=self.late if self.late is not None and self.late < hours else None,
            hold=self.hold if self.hold is not None and self.hold.hours < hours else None,
            exact=tuple(test.rewind(looks) for test in self.exact),
        )

    def as_json(self) -> dict[str, Any]:
        """What :meth:`from_json` reads back without loss."""
        return {
            "paths": [path.as_json() for path in self.paths],
            "dropped": list(self.dropped),
            "hours": list(self.hours),
            "ended": self.ended,
            "elapsed": self.elapsed,
            "lower": [list(bound) for bound in self.lower],
            "upper": [list(bound) for bound in self.upper],
            "mature": None if self.mature is None else self.mature.as_json(),
            "late": self.late,
            "hold": to_json(self.hold),
            "clock": self.clock,
            **({"exact": [test.as_json() for test in self.exact]} if self.exact else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LookState:
        """The state that :meth:`as_json` wrote, in this version or an earlier one.

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
                tuple(tuple(bound) for bound in data.get("lower", ())),
                tuple(tuple(bound) for bound in data.get("upper", ())),
                None if data.get("mature") is None else cls.from_json(data["mature"]),
                data.get("late"),
                None if data.get("hold") is None else Hold(**data["hold"]),
                data.get("clock"),
                exact=tuple(exact.State.from_json(test) for test in data.get("exact", ())),
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
    fade: float | None
    """Z of an effect that was larger at first, of the form of fading that the data speak for most: below 0 where
    it was; ``None`` where the days are not known."""
    weekend: float | None
    """Z of the effect at weekends less that of weekdays; ``None`` where the days are not known."""
    reason: str | None
    """Why a number is missing; ``None`` where none is."""


@dataclass(frozen=True, slots=True)
class LookResult:
    """One look, and the state the next one starts from."""

    verdict: Verdict
    """Verdict of the look."""
    status: str
    """``look`` where one was taken, else why not: ``too_early``, ``no_information``, ``nothing_new``,
    ``between_looks`` (the numbers are those of the last look) or ``holding``."""
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
    maturity: Maturity | None = None,
    days: ByDay | None = None,
    clock: float | None = None,
) -> LookResult:
    """Takes one look at an experiment.

    Looks before ``min_hours`` are not taken and spend nothing. Later ones are, whether or not enough units
    or a sound split let them decide.

    With ``maturity`` the data are all exposed units, and a crossing counts only as far as the mature ones bear it out;
    once conversions are found to be unequally late, only the mature units decide, on a boundary of their own that was
    kept beside from the start. With ``days`` a winner whose effect fades or turns with the day is held back once, for
    seven more days.

    Args:
        plan: what was fixed before the start.
        data: counts so far, shape ``(epochs, variants)``; mature units only, or with ``maturity`` all exposed ones.
            Epochs to come are zero.
        elapsed: planned share of traffic over which these units came, in [0, 1]; 1 is the horizon. It never
            goes back from one look to the next.
        hours: hours over which these units came, at least 0.
        state: of the look before; ``None`` before the first.
        veto: why nothing may win now (an SRM alarm), in words.
        names: of the variants, for the reasons; the control first.
        maturity: the mature part of the data; ``None`` where all are. One epoch only.
        days: the data by day; ``None``: not asked whether effects last.
        clock: hours since the start, where data are complete only from time to time: a later moment with the same
            ``hours`` is no new look. ``None`` is ``hours``.

    Returns:
        Verdict, numbers and the state to store.

    Raises:
        InvalidInput: data that cannot be, epochs that differ from the plan's, or looks out of order.
        Conflict: an earlier look has ended the experiment.
    """
    fresh = LookState.start(data.variants - 1, bounds=plan.acting_bounds)
    before = state or fresh
    _check_look(plan, data, elapsed, hours, before)
    if before.hours and hours == before.hours[-1] and (clock or hours) > (before.clock or hours):
        return _between_looks(plan, data, elapsed, before, veto, days)
    if maturity is not None and before.mature is None:
        before = replace(before, mature=fresh)
    called = tuple(names or ["the control", *(f"challenger {k}" for k in range(1, data.variants))])
    moment = _Moment(plan, data, maturity, days, before, elapsed, hours, clock, veto, called)
    if before.hold is not None:
        return _held_back(moment, before.hold)
    obstacle = _obstacle(moment)
    return _with_look(moment) if obstacle is None else _without_look(moment, *obstacle)


def _between_looks(
    plan: LookPlan,
    data: Aggregates,
    elapsed: float,
    before: LookState,
    veto: str | None,
    days: ByDay | None,
) -> LookResult:
    """The numbers of the last look once more: its data are the same, and they are asked only once."""
    hours = before.hours[-1]
    again = take_look(
        plan,
        data,
        elapsed=elapsed,
        hours=hours,
        state=before.rewind(hours),
        veto=veto,
        days=days,
        clock=before.clock,
    )
    reasons = (*([Reason("veto", veto)] if veto else []), Reason("between_looks", "No new day is complete."))
    return replace(
        again,
        verdict=Verdict.CONTINUE,
        status="between_looks",
        reasons=reasons,
        winner=None,
        final=False,
        state=before,
    )


@dataclass(frozen=True)
class _Moment:
    """All that one look is made of."""

    plan: LookPlan
    all_data: Aggregates
    maturity: Maturity | None
    days: ByDay | None
    before: LookState
    elapsed: float
    hours: float
    clock: float | None
    veto: str | None
    names: tuple[str, ...]

    @cached_property
    def late(self) -> float | None:
        """Hours of data at which conversions were found to be unequally late, now or before."""
        if self.before.late is not None or self.maturity is None:
            return self.before.late
        watch = guards.delay_z(self.maturity.converters, self.maturity.hours, self.maturity.squares)
        return self.hours if (np.abs(watch) > guards.WATCHED).any() else None

    @cached_property
    def mature(self) -> Maturity | None:
        """The mature part, where it alone decides."""
        return None if self.late is None else self.maturity

    @cached_property
    def data(self) -> Aggregates:
        """The units that decide."""
        return self.all_data if self.mature is None else self.mature.data

    @cached_property
    def track(self) -> LookState:
        """The looks that were taken at the units that decide."""
        return self.before if self.mature is None or self.before.mature is None else self.before.mature

    @cached_property
    def weights(self) -> Floats:
        """Weights of the epochs so far; after a hold, of all."""
        whole = self.before.hold is not None and len(self.plan.weights) > 1
        return np.array(self.plan.weights) if whole else used_weights(self.plan, self.elapsed)

    @cached_property
    def comparisons(self) -> Comparisons:
        """Every challenger's statistic, of the units that decide."""
        return compare(self.data, self.weights)

    @cached_property
    def z(self) -> Floats:
        """What is held against the boundary: Z, as far as the mature units bear it out."""
        z = self.comparisons.z
        if self.maturity is None or self.mature is not None:
            return z
        return guards.guarded_z(z, compare(self.maturity.data, self.weights).z)

    @cached_property
    def time(self) -> float:
        """Spending time of the units that decide."""
        if self.mature is not None:
            return self.mature.elapsed
        if self.maturity is not None:
            return (self.elapsed + self.maturity.elapsed) / 2
        return float(spending_time(self.plan, self.all_data.units.sum(), self.elapsed))

    @cached_property
    def final(self) -> bool:
        """Whether this is the last look."""
        if self.maturity is not None:
            return self.maturity.elapsed >= 1
        return self.elapsed >= 1 or (self.time >= 1 and self.hours >= self.plan.min_hours)

    @property
    def early(self) -> bool:
        """Whether no challenger may win yet."""
        return self.hours < self.plan.ship_after_hours

    @property
    def count(self) -> int:
        """Challengers still in, which is by how many alpha is divided."""
        return sum(self.before.active)

    @property
    def information(self) -> float:
        """Information at this look; a last look always counts as one, if need be with a little more than there is."""
        now = float(self.comparisons.information)
        return max(now, self.track.paths[0].now * (1 + 2 * LEAST_STEP)) if self.final else now


def _obstacle(m: _Moment) -> tuple[str, str] | None:
    """Status and text where no look can be taken."""
    if not m.final and m.hours < m.plan.min_hours:
        return "too_early", f"{m.hours:.0f} of {m.plan.min_hours:.0f} hours of data are in."
    empty = [name for name, units in zip(m.names, m.data.units.sum(0), strict=True) if not units]
    if empty:
        return "no_information", f"No counted visitor yet of: {', '.join(empty)}."
    if not m.comparisons.information > 0:
        return "no_information", "All visitors so far did the same: nothing can be compared."
    if not m.final and not m.track.paths[0].is_new(m.information):
        return "nothing_new", "Nothing new since the last look."
    return None


def _without_look(m: _Moment, status: str, text: str) -> LookResult:
    """The result where no look was taken."""
    verdict = (Verdict.INVALID if m.veto else Verdict.INCONCLUSIVE) if m.final else Verdict.CONTINUE
    reasons = (
        _veto_reason(m) + [Reason(status, text)] + ([Reason("horizon", "The horizon is reached.")] * m.final)
    )
    state = replace(m.before, ended=m.final, late=m.late)
    return _result(m, verdict, status, reasons, None, None, _bare_rows(m, text), state)


def _bare_rows(m: _Moment, why: str) -> tuple[ChallengerLook, ...]:
    """What is known of the challengers where no boundary is asked."""
    informative = float(m.comparisons.information) > 0
    return tuple(
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
            fade=fade,
            weekend=weekend,
            reason=why,
        )
        for k, pair in enumerate(m.data.pairs())
        for fade, weekend in [_over_days_z(m, k + 1)]
    )


def _with_look(m: _Moment) -> LookResult:
    """The result of a look that was taken."""
    paths, critical = next_boundaries(m.plan, m.track.paths, m.information, m.time)
    active = np.array(m.before.active)
    told = control_is_positive(m.data, m.weights, float(critical[m.count - 1]))
    margin = np.where(told & (not m.early), gate_margin(m.plan, m.data, m.weights), -np.inf)
    ruling = step_down(m.z, active, critical, margin, GATES[m.plan.gate])
    few = [k for k in range(m.data.variants) if _least(m).units[:, k].sum() < m.plan.min_units]
    crossed = bool(ruling.winner >= 0)
    shut = bool(m.veto or few)
    if shut:
        nothing = np.zeros(active.shape, bool)
        ruling = Ruling(np.asarray(-1), active, np.where(active, m.count, 0), nothing)
    power = _futility(m)
    hold = _hold(m, ruling)
    verdict, winner, reasons = _verdict(m, ruling, few, crossed, power, told, hold)
    ended = verdict is not Verdict.CONTINUE
    bounds = _acting_bounds(m, ruling, critical, told, shut=shut, held=hold is not None)
    state = _after(m, paths, ruling, bounds, ended, hold)
    rows = tuple(_row(m, k, ruling, critical, state, ended, power, told) for k in range(len(active)))
    return _result(m, verdict, "look", reasons, winner, float(critical[m.count - 1]), rows, state)


def _least(m: _Moment) -> Aggregates:
    """The counts of which every variant needs enough: the mature ones where they are known."""
    return m.data if m.maturity is None else m.maturity.data


def _after(
    m: _Moment,
    paths: tuple[State, ...],
    ruling: Ruling,
    bounds: tuple[Bound, Bound],
    ended: bool,
    hold: Hold | None,
) -> LookState:
    """The state after a look; the looks that do not decide go on beside it, and could not act."""
    dropped = tuple(
        at if at is not None or still else m.hours
        for at, still in zip(m.before.dropped, ruling.active, strict=True)
    )
    shut = ((None,) * len(dropped),) * 2
    before, mature = m.before, m.before.mature
    if m.mature is None:
        before = _extended(before, paths, m.hours, bounds)
        if mature is not None and m.maturity is not None:
            mature = _beside(m.plan, mature, m.maturity.data, m.maturity.elapsed, m.hours, shut)
    elif mature is not None and m.maturity is not None:
        mature = _extended(mature, paths, m.hours, bounds)
        before = _beside(m.plan, before, m.all_data, (m.elapsed + m.maturity.elapsed) / 2, m.hours, shut)
    return replace(
        before,
        dropped=dropped,
        ended=ended,
        elapsed=m.elapsed,
        mature=mature,
        late=m.late,
        hold=hold,
        clock=m.clock,
    )


def _beside(
    plan: LookPlan, track: LookState, data: Aggregates, time: float, hours: float, shut: tuple[Bound, Bound]
) -> LookState:
    """One look at the units that do not decide, so that their boundary is ready should they have to."""
    information = float(compare(data, np.ones(1)).information)
    if not track.paths[0].is_new(information):
        return track
    paths, _ = next_boundaries(plan, track.paths, information, time)
    return _extended(track, paths, hours, shut)


def _extended(
    track: LookState, paths: tuple[State, ...], hours: float, bounds: tuple[Bound, Bound]
) -> LookState:
    """The looks with one more."""
    lower, upper = (
        (
            tuple((*past, now) for past, now in zip(pasts, added, strict=True))
            for pasts, added in zip((track.lower, track.upper), bounds, strict=True)
        )
        if track.upper
        else (track.lower, track.upper)
    )
    return replace(track, paths=paths, hours=(*track.hours, hours), lower=lower, upper=upper)


def _acting_bounds(
    m: _Moment, ruling: Ruling, critical: Floats, told: Bools, *, shut: bool, held: bool
) -> tuple[Bound, Bound]:
    """The Z that could drop each challenger at this look, and the Z that could ship it."""
    lower: list[float | None] = []
    upper: list[float | None] = []
    for k, divisor in enumerate(ruling.divisor):
        line = float(critical[divisor - 1]) if divisor and not shut else None
        lower.append(None if line is None else -line)
        if line is None or m.early or held or not told[k]:
            upper.append(None)
            continue
        least = combined_z(m.data.pair(k + 1), m.weights, m.plan.min_uplift)
        upper.append(_number(guards.acting_bound(m.comparisons.z[k], least, line, GATES[m.plan.gate])))
    return tuple(lower), tuple(upper)


def _over_days(m: _Moment, challenger: int) -> guards.OverDays | None:
    """Whether the effect of a challenger fades or turns with the day."""
    if m.days is None:
        return None
    score = m.days.data.pair(challenger).score()
    return guards.effect_over_days(score.surplus, score.variance, m.days.weekend)


def _over_days_z(m: _Moment, challenger: int) -> tuple[float | None, float | None]:
    """The z of fading, and that of the weekend; ``None`` where the days are not known."""
    over_days = _over_days(m, challenger)
    if over_days is None:
        return None, None
    return float(min(over_days.fade, over_days.drift)), float(over_days.weekend)


def _hold(m: _Moment, ruling: Ruling) -> Hold | None:
    """The winner of this look, where its effect fades or turns with the day."""
    challenger = int(ruling.winner) + 1
    over_days = _over_days(m, challenger) if challenger else None
    if not m.plan.hold or m.days is None or over_days is None or not over_days.changes:
        return None
    return Hold(challenger, m.hours, m.days.begun)


def _held_back(m: _Moment, hold: Hold) -> LookResult:
    """The result while a winner is held back, and when its seven days are over."""
    name = m.names[hold.challenger]
    waits = m.veto is not None and not m.plan.veto_ends and not m.final
    if m.days is None or m.days.mature < hold.ends_with or waits:
        text = f"{name} is held back for a week: its effect was not the same on all days."
        reasons = [*_veto_reason(m), Reason("holding", text)]
        state = replace(m.before, late=m.late, elapsed=m.elapsed)
        return _result(m, Verdict.CONTINUE, "holding", reasons, None, None, _bare_rows(m, text), state)
    week = slice(hold.days, hold.ends_with)
    score = m.days.data.pair(hold.challenger).score()
    alone = float(divided(score.surplus[week].sum(), np.sqrt(score.variance[week].sum())))
    all_data = float(m.comparisons.z[hold.challenger - 1])
    lasts = alone >= guards.WEEK_ALONE and all_data >= guards.ALL_DATA
    verdict, winner, reason = Verdict.INCONCLUSIVE, None, Reason("faded", _faded(name, alone, all_data))
    if m.veto:
        verdict, reason = Verdict.INVALID, Reason("held_back", f"{name} was held back for a week.")
    elif lasts:
        text = f"The effect of {name} lasts: the week after it was held back shows it too."
        verdict, winner, reason = Verdict.SHIP, hold.challenger, Reason("lasts", text)
    return _final_without_line(m, verdict, [*_veto_reason(m), reason], winner)


def _faded(name: str, alone: float, all_data: float) -> str:
    text = f"The effect of {name} faded: "
    if alone < guards.WEEK_ALONE:
        return f"{text}the week after it was held back does not show it (z {alone:.2f}, {guards.WEEK_ALONE} is needed)."
    return f"{text}all data together no longer show it (z {all_data:.2f}, {guards.ALL_DATA} is needed)."


def _final_without_line(
    m: _Moment, verdict: Verdict, reasons: Sequence[Reason], winner: int | None
) -> LookResult:
    """The last look of an experiment that was held: alpha is not spent any more, estimates see all data."""
    track = m.track
    information = max(float(m.comparisons.information), track.paths[0].now * (1 + 2 * LEAST_STEP))
    paths = tuple(advance(path, information, FURTHEST, path.spent) for path in track.paths)
    shut = ((None,) * len(m.before.active),) * 2
    track = _extended(track, paths, m.hours, shut)
    state = track if m.mature is None else replace(m.before, mature=track)
    state = replace(state, ended=True, late=m.late, clock=m.clock, elapsed=m.elapsed)
    rows = tuple(
        replace(row, stopped=stopped, p_value=p, critical=guards.ALL_DATA)
        for row in _bare_rows(m, "")
        for stopped, p in [_stopped(m, row.challenger - 1, state, m.count)]
    )
    return _result(m, verdict, "look", reasons, winner, guards.ALL_DATA, rows, state)


def _futility(m: _Moment) -> Floats | None:
    """Conditional powers, at the first look of a day on which they are asked for."""
    day = math.floor(m.hours / 24)
    due = m.plan.futility and not m.final and day >= m.plan.futility_from_day and day > m.before.day
    if not due:
        return None
    critical = last_critical(m.plan.spending, m.plan.alpha / m.count)
    return chance_left(m.plan, m.data, m.weights, m.comparisons, critical, _final_information(m))


def _final_information(m: _Moment) -> float:
    """The information that is expected of the last look.

    Of visitors who may still convert it is not known how much they will bring: where they decide too, it is told by
    the mature ones.
    """
    now = float(m.comparisons.information)
    if m.maturity is None or m.mature is not None or not m.maturity.elapsed:
        return now / m.time
    return max(now, float(compare(m.maturity.data, m.weights).information) / m.maturity.elapsed)


def _verdict(
    m: _Moment,
    ruling: Ruling,
    few: Sequence[int],
    crossed: bool,
    power: Floats | None,
    told: Bools,
    hold: Hold | None,
) -> tuple[Verdict, int | None, list[Reason]]:
    """Verdict, winner and the argument."""
    reasons = _veto_reason(m)
    if m.veto:
        ends = m.final or (crossed and m.plan.veto_ends)
        return (Verdict.INVALID if ends else Verdict.CONTINUE), None, reasons
    if few:
        reasons.append(Reason("too_few", f"Every variant needs {m.plan.min_units} counted visitors."))
        return (Verdict.INCONCLUSIVE if m.final else Verdict.CONTINUE), None, reasons
    dropped = [m.names[k + 1] for k, was in enumerate(m.before.active) if was and not ruling.active[k]]
    reasons += [Reason("dropped", f"Out, because the control beats it: {name}.") for name in dropped]
    if m.late is not None and m.before.late is None:
        reasons.append(Reason("unequally_late", UNEQUALLY_LATE))
    if ruling.winner >= 0:
        winner = int(ruling.winner) + 1
        text = f"Beyond the boundary, better than {m.names[CONTROL]}: {m.names[winner]}."
        reasons.append(Reason("crossed", text))
        reasons += _cautions(m, winner, held=hold is not None)
        return (Verdict.CONTINUE, None, reasons) if hold is not None else (Verdict.SHIP, winner, reasons)
    if not ruling.active.any():
        text = f"Every challenger is beaten by {m.names[CONTROL]}."
        return Verdict.KEEP_CONTROL, CONTROL, [*reasons, Reason("control_wins", text)]
    return _undecided(m, ruling, power, told, reasons)


UNEQUALLY_LATE = "The variants do not convert equally late: from now on only visitors whose conversion window is over decide."


def _cautions(m: _Moment, challenger: int, *, held: bool) -> Iterable[Reason]:
    """What an effect that is not the same on all days means for a winner, in words."""
    over_days, name = _over_days(m, challenger), m.names[challenger]
    so = ": it is held back for one more week." if held else "."
    if over_days is not None and over_days.fades:
        yield Reason("fades", f"The effect of {name} was larger at first and fades{so}")
    if over_days is not None and over_days.turns:
        yield Reason("turns", f"The effect of {name} differs between weekdays and weekends{so}")


def _undecided(
    m: _Moment, ruling: Ruling, power: Floats | None, told: Bools, reasons: list[Reason]
) -> tuple[Verdict, int | None, list[Reason]]:
    small, untold = (ruling.blocked & told).any() and not m.early, (ruling.blocked & ~told).any()
    if m.early and (ruling.blocked & told).any():
        days = m.plan.ship_after_hours / 24
        text = f"Beyond the boundary, but nothing is shipped before {days:.0f} days: every weekday counts."
        reasons.append(Reason("week_not_over", text))
    if small:
        text = f"Better than the control, but the gain is below {m.plan.min_uplift:.0%}."
        reasons.append(Reason("gain_too_small", text))
    if untold:
        text = (
            f"Better than the control, but a gain of {m.plan.min_uplift:.0%} means nothing: {NOT_POSITIVE}."
        )
        reasons.append(Reason("gain_untold", text))
    if m.final:
        verdict = Verdict.GAIN_BELOW_MINIMUM if small else Verdict.INCONCLUSIVE
        return verdict, None, [*reasons, Reason("horizon", "The last look is taken.")]
    if power is not None and (power[ruling.active] < m.plan.futility_power).all():
        text = (
            f"Were the uplift {100 * m.plan.mde:.3g}%, the chance to prove it here would be under "
            f"{m.plan.futility_power:.0%}. "
            f"That does not prove {m.names[CONTROL]} better."
        )
        return Verdict.NO_PRACTICAL_GAIN, None, [*reasons, Reason("futile", text)]
    inside = [] if ruling.blocked.any() and m.early else [Reason("inside", "No boundary is crossed.")]
    return Verdict.CONTINUE, None, [*reasons, *inside]


def _row(
    m: _Moment,
    k: int,
    ruling: Ruling,
    critical: Floats,
    state: LookState,
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
            k + 1, False, None, z, None, None, rows["relative"], rows["absolute"], None, None, None, None, out
        )
    bound = float(critical[divisor - 1])
    dropped = m.before.active[k] and not ruling.active[k]
    won = int(ruling.winner) == k
    stopped, p = _stopped(m, k, state, divisor) if ended else (None, _p_now(m, z, divisor))
    fade, weekend = _over_days_z(m, k + 1)
    return ChallengerLook(
        challenger=k + 1,
        active=bool(ruling.active[k]),
        crossed="up" if won or ruling.blocked[k] else "down" if dropped else None,
        z=z,
        critical=bound,
        p_value=p,
        relative=_repeated(pair, m.weights, bound, "relative"),
        absolute=_repeated(pair, m.weights, bound, "absolute"),
        stopped=stopped,
        conditional_power=None if power is None else _number(power[k]),
        fade=fade,
        weekend=weekend,
        reason=None if told[k] else f"no gain in per cent: {NOT_POSITIVE}",
    )


def _p_now(m: _Moment, z: float, divisor: int) -> float:
    """The stagewise p-value by the boundary itself, had the experiment stopped at this look."""
    value = z * math.sqrt(m.information)
    return min(1.0, divisor * stagewise.p_value(m.track.paths[divisor - 1], m.information, value))


def _repeated(pair: Pair, weights: Floats, critical: float, scale: Scale) -> Effect:
    """Estimate with the repeated confidence interval: the effects that this look does not reject."""
    high, low = effect_at(pair, weights, np.array([-critical, critical]), scale)
    return Effect(_number(pair.estimate(scale)), _number(low), _number(high))


def _stopped(m: _Moment, k: int, state: LookState, divisor: int) -> tuple[Effect, float]:
    """Median-unbiased uplift with the stagewise interval, and the p-value, of an experiment that has ended.

    By the bounds as they could act where the plan asks for it, else by the boundary itself.
    """
    track = state if m.mature is None or state.mature is None else state.mature
    path, z = track.paths[divisor - 1], float(m.comparisons.z[k])
    information, level = path.information[-1], 1 - m.plan.alpha / divisor
    acted = (track.lower[k], track.upper[k]) if m.plan.acting_bounds and track.upper else None
    found = stagewise.estimate(
        path.information,
        path.critical,
        len(path.critical) - 1,
        z * math.sqrt(information),
        level=level,
        acted=acted,
    )
    drifts = np.array([found.median, found.low, found.high])
    ends = effect_at(m.data.pair(k + 1), m.weights, stagewise.z_left(z, information, drifts), "relative")
    p = _p_now(m, z, divisor) if acted is None else min(1.0, divisor * float(found.p_value))
    return Effect(*map(_number, ends)), p


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
        alpha_spent=2 * (state if m.mature is None else state.mature or state).paths[0].spent,
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
