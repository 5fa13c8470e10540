"""From weighted tokens to datums, and the numbers that are read off the answers."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from thumbs.clients.types import Datum, ModelInput
from thumbs.errors import DataError

log = logging.getLogger(__name__)

Reduction = Literal["mean", "none"]


def datum_from_model_input_weights(
    model_input: ModelInput, weights: Any, max_length: int | None = None, reduction: Reduction = "none"
) -> Datum:
    """The datum for `cross_entropy`: inputs are all tokens but the last, targets all but the first.

    Tokens after `max_length` are cut. With reduction "mean" the weights of a datum sum to 1, as losses are sums over
    tokens. Raises DataError where fewer than two tokens are left, or the weights are not one for each token.
    """
    tokens, weights = np.array(model_input.to_ints()), np.asarray(weights, dtype=np.float32)
    if len(weights) != len(tokens):
        raise DataError(f"got {len(weights)} weights for {len(tokens)} tokens; give one for each")
    tokens, weights = tokens[:max_length], weights[:max_length]
    if len(tokens) < 2:
        raise DataError(
            f"got {len(tokens)} token(s), max_length={max_length}; a datum needs two, an input and a target"
        )
    weights = weights[1:]
    total = weights.sum()
    if total == 0:
        log.warning("a datum of %d tokens trains on none of them (max_length=%s)", len(tokens), max_length)
    elif reduction == "mean":
        weights = weights / total
    return Datum(ModelInput.from_ints(tokens[:-1].tolist()), {"weights": weights, "target_tokens": tokens[1:]})


def compute_mean_nll(logprobs_list: Sequence[Any], weights_list: Sequence[Any]) -> float:
    """Mean negative logprob of the targets by their weights, nats a token; NaN where no target has weight."""
    pairs = [(_dense(a), _dense(b)) for a, b in zip(logprobs_list, weights_list, strict=True)]
    total = sum(float(weights.sum()) for _, weights in pairs)
    return -sum(float((logprobs * weights).sum()) for logprobs, weights in pairs) / total if total else float("nan")


def compute_bpb(
    logprobs_list: Sequence[Any], weights_list: Sequence[Any], target_tokens_list: Sequence[Any], tokenizer: Any
) -> float:
    """Bits for each UTF-8 byte of the trained text, which models of different tokenizers can be compared by.

    −Σ logprob / (ln 2 · bytes), over targets that have weight above 0 and are no special tokens. Weights only choose.
    Each unbroken stretch of such targets is decoded by itself. NaN where they have no bytes.
    """
    special = set(getattr(tokenizer, "all_special_ids", ()))
    nats, size = 0.0, 0
    for logprobs, weights, targets in zip(logprobs_list, weights_list, target_tokens_list, strict=True):
        tokens = _dense(targets).astype(int).tolist()
        counted = [weight > 0 and token not in special for weight, token in zip(_dense(weights), tokens, strict=True)]
        nats -= float(_dense(logprobs)[counted].sum())
        for is_counted, stretch in itertools.groupby(zip(counted, tokens, strict=True), key=lambda pair: pair[0]):
            if is_counted:
                size += len(tokenizer.decode([token for _, token in stretch]).encode())
    return nats / (math.log(2) * size) if size else float("nan")


def _dense(values: Any) -> np.ndarray:
    return np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values, dtype=np.float64)
