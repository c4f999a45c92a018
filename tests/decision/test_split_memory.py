"""Alarms of the split stay until a person settles them, and visitors who cross are told."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cro_core.analytics.counts import Slice
from cro_core.cli import app
from cro_core.clock import iso
from cro_core.decision.crossing import crossing_reason, crossing_veto
from cro_core.decision.decide import decide
from cro_core.decision.split_check import check_split, ever_alarming, evidence_on
from cro_core.decision.split_memory import remembered
from cro_core.decision.split_wording import alarm_line
from cro_core.domain import Cell, Experiment, Goal, Plan, Variant, Verdict
from cro_core.errors import Conflict, InvalidInput, NotFound
from cro_core.evidence import Crossing, CrossingFrom, SplitAlarm, SplitReport
from cro_core.home import Home, create_home, open_home, set_clock
from cro_core.planning import plans
from cro_core.rendering.decision_text import decision_text
from cro_core.rendering.sections import running as running_section
from cro_core.reporting import as_text
from cro_core.storage import experiments, journal, split_alarms
from cro_core.storage.database import Database
from cro_core.workflows.create_experiment import NewExperiment, create_experiment
from cro_core.workflows.evaluate import evaluate
from cro_core.workflows.ingest import ingest
from cro_core.workflows.lifecycle import end_experiment
from cro_core.workflows.orchestrate import orchestrate
from cro_core.workflows.replay import replay
from cro_core.workflows.rollback import rollback, undoable
from cro_core.workflows.settle_split import alarms, cut_out, explain
from cro_core.workflows.write_report import weekly_report

START = datetime(2026, 3, 2, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PLAN = Plan((Goal("lead", 100, True),), units=40_000, base_rate=0.03)


def running(plan: Plan = PLAN, keys: str = "ab") -> Experiment:
    variants = tuple(Variant(key, key.upper(), is_control=key == "a") for key in keys)
    return plans.begin(Experiment("hero", "Hero", variants, plan, created_at=START), START)


def cells(*counts: tuple[int, int]) -> list[Cell]:
    return [Cell(0, key, n, x) for key, (n, x) in zip("abcd", counts, strict=False)]


class TestMemory:
    def alarmed(self) -> tuple[Experiment, SplitAlarm]:
        experiment = running()
        report = remembered(
            experiment, check_split(experiment, cells((2_000, 60), (2_290, 70))), (), START + DAY
        )
        (alarm,) = report.alarms
        assert (report.veto, alarm.dimension, alarm.first_at) == (True, "total", START + DAY)
        assert math.exp(alarm.log_e) == pytest.approx(2303.2, abs=0.05)
        return experiment, alarm

    def test_an_alarm_stays_though_later_visitors_dilute_it(self) -> None:
        experiment, alarm = self.alarmed()
        now = check_split(experiment, cells((20_000, 600), (20_290, 700)))
        assert (now.status, now.veto) == ("ok", False)
        later = remembered(experiment, now, (alarm,), START + 5 * DAY)
        assert (later.status, later.veto, later.alarms) == ("alarm", True, (alarm,))
        (said,) = later.reasons
        assert said.code == "srm"
        assert "Since 2026-03-03 00:00 UTC" in said.text
        assert "e-value then 2,303" in said.text

    def test_it_vetoes_the_winner_that_comes_later(self) -> None:
        experiment, alarm = self.alarmed()
        won = cells((20_000, 600), (20_290, 900))
        split = remembered(experiment, check_split(experiment, won), (alarm,), START + 15 * DAY)
        judged = decide(experiment, won, as_of=START + 15 * DAY, split=split).decision
        assert judged.verdict is Verdict.INVALID
        assert judged.reasons[-1].code == "vetoed"

    def test_before_it_was_raised_nobody_knew(self) -> None:
        experiment, alarm = self.alarmed()
        assert remembered(experiment, check_split(experiment, []), (alarm,), START + HOUR).alarms == ()

    def test_what_is_explained_vetoes_no_longer_until_it_grows_a_hundredfold(self) -> None:
        experiment, alarm = self.alarmed()
        settled = replace(
            alarm,
            settled_at=START + 2 * DAY,
            settled_by="ann",
            how="explained",
            reason="a load test",
            settled_log_e=alarm.log_e,
        )
        same = check_split(experiment, cells((2_000, 60), (2_290, 70)))
        quiet = remembered(experiment, same, (settled,), START + 2 * DAY)
        assert (quiet.veto, quiet.status, [r.code for r in quiet.reasons]) == (False, "ok", ["srm_explained"])
        assert "explained (ann: a load test)" in quiet.reasons[0].text
        before = remembered(experiment, same, (settled,), START + 2 * DAY - HOUR)
        assert (before.veto, before.alarms[0].stands) == (True, True)
        worse = check_split(experiment, cells((2_000, 60), (2_400, 70)))
        assert worse.total.log_e is not None
        assert worse.total.log_e > alarm.log_e + math.log(100)
        again = remembered(experiment, worse, (settled,), START + 3 * DAY)
        assert (again.veto, len(again.alarms)) == (True, 2)

    def test_a_new_wave_alarms_although_the_first_was_explained_and_diluted(self) -> None:
        """What counts is the evidence at the explanation, not the largest before it: nobody knew of the second wave."""
        experiment, alarm = self.alarmed()
        diluted = evidence_on(experiment, cells((20_000, 600), (20_290, 700)), (), "total", "all")
        assert diluted < 0
        settled = replace(
            alarm, settled_at=START + 5 * DAY, settled_by="ann", how="explained", settled_log_e=diluted
        )
        calm = check_split(experiment, cells((25_000, 750), (25_300, 760)))
        assert not remembered(experiment, calm, (settled,), START + 6 * DAY).veto
        wave = check_split(experiment, cells((25_000, 750), (26_100, 760)))
        assert wave.total.alarm
        again = remembered(experiment, wave, (settled,), START + 6 * DAY)
        assert (again.veto, [a.first_at for a in again.alarms]) == (True, [alarm.first_at, START + 6 * DAY])

    def test_the_largest_evidence_so_far_is_kept_beside_the_first(self) -> None:
        experiment, alarm = self.alarmed()
        more = check_split(experiment, cells((3_000, 60), (3_440, 70)))
        (grown,) = remembered(experiment, more, (alarm,), START + 2 * DAY).alarms
        assert (grown.log_e, grown.largest) == (alarm.log_e, more.total.log_e)
        assert grown.largest > alarm.log_e
        (kept,) = remembered(experiment, check_split(experiment, []), (grown,), START + 3 * DAY).alarms
        assert kept == grown
        assert alarm_line(grown, "Europe/Berlin").startswith(
            "In total since 2026-03-03 01:00 Europe/Berlin (e-value then 2,303, at most "
        )
        assert alarm_line(grown, "UTC").endswith("): stands.")
        slice_ = replace(grown, dimension="device", name="tablet")
        assert alarm_line(slice_, "UTC").endswith("): stands, which is no veto.")

    def test_until_the_end_the_reason_says_what_ends_it(self) -> None:
        experiment, alarm = self.alarmed()
        calm = check_split(experiment, cells((20_000, 600), (20_290, 700)))
        before = remembered(experiment, calm, (alarm,), START + 5 * DAY).reasons[0].text
        assert "`cro split explain hero total all --reason ...`" in before
        assert "e-value then 2,303, now 0.28" in before
        assert experiment.horizon_ends_at is not None
        at_end = remembered(experiment, calm, (alarm,), experiment.horizon_ends_at).reasons[0].text
        assert at_end.endswith("do not mend it, and nobody has explained it.")
        assert "cro split explain" not in at_end

    def test_every_alarming_day_stays_however_many(self) -> None:
        plan = replace(PLAN, horizon=timedelta(days=57))
        experiment = running(plan)
        names = [(START + number * DAY).date().isoformat() for number in range(30)]
        counts = [(500, 900) if number < 25 else (700, 700) for number in range(30)]
        days = [
            Slice("day", name, 0, key, n)
            for name, row in zip(names, counts, strict=True)
            for key, n in zip("ab", row, strict=True)
        ]
        total = cells(*((sum(n), 0) for n in zip(*counts, strict=True)))
        report = remembered(experiment, check_split(experiment, total, days), (), START + 31 * DAY)
        assert len([a for a in report.alarms if a.dimension == "day"]) == 25
        settled = tuple(
            replace(a, settled_at=START + 32 * DAY, settled_by="ann", how="explained", settled_log_e=a.log_e)
            for a in report.alarms
        )
        check = check_split(experiment, total, days)
        assert not remembered(experiment, check, settled, START + 32 * DAY).veto
        assert remembered(experiment, check, settled[:-1], START + 32 * DAY).veto

    def test_what_was_cut_out_is_said(self) -> None:
        experiment, alarm = self.alarmed()
        cut = replace(
            alarm, dimension="device", name="tablet", how="cut_out", settled_at=START + DAY, settled_by="ann",
            reason="breaks there",
        )  # fmt: skip
        report = remembered(
            experiment, check_split(experiment, cells((900, 9), (890, 9))), (cut,), START + DAY
        )
        assert [(r.code, r.text) for r in report.reasons][1] == (
            "srm_cut",
            "Left out of every version alike: visitors on the device tablet (ann: breaks there).",
        )

    def test_a_segment_is_told_and_vetoes_nothing(self) -> None:
        experiment, alarm = self.alarmed()
        segment = replace(alarm, dimension="device", name="tablet")
        report = remembered(
            experiment, check_split(experiment, cells((2_000, 60), (2_010, 70))), (segment,), START + DAY
        )
        assert (report.veto, report.status, report.alarms) == (False, "ok", (segment,))

    def test_a_wave_of_robots_is_found_and_not_forgotten(self) -> None:
        """240 in one arm of 40,000, within six hours; every look is an hour. At full size in the lab."""
        rng = np.random.default_rng(5)
        experiment, found, kept = running(), 0, 0
        for _ in range(20):
            challenger = rng.binomial(3_077, 0.5, 13)
            by_day = np.stack([3_077 - challenger, challenger], axis=-1)
            known: tuple[SplitAlarm, ...] = ()
            for part in (0.5, 1.0):
                wave = by_day[:5] * np.where(np.arange(5) == 4, part, 1.0)[:, None]
                wave[4, 1] += 240
                known = self.looked_at(experiment, wave, known, START + (4 + part) * DAY).alarms
            by_day[4, 1] += 240
            last = self.looked_at(experiment, by_day, known, START + 14 * DAY)
            found, kept = found + bool(known), kept + (bool(known) and last.veto)
        assert found >= 15
        assert kept == found

    def looked_at(
        self, experiment: Experiment, by_day: np.ndarray, known: tuple[SplitAlarm, ...], as_of: datetime
    ) -> SplitReport:
        units = by_day.astype(int)
        days = [
            Slice("day", (START + number * DAY).date().isoformat(), 0, key, int(n))
            for number, row in enumerate(units)
            for key, n in zip("ab", row, strict=True)
        ]
        counts = cells(*((int(n), 0) for n in units.sum(0)))
        return remembered(experiment, check_split(experiment, counts, days), known, as_of)


def piece(hour: int, a: int, b: int, epoch: int = 0) -> list[Slice]:
    start = (START + hour * HOUR).isoformat()
    return [Slice("piece", start, epoch, key, n) for key, n in (("a", a), ("b", b)) if n]


class TestEverAlarming:
    def test_a_wave_is_found_though_it_was_diluted_later(self) -> None:
        experiment = running()
        calm = [s for hour in range(24, 24 * 9) for s in piece(hour, 100, 100)]
        assert ever_alarming(experiment, calm) == frozenset()
        wave = [*piece(3, 2_000, 2_290), *calm]
        last = check_split(experiment, cells((2_000 + 19_200, 0), (2_290 + 19_200, 0)))
        assert not last.veto
        assert ever_alarming(experiment, wave) == {("total", "all"), ("day", "2026-03-02")}
        assert ever_alarming(experiment, list(reversed(wave))) == ever_alarming(experiment, wave)
        assert ever_alarming(experiment, []) == frozenset()

    def test_days_are_those_of_the_site(self) -> None:
        experiment = running(replace(PLAN, zone="Asia/Tokyo"))
        pieces = [*piece(16, 100, 220), *piece(40, 2_000, 1_990)]
        assert ever_alarming(experiment, pieces) >= {("day", "2026-03-03")}

    def test_each_epoch_has_its_own_shares(self) -> None:
        plan = replace(PLAN, adaptive=True)
        experiment = running(plan)
        epochs = tuple(
            replace(e, shares={"a": 0.2, "b": 0.8}) if e.number == 1 else e for e in experiment.epochs
        )
        moved = replace(experiment, epochs=epochs)
        pieces = [*piece(5, 1_000, 1_000), *piece(30, 1_000, 4_000, epoch=1)]
        assert ever_alarming(moved, pieces) == frozenset()
        assert ever_alarming(experiment, pieces) == {("total", "all"), ("day", "2026-03-03")}


class TestCrossing:
    def test_it_is_said_where_one_variant_loses_its_visitors(self) -> None:
        """The same part of all visitors: evenly, by chance, and all of them from one of three variants."""

        def told(*units: int, exposed: int = 2_000) -> str:
            arms = tuple(CrossingFrom(k, k.upper(), n, exposed) for k, n in zip("abc", units, strict=False))
            crossing = Crossing(sum(units), exposed * len(units), 0.05, arms)
            reason = crossing_reason(crossing)
            assert reason is not None
            return reason.text

        assert "not the same for all" not in told(60, 60)
        assert "not the same for all" not in told(50, 70)
        assert "6.0% of the visitors who met B first, 0.0% of those who met A first" in told(0, 120)
        assert "9.0% of the visitors who met C first, 0.0% of those who met A first" in told(0, 0, 180)
        assert "not the same for all" not in told(2_000, 2_000)
        assert "more than the 5% that the plan allows" in told(150, 160)

    @pytest.mark.parametrize(
        ("crossed", "code"),
        [
            (0.0, None),
            (0.005, None),
            (0.01, "crossing"),
            (0.03, "crossing"),
            (0.05, "crossing"),
            (0.06, "crossing_veto"),
        ],
    )
    @pytest.mark.parametrize("keys", ["ab", "abc"])
    def test_parts_and_their_word(self, crossed: float, code: str | None, keys: str) -> None:
        each = 4_000
        arms = tuple(CrossingFrom(key, key, round(crossed * each), each) for key in keys)
        crossing = Crossing(sum(arm.units for arm in arms), each * len(keys), 0.05, arms)
        reason = crossing_reason(crossing)
        assert (None if reason is None else reason.code) == code
        assert (crossing_veto(crossing) is None) == (code != "crossing_veto")
        won = [(2_000, 60)] * (len(keys) - 1) + [(2_000, 160)]
        judged = decide(running(keys=keys), cells(*won), as_of=START + 15 * DAY, crossing=crossing).decision
        assert judged.verdict is (Verdict.INVALID if code == "crossing_veto" else Verdict.SHIP)

    def test_a_limit_below_one_percent_is_told_too(self) -> None:
        reason = crossing_reason(Crossing(8, 2_000, 0.002))
        assert reason is not None
        assert (reason.code, "more than the 0.2% that" in reason.text) == ("crossing_veto", True)

    def test_before_the_end_the_experiment_goes_on(self) -> None:
        experiment = running(keys="ab")
        counts, as_of = cells((20_000, 600), (20_000, 900)), START + 10 * DAY
        assert decide(experiment, counts, as_of=as_of).decision.verdict is Verdict.SHIP
        kept = decide(experiment, counts, as_of=as_of, crossing=Crossing(6, 100, 0.05)).decision
        assert (kept.verdict, kept.winner) == (Verdict.CONTINUE, None)
        assert kept.reasons[-1].code == "vetoed"
        first = replace(experiment, plan=replace(PLAN, rule=1))
        broken = cells((20_000, 600), (22_000, 990))
        assert decide(first, broken, as_of=as_of).decision.verdict is Verdict.INVALID  # as it has always been

    @pytest.mark.parametrize(
        ("crossed", "code", "verdict"),
        [
            (0, None, Verdict.SHIP),
            (19, None, Verdict.SHIP),
            (40, "crossing", Verdict.SHIP),
            (100, "crossing", Verdict.SHIP),
            (101, "crossing_veto", Verdict.INVALID),
            (1_600, "crossing_veto", Verdict.INVALID),
        ],
    )
    def test_from_one_percent_it_is_said_and_above_five_nothing_wins(
        self, crossed: int, code: str | None, verdict: Verdict
    ) -> None:
        judged = decide(
            running(),
            cells((2_000, 60), (2_000, 140)),
            as_of=START + 15 * DAY,
            crossing=Crossing(crossed, 2_000, 0.05),
        ).decision
        assert judged.verdict is verdict
        told = [r.code for r in judged.reasons if r.code.startswith("crossing")]
        assert told == ([] if code is None else [code])
        assert judged.evidence.crossing == Crossing(crossed, 2_000, 0.05)
        if verdict is Verdict.INVALID:
            assert judged.reasons[-1].text == "But for the visitors who crossed B would have won: vetoed."
            assert "nothing wins by itself" in judged.text

    def test_the_limit_is_the_plan_s(self) -> None:
        for limit, verdict in ((0.01, Verdict.INVALID), (0.2, Verdict.SHIP)):
            counts = cells((2_000, 60), (2_000, 140))
            found = decide(running(), counts, as_of=START + 15 * DAY, crossing=Crossing(60, 4_000, limit))
            assert found.decision.verdict is verdict

    def test_nobody_exposed_crosses_nothing(self) -> None:
        assert Crossing(0, 0, 0.05).share == 0


@pytest.fixture
def home(tmp_path: Path) -> Home:
    settings = {
        "statistics": {"base_rate": 0.2, "minimum_detectable_uplift": 0.8},
        "smart_traffic_allocation": {"enabled": False},
    }
    create_home(tmp_path / "site", settings, environ={})
    home = open_home(tmp_path / "site", environ={})
    set_clock(home, START)
    home = open_home(tmp_path / "site", environ={})
    variants = (Variant("photo", "", is_control=True), Variant("film", "Film"))
    create_experiment(home, NewExperiment("hero", variants), now=START, actor="test")
    return home


def visit(home: Home, at: datetime, *, cross: float = 0.0, device: str = "", **arms: tuple[int, int]) -> None:
    events: list[dict[str, Any]] = []
    for variant, (visitors, converting) in arms.items():
        for number in range(visitors):
            who = {
                "user_id": f"{variant}:{at:%d%H}:{number}:{device}",
                "timestamp": iso(at),
                "test_id": "hero",
            }
            shown = {"event_type": "exposure", "variant_id": variant, "device_type": device or None}
            events += [who | shown] + [who | {"event_type": "contact_form_submit"}] * (number < converting)
            if number < cross * visitors:
                other = "film" if variant == "photo" else "photo"
                later = iso(at + timedelta(seconds=5))
                events.append(who | shown | {"variant_id": other, "timestamp": later})
    assert ingest(home, events, now=at + HOUR).accepted == len(events)


class TestLive:
    def test_visitors_who_cross_win_nothing(self, home: Home) -> None:
        """Four in five met the other variant five seconds later."""
        visit(home, START + 6 * HOUR, cross=0.8, photo=(500, 25), film=(500, 80))
        found = evaluate(home, "hero", as_of=START + 8 * DAY)
        assert found.evidence.crossing is not None
        assert found.evidence.crossing.share == pytest.approx(0.8)
        assert found.verdict is Verdict.CONTINUE  # the share may fall, and a person may mend it
        assert found.reasons[-1].text == "But for the visitors who crossed Film would have won: vetoed."
        assert evaluate(home, "hero", as_of=START + 15 * DAY).verdict is Verdict.INVALID
        visit(home, START + 30 * HOUR, photo=(500, 25), film=(500, 80))
        arms = tuple(
            CrossingFrom(key, name, 400, 1_000) for key, name in (("photo", "photo"), ("film", "Film"))
        )
        assert evaluate(home, "hero", as_of=START + 8 * DAY).evidence.crossing == Crossing(
            800, 2_000, 0.05, arms
        )

    def test_an_alarm_is_stored_explained_and_audited(self, home: Home) -> None:
        visit(home, START + 6 * HOUR, photo=(500, 100), film=(700, 300))
        report = orchestrate(home, now=START + 2 * DAY)
        assert report.failures == ()
        raised = alarms(home, "hero")
        assert {(a.dimension, a.stands) for a in raised} >= {("total", True)}
        visit(home, START + 60 * HOUR, photo=(1_500, 300), film=(1_500, 750))
        set_clock(home, START + 9 * DAY)
        still = evaluate(home, "hero", as_of=START + 9 * DAY)
        assert (still.verdict, still.evidence.splits.veto) == (Verdict.CONTINUE, True)  # type: ignore[union-attr]
        assert still.reasons[-1].text == "But for the broken split Film would have won: vetoed."
        cli = CliRunner()
        where = ["--home", str(home.path)]
        shown = cli.invoke(app, ["split", "list", "hero", *where])
        assert "total all, since 2026-03-04 00:00 UTC (e-value then" in shown.output
        assert "stands" in shown.output
        for alarm in raised:
            asked = [
                "split",
                "explain",
                "hero",
                alarm.dimension,
                alarm.name,
                "--reason",
                "a load test",
                *where,
            ]
            assert cli.invoke(app, asked, catch_exceptions=False).exit_code == 0
        found = evaluate(home, "hero", as_of=START + 9 * DAY + HOUR)
        assert (found.verdict, found.reasons[0].code) == (Verdict.SHIP, "srm_explained")
        assert evaluate(home, "hero", as_of=START + 9 * DAY - HOUR).evidence.splits.veto  # type: ignore[union-attr]
        with home.db.read() as connection:
            entries = [(e["action"], e["actor"]) for e in journal.trail(connection, subject="hero")]
        assert ("split.alarm", "autopilot") in entries
        assert ("split.explain", "cli") in entries
        with pytest.raises(NotFound, match="no alarm of total all stands: there are none"):
            explain(home, "hero", "total", "all", reason="again", now=START + 9 * DAY, actor="ann")

    def test_a_slice_is_cut_out_of_every_variant_alike(self, home: Home) -> None:
        visit(home, START + 6 * HOUR, device="mobile", photo=(500, 100), film=(500, 250))
        visit(home, START + 7 * HOUR, device="tablet", photo=(20, 4), film=(250, 10))
        orchestrate(home, now=START + 2 * DAY)
        assert any(a.stands and a.dimension == "total" for a in alarms(home, "hero"))
        before = evaluate(home, "hero", as_of=START + 8 * DAY)
        assert before.evidence.splits is not None
        assert before.evidence.splits.veto
        done = cut_out(
            home, "hero", "device", "tablet", reason="breaks there", now=START + 8 * DAY, actor="ann"
        )
        assert "device tablet counts in no variant any more" in done
        after = evaluate(home, "hero", as_of=START + 8 * DAY + HOUR)
        assert [(t.units, t.conversions) for t in after.evidence.totals] == [(500, 100), (500, 250)]
        assert after.reasons[-1].code == "nothing_new"  # fewer visitors count than at the look before
        assert {a.how for a in alarms(home, "hero")} == {"cut_out", "judged_anew"}
        (decided,) = orchestrate(home, now=START + 15 * DAY).decisions
        assert decided.verdict is Verdict.SHIP
        assert replay(home, decided.id).identical
        with pytest.raises(Conflict, match="is archived"):
            cut_out(home, "hero", "day", "2026-03-02", reason="x", now=START + 16 * DAY, actor="ann")

    @pytest.mark.parametrize(
        ("dimension", "reason", "message"),
        [
            ("total", "x", "a slice can be cut out of day, hour, device"),
            ("day", "x", "write it like 2026-03-02"),
            ("device", "  ", "reason has 0 characters"),
            ("device", "x" * 501, "reason has 501 characters"),
        ],
    )
    def test_what_cannot_be_cut_is_refused(
        self, home: Home, dimension: str, reason: str, message: str
    ) -> None:
        with pytest.raises(InvalidInput, match=message):
            cut_out(home, "hero", dimension, "tablet", reason=reason, now=START + DAY, actor="ann")

    def test_a_slice_is_cut_once(self, home: Home) -> None:
        cut_out(home, "hero", "device", "tablet", reason="x", now=START + DAY, actor="ann")
        with pytest.raises(Conflict, match="cut out of hero already"):
            cut_out(home, "hero", "device", "tablet", reason="x", now=START + DAY, actor="ann")

    def test_a_cut_that_has_nothing_to_do_with_it_forgets_nothing(self, home: Home) -> None:
        visit(home, START + 6 * HOUR, photo=(500, 100), film=(700, 300))
        visit(home, START + 7 * HOUR, device="toaster", photo=(3, 1), film=(3, 1))
        orchestrate(home, now=START + 2 * DAY)
        visit(home, START + 60 * HOUR, photo=(8_000, 1_600), film=(8_000, 2_000))
        raised = {(a.dimension, a.name) for a in alarms(home, "hero")}
        assert raised >= {("total", "all"), ("day", "2026-03-02")}
        done = cut_out(home, "hero", "device", "toaster", reason="odd", now=START + 8 * DAY, actor="ann")
        assert "the alarm of day 2026-03-02, total all stands on" in done
        assert {(a.dimension, a.name) for a in alarms(home, "hero") if a.stands} == {
            ("total", "all"),
            ("day", "2026-03-02"),
        }  # what vetoes nothing is raised again where it still alarms
        after = evaluate(home, "hero", as_of=START + 8 * DAY + HOUR)
        assert after.evidence.splits is not None
        assert after.evidence.splits.total.status == "ok"
        assert after.evidence.splits.veto
        done = cut_out(home, "hero", "day", "2026-03-02", reason="robots", now=START + 8 * DAY, actor="ann")
        assert done.endswith("the rest is judged anew")
        assert [a for a in alarms(home, "hero") if a.stands and a.dimension in ("total", "day")] == []

    def test_a_slice_that_is_all_of_a_variant_is_not_cut_out(self, home: Home) -> None:
        visit(home, START + 6 * HOUR, device="tablet", film=(700, 300))
        visit(home, START + 6 * HOUR, device="phone", photo=(500, 100))
        with pytest.raises(InvalidInput, match="without device tablet nobody is left of film"):
            cut_out(home, "hero", "device", "tablet", reason="x", now=START + DAY, actor="ann")
        assert alarms(home, "hero") == ()

    def test_what_settled_an_alarm_is_undone(self, home: Home) -> None:
        visit(home, START + 6 * HOUR, device="tablet", photo=(500, 100), film=(800, 300))
        visit(home, START + 6 * HOUR, device="phone", photo=(500, 100), film=(500, 300))
        orchestrate(home, now=START + 2 * DAY)
        raised, now = alarms(home, "hero"), START + 3 * DAY
        explain(home, "hero", "total", "all", reason="a load test", now=now, actor="ann")
        cut_out(home, "hero", "device", "tablet", reason="breaks there", now=now + HOUR, actor="ann")
        cut_out(home, "hero", "day", "2026-03-05", reason="nobody there", now=now + 2 * HOUR, actor="ann")
        settled = alarms(home, "hero")
        assert {a.how for a in settled} == {"explained", "cut_out", "judged_anew"}

        def offered() -> list[tuple[str, str]]:
            with home.db.read() as connection:
                return [
                    (c["action"], c["after"]["name"]) for c in undoable(connection) if "split" in c["action"]
                ]

        def number(action: str, name: str) -> int:
            with home.db.read() as connection:
                return next(
                    c["id"]
                    for c in journal.trail(connection)
                    if c["action"] == action and c["after"]["name"] == name
                )

        assert offered() == [("split.cut", "2026-03-05"), ("split.explain", "all")]
        with pytest.raises(Conflict, match="cannot be undone"):
            rollback(home, number("split.cut", "tablet"), now=now + DAY, actor="ann")
        done = rollback(home, number("split.cut", "2026-03-05"), now=now + DAY, actor="ann")
        assert done.startswith("hero: the slice day 2026-03-05 counts again")
        assert offered() == [("split.cut", "tablet"), ("split.explain", "all")]
        rollback(home, number("split.cut", "tablet"), now=now + DAY, actor="ann")
        assert rollback(home, number("split.explain", "all"), now=now + DAY, actor="ann").endswith(
            "stands again"
        )
        assert (offered(), alarms(home, "hero")) == ([], raised)
        assert evaluate(home, "hero", as_of=now + DAY).evidence.totals[0].units == 1_000
        explain(home, "hero", "total", "all", reason="a load test", now=now, actor="ann")
        with pytest.raises(NotFound, match="no automatic change"):  # what a person settled is none
            rollback(home, now=now, actor="ann")
        assert offered() == [("split.explain", "all")]
        end_experiment(home, "hero", now=now, actor="ann")
        assert offered() == []  # nobody judges it any more

    def test_a_decision_under_alarms_replays(self, home: Home) -> None:
        visit(home, START + 6 * HOUR, photo=(500, 100), film=(700, 300))
        orchestrate(home, now=START + 2 * DAY)
        visit(home, START + 60 * HOUR, photo=(2_000, 400), film=(2_200, 900))
        orchestrate(home, now=START + 5 * DAY)
        raised = [a for a in alarms(home, "hero") if a.dimension == "total"]
        assert [a.largest > a.log_e for a in raised] == [True]
        explain(home, "hero", "total", "all", reason="a load test", now=START + 6 * DAY, actor="ann")
        (decided,) = orchestrate(home, now=START + 15 * DAY).decisions
        assert decided.verdict is Verdict.INVALID  # its days were not explained
        replayed = replay(home, decided.id)
        assert replayed.identical, replayed.text

    def test_under_the_first_rule_nothing_is_remembered(self, home: Home) -> None:
        with home.db.write() as connection:
            experiment = experiments.get(connection, "hero")
            experiments.update(connection, replace(experiment, plan=replace(experiment.plan, rule=1)))
        visit(home, START + 6 * HOUR, photo=(500, 100), film=(640, 130))
        alarmed = evaluate(home, "hero", as_of=START + 2 * DAY).evidence.splits
        assert alarmed is not None
        assert (alarmed.veto, alarmed.alarms, alarmed.total.status) == (True, (), "alarm")
        visit(home, START + 60 * HOUR, photo=(9_000, 900), film=(9_000, 900))
        later = evaluate(home, "hero", as_of=START + 4 * DAY).evidence.splits
        assert later is not None
        assert (later.alarms, later.total.status) == ((), "ok")
        for act in (explain, cut_out):
            with pytest.raises(Conflict, match="runs under the first rule"):
                act(home, "hero", "day", "2026-03-02", reason="x", now=START + 5 * DAY, actor="ann")
        orchestrate(home, now=START + 2 * DAY)
        assert alarms(home, "hero") == ()

    def test_reports_and_status_show_alarms_with_their_state(self, home: Home) -> None:
        visit(home, START + 6 * HOUR, photo=(500, 100), film=(700, 300), cross=0.1)
        orchestrate(home, now=START + 2 * DAY)
        set_clock(home, START + 3 * DAY)
        status = CliRunner().invoke(app, ["status", "--home", str(home.path)]).output
        assert "alarm   hero: not split as planned (total all) since 2026-03-04T00:00:00Z" in status
        report = weekly_report(home, now=START + 3 * DAY)
        text = " ".join(as_text(report).split())
        assert "In total since 2026-03-04 00:00 UTC (e-value then" in text
        assert "WARNING: 10.0% of the visitors met more than one variant" in text
        assert "$ cro split list hero" in text
        explain(home, "hero", "total", "all", reason="a <b>load</b> test", now=START + 3 * DAY, actor="ann")
        report = weekly_report(home, now=START + 3 * DAY)
        page, said = report.running[0], " ".join(as_text(report).split())
        assert any(
            line.endswith("explained by ann on 2026-03-05 00:00 UTC (a <b>load</b> test).")
            for line in page.alarms
        )
        assert "Explained why the visitors of “hero” were not divided as planned (all of them)" in said
        (change,) = [c for c in report.changes if c.text.startswith("Explained")]
        assert change.undo == f"cro rollback {change.number}"
        html = str(running_section(report).html)
        assert "a &lt;b&gt;load&lt;/b&gt; test" in html
        shown = decision_text(evaluate(home, "hero", as_of=START + 3 * DAY))
        assert "crossing 10.0 %: 120 of 1,200 visitors met more than one variant" in shown
        assert "(a <b>load</b> test)." in shown
        (ended,) = orchestrate(home, now=START + 15 * DAY).decisions
        assert ended.verdict is Verdict.INVALID
        last = weekly_report(home, now=START + 15 * DAY + HOUR)
        assert all(c.undo == "" for c in last.changes if c.text.startswith("Explained"))

    def test_an_invalid_test_says_which_check_broke_it(self, home: Home) -> None:
        visit(home, START + 6 * HOUR, photo=(500, 100), film=(500, 300), cross=0.1)
        (ended,) = orchestrate(home, now=START + 15 * DAY).decisions
        assert ended.verdict is Verdict.INVALID
        (page,) = weekly_report(home, now=START + 15 * DAY + HOUR).decided
        assert (
            "cannot be trusted: 10.0\N{NO-BREAK SPACE}% of the visitors met more than one version."
            in page.summary
        )


def test_alarms_are_stored_alike_in_both_stores(database: Database) -> None:
    alarm = SplitAlarm("day", "2026-03-02", START + HOUR, 7.1234567890123)
    other = SplitAlarm("page", "/o'brien; drop", START, 9.5)
    with database.write() as connection:
        experiments.add(connection, replace(running(), epochs=()))
        assert split_alarms.add(connection, "hero", [alarm, other]) == (alarm, other)
    grown = replace(alarm, largest_log_e=8.25)
    with database.write() as connection:
        assert split_alarms.add(connection, "hero", [grown, replace(other, largest_log_e=9.1)]) == ()
        assert split_alarms.of(connection, "hero") == (other, grown)
        settled = replace(
            grown, settled_at=START + DAY, settled_by="ann", how="cut_out", reason="é", settled_log_e=2.0
        )
        split_alarms.settle(connection, "hero", settled)
    with database.read() as connection:
        assert split_alarms.of_all(connection, ["hero", "nobody"]) == {"hero": (other, settled)}
        assert split_alarms.cut_out(connection, "hero", START + DAY) == (("day", "2026-03-02"),)
        assert split_alarms.cut_out(connection, "hero", START + DAY - HOUR) == ()
    with database.write() as connection:
        split_alarms.settle(connection, "hero", settled.unsettled)
        split_alarms.remove(connection, "hero", other)
        assert split_alarms.of(connection, "hero") == (grown,)
