"""A SQLite file or a PostgreSQL database with its tables, and the few ways in which stores ask it."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    URL,
    Connection,
    Delete,
    Engine,
    Executable,
    Select,
    Table,
    Update,
    create_engine,
    event,
    func,
    insert,
    make_url,
    select,
)
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    SQLAlchemyError,
    TimeoutError,
)

from thumbs.errors import ConfigError, ThumbsError
from thumbs.storage.schema import Schema

BUSY_TIMEOUT_S = 30
_NOTICED = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
"""What libpq is told, seconds: without it a server that vanished from the network is waited for for minutes."""

R = TypeVar("R")


class StoreError(ThumbsError, ValueError):
    """The caller asked the store for something that it does not have or does not allow."""


class MissingError(StoreError, LookupError):
    """The store has no such thing, or none that is the caller's."""


class Database:
    """Thread-safe. A record class has a field for each column of the query that it is made from.

    Raises ConfigError if the database cannot be opened, or holds tables of another version than `schema`.
    """

    def __init__(self, url: str | URL, schema: Schema) -> None:
        try:
            self._engine = _engine(url)
        except (SQLAlchemyError, ImportError, ValueError) as error:
            raise ConfigError(
                f"invalid database URL: {error}\nallowed: sqlite:///FILE, or "
                "postgresql+psycopg://USER@HOST/NAME (pip install 'thumbs[postgres]')"
            ) from error
        self.is_sqlite = self._engine.dialect.name == "sqlite"
        if self.is_sqlite:
            event.listen(self._engine, "connect", _set_up)
        self._turns: defaultdict[int | None, AbstractContextManager[Any]] = defaultdict(threading.Lock)
        if not self.is_sqlite:
            self._turns[None] = contextlib.nullcontext()
        self._prepare(schema)

    def _prepare(self, schema: Schema) -> None:
        """Make the tables where there are none, all of them or nothing."""
        try:
            with self._engine.begin() as connection:
                if self.is_sqlite:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")  # the driver begins none for a CREATE TABLE
                schema.prepare(connection)
        except (SQLAlchemyError, ConfigError) as error:
            raise ConfigError(
                f"cannot open the database {self._engine.url!r}: {error}\nit must be reachable and writable, and not "
                "written by a newer thumbs"
            ) from error

    def close(self) -> None:
        """Let go of all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = False, turn: int | None = None) -> Iterator[Connection]:
        """All of the block or nothing. It survives a kill of the process; if `durable`, a power cut too.

        SQLite has one transaction at a time; PostgreSQL has many, but one of those with the same number `turn`.
        Within the block nothing else of this database may be asked, which might wait for the block to end.
        """
        # SQLite lets waiting writers in by chance, and some wait for seconds; with PostgreSQL those that wait would
        # hold a connection each. A lock lets the threads of this process in one by one.
        with self._turns[None if self.is_sqlite else turn], self._engine.begin() as connection:
            if self.is_sqlite:
                # FULL waits for the disk at each commit (milliseconds), NORMAL leaves that to the system.
                connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                # Now, not at the first write: what is read before it would be out of date, and the write refused.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            elif turn is not None:
                connection.execute(select(func.pg_advisory_xact_lock(turn)))
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for queries, all of the same state of the database; nothing is written."""
        with self._engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN")
            else:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextlib.contextmanager
    def glance(self) -> Iterator[Connection]:
        """A connection for queries that need not agree with each other: no transaction, so fewer trips to a server."""
        engine = self._engine
        if not self.is_sqlite:  # the driver of SQLite begins none for a query
            engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            yield connection

    def keep_connection(self) -> Connection:
        """A connection for the caller to keep and close, which begins no transactions."""
        return self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")

    def execute(self, statement: Update | Delete, *, durable: bool = False) -> int:
        """Update or delete; how many rows it touched."""
        with self.transaction(durable=durable) as connection:
            return connection.execute(statement).rowcount

    def insert(self, table: Table, record: Any) -> None:
        """Add a record, its id the first field; raises StoreError if it is there, or a row that it refers to is not."""
        try:
            with self.transaction() as connection:
                connection.execute(insert(table).values(vars(record)))
        except IntegrityError as error:
            record_id = next(iter(vars(record).values()))
            raise StoreError(
                f"cannot add {record_id!r} to the {table.name}: it is there already, or its parent does not exist"
            ) from error

    def all(self, record: Callable[..., R], query: Executable) -> list[R]:
        """Every row as a record."""
        with self.glance() as connection:
            return [record(**row._asdict()) for row in connection.execute(query)]

    def one(self, record: Callable[..., R], query: Executable) -> R | None:
        """The row as a record; None if there is none."""
        return next(iter(self.all(record, query)), None)

    def the(self, record: Callable[..., R], query: Executable, missing: Exception) -> R:
        """The row as a record; raises `missing` if there is none."""
        if (found := self.one(record, query)) is None:
            raise missing
        return found

    def page(self, record: Callable[..., R], query: Select[Any], limit: int, offset: int) -> tuple[list[R], int]:
        """Some rows as records, and how many rows the whole query has."""
        count = select(func.count()).select_from(query.order_by(None).subquery())
        return self.all(record, query.limit(limit).offset(offset)), self.values(count)[0]

    def values(self, query: Executable) -> list[Any]:
        """The first column of every row."""
        with self.glance() as connection:
            return list(connection.scalars(query))


def is_away(error: BaseException) -> bool:
    """Whether the database did not answer, or would not write, so that the same may be tried again later.

    Of a file: locked, read-only, full or unreadable for a moment. Of a server: stopped, starting, out of connections,
    cutting connections, a standby.
    """
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, (OperationalError, InterfaceError, InternalError, TimeoutError))


def inserted_id(result: Any) -> int:
    """The number that the database gave the row of an insert."""
    return result.inserted_primary_key[0]


def utc_now() -> datetime:
    """The time, as the stores keep it."""
    return datetime.now(UTC)


def oldest_first(table: Table) -> Select[Any]:
    """All rows in the order of their creation."""
    return select(table).order_by(table.c.created, table.c.id)


def newest_first(table: Table) -> Select[Any]:
    """All rows against the order of their creation."""
    return select(table).order_by(table.c.created.desc(), table.c.id.desc())


def _engine(url: str | URL) -> Engine:
    """Connections are tried before they are used: a server drops those that are idle, and all when it restarts."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(parsed, pool_size=10, max_overflow=30)  # raises for an invalid URL, and opens nothing
        if parsed.database and parsed.database != ":memory:" and "uri" not in parsed.query:
            with contextlib.suppress(OSError):  # opening says it better
                Path(parsed.database).touch(mode=0o600)  # hashes of keys and passwords; files next to it get its mode
        return engine
    options = {key: value for key, value in _NOTICED.items() if key not in parsed.query}
    return create_engine(parsed, pool_size=10, max_overflow=30, pool_pre_ping=True, connect_args=options)


def _set_up(connection: Any, _: object) -> None:
    """Set up a new SQLite connection."""
    connection.isolation_level = "IMMEDIATE"  # the driver's BEGIN, before a write; a read needs none
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
    _keep_a_journal(connection)
    connection.execute("PRAGMA foreign_keys = ON")


def _keep_a_journal(connection: Any) -> None:
    """Lets others read while one writes. SQLite does not wait if another process opens a new file at the same time."""
    until = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.02)
