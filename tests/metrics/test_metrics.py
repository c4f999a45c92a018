"""Secondary metrics and guardrails: from posted events to numbers, against other packages' numbers."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from helpers.store_samples import DAY, HOUR, START, event, exposure, running, stored, with_shares
from scipy import optimize, stats

from cro_core.analytics import reader
from cro_core.config import Config, validate
from cro_core.domain import (
    Cell,
    Event,
    Experiment,
    Goal,
    GoalCell,
    Guardrail,
    Measured,
    PairCell,
    Plan,
    Quantity,
    QuantityPair,
    Ratio,
    Variant,
    to_json,
)
from cro_core.errors import InvalidInput
from cro_core.evidence import Evidence, Family, MetricResult
from cro_core.home import Home
from cro_core.metrics import kinds
from cro_core.metrics.guardrails import breach, guardrails
from cro_core.metrics.secondary import secondary
from cro_core.planning import plans
from cro_core.statistics import companion
from cro_core.statistics.proportions import wilson
from cro_core.storage import events, experiments
from cro_core.storage.database import Database
from cro_core.storage.evidence_json import evidence_from_json, evidence_to_json
from cro_core.workflows.import_file import import_file

with warnings.catch_warnings():  # our warnings are errors, theirs are theirs
    warnings.simplefilter("ignore")
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.proportion import score_test_proportions_2indep
    from tea_tasting.aggr import Aggregates
    from tea_tasting.metrics import Mean, RatioOfMeans

LATE = START + 15 * DAY
GOALS = (Goal("lead", 100.0, True), Goal("call", 80.0, True), Goal("play", 20.0))
RATIOS = (
    Ratio("order_value", "revenue", "conversions"),
    Ratio("plays_per_player", "count:play", "goal:play"),
    Ratio("lead_money", "value:lead", "engagement"),
)
COVARIATES = ("engagement", "exposure_value")


# ---------------------------------------------------------------- visitors, and what is true of them


def visitors(
    experiment: Experiment, rng: np.random.Generator, number: int
) -> tuple[list[Event], pd.DataFrame]:
    """Events of random visitors, and one row per counted visitor written down while they were made."""
    log: list[Event] = []
    rows = []
    for n in range(number):
        unit, at = f"u{n}", START + HOUR * float(rng.uniform(0, 24 * 12))
        day = experiment.epoch_at(at)
        assert day is not None
        variant = str(rng.choice(list(day.shares), p=list(day.shares.values())))
        taste = float(rng.gamma(2.0))
        before = {g.name for g in GOALS if rng.random() < 0.2 * taste}
        for name in before:  # for another experiment, once or twice: each goal counts once
            ago = rng.uniform(0.1, 600, int(rng.integers(1, 3)))
            log += [event(name, unit, at - HOUR * float(h), to="other") for h in ago]
        log.append(event("lead", unit, at - 29 * DAY, to=None))  # too long ago
        log.append(event("play", unit, at - HOUR, to=None, bot=True))
        spent = round(10 * taste, 2)
        log.append(exposure(unit, variant, at, epoch=day.number, value=spent if n % 7 else None))
        log.append(exposure(unit, variant, at + HOUR, value=1e6))  # only the first exposure says anything
        times = {g.name: int(rng.poisson(0.2 * taste * (1.5 if variant == "b" else 1))) for g in GOALS}
        amounts = {name: rng.lognormal(1, 1, times[name]).round(2).tolist() for name in times}
        for name, values in amounts.items():
            log += [event(name, unit, at + HOUR * float(rng.uniform(0, 23)), value=v) for v in values]
        log.append(event("lead", unit, at + 25 * HOUR, value=1e6))  # too late
        rows.append(
            {
                "variant": variant,
                "epoch": day.number,
                "conversions": float(times["lead"] > 0 or times["call"] > 0),
                "engagement": sum(g.weight for g in GOALS if times[g.name]),
                "revenue": math.fsum(v for values in amounts.values() for v in values),
                **{f"goal:{name}": float(k > 0) for name, k in times.items()},
                **{f"count:{name}": float(k) for name, k in times.items()},
                **{f"value:{name}": math.fsum(values) for name, values in amounts.items()},
                "before:engagement": sum(g.weight for g in GOALS if g.name in before),
                "before:exposure_value": spent if n % 7 else 0.0,
            }
        )
    order = rng.permutation(len(log))
    return [log[i] for i in order], pd.DataFrame(rows)


def post(database: Database, log: list[Event]) -> None:
    """Stores events as they come; the statistics are what a store that has run for a minute has by itself."""
    with database.write() as connection:
        events.record(connection, log, [], START)
        connection.execute(sa.text("ANALYZE"))


def posted(database: Database, experiment: Experiment, seed: int, number: int = 150) -> pd.DataFrame:
    """Visitors of the stored experiment, posted in random order."""
    log, table = visitors(experiment, np.random.default_rng(seed), number)
    post(database, log)
    return table


def counted(
    database: Database, experiment: Experiment, as_of: datetime = LATE
) -> tuple[tuple[Cell, ...], Measured]:
    with database.read() as connection:
        cells = reader.reading(connection, experiment, as_of).cells()
        return cells, reader.reading(connection, experiment, as_of).measured(cells)


def family(database: Database, experiment: Experiment, as_of: datetime = LATE) -> Family:
    return secondary(experiment, *counted(database, experiment, as_of), as_of=as_of)


def by_metric(found: Family, variant: str = "b") -> dict[str, MetricResult]:
    return {r.metric: r for r in found.results if r.variant == variant}


def columns(ratio: Ratio) -> tuple[str, str]:
    return ratio.numerator, ratio.denominator


def aggregates(table: pd.DataFrame, variant: str, y: str, x: str) -> Aggregates:
    mine = table[table["variant"] == variant]
    return Aggregates(
        count_=len(mine),
        mean_={"y": mine[y].mean(), "x": mine[x].mean()},
        var_={"y": mine[y].var(), "x": mine[x].var()},
        cov_={("x", "y"): mine[[x, y]].cov().iloc[0, 1]},
    )


def same(found: MetricResult, judge: Any) -> None:
    close = {"rel": 1e-9, "abs": 1e-9}
    assert found.control == pytest.approx(judge.control, **close)
    assert found.value == pytest.approx(judge.treatment, **close)
    assert found.absolute == pytest.approx(judge.effect_size, **close)
    assert (found.low, found.high) == pytest.approx(
        (judge.effect_size_ci_lower, judge.effect_size_ci_upper), **close
    )
    assert found.relative == pytest.approx(judge.rel_effect_size, **close)
    assert found.statistic == pytest.approx(judge.statistic, **close)
    assert found.p_value == pytest.approx(judge.pvalue, **close)
    assert found.reason is None


# ---------------------------------------------------------------- fixed shares, against other packages


@pytest.fixture(params=[1, 2, 3])
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_means_and_rates_against_scipy(database: Database, seed: int) -> None:
    experiment = stored(database, running(goals=GOALS, covariate="none"))
    table = posted(database, experiment, seed)
    found = by_metric(family(database, experiment))
    assert list(found) == ["engagement", "revenue", "goal:lead", "goal:call", "goal:play"]
    a, b = (table[table["variant"] == v] for v in "ab")
    for metric in ("engagement", "revenue"):
        judge = stats.ttest_ind(b[metric], a[metric], equal_var=False)
        result = found[metric]
        assert (result.method, result.covariate, result.reduction) == ("welch", "no covariate", None)
        assert (result.statistic, result.p_value) == pytest.approx((judge.statistic, judge.pvalue), rel=1e-9)
        assert (result.low, result.high) == pytest.approx(judge.confidence_interval(0.95), rel=1e-9)
        assert result.relative == pytest.approx(b[metric].mean() / a[metric].mean() - 1, rel=1e-9)
    for metric in ("goal:lead", "goal:call", "goal:play"):
        crossed = pd.crosstab(table["variant"], table[metric])
        judge = stats.chi2_contingency(crossed, correction=False)
        result = found[metric]
        assert (result.statistic, result.p_value) == pytest.approx((judge.statistic, judge.pvalue), rel=1e-9)
        assert (result.control, result.value) == pytest.approx((a[metric].mean(), b[metric].mean()))
        assert result.absolute == pytest.approx(b[metric].mean() - a[metric].mean(), rel=1e-9)
        assert (result.method, result.covariate, result.reason) == ("pearson", None, None)


def test_intervals_of_a_rate_are_those_of_the_score(database: Database) -> None:
    """Relative against statsmodels; absolute against a numerical maximum, because statsmodels 0.14 does not
    reach the restricted maximum of a difference."""
    experiment = stored(database, running(goals=GOALS))
    table = posted(database, experiment, 5)
    result = by_metric(family(database, experiment))["goal:play"]
    (n0, x0), (n1, x1) = (
        (len(v), v.sum()) for v in (table.loc[table["variant"] == k, "goal:play"] for k in "ab")
    )
    for relative in (result.relative_low, result.relative_high):
        judge = score_test_proportions_2indep(x1, n1, x0, n0, value=1 + relative, compare="ratio")
        assert judge.pvalue == pytest.approx(0.05, abs=1e-9)
    for gap in (result.low, result.high):
        assert _score_p_value(n0, x0, n1, x1, gap) == pytest.approx(0.05, abs=1e-6)  # type: ignore[arg-type]


def _score_p_value(n0: int, x0: int, n1: int, x1: int, gap: float) -> float:
    def unlikely(p: float) -> float:
        rates = np.array([p, 1 - p, p + gap, 1 - p - gap])
        return -float(np.array([x0, n0 - x0, x1, n1 - x1]) @ np.log(rates))

    least, most = max(0.0, -gap) + 1e-9, min(1.0, 1 - gap) - 1e-9
    p = optimize.minimize_scalar(unlikely, bounds=(least, most), method="bounded", options={"xatol": 1e-10}).x
    variance = (p * (1 - p) / n0 + (p + gap) * (1 - p - gap) / n1) * (n0 + n1) / (n0 + n1 - 1)
    return float(2 * stats.norm.sf(abs(x1 / n1 - x0 / n0 - gap) / math.sqrt(variance)))


def test_ratios_against_tea_tasting(database: Database, seed: int) -> None:
    experiment = stored(database, running(goals=GOALS, ratios=RATIOS, alpha=0.1))
    table = posted(database, experiment, seed)
    found = by_metric(family(database, experiment))
    metric = RatioOfMeans("y", "x", confidence_level=0.9)
    for ratio in RATIOS:
        judge = metric.analyze_aggregates(*(aggregates(table, v, *columns(ratio)) for v in "ab"))
        assert (found[f"ratio:{ratio.name}"].kind, found[f"ratio:{ratio.name}"].method) == ("ratio", "delta")
        same(found[f"ratio:{ratio.name}"], judge)


@pytest.mark.parametrize("covariate", COVARIATES)
def test_adjusted_means_against_tea_tasting(database: Database, seed: int, covariate: str) -> None:
    experiment = stored(database, running(goals=GOALS, covariate=covariate))
    table = posted(database, experiment, seed)
    found = by_metric(family(database, experiment))
    for metric in ("engagement", "revenue"):
        judge = Mean("y", "x").analyze_aggregates(
            *(aggregates(table, v, metric, f"before:{covariate}") for v in "ab")
        )
        same(found[metric], judge)
        assert found[metric].method == "cuped"
        assert found[metric].covariate == kinds.COVARIATE_NAMES[covariate]
        correlation = table[[metric, f"before:{covariate}"]].corr().iloc[0, 1]
        assert found[metric].reduction == pytest.approx(correlation**2, abs=1e-9)
        assert found[metric].reduction > 0.005  # type: ignore[operator]


@pytest.mark.parametrize(("adjustment", "theirs"), [("holm", "holm"), ("benjamini_hochberg", "fdr_bh")])
def test_the_family_spans_all_metrics_of_all_challengers(
    database: Database, adjustment: str, theirs: str
) -> None:
    made = running(keys=("a", "b", "c"), goals=GOALS, ratios=RATIOS[:1], adjustment=adjustment)
    found = family(database, _with(database, made))
    assert len(found.results) == 2 * 6
    p_values = [r.p_value for r in found.results]
    judge = multipletests(p_values, method=theirs)[1]
    assert [r.p_adjusted for r in found.results] == pytest.approx(judge, abs=1e-12)
    assert (found.adjustment, found.level) == (adjustment, 0.95)


def _with(database: Database, experiment: Experiment) -> Experiment:
    posted(database, stored(database, experiment), 4)
    return experiment


def test_every_number_of_a_plan_changes_the_answer(database: Database) -> None:
    experiment = _with(database, running(goals=GOALS, ratios=RATIOS[:1], covariate="none"))
    base = by_metric(family(database, experiment))

    def changed(**plan: Any) -> dict[str, MetricResult]:
        other = replace(experiment, plan=replace(experiment.plan, **plan))
        return by_metric(family(database, other))

    wider = changed(alpha=0.01)["engagement"]
    assert wider.low < base["engagement"].low  # type: ignore[operator]
    assert wider.high > base["engagement"].high  # type: ignore[operator]
    assert wider.p_value == base["engagement"].p_value
    assert changed(covariate="engagement")["engagement"].p_value != base["engagement"].p_value
    assert changed(covariate="exposure_value")["engagement"].reduction != pytest.approx(
        changed(covariate="engagement")["engagement"].reduction
    )
    assert "ratio:order_value" not in changed(ratios=())
    assert changed(ratios=())["engagement"].p_adjusted != base["engagement"].p_adjusted
    assert changed(adjustment="benjamini_hochberg")["goal:lead"].p_adjusted != base["goal:lead"].p_adjusted
    heavier = (Goal("lead", 500.0, True), *GOALS[1:])
    assert changed(goals=heavier)["engagement"].control > base["engagement"].control  # type: ignore[operator]
    early = by_metric(family(database, experiment, START + 5 * DAY))
    assert early["engagement"].p_value != base["engagement"].p_value
    with pytest.raises(InvalidInput, match=r"adjustment is 'none': choose from holm"):
        changed(adjustment="none")


# ---------------------------------------------------------------- what is a metric, and what is not there


def test_an_only_primary_goal_is_no_secondary_metric(database: Database) -> None:
    goals = (Goal("lead", 100.0, True), Goal("call", 80.0), Goal("play", 20.0))
    found = family(database, _with(database, running(goals=goals)))
    assert [r.metric for r in found.results] == ["engagement", "revenue", "goal:call", "goal:play"]


def test_a_single_goal_without_amounts_leaves_nothing_to_tell(database: Database) -> None:
    experiment = stored(database, running(goals=(Goal("lead", 3.0, True),)))
    log = [exposure(f"u{n}", "ab"[n % 2], START + HOUR) for n in range(8)]
    post(database, [*log, event("lead", "u1", START + 2 * HOUR)])
    cells, measured = counted(database, experiment)
    assert measured == Measured((GoalCell("lead", 0, "b", 1),))
    assert secondary(experiment, cells, measured, as_of=LATE).results == ()


def test_no_visitor_at_all(database: Database) -> None:
    experiment = stored(database, running(goals=GOALS, ratios=RATIOS))
    found = family(database, experiment)
    assert [r.metric for r in found.results][:2] == ["engagement", "goal:lead"]
    for result in found.results:
        assert (result.p_value, result.p_adjusted, result.absolute, result.low) == (None,) * 4
        assert result.reason
    assert json.loads(json.dumps(to_json(found), allow_nan=False))["results"][0]["p_value"] is None


def test_a_variant_that_nobody_met(database: Database) -> None:
    experiment = stored(database, running(goals=GOALS))
    log = [exposure(f"u{n}", "a", START + HOUR) for n in range(8)]
    post(database, [*log, event("lead", "u1", START + 2 * HOUR, value=3.0)])
    found = by_metric(family(database, experiment))
    assert found["engagement"].reason == "the variant has 0 units: a mean with an error needs 2"
    assert found["goal:lead"].control == 1 / 8
    assert found["goal:lead"].value is None
    assert found["goal:lead"].reason is not None


def test_without_earlier_events_there_is_no_covariate(database: Database) -> None:
    experiment = stored(database, running(goals=GOALS))
    log = [exposure(f"u{n}", "ab"[n % 2], START + HOUR) for n in range(40)]
    log += [event("play", f"u{n}", START + 2 * HOUR) for n in range(0, 40, 3)]
    post(database, log)
    result = by_metric(family(database, experiment))["engagement"]
    assert result.method == "welch"
    assert result.covariate == "no covariate: the engagement before the exposure is the same for all"
    assert result.reduction is None
    assert result.p_value is not None


TICK = timedelta(microseconds=1)
BEFORE_EXPOSURE = {
    "after": (-TICK, False),
    "at": (timedelta(), False),  # the variant may have caused it
    "just": (TICK, True),
    "weeks": (28 * DAY - TICK, True),
    "limit": (28 * DAY, True),
    "beyond": (28 * DAY + TICK, False),
}


def test_the_covariate_ends_before_the_exposure(database: Database) -> None:
    """Every goal weighs another power of two, so that the sum tells which of them were taken."""
    goals = tuple(Goal(name, 2.0**bit, bit == 0) for bit, name in enumerate(BEFORE_EXPOSURE))
    experiment, at = stored(database, running(goals=goals)), START + 30 * HOUR
    for number, to in enumerate(["hero", "other", None]):
        post(database, [exposure(f"u{number}", "b", at)])
        past = [event(k, f"u{number}", at - before, to=to) for k, (before, _) in BEFORE_EXPOSURE.items()]
        post(database, past)
    (pair,) = [p for p in counted(database, experiment)[1].pairs if p.metric == "engagement"]
    taken = sum(goal.weight for goal in goals if BEFORE_EXPOSURE[goal.name][1])
    assert (pair.units, pair.x_sum, pair.x_sumsq) == (3, 3 * taken, 3 * taken**2)


@pytest.mark.parametrize("at_exposure", [True, False])
def test_a_goal_at_the_exposures_own_time_is_never_in_the_covariate(
    database: Database, at_exposure: bool
) -> None:
    """It is an outcome or nothing, whatever the plan makes of it."""
    experiment = stored(database, running(goals=GOALS, goal_at_exposure=at_exposure))
    post(database, [exposure("u1", "a", START + HOUR), event("lead", "u1", START + HOUR)])
    (pair,) = [p for p in counted(database, experiment)[1].pairs if p.metric == "engagement"]
    assert (pair.y_sum, pair.x_sum) == (100.0 * at_exposure, 0.0)


def test_a_covariate_that_the_variant_has_touched_is_not_used() -> None:
    """Planted: what is posted as known before the exposure is known after it."""
    experiment = running(goals=GOALS, covariate="exposure_value")
    cells = (Cell(0, "a", 1000, 0, 1000.0, 2000.0), Cell(0, "b", 1000, 0, 1100.0, 2300.0))
    pairs = (
        PairCell("engagement", 0, "a", 1000, 1000.0, 2000.0, 1000.0, 2000.0, 1900.0),
        PairCell("engagement", 0, "b", 1000, 1100.0, 2300.0, 1200.0, 2500.0, 2200.0),
    )
    result = secondary(experiment, cells, Measured(pairs=pairs), as_of=LATE).results[0]
    assert (result.metric, result.method, result.reduction) == ("engagement", "welch", None)
    assert "differs between the variants (p = " in (result.covariate or "")
    assert result.absolute == pytest.approx(0.1)


def test_a_metric_that_does_not_vary_has_a_reason() -> None:
    experiment = running(goals=GOALS, covariate="none")
    cells = (Cell(0, "a", 50, 50, 5000.0, 5e5), Cell(0, "b", 40, 40, 4000.0, 4e5))
    result = secondary(experiment, cells, Measured(), as_of=LATE).results[0]
    assert (result.control, result.value, result.absolute, result.p_value) == (100, 100, 0, None)
    assert result.reason == "the metric does not vary: no test"


# ---------------------------------------------------------------- moving shares

SHARES: Mapping[int, Mapping[str, float]] = {
    n: {"a": 0.3, "b": 0.7} if n % 2 else {"a": 0.6, "b": 0.4} for n in range(14)
}


def moved(**plan: Any) -> Experiment:
    return with_shares(running(goals=GOALS, ratios=RATIOS[:1], adaptive=True, **plan), SHARES)


def combined(
    table: pd.DataFrame,
    experiment: Experiment,
    surplus: Callable[[pd.DataFrame, np.ndarray], tuple[float, float]],
) -> float:
    """The combined z from rows, day by day; a second implementation with loops.

    All planned traffic is in, so that the weights sum to 1; a day without visitors says nothing.
    """
    above = 0.0
    for number, day in table.groupby("epoch"):
        challenger = (day["variant"] == "b").to_numpy()
        s, v = surplus(day, challenger)
        weight = experiment.epochs[int(number)].weight  # type: ignore[call-overload]
        above += math.sqrt(weight) * s / math.sqrt(v) if v > 1e-9 else 0
    return above


def relabelled(values: np.ndarray, challenger: np.ndarray) -> tuple[float, float]:
    """The challenger's surplus and its variance over all ways of labelling these values."""
    n, k = len(values), int(challenger.sum())
    if n < 2 or k in (0, n):
        return 0.0, 0.0
    surplus = values[challenger].sum() - k * values.mean()
    return surplus, k * (n - k) / n * values.var(ddof=1)


