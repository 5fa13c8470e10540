"""What each token adds to a loss, against the formulas by hand; and adapters that start alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from service.tiny_chat_model import save_tiny_chat_model
from thumbs.clients import types
from thumbs.clients.backend import Backend
from thumbs.clients.service_client import ServiceClient
from thumbs.clients.store import Store
from thumbs.config.model import ModelConfig

TOKENS = [10, 11, 12, 13, 14, 15, 16]
ADVANTAGES = np.array([0.0, 1.0, -1.0, 2.0, -2.0, 0.5])
OFFSETS = np.array([0.1, 0.9, -0.9, -0.4, 0.6, 0.0])
"""Of the sampler's logprobs from the model's, so that ratios are inside and outside of every bound."""

Formula = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(logprobs, ratios) → losses."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceClient]:
    folder = save_tiny_chat_model(tmp_path_factory.mktemp("tiny-chat"))
    backend = Backend(Store(tmp_path_factory.mktemp("store")), {"tiny": ModelConfig(name=str(folder))})
    yield ServiceClient(backend=backend)
    backend.close()


def pass_over(service: ServiceClient, loss: str, inputs: dict[str, object], forward_only: bool = False):
    client = service.create_lora_training_client(base_model="tiny", rank=4, seed=1)
    given = {"target_tokens": TOKENS[1:], **inputs}
    run = client.forward if forward_only else client.forward_backward
    return run([types.Datum(types.ModelInput.from_ints(TOKENS[:-1]), given)], loss).result()


def clipped(logprobs: np.ndarray, r: np.ndarray) -> np.ndarray:
    return -np.minimum(r * ADVANTAGES, np.clip(r, 0.8, 1.2) * ADVANTAGES)


@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        ("importance_sampling", lambda lp, r: -r * ADVANTAGES),
        ("ppo", clipped),
        ("cispo", lambda lp, r: -np.clip(r, 0.0, 4.0) * ADVANTAGES * lp),
        ("dro", lambda lp, r: -(ADVANTAGES * lp - 0.5 * 0.05 * OFFSETS**2)),
        ("gspo", lambda lp, r: clipped(lp, np.full(6, np.exp(-OFFSETS.mean())))),
    ],
)
def test_losses_of_sampled_tokens(service: ServiceClient, loss: str, formula: Formula):
    here = pass_over(service, "cross_entropy", {}).loss_fn_outputs[0]["logprobs"].to_numpy().astype(np.float64)
    inputs = {"logprobs": (here + OFFSETS).tolist(), "advantages": ADVANTAGES.tolist()}
    if loss == "gspo":
        inputs["sequence_ratio_mask"] = [1.0] * 6
    result = pass_over(service, loss, inputs)
    found = result.loss_fn_outputs[0]["elementwise_loss"].to_numpy()
    np.testing.assert_allclose(found, formula(here, np.exp(-OFFSETS)), rtol=1e-4, atol=1e-5)
    assert result.metrics["loss:sum"] == pytest.approx(found.sum(), rel=1e-4)


def test_clients_without_a_seed_start_alike_and_train_alike(service: ServiceClient):
    datum = types.Datum(types.ModelInput.from_ints(TOKENS[:-1]), {"target_tokens": TOKENS[1:]})
    losses = []
    for seed in (None, None, 5):
        client = service.create_lora_training_client(base_model="tiny", rank=4, seed=seed)
        for _ in range(2):
            passed = client.forward_backward([datum], "cross_entropy").result()
            client.optim_step(types.AdamParams(learning_rate=1e-2)).result()
        losses.append(passed.loss_fn_outputs[0]["elementwise_loss"].data)
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("forward_only", [False, True])
def test_cross_entropy_with_any_weights(service: ServiceClient, forward_only: bool):
    weights = [0.0, -1.5, 1.0, 0.25, 0.0, 2.0]
    output = pass_over(service, "cross_entropy", {"weights": weights}, forward_only).loss_fn_outputs[0]
    np.testing.assert_allclose(
        output["elementwise_loss"].to_numpy(), -np.array(weights) * output["logprobs"].to_numpy(), rtol=1e-5
    )


def test_several_targets_a_place(service: ServiceClient):
    weights = np.arange(12, dtype=np.float32).reshape(6, 2)
    given = {"target_tokens": types.TensorData.from_numpy(np.arange(20, 32).reshape(6, 2))}
    output = pass_over(service, "cross_entropy", {**given, "weights": types.TensorData.from_numpy(weights)})
    found = output.loss_fn_outputs[0]
    assert found["elementwise_loss"].shape == [6, 2]
    np.testing.assert_allclose(found["elementwise_loss"].to_numpy(), -weights * found["logprobs"].to_numpy(), rtol=1e-5)
