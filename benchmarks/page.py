"""Writes the figures into docs/performance.md, between markers, and draws the plots: `python benchmarks/page.py`."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
IMAGES = HERE.parent / "docs" / "images"

TITLES = {
    "sft": "SFT, full",
    "sft_lora": "SFT, LoRA of rank 16",
    "sft_packed": "SFT, full, the peer packed",
    "reward": "reward model, full",
    "dpo": "DPO, full",
    "ppo": "PPO, LoRA, 4 epochs, 64 new tokens",
    "ppo_full": "PPO, full, 4 epochs, 64 new tokens",
    "ppo_odd": "PPO, LoRA, 4 epochs, 64 new tokens",
    "grpo": "GRPO, full, group of 8, 64 new tokens",
    "rloo": "RLOO, full, group of 8, 64 new tokens",
}

Result = dict[str, Any]


def title(job: str) -> str:
    """What a job is called on the page."""
    return TITLES.get(job) or f"decoding, {job.removeprefix('decode')} rows, 64 new tokens"


PROCESSORS = ("avx2", "avx512", "avx512bf16", "amx", "h200")
"""Names of the files of compare.py (`kind_of` in machine.py), narrow units first."""


def compared() -> dict[str, Result]:
    """The last run of compare.py on each kind of processor that had one."""
    files = {name: HERE / "results" / f"{name}.json" for name in PROCESSORS}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()}


def comparisons(results: dict[str, Result]) -> str:
    """The ratios over all kinds of processors, then the figures of each."""
    parts = [ranges(results), "![ratios](images/ratios.svg)"]
    return "\n\n".join(parts + [f"### On {name}\n\n{comparison(result)}" for name, result in results.items()])


def ranges(results: dict[str, Result]) -> str:
    """How many times as fast as each peer, on each kind of processor."""
    keys = dict.fromkeys(key for result in results.values() for key in result["ratios"] if "_per_s_vs_" in key)
    lines = [f"| job | peer | {' | '.join(results)} |", "|---" * (len(results) + 2) + "|"]
    for key in keys:
        job, peer = re.sub(r"_(tokens|pairs|samples)_per_s_vs_", " ", key).split()
        found = (result["ratios"].get(key) for result in results.values())
        lines.append(f"| {title(job)} | {peer} | " + " | ".join(f"{r:.2f}" if r else "" for r in found) + " |")
    return "\n".join(lines)


def setting(result: Result, job: str, peer: str) -> str:
    """What was chosen for a peer, in words."""
    chosen = result.get("settings", {}).get(job, {}).get(peer, {}).get("chosen", {})
    env = chosen.get("env", {})
    return ", ".join(f"{name} {value}" for name, value in (chosen | env).items() if name != "env")


def comparison(result: Result) -> str:
    """The figures of a run of compare.py."""
    m = result["machine"]
    lines = [
        f"{result['date']}, {m['processor']}, {m['threads']} threads, {', '.join(m['instructions'])}, {m['dtype']}: "
        f"`{result['command']}`.",
        "",
        "| job | peer | thumbs | peer's | thumbs over peer | GiB, thumbs and peer | the peer's setting |",
        "|---|---|---|---|---|---|---|",
    ]
    for job, found in result["figures"].items():
        ours = found["thumbs"]
        for peer, figures in found.items():
            if peer == "thumbs":
                continue
            if "error" in figures or "error" in ours:
                lines.append(f"| {title(job)} | {peer} | did not run: {one_line(figures, ours)} | | | | |")
                continue
            unit = ours["unit"].removesuffix("/s")
            ratio = result["ratios"][f"{job}_{unit}_per_s_vs_{peer}"]
            memory = f"{ours['peak_gib']:.1f}, {figures['peak_gib']:.1f}"
            rates = f"{rate(ours)} {ours['unit']} | {rate(figures)}"
            lines.append(f"| {title(job)} | {peer} | {rates} | {ratio:.2f} | {memory} | {setting(result, job, peer)} |")
    limits = result["limits"]
    reached = {key.removesuffix("_of_floor"): value for key, value in limits.items() if key.endswith("_of_floor")}
    lines += [
        "",
        f"Fractions of the floor in that run (products at {limits['gemm_gflop_per_s']:.0f} GFLOP/s, reading at "
        f"{limits['read_gb_per_s']:.0f} GB/s): " + ", ".join(f"{title(k)} {v:.2f}" for k, v in reached.items()) + ".",
    ]
    lines += ["", "Versions: " + "; ".join(versions(result)) + "."]
    return wrapped(lines)


def wrapped(lines: Sequence[str]) -> str:
    """Lines of Markdown with paragraphs wrapped as in the other pages; tables stay as they are."""
    fill = partial(textwrap.fill, width=100, break_long_words=False, break_on_hyphens=False)
    return "\n".join(line if line.startswith("|") else fill(line) for line in lines)


def rate(figures: Result) -> str:
    """Median and spread."""
    median, low, high = (f"{figures[key]:.4g}" for key in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def one_line(*both: Result) -> str:
    """Why a worker did not run."""
    return next(figures["error"].splitlines()[0] for figures in both if "error" in figures).replace("|", "/")[:80]


def versions(result: Result) -> list[str]:
    """Each set of versions once, with those who ran with it."""
    found: dict[str, None] = {}
    for workers in result["figures"].values():
        for figures in workers.values():
            if "versions" in figures:
                found[", ".join(f"{name} {number}" for name, number in figures["versions"].items())] = None
    return list(found)


def quality(results: Sequence[Result]) -> str:
    """What was learned in runs of compare.py with many turns."""
    lines = ["| job | peer | steps | dtype | thumbs and the peer | command |", "|---|---|---|---|---|---|"]
    for result in results:
        dtype, command = result["machine"]["dtype"], f"`{result['command']}`"
        for job, peers in result["quality"].items():
            for peer, found in peers.items():
                told = f"losses differ by {found['loss_difference']:.1e} at most" if "loss_difference" in found else ""
                for name in found.keys() - {"turns", "loss_difference"}:
                    both = " and ".join(f"{mean:.3f} ± {spread:.3f}" for mean, spread in found[name].values())
                    told = f"{name} {both}"
                lines.append(f"| {title(job)} | {peer} | {found['turns']} | {dtype} | {told} | {command} |")
    return "\n".join(lines)


def growth(result: Result) -> str:
    """The tables of a run of growth.py."""
    m = result["machine"]
    lines = [
        f"{result['date']}, {m['processor']}, {m['threads']} threads: `{result['command']}`. Steps of LoRA; "
        "the group's steps sample first. `seconds / unit` is what one unit of the axis costs over the point before.",
    ]
    for axis in result["axes"].values():
        lines += ["", f"| {axis['title']} | seconds | seconds / unit | peak GiB |", "|---|---|---|---|"]
        before: Result | None = None
        for point in axis["points"]:
            slope = ""
            if before:
                slope = f"{(point['seconds'] - before['seconds']) / (point['value'] - before['value']):.4f}"
            memory = point["peak_bytes"] / 2**30
            lines.append(f"| {point['value']} | {point['seconds']:.2f} | {slope} | {memory:.2f} |")
            before = point
    return wrapped([*lines, "", "![growth](images/growth.svg)"])


def draw_ratios(results: dict[str, Result], path: Path) -> None:
    """Dots: how many times as fast as each peer, one colour per kind of processor."""
    keys = list(dict.fromkeys(key for result in results.values() for key in result["ratios"] if "_per_s_vs_" in key))
    figure = Figure(figsize=(8, 0.35 * len(keys) + 1), layout="constrained")
    axis = figure.subplots()
    names = {key: re.sub(r"_(tokens|pairs|samples)_per_s_vs_", " against ", key) for key in keys[::-1]}
    for result, name in zip(results.values(), results, strict=True):
        found = {key: result["ratios"][key] for key in names if key in result["ratios"]}
        axis.plot(list(found.values()), [list(names).index(key) for key in found], "o", label=name)
    axis.set_yticks(range(len(names)), list(names.values()))
    axis.axvline(1, color="black", linewidth=1)
    axis.grid(axis="y", linewidth=0.3)
    axis.legend()
    axis.set(xlabel="times as fast as the peer in its best setting (1: equal)", xlim=(0, None))
    save(figure, path)


def draw_growth(axes: dict[str, Any], path: Path) -> None:
    """Seconds (solid) and memory (dashed) of a step along each axis."""
    figure = Figure(figsize=(4 * len(axes), 3), layout="constrained")
    panels: Sequence[Any] = figure.subplots(1, len(axes), squeeze=False)[0]
    for panel, found in zip(panels, axes.values(), strict=True):
        values = [point["value"] for point in found["points"]]
        panel.plot(values, [point["seconds"] for point in found["points"]], "o-", color="#4477aa")
        panel.set(xlabel=found["title"], ylabel="s per step", ylim=(0, None))
        memory = panel.twinx()
        memory.plot(values, [point["peak_bytes"] / 2**30 for point in found["points"]], "s--", color="#ee6677")
        memory.set(ylabel="peak GiB (dashed)", ylim=(0, None))
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "thumbs"}):  # the same figures give the same file
        figure.savefig(path, metadata={"Date": None})


def put(page: str, name: str, text: str) -> str:
    """The page with `text` between the markers of `name`."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, rest = page.split(start)
    return before + start + "\n\n" + text + "\n\n" + end + rest.split(end)[1]


def learned() -> list[Result]:
    """The runs of compare.py with many turns."""
    files = sorted((HERE / "results" / "quality").glob("*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    results = compared()
    grown = json.loads((HERE / "results" / "growth.json").read_text(encoding="utf-8"))
    page = put(put(page, "comparison", comparisons(results)), "growth", growth(grown))
    page = put(page, "quality", quality(learned()))
    PAGE.write_text(page, encoding="utf-8")
    draw_ratios(results, IMAGES / "ratios.svg")
    draw_growth(grown["axes"], IMAGES / "growth.svg")


if __name__ == "__main__":
    main()
