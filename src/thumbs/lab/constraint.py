"""A limit on cost where the best policy under it is known in closed form, and what training with a constraint finds.

A reply is one letter, whose score and cost are known. With a KL price β the best policy of mean cost at most `limit` is

    π*(letter) ∝ π_ref(letter) · exp((score - λ* · cost) / β),  λ* = 0, or else E[cost] = limit

(`functional/constraint.py`). π_ref and the policy that training leaves are read from the models' own probabilities of
every token, so cost and distance are exact numbers and no estimates.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from thumbs.config.base import build_config
from thumbs.config.data import DataConfig
from thumbs.config.engine import EngineConfig
from thumbs.config.group import GroupConfig
from thumbs.config.model import ModelConfig
from thumbs.config.optim import AdamConfig
from thumbs.config.ppo import PpoConfig
from thumbs.config.sft import SftConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.engine import open_engine
from thumbs.engine.base import ModelSpec
from thumbs.records import Example, Message, Prompt, Rollout
from thumbs.rewards.base import CallableReward
from thumbs.stages.context import Context
from thumbs.stages.group import run_group
from thumbs.stages.ppo_run import run_ppo
from thumbs.stages.sft import run_sft
from thumbs.tracking.files import write_json
from thumbs.tracking.run_folder import StageFolder
from thumbs.workers.base import WorkerSpec
from thumbs.workers.pipes import PipeCrew

LETTERS = "abcdefgh"
SCORES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4)
COSTS = (0.0, 0.0, 0.0, 0.1, 0.2, 0.8, 1.0, 1.0)
"""Score and cost of each letter as the answer to the first question; to the second one score and cost are those of the
letters in another order. Any other byte has no score and no cost.
"""
ORDER = (3, 6, 0, 5, 1, 7, 2, 4)
QUESTIONS = tuple(Prompt(name, (Message("user", name),)) for name in ("x", "y"))
BETA = 0.3
"""Price of KL, score units per nat."""
LIMIT = 0.05
SLACK, NEAR = 1.1, 0.05
"""A run holds if its cost is at most SLACK · LIMIT, and its total variation distance to π* at most NEAR."""
STEPS, BATCH, RATE = 240, 128, 0.2
WORKER = "thumbs.lab.constraint:Worlds"
"""What computes the seeds, in processes of its own."""


@dataclass(frozen=True)
class Constrained:
    """What one run found: its λ, mean cost, and total variation distance to π*, next to λ* and the cost of π*."""

    seed: int
    method: str
    rule: str
    multiplier: float
    cost: float
    distance: float
    best_multiplier: float
    start_cost: float
    free_cost: float

    @property
    def met(self) -> bool:
        """Whether the limit is held, near the best policy."""
        return self.cost <= SLACK * LIMIT and self.distance <= NEAR


def table(question: str, values: Sequence[float], size: int) -> np.ndarray:
    """The score, or the cost, of each token as the answer to a question, [V]."""
    found = np.zeros(size)
    for place, letter in enumerate(LETTERS):
        found[ord(letter)] = values[place if question == "x" else ORDER[place]]
    return found


def optimum(reference: np.ndarray, scores: np.ndarray, costs: np.ndarray, limit: float) -> tuple[float, np.ndarray]:
    """λ* and π* [Q, V] for reference policies, scores and costs [Q, V] of questions that come equally often."""

    def policy(multiplier: float) -> np.ndarray:
        lifted = reference * np.exp((scores - multiplier * costs) / BETA)
        return lifted / lifted.sum(axis=1, keepdims=True)

    def cost(multiplier: float) -> float:
        return float((policy(multiplier) * costs).sum(axis=1).mean())

    if cost(0.0) <= limit:
        return 0.0, policy(0.0)
    low, high = 0.0, 1000.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) > limit else (low, middle)
    return high, policy(high)


@dataclass(frozen=True)
class World:
    """One seed in a folder, in which what is there already is not made again."""

    path: Path
    seed: int

    def context(self, name: str) -> Context:
        """What a stage is given."""
        folder, tokenizer = self.path / name, ByteTokenizer()
        folder.mkdir(parents=True, exist_ok=True)
        model = ModelConfig(name="byte-tiny", lora=None, dtype="float32")
        return Context(open_engine(EngineConfig(), tokenizer.decode), tokenizer, StageFolder(folder), model, self.seed)

    def start(self) -> Path:
        """A model that answers with each letter about equally often."""
        context = self.context("sft")
        if not context.folder.is_done():
            rows = [(*q.messages, Message("assistant", letter)) for q in QUESTIONS for letter in LETTERS]
            optim = AdamConfig(learning_rate=2e-3)
            config = SftConfig(data=DataConfig(path="made by the lab"), epochs=40, batch_size=16, optim=optim)
            context.folder.mark_done(run_sft(context, config, rows, rows))
        return context.best

    def answers(self, model: Path) -> np.ndarray:
        """Probability of each token as a model's answer to each question, [Q, V]."""
        context = self.context("sft")
        handle = context.engine.create(ModelSpec("policy", context.model, ("lm",), model, trainable=False))
        rows, size = [], context.tokenizer.vocab_size
        for question in QUESTIONS:
            head = context.tokenizer.render_prompt(question.messages)
            data = [Example.next_token([*head, x], weights=[0.0] * (len(head) - 1) + [1.0]) for x in range(size)]
            rows.append(np.exp([float(output.logprobs[-1]) for output in context.engine.forward(handle, data)]))
        return np.array(rows)

    def train(self, method: str, rule: str) -> Constrained:
        """Trains by a method under the limit, and measures the policy that is left."""
        start, context = self.start(), self.context(f"{method}-{rule}")
        size = context.tokenizer.vocab_size
        scores, costs = (np.array([table(q.id, values, size) for q in QUESTIONS]) for values in (SCORES, COSTS))
        reward, cost = CallableReward(_Answer(scores)), CallableReward(_Answer(costs))
        if not context.folder.is_done():
            run = {"ppo": run_ppo, "group": run_group}[method]
            context.folder.mark_done(run(context, config_of(method, rule), reward, start, [*QUESTIONS] * 64, cost=cost))
        reference, policy = self.answers(start), self.answers(context.best)
        best_multiplier, best = optimum(reference, scores, costs, LIMIT)
        return Constrained(
            self.seed,
            method,
            rule,
            context.folder.metrics.read()[-1][f"{method}/lambda"],
            float((policy * costs).sum(axis=1).mean()),
            float(np.abs(policy - best).sum(axis=1).mean() / 2),
            best_multiplier,
            float((reference * costs).sum(axis=1).mean()),
            float((optimum(reference, scores, costs, np.inf)[1] * costs).sum(axis=1).mean()),
        )


