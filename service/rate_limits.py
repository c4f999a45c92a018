"""How many requests one client, and one key, may send."""

from __future__ import annotations

import hmac
import logging
import math
import secrets
import threading
from collections.abc import Callable
from ipaddress import ip_address

from flask import Request
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from cro_core.config import Service
from cro_core.home import Home
from service import auth
from service.client_address import client_address
from service.error_answers import HttpRefusal

log = logging.getLogger(__name__)

WINDOW_SECONDS = 10
"""Seconds over which the rate is taken: a page that loads may send a few requests at once."""

MOST_COUNTERS = 20_000
"""Counters kept at most (two of a client); when there are more, all begin anew, so memory stays bounded."""


class _Expirations(dict[str, float]):
    """When each counter ends. One that is gone never does.

    The library's sweep lists the counters and then asks for each, from a thread of its own; where one was
    removed in between, it would end with a KeyError.
    """

    def __missing__(self, key: str) -> float:
        return math.inf


class Bounded(MemoryStorage):
    """The library's store in memory, which has as many counters as there were clients in the last window or two."""

    def __init__(self) -> None:
        super().__init__()
        self.expirations = _Expirations()

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Counts; see the library."""
        if len(self.expirations) >= MOST_COUNTERS:
            self.reset()
        return super().incr(key, expiry, amount)


class Limits:
    """The limits of one process, each for the requests of any ten seconds.

    Each process counts for itself. An address is only ever held as a hash under a key that ends with the process,
    and only as long as its requests count: 20 seconds.

    Args:
        settings: ``requests_per_second``, where ``None`` is no limit, and ``trusted_proxies``.
        on_limited: told of each refusal, ``client`` or ``key``.
    """

    def __init__(self, settings: Service, on_limited: Callable[[str], None] = lambda _: None) -> None:
        self._on_limited = on_limited
        self._trusted = settings.trusted_proxies
        self._secret = secrets.token_bytes(16)
        self._warned = False
        self._lock = threading.Lock()
        rate = settings.requests_per_second
        self._most = (
            None
            if rate is None
            else RateLimitItemPerSecond(max(1, round(rate * WINDOW_SECONDS)), WINDOW_SECONDS)
        )
        self.storage = Bounded()
        self._limiter = SlidingWindowCounterRateLimiter(self.storage)

    def check(self, request: Request, home: Home) -> None:
        """Counts the request, unless it is this machine's own.

        Raises:
            HttpRefusal: 429 with the seconds to wait; the request was not counted against the limit it broke.
        """
        if self._most is None or self._is_free(request):
            return
        self._count(self._most, "client", self._client(request))
        if auth.has_key(request, home):
            self._count(self._most, "key", "admin")

    def _is_free(self, request: Request) -> bool:
        """Whether it is this machine's own, or what a proxy on it forwards without our knowing for whom.

        One limit for everybody behind that proxy would keep real visitors out.
        """
        if not auth.is_loopback(request.remote_addr):
            return False
        forwarded = auth.is_forwarded(request)
        if forwarded and not self._trusted and not self._warned:
            self._warned = True
            log.warning(
                "requests come through a proxy on this machine and are not limited: "
                "set service.trusted_proxies to the number of proxies, so that clients can be told apart"
            )
        return not (forwarded and self._trusted)

    def _client(self, request: Request) -> str:
        """The client as a hash; an IPv6 client by its network, of which it has every address."""
        address = client_address(request, self._trusted) or request.remote_addr or ""
        try:
            parsed = ip_address(address)
        except ValueError:
            known = address.encode()
        else:
            known = parsed.packed[: 4 if parsed.version == 4 else 8]
        return hmac.digest(self._secret, known, "sha256").hex()

    def _count(self, most: RateLimitItem, by: str, who: str) -> None:
        # The library reads and adds in two steps, which may leave one request too many in; the lock costs less.
        with self._lock:
            if self._limiter.hit(most, by, who):
                return
            wait = self._wait(most, most.key_for(by, who))
        self._on_limited(by)
        raise HttpRefusal(
            429,
            "too_many_requests",
            f"more than {most.amount} requests of this {by} in {WINDOW_SECONDS} seconds: "
            f"wait {wait} s and send it again, several events in one request",
            headers={"Retry-After": str(wait)},
        )

    def _wait(self, most: RateLimitItem, key: str) -> int:
        """Whole seconds until a request fits again, if none comes meanwhile.

        Requests of the window before count by the share of it that the last ten seconds still hold. (What the
        library itself tells is the next change of the count, which may not be enough.)
        """
        before, before_left, current, current_left = self.storage.get_sliding_window(key, WINDOW_SECONDS)
        room = most.amount - current
        seconds = (
            before_left - room * WINDOW_SECONDS / before if room and before else current_left - WINDOW_SECONDS
        )
        return max(math.floor(seconds), 0) + 1
