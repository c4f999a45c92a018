"""What is known when an experiment starts: the level that the stream grants it, and its traffic."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from helpers.saffron import in_turn, saffron
from numpy.random import default_rng

from cro_core.clock import iso
from cro_core.config import resolve
from cro_core.domain import Experiment, Reason, Status, Variant, Verdict
from cro_core.evidence import Comparison, Decision, Evidence
from cro_core.home import Home, create_home, open_home, set_clock
from cro_core.planning import plans
from cro_core.planning.plans import settings_warnings
from cro_core.samples.sample_media import draw_sample_media
from cro_core.statistics import multiplicity
from cro_core.statistics.multiplicity import Trial
from cro_core.storage import decisions, experiments, journal
from cro_core.workflows import approval, error_budget, lifecycle
from cro_core.workflows.create_experiment import NewExperiment, create_experiment
from cro_core.workflows.ingest import ingest
from cro_core.workflows.orchestrate import orchestrate
from cro_core.workflows.site_traffic import expected_per_day, site_traffic

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
RATE = 0.1
SLACK = {"base_rate": 0.2, "minimum_detectable_uplift": 0.8}
"""85 visitors per variant at 5 %: few enough to be posted."""

WIN, LOSS, CLOSE, NOTHING = ((60, 140), (140, 60), (60, 77), (60, 62))
"""Converted of 400 each: p far below any level, the same the other way round, p about .1, p about .8."""


def make_home(path: Path, **statistics: Any) -> Home:
    settings = {
        "statistics": SLACK | statistics,
        "smart_traffic_allocation": {"enabled": False},
        "automation": {"min_conversion_difference": 0.1},
    }
    create_home(path, settings, environ={})
    set_clock(open_home(path, environ={}), START)
    return open_home(path, environ={})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "site", stream_false_discovery_rate=RATE)


def changed(home: Home, section: str = "statistics", **values: Any) -> Home:
    """The same home with other settings, as after an edit of its file."""
    file = home.path / "cro-config.json"
    settings = json.loads(file.read_text())
    settings[section] |= values
    file.write_text(json.dumps(settings))
    home.db.close()
    return open_home(home.path, environ={})


def create(home: Home, key: str, slot: str = "hero", **more: Any) -> Experiment:
    two = (Variant("a", "", is_control=True), Variant("b", ""))
    wanted = replace(NewExperiment(key, two, slot=slot), **more)
    return create_experiment(home, wanted, now=home.clock(), actor="test")


def visit(home: Home, key: str, converting: Sequence[int], visitors: Sequence[int] = (400, 400)) -> None:
    """Visitors of this hour, and how many of them convert."""
    at = home.clock() + 6 * HOUR
    events: list[dict[str, Any]] = []
    for variant, number, buyers in zip("ab", visitors, converting, strict=True):
        for n in range(number):
            who = {"user_id": f"{key}{variant}{n}", "timestamp": iso(at), "test_id": key}
            shown = {"event_type": "exposure", "variant_id": variant, "epoch": 0, "propensity": 0.5}
            events += [who | shown] + [who | {"event_type": "contact_form_submit"}] * (n < buyers)
    assert ingest(home, events, now=at).accepted == len(events)


def cycle_after(home: Home, days: float) -> tuple[str, ...]:
    set_clock(home, home.clock() + days * DAY)
    report = orchestrate(home, now=home.clock())
    assert report.failures == ()
    return report.changes


def run(home: Home, key: str, converting: Sequence[int], visitors: Sequence[int] = (400, 400)) -> Experiment:
    """An experiment from its start to its end by the cycle."""
    created = create(home, key)
    visit(home, key, converting, visitors)
    cycle_after(home, 15)
    assert get(home, key).status is Status.ARCHIVED
    return created


def get(home: Home, key: str) -> Experiment:
    with home.db.read() as connection:
        return experiments.get(connection, key)


def begun(home: Home, key: str) -> dict[str, Any]:
    """What the audit trail says of a start."""
    with home.db.read() as connection:
        (entry,) = (e for e in journal.trail(connection, subject=key) if e["action"] == lifecycle.START)
    return entry["after"]  # type: ignore[no-any-return]


def final(home: Home, key: str) -> tuple[Verdict, float | None]:
    with home.db.read() as connection:
        (decision,) = decisions.latest(connection, key)
    return decision.verdict, decision.evidence.comparisons[0].p_adjusted


def granted(home: Home) -> float:
    with home.db.read() as connection:
        return error_budget.granted(connection, RATE, home.clock())


def test_a_level_is_what_saffron_grants_on_the_same_history(home: Home) -> None:
    """Wins, losses, near misses, a broken split, an end by hand and a pair side by side."""
    outcomes = {"one": NOTHING, "two": WIN, "three": CLOSE, "four": LOSS, "five": WIN, "six": NOTHING}
    for key, converting in outcomes.items():
        run(home, key, converting)
    run(home, "broken", (60, 70), (400, 200))
    create(home, "by-hand")
    visit(home, "by-hand", WIN)
    set_clock(home, home.clock() + DAY)
    lifecycle.end_experiment(home, "by-hand", now=home.clock(), actor="ann", winner="b")
    create(home, "left")
    create(home, "right", slot="cta")
    visit(home, "right", WIN)
    cycle_after(home, 8)  # no winner is shipped in the first week
    create(home, "late", slot="cta")  # knows of right's result, not of left's

    keys = [*outcomes, "broken", "by-hand", "left", "right", "late"]
    judged = {key: final(home, key) for key in (*outcomes, "broken", "right")}
    assert [judged[key][0] for key in outcomes] == [
        Verdict.INCONCLUSIVE, Verdict.SHIP, Verdict.INCONCLUSIVE, Verdict.KEEP_CONTROL, Verdict.SHIP,
        Verdict.INCONCLUSIVE,
    ]  # fmt: skip
    assert (judged["broken"][0], judged["right"][0]) == (Verdict.INVALID, Verdict.SHIP)
    none = ("broken", "by-hand", "left", "late")
    trials = []
    for key in keys:
        experiment = get(home, key)
        assert experiment.started_at is not None
        end = None if experiment.ended_at is None else experiment.ended_at.timestamp()
        trials.append(Trial(experiment.started_at.timestamp(), end, None if key in none else judged[key][1]))
    levels = [row.level for row in saffron(trials, RATE)]
    assert [begun(home, key)["stream_level"] for key in keys] == levels
    assert [get(home, key).plan.alpha for key in keys] == [min(0.05, level) for level in levels]
    assert sorted(levels)[-3] < 0.05 < max(levels)
    assert levels[2] > levels[1]  # a discovery pays
    assert levels[4] > levels[3]
    assert len(set(levels)) >= 8
    for key, level in zip(keys, levels, strict=True):
        verdict, p = judged.get(key, (None, None))
        if verdict in (Verdict.SHIP, Verdict.KEEP_CONTROL):
            assert p is not None
            assert p <= min(0.05, level)  # a boundary is crossed exactly where the p-value passes the level
        elif p is not None and verdict is Verdict.INCONCLUSIVE:
            assert p > level
    with home.db.read() as connection:
        assert [(e.id, trial) for e, trial in error_budget.history(connection)] == list(
            zip(keys, trials, strict=True)
        )


def test_the_sample_is_planned_for_the_level(home: Home) -> None:
    first = create(home, "first")
    (row,) = saffron([Trial(0)], RATE)
    assert first.plan.alpha == row.level < 0.05
    sized = plans.size(first.plan)
    assert sized is not None
    usual = plans.new_plan(home.config).units
    assert usual is not None
    assert first.plan.units == sized.units > usual
    assert first.plan == replace(plans.new_plan(home.config), alpha=row.level, units=sized.units)
    assert get(home, "first") == first
    assert begun(home, "first") == {
        "status": "running",
        "slot": "hero",
        "planned_units": sized.units,
        "enrolment_weeks": 2,
        "admitted": 1.0,
        "stream_level": row.level,
        "alpha": row.level,
    }


def test_three_variants_are_planned_as_three(home: Home) -> None:
    variants = tuple(Variant(key, "", is_control=key == "a") for key in "abc")
    made = create(home, "three", variants=variants)
    sized = plans.size(made.plan, variants=3)
    assert sized is not None
    assert made.plan.units == sized.units


def test_an_experiment_is_never_run_looser_than_it_was_planned(tmp_path: Path) -> None:
    home = make_home(tmp_path / "generous", stream_false_discovery_rate=0.5)
    made = create(home, "hero")
    assert begun(home, "hero")["stream_level"] > made.plan.alpha == 0.05
    assert made.plan == plans.new_plan(home.config)


def test_a_result_that_only_a_looser_level_would_pass_pays_nothing(tmp_path: Path) -> None:
    home = make_home(tmp_path / "strict", stream_false_discovery_rate=RATE)
    home = changed(home, section="automation", confidence_level=0.999)
    run(home, "strict", (60, 93))
    verdict, p = final(home, "strict")
    assert p is not None
    assert (verdict, begun(home, "strict")["alpha"]) == (Verdict.INCONCLUSIVE, 0.001)
    assert 0.001 < p < begun(home, "strict")["stream_level"]
    unpaid = saffron(in_turn([0.4, 1.0]), RATE)[1].level
    assert granted(home) == unpaid


def test_off_nothing_changes(tmp_path: Path) -> None:
    home = make_home(tmp_path / "off")
    for key, converting in {"one": WIN, "two": NOTHING}.items():
        with home.db.read() as connection:
            per_day = expected_per_day(connection, home.config, home.clock())
        made = run(home, key, converting)
        assert made.plan == plans.settled(plans.new_plan(home.config), per_day)
        assert made.reasoning == ""
        assert set(begun(home, key)) == {"status", "slot", "planned_units", "enrolment_weeks", "admitted"}


def test_what_others_ran_is_no_part_of_the_stream(home: Home) -> None:
    before = granted(home)
    variants = (Variant("a", "A", is_control=True), Variant("b", "B"))
    with home.db.write() as connection:
        for source in ("import", "generate"):
            draft = Experiment(
                source,
                source,
                variants,
                plans.new_plan(home.config),
                slot=source,
                source=source,
                created_at=START,
            )
            experiments.add(connection, plans.begin(draft, START))
    assert granted(home) == before
    create(home, "draft", start=False)
    assert granted(home) == before
    create(home, "ours")
    assert granted(home) < before


def test_a_result_from_before_the_stream_pays_only_if_it_passes_the_streams_level(tmp_path: Path) -> None:
    home = make_home(tmp_path / "late")
    run(home, "loose", (60, 86))
    verdict, p = final(home, "loose")
    assert p is not None
    first, unpaid = (row.level for row in saffron(in_turn([p, 1.0]), RATE))
    assert verdict is Verdict.SHIP
    assert first < p < 0.05  # won at 5 %, and would not have at the level of a stream
    home = changed(home, stream_false_discovery_rate=RATE)
    assert create(home, "next").plan.alpha == unpaid
    assert multiplicity.next_level([Trial(0, 1, p)], [0.05], 2, RATE) > unpaid  # what it would have bought


def test_the_rate_is_an_argument_that_counts(home: Home) -> None:
    with home.db.read() as connection:
        low, high = (error_budget.granted(connection, rate, START) for rate in (0.05, 0.2))
    assert (low, high) == pytest.approx((granted(home) / 2, granted(home) * 2))


def test_the_cycle_starts_drafts_and_its_own_ideas_at_their_levels(home: Home) -> None:
    draw_sample_media(home.media, default_rng(7))
    create(home, "first", slot="footer", start=False)
    create(home, "second", slot="header", start=False)
    assert get(home, "first").plan.alpha == 0.05
    changes = cycle_after(home, 0)
    with home.db.read() as connection:
        began = experiments.with_status(connection, Status.RUNNING)
        order = [experiment.id for experiment, _ in error_budget.history(connection)]
    assert len(began) == len(changes) > 2
    lines = "".join(changes)
    for key in ("first", "second"):
        assert (
            f"{key}: started. New visitors count for 2 weeks, the last look comes 24 hours later; an effect that fades "
            "may add a week."
        ) in lines
    trials = [Trial(0) for _ in began]
    levels = [row.level for row in saffron(trials, RATE)]
    assert sorted(get(home, key).plan.alpha for key in order) == sorted(levels)
    assert [begun(home, key)["alpha"] for key in ("first", "second")] == levels[:2]


def test_a_clock_that_was_set_back_starts_experiments_all_the_same(home: Home) -> None:
    create(home, "first")
    set_clock(home, START - DAY)
    lifecycle.end_experiment(home, "first", now=home.clock(), actor="ann")
    second = create(home, "second")
    assert 0 < second.plan.alpha < get(home, "first").plan.alpha


def test_a_long_dry_spell_leaves_a_level_that_can_still_be_planned_and_won(home: Home) -> None:
    plan = plans.new_plan(home.config)
    variants = (Variant("a", "A", is_control=True), Variant("b", "B"))
    with home.db.write() as connection:
        for number in range(120):
            old = START - (300 - number) * DAY
            draft = Experiment(f"old{number}", "Old", variants, plan, slot=f"s{number}", created_at=old)
            ended = replace(plans.begin(draft, old), status=Status.ARCHIVED, ended_at=old + DAY)
            experiments.add(connection, ended)
    made = create(home, "hope")
    assert made.plan.alpha < 1e-5
    assert made.plan.units is not None
    visit(home, "hope", WIN)
    assert "hope: ship" in cycle_after(home, 15)
    p = final(home, "hope")[1]
    assert p is not None
    assert p <= made.plan.alpha


def test_the_setting_says_what_it_costs() -> None:
    (told,) = resolve({"statistics": {"stream_false_discovery_rate": RATE}}, {}).warnings
    first = multiplicity.next_level([], [], 0, RATE)
    assert f"about {first:.1%}" in told
    assert "more visitors" in told


class TestTraffic:
    """What a site's visitors cannot show is said before the first of them comes."""

    def test_too_few_visitors_are_told_with_what_they_can_show(self, tmp_path: Path) -> None:
        home = make_home(tmp_path / "quiet", traffic_per_day=10)
        made = create(home, "hero", hypothesis="films sell")
        uplift = plans.under_powered(made.plan, 10)
        assert uplift is not None
        assert uplift > made.plan.mde == 0.8
        assert begun(home, "hero")["attainable_uplift"] == uplift
        assert made.reasoning == (
            f"At this traffic only a gain of {uplift:.0%}".replace("%", " %")
            + " or more can be shown; planned was 80.0 %. `cro plan` shows choices."
        )
        assert get(home, "hero").reasoning == made.reasoning

    def test_the_cycle_says_it_of_a_persons_draft(self, tmp_path: Path) -> None:
        home = make_home(tmp_path / "quiet", traffic_per_day=10)
        draw_sample_media(home.media, default_rng(7))
        create(home, "mine", slot="footer", start=False)
        (change,) = cycle_after(home, 0)  # and proposes nothing of its own while that one runs
        assert change.startswith("mine: started. New visitors count for 2 weeks")
        assert ". At this traffic only a gain of" in change
        assert "planned was 80.0 %" in change

    def test_the_cycle_asks_for_one_patient_experiment_in_the_place_of_many_that_cannot_tell(
        self, tmp_path: Path
    ) -> None:
        home = make_home(tmp_path / "quiet", traffic_per_day=10)
        draw_sample_media(home.media, default_rng(7))
        (change,) = cycle_after(home, 0)
        assert (
            ": proposed for 5 weeks, waiting for approval. At 10 visitors a day 2 weeks of new visitors show only"
            in change
        )
        assert cycle_after(home, 1) == ()
        with home.db.read() as connection:
            (proposal,) = decisions.recommendations(connection)
            assert experiments.with_status(connection, Status.RUNNING) == []
        said = approval.approve(home, proposal["id"], now=home.clock(), actor="ann")
        made = get(home, said.partition(":")[0])
        assert (plans.enrolment_weeks(made.plan), made.plan.adaptive, len(made.epochs)) == (5, False, 1)
        assert made.plan.horizon == timedelta(weeks=5, hours=24)
        assert "New visitors count for 5 weeks" in said
        assert plans.under_powered(made.plan, 10) is None
        assert "At this traffic" not in said

    def test_the_longest_horizon_is_proposed_where_none_is_enough(self, tmp_path: Path) -> None:
        home = make_home(tmp_path / "quieter", traffic_per_day=1)
        draw_sample_media(home.media, default_rng(7))
        (change,) = cycle_after(home, 0)
        assert "proposed for 14 weeks" in change
        plan = plans.new_plan(home.config)
        assert plan.units is not None
        assert [plans.weeks_needed(plan, plan.units / 7 / weeks) for weeks in (20, 14, 9.5, 3, 0.1)] == [
            14,
            14,
            10,
            3,
            1,
        ]

    def test_where_no_gain_of_any_size_can_be_shown(self, tmp_path: Path) -> None:
        home = make_home(tmp_path / "dead", traffic_per_day=0.01)
        made = create(home, "hero")
        assert "no gain of any size can be shown" in made.reasoning
        assert begun(home, "hero")["attainable_uplift"] is None

    def test_enough_or_unknown_traffic_says_nothing(self, tmp_path: Path) -> None:
        for name, settings in {"busy": {"traffic_per_day": 1_000}, "new": {}}.items():
            home = make_home(tmp_path / name, **settings)
            made = create(home, "hero")
            keys = {"status", "slot", "planned_units", "enrolment_weeks", "admitted"}
            assert (made.reasoning, set(begun(home, "hero"))) == ("", keys)

    def test_it_is_measured_where_no_setting_says(self, tmp_path: Path) -> None:
        home = make_home(tmp_path / "measured")
        create(home, "first")
        visit(home, "first", (6, 6), (30, 30))
        set_clock(home, START + 10 * DAY)
        with home.db.read() as connection:
            measured = site_traffic(connection, home.config, home.clock())
        assert measured is not None
        assert measured.per_day == pytest.approx(6)
        made = create(home, "second", slot="cta")
        assert begun(home, "second")["attainable_uplift"] == plans.under_powered(made.plan, measured.per_day)
        told = create(changed(home, traffic_per_day=1_000), "third", slot="footer")
        assert told.reasoning == ""  # the setting comes first

    def test_it_is_asked_at_the_level_of_the_stream(self, tmp_path: Path) -> None:
        """Traffic that is just enough at 5 % is not at a tenth of it."""
        per_day = 22.0
        plain = make_home(tmp_path / "plain", traffic_per_day=per_day)
        strict = make_home(tmp_path / "strict", traffic_per_day=per_day, stream_false_discovery_rate=RATE)
        assert "attainable_uplift" not in begun(plain, create(plain, "hero").id)
        made = create(strict, "hero")
        assert begun(strict, "hero")["attainable_uplift"] == plans.under_powered(made.plan, per_day)

    def test_more_variants_need_more(self, tmp_path: Path) -> None:
        home = make_home(tmp_path / "three", traffic_per_day=22)
        made = create(home, "hero", variants=tuple(Variant(key, "", is_control=key == "a") for key in "abc"))
        assert begun(home, "hero")["attainable_uplift"] == plans.under_powered(made.plan, 22, variants=3)
        assert create(home, "two", slot="cta").reasoning == ""

    def test_a_person_who_approves_is_told(self, tmp_path: Path) -> None:
        quiet = make_home(tmp_path / "asked", traffic_per_day=10)
        home = changed(quiet, section="automation", auto_start_new_tests=False)
        draw_sample_media(home.media, default_rng(7))
        cycle_after(home, 0)
        with home.db.read() as connection:
            proposal = decisions.recommendations(connection)[0]["id"]
        said = approval.approve(home, proposal, now=home.clock(), actor="ann")
        assert ": started" in said


