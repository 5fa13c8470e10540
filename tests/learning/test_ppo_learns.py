"""PPO on tasks whose best policy is known.

With one sampled token, score r(x) and KL price β, the best policy is π*(x) ∝ π_ref(x) exp(r(x) / β), and what it earns,
KL included, is β log Σ π_ref(x) exp(r(x) / β) (Ziegler et al. 2019, arXiv:1909.08593, section 2). Both are computed
here from the reference's logits, so a wrong sign in advantages, ratio, KL or values cannot hide.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from byte_world import byte_context, prompt
from thumbs.config.data import DataConfig
from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.config.optim import AdamConfig
from thumbs.config.ppo import CriticConfig, KlConfig, PpoConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.engine.base import AdamStep, Handle, ModelSpec
from thumbs.records import Example, Rollout
from thumbs.rewards.base import CallableReward
from thumbs.stages.context import Context
from thumbs.stages.ppo import Models, Ppo
from thumbs.stages.ppo_run import create_models, run_ppo

LETTERS = np.frombuffer(b"abcdefgh", dtype=np.uint8).astype(np.int64)
QUESTIONS = ("x", "y")
LIKES = {"x": np.linspace(-1, 1, 8), "y": np.array([1, 0.6, 0, -1, -1, 0, 0.6, 1]) - 1}
"""Score of each letter as the answer to each question; any other byte scores as the worst letter."""


def letters_policy(context: Context) -> Path:
    """A checkpoint that answers "x" mostly with early letters and "y" with late ones, and explores all of them."""
    handle = context.engine.create(ModelSpec("sft", context.model))
    shares = {"x": np.linspace(3, 1, 8) / 16, "y": np.linspace(1, 3, 8) / 16}
    data = []
    for question in QUESTIONS:
        head = context.tokenizer.render_prompt(prompt(question).messages)
        for letter, share in zip(LETTERS, shares[question], strict=True):
            weights = [0.0] * (len(head) - 1) + [share / 2]
            data.append(Example.next_token([*head, letter], weights=weights))
    for _ in range(40):
        context.engine.forward_backward(handle, data, [CROSS_ENTROPY])
        context.engine.optim_step(handle, AdamStep(1e-3, 1e-3))
    path = context.folder.path / "start"
    context.engine.save(handle, path)
    context.engine.close(handle)
    return path


def answers(context: Context, handle: Handle, question: str) -> np.ndarray:
    """Probability of each token as the first of the answer, [V], from the logits."""
    head = context.tokenizer.render_prompt(prompt(question).messages)
    weights = [0.0] * (len(head) - 1) + [1.0]
    data = [Example.next_token([*head, x], weights=weights) for x in range(context.tokenizer.vocab_size)]
    return np.exp([float(output.logprobs[-1]) for output in context.engine.forward(handle, data)])


def letter_scores(question: str) -> np.ndarray:
    scores = np.full(260, LIKES[question].min())
    scores[LETTERS] = LIKES[question]
    return scores


def best_policy(reference: np.ndarray, scores: np.ndarray, beta: float) -> tuple[np.ndarray, float]:
    """π* [V], and what it earns."""
    lifted = reference * np.exp(scores / beta)
    return lifted / lifted.sum(), beta * float(np.log(lifted.sum()))


def one_letter(critic: CriticConfig, rate: float, beta: float) -> PpoConfig:
    return PpoConfig(
        prompts=DataConfig(path="unused"),
        steps=50,
        batch_size=32,
        minibatch_size=16,
        optim=AdamConfig(learning_rate=rate, schedule="linear", warmup_fraction=0),
        sampling=SamplingConfig(max_new_tokens=1),
        kl=KlConfig(coef=beta, target=None),
        critic=critic,
        score_clip=None,
    )


def trained(context: Context, config: PpoConfig, start: Path | None) -> Models:
    models = create_models(context, config, start, None)
    reward = CallableReward(lambda rollout: letter_scores(rollout.prompt_id)[rollout.tokens[-1]])
    ppo = Ppo(context, config, models, reward, [prompt(question) for question in QUESTIONS] * 16)
    kl_coef = config.kl.coef
    for step in range(config.steps):
        kl_coef = ppo.step(step, kl_coef).kl_coef
    return models


def check(context: Context, models: Models, beta: float, left: float) -> None:
    """At most the share `left` of the reference's total variation distance to π* is left, and the values are right."""
    for question in QUESTIONS:
        reference = answers(context, models.reference, question)
        best, worth = best_policy(reference, letter_scores(question), beta)
        far, near = (np.abs(best - answers(context, m, question)).sum() / 2 for m in (models.reference, models.policy))
        assert far > 0.15, "the reference must not be the best policy already"
        assert near < left * far, f"{question}: {near:.3f} from the best policy, the reference {far:.3f}"
        head = context.tokenizer.render_prompt(prompt(question).messages)
        value = context.engine.forward(models.critic, [Example.whole_sequence(head)])[0].values[-1]
        assert value == pytest.approx(worth, abs=0.15), f"worth of {question!r}"


def test_ppo_reaches_the_best_policy_and_the_critic_knows_its_worth(tmp_path: Path):
    context = byte_context(tmp_path)
    models = trained(context, one_letter(CriticConfig(), 3e-4, 0.5), letters_policy(context))
    check(context, models, 0.5, left=0.2)


def test_adapters_with_a_critic_of_their_own_reach_it_too(tmp_path: Path):
    """The frozen output matrix keeps answers blunt: β is higher, and even a direct fit to π* leaves a fifth."""
    full = byte_context(tmp_path)
    lora = AdapterConfig(rank=16, layers=2)
    base = ModelConfig(name=str(letters_policy(full)), lora=lora, dtype="float32")
    context = replace(full, model=base)
    models = trained(context, one_letter(CriticConfig(init="policy", learning_rate=3e-3), 3e-3, 1.5), None)
    check(context, models, 1.5, left=0.4)


def test_a_reply_of_several_tokens_learns_from_a_score_at_its_end(tmp_path: Path):
    """Credit must travel back: only the first letter counts, and only the end is paid."""
    context = byte_context(tmp_path)
    config = PpoConfig(
        prompts=DataConfig(path="unused"),
        steps=30,
        batch_size=32,
        minibatch_size=16,
        optim=AdamConfig(learning_rate=5e-4, schedule="linear", warmup_fraction=0),
        sampling=SamplingConfig(max_new_tokens=4),
        kl=KlConfig(coef=0.02, target=None),
    )
    start = letters_policy(context)
    before = context.engine.create(ModelSpec("sft", context.model, start=start))
    wanted = {"x": ord("e"), "y": ord("c")}

    def first_letter(rollout: Rollout) -> float:
        return float(rollout.tokens[rollout.prompt_length] == wanted[rollout.prompt_id])

    run_ppo(context, config, CallableReward(first_letter), start, [prompt(q) for q in QUESTIONS] * 16)
    policy = context.engine.create(ModelSpec("p", context.model, start=context.best))
    for question, letter in wanted.items():
        assert answers(context, before, question)[letter] < 0.2
        assert answers(context, policy, question)[letter] > 0.7