def mean_surplus(metric: str) -> Any:
    return lambda day, challenger: relabelled(day[metric].to_numpy(), challenger)


def ratio_surplus(numerator: str, denominator: str) -> Any:
    def surplus(day: pd.DataFrame, challenger: np.ndarray) -> tuple[float, float]:
        y, x = day[numerator].to_numpy(), day[denominator].to_numpy()
        return relabelled(y - (y.sum() / x.sum() if x.sum() else 0) * x, challenger)

    return surplus


def adjusted_surplus(metric: str, covariate: str) -> Any:
    def surplus(day: pd.DataFrame, challenger: np.ndarray) -> tuple[float, float]:
        y, x = day[metric].to_numpy(), day[covariate].to_numpy()
        theta = np.polyfit(x, y, 1)[0] if np.ptp(x) else 0.0
        return relabelled(y - theta * (x - x.mean()), challenger)

    return surplus


@pytest.mark.parametrize("covariate", ["none", *COVARIATES])
def test_days_are_compared_each_in_itself(database: Database, covariate: str) -> None:
    experiment = stored(database, moved(covariate=covariate))
    table = posted(database, experiment, 7, 300)
    found = by_metric(family(database, experiment))
    tests = {f"goal:{g.name}": mean_surplus(f"goal:{g.name}") for g in GOALS}
    tests["ratio:order_value"] = ratio_surplus("revenue", "conversions")
    for metric in ("engagement", "revenue"):
        with_covariate = adjusted_surplus(metric, f"before:{covariate}")
        tests[metric] = mean_surplus(metric) if covariate == "none" else with_covariate
    assert set(tests) == set(found)
    for metric, surplus in tests.items():
        result = found[metric]
        z = combined(table, experiment, surplus)
        assert result.method.endswith("_by_day")
        assert result.statistic == pytest.approx(z, rel=1e-9)
        assert result.p_value == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-9)
        assert result.low < result.absolute < result.high  # type: ignore[operator]
        assert result.relative_low < result.relative < result.relative_high  # type: ignore[operator]
    assert (found["revenue"].reduction is None) == (covariate == "none")


