"""Assets over all experiments that showed them: compared fairly, shrunk where little is known, ranked, or untried."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from helpers.store_samples import DAY, GOALS, HOUR, START, event, exposure, stored
from scipy import optimize, stats
from typer.testing import CliRunner

from cro_core.cli import app
from cro_core.domain import Cell, Event, Experiment, Plan, Reason, Status, Variant, Verdict
from cro_core.errors import InvalidInput
from cro_core.evidence import Decision
from cro_core.home import Home, create_home
from cro_core.hypotheses.media_manifest import MANIFEST
from cro_core.learning.asset_ranking import HALF_LIFE, Appearance, Ranking, rank
from cro_core.planning import plans
from cro_core.rendering.segments_text import ranking_text
from cro_core.statistics.arrays import Floats
from cro_core.statistics.shrinkage import reml, restricted, shrink
from cro_core.storage import decisions, events
from cro_core.workflows.rank_assets import asset_ranking

NOW = START + 30 * DAY


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def appearance(
    name: str, shown: dict[str, tuple[int, int]], *, ago: timedelta = DAY, epoch: int = 0
) -> Appearance:
    """``shown``: asset -> units and conversions."""
    cells = tuple(Cell(epoch, asset, n, x, 100.0 * x, 10_000.0 * x) for asset, (n, x) in shown.items())
    return Appearance(name, NOW - ago, {asset: asset for asset in shown}, cells)


def ranked(*appearances: Appearance, known: tuple[str, ...] = ()) -> Ranking:
    return rank(appearances, known, now=NOW, rng=rng())


# -------------------------------------------------------------------------------- shrinkage


def independent(y: Floats, v: Floats) -> tuple[Floats, Floats]:
    """Score and information of effects ``y`` with variances ``v`` about one unknown level."""
    w = 1 / v
    information = np.diag(w) - np.outer(w, w) / w.sum()
    return information @ y, information


def test_equal_variances_by_hand() -> None:
    """Then REML is the sample variance less the noise, and each effect keeps tau^2 / (tau^2 + v) of itself."""
    y, v = np.array([0.9, 0.1, -0.4, 0.3, -0.9]), 0.04
    scores, information = independent(y, np.full(5, v))
    values, vectors = np.linalg.eigh(information)
    tau2 = y.var(ddof=1) - v
    assert reml(values, vectors.T @ scores) == pytest.approx(tau2, rel=1e-9)
    # with a prior as narrow as this, tau is what we say, and so is the part that each effect keeps
    few = shrink(scores, information, np.ones(5, bool), 1e-4, rng(), draws=10)
    kept = (few.mean / (y - y.mean())).round(12)
    assert np.ptp(kept) < 1e-9
    assert 0 < kept[0] < 1e-6
    found = shrink(scores, information, np.ones(5, bool), 0.5, rng())
    share = found.mean / (y - y.mean())
    assert np.ptp(share) < 1e-9
    grid = (np.arange(120) + 0.5) * 4 * 0.5 / 120
    # the same average over tau, with the likelihood of the sample variance
    log = -2 * np.log(grid**2 + v) - 4 * y.var(ddof=1) / (2 * (grid**2 + v)) - (grid / 0.5) ** 2 / 2
    weight = np.exp(log - log.max())
    assert share[0] == pytest.approx((weight * grid**2 / (grid**2 + v)).sum() / weight.sum(), rel=1e-9)
    assert found.tau_reml == pytest.approx(np.sqrt(tau2), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_reml_is_where_the_restricted_likelihood_of_the_model_is_largest(seed: int) -> None:
    """Unequal variances, against the likelihood written out with matrices."""
    draw = np.random.default_rng(seed)
    v = draw.uniform(0.01, 0.3, 9)
    y = draw.normal(0, 0.5, 9) + draw.normal(0, np.sqrt(v))
    scores, information = independent(y, v)
    values, vectors = np.linalg.eigh(information)

    def minus_log(tau2: float) -> float:
        w = 1 / (v + tau2)
        level = (w * y).sum() / w.sum()
        return float(-np.log(w).sum() + np.log(w.sum()) + (w * (y - level) ** 2).sum()) / 2

    best = optimize.minimize_scalar(minus_log, bounds=(0, 5), method="bounded", options={"xatol": 1e-12}).x
    assert reml(np.maximum(values, 0), vectors.T @ scores) == pytest.approx(best, abs=1e-6)
    ours = restricted(np.array([0.1, 0.4]), np.maximum(values, 0), vectors.T @ scores)
    assert ours[0] - ours[1] == pytest.approx(minus_log(0.4) - minus_log(0.1), rel=1e-9)


def test_no_difference_shrinks_to_nothing_but_stays_unsure() -> None:
    scores, information = independent(np.zeros(4), np.full(4, 0.02))
    found = shrink(scores, information, np.ones(4, bool), 0.5, rng())
    assert found.tau_reml == 0
    assert found.mean == pytest.approx(np.zeros(4), abs=1e-12)
    assert (found.low < -0.01).all()
    assert (found.high > 0.01).all()
    assert found.above == pytest.approx(np.full(4, 0.5), abs=1e-9)
    assert found.best.sum() == pytest.approx(1)


def test_the_interval_is_the_quantile_of_the_mixture() -> None:
    scores, information = independent(np.array([0.5, -0.2, 0.1]), np.array([0.01, 0.2, 0.05]))
    found = shrink(scores, information, np.ones(3, bool), 0.5, rng())
    wide = shrink(scores, information, np.ones(3, bool), 0.5, rng(), level=0.5)
    assert (
        (found.low < wide.low) & (wide.low < found.mean) & (found.mean < wide.high) & (wide.high < found.high)
    ).all()
    # the probability of being above 0 belongs to the same mixture
    at = shrink(scores, information, np.ones(3, bool), 0.5, rng(), level=abs(2 * found.above[0] - 1))
    assert at.low[0] == pytest.approx(0, abs=1e-9)


def test_shrinkage_beats_raw_ranking() -> None:
    """12 assets, unequally well known: nearer to the truth, a better asset on top, and intervals that hold."""
    draw = np.random.default_rng(3)
    errors, raw_errors, inside, top, raw_top = [], [], [], [], []
    for _ in range(300):
        truth = draw.normal(0, 0.3, 12)
        v = draw.uniform(0.01, 0.3, 12)
        y = truth + draw.normal(0, np.sqrt(v))
        found = shrink(*independent(y, v), np.ones(12, bool), 0.5, rng(), draws=10)
        told = truth - truth.mean()
        errors.append(((found.mean - told) ** 2).mean())
        raw_errors.append(((y - y.mean() - told) ** 2).mean())
        inside.append(((found.low <= told) & (told <= found.high)).mean())
        top.append(told[found.mean.argmax()])
        raw_top.append(told[y.argmax()])
    assert np.mean(errors) < 0.5 * np.mean(raw_errors)
    gain = np.array(top) - np.array(raw_top)
    assert gain.mean() > 2 * gain.std() / np.sqrt(len(gain))
    assert 0.90 <= np.mean(inside) <= 0.97


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidInput, match="one score and one row"):
        shrink(np.zeros(3), np.zeros((2, 2)), np.ones(3, bool), 0.5, rng())
    with pytest.raises(InvalidInput, match="at least one that is ranked"):
        shrink(np.zeros(2), np.zeros((2, 2)), np.zeros(2, bool), 0.5, rng())


# -------------------------------------------------------------------------------- ranking


def test_an_asset_is_compared_with_what_was_shown_beside_it() -> None:
    """``film`` beats ``photo`` in a bad month; ``hall`` loses to ``dance`` in a good one, with the higher raw rate."""
    found = ranked(
        appearance("bad", {"photo": (8000, 160), "film": (8000, 280)}),
        appearance("good", {"hall": (8000, 1000), "dance": (8000, 1500)}),
        appearance("link", {"film": (8000, 800), "dance": (8000, 810)}),
    )
    places = {a.asset_id: a for a in found.assets}
    assert places["hall"].rate > places["film"].rate
    assert places["hall"].uplift < 0 < places["film"].uplift
    assert {a for a, p in places.items() if p.tier == "above"} == {"film", "dance"}
    assert {a for a, p in places.items() if p.tier == "below"} == {"photo", "hall"}
    assert [a.rank for a in found.assets] == [1, 2, 3, 4]
    assert found.said == "Of 4, 2 are better than the average and 2 worse."
    assert sum(a.probability_best for a in found.assets) == pytest.approx(1, abs=0.02)


def test_large_experiments_give_the_log_odds_of_a_fitted_model() -> None:
    """With many visitors nothing is shrunk: a logistic regression on experiment and asset says the same."""
    shown = [("one", {"a": (400_000, 40_000), "b": (400_000, 46_000)}), ("two", {"b": (300_000, 60_000), "c": (300_000, 52_000)}),
             ("three", {"a": (200_000, 10_000), "c": (200_000, 10_400)})]  # fmt: skip
    found = {a.asset_id: a for a in ranked(*(appearance(*s) for s in shown)).assets}
    rows = [(e, asset, n, x) for e, arms in shown for asset, (n, x) in arms.items()]
    design = np.array(
        [[e == "one", e == "two", e == "three", a == "b", a == "c"] for e, a, _, _ in rows], float
    )
    outcome = np.array([(x, n - x) for _, _, n, x in rows])
    b, c = sm.GLM(outcome, design, family=sm.families.Binomial()).fit().params[3:]
    base = sum(x for *_, x in rows) / sum(n for _, _, n, _ in rows)
    for asset, effect in (("a", 0.0), ("b", b), ("c", c)):
        odds = base / (1 - base) * np.exp(effect - (b + c) / 3)
        assert found[asset].uplift == pytest.approx(odds / (1 + odds) / base - 1, abs=0.005)


def test_days_are_compared_in_themselves() -> None:
    """Shares moved to ``b`` on a day when everything converts: pooled it looks better, and it is not."""
    cells = (
        Cell(0, "a", 8000, 400),
        Cell(0, "b", 2000, 100),
        Cell(1, "a", 2000, 400),
        Cell(1, "b", 8000, 1600),
    )
    found = {a.asset_id: a for a in ranked(Appearance("x", NOW, {"a": "a", "b": "b"}, cells)).assets}
    assert found["b"].rate > 1.5 * found["a"].rate
    assert found["b"].uplift == pytest.approx(0, abs=1e-9)
    assert found["b"].tier == "not told apart"


def test_few_visitors_move_little() -> None:
    found = {a.asset_id: a for a in ranked(
        appearance("large", {"a": (5000, 500), "b": (5000, 600)}),
        appearance("small", {"a": (40, 4), "lucky": (40, 9)}),
    ).assets}  # fmt: skip
    assert found["lucky"].rate / found["a"].rate - 1 > 1
    assert found["lucky"].uplift < 0.5
    assert found["lucky"].low < 0 < found["lucky"].high
    assert found["b"].score > found["a"].score


def test_what_shows_no_asset_only_serves_the_comparison() -> None:
    own = Appearance(
        "x", NOW, {"site": None, "film": "film"}, (Cell(0, "site", 5000, 300), Cell(0, "film", 5000, 500))
    )
    found = ranked(own, appearance("y", {"photo": (5000, 300), "film": (5000, 300)}))
    assert {a.asset_id for a in found.assets} == {"film", "photo"}
    assert ranked(own).said == "Only one has been shown in a test: there is nothing to compare it with."
    nothing = Appearance("z", NOW, {"a": None, "b": None}, (Cell(0, "a", 9, 1), Cell(0, "b", 9, 1)))
    assert ranked(nothing) == Ranking((), (), None, "No picture or clip has been shown in a test yet.")


def test_recency_halves_and_the_site_itself_is_recent() -> None:
    old = appearance("old", {"a": (900, 90), "b": (900, 90)}, ago=HALF_LIFE)
    new = appearance("new", {"c": (900, 90), "d": (900, 90)}, ago=timedelta(0))
    found = {a.asset_id: a for a in rank((old, new), (), now=NOW, rng=rng(), on_site={"b"}).assets}
    assert [found[k].recency for k in "abcd"] == pytest.approx([0.5, 1, 1, 1])
    assert found["b"].last_shown == NOW
    assert found["b"].score - found["a"].score == pytest.approx(100 * 0.1 * 0.5, abs=1e-6)


def test_untried_is_not_zero() -> None:
    found = ranked(appearance("x", {"a": (900, 90), "b": (0, 0)}), known=("a", "b", "c"))
    assert found.untried == ("b", "c")
    assert [a.asset_id for a in found.assets] == ["a"]


def test_the_probability_of_being_best_is_that_of_the_effects() -> None:
    found = ranked(appearance("x", {"a": (3000, 300), "b": (3000, 320)}))
    a, b = sorted(found.assets, key=lambda x: x.asset_id)
    assert b.probability_best == pytest.approx(b.probability_above, abs=0.03)
    gap = stats.norm.cdf((320 - 300) / np.sqrt(620 * (1 - 620 / 6000)))
    assert 0.5 < b.probability_best < gap  # shrinkage makes it less sure
    assert a.probability_above == pytest.approx(1 - b.probability_above)


# -------------------------------------------------------------------------------- from a home


def experiment(name: str, *assets: str) -> Experiment:
    variants = tuple(Variant(a, a, {}, a, is_control=i == 0) for i, a in enumerate(assets))
    return plans.begin(
        Experiment(name, name, variants, Plan(goals=GOALS), slot=name, created_at=START), START
    )


def visits(to: str, asset: str, number: int, leads: int) -> list[Event]:
    found = [exposure(f"{to}{asset}{i}", asset, START + HOUR, to=to) for i in range(number)]
    return found + [event("lead", f"{to}{asset}{i}", START + 2 * HOUR, to=to) for i in range(leads)]


@pytest.fixture
def shop(tmp_path: Path) -> Home:
    """A running experiment, one that was decided and whose events are gone, an invalid one, and one that never ran."""
    home = create_home(tmp_path / "home", {}, {})
    done, broken = experiment("done", "photo", "dance"), experiment("broken", "photo", "fake")
    stored(home.db, experiment("runs", "photo", "film"), *(
        Experiment(**{**_fields(e), "status": Status.ARCHIVED, "ended_at": START + 9 * DAY}) for e in (done, broken)
    ), Experiment("draft", "draft", done.variants, done.plan, slot="x", created_at=START))  # fmt: skip
    with home.db.write() as connection:
        events.record(
            connection, visits("runs", "photo", 400, 20) + visits("runs", "film", 400, 60), [], START
        )
        for name, verdict in (("done", Verdict.KEEP_CONTROL), ("broken", Verdict.INVALID)):
            cells = (Cell(0, "photo", 500, 50), Cell(0, "dance" if name == "done" else "fake", 500, 20))
            decisions.add(
                connection, Decision(name, START + 9 * DAY, verdict, (Reason("x", "x"),), cells, id=name)
            )
        shown = {"experiment_id": "done", "variant": "photo", "since": START + 9 * DAY, "unproven": False}
        decisions.set_production(connection, "done", {**shown, "config": {}})
    item = {"id": "garden", "path": "garden.jpg"}
    (home.media / "garden.jpg").write_bytes(b"picture")
    (home.media / MANIFEST).write_text(json.dumps({"hero": [item]}), encoding="utf-8")
    return home


def _fields(of: Experiment) -> dict[str, object]:
    return {name: getattr(of, name) for name in Experiment.__dataclass_fields__}


def test_a_home_is_ranked(shop: Home) -> None:
    found = asset_ranking(shop, now=NOW)
    places = {a.asset_id: a for a in found.assets}
    assert set(places) == {"photo", "film", "dance"}  # what cannot be trusted ranks nothing
    assert (places["photo"].experiments, places["photo"].units, places["photo"].conversions) == (2, 900, 70)
    assert found.assets[0].asset_id == "film"
    assert places["film"].tier == "above"
    assert places["dance"].tier == "below"
    assert (places["dance"].last_shown, places["photo"].last_shown) == (START + 9 * DAY, NOW)
    assert found.untried == ("garden",)
    assert asset_ranking(shop, now=NOW) == found
    shop.db.close()


def test_the_command_lists_and_says(shop: Home) -> None:
    def run(*more: str) -> str:
        done = CliRunner().invoke(app, ["assets", "--home", str(shop.path), *more], catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    shop.db.close()
    text = run()
    assert text.index("film") < text.index("dance")
    assert "Never tried: garden" in text
    data = json.loads(run("--json"))
    assert [a["rank"] for a in data["assets"]] == [1, 2, 3]
    (shop.media / MANIFEST).write_text("{", encoding="utf-8")
    assert json.loads(run("--json"))["untried"] == []


def test_without_anything_it_says_so() -> None:
    assert (
        ranking_text(ranked(known=("a",)))
        == "No picture or clip has been shown in a test yet.\n\nNever tried: a"
    )
