"""`cro plan`: the site's week, what a plan can tell, where its numbers come from, and the page that explains it."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from helpers.places import ROOT
from helpers.store_samples import DAY, HOUR, START, event, exposure, running, stored
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cro_core import cli
from cro_core.analytics import arrivals as counts
from cro_core.clock import zone
from cro_core.config import Config, validate
from cro_core.domain import Event, Goal, Status, Variant, to_json
from cro_core.errors import Conflict, InvalidInput, NotFound
from cro_core.home import Home, create_home, set_clock
from cro_core.planning import outlook, plans
from cro_core.planning.outlook import (
    CANNOT_TELL,
    ENOUGH,
    UNKNOWN,
    Outlook,
    Question,
    SourcedNumber,
    WiderGoal,
)
from cro_core.planning.week_profile import FLAT, WeekProfile, days_until, visitors_within, week_profile
from cro_core.rendering.outlook_text import outlook_text, verdict_text
from cro_core.statistics import sample_size
from cro_core.statistics.multiplicity import next_level
from cro_core.statistics.sequential import Spending
from cro_core.storage import events as event_store
from cro_core.storage import experiments
from cro_core.storage.database import Database
from cro_core.workflows import error_budget, lifecycle
from cro_core.workflows.create_experiment import NewExperiment, create_experiment
from cro_core.workflows.plan_experiment import Overrides, plan
from cro_core.workflows.site_traffic import experiment_traffic, site_traffic
from cro_core.workflows.transaction import begin

DOCS = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")

QUIET_WEEKENDS = week_profile(
    [(day, hour, 50 if day > 4 else 100) for day in range(7) for hour in range(24)], [1] * 7
)


def known(value: float | None) -> SourcedNumber:
    return SourcedNumber(value, "option", "given")


def question(
    rate: float = 0.03, traffic: float | None = 300, days: float = 14, uplift: float = 0.1
) -> Question:
    return Question(known(rate), known(traffic), known(days), known(uplift))


def asked(**changes: Any) -> Outlook:
    return outlook.outlook(replace(question(), **changes))


# ---- the week


def test_a_profile_is_relative_to_the_average_hour() -> None:
    visits = [(0, 9, 30.0), (0, 9, 30.0), *((day, 12, 20.0) for day in range(1, 7))]
    profile = week_profile(visits, [2, 1, 1, 1, 1, 1, 1])  # two Mondays with 30 each
    assert profile.measured
    assert sum(profile.relative) / 168 == pytest.approx(1)
    assert profile.weekdays[0] / profile.weekdays[3] == pytest.approx(1.5)
    assert profile.relative[9] / profile.relative[24 + 12] == pytest.approx(1.5)
    assert profile.relative[10] == 0


def test_no_profile_without_every_weekday() -> None:
    assert week_profile([(0, 9, 30.0)], [1, 1, 1, 1, 1, 1, 0]) is FLAT
    assert week_profile([], [1] * 7) is FLAT
    assert not FLAT.measured


def test_days_and_visitors_by_hand() -> None:
    assert days_until(117_064, 300) == pytest.approx(117_064 / 300)
    assert visitors_within(14, 300) == pytest.approx(4200)
    assert days_until(0, 300) == days_until(-5, 300) == 0
    # weekdays have 7/6 of the average day, weekend days 7/12
    assert QUIET_WEEKENDS.weekdays == pytest.approx([7 / 6] * 5 + [7 / 12] * 2)
    assert visitors_within(2, 600, QUIET_WEEKENDS, weekday=5) == pytest.approx(700)
    assert visitors_within(2, 600, QUIET_WEEKENDS, weekday=4) == pytest.approx(1050)
    assert days_until(700, 600, QUIET_WEEKENDS, weekday=0) == pytest.approx(1)
    assert days_until(700, 600, QUIET_WEEKENDS, weekday=5) == pytest.approx(2)
    assert days_until(700, 600, QUIET_WEEKENDS, weekday=4, hour=12) == pytest.approx(1.5)


@given(
    st.floats(0.01, 100), st.floats(1, 1e5), st.integers(0, 6), st.floats(0, 23.99),
    st.lists(st.floats(0.1, 10), min_size=168, max_size=168),
)  # fmt: skip
def test_days_and_visitors_are_inverse(
    days: float, traffic: float, weekday: int, hour: float, shape: list[float]
) -> None:
    profile = WeekProfile(tuple(168 * s / sum(shape) for s in shape), True)
    come = visitors_within(days, traffic, profile, weekday=weekday, hour=hour)
    assert days_until(come, traffic, profile, weekday=weekday, hour=hour) == pytest.approx(days, abs=1e-6)
    assert visitors_within(7, traffic, profile, weekday=weekday, hour=hour) == pytest.approx(7 * traffic)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: days_until(10, 0), "traffic_per_day"),
        (lambda: days_until(10, math.inf), "traffic_per_day"),
        (lambda: days_until(10, 5, weekday=7), "weekday"),
        (lambda: days_until(10, 5, hour=24), "hour"),
        (lambda: visitors_within(-1, 5), "days"),
        (lambda: visitors_within(1, math.nan), "traffic_per_day"),
        (lambda: week_profile([], [1] * 6), "days"),
        (lambda: week_profile([(7, 0, 1)], [1] * 7), "visits"),
        (lambda: week_profile([(0, 0, -1)], [1] * 7), "visits"),
    ],
)
def test_bad_weeks_are_named(call: Callable[[], object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        call()
    assert caught.value.field == field


# ---- what a plan can tell


def test_low_traffic_cannot_tell() -> None:
    """300 visitors a day at 3 %: two weeks show about +61 %, a true +10 % takes about 423 days."""
    answer = asked()
    assert answer.verdict == CANNOT_TELL
    assert answer.one_look_units_per_variant == 53_211  # published table
    assert answer.units_per_variant == round(sample_size.inflation() * 53_211)
    assert answer.units == 2 * answer.units_per_variant
    assert answer.days_needed == pytest.approx(423, abs=1)
    assert (answer.enrolment_days, answer.admitted) == (14, 1)
    assert answer.attainable_uplift == pytest.approx(0.61, abs=0.005)
    assert answer.found is not None
    assert answer.found < 0.1
    text = verdict_text(answer)
    assert text.startswith("Cannot tell at this traffic.")
    assert "2 weeks can show only changes of +61.0 %" in text
    assert "423 days" in text


@pytest.mark.parametrize(
    ("rate", "sizes"),
    [(0.01, (163_095, 42_693, 19_827)), (0.03, (53_211, 13_914, 6_455)), (0.10, (14_751, 3_841, 1_774))],
)
def test_the_reference_sizes_come_through(rate: float, sizes: tuple[int, ...]) -> None:
    for uplift, size in zip((0.1, 0.2, 0.3), sizes, strict=True):
        answer = asked(base_rate=known(rate), uplift=known(uplift))
        assert answer.one_look_units_per_variant == size
        planned = round(sample_size.inflation() * size)
        assert answer.units_per_variant == planned
        assert next(c for c in answer.contrasts if c.uplift == uplift).units_per_variant == planned


def test_enough_traffic_is_said_as_well() -> None:
    answer = asked(traffic=known(127_000 / 14))
    assert answer.verdict == ENOUGH
    assert answer.found == pytest.approx(0.8, abs=1e-3)
    assert answer.days_needed == pytest.approx(14, abs=0.05)
    assert verdict_text(answer).startswith(
        "There are visitors enough. A true +10.0 % is found in 80 of 100 such experiments within 2 weeks"
    )


def test_new_visitors_count_for_as_many_whole_weeks_as_are_needed() -> None:
    """126,942 visitors are needed: at most four weeks, but no more than the traffic asks for."""
    shown = {}
    for traffic in (1000, 5000, 9100, 18_500, 50_000):
        answer = asked(days=known(28), traffic=known(traffic))
        shown[traffic] = (answer.enrolment_days, answer.admitted)
        reached = traffic * answer.enrolment_days * answer.admitted
        assert answer.found == pytest.approx(
            sample_size.power_of(0.03, 0.1, reached / 2 / answer.inflation), abs=1e-9
        )
        assert answer.choices[0].visitors == pytest.approx(reached)
        assert (answer.choices[0].days, answer.choices[0].power) == (answer.enrolment_days, answer.found)
        assert answer.choices[0].attainable_uplift == answer.attainable_uplift
    assert shown == {1000: (28, 1), 5000: (28, 1), 9100: (14, 1), 18_500: (7, 0.99), 50_000: (7, 0.37)}
    text = outlook_text(asked(days=known(28), traffic=known(50_000), window_days=2))
    assert "new visitors for          1 week   the last look comes 48 hours later" in text
    assert "an effect that fades may add a week" in text
    assert "take part                   37 %   of the visitors: they fill the week" in text
    assert "take part" not in outlook_text(asked(traffic=known(9100)))
    old = asked(days=known(13), traffic=known(50_000), rule=1)
    assert (old.enrolment_days, old.admitted, old.units) == (13, 1, 117_064)


def test_a_running_experiment_keeps_its_days() -> None:
    answer = asked(days=known(28), traffic=known(50_000), running=True)
    assert (answer.enrolment_days, answer.admitted) == (28, 1)


def test_a_costly_family_is_noted() -> None:
    dear = asked(spending=Spending("pocock"))
    assert dear.notes[0] == (
        "statistics.spending_function pocock needs 22 % more visitors than hwang_shih_decani."
    )
    assert dear.units == pytest.approx(1.2225 * asked().units, rel=1e-3)
    assert dear.notes[0] in outlook_text(dear)
    assert dear.notes[0] in asked(spending=Spending("pocock"), traffic=known(None)).notes
    assert not any("spending" in note for note in asked().notes)
    assert not any("spending" in note for note in asked(spending=Spending("pocock"), rule=1).notes)


def test_the_factor_says_what_it_pays_for() -> None:
    assert "x 1.19 for hourly looks and futility" in outlook_text(asked())
    assert "x 1.10 for hourly looks\n" in outlook_text(asked(futility=False))
    assert "x 1.37 for hourly looks, futility and moving shares" in outlook_text(asked(adaptive=True))
    assert "x 1.10 for hourly looks\n" in outlook_text(asked(rule=1))


def test_unknown_traffic_still_gives_the_size() -> None:
    answer = asked(traffic=SourcedNumber(None, "unknown", "nothing stored"))
    assert (answer.verdict, answer.units) == (UNKNOWN, 126_942)
    assert (answer.days_needed, answer.attainable_uplift, answer.choices) == (None, None, ())
    assert "not known: give --visitors-per-day" in verdict_text(answer)
    assert "NaN" not in json.dumps(to_json(answer))


def test_choices_say_what_they_detect_and_cost() -> None:
    wider = WiderGoal(("contact_form_submit", "phone_click"), known(0.06))
    answer = asked(variants=4, wider=wider)
    own, two, four, eight, fourteen, *leads = answer.choices
    assert [r.days for r in answer.choices] == [14, 14, 28, 56, 98, 14, 28, 56, 98]
    sizes = [r.attainable_uplift for r in (own, two, four, eight, fourteen)]
    assert sizes == pytest.approx([1.080, 0.610, 0.416, 0.286, 0.213], abs=0.001)
    assert [r.attainable_uplift for r in leads] == pytest.approx([0.407, 0.281, 0.195, 0.146], abs=0.001)
    assert [r.visitors for r in (own, eight)] == [4200, 16_800]
    assert [r.tests_per_year for r in answer.choices] == [24, 24, 12, 6, 3, 24, 12, 6, 3]
    assert [r.needs_approval for r in answer.choices[:5]] == [False, False, True, True, True]
    assert own.power < two.power < eight.power < leads[-1].power < 0.8
    assert answer.within_reach == ()
    easier = asked(uplift=known(0.3))
    assert [r.days for r in easier.within_reach] == [56, 98]
    assert "This would do: two variants, equal shares, 8 weeks (51 days of them are needed)" in verdict_text(
        easier
    )


def test_the_settings_of_a_choice_bring_about_that_choice() -> None:
    wider = WiderGoal(("contact_form_submit", "phone_click"), known(0.06))
    for row in asked(wider=wider).choices[1:]:
        sections: dict[str, Any] = {}
        for key, value in row.settings.items():
            *path, name = key.split(".")
            (sections.setdefault(path[0], {}) if path else sections)[name] = value
        made = plans.new_plan(validate(sections))
        assert not made.adaptive
        assert (made.horizon - made.window) / DAY == row.days
        goals = {g.name for g in made.goals if g.primary}
        assert goals == set(wider.goals if row.base_rate == 0.06 else wider.goals[:1])


def test_the_day_of_the_start_makes_no_difference() -> None:
    week = replace(question(traffic=600, days=7, uplift=0.8), profile=QUIET_WEEKENDS)
    text = outlook_text(outlook.outlook(week))
    assert "the week here         Mon 117, Tue 117, Wed 117, Thu 117, Fri 117, Sat 58, Sun 58 (100 is" in text
    assert "the week here" not in outlook_text(asked())
    for weekday in range(7):
        assert visitors_within(7, 600, QUIET_WEEKENDS, weekday=weekday) == pytest.approx(4200)


@pytest.mark.parametrize(
    "change",
    [
        {"base_rate": known(0.05)}, {"traffic": known(500)}, {"days": known(28)}, {"uplift": known(0.2)},
        {"variants": 3}, {"adaptive": True}, {"alpha": 0.1}, {"power": 0.9}, {"futility": False}, {"rule": 1},
        {"spending": Spending("pocock")},
    ],
)  # fmt: skip
def test_every_input_changes_the_answer(change: dict[str, Any]) -> None:
    before, after = asked(), asked(**change)
    assert (before.units, before.attainable_uplift, before.found) != (
        after.units,
        after.attainable_uplift,
        after.found,
    )


def test_floor_and_window_change_the_answer() -> None:
    assert asked(adaptive=True, floor=0.1).units > asked(adaptive=True, floor=0.3).units > asked().units
    assert asked(window_days=7).choices[1].tests_per_year == 17
    assert asked(window_days=7).choices[1].settings["automation.test_duration_max_days"] == 14


def test_tiny_samples_are_marked() -> None:
    assert any("rough" in note for note in asked(traffic=known(40)).notes)
    (nothing, _) = asked(traffic=known(5)).notes
    assert "35 visitors per variant" in nothing
    assert "below 100" in nothing
    assert not any("decided below" in n for n in asked(traffic=known(5), min_units=20).notes)
    hopeless = asked(traffic=known(0.2))
    assert hopeless.attainable_uplift is None
    assert "no change of any size" in verdict_text(hopeless)
    assert "nothing" in outlook_text(hopeless)


# ---- what a look is told


def test_under_powered_before_and_after() -> None:
    made = replace(plans.new_plan(Config()), adaptive=False, base_rate=0.03)
    found = plans.under_powered(made, 300)
    reached = 300 * 14 / 2 / sample_size.inflation()  # the last look comes one day after enrolment
    assert found == pytest.approx(sample_size.attainable_uplift(0.03, reached))
    assert found == pytest.approx(0.61, abs=0.005)
    shorter = plans.under_powered(replace(made, horizon=timedelta(days=14)), 300)
    assert shorter is not None
    assert shorter > found
    sized = plans.size(made)
    assert sized is not None
    just = sized.units / 14
    assert plans.under_powered(made, just * 1.0001) is None
    assert plans.under_powered(made, just * 0.999) == pytest.approx(made.mde, rel=0.001)
    assert (plans.under_powered(made, 0), plans.under_powered(made, 0.2)) == (math.inf, math.inf)
    more = plans.under_powered(made, 300, variants=3)
    assert more is not None
    assert more > found
    assert plans.under_powered(replace(made, base_rate=None), 300) is None
    assert plans.under_powered(replace(made, finished=True), 300) is None
    assert plans.under_powered(replace(made, base_rate=None), 0) is None
    with pytest.raises(InvalidInput, match="traffic_per_day is -1"):
        plans.under_powered(made, -1)


# ---- from the store


def visits(
    start: date, days: int, per_day: Callable[[date], int], site: str = "UTC", to: str = "hero"
) -> list[Event]:
    """New visitors each day, evenly from 6:00 to 18:00 of the site's clock; every fourth converts at once."""
    found: list[Event] = []
    for day in (start + timedelta(days=d) for d in range(days)):
        first = datetime(day.year, day.month, day.day, 6, tzinfo=zone(site)).astimezone(UTC)
        number = per_day(day)
        for i in range(number):
            unit, at = f"{to}-{day}-{i}", first + 12 * HOUR * i / number
            found.append(exposure(unit, "ab"[i % 2], at, to=to, epoch=0))
            if i % 8 == 0:  # of the control
                found.append(event("lead", unit, at + HOUR, to=to))
            if i % 8 in (0, 2):
                found.append(event("call", unit, at + HOUR, to=to))
    return found


