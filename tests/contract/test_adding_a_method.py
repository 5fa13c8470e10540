"""The contributing guide's diffs each add a loss: applied to a copy, its formula is right and it learns."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_LINES = 60
DIFFS = re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), flags=re.DOTALL)
ADDED = {
    "cal_dpo": ("unit/functional/test_preference_formulas.py", "learning/test_direct_learns.py"),
    "topr": (
        "unit/functional/test_policy_losses.py",
        "unit/stages/test_group_stage.py",
        "learning/test_group_learns.py",
    ),
    "hinge": (
        "unit/functional/test_preference_losses.py",
        "unit/engine/test_score_losses.py",
        "learning/test_reward_learns.py",
    ),
}
"""What the diffs add, a loss of pairs, of tokens and of scores, and where it is tested by its name."""


def test_there_is_a_diff_for_each_family():
    assert len(DIFFS) == len(ADDED)


@pytest.mark.parametrize(("diff", "name"), zip(DIFFS, ADDED, strict=False), ids=ADDED)
def test_a_loss_is_a_small_diff_that_works(tmp_path: Path, diff: str, name: str):
    assert len(diff.splitlines()) <= MOST_LINES
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
    assert applied.returncode == 0, f"the diff of {name} in CONTRIBUTING.md is out of date: {applied.stderr}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", name]
    done = subprocess.run(
        [*command, *(str(tmp_path / "tests" / test) for test in ADDED[name])],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) >= 5, done.stdout[-500:]
