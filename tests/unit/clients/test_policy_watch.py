"""The watch of scripts: the numbers of a look against the clients themselves, and going back to the best state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.tiny_chat_model import save_tiny_chat_model
from thumbs.clients import types
from thumbs.clients.backend import Backend
from thumbs.clients.policy_watch import PolicyWatch
from thumbs.clients.service_client import ServiceClient
from thumbs.clients.store import Store
from thumbs.config.model import ModelConfig
from thumbs.tracking.files import StepLog

PROMPTS = [types.ModelInput.from_ints([10 + i, 11, 12]) for i in range(8)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceClient]:
    folder = save_tiny_chat_model(tmp_path_factory.mktemp("tiny-chat"))
    store = Store(tmp_path_factory.mktemp("store"))
    backend = Backend(store, {"tiny": ModelConfig(name=str(folder), dtype="float32")})
    yield ServiceClient(backend=backend)
    backend.close()
    store.close()


def params(row: int) -> types.SamplingParams:
    return types.SamplingParams(max_tokens=6, temperature=1.0, seed=100 + row)


def train(client: Any) -> None:
    """A step that moves the policy away."""
    datum = types.Datum(types.ModelInput.from_ints([10, 11, 12, 13]), {"target_tokens": [11, 12, 13, 14]})
    client.forward_backward([datum], "cross_entropy").result()
    client.optim_step(types.AdamParams(learning_rate=0.05)).result()


def test_a_look_measures_what_the_clients_say_and_the_best_state_comes_back(service: ServiceClient, tmp_path: Path):
    client = service.create_lora_training_client(base_model="tiny", rank=4, seed=1)
    reference = client.save_weights_and_get_sampling_client()
    levels = iter([0.0, 1.0, -1.0, -1.0, -1.0])
    asked: list[Sequence[Any]] = []

    def second(replies: Sequence[Any]) -> list[float]:
        asked.append(replies)
        level = next(levels)
        return [level + 0.01 * len(reply.tokens) for reply in replies]

    watch = PolicyWatch(PROMPTS, lambda replies: [1.0] * len(replies), second, reference, params, 0.0, tmp_path)
    first = watch.look(0, client)
    assert first.alarms == {}
    assert first.numbers["watch/kl"] == pytest.approx(0.0, abs=1e-4)  # the weights that training begins with
    train(client)
    better, best = watch.look(1, client), client.save_weights_and_get_sampling_client()
    assert better.best != first.best
    ratios = []
    for prompt, reply in zip(PROMPTS, asked[-1], strict=True):
        whole = types.ModelInput.from_ints([*prompt.to_ints(), *reply.tokens])
        ours, theirs = (
            np.array(model.compute_logprobs(whole).result()[3:], float).sum() for model in (best, reference)
        )
        ratios.append(ours - theirs)
    assert better.numbers["watch/kl"] == pytest.approx(np.mean(ratios), abs=1e-3)
    assert abs(better.numbers["watch/kl"]) > 0.01
    train(client)
    assert not watch.look(2, client).over
    train(client)
    last = watch.look(3, client)
    assert last.over
    assert last.best == better.best
    assert "from 1.0" in last.alarms["value"]
    assert [row["sign"] for row in StepLog(tmp_path / "alarms.jsonl").read() if row["sign"] == "value"] == ["value"]

    client.load_state(last.best).result()
    watch.look(4, client)
    assert [reply.tokens for reply in asked[4]] == [reply.tokens for reply in asked[1]]  # the same policy and numbers
    assert [reply.tokens for reply in asked[3]] != [reply.tokens for reply in asked[1]]
