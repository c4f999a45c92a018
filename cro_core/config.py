"""The settings: ``cro-config.json``, overridden by the environment, validated as one.

``CRO_<SECTION>__<KEY>`` overrides a key (``CRO_AUTOMATION__MAX_CONCURRENT_TESTS=3``); the value is read as
JSON where it is JSON, else as text. Every effective value knows where it came from, and an explicit
setting always wins; where it costs validity or power, :func:`load` says so in ``warnings``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from cro_core.clock import zone
from cro_core.domain import (
    GOAL_MEASURES,
    KEY,
    MEASURES,
    RESERVED_GOALS,
    Adjustment,
    AtHorizon,
    Covariate,
    Gate,
    Goal,
    Guardrail,
    Quantity,
    Ratio,
)
from cro_core.errors import ConfigError, Fault, InvalidInput, Sentence, faults, phrase

ENV_PREFIX = "CRO_"
FILE_NAME = "cro-config.json"

Weight = Annotated[float, Field(ge=0, le=1_000_000, strict=True)]


class Section(BaseModel):
    """A part of the file: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise PydanticCustomError("wrong_kind", "true and false are no value of it")
        return value


class Automation(Section):
    """What the autopilot may do by itself, and the thresholds of a decision."""

    enabled: bool = Field(True, description="Master switch: when false, no cycle changes anything.")
    min_sample_size: int = Field(100, ge=1, le=10_000_000, description="Least counted visitors per variant.")
    confidence_level: float = Field(
        0.95, gt=0.5, lt=1, description="1 - two-sided false-positive rate of an experiment."
    )
    max_concurrent_tests: int = Field(5, ge=1, le=100, description="Most experiments running at once.")
    test_duration_max_days: int = Field(
        14,
        ge=1,
        le=365,
        description="Most days on which new visitors count, in whole weeks and never below one; the last look comes one "
        "conversion window later, and an effect that fades may add a week.",
    )
    min_conversion_difference: float = Field(
        0.10,
        ge=0,
        le=10,
        description="Relative uplift worth shipping; also the MDE of the plan unless that is set.",
    )
    auto_declare_winners: bool = Field(True, description="Ship without asking; when false, propose.")
    auto_start_new_tests: bool = Field(True, description="Start without asking; when false, propose.")