def test_an_interval_ends_where_the_rows_just_refuse_the_effect(database: Database) -> None:
    """Undo the end of an interval in the rows themselves: the test must then be exactly at 5 %."""
    experiment = stored(database, moved(covariate="none"))
    table = posted(database, experiment, 8, 300)
    found = by_metric(family(database, experiment))
    control = table["variant"] == "a"
    critical = stats.norm.ppf(0.975)
    for metric, base, surplus in (
        ("revenue", None, mean_surplus("revenue")),
        ("ratio:order_value", "conversions", ratio_surplus("revenue", "conversions")),
    ):
        result = found[metric]
        unit = 1.0 if base is None else table[base]
        for end, relative, sign in (
            (result.low, result.relative_low, 1),
            (result.high, result.relative_high, -1),
        ):
            added, scaled = table.copy(), table.copy()
            added["revenue"] = table["revenue"] + control * end * unit
            scaled["revenue"] = table["revenue"] * (1 + control * relative)
            for undone in (added, scaled):
                assert combined(undone, experiment, surplus) == pytest.approx(sign * critical, rel=1e-6)


def test_levels_are_standardised_over_days(database: Database) -> None:
    experiment = stored(database, moved(covariate="none"))
    table = posted(database, experiment, 9, 300)
    result = by_metric(family(database, experiment))["engagement"]
    days = table.groupby(["epoch", "variant"])["engagement"].agg(["size", "mean"]).unstack(fill_value=0)
    n0, n1 = days["size"]["a"], days["size"]["b"]
    weight = n0 * n1 / (n0 + n1)
    a, b = ((weight * days["mean"][v].fillna(0)).sum() / weight.sum() for v in "ab")
    expected = (a, b, b - a, b / a - 1)
    assert (result.control, result.value, result.absolute, result.relative) == pytest.approx(expected)


