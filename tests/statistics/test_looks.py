import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from cro_core.domain import Verdict
from cro_core.errors import Conflict, InvalidInput
from cro_core.statistics import proportions
from cro_core.statistics.combination import combined_z
from cro_core.statistics.looks import Aggregates, Effect, LookPlan, LookState, Maturity, take_look
from cro_core.statistics.rules import compare, last_critical, spending_time, step_down
from cro_core.statistics.sequential import FURTHEST, Spending, boundaries, conditional_power

HORIZON = 336.0


def table(*variants):
    """One epoch: units and conversions of each variant, the control first."""
    return Aggregates.of([[n for n, _ in variants]], [[x for _, x in variants]])


def look(plan, hours, *variants, state=None, **more):
    return take_look(plan, table(*variants), elapsed=hours / HORIZON, hours=hours, state=state, **more)


def codes(result):
    return [reason.code for reason in result.reasons]


PLAN = LookPlan()
AT_DAY_7 = 168.0


# -- verdicts -----------------------------------------------------------------------------------------------


def test_a_clear_winner_ships():
    found = look(PLAN, AT_DAY_7, (20_000, 600), (20_000, 800))
    row = found.challengers[0]
    assert (found.verdict, found.winner, found.leader, found.final) == (Verdict.SHIP, 1, 1, True)
    assert (found.status, codes(found), row.crossed) == ("look", ["crossed"], "up")
    chi = proportions.chi_square([20_000, 20_000], [600, 800]).statistic
    assert row.z**2 * 40_000 / 39_999 == pytest.approx(chi)
    assert found.critical_chi_square == pytest.approx(found.critical**2)
    assert row.z > found.critical == row.critical
    assert row.relative.estimate == pytest.approx(1 / 3)
    assert 0 < row.relative.low < row.stopped.low < row.stopped.estimate
    # with one look before it there is a little selection to take back
    earlier = look(PLAN, 48.0, (6000, 180), (6000, 200))
    second = look(PLAN, AT_DAY_7, (20_000, 600), (20_000, 700), state=earlier.state).challengers[0]
    assert second.stopped.estimate < second.relative.estimate
    assert row.absolute.low < row.absolute.estimate < row.absolute.high
    assert row.p_value < found.alpha_spent < 0.05
    assert row.reason is None


def test_a_loss_keeps_the_control():
    found = look(PLAN, AT_DAY_7, (20_000, 800), (20_000, 600))
    assert (found.verdict, found.winner, found.leader) == (Verdict.KEEP_CONTROL, 0, None)
    assert (codes(found), found.challengers[0].crossed) == (["dropped", "control_wins"], "down")
    assert found.challengers[0].relative.high < 0
    assert found.state.dropped == (AT_DAY_7,)


def test_chance_continues_and_the_horizon_ends():
    going = look(PLAN, AT_DAY_7, (20_000, 600), (20_000, 640))
    assert (going.verdict, going.final, codes(going)) == (Verdict.CONTINUE, False, ["inside"])
    assert going.challengers[0].stopped is None
    over = look(PLAN, HORIZON, (40_000, 1200), (40_000, 1250), state=going.state)
    assert (over.verdict, over.winner, over.leader, over.final) == (Verdict.INCONCLUSIVE, None, 1, True)
    assert codes(over) == ["horizon"]
    assert over.alpha_spent == pytest.approx(0.05)
    stopped = over.challengers[0].stopped
    assert stopped.low < 0 < stopped.estimate < stopped.high


def test_the_planned_sample_ends_it_too():
    plan = LookPlan(planned_units=60_000)
    found = look(plan, AT_DAY_7, (30_000, 900), (30_000, 930))
    assert (found.verdict, found.spending_time, found.alpha_spent) == (Verdict.INCONCLUSIVE, 1, 0.05)
    early = look(plan, 5.0, (30_000, 900), (30_000, 1800))
    assert (early.verdict, early.status, early.alpha_spent) == (Verdict.CONTINUE, "too_early", 0)
    half = look(plan, 84.0, (15_000, 450), (15_000, 460))
    assert half.spending_time == 0.5
    assert spending_time(plan, [30_000, 90_000], [0.7, 0.1]).tolist() == [0.7, 1.0]


def test_names_in_the_reasons():
    found = look(PLAN, AT_DAY_7, (20_000, 600), (20_000, 800), names=["Old", "New"])
    assert found.reasons[0].text == "Beyond the boundary, better than Old: New."


