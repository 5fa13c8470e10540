"""Many clients at once with the SDK: eight train, two draw a hundred samples each, one asks how things are.

Prints as JSON when, in seconds, it began, each step of each trainer and each sample was done, and how long control
calls took.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tinker
from tinker import types

MODEL = os.environ["THUMBS_CASE_MODEL"]
TRAINERS, STEPS, SAMPLERS, SAMPLES = 8, 4, 2, 100
TEXT = list(b"the quick brown fox jumps over the lazy dog, again and again. " * 3)
DATA = [
    types.Datum(
        model_input=types.ModelInput.from_ints(TEXT[:-1]),
        loss_fn_inputs={"target_tokens": TEXT[1:], "weights": [1.0] * (len(TEXT) - 1)},
    )
] * 48


def train(client: Any) -> list[float]:
    """When each step was done; all are asked for at once."""
    steps = []
    for _ in range(STEPS):
        client.forward_backward(DATA, "cross_entropy")
        steps.append(client.optim_step(types.AdamParams(learning_rate=1e-3)))
    return [step.result() and time.monotonic() for step in steps]


def draw(sampler: Any) -> list[float]:
    """When each sample was done."""

    async def one(i: int) -> float:
        prompt = types.ModelInput.from_ints([i, *TEXT[:20]])
        answer = await sampler.sample_async(prompt, 1, types.SamplingParams(max_tokens=100, stop=[]))
        assert len(answer.sequences[0].tokens) == 100
        return time.monotonic()

    async def every() -> list[float]:
        return await asyncio.gather(*(one(i) for i in range(SAMPLES)))

    return asyncio.run(every())


def heartbeat(session_id: str) -> None:
    """One, as the SDK sends it."""
    headers = {"X-API-Key": os.environ["TINKER_API_KEY"], "Content-Type": "application/json"}
    body = json.dumps({"session_id": session_id, "type": "session_heartbeat"}).encode()
    request = urllib.request.Request(  # noqa: S310
        f"{os.environ['TINKER_BASE_URL']}/api/v1/session_heartbeat", body, headers
    )
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        response.read()


def ask(client: Any, done: threading.Event) -> list[float]:
    """How long control calls took, seconds, one after the other until it is done."""
    session_id, seconds = client.model_id.partition(":")[0], []
    while not done.is_set():
        for call in (client.get_info, lambda: heartbeat(session_id)):
            start = time.monotonic()
            call()
            seconds.append(time.monotonic() - start)
        time.sleep(0.01)
    return seconds


def main() -> None:
    clients = [
        tinker.ServiceClient().create_lora_training_client(base_model=MODEL, rank=8, seed=i) for i in range(TRAINERS)
    ]
    samplers = [tinker.ServiceClient().create_sampling_client(base_model=MODEL) for _ in range(SAMPLERS)]
    done, start = threading.Event(), time.monotonic()
    with ThreadPoolExecutor(TRAINERS + SAMPLERS + 1) as pool:
        asking = pool.submit(ask, clients[0], done)
        training, drawing = [pool.submit(train, x) for x in clients], [pool.submit(draw, x) for x in samplers]
        try:
            seen = {"steps": [x.result() for x in training], "samples": [x.result() for x in drawing]}
        finally:
            done.set()
    sys.stdout.write(json.dumps({**seen, "start": start, "control": asking.result()}))


if __name__ == "__main__":
    main()
