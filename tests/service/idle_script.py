"""A client with the SDK that does nothing for a while and then trains on. Prints what it saw, and waits to be killed.

python idle_script.py SECONDS SPEED: idle for so long, and heartbeats SPEED times as often as the SDK's every 10 s.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import tinker
from tinker import types
from tinker.lib import internal_client_holder

TOKENS = list(b"hello there")


class Faster:
    """asyncio as the SDK's sessions see it, with shorter sleeps."""

    def __init__(self, speed: float) -> None:
        self._speed = speed

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._speed)


def step(client: Any) -> float:
    """One step; the loss before it."""
    inputs = {"target_tokens": TOKENS[1:], "weights": [1.0] * 10}
    data = [types.Datum(model_input=types.ModelInput.from_ints(TOKENS[:-1]), loss_fn_inputs=inputs)]
    passed = client.forward_backward(data, "cross_entropy")
    client.optim_step(types.AdamParams(learning_rate=1e-2)).result()
    return passed.result().metrics["loss:sum"]


def main() -> None:
    idle_s, speed = map(float, sys.argv[1:3])
    internal_client_holder.asyncio = Faster(speed)
    client = tinker.ServiceClient().create_lora_training_client(base_model=os.environ["THUMBS_CASE_MODEL"], rank=4)
    losses = [step(client)]
    time.sleep(idle_s)
    losses.append(step(client))
    sys.stdout.write(json.dumps({"model_id": client.model_id, "losses": losses}) + "\n")
    sys.stdout.flush()
    time.sleep(3600)


if __name__ == "__main__":
    main()
