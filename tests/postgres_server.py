"""A PostgreSQL server for tests: its own folder, a socket in it, no port; it ends with them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import create_engine

OWNERS = ("postgres", "nobody")
"""Who runs it where the tests are root's: PostgreSQL refuses to be."""


def missing() -> str | None:
    """Why there can be none here; None if there can."""
    if find_spec("psycopg") is None:
        return "the package psycopg is not installed"
    if binaries() is None:
        return "there are no initdb and pg_ctl (Debian: postgresql)"
    return None


def binaries() -> Path | None:
    """The folder of initdb and pg_ctl, which Debian does not put into the path."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else None


@contextmanager
def running(*, durable: bool = False) -> Iterator[Path]:
    """The folder of the server's socket; it waits for the disk only if `durable`."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path may have 107 bytes
    owner = next((pwd.getpwnam(name) for name in OWNERS if os.getuid() == 0 and _known(name)), None)
    if owner is not None:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    as_owner = {} if owner is None else {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}

    def run(program: str, *arguments: str) -> None:
        path = binaries()
        assert path is not None
        command = [path / program, "-D", folder / "data", *arguments]
        # A server that keeps the pipe of its parent would keep `run` waiting.
        done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, **as_owner)  # type: ignore[call-overload]
        assert done.returncode == 0, (folder / "log").read_text() if (folder / "log").exists() else command

    try:
        flags = "" if durable else " -F"
        run("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync")
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"-k {folder} -c listen_addresses=''{flags}", "start")
        try:
            yield folder
        finally:
            run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_database(socket: Path) -> Iterator[str]:
    """The URL of an empty schema, which is to its users as a database of their own and is made in a moment."""
    name, server = f"test_{uuid.uuid4().hex}", f"postgresql+psycopg://postgres@/postgres?host={socket}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
        yield f"{server}&options=-csearch_path%3D{name}"
        connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
    engine.dispose()


def _known(name: str) -> bool:
    return any(entry.pw_name == name for entry in pwd.getpwall())
