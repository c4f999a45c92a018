"""What a visitor sees: the hash's choice, kept once met; the control for bots and after enrolment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from helpers.store_samples import DAY, HOUR, START, TICK, rows, running, stored

from cro_core.analytics import reader
from cro_core.assignment.buckets import assign
from cro_core.domain import Experiment, Status
from cro_core.errors import InvalidInput
from cro_core.home import Home
from cro_core.ingest.cleaning import Sender
from cro_core.ingest.website_words import in_website_words
from cro_core.storage import decisions, experiments, schema
from cro_core.workflows.assign import AssignedVariant, SlotContent, VisitorVariants, assignments
from cro_core.workflows.ingest import ingest

CRAWLER = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
MOVED = {"a": 0.1, "b": 0.9}


def answer(home: Home, visitor: str, now: datetime, **who: Any) -> AssignedVariant:
    """The only experiment's answer."""
    (found,) = assignments(home, visitor, now=now, **who).experiments
    return found


def expose(home: Home, visitor: str, shown: AssignedVariant, at: datetime) -> None:
    """Posts the exposure that the website would."""
    item = {
        "event_type": "exposure",
        "user_id": visitor,
        "timestamp": at.isoformat(),
        "test_id": shown.experiment_id,
        "variant_id": shown.variant,
        "epoch": shown.epoch,
        "propensity": shown.propensity,
    }
    assert ingest(home, [item], now=at).accepted == 1


def asked(home: Home, visitors: int, now: datetime = START + HOUR) -> list[AssignedVariant]:
    return [answer(home, f"v{n}", now) for n in range(visitors)]


def test_only_a_part_of_the_visitors_is_let_in(site: Home) -> None:
    stored(site.db, running(admitted=0.3))
    found = asked(site, 2000)
    inside = [f for f in found if f.reason == "assigned"]
    assert {f.reason for f in found} == {"assigned", "not_admitted"}
    assert len(inside) / 2000 == pytest.approx(0.3, abs=0.05)
    # who is let in says nothing about who gets which: half of them each
    assert sum(f.variant == "a" for f in inside) / len(inside) == pytest.approx(0.5, abs=0.08)
    outside = next(f for f in found if f.reason == "not_admitted")
    assert (outside.variant, outside.counted, outside.epoch, outside.propensity) == ("a", False, None, None)
    assert outside.expires_at == inside[0].expires_at
    assert asked(site, 50) == found[:50]


def test_everybody_is_let_in_where_one_week_is_not_too_much(site: Home) -> None:
    stored(site.db, running(admitted=1.0))
    assert {f.reason for f in asked(site, 200)} == {"assigned"}


def test_who_met_the_experiment_keeps_its_variant_though_not_let_in(site: Home) -> None:
    """A website that assigns by itself may have shown it."""
    stored(site.db, running(admitted=0.0001))
    assert answer(site, "v1", START + HOUR).reason == "not_admitted"
    shown = AssignedVariant("hero", "b", "hero", {}, None, "assigned", True, 0, 0.5)
    expose(site, "v1", shown, START + HOUR)
    kept = answer(site, "v1", START + 2 * HOUR)
    assert (kept.reason, kept.variant, kept.counted) == ("exposed", "b", True)


def test_bots_and_late_visitors_are_no_matter_of_admission(site: Home) -> None:
    stored(site.db, running(admitted=0.0001))
    assert answer(site, "v1", START + HOUR, user_agent=CRAWLER).reason == "bot"
    assert answer(site, "v1", START + HOUR, opted_out=True).reason == "opted_out"
    assert answer(site, "v1", START + 13.5 * DAY).reason == "enrolment_closed"


def move_shares(home: Home, experiment: Experiment, now: datetime) -> None:
    with home.db.write() as connection:
        assert experiments.set_future_shares(connection, experiment, MOVED, now)