def post(database: Database, found: list[Event]) -> None:
    with database.write() as connection:
        event_store.record(connection, found, [], START)


LEAD_SITE = {
    "optimization_goals": {"lead": 100, "call": 80, "play": 20, "phone_click": 5},
    "primary_goals": ["lead"],
}
MONDAY = date(2026, 3, 2)


def weekend_half(day: date) -> int:
    return 40 if day.weekday() > 4 else 80


def measured(home: Home, now: datetime) -> Any:
    with home.db.read() as connection:
        return site_traffic(connection, home.config, now)


def test_traffic_is_that_of_whole_days(make_site: Callable[..., Home]) -> None:
    home = make_site(LEAD_SITE)
    stored(home.db, running(horizon=15 * DAY))  # from Monday, 9:00
    post(home.db, visits(MONDAY, 10, weekend_half))
    found = measured(home, START + 9 * DAY)  # Wednesday of the second week, 9:00
    assert (found.days[0], found.days[-1], len(found.days)) == (date(2026, 3, 3), date(2026, 3, 10), 8)
    assert found.visitors == 6 * 80 + 2 * 40
    assert found.per_day == 70
    assert found.profile.measured
    assert found.profile.weekdays[0] / found.profile.weekdays[6] == pytest.approx(2)
    assert sum(found.profile.relative[6:18]) / 24 == pytest.approx(found.profile.weekdays[0])
    assert measured(home, START + 30 * HOUR) is None  # no whole day yet
    assert not measured(home, START + 5 * DAY).profile.measured


