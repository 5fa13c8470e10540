"""thumbs and its peers side by side: `make bench`, or `python benchmarks/compare.py --help`.

Each job first looks for the setting with which each peer is fastest. It then starts one process for each of those
compared, in environments of their own. They get the same batches and take turns, so that a machine that is slower for a
while is slower for all; the first turn warms up. Ratios are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from best_setting import best_setting
from jobs import DECODE_PROMPT, GROUP_SIZE, MAX_LENGTH, NEW_TOKENS, Corpus, Job, jobs
from machine import decoding_floor, description, kind_of, ppo_floor, rates, training_floor
from process import FAILURES, Figures, Process

from thumbs.config.model import ModelConfig
from thumbs.data.tokenizers import load_tokenizer
from thumbs.models.catalog import resolve
from thumbs.models.decoder_config import read_config
from thumbs.models.precision import compute_dtype

HERE = Path(__file__).parent
DATA = HERE.parent.parent / "shared" / "data" / "hh-rlhf-harmless" / "train.jsonl"

QUICK = ["sft", "sft_lora", "reward", "dpo", "ppo", "grpo", "decode16"]

SAME_START = ("sft", "dpo")
"""Jobs in which all begin with the same weights, nothing drawn: losses on the same batches must agree at every step."""

LEARNED, ENOUGH = ("accuracy", "score"), 20
"""Figures that tell what has been learned, and turns of which their means tell anything."""

CPU_ONLY = ("vllm", "llama_cpp")
"""Peers that are built for the CPU, and stay away from a comparison on a GPU."""

Settings = dict[str, dict[str, Figures]]
"""By job and peer: what best_setting found."""


def start(
    job: Job, common: dict[str, Any], settings: dict[str, Figures], running: dict[str, Process]
) -> dict[str, Figures]:
    """Adds a process for each worker of a job; returns how long each took to be ready, or the error of one."""
    found: dict[str, Figures] = {}
    for worker in job.workers:
        if common["device"] == "cuda" and worker.name in CPU_ONLY:
            continue
        try:
            started = time.monotonic()
            chosen = settings.get(worker.name, {}).get("chosen", {})
            running[worker.name] = Process(job, worker, common, chosen)
            found[worker.name] = {"turns": [], "start_s": time.monotonic() - started}
        except FAILURES as error:
            found[worker.name] = {"error": str(error)}
            print(f"  {error}", file=sys.stderr)
    return found


def measure(job: Job, common: dict[str, Any], settings: dict[str, Figures]) -> dict[str, Figures]:
    """Figures of each worker of a job, by name; of one that could not run, its error. settings: those of the peers."""
    running: dict[str, Process] = {}
    try:
        found = start(job, common, settings, running)
        for number, case in enumerate(job.cases):
            names = list(running) if number % 2 else list(reversed(running))
            for name in names:
                try:
                    report = running[name].turn(number)
                except FAILURES as error:
                    found[name] = {"error": str(error)}
                    running.pop(name).stop()
                    continue
                if case:
                    amount = job.amount(job.batches[number])
                    if job.unit == "tokens":  # a packed or padded batch of a peer may hold more or fewer than ours
                        amount = report.get("tokens", amount)
                    found[name]["turns"].append(report | {"per_s": amount / report["seconds"]})
        for name, process in running.items():
            found[name] |= {"versions": process.versions} | summary(found[name]["turns"], job.unit)
        found["thumbs"]["loss_share"] = loss_share(job)
        if job.settings["kind"] == "ppo":
            found["thumbs"]["step"] = ppo_step(job, common)
    finally:
        for process in running.values():
            process.stop()
    return found


def loss_share(job: Job) -> float:
    """Fraction of the tokens of a job's conversations that carry a loss."""
    masks = [row["mask"] for batch in job.batches for row in batch if "mask" in row]
    return sum(map(sum, masks)) / max(sum(map(len, masks)), 1)


def ppo_step(job: Job, common: dict[str, Any]) -> dict[str, float]:
    """What a step of PPO works on: rows, mean tokens of a prompt, new tokens, size of a number in bytes, epochs."""
    lengths = [len(row["ids"]) for batch in job.batches for row in batch]
    return {
        "rows": common["batch_size"],
        "prompt": statistics.fmean(lengths),
        "new": common["new_tokens"],
        "size": getattr(torch, common["dtype"]).itemsize,
        "epochs": job.settings["epochs"],
    }


