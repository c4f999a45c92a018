"""Beyond conversion: secondary metrics of each challenger, and the guardrails that no variant may break.

A secondary metric is the engagement score, the amounts per visitor, the rate of each goal, or a ratio of two
sums. It informs; only the primary conversion decides. Its p-value is that of one look: an experiment that
ended early was ended by its primary metric, and whatever goes with that looks a little better than it is.

With fixed shares the tests are the usual ones: Pearson's chi-square, Welch, the delta method, CUPED. Where
shares may move from day to day a pooled table would read a drift of the common level as an effect, so each
day is compared in itself and the days are combined as the primary metric's are
(:mod:`cro_core.statistics.combination`). Guardrails are e-processes that may be read every hour
(:mod:`cro_core.statistics.companion`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from cro_core.analytics.definitions import means_of
from cro_core.domain import (
    MEASURES,
    Cell,
    Experiment,
    GoalCell,
    Guardrail,
    Json,
    Measured,
    PairCell,
    Reason,
    Variant,
)
from cro_core.errors import InvalidInput
from cro_core.planning.plans import progress
from cro_core.statistics import companion, means, proportions
from cro_core.statistics.arrays import Floats
from cro_core.statistics.combination import (
    Counts,
    Moments,
    Pair,
    Scale,
    Score,
    combined_z,
    effect_at,
    reached,
)
from cro_core.statistics.multiplicity import benjamini_hochberg, holm

Kind = Literal["mean", "rate", "ratio"]
Status = Literal["ok", "broken", "no_data"]

ADJUSTMENTS = {"holm": holm, "benjamini_hochberg": benjamini_hochberg}

IMBALANCE = 1e-3
"""A covariate that differs between variants at this p-value is no covariate: the variant has touched it."""

FLAT = 1e-12
"""A sum of squares about the mean below this part of the raw sum of squares is rounding."""

NAMES: Mapping[str, str] = {
    "conversions": "conversion rate",
    "engagement": "engagement score",
    "revenue": "revenue per visitor",
}

COVARIATE_NAMES: Mapping[str, str] = {
    "engagement": "engagement before the exposure",
    "exposure_value": "value sent with the exposure",
}


@dataclass(frozen=True, slots=True)
class MetricResult:
    """One secondary metric of one challenger against the control; ``None`` where it cannot be computed."""

    metric: str
    """``engagement``, ``revenue``, ``goal:NAME`` or ``ratio:NAME``."""
    name: str
    """For people."""
    kind: Kind
    variant: str
    """The challenger."""
    method: str
    """``pearson``, ``welch``, ``cuped`` or ``delta``; the same ending in ``_by_day`` where days are combined."""
    control: float | None = None
    """Level of the control in the metric's unit: a fraction for rates; weighted over days if by day."""
    value: float | None = None
    """Level of the challenger."""
    absolute: float | None = None
    """Challenger minus control."""
    low: float | None = None
    """Lower end of its interval at the family's ``level``, not adjusted for the other metrics."""
    high: float | None = None
    """Upper end of the same."""
    relative: float | None = None
    """Uplift; ``None`` where the control's level is not positive."""
    relative_low: float | None = None
    """Lower end of its interval; ``None`` where the data set no bound."""
    relative_high: float | None = None
    """Upper end of the same."""
    statistic: float | None = None
    """Pearson's chi-square, Welch's t, or by day the combined z."""
    p_value: float | None = None
    """Two-sided, looked at once."""
    p_adjusted: float | None = None
    """The same adjusted over the family."""
    reduction: float | None = None
    """Part of the variance that the covariate explains, in [0, 1]; ``None`` where none was used."""
    covariate: str | None = None
    """Which covariate was used, or why none; ``None`` for rates and ratios, which take none."""
    reason: str | None = None
    """Why a number is missing; ``None`` where all are there."""


@dataclass(frozen=True, slots=True)
class Family:
    """All secondary metrics of all challengers."""

    adjustment: str
    """``holm`` or ``benjamini_hochberg``."""
    level: float
    """Confidence level of each interval."""
    results: tuple[MetricResult, ...]


