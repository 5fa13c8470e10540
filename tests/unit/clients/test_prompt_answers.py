"""Logprobs of chosen ids in a prompt, and tokens drawn in its places, against the whole distribution there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from service.tiny_chat_model import save_tiny_chat_model
from thumbs.clients import types
from thumbs.clients.backend import Backend
from thumbs.clients.sampling_client import SamplingClient
from thumbs.clients.service_client import ServiceClient
from thumbs.clients.store import Store
from thumbs.config.model import ModelConfig
from thumbs.errors import DataError

PROMPT = np.random.default_rng(0).integers(6, 90, 140).tolist()  # longer than what is read at a time
VOCABULARY = 259
ONE = types.SamplingParams(max_tokens=1)


@pytest.fixture(scope="module")
def sampler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SamplingClient]:
    folder = save_tiny_chat_model(tmp_path_factory.mktemp("tiny-chat"))
    backend = Backend(Store(tmp_path_factory.mktemp("store")), {"tiny": ModelConfig(name=str(folder))})
    yield ServiceClient(backend=backend).create_sampling_client(base_model="tiny")
    backend.close()


@pytest.fixture(scope="module")
def distributions(sampler: SamplingClient) -> np.ndarray:
    """Log p of every token in each place after the first [N - 1, V]."""
    answer = ask(sampler, topk_prompt_logprobs=VOCABULARY)
    return np.array([[lp for _, lp in sorted(row)] for row in answer.topk_prompt_logprobs[1:]])


def ask(sampler: SamplingClient, params: types.SamplingParams = ONE, **asked) -> types.SampleResponse:
    return sampler.sample(types.ModelInput.from_ints(PROMPT), 1, params, **asked).result()


def test_chosen_ids(sampler: SamplingClient, distributions: np.ndarray):
    ids = np.random.default_rng(1).integers(-1, VOCABULARY, (len(PROMPT) - 1, 3))
    ids[::2] = -1
    wanted = np.where(ids == -1, 0.0, np.take_along_axis(distributions, np.maximum(ids, 0), 1))
    asked = types.TensorData.from_numpy(ids)
    answer = ask(sampler, target_prompt_logprobs=asked)
    assert answer.prompt_logprobs is None
    assert answer.target_prompt_logprobs.shape == [len(PROMPT) - 1, 3]
    np.testing.assert_allclose(answer.target_prompt_logprobs.to_numpy(), wanted, atol=1e-4)


def test_the_numbers_of_one_answer_agree(sampler: SamplingClient):
    own = types.TensorData.from_numpy(np.array(PROMPT[1:])[:, None])
    answer = ask(sampler, include_prompt_logprobs=True, topk_prompt_logprobs=VOCABULARY, target_prompt_logprobs=own)
    listed = [dict(row)[token] for row, token in zip(answer.topk_prompt_logprobs[1:], PROMPT[1:], strict=True)]
    np.testing.assert_allclose(listed, answer.prompt_logprobs[1:], atol=5e-6)
    np.testing.assert_allclose(answer.target_prompt_logprobs.data, answer.prompt_logprobs[1:], atol=5e-6)


def test_sparse_ids_come_back_sparse(sampler: SamplingClient, distributions: np.ndarray):
    places, ids = [0, 3, 3, 138], [7, 0, 9, 258]
    crow = np.searchsorted(places, np.arange(len(PROMPT)))
    asked = types.TensorData(ids, "int64", [len(PROMPT) - 1, 2], crow, [1, 0, 1, 0])
    found = ask(sampler, target_prompt_logprobs=asked).target_prompt_logprobs
    assert found.sparse_crow_indices == crow.tolist()
    assert found.sparse_col_indices == [1, 0, 1, 0]
    np.testing.assert_allclose(found.values, distributions[places, ids], atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_the_distribution(sampler: SamplingClient, distributions: np.ndarray, temperature: float):
    k = 400
    params = types.SamplingParams(max_tokens=1, seed=5, temperature=temperature)
    drawn = ask(sampler, params, prompt_alt_tokens_k=k).prompt_alt_tokens
    tokens, logprobs = drawn.tokens.to_numpy(), drawn.logprobs.to_numpy()
    assert tokens.shape == (len(PROMPT) - 1, k)
    np.testing.assert_allclose(logprobs, np.take_along_axis(distributions, tokens, 1), atol=1e-4)
    p = np.exp(distributions / temperature)
    p /= p.sum(1, keepdims=True)
    expected, seen = p.sum(0), np.bincount(tokens.ravel(), minlength=VOCABULARY) / k
    spread = np.sqrt((p * (1 - p)).sum(0) / k)
    assert (np.abs(seen - expected) < 5 * spread).all()


def test_draws_repeat_with_their_seed_and_are_greedy_at_temperature_0(
    sampler: SamplingClient, distributions: np.ndarray
):
    seeded = [
        ask(sampler, types.SamplingParams(max_tokens=1, seed=seed), prompt_alt_tokens_k=4).prompt_alt_tokens.tokens.data
        for seed in (1, 1, 2)
    ]
    assert seeded[0] == seeded[1] != seeded[2]
    three = sampler.sample(
        types.ModelInput.from_ints(PROMPT), 3, types.SamplingParams(max_tokens=1, seed=1), prompt_alt_tokens_k=4
    )
    assert three.result().prompt_alt_tokens.tokens.data == seeded[0]  # whatever else is asked for
    greedy = ask(sampler, types.SamplingParams(max_tokens=1, temperature=0.0), prompt_alt_tokens_k=2)
    np.testing.assert_array_equal(greedy.prompt_alt_tokens.tokens.to_numpy().T, [distributions.argmax(1)] * 2)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"target_prompt_logprobs": types.TensorData([1.0] * 139, "float32", [139, 1])}, "are float32"),
        ({"target_prompt_logprobs": types.TensorData([1] * 138, "int64", [138, 1])}, r"of shape \[139, K\]"),
        ({"target_prompt_logprobs": types.TensorData([300] * 139, "int64", [139, 1])}, "holds token 300"),
        ({"target_prompt_logprobs": types.TensorData([-2] * 139, "int64", [139, 1])}, "holds token -2"),
        ({"prompt_alt_tokens_k": 1000}, "prompt_alt_tokens_k asks for 140000 numbers"),
    ],
)
def test_what_cannot_be_told_is_refused(sampler: SamplingClient, asked: dict, message: str):
    with pytest.raises(DataError, match=message):
        ask(sampler, **asked)
