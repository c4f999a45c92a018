"""The second rule: all exposed visitors with guards, whole days where shares move, whole weeks, winners held back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cro_core.decision.decide import Judgement, decide
from cro_core.decision.inputs import hold_ends_at, look_data, moment, next_look, state_of
from cro_core.domain import Cell, DayCell, Experiment, Goal, Plan, Variant, Verdict
from cro_core.planning import plans
from cro_core.statistics.looks import LookState
from cro_core.storage.decisions import from_record, to_record

START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PLAN = Plan(
    (Goal("lead", 100, True),), units=100_000, base_rate=0.1, horizon=15 * DAY, min_uplift=0.0, futility=False
)
KEYS = ("a", "b")


def running(plan: Plan = PLAN) -> Experiment:
    variants = tuple(Variant(key, key.upper(), is_control=key == "a") for key in KEYS)
    return plans.begin(Experiment("hero", "Hero", variants, plan, created_at=START), START)


def day_cells(
    experiment: Experiment,
    as_of: datetime,
    units: Sequence[int],
    control: Sequence[float],
    challenger: Sequence[float],
    *,
    late: Sequence[float] = (1.0, 1.0),
    hours: Sequence[float] = (2.0, 2.0),
) -> tuple[list[Cell], list[DayCell]]:
    """So many visitors a day and arm at these rates; of the last day's, not mature, a part has converted so far.

    Args:
        experiment: whose cells they are.
        as_of: the moment of the look.
        units: of each day and arm.
        control: rate of each day.
        challenger: rate of each day.
        late: of each arm, which part of the conversions of a day that is not mature has come.
        hours: of each arm, the hours from exposure to conversion; they spread by one hour.
    """
    days = []
    for number, n in enumerate(units):
        starts = START + number * DAY
        if starts >= min(as_of, experiment.epochs[-1].ends_at):
            break
        mature = starts + DAY + experiment.plan.window <= as_of
        epoch = number if experiment.plan.adaptive else 0
        for arm, rates in enumerate((control, challenger)):
            x = round(n * rates[number])
            days.append(
                DayCell(
                    starts.date().isoformat(),
                    epoch,
                    KEYS[arm],
                    n if mature else 0,
                    x if mature else 0,
                    n,
                    x if mature else round(x * late[arm]),
                    x * hours[arm] if mature else 0.0,
                    x * (hours[arm] ** 2 + 1) if mature else 0.0,
                )
            )
    cells: dict[tuple[int, str], Cell] = {}
    for day in days:
        if not day.units:
            continue
        cell = cells.get((day.epoch, day.variant), Cell(day.epoch, day.variant, 0, 0))
        cells[day.epoch, day.variant] = replace(
            cell, units=cell.units + day.units, conversions=cell.conversions + day.conversions
        )
    return list(cells.values()), days


def at(
    experiment: Experiment,
    day: float,
    units: Sequence[int],
    control: Sequence[float],
    challenger: Sequence[float],
    state: LookState | None = None,
    **more: Sequence[float],
) -> Judgement:
    as_of = START + day * DAY
    cells, days = day_cells(experiment, as_of, units, control, challenger, **more)
    return decide(experiment, cells, as_of=as_of, days=days, state=state)


def codes(judgement: Judgement) -> list[str]:
    return [reason.code for reason in judgement.decision.reasons]


EVEN = [2_000] * 30
LOW, HIGH = [0.10] * 30, [0.125] * 30


class TestFixedShares:
    def test_spending_time_is_that_of_exposed_and_of_mature_units(self) -> None:
        experiment = running(replace(PLAN, horizon=14 * DAY))
        for hours, expected in ((24, 0.03846), (48, 0.11538), (312, 0.96154)):
            look = at(experiment, hours / 24, EVEN, LOW, LOW).decision.evidence.look
            assert look is not None
            assert look.spending_time == pytest.approx(expected, abs=5e-6)
        assert moment(experiment, START + 14 * DAY).mature == 1

    def test_all_exposed_visitors_decide_and_the_mature_ones_are_shown(self) -> None:
        found = at(running(), 8, EVEN, LOW, HIGH)
        assert (found.decision.verdict, found.decision.winner) == (Verdict.SHIP, "b")
        look = found.decision.evidence.look
        assert look is not None
        assert (look.exposed_units, look.counted_units, look.days) == (32_000, 28_000, 8)
        (row,) = found.decision.evidence.comparisons
        assert row.relative == pytest.approx(0.25)

    def test_a_crossing_that_the_mature_units_do_not_bear_out_waits(self) -> None:
        """Six quiet days, then one day that shouts: nobody knows yet whether it is only quicker."""
        quiet = [0.10] * 7 + [0.60]
        sound, hasty = (at(running(), 8, EVEN, LOW, rates) for rates in ([0.125] * 8, quiet))
        assert sound.decision.verdict is Verdict.SHIP
        (row,) = hasty.decision.evidence.comparisons
        assert row.z is not None
        assert row.critical_z is not None
        assert row.z > row.critical_z
        assert (hasty.decision.verdict, row.crossed) == (Verdict.CONTINUE, None)

    def test_unequally_late_conversions_leave_it_to_the_mature_units(self) -> None:
        experiment = running()
        before = at(experiment, 7.5, EVEN, LOW, LOW, hours=(2.0, 2.3))
        assert before.state.late == 180.0
        assert "unequally_late" in codes(before)
        assert before.state.mature is not None
        assert before.state.upper[0][-1] is None
        assert before.state.mature.upper[0][-1] is not None
        after = at(
            experiment, 8, EVEN, LOW, LOW, state=before.state
        )  # it stays, though the hours are alike now
        assert after.state.late == 180.0
        assert "unequally_late" not in codes(after)
        (row,) = after.decision.evidence.comparisons
        own = after.state.mature
        assert own is not None
        assert row.critical_z == own.paths[0].critical[-1]
        look = after.decision.evidence.look
        assert look is not None
        assert look.exposed_units is None
        assert look.spending_time == pytest.approx(7 / 14)

    def test_the_planned_sample_ends_nothing(self) -> None:
        few = running(replace(PLAN, units=10_000))
        assert not at(few, 8, EVEN, LOW, [0.101] * 30).decision.final
        last = at(few, 15, EVEN, LOW, [0.101] * 14)
        assert last.decision.final

    def test_without_days_the_mature_cells_decide(self) -> None:
        experiment = running()
        cells, _ = day_cells(experiment, START + 8 * DAY, EVEN, LOW, HIGH)
        found = decide(experiment, cells, as_of=START + 8 * DAY)
        assert found.decision.verdict is Verdict.SHIP
        assert found.state.mature is None


class TestWholeWeeks:
    @pytest.mark.parametrize("adaptive", [False, True])
    def test_nothing_ships_before_the_seventh_day_is_over(self, adaptive: bool) -> None:
        experiment = running(replace(PLAN, adaptive=adaptive))
        early = at(experiment, 6.9 if not adaptive else 7.5, EVEN, LOW, [0.2] * 30)
        assert (early.decision.verdict, codes(early)[-1]) == (Verdict.CONTINUE, "week_not_over")
        assert early.state.upper[0] == (None,) * len(early.state.hours)
        assert early.state.lower[0][-1] is not None
        assert at(experiment, 8, EVEN, LOW, [0.2] * 30).decision.verdict is Verdict.SHIP

    def test_harm_may_act_before(self) -> None:
        found = at(running(), 3, EVEN, LOW, [0.05] * 30)
        assert (found.decision.verdict, found.decision.winner) == (Verdict.KEEP_CONTROL, "a")


class TestMovingShares:
    PLAN = replace(PLAN, adaptive=True)

    def test_looks_are_taken_when_a_day_is_whole_and_mature(self) -> None:
        experiment = running(self.PLAN)
        before = at(experiment, 1.9, EVEN, LOW, LOW).decision.evidence.look
        assert before is not None
        assert (before.status, before.next_at) == ("too_early", START + 2 * DAY)
        first = at(experiment, 2, EVEN, LOW, LOW)
        assert (first.look_taken, first.state.hours) == (True, (24.0,))
        later = at(experiment, 2.8, EVEN, LOW, LOW, state=first.state)
        look = later.decision.evidence.look
        assert look is not None
        assert (later.look_taken, look.status, later.state) == (False, "between_looks", first.state)
        assert "The next look is due on 2026-03-05 00:00 UTC." in later.decision.text
        (shown,), (then,) = later.decision.evidence.comparisons, first.decision.evidence.comparisons
        assert (shown.z, shown.critical_z) == (then.z, pytest.approx(then.critical_z))
        second = at(experiment, 3, EVEN, LOW, LOW, state=later.state)
        assert second.state.hours == (24.0, 48.0)

    def test_a_look_is_asked_once_whatever_comes_in_late(self) -> None:
        """What is posted late may change the counts of a day that has been looked at; it gets no second chance."""
        experiment = running(self.PLAN)
        quiet = at(experiment, 10, EVEN, LOW, LOW)
        loud = at(experiment, 10.5, EVEN, LOW, HIGH, state=quiet.state)
        assert (loud.decision.verdict, loud.look_taken) == (Verdict.CONTINUE, False)
        assert at(experiment, 11, EVEN, LOW, HIGH, state=loud.state).decision.verdict is Verdict.SHIP

    def test_the_same_moment_gives_the_same_look_again(self) -> None:
        experiment = running(self.PLAN)
        first = at(experiment, 9.3, EVEN, LOW, HIGH)
        again = at(experiment, 9.3, EVEN, LOW, HIGH, state=first.state)
        assert (again.decision.verdict, again.look_taken) == (Verdict.SHIP, True)

    def test_days_that_are_not_over_do_not_count(self) -> None:
        experiment = running(self.PLAN)
        cells, days = day_cells(experiment, START + 9.5 * DAY, EVEN, LOW, HIGH)
        data = look_data(experiment, cells, days, moment(experiment, START + 9.5 * DAY), START + 9.5 * DAY)
        assert data.deciding.units[:, 0].tolist() == [2_000] * 8 + [0] * 6
        assert data.maturity is None

    def test_boundaries_are_those_of_the_days(self) -> None:
        """Thirteen equal days; the first look after the first day."""
        experiment = running(replace(self.PLAN, horizon=14 * DAY))
        state, criticals = None, []
        for day in range(2, 15):
            found = at(experiment, day, EVEN, LOW, LOW, state=state)
            state = found.state
            (row,) = found.decision.evidence.comparisons
            criticals.append(row.critical_z)
        assert criticals == pytest.approx(
            [
                3.5858,
                3.4776,
                3.3582,
                3.2374,
                3.1162,
                2.9943,
                2.8714,
                2.7466,
                2.6195,
                2.4895,
                2.3558,
                2.2179,
                2.0748,
            ],
            abs=6e-5,
        )
        assert found.decision.final


FADING = [0.10 * (1 + 0.9 * 0.5 ** (day / 1.4)) for day in range(40)]


class TestHold:
    def held(self, plan: Plan = PLAN) -> tuple[Experiment, Judgement]:
        experiment = running(plan)
        found = at(experiment, 8, EVEN, LOW, FADING)
        assert (found.decision.verdict, "fades" in codes(found)) == (Verdict.CONTINUE, True)
        assert found.state.hold is not None
        return experiment, found

    @pytest.mark.parametrize("adaptive", [False, True])
    def test_a_winner_that_fades_is_held_back_for_a_week(self, adaptive: bool) -> None:
        experiment, found = self.held(replace(PLAN, adaptive=adaptive))
        hold = found.state.hold
        assert hold is not None
        assert (hold.challenger, hold.days) == (1, 9)
        until = hold_ends_at(experiment, hold)
        assert until == START + 16 * DAY
        longer = plans.extended(experiment, until)
        assert (longer.enrolment_ends_at, longer.horizon_ends_at) == (until, until + DAY)
        assert plans.extended(longer, until) is longer
        if adaptive:
            assert [e.number for e in longer.epochs] == list(range(16))
            assert longer.epochs[-1].weight == pytest.approx(1 / 14)
        waiting = at(longer, 12, EVEN, LOW, FADING, state=found.state)
        assert (waiting.decision.verdict, codes(waiting)[-1]) == (Verdict.CONTINUE, "holding")
        assert waiting.state.hours == found.state.hours
        gone = at(longer, 17, EVEN, LOW, FADING, state=waiting.state)
        assert (gone.decision.verdict, gone.decision.winner) == (Verdict.INCONCLUSIVE, None)
        assert "faded" in codes(gone)
        (row,) = gone.decision.evidence.comparisons
        assert row.stopped is not None
        lasting = [*FADING[:9], *[0.125] * 20]
        stays = at(longer, 17, EVEN, LOW, lasting, state=found.state)
        assert (stays.decision.verdict, stays.decision.winner) == (Verdict.SHIP, "b")
        assert "lasts" in codes(stays)
        rewound = at(longer, 17, EVEN, LOW, lasting, state=stays.state)
        assert rewound.decision.verdict is Verdict.SHIP

    def test_an_effect_that_turns_at_the_weekend_is_held_back_too(self) -> None:
        weekdays = [0.10 if (START + day * DAY).weekday() >= 5 else 0.14 for day in range(30)]
        found = at(running(), 8, EVEN, LOW, weekdays)
        assert (found.decision.verdict, "turns" in codes(found)) == (Verdict.CONTINUE, True)

    def test_a_file_that_is_finished_is_only_told(self) -> None:
        experiment = running(replace(PLAN, finished=True))
        found = at(experiment, 16, EVEN, LOW, FADING)
        assert (found.decision.verdict, "fades" in codes(found)) == (Verdict.SHIP, True)

    def test_the_first_rule_holds_nothing_back(self) -> None:
        experiment = running(replace(PLAN, rule=1))
        assert at(experiment, 8, EVEN, LOW, FADING).decision.verdict is Verdict.SHIP

    def test_a_broken_split_is_not_shipped_after_the_week(self) -> None:
        experiment, found = self.held()
        longer = plans.extended(experiment, START + 16 * DAY)
        as_of = START + 17 * DAY
        cells, days = day_cells(longer, as_of, EVEN, LOW, [*FADING[:9], *[0.125] * 20])
        uneven = [replace(c, units=c.units + 4_000) if c.variant == "a" else c for c in cells]
        judged = decide(longer, uneven, as_of=as_of, days=days, state=found.state)
        assert judged.decision.verdict is Verdict.INVALID


class TestStopped:
    """The estimate of an experiment whose winner the gate held back at the first look."""

    BIG = replace(PLAN, units=None, min_uplift=0.1, horizon=14 * DAY, window=timedelta(0))

    def test_it_goes_by_the_bounds_as_they_could_act(self) -> None:
        experiment = running(self.BIG)
        half = [Cell(0, "a", 500_000, 15_000), Cell(0, "b", 500_000, 15_700)]
        whole = [Cell(0, c.variant, 2 * c.units, 2 * c.conversions) for c in half]
        first = decide(experiment, half, as_of=START + 7 * DAY)
        assert codes(first)[-2] == "gain_too_small"
        last = decide(experiment, whole, as_of=START + 14 * DAY, state=first.state)
        assert last.decision.verdict is Verdict.GAIN_BELOW_MINIMUM
        (row,) = last.decision.evidence.comparisons
        assert (row.stopped, row.stopped_low, row.stopped_high) == pytest.approx(
            (0.0467, 0.0305, 0.0631), abs=6e-5
        )
        old = replace(experiment, plan=replace(experiment.plan, rule=1))
        first = decide(old, half, as_of=START + 7 * DAY)
        (row,) = decide(old, whole, as_of=START + 14 * DAY, state=first.state).decision.evidence.comparisons
        assert row.stopped == pytest.approx(0.031, abs=5e-4)
        assert row.p_adjusted == pytest.approx(0.0060, abs=5e-5)


@pytest.mark.parametrize("adaptive", [False, True])
def test_states_and_records_survive_json(adaptive: bool) -> None:
    experiment = running(replace(PLAN, adaptive=adaptive))
    first = at(experiment, 6, EVEN, LOW, FADING, hours=(2.0, 2.0))
    found = at(experiment, 8, EVEN, LOW, FADING, state=first.state)
    assert found.state.hold is not None
    stored = LookState.from_json(json.loads(json.dumps(found.state.as_json(), allow_nan=False)))
    assert stored == found.state
    record = json.loads(json.dumps(to_record(found.decision), allow_nan=False))
    assert from_record(record) == found.decision
    taken = found.decision.evidence.looks
    assert taken is not None
    rebuilt = state_of(taken)
    assert (rebuilt.hold, rebuilt.upper, rebuilt.lower) == (
        found.state.hold,
        found.state.upper,
        found.state.lower,
    )
    again = at(experiment, 8, EVEN, LOW, FADING, state=rebuilt)
    assert codes(again) == codes(found)


def test_next_look_is_told_only_where_looks_are_days_apart() -> None:
    moving, fixed = running(replace(PLAN, adaptive=True)), running()
    assert next_look(fixed, START + 3 * DAY) is None
    assert next_look(moving, START + 3.5 * DAY) == START + 4 * DAY
    assert next_look(moving, START + 15 * DAY) is None
