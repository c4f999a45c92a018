"""The types of an import mapping, the TOML file that says what a table's columns mean.

docs/importing.md explains every key.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from cro_core.clock import zone
from cro_core.domain import COST, KEY
from cro_core.errors import InvalidInput
from cro_core.importing.conditions import Cases, Scalar, columns_of, parse_cases, parse_scalar

UNITS_SINCE_1970 = ("seconds", "milliseconds", "microseconds")

SHARES_FIX = 'wanted a table such as { control = 0.5, new = 0.5 } that sums to 1, "equal" or "unknown"'


def _names(raw: Any) -> list[str]:
    names = [raw] if isinstance(raw, str) else raw
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"got {raw!r}; wanted the name of a column, or a list of such names")
    return names


def _values(raw: Any) -> list[Scalar]:
    return [parse_scalar(value) for value in (raw if isinstance(raw, list) else [raw])]


def _shares(raw: Any) -> dict[str, float] | str:
    if raw in ("equal", "unknown"):
        return str(raw)
    if not isinstance(raw, dict) or not all(
        type(share) in (int, float) and 0 <= share <= 1 for share in raw.values()
    ):
        raise ValueError(f"got {raw!r}; {SHARES_FIX}")
    if abs(sum(raw.values()) - 1) > 1e-9:
        raise ValueError(f"got shares that sum to {sum(raw.values()):.6g}; {SHARES_FIX}")
    return {key: float(share) for key, share in raw.items()}


When = Annotated[Cases, BeforeValidator(parse_cases)]
Names = Annotated[list[str], BeforeValidator(_names)]
Values = Annotated[list[Scalar], BeforeValidator(_values)]
Shares = Annotated[dict[str, float] | str, BeforeValidator(_shares)]
Column = Annotated[str, Field(min_length=1)]


class Part(BaseModel):
    """A table of the mapping: unknown keys are refused, types are not guessed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ExperimentPart(Part):
    """``[experiment]``: the experiment that an import makes."""

    id: str = Field(pattern=f"^{KEY.pattern}$")
    name: str = Field(default="", max_length=200)
    hypothesis: str = Field(default="", max_length=2000)
    occasion: str | None = Field(default=None, max_length=60)
    ignored_variants: Values = []


class ReadPart(Part):
    """How a file is read: its format, delimiter, encoding, and what stands for a missing value."""

    format: Literal["csv", "parquet", "ndjson"] | None = None
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    encoding: str = "utf-8-sig"
    missing: list[str] = []

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            return codecs.lookup(value).name
        except LookupError:
            raise ValueError(
                f"got {value!r}; wanted the name of an encoding, such as utf-8 or cp1252"
            ) from None


class TablePart(ReadPart):
    """``[table]``: how the file is read, and what a row is."""

    layout: Literal["visitors", "events"]


class ColumnsPart(Part):
    """``[columns]``: which column holds the variant, the unit, the time and so on."""

    variant: Column
    unit: Column | None = None
    time: Names | None = None
    session: Column | None = None
    device: Column | None = None
    city: Column | None = None
    country: Column | None = None
    asset: Column | None = None
    occasion: Column | None = None
    value: Column | None = None
    covariate: Column | None = None
    url: Column | None = None


