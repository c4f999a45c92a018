"""Outcomes of leads, imported long after: whose they are, what they are counted against, and that they decide nothing."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from helpers.store_samples import DAY, HOUR, START, event, exposure, rows, running, stored
from scipy import stats
from typer.testing import CliRunner

from cro_core import reporting
from cro_core.cli import app
from cro_core.domain import Event
from cro_core.errors import Conflict, MappingError
from cro_core.evidence import Estimate, Outcomes
from cro_core.home import Home, create_home
from cro_core.ingest.pseudonym import pseudonym
from cro_core.rendering import sections
from cro_core.rendering.decision_text import decision_text
from cro_core.storage import events, schema
from cro_core.workflows.evaluate import evaluate
from cro_core.workflows.import_file import import_file
from cro_core.workflows.import_outcomes import import_outcomes
from cro_core.workflows.seal import seal
from cro_core.workflows.write_report import weekly_report

LATER = START + 60 * DAY
BY_LEAD = {"goal": "booked", "columns": {"lead": "lead", "time": "at", "value": "paid", "id": "booking"}}
BY_VISITOR = {
    "goal": "booked",
    "columns": {"visitor": "visitor", "time": "at", "value": "paid", "id": "booking"},
}
HEAD_LEAD, HEAD_VISITOR = "booking,lead,at,paid", "booking,visitor,at,paid"


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    def write(header: str, *lines: str, name: str = "bookings.csv") -> Path:
        file = tmp_path / name
        file.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return file

    return write


@pytest.fixture
def shop(site: Home) -> Home:
    """40 visitors of each variant; 10 leads of ``a`` (a0-a9), 20 of ``b``, each with an id of two kinds."""
    stored(site.db, running())
    found: list[Event] = []
    for variant, leads in (("a", 10), ("b", 20)):
        for n in range(40):
            name = f"{variant}{n}"
            unit = pseudonym(site.salt, name)
            found.append(exposure(unit, variant, START + n * HOUR))
            if n < leads:
                told = {"properties": {"lead_id": f"lead {name}"}} if n % 2 else {"id": f"lead {name}"}
                found.append(event("lead", unit, START + n * HOUR + HOUR, **told))
    record(site, found)
    return site


def record(home: Home, found: list[Event]) -> None:
    with home.db.write() as connection:
        events.record(connection, found, [], START)


def outcomes(home: Home, as_of: datetime = LATER) -> Outcomes:
    (found,) = evaluate(home, "hero", as_of=as_of).evidence.outcomes
    assert isinstance(found, Outcomes)
    return found


def arms(home: Home, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(getattr(arm, name) for name in names) for arm in outcomes(home).arms]


BOOKINGS = (
    "B1,lead a0,2026-04-20T10:00:00Z,100",
    "B2,lead a1,2026-04-20T11:00:00Z,300",
    "B3,lead b0,2026-04-20T10:00:00Z,50",
    "B4,lead b1,2026-04-21T10:00:00Z,",
    "B5,lead b1,2026-04-22T10:00:00Z,150",
)


def test_bookings_are_reported_against_the_leads_and_the_visitors(
    shop: Home, table: Callable[..., Path]
) -> None:
    report = import_outcomes(shop, table(HEAD_LEAD, *BOOKINGS), BY_LEAD, now=LATER)
    assert (report.rows, report.stored, report.known, report.unplaced) == (5, 5, 0, {})
    assert arms(shop, "variant", "units", "leads", "outcomes", "of_leads", "value") == [
        ("a", 40, 10, 2, 2, 400.0),
        ("b", 40, 20, 3, 3, 200.0),
    ]
    a, b = outcomes(shop).arms
    assert (a.per_lead.value, b.per_lead.value) == (2 / 10, 2 / 20)
    assert (a.per_unit.value, b.per_unit.value) == (2 / 40, 2 / 40)
    assert (a.value_per_lead.value, a.value_per_unit.value) == (40.0, 10.0)
    wilson = stats.binomtest(2, 10).proportion_ci(method="wilson")
    assert (a.per_lead.low, a.per_lead.high) == pytest.approx((wilson.low, wilson.high))
    amounts = [100.0, 300.0] + [0.0] * 8
    half = stats.t.ppf(0.975, 9) * stats.sem(amounts)
    assert (a.value_per_lead.low, a.value_per_lead.high) == pytest.approx((40 - half, 40 + half))
    (contrast,) = outcomes(shop).contrasts
    assert contrast.per_lead.value == pytest.approx(-0.5)
    assert contrast.value_per_unit.value == pytest.approx(5 / 10 - 1)
    assert contrast.per_lead.low < -0.5 < contrast.per_lead.high


def test_visitors_are_known_by_their_own_ids(shop: Home, table: Callable[..., Path]) -> None:
    lines = (
        "B1,a0,2026-04-20T10:00:00Z,100",
        "B2,a39,2026-04-20T10:00:00Z,60",
        "B3,nobody,2026-04-20T10:00:00Z,1",
    )
    report = import_outcomes(shop, table(HEAD_VISITOR, *lines), BY_VISITOR, now=LATER)
    assert (report.stored, report.unplaced) == (2, {"the visitor is not known here": 1})
    # a39 booked without having been a lead: it shows per visitor only.
    assert arms(shop, "outcomes", "of_leads", "value") == [(2, 1, 160.0), (0, 0, 0.0)]
    assert outcomes(shop).arms[0].value_per_lead.value == 10.0
    kept = [row["payload"] for row in rows(shop.db, schema.quarantine)]
    assert len(kept) == 1
    assert "nobody" not in kept[0]


def test_outcomes_change_no_decision(shop: Home, table: Callable[..., Path]) -> None:
    before = evaluate(shop, "hero", as_of=LATER)
    import_outcomes(shop, table(HEAD_LEAD, *BOOKINGS), BY_LEAD, now=LATER)
    after = evaluate(shop, "hero", as_of=LATER)
    assert (after.verdict, after.fingerprint, after.text, after.cells) == (
        before.verdict, before.fingerprint, before.text, before.cells,
    )  # fmt: skip
    new = {"outcomes": (), "store": before.evidence.store, "waterfall": before.evidence.waterfall}
    assert replace(after.evidence, **new) == before.evidence
    steps = {s.step: s.count for s in after.evidence.waterfall}
    assert steps.pop("received") == sum(steps.values())


def test_the_same_table_again_changes_nothing(shop: Home, table: Callable[..., Path]) -> None:
    lines = (
        *BOOKINGS,
        BOOKINGS[0],
        "B6,lead x,2026-04-20T10:00:00Z,5",
        "B7,lead a2,soon,5",
        "B8,lead a3,2026-04-20,x",
    )
    mapping = BY_LEAD | {"time": {"zone": "UTC"}}
    first = import_outcomes(shop, table(HEAD_LEAD, *lines), mapping, now=LATER)
    assert (first.rows, first.stored, first.known) == (9, 5, 1)
    assert first.unplaced == {
        "the lead is not known here": 1,
        "the time (column at) is empty or cannot be read": 1,
        "the amount (column paid) is not a number": 1,
    }
    assert set(first.first_unplaced.values()) == {7, 8, 9}
    there = [rows(shop.db, found) for found in schema.metadata.sorted_tables]
    again = import_outcomes(shop, table(HEAD_LEAD, *reversed(lines)), mapping, now=LATER + DAY)
    assert (again.stored, again.known, again.unplaced) == (0, 6, first.unplaced)
    assert [rows(shop.db, found) for found in schema.metadata.sorted_tables] == there


def test_a_lead_that_becomes_known_is_taken_out_of_the_quarantine(
    shop: Home, table: Callable[..., Path]
) -> None:
    file = table(HEAD_LEAD, "B6,lead late,2026-04-20T10:00:00Z,5")
    assert import_outcomes(shop, file, BY_LEAD, now=LATER).stored == 0
    with shop.db.read() as connection:
        assert events.totals(connection)["rejected"] == 1
    unit = pseudonym(shop.salt, "a9")
    record(shop, [event("call", unit, START + 12 * HOUR, id="lead late")])
    assert import_outcomes(shop, file, BY_LEAD, now=LATER).stored == 1
    assert rows(shop.db, schema.quarantine) == []
    with shop.db.read() as connection:
        assert events.totals(connection)["rejected"] == 0


def test_an_ambiguous_lead_is_kept_aside(shop: Home, table: Callable[..., Path]) -> None:
    for n, name in enumerate(("a5", "b5")):
        told = {"lead_id": "shared"}
        record(shop, [event("lead", pseudonym(shop.salt, name), START + n * HOUR, properties=told)])
    report = import_outcomes(shop, table(HEAD_LEAD, "B1,shared,2026-04-20T10:00:00Z,5"), BY_LEAD, now=LATER)
    assert report.unplaced == {"the lead belongs to several visitors": 1}


def test_leads_are_found_in_the_sealed_days(shop: Home, table: Callable[..., Path]) -> None:
    half, rest = table(HEAD_LEAD, *BOOKINGS[:2], name="half.csv"), table(HEAD_LEAD, *BOOKINGS)
    import_outcomes(shop, half, BY_LEAD, now=LATER)
    seal(shop, now=LATER + 30 * DAY, force=True)
    assert rows(shop.db, schema.events) == []
    report = import_outcomes(shop, rest, BY_LEAD, now=LATER + 30 * DAY)
    assert (report.stored, report.known, report.unplaced) == (3, 2, {})
    found = evaluate(shop, "hero", as_of=LATER + 30 * DAY).evidence.outcomes[0].arms
    assert [(arm.outcomes, arm.value) for arm in found] == [(2, 400.0), (3, 200.0)]


def test_outcomes_without_an_id_are_told_by_their_content(shop: Home, table: Callable[..., Path]) -> None:
    mapping = {"goal": "booked", "columns": {"lead": "lead", "time": "at", "value": "paid"}}
    lines = [line.partition(",")[2] for line in BOOKINGS]
    first = import_outcomes(shop, table("lead,at,paid", *lines), mapping, now=LATER)
    again = import_outcomes(
        shop,
        table("lead,paid,at", *(",".join((a, c, b)) for a, b, c in (x.split(",") for x in lines))),
        mapping,
        now=LATER,
    )
    assert (first.stored, again.stored, again.known) == (5, 0, 5)


def test_only_what_came_after_the_visit_and_before_the_moment_counts(
    shop: Home, table: Callable[..., Path]
) -> None:
    lines = ("B1,lead a0,2026-01-01T00:00:00Z,7", "B2,lead a0,2026-04-20T10:00:00Z,100")
    import_outcomes(shop, table(HEAD_LEAD, *lines), BY_LEAD, now=LATER)
    assert outcomes(shop).before == 1
    assert arms(shop, "outcomes", "value") == [(1, 100.0), (0, 0.0)]
    early = outcomes(shop, datetime(2026, 4, 20, 10, tzinfo=UTC))
    assert [arm.outcomes for arm in early.arms] == [0, 0]


def test_a_goal_that_decides_is_no_outcome(shop: Home, table: Callable[..., Path]) -> None:
    file = table(HEAD_LEAD, *BOOKINGS)
    with pytest.raises(Conflict, match="goal call is counted by hero: give the outcome a name of its own"):
        import_outcomes(shop, file, BY_LEAD | {"goal": "call"}, now=LATER)
    assert import_outcomes(shop, file, BY_LEAD, now=LATER).stored == 5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"goal": "exposure"}, "goal: got 'exposure'; wanted a word for what became of the lead"),
        ({"goal": "two words"}, "goal: got 'two words'; wanted 1 to 100 of the characters"),
        (
            {"columns": {"time": "at"}},
            "columns: got neither; wanted the column of the lead or that of the visitor",
        ),
        ({"columns": {"time": "at", "lead": "lead", "visitor": "lead"}}, "columns: got both"),
        ({"columns": {"lead": "lead"}}, "columns.time: got nothing; wanted a value"),
        ({"columns": {"lead": "led", "time": "at"}}, "columns.lead: got 'led'.*did you mean 'lead'"),
        ({"columns": {"lead": "lead", "tiem": "at"}}, "columns.tiem: got a key that does not exist.*'time'"),
    ],
)
def test_mappings_that_are_refused(shop: Home, table: Callable[..., Path], change: Any, told: str) -> None:
    with pytest.raises(MappingError, match=told):
        import_outcomes(shop, table(HEAD_LEAD, *BOOKINGS), BY_LEAD | change, now=LATER)
    assert rows(shop.db, schema.quarantine) == []


def test_times_need_a_zone_and_files_need_rows(shop: Home, table: Callable[..., Path]) -> None:
    with pytest.raises(MappingError, match=r"time\.zone: got nothing"):
        import_outcomes(shop, table(HEAD_LEAD, "B1,lead a0,2026-04-20 10:00:00,1"), BY_LEAD, now=LATER)
    with pytest.raises(MappingError, match="rows: got none; wanted at least one row"):
        import_outcomes(shop, table(HEAD_LEAD), BY_LEAD, now=LATER)


def test_every_format_brings_the_same_outcomes(
    shop: Home, table: Callable[..., Path], tmp_path: Path
) -> None:
    import pandas as pd

    frame = pd.read_csv(table(HEAD_LEAD, *BOOKINGS))
    frame.to_parquet(tmp_path / "bookings.parquet")
    frame.to_json(tmp_path / "bookings.ndjson.gz", orient="records", lines=True)
    frame.to_csv(tmp_path / "bookings.csv.gz", index=False)
    first = import_outcomes(shop, tmp_path / "bookings.parquet", BY_LEAD, now=LATER)
    assert first.stored == 5
    for name in ("bookings.ndjson.gz", "bookings.csv.gz"):
        assert import_outcomes(shop, tmp_path / name, BY_LEAD, now=LATER).known == 5


def test_the_decision_and_the_report_show_them(shop: Home, table: Callable[..., Path]) -> None:
    import_outcomes(shop, table(HEAD_LEAD, *BOOKINGS), BY_LEAD, now=LATER)
    text = decision_text(evaluate(shop, "hero", as_of=LATER))
    assert "booked: 5 outcomes" in text
    report = weekly_report(shop, now=LATER)
    (found,) = report.outcomes
    assert (found.experiment_id, [arm.outcomes for arm in found.outcomes.arms]) == ("hero", [2, 3])
    told = reporting.as_text(report)
    assert "What became of the leads\n" in told
    assert "booked of “Hero”: 5 outcomes" in told
    assert max(map(len, told.splitlines())) <= 80
    document = json.loads(reporting.as_json(report))
    assert document["outcomes"][0]["outcomes"]["arms"][0]["per_lead"]["value"] == 0.2
    assert "booked: 5 outcomes" in str(sections.winners(report).html)


def test_without_outcomes_nothing_is_shown(shop: Home) -> None:
    assert evaluate(shop, "hero", as_of=LATER).evidence.outcomes == ()
    assert weekly_report(shop, now=LATER).outcomes == ()


def test_the_command_line(tmp_path: Path, table: Callable[..., Path]) -> None:
    home = create_home(tmp_path / "home", environ={})
    visitors = table(
        "user,at,arm,done", "u1,2026-03-01T09:00:00Z,A,1", "u2,2026-03-01T10:00:00Z,B,0", name="v.csv"
    )
    mapping = {
        "experiment": {"id": "shop"},
        "table": {"layout": "visitors"},
        "columns": {"unit": "user", "time": "at", "variant": "arm"},
        "variants": [{"key": "A", "control": True}, {"key": "B"}],
        "goals": [{"name": "lead", "when": {"done": 1}, "primary": True}],
        "plan": {"shares": "equal"},
    }
    import_file(home, visitors, mapping, now=datetime(2026, 3, 10, tzinfo=UTC))
    bookings = table("who,day,eur", "u1,2026-05-01 12:00,80", "u9,2026-05-01 12:00,80")
    asked = ["outcomes", str(bookings), "--goal", "booked", "--visitor-column", "who", "--time-column", "day",
             "--value-column", "eur", "--zone", "Europe/Paris", "--home", str(home.path), "--json"]  # fmt: skip
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (answer["stored"], answer["unplaced"]) == (1, {"the visitor is not known here": 1})
    with home.db.read() as connection:
        at = connection.scalar(sa.select(schema.events.c.occurred_at).where(schema.events.c.type == "booked"))
    assert at == datetime(2026, 5, 1, 10, tzinfo=UTC)
    (found,) = evaluate(home, "shop", as_of=datetime(2026, 6, 1, tzinfo=UTC)).evidence.outcomes
    assert [(arm.leads, arm.outcomes, arm.value) for arm in found.arms] == [
        (1, 1, 80.0),
        (0, 0, 0.0),
    ]
    wrong = CliRunner().invoke(app, ["import", str(bookings), "--home", str(home.path)])
    assert "an import needs --mapping" in str(wrong.exception)


def test_an_arm_without_leads_tells_nothing() -> None:
    from cro_core.decision.offline_outcomes import outcomes as counted

    found = counted(running(), "booked", [])
    assert [(arm.units, arm.per_lead) for arm in found.arms] == [(0, Estimate()), (0, Estimate())]
    assert found.contrasts[0].value_per_lead == Estimate()
    assert not math.isnan(found.before)


@pytest.mark.sizes(9_000, 60_000)
def test_an_import_that_is_killed_is_ended_by_the_next(
    tmp_path: Path, table: Callable[..., Path], size: int
) -> None:
    """With a real ``kill -9`` between two of its transactions: nothing twice, nothing missing."""
    killed, whole = (create_home(tmp_path / name, environ={}) for name in ("killed", "whole"))
    for home in (killed, whole):
        stored(home.db, running())
        units = [pseudonym(home.salt, f"visitor {n}") for n in range(50)]
        record(home, [exposure(u, "ab"[n % 2], START, id=f"x{n}") for n, u in enumerate(units)])
        record(home, [event("lead", u, START + HOUR, id=f"lead {n}") for n, u in enumerate(units)])
    file = table(HEAD_LEAD, *(f"B{n},lead {n % 50},2026-04-20T10:00:00Z,{n % 7}" for n in range(size)))
    toml = tmp_path / "bookings.toml"
    columns = "\n".join(f'{name} = "{column}"' for name, column in BY_LEAD["columns"].items())  # type: ignore[attr-defined]
    toml.write_text(f'goal = "booked"\n[columns]\n{columns}\n', encoding="utf-8")
    program = (
        f"from cro_core.importing import outcome_table; outcome_table.BATCH = {size // 6};"
        "from cro_core.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "outcomes", str(file), "--mapping", str(toml)]

    def booked(home: Home) -> int:
        query = sa.select(sa.func.count()).where(schema.events.c.type == "booked")
        with home.db.read() as connection:
            return connection.scalar(query) or 0

    process = subprocess.Popen([*command, "--home", str(killed.path)], stdout=subprocess.DEVNULL)
    while process.poll() is None and not booked(killed):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    before = booked(killed)
    assert 0 < before < size

    reports = []
    for home in (killed, whole):
        run = subprocess.run([*command, "--home", str(home.path), "--json"], capture_output=True, check=True)
        reports.append(json.loads(run.stdout))

    assert (reports[0]["stored"], reports[0]["known"]) == (size - before, before)
    assert (reports[1]["stored"], reports[1]["known"]) == (size, 0)
    told = [outcomes(home).arms for home in (killed, whole)]
    assert told[0] == told[1]
    assert sum(arm.outcomes for arm in told[0]) == size
