"""429: who is limited, how a client is told apart behind proxies, when it may come again, and what is remembered."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from helpers.service_samples import both_ways, check_shape, exposure, make_home, start_server

from cro_core.home import Home, open_home
from service import schemas
from service.app import create_app
from service.rate_limits import MOST_COUNTERS, Bounded, Limits

MOST = 10
"""Requests that the settings of these tests allow in ten seconds."""

ASSIGNMENTS = "/api/cro/assignments?visitor=v"
EVENTS = "/api/cro/events"


@dataclass
class Clock:
    """The machine's clock, moved by hand."""

    now: float = 1_800_000_000.0

    def time(self) -> float:
        """Seconds since 1970."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in ("limits.storage.memory", "limits.strategies"):
        monkeypatch.setattr(f"{module}.time", made)
    return made


@pytest.fixture
def make_client(
    template: Path, tmp_path: Path, make_app: Callable[[Home], Flask]
) -> Iterator[Callable[..., FlaskClient]]:
    made: list[Home] = []

    def make(**settings: Any) -> FlaskClient:
        folder = tmp_path / f"home{len(made)}"
        shutil.copytree(template, folder)
        values = {"requests_per_second": MOST / 10} | settings
        environ = {
            f"CRO_SERVICE__{name.upper()}": str(value) for name, value in values.items() if value is not None
        }
        made.append(open_home(folder, environ))
        return make_app(made[-1]).test_client()

    yield make
    for home in made:
        home.db.close()


def asked(
    client: FlaskClient, address: str, number: int = 1, path: str = ASSIGNMENTS, **headers: str
) -> list[int]:
    """Statuses of so many requests of a client at this address."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return [
        client.get(path, environ_overrides={"REMOTE_ADDR": address}, headers=named).status_code
        for _ in range(number)
    ]


def passed(client: FlaskClient, address: str, number: int, **headers: str) -> int:
    """How many of so many requests were answered; the others were 429."""
    statuses = asked(client, address, number, **headers)
    assert set(statuses) <= {200, 429}
    return statuses.count(200)


def test_one_client_is_limited_and_no_other(make_client: Callable[..., FlaskClient], clock: Clock) -> None:
    client = make_client()
    assert passed(client, "192.0.2.7", 25) == MOST
    assert passed(client, "192.0.2.8", 5) == 5
    clock.now += 20
    assert passed(client, "192.0.2.7", 25) == MOST


@both_ways
def test_a_refusal_tells_in_the_one_shape_and_to_every_page(
    make_client: Callable[..., FlaskClient], clock: Clock
) -> None:
    client = make_client()
    asked(client, "192.0.2.7", MOST)
    answer = client.post(EVENTS, json=exposure(), environ_overrides={"REMOTE_ADDR": "192.0.2.7"})
    assert answer.status_code == 429
    check_shape(schemas.ErrorAnswer, answer.json)
    assert answer.json["error"]["code"] == "too_many_requests"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]
    assert "192.0.2.7" not in answer.text
    assert clock.now > 0


@pytest.mark.parametrize("offset", [0, 0.4, 3.3, 5, 9.99])
@pytest.mark.parametrize("pause", [0, 4.5, 11.0])
def test_after_the_wait_it_told_a_client_may_come_again(
    make_client: Callable[..., FlaskClient], clock: Clock, offset: float, pause: float
) -> None:
    """At every place in a window, also where the last one still counts in part."""
    client = make_client()
    clock.now += offset
    asked(client, "192.0.2.7", MOST)
    clock.now += pause
    for _ in range(30):
        answer = client.get(ASSIGNMENTS, environ_overrides={"REMOTE_ADDR": "192.0.2.7"})
        if answer.status_code == 429:
            break
    wait = int(answer.headers["Retry-After"])
    assert 1 <= wait <= 20
    clock.now += wait
    assert passed(client, "192.0.2.7", 1) == 1


def test_the_rate_holds_over_a_minute(make_client: Callable[..., FlaskClient], clock: Clock) -> None:
    client, answered = make_client(), 0
    for _ in range(600):
        answered += passed(client, "192.0.2.7", 1)
        clock.now += 0.1
    assert 0.8 * 60 <= answered <= 60 + MOST


def test_this_machine_itself_is_not_limited(make_client: Callable[..., FlaskClient]) -> None:
    for trusted in (0, 1):
        client = make_client(trusted_proxies=trusted)
        for address in ("127.0.0.1", "::1"):
            assert passed(client, address, 3 * MOST) == 3 * MOST


def test_nobody_is_limited_without_a_limit(template: Path, tmp_path: Path) -> None:
    home = make_home(tmp_path / "free", {"service": {"requests_per_second": None}})
    assert passed(create_app(home).test_client(), "192.0.2.7", 1000) == 1000
    home.db.close()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_what_machines_ask_is_not_limited(
    make_client: Callable[..., FlaskClient], key: dict[str, str], path: str
) -> None:
    client = make_client()
    asked(client, "192.0.2.7", MOST)
    assert 429 not in asked(client, "192.0.2.7", 3 * MOST, path)


def test_addresses_of_one_ipv6_network_are_one_client(
    make_client: Callable[..., FlaskClient], clock: Clock
) -> None:
    client = make_client()
    assert sum(passed(client, f"2001:db8:0:7::{n:x}", 1) for n in range(1, 3 * MOST)) == MOST
    assert passed(client, "2001:db8:0:8::1", 1) == 1


