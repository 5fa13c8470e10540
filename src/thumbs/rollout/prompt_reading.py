"""What a request may ask about its own prompt: how likely its tokens are, and what could have stood in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from thumbs.functional.logprobs import measured_logprobs
from thumbs.models.base import Trunk
from thumbs.models.operators import vocabulary
from thumbs.rollout.draw import draw, uniforms
from thumbs.rollout.sampler import DecodingParams

if TYPE_CHECKING:
    from thumbs.rollout.pool import SampleRequest

ROWS = 128
"""Places whose logits are held at a time."""

DRAWS = 2**62
"""Added to a request's seed: draws in the prompt are others than those of its samples."""

Top = list[tuple[int, float]]
"""Likeliest tokens with their logprobs, descending."""


def read_prompt(model: Trunk, request: SampleRequest) -> None:
    """Answers into the request, for each place after the prompt's first token."""
    tokens = torch.tensor(request.prompt, device=model.head_weight().device)
    hidden = model.forward_packed(tokens, [len(tokens)], request.adapter)[:-1]
    if request.wants_prompt_logprobs:
        weight = model.head_weight()
        logprobs = measured_logprobs(hidden, weight, tokens[1:], 1.0, vocabulary(hidden))
        request.prompt_logprobs = logprobs.cpu().numpy()
    if not (request.prompt_top or request.prompt_draws or request.prompt_targets is not None):
        return
    places = len(hidden)
    u = torch.from_numpy(uniforms(request.seeds[0] + DRAWS, places * request.prompt_draws)).to(hidden.device)
    head = model.head_weight().to(hidden.dtype).float()  # as those of the prompt's own tokens: the numbers agree
    for number, piece in enumerate(hidden.split(ROWS)):
        logprobs, rows = (piece.float() @ head.T).log_softmax(-1), slice(number * ROWS, (number + 1) * ROWS)
        if request.prompt_top:
            request.prompt_alternatives += likeliest(logprobs, request.prompt_top)
        if request.prompt_targets is not None:
            request.target_logprobs.append(_at(logprobs, request.prompt_targets[rows]))
        if request.prompt_draws:
            own = u.view(places, -1)[rows]
            request.drawn.append(_drawn(logprobs, own, request.params.temperature))


def likeliest(logits: Tensor, count: int) -> list[Top]:
    """The `count` likeliest tokens of each row of logits [N, V]."""
    values, ids = logits.log_softmax(-1).topk(min(count, logits.shape[-1]), dim=-1)
    return [list(zip(i, v, strict=True)) for i, v in zip(ids.tolist(), values.tolist(), strict=True)]


def _at(logprobs: Tensor, ids: np.ndarray) -> np.ndarray:
    """Logprobs [N, K] of the ids [N, K]; 0 where an id is -1."""
    asked = torch.from_numpy(ids).to(logprobs.device)
    found = logprobs.gather(1, asked.clamp(min=0))
    return torch.where(asked >= 0, found, 0.0).cpu().numpy()


def _drawn(logprobs: Tensor, u: Tensor, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [N, K] drawn at the temperature, with u [N, K] and logprobs [N, V] at 1, and their logprobs at 1."""
    params = DecodingParams(1, (), temperature)
    tokens = torch.stack([draw(logprobs, column, params)[0] for column in u.T], 1)
    return tokens.cpu().numpy(), logprobs.gather(1, tokens).cpu().numpy()