class GuardrailRule(Section):
    """What no variant may worsen: a goal's rate or a metric, and by how much it may change at most."""

    goal: str | None = Field(None, description="Name of a goal: the part of the visitors who reach it.")
    metric: Literal["conversions", "engagement", "revenue"] | None = Field(
        None, description="Or a metric: any primary goal, the engagement score, or amounts per visitor."
    )
    max_drop: float | None = Field(None, ge=0, lt=1, description="Tolerated fall, relative.")
    max_rise: float | None = Field(
        None, ge=0, lt=1, description="Or tolerated rise, relative, where more is worse (complaints, errors)."
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> GuardrailRule:
        if (self.goal is None) == (self.metric is None):
            raise ValueError("names both a goal and a metric, or neither: give one of goal and metric")
        if (self.max_drop is None) == (self.max_rise is None):
            raise ValueError("has both max_drop and max_rise, or neither: give one of them")
        return self

    @property
    def guardrail(self) -> Guardrail:
        """The rule as a plan keeps it."""
        measure = str(Quantity(self.metric) if self.metric is not None else Quantity("goal", self.goal))
        if self.max_rise is not None:
            return Guardrail(measure, self.max_rise, "more")
        return Guardrail(measure, self.max_drop or 0.0, "less")


NAME = f"^{KEY.pattern}$"

HEADER = "^[A-Za-z][A-Za-z0-9-]{0,99}$"

QUANTITY = f"^({'|'.join(MEASURES)}|({'|'.join(GOAL_MEASURES)}):{KEY.pattern})$"

QUANTITIES = "conversions, engagement, revenue, goal:NAME, count:NAME or value:NAME"
"""What texts of the pattern :data:`QUANTITY` look like."""


class RatioMetric(Section):
    """One sum over the visitors divided by another, such as revenue per conversion."""

    name: str = Field(pattern=NAME, description="Name of the metric.")
    numerator: str = Field(pattern=QUANTITY, description=f"{QUANTITIES}.")
    denominator: str = Field(pattern=QUANTITY, description=f"{QUANTITIES}; not the numerator.")

    @model_validator(mode="after")
    def _two(self) -> RatioMetric:
        if self.numerator == self.denominator:
            raise ValueError(f"divides {self.numerator} by itself: give two quantities")
        return self


class Statistics(Section):
    """How experiments are planned and judged."""

    power: float = Field(0.8, gt=0.5, lt=1, description="Planned probability of finding the MDE.")
    minimum_detectable_uplift: float | None = Field(
        None, gt=0, le=10, description="MDE of the plan, relative; null takes min_conversion_difference."
    )
    base_rate: float = Field(
        0.03, gt=0, lt=1, description="Conversion rate assumed until the site has its own."
    )
    min_uplift_gate: Gate = Field(
        "not_excluded",
        description="A win needs the interval's upper end / the estimate / its lower end at min_conversion_difference.",
    )
    at_horizon: AtHorizon = Field(
        "keep_control",
        description="What is shown after an undecided last look; pick_leader is an unproven pick.",
    )
    spending_function: Literal["hwang_shih_decani", "obrien_fleming", "pocock", "kim_demets"] = Field(
        "hwang_shih_decani", description="How the error rate is used up over the hourly looks."
    )
    spending_parameter: float | None = Field(
        None, ge=-40, le=40, description="Of hwang_shih_decani (-4) or kim_demets (3); null is that default."
    )
    futility: bool = Field(
        True,
        description="Stop early, keeping the control, where the MDE can hardly be proven any more; "
        "not used by plans of less than 50 % power.",
    )
    conversion_window_hours: float = Field(
        24, gt=0, le=24 * 90, description="How long after exposure a goal counts."
    )
    traffic_per_day: float | None = Field(
        None, gt=0, description="Visitors a day the plan may count on; null measures the site's own."
    )
    guardrails: tuple[GuardrailRule, ...] = Field(
        (),
        max_length=20,
        description='What no variant may worsen, e.g. `{"goal": "phone_click", "max_drop": 0.1}` or '
        '`{"metric": "revenue", "max_drop": 0.05}`; `max_rise` where more is worse. A variant that breaks one ends '
        "the experiment; at most 1 % of harmless experiments are stopped so.",
    )
    ratio_metrics: tuple[RatioMetric, ...] = Field(
        (),
        max_length=20,
        description='Secondary metrics of the kind `{"name": "order_value", "numerator": "revenue", "denominator": '
        '"conversions"}`; also `goal:NAME` (0 or 1), `count:NAME` (how often), `value:NAME` (amounts).',
    )
    secondary_adjustment: Adjustment = Field(
        "holm",
        description="How p-values of the secondary metrics are adjusted: for any false claim, or for their part.",
    )
    covariate: Covariate = Field(
        "engagement",
        description="What makes means less noisy (CUPED): the visitor's engagement in the 28 days before the exposure, "
        "the value sent with the exposure (known before it), or nothing.",
    )
    max_crossover: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Part of the visitors who met more than one variant above which nothing wins by itself.",
    )
    always_valid_companion: bool = Field(
        False,
        description="Keep with each decision evidence that holds whenever it is looked at; it never decides.",
    )
    stream_false_discovery_rate: float | None = Field(
        None,
        gt=0,
        le=0.5,
        description="Part of all discoveries that may be false, over all experiments (SAFFRON): each is planned for, and "
        "run at, the error rate that the results so far allow, at most 1 - confidence_level. Null looks at each by itself.",
    )

    @model_validator(mode="after")
    def _parameter_fits(self) -> Statistics:
        family, parameter = self.spending_function, self.spending_parameter
        if parameter is None or family == "hwang_shih_decani" or (family == "kim_demets" and parameter > 0):
            return self
        allowed = "a number above 0" if family == "kim_demets" else "null: that family has no parameter"
        raise ValueError(f"spending_parameter is {parameter:g}, with {family} allowed is {allowed}")


