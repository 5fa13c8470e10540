"""The service's samples drawn by other processes: the numbers of this one, and no wait for what trains."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.tiny_chat_model import save_tiny_chat_model
from thumbs.clients import types
from thumbs.clients.backend import Backend
from thumbs.clients.service_client import ServiceClient
from thumbs.clients.store import Store
from thumbs.clients.worker import ClosedError
from thumbs.config.engine import EngineConfig, RolloutConfig
from thumbs.config.model import ModelConfig
from thumbs.engine import open_engine
from thumbs.models import kernels
from thumbs.rollout.native import native_samplers
from unit.clients.test_in_process import ADAM, datum

PROMPT = types.ModelInput.from_ints([7, 8, 9])


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, ModelConfig]:
    folder = save_tiny_chat_model(tmp_path_factory.mktemp("tiny-chat"))
    return {"tiny": ModelConfig(name=str(folder), dtype="float32")}


@pytest.fixture
def backends(models, tmp_path) -> Iterator[Callable[..., Backend]]:
    """Makes backends whose samples so many workers draw; 0: this process."""
    made: list[Backend] = []

    def make(samplers: int, config: EngineConfig | None = None, **options: Any) -> Backend:
        engine = open_engine(config, None, RolloutConfig(workers=samplers))
        elsewhere = engine.open_sampler if samplers else None
        store = Store(tmp_path / f"store-{len(made)}")
        made.append(Backend(store, models, engine=engine, elsewhere=elsewhere, **options))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def said(sampling, count: int = 3, **settings: Any) -> list[Any]:
    """What a sampler draws, in values that can be compared bit for bit."""
    params = types.SamplingParams(**{"max_tokens": 9, "seed": 1, "stop": [], **settings})
    reply = sampling.sample(PROMPT, count, params, include_prompt_logprobs=True, topk_sample_logprobs=2).result(120)
    return [
        [
            (s.stop_reason, s.tokens, s.logprobs_np.tobytes(), s.topk_logprobs, s.policy_version)
            for s in reply.sequences
        ],
        reply.prompt_logprobs,
    ]


def scene(backend: Backend) -> list[Any]:
    """Two adapters of different ranks in training; both, and the base, are sampled from before and after a step."""
    found = []
    with ServiceClient(backend=backend) as service:
        clients = [service.create_lora_training_client("tiny", rank=rank, seed=3) for rank in (2, 8)]
        samplers = [service.create_sampling_client(base_model="tiny")]
        for _ in range(2):
            for client in clients:
                client.forward_backward([datum(1), datum(2, 5)], "cross_entropy")
                client.optim_step(ADAM)
                samplers.append(client.save_weights_and_get_sampling_client())
        saved = clients[1].save_weights_for_sampler("one").result().path
        samplers.append(service.create_sampling_client(saved))
        found += [said(sampler) for sampler in samplers]
        found.append(said(samplers[3], temperature=0.3, top_p=0.8, top_k=20, stop=["e", "1"]))
    return found


def test_workers_draw_what_this_process_draws(backends):
    """To the last bit, whatever the rank; replies carry the steps of their weights."""
    if kernels.library() is None:
        pytest.skip("without our kernels a reply's last bits depend on what is decoded next to it")
    here, far = (scene(backends(samplers)) for samplers in (0, 2))
    assert far == here
    versions = [sequences[0][-1] for sequences, _ in here]
    assert versions == [0, 1, 1, 2, 2, 2, 2]
    drawn = [sequences[0][2] for sequences, _ in here]
    assert len(set(drawn[:5])) == 5  # five weights, five distributions
    assert drawn[4] == drawn[5]  # by name as without one


def test_a_name_that_is_saved_again_is_other_weights(backends):
    with ServiceClient(backend=backends(1)) as service:
        client = service.create_lora_training_client("tiny", rank=4, seed=3)
        drawn, paths = [], []
        for _ in range(2):
            client.forward_backward([datum(1)], "cross_entropy")
            client.optim_step(ADAM)
            paths.append(client.save_state("same", overwrite=True).result().path)
            drawn.append(said(service.create_sampling_client(paths[-1])))
        assert paths[0] == paths[1]
        assert drawn[0] != drawn[1]
        assert [sequences[0][-1] for sequences, _ in drawn] == [1, 2]


def test_samples_do_not_wait_for_what_trains(backends):
    """A client draws from the weights of step k, in this process too, while its step k + 1 is queued."""
    backend = backends(1)
    go, waits = threading.Event(), threading.Event()

    def hold():
        waits.set()
        go.wait(60)
        yield

    with ServiceClient(backend=backend) as service:
        client = service.create_lora_training_client("tiny", rank=4, seed=3)
        old = client.save_weights_and_get_sampling_client()
        before = said(old)
        backend._worker.submit(client.model_id, hold)
        assert waits.wait(60)
        passed, step = client.forward_backward([datum(1)], "cross_entropy"), client.optim_step(ADAM)
        new = client.save_weights_and_get_sampling_client()
        assert said(old) == before  # while nothing of the step can have been done
        assert not passed.done()
        go.set()
        step.result(60)
        assert said(new) != before
        assert said(old) == before


def test_adapters_of_ranks_are_drawn_without_their_base_in_the_services_process(backends, tmp_path):
    config = EngineConfig(kind="cluster", launcher="pipes", workers=2, shard="full", logs=str(tmp_path / "logs"))
    backend = backends(1, config)
    assert scene(backend)[-1][0][0][-1] == 2
    inner: Any = backend._engine.inner
    assert not inner._here._bases
    assert not inner._sampled._bases


def test_a_sampler_of_ones_own_gets_the_model_with_its_adapter(models, tmp_path):
    """What `rollout.kind: module:name` may make of published weights: here a model with the adapter merged in."""
    found = []
    for elsewhere in (None, native_samplers(RolloutConfig())):
        backend = Backend(Store(tmp_path / f"{elsewhere}"[:6]), models, elsewhere=elsewhere)
        with ServiceClient(backend=backend) as service:
            client = service.create_lora_training_client("tiny", rank=4, seed=3)
            client.forward_backward([datum(1)], "cross_entropy")
            client.optim_step(ADAM)
            samplers = [
                client.save_weights_and_get_sampling_client(),
                service.create_sampling_client(base_model="tiny"),
            ]
            found.append([sampler.compute_logprobs(PROMPT).result(60)[1:] for sampler in samplers])
        backend.close()
    np.testing.assert_allclose(found[1], found[0], atol=1e-4)
    assert np.abs(np.subtract(*found[0])).max() > 1e-2


def test_what_is_not_drawn_from_any_more_leaves_shared_memory(backends):
    backend = backends(1, max_models=2)
    with ServiceClient(backend=backend) as service:
        client = service.create_lora_training_client("tiny", rank=4, seed=3)
        samplers = []
        for _ in range(4):
            client.forward_backward([datum(1)], "cross_entropy")
            client.optim_step(ADAM)
            samplers.append(client.save_weights_and_get_sampling_client())
        replies = [said(sampler) for sampler in samplers]
        assert backend.samplers.loaded == 2
        pool: Any = backend._engine.open_sampler
        published = [folder for root in pool._shelf._folders for folder in Path(root).iterdir() if folder.is_dir()]
        assert len(published) <= 3  # that of the last one that left goes with the next request
        assert [said(sampler) for sampler in samplers] == replies  # read again under a new number


def test_cancelled_and_closed(backends):
    backend = backends(1)
    with ServiceClient(backend=backend) as service:
        sampler = service.create_sampling_client(base_model="tiny")
        said(sampler)
        long = types.SamplingParams(max_tokens=200, stop=[], seed=0)
        futures = [sampler.sample(PROMPT, 64, long) for _ in range(6)]
        assert all(future.cancel() for future in futures)
        until = time.monotonic() + 60
        while backend.waiting()["samples"] and time.monotonic() < until:
            time.sleep(0.02)
        assert backend.waiting()["samples"] == 0
        waiting = sampler.sample(PROMPT, 64, long)
    backend.close()
    with pytest.raises(ClosedError):
        waiting.result(30)
    assert np.isfinite(backend.waiting()["sampled_tokens"])
