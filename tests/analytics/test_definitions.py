"""The unit table and the waterfall, against a second implementation that shares nothing with the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from helpers.store_samples import (
    DAY,
    GOALS,
    HOUR,
    START,
    TICK,
    event,
    exposure,
    rows,
    running,
    stored,
    with_shares,
)

from cro_core.analytics import counts, definitions, reader
from cro_core.analytics.cuts import CutSlice, cut
from cro_core.clock import to_micros, zone
from cro_core.domain import EXPOSURE, Cell, DayCell, Event, Experiment, Goal, Ratio
from cro_core.errors import Conflict, InvalidInput
from cro_core.ingest.cleaning import Rejection
from cro_core.storage import events, schema, seals
from cro_core.storage.database import Database, lake_of
from cro_core.storage.lake import Lake, arrow_table, raw_columns

WINDOW = timedelta(hours=24)
LATE = START + 15 * DAY


def record(database: Database, *posted: Event, rejected: Sequence[Rejection] = ()) -> None:
    with database.write() as connection:
        events.record(connection, posted, rejected, START)


def steps(
    database: Database, experiment: Experiment, as_of: datetime = LATE, without: Sequence[CutSlice] = ()
) -> dict[str, int]:
    """The waterfall without its zeros; it must reconcile."""
    with database.read() as connection:
        return steps_of(reader.reading(connection, experiment, as_of, without=without))


def steps_of(reading: reader.Reading) -> dict[str, int]:
    lines = reading.waterfall()
    assert [line.step for line in lines] == ["received", *definitions.STEPS]
    assert lines[0].count == sum(line.count for line in lines[1:])
    return {line.step: line.count for line in lines[1:] if line.count}


def units(database: Database, experiment: Experiment, as_of: datetime = LATE) -> dict[str, dict[str, Any]]:
    with database.read() as connection:
        table = reader.reading(connection, experiment, as_of).unit_table()
    return {row["unit"]: dict(row) for row in table.to_pylist()}


def counted(database: Database, experiment: Experiment, as_of: datetime = LATE) -> dict[str, tuple[int, int]]:
    """Variant -> counted units, conversions."""
    with database.read() as connection:
        cells = reader.reading(connection, experiment, as_of).cells()
    return {t.variant: (t.units, t.conversions) for t in counts.totals(experiment, cells)}


# ---------------------------------------------------------------- the second implementation


def reference(
    log: Sequence[Event], experiment: Experiment, as_of: datetime
) -> tuple[pd.DataFrame, Counter[str]]:
    """Unit table and steps as the module's text defines them, with pandas and plain loops.

    Args:
        log: everything posted, in the order of arrival; a repeated id counts the first time only.
        experiment: the experiment to count for.
        as_of: the moment of the look.
    """
    posted = pd.DataFrame([{f.name: getattr(e, f.name) for f in fields(Event)} for e in log])
    repeated = posted["id"].duplicated()
    table = _relevant(posted[~repeated], experiment, as_of)
    met = table[(table["type"] == EXPOSURE) & ~(table["bot"] | table["internal"]).astype(bool)]
    first = met.groupby("unit", sort=False).head(1).set_index("unit")
    standing = {unit: _standing(row, experiment, as_of) for unit, row in first.iterrows()}

    found: Counter[str] = Counter()
    found["duplicate"] = int((repeated & (posted["experiment_id"] == experiment.id)).sum())
    achieved: dict[Any, dict[str, list[Any]]] = {unit: {} for unit in first.index}
    for _, row in table.iterrows():
        step = _step(row, first, standing, experiment)
        if step == "goal":
            achieved[row["unit"]].setdefault(row["type"], []).append(row)
        else:
            found[step] += 1
    found["counted_goal"] = sum(len(goals) for goals in achieved.values())
    found["repeat_goal"] = sum(len(rows) - 1 for goals in achieved.values() for rows in goals.values())
    lines = [_unit(row, standing[unit], achieved[unit], experiment) for unit, row in first.iterrows()]
    return pd.DataFrame(lines), found


def _relevant(table: pd.DataFrame, experiment: Experiment, as_of: datetime) -> pd.DataFrame:
    plan, started = experiment.plan, experiment.started_at
    assert started is not None
    at = table["occurred_at"]
    of_site = table["experiment_id"].isna() & (at >= started) & (at <= started + plan.horizon + plan.window)
    chosen = table[((table["experiment_id"] == experiment.id) | of_site) & (at < as_of)]
    return chosen.sort_values(["occurred_at", "id"])


def _standing(row: Any, experiment: Experiment, as_of: datetime) -> str:
    at, said = row["occurred_at"], None if pd.isna(row["epoch"]) else int(row["epoch"])
    ends = [t for t in (experiment.enrolment_ends_at, experiment.ended_at) if t is not None]
    day = next((e for e in experiment.epochs if e.starts_at <= at < e.ends_at), None)
    if day is None or at >= min(ends):
        return "after_enrolment"
    if said is not None and said != day.number:
        return "wrong_epoch"
    past = [dict(e.shares) for e in experiment.epochs if e.number <= day.number]
    if said is None and any(shares != past[0] for shares in past):
        return "no_epoch"
    return "counted_exposure" if at + experiment.plan.window < as_of else "immature"


def _step(row: Any, first: pd.DataFrame, standing: dict[Any, str], experiment: Experiment) -> str:
    """The place of one event; ``goal`` where it counts, for the first time or again."""
    unit, plan = row["unit"], experiment.plan
    if row["bot"]:
        return "bot"
    if row["internal"]:
        return "internal"
    if row["type"] == EXPOSURE:
        if row["id"] == first.loc[unit, "id"]:
            return standing[unit]
        return "repeat_exposure" if row["variant"] == first.loc[unit, "variant"] else "crossover"
    if unit not in first.index:
        return "unexposed"
    if standing[unit] != "counted_exposure":
        return standing[unit]
    since = row["occurred_at"] - first.loc[unit, "occurred_at"]
    if since < timedelta(0) or (since == timedelta(0) and not plan.goal_at_exposure):
        return "before_exposure"
    if since > plan.window:
        return "out_of_window"
    return "goal" if row["type"] in {g.name for g in plan.goals} else "other"


def reference_days(
    log: Sequence[Event], experiment: Experiment, as_of: datetime
) -> tuple[list[DayCell], int]:
    """Units by day, and how many of them met a second variant, with plain loops over the log."""
    human = sorted(
        ({e.id: e for e in reversed(log) if e.human}).values(), key=lambda e: (e.occurred_at, e.id)
    )
    goals = {g.name for g in experiment.plan.goals if g.primary}
    first: dict[str, Event] = {}
    later: dict[str, set[str | None]] = {}
    converted: dict[str, datetime] = {}
    for e in (e for e in human if e.occurred_at < as_of):
        if e.type == EXPOSURE and e.experiment_id == experiment.id:
            later.setdefault(first.setdefault(e.unit, e).unit, set()).add(e.variant)
    for e in human:
        met, ours = first.get(e.unit), e.experiment_id in (None, experiment.id)
        if met is None or e.type not in goals or not ours or e.occurred_at >= as_of:
            continue
        since = e.occurred_at - met.occurred_at
        at_once = experiment.plan.goal_at_exposure
        if timedelta(0) <= since <= experiment.plan.window and (at_once or since):
            converted.setdefault(e.unit, e.occurred_at)
    cells: dict[tuple[str, int, str], list[float]] = {}
    crossed = 0
    for unit, e in first.items():
        standing = _standing({"occurred_at": e.occurred_at, "epoch": e.epoch}, experiment, as_of)
        if standing not in ("counted_exposure", "immature"):
            continue
        crossed += len(later[unit]) > 1
        day = e.occurred_at.astimezone(zone(experiment.plan.zone)).date().isoformat()
        epoch = experiment.epoch_at(e.occurred_at)
        assert epoch is not None
        mature, at = standing == "counted_exposure", converted.get(unit)
        seconds = (at - e.occurred_at) // timedelta(seconds=1) if mature and at else 0
        numbers = (mature, mature and at is not None, 1, at is not None, seconds, seconds**2)
        row = cells.setdefault((day, epoch.number, str(e.variant)), [0] * 6)
        cells[day, epoch.number, str(e.variant)] = [a + b for a, b in zip(row, numbers, strict=True)]
    return [
        DayCell(*key, *map(int, row[:4]), row[4] / 3600, row[5] / 3600**2)  # type: ignore[call-arg]
        for key, row in sorted(cells.items())
    ], crossed


def _unit(row: Any, standing: str, achieved: dict[str, list[Any]], experiment: Experiment) -> dict[str, Any]:
    goals = {g.name: g for g in experiment.plan.goals}
    converted = [rows[0]["occurred_at"] for name, rows in achieved.items() if goals[name].primary]
    values = [goal["value"] for rows in achieved.values() for goal in rows]
    return {
        "unit": row.name,
        "variant": row["variant"],
        "standing": standing,
        "exposed_at": to_micros(row["occurred_at"]),
        "city": row["city"],
        "converted": int(bool(converted)),
        "converted_at": to_micros(min(converted)) if converted else None,
        "score": sum(goals[name].weight for name in achieved),
        "value": sum(value for value in values if not pd.isna(value)),
    }


EXPERIMENTS = {
    "fixed": running(),
    "three": running(keys=("a", "b", "c")),
    "daily": running(adaptive=True),
    "moved": with_shares(
        running(adaptive=True, zone="Europe/Paris"), {2: {"a": 0.3, "b": 0.7}, 3: {"a": 0.4, "b": 0.6}}
    ),
    "after": running(goal_at_exposure=False, window=timedelta(hours=1)),
    "ended": replace(running(), ended_at=START + 2 * DAY),
    "long": running(adaptive=True, window=5 * DAY, goals=(Goal("call", 1.0, True), Goal("lead", 0.25))),
}


def _moments(experiment: Experiment, rng: np.random.Generator) -> list[datetime]:
    """A few moments, so that they meet: borders of epochs and windows, a tick beside them, and others."""
    borders = [START, START + experiment.plan.window, experiment.enrolment_ends_at, experiment.ended_at]
    borders += [e.starts_at for e in experiment.epochs[:4]]
    chosen = [b for b in borders if b is not None] + [START + HOUR * float(h) for h in rng.uniform(0, 100, 4)]
    near = [m + d for m in chosen for d in (-TICK, timedelta(0), TICK)]
    return (
        near
        + [m + experiment.plan.window for m in chosen[-4:]]
        + [START - HOUR, START + 13 * DAY, START + 16 * DAY]
    )


def _log(experiment: Experiment, rng: np.random.Generator, number: int) -> list[Event]:
    moments = _moments(experiment, rng)

    def pick(options: Sequence[Any]) -> Any:
        return options[int(rng.integers(len(options)))]

    log = []
    for _ in range(number):
        kind = pick([EXPOSURE, EXPOSURE, "lead", "call", "play", "scroll"])
        target = experiment.id if kind == EXPOSURE else pick([experiment.id, experiment.id, None, "cta"])
        target = pick([target] * 9 + ["cta"]) if kind == EXPOSURE else target
        at = pick(moments)
        day = experiment.epoch_at(at)
        log.append(
            event(
                kind,
                f"u{rng.integers(number // 4)}",
                at,
                to=target,
                id=f"r{rng.integers(number * 8)}",
                variant=pick([v.key for v in experiment.variants]) if kind == EXPOSURE else pick([None, "a"]),
                epoch=pick([None, day.number if day else 0, day.number if day else 0, 1])
                if kind == EXPOSURE
                else None,
                value=pick([None, None, 2.5, -1.0]),
                city=pick([None, "Århus", "Odense"]),
                bot=(sender := rng.random()) < 0.05,
                internal=0.02 < sender < 0.07,
            )
        )
    return log


@pytest.mark.sizes(3, 4)
@pytest.mark.parametrize(
    ("name", "database_url"),
    [
        *((name, "sqlite") for name in EXPERIMENTS),
        ("moved", "postgres"),
        *(pytest.param(n, "postgres", marks=pytest.mark.slow) for n in EXPERIMENTS if n != "moved"),
    ],
    indirect=["database_url"],
)
def test_random_logs_give_what_the_second_implementation_gives(
    database: Database, name: str, size: int
) -> None:
    experiment = stored(database, EXPERIMENTS[name], running("cta", ("a", "b", "c")))
    seen: Counter[str] = Counter()
    for seed in range(size):
        rng = np.random.default_rng([seed, len(name)])
        log = _log(experiment, rng, 100)
        with database.write() as connection:
            for table in (schema.events, schema.exposures, schema.receipts, schema.quarantine):
                connection.execute(sa.delete(table))
        for start in range(0, len(log), 17):
            record(database, *log[start : start + 17])
        record(database, rejected=[Rejection(0, "bad", "{}", experiment.id)] * seed)
        for as_of in (START + DAY, START + 3 * DAY, LATE):
            expected, found = reference(log, experiment, as_of)
            if seed:
                found["rejected"] = seed
            with (
                database.read() as connection,
                reader.reading(connection, experiment, as_of) as reading,
            ):
                assert steps_of(reading) == {k: n for k, n in found.items() if n}
                _same(pd.DataFrame(reading.unit_table().to_pylist()), expected)
                _same_cells(reading, experiment, expected)
                _same_days(reading, log, experiment)
            seen += found
    assert (
        min(
            seen[step]
            for step in ("counted_exposure", "counted_goal", "crossover", "unexposed", "out_of_window")
        )
        > 0
    )


def _same(got: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert len(got) == len(expected)
    if len(got):
        columns = list(expected.columns)
        order = ["unit"]
        pd.testing.assert_frame_equal(
            got[columns].sort_values(order, ignore_index=True).astype({"converted_at": float}),
            expected.sort_values(order, ignore_index=True).astype({"converted_at": float}),
            check_dtype=False,
        )


def _same_cells(reading: reader.Reading, experiment: Experiment, expected: pd.DataFrame) -> None:
    cells, cities, crossed = reading.cells(), reading.slices("city"), reading.crossover_units()
    assert crossed >= 0
    kept = expected[expected["standing"] == "counted_exposure"] if len(expected) else expected
    for total in counts.totals(experiment, cells):
        mine = kept[kept["variant"] == total.variant] if len(kept) else None
        sums = (
            (0, 0, 0.0, 0.0, 0.0, 0.0)
            if mine is None
            else (
                len(mine), mine["converted"].sum(), mine["score"].sum(), (mine["score"] ** 2).sum(),
                mine["value"].sum(), (mine["value"] ** 2).sum(),
            )
        )  # fmt: skip
        got = (
            total.units,
            total.conversions,
            total.score_sum,
            total.score_sumsq,
            total.value_sum,
            total.value_sumsq,
        )
        assert got == pytest.approx(sums)
    for cell in cells:
        assert 0 <= cell.epoch < len(experiment.epochs)
    assert sum(row["units"] for row in cities) == len(kept)
    assert sum(row["conversions"] for row in cities) == (kept["converted"].sum() if len(kept) else 0)


CROSSED = f"""{definitions.STEP}
SELECT COUNT(DISTINCT s.unit) AS units
FROM step s
JOIN unit_table u ON u.unit = s.unit
WHERE s.step = 'crossover' AND u.standing IN ('counted_exposure', 'immature')
"""
"""The units that crossed, from the steps of all events."""


def _same_days(reading: reader.Reading, log: Sequence[Event], experiment: Experiment) -> None:
    days, crossed = reference_days(log, experiment, reading.as_of)
    assert list(reading.days()) == days
    _days_add_up(reading)
    crossing = reading.crossing()
    assert (crossing.units, crossing.exposed) == (crossed, sum(day.exposed for day in days))
    assert crossing.units == reading.crossover_units() == reading._run(CROSSED)[0]["units"]


def _days_add_up(reading: reader.Reading) -> None:
    """The mature units of all days are the cells."""
    sums: Counter[tuple[int, str, str]] = Counter()
    for day in reading.days():
        sums[day.epoch, day.variant, "units"] += day.units
        sums[day.epoch, day.variant, "conversions"] += day.conversions
        assert 0 <= day.conversions <= day.units <= day.exposed > 0
        assert day.conversions <= day.converted <= day.exposed
    cells = {
        (c.epoch, c.variant, name): getattr(c, name)
        for c in reading.cells()
        for name in ("units", "conversions")
    }
    assert {key: n for key, n in sums.items() if n} == {key: n for key, n in cells.items() if n}


def everything(reading: reader.Reading) -> dict[str, Any]:
    """All that is counted, each part as it comes."""
    cells, times = reading.cells(), reading.times()
    return {
        "units": reading.unit_table().to_pylist(),
        "cells": cells,
        "times": times,
        "days": reading.days(),
        "crossing": reading.crossing(),
        "segments": reading.segments(),
        "measured": reading.measured(cells),
        "waterfall": reading.waterfall(),
        "crossed": reading.crossover_units(),
        "exposed": reading.exposed_units(before=reading.as_of),
    }


def seal(database: Database, ids: Sequence[str]) -> None:
    """Moves these events to the lake, whatever their day."""
    table = schema.events
    with database.read() as connection:
        before = seals.newest(connection)
        rows = connection.execute(sa.select(*raw_columns()).where(table.c.id.in_(ids))).all()
        lake = lake_of(connection)
    assert lake is not None
    version, events = lake.append(arrow_table(rows)), len(rows) + (before.events if before else 0)
    with database.write() as connection:
        seals.note(connection, before, version, at=START, reason=seals.ADDED, events=events)
        assert seals.remove(connection, ids) == len(rows) == len(ids)


@pytest.mark.sizes(2, 3)
@pytest.mark.parametrize(
    ("name", "database_url"),
    [
        ("three", "sqlite"),
        ("moved", "sqlite"),
        ("after", "sqlite"),
        pytest.param("three", "postgres", marks=pytest.mark.slow),
        ("moved", "postgres"),
        pytest.param("after", "postgres", marks=pytest.mark.slow),
    ],
    indirect=["database_url"],
)
def test_neither_the_place_nor_the_order_of_arrival_changes_a_number(
    database_url: str, tmp_path: Path, name: str, size: int
) -> None:
    """To the last bit: nothing sealed, any part of it, late events beside it, everything sealed.

    And however much is taken from what an earlier look has kept: nothing in the first attempt, in the others all
    that was sealed, so that each look completes what the one before has left.
    """
    plan = replace(EXPERIMENTS[name].plan, ratios=(Ratio("worth", "value:call", "count:lead"),))
    experiment = replace(EXPERIMENTS[name], plan=plan)
    rng = np.random.default_rng([3, len(name)])
    log = list({e.id: e for e in _log(experiment, rng, 160)}.values())
    log = [replace(e, value=float(rng.normal()) if e.value else None) for e in log]
    moments = (START + 2 * DAY, LATE)
    expected: dict[datetime, Any] = {}

    def found(database: Database) -> dict[datetime, Any]:
        with database.read() as connection, reader.reading(connection, experiment, LATE) as reading:
            return {moment: everything(reading.at(moment)) for moment in moments}

    for attempt in range(size):
        keep_in = tmp_path / f"kept{attempt}" if attempt else None
        database = Database(database_url, Lake(str(tmp_path / f"lake{attempt}"), keep_in))
        with database.write() as connection:
            for table in reversed(schema.metadata.sorted_tables):
                if table.name != "alembic_version":
                    connection.execute(sa.delete(table))
        stored(database, experiment, running("cta", ("a", "b", "c")))
        order = [log[i] for i in rng.permutation(len(log))]
        for start in range(0, len(order), 40):
            part = order[start : start + 40]
            record(database, *part)
            hot = [row["id"] for row in rows(database, schema.events)]
            if attempt and start % 80 == 0:
                seal(database, [e for e in hot if rng.random() < 0.6])
                found(database)
        for share in (0.5, 1.0):
            expected = expected or found(database)
            assert found(database) == expected
            hot = [row["id"] for row in rows(database, schema.events)]
            seal(database, [e for e in hot if rng.random() < share])
        assert rows(database, schema.events) == []
        assert found(database) == expected
        database.close()
    for moment in moments:
        units, steps = reference(log, experiment, moment)
        _same(pd.DataFrame(expected[moment]["units"]), units)
        lines = {line.step: line.count for line in expected[moment]["waterfall"][1:] if line.count}
        assert lines == {step: n for step, n in steps.items() if n}


def test_a_reading_may_look_at_any_moment(database: Database) -> None:
    """One loading for all looks of a replay: each as if it had been read for itself."""
    experiment = stored(database, EXPERIMENTS["moved"])
    record(database, *_log(experiment, np.random.default_rng(8), 150))
    with database.read() as connection, reader.reading(connection, experiment, LATE) as reading:
        reading.waterfall()
        for moment in (START, START + DAY, START + 3 * DAY, START + 40 * DAY):
            alone = everything(reader.reading(connection, experiment, moment))
            assert everything(reading.at(moment)) == alone


def test_every_step_of_the_waterfall_is_met_somewhere(database: Database) -> None:
    """One event for each place, so that none of the names above is dead."""
    experiment = stored(
        database, with_shares(running(adaptive=True), {2: {"a": 0.3, "b": 0.7}}), running("cta")
    )
    day3 = experiment.epochs[2].starts_at
    enrolment_end = experiment.enrolment_ends_at
    assert enrolment_end is not None
    posted = [
        exposure("u", "a", START + HOUR, id="x"),
        exposure("u", "a", START + HOUR, id="x"),
        exposure("u", "a", START + 2 * HOUR),
        exposure("u", "b", START + 2 * HOUR),
        event("lead", "u", START),
        event("lead", "u", START + 2 * HOUR),
        event("lead", "u", START + 3 * HOUR),
        event("lead", "u", START + 2 * DAY),
        event("scroll", "u", START + 3 * HOUR),
        event("lead", "stranger", START + 3 * HOUR),
        exposure("robot", "a", START + HOUR, bot=True),
        exposure("colleague", "a", START + HOUR, internal=True),
        exposure("stale", "a", day3 + HOUR, epoch=1),
        exposure("silent", "a", day3 + HOUR),
        exposure("robotic", "a", START + HOUR, city="Odense"),
        exposure("tardy", "a", enrolment_end),
        exposure("fresh", "a", enrolment_end - HOUR, epoch=experiment.epochs[-1].number),
    ]
    record(database, *posted, rejected=[Rejection(0, "bad", "{}", "hero")])
    found = steps(database, experiment, enrolment_end + HOUR, [("city", "Odense")])
    assert found == dict.fromkeys(definitions.STEPS, 1)


def test_the_waterfall_reconciles_while_events_come_in(database: Database) -> None:
    """Also inside the transaction of a cycle, which on PostgreSQL sees what others commit meanwhile."""
    experiment = stored(database, running())

    def post() -> None:
        for n in range(40):
            record(database, exposure(f"u{n}", "a", START), event("lead", f"u{n}", START + HOUR))

    with ThreadPoolExecutor(1) as pool:
        posting = pool.submit(post)
        while not posting.done():
            with database.write() as connection:
                lines = reader.reading(connection, experiment, LATE).waterfall()
            assert [line.step for line in lines] == ["received", *definitions.STEPS]
            sleep(0.01)  # SQLite gives its lock to whoever asks first, and we would be
        posting.result()
    assert steps(database, experiment) == {"counted_exposure": 40, "counted_goal": 40}


# ---------------------------------------------------------------- one rule each


class TestWindow:
    @pytest.mark.parametrize(
        ("after", "step"),
        [
            (-TICK, "before_exposure"),
            (timedelta(0), "counted_goal"),
            (TICK, "counted_goal"),
            (WINDOW - TICK, "counted_goal"),
            (WINDOW, "counted_goal"),
            (WINDOW + TICK, "out_of_window"),
        ],
    )
    def test_both_ends_belong_to_it(self, database: Database, after: timedelta, step: str) -> None:
        experiment = stored(database, running())
        record(database, exposure("u", "b", START + HOUR), event("lead", "u", START + HOUR + after))
        assert steps(database, experiment) == {"counted_exposure": 1, step: 1}
        assert counted(database, experiment)["b"] == (1, int(step == "counted_goal"))

    @pytest.mark.parametrize(("at_exposure", "conversions"), [(True, 1), (False, 0)])
    def test_a_goal_at_the_exposures_own_time(
        self, database: Database, at_exposure: bool, conversions: int
    ) -> None:
        experiment = stored(database, running(goal_at_exposure=at_exposure))
        record(database, exposure("u", "b", START + HOUR), event("lead", "u", START + HOUR))
        assert counted(database, experiment)["b"] == (1, conversions)

    def test_a_unit_is_looked_at_when_its_window_is_over_and_complete(self, database: Database) -> None:
        """No look may see a unit as mature and still miss a goal that will count later."""
        experiment = stored(database, running())
        record(database, exposure("u", "b", START), event("lead", "u", START + WINDOW))
        at = START + WINDOW
        assert counted(database, experiment, at)["b"] == (0, 0)
        assert steps(database, experiment, at) == {"immature": 1}
        assert counted(database, experiment, at + TICK)["b"] == (1, 1)

    def test_the_last_look_has_only_mature_units(self, database: Database) -> None:
        experiment = stored(database, running())
        enrolment_end, last_look = experiment.enrolment_ends_at, experiment.horizon_ends_at
        assert enrolment_end is not None
        assert last_look is not None
        record(database, exposure("u", "a", enrolment_end - TICK), exposure("v", "b", enrolment_end))
        assert steps(database, experiment, last_look) == {"counted_exposure": 1, "after_enrolment": 1}
        assert counted(database, experiment, last_look) == {"a": (1, 0), "b": (0, 0)}


class TestConversion:
    def test_any_primary_goal_converts_a_unit_once(self, database: Database) -> None:
        experiment = stored(database, running())
        times = [START + n * HOUR for n in range(6)]
        record(
            database, exposure("u", "b", times[0]), event("call", "u", times[4]), event("lead", "u", times[3]),
            event("lead", "u", times[5]), event("play", "u", times[1]), event("scroll", "u", times[1]),
            exposure("v", "b", times[0]), event("play", "v", times[2], value=3.0), event("play", "v", times[3], value=4.0),
        )  # fmt: skip
        table = units(database, experiment)
        assert (table["u"]["converted"], table["u"]["score"]) == (1, 200.0)
        assert table["u"]["converted_at"] == to_micros(times[3])
        assert (table["v"]["converted"], table["v"]["converted_at"], table["v"]["score"]) == (0, None, 20.0)
        assert table["v"]["value"] == 7.0
        with database.read() as connection:
            (cell,) = reader.reading(connection, experiment, LATE).cells()
        assert cell == Cell(0, "b", 2, 1, 220.0, 200.0**2 + 20.0**2, 7.0, 49.0)

    def test_goals_count_with_and_without_the_experiments_name_and_variant(self, database: Database) -> None:
        experiment = stored(database, running(), running("cta"))
        record(
            database,
            *(exposure(u, "b", START) for u in ("named", "variant", "site", "elsewhere", "nothing")),
            event("lead", "named", START + HOUR),
            event("lead", "variant", START + HOUR, variant="b"),
            event("lead", "site", START + HOUR, to=None),
            event("lead", "elsewhere", START + HOUR, to="cta"),
        )
        converted = {u for u, row in units(database, experiment).items() if row["converted"]}
        assert converted == {"named", "variant", "site"}
        assert steps(database, experiment) == {"counted_exposure": 5, "counted_goal": 3}

    def test_a_goal_of_the_site_counts_for_every_experiment_that_was_met(self, database: Database) -> None:
        one = stored(database, running(), running("cta"))
        record(
            database,
            exposure("u", "a", START),
            exposure("u", "b", START, to="cta"),
            event("lead", "u", START, to=None),
        )
        assert counted(database, one)["a"] == (1, 1)
        assert counted(database, running("cta"))["b"] == (1, 1)

    def test_late_events_are_counted_at_their_own_time(self, database: Database) -> None:
        experiment = stored(database, running())
        record(database, event("lead", "u", START + 2 * HOUR, to=None))
        assert steps(database, experiment) == {"unexposed": 1}
        record(database, exposure("u", "b", START + 3 * HOUR))
        assert counted(database, experiment)["b"] == (1, 0)
        record(database, exposure("u", "a", START + HOUR))
        assert counted(database, experiment) == {"a": (1, 1), "b": (0, 0)}
        assert steps(database, experiment) == {"counted_exposure": 1, "crossover": 1, "counted_goal": 1}

    def test_what_happened_later_is_invisible(self, database: Database) -> None:
        experiment = stored(database, running())
        record(
            database,
            exposure("u", "b", START),
            event("lead", "u", START + HOUR),
            exposure("v", "a", START + 3 * DAY),
        )
        assert units(database, experiment, START) == {}
        assert units(database, experiment, START + HOUR)["u"]["score"] == 0
        assert set(units(database, experiment, START + 3 * DAY)) == {"u"}
        assert steps(database, experiment, START + 3 * DAY) == {"counted_exposure": 1, "counted_goal": 1}


class TestExposure:
    def test_a_unit_in_two_variants_stays_with_its_first(self, database: Database) -> None:
        experiment = stored(database, running())
        record(
            database, exposure("u", "b", START), exposure("u", "a", START + HOUR), exposure("u", "a", START + 2 * HOUR),
            exposure("u", "b", START + 2 * HOUR), event("lead", "u", START + 3 * HOUR, variant="a"), exposure("v", "a", START),
        )  # fmt: skip
        assert counted(database, experiment) == {"a": (1, 0), "b": (1, 1)}
        with database.read() as connection:
            assert reader.reading(connection, experiment, LATE).crossover_units() == 1
        expected = {"counted_exposure": 2, "crossover": 2, "repeat_exposure": 1, "counted_goal": 1}
        assert steps(database, experiment) == expected

    def test_other_experiments_are_invisible(self, database: Database) -> None:
        experiment = stored(database, running(), running("cta"))
        record(
            database, exposure("u", "b", START, to="cta"), event("lead", "u", START + HOUR, to="cta"),
            exposure("v", "b", START), exposure("v", "a", START - HOUR, to="cta"),
        )  # fmt: skip
        assert set(units(database, experiment)) == {"v"}
        assert counted(database, experiment) == {"a": (0, 0), "b": (1, 0)}
        assert steps(database, experiment) == {"counted_exposure": 1}

    def test_enrolment_has_a_begin_and_an_end(self, database: Database) -> None:
        experiment = stored(database, running())
        end = experiment.enrolment_ends_at
        assert end is not None
        for unit, at in {"early": START - TICK, "first": START, "last": end - TICK, "late": end}.items():
            record(database, exposure(unit, "a", at), event("lead", unit, at + HOUR))
        standing = {u: row["standing"] for u, row in units(database, experiment).items()}
        assert standing == {
            "early": "after_enrolment", "first": "counted_exposure", "last": "counted_exposure", "late": "after_enrolment",
        }  # fmt: skip
        assert steps(database, experiment) == {"after_enrolment": 4, "counted_exposure": 2, "counted_goal": 2}

    def test_an_experiment_that_was_ended_enrols_nobody_more(self, database: Database) -> None:
        experiment = stored(database, replace(running(), ended_at=START + DAY))
        record(database, exposure("u", "a", START + DAY - TICK), exposure("v", "a", START + DAY))
        record(database, event("lead", "u", START + DAY + HOUR))
        assert counted(database, experiment)["a"] == (1, 1)

    def test_bots_are_neither_exposed_nor_converted(self, database: Database) -> None:
        experiment = stored(database, running())
        record(
            database, exposure("r", "a", START, bot=True), event("lead", "r", START + HOUR, bot=True),
            exposure("u", "a", START + HOUR), event("lead", "u", START + 2 * HOUR, bot=True), event("lead", "r", START + HOUR),
        )  # fmt: skip
        assert counted(database, experiment)["a"] == (1, 0)
        assert steps(database, experiment) == {"bot": 3, "counted_exposure": 1, "unexposed": 1}


class TestEpoch:
    """What an exposure says about its assignment's day must be true; where it says nothing, it must not matter."""

    def _posted(
        self, database: Database, experiment: Experiment, said: dict[int, int | None]
    ) -> dict[str, str]:
        stored(database, experiment)
        for day, epoch in said.items():
            record(database, exposure(f"day{day}", "a", experiment.epochs[day].starts_at, epoch=epoch))
        return {unit: row["standing"] for unit, row in units(database, experiment).items()}

    def test_another_days_assignment_is_left_out(self, database: Database) -> None:
        standing = self._posted(database, running(adaptive=True), {0: 0, 1: 1, 2: 1, 3: 4})
        assert standing == {"day0": "counted_exposure", "day1": "counted_exposure"} | dict.fromkeys(
            ("day2", "day3"), "wrong_epoch"
        )

    def test_silence_does_no_harm_until_the_shares_move_for_the_first_time(self, database: Database) -> None:
        moved = with_shares(running(adaptive=True), {2: {"a": 0.3, "b": 0.7}})  # and back again on day 3
        standing = self._posted(database, moved, dict.fromkeys(range(5)))
        assert standing == dict.fromkeys(("day0", "day1"), "counted_exposure") | dict.fromkeys(
            ("day2", "day3", "day4"), "no_epoch"
        )
        assert steps(database, moved) == {"counted_exposure": 2, "no_epoch": 3}
        assert counted(database, moved)["a"] == (2, 0)

    def test_silence_does_no_harm_under_fixed_shares(self, database: Database) -> None:
        standing = self._posted(database, running(), {0: None})
        assert standing == {"day0": "counted_exposure"}
        daily = running("cta", adaptive=True)
        stored(database, daily)
        record(database, exposure("u", "a", daily.epochs[5].starts_at, to="cta"))
        assert units(database, daily)["u"]["standing"] == "counted_exposure"

    def test_cells_keep_the_days_apart(self, database: Database) -> None:
        experiment = running(adaptive=True)
        self._posted(database, experiment, {0: 0, 1: 1, 5: 5})
        with database.read() as connection:
            cells = reader.reading(connection, experiment, LATE).cells()
        assert [(c.epoch, c.units) for c in cells] == [(0, 1), (1, 1), (5, 1)]