@pytest.mark.parametrize(
    ("gate", "conversions", "verdict"),
    [
        ("not_excluded", 20_600, Verdict.CONTINUE),
        ("not_excluded", 21_500, Verdict.SHIP),
        ("point", 21_500, Verdict.CONTINUE),
        ("point", 22_100, Verdict.SHIP),
        ("proven", 22_100, Verdict.CONTINUE),
        ("proven", 23_500, Verdict.SHIP),
    ],
)
def test_the_ten_percent_rule(gate, conversions, verdict):
    """20,000 of 200,000 against more: significant throughout, but is it worth it?"""
    plan = LookPlan(gate=gate)
    sizes = (200_000, 20_000), (200_000, conversions)
    found = look(plan, AT_DAY_7, *sizes)
    assert found.verdict is verdict
    assert found.challengers[0].crossed == "up"
    if verdict is Verdict.CONTINUE:
        assert "gain_too_small" in codes(found)
        over = look(plan, HORIZON, *sizes)
        assert (over.verdict, over.winner, codes(over)) == (
            Verdict.GAIN_BELOW_MINIMUM,
            None,
            ["gain_too_small", "horizon"],
        )
    assert look(LookPlan(gate=gate, min_uplift=0.001), AT_DAY_7, *sizes).verdict is Verdict.SHIP


def test_the_gate_reads_the_interval_that_is_shown():
    for conversions in range(20_400, 23_600, 400):
        sizes = (200_000, 20_000), (200_000, conversions)
        row = look(PLAN, AT_DAY_7, *sizes).challengers[0]
        ships = {
            gate: look(LookPlan(gate=gate), AT_DAY_7, *sizes).verdict is Verdict.SHIP
            for gate in ("not_excluded", "point", "proven")
        }
        crossed = row.z >= row.critical
        uplift = row.relative
        assert ships == {
            "not_excluded": crossed and uplift.high >= 0.1,
            "point": crossed and uplift.estimate >= 0.1,
            "proven": crossed and uplift.low >= 0.1,
        }


def test_futility_asks_once_a_day_from_the_third():
    plan = LookPlan(futility=True)
    flat = (30_000, 900), (30_000, 880)
    assert look(plan, 71.9, *flat).challengers[0].conditional_power is None
    assert look(plan, 72.0, *flat).challengers[0].conditional_power > 0.1
    found = look(plan, 240.0, *flat)
    assert (found.verdict, found.winner, codes(found)) == (Verdict.NO_PRACTICAL_GAIN, None, ["futile"])
    assert found.challengers[0].conditional_power < 0.1
    assert look(LookPlan(), 240.0, *flat).verdict is Verdict.CONTINUE
    patient = LookPlan(futility=True, futility_power=1e-9)
    assert look(patient, 240.0, *flat).verdict is Verdict.CONTINUE
    bold = LookPlan(futility=True, mde=0.3)
    assert look(bold, 240.0, *flat).challengers[0].conditional_power > found.challengers[0].conditional_power


def test_what_is_to_come_is_told_by_the_visitors_whose_window_is_over():
    """All exposed ones have converted less than they will: they tell how far it is, not how much is left."""
    plan = LookPlan(futility=True)
    exposed, mature = ((30_000, 700), (30_000, 690)), table((20_000, 600), (20_000, 592))
    hours, share = np.array([600.0, 592.0]), 1 / 3

    def asked(part):
        maturity = Maturity(mature, part, hours / 10, hours, 2 * hours)
        return look(plan, AT_DAY_7, *exposed, maturity=maturity).challengers[0]

    row = asked(share)
    now = take_look(LookPlan(), table(*exposed), elapsed=0.5, hours=AT_DAY_7).information
    final = float(compare(mature, np.ones(1)).information) / share
    drift = (row.z - combined_z(table(*exposed).pair(1), np.ones(1), plan.mde)) / math.sqrt(now)
    chance = conditional_power(row.z * math.sqrt(now), now, final, last_critical(plan.spending, 0.05), drift)
    assert row.conditional_power == pytest.approx(float(chance), rel=1e-9)
    assert final > 1.05 * now / ((0.5 + share) / 2)
    assert asked(0.25).conditional_power > row.conditional_power  # more is to come
    early = conditional_power(
        row.z * math.sqrt(now), now, now / 0.25, last_critical(plan.spending, 0.05), drift
    )
    assert asked(0.0).conditional_power == pytest.approx(float(early), rel=1e-9)  # nothing is mature yet


def test_hope_lost_within_a_day_waits_for_the_next():
    plan = LookPlan(futility=True)
    hopeful = look(plan, 240.0, (30_000, 900), (30_000, 970))
    assert hopeful.verdict is Verdict.CONTINUE
    assert hopeful.challengers[0].conditional_power > 0.1
    hopeless, later = ((33_000, 1000), (33_000, 960)), hopeful
    for hours in (241.0, 252.0, 263.9):
        grown = [(n + 10 * hours, x + hours / 4) for n, x in hopeless]
        later = look(plan, hours, *grown, state=later.state)
        assert (later.status, later.verdict, codes(later)) == ("look", Verdict.CONTINUE, ["inside"])
        assert later.challengers[0].conditional_power is None
        assert codes(look(plan, hours, *grown)) == ["futile"]  # the first look of its day would have stopped
    tomorrow = look(plan, 264.0, *((n + 3000, x + 80) for n, x in hopeless), state=later.state)
    assert (tomorrow.status, codes(tomorrow)) == ("look", ["futile"])


