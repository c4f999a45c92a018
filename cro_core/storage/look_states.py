"""Stores the looks of the cycle, and the state that each leaves for the next."""

from __future__ import annotations

import sqlalchemy as sa

from cro_core.domain import Json
from cro_core.errors import InvalidInput
from cro_core.evidence import Decision
from cro_core.storage import schema


def state(connection: sa.Connection, experiment_id: str) -> Json | None:
    """Reads the state that the newest look left; ``None`` before the first."""
    table = schema.engine_states
    value: Json | None = connection.scalar(
        sa.select(table.c.state).where(table.c.experiment_id == experiment_id)
    )
    return value


def add(connection: sa.Connection, decision: Decision, state: Json) -> None:
    """Stores a look that was taken, and the state it left in the place of the one before.

    Args:
        connection: inside a write transaction.
        decision: what the look said; its evidence holds the numbers.
        state: what the next look goes on from.
    """
    look = decision.evidence.look
    if look is None:
        raise InvalidInput(f"decision {decision.id} holds no look: store only looks that were taken")
    e_values = decision.evidence.e_values
    same = (schema.looks.c.experiment_id == decision.experiment_id) & (schema.looks.c.as_of == decision.as_of)
    connection.execute(
        sa.delete(schema.looks).where(same)
    )  # a cycle that is run again takes the same look again
    connection.execute(
        sa.insert(schema.looks).values(
            experiment_id=decision.experiment_id,
            as_of=decision.as_of,
            number=look.number,
            spending_time=look.spending_time,
            alpha_spent=look.alpha_spent,
            critical_z=look.critical_z,
            z=[comparison.z for comparison in decision.evidence.comparisons],
            units=look.counted_units,
            e_values=None if e_values is None else [row.e_value for row in e_values],
        )
    )
    table = schema.engine_states
    connection.execute(sa.delete(table).where(table.c.experiment_id == decision.experiment_id))
    connection.execute(
        sa.insert(table).values(experiment_id=decision.experiment_id, as_of=decision.as_of, state=state)
    )
