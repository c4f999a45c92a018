"""Sealed days, internal traffic, and exposures in the order of their experiments."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("events", sa.Column("internal", sa.Boolean(), server_default=sa.false(), nullable=False))
    with op.batch_alter_table("exposures") as batch:
        batch.drop_constraint("pk_exposures", type_="primary")
        batch.create_primary_key("pk_exposures", ["experiment_id", "unit"])
    op.create_table(
        "lake_versions",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_lake_versions")),
        comment="Versions of the lake that count; the newest holds what the event table no longer does.",
    )
    op.create_table(
        "id_filters",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("ids", sa.BigInteger(), nullable=False),
        sa.Column("bits", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_id_filters")),
        comment="Bloom filters of the ids of sealed events: what is in none of them was never sealed.",
    )


def downgrade() -> None:
    raise NotImplementedError("a newer store is not made older: restore a backup")
