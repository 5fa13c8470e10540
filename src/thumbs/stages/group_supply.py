"""Groups of replies to one prompt, and dynamic sampling: those whose scores are all equal make room for others.

Yu et al. 2025, arXiv:2503.14476, eq. 11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from thumbs.config.reward_parts import COST
from thumbs.records import Score
from thumbs.stages.rollout_queue import Redraw, ScoredBatch


def has_signal(scores: Sequence[Score]) -> bool:
    """Whether some reply of a group is better than another, or cheaper."""
    return len({(score.value, score.parts.get(COST)) for score in scores}) > 1


def groups_of(batch: ScoredBatch, size: int) -> list[slice]:
    """Where the groups of a batch are."""
    return [slice(at, at + size) for at in range(0, len(batch.rollouts), size)]


def with_signal(batch: ScoredBatch, redraw: Redraw, *, size: int, more: int) -> ScoredBatch:
    """The batch with its groups without signal replaced from up to `more` batches of other prompts.

    Where these bring too few, some without signal stay. Groups that are not needed are dropped.
    """
    wanted = groups_of(batch, size)
    groups = [(batch.rollouts[at], batch.scores[at]) for at in wanted]
    kept, flat = [g for g in groups if has_signal(g[1])], [g for g in groups if not has_signal(g[1])]
    redraws = 0
    while redraws < more and len(kept) < len(wanted):
        other, redraws = redraw(redraws), redraws + 1
        found = [(other.rollouts[at], other.scores[at]) for at in groups_of(other, size)]
        kept += [group for group in found if has_signal(group[1])]
    chosen = [*kept, *flat][: len(wanted)]
    return replace(
        batch,
        rollouts=tuple(rollout for rollouts, _ in chosen for rollout in rollouts),
        scores=tuple(score for _, scores in chosen for score in scores),
        redraws=redraws,
        dropped=max(len(kept) - len(wanted), 0),
    )
