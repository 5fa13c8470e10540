"""What a run left can be sampled from and exported, and exports compute what the run's model computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel

from thumbs.config.sampling import SamplingConfig
from thumbs.data.load import with_system
from thumbs.data.tokenizers import ByteTokenizer, load_tokenizer
from thumbs.errors import RunError
from thumbs.pipeline.artifacts import export, open_run, sample_text
from thumbs.records import Example, Message, Prompt

TOKENS = [257, 65, 110, 97, 258, 72, 105, 33, 259]
SAMPLING = SamplingConfig(max_new_tokens=8)


def logprobs_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.tensor([TOKENS])).logits[0, :-1]
    return logits.log_softmax(-1).gather(1, torch.tensor(TOKENS[1:])[:, None]).squeeze(1)


def logprobs_in_run(run: Path, stage: str) -> torch.Tensor:
    opened = open_run(run)
    datum = Example.next_token(TOKENS, weights=[1.0] * (len(TOKENS) - 1))
    return torch.from_numpy(opened.engine.forward(opened.model(stage), [datum])[0].logprobs)


@pytest.mark.parametrize("stage", ["base", "sft", "ppo"])
def test_a_merged_export_computes_the_same_in_transformers(stage: str, tiny_run: Path, tmp_path: Path):
    out = export(tiny_run, stage, tmp_path / "out", form="hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    torch.testing.assert_close(logprobs_of(model), logprobs_in_run(tiny_run, stage), atol=1e-4, rtol=0)
    assert isinstance(load_tokenizer(out), ByteTokenizer)


def test_opening_a_run_calls_nothing_that_it_names(tiny_run: Path, tmp_path: Path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    foreign = {"engine": {"kind": "no_such_module:engine"}, "rollout": {"kind": "no_such_module:sampler"}}
    (run / "config.json").write_text(json.dumps(config | foreign), encoding="utf-8")
    assert torch.equal(logprobs_in_run(run, "ppo"), logprobs_in_run(tiny_run, "ppo"))


def test_training_changed_the_model(tiny_run: Path):
    base, sft, ppo = (logprobs_in_run(tiny_run, stage) for stage in ("base", "sft", "ppo"))
    assert (base - sft).abs().max() > 1e-4
    assert (sft - ppo).abs().max() > 1e-6


def test_an_adapter_export_is_read_by_peft(tiny_run: Path, tmp_path: Path):
    base = transformers.AutoModelForCausalLM.from_pretrained(
        export(tiny_run, "base", tmp_path / "base", form="hf"), dtype=torch.float32
    )
    out = export(tiny_run, "ppo", tmp_path / "adapter")
    model = PeftModel.from_pretrained(base, str(out))
    torch.testing.assert_close(logprobs_of(model), logprobs_in_run(tiny_run, "ppo"), atol=1e-4, rtol=0)


def test_an_ensemble_is_no_single_model(tiny_run: Path, tmp_path: Path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config["reward_model"]["adapters"] = 3
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(RunError, match="an ensemble of 3 adapters"):
        export(run, "reward_model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_never_overwrites(tiny_run: Path, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(RunError, match="not empty"):
        export(tiny_run, "ppo", tmp_path, form="hf")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_samples_are_the_same_for_the_same_seed_alone_or_in_company(tiny_run: Path):
    together = sample_text(tiny_run, "ppo", ["Ana", "Ben"], 3, SAMPLING, 5)
    again = sample_text(tiny_run, "ppo", ["Ana", "Ben"], 3, SAMPLING, 5)
    alone = sample_text(tiny_run, "ppo", ["Ben"], 3, SAMPLING, 5)
    other = sample_text(tiny_run, "ppo", ["Ana", "Ben"], 3, SAMPLING, 6)
    assert [len(replies) for replies in together] == [3, 3]
    assert together == again
    assert together[1:] == alone
    assert together != other
    generator = together[0][0].generator
    assert (generator.name, generator.checkpoint) == ("byte-tiny", "ppo/model")


def test_the_reward_model_is_not_sampled_from(tiny_run: Path):
    with pytest.raises(RunError, match="cannot generate text"):
        sample_text(tiny_run, "reward_model", ["Ana"], 1, SAMPLING, 0)


def test_a_stage_that_is_not_there_is_named(tiny_run: Path, tmp_path: Path):
    with pytest.raises(
        RunError, match="no stage 'rlhf'; a run has base, sft, cost_model, reward_model, direct, ppo, group, reject"
    ):
        open_run(tiny_run).model("rlhf")
    (tmp_path / "config.json").write_text(json.dumps({"model": {"name": "byte-tiny"}}), encoding="utf-8")
    with pytest.raises(RunError, match="no model of stage 'ppo'"):
        open_run(tmp_path).model("ppo")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match="not a run folder"):
        open_run(tmp_path)


def test_the_system_message_comes_first_and_once():
    prompt = Prompt("1", (Message("user", "Hi"),))
    asked = with_system(prompt, "Be brief.")
    assert [m.role for m in asked.messages] == ["system", "user"]
    assert with_system(asked, "Another.") == asked
    assert with_system(prompt, None) == prompt
