"""Who converts, when and where: planted differences are found, none is claimed where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from helpers.real_data import REAL
from helpers.segment_samples import (
    SESSION_DIMENSIONS,
    Floats,
    Planted,
    made_up_visitors,
    real_visitors,
    session_like_visitors,
)
from helpers.store_samples import DAY, HOUR, START, event, exposure, running, stored, with_shares
from numpy.typing import NDArray
from scipy import stats
from statsmodels.duration.survfunc import SurvfuncRight
from statsmodels.stats.contingency_tables import StratifiedTable
from statsmodels.stats.multitest import multipletests
from typer.testing import CliRunner

from cro_core.analytics import definitions, reader, segment_definitions
from cro_core.analytics.counts import Facet
from cro_core.analytics.definitions import OTHER, UNKNOWN
from cro_core.analytics.segment_definitions import TIMES_OF_DAY
from cro_core.cli import app
from cro_core.domain import Event
from cro_core.errors import InvalidInput
from cro_core.home import create_home
from cro_core.rendering.segments_text import segments_text
from cro_core.segments import analysis
from cro_core.segments.behaviour import MOST_POINTS
from cro_core.segments.findings import SegmentAnalysis, Test
from cro_core.segments.tables import SegmentTable, adjusted
from cro_core.statistics.logistic import EXACT_UP_TO, exact_test, indicator_tests, log_odds, score_test
from cro_core.statistics.proportions import difference
from cro_core.statistics.survival import kaplan_meier, quantiles
from cro_core.storage import events
from cro_core.storage.database import Database
from cro_core.workflows import analyse_segments as workflow
from cro_core.workflows.seal import seal

RUNS = 200
"""Draws of a simulation: a share of 5 % is measured to within 1.5 points (its standard error)."""


# -------------------------------------------------------------------------------- statistics


def counts(rng: np.random.Generator, rows: int, rate: float = 0.2) -> tuple[Floats, Floats]:
    n = rng.integers(40, 600, rows).astype(float)
    return n, rng.binomial(n.astype(int), rate).astype(float)


@pytest.mark.parametrize("seed", range(4))
def test_homogeneity_is_pearsons_chi_square(seed: int) -> None:
    n, x = counts(np.random.default_rng(seed), 9)
    found = score_test(n, x, np.ones(9), np.eye(9))
    theirs = stats.chi2_contingency(np.stack([x, n - x]), correction=False)
    assert found.statistic == pytest.approx(theirs.statistic, rel=1e-9)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    assert found.df == theirs.dof == 8


@pytest.mark.parametrize("seed", range(4))
def test_score_tests_are_those_of_a_fitted_model(seed: int) -> None:
    n, x = counts(np.random.default_rng(seed), 20, 0.3)
    first, second = np.divmod(np.arange(20), 5)
    null = np.column_stack(
        [np.eye(4)[first], np.eye(5)[second]]
    )  # one column too many: ours may, theirs may not
    extra = np.eye(20)
    model = sm.GLM(np.column_stack([x, n - x]), null[:, :-1], family=sm.families.Binomial()).fit(tol=1e-13)
    inner = np.column_stack([(first == i) & (second == j) for i in range(3) for j in range(4)]).astype(float)
    theirs = model.score_test(exog_extra=inner)
    whole, one = score_test(n, x, null, extra), score_test(n, x, null, extra[:, 0])
    assert whole.statistic == pytest.approx(theirs.statistic.item(), rel=1e-8)
    assert whole.df == 12
    assert one.statistic == pytest.approx(
        model.score_test(exog_extra=extra[:, :1]).statistic.item(), rel=1e-8
    )
    beside = sm.GLM(
        np.column_stack([x, n - x]),
        np.column_stack([null[:, :-1], extra[:, 0]]),
        family=sm.families.Binomial(),
    ).fit(tol=1e-13)
    size = log_odds(n, x, null, extra[:, 0])
    assert size.estimate == pytest.approx(beside.params[-1], rel=1e-7)
    assert size.error == pytest.approx(beside.bse[-1], rel=1e-7)


@pytest.mark.parametrize(
    "table",
    [
        (100, 30, 900, 150),
        (100, 14, 3000, 150),
        (5000, 60, 5000, 110),
        (60, 1, 3000, 300),
        (3000, 140, 100, 14),
        (560, 112, 1200, 120),
        (100, 30, 3000, 900),
    ],
)
def test_an_indicator_has_the_tail_of_its_counts_and_not_of_the_normal(
    table: tuple[int, int, int, int],
) -> None:
    n1, x1, n0, x0 = table
    (found,) = indicator_tests([n1, n0], [x1, x0], np.ones(2), np.array([1.0, 0]))
    chances = stats.hypergeom(n1 + n0, x1 + x0, n1)
    own = chances.pmf(x1) / 2
    assert found.p_value == pytest.approx(
        min(1.0, 2 * min(chances.sf(x1) + own, chances.cdf(x1 - 1) + own)), rel=0.25
    )
    assert (found.statistic, found.df) == (
        pytest.approx(score_test([n1, n0], [x1, x0], np.ones(2), np.array([1.0, 0])).statistic),
        1,
    )


def test_indicators_are_tested_beside_what_the_null_fixes() -> None:
    """Without few conversions the tails are those of the score test; the order of the columns does not matter."""
    rng = np.random.default_rng(3)
    n = rng.integers(20_000, 60_000, 12).astype(float)
    first, second = np.divmod(np.arange(12), 4)
    x = rng.binomial(n.astype(int), 0.3 + 0.1 * first + 0.02 * second).astype(float)
    null = np.column_stack([np.eye(3)[first], np.eye(4)[second]])
    found = indicator_tests(n, x, null, np.eye(12))
    for one, column in zip(found, np.eye(12), strict=True):
        normal = score_test(n, x, null, column)
        assert one.statistic == pytest.approx(normal.statistic, rel=1e-8)
        assert one.p_value == pytest.approx(normal.p_value, rel=0.02, abs=1e-12)


def test_indicators_without_a_number_say_why() -> None:
    nobody, other = indicator_tests([50, 60], [0, 0], np.ones(2), np.eye(2))
    assert (nobody.p_value, nobody.reason) == (other.p_value, other.reason) == (None, "nobody converted")
    told, known = indicator_tests([50, 60, 70], [5, 9, 30], np.ones(3), [[1, 1], [0, 1], [0, 1]])
    assert told.p_value is not None
    assert (known.p_value, known.df) == (None, 0)
    assert known.reason == "it cannot be told apart from what is known to matter"


@pytest.mark.sizes(3_000, 20_000)
def test_few_conversions_are_no_news_more_often_than_they_should_be(size: int) -> None:
    """Cells in which 5 conversions are expected, beside large ones: the normal tail says too often that they differ."""
    rng = np.random.default_rng(9)
    first, second = np.divmod(np.arange(20), 4)
    small = first == second
    n, null = np.where(small, 100, 3000), np.column_stack([np.eye(5)[first], np.eye(4)[second]])
    level, saddlepoint, normal = 2e-3, 0, 0
    for _ in range(size):
        tests = indicator_tests(n, rng.binomial(n, 0.05), null, np.eye(20)[:, small])
        saddlepoint += sum((t.p_value or 1) <= level for t in tests)
        normal += sum((t.statistic or 0) >= stats.chi2.isf(level, 1) for t in tests)
    expected = 4 * size * level
    assert saddlepoint <= expected + 3 * np.sqrt(expected)
    assert saddlepoint < normal


@pytest.mark.parametrize("seed", range(4))
def test_equal_effects_are_tested_as_breslow_and_day_do(seed: int) -> None:
    """Their statistic at the maximum-likelihood odds ratio is the score test's; statsmodels takes Mantel and Haenszel's."""
    n, x = counts(np.random.default_rng(seed), 12, 0.25)
    place, treated = np.divmod(np.arange(12), 2)
    design = np.column_stack([np.eye(6)[place], treated])
    found = score_test(n, x, design, np.eye(6)[place] * treated[:, None])
    tables = [
        np.array([[x[2 * i + 1], n[2 * i + 1] - x[2 * i + 1]], [x[2 * i], n[2 * i] - x[2 * i]]])
        for i in range(6)
    ]
    theirs = StratifiedTable(tables).test_equal_odds(adjust=True)
    assert found.df == 5
    assert found.statistic == pytest.approx(theirs.statistic, rel=5e-3)
    expected = _breslow_day(tables)
    assert found.statistic == pytest.approx(expected, rel=1e-8)


def _breslow_day(tables: list[Any]) -> float:
    """By hand, at the common odds ratio for which observed and expected conversions of the variant agree."""

    def fitted(table: Any, ratio: float) -> float:
        a = 1 - ratio
        n1, n0, x = table[0].sum(), table[1].sum(), table[:, 0].sum()
        b, c = n0 - x + ratio * (n1 + x), -ratio * n1 * x
        return float(-c / b if abs(a) < 1e-12 else (-b + np.sqrt(b * b - 4 * a * c)) / (2 * a))

    low, high = 1e-3, 1e3
    for _ in range(300):
        middle = np.sqrt(low * high)
        short = sum(fitted(t, middle) for t in tables) < sum(t[0, 0] for t in tables)
        low, high = (middle, high) if short else (low, middle)
    total = 0.0
    for table in tables:
        a = fitted(table, low)
        n1, n0, x = table[0].sum(), table[1].sum(), table[:, 0].sum()
        variance = 1 / (1 / a + 1 / (n1 - a) + 1 / (x - a) + 1 / (n0 - x + a))
        total += (table[0, 0] - a) ** 2 / variance
    return total


@pytest.mark.parametrize(
    "table", [(100, 30, 900, 150), (40, 0, 3000, 200), (5000, 60, 5000, 75), (7, 7, 20, 3)]
)
def test_one_against_the_rest_is_fishers_exact_test(table: tuple[int, int, int, int]) -> None:
    n1, x1, n0, x0 = table
    assert exact_test([table]) == pytest.approx(
        stats.fisher_exact([[x1, n1 - x1], [x0, n0 - x0]]).pvalue, rel=1e-9
    )


def test_several_strata_are_the_convolution_of_their_tables() -> None:
    tables = [(30, 9, 40, 5), (12, 2, 25, 9)]
    chances = [stats.hypergeom(n1 + n0, x1 + x0, n1) for n1, x1, n0, x0 in tables]
    both = np.convolve(*(c.pmf(np.arange(31)) for c in chances))
    expected = both[both <= both[11] * (1 + 1e-7)].sum()
    assert exact_test(tables) == pytest.approx(expected, rel=1e-9)
    assert exact_test([(10, 0, 20, 0), (0, 0, 5, 1)]) is None


def test_large_tables_go_over_to_the_normal_distribution_smoothly() -> None:
    table = (200_000, 21_100, 2_000_000, 208_000)
    by_normal = exact_test([table])
    theirs = stats.hypergeom(2_200_000, 229_100, 200_000)
    assert theirs.var() < EXACT_UP_TO
    ten = tuple(10 * part for part in table)
    assert by_normal == pytest.approx(2 * min(theirs.cdf(21_100), theirs.sf(21_099)), rel=0.02)
    big = stats.norm.sf(abs(ten[1] - 10 * theirs.mean()) / np.sqrt(10 * theirs.var())) * 2
    assert exact_test([ten]) == pytest.approx(big, rel=1e-4)  # type: ignore[list-item]


@pytest.mark.parametrize("seed", range(3))
def test_the_survival_curve_is_that_of_statsmodels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times, ended = rng.exponential(500, 600).round(), rng.random(600) < 0.4
    whole = pd.DataFrame({"t": times, "e": ended}).value_counts().reset_index()
    curve = kaplan_meier(whole["t"], whole["e"], whole["count"])
    theirs = SurvfuncRight(times, ended)
    assert curve.times == pytest.approx(theirs.surv_times)
    assert curve.survival == pytest.approx(theirs.surv_prob, rel=1e-9)
    assert curve.error[:-1] == pytest.approx(theirs.surv_prob_se[:-1], rel=1e-9)
    assert curve.at_risk == tuple(theirs.n_risk)
    assert curve.events == tuple(theirs.n_events)
    assert all(low <= s <= high for low, s, high in zip(curve.low, curve.survival, curve.high, strict=True))


def test_quartiles_of_those_who_convert_hold_their_level() -> None:
    """Exponential times up to a window, a third converts, a half is seen for only part of the window."""
    rng = np.random.default_rng(8)
    window, truth = 24.0, -8 * np.log(1 - 0.5 * (1 - np.exp(-24 / 8)))
    inside = []
    for _ in range(RUNS):
        times = np.where(rng.random(400) < 0.35, rng.exponential(8, 400), np.inf)
        seen = np.where(rng.random(400) < 0.5, window, rng.uniform(0, window, 400))
        found = quantiles(kaplan_meier(np.minimum(times, seen), times <= seen, np.ones(400)))
        assert [q.share for q in found] == [0.25, 0.5, 0.75]
        assert all(q.low <= q.value <= q.high for q in found)
        inside.append(found[1].low <= truth <= found[1].high)
    assert 0.90 <= np.mean(inside) <= 0.99  # 95 % within three standard errors


# -------------------------------------------------------------------------------- the family


def test_each_question_has_its_part_and_holm_inside_it() -> None:
    table = SegmentTable(running(), ("device",), ())
    p_values = {"matters": [0.001, 0.02, None], "stands_out": [0.004, 0.3, 0.01, 0.01]}
    tests = [(Test(q, ("device",), (), None, None, None, p), table) for q, ps in p_values.items() for p in ps]  # type: ignore[arg-type]
    found = [test.p_adjusted for test, _ in adjusted(tests)]
    expected = []
    for ps in p_values.values():
        theirs = multipletests([1.0 if p is None else p for p in ps], method="holm")[1]
        expected += [None if p is None else min(1.0, 2 * t) for p, t in zip(ps, theirs, strict=True)]
    assert found == [e if e is None else pytest.approx(e, rel=1e-12) for e in expected]


def facets(by: str, rows: dict[str, tuple[int, int, int, int]]) -> list[Facet]:
    """value -> units and conversions of a, then of b."""
    return [
        Facet((by,), (value,), 0, variant, n, x)
        for value, (n0, x0, n1, x1) in rows.items()
        for variant, n, x in (("a", n0, x0), ("b", n1, x1))
    ]


def looked_at(found: list[Facet], *by: str, **more: Any) -> SegmentAnalysis:
    return analysis.analyse(
        more.pop("experiment", running()), found, as_of=START + 15 * DAY, cells=(), dimensions=by, **more
    )


def test_small_values_are_shown_flagged_and_compared_together() -> None:
    found = looked_at(
        facets("city", {"Oslo": (500, 50, 500, 50), "Bergen": (400, 40, 400, 44), "Hamar": (20, 9, 20, 2),
                        "Moss": (45, 0, 45, 0), "Lom": (60, 8, 60, 9), OTHER: (30, 2, 30, 2), UNKNOWN: (70, 60, 70, 60)}),
        "city",
    )  # fmt: skip
    enough = {s.value: s.enough for s in found.slices}
    assert enough == {
        "Bergen": True,
        "Hamar": False,
        "Lom": True,
        "Moss": False,
        "Oslo": True,
        OTHER: False,
        UNKNOWN: False,
    }
    (whole,) = (t for t in found.tests if t.question == "matters")
    # Hamar, Moss and the rest as one group; unknown values are no value
    theirs = stats.chi2_contingency([[100, 84, 17, 15], [900, 716, 103, 175]], correction=False)
    assert (whole.statistic, whole.df) == (pytest.approx(theirs.statistic, rel=1e-9), 3)
    assert {t.values for t in found.tests if t.question == "stands_out"} == {("Oslo",), ("Bergen",), ("Lom",)}
    assert found.slices[0].total.rate == pytest.approx(84 / 800)
    assert "too few to tell" in segments_text(found)


def test_a_value_that_comes_with_a_variant_is_no_claim() -> None:
    """New and old page differ as the variants do: that is for the decision to say, under hourly looks."""
    rows = {"old": (5000, 400, 0, 0), "new": (0, 0, 5000, 800)}
    found = looked_at(facets("asset", rows) + facets("page", rows), "asset", "page")
    assert found.claims == ()
    assert [t.p_value for t in found.tests] == [None, None]
    assert all(t.reason for t in found.tests)
    assert looked_at(facets("device", rows), "device").claims != ()


def test_shares_that_moved_make_no_day_stand_out() -> None:
    """b converts better and has most of the weekend: the weekend as such does nothing."""
    experiment = with_shares(running(adaptive=True), {1: {"a": 0.2, "b": 0.8}})
    rows = {
        "Monday": (4000, 200, 4000, 400),
        "Sunday": (1000, 50, 7000, 700),
        "Friday": (4000, 200, 4000, 400),
    }
    given = facets("weekday", rows)
    assert looked_at(given, "weekday").claims != ()
    inside = looked_at(given, "weekday", experiment=experiment)
    assert inside.claims == ()
    assert next(t for t in inside.tests if t.question == "matters").statistic == pytest.approx(0, abs=1e-9)


def test_without_a_trustworthy_split_no_effect_is_told() -> None:
    rows = {"mobile": (3000, 150, 3000, 450), "desktop": (3000, 300, 3000, 290)}
    sure = looked_at(facets("device", rows), "device")
    assert {c.question for c in sure.claims} >= {"effect"}
    broken = looked_at(facets("device", rows), "device", split_alarms=True)
    assert "effect" not in {c.question for c in broken.claims}
    assert any("not divided" in note for note in broken.notes)


def test_a_claim_has_its_size_in_words_and_numbers() -> None:
    rows = {
        "mobile": (3000, 300, 3000, 300),
        "desktop": (3000, 150, 3000, 150),
        "tablet": (3000, 150, 3000, 150),
    }
    found = looked_at(facets("device", rows), "device")
    claim = next(c for c in found.claims if c.question == "stands_out" and c.values == ("mobile",))
    assert claim.text == "Device mobile converts 100% better: 10.0% against 5.00% of all others."
    assert claim.effect == pytest.approx(1.0)
    assert claim.low is not None
    assert claim.high is not None
    assert 0 < claim.low < 1 < claim.high
    # three questions, and three devices that each may stand out: the interval holds for all of them
    exact = difference(12_000, 600, 6000, 600, 1 - 0.05 / 3 / 3)
    assert (claim.low, claim.high) == pytest.approx((exact.relative_low, exact.relative_high), rel=1e-12)
    (whole,) = (c for c in found.claims if c.question == "matters")
    pairs = difference(6000, 300, 6000, 600, 1 - 0.05 / 3 / 1 / 3)
    assert (whole.low, whole.high) == pytest.approx((pairs.relative_low, pairs.relative_high), rel=1e-12)
    assert found.said.startswith("Of 8 comparisons by device, ")


def test_nothing_to_compare_is_said() -> None:
    found = looked_at([], "device", "city")
    assert (found.tests, found.claims) == ((), ())
    assert found.said == "Nothing could be compared: no two values have enough visitors."
    assert any("device, city" in note for note in found.notes)
    with pytest.raises(InvalidInput, match="'colour' is unknown: choose from device, "):
        looked_at([], "colour")
    with pytest.raises(InvalidInput, match="no dimension is given"):
        looked_at([])


# -------------------------------------------------------------------------------- nulls and planted effects


def logistic(c: pd.DataFrame, *, variant: float = 0.0) -> Floats:
    """Levels of device, city and time of day, and one odds ratio of the variant everywhere: no interaction at all."""
    z = -2.2 + 0.5 * (c["device"] == "mobile") + 0.6 * c["time of day"].str.startswith("evening")
    z = z - 0.4 * (c["city"] == c["city"].mode()[0]) + variant * (c["variant"] == "b")
    found: Floats = (1 / (1 + np.exp(-z))).to_numpy()
    return found


@pytest.mark.sizes(60, RUNS)
@pytest.mark.parametrize(
    ("chance", "questions"),
    [
        (lambda c: np.full(len(c), 0.05), {"matters", "stands_out", "effect", "together"}),
        (lambda c: logistic(c, variant=0.5), {"effect", "together"}),
    ],
    ids=["nothing at all", "levels without interaction"],
)
def test_at_most_one_analysis_in_twenty_claims_what_is_not_there(
    chance: Callable[[pd.DataFrame], Floats], questions: set[str], size: int
) -> None:
    """60 (200) analyses, Monte-Carlo error 2.8 (1.5) points."""
    rng = np.random.default_rng(20220102)
    planted = Planted(made_up_visitors(4000, rng), chance)
    wrong = sum(any(c.question in questions for c in planted.drawn(rng).claims) for _ in range(size))
    error = np.sqrt(0.05 * 0.95 / size)
    assert wrong / size <= 0.05 + 2 * error


@pytest.fixture(scope="module")
def sessions() -> pd.DataFrame:
    return real_visitors()


@REAL
@pytest.mark.sizes(60, RUNS)
def test_on_real_visitors_nothing_is_claimed_where_nothing_was_planted(
    sessions: pd.DataFrame, size: int
) -> None:
    assert (len(sessions), (sessions["device"] == "mobile").sum()) == (6534, 6124)
    rng = np.random.default_rng(1)
    planted = Planted(sessions, lambda c: np.full(len(c), 0.2))
    wrong = sum(bool(planted.drawn(rng).claims) for _ in range(size))
    assert wrong / size <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / size)


def cells(found: SegmentAnalysis) -> set[tuple[str, ...]]:
    """The combinations of two dimensions that are claimed."""
    return {claim.values for claim in found.claims if claim.question == "together" and claim.values}


def in_cell(c: pd.DataFrame, cell: dict[str, str]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = np.all(
        [(c[name] == value).to_numpy() for name, value in cell.items()], axis=0
    )
    return inside


def planted_cell(cell: dict[str, str], rate: float) -> Callable[[pd.DataFrame], Floats]:
    """One combination of values has a rate of its own, all other visitors convert at 10 %."""
    return lambda c: np.where(in_cell(c, cell), rate, 0.1)


EVENING, MORNING, NIGHT = "evening (18-24)", "morning (6-12)", "night (0-6)"


@REAL
def test_one_combination_on_real_visitors_is_found_where_a_plain_test_sees_it(sessions: pd.DataFrame) -> None:
    """Moscow converts at 20 % from 18:00; most of that is seen at 3.7 standard errors, beside 200 other tests."""
    moscow = ("Moscow", EVENING)
    planted = Planted(sessions, planted_cell({"city": "Moscow", "time of day": EVENING}, 0.2))
    seen, found = set(), set()
    for seed in range(9000, 9020):
        analysed = planted.drawn(np.random.default_rng(seed))
        (test,) = (t for t in analysed.tests if t.question == "together" and t.values == moscow)
        seen |= {seed} if (test.statistic or 0) > 3.7**2 else set()
        found |= {seed} if moscow in cells(analysed) else set()
        assert cells(analysed) <= {moscow}
    assert len(found) >= 16
    assert found >= seen


@pytest.mark.sizes(6, 20)
@pytest.mark.parametrize(
    ("cell", "rate"),
    [
        ({"city": "Moscow", "time of day": EVENING}, 0.25),
        ({"city": "Moscow", "time of day": EVENING}, 0.03),
        ({"city": "Moscow", "time of day": NIGHT}, 0.0),
        ({"city": "Saint Petersburg", "time of day": MORNING}, 0.35),
        ({"country": "KZ", "time of day": MORNING}, 0.3),
        ({"device": "desktop", "country": "BY"}, 0.3),
        ({"device": "desktop", "city": "Moscow"}, 0.3),
        ({"device": "desktop", "weekday": "Sunday"}, 0.3),
        ({"device": "desktop", "time of day": EVENING}, 0.25),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else str(value),
)
def test_one_combination_is_found_wherever_it_is(cell: dict[str, str], rate: float, size: int) -> None:
    """Found is also its mirror image: of few values of a dimension, one is up as much as the others are down."""
    visitors = session_like_visitors(6534, np.random.default_rng(20220102))
    planted = Planted(visitors, planted_cell(cell, rate), dimensions=SESSION_DIMENSIONS)
    planted_values = set(cell.values())
    found = 0
    for seed in range(size):
        claimed = cells(planted.drawn(np.random.default_rng(seed)))
        assert all(planted_values & set(values) for values in claimed)
        found += bool(claimed)
    assert found >= 0.8 * size


@pytest.mark.sizes(6, 20)
def test_two_combinations_at_once_are_both_found(size: int) -> None:
    first, second = (
        {"city": "Moscow", "time of day": EVENING},
        {"city": "Saint Petersburg", "time of day": MORNING},
    )
    planted = Planted(
        session_like_visitors(6534, np.random.default_rng(20220102)),
        lambda c: np.where(in_cell(c, first), 0.25, np.where(in_cell(c, second), 0.35, 0.1)),
        dimensions=("city", "hour"),
    )
    claimed = [cells(planted.drawn(np.random.default_rng(seed))) for seed in range(size)]
    assert sum({tuple(first.values()), tuple(second.values())} <= values for values in claimed) >= 0.8 * size


def test_what_one_combination_explains_is_not_claimed_of_its_neighbours() -> None:
    """All other hours of a city look low beside its evening, and all other cities' evenings too: only by that."""
    rows = {(city, time): (2000, 200) for city in ("Oslo", "Bergen", "Moss", "Lom") for time in TIMES_OF_DAY}
    rows["Oslo", EVENING] = (2000, 800)
    given = [Facet(("city", "time of day"), values, 0, "a", n, x) for values, (n, x) in rows.items()]
    found = looked_at(given, "city", "hour")
    small = [t for t in found.tests if t.values and t.p_adjusted is not None and t.p_adjusted < 0.05]
    assert len(small) > 5
    assert cells(found) == {("Oslo", EVENING)}
    # a second one that is high by itself is claimed, however sure the first is
    rows["Moss", MORNING] = (2000, 500)
    given = [Facet(("city", "time of day"), values, 0, "a", n, x) for values, (n, x) in rows.items()]
    assert cells(looked_at(given, "city", "hour")) == {("Oslo", EVENING), ("Moss", MORNING)}