def test_an_answer_has_what_the_website_needs(site: Home) -> None:
    experiment = stored(site.db, running(adaptive=True))
    found = answer(site, "v1", START + HOUR)
    key = found.variant
    tomorrow = datetime.fromisoformat("2026-03-03T00:00:00Z")
    assert found == AssignedVariant(
        "hero", key, "hero", {"shows": key}, None, "assigned", True, 0, 0.5, tomorrow,
    )  # fmt: skip
    assert in_website_words(found) == {
        "test_id": "hero", "variant_id": key, "slot": "hero", "config": {"shows": key}, "asset_id": None,
        "reason": "assigned", "counted": True, "epoch": 0, "propensity": 0.5, "expires_at": tomorrow,
    }  # fmt: skip
    assert experiment.epochs[0].ends_at == tomorrow
    assert answer(site, "v1", START + HOUR) == found
    assert answer(site, " v1 ", START + HOUR) == found


def test_choices_are_the_hashs_under_the_current_shares(site: Home) -> None:
    experiment = stored(site.db, running(adaptive=True))
    move_shares(site, experiment, START)
    later = experiment.epochs[1].starts_at
    for now, shares in ((later - TICK, [0.5, 0.5]), (later, [0.1, 0.9])):
        for n in range(100):
            found = answer(site, f"v{n}", now)
            expected = experiment.variants[assign(f"v{n}", experiment.seed, shares)].key
            assert found.variant == expected
            assert found.propensity == dict(zip("ab", shares, strict=True))[expected]


def test_once_exposed_a_unit_keeps_its_variant_whatever_the_shares_do(site: Home) -> None:
    experiment = stored(site.db, running(adaptive=True))
    visitors = [f"v{n}" for n in range(200)]
    before = {v: answer(site, v, START + HOUR) for v in visitors}
    for visitor in visitors[:100]:
        expose(site, visitor, before[visitor], START + HOUR)
    move_shares(site, experiment, START + HOUR)
    now = experiment.epochs[2].starts_at + HOUR
    after = {v: answer(site, v, now) for v in visitors}

    for visitor in visitors[:100]:
        kept = replace(before[visitor], reason="exposed", expires_at=None)
        assert after[visitor] == kept  # epoch and propensity are those of the exposure
    assert {after[v].reason for v in visitors[100:]} == {"assigned"}
    assert {after[v].epoch for v in visitors[100:]} == {2}
    assert Counter(after[v].variant for v in visitors[:100])["a"] > 35
    assert Counter(after[v].variant for v in visitors[100:])["a"] < 25


def test_an_unexposed_assignment_expires_and_posting_it_late_does_not_count(site: Home) -> None:
    experiment = stored(site.db, running(adaptive=True))
    early = answer(site, "v1", START + HOUR)
    tomorrow = early.expires_at
    assert tomorrow is not None
    assert answer(site, "v1", tomorrow).epoch == 1
    expose(site, "v1", early, tomorrow + HOUR)
    expose(site, "v2", answer(site, "v2", tomorrow + HOUR), tomorrow + HOUR)
    with site.db.read() as connection:
        table = reader.reading(connection, experiment, START + 14 * DAY).unit_table().to_pylist()
    assert sorted(row["standing"] for row in table) == ["counted_exposure", "wrong_epoch"]


def test_the_variant_of_an_exposure_wins_over_the_hash(site: Home) -> None:
    """Also where another system, or an earlier client, showed something else."""
    stored(site.db, running())
    own = answer(site, "v1", START)
    other = "b" if own.variant == "a" else "a"
    expose(site, "v1", replace(own, variant=other), START + HOUR)
    assert answer(site, "v1", START + 2 * HOUR).variant == other


