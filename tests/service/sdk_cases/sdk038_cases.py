"""Conformance cases of SDK 0.38 and later."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinker
from case_tools import MODEL, TOLERANCE, URL, datum, fails, name, outputs, prompt, sample, step, trainer
from shared_cases import *  # noqa: F403
from shared_rest_cases import *  # noqa: F403
from tinker import types

PATIENCE_S = float(os.environ.get("THUMBS_CASE_GAP_S", "30")) + 15


@pytest.fixture(scope="module")
def service() -> tinker.ServiceClient:
    """One session for the cases that do not need their own."""
    return tinker.ServiceClient()


def test_06_sequences_have_ids(service: Any) -> None:
    answer = sample(service.create_sampling_client(base_model=MODEL), n=3)
    assert len({sequence.sequence_id for sequence in answer.sequences}) == 3


def test_06_alternatives_of_sampled_tokens(service: Any) -> None:
    sampler = service.create_sampling_client(base_model=MODEL)
    params = types.SamplingParams(max_tokens=3, stop=[])
    sequence = sampler.sample(prompt(), 1, params, topk_sample_logprobs=4).result().sequences[0]
    assert [len(row) for row in sequence.topk_logprobs] == [4, 4, 4]


def test_31_last_prompt_logprobs(service: Any) -> None:
    sampler = service.create_sampling_client(base_model=MODEL)
    every = sampler.compute_logprobs(prompt("hello")).result()
    params = types.SamplingParams(max_tokens=1)
    some = sampler.sample(prompt("hello"), 1, params, include_prompt_logprobs=True, prompt_logprobs_last_n=2).result()
    assert some.prompt_logprobs[:3] == [None] * 3
    np.testing.assert_allclose(some.prompt_logprobs[3:], every[3:], atol=1e-4)


@pytest.mark.parametrize("sparse", [False, True])
def test_31_logprobs_of_chosen_ids(service: Any, sparse: bool) -> None:
    import torch

    sampler = service.create_sampling_client(base_model=MODEL)
    ids = torch.full((4, 3), -1)
    ids[:, 1] = torch.tensor(list(b"ello"))
    asked = types.TensorData.from_torch_sparse(ids, pad_value=-1) if sparse else types.TensorData.from_torch(ids)
    params = types.SamplingParams(max_tokens=1)
    answer = sampler.sample(prompt("hello"), 1, params, True, target_prompt_logprobs=asked).result()
    found = answer.target_prompt_logprobs.to_torch().numpy()
    np.testing.assert_allclose(found[:, 1], answer.prompt_logprobs[1:], atol=1e-4)
    assert (found[:, [0, 2]] == 0).all()


def test_31_tokens_drawn_in_the_place_of_others(service: Any) -> None:
    sampler = service.create_sampling_client(base_model=MODEL)
    params = types.SamplingParams(max_tokens=1, temperature=0.0)
    answer = sampler.sample(prompt("hello"), 1, params, topk_prompt_logprobs=1, prompt_alt_tokens_k=2).result()
    likeliest = [row[0] for row in answer.topk_prompt_logprobs[1:]]
    drawn = answer.prompt_alt_tokens
    np.testing.assert_array_equal(drawn.tokens.to_torch().numpy().T, [[token for token, _ in likeliest]] * 2)
    np.testing.assert_allclose(drawn.logprobs.to_torch().numpy()[:, 0], [lp for _, lp in likeliest], atol=1e-4)


@pytest.mark.parametrize("sparse", [False, True])
def test_32_several_targets_a_position(service: Any, sparse: bool) -> None:
    import torch

    targets = torch.tensor([[101, 0], [108, 109], [108, 0], [111, 112]])
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0], [-0.25, 2.0]])
    pack = types.TensorData.from_torch_sparse if sparse else types.TensorData.from_torch
    given = {"target_tokens": pack(targets), "weights": pack(weights)}
    wide = types.Datum(model_input=prompt("hell"), loss_fn_inputs=given)
    client = trainer(service)
    result = client.forward_backward([wide], "cross_entropy").result()
    found = outputs(result)
    assert found.shape == (4, 2)
    assert result.metrics["loss:sum"] == pytest.approx(-(weights.numpy() * found).sum(), rel=1e-3)
    plain = outputs(client.forward([datum("hello")], "cross_entropy").result())
    np.testing.assert_allclose(found[[0, 1, 2, 3], [0, 0, 0, 0]], plain, atol=TOLERANCE)


def test_40_a_submission_that_never_comes(service: Any) -> None:
    client = trainer(service)
    pointer = types.ImageAssetPointerChunk(location="x", format="png", expected_tokens=1)
    broken = types.Datum(model_input=types.ModelInput(chunks=[pointer]), loss_fn_inputs=datum().loss_fn_inputs)
    fails(lambda: client.forward_backward([broken], "cross_entropy").result(), within_s=PATIENCE_S)
    client.forward_backward([datum()], "cross_entropy").result(timeout=PATIENCE_S)


def _post(path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    headers = {"X-API-Key": os.environ["TINKER_API_KEY"], "Content-Type": "application/json"}
    request = urllib.request.Request(f"{URL}/api/v1/{path}", json.dumps(body).encode(), headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            return response.status, json.loads(response.read() or b"{}")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_41_the_same_submission_runs_once(service: Any) -> None:
    client = trainer(service)
    client.forward_backward([datum()], "cross_entropy").result()
    body = {"model_id": client.model_id, "seq_id": 2, "adam_params": {"learning_rate": 0.01}}
    first, second = _post("optim_step", body), _post("optim_step", body)
    assert first == second
    status, error = _post("optim_step", {**body, "adam_params": {"learning_rate": 0.5}})
    assert status == 400
    assert "2" in error["detail"]
    result = _post("retrieve_future", {"request_id": first[1]["request_id"]})
    assert result == _post("retrieve_future", {"request_id": first[1]["request_id"]})
    passed = {
        "forward_backward_input": {"data": [], "loss_fn": "cross_entropy"},
        "model_id": client.model_id,
        "seq_id": 3,
    }
    assert "request_id" in _post("forward_backward", passed)[1]


@pytest.mark.parametrize("command", [["checkpoint", "list"], ["run", "list"], ["model", "list"]])
def test_44_command_line(service: Any, command: list[str]) -> None:
    trainer(service).save_state(name()).result()
    call = [sys.executable, "-m", "tinker.cli", *command]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    if done.returncode == -signal.SIGABRT:  # the SDK's process aborts now and then while its interpreter ends
        done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_47_download_file_by_file(service: Any, tmp_path: Path) -> None:
    from safetensors.numpy import load

    client = trainer(service)
    step(client, [datum()])
    path = client.save_weights_external(name()).result().path
    urls = service.create_rest_client().get_external_weights_urls(path).result().urls
    files = {}
    for file, url in urls.items():
        with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310
            files[file] = response.read()
    assert json.loads(files["adapter_config.json"])["r"] == 8
    assert load(files["adapter_model.safetensors"])
    state = client.save_state(name()).result().path
    command = [sys.executable, "-m", "tinker.cli", "checkpoint", "download", state, "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("adapter_model.safetensors"))


def test_48_gspo(service: Any) -> None:
    client = trainer(service)
    n = len("hello there") - 1
    here = outputs(client.forward([datum()], "cross_entropy").result())
    given = {"logprobs": (here - 0.1).tolist(), "advantages": [1.0] * n, "sequence_ratio_mask": [1.0] * n}
    result = client.forward_backward([datum(**given)], "gspo").result()
    assert result.metrics["loss:sum"] == pytest.approx(-n * np.exp(0.1), rel=1e-2)


def test_51_a_session_that_ends() -> None:
    with tinker.ServiceClient() as service:
        client = trainer(service)
        step(client, [datum()])
        run_id = client.model_id
    status, answer = _post("optim_step", {"model_id": run_id, "seq_id": 3, "adam_params": {}})
    _, result = _post("retrieve_future", {"request_id": answer["request_id"]})
    assert status == 200
    assert "error" in result


def test_45_copies(service: Any) -> None:
    client, rest = trainer(service), service.create_rest_client()
    path = client.save_weights_for_sampler(name()).result().path
    copied = rest.copy_weights(path, "project").result()
    rest.delete_checkpoint_from_tinker_path(path).result()
    sampler = service.create_sampling_client(model_path=copied)
    assert sample(sampler, max_tokens=2).sequences[0].tokens


def test_45_searching_sessions() -> None:
    marker = name()
    service = tinker.ServiceClient(user_metadata={"marker": marker})
    session = trainer(service).model_id.partition(":")[0]
    request = types.SessionSearchRequest(user_metadata={"marker": marker}, statuses=[types.ActiveSessionStatusQuery()])
    found = service.create_rest_client().search_sessions(request).result().sessions
    assert [each.session_id for each in found] == [session]
    assert found[0].status.type == "active"


def _draw(pickled: bytes) -> list[list[int]]:
    sampler = pickle.loads(pickled)  # noqa: S301
    return [sample(sampler, max_tokens=2).sequences[0].tokens for _ in range(2)]


def test_52_samplers_in_other_processes(service: Any) -> None:
    sampler = service.create_sampling_client(base_model=MODEL)
    sample(sampler)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert all(len(drawn) == 2 for drawn in pool.map(_draw, [pickle.dumps(sampler)] * 2))