class Money(Section):
    """What a conversion is worth, so that a verdict can say what a variant earns."""

    value_per_conversion: float | None = Field(
        None, gt=0, le=1e9, description="Worth of one conversion; null: nothing is told in money."
    )
    currency: str | None = Field(
        None,
        pattern=r"^[^\s\d]{1,10}$",
        description="What amounts are in, such as EUR; null shows bare numbers.",
    )


class SmartAllocation(Section):
    """Moving traffic towards the leader, one day at a time."""

    enabled: bool = Field(True, description="False keeps equal shares for the whole experiment.")
    min_traffic_to_loser: float = Field(
        10,
        ge=1,
        le=50,
        description="Least share of any variant, in percent; never more than an equal share.",
    )


class Reporting(Section):
    """When the weekly report is made and who hears of it."""

    weekly_report: bool = Field(True, description="Whether the schedule makes the weekly report.")
    report_day: Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"] = Field(
        "monday", description="Day of the report, in the site's zone."
    )
    report_time: str = Field(
        "09:00",
        pattern=r"^([01]\d|2[0-3]):[0-5]\d$",
        description="Time of the report, HH:MM in the site's zone.",
    )
    notification_channels: tuple[Literal["email", "slack"], ...] = Field(
        (), description="Channels to tell once notifications exist; nothing is sent yet."
    )


