"""RLHF in three stages with the recipes of tinker-cookbook: in this process, or over HTTP against `thumbs serve`.

    pip install 'thumbs[cookbook]'
    python examples/02_rlhf_with_recipes.py --out runs/rlhf            # smollm2-135m, ten minutes on two cores
    python examples/02_rlhf_with_recipes.py --smoke --out runs/smoke   # a byte model from scratch, seconds
    TINKER_BASE_URL=http://127.0.0.1:8000 python examples/02_rlhf_with_recipes.py    # a server, through the tinker SDK

1. SFT on the packaged demonstrations of two writers, one warm, one plain (`recipe.supervised.train`).
2. A Bradley-Terry preference model from pairs in which the warm reply is the better one (`forward_backward_custom`).
   Its score of a reply is the log-odds of "Yes" after the question whether it was warm: a pretrained model knows
   something of that before it has seen a pair, one pass gives the score, and unlike a probability it has no ceiling.
3. RL from the SFT weights (`recipe.rl.train`) with that score as the reward and a KL penalty to the SFT policy.

`--reward rule` counts friendly words instead of stage 2. A stage that fails ends the run; no other reward takes over.
The same `--out` again goes on where the run stopped: finished stages are left alone, SFT and RL go on from their last
checkpoint, and the short stage 2 begins again.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.resources
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import chz
import numpy as np
import torch

from thumbs import recipe  # first: it decides whether `tinker` is the SDK or this process

import tinker  # isort: skip

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
    """Where to write, and how long and how fast each stage learns."""

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
    service: Any = field(default_factory=lambda: tinker.ServiceClient())

    @property
    def renderer_name(self) -> str:
        """The format of the model's conversations."""
        return recipe.get_recommended_renderer_name(self.model)

    @property
    def renderer(self) -> Any:
        """Writes that format."""
        return recipe.renderers.get_renderer(self.renderer_name, recipe.get_tokenizer(self.model))

    def settings(self, stage: str, **more: Any) -> dict[str, Any]:
        """What the configs of SFT and RL have in common."""
        common = {"model_name": self.model, "renderer_name": self.renderer_name, "log_path": str(self.out / stage)}
        return common | {"lora_rank": 16, "save_every": 4, "eval_every": 4, **more}


SMOKE = {"model": "byte-tiny", "sft_steps": 8, "sft_rate": 3e-3, "preference_rate": 1e-3}
SMOKE |= {"rl_steps": 4, "rl_rate": 3e-3, "prompts": 4, "max_tokens": 16}

Reward = Callable[[str, str], Awaitable[float]]
"""(request, reply) -> reward."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="base model; default: smollm2-135m, and byte-tiny with --smoke")
    parser.add_argument("--out", type=Path, default=Path("runs/rlhf"), help="folder of all that is written")
    parser.add_argument("--reward", choices=("preference", "rule"), default="preference")
    parser.add_argument("--smoke", action="store_true", help="a tiny byte model, few steps")
    options = parser.parse_args()
    os.environ["THUMBS_STORE"] = str(options.out / "store")
    settings: dict[str, Any] = (SMOKE if options.smoke else {}) | ({"model": options.model} if options.model else {})
    asyncio.run(train(Run(options.out, **settings), options.reward))


async def train(run: Run, reward: str) -> None:
    """All stages; reward: "preference" or "rule"."""
    await imitate(run)
    await reinforce(run, friendly_words if reward == "rule" else await prefer(run), f"rl-{reward}")


def finished(folder: Path) -> bool:
    """Whether a stage has come to its end."""
    file = folder / "checkpoints.jsonl"
    return file.exists() and last_checkpoint(folder)["name"] == "final"


def last_checkpoint(folder: Path) -> dict[str, Any]:
    """The paths of a stage's newest weights."""
    return json.loads((folder / "checkpoints.jsonl").read_text().splitlines()[-1])


