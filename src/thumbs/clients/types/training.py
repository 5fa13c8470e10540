"""What a training call takes and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from thumbs.clients.types.base import Owner, Request, Response
from thumbs.clients.types.inputs import ModelInput
from thumbs.clients.types.tensors import TensorData, TensorDtype
from thumbs.errors import DataError

LossFnType = Literal["cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo"]
LossFnInputs = dict[str, TensorData]
LossFnOutput = dict[str, TensorData]
ModelID = str

_INPUT_DTYPES: dict[str, TensorDtype] = {
    "target_tokens": "int64",
    "weights": "float32",
    "advantages": "float32",
    "logprobs": "float32",
    "clip_low_threshold": "float32",
    "clip_high_threshold": "float32",
    "sequence_ratio_mask": "float32",
}
_OFTEN_SPARSE = {"target_tokens", "weights"}


@dataclass(frozen=True, kw_only=True)
class _Span:
    """`length` tokens in a row that are those from `offset` on of one sampling request, which `sequence_id` names."""

    sequence_id: str
    offset: int = 0
    length: int


class PromptProvenanceSpan(_Span):
    """Tokens of the request's prompt."""


class SampledProvenanceSpan(_Span):
    """Tokens that the request drew."""


@dataclass(frozen=True, eq=False)
class Datum:
    """One sequence to train on: what the model reads, and what the loss needs at each of its positions.

    Loss inputs may be lists, numpy arrays or torch tensors. The known ones get the dtype of the protocol, others keep
    theirs. Raises DataError, which names the input, if one is not an array of numbers. The spans say which samples the
    tokens come from; they are for a loss that is not here (`stable_reinforce`), and no other reads them.
    """

    model_input: ModelInput
    loss_fn_inputs: Mapping[str, Any] = field(default_factory=dict)
    model_input_spans: Sequence[_Span] | None = None
    loss_fn_input_spans: Sequence[_Span] | None = None

    def __post_init__(self) -> None:
        tensors = {key: _tensor(key, value) for key, value in self.loss_fn_inputs.items()}
        object.__setattr__(self, "loss_fn_inputs", tensors)

    def with_provenance(self, model_input: Sequence[_Span], loss_fn_inputs: Sequence[_Span]) -> Datum:
        """A copy with spans of the model input and of the targets."""
        return replace(self, model_input_spans=list(model_input), loss_fn_input_spans=list(loss_fn_inputs))


def _tensor(key: str, value: Any) -> TensorData:
    if isinstance(value, TensorData):
        return value
    try:
        if hasattr(value, "detach"):  # a torch tensor; its type would need the import
            if key in _OFTEN_SPARSE and value.ndim == 2:
                return TensorData.from_torch_sparse(value)
            value = TensorData.from_torch(value).values
        if key in _INPUT_DTYPES:
            return TensorData(value, _INPUT_DTYPES[key])
        return TensorData.from_numpy(np.asarray(value))
    except ValueError as error:
        raise DataError(f"loss_fn_inputs[{key!r}]: {error}") from None


class LoraConfig(Request):
    """Which low-rank adapter to train: its rank, the seed of its first weights, and the layers that get one."""

    rank: int
    seed: int | None = None
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True


class AdamParams(Request):
    """Settings of one AdamW step; weight decay is decoupled, grad_clip_norm bounds the global norm and 0 is off."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


@dataclass(frozen=True, eq=False)
class ForwardBackwardOutput(Owner):
    """Outputs by name for each datum, in order, and metrics named `name:reduction`."""

    loss_fn_output_type: str
    loss_fn_outputs: list[LossFnOutput]
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """Mean loss over the weighted tokens: `loss:sum` by `tokens:sum`, the number of targets of non-zero weight.

        0.0 where no target has weight; raises DataError if one of the two metrics is missing.
        """
        if missing := {"loss:sum", "tokens:sum"} - self.metrics.keys():
            raise DataError(f"the mean loss needs the metrics {sorted(missing)}; the result has {sorted(self.metrics)}")
        tokens = self.metrics["tokens:sum"]
        return self.metrics["loss:sum"] / tokens if tokens else 0.0


class OptimStepResponse(Response):
    """Metrics of one optimizer step."""

    metrics: dict[str, float] | None = None