def test_visitors_who_come_again_count_once_and_robots_never(site: Home) -> None:
    stored(site.db, running())
    again = [exposure("same", "a", START + n * DAY, epoch=0) for n in range(1, 5)]
    robot = exposure("robot", "a", START + 2 * DAY, epoch=0, bot=True)
    other = exposure("other", "b", START + 2 * DAY, epoch=0)
    post(site.db, [*again, robot, other, event("lead", "unseen", START + 2 * DAY)])
    found = measured(site, START + 5 * DAY)
    assert (found.visitors, len(found.days)) == (2, 4)
    with site.db.read() as connection:
        days = [(START + n * DAY, START + (n + 1) * DAY) for n in (1, 2, 4)]
        assert counts.visitors(connection, ["hero"], days) == (
            2,
            [(START + DAY, 1), (START + 2 * DAY, 2), (START + 4 * DAY, 1)],
        )
        assert counts.visitors(connection, ["nothing"], days) == (0, [])
        assert counts.visitors(connection, ["hero"], []) == (0, [])


def test_days_and_hours_are_the_sites(make_site: Callable[..., Home]) -> None:
    """Kolkata is half an hour off the full hours; its 6:00 is 0:30 UTC."""
    home = make_site({**LEAD_SITE, "site": {"time_zone": "Asia/Kolkata"}})
    stored(home.db, running(horizon=15 * DAY))
    post(home.db, visits(MONDAY, 10, lambda _: 24, "Asia/Kolkata"))
    found = measured(home, START + 9 * DAY)
    assert found.visitors == 24 * len(found.days)
    assert [hour for hour in range(24) if found.profile.relative[hour] > 0] == list(range(6, 18))


