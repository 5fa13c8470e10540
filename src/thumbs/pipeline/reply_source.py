"""A stage of a run, or a model by itself, as something that writes replies and, where it can, scores them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from thumbs.config.model import ModelConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.data.load import with_system
from thumbs.data.prompts import prompt_id
from thumbs.data.tokenizers import Tokenizer
from thumbs.engine import open_engine
from thumbs.engine.base import ModelSpec
from thumbs.errors import ConfigError
from thumbs.models.trunk import open_tokenizer
from thumbs.pipeline.artifacts import OpenRun, open_run
from thumbs.records import Generator, Message, Prompt, Reply
from thumbs.rewards.build import open_reward_model
from thumbs.rewards.trained import RawScorer, scorer_of
from thumbs.rollout.rounds import collect, seed_of
from thumbs.rollout.sampler import Sampler


@dataclass(frozen=True)
class PolicySource:
    """Safe to share between threads: one of them generates or scores at a time.

    model, checkpoint: what replies say of who made them; system: put before conversations that have no system message.
    scores: None if there is no reward model.
    """

    model: str
    checkpoint: str
    sampler: Sampler
    tokenizer: Tokenizer
    sampling: SamplingConfig
    system: str | None = None
    scores: RawScorer | None = None
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """Model and checkpoint."""
        return f"{self.model} {self.checkpoint}".strip()

    def asked(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """What the model is given for these messages: the run's system message comes first."""
        return with_system(tuple(messages), self.system)

    def write(self, messages: Sequence[Message], n: int, seed: int) -> list[Reply]:
        """n replies; draw i has the seed that (seed, the messages, i) give."""
        asked = self.asked(messages)
        prompt = Prompt(prompt_id(asked), asked)
        seeds = [seed_of(seed, "collect", prompt.id, draw) for draw in range(n)]
        with self._turn:
            rollouts = collect(self.sampler, [prompt] * n, self.tokenizer, self.sampling, seeds)
        settings = self.sampling.model_dump(mode="json")
        return [
            Reply(rollout.text, Generator("model", self.model, self.checkpoint, settings, own), rollout.stop_reason)
            for rollout, own in zip(rollouts, seeds, strict=True)
        ]

    def score(self, messages: Sequence[Message], replies: Sequence[Reply]) -> np.ndarray:
        """Raw scores [replies, members]; raises ConfigError if there is no reward model."""
        if self.scores is None:
            raise ConfigError(f"{self.name} has no reward model, so pairs cannot be chosen by one; leave out --active")
        with self._turn:
            return self.scores([(self.asked(messages), reply) for reply in replies])


def open_stage(run: Path, stage: str, sampling: SamplingConfig | None = None) -> PolicySource:
    """The model that a stage of a run left, with the run's last reward model where it has one.

    sampling: how it draws; None: as the run sampled its pairs. Raises RunError if there is no such model.
    """
    opened = open_run(run)
    opened.require_policy(stage)
    return replace(_policy(opened, stage, sampling), scores=_scores(opened))


def open_stages(run: Path, stages: Sequence[str], sampling: SamplingConfig) -> list[PolicySource]:
    """The models of several stages of a run on one copy of the base; raises RunError if one is not there."""
    opened = open_run(run)
    for stage in stages:
        opened.require_policy(stage)
    return [_policy(opened, stage, sampling) for stage in stages]


def _policy(opened: OpenRun, stage: str, sampling: SamplingConfig | None) -> PolicySource:
    config = opened.config
    own = SamplingConfig() if config.labels is None else config.labels.sampling
    return PolicySource(
        config.model.name,
        "" if stage == "base" else str(opened.path / stage / "model"),  # several runs may share a database
        opened.engine.snapshot(opened.model(stage)),
        opened.tokenizer,
        sampling or own,
        config.system,
    )


def _scores(opened: OpenRun) -> RawScorer | None:
    """What the last reward model of a run says, if it has one that scores whole replies."""
    run, config = opened.path, opened.config
    rewards = [
        run / "reward_model",
        *(run / f"iteration-{i}" / "reward_model" for i in range(2, config.iterations + 1)),
    ]
    trained = [path for path in rewards if (path / "done.json").exists()]
    if not trained or config.reward_model is None or config.reward_model.form == "steps":
        return None
    return scorer_of(open_reward_model(opened.engine, trained[-1]), opened.tokenizer)


def open_model(name: str, sampling: SamplingConfig | None = None, seed: int = 0) -> PolicySource:
    """A model by its catalog name or folder, as it is; `seed`: of the weights of a byte model."""
    config = ModelConfig(name=name, lora=None)
    tokenizer = open_tokenizer(config)
    engine = open_engine(decode_text=tokenizer.decode)
    handle = engine.create(ModelSpec(name, config, ("lm",), None, trainable=False, seed=seed))
    return PolicySource(name, "", engine.snapshot(handle), tokenizer, sampling or SamplingConfig())
