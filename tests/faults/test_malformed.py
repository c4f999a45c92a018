"""Bodies that no website should send, ten thousand at full size: each is answered, none with a fault of ours."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.fault_means import Client, Ledger, Service, accounted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cro_core.home import Home

VERSIONS = 4
"""Of each drawn body: as it is, and damaged in three ways."""

REFUSED = {400, 413, 415, 422}

numbers = st.one_of(
    st.integers(),
    st.integers(min_value=2**62, max_value=2**70),
    st.floats(),  # also NaN and infinities, which Python writes although JSON has none
    st.sampled_from([1e308, -1e308, 5e-324, 10**400, -0.0, 10**19, -(10**19)]),
)
texts = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(categories=("Cs", "Cc")), max_size=5),
    st.sampled_from(["", " ", "\x00", "a" * 5_000, "control", "hero-cta", "2026-03-02T09:30:00Z", "9" * 400]),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars, lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(texts, v, max_size=3)), max_leaves=6
)
NAMES = (
    "id", "event_type", "test_id", "variant_id", "user_id", "session_id", "timestamp", "device_type", "city", "country",
    "value", "asset_id", "occasion", "url", "properties", "epoch", "propensity", "events",
)  # fmt: skip
GOOD: dict[str, Any] = {
    "event_type": "exposure",
    "test_id": "hero-cta",
    "variant_id": "control",
    "user_id": "v1",
}

spoilt = st.dictionaries(st.one_of(st.sampled_from(NAMES), texts), values, max_size=3).map(lambda d: GOOD | d)
urls = st.from_regex(r"\Ahttps?://[\[\]@:/?#a-z0-9]{0,20}\Z").map(lambda url: GOOD | {"url": url})
properties = values.map(lambda value: GOOD | {"properties": {"deep": value}})
items = st.one_of(spoilt, urls, properties, values)
shapes = st.one_of(
    items,
    st.lists(items, max_size=5),
    st.lists(items, max_size=5).map(lambda found: {"events": found}),
    st.lists(items, max_size=5).map(lambda found: {"events": found, "more": 1}),
)
written = st.one_of(
    shapes.map(lambda value: json.dumps(value).encode()),
    shapes.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    shapes.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass")),
)


nested = st.builds(
    lambda opening, depth, closing, inner: opening * depth + inner + closing * depth,
    st.sampled_from([b"[", b'{"a":', b'{"events":[', b'[{"properties":']),
    st.sampled_from([1, 20, 31, 33, 100, 1_000, 10_000]),
    st.sampled_from([b"]", b"}", b"]}", b"}]", b""]),
    st.sampled_from([b"1", b"", b"null"]),
)
bodies = st.one_of(written, written, written, nested, st.binary(max_size=60))


def _versions(body: bytes, draw: random.Random) -> list[bytes]:
    """The body, the body cut off, and twice the body with a few bytes that are others."""
    return [body, body[: draw.randrange(len(body) + 1)], _damaged(body, draw), _damaged(body, draw)]


def _damaged(body: bytes, draw: random.Random) -> bytes:
    found = bytearray(body or b"{}")
    for _ in range(draw.randint(1, 3)):
        found[draw.randrange(len(found))] = draw.choice((draw.randrange(256), *b'{}[]",:\\0-e'))
    return bytes(found)


@pytest.mark.sizes(300, 2_500)
def test_no_body_breaks_the_service(shop: Home, serve: Callable[..., Service], size: int) -> None:
    # Fewer on PostgreSQL, where only what the store itself refuses can differ.
    examples = size if shop.database_url.startswith("sqlite") else size // 10
    service, ledger = serve(shop), Ledger()
    worker = service.worker
    clients = [Client(ledger, [service.port]) for _ in range(VERSIONS)]

    def post(client: Client, body: bytes) -> None:
        status, headers, answer = client.request(body)
        ledger.told(_items(body) if status == 202 else [], status, headers, answer)
        if status != 202:
            assert status in REFUSED, (body, answer)
            assert answer["error"]["message"]

    with ThreadPoolExecutor(VERSIONS) as pool:

        @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
        @given(bodies, st.integers(0, 2**32))
        def post_versions(body: bytes, seed: int) -> None:
            list(pool.map(post, clients, _versions(body, random.Random(seed))))

        post_versions()
    assert sum(ledger.statuses.values()) >= examples * VERSIONS
    assert ledger.answered["accepted"] > examples / 10
    assert ledger.answered["rejected"] > examples / 10
    assert ledger.statuses[400] > examples / 10
    assert clients[0].post([GOOD | {"id": "after"}])[0] == 202
    for client in clients:
        client.close()
    assert service.worker == worker
    assert "Traceback" not in service.log.read_text()
    accounted(shop, ledger, named=False)


def _items(body: bytes) -> list[Any]:
    """What the service should have seen in a body that it took."""
    value = json.loads(body.decode("utf-8-sig"))
    if isinstance(value, dict):
        return list(value["events"]) if "events" in value else [value]
    assert isinstance(value, list)
    return value
