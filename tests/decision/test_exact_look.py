"""The exact test in a decision, where it decides and where it stands beside; and the e-values of every look."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng
from scipy import stats

from cro_core.decision.decide import Judgement, decide
from cro_core.decision.exact_look import exact_decides, expected_conversions
from cro_core.decision.inputs import state_of
from cro_core.domain import Cell, Epoch, Experiment, Goal, Plan, Variant, Verdict
from cro_core.evidence import Decision, EValue, ExactTest
from cro_core.planning import plans
from cro_core.rendering.decision_text import decision_text
from cro_core.statistics.evalue import e_value
from cro_core.statistics.exact import exact_p
from cro_core.statistics.looks import LookState
from cro_core.storage.decisions import from_record, to_record

START = datetime(2026, 3, 2, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PLAN = Plan((Goal("lead", 100, True),), units=1_000, base_rate=0.03, mde=1.0, futility=False, window=DAY)
FILE = replace(PLAN, finished=True, units=None, base_rate=None)
SPLIT = {"a": 0.7, "b": 0.3}


def started(plan: Plan, shares: dict[str, float]) -> Experiment:
    variants = tuple(Variant(key, key.upper(), is_control=key == "a") for key in shares)
    begun = plans.begin(Experiment("hero", "Hero", variants, plan, created_at=START), START)
    return replace(begun, epochs=tuple(replace(epoch, shares=shares) for epoch in begun.epochs))


def cells(*counts: tuple[int, int], epoch: int = 0) -> list[Cell]:
    return [Cell(epoch, key, n, x) for key, (n, x) in zip("abcd", counts, strict=False)]


def at_end(experiment: Experiment, *counts: tuple[int, int]) -> Decision:
    return decide(experiment, cells(*counts), as_of=START + 30 * DAY).decision


def exact_of(decision: Decision) -> ExactTest:
    assert decision.evidence.exact is not None
    return decision.evidence.exact


class TestOneLook:
    """A finished file with planned shares 70:30 and few conversions."""

    experiment = started(FILE, SPLIT)

    def test_the_chi_square_alone_proves_nothing(self) -> None:
        decision = at_end(self.experiment, (700, 7), (300, 9))
        (comparison,), (row,) = decision.evidence.comparisons, exact_of(decision).comparisons
        assert comparison.p_value is not None
        assert comparison.p_value < 0.03
        assert exact_of(decision).decides
        assert row.p_value == pytest.approx(2 * stats.binom.sf(8, 16, 0.3), rel=1e-9)
        assert row.p_adjusted == comparison.p_adjusted == pytest.approx(row.p_value)
        assert 0.05 < row.p_value < 0.06
        assert (row.crossed, row.low, row.high) == (None, 0, 10)
        assert (decision.verdict, decision.winner) == (Verdict.INCONCLUSIVE, None)
        assert comparison.stopped_low is not None
        assert comparison.stopped_low < 0
        assert decision.evidence.looks is not None
        assert (comparison.z is None, comparison.critical_z, comparison.crossed) == (False, None, None)
        assert "horizon" in [reason.code for reason in decision.reasons]

    def test_a_winner_is_one_by_the_exact_test(self) -> None:
        decision = at_end(self.experiment, (700, 6), (300, 10))
        (comparison,) = decision.evidence.comparisons
        assert (decision.verdict, decision.winner, comparison.crossed) == (Verdict.SHIP, "b", "up")
        assert comparison.stopped_low is not None
        assert comparison.stopped_low > 0
        assert "the exact test decides" in decision.text
        assert "B beats the control: p = 0.014 by the exact test at its one look" in decision.text
        assert "Of 16 conversions 10 are of B, which was to get 30% of the visitors" in decision.text

    def test_a_loser_is_one_by_the_exact_test(self) -> None:
        decision = at_end(self.experiment, (700, 16), (300, 0))
        assert exact_of(decision).comparisons[0].crossed == "down"
        assert (decision.verdict, decision.winner) == (Verdict.KEEP_CONTROL, "a")
        assert decision.evidence.comparisons[0].active is False
        assert "16 conversions 0 are of B" in decision.text
        assert "in less than 0.1% of experiments" in at_end(self.experiment, (700, 6), (300, 20)).text

    def test_the_terminal_shows_its_bounds(self) -> None:
        text = decision_text(at_end(self.experiment, (700, 7), (300, 9)))
        assert (
            "exact test  9 of 16 conversions at a share of 30%, decides at 0 or fewer and 10 or more" in text
        )
        assert "e-value     1." in text

    def test_a_broken_split_vetoes_it(self) -> None:
        decision = at_end(self.experiment, (500, 6), (500, 20))
        assert (decision.verdict, decision.winner) == (Verdict.INVALID, None)
        assert "But for the broken split B would have won" in decision.text

    def test_too_few_visitors_stay_too_few(self) -> None:
        decision = at_end(self.experiment, (150, 3), (70, 12))
        assert exact_of(decision).comparisons[0].crossed == "up"
        assert decision.verdict is Verdict.INCONCLUSIVE
        assert "too_few" in [reason.code for reason in decision.reasons]

    def test_a_gain_that_is_too_small_is_not_shipped(self) -> None:
        asking = started(replace(FILE, gate="proven", min_uplift=5.0), SPLIT)
        decision = at_end(asking, (700, 6), (300, 10))
        assert "gain_too_small" in [reason.code for reason in decision.reasons]
        assert (decision.verdict, decision.winner) == (Verdict.GAIN_BELOW_MINIMUM, None)

    def test_nobody_converted(self) -> None:
        decision = at_end(self.experiment, (700, 0), (300, 0))
        assert decision.verdict is Verdict.INCONCLUSIVE
        assert exact_of(decision).comparisons[0].p_value == 1
        assert "exact test" in decision_text(decision)

    @pytest.mark.parametrize("better", [True, False])
    def test_several_challengers_share_alpha(self, better: bool) -> None:
        experiment = started(FILE, {"a": 0.6, "b": 0.2, "c": 0.2})
        decision = at_end(experiment, (600, 9), (200, 10 if better else 9), (200, 3))
        rows = exact_of(decision).comparisons
        assert [row.share for row in rows] == pytest.approx([0.25, 0.25])
        assert rows[0].p_adjusted == pytest.approx(2 * rows[0].p_value)
        assert (rows[0].p_adjusted <= 0.05) == better == (decision.verdict is Verdict.SHIP)


class TestTheRule:
    """Which test decides is fixed before the first visitor."""

    @pytest.mark.parametrize(
        ("plan", "shares", "expected", "decides"),
        [
            (PLAN, SPLIT, 9, True),
            (replace(PLAN, units=7_000), SPLIT, 63, False),
            (replace(PLAN, units=7_000, conversions=150.0), SPLIT, 45, True),
            (replace(PLAN, units=None), SPLIT, None, True),
            (PLAN, {"a": 0.5, "b": 0.5}, 15, False),
            (PLAN, {"a": 0.52, "b": 0.48}, 14.4, False),
            (PLAN, {"a": 0.53, "b": 0.47}, 14.1, True),
            (FILE, SPLIT, 4.8, True),
        ],
    )
    def test_by_shares_and_expected_conversions(
        self, plan: Plan, shares: dict[str, float], expected: float | None, decides: bool
    ) -> None:
        experiment, found = started(plan, shares), cells((700, 7), (300, 9))
        assert expected_conversions(experiment, found) == (
            expected if expected is None else pytest.approx(expected)
        )
        assert exact_decides(experiment, found) == decides

    @pytest.mark.parametrize(
        "changes", [{"rule": 1}, {"shares_known": False}, {"adaptive": True}], ids=lambda c: next(iter(c))
    )
    def test_it_means_nothing_elsewhere(self, changes: dict[str, Any]) -> None:
        experiment = started(replace(FILE, **changes), SPLIT)
        decision = at_end(experiment, (700, 7), (300, 9))
        assert not exact_decides(experiment, decision.cells)
        assert decision.evidence.exact is None

    def test_many_conversions_of_a_file_are_left_to_the_chi_square(self) -> None:
        decision = at_end(started(FILE, SPLIT), (70_000, 700), (30_000, 400))
        assert decision.evidence.exact is None
        assert decision.verdict is Verdict.SHIP

    def test_with_even_shares_it_stands_beside(self) -> None:
        decision = at_end(started(FILE, {"a": 0.5, "b": 0.5}), (500, 6), (500, 16))
        (row,) = exact_of(decision).comparisons
        assert (exact_of(decision).decides, row.p_adjusted, row.low, row.high) == (False, None, None, None)
        assert row.p_value == exact_p(16, 22, 0.5) > 0.05
        assert decision.verdict is Verdict.SHIP
        assert "the exact test stands beside the chi-square" in decision.text
        assert "at one look; it does not decide" in decision_text(decision)
        enough = at_end(started(FILE, {"a": 0.5, "b": 0.5}), (500, 30), (500, 56))
        assert enough.evidence.exact is None


class TestManyLooks:
    """An experiment of 13 days of enrolment, looked at once a day."""

    experiment = started(PLAN, SPLIT)

    def looks(self, days: Sequence[tuple[int, int]], experiment: Experiment | None = None) -> list[Judgement]:
        """Judgements at the end of each day, 70 and 30 visitors coming and converting as given."""
        judgements: list[Judgement] = []
        for number, (control, challenger) in enumerate(np.cumsum(days, axis=0).tolist(), start=1):
            state = LookState.from_json(judgements[-1].state.as_json()) if judgements else None
            found = cells((70 * number, control), (30 * number, challenger))
            as_of = START + (number + 1) * DAY
            judgements.append(decide(experiment or self.experiment, found, as_of=as_of, state=state))
            if judgements[-1].decision.final:
                break
        return judgements

    def test_bounds_close_in_and_nothing_ships_in_the_first_week(self) -> None:
        judgements = self.looks([(1, 3)] * 13)
        rows = [exact_of(judgement.decision).comparisons[0] for judgement in judgements]
        highs = [row.high / row.of for row in rows if row.high is not None]
        assert highs[-1] < highs[0]
        assert rows[-2].crossed == "up"  # a week was not over
        last = judgements[-1].decision
        assert (last.verdict, last.winner) == (Verdict.SHIP, "b")
        assert len(judgements) == 7
        assert rows[-1].p_adjusted is not None
        assert rows[-1].p_adjusted <= 0.05
        assert last.evidence.comparisons[0].p_adjusted == rows[-1].p_adjusted

    def test_without_an_effect_it_ends_at_the_horizon(self) -> None:
        judgements = self.looks([(2, 1)] * 13)
        assert [j.decision.verdict for j in judgements] == [Verdict.CONTINUE] * 12 + [Verdict.INCONCLUSIVE]
        assert exact_of(judgements[-1].decision).comparisons[0].low is not None

    def test_a_stored_decision_comes_out_again(self) -> None:
        judgements = self.looks([(1, 3)] * 13)
        last = judgements[-1]
        stored = from_record(to_record(last.decision))
        assert stored == last.decision
        assert stored.evidence.looks is not None
        state = state_of(stored.evidence.looks)
        assert state.exact == last.state.exact
        again = decide(self.experiment, stored.cells, as_of=stored.as_of, state=state).decision
        assert again.evidence.exact == stored.evidence.exact
        assert (again.verdict, again.text) == (stored.verdict, stored.text)

    def test_conversions_that_were_taken_back_cross_nothing(self) -> None:
        before = self.looks([(1, 2)] * 5)[-1]
        found = cells((420, 0), (180, 12))
        decision = decide(self.experiment, found, as_of=START + 8 * DAY, state=before.state).decision
        assert exact_of(decision).comparisons[0].crossed is None
        assert decision.verdict is Verdict.CONTINUE

    def test_a_state_without_exact_looks_goes_on(self) -> None:
        before = self.looks([(1, 2)] * 5)[-1]
        bare = replace(before.state, exact=())
        after = decide(self.experiment, cells((420, 6), (180, 12)), as_of=START + 7 * DAY, state=bare)
        assert [len(test.conversions) for test in after.state.exact] == [len(after.state.hours)]

    @pytest.mark.slow
    def test_false_wins_stay_below_half_of_alpha(self) -> None:
        """As a page against itself would be judged: 9 conversions expected in the smaller arm."""
        rng, wins = default_rng(4), 0
        for _ in range(150):
            days = np.stack([rng.poisson(1.6, 13), rng.poisson(0.7, 13)], axis=-1).tolist()
            wins += self.looks(days)[-1].decision.verdict is Verdict.SHIP
        assert wins / 150 <= 0.025 + 3 * (0.025 * 0.975 / 150) ** 0.5


class TestEValues:
    """Evidence that adds up, stored at every look."""

    def values(self, decision: Decision) -> tuple[EValue, ...]:
        assert decision.evidence.e_values is not None
        return decision.evidence.e_values

    def test_fixed_shares(self) -> None:
        decision = at_end(started(FILE, SPLIT), (700, 7), (300, 9))
        (row,) = self.values(decision)
        assert (row.variant, row.control, row.conversions, row.share) == ("b", 7, 9, 0.3)
        assert row.e_value == e_value([[7, 9]], [0.3]) > 1
        assert from_record(to_record(decision)).evidence.e_values == (row,)

    def test_moving_shares_are_told_apart_by_day(self) -> None:
        begun = started(replace(PLAN, adaptive=True), {"a": 0.5, "b": 0.5})
        shares = [{"a": 0.5, "b": 0.5}, {"a": 0.3, "b": 0.7}]
        moved = tuple(
            Epoch(e.number, e.starts_at, e.ends_at, shares[min(e.number, 1)], e.weight) for e in begun.epochs
        )
        found = cells((500, 20), (500, 22)) + cells((300, 9), (700, 25), epoch=1)
        decision = decide(replace(begun, epochs=moved), found, as_of=START + 3 * DAY).decision
        (row,) = self.values(decision)
        assert (row.share, row.control, row.conversions) == (None, 29, 47)
        assert row.e_value == e_value([[20, 22], [9, 25]], [0.5, 0.7])
        assert row.e_value != pytest.approx(e_value([[29, 47]], [0.6]))

    def test_unknown_shares_are_those_of_the_visitors(self) -> None:
        decision = at_end(started(replace(FILE, shares_known=False), SPLIT), (500, 20), (500, 30))
        (row,) = self.values(decision)
        assert (row.share, row.e_value) == (None, e_value([[20, 30]], [0.5]))

    def test_each_challenger_by_itself_and_an_epoch_without_it_left_out(self) -> None:
        begun = started(replace(PLAN, adaptive=True), {"a": 0.4, "b": 0.3, "c": 0.3})
        dropped = tuple(
            replace(e, shares={"a": 0.5, "b": 0.5, "c": 0.0}) if e.number else e for e in begun.epochs
        )
        found = cells((400, 20), (300, 22), (300, 5)) + cells((500, 20), (500, 22), (0, 0), epoch=1)
        decision = decide(replace(begun, epochs=dropped), found, as_of=START + 3 * DAY).decision
        first, second = self.values(decision)
        assert first.e_value == pytest.approx(e_value([[20, 22], [20, 22]], [3 / 7, 0.5]))
        assert second.e_value == pytest.approx(e_value([[20, 5]], [3 / 7]))
        assert second.control == 40

    def test_the_first_rule_has_none(self) -> None:
        assert at_end(started(replace(FILE, rule=1), SPLIT), (700, 7), (300, 9)).evidence.e_values is None