class TestDays:
    """What is counted of a day before all of its visitors are mature."""

    def test_the_visitors_of_a_day_count_at_once_and_their_goals_when_they_happen(
        self, database: Database
    ) -> None:
        experiment = stored(database, running(zone="Europe/Paris"))
        late = START + timedelta(hours=13, minutes=30)  # 22:30 UTC is 23:30 in Paris
        record(
            database,
            *(exposure(f"u{n}", "a", START + n * HOUR) for n in range(3)),
            exposure("evening", "b", late),
            exposure("night", "b", late + HOUR),
            event("lead", "u0", START + 2 * HOUR),
            event("call", "u1", START + 20 * HOUR),
            event("lead", "u1", START + 4 * HOUR),
            event("play", "u2", START + 3 * HOUR),
            event("lead", "night", late + 5 * HOUR),
        )
        with database.read() as connection, reader.reading(connection, experiment, LATE) as reading:
            early, between, late_look = (
                reading.at(START + hours * HOUR).days() for hours in (4, 24 + 1.5, 24 * 3)
            )
        assert early == (DayCell("2026-03-02", 0, "a", 0, 0, 3, 1),)  # u1's goal is only just now
        assert between == (
            DayCell("2026-03-02", 0, "a", 2, 2, 3, 2, 5.0, 13.0),
            DayCell("2026-03-02", 0, "b", 0, 0, 1, 0),
            DayCell("2026-03-03", 0, "b", 0, 0, 1, 1),
        )
        assert late_look == (
            DayCell("2026-03-02", 0, "a", 3, 2, 3, 2, 5.0, 13.0),
            DayCell("2026-03-02", 0, "b", 1, 0, 1, 0),
            DayCell("2026-03-03", 0, "b", 1, 1, 1, 1, 4.0, 16.0),
        )

    @pytest.mark.parametrize(
        "site", ["Asia/Kolkata", "Australia/Lord_Howe", "Asia/Kathmandu", "America/New_York"]
    )
    def test_days_and_hours_are_those_of_the_site(self, database: Database, site: str) -> None:
        """Also where its clocks are half an hour apart from the others, or change by half of one."""
        experiment = stored(database, running(zone=site, horizon=42 * DAY))
        moments = [START + n * timedelta(minutes=47) for n in range(1200)]
        record(database, *(exposure(f"u{n}", "ab"[n % 2], at) for n, at in enumerate(moments)))
        with (
            database.read() as connection,
            reader.reading(connection, experiment, START + 45 * DAY) as reading,
        ):
            days, times = reading.days(), reading.times()
        local = [m.astimezone(zone(site)) for m in moments]
        found: Counter[str] = Counter()
        for day in days:
            found[day.day] += day.units
        assert found == Counter(m.date().isoformat() for m in local)
        hours: Counter[str] = Counter()
        for part in times:
            if part.dimension == "hour":
                hours[part.name] += part.units
        assert hours == Counter(f"{m.hour:02}:00" for m in local)

    def test_whoever_never_counts_is_no_visitor_of_a_day(self, database: Database) -> None:
        experiment = stored(database, running())
        end = experiment.enrolment_ends_at
        assert end is not None
        record(
            database, exposure("u", "a", end - TICK), exposure("late", "a", end), exposure("early", "b", START - TICK),
            exposure("u", "b", end), exposure("late", "b", end + TICK), exposure("robot", "a", START, bot=True),
            exposure("robot", "b", START + HOUR, bot=True),
        )  # fmt: skip
        with database.read() as connection:
            reading = reader.reading(connection, experiment, end + HOUR)
            assert reading.days() == (DayCell("2026-03-15", 0, "a", 0, 0, 1, 0),)
            assert (reading.crossing().units, reading.crossing().exposed) == (1, 1)
            assert reading.crossing().limit == experiment.plan.max_crossover
            assert reading.at(end).crossing().units == 0  # the second exposure is only just now