def test_gaps_between_experiments_are_not_days_without_visitors(make_site: Callable[..., Home]) -> None:
    home = make_site(LEAD_SITE)
    early = replace(running("early", horizon=4 * DAY), status=Status.COMPLETED, ended_at=START + 3 * DAY)
    late = plans.begin(replace(running("late", horizon=9 * DAY), epochs=()), START + 20 * DAY)
    stored(home.db, early, late)
    post(home.db, visits(MONDAY, 3, lambda _: 30, to="early"))
    post(home.db, visits(MONDAY + 20 * timedelta(days=1), 5, lambda _: 50, to="late"))
    found = measured(home, START + 25 * DAY)
    assert [d.day for d in found.days] == [3, 4, 23, 24, 25, 26]
    assert found.visitors == 2 * 30 + 4 * 50
    assert [e.id for e in found.experiments] == ["late", "early"]


def test_synthetic_visitors_count_only_alone(make_site: Callable[..., Home]) -> None:
    home = make_site(LEAD_SITE)
    stored(home.db, replace(running("made"), source="generate"))
    post(home.db, visits(MONDAY, 6, lambda _: 500, to="made"))
    assert measured(home, START + 5 * DAY).synthetic
    assert "synthetic" in plan(home, now=START + 5 * DAY).question.traffic.text
    stored(home.db, running("real"))
    post(home.db, visits(MONDAY, 6, lambda _: 20, to="real"))
    found = measured(home, START + 5 * DAY)
    assert (found.synthetic, found.per_day) == (False, 20)


def test_own_numbers_come_before_assumptions(make_site: Callable[..., Home]) -> None:
    home = make_site(LEAD_SITE)
    before = plan(home, now=START).question
    assert (before.base_rate.source, before.base_rate.value) == ("settings", 0.03)
    assert (before.traffic.source, before.traffic.value) == ("unknown", None)
    goals = (Goal("lead", 100.0, True), Goal("call", 80.0), Goal("phone_click", 1.0))
    stored(home.db, running(horizon=15 * DAY, goals=goals))
    post(home.db, visits(MONDAY, 10, weekend_half))
    post(
        home.db,
        [event("phone_click", f"hero-{MONDAY + timedelta(days=2)}-{i}", START + 2 * DAY) for i in (2, 4, 6)],
    )
    now = START + 9 * DAY
    answer = plan(home, now=now)
    found = answer.question
    assert (found.traffic.source, found.traffic.value) == ("home", 70)
    assert found.base_rate.source == "home"
    assert found.base_rate.value == pytest.approx(0.25, abs=0.02)
    assert "who saw a control did lead (95 % interval" in found.base_rate.text
    assert found.wider is not None
    assert found.wider.goals == ("lead", "phone_click")
    assert found.wider.rate.source == "home"
    assert found.wider.rate.number > found.base_rate.number
    assert found.days.value == 14
    assert (found.adaptive, found.uplift.value) == (True, 0.1)
    assert "the week here         Mon " in outlook_text(answer)
    ready = make_question(home, now, Overrides(0.1, 50, 0.3, 3, 21, True, 0.3))
    assert [k.source for k in (ready.base_rate, ready.traffic, ready.uplift, ready.days)] == ["option"] * 4
    assert (ready.variants, ready.adaptive, ready.floor) == (3, False, pytest.approx(0.1))
    assert ready.wider is not None
    assert ready.wider.rate == SourcedNumber(0.3, "option", "--leads-rate")


