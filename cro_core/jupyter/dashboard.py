"""Starts the dashboard: Voila on ``dashboard.ipynb``, on loopback, with our template and kernel."""

from __future__ import annotations

import os
import sys
from importlib.resources import files
from pathlib import Path

from cro_core.home import Home
from cro_core.jupyter.runner import notebook_path

IDLE_SECONDS, CULL_EVERY_SECONDS = 120, 60
"""Seconds after which a kernel nobody looks at is ended, and between two checks: Voila would keep its 250 MB for ever."""


def dashboard_command(home: Home, port: int) -> tuple[list[str], dict[str, str]]:
    """Returns the command that serves the dashboard of a home, and the environment it needs.

    Every visit runs the notebook anew. Voila could keep a kernel that has run it already, but the page would
    then show the site as it was when that kernel started, which may be days ago.

    Args:
        home: what is shown; the notebook finds it through ``CRO_HOME``.
        port: on loopback.
    """
    command = [
        sys.executable,
        "-m",
        "voila",
        str(notebook_path("dashboard")),
        "--no-browser",
        f"--port={port}",
        "--Voila.ip=127.0.0.1",
        "--template=cro-dashboard",
        "--show_tracebacks=False",
        f"--MappingKernelManager.cull_interval={CULL_EVERY_SECONDS}",
        f"--MappingKernelManager.cull_idle_timeout={IDLE_SECONDS}",
        "--KernelManager.transport_encryption=auto",
        "--VoilaConfiguration.extension_denylist=@voila-dashboards/jupyterlab-preview",
        "--VoilaConfiguration.extension_denylist=jupyterlab_pygments",
    ]
    return command, _environment(home)


def _environment(home: Home) -> dict[str, str]:
    """Extends this process's environment so that our template and kernel are found before any others."""
    own = Path(str(files("cro_core.jupyter") / "share"))
    cache = home.data / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        "CRO_HOME": str(home.path),
        "JUPYTER_PATH": os.pathsep.join(filter(None, [str(own), os.environ.get("JUPYTER_PATH")])),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "IPYTHONDIR": str(cache / "ipython"),
        "JUPYTER_CONFIG_DIR": str(cache / "jupyter-config"),
        "JUPYTER_DATA_DIR": str(cache / "jupyter-data"),
        "JUPYTER_RUNTIME_DIR": str(cache / "jupyter"),
        "MPLCONFIGDIR": str(cache / "matplotlib"),
    }
