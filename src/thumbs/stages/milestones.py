"""The policy on its way: kept where its KL from the reference first passes a level, to be judged with the last one.

Methods are compared fairly at equal KL, and over-optimisation is a curve, not a point (Gao et al. 2022,
arXiv:2210.10760, figure 1).
"""

from __future__ import annotations

from pathlib import Path

from thumbs.config.sampling import SamplingConfig
from thumbs.engine.base import Handle
from thumbs.engine.checkpoints import exists
from thumbs.errors import ConfigError
from thumbs.rollout.rounds import require_unwarped
from thumbs.stages.context import Context

FOLDER = "at-kl"


def keep_milestones(context: Context, policy: Handle, kl: float) -> None:
    """Keeps the policy, whose own replies are `kl` from the reference (nats per sequence), where it passes a level.

    Call it before the update that these replies lead to. A policy that passes several levels at once is kept once, at
    the highest of them.
    """
    highest = max((float(level) for level, _ in milestones(context.folder.path)), default=0.0)
    passed = [level for level in context.frontier if highest < level <= kl]
    if passed:
        context.engine.save(policy, milestone(context.folder.path, max(passed)))


def check_frontier(context: Context, sampling: SamplingConfig, section: str) -> None:
    """Raises ConfigError if policies are to be kept by a KL that this sampling of theirs does not let one measure."""
    if context.frontier:
        try:
            require_unwarped(sampling, section)
        except ConfigError as error:
            raise ConfigError(f"evaluation.frontier keeps policies at levels of KL, but {error}") from None


def milestone(stage: Path, level: float) -> Path:
    """Where the policy of a stage at a level is kept."""
    return stage / FOLDER / f"{level:g}"


def milestones(stage: Path) -> list[tuple[str, Path]]:
    """(level as text, checkpoint) of what a stage kept, nearest the reference first."""
    found = [(path.name, path) for path in (stage / FOLDER).glob("*") if exists(path)]
    return sorted(found, key=lambda item: float(item[0]))
