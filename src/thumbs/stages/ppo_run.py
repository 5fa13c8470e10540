"""Sets a PPO run up, goes on where it stopped, and keeps its log; the algorithm is in `ppo.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thumbs.config.ppo import PpoConfig
from thumbs.engine.base import ModelSpec
from thumbs.errors import ConfigError
from thumbs.records import Datum, Prompt
from thumbs.rewards.base import RewardSource
from thumbs.rollout.episodes import Episodes
from thumbs.safety.guards import alarms
from thumbs.stages.context import Context, Resume
from thumbs.stages.ppo import Models, Ppo, is_spent
from thumbs.stages.rollouts import check_rounds, keep_samples
from thumbs.tracking.progress import Progress

CRITIC = "critic"
"""Folder of the stage in which a critic with weights of its own is left."""


def run_ppo(
    context: Context,
    config: PpoConfig,
    reward: RewardSource,
    start: Path | None,
    prompts: Sequence[Prompt],
    *,
    reward_checkpoint: Path | None = None,
    critic_checkpoint: Path | None = None,
    fixed_prompts: Sequence[Prompt] = (),
    pretraining: Sequence[Datum] = (),
    episodes: Episodes | None = None,
) -> dict[str, Any]:
    """Optimises the policy in checkpoint `start` (None: the base model) against `reward`.

    Leaves the last policy in the stage's `model` folder, and a critic with weights of its own in `critic`; returns the
    last step's metrics. `critic_checkpoint`: what such a critic goes on from, in place of what the config says.
    `fixed_prompts` are answered every `sample_every` steps for the report; `episodes` makes rollouts conversations of
    several turns.
    """
    check_rounds(config)
    if not prompts:
        raise ConfigError("PPO got no prompts")
    engine = context.engine
    models = create_models(context, config, start, reward_checkpoint, critic_checkpoint)
    ppo = Ppo(context, config, models, reward, prompts, pretraining, episodes)
    handles = {"policy": models.policy} | ({} if models.shared_critic else {"critic": models.critic})
    resume = Resume(context, handles)
    step, state = resume.load()
    kl_coef, first = state.get("kl_coef", config.kl.coef), state.get("first", {})
    metrics: dict[str, float] = state.get("metrics", {})
    if step == 0:
        keep_samples(context, models.policy, reward, fixed_prompts, config.sampling, 0, episodes)
    with Progress("PPO", config.steps, ("score", "KL", "length", "tokens/s")) as bar:
        bar.advance(step)
        while step < config.steps and not is_spent(config.kl, metrics):
            report = ppo.step(step, kl_coef)
            step += 1
            kl_coef, metrics = report.kl_coef, report.metrics
            first = first or metrics
            context.folder.metrics.log(step, metrics)
            for alarm in alarms(first, metrics):
                print(f"alarm at PPO step {step}: {alarm}", file=sys.stderr)  # noqa: T201
            last = step == config.steps or is_spent(config.kl, metrics)
            if step % config.sample_every == 0 or last:
                keep_samples(context, models.policy, reward, fixed_prompts, config.sampling, step, episodes)
            if step % config.save_every == 0 or last:
                resume.save(step, {"kl_coef": kl_coef, "first": first, "metrics": metrics})
            shown = {"KL": metrics["ppo/kl"], "tokens/s": metrics["ppo/tokens_per_s"]}
            bar.advance(score=metrics["ppo/score"], length=metrics["ppo/length"], **shown)
    if is_spent(config.kl, metrics):
        spent = f"the policy is {metrics['ppo/kl']:.2f} nats from the reference, past kl.budget {config.kl.budget}"
        print(f"PPO ends at step {step} of {config.steps} without an update: {spent}", file=sys.stderr)  # noqa: T201
    engine.save(models.policy, context.best)
    if not models.shared_critic:
        engine.save(models.critic, context.folder.path / CRITIC)
    for handle in {models.policy, models.critic, models.reference}:
        engine.close(handle)
    return {"steps": step, "last": metrics}


def create_models(
    context: Context,
    config: PpoConfig,
    start: Path | None,
    reward_checkpoint: Path | None,
    critic_checkpoint: Path | None = None,
) -> Models:
    """Policy and reference from `start`; the critic from its checkpoint, or else as the config says."""
    engine, model, seed = context.engine, context.model, context.seed
    shared = config.critic.init == "shared"
    heads = ("lm", "scalar") if shared else ("lm",)
    policy = engine.create(ModelSpec("policy", model, heads, start, seed=seed))
    reference = engine.create(ModelSpec("reference", model, ("lm",), start, trainable=False, seed=seed))
    if shared:
        return Models(policy, policy, reference)
    if config.critic.init == "reward" and reward_checkpoint is None:
        raise ConfigError("ppo.critic.init=reward needs a trained reward model with one head; use shared or policy")
    origin = critic_checkpoint or (reward_checkpoint if config.critic.init == "reward" else start)
    return Models(policy, engine.create(ModelSpec("critic", model, ("scalar",), origin, seed=seed)), reference)
