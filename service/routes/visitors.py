"""What the website calls for its visitors: assignments and events, without a key and from any origin."""

from __future__ import annotations

from typing import Any

from flask import Request, current_app, g, request

from cro_core.home import Home
from cro_core.ingest.cleaning import EventIn
from cro_core.ingest.website_words import in_website_words
from cro_core.workflows.assign import assignments as assign_visitor
from cro_core.workflows.ingest import Receipt, Save, ingest
from service.answers import Answer
from service.auth import Access
from service.client_address import sender
from service.endpoints import ApiSection, RawBody, Reply
from service.error_answers import HttpRefusal
from service.request_bodies import parse_json
from service.schemas import AssignmentQuery, AssignmentsAnswer, EventsAnswer, VisitorQuery

section = ApiSection("visitors", "For the website: which variant to show, and what the visitor did.")

EVENT = {
    "id": "0198c7d2-1",
    "event_type": "exposure",
    "test_id": "hero-cta",
    "variant_id": "call-now",
    "user_id": "v-7f3a9c",
    "timestamp": "2026-03-02T09:30:05Z",
    "epoch": 0,
    "propensity": 0.5,
}
GOAL = {"id": "0198c7d2-2", "event_type": "contact_form_submit", "user_id": "v-7f3a9c", "value": 1200}

ANY_ITEM = {
    "description": "Meant as one event. What is not one is answered in `rejected`; the others are stored.",
    "anyOf": [{"$ref": "#/components/schemas/EventIn"}, {}],
}
EVENTS_BODY = RawBody(
    schema={
        "anyOf": [
            {"type": "array", "items": ANY_ITEM, "title": "Several events"},
            {
                "type": "object",
                "properties": {"events": {"type": "array", "items": ANY_ITEM}},
                "required": ["events"],
                "additionalProperties": False,
                "title": "Several events, wrapped",
            },
            {"allOf": [{"type": "object", "not": {"required": ["events"]}}, ANY_ITEM], "title": "One event"},
        ]
    },
    examples={"one": EVENT, "several": [EVENT, GOAL], "wrapped": {"events": [EVENT, GOAL]}},
    # Which of them it says makes no difference; a beacon can only say text/plain without a preflight.
    media_types=("application/json", "text/plain"),
    models=(EventIn,),
)


@section.get(
    "/assignments",
    access=Access.PUBLIC,
    query=AssignmentQuery,
    replies={
        200: Reply(
            AssignmentsAnswer, "Every running experiment's variant, and production where nothing runs."
        )
    },
    cross_origin=True,
)
def get_assignments(home: Home, query: AssignmentQuery) -> Answer:
    """Which variants a visitor sees.

    The same visitor gets the same answer until `expires_at`; once exposed, it keeps its variant. A bot and a
    visitor who opted out (`opted_out=1`, or the header `Sec-GPC: 1` where the settings honour it) get the
    control with `counted: false`: post nothing for them. So does a visitor whom an experiment with more visitors
    than it needs does not let in (`not_admitted`).
    """
    seen = assign_visitor(
        home,
        query.visitor,
        now=home.clock(),
        user_agent=request.headers.get("User-Agent"),
        opted_out=_opted_out(request, home, query),
    )
    return Answer(in_website_words(seen))


@section.post(
    "/events",
    access=Access.PUBLIC,
    query=VisitorQuery,
    body=EVENTS_BODY,
    replies={202: Reply(EventsAnswer, "What was accepted is stored and will survive a power cut.")},
    cross_origin=True,
)
def post_events(home: Home, query: VisitorQuery) -> Answer:
    """Report what visitors did.

    One event, an array of them, or `{"events": [...]}`: JSON, whatever the Content-Type says. Post an
    `exposure` when the visitor really meets the variant, with `epoch` and `propensity` as the assignment gave
    them, and goals when they happen. An event with an `id` counts once, however often it is posted. For a
    visitor who opted out nothing is stored, and `not_stored` says so.
    """
    g.receipt = receive(request, home, query, current_app.extensions["cro_intake"].store)
    return acknowledged(g.receipt)


def receive(posted: Request, home: Home, query: VisitorQuery, save: Save) -> Receipt:
    """Stores what a request posts; when this returns, it is durable.

    Raises:
        HttpRefusal: 400, 413, 415: the body is not what it has to be, and nothing was stored.
        RequestEntityTooLarge: it is larger than the settings let it be.
        CroError, sqlalchemy.exc.SQLAlchemyError: the store did not take it.
    """
    items = _items(parse_json(posted))
    most = home.config.service.max_events_per_request
    if len(items) > most:
        raise HttpRefusal(
            413, "too_large", f"the body holds {len(items)} events: send at most {most} at once"
        )
    return ingest(
        home,
        items,
        now=home.clock(),
        sender=sender(posted, home.config.service),
        opted_out=_opted_out(posted, home, query),
        save=save,
    )


def acknowledged(receipt: Receipt) -> Answer:
    """The answer to the website."""
    # Else a developer whose own browser opts out sees nothing but zeros.
    unstored = {"not_stored": receipt.not_stored} if receipt.not_stored else {}
    return Answer(receipt.as_dict() | unstored, 202)


def _items(body: Any) -> list[Any]:
    """What was posted, as a list.

    Raises:
        HttpRefusal: 400, the body has none of the three shapes.
    """
    if isinstance(body, list):
        return body
    if isinstance(body, dict) and "events" not in body:
        return [body]
    if isinstance(body, dict) and set(body) == {"events"} and isinstance(body["events"], list):
        return list(body["events"])
    raise HttpRefusal(
        400,
        "bad_events",
        'the body must be one event, an array of events, or {"events": [...]} and nothing else',
    )


def _opted_out(asked: Request, home: Home, query: VisitorQuery) -> bool:
    signal = asked.headers.get("Sec-GPC", "").strip() == "1"
    return query.opted_out or (signal and home.config.privacy.honour_global_privacy_control)
