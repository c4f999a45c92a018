"""Evidence to JSON and back, and decisions that an earlier version stored.

``fixtures/earlier_home`` is the store, as SQL text, of a small simulated home that version 0.1.0 made while evidence
was still JSON everywhere: a winner that was shipped, a broken guardrail, a broken split, an undecided test with moving
shares, one ended by hand, one that runs, an imported table and what became of leads. Its visitors are made up.
"""

import json
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from numpy.random import default_rng
from typer.testing import CliRunner

from cro_core import reporting
from cro_core.cli import app
from cro_core.decision.decide import decide
from cro_core.domain import Cell, Experiment, Goal, Guardrail, Plan, Variant, Verdict
from cro_core.evidence import (
    AlwaysValid,
    Comparison,
    Decision,
    Evidence,
    Family,
    GuardrailState,
    Look,
    LooksTaken,
    SplitReport,
    Step,
    TotalsWithRate,
)
from cro_core.home import Home, open_home, set_clock
from cro_core.planning import plans
from cro_core.rendering.decision_text import decision_text
from cro_core.storage import decisions, experiments, schema
from cro_core.storage.decisions import from_record, to_record
from cro_core.storage.evidence_json import evidence_from_json, evidence_to_json
from cro_core.workflows.evaluate import evaluate
from cro_core.workflows.orchestrate import orchestrate
from cro_core.workflows.replay import replay
from cro_core.workflows.write_report import weekly_report
from service.app import create_app

EARLIER = Path(__file__).parent / "fixtures" / "earlier_home"
NOW = datetime(2026, 3, 7, 12, tzinfo=UTC)
START = datetime(2026, 3, 2, tzinfo=UTC)
STORED = {
    "hero": Verdict.SHIP,
    "cta": Verdict.KEEP_CONTROL,
    "gallery": Verdict.INVALID,
    "menu": Verdict.INCONCLUSIVE,
}


@pytest.fixture
def earlier(tmp_path: Path) -> Home:
    """The home that an earlier version made, restored."""
    folder = tmp_path / "earlier"
    (folder / "data").mkdir(parents=True)
    shutil.copy(EARLIER / "cro-config.json", folder)
    store = sqlite3.connect(folder / "data" / "cro.sqlite")
    store.executescript((EARLIER / "store.sql").read_text(encoding="utf-8"))
    store.close()
    set_clock(open_home(folder, environ={}), NOW)
    return open_home(folder, environ={"CRO_SALT": "bm9ib2R5IGlzIGhhc2hlZCBoZXJl", "CRO_ADMIN_KEY": "unused"})


def records(home: Home) -> dict[str, dict[str, Any]]:
    """The stored JSON of every decision, by experiment."""
    with home.db.read() as connection:
        rows = connection.execute(sa.select(schema.decisions.c.experiment_id, schema.decisions.c.record))
        return {row.experiment_id: row.record for row in rows}


def leaves(value: Any, place: str = "") -> dict[str, Any]:
    """What stands at each place of a nested value."""
    if isinstance(value, (dict, list)):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: leaf for name, part in parts for key, leaf in leaves(part, f"{place}.{name}").items()}
    return {place: value}


def about(values: dict[str, Any]) -> dict[str, Any]:
    """The values, of which other processors may round the floats otherwise."""
    return {key: pytest.approx(v, rel=1e-9) if isinstance(v, float) else v for key, v in values.items()}


