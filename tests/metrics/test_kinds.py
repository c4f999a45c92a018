"""What a metric has to bring: a new kind is one class and one entry; every argument changes the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from helpers.store_samples import DAY, HOUR, START, event, exposure, running, stored
from scipy import stats

from cro_core.analytics import reader
from cro_core.domain import (
    Cell,
    Event,
    Experiment,
    Goal,
    GoalCell,
    Guardrail,
    Measured,
    PairCell,
    Quantity,
    QuantityPair,
    Ratio,
)
from cro_core.errors import InvalidInput
from cro_core.evidence import Family, MetricResult
from cro_core.metrics import kinds
from cro_core.metrics.by_day import Days, RatioPair, moments, standardised_means, without_covariate
from cro_core.metrics.guardrails import guarded
from cro_core.metrics.kinds import AdjustedMean, Mean, Rate, RatioOfSums, metrics_of
from cro_core.metrics.metric import Metric, Needs, result
from cro_core.metrics.secondary import secondary, strategy
from cro_core.metrics.sums import Counted, PairSums, UnitSums, counted, epochs_of
from cro_core.statistics import means
from cro_core.storage import events
from cro_core.storage.database import Database
from cro_core.workflows.evaluate import evaluate_within

LATE = START + 15 * DAY
GOALS = (Goal("lead", 100.0, True), Goal("play", 20.0))


@dataclass(frozen=True, slots=True)
class Times:
    """How often a visitor does each thing that is no primary goal."""

    goal: str
    kind: ClassVar[str] = "times"

    @classmethod
    def of(cls, experiment: Experiment, _cells: Sequence[Cell]) -> Iterator[Times]:
        yield from (cls(goal.name) for goal in experiment.plan.goals if not goal.primary)

    @property
    def key(self) -> str:
        return f"times:{self.goal}"

    @property
    def name(self) -> str:
        return f"{self.goal} per visitor"

    @property
    def needs(self) -> Needs:
        return Needs(pairs=(QuantityPair(self.key, Quantity("count", self.goal), Quantity("conversions")),))

    def sums(self, side: Counted) -> UnitSums:
        pair = side.pair(self.key)
        return UnitSums(pair.n, pair.y, pair.yy)

    def pooled(self, control: Counted, challenger: Counted, level: float) -> MetricResult:
        test = means.welch(self.sums(control).pooled(), self.sums(challenger).pooled(), level)
        return result(self, challenger, "welch", value=test.variant, low=test.low, p_value=test.p_value)

    def by_day(self, control: Counted, challenger: Counted, days: Days) -> MetricResult:
        sides = self.sums(control), self.sums(challenger)
        return result(
            self, challenger, "welch_by_day", **days.compare(moments(*sides), standardised_means(*sides))
        )


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one entry."""
    monkeypatch.setattr(kinds, "KINDS", (*kinds.KINDS, Times))


def play(database: Database, experiment: Experiment) -> dict[str, list[int]]:
    """Visitors over six days and how often each of them plays."""
    rng, log = np.random.default_rng(4), list[Event]()
    times: dict[str, list[int]] = {"a": [], "b": []}
    for n in range(120):
        variant, at = "ab"[n % 2], START + HOUR * 144 * n / 120
        day = experiment.epoch_at(at)
        assert day is not None
        times[variant].append(int(rng.poisson(1.0 if variant == "a" else 2.0)))
        log.append(exposure(f"u{n}", variant, at, epoch=day.number))
        log += [event("play", f"u{n}", at + HOUR * (k + 1) / 10) for k in range(times[variant][-1])]
    with database.write() as connection:
        events.record(connection, log, [], START)
    return times


def family(database: Database, experiment: Experiment) -> Family:
    with database.read() as connection, reader.reading(connection, experiment, LATE) as reading:
        cells = reading.cells()
        return secondary(experiment, cells, reading.measured(cells), as_of=LATE)


@pytest.mark.usefixtures("times")
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_new_kind_is_one_class_and_one_entry(database: Database, adaptive: bool) -> None:
    experiment = stored(database, running(goals=GOALS, adaptive=adaptive, alpha=0.1))
    played = play(database, experiment)
    found = family(database, experiment)
    assert [r.metric for r in found.results] == ["engagement", "goal:play", "times:play"]
    times = found.results[-1]
    assert (times.name, times.kind, times.variant) == ("play per visitor", "times", "b")
    assert times.p_value is not None
    assert times.p_adjusted is not None
    assert times.p_adjusted >= times.p_value
    if adaptive:
        assert times.method == "welch_by_day"
        assert times.low < times.absolute < times.high  # type: ignore[operator]
        return
    judge = stats.ttest_ind(played["b"], played["a"], equal_var=False)
    assert times.method == "welch"
    assert times.value == pytest.approx(np.mean(played["b"]), rel=1e-12)
    assert times.p_value == pytest.approx(judge.pvalue, rel=1e-9)
    assert times.low == pytest.approx(judge.confidence_interval(0.9).low, rel=1e-9)