@pytest.mark.parametrize("first_day", [0, 3, 4])
def test_futility_is_asked_at_the_first_look_of_each_day(first_day):
    plan = LookPlan(futility=True, futility_power=1e-12, futility_from_day=first_day)
    found = hourly(plan, 124, np.random.default_rng(4), store=True)
    asked = [hour for hour, r in enumerate(found, 1) if r.challengers[0].conditional_power is not None]
    assert asked == [24 * day for day in range(max(first_day, 1), 6)]  # no look is taken before hour 24
    nightly, state = [], None
    for hours in (90, 91, 118, 119, 150, 336):  # cycles that were missed: days begin with another hour
        sizes = (hours * 80, hours * 4), (hours * 80, hours * 4 + 1)
        result = look(plan, float(hours), *sizes, state=state)
        assert result.status == "look"
        state = result.state
        nightly += [hours] * (result.challengers[0].conditional_power is not None)
    assert nightly == [hours for hours in (90, 118, 150) if hours >= 24 * first_day]  # never at the last


def test_a_veto_forbids_a_winner_and_costs_the_look():
    sizes = (20_000, 600), (20_000, 800)
    found = look(PLAN, AT_DAY_7, *sizes, veto="The split is broken.")
    assert (found.verdict, found.winner, codes(found)) == (Verdict.INVALID, None, ["veto"])
    quiet = look(PLAN, AT_DAY_7, (20_000, 600), (20_000, 620), veto="The split is broken.")
    assert (quiet.verdict, quiet.alpha_spent > 0) == (Verdict.CONTINUE, True)
    over = look(PLAN, HORIZON, (20_000, 600), (20_000, 620), veto="The split is broken.")
    assert (over.verdict, over.reasons[0].text) == (Verdict.INVALID, "The split is broken.")


def test_a_hundred_visitors_each():
    found = look(PLAN, AT_DAY_7, (2000, 20), (99, 40))
    assert (found.verdict, codes(found)) == (Verdict.CONTINUE, ["too_few"])
    assert found.challengers[0].crossed is None
    assert look(LookPlan(min_units=50), AT_DAY_7, (2000, 20), (99, 40)).verdict is Verdict.SHIP
    assert look(PLAN, HORIZON, (2000, 20), (99, 40)).verdict is Verdict.INCONCLUSIVE


# -- several challengers ------------------------------------------------------------------------------------


def test_alpha_is_shared_and_raised_when_one_drops_out():
    plan, sizes = LookPlan(), [(20_000, 600), (20_000, 640), (20_000, 450)]
    found = look(plan, AT_DAY_7, *sizes)
    kept, beaten = found.challengers
    assert (kept.active, beaten.active, beaten.crossed) == (True, False, "down")
    assert found.verdict is Verdict.CONTINUE
    whole, half = (look(replace(plan, alpha=a), AT_DAY_7, *sizes[:2]).critical for a in (0.05, 0.025))
    # the clock is common, so levels differ from those of a pair alone by next to nothing
    assert found.critical == pytest.approx(half, abs=1e-6)
    assert kept.critical == pytest.approx(whole, abs=1e-6)
    assert beaten.critical == pytest.approx(half, abs=1e-6)
    later = look(plan, 200.0, (23_000, 690), (23_000, 900), (20_000, 450), state=found.state)
    assert (later.verdict, later.winner) == (Verdict.SHIP, 1)
    assert (later.challengers[1].active, later.challengers[1].critical) == (False, None)
    assert later.challengers[1].reason == "dropped at an earlier look"
    assert later.state.dropped == (None, AT_DAY_7)


def test_the_best_of_those_that_crossed_wins():
    found = look(PLAN, AT_DAY_7, (20_000, 600), (20_000, 800), (20_000, 830))
    assert (found.verdict, found.winner, found.leader) == (Verdict.SHIP, 2, 2)
    p = found.challengers[0].p_value
    assert 0 < found.challengers[1].p_value < p


@pytest.mark.parametrize("challengers", [1, 2, 3])
def test_p_of_several_challengers_at_one_look(challengers):
    """One look at the end is the plain test, its p times the challengers; 1 is the most a p can be."""
    converted = [345, 310, 301][:challengers]
    found = look(PLAN, HORIZON, (10_000, 300), *((10_000, x) for x in converted))
    plain = [2 * norm.sf(abs(row.z)) for row in found.challengers]
    assert [row.p_value for row in found.challengers] == pytest.approx(
        [min(1, challengers * p) for p in plain], rel=1e-9
    )
    assert (found.challengers[-1].p_value == 1) == (challengers > 1)
    for row in found.challengers:
        assert (row.stopped.low, row.stopped.high) == pytest.approx((row.relative.low, row.relative.high))
        assert row.critical == pytest.approx(norm.isf(0.025 / challengers))


