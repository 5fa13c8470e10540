"""The fallback against transformers' own logits, one sequence at a time, without padding or cache."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    PhiConfig,
    PretrainedConfig,
)

from thumbs.errors import ModelError
from thumbs.models.hf import HfCausalLM, load_hf

SEQUENCES = [[5, 9, 2, 7, 1, 3], [8, 4], [11, 12, 13, 14, 15, 16, 17, 18, 19], [6]]
SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
FAMILIES = {
    "learned positions": GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32),
    "partial rotary": GPTNeoXConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    ),
    "ALiBi": BloomConfig(vocab_size=40, hidden_size=16, n_layer=2, n_head=2),
    "a bias on the logits": PhiConfig(**{k: v for k, v in SMALL.items() if k != "head_dim"}),
    "divided logits": GraniteConfig(**SMALL, logits_scaling=8.0),
    "multiplied logits": CohereConfig(**SMALL, logit_scale=0.25),
}


def save_random(config: PretrainedConfig, folder) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.fixture(params=FAMILIES)
def folder(request, tmp_path):
    save_random(FAMILIES[request.param], tmp_path)
    return tmp_path


@pytest.fixture
def model(folder) -> HfCausalLM:
    return load_hf(folder, torch.float32)


@torch.no_grad()
def logits_of_each(folder) -> list[torch.Tensor]:
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return [reference(torch.tensor([sequence])).logits[0] for sequence in SEQUENCES]


def packed(sequences: list[list[int]]) -> tuple[torch.Tensor, list[int]]:
    return torch.tensor([token for sequence in sequences for token in sequence]), [len(s) for s in sequences]


@torch.no_grad()
def test_packed_logits_are_those_of_each_sequence_alone(folder, model):
    logits = model.forward_packed(*packed(SEQUENCES)) @ model.head_weight().T
    torch.testing.assert_close(logits, torch.cat(logits_of_each(folder)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_packed_sequences_do_not_see_each_other(model):
    changed = [SEQUENCES[0], [30, 31], [21] * 9, SEQUENCES[3]]
    before, after = (model.forward_packed(*packed(s)) for s in (SEQUENCES, changed))
    torch.testing.assert_close(before[:6], after[:6], atol=1e-6, rtol=0)
    torch.testing.assert_close(before[-1:], after[-1:], atol=1e-6, rtol=0)
    assert not torch.allclose(before[6:8], after[6:8], atol=1e-3)


@torch.no_grad()
def test_prefill_and_decode_give_the_logits_of_a_whole_pass(folder, model):
    expected = logits_of_each(folder)
    cache = model.new_cache(3, 16)
    hidden = [model.prefill([SEQUENCES[0][:3], SEQUENCES[1][:1], SEQUENCES[2][:6]], cache)]
    hidden.append(model.decode(torch.tensor([SEQUENCES[0][3], SEQUENCES[1][1], SEQUENCES[2][6]]), cache))
    cache.select(torch.tensor([2, 0, 2]))
    hidden.append(model.decode(torch.tensor([SEQUENCES[2][7], SEQUENCES[0][4], 33]), cache))
    cache.select(torch.tensor([0, 1]))
    hidden.append(model.decode(torch.tensor([SEQUENCES[2][8], SEQUENCES[0][5]]), cache))
    rows = [
        [expected[0][2], expected[1][0], expected[2][5]],
        [expected[0][3], expected[1][1], expected[2][6]],
        [expected[2][7], expected[0][4], None],
        [expected[2][8], expected[0][5]],
    ]
    for got, wanted in zip(hidden, rows, strict=True):
        for row, logits in zip(got @ model.head_weight().T, wanted, strict=True):
            if logits is not None:
                torch.testing.assert_close(row, logits, atol=1e-5, rtol=0)


def test_saved_model_loads_to_the_same_weights(model, tmp_path):
    model.model.save_pretrained(tmp_path / "saved")
    again = load_hf(tmp_path / "saved", torch.float32)
    assert not list((tmp_path / "saved").glob("*.bin"))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_gradients_reach_the_embedding_without_dropout(tmp_path):
    save_random(FAMILIES["learned positions"], tmp_path)
    model = load_hf(tmp_path, torch.float32).train()
    first, second = (model.forward_packed(*packed(SEQUENCES)) for _ in range(2))
    assert torch.equal(first, second)
    first.sum().backward()
    assert model.head_weight().grad is not None


def test_sizes_are_those_of_the_config(tmp_path):
    save_random(FAMILIES["learned positions"], tmp_path)
    model = load_hf(tmp_path, torch.bfloat16)
    assert (model.vocab_size, model.width, model.context) == (40, 16, 32)
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Gemma2Config(**SMALL, final_logit_softcapping=0.01), "caps or projects"),
        (Gemma2Config(**SMALL, final_logit_softcapping=30.0), "caps or projects"),
    ],
)
def test_heads_that_do_more_than_a_product_are_refused(tmp_path, config, reason):
    save_random(config, tmp_path)
    with pytest.raises(ModelError, match=reason):
        load_hf(tmp_path, torch.float32)


def test_pickled_weights_are_refused(tmp_path):
    save_random(FAMILIES["learned positions"], tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="Pickled weights"):
        load_hf(tmp_path, torch.float32)
