"""What is particular to one process: one frozen base for many models, and states computed once."""

import numpy as np
import pytest
import torch

from contract.engine_cases import PPO, SEQUENCES, ppo_data, step, text_data
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine import shared_states
from thumbs.engine.base import ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.errors import ConfigError
from thumbs.models import invariant
from thumbs.records import Example
from tiny_models import random_sequences, save_random

LORA = {"all layers": AdapterConfig(rank=4), "last layer": AdapterConfig(rank=4, layers=1)}


def spec(folder, lora, **settings):
    model = ModelConfig(name=str(folder), lora=lora, dtype="float32")
    return ModelSpec(**{"name": "policy", "model": model, "heads": ("lm", "scalar"), **settings})


def numbers(outputs):
    return [(o.logprobs.tolist(), o.values.tolist()) for o in outputs]


def trunk_of(engine, handle):
    return engine.model(handle).trunk


@pytest.mark.parametrize("lora", LORA.values(), ids=LORA)
def test_models_with_adapters_share_one_base_and_do_not_disturb_each_other(tiny_llama, lora):
    engine, data = LocalEngine(), ppo_data(SEQUENCES)
    policy, critic = (engine.create(spec(tiny_llama, lora, name=name, seed=7)) for name in ("policy", "critic"))
    pointers = [[p.data_ptr() for p in trunk_of(engine, handle).parameters()] for handle in (policy, critic)]
    assert pointers[0] == pointers[1]
    base = [p.clone() for p in trunk_of(engine, policy).parameters()]
    before = numbers(engine.forward(critic, data))
    for _ in range(3):
        step(engine, policy, data, PPO)
    assert numbers(engine.forward(critic, data)) == before
    assert numbers(engine.forward(policy, data)) != before
    assert all(torch.equal(p, b) for p, b in zip(trunk_of(engine, policy).parameters(), base, strict=True))
    assert all(p.grad is None and not p.requires_grad for p in trunk_of(engine, policy).parameters())


def test_fully_trained_models_have_weights_of_their_own(tiny_llama):
    engine, data = LocalEngine(), ppo_data(SEQUENCES)
    policy, reference = engine.create(spec(tiny_llama, None)), engine.create(spec(tiny_llama, None, trainable=False))
    before = numbers(engine.forward(reference, data))
    step(engine, policy, data, PPO)
    assert numbers(engine.forward(reference, data)) == before
    assert numbers(engine.forward(policy, data)) != before


def test_loading_fills_the_weights_that_are_there(tiny_llama, tmp_path):
    """New tensors would lie on the CPU, whatever the device of the model."""
    engine = LocalEngine()
    handle = engine.create(spec(tiny_llama, None))
    before = [p.data_ptr() for p in trunk_of(engine, handle).parameters()]
    engine.save(handle, tmp_path / "saved")
    engine.load(handle, tmp_path / "saved")
    assert [p.data_ptr() for p in trunk_of(engine, handle).parameters()] == before


def test_parameters_are_counted(tiny_llama):
    """Base: 97·32 + 32 + 2·(2·32 + 64·32 + 32·32 + 96·32 + 32·48); adapters of rank 4 on every projection."""
    engine = LocalEngine()
    base = 97 * 32 + 32 + 2 * (2 * 32 + 64 * 32 + 32 * 32 + 96 * 32 + 32 * 48)
    widths = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 48), (32, 48), (48, 32)]
    adapter, head = sum(4 * (a + b) for a, b in widths), 33
    every, last = (spec(tiny_llama, lora) for lora in LORA.values())
    alone = spec(tiny_llama, LORA["all layers"], freeze_trunk=True)
    sizes = [engine.size(engine.create(each)) for each in (spec(tiny_llama, None), every, last, alone)]
    assert [(size.trained, size.parameters) for size in sizes] == [
        (base + head, base + head),
        (2 * adapter + head, base + 2 * adapter + head),
        (adapter + head, base + adapter + head),
        (head, base + 2 * adapter + head),
    ]
    assert {(size.width, size.dtype, size.trunk_bytes) for size in sizes} == {(32, "float32", 4 * base)}


def test_shared_states_give_the_same_bits_whatever_was_asked_before(tiny_llama, monkeypatch):
    """A resumed run starts with nothing remembered and must find the numbers of the uninterrupted one."""
    monkeypatch.setattr(shared_states, "CAPACITY", 60)
    used, fresh = LocalEngine(), LocalEngine()
    for engine in (used, fresh):
        engine.handle = engine.create(spec(tiny_llama, LORA["last layer"]))
    rng = np.random.default_rng(0)
    for _ in range(30):
        asked = [Example.next_token(SEQUENCES[i]) for i in rng.permutation(6)[: rng.integers(1, 6)]]
        used.forward(used.handle, [*asked, Example.next_token(random_sequences(int(rng.integers(99)), [11])[0])])
    data = ppo_data(SEQUENCES)
    assert numbers(used.forward(used.handle, data)) == numbers(fresh.forward(fresh.handle, data))
    for _ in range(2):
        assert step(used, used.handle, data, PPO) == step(fresh, fresh.handle, data, PPO)
    assert numbers(used.forward(used.handle, data)) == numbers(fresh.forward(fresh.handle, data))


