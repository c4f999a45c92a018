"""The kernel that notebooks run in: this very interpreter, on sockets nobody else can read.

Imported only by the runner at the moment of a run: jupyter_client is slow to load.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager


def own_kernel(folder: Path, cache: Path) -> type[AsyncKernelManager]:
    """Makes a kernel manager class that starts this interpreter, whatever kernels the user has installed.

    Args:
        folder: short-lived and private; holds the connection file, its sockets and IPython's profile, so that
            neither a HOME nor a writable one is needed (cron has none).
        cache: kept between runs; holds matplotlib's font cache, which takes seconds to build.

    Unix sockets instead of TCP: no port is open to other users, and ipykernel has nothing to warn of.
    """
    spec = KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        display_name="Python 3",
        language="python",
        env=dict(environment(folder, cache)),
    )
    connection_file = str(
        folder / "k.json"
    )  # short: a Unix socket's whole path may have about 100 characters

    class OwnKernel(AsyncKernelManager):
        """A kernel manager that starts ``spec`` instead of looking a kernel up by name."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options, transport="ipc", connection_file=connection_file)
            self._kernel_spec = spec

        async def _async_interrupt_kernel(self) -> None:
            # Shutting down interrupts first, for kernels that hang; one that does not complains of it aloud.
            if not self.shutting_down:
                await super()._async_interrupt_kernel()

    return OwnKernel


def environment(folder: Path, cache: Path) -> Mapping[str, str]:
    """Sets the variables that a kernel needs where the environment is empty or HOME cannot be written."""
    return {
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(folder),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "MPLCONFIGDIR": str(cache / "matplotlib"),
        "PATH": os.environ.get("PATH", os.defpath),
    }
