"""Serves a home as ``service.server`` does, but notes a job as done at once instead of running its notebook."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

from cro_core.home import Home
from cro_core.storage import journal
from service.routes import jobs
from service.server import serve


def note_done(home: Home, job: str, now: datetime) -> str:
    run_id = f"{job}-{now.timestamp():.0f}-{len(list((home.data / 'locks').iterdir()))}"
    marker = home.data / "locks" / f"{run_id}.started"
    marker.touch()
    with home.db.write() as connection:
        journal.start_run(connection, run_id, job, now)
        journal.finish_run(
            connection,
            run_id,
            status="done",
            now=now,
            notebook="reports/runs/n.ipynb",
            outcome={"evaluated": 1},
        )
    return run_id


if __name__ == "__main__":
    jobs.start_job = note_done
    serve(Path(sys.argv[1]), port=int(sys.argv[2]), threads=8)
