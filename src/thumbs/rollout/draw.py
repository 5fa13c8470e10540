"""Choosing the next token: temperature, top-k, top-p, and one uniform number per row."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from thumbs.models import kernels
from thumbs.rollout.sampler import DecodingParams

_ORDINARY = 1e-4, 1e4
"""Temperatures at which logits of any model can be divided by them."""


def uniforms(seed: int, count: int) -> np.ndarray:
    """The `count` uniform numbers of one request; its reply depends on nothing else in the batch."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count, dtype=np.float32)


def draw(logits: Tensor, u: Tensor, params: DecodingParams) -> tuple[Tensor, Tensor]:
    """Tokens [B] and their logprobs [B] (nats, at the temperature, before top-k and top-p) from float32 logits [B, V].

    Inverse of the distribution function at u [B] in [0, 1). At temperature 0 the most likely token, with its logprob
    at temperature 1.
    """
    if params.temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, logits.log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
    ordinary = _ORDINARY[0] <= params.temperature <= _ORDINARY[1]
    if ordinary and not params.top_k and params.top_p == 1 and kernels.usable(logits, logits.shape[1]):
        return kernels.draw_tokens(logits, u, params.temperature)
    logits = tempered(logits, params.temperature)
    normaliser = logits.logsumexp(-1)
    kept = restrict(logits, params)
    probabilities = (kept - kept.amax(-1, keepdim=True)).exp_()
    tokens = _inverse_cdf(probabilities, u)
    return tokens, logits.gather(1, tokens[:, None]).squeeze(1) - normaliser


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Logits [B, V] at a temperature above 0, up to a constant for each row.

    At the edges of float32 they are those of the limit: all mass on the most likely token, or the same on every token
    that is possible at all.
    """
    if _ORDINARY[0] <= temperature <= _ORDINARY[1]:
        return logits / temperature
    edges = torch.finfo(torch.float32)  # a quotient beyond them is infinite or 0 / 0
    return (logits - logits.amax(-1, keepdim=True)) / min(max(temperature, edges.tiny), edges.max)


def restrict(logits: Tensor, params: DecodingParams) -> Tensor:
    """Logits with everything outside top-k and top-p at minus infinity."""
    if params.top_k and params.top_k < logits.shape[-1]:
        least = logits.topk(params.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if params.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        mass = ordered.softmax(-1)
        outside = mass.cumsum(-1) - mass >= params.top_p  # the token that crosses the line stays
        outside[:, 0] = False  # a top_p below float32 is 0 in the comparison
        logits = logits.masked_fill(outside.scatter(1, order, outside), -torch.inf)
    return logits


def _inverse_cdf(weights: Tensor, u: Tensor, block: int = 256) -> Tensor:
    """Index drawn from unnormalised weights [B, V]: first a block, then inside it, so no sum runs over all of V."""
    rows, size = weights.shape
    padded = torch.nn.functional.pad(weights, (0, -size % block)).view(rows, -1, block)
    by_block = padded.sum(-1).double().cumsum(-1)
    aim = u.double() * by_block[:, -1]
    which = torch.searchsorted(by_block, aim[:, None], right=True).clamp_(max=by_block.shape[1] - 1)
    before = torch.where(which > 0, by_block.gather(1, (which - 1).clamp(min=0)), 0.0)
    inside = padded[torch.arange(rows, device=weights.device), which[:, 0]].double().cumsum(-1)
    offset = torch.searchsorted(inside, aim[:, None] - before, right=True)
    # Rounding can point past the last token with weight; step back to it.
    last = (inside < inside[:, -1:]).sum(-1, keepdim=True)
    return (which * block + torch.minimum(offset, last)).squeeze(1).clamp_(max=size - 1)
