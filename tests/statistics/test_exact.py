"""The exact test: one look against scipy's, many looks against simulated programmes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from cro_core.errors import InvalidInput
from cro_core.statistics.arrays import Floats, Ints
from cro_core.statistics.exact import State, adjusted_p, decides, exact_p, step, uplift
from cro_core.statistics.sequential import Spending, boundaries

LOOKS = 14
TIMES = np.arange(1, LOOKS + 1) / LOOKS
ALLOWED = Spending().spent(TIMES, 0.025)
CRITICAL = boundaries(TIMES)


def programmes(count: int, arm: int, share: float, ratio: float = 1.0, seed: int = 3) -> tuple[Ints, Ints]:
    """Conversions of the pair and of the challenger at each look; the smaller arm expects ``arm``."""
    rng = np.random.default_rng(seed)
    larger = arm * max(share, 1 - share) / min(share, 1 - share)
    control, challenger = (arm, larger) if share > 0.5 else (larger, arm)
    x0 = rng.poisson(control / LOOKS, (count, LOOKS)).cumsum(-1)
    x1 = rng.poisson(ratio * challenger / LOOKS, (count, LOOKS)).cumsum(-1)
    return x0 + x1, x1


def exact_wins(total: Ints, mine: Ints, share: float, side: str = "up") -> float:
    """Part of the programmes that the exact test ends on one side."""
    wins = 0
    for totals, conversions in zip(total.tolist(), mine.tolist(), strict=True):
        state = State(share)
        for t, x, allowed in zip(totals, conversions, ALLOWED, strict=True):
            state = step(state, t, float(allowed))
            if state.crossed(x) is not None:
                wins += state.crossed(x) == side
                break
    return wins / len(total)


def chi_square_wins(total: Ints, mine: Ints, share: float) -> float:
    """The same by a normal statistic on the boundary of the same spending."""
    with np.errstate(invalid="ignore"):
        z: Floats = (mine - share * total) / np.sqrt(total * share * (1 - share))
    up, down = z >= CRITICAL, z <= -CRITICAL
    first = np.where(up.any(-1), up.argmax(-1), LOOKS), np.where(down.any(-1), down.argmax(-1), LOOKS)
    return float((first[0] < first[1]).mean())


@pytest.mark.parametrize("share", [0.5, 0.3, 0.7])
@pytest.mark.parametrize(("conversions", "total"), [(0, 0), (0, 5), (7, 7), (3, 10), (20, 31), (5, 60)])
def test_one_look_is_the_binomial_test(conversions: int, total: int, share: float) -> None:
    tails = [
        stats.binomtest(conversions, total, share, alternative=side).pvalue if total else 1.0
        for side in ("less", "greater")
    ]
    assert exact_p(conversions, total, share) == pytest.approx(min(1, 2 * min(tails)), rel=1e-9)
    assert adjusted_p(State(share), conversions, total) == pytest.approx(min(1, 2 * min(tails)), rel=1e-9)


def test_one_look_at_the_end_rejects_where_the_p_value_says_so() -> None:
    for share in (0.5, 0.3):
        state = step(State(share), 25, 0.025)
        said = [state.crossed(x) is not None for x in range(26)]
        assert said == [exact_p(x, 25, share) <= 0.05 for x in range(26)]
        assert [state.crossed(x) for x in (0, 25)] == ["down", "up"]


def test_what_did_not_fit_is_carried_over() -> None:
    """Two conversions can never be cut at .04; at the next look there is more to spend."""
    first = step(State(0.5), 2, 0.2)
    assert (first.low, first.high, first.spent_high) == ((-1,), (3,), 0)
    second = step(first, 2, 0.3)
    assert (second.low[-1], second.high[-1], second.spent_high) == (0, 2, 0.25)
    third = step(second, 3, 0.3)
    assert third.spent_high == 0.25  # of 3 more than .05 have three conversions: 1/8 of what is left
    assert third.high[-1] == 3  # impossible now for a path that had not crossed
    assert third.upper == pytest.approx([0.125, 0.375, 0.25, 0.0])


def test_the_p_value_is_at_most_what_was_allowed_exactly_where_a_look_crosses() -> None:
    total, mine = programmes(200, 20, 0.3)
    for totals, conversions in zip(total.tolist(), mine.tolist(), strict=True):
        state = State(0.3)
        for t, x, allowed in zip(totals, conversions, ALLOWED, strict=True):
            p, state = adjusted_p(state, x, t), step(state, t, float(allowed))
            assert (p <= 2 * allowed + 1e-9) == (state.crossed(x) is not None)
            if state.crossed(x) is not None:
                break


@pytest.mark.parametrize("share", [0.5, 0.3])
@pytest.mark.parametrize("arm", [5, 10, 20, 60])
def test_false_wins_stay_below_half_of_alpha(arm: int, share: float) -> None:
    total, mine = programmes(3_000, arm, share)
    allowed = 0.025 + 3 * math.sqrt(0.025 * 0.975 / 3_000)
    assert exact_wins(total, mine, share) <= allowed
    assert exact_wins(total, mine, share, "down") <= allowed


def test_where_it_decides_the_chi_square_would_find_too_many() -> None:
    total, mine = programmes(40_000, 10, 0.3)
    assert chi_square_wins(total, mine, 0.3) > 0.03


@pytest.mark.parametrize(("arm", "ratio", "loss"), [(10, 2.0, 0.1), (30, 1.7, 0.04), (60, 1.5, 0.04)])
def test_its_price_in_power(arm: int, ratio: float, loss: float) -> None:
    total, mine = programmes(2_000, arm, 0.5, ratio)
    exact, chi_square = exact_wins(total, mine, 0.5), chi_square_wins(total, mine, 0.5)
    assert 0.3 < exact <= chi_square <= exact + loss + 0.01


@pytest.mark.parametrize(("conversions", "total", "share"), [(20, 31, 0.5), (3, 10, 0.3), (24, 31, 0.3)])
def test_one_look_has_the_interval_of_clopper_and_pearson(conversions: int, total: int, share: float) -> None:
    found = uplift(State(share), conversions, total, 0.05)
    part = stats.binomtest(conversions, total, share).proportion_ci(0.95)
    odds = [p / (1 - p) * (1 - share) / share - 1 for p in (part.low, part.high)]
    assert (found.low, found.high) == pytest.approx(odds, rel=1e-6)
    assert found.estimate is not None
    assert found.low < found.estimate < odds[1]
    observed = conversions / (total - conversions) * (1 - share) / share - 1
    assert found.estimate == pytest.approx(observed, abs=0.1 * (odds[1] - odds[0]))


def test_an_arm_without_conversions_sets_no_bound() -> None:
    none, every = uplift(State(0.3), 0, 8, 0.05), uplift(State(0.3), 8, 8, 0.05)
    assert (none.estimate, none.low, every.estimate, every.high) == (-1, -1, None, None)
    assert none.high is not None
    assert none.high > 0
    assert every.low > 0
    nothing = uplift(State(0.3), 0, 0, 0.05)
    assert (nothing.estimate, nothing.low, nothing.high) == (None, -1, None)


def test_intervals_after_many_looks_hold_the_truth() -> None:
    """Ended where they cross, with shares 70:30 and a challenger 60 % better."""
    total, mine = programmes(300, 30, 0.3, 1.6)
    held, above = 0, 0
    for totals, conversions in zip(total.tolist(), mine.tolist(), strict=True):
        before = State(0.3)
        for look, (t, x) in enumerate(zip(totals, conversions, strict=True)):
            after = step(before, t, float(ALLOWED[look]))
            if after.crossed(x) is not None or look == LOOKS - 1:
                found = uplift(before, x, t, 0.05)
                p = adjusted_p(before, x, t)
                assert (p <= 0.05) == (found.low > 0 or (found.high is not None and found.high < 0))
                held += found.low <= 0.6 and (found.high is None or found.high >= 0.6)
                above += found.estimate is not None and found.estimate > 0.6
                break
            before = after
    assert held / 300 >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 300)
    assert above / 300 == pytest.approx(0.5, abs=0.1)


def test_the_rule_that_says_which_test_decides() -> None:
    assert decides(0.3, 59.9)
    assert decides(0.7, None)
    assert not decides(0.3, 60)
    assert not decides(0.525, 5)
    assert decides(0.53, 5)
    assert not decides(0.5, None)


def test_a_state_comes_back_from_json_and_from_any_look() -> None:
    (total, _) = programmes(1, 60, 0.3)
    states = [State(0.3)]
    for t, allowed in zip(total[0].tolist(), ALLOWED, strict=True):
        states.append(step(states[-1], t, float(allowed)))
    for looks in (0, 5, LOOKS):
        for again in (states[-1].rewind(looks), State.from_json(states[looks].as_json())):
            assert again == states[looks]
            assert again.upper.tolist() == states[looks].upper.tolist()
            assert again.lower.tolist() == states[looks].lower.tolist()


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"share": 0.5, "conversions": [3, 2], "low": [0, 0], "high": [3, 3]},
        {"share": 0.5, "conversions": [3], "low": [], "high": [3]},
        {"share": 1.5, "conversions": [], "low": [], "high": []},
        {"share": 0.5, "conversions": ["x"], "low": [0], "high": [3]},
    ],
)
def test_a_broken_state_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="recompute it from the looks"):
        State.from_json(data)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InvalidInput, match="conversions are 2 after 3"):
        step(step(State(0.5), 3, 0.01), 2, 0.02)
    with pytest.raises(InvalidInput, match=r"share is 1") as refused:
        State.after(1.0, [])
    assert refused.value.field == "share"
    with pytest.raises(InvalidInput, match=r"allowed is 1\.0"):
        step(State(0.5), 3, 1.0)
    with pytest.raises(InvalidInput, match="conversions are 4 of 3"):
        exact_p(4, 3, 0.5)
    with pytest.raises(InvalidInput, match="share is 1"):
        exact_p(1, 3, 1.0)