def test_a_day_that_has_just_begun_weighs_what_is_in(database: Database) -> None:
    """The weight comes from the clock, not from how many visitors there are."""
    experiment = stored(database, moved(covariate="none"))
    posted(database, experiment, 7, 300)
    cells, measured = counted(database, experiment, START + 4 * DAY)
    one, other = (
        secondary(experiment, cells, measured, as_of=START + 4 * DAY + h * HOUR).results[0] for h in (0, 5)
    )
    assert one.absolute == other.absolute
    assert one.statistic != pytest.approx(other.statistic, rel=1e-4)


def drifting(rng: np.random.Generator, experiment: Experiment) -> tuple[list[Cell], Measured, np.ndarray]:
    """No effect at all, a level that falls from day to day, and shares that moved with it.

    A unit's amount and score go with its covariate; every goal is reached with one chance by both variants.
    """
    cells, goals, pairs, rows = [], [], [], []
    for epoch in experiment.epochs:
        level = 0.3 * 0.8**epoch.number
        for variant, share in (("a", 0.2 + 0.045 * epoch.number), ("b", 0.8 - 0.045 * epoch.number)):
            n = int(200 * share)
            x = rng.gamma(2, 1, n) * level
            hit = rng.random(n) < level
            y = x + hit * rng.lognormal(1, 1, n)
            pair = [float(v) for v in (y.sum(), (y**2).sum(), x.sum(), (x**2).sum(), (x * y).sum())]
            cells.append(Cell(epoch.number, variant, n, int(hit.sum()), *pair[:2]))
            goals.append(GoalCell("play", epoch.number, variant, int(hit.sum())))
            pairs.append(PairCell("engagement", epoch.number, variant, n, *pair))
            ratio = [float(v) for v in (y.sum(), (y**2).sum(), hit.sum(), hit.sum(), y[hit].sum())]
            pairs.append(PairCell("ratio:order_value", epoch.number, variant, n, *ratio))
            rows.append((variant == "b", n, *pair[:2]))
    return cells, Measured(tuple(goals), tuple(pairs)), np.array(rows, float)


