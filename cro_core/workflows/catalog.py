"""What every request needs to know about the experiments, read again only when something changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from cro_core.domain import Experiment, Status
from cro_core.home import Home
from cro_core.storage import decisions, experiments


@dataclass(frozen=True, slots=True)
class Catalog:
    """Experiments and production at one revision of the store."""

    revision: int
    experiments: Mapping[str, Experiment]
    production: Mapping[str, Mapping[str, Any]]

    @property
    def running(self) -> list[Experiment]:
        """The experiments that are running, oldest first."""
        return [e for e in self.experiments.values() if e.status is Status.RUNNING]


def catalog(home: Home, connection: sa.Connection) -> Catalog:
    """The catalog as of this connection's snapshot."""
    revision = experiments.revision(connection)
    cached = home.memory.recall(Catalog)
    if cached is not None and cached.revision == revision:
        return cached
    fresh = Catalog(
        revision,
        {e.id: e for e in experiments.with_status(connection)},
        decisions.production(connection),
    )
    home.memory.keep(fresh)
    return fresh


def remembered(home: Home) -> Mapping[str, Experiment]:
    """The experiments that this process read last; perhaps not the newest ones.

    What they let in stays right: a started experiment keeps its variants, and is never a draft again.
    """
    cached = home.memory.recall(Catalog)
    return cached.experiments if cached is not None else {}
