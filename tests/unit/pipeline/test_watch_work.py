"""What a watch adds to the work of a run, counted by hand: with the byte tokenizer a byte is a token."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.pipeline.inputs import read_inputs
from thumbs.pipeline.plan import plan
from thumbs.pipeline.workload import StageWork, work_of


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Ten pairs of 7 and 6 tokens, half of them held out; twelve prompts of 4 tokens (two stand there twice)."""
    prompts = [{"prompt": f"{i:02}"} for i in (*range(12), 0, 1)]
    pairs = [{"prompt": f"{i:02}", "chosen": "no", "rejected": "n"} for i in range(10)]
    for name, rows in (("prompts", prompts), ("pairs", pairs)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {name: str(tmp_path / f"{name}.jsonl") for name in ("prompts", "pairs")}


def settings(files: dict[str, str], **sections: Any) -> PipelineConfig:
    base = {
        "model": {"name": "byte-tiny", "lora": None},
        "labels": {"data": {"path": files["pairs"], "holdout": 0.5}},
        "reward_model": {"epochs": 2, "batch_size": 2, "eval_every": 3, "adapters": 1},
        "watch": {"every": 3, "prompts": 8},
    }
    return build_config(PipelineConfig, base | sections)


def work(config: PipelineConfig) -> dict[str, StageWork]:
    return {one.stage: one for one in work_of(config, read_inputs(config, ByteTokenizer()))}


def methods(files: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Each method that can be watched, four steps of it, with replies of 5 tokens."""
    prompts = {"path": files["prompts"], "holdout": 0.0}
    common = {"prompts": prompts, "sampling": {"max_new_tokens": 5}}
    online = {**common, "steps": 4, "replies_per_prompt": 2}
    return {
        "ppo": common | {"steps": 4},
        "group": common | {"steps": 4, "group_size": 2},
        "rejection": common | {"rounds": 4, "replies_per_prompt": 2},
        "direct": {"method": "online_dpo", "online": online},
    }


@pytest.mark.parametrize("method", ["ppo", "group", "rejection", "direct"])
def test_looks_are_counted_in_every_method(method: str, files: dict[str, str]):
    section = {method: methods(files)[method]}
    alone, watched = work(settings(files, watch=None, **section)), work(settings(files, **section))
    looks, asked, prompt, reply = 3, 8, 4, 5  # before the first step, after the third and after the last
    whole = prompt + reply
    assert watched[method] == replace(
        alone[method],
        # The reward, the second opinion, the reference and the policy read each reply; the prompt fills the cache.
        read=alone[method].read + looks * asked * (4 * whole + prompt),
        new=alone[method].new + looks * asked * whole,
        sampled=alone[method].sampled + looks * asked * reply,
        snapshots=alone[method].snapshots + looks,
    )


def test_gold_takes_the_place_of_the_second_opinion(files: dict[str, str]):
    section = {"ppo": methods(files)["ppo"]}
    by_gold = work(settings(files, watch={"prompts": 100, "every": 3, "gold": {"function": "builtins:len"}}, **section))
    alone = work(settings(files, watch=None, **section))
    assert "second_opinion" not in by_gold
    assert by_gold["ppo"].read == alone["ppo"].read + 3 * 12 * (3 * 9 + 4)  # twelve different prompts are all there are


def test_the_second_opinion_trains_on_what_the_reward_model_holds_out(files: dict[str, str]):
    found = work(settings(files, ppo=methods(files)["ppo"]))
    first, second = found["reward_model"], found["second_opinion"]
    assert (second.rows, second.held) == (first.held, first.rows)
    steps, pair = -(-second.rows // 2) * 2, 2 * 7 - 4  # a pair's longer side has 7 tokens, 4 of them the prompt's
    looks = -(-steps // 3)
    assert second.steps == steps
    assert second.trained == pair * second.rows * 2
    assert second.read == pair * (second.rows + (looks + 1) * second.held)


def test_a_policy_of_rejection_samples_n_and_trains_on_the_best(files: dict[str, str]):
    found = work(settings(files, watch=None, rejection=methods(files)["rejection"] | {"batch_size": 5}))["rejection"]
    assert found == StageWork(
        "rejection",
        12,
        steps=4 * 3,
        trained=4 * 12 * 9,
        read=4 * 12 * (4 + 2 * 5) + 4 * 12 * 4,
        new=4 * 12 * (4 + 2 * 5),
        sampled=4 * 12 * 2 * 5,
        sampling_rows=24,
        snapshots=4,
    )


def test_memory_counts_the_second_opinion_and_the_versions_that_are_kept(files: dict[str, str], tmp_path: Path):
    def memory(**sections: Any) -> int:
        config = settings(files, ppo=methods(files)["ppo"], **sections)
        return plan(config.model_copy(update={"run": str(tmp_path / "run")}), probe=False).memory

    alone = memory(watch=None)
    weights = 260 * 128 + 4 * (3 * 128 * 128 + 128 * 128 + 3 * 128 * 352 + 2 * 128) + 128 + 129
    assert memory() == alone + 4 * weights
    assert memory(watch=None, rollout={"staleness": 3}) == alone + 3 * 4 * weights
    assert memory(watch=None, rollout={"staleness": 3, "workers": 1}) == alone
