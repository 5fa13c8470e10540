"""A program: forks processes that work on a store and are killed at their first, second, third ... step.

A step is a file operation or an SQL statement or commit. Prints, as a JSON list, what was on the disk after each kill
and the reopening that followed; the last one was not killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from sqlalchemy import Engine, event
from store_cases import add_run, on_disk, save, write_twice

from thumbs.clients.store import Store

FILE_STEPS = ("open", "os.", "shutil.")


def kill_at(step: int) -> None:
    """Let this process end there as by kill -9."""
    left = step

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(lambda name, _: count() if name.startswith(FILE_STEPS) else None)
    event.listen(Engine, "before_cursor_execute", count)
    event.listen(Engine, "commit", count)


def work(job: str, root: Path, step: int) -> None:
    """One job, killed at that step; where there are fewer steps, done."""
    if job == "open":
        kill_at(step)
        Store(root)
        return
    store = Store(root)
    run_id = store.runs("ann", 1, 0)[0][0].id
    kill_at(step)
    if job == "delete":
        store.checkpoints.delete(f"tinker://{run_id}/weights/old")
    else:
        with store.checkpoints.writing(run_id, "weights", job, overwrite=job == "old") as folder:
            write_twice(folder, "new")


def killed(job: str, root: Path, step: int) -> bool:
    """Whether a process that does the job ends before it is done."""
    child = os.fork()
    if child == 0:
        work(job, root, step)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status != 0


def main(job: str, root: Path) -> None:
    os.fsync = lambda _: None  # slow, and a kill loses nothing that was written
    found = []
    if job != "open":
        store = Store(root / "start")
        save(store, add_run(store), "old", "old")
        store.close()
    for step in range(1, 1000):
        here = root / str(step)
        if job != "open":
            shutil.copytree(root / "start", here)
        go_on = killed(job, here, step)
        Store(here).close()
        found.append(on_disk(here))
        if not go_on:
            break
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
