"""A store after kill -9 at every step of its work, and beside a process that is at work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_cases import add_run, on_disk, save

from thumbs.clients.store import Store

HERE = Path(__file__).parent
OLD, NEW = {"old": ["old", "old"]}, {"old": ["new", "new"]}


def python(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[2] / "src"), str(HERE)])}


@pytest.mark.parametrize(
    ("job", "before", "after", "fewest"),
    [
        ("old", OLD, NEW, 20),  # overwrites
        ("fresh", OLD, {**OLD, "fresh": ["new", "new"]}, 20),
        ("delete", OLD, {}, 5),
        ("open", {}, {}, 20),  # makes the tables
    ],
)
def test_a_kill_at_any_step_leaves_what_was_before_or_after(
    tmp_path: Path, job: str, before: object, after: object, fewest: int
):
    program = python(HERE / "store_killed.py", job, tmp_path)
    done = subprocess.run(program, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) > fewest
    switch = found.index(after)
    assert found == [before] * switch + [after] * (len(found) - switch)


WRITER = """
import sys
from pathlib import Path
from store_cases import write_twice
from thumbs.clients.store import Store
with Store(Path(sys.argv[1])).checkpoints.writing(sys.argv[2], "weights", "old", overwrite=True) as folder:
    write_twice(folder, "new")
    print("within", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of overwriting; a line lets it go on."""
    store = Store(tmp_path)
    run_id = add_run(store)
    save(store, run_id, "old", "old")
    store.close()
    process = subprocess.Popen(
        python("-c", WRITER, tmp_path, run_id),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        assert process.stdout.readline() == "within\n"
        yield process


def test_a_process_killed_while_it_writes_leaves_the_old_checkpoint(tmp_path: Path, writer: subprocess.Popen[str]):
    writer.kill()
    writer.wait()
    assert len(list((tmp_path / "partial").iterdir())) == 1
    Store(tmp_path).close()
    assert on_disk(tmp_path) == OLD


def test_a_process_that_opens_the_store_spares_what_another_one_writes(tmp_path: Path, writer: subprocess.Popen[str]):
    Store(tmp_path).close()
    writer.communicate("go on\n")
    assert writer.returncode == 0
    assert on_disk(tmp_path) == NEW
