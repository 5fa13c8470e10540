"""Conformance cases that both SDKs run: errors, looking after checkpoints, other losses."""

from __future__ import annotations

import math
import os
import time
import urllib.request
from typing import Any

import numpy as np
import pytest
import tinker
from case_tools import MODEL, URL, datum, fails, logprobs, name, sample, step, trainer
from tinker import types

# ---- tier 3 ----


def test_33_unknown_base_model(service: Any) -> None:
    fails(lambda: service.create_lora_training_client(base_model="no/such", rank=8).model_id, MODEL)


@pytest.mark.parametrize("kind", ["missing", "unknown loss", "lengths", "vocabulary", "nan"])
def test_34_a_bad_pass_fails_alone(service: Any, kind: str) -> None:
    client = trainer(service)
    n = len("hello there") - 1
    bad, loss = datum(), "cross_entropy"
    if kind == "missing":
        bad, loss = datum(logprobs=[0.0] * n), "importance_sampling"
    elif kind == "unknown loss":
        loss = "no_such_loss"
    elif kind == "lengths":
        bad = datum(weights=[1.0] * (n - 1))
    elif kind == "vocabulary":
        bad = types.Datum(
            model_input=bad.model_input,
            loss_fn_inputs={"target_tokens": [10**6] * n, "weights": [1.0] * n},
        )
    else:
        bad = datum(weights=[math.nan] * n)
    error = fails(lambda: client.forward_backward([datum(), bad], loss).result(), within_s=5)
    if kind == "missing":
        assert "advantages" in str(error)
    if isinstance(error, tinker.RequestFailedError):  # some are found by the client itself
        assert error.category == types.RequestErrorCategory.User
    assert math.isfinite(step(client, [datum()]))


def test_35_too_long_and_out_of_the_vocabulary(service: Any) -> None:
    sampler = service.create_sampling_client(base_model=MODEL)
    fails(lambda: sample(sampler, "x" * 5000), "context")
    outside = types.ModelInput.from_ints([1, 10**6])
    fails(lambda: sampler.sample(outside, 1, types.SamplingParams(max_tokens=1)).result(), "1000000")
    assert sample(sampler).sequences


def test_36_a_taken_name(service: Any) -> None:
    client, taken = trainer(service), name()
    client.save_state(taken).result()
    fails(lambda: client.save_state(taken).result(), taken)
    step(client, [datum()])


def test_37_a_checkpoint_that_is_not_there(service: Any) -> None:
    client = trainer(service)
    path = client.save_weights_for_sampler(name()).result().path
    service.create_rest_client().delete_checkpoint_from_tinker_path(path).result()
    for gone in (path, f"tinker://{client.model_id}/sampler_weights/never"):
        fails(lambda gone=gone: sample(service.create_sampling_client(model_path=gone)), gone)


if "THUMBS_CASE_NEEDS_KEY" in os.environ:

    def test_38_a_wrong_key() -> None:
        kind = os.environ["TINKER_API_KEY"].partition("-")[0]
        error = fails(lambda: tinker.ServiceClient(api_key=f"{kind}-wrong").get_server_capabilities(), "key")
        assert isinstance(error, tinker.AuthenticationError)


def test_42_telemetry_answers_at_once() -> None:
    request = urllib.request.Request(  # noqa: S310
        f"{URL}/api/v1/telemetry",
        b'{"events":[],"platform":"x","sdk_version":"x","session_id":"sessionless-x"}',
        {"X-API-Key": os.environ["TINKER_API_KEY"], "Content-Type": "application/json"},
    )
    start = time.monotonic()
    with urllib.request.urlopen(request) as response:  # noqa: S310
        assert 200 <= response.status < 300
    assert time.monotonic() - start < 1


# ---- tier 4 ----


def test_45_looking_after_checkpoints(service: Any) -> None:
    client, saved, rest = trainer(service), name(), service.create_rest_client()
    path = client.save_weights_for_sampler(saved).result().path

    def found() -> Any:
        listed = rest.list_checkpoints(client.model_id).result().checkpoints
        return next((c for c in listed if c.tinker_path == path), None)

    start = time.monotonic()
    rest.publish_checkpoint_from_tinker_path(path).result()
    rest.publish_checkpoint_from_tinker_path(path).result()
    assert time.monotonic() - start < 1
    assert found().public
    rest.unpublish_checkpoint_from_tinker_path(path).result()
    assert not found().public
    rest.set_checkpoint_ttl_from_tinker_path(path, 7200).result()
    assert abs(found().expires_at.timestamp() - time.time() - 7200) < 60
    rest.set_checkpoint_ttl_from_tinker_path(path, None).result()
    assert found().expires_at is None
    rest.delete_checkpoint_from_tinker_path(path).result()
    assert found() is None


@pytest.mark.parametrize("loss", ["ppo", "cispo"])
def test_48_clipped_losses(service: Any, loss: str) -> None:
    client = trainer(service)
    n = len("hello there") - 1
    here = logprobs(client, datum())
    ratios = np.exp(np.linspace(-1, 1, n))
    advantages = np.where(np.arange(n) % 2, 1.5, -0.5)
    given = {"logprobs": (here - np.log(ratios)).tolist(), "advantages": advantages.tolist()}
    config = {"clip_low_threshold": 0.7, "clip_high_threshold": 1.3}
    result = client.forward_backward([datum(**given)], loss, loss_fn_config=config).result()
    clipped = np.clip(ratios, 0.7, 1.3)
    if loss == "ppo":
        expected = -np.minimum(ratios * advantages, clipped * advantages).sum()
    else:
        expected = -(clipped * here * advantages).sum()
    assert result.metrics["loss:sum"] == pytest.approx(expected, rel=5e-3)


def test_49_gradient_clipping(service: Any) -> None:
    def moved(clip: float) -> float:
        client = trainer(service)
        before = logprobs(client, datum())
        client.forward_backward([datum(weights=[1e4] * 10)], "cross_entropy").result()
        client.optim_step(types.AdamParams(learning_rate=1e-4, eps=1.0, grad_clip_norm=clip)).result()
        return float(np.abs(logprobs(client, datum()) - before).max())

    # With eps far above the clipped gradient, Adam's step is small; unclipped it is a whole step.
    assert moved(1e-6) < 0.1 * moved(0.0)


def test_50_what_a_model_is(service: Any) -> None:
    client = trainer(service, rank=4, train_mlp=False)
    info = client.get_info()
    assert (info.is_lora, info.lora_rank, info.model_data.model_name) == (True, 4, MODEL)
    path = client.save_state(name()).result().path
    weights = service.create_rest_client().get_weights_info_by_tinker_path(path).result()
    assert (weights.base_model, weights.is_lora, weights.lora_rank) == (MODEL, True, 4)
    assert (weights.train_mlp, weights.train_attn) == (False, True)


def test_56_images_are_refused_by_name(service: Any) -> None:
    sampler = service.create_sampling_client(base_model=MODEL)
    image = types.ImageChunk(data=b"\x89PNG", format="png", expected_tokens=3)
    picture = types.ModelInput(chunks=[types.EncodedTextChunk(tokens=[1, 2]), image])
    fails(lambda: sampler.sample(picture, 1, types.SamplingParams(max_tokens=1)).result(), "image")