def summary(turns: list[Figures], unit: str) -> Figures:
    """Median, smallest and largest rate, and the peak memory."""
    values = [turn["per_s"] for turn in turns]
    return {
        "unit": f"{unit}/s",
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "peak_gib": max(turn["peak_bytes"] for turn in turns) / 2**30,
    }


def ratios(job: Job, found: dict[str, Figures]) -> dict[str, float]:
    """Our rate over each peer's: the median over the turns, in which both had the same batch one after the other."""
    ours, result = found["thumbs"], {}
    for peer, figures in found.items():
        if peer == "thumbs" or "error" in figures or "error" in ours:
            continue
        each = [a["per_s"] / b["per_s"] for a, b in zip(ours["turns"], figures["turns"], strict=True)]
        result[f"{job.name}_{job.unit}_per_s_vs_{peer}"] = statistics.median(each)
        if job.name.startswith("ppo"):
            result[f"{job.name}_peak_memory_vs_{peer}"] = ours["peak_gib"] / figures["peak_gib"]
    return result


def quality(job: Job, found: dict[str, Figures]) -> dict[str, Figures]:
    """What was learned, compared with each peer: the largest relative difference of the losses, where all begin with
    the same weights; over the second half of the turns the share of pairs ranked right before they were trained on, or
    the reward, each as mean and standard error.
    """
    result: dict[str, Figures] = {}
    for peer, figures in found.items():
        if peer == "thumbs" or "error" in figures or "error" in found["thumbs"]:
            continue
        turns = {"thumbs": found["thumbs"]["turns"], peer: figures["turns"]}
        if job.name in SAME_START:
            pairs = [(a["loss"], b["loss"]) for a, b in zip(*turns.values(), strict=True)]
            result[peer] = {"turns": len(pairs), "loss_difference": max(abs(a - b) / b for a, b in pairs)}
        for name in LEARNED:
            if len(figures["turns"]) >= ENOUGH and all(name in turn for each in turns.values() for turn in each):
                late = {who: [turn[name] for turn in each[len(each) // 2 :]] for who, each in turns.items()}
                means = {
                    who: [statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5]
                    for who, values in late.items()
                }
                result[peer] = {"turns": len(figures["turns"]), name: means}
    return result


def main() -> None:
    options = parse()
    common = {
        "model": str(resolve("smollm2-135m")),
        "pad_token": "<|endoftext|>",
        "device": options.device,
        "dtype": options.dtype,
        "threads": options.threads,
        "batch_size": options.batch,
        "packed_batch_size": options.batch // 2,
        "max_length": MAX_LENGTH,
        "new_tokens": NEW_TOKENS,
        "group_size": GROUP_SIZE,
        "learning_rate": 1e-5,
        "beta": 0.1,
        "kl_coef": 0.05,
        "packing": "",
        "odd_reward": False,
    }
    torch.set_num_threads(options.threads)
    corpus = Corpus.read(options.data, load_tokenizer(Path(common["model"])))
    result: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python", "benchmarks/compare.py", *sys.argv[1:]]),
        "machine": description() | {"dtype": options.dtype},
        "settings": known_settings(options),
        "figures": {},
        "ratios": {},
        "quality": {},
        "limits": {},
    }
    dtype = getattr(torch, options.dtype)
    speeds = [rates(dtype, options.device)]
    sizes = [size for size in options.sizes if not options.only or f"decode{size}" in options.only]
    for job in jobs(corpus, options.rounds, options.batch, sizes, options.dtype, options.threads):
        if job.name not in options.only and (options.only or job.on_request):
            continue
        print(job.name, file=sys.stderr, flush=True)
        if options.sweep:
            result["settings"][job.name] = {
                worker.name: best_setting(job, worker, common)
                for worker in job.workers
                if worker.choices and not (common["device"] == "cuda" and worker.name in CPU_ONLY)
            }
        found = measure(job, common, result["settings"].get(job.name, {}))
        result["figures"][job.name] = found
        result["ratios"] |= ratios(job, found)
        if learned := quality(job, found):
            result["quality"][job.name] = learned
        speeds.append(rates(dtype, options.device))
        result["limits"] = limits(result["figures"], speeds, common, dtype)
        show(job, found, result["ratios"])
        write(options.out, result)
    print(json.dumps(result["limits"], indent=1))
    print(f"written to {options.out}")


def known_settings(options: argparse.Namespace) -> Settings:
    """Of an earlier comparison on the same kind of processor, if this one does not look for them."""
    if options.sweep or not options.earlier.exists():
        return {}
    return json.loads(options.earlier.read_text(encoding="utf-8")).get("settings", {})


def limits(
    figures: dict[str, Any], speeds: list[dict[str, float]], common: dict[str, Any], dtype: torch.dtype
) -> Figures:
    """What the machine did in this run, and which fraction of the floors that follow from it we reached."""
    measured = {key: statistics.median(speed[key] for speed in speeds) for key in speeds[0]}
    config = read_config(json.loads((Path(common["model"]) / "config.json").read_text(encoding="utf-8")))
    floors: dict[str, float] = {}
    for name, ours in ((name, found["thumbs"]) for name, found in figures.items() if "error" not in found["thumbs"]):
        if name.startswith("sft"):
            floors[name] = training_floor(config, measured, lora="lora" in name, loss_share=ours["loss_share"])
        elif name.startswith("ppo"):
            floors[name] = ppo_floor(config, measured, lora=name != "ppo_full", **ours["step"])
        elif name.startswith("decode"):
            rows = int(name.removeprefix("decode"))
            floors[name] = decoding_floor(config, measured, rows, DECODE_PROMPT, NEW_TOKENS, dtype.itemsize)
    fractions = {f"{name}_of_floor": figures[name]["thumbs"]["median"] / floor for name, floor in floors.items()}
    return {"gemm_gflop_per_s": measured["flops"] / 1e9, "read_gb_per_s": measured["bandwidth"] / 1e9} | fractions


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Runs thumbs and its peers side by side and writes what it measured.")
    parser.add_argument("--only", nargs="+", default=[], help="names of jobs, such as sft ppo decode64; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="measured turns of each worker, after one to warm up")
    parser.add_argument("--batch", type=int, default=8, help="conversations, pairs or prompts a step")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 16, 64, 128], help="rows that decode together")
    parser.add_argument("--quick", action="store_true", help=f"one round, batches of 2: {' '.join(QUICK)}")
    parser.add_argument("--dtype", default=str(compute_dtype(ModelConfig())).removeprefix("torch."))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data", type=Path, default=DATA, help="JSONL with prompt (messages), chosen and rejected")
    parser.add_argument(
        "--sweep",
        action=argparse.BooleanOptionalAction,
        help="look for each peer's fastest setting first (so it is without --quick); --no-sweep takes the settings "
        "that an earlier run found on such a processor",
    )
    parser.add_argument(
        "--out", type=Path, help="default: benchmarks/results/PROCESSOR.json; --quick: .logs/quick.json"
    )
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device")
    options.earlier = HERE / "results" / f"{kind_of(options.device, options.dtype)}.json"
    options.sweep = not options.quick if options.sweep is None else options.sweep
    options.out = options.out or (HERE / ".logs" / "quick.json" if options.quick else options.earlier)
    if options.quick:
        options.rounds, options.batch, options.sizes, options.only = 1, 2, [16], options.only or QUICK
    if not options.data.exists():
        parser.error(f"{options.data} is missing; pass --data FILE with prompt (messages), chosen and rejected")
    return options


def show(job: Job, found: dict[str, Figures], compared: dict[str, float]) -> None:
    """One line a worker."""
    for name, figures in found.items():
        if "error" in figures:
            print(f"  {name:10} {figures['error']}")
            continue
        ratio = compared.get(f"{job.name}_{job.unit}_per_s_vs_{name}")
        spread = f"{figures['median']:9.2f} {figures['unit']:10} ({figures['low']:.2f} to {figures['high']:.2f})"
        against = "" if ratio is None else f"   thumbs is {ratio:.2f} times as fast"
        print(f"  {name:10} {spread}  {figures['peak_gib']:.1f} GiB{against}", flush=True)


def write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    main()
