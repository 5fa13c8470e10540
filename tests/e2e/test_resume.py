"""A run that is killed anywhere and started again ends with the same numbers, bit for bit, as one that was not."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from forked_command import output, started

pytestmark = pytest.mark.e2e

NAMES = ["Ana", "Ben", "Carl", "Dora", "Elif", "Finn", "Gus", "Hana"]
WORDS = ["good", "sad", "long", "nice", "bad"]
ADAM = {"learning_rate": 3e-3, "warmup_fraction": 0.1}
CLOCKS = re.compile(r"wall_s|tokens_per_s|rollout_s|update_s|^time_s|^compute_s$|^peak_rss_gib$")
"""Names of what may differ from run to run: times and memory."""


def write_config(folder: Path) -> Path:
    """A pipeline of a few seconds: every stage, several checkpoints in each that trains."""
    folder.mkdir(exist_ok=True)
    rows = [(name, f"{name}, {word} day.") for word in WORDS for name in NAMES]
    talks = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in rows]
    (folder / "talks.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks), encoding="utf-8")
    (folder / "names.jsonl").write_text("".join(json.dumps({"prompt": n}) + "\n" for n in NAMES), encoding="utf-8")
    sampling, prompts = {"max_new_tokens": 20}, {"path": str(folder / "names.jsonl"), "holdout": 0.25}
    config = {
        "run": str(folder / "run"),
        "model": {"name": "byte-tiny", "lora": None},
        "sft": {
            "data": {"path": str(folder / "talks.jsonl"), "holdout": 0.15},
            "epochs": 12,
            "batch_size": 8,
            "optim": ADAM,
            "eval_every": 6,
        },
        "labels": {"prompts": prompts, "sampling": sampling, "judge": "tiny-mood"},
        "reward_model": {"epochs": 6, "batch_size": 8, "optim": ADAM, "eval_every": 4},
        "ppo": {
            "prompts": prompts,
            "steps": 7,
            "batch_size": 8,
            "minibatch_size": 4,
            "sampling": sampling,
            "save_every": 3,
            "sample_every": 2,
        },
        "evaluation": {"prompts": prompts, "sampling": sampling, "judge": "tiny-mood", "best_of": 2},
        "fixed_prompts": ["Ana", "Zoe"],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder / "config.yaml"


def finish(config: Path, *overrides: str, file_limit: int | None = None) -> tuple[int | None, str]:
    """Exit code and output of `thumbs run`."""
    with started(config, *overrides, file_limit=file_limit) as process:
        process.join(timeout=240)
        return process.exitcode, output(config)


def stop_when(config: Path, reached: Callable[[Path], bool], how: signal.Signals) -> int | None:
    """Starts the run, sends the signal once `reached(run folder)`, and returns the exit code."""
    with started(config) as process:
        deadline = time.monotonic() + 240
        while not reached(config.parent / "run"):
            assert process.is_alive(), f"the run ended before the moment came:\n{output(config)}"
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert process.pid is not None
        os.kill(process.pid, how)
        process.join(timeout=60)
        return process.exitcode


def lines(path: str, number: int) -> Callable[[Path], bool]:
    """Whether the file in the run folder has so many lines."""
    return lambda run: (run / path).exists() and (run / path).read_bytes().count(b"\n") >= number


def there(pattern: str) -> Callable[[Path], bool]:
    """Whether something in the run folder matches."""
    return lambda run: any(run.glob(pattern))


def without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_clocks(item) for key, item in value.items() if not CLOCKS.search(key) and key != "at"}
    return [without_clocks(item) for item in value] if isinstance(value, list) else value


def everything(run: Path) -> dict[str, Any]:
    """All results of a run: numbers without times, and the bytes of the models."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*.json*")):
        name = str(path.relative_to(run))
        if path.name not in ("config.json", "versions.json", "spent_s.json"):
            text = path.read_text(encoding="utf-8").replace(str(run.parent), "FOLDER")  # of its data, in the settings
            texts = text.splitlines() if path.suffix == ".jsonl" else [text]
            found[name] = [without_clocks(json.loads(text)) for text in texts]
    return found | {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*.safetensors")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of a run that nobody interrupted."""
    config = write_config(tmp_path_factory.mktemp("whole"))
    code, log = finish(config)
    assert code == 0, log
    return everything(config.parent / "run")


def test_the_uninterrupted_run_is_complete(whole: dict[str, Any]):
    steps = {
        name: [record["step"] for record in whole[f"{name}/metrics.jsonl"]] for name in ("sft", "reward_model", "ppo")
    }
    assert all(seen == list(range(1, len(seen) + 1)) for seen in steps.values())
    assert (len(steps["sft"]), len(steps["ppo"])) == (60, 7)
    assert len(steps["reward_model"]) >= 8
    assert [record["step"] for record in whole["ppo/samples.jsonl"]] == [0, 0, 2, 2, 4, 4, 6, 6, 7, 7]
    models = {name for name in whole if name.endswith("safetensors")}
    assert {"sft/model/model.safetensors", "reward_model/model/scalar_head.safetensors"} < models
    assert not any("checkpoints" in name for name in whole)
    assert {"sft.gold", "ppo.gold", "ppo.kl", "reward.heldout_pairs"} < set(whole["summary.json"][0])
    assert not any(CLOCKS.search(name) for name in whole["summary.json"][0])


def test_a_run_killed_in_every_stage_ends_the_same(whole: dict[str, Any], tmp_path: Path):
    config = write_config(tmp_path / "killed")
    moments = [
        lines("sft/metrics.jsonl", 3),  # before the first checkpoint
        there("sft/checkpoints/step-000018/*.new"),  # while a checkpoint is written
        there("sft/model.new"),  # while the best model is replaced
        lines("labels/preferences.jsonl", 2),
        lines("reward_model/metrics.jsonl", 6),
        lines("ppo/samples.jsonl", 1),  # before the first step
        lines("ppo/metrics.jsonl", 5),
        there("evaluation"),
    ]
    for reached in moments:
        assert stop_when(config, reached, signal.SIGKILL) == -signal.SIGKILL
    code, log = finish(config)
    assert code == 0, log
    assert log.count("done already") == 4
    found = everything(config.parent / "run")
    assert found.keys() == whole.keys()
    assert [name for name in whole if found[name] != whole[name]] == []


def test_what_stops_a_run_costs_nothing(whole: dict[str, Any], tmp_path: Path):
    """Ctrl-C, another config, a full disk and a damaged checkpoint: a clear message each, and the run goes on."""
    config = write_config(tmp_path / "stopped")
    run = config.parent / "run"
    assert stop_when(config, lines("sft/metrics.jsonl", 8), signal.SIGINT) == 130
    assert "run the same command again to go on" in output(config)
    before = everything(run)

    code, log = finish(config, "sft.batch_size=4")
    assert code == 1
    assert "sft.batch_size: 8 there, 4 now" in log
    assert everything(run) == before

    code, log = finish(config, file_limit=2**20)  # a checkpoint is larger
    assert code == 1
    assert re.search(r"error: could not write .*; the previous checkpoint is untouched", log)
    assert {name: found for name, found in everything(run).items() if name in before and "metrics" not in name} == {
        name: found for name, found in before.items() if "metrics" not in name
    }
    assert not list(run.rglob("*.new")), "half a checkpoint was left behind"

    weights = next(run.glob("sft/checkpoints/step-*/policy/model.safetensors"))
    sound = weights.read_bytes()
    weights.write_bytes(sound[: len(sound) // 2])
    code, log = finish(config)
    assert code == 1
    whole_folder = re.escape(str(run / "sft" / "checkpoints"))
    advice = rf"--fresh, or delete {whole_folder} to start this stage alone over"
    assert re.search(rf"error: .*model\.safetensors is unreadable: .* {advice}", log)
    assert "Traceback" not in log

    weights.write_bytes(sound)
    code, log = finish(config)
    assert code == 0, log
    assert everything(run) == whole