@pytest.mark.parametrize("challengers", [1, 2, 3])
def test_p_of_several_challengers_at_a_second_look(challengers):
    """Against two-dimensional normal integrals: crossing at either look, times the challengers."""
    plan = LookPlan(spending=Spending("pocock"))
    half = [(10_000, 300 + k) for k in range(challengers + 1)]
    first = look(plan, AT_DAY_7, *half)
    over = look(plan, HORIZON, *((2 * n, 2 * x + 40 * k) for k, (n, x) in enumerate(half)), state=first.state)
    overlap = math.sqrt(first.information / over.information)
    early = first.critical
    assert norm.sf(early) * 2 * challengers == pytest.approx(first.alpha_spent)
    pair = multivariate_normal(cov=[[1, overlap], [overlap, 1]])
    for row in over.challengers:
        inside = pair.cdf([early, -row.z]) - pair.cdf([-early, -row.z])
        assert row.p_value == pytest.approx(2 * challengers * (norm.sf(early) + inside), rel=1e-4)


@pytest.mark.parametrize("challengers", [1, 2, 3])
def test_p_boundary_and_interval_of_several_challengers_say_the_same(challengers):
    """Beyond the boundary, p at most alpha, the interval above 0: for one more conversion all at once."""
    plan = LookPlan(spending=Spending("pocock"), min_uplift=0.001)
    half = [(10_000, 300)] * (challengers + 1)
    state = look(plan, AT_DAY_7, *half).state
    crossed = 0
    for converted in range(650, 730):
        sizes = (20_000, 600), *[(20_000, 601)] * (challengers - 1), (20_000, converted)
        row = look(plan, HORIZON, *sizes, state=state).challengers[-1]
        says = {row.z >= row.critical, row.p_value <= 0.05, row.stopped.low > 0, row.relative.low > 0}
        assert len(says) == 1
        crossed += row.crossed == "up"
    assert 10 < crossed < 70


def test_p_goes_with_the_level_that_holm_has_reached():
    """Of three, one is out at once: it was tested among three, the others among two, now and later."""
    plan, sizes = LookPlan(), [(20_000, 600), (20_000, 640), (20_000, 620), (20_000, 430)]
    found = look(plan, AT_DAY_7, *sizes)
    plain = [2 * norm.sf(abs(row.z)) for row in found.challengers]
    factors = [row.p_value / p for row, p in zip(found.challengers, plain, strict=True)]
    assert [row.active for row in found.challengers] == [True, True, False]
    assert factors[2] == pytest.approx(3, rel=1e-6)
    assert factors[:2] == pytest.approx([2, min(2, 1 / plain[1])], rel=1e-6)
    grown = [(n + 1000, x + 30) for n, x in sizes[:3]]
    later = look(plan, 200.0, *grown, sizes[3], state=found.state)
    alone = look(plan, 200.0, *grown, state=look(plan, AT_DAY_7, *sizes[:3]).state)
    for among_three, among_two in zip(later.challengers[:2], alone.challengers, strict=True):
        assert (among_three.p_value, among_three.critical) == pytest.approx(
            (among_two.p_value, among_two.critical),
            rel=0.01,  # the clock is common, a little of the third pair is in it
        )
    assert later.challengers[2].p_value is None
    same = look(plan, 201.0, *grown, sizes[3], state=later.state)
    assert (same.status, [row.active for row in same.challengers]) == ("nothing_new", [True, True, False])


def test_no_p_value_is_above_1():
    sizes = (20_000, 600), (20_000, 601), (20_000, 599), (20_000, 600)
    plan = replace(PLAN, acting_bounds=True)
    for asked in (PLAN, plan):
        assert [row.p_value for row in look(asked, HORIZON, *sizes).challengers] == [1.0, 1.0, 1.0]


def test_a_veto_changes_no_number_of_several_challengers():
    sizes = (20_000, 600), (20_000, 640), (20_000, 560)
    free, held = (look(PLAN, AT_DAY_7, *sizes, veto=veto) for veto in (None, "The split is broken."))
    assert free.challengers == held.challengers
    assert free.challengers[0].critical == free.critical


def test_futility_of_several_challengers():
    """Each has the chance that it would have alone at its part of alpha; all must have lost theirs."""
    plan = LookPlan(futility=True)
    control, hopeful, hopeless = (30_000, 900), (30_000, 970), (30_000, 880)
    found = look(plan, 240.0, control, hopeless, hopeful, hopeful)
    alone = [look(replace(plan, alpha=0.05 / 3), 240.0, control, one) for one in (hopeless, hopeful)]
    chances = [row.conditional_power for row in found.challengers]
    assert chances[:2] == pytest.approx([one.challengers[0].conditional_power for one in alone])
    assert (found.verdict, chances[0] < 0.1 < chances[1]) == (Verdict.CONTINUE, True)
    assert codes(look(plan, 240.0, control, hopeless, hopeless)) == ["futile"]
    out = replace(LookState.start(2), dropped=(None, 30.0))
    later = look(plan, 240.0, control, hopeless, hopeful, state=out)  # who is out has no say
    assert codes(later) == ["futile"]
    assert later.challengers[0].conditional_power == pytest.approx(
        look(plan, 240.0, control, hopeless).challengers[0].conditional_power
    )