async def imitate(run: Run) -> None:
    """Stage 1, SFT."""
    common = recipe.supervised.types.ChatDatasetBuilderCommonConfig(
        model_name_for_tokenizer=run.model, renderer_name=run.renderer_name, max_length=160, batch_size=8
    )
    data = recipe.supervised.data.FromConversationFileBuilder(
        common_config=common, file_path=str(BUILTIN / "demonstrations.jsonl"), test_size=16
    )
    config = recipe.supervised.train.Config(
        **run.settings("sft"), dataset_builder=data, learning_rate=run.sft_rate, max_steps=run.sft_steps
    )
    if not finished(run.out / "sft"):
        await recipe.supervised.train.main(config)
    show(run.out / "sft", {"train_mean_nll": "loss, nats per token", "test/nll": "held-out loss"})


async def prefer(run: Run) -> Reward:
    """Stage 2: the score by the preference model, which is trained from the SFT weights unless that was done before."""
    folder = run.out / "preference"
    if not finished(folder):
        await learn_preferences(run, folder)
    show(folder, {"loss": "loss, nats per pair", "accuracy": "accuracy", "held_out_accuracy": "held-out accuracy"})
    sampler = run.service.create_sampling_client(model_path=last_checkpoint(folder)["sampler_path"])
    return partial(score, sampler, run.renderer)


async def learn_preferences(run: Run, folder: Path) -> None:
    """Trains on all pairs in each step, and saves; held-out pairs are scored before and after."""
    folder.mkdir(parents=True, exist_ok=True)
    start = last_checkpoint(run.out / "sft")
    client = await run.service.create_training_client_from_state_async(start["state_path"])
    pairs = [line.split(" | ") for line in PAIRS.splitlines()[1:]]
    verdicts = [verdict(run.renderer, request, reply) for request, *two in pairs[:-HELD_OUT] for reply in two]
    data = [recipe.datum_from_model_input_weights(tokens, torch.tensor(answer)) for tokens, answer in verdicts]
    lines = []
    for step in range(run.preference_steps + 1):
        metrics: dict[str, float] = {"step": step}
        if step in (0, run.preference_steps):
            sampler = await client.save_weights_and_get_sampling_client_async()
            metrics["held_out_accuracy"] = await accuracy(partial(score, sampler, run.renderer), pairs[-HELD_OUT:])
        if step < run.preference_steps:
            passed = await (await client.forward_backward_custom_async(data, bradley_terry)).result_async()
            adam = tinker.AdamParams(learning_rate=run.preference_rate)
            await (await client.optim_step_async(adam)).result_async()
            metrics |= {name: passed.metrics[name] for name in ("loss", "accuracy")}
        lines.append(json.dumps(metrics))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    await recipe.checkpoint_utils.save_checkpoint_async(
        client, "final", str(folder), {"batch": run.preference_steps, "final": True}, kind="both"
    )


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


def verdict(renderer: Any, request: str, reply: str) -> tuple[Any, np.ndarray]:
    """Tokens of the conversation with the question and its answer at the end, and their weights: 1 on the answer."""
    talk = [("user", request), ("assistant", reply), ("user", "Was your reply warm and friendly? Answer Yes or No.")]
    messages = [{"role": role, "content": content} for role, content in talk]
    tokens = renderer.build_generation_prompt(messages, prefill="Yes")
    return tokens, np.arange(tokens.length) >= renderer.build_generation_prompt(messages).length


async def score(sampler: Any, renderer: Any, request: str, reply: str) -> float:
    """The log-odds of the answer Yes by frozen weights."""
    tokens, answer = verdict(renderer, request, reply)
    logprobs = await sampler.compute_logprobs_async(tokens)
    return float(log_odds(torch.tensor(logprobs[1:])[answer[1:]].sum()))


async def accuracy(reward: Reward, pairs: Sequence[Sequence[str]]) -> float:
    """The share of pairs in which the warm reply has the higher score."""
    asked = [reward(request, reply) for request, *replies in pairs for reply in replies]
    scores = np.array(await asyncio.gather(*asked))
    return float((scores[0::2] > scores[1::2]).mean())