@dataclass(frozen=True, slots=True)
class GuardrailState:
    """One guardrail of one challenger at this moment."""

    measure: str
    """As in :class:`cro_core.domain.Guardrail`."""
    name: str
    """For people."""
    variant: str
    """The challenger."""
    margin: float
    """Tolerated relative change."""
    harm: str
    """Whether ``less`` or ``more`` is bad."""
    status: Status
    broken: bool
    """Whether the experiment has to end, and everybody to get the control."""
    relative: float | None
    """Observed relative difference from the control, standardised over epochs."""
    e_value: float | None
    """Evidence that the harm exceeds the margin."""
    threshold: float
    """The e-value from which on the guardrail is broken: 100 times the number of guardrails watched."""
    text: str
    """All this in a sentence."""
    reason: str | None = None
    """Why there is no number; ``None`` where there is one."""


@dataclass(frozen=True, slots=True)
class RatioPair:
    """A ratio of sums of a challenger (1) and the control (0); arrays ``(epochs,)``.

    ``y`` is the numerator. Inside an epoch the units' residuals ``y - R x`` from the common ratio R are
    exchangeable between variants without effect, as a mean's values are.
    """

    one: Mapping[str, Floats]
    """Of the challenger: ``n``, ``y``, ``yy``, ``x``, ``xx``, ``xy``."""
    zero: Mapping[str, Floats]
    """Of the control."""

    def score(self) -> Score:
        """Mean and variance of the challenger's residuals under re-labelling."""
        return self._score(self.zero)

    def z(self, effect: ArrayLike, scale: Scale) -> Floats:
        """The same after undoing the effect: the control's ratio times ``1 + effect``, or plus ``effect``."""
        value, c = np.asarray(effect, float), self.zero
        if scale == "relative":
            factor = 1 + value
            shifted = {"y": factor * c["y"], "yy": factor**2 * c["yy"], "xy": factor * c["xy"]}
        else:
            yy = c["yy"] + 2 * value * c["xy"] + value**2 * c["xx"]
            shifted = {"y": c["y"] + value * c["x"], "yy": yy, "xy": c["xy"] + value * c["xx"]}
        return self._score({**c, **shifted}).z

    def effect(self, position: Floats, scale: Scale) -> Floats:
        """Ratios 0 to inf less 1, or any difference in steps of the ratio of root mean squares."""
        with np.errstate(divide="ignore"):
            odds = np.asarray(position / (1 - position))
            if scale == "relative":
                return np.asarray(odds - 1)
            squares = sum(side["yy"].sum() for side in (self.one, self.zero))
            below = sum(side["xx"].sum() for side in (self.one, self.zero))
            return np.asarray(math.sqrt(squares / below if below else 1.0) * np.log(odds))

    def estimate(self, scale: Scale) -> Floats:
        """Difference of ratios over epochs, each weighted by ``x1 x0 / (x1 + x0)``."""
        zero, one = self.levels()
        return np.asarray(one - zero if scale == "absolute" else (one / zero - 1 if zero > 0 else np.nan))

    def levels(self) -> tuple[float, float]:
        """The ratios of control and challenger, standardised over epochs; NaN where there is no denominator."""
        return _standardised(self.zero["y"], self.zero["x"], self.one["y"], self.one["x"])

    def _score(self, zero: Mapping[str, Floats]) -> Score:
        one = self.one
        n = np.maximum(one["n"] + zero["n"], 2)
        y, yy, x, xx, xy = (one[k] + zero[k] for k in ("y", "yy", "x", "xx", "xy"))
        common = _divided(y, x)
        residual = np.maximum(yy - 2 * common * xy + common**2 * xx, 0)
        residual = np.where(residual > FLAT * (yy + common**2 * xx), residual, 0.0)
        surplus = one["y"] - common * one["x"]
        variance = np.where(x > 0, one["n"] * zero["n"] * residual / (n * (n - 1)), 0.0)
        return Score(surplus, variance, _divided(surplus, np.sqrt(variance)))


