"""A pass that brings a model nearer to a reference: the divergence of whole distributions, token by token.

The inputs and the loss are those of `forward_backward_reverse_kl` of MinT's client 0.2.0 and of MinT's own server
(mintx_ops.py): Σ w · T² · KL(softmax(z / T) ‖ softmax(z_reference / T)) over the tokens of a completion, each model
with a context of its own, so that the reference may know more (arXiv:2306.13649 with the reverse divergence).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from thumbs.clients import types
from thumbs.clients.translate import prompt_tokens
from thumbs.config.losses import REFERENCE_STATES, TokenLoss
from thumbs.errors import DataError
from thumbs.models.base import FrozenAdapter, Trunk
from thumbs.records import Example, TrainOutput

MAX_TOKENS = 2**17
"""The most tokens of one pass: states of width 576 are 300 MB."""


@dataclass(frozen=True, eq=False)
class ReverseKlDatum:
    """A completion, with what the model and the reference have read before it; weights: one per token."""

    student_input: types.ModelInput
    reference_input: types.ModelInput
    target_tokens: types.TensorData
    weights: types.TensorData


@dataclass(frozen=True)
class ReverseKlOutput:
    """The loss of each datum, and metrics."""

    losses: Sequence[float]
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Completion:
    """A checked datum: tokens that the model reads [N], that the reference reads, of each the last T count."""

    student: np.ndarray
    reference: np.ndarray
    targets: np.ndarray
    weights: np.ndarray


Run = Callable[[list[Example], list[TokenLoss]], Generator[None, None, TrainOutput]]


def completions(data: Sequence[ReverseKlDatum], temperature: float, vocab_size: int, context: int) -> list[Completion]:
    """The data, checked; raises DataError that names the datum."""
    if not data:
        raise DataError("got no data; forward_backward_reverse_kl needs at least one datum")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise DataError(f"temperature {temperature}; it must be above 0")
    found = []
    for index, datum in enumerate(data):
        try:
            found.append(_completion(datum, vocab_size, context))
        except DataError as error:
            raise DataError(f"datum {index}: {error}") from None
    if (tokens := sum(len(each.student) for each in found)) > MAX_TOKENS:
        raise DataError(f"got {tokens} tokens; a reference's states are kept for {MAX_TOKENS}, send fewer at a time")
    return found


def reverse_kl_pass(
    data: Sequence[Completion], temperature: float, base: Trunk, reference: FrozenAdapter, run: Run
) -> Generator[None, None, ReverseKlOutput]:
    """The divergence from `reference` on `base`, with gradients through `run`."""
    records = []
    for datum in data:
        records.append(_record(datum, _states(base, reference, datum)))
        yield
    output = yield from run(records, [TokenLoss.of("reverse_kl", temperature=temperature)])
    losses = [float(each.losses.sum()) for each in output.outputs]
    tokens = sum(int((datum.weights != 0).sum()) for datum in data)
    mean = sum(losses) / max(tokens, 1)
    metrics = {"loss:mean": mean, "reverse_kl:mean": mean}
    return ReverseKlOutput(losses, {**metrics, "num_samples:sum": float(len(losses)), "num_tokens:sum": float(tokens)})


def _completion(datum: ReverseKlDatum, vocab_size: int, context: int) -> Completion:
    targets, weights = (tensor.to_numpy() for tensor in (datum.target_tokens, datum.weights))
    if targets.ndim != 1 or not len(targets) or weights.shape != targets.shape:
        raise DataError(
            f"target_tokens of shape {list(targets.shape)} and weights of shape {list(weights.shape)}; needed are the "
            "tokens of one completion and as many weights"
        )
    if datum.target_tokens.dtype != "int64" or not np.isfinite(weights).all():
        raise DataError("target_tokens must be int64, and weights finite numbers")
    prompt_tokens(types.ModelInput.from_ints(targets), vocab_size)
    read = []
    for name, before in (("student_input", datum.student_input), ("reference_input", datum.reference_input)):
        tokens = np.concatenate([prompt_tokens(before, vocab_size), targets[:-1]])
        if len(tokens) > context:
            raise DataError(f"{name} and completion have {len(tokens)} tokens; the model's context is {context}")
        read.append(tokens)
    return Completion(read[0], read[1], targets, weights.astype(np.float32))


@torch.no_grad()
def _states(base: Trunk, reference: FrozenAdapter, datum: Completion) -> np.ndarray:
    """Final hidden states of the reference where it predicts the completion, float32 [T, D]."""
    tokens = torch.from_numpy(datum.reference).to(base.head_weight().device)
    hidden = base.forward_packed(tokens, [len(tokens)], reference)
    return hidden[-len(datum.targets) :].float().cpu().numpy()


def _record(datum: Completion, states: np.ndarray) -> Example:
    count = len(datum.student) - len(datum.targets)  # places before the first token of the completion
    targets = np.concatenate([datum.student[1 : count + 1], datum.targets])
    weights = np.pad(datum.weights, (count, 0))
    return Example(datum.student, targets, {"weights": weights, REFERENCE_STATES: np.pad(states, ((count, 0), (0, 0)))})
