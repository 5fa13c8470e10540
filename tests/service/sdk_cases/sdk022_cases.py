"""Conformance cases of SDK 0.22, as `mint` 0.2.0 brings it, with a key of MinT's kind."""

from __future__ import annotations

import io
import json
import os
import tarfile
import urllib.request
import uuid
from typing import Any

import mint
import numpy as np
import pytest
from case_tools import MODEL, TOLERANCE, URL, datum, fails, logprobs, name, prompt, step, trainer
from shared_cases import *  # noqa: F403
from shared_rest_cases import *  # noqa: F403


@pytest.fixture(scope="module")
def service() -> mint.ServiceClient:
    """One session for the cases that do not need their own."""
    return mint.ServiceClient()


def test_46_archive(service: Any) -> None:
    from safetensors.numpy import load

    client = trainer(service)
    step(client, [datum()])
    path = client.save_weights_for_sampler(name()).result().path
    url = service.create_rest_client().get_checkpoint_archive_url_from_tinker_path(path).result().url
    with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310
        packed = io.BytesIO(response.read())
    with tarfile.open(fileobj=packed) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}
    assert files["checkpoint_complete"] == b""
    assert json.loads(files["adapter_config.json"])["peft_type"] == "LORA"
    assert load(files["adapter_model.safetensors"])


def test_53_a_key_of_mint() -> None:
    assert os.environ["MINT_API_KEY"].startswith("sk-")
    service = mint.ServiceClient()
    assert MODEL in [model.model_name for model in service.get_server_capabilities().supported_models]


def test_54_upload_and_resume(service: Any) -> None:
    client = trainer(service)
    step(client, [datum()])
    path, expected = client.save_state(name()).result().path, logprobs(client, datum())
    url = service.create_rest_client().get_checkpoint_archive_url_from_tinker_path(path).result().url
    with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310
        archive = response.read()
    uploaded = _upload(archive)
    for resumed in (
        service.create_training_client_from_state_with_optimizer(uploaded),
        service.create_training_client_from_state(uploaded),
    ):
        np.testing.assert_allclose(logprobs(resumed, datum()), expected, atol=1e-5)
    other = trainer(service, seed=5)
    other.load_state(uploaded.replace("tinker://", "mint://")).result()
    np.testing.assert_allclose(logprobs(other, datum()), expected, atol=1e-5)


def _upload(archive: bytes) -> str:
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.tar.gz"\r\n\r\n'.encode()
    headers = {
        "X-API-Key": os.environ["TINKER_API_KEY"],
        "Content-Type": f"multipart/form-data; boundary={boundary}",
    }
    body = head + archive + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(f"{URL}/api/v1/checkpoints/upload", body, headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        return json.loads(response.read())["path"]


def test_55_interpolation(service: Any) -> None:
    client = trainer(service)
    step(client, [datum()])
    path = client.save_weights_for_sampler(name()).result().path
    mixed = mint.mint.interpolate_checkpoints(service, source_paths=[path, path], coefficients=[0.25, 0.75])
    one, two = (service.create_sampling_client(model_path=each) for each in (path, mixed.path))
    found, expected = (each.compute_logprobs(prompt()).result()[1:] for each in (two, one))
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_55_reverse_kl_towards_a_reference(service: Any) -> None:
    client, reference = trainer(service), trainer(service, seed=2)
    step(reference, [datum()])
    path = reference.save_weights_for_sampler(name()).result().path
    item = mint.mint.ReverseKLDatum(
        student_input=prompt("hello"),
        reference_input=prompt("what I know: hello"),
        target_tokens=mint.types.TensorData(data=list(b" there"), dtype="int64", shape=[6]),
        weights=mint.types.TensorData(data=[1.0] * 6, dtype="float32", shape=[6]),
    )
    losses = []
    for _ in range(6):  # passes without numbers between steps with numbers
        found = mint.mint.forward_backward_reverse_kl(client, reference_model_path=path, data=[item])
        losses.append(found.outputs[0].loss.data[0])
        client.optim_step(mint.types.AdamParams(learning_rate=1e-2)).result()
    assert found.metrics["reverse_kl:mean"] == pytest.approx(losses[-1] / 6, rel=1e-5)
    assert 0 < losses[-1] < 0.5 * losses[0]
    path = f"{path}x"
    fails(lambda: mint.mint.forward_backward_reverse_kl(client, reference_model_path=path, data=[item]), path)
    assert np.isfinite(step(client, [datum()]))


@pytest.mark.parametrize("beta", [0.05])
def test_48_dro(service: Any, beta: float) -> None:
    client = trainer(service)
    n = len("hello there") - 1
    here = logprobs(client, datum())
    sampled, advantages = here - 0.2, np.linspace(-1, 1, n)
    given = {"logprobs": sampled.tolist(), "advantages": advantages.tolist()}
    result = client.forward_backward([datum(**given)], "dro", loss_fn_config={"beta": beta}).result()
    expected = -(here * advantages - 0.5 * beta * 0.2**2).sum()
    assert result.metrics["loss:sum"] == pytest.approx(expected, rel=5e-3, abs=1e-2)
