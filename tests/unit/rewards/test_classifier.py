"""Reward models that people already have score here as in transformers, or are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from reward_world import CHATS, END, PAD, REPLIES, SHAPE, chat_model, made_run, padded_scores, write_tokenizer
from thumbs.cli.main import app
from thumbs.config.reward_parts import RewardPart
from thumbs.data.tokenizers import load_tokenizer
from thumbs.engine.local import LocalEngine
from thumbs.errors import ConfigError, ModelError
from thumbs.pipeline.artifacts import export
from thumbs.records import Generator, Message, Reply, Rollout
from thumbs.rewards.build import build_rewards, check_reward_model, open_reward_model
from thumbs.rewards.classifier import ClassifierReward


def no_reward() -> Any:
    raise AssertionError("the run's own reward model was not asked for")


def published(folder: Path, kind: str = "Llama", pad: int | None = PAD, **changes: Any) -> Path:
    """A random classifier with a tokenizer of its own, as transformers saves it."""
    torch.manual_seed(3)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 264}
    shape = SHAPE if kind in ("Llama", "Qwen2") else small
    if kind == "GPT2":
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 264}
    config = getattr(transformers, f"{kind}Config")(
        **shape | {"num_labels": 1, "pad_token_id": pad, "initializer_range": 0.3} | changes
    )
    getattr(transformers, f"{kind}ForSequenceClassification")(config).save_pretrained(write_tokenizer(folder))
    return folder


def rollout(messages: list[Message], stop: Any = "stop") -> Rollout:
    """As a policy with another tokenizer wrote it."""
    tokens = np.arange(5)
    return Rollout(
        prompt_id="p",
        messages=tuple(messages),
        tokens=tokens,
        prompt_length=2,
        mask=np.array([0, 1, 1, 1], dtype=np.float32),
        logprobs=np.zeros(4, dtype=np.float32),
        stop_reason=stop,
        policy_version=0,
        text=messages[-1].content,
    )


def theirs(folder: Path, model: Any = None) -> list[float]:
    """Scores of transformers alone, each chat by itself, by the folder's own template."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = model or transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    chats = [[{"role": m.role, "content": m.content} for m in chat] for chat in CHATS]
    rows = [tokenizer.apply_chat_template(chat)["input_ids"] for chat in chats]
    return [float(padded_scores(model, [row], PAD)[0]) for row in rows]


@pytest.mark.parametrize(
    ("kind", "pad"), [("Llama", PAD), ("Llama", END), ("Llama", None), ("GPT2", PAD), ("Bert", PAD)]
)
def test_scores_are_those_of_transformers_in_any_company(kind: str, pad: int | None, tmp_path: Path):
    folder = published(tmp_path / "model", kind, pad)
    mix = build_rewards([RewardPart(model=str(folder), weight=2.0)], LocalEngine(), no_reward)
    rollouts = [rollout(chat, stop) for chat, stop in zip(CHATS, ("stop", "length", "stop", "stop"), strict=True)]
    together = mix.score(rollouts)
    expected = theirs(folder)
    assert np.std(expected) > 1e-3
    assert [score.value for score in together] == pytest.approx([2 * value for value in expected], abs=1e-4)
    alone = [mix.score([each])[0].value for each in rollouts]
    assert alone == pytest.approx([score.value for score in together], abs=1e-5)


def test_an_adapter_for_classification_scores_as_in_peft(tmp_path: Path):
    torch.manual_seed(3)
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, pad_token_id=PAD))
    base.save_pretrained(write_tokenizer(tmp_path / "base"))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj", "down_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "adapter")
    source = open_reward_model(LocalEngine(), tmp_path / "adapter")
    found = [score.value for score in source.score([rollout(chat) for chat in CHATS])]
    assert found == pytest.approx(theirs(tmp_path / "base", model), abs=1e-4)


@pytest.mark.parametrize("merge", [True, False])
def test_what_thumbs_exported_scores_as_in_its_run(merge: bool, tmp_path: Path):
    base = published(tmp_path / "base")
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, pad_token_id=END)).save_pretrained(base)
    run = made_run(tmp_path / "run", base=base)
    out = export(run, "reward_model", tmp_path / "out", form="hf" if merge else None)
    rollouts = [rollout(CHATS[0]), rollout(CHATS[1], "length"), rollout(CHATS[2])]
    expected = open_reward_model(LocalEngine(), run / "reward_model").score(rollouts)
    found = open_reward_model(LocalEngine(), out).score(rollouts)
    assert [score.value for score in found] == pytest.approx([score.parts["raw"] for score in expected], abs=1e-4)


def spoil(folder: Path, **changes: Any) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | changes))


