"""What pydantic refused, in the words of an edge."""

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from cro_core.errors import Fault, faults, phrase


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int

    @field_validator("size")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("Odd sizes do not fit: give an even one")
        return value


class Outer(BaseModel):
    items: list[Inner]


def refused(value: object) -> list[Fault]:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(value)
    return faults(caught.value, "body")


def test_every_fault_is_listed_with_its_place_and_what_was_got() -> None:
    first, second = refused({"items": [{"size": 2, "colour": 1}, {"size": 3}]})
    assert (first.field, first.name, first.kind, first.got) == (
        "items.0.colour", "items.0.colour", "extra_forbidden", 1,
    )  # fmt: skip
    assert (second.path, second.got) == (("items", 1, "size"), 3)


def test_a_check_of_our_own_speaks_for_itself() -> None:
    (fault,) = refused({"items": [{"size": 3}]})
    assert fault.said == "Odd sizes do not fit: give an even one"
    assert fault.clause == "odd sizes do not fit: give an even one"


def test_the_whole_is_called_by_its_name_and_is_no_field() -> None:
    (fault,) = refused([1])
    assert (fault.name, fault.field, fault.path) == ("body", None, ())


def test_a_fault_is_worded_by_its_kind() -> None:
    (missing,) = refused({})
    sentences = {"missing": lambda fault: f"{fault.name} is missing"}
    assert phrase(missing, sentences, lambda fault: fault.said) == "items is missing"
    assert phrase(missing, {}, lambda fault: fault.said) == "Field required"
