"""How far the logprobs of vLLM are from the trainer's, on tokens that vLLM drew.

.venv/bin/python benchmarks/agree.py [--model byte-tiny] [--python .sdks/vllm/bin/python] [--out FILE]

In float32 and bfloat16, with an adapter that has learned something and with whole weights that have. The distance in
nats per token: mean, 95th percentile, largest; and the share of tokens whose ratio of trainer to sampler lies outside
0.9 to 1.1. In float32 no token may be farther than 1e-4 nats. It needs an environment with vLLM:
`python tests/service/conformance.py build vllm`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from thumbs.config.engine import EngineConfig, RolloutConfig
from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.engine import open_engine
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.models.trunk import open_tokenizer
from thumbs.records import Example, Rollout
from thumbs.rollout.rounds import sampling_params
from thumbs.rollout.sampler import SampleRequest
from thumbs.stages.ppo_report import sampler_metrics

ROOT = Path(__file__).resolve().parents[1]
CASES = [(dtype, adapter) for dtype in ("float32", "bfloat16") for adapter in (True, False)]
LIMIT = 1e-4
"""Nats, in float32."""
TEMPERATURE = 0.8


def measure(name: str, dtype: str, adapter: bool, python: str, count: int, length: int) -> dict[str, float]:
    """The distances for one dtype, with an adapter or with whole weights."""
    model = ModelConfig(name=name, dtype=dtype, lora=AdapterConfig(rank=8, alpha=16.0) if adapter else None)
    tokenizer = open_tokenizer(model)
    engine = open_engine(EngineConfig(), tokenizer.decode, RolloutConfig(kind="vllm", python=python))
    try:
        handle = engine.create(ModelSpec("policy", model))
        text = tokenizer.encode("The quick brown fox jumps over the lazy dog. " * 4)
        data = [Example.next_token(text, weights=np.full(len(text) - 1, 1 / (len(text) - 1)))]
        for _ in range(4):  # a fresh adapter would change nothing
            engine.forward_backward(handle, data, [CROSS_ENTROPY])
            engine.optim_step(handle, AdamStep(1e-3, 1e-3))
        prompts = [text[: 4 + i % 16] for i in range(count)]
        params = sampling_params(SamplingConfig(max_new_tokens=length, temperature=TEMPERATURE), tokenizer)
        futures = engine.snapshot(handle).submit([SampleRequest(p, params, [i]) for i, p in enumerate(prompts)])
        rollouts = []
        for prompt, future in zip(prompts, futures, strict=True):
            (sample,) = future.result().samples
            before = np.zeros(len(prompt) - 1, dtype=np.float32)
            rollouts.append(
                Rollout(
                    prompt_id="",
                    tokens=np.r_[prompt, sample.tokens],
                    prompt_length=len(prompt),
                    mask=np.r_[before, np.ones(len(sample.tokens), dtype=np.float32)],
                    logprobs=np.r_[before, sample.logprobs],
                    stop_reason=sample.stop_reason,
                    policy_version=sample.policy_version,
                    text="",
                )
            )
        asked = [Example.next_token(r.tokens, weights=r.mask) for r in rollouts]
        trained = [output.logprobs for output in engine.forward(handle, asked, temperature=TEMPERATURE)]
    finally:
        engine.stop()
    padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(np.asarray(x)) for x in trained], batch_first=True)
    gaps = [np.abs(x - r.logprobs)[r.mask > 0] for x, r in zip(trained, rollouts, strict=True)]
    found = sampler_metrics("agree", rollouts, padded)
    return {
        "tokens": float(sum(map(len, gaps))),
        "mean": found["agree/sampler_gap"],
        "p95": found["agree/sampler_gap_p95"],
        "max": float(max(gap.max() for gap in gaps)),
        "outside": found["agree/sampler_off"],
    }


def main() -> None:
    """Prints a row per case; ends with 1 if float32 is farther than LIMIT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="byte-tiny")
    parser.add_argument("--python", default=str(ROOT / ".sdks" / "vllm" / "bin" / "python"))
    parser.add_argument("--count", type=int, default=64, help="replies")
    parser.add_argument("--length", type=int, default=48, help="tokens of a reply at most")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if not Path(asked.python).exists():
        raise SystemExit(f"no interpreter {asked.python}; run `python tests/service/conformance.py build vllm`")
    results, far = {}, []
    print(f"{'dtype':<10}{'adapter':<9}{'tokens':>7}{'mean':>10}{'p95':>10}{'max':>10}{'outside':>9}")
    for dtype, adapter in CASES:
        found = measure(asked.model, dtype, adapter, asked.python, asked.count, asked.length)
        results[f"{dtype}, {'adapter' if adapter else 'whole weights'}"] = found
        shown = "".join(f"{found[name]:>10.2e}" for name in ("mean", "p95", "max"))
        print(f"{dtype:<10}{'on' if adapter else 'off':<9}{found['tokens']:>7.0f}{shown}{found['outside']:>9.1%}")
        if dtype == "float32" and found["max"] > LIMIT:
            far.append(f"{found['max']:.2e} nats with the adapter {'on' if adapter else 'off'}")
    if asked.out is not None:
        asked.out.write_text(json.dumps({"model": asked.model, "cases": results}, indent=2) + "\n", encoding="utf-8")
    if far:
        raise SystemExit(f"float32 is farther apart than {LIMIT} nats: {', '.join(far)}")


if __name__ == "__main__":
    main()
