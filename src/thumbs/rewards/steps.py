"""A process reward model as a source of scores: a number for each step, where the step ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from thumbs.data.tokenizers import Tokenizer
from thumbs.engine.base import Engine, Handle
from thumbs.records import Example, Rollout, Score
from thumbs.rewards.model import read_rollout

REWARD_OF_STEPS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "process": lambda values: -np.logaddexp(0, -values),
    "process_regression": lambda values: values / len(values),
}
"""Rewards of the steps, from the values at their ends, by the loss that trained them.

process: log P(step is right), so a score is the log of the probability that all are (Lightman et al. 2023,
arXiv:2305.20050, section 2.6: the product). process_regression: their mean.
"""


class StepReward:
    """Scores of replies whose steps are their lines, as the training data's; each step is paid at its last token.

    Scores are not normalised: they have a meaning of their own (nats for process, units of the label otherwise).
    """

    def __init__(
        self, engine: Engine, handle: Handle, tokenizer: Tokenizer, loss: str, *, reread: bool = False
    ) -> None:
        self.engine, self.handle, self.tokenizer, self.reread = engine, handle, tokenizer, reread
        self.of_steps = REWARD_OF_STEPS[loss]

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """Sums over the steps; the part `steps` says how many there were. `tokens` says where they fell, unless the
        text was read anew, with other tokens.
        """
        reader = self.tokenizer if self.reread else None
        sequences = [read_rollout(reader, rollout) for rollout in rollouts]
        found = self.engine.forward(self.handle, [Example.whole_sequence(tokens) for tokens in sequences])
        return [self._score(r, tokens, of.values) for r, tokens, of in zip(rollouts, sequences, found, strict=True)]

    def _score(self, rollout: Rollout, tokens: np.ndarray, values: np.ndarray) -> Score:
        start = rollout.prompt_length
        if self.reread:
            start = len(self.tokenizer.render_prompt(rollout.messages[:-1]))
        steps = split_steps(self.tokenizer.decode(tokens[start:].tolist()))
        ends = step_ends(self.tokenizer, tokens, start, steps)
        rewards = self.of_steps(values[ends].astype(np.float64))
        parts = {"steps": float(len(steps))}
        if self.reread:
            return Score(float(rewards.sum()), parts)
        at = np.zeros(len(tokens))
        np.add.at(at, ends, rewards)
        return Score(float(rewards.sum()), parts, tuple(at[1:][rollout.mask > 0].tolist()))


def split_steps(text: str) -> list[str]:
    """The lines of a reply that say something, each with its line break and what blank lines follow; at least one."""
    steps: list[str] = []
    for line in text.splitlines(keepends=True):
        if steps and not line.strip():
            steps[-1] += line
        else:
            steps.append(line)
    return steps or [text]


def step_ends(tokenizer: Tokenizer, tokens: np.ndarray, start: int, steps: Sequence[str]) -> list[int]:
    """Place of the token in which each step's text ends, the last step's at the last token of the reply.

    start: where the reply begins. A token that holds the end of one step and the beginning of the next is the end.
    """
    ends, length, place = [], 0, start
    for step in steps[:-1]:
        said = length + len(step.rstrip())
        while place < len(tokens) - 1 and _letters(tokenizer, tokens[start : place + 1]) < said:
            place += 1
        ends.append(place)
        length += len(step)
    return [*ends, len(tokens) - 1]


def _letters(tokenizer: Tokenizer, tokens: np.ndarray) -> int:
    """Characters that the tokens hold whole; half a character at the end is decoded as U+FFFD."""
    return len(tokenizer.decode(tokens.tolist()).rstrip("\ufffd"))
