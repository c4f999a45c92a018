"""The verdict that counts allow: every branch of the argument, on counts of known answer."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pingouin as pg
import pytest
from numpy.random import default_rng
from scipy.stats import chi2_contingency, norm

from cro_core.decision.decide import decide
from cro_core.decision.inputs import fingerprint, state_of
from cro_core.domain import Cell, Experiment, Goal, Plan, Status, Variant, Verdict
from cro_core.evidence import Decision
from cro_core.planning import plans
from cro_core.rendering.decision_text import decision_text
from cro_core.statistics.proportions import difference
from cro_core.storage.decisions import from_record, to_record

START = datetime(2026, 3, 2, tzinfo=UTC)
END = START + timedelta(days=14)
PLAN = Plan((Goal("contact_form_submit", 100, True),), units=10_000, base_rate=0.03, mde=0.4)
FIRST = replace(PLAN, rule=1)
"""A plan of the first rule: hourly looks at mature units, until the planned sample or the horizon."""


def running(plan: Plan = PLAN, names: tuple[str, ...] = ("a", "b")) -> Experiment:
    variants = tuple(Variant(key, key.upper(), is_control=key == "a") for key in names)
    return plans.begin(Experiment("hero", "Hero", variants, plan, created_at=START), START)


def cells(*counts: tuple[int, int], epoch: int = 0) -> list[Cell]:
    return [Cell(epoch, key, n, x) for key, (n, x) in zip("abcd", counts, strict=False)]


def judged(*counts: tuple[int, int], plan: Plan = PLAN, as_of: datetime = END) -> Decision:
    return decide(running(plan, tuple("abcd"[: len(counts)])), cells(*counts), as_of=as_of).decision


def codes(decision: Decision) -> list[str]:
    return [reason.code for reason in decision.reasons]


def test_published_table_is_reproduced() -> None:
    found = judged((10_000, 300), (10_000, 360)).evidence.comparisons[0]
    assert found.chi_square == pytest.approx(5.64069, abs=5e-6)
    assert found.p_value == pytest.approx(0.017548, abs=5e-7)
    assert found.p_value_yates == pytest.approx(0.019521, abs=5e-7)
    assert found.relative == pytest.approx(0.20)


@pytest.mark.parametrize("challengers", [1, 2, 3])
def test_the_pooled_interval_shares_alpha_between_challengers(challengers: int) -> None:
    counts = ((5_000, 150), *[(5_000, 170)] * challengers)
    pooled = difference(5_000, 150, 5_000, 170, 1 - 0.05 / challengers)
    for found in judged(*counts).evidence.comparisons:
        assert (found.low, found.high) == (pooled.low, pooled.high)


def test_an_interval_is_named_by_the_level_that_it_has() -> None:
    """Where a challenger is beaten the other's part of alpha grows, and its interval is that of a test of two."""
    control, better, worse, alike = (10_000, 300), (10_000, 355), (10_000, 200), (10_000, 310)
    (alone,) = judged(control, better).evidence.comparisons
    beaten = judged(control, better, worse)
    first, second = beaten.evidence.comparisons
    assert (first.stopped_low, first.stopped_high) == pytest.approx((alone.stopped_low, alone.stopped_high))
    assert f"(95 % interval {first.stopped_low:+.1%} to {first.stopped_high:+.1%})" in beaten.text
    assert f"(97.5 % interval {second.stopped_low:+.1%} to {second.stopped_high:+.1%})" in beaten.text
    assert (beaten.verdict, second.active) == (Verdict.SHIP, False)
    at_once = judged(control, (10_000, 380), worse)  # won before anybody was beaten
    assert at_once.text.count("(97.5 % interval") == 2
    assert judged(control, alike, alike).text.count("(97.5 % interval") == 2
    assert judged(control, alike, worse, alike).text.count("(97.5 % interval") == 2
    untested = replace(first, critical_z=None)
    assert beaten.evidence.confidence(untested, 0.05) == 0.975


