"""The only converter between the clients' types and the engine's records, and the only judge of what clients send.

Losses, their inputs and their settings as in Tinker's protocol: a loss is a sum over tokens and datums, target t is
the label of position t, bounds of a ratio are absolute. See config/losses.py for what each computes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np

from thumbs.clients import types
from thumbs.config.losses import TokenLoss
from thumbs.engine.base import AdamStep
from thumbs.errors import DataError
from thumbs.functional.formulas import inputs_of, settings_of
from thumbs.functional.policy_losses import FORMULAS
from thumbs.records import Example, TrainOutput

log = logging.getLogger(__name__)

Settings = Mapping[str, float | str]
LOSSES = {
    "cross_entropy": FORMULAS["cross_entropy"],
    "importance_sampling": FORMULAS["importance_sampling"],
    "ppo": FORMULAS["ppo_clip"],
    "cispo": FORMULAS["cispo"],
    "dro": FORMULAS["dro"],
    "gspo": FORMULAS["gspo"],
}
"""The protocol's losses; their inputs, settings and defaults are those of our formulas, under the names below."""

_INPUTS = {"old_logprobs": "logprobs", "advantages": "advantages", "ratio_mask": "sequence_ratio_mask"}
_COLUMNS = {"sequence_ratio_mask": "ratio_mask"}
_CLIP = ("clip_low_threshold", "clip_high_threshold")
_OPTIONAL = {"cross_entropy": ("weights",)}
_KNOWN_INPUTS = {"target_tokens", "weights", "mask", *_CLIP, *_INPUTS.values()}
"""Scripts send the same inputs with several losses; those that a loss does not read are passed over."""


def inputs(name: str) -> tuple[str, ...]:
    """What each datum of a loss must bring next to its targets."""
    return tuple(_INPUTS[each] for each in inputs_of(LOSSES[name]) if each in _INPUTS)


def default_settings(name: str) -> dict[str, float]:
    """Settings that may be given of a loss. The protocol's bounds of a ratio are absolute, ours distances from 1."""
    known = settings_of(LOSSES[name])
    found = {"beta": known["beta"]} if "beta" in known else {}
    if "clip_range" in known:
        above = known["clip_range"] if known["clip_range_high"] is None else known["clip_range_high"]
        found |= dict(zip(_CLIP, (1 - known["clip_range"], 1 + above), strict=True))
    return found


def loss_spec(name: str, settings: Settings) -> TokenLoss:
    """The engine's loss; raises DataError for an unknown name or setting, or one out of range."""
    if name == "stable_reinforce":
        raise DataError(
            "loss_fn 'stable_reinforce' is not served: its formula is not public. Set loss_fn to importance_sampling, "
            "or, for data that is some steps old, to ppo or cispo (in recipes: loss_fn=importance_sampling)"
        )
    if name not in LOSSES:
        raise DataError(f"unknown loss_fn {name!r}; allowed are {', '.join(LOSSES)}")
    known = default_settings(name)
    if unknown := sorted(settings.keys() - known.keys()):
        raise DataError(f"loss_fn_config of {name!r}: unknown {unknown}; allowed are {sorted(known) or 'none'}")
    try:
        wanted = {key: float(value) for key, value in {**known, **settings}.items()}
    except ValueError as error:
        raise DataError(f"loss_fn_config of {name!r}, {dict(settings)}: {error}") from None
    low, high, beta = wanted.get(_CLIP[0], 0.0), wanted.get(_CLIP[1], 2.0), wanted.get("beta", 0.0)
    if not (low < 1 < high and beta >= 0 and all(map(math.isfinite, wanted.values()))):
        raise DataError(
            f"loss_fn_config of {name!r}, {dict(settings)}: needed are {_CLIP[0]} below 1, {_CLIP[1]} above 1 and beta "
            "of 0 or more, all of them finite"
        )
    ours = {"beta": beta} if "beta" in wanted else {}
    ours |= {"clip_range": 1 - low, "clip_range_high": high - 1} if _CLIP[0] in wanted else {}
    return TokenLoss.of(LOSSES[name].__name__, **ours)


def engine_data(data: Sequence[types.Datum], loss: str, vocab_size: int, context: int) -> list[Example]:
    """What the engine trains on; raises DataError that names the datum and the input."""
    if not data:
        raise DataError("got no data; forward_backward needs at least one datum")
    found = []
    for index, datum in enumerate(data):
        try:
            found.append(_engine_datum(datum, loss, vocab_size, context))
        except DataError as error:
            raise DataError(f"datum {index}: {error}") from None
    return found


def cells(data: Sequence[Example]) -> int:
    """Targets of all positions: what a pass keeps in memory while it waits grows with them."""
    return sum(datum.targets.size for datum in data)


