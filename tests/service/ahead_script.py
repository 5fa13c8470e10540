"""Draws from the weights of one step while the next one computes; its pass ends once the file `drawn` is there."""

import json
import os
import sys
from pathlib import Path

import tinker
from tinker import types

service = tinker.ServiceClient()
client = service.create_lora_training_client(base_model=os.environ["THUMBS_CASE_MODEL"], rank=4, seed=3)


def passed(text: str):
    ids = list(text.encode())
    given = {"target_tokens": ids[1:], "weights": [1.0] * (len(ids) - 1)}
    datum = types.Datum(model_input=types.ModelInput.from_ints(ids[:-1]), loss_fn_inputs=given)
    return client.forward_backward([datum], "cross_entropy"), client.optim_step(types.AdamParams(learning_rate=1e-2))


def draw(sampler: tinker.SamplingClient) -> list[list[int]]:
    params = types.SamplingParams(max_tokens=8, seed=1, stop=[])
    reply = sampler.sample(types.ModelInput.from_ints([104, 105]), num_samples=3, sampling_params=params).result()
    return [sequence.tokens for sequence in reply.sequences]


for future in passed("the first step"):
    future.result()
old = client.save_weights_and_get_sampling_client()
draws = [draw(old)]
step = passed("ahead of time")
draws.append(draw(old))
Path(os.environ["HF_HOME"]).with_name("drawn").touch()
for future in step:
    future.result()
draws.append(draw(client.save_weights_and_get_sampling_client()))
sys.stdout.write(json.dumps({"draws": draws}))