CUTS: list[list[CutSlice]] = [
    [("city", "Odense")],
    [("city", "(unknown)"), ("city", "Odense")],
    [("day", "2026-03-03")],
    [("hour", "10:00"), ("day", "2026-03-04")],
    [("hour", "09:00"), ("city", "Århus"), ("device", "mobile")],
    [("page", "/nowhere")],
]


class TestCutOut:
    """A slice that is cut out of every variant alike: as if nobody in it had ever come, but accounted for."""

    @pytest.mark.parametrize("name", ["three", "moved"])
    @pytest.mark.parametrize("without", CUTS)
    def test_every_number_is_that_of_the_others(
        self, database: Database, name: str, without: list[CutSlice]
    ) -> None:
        plan = replace(EXPERIMENTS[name].plan, ratios=(Ratio("worth", "value:call", "count:lead"),))
        experiment = stored(database, replace(EXPERIMENTS[name], plan=plan))
        log = list({e.id: e for e in _log(experiment, np.random.default_rng([5, len(name)]), 240)}.values())
        record(database, *log)
        moments = (START + 2 * DAY, LATE)
        with (
            database.read() as connection,
            reader.reading(connection, experiment, LATE, without=without) as less,
        ):
            got = {moment: everything(less.at(moment)) for moment in moments}
            for moment in moments:
                steps_of(less.at(moment))  # it reconciles
                _days_add_up(less.at(moment))
        gone = self._gone(log, experiment, without)
        assert bool(gone) == (without[0][0] != "page")
        with database.write() as connection:
            connection.execute(sa.delete(schema.events).where(schema.events.c.unit.in_(gone)))
        with database.read() as connection, reader.reading(connection, experiment, LATE) as others:
            for moment in moments:
                wanted, mine = everything(others.at(moment)), got[moment]
                assert {u["unit"] for u in mine["units"] if u["standing"] == "cut_out"} <= gone
                left = [u for u in mine["units"] if u["unit"] not in gone]
                assert left == wanted["units"]
                assert not any(u["converted"] for u in mine["units"] if u["unit"] in gone)
                for part in ("cells", "times", "days", "crossing", "segments", "measured"):
                    assert mine[part] == wanted[part], part
                counting = (
                    "counted_exposure",
                    "counted_goal",
                    "repeat_goal",
                    "immature",
                    "out_of_window",
                    "other",
                )
                assert [s for s in mine["waterfall"] if s.step in counting] == [
                    s for s in wanted["waterfall"] if s.step in counting
                ]

    def _gone(self, log: Sequence[Event], experiment: Experiment, without: list[CutSlice]) -> set[str]:
        first: dict[str, Event] = {}
        for e in sorted(log, key=lambda e: (e.occurred_at, e.id)):
            if e.type == EXPOSURE and e.experiment_id == experiment.id and e.human:
                first.setdefault(e.unit, e)
        site, fields = zone(experiment.plan.zone), {"page": "url", "asset": "asset_id"}
        said = {
            unit: {
                "day": e.occurred_at.astimezone(site).date().isoformat(),
                "hour": f"{e.occurred_at.astimezone(site).hour:02}:00",
                **{d: getattr(e, fields.get(d, d)) or "(unknown)" for d in definitions.SEGMENTS},
            }
            for unit, e in first.items()
        }
        return {unit for unit, has in said.items() if any(has[d] == name for d, name in without)}

    def test_without_cuts_the_texts_are_the_same(self) -> None:
        experiment = running()
        none, some = cut(experiment, ()), cut(experiment, [("day", "2026-03-02")])
        for text in (definitions.CELLS, definitions.UNITS, definitions.STEPS_TAKEN, definitions.TIMES):
            assert none.selection(text) is text
            assert some.selection(text).count("cut_units") == 1
            assert some.selection(text).count("'cut_out'") == 1
        assert none.tables is definitions.TABLES

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (
                ("weekday", "Monday"),
                "dimension is 'weekday': a slice can be cut out of day, hour, device",
            ),
            (("device; DROP", "x"), "can be cut out of"),
            (("city", "(other)"), "name a value"),
            (("day", "2026-02-30"), "write it like 2026-03-02"),
            (("day", "today"), "write it like 2026-03-02"),
            (("hour", "24:00"), "write it like 14:00"),
            (("hour", "9:30"), "write it like 14:00"),
        ],
    )
    def test_what_is_no_slice_is_refused(self, database: Database, name: CutSlice, message: str) -> None:
        experiment = stored(database, running())
        with database.read() as connection, pytest.raises(InvalidInput, match=message):
            reader.reading(connection, experiment, LATE, without=[name])

    def test_names_are_parameters_and_not_sql(self, database: Database) -> None:
        experiment, odd = stored(database, running()), "x') OR 1=1 --"
        record(database, exposure("u", "a", START, city=odd), exposure("v", "a", START, city="x"))
        found = steps(database, experiment, without=[("city", odd)])
        assert found == {"counted_exposure": 1, "cut_out": 1}


