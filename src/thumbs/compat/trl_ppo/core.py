"""The small pieces that tutorials import from `trl.core`, and the controllers behind `PPOTrainer.kl_ctl`."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thumbs.errors import ConfigError
from thumbs.functional.kl import adapt_coefficient


class LengthSampler:
    """Draws a number of tokens, min_value … max_value - 1, from numpy's global generator."""

    def __init__(self, min_value: int, max_value: int) -> None:
        if not 0 < min_value < max_value:
            raise ConfigError(f"LengthSampler({min_value}, {max_value}); it needs 0 < min_value < max_value")
        self.values = range(min_value, max_value)

    def __call__(self) -> int:
        return int(np.random.choice(self.values))


def set_seed(seed: int) -> None:
    """Seeds Python's, numpy's and torch's global generators, from which lengths, batches and replies are drawn."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def respond_to_batch(model: Any, queries: Tensor, txt_len: int = 20, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """txt_len sampled tokens after each row of queries [B, L], [B, txt_len]; no token ends a reply."""
    generated = model.generate(
        queries, do_sample=True, max_new_tokens=txt_len, top_k=top_k, top_p=top_p, eos_token_id=-1
    )
    return generated[:, queries.shape[1] :]


class AdaptiveKLController:
    """A KL coefficient that rises while the KL is above its target (arXiv:1909.08593, section 2.2)."""

    def __init__(self, init_kl_coef: float, target: float, horizon: float) -> None:
        self.value, self.target, self.horizon = init_kl_coef, target, horizon

    def update(self, current: float, n_steps: int) -> None:
        """After n_steps sequences with a mean KL of `current` nats."""
        self.value = adapt_coefficient(self.value, float(current), self.target, self.horizon, n_steps)


class FixedKLController:
    """A KL coefficient that stays."""

    def __init__(self, kl_coef: float) -> None:
        self.value = kl_coef

    def update(self, current: float, n_steps: int) -> None:
        """Nothing changes."""


class RunningMoments:
    """Mean and deviation of all scores so far (sample deviation; 1 before the second score)."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0

    def update(self, scores: Tensor) -> None:
        """Takes in more scores [B] (Chan et al. 1979, parallel variance)."""
        wide = scores.double()
        count, mean = self.count + len(wide), float(wide.mean())
        gap = mean - self.mean
        self._squares += float(((wide - mean) ** 2).sum()) + gap**2 * self.count * len(wide) / count
        self.mean += gap * len(wide) / count
        self.count = count

    @property
    def std(self) -> float:
        """The deviation, in the unit of the scores."""
        return math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else 1.0