def test_days_are_rounded_up_to_whole_weeks(site: Home) -> None:
    for days, weeks in ((0.5, 1), (7, 1), (7.5, 2), (10, 2), (21, 3)):
        given = make_question(site, START, Overrides(days=days)).days
        assert (given.source, given.value) == ("option", 7 * weeks)
        assert (f"{days:g}, rounded up to whole weeks" in given.text) == (days != 7 * weeks)
        assert "the last visitors then get" in given.text


def make_question(home: Home, now: datetime, given: Overrides) -> Question:
    return plan(home, given, now=now).question


def test_a_set_traffic_comes_before_the_measured(make_site: Callable[..., Home]) -> None:
    home = make_site({**LEAD_SITE, "statistics": {"traffic_per_day": 1234, "minimum_detectable_uplift": 0.2}})
    stored(home.db, running())
    post(home.db, visits(MONDAY, 6, weekend_half))
    found = plan(home, now=START + 5 * DAY).question
    assert (found.traffic.source, found.traffic.value) == ("settings", 1234)
    assert found.traffic.text == "settings: statistics.traffic_per_day (file)"
    assert (found.uplift.value, found.uplift.text) == (
        0.2,
        "settings: statistics.minimum_detectable_uplift (file)",
    )


def test_imported_goals_stand_in(make_site: Callable[..., Home]) -> None:
    home = make_site()
    stored(home.db, running(horizon=15 * DAY))  # whose goals these settings do not have
    post(home.db, visits(MONDAY, 10, weekend_half))
    found = plan(home, now=START + 9 * DAY).question
    assert found.base_rate.source == "home"
    assert "did lead or call" in found.base_rate.text
    assert found.wider is None


def test_few_conversions_are_no_rate(make_site: Callable[..., Home]) -> None:
    home = make_site(LEAD_SITE)
    stored(home.db, running())
    post(home.db, visits(MONDAY, 6, lambda _: 14))
    found = plan(home, now=START + 5 * DAY).question
    assert found.traffic.value == 14
    assert found.base_rate.source == "settings"
    assert "no 10 conversions" in found.base_rate.text


# ---- the error rate that the stream of experiments grants


def stream_site(make_site: Callable[..., Home], rate: float | None = 0.1) -> Home:
    return make_site({**LEAD_SITE, "statistics": {"stream_false_discovery_rate": rate}})


GIVEN = Overrides(base_rate=0.03, visitors_per_day=300, uplift=0.1, days=14, fixed=True)


def test_every_number_is_for_what_the_stream_grants(make_site: Callable[..., Home]) -> None:
    home = stream_site(make_site)
    with home.db.read() as connection:
        level = error_budget.granted(connection, 0.1, START)
    assert level == next_level([], [], 0, 0.1) == pytest.approx(0.1 / 9, rel=0.02)
    answer = plan(home, GIVEN, now=START)
    assert (answer.question.alpha, answer.question.asked_alpha) == (level, 0.05)
    sized = sample_size.plan_size(0.03, 0.1, alpha=level, traffic_per_day=300, horizon_days=14)
    assert sized.units > sample_size.plan_size(0.03, 0.1).units
    assert answer.one_look_units_per_variant == sample_size.sample_size(0.03, 0.1, alpha=level)
    assert (answer.units, answer.units_per_variant) == (sized.units, sized.units_per_variant)
    assert (answer.days_needed, answer.attainable_uplift) == (sized.days_needed, sized.attainable_uplift)
    assert answer.found == pytest.approx(sized.power)
    strict = outlook.outlook(replace(answer.question, asked_alpha=None))
    assert (answer.choices, answer.contrasts) == (strict.choices, strict.contrasts)
    assert answer.choices != outlook.outlook(replace(answer.question, alpha=0.05)).choices
    said = "The stream of experiments grants the next one an error rate of 1.1 % instead of 5 %"
    assert outlook_text(answer).count(said) == verdict_text(answer).count(said) == 1
    assert "98.91 % confidence" in outlook_text(answer)


def test_without_a_stream_nothing_is_said_of_one(make_site: Callable[..., Home]) -> None:
    answer = plan(stream_site(make_site, None), GIVEN, now=START)
    assert (answer.question.alpha, answer.question.asked_alpha, answer.units) == (0.05, None, 126_942)
    assert "The stream" not in outlook_text(answer)
    assert "95 % confidence" in outlook_text(answer)


def test_a_rich_stream_grants_the_whole_rate(make_site: Callable[..., Home]) -> None:
    answer = plan(stream_site(make_site, 0.5), GIVEN, now=START)
    assert (answer.question.alpha, answer.question.asked_alpha, answer.units) == (0.05, 0.05, 126_942)
    assert "grants the next one the whole error rate of 5 %." in verdict_text(answer)


def test_the_plan_is_what_the_next_experiment_gets(make_site: Callable[..., Home]) -> None:
    """Asked of a draft and of the settings; a running one keeps what it was granted."""
    home = stream_site(make_site)
    stored(home.db, replace(running("old"), ended_at=START, status=Status.ARCHIVED))
    wanted = NewExperiment("hero", (Variant("a", "", is_control=True), Variant("b", "")), start=False)
    create_experiment(home, wanted, now=START, actor="test")
    later = START + 30 * DAY
    of_settings, of_draft = (plan(home, now=later, experiment_id=key) for key in (None, "hero"))
    with begin(home, now=later, actor="x") as transaction:
        started = lifecycle.start(transaction, experiments.get(transaction.connection, "hero"))
    settled = started.experiment.plan
    assert settled.alpha < next_level([], [], 0, 0.1)  # the second of a stream that has found nothing
    assert of_settings.question.alpha == of_draft.question.alpha == settled.alpha
    assert of_settings.units == of_draft.units == settled.units
    after = plan(home, now=later + DAY, experiment_id="hero")
    assert (after.question.alpha, after.question.asked_alpha) == (settled.alpha, None)