class TestPace:
    """Weeks of enrolment and the visitors let in follow the traffic that is known at the start."""

    def test_a_busy_site_lets_in_what_fills_a_week(self, tmp_path: Path) -> None:
        home = make_home(tmp_path / "busy", traffic_per_day=1_000)
        made = create(home, "hero")
        units = plans.new_plan(home.config).units
        assert units is not None
        weeks, admitted = plans.pace(units, 1_000, 2)
        assert (weeks, admitted) == (1, made.plan.admitted)
        assert admitted < 0.05
        assert made.plan.horizon == timedelta(weeks=1, hours=24)
        assert made.epochs[-1].ends_at == START + timedelta(weeks=1)
        entry = begun(home, "hero")
        assert (entry["enrolment_weeks"], entry["admitted"]) == (1, admitted)
        assert get(home, "hero").plan == made.plan
        create(home, "mine", slot="footer", start=False)
        (change,) = cycle_after(home, 0)
        assert change == (
            f"mine: started. New visitors count for one week, the last look comes 24 hours later; an effect that fades "
            f"may add a week. {100 * admitted:.2g} % of the visitors take part: they fill the week."
        )

    def test_a_draft_is_planned_anew_when_it_starts(self, tmp_path: Path) -> None:
        """With the traffic of that day, and under the present rule."""
        home = make_home(tmp_path / "site")
        create(home, "hero", start=False)
        old = replace(get(home, "hero").plan, rule=1, horizon=timedelta(days=14), units=7)
        with home.db.write() as connection:
            experiments.update(connection, replace(get(home, "hero"), plan=old))
        home = changed(home, traffic_per_day=20)
        cycle_after(home, 0)
        plan = get(home, "hero").plan
        units = plans.new_plan(home.config).units
        assert (plan.rule, plan.units, plan.admitted) == (2, units, 1.0)
        assert plans.enrolment_weeks(plan) == plans.pace(units, 20, 2)[0] == 2

    def test_a_costly_family_is_said_when_it_starts(self, tmp_path: Path) -> None:
        home = make_home(tmp_path / "pocock", spending_function="pocock")
        made = create(home, "hero")
        assert made.reasoning.endswith("pocock needs 22 % more visitors than hwang_shih_decani.")
        (told,) = settings_warnings(home.loaded)
        assert told == made.reasoning
        plain = make_home(tmp_path / "plain")
        assert settings_warnings(plain.loaded) == plain.loaded.warnings == ()
        late = make_home(tmp_path / "late", spending_parameter=-8)
        assert (settings_warnings(late.loaded), create(late, "hero").reasoning) == ((), "")
        usual, dear, cheap = (plans.new_plan(h.config).units or 0 for h in (plain, home, late))
        assert cheap < usual < dear == pytest.approx(1.22 * usual, rel=0.01)