def secondary(
    experiment: Experiment, cells: Sequence[Cell], measured: Measured, *, as_of: datetime
) -> Family:
    """The secondary metrics of every challenger, as of a moment.

    Args:
        experiment: a started experiment.
        cells: its counted units per epoch and variant.
        measured: what was counted beside them at the same moment (``storage.analytics.measured``).
        as_of: the moment of the look, UTC; says how much of the planned traffic is in.

    Returns:
        Every metric of every challenger, whether it could be computed or not; p-values are adjusted over all
        of them. The only primary goal of an experiment is not among them: it is the primary metric.

    Raises:
        InvalidInput: sums that no data can have, or an unknown adjustment.
    """
    plan = experiment.plan
    if plan.adjustment not in ADJUSTMENTS:
        raise InvalidInput(
            f"adjustment is {plan.adjustment!r}: choose from {', '.join(ADJUSTMENTS)}", field="adjustment"
        )
    table = _Table(experiment, cells, measured, progress(experiment, as_of)[0])
    found = [result for challenger in experiment.challengers for result in table.metrics(challenger.key)]
    adjusted = ADJUSTMENTS[plan.adjustment]([result.p_value for result in found])
    results = tuple(replace(r, p_adjusted=p) for r, p in zip(found, adjusted, strict=True))
    return Family(plan.adjustment, 1 - plan.alpha, results)


def guardrails(
    experiment: Experiment, cells: Sequence[Cell], goals: Sequence[GoalCell] = ()
) -> tuple[GuardrailState, ...]:
    """Every guardrail of every challenger; to be read at every look.

    While no variant is worse than its margins, at most one experiment in a hundred is ever stopped by any of
    its guardrails, also while shares move and rates drift: each epoch is compared in itself. For means that
    bound is approximate (see :func:`cro_core.statistics.companion.guardrail_mean`).

    Args:
        experiment: a started experiment.
        cells: its counted units per epoch and variant.
        goals: the same by goal; needed where a guardrail names a goal.

    Returns:
        None where the plan has no guardrails.

    Raises:
        InvalidInput: counts that no data can have, a margin outside [0, 1), or an unknown measure.
    """
    rules = experiment.plan.guardrails
    table = _Table(experiment, cells, Measured(tuple(goals)), 1.0)
    number = len(rules) * len(experiment.challengers)
    return tuple(
        _watch(table, rule, challenger, number) for challenger in experiment.challengers for rule in rules
    )


def breach(states: Sequence[GuardrailState]) -> Reason | None:
    """Why the experiment has to end now and everybody to get the control; ``None`` while all guardrails hold."""
    broken = [state.text for state in states if state.broken]
    return Reason("guardrail", " ".join(broken)) if broken else None


def measured_from_json(data: Json) -> Measured:
    """The inverse of ``domain.to_json``, so that a stored decision can be computed again."""
    return Measured(
        tuple(GoalCell(**cell) for cell in data["goals"]), tuple(PairCell(**cell) for cell in data["pairs"])
    )


@dataclass(frozen=True, slots=True)
class _Column:
    """One metric of one challenger, before it is computed."""

    metric: str
    name: str
    kind: Kind
    variant: str

    def result(self, method: str, **numbers: Any) -> MetricResult:
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in numbers.items()
        }
        return MetricResult(self.metric, self.name, self.kind, self.variant, method, **clean)


