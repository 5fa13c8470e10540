"""The records of the store and the tables whose rows they are. Times are UTC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

from thumbs.clients.types import LoraConfig
from thumbs.storage import Schema, UtcTime

METADATA = MetaData()
SCHEMA = Schema(METADATA, "alembic_version")


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
    """A complete checkpoint; its id is the name of its folder, its owner and base model are those of its run."""

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


_TYPES = {str: String, int: BigInteger, bool: Boolean, bytes: LargeBinary, datetime: UtcTime}
_PARENTS = {"session_id": "sessions.id", "run_id": "runs.id"}


def _table(
    name: str, record: type, *constraints: UniqueConstraint, index: Sequence[str] = (), without: Sequence[str] = ()
) -> Table:
    """A column for each field, the first as primary key, lists and mappings as JSON; nullable is what may be None."""
    columns: list[Column[Any]] = []
    for field, hint in get_type_hints(record).items():
        if field not in without:
            kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
            parent = [ForeignKey(_PARENTS[field])] if field in _PARENTS else []
            options: dict[str, Any] = {
                "primary_key": not columns,
                "nullable": NoneType in kinds,
                "index": field in index,
            }
            columns.append(Column(field, _TYPES.get(kinds[0], JSON), *parent, **options))
    return Table(name, METADATA, *columns, *constraints)


TOKENS = Table(
    "tokens",
    METADATA,
    Column("id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("digest", String, nullable=False, unique=True),
    Column("created", UtcTime, nullable=False),
)
SESSIONS = _table("sessions", SessionRecord, index=["owner"])
RUNS = _table("runs", ModelRecord, index=["session_id", "owner"])
SAMPLERS = _table("samplers", SamplerRecord, index=["session_id"])
CHECKPOINTS = _table(
    "checkpoints",
    CheckpointRecord,
    UniqueConstraint("run_id", "kind", "name", name="one_checkpoint_a_name"),
    without=["owner", "base_model", "folder"],
)
FUTURES = _table(
    "futures",
    FutureRecord,
    UniqueConstraint("scope", "seq", name="one_future_a_key"),
    index=["session_id", "finished"],
)
