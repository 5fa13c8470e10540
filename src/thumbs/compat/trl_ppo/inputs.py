"""What `PPOTrainer` is given, checked: arguments in any order, and the lists of one step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thumbs.compat import suggestion
from thumbs.compat.trl_ppo.config import PPOConfig
from thumbs.compat.trl_ppo.model import AutoModelForCausalLMWithValueHead
from thumbs.errors import ConfigError, DataError
from thumbs.records import Rollout, Score

_KINDS: tuple[tuple[Callable[[Any], bool], tuple[str, ...]], ...] = (
    (lambda value: isinstance(value, PPOConfig), ("config",)),
    (lambda value: isinstance(value, AutoModelForCausalLMWithValueHead), ("model", "ref_model")),
    (lambda value: isinstance(value, torch.optim.Optimizer), ("optimizer",)),
    (lambda value: isinstance(value, torch.optim.lr_scheduler.LRScheduler), ("lr_scheduler",)),
    (lambda value: isinstance(value, int), ("num_shared_layers",)),
    (lambda value: hasattr(value, "decode"), ("tokenizer",)),
    (lambda value: hasattr(value, "__getitem__") and not isinstance(value, str | Mapping), ("dataset",)),
    (callable, ("data_collator", "training_data_collator")),
)
"""How the arguments of a `PPOTrainer` are known, and which of them each can be."""

ARGUMENTS = [name for _, names in _KINDS for name in names]


def sort_arguments(positional: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords, and the positionals under the names that their types have; raises ConfigError for the rest."""
    for name in keywords:
        if name not in ARGUMENTS:
            raise ConfigError(f"PPOTrainer has no argument {name!r}; {suggestion(name, ARGUMENTS)}")
    found = {name: value for name, value in keywords.items() if value is not None}
    for place, value in enumerate(positional):
        if value is None:
            continue
        open_names = [name for name in next((n for is_it, n in _KINDS if is_it(value)), ()) if name not in found]
        if not open_names:
            raise ConfigError(
                f"PPOTrainer: argument {place + 1}, a {type(value).__name__}, is none of those still open; "
                "give it by keyword (config=, model=, ref_model=, tokenizer=, dataset=, …)"
            )
        found[open_names[0]] = value
    return found


def pad_token_of(tokenizer: Any) -> int | None:
    """The padding of a tokenizer of transformers or of ours."""
    return getattr(tokenizer, "pad_token_id", getattr(tokenizer, "pad_id", None))


def rows_of(tokens: Any, pad: int | None) -> Any:
    """The rows of a stacked batch [B, N] without the padding at their ends; anything else as it is."""
    if not isinstance(tokens, torch.Tensor) or tokens.dim() != 2:
        return tokens
    return [_without_padding(row, pad) for row in tokens]


def _without_padding(row: Tensor, pad: int | None) -> Tensor:
    real = (row != pad).nonzero().flatten() if pad is not None else torch.arange(len(row))
    return row[int(real[0]) : int(real[-1]) + 1] if len(real) else row


def numbers_of(scores: Any) -> Any:
    """A tensor [B] or [B, 1], or a model's output with such logits, as a list of numbers; anything else as it is."""
    scores = getattr(scores, "logits", scores)
    if isinstance(scores, torch.Tensor | np.ndarray) and (
        scores.ndim == 1 or (scores.ndim == 2 and scores.shape[1] == 1)
    ):
        return [*torch.as_tensor(scores).detach().flatten()]
    return scores


def without_queries(queries: Any, responses: Any, scores: Any, masks: Any | None) -> tuple[Any, Any, Any]:
    """Responses without the query that each of them repeats, as `generate` gives them unless return_prompt=False.

    With them their masks and their rewards per token. Only if all responses of a step begin with their own queries:
    one that does may have quoted it.
    """
    lists = all(isinstance(each, list | tuple) for each in (queries, responses, scores))
    if not lists or not len(queries) == len(responses) == len(scores) or not queries:
        return responses, scores, masks
    if not all(_repeats(query, response) for query, response in zip(queries, responses, strict=True)):
        return responses, scores, masks
    warnings.warn(
        "every response begins with its own query, so these tokens are left out of what is trained on; "
        "generate(..., return_prompt=False) gives responses alone",
        stacklevel=3,
    )
    own = [len(query) for query in queries]
    per_token = [np.ndim(s) == 1 and len(s) == len(r) for s, r in zip(scores, responses, strict=True)]
    scores = [s[n:] if each else s for s, n, each in zip(scores, own, per_token, strict=True)]
    if masks is not None:
        masks = [mask[n:] for mask, n in zip(masks, own, strict=True)]
    return [response[n:] for response, n in zip(responses, own, strict=True)], scores, masks


