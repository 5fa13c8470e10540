"""Gold and proxy score, KL, length and variety of several policies on the same held-out prompts.

The gold judge is known here and nowhere else but in the simulated annotators; the proxy is the trained reward model.
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
from thumbs.evaluation.intervals import best_of_n_kl, bootstrap_mean, win_rate
from thumbs.evaluation.judges import gold_judge
from thumbs.evaluation.text import distinct_n
from thumbs.records import Example, Prompt, Rollout
from thumbs.rewards.base import RewardSource, shown_scores
from thumbs.rollout.rounds import collect, require_unwarped, seed_of
from thumbs.tracking.progress import Progress


@dataclass(frozen=True, eq=False)
class Answers:
    """One policy's answers to all prompts with their gold and proxy scores."""

    rollouts: list[Rollout]
    gold: np.ndarray
    proxy: np.ndarray


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

    def run(self, policies: Mapping[str, Handle], reference: str, fixed: Sequence[Prompt]) -> dict[str, Any]:
        """Results by policy name, best-of-n from the reference, win rates against it, samples.

        The base model answers each prompt once, and so do policies on their way (ppo@2), the trained ones `best_of`
        times: their difference is what counts, and one answer to each of 100 prompts leaves a standard error of 0.04
        in the mean of a score from -1 to 1. KL is the mean of log π(y) - log π_reference(y) over each policy's first
        samples (k1, nats per sequence); that of best-of-n is its exact bound.
        """
        times = {name: 1 if name == "base" or "@" in name else self.config.best_of for name in policies}
        draws: dict[str, list[Answers]] = {}
        with Progress("evaluation", sum(times.values()), ("gold", "proxy")) as bar:
            for name, handle in policies.items():
                draws[name] = self.answer(handle, self.prompts, times[name])
                shown = {} if self.reward is None else {"proxy": draws[name][0].proxy.mean()}
                bar.advance(len(draws[name]), gold=draws[name][0].gold.mean(), **shown)
        answers = {name: found[0] for name, found in draws.items()}
        systems = {
            name: self.describe(found, self.kl(found[0], policies[reference]) if name != reference else 0.0)
            for name, found in draws.items()
        }
        if self.reward is not None:
            systems["best_of_n"] = self.describe([best_of(draws[reference])], best_of_n_kl(self.config.best_of))
        return {
            "judge": self.config.judge,
            "systems": systems,
            "win_rates": {
                name: win_rate(found.gold, answers[reference].gold, self.seed)
                for name, found in answers.items()
                if name not in ("base", reference) and "@" not in name
            },
            "frontier": [
                {"name": name, "kl": s["kl"], "gold": s["gold"], "proxy": s["proxy"]} for name, s in systems.items()
            ],
            "samples": self.side_by_side(policies, fixed),
        }

    def answer(self, handle: Handle, prompts: Sequence[Prompt], draws: int, *, shown: bool = False) -> list[Answers]:
        """That many answers to each prompt; all policies get the same random numbers.

        shown: they are for reading, so a proxy score that cannot be had is NaN and no error.
        """
        seeds = [seed_of(self.seed, "evaluation", draw, prompt.id) for draw in range(draws) for prompt in prompts]
        sampler = self.engine.snapshot(handle)
        rollouts = collect(sampler, [*prompts] * draws, self.tokenizer, self.config.sampling, seeds)
        judge, n = gold_judge(self.config.judge), len(prompts)
        gold = np.array([judge(p.messages, r.text) for p, r in zip([*prompts] * draws, rollouts, strict=True)])
        proxy = np.array(self.proxy_scores(rollouts, shown=shown))
        return [Answers(rollouts[i : i + n], gold[i : i + n], proxy[i : i + n]) for i in range(0, n * draws, n)]

    def proxy_scores(self, rollouts: Sequence[Rollout], *, shown: bool) -> Sequence[float]:
        """What the reward says of each; NaN if there is no reward, or none for a reply that is only shown."""
        if self.reward is None:
            return [math.nan] * len(rollouts)
        return shown_scores(self.reward, rollouts) if shown else [s.value for s in self.reward.score(rollouts)]

    def kl(self, answers: Answers, reference: Handle) -> float:
        """Mean over sequences of the summed log-ratio (nats); the policy's side was kept when it sampled."""
        data = [Example.next_token(r.tokens, weights=r.mask) for r in answers.rollouts]
        theirs = self.engine.forward(reference, data, temperature=self.config.sampling.temperature)
        return float(np.mean([(r.logprobs - t.logprobs).sum() for r, t in zip(answers.rollouts, theirs, strict=True)]))

    def describe(self, draws: Sequence[Answers], kl: float) -> dict[str, float]:
        """Means over draws and prompts; the interval of the gold score is a bootstrap over prompts.

        distinct-2 falls as a text grows, so it is the mean of that of each draw.
        """
        gold = np.stack([draw.gold for draw in draws])
        rollouts = [r for draw in draws for r in draw.rollouts]
        low, high = bootstrap_mean(gold.mean(axis=0), self.seed)
        return {
            "gold": float(gold.mean()),
            "gold_low": low,
            "gold_high": high,
            "proxy": float(np.mean([draw.proxy for draw in draws])),
            "kl": kl,
            "length": float(np.mean([r.reply_length for r in rollouts])),
            "distinct2": float(np.mean([distinct_n([r.text for r in draw.rollouts], 2) for draw in draws])),
            "truncated": float(np.mean([r.stop_reason == "length" for r in rollouts])),
            "n": gold.shape[1],
            "draws": len(draws),
        }

    def side_by_side(self, policies: Mapping[str, Handle], fixed: Sequence[Prompt]) -> list[dict[str, Any]]:
        """For each fixed prompt, every policy's reply with both scores."""
        rows: list[dict[str, Any]] = [{"prompt": prompt.messages[-1].content} for prompt in fixed]
        for name, handle in policies.items() if fixed else ():
            if "@" in name:
                continue
            (answers,) = self.answer(handle, fixed, 1, shown=True)
            for row, rollout, gold, proxy in zip(rows, answers.rollouts, answers.gold, answers.proxy, strict=True):
                row[name] = {"text": rollout.text, "gold": float(gold), "proxy": float(proxy)}
        return rows


def best_of(draws: Sequence[Answers]) -> Answers:
    """For each prompt the answer with the highest proxy score."""
    winners = np.stack([draw.proxy for draw in draws]).argmax(axis=0)
    return Answers(
        [draws[w].rollouts[i] for i, w in enumerate(winners)],
        np.array([draws[w].gold[i] for i, w in enumerate(winners)]),
        np.array([draws[w].proxy[i] for i, w in enumerate(winners)]),
    )
