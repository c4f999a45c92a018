"""The same events from several clients at once, in different orders: each is stored once."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import zip_longest
from typing import Any

import pytest
from helpers.fault_means import Client, Ledger, Service, accounted
from helpers.service_samples import exposure

from cro_core.home import Home

TIMES = 3
CLIENTS = 4


def _events(number: int) -> list[dict[str, Any]]:
    """Each visitor meets the experiment again and again, so that writers also meet at its first exposure."""
    return [
        exposure(f"v{n % (number // 4)}", ("control", "call")[n % 2], id=f"same-{n}") for n in range(number)
    ]


def _batches(events: list[dict[str, Any]], draw: random.Random) -> list[list[dict[str, Any]]]:
    """All the events in an order of their own, in batches of 1 to 200."""
    shuffled = draw.sample(events, len(events))
    cut: list[list[dict[str, Any]]] = []
    while shuffled:
        size = draw.choice((1, draw.randint(2, 200)))
        cut.append(shuffled[:size])
        shuffled = shuffled[size:]
    return cut


@pytest.mark.sizes(1_000, 10_000)
@pytest.mark.parametrize("processes", [1, 2])
def test_the_same_events_from_four_clients_are_stored_once(
    shop: Home, serve: Callable[..., Service], processes: int, size: int
) -> None:
    ports = [serve(shop).port for _ in range(processes)]
    ledger, events, draw = Ledger(), _events(size), random.Random(processes)
    orders = [_batches(events, draw) for _ in range(TIMES)]
    # The orders side by side, so that the same events are on their way at the same time.
    batches = [batch for side in zip_longest(*orders, fillvalue=[]) for batch in side if batch]

    def post_share(number: int) -> None:
        with closing(Client(ledger, ports, number)) as client:
            for batch in batches[number::CLIENTS]:
                assert client.post(batch)[0] == 202

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(post_share, range(CLIENTS)))
    assert ledger.answered == {"accepted": size, "duplicate": (TIMES - 1) * size, "rejected": 0}
    assert len(ledger.acknowledged) == size
    accounted(shop, ledger)