def test_a_finished_data_set_counts_as_a_whole(database: Database) -> None:
    """Whatever the clock says: an imported file ends with its last row."""
    experiment = stored(database, running(finished=True, horizon=2 * DAY))
    record(database, exposure("u", "b", START + 2 * DAY - TICK), event("lead", "u", START + 2 * DAY + HOUR))
    assert counted(database, experiment, START)["b"] == (1, 1)


def test_slices_split_the_counted_units(database: Database) -> None:
    experiment = stored(database, running())
    for n, device in enumerate(["mobile", "mobile", "desktop", None]):
        record(
            database,
            exposure(f"u{n}", "ab"[n % 2], START, device=device),
            event("lead", f"u{n}", START + n * DAY),
        )
    with database.read() as connection:
        found = reader.reading(connection, experiment, LATE).slices("device")
        with pytest.raises(InvalidInput, match="choose from device, city, country, occasion, asset_id"):
            reader.reading(connection, experiment, LATE).slices("device; DROP TABLE events")
    got = {(row["slice"], row["variant"]): (row["units"], row["conversions"]) for row in found}
    assert got == {
        ("mobile", "a"): (1, 1),
        ("mobile", "b"): (1, 1),
        ("desktop", "a"): (1, 0),
        (None, "b"): (1, 0),
    }