@pytest.mark.parametrize(
    ("verdict", "code", "discovered"),
    [
        (Verdict.SHIP, "crossed", True),
        (Verdict.KEEP_CONTROL, "control_wins", True),
        (Verdict.KEEP_CONTROL, "guardrail", True),
        (Verdict.GAIN_BELOW_MINIMUM, "gain_too_small", True),
        (Verdict.NO_PRACTICAL_GAIN, "futile", False),
        (Verdict.KEEP_CONTROL, "futile", False),  # as the first rule told it
        (Verdict.INCONCLUSIVE, "faded", False),
    ],
)
def test_what_is_not_proven_is_no_discovery_and_no_loss(
    home: Home, verdict: Verdict, code: str, discovered: bool
) -> None:
    """An early stop may have a small p-value without a crossing; it pays nothing, and costs what a near miss costs."""
    small = 1e-4
    made = create(home, "one")
    comparison = Comparison(variant="b", name="b", active=True, p_adjusted=small)
    stored = Decision(
        made.id,
        START + DAY,
        verdict,
        (Reason(code, ""),),
        (),
        evidence=Evidence(comparisons=(comparison,)),
        id="d",
    )
    with home.db.write() as connection:
        decisions.add(connection, stored)
        experiments.update(connection, replace(made, status=Status.ARCHIVED, ended_at=START + DAY))
    with home.db.read() as connection:
        ((_, trial),) = error_budget.history(connection)
    assert trial.p_value is not None
    assert (trial.p_value <= made.plan.alpha) == discovered
    assert trial.p_value <= 0.5  # a candidate for a discovery spends no part of the budget
    level = granted(home)
    near_miss, found = ([Trial(START.timestamp(), (START + DAY).timestamp(), p)] for p in (0.06, small))
    later = Trial(home.clock().timestamp() + 86_400)
    assert home.clock() == START
    set_clock(home, START + 2 * DAY)
    (_, after_miss), (_, after_find) = (saffron([*past, later], RATE) for past in (near_miss, found))
    assert granted(home) == (after_find if discovered else after_miss).level
    assert after_find.level > after_miss.level
    assert level <= after_miss.level
