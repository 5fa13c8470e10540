"""How time and memory of our own steps grow: `python benchmarks/growth.py` writes benchmarks/results/growth.json.

One process a point, so that its peak memory is its own. A step of training is forward, backward and Adam with LoRA; a
step of the group samples one prompt's replies and trains on them. Tokens are random, so no reply ends early.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from compare import write
from machine import description

from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine.base import AdamStep, Handle, ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.models.catalog import resolve
from thumbs.records import Example
from thumbs.rollout.sampler import DecodingParams

RESULTS = Path(__file__).parent / "results" / "growth.json"
REPLY = 32
"""New tokens of each reply of a group."""


@dataclass(frozen=True)
class Point:
    """One measurement: tokens per sequence, sequences a step (or replies of a group), rank of LoRA, layers, and steps.

    varied: every step draws new lengths, of 3/4 to 2 times `length`.
    """

    length: int = 256
    batch: int = 4
    rank: int = 16
    layers: int = 30
    replies: bool = False
    varied: bool = False
    steps: int = 4


AXES: dict[str, tuple[str, list[Point]]] = {
    "length": ("tokens per sequence, 2 sequences", [Point(length=n, batch=2) for n in (128, 256, 512, 1024, 2048)]),
    "batch": ("sequences of 256 tokens", [Point(batch=n) for n in (1, 2, 4, 8, 16)]),
    "rank": ("rank of LoRA, 4 sequences of 256 tokens", [Point(rank=n) for n in (4, 16, 64, 256)]),
    "layers": ("layers of the model, 4 sequences of 256 tokens", [Point(layers=n) for n in (8, 15, 30, 60)]),
    "group": (
        f"replies of {REPLY} tokens to a prompt of 256",
        [Point(batch=n, replies=True) for n in (2, 4, 8, 16, 32)],
    ),
    "steps": (
        "steps of 8 sequences of 192 to 511 tokens, other lengths at each",
        [Point(batch=8, varied=True, steps=n) for n in (5, 10, 20, 40)],
    ),
}


def step_of(point: Point, engine: LocalEngine, model: Handle) -> Callable[[], object]:
    """The step that a point measures."""
    random = np.random.default_rng(0)

    def train(sequences: list[np.ndarray], first: int) -> None:
        data = []
        for tokens in sequences:
            weights = np.zeros(len(tokens) - 1, dtype=np.float32)
            weights[first - 1 :] = 1 / len(sequences)
            data.append(Example.next_token(tokens, weights=weights))
        engine.forward_backward(model, data, [CROSS_ENTROPY])
        engine.optim_step(model, AdamStep(1e-6, 1e-6))

    first = point.length * 3 // 4

    def draw(lengths: np.ndarray) -> list[np.ndarray]:
        return [random.integers(0, 49_000, length) for length in lengths]

    if point.varied:
        return lambda: train(draw(random.integers(first + 1, 2 * point.length, point.batch)), first)
    if not point.replies:
        sequences = draw(np.full(point.batch, point.length))
        return lambda: train(sequences, first)
    prompt = random.integers(0, 49_000, point.length).tolist()
    params = DecodingParams(max_new_tokens=REPLY, stop_tokens=())

    def group() -> None:
        samples = engine.snapshot(model).sample([prompt] * point.batch, params, range(point.batch))
        train([np.r_[prompt, sample.tokens] for sample in samples], len(prompt))

    return group


def resized(layers: int, folder: Path) -> str:
    """SmolLM2-135M with another number of layers, which begin as the first ones do; the name of a model."""
    original = resolve("smollm2-135m")
    config = json.loads((original / "config.json").read_text(encoding="utf-8"))
    if layers == config["num_hidden_layers"]:
        return "smollm2-135m"
    from transformers import AutoModelForCausalLM, logging

    logging.set_verbosity_error()  # it would list the layers that were left out or added
    model = AutoModelForCausalLM.from_pretrained(original, num_hidden_layers=layers)
    model.save_pretrained(folder)
    for file in original.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return str(folder)


def measure(point: Point, name: str) -> dict[str, float]:
    """Seconds of a step (median after one to warm up) and the process's peak memory."""
    engine = LocalEngine()
    lora = AdapterConfig(rank=point.rank, alpha=2 * point.rank)
    model = engine.create(ModelSpec("policy", ModelConfig(name=name, lora=lora), ("lm",)))
    step, taken = step_of(point, engine, model), []
    for _ in range(point.steps):
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": statistics.median(taken[1:]), "low": min(taken[1:]), "high": max(taken[1:]), "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures how time and memory of a step grow.")
    parser.add_argument("--only", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(measure(Point(**json.loads(options.point)), options.model)))
        return
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python", "benchmarks/growth.py", *sys.argv[1:]]),
        "machine": description(),
        "axes": {},
    }
    for axis in options.only:
        title, points = AXES[axis]
        print(title, file=sys.stderr, flush=True)
        found = result["axes"][axis] = {"title": title, "points": []}
        for point in points:
            with tempfile.TemporaryDirectory() as folder:
                name = resized(point.layers, Path(folder))
                command = [sys.executable, __file__, "--point", json.dumps(asdict(point)), "--model", name]
                done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
            figures = json.loads(done.stdout.splitlines()[-1])
            value = point.batch if axis == "group" else getattr(point, axis)
            found["points"].append({"value": value} | figures)
            print(f"  {value:5} {figures['seconds']:7.2f} s  {figures['peak_bytes'] / 2**30:.2f} GiB", flush=True)
            write(options.out, result)


if __name__ == "__main__":
    main()