@pytest.mark.sizes(40, 200)
def test_drift_with_moving_shares_is_no_effect(size: int) -> None:
    """40 (200) programmes without effect, Monte-Carlo error 3.4 (1.5) points: 5 % by day, nearly all if pooled."""
    rng = np.random.default_rng(12)
    experiment = moved()
    plain = replace(experiment, plan=replace(experiment.plan, covariate="none"))
    rejected = {"engagement": 0, "cuped": 0, "goal:play": 0, "ratio:order_value": 0, "pooled": 0}
    for _ in range(size):
        cells, measured, rows = drifting(rng, experiment)
        found = by_metric(secondary(experiment, cells, measured, as_of=LATE))
        assert found["engagement"].method == "cuped_by_day"
        rejected["cuped"] += found["engagement"].p_value < 0.05  # type: ignore[operator]
        found = by_metric(secondary(plain, cells, measured, as_of=LATE))
        for metric in ("engagement", "goal:play", "ratio:order_value"):
            rejected[metric] += found[metric].p_value < 0.05  # type: ignore[operator]
        a, b = (rows[rows[:, 0] == side].sum(axis=0) for side in (0, 1))
        gap = b[2] / b[1] - a[2] / a[1]
        error = sum((s[3] / s[1] - (s[2] / s[1]) ** 2) / s[1] for s in (a, b))
        rejected["pooled"] += abs(gap) > 1.96 * math.sqrt(error)
    pooled = rejected.pop("pooled")
    for metric, number in rejected.items():
        ends = wilson(size, number, 0.997)
        assert ends.low < 0.05 < ends.high, (metric, number / size)  # type: ignore[operator]
    assert pooled > 0.8 * size


