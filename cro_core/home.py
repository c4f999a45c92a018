"""A home: the folder that holds one site's settings, data and reports.

HOME/cro-config.json     settings
HOME/data/               cro.sqlite, secrets.json (mode 600), media/, locks/, cache/, clock.json (simulated homes only)
HOME/reports/            weekly reports; runs/ holds the executed notebooks
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cro_core.clock import Clock, iso, parse_time, system_clock
from cro_core.config import FILE_NAME, Config, Loaded, load, resolve
from cro_core.domain import Json
from cro_core.errors import Busy, ConfigError, Conflict, NotFound

if TYPE_CHECKING:  # slow to import, and what only reads the settings can do without
    from cro_core.storage.database import Database
    from cro_core.storage.lake import Lake

Value = TypeVar("Value")

SALT_BYTES = 16
"""Shortest key of the visitor hash that is accepted; new homes get twice that."""


class Memory:
    """What a process has read already: one value of each class. Its users check that it is still true."""

    def __init__(self) -> None:
        self._values: dict[type, Any] = {}

    def recall(self, kind: type[Value]) -> Value | None:
        """The value of a class that was kept last, or ``None``."""
        value: Value | None = self._values.get(kind)
        return value

    def keep(self, value: object) -> None:
        """Puts a value in the place of the former one of its class."""
        self._values[type(value)] = value


@dataclass(frozen=True)
class Home:
    """An opened home; cheap to open, safe to share between threads."""

    path: Path
    loaded: Loaded
    database_url: str = field(repr=False)
    """May hold a password: never print it."""
    clock: Clock
    """The time of this home: the machine's, or a simulated one that service and cycle share."""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, compare=False, repr=False)
    """Where CRO_SALT and CRO_ADMIN_KEY are looked up first."""
    memory: Memory = field(default_factory=Memory, compare=False, repr=False)
    """What this process has read of the home already."""

    @property
    def config(self) -> Config:
        """The effective settings."""
        return self.loaded.config

    @property
    def data(self) -> Path:
        """Where the store, the secrets and the media are."""
        return self.path / "data"

    @property
    def media(self) -> Path:
        """Where ``media-manifest.json`` and its files are."""
        return self.data / "media"

    @property
    def reports(self) -> Path:
        """Where the weekly reports are."""
        return self.path / "reports"

    @property
    def runs(self) -> Path:
        """Where the executed notebooks are."""
        return self.reports / "runs"

    @property
    def simulated(self) -> bool:
        """Whether this home's clock is moved by hand."""
        return (self.data / "clock.json").exists()

    @cached_property
    def db(self) -> Database:
        """The store, opened on first use."""
        from cro_core.storage.database import Database

        return Database(self.database_url, self.lake)

    @cached_property
    def lake(self) -> Lake:
        """Where the sealed days are."""
        from cro_core.storage.lake import Lake

        location = self.config.storage.lake or "data/lake"
        place = location if "://" in location else str(self.path / location)
        return Lake(place, keep_in=self.data / "cache" / "units")

    @cached_property
    def salt(self) -> bytes:
        """The key of the visitor hash. Losing it makes returning visitors strangers.

        Raises:
            ConfigError: it is not base64 of at least 16 bytes.
        """
        text = self.environ.get("CRO_SALT") or self._secret("salt")
        try:
            salt = base64.b64decode(text, validate=True)
        except ValueError:
            salt = b""
        if len(salt) < SALT_BYTES:
            raise ConfigError(
                f"CRO_SALT (or salt in secrets.json) is no base64 text of at least {SALT_BYTES} bytes: "
                "make one with `openssl rand -base64 32`, once, and keep it",
                field="CRO_SALT",
            )
        return salt

    @property
    def admin_key(self) -> str:
        """What a request must carry to change anything but events."""
        return self.environ.get("CRO_ADMIN_KEY") or self._secret("admin_key")

    def _secret(self, name: str) -> str:
        value = self._secrets.get(name)
        if not value:
            raise ConfigError(
                f"secrets.json has no {name}: restore the file, or set CRO_{name.upper()}", field=name
            )
        return value

    @cached_property
    def _secrets(self) -> Mapping[str, str]:
        file = self.data / "secrets.json"
        try:
            content: Mapping[str, str] = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise NotFound(f"{file} is missing: run `cro init`, or set CRO_SALT and CRO_ADMIN_KEY") from None
        except ValueError:
            raise ConfigError(f"{file} is not JSON: restore it, or set CRO_SALT and CRO_ADMIN_KEY") from None
        return content

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Holds the lock of a job; freed even by ``kill -9``.

        Raises:
            Busy: another process holds it.
        """
        folder = self.data / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.lock").open("a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(
                    f"{name} is running in another process: nothing was done, try again when it has ended"
                ) from None
            yield


def default_path(environ: Mapping[str, str] = os.environ) -> Path:
    """``CRO_HOME``, else the current folder."""
    return Path(environ.get("CRO_HOME") or ".").expanduser().resolve()


def open_home(path: Path | str | None = None, environ: Mapping[str, str] = os.environ) -> Home:
    """Opens the home at ``path`` (default: ``CRO_HOME``, else the current folder).

    Raises:
        NotFound: the folder is no home yet.
        ConfigError: its settings are refused.
    """
    root = Path(path).expanduser().resolve() if path else default_path(environ)
    if not (root / FILE_NAME).is_file():
        raise NotFound(
            f"{root} is not a home (it has no {FILE_NAME}): run `cro init --home {root}` or give --home"
        )
    return Home(root, load(root / FILE_NAME, environ), _database_url(root, environ), _clock(root), environ)


def create_home(
    path: Path | str | None = None, settings: Json | None = None, environ: Mapping[str, str] = os.environ
) -> Home:
    """Makes a home with new secrets and these settings (default: those that ship), and opens it.

    Raises:
        Conflict: there is a home already.
        ConfigError: the settings are refused; nothing is written.
    """
    root = Path(path).expanduser().resolve() if path else default_path(environ)
    if (root / FILE_NAME).exists():
        raise Conflict(f"{root} is a home already: nothing was changed")
    chosen = dict(settings) if settings is not None else Config().model_dump(mode="json")
    resolve(chosen, environ)
    for folder in (root / "data" / "media", root / "data" / "locks", root / "reports" / "runs"):
        folder.mkdir(parents=True, exist_ok=True)
    _write_secrets(root / "data" / "secrets.json")
    (root / FILE_NAME).write_text(json.dumps(chosen, indent=2) + "\n", encoding="utf-8")
    home = open_home(root, environ)
    home.db  # noqa: B018  creates the store
    return home


def set_clock(home: Home, now: datetime) -> None:
    """Moves a simulated home's clock; service and cycle see it at once."""
    file = home.data / "clock.json"
    draft = file.with_suffix(".tmp")
    draft.write_text(json.dumps({"now": iso(now)}), encoding="utf-8")
    draft.replace(file)


def _clock(root: Path) -> Clock:
    file = root / "data" / "clock.json"

    def simulated() -> datetime:
        return parse_time(json.loads(file.read_text(encoding="utf-8"))["now"])

    return simulated if file.exists() else system_clock


def _database_url(root: Path, environ: Mapping[str, str]) -> str:
    url = environ.get("CRO_DATABASE_URL")
    if not url:
        return f"sqlite:///{root / 'data' / 'cro.sqlite'}"
    # The driver is ours to choose; users write the address that every tool takes.
    return url.replace("postgresql://", "postgresql+psycopg://", 1).replace(
        "postgres://", "postgresql+psycopg://", 1
    )


def _write_secrets(file: Path) -> None:
    if file.exists():
        return
    content = {
        "salt": base64.b64encode(secrets.token_bytes(32)).decode(),
        "admin_key": "cro_admin_" + secrets.token_urlsafe(24),
    }
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(content, stream)
