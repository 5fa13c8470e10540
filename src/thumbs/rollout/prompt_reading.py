"""What a request may ask about its own prompt: how likely its tokens are, and what could have stood in their place."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from thumbs.functional.logprobs import measured_logprobs
from thumbs.models.base import FrozenAdapter, Trunk
from thumbs.models.operators import vocabulary
from thumbs.rollout.draw import draw, uniforms
from thumbs.rollout.sampler import DecodingParams, PromptAnswer, PromptQuery, SampleRequest, Top

ROWS = 128
"""Places whose logits are held at a time."""

DRAWS = 2**62
"""Added to a request's seed: draws in the prompt are others than those of its samples."""


def read_prompt(model: Trunk, request: SampleRequest, adapter: FrozenAdapter | None) -> PromptAnswer:
    """Answers what the request asks about its prompt."""
    query = request.about_prompt or PromptQuery()
    tokens = torch.tensor(list(request.prompt), device=model.head_weight().device)
    hidden = model.forward_packed(tokens, [len(tokens)], adapter)[:-1]
    own = None
    if query.logprobs:
        own = (
            measured_logprobs(hidden, model.head_weight(), tokens[1:], 1.0, vocabulary(hidden, model.vocab_size))
            .cpu()
            .numpy()
        )
    if not (query.top or query.draws or query.targets is not None):
        return PromptAnswer(own)
    u = torch.from_numpy(uniforms(request.seeds[0] + DRAWS, len(hidden) * query.draws)).to(hidden.device)
    head = model.head_weight().to(hidden.dtype).float()  # as those of the prompt's own tokens: the numbers agree
    top: list[Top] = []
    targets, drawn = [], []
    for number, piece in enumerate(hidden.split(ROWS)):
        logprobs, rows = (piece.float() @ head.T).log_softmax(-1), slice(number * ROWS, (number + 1) * ROWS)
        if query.top:
            top += likeliest(logprobs, query.top)
        if query.targets is not None:
            targets.append(_at(logprobs, query.targets[rows]))
        if query.draws:
            drawn.append(_drawn(logprobs, u.view(len(hidden), -1)[rows], request.params.temperature))
    tokens_and_logprobs = [np.concatenate(pieces) for pieces in zip(*drawn, strict=True)]
    return PromptAnswer(own, top, np.concatenate(targets) if targets else None, tokens_and_logprobs)


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