# ---------------------------------------------------------------- guardrails


def guarded(*rules: Guardrail, keys: tuple[str, ...] = ("a", "b"), **plan: Any) -> Experiment:
    return running(keys=keys, goals=GOALS, guardrails=rules, **plan)


PLAYS = Guardrail("goal:play", 0.1)


def plays(a: int, b: int, units: int = 2000) -> tuple[tuple[Cell, ...], tuple[GoalCell, ...]]:
    cells = (
        Cell(0, "a", units, a, float(a), float(a), 5.0 * a, 50.0 * a),
        Cell(0, "b", units, b, float(b), float(b), 5.0 * b, 50.0 * b),
    )
    return cells, (GoalCell("play", 0, "a", a), GoalCell("play", 0, "b", b))


def test_a_plan_without_guardrails_watches_nothing() -> None:
    assert guardrails(guarded(), *plays(400, 10)) == ()
    assert breach(()) is None


def test_what_harms_is_stopped_and_says_so() -> None:
    experiment = guarded(PLAYS)
    (held,) = guardrails(experiment, *plays(400, 380))
    assert (held.status, held.broken, breach([held])) == ("ok", False, None)
    (state,) = guardrails(experiment, *plays(400, 240))
    assert (state.status, state.broken, state.threshold) == ("broken", True, 100.0)
    assert state.relative == pytest.approx(-0.4)
    reason = breach([held, state])
    assert reason is not None
    assert reason.code == "guardrail"
    assert reason.text.startswith(
        "Guardrail broken: play of B is -40.0% against the control, and -10% is tolerated"
    )
    assert "Guardrail holds" in held.text
    assert json.loads(json.dumps(to_json([state]), allow_nan=False))[0]["broken"] is True


@pytest.mark.parametrize("measure", ["conversions", "engagement", "revenue", "goal:play"])
def test_every_measure_can_be_guarded(measure: str) -> None:
    (state,) = guardrails(guarded(Guardrail(measure, 0.1)), *plays(400, 200))
    assert state.broken
    assert state.relative == pytest.approx(-0.5)
    (fine,) = guardrails(guarded(Guardrail(measure, 0.1)), *plays(400, 390))
    assert not fine.broken


def test_every_part_of_a_rule_changes_the_answer() -> None:
    counts = plays(400, 300)
    (base,) = guardrails(guarded(PLAYS), *counts)
    (wide,) = guardrails(guarded(Guardrail("goal:play", 0.2)), *counts)
    assert wide.e_value < base.e_value  # type: ignore[operator]
    (more,) = guardrails(guarded(Guardrail("goal:play", 0.1, "more")), *counts)
    assert more.e_value < 1 < base.e_value  # type: ignore[operator]
    assert "+10% is tolerated" in more.text
    (mean,) = guardrails(guarded(Guardrail("revenue", 0.1)), *counts)
    assert mean.e_value != pytest.approx(base.e_value)
    two = guardrails(guarded(PLAYS, Guardrail("revenue", 0.1), keys=("a", "b", "c")), *counts)
    assert [(s.variant, s.measure) for s in two] == [
        ("b", "goal:play"), ("b", "revenue"), ("c", "goal:play"), ("c", "revenue"),
    ]  # fmt: skip
    assert two[0].e_value == base.e_value
    assert two[0].threshold == 4 * base.threshold


def test_nothing_to_watch_yet_is_a_state_and_a_misspelt_measure_an_error() -> None:
    (state,) = guardrails(guarded(PLAYS), (), ())
    assert (state.status, state.broken, state.e_value) == ("no_data", False, None)
    assert state.text == "Guardrail not yet watched: play of B: nobody had the guarded outcome."
    (mean,) = guardrails(guarded(Guardrail("revenue", 0.1)), (), ())
    assert (mean.status, mean.relative) == ("no_data", None)
    with pytest.raises(InvalidInput, match=r"guardrail is 'plays': give goal:NAME, conversions"):
        guardrails(guarded(Guardrail("plays", 0.1)), *plays(400, 300))


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_harmful_variant_is_stopped_by_what_was_posted(database: Database, adaptive: bool) -> None:
    """400 visitors a day; B loses two thirds of the plays although it converts better."""
    experiment = stored(database, guarded(PLAYS, Guardrail("revenue", 0.2), adaptive=adaptive))
    rng = np.random.default_rng(3)
    log = []
    for n in range(1200):
        at, variant = START + HOUR * 72 * n / 1200, "ab"[n % 2]
        log.append(exposure(f"u{n}", variant, at))
        if rng.random() < (0.3 if variant == "a" else 0.1):
            log.append(event("play", f"u{n}", at + HOUR, value=2.0))
        if rng.random() < (0.03 if variant == "a" else 0.06):
            log.append(event("lead", f"u{n}", at + HOUR, value=15.0))
    post(database, log)
    broken_at = None
    for hour in range(24, 97, 12):
        as_of = START + hour * HOUR
        with database.read() as connection:
            cells = reader.reading(connection, experiment, as_of).cells()
            measured = reader.reading(connection, experiment, as_of).measured(cells, whole=False)
        assert measured.pairs == ()
        plays_, revenue = guardrails(experiment, cells, measured.goals)
        assert not revenue.broken
        if plays_.broken and broken_at is None:
            broken_at = hour
    assert broken_at is not None
    assert broken_at <= 72  # two days of mature visitors


