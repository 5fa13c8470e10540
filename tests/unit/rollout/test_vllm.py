"""vLLM as a sampler: its logprobs are the engine's, of the weights that were published, in every version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from contract.engine_cases import PPO, SEQUENCES, ppo_data, step
from contract.sampler_cases import letters
from thumbs.config.engine import EngineConfig, RolloutConfig
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine import open_engine
from thumbs.engine.base import Handle, ModelSpec, OpenEngine
from thumbs.errors import ConfigError
from thumbs.models.tensor_files import checksum
from thumbs.records import Example
from thumbs.rollout.remote import RemoteSampler
from thumbs.rollout.sampler import DecodingParams, PromptQuery, SampleRequest
from thumbs.rollout.vllm import check

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".sdks" / "vllm" / "bin" / "python"
PROMPTS = [[72, 101, 108], [9, 8, 7, 6, 5], [72, 101, 108, 108, 111]]
PARAMS = DecodingParams(12, (5, 6), temperature=0.8)
LORA = {"adapters": AdapterConfig(rank=4, alpha=8.0), "full": None}


def asked(**settings: object) -> SampleRequest:
    return SampleRequest([3, 4], DecodingParams(**{"max_new_tokens": 4, "stop_tokens": (), **settings}), [0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (asked(top_k=5), "top_k=5"),
        (asked(top_p=0.9), "top_p=0.9"),
        (asked(temperature=0.001), "temperature=0.001"),
        (asked(max_new_tokens=127), "context is 128"),
        (SampleRequest([3], PARAMS, [0], about_prompt=PromptQuery(logprobs=True)), "about prompts"),
    ],
)
def test_what_would_warp_the_distribution_is_refused(request_, told):
    with pytest.raises(ConfigError, match=told):
        check(request_, 128)
    check(asked(temperature=0.0), 128)


def test_settings_of_vllm_alone_are_refused_without_it():
    with pytest.raises(ValueError, match="tensor_parallel is for kind: vllm"):
        RolloutConfig(workers=1, tensor_parallel=2)
    with pytest.raises(ValueError, match="python is for workers"):
        RolloutConfig(python="python3")


@pytest.fixture(scope="module", params=LORA)
def opened(request) -> tuple[OpenEngine, Handle]:
    if not PYTHON.exists():
        pytest.skip("no environment with vLLM: run `python tests/service/conformance.py build vllm`")
    rollout = RolloutConfig(kind="vllm", python=str(PYTHON), staleness=1)
    engine = open_engine(EngineConfig(device="cpu"), letters, rollout)
    model = ModelConfig(name="byte-tiny", lora=LORA[request.param], dtype="float32")
    handle = engine.create(ModelSpec("policy", model, heads=("lm", "scalar"), seed=3))
    step(engine, handle, ppo_data(SEQUENCES), PPO)
    return engine, handle


def snapshot(engine: OpenEngine, handle: Handle) -> RemoteSampler:
    sampler = engine.snapshot(handle)
    assert isinstance(sampler, RemoteSampler)
    return sampler


def gap(engine: OpenEngine, handle: Handle, sampler: RemoteSampler) -> float:
    """The largest difference of logprobs, nats, on what vLLM drew."""
    samples = [
        s for f in sampler.submit([SampleRequest(p, PARAMS, [1, 2]) for p in PROMPTS]) for s in f.result().samples
    ]
    prompts = [p for p in PROMPTS for _ in range(2)]
    data, worst = [], 0.0
    for prompt, sample in zip(prompts, samples, strict=True):
        assert sample.policy_version == sampler.policy_version
        weights = np.array([0.0] * (len(prompt) - 1) + [1.0] * len(sample.tokens))
        data.append(Example.next_token([*prompt, *sample.tokens.tolist()], weights=weights))
    for prompt, sample, output in zip(prompts, samples, engine.forward(handle, data, temperature=0.8), strict=True):
        worst = max(worst, float(np.abs(output.logprobs[len(prompt) - 1 :] - sample.logprobs).max()))
    return worst


def test_logprobs_are_the_trainers_in_every_version(opened):
    engine, handle = opened
    old = snapshot(engine, handle)
    assert gap(engine, handle, old) < 1e-4
    (request,) = [SampleRequest(PROMPTS[0], PARAMS, range(4), top=3)]
    before = old.submit([request])[0].result()
    for sample, top in zip(before.samples, before.top, strict=True):
        assert all(len(places) == 3 for places in top)
        assert sample.stop_reason == ("stop" if sample.tokens[-1] in PARAMS.stop_tokens else "length")
    for _ in range(3):
        step(engine, handle, ppo_data(SEQUENCES), PPO)
    new = snapshot(engine, handle)
    assert gap(engine, handle, old) > 1e-3  # the old weights are still the old ones
    assert gap(engine, handle, new) < 1e-4
    again = old.submit([request])[0].result()
    assert [s.tokens.tolist() for s in again.samples] == [s.tokens.tolist() for s in before.samples]
    assert (old.policy_version + 3, again.samples[0].policy_version) == (new.policy_version, old.policy_version)


def test_the_weights_that_are_sampled_from_are_those_that_were_published(opened):
    engine, handle = opened
    old = snapshot(engine, handle)
    step(engine, handle, ppo_data(SEQUENCES), PPO)
    for sampler in (snapshot(engine, handle), old):  # there and back again
        (worker,) = sampler.pool.workers
        held = worker.call("checksums", sampler.weights).result()
        if sampler.weights.model.lora is None:
            assert held.pop("lm_head.weight") == sampler.checksums["model.embed_tokens.weight"]  # they are tied
            assert held == sampler.checksums
        else:
            published = load_file(sampler.weights.folder / "adapter_model.safetensors")
            scaled = {name: t * 2 if "lora_B" in name else t for name, t in published.items()}  # alpha / rank
            assert held == {name: checksum(t) for name, t in scaled.items()}
            assert {n: c for n, c in held.items() if "lora_A" in n}.items() <= sampler.checksums.items()
            assert any(t.count_nonzero() for name, t in published.items() if "lora_B" in name)


def test_stop_strings_and_tokens_as_they_are_drawn(opened):
    sampler = snapshot(*opened)
    (whole,) = sampler.submit([SampleRequest(PROMPTS[1], PARAMS, [1])])
    tokens = whole.result().samples[0].tokens.tolist()
    heard: list[int] = []
    params = DecodingParams(12, (), temperature=0.8, stop_strings=(letters(tokens[2:4]),))
    request = SampleRequest(PROMPTS[1], params, [1], on_token=lambda number, token, *_: heard.append(token))
    (reply,) = (future.result() for future in sampler.submit([request]))
    (sample,) = reply.samples
    ends = next(n for n in range(1, 13) if letters(tokens[2:4]) in letters(tokens[:n]))
    assert sample.tokens.tolist() == tokens[:ends] == heard
    assert sample.stop_reason == "stop"
