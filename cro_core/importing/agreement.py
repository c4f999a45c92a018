"""What can be wrong between keys of a mapping that are right one by one."""

from __future__ import annotations

from collections.abc import Iterator

from cro_core.domain import EXPOSURE
from cro_core.errors import MappingError
from cro_core.importing.mapping import UNITS_SINCE_1970, ImportMapping
from cro_core.importing.refusal import did_you_mean, listing, refuse
from cro_core.ingest.cleaning import IMPRESSION


def disagreements(m: ImportMapping) -> Iterator[MappingError]:
    """What is wrong between keys that are right one by one."""
    yield from _variant_problems(m)
    yield from _goal_problems(m)
    yield from _time_problems(m)
    if m.table.layout == "events" and m.exposure is None:
        want = "which rows are exposures, since an event log holds goals too"
        yield refuse(
            m.source, "exposure.when", "nothing", want, 'add [exposure] with when = { action = "view" }'
        )
    if m.table.layout == "events" and m.columns.unit is None:
        yield refuse(
            m.source, "columns.unit", "nothing", "the column that joins a visitor's events", "name it"
        )
    for n, join in enumerate(m.join, 1):
        if m.columns.unit in join.columns or m.columns.variant in join.columns:
            yield refuse(
                m.source,
                f"join[{n}].columns",
                listing(join.columns),
                "neither the unit nor the variant",
                "take them from the table itself",
            )


def _variant_problems(m: ImportMapping) -> Iterator[MappingError]:
    keys = [v.key for v in m.variants]
    for n, variant in enumerate(m.variants, 1):
        if keys.index(variant.key) != n - 1:
            yield refuse(m.source, f"variants[{n}].key", repr(variant.key), "distinct keys", "rename one")
    written = [str(value) for v in m.variants for value in v.written] + [
        str(v) for v in m.experiment.ignored_variants
    ]
    for value in written:
        if written.count(value) > 1:
            yield refuse(
                m.source, "variants.values", f"{value!r} twice", "each value in one place only", "remove one"
            )
    controls = [v.key for v in m.variants if v.control]
    if len(controls) != 1:
        yield refuse(
            m.source,
            "variants.control",
            f"{len(controls)} controls",
            "exactly 1",
            f"set control = true in one of {', '.join(keys)}",
        )
    if isinstance(m.plan.shares, dict) and set(m.plan.shares) != set(keys):
        strange = next((key for key in m.plan.shares if key not in keys), "")
        fix = did_you_mean(strange, keys) or "name each variant once"
        yield refuse(
            m.source,
            "plan.shares",
            f"shares of {', '.join(m.plan.shares)}",
            f"shares of {', '.join(keys)}",
            fix,
        )


def _goal_problems(m: ImportMapping) -> Iterator[MappingError]:
    names = [goal.name for goal in m.goals]
    for n, goal in enumerate(m.goals, 1):
        if names.index(goal.name) != n - 1:
            yield refuse(
                m.source,
                f"goals[{n}].name",
                repr(goal.name),
                "distinct names",
                "rename one, or list both cases in one `when`",
            )
        if goal.name in (EXPOSURE, IMPRESSION):
            yield refuse(
                m.source,
                f"goals[{n}].name",
                repr(goal.name),
                "a word for what visitors do",
                "exposures are told by [exposure]",
            )
    if not any(goal.primary for goal in m.goals):
        yield refuse(
            m.source,
            "goals.primary",
            "no primary goal",
            "at least 1",
            f"set primary = true in one of {', '.join(names)}",
        )
    if not m.plan.goal_at_exposure and not m.goals_have_times:
        want = "true where goals have no time of their own, else nothing could ever count"
        yield refuse(
            m.source, "plan.goal_at_exposure", "false", want, "remove it, or give the goals a `time` column"
        )


def _time_problems(m: ImportMapping) -> Iterator[MappingError]:
    if m.columns.time is None and m.time.fixed is None:
        want = "the column of the time, or one time for all rows"
        yield refuse(
            m.source,
            "columns.time",
            "nothing",
            want,
            'name the column, or set fixed = "2026-03-01T00:00:00Z" in [time]',
        )
    if m.columns.time is not None and m.time.fixed is not None:
        yield refuse(
            m.source, "time.fixed", repr(m.time.fixed), "nothing beside columns.time", "remove one of the two"
        )
    text = m.time.format
    if text is not None and text not in UNITS_SINCE_1970 and "%" not in text:
        want = f'a pattern such as "%d/%m/%Y %H:%M", or one of {", ".join(UNITS_SINCE_1970)} (since 1970)'
        yield refuse(
            m.source,
            "time.format",
            repr(text),
            want,
            did_you_mean(text, UNITS_SINCE_1970) or "leave it out for ISO 8601",
        )
