"""The report as a value: what it says in words, in 80 columns and in JSON."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from helpers import report_samples as samples
from helpers.places import ROOT

from cro_core import reporting
from cro_core.analytics import definitions
from cro_core.decision.decide import decide
from cro_core.domain import Cell, Status, Variant, Verdict, to_json
from cro_core.learning import prediction
from cro_core.planning import plans
from cro_core.reporting import headline, next_steps, refusals, sheets, summaries, words
from cro_core.reporting.changes import changes
from cro_core.reporting.values import SCHEMA, Pending, Report, Sheet

DOCS = ROOT / "docs" / "notebooks.md"
NASTY = '🎬 فيلم <img src=x onerror=alert(1)> \u202eevil\u0007 & "quoted" ' + "long" * 30
TOP_KEYS = """schema site zone simulated period_start generated_at headline overview sheets changes refusals
production assets model pending actions outcomes differences ranking running decided winners unproven"""


def sheet(
    verdict: Verdict, counts: list[tuple[int, int]], status: Status = Status.ARCHIVED, **more: Any
) -> Sheet:
    of = samples.experiment("hero", "Hero", status, winner=more.get("winner"))
    return sheets.sheet(of, samples.decision(of, verdict, counts, **more))


class TestText:
    @pytest.mark.parametrize(
        "made", [samples.report(), samples.empty(), samples.report(site=NASTY, name=NASTY)]
    )
    def test_it_is_80_columns_of_harmless_characters(self, made: Report) -> None:
        text = reporting.as_text(made)
        assert max(map(words.width, text.splitlines())) <= 80
        assert not {c for c in text if unicodedata.category(c) in {"Cc", "Cf"}} - {"\n", "\u200d"}
        assert words.NBSP not in text
        assert all(line == line.rstrip() for line in text.splitlines())

    def test_names_arrive_whole(self) -> None:
        flat = re.sub(r"\s+", "", reporting.as_text(samples.report(name=NASTY)))
        assert "فيلم<imgsrc=xonerror=alert(1)>evil" in flat
        assert "long" * 30 in flat

    def test_every_section_of_an_empty_home_says_that_there_is_nothing(self) -> None:
        text = reporting.as_text(samples.empty())
        for said in (
            "No visitors have been reported yet", "Nothing was decided.", "Nothing was changed.", "It refused nothing.",
            "No test is running.", "No test has had a proven winner yet.", "No events have been received.",
            "Nothing waits for your approval.", "$ cro serve",
        ):  # fmt: skip
            assert said in text
        assert words.UNKNOWN not in text

    def test_the_waterfall_adds_up(self) -> None:
        text = reporting.as_text(samples.report())
        part = text.split("Where the numbers come from", 1)[1].split("Pictures and clips", 1)[0]
        rows = re.findall(r"^    ([ =-]) *([\d,]+) \S", part, re.MULTILINE)
        steps = [(sign, int(number.replace(",", ""))) for sign, number in rows]
        begins = [i for i, (sign, _) in enumerate(steps) if sign == " "]
        assert len(begins) == 4
        for first, last in zip(begins, [*begins[1:], len(steps)], strict=True):
            received, *rest = (number for _, number in steps[first:last])
            assert received == sum(rest) > 0
            assert "=" in {sign for sign, _ in steps[first:last]}

    def test_winner_refusals_and_next_steps_stand_in_it(self) -> None:
        text = re.sub(r"\s+", " ", reporting.as_text(samples.report()))
        assert "“Film of the dance” won “Hero: photo or film”, +25.0 % conversions." in text
        assert "Evidence: +25.0 % conversions with “Film of the dance” over “Photo of the hall”" in text
        assert (
            "Did not stop “Wedding page: first picture” early. Why: One look would call a chi-square of 9.40 clear"
            in text
        )
        assert "Undo: cro rollback 5" in text
        assert "* hero: Film of the dance since Sat 14 Mar 2026 (from Hero: photo or film)" in text
        assert "$ cro approve start:cta-2" in text
        assert "DEMO. These visitors and this calendar are simulated." in text
        assert "DEMO" not in reporting.as_text(samples.report(simulated=False))


class TestJson:
    def document(self, made: Report) -> dict[str, Any]:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        parsed: dict[str, Any] = json.loads(reporting.as_json(made), parse_constant=refuse)
        return parsed

    def test_its_keys_are_those_of_the_schema(self) -> None:
        document = self.document(samples.report())
        assert document["schema"] == SCHEMA == "cro-report/1"
        assert list(document) == TOP_KEYS.split(), (
            "a key that goes or changes its meaning needs a new schema number"
        )
        assert list(self.document(samples.empty())) == TOP_KEYS.split()

    def test_every_key_is_documented(self) -> None:
        known = set(
            re.findall(r"`(\w+)`", DOCS.read_text(encoding="utf-8").split("### Keys of the JSON form")[1])
        )
        found = keys(self.document(samples.report()))
        assert {"relative_low", "critical_chi_square", "per_week_high", "waterfall"} <= found
        assert found - known == set()

    def test_groups_name_their_sheets_and_times_are_utc(self) -> None:
        document = self.document(samples.report())
        assert document["winners"] == ["hero"]
        assert document["decided"] == ["hero", "cta", "gallery"]
        assert document["unproven"] == ["gallery"]
        assert document["running"] == ["wedding-hero"]
        assert document["generated_at"] == "2026-03-16T08:00:00Z"

    def test_what_cannot_be_computed_is_null(self) -> None:
        of = samples.experiment("hero", "Hero")
        page = sheets.sheet(of, samples.decision(of, Verdict.CONTINUE, [(0, 0), (0, 0)]))
        document = self.document(replace(samples.empty(), sheets=(page,)))
        assert document["sheets"][0]["arms"][0]["rate"] is None
        assert document["sheets"][0]["contrasts"][0]["relative"] is None
        assert document["sheets"][0]["contrasts"][0]["reason"] == "nobody has met the control yet"


def keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(keys, value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


class TestWords:
    @pytest.mark.parametrize(
        ("said", "wanted"),
        [
            (words.percent(0.03042), "3.04 %"),
            (words.percent(0.1239), "12.4 %"),
            (words.percent(1.0), "100 %"),
            (words.percent(None), "not known"),
            (words.signed(-0.046), "−4.6 %"),
            (words.signed(2.5), "+250 %"),
            (words.interval(-0.05, 0.21), "−5.0 % to +21.0 %"),
            (words.interval(None, 0.2), "not known"),
            (words.p_value(0.0005), "p < .001"),
            (words.p_value(0.0412), "p = .041"),
            (words.p_value(1.0), "p = 1.000"),
            (words.more(4.06), "+4.1"),
            (words.more(-1234.0), "−1,234"),
            (words.level(0.975), "97.5 %"),
            (words.some(0, "test"), "no tests"),
            (words.some(1, "test"), "1 test"),
            (words.some(1200, "visitor is", "visitors are"), "1,200 visitors are"),
            (words.day(samples.NOW, "Europe/Copenhagen"), "Mon 16 Mar 2026"),
            (words.minute(samples.NOW, "Asia/Tokyo"), "Mon 16 Mar, 17:00"),
            (words.clean("a\u202eb\x1b[31m"), "a b [31m"),
        ],
    )
    def test_numbers_and_times_are_said_as_people_do(self, said: str, wanted: str) -> None:
        assert said.replace(words.NBSP, " ") == wanted

    @pytest.mark.parametrize(("text", "columns"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("🎬", 2)])
    def test_width_is_that_of_a_terminal(self, text: str, columns: int) -> None:
        assert words.width(text) == columns

    def test_every_step_of_the_reconciliation_and_every_verdict_has_words(self) -> None:
        assert set(words.STEPS) == {*definitions.STEPS, "received", "unexplained"}
        assert set(words.VERDICTS) == {*Verdict, None}


class TestSheets:
    def test_worth_is_counted_from_uplift_rate_and_traffic(self) -> None:
        page = sheet(Verdict.SHIP, [(5000, 400), (5000, 500)], winner="b")
        assert page.worth is not None
        assert page.worth.per_thousand == pytest.approx(0.25 * 0.08 * 1000)
        assert page.worth.per_week == pytest.approx(0.25 * 0.08 * 10_000 / 10 * 7)
        assert page.worth.per_week_low == pytest.approx(0.10 * 0.08 * 7000)
        assert sheet(Verdict.INCONCLUSIVE, [(5000, 400), (5000, 500)]).worth is None

    def test_chi_square_is_the_one_that_decides(self) -> None:
        """Where shares moved, a pooled table's statistic is not what the decision compares."""
        of = samples.experiment("hero", "Hero")
        made = samples.decision(of, Verdict.CONTINUE, [(500, 40), (500, 60)])
        (contrast,) = sheets.sheet(of, samples.compared(made, z=1.5, chi_square=9.9)).contrasts
        assert contrast.chi_square == pytest.approx(2.25)
        assert contrast.p_value == 0.0029  # the one that knows of the looks

    def test_ended_tests_show_the_estimate_that_stopping_early_does_not_flatter(self) -> None:
        of = samples.experiment("hero", "Hero")
        made = samples.decision(of, Verdict.SHIP, [(5000, 400), (5000, 500)], winner="b")
        (raw,) = sheets.sheet(of, made).contrasts
        ended = samples.compared(made, stopped=0.19, stopped_low=0.05, stopped_high=0.33)
        (adjusted,) = sheets.sheet(of, ended).contrasts
        assert (raw.uplift.value, adjusted.uplift.value) == (pytest.approx(0.25), 0.19)
        assert (adjusted.uplift.low, adjusted.uplift.high) == (0.05, 0.33)

    def test_intervals_share_the_error_between_challengers(self) -> None:
        of = samples.experiment("hero", "Hero")
        three = replace(of, variants=(*of.variants, replace(of.variants[1], key="c")))
        assert sheets.sheet(of, None).confidence == pytest.approx(0.95)
        assert sheets.sheet(three, None).confidence == pytest.approx(0.975)

    def test_an_interval_is_named_by_the_level_that_it_has(self) -> None:
        """That of the uplift by the challenger's part of alpha, which grows as others are beaten."""
        of = samples.experiment("hero", "Hero")
        three = plans.begin(replace(of, variants=(*of.variants, Variant("c", "Poster"))), samples.NOW)
        for beaten, level in ((200, 0.95), (300, 0.975)):
            cells = [Cell(0, v, 10_000, x) for v, x in (("a", 300), ("b", 320), ("c", beaten))]
            made = decide(three, cells, as_of=samples.NOW + three.plan.horizon).decision
            page = sheets.sheet(three, made)
            assert (page.best and page.best.variant, page.confidence) == ("b", level)
            assert f"({words.level(level)} interval" in summaries.evidence(page)
            running = replace(page, verdict=Verdict.CONTINUE, status=Status.RUNNING)
            text = reporting.as_text(replace(samples.empty(), sheets=(running,)))
            assert re.search(r"rate +95 % interval", text)  # of each rate by itself

    def test_a_decision_that_was_undone_is_no_winner(self) -> None:
        of = samples.experiment("hero", "Hero", Status.ARCHIVED, winner=None)
        page = sheets.sheet(of, samples.decision(of, Verdict.SHIP, [(5000, 400), (5000, 500)], winner="b"))
        assert page.taken_back
        assert replace(samples.empty(), sheets=(page,)).winners == ()

    def test_assets_are_ranked_by_uplift_weighted_by_visitors(self) -> None:
        first, second = samples.experiment("one", "1"), samples.experiment("two", "2")
        pairs = [
            (
                first,
                sheets.sheet(first, samples.decision(first, Verdict.CONTINUE, [(1000, 100), (1000, 150)])),
            ),
            (
                second,
                sheets.sheet(second, samples.decision(second, Verdict.CONTINUE, [(3000, 300), (3000, 330)])),
            ),
        ]
        film, hall = sheets.assets(pairs)
        assert (film.asset_id, film.experiments, film.units, film.conversions) == ("dance.mp4", 2, 4000, 480)
        assert film.uplift == pytest.approx((1000 * 0.5 + 3000 * 0.1) / 4000)
        assert (hall.asset_id, hall.uplift) == ("hall.jpg", None)

    @pytest.mark.parametrize(
        ("status", "winner", "said"),
        [
            (Status.DRAFT, None, "Not started."),
            (Status.ARCHIVED, "b", "Ended by hand; shows b. No verdict was reached."),
        ],
    )
    def test_without_a_decision_it_says_why(self, status: Status, winner: str | None, said: str) -> None:
        assert sheets.sheet(samples.experiment("hero", "Hero", status, winner=winner), None).summary == said


