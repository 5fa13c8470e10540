"""The real SDKs against a server of ours while connections, queues and the engine fail."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.conformance import SDKS, Sdk, environment_of, outcomes
from service.fault_proxy import FaultProxy
from service.serving import running, served_by
from thumbs.clients.backend import Backend
from thumbs.clients.sample_call import SampleCall
from thumbs.engine.base import Handle, TrainOutput
from thumbs.engine.local import LocalEngine
from thumbs.records import Example
from thumbs.rollout.sampler import OnToken


def begins(tokens: Iterable[int], text: str) -> bool:
    return list(tokens)[: len(text)] == list(text.encode())


class FaultyEngine(LocalEngine):
    """Slow or broken where the first datum says so."""

    def _passes(
        self, handle: Handle, data: Sequence[Example], *args: Any, **how: Any
    ) -> Generator[None, None, TrainOutput]:
        parts = super()._passes(handle, data, *args, **how)
        if begins(data[0].inputs, "slow"):
            time.sleep(2.0)
        if begins(data[0].inputs, "crash"):
            next(parts)  # its gradients are there now
            raise RuntimeError("the device is lost")
        return (yield from parts)


class FaultyBackend(Backend):
    """Breaks where the text that it trains on or samples from says so."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, engine=FaultyEngine(), **options)
        self._sample, self.samplers.sample = self.samplers.sample, self._sample_or_crash

    def _sample_or_crash(self, sampler_id: str, call: SampleCall, on_token: OnToken | None = None) -> Future[Any]:
        return self._sample(sampler_id, call, _crash if begins(call.prompt.to_ints(), "crash") else on_token)


def _crash(*news: Any) -> None:
    raise RuntimeError("the device is lost")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("sdk", SDKS, ids=lambda sdk: sdk.name)
def test_the_sdk_gets_over_what_fails(sdk: Sdk, tmp_path: Path):
    """Every case of fault_cases.py passes."""
    environment_of(sdk)
    with served_by(FaultyBackend, tmp_path, max_queued_samples=24) as server, running(FaultProxy(server)) as url:
        found, printed = outcomes(replace(sdk, cases="fault_cases.py"), url, tmp_path)
    assert [case for case, passed in found.items() if not passed] == [], printed[-5000:]
    assert len(found) == 7