def test_agrees_with_scipy_and_pingouin() -> None:
    rng = default_rng(5)
    for _ in range(20):
        n0, n1 = rng.integers(200, 900, 2)
        x0, x1 = rng.integers(20, 180, 2)
        found = judged((int(n0), int(x0)), (int(n1), int(x1))).evidence.comparisons[0]
        table = [[x0, n0 - x0], [x1, n1 - x1]]
        assert found.chi_square == pytest.approx(chi2_contingency(table, correction=False)[0], rel=1e-9)
    frame = pg.read_dataset("chi2_independence")
    counts = frame.groupby("sex")["target"].agg(["size", "sum"])
    theirs = (
        pg.chi2_independence(frame, "sex", "target", correction=False)[2].set_index("test").loc["pearson"]
    )
    ours = judged(*((int(n), int(x)) for n, x in counts.itertuples(index=False))).evidence.comparisons[0]
    assert ours.p_value == pytest.approx(theirs["pval"], rel=1e-6)


def test_winner_at_the_planned_sample() -> None:
    found = judged((5_000, 150), (5_000, 220), plan=FIRST, as_of=START + timedelta(days=3))
    assert (found.verdict, found.winner, found.unproven) == (Verdict.SHIP, "b", False)
    assert codes(found) == ["srm_ok", "look", "crossed", "significant", "worth_it"]
    assert "B wins" in found.text


def test_early_numbers_must_be_more_extreme() -> None:
    """p = .008 wins at the end, and is not enough at a third of the way."""
    early = judged((1_500, 60), (1_500, 93), as_of=START + timedelta(days=4))
    assert (early.verdict, early.winner, early.final) == (Verdict.CONTINUE, None, False)
    assert early.evidence.comparisons[0].p_value < 0.01
    assert early.evidence.look.critical_chi_square > 8
    assert "B against the control" not in early.text  # an early uplift only misleads
    assert judged((1_500, 60), (1_500, 93)).verdict is Verdict.SHIP


def test_overwhelming_numbers_win_early() -> None:
    found = judged((2_500, 75), (2_500, 175), plan=FIRST, as_of=START + timedelta(days=5))
    assert (found.verdict, found.evidence.look.due) == (Verdict.SHIP, False)
    assert found.evidence.look.spending_time == pytest.approx(0.5)  # of 10,000 planned visitors


def test_a_day_of_data_comes_first() -> None:
    counts = ((2_500, 75), (2_500, 175))
    before = judged(
        *counts, plan=FIRST, as_of=START + timedelta(hours=47.9)
    )  # the window of 24 hours must have passed
    assert (before.verdict, before.evidence.look.status) == (Verdict.CONTINUE, "too_early")
    assert judged(*counts, plan=FIRST, as_of=START + timedelta(hours=48)).verdict is Verdict.SHIP


def test_horizon_is_the_last_look_whatever_the_sample() -> None:
    counts = ((500, 15), (500, 31))
    before, at = judged(*counts, as_of=START + timedelta(days=7)), judged(*counts, as_of=END)
    assert (before.verdict, at.verdict) == (Verdict.CONTINUE, Verdict.SHIP)


def test_planned_size_ends_it_early() -> None:
    counts, early = ((5_000, 150), (5_000, 185)), START + timedelta(days=5)
    assert judged(*counts, plan=FIRST, as_of=early).final
    assert not judged(*counts, plan=replace(FIRST, units=None), as_of=early).final
    assert not judged(*counts, as_of=early).final


def test_hopeless_experiments_end_early() -> None:
    counts, middle = ((4_000, 150), (4_000, 120)), START + timedelta(days=7)
    for plan, verdict, winner in (
        (FIRST, Verdict.KEEP_CONTROL, "a"),
        (PLAN, Verdict.NO_PRACTICAL_GAIN, None),
    ):
        stopped = judged(*counts, plan=plan, as_of=middle)
        assert (stopped.verdict, stopped.winner, codes(stopped)[-1]) == (verdict, winner, "futile")
        assert judged(*counts, plan=replace(plan, futility=False), as_of=middle).verdict is Verdict.CONTINUE


