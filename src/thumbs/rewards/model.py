"""A trained reward model as a source of scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thumbs.data.tokenizers import Tokenizer, conversation_tokens
from thumbs.engine.base import Engine, Handle
from thumbs.records import Example, Rollout, Score
from thumbs.rewards.base import require_finite


class RewardModel:
    """(value at the last token - mean) / std, with the mean and deviation over the SFT model's replies.

    Stiennon et al. 2020 (arXiv:2009.01325, section 3.4) shift scores so that reference replies have mean 0; the
    division makes the KL coefficient mean the same for every reward model.

    tokenizer: the model's own where that is not the policy's; it then reads the conversation's text anew, so what the
    policy wrote reaches it as text, with the white space around a reply left out.
    """

    def __init__(
        self, engine: Engine, handle: Handle, mean: float = 0.0, std: float = 1.0, tokenizer: Tokenizer | None = None
    ) -> None:
        self.engine, self.handle, self.mean, self.std, self.tokenizer = engine, handle, mean, std, tokenizer

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """Normalised scores; the raw one is kept as the part `raw`. Raises RewardError for one that is not finite."""
        sequences = [read_rollout(self.tokenizer, rollout) for rollout in rollouts]
        raw = member_scores(self.engine, [self.handle], sequences)[:, 0]
        scores = [Score((value - self.mean) / self.std, {"raw": value}) for value in raw.tolist()]
        require_finite(self.handle.name, rollouts, scores)
        return scores


def read_rollout(tokenizer: Tokenizer | None, rollout: Rollout) -> np.ndarray:
    """The tokens that a reward model with this tokenizer (None: the policy's) sees; a cut reply has no end token."""
    if tokenizer is None:
        return rollout.tokens
    tokens, _ = conversation_tokens(tokenizer, rollout.messages)
    return tokens[:-1] if rollout.stop_reason == "length" else tokens


def member_scores(engine: Engine, handles: Sequence[Handle], sequences: Sequence[np.ndarray]) -> np.ndarray:
    """Scalar-head values at the last token of each sequence, one column per member, float64 [B, M]."""
    data = [Example.whole_sequence(tokens) for tokens in sequences]
    found = [[np.atleast_1d(output.values[-1]) for output in engine.forward(handle, data)] for handle in handles]
    return np.concatenate([np.stack(of).astype(np.float64) for of in found], axis=1)
