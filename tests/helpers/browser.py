"""The Chromium that browser tests drive; run as a program, it makes sure that there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (  # a browser that talks only to the pages under test
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)


def executable() -> str | None:
    """An installed Chromium that starts, else Playwright's own download, else None."""
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    for path in [*filter(None, map(shutil.which, NAMES)), own]:
        # On some systems the command is only a stub that says how to install the real one.
        if Path(path).exists() and _works([path, "--version"], output=subprocess.DEVNULL):
            return path
    return None


@contextmanager
def launch() -> Iterator[Browser]:
    """A headless Chromium, closed at the end."""
    found = executable()
    if found is None:
        raise RuntimeError("no Chromium is installed: `make browser` installs one")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield browser
        browser.close()


def install() -> None:
    """The system's package where we may install it, else Playwright's download."""
    root = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    apt = [*root, "apt-get", "-o", "DPkg::Lock::Timeout=300"]
    if shutil.which("apt-get") and (not root or _works([*root, "true"])):
        _works([*apt, "update"])
        _works([*apt, "install", "--yes", "--no-install-recommends", "chromium"])
    if executable() is None:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=True)


def _works(command: list[str], output: int | None = None) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        return (
            subprocess.run(command, env=environment, stdout=output, stderr=output, check=False).returncode
            == 0
        )
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    if executable() is None:
        install()
    sys.stdout.write(f"browser: {executable()}\n")
