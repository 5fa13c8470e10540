"""The replies of several policies to the same held-out prompts, each with its gold and proxy score and its log-ratio.

The gold is known here and nowhere else but in the simulated annotators; the proxy is what methods are paid by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thumbs.config.evaluation import EvaluationConfig
from thumbs.data.tokenizers import Tokenizer
from thumbs.engine.base import Engine, Handle
from thumbs.evaluation.judges import gold_judge
from thumbs.evaluation.replies import EvaluatedReply
from thumbs.evaluation.results import PROXY, Findings
from thumbs.records import Example, Prompt, Rollout
from thumbs.rewards.base import RewardSource, shown_scores
from thumbs.rollout.rounds import collect, require_unwarped, seed_of
from thumbs.tracking.progress import Progress


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation needs besides the policies; without a reward there is neither a proxy score nor best-of-n.

    Raises ConfigError for sampling that warps the distribution, since the KL would be that of another policy.
    """

    engine: Engine
    tokenizer: Tokenizer
    config: EvaluationConfig
    reward: RewardSource | None
    prompts: Sequence[Prompt]
    seed: int

    def __post_init__(self) -> None:
        require_unwarped(self.config.sampling, "evaluation")

    def run(
        self, policies: Mapping[str, Handle], reference: str, fixed: Sequence[Prompt]
    ) -> tuple[dict[str, Any], list[EvaluatedReply]]:
        """The results as plain data, and every reply.

        The base model answers each prompt once, and so do policies on their way (ppo@2), the trained ones `best_of`
        times: their difference is what counts, and one answer to each of 100 prompts leaves a standard error of 0.04
        in the mean of a score from -1 to 1.
        """
        times = {name: 1 if name == "base" or "@" in name else self.config.best_of for name in policies}
        times[reference] = self.config.best_of
        rows: list[EvaluatedReply] = []
        with Progress("evaluation", sum(times.values()), ("gold", "proxy")) as bar:
            for name, handle in policies.items():
                found = self.answers(name, handle, times[name], None if name == reference else policies[reference])
                shown = {"gold": _mean([row.gold for row in found])}
                shown |= {} if self.reward is None else {"proxy": _mean([row.proxies[PROXY] for row in found])}
                bar.advance(times[name], **shown)
                rows += found
        results = Findings(rows, reference, self.config.best_of, self.seed).summary()
        samples = self.side_by_side(policies, fixed)
        return {"judge": self.config.judge, "reference": reference, **results, "samples": samples}, rows

    def answers(self, name: str, policy: Handle, draws: int, reference: Handle | None) -> list[EvaluatedReply]:
        """That many replies to each prompt, draw by draw; all policies get the same random numbers.

        reference: what log-ratios are measured from; None for the reference itself, whose are 0.
        """
        prompts = [*self.prompts] * draws
        seeds = [seed_of(self.seed, "evaluation", draw, prompt.id) for draw in range(draws) for prompt in self.prompts]
        rollouts = collect(self.engine.snapshot(policy), prompts, self.tokenizer, self.config.sampling, seeds)
        golds, proxies = self.golds(rollouts), self.proxies(rollouts, shown=False)
        ratios = [0.0] * len(rollouts) if reference is None else self.log_ratios(rollouts, reference)
        return [
            EvaluatedReply(
                system=name,
                prompt=prompt.messages,
                prompt_id=prompt.id,
                draw=number // len(self.prompts),
                text=rollout.text,
                tokens=rollout.reply_length,
                cut=rollout.stop_reason == "length",
                gold=golds[number],
                proxies=proxies[number],
                log_ratio=ratios[number],
            )
            for number, (prompt, rollout) in enumerate(zip(prompts, rollouts, strict=True))
        ]

    def golds(self, rollouts: Sequence[Rollout]) -> list[float]:
        """The gold score of each reply."""
        judge = gold_judge(self.config.judge)
        return [judge(rollout.messages[:-1], rollout.text) for rollout in rollouts]

    def proxies(self, rollouts: Sequence[Rollout], *, shown: bool) -> list[dict[str, float]]:
        """What the rewards say of each by name. shown: they are for reading, so one that cannot be had is NaN."""
        if self.reward is None:
            return [{} for _ in rollouts]
        if shown:
            return [{PROXY: value} for value in shown_scores(self.reward, rollouts)]
        return [{PROXY: score.value} for score in self.reward.score(rollouts)]

    def log_ratios(self, rollouts: Sequence[Rollout], reference: Handle) -> list[float]:
        """log π(y) - log π_reference(y) of each reply (k1, nats); the policy's side was kept when it sampled."""
        data = [Example.next_token(r.tokens, weights=r.mask) for r in rollouts]
        theirs = self.engine.forward(reference, data, temperature=self.config.sampling.temperature)
        return [float((r.logprobs - t.logprobs).sum()) for r, t in zip(rollouts, theirs, strict=True)]

    def side_by_side(self, policies: Mapping[str, Handle], fixed: Sequence[Prompt]) -> list[dict[str, Any]]:
        """For each fixed prompt, every policy's reply with both scores."""
        rows: list[dict[str, Any]] = [{"prompt": prompt.messages[-1].content} for prompt in fixed]
        seeds = [seed_of(self.seed, "evaluation", 0, prompt.id) for prompt in fixed]
        for name, handle in policies.items() if fixed else ():
            if "@" in name:
                continue
            rollouts = collect(self.engine.snapshot(handle), fixed, self.tokenizer, self.config.sampling, seeds)
            told = zip(rows, rollouts, self.golds(rollouts), self.proxies(rollouts, shown=True), strict=True)
            for row, rollout, gold, proxies in told:
                cut = rollout.stop_reason == "length"
                row[name] = {"text": rollout.text, "gold": gold, "proxy": proxies.get(PROXY, math.nan), "cut": cut}
        return rows


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan
