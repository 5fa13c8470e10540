"""What this machine is and what it can do: matrix products, memory bandwidth, and the floors that follow from them."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from thumbs.models.decoder_config import DecoderConfig


def description() -> dict[str, Any]:
    """Processor, cores, memory, number format."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(found.get("flags", "").split())
    wide = sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile"})
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "processor": found.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "instructions": wide,
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
    }


def kind_of(device: str, dtype: str) -> str:
    """Name of the results on such a machine: the widest of its units that the number format uses."""
    if device != "cpu":
        return torch.cuda.get_device_name().split()[-1].lower()
    units = description()["instructions"]
    if dtype == "bfloat16":
        return "amx" if "amx_bf16" in units else "avx512bf16"
    return "avx512" if "avx512f" in units else "avx2"


def rates(dtype: torch.dtype, device: str) -> dict[str, float]:
    """FLOP/s of square products and bytes/s of reading memory that no cache holds; medians."""
    size = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    large = torch.ones(2**26, device=device)
    return {"flops": 2 * size**3 / _seconds(lambda: a @ b), "bandwidth": large.nbytes / _seconds(lambda: large.sum())}


def _seconds(work: Callable[[], object], rounds: int = 7) -> float:
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def training_floor(c: DecoderConfig, measured: dict[str, float], *, lora: bool, loss_share: float) -> float:
    """Tokens/s if nothing but the products took time: 2 FLOP per weight forward, as much for the gradient of the inputs
    and, of trained weights, of the weights; the output embedding only for the `loss_share` of tokens with a loss.
    """
    passes = 2 if lora else 3
    per_token = 2 * passes * (layer_weights(c) + loss_share * c.vocab_size * c.width)
    return measured["flops"] / per_token


def decoding_floor(c: DecoderConfig, measured: dict[str, float], rows: int, prompt: int, new: int, size: int) -> float:
    """New tokens/s if reading the prompts took nothing but products, and each step after it the longer of reading all
    weights and keys once (`size` bytes a number) and of multiplying."""
    weights = layer_weights(c) + c.vocab_size * c.width
    cache = rows * (prompt + new / 2) * c.layers * 2 * c.kv_heads * c.head_dim
    prefill = 2 * layer_weights(c) * rows * prompt / measured["flops"]
    step = max(2 * weights * rows / measured["flops"], size * (weights + cache) / measured["bandwidth"])
    return rows * new / (prefill + new * step)


def ppo_floor(
    c: DecoderConfig,
    measured: dict[str, float],
    *,
    lora: bool,
    rows: int,
    prompt: float,
    new: int,
    size: int,
    epochs: int,
) -> float:
    """Samples/s of a step of PPO if nothing but products and reading weights took time: the rollout, one pass each of
    the reward model, the policy and the reference, the values (a pass of their own unless they share the adapter's
    trunk), and the epochs of updates. The output embedding counts on the replies' tokens.
    """
    layers, logits = 2 * layer_weights(c), 2 * c.vocab_size * c.width
    tokens, replies = rows * (prompt + new), rows * new
    critic = 0 if lora else 1
    looks = (3 + critic) * layers * tokens + 2 * logits * replies  # policy and reference have logits
    update = (2 if lora else 3) * ((1 + critic) * layers * tokens + logits * replies)
    rollout = replies / decoding_floor(c, measured, rows, round(prompt), new, size)
    return rows / (rollout + (looks + epochs * update) / measured["flops"])


def layer_weights(c: DecoderConfig) -> int:
    """Weights of all layers' products."""
    attention = c.width * c.head_dim * (2 * c.heads + 2 * c.kv_heads)
    return c.layers * (attention + 3 * c.width * c.intermediate)