# ---- an experiment


def test_a_running_experiment_has_days_left(make_site: Callable[..., Home]) -> None:
    home = make_site(LEAD_SITE)
    first = {"base_rate": 0.25, "mde": 0.5, "units": 1200, "rule": 1}  # it ends with its sample
    stored(home.db, running(**first))
    post(home.db, visits(MONDAY, 9, lambda _: 80))
    now = datetime(
        2026, 3, 10, 9, tzinfo=UTC
    )  # day 8; the visitors of the first three hours came before the start
    answer = plan(home, now=now, experiment_id="hero")
    state = answer.running
    assert state is not None
    assert (state.enrolled, state.planned_units) == (20 * 0 + 8 * 80 + 20, 1200)
    assert state.counted == 7 * 80
    assert (state.started_at, state.enrolment_ends_at, state.horizon_ends_at) == (
        START,
        START + 13 * DAY,
        START + 14 * DAY,
    )
    assert answer.question.traffic.source == "experiment"
    assert answer.question.traffic.value == pytest.approx(660 / 8, rel=0.01)
    assert state.expected_units == pytest.approx(660 + 5 * 82.5, rel=0.01)
    assert (state.decided_by, state.decided_at, state.days_left) == ("horizon", START + 14 * DAY, 6)
    sized = plans.size(running(**first).plan)
    assert sized is not None
    assert answer.units == sized.units
    assert answer.verdict == (ENOUGH if state.expected_units >= sized.units else CANNOT_TELL)

    stored_units = plan(home, Overrides(visitors_per_day=2000), now=now, experiment_id="hero").running
    assert stored_units is not None
    assert stored_units.decided_by == "sample"
    assert timedelta(days=1.1) < stored_units.decided_at - now < timedelta(days=1.6)
    text = outlook_text(answer, "Europe/Paris")
    assert "running since         Mon 2 Mar, 10:00" in text
    assert "660 of 1,200 planned; 560 counted" in text
    assert "in 6 days: its time is up" in text


def test_an_experiment_that_has_its_sample_goes_on_to_its_last_look(make_site: Callable[..., Home]) -> None:
    home = make_site(LEAD_SITE)
    stored(home.db, running(base_rate=0.25, mde=0.5, units=500, horizon=15 * DAY))
    post(home.db, visits(MONDAY, 9, lambda _: 80))
    answer = plan(home, now=START + 8 * DAY, experiment_id="hero")
    assert answer.running is not None
    assert answer.running.enrolled > 500
    assert (answer.running.decided_by, answer.running.decided_at) == ("horizon", START + 15 * DAY)
    expected = answer.running.expected_units
    assert answer.found == pytest.approx(
        sample_size.power_of(0.25, 0.5, expected / 2 / answer.inflation), abs=1e-9
    )


def test_a_running_experiment_that_lets_in_a_part_has_that_part_of_the_visitors(
    make_site: Callable[..., Home],
) -> None:
    home = make_site({**LEAD_SITE, "statistics": {"traffic_per_day": 1000}})
    stored(home.db, running(base_rate=0.25, mde=0.5, admitted=0.2, horizon=8 * DAY))
    answer = plan(home, now=START + HOUR, experiment_id="hero")
    assert answer.question.traffic.value == pytest.approx(200)
    assert "20 % of them take part" in answer.question.traffic.text
    assert answer.enrolment_days == 7
    whole = plan(home, Overrides(visitors_per_day=500), now=START + HOUR, experiment_id="hero").question
    assert whole.traffic.value == pytest.approx(100)


def test_traffic_is_that_of_the_site_where_only_a_part_took_part(make_site: Callable[..., Home]) -> None:
    home = make_site(LEAD_SITE)
    stored(home.db, running(horizon=15 * DAY, admitted=0.25), running("whole", horizon=5 * DAY))
    post(home.db, visits(MONDAY, 10, lambda _: 20))
    found = measured(home, START + 9 * DAY)  # eight days; on the first three everybody met the other one
    assert found.per_day == pytest.approx(20 / ((3 * 1 + 5 * 0.25) / 8))
    stored(home.db, running("half", horizon=15 * DAY, admitted=0.5))
    assert measured(home, START + 9 * DAY).admitted == pytest.approx((3 * 1 + 5 * (1 - 0.75 * 0.5)) / 8)


def test_the_week_weighs_days_once_each_weekday_was_seen_twice(make_site: Callable[..., Home]) -> None:
    home = make_site(LEAD_SITE)
    stored(home.db, running(horizon=22 * DAY))
    post(home.db, visits(MONDAY, 17, weekend_half))
    early, late = measured(home, START + 14 * DAY), measured(home, START + 15 * DAY)  # from Monday, 9:00
    assert (len(early.days), early.profile.measured, early.weekly) == (13, True, FLAT)
    assert (len(late.days), late.weekly) == (14, late.profile)
    with begin(home, now=START + 15 * DAY, actor="x") as transaction:
        young = running("next", adaptive=True, horizon=15 * DAY)
        draft = replace(young, status=Status.DRAFT, started_at=None, epochs=())
        experiments.add(transaction.connection, draft)
        epochs = lifecycle.start(transaction, draft).experiment.epochs
    by_weekday = {e.starts_at.weekday(): e.weight for e in epochs[1:-1]}
    assert by_weekday[5] / by_weekday[1] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("keys", [("a", "b"), ("a", "b", "c")])
