"""Compares what `thumbs plan --nodes` would say with published runs of other systems. Prints rows of a Markdown table.

python benchmarks/published.py
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from thumbs.pipeline.cluster_plan import DEVICES, GIB, Cluster, ModelShape, rank_bytes, sample_time, train_time

LLAMA_8B = ModelShape(8_030_261_248, 525_336_576, 32, 4096, 14336, 4096, 1024, 128_256)
MPT_7B = ModelShape(6_658_859_008, 0, 32, 4096, 16384, 4096, 4096, 50_432)
MPT_30B = ModelShape(29_975_214_080, 0, 48, 7168, 28672, 7168, 7168, 50_432)
MPT_70B = ModelShape(64_862_437_376, 0, 80, 8192, 32768, 8192, 8192, 50_432)


@dataclass(frozen=True)
class Published:
    """A run of full fine-tuning or pretraining with sharded weights: tokens per second and GPU as its source says.

    recomputed: forward passes that activation checkpointing adds.
    """

    source: str
    run: str
    shape: ModelShape
    gpu: str
    gpus: int
    tokens: int
    length: int
    recomputed: float
    rate: float

    def planned(self) -> float:
        """Tokens per second and GPU by the plan."""
        cluster = Cluster(-(-self.gpus // 8), min(self.gpus, 8), DEVICES[self.gpu])
        time = train_time(
            self.shape, cluster, self.gpus, self.gpus, trained=self.tokens * self.gpus, length=self.length,
            tokens=self.tokens, recomputed=self.recomputed,
        )  # fmt: skip
        return self.tokens / time.seconds


FOUNDRY = "llm-foundry, scripts/train/benchmarking"
TITAN = "torchtitan, benchmarks/llama3_h100_202412"
RUNS = (
    Published(FOUNDRY, "MPT-7B", MPT_7B, "h100", 8, 6 * 2048, 2048, 0.0, 10_643),
    Published(FOUNDRY, "MPT-30B, checkpointing", MPT_30B, "h100", 32, 14 * 2048, 2048, 1.0, 2308),
    Published(FOUNDRY, "MPT-70B, checkpointing", MPT_70B, "h100", 64, 8 * 2048, 2048, 1.0, 1039),
    Published(FOUNDRY, "MPT-7B", MPT_7B, "a100", 8, 6 * 2048, 2048, 0.0, 4641),
    Published(FOUNDRY, "MPT-70B, checkpointing", MPT_70B, "a100", 64, 8 * 2048, 2048, 1.0, 410),
    Published(TITAN, "Llama 3.1 8B, compiled", LLAMA_8B, "h100", 8, 2 * 8192, 8192, 0.3, 6667),
    Published(TITAN, "Llama 3.1 8B, compiled", LLAMA_8B, "h100", 128, 2 * 8192, 8192, 0.3, 6514),
)
MOVED_GIB = 82.4 - 67.0
"""What each GPU holds less in torchtitan's eager run on 128 GPUs than on 8: only what is sharded can differ."""
DECODED_MS = {"h100": 6.48, "a100": 1000 / 75}
"""Milliseconds per token of Llama 3.1 8B in vLLM, one sequence, bfloat16 or float16."""
A100_40 = replace(DEVICES["a100"], memory=40 * GIB, reads=1.555e12)


def moved_gib() -> float:
    """The same difference by the plan: weights, gradients and moments."""
    few, many = (rank_bytes(LLAMA_8B, ways) for ways in (8, 128))
    return sum(few[name] - many[name] for name in ("weights", "gradients", "moments")) / GIB


def decoded_ms(gpu: str) -> float:
    """Milliseconds per token by the plan."""
    device = A100_40 if gpu == "a100" else DEVICES[gpu]
    time = sample_time(LLAMA_8B, Cluster(1, 1, device), 1, 1, sampled=1, rows=1, length=1024)
    return 1000 * max(time.memory, time.compute)


def main() -> None:
    for run in RUNS:
        planned = run.planned()
        print(
            f"| {run.source} | {run.run} | {run.gpus} {run.gpu} | {run.rate:,.0f} | {planned:,.0f} | "
            f"{planned / run.rate - 1:+.0%} |"
        )
    print(f"bytes that 128 GPUs save over 8: {MOVED_GIB:.1f} GiB published, {moved_gib():.1f} planned")
    for gpu, published in DECODED_MS.items():
        print(f"decoding on {gpu}: {published:.2f} ms a token published, {decoded_ms(gpu):.2f} planned")


if __name__ == "__main__":
    main()
