"""What prepacked weights and invariant states gain: `python benchmarks/products.py`, five to eight minutes.

SmolLM2-135M, the ways side by side and alternating in one run, medians of ROUNDS.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from thumbs.config.model import ModelConfig
from thumbs.models.causal_lm import CausalLM, merged_copy, prepack_decoder, prepacked_layer
from thumbs.models.invariant import invariant_states
from thumbs.models.prepacked import linear, prepack
from thumbs.models.rows import Rows
from thumbs.models.trunk import open_trunk
from thumbs.rollout.native import open_native
from thumbs.rollout.sampler import DecodingParams

ROUNDS, LOWER = 3, 18


def seconds(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each way, which take turns; the first turn is warm-up."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def show(title: str, amount: float, unit: str, ways: dict[str, Callable[[], object]]) -> None:
    found = seconds(ways)
    print(title, *(f"{name} {amount / s:.0f} {unit}" for name, s in found.items()), sep="   ", flush=True)


@torch.no_grad()
def main() -> None:
    trunk = open_trunk(ModelConfig(name="smollm2-135m"), seed=0).requires_grad_(False)
    random = np.random.default_rng(0)
    print(f"{torch.get_num_threads()} threads, {trunk.dtype}, {ROUNDS} rounds")

    weights = [p for layer in trunk.blocks[:10] for p in layer.parameters() if p.ndim == 2]
    layouts = {"plain": weights, "oneDNN's": [in_onednn(weight) for weight in weights]}
    layouts["prepacked"] = [prepack(weight) for weight in weights]
    for rows in (1, 8, 16, 40, 64, 128, 256, 1024):
        inputs = {width: torch.randn(rows, width, dtype=trunk.dtype) for width in {w.shape[1] for w in weights}}
        repeat, flop = max(1024 // rows, 1), 2e-9 * rows * sum(w.numel() for w in weights)
        ways = {
            name: lambda these=these, x=inputs, n=repeat: [
                linear(x[plain.shape[1]], weight)
                for _ in range(n)
                for plain, weight in zip(weights, these, strict=True)
            ]
            for name, these in layouts.items()
        }
        show(f"products of {rows:4} rows", flop * repeat, "GFLOP/s", ways)

    settings = DecodingParams(max_new_tokens=24, temperature=0.7, stop_tokens=())
    samplers = {
        "plain": open_native(trunk, 0),
        "prepacked": open_native(prepack_decoder(merged_copy(trunk, None, trunk.dtype)), 0),
    }
    for asked, draws in ((1, 1), (40, 1), (32, 4)):
        prompts = [random.integers(0, 49000, 45).tolist() for _ in range(asked)] * draws
        ways = {name: lambda s=s, p=prompts: s.sample(p, settings, range(len(p))) for name, s in samplers.items()}
        show(f"decoding {len(prompts):3} rows", 24 * len(prompts), "tokens/s", ways)

    lower, plain = [prepacked_layer(layer) for layer in trunk.blocks[:LOWER]], trunk.blocks[:LOWER]
    for asked, replies in ((8, 4), (40, 1)):
        heads = [random.integers(0, 49000, 45) for _ in range(asked)]
        sequences = [np.concatenate([h, random.integers(0, 49000, 25)]) for h in heads for _ in range(replies)]
        ways = {
            "each alone": lambda them=sequences: [one_alone(trunk, s) for s in them],
            "together": lambda them=sequences: invariant_states(trunk, plain, them),
            "together, prepacked": lambda them=sequences: invariant_states(trunk, lower, them),
        }
        title = f"lower {LOWER} layers, {asked} prompts with {replies} replies"
        show(title, sum(map(len, sequences)), "tokens/s", ways)


def in_onednn(weight: torch.Tensor) -> torch.Tensor:
    """The weight in oneDNN's layout, which `prepack` takes only where ours does not do."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())


def one_alone(trunk: CausalLM, sequence: np.ndarray) -> torch.Tensor:
    """The ordinary pass of one sequence."""
    tokens = torch.from_numpy(sequence)
    return trunk.run_layers(trunk.embed(tokens), Rows.of([len(tokens)], tokens.device), 0, LOWER)


if __name__ == "__main__":
    main()
