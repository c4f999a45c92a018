"""From what a website posts to clean events: every field, every refusal, and nothing that raises."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from helpers.store_samples import DAY, HOUR, START, TICK, rows, running, stored
from hypothesis import given
from hypothesis import strategies as st

from cro_core.analytics import arrivals, reader
from cro_core.domain import Event, Experiment, Status
from cro_core.home import Home
from cro_core.ingest.cleaning import MAX_ERROR, MAX_PAYLOAD, Place, Rejection, Rules, Sender, clean, new_id
from cro_core.ingest.pseudonym import pseudonym
from cro_core.ingest.user_agents import Agent
from cro_core.planning import plans
from cro_core.storage import schema
from cro_core.workflows.assign import assignments
from cro_core.workflows.ingest import ingest

NOW = datetime(2026, 3, 3, 12, 0, tzinfo=UTC)
VISITOR = "alice@example.com"
hashed = partial(pseudonym, b"salt" * 8)
RULES = Rules(
    {
        "hero": running(),
        "draft": replace(running("draft"), status=Status.DRAFT, started_at=None),
        "old": running("old"),
    },
    NOW,
    hashed,
)
MINIMAL = {"event_type": "lead", "user_id": VISITOR}
EXPOSURE = MINIMAL | {"event_type": "exposure", "test_id": "hero", "variant_id": "b"}


def accepted(item: Any, rules: Rules = RULES) -> Event:
    events, rejections = clean([item], rules)
    assert [r.error for r in rejections] == []
    return events[0]


def rejected(item: Any, rules: Rules = RULES) -> Rejection:
    events, rejections = clean([item], rules)
    assert events == []
    return rejections[0]


class TestFields:
    def test_all_of_them(self) -> None:
        event = accepted(
            EXPOSURE
            | {
                "id": "e-1",
                "session_id": "s-1",
                "timestamp": "2026-03-03T12:30:00+01:00",
                "device_type": "Mobile",
                "city": "Århus",
                "country": "DK",
                "value": 12.5,
                "asset_id": "img-7",
                "occasion": "wedding",
                "url": "https://site.example/offers?email=alice@example.com#form",
                "properties": {"step": [1, {"deep": True}]},
                "epoch": 1,
                "propensity": 0.5,
            }
        )
        assert event == Event(
            "e-1", "exposure", hashed(VISITOR), datetime(2026, 3, 3, 11, 30, tzinfo=UTC), NOW, "hero", "b",
            hashed("s-1"), "mobile", "Århus", "DK", 12.5, "img-7", "wedding", "https://site.example/offers",
            {"step": [1, {"deep": True}]}, 1, 0.5, bot=False,
        )  # fmt: skip

    def test_only_two_are_needed(self) -> None:
        event = accepted(MINIMAL)
        assert (event.type, event.unit, event.experiment_id, event.variant) == (
            "lead",
            hashed(VISITOR),
            None,
            None,
        )
        assert event.occurred_at == event.received_at == NOW
        assert (event.session, event.device, event.city, event.value, event.epoch, event.bot) == (
            None,
        ) * 5 + (False,)

    def test_an_impression_is_an_exposure(self) -> None:
        assert accepted(EXPOSURE | {"event_type": "impression"}).type == "exposure"

    def test_a_goal_may_name_its_experiment_with_or_without_a_variant(self) -> None:
        assert accepted(MINIMAL | {"test_id": "hero"}).experiment_id == "hero"
        assert accepted(MINIMAL | {"test_id": "hero", "variant_id": "a"}).variant == "a"

    def test_numbers_may_be_ids(self) -> None:
        assert accepted(MINIMAL | {"user_id": 42}).unit == hashed("42")

    def test_blanks_around_texts_do_not_make_another_visitor(self) -> None:
        assert accepted(MINIMAL | {"user_id": f" {VISITOR}\t"}).unit == hashed(VISITOR)

    def test_a_late_event_of_an_ended_experiment_is_taken(self) -> None:
        for status in (Status.COMPLETED, Status.ARCHIVED):
            rules = replace(RULES, experiments={"hero": replace(running(), status=status)})
            assert accepted(EXPOSURE, rules).experiment_id == "hero"

    def test_the_agent_fills_in_the_device_and_marks_bots(self) -> None:
        phone = replace(RULES, agent=Agent("mobile"))
        assert accepted(MINIMAL, phone).device == "mobile"
        assert accepted(MINIMAL | {"device_type": "Desktop"}, phone).device == "desktop"
        assert accepted(MINIMAL, replace(RULES, agent=Agent(bot=True))).bot

    def test_a_place_is_that_of_the_item_or_of_its_sender(self) -> None:
        there = replace(RULES, place=Place("Bern", "CH"))
        for said, kept in (
            ({}, ("Bern", "CH")),
            ({"city": " "}, ("Bern", "CH")),
            ({"city": "Lyon"}, ("Lyon", "CH")),
        ):
            event = accepted(MINIMAL | said, there)
            assert (event.city, event.country) == kept


class TestTimes:
    @pytest.mark.parametrize(
        ("stamp", "utc"),
        [
            ("2026-03-03T11:00:00Z", datetime(2026, 3, 3, 11, tzinfo=UTC)),
            ("2026-03-03T06:00:00.5-05:00", datetime(2026, 3, 3, 11, 0, 0, 500_000, tzinfo=UTC)),
            (1_772_535_600_000, datetime(2026, 3, 3, 11, tzinfo=UTC)),
            (1_772_535_600_123, datetime(2026, 3, 3, 11, 0, 0, 123_000, tzinfo=UTC)),
            ("2026-03-03T12:10:00Z", NOW + timedelta(minutes=10)),
            ("2000-01-01T00:00:00Z", datetime(2000, 1, 1, tzinfo=UTC)),
            (None, NOW),
        ],
    )
    def test_iso_with_a_zone_or_milliseconds(self, stamp: Any, utc: datetime) -> None:
        assert accepted(MINIMAL | {"timestamp": stamp}).occurred_at == utc

    @pytest.mark.parametrize(
        ("stamp", "said"),
        [
            ("2026-03-03T11:00:00", "has no zone"),
            ("2026-03-03", "has no zone"),
            ("yesterday", "is not ISO 8601"),
            ("1772535600000", "is not ISO 8601"),
            ("", "is not ISO 8601"),
            ("2026-03-03T12:10:00.000001Z", "is in the future: it is 2026-03-03T12:00:00"),
            (1_772_535_600, "are these seconds, not milliseconds?"),
            ("1999-12-31T23:59:59Z", "before the year 2000"),
            (0, "before the year 2000"),
            (-(10**30), "out of range"),
            (10**300, "out of range"),
            ("0001-01-01T00:00:00+14:00", "out of range"),
            (1_772_535_600_000.5, "whole milliseconds"),
            (True, "whole milliseconds"),
            ([1], "timestamp"),
        ],
    )
    def test_other_times_are_refused_with_the_remedy(self, stamp: Any, said: str) -> None:
        error = rejected(MINIMAL | {"timestamp": stamp}).error
        assert said in error
        assert "time" in error


class TestRefusals:
    @pytest.mark.parametrize("field", ["event_type", "user_id"])
    def test_what_is_missing_is_named(self, field: str) -> None:
        item = {name: value for name, value in MINIMAL.items() if name != field}
        assert rejected(item).error == f"{field} is missing"

    @pytest.mark.parametrize("item", [None, True, 3, "text", [MINIMAL], []])
    def test_only_objects_are_events(self, item: Any) -> None:
        assert "an event must be an object, got" in rejected(item).error

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"test_id": None}, "test_id is missing: an exposure names its experiment"),
            ({"variant_id": None}, "variant_id is missing: an exposure names the variant"),
            ({"test_id": "nope"}, "test_id 'nope' is not an experiment of this site"),
            ({"test_id": "draft"}, "test_id 'draft' has not started"),
            ({"variant_id": "c"}, "variant_id 'c' is not one of a, b"),
            ({"test_id": "he ro"}, "test_id is 'he ro': use 1 to 100 of the characters"),
            ({"variant_id": "b/"}, "variant_id is 'b/'"),
            ({"event_type": "exposure now"}, "event_type is 'exposure now'"),
            ({"event_type": ""}, "event_type is ''"),
            ({"event_type": "x" * 101}, "event_type is"),
            ({"user_id": ""}, "user_id: "),
            ({"user_id": "  "}, "user_id: "),
            ({"user_id": "x" * 201}, "at most 200 characters"),
            ({"user_id": True}, "user_id: "),
            ({"user_id": "a\x00b"}, "user_id: holds a NUL character"),
            ({"city": "a\x00b"}, "city: holds a NUL character"),
            ({"city": "x" * 121}, "city: "),
            ({"city": "\ud800"}, "city: "),
            ({"id": ""}, "id: "),
            ({"id": "x" * 101}, "id: "),
            ({"colour": "red"}, "colour is not a field of an event: put it into properties"),
            ({"\ud800": 1}, ""),
            ({"value": "much"}, "value: "),
            ({"value": float("nan")}, "value: "),
            ({"value": 1e13}, "value: "),
            ({"value": 10**400}, "value: "),
            ({"epoch": -1}, "epoch: "),
            ({"epoch": 10**30}, "epoch: "),
            ({"epoch": 1.5}, "epoch: "),
            ({"propensity": 0}, "propensity: "),
            ({"propensity": 1.01}, "propensity: "),
            ({"properties": []}, "properties: "),
            ({"properties": {"x": "y" * MAX_PAYLOAD}}, "properties are longer than 4000 characters"),
            ({"properties": {"x": float("nan")}}, "properties hold NaN"),
            ({"properties": {"x": [float("inf")]}}, "properties hold NaN"),
            ({"properties": {"x": "\ud800"}}, "half a character"),
            ({"properties": {"x": json.loads("[" * 400 + "]" * 400)}}, "nest deeper than 20 levels"),
            ({"url": "http://[::1"}, "url 'http://[::1' cannot be read"),
            ({"url": "x" * 2001}, "url: "),
            ({"session_id": {}}, "session_id: "),
        ],
    )
    def test_what_is_wrong_is_named(self, change: dict[str, Any], said: str) -> None:
        rejection = rejected(EXPOSURE | change)
        assert said in rejection.error
        assert rejection.error

    def test_every_fault_of_an_item_is_named(self) -> None:
        error = rejected({"city": 1, "epoch": -1, "colour": 2}).error
        assert all(name in error for name in ("event_type", "user_id", "epoch", "colour"))

    def test_the_place_in_what_was_posted_is_kept(self) -> None:
        events, rejections = clean([MINIMAL, 5, EXPOSURE, {}], RULES)
        assert [e.type for e in events] == ["lead", "exposure"]
        assert [r.index for r in rejections] == [1, 3]

    def test_a_rejection_counts_for_the_experiment_it_names(self) -> None:
        assert rejected(EXPOSURE | {"variant_id": "z"}).experiment_id == "hero"
        assert rejected(EXPOSURE | {"test_id": "nope"}).experiment_id is None
        assert rejected(EXPOSURE | {"test_id": ["hero"]}).experiment_id is None


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://a.example/p?x=1&email=a@b.c", "https://a.example/p"),
        ("https://a.example/p#token=1", "https://a.example/p"),
        ("https://user:secret@a.example:8443/p?q", "https://a.example:8443/p"),
        ("/relative/path?visitor=1", "/relative/path"),
        ("?only=query", None),
        ("", None),
    ],
)
def test_addresses_lose_query_fragment_and_login(url: str, kept: str | None) -> None:
    assert (accepted(MINIMAL | {"url": url}).url or None) == kept


class TestQuarantine:
    @pytest.mark.parametrize(
        "item",
        [
            {"user_id": VISITOR},
            {"event_type": "lead", "user_id": [VISITOR]},
            {"event_type": "lead", "user_id": {"id": VISITOR}},
            {"event_type": "lead", "userId": VISITOR},
            {"event_type": "lead", "uid": VISITOR, "cookies": [{"ga": VISITOR}]},
            {"event_type": "lead", "properties": {"x": VISITOR}},
            {"event_type": "lead", "id": f"lead:{VISITOR}", "url": f"/?u={VISITOR}"},
            {"event_type": "lead", "city": [VISITOR], "test_id": {"x": VISITOR}},
            [VISITOR],
            VISITOR,
        ],
    )
    def test_no_visitor_is_readable_in_it(self, item: Any) -> None:
        rejection = rejected(item)
        assert "alice" not in rejection.payload
        assert "alice" not in rejection.error
        assert hashed(VISITOR) in rejection.payload or "lead:" in str(item)

    def test_what_helps_to_find_the_fault_is_readable(self) -> None:
        item = EXPOSURE | {
            "variant_id": "z",
            "city": "Århus",
            "timestamp": "2026-03-03T11:00:00Z",
            "variant": "b",
        }
        kept = json.loads(rejected(item).payload)
        assert kept == item | {"user_id": hashed(VISITOR), "variant": hashed("b")}

    def test_the_same_visitor_has_the_same_hash_there_as_in_the_events(self) -> None:
        assert (
            json.loads(rejected(EXPOSURE | {"variant_id": "z"}).payload)["user_id"] == accepted(EXPOSURE).unit
        )

    def test_it_is_bounded_and_can_be_stored_anywhere(self) -> None:
        deep = json.loads('{"a":' * 300 + "1" + "}" * 300)
        for item in (
            {"x" * 9000: "y" * 9000},
            deep,
            {"\ud800\x00": "\ud800\x00", "city": "\ud800\x00"},
            [1] * 9000,
        ):
            rejection = rejected(item)
            assert len(rejection.payload) <= MAX_PAYLOAD
            assert len(rejection.error) <= MAX_ERROR
            for text in (rejection.payload, rejection.error):
                text.encode("utf-8")
                assert "\x00" not in text


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = (
    "event_type", "user_id", "test_id", "variant_id", "id", "session_id", "timestamp", "device_type", "city", "country",
    "value", "asset_id", "occasion", "url", "properties", "epoch", "propensity",
)  # fmt: skip
almost = st.dictionaries(st.sampled_from(NAMES), anything).map(lambda extra: EXPOSURE | extra)
plausible = st.builds(
    lambda base, extra: base | extra,
    st.sampled_from([MINIMAL, EXPOSURE]),
    st.fixed_dictionaries(
        {},
        optional={
            "timestamp": st.integers(946_684_800_000, 1_772_535_600_000),
            "value": st.floats(-1e12, 1e12),
            "city": st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30),
            "epoch": st.integers(0, 400),
            "properties": st.dictionaries(st.text(max_size=5), st.integers() | st.booleans(), max_size=3),
            "url": st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=60),
        },
    ),
)


@given(st.lists(anything | almost | plausible, max_size=6))
def test_any_json_ends_in_exactly_one_place(items: list[Any]) -> None:
    events, rejections = clean(items, RULES)
    assert len(events) + len(rejections) == len(items)
    places = [r.index for r in rejections]
    assert len(set(places)) == len(places)
    assert all(0 <= place < len(items) for place in places)
    for rejection in rejections:
        assert rejection.error
        assert VISITOR not in rejection.payload
    taken = [item for index, item in enumerate(items) if index not in places]
    for event, item in zip(events, taken, strict=True):
        assert event.unit == hashed(str(item["user_id"]).strip())
        json.dumps(event.properties, allow_nan=False).encode()


@given(plausible)
def test_what_is_plausible_is_accepted_or_has_an_unreadable_address(item: dict[str, Any]) -> None:
    events, rejections = clean([item], RULES)
    assert len(events) == 1 or rejections[0].error.startswith("url ")


def test_made_ids_are_uuids_of_version_7_in_the_order_of_time() -> None:
    import uuid

    moments = [NOW + timedelta(milliseconds=n) for n in range(50)]
    made = [new_id(moment) for moment in moments]
    assert made == sorted(made)
    for text, moment in zip(made, moments, strict=True):
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert parsed.int >> 80 == moment.timestamp() * 1000
    assert len({new_id(NOW) for _ in range(1000)}) == 1000


INTERNAL_HOSTS = ("staging.example.com", "localhost")


@pytest.mark.parametrize(
    ("url", "internal"),
    [
        ("https://staging.example.com/offers", True),
        ("https://STAGING.Example.COM:8443/", True),
        ("https://staging.example.com./", True),
        ("https://user:secret@staging.example.com/", True),
        ("https://pr-7.staging.example.com/", True),
        ("http://localhost:3000/", True),
        ("//staging.example.com/x", True),
        ("https://example.com/", False),
        ("https://notstaging.example.com/", False),
        ("https://staging.example.com.evil.example/", False),
        ("https://staging.example.com@example.com/", False),
        ("https://example.com/?from=staging.example.com", False),
        ("/staging.example.com", False),
        ("", False),
        (None, False),
    ],
)
def test_pages_of_internal_hosts_and_their_subdomains_are_internal(url: str | None, internal: bool) -> None:
    rules = replace(RULES, internal_hosts=INTERNAL_HOSTS)
    assert accepted(MINIMAL | {"url": url}, rules).internal is internal
    assert not accepted(MINIMAL | {"url": url}).internal


INTERNAL = {
    "privacy": {
        "internal_networks": ["203.0.113.0/24", "2001:db8::/32"],
        "internal_hosts": ["Staging.Example.com."],
    }
}


class TestInternalTraffic:
    @pytest.mark.parametrize(
        ("address", "internal"),
        [
            ("203.0.113.255", True),
            ("203.0.114.1", False),
            ("2001:db8:ffff::1", True),
            ("2001:db9::1", False),
            (None, False),
        ],
    )
    def test_addresses_of_internal_networks_are(
        self, make_site: Callable[..., Home], address: str | None, internal: bool
    ) -> None:
        home = make_site(INTERNAL)
        ingest(home, [MINIMAL], now=NOW, sender=Sender(None, address))
        (row,) = rows(home.db, schema.events)
        assert row["internal"] is internal

    def test_it_is_kept_and_counts_nowhere(self, make_site: Callable[..., Home]) -> None:
        """Beside one visitor who counts, people of the office and of the staging site do the same."""
        home = make_site(INTERNAL)
        experiment = stored(home.db, running(covariate="engagement"))
        exposure = {"event_type": "exposure", "test_id": "hero", "variant_id": "b", "user_id": "guest"}
        goal = {"event_type": "lead", "user_id": "guest"}
        earlier = {"event_type": "play", "user_id": "guest", "timestamp": START.isoformat()}
        now = START + HOUR
        office = Sender(None, "203.0.113.9")
        staging = {"url": "https://staging.example.com/"}
        mine = [exposure | {"user_id": "me"}, goal | {"user_id": "me"}]
        theirs = [exposure | staging | {"user_id": "you"}, goal | staging | {"user_id": "you"}]
        receipts = [
            ingest(home, [earlier, *mine], now=now, sender=office),
            ingest(home, theirs, now=now),
            ingest(home, [exposure, goal], now=now + TICK),
        ]
        assert sum(r.accepted for r in receipts) == len(rows(home.db, schema.events)) == 7
        as_of = now + 2 * DAY
        with home.db.read() as connection:
            cells = reader.reading(connection, experiment, as_of).cells()
            steps = {
                s.step: s.count for s in reader.reading(connection, experiment, as_of).waterfall() if s.count
            }
            met = arrivals.visitors(connection, ["hero"], [(START, as_of)])
            measured = reader.reading(connection, experiment, as_of).measured(cells)
        assert [(c.variant, c.units, c.conversions) for c in cells] == [("b", 1, 1)]
        assert steps == {"received": 7, "internal": 5, "counted_exposure": 1, "counted_goal": 1}
        assert met[0] == 1
        assert measured.pairs
        assert all(pair.x_sum == 0 for pair in measured.pairs)  # what the office did is no covariate
        assert len(rows(home.db, schema.exposures)) == 1
        # Who looks at the site from the office sees what any visitor would.
        shown = assignments(home, "me", now=now).experiments[0]
        assert (shown.reason, shown.counted) == ("assigned", True)


ITEM = {"event_type": "exposure", "test_id": "hero", "variant_id": "a", "user_id": "v1", "id": "x1"}


class TestClocks:
    """Client time is kept, server time recorded; an impossible time goes to the quarantine, and may be corrected."""

    def test_a_year_ahead_is_refused_until_it_is_corrected(self, site: Home) -> None:
        experiment = stored(site.db, running())
        now = START + HOUR
        wrong = ITEM | {"timestamp": (now + 365 * DAY).isoformat()}
        receipt = ingest(site, [wrong], now=now)
        assert (receipt.accepted, len(receipt.rejected)) == (0, 1)
        assert "is in the future: it is 2026-03-02T10:00:00+00:00 here" in receipt.rejected[0].error
        assert len(rows(site.db, schema.quarantine)) == 1
        right = ITEM | {"timestamp": now.isoformat()}
        assert [ingest(site, [right], now=now + HOUR).accepted for _ in range(2)] == [1, 0]
        (row,) = rows(site.db, schema.events)
        assert (row["occurred_at"], row["received_at"]) == (now, now + HOUR)
        assert _steps(site, experiment, now + 3 * DAY) == {
            "received": 3, "rejected": 1, "duplicate": 1, "counted_exposure": 1,
        }  # fmt: skip

    def test_a_year_behind_is_kept_and_not_counted(self, site: Home) -> None:
        experiment = stored(site.db, running())
        now = START + HOUR
        behind = now - 365 * DAY
        assert ingest(site, [ITEM | {"timestamp": behind.isoformat()}], now=now).accepted == 1
        (row,) = rows(site.db, schema.events)
        assert (row["occurred_at"], row["received_at"]) == (behind, now)
        assert _steps(site, experiment, now + 3 * DAY) == {"received": 1, "after_enrolment": 1}

    def test_ten_minutes_ahead_is_counted_by_the_looks_that_come_after_it(self, site: Home) -> None:
        experiment = stored(site.db, running())
        now = START + HOUR
        ahead = now + timedelta(minutes=10)
        assert ingest(site, [ITEM | {"timestamp": ahead.isoformat()}], now=now).accepted == 1
        (row,) = rows(site.db, schema.events)
        assert (row["occurred_at"], row["received_at"]) == (ahead, now)
        shown = assignments(site, "v1", now=now).experiments[0]
        assert (shown.variant, shown.reason) == ("a", "exposed")
        assert _steps(site, experiment, now) == {}
        assert _steps(site, experiment, now + HOUR) == {"received": 1, "immature": 1}
        assert _steps(site, experiment, ahead + DAY + TICK) == {"received": 1, "counted_exposure": 1}

    @pytest.mark.sizes(30, 10)
    @pytest.mark.parametrize(
        ("change", "before", "after", "hours"),
        [
            (datetime(2026, 3, 29, 1, tzinfo=UTC), 1, 2, 23),
            (datetime(2026, 10, 25, 1, tzinfo=UTC), 2, 1, 25),
        ],
        ids=["an hour is left out", "an hour comes twice"],
    )
    def test_days_are_the_sites_when_its_clocks_change(
        self, site: Home, change: datetime, before: int, after: int, hours: int, size: int
    ) -> None:
        """A visitor every thirty (ten) minutes of three days in Paris, whose own clocks stand in its zone."""
        start = datetime(change.year, change.month, change.day, tzinfo=UTC) - DAY - before * HOUR
        draft = replace(
            running(zone="Europe/Paris", adaptive=True), status=Status.DRAFT, started_at=None, epochs=()
        )
        experiment = stored(site.db, plans.begin(draft, start))
        expected: Counter[str] = Counter()
        per_hour = 60 // size
        for number in range((48 + hours) * per_hour):
            at = start + number * timedelta(minutes=size)
            local = at + (before if at < change else after) * HOUR
            sign = f"+0{(before if at < change else after)}:00"
            shown = assignments(site, f"v{number}", now=at).experiments[0]
            item = {
                "event_type": "exposure",
                "user_id": f"v{number}",
                "timestamp": f"{local:%Y-%m-%dT%H:%M:%S}{sign}",
            }
            item |= {"test_id": shown.experiment_id, "variant_id": shown.variant}
            item |= {"epoch": shown.epoch, "propensity": shown.propensity}
            assert ingest(site, [item], now=at).accepted == 1
            expected[f"{local:%Y-%m-%d}"] += 1
        assert list(expected.values()) == [per_hour * day for day in (24, hours, 24)]
        as_of = start + 6 * DAY
        with site.db.read() as connection:
            reading = reader.reading(connection, experiment, as_of)
            cells, slices = reading.cells(), reading.times()
        by_epoch, by_day = Counter[int](), Counter[str]()
        for cell in cells:
            by_epoch[cell.epoch] += cell.units
        for part in slices:
            by_day[part.name] += part.units if part.dimension == "day" else 0
        assert list(by_epoch.items()) == list(enumerate(expected.values()))
        assert +by_day == expected
        assert _steps(site, experiment, as_of) == {
            "received": expected.total(),
            "counted_exposure": expected.total(),
        }


def _steps(home: Home, experiment: Experiment, as_of: datetime) -> dict[str, int]:
    """The steps of the reconciliation that are not empty."""
    with home.db.read() as connection:
        return {s.step: s.count for s in reader.reading(connection, experiment, as_of).waterfall() if s.count}