def test_holm_in_every_order():
    critical = np.array([2.0, 2.3, 2.5])
    all_in = np.ones(3, bool)
    none = step_down(np.array([2.4, -2.4, 0.0]), all_in, critical)
    assert (int(none.winner), none.active.tolist(), none.divisor.tolist()) == (-1, [True] * 3, [3] * 3)
    chain = step_down(np.array([2.1, -2.6, -2.4]), all_in, critical)
    assert (int(chain.winner), chain.active.tolist(), chain.divisor.tolist()) == (
        0,
        [True, False, False],
        [1, 3, 2],
    )
    beaten = step_down(np.array([-2.1, -2.6, -2.4]), all_in, critical)
    assert not beaten.active.any()
    both = step_down(np.array([2.6, -2.6, 2.7]), all_in, critical)
    assert int(both.winner) == 2
    out = step_down(np.array([9.0, 1.0, 1.0]), np.array([False, True, True]), critical)
    assert int(out.winner) == -1
    held = step_down(np.array([2.6, 0, 0]), all_in, critical, np.array([-2.6, 0, 0]), -1.0)
    assert (int(held.winner), held.blocked.tolist()) == (-1, [True, False, False])
    many = step_down(np.array([[2.6, 0, 0], [0, 0, 0]]), np.ones((2, 3), bool), critical)
    assert many.winner.tolist() == [0, -1]


# -- state --------------------------------------------------------------------------------------------------


def hourly(plan, until, rng, *, store=False):
    """Hourly looks at one experiment without effect, state kept or stored; all results."""
    n, x, state, found = np.zeros((1, 2)), np.zeros((1, 2)), None, []
    for hour in range(1, until + 1):
        n += 80
        x += rng.binomial(80, 0.05, 2)
        result = take_look(plan, Aggregates.of(n, x), elapsed=hour / HORIZON, hours=hour, state=state)
        state, _ = result.state, found.append(result)
        if store:
            state = LookState.from_json(json.loads(json.dumps(state.as_json())))
    return found


def test_hourly_looks_are_the_boundary_of_the_whole_schedule():
    found = hourly(PLAN, 60, np.random.default_rng(1))
    taken = [r for r in found if r.status == "look"]
    assert [r.status for r in found[:23]] == ["too_early"] * 23
    assert len(taken) == 37
    information = [r.information for r in taken]
    judge = boundaries(information, spending_time=np.arange(24, 61) / HORIZON)
    assert [r.critical for r in taken] == pytest.approx(judge, abs=1e-9)
    spent = float(Spending().spent(60 / HORIZON, 0.05))
    assert taken[-1].alpha_spent == pytest.approx(spent)


def test_storing_the_state_changes_nothing():
    kept, stored = (hourly(PLAN, 40, np.random.default_rng(2), store=s) for s in (False, True))
    assert [r.as_json() for r in kept] == [r.as_json() for r in stored]


def test_a_look_is_repeated_from_the_rewound_state():
    found = hourly(PLAN, 48, np.random.default_rng(3))
    last, state = found[-1], found[-1].state
    again = state.rewind(30.0)
    assert again.hours == tuple(float(h) for h in range(24, 30))
    assert again.paths[0].mass == pytest.approx(found[28].state.paths[0].mass, rel=1e-9)
    assert state.rewind(24.0) == LookState.start(1, bounds=False)
    ended = replace(state, ended=True, dropped=(48.0,))
    assert ended.rewind(48.0).active == (True,)
    assert not ended.rewind(48.0).ended
    watched = replace(state, late=30.0)
    assert (watched.rewind(30.0).late, watched.rewind(30.5).late) == (None, 30.0)
    n = np.full((1, 2), 80.0 * 48)
    totals = Aggregates.of(n, [[190, 200]])
    once, twice = (
        take_look(PLAN, totals, elapsed=48 / HORIZON, hours=48, state=s)
        for s in (found[-2].state, state.rewind(48.0))
    )
    assert once.critical == pytest.approx(twice.critical, abs=1e-9)
    assert last.critical == pytest.approx(once.critical, abs=0.2)


def test_the_same_data_make_no_new_look():
    first = look(PLAN, 48.0, (20_000, 600), (20_000, 640))
    again = look(PLAN, 49.0, (20_000, 600), (20_000, 640), state=first.state)
    assert (again.status, again.verdict, again.critical) == ("nothing_new", Verdict.CONTINUE, None)
    assert again.state == first.state
    assert again.challengers[0].z == first.challengers[0].z
    over = look(PLAN, HORIZON, (20_000, 600), (20_000, 640), state=first.state)
    assert (over.status, over.verdict) == ("look", Verdict.INCONCLUSIVE)


