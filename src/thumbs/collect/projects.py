"""Projects: what is asked, by which guidelines, and how the work is dealt out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

from sqlalchemy import Connection, Row, Table, exists, func, insert, select, update

from thumbs.collect.audit import Audit
from thumbs.collect.errors import CollectError, NotFound
from thumbs.collect.question import Question
from thumbs.collect.records import Project, ProjectState, Version
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.tables import GUIDELINES, ITEMS, PROJECTS, QUESTIONS
from thumbs.data.sources import canonical_json
from thumbs.storage import Database, inserted_id

MOST_GUIDELINES = 100_000
"""Characters of the guidelines."""
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
_VERSIONED: dict[str, Table] = {"questions": QUESTIONS, "guidelines": GUIDELINES}


class Projects:
    """Made and changed by administrators; `by` is the account that does it, None the command line."""

    def __init__(self, db: Database, audit: Audit, clock: Callable[[], datetime]) -> None:
        self._db, self._audit, self._clock = db, audit, clock
        self.version = lru_cache(maxsize=1024)(self._read_version)
        """version(what, id): the version of the questions or guidelines with that id; raises NotFound."""
        self.advice = lru_cache(maxsize=1024)(self._read_advice)
        """advice(project, version): the text of that version of its guidelines."""

    def create(
        self,
        slug: str,
        name: str,
        question: Question,
        *,
        guidelines: str = "",
        settings: ProjectSettings | None = None,
        by: int | None = None,
    ) -> Project:
        """A new open project; raises CollectError if the slug is taken or not of small letters, digits and -."""
        if not _SLUG.fullmatch(slug):
            raise CollectError(
                f"a project's short name has small letters, digits and - inside, 64 at most; got {slug!r}"
            )
        if not name.strip() or len(name) > 200:
            raise CollectError("a project's name has 1 to 200 characters")
        settings = settings or ProjectSettings()
        with self._db.transaction(durable=True) as db:
            if db.scalar(select(exists().where(PROJECTS.c.slug == slug))):
                raise CollectError(f"there is a project {slug!r} already; choose another short name")
            row = {"slug": slug, "name": name.strip(), "state": "open", "settings": settings.model_dump(mode="json")}
            made = db.execute(insert(PROJECTS).values(**row, created=self._clock()))
            project_id = inserted_id(made)
            self._version(db, QUESTIONS, project_id, _question_text(question), by)
            self._version(db, GUIDELINES, project_id, _checked_guidelines(guidelines), by)
            self._audit.note(db, "project.create", by, project_id, row)
        return self.get(project_id)

    def find(self, slug: str) -> Project:
        """The project of that short name; raises NotFound."""
        query = select(PROJECTS).where(PROJECTS.c.slug == slug)
        return self._db.the(Project, query, NotFound(f"there is no project {slug!r}"))

    def get(self, project_id: int) -> Project:
        """The project of that id; raises NotFound."""
        query = select(PROJECTS).where(PROJECTS.c.id == project_id)
        return self._db.the(Project, query, NotFound(f"there is no project {project_id}"))

    def all(self) -> list[Project]:
        """Every project, oldest first."""
        return self._db.all(Project, select(PROJECTS).order_by(PROJECTS.c.id))

    def settings(self, project_id: int) -> ProjectSettings:
        """How its work is dealt out."""
        return read_settings(self.get(project_id))

    def configure(self, project_id: int, settings: ProjectSettings, by: int | None = None) -> None:
        """Replaces the settings. `overlap` is for items to come; Items.set_target changes those that are there."""
        self._change(project_id, "project.configure", by, settings=settings.model_dump(mode="json"))

    def set_state(self, project_id: int, state: ProjectState, by: int | None = None) -> None:
        """open; paused: nobody gets a new task; closed: the same, for good. Answers on their way are kept."""
        self._change(project_id, "project.state", by, state=state)

    def ask(self, project_id: int, question: Question, by: int | None = None) -> Version:
        """Asks another way from the next task on: a new version, unless it is the present one.

        Raises CollectError if the kind changes and there are items, which were made for the old kind.
        """
        kind = self.question(project_id)[1].kind
        with self._db.transaction(durable=True, turn=project_id) as db:
            if kind != question.kind and db.scalar(select(exists().where(ITEMS.c.project_id == project_id))):
                raise CollectError(f"the items of this project were made for {kind!r}; make a new project")
            return self._version(db, QUESTIONS, project_id, _question_text(question), by)

    def advise(self, project_id: int, markdown: str, by: int | None = None) -> Version:
        """Changes the guidelines from the next task on: a new version, unless they are the present ones."""
        with self._db.transaction(durable=True, turn=project_id) as db:
            return self._version(db, GUIDELINES, project_id, _checked_guidelines(markdown), by)

    def question(self, project_id: int) -> tuple[Version, Question]:
        """What is asked now."""
        version = self._newest(QUESTIONS, project_id)
        return version, read_question(version.body)

    def guidelines(self, project_id: int) -> Version:
        """By which guidelines, as Markdown; version 1 may be empty."""
        return self._newest(GUIDELINES, project_id)

    def versions(self, what: Literal["questions", "guidelines"], project_id: int) -> list[Version]:
        """All of them, oldest first."""
        table = _VERSIONED[what]
        query = select(table).where(table.c.project_id == project_id).order_by(table.c.version)
        return self._db.all(Version, query)

    def _read_version(self, what: Literal["questions", "guidelines"], version_id: int) -> Version:
        table = _VERSIONED[what]
        query = select(table).where(table.c.id == version_id)
        return self._db.the(Version, query, NotFound(f"there is no version {version_id} of the {what}"))

    def _read_advice(self, project_id: int, version: int) -> str:
        where = (GUIDELINES.c.project_id == project_id, GUIDELINES.c.version == version)
        return self._db.values(select(GUIDELINES.c.body).where(*where))[0]

    def _newest(self, table: Table, project_id: int) -> Version:
        return self._db.the(Version, _newest(table, project_id), NotFound(f"there is no project {project_id}"))

    def _version(self, db: Connection, table: Table, project_id: int, body: str, by: int | None) -> Version:
        """Adds a version within the transaction, unless `body` is the newest."""
        newest = db.execute(_newest(table, project_id)).first()
        if newest is not None and newest.body == body:
            return Version(**newest._asdict())
        row: dict[str, Any] = {
            "project_id": project_id,
            "version": 1 if newest is None else newest.version + 1,
            "body": body,
            "sha256": hashlib.sha256(body.encode("utf-8")).hexdigest(),
            "created_by": by,
            "created": self._clock(),
        }
        made = db.execute(insert(table).values(row))
        if newest is not None:
            noted = {"version": row["version"], "sha256": row["sha256"]}
            self._audit.note(db, f"{table.name}.change", by, project_id, noted)
        return Version(id=inserted_id(made), **row)

    def _change(self, project_id: int, action: str, by: int | None, **values: Any) -> None:
        with self._db.transaction(durable=True, turn=project_id) as db:
            changed = db.execute(update(PROJECTS).where(PROJECTS.c.id == project_id).values(**values))
            if not changed.rowcount:
                raise NotFound(f"there is no project {project_id}")
            self._audit.note(db, action, by, project_id, values)


def read_settings(project: Project | Row[Any]) -> ProjectSettings:
    """The project's settings, checked again: the database may be another version's."""
    return _settings(canonical_json(project.settings))


@lru_cache(maxsize=256)
def _settings(text: str) -> ProjectSettings:
    return ProjectSettings.model_validate_json(text)


@lru_cache(maxsize=256)
def read_question(body: str) -> Question:
    """The question of a version's text."""
    return Question.model_validate_json(body)


def newest_version(table: Table, project_id: int) -> Any:
    """The query for the id of the newest version of a project's question or guidelines."""
    query = select(func.max(table.c.id)).where(table.c.project_id == project_id)
    return query.scalar_subquery()


def _question_text(question: Question) -> str:
    # What is null is left out, so that a field that came later makes no new version of an old question.
    return json.dumps(question.model_dump(mode="json", exclude_none=True), sort_keys=True, ensure_ascii=False)


def _checked_guidelines(markdown: str) -> str:
    if len(markdown) > MOST_GUIDELINES:
        raise CollectError(f"guidelines of {len(markdown)} characters; at most {MOST_GUIDELINES} are shown")
    if "\0" in markdown:
        raise CollectError("the guidelines hold a NUL character; take it out")
    return markdown.replace("\r\n", "\n")


def _newest(table: Table, project_id: int) -> Any:
    query = select(table).where(table.c.project_id == project_id)
    return query.order_by(table.c.version.desc()).limit(1)
