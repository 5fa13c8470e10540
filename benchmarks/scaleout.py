"""One rank against more: tokens per second, the largest difference of weights, and PPO's metrics.

.venv/bin/python benchmarks/scaleout.py --workers 1 2 --out FILE [--launcher pipes] [--steps 20]

Weights are those of byte-tiny in float32 after some steps of alternating cross-entropy and PPO. Adapters on a base that
every rank has whole must not differ by a bit; full weights, sharded over the ranks, by at most 1e-6.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from thumbs.config.engine import EngineConfig
from thumbs.config.losses import CROSS_ENTROPY, LossSpec, TokenLoss
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine import open_engine
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.records import Example

PPO: list[LossSpec] = [TokenLoss.of("ppo_clip"), TokenLoss.of("value_clip", coef=0.3)]
MOST = {"adapters": 0.0, "full": 1e-6}
KINDS = {"adapters": (AdapterConfig(rank=8, alpha=16.0), "none"), "full": (None, "full")}


def batch(generator: np.random.Generator, sequences: int, tokens: int) -> list[Example]:
    """Datums with everything that PPO needs."""
    data = []
    for length in generator.integers(tokens // 2, tokens, sequences):
        columns = {name: generator.normal(size=length - 1) for name in ("advantages", "values", "returns")}
        columns["logprobs"] = generator.normal(-6, 1, size=length - 1)
        columns["weights"] = np.full(length - 1, 1 / (sequences * tokens))
        data.append(Example.next_token(generator.integers(3, 250, length).tolist(), **columns))
    return data


def train(kind: str, workers: int, launcher: str, steps: int) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """Weights and moments at the end; tokens per second and the metrics of the last step of PPO."""
    lora, shard = KINDS[kind]
    settings = {"kind": "cluster", "workers": workers, "launcher": launcher, "shard": shard}
    engine = open_engine(EngineConfig.model_validate(settings))
    generator = np.random.default_rng(0)
    try:
        model = ModelConfig(name="byte-tiny", lora=lora, dtype="float32")
        handle = engine.create(ModelSpec("policy", model, ("lm", "scalar")))
        tokens, spent, metrics = 0, 0.0, {}
        for step in range(steps):
            data, losses = batch(generator, 96, 96), [CROSS_ENTROPY] if step % 2 else PPO
            began = time.perf_counter()
            output = engine.forward_backward(handle, data, losses)
            engine.optim_step(handle, AdamStep(1e-3, 1e-3))
            spent += time.perf_counter() - began
            tokens += sum(map(len, data))
            metrics = metrics if step % 2 else {"loss": output.loss, **output.metrics}
        with tempfile.TemporaryDirectory() as folder:
            engine.save(handle, Path(folder) / "end")
            tensors = {
                k: v for f in sorted((Path(folder) / "end").glob("*.safetensors")) for k, v in load_file(f).items()
            }
    finally:
        engine.stop()
    return tensors, {"tokens_per_s": round(tokens / spent, 1), "ppo": metrics}


def main() -> None:
    """Trains each kind with each number of workers, and compares with the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--launcher", default="pipes")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    results: dict[str, dict[str, object]] = {}
    for kind in KINDS:
        first: dict[str, torch.Tensor] = {}
        for workers in asked.workers:
            tensors, found = train(kind, workers, asked.launcher, asked.steps)
            first = first or tensors
            apart = max(float((tensors[name] - first[name]).abs().max()) for name in first)
            results[f"{kind}, {workers} workers"] = {**found, "largest_weight_difference": apart}
            print(kind, workers, "workers:", found["tokens_per_s"], "tokens/s, largest weight difference", apart)
            if apart > MOST[kind]:
                raise SystemExit(f"{kind}: more than {MOST[kind]} apart")
    if asked.out:
        asked.out.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
