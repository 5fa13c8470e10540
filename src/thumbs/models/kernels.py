"""The compiled kernels of `kernels.cpp` as torch functions; `operators.py` says what they compute and when."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from thumbs.errors import ConfigError
from thumbs.functional import logprobs
from thumbs.models.kernel_levels import NATIVE, file_name, processor_flags, usable_levels
from thumbs.models.rows import Forest

log = logging.getLogger(__name__)

VECTOR = 16
"""Widths must be multiples of it, and so must the halves of a head that rotate against each other."""

SUMS = 16
"""Partial sums of a norm weight's gradient; a number of its own, so that the bits do not depend on the threads."""


@cache
def library() -> ctypes.CDLL | None:
    """The compiled library of this processor, of the level that THUMBS_KERNELS names, or none at THUMBS_KERNELS=0
    (docs/decisions/0009-compiled-kernels.md); its `level` is the name.
    """
    wanted = os.environ.get("THUMBS_KERNELS") or None
    return None if wanted == "0" else load(wanted)


def load(wanted: str | None = None) -> ctypes.CDLL | None:
    """The best library that was built and that this processor can run, or the one of that level; None without one.

    Raises ConfigError for a level that is unknown, was not built or needs more than this processor has.
    """
    digest = hashlib.sha256(Path(__file__).with_suffix(".cpp").read_bytes()).hexdigest()
    built = {
        level.name: path
        for level in (NATIVE, *usable_levels(processor_flags()))
        if (path := Path(__file__).with_name(file_name(digest, level))).exists()
    }
    if wanted is not None and wanted not in built:
        raise ConfigError(f"THUMBS_KERNELS={wanted}: allowed here are 0 (none), {', '.join(built)}; unset it to choose")
    for name in built if wanted is None else [wanted]:
        if found := _open(built[name]):
            found.level = name  # pyright: ignore[reportAttributeAccessIssue]
            return found
    return None


def _open(path: Path) -> ctypes.CDLL | None:
    try:  # RTLD_NOW: OpenMP's functions come from torch, and without them the first call would end the process
        found = ctypes.CDLL(str(path), mode=os.RTLD_NOW)
    except OSError as error:
        log.warning("%s cannot be used (%s); torch does its work", path, error)
        return None
    found.find.restype, found.find.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
    return found if found.supported() else None


