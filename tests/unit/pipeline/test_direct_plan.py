"""Work and warnings of the preference stage, against counts by hand: with the byte tokenizer a byte is a token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.pipeline.inputs import read_inputs
from thumbs.pipeline.pitfalls import pitfalls
from thumbs.pipeline.workload import StageWork, work_of

# [BOS] 2 bytes [SEP] 3 bytes [EOS]: 8 tokens, of which 4 are the prompt's
PAIR = 8 + 4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    numbers = [f"{i:02}" for i in range(10)]
    write("pairs.jsonl", [{"prompt": n, "chosen": "yes", "rejected": "nay"} for n in numbers])
    write("judged.jsonl", [{"prompt": n, "completion": "yes", "label": i % 2 == 0} for i, n in enumerate(numbers)])
    write("prompts.jsonl", [{"prompt": n} for n in numbers])
    return tmp_path


def source(folder: Path, name: str) -> dict[str, Any]:
    return {"path": str(folder / f"{name}.jsonl"), "holdout": 0.0}


def config_of(folder: Path, **preference: Any) -> PipelineConfig:
    sections = {"labels": {"data": source(folder, "pairs")}, "direct": {"batch_size": 4, **preference}}
    return build_config(PipelineConfig, {"model": {"name": "byte-tiny", "lora": None}, **sections})


def work(config: PipelineConfig) -> StageWork:
    return next(w for w in work_of(config, read_inputs(config, ByteTokenizer())) if w.stage == "direct")


def warnings(config: PipelineConfig) -> str:
    return "\n".join(pitfalls(config, read_inputs(config, ByteTokenizer()), 1024))


def test_pairs_are_trained_on_each_epoch_and_read_once_by_the_reference(folder: Path):
    dpo = work(config_of(folder, epochs=2))
    assert dpo == StageWork("direct", 10, 0, steps=6, trained=240.0, read=120.0, new=120.0)
    assert work(config_of(folder, method="simpo", epochs=2)).read == 0
    assert work(config_of(folder, method="aot", epochs=2)).read == 10 * PAIR * 3  # and once before each step


def test_kto_reads_each_reply_under_a_foreign_prompt(folder: Path):
    both = work(config_of(folder, method="kto", epochs=2))
    assert (both.rows, both.steps, both.trained) == (20, 10, 20 * PAIR / 2 * 2)
    assert both.read == 20 * PAIR / 2 * (2 + 2)
    single = work(config_of(folder, method="kto", unpaired=source(folder, "judged")))
    assert (single.rows, single.steps, single.trained) == (10, 3, 80.0)


def test_online_dpo_samples_scores_and_trains_on_two_replies_a_prompt(folder: Path):
    online = {"prompts": source(folder, "prompts"), "steps": 3, "replies_per_prompt": 4}
    found = work(config_of(folder, method="online_dpo", online={**online, "sampling": {"max_new_tokens": 5}}))
    asked = 3 * 10 / 3  # three rounds, ten prompts in three batches
    assert found.sampled == asked * 4 * 5
    assert found.trained == asked * (4 + 2 * 5)
    assert found.read == asked * ((4 + 4 * 5) + (4 + 2 * 5) + 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "simpo", "beta": 0.05}, "direct.beta=0.05 is far from the 2 that is usual for simpo"),
        ({"method": "discopop"}, "direct.tau=0.05: below 0.103"),
        ({"method": "aot"}, "direct.batch_size=4 has too few"),
        ({"method": "dpo"}, "there are no held-out pairs, so the last weights stay"),
    ],
)
def test_what_would_go_wrong_is_said(folder: Path, settings: dict[str, Any], message: str):
    assert message in warnings(config_of(folder, **settings))
    assert message not in warnings(config_of(folder, keep="last"))


@pytest.mark.parametrize(("weight", "said"), [(1.0, False), (2.0, False), (0.2, True), (3.0, True)])
def test_good_replies_that_far_outweigh_the_bad_ones_are_said(folder: Path, weight: float, said: bool):
    """Five of each; up to twice the weight is passed over."""
    config = config_of(folder, method="kto", unpaired=source(folder, "judged"), desirable_weight=weight)
    assert ("5 good and 5 bad replies weigh" in warnings(config)) == said


def test_a_section_that_is_missing_is_named(folder: Path):
    def needs(preference: dict[str, Any]) -> str:
        return warnings(build_config(PipelineConfig, {"model": {"name": "byte-tiny"}, "direct": preference}))

    assert "section `direct` needs section `labels`" in needs({})
    assert "`preference` needs" not in needs({"method": "kto", "unpaired": source(folder, "judged")})
    online = {"method": "online_dpo", "online": {"prompts": source(folder, "prompts")}}
    assert "section `direct` needs section `reward_model`" in needs(online)