def test_spending_moves_early_boundaries() -> None:
    def critical(**change: object) -> float:
        plan = replace(PLAN, **change)  # type: ignore[arg-type]
        found = judged((1_500, 60), (1_500, 80), plan=plan, as_of=START + timedelta(days=4))
        return float(found.evidence.look.critical_z)

    default = critical()
    assert critical(spending="pocock") < default < critical(spending="obrien_fleming")
    assert critical(spending_parameter=-8.0) > default
    assert critical(alpha=0.1) < default


@pytest.mark.parametrize("plan", [PLAN, FIRST])
def test_looks_carry_over(plan: Plan) -> None:
    """The second look knows of the first; rewinding forgets it, and rebuilding from the record agrees."""
    experiment, later = running(plan), START + timedelta(days=6)
    first = decide(experiment, cells((1_500, 60), (1_500, 70)), as_of=START + timedelta(days=4))
    second = decide(experiment, cells((2_500, 100), (2_500, 120)), as_of=later, state=first.state)
    alone = decide(experiment, cells((2_500, 100), (2_500, 120)), as_of=later)
    assert [j.decision.evidence.look.number for j in (first, second, alone)] == [1, 2, 1]
    assert second.decision.evidence.look.critical_z > alone.decision.evidence.look.critical_z
    rebuilt = state_of(first.decision.evidence.looks)
    again = decide(experiment, cells((2_500, 100), (2_500, 120)), as_of=later, state=rebuilt)
    assert again.decision.evidence.look.critical_z == pytest.approx(
        second.decision.evidence.look.critical_z, rel=1e-9
    )
    repeated = decide(experiment, cells((2_500, 100), (2_500, 120)), as_of=later, state=second.state)
    look, once_more = second.decision.evidence.look, repeated.decision.evidence.look
    assert replace(once_more, critical_z=None, critical_chi_square=None) == replace(
        look, critical_z=None, critical_chi_square=None
    )
    assert once_more.critical_z == pytest.approx(look.critical_z, rel=1e-9)


def test_control_wins_when_the_challenger_is_worse() -> None:
    found = judged((5_000, 220), (5_000, 150))
    assert (found.verdict, found.winner) == (Verdict.KEEP_CONTROL, "a")


def test_nothing_proven_is_inconclusive_and_the_control_stays() -> None:
    found = judged((5_000, 150), (5_000, 155))
    assert (found.verdict, found.winner, found.unproven) == (Verdict.INCONCLUSIVE, None, False)


def test_pick_leader_is_labelled_unproven() -> None:
    found = judged((5_000, 150), (5_000, 155), plan=replace(PLAN, at_horizon="pick_leader"))
    assert (found.verdict, found.winner, found.unproven) == (Verdict.INCONCLUSIVE, "b", True)
    assert "unproven pick" in found.text
    assert codes(found)[-1] == "unproven_pick"


@pytest.mark.parametrize(("gate", "ships"), [("not_excluded", True), ("point", True), ("proven", False)])
def test_gate_asks_for_the_minimum_uplift(gate: str, ships: bool) -> None:
    found = judged((5_000, 150), (5_000, 200), plan=replace(PLAN, gate=gate))  # +33 %, from +8 %
    assert (found.verdict is Verdict.SHIP) == ships
    assert ("gain_too_small" in codes(found)) != ships
    if ships:
        shown = {"not_excluded": "+64.1%", "point": "+33.3%"}[gate]
        assert next(r.text for r in found.reasons if r.code == "worth_it").endswith(f"is {shown}.")