def test_a_trusted_proxy_tells_clients_apart(make_client: Callable[..., FlaskClient], clock: Clock) -> None:
    client = make_client(trusted_proxies=1)
    for proxy in ("127.0.0.1", "10.0.0.1"):
        assert passed(client, proxy, 25, X_Forwarded_For=f"198.51.100.{len(proxy)}") == MOST
        assert passed(client, proxy, 5, X_Forwarded_For=f"203.0.113.{len(proxy)}") == 5


def test_what_a_client_writes_itself_buys_it_nothing(
    make_client: Callable[..., FlaskClient], clock: Clock
) -> None:
    """The entry that the nearest trusted proxy wrote counts, whatever stands left of it."""
    client = make_client(trusted_proxies=2)
    answered = [
        passed(client, "10.0.0.1", 1, X_Forwarded_For=f"203.0.113.{n}, 198.51.100.1, 10.0.0.2")
        for n in range(25)
    ]
    assert sum(answered) == MOST


def test_without_trust_the_peer_counts_whatever_it_says(
    make_client: Callable[..., FlaskClient], clock: Clock
) -> None:
    client = make_client()
    answered = [passed(client, "192.0.2.7", 1, X_Forwarded_For=f"203.0.113.{n}") for n in range(25)]
    assert sum(answered) == MOST


@pytest.mark.parametrize("entry", ["unknown", "", "999.1.1.1", "a b", "é"])
def test_a_bad_entry_counts_as_the_peer(
    make_client: Callable[..., FlaskClient], clock: Clock, entry: str
) -> None:
    client = make_client(trusted_proxies=1)
    assert passed(client, "10.0.0.1", MOST) == MOST
    assert passed(client, "10.0.0.1", 5, X_Forwarded_For=entry) == 0


def test_behind_an_untrusted_proxy_on_this_machine_nobody_is_kept_out_and_the_log_says_so(
    make_client: Callable[..., FlaskClient], caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client()
    assert passed(client, "127.0.0.1", 3 * MOST, X_Forwarded_For="203.0.113.9") == 3 * MOST
    assert caplog.text.count("service.trusted_proxies") == 1
    assert "203.0.113.9" not in caplog.text


def test_a_key_has_a_limit_of_its_own_over_all_its_clients(
    make_client: Callable[..., FlaskClient], clock: Clock, home: Home
) -> None:
    """``home`` is another copy of the same home, with the same key."""
    client, key = make_client(), home.admin_key
    answered = [passed(client, f"192.0.2.{n}", 1, X_API_Key=key) for n in range(2 * MOST)]
    assert sum(answered) == MOST
    assert passed(client, "192.0.2.200", 1, Authorization=f"Bearer {key}") == 0
    wrong = [passed(client, f"198.51.100.{n}", 1, X_API_Key="wrong") for n in range(2 * MOST)]
    assert sum(wrong) == 2 * MOST


def test_addresses_are_kept_as_hashes_that_no_other_process_has(
    make_client: Callable[..., FlaskClient], clock: Clock
) -> None:
    kept = []
    for _ in range(2):
        client = make_client()
        asked(client, "192.0.2.7")
        limits: Limits = client.application.extensions["cro_limits"]
        kept.append(str(vars(limits.storage)))
    for text in kept:
        assert "LIMITER/client" in text
        assert "192.0.2.7" not in text
    assert kept[0] != kept[1]


def test_memory_is_bounded_however_many_clients_there_are() -> None:
    storage = Bounded()
    for number in range(3 * MOST_COUNTERS):
        storage.incr(f"client-{number}", 20)
    assert len(storage.storage) <= MOST_COUNTERS
    assert len(storage.expirations) <= MOST_COUNTERS
    assert len(storage.locks) <= MOST_COUNTERS + 1


def test_a_counter_that_goes_while_the_library_sweeps_harms_nobody() -> None:
    storage = Bounded()
    storage.incr("stays", 20)
    storage.expirations.keys = lambda: ["gone", "stays"]  # as listed before another thread removed one
    storage.timer.function()  # its sweep
    assert (storage.get("stays"), dict(storage.storage)) == (1, {"stays": 1})
    storage.reset()
    assert storage.get("stays") == 0


def test_the_real_server_limits_clients_behind_a_proxy(tmp_path: Path) -> None:
    settings = {"service": {"requests_per_second": 0.1, "trusted_proxies": 1}}
    server = start_server(make_home(tmp_path / "home", settings), tmp_path / "log")
    try:
        many, one = {"X-Forwarded-For": "203.0.113.9"}, {"X-Forwarded-For": "9.9.9.9, 203.0.113.8"}
        statuses = [server.call("POST", EVENTS, exposure(), many)[0] for _ in range(4)]
        assert statuses == [202] + [429] * 3
        assert server.call("POST", EVENTS, exposure(), one)[0] == 202
        status, headers, answer = server.call("POST", EVENTS, exposure(), many)
        assert (status, answer["error"]["code"]) == (429, "too_many_requests")
        assert int(headers["retry-after"]) >= 1
        assert "203.0.113" not in server.log.read_text()
    finally:
        server.process.terminate()
        assert server.process.wait(timeout=30) == 0
        server.home.db.close()
