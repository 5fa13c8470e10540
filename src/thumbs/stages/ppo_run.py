"""Sets a PPO run up: its models and its loop. The algorithm is in `ppo.py`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from thumbs.config.ppo import PpoConfig
from thumbs.engine.base import ModelSpec
from thumbs.errors import ConfigError
from thumbs.records import Example, Prompt
from thumbs.rewards.base import RewardSource
from thumbs.rollout.episodes import Episodes
from thumbs.safety.guards import alarms
from thumbs.stages.constraint import and_infeasible
from thumbs.stages.context import Context
from thumbs.stages.loop import Loop, Metrics, State
from thumbs.stages.ppo import Models, Ppo, why_spent
from thumbs.stages.rollouts import check_rounds, keep_samples
from thumbs.stages.watch import OpenWatch

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
    pretraining: Sequence[Example] = (),
    episodes: Episodes | None = None,
    watch: OpenWatch | None = None,
    cost: RewardSource | None = None,
) -> dict[str, Any]:
    """Optimises the policy in checkpoint `start` (None: the base model) against `reward`.

    Leaves the last policy in the stage's `model` folder, and a critic with weights of its own in `critic`; returns the
    last step's metrics. `critic_checkpoint`: what such a critic goes on from, in place of what the config says.
    `fixed_prompts` are answered every `sample_every` steps for the report; `episodes` makes rollouts conversations of
    several turns; `watch` looks at the policy meanwhile; `cost`: what a reply costs, for config.constraint.
    """
    check_rounds(config)
    if not prompts:
        raise ConfigError("PPO got no prompts")
    models = create_models(context, config, start, reward_checkpoint, critic_checkpoint)
    ppo = Ppo(context, config, models, reward, prompts, pretraining, episodes, cost)
    own_critic = not models.shared_critic
    loop = Loop(
        context,
        title="PPO",
        steps=config.steps,
        models={"policy": models.policy} | ({"critic": models.critic} if own_critic else {}),
        keeps={context.best: models.policy} | ({context.folder.path / CRITIC: models.critic} if own_critic else {}),
        shown={"score": "ppo/score", "KL": "ppo/kl", "length": "ppo/length", "tokens/s": "ppo/tokens_per_s"},
        save_every=config.save_every,
        samples=partial(keep_samples, context, models.policy, reward, fixed_prompts, config.sampling, episodes),
        sample_every=config.sample_every,
        alarms=and_infeasible(config, partial(alarms, watched=watch is not None)),
        watch=None if watch is None else watch(context=context, policy=models.policy, reference=models.reference),
        is_spent=partial(why_spent, config.kl),
        before_save=ppo.queue.save,
    )

    def step(number: int, state: State) -> Metrics:
        ppo.queue.restore(state)
        report = ppo.step(number, state["kl_coef"], state.get("lambda"))
        state |= {"kl_coef": report.kl_coef, "lambda": report.multiplier}
        return report.metrics

    with ppo.queue.open():
        ended = loop.run(step, begin=lambda: {"kl_coef": config.kl.coef})
    for handle in {models.policy, models.critic, models.reference}:
        context.engine.close(handle)
    return {"steps": ended.step, "last": ended.metrics}


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
