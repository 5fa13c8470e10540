"""GGUF → Hugging Face folder, on tiny files written here."""

import json

import numpy as np
import pytest
import tiny_gguf
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from thumbs.errors import ModelError
from thumbs.models.gguf import convert, unpermute

TEXTS = [
    "the cat sat",
    "a\nb\t\tc\r\n\n  d",
    "naïve café 日本語 🎉👩‍👩‍👧",
    "it's 12345 + 0.5",
    "def f(x):\n    return x",
]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    convert(tiny_gguf.write_gguf(folder / "tiny.gguf"), folder)
    return folder


@pytest.mark.parametrize("name", tiny_gguf.CONFIGS)
def test_weights_and_logits_are_those_put_in(tmp_path, name):
    original = tiny_gguf.random_model(tiny_gguf.CONFIGS[name])
    convert(tiny_gguf.write_gguf(tmp_path / "tiny.gguf", original), tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert type(model) is type(original)
    assert model.state_dict().keys() == original.state_dict().keys()
    for key, weight in original.state_dict().items():
        assert torch.equal(weight, model.state_dict()[key]), key
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, original(tokens).logits, atol=1e-5, rtol=0)


def test_weights_are_stored_as_bfloat16_without_a_tied_head(converted):
    weights = load_file(converted / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert "lm_head.weight" not in weights
    assert not list(converted.glob("*.bin"))


def test_unpermute_undoes_the_slow_loop():
    weight = np.random.default_rng(0).normal(size=(3 * 8, 5)).astype(np.float32)
    assert np.array_equal(unpermute(tiny_gguf.interleave(weight, 3), 3), weight)
    assert not np.array_equal(tiny_gguf.interleave(weight, 3), weight)


def test_config_says_what_the_file_says(converted):
    config = json.loads((converted / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 50_000.0
    assert config["rms_norm_eps"] == 1e-5
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (4, 2, 8)
    assert config["tie_word_embeddings"] is True
    generation = json.loads((converted / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def test_padding_is_never_the_end_token(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 0)


@pytest.mark.parametrize("text", TEXTS)
def test_tokenizer_encodes_as_the_one_put_in(converted, text):
    ids = Tokenizer.from_file(str(converted / "tokenizer.json")).encode(text).ids
    assert ids == tiny_gguf.small_tokenizer().encode(text).ids
    assert ids == AutoTokenizer.from_pretrained(converted)(text)["input_ids"]
    assert Tokenizer.from_file(str(converted / "tokenizer.json")).decode(ids) == text


def test_control_tokens_are_special_and_whole(converted):
    tokenizer = Tokenizer.from_file(str(converted / "tokenizer.json"))
    assert tokenizer.encode("<|im_start|>a<|im_end|>").ids == [1, tokenizer.token_to_id("a"), 2]
    assert tokenizer.decode([1, tokenizer.token_to_id("a"), 2], skip_special_tokens=True) == "a"


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("smollm", "x 123's\n\n y", ["x", "Ġ", "1", "2", "3", "'s", "ĊĊ", "Ġy"]),
        ("gpt-2", "x 123's\n\n y", ["x", "Ġ123", "'s", "ĊĊ", "Ġy"]),
        ("llama-bpe", "x 1234'S\n\n y", ["x", "Ġ", "123", "4", "'S", "ĊĊ", "Ġy"]),
        ("qwen2", "x 1234'S\n\n y", ["x", "Ġ", "1", "2", "3", "4", "'S", "ĊĊ", "Ġy"]),
    ],
)
def test_text_is_cut_as_the_file_says(tmp_path, pre, text, pieces):
    convert(tiny_gguf.write_gguf(tmp_path / "tiny.gguf", **{"tokenizer.ggml.pre": pre}), tmp_path)
    cut = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).pre_tokenizer.pre_tokenize_str(text)
    assert [piece for piece, _ in cut] == pieces


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "gemma"}, "architecture 'gemma'; GGUF files can be converted for llama"),
        ({"llama.rope.scaling.type": "yarn"}, "scaled rotary positions"),
        ({"llama.brand_new": 3}, r"sets llama\.brand_new, which the conversion does not know"),
        ({"llama.attention.sliding_window": 4}, r"sets llama\.attention\.sliding_window"),
        ({"llama.attention.value_length": 16}, "value_length is 16, heads are 8 wide"),
        ({"llama.rope.dimension_count": 4}, "dimension_count is 4, heads are 8 wide"),
        ({"tokenizer.ggml.model": "llama"}, "only byte-level BPE"),
        ({"tokenizer.ggml.pre": "tekken"}, "known: default, gpt-2"),
        ({"llama.block_count": None}, r"no field 'llama\.block_count'"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_a_reason(tmp_path, changes, message):
    with pytest.raises(ModelError, match=message):
        convert(tiny_gguf.write_gguf(tmp_path / "tiny.gguf", **changes), tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"GGUF\x03\x00\x00\x00"])
def test_a_file_that_is_not_gguf_is_a_model_error(tmp_path, content):
    (tmp_path / "broken.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=r"broken\.gguf cannot be read as GGUF"):
        convert(tmp_path / "broken.gguf", tmp_path)


def test_a_truncated_file_is_a_model_error(tmp_path):
    whole = tiny_gguf.write_gguf(tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) * 3 // 4])
    with pytest.raises(ModelError, match=r"cut\.gguf cannot be read as GGUF"):
        convert(tmp_path / "cut.gguf", tmp_path)


def test_every_end_token_of_the_file_stops_replies(tmp_path):
    path = tiny_gguf.write_gguf(tmp_path / "tiny.gguf", **{"tokenizer.ggml.eot_token_id": 0})
    (tmp_path / "out").mkdir()
    convert(path, tmp_path / "out")
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2, 0]