async def friendly_words(request: str, reply: str) -> float:
    """The rule reward: how many friendly words a reply has, at most 3."""
    return float(min(sum(word in reply.lower() for word in FRIENDLY), 3))


async def reinforce(run: Run, reward: Reward, stage: str) -> None:
    """Stage 3, RL from the SFT weights."""
    start = last_checkpoint(run.out / "sft")
    config = recipe.rl.train.Config(
        **run.settings(stage),
        load_checkpoint_path=start["state_path"],
        dataset_builder=RequestsBuilder(requests=Requests(run, reward, run.rl_steps)),
        loss_fn="importance_sampling",
        learning_rate=run.rl_rate,
        kl_penalty_coef=0.02,
        kl_reference_config=recipe.rl.train.KLReferenceConfig(
            base_model=run.model, load_checkpoint_path=start["sampler_path"]
        ),
        max_tokens=run.max_tokens,
    )
    if not finished(run.out / stage):
        await recipe.rl.train.main(config)
    rewards = {"env/all/reward/total": "mean reward", "test/env/all/reward/total": "on held-out requests"}
    show(run.out / stage, rewards | {"kl_policy_base": "KL to the SFT policy, nats per token"})


@dataclass(frozen=True)
class Requests(recipe.rl.types.RLDataset):
    """`steps` batches of requests from a packaged file."""

    run: Run
    reward: Reward
    steps: int
    file: str = "prompts_train.jsonl"

    def get_batch(self, index: int) -> list[Attempts]:
        lines = (BUILTIN / self.file).read_text().splitlines()
        places = range(index * self.run.prompts, (index + 1) * self.run.prompts)
        return [Attempts(self.run, json.loads(lines[i % len(lines)])["prompt"], self.reward) for i in places]

    def __len__(self) -> int:
        return self.steps


@chz.chz
class RequestsBuilder(recipe.rl.types.RLDatasetBuilder):
    """The requests, and a held-out batch of others."""

    requests: Any

    async def __call__(self) -> tuple[Requests, Requests]:
        return self.requests, replace(self.requests, steps=1, file="prompts_heldout.jsonl")


@dataclass(frozen=True)
class Attempts(recipe.rl.types.EnvGroupBuilder):
    """Several replies to one request, which are compared with each other.

    The score is given here and not in `Reply.step`, which never sees a reply that was cut off: a constant in its place
    may lie above the score of bad replies, and the policy would learn to ramble.
    """

    run: Run
    request: str
    reward: Reward

    async def make_envs(self) -> list[Any]:
        flat = {"failed_parse_reward": 0.0, "context_overflow_reward": 0.0}
        return [
            recipe.EnvFromMessageEnv(self.run.renderer, Reply(self.request), **flat) for _ in range(self.run.attempts)
        ]

    async def compute_group_rewards(self, trajectory_group: Any, env_group: Any) -> list[Any]:
        replies = [self.run.renderer.parse_response(each.transitions[-1].ac.tokens)[0] for each in trajectory_group]
        texts = [recipe.renderers.get_text_content(message) for message in replies]
        rewards = await asyncio.gather(*(self.reward(self.request, text) for text in texts))
        return [(reward, {}) for reward in rewards]


@dataclass(frozen=True)
class Reply(recipe.MessageEnv):
    request: str

    async def initial_observation(self) -> list[Any]:
        return [{"role": "user", "content": self.request}]

    async def step(self, message: Any) -> Any:
        return recipe.MessageStepResult(0.0, episode_done=True, next_messages=[])


def show(folder: Path, names: dict[str, str]) -> None:
    """Prints metrics of a stage, all steps in a line."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for key, label in names.items():
        print(f"{folder.name}, {label}: " + " ".join(f"{row[key]:.3f}" for row in rows if key in row), flush=True)


if __name__ == "__main__":
    main()