@pytest.mark.sizes(40, RUNS)
@pytest.mark.parametrize("base", [0.03, 0.3])
def test_strong_levels_of_both_dimensions_are_no_combination(base: float, size: int) -> None:
    """Cities, devices, weekdays and times that differ widely (odds by 0.7 standard deviations), nothing beyond it."""
    rng = np.random.default_rng(11)
    levels: dict[str, dict[str, float]] = {}

    def chance(c: pd.DataFrame) -> Floats:
        z = np.full(len(c), np.log(base / (1 - base)))
        for name in ("device", "city", "country", "weekday", "time of day"):
            values = sorted(c[name].unique())
            levels[name] = dict(zip(values, rng.normal(0, 0.7, len(values)).tolist(), strict=True))
            z += c[name].map(levels[name]).to_numpy()
        return np.asarray(1 / (1 + np.exp(-z)))

    planted = Planted(session_like_visitors(6534, rng), chance, dimensions=SESSION_DIMENSIONS)
    wrong = sum(any(c.question == "together" for c in planted.drawn(rng).claims) for _ in range(size))
    assert wrong / size <= 0.05 / 4 + 2.5 * np.sqrt(0.0125 / size)


@REAL
def test_what_is_planted_on_real_visitors_is_found(sessions: pd.DataFrame) -> None:
    """Device, city and hour are real, the outcomes are ours: Moscow converts better, variant b works in Moscow only,
    and desktops convert better in the evening only.
    """

    def chance(c: pd.DataFrame) -> Floats:
        moscow, evening = c["city"] == "Moscow", c["time of day"].str.startswith("evening")
        p = 0.2 * np.where(moscow, 1.5, 1.0) * np.where(moscow & (c["variant"] == "b"), 1.6, 1.0)
        return np.asarray(p * np.where((c["device"] == "desktop") & evening, 2.0, 1.0), float)

    rng = np.random.default_rng(2)
    planted = Planted(sessions, chance)
    wanted = {
        ("stands_out", ("Moscow",)),
        ("effect", ("Moscow",)),
        ("together", ("mobile", "evening (18-24)")),
    }
    found, runs = dict.fromkeys(wanted, 0), 25
    for _ in range(runs):
        claims = planted.drawn(rng).claims
        for claim in claims:
            if (claim.question, claim.values) in wanted:
                found[claim.question, claim.values] += 1  # type: ignore[index]
    assert found["stands_out", ("Moscow",)] == runs
    assert found["effect", ("Moscow",)] >= 0.8 * runs
    assert found["together", ("mobile", "evening (18-24)")] >= 0.6 * runs