def test_results_are_json():
    for variants in (((20_000, 600), (20_000, 800)), ((0, 0), (0, 0)), ((500, 0), (500, 20))):
        for hours in (5.0, AT_DAY_7, HORIZON):
            text = json.dumps(look(PLAN, hours, *variants).as_json(), allow_nan=False)
            assert {"verdict", "critical_chi_square", "alpha_spent", "challengers"} <= json.loads(text).keys()
            assert "state" not in json.loads(text)


def test_elapsed_never_goes_back():
    """Whether a look was taken in between or not, and through the store; a rewound state has no last look."""
    first = look(PLAN, AT_DAY_7, (20_000, 600), (20_000, 640))
    kept = look(PLAN, 169.0, (20_000, 600), (20_000, 640), state=first.state)
    assert kept.status == "nothing_new"
    more = table((22_000, 660), (22_000, 700))
    for state in (
        first.state,
        kept.state,
        LookState.from_json(json.loads(json.dumps(first.state.as_json()))),
    ):
        with pytest.raises(InvalidInput, match=r"elapsed is 0\.49 after 0\.5") as caught:
            take_look(PLAN, more, elapsed=0.49, hours=170, state=state)
        assert caught.value.field == "elapsed"
        for elapsed in (0.5 - 1e-12, 0.5, 0.51):
            assert take_look(PLAN, more, elapsed=elapsed, hours=170, state=state).status == "look"
    again = take_look(PLAN, more, elapsed=0.49, hours=168, state=first.state.rewind(168))
    assert again.status == "look"
    of_an_earlier_version = {k: v for k, v in first.state.as_json().items() if k != "elapsed"}
    older = LookState.from_json(of_an_earlier_version)
    assert take_look(PLAN, more, elapsed=0.5, hours=170, state=older).status == "look"


def test_visitors_who_are_forgotten_give_no_alpha_back():
    """The planned sample shrinks between looks: nothing more may be spent until it is reached again."""
    plan = LookPlan(planned_units=100_000)
    first = look(plan, 100.0, (30_000, 900), (30_000, 930))
    fewer = look(plan, 101.0, (29_000, 905), (29_000, 1150), state=first.state)
    assert (first.spending_time, fewer.spending_time, fewer.status) == (0.6, 0.58, "look")
    assert (fewer.critical, fewer.alpha_spent) == (FURTHEST, first.alpha_spent)
    assert (fewer.verdict, fewer.challengers[0].z > 5) == (Verdict.CONTINUE, True)


def test_an_ended_experiment_takes_no_more_looks():
    over = look(PLAN, HORIZON, (20_000, 600), (20_000, 640))
    with pytest.raises(Conflict, match="has ended this experiment"):
        look(PLAN, HORIZON, (20_000, 600), (20_000, 640), state=over.state)


# -- days and means -----------------------------------------------------------------------------------------


def test_days_are_combined_with_their_planned_weights():
    plan = LookPlan(weights=(0.25, 0.5, 0.25))
    units = [[1000, 1000], [3000, 1000], [0, 0]]
    total = [[100, 130], [90, 50], [0, 0]]
    found = take_look(plan, Aggregates.of(units, total), elapsed=0.5, hours=36)
    z = [
        math.sqrt(proportions.chi_square(n, x).statistic * (sum(n) - 1) / sum(n))
        for n, x in zip(units[:2], total[:2], strict=True)
    ]
    b = math.sqrt(0.25) * z[0] + math.sqrt(0.25) * z[1]
    assert found.challengers[0].z == pytest.approx(b / math.sqrt(0.5))
    assert (found.information, found.spending_time) == (0.5, 0.5)
    judge = proportions.mantel_haenszel([1000, 3000], [100, 90], [1000, 1000], [130, 50])
    assert found.challengers[0].relative.estimate == pytest.approx(judge.risk_ratio - 1)
    uneven = take_look(
        replace(plan, weights=(0.4, 0.2, 0.4)), Aggregates.of(units, total), elapsed=0.5, hours=36
    )
    assert uneven.challengers[0].z != pytest.approx(found.challengers[0].z, abs=1e-3)


def test_simpson_is_not_fooled():
    """The pooled table says that A loses; day by day it wins."""
    data = Aggregates.of([[1000, 1000], [200, 1800]], [[200, 250], [8, 90]])
    found = take_look(LookPlan(weights=(0.5, 0.5)), data, elapsed=1, hours=336)
    assert (found.verdict, found.winner) == (Verdict.SHIP, 1)
    pooled = take_look(LookPlan(), Aggregates.of([[1200, 2800]], [[208, 340]]), elapsed=1, hours=336)
    assert pooled.verdict is Verdict.KEEP_CONTROL


def means(*moments, units=8000):
    """One epoch of a mean metric: mean and standard deviation of each variant, the control first."""
    mean, sd = np.array(moments, float).T
    return Aggregates.of([[units] * len(mean)], [units * mean], [units * (mean**2 + sd**2)])


def at_half(*moments, **plan):
    return take_look(LookPlan(**plan), means(*moments), elapsed=0.5, hours=168)


