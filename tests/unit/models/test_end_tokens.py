"""Tokens that end replies, and tokens that a model does not have: both are found in the folder of the model."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig

from thumbs.config.model import ModelConfig
from thumbs.config.pipeline import PipelineConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.data.tokenizers import load_tokenizer
from thumbs.engine.base import ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.errors import ModelError
from thumbs.models.trunk import open_tokenizer
from thumbs.pipeline.plan import plan
from thumbs.records import Message, Prompt
from thumbs.rollout.rounds import collect
from tiny_models import save_random

TEMPLATE = (
    "{% for message in messages %}{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
START, END, TEXT_END, ROWS = 256, 257, 258, 259


def write(folder: Path, *added: AddedToken, **generation: Any) -> Path:
    """A model whose template ends replies with END, with more tokens than its embedding of 259 rows."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<|start|>", "<|end|>", "<|text end|>")])
    for token in added:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    config = LlamaConfig(
        vocab_size=ROWS, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=128, eos_token_id=None, bos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    save_random(config, folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|end|>", "pad_token": "<|text end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def always_says(folder: Path, token: int) -> None:
    """Makes the model write one token again and again."""
    state = load_file(folder / "model.safetensors")
    for name in state:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            state[name].zero_()
    state["model.embed_tokens.weight"].zero_()[:, 0] = 1.0
    state["lm_head.weight"].zero_()[token, 0] = 50.0
    state["model.norm.weight"].fill_(1.0)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("ends", [[END, TEXT_END], TEXT_END])
def test_the_end_tokens_of_generation_config_stop_replies(tmp_path: Path, ends: Any):
    folder = write(tmp_path, eos_token_id=ends, pad_token_id=TEXT_END)
    always_says(folder, TEXT_END)
    tokenizer, engine = load_tokenizer(folder), LocalEngine()
    handle = engine.create(ModelSpec("m", ModelConfig(name=str(folder), lora=None, dtype="float32")))
    prompt = Prompt("p", (Message("user", "Hi"),))
    rollout = collect(engine.snapshot(handle), [prompt], tokenizer, SamplingConfig(max_new_tokens=8), [1])[0]
    assert tokenizer.stop_ids == (END, TEXT_END)
    assert tokenizer.pad_id not in tokenizer.stop_ids
    assert (rollout.reply_length, rollout.stop_reason) == (1, "stop")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    asked = torch.tensor([tokenizer.render_prompt(prompt.messages)])
    theirs = model.generate(asked, do_sample=True, max_new_tokens=8)[0, asked.shape[1] :].tolist()
    assert theirs == rollout.tokens[rollout.prompt_length :].tolist() == [TEXT_END]


def test_a_word_that_ends_generation_does_not_end_what_is_read(tmp_path: Path):
    letter = 65
    tokenizer = load_tokenizer(write(tmp_path, eos_token_id=[letter]))
    text = tokenizer.decode([letter])
    tokens, mask = tokenizer.render((Message("user", "x"), Message("assistant", f"a{text}b")))
    assert tokenizer.stop_ids == (END, letter)
    assert [t for t, own in zip(tokens, mask, strict=True) if own] == [*tokenizer.encode(f"a{text}b"), END]


def test_config_json_says_it_where_there_is_no_generation_config(tmp_path: Path):
    folder = write(tmp_path)
    assert load_tokenizer(folder).stop_ids == (END,)
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": [TEXT_END]}))
    assert load_tokenizer(folder).stop_ids == (END, TEXT_END)


def test_an_export_has_all_end_tokens(tmp_path: Path):
    load_tokenizer(write(tmp_path, eos_token_id=[END, TEXT_END])).save(tmp_path / "out")
    assert load_tokenizer(tmp_path / "out").stop_ids == (END, TEXT_END)


@pytest.mark.parametrize("ends", ["257", [True], [[257]], 1.5])
def test_what_is_no_token_is_named(tmp_path: Path, ends: Any):
    with pytest.raises(ModelError, match=r"generation_config\.json: eos_token_id must be"):
        load_tokenizer(write(tmp_path, eos_token_id=ends))


def test_a_token_beyond_the_embedding_is_found_by_plan_and_at_load(tmp_path: Path):
    folder = write(tmp_path / "model", AddedToken("<tool>"), AddedToken("</tool>"))
    rows = [{"prompt": f"Q{i}", "completion": "plain"} for i in range(12)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = {"name": str(folder), "lora": None}
    config = {"run": str(tmp_path / "run"), "model": model, "sft": {"data": {"path": str(tmp_path / "data.jsonl")}}}
    message = "'<tool>' and 1 more beyond the 259 rows of the embedding; resize"
    with pytest.raises(ModelError, match=message):
        plan(PipelineConfig.model_validate(config))
    with pytest.raises(ModelError, match=message):
        open_tokenizer(ModelConfig(name=str(folder)))


def test_a_special_token_that_no_turn_is_written_with_is_named_only(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = write(tmp_path, AddedToken("<image>", special=True))
    with caplog.at_level(logging.WARNING):
        open_tokenizer(ModelConfig(name=str(folder)))
    assert "the embedding has no row for '<image>', which no text gives" in caplog.text
