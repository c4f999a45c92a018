"""Works on a home in processes that kill themselves, for tests of what is left then.

A test starts this file once and writes a JSON line for each piece of work; the answers are the number of the
process that does it, and its status: -9 if it was killed. Each is forked from here, where no library has a thread yet
but Arrow's allocator, which a fork does not harm.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pandas as pd  # noqa: F401  Arrow would import it in each process, which takes longer than the work

from cro_core.home import open_home
from cro_core.storage import sealing, seals
from cro_core.storage.database import Database
from cro_core.storage.lake import Lake
from cro_core.storage.sealing import Sealer
from cro_core.workflows.forget import forget
from cro_core.workflows.seal import seal

STEPS: dict[str, tuple[Any, str]] = {
    "undo": (Lake, "undo"),
    "append": (Lake, "append"),
    "rewrite": (Lake, "rewrite"),
    "drop": (Lake, "drop"),
    "vacuum": (Lake, "vacuum"),
    "remember": (seals, "remember"),
    "note": (seals, "note"),
    "remove": (seals, "remove"),
    "tidy": (Database, "tidy"),
    "scrub": (Database, "scrub"),
    "move": (Sealer, "move"),
    "clean": (Sealer, "clean"),
}


def kill_at(step: str, when: str, nth: int) -> None:
    """Lets this process die before or after the nth call of a step."""
    owner, name = STEPS[step]
    real: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if calls == nth and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


def work(job: dict[str, Any]) -> None:
    """Seals or forgets, with small pieces so that there are several."""
    sealing.FEWEST, sealing.MOST, sealing.PIECE = 1, 15, 30
    sealing.MOST_FILES, sealing.DAYS_TOGETHER = job.get("most_files", sealing.MOST_FILES), 1
    home = open_home(job["home"], {"CRO_DATABASE_URL": job["url"]})
    if job.get("step"):
        kill_at(job["step"], job["when"], job.get("nth", 1))
    now = datetime.fromisoformat(job["now"])
    if job["work"] == "seal":
        seal(home, now=now, force=True)
    else:
        forget(home, job["visitors"], now=now, actor="test")


def answer(number: int) -> None:
    """Tells the test a number."""
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main() -> None:
    """Serves until the input ends."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work(json.loads(line))
                code = 0
            except Exception as error:  # noqa: BLE001  told to the test
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
            finally:
                os._exit(code)
        answer(child)
        _, status = os.waitpid(child, 0)
        answer(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
