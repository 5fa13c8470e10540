"""What is compared: for each job the workers, their settings, and the batches that all of them get."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from thumbs.data.tokenizers import Tokenizer
from thumbs.records import Message

GROUP_SIZE = 8
MAX_LENGTH, PROMPT_LENGTH, NEW_TOKENS, DECODE_PROMPT = 512, 256, 64, 64
"""Tokens: of a row, of a prompt that is continued, of each reply, of a prompt in the comparison of decoding."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Worker:
    """One of those compared: an environment, the script that runs in it, and settings that differ from the job's.

    choices: what may make it faster, one list of settings per choice, in the order in which they are tried.
    """

    name: str
    environment: str
    script: str
    settings: dict[str, Any] = field(default_factory=dict)
    choices: tuple[tuple[dict[str, Any], ...], ...] = ()


@dataclass(frozen=True)
class Job:
    """`cases` name the batch of each turn; those whose name is "" warm up. amount: units of work in a batch.
    on_request: it runs only when `--only` names it."""

    name: str
    unit: str
    workers: tuple[Worker, ...]
    settings: dict[str, Any]
    batches: list[list[Row]]
    cases: list[str]
    amount: Callable[[list[Row]], float]
    on_request: bool = False


@dataclass(frozen=True)
class Corpus:
    """Tokenised pairs of prompt, chosen and rejected, in a fixed random order."""

    rows: list[Row]

    @staticmethod
    def read(path: Path, tokenizer: Tokenizer, seed: int = 0) -> Corpus:
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines():
            pair = json.loads(line)
            messages = [Message(m["role"], m["content"]) for m in pair["prompt"]]
            prompt = tokenizer.render_prompt(messages)
            sides = {side: [*tokenizer.encode(pair[side]), tokenizer.eos_id] for side in ("chosen", "rejected")}
            if len(prompt) + max(map(len, sides.values())) <= MAX_LENGTH:
                rows.append({"prompt": prompt, "text": tokenizer.decode(prompt, skip_special=False)} | sides)
        np.random.default_rng(seed).shuffle(rows)
        return Corpus(rows)

    def pairs(self, size: int, count: int) -> list[list[Row]]:
        """`count` batches of `size` pairs."""
        return _batches(({k: r[k] for k in ("prompt", "chosen", "rejected")} for r in self.rows), size, count)

    def conversations(self, size: int, count: int) -> list[list[Row]]:
        """Batches of prompt and chosen reply; mask: 1 on the reply's tokens."""
        rows = (
            {"ids": r["prompt"] + r["chosen"], "mask": [0] * len(r["prompt"]) + [1] * len(r["chosen"])}
            for r in self.rows
        )
        return _batches(rows, size, count)

    def prompts(self, size: int, count: int) -> list[list[Row]]:
        """Batches of prompts that can be continued."""
        rows = ({"ids": r["prompt"], "text": r["text"]} for r in self.rows if len(r["prompt"]) <= PROMPT_LENGTH)
        return _batches(rows, size, count)

    def equal_prompts(self, size: int, count: int) -> list[list[Row]]:
        """Batches of prompts of DECODE_PROMPT tokens each: their ends, so that nobody pays for padding."""
        rows = ({"ids": r["prompt"][-DECODE_PROMPT:]} for r in self.rows if len(r["prompt"]) >= DECODE_PROMPT)
        return _batches(rows, size, count)


def _batches(rows: Iterator[Row], size: int, count: int) -> list[list[Row]]:
    found = [[row for _, row in zip(range(size), rows, strict=False)] for _ in range(count)]
    if len(found[-1]) < size:
        raise SystemExit(f"the data has too few rows for {count} batches of {size}; pass a larger file with --data")
    return found


KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_MMAP_THRESHOLD_": str(2**30)}
"""What thumbs tells glibc for itself (engine/memory.py)."""


def memory() -> tuple[dict[str, Any], ...]:
    """Allocators: the C library's as it is and as thumbs sets it, and those of Debian's packages that are installed."""
    found = [{}, {"env": KEPT_MEMORY}]
    for name in ("libtcmalloc_minimal.so.4", "libjemalloc.so.2"):
        found += [{"env": {"LD_PRELOAD": str(path)}} for path in sorted(Path("/usr/lib").glob(f"*/{name}"))[:1]]
    return tuple(found)