class TestSummaries:
    @pytest.mark.parametrize(
        ("verdict", "code", "more", "said"),
        [
            (Verdict.SHIP, "", {"winner": "b"},
             "“Film of the dance” is better than “Photo of the hall”: 90 of 1,000 visitors converted, against 80 of 1,000."),
            (Verdict.CONTINUE, "", {}, "Too early to say. 2,000 of 10,000 planned visitors are counted."),
            (Verdict.INCONCLUSIVE, "too_few", {},
             "Too few visitors came to compare the versions. “Photo of the hall” stays."),
            (Verdict.KEEP_CONTROL, "gain_too_small", {},
             "Another version did better, but the gain is too small to be worth a change. “Photo of the hall” stays."),
            (Verdict.INVALID, "", {},
             "The numbers cannot be trusted: visitors were not divided between the versions as planned."),
            (Verdict.INCONCLUSIVE, "not_significant", {"winner": "b", "unproven": True},
             "No difference was proven: the versions are no further apart than chance explains. "
             "Your settings ask to show the leader all the same, “Film of the dance”."),
        ],
    )  # fmt: skip
    def test_a_verdict_in_plain_words(
        self, verdict: Verdict, code: str, more: dict[str, Any], said: str
    ) -> None:
        of = samples.experiment("hero", "Hero")
        made = samples.decision(of, verdict, [(1000, 80), (1000, 90)], **more)
        made = replace(made, reasons=tuple(replace(r, code=code) for r in made.reasons))
        assert summaries.summary(of, made) == said

    def test_a_broken_split_says_the_numbers(self) -> None:
        of = samples.experiment("hero", "Hero")
        made = samples.decision(of, Verdict.INVALID, [(4400, 1), (5600, 1)])
        srm = replace(made.evidence.srm, units=(4400, 5600), expected=(5000.0, 5000.0))
        made = replace(made, evidence=replace(made.evidence, srm=srm))
        assert (
            "4,400 and 5,600 visitors came to the versions where 5,000 and 5,000 were planned"
            in summaries.summary(of, made)
        )


