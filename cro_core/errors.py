"""What can go wrong, as a small tree of named errors, and how what pydantic refuses is worded.

    CroError
    ├── InvalidInput     a value is out of its range or of the wrong kind (also a ValueError)
    │   ├── ConfigError      a setting; carries the key
    │   ├── MappingError     an import mapping or the file it maps
    │   └── ParameterError   a notebook parameter that is unknown or mistyped
    ├── NotFound         a named thing does not exist in this home
    ├── Conflict         the thing exists, but its state forbids what was asked
    ├── Busy             another process holds the lock of this job
    ├── StoreError       the store cannot be opened or is of another version
    │   └── Overloaded       more waits for the store than it may; nothing was stored
    └── RunFailed        a notebook run failed; carries the notebook and the cell

Every message says what was got, what was wanted and what to do. What pydantic refuses is worded so too: an edge gives
a :data:`Sentence` for each kind of fault for which its readers need other words than pydantic's, which are of Python
and of its own types (kinds are pydantic's, such as ``extra_forbidden``), and one for all the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


class CroError(Exception):
    """Base of every error this package raises on purpose."""

    code = "error"


class InvalidInput(CroError, ValueError):
    """A value is out of its range or of the wrong kind; ``field`` names it where known."""

    code = "invalid_input"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ConfigError(InvalidInput):
    """A setting of ``cro-config.json`` or its environment variable is refused."""

    code = "invalid_config"


class MappingError(InvalidInput):
    """An import mapping, or the file it is applied to, cannot be used."""

    code = "invalid_mapping"


class ParameterError(InvalidInput):
    """A notebook parameter is unknown or of the wrong type."""

    code = "invalid_parameter"


class NotFound(CroError, LookupError):
    """A named thing does not exist in this home."""

    code = "not_found"


class Conflict(CroError):
    """The thing exists, but its state forbids what was asked."""

    code = "conflict"


class Busy(CroError):
    """Another process holds the lock of this job; nothing was done."""

    code = "busy"


class StoreError(CroError):
    """The store cannot be opened, or holds a schema this version does not know."""

    code = "store_error"


class Overloaded(StoreError):
    """More waits for the store than may wait; nothing was stored, and the same may be tried again soon."""

    code = "overloaded"


class RunFailed(CroError):
    """A notebook run failed; the executed notebook is kept."""

    code = "run_failed"

    def __init__(self, message: str, *, notebook: Path, cell: int | None = None) -> None:
        super().__init__(message)
        self.notebook = notebook
        self.cell = cell


KEY_RULE = "1 to 100 of the characters A-Z a-z 0-9 . _ : -"
"""What :data:`cro_core.domain.KEY` allows, in words."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One value that was refused."""

    path: tuple[str | int, ...]
    """The keys and indices that lead to it; empty for the whole."""
    kind: str
    """pydantic's name of what is wrong with it."""
    got: Any
    """The value; where something is missing, what it is missing from."""
    said: str
    """Why it is refused, in the words of pydantic or of the check that refused it."""
    context: Mapping[str, Any]
    """What pydantic compared it with, by pydantic's names, such as ``expected``."""
    whole: str
    """What to call the whole, such as ``body``."""

    @property
    def field(self) -> str | None:
        """The path with dots between; ``None`` for the whole."""
        return ".".join(map(str, self.path)) or None

    @property
    def name(self) -> str:
        """The field, or what the whole is called."""
        return self.field or self.whole

    @property
    def clause(self) -> str:
        """Why it is refused, with a small first letter, to follow a colon."""
        return self.said[:1].lower() + self.said[1:]


Sentence = Callable[[Fault], str]
"""Words a fault for the readers of one edge."""


def faults(error: ValidationError, whole: str) -> list[Fault]:
    """Lists everything that pydantic refused, in its order.

    Args:
        error: of validating something from outside.
        whole: what to call the value itself where none of its fields is at fault, e.g. ``body``.
    """
    return [
        Fault(
            path=problem["loc"],
            kind=problem["type"],
            got=problem["input"],
            said=problem["msg"].removeprefix("Value error, "),
            context=problem.get("ctx", {}),
            whole=whole,
        )
        for problem in error.errors(include_url=False)
    ]


def phrase(fault: Fault, sentences: Mapping[str, Sentence], otherwise: Sentence) -> str:
    """Words a fault with the sentence for its kind, or with ``otherwise``."""
    return sentences.get(fault.kind, otherwise)(fault)
