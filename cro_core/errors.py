"""What can go wrong, as a small tree of named errors.

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

Every message says what was got, what was wanted and what to do.
"""

from __future__ import annotations

from pathlib import Path


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
