"""Changing experiments by hand: create, end, settle alarms of their split, approve, reject."""

from __future__ import annotations

import math
from typing import Any

from cro_core.decision.split_wording import VETOING
from cro_core.domain import Experiment
from cro_core.home import Home
from cro_core.workflows import approval, lifecycle
from cro_core.workflows.create_experiment import create_experiment
from service.answers import Answer
from service.auth import Access
from service.endpoints import ApiSection, Reply
from service.schemas import (
    DecideAnswer,
    DecideBody,
    EndBody,
    ExperimentAnswer,
    ExperimentBody,
    SplitAnswer,
    SplitBody,
)

section = ApiSection("experiments", "For people and programs that run experiments. Needs the admin key.")

LARGEST = 700.0
"""Logarithm of the largest e-value that is shown: beyond that floats end."""

ACTOR = "api"
"""Who the audit trail names for what comes over HTTP."""


@section.post(
    "/tests",
    access=Access.ADMIN,
    body=ExperimentBody,
    errors=(409,),
    replies={
        201: Reply(
            ExperimentAnswer,
            "As it was stored, and running unless `start` was false.",
            links={"end": {"operationId": "end_test", "parameters": {"test_id": "$response.body#/test_id"}}},
        )
    },
)
def create_test(home: Home, body: ExperimentBody) -> Answer:
    """Create an experiment and start it.

    The first variant is the control unless one says `is_control`. What is left out comes from the settings.
    One experiment runs in a slot at a time.
    """
    created = create_experiment(home, body.wanted(), now=home.clock(), actor=ACTOR)
    return Answer(_present(created), 201)


@section.post(
    "/tests/<test_id>/end",
    access=Access.ADMIN,
    body=EndBody,
    body_optional=True,
    path_examples={"test_id": "hero-cta"},
    errors=(409,),
    replies={200: Reply(ExperimentAnswer, "As it was archived.")},
)
def end_test(home: Home, test_id: str, body: EndBody) -> Answer:
    """End an experiment by hand.

    With `winner`, that variant is shown to everyone from now on, as an unproven pick; without, the site shows
    what it showed before.
    """
    ended = lifecycle.end_experiment(
        home, test_id, now=home.clock(), actor=ACTOR, winner=body.winner, reason=body.reason
    )
    return Answer(_present(ended))


@section.get(
    "/tests/<test_id>/split",
    access=Access.READ,
    path_examples={"test_id": "hero-cta"},
    errors=(404,),
    replies={200: Reply(SplitAnswer, "Alarms, oldest first.")},
)
def get_split(home: Home, test_id: str) -> Answer:
    """Alarms of an experiment's split so far, and how each was settled."""
    return _split(home, test_id, None)


@section.post(
    "/tests/<test_id>/split",
    access=Access.ADMIN,
    body=SplitBody,
    path_examples={"test_id": "hero-cta"},
    errors=(404, 409),
    replies={200: Reply(SplitAnswer, "What was done, and the alarms as they stand now.")},
)
def settle_split(home: Home, test_id: str, body: SplitBody) -> Answer:
    """Explain an alarm of a running experiment's split, or leave the slice out of every variant alike.

    An alarm stays, and nothing wins, until one of the two is done; both can be undone by `cro rollback`.
    """
    from cro_core.workflows import settle_split as settling  # the statistics take long to load

    act = settling.explain if body.action == "explain" else settling.cut_out
    done = act(home, test_id, body.dimension, body.name, reason=body.reason, now=home.clock(), actor=ACTOR)
    return _split(home, test_id, done)


def _split(home: Home, test_id: str, done: str | None) -> Answer:
    from cro_core.workflows import settle_split as settling

    alarms = [
        {
            "dimension": alarm.dimension,
            "name": alarm.name,
            "first_at": alarm.first_at,
            "e_value": math.exp(min(alarm.log_e, LARGEST)),
            "largest_e_value": math.exp(min(alarm.largest, LARGEST)),
            "vetoes": alarm.stands and alarm.dimension in VETOING,
            "settled_at": alarm.settled_at,
            "settled_by": alarm.settled_by,
            "how": alarm.how,
            "reason": alarm.reason,
        }
        for alarm in settling.alarms(home, test_id)
    ]
    return Answer({"test_id": test_id, "alarms": alarms, "done": done})


@section.post(
    "/decisions",
    access=Access.ADMIN,
    body=DecideBody,
    errors=(404, 409),
    replies={200: Reply(DecideAnswer, "What was done.")},
)
def decide(home: Home, body: DecideBody) -> Answer:
    """Approve or reject a recommendation.

    Approving carries it out at once; rejecting a winner archives its experiment.
    """
    act = approval.approve if body.action == "approve" else approval.reject
    done = act(home, body.recommendation, now=home.clock(), actor=ACTOR)
    return Answer({"recommendation": body.recommendation, "action": body.action, "done": done})


def _present(experiment: Experiment) -> dict[str, Any]:
    """The experiment in the words of the API."""
    shares = experiment.epochs[0].shares if experiment.epochs else {}
    return {
        "test_id": experiment.id,
        "name": experiment.name,
        "status": experiment.status,
        "slot": experiment.slot,
        "hypothesis": experiment.hypothesis,
        "occasion": experiment.occasion,
        "created_at": experiment.created_at,
        "started_at": experiment.started_at,
        "ends_at": experiment.horizon_ends_at,
        "ended_at": experiment.ended_at,
        "winner": experiment.winner,
        "planned_units": experiment.plan.units,
        "admitted": experiment.plan.admitted,
        "reasoning": experiment.reasoning,
        "primary_goals": [goal.name for goal in experiment.plan.goals if goal.primary],
        "variants": [
            {
                "variant_id": v.key,
                "name": v.name,
                "is_control": v.is_control,
                "share": shares.get(v.key),
                "config": v.config,
                "asset_id": v.asset_id,
                "cost_per_exposure": v.cost_per_exposure,
            }
            for v in experiment.variants
        ],
        "value_per_conversion": experiment.plan.value_per_conversion,
        "currency": experiment.plan.currency,
    }
