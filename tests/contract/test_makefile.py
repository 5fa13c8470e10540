"""The two commands of the README, as make would run them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MAKE = shutil.which("make") or ""

pytestmark = pytest.mark.skipif(not MAKE, reason="make is not installed")


def last_command(*words: str) -> str:
    result = subprocess.run([MAKE, "-n", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return [line for line in result.stdout.splitlines() if not line.startswith("make")][-1]


@pytest.mark.parametrize(
    ("words", "config", "run"),
    [
        ((), "configs/demo.yaml", "runs/demo"),
        (("SIZE=tiny",), "configs/demo-tiny.yaml", "runs/demo-tiny"),
        (("SAFE=1",), "configs/safe.yaml", "runs/safe"),
        (("SAFE=1", "SEED=1"), "configs/safe.yaml", "runs/safe-seed1"),
        (("SEED=2",), "configs/demo.yaml", "runs/demo-seed2"),
        (("SIZE=tiny", "SEED=1"), "configs/demo-tiny.yaml", "runs/demo-tiny-seed1"),
    ],
)
def test_demo_takes_the_config_of_its_size_and_a_run_folder_of_its_seed(words: tuple[str, ...], config: str, run: str):
    seed = next((word[5:] for word in words if word.startswith("SEED=")), "0")
    assert last_command("demo", *words) == f".venv/bin/thumbs run {config} seed={seed} run={run}"
    assert (ROOT / config).exists()


def test_a_person_in_place_of_the_annotators_gets_a_run_folder_of_their_own():
    section = "reward_model"
    reward = f"{section}.batch_size=4 {section}.epochs=4 {section}.eval_every=6 {section}.optim.learning_rate=5e-4"
    assert last_command("demo", "HUMAN=1", "PAIRS=22", "SIZE=tiny") == (
        f".venv/bin/thumbs run configs/demo-tiny.yaml seed=0 run=runs/demo-tiny-human labels.people.pairs=22 {reward}"
    )


def installing(folder: Path, listed: str, kernel: str = "Linux") -> list[str]:
    """The pip commands of a fresh clone where nvidia-smi prints `listed` ("": it is not there) under this kernel."""
    for name, says in {"nvidia-smi": listed, "uname": kernel}.items():
        if says:
            (folder / name).write_text(f"#!/bin/sh\necho '{says}'\n", encoding="utf-8")
            (folder / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:/usr/bin:/bin"}
    command = [MAKE, "-nB", ".venv/.ready"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return [line for line in result.stdout.splitlines() if " pip install " in line]


@pytest.mark.parametrize(
    ("listed", "kernel", "from_cpu_index"),
    [
        ("", "Linux", True),
        ("NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver", "Linux", True),
        ("GPU 0: NVIDIA H200 (UUID: GPU-1)", "Linux", False),
        ("", "Darwin", False),
    ],
)
def test_torch_comes_without_cuda_exactly_where_linux_has_no_gpu(
    listed: str, kernel: str, from_cpu_index: bool, tmp_path: Path
):
    *before, last = installing(tmp_path, listed, kernel)
    assert last.endswith("-c constraints.txt -e '.[dev]'")
    assert "index-url" not in last
    assert [("--no-deps" in line, line.split()[-2:]) for line in before] == (
        [(True, ["https://download.pytorch.org/whl/cpu", "torch"])] if from_cpu_index else []
    )