def test_before_the_start_there_is_nothing_to_count(database: Database) -> None:
    draft = replace(running(), started_at=None)
    with database.read() as connection, pytest.raises(Conflict, match="has not started"):
        reader.reading(connection, draft, LATE).cells()


def test_an_event_lost_by_the_classification_would_be_shown() -> None:
    lines = counts.waterfall(5, {"counted_exposure": 3}, {"rejected": 1, "accepted": 5})
    assert lines[0].count == 6
    assert (lines[-1].step, lines[-1].count) == ("unexplained", 2)


def test_totals_have_zeros_for_variants_nobody_saw() -> None:
    cells = [Cell(0, "b", 3, 1, 2.0, 4.0), Cell(1, "b", 4, 2, 1.0, 1.0)]
    totals = counts.totals(running(keys=("a", "b", "c")), cells)
    assert [(t.variant, t.units, t.conversions, t.score_sum, t.score_sumsq) for t in totals] == [
        ("a", 0, 0, 0, 0), ("b", 7, 3, 3.0, 5.0), ("c", 0, 0, 0, 0),
    ]  # fmt: skip
    assert [t.is_control for t in totals] == [True, False, False]


def test_goal_names_are_parameters_and_not_sql(database: Database) -> None:
    odd = "x'); DROP TABLE events; --"
    experiment = stored(database, running(goals=(*GOALS, Goal(odd, 5.0))))
    record(database, exposure("u", "a", START), event(odd, "u", START + HOUR))
    assert units(database, experiment)["u"]["score"] == 5.0
