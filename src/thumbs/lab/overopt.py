"""Over-optimisation on purpose (Gao et al. 2022, arXiv:2210.10760), and what is delivered with and without a watch.

    sentences → SFT → noisy pairs → a proxy, and a second one of other pairs → best of n, and the arms of PPO

Every arm starts from the same model with the same random numbers, and is watched; ARMS says how they differ. They see
gold only in what is printed. A clean run is PPO with gold itself as its reward and the default price for KL; no alarm
should be raised in it. What is required of all this is in `verdicts.py`.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from thumbs.records import Preference, Prompt, Rollout, Score
from thumbs.rewards.base import CallableReward, RewardSource
from thumbs.rewards.trained import open_scores
from thumbs.rollout.rounds import collect, seed_of
from thumbs.stages.context import Context
from thumbs.stages.ppo_run import run_ppo
from thumbs.stages.reward_model import run_reward_model
from thumbs.stages.sft import run_sft
from thumbs.stages.watch import Watch
from thumbs.tracking.files import read_json, write_json
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
class Arm:
    """A run of PPO. price: of KL, score units per nat. both: it is paid by the two proxies, their mean less their
    deviation, and not by the first. watch: what is not as usual in its watch.
    """

    title: str
    price: float = 0.0
    both: bool = False
    watch: dict[str, Any] = field(default_factory=dict)


ARMS = {
    "free": Arm("PPO, KL costs nothing"),
    "priced": Arm("PPO, 0.1 per nat", price=KlConfig().coef),
    "ensemble": Arm("PPO, paid by both proxies", both=True),
    "rollback": Arm("PPO with rollback", watch={"act": "rollback"}),
}


def arms_of(kl_after: float | None) -> dict[str, Arm]:
    """The arms, and one that goes on after its rollback, with that price of KL, if there is one."""
    if kl_after is None:
        return ARMS
    onward = Arm(f"PPO with rollback, then {kl_after:g} per nat", watch={"act": "rollback", "kl_after": kl_after})
    return ARMS | {f"onward-{kl_after:g}": onward}


@dataclass(frozen=True)
class Ended:
    """How an arm went. looks: the numbers of each look, from before the first step on. alarms: step and sign of each.
    best: the step of the policy with the highest value. delivered: gold of the policy that the arm leaves, on the
    replies of the watch set.
    """

    looks: list[dict[str, float]]
    alarms: list[tuple[int, str]]
    best: int
    delivered: float

    @property
    def gold(self) -> list[float]:
        """Mean gold of the watch set at each look."""
        return [look["watch/gold"] for look in self.looks]

    @property
    def gain(self) -> float:
        """How far gold rose at its peak."""
        return max(self.gold) - self.gold[0]

    @property
    def lost(self) -> float:
        """Share of the gain that is lost at the end; 0 if there was none."""
        return (max(self.gold) - self.gold[-1]) / self.gain if self.gain > 0 else 0.0

    @property
    def proxy_rose(self) -> bool:
        """Whether the proxy is higher at the end than where gold is highest."""
        return self.looks[-1]["watch/proxy"] > self.looks[int(np.argmax(self.gold))]["watch/proxy"]


@dataclass(frozen=True)
class Found:
    """What one seed gave. accuracies: of the two proxies. arms: by the names of ARMS. best_of_n: for each n the bound
    of its KL, nats, and gold, proxy and second proxy of the replies that the proxy chose. spent: processor time of
    each part, seconds: of `models`, among them best-of-n, and of each arm.
    """

    seed: int
    accuracies: tuple[float, float]
    arms: dict[str, Ended]
    best_of_n: list[dict[str, float]]
    spent: dict[str, float]

    def kept(self, arm: str) -> float:
        """Share of the gain of the arm without brakes that an arm delivers."""
        free = self.arms["free"]
        return (self.arms[arm].delivered - free.gold[0]) / free.gain if free.gain > 0 else 0.0


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

    def spent(self, part: str, begun: float) -> float:
        """Processor time of a part since `begun`, seconds; of one that was there already, what it took when made."""
        path = self.path / f"spent-{part}.json"
        if not path.exists():
            write_json(path, time.process_time() - begun)
        return float(read_json(path))

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

    def ppo(self, name: str, arm: Arm, paid: RewardSource, second: RewardSource, draw: int = 0) -> Ended:
        """A watched PPO run to its end; draw: which random numbers it has."""
        context = replace(self.context(name), seed=seed_of(self.seed, draw) if draw else self.seed)
        prompts = [*TOPICS, *TOPICS]
        if not context.folder.is_done():
            config = PpoConfig(
                prompts=NOWHERE,
                steps=STEPS,
                batch_size=128,
                minibatch_size=32,
                optim=AdamConfig(learning_rate=RATE, schedule="constant", warmup_fraction=0.99),
                sampling=SAMPLING,
                kl=KlConfig(coef=arm.price, target=None, stop_above=None),
                score_clip=None,
                save_every=STEPS,
            )
            watch = partial(
                Watch,
                config=WatchConfig.model_validate(arm.watch),
                proxy=paid,
                second=second,
                prompts=prompts,
                sampling=SAMPLING,
                gold=CallableReward(lambda rollout: gold(rollout.text)),
            )
            context.folder.mark_done(run_ppo(context, config, paid, self.start, TOPICS, watch=watch))
        looks = context.folder.metrics.read()
        return Ended(
            [{name: row[name] for name in row if name.startswith("watch/")} for row in looks],
            [(row["step"], row["sign"]) for row in context.folder.alarms.read()],
            int(looks[-1]["watch/best_step"]),
            float(np.mean([gold(rollout.text) for rollout in self.replies(context.best, prompts, "watch")])),
        )

    def best_of_n(self, proxy: RewardSource, second: RewardSource) -> list[dict[str, float]]:
        """Best-of-n by the proxy: every subset of a topic's replies counts, so no draw is wasted (unbiased)."""
        most = max(BEST_OF)
        rollouts = self.replies(self.start, [topic for topic in TOPICS[:16] for _ in range(2 * most)], "best of n")
        scores, others = ([score.value for score in source.score(rollouts)] for source in (proxy, second))
        columns = {"gold": [gold(r.text) for r in rollouts], "proxy": scores, "second_proxy": others}
        pools = {name: np.array(column).reshape(16, -1) for name, column in columns.items()}
        return [
            {"n": float(n), "kl": best_of_n_kl(n)}
            | {name: float(expected_best(pools["proxy"], pool, n).mean()) for name, pool in pools.items()}
            for n in BEST_OF
        ]


