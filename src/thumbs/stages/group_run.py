"""Sets a run of the group family up, goes on where it stopped, and keeps its log; the algorithm is in `group.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thumbs.config.group import GroupConfig
from thumbs.engine.base import ModelSpec
from thumbs.errors import ConfigError
from thumbs.records import Prompt
from thumbs.rewards.base import RewardSource
from thumbs.rollout.episodes import Episodes
from thumbs.safety.guards import alarms
from thumbs.stages.context import Context, Resume
from thumbs.stages.group import Group
from thumbs.stages.group_supply import Pending, pending_as_json, pending_from_json
from thumbs.stages.rollouts import check_rounds, keep_samples
from thumbs.tracking.progress import Progress


def run_group(
    context: Context,
    config: GroupConfig,
    reward: RewardSource,
    start: Path | None,
    prompts: Sequence[Prompt],
    *,
    fixed_prompts: Sequence[Prompt] = (),
    episodes: Episodes | None = None,
) -> dict[str, Any]:
    """Optimises the policy in checkpoint `start` (None: the base model) against `reward`.

    Leaves the last policy in the stage's `model` folder; returns the last step's metrics. `fixed_prompts` are answered
    every `sample_every` steps for the report; `episodes` makes rollouts conversations of several turns.
    """
    check_rounds(config)
    if not prompts:
        raise ConfigError("group got no prompts")
    engine, model, seed = context.engine, context.model, context.seed
    policy = engine.create(ModelSpec("policy", model, ("lm",), start, seed=seed))
    reference = engine.create(ModelSpec("reference", model, ("lm",), start, trainable=False, seed=seed))
    group = Group(context, config, policy, reward, prompts, reference, episodes)
    resume = Resume(context, {"policy": policy})
    step, state = resume.load()
    pending = pending_from_json(state["pending"]) if state else Pending(0)
    first, metrics = state.get("first", {}), state.get("metrics", {})
    if step == 0:
        keep_samples(context, policy, reward, fixed_prompts, config.sampling, 0, episodes)
    with Progress("group", config.steps, ("score", "length")) as bar:
        bar.advance(step)
        while step < config.steps:
            report = group.step(step, pending)
            step += 1
            pending, metrics, last = report.pending, report.metrics, step == config.steps
            first = first or metrics
            context.folder.metrics.log(step, metrics)
            for alarm in alarms(first, metrics, "group"):
                print(f"alarm at group step {step}: {alarm}", file=sys.stderr)  # noqa: T201
            if step % config.sample_every == 0 or last:
                keep_samples(context, policy, reward, fixed_prompts, config.sampling, step, episodes)
            if step % config.save_every == 0 or last:
                state = {"first": first, "metrics": metrics, "pending": pending_as_json(pending)}
                resume.save(step, state)
            bar.advance(score=metrics["group/score"], length=metrics["group/length"])
    engine.save(policy, context.best)
    for handle in (policy, reference):
        engine.close(handle)
    return {"steps": step, "last": metrics}
