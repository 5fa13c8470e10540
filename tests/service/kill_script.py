"""What a client with the SDK sees when its server is killed and started again.

Prints lines of JSON: first when it waits for a lot, then what became of it.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

import tinker
from tinker import types

MODEL = os.environ["THUMBS_CASE_MODEL"]
SAVES, SAMPLES = 30, 20


def datum(text: str) -> types.Datum:
    tokens = list(text.encode())
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [1.0] * (len(tokens) - 1)},
    )


def train(client: Any) -> list[float]:
    """The losses of three steps."""
    losses = []
    for _ in range(3):
        passed = client.forward_backward([datum("hello there"), datum("good morning to you")], "cross_entropy")
        client.optim_step(types.AdamParams(learning_rate=1e-2)).result()
        losses.append(passed.result().metrics["loss:sum"])
    return losses


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201


def outcome(future: Any) -> str:
    """The path of what was saved, `passed` for other results, or why there is none."""
    try:
        return getattr(future.result(timeout=200), "path", "passed")
    except tinker.RequestFailedError as error:
        return f"failed: {error}"


def main() -> None:
    service = tinker.ServiceClient()
    client, other = (
        service.create_lora_training_client(
            base_model=MODEL, rank=8, seed=seed, user_metadata={"renderer_name": "qwen3"}
        )
        for seed in (3, 4)
    )
    train(client)
    state = client.save_state("state").result().path
    uninterrupted = train(client)
    sampler = client.save_weights_and_get_sampling_client()
    params = types.SamplingParams(max_tokens=200, stop=[])
    drawing = [sampler.sample(types.ModelInput.from_ints([i]), 1, params) for i in range(SAMPLES)]
    # Clients take turns: while one pass takes seconds, the other client's checkpoints are written.
    waiting = [client.forward_backward([datum("a lot to learn. " * 12)] * 1000, "cross_entropy")]
    waiting += [other.save_state(f"on-the-way-{i}") for i in range(SAVES)]
    say(model_id=client.model_id)
    say(outcomes=[outcome(future) for future in waiting], drawn=[outcome(future) for future in drawing])

    rest = service.create_rest_client()
    resumed = service.create_training_client_from_state_with_optimizer(state)
    run = rest.get_training_run_by_tinker_path(state).result()
    listed = [checkpoint.tinker_path for checkpoint in rest.list_user_checkpoints(limit=100).result().checkpoints]
    whole = []
    for path in listed:
        again = service.create_training_client_from_state_with_optimizer(path)
        result = again.forward_backward([datum("hello there")], "cross_entropy").result()
        whole.append(math.isfinite(result.metrics["loss:sum"]))
    say(
        uninterrupted=uninterrupted,
        resumed=train(resumed),
        renderer=run.user_metadata["renderer_name"],
        state=state,
        listed=listed,
        whole=whole,
        sessions=rest.list_sessions().result().sessions,
    )


if __name__ == "__main__":
    main()
