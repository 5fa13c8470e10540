"""Continuous batching of many clients against a sampler for each of them, alone."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest

from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine.base import AdamStep, Handle, ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.models.base import FrozenAdapter
from thumbs.records import Example
from thumbs.rollout import batch, runner, scheduler
from thumbs.rollout.native import DecodingLoop, NativeSampler
from thumbs.rollout.sampler import DecodingParams, PromptQuery, SampleReply, SampleRequest

PARAMS = DecodingParams(max_new_tokens=12, stop_tokens=(5,), temperature=0.9)


@pytest.fixture
def engine() -> LocalEngine:
    return LocalEngine()


def adapted(engine: LocalEngine, model: ModelConfig, seed: int, steps: int = 3) -> Handle:
    """A model whose adapter has been trained a little, on text of its own."""
    handle = engine.create(ModelSpec(f"client {seed}", model, adapter_seed=seed))
    tokens = np.random.default_rng(seed).integers(6, 90, 24)
    for _ in range(steps):
        engine.forward_backward(handle, [Example.next_token(tokens, weights=np.ones(23))], [CROSS_ENTROPY])
        engine.optim_step(handle, AdamStep(0.02, 0.0))
    return handle


def frozen(engine: LocalEngine, handle: Handle) -> FrozenAdapter:
    """Its adapter as it is now."""
    model = engine.model(handle)
    return model.trunk.freeze(model.adapter)


def drive(loop: DecodingLoop) -> None:
    while not loop.idle:
        loop.step()


def tokens_of(reply: Future[SampleReply]) -> list[list[int]]:
    return [sample.tokens.tolist() for sample in reply.result(0).samples]


@pytest.mark.parametrize("lora", [AdapterConfig(rank=4), AdapterConfig(rank=3, layers=1)])
def test_each_client_gets_what_it_would_get_alone(engine, tiny_llama, lora):
    """Three adapters and the bare base, in one batch and arriving one after the other."""
    model = ModelConfig(name=str(tiny_llama), lora=lora, dtype="float32")
    handles = [adapted(engine, model, seed) for seed in (1, 2, 3)]
    bare = engine.create(ModelSpec("base", model))
    base = engine.frozen_base(model)
    adapters = [frozen(engine, handle) for handle in handles]
    loop = DecodingLoop(base)
    samplers = [NativeSampler(loop, 3, adapter, who) for who, adapter in enumerate([*adapters, None])]
    rng, asked = np.random.default_rng(0), []
    for number in range(12):
        who = number % 4
        prompt = rng.integers(6, 90, int(rng.integers(1, 30))).tolist()
        request = SampleRequest(prompt, replace(PARAMS, max_new_tokens=4 + 3 * (number % 5)), [number, 100 + number])
        asked.append((who, request, *samplers[who].submit([request])))
        loop.step()
    drive(loop)
    lengths = set()
    for who, request, reply in asked:
        alone = engine.snapshot([*handles, bare][who])
        expected = alone.sample([request.prompt] * 2, request.params, request.seeds)
        for ours, sample in zip(reply.result(0).samples, expected, strict=True):
            assert ours.tokens.tolist() == sample.tokens.tolist()
            np.testing.assert_allclose(ours.logprobs, sample.logprobs, atol=2e-5)
            assert ours.stop_reason == sample.stop_reason
            lengths.add(len(ours.tokens))
    assert len(lengths) > 3  # rows did leave at different times


@pytest.mark.parametrize("base_first", [True, False])
def test_the_base_and_one_adapter_decode_side_by_side(engine, tiny_llama, base_first):
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    handle, bare = adapted(engine, model, 1), engine.create(ModelSpec("base", model))
    loop = DecodingLoop(engine.frozen_base(model))
    clients = [(bare, None), (handle, frozen(engine, handle))][:: 1 if base_first else -1]
    request = SampleRequest([7, 8, 9], PARAMS, [3])
    replies = [NativeSampler(loop, 0, adapter, who).submit([request])[0] for who, (_, adapter) in enumerate(clients)]
    drive(loop)
    found = [tokens_of(reply)[0] for reply in replies]
    assert found == [engine.snapshot(h).sample([[7, 8, 9]], PARAMS, [3])[0].tokens.tolist() for h, _ in clients]
    assert found[0] != found[1]


def test_a_sampler_stays_as_it_was_when_its_client_trains_on(engine, tiny_llama):
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    handle = adapted(engine, model, 1)
    adapter, base = frozen(engine, handle), engine.frozen_base(model)
    found = []
    for _ in range(2):
        found.append(NativeSampler(DecodingLoop(base), 0, adapter).sample([[7, 8, 9]], PARAMS, [3])[0].tokens.tolist())
        engine.forward_backward(handle, [Example.next_token([7, 8, 9, 10], weights=np.ones(3))], [CROSS_ENTROPY])
        engine.optim_step(handle, AdamStep(0.5, 0.0))
    assert found[0] == found[1]


def test_settings_differ_by_request(engine, tiny_llama):
    """Greedy, top-k and stop strings side by side; greedy is the argmax of the training pass."""
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    handle = adapted(engine, model, 1)
    alone = engine.snapshot(handle)
    alone.loop.decode_text = lambda tokens: " ".join(map(str, tokens))
    stop = str(alone.sample([[7, 8]], PARAMS, [4])[0].tokens[3])
    settings = [
        replace(PARAMS, temperature=0.0),
        replace(PARAMS, top_k=3),
        replace(PARAMS, stop_strings=(f" {stop}",)),
        PARAMS,
    ]
    loop = DecodingLoop(engine.frozen_base(model), alone.loop.decode_text)
    sampler = NativeSampler(loop, 0, frozen(engine, handle))
    replies = sampler.submit([SampleRequest([7, 8], each, [4]) for each in settings])
    drive(loop)
    for reply, each in zip(replies, settings, strict=True):
        assert tokens_of(reply) == [alone.sample([[7, 8]], each, [4])[0].tokens.tolist()]
    (stopped,) = replies[2].result(0).samples
    assert stopped.stop_reason == "stop"
    assert len(stopped.tokens) <= 4


def test_prompt_logprobs_are_those_of_training(engine, tiny_llama):
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    handle = adapted(engine, model, 1)
    prompt = np.random.default_rng(1).integers(6, 90, 40).tolist()
    query = PromptQuery(logprobs=True, top=3)
    sampler = NativeSampler(DecodingLoop(engine.frozen_base(model)), 0, frozen(engine, handle))
    reply = sampler.submit([SampleRequest(prompt, PARAMS, [0], top=2, about_prompt=query)])[0].result()
    about = reply.prompt
    expected = engine.forward(handle, [Example.next_token(prompt)])[0].logprobs
    np.testing.assert_allclose(about.logprobs, expected, atol=1e-5)
    assert [len(top) for top in about.top] == [3] * 39
    for token, logprob, top in zip(prompt[1:], expected, about.top, strict=True):
        assert sorted((lp for _, lp in top), reverse=True) == [lp for _, lp in top]
        assert dict(top).get(token, logprob) == pytest.approx(logprob, abs=1e-5)
        assert top[0][1] >= logprob - 1e-5
    for token, logprob, top in zip(reply.samples[0].tokens, reply.samples[0].logprobs, reply.top[0], strict=True):
        assert dict(top).get(token, logprob) == pytest.approx(logprob, abs=1e-5)


def test_clients_take_turns(engine, tiny_llama, monkeypatch):
    """One that asked for far more first does not make the other wait for all of it."""
    monkeypatch.setattr(scheduler, "MAX_ROWS", 4)
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    loop, finished = DecodingLoop(engine.frozen_base(model)), []
    many = [SampleRequest([7, 8, i], PARAMS, range(3)) for i in range(10)]
    greedy = NativeSampler(loop, 0, client="greedy").submit(many)
    modest = NativeSampler(loop, 0, client="modest").submit([SampleRequest([9], PARAMS, [0])])
    for number, reply in enumerate([*greedy, *modest]):
        reply.add_done_callback(lambda _, number=number: finished.append(number))
    drive(loop)
    assert len(finished) == 11
    assert finished.index(10) <= 2


def test_a_request_with_more_samples_than_rows_and_a_cancelled_one(engine, tiny_llama, monkeypatch):
    monkeypatch.setattr(scheduler, "MAX_ROWS", 4)
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    sampler = NativeSampler(DecodingLoop(engine.frozen_base(model)), 0)
    large, gone = sampler.submit(
        [
            SampleRequest([7], PARAMS, range(11)),
            SampleRequest([8], replace(PARAMS, max_new_tokens=60), range(2)),
        ]
    )
    sampler.loop.step()
    assert gone.cancel()
    drive(sampler.loop)
    assert tokens_of(large) == [s.tokens.tolist() for s in sampler.sample([[7]] * 11, PARAMS, range(11))]


def test_a_long_reply_outgrows_its_cache(engine, tiny_llama, monkeypatch):
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    params = replace(PARAMS, max_new_tokens=30, stop_tokens=())
    requests = [SampleRequest([7] * n, params, [n]) for n in (1, 9)]
    sampler = engine.snapshot(engine.create(ModelSpec("base", model)))
    expected = [sampler.sample([request.prompt], params, request.seeds)[0].tokens.tolist() for request in requests]
    monkeypatch.setattr(batch, "ROOM", 4)
    monkeypatch.setattr(runner, "ROOM", 4)
    replies = []
    for request in requests:
        replies += sampler.submit([request])
        sampler.loop.step()
    drive(sampler.loop)
    assert [tokens_of(reply)[0] for reply in replies] == expected


def test_a_failed_pass_takes_back_its_own_gradients_only(engine, tiny_llama):
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    good = [Example.next_token([7, 8, 9, 10], weights=np.ones(3))]
    bad = [
        *(Example.next_token([7] * 1500, weights=np.ones(1499)) for _ in range(2)),
        Example.next_token([7, 8], weights=[np.inf]),
    ]
    norms = []
    for disturbed in (False, True):
        handle = engine.create(ModelSpec("client", model))
        list(engine.in_parts(handle, good, [CROSS_ENTROPY]))
        if disturbed:
            with pytest.raises(ArithmeticError):
                list(engine.in_parts(handle, bad, [CROSS_ENTROPY]))
            list(engine.in_parts(handle, good, [CROSS_ENTROPY], backward=False))
        norms.append(engine.optim_step(handle, AdamStep(0.1, 0.0)).grad_norm)
    assert norms[0] == norms[1] > 0


def test_rows_fit_the_caches_bound(engine, tiny_llama, monkeypatch):
    """Four requests that reach 20 tokens each, in room for 45, decode two at a time; one that reaches more, alone."""
    monkeypatch.setattr(scheduler, "CACHE_TOKENS", 45)
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    loop, params = DecodingLoop(engine.frozen_base(model)), replace(PARAMS, max_new_tokens=12, stop_tokens=())
    replies = [
        *(
            reply
            for client, length in enumerate([8, 8, 8, 8, 50])
            for reply in NativeSampler(loop, 0, client=client).submit([SampleRequest([7] * length, params, [client])])
        )
    ]
    drawn = []
    while not loop.idle:
        drawn.append(loop.step())
    assert max(drawn) == 2
    assert [len(tokens_of(reply)[0]) for reply in replies] == [12] * 5


@pytest.mark.parametrize("company", [False, True])
def test_a_client_alone_reads_its_prompts_before_it_draws(engine, tiny_llama, monkeypatch, company):
    """Two prompts fit into a step; a client alone reads all five first, next to another it draws after each step."""
    monkeypatch.setattr(scheduler, "PREFILL_TOKENS", 8)
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    loop, params = DecodingLoop(engine.frozen_base(model)), replace(PARAMS, stop_tokens=())
    if company:
        NativeSampler(loop, 0, client="other").submit([SampleRequest([6], params, [0])])
        assert loop.step() == 1
    NativeSampler(loop, 0, client="ours").submit([SampleRequest([7, 8, 9, 10, i], params, [i]) for i in range(5)])
    drawn = [loop.step() for _ in range(4)]
    assert drawn == ([3, 5, 6, 6] if company else [0, 0, 5, 5])


def test_a_client_alone_gathers_room_before_it_reads_on(engine, tiny_llama, monkeypatch):
    """Eight rows; when one is done the next prompt waits, unless there is room for all that waits."""
    monkeypatch.setattr(scheduler, "MAX_ROWS", 8)
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    for waiting, expected in ((3, [8, 8, 7, 8]), (1, [8, 8, 8, 7])):
        sampler = NativeSampler(DecodingLoop(engine.frozen_base(model)), 0)
        lengths = [2, 3, *[9] * 6]
        sampler.submit([SampleRequest([7], DecodingParams(n, ()), [i]) for i, n in enumerate(lengths)])
        sampler.submit([SampleRequest([8], DecodingParams(9, ()), [i]) for i in range(waiting)])
        assert [sampler.loop.step() for _ in range(4)] == expected


def test_an_error_is_handed_to_all_who_wait_and_the_next_are_served(engine, tiny_llama, monkeypatch):
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    sampler = NativeSampler(DecodingLoop(engine.frozen_base(model)), 0)
    expected = sampler.sample([[7, 8]], PARAMS, [1])[0].tokens.tolist()
    monkeypatch.setattr(scheduler, "MAX_ROWS", 2)

    def crash(*news):
        raise RuntimeError("the device is lost")

    one = replace(PARAMS, max_new_tokens=1)  # complete in the step that fails, and not answered yet
    replies = sampler.submit(
        [SampleRequest([6], one, [1]), SampleRequest([7, 8], PARAMS, [1], on_token=crash), SampleRequest([9], one, [1])]
    )
    assert sampler.loop.step() == 0
    assert sampler.loop.idle
    for reply in replies:
        with pytest.raises(RuntimeError, match="the device is lost"):
            reply.result()
    with monkeypatch.context() as patch:
        patch.setattr(sampler.loop.model, "prefill", crash)
        with pytest.raises(RuntimeError, match="the device is lost"):
            sampler.sample([[7, 8]], PARAMS, [1])
    assert sampler.sample([[7, 8]], PARAMS, [1])[0].tokens.tolist() == expected
