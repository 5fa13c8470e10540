"""RLHF in the shape of MinT's recipe: `recipe_script.py FOLDER SDK`, a few steps of each stage.

SDK is the module that stands for the service's: `tinker` over HTTP, `thumbs` in process. Nothing else differs. Writes
the metrics of all stages to result.json.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chz
import torch

FOLDER = Path(sys.argv[1])
sdk: Any = importlib.import_module(sys.argv[2])
recipe: Any = importlib.import_module("thumbs.recipe")
MODEL = os.environ["THUMBS_CASE_MODEL"]
RENDERER = recipe.get_recommended_renderer_name(MODEL)
COMMON = {"model_name": MODEL, "lora_rank": 4, "save_every": 0, "eval_every": 0, "renderer_name": RENDERER}
PAIRS = [("Sing.", "la la la", "no"), ("Hum.", "mm mm mm", "no"), ("Whistle.", "fi fi fi", "no")]


def renderer() -> Any:
    return recipe.renderers.get_renderer(RENDERER, recipe.get_tokenizer(MODEL))


class Replies(recipe.supervised.types.SupervisedDataset):
    """The better replies, all of them in each batch."""

    def get_batch(self, index: int) -> list[Any]:
        talks = [[{"role": "user", "content": x}, {"role": "assistant", "content": good}] for x, good, _ in PAIRS]
        return [recipe.conversation_to_datum(talk, renderer(), max_length=200) for talk in talks]

    def __len__(self) -> int:
        return 24


@chz.chz
class RepliesBuilder(recipe.supervised.types.SupervisedDatasetBuilder):
    def __call__(self) -> tuple[Replies, None]:
        return Replies(), None


def example(request: str, reply: str, tokenizer: Any) -> Any:
    """A datum whose weights are 1 on the reply."""
    prompt, tokens = tokenizer.encode(f"{request}\n"), tokenizer.encode(reply)
    whole = prompt + tokens
    weights = [0.0] * (len(prompt) - 1) + [1.0] * len(tokens)
    inputs = {"target_tokens": whole[1:], "weights": weights}
    return sdk.types.Datum(model_input=sdk.types.ModelInput.from_ints(whole[:-1]), loss_fn_inputs=inputs)


def bradley_terry(data: Sequence[Any], logprobs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
    scores = [
        torch.dot(row.float(), datum.loss_fn_inputs["weights"].to_torch().float())
        for row, datum in zip(logprobs, data, strict=True)
    ]
    margins = torch.stack(scores[::2]) - torch.stack(scores[1::2])
    loss = -torch.nn.functional.logsigmoid(margins).mean()
    return loss, {"loss": float(loss.detach()), "accuracy": float((margins > 0).float().mean())}


def preference_model(service: Any) -> tuple[Any, list[float]]:
    """A sampler of the trained weights, and the loss of each step."""
    client = service.create_lora_training_client(base_model=MODEL, rank=4, seed=1)
    tokenizer = client.get_tokenizer()
    data = [example(request, reply, tokenizer) for request, *replies in PAIRS for reply in replies]
    losses = []
    for _ in range(4):
        losses.append(client.forward_backward_custom(data, bradley_terry).result().metrics["loss"])
        client.optim_step(sdk.types.AdamParams(learning_rate=1e-2)).result()
    return client.save_weights_and_get_sampling_client(name="preferences"), losses


@dataclass
class Scored(recipe.MessageEnv):
    """The reward is the mean logprob of the reply by the preference model."""

    request: str
    scorer: Any

    async def initial_observation(self) -> list[Any]:
        return [{"role": "user", "content": self.request}]

    async def step(self, message: Any) -> Any:
        tokenizer = self.scorer.get_tokenizer()
        prompt = tokenizer.encode(f"{self.request}\n")
        tokens = prompt + tokenizer.encode(recipe.renderers.get_text_content(message) or ".")
        logprobs = self.scorer.compute_logprobs(sdk.types.ModelInput.from_ints(tokens)).result()[len(prompt) :]
        reward = sum(logprobs) / len(logprobs)
        return recipe.MessageStepResult(
            reward=reward, episode_done=True, next_messages=[], metrics={"by_preferences": 1.0}
        )


@dataclass(frozen=True)
class Group(recipe.rl.types.EnvGroupBuilder):
    request: str
    scorer: Any

    async def make_envs(self) -> Sequence[Any]:
        return [
            recipe.EnvFromMessageEnv(renderer=renderer(), message_env=Scored(self.request, self.scorer))
            for _ in range(4)
        ]


class Groups(recipe.rl.types.RLDataset):
    def __init__(self, scorer: Any) -> None:
        self.scorer = scorer

    def get_batch(self, index: int) -> list[Group]:
        return [Group(request, self.scorer) for request, *_ in PAIRS[:2]]

    def __len__(self) -> int:
        return 2


@chz.chz
class GroupsBuilder(recipe.rl.types.RLDatasetBuilder):
    scorer: Any

    async def __call__(self) -> tuple[Groups, None]:
        return Groups(self.scorer), None


def rows(stage: str, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / stage / file).read_text(encoding="utf-8").splitlines()]


def main() -> None:
    supervised = recipe.supervised.train.Config(
        log_path=str(FOLDER / "sft"), dataset_builder=RepliesBuilder(), learning_rate=1e-2, **COMMON
    )
    asyncio.run(recipe.supervised.train.main(supervised))
    scorer, losses = preference_model(sdk.ServiceClient())
    reinforced = recipe.rl.train.Config(
        log_path=str(FOLDER / "rl"),
        dataset_builder=GroupsBuilder(scorer=scorer),
        load_checkpoint_path=rows("sft", "checkpoints.jsonl")[-1]["state_path"],
        loss_fn="importance_sampling",
        learning_rate=1e-3,
        temperature=1.0,
        max_tokens=400,  # some replies then end, so that the environment is asked about them
        **COMMON,
    )
    asyncio.run(recipe.rl.train.main(reinforced))
    (FOLDER / "result.json").write_text(json.dumps([rows("sft"), losses, rows("rl")]), encoding="utf-8")


if __name__ == "__main__":
    main()
    if sys.argv[2] != "thumbs":
        # All is written. Once in some runs the SDK's threads abort its interpreter while that ends.
        os._exit(0)
