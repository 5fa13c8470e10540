"""The first tables. A migration is never changed once it is released; a change of the tables is a new file here."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)
IMMUTABLE = ("questions", "guidelines", "generators", "prompts", "responses", "judgements", "events")


def upgrade() -> None:
    _accounts_generators_projects()
    _api_tokens_conversations_events()
    _exports_guidelines_identities()
    _logins_members_prompts()
    _questions()
    _items()
    _responses()
    _assignments_slots()
    _judgements()
    _forbid_changes()


def _forbid_changes() -> None:
    """Rows that stay as they were written, whoever has the password of the database."""
    if op.get_bind().dialect.name == "sqlite":
        for table in IMMUTABLE:
            for change in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, 'rows of {table} stay as they are'); END"
                )
        return
    op.execute(
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'rows of % stay as they are', TG_TABLE_NAME; END $$"
    )
    for table in IMMUTABLE:
        op.execute(
            f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )


def _refers(column: str, target: str, name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [target], name=name)


def _accounts_generators_projects() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", ID, primary_key=True),
        sa.Column("handle", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("password", sa.Text),
        sa.Column("invitation", sa.Text),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.CheckConstraint(
            "role IN ('owner', 'admin', 'reviewer', 'annotator', 'viewer')", name="ck_accounts_role_known"
        ),
        sa.UniqueConstraint("handle", name="uq_accounts_handle"),
        sa.UniqueConstraint("invitation", name="uq_accounts_invitation"),
    )
    op.create_table(
        "generators",
        sa.Column("id", ID, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("checkpoint", sa.Text, nullable=False),
        sa.Column("sampling", sa.JSON, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.CheckConstraint("kind IN ('model', 'human', 'file')", name="ck_generators_kind_known"),
        sa.UniqueConstraint("fingerprint", name="uq_generators_fingerprint"),
    )
    op.create_table(
        "projects",
        sa.Column("id", ID, primary_key=True),
        sa.Column("slug", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.CheckConstraint("state IN ('open', 'paused', 'closed')", name="ck_projects_state_known"),
        sa.UniqueConstraint("slug", name="uq_projects_slug"),
    )


def _api_tokens_conversations_events() -> None:
    op.create_table(
        "api_tokens",
        sa.Column("id", ID, primary_key=True),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("revoked", TIME),
        sa.CheckConstraint("scope IN ('ingest', 'export', 'admin')", name="ck_api_tokens_scope_known"),
        _refers("account_id", "accounts.id", "fk_api_tokens_account_id"),
        sa.UniqueConstraint("digest", name="uq_api_tokens_digest"),
    )
    op.create_table(
        "conversations",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("goal", sa.Text, nullable=False),
        sa.Column("success", sa.Integer),
        sa.Column("created", TIME, nullable=False),
        sa.CheckConstraint("state IN ('open', 'ended')", name="ck_conversations_state_known"),
        _refers("account_id", "accounts.id", "fk_conversations_account_id"),
        _refers("project_id", "projects.id", "fk_conversations_project_id"),
    )
    op.create_index("ix_conversations_project_id", "conversations", ["project_id"])
    op.create_table(
        "events",
        sa.Column("id", ID, primary_key=True),
        sa.Column("at", TIME, nullable=False),
        sa.Column("account_id", ID),
        sa.Column("project_id", ID),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("previous", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        _refers("account_id", "accounts.id", "fk_events_account_id"),
        _refers("project_id", "projects.id", "fk_events_project_id"),
    )
    op.create_index("ix_events_project_id", "events", ["project_id"])


def _exports_guidelines_identities() -> None:
    op.create_table(
        "exports",
        sa.Column("id", ID, primary_key=True),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("account_id", ID),
        sa.Column("format", sa.Text, nullable=False),
        sa.Column("filters", sa.JSON, nullable=False),
        sa.Column("watermark", sa.BigInteger, nullable=False),
        sa.Column("manifest", sa.JSON, nullable=False),
        sa.Column("created", TIME, nullable=False),
        _refers("account_id", "accounts.id", "fk_exports_account_id"),
        _refers("project_id", "projects.id", "fk_exports_project_id"),
    )
    op.create_index("ix_exports_project_id", "exports", ["project_id"])
    op.create_table(
        "guidelines",
        sa.Column("id", ID, primary_key=True),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("created_by", ID),
        sa.Column("created", TIME, nullable=False),
        _refers("created_by", "accounts.id", "fk_guidelines_created_by"),
        _refers("project_id", "projects.id", "fk_guidelines_project_id"),
        sa.UniqueConstraint("project_id", "version", name="uq_guidelines_project_id_version"),
    )
    op.create_table(
        "identities",
        sa.Column("id", ID, primary_key=True),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("external_id", sa.Text, nullable=False),
        sa.Column("study", sa.Text, nullable=False),
        sa.CheckConstraint("source IN ('prolific', 'mturk')", name="ck_identities_source_known"),
        _refers("account_id", "accounts.id", "fk_identities_account_id"),
        sa.UniqueConstraint("source", "external_id", "study", name="uq_identities_source_external_id_study"),
    )
    op.create_index("ix_identities_account_id", "identities", ["account_id"])


def _logins_members_prompts() -> None:
    op.create_table(
        "logins",
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.Column("expires", TIME, nullable=False),
        _refers("account_id", "accounts.id", "fk_logins_account_id"),
        sa.PrimaryKeyConstraint("digest", name="pk_logins"),
    )
    op.create_index("ix_logins_account_id", "logins", ["account_id"])
    op.create_table(
        "members",
        sa.Column("project_id", ID, nullable=False),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("quota", sa.Integer),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("qualified", sa.Boolean),
        sa.Column("created", TIME, nullable=False),
        _refers("account_id", "accounts.id", "fk_members_account_id"),
        _refers("project_id", "projects.id", "fk_members_project_id"),
        sa.PrimaryKeyConstraint("project_id", "account_id", name="pk_members"),
    )
    op.create_index("ix_members_account_id", "members", ["account_id"])
    op.create_table(
        "prompts",
        sa.Column("id", ID, primary_key=True),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("messages", sa.JSON, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created", TIME, nullable=False),
        _refers("project_id", "projects.id", "fk_prompts_project_id"),
        sa.UniqueConstraint("project_id", "digest", name="uq_prompts_project_id_digest"),
    )


def _questions() -> None:
    op.create_table(
        "questions",
        sa.Column("id", ID, primary_key=True),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("created_by", ID),
        sa.Column("created", TIME, nullable=False),
        _refers("created_by", "accounts.id", "fk_questions_created_by"),
        _refers("project_id", "projects.id", "fk_questions_project_id"),
        sa.UniqueConstraint("project_id", "version", name="uq_questions_project_id_version"),
    )


def _items() -> None:
    op.create_table(
        "items",
        sa.Column("id", ID, primary_key=True),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("prompt_id", ID, nullable=False),
        sa.Column("question_id", ID, nullable=False),
        sa.Column("conversation_id", sa.String),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("priority", sa.Float, nullable=False),
        sa.Column("target", sa.Integer, nullable=False),
        sa.Column("n_live", sa.Integer, nullable=False),
        sa.Column("n_done", sa.Integer, nullable=False),
        sa.Column("n_skip", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("gold", sa.JSON(none_as_null=True)),
        sa.Column("chosen_by", sa.JSON, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.CheckConstraint("role IN ('work', 'gold', 'attention', 'qualification')", name="ck_items_role_known"),
        sa.CheckConstraint("state IN ('open', 'done', 'retired')", name="ck_items_state_known"),
        sa.CheckConstraint("n_live >= 0 AND n_done >= 0 AND n_skip >= 0", name="ck_items_counted"),
        _refers("conversation_id", "conversations.id", "fk_items_conversation_id"),
        _refers("project_id", "projects.id", "fk_items_project_id"),
        _refers("prompt_id", "prompts.id", "fk_items_prompt_id"),
        _refers("question_id", "questions.id", "fk_items_question_id"),
        sa.UniqueConstraint("project_id", "key", name="uq_items_project_id_key"),
    )
    op.create_index("ix_items_next", "items", ["project_id", "state", "role", sa.text("priority DESC"), "id"])
    op.create_index("ix_items_conversation_id", "items", ["conversation_id"])
    op.create_index("ix_items_counted", "items", ["project_id", "state", "role", "target", "n_done"])
    op.create_index("ix_items_listed", "items", ["project_id", "state", "role", "id"])
    op.create_index("ix_items_prompt_id", "items", ["prompt_id"])
    op.create_index(
        "ix_items_skipped",
        "items",
        ["project_id", "state", "role", "id"],
        unique=False,
        sqlite_where=sa.text("n_skip > 0"),
        postgresql_where=sa.text("n_skip > 0"),
    )


def _responses() -> None:
    op.create_table(
        "responses",
        sa.Column("id", ID, primary_key=True),
        sa.Column("prompt_id", ID, nullable=False),
        sa.Column("generator_id", ID, nullable=False),
        sa.Column("seed", sa.BigInteger),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("stop_reason", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("edited_from", ID),
        sa.Column("created", TIME, nullable=False),
        _refers("edited_from", "responses.id", "fk_responses_edited_from"),
        _refers("generator_id", "generators.id", "fk_responses_generator_id"),
        _refers("prompt_id", "prompts.id", "fk_responses_prompt_id"),
        sa.UniqueConstraint("digest", name="uq_responses_digest"),
    )
    op.create_index("ix_responses_generator_id", "responses", ["generator_id"])
    op.create_index("ix_responses_prompt_id", "responses", ["prompt_id"])


def _assignments_slots() -> None:
    op.create_table(
        "assignments",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("item_id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("question_id", ID, nullable=False),
        sa.Column("guideline_id", ID, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("display", sa.JSON, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("leased", TIME, nullable=False),
        sa.Column("expires", TIME, nullable=False),
        sa.CheckConstraint(
            "state IN ('live', 'expired', 'released', 'submitted', 'skipped')", name="ck_assignments_state_known"
        ),
        _refers("account_id", "accounts.id", "fk_assignments_account_id"),
        _refers("guideline_id", "guidelines.id", "fk_assignments_guideline_id"),
        _refers("item_id", "items.id", "fk_assignments_item_id"),
        _refers("project_id", "projects.id", "fk_assignments_project_id"),
        _refers("question_id", "questions.id", "fk_assignments_question_id"),
        sa.UniqueConstraint("item_id", "account_id", name="uq_assignments_item_id_account_id"),
    )
    op.create_index(
        "ix_assignments_expires",
        "assignments",
        ["expires"],
        unique=False,
        sqlite_where=sa.text("state = 'live'"),
        postgresql_where=sa.text("state = 'live'"),
    )
    op.create_index("ix_assignments_of", "assignments", ["account_id", "project_id", "state"])
    op.create_index(
        "uq_assignments_one_live",
        "assignments",
        ["project_id", "account_id"],
        unique=True,
        sqlite_where=sa.text("state = 'live'"),
        postgresql_where=sa.text("state = 'live'"),
    )
    op.create_table(
        "slots",
        sa.Column("item_id", ID, nullable=False),
        sa.Column("slot", sa.Integer, nullable=False),
        sa.Column("response_id", ID, nullable=False),
        _refers("item_id", "items.id", "fk_slots_item_id"),
        _refers("response_id", "responses.id", "fk_slots_response_id"),
        sa.PrimaryKeyConstraint("item_id", "slot", name="pk_slots"),
        sa.UniqueConstraint("item_id", "response_id", name="uq_slots_item_id_response_id"),
    )
    op.create_index("ix_slots_response_id", "slots", ["response_id"])


def _judgements() -> None:
    op.create_table(
        "judgements",
        sa.Column("id", ID, primary_key=True),
        sa.Column("assignment_id", sa.String, nullable=False),
        sa.Column("item_id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("account_id", ID, nullable=False),
        sa.Column("question_id", ID, nullable=False),
        sa.Column("guideline_id", ID, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("body_sha256", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("strength", sa.Integer, nullable=False),
        sa.Column("answer", sa.JSON, nullable=False),
        sa.Column("written_id", ID),
        sa.Column("active_ms", sa.BigInteger, nullable=False),
        sa.Column("wall_ms", sa.BigInteger, nullable=False),
        sa.Column("input", sa.Text, nullable=False),
        sa.Column("late", sa.Boolean, nullable=False),
        sa.Column("created", TIME, nullable=False),
        sa.CheckConstraint(
            "strength BETWEEN -4 AND 4 AND (verdict = 'prefer') = (strength <> 0)", name="ck_judgements_strength"
        ),
        sa.CheckConstraint(
            "verdict IN ('prefer', 'tie', 'both_bad', 'skip', 'rank', 'rate', 'write')",
            name="ck_judgements_verdict_known",
        ),
        _refers("account_id", "accounts.id", "fk_judgements_account_id"),
        _refers("assignment_id", "assignments.id", "fk_judgements_assignment_id"),
        _refers("guideline_id", "guidelines.id", "fk_judgements_guideline_id"),
        _refers("item_id", "items.id", "fk_judgements_item_id"),
        _refers("project_id", "projects.id", "fk_judgements_project_id"),
        _refers("question_id", "questions.id", "fk_judgements_question_id"),
        _refers("written_id", "responses.id", "fk_judgements_written_id"),
        sa.UniqueConstraint("assignment_id", "revision", name="uq_judgements_assignment_id_revision"),
        sa.UniqueConstraint("key", name="uq_judgements_key"),
    )
    op.create_index("ix_judgements_account", "judgements", ["account_id", "project_id", "id"])
    op.create_index("ix_judgements_item_id", "judgements", ["item_id"])
    op.create_index("ix_judgements_project", "judgements", ["project_id", "id"])
