"""Hugging Face folder → GGUF, read back by our reader, and by llama.cpp if it is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny_gguf
import torch
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig

from thumbs.errors import ModelError
from thumbs.models.gguf import convert
from thumbs.models.gguf_writer import TYPES, permute, write_gguf
from thumbs.models.tensor_files import write_tensors

TEXTS = [
    "the cat sat",
    "a\nb\t\tc\r\n\n  d",
    "naïve café 日本語 🎉",
    "it's 12345 + 0.5",
    "<|im_start|>user\nhi<|im_end|>",
]
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}"


def write_folder(folder: Path, config: PretrainedConfig, tokenizer: Tokenizer | None = None) -> torch.nn.Module:
    """A model as `thumbs export --format hf` leaves it."""
    folder.mkdir()
    model = tiny_gguf.random_model(config)
    model.config.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": [type(model).__name__]}))
    kept = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight" or not config.tie_word_embeddings}
    write_tensors(folder / "model.safetensors", kept)
    (tokenizer or tiny_gguf.small_tokenizer()).save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
    return model


@pytest.mark.parametrize("name", tiny_gguf.CONFIGS)
def test_weights_logits_and_tokens_are_the_same_after_a_round_trip(tmp_path: Path, name: str):
    original = write_folder(tmp_path / "hf", tiny_gguf.CONFIGS[name])
    write_gguf(tmp_path / "hf", tmp_path / "model.gguf", "float32", "tiny")
    (tmp_path / "back").mkdir()
    convert(tmp_path / "model.gguf", tmp_path / "back")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32).eval()
    assert type(model) is type(original)
    for key, weight in original.state_dict().items():
        assert torch.equal(weight, model.state_dict()[key]), key
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, original(tokens).logits, atol=1e-5, rtol=0)
    there, back = (Tokenizer.from_file(str(tmp_path / folder / "tokenizer.json")) for folder in ("hf", "back"))
    assert [there.encode(text).ids for text in TEXTS] == [back.encode(text).ids for text in TEXTS]
    settings = json.loads((tmp_path / "back" / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == TEMPLATE
    assert json.loads((tmp_path / "back" / "generation_config.json").read_text())["eos_token_id"] == [2, 0]


def test_fields_are_those_of_a_file_as_llama_cpp_makes_it(tmp_path: Path):
    write_folder(tmp_path / "hf", tiny_gguf.CONFIGS["tied Llama"])
    write_gguf(tmp_path / "hf", tmp_path / "ours.gguf", "float32", "tiny")
    ours, theirs = (
        gguf.GGUFReader(p) for p in (tmp_path / "ours.gguf", tiny_gguf.write_gguf(tmp_path / "theirs.gguf"))
    )
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF.") and key != "tokenizer.ggml.padding_token_id":  # the folder has no such token
            assert ours.fields[key].contents() == field.contents(), key
    weights = {tensor.name: tensor.data for tensor in ours.tensors}
    assert weights.keys() == {tensor.name for tensor in theirs.tensors}
    for tensor in theirs.tensors:
        assert np.array_equal(weights[tensor.name], tensor.data), tensor.name
    assert ours.fields["general.name"].contents() == "tiny"
    assert ours.fields["tokenizer.ggml.add_bos_token"].contents() is False


def test_permute_is_the_slow_loop():
    weight = np.random.default_rng(0).normal(size=(3 * 8, 5)).astype(np.float32)
    assert np.array_equal(permute(weight, 3), tiny_gguf.interleave(weight, 3))


@pytest.mark.parametrize(
    ("dtype", "stored", "error"),
    [
        ("float32", "F32", 0.0),
        ("float16", "F16", 2**-11),
        ("bfloat16", "BF16", 2**-8),
        ("q8_0", "Q8_0", 1 / 127),
        ("q5_1", "Q5_1", 1 / 16),
        ("q5_0", "Q5_0", 1 / 8),
        ("q4_1", "Q4_1", 1 / 8),
        ("q4_0", "Q4_0", 1 / 4),
    ],
)
def test_every_type_holds_the_weights_to_its_precision(tmp_path: Path, dtype: str, stored: str, error: float):
    model = write_folder(tmp_path / "hf", tiny_gguf.CONFIGS["Qwen3"])
    write_gguf(tmp_path / "hf", tmp_path / "model.gguf", dtype, "tiny")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    weight = tensors["blk.1.attn_q.weight"]
    assert weight.tensor_type.name == stored
    assert tensors["blk.1.attn_norm.weight"].tensor_type.name == "F32"
    # 48 numbers in a row of this one are no whole blocks of 32.
    assert tensors["blk.1.ffn_down.weight"].tensor_type.name == ("F16" if dtype.startswith("q") else stored)
    there = model.state_dict()["model.layers.1.self_attn.q_proj.weight"].numpy()
    found = gguf.quants.dequantize(weight.data, weight.tensor_type)
    assert np.abs(found - there).max() <= error * np.abs(there).max()
    assert set(TYPES) == {"float32", "float16", "bfloat16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "this is GPT2LMHeadModel"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "this is LlamaForSequenceClassification"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "scaled rotary positions"),
        ({"use_sliding_window": True}, "a sliding window"),
        ({"hidden_act": "gelu"}, "the activation gelu"),
        ({"vocab_size": 200}, "the tokenizer has 300 tokens and the model 200"),
    ],
)
def test_what_the_file_could_not_say_is_refused(tmp_path: Path, changes: dict[str, Any], said: str):
    write_folder(tmp_path / "hf", tiny_gguf.CONFIGS["Llama"])
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelError, match=said):
        write_gguf(tmp_path / "hf", tmp_path / "model.gguf", "float32", "tiny")


def test_a_tensor_and_a_tokenizer_without_a_name_are_refused(tmp_path: Path):
    write_folder(tmp_path / "hf", LlamaConfig(**tiny_gguf.SHAPE, mlp_bias=True))
    write_gguf(tmp_path / "hf", tmp_path / "biased.gguf", "float32", "tiny")  # a name that llama.cpp has, too
    tensors = {"model.layers.0.self_attn.sinks": torch.zeros(4)}
    write_tensors(tmp_path / "hf" / "model.safetensors", tensors)
    with pytest.raises(ModelError, match=r"self_attn\.sinks"):
        write_gguf(tmp_path / "hf", tmp_path / "model.gguf", "float32", "tiny")
    tokenizer = tiny_gguf.small_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d\d"), behavior="isolated")
    write_folder(tmp_path / "odd", tiny_gguf.CONFIGS["Llama"], tokenizer)
    with pytest.raises(ModelError, match="cuts text in none of the known ways"):
        write_gguf(tmp_path / "odd", tmp_path / "odd.gguf", "float32", "tiny")


def test_llama_cpp_says_the_same(tmp_path: Path):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    original = write_folder(tmp_path / "hf", tiny_gguf.CONFIGS["Qwen2"])
    write_gguf(tmp_path / "hf", tmp_path / "model.gguf", "float32", "tiny")
    model = llama_cpp.Llama(str(tmp_path / "model.gguf"), n_ctx=64, verbose=False, logits_all=True)
    ids = model.tokenize(b"the cat sat on", add_bos=False, special=True)
    assert ids == Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json")).encode("the cat sat on").ids
    model.eval(ids)
    with torch.no_grad():
        logits = original(torch.tensor([ids])).logits[0]
    # llama.cpp keeps keys and values in 16 bits.
    np.testing.assert_allclose(np.array(model.scores[: len(ids)]), logits.numpy(), atol=2e-2)
