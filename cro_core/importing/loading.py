"""Loads and checks an import mapping, the TOML file that says what a table's columns mean.

Every mistake in it is refused by the name of its key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from cro_core.domain import RESERVED_GOALS
from cro_core.errors import KEY_RULE, Fault, MappingError, Sentence, faults, phrase
from cro_core.importing.agreement import disagreements
from cro_core.importing.mapping import ImportMapping, OutcomeMapping
from cro_core.importing.refusal import did_you_mean, refuse

AMapping = TypeVar("AMapping", ImportMapping, OutcomeMapping)


def load_mapping(mapping: str | Path | Mapping[str, Any]) -> ImportMapping:
    """Loads a mapping that ships, by name; or your own, by the path of a ``.toml``; or from its content.

    Raises:
        MappingError: there is none of that name, or a key of it is refused.
    """
    if isinstance(mapping, Mapping):
        return parse_mapping(mapping, "mapping")
    if isinstance(mapping, str) and mapping in shipped():
        text, name = (
            (files("cro_core.importing") / "mappings" / f"{mapping}.toml").read_text(encoding="utf-8"),
            mapping,
        )
    else:
        text, name = _own(Path(mapping)), Path(mapping).name
    return parse_mapping(_parsed(text, name), name)


def shipped() -> list[str]:
    """Lists the names of the mappings that come with the package."""
    folder = files("cro_core.importing") / "mappings"
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def parse_mapping(data: Mapping[str, Any], source: str) -> ImportMapping:
    """Checks the content of a mapping and returns it typed.

    Raises:
        MappingError: naming every key that is unknown, missing or of the wrong kind; or, where each is
            right by itself, the first that does not agree with the others.
    """
    mapping = _validated(ImportMapping, data, source)
    for problem in disagreements(mapping):
        raise problem
    return mapping


def load_outcomes(mapping: str | Path | Mapping[str, Any]) -> OutcomeMapping:
    """Loads the mapping of a table of outcomes, from the path of a ``.toml`` or from its content.

    Raises:
        MappingError: there is none of that name, or a key of it is refused.
    """
    if isinstance(mapping, Mapping):
        data, source = mapping, "outcomes"
    else:
        source = Path(mapping).name
        data = _parsed(_own(Path(mapping)), source)
    outcomes = _validated(OutcomeMapping, data, source)
    columns = outcomes.columns
    if (columns.lead is None) == (columns.visitor is None):
        got = "neither" if columns.lead is None else "both"
        wanted = "the column of the lead or that of the visitor"
        raise refuse(source, "columns", got, wanted, "name one of them: columns.lead or columns.visitor")
    if outcomes.goal in RESERVED_GOALS:
        raise refuse(
            source, "goal", repr(outcomes.goal), "a word for what became of the lead", 'e.g. "booked"'
        )
    return outcomes


def _validated(model: type[AMapping], data: Mapping[str, Any], source: str) -> AMapping:
    try:
        return model.model_validate({**data, "source": source})
    except ValidationError as error:
        sentences = SENTENCES | {"extra_forbidden": partial(_no_such_key, model)}
        refused = faults(error, source)
        lines = [f"{source}: {_key(fault.path)}: {phrase(fault, sentences, _complaint)}" for fault in refused]
        raise MappingError("; also ".join(lines), field=_key(refused[0].path)) from None


def _parsed(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise refuse(
            name, "TOML", str(error), "a TOML file", "docs/importing.md has some to start from"
        ) from None


def _own(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        fix = did_you_mean(path.name, shipped()) or "write one from docs/importing.md"
        wanted = f"a mapping that ships ({', '.join(shipped())}) or the path of a .toml file"
        raise refuse("--mapping", "name", repr(str(path)), wanted, fix) from None
    except UnicodeDecodeError:
        raise refuse(path.name, "TOML", "bytes that are not UTF-8", "a TOML file in UTF-8") from None


def _key(location: tuple[Any, ...]) -> str:
    """Writes a key as people do, such as ``goals[1].when``: entries of a list count from 1."""
    return "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _no_such_key(model: type[BaseModel], fault: Fault) -> str:
    keys = _known_keys(model, fault.path[:-1])
    fix = did_you_mean(str(fault.path[-1]), keys)
    return f"got a key that does not exist; wanted one of {', '.join(keys)}" + (f"; {fix}" if fix else "")


def _no_such_word(fault: Fault) -> str:
    expected = str(fault.context["expected"])
    words = [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
    fix = did_you_mean(str(fault.got), words)
    return f"got {fault.got!r}; wanted {expected}" + (f"; {fix}" if fix else "")


SENTENCES: dict[str, Sentence] = {
    "missing": lambda _: "got nothing; wanted a value; docs/importing.md has the table of keys",
    "value_error": lambda fault: fault.said,
    "string_pattern_mismatch": lambda fault: f"got {fault.got!r}; wanted {KEY_RULE}",
    "literal_error": _no_such_word,
}
"""How a key of a mapping is refused, by kind of fault."""


def _complaint(fault: Fault) -> str:
    wanted = fault.said.replace("Input should be", "").strip()
    return f"got {repr(fault.got)[:120]}; wanted {wanted[0].lower()}{wanted[1:]}"


def _known_keys(model: Any, location: tuple[Any, ...]) -> list[str]:
    for part in location:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            choices = [annotation, *get_args(annotation)]
            model = next(
                (choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel)),
                model,
            )
    return [name for name in model.model_fields if name != "source"]
