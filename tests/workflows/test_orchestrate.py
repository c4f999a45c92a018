"""The cycle and what a person may do instead, on a real home with a simulated clock."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from helpers.store_samples import rows
from numpy.random import default_rng

from cro_core.assignment.allocation import next_shares
from cro_core.clock import iso
from cro_core.decision.inputs import fingerprint
from cro_core.domain import Experiment, Status, Variant
from cro_core.errors import Busy, Conflict, InvalidInput, NotFound
from cro_core.home import Home, create_home, open_home, set_clock
from cro_core.planning import plans
from cro_core.rendering.decision_text import decision_text
from cro_core.samples.sample_media import draw_sample_media
from cro_core.statistics.evalue import e_value
from cro_core.storage import decisions, experiments, journal, schema
from cro_core.workflows import approval, lifecycle
from cro_core.workflows.assign import assignments
from cro_core.workflows.create_experiment import NewExperiment, create_experiment
from cro_core.workflows.evaluate import evaluate, evaluate_within
from cro_core.workflows.ingest import ingest
from cro_core.workflows.orchestrate import foresee, orchestrate
from cro_core.workflows.replay import replay
from cro_core.workflows.rollback import rollback, undoable

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)
GUARD = {"goal": "phone_click", "max_drop": 0.1}
SETTINGS: dict[str, Any] = {
    "statistics": {"base_rate": 0.2, "minimum_detectable_uplift": 0.8},
    "smart_traffic_allocation": {"enabled": False},
}
"""85 visitors per variant at 20 % and +80 %, raised to 100 by the least sample: small enough to post by hand."""


def make_home(path: Path, **automation: Any) -> Home:
    create_home(path, {**SETTINGS, "automation": automation}, environ={})
    home = open_home(path, environ={})
    set_clock(home, START)
    return open_home(path, environ={})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "site")


def create(home: Home, key: str = "hero", **more: Any) -> Experiment:
    variants = (
        Variant("photo", "", {"kind": "image"}, "hall.jpg", is_control=True),
        Variant("film", "", {"kind": "video"}, "dance.mp4"),
    )
    wanted = replace(NewExperiment(key, variants, slot="hero"), **more)
    return create_experiment(home, wanted, now=home.clock(), actor="test")


def visit(home: Home, key: str, counts: Sequence[tuple[str, int, int]], at: datetime, epoch: int = 0) -> None:
    """Posts (variant, visitors, how many of them convert) at one moment."""
    events: list[dict[str, Any]] = []
    for variant, visitors, converting in counts:
        for number in range(visitors):
            who = {"user_id": f"{key}:{variant}:{at:%d%H}:{number}", "timestamp": iso(at)}
            shown = {"event_type": "exposure", "test_id": key, "variant_id": variant, "epoch": epoch}
            events.append({**who, **shown, "propensity": 0.5})
            if number < converting:
                events.append({**who, "event_type": "contact_form_submit", "test_id": key})
    receipt = ingest(home, events, now=max(at, home.clock()))
    assert receipt.accepted == len(events), receipt.rejected[:3]


def get(home: Home, key: str) -> Experiment:
    with home.db.read() as connection:
        return experiments.get(connection, key)


def trail(home: Home) -> list[tuple[str, str]]:
    with home.db.read() as connection:
        return [(entry["action"], entry["subject"]) for entry in journal.trail(connection)]


def changes(home: Home, action: str, subject: str) -> list[int]:
    """Numbers of the changes of that kind that can be undone, newest first."""
    with home.db.read() as connection:
        return [c["id"] for c in undoable(connection) if (c["action"], c["subject"]) == (action, subject)]


def shown(home: Home) -> str | None:
    """The experiment whose variant the slot ``hero`` shows."""
    with home.db.read() as connection:
        return decisions.production(connection).get("hero", {}).get("experiment_id")


def next_test(home: Home, key: str, **converting: int) -> tuple[str, ...]:
    """Decides another test in the slot eight days on; returns what that changed."""
    create(home, key)
    visit(
        home, key, [(variant, 400, number) for variant, number in converting.items()], home.clock() + DAY / 2
    )
    set_clock(home, home.clock() + 8 * DAY)
    return orchestrate(home, now=home.clock()).changes


def won(home: Home, key: str = "hero") -> datetime:
    """An experiment whose film is about to win; returns the moment of the deciding cycle."""
    create(home, key)
    visit(home, key, [("photo", 400, 60), ("film", 400, 140)], START + DAY / 2)
    set_clock(home, START + 8 * DAY)
    return home.clock()


def test_nothing_to_do_changes_nothing(home: Home) -> None:
    before = trail(home)
    report = orchestrate(home, now=home.clock())
    assert (report.evaluated, report.changes, report.failures) == (0, (), ())
    assert trail(home) == before


def test_winner_is_shipped_archived_and_shown(home: Home) -> None:
    now = won(home)
    report = orchestrate(home, now=now)
    assert report.failures == ()
    assert report.changes[:2] == ("hero: ship", "hero: shows film of hero")
    ended = get(home, "hero")
    assert (ended.status, ended.winner, ended.ended_at) == (Status.ARCHIVED, "film", now)
    shown = assignments(home, "anybody", now=now)
    assert shown.experiments == ()
    assert [(p.slot, p.variant, p.config) for p in shown.production] == [("hero", "film", {"kind": "video"})]
    assert {"experiment.conclude", "production.set"} <= {action for action, _ in trail(home)}


def test_decision_is_stored_with_its_waterfall(home: Home) -> None:
    orchestrate(home, now=won(home))
    with home.db.read() as connection:
        (stored,) = decisions.latest(connection)
    steps = {s.step: s.count for s in stored.evidence.waterfall}
    assert steps["received"] == 800 + 200 == steps["counted_exposure"] + steps["counted_goal"]
    assert evaluate(home, "hero", as_of=stored.as_of).fingerprint == stored.fingerprint


def test_undecided_experiment_goes_on(home: Home) -> None:
    create(home)
    visit(home, "hero", [("photo", 40, 6), ("film", 40, 14)], START + DAY / 2)
    report = orchestrate(home, now=START + 8 * DAY)
    assert [d.verdict for d in report.decisions] == ["continue"]
    assert get(home, "hero").status is Status.RUNNING
    with home.db.read() as connection:
        assert decisions.latest(connection) == []


def test_evaluation_and_foresight_change_nothing(home: Home) -> None:
    now = won(home)
    before = trail(home)
    assert evaluate(home, "hero", as_of=now).verdict == "ship"
    assert [d.experiment_id for d in foresee(home, now=now)] == ["hero"]
    assert orchestrate(home, now=now, conclude=False).changes == ()
    assert (trail(home), get(home, "hero").status) == (before, Status.RUNNING)


def test_disabled_automation_changes_nothing_anywhere(tmp_path: Path) -> None:
    home = make_home(tmp_path / "off", enabled=False)
    before = [won(home), trail(home)]
    report = orchestrate(home, now=home.clock())
    assert report.skipped is not None
    assert [home.clock(), trail(home)] == before
    assert get(home, "hero").status is Status.RUNNING


def test_one_failing_experiment_never_stops_the_others(home: Home) -> None:
    now = won(home)
    create(home, "broken", slot="cta")
    with home.db.write() as connection:
        broken = experiments.get(connection, "broken")
        experiments.update(connection, replace(broken, started_at=None))
    report = orchestrate(home, now=now)
    assert [f["experiment"] for f in report.failures] == ["broken"]
    assert "has not started" in report.failures[0]["error"]
    assert get(home, "hero").winner == "film"
    assert ("cycle.failure", "broken") in trail(home)


def test_only_one_cycle_at_a_time(home: Home) -> None:
    with home.lock("cycle"), pytest.raises(Busy, match="nothing was done"):
        orchestrate(home, now=home.clock())


class TestApproval:
    """With auto_declare_winners off the cycle proposes."""

    @pytest.fixture
    def proposed(self, tmp_path: Path) -> Home:
        home = make_home(tmp_path / "careful", auto_declare_winners=False)
        report = orchestrate(home, now=won(home))
        assert report.changes[1] == "hero: proposed to ship film, waiting for approval"
        assert get(home, "hero").status is Status.COMPLETED
        assert assignments(home, "anybody", now=home.clock()).production == ()
        return home

    def test_approve_ships(self, proposed: Home) -> None:
        assert (
            approval.approve(proposed, "ship:hero", now=proposed.clock(), actor="ann")
            == "hero: shows film of hero"
        )
        assert get(proposed, "hero").status is Status.ARCHIVED
        assert assignments(proposed, "anybody", now=proposed.clock()).production[0].variant == "film"
        with pytest.raises(Conflict, match="approved already"):
            approval.approve(proposed, "ship:hero", now=proposed.clock(), actor="ann")

    def test_reject_keeps_what_is_shown(self, proposed: Home) -> None:
        approval.reject(proposed, "ship:hero", now=proposed.clock(), actor="ann")
        assert (get(proposed, "hero").status, get(proposed, "hero").winner) == (Status.ARCHIVED, None)
        assert assignments(proposed, "anybody", now=proposed.clock()).production == ()

    def test_unknown_proposal_names_those_there_are(self, proposed: Home) -> None:
        with pytest.raises(NotFound, match="pending are ship:hero"):
            approval.approve(proposed, "ship:nothing", now=proposed.clock(), actor="ann")

    def test_ending_by_hand_withdraws_the_proposal(self, proposed: Home) -> None:
        lifecycle.end_experiment(proposed, "hero", now=proposed.clock(), actor="ann")
        with pytest.raises(Conflict, match="withdrawn"):
            approval.approve(proposed, "ship:hero", now=proposed.clock(), actor="ann")


class TestRollback:
    """Every automatic change is undone by one command."""

    def test_shipping_and_deciding(self, home: Home) -> None:
        orchestrate(home, now=won(home))
        said = rollback(home, now=home.clock(), actor="ann")
        assert said == "hero: shows the site's own default again"
        assert assignments(home, "anybody", now=home.clock()).production == ()
        rollback(home, now=home.clock(), actor="ann")
        assert get(home, "hero").winner is None
        with pytest.raises(NotFound, match="no automatic change"):
            rollback(home, now=home.clock(), actor="ann")

    def test_taking_a_decision_back_restores_what_was_shown_before(self, home: Home) -> None:
        orchestrate(home, now=won(home))
        assert next_test(home, "hero-2", photo=140, film=60) == ("hero-2: keep_control",)
        next_test(home, "hero-3", photo=60, film=140)
        rollback(home, changes(home, lifecycle.CONCLUDE, "hero-3")[0], now=home.clock(), actor="ann")
        assert shown(home) == "hero"

    def test_an_old_winner_is_not_undone_over_a_newer_one(self, home: Home) -> None:
        orchestrate(home, now=won(home))
        next_test(home, "hero-2", photo=60, film=140)
        before = trail(home)
        for old in (changes(home, lifecycle.PRODUCE, "hero")[-1], *changes(home, lifecycle.CONCLUDE, "hero")):
            with pytest.raises(Conflict, match="something newer by now, film of hero-2: undo that first"):
                rollback(home, old, now=home.clock(), actor="ann")
        assert (shown(home), get(home, "hero").winner, trail(home)) == ("hero-2", "film", before)

    @pytest.mark.parametrize(
        "way", [[(lifecycle.PRODUCE, "hero")] * 2, [(lifecycle.CONCLUDE, f"hero{n}") for n in ("-2", "")]]
    )
    def test_winners_are_undone_from_the_newest_to_the_oldest(
        self, home: Home, way: list[tuple[str, str]]
    ) -> None:
        orchestrate(home, now=won(home))
        next_test(home, "hero-2", photo=60, film=140)
        for (action, subject), left in zip(way, ("hero", None), strict=True):
            rollback(home, changes(home, action, subject)[0], now=home.clock(), actor="ann")
            assert shown(home) == left
        assert changes(home, lifecycle.PRODUCE, "hero") == []

    def test_a_decision_whose_winner_was_undone_touches_no_other(self, home: Home) -> None:
        orchestrate(home, now=won(home))
        rollback(home, now=home.clock(), actor="ann")
        next_test(home, "hero-2", photo=60, film=140)
        rollback(home, changes(home, lifecycle.CONCLUDE, "hero")[0], now=home.clock(), actor="ann")
        assert (shown(home), get(home, "hero").winner) == ("hero-2", None)

    def test_nothing_is_undone_over_what_a_person_has_put_there(self, home: Home) -> None:
        orchestrate(home, now=won(home))
        create(home, "hero-2")
        lifecycle.end_experiment(home, "hero-2", now=home.clock(), actor="ann", winner="photo")
        for action in (lifecycle.PRODUCE, lifecycle.CONCLUDE):
            (automatic,) = changes(home, action, "hero")
            with pytest.raises(Conflict, match="something newer by now, photo of hero-2"):
                rollback(home, automatic, now=home.clock(), actor="ann")
        assert shown(home) == "hero-2"

    def test_only_automatic_changes_and_only_once(self, home: Home) -> None:
        create(home)
        with pytest.raises(NotFound):
            rollback(home, now=home.clock(), actor="ann")
        with home.db.read() as connection:
            by_hand = journal.trail(connection)[0]["id"]
        with pytest.raises(Conflict, match="cannot be undone"):
            rollback(home, by_hand, now=home.clock(), actor="ann")


class TestEndingByHand:
    """A person may end any running experiment."""

    def test_with_a_pick_it_is_shown_as_unproven(self, home: Home) -> None:
        create(home)
        lifecycle.end_experiment(home, "hero", now=home.clock(), actor="ann", winner="film", reason="launch")
        with home.db.read() as connection:
            shown = decisions.production(connection)["hero"]
        assert (shown["variant"], shown["unproven"]) == ("film", True)

    def test_without_one_the_slot_is_free(self, home: Home) -> None:
        create(home)
        lifecycle.end_experiment(home, "hero", now=home.clock(), actor="ann")
        assert create(home, "hero-2").status is Status.RUNNING

    def test_refusals(self, home: Home) -> None:
        create(home)
        with pytest.raises(InvalidInput, match="not one of photo, film"):
            lifecycle.end_experiment(home, "hero", now=home.clock(), actor="ann", winner="poster")
        with pytest.raises(NotFound, match="choose from hero"):
            lifecycle.end_experiment(home, "heroes", now=home.clock(), actor="ann")
        lifecycle.end_experiment(home, "hero", now=home.clock(), actor="ann")
        with pytest.raises(Conflict, match="only a running one can be ended"):
            lifecycle.end_experiment(home, "hero", now=home.clock(), actor="ann")


CONTROL = Variant("a", "", is_control=True)


class TestCreating:
    """What a person or a program may ask for."""

    def test_defaults_come_from_the_settings(self, home: Home) -> None:
        made = create(home, base_rate=0.05, minimum_detectable_uplift=0.5)
        assert (made.plan.base_rate, made.plan.mde, made.control.key) == (0.05, 0.5, "photo")
        assert (made.started_at, made.status) == (START, Status.RUNNING)

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"id": "a b"}, "experiment_id"),
            ({"variants": ()}, "variants"),
            ({"variants": (CONTROL,)}, "variants"),
            ({"variants": (CONTROL, Variant("a", ""))}, "variants"),
            ({"variants": (CONTROL, Variant("b c", ""))}, "variant"),
            ({"variants": (CONTROL, replace(CONTROL, key="b"))}, "variants"),
            ({"base_rate": 2}, "base_rate"),
            ({"base_rate": 0}, "base_rate"),
            ({"primary_goals": ("no key!",)}, "primary_goals"),
        ],
    )
    def test_bad_descriptions_are_refused_by_field(
        self, home: Home, change: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidInput) as caught:
            create(home, **change)
        assert caught.value.field == field
        assert trail(home) == []

    def test_one_experiment_per_slot_and_id(self, home: Home) -> None:
        create(home)
        with pytest.raises(Conflict, match="runs in slot hero"):
            create(home, "hero-2")
        with pytest.raises(Conflict, match="exists already"):
            create(home, slot="elsewhere")

    def test_draft_waits_for_its_slot(self, home: Home) -> None:
        now = won(home)
        create(home, "next", start=False)
        assert get(home, "next").status is Status.DRAFT
        report = orchestrate(home, now=now)
        assert any(change.startswith("next: started. New visitors count for") for change in report.changes)
        assert get(home, "next").started_at == now

    def test_no_more_than_allowed_run_at_once(self, tmp_path: Path) -> None:
        home = make_home(tmp_path / "few", max_concurrent_tests=1)
        create(home)
        create(home, "cta", slot="cta", start=False)
        orchestrate(home, now=home.clock())
        assert get(home, "cta").status is Status.DRAFT


class TestAllocation:
    """Shares move once a day, towards what did better, and never inside a day."""

    @pytest.fixture
    def unseen(self, tmp_path: Path) -> Home:
        settings = {**SETTINGS, "smart_traffic_allocation": {"enabled": True}}
        settings["statistics"] = {"base_rate": 0.2, "minimum_detectable_uplift": 0.1}
        create_home(tmp_path / "moving", settings, environ={})
        home = open_home(tmp_path / "moving", environ={})
        set_clock(home, START)
        home = open_home(tmp_path / "moving", environ={})
        create(home)
        return home

    @pytest.fixture
    def moving(self, unseen: Home) -> Home:
        visit(unseen, "hero", [("photo", 300, 40), ("film", 300, 90)], START + DAY / 4)
        return unseen

    def test_tomorrow_is_planned_in_the_last_hour(self, moving: Home) -> None:
        before = get(moving, "hero").epochs
        assert orchestrate(moving, now=START + 1.9 * DAY).changes == ()
        report = orchestrate(moving, now=START + 2 * DAY - timedelta(minutes=30))
        after = get(moving, "hero").epochs
        assert "shares from tomorrow" in report.changes[0]
        assert [e.shares for e in after[:2]] == [e.shares for e in before[:2]]
        exponent = 2 / (2 * len(before))
        film = float(next_shares([[300, 300]], [[40, 90]], floor=0.1, exponent=exponent)[1])
        assert 0.7 < film < 0.71
        assert [e.shares["film"] for e in after[2:]] == [film] * len(after[2:])
        assert (
            orchestrate(moving, now=START + 2 * DAY - timedelta(minutes=20)).changes == ()
        )  # same counts, same shares

    def test_shares_of_two_are_tempered(self, unseen: Home) -> None:
        visit(unseen, "hero", [("photo", 300, 40), ("film", 300, 50)], START + DAY / 4)
        orchestrate(unseen, now=START + 2 * DAY - timedelta(minutes=30))
        epochs = get(unseen, "hero").epochs
        expected = next_shares([[300, 300]], [[40, 50]], exponent=2 / (2 * len(epochs)))
        assert [epochs[2].shares[v] for v in ("photo", "film")] == expected.tolist()
        assert 0.5 < epochs[2].shares["film"] < 0.55

    def test_an_experiment_of_the_first_rule_goes_on_untempered(self, unseen: Home) -> None:
        visit(unseen, "hero", [("photo", 300, 40), ("film", 300, 50)], START + DAY / 4)
        with unseen.db.write() as connection:
            experiment = experiments.get(connection, "hero")
            experiments.update(
                connection, replace(experiment, plan=replace(experiment.plan, rule=1, floor=0.3))
            )
        orchestrate(unseen, now=START + 2 * DAY - timedelta(minutes=30))
        assert get(unseen, "hero").epochs[2].shares["film"] == 0.7

    def test_a_day_gets_its_shares_once(self, unseen: Home) -> None:
        """However often the cycle runs, and although every hour's visitors speak for other shares."""
        for hour in range(72):
            more = (hour % 4 == 3) * (-1) ** (hour // 24)
            counts = [("photo", 30, 6), ("film", 30, 6 + more)]
            visit(unseen, "hero", counts, START + timedelta(hours=hour, minutes=10), epoch=hour // 24)
        late = [
            timedelta(hours=24 * day + hour) for day in (1, 2, 3) for hour in (21, 22, 23, 23.4, 23.9, 24)
        ]
        begun: dict[int, Any] = {}
        for moment in (START + passed for passed in late):
            (decision,) = orchestrate(unseen, now=moment).decisions
            assert decision.verdict == "continue"
            for epoch in get(unseen, "hero").epochs:
                if epoch.starts_at <= moment:
                    assert begun.setdefault(epoch.number, epoch.shares) == epoch.shares
        with unseen.db.read() as connection:
            changes = journal.trail(connection, subject="hero")[::-1]
        planned = [(c["at"], c["after"]) for c in changes if c["action"] == lifecycle.ALLOCATE]
        assert [at for at, _ in planned] == [START + timedelta(hours=h) for h in (47, 71, 95)]
        assert [(after["from_epoch"], after["shares"]) for _, after in planned] == list(begun.items())[2:]
        assert (
            len({shares["film"] for shares in begun.values()}) == 4
        )  # a half at first, then another every day

    def test_what_a_person_has_undone_stays_so_for_the_day(self, unseen: Home) -> None:
        visit(unseen, "hero", [("photo", 60, 10), ("film", 60, 15)], START + DAY / 4)
        before = get(unseen, "hero").epochs
        orchestrate(unseen, now=START + 2 * DAY - timedelta(minutes=30))
        assert get(unseen, "hero").epochs[2:] != before[2:]
        rollback(unseen, now=START + 2 * DAY - timedelta(minutes=20), actor="ann")
        assert orchestrate(unseen, now=START + 2 * DAY - timedelta(minutes=10)).changes == ()
        assert get(unseen, "hero").epochs == before
        orchestrate(unseen, now=START + 3 * DAY - timedelta(minutes=30))
        after = get(unseen, "hero").epochs
        assert (after[:3], after[3].shares["film"] > 0.5) == (before[:3], True)

    def test_exposed_visitors_keep_their_variant(self, moving: Home) -> None:
        names = [f"visitor-{n}" for n in range(300)]
        early = {n: assignments(moving, n, now=START + DAY).experiments[0] for n in names}
        for name in names[:150]:
            met = early[name]
            shown = {"event_type": "exposure", "test_id": met.experiment_id, "variant_id": met.variant}
            when = {"timestamp": iso(START + DAY), "epoch": met.epoch, "propensity": met.propensity}
            event = {"user_id": name, **shown, **when}
            ingest(moving, [event], now=START + DAY)
        orchestrate(moving, now=START + 2 * DAY - timedelta(minutes=30))
        late = {n: assignments(moving, n, now=START + 3 * DAY).experiments[0] for n in names}
        moved = {n for n in names if late[n].variant != early[n].variant}
        assert moved
        assert moved <= set(names[150:])
        assert {late[n].reason for n in names[:150]} == {"exposed"}

    def test_rollback_restores_the_shares_of_the_coming_days(self, moving: Home) -> None:
        orchestrate(moving, now=START + 2 * DAY - timedelta(minutes=30))
        rollback(moving, now=START + 2 * DAY - timedelta(minutes=20), actor="ann")
        assert {e.shares["film"] for e in get(moving, "hero").epochs} == {0.5}

    def test_old_shares_are_not_restored_over_newer_ones(self, unseen: Home) -> None:
        for day, film in enumerate([15, 7]):
            visit(
                unseen, "hero", [("photo", 60, 10), ("film", 60, film)], START + (day + 0.25) * DAY, epoch=day
            )
            orchestrate(unseen, now=START + (day + 2) * DAY - timedelta(minutes=30))
        after = get(unseen, "hero").epochs
        newer, older = changes(unseen, lifecycle.ALLOCATE, "hero")
        now = START + 3 * DAY - timedelta(minutes=20)
        with pytest.raises(Conflict, match=f"moved again with change {newer}: undo that first"):
            rollback(unseen, older, now=now, actor="ann")
        assert get(unseen, "hero").epochs == after
        rollback(unseen, newer, now=now, actor="ann")
        rollback(unseen, older, now=now, actor="ann")
        shares = [e.shares["film"] for e in get(unseen, "hero").epochs]
        assert shares == [0.5, 0.5, after[2].shares["film"], *[0.5] * (len(after) - 3)]

    def test_shares_of_an_ended_experiment_are_left(self, moving: Home) -> None:
        orchestrate(moving, now=START + 2 * DAY - timedelta(minutes=30))
        before = get(moving, "hero").epochs
        lifecycle.end_experiment(moving, "hero", now=START + 2 * DAY, actor="ann")
        with pytest.raises(Conflict, match="archived already"):
            rollback(moving, changes(moving, lifecycle.ALLOCATE, "hero")[0], now=START + 2 * DAY, actor="ann")
        assert get(moving, "hero").epochs == before

    def test_shares_of_a_day_that_has_begun_are_frozen(self, moving: Home) -> None:
        experiment = get(moving, "hero")
        with moving.db.write() as connection, pytest.raises(Conflict, match="frozen"):
            experiments.set_future_shares(
                connection, experiment, {"photo": 0.4, "film": 0.6}, experiment.epochs[-1].starts_at
            )

    def test_fixed_shares_never_move(self, home: Home) -> None:
        create(home)
        visit(home, "hero", [("photo", 40, 4), ("film", 40, 12)], START + DAY / 4)
        orchestrate(home, now=START + 2 * DAY - timedelta(minutes=30))
        assert len(get(home, "hero").epochs) == 1


def test_experiment_values_survive_the_store(home: Home) -> None:
    variants = (Variant("a", "A", {"kind": "image"}, "x.jpg", True, {"wide": 1.5}), Variant("b", "B"))
    plan = plans.new_plan(home.config)
    made = plans.begin(
        Experiment("x", "X", variants, plan, hypothesis="why", occasion="wedding", created_at=START), START
    )
    with home.db.write() as connection:
        experiments.add(connection, made)
    assert get(home, "x") == made


def test_broken_manifest_does_not_keep_drafts_from_starting(home: Home) -> None:
    create(home, start=False)
    home.media.mkdir(parents=True, exist_ok=True)
    (home.media / "media-manifest.json").write_text('{"hero": 7}')
    report = orchestrate(home, now=home.clock())
    assert [f["experiment"] for f in report.failures] == ["(backlog)"]
    assert "hero" in report.failures[0]["error"]
    (change,) = report.changes
    assert change.startswith("hero: started.")


def test_backlog_is_proposed_once_where_a_person_has_to_agree(tmp_path: Path) -> None:
    home = make_home(tmp_path / "careful", auto_start_new_tests=False, max_concurrent_tests=2)
    draw_sample_media(home.media, default_rng(7))
    create(home, "mine", slot="footer", start=False)
    report = orchestrate(home, now=home.clock())
    assert all("proposed to start" in change for change in report.changes)
    assert orchestrate(home, now=home.clock()).changes == ()
    with home.db.read() as connection:
        assert experiments.with_status(connection, Status.RUNNING) == []
        waiting = [p["id"] for p in decisions.recommendations(connection)]
    assert len(waiting) == 2
    said = approval.approve(home, waiting[0], now=home.clock(), actor="ann")
    assert ": started. New visitors count for" in said
    approval.reject(home, waiting[1], now=home.clock(), actor="ann")
    again = orchestrate(home, now=home.clock())
    assert not any(waiting[1].split(":")[1] in change for change in again.changes)


@pytest.mark.parametrize(("rate", "tells"), [(None, True), (0.1, False)])
def test_whether_traffic_is_enough_is_asked_at_the_level_of_the_stream(
    tmp_path: Path, rate: float | None, tells: bool
) -> None:
    """What two weeks at 22 a day can show at 5 % is beyond them at a fifth of it."""
    statistics = {**SETTINGS["statistics"], "traffic_per_day": 22, "stream_false_discovery_rate": rate}
    create_home(tmp_path / "site", {**SETTINGS, "statistics": statistics}, environ={})
    set_clock(open_home(tmp_path / "site", environ={}), START)
    home = open_home(tmp_path / "site", environ={})
    draw_sample_media(home.media, default_rng(7))
    changes = orchestrate(home, now=home.clock()).changes
    assert changes
    assert all((": proposed for" not in change) == tells for change in changes)


def test_winner_is_challenged_by_what_was_not_tried(tmp_path: Path) -> None:
    home = make_home(tmp_path / "loop", max_concurrent_tests=1)
    draw_sample_media(home.media, default_rng(7))
    (started,) = orchestrate(home, now=home.clock()).changes
    first = get(home, started.split(":")[0])
    control, challenger = (v.key for v in first.variants)
    visit(home, first.id, [(control, 400, 60), (challenger, 400, 140)], START + DAY / 2)
    set_clock(home, START + 8 * DAY)
    orchestrate(home, now=home.clock())
    with home.db.read() as connection:
        (second,) = experiments.with_status(connection, Status.RUNNING)
    assert (second.control.key, second.parent_id, second.slot) == (challenger, first.id, first.slot)
    assert second.challengers[0].key not in {control, challenger}


class TestLooks:
    """Each hourly look is one step from the one before, stored, and can be taken again."""

    def test_every_look_is_noted_with_its_own_line(self, home: Home) -> None:
        create(home)
        for hours in range(48, 60):
            visit(home, "hero", [("photo", 3, 1), ("film", 3, 1)], START + timedelta(hours=hours - 30))
            orchestrate(home, now=START + timedelta(hours=hours))
        taken = rows(home.db, schema.looks)
        assert [look["number"] for look in taken] == list(range(1, len(taken) + 1))
        assert len(taken) >= 5
        assert all(look["critical_z"] > 2.5 for look in taken)  # far above the 1.96 of a single look
        assert [look["alpha_spent"] for look in taken] == sorted(look["alpha_spent"] for look in taken)

    def test_every_look_is_noted_with_its_e_values(self, home: Home) -> None:
        create(home)
        visit(home, "hero", [("photo", 30, 5), ("film", 30, 9)], START + timedelta(hours=20))
        (decision,) = orchestrate(home, now=START + timedelta(hours=50)).decisions
        (look,) = rows(home.db, schema.looks)
        assert decision.evidence.e_values is not None
        assert look["e_values"] == [decision.evidence.e_values[0].e_value] == [e_value([[5, 9]], [0.5])]

    def test_a_cycle_that_is_run_again_changes_nothing(self, home: Home) -> None:
        create(home)
        visit(home, "hero", [("photo", 30, 5), ("film", 30, 7)], START + timedelta(hours=20))
        reports = [orchestrate(home, now=START + timedelta(hours=50)) for _ in range(2)]
        assert [r.failures for r in reports] == [(), ()]
        assert reports[0].decisions == reports[1].decisions
        assert len(rows(home.db, schema.looks)) == 1

    def test_the_past_is_judged_with_the_looks_of_its_time(self, home: Home) -> None:
        create(home)
        then = START + timedelta(hours=50)
        visit(home, "hero", [("photo", 30, 5), ("film", 30, 7)], START + timedelta(hours=20))
        orchestrate(home, now=then)
        before = evaluate(home, "hero", as_of=then)
        visit(home, "hero", [("photo", 30, 5), ("film", 30, 9)], then + timedelta(hours=2))
        (later,) = orchestrate(home, now=START + timedelta(hours=70)).decisions
        assert later.evidence.look != before.evidence.look is not None
        assert evaluate(home, "hero", as_of=then).evidence.look == before.evidence.look

    def test_replay_is_identical_until_rows_are_gone(self, home: Home) -> None:
        orchestrate(home, now=won(home))
        with home.db.read() as connection:
            (stored,) = decisions.latest(connection)
        assert replay(home, stored.id).identical
        with home.db.write() as connection:
            goal = sa.select(schema.events.c.id).where(schema.events.c.type == "contact_form_submit").limit(1)
            connection.execute(sa.delete(schema.events).where(schema.events.c.id.in_(goal)))
        found = replay(home, stored.id)
        assert (found.identical, found.from_counts) == (False, ())
        assert "converted then" in found.from_rows[0]
        assert found.fingerprint != found.fingerprint_now
        assert "counted again from the rows" in found.text

    def test_replay_notices_a_record_that_was_changed(self, home: Home) -> None:
        orchestrate(home, now=won(home))
        with home.db.write() as connection:
            (stored,) = decisions.latest(connection)
            record = decisions.to_record(stored)
            record["evidence"]["comparisons"][0]["z"] += 0.01
            connection.execute(sa.update(schema.decisions).values(record=record))
        (line,) = replay(home, stored.id).from_counts
        assert line.startswith("comparisons.0.z was ")

    def test_replay_decides_by_the_days_that_were_stored(self, home: Home) -> None:
        """And says which day the rows no longer give, or how many visitors have crossed."""
        orchestrate(home, now=won(home))
        with home.db.write() as connection:
            (stored,) = decisions.latest(connection)
            crossing = stored.evidence.crossing
            assert crossing is not None
            assert (crossing.units, crossing.limit) == (0, stored.evidence.plan.max_crossover)  # type: ignore[union-attr]
            assert crossing.exposed == sum(day.exposed for day in stored.evidence.days) > 0
            record = decisions.to_record(stored)
            record["evidence"]["days"][0]["converted"] += 1
            record["evidence"]["crossing"]["units"] = 1
            connection.execute(sa.update(schema.decisions).values(record=record))
        day, found = stored.evidence.days[0], replay(home, stored.id)
        assert found.from_counts[0].startswith("fingerprint was ")
        place = f"days.{day.variant} on {day.day} in epoch {day.epoch}.converted"
        assert found.from_rows[:2] == (
            f"{place} was {day.converted + 1}, is {day.converted}",
            "crossing.units was 1, is 0",
        )
        assert found.fingerprint_now == stored.fingerprint

    def test_the_first_rule_counts_neither_days_nor_crossing(self, home: Home) -> None:
        create(home)
        visit(home, "hero", [("photo", 30, 5), ("film", 30, 7)], START + timedelta(hours=20))
        now = START + timedelta(hours=30)
        with home.db.write() as connection:
            found = experiments.get(connection, "hero")
            assert evaluate_within(connection, found, now).decision.evidence.days
            older = replace(found, plan=replace(found.plan, rule=1))
            decision = evaluate_within(connection, older, now).decision
        assert (decision.evidence.days, decision.evidence.crossing) == ((), None)
        assert decision.fingerprint == fingerprint(decision.cells)

    def test_replay_notices_what_it_cannot_read(self, home: Home) -> None:
        orchestrate(home, now=won(home))
        with home.db.write() as connection:
            (stored,) = decisions.latest(connection)
            record = decisions.to_record(stored)
            record["evidence"]["totals"][0]["of_another_version"] = 1
            record["evidence"]["unheard_of"] = {"a": 2}
            connection.execute(sa.update(schema.decisions).values(record=record))
        lines = replay(home, stored.id).from_counts
        assert lines == ("totals.0.of_another_version was 1, is None", "unheard_of was {'a': 2}, is None")

    @pytest.mark.parametrize(
        ("place", "value", "says"),
        [
            (("evidence", "companion", 0, "log_e"), 1.5, "companion.0.log_e was 1.5, is "),
            (
                ("evidence", "companion", 0, "says"),
                "all is well",
                "companion.0.says was all is well, is film ",
            ),
            (
                ("evidence", "metrics", "results", 0, "p_adjusted"),
                0.5,
                "metrics.results.0.p_adjusted was 0.5",
            ),
            (("evidence", "guardrails", 0, "e_value"), 7.5, "guardrails.0.e_value was 7.5, is "),
            (("evidence", "comparisons", 0, "stopped_high"), 9.5, "comparisons.0.stopped_high was 9.5, is "),
            (("evidence", "looks", "critical", 0, 0), 9.5, "looks.critical.0.0 was 9.5, is "),
            (("reasons", 0, "code"), "because", "reasons.0 was because, is srm_ok"),
            (("evidence", "e_values", 0, "e_value"), 0.5, "e_values.0.e_value was 0.5, is "),
            (("fingerprint",), "0f", "fingerprint was 0f, is "),
        ],
    )
    def test_replay_compares_all_that_follows_from_the_counts(
        self, accompanied: Home, place: tuple[str | int, ...], value: Any, says: str
    ) -> None:
        with accompanied.db.write() as connection:
            (stored,) = decisions.latest(connection)
            assert replay(accompanied, stored.id).identical
            record = decisions.to_record(stored)
            *path, last = place
            part = record
            for step in path:
                part = part[step]
            assert part[last] != value
            part[last] = value
            connection.execute(sa.update(schema.decisions).values(record=record))
        found = replay(accompanied, stored.id)
        (line,) = found.from_counts
        assert line.startswith(says)
        assert (found.identical, found.from_rows) == (False, ())

    def test_replay_notices_rows_of_secondary_metrics(self, accompanied: Home) -> None:
        """Nobody counted as converting is gone, only some of their calls."""
        with accompanied.db.write() as connection:
            (stored,) = decisions.latest(connection)
            connection.execute(sa.delete(schema.events).where(schema.events.c.id == "call-photo-0"))
        found = replay(accompanied, stored.id)
        assert (found.identical, found.from_counts) == (False, ())
        assert found.from_rows[0].startswith("photo in epoch 0.score_sum was ")
        assert "measured.goal:phone_click of photo in epoch 0 was 20, is 19" in found.from_rows
        assert any(line.startswith("metrics.results.") for line in found.from_rows)

    @pytest.fixture
    def accompanied(self, tmp_path: Path) -> Home:
        """One decision, with the always-valid companion, a guardrail and calls beside the forms."""
        more = {"always_valid_companion": True, "guardrails": [GUARD]}
        path = tmp_path / "accompanied"
        create_home(path, {**SETTINGS, "statistics": SETTINGS["statistics"] | more}, environ={})
        set_clock(open_home(path, environ={}), START)
        home = open_home(path, environ={})
        now = won(home)
        calls = [
            {
                "id": f"call-{v}-{n}",
                "event_type": "phone_click",
                "user_id": f"hero:{v}:0212:{n}",
                "timestamp": iso(START + DAY / 2),
            }
            for v in ("photo", "film")
            for n in range(20)
        ]
        assert ingest(home, calls, now=START + DAY).accepted == len(calls)
        orchestrate(home, now=now)
        return home


class TestGuardrails:
    """What must not be harmed ends an experiment, whatever it gains elsewhere."""

    @pytest.fixture
    def guarded(self, tmp_path: Path) -> Home:
        settings = {**SETTINGS, "statistics": {**SETTINGS["statistics"], "guardrails": [GUARD]}}
        create_home(tmp_path / "guarded", settings, environ={})
        home = open_home(tmp_path / "guarded", environ={})
        set_clock(home, START)
        home = open_home(tmp_path / "guarded", environ={})
        create(home)
        visit(home, "hero", [("photo", 300, 60), ("film", 300, 150)], START + DAY / 4)
        return home

    def calls(self, home: Home, counts: dict[str, int]) -> None:
        events = [
            {
                "event_type": "phone_click",
                "user_id": f"hero:{variant}:{START + DAY / 4:%d%H}:{number}",
                "timestamp": iso(START + DAY / 3),
            }
            for variant, callers in counts.items()
            for number in range(callers)
        ]
        assert ingest(home, events, now=START + DAY / 2).accepted == len(events)

    def test_a_broken_one_routes_everybody_to_the_control_within_one_cycle(self, guarded: Home) -> None:
        self.calls(guarded, {"photo": 150, "film": 20})
        report = orchestrate(guarded, now=START + 8 * DAY)
        (decision,) = report.decisions
        assert (decision.verdict, decision.winner) == ("keep_control", "photo")
        assert decision.reasons[0].code == "guardrail"
        assert decision.evidence.guardrails[0].broken is True
        assert get(guarded, "hero").status is Status.ARCHIVED
        assert assignments(guarded, "anybody", now=START + 8 * DAY).experiments == ()
        assert replay(guarded, decision.id).identical

    def test_one_that_holds_stops_nothing(self, guarded: Home) -> None:
        self.calls(guarded, {"photo": 60, "film": 62})
        (decision,) = orchestrate(guarded, now=START + 8 * DAY).decisions
        assert (decision.verdict, decision.winner) == ("ship", "film")
        assert decision.evidence.guardrails[0].status == "ok"
        measured = {r.metric for r in decision.evidence.metrics.results}
        assert "goal:phone_click" in measured
        assert "p as if looked at once" in decision_text(decision)
        assert "these metrics never decide" in decision_text(decision)