def test_only_what_the_guardrails_watch_is_counted_every_hour(database: Database) -> None:
    experiment = _with(database, running(goals=GOALS))
    with database.read() as connection:
        cells = reader.reading(connection, experiment, LATE).cells()
        assert reader.reading(connection, experiment, LATE).measured(cells, whole=False) == Measured()
        whole = reader.reading(connection, experiment, LATE).measured(cells)
    assert {g.goal for g in whole.goals} == {"lead", "call", "play"}
    assert {p.metric for p in whole.pairs} == {"engagement", "revenue"}
    record = json.loads(json.dumps(evidence_to_json(Evidence(measured=whole))))
    assert evidence_from_json(record).measured == whole


LOOKS = 168


def growing(
    rng: np.random.Generator, programmes: int, per_look: int, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """One epoch of fixed shares that grows look by look, while the common rate falls from 9 to 1 %.

    Returns:
        Units and events so far, shape (programmes, looks, 2); B is worse by just the margin of 10 %.
    """
    rate = np.linspace(0.09, 0.01, LOOKS)
    n1 = rng.binomial(per_look, share, (programmes, LOOKS))
    n = np.stack([per_look - n1, n1], axis=-1)
    x = rng.binomial(n, rate[:, None] * np.array([1, 0.9]))
    return n.cumsum(axis=1), x.cumsum(axis=1)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_an_epoch_that_grows_with_every_look_stops_at_most_one_in_a_hundred(share: float) -> None:
    """1,500 programmes at the very margin, each looked at 168 times; Monte-Carlo error .26 points at 1 %."""
    n, x = growing(np.random.default_rng(5), 1500, 60, share)
    log_e = companion.guardrail_log_e(n[:, :, None, :], x[:, :, None, :], 0.1)
    assert (log_e.max(axis=1) >= math.log(100)).mean() <= 0.01 + 3 * 0.0026
    for look in (0, 80, LOOKS - 1):  # the simulated evidence is that of the guardrail itself
        (state,) = guardrails(guarded(PLAYS), *_grown(n[3, look], x[3, look]))
        assert state.e_value == pytest.approx(math.exp(log_e[3, look]), rel=1e-12)


def _grown(n: np.ndarray, x: np.ndarray) -> tuple[list[Cell], list[GoalCell]]:
    cells = [Cell(0, v, int(k), 0) for v, k in zip("ab", n, strict=True)]
    return cells, [GoalCell("play", 0, v, int(k)) for v, k in zip("ab", x, strict=True)]


def test_the_simulation_catches_a_guardrail_without_its_margin() -> None:
    """Planted wrong: the tolerated 10 % is not tolerated; with enough visitors that stops many."""
    n, x = growing(np.random.default_rng(5), 200, 2000, 0.5)
    log_e = companion.guardrail_log_e(n[:, :, None, :], x[:, :, None, :], 0.0)
    assert (log_e.max(axis=1) >= math.log(100)).mean() > 0.5


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_a_mean_over_one_growing_epoch_stops_about_one_in_a_hundred(share: float) -> None:
    """1,000 programmes of scores (three goals' weights, falling), at the margin; Monte-Carlo error .3 points."""
    rng = np.random.default_rng(6)
    n, _ = growing(rng, 1000, 60, share)
    new = np.diff(n, axis=1, prepend=0)
    rate = np.linspace(0.2, 0.05, LOOKS)[:, None]
    total, squares = np.zeros(n.shape), np.zeros(n.shape)
    for weight, part in ((100.0, 0.1), (20.0, 1.0)):
        hits = rng.binomial(new, rate * part * np.array([1, 0.9]))
        total, squares = total + weight * hits, squares + weight**2 * hits
    sums = [column.cumsum(axis=1)[:, :, None, :] for column in (total, squares)]
    log_e = companion.guardrail_mean_log_e(n[:, :, None, :], *sums, 0.1)
    assert (log_e.max(axis=1) >= math.log(100)).mean() <= 0.01 + 3 * 0.0032
    cells = [
        Cell(0, v, int(n[3, -1, k]), 0, *(float(s[3, -1, 0, k]) for s in sums)) for k, v in enumerate("ab")
    ]
    (state,) = guardrails(guarded(Guardrail("engagement", 0.1)), cells)
    assert state.e_value == pytest.approx(math.exp(log_e[3, -1]), rel=1e-9)


# ---------------------------------------------------------------- plan, settings, import

SETTINGS: dict[str, Any] = {
    "statistics": {
        "guardrails": [
            {"goal": "phone_click", "max_drop": 0.1},
            {"metric": "revenue", "max_drop": 0},
            {"goal": "video_play", "max_rise": 0.2},
        ],
        "ratio_metrics": [{"name": "value", "numerator": "revenue", "denominator": "count:phone_click"}],
        "secondary_adjustment": "benjamini_hochberg",
        "covariate": "exposure_value",
    }
}


def test_settings_reach_the_plan_and_the_plan_survives_the_store(database: Database) -> None:
    plan = plans.new_plan(validate(SETTINGS))
    assert plan.guardrails == (
        Guardrail("goal:phone_click", 0.1),
        Guardrail("revenue", 0.0),
        Guardrail("goal:video_play", 0.2, "more"),
    )
    assert plan.ratios == (Ratio("value", "revenue", "count:phone_click"),)
    assert (plan.adjustment, plan.covariate) == ("benjamini_hochberg", "exposure_value")
    experiment = stored(database, replace(running(), plan=plan))
    with database.read() as connection:
        assert experiments.get(connection, experiment.id).plan == plan


def test_a_plan_of_before_has_what_ships() -> None:
    plan = plans.new_plan(Config())
    assert (plan.guardrails, plan.ratios, plan.adjustment, plan.covariate) == ((), (), "holm", "engagement")
    old = experiments.plan_to_json(plan)
    for name in ("guardrails", "ratios", "adjustment", "covariate"):
        del old[name]
    assert experiments.plan_from_json(old) == plan
    left_out = {f.name for f in fields(Plan) if "absent" in f.metadata}
    assert {f.name for f in fields(Plan)} - set(old) - left_out == {
        "guardrails", "ratios", "adjustment", "covariate",
    }  # fmt: skip


MAPPING: dict[str, Any] = {
    "experiment": {"id": "mail"},
    "table": {"layout": "visitors"},
    "columns": {"variant": "arm", "covariate": "history"},
    "time": {"fixed": "2026-01-05T00:00:00Z"},
    "variants": [{"key": "none", "control": True}, {"key": "mail"}],
    "goals": [
        {"name": "visit", "when": {"visit": 1}, "primary": True},
        {"name": "order", "when": {"order": 1}, "value": "spend", "weight": 10.0},
    ],
    "plan": {"shares": "equal"},
}


def test_a_column_of_an_imported_table_adjusts_its_means(site: Home, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    history = rng.gamma(2, 50, 400).round(2)
    table = pd.DataFrame({"arm": rng.choice(["none", "mail"], 400), "history": history})
    table["order"] = (rng.random(400) < history / 400).astype(int)
    table["visit"] = table["order"] | (rng.random(400) < 0.3)
    table["spend"] = (table["order"] * history * rng.lognormal(0, 0.3, 400)).round(2)
    table.astype({"visit": int}).to_csv(tmp_path / "mail.csv", index=False)
    import_file(site, tmp_path / "mail.csv", MAPPING, now=datetime(2026, 2, 1, tzinfo=UTC), progress=False)
    with site.db.read() as connection:
        experiment = experiments.get(connection, "mail")
    assert experiment.plan.covariate == "exposure_value"
    found = by_metric(family(site.db, experiment), "mail")
    assert list(found) == ["engagement", "revenue", "goal:order"]
    sides = [
        aggregates(table.assign(variant=table["arm"]), arm, "spend", "history") for arm in ("none", "mail")
    ]
    same(found["revenue"], Mean("y", "x").analyze_aggregates(*sides))
    assert found["revenue"].reduction > 0.1  # type: ignore[operator]


def test_a_covariate_that_is_no_number_is_rejected_by_name(site: Home, tmp_path: Path) -> None:
    rows = ["arm,history,visit,order,spend", "none,1.5,1,0,", "mail,many,0,0,", "mail,,0,0,", "mail,2,1,1,9"]
    (tmp_path / "mail.csv").write_text("\n".join(rows) + "\n")
    report = import_file(
        site, tmp_path / "mail.csv", MAPPING, now=datetime(2026, 2, 1, tzinfo=UTC), progress=False
    )
    assert report.rejected == {"the covariate (column history) is not a number": 1}
    assert report.units == 3


def test_an_imported_file_knows_only_its_own_goals(make_site: Callable[..., Home], tmp_path: Path) -> None:
    rows = ["arm,history,visit,order,spend", "none,1,1,0,", "mail,2,0,0,"]
    (tmp_path / "mail.csv").write_text("\n".join(rows) + "\n")
    told = {**MAPPING, "columns": {"variant": "arm"}}
    home = make_site(SETTINGS)
    import_file(home, tmp_path / "mail.csv", told, now=datetime(2026, 2, 1, tzinfo=UTC), progress=False)
    with home.db.read() as connection:
        plan = experiments.get(connection, "mail").plan
    assert plan.guardrails == (Guardrail("revenue", 0.0),)
    assert (plan.ratios, plan.covariate) == ((), "none")


def test_a_quantity_of_each_kind_is_counted_once(database: Database) -> None:
    """Every quantity against the rows, also those that no ratio above uses."""
    experiment = stored(database, running(goals=GOALS))
    table = posted(database, experiment, 11, 60)
    names = ["conversions", "engagement", "revenue", "goal:call", "count:call", "value:call"]
    with database.read() as connection:
        for y, x in zip(names, [*names[1:], names[0]], strict=True):
            cells = reader.reading(connection, experiment, LATE).pair_cells(
                QuantityPair("m", Quantity.parse(y), Quantity.parse(x))
            )
            for cell in cells:
                mine = table[table["variant"] == cell.variant]
                expected = [
                    len(mine),
                    *(mine[y].sum(), (mine[y] ** 2).sum(), mine[x].sum(), (mine[x] ** 2).sum()),
                    (mine[x] * mine[y]).sum(),
                ]
                assert [getattr(cell, f.name) for f in fields(cell)[3:]] == pytest.approx(expected, rel=1e-9)
            assert len(cells) == 2


@pytest.mark.parametrize(
    ("mean", "said"), [(-2.0, "cannot be watched"), (0.0, "cannot be watched"), (3.0, "holds")]
)
def test_a_guardrail_of_a_mean_that_is_not_positive_says_so(mean: float, said: str) -> None:
    """Refunds: there is no change in per cent of what is not above 0, and more visitors do not alter that."""
    experiment = plans.begin(
        Experiment(
            "refunds",
            "Refunds",
            (Variant("a", "A", is_control=True), Variant("b", "B")),
            Plan((Goal("lead", 1, True),), guardrails=(Guardrail("revenue", 0.1),)),
        ),
        datetime(2026, 3, 2, tzinfo=UTC),
    )
    cells = [Cell(0, key, 500, 20, value_sum=500 * mean, value_sumsq=500 * (mean**2 + 1)) for key in "ab"]
    (state,) = guardrails(experiment, cells)
    assert f"Guardrail {said}: revenue" in state.text