class _Table:
    """The counts as arrays over epochs, and the metrics on them."""

    def __init__(
        self, experiment: Experiment, cells: Sequence[Cell], measured: Measured, elapsed: float
    ) -> None:
        self.experiment, self.measured = experiment, measured
        self.cells = list(cells)
        self.epochs = [e.number for e in experiment.epochs] or sorted({c.epoch for c in cells}) or [0]
        self.by_day = len(self.epochs) > 1
        weights = [e.weight for e in experiment.epochs] or [1.0]
        self.weights = reached(weights, elapsed)
        self.level = 1 - experiment.plan.alpha
        self.found = {(c.epoch, c.variant): c for c in cells}
        self.goals = {(g.goal, g.epoch, g.variant): float(g.units) for g in measured.goals}
        self.pairs = {(p.metric, p.epoch, p.variant): p for p in measured.pairs}

    def metrics(self, challenger: str) -> Iterator[MetricResult]:
        """The challenger's part of the family, in its fixed order."""
        plan = self.experiment.plan
        for measure in means_of(self.experiment, self.cells):
            yield self._mean(_Column(measure, NAMES[measure], "mean", challenger))
        primary = [g.name for g in plan.goals if g.primary]
        for goal in plan.goals:
            if primary != [goal.name]:
                yield self._rate(_Column(f"goal:{goal.name}", goal.name, "rate", challenger))
        for ratio in plan.ratios:
            yield self._ratio(_Column(f"ratio:{ratio.name}", ratio.name, "ratio", challenger))

    def units(self, variant: str) -> Floats:
        """Counted units per epoch."""
        return self._cells(variant, "units")

    def reached_by(self, measure: str, variant: str) -> Floats:
        """Units per epoch that converted, or that reached a goal."""
        if measure == "conversions":
            return self._cells(variant, "conversions")
        goal = measure.partition(":")[2]
        return np.array([self.goals.get((goal, e, variant), 0.0) for e in self.epochs])

    def sums(self, measure: str, variant: str) -> tuple[Floats, Floats, Floats]:
        """Units, sum and sum of squares of a mean metric per epoch."""
        field = {"engagement": "score", "revenue": "value"}[measure]
        return (
            self.units(variant),
            self._cells(variant, f"{field}_sum"),
            self._cells(variant, f"{field}_sumsq"),
        )

    def pair(self, measure: str, challenger: str) -> Pair:
        """Challenger and control for the combination over epochs."""
        control = self.experiment.control.key
        if measure in ("engagement", "revenue"):
            return Moments(*self.sums(measure, challenger), *self.sums(measure, control))
        sides = ((self.units(v), self.reached_by(measure, v)) for v in (challenger, control))
        return Counts(*(column for side in sides for column in side))

    def _cells(self, variant: str, field: str) -> Floats:
        cells = (self.found.get((e, variant)) for e in self.epochs)
        return np.array([0.0 if cell is None else float(getattr(cell, field)) for cell in cells])

    def _sides(self, metric: str, challenger: str) -> tuple[dict[str, Floats], dict[str, Floats]]:
        """The pair's sums of the control, then of the challenger."""
        names = {"n": "units", "y": "y_sum", "yy": "y_sumsq", "x": "x_sum", "xx": "x_sumsq", "xy": "xy_sum"}
        nothing = PairCell(metric, 0, "", 0, 0, 0, 0, 0, 0)
        control = self.experiment.control.key
        found = (
            [self.pairs.get((metric, e, variant), nothing) for e in self.epochs]
            for variant in (control, challenger)
        )
        zero, one = (
            {short: np.array([float(getattr(c, name)) for c in cells]) for short, name in names.items()}
            for cells in found
        )
        return zero, one

    # -- the metrics

    def _rate(self, column: _Column) -> MetricResult:
        control = self.experiment.control.key
        n0, n1 = self.units(control), self.units(column.variant)
        x0, x1 = (self.reached_by(column.metric, v) for v in (control, column.variant))
        if self.by_day:
            levels = _standardised(x0, n0, x1, n1)
            return self._combined(column, "pearson", Counts(n1, x1, n0, x0), levels)
        table = [int(column_.sum()) for column_ in (n0, x0, n1, x1)]
        test = proportions.chi_square(table[::2], table[1::2])
        gap = proportions.difference(table[0], table[1], table[2], table[3], self.level)
        return column.result(
            "pearson",
            control=table[1] / table[0] if table[0] else None,
            value=table[3] / table[2] if table[2] else None,
            absolute=gap.absolute,
            low=gap.score_low,
            high=gap.score_high,
            relative=gap.relative,
            relative_low=gap.relative_low,
            relative_high=gap.relative_high,
            statistic=test.statistic,
            p_value=test.p_value,
            reason=test.reason or (gap.reason if gap.relative is None else None),
        )

    def _mean(self, column: _Column) -> MetricResult:
        zero, one = self._sides(column.metric, column.variant)
        covariate, usable = self._covariate(zero, one)
        control, challenger = (
            self.sums(column.metric, v) for v in (self.experiment.control.key, column.variant)
        )
        if usable:
            found = self._adjusted(column, zero, one)
        elif self.by_day:
            levels = _standardised(control[1], control[0], challenger[1], challenger[0])
            found = self._combined(column, "welch", Moments(*challenger, *control), levels)
        else:
            found = _compared(column, "welch", means.welch(_sums(control), _sums(challenger), self.level))
        return replace(found, covariate=covariate)

    def _covariate(self, zero: Mapping[str, Floats], one: Mapping[str, Floats]) -> tuple[str, bool]:
        """What is said of the covariate, and whether it is used."""
        name = COVARIATE_NAMES.get(self.experiment.plan.covariate)
        if name is None:
            return "no covariate", False
        xx = zero["xx"].sum() + one["xx"].sum()
        x, n = zero["x"].sum() + one["x"].sum(), zero["n"].sum() + one["n"].sum()
        if not n or xx - x * x / n <= FLAT * xx:
            return f"no covariate: the {name} is the same for all", False
        p = self._imbalance(zero, one)
        if p is not None and p < IMBALANCE:
            text = f"no covariate: the {name} differs between the variants (p = {p:.1e}), as it must not"
            return text, False
        return name, True

    def _imbalance(self, zero: Mapping[str, Floats], one: Mapping[str, Floats]) -> float | None:
        sides = [(side["n"], side["x"], side["xx"]) for side in (zero, one)]
        if not self.by_day:
            return means.welch(_sums(sides[0]), _sums(sides[1])).p_value
        return _p_value(float(combined_z(Moments(*sides[1], *sides[0]), self.weights)))

    def _adjusted(
        self, column: _Column, zero: Mapping[str, Floats], one: Mapping[str, Floats]
    ) -> MetricResult:
        """CUPED: over all units, or, where shares may move, with each day's own coefficient."""
        if not self.by_day:
            return _compared(column, "cuped", means.cuped(_pairs(zero), _pairs(one), self.level))
        both = {key: zero[key] + one[key] for key in zero}
        size = np.maximum(both["n"], 1)
        centre = both["x"] / size
        spread = both["xx"] - both["x"] * centre
        spread = np.where(spread > FLAT * both["xx"], spread, 0.0)
        theta = _divided(both["xy"] - both["y"] * centre, spread)
        control, challenger = (_without(side, theta, centre) for side in (zero, one))
        levels = _standardised(control[1], control[0], challenger[1], challenger[0])
        before = (both["yy"] - both["y"] ** 2 / size).sum()
        explained = float((theta**2 * spread).sum() / before) if before > 0 else 0.0
        found = self._combined(column, "cuped", Moments(*challenger, *control), levels)
        return replace(found, reduction=min(max(explained, 0.0), 1.0))

    def _ratio(self, column: _Column) -> MetricResult:
        zero, one = self._sides(column.metric, column.variant)
        if self.by_day:
            pair = RatioPair(one, zero)
            return self._combined(column, "delta", pair, pair.levels())
        return _compared(column, "delta", means.ratio(_pairs(zero), _pairs(one), self.level))

    def _combined(
        self, column: _Column, method: str, pair: Pair, levels: tuple[float, float]
    ) -> MetricResult:
        """Days compared each in itself and combined with the weights fixed before the start."""
        method += "_by_day"
        zero, one = levels
        if not ((pair.score().variance > 0) & (self.weights > 0)).any():
            silent = "no day has units in both variants and any variation"
            return column.result(method, control=zero, value=one, reason=silent)
        z = float(combined_z(pair, self.weights))
        q = -float(ndtri((1 - self.level) / 2))
        low, high = (float(end) for end in effect_at(pair, self.weights, np.array([q, -q]), "absolute"))
        numbers = {"absolute": one - zero, "low": low, "high": high}
        reason: str | None = None
        if zero > 0:
            ends = effect_at(pair, self.weights, np.array([q, -q]), "relative")
            numbers |= {
                "relative": one / zero - 1,
                "relative_low": float(ends[0]),
                "relative_high": float(ends[1]),
            }
            if not np.isfinite(ends).all():
                reason = "the control's level is not clearly above 0: no bound of the relative difference"
        else:
            reason = "the control's level is not positive: no relative difference"
        return column.result(
            method, control=zero, value=one, statistic=z, p_value=_p_value(z), reason=reason, **numbers
        )


