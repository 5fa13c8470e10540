"""SFT and RL with the recipes, two steps each: `recipe_script.py FOLDER [URL]`, in process or against a server.

Prints the metrics of all steps as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from thumbs import recipe
from thumbs.recipe.rl.types import EnvGroupBuilder, RLDataset, RLDatasetBuilder

FOLDER, URL = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
MODEL = os.environ["THUMBS_CASE_MODEL"]
RENDERER = recipe.get_recommended_renderer_name(MODEL)
COMMON = {"model_name": MODEL, "base_url": URL, "lora_rank": 4, "save_every": 0, "renderer_name": RENDERER}


class Vowels(recipe.MessageEnv):
    """Reward: the share of vowels in the reply."""

    async def initial_observation(self) -> list[recipe.Message]:
        return [{"role": "user", "content": "Sing."}]

    async def step(self, message: recipe.Message) -> recipe.MessageStepResult:
        text = recipe.renderers.get_text_content(message)
        return recipe.MessageStepResult(sum(letter in "aeiou" for letter in text) / (len(text) + 1), True, [])


class Group(EnvGroupBuilder):
    async def make_envs(self) -> list[recipe.EnvFromMessageEnv]:
        renderer = recipe.renderers.get_renderer(RENDERER, recipe.get_tokenizer(MODEL))
        return [
            recipe.EnvFromMessageEnv(renderer, Vowels(), failed_parse_reward=None, context_overflow_reward=None)
            for _ in range(4)
        ]


class Groups(RLDataset):
    def get_batch(self, index: int) -> list[EnvGroupBuilder]:
        return [Group(), Group()]

    def __len__(self) -> int:
        return 2


class Builder(RLDatasetBuilder):
    async def __call__(self) -> tuple[RLDataset, None]:
        return Groups(), None


def main() -> None:
    rows = [[("user", f"Say {word}."), ("assistant", f"{word} {word}")] for word in ("one", "two", "three", "four")]
    conversations = [[{"role": role, "content": text} for role, text in row] for row in rows]
    supervised = recipe.supervised.train.Config(
        log_path=str(FOLDER / "sft"),
        dataset_builder=recipe.supervised.ListSFTDatasetBuilder(
            conversations=conversations, model_name=MODEL, renderer_name=RENDERER, batch_size=2
        ),
        learning_rate=1e-2,
        **COMMON,
    )
    asyncio.run(recipe.supervised.train.main(supervised))
    last = recipe.checkpoints.get_last_checkpoint(FOLDER / "sft")
    assert last is not None
    reinforced = recipe.rl.train.Config(
        log_path=str(FOLDER / "rl"),
        dataset_builder=Builder(),
        load_checkpoint_path=last.state_path,
        learning_rate=1e-3,
        max_tokens=6,
        kl_penalty_coef=0.1,
        **COMMON,
    )
    asyncio.run(recipe.rl.train.main(reinforced))
    lines = [(FOLDER / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines() for name in ("sft", "rl")]
    sys.stdout.write(json.dumps([[json.loads(line) for line in part] for part in lines]))


if __name__ == "__main__":
    main()