def test_what_scores_nothing_certain_is_refused_by_name(tmp_path: Path):
    several = published(tmp_path / "several", num_labels=3)
    for look in (lambda: open_reward_model(LocalEngine(), several), lambda: check_reward_model(str(several))):
        with pytest.raises(ModelError, match=r"has 3 labels \(LABEL_0, LABEL_1, LABEL_2\)"):
            look()
    check_reward_model(str(published(tmp_path / "one")))
    language = tmp_path / "language"
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).save_pretrained(write_tokenizer(language))
    with pytest.raises(ModelError, match="holds LlamaForCausalLM, which gives no score"):
        open_reward_model(LocalEngine(), language)
    spoil(language, architectures=["LlamaForSequenceClassification"], id2label={"0": "score"})
    with pytest.raises(ModelError, match=r"'score.weight' is missing"):
        open_reward_model(LocalEngine(), language)
    with pytest.raises(ConfigError, match="the folder or hub name of a sequence classifier"):
        open_reward_model(LocalEngine(), tmp_path / "nothing")
    with pytest.raises(ModelError, match="'org/none' is not a local folder"):
        open_reward_model(LocalEngine(), Path("org/none"))


def test_every_tensor_and_file_of_the_folder_is_used_or_named(tmp_path: Path):
    folder = published(tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    save_file(state | {"score.bias": torch.ones(1)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"'score.bias' would be left out"):
        open_reward_model(LocalEngine(), folder)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    save_file(state, folder / "scalar_head.safetensors")
    with pytest.raises(ModelError, match=r"scalar_head\.safetensors next to it"):
        open_reward_model(LocalEngine(), folder)
    (folder / "scalar_head.safetensors").unlink()
    (folder / "thumbs_reward.json").write_text('{"scored_at": "end_token", "scale": 2}')
    with pytest.raises(ModelError, match="'scale': 2"):
        open_reward_model(LocalEngine(), folder)
    (folder / "thumbs_reward.json").unlink()
    write_tokenizer(folder, template=None)
    with pytest.raises(ModelError, match="has no chat template"):
        open_reward_model(LocalEngine(), folder)


def test_an_adapter_that_is_no_reward_models_is_refused(tmp_path: Path):
    run = made_run(tmp_path / "run", "sft", chat_model(tmp_path / "base"))
    policy = export(run, "sft", tmp_path / "policy")
    with pytest.raises(ModelError, match="an adapter for CAUSAL_LM, which gives no score"):
        open_reward_model(LocalEngine(), policy)
    spoil_adapter = json.loads((policy / "adapter_config.json").read_text()) | {"task_type": "SEQ_CLS"}
    (policy / "adapter_config.json").write_text(json.dumps(spoil_adapter))
    with pytest.raises(ModelError, match=r"score\.weight"):
        open_reward_model(LocalEngine(), policy)


def test_too_long_a_conversation_and_strange_tokens_are_named(tmp_path: Path):
    source = open_reward_model(LocalEngine(), published(tmp_path / "model", max_position_embeddings=64))
    assert isinstance(source, ClassifierReward)
    with pytest.raises(ModelError, match="reads at most 64 tokens"):
        source.score([rollout([Message("user", "Hi" * 50), Message("assistant", "No.")])])
    with pytest.raises(ModelError, match="gives token 999, and it has 264"):
        source.classifier.scores([np.array([1, 999])])


def test_the_command_audits_a_classifier_on_a_file_of_pairs(tmp_path: Path):
    folder = published(tmp_path / "model")
    rows = [{"prompt": f"Hi {i}", "chosen": REPLIES[0], "rejected": REPLIES[i % 2 + 1] or "Bye."} for i in range(6)]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = CliRunner().invoke(app, ["eval", "reward-model", str(folder), "--pairs", str(pairs)])
    assert found.exit_code == 0, found.output
    assert "6 pairs" in found.output
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer, right = load_tokenizer(folder), 0
    for row in rows:
        pair = []
        for side in ("chosen", "rejected"):
            said = [Message("user", row["prompt"]), Message("assistant", row[side])]
            pair.append(float(padded_scores(model, [tokenizer.render(said)[0]], PAD)[0]))
        right += pair[0] > pair[1]
    told = next(line for line in found.stdout.splitlines() if line.split()[:1] == ["accuracy"] and "pairs" in line)
    assert float(told.split()[1]) == pytest.approx(right / 6, abs=1e-3)
    refused = CliRunner().invoke(app, ["eval", "reward-model", str(folder)])
    assert refused.exit_code == 2
    assert "--pairs FILE" in refused.output


def test_replies_of_a_classifier_can_be_chosen_between(tmp_path: Path):
    from thumbs.rewards.trained import scorer_of

    source = open_reward_model(LocalEngine(), published(tmp_path / "model"))
    replies = [Reply(text, Generator("model", "m", "", {}, 0)) for text in REPLIES]
    scores = scorer_of(source, load_tokenizer(tmp_path / "model"))
    found = scores([([Message("user", "Hi")], reply) for reply in replies])
    assert found.shape == (4, 1)
    assert found[:, 0].tolist() == pytest.approx(theirs(tmp_path / "model"), abs=1e-4)
