"""The preference family on tasks whose best policy is known: every method comes to prefer the paid answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_ppo_learns import LETTERS, QUESTIONS, answers, letters_policy

from byte_world import byte_context, pair, prompt
from thumbs.config.data import DataConfig
from thumbs.config.direct import DirectConfig, OnlineConfig
from thumbs.config.direct_methods import DIRECT_METHODS
from thumbs.config.optim import AdamConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.engine.base import ModelSpec
from thumbs.records import Preference
from thumbs.rewards.base import CallableReward
from thumbs.stages.context import Context
from thumbs.stages.direct import run_direct
from thumbs.stages.kto import judged_of_pairs, run_kto
from thumbs.stages.online_dpo import run_online_dpo
from thumbs.tracking.metrics import METRICS

PAID = {"x": "e", "y": "c"}
SETTINGS: dict[str, dict[str, Any]] = {
    # At its own tau the blend slopes the wrong way at a margin of 0, where every run starts.
    "discopop": {"tau": 0.5},
    # With whole replies of two tokens, 500 nats and 5 nats are too far to reach.
    "sppo": {"beta": 0.1},
    "nca": {"beta": 0.1},
    # It lowers both replies until beta times their fall is well above 1, and only then lets the chosen one go.
    "apo_down": {"beta": 1.0},
}
STEPS = 12


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return letters_policy(byte_context(tmp_path_factory.mktemp("start")))


def paid_pairs(first: int = 0, *, swapped: bool = False) -> list[Preference]:
    """The paid letter against each other letter, from the `first` on; either side stands first in turn."""
    pairs = []
    for question, paid in PAID.items():
        for number, other in enumerate(chr(letter) for letter in LETTERS[first:] if chr(letter) != paid):
            turned = number % 2 == 1
            pairs.append(pair(question, *((other, paid, "second") if turned else (paid, other, "first"))))
    return pairs


def shares(context: Context, checkpoint: Path) -> list[float]:
    """Of each question the probability of the paid letter over that of all letters."""
    policy = context.engine.create(ModelSpec("p", context.model, start=checkpoint))
    return [
        float(found[ord(paid)] / found[LETTERS].sum())
        for question, paid in PAID.items()
        for found in [answers(context, policy, question)]
    ]


@pytest.mark.parametrize("method", [name for name, preset in DIRECT_METHODS.items() if preset.data == "pairs"])
def test_every_method_of_pairs_comes_to_prefer_the_paid_answer(tmp_path: Path, start: Path, method: str):
    context = byte_context(tmp_path)
    optim = AdamConfig(learning_rate=1e-3, schedule="constant")
    config = DirectConfig(
        method=method, epochs=STEPS, batch_size=14, optim=optim, eval_every=STEPS, **SETTINGS.get(method, {})
    )
    run_direct(context, config, start, paid_pairs(), paid_pairs(4))
    before, after = shares(context, start), shares(context, context.best)
    records = context.folder.metrics.read()
    assert max(before) < 0.2
    assert min(a / b for a, b in zip(after, before, strict=True)) > 1.5, (before, after)
    assert records[-1]["preference/heldout_accuracy"] > 0.8
    assert records[-1]["preference/heldout_margin"] > records[0]["preference/heldout_margin"]
    assert {name for record in records for name in record} - {"step", "wall_s"} <= set(METRICS)


def test_kto_comes_to_prefer_the_paid_answer(tmp_path: Path, start: Path):
    context = byte_context(tmp_path)
    optim = AdamConfig(learning_rate=1e-3, schedule="constant")
    config = DirectConfig(method="kto", epochs=STEPS, batch_size=28, optim=optim, eval_every=STEPS)
    run_kto(context, config, start, judged_of_pairs(paid_pairs()), judged_of_pairs(paid_pairs(4)))
    before, after = shares(context, start), shares(context, context.best)
    records = context.folder.metrics.read()
    assert min(a / b for a, b in zip(after, before, strict=True)) > 1.5, (before, after)
    assert records[-1]["preference/heldout_accuracy"] > 0.8
    assert {name for record in records for name in record} - {"step", "wall_s"} <= set(METRICS)


def test_online_dpo_finds_the_paid_answer_by_itself(tmp_path: Path, start: Path):
    context = byte_context(tmp_path)
    config = DirectConfig(
        method="online_dpo",
        batch_size=16,
        optim=AdamConfig(learning_rate=1e-3, schedule="constant"),
        online=OnlineConfig(
            prompts=DataConfig(path="unused"),
            steps=15,
            replies_per_prompt=4,
            sampling=SamplingConfig(max_new_tokens=1),
        ),
    )
    paid = CallableReward(lambda rollout: float(rollout.tokens[-1] == ord(PAID[rollout.prompt_id])))
    run_online_dpo(context, config, paid, start, [prompt(question) for question in QUESTIONS] * 8)
    before, after = shares(context, start), shares(context, context.best)
    records = context.folder.metrics.read()
    assert min(a / b for a, b in zip(after, before, strict=True)) > 2, (before, after)
    assert records[-1]["preference/score"] > 2 * records[0]["preference/score"]
    assert {name for record in records for name in record} - {"step", "wall_s"} <= set(METRICS)


def test_dpo_reaches_the_policy_that_its_pairs_describe(tmp_path: Path, start: Path):
    """With P(a over b) = σ(r(a) - r(b)) the optimum is π ∝ π_ref exp(r / β) (arXiv:2305.18290, eq. 4)."""
    context = byte_context(tmp_path)
    beta, rng = 0.5, np.random.default_rng(0)
    likes = dict(zip(LETTERS.tolist(), np.linspace(-1, 1, 8), strict=True))
    pairs = []
    for a in likes:
        for b in likes:
            if a == b:
                continue
            for _ in range(12):
                verdict = "first" if rng.random() < 1 / (1 + np.exp(likes[b] - likes[a])) else "second"
                pairs.append(pair("x", chr(a), chr(b), verdict))
    reference = context.engine.create(ModelSpec("r", context.model, start=start))
    lifted = answers(context, reference, "x")[LETTERS] * np.exp(np.linspace(-1, 1, 8) / beta)
    best = lifted / lifted.sum()
    config = DirectConfig(epochs=4, batch_size=84, beta=beta, optim=AdamConfig(learning_rate=1e-4))
    run_direct(context, config, start, pairs)
    policy = context.engine.create(ModelSpec("p", context.model, start=context.best))
    found, was = (answers(context, handle, "x")[LETTERS] for handle in (policy, reference))
    far, near = (np.abs(best - p / p.sum()).sum() / 2 for p in (was, found))
    assert far > 0.3
    assert near < 0.35 * far