def test_significant_but_too_small_keeps_the_control() -> None:
    plan = replace(PLAN, units=1_000_000)
    found = judged((500_000, 50_000), (500_000, 51_000), plan=plan)  # +2 %, at most +3.2 %
    assert (found.verdict, found.winner) == (Verdict.GAIN_BELOW_MINIMUM, None)
    first = judged((500_000, 50_000), (500_000, 51_000), plan=replace(plan, rule=1))
    assert (first.verdict, first.winner) == (Verdict.KEEP_CONTROL, "a")
    assert "gain_too_small" in codes(found)
    assert (
        judged((500_000, 50_000), (500_000, 51_000), plan=replace(plan, min_uplift=0.01)).verdict
        is Verdict.SHIP
    )


def test_alpha_moves_the_border() -> None:
    counts = ((5_000, 150), (5_000, 186))  # p about .044
    assert judged(*counts).verdict is Verdict.SHIP
    assert judged(*counts, plan=replace(PLAN, alpha=0.01)).verdict is Verdict.INCONCLUSIVE


def test_broken_split_vetoes_and_says_what_it_vetoed() -> None:
    found = judged((5_500, 150), (4_500, 260))
    assert (found.verdict, found.winner) == (Verdict.INVALID, None)
    assert codes(found) == ["srm", "look", "crossed", "significant", "worth_it", "vetoed"]
    assert "B against the control" not in found.text


def test_broken_split_is_judged_against_the_planned_shares() -> None:
    experiment = running()
    uneven = replace(experiment, epochs=(replace(experiment.epochs[0], shares={"a": 0.55, "b": 0.45}),))
    assert decide(uneven, cells((5_500, 150), (4_500, 220)), as_of=END).decision.verdict is Verdict.SHIP


def test_unknown_shares_are_a_state_not_an_alarm() -> None:
    found = judged((8_000, 200), (2_000, 90), plan=replace(PLAN, shares_known=False))
    assert found.verdict is Verdict.SHIP
    assert codes(found)[0] == "srm_unknown"
    assert found.evidence.srm.status == "unknown_shares"


def test_too_few_visitors_decide_nothing() -> None:
    few = judged((99, 3), (120, 20))
    assert (few.verdict, "too_few" in codes(few)) == (Verdict.INCONCLUSIVE, True)
    enough = judged((100, 3), (100, 20))
    assert enough.verdict is Verdict.SHIP


def test_cannot_be_computed_has_a_reason_and_no_p_value() -> None:
    found = judged((5_000, 0), (5_000, 0))
    comparison = found.evidence.comparisons[0]
    assert (found.verdict, comparison.p_value, comparison.relative) == (
        Verdict.INCONCLUSIVE,
        None,
        None,
    )
    assert comparison.reason
    assert comparison.difference == 0
    assert "no_information" in codes(found)
    assert "No look yet: " in judged((50, 0), (50, 0), as_of=START + timedelta(hours=5)).text


def test_empty_experiment_continues_and_then_ends() -> None:
    assert decide(running(), [], as_of=START).decision.verdict is Verdict.CONTINUE
    assert decide(running(), [], as_of=END).decision.verdict is Verdict.INCONCLUSIVE


def test_more_challengers_share_alpha() -> None:
    counts = ((4_000, 120), (4_000, 155), (4_000, 121))  # b alone: p about .03
    assert judged(*counts[:2]).verdict is Verdict.SHIP
    assert judged(*counts).verdict is Verdict.INCONCLUSIVE
    best = judged((4_000, 120), (4_000, 180), (4_000, 200))
    assert (best.verdict, best.winner) == (Verdict.SHIP, "c")
    mixed = judged((4_000, 200), (4_000, 120), (4_000, 199))
    assert mixed.verdict is Verdict.INCONCLUSIVE  # one challenger is still as good as the control


