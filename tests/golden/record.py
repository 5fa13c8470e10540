"""The trajectories that tests/golden/test_trajectories.py compares with.

    python tests/golden/record.py "why the numbers had to change"

writes trajectories.json anew, with the reason in it. Without a change of mathematics or defaults there is no reason.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from thumbs.config.data import DataConfig
from thumbs.config.optim import AdamConfig
from thumbs.config.ppo import KlConfig, PpoConfig
from thumbs.config.reward_model import RewardModelConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.config.sft import SftConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.engine.base import Handle
from thumbs.engine.local import LocalEngine
from thumbs.records import Message, Rollout, Sample
from thumbs.rewards.base import CallableReward
from thumbs.rollout.sampler import Sampler, SampleReply, SampleRequest
from thumbs.stages.context import Context
from thumbs.stages.ppo_run import run_ppo
from thumbs.stages.reward_model import run_reward_model
from thumbs.stages.sft import run_sft

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from byte_world import byte_context, pair, prompt, user

FILE = Path(__file__).with_name("trajectories.json")
NAMES = ("Ana", "Ben", "Carl", "Dora")
WORDS = ("good", "sad", "long")
VERDICTS = (("sad", "first"), ("bad", "first"), ("nice", "tie"))
METRICS = {
    "sft": ("sft/loss", "sft/grad_norm"),
    "reward": ("reward/loss",),  # its gradient nearly cancels at the end, and with it every digit
    "ppo": ("ppo/reward", "ppo/kl", "ppo/policy_loss", "ppo/value_loss", "ppo/grad_norm"),
    "sampled": ("ppo/score", "ppo/kl", "ppo/policy_loss"),
}
NO_DATA = DataConfig(path="unused")
ADAM = AdamConfig(learning_rate=1e-3, warmup_fraction=0.1)

Trajectories = dict[str, list[float]]


class Told(Sampler):
    """A sampler whose replies hang on the seeds alone.

    A token that rounding flips on another processor would change every step after it; here all numbers stay continuous.
    """

    def __init__(self, policy_version: int) -> None:
        self.policy_version = policy_version

    def submit(self, requests: Sequence[SampleRequest]) -> list[Future[SampleReply]]:
        """The beginning of ", <word> day." and the end token."""
        futures: list[Future[SampleReply]] = [Future() for _ in requests]
        for future, request in zip(futures, requests, strict=True):
            texts = [f", {WORDS[seed % 3]} day."[: 3 + seed % 9] for seed in request.seeds]
            replies = [np.array([*text.encode(), ByteTokenizer.EOS]) for text in texts]
            none = np.zeros(12, dtype=np.float32)
            samples = [Sample(r, none[: len(r)], "stop", self.policy_version) for r in replies]
            future.set_result(SampleReply(samples, [[] for _ in samples]))
        return futures


class ToldEngine(LocalEngine):
    """An engine whose samplers are `Told`."""

    def snapshot(self, handle: Handle) -> Any:
        """A sampler that does not look at the weights."""
        return Told(super().snapshot(handle).policy_version)


def trajectories(folder: Path) -> Trajectories:
    """`stage:metric` → its value at each step: 50 of SFT, of the reward model and of PPO on replies that it is told,
    and 5 of PPO on its own samples.
    """
    contexts = {name: byte_context(folder / name) for name in METRICS}
    sft, reward, told, own = contexts.values()
    talks = [(*user(name), Message("assistant", f"{name}, {word} day.")) for name in NAMES for word in WORDS]
    run_sft(sft, SftConfig(data=NO_DATA, epochs=50, batch_size=12, optim=ADAM), talks, [])
    pairs = [pair(n, f"{n}, good day.", f"{n}, {word} day.", v) for n in NAMES for word, v in VERDICTS]
    run_reward_model(reward, RewardModelConfig(epochs=50, batch_size=12, optim=ADAM), sft.best, pairs, [])
    ppo(replace(told, engine=ToldEngine()), sft.best, 50)
    ppo(own, sft.best, 5)
    logs = {name: context.folder.metrics.read() for name, context in contexts.items()}
    return {f"{name}:{key}": [step[key] for step in logs[name]] for name, keys in METRICS.items() for key in keys}


def ppo(context: Context, start: Path, steps: int) -> None:
    """PPO on a rule, with every update of an epoch, however far the policy moved."""
    config = PpoConfig(
        prompts=NO_DATA,
        steps=steps,
        batch_size=4,
        minibatch_size=2,
        optim=AdamConfig(learning_rate=1e-4, schedule="constant", warmup_fraction=0),
        sampling=SamplingConfig(max_new_tokens=8),
        kl=KlConfig(stop_above=None),
    )
    run_ppo(context, config, CallableReward(early_letters), start, [prompt(name) for name in NAMES])


def early_letters(rollout: Rollout) -> float:
    """Share of the reply's tokens that are a to m."""
    reply = rollout.tokens[rollout.prompt_length :]
    return float(((reply >= ord("a")) & (reply <= ord("m"))).mean())


def record(reason: str) -> None:
    """Writes the file."""
    with tempfile.TemporaryDirectory() as folder:
        found = trajectories(Path(folder))
    rounded = {name: [float(f"{value:.8g}") for value in values] for name, values in found.items()}
    FILE.write_text(json.dumps({"reason": reason, **rounded}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].strip():
        sys.exit(__doc__)
    record(sys.argv[1])
