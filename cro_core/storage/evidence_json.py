"""Evidence as JSON, as it is stored, printed and sent: to and from, without loss.

A part that a decision has not got is left out, and what an earlier version did not know yet reads as ``None``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from functools import cache, partial
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from cro_core.clock import parse_time
from cro_core.domain import Plan, to_json
from cro_core.evidence import Evidence
from cro_core.storage.experiments import plan_from_json

T = TypeVar("T")
Read = Callable[[Any], Any]

PLAN = frozenset(part.name for part in fields(Plan))


def evidence_to_json(evidence: Evidence) -> dict[str, Any]:
    """The evidence as JSON."""
    parts = ((part.name, getattr(evidence, part.name), part.default) for part in fields(evidence))
    return {name: to_json(value) for name, value, absent in parts if value != absent}


def evidence_from_json(data: Mapping[str, Any]) -> Evidence:
    """The inverse of :func:`evidence_to_json`."""
    return _object(Evidence, data)


@cache
def _reader(kind: Any) -> Read | None:
    """What makes a value of a type from its JSON; ``None`` where it stays as it is."""
    if kind is Plan:
        return _plan
    if kind is datetime:
        return parse_time
    if isinstance(kind, type) and is_dataclass(kind):
        return partial(_object, kind)
    if get_origin(kind) is tuple:
        return partial(_sequence, _reader(get_args(kind)[0]))
    if get_origin(kind) in (Union, UnionType):
        (option,) = (option for option in get_args(kind) if option is not type(None))
        return _reader(option)
    return None


@cache
def _fields(kind: Any) -> tuple[dict[str, Read | None], dict[str, None]]:
    """How each field of a dataclass is read, and what those that must be given are where they are missing."""
    readers = {name: _reader(hint) for name, hint in get_type_hints(kind).items()}
    required = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    return readers, dict.fromkeys(required)


def _object(kind: Callable[..., T], data: Mapping[str, Any]) -> T:
    readers, missing = _fields(kind)
    values: dict[str, Any] = {**missing}
    for name, value in data.items():
        if name in readers:
            read = readers[name]
            values[name] = value if read is None or value is None else read(value)
    return kind(**values)


def _plan(data: Mapping[str, Any]) -> Plan:
    # A running experiment's plan must be understood whole; of one that was only kept, what we do not know may be left.
    return plan_from_json({name: value for name, value in data.items() if name in PLAN})


def _sequence(read: Read | None, data: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(data) if read is None else tuple(map(read, data))