class TestUncounted:
    @pytest.mark.parametrize(
        ("who", "reason"), [({"user_agent": CRAWLER}, "bot"), ({"opted_out": True}, "opted_out")]
    )
    def test_bots_and_opted_out_visitors_get_the_control(
        self, site: Home, who: dict[str, Any], reason: str
    ) -> None:
        stored(site.db, running())
        for n in range(20):
            found = answer(site, f"v{n}", START + HOUR, **who)
            assert (found.variant, found.counted, found.reason) == ("a", False, reason)
            assert (found.epoch, found.propensity) == (None, None)

    def test_opting_out_wins_over_what_was_met_before(self, site: Home) -> None:
        stored(site.db, running())
        visitor = next(f"v{n}" for n in range(99) if answer(site, f"v{n}", START).variant == "b")
        expose(site, visitor, answer(site, visitor, START), START)
        assert answer(site, visitor, START + HOUR, opted_out=True).variant == "a"
        assert answer(site, visitor, START + HOUR).variant == "b"

    def test_what_a_bot_posts_never_counts(self, site: Home) -> None:
        experiment = stored(site.db, running())
        item = {"event_type": "exposure", "user_id": "v1", "test_id": "hero", "variant_id": "b"}
        ingest(site, [item], now=START + HOUR, sender=Sender(CRAWLER))
        with site.db.read() as connection:
            assert reader.reading(connection, experiment, START + 14 * DAY).cells() == ()
        assert answer(site, "v1", START + HOUR).reason == "assigned"


class TestEnrolment:
    def test_after_its_end_newcomers_get_the_control_and_the_exposed_keep_theirs(self, site: Home) -> None:
        experiment = stored(site.db, running())
        end = experiment.enrolment_ends_at
        assert end is not None
        newcomer = next(f"v{n}" for n in range(99) if answer(site, f"v{n}", START).variant == "b")
        old = next(f"w{n}" for n in range(99) if answer(site, f"w{n}", START).variant == "b")
        expose(site, old, answer(site, old, START), START)
        assert answer(site, newcomer, end - TICK).counted is True
        closed = answer(site, newcomer, end)
        assert (closed.variant, closed.counted, closed.reason) == ("a", False, "enrolment_closed")
        kept = answer(site, old, end + 5 * HOUR)
        assert (kept.variant, kept.counted) == ("b", True)

    def test_no_assignment_outlives_it(self, site: Home) -> None:
        experiment = stored(site.db, running(window=timedelta(hours=30)))
        found = answer(site, "v1", START + HOUR)
        assert found.expires_at == experiment.enrolment_ends_at


class TestManyExperiments:
    def test_only_running_ones_answer_and_production_fills_the_other_slots(self, site: Home) -> None:
        stored(
            site.db, running(), running("cta"), replace(running("gone"), status=Status.ARCHIVED),
            replace(running("wait"), status=Status.DRAFT),
        )  # fmt: skip
        shown = {
            "since": START, "experiment_id": "gone", "variant": "b", "config": {"x": 1}, "asset_id": "i",
            "unproven": False, "decision_id": "d",
        }  # fmt: skip
        with site.db.write() as connection:
            for slot in ("gone", "hero"):
                decisions.set_production(connection, slot, shown)
        found = assignments(site, "v1", now=START + HOUR)
        assert [e.experiment_id for e in found.experiments] == ["cta", "hero"]
        assert found.production == (SlotContent("gone", "gone", "b", {"x": 1}, "i"),)
        assert in_website_words(found.production) == [
            {"slot": "gone", "test_id": "gone", "variant_id": "b", "config": {"x": 1}, "asset_id": "i"}
        ]
        assert found.as_of == START + HOUR

    def test_a_change_is_seen_at_once(self, site: Home) -> None:
        experiment = stored(site.db, running())
        assert len(assignments(site, "v1", now=START).experiments) == 1
        with site.db.write() as connection:
            experiments.update(connection, replace(experiment, status=Status.ARCHIVED))
        assert assignments(site, "v1", now=START).experiments == ()

    def test_a_site_without_experiments_has_nothing_to_say(self, site: Home) -> None:
        assert assignments(site, "v1", now=START) == VisitorVariants(START, (), ())


