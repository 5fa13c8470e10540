"""Files that start a run on a cluster: they parse, and nothing of a user's reaches a shell unquoted."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from thumbs.cli.main import app
from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig

SETTINGS = {
    "model": {"name": "byte-tiny", "lora": None},
    "system": 'Say $(touch pwned) and `id`; it\'s "fine"',
    "sft": {"data": {"path": "talks.jsonl"}},
    "engine": {"kind": "cluster", "workers": 12, "gpus_per_worker": 1},
    "rollout": {"kind": "vllm", "workers": 2, "tensor_parallel": 2},
}
EVIL = "run=runs/$(touch pwned)'; rm -rf x \"&"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "my $(touch pwned) config.yaml"
    path.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    return path


def printed(*words: str) -> str:
    result = CliRunner().invoke(app, ["cluster", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def run_with_stubs(script: str, folder: Path) -> list[list[str]]:
    """Runs a script with ray, srun and scontrol replaced; returns the words that each `ray` got."""
    for name, body in {
        "ray": "python3 -c \"import json, sys; print(json.dumps(sys.argv[1:]), file=open('calls', 'a'))\" \"$@\"",
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
        "scontrol": "printf 'node1\\nnode2\\n'",
        "hostname": "echo 10.0.0.7 10.0.0.8",
    }.items():
        stub = folder / name
        stub.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node[1-2]"}
    environment |= {"SLURM_JOB_NUM_NODES": "2", "SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.8", "SKYPILOT_NUM_NODES": "2"}
    environment |= {"RAY_AUTH_TOKEN": "any"}
    subprocess.run(["/bin/bash", "-n"], input=script, text=True, check=True)
    subprocess.run(["/bin/bash", "-c", script], cwd=folder, env=environment, check=True)
    return [json.loads(line) for line in (folder / "calls").read_text(encoding="utf-8").splitlines()]


def command_of(words: list[str]) -> list[str]:
    return words[words.index("--") + 1 :]


def test_the_slurm_script_starts_the_run_with_the_words_of_the_user(config: Path, tmp_path: Path):
    script = printed("slurm", str(config), EVIL, "--nodes", "2", "--gpus", "8", "--hours", "3")
    header = [line for line in script.splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --nodes=2", "#SBATCH --gpus-per-node=8", "#SBATCH --time=3:00:00"} <= set(header)
    (words,) = run_with_stubs(script, tmp_path)
    assert words[: words.index("--")] == [
        "symmetric-run", "--address", "10.0.0.7:6379", "--min-nodes", "2", "--num-gpus", "8", "--temp-dir",
        "/tmp/ray",  # noqa: S108
    ]  # fmt: skip
    assert command_of(words) == ["env", "RAY_ADDRESS=10.0.0.7:6379", "thumbs", "run", str(config), EVIL]
    assert not (tmp_path / "pwned").exists()


def test_the_skypilot_task_does_too(config: Path, tmp_path: Path):
    task = yaml.safe_load(printed("skypilot", str(config), EVIL, "--gpu", "H200"))
    assert (task["num_nodes"], task["resources"], task["secrets"]) == (
        2, {"accelerators": "H200:8"}, {"RAY_AUTH_TOKEN": None},
    )  # fmt: skip
    (words,) = run_with_stubs(task["run"], tmp_path)
    assert command_of(words) == ["env", "RAY_ADDRESS=10.0.0.7:6380", "thumbs", "run", str(config), EVIL]
    assert not (tmp_path / "pwned").exists()


def test_the_job_for_kubernetes_carries_the_settings(config: Path):
    image = "registry.example/thumbs:1"
    text = printed("kubernetes", str(config), "seed=3", "--image", image, "--nodes", "3")
    settings, job = yaml.safe_load_all(text)
    carried = build_config(PipelineConfig, yaml.safe_load(settings["data"]["config.yaml"]))
    assert carried == build_config(PipelineConfig, {**SETTINGS, "seed": 3})
    assert shlex.split(job["spec"]["entrypoint"])[-3:] == ["thumbs", "run", "/config/config.yaml"]
    cluster: dict[str, Any] = job["spec"]["rayClusterSpec"]
    assert (job["kind"], cluster["authOptions"]) == ("RayJob", {"mode": "token"})
    (group,) = cluster["workerGroupSpecs"]
    assert group["replicas"] == 2
    for template in (cluster["headGroupSpec"]["template"], group["template"]):
        (container,) = template["spec"]["containers"]
        assert (container["image"], container["resources"]["limits"]) == (image, {"nvidia.com/gpu": 8})
        assert {volume["name"] for volume in template["spec"]["volumes"]} == {"config", "work"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["engine.kind=local"], "is for ranks; set kind to cluster"),
        (["engine.workers=13"], "asks for 17 GPUs (engine.workers and rollout.workers), the cluster has 16"),
    ],
)
def test_settings_that_are_for_no_such_cluster_are_refused(config: Path, words: list[str], said: str):
    result = CliRunner().invoke(app, ["cluster", "slurm", str(config), *words])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
