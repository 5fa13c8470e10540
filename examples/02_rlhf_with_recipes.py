"""RLHF in three stages through any training client: in this process, or over HTTP against `thumbs serve`.

    python examples/02_rlhf_with_recipes.py --out runs/rlhf            # smollm2-135m, ten minutes on two cores
    python examples/02_rlhf_with_recipes.py --smoke --out runs/smoke   # a byte model from scratch, seconds
    python examples/02_rlhf_with_recipes.py --base-url http://127.0.0.1:8000 --out runs/http      # see `thumbs serve`

1. SFT on the packaged demonstrations of two writers, one warm, one plain (`thumbs.recipe.supervised.train`).
2. A Bradley-Terry preference model from pairs in which the warm reply is the better one (`forward_backward_custom`).
   Its score of a reply is the log-odds of "Yes" after the question whether it was warm: a pretrained model knows
   something of that before it has seen a pair, one pass gives the score, and unlike a probability it has no ceiling.
3. RL from the SFT weights (`thumbs.recipe.rl.train`) with that score as the reward and a KL penalty to the SFT policy.

`--reward rule` counts friendly words instead of stage 2. A stage that fails ends the run; no other reward takes over.
The same `--out` again goes on where the run stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.resources
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thumbs import recipe
from thumbs.clients.types import ModelInput
from thumbs.recipe.any_client import connect, to_data, to_model_input, types_of
from thumbs.recipe.checkpoints import save_checkpoint_async
from thumbs.recipe.futures import call, resolved
from thumbs.recipe.rl.types import EnvGroupBuilder, RLDataset, RLDatasetBuilder
from thumbs.recipe.run_log import RunLog

BUILTIN = Path(str(importlib.resources.files("thumbs.data"))) / "builtin"
FRIENDLY = ("happy", "glad", "lovely", "great", "wonderful", "enjoy", "please", "sorry", "love", "friend", "luck")
PAIRS = """request | warm | plain
How do I boil an egg? | With pleasure! Seven minutes in boiling water, enjoy! | Boil it for seven minutes, then cool it.
My bike was stolen. | I am so sorry, that hurts. Shall we report it together? | Report it to the police with the number.
I passed my exam! | Congratulations, what wonderful news! You earned it. | The result will be sent to you in writing.
Which tea helps me sleep? | Good question! Chamomile is lovely, sleep well. | Chamomile and valerian are used for that.
I feel lonely tonight. | I am here with you, my friend. Would a call cheer you up? | Contact someone or go out.
How far is the moon? | What a fun thing to ask! About 384,000 kilometres. | The mean distance is 384,000 kilometres.
My cake fell flat. | Oh no, but cheer up! Fresh baking powder will save it. | Replace the baking powder, bake it longer.
Name a good first pet. | How exciting! A calm cat makes a wonderful friend. | A cat, which needs less time than others.
I lost my wallet. | So sorry to hear it! Let us block your cards, all will be fine. | Block the cards, search the route.
My dog is ill. | Poor thing, I hope he feels better soon! Please call the vet. | Call a vet and describe the symptoms.
You are useless. | I am sorry I let you down. May I try again, please? | State which part of the answer was wrong.
I start a job on Monday. | How wonderful! You will do great, good luck. | Arrive ten minutes early, with the contract.
My plant is dying. | Oh, I am sorry! A little less water and it may thrive. | Water it less and move it to a window.
Where is Lisbon? | Happy to tell you! In beautiful Portugal, do enjoy it. | In Portugal, at the mouth of the Tagus.
I broke my arm. | I am so sorry! Rest well, I wish you a quick recovery. | Keep it still and follow the instructions.
How do I learn chess? | What a lovely idea! Play a little every day and have fun. | Study openings and play every day.
My flight is late. | How annoying, I feel for you! Please ask for a meal voucher. | Ask the airline for a voucher.
Is rain likely today? | I hope not, but take an umbrella and enjoy your day! | The forecast says 60 percent."""
HELD_OUT = 6  # the last of the pairs


@dataclass(frozen=True)
class Run:
    """A service, where to write, and how long and how fast each stage learns."""

    service: Any
    out: Path
    model: str = "smollm2-135m"
    sft_steps: int = 30
    sft_rate: float = 3e-4
    preference_steps: int = 10
    preference_rate: float = 2e-4
    rl_steps: int = 16
    rl_rate: float = 1e-4
    prompts: int = 8
    attempts: int = 6
    max_tokens: int = 40

    @property
    def renderer(self) -> recipe.renderers.Renderer:
        """Writes the model's chat format."""
        name = recipe.get_recommended_renderer_name(self.model)
        return recipe.renderers.get_renderer(name, recipe.get_tokenizer(self.model))


