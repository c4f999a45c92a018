"""What this machine keeps of the lake to be faster, in one folder for each generation.

A generation is the number of the newest seal that did more than add events. Rewriting the lake, as for somebody
who is to be forgotten, begins one, and the folders of those before go.
"""

from __future__ import annotations

import shutil
import uuid
from contextlib import suppress
from pathlib import Path


def drop(folder: Path, *, before: int) -> None:
    """Deletes what was kept before a generation, and keeps what is being made for one from being kept afterwards.

    Raises:
        OSError: it cannot be deleted.
    """
    for old in generations_in(folder):
        if int(old.name) < before:
            with suppress(FileNotFoundError):  # another process drops it too
                old.rename(folder / f".{uuid.uuid4().hex}")  # at once: nobody adds to what is being deleted
    for gone in folder.glob(".*"):
        with suppress(FileNotFoundError):
            shutil.rmtree(gone)


def generations_in(folder: Path) -> list[Path]:
    """The folders of all generations that something is kept of."""
    return [path for path in folder.glob("*") if path.name.isdecimal()]


def is_newest(generation: Path) -> bool:
    """Whether nobody has begun another: this connection may see an older state of the store."""
    return all(int(other.name) <= int(generation.name) for other in generations_in(generation.parent))