@pytest.mark.usefixtures("times")
def test_a_new_kind_is_stored_with_the_decision(database: Database) -> None:
    experiment = stored(database, running(goals=GOALS))
    play(database, experiment)
    with database.read() as connection:
        evidence = evaluate_within(connection, experiment, LATE).decision.evidence
    assert evidence.metrics.results[-1].metric == "times:play"
    assert {pair.metric for pair in evidence.measured.pairs} == {"engagement", "times:play"}


def test_without_its_entry_it_is_not_there(database: Database) -> None:
    experiment = stored(database, running(goals=GOALS))
    play(database, experiment)
    assert [r.metric for r in family(database, experiment).results] == ["engagement", "goal:play"]


# what a plan makes of the table, and what each metric needs


def test_what_metrics_an_experiment_has_and_what_they_need() -> None:
    ratio = Ratio("worth", "value:lead", "count:play")
    experiment = running(goals=GOALS, ratios=(ratio,))
    spent = (Cell(0, "a", 10, 1, 1.0, 1.0, 5.0, 25.0),)
    before = Quantity("before", "engagement")
    engagement, revenue, plays, worth = metrics_of(experiment, spent)
    assert engagement == AdjustedMean(Quantity("engagement"), "engagement")
    assert engagement.needs == Needs(pairs=(QuantityPair("engagement", Quantity("engagement"), before),))
    assert revenue.needs == Needs(pairs=(QuantityPair("revenue", Quantity("revenue"), before),))
    assert (plays, plays.needs) == (Rate(Quantity("goal", "play")), Needs(goals=True))
    assert worth == RatioOfSums(ratio)
    sides = Quantity("value", "lead"), Quantity("count", "play")
    assert worth.needs == Needs(pairs=(QuantityPair("ratio:worth", *sides),))
    assert [m.key for m in metrics_of(experiment, ())] == ["engagement", "goal:play", "ratio:worth"]
    plain = replace(experiment, plan=replace(experiment.plan, covariate="none"))
    assert metrics_of(plain, spent)[:2] == [Mean(Quantity("engagement")), Mean(Quantity("revenue"))]
    assert all(metric.needs == Needs() for metric in metrics_of(plain, spent)[:2])


@pytest.mark.parametrize(
    ("measure", "kind", "name", "goals"),
    [
        ("conversions", Rate, "conversion rate", False),
        ("goal:play", Rate, "play", True),
        ("engagement", Mean, "engagement score", False),
        ("revenue", Mean, "revenue per visitor", False),
    ],
)
def test_what_a_guardrail_watches(measure: str, kind: type[Metric], name: str, goals: bool) -> None:
    metric = guarded(Guardrail(measure, 0.1))
    assert isinstance(metric, kind)
    assert (metric.key, metric.name, metric.needs) == (measure, name, Needs(goals=goals))


@pytest.mark.parametrize("measure", ["plays", "goal", "count:play", "conversions:play", ""])
def test_a_guardrail_that_watches_nothing_is_refused(measure: str) -> None:
    with pytest.raises(InvalidInput, match=r"give goal:NAME, conversions, engagement, revenue") as refused:
        guarded(Guardrail(measure, 0.1))
    assert refused.value.field == "guardrails"


# the counts


def test_what_was_not_counted_is_none_at_all_and_what_was_stands_in_its_place() -> None:
    experiment = running(goals=GOALS, adaptive=True)
    cells = (Cell(1, "b", 7, 2, 3.0, 5.0, 4.0, 6.0), Cell(3, "a", 9, 0))
    pair = PairCell("ratio:r", 1, "b", 7, 1.0, 2.0, 3.0, 4.0, 5.0)
    counts = counted(experiment, cells, Measured((GoalCell("play", 3, "a", 8),), (pair,)))
    control, challenger = counts["a"], counts["b"]
    assert epochs_of(experiment, cells) == list(range(14))
    assert [(k, n) for k, n in enumerate(challenger.sums(Quantity("revenue")).n) if n] == [(1, 7)]
    assert [challenger.sums(Quantity(kind)).pooled() for kind in ("conversions", "engagement", "revenue")] == [
        means.Sums(7, 2.0, 2.0), means.Sums(7, 3.0, 5.0), means.Sums(7, 4.0, 6.0),
    ]  # fmt: skip
    assert control.sums(Quantity("goal", "play")).epochs()[3] == means.Sums(9, 8.0, 8.0)
    assert control.sums(Quantity("goal", "lead")).pooled() == means.Sums(9, 0.0, 0.0)
    assert challenger.pair("ratio:r").pooled() == means.Pairs(7, 1.0, 3.0, 2.0, 4.0, 5.0)
    assert challenger.pair("ratio:r").of_x().pooled() == means.Sums(7, 3.0, 4.0)
    assert control.pair("ratio:r").pooled() == means.Pairs(0, 0, 0, 0, 0, 0)
    with pytest.raises(InvalidInput, match=r"count:play, which is counted in pairs only: give goal:NAME"):
        control.sums(Quantity("count", "play"))