class TestWhatToSay:
    def test_the_headline_tells_the_most_important_thing(self) -> None:
        end, start = samples.NOW, samples.NOW - timedelta(days=7)

        def said(*pages: Sheet, received: int = 9) -> str:
            known = [samples.experiment(p.id, p.name, p.status) for p in pages]
            return headline.headline(pages, headline.overview(known, pages, received, start, end), start, end)

        won = sheet(Verdict.SHIP, [(5000, 400), (5000, 500)], winner="b")
        lost = sheet(Verdict.KEEP_CONTROL, [(5000, 400), (5000, 380)])
        going = sheet(Verdict.CONTINUE, [(50, 4), (50, 5)], Status.RUNNING)
        assert "won “Hero”" in said(won, lost, going)
        assert said(won, won).endswith("and 1 other winner.")
        assert said(lost, going).startswith("1 test ended, none with a proven winner")
        assert said(going) == "Nothing was decided: 1 test still collecting visitors."
        assert said(received=0).startswith("No visitors have been reported yet")
        assert said() == "Nothing was decided, and no test is running."

    def test_next_steps_come_by_urgency(self) -> None:
        alarmed = replace(sheet(Verdict.CONTINUE, [(50, 4), (50, 5)], Status.RUNNING), split="alarm")
        waiting = Pending("ship:x", "ship", "Ship x", samples.NOW)
        made = replace(samples.report(), sheets=(*samples.report().sheets, alarmed), pending=(waiting,))
        steps = next_steps.actions(made, ["the floor costs power"])
        assert [s.text.split()[0] for s in steps] == ["Look", "Approve", "Find", "Test", "Check"]
        assert steps[1].command == "cro approve ship:x"
        assert [s.command for s in next_steps.actions(samples.empty())] == ["cro serve", "cro orchestrate"]

    def test_refusals(self) -> None:
        end, start = samples.NOW, samples.NOW - timedelta(days=7)

        def refused(page: Sheet, *, enabled: bool = True, approval: bool = False) -> list[str]:
            return [r.text for r in refusals.refusals([page], start, end, enabled=enabled, approval=approval)]

        tempting = sheet(Verdict.CONTINUE, [(500, 40), (500, 60)], Status.RUNNING)
        assert refused(tempting) == ["Did not stop “Hero” early"]
        assert tempting.progress is not None
        dull = replace(tempting, progress=replace(tempting.progress, chi_square=3.8))
        assert refused(dull) == []
        invalid = sheet(Verdict.INVALID, [(4400, 350), (5600, 450)])
        assert refused(invalid) == ["Did not pick a winner in “Hero”"]
        assert refused(replace(invalid, ended_at=start)) == []
        kept = sheet(Verdict.KEEP_CONTROL, [(5000, 400), (5000, 380)])
        assert refused(kept) == ["Did not ship “Film of the dance” in “Hero”"]
        assert refused(kept, enabled=False)[0] == "Changed nothing at all"
        picked = sheet(Verdict.INCONCLUSIVE, [(5000, 400), (5000, 410)], winner="b", unproven=True)
        assert refused(picked) == ["Did not call “Film of the dance” in “Hero” a winner"]
        won = sheet(Verdict.SHIP, [(5000, 400), (5000, 500)], Status.ARCHIVED, winner="b")
        assert refused(won, approval=True) == []
        assert refused(replace(won, status=Status.COMPLETED), approval=True) == [
            "Did not ship “Film of the dance” by itself"
        ]

    def test_the_model_is_told_as_its_training_told_it(self) -> None:
        record = prediction.fit([], np.random.default_rng(1))
        row = {"status": record.status, "trained_at": samples.NOW, "record": to_json(record)}
        track = headline.model_track(row)
        assert (track.status, track.accuracy, track.examples) == ("not_enough_history", None, 0)
        assert track.text == record.text
        assert headline.model_track(None).status == "untrained"


