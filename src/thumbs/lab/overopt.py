"""Over-optimisation on purpose (Gao et al. 2022, arXiv:2210.10760), and what is delivered with and without a watch.

    sentences → SFT → noisy pairs → a proxy, and a second one of other pairs → PPO without a price for KL

PPO runs twice from the same start. The first run goes on to its end, and gold rises and falls while the proxy rises.
The second is watched with `act: rollback`. Both see gold only in what is printed. A clean run is PPO with gold itself
as its reward and the default price for KL; no alarm may be raised in it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from thumbs.config.data import DataConfig
from thumbs.config.engine import EngineConfig
from thumbs.config.model import ModelConfig
from thumbs.config.optim import AdamConfig
from thumbs.config.ppo import KlConfig, PpoConfig
from thumbs.config.reward_model import RewardModelConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.config.sft import SftConfig
from thumbs.config.watch import WatchConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.engine import open_engine
from thumbs.engine.base import ModelSpec
from thumbs.evaluation.intervals import best_of_n_kl
from thumbs.lab.world import TOPICS, gold, judged_pairs, sentences
from thumbs.records import Preference, Prompt, Rollout
from thumbs.rewards.base import CallableReward, RewardSource
from thumbs.rewards.trained import open_scores
from thumbs.rollout.rounds import collect, seed_of
from thumbs.stages.context import Context
from thumbs.stages.ppo_run import run_ppo
from thumbs.stages.reward_model import run_reward_model
from thumbs.stages.sft import run_sft
from thumbs.stages.watch import Watch
from thumbs.tracking.files import write_json
from thumbs.tracking.run_folder import StageFolder
from thumbs.workers.base import WorkerSpec
from thumbs.workers.pipes import PipeCrew

MODEL = ModelConfig(name="byte-tiny", lora=None, dtype="float32")
SAMPLING = SamplingConfig(max_new_tokens=72)
NOWHERE = DataConfig(path="made by the lab")
PAIRS, HELD_OUT_PAIRS, NOISE = 300, 120, 0.15
STEPS, RATE = 45, 4e-4
"""PPO's learning rate rises from 0 to RATE over the steps, so that little distance is wasted at first, and every proxy
breaks in the end.
"""
WORKER = "thumbs.lab.overopt:Seeds"
"""What computes the seeds, in processes of its own."""
BEST_OF = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Found:
    """What one seed gave.

    accuracies: of the two proxies. looks: the numbers of each look of the run that goes on to its end, with `gold`.
    alarm: the step of its first alarm, if there was one. best: the step whose policy the watched run delivers.
    delivered: gold of that policy, on the replies of the watch set. best_of_n: for each n the bound of its KL, nats,
    and the gold of the replies that the proxy chose.
    """

    seed: int
    accuracies: tuple[float, float]
    looks: list[dict[str, float]]
    alarm: int | None
    best: int
    delivered: float
    best_of_n: list[tuple[float, float]]

    @property
    def gold(self) -> list[float]:
        """Mean gold of the watch set at each look."""
        return [look["gold"] for look in self.looks]

    @property
    def gain(self) -> float:
        """How far gold rose at its peak."""
        return max(self.gold) - self.gold[0]

    @property
    def lost(self) -> float:
        """Share of the gain that the run that goes on has lost at its end."""
        return (max(self.gold) - self.gold[-1]) / self.gain

    @property
    def kept(self) -> float:
        """Share of the gain that the watched run delivers."""
        return (self.delivered - self.gold[0]) / self.gain


@dataclass(frozen=True)
class Lab:
    """One seed's world, in a folder in which what is there already is not made again."""

    path: Path
    seed: int

    @cached_property
    def tokenizer(self) -> ByteTokenizer:
        return ByteTokenizer()

    @cached_property
    def engine(self) -> Any:
        return open_engine(EngineConfig(), self.tokenizer.decode)

    def context(self, name: str) -> Context:
        """What a stage of the lab is given."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return Context(self.engine, self.tokenizer, StageFolder(folder), MODEL, self.seed)

    @cached_property
    def start(self) -> Path:
        """The model that has read the language."""
        context = self.context("sft")
        if not context.folder.is_done():
            rows = sentences(1700, self.seed)
            optim = AdamConfig(learning_rate=4e-3, warmup_fraction=0.1)
            config = SftConfig(data=NOWHERE, epochs=6, batch_size=32, optim=optim, eval_every=40)
            context.folder.mark_done(run_sft(context, config, rows[:-100], rows[-100:]))
        return context.best

    def replies(self, model: Path, prompts: Sequence[Prompt], key: str) -> list[Rollout]:
        """One reply of a model to each prompt."""
        handle = self.engine.create(ModelSpec("policy", MODEL, ("lm",), model, trainable=False, seed=self.seed))
        seeds = [seed_of(self.seed, key, row) for row in range(len(prompts))]
        rollouts = collect(self.engine.snapshot(handle), prompts, self.tokenizer, SAMPLING, seeds)
        self.engine.close(handle)
        return rollouts

    def pairs(self, key: str, count: int, noise: float) -> list[Preference]:
        """Pairs of the first model's replies to random topics, judged with noise."""
        random = np.random.default_rng(seed_of(self.seed, "topics", key))
        prompts = [TOPICS[i] for i in random.integers(len(TOPICS), size=count)]
        rollouts = self.replies(self.start, [*prompts, *prompts], key)
        return judged_pairs(rollouts[:count], rollouts[count:], noise, seed_of(self.seed, key))

    def proxy(self, name: str) -> tuple[RewardSource, float]:
        """A reward model of noisy pairs of its own, and its accuracy on pairs that are judged without noise."""
        context = self.context(name)
        if not context.folder.is_done():
            optim = AdamConfig(learning_rate=1e-3, head_learning_rate=5e-3)
            config = RewardModelConfig(epochs=3, batch_size=16, optim=optim, eval_every=20)
            rows = self.pairs(name, PAIRS, NOISE), self.pairs("held-out", HELD_OUT_PAIRS, 0.0)
            context.folder.mark_done(run_reward_model(context, config, self.start, *rows))
        results = context.folder.results()
        spec = ModelSpec("reward", MODEL, ("scalar",), context.best, trainable=False, seed=self.seed)
        held = {name: np.array(column) for name, column in results["heldout"].items() if name != "lengths"}
        sides = held["preferred"] - 0.5
        right = ((held["scores_a"] - held["scores_b"]) * sides > 0)[sides != 0]
        return open_scores(self.engine, spec, results, self.tokenizer), float(right.mean())

    def ppo(
        self, name: str, proxy: RewardSource, second: RewardSource, price: float, act: str, draw: int = 0
    ) -> Context:
        """A watched PPO run to its end; price: of KL, score units per nat; draw: which random numbers it has."""
        context = replace(self.context(name), seed=seed_of(self.seed, draw) if draw else self.seed)
        if not context.folder.is_done():
            config = PpoConfig(
                prompts=NOWHERE,
                steps=STEPS,
                batch_size=128,
                minibatch_size=32,
                optim=AdamConfig(learning_rate=RATE, schedule="constant", warmup_fraction=0.99),
                sampling=SAMPLING,
                kl=KlConfig(coef=price, target=None, stop_above=None),
                score_clip=None,
                save_every=STEPS,
            )
            watch = partial(
                GoldWatch,
                config=WatchConfig.model_validate({"act": act}),
                proxy=proxy,
                second=second,
                prompts=[*TOPICS, *TOPICS],
                sampling=SAMPLING,
            )
            context.folder.mark_done(run_ppo(context, config, proxy, self.start, TOPICS, watch=watch))
        return context

    def looks(self, context: Context) -> list[dict[str, float]]:
        """What the watch of a run saw, from the start on."""
        return [row for row in context.folder.samples.read() if "gold" in row]

    def best_of_n(self, proxy: RewardSource) -> list[tuple[float, float]]:
        """Best-of-n by the proxy: every subset of a topic's replies counts, so no draw is wasted (unbiased)."""
        most = max(BEST_OF)
        rollouts = self.replies(self.start, [topic for topic in TOPICS[:16] for _ in range(2 * most)], "best of n")
        scores = np.array([score.value for score in proxy.score(rollouts)]).reshape(16, -1)
        golds = np.array([gold(rollout.text) for rollout in rollouts]).reshape(16, -1)
        return [(best_of_n_kl(n), float(expected_best(scores, golds, n).mean())) for n in BEST_OF]