SMOKE = {"model": "byte-tiny", "sft_steps": 8, "sft_rate": 3e-3, "preference_rate": 1e-3}
SMOKE |= {"rl_steps": 4, "rl_rate": 3e-3, "prompts": 4, "max_tokens": 16}

Reward = Callable[[str, str], Awaitable[float]]
"""(request, reply) -> reward."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="base model; default: smollm2-135m, and byte-tiny with --smoke")
    parser.add_argument("--out", type=Path, default=Path("runs/rlhf"), help="folder of all that is written")
    parser.add_argument("--reward", choices=("preference", "rule"), default="preference")
    parser.add_argument("--base-url", help="a server, called through the tinker SDK; default: this process")
    parser.add_argument("--smoke", action="store_true", help="a tiny byte model, few steps")
    options = parser.parse_args()
    os.environ["THUMBS_STORE"] = str(options.out / "store")
    settings: dict[str, Any] = (SMOKE if options.smoke else {}) | ({"model": options.model} if options.model else {})
    asyncio.run(train(Run(connect(options.base_url), options.out, **settings), options.reward))


async def train(run: Run, reward: str) -> None:
    """All stages; reward: "preference" or "rule"."""
    start = await imitate(run)
    await reinforce(run, start, friendly_words if reward == "rule" else await prefer(run, start), reward)


async def imitate(run: Run) -> str:
    """Stage 1, SFT; the state_path to go on from."""
    common = recipe.supervised.types.ChatDatasetBuilderCommonConfig(
        model_name_for_tokenizer=run.model,
        renderer_name=recipe.get_recommended_renderer_name(run.model),
        max_length=160,
        batch_size=8,
    )
    data = recipe.supervised.data.FromConversationFileBuilder(
        common_config=common, file_path=str(BUILTIN / "demonstrations.jsonl"), test_size=16
    )
    config = recipe.supervised.train.Config(
        log_path=str(run.out / "sft"),
        model_name=run.model,
        dataset_builder=data,
        learning_rate=run.sft_rate,
        lora_rank=16,
        max_steps=run.sft_steps,
    )
    print("SFT ...", flush=True)
    await recipe.supervised.train.main(config, run.service)
    show(run.out / "sft", {"train_mean_nll": "loss, nats a token", "test/nll": "held-out loss"})
    return last_path(run.out / "sft", "state_path")


async def prefer(run: Run, start: str) -> Reward:
    """Stage 2: the score by the preference model, which is trained from the SFT weights unless that was done before."""
    log = RunLog(str(run.out / "preference"))
    if log.last is None:
        print("preference model ...", flush=True)
        await learn_preferences(run, await call(run.service.create_training_client_from_state, start), log)
    show(log.folder, {"loss": "loss, nats a pair", "accuracy": "accuracy", "held_out_accuracy": "held-out accuracy"})
    path = last_path(log.folder, "sampler_path")
    return partial(score, await call(run.service.create_sampling_client, model_path=path), run.renderer)


async def learn_preferences(run: Run, client: Any, log: RunLog) -> None:
    """Trains on all pairs in each step, and saves; held-out pairs are scored before and after."""
    pairs = [line.split(" | ") for line in PAIRS.splitlines()[1:]]
    examples = [verdict(run.renderer, request, reply) for request, *two in pairs[:-HELD_OUT] for reply in two]
    data = to_data([recipe.datum_from_model_input_weights(*example) for example in examples], types_of(client))
    log.start(run)
    for step in range(run.preference_steps + 1):
        metrics = {}
        if step in (0, run.preference_steps):
            sampler = await call(client.save_weights_and_get_sampling_client)
            metrics["held_out_accuracy"] = await accuracy(partial(score, sampler, run.renderer), pairs[-HELD_OUT:])
        if step < run.preference_steps:
            passed = await call(client.forward_backward_custom, data, bradley_terry)
            await resolved(client.optim_step(types_of(client).AdamParams(learning_rate=run.preference_rate)))
            metrics |= {name: passed.metrics[name] for name in ("loss", "accuracy")}
        log.log_metrics(step, metrics)
    state = {"batch": run.preference_steps, "final": True}
    await save_checkpoint_async(client, "preference", log.folder, state, "both")


def bradley_terry(data: list[Any], logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
    """-log sigmoid(score of the warm reply - score of the plain one), the mean over pairs; they alternate in `data`."""
    weights = [datum.loss_fn_inputs["weights"].to_torch() for datum in data]
    scores = log_odds(torch.stack([(row * weight).sum() for row, weight in zip(logprobs, weights, strict=True)]))
    margins = scores[0::2] - scores[1::2]
    loss = -torch.nn.functional.logsigmoid(margins).mean()
    return loss, {"loss": float(loss.detach()), "accuracy": float((margins > 0).float().mean())}


def log_odds(logprob: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)); p is kept a millionth below 1, so that it is finite."""
    logprob = logprob.clamp(max=-1e-6)
    return logprob - torch.log(-torch.expm1(logprob))


