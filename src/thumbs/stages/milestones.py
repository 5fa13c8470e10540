"""The policy on its way: kept where its KL from the reference first passes a level, to be judged with the last one.

Methods are compared fairly at equal KL, and over-optimisation is a curve, not a point (Gao et al. 2022,
arXiv:2210.10760, figure 1).
"""

from __future__ import annotations

from pathlib import Path

from thumbs.engine.base import Handle
from thumbs.engine.checkpoints import exists
from thumbs.stages.context import Context

FOLDER = "at-kl"


def keep_milestones(context: Context, policy: Handle, kl: float) -> None:
    """Keeps the policy, whose last replies were `kl` from the reference, at each level of the run newly passed."""
    for level in context.frontier:
        path = milestone(context.folder.path, level)
        if kl >= level and not exists(path):
            context.engine.save(policy, path)


def milestone(stage: Path, level: float) -> Path:
    """Where the policy of a stage at a level is kept."""
    return stage / FOLDER / f"{level:g}"


def milestones(stage: Path) -> list[tuple[str, Path]]:
    """(level as text, checkpoint) of what a stage kept, nearest the reference first."""
    found = [(path.name, path) for path in (stage / FOLDER).glob("*") if exists(path)]
    return sorted(found, key=lambda item: float(item[0]))