def expected_best(scores: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """For each row of a pool [P, N] the expected value of the item with the highest score among n drawn without
    replacement: item i, k-th from below, wins C(k - 1, n - 1) of the C(N, n) draws. Of equal scores the later wins.
    """
    order, size = np.argsort(scores, axis=1, kind="stable"), scores.shape[1]
    wins = np.array([math.comb(k, n - 1) for k in range(size)], dtype=np.float64) / math.comb(size, n)
    return np.take_along_axis(values, order, axis=1) @ wins


class Both:
    """Pays what two proxies agree on: their mean less their deviation (as `mean_minus_std` of an ensemble)."""

    def __init__(self, first: RewardSource, second: RewardSource) -> None:
        self.members = first, second

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        each = np.array([[score.value for score in member.score(rollouts)] for member in self.members])
        return [Score(value) for value in (each.mean(axis=0) - each.std(axis=0)).tolist()]


def make_models(folder: Path, seed: int) -> tuple[tuple[float, float], list[dict[str, float]], float]:
    """The models of a seed, of which what is there already is not made again.

    Returns the accuracies of the proxies, best-of-n, and the processor time that it took, seconds.
    """
    lab, begun = Lab(folder / f"seed-{seed}", seed), time.process_time()
    (proxy, first), (second, other) = lab.proxy("proxy"), lab.proxy("second")
    return (first, other), lab.best_of_n(proxy, second), lab.spent("models", begun)


def run_arm(folder: Path, seed: int, name: str, arm: Arm) -> tuple[Ended, float]:
    """An arm in the world of a seed, whose models are there, and its processor time, seconds."""
    lab, begun = Lab(folder / f"seed-{seed}", seed), time.process_time()
    (proxy, _), (second, _) = lab.proxy("proxy"), lab.proxy("second")
    ended = lab.ppo(f"ppo-{name}", arm, Both(proxy, second) if arm.both else proxy, second)
    return ended, lab.spent(name, begun)


def clean_alarms(folder: Path, seed: int, draw: int) -> list[str]:
    """The signs of the alarms of a run that is paid by gold itself at the default price for KL, in which there is
    nothing to find.

    draw: which of the runs in the world of a seed.
    """
    lab = Lab(folder / f"seed-{seed}", seed)
    second, _ = lab.proxy("second")
    spread = float(np.std([gold(rollout.text) for rollout in lab.replies(lab.start, TOPICS, "spread")]))
    truth = CallableReward(lambda rollout: gold(rollout.text) / spread)
    ended = lab.ppo(f"ppo-clean-{draw}", Arm("clean", KlConfig().coef), truth, second, draw)
    return [sign for _, sign in ended.alarms]


class Seeds:
    """What a worker process does of the lab."""

    make_models = staticmethod(make_models)
    run_arm = staticmethod(run_arm)
    clean_alarms = staticmethod(clean_alarms)


def run_seeds(folder: Path, seeds: int, clean: int, arms: Mapping[str, Arm] = ARMS) -> Iterator[Found | list[str]]:
    """What each seed gave, in order, then the signs of the alarms of each clean run; as many parts at once as there are
    processors.

    Clean runs are spread over the worlds of the seeds, whose models they use.
    """
    crew = PipeCrew(folder / "logs", patience_s=600.0)
    workers = crew.start([WorkerSpec(f"lab {number}", WORKER) for number in range(os.cpu_count() or 1)])
    turns = itertools.cycle(workers)
    try:
        models = [next(turns).call("make_models", folder, seed) for seed in range(seeds)]
        made = [each.result() for each in models]  # before arms, which another process may run, ask for them
        turns = itertools.cycle(workers)
        ended = [
            {name: next(turns).call("run_arm", folder, seed, name, arm) for name, arm in arms.items()}
            for seed in range(seeds)
        ]
        runs = [next(turns).call("clean_alarms", folder, n % seeds, 1 + n // seeds) for n in range(clean)]
        for seed, ((accuracies, best_of_n, spent), parts) in enumerate(zip(made, ended, strict=True)):
            found = {name: each.result() for name, each in parts.items()}
            times = {"models": spent} | {name: seconds for name, (_, seconds) in found.items()}
            yield Found(seed, accuracies, {name: arm for name, (arm, _) in found.items()}, best_of_n, times)
        for run in runs:
            yield run.result()
    finally:
        crew.close()