# -------------------------------------------------------------------------------- from the store


def record(database: Database, *posted: Event) -> None:
    with database.write() as connection:
        events.record(connection, posted, [], START)


def test_facets_are_those_of_a_plain_count(database: Database) -> None:
    """Zone with a clock change, referrers of all shapes, empty and missing values."""
    experiment = stored(database, running(zone="Europe/Copenhagen", horizon=timedelta(days=40)))
    rng = np.random.default_rng(4)
    referrers = [
        "https://www.Google.com/search?q=x",
        "http://user:pw@news.example:8080/a",
        "",
        None,
        "nonsense",
        7,
    ]
    hosts = ["google.com", "news.example", "(direct)", UNKNOWN, UNKNOWN, UNKNOWN]
    expected: dict[tuple[str, str, str], list[int]] = {}
    posted = []
    for i in range(300):
        at = START + timedelta(hours=float(rng.uniform(0, 38 * 24)))
        variant, kind = "ab"[i % 2], int(rng.integers(6))
        device = [None, "", "mobile", "desktop"][int(rng.integers(4))]
        properties = None if kind == 3 else {"referrer": referrers[kind], "other": 1}
        posted.append(exposure(f"u{i}", variant, at, device=device, properties=properties))
        won = bool(rng.random() < 0.3)
        if won:
            posted.append(event("lead", f"u{i}", at + HOUR))
        local = at.astimezone(ZoneInfo("Europe/Copenhagen"))
        for by, value in (("device", device or UNKNOWN), ("hour", f"{local.hour:02}:00"), ("weekday", f"{local:%A}"),
                          ("referrer", hosts[kind])):  # fmt: skip
            cell = expected.setdefault((by, value, variant), [0, 0])
            cell[0], cell[1] = cell[0] + 1, cell[1] + won
    record(database, *posted)
    with (
        database.read() as connection,
        reader.reading(connection, experiment, START + 60 * DAY) as reading,
    ):
        for by in ("device", "hour", "weekday", "referrer"):
            found: dict[tuple[str, str, str], list[int]] = {}
            for f in reading.facets(by):  # by epoch; the plain count is not
                cell = found.setdefault((by, f.values[0], f.variant), [0, 0])
                cell[0], cell[1] = cell[0] + f.units, cell[1] + f.conversions
            assert found == {key: cell for key, cell in expected.items() if key[0] == by}
        pair = reading.facets("device", "time of day")
        assert sum(f.units for f in pair) == 300
        with pytest.raises(InvalidInput, match="is unknown"):
            reading.facets("device; DROP TABLE events")


