"""What the tests of the store share: a clock that they set, a run to save for, and what is really on the disk."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import URL, create_engine

from thumbs.clients.store import Store
from thumbs.clients.types import LoraConfig

URLS: dict[Path, str] = {}
"""Databases of stores that are not in SQLite, by their folders."""

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def later(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now


def add_run(store: Store, owner: str = "ann", number: int = 0, session_id: str = "") -> str:
    """A run of a new session, or of the given one."""
    run_id = f"{session_id or store.add_session(owner)}:train:{number}"
    store.add_run(run_id, run_id.partition(":")[0], owner, "tiny", LoraConfig(rank=8, train_unembed=False))
    return run_id


def save(store: Store, run_id: str, name: str, text: str = "weights", kind: str = "weights", **options: object) -> str:
    """A checkpoint of two equal files; returns its path."""
    with store.checkpoints.writing(run_id, kind, name, **options) as folder:  # pyright: ignore[reportArgumentType]
        write_twice(folder, text)
    return f"tinker://{run_id}/{kind}/{name}"


def write_twice(folder: Path, text: str) -> None:
    (folder / "a.txt").write_text(text)
    (folder / "deep").mkdir()
    (folder / "deep" / "b.txt").write_text(text)


def on_disk(root: Path) -> dict[str, list[str]]:
    """Name of each checkpoint that the database has, read without the store → the texts in its folder; asserts that
    rows and folders go together and that nothing is left over."""
    engine = create_engine(URLS.get(root) or URL.create("sqlite", database=str(root / "store.db")))
    with engine.connect() as connection:
        rows = {row.id: row.name for row in connection.exec_driver_sql("SELECT id, name FROM checkpoints")}
    engine.dispose()
    assert {folder.name for folder in (root / "checkpoints").iterdir()} == set(rows)
    assert list((root / "partial").iterdir()) == []
    return {name: texts(root / "checkpoints" / folder) for folder, name in rows.items()}


def texts(folder: Path) -> list[str]:
    return [(folder / "a.txt").read_text(), (folder / "deep" / "b.txt").read_text()]
