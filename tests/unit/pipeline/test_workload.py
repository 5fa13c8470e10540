"""How much work a config asks for, against counts made by hand: with the byte tokenizer a byte is a token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.pipeline.inputs import Inputs, read_inputs, split_pairs
from thumbs.pipeline.workload import StageWork, work_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    numbers = [f"{i:02}" for i in range(10)]
    # [BOS] 2 bytes [SEP] 3 bytes [EOS]: 8 tokens, 4 of them the assistant's
    write("sft.jsonl", [{"prompt": n, "completion": "yes"} for n in numbers])
    # [BOS] 2 bytes [SEP]: 4 tokens
    write("prompts.jsonl", [{"prompt": n} for n in numbers])
    write("pairs.jsonl", [{"prompt": n, "chosen": "yes", "rejected": "no"} for n in numbers])
    return tmp_path


def data(folder: Path, name: str) -> dict[str, Any]:
    return {"path": str(folder / f"{name}.jsonl"), "holdout": 0.0}


def measure(sections: dict[str, Any]) -> tuple[PipelineConfig, Inputs, dict[str, StageWork]]:
    config = build_config(PipelineConfig, {"model": {"name": "byte-tiny", "lora": None}, **sections})
    inputs = read_inputs(config, ByteTokenizer())
    return config, inputs, {work.stage: work for work in work_of(config, inputs)}


def sft(folder: Path) -> dict[str, Any]:
    return {"data": data(folder, "sft"), "epochs": 3, "batch_size": 4, "eval_every": 2}


def test_sft(folder: Path):
    _, inputs, work = measure({"sft": sft(folder)})
    assert inputs.reply_tokens == 4.0
    # 10 rows in batches of 4: 3 steps an epoch
    assert work["sft"] == StageWork("sft", 10, 0, steps=9, trained=240.0, read=0.0, new=80.0)
    assert work["sft"].step_tokens == pytest.approx(240 / 9)


def test_sft_reads_the_held_out_rows_at_every_evaluation(folder: Path):
    section = {**sft(folder), "data": {**data(folder, "sft"), "holdout": 0.5}}
    _, _, work = measure({"sft": section})
    found = work["sft"]
    assert 0 < found.held < 10
    assert found.rows == 10 - found.held
    evaluations = -(-found.steps // 2)
    assert found.read == evaluations * found.held * 8


def test_preferences_sample_replies_as_long_as_the_demonstrations(folder: Path):
    section = {"prompts": data(folder, "prompts"), "replies_per_prompt": 3, "pairs_per_prompt": 9}
    _, _, work = measure({"sft": sft(folder), "labels": section, "reward_model": {"epochs": 2, "batch_size": 8}})
    found = work["labels"]
    assert found.sampled == 10 * 3 * 4.0
    assert (found.sampling_rows, found.snapshots) == (30, 1)
    # three replies make three pairs, whatever pairs_per_prompt says; they and their prompt are computed once
    assert (work["reward_model"].rows, work["reward_model"].steps) == (30, 8)
    assert work["reward_model"].trained == 10 * 2 * (4 + 3 * 4.0)
    assert work["reward_model"].new == 10 * (4 + 3 * 4.0)


def test_without_demonstrations_a_reply_is_as_long_as_it_may_be(folder: Path):
    section = {"prompts": data(folder, "prompts"), "sampling": {"max_new_tokens": 7}}
    _, _, work = measure({"labels": section})
    assert work["labels"].sampled == 10 * 4 * 7


def test_pairs_of_a_file_are_split_by_prompt(folder: Path):
    config, inputs, work = measure({"labels": {"data": {**data(folder, "pairs"), "holdout": 0.5}}, "reward_model": {}})
    train, held = split_pairs(config, inputs)
    assert train + held == 10
    assert held > 0
    assert work["labels"] == StageWork("labels", train, held)
    assert work["reward_model"].trained == pytest.approx(train * (4 + 2 * 4.0))  # the prompt once, two replies
    assert work["reward_model"].new == pytest.approx(10 * (4 + 2 * 4.0))


@pytest.mark.parametrize(("critic", "trained", "read"), [("shared", 1, 3), ("policy", 2, 4)])
def test_ppo(critic: str, trained: int, read: int, folder: Path):
    section = {
        "prompts": data(folder, "prompts"),
        "steps": 5,
        "batch_size": 8,
        "minibatch_size": 4,
        "epochs": 2,
        "critic": {"init": critic},
    }
    _, _, work = measure({"sft": sft(folder), "ppo": section})
    found = work["ppo"]
    # 10 prompts in batches of 8 and 2: 5 rollouts per step on average, of 4 + 4 tokens
    tokens = 5 * 5 * 8
    assert found.trained == tokens * 2 * trained
    assert found.read == tokens * read + 5 * 5 * 4
    assert found.new == tokens
    assert found.sampled == 5 * 5 * 4
    assert (found.steps, found.snapshots) == (5 * 2 * 2, 5)


def test_replies_to_one_prompt_compute_it_once(folder: Path):
    section = {"prompts": data(folder, "prompts"), "steps": 3, "batch_size": 10, "minibatch_size": 10, "epochs": 2}
    _, _, work = measure({"sft": sft(folder), "ppo": {**section, "replies_per_prompt": 2}})
    found, tokens = work["ppo"], 3 * 5 * (4 + 2 * 4)  # 5 of the 10 prompts a step
    assert (found.trained, found.new, found.read) == (tokens * 2, tokens, tokens * 3 + 3 * 5 * 4)
    assert found.sampled == 3 * 10 * 4


def test_the_pretraining_mix_is_trained_on_too(folder: Path):
    section = {"prompts": data(folder, "prompts"), "steps": 1, "batch_size": 10, "minibatch_size": 10, "epochs": 1}
    _, _, without = measure({"sft": sft(folder), "ppo": section})
    _, _, mixed = measure({"sft": sft(folder), "ppo": {**section, "ptx_coef": 0.5}})
    assert mixed["ppo"].trained - without["ppo"].trained == 10 * 8


def test_evaluation(folder: Path):
    ppo = {"prompts": data(folder, "prompts")}
    section = {"prompts": data(folder, "prompts"), "best_of": 3}
    _, _, work = measure({"sft": sft(folder), "ppo": ppo, "evaluation": section, "fixed_prompts": ["a"]})
    # base once, sft and ppo three times; the fixed prompt for each of three policies
    assert work["evaluation"].sampled == (10 * 7 + 3) * 4
    # KL of base and of all draws of ppo against sft: a pass of sft each; three draws of one policy share their prompt
    assert work["evaluation"].read == (10 * 7 + 3 + 10 * 4) * 8 - 10 * 4 * 4 - 10 * 2 * 4


def test_stages_come_in_their_order_and_only_those_that_are_asked_for(folder: Path):
    _, _, work = measure({"ppo": {"prompts": data(folder, "prompts")}, "sft": sft(folder)})
    assert list(work) == ["sft", "ppo"]
    assert measure({})[2] == {}