def _repeats(query: Any, response: Any) -> bool:
    if not (isinstance(query, torch.Tensor) and isinstance(response, torch.Tensor)):
        return False
    shorter = query.dim() == response.dim() == 1 and 0 < len(query) < len(response)
    return shorter and bool((response[: len(query)].cpu() == query.cpu()).all())


def check_batch(
    batch_size: int, vocab_size: int, queries: Any, responses: Any, scores: Any, masks: Any | None = None
) -> tuple[list[Rollout], list[Score]]:
    """The samples of one step; raises DataError that says which list and which element is wrong."""
    for name, each in (("queries", queries), ("responses", responses), ("scores", scores)):
        if not isinstance(each, list | tuple):
            raise DataError(f"{name} must be a list of tensors - got {type(each)}")
        if len(each) != batch_size:
            raise DataError(
                f"Batch size ({batch_size}) does not match number of examples - but got {len(each)} for: {name}. A "
                "list of columns instead of rows comes of a data set without set_format('torch')"
            )
    prompts, replies = (
        [_tokens(value, f"{name}[{i}]", vocab_size) for i, value in enumerate(each)]
        for name, each in (("queries", queries), ("responses", responses))
    )
    counted = _masks(masks, replies)
    rollouts = [_rollout(*row) for row in zip(prompts, replies, counted, strict=True)]
    return rollouts, [_score(score, mask, i) for i, (score, mask) in enumerate(zip(scores, counted, strict=True))]


def _rollout(query: np.ndarray, response: np.ndarray, counts: np.ndarray) -> Rollout:
    """A query and its response, whose counted tokens are the sampled ones."""
    mask = np.concatenate([np.zeros(len(query) - 1, dtype=np.float32), counts])
    tokens = np.concatenate([query, response])
    return Rollout("", tokens, len(query), mask, np.zeros_like(mask), "stop", policy_version=0, text="")


def _tokens(value: Any, name: str, vocab_size: int) -> np.ndarray:
    if not isinstance(value, torch.Tensor):
        raise DataError(f"Elements in {name.partition('[')[0]} must be tensors - got {type(value)}")
    if value.dim() != 1 or value.is_floating_point() or value.dtype == torch.bool:
        raise DataError(
            f"{name} has shape {tuple(value.shape)} and type {value.dtype}; it must be a 1-D tensor of token ids "
            "(of a generated row take `.squeeze()`)"
        )
    if len(value) == 0:
        raise DataError(f"{name} is empty; a query and a response need one token at least")
    tokens = value.detach().cpu().numpy().astype(np.int64)
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise DataError(f"{name} holds token {int(tokens.max())} or below 0; the model knows 0 to {vocab_size - 1}")
    return tokens


def _score(value: Any, counts: np.ndarray, i: int) -> Score:
    """A number, or numbers of tokens [M], of which those of the counted ones are kept."""
    length = len(counts)
    if isinstance(value, torch.Tensor):
        if value.dim() > 1:
            raise DataError(f"Scores must be 1-dimensional - got {value.dim()} for {value}")
        value = value.detach().float().cpu().numpy()
        if value.size == 1:
            value = value.item()
    number = isinstance(value, int | float | np.number)
    if not number and not (isinstance(value, np.ndarray) and value.shape == (length,)):
        shape = value.shape if isinstance(value, np.ndarray) else type(value)
        raise DataError(
            f"scores[{i}] is {shape}; give one number, or a tensor of one number for each of {length} tokens"
        )
    if not np.isfinite(value).all():
        raise DataError(
            f"scores[{i}] is {value}; a reward that is not a number would spoil every weight, mend its source"
        )
    if number:
        return Score(float(value))
    tokens = value[counts > 0]
    return Score(float(tokens.sum()), tokens=tuple(tokens.tolist()))


def _masks(masks: Any | None, responses: list[np.ndarray]) -> list[np.ndarray]:
    if masks is None:
        return [np.ones(len(response), dtype=np.float32) for response in responses]
    if len(masks) != len(responses):
        raise DataError(f"response_masks: got {len(masks)} for {len(responses)} responses")
    found = []
    for i, (mask, response) in enumerate(zip(masks, responses, strict=True)):
        array = np.asarray(mask.detach().cpu() if isinstance(mask, torch.Tensor) else mask, dtype=np.float32)
        if array.shape != response.shape or not np.isin(array, (0, 1)).all() or not array.any():
            raise DataError(
                f"response_masks[{i}] must hold 0 or 1 for each of the {len(response)} tokens of the response, and one "
                f"1 at least; got shape {array.shape} with sum {array.sum()}"
            )
        found.append(array)
    return found


def check_temperature(temperature: float) -> float:
    """The temperature; raises ConfigError unless it is above 0."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature={temperature}; it must be above 0")
    return float(temperature)
