"""Conversations of two turns: to ask for the right thing, then to repeat what came back, which nobody can guess."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from byte_world import byte_context, prompt
from thumbs.config.data import DataConfig
from thumbs.config.group import GroupConfig
from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.optim import AdamConfig
from thumbs.config.ppo import CriticConfig, KlConfig, PpoConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.data.tokenizers import conversation_tokens
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.envs.base import Turn
from thumbs.records import Example, Message, Prompt, Rollout
from thumbs.rewards.base import EnvironmentReward
from thumbs.rollout.episodes import Episodes
from thumbs.stages.context import Context
from thumbs.stages.group import Group
from thumbs.stages.ppo import Ppo
from thumbs.stages.ppo_run import create_models

PROMPTS = [prompt("x"), prompt("y")] * 2
KEYS, SECRETS = {"x": "a", "y": "b"}, "pq"
SAMPLING = SamplingConfig(max_new_tokens=2)
DATA = DataConfig(path="unused")


class Box:
    """Opens for the key that its prompt asks for, and pays half for that and half for saying what is inside."""

    def __init__(self, question: Prompt, secret: str) -> None:
        self.question, self.secret, self.opened = question, secret, False

    def first(self) -> tuple[Message, ...]:
        return self.question.messages

    def step(self, reply: str) -> Turn:
        if self.opened:
            return Turn(0.5 * (reply == self.secret))
        self.opened = reply == KEYS[self.question.id]
        return Turn(0.5 * self.opened, not self.opened, (Message("user", self.secret),))


def boxes() -> Episodes:
    """Every rollout has a box of its own."""
    secrets = itertools.cycle(SECRETS)
    return Episodes(lambda question: Box(question, next(secrets)), max_turns=2, max_tokens=40)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that tries either key and says either letter, the one that it heard three times in four."""
    context = byte_context(tmp_path_factory.mktemp("start"))
    handle, data = context.engine.create(ModelSpec("sft", context.model)), []
    for question, key, heard, says in itertools.product(PROMPTS[:2], "ab", SECRETS, SECRETS):
        replies = (Message("assistant", key), Message("user", heard), Message("assistant", says))
        tokens, mask = conversation_tokens(context.tokenizer, (*question.messages, *replies))
        data.append(Example.next_token(tokens, weights=mask * (3 if says == heard else 1) / 128))
    for _ in range(40):
        context.engine.forward_backward(handle, data, [CROSS_ENTROPY])
        context.engine.optim_step(handle, AdamStep(1e-3, 1e-3))
    path = context.folder.path / "start"
    context.engine.save(handle, path)
    return path


def test_a_group_method_learns_both_turns(tmp_path: Path, start: Path):
    context = byte_context(tmp_path)
    config = GroupConfig(
        prompts=DATA,
        method="rloo",
        kl="none",
        steps=20,
        batch_size=64,
        minibatch_size=16,
        group_size=16,
        optim=AdamConfig(learning_rate=1e-3, schedule="constant"),
        sampling=SAMPLING,
    )
    policy = context.engine.create(ModelSpec("p", context.model, start=start))
    group = Group(context, config, policy, EnvironmentReward(), PROMPTS, episodes=boxes())
    reports = [group.step(step) for step in range(config.steps)]
    scores = [report.metrics["group/score"] for report in reports]
    assert scores[0] < 0.55
    assert np.mean(scores[-3:]) > 0.9
    check_masks(context, reports[-1].rollouts)


def test_ppo_learns_both_turns(tmp_path: Path, start: Path):
    context = byte_context(tmp_path)
    config = PpoConfig(
        prompts=DATA,
        steps=20,
        batch_size=64,
        minibatch_size=16,
        replies_per_prompt=16,
        epochs=1,
        kl=KlConfig(coef=0.0, target=None, stop_above=None),
        critic=CriticConfig(init="policy"),
        optim=AdamConfig(learning_rate=1e-3, schedule="constant"),
        sampling=SAMPLING,
    )
    models = create_models(context, config, start, None)
    ppo = Ppo(context, config, models, EnvironmentReward(), PROMPTS, episodes=boxes())
    reports = [ppo.step(step, 0.0) for step in range(config.steps)]
    scores = [report.metrics["ppo/score"] for report in reports]
    assert scores[0] < 0.55
    assert np.mean(scores[-3:]) > 0.9
    check_masks(context, reports[-1].rollouts)


def check_masks(context: Context, rollouts: list[Rollout]) -> None:
    """What the policy is trained on is what it said, end tokens included, and nothing that it was told."""
    for rollout in rollouts:
        said = "".join(m.content for m in rollout.messages if m.role == "assistant")
        trained = context.tokenizer.decode(rollout.tokens[1:][rollout.mask > 0].tolist())
        assert "".join(trained.split()) == "".join(said.split())  # messages leave out the space around a reply
    assert any(len(rollout.messages) == 4 for rollout in rollouts)
