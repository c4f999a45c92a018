"""The log of the service: one JSON object a line, and never a key, a query, a body, a visitor or an address."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from cro_core.errors import ConfigError
from cro_core.workflows.ingest import Receipt

FORMATS = ("json", "text")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

requests = logging.getLogger("service.requests")
"""One line for each request, at INFO."""


request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request that this thread answers; ``-`` between requests."""


def begin(sent: str | None) -> str:
    """Gives the request its id: the one it was sent with, if that is 1 to 64 of ``A-Z a-z 0-9 . _ -``; else a new one."""
    given = sent if sent is not None and REQUEST_ID.fullmatch(sent) else secrets.token_hex(8)
    request_id.set(given)
    return given


def end() -> None:
    """The request is answered."""
    request_id.set("-")


def log_request(method: str, rule: str, status: int, seconds: float, receipt: Receipt | None) -> None:
    """Writes the line of an answered request; ``rule`` is the route as it is declared."""
    if not requests.isEnabledFor(logging.INFO):
        return
    extra: dict[str, Any] = {"method": method, "rule": rule, "status": status, "ms": round(seconds * 1000, 2)}
    if receipt is not None:
        extra |= {"accepted": receipt.accepted, "duplicates": receipt.duplicates}
        extra |= {"rejected": len(receipt.rejected), "not_stored": receipt.not_stored}
    requests.info("%s %s %d", method, rule, status, extra=extra)


def settings(environ: Mapping[str, str]) -> dict[str, Any]:
    """For ``logging.config.dictConfig``: everything to stderr, as ``CRO_LOG_FORMAT`` and ``CRO_LOG_LEVEL`` say.

    Raises:
        ConfigError: one of them is none that there is.
    """
    layout = _chosen(environ, "CRO_LOG_FORMAT", FORMATS)
    level = _chosen(environ, "CRO_LOG_LEVEL", LEVELS, default="INFO")
    handler = {
        "class": "logging.StreamHandler",
        "stream": "ext://sys.stderr",
        "formatter": layout,
        "filters": ["request"],
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request": {"()": WithRequest}},
        "formatters": {
            "json": {"()": JsonLines, "json_ensure_ascii": False},
            "text": {"format": "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"},
        },
        "handlers": {"console": handler},
        "loggers": {
            # The server's own access log holds addresses and queries: it has no handler, and is never turned on.
            "_granian": {"level": "INFO"},
            "granian.access": {"propagate": False},
        },
        "root": {"handlers": ["console"], "level": level},
    }


def _chosen(environ: Mapping[str, str], name: str, choices: tuple[str, ...], default: str = "") -> str:
    value = environ.get(name) or default or choices[0]
    if value not in choices:
        raise ConfigError(f"{name} is {value[:40]!r}: use {' or '.join(choices)}", field=name)
    return value


class WithRequest(logging.Filter):
    """Gives each record the id of the request it is about; ``-`` where it is about none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always lets it through."""
        record.request_id = request_id.get()
        return True


class JsonLines(JsonFormatter):
    """A record as one line of JSON: ``time`` (UTC), ``level``, ``logger``, ``request_id``, ``message`` and its extras."""

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """The fields of a line, in their order."""
        when = datetime.fromtimestamp(record.created, UTC)
        log_data["time"] = when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        super().add_fields(log_data, record, message_dict)