class TimePart(Part):
    """``[time]``: how times are written."""

    zone: str | None = None
    format: str | None = None
    fixed: str | None = None

    @field_validator("zone")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        try:
            return value and zone(value).key
        except InvalidInput as error:
            raise ValueError(str(error)) from None

    @field_validator("fixed", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return value.isoformat() if hasattr(value, "isoformat") else value


class VariantPart(Part):
    """``[[variants]]``: a variant, and how the table spells it."""

    key: str = Field(pattern=f"^{KEY.pattern}$")
    name: str = Field(default="", max_length=200)
    values: Values = []
    control: bool = False
    cost_per_exposure: float | None = Field(default=None, ge=0, le=1e9)

    @model_serializer(mode="wrap")
    def _without_what_nobody_said(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out a cost that was not given: mappings of before it existed keep their fingerprint."""
        data: dict[str, Any] = write(self)
        return {key: value for key, value in data.items() if key != COST or value is not None}

    @property
    def spellings(self) -> list[Scalar]:
        """Values of the variant column that stand for this variant."""
        return self.values or [self.key]


class RulePart(Part):
    """``[[valid]]``: what a row must be to count."""

    name: str = Field(min_length=1, max_length=200)
    any: When


class JoinPart(Part):
    """``[[join]]``: more columns from another table, found by a key."""

    file: str = Field(min_length=1)
    on: Column
    key: Column | None = None
    columns: list[Column] = Field(min_length=1)
    optional: bool = False


class FilePart(Part):
    """``[[files]]``: one of several tables that are read one after the other."""

    file: str = Field(min_length=1)
    set: dict[str, str] = {}


class ExposurePart(Part):
    """``[exposure]``: which rows say that a unit met its variant."""

    when: When


class GoalPart(Part):
    """``[[goals]]``: which rows say that a unit did something."""

    name: str = Field(pattern=f"^{KEY.pattern}$")
    when: When
    time: Names | None = None
    value: Column | None = None
    weight: float = Field(default=1.0, ge=0, le=1_000_000)
    primary: bool = False


class PlanPart(Part):
    """``[plan]``: what was fixed before the experiment."""

    shares: Shares
    planned_units: int | None = Field(default=None, gt=0)
    base_rate: float | None = Field(default=None, gt=0, lt=1)
    mde: float | None = Field(default=None, gt=0, le=10)
    window_hours: float | None = Field(default=None, ge=0, le=24 * 366 * 10)
    goal_at_exposure: bool = True


class ImportMapping(Part):
    """A whole mapping of visitors' or events' tables; ``source`` is its name in messages."""

    source: str
    experiment: ExperimentPart
    table: TablePart
    columns: ColumnsPart
    time: TimePart = TimePart()
    variants: list[VariantPart] = Field(min_length=2, max_length=20)
    exposure: ExposurePart | None = None
    goals: list[GoalPart] = Field(min_length=1)
    plan: PlanPart
    only: When | None = None
    valid: list[RulePart] = []
    join: list[JoinPart] = []
    files: list[FilePart] = []

    @property
    def control(self) -> VariantPart:
        """The variant the others are compared with."""
        return next(variant for variant in self.variants if variant.control)

    @property
    def goals_have_times(self) -> bool:
        """Whether a goal may happen at another time than its visitor's exposure."""
        return self.table.layout == "events" or any(goal.time for goal in self.goals)

    def references(self) -> Iterator[tuple[str, str]]:
        """Yields every key of the mapping that names a column, with that column."""
        for name in ColumnsPart.model_fields:
            value = getattr(self.columns, name)
            yield from (
                (f"columns.{name}", column) for column in ([value] if isinstance(value, str) else value or [])
            )
        conditions = [("only", self.only), ("exposure.when", self.exposure and self.exposure.when)]
        conditions += [(f"valid[{number}].any", rule.any) for number, rule in enumerate(self.valid, 1)]
        conditions += [(f"goals[{number}].when", goal.when) for number, goal in enumerate(self.goals, 1)]
        for key, cases in conditions:
            yield from ((key, column) for column in columns_of(cases or ()))
        for number, goal in enumerate(self.goals, 1):
            yield from ((f"goals[{number}].time", column) for column in goal.time or [])
            yield from ((f"goals[{number}].value", column) for column in [goal.value] if column)
        yield from ((f"join[{number}].on", join.on) for number, join in enumerate(self.join, 1))


class OutcomeColumns(Part):
    """``[columns]`` of an outcomes' table: which column holds the lead or the visitor, the time and so on."""

    lead: Column | None = None
    visitor: Column | None = None
    time: Names
    value: Column | None = None
    id: Column | None = None


class OutcomeMapping(Part):
    """A whole mapping of an outcomes' table, whose rows are what became of a lead, such as a booking."""

    source: str
    goal: str = Field(pattern=f"^{KEY.pattern}$")
    columns: OutcomeColumns
    table: ReadPart = ReadPart()
    time: TimePart = TimePart()

    join: ClassVar[list[JoinPart]] = []
    files: ClassVar[list[FilePart]] = []

    def references(self) -> Iterator[tuple[str, str]]:
        """Yields every key of the mapping that names a column, with that column."""
        for name in OutcomeColumns.model_fields:
            value = getattr(self.columns, name)
            yield from (
                (f"columns.{name}", column) for column in ([value] if isinstance(value, str) else value or [])
            )


AnyMapping = ImportMapping | OutcomeMapping


def fingerprint_text(mapping: AnyMapping) -> str:
    """Writes the mapping as one canonical text: equal mappings, equal texts."""
    return json.dumps(mapping.model_dump(mode="json", exclude={"source"}), sort_keys=True)
