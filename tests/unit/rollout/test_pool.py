"""Continuous batching of many clients against a sampler for each of them, alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine.base import AdamStep, Handle, ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.records import Example
from thumbs.rollout import pool as pools
from thumbs.rollout.pool import SampleRequest, SamplingPool
from thumbs.rollout.sampler import DecodingParams

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


def run(pool: SamplingPool) -> list[SampleRequest]:
    finished = []
    while not pool.idle:
        finished += pool.step()
    return finished


def tokens_of(request: SampleRequest) -> list[list[int]]:
    return [reply.tokens for reply in request.replies]


@pytest.mark.parametrize("lora", [AdapterConfig(rank=4), AdapterConfig(rank=3, layers=1)])
def test_each_client_gets_what_it_would_get_alone(engine, tiny_llama, lora):
    """Three adapters and the bare base, in one batch and arriving one after the other."""
    model = ModelConfig(name=str(tiny_llama), lora=lora, dtype="float32")
    handles = [adapted(engine, model, seed) for seed in (1, 2, 3)]
    bare = engine.create(ModelSpec("base", model))
    base = engine.frozen_base(model)
    adapters = [engine.frozen_adapter(handle) for handle in handles]
    pool = SamplingPool(base, lambda tokens: "")
    rng, requests, finished = np.random.default_rng(0), [], []
    for number in range(12):
        who = number % 4
        prompt = rng.integers(6, 90, int(rng.integers(1, 30))).tolist()
        adapter = adapters[who] if who < 3 else None
        request = SampleRequest(
            who, prompt, replace(PARAMS, max_new_tokens=4 + 3 * (number % 5)), [number, 100 + number], adapter
        )
        requests.append((who, request))
        pool.add(request)
        finished += pool.step()
    finished += run(pool)
    assert sorted(map(id, finished)) == sorted(id(request) for _, request in requests)
    lengths = set()
    for who, request in requests:
        alone = engine.snapshot([*handles, bare][who])
        expected = alone.sample([request.prompt] * 2, request.params, request.seeds)
        for reply, sample in zip(request.replies, expected, strict=True):
            assert reply.tokens == sample.tokens.tolist()
            np.testing.assert_allclose(reply.logprobs, sample.logprobs, atol=2e-5)
            assert reply.stopped == (sample.stop_reason == "stop")
            lengths.add(len(reply.tokens))
    assert len(lengths) > 3  # rows did leave at different times


@pytest.mark.parametrize("base_first", [True, False])
def test_the_base_and_one_adapter_decode_side_by_side(engine, tiny_llama, base_first):
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    handle, bare = adapted(engine, model, 1), engine.create(ModelSpec("base", model))
    pool = SamplingPool(engine.frozen_base(model), lambda tokens: "")
    clients = [(bare, None), (handle, engine.frozen_adapter(handle))][:: 1 if base_first else -1]
    requests = [SampleRequest(who, [7, 8, 9], PARAMS, [3], adapter) for who, (_, adapter) in enumerate(clients)]
    for request in requests:
        pool.add(request)
    run(pool)
    found = [tokens_of(request)[0] for request in requests]
    assert found == [engine.snapshot(h).sample([[7, 8, 9]], PARAMS, [3])[0].tokens.tolist() for h, _ in clients]
    assert found[0] != found[1]


def test_a_sampler_stays_as_it_was_when_its_client_trains_on(engine, tiny_llama):
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    handle = adapted(engine, model, 1)
    adapter, base = engine.frozen_adapter(handle), engine.frozen_base(model)
    found = []
    for _ in range(2):
        pool = SamplingPool(base, lambda tokens: "")
        pool.add(SampleRequest(0, [7, 8, 9], PARAMS, [3], adapter))
        found.append(tokens_of(run(pool)[0]))
        engine.forward_backward(handle, [Example.next_token([7, 8, 9, 10], weights=np.ones(3))], [CROSS_ENTROPY])
        engine.optim_step(handle, AdamStep(0.5, 0.0))
    assert found[0] == found[1]


def test_settings_differ_by_request(engine, tiny_llama):
    """Greedy, top-k and stop strings side by side; greedy is the argmax of the training pass."""
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    handle = adapted(engine, model, 1)
    alone = engine.snapshot(handle)
    alone.decode_text = lambda tokens: " ".join(map(str, tokens))
    pool = SamplingPool(engine.frozen_base(model), alone.decode_text)
    stop = str(alone.sample([[7, 8]], PARAMS, [4])[0].tokens[3])
    settings = [
        replace(PARAMS, temperature=0.0),
        replace(PARAMS, top_k=3),
        replace(PARAMS, stop_strings=(f" {stop}",)),
        PARAMS,
    ]
    requests = [SampleRequest(0, [7, 8], each, [4], engine.frozen_adapter(handle)) for each in settings]
    for request in requests:
        pool.add(request)
    run(pool)
    for request, each in zip(requests, settings, strict=True):
        assert tokens_of(request) == [alone.sample([[7, 8]], each, [4])[0].tokens.tolist()]
    assert requests[2].replies[0].stopped
    assert len(requests[2].replies[0].tokens) <= 4


def test_prompt_logprobs_are_those_of_training(engine, tiny_llama):
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    handle = adapted(engine, model, 1)
    prompt = np.random.default_rng(1).integers(6, 90, 40).tolist()
    request = SampleRequest(
        0, prompt, PARAMS, [0], engine.frozen_adapter(handle), wants_prompt_logprobs=True, prompt_top=3, top=2
    )
    pool = SamplingPool(engine.frozen_base(model), lambda tokens: "")
    pool.add(request)
    run(pool)
    expected = engine.forward(handle, [Example.next_token(prompt)])[0].logprobs
    np.testing.assert_allclose(request.prompt_logprobs, expected, atol=1e-5)
    assert [len(top) for top in request.prompt_alternatives] == [3] * 39
    for token, logprob, top in zip(prompt[1:], expected, request.prompt_alternatives, strict=True):
        assert sorted((lp for _, lp in top), reverse=True) == [lp for _, lp in top]
        assert dict(top).get(token, logprob) == pytest.approx(logprob, abs=1e-5)
        assert top[0][1] >= logprob - 1e-5
    reply = request.replies[0]
    for token, logprob, top in zip(reply.tokens, reply.logprobs, reply.top, strict=True):
        assert dict(top).get(token, logprob) == pytest.approx(logprob, abs=1e-5)


def test_tokens_are_told_as_they_are_drawn(engine, tiny_llama):
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    pool, told = SamplingPool(engine.frozen_base(model), lambda tokens: ""), []
    request = SampleRequest(0, [7], PARAMS, range(3), top=2, heard=lambda *news: told.append(news))
    pool.add(request)
    pool.step()
    assert len(told) == 3
    run(pool)
    for reply in request.replies:
        drawn = list(zip(reply.tokens, reply.logprobs, reply.top, strict=True))
        assert [tuple(rest) for number, *rest in told if number == reply.number] == drawn


def test_clients_take_turns(engine, tiny_llama, monkeypatch):
    """One that asked for far more first does not make the other wait for all of it."""
    monkeypatch.setattr(pools, "MAX_ROWS", 4)
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    pool = SamplingPool(engine.frozen_base(model), lambda tokens: "")
    many = [SampleRequest("greedy", [7, 8, i], PARAMS, range(3)) for i in range(10)]
    one = SampleRequest("modest", [9], PARAMS, [0])
    for request in [*many, one]:
        pool.add(request)
    finished = run(pool)
    assert len(finished) == 11
    assert finished.index(one) <= 2


def test_a_request_with_more_samples_than_rows_and_a_cancelled_one(engine, tiny_llama, monkeypatch):
    monkeypatch.setattr(pools, "MAX_ROWS", 4)
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    pool = SamplingPool(engine.frozen_base(model), lambda tokens: "")
    large, gone = (
        SampleRequest(0, [7], PARAMS, range(11)),
        SampleRequest(1, [8], replace(PARAMS, max_new_tokens=60), range(2)),
    )
    pool.add(large)
    pool.add(gone)
    pool.step()
    gone.cancelled = True
    finished = run(pool)
    assert large in finished
    alone = SamplingPool(engine.frozen_base(model), lambda tokens: "")
    for seed in range(11):
        alone.add(SampleRequest(seed, [7], PARAMS, [seed]))
    assert tokens_of(large) == [tokens_of(r)[0] for r in sorted(run(alone), key=lambda r: r.client)]


def test_a_long_reply_outgrows_its_cache(engine, tiny_llama, monkeypatch):
    monkeypatch.setattr(pools, "ROOM", 4)
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    params = replace(PARAMS, max_new_tokens=30, stop_tokens=())
    pool = SamplingPool(engine.frozen_base(model), lambda tokens: "")
    requests = [SampleRequest(0, [7] * n, params, [n]) for n in (1, 9)]
    for request in requests:
        pool.add(request)
        pool.step()
    run(pool)
    sampler = engine.snapshot(engine.create(ModelSpec("base", model)))
    for request in requests:
        assert tokens_of(request) == [sampler.sample([request.prompt], params, request.seeds)[0].tokens.tolist()]


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
    monkeypatch.setattr(pools, "CACHE_TOKENS", 45)
    model = ModelConfig(name=str(tiny_llama), lora=AdapterConfig(rank=4), dtype="float32")
    params = replace(PARAMS, max_new_tokens=12, stop_tokens=())
    pool = SamplingPool(engine.frozen_base(model), lambda tokens: "")
    lengths = [8, 8, 8, 8, 50]
    for client, length in enumerate(lengths):
        pool.add(SampleRequest(client, [7] * length, params, [client]))
    live, finished = [], []
    while not pool.idle:
        finished += pool.step()
        live.append(pool.live)
    assert max(live) == 2
    assert len(finished) == 5
