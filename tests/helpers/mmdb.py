"""A small writer of MaxMind files, after MaxMind's public description of the format (MaxMind DB, version 2.0)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

MARKER = b"\xab\xcd\xefMaxMind.com"
STRING, WHOLE16, WHOLE32, MAP, WHOLE64, ARRAY = 2, 5, 6, 7, 9, 11


def write_mmdb(file: Path, places: Mapping[str, Any], *, ip_version: int = 6) -> Path:
    """Writes a file that holds one record for each network; records are maps of texts, lists and maps."""
    tree: list[list[Any]] = [[None, None]]
    data = b""
    for text, record in places.items():
        _insert(tree, _bits(ip_network(text), ip_version), len(data))
        data += _encode(record)
    nodes = b"".join(_record(side, len(tree)) for node in tree for side in node)
    about = {
        "binary_format_major_version": (WHOLE16, 2),
        "binary_format_minor_version": (WHOLE16, 0),
        "build_epoch": (WHOLE64, 1_772_000_000),
        "database_type": "Test-City",
        "description": {"en": "for tests"},
        "ip_version": (WHOLE16, ip_version),
        "languages": ["en"],
        "node_count": (WHOLE32, len(tree)),
        "record_size": (WHOLE16, 24),
    }
    file.write_bytes(nodes + bytes(16) + data + MARKER + _encode(about))
    return file


def _bits(network: IPv4Network | IPv6Network, ip_version: int) -> str:
    """The path to a network: IPv4 lies in the first 96 zero bits of a tree of IPv6."""
    path = f"{int(network.network_address):0{network.max_prefixlen}b}"[: network.prefixlen]
    return "0" * 96 + path if ip_version > network.version else path


def _insert(tree: list[list[Any]], path: str, offset: int) -> None:
    node = 0
    for bit in map(int, path[:-1]):
        if tree[node][bit] is None:
            tree.append([None, None])
            tree[node][bit] = len(tree) - 1
        node = tree[node][bit]
    tree[node][int(path[-1])] = ("data", offset)


def _record(side: Any, nodes: int) -> bytes:
    """24 bits: another node, nothing (the number of nodes), or beyond it a place in the data."""
    value = nodes if side is None else nodes + 16 + side[1] if isinstance(side, tuple) else side
    return int(value).to_bytes(3, "big")


def _encode(value: Any) -> bytes:
    if isinstance(value, str):
        raw = value.encode()
        return _control(STRING, len(raw)) + raw
    if isinstance(value, dict):
        return _control(MAP, len(value)) + b"".join(_encode(k) + _encode(v) for k, v in value.items())
    if isinstance(value, list):
        return _control(ARRAY, len(value)) + b"".join(map(_encode, value))
    kind, number = value
    raw = int(number).to_bytes(8, "big").lstrip(b"\0")
    return _control(kind, len(raw)) + raw


def _control(kind: int, size: int) -> bytes:
    """The byte that says kind and size; kinds above 7 and sizes above 28 need another one."""
    length, more = (size, b"") if size < 29 else (29, struct.pack(">B", size - 29))
    return bytes([kind << 5 | length]) + more if kind < 8 else bytes([length, kind - 7]) + more


def place(city: str | None, country: str | None) -> dict[str, Any]:
    """A record in the layout of GeoLite2 City."""
    found: dict[str, Any] = {}
    if city:
        found["city"] = {"names": {"de": f"{city} (de)", "en": city}}
    if country:
        found["country"] = {"iso_code": country, "names": {"en": f"Land of {country}"}}
    return found