def test_shared_states_forget_the_least_recently_used(tiny_llama, monkeypatch):
    monkeypatch.setattr(shared_states, "CAPACITY", 25)
    engine = LocalEngine()
    handle = engine.create(spec(tiny_llama, LORA["last layer"]))
    a, b, c = (Example.next_token(s) for s in random_sequences(3, [11, 11, 11]))
    states = engine.model(handle).below
    for datum in (a, b, a, c):  # ten tokens each: two fit
        engine.forward(handle, [datum])
    assert list(states._known) == [d.inputs.tobytes() for d in (a, c)]
    whole = Example.next_token(random_sequences(4, [60])[0])
    engine.forward(handle, [whole])
    assert list(states._known) == [whole.inputs.tobytes()]


def test_a_sequence_without_its_last_token_is_not_computed_again(tiny_llama, monkeypatch):
    """PPO scores replies as a whole and trains on them without the last token."""
    engine = LocalEngine()
    handle = engine.create(spec(tiny_llama, LORA["last layer"]))
    computed, compute = [], invariant.invariant_states
    monkeypatch.setattr(
        invariant,
        "invariant_states",
        lambda trunk, layers, asked: computed.append(asked) or compute(trunk, layers, asked),
    )
    a, b = random_sequences(3, [11, 7])
    engine.forward(handle, [Example.whole_sequence(s) for s in (a, b)])
    found = engine.forward(handle, [Example.next_token(s) for s in (a, b)])
    assert [[list(s) for s in asked] for asked in computed] == [[a, b]]
    fresh = LocalEngine()
    wanted = fresh.forward(fresh.create(spec(tiny_llama, LORA["last layer"])), [Example.next_token(s) for s in (a, b)])
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours.logprobs, theirs.logprobs, atol=1e-5)


def test_states_of_the_shared_part_equal_the_whole_pass(tiny_llama):
    """All layers adapted runs every layer; with B = 0 both are the base."""
    engine, data = LocalEngine(), text_data(SEQUENCES)
    whole, above = (engine.forward(engine.create(spec(tiny_llama, lora)), data) for lora in LORA.values())
    for a, b in zip(whole, above, strict=True):
        np.testing.assert_allclose(a.logprobs, b.logprobs, atol=1e-5)


def test_adapters_and_full_weights_do_not_start_from_each_other(tiny_llama):
    engine = LocalEngine()
    full = engine.create(spec(tiny_llama, None))
    with pytest.raises(ConfigError, match="cannot start from one without"):
        engine.create(spec(tiny_llama, LORA["all layers"], start=full))


@pytest.mark.parametrize("lora", [None, LORA["all layers"]], ids=["every weight", "adapters"])
def test_other_architectures_train(tmp_path, lora):
    """GPT-2, say, through transformers: trained, saved, loaded, sampled."""
    from transformers import GPT2Config

    from thumbs.rollout.sampler import DecodingParams

    config = GPT2Config(vocab_size=97, n_embd=16, n_layer=1, n_head=2, n_positions=40)
    folder = save_random(config, tmp_path / "gpt2")
    engine, data = LocalEngine(), ppo_data(SEQUENCES)
    handle = engine.create(spec(folder, lora))
    first, _ = step(engine, handle, data, PPO)
    for _ in range(4):
        last, _ = step(engine, handle, data, PPO)
    assert last < first
    engine.save(handle, tmp_path / "saved", optimizer=True)
    again = engine.create(spec(folder, lora))
    engine.load(again, tmp_path / "saved")
    assert step(engine, again, data, PPO) == step(engine, handle, data, PPO)
    replies = engine.snapshot(handle).sample([[5, 6], [7]], DecodingParams(8, (1,)), [0, 1])
    whole = [Example.next_token([*p, *r.tokens]) for p, r in zip([[5, 6], [7]], replies, strict=True)]
    for reply, output in zip(replies, engine.forward(handle, whole), strict=True):
        np.testing.assert_allclose(reply.logprobs, output.logprobs[-len(reply.tokens) :], atol=1e-3)


def test_the_seed_of_a_byte_model_is_part_of_its_base():
    engine, model = LocalEngine(), ModelConfig(name="byte-tiny", lora=LORA["last layer"], dtype="float32")
    one, same, other = (engine.create(ModelSpec("policy", model, seed=seed)) for seed in (1, 1, 2))
    assert trunk_of(engine, one) is trunk_of(engine, same)
    assert trunk_of(engine, one) is not trunk_of(engine, other)
