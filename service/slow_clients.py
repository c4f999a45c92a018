"""Between the server's event loop and the threads that answer: no thread ever waits for a client.

A WSGI server gives a request to a thread when its headers are there, and the thread then waits for the body. A
few clients that send half of one would keep every thread. So the body is read here, where waiting costs
nothing and has an end, and a thread gets a request that is complete. Answers are handed back whole, and the
server sends them as slowly as the client reads.

Measured under granian's WSGI interface: twelve half-sent bodies on eight threads kept everybody waiting. waitress
collects a body before it takes a thread, as is done here, but gives it no end (``channel_timeout`` counts silence
only, so a byte now and then is enough), parses under the lock that the answering threads need, and replaces no
process that dies. What it would save is this module.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from granian._granian import RSGIProtocolClosed as ProtocolClosed

if TYPE_CHECKING:
    from granian._granian import RSGIHTTPProtocol as HTTPProtocol
    from granian.rsgi import Scope

log = logging.getLogger(__name__)

BODY_SECONDS = 15.0
"""How long a client may take to send a body."""

WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods whose body, should they have one, is not read."""

TOO_SLOW = json.dumps(
    {
        "error": {
            "code": "too_slow",
            "message": f"the body did not arrive within {BODY_SECONDS:.0f} seconds and nothing was stored: send it again",
            "field": None,
        }
    }
).encode()

Headers = list[tuple[str, str]]
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Work = tuple["Scope", "HTTPProtocol", bytes, "asyncio.Future[None]"]


class RsgiAdapter:
    """A WSGI application as granian's own interface (RSGI) wants it.

    Args:
        app: what answers; all of an answer is collected before it is sent.
        threads: how many requests it answers at once.
        most: bytes of a body that are read at most; of a larger one the application sees the length it was
            announced with, or so many bytes and one more.
        seconds: how long a client may take to send a body; then it is told 408.
        on_slow: told of each client that took longer.
    """

    def __init__(
        self,
        app: Wsgi,
        *,
        threads: int,
        most: int,
        seconds: float = BODY_SECONDS,
        on_slow: Callable[[], None] = lambda: None,
    ) -> None:
        self._app = app
        self._most = most
        self._seconds = seconds
        self._on_slow = on_slow
        self._work: SimpleQueue[Work] = SimpleQueue()
        self._ended: deque[asyncio.Future[None]] = deque()
        self._wake_up_sent = False
        self._loop: asyncio.AbstractEventLoop | None = None
        for number in range(threads):
            threading.Thread(target=self._serve, name=f"answer-{number}", daemon=True).start()

    async def __rsgi__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        """Answers one request."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        body = b""
        if scope.method not in WITHOUT_BODY:
            try:
                async with asyncio.timeout(self._seconds):
                    body = await self._read(scope, protocol)
            except TimeoutError:
                self._on_slow()
                headers = [("Content-Type", "application/json"), ("Connection", "close")]
                protocol.response_bytes(408, headers, TOO_SLOW)
                return
            except ProtocolClosed:  # the client left before it had sent everything
                protocol.response_bytes(400, [("Connection", "close")], b"")
                return
        done = self._loop.create_future()
        self._work.put((scope, protocol, body, done))
        await done

    async def _read(self, scope: Scope, protocol: HTTPProtocol) -> bytes:
        """The body; nothing of one that is announced too large, a little more than the most of any other."""
        length = scope.headers.get("content-length")
        if length is not None:
            return b"" if int(length) > self._most else await protocol()
        chunks, size = [], 0
        async for chunk in protocol:
            chunks.append(chunk)
            size += len(chunk)
            if size > self._most:
                break
        return b"".join(chunks)[: self._most + 1]

    def _serve(self) -> None:
        """The life of a thread."""
        while True:
            scope, protocol, body, done = self._work.get()
            try:
                protocol.response_bytes(*self._answer(scope, body))
            except Exception:
                log.exception("an answer could not be given")
                protocol.response_bytes(500, [], b"")
            self._end(done)

    def _answer(self, scope: Scope, body: bytes) -> tuple[int, Headers, bytes]:
        begun: list[tuple[int, Headers]] = []

        def start(status: str, headers: Headers, _: Any = None) -> None:
            begun[:] = [(int(status[:3]), headers)]

        parts = self._app(_environ(scope, body), start)
        try:
            content = b"".join(parts)
        finally:
            getattr(parts, "close", lambda: None)()
        return *begun[0], content

    def _end(self, done: asyncio.Future[None]) -> None:
        """Tells the loop, once for all that end before it looks: each call wakes it by a system call."""
        self._ended.append(done)
        if not self._wake_up_sent and self._loop is not None:
            self._wake_up_sent = True
            self._loop.call_soon_threadsafe(self._see)

    def _see(self) -> None:
        self._wake_up_sent = False  # first: what is added from here on calls again
        while self._ended:
            done = self._ended.popleft()
            if not done.done():  # its connection may be gone
                done.set_result(None)


def _environ(scope: Scope, body: bytes) -> dict[str, Any]:
    """The request as PEP 3333 describes it."""
    host, _, port = scope.server.rpartition(":")
    client = scope.client.rpartition(":")[0] or scope.client
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": scope.path.encode().decode("latin-1"),
        "QUERY_STRING": scope.query_string,
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
        "REMOTE_ADDR": client.strip("[]"),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.scheme,
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in scope.headers.items():
        if "_" in name:  # else X_Forwarded_For could pass for X-Forwarded-For
            continue
        key = name.upper().replace("-", "_")
        key = key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}"
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    if scope.authority:
        environ.setdefault("HTTP_HOST", scope.authority)
    return environ
