"""Sets a run of the group family up, goes on where it stopped, and keeps its log; the algorithm is in `group.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thumbs.config.group import GroupConfig
from thumbs.engine.base import ModelSpec
from thumbs.errors import ConfigError
from thumbs.records import Prompt
from thumbs.rewards.base import RewardSource
from thumbs.stages.context import Context, Resume
from thumbs.stages.group import Group
from thumbs.tracking.progress import Progress


def run_group(
    context: Context, config: GroupConfig, reward: RewardSource, start: Path | None, prompts: Sequence[Prompt]
) -> dict[str, Any]:
    """Optimises the policy in checkpoint `start` (None: the base model) against `reward`.

    Leaves the last policy in the stage's `model` folder; returns the last step's metrics.
    """
    if not prompts:
        raise ConfigError("group got no prompts")
    policy = context.engine.create(ModelSpec("policy", context.model, ("lm",), start, seed=context.seed))
    group = Group(context, config, policy, reward, prompts)
    resume = Resume(context, {"policy": policy})
    step, metrics = resume.load()
    with Progress("group", config.steps, ("score", "length")) as bar:
        bar.advance(step)
        while step < config.steps:
            metrics = group.step(step).metrics
            step += 1
            context.folder.metrics.log(step, metrics)
            if step % config.save_every == 0 or step == config.steps:
                resume.save(step, metrics)
            bar.advance(score=metrics["group/score"], length=metrics["group/length"])
    context.engine.save(policy, context.best)
    context.engine.close(policy)
    return {"steps": step, "last": metrics}
