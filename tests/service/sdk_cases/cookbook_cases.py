"""Recipes of tinker-cookbook as their command lines start them, in tiny sizes on data that is written here.

A case's name begins with the recipe's, up to two underscores; README.md says how to run them.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tinker_cookbook.preference import train_dpo
from tinker_cookbook.preference.dpo_datasets import DPODatasetBuilderFromComparisons
from tinker_cookbook.preference.preference_datasets import ComparisonBuilderFromJsonl
from tinker_cookbook.recipes import rl_loop, sl_loop
from tinker_cookbook.recipes.chat_sl import train as chat_sl
from tinker_cookbook.recipes.distillation import on_policy_distillation
from tinker_cookbook.recipes.math_rl import train as math_rl
from tinker_cookbook.recipes.multiplayer_rl.guess_number import train as guess_number
from tinker_cookbook.recipes.preference.shorter import train as shorter
from tinker_cookbook.rl import train as rl_train
from tinker_cookbook.rl.train import StreamMinibatchConfig
from tinker_cookbook.supervised.types import ChatDatasetBuilderCommonConfig

MODEL = os.environ["THUMBS_CASE_MODEL"]
"""A name that the cookbook knows: it looks renderers and more up by it."""
FRESH: dict[str, Any] = {"model_name": MODEL, "behavior_if_log_dir_exists": "resume"}
TINY_RL: dict[str, Any] = {
    **FRESH,
    "renderer_name": "qwen3_instruct",
    "lora_rank": 8,
    "group_size": 8,
    "groups_per_batch": 6,
    "max_tokens": 5,
    "learning_rate": 1e-3,
    "save_every": 2,
    "eval_every": 2,
    "loss_fn": "importance_sampling",  # the newest default needs a loss whose formula is not public
}


def _write(file: Path, rows: Iterable[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return file


def _dataset(folder: Path, config: str, **splits: Iterable[dict[str, Any]]) -> None:
    """A folder that `load_dataset` takes for the data set of that name when it is below the current one."""
    files = [
        f"  - split: {split}\n    path: {_write(folder / f'{split}.jsonl', rows).name}"
        for split, rows in splits.items()
    ]
    head = ["---", "configs:", f"- config_name: {config}", "  data_files:", *files, "---", ""]
    (folder / "README.md").write_text("\n".join(head), encoding="utf-8")


def _sums(count: int) -> list[dict[str, Any]]:
    """Conversations of two sums, as in the prompts of math_rl."""
    draw = random.Random(0)

    def turn() -> list[dict[str, str]]:
        a, b = draw.randrange(9), draw.randrange(9)
        return [{"role": "user", "content": f"What is {a} + {b}?"}, {"role": "assistant", "content": str(a + b)}]

    return [{"messages": turn() + turn()} for _ in range(count)]


def _rows(folder: Path, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / file).read_text(encoding="utf-8").splitlines()]


def _is_whole(folder: Path, steps: int) -> list[dict[str, Any]]:
    """The metrics of a run: one row per step, and a last checkpoint of both kinds.

    Newer cookbooks add a row after the last step, which has no learning rate.
    """
    rows, last = _rows(folder), _rows(folder, "checkpoints.jsonl")[-1]
    rows = rows[:-1] if len(rows) == steps + 1 and "optim/lr" not in rows[-1] else rows
    assert [row["step"] for row in rows] == list(range(steps))
    assert (last["name"], "/weights/final" in last["state_path"]) == ("final", True)
    assert "/sampler_weights/final" in last["sampler_path"]
    assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
    return rows


def _moves(rows: list[dict[str, Any]], on_policy: bool = True) -> None:
    """The policy was trained on rewards that differ; the first batch has the same logprobs in sampling and training."""
    assert max(row["grad_norm"] for row in rows) > 0
    assert not on_policy or rows[0]["optim/kl_sample_train_v2"] < 1e-3


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of chat_sl after which the model answers sums with numbers."""
    folder = tmp_path_factory.mktemp("supervised")
    data = _write(folder / "sums.jsonl", _sums(480))
    config = chat_sl.CLIConfig(
        **FRESH,
        dataset=str(data),
        renderer_name="qwen3_instruct",
        log_path=str(folder / "run"),
        batch_size=16,
        max_length=200,
        learning_rate=1e-2,
        lora_rank=16,
        save_every=20,
        eval_every=20,
        rolling_save_every=10,
    )
    chat_sl.cli_main(config)
    return folder / "run"


@pytest.fixture(scope="module")
def learned(supervised: Path) -> str:
    """Its state."""
    return _rows(supervised, "checkpoints.jsonl")[-1]["state_path"]


def test_chat_sl__supervised_with_rolling_checkpoints(supervised: Path) -> None:
    rows = _is_whole(supervised, steps=30)
    assert rows[-1]["train_mean_nll"] < 0.6 * rows[0]["train_mean_nll"]
    assert [row["optimizer_step"] for row in rows] == list(range(1, 31))


def test_sl_loop__supervised_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _dataset(tmp_path / "HuggingFaceH4" / "no_robots", "default", train=_sums(64))
    monkeypatch.chdir(tmp_path)
    sl_loop.main(sl_loop.Config(model_name=MODEL, log_path="run", batch_size=16, lora_rank=4, max_steps=2))
    assert len(_is_whole(tmp_path / "run", steps=2)) == 2


