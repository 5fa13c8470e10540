"""The first tables. A migration is never changed once it is released; a change of the tables is a new file here."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    _who()
    _what_they_made()


def _who() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False, unique=True),
        sa.Column("created", TIME, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False, index=True),
        sa.Column("tags", sa.JSON, nullable=False),
        sa.Column("user_metadata", sa.JSON, nullable=False),
        sa.Column("project_id", sa.String),
        sa.Column("display_name", sa.String),
        sa.Column("sdk_version", sa.String, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("last_seen", TIME, nullable=False),
        sa.Column("finished", TIME),
        sa.Column("reason", sa.String),
    )


def _what_they_made() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("session_id", sa.String, sa.ForeignKey("sessions.id"), nullable=False, index=True),
        sa.Column("owner", sa.String, nullable=False, index=True),
        sa.Column("base_model", sa.String, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("seed", sa.BigInteger),
        sa.Column("train_unembed", sa.Boolean, nullable=False),
        sa.Column("train_mlp", sa.Boolean, nullable=False),
        sa.Column("train_attn", sa.Boolean, nullable=False),
        sa.Column("user_metadata", sa.JSON, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("last_request", TIME, nullable=False),
    )
    op.create_table(
        "samplers",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("session_id", sa.String, sa.ForeignKey("sessions.id"), nullable=False, index=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("base_model", sa.String, nullable=False),
        sa.Column("model_path", sa.String),
        sa.Column("created", TIME, nullable=False),
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("run_id", sa.String, sa.ForeignKey("runs.id"), nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("public", sa.Boolean, nullable=False),
        sa.Column("user_metadata", sa.JSON, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("expires", TIME),
        sa.UniqueConstraint("run_id", "kind", "name", name="one_checkpoint_a_name"),
    )
    op.create_table(
        "futures",
        sa.Column("request_id", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("session_id", sa.String, sa.ForeignKey("sessions.id"), index=True),
        sa.Column("scope", sa.String),
        sa.Column("seq", sa.BigInteger),
        sa.Column("body_hash", sa.String, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("finished", TIME, index=True),
        sa.Column("result", sa.LargeBinary),
        sa.Column("content_type", sa.String, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("category", sa.String),
        sa.UniqueConstraint("scope", "seq", name="one_future_a_key"),
    )
