"""What every sampler promises, whatever it draws from and whoever else does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contract.sampler_cases import MODELS, SAMPLERS, VERSION, ModelCase, distribution, letters, naive
from thumbs.errors import ConfigError, DataError
from thumbs.records import Sample
from thumbs.rollout.sampler import DecodingParams, PromptQuery, Sampler, SampleRequest
from tiny_models import random_sequences

PROMPTS = random_sequences(12, [4, 1, 9, 4])
PARAMS = DecodingParams(max_new_tokens=10, stop_tokens=())


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest, tiny_llama: Path) -> ModelCase:
    return MODELS[request.param](tiny_llama)


@pytest.fixture(params=SAMPLERS)
def sampler(request: pytest.FixtureRequest, case: ModelCase) -> Sampler:
    return SAMPLERS[request.param](case.model, case.adapter)


def assert_is(sample: Sample, expected: tuple[list[int], list[float]]) -> None:
    tokens, logprobs = expected
    assert sample.tokens.tolist() == tokens
    np.testing.assert_allclose(sample.logprobs, logprobs, atol=2e-4)


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.6}, {"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.7}, {"top_k": 20, "top_p": 0.6}],
    ids=str,
)
def test_a_reply_is_that_of_a_slow_loop(case: ModelCase, sampler: Sampler, settings: dict[str, float]):
    params = replace(PARAMS, **settings)
    seeds = [11, 12, 13, 14]
    for prompt, seed, sample in zip(PROMPTS, seeds, sampler.sample(PROMPTS, params, seeds), strict=True):
        assert_is(sample, naive(case, prompt, params, seed))
        assert sample.stop_reason == "length"
        assert sample.policy_version == VERSION


def test_samples_of_a_request_have_seeds_of_their_own(case: ModelCase, sampler: Sampler):
    (future,) = sampler.submit([SampleRequest(PROMPTS[0], PARAMS, [5, 6, 5], top=3)])
    reply = future.result()
    for seed, sample in zip([5, 6, 5], reply.samples, strict=True):
        assert_is(sample, naive(case, PROMPTS[0], PARAMS, seed))
    assert reply.samples[0].tokens.tolist() != reply.samples[1].tokens.tolist()
    for sample, places in zip(reply.samples, reply.top, strict=True):
        for token, logprob, top in zip(sample.tokens, sample.logprobs, places, strict=True):
            assert len(top) == 3
            assert [x for _, x in top] == sorted((x for _, x in top), reverse=True)
            assert dict(top).get(token, logprob) == pytest.approx(logprob, abs=1e-4)
            assert top[0][1] >= logprob - 1e-4


def test_stops(case: ModelCase, sampler: Sampler):
    whole = [naive(case, prompt, PARAMS, 3)[0] for prompt in PROMPTS]
    token, text = whole[0][4], letters(whole[2][3:5])
    for params in (
        replace(PARAMS, stop_tokens=(token, 96)),
        replace(PARAMS, stop_strings=("!", text)),
        replace(PARAMS, stop_tokens=(whole[1][0],), max_new_tokens=1),
    ):
        ended = 0
        for prompt, sample in zip(PROMPTS, sampler.sample(PROMPTS, params, [3] * 4), strict=True):
            expected = naive(case, prompt, params, 3)
            assert_is(sample, expected)
            last = expected[0][-1] in params.stop_tokens
            ends = last or any(stop in letters(expected[0]) for stop in params.stop_strings)
            assert sample.stop_reason == ("stop" if ends else "length")
            ended += ends
        assert ended


def test_a_reply_is_the_same_in_any_company(case: ModelCase, sampler: Sampler):
    """Asked for alone, in a batch, and while others come, go and are cancelled."""
    requests = [
        SampleRequest(prompt, replace(PARAMS, max_new_tokens=4 + 5 * number, temperature=0.8), [number, 50 + number])
        for number, prompt in enumerate(PROMPTS)
    ]
    alone = [sampler.submit([request])[0].result().samples for request in requests]
    batch = [future.result().samples for future in sampler.submit(requests)]
    crowd = []
    for number, request in enumerate(requests):
        ours = sampler.submit([request])[0]
        others = sampler.submit([SampleRequest([7] * (3 + number), PARAMS, [i]) for i in range(3)])
        others[0].result()
        others[1].cancel()
        crowd.append(ours)
    for theirs in (batch, [future.result().samples for future in crowd]):
        for one, other in zip([s for each in alone for s in each], [s for each in theirs for s in each], strict=True):
            assert one.tokens.tolist() == other.tokens.tolist()
            if case.exact:
                np.testing.assert_array_equal(one.logprobs, other.logprobs)
            else:
                np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


def test_a_cancelled_request_ends_and_the_others_go_on(case: ModelCase, sampler: Sampler):
    drawn: list[int] = []
    long = SampleRequest([5, 6], replace(PARAMS, max_new_tokens=40), range(3), on_token=lambda *news: drawn.append(1))
    running, kept = sampler.submit([long, SampleRequest(PROMPTS[0], replace(PARAMS, max_new_tokens=2), [1])])
    kept.result()
    assert running.cancel()
    assert running.cancelled()
    before = len(drawn)
    assert before > 0
    waiting, other = sampler.submit([long, SampleRequest(PROMPTS[1], PARAMS, [2])])
    assert waiting.cancel()
    assert_is(other.result().samples[0], naive(case, PROMPTS[1], PARAMS, 2))
    assert len(drawn) == before


def test_tokens_are_reported_as_they_are_drawn(sampler: Sampler):
    news: list[tuple[int, int, float, list[tuple[int, float]]]] = []
    request = SampleRequest([7], PARAMS, range(3), top=2, on_token=lambda *each: news.append(each))
    reply = sampler.submit([request])[0].result()
    for number, (sample, top) in enumerate(zip(reply.samples, reply.top, strict=True)):
        own = [rest for which, *rest in news if which == number]
        assert [token for token, _, _ in own] == sample.tokens.tolist()
        assert [logprob for _, logprob, _ in own] == sample.logprobs.tolist()
        assert [places for _, _, places in own] == list(top)
    assert [which for which, *_ in news][:6] == [0, 1, 2, 0, 1, 2]


def test_what_is_asked_about_a_prompt(case: ModelCase, sampler: Sampler):
    targets = np.array([[3, -1], [4, 5], [-1, 6]])
    query = PromptQuery(logprobs=True, top=4, targets=targets, draws=2)
    (future,) = sampler.submit([SampleRequest(PROMPTS[0], replace(PARAMS, max_new_tokens=1), [0], about_prompt=query)])
    about = future.result().prompt
    assert about is not None
    assert about.logprobs is not None
    assert about.targets is not None
    tokens, logprobs = about.drawn
    assert tokens.shape == logprobs.shape == (3, 2)
    for place in range(3):
        expected = distribution(case, PROMPTS[0][: place + 1])
        ids = targets[place]
        assert about.logprobs[place] == pytest.approx(expected[PROMPTS[0][place + 1]], abs=1e-4)
        assert [token for token, _ in about.top[place]] == np.argsort(-expected)[:4].tolist()
        np.testing.assert_allclose(about.targets[place], np.where(ids >= 0, expected[ids], 0), atol=1e-4)
        np.testing.assert_allclose(logprobs[place], expected[tokens[place]], atol=1e-4)


def test_what_cannot_be_is_refused_before_anything_runs(case: ModelCase, sampler: Sampler):
    context = min(case.model.context, 300)
    with pytest.raises(DataError, match="an empty prompt"):
        sampler.submit([SampleRequest(PROMPTS[0], PARAMS, [0]), SampleRequest([], PARAMS, [0])])
    if case.model.context == context:
        with pytest.raises(ConfigError, match=f"reach {context + 1} tokens; the model's context is {context}"):
            sampler.submit([SampleRequest([5] * (context - 9), PARAMS, [0])])
        (full,) = sampler.submit([SampleRequest([5] * context, replace(PARAMS, max_new_tokens=1), [0])])
        assert len(full.result().samples[0].tokens) == 1
    assert sampler.sample([], PARAMS, []) == []
