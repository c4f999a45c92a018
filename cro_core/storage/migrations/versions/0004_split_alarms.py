"""Alarms of the split check."""

import sqlalchemy as sa
from alembic import op

from cro_core.storage.schema import Moment

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "split_alarms",
        sa.Column("experiment_id", sa.Text, sa.ForeignKey("experiments.id"), primary_key=True),
        sa.Column("dimension", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("first_at", Moment, primary_key=True),
        sa.Column("log_e", sa.Float, nullable=False),
        sa.Column("settled_at", Moment),
        sa.Column("settled_by", sa.Text),
        sa.Column("how", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("settled_log_e", sa.Float),
        sa.Column("largest_log_e", sa.Float),
        comment="Alarms of the split check, as they were first raised, and how a person settled them.",
    )


def downgrade() -> None:
    raise NotImplementedError("a newer store is not made older: restore a backup")
