"""Is a broken split seen, and is its cause named? Planted faults, both databases, and published experiments."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.real_data import ADSMART, DATA, REAL
from helpers.store_samples import DAY, HOUR, START, event, exposure, rows, running, stored, with_shares
from numpy.typing import NDArray

from cro_core.analytics import counts, definitions, reader
from cro_core.analytics.counts import Slice
from cro_core.analytics.definitions import OTHER, UNKNOWN
from cro_core.clock import from_micros, to_micros, zone
from cro_core.decision import split_check
from cro_core.decision.split_check import check_split, segments_due
from cro_core.domain import Cell, Experiment, to_json
from cro_core.errors import InvalidInput
from cro_core.evidence import SplitReport
from cro_core.home import create_home
from cro_core.statistics import srm
from cro_core.storage import events, experiments, schema
from cro_core.storage.database import Database
from cro_core.workflows.import_file import import_file

LATE = START + 15 * DAY


# ---------------------------------------------------------------- visitors with planted faults


@dataclass
class Visitors:
    """One row per visitor; ``lose`` takes those away that a fault would hide, ``add`` brings bots."""

    experiment: Experiment
    at: NDArray[np.int64]
    variant: NDArray[np.str_]
    device: NDArray[np.str_]
    page: NDArray[np.str_]
    city: NDArray[np.str_]

    @property
    def day(self) -> NDArray[np.int64]:
        """The calendar day, 2 March being 0."""
        return (self.at - to_micros(START.replace(hour=0))) // (86_400 * 10**6)

    def keep(self, kept: NDArray[np.bool_]) -> Visitors:
        return Visitors(
            self.experiment, *(getattr(self, n)[kept] for n in ("at", "variant", "device", "page", "city"))
        )

    def lose(self, part: float, where: NDArray[np.bool_], rng: np.random.Generator) -> Visitors:
        return self.keep(~(where & (rng.random(len(self.at)) < part)))

    def add(self, count: int, at: datetime, variant: str) -> Visitors:
        moments = to_micros(at) + np.arange(count) * 1_000_000
        towns = np.array([f"city {i % 30}" for i in range(count)])
        extra = (np.full(count, variant), np.full(count, "desktop"), np.full(count, "/"), towns)
        own = (self.variant, self.device, self.page, self.city)
        return Visitors(
            self.experiment,
            np.concatenate([self.at, moments]),
            *(np.concatenate([a, b]) for a, b in zip(own, extra, strict=True)),
        )

    def counts(self) -> tuple[tuple[Cell, ...], tuple[Slice, ...]]:
        """Cells and slices, as the store would count them."""
        ends = [to_micros(e.ends_at) for e in self.experiment.epochs]
        epoch = np.searchsorted(ends, self.at, side="right")
        quarter = 900 * 10**6
        times = self._grouped(epoch, self.at // quarter)
        cells = tuple(Cell(e, v, n, 0) for (e, v), n in self._grouped(epoch))
        found = counts.time_slices(
            self.experiment, ((e, v, from_micros(int(q) * quarter), n) for (e, v, q), n in times)
        )
        for name in ("device", "page", "city"):
            found += tuple(
                Slice(name, s, e, v, n) for (e, v, s), n in self._grouped(epoch, getattr(self, name))
            )
        return cells, found

    def check(self) -> SplitReport:
        return check_split(self.experiment, *self.counts())

    def _grouped(self, epoch: NDArray[np.int64], *more: Any) -> list[tuple[Any, int]]:
        keys = list(zip(epoch.tolist(), self.variant.tolist(), *(m.tolist() for m in more), strict=True))
        unique: dict[Any, int] = {}
        for key in keys:
            unique[key] = unique.get(key, 0) + 1
        return sorted(unique.items())


def visitors(seed: int = 1, per_day: int = 1500, experiment: Experiment | None = None) -> Visitors:
    """Thirteen days of an experiment, split as its epochs plan."""
    rng, made = np.random.default_rng(seed), experiment or running()
    n = 13 * per_day
    at = to_micros(START) + rng.integers(0, 13 * 86_400 * 10**6, n)
    keys, at = [v.key for v in made.variants], np.sort(at)
    epoch = np.searchsorted([to_micros(e.ends_at) for e in made.epochs], at, side="right")
    upto = np.cumsum([[e.shares[k] for k in keys] for e in made.epochs], axis=1)[epoch]
    variant = np.array(keys)[np.minimum((rng.random(n)[:, None] > upto).sum(axis=1), len(keys) - 1)]
    device = rng.choice(["phone", "desktop", "tablet"], n, p=[0.6, 0.28, 0.12])
    page = rng.choice(["/", "/offer", "/menu"], n, p=[0.6, 0.1, 0.3])
    return Visitors(made, at, variant, device, page, rng.choice([f"city {i}" for i in range(30)], n))


def codes(report: SplitReport) -> list[str]:
    return [reason.code for reason in report.reasons]


def statuses(report: SplitReport) -> dict[str, str]:
    return {d.dimension: d.status for d in report.dimensions}


@pytest.mark.parametrize("seed", range(1, 7))
@pytest.mark.parametrize("keys", [("a", "b"), ("a", "b", "c")])
def test_visitors_without_a_fault(seed: int, keys: tuple[str, ...]) -> None:
    """Of the first 300 seeds one, 0, is an experiment whose total alarms by chance; up to 3 are promised."""
    report = visitors(seed, 800, running(keys=keys)).check()
    assert (report.status, report.veto, report.cause, codes(report)) == ("ok", False, None, ["srm_ok"])
    assert statuses(report) == dict.fromkeys(["day", "hour", "device", "page", "city"], "ok")


def test_a_broken_day_is_named() -> None:
    made, rng = visitors(), np.random.default_rng(2)
    report = made.lose(0.4, (made.variant == "b") & (made.day == 5), rng).check()
    assert report.veto
    assert report.cause is not None
    assert (report.cause.dimension, report.cause.name) == ("day", "2026-03-07")
    assert report.cause.localised
    assert report.cause.own.units[1] < 0.8 * report.cause.own.units[0]
    assert report.cause.without.status == "ok"
    assert report.cause.part > 0.5
    assert codes(report) == ["srm", "srm_cause"]
    assert "The clearest mismatch is on 2026-03-07 (A " in report.reasons[1].text
    assert "Without it the other visitors split as planned" in report.reasons[1].text


def test_a_broken_device_is_named() -> None:
    made, rng = visitors(), np.random.default_rng(2)
    report = made.lose(0.3, (made.variant == "b") & (made.device == "tablet"), rng).check()
    assert report.cause is not None
    assert (report.cause.dimension, report.cause.name, report.cause.localised) == ("device", "tablet", True)
    assert statuses(report)["device"] == "alarm"
    assert not report.veto  # too little to show in total: reported
    assert report.status == "ok"
    assert codes(report) == ["srm_ok", "srm_segment", "srm_cause"]
    assert "which is no veto: on the device tablet (e-value " in report.reasons[1].text


@pytest.mark.parametrize("keys", [("a", "b"), ("a", "b", "c")])
def test_a_redirect_that_loses_one_pages_variant_is_named(keys: tuple[str, ...]) -> None:
    made, rng = visitors(experiment=running(keys=keys)), np.random.default_rng(2)
    report = made.lose(1.0, (made.variant == "b") & (made.page == "/offer"), rng).check()
    assert report.veto
    assert report.cause is not None
    assert (report.cause.dimension, report.cause.name, report.cause.localised) == ("page", "/offer", True)
    assert report.cause.own.units[1] == 0
    assert report.cause.without.status == "ok"
    assert statuses(report)["page"] == "alarm"


def test_bots_in_one_variant_in_one_hour_are_named() -> None:
    made = visitors().add(400, datetime(2026, 3, 6, 14, 5, tzinfo=UTC), "b")
    report = made.check()
    assert report.veto
    assert report.cause is not None
    assert (report.cause.dimension, report.cause.name) == ("hour", "14:00")
    day = report.dimensions[0]
    assert [check.name for check in day.alarms] == ["2026-03-06"]
    assert "in the hour from 14:00" in report.reasons[1].text
    assert "It also shows on 2026-03-06 (e-value " in report.reasons[1].text


def test_a_mismatch_everywhere_blames_no_slice() -> None:
    made, rng = visitors(), np.random.default_rng(2)
    report = made.lose(0.12, made.variant == "b", rng).check()
    assert report.veto
    assert report.cause is not None
    assert not report.cause.localised
    assert report.cause.without.status == "alarm"
    assert "no slice explains it by itself" in report.reasons[1].text
    assert "did not split as planned either" in report.reasons[1].text


def test_opposite_faults_that_cancel_out_are_seen_by_day() -> None:
    made, rng = visitors(), np.random.default_rng(2)
    made = made.lose(0.4, (made.variant == "b") & (made.day == 4), rng)
    report = made.lose(0.4, (made.variant == "a") & (made.day == 9), rng).check()
    assert report.total.status == "ok"
    assert (report.status, report.veto, report.dimensions[0].alarming) == ("alarm", True, 2)
    assert (
        "In total the visitors split as planned, but on 2 of 14 days they did not" in report.reasons[0].text
    )
    assert check_split(made.experiment, made.counts()[0]).dimensions == ()


# ---------------------------------------------------------------- shares


def moving(keys: tuple[str, ...] = ("a", "b")) -> Experiment:
    """An experiment whose shares move every day."""
    experiment, rng = running(keys=keys, adaptive=True), np.random.default_rng(4)
    drawn = 0.1 + (1 - 0.1 * len(keys)) * rng.dirichlet(np.ones(len(keys)), len(experiment.epochs))
    return with_shares(
        experiment,
        {
            e.number: dict(zip(keys, row, strict=True))
            for e, row in zip(experiment.epochs, drawn.tolist(), strict=True)
        },
    )


@pytest.mark.parametrize("keys", [("a", "b"), ("a", "b", "c")])
def test_shares_that_move_from_day_to_day_do_not_alarm(keys: tuple[str, ...]) -> None:
    experiment = moving(keys)
    made = visitors(3, experiment=experiment)
    report = made.check()
    assert (report.status, report.cause) == ("ok", None)
    assert set(statuses(report).values()) == {"ok"}
    # Planted wrong: the same visitors against equal shares.
    equal = with_shares(experiment, {e.number: dict.fromkeys(keys, 1 / len(keys)) for e in experiment.epochs})
    assert replace(made, experiment=equal).check().veto


def test_a_fault_is_found_under_moving_shares() -> None:
    made, rng = visitors(3, experiment=moving()), np.random.default_rng(2)
    report = made.lose(0.5, (made.variant == "b") & (made.page == "/offer"), rng).check()
    assert report.cause is not None
    assert (report.cause.dimension, report.cause.name, report.cause.localised) == ("page", "/offer", True)


def test_unknown_shares_are_a_state_and_no_alarm() -> None:
    made = visitors(per_day=100, experiment=running(shares_known=False))
    report = made.lose(0.9, made.variant == "b", np.random.default_rng(1)).check()
    assert (report.status, report.veto, report.dimensions, report.cause) == (
        "unknown_shares",
        False,
        (),
        None,
    )
    assert codes(report) == ["srm_unknown"]


def test_no_visitors_are_a_state() -> None:
    report = check_split(running(), ())
    assert (report.status, report.veto, codes(report)) == ("no_data", False, ["srm_no_data"])


def test_units_that_were_not_planned_at_all() -> None:
    experiment = with_shares(running(), {0: {"a": 1.0, "b": 0.0}})
    made = visitors(per_day=50, experiment=experiment).add(1, START + HOUR, "b")
    report = made.check()
    assert report.veto
    assert report.cause is not None
    assert (report.cause.own.units[1], report.cause.without.status) == (1, "ok")
    assert "more than a million" in report.reasons[0].text


# ---------------------------------------------------------------- what is no segment


def test_what_the_variant_decides_is_no_segment() -> None:
    """A redirect test shows each variant at its own address: that is the design, not a fault."""
    made = visitors(per_day=300, experiment=running(keys=("a", "b", "c")))
    own = np.where(made.variant == "c", "/new", "/old")
    strays = np.random.default_rng(1).random(len(own)) < 0.01
    report = replace(made, page=np.where(strays, "/new", own)).check()
    page = next(d for d in report.dimensions if d.dimension == "page")
    assert (page.status, page.threshold, report.cause) == ("unchecked", None, None)
    assert page.reason == "the variant decides it, so that it says nothing about the split"


def test_a_single_slice_is_the_total() -> None:
    made = visitors(per_day=300)
    made = replace(made, device=np.full(len(made.at), UNKNOWN)).lose(
        0.5, made.variant == "b", np.random.default_rng(1)
    )
    report = made.check()
    assert report.veto
    assert statuses(report)["device"] == "unchecked"
    assert report.cause is not None
    assert report.cause.dimension != "device"


# ---------------------------------------------------------------- thresholds, size, bad input


def test_days_alarm_at_100_times_those_planned() -> None:
    live, complete = visitors(per_day=60), visitors(per_day=60, experiment=running(finished=True))
    few = live.keep(live.day < 2)
    assert few.check().dimensions[0].threshold == 1400  # 2 March 9:00 to 15 March 9:00
    assert few.check().dimensions[0].slices == 2
    assert complete.keep(complete.day < 2).check().dimensions[0].threshold == 200
    by_name = {d.dimension: d.threshold for d in live.check().dimensions}
    assert (by_name["hour"], by_name["device"]) == (100 * 24 * 6, 100 * 3 * 6)


def test_days_are_those_of_the_site() -> None:
    """The clocks of Paris go forward on 29 March 2026: 23 hours, none of them from 2 to 3."""
    experiment = running(zone="Europe/Paris")
    moments = [datetime(2026, 3, 28, 22, 45, tzinfo=UTC) + h * HOUR / 2 for h in range(52)]
    found = counts.time_slices(experiment, [(0, "a", m, 1) for m in moments])
    days = {s.name: s.units for s in found if s.dimension == "day"}
    hours = {s.name: s.units for s in found if s.dimension == "hour"}
    assert days == {"2026-03-28": 1, "2026-03-29": 46, "2026-03-30": 5}
    assert sum(hours.values()) == 52
    assert hours["02:00"] == 1  # on the 30th; the 29th has none
    assert hours["23:00"] == 1 + 2


def test_a_report_is_small_json() -> None:
    broken = running(finished=True)
    cells = [Cell(0, "a", 100 * 90, 0), Cell(0, "b", 100 * 10, 0)]
    days = [Slice("day", f"day {i:03}", 0, v, n) for i in range(100) for v, n in (("a", 90), ("b", 10))]
    report = check_split(broken, cells, days)
    day = report.dimensions[0]
    assert (day.alarming, len(day.alarms)) == (100, split_check.MOST_ALARMS)
    text = json.dumps(to_json(report), allow_nan=False)
    assert len(text) < 20_000
    assert json.loads(text)["cause"]["dimension"] == "day"


@pytest.mark.parametrize(
    ("cells", "slices", "message"),
    [
        (
            [Cell(7, "a", 1, 0)],
            [],
            "counted in epoch 7 for variant 'a': experiment hero has the epochs 0 to 0",
        ),
        ([Cell(0, "x", 1, 0)], [], "for variant 'x': experiment hero .* the variants a, b"),
        (
            [Cell(0, "a", 5, 0)],
            [Slice("day", "x", 0, "a", 4)],
            "slices of day add up to 4 units, the cells to 5",
        ),
        ([Cell(0, "a", 5, 0)], [Slice("day", "x", 0, "b", 5)], "differ by epoch or variant: count both"),
    ],
)
def test_counts_that_contradict_each_other_are_refused(
    cells: Sequence[Cell], slices: Sequence[Slice], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_split(running(), cells, slices)


def test_segments_are_counted_once_a_day_at_the_end_and_to_find_a_cause() -> None:
    experiment, fine = running(zone="Europe/Paris"), visitors(per_day=100).check()
    looks = [START + h * HOUR for h in range(1, 14 * 24)]
    due = [moment for moment in looks if segments_due(experiment, moment, fine)]
    assert [m.astimezone(zone("Europe/Paris")).hour for m in due] == [0] * 14
    assert segments_due(experiment, START + 14 * DAY, fine)
    assert segments_due(experiment, looks[3], replace(fine, veto=True))
    assert segments_due(running(finished=True), looks[3], fine)
    assert not segments_due(experiment, looks[3], fine)


# ---------------------------------------------------------------- false alarms

PROGRAMMES = 600
BOUND = 0.01 + 3 * (0.01 * 0.99 / PROGRAMMES) ** 0.5
"""1 % and three Monte-Carlo errors of 0.4 points."""


def test_false_alarms_of_days() -> None:
    """Every day of 14 read at 8 moments, shares drawn anew each day: ever alarming in at most 1 % of experiments."""
    rng = np.random.default_rng(11)
    w = 0.1 + 0.8 * rng.dirichlet(np.ones(2), (PROGRAMMES * 14, 1))
    n, alarmed = np.zeros((PROGRAMMES * 14, 1, 2)), np.zeros(PROGRAMMES * 14, dtype=bool)
    for _ in range(8):
        n += rng.multinomial(150, w)
        alarmed |= _each_log_e(n, w) >= np.log(100 * 14)
    assert alarmed.reshape(PROGRAMMES, 14).any(axis=1).mean() <= BOUND
    assert (_each_log_e(n, np.full_like(w, 0.5)) >= np.log(1400)).reshape(PROGRAMMES, 14).any(
        axis=1
    ).mean() > 0.9


def _each_log_e(n: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.float64]:
    """``slice_log_e`` where each slice has shares of its own."""
    by_tilt = [srm.log_e_values(n, w, tilt) for tilt in split_check.SLICE_TILTS]
    result: NDArray[np.float64] = np.logaddexp.reduce(by_tilt) - np.log(len(by_tilt))
    return result


@pytest.mark.parametrize("variants", [2, 3])
def test_false_alarms_of_segments(variants: int) -> None:
    """12 unequal slices over 4 epochs, read at 8 moments: ever alarming in at most 1 %."""
    rng = np.random.default_rng(12)
    w = 0.15 + (1 - 0.15 * variants) * rng.dirichlet(np.ones(variants), 4)
    sizes = 1 / np.arange(1, 13)
    n, alarmed = np.zeros((PROGRAMMES, 12, 4, variants)), np.zeros(PROGRAMMES, dtype=bool)
    for look in range(8):
        came = rng.poisson(200 * sizes, (PROGRAMMES, 12))
        n[:, :, look // 2] += rng.multinomial(came, w[look // 2])
        alarmed |= (split_check.slice_log_e(n, w) >= np.log(100 * 12)).any(axis=1)
    assert alarmed.mean() <= BOUND
    wrong = np.broadcast_to(w[-1], w.shape)
    assert (split_check.slice_log_e(n, wrong) >= np.log(1200)).any(axis=1).mean() > 0.9


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.8, 0.2], [0.5, 0.3, 0.2]])
def test_a_slice_expects_an_e_value_of_one(shares: list[float]) -> None:
    """Under the plan: 1 within three Monte-Carlo errors (0.1 to 0.7 %)."""
    n = np.random.default_rng(13).multinomial(40, shares, 100_000)[:, None, :]
    e = np.exp(split_check.slice_log_e(n, np.array([shares])))
    assert e.mean() == pytest.approx(1, abs=3 * e.std() / len(e) ** 0.5 + 0.01)


# ---------------------------------------------------------------- the store


@pytest.fixture
def crowd(database: Database) -> Experiment:
    """240 visitors on adaptive shares: 60 cities, addresses, and some who say nothing of themselves."""
    experiment = stored(database, running(adaptive=True, zone="Europe/Paris"))
    posted = []
    for i in range(240):
        at = START + i * HOUR
        epoch = experiment.epoch_at(at)
        assert epoch is not None
        posted.append(
            exposure(
                f"u{i}",
                "ab"[i % 2],
                at,
                epoch=epoch.number,
                device=None if i % 10 in {0, 1} else "phone",
                city=f"city {i % 60 if i % 3 else 0:02}",
                url=f"https://site.example/{i % 4}",
                country="",
                asset_id="ab"[i % 2],
            )
        )
    posted += [event("lead", f"u{i}", START + i * HOUR + HOUR, value=0.1) for i in range(0, 240, 7)]
    posted.append(exposure("u0", "b", START + HOUR, url="https://site.example/later", device="tablet"))
    with database.write() as connection:
        events.record(connection, posted, (), START)
    return experiment


def test_days_and_hours_add_up_to_the_cells(database: Database, crowd: Experiment) -> None:
    with database.read() as connection:
        reading = reader.reading(connection, crowd, LATE)
        cells, times = reading.cells(), reading.times()
        table = [
            r
            for r in reader.reading(connection, crowd, LATE).unit_table().to_pylist()
            if r["standing"] == definitions.COUNTED
        ]
        assert reader.reading(connection, crowd, LATE).cells() == cells
    assert sum(c.units for c in cells) == len(table) == 240
    assert sum(c.conversions for c in cells) == 35
    assert sum(c.value_sum for c in cells) == pytest.approx(3.5)
    expected: dict[tuple[str, str, int, str], int] = {}
    for row in table:
        local = from_micros(row["exposed_at"]).astimezone(zone("Europe/Paris"))
        for key in (("day", f"{local:%Y-%m-%d}"), ("hour", f"{local:%H}:00")):
            expected[(*key, row["epoch"], row["variant"])] = (
                expected.get((*key, row["epoch"], row["variant"]), 0) + 1
            )
    assert {(s.dimension, s.name, s.epoch, s.variant): s.units for s in times} == expected


def test_segments_of_the_first_exposure(database: Database, crowd: Experiment) -> None:
    with database.read() as connection:
        reading = reader.reading(connection, crowd, LATE)
        cells, times = reading.cells(), reading.times()
        found = reader.reading(connection, crowd, LATE).segments()
        assert reader.reading(connection, crowd, LATE).segments(["page"]) == tuple(
            s for s in found if s.dimension == "page"
        )
        with pytest.raises(InvalidInput, match="dimension 'browser' is unknown: choose from device, country"):
            reader.reading(connection, crowd, LATE).segments(["browser"])
    sizes: dict[str, dict[str, int]] = {}
    for s in found:
        sizes.setdefault(s.dimension, {}).setdefault(s.name, 0)
        sizes[s.dimension][s.name] += s.units
    assert sizes["device"] == {UNKNOWN: 48, "phone": 192}
    assert sizes["country"] == {UNKNOWN: 240}
    assert sizes["page"] == {f"https://site.example/{i}": 60 for i in range(4)}
    assert sizes["asset"] == {"a": 120, "b": 120}
    assert sizes["city"]["city 00"] == 80
    report = check_split(crowd, cells, times + found)
    assert (report.status, statuses(report)) == (
        "ok",
        {
            "day": "ok",
            "hour": "ok",
            "device": "ok",
            "country": "unchecked",
            "city": "ok",
            "page": "unchecked",
            "asset": "unchecked",
        },
    )


def test_only_the_most_frequent_values_are_told_apart(database: Database) -> None:
    experiment = stored(database, running())
    posted = [
        exposure(f"{i}-{j}", "ab"[j % 2], START + j * HOUR, city=f"{i:03}" if i else None)
        for i in range(70)
        for j in range(2 if i > 50 else 4)
    ]
    with database.write() as connection:
        events.record(connection, posted, (), START)
    with database.read() as connection:
        found = reader.reading(connection, experiment, LATE).segments(["city"])
    sizes = {name: sum(s.units for s in found if s.name == name) for name in {s.name for s in found}}
    assert len(sizes) == definitions.MOST_SLICES + 2
    assert (sizes[OTHER], sizes[UNKNOWN]) == (19 * 2, 4)
    assert {n for n in sizes if n not in {OTHER, UNKNOWN}} == {f"{i:03}" for i in range(1, 51)}


def test_the_page_of_the_first_exposure_is_kept(database: Database) -> None:
    stored(database, running())
    first = exposure("u", "a", START + HOUR, url="https://site.example/first")
    with database.write() as connection:
        events.record(
            connection, [exposure("u", "a", START + 2 * HOUR, url="https://site.example/late")], (), START
        )
        events.record(connection, [first], (), START)
    assert [r["url"] for r in rows(database, schema.exposures)] == ["https://site.example/first"]


def test_a_lost_redirect_is_named_from_events(database: Database) -> None:
    """Of three pages one sends variant b to an address that posts no exposure."""
    experiment, rng = stored(database, running()), np.random.default_rng(5)
    posted = []
    for i in range(900):
        variant, page = "ab"[rng.integers(2)], ["/", "/menu", "/offer"][rng.integers(3)]
        if (variant, page) != ("b", "/offer"):
            url = f"https://site.example{page}"
            posted.append(
                exposure(f"u{i}", variant, START + i * timedelta(minutes=20), url=url, device="phone")
            )
    with database.write() as connection:
        events.record(connection, posted, (), START)
    with database.read() as connection:
        reading = reader.reading(connection, experiment, LATE)
        cells, times = reading.cells(), reading.times()
        assert segments_due(experiment, LATE, check_split(experiment, cells, times))
        report = check_split(
            experiment, cells, times + reader.reading(connection, experiment, LATE).segments()
        )
    assert report.veto
    assert report.cause is not None
    assert (report.cause.dimension, report.cause.name) == ("page", "https://site.example/offer")
    assert (report.cause.localised, report.cause.without.status) == (True, "ok")


# ---------------------------------------------------------------- published experiments


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Callable[[str, Mapping[str, Any] | str], SplitReport]]:
    """Imports a file of the data folder and checks its split by every dimension."""
    home = create_home(tmp_path / "home", environ={})

    def check(file: str, mapping: Mapping[str, Any] | str) -> SplitReport:
        now = datetime(2026, 3, 1, tzinfo=UTC)
        name = import_file(home, DATA / file, mapping, now=now, progress=False).experiment_id
        with home.db.read() as connection:
            experiment = experiments.get(connection, name)
            reading = reader.reading(connection, experiment, now)
            cells, times = reading.cells(), reading.times()
            return check_split(
                experiment, cells, times + reader.reading(connection, experiment, now).segments()
            )

    yield check
    home.db.close()


@REAL
def test_udacity_homepage(published: Callable[..., SplitReport]) -> None:
    report = published("udacity_homepage/Audacity_homepage.csv", "udacity_homepage")
    assert report.veto
    assert report.total.e_value == pytest.approx(1078, abs=1)
    assert report.total.units == (3332, 2996)
    assert codes(report)[:2] == ["srm", "srm_cause"]
    assert "3,332 of 3,164 expected" in report.reasons[0].text
    assert "e-value 1,078, alarm from 100" in report.reasons[0].text


@REAL
def test_adsmart_is_broken_on_six_of_eight_days(published: Callable[..., SplitReport]) -> None:
    report = published("adsmart/AdSmartABdata.csv", tomllib.loads(ADSMART))
    day = report.dimensions[0]
    assert (report.total.status, report.status, report.veto) == ("ok", "alarm", True)
    assert (day.dimension, day.slices, day.alarming, day.threshold) == ("day", 8, 6, 800)
    assert {c.name for c in day.alarms} == {f"2020-07-{d:02}" for d in (3, 5, 6, 8, 9, 10)}
    assert all(c.srm.p_value is not None and c.srm.p_value < 1e-5 for c in day.alarms)
    assert report.cause is not None
    assert report.cause.localised
