"""Time of a trained token in the DPO family compared with SFT: `python benchmarks/preference.py` prints JSON.

Steps of SFT and of each method take turns on the same random sequences, so that a busy machine is busy for all; what
counts is the processor's time. Prompts are different in every sequence, so nothing is shared: a step of P pairs trains
as many tokens as SFT on their 2P sequences. The reference's logprobs are known before, as in the stage.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import description

from thumbs.config.direct import DirectConfig
from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.stages.answers import AnswerPair, TokenisedReply, answer_datum
from thumbs.stages.context import Context
from thumbs.stages.direct import PairTraining
from thumbs.stages.direct_watch import Baseline
from thumbs.stages.sequences import token_mean
from thumbs.tracking.run_folder import StageFolder


def main() -> None:
    """Prints for each method the median over rounds of its time a token over that of SFT in the same round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="byte-tiny")
    parser.add_argument("--full", action="store_true", help="train every weight instead of LoRA of rank 16")
    parser.add_argument("--methods", nargs="+", default=["dpo", "simpo", "aot"])
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--length", type=int, default=192, help="tokens per sequence, half of them the reply")
    parser.add_argument("--rounds", type=int, default=7)
    wanted = parser.parse_args()
    steps = prepare(wanted)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(wanted.rounds + 1):
        for name, step in steps.items():
            started = time.process_time()
            step(number)
            seconds[name] += [time.process_time() - started] * (number > 0)  # the first round warms up
    tokens = 2 * wanted.pairs * wanted.length
    found = {
        name: {
            "cpu_us_a_token": 1e6 * statistics.median(own) / tokens,
            "over_sft": statistics.median(x / s for x, s in zip(own, seconds["sft"], strict=True)),
        }
        for name, own in seconds.items()
    }
    print(json.dumps({"settings": vars(wanted), "machine": description(), "methods": found}, indent=1))


def prepare(wanted: argparse.Namespace) -> dict[str, Callable[[int], Any]]:
    """A step of SFT and of each method, on the same pairs."""
    engine, tokenizer = LocalEngine(), ByteTokenizer()
    model = ModelConfig(name=wanted.model, lora=None if wanted.full else AdapterConfig(rank=16))
    context = Context(engine, tokenizer, StageFolder(Path(tempfile.mkdtemp())), model, 0)
    rng, half = np.random.default_rng(0), wanted.length // 2
    answers = [TokenisedReply(rng.integers(3, 250, wanted.length), half, -5.0 * half) for _ in range(2 * wanted.pairs)]
    pairs = [AnswerPair((), *sides, 1.0) for sides in zip(answers[0::2], answers[1::2], strict=True)]
    policy, data = engine.create(ModelSpec("sft", model)), token_mean([answer_datum(answer) for answer in answers])

    def sft(_: int) -> None:
        engine.forward_backward(policy, data, [CROSS_ENTROPY])
        engine.optim_step(policy, AdamStep(1e-5, 1e-5))

    steps: dict[str, Callable[[int], Any]] = {"sft": sft}
    for method in wanted.methods:
        config = DirectConfig(method=method, batch_size=wanted.pairs)
        training = PairTraining(context, config, engine.create(ModelSpec(method, model)), wanted.rounds + 1)
        steps[method] = lambda number, training=training: training.step(number, pairs, Baseline())
    return steps


if __name__ == "__main__":
    main()
