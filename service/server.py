"""Running the service with the server that ships: granian, one worker process with threads."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cro_core.errors import Conflict, InvalidInput
from cro_core.home import Home, open_home
from cro_core.workflows import geolocate
from service import logs

if TYPE_CHECKING:
    from service.slow_clients import RsgiAdapter

SHUTDOWN_SECONDS = 20
"""How long requests that are being answered may take to end after SIGTERM or SIGINT."""

HEADER_SECONDS = 10
"""How long a client may take to send its headers, and how long it may be silent between two requests."""

MOST_CONNECTIONS = 4096
"""Connections at once; more wait until one ends."""


def serve(
    home: Home | Path | str, host: str | None = None, port: int | None = None, threads: int | None = None
) -> None:
    """Serves a home until SIGTERM or SIGINT; requests being answered are finished first.

    A worker process answers with threads; this process watches it, and replaces it where it dies. Each request
    is a line of the log, without address, query and visitor id.

    Args:
        home: an opened home, or the path of one.
        host: address to bind; default from the settings, loopback.
        port: default from the settings, 3000.
        threads: requests answered at once; default from the settings.

    Raises:
        NotFound, ConfigError, StoreError: the home cannot be opened, or the environment asks for no log there is.
        Conflict: the port is taken.
        InvalidInput: the address cannot be bound on this machine.
    """
    opened = home if isinstance(home, Home) else open_home(home)
    settings = opened.config.service
    host, port = host or settings.host, port or settings.port
    _check_home(opened)
    _granian(_numeric(host, port), port, logs.settings(opened.environ)).serve(
        target_loader=partial(_load, opened.path, threads or settings.threads), wrap_loader=False
    )


def _granian(host: str, port: int, logging_settings: dict[str, Any]) -> Any:
    # The public server class supervises a worker; only its ASGI twin runs inside this process.
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings

    return Granian(
        target="service",  # only a name: the app comes from the loader
        address=host,
        port=port,
        interface=Interfaces.RSGI,  # not WSGI: service/slow_clients.py says why
        http=HTTPModes.http1,  # one request at a time on a connection
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_SECONDS * 1000),
        backlog=MOST_CONNECTIONS,
        backpressure=MOST_CONNECTIONS,
        workers=1,
        workers_kill_timeout=SHUTDOWN_SECONDS,
        respawn_failed_workers=True,  # one that dies again at once ends the server with exit code 1
        websockets=False,
        log_access=False,  # it would hold addresses and visitor ids
        log_dictconfig=logging_settings,
    )


def _load(path: Path, threads: int) -> RsgiAdapter:
    """The app behind its adapter, made in the worker: neither connections nor threads survive a fork."""
    from service.app import create_app
    from service.fast_path import with_fast_path
    from service.slow_clients import RsgiAdapter

    threading.Thread(target=_leave_with, args=(os.getppid(),), name="watch-parent", daemon=True).start()
    _allow_connections()
    app = with_fast_path(create_app(path))
    most = app.extensions["cro_home"].config.service.max_body_bytes
    return RsgiAdapter(app, threads=threads, most=most, on_slow=app.extensions["cro_monitor"].slow)


def _allow_connections() -> None:
    """Each takes a file descriptor, of which a process may often have 1,024 unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST_CONNECTIONS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _leave_with(parent: int) -> None:
    """Ends this worker when its parent was killed: an orphan would keep the port and serve an old home."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _check_home(home: Home) -> None:
    """Finds here, not in the worker, what would keep the app from starting."""
    _ = home.salt, home.admin_key, geolocate.locator(home)
    home.db.close()


def _numeric(host: str, port: int) -> str:
    """The address of ``host`` that can be bound, as a number: the server takes no names.

    Raises:
        Conflict: the port is taken.
        InvalidInput: the address cannot be bound on this machine.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # IPv4 first: of a machine's two loopbacks it is the one that everything else here means.
        family, kind, _, _, address = min(addresses, key=lambda entry: entry[0] != socket.AF_INET)
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except PermissionError:
        raise InvalidInput(f"port {port} needs more rights: use one above 1023", field="port") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"port {port} on {host} is taken: stop what runs there, or use another with --port"
            ) from None
        raise InvalidInput(
            f"the address {host} cannot be bound on this machine: {error}", field="host"
        ) from None
    return str(address[0])
