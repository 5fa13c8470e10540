"""A commit that is large says why."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

GIT = shutil.which("git") or ""
CHECK = Path(__file__).resolve().parents[2] / ".ci" / "commits"


@pytest.mark.parametrize(
    ("lines", "message", "passes"),
    [(9, "small", True), (11, "large", False), (11, "large\n\nLarge-change: one rename", True)],
)
def test_a_large_commit_says_why(lines: int, message: str, passes: bool, tmp_path: Path):
    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run([GIT, *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / ".ci").mkdir()
    shutil.copy(CHECK, tmp_path / ".ci")
    git("init", "-q")
    (tmp_path / "before.txt").write_text("x\n" * 50, encoding="utf-8")
    git("add", ".")
    git("commit", "-qm", "The check, and a large file with it")
    (tmp_path / "new.txt").write_text("x\n" * lines, encoding="utf-8")
    (tmp_path / "docs" / "reference").mkdir(parents=True)
    (tmp_path / "docs" / "reference" / "made.md").write_text("x\n" * 50, encoding="utf-8")
    git("add", ".")
    git("commit", "-qm", message)
    git("rm", "-q", "before.txt")
    git("commit", "-qm", "Only takes away")
    environment = {"MOST_LINES": "10", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([tmp_path / ".ci" / "commits"], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == passes, done.stdout + done.stderr
