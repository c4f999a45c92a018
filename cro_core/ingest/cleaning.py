"""From what a website posts to clean events: pure, so that the service and imports share one set of rules.

Here a website's words become ours, and nowhere else: :class:`EventIn` reads what is posted by the names in the table
of :mod:`cro_core.ingest.website_words`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from cro_core.clock import EPOCH, parse_time
from cro_core.domain import EXPOSURE, KEY, OLDER_EXPOSURE, Event, Experiment, Status
from cro_core.errors import KEY_RULE, Fault, InvalidInput, Sentence, faults, phrase
from cro_core.ingest.user_agents import Agent
from cro_core.ingest.website_words import EVENT_TYPES, EXPERIMENT, VARIANT, website_word

FUTURE = timedelta(minutes=10)
"""How far a client's clock may run ahead of ours."""

SAFE = frozenset(
    {
        "event_type", EXPERIMENT, VARIANT, "timestamp", "device_type", "city", "country", "value",
        "asset_id", "occasion", "epoch", "propensity",
    }
)  # fmt: skip
"""Fields that describe no person: the quarantine keeps them as posted, and everything else hashed."""

PERSONAL = ("user", "visitor", "session", "mail", "phone", "ip", "name")
"""Parts of column names that hint at a person, for an import, whose columns have any name at all."""

MAX_PAYLOAD = 4_000
"""Characters of a rejected item that the quarantine keeps, and of an event's properties."""

MAX_ERROR = 500
"""Characters of a complaint: it may quote what was posted."""

MAX_DEPTH = 20
"""How deeply an event's properties may nest."""

MAX_VALUE = 1e12
"""Largest amount; sums of squares of such amounts are still ordinary numbers."""

MAX_EPOCH = 1_000_000


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("holds a NUL character: leave it out")  # PostgreSQL has no place for it
    return text


Text = Annotated[str, AfterValidator(_without_nul)]


