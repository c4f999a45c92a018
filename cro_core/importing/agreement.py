"""Checks an import mapping for keys that contradict each other, though each is right by itself."""

from __future__ import annotations

from collections.abc import Iterator

from cro_core.domain import RESERVED_GOALS
from cro_core.errors import MappingError
from cro_core.importing.mapping import UNITS_SINCE_1970, ImportMapping
from cro_core.importing.refusal import did_you_mean, listing, refuse


def disagreements(mapping: ImportMapping) -> Iterator[MappingError]:
    """Yields an error for each contradiction between keys that are right one by one."""
    yield from _variant_problems(mapping)
    yield from _goal_problems(mapping)
    yield from _time_problems(mapping)
    if mapping.table.layout == "events" and mapping.exposure is None:
        want = "which rows are exposures, since an event log holds goals too"
        yield refuse(
            mapping.source, "exposure.when", "nothing", want, 'add [exposure] with when = { action = "view" }'
        )
    if mapping.table.layout == "events" and mapping.columns.unit is None:
        yield refuse(
            mapping.source, "columns.unit", "nothing", "the column that joins a visitor's events", "name it"
        )
    for number, join in enumerate(mapping.join, 1):
        if mapping.columns.unit in join.columns or mapping.columns.variant in join.columns:
            yield refuse(
                mapping.source,
                f"join[{number}].columns",
                listing(join.columns),
                "neither the unit nor the variant",
                "take them from the table itself",
            )


def _variant_problems(mapping: ImportMapping) -> Iterator[MappingError]:
    keys = [variant.key for variant in mapping.variants]
    for number, variant in enumerate(mapping.variants, 1):
        if keys.index(variant.key) != number - 1:
            yield refuse(
                mapping.source, f"variants[{number}].key", repr(variant.key), "distinct keys", "rename one"
            )
    spellings = [str(value) for variant in mapping.variants for value in variant.spellings] + [
        str(variant) for variant in mapping.experiment.ignored_variants
    ]
    for value in spellings:
        if spellings.count(value) > 1:
            yield refuse(
                mapping.source,
                "variants.values",
                f"{value!r} twice",
                "each value in one place only",
                "remove one",
            )
    controls = [variant.key for variant in mapping.variants if variant.control]
    if len(controls) != 1:
        yield refuse(
            mapping.source,
            "variants.control",
            f"{len(controls)} controls",
            "exactly 1",
            f"set control = true in one of {', '.join(keys)}",
        )
    if isinstance(mapping.plan.shares, dict) and set(mapping.plan.shares) != set(keys):
        strange = next((key for key in mapping.plan.shares if key not in keys), "")
        fix = did_you_mean(strange, keys) or "name each variant once"
        yield refuse(
            mapping.source,
            "plan.shares",
            f"shares of {', '.join(mapping.plan.shares)}",
            f"shares of {', '.join(keys)}",
            fix,
        )


def _goal_problems(mapping: ImportMapping) -> Iterator[MappingError]:
    names = [goal.name for goal in mapping.goals]
    for number, goal in enumerate(mapping.goals, 1):
        if names.index(goal.name) != number - 1:
            yield refuse(
                mapping.source,
                f"goals[{number}].name",
                repr(goal.name),
                "distinct names",
                "rename one, or list both cases in one `when`",
            )
        if goal.name in RESERVED_GOALS:
            yield refuse(
                mapping.source,
                f"goals[{number}].name",
                repr(goal.name),
                "a word for what visitors do",
                "exposures are told by [exposure]",
            )
    if not any(goal.primary for goal in mapping.goals):
        yield refuse(
            mapping.source,
            "goals.primary",
            "no primary goal",
            "at least 1",
            f"set primary = true in one of {', '.join(names)}",
        )
    if not mapping.plan.goal_at_exposure and not mapping.goals_have_times:
        want = "true where goals have no time of their own, else nothing could ever count"
        yield refuse(
            mapping.source,
            "plan.goal_at_exposure",
            "false",
            want,
            "remove it, or give the goals a `time` column",
        )


def _time_problems(mapping: ImportMapping) -> Iterator[MappingError]:
    if mapping.columns.time is None and mapping.time.fixed is None:
        want = "the column of the time, or one time for all rows"
        yield refuse(
            mapping.source,
            "columns.time",
            "nothing",
            want,
            'name the column, or set fixed = "2026-03-01T00:00:00Z" in [time]',
        )
    if mapping.columns.time is not None and mapping.time.fixed is not None:
        yield refuse(
            mapping.source,
            "time.fixed",
            repr(mapping.time.fixed),
            "nothing beside columns.time",
            "remove one of the two",
        )
    text = mapping.time.format
    if text is not None and text not in UNITS_SINCE_1970 and "%" not in text:
        want = f'a pattern such as "%d/%m/%Y %H:%M", or one of {", ".join(UNITS_SINCE_1970)} (since 1970)'
        yield refuse(
            mapping.source,
            "time.format",
            repr(text),
            want,
            did_you_mean(text, UNITS_SINCE_1970) or "leave it out for ISO 8601",
        )
