"""The database of a store: its tables, its opening, and many at work on it at once."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from store_cases import add_run, on_disk, save

from thumbs.clients.checkpoint_folders import locked
from thumbs.clients.store import Store
from thumbs.clients.tables import SCHEMA
from thumbs.errors import ConfigError
from thumbs.storage.database import Database, _keep_a_journal

HERE = Path(__file__).parent


def start(program: str, *arguments: str | Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[2] / "src"), str(HERE)])}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_new_file_is_its_owners_alone(tmp_path: Path):
    """Whatever folder it is in: it holds hashes of keys. One that is there already keeps its mode."""
    database = Database(f"sqlite:///{tmp_path}/records.db", SCHEMA)
    with database.transaction() as connection:
        connection.exec_driver_sql("CREATE TABLE a (b)")
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    database.close()
    assert "records.db" in modes
    assert set(modes.values()) == {0o600}
    (tmp_path / "open.db").touch(mode=0o644)
    (tmp_path / "open.db").chmod(0o644)
    Database(f"sqlite:///{tmp_path}/open.db", SCHEMA).close()
    assert (tmp_path / "open.db").stat().st_mode & 0o777 == 0o644


def test_an_empty_file_becomes_a_store(tmp_path: Path):
    (tmp_path / "store.db").touch()
    store = Store(tmp_path)
    save(store, add_run(store), "a")
    store.close()
    assert list(on_disk(tmp_path)) == ["a"]


def test_everything_is_there_when_it_is_opened_again(tmp_path: Path):
    folder = tmp_path / "a folder?with#odd%20characters"
    store = Store(folder)
    token, run_id = store.add_token("ann"), add_run(store)
    path = save(store, run_id, "a", "text")
    store.add_future("r", "ann", "Sample")
    before = store.tokens(), store.run(run_id), store.checkpoints.get(path), store.future("r")
    store.close()
    store = Store(folder)
    assert (store.tokens(), store.run(run_id), store.checkpoints.get(path), store.future("r")) == before
    assert store.owner_of(token) == "ann"
    store.close()
    assert on_disk(folder) == {"a": ["text", "text"]}


def test_the_folder_is_its_owners_alone(tmp_path: Path):
    Store(tmp_path / "new").close()
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_a_url_says_where_the_rows_are(tmp_path: Path):
    store = Store(tmp_path / "folder", f"sqlite:///{tmp_path}/elsewhere.db")
    path = save(store, add_run(store), "a")
    found = store.checkpoints.get(path)
    assert found
    assert found.folder.is_relative_to(tmp_path / "folder")
    assert (tmp_path / "elsewhere.db").exists()
    assert not (tmp_path / "folder" / "store.db").exists()
    store.close()


def test_sqlite_is_set_up_for_many_at_once(tmp_path: Path):
    Store(tmp_path).close()
    database = Database(f"sqlite:///{tmp_path}/store.db", SCHEMA)
    with database.transaction() as connection:
        pragmas = ("journal_mode", "foreign_keys", "busy_timeout", "synchronous")
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]
    assert found == ["wal", 1, 30_000, 1]
    with database.transaction(durable=True) as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    database.close()


def test_opening_says_nothing(tmp_path: Path):
    program = (
        "import logging, sys, warnings\n"
        "from pathlib import Path\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "warnings.simplefilter('always')\n"
        "from thumbs.clients.store import Store\n"
        "Store(Path(sys.argv[1])).close()\n"
        "assert 'torch' not in sys.modules\n"
    )
    process = start(program, tmp_path)
    assert process.communicate() == ("", "")
    assert process.returncode == 0


def test_a_store_of_a_newer_thumbs_is_refused(tmp_path: Path):
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "store.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match=r"'9999'[\s\S]*not written by a newer thumbs"):
        Store(tmp_path)


def test_a_server_that_is_not_there_is_refused(tmp_path: Path):
    pytest.importorskip("psycopg")
    with pytest.raises(ConfigError, match=r"cannot open the database postgresql[\s\S]*must be reachable"):
        Store(tmp_path, f"postgresql+psycopg://me@/db?host={tmp_path}")


def test_what_is_no_database_is_refused(tmp_path: Path):
    (tmp_path / "store.db").write_text("not a database " * 100)
    with pytest.raises(ConfigError, match=r"cannot open the database sqlite:[\s\S]*file is not a database"):
        Store(tmp_path)


@pytest.mark.parametrize("url", ["nonsense", "mysterydb://host/name", "sqlite+nothing:///x", "sqlite://host:port/x"])
def test_a_url_of_no_use_is_refused_and_leaves_nothing(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"invalid database URL[\s\S]*allowed: sqlite:///FILE"):
        Store(tmp_path / "folder", url)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_an_error_does_not_show_the_password(tmp_path: Path):
    with pytest.raises(ConfigError) as refused:
        Store(tmp_path, f"sqlite://user:hunter2@/{tmp_path}/missing/store.db")
    assert "hunter2" not in str(refused.value)


def test_threads_that_ask_for_the_same_keys_get_the_same_futures(tmp_path: Path, url: str | None):
    store = Store(tmp_path, url)
    got: list[dict[int, str]] = []

    def work(number: int) -> None:
        got.append(
            {seq: store.add_future(f"{number}.{seq}", "ann", "Sample", key=("m", seq)).request_id for seq in range(30)}
        )

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 6
    assert all(found == got[0] for found in got)
    assert len(set(got[0].values())) == 30
    store.close()


WORKER = """
import sys
from pathlib import Path
from store_cases import save
from thumbs.clients.store import Store
store, run_id, own = Store(Path(sys.argv[1]), sys.argv[4] or None), sys.argv[2], sys.argv[3]
for seq in range(30):
    print(store.add_future(f"{own}.{seq}", "ann", "Sample", key=("m", seq)).request_id)
    save(store, run_id, "shared", own, overwrite=True)
    save(store, run_id, f"{own}-{seq}", own)
"""


def test_two_processes_share_a_new_store(tmp_path: Path, url: str | None):
    store = Store(tmp_path, url)
    run_id = add_run(store)
    workers = [start(WORKER, tmp_path, run_id, name, url or "") for name in ("x", "y")]
    outputs = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    found = on_disk(tmp_path)
    assert found.pop("shared") in (["x", "x"], ["y", "y"])
    assert found == {f"{name}-{seq}": [name, name] for name in ("x", "y") for seq in range(30)}
    store.close()


def test_processes_open_an_empty_folder_one_after_the_other(tmp_path: Path):
    program = "import sys; from pathlib import Path; from thumbs.clients.store import Store; Store(Path(sys.argv[1]))"
    with locked(tmp_path / ".opening", fcntl.LOCK_EX):
        openers = [start(program, tmp_path) for _ in range(2)]
        with pytest.raises(subprocess.TimeoutExpired):
            openers[0].wait(timeout=1)
    assert [opener.communicate() for opener in openers] == [("", "")] * 2
    assert [opener.returncode for opener in openers] == [0, 0]


def test_opening_a_new_file_waits_for_whoever_opens_it_just_now():
    """SQLite says at once that it is locked if two connections change its journal."""
    answers = [sqlite3.OperationalError("database is locked")] * 2 + [None]

    class Connection:
        def execute(self, statement: str) -> None:
            assert statement == "PRAGMA journal_mode = WAL"
            if (answer := answers.pop(0)) is not None:
                raise answer

    _keep_a_journal(Connection())
    assert answers == []
    answers.append(sqlite3.OperationalError("disk I/O error"))
    with pytest.raises(sqlite3.OperationalError, match="disk"):
        _keep_a_journal(Connection())
