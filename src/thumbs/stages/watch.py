"""The watch on a policy: the same prompts at every look, a second opinion, alarms, and the policy to return to.

What is measured and what decides is in `safety/looks.py`. The looks are part of the loop (`loop.py`), so every stage
that moves a policy can be watched, and a run that was interrupted sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from thumbs.config.sampling import SamplingConfig
from thumbs.config.watch import WatchConfig
from thumbs.engine.base import Handle
from thumbs.records import Example, Message, Prompt, Rollout
from thumbs.rewards.base import RewardSource, shown_scores
from thumbs.rollout.episodes import Episodes
from thumbs.rollout.rounds import require_unwarped, seed_of
from thumbs.safety.looks import VALUE, Look, judge
from thumbs.stages.context import Context
from thumbs.stages.ppo_report import sampler_metrics
from thumbs.stages.rollouts import answer, pad

BEST = "watch"
"""Folder of a stage in which the policy with the best value is kept."""
COMPARED = 16
"""Replies on which trainer and sampler are compared: some hundreds of tokens tell a tenth of them from none."""


class Compares(Protocol):
    """A judge that compares two replies, shown in both orders (`evaluation.gold.PairJudge`)."""

    def both_orders(
        self, pairs: Sequence[tuple[Sequence[Message], str, str]]
    ) -> Sequence[tuple[float | None, float | None]]:
        """P(first is better) of each (prompt, first, second), with the first shown first, and shown second."""
        ...


@dataclass(frozen=True)
class Watch:
    """What the looks at the policy of a stage have in common.

    reference: what distance is measured from. proxy: what the policy is paid by. second: the other opinion. gold: is
    measured at each look, by a judge of pairs as the share that beats the reply of the first look; only with `by_gold`
    do values and alarms go by it.
    """

    context: Context
    config: WatchConfig
    policy: Handle
    reference: Handle
    proxy: RewardSource
    second: RewardSource | None
    prompts: Sequence[Prompt]
    sampling: SamplingConfig
    episodes: Episodes | None = None
    gold: RewardSource | Compares | None = None
    by_gold: bool = False

    def __post_init__(self) -> None:
        require_unwarped(self.sampling, "watch")

    def look(self, step: int, state: dict[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
        """The numbers of the policy after so many steps, and alarms in words by their signs.

        The best policy so far is kept. `state` has under `watch` what looks are compared with, and under `kl_coef` the
        price at which a stage goes on after a rollback.
        """
        seen = state.setdefault("watch", {"why": "", "back": False})
        judged = judge(self.measure(seen), step, seen, self.config.kl_price, by_gold=self.by_gold)
        if judged.is_best:
            self.context.engine.save(self.policy, self.kept)
        if VALUE in judged.alarms and self.config.act != "log":
            if self.config.kl_after is None or seen["back"]:
                seen["why"] = judged.alarms[VALUE]
            else:
                self.context.engine.load(self.policy, self.kept, optimizer=False)
                seen |= {"back": True, "signs": {}}
                state["kl_coef"] = self.config.kl_after
                judged.alarms[VALUE] += f"; goes on from step {seen['best_step']} with a KL price of {state['kl_coef']}"
        return judged.numbers, judged.alarms

    def measure(self, seen: dict[str, Any]) -> Look:
        """What is to be known of the policy's replies to the watch set; `seen` keeps those of the first look."""
        rollouts = self.replies()
        data = [Example.next_token(rollout.tokens, weights=rollout.mask) for rollout in rollouts]
        ours, theirs = (
            [out.logprobs for out in self.context.engine.forward(handle, rows, temperature=self.sampling.temperature)]
            for handle, rows in ((self.policy, data[:COMPARED]), (self.reference, data))
        )
        return Look(
            proxy=np.array(shown_scores(self.proxy, rollouts)),
            second=None if self.second is None else np.array([s.value for s in self.second.score(rollouts)]),
            log_ratios=np.array([float((r.logprobs - t).sum()) for r, t in zip(rollouts, theirs, strict=True)]),
            logprobs=np.array([float(r.logprobs.sum()) for r in rollouts]),
            tokens=[sampled(rollout) for rollout in rollouts],
            ended=np.array([rollout.stop_reason != "length" for rollout in rollouts]),
            off=sampler_metrics("watch", rollouts[:COMPARED], pad(ours))["watch/sampler_off"],
            gold=self._golds(rollouts, seen),
        )

    def _golds(self, rollouts: Sequence[Rollout], seen: dict[str, Any]) -> np.ndarray | None:
        if self.gold is None:
            return None
        if not hasattr(self.gold, "both_orders"):
            return np.array([score.value for score in cast(RewardSource, self.gold).score(rollouts)])
        texts = [rollout.text for rollout in rollouts]
        pairs = [
            (r.messages[:-1], r.text, was) for r, was in zip(rollouts, seen.setdefault("texts", texts), strict=True)
        ]
        told = cast(Compares, self.gold).both_orders(pairs)
        known = [[share for share in orders if share is not None] for orders in told]
        return np.array([np.mean(shares) if shares else 0.5 for shares in known])

    @property
    def kept(self) -> Path:
        """Where the policy with the best value is."""
        return self.context.folder.path / BEST

    def why_ended(self, state: dict[str, Any]) -> str | None:
        """Why the stage ends; None to go on."""
        return state.get("watch", {}).get("why") or None

    def roll_back(self, state: dict[str, Any]) -> int | None:
        """At the end of a stage in which an alarm was raised, with `act: rollback`, gives the policy the weights that
        had the highest value.

        Returns the step that they are of; None if nothing was done.
        """
        raised = self.why_ended(state) is not None or state.get("watch", {}).get("back", False)
        if self.config.act != "rollback" or not raised:
            return None
        self.context.engine.load(self.policy, self.kept, optimizer=False)
        return int(state["watch"]["best_step"])

    def replies(self) -> list[Rollout]:
        """The policy's replies to the watch set, with the same random numbers at every look."""
        seeds = [seed_of(self.context.seed, "watch", row) for row in range(len(self.prompts))]
        return answer(self.context, self.policy, self.prompts, self.sampling, seeds, self.episodes)


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
