"""The store as pandas tables, for notebooks and analysts."""

from __future__ import annotations

from datetime import datetime

import pandas as pd
import sqlalchemy as sa

from cro_core import analysis
from cro_core.domain import EXPOSURE
from cro_core.errors import NotFound
from cro_core.home import Home
from cro_core.storage import analytics, experiments, schema


def events(home: Home, experiment_id: str) -> pd.DataFrame:
    """One row per stored event of an experiment, oldest first; times are UTC.

    These are its exposures, its own goals, and the goals of its visitors that name no experiment.
    Visitors appear as ``unit``, a keyed hash: the same visitor has the same one everywhere in this home.
    """
    table = schema.events
    exposed = sa.select(schema.exposures.c.unit).where(schema.exposures.c.experiment_id == experiment_id)
    everywhere = sa.and_(table.c.experiment_id.is_(None), table.c.unit.in_(exposed))
    query = (
        sa.select(table)
        .where(sa.or_(table.c.experiment_id == experiment_id, everywhere))
        .order_by(table.c.occurred_at, table.c.id)
    )
    with home.db.read() as connection:
        rows = connection.execute(query).mappings().all()
    return pd.DataFrame(rows, columns=list(table.c.keys()))


def units(home: Home, experiment_id: str, as_of: datetime) -> pd.DataFrame:
    """One row per counted visitor of an experiment: ``variant``, ``converted`` (bool), ``score``, ``value``,
    ``device``, ``city``, ``country``, ``occasion``, ``exposed_at`` and ``converted_at`` (UTC).

    Raises:
        NotFound: no such experiment.
        Conflict: it has not started.
    """
    with home.db.read() as connection:
        experiment = experiments.get(connection, experiment_id)
        rows = analytics.unit_table(connection, experiment, as_of)
    frame = pd.DataFrame(rows, columns=list(rows[0].keys()) if rows else COLUMNS)
    counted = frame[frame["standing"] == analysis.COUNTED].drop(columns="standing").reset_index(drop=True)
    for name in ("exposed_at", "converted_at"):
        counted[name] = pd.to_datetime(counted[name].astype("Int64"), unit="us", utc=True)
    return counted.assign(converted=counted["converted"].astype(bool))


def busiest(home: Home) -> str:
    """The id of the experiment with the most events.

    Raises:
        NotFound: no event of any experiment is stored.
    """
    table = schema.events
    number = sa.func.count()
    query = sa.select(table.c.experiment_id).where(
        table.c.experiment_id.is_not(None), table.c.type == EXPOSURE
    )
    with home.db.read() as connection:
        found = connection.scalar(
            query.group_by(table.c.experiment_id).order_by(number.desc(), table.c.experiment_id)
        )
    if found is None:
        raise NotFound("no event of any experiment is stored yet: try `cro generate 3 500`")
    return str(found)


COLUMNS = [
    "unit", "variant", "exposed_at", "epoch", "device", "city", "country", "occasion", "asset_id", "standing",
    "converted", "converted_at", "score", "value",
]  # fmt: skip
