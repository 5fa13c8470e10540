"""The sampler against transformers' greedy decoding, the engine's logprobs, and itself in other company."""

import numpy as np
import pytest
import torch

from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.errors import ConfigError, DataError
from thumbs.models.causal_lm import load_decoder
from thumbs.records import Example
from thumbs.rollout.native import DecodingLoop, NativeSampler
from thumbs.rollout.sampler import DecodingParams
from tiny_models import VOCABULARY, load_reference, random_sequences

PROMPTS = random_sequences(6, [5, 1, 9, 3, 14])
LENGTH = 24


def letters(tokens):
    return "".join(chr(ord("a") + token % 26) for token in tokens)


@pytest.fixture(scope="module")
def sampler(tiny_llama):
    return NativeSampler(DecodingLoop(load_decoder(tiny_llama, torch.float32, master=False), letters), 4)


def params(stop_tokens=(), **settings):
    return DecodingParams(**{"max_new_tokens": LENGTH, "stop_tokens": tuple(stop_tokens), **settings})


@pytest.fixture(scope="module")
def greedy(sampler):
    """Token lists of the greedy replies to PROMPTS, never stopped."""
    return [s.tokens.tolist() for s in sampler.sample(PROMPTS, params(temperature=0), [0] * len(PROMPTS))]


@torch.no_grad()
def test_greedy_is_what_transformers_generates(tiny_llama, greedy):
    reference = load_reference(tiny_llama)
    for prompt, ours in zip(PROMPTS, greedy, strict=True):
        whole = reference.generate(
            torch.tensor([prompt]), do_sample=False, min_new_tokens=LENGTH, max_new_tokens=LENGTH, eos_token_id=None
        )
        assert whole[0, len(prompt) :].tolist() == ours


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_reply_depends_on_its_own_seed_only(sampler, temperature):
    kinds = random_sequences(7, [3, 8, 1, 20, 8])
    prompts, seeds = [kinds[i % 5] for i in range(140)], [1000 + i // 2 for i in range(140)]
    drawn = params(stop_tokens=range(12), temperature=temperature)  # replies end at many different places
    together = sampler.sample(prompts, drawn, seeds)
    assert len({len(s.tokens) for s in together}) > 8
    for i in range(0, 140, 7):
        (alone,) = sampler.sample([prompts[i]], drawn, [seeds[i]])
        assert alone.tokens.tolist() == together[i].tokens.tolist()
        assert alone.stop_reason == together[i].stop_reason
        np.testing.assert_allclose(alone.logprobs, together[i].logprobs, atol=1e-4)
    backwards = sampler.sample(prompts[::-1], drawn, seeds[::-1])[::-1]
    assert [s.tokens.tolist() for s in backwards] == [s.tokens.tolist() for s in together]


def test_other_seeds_give_other_replies(sampler):
    samples = sampler.sample([PROMPTS[0]] * 20, params(), list(range(20)))
    assert len({tuple(s.tokens.tolist()) for s in samples}) == 20


def test_a_longer_limit_continues_the_same_reply(sampler):
    short, long = (sampler.sample(PROMPTS, params(max_new_tokens=n), [3] * 5) for n in (6, 20))
    assert [s.tokens.tolist() for s in short] == [s.tokens[:6].tolist() for s in long]


def test_the_stop_token_is_kept_and_the_cut_is_marked(sampler, greedy):
    end = greedy[0][7]
    for sample, whole in zip(sampler.sample(PROMPTS, params([end], temperature=0), [0] * 5), greedy, strict=True):
        stops = end in whole
        assert sample.tokens.tolist() == (whole[: whole.index(end) + 1] if stops else whole)
        assert sample.stop_reason == ("stop" if stops else "length")
        assert len(sample.logprobs) == len(sample.tokens)
        assert sample.policy_version == 4


def test_a_stop_token_at_the_limit_is_a_stop(sampler, greedy):
    end = greedy[2][0]
    (sample,) = sampler.sample([PROMPTS[2]], params([end], max_new_tokens=1, temperature=0), [0])
    assert (sample.tokens.tolist(), sample.stop_reason) == ([end], "stop")


def test_a_stop_string_ends_the_reply_with_the_token_that_completes_it(sampler, greedy):
    text = letters(greedy[1])
    stop = text[5:8]
    (sample,) = sampler.sample([PROMPTS[1]], params(temperature=0, stop_strings=("!", stop)), [0])
    assert letters(sample.tokens) == text[: text.index(stop) + 3]
    assert sample.stop_reason == "stop"


def test_a_stop_token_ends_a_reply_whatever_strings_are_looked_for(sampler, greedy):
    end = greedy[0][7]
    (sample,) = sampler.sample([PROMPTS[0]], params([end], temperature=0, stop_strings=("never said",)), [0])
    assert (sample.tokens.tolist(), sample.stop_reason) == (greedy[0][: greedy[0].index(end) + 1], "stop")


def test_an_empty_prompt_is_refused(sampler):
    with pytest.raises(DataError, match="an empty prompt"):
        sampler.sample([PROMPTS[0], []], params(), [0, 1])


def test_stop_strings_need_text(sampler):
    with pytest.raises(ConfigError, match="stop tokens instead"):
        NativeSampler(DecodingLoop(sampler.loop.model), 0).sample(PROMPTS, params(stop_strings=("x",)), [0] * 5)


def test_what_does_not_fit_the_context_is_refused_before_anything_runs(sampler):
    with pytest.raises(ConfigError, match=r"reach 129 tokens; the model's context is 128"):
        sampler.sample([[5] * 3, [5] * 28], params(max_new_tokens=101), [0, 0])
    assert len(sampler.sample([[5] * 28], params(max_new_tokens=100), [0])[0].tokens) == 100


def test_no_prompts_give_no_samples(sampler):
    assert sampler.sample([], params(), []) == []


@pytest.mark.parametrize("lora", [AdapterConfig(rank=4), AdapterConfig(rank=4, layers=1), None])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_the_training_forward(tiny_llama, lora, temperature):
    engine = LocalEngine()
    handle = engine.create(ModelSpec("policy", ModelConfig(name=str(tiny_llama), lora=lora, dtype="float32")))
    data = [Example.next_token(p, weights=[0.1] * (len(p) - 1)) for p in PROMPTS if len(p) > 1]
    for _ in range(2):
        engine.forward_backward(handle, data, [CROSS_ENTROPY])
        engine.optim_step(handle, AdamStep(0.01, 0.0))
    samples = engine.snapshot(handle).sample(PROMPTS, params([1, 2], temperature=temperature), list(range(5)))
    whole = [Example.next_token([*p, *s.tokens]) for p, s in zip(PROMPTS, samples, strict=True)]
    for sample, output in zip(samples, engine.forward(handle, whole, temperature=temperature), strict=True):
        np.testing.assert_allclose(sample.logprobs, output.logprobs[-len(sample.tokens) :], atol=1e-3)
        assert sample.policy_version == 2
        assert sample.tokens.max() < VOCABULARY
