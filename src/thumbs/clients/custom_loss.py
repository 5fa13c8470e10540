"""Any differentiable function of the logprobs as a loss: forward, its gradient, a weighted cross-entropy backward.

With weights of -dC/dlogprob, cross-entropy's gradient -Σ w · dlogprob is that of C.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import replace
from typing import Any

import torch

from thumbs.clients.types import Datum, ForwardBackwardOutput, TensorData
from thumbs.errors import ConfigError, DataError

CustomLoss = Callable[[list[Datum], list[torch.Tensor]], tuple[torch.Tensor, dict[str, float]]]
"""(data, logprobs of each datum, shaped as its target_tokens) → (loss, metrics)."""

Pass = Callable[[list[Datum], bool], Generator[None, None, ForwardBackwardOutput]]
"""A pass with cross-entropy; True: forward only."""

PATIENCE_S = 0.002
"""How long the worker waits for the function before it lets others work, seconds."""


def custom_loss_pass(
    data: Sequence[Datum], function: CustomLoss, run: Pass
) -> Generator[None, None, ForwardBackwardOutput]:
    """forward_backward with `function`; it runs in a thread of its own, so that it may itself ask clients for things.

    The metrics are the function's, `loss:sum`, its loss, and `surrogate_loss:sum`, the cross-entropy's.
    """
    bare = [
        Datum(d.model_input, {k: d.loss_fn_inputs[k] for k in ("target_tokens",) if k in d.loss_fn_inputs})
        for d in data
    ]
    forward = yield from run(bare, True)
    logprobs = [output["logprobs"].to_torch().clone().requires_grad_() for output in forward.loss_fn_outputs]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(_gradients, function, list(data), logprobs)
        while not wait_for([asked], PATIENCE_S).done:
            yield
        loss, metrics, gradients = asked.result()
    weighted = [
        Datum(d.model_input, {**d.loss_fn_inputs, "weights": TensorData.from_torch(-g)})
        for d, g in zip(bare, gradients, strict=True)
    ]
    output = yield from run(weighted, False)
    surrogate = {"surrogate_loss:sum": output.metrics["loss:sum"], "loss:sum": loss}
    return replace(output, metrics={**output.metrics, **metrics, **surrogate})


def _gradients(
    function: CustomLoss, data: list[Datum], logprobs: list[torch.Tensor]
) -> tuple[float, dict[str, float], list[torch.Tensor]]:
    """The loss, its metrics and its gradients with respect to the logprobs; 0 where it does not use them."""
    with torch.enable_grad():
        answer: Any = function(data, logprobs)
        if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], torch.Tensor)):
            raise ConfigError(f"a custom loss returns (loss tensor, metrics), got {type(answer).__name__}")
        loss, metrics = answer
        if loss.numel() != 1 or not loss.requires_grad:
            raise ConfigError("a custom loss returns one number that depends on the logprobs it was given")
        gradients = torch.autograd.grad(loss.reshape(()), logprobs, allow_unused=True)
    found = [torch.zeros_like(lp) if g is None else g for lp, g in zip(logprobs, gradients, strict=True)]
    if not all(bool(torch.isfinite(x).all()) for x in (loss, *found)):
        raise DataError("the custom loss or its gradient is NaN or infinite; nothing was added")
    return float(loss.detach()), {name: float(value) for name, value in metrics.items()}, found
