"""A published reward model, a sequence classifier with one score, as a source of scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thumbs.models.classifier import Classifier
from thumbs.records import Message, Reply, Rollout, Score
from thumbs.rewards.base import require_finite


class ClassifierReward:
    """The classifier's logits as they are, which its own tokenizer and chat template read from the text of a rollout.

    They are not normalised, since nothing is known of the replies on which it was trained; `weight` scales them.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier, self.tokenizer = classifier, classifier.tokenizer

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """Logits, also as the part `raw`. Raises RewardError for one that is not finite."""
        read = [self.classifier.tokens(r.messages, cut=r.stop_reason == "length") for r in rollouts]
        scores = [Score(value, {"raw": value}) for value in self.classifier.scores(read).tolist()]
        require_finite(self.classifier.name, rollouts, scores)
        return scores

    def answer_scores(self, answers: Sequence[tuple[Sequence[Message], Reply]]) -> np.ndarray:
        """Logits [B, 1] of replies to prompts."""
        read = [
            self.classifier.tokens((*prompt, Message("assistant", reply.text)), cut=reply.stop_reason != "stop")
            for prompt, reply in answers
        ]
        return self.classifier.scores(read)[:, None]
