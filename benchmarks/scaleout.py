"""One rank against more: tokens per second, the largest difference of weights, and PPO's metrics.

.venv/bin/python benchmarks/scaleout.py --workers 1 2 --out FILE [--launcher pipes] [--steps 20]

Weights are those of byte-tiny in float32 after some steps of alternating cross-entropy and PPO. Adapters on a base that
every rank has whole must not differ by a bit, nor may any metric of any step of PPO. Full weights, sharded over the
ranks, may differ by 1e-6, and so may the metrics, in proportion where they are larger than 1.
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
"""Largest difference of a weight, and of a metric."""
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


def train(
    kind: str, workers: int, launcher: str, steps: int
) -> tuple[dict[str, torch.Tensor], list[dict[str, float]], float]:
    """Weights and moments at the end; the metrics of each step of PPO; tokens per second."""
    lora, shard = KINDS[kind]
    settings = {"kind": "cluster", "workers": workers, "launcher": launcher, "shard": shard}
    engine = open_engine(EngineConfig.model_validate(settings))
    generator = np.random.default_rng(0)
    try:
        model = ModelConfig(name="byte-tiny", lora=lora, dtype="float32")
        handle = engine.create(ModelSpec("policy", model, ("lm", "scalar")))
        tokens, spent, metrics = 0, 0.0, list[dict[str, float]]()
        for step in range(steps):
            data, losses = batch(generator, 96, 96), [CROSS_ENTROPY] if step % 2 else PPO
            began = time.perf_counter()
            output = engine.forward_backward(handle, data, losses)
            report = engine.optim_step(handle, AdamStep(1e-3, 1e-3))
            spent += time.perf_counter() - began
            tokens += sum(map(len, data))
            if step % 2 == 0:
                metrics.append({"loss": output.loss, "grad_norm": report.grad_norm, **output.metrics})
        with tempfile.TemporaryDirectory() as folder:
            engine.save(handle, Path(folder) / "end")
            tensors = {
                k: v for f in sorted((Path(folder) / "end").glob("*.safetensors")) for k, v in load_file(f).items()
            }
    finally:
        engine.stop()
    return tensors, metrics, tokens / spent


def metric_gap(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> float:
    """The largest difference of a metric, relative to it where it is larger than 1."""
    gaps = [
        abs(a[name] - b[name]) / max(abs(b[name]), 1.0) for a, b in zip(ours, theirs, strict=True) for name in a | b
    ]
    return max(gaps)


def main() -> None:
    """Trains each kind with each number of workers, and compares with the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--launcher", default="pipes")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    results, far = dict[str, dict[str, object]](), list[str]()
    for kind in KINDS:
        runs = {workers: train(kind, workers, asked.launcher, asked.steps) for workers in asked.workers}
        tensors, metrics, _ = runs[asked.workers[0]]
        print(f"{kind}: the last step of PPO, then the largest differences from {asked.workers[0]} workers")
        for name in metrics[-1]:
            print(f"  {name:<28}" + "".join(f"{own[-1][name]:>16.9g}" for _, own, _ in runs.values()))
        for workers, (own, steps, speed) in runs.items():
            apart = max(float((own[name] - tensors[name]).abs().max()) for name in tensors)
            gap = metric_gap(steps, metrics)
            results[f"{kind}, {workers} workers"] = {
                "tokens_per_s": round(speed, 1),
                "ppo": steps[-1],
                "largest_weight_difference": apart,
                "largest_metric_difference": gap,
            }
            print(f"  {workers} workers: {speed:.1f} tokens/s, weights {apart}, metrics of PPO {gap}")
            if max(apart, gap) > MOST[kind] or own.keys() != tensors.keys():
                far.append(f"{kind}, {workers} workers: more than {MOST[kind]} apart")
    if asked.out:
        asked.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
    if far:
        raise SystemExit("\n".join(far))


if __name__ == "__main__":
    main()
