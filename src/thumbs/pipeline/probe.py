"""What this machine does with this model: a few seconds of the real engine, timed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from thumbs.config.losses import CROSS_ENTROPY
from thumbs.engine.base import AdamStep, Engine, Handle
from thumbs.engine.plan import TOKEN_BUDGET
from thumbs.models.precision import device, multiplies_bfloat16
from thumbs.pipeline.summary import peak_cuda_bytes, peak_rss_bytes
from thumbs.pipeline.workload import StageWork
from thumbs.records import Example
from thumbs.rollout.sampler import DecodingParams, Sampler

_DECODED = 8
"""Decoding steps that are timed."""
_RATE = 1e-12
"""Not 0, for which the engine would skip the optimizer."""


@dataclass(frozen=True)
class Probe:
    """Seconds: of a token through forward and backward (train_s), through a forward (read_s), and what it takes more
    when it is seen first (new_s); of an optimizer step and a snapshot; of a sampled token by the number of rows that
    are sampled together. peak_bytes: the most memory so far. products, reads: FLOP and bytes per second of the device.
    """

    train_s: float
    read_s: float
    new_s: float
    optim_s: float
    snapshot_s: float
    sample_s: dict[int, float]
    peak_bytes: int
    products: float = math.inf
    reads: float = math.inf

    def seconds(self, work: StageWork) -> float:
        """Time that the work takes here."""
        return (
            work.trained * self.train_s
            + work.read * self.read_s
            + work.new * self.new_s
            + work.steps * self.optim_s
            + work.snapshots * self.snapshot_s
            + work.sampled * self.sample_s.get(work.sampling_rows, 0.0)
        )


def run_probe(
    engine: Engine,
    handle: Handle,
    work: Iterable[StageWork],
    context: int,
    prompt_tokens: int,
    tokens: int,
    say: Callable[[str], None] = lambda _: None,
) -> Probe:
    """Times a model on sequences of `tokens` tokens, `prompt_tokens` of which are the prompt; it is changed by that.

    say: hears what is measured next.

    The batch is as large as an optimizer step's (one micro-batch at most), so the peak of memory is real.
    """
    work = list(work)
    wanted = max((w.step_tokens for w in work), default=0.0) or 4 * tokens
    data = _random_data(min(max(round(wanted / tokens), 1), max(TOKEN_BUDGET // tokens, 1)), prompt_tokens, tokens)
    part = data[: math.ceil(len(data) / 4)]
    say(f"plan: timing {len(data)} sequences of {tokens} tokens in training")
    engine.forward_backward(handle, data[:1], [CROSS_ENTROPY])  # what first calls allocate is not timed
    engine.optim_step(handle, AdamStep(_RATE, _RATE))
    first_s = _seconds(lambda: engine.forward(handle, data)) / _tokens(data)
    read_s = _seconds(lambda: engine.forward(handle, part)) / _tokens(part)
    train_s = _seconds(lambda: engine.forward_backward(handle, data, [CROSS_ENTROPY])) / _tokens(data)
    optim_s = _seconds(lambda: engine.optim_step(handle, AdamStep(_RATE, _RATE)))
    sampler, decoded = engine.snapshot(handle), min(_DECODED, context - prompt_tokens - 1)
    rows = {w.sampling_rows for w in work if w.sampling_rows}

    def sampled(n: int) -> float:
        say(f"plan: timing {n} replies that are sampled together")
        return _sample_seconds(sampler, n, prompt_tokens, decoded)

    return Probe(
        train_s=train_s,
        read_s=read_s,
        new_s=max(first_s - read_s, 0.0),
        optim_s=optim_s,
        snapshot_s=_seconds(lambda: engine.snapshot(handle)),
        sample_s={n: sampled(n) for n in sorted(rows)},
        peak_bytes=_peak_bytes(),
        products=_products(),
        reads=_reads(),
    )


def _random_data(count: int, prompt_tokens: int, tokens: int) -> list[Example]:
    rng = np.random.default_rng(0)
    weights = np.zeros(tokens - 1, dtype=np.float32)
    weights[prompt_tokens - 1 :] = 1.0
    weights /= weights.sum() * count
    return [Example.next_token(rng.integers(0, 256, tokens), weights=weights) for _ in range(count)]


def _tokens(data: Sequence[Example]) -> int:
    return sum(map(len, data))


def _sample_seconds(sampler: Sampler, rows: int, prompt_tokens: int, decoded: int) -> float:
    """Seconds a sampled token with `rows` sequences decoding together."""
    prompt = np.random.default_rng(1).integers(0, 256, prompt_tokens).tolist()

    def sample(count: int) -> float:
        params = DecodingParams(count, stop_tokens=())
        return _seconds(lambda: sampler.sample([prompt] * rows, params, range(rows)))

    return max(sample(1 + decoded) - sample(1), 0.0) / (rows * max(decoded, 1))


def _seconds(call: Callable[[], object]) -> float:
    _wait()
    started = time.perf_counter()
    call()
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _products(n: int = 1024) -> float:
    """FLOP per second of a product of square matrices, in the format that computes."""
    on = device()
    dtype = torch.bfloat16 if multiplies_bfloat16(on) else torch.float32
    a = torch.ones(n, n, dtype=dtype, device=on)
    torch.mm(a, a)  # what the first one allocates is not timed
    return 2 * n**3 / min(_seconds(lambda: torch.mm(a, a)) for _ in range(3))


def _reads(size: int = 2**26) -> float:
    """Bytes per second at which memory is read."""
    numbers = torch.ones(size // 4, device=device())
    return size / min(_seconds(numbers.sum) for _ in range(3))


def _peak_bytes() -> int:
    """Of the device that computes."""
    return peak_cuda_bytes() or peak_rss_bytes()


def duration(seconds: float) -> str:
    """Seconds as a person says it: 40 s, 12 min, 3.5 h."""
    if seconds < 99.5:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
