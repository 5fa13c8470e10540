"""The service's samples drawn by vLLM, next to training on ranks: their logprobs are the trainer's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.conformance import FOR_VLLM
from service.tiny_chat_model import save_tiny_chat_model
from thumbs.clients import types
from thumbs.clients.backend import Backend
from thumbs.clients.service_client import ServiceClient
from thumbs.clients.store import Store
from thumbs.config.engine import EngineConfig, RolloutConfig
from thumbs.config.model import ModelConfig
from thumbs.engine import open_engine
from thumbs.errors import ThumbsError
from unit.clients.test_in_process import ADAM, datum

PYTHON = Path(__file__).resolve().parents[3] / ".sdks" / "vllm" / "bin" / "python"
PROMPT = [7, 8, 9, 30, 31]


@pytest.fixture(scope="module")
def backend(tmp_path_factory) -> Iterator[Backend]:
    if not PYTHON.exists():
        pytest.skip("no environment with vLLM: run `python tests/service/conformance.py build vllm`")
    folder = tmp_path_factory.mktemp("service")
    model = save_tiny_chat_model(folder / "tiny", **FOR_VLLM)
    models = {"tiny": ModelConfig(name=str(model), dtype="float32")}
    config = EngineConfig(kind="cluster", launcher="pipes", workers=2, shard="full", logs=str(folder / "logs"))
    engine = open_engine(config, None, RolloutConfig(kind="vllm", python=str(PYTHON), adapters=2))
    backend = Backend(Store(folder / "store"), models, engine=engine, elsewhere=engine.open_sampler)
    yield backend
    backend.close()


def drawn(sampling, **settings) -> list[types.SampledSequence]:
    params = types.SamplingParams(**{"max_tokens": 12, "seed": 5, **settings})
    return list(sampling.sample(types.ModelInput.from_ints(PROMPT), 4, params).result(400).sequences)


def gap(client, sequences, temperature: float = 1.0) -> float:
    """The largest difference to the trainer's logprobs of the same tokens, nats."""
    worst = 0.0
    for sequence in sequences:
        tokens = [*PROMPT, *sequence.tokens]
        given = types.Datum(types.ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:]})
        (output,) = client.forward([given], "cross_entropy").result().loss_fn_outputs
        told = output["logprobs"].to_numpy()[len(PROMPT) - 1 :]
        worst = max(worst, float(np.abs(told - sequence.logprobs_np).max()))
    return worst


@pytest.mark.timeout(900)
def test_adapters_of_several_ranks_in_every_version(backend):
    """The base first, and a rank for which vLLM has no room at first."""
    with ServiceClient(backend=backend) as service:
        clients = {rank: service.create_lora_training_client("tiny", rank=rank, seed=3) for rank in (4, 16, 40)}
        base = service.create_sampling_client(base_model="tiny")
        assert gap(clients[4], drawn(base)) < 1e-4  # which are the base still
        samplers = {}
        for step in (1, 2):
            for rank, client in clients.items():
                client.forward_backward([datum(rank), datum(rank + 1, 5)], "cross_entropy").result()
                client.optim_step(ADAM).result()
                samplers[rank, step] = client.save_weights_and_get_sampling_client()
            for rank, client in clients.items():
                sequences = drawn(samplers[rank, step])
                assert {sequence.policy_version for sequence in sequences} == {step}
                assert gap(client, sequences) < 1e-4, rank
        for rank, client in clients.items():
            assert gap(client, drawn(samplers[rank, 1])) > 1e-3  # still the older one
        again = [drawn(base) for _ in range(2)]
        assert [s.tokens for s in again[0]] == [s.tokens for s in again[1]]


@pytest.mark.timeout(900)
def test_prompts_are_scored_by_the_engine_that_trains(backend):
    with ServiceClient(backend=backend) as service:
        client = service.create_lora_training_client("tiny", rank=4, seed=3)
        prompt = types.ModelInput.from_ints(PROMPT)
        for _ in range(2):
            client.forward_backward([datum(1)], "cross_entropy").result()
            client.optim_step(ADAM).result()
        given = types.Datum(types.ModelInput.from_ints(PROMPT[:-1]), {"target_tokens": PROMPT[1:]})
        base = service.create_sampling_client(base_model="tiny")
        untrained = service.create_lora_training_client("tiny", rank=4, seed=3)
        for sampling, of in ((client.save_weights_and_get_sampling_client(), client), (base, untrained)):
            (output,) = of.forward([given], "cross_entropy").result().loss_fn_outputs
            told = sampling.compute_logprobs(prompt).result(400)
            assert told[0] is None
            np.testing.assert_allclose(told[1:], output["logprobs"].to_numpy(), atol=1e-6)
        ids = np.array([[PROMPT[1], 5], [-1, 6], [PROMPT[3], -1], [PROMPT[4], 8]])
        params = types.SamplingParams(max_tokens=1)
        asked = base.sample(prompt, 1, params, target_prompt_logprobs=types.TensorData.from_numpy(ids)).result(400)
        chosen = asked.target_prompt_logprobs.to_numpy()
        np.testing.assert_array_equal(chosen == 0, ids == -1)
        own = base.compute_logprobs(prompt).result(400)
        np.testing.assert_allclose(chosen[[0, 2, 3], 0], [own[1], own[3], own[4]], atol=1e-6)
        assert base.compute_logprobs(types.ModelInput.from_ints([7])).result(400) == [None]


@pytest.mark.timeout(900)
def test_what_vllm_would_falsify_is_refused(backend):
    with ServiceClient(backend=backend) as service:
        base, prompt = service.create_sampling_client(base_model="tiny"), types.ModelInput.from_ints(PROMPT)
        with pytest.raises(ThumbsError, match="top_k=5"):
            drawn(base, top_k=5)
        with pytest.raises(ThumbsError, match="leave topk_prompt_logprobs"):
            base.sample(prompt, 1, types.SamplingParams(max_tokens=1), topk_prompt_logprobs=3).result(400)
        assert backend.waiting()["samples"] == 0
