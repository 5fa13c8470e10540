"""Checkpoints: a row that names, a folder that holds; there is never the one without the whole of the other."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypedDict, Unpack

from sqlalchemy import ColumnElement, Select, and_, delete, false, insert, or_, select, true, update
from sqlalchemy.exc import IntegrityError

from thumbs.clients.checkpoint_folders import CheckpointFolders, size_of
from thumbs.clients.tables import CHECKPOINTS, RUNS, CheckpointRecord
from thumbs.errors import CheckpointError
from thumbs.storage import Database, StoreError, newest_first

KINDS = ("weights", "sampler_weights", "external_weights")
LONGEST_TTL_S = 10 * 365 * 24 * 3600

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_PATH = re.compile(rf"(?:tinker|mint)://([A-Za-z0-9_.:-]+)/({'|'.join(KINDS)})/({_NAME.pattern})")


class SaveOptions(TypedDict, total=False):
    """How a checkpoint is saved: over one of its name, for how many seconds (None: for ever), with what notes."""

    overwrite: bool
    ttl_seconds: float | None
    user_metadata: Mapping[str, Any] | None


class Checkpoints:
    """The checkpoints of a store, under tinker://<run>/<kind>/<name>."""

    def __init__(self, folder: Path, database: Database, clock: Callable[[], datetime]) -> None:
        """Opens the folders and deletes in them what a crash left."""
        self._db, self._now = database, clock
        self._folders = CheckpointFolders(folder)
        self._folders.sweep(lambda: set(database.values(select(CHECKPOINTS.c.id))))

    @contextlib.contextmanager
    def writing(self, run_id: str, kind: str, name: str, **options: Unpack[SaveOptions]) -> Iterator[Path]:
        """An empty folder to write a checkpoint into; at the end of the block it is tinker://<run>/<kind>/<name>.

        The commit of its row is what makes it one: a crash at any moment leaves the old checkpoint or the new one,
        an error in the block the old one. Raises StoreError for an unknown run or kind, a name that is not allowed
        or, without `overwrite`, one that is taken, whether by now or by the end of the block.
        """
        self._check_name(run_id, kind, name)
        expires, overwrite = self._expiry(options.get("ttl_seconds")), options.get("overwrite", False)
        if not overwrite and self.get(f"tinker://{run_id}/{kind}/{name}"):
            raise _taken(name)
        with self._folders.new() as folder:
            yield folder
            row = {"id": folder.name, "run_id": run_id, "kind": kind, "name": name, "size_bytes": size_of(folder)}
            row |= {"public": False, "user_metadata": dict(options.get("user_metadata") or {}), "expires": expires}
            self._folders.place(folder)
            try:
                replaced = self._commit(row, overwrite)
            except BaseException:
                # Not if the commit came through and only its answer was lost.
                if not self._db.values(select(CHECKPOINTS.c.id).where(CHECKPOINTS.c.id == folder.name)):
                    self._folders.remove(folder.name)
                raise
        for checkpoint_id in replaced:
            self._folders.remove(checkpoint_id)

    def get(self, path: str) -> CheckpointRecord | None:
        """The checkpoint at a tinker:// or mint:// path; None if there is none (any more).

        Its folder may vanish while it is read, if somebody overwrites or deletes it at that time.
        """
        return self._db.one(self._record, self._live_checkpoints().where(_at(path)))

    def find(self, path: str, owner: str | None = None, *, own: bool = False) -> CheckpointRecord:
        """The checkpoint at a path, of `owner` if one is given; unless `own`, one that somebody published will do.

        Raises CheckpointError if there is none: one of somebody else is as unknown as one that never was.
        """
        record = self.get(path)
        if record is None or (owner not in (None, record.owner) and (own or not record.public)):
            raise CheckpointError(f"there is no checkpoint {path!r}; it may have expired or been deleted")
        return record

    def page(self, owner: str, limit: int, offset: int) -> tuple[list[CheckpointRecord], int]:
        """A page of the checkpoints of the owner's runs, newest first, and how many there are."""
        return self._db.page(self._record, self._live_checkpoints().where(RUNS.c.owner == owner), limit, offset)

    def of_run(self, run_id: str) -> list[CheckpointRecord]:
        """The run's checkpoints, newest first."""
        return self._db.all(self._record, self._live_checkpoints().where(CHECKPOINTS.c.run_id == run_id))

    def delete(self, path: str) -> None:
        """Delete a checkpoint; raises StoreError if there is none."""
        if not self._delete_checkpoints(and_(_at(path), self._is_live())):
            raise _missing(path)

    def publish(self, path: str, public: bool) -> None:
        """Say whether others may read the checkpoint; raises StoreError if there is none."""
        self._update_checkpoint(path, public=public)

    def set_ttl(self, path: str, ttl_seconds: float | None) -> None:
        """Let the checkpoint expire that many seconds from now, or never; raises StoreError if there is none."""
        self._update_checkpoint(path, expires=self._expiry(ttl_seconds))

    def sweep(self) -> int:
        """Delete the checkpoints whose time has come, which no method returns any more; how many."""
        return self._delete_checkpoints(~self._is_live())

    def _check_name(self, run_id: str, kind: str, name: str) -> None:
        if kind not in KINDS:
            raise StoreError(f"got checkpoint kind {kind!r}; the kinds are {', '.join(KINDS)}")
        if not _NAME.fullmatch(name):
            raise StoreError(
                f"checkpoint name {name!r:.200} is not allowed; take 1 to 128 letters, digits, '_', '-' and '.', "
                "a letter, digit or '_' first"
            )
        if not self._db.values(select(RUNS.c.id).where(RUNS.c.id == run_id)):
            raise StoreError(f"there is no run {run_id!r}; create it before a checkpoint of it is saved")

    def _commit(self, row: dict[str, Any], overwrite: bool) -> Sequence[str]:
        """Make the row count; returns the ids of the checkpoints that it replaces."""
        now, same = self._now(), _named(row["run_id"], row["kind"], row["name"])
        try:
            with self._db.transaction(durable=True) as db:
                # In PostgreSQL this row's lock makes the writers of a run wait for each other.
                db.execute(update(RUNS).where(RUNS.c.id == row["run_id"]).values(last_request=now))
                old = and_(same, true() if overwrite else ~self._is_live())
                replaced = db.scalars(delete(CHECKPOINTS).where(old).returning(CHECKPOINTS.c.id)).all()
                db.execute(insert(CHECKPOINTS).values(created=now, **row))
        except IntegrityError as error:
            raise _taken(row["name"]) from error
        return replaced

    def _delete_checkpoints(self, which: ColumnElement[bool]) -> int:
        with self._db.transaction(durable=True) as db:
            gone = db.scalars(delete(CHECKPOINTS).where(which).returning(CHECKPOINTS.c.id)).all()
        for checkpoint_id in gone:
            self._folders.remove(checkpoint_id)
        return len(gone)

    def _update_checkpoint(self, path: str, **values: Any) -> None:
        if not self._db.execute(update(CHECKPOINTS).where(_at(path), self._is_live()).values(values)):
            raise _missing(path)

    def _live_checkpoints(self) -> Select[Any]:
        return newest_first(CHECKPOINTS).add_columns(RUNS.c.owner, RUNS.c.base_model).join(RUNS).where(self._is_live())

    def _is_live(self) -> ColumnElement[bool]:
        return or_(CHECKPOINTS.c.expires.is_(None), CHECKPOINTS.c.expires > self._now())

    def _record(self, **row: Any) -> CheckpointRecord:
        return CheckpointRecord(**row, folder=self._folders.path(row["id"]))

    def _expiry(self, ttl_seconds: float | None) -> datetime | None:
        if ttl_seconds is None:
            return None
        if not 0 < ttl_seconds <= LONGEST_TTL_S:
            raise StoreError(
                f"got a time to live of {ttl_seconds} s; it must be above 0 and at most {LONGEST_TTL_S} (ten years), "
                "or none for a checkpoint that stays"
            )
        return self._now() + timedelta(seconds=ttl_seconds)


def _named(run_id: str, kind: str, name: str) -> ColumnElement[bool]:
    return and_(CHECKPOINTS.c.run_id == run_id, CHECKPOINTS.c.kind == kind, CHECKPOINTS.c.name == name)


def _at(path: str) -> ColumnElement[bool]:
    """The checkpoint at a path; none where it is not a path of a checkpoint."""
    match = _PATH.fullmatch(path)
    return _named(*match.groups()) if match else false()


def _taken(name: str) -> StoreError:
    return StoreError(f"the run has a checkpoint {name!r} already; save under another name or with overwrite=True")


def _missing(path: str) -> StoreError:
    return StoreError(f"there is no checkpoint at {path!r:.300}; it may have expired: list the checkpoints there are")
