"""`thumbs collect` as one types it."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from click.testing import Result
from typer.testing import CliRunner

from collect_world import first_is_better
from thumbs.cli.main import app
from thumbs.collect import passwords
from thumbs.collect.records import Task
from thumbs.collect.store import CollectStore
from thumbs.data.preferences import read_preference

PASSWORD = "correct horse battery"  # noqa: S105

PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background inherits SIG_IGN
from thumbs.cli.main import app
app()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("THUMBS_COLLECT_DB", raising=False)
    monkeypatch.setattr(passwords, "HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    return tmp_path


@pytest.fixture
def pairs(folder: Path) -> Path:
    """A file of four pairs with one bad line."""
    rows = [{"prompt": f"question {n}", "chosen": f"first {n}", "rejected": f"second {n}"} for n in range(4)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{\n", encoding="utf-8")
    return folder / "pairs.jsonl"


def thumbs(*words: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, ["collect", *words], input=typed)


def said(*words: str, typed: str | None = None) -> str:
    """What the command prints; it must succeed."""
    result = thumbs(*words, typed=typed)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words: str, typed: str | None = None) -> str:
    """What the command says against it."""
    result = thumbs(*words, typed=typed)
    assert result.exit_code in (1, 2), result.output
    assert "Traceback" not in result.output
    return result.output


def opened(folder: Path) -> CollectStore:
    return CollectStore(folder / "thumbs-collect" / "collect.db")


def test_a_project_from_new_to_export(folder: Path, pairs: Path):
    (folder / "guide.md").write_text("Be *kind*.", encoding="utf-8")
    (folder / "question.yaml").write_text("kind: pair\nreason: required\n", encoding="utf-8")
    assert "thumbs collect import helpful FILE" in said(
        "new", "helpful", "--question", "question.yaml", "--guidelines", "guide.md", "--overlap", "2", "quota=7"
    )
    assert "4 new tasks, 0 there already, 1 rows that could not be used" in said("import", "helpful", str(pairs))
    assert "0 new tasks, 4 there already" in said("import", "helpful", str(pairs))
    store = opened(folder)
    project = store.projects.find("helpful")
    settings = store.projects.settings(project.id)
    assert (settings.overlap, settings.quota) == (2, 7)
    assert store.projects.guidelines(project.id).body == "Be *kind*."
    ann = store.people.add("ann", "", "annotator").id
    for _ in range(3):
        task = store.work.claim(project.id, ann)
        assert isinstance(task, Task)
        body = first_is_better(task) | {"reason": "why not"}
        store.work.submit(task.assignment, ann, f"key-{task.assignment}", body)
    store.close()
    assert "3 rows of 3 judgements" in said("export", "helpful", "-o", "out.jsonl")
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    read = [read_preference(row, "out") for row in rows]
    assert all(row.judgements[0].strength == -2 for row in read)
    assert all(row.replies[0].text.startswith("first") for row in read)
    manifest = json.loads((folder / "out.jsonl.manifest.json").read_text(encoding="utf-8"))
    assert manifest["counts"]["kept"] == 3
    assert "of 3 judgements none is left" in refused("export", "helpful", "-o", "none.jsonl", "min_strength=4")
    assert not (folder / "none.jsonl").exists()
    assert "min_strength" in refused("export", "helpful", "min_strenght=2")
    assert "no format 'xml'" in refused("export", "helpful", "--format", "xml")
    assert "no project 'none'" in refused("export", "none")


def test_what_is_wrong_with_a_new_project(folder: Path):
    assert "small letters" in refused("new", "Not A Slug")
    assert "cannot read guide.md" in refused("new", "a", "--guidelines", "guide.md")
    assert "overlap" in refused("new", "a", "overlapp=3")
    (folder / "question.yaml").write_text("kind: rate\n", encoding="utf-8")
    assert "axes" in refused("new", "a", "--question", "question.yaml")
    said("new", "a")
    assert "there is a project 'a' already" in refused("new", "a")


def test_a_file_of_nothing_useful(folder: Path):
    (folder / "bad.jsonl").write_text('{"x": 1}\n', encoding="utf-8")
    said("new", "a")
    shown = refused("import", "a", "bad.jsonl")
    assert "bad.jsonl:1:" in shown
    assert "nothing to judge" in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nosuch.jsonl"], "there is no file 'nosuch.jsonl'"),
        (["serv"], "`thumbs collect --help` lists the commands"),
        (["--model", "byte-tiny"], "--model needs a FILE"),
        (["--run", "r", "--model", "m"], "give --run or --model"),
        (["--stage", "sft"], "give --run FOLDER or a FILE"),
        (["--run", "nosuch"], "nosuch"),
    ],
)
def test_what_is_wrong_with_what_is_opened(folder: Path, words: list[str], says: str):
    assert says in refused(*words)


def test_accounts(folder: Path):
    shown = said("account", "add", "ann", "--role", "reviewer", "--name", "Ann B.")
    secret = re.search(r"/invite/(\S+)", shown)
    assert secret is not None
    store = opened(folder)
    store.people.accept(secret.group(1), PASSWORD)
    assert store.people.authenticate("ann", PASSWORD) is not None
    assert "olga may log in as owner" in said(
        "account", "add", "olga", "--role", "owner", "--password", typed=f"{PASSWORD}\n{PASSWORD}\n"
    )
    assert store.people.has_owner()
    said("account", "role", "ann", "viewer")
    said("account", "disable", "ann")
    assert "ann  viewer  disabled  Ann B." in said("account", "list")
    assert "is disabled" in refused("account", "invite", "ann")
    said("account", "disable", "ann", "--undo")
    assert "/invite/" in said("account", "invite", "ann")
    said("account", "password", "ann", typed="another password\nanother password\n")
    assert store.people.authenticate("ann", "another password") is not None
    assert "last owner" in refused("account", "role", "olga", "admin")
    assert "no account 'nobody'" in refused("account", "role", "nobody", "admin")
    store.close()


def test_tokens(folder: Path):
    said("account", "add", "olga", "--role", "owner")
    secret = said("token", "add", "olga", "--scope", "ingest", "--note", "nightly \x1b[31m").splitlines()[0]
    store = opened(folder)
    found = store.people.token(secret)
    assert found is not None
    assert (found[0].handle, found[1]) == ("olga", "ingest")
    listed = said("token", "list")
    assert "olga  ingest  nightly" in listed
    assert "\x1b" not in listed
    said("token", "revoke", "1")
    assert store.people.token(secret) is None
    assert "revoked" in said("token", "list")
    store.close()


def test_a_team_is_not_served_without_an_owner(folder: Path):
    shown = refused("serve", "--host", "0.0.0.0")  # noqa: S104
    assert "thumbs collect account add NAME --role owner --password" in shown
    said("account", "add", "olga", "--role", "owner")  # invited, but without a password
    assert "no owner has a password" in refused("serve", "--host", "192.0.2.1")


def test_check_finds_what_somebody_changed(folder: Path, pairs: Path):
    said("new", "a")
    said("import", "a", str(pairs))
    assert "as they should be" in said("check")
    path = folder / "thumbs-collect" / "collect.db"
    with sqlite3.connect(path) as db:
        db.execute("UPDATE items SET n_done = 1 WHERE id = 2")
    assert "items [2]" in refused("check")
    with sqlite3.connect(path) as db:
        db.execute("UPDATE items SET n_done = 0 WHERE id = 2")
        for (name,) in db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'events'"
        ).fetchall():
            db.execute(f"DROP TRIGGER {name}")
        db.execute("UPDATE events SET action = 'nothing' WHERE id = 1")
    assert "line 1 of the audit log" in refused("check")


def test_a_backup_is_whole_and_replaces_nothing(folder: Path, pairs: Path):
    assert "there is no database" in refused("backup", "copy.db")
    said("new", "a")
    said("import", "a", str(pairs))
    assert "copy.db" in said("backup", "copy.db")
    assert (folder / "copy.db").stat().st_mode & 0o777 == 0o600
    copy = CollectStore(folder / "copy.db")
    assert copy.items.count(copy.projects.find("a").id)["open"] == 4
    copy.close()
    assert "there already" in refused("backup", "copy.db")
    assert "pg_dump" in refused("backup", "b.db", "--db", "postgresql+psycopg://nobody@localhost/none")
    assert {path.name for path in folder.iterdir()} == {"copy.db", "pairs.jsonl", "thumbs-collect"}


def test_simulated_people(folder: Path, pairs: Path):
    said("new", "a", "--overlap", "2")
    said("import", "a", str(pairs))
    shown = said("simulate", "a", "--people", "2", "--judge", "tiny-mood")
    assert shown == "simulated-1: 4 tasks\nsimulated-2: 4 tasks\n"
    assert said("simulate", "a", "--people", "2", "--judge", "tiny-mood").count("0 tasks") == 2


def test_the_database_comes_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("THUMBS_COLLECT_DB", "elsewhere/a.db")
    said("new", "a")
    assert (folder / "elsewhere" / "a.db").exists()
    assert not (folder / "thumbs-collect").exists()


def test_help_shows_how_to_begin():
    for words in ([], ["--help"], ["-h"]):
        shown = thumbs(*words).output
        assert "thumbs collect --run runs/demo --stage sft" in shown
    for command in ("open", "serve", "new", "import", "export", "check", "backup", "simulate"):
        assert "Example:" in said(command, "--help")


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[str]]]:
    """Commands that a test started; they end with it."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def start(running: list[subprocess.Popen[str]], *words: str) -> tuple[subprocess.Popen[str], str]:
    """The command as a process, and the address that it prints."""
    command = [sys.executable, "-c", PROGRAM, "collect", *words, "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    running.append(process)
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://[^\s;]+", line):
            return process, found.group()
    raise AssertionError("no address was printed")


def test_a_file_is_opened_served_and_left(folder: Path, pairs: Path, running: list[subprocess.Popen[str]]):
    process, url = start(running, str(pairs))
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    with browser.open(url, timeout=20) as page:
        assert page.url.endswith("/p/pairs")
        assert "question" in page.read().decode("utf-8")
    store = opened(folder)
    me = store.people.all()[0]
    task = store.work.claim(store.projects.find("pairs").id, me.id)
    assert isinstance(task, Task)
    store.work.submit(task.assignment, me.id, "key-of-the-test", first_is_better(task))
    store.close()
    assert me.role == "owner"
    process.send_signal(signal.SIGINT)
    left = time.monotonic()
    shown, _ = process.communicate(timeout=20)
    assert "1 judgements collected. To train on them: thumbs collect export pairs" in shown
    assert "Traceback" not in shown
    assert process.returncode == 0
    assert time.monotonic() - left < 20


def test_a_team_is_served_and_left(folder: Path, running: list[subprocess.Popen[str]]):
    said("account", "add", "olga", "--role", "owner", "--password", typed=f"{PASSWORD}\n{PASSWORD}\n")
    process, url = start(running, "serve")
    with urllib.request.urlopen(f"{url}/healthz", timeout=20) as health:  # noqa: S310
        assert json.load(health) == {"status": "ok"}
    assert (folder / "thumbs-collect" / "site.key").stat().st_mode & 0o777 == 0o600
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=20)
    assert "stopped; all answers that were acknowledged are kept" in shown
    assert "Traceback" not in shown
    assert process.returncode == 0
