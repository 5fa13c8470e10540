"""The compiled kernels against torch's operators, alternating: `python benchmarks/kernels.py`."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.functional.logprobs import target_logprobs
from thumbs.models import kernels, operators
from thumbs.records import Example
from thumbs.rollout.sampler import DecodingParams

COMPILED = kernels.usable
REPLY, PROMPT, NEW = 25, 64, 32
"""Tokens: of a trained reply, of a prompt that is continued, of each new reply."""


def compare(title: str, work: Callable[[], object], tokens: int, rounds: int) -> None:
    """Prints tokens/s with and without the kernels, medians after a warm-up."""
    taken: dict[bool, list[float]] = {False: [], True: []}
    for number in range(rounds + 1):
        for compiled, seconds in taken.items():
            kernels.usable = COMPILED if compiled else (lambda *_: False)
            start = time.perf_counter()
            work()
            if number:
                seconds.append(time.perf_counter() - start)
    torch_s, kernels_s = (statistics.median(seconds) for seconds in taken.values())
    rates = f"torch {tokens / torch_s:6.0f}  kernels {tokens / kernels_s:6.0f} tokens/s"
    print(f"{title:32} {rates}  {torch_s / kernels_s:.2f}")


def train(lora: AdapterConfig | None, prompts: int, each: int, lengths: tuple[int, int], rounds: int) -> None:
    """Forward, backward and one Adam step on `each` replies to every prompt."""
    engine, random = LocalEngine(), np.random.default_rng(0)
    model = engine.create(ModelSpec("policy", ModelConfig(name="smollm2-135m", lora=lora)))
    heads = [random.integers(0, 49_000, random.integers(lengths[0], lengths[1] + 1)) for _ in range(prompts)]
    data = []
    for head in (head for head in heads for _ in range(each)):
        weights = np.r_[np.zeros(len(head) - 1), np.full(REPLY, 0.01)].astype(np.float32)
        data.append(Example.next_token(np.r_[head, random.integers(0, 49_000, REPLY)], weights=weights))

    def step() -> None:
        engine.forward_backward(model, data, [CROSS_ENTROPY])
        engine.optim_step(model, AdamStep(1e-6, 1e-6))

    name = "full" if lora is None else f"LoRA on {lora.layers or 'all'} layers"
    compare(f"training, {name}, {prompts} x {each}", step, sum(map(len, data)), rounds)


def vocabulary(states: int, rounds: int, *, dtype: torch.dtype) -> None:
    """Logprobs of as many tokens and their gradients, of the output embedding too, in a vocabulary of 49,152."""
    hidden = torch.randn(states, 576, dtype=dtype).requires_grad_()
    weight = (torch.randn(49_152, 576, dtype=dtype) / 5).requires_grad_()
    targets = torch.arange(states)

    def step() -> None:
        target_logprobs(hidden, weight, targets, 1.0, operators.vocabulary(hidden))[0].sum().backward()

    compare(f"vocabulary, {states} states, {str(dtype).removeprefix('torch.')}", step, states, rounds)


def decode(sizes: list[int], rounds: int) -> None:
    engine, random = LocalEngine(), np.random.default_rng(0)
    sampler = engine.snapshot(engine.create(ModelSpec("policy", ModelConfig(name="smollm2-135m"), trainable=False)))
    params = DecodingParams(max_new_tokens=NEW, stop_tokens=())
    for rows in sizes:
        prompts = [random.integers(0, 49_000, PROMPT).tolist() for _ in range(rows)]
        compare(
            f"decoding, {rows} rows", lambda p=prompts: sampler.sample(p, params, range(len(p))), rows * NEW, rounds
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Compiled kernels against torch's operators on SmolLM2-135M.")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    if kernels.library() is None:
        raise SystemExit("there are no kernels: THUMBS_KERNELS=0 is set, or they were not built (no C++ compiler)")
    for dtype in (torch.bfloat16, torch.float32):
        for states in (64, 512):
            vocabulary(states, rounds, dtype=dtype)
    for lora in (None, AdapterConfig(rank=16), AdapterConfig(rank=16, layers=12)):
        train(lora, 8, 1, (60, 300), rounds)
        train(lora, 16, 4, (40, 40), rounds)
    decode([1, 16, 64], rounds)


if __name__ == "__main__":
    main()
