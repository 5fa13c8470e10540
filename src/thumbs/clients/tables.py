"""The tables of the store and the records that their rows become. Times are UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from thumbs.clients.types import LoraConfig
from thumbs.storage import Schema, UtcTime

METADATA = MetaData()
SCHEMA = Schema(METADATA, "alembic_version")

TOKENS = Table(
    "tokens",
    METADATA,
    Column("id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("digest", String, nullable=False, unique=True),
    Column("created", UtcTime, nullable=False),
)

SESSIONS = Table(
    "sessions",
    METADATA,
    Column("id", String, primary_key=True),
    Column("owner", String, nullable=False, index=True),
    Column("tags", JSON, nullable=False),
    Column("user_metadata", JSON, nullable=False),
    Column("project_id", String),
    Column("display_name", String),
    Column("sdk_version", String, nullable=False),
    Column("created", UtcTime, nullable=False),
    Column("last_seen", UtcTime, nullable=False),
    Column("finished", UtcTime),
    Column("reason", String),
)

RUNS = Table(
    "runs",
    METADATA,
    Column("id", String, primary_key=True),
    Column("session_id", ForeignKey("sessions.id"), nullable=False, index=True),
    Column("owner", String, nullable=False, index=True),
    Column("base_model", String, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("seed", BigInteger),
    Column("train_unembed", Boolean, nullable=False),
    Column("train_mlp", Boolean, nullable=False),
    Column("train_attn", Boolean, nullable=False),
    Column("user_metadata", JSON, nullable=False),
    Column("created", UtcTime, nullable=False),
    Column("last_request", UtcTime, nullable=False),
)

SAMPLERS = Table(
    "samplers",
    METADATA,
    Column("id", String, primary_key=True),
    Column("session_id", ForeignKey("sessions.id"), nullable=False, index=True),
    Column("owner", String, nullable=False),
    Column("base_model", String, nullable=False),
    Column("model_path", String),
    Column("created", UtcTime, nullable=False),
)

CHECKPOINTS = Table(
    "checkpoints",
    METADATA,
    Column("id", String, primary_key=True),  # the name of its folder
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("kind", String, nullable=False),
    Column("name", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("public", Boolean, nullable=False),
    Column("user_metadata", JSON, nullable=False),
    Column("created", UtcTime, nullable=False),
    Column("expires", UtcTime),
    UniqueConstraint("run_id", "kind", "name", name="one_checkpoint_a_name"),
)

FUTURES = Table(
    "futures",
    METADATA,
    Column("request_id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("session_id", ForeignKey("sessions.id"), index=True),
    Column("scope", String),
    Column("seq", BigInteger),
    Column("body_hash", String, nullable=False),
    Column("created", UtcTime, nullable=False),
    Column("finished", UtcTime, index=True),
    Column("result", LargeBinary),
    Column("content_type", String, nullable=False),
    Column("error", Text),
    Column("category", String),
    UniqueConstraint("scope", "seq", name="one_future_a_key"),
)


@dataclass(frozen=True)
class TokenRecord:
    """A token without its secret."""

    id: str
    owner: str
    created: datetime


@dataclass(frozen=True)
class SessionRecord:
    """A client that connected; `finished` and `reason` are None while it lives."""

    id: str
    owner: str
    tags: list[str]
    user_metadata: dict[str, Any]
    project_id: str | None
    display_name: str | None
    sdk_version: str
    created: datetime
    last_seen: datetime
    finished: datetime | None
    reason: str | None


@dataclass(frozen=True)
class ModelRecord:
    """A model in training and how it was created."""

    id: str
    session_id: str
    owner: str
    base_model: str
    rank: int
    seed: int | None
    train_unembed: bool
    train_mlp: bool
    train_attn: bool
    user_metadata: dict[str, Any]
    created: datetime
    last_request: datetime

    @property
    def lora(self) -> LoraConfig:
        """Its adapter, as clients ask for it."""
        return LoraConfig(**{name: getattr(self, name) for name in LoraConfig.model_fields})


@dataclass(frozen=True)
class SamplerRecord:
    """A sampling session; without `model_path` it samples from the base model."""

    id: str
    session_id: str
    owner: str
    base_model: str
    model_path: str | None
    created: datetime


@dataclass(frozen=True)
class CheckpointRecord:
    """A complete checkpoint; its owner and its base model are those of its run."""

    id: str
    run_id: str
    owner: str
    base_model: str
    kind: str
    name: str
    size_bytes: int
    public: bool
    user_metadata: dict[str, Any]
    created: datetime
    expires: datetime | None
    folder: Path

    @property
    def path(self) -> str:
        """Its address, tinker://<run>/<kind>/<name>."""
        return f"tinker://{self.run_id}/{self.kind}/{self.name}"


@dataclass(frozen=True)
class FutureRecord:
    """A promise; `finished` is None while it is pending, then `result` or `error` and `category` are set."""

    request_id: str
    owner: str
    kind: str
    session_id: str | None
    scope: str | None
    seq: int | None
    body_hash: str
    created: datetime
    finished: datetime | None = None
    result: bytes | None = None
    content_type: str = ""
    error: str | None = None
    category: str | None = None