def _compared(column: _Column, method: str, found: means.MeanDifference) -> MetricResult:
    numbers = {f.name: getattr(found, f.name) for f in fields(found) if f.name not in ("variant", "df")}
    return column.result(method, value=found.variant, **numbers)


def _sums(columns: tuple[Floats, Floats, Floats]) -> means.Sums:
    n, total, squares = (float(column.sum()) for column in columns)
    return means.Sums(int(n), total, squares)


def _pairs(side: Mapping[str, Floats]) -> means.Pairs:
    y, x, yy, xx, xy = (float(side[k].sum()) for k in ("y", "x", "yy", "xx", "xy"))
    return means.Pairs(int(side["n"].sum()), y, x, yy, xx, xy)


def _without(side: Mapping[str, Floats], theta: Floats, centre: Floats) -> tuple[Floats, Floats, Floats]:
    """Units, sum and sum of squares of ``y - theta (x - centre)``."""
    n, y, yy, x, xx, xy = (side[k] for k in ("n", "y", "yy", "x", "xx", "xy"))
    total = y - theta * (x - n * centre)
    squares = yy - 2 * theta * (xy - centre * y) + theta**2 * (xx - 2 * centre * x + n * centre**2)
    return n, total, np.maximum(squares, 0)


def _standardised(y0: Floats, n0: Floats, y1: Floats, n1: Floats) -> tuple[float, float]:
    """Levels of control and challenger, epochs weighted by ``n0 n1 / (n0 + n1)``; NaN where nothing overlaps."""
    n = n0 + n1
    weight = _divided(n0 * n1, n).sum()
    if weight <= 0:
        return math.nan, math.nan
    return float(_divided(y0 * n1, n).sum() / weight), float(_divided(y1 * n0, n).sum() / weight)