def test_a_running_experiment_that_cannot_tell(make_site: Callable[..., Home], keys: tuple[str, ...]) -> None:
    home = make_site(LEAD_SITE)
    stored(home.db, running(keys=keys, base_rate=0.03, mde=0.1, units=117_064))
    post(home.db, visits(MONDAY, 9, lambda _: 80))
    now = datetime(2026, 3, 10, 9, tzinfo=UTC)
    answer = plan(home, now=now, experiment_id="hero")
    assert answer.running is not None
    assert answer.verdict == CANNOT_TELL
    alpha = 0.05 / (len(keys) - 1)
    factor = sample_size.inflation(variants=len(keys), alpha=alpha)
    reached = answer.running.expected_units / len(keys) / factor
    attainable = sample_size.attainable_uplift(0.03, reached, alpha=alpha)
    assert answer.attainable_uplift == pytest.approx(attainable)
    assert answer.found == pytest.approx(sample_size.power_of(0.03, 0.1, reached, alpha=alpha))
    assert answer.one_look_units_per_variant == sample_size.sample_size(0.03, 0.1, alpha=alpha)
    assert "Let it end as planned" in verdict_text(answer)
    late = plan(home, now=START + 13.5 * DAY, experiment_id="hero").running
    assert late is not None
    assert late.expected_units == late.enrolled
    assert late.days_left == 0.5


def test_a_new_experiment_borrows_the_traffic_of_the_site(make_site: Callable[..., Home]) -> None:
    home = make_site(LEAD_SITE)
    stored(home.db, running(), replace(running("draft"), status=Status.DRAFT, started_at=None, epochs=()))
    post(home.db, visits(MONDAY, 6, weekend_half))
    now = START + 5 * DAY
    draft = plan(home, now=now, experiment_id="draft")
    assert draft.running is None
    assert draft.question.traffic.source == "home"
    assert (draft.question.uplift.source, draft.question.days.source) == ("experiment", "experiment")
    stored(home.db, plans.begin(replace(running("young"), epochs=()), now - HOUR))
    young = plan(home, now=now, experiment_id="young")
    assert young.running is not None
    assert young.running.enrolled == 0
    assert young.question.traffic.source == "home"
    with home.db.read() as connection:
        assert experiment_traffic(connection, replace(running(), started_at=None), now) is None


def test_a_settled_plan_is_not_bent(make_site: Callable[..., Home]) -> None:
    home = make_site(LEAD_SITE)
    over = replace(running("over"), status=Status.COMPLETED, ended_at=START + DAY)
    stored(home.db, running(), over)
    now = START + 2 * DAY
    for bent in (
        Overrides(base_rate=0.1),
        Overrides(uplift=0.1),
        Overrides(variants=3),
        Overrides(days=3),
        Overrides(fixed=True),
    ):
        with pytest.raises(InvalidInput, match="part of the plan of hero, which is settled"):
            plan(home, bent, now=now, experiment_id="hero")
    with pytest.raises(Conflict, match="over has ended"):
        plan(home, now=now, experiment_id="over")
    with pytest.raises(NotFound):
        plan(home, now=now, experiment_id="nothing")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (Overrides(base_rate=3), "base_rate is 3: give a fraction between 0 and 1"),
        (Overrides(base_rate=math.nan), "base_rate is nan"),
        (Overrides(leads_rate=1), "leads_rate is 1"),
        (Overrides(visitors_per_day=0), "visitors_per_day is 0: give a number above 0"),
        (Overrides(visitors_per_day=math.inf), "visitors_per_day is inf"),
        (Overrides(days=-1), "days is -1"),
        (Overrides(uplift=0), "uplift is 0: give a fraction above 0"),
        (Overrides(uplift=20), "uplift is 20"),
        (Overrides(variants=1), "variants is 1: give at least 2"),
        (Overrides(base_rate=0.6, uplift=0.8), "takes the rate 0.6"),
    ],
)
def test_bad_numbers_are_named(tmp_path: Path, given: Overrides, says: str) -> None:
    home = create_home(tmp_path / "home")
    with pytest.raises(InvalidInput, match=re.escape(says)):
        plan(home, given, now=START)
    home.db.close()


# ---- the command and its page


