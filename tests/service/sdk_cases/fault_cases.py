"""Conformance cases in which something fails on the way; both SDKs run them.

They need a server behind `fault_proxy.py` that knows two texts: data that begin with SLOW take it two seconds, with
CRASH its engine raises half-way, in training and in sampling.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import urllib.request
from typing import Any

import numpy as np
import pytest
import tinker
from case_tools import MODEL, URL, datum, fails, logprobs, name, prompt, sample, trainer
from tinker import types

SLOW, CRASH = "slow and steady", "crash and burn"
LOST = 0
FAR = types.AdamParams(learning_rate=1.0, eps=1e3)
"""With so large an eps the step is as long as the gradient: one that is added twice moves twice as far."""


@pytest.fixture(scope="module")
def service() -> tinker.ServiceClient:
    """One session for all cases."""
    return tinker.ServiceClient()


def _request(path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{URL}{path}", data, {"Content-Type": "application/json", "X-API-Key": "tml-a"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        return json.loads(response.read())


def _let_fail(endpoint: str, status: int, times: int) -> None:
    _request("/faults", {"endpoint": endpoint, "status": status, "times": times})


def _forget_what_was_seen() -> None:
    _let_fail("", LOST, times=0)


def _seen() -> dict[str, list[int]]:
    return _request("/faults")


def _draw(sampler: Any, count: int) -> list[list[int]]:
    """Tokens of so many samples with a seed each, asked for at once."""

    async def draw() -> list[Any]:
        settings = [types.SamplingParams(max_tokens=6, seed=seed) for seed in range(count)]
        return await asyncio.gather(*(sampler.sample_async(prompt(), 1, params) for params in settings))

    return [answer.sequences[0].tokens for answer in asyncio.run(draw())]


def test_10_two_seconds_are_one_request(service: Any, caplog: pytest.LogCaptureFixture) -> None:
    client = trainer(service)
    _forget_what_was_seen()
    with caplog.at_level(logging.INFO, "tinker"):
        start = time.monotonic()
        client.forward_backward([datum(SLOW)], "cross_entropy").result()
    assert time.monotonic() - start >= 2
    assert 1 <= len(_seen()["retrieve_future"]) <= 2
    assert not [record.getMessage() for record in caplog.records if "try_again" in record.getMessage()]


def test_29_samples_that_are_turned_away_on_the_way(service: Any) -> None:
    sampler = service.create_sampling_client(base_model=MODEL)
    expected = _draw(sampler, 12)
    _let_fail("asample", 429, 5)
    assert _draw(sampler, 12) == expected
    assert sorted(_seen()["asample"]) == [200] * 12 + [429] * 5


def test_29_samples_that_a_full_server_turns_away(service: Any) -> None:
    sampler, client = service.create_sampling_client(base_model=MODEL), trainer(service)
    expected = _draw(sampler, 8)
    _forget_what_was_seen()
    passed = client.forward_backward([datum(SLOW)], "cross_entropy")
    assert _draw(sampler, 60)[:8] == expected
    passed.result()
    statuses = _seen()["asample"]
    assert statuses.count(200) == 60
    assert statuses.count(429) == len(statuses) - 60 > 0


def _work(service: Any) -> list[Any]:
    """Numbers that tell whether anything ran twice or not at all."""
    client = trainer(service)
    passed = client.forward_backward([datum()], "cross_entropy")
    client.optim_step(FAR).result()
    assert client.save_state(name()).result().path.startswith(f"tinker://{client.model_id}/weights/")
    sampler = client.save_weights_and_get_sampling_client()
    drawn = sample(sampler, seed=1, max_tokens=8).sequences[0]
    client.optim_step(FAR).result()
    return [passed.result().metrics["loss:sum"], drawn.tokens, drawn.logprobs, logprobs(client, datum()).tolist()]


def test_41_answers_that_are_lost(service: Any) -> None:
    expected = _work(service)
    lost = ("create_model", "forward_backward", "optim_step", "save_weights", "save_weights_for_sampler", "asample")
    for endpoint in (*lost, "retrieve_future"):
        _let_fail(endpoint, LOST, 1)
    assert _work(service) == expected
    seen = _seen()
    assert all(LOST in seen[endpoint] and 200 in seen[endpoint] for endpoint in (*lost, "retrieve_future"))


def test_42_telemetry_under_load(service: Any) -> None:
    busy, wrong = [trainer(service, seed=i) for i in range(3)], trainer(service)
    sampler = service.create_sampling_client(base_model=MODEL)
    data = [datum("so much to learn, so little time. " * 6)] * 24
    _forget_what_was_seen()
    load = [client.forward_backward(data, "cross_entropy") for client in busy for _ in range(3)]
    load += [sampler.sample(prompt(), 1, types.SamplingParams(max_tokens=64, stop=[])) for _ in range(40)]
    # An error waits until its telemetry is through, or for 30 s where that is refused.
    fails(lambda: wrong.forward_backward([datum()], "no such loss").result(), "no such loss", within_s=25)
    for _ in range(10):
        start = time.monotonic()
        _request("/api/v1/telemetry", {"events": [], "session_id": "s"})
        assert time.monotonic() - start < 5  # the SDKs wait no longer
    for future in load:
        future.result()
    statuses = _seen()["telemetry"]
    assert statuses == [200] * len(statuses)
    assert len(statuses) > 10


def test_39_a_pass_that_crashes(service: Any) -> None:
    hit, untouched = trainer(service), trainer(service)
    for client in (hit, untouched):
        client.forward_backward([datum()], "cross_entropy").result()
    with pytest.raises(tinker.RequestFailedError) as caught:
        hit.forward_backward([datum(CRASH)], "cross_entropy").result()
    assert caught.value.category == types.RequestErrorCategory.Server
    for client in (hit, untouched):
        client.optim_step(FAR).result()
    np.testing.assert_array_equal(logprobs(hit, datum()), logprobs(untouched, datum()))


def test_39_a_sample_that_crashes(service: Any) -> None:
    sampler = service.create_sampling_client(base_model=MODEL)
    expected = _draw(sampler, 3)
    with pytest.raises(tinker.RequestFailedError) as caught:
        sample(sampler, CRASH)
    assert caught.value.category == types.RequestErrorCategory.Server
    assert _draw(sampler, 3) == expected
