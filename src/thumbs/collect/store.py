"""Where people's judgements are kept: one database, and the parts that read and write it."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from sqlalchemy import URL, make_url, select
from sqlalchemy.exc import ArgumentError, OperationalError

from thumbs.collect.audit import Audit
from thumbs.collect.chat import Chat
from thumbs.collect.items import Items
from thumbs.collect.people import Accounts
from thumbs.collect.projects import Projects
from thumbs.collect.tables import GENERATORS, SCHEMA
from thumbs.collect.votes import Votes
from thumbs.collect.work import Tasks
from thumbs.errors import ConfigError
from thumbs.records import Generator
from thumbs.storage import Database, utc_now

_POSTGRES_DISK_FULL = "53100"
_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "glusterfs", "ceph", "fuse.sshfs", "afs")


class CollectStore:
    """Projects, items, people and their judgements; safe to share between threads and processes.

    `where` is the path of a SQLite file, or a SQLAlchemy URL. `clock` says what time it is, `chance` decides who is
    shown what on the left. Raises ConfigError if the database cannot be opened, or where it is a SQLite file on a
    network file system: its locks do not hold there, and judgements would be lost.
    """

    def __init__(
        self,
        where: Path | str | URL,
        *,
        clock: Callable[[], datetime] = utc_now,
        chance: random.Random | None = None,
    ) -> None:
        chance = chance or random.SystemRandom()
        self.db = Database(_url(where), SCHEMA)
        self.audit = Audit(self.db, clock)
        self.projects = Projects(self.db, self.audit, clock)
        self.people = Accounts(self.db, self.audit, clock)
        self.items = Items(self.db, self.audit, clock)
        self.votes = Votes(self.db, self.projects)
        self.work = Tasks(self.db, self.projects, self.items, self.votes, clock, chance)
        self.chat = Chat(self.db, self.projects, self.items, self.work, self.votes, clock)

    def close(self) -> None:
        """Let go of all connections."""
        self.db.close()

    def generators(self) -> dict[int, Generator]:
        """Everyone who wrote replies, by id; a generator's seeds are with its replies."""
        with self.db.reading() as db:
            return {
                row.id: Generator(row.kind, row.name, row.checkpoint, row.sampling)
                for row in db.execute(select(GENERATORS))
            }


def _url(where: Path | str | URL) -> str | URL:
    if isinstance(where, Path):
        where.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        where = URL.create("sqlite", database=str(where))
    try:
        url = make_url(where)
    except ArgumentError:
        raise ConfigError(f"{where!r} is not a database URL; allowed: FILE, sqlite:///FILE or postgresql://…") from None
    if url.drivername == "postgresql":
        return url.set(drivername="postgresql+psycopg")  # the driver that `thumbs[postgres]` brings
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        path = Path(url.database or "").absolute()
        if (kind := _network_kind(path)) is not None:
            raise ConfigError(
                f"{path} lies on a network file system ({kind}), where SQLite's locks do not hold and judgements would "
                "be lost; keep it on a local disk, or give the URL of a PostgreSQL database"
            )
    return where


def why_no_answer(error: OperationalError) -> str:
    """Why the database took no answer, in a sentence; what was not acknowledged was not kept."""
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    full = code == sqlite3.SQLITE_FULL or getattr(error.orig, "sqlstate", "") == _POSTGRES_DISK_FULL
    if full:
        return "the disk of the database is full, so nothing was kept; free some space and try again"
    if code == sqlite3.SQLITE_IOERR:
        return "the disk of the database takes no more (it may be full), so nothing was kept; make room and try again"
    return "the database does not answer; try again"


def _network_kind(path: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """The kind of the network file system that holds `path`; None if it is none, or the system does not say."""
    try:
        lines = [line.split() for line in mounts.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return None
    held = [(Path(line[1].replace("\\040", " ")), line[2]) for line in lines if len(line) > 2]
    around = [(folder, kind) for folder, kind in held if path.is_relative_to(folder)]
    kind = max(around, key=lambda one: len(one[0].parts), default=(path, ""))[1]
    return kind if kind.startswith(_NETWORK) else None