def cro(*arguments: str) -> str:
    found = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def block(title: str, language: str) -> str:
    found = re.search(rf"<!-- test: {title} -->\n```{language}\n(.*?)```", DOCS, re.DOTALL)
    assert found, title
    return found[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_documented_commands_run(folder: Path) -> None:
    outputs = [cro(*line.split()[1:]) for line in block("commands", "sh").splitlines()]
    assert "synthetic visitors" in outputs[2]
    assert "This experiment" in outputs[3]
    answer = json.loads(outputs[4])
    assert (answer["question"]["variants"], answer["question"]["uplift"]["value"]) == (3, 0.2)
    assert answer["text"].startswith(("Cannot tell", "There are"))


def test_the_documented_output_is_the_output(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cro("init", "--home", "site")
    monkeypatch.setenv("CRO_HOME", str(folder / "site"))
    command = block("output", "sh").split()[1:]
    shown = DOCS.split("```text\n")[1].split("```")[0]
    assert cro(*command) == shown


def test_the_documented_settings_are_those_of_the_choice(folder: Path) -> None:
    cro("init", "--home", "site")
    given = json.loads(block("settings", "json"))
    options = ["--base-rate", "0.03", "--visitors-per-day", "300"]
    rows = json.loads(cro("plan", "--home", "site", "--json", *options))["choices"]
    row = next(r for r in rows if r["name"].startswith("wider") and r["days"] == 56)
    flat = {f"{k}.{n}": x for k, v in given.items() if isinstance(v, dict) for n, x in v.items()}
    assert row["settings"] == flat | {"primary_goals": given["primary_goals"]}


def claims() -> list[str]:
    """What the page says in its prose, made of computed numbers."""
    small = asked(wider=WiderGoal(("a", "b"), known(0.06)))
    by_days = {(r.days, r.base_rate): r for r in small.choices[1:]}

    def shows(days: int, rate: float = 0.03) -> str:
        return f"+{by_days[days, rate].attainable_uplift or 0:.0%}".replace("%", " %")

    def takes(uplift: float) -> str:
        return f"{next(c.days_needed for c in small.contrasts if c.uplift == uplift):.0f} days"

    found = round((small.found or 0) * 100)
    each = 300 * 14 // 2
    converted = each * 0.03
    four = f"+{asked(variants=4).attainable_uplift or 0:.0%}".replace("%", " %")
    granted = next_level([], [], 0, 0.1)
    strict = asked(alpha=granted)
    return [
        f"as many weeks as are enough, at most {plans.LONGEST_WEEKS}",
        f"In 14 days {2 * each:,} visitors come: {each:,} for each version, of whom {converted:.0f} convert",
        f"Chance moves such a number by {math.sqrt(converted * 0.97):.0f} up or down",
        f"better by about {shows(14)} shows clearly, while a true +10 % would show in {found} of 100 such experiments",
        f"The other {100 - found} would end undecided",
        f"To find +10 % reliably, {small.units_per_variant:,} visitors per version are needed, and that takes "
        f"{small.days_needed:.0f} days",
        f"would need {small.one_look_units_per_variant:,} per version. The plan takes {sample_size.inflation():.3f} times",
        "two weeks of new visitors are decided on day 15 at the latest",
        f"Its price is those {100 * (sample_size.FUTILITY - 1):.1f} % more visitors",
        "Futility ends 95 to 98 of 100 experiments",  # simulated, as is the next
        "that 11 to 18 of 100 experiments with the planned uplift end so",
        "(errors of .02)",
        f"keeps its plan and its factors ({sample_size.inflation(rule=1):.2f}, and for moving shares "
        f"{sample_size.inflation(adaptive=True, floor=0.3, rule=1):.1f} at a floor of 30 %)",
        f"a year holds {by_days[14, 0.03].tests_per_year} experiments of two weeks, but "
        f"{by_days[56, 0.03].tests_per_year} of eight weeks",
        f"With four versions the same 14 days show only {four} instead of {shows(14)}",
        f"Eight weeks show {shows(56)}, 14 weeks {shows(98)}",
        f"If 6 % of visitors do any of the three instead of 3 % one of them, eight weeks show {shows(56, 0.06)} instead "
        f"of {shows(56)}",
        f"the first one gets {granted * 100:.2g} %",
        verdict_text(asked(alpha=granted, asked_alpha=0.05)).split(". ")[-1].split(":")[0],
        f"would then need {strict.units_per_variant:,} visitors per version instead of {small.units_per_variant:,} to "
        f"find +10 %, and {strict.days_needed:.0f} days",
        f"rarely worth {shows(14)}",
        f"can be worth +30 %, which takes {takes(0.3)}. +50 % takes {takes(0.5)}",
    ]


PREMISES = {
    "100", "+10 %", "33", "30",  # what a rate and an uplift are
    "28", "14", "13", "24", "10",  # days measured and planned, hours to convert, least conversions
    "300", "3 %", "80", "5", "80 %",  # the small site; power and false alarms
    "90 %", "10 %",  # the columns of the tables
}  # fmt: skip


def test_every_number_of_the_page_is_true() -> None:
    prose = re.sub(r"```.*?```|^\|.*?$|`[^`]*`|\*\*", "", DOCS, flags=re.DOTALL | re.MULTILINE)
    prose = " ".join(prose.split())
    for claim in claims():
        assert claim in prose
        prose = prose.replace(claim, "")
    left = set(re.findall(r"\+?\d[\d,.]*\d(?: %)?|\+?\d(?: %)?(?!\.\s)", prose))
    assert left <= PREMISES, left - PREMISES


def test_the_factors_of_the_page_are_those_of_the_planner() -> None:
    tables = "\n".join(line for line in DOCS.splitlines() if line.startswith("|"))
    families = {
        "hwang_shih_decani": (-4, -6, -8),
        "obrien_fleming": (None,),
        "kim_demets": (3,),
        "pocock": (None,),
    }
    for family, parameters in families.items():
        for parameter in parameters:
            spending = Spending(family, parameter)
            often, sure = (sample_size.inflation_of_looks(spending, power=power) for power in (0.8, 0.9))
            (line,) = (
                row
                for row in tables.splitlines()
                if row.startswith(f"| `{family}`") and (parameter is None or f"parameter {parameter}" in row)
            )
            assert f"| {often:.3f} ({sure:.3f}) |" in line
    for futility, name in ((False, "without"), (True, "with")):
        moving = [
            sample_size.inflation(adaptive=True, floor=floor, futility=futility) for floor in (0.3, 0.2, 0.1)
        ]
        fixed = sample_size.inflation(futility=futility)
        assert (
            f"| factor {name} futility | {fixed:.3f} | {' | '.join(f'{m:.2f}' for m in moving)} |" in tables
        )
    assert f"| {sample_size.SWING} | simulated |" in tables
    assert f"| {sample_size.FUTILITY} | simulated; only" in tables
    dear = plans.spending_warning(Spending("pocock"), alpha=0.05, power=0.8)
    assert dear is not None
    assert "22 % more visitors than" in dear
    assert "22 % more visitors than the default" in tables


def test_every_option_is_on_the_page(folder: Path) -> None:
    options = set(re.findall(r"--[a-z][a-z-]+", cro("plan", "--help"))) - {"--help", "--home"}
    assert {o for o in options if o not in DOCS} == set()


def test_a_home_with_a_moved_clock_plans_at_its_time(tmp_path: Path) -> None:
    home = create_home(tmp_path / "home", LEAD_SITE)
    (home.data / "clock.json").write_text('{"now": "2026-03-11T09:00:00Z"}')
    set_clock(home, START + 9 * DAY)
    stored(home.db, running(horizon=15 * DAY))
    post(home.db, visits(MONDAY, 10, weekend_half))
    home.db.close()
    answer = json.loads(cro("plan", "--home", str(tmp_path / "home"), "--json"))
    assert answer["question"]["traffic"]["value"] == 70