class _Answer:
    """What a table [Q, V] has for a rollout's one token."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = {question.id: row for question, row in zip(QUESTIONS, values, strict=True)}

    def __call__(self, rollout: Rollout) -> float:
        return float(self.values[rollout.prompt_id][rollout.tokens[-1]])


def config_of(method: str, rule: str) -> PpoConfig | GroupConfig:
    """The settings of a run of PPO or, for `group`, of RLOO."""
    shared = {
        "prompts": {"path": "made by the lab"},
        "steps": STEPS,
        "batch_size": BATCH,
        "minibatch_size": BATCH // 2,
        "optim": {"learning_rate": 1e-3, "schedule": "linear"},
        "sampling": {"max_new_tokens": 1},
        "save_every": STEPS,
        "constraint": {"cost": "made:by_the_lab", "limit": LIMIT, "rate": RATE, "max": 20.0, "rule": rule},
    }
    if method == "group":
        return build_config(GroupConfig, shared | {"method": "rloo", "kl_coef": BETA, "group_size": 8})
    kl = {"coef": BETA, "target": None, "stop_above": None}
    return build_config(PpoConfig, shared | {"kl": kl, "score_clip": None})


class Worlds:
    """What a worker process does of the lab."""

    def train(self, folder: Path, seed: int, method: str, rule: str) -> Constrained:
        return World(folder / f"seed-{seed}", seed).train(method, rule)


ARMS = (("ppo", "lagrangian"), ("group", "lagrangian"), ("ppo", "safe_rlhf"))
"""Methods and rules that are compared. The last one shows what dividing by 1 + λ does; nothing is asked of it."""


def run_seeds(folder: Path, seeds: int) -> Iterator[Constrained]:
    """What each arm of each seed found, in order; as many seeds at once as there are processors."""
    crew = PipeCrew(folder / "logs", patience_s=600.0)
    count = max(min(os.cpu_count() or 1, seeds), 1)
    workers = crew.start([WorkerSpec(f"lab {number}", WORKER) for number in range(count)])
    try:
        # A world belongs to one worker, so that its start is made once.
        found = [workers[seed % count].call("train", folder, seed, *arm) for seed in range(seeds) for arm in ARMS]
        for future in found:
            yield future.result()
    finally:
        crew.close()


def write_findings(folder: Path, found: Sequence[Constrained]) -> Path:
    """Writes all numbers to constraint.json."""
    path = folder / "constraint.json"
    write_json(path, {"limit": LIMIT, "beta": BETA, "runs": [asdict(one) | {"met": one.met} for one in found]})
    return path