def test_a_mean_metric():
    rng = np.random.default_rng(5)
    control, variant = rng.gamma(1, 10, 8000), rng.gamma(1, 11, 8000)
    sums = [[[f(v) for v in (control, variant)]] for f in (len, np.sum, lambda v: np.sum(v**2))]
    found = take_look(LookPlan(), Aggregates.of(*sums), elapsed=0.5, hours=168)
    row = found.challengers[0]
    assert (found.verdict, found.winner) == (Verdict.SHIP, 1)
    assert row.absolute.estimate == pytest.approx(variant.mean() - control.mean())
    assert row.relative.low < variant.mean() / control.mean() - 1 < row.relative.high


@pytest.mark.parametrize("gate", ["not_excluded", "point", "proven"])
@pytest.mark.parametrize("control", [-5, -1, -0.01, 0, 0.01, 0.2])
def test_no_gain_in_per_cent_of_a_mean_that_is_not_above_0(gate, control):
    """However much better the challenger is: the difference is told with its interval, and nothing ships."""
    for final in (False, True):
        elapsed, hours = (1, HORIZON) if final else (0.5, 168)
        data = means((control, 10), (control + 1, 10))
        found = take_look(LookPlan(gate=gate), data, elapsed=elapsed, hours=hours)
        (row,) = found.challengers
        ends = ["horizon"] if final else ["inside"]
        assert found.verdict is (Verdict.INCONCLUSIVE if final else Verdict.CONTINUE)
        assert (found.winner, row.crossed, codes(found)) == (None, "up", ["gain_untold", *ends])
        assert "the control's mean is not clearly above 0" in found.reasons[0].text
        assert row.reason == "no gain in per cent: the control's mean is not clearly above 0"
        assert 0 < row.absolute.low < 1 < row.absolute.high
        assert row.relative.high is None
        if control <= 0:
            assert row.relative == Effect()
            assert row.stopped == (Effect() if final else None)
            assert found.leader is None


def test_a_mean_that_is_clearly_above_0_ships_with_an_interval():
    """From as many standard errors on as the boundary has: there the interval's upper end closes."""
    shipped = []
    for tenths in range(1, 12):
        found = at_half((tenths / 10, 10), (tenths / 10 + 1, 10))
        (row,) = found.challengers
        clear = tenths / 10 / (10 / math.sqrt(8000)) > row.critical
        assert (row.relative.high is not None) == (row.reason is None) == clear
        assert (found.verdict is Verdict.SHIP) == clear
        assert row.stopped is None or row.stopped.low < row.stopped.estimate < row.stopped.high
        shipped.append(clear)
    assert shipped == sorted(shipped)
    assert {True, False} == set(shipped)


def test_a_loss_of_a_mean_is_a_loss_whatever_its_sign():
    for control, challenger in ((-5, -6), (0.1, -1), (5, -1)):
        found = at_half((control, 10), (challenger, 10))
        (row,) = found.challengers
        assert (found.verdict, found.winner, row.crossed) == (Verdict.KEEP_CONTROL, 0, "down")
        assert row.absolute.high < 0
        assert (row.relative.low, row.relative.high) == (None, None)
        assert (row.stopped.low, row.stopped.high) == (None, None)


def test_futility_is_not_asked_of_a_mean_that_is_not_above_0():
    hopeless = at_half((5, 10), (4.7, 10), futility=True)
    assert codes(hopeless) == ["futile"]
    below = at_half((-5, 10), (-5.3, 10), futility=True)
    assert (codes(below), below.challengers[0].conditional_power) == (["inside"], None)


def test_of_several_means_the_control_decides():
    """One control, so all or none; beside a gain that is too small nothing is said of signs."""
    found = at_half((-5, 10), (-4, 10), (-5.5, 10))
    assert [row.reason is None for row in found.challengers] == [False, False]
    assert codes(found) == ["dropped", "gain_untold", "inside"]
    mean = 2.86 * 10 / math.sqrt(8000)  # above 0 beyond the line of one challenger, not beyond that of two
    for others, verdict in ((), Verdict.SHIP), (((mean, 10),), Verdict.CONTINUE):
        assert at_half((mean, 10), (mean + 1, 10), *others).verdict is verdict
    small = take_look(LookPlan(min_uplift=0.5), means((50, 10), (51, 10)), elapsed=1, hours=HORIZON)
    assert (small.verdict, codes(small)) == (Verdict.GAIN_BELOW_MINIMUM, ["gain_too_small", "horizon"])


# -- nothing silently ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variants", "text"),
    [
        (((0, 0), (0, 0)), "No counted visitor yet of: the control, challenger 1."),
        (((500, 20), (0, 0)), "No counted visitor yet of: challenger 1."),
        (((500, 0), (500, 0)), "All visitors so far did the same"),
        (((500, 500), (500, 500)), "All visitors so far did the same"),
    ],
)
def test_without_information_there_is_no_number(variants, text):
    found = look(PLAN, AT_DAY_7, *variants)
    row = found.challengers[0]
    assert (found.verdict, found.status, found.alpha_spent) == (Verdict.CONTINUE, "no_information", 0)
    assert row.z is row.p_value is row.critical is None
    assert text in row.reason
    over = look(PLAN, HORIZON, *variants)
    assert (over.verdict, over.final, codes(over)) == (
        Verdict.INCONCLUSIVE,
        True,
        ["no_information", "horizon"],
    )