def test_math_rl__synchronous_from_a_supervised_state_and_resumed(learned: str, tmp_path: Path) -> None:
    for steps in (2, 4):
        config = math_rl.CLIConfig(
            **{**TINY_RL, "loss_fn": "ppo"},
            log_path=str(tmp_path / "run"),
            load_checkpoint_path=learned,
            max_steps=steps,
            num_substeps=2,
            compute_post_kl=True,
        )
        asyncio.run(math_rl.cli_main(config))
    rows = _is_whole(tmp_path / "run", steps=4)
    _moves(rows, on_policy=False)  # its metric looks at the second half of the batch after a step with the first
    assert [row["optimizer_step"] for row in rows] == [2, 4, 6, 8], "the optimizer came back with the weights"
    assert max(row["kl_pre_post_v2"] for row in rows) > 1e-6


def test_math_rl__asynchronous(learned: str, tmp_path: Path) -> None:
    config = math_rl.CLIConfig(
        **TINY_RL, log_path=str(tmp_path / "run"), load_checkpoint_path=learned, max_steps=3, max_steps_off_policy=3
    )
    asyncio.run(math_rl.cli_main(config))
    _moves(_is_whole(tmp_path / "run", steps=3))


def test_math_rl__streamed_minibatches(learned: str, tmp_path: Path) -> None:
    config = math_rl.CLIConfig(
        **TINY_RL,
        log_path=str(tmp_path / "run"),
        load_checkpoint_path=learned,
        max_steps=2,
        stream_minibatch_config=StreamMinibatchConfig(groups_per_batch=6, num_minibatches=2),
    )
    asyncio.run(math_rl.cli_main(config))
    _moves(_is_whole(tmp_path / "run", steps=2))


def test_rl_loop__in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    question = {"question": "What is 1 + 1?", "answer": "#### 2"}
    _dataset(tmp_path / "openai" / "gsm8k", "main", train=[question] * 8)
    monkeypatch.chdir(tmp_path)
    rl_loop.main(
        rl_loop.Config(model_name=MODEL, log_path="run", batch_size=2, group_size=2, max_tokens=4, max_steps=2)
    )
    assert len(_is_whole(tmp_path / "run", steps=2)) == 2


def test_dpo__pairs_of_a_file(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "Say something."}]
    good, bad = ([{"role": "assistant", "content": text}] for text in ("yes, of course", "NO! NO! NO!"))
    pair = {"prompt_conversation": asked, "completion_A": good, "completion_B": bad}
    pairs = _write(tmp_path / "pairs.jsonl", [{"comparison": pair, "label": "A"}] * 24)
    common = ChatDatasetBuilderCommonConfig(
        model_name_for_tokenizer=MODEL, renderer_name="qwen3_instruct", max_length=200, batch_size=4
    )
    config = train_dpo.Config(
        log_path=str(tmp_path / "run"),
        model_name=MODEL,
        recipe_name="dpo",
        renderer_name="qwen3_instruct",
        dataset_builder=DPODatasetBuilderFromComparisons(
            common_config=common,
            comparison_builder=ComparisonBuilderFromJsonl(train_path=str(pairs), test_path=str(pairs)),
        ),
        learning_rate=1e-2,
        lora_rank=16,
        lr_schedule="constant",
        eval_every=3,
        save_every=3,
    )
    train_dpo.main(config)
    rows = _is_whole(tmp_path / "run", steps=6)
    assert rows[0]["dpo_loss"] == pytest.approx(math.log(2), abs=0.02), "the reference is the policy"
    assert rows[-1]["accuracy"] == 1
    assert rows[-1]["dpo_loss"] < 0.6


def test_shorter__pairwise_preferences(tmp_path: Path) -> None:
    config = shorter.CLIConfig(
        **FRESH,
        renderer_name="qwen3_instruct",
        log_path=str(tmp_path / "run"),
        batch_size=2,
        group_size=4,
        max_tokens=6,
        max_steps=2,
        eval_every=0,
    )
    shorter.cli_main(config)
    _moves(_is_whole(tmp_path / "run", steps=2))


def test_guess_number__several_turns(tmp_path: Path) -> None:
    config = guess_number.CLIConfig(
        **FRESH,
        renderer_name="qwen3",
        log_path=str(tmp_path / "run"),
        batch_size=2,
        group_size=2,
        max_tokens=6,
        max_steps=2,
        eval_every=0,
    )
    asyncio.run(rl_train.main(guess_number.build_config(config)))
    rows = _is_whole(tmp_path / "run", steps=2)
    assert rows[0]["env/all/turns_per_episode"] == 10


def test_on_policy_distillation__teacher_of_the_same_base(
    learned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = learned.replace("/weights/", "/sampler_weights/")
    questions = [{"question": f"What is {i} + 1?", "final_answer": str(i + 1)} for i in range(40)]
    _dataset(tmp_path / "zwhe99" / "DeepMath-103K", "default", train=questions)
    monkeypatch.chdir(tmp_path)
    config = on_policy_distillation.CLIConfig(
        **{**TINY_RL, "eval_every": 0, "learning_rate": 1e-2},
        log_path="run",
        teacher_model=MODEL,
        teacher_checkpoint=teacher,
        max_steps=5,
    )
    asyncio.run(on_policy_distillation.cli_main(config))
    rows = _is_whole(tmp_path / "run", steps=5)
    _moves(rows)
    assert rows[-1]["teacher_kl"] < rows[0]["teacher_kl"]
