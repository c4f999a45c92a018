"""Mappings, what they refuse, and what becomes of every row."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pytest
import sqlalchemy as sa
from helpers.places import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cro_core.cli import app
from cro_core.domain import Experiment, Goal, Plan, Status, Variant, Verdict
from cro_core.errors import Busy, Conflict, MappingError, NotFound
from cro_core.home import Home, create_home, open_home
from cro_core.importing import file_batches
from cro_core.importing import files as reading_module
from cro_core.importing import rows as rows_module
from cro_core.importing.conditions import Check, holds, parse_cases
from cro_core.importing.files import read
from cro_core.importing.loading import load_mapping, parse_mapping, shipped
from cro_core.importing.mapping import fingerprint_text
from cro_core.importing.rows import FileEvents, prepare
from cro_core.ingest.cleaning import Rules, clean
from cro_core.ingest.cleaning_by_column import clean_columns
from cro_core.ingest.website_words import as_posted
from cro_core.rendering.decision_text import decision_text
from cro_core.statistics.sample_size import plan_size
from cro_core.storage import experiments, schema
from cro_core.workflows import import_file as workflow
from cro_core.workflows import replay_hours
from cro_core.workflows.evaluate import evaluate
from cro_core.workflows.import_file import import_file
from cro_core.workflows.seal import seal

NOW = datetime(2026, 3, 10, tzinfo=UTC)
LATER = datetime(2026, 6, 1, tzinfo=UTC)
DOCS = (ROOT / "docs" / "importing.md").read_text(encoding="utf-8")

HEADER = "user,at,arm,page,done,paid"
ROWS = [
    "u1,2026-03-01T09:00:00Z,A,old,1,9.5",
    "u2,2026-03-01T10:00:00Z,B,new,0,",
    "u3,2026-03-01T11:00:00Z,B,new,1,20",
    "u4,2026-03-01T12:00:00Z,A,new,1,5",
    "u1,2026-03-01T13:00:00Z,A,old,0,",
    "u2,2026-03-01T14:00:00Z,A,old,0,",
]
MAPPING_TEXT = """
experiment = { id = "shop" }
table = { layout = "visitors" }
columns = { unit = "user", time = "at", variant = "arm" }
variants = [{ key = "old", values = "A", control = true }, { key = "new", values = "B" }]
valid = [{ name = "page of the arm", any = [{ arm = "A", page = "old" }, { arm = "B", page = "new" }] }]
goals = [{ name = "order", when = { done = 1 }, value = "paid", primary = true }]
plan = { shares = "equal" }
"""
MAPPING: dict[str, Any] = tomllib.loads(MAPPING_TEXT)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return create_home(tmp_path / "home", environ={})


@pytest.fixture
def csv(tmp_path: Path) -> Callable[..., Path]:
    def write(rows: list[str] = ROWS, header: str = HEADER, name: str = "shop.csv") -> Path:
        file = tmp_path / name
        file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return file

    return write


def doc_parts() -> dict[str, str]:
    return dict(re.findall(r"<!-- test: (\S+) -->\n```\w+\n(.*?)```", DOCS, re.DOTALL))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with every file that the documentation shows."""
    return write_parts(tmp_path)


