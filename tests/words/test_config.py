"""Settings: what ships, what is refused and how, where values come from, what they cost."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cro_core.config import Config, leaves, load, resolve, validate
from cro_core.domain import Guardrail
from cro_core.errors import ConfigError

SEED: dict[str, Any] = {
    "automation": {
        "enabled": True,
        "min_sample_size": 100,
        "confidence_level": 0.95,
        "max_concurrent_tests": 5,
        "test_duration_max_days": 14,
        "min_conversion_difference": 0.10,
        "auto_declare_winners": True,
        "auto_start_new_tests": True,
    },
    "optimization_goals": {
        "contact_form_submit": 100,
        "phone_click": 80,
        "whatsapp_click": 75,
        "video_complete": 30,
        "video_play": 20,
        "gallery_interaction": 15,
        "time_on_page_60s": 12,
        "scroll_depth_75": 10,
    },
    "smart_traffic_allocation": {"enabled": True, "min_traffic_to_loser": 10},
    "reporting": {
        "weekly_report": True,
        "report_day": "monday",
        "report_time": "09:00",
        "notification_channels": ["email", "slack"],
    },
}
"""Every setting of the system that this one grew out of, with its value there."""

OURS: dict[str, Any] = {
    "reporting.notification_channels": [],
}
"""Where the shipped default differs: the channels because they need addresses."""

SHIPPED = {
    "statistics.power": 0.8,
    "statistics.minimum_detectable_uplift": None,
    "statistics.min_uplift_gate": "not_excluded",
    "statistics.at_horizon": "keep_control",
    "statistics.conversion_window_hours": 24,
    "statistics.max_crossover": 0.05,
    "primary_goals": ["contact_form_submit"],
    "site.time_zone": "UTC",
    "service.host": "127.0.0.1",
    "service.port": 3000,
}


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return value  # type: ignore[no-any-return]


def _refused(settings: Any, environ: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as refused:
        resolve(settings, environ or {})
    return refused.value


def _get(config: Config, dotted: str) -> Any:
    return dict(leaves(config.model_dump(mode="json")))[dotted]


def test_every_setting_of_old_is_there_with_its_default() -> None:
    shipped = dict(leaves(Config().model_dump(mode="json")))
    wanted = dict(leaves(SEED)) | OURS | SHIPPED
    assert {key: shipped.get(key, "(missing)") for key in wanted} == wanted


def test_the_file_of_old_is_taken_whole_and_costs_nothing() -> None:
    loaded = resolve(SEED, {})
    assert {key: _get(loaded.config, key) for key, _ in leaves(SEED)} == dict(leaves(SEED))
    assert loaded.warnings == ()
    assert loaded.config.floor(2) == pytest.approx(0.1)


def test_what_ships_costs_nothing_and_means_what_it_says() -> None:
    loaded = resolve({}, {})
    config = loaded.config
    assert loaded.warnings == ()
    assert (config.alpha, config.mde, config.window) == (0.05, 0.10, timedelta(hours=24))
    assert [config.floor(variants) for variants in (2, 3, 4)] == [0.1, 0.1, 0.1]
    assert [g.name for g in config.goals() if g.primary] == ["contact_form_submit"]
    assert {g.name: g.weight for g in config.goals()} == SEED["optimization_goals"]


RANGES = [
    ("automation.enabled", [3, "maybe", None, []], "true or false"),
    (
        "automation.min_sample_size",
        [0, 10_000_001, 1.5, "many", True, None],
        "a whole number >= 1 and <= 10000000",
    ),
    ("automation.confidence_level", [0.5, 1, 95, True, float("nan"), "high"], "a number > 0.5 and < 1"),
    ("automation.max_concurrent_tests", [0, 101, False, [5]], "a whole number >= 1 and <= 100"),
    ("automation.test_duration_max_days", [0, 366, "14d"], "a whole number >= 1 and <= 365"),
    ("automation.min_conversion_difference", [-0.1, 10.5, float("inf"), {}], "a number >= 0 and <= 10"),
    ("automation.auto_declare_winners", ["sometimes", 7], "true or false"),
    ("automation.auto_start_new_tests", ["sometimes", 7], "true or false"),
    ("automation", [3, "on"], "an object with enabled, min_sample_size"),
    ("optimization_goals", [{}, [], 5], "an object of at least one goal"),
    ("optimization_goals.phone_click", [-1, 1_000_001, "x", True, None], "a number >= 0 and <= 1000000"),
    ("primary_goals", [[], "contact_form_submit", 3], "a list of texts length >= 1"),
    ("statistics.power", [0.5, 1, "x"], "a number > 0.5 and < 1"),
    ("statistics.minimum_detectable_uplift", [0, 11, "x"], "null or a number > 0 and <= 10"),
    ("statistics.base_rate", [0, 1, -1], "a number > 0 and < 1"),
    ("statistics.min_uplift_gate", ["always", 1], "'not_excluded', 'point' or 'proven'"),
    ("statistics.at_horizon", ["ship", None], "'keep_control' or 'pick_leader'"),
    ("statistics.spending_function", ["linear", 1], "'hwang_shih_decani', 'obrien_fleming'"),
    ("statistics.spending_parameter", [-41, 41, "x"], "null or a number >= -40 and <= 40"),
    ("statistics.futility", ["x"], "true or false"),
    ("statistics.conversion_window_hours", [0, 2161, "x"], "a number > 0 and <= 2160"),
    ("statistics.traffic_per_day", [0, -1, "x"], "null or a number > 0"),
    ("statistics.guardrails", ["phone_click", 3], "a list of objects with goal, metric, max_drop, max_rise"),
    ("statistics.ratio_metrics", ["x", 3], "a list of objects with name, numerator, denominator"),
    ("statistics.secondary_adjustment", ["none", 1], "'holm' or 'benjamini_hochberg'"),
    ("statistics.covariate", ["history", None], "'engagement', 'exposure_value' or 'none'"),
    ("statistics.max_crossover", [-0.01, 1.1, "x", True], "a number >= 0 and <= 1"),
    ("statistics.always_valid_companion", ["x", None], "true or false"),
    ("statistics.stream_false_discovery_rate", [0, 0.51, -0.1, "x"], "null or a number > 0 and <= 0.5"),
    ("money.value_per_conversion", [0, -1, 1e10, "x", True], "null or a number > 0 and <= 1000000000"),
    ("money.currency", ["", "two words", "€10", 3], "null or text"),
    ("smart_traffic_allocation.enabled", ["x"], "true or false"),
    ("smart_traffic_allocation.min_traffic_to_loser", [0, 0.3, 51, "10 %"], "a number >= 1 and <= 50"),
    ("reporting.weekly_report", ["x"], "true or false"),
    ("reporting.report_day", ["Monday", 1, "mon"], "'monday', 'tuesday'"),
    ("reporting.report_time", ["9:00", "24:00", "09:60", "noon", 9], "HH:MM between 00:00 and 23:59"),
    ("reporting.notification_channels", ["email", 1], "a list of 'email' or 'slack'"),
    ("site.name", ["", "x" * 201, 5], "text length >= 1 and length <= 200"),
    ("site.time_zone", ["Mars", ""], "use an IANA name such as Europe/Paris"),
    ("privacy.honour_global_privacy_control", ["x"], "true or false"),
    ("service.port", [0, 65536, "http"], "a whole number >= 1 and <= 65535"),
    ("service.host", [""], "text length >= 1"),
    ("service.threads", [0, 513], "a whole number >= 1 and <= 512"),
    ("service.max_body_bytes", [999, 100_000_001], "a whole number >= 1000 and <= 100000000"),
    ("service.max_events_per_request", [0, 100_001], "a whole number >= 1 and <= 100000"),
    ("service.max_waiting_events", [0, 10_000_001], "a whole number >= 1 and <= 10000000"),
    ("service.requests_per_second", [0, -1, "x"], "null or a number > 0"),
    ("service.trusted_proxies", [-1, 11], "a whole number >= 0 and <= 10"),
    ("service.city_header", ["", "x y", 3], "null or text"),
    ("service.country_header", ["", "x:y"], "null or text"),
    ("service.geo_database", ["", 3], "null or text length >= 1"),
    ("privacy.internal_networks", ["203.0.113.0/24", ["somewhere"]], ""),
    ("privacy.internal_hosts", ["staging.example.com", 3], "a list of text"),
    (
        "privacy.internal_hosts",
        [["https://staging.example.com"], ["*.example.com"], [""]],
        "write it like staging.example.com",
    ),
    ("storage.lake", ["", 3], "null or text length >= 1"),
    ("storage.hot_days", [-1, 366], "a whole number >= 0 and <= 365"),
    ("storage.seal_at_events", [-1], "a whole number >= 0"),
    ("storage.retention_days", [0, 36_501], "null or a whole number"),
]


@pytest.mark.parametrize(("key", "value", "allowed"), [(k, v, a) for k, values, a in RANGES for v in values])
def test_a_refusal_names_the_key_and_what_is_allowed(key: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError) as refused:
        validate(_nested(key, value))
    assert refused.value.field == key
    assert f"{key}: " in str(refused.value)
    assert allowed in str(refused.value)


def test_every_setting_has_a_refusal_here() -> None:
    tried = {key for key, _, _ in RANGES}
    missing = {key for key, _ in leaves(Config().model_dump(mode="json")) if key not in tried}
    assert missing == {f"optimization_goals.{name}" for name in SEED["optimization_goals"]} - {
        "optimization_goals.phone_click"
    }


@pytest.mark.parametrize(
    ("key", "item", "field", "told"),
    [
        ("guardrails", {"goal": "phone_click"}, ".0", "give one of them"),
        ("guardrails", {"goal": "phone_click", "max_drop": 0.1, "max_rise": 0.1}, ".0", "both max_drop and"),
        ("guardrails", {"max_drop": 0.1}, ".0", "give one of goal and metric"),
        ("guardrails", {"goal": "phone_click", "metric": "revenue", "max_drop": 0.1}, ".0", "both a goal and"),
        ("guardrails", {"goal": "phone_click", "max_drop": 1}, ".0.max_drop", "null or a number >= 0 and < 1"),
        ("guardrails", {"goal": "phone_click", "max_rise": -0.1}, ".0.max_rise", ">= 0 and < 1"),
        ("guardrails", {"goal": 3, "max_drop": 0.1}, ".0.goal", "allowed is null or text"),
        ("guardrails", {"metric": "profit", "max_drop": 0.1}, ".0.metric", "'engagement' or 'revenue'"),
        ("guardrails", {"goal": "phone_klick", "max_drop": 0.1}, "", "names 'phone_klick'.*choose from"),
        ("guardrails", {"goal": "phone_click", "margin": 0.1}, ".0.margin", "no such setting"),
        ("guardrails", "phone_click", ".0", "objects with goal, metric, max_drop, max_rise"),
        ("ratio_metrics", {"name": "r", "numerator": "money", "denominator": "revenue"}, ".0.numerator", "value:NAME"),
        ("ratio_metrics", {"name": "r r", "numerator": "revenue", "denominator": "conversions"}, ".0.name", "1 to 100 of"),
        ("ratio_metrics", {"name": "r", "numerator": "count:x", "denominator": "revenue"}, "", "names 'x'"),
        ("ratio_metrics", {"name": "r", "numerator": "revenue", "denominator": "revenue"}, ".0", "by itself"),
    ],
)  # fmt: skip
def test_a_wrong_guardrail_or_ratio_is_refused_by_name(key: str, item: Any, field: str, told: str) -> None:
    error = _refused({"statistics": {key: [item]}})
    assert error.field == f"statistics.{key}{field}"
    assert re.search(told, str(error)), str(error)


def test_guardrails_and_ratios_are_named_once() -> None:
    rule = {"goal": "phone_click", "max_drop": 0.1}
    twice = _refused({"statistics": {"guardrails": [rule, rule | {"max_drop": 0.2}]}})
    assert (twice.field, "goal:phone_click (less) twice" in str(twice)) == ("statistics.guardrails", True)
    ratio = {"name": "r", "numerator": "revenue", "denominator": "conversions"}
    assert "two metrics 'r'" in str(_refused({"statistics": {"ratio_metrics": [ratio, ratio]}}))


def test_guardrails_come_from_the_environment_too() -> None:
    given = '[{"metric": "revenue", "max_drop": 0.05}, {"goal": "phone_click", "max_rise": 0}]'
    loaded = resolve({}, {"CRO_STATISTICS__GUARDRAILS": given})
    assert loaded.config.guardrails() == (
        Guardrail("revenue", 0.05, "less"),
        Guardrail("goal:phone_click", 0.0, "more"),
    )
    assert loaded.sources["statistics.guardrails"] == "CRO_STATISTICS__GUARDRAILS"


def test_a_channel_that_does_not_exist_is_named() -> None:
    error = _refused({"reporting": {"notification_channels": ["email", "fax"]}})
    assert error.field == "reporting.notification_channels.1"
    assert "got 'fax', allowed is 'email' or 'slack'" in str(error)


@pytest.mark.parametrize("key", ["automation.enable", "x", "statistics.alpha"])
def test_unknown_settings_are_refused(key: str) -> None:
    error = _refused(_nested(key, 1))
    assert error.field == key
    assert "no such setting" in str(error)


def test_every_offender_is_named_at_once() -> None:
    text = str(_refused({"automation": {"min_sample_size": 0}, "service": {"port": 0}, "colour": "red"}))
    assert all(key in text for key in ("automation.min_sample_size", "service.port", "colour"))


def test_primary_goals_must_be_goals() -> None:
    error = _refused({"primary_goals": ["order"]})
    assert error.field == "primary_goals"
    assert "choose from contact_form_submit, phone_click" in str(error)


@pytest.mark.parametrize(
    ("goal", "why"), [("a b", "is not a key"), ("exposure", "met a variant"), ("impression", "met a variant")]
)
def test_goals_are_keys_and_not_exposures(goal: str, why: str) -> None:
    error = _refused({"optimization_goals": {goal: 1}, "primary_goals": [goal]})
    assert error.field == "optimization_goals"
    assert why in str(error)


def test_a_window_may_be_longer_than_the_enrolment() -> None:
    """It comes after it."""
    long = {"automation": {"test_duration_max_days": 1}, "statistics": {"conversion_window_hours": 240}}
    assert resolve(long, {}).config.window == timedelta(days=10)


def test_the_floor_is_the_setting_and_never_more_than_an_equal_share() -> None:
    chosen = validate({"smart_traffic_allocation": {"min_traffic_to_loser": 30}})
    assert [chosen.floor(variants) for variants in (2, 3, 4, 5)] == [0.3, 0.3, 0.25, 0.2]
    config = validate({"smart_traffic_allocation": {"min_traffic_to_loser": 50}})
    assert config.floor(2) == 0.5
    for variants in range(3, 21):
        assert config.floor(variants) * variants <= 1 + 1e-12


class TestEnvironment:
    def test_variables_override_the_file_and_say_so(self, tmp_path: Path) -> None:
        file = tmp_path / "cro-config.json"
        file.write_text(json.dumps({"automation": {"max_concurrent_tests": 2, "min_sample_size": 200}}))
        loaded = load(file, {"CRO_AUTOMATION__MAX_CONCURRENT_TESTS": "3", "CRO_HOME": "/x", "PATH": "/bin"})
        assert loaded.config.automation.max_concurrent_tests == 3
        assert loaded.sources["automation.max_concurrent_tests"] == "CRO_AUTOMATION__MAX_CONCURRENT_TESTS"
        assert loaded.sources["automation.min_sample_size"] == "file"
        assert loaded.sources["automation.enabled"] == "default"
        assert set(loaded.sources) == {key for key, _ in leaves(Config().model_dump(mode="json"))}

    @pytest.mark.parametrize(
        ("name", "text", "key", "value"),
        [
            ("CRO_AUTOMATION__ENABLED", "False", "automation.enabled", False),
            ("CRO_STATISTICS__TRAFFIC_PER_DAY", "null", "statistics.traffic_per_day", None),
            ("CRO_STATISTICS__BASE_RATE", "0.05", "statistics.base_rate", 0.05),
            ("CRO_REPORTING__REPORT_TIME", "08:30", "reporting.report_time", "08:30"),
            (
                "CRO_REPORTING__NOTIFICATION_CHANNELS",
                '["slack"]',
                "reporting.notification_channels",
                ["slack"],
            ),
            ("CRO_PRIMARY_GOALS", '["phone_click"]', "primary_goals", ["phone_click"]),
            ("CRO_SITE__NAME", "Shop", "site.name", "Shop"),
            ("CRO_SITE__NAME", "123", "site.name", "123"),
            ("CRO_SITE__NAME", "true", "site.name", "true"),
            ("CRO_SITE__NAME", '"Shop"', "site.name", "Shop"),
        ],
    )
    def test_texts_become_the_kind_of_value_that_the_setting_has(
        self, name: str, text: str, key: str, value: Any
    ) -> None:
        loaded = resolve({}, {name: text})
        assert _get(loaded.config, key) == value
        assert loaded.sources[key] == name

    def test_a_part_of_a_section_leaves_the_rest(self) -> None:
        settings = {"automation": {"min_sample_size": 150}}
        environ = {"CRO_AUTOMATION": '{"enabled": false}', "CRO_AUTOMATION__MAX_CONCURRENT_TESTS": "1"}
        loaded = resolve(settings, environ)
        automation = loaded.config.automation
        assert (automation.enabled, automation.min_sample_size, automation.max_concurrent_tests) == (
            False,
            150,
            1,
        )
        assert loaded.sources["automation.enabled"] == "CRO_AUTOMATION"
        assert loaded.sources["automation.min_sample_size"] == "file"

    def test_one_weight_leaves_the_other_goals(self) -> None:
        loaded = resolve({}, {"CRO_OPTIMIZATION_GOALS__PHONE_CLICK": "55"})
        assert loaded.config.optimization_goals == SEED["optimization_goals"] | {"phone_click": 55}
        assert loaded.sources["optimization_goals.video_play"] == "default"
        added = resolve(
            {"optimization_goals": {"order": 1}, "primary_goals": ["order"]},
            {"CRO_OPTIMIZATION_GOALS__CALL": "2"},
        )
        assert added.config.optimization_goals == {"order": 1, "call": 2}

    def test_all_goals_at_once_replace_the_goals(self) -> None:
        loaded = resolve({}, {"CRO_OPTIMIZATION_GOALS": '{"order": 5}', "CRO_PRIMARY_GOALS": '["order"]'})
        assert loaded.config.optimization_goals == {"order": 5}
        assert loaded.sources["optimization_goals.order"] == "CRO_OPTIMIZATION_GOALS"

    def test_a_refusal_names_the_variable(self) -> None:
        error = _refused({}, {"CRO_SERVICE__PORT": "http"})
        assert error.field == "service.port"
        assert "service.port (from CRO_SERVICE__PORT): got 'http'" in str(error)

    def test_misspelt_variables_are_refused(self) -> None:
        assert _refused({}, {"CRO_AUTOMATION__ENABLE": "1"}).field == "automation.enable"
        assert _refused({}, {"CRO_AUTOMATOIN__ENABLED": "1"}).field == "automatoin"

    def test_a_key_inside_a_value_is_refused(self) -> None:
        error = _refused({"site": {"name": "x"}}, {"CRO_SITE__NAME__SHORT": "x"})
        assert error.field == "site.name"


class TestWarnings:
    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"smart_traffic_allocation": {"min_traffic_to_loser": 9}}, "min_traffic_to_loser is 9 %"),
            ({"statistics": {"at_horizon": "pick_leader"}}, "labelled an unproven pick and never counted"),
            (
                {"statistics": {"min_uplift_gate": "point"}},
                "min_uplift_gate is point: a true uplift of just 10%",
            ),
            ({"statistics": {"min_uplift_gate": "proven"}}, "min_uplift_gate is proven"),
            ({"automation": {"confidence_level": 0.9}}, "10% of tests without effect"),
            ({"automation": {"min_sample_size": 99}}, "only approximate below 100"),
        ],
    )
    def test_costly_settings_are_taken_and_priced(self, settings: dict[str, Any], said: str) -> None:
        (warning,) = resolve(settings, {}).warnings
        assert said in warning

    @pytest.mark.parametrize(
        "settings",
        [
            {"smart_traffic_allocation": {"min_traffic_to_loser": 10}},
            {"smart_traffic_allocation": {"min_traffic_to_loser": 9, "enabled": False}},
            {"statistics": {"min_uplift_gate": "point"}, "automation": {"min_conversion_difference": 0}},
            {"automation": {"confidence_level": 0.99, "min_sample_size": 100}},
        ],
    )
    def test_settings_that_cost_nothing_are_silent(self, settings: dict[str, Any]) -> None:
        assert resolve(settings, {}).warnings == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is not JSON (line 1, column 2)"),
        (b"[1]", "holds list: it must be an object"),
        (b'{"site": {"name": "\xff"}}', "is not UTF-8"),
        (b"", "is not JSON"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "cro-config.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        load(file, {})
    assert str(refused.value).startswith("cro-config.json")
    assert said in str(refused.value)


def test_mde_and_shipping_threshold_are_two_things() -> None:
    assert resolve({"automation": {"min_conversion_difference": 0.2}}, {}).config.mde == 0.2
    both = {
        "automation": {"min_conversion_difference": 0.2},
        "statistics": {"minimum_detectable_uplift": 0.05},
    }
    assert resolve(both, {}).config.mde == 0.05
    assert resolve({"automation": {"min_conversion_difference": 0}}, {}).config.mde == 0.10