def test_moving_shares_are_judged_day_by_day() -> None:
    """Simpson's table: pooled, the challenger loses; on each day it wins, and each day counts."""
    experiment = running(replace(FIRST, adaptive=True, units=4_000, min_uplift=0.0))
    days = [*cells((1000, 200), (1000, 250), epoch=0), *cells((200, 8), (1800, 90), epoch=1)]
    shares = [{"a": 0.5, "b": 0.5}, {"a": 0.1, "b": 0.9}]
    moved = tuple(replace(e, shares=s) for e, s in zip(experiment.epochs, shares, strict=False))
    epochs = moved + experiment.epochs[2:]
    found = decide(replace(experiment, epochs=epochs), days, as_of=START + timedelta(days=3)).decision
    comparison = found.evidence.comparisons[0]
    pooled = (340 / 2800) / (208 / 1200) - 1
    assert pooled < 0 < comparison.relative
    assert comparison.relative == pytest.approx(0.25, abs=0.005)  # Mantel-Haenszel risk ratio 1.25
    assert comparison.z > norm.ppf(0.975)
    assert (found.verdict, found.winner) == (Verdict.SHIP, "b")


def test_record_survives_json_and_carries_every_input() -> None:
    found = decide(running(), cells((5_000, 150), (5_000, 220)), as_of=END).decision
    record = json.loads(json.dumps(to_record(found), allow_nan=False))
    assert from_record(record) == found
    assert {"plan", "epochs", "look", "totals", "comparisons", "srm", "looks"} <= set(record["evidence"])
    assert found.versions["cro"]


def test_fingerprint_follows_the_data() -> None:
    one, other = cells((10, 1), (10, 2)), cells((10, 1), (10, 3))
    assert fingerprint(one) == fingerprint(list(one))
    assert fingerprint(one) != fingerprint(other)


def test_one_look_is_called_one_look() -> None:
    """Whole files, and experiments that end at their first look; elsewhere there were hourly ones."""
    counts = (5_000, 150), (5_000, 230)
    whole = judged(*counts, plan=replace(PLAN, units=None, finished=True))
    text = decision_text(whole)
    assert "p < .001 at one look\n" in text
    assert "hourly looks" not in text
    assert "needed 1.96 at its one look for a 5% error rate." in whole.text
    first = judged(*counts, as_of=START + timedelta(days=3), plan=replace(FIRST, units=None))
    assert "at one look\n" in decision_text(first)
    assert "at this look for a 5% error rate over all looks." in first.text  # it would not have been the last
    before = decide(running(), cells((1_000, 30), (1_000, 31)), as_of=START + timedelta(days=3)).state
    last = decide(running(), cells(*counts), as_of=END, state=before).decision
    assert len(last.evidence.looks.hours) == 2
    assert "under hourly looks\n" in decision_text(last)
    assert "over all looks." in last.text


def test_finished_file_is_due_at_once() -> None:
    plan = replace(PLAN, units=None, finished=True)
    assert judged((5_000, 150), (5_000, 220), plan=plan, as_of=START).verdict is Verdict.SHIP


def test_drafts_cannot_be_begun_without_a_control() -> None:
    variants = (Variant("a", "A"), Variant("b", "B"))
    with pytest.raises(ValueError, match="mark exactly 1 variant as the control"):
        plans.begin(Experiment("x", "X", variants, PLAN, Status.DRAFT), START)


def test_too_little_traffic_is_a_verdict_of_its_own() -> None:
    few, enough = judged((1_000, 30), (1_000, 33)), judged((5_000, 150), (5_000, 155))
    assert "under_powered" in codes(few)
    assert "Cannot tell at this traffic: 154 visitors a day" in few.text
    assert "under_powered" not in codes(
        decide(running(replace(PLAN, mde=0.9)), cells((5_000, 150), (5_000, 155)), as_of=END).decision
    )
    assert enough.verdict is few.verdict is Verdict.INCONCLUSIVE


def test_futility_is_not_asked_where_the_traffic_gives_the_plan_no_chance() -> None:
    counts, middle = ((400, 15), (400, 12)), START + timedelta(days=7)
    assert judged(*counts, as_of=middle).verdict is Verdict.CONTINUE