class EventIn(BaseModel):
    """One event as a website posts it."""

    # The aliases are what a website writes; the docstring, which the service publishes, speaks to websites.
    model_config = ConfigDict(
        alias_generator=website_word,
        extra="forbid",
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
        str_strip_whitespace=True,
    )

    event_type: str = Field(
        pattern=f"^{KEY.pattern}$",
        description=f"`{EXPOSURE}` (or `{OLDER_EXPOSURE}`), or the name of a goal.",
    )
    user_id: Text = Field(
        min_length=1, max_length=200, description="The visitor; stored only as a keyed hash."
    )
    experiment_id: str | None = Field(
        default=None,
        pattern=f"^{KEY.pattern}$",
        description="The experiment. An exposure needs it; a goal without it counts for every experiment the visitor met.",
    )
    variant: str | None = Field(
        default=None, pattern=f"^{KEY.pattern}$", description="The variant that was shown."
    )
    id: Text | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="Makes the event count once however often it is posted.",
    )
    session_id: Text | None = Field(default=None, max_length=200)
    timestamp: str | int | None = Field(
        default=None,
        description="ISO 8601 with a zone, or milliseconds since 1970; without it, the time of arrival.",
    )
    device_type: Text | None = Field(default=None, max_length=40)
    city: Text | None = Field(default=None, max_length=120)
    country: Text | None = Field(default=None, max_length=120)
    value: float | None = Field(
        default=None,
        ge=-MAX_VALUE,
        le=MAX_VALUE,
        description="Money or another amount that belongs to the goal; with an exposure, a number known of the visitor before.",
    )
    asset_id: Text | None = Field(default=None, max_length=100)
    occasion: Text | None = Field(default=None, max_length=60, description="Wedding, party, corporate ...")
    url: Text | None = Field(
        default=None, max_length=2000, description="Kept without its query, which may hold personal data."
    )
    properties: dict[str, Any] | None = None
    epoch: int | None = Field(default=None, ge=0, le=MAX_EPOCH, description="As the assignment gave it.")
    propensity: float | None = Field(default=None, gt=0, le=1, description="As the assignment gave it.")

    @field_validator("timestamp", mode="before")
    @classmethod
    def _no_bool(cls, value: Any) -> Any:
        if isinstance(value, (bool, float)):
            raise ValueError("give ISO 8601 text with a zone, or whole milliseconds since 1970")
        return value

    @field_validator("properties")
    @classmethod
    def _small(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is None:
            return None
        _check_depth(value)
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
            text.encode("utf-8")
        except ValueError:
            raise ValueError("properties hold NaN, an infinity or half a character: JSON has none") from None
        if len(text) > MAX_PAYLOAD:
            raise ValueError(f"properties are longer than {MAX_PAYLOAD} characters as JSON")
        return value


@dataclass(frozen=True, slots=True)
class Place:
    """Where a client seems to be; ``None`` where nobody says."""

    city: str | None = None
    country: str | None = None

    def or_else(self, other: Place) -> Place:
        """This place, with what it lacks taken from the other."""
        return Place(self.city or other.city, self.country or other.country)


@dataclass(frozen=True, slots=True)
class Sender:
    """What a request tells of the client that posts."""

    user_agent: str | None = None
    address: str | None = field(default=None, repr=False)
    """The client's IP address. It is looked at and forgotten: never store or log it."""
    place: Place = Place()
    """Place of the client, as a trusted proxy says."""


UNKNOWN = Sender()
"""Nothing is known of who posts."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What an item is checked against, and how it is made pseudonymous."""

    experiments: Mapping[str, Experiment]
    now: datetime
    hash: Callable[[str], str]
    agent: Agent = field(default_factory=Agent)
    place: Place = Place()
    """For events that do not say their own."""
    internal: bool = False
    """The site's own people post."""
    internal_hosts: Sequence[str] = ()
    """Hosts whose pages only the site's own people open, in small letters; their subdomains too."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why the item at ``index`` of what was posted is not an event."""

    index: int
    error: str
    payload: str
    """What the quarantine keeps: the item as JSON, with anything that may be personal hashed."""
    experiment_id: str | None = None


def clean(items: Sequence[Any], rules: Rules) -> tuple[list[Event], list[Rejection]]:
    """Sorts what was posted into events and rejections; every item is in exactly one of them."""
    events: list[Event] = []
    rejections: list[Rejection] = []
    for index, item in enumerate(items):
        try:
            events.append(_event(item, rules))
        except InvalidInput as error:
            rejections.append(
                Rejection(
                    index,
                    _storable(str(error))[:MAX_ERROR],
                    _payload(item, rules),
                    _experiment_of(item, rules),
                )
            )
    return events, rejections


def within(host: str, names: Sequence[str]) -> bool:
    """Whether a host is one of the names or a subdomain of one."""
    host = host.rstrip(".")
    return any(host == name or host.endswith(f".{name}") for name in names)


def new_id(now: datetime) -> str:
    """A UUID of version 7 (RFC 9562): time-ordered, so that the index of the event table grows at its end."""
    milliseconds = (now - EPOCH) // timedelta(milliseconds=1)
    value = (milliseconds << 80 | secrets.randbits(80)) & ~(0xF << 76 | 0x3 << 62) | 0x7 << 76 | 0x2 << 62
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _event(item: Any, rules: Rules) -> Event:
    data = _parse(item)
    kind = EVENT_TYPES.get(data.event_type, data.event_type)
    _check_target(data, kind, rules.experiments)
    url, host = _page(data.url)
    return Event(
        id=data.id or new_id(rules.now),
        type=kind,
        unit=rules.hash(data.user_id),
        occurred_at=time_of(data.timestamp, rules.now),
        received_at=rules.now,
        experiment_id=data.experiment_id,
        variant=data.variant,
        session=rules.hash(data.session_id) if data.session_id else None,
        device=data.device_type.lower() if data.device_type else rules.agent.device,
        city=data.city or rules.place.city,
        country=data.country or rules.place.country,
        value=data.value,
        asset_id=data.asset_id or None,
        occasion=data.occasion or None,
        url=url,
        properties=data.properties,
        epoch=data.epoch,
        propensity=data.propensity,
        bot=rules.agent.bot,
        internal=rules.internal or within(host, rules.internal_hosts),
    )


def _parse(item: Any) -> EventIn:
    if not isinstance(item, dict):
        raise InvalidInput(f"an event must be an object, got {type(item).__name__}")
    try:
        return EventIn.model_validate(item)
    except ValidationError as error:
        raise InvalidInput(
            "; ".join(phrase(fault, SENTENCES, _complaint) for fault in faults(error, "event"))
        ) from None


SENTENCES: Mapping[str, Sentence] = {
    "missing": lambda fault: f"{_name(fault)} is missing",
    "extra_forbidden": lambda fault: f"{_name(fault)} is not a field of an event: put it into properties",
    "string_pattern_mismatch": lambda fault: f"{_name(fault)} is {str(fault.got)[:60]!r}: use {KEY_RULE}",
}
"""How a field of an event is refused, by kind of fault."""


def _complaint(fault: Fault) -> str:
    return f"{_name(fault)}: {fault.clause}"


def _name(fault: Fault) -> str:
    """The field of the event, also where the fault lies deeper."""
    return str(fault.path[0]) if fault.path else fault.whole


def _check_target(data: EventIn, kind: str, experiments: Mapping[str, Experiment]) -> None:
    if data.experiment_id is None:
        if kind == EXPOSURE:
            raise InvalidInput(f"{EXPERIMENT} is missing: an exposure names its experiment")
        return
    experiment = experiments.get(data.experiment_id)
    if experiment is None:
        raise InvalidInput(f"{EXPERIMENT} {data.experiment_id!r} is not an experiment of this site")
    if experiment.status is Status.DRAFT:
        raise InvalidInput(f"{EXPERIMENT} {data.experiment_id!r} has not started")
    if data.variant is None and kind == EXPOSURE:
        raise InvalidInput(f"{VARIANT} is missing: an exposure names the variant that was shown")
    if data.variant is not None and experiment.variant(data.variant) is None:
        known = ", ".join(v.key for v in experiment.variants)
        raise InvalidInput(f"{VARIANT} {data.variant!r} is not one of {known}")


def time_of(stamp: str | int | None, now: datetime) -> datetime:
    """When an event happened, as its client says; ``now`` where it does not.

    Raises:
        InvalidInput: no time that an event can have.
    """
    if stamp is None:
        return now
    try:
        moment = EPOCH + timedelta(milliseconds=stamp) if isinstance(stamp, int) else parse_time(stamp)
    except OverflowError:
        raise InvalidInput(f"timestamp {stamp} is out of range: give milliseconds since 1970") from None
    if moment > now + FUTURE:
        raise InvalidInput(f"timestamp {moment.isoformat()} is in the future: it is {now.isoformat()} here")
    if moment.year < 2000:
        raise InvalidInput(
            f"timestamp {moment.isoformat()} is before the year 2000: are these seconds, not milliseconds?"
        )
    return moment


def _page(url: str | None) -> tuple[str | None, str]:
    """The address without query, fragment and login, and its host, ``""`` where it names none."""
    if not url:
        return None, ""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidInput(f"url {url[:80]!r} cannot be read") from None
    kept = parts._replace(query="", fragment="", netloc=parts.netloc.rpartition("@")[2])
    return kept.geturl(), parts.hostname or ""


def _experiment_of(item: Any, rules: Rules) -> str | None:
    named = item.get(EXPERIMENT) if isinstance(item, dict) else None
    return named if isinstance(named, str) and named in rules.experiments else None


def _check_depth(value: Any) -> None:
    layer: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        layer = [child for parent in layer for child in _children(parent)]
        if not layer:
            return
    raise ValueError(f"properties nest deeper than {MAX_DEPTH} levels")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _payload(item: Any, rules: Rules) -> str:
    """The item for the quarantine. People's ids turn up in any field, so only :data:`SAFE` ones stay readable."""
    kept = {key: _kept(key, value, rules) for key, value in item.items()} if isinstance(item, dict) else None
    shown = _hashed(item, rules) if kept is None else kept
    return _storable(json.dumps(shown, ensure_ascii=False, default=str))[:MAX_PAYLOAD]


def _kept(name: Any, value: Any, rules: Rules) -> Any:
    return value if name in SAFE and not isinstance(value, (dict, list)) else _hashed(value, rules)


def _hashed(value: Any, rules: Rules, depth: int = 0) -> Any:
    """The value with its shape and every text and number in it hashed; what nests too deeply is cut off."""
    if isinstance(value, (dict, list)) and depth == MAX_DEPTH:
        return "..."
    if isinstance(value, dict):
        return {key: _hashed(child, rules, depth + 1) for key, child in value.items()}
    if isinstance(value, list):
        return [_hashed(child, rules, depth + 1) for child in value]
    return value if value is None or isinstance(value, bool) else rules.hash(str(value))


def _storable(text: str) -> str:
    """The text without what a database cannot hold: lone surrogates and NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