def test_epochs_are_those_of_the_schedule_else_those_counted() -> None:
    unscheduled = replace(running(), epochs=())
    assert epochs_of(unscheduled, [Cell(4, "a", 1, 0), Cell(2, "b", 1, 0), Cell(4, "b", 1, 0)]) == [2, 4]
    assert epochs_of(unscheduled, []) == epochs_of(running(), [Cell(4, "a", 1, 0)]) == [0]


# the two strategies


def column(*values: float) -> np.ndarray:
    return np.array(values, float)


CONTROL = UnitSums(column(50, 80), column(20, 60), column(30, 90))
CHALLENGER = UnitSums(column(70, 60), column(40, 50), column(60, 80))


def test_every_argument_of_days_changes_the_answer() -> None:
    pair, values = moments(CONTROL, CHALLENGER), standardised_means(CONTROL, CHALLENGER)
    days = Days(column(0.5, 0.5), 0.95)
    base = days.compare(pair, values)
    assert days.p_value(pair) == base["p_value"]
    late = replace(days, weights=column(0.1, 0.9))
    assert late.compare(pair, values)["statistic"] != base["statistic"]
    assert late.p_value(pair) != days.p_value(pair)
    wide = replace(days, level=0.99).compare(pair, values)
    assert wide["low"] < base["low"] < base["high"] < wide["high"]  # type: ignore[operator]
    assert wide["p_value"] == base["p_value"]
    assert days.compare(moments(CHALLENGER, CONTROL), values)["statistic"] != base["statistic"]
    other = days.compare(pair, (1.0, 3.0))
    assert (other["control"], other["value"], other["absolute"], other["relative"]) == (1.0, 3.0, 2.0, 2.0)
    silent = replace(days, weights=column(0, 0))
    assert silent.p_value(pair) == 1
    assert "p_value" not in silent.compare(pair, values)


@pytest.mark.parametrize(
    ("zero", "one", "reason"),
    [
        (2, 3, None),
        (2, 0, None),
        (0.05, 3, "the control's level is not clearly above 0: no bound of the relative difference"),
        (2, -1, "the variant's level is negative: no bound of the relative difference"),
        (-2, -1, "the control's level is not positive: no relative difference"),
    ],
)
def test_a_relative_difference_has_bounds_where_it_means_something(
    zero: float, one: float, reason: str | None
) -> None:
    """The same for a mean and for a ratio of whose units each has a denominator of 1; a day says the same twice."""
    n = column(400, 400)
    control, challenger = (UnitSums(n, n * mean, n * (mean**2 + 4)) for mean in (zero, one))
    ratio = [PairSums(n, side.total, side.squares, n, n, side.total) for side in (control, challenger)]
    days = Days(column(0.5, 0.5), 0.95)
    for pair in (moments(control, challenger), RatioPair(ratio[1], ratio[0])):
        found = days.compare(pair, (zero, one))
        assert found["reason"] == reason
        low, high = (float(found.get(end, np.nan)) for end in ("relative_low", "relative_high"))  # type: ignore[arg-type]
        if reason is None:
            assert low <= one / zero - 1 <= high
        else:
            assert not np.isfinite(high)
            assert np.isnan(low) == (zero < 0 or one < 0)
        assert float(found["low"]) < one - zero < float(found["high"])  # type: ignore[arg-type]


def test_a_covariate_of_either_variant_changes_the_adjusted_sums() -> None:
    zero = PairSums(*map(column, (50, 20, 30, 25, 40, 28)))
    one = PairSums(*map(column, (70, 40, 60, 38, 55, 44)))
    base = without_covariate(zero, one)
    for other in (
        without_covariate(replace(zero, xy=column(20)), one),
        without_covariate(zero, replace(one, xy=column(38))),
    ):
        assert other[0].total != base[0].total
        assert other[1].total != base[1].total
        assert other[2] != base[2]
    assert 0 < base[2] < 1


class Asked:
    """A metric that tells which strategy it was asked with."""

    def pooled(self, _control: Counted, _challenger: Counted, level: float) -> tuple[str, float]:
        return "pooled", level

    def by_day(self, _control: Counted, _challenger: Counted, days: Days) -> tuple[str, float, list[float]]:
        return "by_day", days.level, [float(weight) for weight in days.weights]


def test_the_strategy_goes_by_the_epochs_the_level_and_the_moment() -> None:
    counts = counted(running(), (), Measured())["a"]

    def asked(experiment: Experiment, hours: float) -> object:
        compare: Callable[..., object] = strategy(experiment, epochs_of(experiment, ()), START + HOUR * hours)
        return compare(Asked(), counts, counts)

    assert asked(running(alpha=0.1), 48) == ("pooled", 0.9)
    moving = running(adaptive=True, alpha=0.1)
    name, level, weights = asked(moving, 48)  # type: ignore[misc]
    assert (name, level) == ("by_day", 0.9)
    assert sum(weights) == pytest.approx(1 / 13)  # a visitor matures a day after its exposure
    assert asked(moving, 72) != asked(moving, 48)
