"""The tables. Times are UTC.

Judgements, responses, prompts, generators, questions, guidelines and events are never updated or deleted: triggers
forbid it. Counters of items are a cache that `Work.recount` checks.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)
from sqlalchemy.schema import SchemaItem

from thumbs.collect.records import ItemRole, ItemState, ProjectState, Role, Source, TokenScope, Verdict
from thumbs.storage import Schema, UtcTime, keep_rows

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
IMMUTABLE = ("questions", "guidelines", "generators", "prompts", "responses", "judgements", "events")
"""Tables whose rows stay as they were written."""
SCHEMA = Schema(METADATA, "collect_version")

Id = BigInteger().with_variant(Integer, "sqlite")


def _table(name: str, *parts: SchemaItem) -> Table:
    return Table(name, METADATA, *parts)


def _id() -> Column[int]:
    return Column("id", Id, primary_key=True)


def _ref(name: str, target: str, *, null: bool = False, index: bool = False) -> Column[int]:
    return Column(name, Id, ForeignKey(f"{target}.id"), nullable=null, index=index)


def _time(name: str, *, null: bool = False) -> Column[datetime]:
    return Column(name, UtcTime, nullable=null)


def _text(name: str, *, null: bool = False, unique: bool = False) -> Column[str]:
    return Column(name, Text, nullable=null, unique=unique)


def _one_of(column: str, words: Any) -> CheckConstraint:
    """The column holds one of the words of a Literal."""
    listed = ", ".join(f"'{value}'" for value in get_args(words))
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


PROJECTS = _table(
    "projects",
    _id(),
    _text("slug", unique=True),
    _text("name"),
    _text("state"),
    Column("settings", JSON, nullable=False),
    _time("created"),
    _one_of("state", ProjectState),
)

ACCOUNTS = _table(
    "accounts",
    _id(),
    _text("handle", unique=True),
    _text("name"),
    _text("role"),
    _text("password", null=True),
    _text("invitation", null=True, unique=True),
    Column("disabled", Boolean, nullable=False),
    _time("created"),
    _one_of("role", Role),
)

IDENTITIES = _table(
    "identities",
    _id(),
    _ref("account_id", "accounts", index=True),
    _text("source"),
    _text("external_id"),
    _text("study"),
    UniqueConstraint("source", "external_id", "study"),
    _one_of("source", Source),
)

MEMBERS = _table(
    "members",
    Column("project_id", Id, ForeignKey("projects.id"), primary_key=True),
    Column("account_id", Id, ForeignKey("accounts.id"), primary_key=True, index=True),
    Column("quota", Integer),
    Column("paused", Boolean, nullable=False),
    Column("qualified", Boolean),
    _time("created"),
)

LOGINS = _table(
    "logins",
    Column("digest", String, primary_key=True),
    _ref("account_id", "accounts", index=True),
    _time("created"),
    _time("expires"),
)

API_TOKENS = _table(
    "api_tokens",
    _id(),
    _ref("account_id", "accounts"),
    _text("digest", unique=True),
    _text("scope"),
    _text("note"),
    _time("created"),
    _time("revoked", null=True),
    _one_of("scope", TokenScope),
)

QUESTIONS, GUIDELINES = (
    _table(
        name,
        _id(),
        _ref("project_id", "projects"),
        Column("version", Integer, nullable=False),
        _text("body"),
        _text("sha256"),
        _ref("created_by", "accounts", null=True),
        _time("created"),
        UniqueConstraint("project_id", "version"),
    )
    for name in ("questions", "guidelines")
)

GENERATORS = _table(
    "generators",
    _id(),
    _text("kind"),
    _text("name"),
    _text("checkpoint"),
    Column("sampling", JSON, nullable=False),
    _text("fingerprint", unique=True),
    _one_of("kind", Literal["model", "human", "file"]),
)

PROMPTS = _table(
    "prompts",
    _id(),
    _ref("project_id", "projects"),
    Column("messages", JSON, nullable=False),
    _text("digest"),
    _text("name"),
    _time("created"),
    UniqueConstraint("project_id", "digest"),
)

RESPONSES = _table(
    "responses",
    _id(),
    _ref("prompt_id", "prompts", index=True),
    _ref("generator_id", "generators", index=True),
    Column("seed", BigInteger),
    _text("text"),
    _text("stop_reason"),
    _text("digest", unique=True),
    _ref("edited_from", "responses", null=True),
    _time("created"),
)

CONVERSATIONS = _table(
    "conversations",
    Column("id", String, primary_key=True),
    _ref("project_id", "projects", index=True),
    _ref("account_id", "accounts"),
    _text("state"),
    _text("goal"),
    Column("success", Integer),
    _time("created"),
    _one_of("state", Literal["open", "ended"]),
)

ITEMS = _table(
    "items",
    _id(),
    _ref("project_id", "projects"),
    _ref("prompt_id", "prompts", index=True),
    _ref("question_id", "questions"),
    Column("conversation_id", String, ForeignKey("conversations.id"), index=True),
    _text("key"),
    Column("priority", Float, nullable=False),
    Column("target", Integer, nullable=False),
    Column("n_live", Integer, nullable=False, default=0),
    Column("n_done", Integer, nullable=False, default=0),
    Column("n_skip", Integer, nullable=False, default=0),
    Column("state", Text, nullable=False, default="open"),
    _text("role"),
    Column("gold", JSON(none_as_null=True)),
    Column("chosen_by", JSON, nullable=False),
    _time("created"),
    UniqueConstraint("project_id", "key"),
    CheckConstraint("n_live >= 0 AND n_done >= 0 AND n_skip >= 0", name="counted"),
    _one_of("state", ItemState),
    _one_of("role", ItemRole),
    Index("ix_items_next", "project_id", "state", "role", text("priority DESC"), "id"),
    Index("ix_items_listed", "project_id", "state", "role", "id"),
    Index("ix_items_counted", "project_id", "state", "role", "target", "n_done"),
)
_SKIPPED = ITEMS.c.n_skip > literal_column("0")
"""Literally: a database uses a partial index for conditions of the same words alone."""
Index(
    "ix_items_skipped",
    *ITEMS.c["project_id", "state", "role", "id"],
    sqlite_where=_SKIPPED,
    postgresql_where=_SKIPPED,
)

SLOTS = _table(
    "slots",
    Column("item_id", Id, ForeignKey("items.id"), primary_key=True),
    Column("slot", Integer, primary_key=True),
    _ref("response_id", "responses", index=True),
    UniqueConstraint("item_id", "response_id"),
)

ASSIGNMENTS = _table(
    "assignments",
    Column("id", String, primary_key=True),
    _ref("item_id", "items"),
    _ref("project_id", "projects"),
    _ref("account_id", "accounts"),
    _ref("question_id", "questions"),
    _ref("guideline_id", "guidelines"),
    _text("state"),
    Column("display", JSON, nullable=False),
    Column("revision", Integer, nullable=False),
    _time("leased"),
    _time("expires"),
    UniqueConstraint("item_id", "account_id"),
    _one_of("state", Literal["live", "expired", "released", "submitted", "skipped"]),
    Index("ix_assignments_of", "account_id", "project_id", "state"),
)
_LIVE = ASSIGNMENTS.c.state == "live"
Index(
    "uq_assignments_one_live",
    ASSIGNMENTS.c.project_id,
    ASSIGNMENTS.c.account_id,
    unique=True,
    sqlite_where=_LIVE,
    postgresql_where=_LIVE,
)
Index("ix_assignments_expires", ASSIGNMENTS.c.expires, sqlite_where=_LIVE, postgresql_where=_LIVE)

JUDGEMENTS = _table(
    "judgements",
    _id(),
    Column("assignment_id", String, ForeignKey("assignments.id"), nullable=False),
    _ref("item_id", "items", index=True),
    _ref("project_id", "projects"),
    _ref("account_id", "accounts"),
    _ref("question_id", "questions"),
    _ref("guideline_id", "guidelines"),
    Column("revision", Integer, nullable=False),
    _text("key", unique=True),
    _text("body_sha256"),
    _text("verdict"),
    Column("strength", Integer, nullable=False),
    Column("answer", JSON, nullable=False),
    _ref("written_id", "responses", null=True),
    Column("active_ms", BigInteger, nullable=False),
    Column("wall_ms", BigInteger, nullable=False),
    _text("input"),
    Column("late", Boolean, nullable=False),
    _time("created"),
    UniqueConstraint("assignment_id", "revision"),
    CheckConstraint("strength BETWEEN -4 AND 4 AND (verdict = 'prefer') = (strength <> 0)", name="strength"),
    _one_of("verdict", Verdict),
    Index("ix_judgements_project", "project_id", "id"),
    Index("ix_judgements_account", "account_id", "project_id", "id"),
)

EXPORTS = _table(
    "exports",
    _id(),
    _ref("project_id", "projects", index=True),
    _ref("account_id", "accounts", null=True),
    _text("format"),
    Column("filters", JSON, nullable=False),
    Column("watermark", BigInteger, nullable=False),
    Column("manifest", JSON, nullable=False),
    _time("created"),
)

EVENTS = _table(
    "events",
    _id(),
    _time("at"),
    _ref("account_id", "accounts", null=True),
    _ref("project_id", "projects", null=True, index=True),
    _text("action"),
    Column("data", JSON, nullable=False),
    _text("previous"),
    _text("digest"),
)

keep_rows(METADATA, IMMUTABLE)
