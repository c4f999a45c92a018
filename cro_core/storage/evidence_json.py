"""Evidence as JSON, as it is stored, printed and sent: to and from, without loss.

A part that a decision has not got is left out, and what an earlier version did not know yet reads as ``None``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from functools import cache, partial
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from cro_core.clock import parse_time
from cro_core.domain import Plan, to_json
from cro_core.evidence import Evidence
from cro_core.storage.experiments import plan_from_json

Read = Callable[[Any], Any]


def evidence_to_json(evidence: Evidence) -> dict[str, Any]:
    """The evidence as JSON."""
    parts = ((part.name, getattr(evidence, part.name), part.default) for part in fields(evidence))
    return {name: to_json(value) for name, value, absent in parts if value != absent}


def evidence_from_json(data: Mapping[str, Any]) -> Evidence:
    """The inverse of :func:`evidence_to_json`."""
    evidence: Evidence = _reader(Evidence)(data)
    return evidence


@cache
def _reader(kind: Any) -> Read:
    """What makes a value of a type from its JSON; plain values stay as they are."""
    if kind is Plan:
        return plan_from_json
    if kind is datetime:
        return parse_time
    if isinstance(kind, type) and is_dataclass(kind):
        readers = {name: _reader(hint) for name, hint in get_type_hints(kind).items()}
        required = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
        return partial(_object, kind, readers, dict.fromkeys(required))
    if get_origin(kind) is tuple:
        return partial(_sequence, _reader(get_args(kind)[0]))
    if get_origin(kind) in (Union, UnionType):
        (inner,) = (option for option in get_args(kind) if option is not type(None))
        return partial(_optional, _reader(inner))
    return _plain


def _object(
    kind: Callable[..., Any], readers: Mapping[str, Read], missing: Mapping[str, None], data: Any
) -> Any:
    return kind(**{**missing, **{name: read(data[name]) for name, read in readers.items() if name in data}})


def _sequence(read: Read, data: Any) -> tuple[Any, ...]:
    return tuple(map(read, data))


def _optional(read: Read, data: Any) -> Any:
    return None if data is None else read(data)


def _plain(data: Any) -> Any:
    return data