def write_parts(folder: Path) -> Path:
    for name, content in doc_parts().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def run_part(name: str, folder: Path) -> str:
    """What the last of the documented commands prints."""
    for line in doc_parts()[name].splitlines():
        command = shlex.split(line.replace("cro", f"{sys.executable} -m cro_core.cli", 1))
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def commanded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with every file that the documentation shows, after its commands, and what the last one printed."""
    folder = write_parts(tmp_path_factory.mktemp("documented"))
    return folder, run_part("commands", folder)


def changed(path: str = "", value: Any = None) -> dict[str, Any]:
    """The mapping with one key (``goals.0.name``) set, or removed with ``None``."""
    mapping: Any = deepcopy(MAPPING)
    if path:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        place = mapping
        for part in parents:
            place = place[part] if isinstance(part, int) else place.setdefault(part, {})
        if value is None:
            del place[last]
        else:
            place[last] = value
    result: dict[str, Any] = mapping
    return result


def placed(file: Path, mapping: Mapping[str, Any]) -> FileEvents:
    parsed = parse_mapping(mapping, "shop.toml")
    return prepare(read(file, parsed), parsed, NOW)


def waterfall(home: Home, experiment_id: str = "shop") -> dict[str, int]:
    evidence = evaluate(home, experiment_id, as_of=NOW).evidence
    steps = {s.step: s.count for s in evidence.waterfall}
    assert steps.pop("received") == sum(steps.values())
    return {step: count for step, count in steps.items() if count}


def rows_of(home: Home, table: sa.Table) -> list[Mapping[str, Any]]:
    with home.db.read() as connection:
        return [dict(row) for row in connection.execute(sa.select(table)).mappings()]


# ---- a whole import


def test_every_row_is_accounted_for(home: Home, csv: Callable[..., Path]) -> None:
    report = import_file(home, csv(), MAPPING, now=NOW)
    assert report.rows == 6
    assert report.rejected == {"breaks the rule: page of the arm": 1}
    assert report.first_rejected == {"breaks the rule: page of the arm": 4}
    assert (report.units, report.repeated_exposures) == (3, 2)
    assert (report.units_in_several_variants, report.units_crossing) == (1, 1)
    assert (report.accepted, report.duplicates, report.unchanged) == (7, 0, False)
    assert waterfall(home) == {
        "rejected": 1,
        "crossover": 1,
        "repeat_exposure": 1,
        "counted_exposure": 3,
        "counted_goal": 2,
    }
    assert json.loads(json.dumps(report.as_dict()))["started_at"] == "2026-03-01T09:00:00Z"


def test_the_experiment_is_finished_and_no_cycle_touches_it(home: Home, csv: Callable[..., Path]) -> None:
    import_file(home, csv(), MAPPING, now=NOW)
    with home.db.read() as connection:
        experiment = experiments.get(connection, "shop")
    (epoch,) = experiment.epochs
    assert (experiment.status, experiment.source, experiment.plan.finished) == (
        Status.COMPLETED,
        "import",
        True,
    )
    assert experiment.started_at == datetime(2026, 3, 1, 9, tzinfo=UTC)
    assert experiment.ended_at == datetime(2026, 3, 1, 14, tzinfo=UTC)
    assert epoch.ends_at == experiment.ended_at + timedelta(microseconds=1)
    assert epoch.shares == {"old": 0.5, "new": 0.5}
    assert (experiment.plan.units, experiment.plan.adaptive) == (None, False)
    # The last exposure, at the very end of the file, is counted too.
    decision = evaluate(home, "shop", as_of=NOW)
    assert decision.verdict is Verdict.INVALID  # one of three visitors met both
    assert "crossing_veto" in {reason.code for reason in decision.reasons}
    text = decision_text(decision)
    assert "p = .480 at one look\n" in text
    assert "(p at one look; these metrics never decide)" in text
    assert "hourly looks" not in text


def test_a_file_is_told_in_money_where_the_mapping_says_what_a_variant_costs(
    tmp_path: Path, csv: Callable[..., Path]
) -> None:
    worth = {"money": {"value_per_conversion": 40, "currency": "EUR"}, "statistics": {"max_crossover": 1}}
    home = create_home(tmp_path / "worth", worth, environ={})
    place = next(n for n, variant in enumerate(MAPPING["variants"]) if not variant.get("control"))
    import_file(home, csv(), changed(f"variants.{place}.cost_per_exposure", 0.5), now=NOW)
    decision = evaluate(home, "shop", as_of=NOW)
    (row,) = decision.evidence.money
    assert (row.cost, row.currency) == (500.0, "EUR")
    assert sum(reason.code == "money" for reason in decision.reasons) == 1
    assert " EUR per 1,000 visitors" in decision_text(decision)
    home.db.close()


def test_a_mapping_that_says_no_cost_has_the_fingerprint_it_always_had() -> None:
    """What was imported before costs were known is still known as imported."""
    dear = changed("variants.0.cost_per_exposure", 0.5)
    plain, costing = (fingerprint_text(parse_mapping(each, "m.toml")) for each in (MAPPING, dear))
    assert "cost_per_exposure" not in plain
    assert '"cost_per_exposure": 0.5' in costing


def test_visitors_are_hashed_also_in_quarantine(home: Home, csv: Callable[..., Path]) -> None:
    import_file(home, csv(), MAPPING, now=NOW)
    (kept,) = rows_of(home, schema.quarantine)
    payload = json.loads(kept["payload"])
    assert kept["reason"] == "breaks the rule: page of the arm"
    assert (payload["row"], payload["page"], len(payload["user"])) == (4, "new", 32)
    assert not {"u1", "u2", "u3"} & {event["unit"] for event in rows_of(home, schema.events)}


def test_importing_twice_changes_nothing(home: Home, csv: Callable[..., Path]) -> None:
    first = import_file(home, csv(), MAPPING, now=NOW)
    stored = [rows_of(home, table) for table in schema.metadata.sorted_tables]
    again = import_file(home, csv(), MAPPING, now=NOW + timedelta(hours=1))
    assert (again.unchanged, again.accepted, again.duplicates) == (True, 0, first.accepted)
    assert "Nothing was changed" in again.text
    assert [rows_of(home, table) for table in schema.metadata.sorted_tables] == stored


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_an_import_that_was_cut_off_goes_on_where_it_stopped(
    home: Home, csv: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    monkeypatch.setattr(file_batches, "BATCH", 2)
    record, calls = workflow.event_store.record, []

    def failing(*args: Any) -> int:
        calls.append(args)
        if len(calls) > batches:
            raise OSError("disk full")
        return record(*args)

    monkeypatch.setattr(workflow.event_store, "record", failing)
    with pytest.raises(OSError, match="disk full"):
        import_file(home, csv(), MAPPING, now=NOW)
    with pytest.raises(NotFound):
        evaluate(home, "shop", as_of=NOW)
    monkeypatch.setattr(workflow.event_store, "record", record)
    report = import_file(home, csv(), MAPPING, now=NOW)
    whole = create_home(tmp_path / "whole", environ={})
    at_once = import_file(whole, csv(), MAPPING, now=NOW)
    assert report.resumed_at == (2 * batches or None)
    assert report.accepted + report.duplicates == at_once.accepted
    assert waterfall(home) == waterfall(whole)
    assert [e["id"] for e in rows_of(home, schema.events)] == [e["id"] for e in rows_of(whole, schema.events)]


def test_other_data_under_the_same_id_are_refused_or_replace_it(home: Home, csv: Callable[..., Path]) -> None:
    import_file(home, csv(), MAPPING, now=NOW)
    with pytest.raises(Conflict, match="another file or with another mapping"):
        import_file(home, csv(ROWS[:3]), MAPPING, now=NOW)
    report = import_file(home, csv(ROWS[:3]), MAPPING, now=NOW, replace_former=True)
    assert report.accepted == 5
    assert waterfall(home) == {"counted_exposure": 3, "counted_goal": 2}
    assert rows_of(home, schema.quarantine) == []


def test_replacing_spares_other_experiments(home: Home, csv: Callable[..., Path]) -> None:
    import_file(home, csv(), changed("experiment.id", "other"), now=NOW)
    before = waterfall(home, "other")
    import_file(home, csv(), MAPPING, now=NOW)
    import_file(home, csv(ROWS[:3]), MAPPING, now=NOW, replace_former=True)
    assert waterfall(home, "other") == before


def test_replacing_reaches_sealed_days(home: Home, csv: Callable[..., Path]) -> None:
    import_file(home, csv(), changed("experiment.id", "other"), now=NOW)
    import_file(home, csv(), MAPPING, now=NOW)
    before = waterfall(home, "other")
    assert seal(home, now=NOW, force=True).events > 0
    assert rows_of(home, schema.events) == []
    import_file(home, csv(ROWS[:3]), MAPPING, now=NOW, replace_former=True)
    assert waterfall(home) == {"counted_exposure": 3, "counted_goal": 2}
    assert waterfall(home, "other") == before


@pytest.mark.parametrize("replace_former", [False, True])
def test_an_experiment_that_was_not_imported_is_never_touched(
    home: Home, csv: Callable[..., Path], replace_former: bool
) -> None:
    plan = Plan(goals=(Goal("order", primary=True),))
    with home.db.write() as connection:
        variants = (Variant("old", "Old", is_control=True), Variant("new", "New"))
        experiments.add(connection, Experiment("shop", "Shop", variants, plan, created_at=NOW))
    with pytest.raises(Conflict, match="was not imported"):
        import_file(home, csv(), MAPPING, now=NOW, replace_former=replace_former)


def test_one_import_at_a_time(home: Home, csv: Callable[..., Path]) -> None:
    with home.lock("import"), pytest.raises(Busy):
        import_file(home, csv(), MAPPING, now=NOW)


def test_what_the_ingestion_does_not_accept_is_reported(home: Home, csv: Callable[..., Path]) -> None:
    report = import_file(home, csv([*ROWS, f"{'x' * 201},2026-03-01T15:00:00Z,A,old,1,1"]), MAPPING, now=NOW)
    (reason,) = report.refused
    assert (report.refused[reason], reason.partition(":")[0]) == (2, "user_id")
    assert waterfall(home)["rejected"] == 3


def test_progress_is_shown_when_asked_for(
    home: Home, csv: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    import_file(home, csv(), MAPPING, now=NOW, progress=True)
    assert "importing shop.csv" in capsys.readouterr().err
    import_file(home, csv(), changed("experiment.id", "quiet"), now=NOW, progress=False)
    assert capsys.readouterr().err == ""


# ---- files


def as_parquet(csv_file: Path) -> Path:
    file = csv_file.with_suffix(".parquet")
    table = pd.read_csv(csv_file)
    table.assign(at=pd.to_datetime(table["at"]), done=table["done"].astype(bool)).to_parquet(file)
    return file


def as_ndjson(csv_file: Path) -> Path:
    file = csv_file.with_suffix(".ndjson")
    pd.read_csv(csv_file).to_json(file, orient="records", lines=True)
    return file


def as_gzip(csv_file: Path) -> Path:
    file = csv_file.with_suffix(".csv.gz")
    file.write_bytes(gzip.compress(csv_file.read_bytes()))
    return file


def as_gzipped_ndjson(csv_file: Path) -> Path:
    file = csv_file.with_suffix(".jsonl.gz")
    file.write_bytes(gzip.compress(as_ndjson(csv_file).read_bytes() + b"\n"))
    return file


def as_tsv(csv_file: Path) -> Path:
    file = csv_file.with_suffix(".tsv")
    file.write_text(csv_file.read_text(encoding="utf-8").replace(",", "\t"), encoding="utf-16")
    return file


@pytest.mark.parametrize("convert", [as_parquet, as_ndjson, as_gzip, as_gzipped_ndjson, as_tsv])
def test_every_format_gives_the_same_events(
    home: Home, csv: Callable[..., Path], convert: Callable[[Path], Path]
) -> None:
    if convert is as_parquet:
        pytest.importorskip("pyarrow")
    mapping = changed("table.encoding", "utf-16") if convert is as_tsv else changed()
    if convert is as_parquet:
        mapping["goals"][0]["when"] = {"done": True}
    import_file(home, csv(), MAPPING | {"experiment": {"id": "shop"}}, now=NOW)
    other = import_file(home, convert(csv()), mapping, now=NOW, replace_former=True)
    assert (other.accepted, other.units) == (7, 3)
    assert waterfall(home)["rejected"] == 1
    amounts = [e["value"] for e in rows_of(home, schema.events) if e["type"] == "order"]
    assert sorted(amounts) == [9.5, 20.0]


def test_text_is_not_read_as_numbers(csv: Callable[..., Path]) -> None:
    file = csv([row.replace("u1", "007").replace("u2", "7").replace("u3", "7.0") for row in ROWS])
    assert placed(file, MAPPING).units == 3


def test_the_same_without_pyarrow_strings(csv: Callable[..., Path]) -> None:
    with pd.option_context("mode.string_storage", "python"):
        stream = placed(csv(), MAPPING)
    assert (stream.units, stream.goals, stream.rejected_by_reason) == (
        3,
        2,
        {"breaks the rule: page of the arm": 1},
    )


def test_whole_numbers_of_a_parquet_file_with_gaps(csv: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    csv(["7,CH", "8,AT"], "user,land", "lands.csv")
    table = pd.read_csv(csv([row.replace("u", "") for row in ROWS])).assign(
        user=[7.0, 8.0, None, 7.0, 7.0, 8.0]
    )
    table.to_parquet(tmp_path / "shop.parquet")
    mapping = changed("join", [{"file": "lands.csv", "on": "user", "columns": ["land"]}])
    mapping["columns"]["country"] = "land"
    stream = placed(tmp_path / "shop.parquet", mapping)
    (rows,) = stream.placed()
    assert rows.table["land"].tolist()[:2] == ["CH", "AT"]
    assert stream.rejected_by_reason["the unit (column user) is empty"] == 1


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        ("", "shop.csv", "rows: got an empty file"),
        (HEADER + "\n", "shop.csv", "rows: got none; wanted at least one row"),
        (HEADER + "\n" + ROWS[0] + ",more\n", "shop.csv", "as many fields in every line"),
        (HEADER + "\n" + ROWS[0] + "\n" + ROWS[1] + ",more\n", "shop.csv", "line 3"),
        (HEADER + '\n"' + ROWS[0] + "\n", "shop.csv", "shop.csv: CSV: got EOF inside string"),
        (HEADER.replace(",", ";"), "shop.csv", "set table.delimiter"),
        ("not gzip", "shop.csv.gz", "a readable csv file"),
        ("not parquet", "shop.parquet", "wanted a Parquet file|a readable parquet file|needs pyarrow"),
        ('{"user": 1', "shop.ndjson", "line 1: got .*wanted one JSON object a line"),
        ("[1, 2]", "shop.ndjson", "line 1: got a JSON list"),
        ("\n", "shop.ndjson", "rows: got an empty file"),
        ("x", "shop.xlsx", "format: got '.xlsx'; wanted one of .csv"),
    ],
)
def test_files_that_cannot_be_read(home: Home, tmp_path: Path, content: str, name: str, told: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(MappingError, match=told):
        import_file(home, tmp_path / name, MAPPING, now=NOW)


def test_a_file_in_another_encoding(home: Home, csv: Callable[..., Path], tmp_path: Path) -> None:
    latin = tmp_path / "latin.csv"
    latin.write_bytes(
        csv([row.replace("old", "ält") for row in ROWS]).read_text(encoding="utf-8").encode("cp1252")
    )
    mapping = changed("valid.0.any.0.page", "ält")
    with pytest.raises(MappingError, match=r"set table\.encoding"):
        import_file(home, latin, mapping, now=NOW)
    mapping["table"]["encoding"] = "cp1252"
    assert import_file(home, latin, mapping, now=NOW).units == 3


def test_files_that_are_not_there(home: Home, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none\.csv does not exist"):
        import_file(home, tmp_path / "none.csv", MAPPING, now=NOW)
    with pytest.raises(MappingError, match=r"got a folder.*\[\[files\]\]"):
        import_file(home, tmp_path, MAPPING, now=NOW)


def test_several_files(home: Home, csv: Callable[..., Path], tmp_path: Path) -> None:
    for name, arm in (("a.csv", "A"), ("b.csv", "B")):
        csv([row.replace(f",{arm}", "") for row in ROWS if f",{arm}," in row], "user,at,page,done,paid", name)
    mapping = changed(
        "files", [{"file": "a.csv", "set": {"arm": "A"}}, {"file": "b.csv", "set": {"arm": "B"}}]
    )
    report = import_file(home, tmp_path, mapping, now=NOW)
    assert (report.rows, report.units, report.accepted) == (6, 3, 7)
    mapping["files"][1]["file"] = "c.csv"
    with pytest.raises(NotFound, match=r"c\.csv does not exist"):
        import_file(home, tmp_path, mapping, now=NOW)


def test_join(home: Home, csv: Callable[..., Path]) -> None:
    csv(["u1,CH", "u2,AT", "u2,AT", ",DE"], "id,land", "lands.csv")
    mapping = changed("join", [{"file": "lands.csv", "on": "user", "key": "id", "columns": ["land"]}])
    mapping["columns"]["country"] = "land"
    import_file(home, csv(), mapping, now=NOW)
    first = {e["variant"]: e["country"] for e in rows_of(home, schema.exposures)}
    assert [e["country"] for e in rows_of(home, schema.exposures) if e["exposed_at"].hour == 11] == [None]
    assert first["old"] == "CH"


@pytest.mark.parametrize(
    ("rows", "join", "error", "told"),
    [
        (["u1,CH", "u1,AT"], {}, MappingError, "got 1 keys more than once, e.g. 'u1'"),
        (
            ["u1,CH"],
            {"columns": ["lnad"]},
            MappingError,
            r"join\[1\].columns: got 'lnad'.*did you mean 'land'",
        ),
        (["u1,CH"], {"key": "di"}, MappingError, r"join\[1\].key: got 'di'"),
        (["u1,CH"], {"on": "usr"}, MappingError, r"join\[1\].on: got 'usr'.*did you mean 'user'"),
        (["u1,CH"], {"file": "land.csv"}, NotFound, "land.csv does not exist: put it there"),
        (["u1,CH"], {"columns": ["user"]}, MappingError, r"join\[1\].columns: got user"),
    ],
)
def test_joins_that_are_refused(
    home: Home, csv: Callable[..., Path], rows: list[str], join: Any, error: type[Exception], told: str
) -> None:
    csv(rows, "id,land", "lands.csv")
    wanted = {"file": "lands.csv", "on": "user", "key": "id", "columns": ["land"]} | join
    mapping = changed("join", [wanted]) | {"columns": MAPPING["columns"] | {"country": wanted["columns"][0]}}
    with pytest.raises(error, match=told):
        import_file(home, csv(), mapping, now=NOW)


def test_a_join_may_be_optional(home: Home, csv: Callable[..., Path]) -> None:
    mapping = changed("join", [{"file": "lands.csv", "on": "user", "columns": ["land"], "optional": True}])
    mapping["columns"]["country"] = "land"
    report = import_file(home, csv(), mapping, now=NOW)
    assert report.notes[0] == "lands.csv is not beside shop.csv: land stays empty"


# ---- large files


@pytest.mark.parametrize("convert", [lambda file: file, as_parquet, as_ndjson, as_gzip])
@pytest.mark.parametrize("kept", [0, rows_module.KEPT])
def test_reading_in_chunks_changes_nothing(
    home: Home,
    csv: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    convert: Callable[[Path], Path],
    kept: int,
) -> None:
    file = convert(csv())
    mapping = changed("join", [{"file": "lands.csv", "on": "user", "columns": ["land"]}])
    mapping["columns"]["country"] = "land"
    if convert is as_parquet:
        mapping["goals"][0]["when"] = {"done": True}
    csv(["u1,CH", "u2,AT"], "user,land", "lands.csv")
    whole = create_home(tmp_path / "whole", environ={})
    at_once = import_file(whole, file, mapping, now=NOW)
    monkeypatch.setattr(reading_module, "CHUNK", 2)
    monkeypatch.setattr(rows_module, "KEPT", kept)
    monkeypatch.setattr(file_batches, "BATCH", 3)
    assert import_file(home, file, mapping, now=NOW) == at_once
    told = [
        {k: v for k, v in e.items() if k not in ("unit", "session")} for e in rows_of(home, schema.events)
    ]
    expected = [
        {k: v for k, v in e.items() if k not in ("unit", "session")} for e in rows_of(whole, schema.events)
    ]
    assert told == expected
    assert waterfall(home) == waterfall(whole)


def test_a_column_that_only_later_lines_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_module, "CHUNK", 2)
    lines = [
        {"user": "u1", "at": "2026-03-01T09:00:00Z", "arm": "A", "page": "old", "done": 1},
        {"user": "u2", "at": "2026-03-01T09:00:00Z", "arm": "B", "page": "new", "done": 1},
        {"user": "u3", "at": "2026-03-01T09:00:00Z", "arm": "B", "page": "new", "done": 1, "paid": 2.5},
    ]
    file = tmp_path / "shop.ndjson"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    found = [rows.batch(rows.start, rows.stop, str)[0]["value"] for rows in placed(file, MAPPING).placed()]
    assert found == [[None, None, None, None], [None, 2.5]]
    with pytest.raises(MappingError, match=r"goals\[1\].value: got 'payed'.*did you mean 'paid'"):
        placed(file, changed("goals.0.value", "payed"))


def test_whole_numbers_of_a_parquet_file_are_told_by_the_whole_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_module, "CHUNK", 2)
    table = pd.DataFrame({"user": [7.0, 8.0, None], "score": [7.0, 8.0, 9.5]})
    table = table.assign(
        at="2026-03-01T09:00:00Z", arm=["A", "B", "A"], page=["old", "new", "old"], done=1, paid=1
    )
    table.to_parquet(tmp_path / "shop.parquet")
    mapping = changed("columns.city", "score")
    chunks = list(placed(tmp_path / "shop.parquet", mapping).placed())
    assert [chunk.table["user"].dropna().tolist() for chunk in chunks] == [["7", "8"], []]
    assert [chunk.table["score"].tolist() for chunk in chunks] == [["7.0", "8.0"], ["9.5"]]


@pytest.mark.sizes(9_000, 60_000)
def test_an_import_that_is_killed_goes_on_where_it_stopped(tmp_path: Path, size: int) -> None:
    start = datetime(2026, 3, 1, tzinfo=UTC)
    lines = [
        f"u{n},{start + timedelta(seconds=n):%Y-%m-%dT%H:%M:%SZ},{'AB'[n % 2]},{('old', 'new')[n % 2]},{n % 3 // 2},{n}"
        for n in range(size)
    ]
    file, toml = tmp_path / "shop.csv", tmp_path / "shop.toml"
    file.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    toml.write_text(MAPPING_TEXT, encoding="utf-8")
    killed, whole = (create_home(tmp_path / name, environ={}) for name in ("killed", "whole"))
    program = (
        f"from cro_core.importing import file_batches; file_batches.BATCH = {size // 3};"
        "from cro_core.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "import", str(file), "--mapping", str(toml), "--home"]
    process = subprocess.Popen(
        [*command, str(killed.path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    stored = 0
    while process.poll() is None and not stored:
        time.sleep(0.02)
        with killed.db.read() as connection:
            stored = connection.scalar(sa.select(sa.func.count()).select_from(schema.events)) or 0
    process.kill()
    assert process.wait() == -signal.SIGKILL
    with killed.db.read() as connection:
        stored = connection.scalar(sa.select(sa.func.count()).select_from(schema.events)) or 0
    events = size * 4 // 3
    assert 0 < stored < events
    reports = []
    for home in (killed, whole):
        done = subprocess.run(
            [*command, str(home.path), "--json"], capture_output=True, text=True, check=True
        )
        reports.append(json.loads(done.stdout))
    assert reports[0]["resumed_at"] > 0
    assert reports[0]["accepted"] + stored == reports[1]["accepted"] == events
    now = datetime(2026, 3, 10, tzinfo=UTC)
    told = [evaluate(home, "shop", as_of=now).evidence for home in (killed, whole)]
    assert told[0].totals == told[1].totals
    assert told[0].waterfall == told[1].waterfall


# ---- the rules, a column at a time

RULES = Rules(
    {
        "shop": Experiment(
            "shop",
            "Shop",
            (Variant("old", "Old", is_control=True), Variant("new", "New")),
            Plan(goals=(Goal("order", primary=True),)),
            status=Status.COMPLETED,
            created_at=NOW,
            started_at=NOW,
        )
    },
    NOW,
    lambda text: f"hash of {text}",
    internal_hosts=("intern.example",),
)
ODD = st.sampled_from(
    [None, "", " ", 0, 1, True, 1.5, float("nan"), [], {}, "\x00", "x" * 300, "\ud800", " x "]
)
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "id": st.text(max_size=3) | st.integers() | ODD,
    "event_type": st.sampled_from(["exposure", "impression", "order", "other", "not a key"]) | ODD,
    "user_id": st.text(max_size=3) | st.integers() | ODD,
    "experiment_id": st.sampled_from(["shop", "none", None]) | ODD,
    "variant": st.sampled_from(["old", "new", "third", None]) | ODD,
    "timestamp": st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat)
    | st.sampled_from(["2026-03-01T09:00:00Z", "2026-03-01", "2026-03-10T00:09:00Z", "2026-03-10T00:11:00Z"])
    | st.integers()
    | ODD,
    "value": st.floats() | st.integers() | st.text(max_size=3) | ODD,
    "session_id": st.sampled_from(["s1", "s2"]) | ODD,
    "device_type": st.sampled_from(["Mobile", "desktop"]) | ODD,
    "city": st.text(max_size=2) | ODD,
    "country": st.sampled_from(["CH", "AT"]) | ODD,
    "url": st.sampled_from(["https://a.example/p?x=1", "https://www.intern.example/", "http://[", ""]) | ODD,
    "properties": st.just(None) | st.just({"a": 1}),
    "strange": st.just("x"),
}
GOOD: dict[str, Any] = {
    "id": "a",
    "event_type": "order",
    "user_id": "u",
    "experiment_id": "shop",
    "variant": "old",
    "timestamp": "2026-03-01T09:00:00Z",
    "value": 1.5,
}


@st.composite
def any_rows(draw: st.DrawFn) -> dict[str, list[Any]]:
    """Rows that are mostly good in most columns: a bad cell must not hide behind another one."""
    names = draw(st.sets(st.sampled_from(list(CELLS)), min_size=1) | st.just(set(GOOD)))
    size = draw(st.integers(0, 6))
    return {
        name: draw(
            st.lists(
                CELLS[name] if name not in GOOD else st.just(GOOD[name]) | CELLS[name],
                min_size=size,
                max_size=size,
            )
        )
        for name in sorted(names | (set(GOOD) if draw(st.booleans()) else set()))
    }


@pytest.mark.sizes(150, 500)
def test_columns_are_cleaned_exactly_as_rows_are(size: int) -> None:
    @settings(max_examples=size)
    @given(any_rows())
    def check(columns: dict[str, list[Any]]) -> None:
        items = [
            as_posted(dict(zip(columns, cells, strict=True))) for cells in zip(*columns.values(), strict=True)
        ]
        with patch("cro_core.ingest.cleaning.new_id", return_value="new"):
            assert clean_columns(columns, RULES) == clean(items, RULES)

    check()


def test_most_of_a_usual_file_is_cleaned_by_columns() -> None:
    columns = {name: [value] * 100 for name, value in GOOD.items()} | {"id": [str(n) for n in range(100)]}
    with patch("cro_core.ingest.cleaning_by_column.clean", wraps=clean) as one_by_one:
        events, rejections = clean_columns(columns, RULES)
    assert (len(events), rejections) == (100, [])
    assert sum(len(call.args[0]) for call in one_by_one.call_args_list) == 1


# ---- times


@pytest.mark.parametrize(
    ("text", "time", "expected"),
    [
        ("2026-03-01 09:30:00", {"zone": "Europe/Berlin"}, "2026-03-01T08:30:00"),
        ("2026-03-01", {"zone": "UTC"}, "2026-03-01T00:00:00"),
        ("2026-03-01T09:30:00+02:00", {}, "2026-03-01T07:30:00"),
        ("2026-03-01T09:30:00+02:00", {"zone": "America/New_York"}, "2026-03-01T07:30:00"),
        ("2026-03-01T09:30:00.123456Z", {}, "2026-03-01T09:30:00.123456"),
        ("01.03.2026 9:30", {"zone": "Europe/Berlin", "format": "%d.%m.%Y %H:%M"}, "2026-03-01T08:30:00"),
        ("01.03.2026 9:30 -0500", {"format": "%d.%m.%Y %H:%M %z"}, "2026-03-01T14:30:00"),
        ("1772355600", {"format": "seconds"}, "2026-03-01T09:00:00"),
        ("1772355600.5", {"format": "seconds"}, "2026-03-01T09:00:00.500000"),
        ("1772355600123", {"format": "milliseconds"}, "2026-03-01T09:00:00.123000"),
        ("1772355600123456", {"format": "microseconds"}, "2026-03-01T09:00:00.123456"),
        ("2025-10-26 02:30:00", {"zone": "Europe/Berlin"}, "2025-10-26T00:30:00"),  # twice: the first pass
        ("2025-03-30 02:30:00", {"zone": "Europe/Berlin"}, "2025-03-30T01:00:00"),  # skipped: the change
    ],
)
def test_times(csv: Callable[..., Path], text: str, time: Any, expected: str) -> None:
    file = csv([f"u1,{text},A,old,1,1", f"u2,{text},B,new,0,"])
    stream = placed(file, changed("time", time))
    assert stream.started_at.replace(tzinfo=None).isoformat() == expected
    (rows,) = stream.placed()
    columns, _ = rows.batch(0, 1, str)
    assert datetime.fromisoformat(columns["timestamp"][0]) == stream.started_at


@pytest.mark.parametrize(
    ("text", "time", "told"),
    [
        (
            "2026-03-01 09:30:00",
            {},
            "time.zone: got nothing, and columns.time holds '2026-03-01 09:30:00' without a zone",
        ),
        ("01/03/2026", {"zone": "UTC"}, "columns.time: got '01/03/2026'; wanted ISO 8601.*set time.format"),
        ("2026-03-01", {"zone": "UTC", "format": "%d/%m/%Y"}, "wanted %d/%m/%Y; correct time.format"),
        ("2026-03-01", {"zone": "Europe/Berln"}, "time.zone: .*Europe/Berln"),
        ("2026-03-01", {"format": "second"}, "time.format: got 'second'.*did you mean 'seconds'"),
        ("2026-03-01", {"zone": "UTC", "fixed": "2026-03-01"}, "time.fixed.*nothing beside columns.time"),
        ("1772355600", {"format": "milliseconds"}, "most rows are rejected because .*before the year 2000"),
    ],
)
def test_times_that_are_refused(csv: Callable[..., Path], text: str, time: Any, told: str) -> None:
    file = csv([f"u1,{text},A,old,1,1", f"u2,{text},B,new,0,"])
    with pytest.raises(MappingError, match=told):
        placed(file, changed("time", time))


def test_rows_without_a_usable_time_are_rejected_one_by_one(csv: Callable[..., Path]) -> None:
    bad = [
        "u5,,A,old,0,",
        "u6,soon,A,old,0,",
        "u7,1999-12-31T00:00:00Z,A,old,0,",
        "u8,2026-03-11T00:00:00Z,A,old,0,",
    ]
    stream = placed(csv([*ROWS, *bad]), MAPPING)
    assert stream.rejected_by_reason == {
        "the time (column at) is empty or cannot be read": 2,
        "breaks the rule: page of the arm": 1,
        "the time (column at) is before the year 2000": 1,
        "the time (column at) is in the future": 1,
    }


def test_one_fixed_time_and_no_units(home: Home, csv: Callable[..., Path]) -> None:
    mapping = changed("time", {"fixed": "2026-02-01T00:00:00", "zone": "Europe/Berlin"})
    mapping["columns"] = {"variant": "arm"}
    report = import_file(home, csv(), mapping, now=NOW)
    assert (report.units, report.repeated_exposures) == (5, 0)
    assert report.started_at == report.ended_at == datetime(2026, 1, 31, 23, tzinfo=UTC)
    assert waterfall(home) == {"rejected": 1, "counted_exposure": 5, "counted_goal": 2}
    with pytest.raises(MappingError, match=r"columns\.time: got one fixed time"):
        import_file(home, csv(), mapping, now=NOW, as_live=True)


def test_row_numbers_are_other_visitors_in_another_experiment(home: Home, csv: Callable[..., Path]) -> None:
    for name in ("first", "second"):
        mapping = changed("experiment.id", name) | {"columns": {"variant": "arm", "time": "at"}}
        import_file(home, csv(), mapping, now=NOW)
    units = {(e["experiment_id"], e["unit"]) for e in rows_of(home, schema.exposures)}
    assert len({unit for _, unit in units}) == len(units) == 10


def test_a_goal_with_a_time_of_its_own(home: Home, csv: Callable[..., Path]) -> None:
    rows = [
        "u1,2026-03-01T09:00:00Z,A,old,1,2026-03-01T08:00:00Z",
        "u2,2026-03-01T09:00:00Z,A,old,1,2026-03-01T09:00:00Z",
        "u3,2026-03-01T09:00:00Z,B,new,1,2026-03-03T09:00:00Z",
        "u4,2026-03-01T09:00:00Z,B,new,1,",
    ]
    file = csv(rows, "user,at,arm,page,done,ordered")
    goal = {"name": "order", "when": {"done": 1}, "time": "ordered", "primary": True}
    mapping = changed("goals", [goal])
    import_file(home, file, mapping, now=NOW)
    assert waterfall(home) == {"rejected": 1, "before_exposure": 1, "counted_exposure": 4, "counted_goal": 2}
    mapping["plan"] = {"shares": "equal", "window_hours": 24, "goal_at_exposure": False}
    import_file(home, file, mapping, now=NOW, replace_former=True)
    steps = {"rejected": 1, "before_exposure": 2, "out_of_window": 1, "counted_exposure": 4}
    assert waterfall(home) == steps


# ---- conditions


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"n": 1}, [True, True, False, False, False]),
        ({"n": "1"}, [True, False, False, False, False]),
        ({"n": [1, 2]}, [True, True, True, False, False]),
        ({"n": {"min": 2}}, [False, False, True, False, False]),
        ({"n": {"min": 1, "max": 1.5}}, [True, True, False, False, False]),
        ({"n": {"not": 1}}, [False, False, True, True, True]),
        ({"n": {"not": ["x", 2]}}, [True, True, False, False, True]),
        ({"n": {"present": True}}, [True, True, True, True, False]),
        ({"n": {"present": False}}, [False, False, False, False, True]),
        ({"b": True}, [True, True, False, False, False]),
        ({"b": False}, [False, False, True, True, False]),
        ({"d": {"min": "2026-03-02"}}, [False, True, True, False, False]),
        ({"n": 1, "b": True, "d": {"max": "2026-03-01"}}, [True, False, False, False, False]),
        ([{"n": "x"}, {"n": 2}], [False, False, True, True, False]),
    ],
)
def test_conditions(condition: Any, expected: list[bool]) -> None:
    table = pd.DataFrame(
        {
            "n": ["1", "1.0", "2", "x", None],
            "b": ["true", "1", "False", "0", None],
            "d": ["2026-03-01", "2026-03-02", "2026-03-03", None, ""],
        },
        dtype="str",
    )
    assert holds(table, parse_cases(condition)).tolist() == expected


def test_dates_may_be_written_bare() -> None:
    condition = tomllib.loads("only = { d = { not = 2020-07-03 } }")["only"]
    table = pd.DataFrame({"d": ["2020-07-03", "2020-07-04"]}, dtype="str")
    assert holds(table, parse_cases(condition)).tolist() == [False, True]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda s: st.lists(s) | st.dictionaries(st.text(), s),
    )
)
def test_no_condition_fails_in_an_unnamed_way(raw: Any) -> None:
    assert "wanted" in (complaint(raw) or "wanted")


def complaint(raw: Any) -> str | None:
    try:
        parse_cases(raw)
    except ValueError as error:
        return str(error)
    return None


# ---- mappings that are refused


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("experiment.id", "my shop", "experiment.id: got 'my shop'; wanted 1 to 100 of the characters"),
        ("experiment.id", None, "experiment.id: got nothing; wanted a value"),
        ("experiment.nmae", "x", "experiment.nmae: got a key that does not exist.*did you mean 'name'"),
        ("colums", {}, "colums: got a key that does not exist.*did you mean 'columns'"),
        (
            "table.layout",
            "event",
            "table.layout: got 'event'; wanted 'visitors' or 'events'; did you mean 'events'",
        ),
        ("table.delimiter", ";;", "table.delimiter: got ';;'; wanted"),
        ("table.encoding", "utf-99", "table.encoding: got 'utf-99'; wanted the name of an encoding"),
        ("columns.variant", None, "columns.variant: got nothing"),
        ("columns.unit", 3, "columns.unit: got 3; wanted a valid string"),
        ("columns.time", [], r"columns.time: got \[\]; wanted the name of a column"),
        ("columns.time", None, "columns.time: got nothing; wanted the column of the time.*set fixed"),
        ("variants", [MAPPING["variants"][0]], "variants: got .*at least 2"),
        ("variants.1.key", "old", r"variants\[2\].key: got 'old'; wanted distinct keys"),
        ("variants.1.values", "A", "variants.values: got 'A' twice"),
        ("variants.1.values", [["B"]], r"variants\[2\].values: got \['B'\]; wanted a text, a number"),
        ("variants.1.control", True, "variants.control: got 2 controls; wanted exactly 1"),
        ("variants.0.control", False, "variants.control: got 0 controls.*one of old, new"),
        ("variants.0.control", "yes", r"variants\[1\].control: got 'yes'"),
        ("experiment.ignored_variants", ["B"], "variants.values: got 'B' twice"),
        ("goals", [], "goals: got .*at least 1"),
        ("goals.0.primary", False, "goals.primary: got no primary goal.*one of order"),
        ("goals.0.name", "exposure", r"goals\[1\].name: got 'exposure'"),
        ("goals.0.weight", -1, r"goals\[1\].weight: got -1; wanted greater than or equal to 0"),
        ("goals.0.when", "done", r"goals\[1\].when: got 'done'; wanted column names with values"),
        ("goals.0.when", {}, r"goals\[1\].when: got {}"),
        ("goals.0.when", {"done": {"mni": 1}}, r"goals\[1\].when: got done = { mni.*did you mean 'min'"),
        ("goals.0.when", {"done": {"present": "yes"}}, "wanted true or false"),
        ("goals.0.when", {"done": {"min": True}}, "wanted a number or a date"),
        ("goals.0.when", {"done": []}, "wanted at least one value"),
        ("goals.0.when", {"done": {"min": [1]}}, r"goals\[1\].when: got \[1\]; wanted a text"),
        ("plan.shares", None, "plan.shares: got nothing"),
        ("plan.shares", "fair", "plan.shares: got 'fair'; wanted a table such as"),
        ("plan.shares", {"old": 0.5, "new": 0.4}, "plan.shares: got shares that sum to 0.9"),
        ("plan.shares", {"old": 0.5, "nwe": 0.5}, "plan.shares: got shares of old, nwe.*did you mean 'new'"),
        ("plan.shares", {"old": True, "new": False}, "plan.shares: got"),
        ("plan.base_rate", 12, "plan.base_rate: got 12; wanted less than 1"),
        ("plan.planned_units", 10.5, "plan.planned_units: got 10.5; wanted"),
        ("plan.goal_at_exposure", False, "plan.goal_at_exposure: got false"),
        ("valid.0.any", None, r"valid\[1\].any: got nothing"),
    ],
)
def test_mappings_that_are_refused(path: str, value: Any, told: str) -> None:
    with pytest.raises(MappingError, match=told) as refused:
        parse_mapping(changed(path, value), "shop.toml")
    assert str(refused.value).startswith("shop.toml: ")
    assert refused.value.field


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (
            "columns.unit",
            "usr",
            "columns.unit: got 'usr'; wanted a column of shop.csv .*; did you mean 'user'",
        ),
        ("goals.0.when", {"dnoe": 1}, r"goals\[1\].when: got 'dnoe'.*did you mean 'done'"),
        ("goals.0.value", "payed", r"goals\[1\].value: got 'payed'.*did you mean 'paid'"),
        ("valid.0.any", {"paeg": "old"}, r"valid\[1\].any: got 'paeg'.*did you mean 'page'"),
        ("only", {"country": "US"}, "only: got 'country'"),
        (
            "variants.1.values",
            "C",
            r"variants\[2\].values: got 'C'; wanted a value of column 'arm' .*\(A, B\)",
        ),
        ("variants.0.values", "a", r"variants\[1\].values: got 'a'.*did you mean 'A'"),
        ("only", {"page": "none"}, r"variants\[1\].values"),
    ],
)
def test_mappings_that_do_not_fit_the_file(
    csv: Callable[..., Path], path: str, value: Any, told: str
) -> None:
    with pytest.raises(MappingError, match=told):
        placed(csv(), changed(path, value))


def test_a_value_that_no_variant_takes_stops_the_import(csv: Callable[..., Path]) -> None:
    file = csv([*ROWS, "u9,2026-03-01T09:00:00Z,C,new,0,"])
    with pytest.raises(
        MappingError, match=r"variants.values: got 1 rows of shop.csv with 'C'.*ignored_variants"
    ):
        placed(file, MAPPING)
    assert placed(file, changed("experiment.ignored_variants", ["C"])).left_out == {
        "of an ignored variant": 1
    }


def test_no_exposure_at_all(csv: Callable[..., Path]) -> None:
    mapping = parse_mapping(changed("valid.0.any", {"page": "none"}), "shop.toml")
    with pytest.raises(
        MappingError, match="exposures: got none; most rows are rejected because breaks the rule"
    ):
        prepare(read(csv(), mapping), mapping, NOW)


def test_an_event_log_needs_exposures_and_units() -> None:
    with pytest.raises(MappingError, match=r"exposure\.when: got nothing"):
        parse_mapping(changed("table.layout", "events"), "log")
    mapping = changed("exposure", {"when": {"page": "old"}}) | {"table": {"layout": "events"}}
    del mapping["columns"]["unit"]
    with pytest.raises(MappingError, match=r"columns\.unit: got nothing"):
        parse_mapping(mapping, "log")


def test_mappings_that_cannot_be_found_or_read(tmp_path: Path) -> None:
    with pytest.raises(
        MappingError, match=r"got 'ab_dat'; wanted a mapping that ships.*did you mean 'ab_data'"
    ):
        load_mapping("ab_dat")
    broken = tmp_path / "broken.toml"
    broken.write_text("[experiment\n", encoding="utf-8")
    with pytest.raises(MappingError, match=r"broken\.toml: TOML: got .*line 1"):
        load_mapping(str(broken))


def test_shipped_mappings() -> None:
    assert shipped() == ["ab_data", "udacity_homepage"]
    assert [load_mapping(name).experiment.id for name in shipped()] == shipped()


def test_the_mapping_of_ab_data_on_a_few_rows(home: Home, csv: Callable[..., Path], tmp_path: Path) -> None:
    rows = [
        "1,2017-01-02 13:42:05.378582,control,old_page,0",
        "2,2017-01-02 14:00:00,treatment,new_page,1",
        "3,2017-01-02 15:00:00,treatment,old_page,1",
        "2,2017-01-03 09:00:00,treatment,new_page,0",
    ]
    file = csv(rows, "user_id,timestamp,group,landing_page,converted", "ab.csv")
    (tmp_path / "countries.csv.gz").write_bytes(gzip.compress(b"user_id,country\n1,US\n2,UK\n3,CA\n"))
    report = import_file(home, file, "ab_data", now=NOW)
    assert report.rejected == {"breaks the rule: the page shown is the page of the variant": 1}
    assert waterfall(home, "ab_data") == {
        "rejected": 1,
        "repeat_exposure": 1,
        "counted_exposure": 2,
        "counted_goal": 1,
    }
    countries = {e["variant"]: e["country"] for e in rows_of(home, schema.exposures)}
    assert countries == {"control": "US", "treatment": "UK"}


def test_the_mapping_of_udacity_homepage_on_a_few_rows(home: Home, csv: Callable[..., Path]) -> None:
    rows = [
        "2016-09-24 17:42:27.839496,804196,experiment,view",
        "2016-09-24 19:19:03.542569,434745,control,view",
        "2016-09-24 19:19:05,434745,control,click",
    ]
    import_file(home, csv(rows, "timestamp,id,group,action"), "udacity_homepage", now=NOW)
    totals = evaluate(home, "udacity_homepage", as_of=NOW).evidence.totals
    assert [(t.units, t.conversions) for t in totals] == [(1, 1), (1, 0)]


# ---- the command


def run(home: Home, *arguments: str) -> Any:
    """What ``cro import ... --json`` prints."""
    done = CliRunner().invoke(
        app, ["import", *arguments, "--home", str(home.path), "--json"], catch_exceptions=False
    )
    return json.loads(done.stdout)


def test_the_command_replaces_only_when_told_to(home: Home, written: Path) -> None:
    mapping = ("--mapping", str(written / "newsletter.toml"))
    assert run(home, str(written / "visitors.csv"), *mapping)["accepted"] == 7
    shorter = doc_parts()["visitors.csv"].splitlines()
    (written / "visitors.csv").write_text("\n".join(shorter[:-2]), encoding="utf-8")
    with pytest.raises(Conflict, match="--replace"):
        run(home, str(written / "visitors.csv"), *mapping)
    report = run(home, str(written / "visitors.csv"), *mapping, "--replace")
    assert (report["rows"], report["accepted"], report["first_rejected"]) == (
        5,
        6,
        {"breaks the rule: the form shown is the form of the arm": 3},
    )


def test_the_command_replays_as_live(home: Home, written: Path) -> None:
    mapping = written / "newsletter.toml"
    mapping.write_text(doc_parts()["newsletter.toml"] + "planned_units = 4\n", encoding="utf-8")
    report = run(home, str(written / "visitors.csv"), "--mapping", str(mapping), "--as-live")
    # Four visitors come within a week: new ones count for that week, and there is no window after it.
    assert (report["experiment_id"], report["replay"]["hour"]) == ("newsletter-live", 167)
    assert [v["units"] for v in report["replay"]["variants"]] == [2, 2]


# ---- rows


def test_empty_units_variants_and_bad_amounts(csv: Callable[..., Path]) -> None:
    bad = [
        ",2026-03-01T09:00:00Z,A,old,0,",
        "u6,2026-03-01T09:00:00Z,,old,0,",
        "u7,2026-03-01T09:00:00Z,B,new,1,many",
        "u8,2026-03-01T09:00:00Z,B,new,1,inf",
        "NA,2026-03-01T09:00:00Z,B,new,1,1",
    ]
    stream = placed(csv([*ROWS, *bad]), changed("table.missing", ["NA"]))
    assert stream.rejected_by_reason == {
        "the unit (column user) is empty": 2,
        "the amount of goal order (column paid) is not a number": 2,
        "breaks the rule: page of the arm": 1,
        "the variant (column arm) is empty": 1,
    }
    assert stream.units == 5  # u7 and u8 keep their exposures


def test_only_a_part_of_the_file(csv: Callable[..., Path]) -> None:
    stream = placed(csv(), changed("only", {"at": {"max": "2026-03-01T12"}}))
    assert (stream.left_out, stream.units) == ({"not asked for by [only]": 3}, 3)


def test_ids_are_the_experiment_the_row_and_the_type(csv: Callable[..., Path]) -> None:
    (rows,) = placed(csv(), MAPPING).placed()
    columns, rejections = rows.batch(2, 4, str)
    assert columns["id"] == ["shop:00000003:exposure", "shop:00000003:order"]
    assert columns["value"] == [None, 20.0]
    assert [rejection.index for rejection in rejections] == [4]


def test_all_context_reaches_the_event(home: Home, csv: Callable[..., Path]) -> None:
    names = ["session", "device", "city", "country", "asset", "occasion", "url"]
    cells = "s1,Mobile,Bern,CH,hero.mp4,wedding,https://a.example/p?mail=x"
    file = csv([ROWS[0] + "," + cells, ROWS[1] + "," * 7], ",".join([HEADER, *names]))
    mapping = changed() | {"columns": MAPPING["columns"] | {name: name for name in names}}
    import_file(home, file, mapping, now=NOW)
    event = rows_of(home, schema.events)[0]
    kept = [event[n] for n in ("device", "city", "country", "asset_id", "occasion", "url")]
    assert kept == ["mobile", "Bern", "CH", "hero.mp4", "wedding", "https://a.example/p"]
    assert len(event["session"]) == 32


# ---- as live


def live_rows(days: int, *, better: bool = False, an_hour: int = 4) -> list[str]:
    """Visitors at a steady pace, every fourth converts; of the new arm every second where it is better."""
    start, rows = datetime(2026, 1, 1, tzinfo=UTC), []
    for n in range(days * 24 * an_hour):
        arm, page = (("A", "old"), ("B", "new"))[n % 2]
        done = n % 8 in ((1, 2, 5) if better else (1, 2))
        at = (start + timedelta(hours=n / an_hour)).isoformat()
        rows.append(f"v{n},{at},{arm},{page},{int(done)},")
    return rows


@pytest.mark.parametrize(
    ("planned", "hour", "each"),
    [
        (410, 167, 336),
        pytest.param(700, 335, 672, marks=pytest.mark.slow),
        pytest.param(9_000, 335, 672, marks=pytest.mark.slow),
    ],
)
def test_as_live_ends_after_the_whole_weeks_that_the_planned_size_takes(
    tmp_path: Path, csv: Callable[..., Path], planned: int, hour: int, each: int
) -> None:
    """At 96 visitors a day; the settings allow two weeks."""
    home = create_home(tmp_path / "patient", environ={"CRO_STATISTICS__FUTILITY": "false"})
    mapping = changed("plan", {"shares": "equal", "planned_units": planned})
    report = import_file(home, csv(live_rows(15)), mapping, now=NOW, as_live=True)
    replay = report.replay
    assert replay is not None
    assert report.experiment_id == "shop-live"
    assert (replay.hour, replay.planned_units, replay.verdict) == (hour, planned, "inconclusive")
    assert [(v["variant"], v["units"], v["conversions"]) for v in replay.variants] == [
        ("old", each, each // 4),
        ("new", each, each // 4),
    ]
    assert f"ends in hour {hour}" in report.text


def test_as_live_decides_as_the_cycle_would_have(home: Home, csv: Callable[..., Path]) -> None:
    mapping = changed("plan", {"shares": "equal", "planned_units": 800})
    file = csv(live_rows(10, better=True))
    report = import_file(home, file, mapping, now=NOW, as_live=True)
    replay = report.replay
    assert replay is not None
    assert replay.verdict == "ship"
    assert replay.hour == 167  # every weekday has been seen then
    taken = rows_of(home, schema.looks)
    assert taken[-1]["as_of"] == replay.decided_at
    assert [look["number"] for look in taken] == list(range(1, len(taken) + 1))
    crossed = [look["units"] >= 200 and look["z"][0] >= look["critical_z"] for look in taken]
    assert crossed[-1]
    assert sum(crossed) > 24
    # The stored experiment says the same whenever it is asked, and again when it is imported again.
    assert evaluate(home, "shop-live", as_of=NOW).winner == "new"
    stored = [rows_of(home, table) for table in schema.metadata.sorted_tables]
    again = import_file(home, file, mapping, now=NOW, as_live=True)
    assert (again.unchanged, again.replay) == (True, replay)
    assert [rows_of(home, table) for table in schema.metadata.sorted_tables] == stored


def test_a_replay_that_was_cut_off_begins_anew(
    home: Home, csv: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping, file = changed("plan", {"shares": "equal", "planned_units": 200}), csv(live_rows(3, better=True))

    def failing(*args: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(replay_hours.look_states, "add", failing)
        with pytest.raises(OSError, match="disk full"):
            import_file(home, file, mapping, now=NOW, as_live=True)
    resumed = import_file(home, file, mapping, now=NOW, as_live=True)
    whole = import_file(create_home(tmp_path / "whole", environ={}), file, mapping, now=NOW, as_live=True)
    assert resumed.replay == whole.replay


def test_a_replayed_experiment_can_be_replaced(home: Home, csv: Callable[..., Path]) -> None:
    mapping = changed("plan", {"shares": "equal", "planned_units": 300})
    import_file(home, csv(live_rows(4)), mapping, now=NOW, as_live=True)
    file = csv(live_rows(4, better=True))
    report = import_file(home, file, mapping, now=NOW, as_live=True, replace_former=True)
    assert report.replay is not None
    assert report.replay.verdict == "ship"
    assert [e["id"] for e in rows_of(home, schema.experiments)] == ["shop-live"]


def uneven_rows(days: int) -> list[str]:
    """Seven visitors of the old arm to three of the new, 3 % converting; the first of the new arm a little more."""
    start, rows = datetime(2026, 1, 1, tzinfo=UTC), []
    for n in range(days * 24 * 5):
        arm, page = ("B", "new") if n % 10 in (2, 5, 8) else ("A", "old")
        done = n % 100 in (0, 1, 2, 5) and (arm == "A" or n < 900)
        rows.append(f"v{n},{(start + timedelta(hours=n / 5)).isoformat()},{arm},{page},{int(done)},")
    return rows


@pytest.mark.parametrize("as_live", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_few_conversions_of_unequal_shares_are_left_to_the_exact_test(
    home: Home, csv: Callable[..., Path], as_live: bool
) -> None:
    """By the settings the new arm of a running experiment would expect far more, but the file is known."""
    mapping = changed("plan", {"shares": {"old": 0.7, "new": 0.3}})
    report = import_file(home, csv(uneven_rows(16)), mapping, now=NOW, as_live=as_live)
    evidence = evaluate(home, report.experiment_id, as_of=NOW).evidence
    assert evidence.exact is not None
    assert evidence.exact.decides
    assert evidence.exact.expected is not None
    assert 15 < evidence.exact.expected < 30
    (row,) = evidence.exact.comparisons
    assert (row.share, row.conversions) == (0.3, 18)
    assert evidence.comparisons[0].critical_z is None
    even = import_file(home, csv(ROWS), changed("experiment", {"id": "even"}), now=NOW)
    beside = evaluate(home, even.experiment_id, as_of=NOW).evidence.exact
    assert beside is not None
    assert not beside.decides


@pytest.mark.sizes(7, 14)
def test_as_live_stands_beside_the_finished_experiment(
    tmp_path: Path, csv: Callable[..., Path], size: int
) -> None:
    home = create_home(tmp_path / "home", environ={"CRO_AUTOMATION__TEST_DURATION_MAX_DAYS": str(size)})
    rows = live_rows(1)
    import_file(home, csv(rows), MAPPING, now=NOW)
    before = waterfall(home)
    replay = import_file(home, csv(rows), MAPPING, now=NOW, as_live=True).replay
    assert replay is not None
    assert replay.hour == size * 24 - 1  # too few visitors ever: the horizon ends it
    assert replay.verdict == "inconclusive"
    assert waterfall(home) == before


def test_as_live_holds_a_winner_back_whose_effect_fades(home: Home, csv: Callable[..., Path]) -> None:
    """New visitors count for the week that the winner is held back, as they do on a live site."""
    start, rows = datetime(2026, 1, 5, tzinfo=UTC), []
    for n in range(16 * 400):
        day, new = n // 400, n % 2
        rate = 0.1 if not new or day > 5 else (0.45, 0.3, 0.2, 0.14, 0.12, 0.1)[day]
        done = (n * 0.6180339887) % 1 < rate
        rows.append(
            f"v{n},{(start + timedelta(days=n / 400)).isoformat()},{'AB'[new]},{('old', 'new')[new]},{int(done)},"
        )
    mapping = changed("plan", {"shares": "equal", "planned_units": 2_000})
    report = import_file(home, csv(rows), mapping, now=NOW, as_live=True)
    assert report.replay is not None
    assert (report.replay.hour, report.replay.verdict) == (359, "inconclusive")
    assert "faded" in report.replay.text
    with home.db.read() as connection:
        stored = experiments.get(connection, "shop-live")
    assert stored.epochs[-1].ends_at == start + timedelta(days=15)
    assert evaluate(home, "shop-live", as_of=NOW).text == report.replay.text


# ---- the plan


def test_unknown_shares_are_a_state_not_an_alarm(home: Home, csv: Callable[..., Path]) -> None:
    lopsided = [f"w{n},2026-03-01T09:00:00Z,A,old,{n % 2},1" for n in range(900)] + ROWS
    import_file(home, csv(lopsided), changed("plan.shares", "unknown"), now=NOW)
    assert evaluate(home, "shop", as_of=NOW).evidence.srm.status == "unknown_shares"
    import_file(
        home, csv(lopsided), changed("plan.shares", {"old": 0.6, "new": 0.4}), now=NOW, replace_former=True
    )
    assert evaluate(home, "shop", as_of=NOW).verdict is Verdict.INVALID
    import_file(
        home,
        csv(lopsided),
        changed("plan.shares", {"old": 0.998, "new": 0.002}),
        now=NOW,
        replace_former=True,
    )
    assert evaluate(home, "shop", as_of=NOW).evidence.srm.status == "ok"


def test_the_plan_takes_the_mappings_word_over_the_settings(home: Home, csv: Callable[..., Path]) -> None:
    mapping = changed("plan", {"shares": "equal", "base_rate": 0.12, "mde": 0.2})
    mapping["time"] = {"zone": "Europe/Berlin"}
    import_file(home, csv(), mapping, now=NOW)
    with home.db.read() as connection:
        plan = experiments.get(connection, "shop").plan
    assert (plan.base_rate, plan.mde, plan.zone) == (0.12, 0.2, "Europe/Berlin")
    assert plan.units == plan_size(0.12, 0.2).units


# ---- the documentation


def test_no_snippet_of_the_documentation_is_left_out() -> None:
    assert len(re.findall(r"^```\w+$", DOCS, re.MULTILINE)) == len(doc_parts())


@pytest.mark.parametrize(
    ("file", "mapping"),
    [("visitors.csv", "newsletter"), ("log.ndjson", "checkout"), ("leaflets", "leaflet")],
)
def test_the_examples_of_the_documentation_run_as_they_stand(
    home: Home, written: Path, file: str, mapping: str
) -> None:
    report = import_file(home, written / file, written / f"{mapping}.toml", now=NOW)
    assert report.text == doc_parts()[f"{mapping}.txt"].rstrip()
    waterfall(home, report.experiment_id)


def test_the_documented_commands_run_as_they_stand(commanded: tuple[Path, str]) -> None:
    decision = json.loads(commanded[1])
    assert [(t["variant"], t["units"], t["conversions"]) for t in decision["evidence"]["totals"]] == [
        ("old", 2, 1),
        ("new", 2, 1),
    ]
    assert (decision["verdict"], decision["evidence"]["srm"]["units"]) == ("inconclusive", [2, 2])


def test_the_documented_outcomes_run_as_they_stand(commanded: tuple[Path, str]) -> None:
    folder, _ = commanded
    assert run_part("outcome-commands", folder) == doc_parts()["bookings.txt"]
    told = evaluate(open_home(folder / "my-site", environ={}), "newsletter", as_of=LATER).evidence.outcomes
    assert [(a.leads, a.outcomes, a.value) for a in told[0].arms] == [
        (1, 1, 800.0),
        (1, 1, 1200.0),
    ]


def test_the_example_with_several_files_counts_what_it_says(home: Home, written: Path) -> None:
    import_file(home, written / "leaflets", written / "leaflet.toml", now=NOW)
    evidence = evaluate(home, "leaflet", as_of=NOW).evidence
    totals = [(t.variant, t.units, t.conversions, t.value_sum) for t in evidence.totals]
    assert totals == [("none", 2, 1, 20.0), ("red", 2, 1, 75.5), ("blue", 2, 1, 12.0)]
    assert evidence.totals[1].score_sum == 1 + 3
    assert {e["country"] for e in rows_of(home, schema.exposures)} == {"CH", "AT"}


def test_every_documented_condition_is_understood() -> None:
    table = DOCS.split("| written | holds where the cell |")[1].split("\n\n")[0]
    shown = [re.findall(r"`([^`]+)`", row.split("|")[1]) for row in table.splitlines()[2:]]
    assert [len(codes) for codes in shown] == [1, 1, 2, 1, 1, 1, 2, 1]
    for code in (code for codes in shown for code in codes):
        ((check,),) = parse_cases(tomllib.loads(f"when = {{ cell = {code} }}")["when"])
        assert check != Check("cell"), code
    in_text = re.search(r"Conditions\nA table .*?`(\{.*?\})`.*?`(\[.*?\])`", DOCS, re.DOTALL)
    assert in_text is not None
    both, either = (parse_cases(tomllib.loads(f"when = {code}")["when"]) for code in in_text.groups())
    assert ([len(case) for case in both], [len(case) for case in either]) == ([2], [1, 1])


def test_the_documentation_names_every_key() -> None:
    from cro_core.importing.mapping import ImportMapping

    for name, info in ImportMapping.model_fields.items():
        if name == "source":
            continue
        assert re.search(rf"^### `\[+{name}\]+`", DOCS, re.MULTILINE), name
        parts = re.findall(r"(\w+Part)\b", str(info.annotation))
        section = (
            DOCS.split(f"[{name}]", 1)[1]
            if not parts
            else re.split(rf"### `\[+{name}\]+`", DOCS)[1].split("\n### ")[0]
        )
        for part in parts:
            model = getattr(sys.modules["cro_core.importing.mapping"], part)
            for key in model.model_fields:
                assert f"`{key}`" in section, f"{name}.{key}"


def test_the_package_stays_light() -> None:
    code = "import sys, cro_core, cro_core.cli; print([m for m in ('pandas', 'numpy', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