def rows_per_device(batch: int) -> tuple[dict[str, Any], ...]:
    """All ways to cut a batch of an optimizer step in halves, whole first."""
    return tuple({"rows_per_device": batch >> cut} for cut in range(batch.bit_length()) if batch % (1 << cut) == 0)


def formats(dtype: str) -> tuple[dict[str, Any], ...]:
    """Weights in the comparison's number format, float32 weights with bfloat16 products, float32 alone. Without
    products of bfloat16 there is nothing to choose: they are emulated at a tenth of the speed (docs/log.md)."""
    if dtype == "float32":
        return ()
    return ({"dtype": dtype}, {"dtype": "float32", "autocast": True}, {"dtype": "float32"})


OURS = Worker("thumbs", "thumbs", "ours.py")


def trl(batch: int, dtype: str, **settings: Any) -> Worker:
    """TRL's trainer, with what is looked for."""
    return Worker("trl", "trl", "trl_train.py", settings, (rows_per_device(batch), memory(), formats(dtype)))


def decoders(dtype: str, threads: int) -> tuple[Worker, ...]:
    """What decodes, with what is looked for."""
    compiled = {"cache": "static", "compile": True}
    fewer = ({}, {"threads": max(threads // 2, 1)})
    return (
        OURS,
        Worker("hf", "transformers", "hf_generate.py", {}, (({}, {"cache": "static"}, compiled), formats(dtype)[::2])),
        Worker("hf_continuous", "transformers", "hf_generate.py", {"kind": "continuous"}),
        Worker("vllm", "vllm", "vllm_generate.py", {}, (({}, {"env": {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}}),)),
        Worker(
            "llama_cpp",
            "llama_cpp",
            "llama_cpp_generate.py",
            {},
            (tuple({"weights": name} for name in ("bf16", "f16", "f32", "q8_0")), fewer),
        ),
    )


def jobs(corpus: Corpus, rounds: int, batch: int, sizes: Sequence[int], dtype: str, threads: int) -> Iterator[Job]:
    """Every comparison. rounds: measured turns of a worker, after one to warm up; batch: conversations, pairs or
    prompts a step; sizes: rows that decode together."""
    cases = ["", *["all"] * rounds]
    turns = len(cases)
    pairs, conversations = corpus.pairs(batch, turns), corpus.conversations(batch, turns)
    prompts = corpus.prompts(batch, turns)
    tokens = _tokens
    peer = trl(batch, dtype)
    for name, lora in (("sft", False), ("sft_lora", True)):
        yield Job(name, "tokens", (OURS, peer), {"kind": "sft", "lora": lora}, conversations, cases, tokens)
    packed = corpus.conversations(2 * batch, turns)
    yield Job(
        "sft_packed",
        "tokens",
        (OURS, trl(batch // 2, dtype, packing="wrapped")),
        {"kind": "sft", "lora": False},
        packed,
        cases,
        tokens,
    )
    for kind in ("reward", "dpo"):
        yield Job(kind, "pairs", (OURS, peer), {"kind": kind, "lora": False}, pairs, cases, len)
    ppo_peer = Worker("trl", "trl_ppo", "trl_ppo.py", {}, peer.choices)
    for name, lora in (("ppo", True), ("ppo_full", False)):
        settings = {"kind": "ppo", "lora": lora, "epochs": 4}
        yield Job(name, "samples", (OURS, ppo_peer), settings, prompts, cases, len)
    # Reward models begin with heads of their own, so the question whether PPO learns as much needs a reward that both
    # can compute; the rate is one at which sixty steps show something.
    learning = {"kind": "ppo", "lora": True, "epochs": 4, "odd_reward": True, "learning_rate": 1e-4}
    yield Job("ppo_odd", "samples", (OURS, ppo_peer), learning, prompts, cases, len, on_request=True)
    grouped = corpus.prompts(1, turns)
    for kind in ("grpo", "rloo"):
        settings = {"kind": kind, "lora": False}
        yield Job(kind, "samples", (OURS, trl(GROUP_SIZE, dtype)), settings, grouped, cases, lambda _: GROUP_SIZE)
    for size in sizes:
        yield Job(
            f"decode{size}",
            "tokens",
            decoders(dtype, threads),
            {"kind": "decode", "lora": False},
            corpus.equal_prompts(size, turns),
            cases,
            lambda batch: NEW_TOKENS * len(batch),
        )


def _tokens(batch: list[Row]) -> float:
    return sum(len(row["ids"]) for row in batch)