def _engine_datum(datum: types.Datum, loss: str, vocab_size: int, context: int) -> Example:
    tokens = prompt_tokens(datum.model_input, vocab_size)
    if len(tokens) > context:
        raise DataError(f"{len(tokens)} tokens; the model's context is {context}")
    if wide := [k for k, t in datum.loss_fn_inputs.items() if len(t.shape) == 2 and t.shape[1] > vocab_size]:
        raise DataError(f"{wide[0]} names more tokens per position than the vocabulary's {vocab_size}")
    given = {key: tensor.to_numpy() for key, tensor in datum.loss_fn_inputs.items()}
    needed = ("target_tokens", *inputs(loss))
    if missing := [key for key in needed if key not in given]:
        raise DataError(f"{loss} needs the loss_fn_inputs {missing}; got {sorted(given)}")
    if unknown := sorted(given.keys() - _KNOWN_INPUTS):
        raise DataError(f"loss_fn_inputs {unknown} are not known; {loss} reads {[*needed, *_OPTIONAL.get(loss, ())]}")
    if unread := sorted(given.keys() - {*needed, *_OPTIONAL.get(loss, ()), *_CLIP}):
        log.info("%s makes no use of the loss_fn_inputs %s", loss, unread)
    targets = given["target_tokens"]
    several = loss == "cross_entropy" and targets.ndim == 2
    if len(targets) != len(tokens) or not (targets.ndim == 1 or several):
        raise DataError(f"target_tokens of shape {list(targets.shape)} for {len(tokens)} tokens")
    if datum.loss_fn_inputs["target_tokens"].dtype != "int64":
        raise DataError("target_tokens are float32; they must be int64")
    check_ids(targets, vocab_size, "target_tokens")
    columns = {_COLUMNS.get(key, key): _column(key, given[key], targets.shape) for key in inputs(loss)}
    columns["weights"] = _weights(loss, given, columns, targets)
    return Example(tokens, targets.copy(), columns)


def _weights(
    loss: str, given: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray], targets: np.ndarray
) -> np.ndarray:
    if loss == "cross_entropy":
        return (
            _column("weights", given["weights"], targets.shape)
            if "weights" in given
            else np.ones(targets.shape, np.float32)
        )
    if clips := sorted(given.keys() & set(_CLIP)):
        raise DataError(f"bounds for each token ({clips}) are not supported; give them in loss_fn_config")
    if loss == "dro":
        return np.ones(targets.shape, np.float32)
    # Where the advantage is 0 the loss and its gradient are, so the vocabulary need not be met there.
    return (columns["advantages"] != 0).astype(np.float32)


def _column(key: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if key == "advantages" and values.size == 1 and shape != values.shape:
        log.warning("loss_fn_inputs['advantages'] has one element for %d tokens; every token gets it", shape[0])
        values = np.full(shape, values.reshape(()), np.float32)
    if values.shape != shape:
        raise DataError(f"{key} of shape {list(values.shape)}; target_tokens have {list(shape)}")
    if not np.isfinite(values).all():
        raise DataError(f"{key} holds NaN or infinite numbers")
    return values.astype(
        np.float32
    )  # a copy: the caller's array may be used for something else by the time of the pass


def prompt_tokens(model_input: types.ModelInput, vocab_size: int) -> np.ndarray:
    """Token ids int64 [N]; raises DataError if there are none, or some that the model does not know."""
    tokens = model_input.to_numpy()
    if not len(tokens):
        raise DataError("the model input is empty; it needs one token at least")
    check_ids(tokens, vocab_size, "model_input")
    return tokens


def check_ids(ids: np.ndarray, vocab_size: int, name: str) -> None:
    """Raises DataError, which calls the ids by `name`, if one of them is none of the model's."""
    if ids.size and not (ids.min() >= 0 and ids.max() < vocab_size):
        raise DataError(
            f"{name} holds token {int(ids.min() if ids.min() < 0 else ids.max())}; ids are 0 to {vocab_size - 1}"
        )


def train_output(output: TrainOutput, data: Sequence[Example]) -> types.ForwardBackwardOutput:
    """Logprobs and loss of every target, `loss:sum`, and the targets that carried a weight as `tokens:sum`."""
    outputs = [
        {
            "logprobs": types.TensorData.from_numpy(each.logprobs),
            "elementwise_loss": types.TensorData.from_numpy(each.losses),
        }
        for each in output.outputs
    ]
    tokens = sum(int((datum.columns["weights"] != 0).sum()) for datum in data)
    return types.ForwardBackwardOutput("scalar", outputs, {"loss:sum": output.loss, "tokens:sum": float(tokens)})


def adam_step(adam: types.AdamParams) -> AdamStep:
    """The engine's step; a clipping norm of 0 is none. Raises DataError for what is out of range."""
    numbers = [adam.learning_rate, adam.beta1, adam.beta2, adam.eps, adam.weight_decay, adam.grad_clip_norm]
    fits = adam.learning_rate >= 0 and 0 <= adam.beta1 < 1 and 0 <= adam.beta2 < 1 and min(numbers[3:]) >= 0
    if not fits or not all(map(math.isfinite, numbers)):
        raise DataError(f"adam_params {adam}: rates are 0 or more, betas in [0, 1), all of them finite")
    return AdamStep(
        adam.learning_rate,
        adam.learning_rate,
        adam.beta1,
        adam.beta2,
        adam.eps,
        adam.weight_decay,
        adam.grad_clip_norm or math.inf,
    )
