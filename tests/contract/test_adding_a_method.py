"""The contributing guide's diff adds a method: applied to a copy, its formula is right and it learns."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_LINES = 60


def guide_diff() -> str:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"```diff\n(.*?)```", text, flags=re.DOTALL)
    return found


def test_a_method_is_a_small_diff_that_works(tmp_path: Path):
    diff = guide_diff()
    assert len(diff.splitlines()) < MOST_LINES
    ignored = shutil.ignore_patterns("__pycache__", "sdks", "service", "e2e", "golden")
    for folder in ("src", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "papers.md", tmp_path / "docs")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    git = shutil.which("git")
    assert git is not None
    applied = subprocess.run(
        [git, "apply", "--unidiff-zero", "-"], cwd=tmp_path, input=diff, text=True, capture_output=True, check=False
    )
    assert applied.returncode == 0, f"the diff in CONTRIBUTING.md is out of date: {applied.stderr}"
    tests = ("unit/functional/test_preference_formulas.py", "learning/test_direct_learns.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "cal_dpo"]
    done = subprocess.run(
        [*command, *(str(tmp_path / "tests" / test) for test in tests)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) >= 5, done.stdout[-500:]
