"""What scripts with a command line ask for: where runs go, and what to do with a folder that is there already."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from thumbs.errors import ConfigError

log = logging.getLogger(__name__)

LogdirBehavior = Literal["delete", "resume", "ask", "raise"]
_RUNS = "TINKER_COOKBOOK_RUNS_DIR"


def runs_path(*parts: str) -> str:
    """A path in the folder for runs: that of the environment variable TINKER_COOKBOOK_RUNS_DIR, else ~/tinker-runs."""
    return str(Path(os.environ.get(_RUNS) or "~/tinker-runs").expanduser().joinpath(*parts))


def model_name_from_argv(argv: Sequence[str], default: str) -> str:
    """The last `model_name=…` of a command line, for settings that follow from it."""
    given = [arg.partition("=")[2] for arg in argv if arg.startswith("model_name=")]
    return given[-1] if given else default


def check_log_dir(log_dir: str, behavior_if_exists: LogdirBehavior) -> None:
    """Delete a log folder that exists, leave it so that the run goes on, ask which, or raise ConfigError.

    Only a folder that a recipe has written is ever deleted: one that is empty or has a config.json or logs.
    """
    folder = Path(log_dir).expanduser()
    if behavior_if_exists not in ("delete", "resume", "ask", "raise"):
        raise ConfigError(f"behavior_if_exists={behavior_if_exists!r}; it can be 'delete', 'resume', 'ask' or 'raise'")
    if not folder.exists():
        return
    if behavior_if_exists == "ask":
        behavior_if_exists = _asked(folder)
    if behavior_if_exists == "raise":
        raise ConfigError(f"{folder} exists already; delete it, give another log_path, or resume the run in it")
    if behavior_if_exists == "delete":
        if any(folder.iterdir()) and not any((folder / name).exists() for name in _OURS):
            raise ConfigError(
                f"{folder} holds no run ({', '.join(_OURS)}), so it is not deleted; give another log_path"
            )
        log.info("deleting %s", folder)
        shutil.rmtree(folder)


_OURS = ("config.json", "metrics.jsonl", "checkpoints.jsonl", "logs.log")


def _asked(folder: Path) -> LogdirBehavior:
    """What a person answers; `exit` ends the program."""
    while True:
        answer = input(f"{folder} exists already. delete, resume or exit? ").strip()
        if answer == "exit":
            sys.exit(0)
        if answer in ("delete", "resume"):
            return answer