@pytest.mark.parametrize("visitor", ["", "  ", "x" * 201])
def test_a_visitor_needs_an_id(site: Home, visitor: str) -> None:
    with pytest.raises(InvalidInput, match="give an id of 1 to 200") as refused:
        assignments(site, visitor, now=START)
    assert refused.value.field == "visitor"


class TestIngest:
    """The use case around the store: acknowledged means stored, refused means quarantined."""

    def test_counts_add_up_and_the_answer_names_what_was_refused(self, site: Home) -> None:
        stored(site.db, running())
        exposure = {
            "event_type": "impression",
            "user_id": "alice",
            "test_id": "hero",
            "variant_id": "b",
            "id": "x",
        }
        posted = [
            exposure,
            exposure,
            {"event_type": "lead", "user_id": "alice"},
            5,
            exposure | {"variant_id": "z"},
        ]
        receipt = ingest(site, posted, now=START + HOUR)
        assert (receipt.accepted, receipt.duplicates, len(receipt.rejected)) == (2, 1, 2)
        assert receipt.as_dict() == {
            "accepted": 2,
            "duplicates": 1,
            "rejected": [
                {"index": 3, "error": "an event must be an object, got int"},
                {"index": 4, "error": "variant_id 'z' is not one of a, b"},
            ],
        }
        again = ingest(site, posted[:1], now=START + 2 * HOUR)
        assert (again.accepted, again.duplicates) == (0, 1)
        kept = rows(site.db, schema.quarantine)
        assert [(r["experiment_id"], r["reason"]) for r in kept] == [
            (None, "an event must be an object, got int"),
            ("hero", "variant_id 'z' is not one of a, b"),
        ]

    def test_no_visitor_is_readable_anywhere_in_the_store(self, site: Home) -> None:
        stored(site.db, running())
        who = {"user_id": "alice@example.com", "session_id": "session-of-alice"}
        good = {
            "event_type": "exposure",
            "test_id": "hero",
            "variant_id": "b",
            "url": "/?mail=alice@example.com",
            **who,
        }
        ingest(
            site, [good, good | {"variant_id": "z"}, who, {"visitorId": "alice"}, ["alice"]], now=START + HOUR
        )
        everything = [rows(site.db, table) for table in schema.metadata.sorted_tables]
        assert "alice" not in repr(everything)
        assert len(rows(site.db, schema.quarantine)) == 4

    def test_an_opted_out_visitor_leaves_only_a_number(self, site: Home) -> None:
        stored(site.db, running())
        item = {"event_type": "exposure", "user_id": "alice", "test_id": "hero", "variant_id": "b"}
        receipt = ingest(site, [item, {"junk": 1}], now=START + HOUR, opted_out=True)
        assert (receipt.accepted, receipt.not_stored) == (0, 2)
        assert (
            rows(site.db, schema.events)
            == rows(site.db, schema.quarantine)
            == rows(site.db, schema.exposures)
            == []
        )
        assert [(r["outcome"], r["count"]) for r in rows(site.db, schema.receipts)] == [("opted_out", 2)]

    def test_an_experiment_that_has_just_begun_is_known(self, site: Home) -> None:
        item = {"event_type": "exposure", "user_id": "alice", "test_id": "hero", "variant_id": "b"}
        assert ingest(site, [item], now=START).accepted == 0
        stored(site.db, running())
        assert ingest(site, [item], now=START).accepted == 1

    @pytest.mark.parametrize("text", ["é\u2028🙂", "'; DROP TABLE events; --", "%s {x} :y"])
    def test_odd_texts_are_stored_as_they_are(self, make_site: Callable[..., Home], text: str) -> None:
        site = make_site()
        stored(site.db, running())
        item = {"event_type": "lead", "user_id": text, "city": text, "id": text, "properties": {text: text}}
        assert ingest(site, [item], now=START).accepted == 1
        (row,) = rows(site.db, schema.events)
        assert (row["id"], row["city"], row["properties"]) == (text, text, {text: text})
