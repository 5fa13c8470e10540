"""Our decoder against transformers, one sequence at a time, in float32."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GemmaConfig, GPT2Config, LlamaConfig, MistralConfig

from thumbs.errors import ModelError
from thumbs.models.byte_lm import build_byte_lm
from thumbs.models.catalog import resolve
from thumbs.models.causal_lm import load_decoder, merged_copy, prepack_decoder, prepacked_layer
from thumbs.models.decoder_config import read_config, why_not_covered, write_config
from thumbs.models.prepacked import prepack
from thumbs.models.rows import Rows
from tiny_models import BEYOND_LLAMA, FAMILIES, SHAPE, load_reference, logits_of_each, random_sequences, save_random

SEQUENCES = random_sequences(1, [7, 1, 12, 3, 12])
PROMPTS = [4, 1, 12, 2]  # of the first four sequences, so many tokens are prefilled


@pytest.fixture(scope="module", params=[*FAMILIES, *BEYOND_LLAMA])
def folder(request, tmp_path_factory):
    return save_random((FAMILIES | BEYOND_LLAMA)[request.param], tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder):
    return load_decoder(folder, torch.float32, master=False)


@pytest.fixture(scope="module")
def expected(folder):
    return logits_of_each(load_reference(folder), SEQUENCES)


@torch.no_grad()
def packed_logits(model, sequences):
    """Logits of sequences laid end to end, one tensor a sequence."""
    lengths = [len(s) for s in sequences]
    hidden = model.forward_packed(torch.tensor([t for s in sequences for t in s]), lengths)
    return list(model.logits(hidden).split(lengths))


@torch.no_grad()
def cached_logits(model, sequences, prompts):
    """For each sequence, the logits at the last token of its prompt and at every token after it, with the cache."""
    cache = model.new_cache(len(sequences), max(map(len, sequences)))
    hidden = model.prefill([s[:n] for s, n in zip(sequences, prompts, strict=True)], cache)
    found = [[row] for row in model.logits(hidden)]
    live = list(range(len(sequences)))
    for step in range(max(map(len, sequences))):
        keep = [place for place, i in enumerate(live) if prompts[i] + step < len(sequences[i])]
        if not keep:
            break
        cache.select(torch.tensor(keep))
        live = [live[place] for place in keep]
        hidden = model.decode(torch.tensor([sequences[i][prompts[i] + step] for i in live]), cache)
        for i, row in zip(live, model.logits(hidden), strict=True):
            found[i].append(row)
    return [torch.stack(rows) for rows in found]


def assert_same(got, wanted):
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_packed_logits_are_those_of_each_sequence_alone(model, expected):
    assert_same(packed_logits(model, SEQUENCES), expected)


def test_logits_of_a_sequence_alone(model, expected):
    assert_same([packed_logits(model, [s])[0] for s in SEQUENCES], expected)


def test_logits_of_equally_long_sequences(model, expected):
    """No padding at all, which takes a shorter way through the code."""
    assert_same(packed_logits(model, [SEQUENCES[2], SEQUENCES[4]]), [expected[2], expected[4]])


def test_prefill_and_decode_give_the_logits_of_a_whole_pass(model, expected):
    got = cached_logits(model, SEQUENCES[:4], PROMPTS)
    assert_same(got, [e[n - 1 :] for e, n in zip(expected, PROMPTS, strict=False)])


def test_prepacked_weights_give_the_same_logits(model, expected):
    """As they are sampled from; the lowest layer is handed over, the other one is prepacked in a copy."""
    lowest = [prepacked_layer(model.blocks[0])]
    sampled = prepack_decoder(merged_copy(model, None, torch.float32), lowest)
    assert sampled.blocks[0] is lowest[0]
    for layer in sampled.blocks:
        packed = prepack(model.blocks[0].down)
        assert (layer.down.shape, layer.down.is_mkldnn) == (packed.shape, packed.is_mkldnn)
    got = cached_logits(sampled, SEQUENCES[:4], PROMPTS)
    assert_same(got, [e[n - 1 :] for e, n in zip(expected, PROMPTS, strict=False)])
    assert_same(packed_logits(model, SEQUENCES), expected)  # the copied model is as it was


@torch.no_grad()
def test_a_repeated_row_of_the_cache_goes_its_own_way(model, expected):
    cache = model.new_cache(1, 12)
    model.prefill([SEQUENCES[2][:5]], cache)
    cache.select(torch.tensor([0, 0]))
    other = (SEQUENCES[2][5] + 1) % 97
    model.decode(torch.tensor([other, SEQUENCES[2][5]]), cache)
    hidden = model.decode(torch.tensor([SEQUENCES[2][6]] * 2), cache)
    logits = model.logits(hidden)
    torch.testing.assert_close(logits[1], expected[2][6], atol=1e-4, rtol=0)
    assert (logits[0] - logits[1]).abs().max() > 1e-2


def test_packed_sequences_do_not_see_each_other(model):
    changed = [SEQUENCES[0], random_sequences(2, [1])[0], random_sequences(3, [12])[0], *SEQUENCES[3:]]
    before, after = packed_logits(model, SEQUENCES), packed_logits(model, changed)
    for i in (0, 3, 4):
        torch.testing.assert_close(before[i], after[i], atol=1e-6, rtol=0)
    assert (before[2] - after[2]).abs().max() > 1e-2


@torch.no_grad()
def test_states_taken_up_at_a_higher_layer_give_the_same_result(model):
    tokens, lengths = torch.tensor(SEQUENCES[0] + SEQUENCES[2]), [7, 12]
    whole = model.forward_packed(tokens, lengths)
    rows = Rows.of(lengths, tokens.device)
    below = model.run_layers(model.embed(tokens), rows, 0, 1)
    assert torch.equal(model.forward_above(below, rows, 1), whole)


def test_products_see_few_different_numbers_of_rows():
    seen = {n: Rows.of([n], torch.device("cpu"), [-1]).filled().count for n in range(1, 2049)}
    assert all(0 <= count - n < max(n // 16, 16) for n, count in seen.items())
    assert [sum(low < count <= 2 * low for count in set(seen.values())) for low in (256, 512, 1024)] == [16, 16, 16]


def test_what_is_written_is_read_again_and_loads_in_transformers(model, expected, tmp_path):
    config = write_config(model.config)
    assert why_not_covered(config) is None
    assert read_config(config) == model.config
    save_file(model.tensors(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_same(logits_of_each(load_reference(tmp_path), SEQUENCES), expected)


def test_transformers_reads_no_sliding_window_into_a_written_config(tmp_path):
    """MistralConfig has one of 4096 tokens unless its config.json says that there is none."""
    written = write_config(read_config(FAMILIES["mistral"].to_dict() | {"architectures": ["MistralForCausalLM"]}))
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert MistralConfig.from_pretrained(tmp_path).sliding_window is None


SCALED = {"rope_type": "dynamic", "factor": 8.0, "rope_theta": 1e4}
NOT_COVERED = {
    "scaled rope": (LlamaConfig(**SHAPE, rope_parameters=SCALED), "LlamaForCausalLM", "rotary scaling 'dynamic'"),
    "other activation": (LlamaConfig(**SHAPE, hidden_act="gelu"), "LlamaForCausalLM", "activation 'gelu'"),
    "biases": (LlamaConfig(**SHAPE, attention_bias=True), "LlamaForCausalLM", "biases"),
    "biases in the mlp": (LlamaConfig(**SHAPE, mlp_bias=True), "LlamaForCausalLM", "biases"),
    "gpt2": (GPT2Config(), "GPT2LMHeadModel", "GPT2LMHeadModel is none of our decoder's"),
    "gemma": (GemmaConfig(), "GemmaForCausalLM", "GemmaForCausalLM is none of our decoder's"),
}


@pytest.mark.parametrize("case", NOT_COVERED)
def test_what_our_decoder_would_compute_wrongly_is_refused(case):
    config, architecture, reason = NOT_COVERED[case]
    assert reason in str(why_not_covered(config.to_dict() | {"architectures": [architecture]}))


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_scaled_rope_in_the_older_spelling_is_refused(key):
    raw = {"architectures": ["LlamaForCausalLM"], "rope_scaling": {key: "dynamic", "factor": 2.0}}
    assert why_not_covered(raw) == "rotary scaling 'dynamic'"
    assert why_not_covered(raw | {"rope_scaling": None}) is None


def test_a_folder_that_is_not_a_whole_model_is_refused_by_name(tmp_path):
    save_random(FAMILIES["llama"], tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    save_file({k: v for k, v in state.items() if "layers.1.mlp.up" not in k}, file)
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight.* is missing"):
        load_decoder(tmp_path, torch.float32, master=False)
    save_file(state | {"model.norm.weight": torch.ones(5)}, file)
    with pytest.raises(ModelError, match=r"norm\.weight has shape \(5,\).*asks for \(32,\)"):
        load_decoder(tmp_path, torch.float32, master=False)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors: unreadable"):
        load_decoder(tmp_path, torch.float32, master=False)
    file.unlink()
    with pytest.raises(ModelError, match="has no model"):
        load_decoder(tmp_path, torch.float32, master=False)


def test_a_byte_model_is_a_llama(tmp_path):
    model = build_byte_lm("byte-tiny", 3, torch.float32)
    save_file(model.tensors(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(write_config(model.config)))
    sequences = [list(b"instruction"), list("ünïcode".encode())]
    assert_same(packed_logits(model, sequences), logits_of_each(load_reference(tmp_path), sequences))


def test_the_seed_makes_a_byte_model():
    first, again, other = (build_byte_lm("byte-tiny", seed, torch.float32).layers[1].qkv.detach() for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.std()) == pytest.approx(0.02, rel=0.02)
    with pytest.raises(ModelError, match="byte-tiny, byte-small"):
        build_byte_lm("byte-huge", 0, torch.float32)


@pytest.mark.real_model
def test_smollm2_equals_transformers():
    try:
        folder = resolve("smollm2-135m")
    except ModelError as error:
        pytest.skip(f"SmolLM2 weights cannot be had: {error}")
    sequences = random_sequences(4, [24, 9])
    wanted = logits_of_each(load_reference(folder), sequences)
    model = load_decoder(folder, torch.float32, master=False)
    assert_same(packed_logits(model, sequences), wanted)
    assert_same(cached_logits(model, sequences, [20, 6]), [wanted[0][19:], wanted[1][5:]])
