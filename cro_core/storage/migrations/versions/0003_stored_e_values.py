"""E-values of each look."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("looks", sa.Column("e_values", sa.JSON(), nullable=True))


def downgrade() -> None:
    raise NotImplementedError("a newer store is not made older: restore a backup")
