"""The service dies of ``kill -9`` under load: whatever it had acknowledged is there."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest
from helpers.fault_means import Service, accounted, load, until_more

from cro_core.home import Home


@pytest.mark.sizes(1, 10)
def test_a_killed_service_loses_nothing_it_acknowledged(
    shop: Home, serve: Callable[..., Service], size: int
) -> None:
    rounds = size if shop.database_url.startswith("sqlite") else min(size, 3)
    service = serve(shop)
    draw = random.Random(7)
    with load([service.port]) as ledger:
        for _ in range(rounds):
            # The worker first, once per parent: one that dies again within seconds ends the parent, as it should.
            for kill in (service.kill_worker, service.kill):
                until_more(ledger.acknowledgements, 200)
                time.sleep(draw.random() * 0.2)
                kill()
            service.start()
        until_more(ledger.acknowledgements, 200)
    assert ledger.statuses[None] > rounds, "the kills hit nobody"
    accounted(shop, ledger)
