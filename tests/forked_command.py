"""The `thumbs` command in processes that tests kill: as from the shell, without seconds of imports."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from thumbs.cli.main import app

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["thumbs.pipeline.run", "thumbs.report.build", "torch._dynamo", "thumbs.collect.web.app"])


def command(arguments: list[str], log: Path, file_limit: int | None) -> None:
    """The `thumbs` command, in a process that a clean server forked: as from the shell, without seconds of imports."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job, CI's say, inherits SIG_IGN
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    app(arguments, prog_name="thumbs")


@contextmanager
def started(config: Path, *overrides: str, file_limit: int | None = None) -> Iterator[BaseProcess]:
    """`thumbs run` in a process of its own, with at most `file_limit` bytes a file; killed at the end."""
    arguments = ["run", str(config), *overrides]
    process = FORKS.Process(target=command, args=(arguments, config.parent / "log.txt", file_limit))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def output(config: Path) -> str:
    """What the last process printed."""
    log = config.parent / "log.txt"
    return log.read_text(encoding="utf-8") if log.exists() else ""
