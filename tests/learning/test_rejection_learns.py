"""Rejection-sampling fine-tuning on a task whose best policy is known: always the paid letter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_ppo_learns import QUESTIONS, answers, letters_policy

from byte_world import byte_context, prompt
from thumbs.config.data import DataConfig
from thumbs.config.optim import AdamConfig
from thumbs.config.rejection import RejectionConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.engine.base import ModelSpec
from thumbs.errors import ConfigError, DataError
from thumbs.records import Rollout
from thumbs.rewards.base import CallableReward
from thumbs.stages.rejection import best, run_rejection
from thumbs.tracking.files import read_json
from thumbs.tracking.metrics import METRICS

BEST = {"x": ord("e"), "y": ord("c")}
CONFIG = RejectionConfig(
    prompts=DataConfig(path="unused"),
    rounds=5,
    replies_per_prompt=16,
    batch_size=8,
    epochs=2,
    optim=AdamConfig(learning_rate=1e-3, schedule="constant"),
    sampling=SamplingConfig(max_new_tokens=1),
)
PROMPTS = [prompt(question) for question in QUESTIONS] * 8


def paid(rollout: Rollout) -> float:
    return float(rollout.tokens[-1] == BEST[rollout.prompt_id])


def test_the_paid_letter_is_learned_from_ones_own_best_replies(tmp_path: Path):
    context = byte_context(tmp_path)
    start = letters_policy(context)
    before = context.engine.create(ModelSpec("p", context.model, start=start))
    assert max(answers(context, before, question)[letter] for question, letter in BEST.items()) < 0.25
    results = run_rejection(context, CONFIG, CallableReward(paid), start, PROMPTS)
    after = context.engine.create(ModelSpec("p", context.model, start=context.best))
    assert min(answers(context, after, question)[letter] for question, letter in BEST.items()) > 0.8
    logged = context.folder.metrics.read()
    names = {name for record in logged for name in record} - {"step", "wall_s"}
    assert names <= set(METRICS)
    assert results["steps"] == len(logged) == CONFIG.rounds * CONFIG.epochs * len(PROMPTS) // 8
    first, last = logged[0], logged[-1]
    assert first["rejection/kl"] == pytest.approx(0.0, abs=1e-5)  # the first round samples from where it starts
    assert last["rejection/kl"] > 0.3
    assert last["rejection/score"] > first["rejection/score"] + 0.4


def test_a_run_that_was_interrupted_ends_with_the_same_numbers(tmp_path: Path):
    whole, broken = byte_context(tmp_path / "whole"), byte_context(tmp_path / "broken")
    start = letters_policy(whole)
    run_rejection(whole, CONFIG, CallableReward(paid), start, PROMPTS)
    calls = iter(range(10_000))

    def stopped_in_the_second_round(rollout: Rollout) -> float:
        if next(calls) == len(PROMPTS) * 16 * 3 // 2:
            raise KeyboardInterrupt
        return paid(rollout)

    with pytest.raises(KeyboardInterrupt):
        run_rejection(broken, CONFIG, CallableReward(stopped_in_the_second_round), start, PROMPTS)
    run_rejection(broken, CONFIG, CallableReward(paid), start, PROMPTS)
    shown = ("step", "rejection/loss", "rejection/score", "rejection/grad_norm")
    found, wanted = ([[r[k] for k in shown] for r in c.folder.metrics.read()] for c in (broken, whole))
    assert found == wanted
    rounds = [read_json(context.folder.path / "round-5.json")["kept"] for context in (broken, whole)]
    assert rounds[0] == rounds[1]


def test_what_is_kept():
    scores = np.array([[0.1, 0.9, 0.5], [2.0, 2.0, 2.0], [-1.0, -3.0, -2.0]])
    assert best(scores, 1, None) == [(0, 1), (1, 0), (2, 0)]
    assert best(scores, 2, None) == [(0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 2)]
    assert best(scores, 2, 0.5) == [(0, 1), (1, 0), (1, 1)]


def test_nothing_to_train_on_is_an_error(tmp_path: Path):
    context = byte_context(tmp_path)
    start = letters_policy(context)
    with pytest.raises(DataError, match=r"none of 256 replies scores above rejection.above=2.0; the best has 1"):
        run_rejection(context, CONFIG.model_copy(update={"above": 2.0}), CallableReward(paid), start, PROMPTS)
    with pytest.raises(ConfigError, match="rejects nothing"):
        run_rejection(context, CONFIG.model_copy(update={"keep": 16}), CallableReward(paid), start, PROMPTS)