class TestDecisionsOfAnEarlierVersion:
    def test_they_load_with_types(self, earlier: Home) -> None:
        with earlier.db.read() as connection:
            loaded = {d.experiment_id: d for d in decisions.latest(connection)}
            known = {key: experiments.get(connection, key) for key in loaded}
        assert {key: d.verdict for key, d in loaded.items()} == STORED
        for key, decision in loaded.items():
            evidence = decision.evidence
            assert (evidence.plan, evidence.epochs) == (known[key].plan, known[key].epochs)
            assert isinstance(evidence.look, Look)
            assert evidence.look.horizon_ends_at == known[key].horizon_ends_at
            assert isinstance(evidence.looks, LooksTaken)
            assert isinstance(evidence.splits, SplitReport)
            assert evidence.srm == evidence.splits.total
            assert isinstance(evidence.metrics, Family)
            assert {type(t) for t in evidence.totals} == {TotalsWithRate}
            assert {type(c) for c in evidence.comparisons} == {Comparison}
            assert {type(s) for s in evidence.waterfall} == {Step}
            assert evidence.store is not None
            assert evidence.measured is not None
        (broken, _) = loaded["cta"].evidence.guardrails or ()
        assert isinstance(broken, GuardrailState)
        assert broken.broken
        assert loaded["gallery"].evidence.splits.cause.own.alarm is False  # type: ignore[union-attr]
        (said,) = loaded["hero"].evidence.companion or ()
        assert isinstance(said, AlwaysValid)
        assert (loaded["menu"].evidence.guardrails, loaded["menu"].evidence.companion) == ((), None)

    def test_their_json_comes_back_to_the_letter(self, earlier: Home) -> None:
        for record in records(earlier).values():
            assert json.dumps(to_record(from_record(record))) == json.dumps(record)

    def test_they_are_taken_again(self, earlier: Home) -> None:
        with earlier.db.read() as connection:
            again = [replay(earlier, decision.id) for decision in decisions.latest(connection)]
        assert [replayed.text for replayed in again if not replayed.identical] == []

    def test_report_and_answers_are_made_from_them(self, earlier: Home) -> None:
        report = weekly_report(earlier, now=NOW)
        undecided = {"banner": Verdict.CONTINUE, "footer": None, "shop": None}
        assert {page.id: page.verdict for page in report.sheets} == STORED | undecided
        assert "“Film” won “hero”, +207 % conversions." in reporting.as_text(report).replace("\n", " ")
        pages = {page["id"]: page for page in json.loads(reporting.as_json(report))["sheets"]}
        stored = records(earlier)["hero"]["evidence"]
        shown, kept = pages["hero"]["contrasts"][0], stored["comparisons"][0]
        assert [shown[f"relative{end}"] for end in ("", "_low", "_high")] == [
            kept[f"stopped{end}"] for end in ("", "_low", "_high")
        ]
        assert pages["hero"]["arms"][1].items() <= stored["totals"][1].items()
        client = create_app(earlier).test_client()
        (winner,) = client.get("/api/cro/recent-winners").json["winners"]
        assert winner["comparison"] == kept
        listed = client.get("/api/cro/decisions").json["decisions"]
        assert {d["test_id"]: d["verdict"] for d in listed} == STORED

    def test_evaluating_gives_the_json_that_was_stored(self, earlier: Home) -> None:
        for key, record in records(earlier).items():
            asked = ["evaluate", key, "--as-of", record["as_of"], "--json", "--home", str(earlier.path)]
            printed = json.loads(CliRunner().invoke(app, asked, catch_exceptions=False).stdout)
            outcomes = printed["evidence"].pop("outcomes", None)
            assert (outcomes is not None) == (key in STORED)
            assert list(printed["evidence"]) == list(record["evidence"])
            for part in record["evidence"].keys() - {"store", "waterfall"}:  # the home has more events since
                assert leaves(printed["evidence"][part]) == about(leaves(record["evidence"][part]))
            assert decision_text(from_record(record)).startswith(record["text"])

    def test_the_cycle_goes_on_from_the_looks_it_left(self, earlier: Home) -> None:
        before = evaluate(earlier, "banner", as_of=NOW)
        report = orchestrate(earlier, now=NOW + timedelta(hours=1))
        assert (report.failures, [d.experiment_id for d in report.decisions]) == ((), ["banner"])
        taken = report.decisions[0].evidence.look
        assert taken is not None
        assert before.evidence.look is not None
        assert taken.number >= before.evidence.look.number


PLAN = Plan((Goal("lead", 100, True),), units=4_000, base_rate=0.03, companion=True)


def decided(counts: dict[tuple[int, str], tuple[int, int]], hours: float, plan: Plan = PLAN) -> Decision:
    """What these (units, conversions) by epoch and variant decide."""
    variants = tuple(Variant(key, key.upper(), is_control=key == "a") for key in "abc")
    experiment = plans.begin(Experiment("hero", "Hero", variants, plan, created_at=START), START)
    cells = [Cell(epoch, key, *count) for (epoch, key), count in counts.items()]
    return decide(experiment, cells, as_of=START + timedelta(hours=hours)).decision


@pytest.mark.parametrize("adaptive", [False, True])
def test_any_decision_survives_its_json(adaptive: bool) -> None:
    """Also of counts that nothing can be computed from: there is no NaN in it, and none becomes ``None`` on the way."""
    rng = default_rng(7)
    plan = replace(
        PLAN, adaptive=adaptive, guardrails=(Guardrail("conversions", 0.1), Guardrail("revenue", 0.1))
    )
    for _ in range(25):
        counts = {}
        for epoch in range(3 if adaptive else 1):
            for key in "abc":
                units = int(rng.choice([0, 1, 2, 40, 900]))
                counts[epoch, key] = units, int(rng.choice([0, units // 3, units]))
        decision = decided(counts, float(rng.choice([3, 60, 24 * 14])), plan)
        assert from_record(json.loads(json.dumps(to_record(decision), allow_nan=False))) == decision


def test_a_part_that_a_decision_has_not_got_is_left_out_and_reads_as_none() -> None:
    assert evidence_to_json(Evidence()) == {}
    assert evidence_from_json({}) == Evidence()
    assert evidence_to_json(Evidence(guardrails=())) == {"guardrails": []}
    whole = to_record(decided({(0, "a"): (900, 9), (0, "b"): (900, 30)}, 60.0))["evidence"]
    dear = {"days", "crossing", "money", "metrics", "measured", "waterfall", "store", "outcomes"}
    assert {part.name for part in fields(Evidence)} - set(whole) == dear
    older = {name: part for name, part in whole.items() if name not in ("splits", "looks", "guardrails")}
    older["comparisons"] = [{"variant": "b", "relative": 0.2, "of_another_version": 1}]
    older["plan"] = {**whole["plan"], "of_another_version": 1}
    evidence = evidence_from_json(older)
    assert evidence.plan == evidence_from_json(whole).plan
    assert (evidence.splits, evidence.looks, evidence.guardrails) == (None, None, None)
    (comparison,) = evidence.comparisons
    assert (comparison.relative, comparison.stopped, comparison.name) == (0.2, None, None)
    assert list(evidence_to_json(evidence)) == list(older)


def test_reading_decisions_needs_no_statistics_library() -> None:
    program = "import sys, cro_core.storage.decisions, cro_core.reporting; print(*{'numpy', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
