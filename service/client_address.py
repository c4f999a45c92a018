"""Who is at the other end: the client's address behind proxies, and its place as a trusted proxy tells it."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from urllib.parse import unquote

from flask import Request

from cro_core.config import Service
from cro_core.ingest.cleaning import Place, Sender

UNKNOWN_PLACES = frozenset({"", "?", "XX", "ZZ", "T1"})
"""What proxies say where they do not know; T1 is Tor."""

MOST = 120
"""Characters of a place."""


def sender(request: Request, settings: Service) -> Sender:
    """What the request tells of its client, believing only what the settings say."""
    place = Place(
        _place_header(request, settings.city_header), _place_header(request, settings.country_header)
    )
    address = client_address(request, settings.trusted_proxies)
    return Sender(request.headers.get("User-Agent"), address, place)


def client_address(request: Request, trusted_proxies: int) -> str | None:
    """The client's IP address in its shortest form; never store or log it.

    Each trusted proxy added the address that it saw at the right of ``X-Forwarded-For``; what stands further
    left the client may have written itself. A request that fewer proxies forwarded than are trusted came past
    them: its own address counts.

    Args:
        request: the request as it arrived.
        trusted_proxies: how many proxies stand before the service.

    Returns:
        ``None`` where there is no address (a Unix socket) or what is believed is none.
    """
    if trusted_proxies:
        entries = request.headers.get("X-Forwarded-For", "").rsplit(",", trusted_proxies)[-trusted_proxies:]
        if len(entries) == trusted_proxies and entries[0].strip():
            return _plain(entries[0])
    return _plain(request.remote_addr or "")


def _plain(text: str) -> str | None:
    """An address without port, brackets and zone; IPv4 that is written as IPv6 is IPv4."""
    text = text.strip().partition("%")[0]
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _place_header(request: Request, header: str | None) -> str | None:
    """A place as a proxy wrote it: in UTF-8, which WSGI hands over as Latin-1, or percent-encoded."""
    text = request.headers.get(header, "") if header else ""
    try:
        text = unquote(text.encode("latin-1").decode("utf-8")).strip()
    except UnicodeError:
        text = unquote(text).strip()
    usable = text not in UNKNOWN_PLACES and len(text) <= MOST and text.isprintable()
    return text if usable else None