def test_the_clock_of_the_site_changes_when_it_does() -> None:
    spring = segment_definitions.clocks(running(zone="Europe/Copenhagen", horizon=timedelta(days=40)))
    assert [shift // 3_600_000_000 for shift in spring["shift"]] == [1, 2]
    change = datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert spring["starts_at"][1] == spring["ends_at"][0] == change.timestamp() * 1e6
    assert segment_definitions.clocks(running(zone="Asia/Kathmandu"))["shift"] == [20_700_000_000]


def test_only_the_most_frequent_values_are_told_apart(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(definitions, "MOST_SLICES", 2)
    experiment = stored(database, running())
    cities = ["Oslo"] * 4 + ["Bergen"] * 3 + ["Moss"] * 2 + ["Lom"]
    record(
        database, *(exposure(f"u{i}", "ab"[i % 2], START + HOUR, city=city) for i, city in enumerate(cities))
    )
    with (
        database.read() as connection,
        reader.reading(connection, experiment, START + 15 * DAY) as reading,
    ):
        found = {(f.values[0], f.variant): f.units for f in reading.facets("city")}
        both = {f.values for f in reading.facets("city", "device")}
    assert found == {
        ("Oslo", "a"): 2,
        ("Oslo", "b"): 2,
        ("Bergen", "a"): 2,
        ("Bergen", "b"): 1,
        (OTHER, "a"): 1,
        (OTHER, "b"): 2,
    }
    assert both == {("Oslo", UNKNOWN), ("Bergen", UNKNOWN), (OTHER, UNKNOWN)}


def test_goals_and_times_of_those_too_who_may_still_convert(database: Database) -> None:
    experiment = stored(database, running())
    as_of = START + 30 * HOUR
    posted = [
        exposure(f"u{i}", "a", START + i * HOUR) for i in range(10)
    ]  # u0 to u5 are mature, the others not
    hours = {
        "lead": [("u0", 2.0), ("u8", 8.5), ("u9", 31.0)],
        "play": [("u1", 1.2), ("u1", 1.4), ("u2", 3.0)],
    }
    posted += [event(kind, unit, START + at * HOUR) for kind, each in hours.items() for unit, at in each]
    record(database, *posted)
    with database.read() as connection:
        found = workflow.of_experiment(connection, experiment, as_of, ("device",))
    play = next(g for g in found.goals if (g.goal, g.variant) == ("play", "a"))
    assert (play.reached.units, play.reached.conversions, play.per_visitor) == (6, 2, pytest.approx(3 / 6))
    assert play.low is not None
    assert play.high is not None
    assert play.low < 0.5 < play.high
    (score, none) = found.scores
    assert (score.mean, none.mean) == (pytest.approx((100 + 20 + 20) / 6), None)
    time, nobody = found.times
    assert (time.units, time.converted, nobody.reason) == (10, 2, "nobody has converted yet")
    seen = [min(30 - i, 24) * 3600.0 for i in range(10)]
    seen[0], seen[8] = 7200.0, 1800.0
    theirs = SurvfuncRight(np.array(seen), np.isin(np.arange(10), [0, 8]))
    assert time.curve.times == (1800.0, 7200.0)
    assert time.curve.survival == pytest.approx(theirs.surv_prob[np.isin(theirs.surv_times, [1800, 7200])])
    assert time.median is None  # fewer than half convert
    assert [q.value for q in time.quartiles] == [1800.0, 1800.0, 7200.0]


def test_a_long_curve_is_thinned_without_losing_conversions(database: Database) -> None:
    experiment = stored(database, running())
    posted: list[Event] = []
    for i in range(900):
        posted += [
            exposure(f"u{i}", "a", START),
            event("lead", f"u{i}", START + timedelta(seconds=60 * i + 1)),
        ]
    record(database, *posted)
    with database.read() as connection:
        (time, _) = workflow.of_experiment(connection, experiment, START + 15 * DAY, ("device",)).times
    assert len(time.curve.times) <= MOST_POINTS
    assert sum(time.curve.events) == time.converted == 900
    assert (time.curve.times[0], time.curve.times[-1], time.curve.survival[-1]) == (1, 60 * 899 + 1, 0)
    assert time.median == pytest.approx(60 * 449 + 1)


def test_the_command_says_it_in_words_and_in_json(tmp_path: Path) -> None:
    site = create_home(tmp_path / "home", {}, {})
    stored(site.db, running())
    rng = np.random.default_rng(6)
    posted: list[Event] = []
    for i in range(1200):
        device = "mobile" if i % 3 else "desktop"
        posted.append(
            exposure(
                f"u{i}",
                "ab"[i % 2],
                START + HOUR,
                device=device,
                properties={"referrer": "https://a.example/x"},
            )
        )
        if rng.random() < (0.4 if device == "mobile" else 0.1):
            posted.append(event("lead", f"u{i}", START + 2 * HOUR))
    record(site.db, *posted)

    def run(*more: str) -> str:
        at = ("--as-of", "2026-03-10T00:00:00Z", "--home", str(site.path))
        done = CliRunner().invoke(app, ["analyse", "hero", *at, *more], catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    text = run("--by", "device,referrer")
    assert "Conversion differs by device: mobile" in text
    assert "a.example" in text
    assert "looking again and again" in text  # it runs still
    before = json.loads(run("--json"))
    assert [c["question"] for c in before["claims"]] == ["matters"]
    assert before["dimensions"] == list(analysis.DIMENSIONS)
    seal(site, now=START + 4 * DAY, force=True)
    assert json.loads(run("--json")) == before
    site.db.close()
