"""One script for both doors: `same_script.py tinker` over HTTP with the SDK, `same_script.py thumbs` in process.

Prints what it saw as JSON, every number in full.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

tinker: Any = importlib.import_module(sys.argv[1])
ADAM = tinker.AdamParams(learning_rate=1e-2)


def datum(text: str, **inputs: Any) -> Any:
    tokens = list(text.encode())
    given = inputs or {"weights": [0.0, 0.5] + [1.0] * (len(tokens) - 3)}
    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs={"target_tokens": tokens[1:], **given}
    )


def numbers(result: Any) -> list[Any]:
    return [result.metrics["loss:sum"], *(output["logprobs"].tolist() for output in result.loss_fn_outputs)]


def main() -> None:
    service = tinker.ServiceClient()
    client = service.create_lora_training_client(base_model=os.environ["THUMBS_CASE_MODEL"], rank=8, seed=3)
    seen: list[Any] = []
    texts = ["hello there", "a much longer text than the other one, for a second micro-batch maybe", "hello you"]
    for _ in range(4):
        passed = client.forward_backward([datum(text) for text in texts], "cross_entropy")
        client.optim_step(ADAM).result()
        seen.append(numbers(passed.result()))
    for loss in ("importance_sampling", "ppo", "cispo", "dro"):
        own = {"logprobs": [-1.0] * 10, "advantages": [0.0, 1.0, -2.0] + [0.5] * 7}
        config = {"beta": 0.1} if loss == "dro" else None
        seen.append(numbers(client.forward_backward([datum("hello there", **own)], loss, config).result()))
    client.optim_step(tinker.AdamParams(learning_rate=1e-2, grad_clip_norm=0.5)).result()

    def custom(data: Any, logprobs: Any) -> tuple[Any, dict[str, float]]:
        return sum((lp**2).sum() for lp in logprobs), {"mine:mean": 1.0}

    seen.append(client.forward_backward_custom([datum(text) for text in texts], custom).result().metrics["loss:sum"])
    client.optim_step(ADAM).result()
    sampler = client.save_weights_and_get_sampling_client()
    prompt = tinker.ModelInput.from_ints(list(b"hello"))
    for settings in (
        {"temperature": 0.8, "seed": 7},
        {"temperature": 0.0},
        {"top_k": 5, "seed": 1},
        {"top_p": 0.5, "seed": 2},
    ):
        params = tinker.SamplingParams(max_tokens=12, stop=[], **settings)
        drawn = sampler.sample(prompt, 3, params).result()
        seen.append([[sequence.tokens, sequence.logprobs] for sequence in drawn.sequences])
    seen.append(sampler.compute_logprobs(prompt).result())
    path = client.save_state("same").result().path
    other = service.create_training_client_from_state_with_optimizer(path)
    passed = other.forward_backward([datum("hello there")], "cross_entropy")
    other.optim_step(ADAM).result()
    seen.append(numbers(passed.result()))
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    if sys.argv[1] != "thumbs":
        # All is said. Once in some runs the SDK's threads abort its interpreter while that ends.
        os._exit(0)