class Site(Section):
    """The website itself."""

    name: str = Field("My site", min_length=1, max_length=200, description="Name on reports.")
    time_zone: str = Field("UTC", description="IANA zone: days, and so epochs, end at its midnights.")

    @field_validator("time_zone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            return zone(value).key
        except InvalidInput as error:
            raise ValueError(str(error)) from None


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        raise ValueError(f"got {text!r}, which is no network: write it like 203.0.113.0/24") from None


HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def _host(text: str) -> str:
    name = text.strip().rstrip(".").lower()
    if not HOST.fullmatch(name):
        raise ValueError(f"got {text!r}, which is no host: write it like staging.example.com")
    return name


class Privacy(Section):
    """Whom not to count."""

    honour_global_privacy_control: bool = Field(
        True, description="A visitor with Sec-GPC: 1 gets the control, and nothing is stored."
    )
    internal_networks: tuple[str, ...] = Field(
        (),
        description="Networks of your own people, like 203.0.113.0/24: their events are kept, never counted.",
    )
    internal_hosts: tuple[str, ...] = Field(
        (), description="Hosts of pages that are no public ones, like staging.example.com: the same."
    )

    @field_validator("internal_networks")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_network(text) for text in value)

    @field_validator("internal_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_host(text) for text in value)


class Service(Section):
    """The HTTP service."""

    host: str = Field(
        "127.0.0.1", min_length=1, description="Address to bind; loopback unless you say otherwise."
    )
    port: int = Field(3000, ge=1, le=65535, description="Port to bind.")
    threads: int = Field(
        64, ge=1, le=512, description="Requests handled at once; those that wait together share a commit."
    )
    max_body_bytes: int = Field(1_000_000, ge=1_000, le=100_000_000, description="Largest request body.")
    max_events_per_request: int = Field(5_000, ge=1, le=100_000, description="Most events in one request.")
    max_waiting_events: int = Field(
        20_000,
        ge=1,
        le=10_000_000,
        description="Most events that wait for the store at once; a request beyond it is answered 503.",
    )
    requests_per_second: float | None = Field(
        50.0,
        gt=0,
        le=1_000_000,
        description="Most requests a second of one client, and of one key, over ten seconds; beyond it 429. "
        "This machine itself is not limited. Null: nobody is.",
    )
    trusted_proxies: int = Field(
        0,
        ge=0,
        le=10,
        description="How many proxies stand before the service: so many entries of X-Forwarded-For are believed.",
    )
    city_header: str | None = Field(
        None,
        pattern=HEADER,
        description="Header in which a trusted proxy tells the visitor's city, percent-encoded where it is not ASCII.",
    )
    country_header: str | None = Field(
        None, pattern=HEADER, description="Header in which a trusted proxy tells the visitor's country."
    )
    geo_database: str | None = Field(
        None,
        min_length=1,
        description="Path of a MaxMind file (.mmdb) that tells city and country of an address; needs the extra geo.",
    )


BUCKET = re.compile(r"s3a?://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_.=-]+)*/?")
"""An address in an object store; the two libraries that read it disagree on what other characters mean."""


class Storage(Section):
    """Where events are kept, and for how long."""

    lake: str | None = Field(
        None,
        min_length=1,
        description="Folder or object-store address of the sealed days; null is data/lake in the home.",
    )
    hot_days: int = Field(
        1, ge=0, le=365, description="Full days before today (UTC) that stay in the database, unsealed."
    )
    seal_at_events: int = Field(
        50_000,
        ge=0,
        le=1_000_000_000,
        description="Least closed events that are worth sealing; a small site stays in its database.",
    )
    retention_days: int | None = Field(
        None, ge=1, le=36_500, description="Age at which events are erased; null keeps them."
    )

    @field_validator("lake")
    @classmethod
    def _place(cls, value: str | None) -> str | None:
        if value is not None and "://" in value and not BUCKET.fullmatch(value):
            raise ValueError(
                f"got {value!r}, which is no place for a lake: give a folder, or an address like s3://bucket/site, "
                "whose path has letters without accents, digits and _ . = - only"
            )
        return value


DEFAULT_GOALS: Mapping[str, float] = {
    "contact_form_submit": 100,
    "phone_click": 80,
    "whatsapp_click": 75,
    "video_complete": 30,
    "video_play": 20,
    "gallery_interaction": 15,
    "time_on_page_60s": 12,
    "scroll_depth_75": 10,
}


class Config(Section):
    """All settings; ``Config()`` is what ships."""

    site: Site = Site()
    automation: Automation = Automation()
    optimization_goals: dict[str, Weight] = Field(
        default_factory=lambda: dict(DEFAULT_GOALS),
        min_length=1,
        description="Weight of each goal in the engagement score.",
    )
    primary_goals: tuple[str, ...] = Field(
        ("contact_form_submit",), min_length=1, description="Any of these makes a visitor converted."
    )
    statistics: Statistics = Statistics()
    money: Money = Money()
    smart_traffic_allocation: SmartAllocation = SmartAllocation()
    reporting: Reporting = Reporting()
    privacy: Privacy = Privacy()
    service: Service = Service()
    storage: Storage = Storage()

    @field_validator("optimization_goals")
    @classmethod
    def _keys(cls, value: dict[str, float]) -> dict[str, float]:
        for name in value:
            if not KEY.fullmatch(name):
                raise ValueError(f"goal {name!r} is not a key: use 1 to 100 of A-Z a-z 0-9 . _ : -")
            if name in RESERVED_GOALS:
                raise ValueError(f"{name!r} cannot be a goal: it says that a visitor met a variant")
        return value

    @model_validator(mode="after")
    def _primary_goals_exist(self) -> Config:
        for name in self.primary_goals:
            if name not in self.optimization_goals:
                raise _refusal(
                    "primary_goals",
                    f"names {name!r}, which optimization_goals does not have: "
                    f"choose from {', '.join(self.optimization_goals)}",
                )
        return self

    @model_validator(mode="after")
    def _measured_goals_exist(self) -> Config:
        known = ", ".join(self.optimization_goals)
        rules, ratios = self.statistics.guardrails, self.statistics.ratio_metrics
        named = [("guardrails", rule.goal) for rule in rules if rule.goal is not None]
        sides = (Quantity.parse(side) for ratio in ratios for side in (ratio.numerator, ratio.denominator))
        named += [("ratio_metrics", side.of) for side in sides if side.of is not None]
        for key, goal in named:
            if goal not in self.optimization_goals:
                text = f"names {goal!r}, which optimization_goals does not have: choose from {known}"
                raise _refusal(f"statistics.{key}", text)
        repeated = _repeated([ratio.name for ratio in ratios])
        if repeated:
            text = f"has two metrics {repeated!r}: give each its own name"
            raise _refusal("statistics.ratio_metrics", text)
        twice = _repeated([f"{g.measure} ({g.harm})" for g in self.guardrails()])
        if twice:
            raise _refusal("statistics.guardrails", f"guards {twice} twice: keep one of them")
        return self

    @property
    def alpha(self) -> float:
        """Two-sided false-positive rate of one experiment."""
        return round(1 - self.automation.confidence_level, 12)

    @property
    def mde(self) -> float:
        """Relative uplift that plans are made for."""
        chosen = self.statistics.minimum_detectable_uplift
        return chosen if chosen is not None else self.automation.min_conversion_difference or 0.10

    @property
    def window(self) -> timedelta:
        """How long after its first exposure a unit may convert."""
        return timedelta(hours=self.statistics.conversion_window_hours)

    def floor(self, variants: int) -> float:
        """Least share of a variant, as a fraction; never more than an equal share, which is all they can have."""
        return min(self.smart_traffic_allocation.min_traffic_to_loser / 100, 1 / variants)

    def goals(self) -> tuple[Goal, ...]:
        """The goals with their weights, primary ones marked."""
        return tuple(
            Goal(name, weight, name in self.primary_goals) for name, weight in self.optimization_goals.items()
        )

    def guardrails(self) -> tuple[Guardrail, ...]:
        """What no variant may worsen."""
        return tuple(rule.guardrail for rule in self.statistics.guardrails)

    def ratios(self) -> tuple[Ratio, ...]:
        """The ratio metrics."""
        return tuple(Ratio(r.name, r.numerator, r.denominator) for r in self.statistics.ratio_metrics)


@dataclass(frozen=True)
class Loaded:
    """A validated configuration and where it came from."""

    config: Config
    sources: Mapping[str, str]
    """Dotted key -> ``default``, ``file`` or the environment variable's name."""
    warnings: tuple[str, ...]
    """What explicit settings cost in validity or power."""


def load(path: Path | None, environ: Mapping[str, str]) -> Loaded:
    """Reads the file (none: defaults only), lays the environment over it, validates the whole.

    Raises:
        ConfigError: the file is not JSON, a key is unknown, or a value is out of range. The message names
            every offending key, what it got and what is allowed; ``field`` is the first of them.
    """
    return resolve(_read(path) if path else {}, environ)


def resolve(settings: Mapping[str, Any], environ: Mapping[str, str]) -> Loaded:
    """:func:`load` for settings that are not in a file (yet)."""
    merged: dict[str, Any] = json.loads(json.dumps(settings))
    sources = {key: "file" for key, _ in leaves(merged)}
    for name, keys, value in _overrides(environ):
        _put(merged, keys, value, name)
        sources |= {key: name for key, _ in leaves(_nested(keys, value))}
    config = validate(merged, sources)
    effective = {key: sources.get(key, "default") for key, _ in leaves(config.model_dump(mode="json"))}
    return Loaded(config, effective, tuple(_costs(config, effective)))


def validate(data: Any, sources: Mapping[str, str] | None = None) -> Config:
    """The configuration in ``data``.

    Args:
        data: nested settings, as in the file.
        sources: dotted key -> ``file`` or the environment variable that set it, for the complaint.

    Raises:
        ConfigError: naming every key that is unknown or out of range.
    """
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        refused = faults(error, "configuration")
        origin = {key: f" (from {name})" for key, name in (sources or {}).items() if name != "file"}
        lines = [
            f"{_key(fault)}{origin.get(_key(fault), '')}: {phrase(fault, SENTENCES, _not_allowed)}"
            for fault in refused
        ]
        raise ConfigError("configuration refused: " + "; ".join(lines), field=_key(refused[0])) from None


def leaves(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every ``(dotted key, value)`` of nested settings; lists are values."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path.name} is not JSON (line {error.lineno}, column {error.colno}): {error.msg}"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path.name} holds {type(data).__name__}: it must be an object with sections")
    return data


def _overrides(environ: Mapping[str, str]) -> Iterator[tuple[str, list[str], Any]]:
    """``CRO_A__B`` variables and whole sections; plain ones such as CRO_HOME belong to the home."""
    for name, text in sorted(environ.items()):
        if not name.startswith(ENV_PREFIX):
            continue
        keys = name.removeprefix(ENV_PREFIX).lower().split("__")
        if len(keys) > 1 or keys[0] in Config.model_fields:
            yield name, keys, _value(text, _field(keys))


def _value(text: str, info: FieldInfo | None) -> Any:
    """JSON where it is JSON; but a text setting such as a name may look like a number and stays text."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return text if info is not None and info.annotation is str and not isinstance(value, str) else value


def _put(data: dict[str, Any], keys: list[str], value: Any, source: str) -> None:
    """Sets one key, or several where ``value`` is a part of a section; goals not named keep their weights."""
    for depth, key in enumerate(keys[:-1], 1):
        child = data.setdefault(key, dict(DEFAULT_GOALS) if key == "optimization_goals" else {})
        if not isinstance(child, dict):
            where = ".".join(keys[:depth])
            raise ConfigError(f"{source} sets a key inside {where}, which is a single value", field=where)
        data = child
    old = data.get(keys[-1])
    merges = isinstance(value, dict) and isinstance(old, dict) and keys != ["optimization_goals"]
    data[keys[-1]] = {**old, **value} if merges else value  # type: ignore[dict-item]


def _nested(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    nested: dict[str, Any] = value
    return nested


def _refusal(key: str, text: str) -> PydanticCustomError:
    """A complaint about a key that only the whole configuration can make."""
    return PydanticCustomError("refused", "{text}", {"key": key, "text": text})


SENTENCES: Mapping[str, Sentence] = {
    "extra_forbidden": lambda _: "no such setting: see `cro config` for those there are",
    "value_error": lambda fault: fault.said,
    "refused": lambda fault: fault.said,
    "literal_error": lambda fault: f"got {fault.got!r}, allowed is {fault.context['expected']}",
}
"""How a setting is refused, by kind of fault."""


def _not_allowed(fault: Fault) -> str:
    info = _field(fault.path)
    allowed = "" if info is None else _allowed(info, inside=len(fault.path) > 1)
    return (
        f"got {fault.got!r}, allowed is {allowed}" if allowed else f"got {fault.got!r}: {fault.said.lower()}"
    )


def _key(fault: Fault) -> str:
    """The dotted key; where only the whole configuration could tell, the one that its check names."""
    return fault.field or str(fault.context.get("key", fault.whole))


def _field(location: Sequence[Any]) -> FieldInfo | None:
    """The declaration of a setting, or ``None`` where there is none; inside a value, that value's."""
    model: type[BaseModel] = Config
    info: FieldInfo | None = None
    for part in location:
        if isinstance(part, int):
            continue  # an item of a list, whose model is already there
        info = model.model_fields.get(str(part))
        if info is None:
            return None
        section = _section(info.annotation)
        if section is None:
            return info
        model = section
    return info


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model that a setting is, or that each item of its list is."""
    item = get_args(annotation)[0] if get_origin(annotation) is tuple else annotation
    return item if isinstance(item, type) and issubclass(item, BaseModel) else None


def _repeated(names: Sequence[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)


WRITTEN: Mapping[str, str] = {
    NAME: "1 to 100 of A-Z a-z 0-9 . _ : -",
    QUANTITY: QUANTITIES,
}
"""What texts of these patterns look like."""

KINDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    int | None: "null or a whole number",
    float: "a number",
    float | None: "null or a number",
    str: "text",
    str | None: "null or text",
}


def _allowed(info: FieldInfo, *, inside: bool) -> str:
    """What a setting (or what is ``inside`` it) may be, e.g. ``a whole number >= 1 and <= 50``."""
    if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
        return f"an object with {', '.join(info.annotation.model_fields)}"
    if info.annotation == dict[str, Weight]:
        weight = "a number >= 0 and <= 1000000"
        return weight if inside else f"an object of at least one goal, each with {weight}"
    if get_origin(info.annotation) is tuple:
        item = _section(info.annotation)
        what = (
            f"objects with {', '.join(item.model_fields)}" if item else _one_of(get_args(info.annotation)[0])
        )
        return f"a list of {what}{_bounds(info)}"
    patterns = [m.pattern for m in info.metadata if getattr(m, "pattern", None)]
    if info.annotation is str and patterns:
        return WRITTEN.get(patterns[0], "HH:MM between 00:00 and 23:59")
    return KINDS.get(info.annotation, "") + _bounds(info)


def _one_of(item: Any) -> str:
    return " or ".join(map(repr, get_args(item))) if get_origin(item) is Literal else "texts"


def _bounds(info: FieldInfo) -> str:
    signs = {
        "gt": ">",
        "ge": ">=",
        "lt": "<",
        "le": "<=",
        "min_length": "length >=",
        "max_length": "length <=",
    }
    bounds = [f"{sign} {getattr(m, k)}" for m in info.metadata for k, sign in signs.items() if hasattr(m, k)]
    return " " + " and ".join(bounds) if bounds else ""


def _costs(config: Config, sources: Mapping[str, str]) -> Iterator[str]:
    explicit = {key for key, source in sources.items() if source != "default"}
    floor = config.smart_traffic_allocation.min_traffic_to_loser
    if config.smart_traffic_allocation.enabled and floor < 10:
        yield (
            f"smart_traffic_allocation.min_traffic_to_loser is {floor:g} %: the plan needs still more visitors than with "
            "10 %, where it takes 17 % more than with fixed shares; less than 10 % was not simulated"
        )
    if config.statistics.at_horizon == "pick_leader":
        yield (
            "statistics.at_horizon is pick_leader: after an undecided last look the leader is shown without proof; "
            "it is labelled an unproven pick and never counted as a winner"
        )
    if config.statistics.min_uplift_gate != "not_excluded" and config.automation.min_conversion_difference:
        yield (
            f"statistics.min_uplift_gate is {config.statistics.min_uplift_gate}: a true uplift of just "
            f"{config.automation.min_conversion_difference:.0%} is then found at most half of the time, whatever the sample"
        )
    rate = config.statistics.stream_false_discovery_rate
    if rate is not None:
        yield (
            f"statistics.stream_false_discovery_rate is {rate:g}: the first experiment is run at an error rate of about "
            f"{min(config.alpha, rate / 9):.1%} and later ones at what the results allow; each needs more visitors for that"
        )
    if config.automation.confidence_level < 0.95:
        yield (
            f"automation.confidence_level is {config.automation.confidence_level:g}: "
            f"{config.alpha:.0%} of tests without effect will declare one"
        )
    if config.automation.min_sample_size < 100 and "automation.min_sample_size" in explicit:
        yield (
            f"automation.min_sample_size is {config.automation.min_sample_size}: "
            "the test is only approximate below 100 per variant"
        )
