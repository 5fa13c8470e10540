"""The watch on a policy: the same prompts at every look, a second opinion, alarms, and the policy to return to.

What decides is in `safety/second_opinion.py`. The looks are part of the loop (`loop.py`), so every stage that moves a
policy can be watched, and a run that was interrupted sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from thumbs.config.sampling import SamplingConfig
from thumbs.config.watch import WatchConfig
from thumbs.engine.base import Handle
from thumbs.records import Example, Prompt, Rollout
from thumbs.rewards.base import RewardSource, shown_scores
from thumbs.rollout.episodes import Episodes
from thumbs.rollout.rounds import require_unwarped, seed_of
from thumbs.safety.guards import repeated
from thumbs.safety.second_opinion import is_over_optimised
from thumbs.stages.context import Context
from thumbs.stages.rollouts import answer

BEST = "watch"
"""Folder of a stage in which the policy with the best value is kept."""


@dataclass(frozen=True)
class Watch:
    """What the looks at the policy of a stage have in common.

    reference: what distance is measured from. proxy: what the policy is paid by. second: the other opinion.
    """

    context: Context
    config: WatchConfig
    policy: Handle
    reference: Handle
    proxy: RewardSource
    second: RewardSource
    prompts: Sequence[Prompt]
    sampling: SamplingConfig
    episodes: Episodes | None = None

    def __post_init__(self) -> None:
        require_unwarped(self.sampling, "watch")

    def look(self, step: int, state: dict[str, Any]) -> tuple[dict[str, float], list[str]]:
        """The numbers of the policy after so many steps, and alarms. The best policy so far is kept, and `state` has
        under `watch` what looks are compared with.
        """
        rollouts = self.replies()
        second = np.array([score.value for score in self.second.score(rollouts)])
        ratios = self._log_ratios(rollouts)
        values, tokens = second - self.config.kl_price * ratios, sum(rollout.reply_length for rollout in rollouts)
        proxy = shown_scores(self.proxy, rollouts)
        metrics = {
            "watch/proxy": float(np.mean(proxy)),
            "watch/second_proxy": float(second.mean()),
            "watch/value": float(values.mean()),
            "watch/kl": float(ratios.mean()),
            "watch/kl_per_token": float(ratios.sum() / max(tokens, 1)),
            "watch/length": tokens / len(rollouts),
            "watch/repetition": float(np.mean([repeated(sampled(rollout)) for rollout in rollouts])),
            "watch/entropy": -float(sum(rollout.logprobs.sum() for rollout in rollouts)) / max(tokens, 1),
            "watch/ended": float(np.mean([rollout.stop_reason != "length" for rollout in rollouts])),
        }
        seen = state.setdefault(
            "watch", {"start": values.tolist(), "best": [], "best_step": step, "lost": False, "why": ""}
        )
        start = seen.setdefault("proxies", [metrics["watch/proxy"], metrics["watch/second_proxy"]])
        metrics["watch/gap"] = (metrics["watch/proxy"] - start[0]) - (metrics["watch/second_proxy"] - start[1])
        if not seen["best"] or values.mean() > np.mean(seen["best"]):
            seen |= {"best": values.tolist(), "best_step": step}
            self.context.engine.save(self.policy, self.kept)
        metrics["watch/best_step"] = float(seen["best_step"])
        before, lost = seen["lost"], is_over_optimised(np.array(seen["start"]), np.array(seen["best"]), values)
        seen["lost"] = lost
        if not (before and lost):  # one bad look is often a step of the optimizer that the next one takes back
            return metrics, []
        said = (
            f"the second opinion has fallen from {np.mean(seen['best']):.2f} at step {seen['best_step']} to "
            f"{values.mean():.2f}, below the start: the reward is being gamed"
        )
        if self.config.act != "log":
            seen["why"] = said
        return metrics, [said]

    @property
    def kept(self) -> Path:
        """Where the policy with the best value is."""
        return self.context.folder.path / BEST

    def why_ended(self, state: dict[str, Any]) -> str | None:
        """Why the stage ends; None to go on."""
        return state.get("watch", {}).get("why") or None

    def roll_back(self, state: dict[str, Any]) -> int | None:
        """After an alarm, with `act: rollback`, gives the policy the weights that the second opinion liked best.

        Returns the step that they are of; None if nothing was done.
        """
        if self.config.act != "rollback" or self.why_ended(state) is None:
            return None
        self.context.engine.load(self.policy, self.kept, optimizer=False)
        return int(state["watch"]["best_step"])

    def replies(self) -> list[Rollout]:
        """The policy's replies to the watch set, with the same random numbers at every look."""
        seeds = [seed_of(self.context.seed, "watch", row) for row in range(len(self.prompts))]
        return answer(self.context, self.policy, self.prompts, self.sampling, seeds, self.episodes)

    def _log_ratios(self, rollouts: Sequence[Rollout]) -> np.ndarray:
        """log π(y) / π_reference(y) of each reply (k1, nats)."""
        data = [Example.next_token(rollout.tokens, weights=rollout.mask) for rollout in rollouts]
        theirs = self.context.engine.forward(self.reference, data, temperature=self.sampling.temperature)
        return np.array([float((r.logprobs - t.logprobs).sum()) for r, t in zip(rollouts, theirs, strict=True)])


class OpenWatch(Protocol):
    """Makes the watch of a stage, which knows the models, of what the run knows."""

    def __call__(self, *, context: Context, policy: Handle, reference: Handle) -> Watch:
        """The watch on `policy`."""
        ...


def sampled(rollout: Rollout) -> list[int]:
    """The tokens that the policy drew."""
    return rollout.tokens[1:][rollout.mask > 0].tolist()


def watch_set(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """`count` different prompts, or all if there are fewer."""
    different = list({prompt.messages: prompt for prompt in prompts}.values())
    order = np.random.default_rng(seed_of(seed, "watch set")).permutation(len(different))
    return [different[i] for i in sorted(order[:count])]
