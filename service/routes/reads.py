"""What dashboards and people read."""

from __future__ import annotations

from typing import Any

from cro_core.domain import to_json
from cro_core.home import Home
from cro_core.ingest.website_words import WORDS, in_website_words
from cro_core.workflows import overview as views
from service.answers import Answer
from service.auth import Access
from service.endpoints import ApiSection, Reply
from service.schemas import (
    ActiveTestsAnswer,
    DecisionsAnswer,
    LimitQuery,
    OverviewAnswer,
    RecentWinnersAnswer,
    RecommendationsAnswer,
)

WINNER_WORDS = {**WORDS, "variant": "winner"}

section = ApiSection("reads", "For dashboards and people: how things stand.")

OUTCOMES = ("accepted", "duplicate", "rejected", "opted_out")
"""What may become of a posted event."""


@section.get(
    "/overview", access=Access.READ, replies={200: Reply(OverviewAnswer, "The site in a few numbers.")}
)
def get_overview(home: Home) -> Answer:
    """The site in a few numbers."""
    overview = views.overview(home, now=home.clock())
    last_run = overview["last_run"] and present_run(home, overview["last_run"])
    events = dict.fromkeys(OUTCOMES, 0) | overview["events"]
    return Answer(overview | {"events": events, "last_run": last_run})


@section.get("/active-tests", access=Access.READ, replies={200: Reply(ActiveTestsAnswer, "Oldest first.")})
def get_active_tests(home: Home) -> Answer:
    """Running experiments with what was counted so far."""
    return Answer({"tests": in_website_words(views.running_experiments(home, now=home.clock()))})


@section.get(
    "/recent-winners",
    access=Access.READ,
    query=LimitQuery,
    replies={200: Reply(RecentWinnersAnswer, "Newest first.")},
)
def get_recent_winners(home: Home, query: LimitQuery) -> Answer:
    """Proven winners, without those taken back."""
    return Answer({"winners": [present_winner(won) for won in views.recent_winners(home, query.limit)]})


@section.get(
    "/decisions",
    access=Access.READ,
    query=LimitQuery,
    replies={200: Reply(DecisionsAnswer, "Decisions newest first, pending recommendations oldest first.")},
)
def get_decisions(home: Home, query: LimitQuery) -> Answer:
    """What was decided, and what waits for a person."""
    listed = views.decision_list(home, query.limit)
    shown = [in_website_words(d) | {"money": to_json(d.money)} for d in listed.decisions]
    return Answer({"decisions": shown, "pending": listed.pending})


@section.get(
    "/recommendations", access=Access.READ, replies={200: Reply(RecommendationsAnswer, "Oldest first.")}
)
def get_recommendations(home: Home) -> Answer:
    """What waits for a person to approve or reject."""
    return Answer({"recommendations": views.decision_list(home, 1).pending})


def present_winner(won: views.ProvenWinner) -> dict[str, Any]:
    """A proven winner in a website's words, its comparison in the words in which decisions are printed and stored."""
    answer: dict[str, Any] = in_website_words(won, WINNER_WORDS)
    return answer | {"comparison": to_json(won.comparison), "money": to_json(won.money)}


def present_run(home: Home, run: Any) -> Any:
    """A run with its files named from the home's folder: where the home lies is nobody's business."""
    if isinstance(run, str):
        return run.replace(f"{home.path}/", "")
    if isinstance(run, dict):
        return {key: present_run(home, value) for key, value in run.items()}
    if isinstance(run, list):
        return [present_run(home, value) for value in run]
    return run
