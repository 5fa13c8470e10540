"""The tables as made and as declared, what cannot be changed in them, and where they cannot be."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, OperationalError

import postgres_server
from collect_world import ON_SQLITE, first_is_better, person, project_of_pairs
from thumbs.collect import store as store_module
from thumbs.collect.records import Task
from thumbs.collect.store import CollectStore, why_no_answer
from thumbs.collect.tables import EVENTS, IMMUTABLE, METADATA, SCHEMA
from thumbs.errors import ConfigError


def test_an_empty_database_gets_all_tables_and_indexes(store: CollectStore):
    with store.db.reading() as db:
        tables = set(sa.inspect(db).get_table_names())
        listed = "SELECT name FROM sqlite_master" if store.db.is_sqlite else "SELECT indexname FROM pg_indexes"
        indexes = set(db.exec_driver_sql(listed).scalars())
        assert db.scalar(sa.select(SCHEMA.stamp)) == SCHEMA.version
    assert tables == {*METADATA.tables, "collect_version"}
    assert {index.name for table in METADATA.tables.values() for index in table.indexes} <= indexes


def test_tables_of_another_version_are_refused(database: Path | str):
    with contextlib.closing(CollectStore(database)) as store, store.db.transaction() as db:
        db.execute(sa.update(SCHEMA.stamp).values(version_num="9999"))
    with pytest.raises(ConfigError, match=r"version '9999'[\s\S]*the thumbs that made it"):
        CollectStore(database)


def test_tables_of_somebody_else_are_left_alone(database: Path | str):
    url = f"sqlite:///{database}" if isinstance(database, Path) else database
    engine = sa.create_engine(url)
    with engine.begin() as db:
        db.exec_driver_sql("CREATE TABLE projects (id INTEGER)")
    with pytest.raises(ConfigError, match="already exists"):
        CollectStore(database)
    assert sa.inspect(engine).get_table_names() == ["projects"]
    engine.dispose()


@pytest.mark.parametrize("table", IMMUTABLE)
def test_rows_stay_as_they_were_written(store: CollectStore, table: str):
    project = project_of_pairs(store, 1)
    ann = person(store, "ann")
    task = store.work.claim(project.id, ann)
    assert isinstance(task, Task)
    store.work.submit(task.assignment, ann, "key-00001", first_is_better(task))
    rows = METADATA.tables[table]
    for change in (sa.update(rows).values(id=rows.c.id), sa.delete(rows)):
        with pytest.raises(DatabaseError, match=f"rows of {table} stay as they are"), store.db.transaction() as db:
            db.execute(change)


@pytest.mark.parametrize("column", ["action", "previous"])
def test_a_changed_line_of_the_log_is_found(store: CollectStore, column: str):
    project_of_pairs(store, 1)
    person(store, "ann")
    assert store.audit.broken() is None
    events = store.audit.events()
    assert [event.action for event in events][-2:] == ["items.add", "project.create"]
    with store.db.transaction() as db:
        if store.db.is_sqlite:
            db.exec_driver_sql("DROP TRIGGER events_no_update")
        else:
            db.exec_driver_sql("DROP TRIGGER events_no_change ON events")
        db.execute(sa.update(EVENTS).where(EVENTS.c.id == events[-2].id).values({column: "nothing.happened"}))
    assert store.audit.broken() == events[-2].id


def test_a_store_is_opened_again_and_by_two(database: Path | str):
    first = CollectStore(database)
    project = project_of_pairs(first, 2)
    second = CollectStore(database)
    assert [found.slug for found in second.projects.all()] == [project.slug]
    ann = person(first, "ann")
    one, other = first.work.claim(project.id, ann), second.work.claim(project.id, ann)
    assert isinstance(one, Task)
    assert isinstance(other, Task)
    assert one.assignment == other.assignment
    first.close()
    second.close()


def test_a_plain_url_of_postgresql_means_the_driver_that_is_installed(postgres: Path):
    with postgres_server.new_database(postgres) as url:
        CollectStore(url.replace("postgresql+psycopg:", "postgresql:")).close()
    assert str(store_module._url("postgresql://me@host/db")) == "postgresql+psycopg://me@host/db"


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/home {tmp_path}/home nfs4 rw 0 0\n")
    kind = store_module._network_kind
    monkeypatch.setattr(store_module, "_network_kind", lambda path: kind(path, mounts))
    with pytest.raises(ConfigError, match=r"network file system \(nfs4\).*PostgreSQL"):
        CollectStore(tmp_path / "home" / "collect.db")
    CollectStore(tmp_path / "here" / "collect.db").close()


@pytest.mark.parametrize("url", ["nonsense", "mysql://somewhere/db", "postgresql+psycopg://nobody@/db?host=/nowhere"])
def test_a_database_that_is_none_is_said_so(url: str):
    with pytest.raises(ConfigError, match=r"database|allowed"):
        CollectStore(url)


def test_the_next_task_and_the_own_history_are_found_without_sorting(tmp_path: Path):
    """SQLite chooses indexes without looking at the rows, so a handful of them shows what it does with a million."""
    store = CollectStore(tmp_path / "collect.db")
    project, ann = project_of_pairs(store, 3), person(store, "ann")
    asked: list[tuple[str, tuple[object, ...]]] = []
    sa.event.listen(store.db._engine, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
    task = store.work.claim(project.id, ann)
    assert isinstance(task, Task)
    store.work.submit(task.assignment, ann, "key-00001", first_is_better(task))
    store.work.claim(project.id, ann)
    store.work.history(project.id, ann)
    ordered = [one for one in asked if "ORDER BY items.priority" in one[0] or "ORDER BY judgements.id DESC" in one[0]]
    assert len(ordered) >= 3
    for statement, values in ordered:
        with store.db.glance() as db:
            plan = [row[3] for row in db.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
        assert not any("TEMP B-TREE" in step for step in plan), plan
        assert any("ix_items_next" in step or "ix_judgements_account" in step for step in plan), plan
    store.close()


@ON_SQLITE
def test_a_new_database_file_is_its_owners_alone(database: Path, tmp_path: Path):
    tmp_path.chmod(0o755)
    with contextlib.closing(CollectStore(database)) as store:
        person(store, "ann")
        modes = {
            path.name: path.stat().st_mode & 0o077 for path in tmp_path.iterdir() if path.name.startswith("collect")
        }
    assert "collect.db" in modes
    assert set(modes.values()) == {0}


def test_a_full_disk_is_said():
    class FullError(Exception):
        sqlite_errorcode = 13

    class PostgresError(Exception):
        sqlstate = "53100"

    for cause in (FullError(), PostgresError()):
        assert "disk of the database is full" in why_no_answer(OperationalError("INSERT", {}, cause))
    assert "does not answer" in why_no_answer(OperationalError("INSERT", {}, Exception()))