def expected_best(scores: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """For each row of a pool [P, N] the expected value of the item with the highest score among n drawn without
    replacement: item i, k-th from below, wins C(k - 1, n - 1) of the C(N, n) draws. Of equal scores the later wins.
    """
    order, size = np.argsort(scores, axis=1, kind="stable"), scores.shape[1]
    wins = np.array([math.comb(k, n - 1) for k in range(size)], dtype=np.float64) / math.comb(size, n)
    return np.take_along_axis(values, order, axis=1) @ wins


@dataclass(frozen=True)
class GoldWatch(Watch):
    """A watch next to which gold is written down, for the curve alone: nothing is decided by it."""

    def look(self, step: int, state: dict[str, Any]) -> tuple[dict[str, float], list[str]]:
        metrics, alarms = super().look(step, state)
        golds = [gold(rollout.text) for rollout in self.replies()]
        self.context.folder.samples.append(step, {"gold": float(np.mean(golds)), **metrics})
        return metrics, alarms


def run_seed(folder: Path, seed: int) -> Found:
    """All of one seed; what the folder holds already is read."""
    lab = Lab(folder / f"seed-{seed}", seed)
    (proxy, accuracy), (second, other) = lab.proxy("proxy"), lab.proxy("second")
    free = lab.ppo("ppo", proxy, second, 0.0, "log")
    watched = lab.ppo("ppo-watched", proxy, second, 0.0, "rollback")
    delivered = lab.replies(watched.best, [*TOPICS, *TOPICS], "watch")
    alarms = free.folder.alarms.read()
    return Found(
        seed,
        (accuracy, other),
        lab.looks(free),
        alarms[0]["step"] if alarms else None,
        int(lab.looks(watched)[-1]["watch/best_step"]),
        float(np.mean([gold(rollout.text) for rollout in delivered])),
        lab.best_of_n(proxy),
    )


def clean_alarms(folder: Path, seed: int, draw: int) -> int:
    """Alarms of a run that is paid by gold itself at the default price for KL, in which there is nothing to find.

    draw: which of the runs in the world of a seed.
    """
    lab = Lab(folder / f"seed-{seed}", seed)
    second, _ = lab.proxy("second")
    spread = float(np.std([gold(rollout.text) for rollout in lab.replies(lab.start, TOPICS, "spread")]))
    truth = CallableReward(lambda rollout: gold(rollout.text) / spread)
    context = lab.ppo(f"ppo-clean-{draw}", truth, second, KlConfig().coef, "log", draw)
    return len(context.folder.alarms.read())


class Seeds:
    """What a worker process does of the lab."""

    def run_seed(self, folder: Path, seed: int) -> Found:
        return run_seed(folder, seed)

    def clean_alarms(self, folder: Path, seed: int, draw: int) -> int:
        return clean_alarms(folder, seed, draw)


def run_seeds(folder: Path, seeds: int, clean: int) -> Iterator[Found | int]:
    """What each seed gave, in order, then the alarms of each clean run; as many at once as there are processors.

    Clean runs are spread over the worlds of the seeds, whose models they use.
    """
    crew = PipeCrew(folder / "logs", patience_s=600.0)
    count = max(min(os.cpu_count() or 1, seeds), 1)
    workers = crew.start([WorkerSpec(f"lab {number}", WORKER) for number in range(count)])
    try:
        # A world belongs to one worker, so that its models are made once.
        found = [workers[seed % count].call("run_seed", folder, seed) for seed in range(seeds)]
        for number in range(clean):
            seed, draw = number % seeds, 1 + number // seeds
            found.append(workers[seed % count].call("clean_alarms", folder, seed, draw))
        for future in found:
            yield future.result()
    finally:
        crew.close()


def write_findings(folder: Path, found: Sequence[Found], alarms: Sequence[int]) -> Path:
    """Writes all numbers of the seeds, and the alarms of each clean run, to overopt.json."""
    path = folder / "overopt.json"
    write_json(path, {"seeds": [asdict(one) for one in found], "alarms_of_clean_runs": list(alarms)})
    return path
