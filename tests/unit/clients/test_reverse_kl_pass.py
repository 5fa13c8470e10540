"""The pass towards a reference, against distributions that samplers tell token by token."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from service.tiny_chat_model import save_tiny_chat_model
from thumbs.clients import reverse_kl, types
from thumbs.clients.backend import Backend
from thumbs.clients.reverse_kl import ReverseKlDatum
from thumbs.clients.service_client import ServiceClient
from thumbs.clients.store import Store
from thumbs.config.model import ModelConfig
from thumbs.errors import CheckpointError, DataError

STUDENT, REFERENCE, COMPLETION = [10, 11, 12], [20, 21, 22, 23, 24], [30, 31, 32, 33]
WEIGHTS = [1.0, 0.0, 0.5, 2.0]
ADAM = types.AdamParams(learning_rate=1e-2)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = save_tiny_chat_model(tmp_path_factory.mktemp("tiny-chat"))
    store = Store(tmp_path_factory.mktemp("store"))
    backend = Backend(store, {"tiny": ModelConfig(name=str(folder), dtype="float32")})
    yield backend
    backend.close()
    store.close()


@pytest.fixture
def service(backend: Backend) -> Iterator[ServiceClient]:
    with ServiceClient(backend=backend) as service:
        yield service


def client(service: ServiceClient, seed: int, steps: int = 2):
    """A model away from its base."""
    made = service.create_lora_training_client(base_model="tiny", rank=4, seed=seed)
    tokens = np.random.default_rng(seed).integers(6, 90, 24).tolist()
    for _ in range(steps):
        inputs = {"target_tokens": tokens[1:], "weights": [1.0] * 23}
        made.forward_backward([types.Datum(types.ModelInput.from_ints(tokens[:-1]), inputs)], "cross_entropy")
        made.optim_step(ADAM)
    return made


def datum(student=STUDENT, reference=REFERENCE, completion=COMPLETION, weights=WEIGHTS) -> ReverseKlDatum:
    return ReverseKlDatum(
        types.ModelInput.from_ints(student),
        types.ModelInput.from_ints(reference),
        types.TensorData(completion, "int64"),
        types.TensorData(weights, "float32"),
    )


def distributions(sampler, context: list[int], temperature: float) -> np.ndarray:
    """Log p of every token where the completion is predicted [T, V]."""
    prompt = types.ModelInput.from_ints([*context, *COMPLETION])
    vocabulary = 259
    answer = sampler.sample(prompt, 1, types.SamplingParams(max_tokens=1), topk_prompt_logprobs=vocabulary).result()
    rows = np.array([[lp for _, lp in sorted(row)] for row in answer.topk_prompt_logprobs[len(context) :]])
    rows = rows / temperature
    return rows - np.log(np.exp(rows).sum(1, keepdims=True))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_is_the_divergence_of_whole_distributions(backend, service, temperature):
    student, teacher = client(service, 1), client(service, 2)
    path = teacher.save_weights_for_sampler(f"t{temperature}").result().path
    found = backend.forward_backward_reverse_kl(student.model_id, None, [datum()], path, temperature).result()
    logp = distributions(student.save_weights_and_get_sampling_client(), STUDENT, temperature)
    logq = distributions(teacher.save_weights_and_get_sampling_client(), REFERENCE, temperature)
    expected = temperature**2 * (np.array(WEIGHTS) * (np.exp(logp) * (logp - logq)).sum(1)).sum()
    assert expected > 0.01
    assert found.losses == pytest.approx([expected], rel=1e-4)
    assert found.metrics["reverse_kl:mean"] == pytest.approx(expected / 3, rel=1e-4)
    assert (found.metrics["num_samples:sum"], found.metrics["num_tokens:sum"]) == (1, 3)


def test_it_trains_towards_the_reference(backend, service):
    student, teacher = client(service, 1), client(service, 2)
    path = teacher.save_state("state").result().path
    losses = []
    for _ in range(12):
        data = [datum(), datum(reference=STUDENT)]
        losses.append(sum(backend.forward_backward_reverse_kl(student.model_id, None, data, path, 1.0).result().losses))
        student.optim_step(ADAM)
    assert losses[-1] < 0.5 * losses[0]


def test_a_model_is_not_away_from_itself(backend, service):
    student = client(service, 1)
    path = student.save_weights_for_sampler("self").result().path
    data = [datum(reference=STUDENT)]
    found = backend.forward_backward_reverse_kl(student.model_id, None, data, path, 1.0).result()
    assert found.losses == pytest.approx([0.0], abs=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": [1.0]}, "datum 0: target_tokens of shape"),
        ({"completion": [], "weights": []}, "datum 0: target_tokens of shape"),
        ({"completion": [1, 2, 3, 999]}, "datum 0: model_input holds token 999"),
        ({"student": [1] * 300}, "datum 0: student_input and completion have 303 tokens"),
        ({"weights": [1.0, 1.0, float("nan"), 1.0]}, "finite"),
    ],
)
def test_bad_data_is_named(backend, service, changed, message):
    student = client(service, 1, steps=0)
    path = student.save_weights_for_sampler("any").result().path
    with pytest.raises(DataError, match=message):
        backend.forward_backward_reverse_kl(student.model_id, None, [datum(**changed)], path, 1.0)


def test_other_refusals(backend, service, monkeypatch):
    student = client(service, 1, steps=0)
    path = student.save_weights_for_sampler("other").result().path
    with pytest.raises(DataError, match=r"temperature 0\.0"):
        backend.forward_backward_reverse_kl(student.model_id, None, [datum()], path, 0.0)
    with pytest.raises(DataError, match="at least one datum"):
        backend.forward_backward_reverse_kl(student.model_id, None, [], path, 1.0)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        backend.forward_backward_reverse_kl(student.model_id, None, [datum()], f"{path}x", 1.0)
    monkeypatch.setattr(reverse_kl, "MAX_TOKENS", 5)
    with pytest.raises(DataError, match="send fewer at a time"):
        backend.forward_backward_reverse_kl(student.model_id, None, [datum()], path, 1.0)
