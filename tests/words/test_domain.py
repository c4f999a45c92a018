"""The words of the field: what may be a key or an experiment, and how values become JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from helpers.store_samples import DAY, GOALS, START, TICK, running
from hypothesis import given
from hypothesis import strategies as st

from cro_core.domain import (
    Experiment,
    Goal,
    Plan,
    Quantity,
    Reason,
    Variant,
    Verdict,
    check_experiment,
    check_key,
    to_json,
)
from cro_core.errors import InvalidInput
from cro_core.evidence import Comparison, Decision, Evidence
from cro_core.storage.experiments import plan_from_json, plan_to_json


@pytest.mark.parametrize("key", ["a", "hero-2", "A.b_c:d", "x" * 100, "0"])
def test_keys_survive_a_url(key: str) -> None:
    assert check_key(key, "experiment_id") == key


@pytest.mark.parametrize("key", ["", "a b", "é", "a/b", "x" * 101, "a\n", "a?b"])
def test_other_keys_are_refused_by_name(key: str) -> None:
    with pytest.raises(InvalidInput, match="use 1 to 100 of the characters") as refused:
        check_key(key, "experiment_id")
    assert refused.value.field == "experiment_id"


@pytest.mark.parametrize(
    ("text", "quantity"),
    [
        ("revenue", Quantity("revenue")),
        ("goal:play", Quantity("goal", "play")),
        ("count:a:b", Quantity("count", "a:b")),
    ],
)
def test_quantities_are_read_and_written(text: str, quantity: Quantity) -> None:
    assert Quantity.parse(text) == quantity
    assert str(quantity) == text


@pytest.mark.parametrize("text", ["", "plays", "goal", "revenue:play", "before:engagement", "mean:play"])
def test_other_quantities_are_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Quantity.parse(text)
    wanted = "conversions, engagement, revenue, goal:NAME, count:NAME, value:NAME"
    assert str(refused.value) == f"quantity is {text!r}: give {wanted}"
    assert refused.value.field is None


def test_a_complaint_about_a_quantity_says_what_was_asked() -> None:
    assert Quantity.parse("goal:play", ["goal"]) == Quantity("goal", "play")
    with pytest.raises(InvalidInput, match=r"^rule is 'count:play': give goal:NAME, revenue$") as refused:
        Quantity.parse("count:play", ["goal", "revenue"], what="rule", field="rules")
    assert refused.value.field == "rules"


def _broken(**changes: object) -> Experiment:
    return replace(running(), **changes)  # type: ignore[arg-type]


CONTROL, OTHER = Variant("a", "A", is_control=True), Variant("b", "B")


@pytest.mark.parametrize(
    ("experiment", "field", "complaint"),
    [
        (_broken(id="a b"), "experiment_id", "is not a key"),
        (_broken(variants=(CONTROL, Variant("b/", "B"))), "variant", "is not a key"),
        (_broken(variants=(CONTROL,)), "variants", r"has 1 variant\(s\): give at least 2"),
        (
            _broken(variants=(CONTROL, replace(CONTROL, is_control=False))),
            "variants",
            "repeats a variant key",
        ),
        (_broken(variants=(replace(CONTROL, is_control=False), OTHER)), "variants", "has 0 controls"),
        (_broken(variants=(CONTROL, replace(OTHER, is_control=True))), "variants", "has 2 controls"),
        (_broken(plan=Plan(goals=(Goal("play"),))), "goals", "has no primary goal"),
        (_broken(plan=Plan(goals=())), "goals", "has no primary goal"),
        (_broken(plan=Plan(goals=(*GOALS, Goal("lead", 1.0, True)))), "goals", "name each once"),
        (_broken(plan=Plan(goals=(Goal("exposure", 1.0, True),))), "goals", "that a visitor met a variant"),
        (_broken(plan=Plan(goals=(Goal("impression", 1.0, True),))), "goals", "that a visitor met a variant"),
    ],
)
def test_an_experiment_that_cannot_run_is_refused(experiment: Experiment, field: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint) as refused:
        check_experiment(experiment)
    assert refused.value.field == field


def test_an_experiment_that_can_run_is_returned() -> None:
    experiment = running(keys=("a", "b", "c"))
    assert check_experiment(experiment) is experiment
    assert experiment.control.key == "a"
    assert [v.key for v in experiment.challengers] == ["b", "c"]
    assert experiment.variant("c") == experiment.challengers[1]
    assert experiment.variant("d") is None


def test_enrolment_ends_one_window_before_the_last_look() -> None:
    experiment = running(horizon=14 * DAY, window=timedelta(hours=24))
    assert experiment.horizon_ends_at == START + 14 * DAY
    assert experiment.enrolment_ends_at == START + 13 * DAY
    finished = replace(experiment, plan=replace(experiment.plan, finished=True))
    assert finished.enrolment_ends_at == START + 14 * DAY
    assert replace(experiment, started_at=None).enrolment_ends_at is None


def test_epochs_hold_their_start_and_not_their_end() -> None:
    experiment = running(adaptive=True)
    second = experiment.epochs[1]
    assert experiment.epoch_at(second.starts_at) == second
    assert experiment.epoch_at(second.starts_at - TICK) == experiment.epochs[0]
    assert experiment.epoch_at(START - TICK) is None
    assert experiment.epoch_at(experiment.epochs[-1].ends_at) is None


def test_json_has_null_and_never_nan() -> None:
    values = {
        "a": float("nan"),
        "b": [float("inf"), -0.5],
        "c": timedelta(minutes=90),
        "d": START,
        1: (None, True),
    }
    assert to_json(values) == {
        "a": None, "b": [None, -0.5], "c": 1.5, "d": "2026-03-02T09:00:00Z", "1": [None, True],
    }  # fmt: skip
    json.dumps(to_json(values), allow_nan=False)


def test_decisions_become_json_with_everything_they_rest_on() -> None:
    evidence = Evidence(comparisons=(Comparison("b", "B", True, z=float("nan")),))
    decision = Decision(
        "hero", START, Verdict.KEEP_CONTROL, (Reason("srm", "tilted"),), (), evidence=evidence
    )
    record = json.loads(json.dumps(to_json(decision), allow_nan=False))
    assert record["evidence"]["comparisons"][0]["z"] is None
    assert to_json(decision)["verdict"] == "keep_control"
    assert decision.final
    assert not replace(decision, verdict=Verdict.CONTINUE).final


hours = st.timedeltas(timedelta(minutes=1), timedelta(days=365))


@given(hours, hours, st.floats(0, 1), st.booleans())
def test_plans_come_back_from_json_as_they_were(
    horizon: timedelta, window: timedelta, rate: float, adaptive: bool
) -> None:
    plan = Plan(
        GOALS, base_rate=rate, horizon=horizon, window=window, adaptive=adaptive, units=7, zone="Europe/Paris"
    )
    assert plan_from_json(json.loads(json.dumps(plan_to_json(plan)))) == plan