def _divided(above: ArrayLike, below: ArrayLike) -> Floats:
    """``above / below``, 0 where ``below`` is not positive."""
    above, below = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    found = np.zeros(above.shape)
    np.divide(above, below, out=found, where=below > 0)
    return found


def _p_value(z: float) -> float:
    return 2 * float(ndtr(-abs(z)))


def _watch(table: _Table, rule: Guardrail, challenger: Variant, number: int) -> GuardrailState:
    _check_measure(rule.measure)
    control = table.experiment.control.key
    found = _judged(table, rule, control, challenger.key, number)
    with np.errstate(all="ignore"):
        relative = float(table.pair(rule.measure, challenger.key).estimate("relative"))
    name = NAMES.get(rule.measure) or rule.measure.partition(":")[2]
    broken = found.status == "stop"
    state = GuardrailState(
        measure=rule.measure,
        name=name,
        variant=challenger.key,
        margin=rule.margin,
        harm=rule.harm,
        status="broken" if broken else cast("Status", found.status),
        broken=broken,
        relative=relative if math.isfinite(relative) else None,
        e_value=found.e_value,
        threshold=found.threshold,
        text="",
        reason=found.reason,
    )
    return replace(state, text=_sentence(state, challenger.name))


def _judged(
    table: _Table, rule: Guardrail, control: str, challenger: str, number: int
) -> companion.Guardrail:
    harm = cast("companion.Harm", rule.harm)
    if rule.measure in ("engagement", "revenue"):
        bins = [
            [
                means.Sums(int(n), float(total), float(squares))
                for n, total, squares in zip(*table.sums(rule.measure, v), strict=True)
            ]
            for v in (control, challenger)
        ]
        return companion.guardrail_mean(bins[0], bins[1], rule.margin, harm, number)
    units = np.stack([table.units(v) for v in (control, challenger)], axis=1)
    events = np.stack([table.reached_by(rule.measure, v) for v in (control, challenger)], axis=1)
    return companion.guardrail(units, events, rule.margin, harm, number)


def _check_measure(measure: str) -> None:
    """A misspelt guardrail must not be silently blind."""
    if measure not in MEASURES and not measure.startswith("goal:"):
        raise InvalidInput(
            f"guardrail is {measure!r}: give goal:NAME, {', '.join(MEASURES)}", field="guardrails"
        )


def _sentence(state: GuardrailState, variant: str) -> str:
    limit = f"{'-' if state.harm == 'less' else '+'}{state.margin:.0%}" if state.margin else "0 %"
    seen = "" if state.relative is None else f" is {state.relative:+.1%} against the control, and"
    what = f"{state.name} of {variant}"
    if state.status == "no_data":
        return f"Guardrail not yet watched: {what}: {state.reason}."
    verdict = "Guardrail broken" if state.broken else "Guardrail holds"
    proof = f"evidence of a greater harm {state.e_value:.3g}, limit {state.threshold:.0f}"
    return f"{verdict}: {what}{seen} {limit} is tolerated ({proof})."
