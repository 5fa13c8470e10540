"""The service on a cluster engine: clients do not notice that a rank was lost."""

from __future__ import annotations

import os
import signal

import numpy as np

from service.tiny_chat_model import save_tiny_chat_model
from thumbs.clients import types
from thumbs.clients.backend import Backend
from thumbs.clients.service_client import ServiceClient
from thumbs.clients.store import Store
from thumbs.config.engine import EngineConfig
from thumbs.config.model import ModelConfig
from thumbs.engine import open_engine
from unit.clients.test_in_process import ADAM, datum, logprobs_of


def trained(backend: Backend, lose) -> list[np.ndarray]:
    """Logprobs of two adapters of different ranks that were trained in turns; `lose` is called in the middle."""
    data = [datum(1), datum(2, 5)]
    with ServiceClient(backend=backend) as service:
        clients = [service.create_lora_training_client(base_model="tiny", rank=rank, seed=3) for rank in (2, 4)]
        for step in range(3):
            for client in clients:
                passed = client.forward_backward(data, "cross_entropy")
                if step == 1:
                    passed.result()
                    lose()
                client.optim_step(ADAM).result()
        sampling = clients[0].save_weights_and_get_sampling_client("now")
        prompt, params = types.ModelInput.from_ints([7, 8, 9]), types.SamplingParams(max_tokens=6, seed=1)
        drawn = sampling.sample(prompt, num_samples=1, sampling_params=params).result()
        return [*logprobs_of(clients[0], data), *logprobs_of(clients[1], data), np.array(drawn.sequences[0].tokens)]


def test_clients_of_a_cluster_wait_for_a_lost_rank_and_see_nothing_else(tmp_path):
    models = {"tiny": ModelConfig(name=str(save_tiny_chat_model(tmp_path / "tiny")), dtype="float32")}
    found = []
    for kill in (False, True):
        config = EngineConfig(kind="cluster", launcher="pipes", workers=2, logs=str(tmp_path / f"logs-{kill}"))
        engine = open_engine(config)
        backend = Backend(Store(tmp_path / f"store-{kill}"), models, engine=engine)

        def lose(engine=engine, kill=kill) -> None:
            if kill:
                os.kill(engine.inner.ranks[0].process.pid, signal.SIGKILL)

        try:
            found.append(trained(backend, lose))
        finally:
            backend.close()
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)
