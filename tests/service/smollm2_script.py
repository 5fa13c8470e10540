"""Somebody with SmolLM2-135M and the SDK: train, sample, save, resume. Prints what was seen as JSON."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import tinker
from tinker import types

QUESTION, ANSWER = "What is the colour of the sky over Zorgon?", "Over Zorgon the sky is striped in green and violet."


def datum(tokenizer: Any) -> types.Datum:
    """The answer to be learnt, after its question."""
    messages = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer.encode(text, add_special_tokens=False)
    answer = [*tokenizer.encode(ANSWER, add_special_tokens=False), tokenizer.eos_token_id]
    tokens = [*prompt, *answer]
    weights = [0.0] * (len(prompt) - 1) + [1.0] * len(answer)
    inputs = {"target_tokens": tokens[1:], "weights": weights}
    return types.Datum(model_input=types.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs=inputs)


def step(client: Any, data: list[types.Datum]) -> float:
    """One step; the loss before it."""
    passed = client.forward_backward(data, "cross_entropy")
    client.optim_step(types.AdamParams(learning_rate=1e-3)).result()
    return passed.result().metrics["loss:sum"]


def main() -> None:
    service = tinker.ServiceClient()
    client = service.create_lora_training_client(base_model=os.environ["THUMBS_CASE_MODEL"], rank=8, seed=1)
    tokenizer = client.get_tokenizer()
    data = [datum(tokenizer)]
    losses = [step(client, data) for _ in range(10)]
    prompt = data[0].model_input.to_ints()[: data[0].loss_fn_inputs["weights"].data.index(1.0) + 1]
    sampler = client.save_weights_and_get_sampling_client()
    params = types.SamplingParams(max_tokens=24, temperature=0.0)
    drawn = sampler.sample(types.ModelInput.from_ints(prompt), 1, params).result().sequences[0]
    resumed = service.create_training_client_from_state_with_optimizer(client.save_state("ten").result().path)
    seen = {
        "losses": losses,
        "said": tokenizer.decode(drawn.tokens, skip_special_tokens=True),
        "stop_reason": drawn.stop_reason,
        "went_on": [step(client, data) for _ in range(2)],
        "resumed": [step(resumed, data) for _ in range(2)],
    }
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()