def verdict(renderer: recipe.renderers.Renderer, request: str, reply: str) -> tuple[ModelInput, np.ndarray]:
    """Tokens of the conversation with the question and its answer at the end, and their weights: 1 on the answer."""
    talk = [("user", request), ("assistant", reply), ("user", "Was your reply warm and friendly? Answer Yes or No.")]
    messages: list[recipe.Message] = [{"role": role, "content": content} for role, content in talk]
    tokens = renderer.build_generation_prompt(messages, prefill="Yes")
    return tokens, np.arange(tokens.length) >= renderer.build_generation_prompt(messages).length


async def score(sampler: Any, renderer: recipe.renderers.Renderer, request: str, reply: str) -> float:
    """The log-odds of the answer Yes by frozen weights."""
    tokens, answer = verdict(renderer, request, reply)
    logprobs = await resolved(sampler.compute_logprobs(to_model_input(tokens, types_of(sampler))))
    return float(log_odds(torch.tensor(logprobs[1:])[answer[1:]].sum()))


async def accuracy(reward: Reward, pairs: Sequence[Sequence[str]]) -> float:
    """The share of pairs in which the warm reply has the higher score."""
    asked = [reward(request, reply) for request, *replies in pairs for reply in replies]
    scores = np.array(await asyncio.gather(*asked))
    return float((scores[0::2] > scores[1::2]).mean())


async def friendly_words(request: str, reply: str) -> float:
    """The rule reward: how many friendly words a reply has, at most 3."""
    return float(min(sum(word in reply.lower() for word in FRIENDLY), 3))


async def reinforce(run: Run, start: str, reward: Reward, name: str) -> None:
    """Stage 3, RL from the SFT weights."""
    folder = run.out / f"rl-{name}"
    config = recipe.rl.train.Config(
        log_path=str(folder),
        model_name=run.model,
        load_checkpoint_path=start,
        dataset_builder=Requests(run, reward, run.rl_steps),
        loss_fn="importance_sampling",
        learning_rate=run.rl_rate,
        kl_penalty_coef=0.02,
        max_tokens=run.max_tokens,
    )
    print(f"RL, {name} reward ...", flush=True)
    await recipe.rl.train.main(config, run.service)
    rewards = {"env/all/reward/total": "mean reward", "test/env/all/reward/total": "on held-out requests"}
    show(folder, rewards | {"kl_policy_base": "KL to the SFT policy, nats a token"})


@dataclass(frozen=True)
class Requests(RLDatasetBuilder, RLDataset):
    """`steps` batches of requests from a packaged file; as a builder it gives itself and a held-out batch."""

    run: Run
    reward: Reward
    steps: int
    file: str = "prompts_train.jsonl"

    async def __call__(self) -> tuple[Requests, Requests]:
        return self, replace(self, steps=1, file="prompts_heldout.jsonl")

    def get_batch(self, index: int) -> list[Attempts]:
        lines = (BUILTIN / self.file).read_text().splitlines()
        places = range(index * self.run.prompts, (index + 1) * self.run.prompts)
        return [Attempts(self.run, Reply(json.loads(lines[i % len(lines)])["prompt"], self.reward)) for i in places]

    def __len__(self) -> int:
        return self.steps


@dataclass(frozen=True)
class Attempts(EnvGroupBuilder):
    """Several replies to one request, which are compared with each other; one that is cut off is scored as it is."""

    run: Run
    env: Reply

    async def make_envs(self) -> list[recipe.EnvFromMessageEnv]:
        as_it_is: dict[str, Any] = {"failed_parse_reward": None, "context_overflow_reward": None}
        return [recipe.EnvFromMessageEnv(self.run.renderer, self.env, **as_it_is) for _ in range(self.run.attempts)]


@dataclass(frozen=True)
class Reply(recipe.MessageEnv):
    request: str
    reward: Reward

    async def initial_observation(self) -> list[recipe.Message]:
        return [{"role": "user", "content": self.request}]

    async def step(self, message: recipe.Message) -> recipe.MessageStepResult:
        reward = await self.reward(self.request, recipe.renderers.get_text_content(message))
        return recipe.MessageStepResult(reward, episode_done=True, next_messages=[])


def last_path(folder: Path, key: str) -> str:
    """The path of a stage's newest checkpoint."""
    return json.loads((folder / "checkpoints.jsonl").read_text().splitlines()[-1])[key]


def show(folder: Path, names: dict[str, str]) -> None:
    """Prints metrics of a stage, all steps in a line."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for key, label in names.items():
        print(f"{folder.name}, {label}: " + " ".join(f"{row[key]:.3f}" for row in rows if key in row), flush=True)


if __name__ == "__main__":
    main()
