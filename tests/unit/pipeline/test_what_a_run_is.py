"""What a run was made of is part of what it is: settings, files, functions, models; and what may change."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_run_settings import NAMES, write_rows

from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.errors import ConfigError, DataError, RunError
from thumbs.pipeline.evaluate import evaluate_run
from thumbs.pipeline.identity import Identity, changes
from thumbs.pipeline.plan import plan
from thumbs.pipeline.reads import model_files
from thumbs.pipeline.run import run_pipeline
from thumbs.tracking import digests
from thumbs.tracking.files import read_json, write_json
from thumbs.tracking.run_folder import RunFolder
from tiny_models import LLAMA, save_random

CODE = "from {module}_helper import base\n\ndef polite(rollout):\n    return base() + len(rollout.text)\n"


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    """SFT alone, on a file beside the run."""
    rows = [{"prompt": name, "completion": f"{name}, nice day."} for name in NAMES]
    data = folder / "talks.jsonl"
    return {
        "run": str(folder / "run"),
        "model": {"name": "byte-tiny", "lora": {"rank": 2, "layers": 1}},
        "sft": {"data": str(data) if data.exists() else write_rows(data, rows), "epochs": 1, "batch_size": 8},
    } | more


def group(folder: Path, **more: Any) -> dict[str, Any]:
    prompts = write_rows(folder / "prompts.jsonl", [{"prompt": name} for name in NAMES])
    return {
        "prompts": prompts,
        "reward": [{"verifier": "regex", "pattern": "a"}],
        "steps": 2,
        "batch_size": 4,
        "minibatch_size": 4,
        "group_size": 2,
        "sampling": {"max_new_tokens": 4},
        "save_every": 1,
        "sample_every": 2,
    } | more


def go(config: dict[str, Any], **options: Any) -> Path:
    return run_pipeline(build_config(PipelineConfig, config), **options)


def change(path: Path) -> None:
    """Other rows, as many bytes."""
    path.write_text(path.read_text().replace("nice", "grim"))


def mtimes(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_done_already_is_said_of_the_same_data_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = settings(tmp_path)
    run = go(config)
    before = mtimes(run / "sft")
    go(config)
    assert "sft: done already" in capsys.readouterr().err
    assert mtimes(run / "sft") == before
    change(tmp_path / "talks.jsonl")
    with pytest.raises(RunError, match=r"sft\.data\.path: talks\.jsonl has changed since it was read") as caught:
        go(config)
    assert f"--from {run}" in str(caught.value)
    assert f"delete {run / 'sft'}" in str(caught.value)
    assert "has changed since it was read" in "\n".join(
        plan(build_config(PipelineConfig, config), probe=False).warnings
    )
    assert mtimes(run / "sft") == before
    shutil.rmtree(run / "sft")
    go(config)


def test_data_may_move_and_may_be_gone_when_it_was_read(tmp_path: Path):
    config = settings(tmp_path)
    go(config)
    moved = tmp_path / "elsewhere" / "talks.jsonl"
    moved.parent.mkdir()
    (tmp_path / "talks.jsonl").rename(moved)
    go(config)
    go(config | {"sft": config["sft"] | {"data": str(moved)}})


def test_a_typo_does_not_burn_the_folder(tmp_path: Path):
    config = settings(tmp_path)
    wrong = config | {"sft": config["sft"] | {"data": str(tmp_path / "nofile.jsonl"), "epochs": 3}}
    with pytest.raises(DataError, match=r"nofile\.jsonl: no such file"):
        go(wrong)
    assert (go(config) / "sft" / "done.json").exists()


def test_settings_of_a_stage_are_free_until_something_of_it_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = settings(tmp_path)
    run = go(config)
    trained = mtimes(run / "sft")

    def stop(*_: Any) -> None:
        raise RuntimeError("stopped")

    with monkeypatch.context() as patched:
        patched.setattr("thumbs.stages.group.Group.step", stop)
        with pytest.raises(RuntimeError, match="stopped"):
            go(config | {"group": group(tmp_path)})
    assert (run / "group" / "identity.json").exists()
    changed = group(tmp_path, reward=[{"verifier": "regex", "pattern": "b"}], steps=1)
    go(config | {"group": changed})
    assert read_json(run / "group" / "done.json")["steps"] == 1
    assert mtimes(run / "sft") == trained
    with pytest.raises(RunError, match=r"sft\.epochs: 1 there, 2 now"):
        go(config | {"group": changed, "sft": config["sft"] | {"epochs": 2}})
    with pytest.raises(RunError, match="group: there, and not in the config now"):
        go(config)


def test_a_judge_can_be_mended_after_the_training(tmp_path: Path):
    heldout = {"prompts": write_rows(tmp_path / "held.jsonl", [{"prompt": "Ida"}]), "best_of": 1}
    heldout["sampling"] = {"max_new_tokens": 4}
    config = settings(tmp_path)
    wrong = config | {"evaluation": heldout | {"judge": "nobody"}}
    with pytest.raises(ConfigError, match=r"evaluation\.gold\.rule: no judge 'nobody'; there are vader"):
        plan(build_config(PipelineConfig, wrong), probe=False)
    with pytest.raises(ConfigError, match=r"evaluation\.gold\.rule: no judge"):
        go(wrong)
    assert not (tmp_path / "run").exists()
    go(config)
    run = go(config | {"evaluation": heldout})
    first = read_json(run / "summary.json")
    again = evaluate_run(run)
    assert {k: v for k, v in again.items() if k.startswith("sft.")} == {
        k: v for k, v in first.items() if k.startswith("sft.")
    }


@pytest.mark.parametrize("file", ["_rewards.py", "_rewards_helper.py"])
def test_the_source_of_a_reward_function_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str):
    module = f"m{abs(hash(str(tmp_path)))}_rewards"
    (tmp_path / f"{module}.py").write_text(CODE.format(module=module))
    (tmp_path / f"{module}_helper.py").write_text("def base():\n    return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = settings(tmp_path) | {"group": group(tmp_path, reward=[{"function": f"{module}:polite"}])}
    go(config)
    go(config)
    changed = tmp_path / f"{module.removesuffix('_rewards')}{file}"
    changed.write_text(changed.read_text() + "\n# another\n")
    name = changed.stem
    with pytest.raises(RunError, match=rf"group\.reward\.0\.function: {name} has changed since it was read"):
        go(config)


def test_the_base_model_counts_and_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("THUMBS_CACHE", str(tmp_path / "cache"))
    folder, hashed = tmp_path / "base", []
    save_random(LLAMA, folder)
    for file in folder.iterdir():
        os.utime(file, (1e9, 1e9))
    monkeypatch.setattr(digests, "_SETTLED_NS", -1)  # as if all of it had been written long ago
    known = digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda path: hashed.append(path.name) or known(path))
    first = model_files(str(folder))
    assert {file["name"] for file in first} >= {"config.json", "model.safetensors"}
    assert model_files(str(folder)) == first
    assert sorted(hashed) == sorted(str(file["name"]) for file in first)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    with weights.open("r+b") as file:  # of the same inode, size and time of its content
        file.write(content)
    os.utime(weights, (1e9, 1e9))
    again = model_files(str(folder))
    assert [file["name"] for file in again if file not in first] == ["model.safetensors"]
    there, now = (Identity({}, {"model.name": files}) for files in (first, again))
    assert changes(there, now) == ["model.name: model.safetensors has changed since it was read"]


def test_a_run_of_an_older_version_is_compared_by_its_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = settings(tmp_path)
    run = go(config)
    (run / "sft" / "identity.json").unlink()
    recorded = read_json(run / "config.json")
    del recorded["sft"]["eval_every"]  # a setting that did not exist then
    write_json(run / "config.json", recorded)
    go(config)
    assert "done already, before runs recorded what they read" in capsys.readouterr().err
    with pytest.raises(RunError, match=r"sft\.epochs: 1 there, 2 now"):
        go(config | {"sft": config["sft"] | {"epochs": 2}})


def test_a_run_that_knew_no_such_setting_goes_on(tmp_path: Path):
    config = settings(tmp_path)
    run = go(config)
    recorded = read_json(run / "sft" / "identity.json")
    del recorded["settings"]["sft.eval_every"]
    write_json(run / "sft" / "identity.json", recorded)
    go(config)
    with pytest.raises(RunError, match=r"sft\.eval_every: not set there, 3 now"):
        go(config | {"sft": config["sft"] | {"eval_every": 3}})


def test_fresh_and_eval_delete_nothing_in_a_folder_that_is_in_use(tmp_path: Path):
    heldout = {"prompts": write_rows(tmp_path / "held.jsonl", [{"prompt": "Ida"}]), "best_of": 1}
    config = settings(tmp_path, evaluation=heldout | {"sampling": {"max_new_tokens": 4}})
    run = go(config)
    with RunFolder(run).lock():
        before = mtimes(run)
        for attempt in (lambda: go(config, fresh=True), lambda: evaluate_run(run), lambda: go(config)):
            with pytest.raises(RunError, match="in use by process"):
                attempt()
        assert mtimes(run) == before
    with pytest.raises(RunError, match="is not this process's"):
        RunFolder(run).clear()
    (run / "notes.txt").write_text("mine")
    go(config, fresh=True)
    assert not (run / "notes.txt").exists()


def test_fresh_deletes_no_folder_that_is_no_run(tmp_path: Path):
    config = settings(tmp_path)
    Path(config["run"]).mkdir()
    (Path(config["run"]) / "thesis.txt").write_text("years")
    with pytest.raises(RunError, match="holds no run, so --fresh does not delete it"):
        go(config, fresh=True)
    assert (Path(config["run"]) / "thesis.txt").read_text() == "years"


def test_finished_stages_are_taken_over_where_they_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = settings(tmp_path) | {"group": group(tmp_path)}
    first = go(config)
    capsys.readouterr()
    other = config | {"run": str(tmp_path / "other"), "group": group(tmp_path, clip_range=0.3)}
    second = go(other, source=first)
    said = capsys.readouterr().err
    assert f"sft: taken from {first}" in said
    assert f"group: not taken from {first}: group.clip_range: None there, 0.3 now" in said
    assert "sft: done already" in said
    weights = Path("sft") / "model" / "adapter_model.safetensors"
    assert (second / weights).read_bytes() == (first / weights).read_bytes()
    shutil.rmtree(first)
    go(other)

    unlike = config | {"run": str(tmp_path / "third"), "seed": 1}
    go(unlike, source=second)
    assert f"sft: not taken from {second}: seed: 0 there, 1 now" in capsys.readouterr().err
    with pytest.raises(RunError, match="is the run folder itself"):
        go(unlike, source=tmp_path / "third")
    with pytest.raises(RunError, match="not a run folder"):
        go(unlike, source=tmp_path)


def ppo(folder: Path, **more: Any) -> dict[str, Any]:
    shared = group(folder)
    del shared["group_size"]
    return shared | {"critic": {"init": "policy"}} | more


def online_dpo(folder: Path, steps: int = 2) -> dict[str, Any]:
    shared = group(folder, steps=steps)
    online = {name: shared[name] for name in ("prompts", "reward", "steps", "sampling")}
    optim = {"schedule": "constant", "warmup_fraction": 0.0}
    return {"method": "online_dpo", "batch_size": 4, "epochs": 1, "eval_every": 1, "optim": optim, "online": online}


@pytest.mark.parametrize(("name", "section"), [("group", group), ("ppo", ppo), ("direct", online_dpo)])
def test_steps_may_grow_and_the_numbers_are_those_of_one_run(
    tmp_path: Path, name: str, section: Callable[..., dict[str, Any]]
):
    short = settings(tmp_path) | {name: section(tmp_path, steps=3), "fixed_prompts": ["Ana"]}
    run = go(short)
    go(short | {name: section(tmp_path, steps=5)})
    whole = go(short | {"run": str(tmp_path / "whole"), name: section(tmp_path, steps=5)})
    for file in ("metrics.jsonl", "samples.jsonl"):
        grown, once = (rows_of(folder / name / file) for folder in (run, whole))
        assert grown == once
    files = sorted(p.relative_to(run) for p in (run / name).rglob("*.safetensors"))
    assert files == sorted(p.relative_to(whole) for p in (whole / name).rglob("*.safetensors"))
    assert all((run / f).read_bytes() == (whole / f).read_bytes() for f in files)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The records of a log without what clocks say."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if not k.endswith(("_s", "_per_s"))} for line in lines]


def test_steps_do_not_shrink_and_grow_alone(tmp_path: Path):
    short = settings(tmp_path) | {"group": group(tmp_path, steps=1)}
    go(short)
    go(short | {"group": group(tmp_path, steps=2)})
    with pytest.raises(RunError, match=r"group\.steps may grow and not shrink"):
        go(short)
    with pytest.raises(RunError, match=r"group\.steps: 2 there, 3 now\n.*group\.clip_range"):
        go(short | {"group": group(tmp_path, steps=3, clip_range=0.3)})


def test_steps_do_not_grow_where_the_rates_followed_their_number(tmp_path: Path):
    linear = {"optim": {"schedule": "linear"}}
    go(settings(tmp_path) | {"group": group(tmp_path, **linear)})
    with pytest.raises(RunError, match=r"the learning rates of its 2 steps follow group\.steps .*schedule linear"):
        go(settings(tmp_path) | {"group": group(tmp_path, steps=3, **linear)})


def test_an_evaluation_follows_the_models_that_grew(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    heldout = {"prompts": write_rows(tmp_path / "held.jsonl", [{"prompt": "Ida"}]), "best_of": 1}
    config = settings(tmp_path, evaluation=heldout | {"sampling": {"max_new_tokens": 4}})
    go(config | {"group": group(tmp_path)})
    go(config | {"group": group(tmp_path, steps=3)})
    said = capsys.readouterr().err
    assert "group: goes on from 2 to 3 steps" in said
    assert "evaluation: measured again, since its models are others now" in said


def test_what_lacks_another_section_stops_before_the_first_step(tmp_path: Path):
    with pytest.raises(ConfigError, match="section `group` needs section `reward_model`"):
        go(settings(tmp_path) | {"group": group(tmp_path, reward=[])})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"function": "no_such_module:f"}, "no module 'no_such_module'"),
        ({"function": "my_rewards.py:f"}, "write my_rewards:f"),
        ({"function": "shutil:copyfile"}, "no signature that is understood"),
        ({"judge": "no-such-model"}, "reward.0.judge: unknown model"),
        ({"model": "runs/none/reward_model"}, "reward.0.model:"),
        ({"verifier": "regex", "pattern": "("}, "not a regular expression"),
    ],
)
def test_every_name_of_a_reward_is_looked_up_before_the_first_step(tmp_path: Path, part: dict[str, Any], said: str):
    config = settings(tmp_path) | {"group": group(tmp_path, reward=[part])}
    with pytest.raises(ConfigError, match=said):
        go(config)
    with pytest.raises(ConfigError, match=said):
        plan(build_config(PipelineConfig, config), probe=False)
    assert not (tmp_path / "run").exists()


def test_the_command_takes_stages_from_another_run(tmp_path: Path):
    config = settings(tmp_path)
    first = go(config)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config | {"run": str(tmp_path / "second")}))
    command = [sys.executable, "-c", "from thumbs.cli.main import app; app()", "run", str(tmp_path / "c.yaml")]
    done = subprocess.run([*command, "--from", str(first)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"sft: taken from {first}" in done.stderr
