"""The gold: whatever the user trusts to say which reply is better.

Rules, functions, verifiers and reward models score single replies, as any `RewardSource` does; judges and people
compare two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from thumbs.config.evaluation import GoldConfig
from thumbs.config.named import load_callable
from thumbs.engine.base import Engine
from thumbs.errors import ConfigError, RewardError
from thumbs.evaluation.judges import gold_judge
from thumbs.records import Message, Rollout, Score
from thumbs.rewards.base import CallableReward, RewardSource
from thumbs.rewards.build import open_reward_model
from thumbs.rewards.endpoint import Answers, EndpointAnswers, KeptAnswers
from thumbs.rewards.judge import PAIR_QUESTION, Judge, by_rubric, open_answers
from thumbs.rewards.returned import reply_place
from thumbs.rewards.verifiers import verifier

ANSWERS = "judge-answers.jsonl"
"""Where a run keeps what a judge answered."""


@runtime_checkable
class PairJudge(Protocol):
    """Compares two replies, shown in both orders."""

    def both_orders(
        self, pairs: Sequence[tuple[Sequence[Message], str, str]]
    ) -> Sequence[tuple[float | None, float | None]]:
        """P(first is better) of each (prompt, first, second), with the first shown first, and shown second; None in
        an order that was not asked.
        """
        ...


Gold = RewardSource | PairJudge
"""What an evaluation trusts: scores of single replies, or comparisons."""


@dataclass(frozen=True)
class _OfEveryReply:
    """A reward function as gold. One that gives None for a reply would leave that reply a score of 0."""

    source: RewardSource
    name: str

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """The scores; raises RewardError where the function has nothing to say."""
        scores = self.source.score(rollouts)
        for number, (rollout, score) in enumerate(zip(rollouts, scores, strict=True)):
            if not score.counts:
                raise RewardError(f"{reply_place(self.name, number, rollout)} got None; a gold scores every reply")
        return scores


def open_gold(config: GoldConfig, engine: Engine, kept: Path | None = None) -> Gold:
    """The gold that settings name. kept: the file of a judge's answers, which are asked for once.

    People are asked by whoever evaluates; they are none of this. Raises ConfigError for a name that is none.
    """
    if config.rule is not None:
        rule = gold_judge(config.rule)
        return CallableReward(lambda rollout: rule(rollout.messages[:-1], rollout.text), config.title)
    if config.function is not None:
        return _OfEveryReply(CallableReward(load_callable(config.function), config.title), config.title)
    if config.verifier is not None:
        return CallableReward(verifier(config.verifier, config.pattern), config.title)
    if config.model is not None:
        return open_reward_model(engine, Path(config.model))
    if config.judge is None:
        raise ConfigError("people are asked by `thumbs eval` and `thumbs run`, which serve the page")
    return open_pair_judge(config, engine, kept)


def open_pair_judge(config: GoldConfig, engine: Engine, kept: Path | None = None) -> Judge:
    """The judge that settings name, at its endpoint or on this machine."""
    assert config.judge is not None  # noqa: S101
    answers: Answers
    if config.endpoint is None:
        answers = open_answers(engine, config.judge)
    else:
        answers = EndpointAnswers(config.endpoint, config.judge, config.key_variable)
    if kept is not None:
        answers = KeptAnswers(answers, kept, f"{config.endpoint or 'here'} {config.judge}")
    question = PAIR_QUESTION if config.rubric is None else by_rubric(read_rubric(config.rubric))
    return Judge(answers, config.judge, question)


def read_rubric(path: str) -> str:
    """The text of a rubric; raises ConfigError if there is none."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"rubric {path} cannot be read ({error}); give a text file") from None