class TestChanges:
    def entry(self, number: int, action: str, after: Any = None, **more: Any) -> dict[str, Any]:
        common = {
            "actor": "autopilot",
            "at": samples.NOW,
            "before": None,
            "undone_by": None,
            "subject": "hero",
        }
        return {"id": number, "action": action, "after": after, **common, **more}

    def told(self, *entries: dict[str, Any]) -> list[tuple[str, str]]:
        known = samples.experiment("hero", "Hero", reasoning="Films are liked.")
        return [(c.text, c.undo) for c in changes(list(reversed(entries)), {"hero": known}, {})]

    def test_repeated_moves_of_visitors_are_told_once_with_the_last_shares(self) -> None:
        told = self.told(
            self.entry(1, "allocation.set", {"shares": {"a": 0.5, "b": 0.5}}),
            self.entry(2, "experiment.start"),
            self.entry(3, "allocation.set", {"shares": {"a": 0.3, "b": 0.7}}),
        )
        assert [t.replace(words.NBSP, " ") for t, _ in told] == [
            "Started the test “Hero”.",
            "Moved visitors between the versions of “Hero” (2 times, last to “Photo of the hall” 30 %, "
            "“Film of the dance” 70 %).",
        ]
        assert told[1][1] == "cro rollback 3"

    def test_only_automatic_changes_that_still_hold_offer_their_undoing(self) -> None:
        told = self.told(
            self.entry(1, "experiment.start", actor="cli"),
            self.entry(2, "experiment.start", undone_by=3),
            self.entry(3, "rollback", {"change": 2}, actor="cli"),
            self.entry(4, "cycle.failure", {"error": "ValueError: no"}),
            self.entry(5, "recommendation.approve"),
        )
        assert told == [
            ("Started the test “Hero”.", ""),
            ("Started the test “Hero”. Taken back since.", ""),
            ("Took back change 2, on “Hero”.", ""),
            ("Could not handle “Hero”; it was left as it is.", ""),
        ]