def usable(x: Tensor, *widths: int) -> bool:
    """Whether the kernels take such a tensor, whose rows have these widths."""
    fits = x.dtype in (torch.float32, torch.bfloat16) and all(width % VECTOR == 0 for width in widths)
    return fits and x.device.type == "cpu" and library() is not None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`operators.rms_norm` of rows [N, D], and what each row was divided by, inverted [N]; without a gradient."""
    y, scale = torch.empty_like(x), x.new_empty(x.shape[0], dtype=torch.float32)
    _call("rms_norm", x, x, weight, y, scale, *x.shape, eps)
    return y, scale


class RmsNorm(torch.autograd.Function):
    """The same with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, scale = rms_norm(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, scale = ctx.saved_tensors
        dx = torch.empty_like(x)
        wanted = ctx.needs_input_grad[1]
        # As many blocks whatever the number of threads, each with a row of its own: no locks, and one order of sums.
        sums = x.new_zeros(SUMS, x.shape[1], dtype=torch.float32) if wanted else None
        _call("rms_norm_backward", x, grad.contiguous(), x, weight, scale, dx, sums, *x.shape, SUMS)
        return dx, sums.sum(0).to(weight.dtype) if sums is not None else None, None


def swiglu(x: Tensor) -> Tensor:
    """`operators.swiglu` of rows [N, 2 D], without a gradient."""
    y = x.new_empty(x.shape[0], x.shape[1] // 2)
    _call("swiglu", x, x, y, *y.shape)
    return y


class SwiGlu(torch.autograd.Function):
    """The same with its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return swiglu(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        dx = torch.empty_like(x)
        _call("swiglu_backward", x, grad.contiguous(), x, dx, *grad.shape)
        return dx


class Attention(torch.autograd.Function):
    """`operators.attend` of mixed rows [N, (H + 2 K) C]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, forest: Forest, heads: tuple[int, int, int]) -> Tensor:
        y = x.new_empty(len(x), heads[0] * heads[2])
        _call("attention", x, x, cos, sin, y, *_parts(forest), *heads)
        ctx.save_for_backward(x, cos, sin)
        ctx.forest, ctx.heads = forest, heads
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, cos, sin = ctx.saved_tensors
        dx = torch.empty_like(x)
        _call("attention_backward", x, grad.contiguous(), x, cos, sin, dx, *_parts(ctx.forest), *ctx.heads)
        return dx, None, None, None, None


class FusedVocabulary(logprobs.Vocabulary):
    """Its sums in one pass, with the logits of a few rows and tokens at a time."""

    def softmax(
        self, hidden: Tensor, weight: Tensor, temperature: float, *, mean: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        hidden, weight = hidden.contiguous(), weight.to(hidden.dtype).contiguous()
        normaliser = hidden.new_empty(len(hidden), dtype=torch.float32)
        expected = hidden.new_empty(hidden.shape, dtype=torch.float32) if mean else None
        sizes = (len(hidden), *weight.shape)
        _call("vocabulary", hidden, hidden, weight, normaliser, expected, *sizes, 1 / temperature)
        return normaliser, expected

    def weight_gradient(
        self, hidden: Tensor, weight: Tensor, normaliser: Tensor, slope: Tensor, temperature: float
    ) -> Tensor:
        hidden, weight = hidden.contiguous(), weight.to(hidden.dtype).contiguous()
        # float32: a token's gradient adds up over all rows, and bfloat16 would lose the small terms.
        gradient = weight.new_empty(weight.shape, dtype=torch.float32)
        sizes = (len(hidden), *weight.shape)
        _call("vocabulary_backward", hidden, hidden, weight, normaliser, slope, gradient, *sizes, 1 / temperature)
        return gradient


def cached_attention(
    x: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, heads: tuple[int, int, int]
) -> Tensor:
    """`operators.attend_cached`; puts the new keys and values into the cache [B, K, L, C]."""
    y = x.new_empty(len(x), heads[0] * heads[2])
    _call("cached_attention", x, x, cos, sin, keys, values, lengths, y, len(x), keys.shape[2], *heads)
    return y


def draw_tokens(logits: Tensor, u: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """`rollout.draw` without top-k and top-p: tokens [B] and logprobs [B]."""
    tokens, logprobs = logits.new_empty(len(logits), dtype=torch.int64), logits.new_empty(len(logits))
    _call("draw", logits, logits.contiguous(), u.contiguous(), tokens, logprobs, *logits.shape, float(temperature))
    return tokens, logprobs


def packable(weight: Tensor) -> bool:
    """Whether `pack` takes a weight [out, in]."""
    found = library()
    return usable(weight, weight.shape[1]) and found is not None and len(weight) % found.panel() == 0


def pack(weight: Tensor) -> Tensor:
    """The weight in panels of outputs, [out / panel, in, panel] numbers in an order of their own, for `linear`."""
    weight, panel = weight.detach().contiguous(), _built().panel()
    packed = weight.new_empty(len(weight) // panel, weight.shape[1], panel)
    _call("pack", weight, weight, packed, *weight.shape)
    return packed


def logits(x: Tensor, packed: Tensor) -> Tensor:
    """x Wᵀ, [N, out], in float32 as it is summed, of x [N, in] and a packed weight."""
    assert x.dtype == packed.dtype  # noqa: S101
    y = x.new_empty(x.shape[0], packed.shape[0] * packed.shape[2], dtype=torch.float32)
    _call("logits", x, x.contiguous(), packed, None, y, *y.shape, x.shape[1])
    return y


def linear(x: Tensor, packed: Tensor, plus: Tensor | None = None) -> Tensor:
    """x Wᵀ (+ plus), [N, out], of x [N, in] and a packed weight."""
    assert x.dtype == packed.dtype  # noqa: S101
    y = x.new_empty(x.shape[0], packed.shape[0] * packed.shape[2])
    plus = None if plus is None else plus.contiguous()
    _call("linear", x, x.contiguous(), packed, plus, y, *y.shape, x.shape[1])
    return y


def _parts(forest: Forest) -> tuple[Tensor | int, ...]:
    return forest.start, forest.first, forest.keys, forest.trees, len(forest.trees) - 1


def bind(name: str, like: Tensor, *arguments: Any) -> Callable[[], None]:
    """A call of the kernel for the dtype of `like` on tensors that it keeps, with what they hold when it is called."""
    call = partial(_kernel(name, like, arguments), *map(_plain, arguments))
    call.kept = arguments  # pyright: ignore[reportAttributeAccessIssue] (a pointer alone keeps no tensor)
    return call


def _call(name: str, like: Tensor, *arguments: Any) -> None:
    _kernel(name, like, arguments)(*map(_plain, arguments))


def _kernel(name: str, like: Tensor, arguments: Sequence[Any]) -> Any:
    """The kernel for the dtype of `like`; tensors and None go as pointers, sizes as long, numbers as float."""
    key = (name, like.dtype)
    if key not in _KERNELS:
        types = [{int: ctypes.c_long, float: ctypes.c_float}.get(type(x), ctypes.c_void_p) for x in arguments]
        found = _built().find(name.encode(), like.dtype == torch.bfloat16)
        _KERNELS[key] = ctypes.CFUNCTYPE(None, *types)(found)
    return _KERNELS[key]


def _built() -> ctypes.CDLL:
    found = library()
    assert found is not None  # noqa: S101 (`usable` has said so)
    return found


def _plain(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    assert x.is_contiguous()  # noqa: S101
    return x.data_ptr()


_KERNELS: dict[tuple[str, torch.dtype], Any] = {}
