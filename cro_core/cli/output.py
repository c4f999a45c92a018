"""What a command prints, and the exit code that it ends with."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from cro_core.errors import Busy, CroError, InvalidInput, RunFailed

EXIT_ERROR, EXIT_USAGE, EXIT_BUSY = 1, 2, 75


def say(value: Any, as_json: bool, text: Callable[[Any], str]) -> None:
    """Prints an answer: as one JSON value, or as the text that is made of that value."""
    from cro_core.domain import to_json

    data = to_json(value)
    print(json.dumps(data, indent=2, ensure_ascii=False) if as_json else text(data))


def fail(error: CroError, *, as_json: bool) -> NoReturn:
    """Says what is wrong in one line, or as JSON, and ends with the exit code of such an error."""
    if as_json:
        field = error.field if isinstance(error, InvalidInput) else None
        print(json.dumps({"error": {"code": error.code, "message": str(error), "field": field}}))
    else:
        print(f"error: {error}", file=sys.stderr)
    if isinstance(error, RunFailed):
        sys.exit(EXIT_ERROR)
    sys.exit(EXIT_BUSY if isinstance(error, Busy) else EXIT_USAGE)
