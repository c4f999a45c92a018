"""Running the service with the server that ships: granian, one worker process with threads."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cro_core.errors import Conflict, InvalidInput
from cro_core.home import Home, open_home

if TYPE_CHECKING:
    from flask import Flask

SHUTDOWN_SECONDS = 20
"""How long requests that are being answered may take to end after SIGTERM or SIGINT."""

LOGGING = {
    "formatters": {
        "generic": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
        "access": {"format": "%(message)s"},
    },
    "root": {"handlers": ["console"], "level": "INFO"},
}


def serve(
    home: Home | Path | str, host: str | None = None, port: int | None = None, threads: int | None = None
) -> None:
    """Serves a home until SIGTERM or SIGINT; requests being answered are finished first.

    A worker process answers with threads; this process watches it, and replaces it where it dies. Nothing
    about a request is logged but its failure: no address, no visitor id.

    Args:
        home: an opened home, or the path of one.
        host: address to bind; default from the settings, loopback.
        port: default from the settings, 3000.
        threads: requests answered at once; default from the settings.

    Raises:
        NotFound, ConfigError, StoreError: the home cannot be opened.
        Conflict: the port is taken.
        InvalidInput: the address cannot be bound on this machine.
    """
    opened = home if isinstance(home, Home) else open_home(home)
    settings = opened.config.service
    host, port = host or settings.host, port or settings.port
    _check_home(opened)
    _granian(_numeric(host, port), port, threads or settings.threads).serve(
        target_loader=partial(_load, opened.path), wrap_loader=False
    )


def _granian(host: str, port: int, threads: int) -> Any:
    # The public server class supervises a worker; only its ASGI twin runs inside this process.
    from granian import Granian
    from granian.constants import Interfaces

    # It warns of more threads than processors, but ours wait for the disk.
    logging.getLogger("_granian").addFilter(lambda record: "Python threads" not in record.getMessage())
    return Granian(
        target="service",  # only a name: the app comes from the loader
        address=host,
        port=port,
        interface=Interfaces.WSGI,
        workers=1,
        blocking_threads=threads,
        workers_kill_timeout=SHUTDOWN_SECONDS,
        respawn_failed_workers=True,  # one that dies again at once ends the server with exit code 1
        websockets=False,
        log_access=False,  # it would hold addresses and visitor ids
        log_dictconfig=LOGGING,
    )


def _load(path: Path) -> Flask:
    """The app, made in the worker: a database connection does not survive a fork."""
    from service.app import create_app

    threading.Thread(target=_leave_with, args=(os.getppid(),), name="watch-parent", daemon=True).start()
    return create_app(path)


def _leave_with(parent: int) -> None:
    """Ends this worker when its parent was killed: an orphan would keep the port and serve an old home."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _check_home(home: Home) -> None:
    """Finds here, not in the worker, what would keep the app from starting."""
    _ = home.salt, home.admin_key
    home.db.close()


def _numeric(host: str, port: int) -> str:
    """The address of ``host`` that can be bound, as a number: the server takes no names.

    Raises:
        Conflict: the port is taken.
        InvalidInput: the address cannot be bound on this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # IPv4 first: of a machine's two loopbacks it is the one that everything else here means.
        family, kind, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
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
