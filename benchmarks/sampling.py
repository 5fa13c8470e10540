"""The sampler of several source trees side by side: `python benchmarks/sampling.py [--trees SRC ...]`.

Tokens per second of processor time. A tree is a folder that holds the package `thumbs`; each has a process of its own,
and they take turns at every case, so that a slow minute is slow for all. A stage's rollouts, and eight clients of the
service, each with an adapter of its own, in process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NEW, CLIENTS, EACH = 40, 8, 8
"""Tokens of a reply; clients of the service; samples that each asks for."""
CASES = ("64 prompts", "160 prompts, replies that end", "8 clients")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trees", nargs="+", default=[str(Path(__file__).parents[1] / "src")])
    parser.add_argument("--models", nargs="+", default=["byte-tiny", "smollm2-135m"])
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.models[0])
        return
    for model in options.models:
        workers = {tree: start(tree, model) for tree in options.trees}
        for case in options.cases:
            rates: dict[str, list[float]] = {tree: [] for tree in workers}
            for number in range(options.rounds + 1):
                for tree, worker in workers.items():
                    print(case, file=worker.stdin, flush=True)
                    rate = json.loads(worker.stdout.readline())
                    if number:  # the first round is to get warm
                        rates[tree].append(rate)
            shown = "   ".join(f"{statistics.median(x):.0f} ({min(x):.0f}-{max(x):.0f})" for x in rates.values())
            print(f"{model:14} {case:32} tokens/s  {shown}", flush=True)
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()


def start(tree: str, model: str) -> subprocess.Popen[str]:
    """A process that answers cases with the package of one tree."""
    command, environment = [sys.executable, __file__, "--worker", "--models", model], os.environ | {"PYTHONPATH": tree}
    return subprocess.Popen(  # noqa: S603
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def work(model: str) -> None:
    """Answers each case that comes in on a line by its tokens/s."""
    import numpy as np

    from thumbs.clients import types
    from thumbs.clients.backend import Backend
    from thumbs.clients.service_client import ServiceClient
    from thumbs.clients.store import Store
    from thumbs.config.model import ModelConfig
    from thumbs.engine.base import ModelSpec
    from thumbs.engine.local import LocalEngine
    from thumbs.rollout import sampler as samplers

    Params = getattr(samplers, "DecodingParams", None) or samplers.SamplingParams
    random = np.random.default_rng(0)
    prompts = [random.integers(0, 250, random.integers(16, 64)).tolist() for _ in range(160)]
    engine = LocalEngine()
    sampler = engine.snapshot(engine.create(ModelSpec("policy", ModelConfig(name=model), trainable=False)))
    with tempfile.TemporaryDirectory() as folder:
        backend = Backend(Store(Path(folder)), {model: ModelConfig(name=model)})
        service = ServiceClient(backend=backend)
        clients = [service.create_lora_training_client(model, rank=16, seed=seed) for seed in range(CLIENTS)]
        adapted = [client.save_weights_and_get_sampling_client() for client in clients]

        def rollout(count: int, stops: tuple[int, ...]) -> int:
            replies = sampler.sample(prompts[:count], Params(NEW, stops), range(count))
            return sum(len(reply.tokens) for reply in replies)

        def serve() -> int:
            params = types.SamplingParams(max_tokens=NEW, seed=1, stop=[])
            asked = [
                client.sample(types.ModelInput.from_ints(prompts[number]), EACH, params)
                for number, client in enumerate(adapted)
            ]
            return sum(len(sequence.tokens) for each in asked for sequence in each.result().sequences)

        ends = tuple(range(0, 50_000, 25))
        run = dict(zip(CASES, (lambda: rollout(64, ()), lambda: rollout(160, ends), serve), strict=True))
        for line in sys.stdin:
            started = time.process_time()
            tokens = run[line.strip()]()
            print(tokens / (time.process_time() - started), flush=True)
        backend.close()


if __name__ == "__main__":
    main()