def test_one_look_at_the_horizon_is_the_plain_test():
    just, short = (look(PLAN, HORIZON, (10_000, 300), (10_000, x)) for x in (360, 345))
    assert just.critical == pytest.approx(1.959964, abs=1e-6)
    assert (just.verdict, short.verdict) == (Verdict.SHIP, Verdict.INCONCLUSIVE)
    assert just.challengers[0].p_value == pytest.approx(0.017548, abs=4e-6)


def test_everybody_of_one_variant_converted():
    found = look(PLAN, AT_DAY_7, (500, 0), (500, 500))
    assert (found.verdict, found.challengers[0].relative.estimate) == (Verdict.SHIP, None)
    assert found.challengers[0].relative.high is None
    assert found.challengers[0].absolute.estimate == 1


@pytest.mark.parametrize(
    "field", ["alpha", "spending", "min_hours", "min_units", "planned_units", "mde", "min_uplift"]
)
def test_every_part_of_the_plan_changes_an_answer(field):
    other = {
        "alpha": 0.1,
        "spending": Spending("pocock"),
        "min_hours": 200.0,
        "min_units": 30_000,
        "planned_units": 50_000,
        "mde": 0.02,
        "min_uplift": 0.6,
    }
    base = LookPlan(futility=True)
    changed = replace(base, **{field: other[field]})
    sizes = ((20_000, 600), (20_000, 640)) if field == "mde" else ((20_000, 600), (20_000, 780))
    assert look(base, AT_DAY_7, *sizes).as_json() != look(changed, AT_DAY_7, *sizes).as_json()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LookPlan(alpha=1.5), "alpha is 1.5: give a number between 0 and 1"),
        (lambda: LookPlan(weights=(0.5, 0.4)), "summing to 1"),
        (lambda: LookPlan(gate="maybe"), "gate is 'maybe': choose from not_excluded, point, proven"),
        (lambda: LookPlan(mde=0), "mde is 0"),
        (lambda: LookPlan(min_uplift=-1), "min_uplift is -1"),
        (lambda: LookPlan(min_units=-1), "min_units is -1"),
        (lambda: LookPlan(min_hours=math.nan), "min_hours is nan"),
        (lambda: LookPlan(planned_units=0), "planned_units is 0"),
        (lambda: LookPlan(futility_power=2), "futility_power is 2"),
        (lambda: table((10, 11), (10, 1)), "more conversions than units"),
        (lambda: table((10, -1), (10, 1)), "total has a negative number or NaN"),
        (lambda: table((math.nan, 1), (10, 1)), "units has a negative number or NaN"),
        (lambda: table(("many", 1), (10, 1)), "give numbers"),
        (lambda: table((10, 1)), "at least 2 variants"),
        (lambda: Aggregates.of([[10, 10]], [[1], [1]]), "shapes are"),
        (lambda: Aggregates.of([[10, 10]], [[9, 9]], [[1, 9]]), "squares are too small"),
        (lambda: Aggregates.of([[10, 10]], [[9, 9]], [[-1, 9]]), "squares has a negative"),
        (lambda: look(PLAN, 400.0, (10, 1), (10, 1)), "elapsed is 1.19"),
        (lambda: look(PLAN, -5.0, (10, 1), (10, 1)), "elapsed is -0.0"),
        (lambda: take_look(PLAN, table((10, 1), (10, 1)), elapsed=0.5, hours=math.nan), "hours is nan"),
        (
            lambda: look(LookPlan(weights=(0.5, 0.5)), 48.0, (10, 1), (10, 1)),
            "one row for each of the plan's 2",
        ),
        (
            lambda: look(PLAN, 48.0, (10, 1), (10, 1), (10, 1), state=LookState.start(1)),
            "state is of 1 challenger",
        ),
        (
            lambda: look(PLAN, 47.0, (900, 9), (900, 9), state=look(PLAN, 48.0, (900, 9), (900, 9)).state),
            "hours is 47 after 48: give looks in order, or rewind",
        ),
        (
            lambda: take_look(
                PLAN,
                table((900, 9), (900, 9)),
                elapsed=0.3,
                hours=170,
                state=look(PLAN, AT_DAY_7, (900, 9), (900, 9)).state,
            ),
            "elapsed is 0.3 after 0.5: give looks in order, or rewind",
        ),
        (lambda: LookState.from_json({"paths": []}), "stored state cannot be read"),
        (
            lambda: LookState.from_json({**LookState.start(1).as_json(), "hours": [24]}),
            "stored state is inconsistent",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()
