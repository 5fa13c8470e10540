"""A trained cost model: how likely a reply is to be unsafe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thumbs.data.tokenizers import Tokenizer, reply_tokens
from thumbs.engine.base import Engine, Handle
from thumbs.functional.calibration import sigmoid
from thumbs.records import Generator, Message, Reply, Rollout, Score
from thumbs.rewards.base import require_finite
from thumbs.rewards.model import RewardModel, member_scores, read_rollout


class CostModel(RewardModel):
    """P(unsafe) = σ(scale · value at the last token + shift), calibrated on pairs that were not trained on.

    It is a source of scores, higher is worse, and says P(unsafe) of texts (`safety/unsafe.py`). policy: the tokenizer
    that texts are read with; `tokenizer` as in RewardModel.
    """

    def __init__(
        self,
        engine: Engine,
        handle: Handle,
        scale: float,
        shift: float,
        policy: Tokenizer,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        super().__init__(engine, handle, tokenizer=tokenizer)
        self.scale, self.shift, self.policy = scale, shift, policy

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """P(unsafe) of each; the raw value is kept as the part `raw`. Raises RewardError if that is not finite."""
        raw = member_scores(self.engine, [self.handle], [read_rollout(self.tokenizer, r) for r in rollouts])[:, 0]
        scores = [Score(p, {"raw": value}) for p, value in zip(self._probable(raw), raw.tolist(), strict=True)]
        require_finite(self.handle.name, rollouts, scores)
        return scores

    def probability(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[float]:
        """P(unsafe) of each reply, given the conversation in the same place of `prompts`."""
        told = [Reply(text, Generator("file", "")) for text in replies]
        tokens = [reply_tokens(self.policy, prompt, reply) for prompt, reply in zip(prompts, told, strict=True)]
        return self._probable(member_scores(self.engine, [self.handle], tokens)[:, 0]) if tokens else []

    def _probable(self, raw: np.ndarray) -> list[float]:
        return sigmoid(self.scale * raw + self.shift).tolist()
