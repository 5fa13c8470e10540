"""How long a user waits: `python benchmarks/startup.py` prints seconds from the start of Python, medians of five."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

STEP = """
import numpy as np
from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.model import LoraConfig, ModelConfig
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.records import Example

engine = LocalEngine()
model = engine.create(ModelSpec("policy", ModelConfig(name="smollm2-135m", lora={lora})))
data = [Example.next_token(np.arange(5, 205), weights=np.full(199, 1 / 199, dtype=np.float32))]
engine.forward_backward(model, data, [CROSS_ENTROPY])
engine.optim_step(model, AdamStep(1e-5, 1e-5))
"""
PROGRAMS = {
    "thumbs --help": [str(Path(sys.executable).with_name("thumbs")), "--help"],
    "first training step of smollm2-135m, LoRA": [sys.executable, "-c", STEP.format(lora="LoraConfig()")],
    "first training step of smollm2-135m, full": [sys.executable, "-c", STEP.format(lora=None)],
}


def main() -> None:
    for name, command in PROGRAMS.items():
        taken = []
        for _ in range(6):  # the first fills the system's caches
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
            taken.append(time.perf_counter() - start)
        print(f"{name:45} {statistics.median(taken[1:]):5.2f} s ({min(taken[1:]):.2f} to {max(taken[1:]):.2f})")


if __name__ == "__main__":
    main()
