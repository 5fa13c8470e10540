"""The replies of several policies to the same held-out prompts, each with its gold and proxy score and its log-ratio.

The proxy is what methods are paid by; the gold must not be, nor anything that they learned from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from thumbs.config.evaluation import EvaluationConfig
from thumbs.data.tokenizers import Tokenizer
from thumbs.engine.base import Engine, Handle
from thumbs.evaluation.gold import Gold, PairJudge
from thumbs.evaluation.replies import EvaluatedReply
from thumbs.evaluation.results import BEST_OF_N, NO_GOLD, PROXY, SECOND, Findings
from thumbs.records import Example, Prompt, Rollout
from thumbs.rewards.base import RewardSource, shown_scores
from thumbs.rollout.rounds import collect, require_unwarped, seed_of
from thumbs.tracking.progress import Progress


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation needs besides the policies; without a reward there is neither a proxy score nor best-of-n.

    second: the opinion of a reward model that no method was paid by. judged_draws: how many replies of a policy to a
    prompt a judge compares. Raises ConfigError for sampling that warps the distribution, since the KL would be that of
    another policy.
    """

    engine: Engine
    tokenizer: Tokenizer
    config: EvaluationConfig
    reward: RewardSource | None
    prompts: Sequence[Prompt]
    seed: int
    gold: Gold | None = None
    second: RewardSource | None = None
    judged_draws: int | None = None

    def __post_init__(self) -> None:
        require_unwarped(self.config.sampling, "evaluation")

    def run(
        self, policies: Mapping[str, Handle], reference: str, fixed: Sequence[Prompt]
    ) -> tuple[dict[str, Any], list[EvaluatedReply]]:
        """The results as plain data, and every reply.

        The base model answers each prompt once, and so do policies on their way (ppo@2), the trained ones `best_of`
        times: their difference is what counts, and one answer to each of 100 prompts leaves a standard error of 0.04
        in the mean of a score from -1 to 1. The reference answers as often as best-of-n has to choose from.
        """
        times = {name: 1 if name == "base" or "@" in name else self.config.best_of for name in policies}
        times[reference] = self.config.pool or self.config.best_of
        rows: list[EvaluatedReply] = []
        with Progress("evaluation", sum(times.values()), ("gold", "proxy")) as bar:
            for name, handle in policies.items():
                found = self.answers(name, handle, times[name], None if name == reference else policies[reference])
                means = {
                    "gold": _mean([row.gold for row in found]),
                    "proxy": _mean([r.proxies.get(PROXY) for r in found]),
                }
                bar.advance(times[name], **{key: value for key, value in means.items() if not math.isnan(value)})
                rows += found
        findings = Findings(rows, reference, self.config.best_of, self.seed)
        if isinstance(self.gold, PairJudge):
            findings = Findings(self.judged(findings, self.gold), reference, self.config.best_of, self.seed)
        title = None if self.config.gold is None else self.config.gold.title
        results = {
            "judge": title,
            "note": "" if self.gold is not None else NO_GOLD,
            "reference": reference,
            "settings": self.config.model_dump(mode="json"),
            **findings.summary(),
            "samples": self.side_by_side(policies, fixed),
        }
        return results, list(findings.rows)

    def judged(self, findings: Findings, judge: PairJudge) -> list[EvaluatedReply]:
        """The replies, with what a judge says of the methods' next to the reference's and to the best of n of those."""
        places = {(row.system, row.prompt_id, row.draw): i for i, row in enumerate(findings.rows)}
        pairs: list[tuple[int, str, EvaluatedReply]] = []
        others = findings.tables[findings.reference]
        for name in findings.methods:
            winners = findings.winners(findings.nearest_n(name)) if findings.chooses else [None] * len(others)
            for draws, theirs, winner in zip(findings.tables[name], others, winners, strict=True):
                for ours in draws[: self.judged_draws]:
                    place = places[ours.system, ours.prompt_id, ours.draw]
                    pairs.append((place, findings.reference, theirs[ours.draw % len(theirs)]))
                    if winner is not None:
                        pairs.append((place, BEST_OF_N, theirs[winner]))
        rows = list(findings.rows)
        differ = [(i, name, other) for i, name, other in pairs if rows[i].text != other.text]
        found = judge.both_orders([(rows[i].prompt, rows[i].text, other.text) for i, _, other in differ])
        told = {(i, name): orders for (i, name, _), orders in zip(differ, found, strict=True)}
        for place, name, _ in pairs:
            first, second = told.get((place, name), (0.5, 0.5))
            rows[place] = replace(rows[place], judged={**rows[place].judged, name: (first, second)})
        return rows

    def answers(self, name: str, policy: Handle, draws: int, reference: Handle | None) -> list[EvaluatedReply]:
        """That many replies to each prompt, draw by draw; all policies get the same random numbers.

        reference: what log-ratios are measured from; None for the reference itself, whose are 0.
        """
        prompts = [*self.prompts] * draws
        seeds = [seed_of(self.seed, "evaluation", draw, prompt.id) for draw in range(draws) for prompt in self.prompts]
        rollouts = collect(self.engine.snapshot(policy), prompts, self.tokenizer, self.config.sampling, seeds)
        golds, proxies = self.golds(rollouts), self.proxies(rollouts)
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

    def golds(self, rollouts: Sequence[Rollout]) -> list[float | None]:
        """The gold score of each reply; None if the gold compares two, or there is none."""
        if self.gold is None or isinstance(self.gold, PairJudge):
            return [None] * len(rollouts)
        return [score.value for score in self.gold.score(rollouts)]

    def proxies(self, rollouts: Sequence[Rollout]) -> list[dict[str, float]]:
        """What the reward says of each, its parts, and the second opinion, by name."""
        found: list[dict[str, float]] = [{} for _ in rollouts]
        if self.reward is not None:
            for told, score in zip(found, self.reward.score(rollouts), strict=True):
                told |= {PROXY: score.value} | {f"{PROXY}/{name}": value for name, value in score.parts.items()}
        if self.second is not None:
            for told, score in zip(found, self.second.score(rollouts), strict=True):
                told[SECOND] = score.value
        return found

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
            scored = None if isinstance(self.gold, PairJudge) else self.gold
            golds, proxies = (
                shown_scores(source, rollouts) if source else [math.nan] * len(rollouts)
                for source in (scored, self.reward)
            )
            for row, rollout, gold, proxy in zip(rows, rollouts, golds, proxies, strict=True):
                cut = rollout.stop_reason == "length"
                row[name] = {"text": rollout.text, "gold": gold, "proxy": proxy, "cut": cut}
        return rows


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan
