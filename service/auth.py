"""Who may do what: three kinds of endpoint and one admin key."""

from __future__ import annotations

import hmac
from enum import Enum
from ipaddress import ip_address

from flask import Request

from cro_core.home import Home
from service.error_answers import HttpRefusal

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
FORWARDED = (
    "Forwarded",
    "Via",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Real-Ip",
    "CF-Connecting-IP",
    "True-Client-IP",
)
"""Headers by which a proxy says that the request is another's."""

FORWARDED_KEYS = tuple(f"HTTP_{name.upper().replace('-', '_')}" for name in FORWARDED)
"""Headers that a proxy adds, as WSGI names them: every request is looked at."""


class Access(Enum):
    """What an endpoint asks of its caller."""

    PUBLIC = "public"
    """Nothing: the website's visitors call it."""
    READ = "read"
    """The admin key, except from the machine the service runs on."""
    ADMIN = "admin"
    """The admin key, always."""


def check(access: Access, request: Request, home: Home) -> None:
    """Lets the request through or not.

    Raises:
        HttpRefusal: 401 without a key where one is needed, 403 with a wrong one.
    """
    if access is Access.PUBLIC or (access is Access.READ and is_local(request)):
        return
    key = given_key(request)
    if key is None:
        raise HttpRefusal(
            401,
            "key_missing",
            "this needs the admin key: send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`; `cro init` made it",
            headers={"WWW-Authenticate": 'Bearer realm="cro"'},
        )
    if not _is_right(key, home):
        raise HttpRefusal(403, "key_wrong", "this is not the admin key of this home")


def has_key(request: Request, home: Home) -> bool:
    """Whether the request carries the admin key."""
    key = given_key(request)
    return key is not None and _is_right(key, home)


def given_key(request: Request) -> str | None:
    """The key the request carries, or ``None``."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return request.headers.get("X-API-Key", "").strip() or None


def _is_right(key: str, home: Home) -> bool:
    # Bytes, because compare_digest refuses text outside ASCII.
    return hmac.compare_digest(key.encode(), home.admin_key.encode())


def is_local(request: Request) -> bool:
    """Whether the request comes from this machine, and from no page or proxy that only looks like it.

    A reverse proxy on this machine would make the whole world local, and a web page can point its own
    host name at 127.0.0.1: so the request must be unforwarded and ask for this machine by name.
    """
    if is_forwarded(request):
        return False
    host = (
        request.host.rpartition(":")[0]
        if not request.host.endswith("]") and ":" in request.host
        else request.host
    )
    return host in LOCAL_NAMES and is_loopback(request.remote_addr)


def is_forwarded(request: Request) -> bool:
    """Whether a proxy says that the request is another's."""
    return any(key in request.environ for key in FORWARDED_KEYS)


def is_loopback(address: str | None) -> bool:
    """Whether it is an address of this machine that only this machine reaches."""
    if address == "127.0.0.1":
        return True
    try:
        return ip_address(address or "").is_loopback
    except ValueError:
        return False
