"""One server for a store: two would end each other's operations and delete each other's folders."""

from __future__ import annotations

import fcntl
import logging
import threading
import time
from pathlib import Path
from typing import IO

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from thumbs.errors import ConfigError
from thumbs.storage import Database

log = logging.getLogger(__name__)

# The schema, too: sets of tables in schemas of their own are different stores.
_LOCK = text("SELECT pg_try_advisory_lock(hashtextextended('thumbs serve in ' || current_schema(), 0))")

_GRACE_S = 1.0
"""How long PostgreSQL may take to see that a connection was closed, seconds."""


class Claim:
    """Held from `take` to `release`: a lock on a file of the folder, and one in the database where that is PostgreSQL.

    The system lets go of both when the process ends. Methods may be called from any thread.
    """

    def __init__(self, folder: Path, database: Database) -> None:
        self._folder, self._database = folder, database
        self._file: IO[str] | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def take(self) -> None:
        """Raises ConfigError if another server has it; no more than a look where this one has it already."""
        with self._lock:
            if self._file is None:
                file = (self._folder / ".serving").open("a")
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.close()
                    raise ConfigError(
                        f"another server works with the folder {self._folder}; stop it first, or give this one a "
                        "--folder of its own"
                    ) from None
                self._file = file
            if not self._database.is_sqlite and not self._taken():
                self._let_go()
                raise ConfigError(
                    "another server works with this database; stop it first, or give this one a database of its own"
                )

    def renew(self) -> None:
        """The database's lock ends with its connection: takes it again where the database was away meanwhile."""
        with self._lock:
            if self._file is None or self._database.is_sqlite:
                return
            try:
                if not self._renewed():
                    log.critical("another server took this database while it was away from this one; stop one of them")
            except SQLAlchemyError:
                log.warning("the database is away; the claim on it is taken again when it is back")

    def release(self) -> None:
        """Lets another server in."""
        with self._lock:
            self._let_go()

    def _taken(self) -> bool:
        """Whether the database's lock is ours; one of a server that ends just now is freed a moment later."""
        until = time.monotonic() + _GRACE_S
        while not (ours := self._renewed()) and time.monotonic() < until:
            time.sleep(0.05)
        return ours

    def _renewed(self) -> bool:
        """Whether the database's lock is held; raises SQLAlchemyError if the database is away."""
        if self._connection is not None:
            try:
                self._connection.exec_driver_sql("SELECT 1")
            except SQLAlchemyError:
                self._connection.invalidate()
                self._connection.close()
                self._connection = None
            else:
                return True
        self._connection = self._database.keep_connection()
        if not self._connection.scalar(_LOCK):
            self._connection.close()
            self._connection = None
        return self._connection is not None

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()  # closed, not kept for others: the lock is the connection's
            self._connection.close()
        if self._file is not None:
            self._file.close()
        self._connection = self._file = None
