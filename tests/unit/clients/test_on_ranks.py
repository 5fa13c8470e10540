"""The service on a cluster engine: many adapters, several trainers at once, and clients that notice no lost rank."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import pytest

from service.tiny_chat_model import save_tiny_chat_model
from thumbs.clients import types
from thumbs.clients.backend import Backend
from thumbs.clients.service_client import ServiceClient
from thumbs.clients.store import Store
from thumbs.config.engine import EngineConfig
from thumbs.config.model import ModelConfig
from thumbs.engine import open_engine
from unit.clients.test_in_process import ADAM, datum, logprobs_of

RANKS = (2, 4, 16)
DATA = {rank: [datum(10 * rank + i, 5 + i) for i in range(8)] for rank in RANKS}
"""What each adapter learns: some six micro-batches, three turns of two ranks."""

Shard = Literal["none", "full"]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, ModelConfig]:
    folder = save_tiny_chat_model(tmp_path_factory.mktemp("tiny-chat"))
    return {"tiny": ModelConfig(name=str(folder), dtype="float32")}


@pytest.fixture(scope="module")
def backends(models, tmp_path_factory) -> Iterator[Callable[[Shard | None], Backend]]:
    """Makes backends with two ranks, or for None with the local engine."""
    made: list[Backend] = []

    def make(shard: Shard | None) -> Backend:
        folder = tmp_path_factory.mktemp("service")
        ranks = {"kind": "cluster", "launcher": "pipes", "workers": 2, "shard": shard}
        engine: Any = open_engine(EngineConfig(**ranks, logs=str(folder / "logs")) if shard else EngineConfig())
        getattr(engine, "inner", engine).token_budget = 16
        made.append(Backend(Store(folder / "store"), models, engine=engine))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture(scope="module", params=["none", "full"])
def shard(request) -> Shard:
    return request.param


@pytest.fixture(scope="module")
def undisturbed(backends, shard) -> tuple[Backend, dict[int, list[np.ndarray]]]:
    """A backend that loses no rank, and what three adapters learn on it at once."""
    backend = backends(shard)
    return backend, trained(backend, *RANKS)


def trained(backend: Backend, *ranks: int) -> dict[int, list[np.ndarray]]:
    """Logprobs that adapters of these ranks give after three steps at once, and what is drawn from them."""
    found = {}
    with ServiceClient(backend=backend) as service:
        clients = {rank: service.create_lora_training_client("tiny", rank=rank, seed=rank) for rank in ranks}
        held, go = hold(backend)
        asked = []
        for _, (rank, client) in itertools.product(range(3), clients.items()):
            asked += [client.forward_backward(DATA[rank], "cross_entropy"), client.optim_step(ADAM)]
        assert not held.done()
        go.set()
        for future in asked:
            future.result(300)
        for rank, client in clients.items():
            sampling = client.save_weights_and_get_sampling_client()
            prompt, params = types.ModelInput.from_ints([7, 8, 9]), types.SamplingParams(max_tokens=6, seed=1)
            (drawn,) = sampling.sample(prompt, 1, params).result(120).sequences
            found[rank] = [*logprobs_of(client, DATA[rank]), np.array(drawn.tokens)]
            assert drawn.policy_version == 3
    return found


def hold(backend: Backend) -> tuple[Any, threading.Event]:
    """Keeps the thread that computes busy until the event, so that everything asked meanwhile is there at once."""
    go = threading.Event()

    def work():
        go.wait(60)
        yield

    return backend._worker.submit("held", work), go


def same(ours: dict[int, list[np.ndarray]], theirs: dict[int, list[np.ndarray]], atol: float = 0.0) -> None:
    assert ours.keys() == theirs.keys()
    for rank, arrays in ours.items():
        for mine, other in zip(arrays, theirs[rank], strict=True):
            np.testing.assert_allclose(mine, other, rtol=0, atol=atol)


def test_trainers_at_once_do_not_touch_each_other(backends, undisturbed):
    """Three adapters of different ranks, in turns by micro-batches, end as each does alone, and near the local engine's
    numbers.
    """
    backend, together = undisturbed
    for rank in RANKS:
        same(trained(backend, rank), {rank: together[rank]})
    same(together, trained(backends(None), *RANKS), atol=2e-4)  # after three steps of Adam at a rate of 0.01


def test_clients_wait_for_a_rank_lost_in_the_middle_of_their_passes(backends, undisturbed, shard, caplog, monkeypatch):
    """SIGKILL while passes of two clients are half done: no error, and the bits of a service that lost none."""
    hit = backends(shard)
    inner: Any = hit._engine.inner
    passes, parts, begun, lost = inner._passes, itertools.count(), set(), []

    def until_killed(handle, *args: Any, **options: Any):
        work = passes(handle, *args, **options)
        while True:
            try:
                next(work)
            except StopIteration as stop:
                begun.discard(handle.id)
                return stop.value
            begun.add(handle.id)
            if next(parts) > 8 and len(begun) == 2 and not lost:
                lost.extend(begun)
                os.kill(inner.ranks[1].process.pid, signal.SIGKILL)
            yield

    monkeypatch.setattr(inner, "_passes", until_killed)
    with caplog.at_level(logging.WARNING):
        found = trained(hit, 2, 4)
    assert len(lost) == 2
    assert "The ranks are started again" in caplog.text
    same(found, {rank: undisturbed[1][rank] for rank in (2, 4)})
